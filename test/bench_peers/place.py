"""Where contestants run: the PostgreSQL server and the Kafka that run has started,
and what all need to do there."""

import os
import time

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from queries import PARTITIONS, RESULT_BEFORE


class Place:
    def __init__(self):
        self.brokers = os.environ['BROKERS']
        self.peers = os.environ['PEERS']
        self.postmaster = int(os.environ['POSTMASTER'])
        self._work = os.environ['WORK']
        self._admin = AdminClient({'bootstrap.servers': self.brokers})
        self._connection = self.connect()

    def path(self, name):
        return os.path.join(self._work, name)

    # PostgreSQL

    def connect(self):
        return psycopg.connect(autocommit=True, options='-c client_min_messages=error -c TimeZone=UTC')

    def sql(self, statement, *values):
        return self._connection.execute(statement, values or None)

    def row(self, statement, *values):
        return self.sql(statement, *values).fetchone()

    def wal(self):
        return int(self.row("SELECT pg_current_wal_insert_lsn() - '0/0'")[0])

    def copy_in(self, table, chunks):
        with self._connection.cursor().copy(f'COPY {table} FROM STDIN') as copy:
            for chunk in chunks:
                copy.write(chunk)

    def create_result(self, query):
        self.sql(f"CREATE UNLOGGED TABLE result ({', '.join(query.keys + query.values)})")

    def differences(self, query):
        """Rows of the result that the batch query has not, and the other way round."""
        columns = ', '.join(query.columns)
        result = f"(SELECT {columns} FROM result WHERE started < '{RESULT_BEFORE}')"
        expected = f'(SELECT {columns} FROM expected.{query.name})'
        return self.row(f'SELECT (SELECT count(*) FROM ({result} EXCEPT ALL {expected}) AS more), '
                        f'(SELECT count(*) FROM ({expected} EXCEPT ALL {result}) AS fewer)')

    # Kafka

    def delete_topic(self, name):
        try:
            self._admin.delete_topics([name])[name].result()
        except KafkaException:
            pass

    def create_topic(self, name):
        """An empty topic; what has the name goes, which takes Kafka a moment."""
        self.delete_topic(name)
        deadline = time.monotonic() + 60
        while True:
            try:
                self._admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result()
                return
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _consumer(self, topic):
        consumer = Consumer({'bootstrap.servers': self.brokers, 'group.id': 'bench', 'enable.auto.commit': False,
                             'fetch.wait.max.ms': 5, 'enable.partition.eof': False})
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        return consumer

    def _messages(self, topic):
        """A topic as it is now."""
        consumer = self._consumer(topic)
        ends = [consumer.get_watermark_offsets(TopicPartition(topic, partition))[1]
                for partition in range(PARTITIONS)]
        left = sum(ends)
        while left:
            messages = consumer.consume(min(left, 10_000), 60)
            if not messages or any(message.error() for message in messages):
                raise RuntimeError(f'cannot read topic {topic}')
            left -= len(messages)
            yield messages
        consumer.close()

    def result_of_topic(self, query, topic):
        """The last value of each key, as table result; the topic goes."""
        self.sql('CREATE UNLOGGED TABLE output (position bigint, value jsonb)')
        self.copy_in('output', (
            ''.join(f"{message.offset()}\t{message.value().decode()}\n" for message in messages)
            for messages in self._messages(topic)))
        keys = [column.split()[0] for column in query.keys]
        columns = ', '.join(f"(value->>'{name}')::{kind} AS {name}" for name, kind in
                            map(str.split, query.keys + query.values))
        self.sql(f"CREATE UNLOGGED TABLE result AS SELECT DISTINCT ON ({', '.join(keys)}) * FROM "
                 f"(SELECT position, {columns} FROM output) AS rows ORDER BY {', '.join(keys)}, position DESC")
        self.sql('DROP TABLE output')
        self.delete_topic(topic)

    def probes_in_topic(self, topic, probes):
        """An iterator that gives, again and again, the probes that have come into a topic."""
        # more digits than other users have
        mark = b'"user_id":%d' % (probes.first // 100_000)
        consumer = self._consumer(topic)
        try:
            while True:
                found = []
                for message in consumer.consume(1000, 0.002):
                    value = None if message.error() else message.value()
                    at = value.find(mark) if value else -1
                    if at >= 0:
                        found.append(int(value[at + 10:at + 20]))
                yield found
        finally:
            consumer.close()
