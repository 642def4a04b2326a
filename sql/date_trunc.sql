-- date_trunc and casts to date as windows, and the bounds of tumbling ones; records are none here
SET timezone = 'Europe/Berlin';
SET datestyle = 'ISO';
SELECT stream_agg.tumble_start(t, '5 minutes') AS start, stream_agg.tumble_end(t, '5 minutes') AS "end",
       stream_agg.tumble_start(t, '1 day', timezone => 'Europe/Berlin') AS day, stream_agg.tumble_end(t, '1 day', timezone => 'Europe/Berlin') AS until,
       stream_agg.tumble_start(t, '1 hour', '2026-01-01 00:30+01') AS half
  FROM (VALUES ('2026-03-29 12:07:08'::timestamptz), ('2026-10-25 00:00'), (NULL)) v (t);
SELECT stream_agg.tumble_start(now(), '1 month');
SELECT stream_agg.tumble_end('infinity', '1 hour');

-- what explain_stream calls a window, and the notice that creation gives
CREATE FUNCTION pg_temp.window_of(grouped text, mode text DEFAULT 'append', watermark interval DEFAULT '10 minutes', event_time text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM stream_agg.create_stream('tried', format('SELECT %s AS win, count(*) AS n FROM times GROUP BY 1', grouped),
                                     watermark => watermark, output_mode => mode, event_time => event_time, start => false);
    RETURN (SELECT string_agg(trim(line), '; ') FROM stream_agg.explain_stream('tried') line WHERE line ~ '^  (Window|Key|Event time)');
END $$;
\set SHOW_CONTEXT never
SELECT stream_agg.create_source('times', topic => 'times', brokers => 'broker:9092', columns => 'ts timestamptz, at timestamp, day date, unit text');
BEGIN;
SET LOCAL client_min_messages = warning;
SELECT unit, pg_temp.window_of(format('date_trunc(%L, ts)', unit)), stream_agg.drop_stream('tried', drop_sink => true)
  FROM unnest('{microseconds,millisecond,second,minute,hour,day,week,month,quarter,year,decade,century,millennium,MON,hr}'::text[]) unit;
DO $$
DECLARE
    grouped text;
BEGIN
    FOREACH grouped IN ARRAY ARRAY['date_trunc(''hour'', ts, ''Asia/Kathmandu'')', 'date_trunc(''day'', ts, ''UTC'')', 'date_trunc(''day'', at)', 'ts::date', 'at::date',
       'date_trunc(''month'', ts)::date', '(ts AT TIME ZONE ''Asia/Tokyo'')::date', 'date_trunc(''day'', day)',
       'stream_agg.tumble_start(ts, ''1 hour'')', 'stream_agg.tumble_end(ts, ''1 day'', timezone => ''Asia/Tokyo'')']
    LOOP
        RAISE WARNING '%: %: %', grouped, pg_temp.window_of(grouped),
            (SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'tried'::regclass AND attname = 'win');
        PERFORM stream_agg.drop_stream('tried', drop_sink => true);
    END LOOP;
END $$;
COMMIT;

-- a key like others where it can be none, and why
SELECT pg_temp.window_of('date_trunc(''minute'', ts)', 'update', NULL);
SELECT stream_agg.drop_stream('tried', drop_sink => true);
SELECT pg_temp.window_of('date_trunc(''minute'', at)', 'update', '1 minute', 'ts');
SELECT stream_agg.drop_stream('tried', drop_sink => true);
SELECT pg_temp.window_of('date_trunc(unit, ts)', 'update', '1 minute', 'ts');
SELECT stream_agg.drop_stream('tried', drop_sink => true);
SELECT pg_temp.window_of('date_trunc(''minute'', ts)', 'append', NULL);
SELECT pg_temp.window_of('date_trunc(''minute'', at)', 'append', '1 minute', 'ts');
SELECT pg_temp.window_of('date_trunc(unit, ts)');
SELECT pg_temp.window_of('date_trunc(''hour'', ts)::date');
SELECT pg_temp.window_of('date_trunc(''fortnight'', ts)');
SELECT pg_temp.window_of('date_trunc(''day'', ts, ''Europe/Atlantis'')');
SELECT stream_agg.create_stream('tried', $$ SELECT date_trunc('hour', ts) AS a, date_trunc('hour', at) AS b, count(*) FROM times GROUP BY 1, 2 $$, watermark => '1 minute', start => false);
SELECT stream_agg.create_stream('tried', $$ SELECT date_trunc('hour', ts) AS a, date_trunc('hour', at) AS b, count(*) FROM times GROUP BY 1, 2 $$,
    watermark => '1 minute', event_time => 'at', start => false);
SELECT stream_agg.drop_stream('tried', drop_sink => true);
-- beside another window it is a key, as is one of a joined table
SELECT stream_agg.create_stream('tried', $$ SELECT stream_agg.tumble(ts, '1 hour') AS win, date_trunc('day', at) AS day, count(*) FROM times GROUP BY 1, 2 $$,
    watermark => '1 minute', start => false);
SELECT stream_agg.drop_stream('tried', drop_sink => true);
CREATE TABLE events_known (unit text, since timestamptz);
SELECT stream_agg.create_stream('tried', $$ SELECT date_trunc('day', since) AS day, count(*) FROM times JOIN events_known USING (unit) GROUP BY 1 $$,
    watermark => '1 minute', start => false);
SELECT stream_agg.create_stream('tried', $$ SELECT date_trunc('day', since) AS day, date_trunc('hour', ts) AS hour, count(*) FROM times JOIN events_known USING (unit) GROUP BY 1, 2 $$,
    watermark => '1 minute', start => false);
SELECT stream_agg.drop_stream('tried', drop_sink => true);
-- one row of each key
SELECT stream_agg.create_stream('tried', $$ SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY unit ORDER BY ts) AS rn FROM times) x WHERE rn = 1 $$, start => false);
-- the time zone is that of the stream's creation
SET timezone = 'Asia/Kathmandu';
SELECT stream_agg.create_stream('tried', $$ SELECT date_trunc('day', ts) AS day, count(*) AS n FROM times GROUP BY 1 $$, watermark => '1 minute', start => false);
SET timezone = 'America/New_York';
SELECT line FROM stream_agg.explain_stream('tried') line WHERE line ~ 'Window';
SELECT stream_agg.alter_stream('tried', query => $$ SELECT date_trunc('day', ts) AS day, count(*) AS n, max(ts) AS latest FROM times GROUP BY 1 $$);
SELECT line FROM stream_agg.explain_stream('tried') line WHERE line ~ 'Window';
SELECT stream_agg.alter_stream('tried', query => $$ SELECT date_trunc('day', ts, 'UTC') AS day, count(*) AS n FROM times GROUP BY 1 $$);
SELECT stream_agg.drop_stream('tried', drop_sink => true);
DROP TABLE events_known;
SELECT stream_agg.drop_source('times');
