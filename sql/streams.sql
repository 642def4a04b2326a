-- streams: definition, catalog, sink; none of them is started here
SELECT stream_agg.create_stream('clickstream_agg',
    $$ SELECT stream_agg.tumble(ts, '5 minutes') AS win, user_id,
              count(*) AS event_count, sum(purchase_amount) AS total_spend
         FROM clicks
        GROUP BY 1, user_id $$,
    watermark => '10 minutes', output_mode => 'append', trigger => '10 seconds',
    max_offsets_per_trigger => 10000, start => false);
\d+ clickstream_agg
\d+ clickstream_agg_query
\x on
SELECT stream, query, sink, source, output_mode, watermark, event_time, trigger_interval,
       max_offsets_per_trigger, starting_offsets, options, sink_created, enabled,
       timezone, datestyle, intervalstyle, search_path
  FROM stream_agg.streams;
SELECT stream, query, sink, source, output_mode, state, pid, batches, rows_in, lag, last_error
  FROM pg_stat_stream_agg;
\x off

-- update mode: row identity, storage fit for upserts, a NOTICE about state
SELECT stream_agg.create_stream('per_user',
    'SELECT user_id, count(*) AS n, max(ts) AS last_seen FROM clicks GROUP BY user_id',
    output_mode => 'update', start => false);
\d+ per_user

-- complete mode: the same storage, and a window needs no watermark
SELECT stream_agg.create_stream('per_day',
    $$ SELECT stream_agg.tumble(ts, '1 day') AS win, user_id, count(*) AS n FROM clicks GROUP BY 1, user_id $$,
    output_mode => 'complete', start => false);
SELECT c.reloptions, c.relreplident, pg_get_indexdef(i.indexrelid)
  FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid WHERE c.relname = 'per_day';
SELECT output_mode FROM pg_stat_stream_agg WHERE stream = 'per_day';
SELECT stream_agg.drop_stream('per_day', drop_sink => true);

-- date_bin and lower(win) are windows
SELECT stream_agg.create_stream('per_minute',
    $$ SELECT date_bin('1 minute', ts, '2000-01-01 00:00+00') AS minute, count(*) AS n FROM clicks GROUP BY 1 $$,
    watermark => '0 seconds', output_mode => 'update', start => false);
SELECT stream_agg.create_stream('per_hour',
    $$ SELECT lower(stream_agg.tumble(ts, '1 hour')) AS hour, user_id % 10 AS bucket, count(*) + 1 AS n
         FROM clicks GROUP BY stream_agg.tumble(ts, '1 hour'), user_id % 10 HAVING count(*) > 1 $$,
    watermark => '1 minute', output_mode => 'update', start => false);
\d per_minute
\d per_hour

-- options, the same whatever the session's settings are
SET intervalstyle = iso_8601;
SELECT stream_agg.create_stream('with_options',
    $$ SELECT date_bin('1 minute', ts, '2000-01-01 00:00+00') AS minute, count(*) AS n FROM clicks GROUP BY 1 $$,
    watermark => '0 seconds', output_mode => 'update', start => false,
    options => '{"on_error": "dead_letter", "max_future": "P1DT90.5S"}');
SELECT options FROM stream_agg.streams WHERE stream = 'with_options';
RESET intervalstyle;
SELECT stream_agg.drop_stream('with_options', drop_sink => true);
SELECT stream_agg.create_stream('with_options',
    $$ SELECT date_bin('1 minute', ts, '2000-01-01 00:00+00') AS minute, count(*) AS n FROM clicks GROUP BY 1 $$,
    watermark => '0 seconds', output_mode => 'update', start => false,
    options => '{"on_error": "fail", "max_future": 90}');
SELECT options FROM stream_agg.streams WHERE stream = 'with_options';
SELECT stream_agg.alter_stream('with_options', '{"on_error": "skip"}');
SELECT options FROM stream_agg.streams WHERE stream = 'with_options';
SELECT stream_agg.alter_stream('with_options', '{"on_error": "dead_letter", "max_future": null}');
SELECT options FROM stream_agg.streams WHERE stream = 'with_options';
SELECT stream_agg.alter_stream('with_options', '{"on_error": null}');
SELECT options FROM stream_agg.streams WHERE stream = 'with_options';
SELECT stream_agg.alter_stream('with_options', '{"nosuch": 1}');
SELECT stream_agg.alter_stream('with_options', '"skip"');
SELECT stream_agg.alter_stream('per_user', '{"max_future": "1 hour"}');
SELECT stream_agg.alter_stream('nosuch', '{}');
SELECT stream_agg.drop_stream('with_options', drop_sink => true);

-- append without a key in the select list: no index
SELECT stream_agg.create_stream('no_identity',
    $$ SELECT count(*) AS n FROM clicks GROUP BY stream_agg.tumble(ts, '1 hour'), user_id $$,
    watermark => '1 minute', start => false);
\d no_identity

-- a sink of one's own
CREATE TABLE own_sink (user_id bigint UNIQUE NULLS NOT DISTINCT, n bigint, noted timestamptz DEFAULT now());
SELECT stream_agg.create_stream('to_own_sink',
    'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'update', sink => 'own_sink', start => false);
CREATE TABLE no_key (user_id bigint, n bigint);
SELECT stream_agg.create_stream('bad', 'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'update', sink => 'no_key', start => false);
SELECT stream_agg.create_stream('bad', 'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'complete', sink => 'no_key', start => false);
CREATE TABLE wrong_type (user_id date UNIQUE, n bigint);
SELECT stream_agg.create_stream('bad', 'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'update', sink => 'wrong_type', start => false);
CREATE TABLE lacks_column (user_id bigint UNIQUE);
SELECT stream_agg.create_stream('bad', 'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'update', sink => 'lacks_column', start => false);
CREATE TABLE not_null (user_id bigint UNIQUE, n bigint, more int NOT NULL);
SELECT stream_agg.create_stream('bad', 'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'update', sink => 'not_null', start => false);
CREATE VIEW a_view AS SELECT 1 AS user_id, 2 AS n;
SELECT stream_agg.create_stream('bad', 'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'update', sink => 'a_view', start => false);
SELECT stream_agg.create_stream('bad', 'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'update', sink => 'clicks', start => false);
DROP TABLE no_key, wrong_type, lacks_column, not_null;
DROP VIEW a_view;

-- names
SELECT stream_agg.create_stream('per_user', 'SELECT user_id, count(*) FROM clicks GROUP BY 1',
    output_mode => 'update', start => false);
SELECT stream_agg.create_stream('per_user', 'SELECT user_id, count(*) FROM clicks GROUP BY 1',
    output_mode => 'update', start => false, if_not_exists => true);
SELECT stream_agg.create_stream('public.per_user', 'SELECT user_id, count(*) FROM clicks GROUP BY 1',
    output_mode => 'update', start => false, if_not_exists => true);
CREATE VIEW taken_query AS SELECT 1;
SELECT stream_agg.create_stream('taken', 'SELECT user_id, count(*) FROM clicks GROUP BY 1',
    output_mode => 'update', start => false);
DROP VIEW taken_query;

-- definitions follow their objects and are protected
SELECT stream_agg.drop_source('clicks');
DROP FOREIGN TABLE clicks;
ALTER FOREIGN TABLE clicks RENAME COLUMN user_id TO uid;
SELECT pg_get_viewdef('per_user_query');
ALTER FOREIGN TABLE clicks RENAME COLUMN uid TO user_id;
CREATE OR REPLACE VIEW per_user_query AS SELECT user_id, count(*) AS n, min(ts) AS last_seen FROM clicks GROUP BY user_id;
CREATE OR REPLACE RULE "_RETURN" AS ON SELECT TO per_user_query
    DO INSTEAD SELECT user_id, count(*) AS n, min(ts) AS last_seen FROM clicks GROUP BY user_id;

-- drop: the sink stays unless asked; dropping the view drops the stream
SELECT stream_agg.drop_stream('to_own_sink', drop_sink => true);
SELECT count(*) FROM own_sink;
SELECT stream_agg.drop_stream('per_minute');
SELECT count(*) FROM per_minute;
SELECT stream_agg.drop_stream('per_hour', drop_sink => true);
SELECT to_regclass('per_hour'), to_regclass('per_hour_query');
DROP VIEW no_identity_query;
SELECT stream FROM stream_agg.streams ORDER BY 1;
SELECT stream FROM stream_agg.sources ORDER BY 1;
SELECT stream_agg.drop_stream('nosuch');
SELECT stream_agg.drop_stream('nosuch', if_exists => true);
SELECT stream_agg.start_stream('nosuch');
SELECT stream_agg.stop_stream('nosuch');
SELECT stream_agg.process_available('nosuch');
SELECT stream_agg.process_available('per_user');
SELECT stream_agg.stop_stream('per_user');
SELECT stream_agg.drop_stream('per_user', drop_sink => true);
SELECT stream_agg.drop_stream('clickstream_agg', drop_sink => true);
DROP TABLE own_sink, per_minute, no_identity;

-- a rolled back definition leaves nothing behind
BEGIN;
SELECT stream_agg.create_stream('gone', 'SELECT user_id, count(*) FROM clicks GROUP BY 1', output_mode => 'update');
SELECT stream_agg.process_available('gone');
ROLLBACK;
SELECT to_regclass('gone'), to_regclass('gone_query'), (SELECT count(*) FROM stream_agg.streams);
