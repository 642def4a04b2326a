"""What contestants have in common, and how a program of theirs is run."""

import select
import subprocess
from contextlib import contextmanager

from measure import Meter

LIMIT_SECONDS = 1800


class Contestant:
    """A way to answer a query over a topic.

    run() returns the Cost and the bytes of WAL, None without PostgreSQL; then
    fetch() puts the result where the benchmark compares it, into a table `result`
    with the query's columns, and cleans up.  A contestant with `streams` also has
    follow() for the latency."""

    name = title = None
    has_result = True
    streams = False

    def __init__(self, place):
        self.place = place

    def run(self, query):
        raise NotImplementedError

    def fetch(self, query):
        raise NotImplementedError


class Program:
    """A process that prints "started" when it is about to read, and "finished"
    when its result is there, and ends when its stdin is closed."""

    def __init__(self, place, command, environment=None):
        self._log = place.path('program.log')
        with open(self._log, 'w') as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                             stderr=log, text=True, bufsize=1, env=environment)
        self.pid = self._process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def wait_for(self, word):
        """Other lines are a library's talk."""
        while True:
            ready, _, _ = select.select([self._process.stdout], [], [], LIMIT_SECONDS)
            line = self._process.stdout.readline() if ready else ''
            if line.strip() == word:
                return
            if not line:
                with open(self._log) as log:
                    raise RuntimeError(f'no "{word}" from {self._process.args[0]}:\n{log.read()[-4000:]}')

    def measure(self):
        self.wait_for('started')
        meter = Meter([self.pid])
        self.wait_for('finished')
        return meter.stop()


class StreamsToTopic(Contestant):
    """A contestant that is a Program and leaves its result in the topic `output`."""

    streams = True

    def _program(self, query, continuous):
        """The Program of a query, which ends by itself or goes on with what comes."""
        raise NotImplementedError

    def run(self, query):
        with self._program(query, False) as program:
            return program.measure(), None

    def fetch(self, query):
        self.place.result_of_topic(query, 'output')

    @contextmanager
    def follow(self, query, probes):
        with self._program(query, True) as program:
            program.wait_for('started')
            yield self.place.probes_in_topic('output', probes)
        self.place.delete_topic('output')
