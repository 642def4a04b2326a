-- Streams over a source without Kafka: rows at a given rate, which are the same in
-- every query and every micro-batch.
\ir setup.psql
SELECT plan(12);

CREATE SERVER rate_past FOREIGN DATA WRAPPER stream_agg_rate OPTIONS (start '2026-01-01 00:00:00');
CREATE FOREIGN TABLE ticks ("timestamp" timestamptz, value bigint,
    part int OPTIONS (metadata 'partition'), "offset" bigint OPTIONS (metadata 'offset'))
    SERVER rate_past OPTIONS (rows_per_second '1', partitions '3');

SELECT results_eq($$SELECT value, extract(epoch FROM "timestamp" - '2026-01-01 00:00+00')::bigint FROM ticks WHERE "offset" < 20 ORDER BY value$$,
    'SELECT i::bigint, i::bigint FROM generate_series(0, 59) i', 'row n comes n seconds after the start');
SELECT results_eq('SELECT part, count(*) FROM ticks WHERE "offset" < 20 GROUP BY 1 ORDER BY 1', 'VALUES (0, 20::bigint), (1, 20), (2, 20)',
    'partitions have equal shares');

-- a few minutes are enough: of the rows since half an hour ago
SELECT to_char(now() - interval '30 minutes', 'YYYY-MM-DD HH24:MI:SS') AS start \gset
CREATE SERVER rate_now FOREIGN DATA WRAPPER stream_agg_rate OPTIONS (start :'start');
CREATE FOREIGN TABLE recent ("timestamp" timestamptz, value bigint) SERVER rate_now OPTIONS (rows_per_second '10', partitions '2');

SELECT stream_agg.create_stream('rate_append', $$SELECT stream_agg.tumble("timestamp", '1 minute') AS win, value % 3 AS k, count(*) AS n, sum(value) AS total FROM recent GROUP BY 1, 2$$,
    watermark => '10 seconds', max_offsets_per_trigger => 3000, trigger => '20 days');
SELECT stream_agg.process_available('rate_append', '2 minutes');
SELECT cmp_ok(count(*)::int, '>=', 25 * 3, 'append: windows are written') FROM rate_append;
SELECT is(count(*), 0::bigint, 'append: each is the batch query''s') FROM (
    SELECT * FROM rate_append EXCEPT ALL
    SELECT stream_agg.tumble("timestamp", '1 minute'), value % 3, count(*), sum(value) FROM recent GROUP BY 1, 2) d;
SELECT cmp_ok(count(*)::int, '>=', 6, 'append: by several micro-batches') FROM stream_agg.commits WHERE stream = 'rate_append';
SELECT is(sum(late), 0::numeric, 'append: no record is late') FROM stream_agg.commits WHERE stream = 'rate_append';
SELECT stream_agg.stop_stream('rate_append');
SELECT stream_agg.start_stream('rate_append');
SELECT stream_agg.process_available('rate_append', '2 minutes');
SELECT is(count(*), 0::bigint, 'append: after another start as well') FROM (
    SELECT * FROM rate_append EXCEPT ALL
    SELECT stream_agg.tumble("timestamp", '1 minute'), value % 3, count(*), sum(value) FROM recent GROUP BY 1, 2) d;
SELECT is(count(*), count(DISTINCT (win, k)), 'append: each window once') FROM rate_append;
SELECT stream_agg.drop_stream('rate_append', drop_sink => true);

SELECT stream_agg.create_stream('rate_rows', 'SELECT value FROM recent WHERE value % 100 = 0', trigger => '20 days');
SELECT stream_agg.process_available('rate_rows', '2 minutes');
SELECT results_eq('SELECT value FROM rate_rows ORDER BY value', 'SELECT i * 100::bigint FROM generate_series(0, (SELECT max(value) / 100 FROM rate_rows)) i',
    'rows that no aggregate takes are all there');
SELECT stream_agg.drop_stream('rate_rows', drop_sink => true);

SELECT throws_ok('INSERT INTO recent (value) VALUES (1)', '0A000', NULL, 'nothing can be inserted');
SELECT throws_ok($$SELECT stream_agg.create_stream('rate_sink', 'SELECT value FROM ticks', sink => 'recent')$$, '42809', NULL, 'it is no sink');
SELECT throws_ok($$SELECT stream_agg.create_stream('rate_group', 'SELECT value FROM recent', options => '{"consumer_group": "g"}')$$, '0A000', NULL,
    'there are no consumer groups');
SELECT * FROM finish();
