"""Spark Structured Streaming in local mode, into a topic; see spark_query.py."""

import os
import shutil
import sys

from .base import Program, StreamsToTopic

SCRIPT = os.path.join(os.path.dirname(__file__), 'spark_query.py')


class Spark(StreamsToTopic):
    name = 'spark'
    title = 'Spark'

    def _program(self, query, continuous):
        place = self.place
        checkpoint = place.path('spark')
        shutil.rmtree(checkpoint, ignore_errors=True)
        place.create_topic('output')
        environment = dict(os.environ, PYSPARK_PYTHON=sys.executable,
                           SPARK_JARS=os.path.join(place.peers, 'spark'), SPARK_LOCAL_IP='127.0.0.1',
                           SPARK_LOCAL_DIRS=checkpoint, TZ='UTC')
        return Program(place, [sys.executable, SCRIPT, place.brokers, query.topic, query.name.split('_')[0],
                               query.mode, checkpoint, 'continuous' if continuous else 'available'],
                       environment)
