"""The queries of the benchmark, and the records that they read.

A query has a topic, an output mode, the columns of its result with their types,
and the batch query over a table of all records that says what is right.  The
contestants have it in their own words, in contestants/."""

from dataclasses import dataclass

# Event time is an hour, whatever the number of records.
SPAN_SECONDS = 3600
DISORDER_SECONDS = 60
COUNTRIES = 50
PARTITIONS = 8
WATERMARK = '10 minutes'
SESSION_GAP = '30 seconds'

# Each partition ends with a record that is so late that all windows before it
# close.  Its own window is no part of a result.
LAST_RECORD = ('{"ts":"2026-01-01T03:00:00.000Z","user_id":-1,"event":"view","page":"/none",'
               '"session":"","referrer":"","purchase_amount":null,"country":"none"}')
RESULT_BEFORE = '2026-01-01 02:30:00+00'

# topics, and how many users are in them
TOPICS = {'clicks_10k': 10_000, 'clicks_1m': 1_000_000}
COLUMNS = 'ts timestamptz, user_id bigint, page text, purchase_amount numeric, country text'


@dataclass(frozen=True)
class Query:
    name: str
    title: str
    topic: str
    mode: str
    keys: tuple     # columns with their types, the first is the time it is about
    values: tuple
    batch: str      # over {records}

    @property
    def columns(self):
        return [column.split()[0] for column in self.keys + self.values]


_CLICKS = """
SELECT date_bin('5 minutes', ts, '2026-01-01 00:00+00') AS started, user_id,
       count(*) AS event_count, sum(purchase_amount) AS total_spend
  FROM {records} GROUP BY 1, 2"""

_COUNTRY = """
SELECT date_trunc('minute', ts) AS started, country,
       count(*) AS event_count, round(avg(purchase_amount), 6) AS average
  FROM {records} GROUP BY 1, 2"""

# a window of ten minutes is the sum of ten panes
_HOP = """
SELECT minute - pane * interval '1 minute' AS started, page,
       sum(event_count)::bigint AS event_count, sum(total_spend) AS total_spend
  FROM (SELECT date_trunc('minute', ts) AS minute, page, count(*) AS event_count,
               sum(purchase_amount) AS total_spend
          FROM {records} GROUP BY 1, 2) AS panes,
       generate_series(0, 9) AS pane
 GROUP BY 1, 2"""

_SESSIONS = f"""
SELECT min(ts) AS started, max(ts) + interval '{SESSION_GAP}' AS ended, user_id,
       count(*) AS event_count, sum(purchase_amount) AS total_spend
  FROM (SELECT *, count(*) FILTER (WHERE ts > before + interval '{SESSION_GAP}')
                    OVER (PARTITION BY user_id ORDER BY ts) AS session
          FROM (SELECT *, lag(ts) OVER (PARTITION BY user_id ORDER BY ts) AS before
                  FROM {{records}}) AS with_previous) AS with_session
 GROUP BY user_id, session"""


def _clicks(name, topic, users, mode):
    return Query(name, f'clickstream, {users} users, {mode}', topic, mode,
                 ('started timestamptz', 'user_id bigint'),
                 ('event_count bigint', 'total_spend numeric'), _CLICKS)


QUERIES = {query.name: query for query in (
    _clicks('clicks_10k_append', 'clicks_10k', '10 k', 'append'),
    _clicks('clicks_10k_update', 'clicks_10k', '10 k', 'update'),
    _clicks('clicks_1m_append', 'clicks_1m', '1 M', 'append'),
    _clicks('clicks_1m_update', 'clicks_1m', '1 M', 'update'),
    Query('country', 'count and average per minute and country, update', 'clicks_10k', 'update',
          ('started timestamptz', 'country text'),
          ('event_count bigint', 'average numeric'), _COUNTRY),
    Query('hop', '10 minutes by 1 minute per page, append', 'clicks_10k', 'append',
          ('started timestamptz', 'page text'),
          ('event_count bigint', 'total_spend numeric'), _HOP),
    Query('sessions', 'sessions per user, append', 'clicks_10k', 'append',
          ('started timestamptz', 'ended timestamptz', 'user_id bigint'),
          ('event_count bigint', 'total_spend numeric'), _SESSIONS),
)}
