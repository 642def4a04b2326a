"""A stream of this extension.  The clock runs from the plan of the first micro-batch
to the commit of the last one, CPU time and WAL from create_stream on."""

from contextlib import contextmanager

from measure import Meter
from queries import COLUMNS, SESSION_GAP, WATERMARK

from .base import Contestant

_QUERIES = {
    'clicks': """SELECT stream_agg.tumble(ts, '5 minutes') AS win, user_id, count(*) AS event_count,
        sum(purchase_amount) AS total_spend FROM bench_source GROUP BY 1, 2""",
    'country': """SELECT stream_agg.tumble(ts, '1 minute') AS win, country, count(*) AS event_count,
        avg(purchase_amount) AS average FROM bench_source GROUP BY 1, 2""",
    'hop': """SELECT stream_agg.hop(ts, '1 minute', '10 minutes') AS win, page, count(*) AS event_count,
        sum(purchase_amount) AS total_spend FROM bench_source GROUP BY 1, 2""",
    'sessions': f"""SELECT stream_agg.session(ts, '{SESSION_GAP}') AS win, user_id, count(*) AS event_count,
        sum(purchase_amount) AS total_spend FROM bench_source GROUP BY 1, 2""",
}
_COLUMNS = {'started': 'lower(win)', 'ended': 'upper(win)', 'average': 'round(average, 6)'}


class StreamAgg(Contestant):
    name = 'stream_agg'
    title = 'stream_agg'
    streams = True

    def _create(self, query):
        self.place.sql('SELECT stream_agg.create_source(%s, brokers => %s, topic => %s, columns => %s)',
                       'bench_source', self.place.brokers, query.topic, COLUMNS)
        self.place.sql("SELECT stream_agg.create_stream('bench', %s, watermark => %s, output_mode => %s, "
                       "trigger => '0')", _QUERIES[query.name.split('_')[0]], WATERMARK, query.mode)

    def _drop(self):
        self.place.sql("SELECT stream_agg.drop_stream('bench', drop_sink => true)")
        self.place.sql('DROP FOREIGN TABLE bench_source')

    def run(self, query):
        place = self.place
        before = Meter.present(place.postmaster)
        wal = place.wal()
        meter = Meter([place.postmaster], before)
        self._create(query)
        place.sql("SELECT stream_agg.process_available('bench', '30 minutes')")
        seconds, = place.row("""SELECT extract(epoch FROM max(committed) - (SELECT min(batch_time)
            FROM stream_agg.offsets))::float FROM stream_agg.commits""")
        return meter.stop(seconds), place.wal() - wal

    def fetch(self, query):
        columns = ', '.join(_COLUMNS.get(column, column) for column in query.columns)
        self.place.create_result(query)
        self.place.sql(f'INSERT INTO result SELECT {columns} FROM bench')
        self._drop()

    @contextmanager
    def follow(self, query, probes):
        """Yields an iterator that gives, again and again, the probes that have become visible."""
        self._create(query)
        try:
            yield self._visible(probes)
        finally:
            self._drop()

    def _visible(self, probes):
        # the identity of a sink begins with its window or with the window's bound
        statement = """SELECT user_id FROM bench WHERE win = stream_agg.tumble(%s::timestamptz, '5 minutes')
            AND lower(win) = date_bin('5 minutes', %s::timestamptz, '2000-01-01') AND user_id >= %s"""
        # probes of several partitions need not become visible in the order of their numbers
        lowest, after = probes.first, set()
        with self.place.connect() as connection:
            while True:
                found = [row[0] for row in connection.execute(statement, (probes.time, probes.time, lowest))]
                after.update(found)
                while lowest in after:
                    after.remove(lowest)
                    lowest += 1
                yield found
