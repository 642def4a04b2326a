-- hop(): the sliding windows of a time
SET timezone = 'UTC';
SELECT stream_agg.hop('2026-01-01 00:07:31.5+00', '2 minutes', '5 minutes');
-- the start belongs to a window, the end does not
SELECT stream_agg.hop('2026-01-01 00:04:00+00', '2 minutes', '4 minutes');
-- aligned to 1970, or to an origin, also before it
SELECT stream_agg.hop('1969-12-31 23:59:59+00', '7 minutes', '14 minutes');
SELECT stream_agg.hop('2026-01-01 00:00:00+00', '7 minutes', '8 minutes', '2026-01-01 00:03:00+00');
-- with gaps: a time between two windows is in none
SELECT stream_agg.hop('2026-01-01 00:04:59.999999+00', '10 minutes', '5 minutes');
SELECT stream_agg.hop('2026-01-01 00:05:00+00', '10 minutes', '5 minutes');
-- slide = size is tumble
SELECT count(*) FROM generate_series('1999-12-31 23:00+00'::timestamptz, '2000-01-01 01:00+00', '1.3 seconds') t
 WHERE (SELECT array_agg(w) FROM stream_agg.hop(t, '11 seconds', '11 seconds', '2000-01-01 00:00:03+00') w)
       IS DISTINCT FROM ARRAY[stream_agg.tumble(t, '11 seconds', '2000-01-01 00:00:03+00')];
-- NULL: no window
SELECT count(*) FROM stream_agg.hop(NULL, '1 minute', '1 minute');
-- usable in any query
CREATE TABLE readings (at timestamptz, v int);
INSERT INTO readings SELECT '2026-01-01 00:00+00'::timestamptz + n * interval '10 minutes', n FROM generate_series(0, 5) n;
SELECT stream_agg.hop(at, '30 minutes', '1 hour') AS win, sum(v) FROM readings GROUP BY 1 ORDER BY 1;
SELECT lower(win), sum(v) FROM readings, stream_agg.hop(at, '30 minutes', '1 hour') AS win GROUP BY win ORDER BY 1;
DROP TABLE readings;
-- refused
SELECT stream_agg.hop(now(), '1 month', '1 hour');
SELECT stream_agg.hop(now(), '1 minute', '1 month');
SELECT stream_agg.hop(now(), '0', '1 minute');
SELECT stream_agg.hop(now(), '1 minute', '-1 minute');
SELECT stream_agg.hop('infinity', '1 minute', '2 minutes');
SELECT stream_agg.hop(now(), '1 minute', '2 minutes', 'infinity');
SELECT stream_agg.hop('4714-11-24 00:00:00+00 BC', '1 hour', '3 hours');

-- streams
CREATE FUNCTION pg_temp.try(query text, mode text DEFAULT 'update')
RETURNS void LANGUAGE sql AS
$$ SELECT stream_agg.create_stream('sliding', query, watermark => '1 minute', output_mode => mode, start => false);
   SELECT stream_agg.drop_stream('sliding', drop_sink => true) $$;
\set SHOW_CONTEXT never
SELECT pg_temp.try('SELECT stream_agg.hop(ts, ''1 min'', ''1 hour'') AS win, count(*) FROM clicks GROUP BY 1', 'append');
SELECT pg_temp.try('SELECT user_id, lower(stream_agg.hop(ts, ''1 min'', ''1 hour'')), count(*) FROM clicks GROUP BY 2, 1');
SELECT pg_temp.try('SELECT lower(stream_agg.hop(ts, ''1 min'', ''1 hour'')) AS a, upper(stream_agg.hop(ts, ''1 min'', ''1 hour'')) AS b, count(*) FROM clicks GROUP BY stream_agg.hop(ts, ''1 min'', ''1 hour'')');
SELECT pg_temp.try('SELECT win, count(*) FROM clicks, stream_agg.hop(ts, ''1 min'', ''1 hour'') AS win GROUP BY 1');
SELECT pg_temp.try('SELECT upper(win), count(*) FROM clicks CROSS JOIN LATERAL stream_agg.hop(clicks.ts, ''1 min'', ''1 hour'') AS win GROUP BY win');
SELECT pg_temp.try('SELECT win, count(*) FROM clicks JOIN LATERAL stream_agg.hop(clicks.ts, ''1 min'', ''1 hour'') AS win ON true GROUP BY win HAVING upper(win) > now()');
-- refused
SELECT pg_temp.try('SELECT stream_agg.hop(ts, user_id * interval ''1 min'', ''1 hour'') AS win, count(*) FROM clicks GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.hop(ts, ''0'', ''1 hour'') AS win, count(*) FROM clicks GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.hop(ts, ''1 ms'', ''1 hour'') AS win, count(*) FROM clicks GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.hop(ts, ''1 min'', ''1 hour'') AS a, stream_agg.hop(ts, ''2 min'', ''1 hour'') AS b, count(*) FROM clicks GROUP BY 1, 2');
SELECT pg_temp.try('SELECT stream_agg.hop(ts, ''1 min'', ''1 hour'') AS a, stream_agg.tumble(ts, ''1 hour'') AS b, count(*) FROM clicks GROUP BY 1, 2');
SELECT pg_temp.try('SELECT stream_agg.hop(min(ts), ''1 min'', ''1 hour'') AS win, user_id, count(*) FROM clicks GROUP BY 2');
SELECT pg_temp.try('SELECT stream_agg.hop(ts, ''1 min'', ''1 hour'') AS win, generate_series(1, 2), count(*) FROM clicks GROUP BY 1');
SELECT pg_temp.try('SELECT win, count(*) FROM (SELECT stream_agg.hop(ts, ''1 min'', ''1 hour'') AS win FROM clicks) c GROUP BY 1');
SELECT pg_temp.try('SELECT win, count(*) FROM (SELECT win FROM clicks, stream_agg.hop(ts, ''1 min'', ''1 hour'') AS win) c GROUP BY 1');
SELECT pg_temp.try('SELECT win, count(*) FROM clicks, stream_agg.hop(ts, ''1 min'', ''1 hour'') AS win WHERE upper(win) > now() GROUP BY 1');
SELECT pg_temp.try('SELECT win, max(ts - lower(win)) FROM clicks, stream_agg.hop(ts, ''1 min'', ''1 hour'') AS win GROUP BY 1');
SELECT pg_temp.try('SELECT win, count(*) FROM clicks LEFT JOIN LATERAL stream_agg.hop(ts, ''1 min'', ''1 hour'') AS win ON true GROUP BY 1');
SELECT pg_temp.try('SELECT n, count(*) FROM clicks, stream_agg.hop(ts, ''1 min'', ''1 hour'') WITH ORDINALITY AS w (win, n) GROUP BY 1');
SELECT pg_temp.try('SELECT a, count(*) FROM clicks, stream_agg.hop(ts, ''1 min'', ''1 hour'') AS a, stream_agg.hop(ts, ''2 min'', ''1 hour'') AS b GROUP BY 1');
