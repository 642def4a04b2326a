"""From produce to visible: how long after a record was given to the producer its
row can be read, beside a steady load.

Probes are records of users that nobody else is, a hundred a second, all in the
first window.  They have a producer of their own, with the linger of the load's, so
that the moment is known at which each was given to it and acknowledged."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace

from confluent_kafka import Producer

from queries import COUNTRIES, PARTITIONS, QUERIES

PROBES_PER_SECOND = 100
SETTLE_SECONDS = 10     # of load before the first probe
LINGER_MS = 5


@dataclass
class Probes:
    first: int = 7_000_000_000      # user_id of the first one, of ten digits
    time: str = '2026-01-01T00:00:00.000Z'


def _load(topic, rate, seconds):
    """Clickstream records of 10,000 users at a steady rate; event time is as fast as the clock."""
    tool = os.environ['KAFKA_TOOL']
    records = rate * seconds
    generator = subprocess.Popen(
        [tool, 'generate', '--records', str(records), '--users', '10000', '--span', str(seconds),
         '--rate', str(rate), '--partitions', str(PARTITIONS), '--countries', str(COUNTRIES), '--seed', '2'],
        stdout=subprocess.PIPE)
    producer = subprocess.Popen(
        [tool, 'produce', '--brokers', os.environ['BROKERS'], '--topic', topic, '--tab',
         '--compression', 'lz4', '--linger', str(LINGER_MS)],
        stdin=generator.stdout, stdout=subprocess.DEVNULL)
    generator.stdout.close()
    return generator, producer


def _send_probes(topic, probes, seconds, sent, acknowledged):
    producer = Producer({'bootstrap.servers': os.environ['BROKERS'], 'acks': 'all', 'linger.ms': LINGER_MS,
                         'compression.type': 'lz4'})

    def note(number):
        def on_delivery(error, _):
            if error is None:
                acknowledged[number] = time.monotonic()
        return on_delivery

    def value(number):
        return (f'{{"ts":"{probes.time}","user_id":{number},"event":"probe","page":"/probe","session":"",'
                '"referrer":"","purchase_amount":1.00,"country":"probe"}')

    # connects to the broker and learns of the topic
    for partition in range(PARTITIONS):
        producer.produce(topic, value(0), partition=partition)
    producer.flush()
    started = time.monotonic()
    for i in range(seconds * PROBES_PER_SECOND):
        number = probes.first + i
        producer.poll(0)
        while time.monotonic() < started + i / PROBES_PER_SECOND:
            producer.poll(0.0005)
        sent[number] = time.monotonic()
        producer.produce(topic, value(number), partition=i % PARTITIONS, on_delivery=note(number))
    producer.flush()


def _percentile(values, share):
    return round(sorted(values)[min(int(len(values) * share), len(values) - 1)] * 1000, 1)


def measure(place, contestant, rate, seconds):
    """Milliseconds: median, 99th percentile and maximum, and the same from the acknowledgement on."""
    # what watches and what sends are threads of this process
    sys.setswitchinterval(0.0002)
    topic = 'clicks_live'
    probes = Probes()
    sent, acknowledged, visible = {}, {}, {}
    place.create_topic(topic)
    query = replace(QUERIES['clicks_10k_update'], topic=topic)
    with contestant.follow(query, probes) as arrivals:
        load = _load(topic, rate, SETTLE_SECONDS + seconds + 2)
        time.sleep(SETTLE_SECONDS)
        sender = threading.Thread(target=_send_probes, args=(topic, probes, seconds, sent, acknowledged))
        sender.start()
        deadline = time.monotonic() + seconds + 60
        for found in arrivals:
            now = time.monotonic()
            for number in found:
                visible.setdefault(number, now)
            if len(visible) == seconds * PROBES_PER_SECOND:
                break
            if now > deadline:
                raise RuntimeError(f'{contestant.title}: {len(visible)} of {len(sent)} probes became visible')
            time.sleep(0.002)
        sender.join()
        for process in load:
            if process.wait():
                raise RuntimeError('the load could not be produced')
    place.delete_topic(topic)
    whole = [visible[number] - sent[number] for number in sent]
    own = [visible[number] - acknowledged[number] for number in sent]
    return {'p50_ms': _percentile(whole, 0.5), 'p99_ms': _percentile(whole, 0.99), 'max_ms': _percentile(whole, 1),
            'own_p50_ms': _percentile(own, 0.5), 'own_p99_ms': _percentile(own, 0.99)}
