"""Without streams: COPY of the topic's decoded records into a table, then the batch
query into another one.  The hand-written program decodes, COPY reads its pipe."""

import os

from measure import Meter
from queries import COLUMNS

from .base import Contestant, Program
from .by_hand import PROGRAM


class CopyGroupBy(Contestant):
    name = 'copy'
    title = 'COPY, then GROUP BY'

    def run(self, query):
        place = self.place
        pipe = place.path('pipe')
        place.sql(f'CREATE TABLE copied ({COLUMNS})')
        os.mkfifo(pipe)
        os.chmod(pipe, 0o644)
        before = Meter.present(place.postmaster)
        wal = place.wal()
        with Program(place, [PROGRAM, place.brokers, query.topic, 'columns', pipe]) as program, \
                place.connect() as connection:
            meter = Meter([program.pid, place.postmaster], before)
            connection.execute(f"COPY copied FROM '{pipe}'")
            connection.execute('CREATE TABLE result AS ' + query.batch.format(records='copied'))
            cost = meter.stop()
        os.unlink(pipe)
        return cost, place.wal() - wal

    def fetch(self, query):
        self.place.sql('DROP TABLE copied')
