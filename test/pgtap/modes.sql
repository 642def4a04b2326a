-- Output modes by windows and keys: what a stream has written, over several
-- micro-batches, is what the batch query computes over the records sent.
-- topics: modes:4
\ir setup.psql
SELECT plan(42);

SELECT stream_agg.create_source('modes_topic', topic => 'modes', brokers => :'brokers', columns => 'ts timestamptz, k text, v numeric');
CREATE TABLE queries (name text PRIMARY KEY, mode text, query text, batch_query text);
INSERT INTO queries (name, mode, query, batch_query)
SELECT name, mode, query,
       -- outside of a stream, session() is the session of one record
       CASE WHEN name !~ '^session' THEN query ELSE $$
            SELECT tstzrange(min(ts), max(ts) + interval '45 seconds') AS win, k, count(*) AS n, sum(v) AS total, min(v) AS least, count(DISTINCT v) AS kinds
              FROM (SELECT *, count(*) FILTER (WHERE is_first) OVER (PARTITION BY k ORDER BY ts) AS session
                      FROM (SELECT *, ts - lag(ts) OVER (PARTITION BY k ORDER BY ts) > interval '45 seconds' AS is_first FROM modes_topic) f) s
             GROUP BY k, session $$ END
  FROM (
SELECT kind || '_' || mode AS name, mode, format('SELECT %s count(*) AS n, sum(v) AS total, min(v) AS least, count(DISTINCT v) AS kinds FROM modes_topic GROUP BY %s',
       columns, groups) AS query
  FROM (VALUES ('tumble', $$stream_agg.tumble(ts, '1 minute') AS win, k,$$, '1, 2'),
               ('hop', $$stream_agg.hop(ts, '1 minute', '3 minutes') AS win, k,$$, '1, 2'),
               ('month', $$stream_agg.tumble(ts, '1 month', timezone => 'Europe/Berlin') AS win, k,$$, '1, 2'),
               ('session', $$stream_agg.session(ts, '45 seconds') AS win, k,$$, '1, 2'),
               ('keys', 'k,', '1')) AS q (kind, columns, groups),
       unnest(ARRAY['append', 'update', 'complete']) AS mode
 WHERE (kind, mode) <> ('keys', 'append')) q;

-- 300 records of an hour, in order but for five minutes, across the end of a month
CREATE PROCEDURE pg_temp.send_hour(hour int) LANGUAGE sql AS $$
    INSERT INTO modes_topic
    SELECT '2026-01-31 23:30+00'::timestamptz + hour * interval '1 hour' + (i * 12 + (random() - 0.5) * 300) * interval '1 second',
           'k' || (random() * 5)::int, (random() * 50)::int
      FROM generate_series(1, 300) i
$$;
-- The batch query, of windows that are over or are not; of all with NULL.
CREATE FUNCTION pg_temp.batch_query(name text, is_over boolean) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN is_over IS NULL OR q.name ~ '^keys' THEN q.batch_query
           ELSE format('SELECT * FROM (%s) b WHERE (upper(win) <= (SELECT max(watermark) FROM stream_agg.commits WHERE stream = %L)) = %L',
                       q.batch_query, q.name, is_over) END
      FROM queries q WHERE q.name = batch_query.name
$$;

SELECT set_config('test.seed', coalesce(nullif(current_setting('test.seed', true), ''), random()::text), false) AS seed \gset
SELECT diag('seed ' || :'seed');
SELECT setseed(:'seed');
CALL pg_temp.send_hour(0);
SELECT diag(count(*) || ' records') FROM modes_topic;

-- one stream at a time: of each a statement a line
SELECT format('SELECT stream_agg.create_stream(%L, %L, output_mode => %L, watermark => %L, trigger => ''20 days'', max_offsets_per_trigger => 70)',
              name, query, mode, CASE WHEN query ~ 'win' THEN interval '10 minutes' END),
       format('DO $$ BEGIN PERFORM stream_agg.process_available(%L, ''2 minutes''); END $$', name),
       format('SELECT bag_eq(%L, pg_temp.batch_query(%L, %s), %L)', 'SELECT * FROM ' || name, name,
              CASE mode WHEN 'append' THEN 'true' ELSE 'NULL' END, name || ': rows written are the batch query''s'),
       format('SELECT cmp_ok(count(*)::int, ''>='', 4, %L) FROM stream_agg.commits WHERE stream = %L', name || ': by several micro-batches', name),
       format('SELECT bag_eq(%L, pg_temp.batch_query(%L, %s), %L)', 'SELECT * FROM stream_agg.open_windows(NULL::' || name || ')', name,
              CASE mode WHEN 'complete' THEN 'NULL' ELSE 'false' END, name || ': rows of open groups are the batch query''s'),
       format('SELECT stream_agg.drop_stream(%L, drop_sink => true)', name)
  FROM queries ORDER BY name
\gexec
SELECT * FROM finish();
