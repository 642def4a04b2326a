"""Flink SQL in one JVM, into a topic; see FlinkQuery.java."""

import os
import shutil

from .base import Program, StreamsToTopic

PROGRAM = os.path.join(os.path.dirname(__file__), 'FlinkQuery.java')

# as in the configuration that Flink comes with
_JAVA = ['java', '-Xmx4g', '-XX:+UseG1GC', '-Duser.timezone=UTC',
         *(f'--add-opens=java.base/{package}=ALL-UNNAMED' for package in
           ('java.lang', 'java.net', 'java.io', 'java.nio', 'java.lang.reflect', 'java.text', 'java.time',
            'java.util', 'java.util.concurrent', 'java.util.concurrent.atomic', 'java.util.concurrent.locks',
            'sun.nio.ch'))]

# Where a topic ends, the end does not wait for the interval of the checkpoints.
_SETTINGS = """
SET 'execution.runtime-mode' = 'streaming';
SET 'restart-strategy.type' = 'none';
SET 'parallelism.default' = '2';
SET 'pipeline.object-reuse' = 'true';
SET 'state.backend.type' = 'hashmap';
SET 'execution.checkpointing.interval' = '10 s';
SET 'execution.checkpointing.dir' = 'file://{directory}';
SET 'execution.checkpointing.checkpoints-after-tasks-finish' = 'false';
SET 'table.local-time-zone' = 'UTC';
"""
# what the documentation recommends for aggregates without a window; it costs latency
_MINI_BATCH = """
SET 'table.exec.mini-batch.enabled' = 'true';
SET 'table.exec.mini-batch.allow-latency' = '2 s';
SET 'table.exec.mini-batch.size' = '50000';
"""
_SOURCE = """
CREATE TABLE clicks (
    ts TIMESTAMP_LTZ(3), user_id BIGINT, page STRING, purchase_amount DECIMAL(10, 2), country STRING,
    WATERMARK FOR ts AS ts - INTERVAL '10' MINUTE
) WITH ('connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{brokers}',
    'scan.startup.mode' = 'earliest-offset', {end}
    'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601');
"""
# A window in append mode is final, with Flink's window aggregates.  In update mode
# the group is a plain one, and each change of it goes to the sink.
_SINK = {
    'append': """
CREATE TABLE results ({columns}) WITH ('connector' = 'kafka', 'topic' = '{output}',
    'properties.bootstrap.servers' = '{brokers}', 'properties.compression.type' = 'lz4', 'format' = 'json');
""",
    'update': """
CREATE TABLE results ({columns}, PRIMARY KEY ({keys}) NOT ENFORCED) WITH ('connector' = 'upsert-kafka',
    'topic' = '{output}', 'properties.bootstrap.servers' = '{brokers}',
    'properties.compression.type' = 'lz4', 'key.format' = 'json', 'value.format' = 'json');
"""}
_TYPES = {'timestamptz': 'TIMESTAMP(3)', 'bigint': 'BIGINT', 'text': 'STRING', 'numeric': 'DECIMAL(38, 6)'}
_WINDOWS = {
    'clicks': "TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '5' MINUTE)",
    'country': "TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE)",
    'hop': "HOP(TABLE clicks, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '10' MINUTE)",
    'sessions': "SESSION(TABLE clicks PARTITION BY user_id, DESCRIPTOR(ts), INTERVAL '30' SECOND)",
}
_COLUMNS = {'started': 'window_start', 'ended': 'window_end', 'event_count': 'count(*)',
            'total_spend': 'sum(purchase_amount)', 'average': 'avg(purchase_amount)'}


class Flink(StreamsToTopic):
    name = 'flink'
    title = 'Flink'

    def _script(self, query, topic, output, continuous):
        """The statements of a query, in a file."""
        keys = [column.split()[0] for column in query.keys]
        group = ['window_start', *(key for key in keys[1:] if key != 'ended')]
        if query.mode == 'append':
            group.append('window_end')
        values = dict(
            topic=topic, output=output, brokers=self.place.brokers, directory=self.place.path('flink'),
            end='' if continuous else "'scan.bounded.mode' = 'latest-offset',",
            columns=', '.join(f'{name} {_TYPES[kind]}' for name, kind in
                              map(str.split, query.keys + query.values)),
            keys=', '.join(keys))
        insert = (f"INSERT INTO results SELECT {', '.join(_COLUMNS.get(c, c) for c in query.columns)} "
                  f"FROM TABLE({_WINDOWS[query.name.split('_')[0]]}) GROUP BY {', '.join(group)};\n")
        path = self.place.path(f'flink_{output}.sql')
        with open(path, 'w') as file:
            file.write(_SETTINGS.format(**values) + ('' if continuous else _MINI_BATCH) +
                       _SOURCE.format(**values) + _SINK[query.mode].format(**values) + insert)
        return path

    def _program(self, query, continuous):
        shutil.rmtree(self.place.path('flink'), ignore_errors=True)
        self.place.create_topic('output')
        return Program(self.place, [
            *_JAVA, '-cp', os.path.join(self.place.peers, 'flink', '*'), PROGRAM,
            self._script(query, 'warm', 'warm_output', False),
            self._script(query, query.topic, 'output', continuous), 'continuous' if continuous else 'bounded'])
