-- session(): the session of one record
SET timezone = 'UTC';
SELECT stream_agg.session('2026-01-01 00:07:31.5+00', '5 minutes');
SELECT stream_agg.session('2026-01-01 00:07:31.5+00', '1 day');
-- a day has 24 hours, whatever the time zone
SET timezone = 'Europe/Berlin';
SELECT upper(stream_agg.session('2026-03-29 00:30+01', '1 day')) - '2026-03-29 00:30+01' AS length;
SET timezone = 'UTC';
-- no gap, no session
SELECT stream_agg.session(now(), '0') IS NULL AS none, stream_agg.session(now(), '-1 s') IS NULL AS less,
       stream_agg.session(now(), NULL) IS NULL AS unknown, stream_agg.session(NULL, '1 s') IS NULL AS no_time;
-- refused
SELECT stream_agg.session(now(), '1 month');
SELECT stream_agg.session('infinity', '1 minute');
SELECT stream_agg.session('294276-12-31 23:59:59+00', '1 day');

-- what a batch query makes of it: the sessions of README.md
CREATE TABLE visits (ts timestamptz, visitor text, pages int);
INSERT INTO visits VALUES
    ('2026-01-01 00:00+00', 'ann', 1), ('2026-01-01 00:29+00', 'ann', 2), ('2026-01-01 00:59+00', 'ann', 4),
    ('2026-01-01 01:29:00.000001+00', 'ann', 8), ('2026-01-01 00:10+00', 'bob', 16), ('2026-01-01 00:10+00', NULL, 32);
SELECT visitor, tstzrange(min(lower(s)), max(upper(s))) AS session, count(*), sum(pages)
  FROM (SELECT *, count(*) FILTER (WHERE fresh) OVER (PARTITION BY visitor ORDER BY lower(s), upper(s) ROWS UNBOUNDED PRECEDING) AS n
          FROM (SELECT *, (lower(s) <= max(upper(s)) OVER (PARTITION BY visitor ORDER BY lower(s), upper(s)
                                                           ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) IS NOT TRUE AS fresh
                  FROM (SELECT *, stream_agg.session(ts, '30 minutes') AS s FROM visits) v
                 WHERE s IS NOT NULL) w) x
 GROUP BY visitor, n
 ORDER BY 1, 2;

-- streams
SELECT stream_agg.create_source('page_views', topic => 'page_views', brokers => 'localhost:1',
    columns => 'ts timestamptz, visitor text, pages int, idle interval');
CREATE TABLE idle_times (visitor text PRIMARY KEY, idle interval);
CREATE FUNCTION pg_temp.try(query text, mode text DEFAULT 'append', watermark interval DEFAULT '1 minute')
RETURNS void LANGUAGE sql AS
$$ SELECT stream_agg.create_stream('sessions', query, watermark => watermark, output_mode => mode, start => false);
   SELECT stream_agg.drop_stream('sessions', drop_sink => true) $$;
\set SHOW_CONTEXT never

-- taken: a gap that is constant, a column, of a table joined; any mode
SELECT pg_temp.try('SELECT stream_agg.session(ts, ''30 min'') AS s, visitor, count(*) FROM page_views GROUP BY 1, 2');
SELECT pg_temp.try('SELECT stream_agg.session(ts, idle) AS s, visitor, count(*) FROM page_views GROUP BY 1, 2', 'update');
SELECT pg_temp.try('SELECT stream_agg.session(ts, i.idle) AS s, count(*) FROM page_views JOIN idle_times i USING (visitor) GROUP BY 1', 'complete', NULL);
SELECT pg_temp.try('SELECT lower(stream_agg.session(ts, ''30 min'')) AS began, visitor, upper(stream_agg.session(ts, ''30 min'')) - lower(stream_agg.session(ts, ''30 min'')) AS lasted
                      FROM page_views GROUP BY stream_agg.session(ts, ''30 min''), visitor', 'update');
SELECT pg_temp.try('SELECT stream_agg.session(ts, ''30 min'') AS s, sum(pages), avg(pages), stddev(pages), max(visitor), bool_or(pages > 1), regr_slope(pages, pages)
                      FROM page_views GROUP BY 1');
-- without a combine function, with DISTINCT or ORDER BY: the inputs are kept
CREATE AGGREGATE public.last_pages(int) (sfunc = int4larger, stype = int);
SELECT pg_temp.try('SELECT stream_agg.session(ts, ''1 min'') AS s, last_pages(pages), count(DISTINCT visitor), array_agg(pages ORDER BY ts), percentile_disc(0.5) WITHIN GROUP (ORDER BY pages) FROM page_views GROUP BY 1');
DROP AGGREGATE public.last_pages(int);

-- refused
SELECT pg_temp.try('SELECT stream_agg.session(ts, ''0'') AS s, count(*) FROM page_views GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.session(ts, ''1 month'') AS s, count(*) FROM page_views GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.session(ts, NULL) AS s, count(*) FROM page_views GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.session(ts, ''1 min'') AS s, stream_agg.session(ts, ''2 min'') AS t, count(*) FROM page_views GROUP BY 1, 2');
SELECT pg_temp.try('SELECT stream_agg.session(ts, idle * random()) AS s, count(*) FROM page_views GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.session(ts, ''1 min'') AS s, count(*) FROM page_views GROUP BY 1', watermark => NULL);
-- without its end, a session whose gap is the record's cannot be told from a former one
SELECT pg_temp.try('SELECT lower(stream_agg.session(ts, idle)) AS began, visitor, count(*) FROM page_views GROUP BY stream_agg.session(ts, idle), 2', 'update');
-- a topic takes nothing back
SELECT stream_agg.create_source('sessions_out', topic => 'sessions_out', brokers => 'localhost:1',
    columns => 's tstzrange, visitor text, count bigint');
SELECT stream_agg.create_stream('sessions', 'SELECT stream_agg.session(ts, ''1 min'') AS s, visitor, count(*) FROM page_views GROUP BY 1, 2',
    output_mode => 'update', watermark => '1 minute', sink => 'sessions_out', options => '{"delivery": "at_least_once"}');
SELECT stream_agg.drop_source('sessions_out');
SELECT stream_agg.drop_source('page_views');
DROP TABLE visits, idle_times;
