-- tumble() by a time zone: days, weeks, months and years of its clocks
SET timezone = 'Europe/Berlin';
SET datestyle = 'ISO';
-- a day of 23 hours, one of 25, and one of 24
SELECT w, upper(w) - lower(w) AS elapsed, extract(epoch FROM upper(w) - lower(w)) / 3600 AS hours
  FROM (VALUES ('2026-03-29 12:00'::timestamptz), ('2026-10-25 12:00'), ('2026-10-26 12:00')) v (t),
       stream_agg.tumble(t, '1 day', timezone => 'Europe/Berlin') w;
-- bounds: both times that clocks show 02:30 are of the day
SELECT t AT TIME ZONE 'UTC' AS utc, stream_agg.tumble(t, '1 day', timezone => 'Europe/Berlin')
  FROM (VALUES ('2026-10-24 21:59:59.999999Z'::timestamptz), ('2026-10-24 22:00Z'), ('2026-10-25 00:30Z'), ('2026-10-25 01:30Z'),
               ('2026-10-25 22:59:59Z'), ('2026-10-25 23:00Z')) v (t);
-- weeks begin on Monday, months and years on their first day
SELECT stream_agg.tumble('2026-11-29 23:30', '1 week', timezone => 'Europe/Berlin');
SELECT stream_agg.tumble('2026-11-30 00:00', '7 days', timezone => 'Europe/Berlin');
SELECT stream_agg.tumble('2026-03-31 23:59', '1 month', timezone => 'Europe/Berlin');
SELECT stream_agg.tumble('2026-02-28 23:59', '3 months', timezone => 'Europe/Berlin');
SELECT stream_agg.tumble('1969-12-31 23:59', '1 year', timezone => 'Europe/Berlin');
SELECT stream_agg.tumble('0001-01-01 00:00Z BC', '1 month', timezone => 'UTC') = tstzrange('0001-01-01 00:00Z BC', '0001-02-01 00:00Z BC');
-- from an origin: days that begin at six, months that begin on the fifteenth
SELECT stream_agg.tumble('2026-03-29 05:59', '1 day', '2026-01-01 06:00', 'Europe/Berlin');
SELECT stream_agg.tumble('2026-03-29 06:00', '1 day', '2026-01-01 06:00', 'Europe/Berlin');
SELECT stream_agg.tumble('2026-03-14 23:59', '1 month', '2026-01-15', 'Europe/Berlin');
-- another zone than the session's; clocks that skip midnight, or a whole day
SELECT stream_agg.tumble('2026-07-01 00:00Z', '1 day', timezone => 'America/New_York');
SELECT w, extract(epoch FROM upper(w) - lower(w)) / 3600 AS hours
  FROM stream_agg.tumble('2018-11-04 12:00Z', '1 day', timezone => 'America/Sao_Paulo') w;
SELECT w AS apia, extract(epoch FROM upper(w) - lower(w)) / 3600 AS hours
  FROM generate_series('2011-12-29 12:00Z'::timestamptz, '2011-12-31 12:00Z', '1 day') t, stream_agg.tumble(t, '1 day', timezone => 'Pacific/Apia') w;
-- every time is in its window; windows follow each other; they are those of date_trunc
SELECT zone, size, unit,
       count(*) FILTER (WHERE NOT w @> t) AS outside,
       count(*) FILTER (WHERE lower(w) <> before AND lower(w) <> upper(before_w)) AS gaps,
       count(*) FILTER (WHERE lower(w) <> date_trunc(unit, t, zone)) AS others
  FROM (SELECT zone, size, unit, t, w, lag(lower(w)) OVER s AS before, lag(w) OVER s AS before_w
          FROM (VALUES ('Europe/Berlin'), ('America/Santiago'), ('Australia/Lord_Howe'), ('Asia/Kathmandu'), ('Africa/Cairo')) z (zone),
               (VALUES ('1 day'::interval, 'day'), ('1 week', 'week'), ('1 month', 'month'), ('3 months', 'quarter'), ('1 year', 'year')) u (size, unit),
               generate_series('2023-12-25 00:00Z'::timestamptz, '2026-12-31 23:00Z', '2 hours 59 minutes') t,
               stream_agg.tumble(t, size, timezone => zone) w
        WINDOW s AS (PARTITION BY zone, size ORDER BY t)) x
 GROUP BY 1, 2, 3 ORDER BY 1, 2;
-- NULL in, NULL out; the other forms are as they were
SELECT stream_agg.tumble(NULL, '1 day', timezone => 'UTC') IS NULL, stream_agg.tumble(now(), NULL, timezone => 'UTC') IS NULL,
       stream_agg.tumble(now(), '1 day', timezone => NULL) IS NULL;
SELECT stream_agg.tumble('2026-01-01 00:07+01', '5 minutes'), stream_agg.tumble('2026-01-01 00:07+01', '5 minutes', '2026-01-01 00:01+01'),
       stream_agg.tumble(ts => '2026-01-01 00:07+01', size => '5 minutes');
-- refused
SELECT stream_agg.tumble(now(), '1 hour', timezone => 'UTC');
SELECT stream_agg.tumble(now(), '1 month 1 day', timezone => 'UTC');
SELECT stream_agg.tumble(now(), '-1 month', timezone => 'UTC');
SELECT stream_agg.tumble(now(), '0', timezone => 'UTC');
SELECT stream_agg.tumble(now(), '1 day', timezone => 'Europe/Atlantis');
SELECT stream_agg.tumble(now(), '1 month', '2026-01-31', 'Europe/Berlin');
SELECT stream_agg.tumble('infinity', '1 day', timezone => 'UTC');
SELECT stream_agg.tumble('294276-12-31 12:00Z', '1 year', timezone => 'UTC');
SELECT stream_agg.tumble(now(), '1 month');
-- streams
SELECT stream_agg.create_stream('daily', $$ SELECT stream_agg.tumble(ts, '1 day', timezone => 'Europe/Berlin') AS day, count(*) AS n FROM clicks GROUP BY 1 $$,
    watermark => '1 hour', output_mode => 'append', start => false);
SELECT stream_agg.create_stream('monthly', $$ SELECT lower(stream_agg.tumble(timezone => 'Asia/' || 'Tokyo', size => '1 month', ts => ts)) AS month, user_id, sum(purchase_amount) AS total FROM clicks GROUP BY 1, 2 $$,
    watermark => '1 hour', output_mode => 'update', start => false);
SELECT stream_agg.create_stream('by_zone', $$ SELECT stream_agg.tumble(ts, '1 day', timezone => user_id::text) AS day, count(*) AS n FROM clicks GROUP BY 1 $$,
    watermark => '1 hour', output_mode => 'append', start => false);
SELECT stream_agg.create_stream('hours', $$ SELECT stream_agg.tumble(ts, '1 hour', timezone => 'UTC') AS day, count(*) AS n FROM clicks GROUP BY 1 $$,
    watermark => '1 hour', output_mode => 'append', start => false);
SELECT stream_agg.create_stream('nowhere', $$ SELECT stream_agg.tumble(ts, '1 day', timezone => 'Europe/Atlantis') AS day, count(*) AS n FROM clicks GROUP BY 1 $$,
    watermark => '1 hour', output_mode => 'append', start => false);
SELECT stream_agg.drop_stream(s, drop_sink => true) FROM unnest('{daily,monthly}'::text[]) s;
