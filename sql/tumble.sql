-- tumble(): the window of a time
SET timezone = 'UTC';
SELECT stream_agg.tumble('2026-01-01 00:07:31.5+00', '5 minutes');
-- the start belongs to the window, the end does not
SELECT stream_agg.tumble('2026-01-01 00:05:00+00', '5 minutes');
SELECT stream_agg.tumble('2026-01-01 00:04:59.999999+00', '5 minutes');
-- aligned to 1970, or to an origin, also before it
SELECT stream_agg.tumble('1969-12-31 23:59:59+00', '7 minutes');
SELECT stream_agg.tumble('1970-01-01 00:00:00+00', '7 minutes');
SELECT stream_agg.tumble('2026-01-01 00:00:00+00', '7 minutes', '2026-01-01 00:03:00+00');
SELECT stream_agg.tumble('4713-01-01 BC', '1 day');
-- a day has 24 hours, whatever the time zone
SET timezone = 'Europe/Berlin';
SELECT stream_agg.tumble('2026-03-29 12:00+00', '1 day');
SELECT stream_agg.tumble('2026-03-29 12:00+00', '24:00');
SET timezone = 'UTC';
-- every time is in its window, and windows do not overlap
SELECT count(*) FILTER (WHERE NOT w @> t) AS outside,
       count(DISTINCT w) = count(DISTINCT lower(w)) AND count(DISTINCT w) = count(DISTINCT upper(w)) AS disjoint
  FROM (SELECT t, stream_agg.tumble(t, '13 seconds', '1999-12-31 23:59:07.25+00') AS w
          FROM generate_series('1999-12-31 23:00+00'::timestamptz, '2000-01-01 01:00+00', '1.7 seconds') t) x;
-- the same windows as date_bin
SELECT count(*) FROM generate_series('1999-12-31 23:00+00'::timestamptz, '2000-01-01 01:00+00', '1.3 seconds') t
 WHERE lower(stream_agg.tumble(t, '11 seconds', '2000-01-01 00:00:03+00'))
       IS DISTINCT FROM date_bin('11 seconds', t, '2000-01-01 00:00:03+00');
-- NULL in, NULL out
SELECT stream_agg.tumble(NULL, '1 minute') IS NULL, stream_agg.tumble(now(), NULL) IS NULL,
       stream_agg.tumble(now(), '1 minute', NULL) IS NULL;
-- usable in any query, in an index too
CREATE TABLE readings (at timestamptz, v int);
CREATE INDEX ON readings (stream_agg.tumble(at, '1 hour'));
INSERT INTO readings SELECT '2026-01-01 00:00+00'::timestamptz + n * interval '10 minutes', n FROM generate_series(0, 11) n;
SELECT stream_agg.tumble(at, '1 hour'), sum(v) FROM readings GROUP BY 1 ORDER BY 1;
DROP TABLE readings;
-- refused
SELECT stream_agg.tumble(now(), '1 month');
SELECT stream_agg.tumble(now(), '0');
SELECT stream_agg.tumble(now(), '-1 minute');
SELECT stream_agg.tumble('infinity', '1 minute');
SELECT stream_agg.tumble('-infinity', '1 minute');
SELECT stream_agg.tumble('2026-01-01', '1 minute', 'infinity');
SELECT stream_agg.tumble('294276-12-31 23:59:59+00', '1 day');
