-- Spark's documented cases of dropDuplicatesWithinWatermark
-- (StreamingDeduplicationWithinWatermarkSuite): delay of 2 seconds.
-- topics: deduplication:1
\ir setup.psql
SELECT plan(12);

CALL pg_temp.make_stream('deduplication', 'ts timestamptz, k text',
    'SELECT DISTINCT ON (k) k, extract(epoch FROM ts)::int AS t FROM $topic', 'append', :'brokers', '2 seconds', event_time => 'ts');
CREATE PROCEDURE pg_temp.send_keys(VARIADIC records text[]) LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE deduplication;
    INSERT INTO deduplication_topic SELECT to_timestamp(substr(r, 2)::int), left(r, 1) FROM unnest(records) r;
    COMMIT;
    PERFORM stream_agg.process_available('deduplication', '2 minutes');
END $$;
CREATE FUNCTION pg_temp.written() RETURNS text LANGUAGE sql AS
    $$ SELECT coalesce(string_agg(k || t, ' ' ORDER BY k), '') FROM deduplication $$;
CREATE FUNCTION pg_temp.late() RETURNS bigint LANGUAGE sql AS
    $$ SELECT late FROM stream_agg.commits WHERE stream = 'deduplication' ORDER BY batch DESC LIMIT 1 $$;

CALL pg_temp.send_keys('a17');
SELECT is(pg_temp.written(), 'a17', 'the first of a key');
SELECT is(pg_temp.late(), 0::bigint, 'is not late');
CALL pg_temp.send_keys('a16');
SELECT is(pg_temp.written(), '', 'the second of a key');
SELECT is(pg_temp.late(), 0::bigint, 'is not late, but left out');
CALL pg_temp.send_keys('a13');
SELECT is(pg_temp.written(), '', 'one before the watermark');
SELECT is(pg_temp.late(), 1::bigint, 'is late');
CALL pg_temp.send_keys('b22', 'c21');
SELECT is(pg_temp.written(), 'b22 c21', 'two other keys');
SELECT is(pg_temp.late(), 0::bigint, 'none of them late');
CALL pg_temp.send_keys('a21');
SELECT is(pg_temp.written(), 'a21', 'a key that the watermark has passed is new again');
SELECT is(pg_temp.late(), 0::bigint, 'and not late');
CALL pg_temp.send_keys('d25');
SELECT is(pg_temp.written(), 'd25', 'a fourth key');
SELECT is(pg_temp.late(), 0::bigint, 'is not late');
SELECT stream_agg.drop_stream('deduplication', drop_sink => true);
SELECT * FROM finish();
