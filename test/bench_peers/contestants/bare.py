"""A bare librdkafka consumer, which throws away what it reads: the limit."""

import os
import subprocess

from measure import Cost

from .base import Contestant


class Bare(Contestant):
    name = 'bare'
    title = 'bare consumer'
    has_result = False

    def run(self, query):
        process = subprocess.Popen([os.environ['KAFKA_TOOL'], 'consume', '--brokers', self.place.brokers,
                                    '--topic', query.topic], stdout=subprocess.PIPE, text=True)
        line = process.stdout.read().split()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError('kafka_tool consume failed')
        told = dict(zip(line[::2], map(float, line[1::2])))
        return Cost(told['seconds'], told['cpu_us_per_record'] * told['records'] / 1e6,
                    usage.ru_maxrss / 1024), None
