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

-- a window without a watermark; the stream goes with its query
SELECT stream_agg.create_stream('for_ever',
    $$ SELECT stream_agg.tumble(ts, '1 day') AS win, count(*) AS n FROM clicks GROUP BY 1 $$,
    output_mode => 'update', start => false);
SELECT obj_description('for_ever_query'::regclass), obj_description('for_ever'::regclass);
DROP VIEW for_ever_query;
SELECT count(*) FROM stream_agg.streams WHERE stream = 'for_ever';
DROP TABLE for_ever;

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
SELECT stream_agg.alter_stream('with_options', '{"on_eror": null}');
SELECT stream_agg.alter_stream('with_options', '{"output_mode": "append"}');
SELECT stream_agg.alter_stream('with_options', '"skip"');
SELECT stream_agg.alter_stream('per_user', '{"max_future": "1 hour"}');
SELECT stream_agg.alter_stream('nosuch', '{}');
SELECT stream_agg.drop_stream('with_options', drop_sink => true);

-- bounds: least records of a micro-batch, lost offsets
SELECT stream_agg.create_stream('with_bounds', 'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'update', start => false, max_offsets_per_trigger => 1000,
    options => '{"min_offsets_per_trigger": 100, "max_trigger_delay": "90 seconds", "on_data_loss": "earliest"}');
SELECT options FROM stream_agg.streams WHERE stream = 'with_bounds';
SELECT stream_agg.alter_stream('with_bounds', '{"on_data_loss": "fail", "max_trigger_delay": null}');
SELECT options FROM stream_agg.streams WHERE stream = 'with_bounds';
SELECT stream_agg.alter_stream('with_bounds', '{"min_offsets_per_trigger": 1001}');
SELECT stream_agg.alter_stream('with_bounds', '{"min_offsets_per_trigger": 0}');
SELECT stream_agg.alter_stream('with_bounds', '{"min_offsets_per_trigger": null, "max_trigger_delay": "1 hour"}');
SELECT stream_agg.alter_stream('with_bounds', '{"max_trigger_delay": "0"}');
SELECT stream_agg.alter_stream('with_bounds', '{"on_data_loss": "latest"}');

-- reset_stream, in one form whatever the session's settings are
SET timezone = 'Asia/Tokyo';
SET datestyle = 'German';
SELECT stream_agg.reset_stream('with_bounds', '02.01.2026 09:00:00.0005');
RESET datestyle;
RESET timezone;
SELECT starting_offsets FROM stream_agg.streams WHERE stream = 'with_bounds';
SELECT batch, offsets, watermark, reset, total_delivered FROM stream_agg.commits WHERE stream = 'with_bounds';
SELECT stream_agg.reset_stream('with_bounds', '{"10": -1, "2": 42, "0": -2}', results => true);
SELECT starting_offsets FROM stream_agg.streams WHERE stream = 'with_bounds';
SELECT batch, reset FROM stream_agg.commits WHERE stream = 'with_bounds' ORDER BY batch;
SELECT * FROM stream_agg.sources WHERE stream = 'with_bounds';
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT stream_agg.reset_stream('with_bounds');
SELECT starting_offsets, (SELECT count(*) FROM stream_agg.commits c WHERE c.stream = s.stream)
  FROM stream_agg.streams s WHERE stream = 'with_bounds';
ROLLBACK;
SELECT starting_offsets, (SELECT count(*) FROM stream_agg.commits c WHERE c.stream = s.stream)
  FROM stream_agg.streams s WHERE stream = 'with_bounds';
SELECT stream_agg.reset_stream('nosuch');
SELECT stream_agg.reset_stream('with_bounds', 'newest');
SELECT stream_agg.reset_stream('with_bounds', 'infinity');
SELECT stream_agg.reset_stream('with_bounds', '1969-12-31 23:59:59+00');
SELECT stream_agg.reset_stream('with_bounds', '{"0": 1');
SELECT stream_agg.reset_stream('with_bounds', '{"0": -3}');
SELECT stream_agg.reset_stream('with_bounds', '{"0": 1.5}');
SELECT stream_agg.reset_stream('with_bounds', '{"0": 9223372036854775808}');
SELECT stream_agg.reset_stream('with_bounds', '{"0": "1"}');
SELECT stream_agg.reset_stream('with_bounds', '{"0": [1]}');
SELECT stream_agg.reset_stream('with_bounds', '{"00": 1}');
SELECT stream_agg.reset_stream('with_bounds', '{"clicks": 1}');
SELECT stream_agg.reset_stream('with_bounds', '{"-1": 1}');
SELECT stream_agg.reset_stream('with_bounds', '{"2147483648": 1}');
SELECT stream_agg.drop_stream('with_bounds', drop_sink => true);
SELECT stream_agg.create_stream('bad', 'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'update', start => false, starting_offsets => '{"0": -3}');
SELECT stream_agg.create_stream('bad', 'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'update', start => false, max_offsets_per_trigger => 10,
    options => '{"min_offsets_per_trigger": 11}');

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
-- a table that an earlier stream has left
SELECT stream_agg.create_stream('own_sink', 'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id',
    output_mode => 'update', start => false);
SELECT stream_agg.drop_stream('own_sink');
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
