"""The benchmark against peers: loads topics once, runs the contestants in turns,
compares each result with the batch query's, and reports.  A result that differs has
no figures, and the status is 1.  Started by run.

    QUERIES='clicks_10k_update hop'    default: all of queries.py
    CONTESTANTS='bare stream_agg'      default: all of contestants/
    RECORDS=n                          in each topic (default 1000000)
    ROUNDS=n                           default 3; figures are medians
    LATENCY_SECONDS=n                  of probes for the latency, in the end (default 30), 0 = none
    LATENCY_RATE=n                     records per second meanwhile (default 10000)
    PUBLISH=1                          results and plots go into doc/, too"""

import datetime
import glob
import os
import platform
import re
import subprocess
import sys
from importlib import metadata

import latency
import report
from contestants import CONTESTANTS
from place import Place
from queries import (COLUMNS, COUNTRIES, DISORDER_SECONDS, LAST_RECORD, PARTITIONS, QUERIES, SPAN_SECONDS,
                     TOPICS)

WARM_RECORDS = 200_000


def chosen(variable, known):
    names = os.environ.get(variable, '').split() or list(known)
    for name in names:
        if name not in known:
            sys.exit(f'{variable}: there is no {name}; there are {" ".join(known)}')
    return names


def number(variable, default):
    return int(os.environ.get(variable) or default)


def produce(place, topic, users, records):
    """Fills a topic and gives the name of a file with its lines."""
    tool = os.environ['KAFKA_TOOL']
    path = place.path('records')
    with open(path, 'w') as file:
        subprocess.run([tool, 'generate', '--records', str(records), '--users', str(users), '--seed', '1',
                        '--span', str(SPAN_SECONDS), '--disorder', str(DISORDER_SECONDS),
                        '--partitions', str(PARTITIONS), '--countries', str(COUNTRIES)], stdout=file, check=True)
    place.create_topic(topic)
    with open(path, 'a') as file:
        file.writelines(f'{partition}\t\t{LAST_RECORD}\n' for partition in range(PARTITIONS))
    with open(path) as file:
        subprocess.run([tool, 'produce', '--brokers', place.brokers, '--topic', topic, '--tab', '--check',
                        '--compression', 'lz4'], stdin=file, stdout=subprocess.DEVNULL, check=True)
    return path


def load_topics(place, queries, records):
    """The topics, and what the batch query says about each, as tables of schema expected."""
    place.sql('CREATE EXTENSION stream_agg')
    place.sql('CREATE SCHEMA expected')
    place.create_topic('warm_output')
    produce(place, 'warm', 10_000, min(records, WARM_RECORDS))
    for topic, users in TOPICS.items():
        asked = [query for query in queries if query.topic == topic]
        if not asked:
            continue
        path = produce(place, topic, users, records)
        place.sql('CREATE UNLOGGED TABLE lines (partition int, key text, value jsonb)')
        with open(path) as file:
            place.copy_in('lines', iter(lambda: file.read(1 << 20), ''))
        names = [column.split() for column in COLUMNS.split(', ')]
        place.sql('CREATE UNLOGGED TABLE records AS SELECT ' +
                  ', '.join(f"(value->>'{name}')::{kind} AS {name}" for name, kind in names) +
                  ' FROM lines WHERE key <> \'\'')
        for query in asked:
            place.sql(f'CREATE UNLOGGED TABLE expected.{query.name} AS ' + query.batch.format(records='records'))
        place.sql('DROP TABLE lines, records')
        os.unlink(path)
    place.sql('CHECKPOINT')


def run_query(place, contestant, query, records):
    """One run as a row of the results; without figures if its result is not the batch query's."""
    cost, wal = contestant.run(query)
    row = {'query': query.name, 'contestant': contestant.name, 'seconds': round(cost.seconds, 3),
           'records_per_second': round(records / cost.seconds),
           'cpu_s_per_million': round(cost.cpu_seconds * 1e6 / records, 3),
           'peak_mb': round(cost.peak_mb), 'wal_mb': None if wal is None else round(wal / 2**20, 1)}
    if contestant.has_result:
        contestant.fetch(query)
        more, fewer = place.differences(query)
        place.sql('DROP TABLE result')
        if more or fewer:
            print(f'{query.name:18} {contestant.name:10} WRONG: {more} rows that the batch query has not, '
                  f'{fewer} rows missing', flush=True)
            return None
    print(f"{query.name:18} {contestant.name:10} {row['seconds']:9.3f} s  {row['records_per_second']:9} records/s  "
          f"{row['cpu_s_per_million']:8.2f} CPU s/M  {row['peak_mb']:5} MB", flush=True)
    return row


def run_latency(place, contestant, rate, seconds):
    row = {'contestant': contestant.name, **latency.measure(place, contestant, rate, seconds)}
    print(f"latency            {contestant.name:10} p50 {row['p50_ms']} ms  p99 {row['p99_ms']} ms", flush=True)
    return row


def machine():
    with open('/proc/cpuinfo') as file:
        model = re.search(r'model name\s*: (.*)', file.read())
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    return f'{os.cpu_count()} × {model[1] if model else platform.machine()}, {memory:.0f} GiB'


def version_of_jar(pattern):
    return re.search(r'-([\d.]+)\.jar$', glob.glob(pattern)[0])[1]


def versions(place):
    java = subprocess.run(['java', '-version'], capture_output=True, text=True).stderr
    return {
        'stream_agg': os.environ['SOURCE_COMMIT'],
        'PostgreSQL': place.row('SHOW server_version')[0].split()[0],
        'Kafka': version_of_jar(os.path.join(os.environ['KAFKA_JARS'], 'kafka-clients-*.jar')),
        'Spark': metadata.version('pyspark'),
        'Flink': version_of_jar(os.path.join(place.peers, 'flink', 'flink-clients-*.jar')),
        'Java': re.search(r'"(.*)"', java)[1],
    }


def command():
    given = [f"{name}='{os.environ[name]}'" for name in
             ('QUERIES', 'CONTESTANTS', 'RECORDS', 'ROUNDS', 'LATENCY_SECONDS', 'LATENCY_RATE', 'PUBLISH')
             if os.environ.get(name)]
    return ' '.join(['make bench-peers', *given])


def main():
    queries = [QUERIES[name] for name in chosen('QUERIES', QUERIES)]
    names = chosen('CONTESTANTS', CONTESTANTS)
    records = number('RECORDS', 1_000_000)
    rounds = number('ROUNDS', 3)
    seconds = number('LATENCY_SECONDS', 30)
    rate = number('LATENCY_RATE', 10_000)
    place = Place()
    contestants = [CONTESTANTS[name](place) for name in names]
    results = {'date': datetime.date.today().isoformat(), 'command': command(), 'machine': machine(),
               'versions': versions(place), 'records': records, 'rounds': rounds, 'latency_rate': rate,
               'latency_seconds': seconds, 'runs': [], 'latency': []}
    load_topics(place, queries, records)
    # with the records that close the windows
    read = records + PARTITIONS
    wrong = 0
    for _ in range(rounds):
        for query in queries:
            for contestant in contestants:
                row = run_query(place, contestant, query, read)
                if row:
                    results['runs'].append(row)
                else:
                    wrong += 1
    for contestant in contestants:
        if contestant.streams and seconds:
            results['latency'].append(run_latency(place, contestant, rate, seconds))
    report.write(results, bool(os.environ.get('PUBLISH')) and not wrong)
    if wrong:
        sys.exit(f'{wrong} results were not those of the batch query: they have no figures, and nothing is published')


if __name__ == '__main__':
    main()
