-- Spark's documented cases of event-time windows (EventTimeWatermarkSuite): delay of
-- 10 seconds, windows of 5 seconds, count(*).  Where Spark emits in a further
-- micro-batch without data, the micro-batch itself emits here.
-- topics: append:1 reported:1 update:1 complete:1 trigger_once:1 inclusive:1 before_1970:1 sliding:1 candidates:1
\ir setup.psql
SELECT plan(46);

CREATE PROCEDURE pg_temp.spark(name text, mode text, brokers text, win text DEFAULT $$stream_agg.tumble(ts, '5 seconds')$$)
LANGUAGE plpgsql AS $$
BEGIN
    CALL pg_temp.make_stream(name, 'ts timestamptz', format('SELECT %s AS win, count(*) AS n FROM $topic GROUP BY 1', win), mode, brokers);
END $$;
CREATE FUNCTION pg_temp.state(name text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    result bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM stream_agg.open_windows(NULL::%I)', name) INTO result;
    RETURN result;
END $$;

CALL pg_temp.spark('append', 'append', :'brokers');
CALL pg_temp.send('append', 10, 11, 12, 13, 14, 15);
SELECT is(pg_temp.windows('append'), '', 'append: nothing before a window is over');
SELECT is(pg_temp.counts('append'), 'watermark 5, aggregated 6, late 0, late windows 0', 'append: the watermark is the greatest time less the delay');
CALL pg_temp.send('append', 25);
SELECT is(pg_temp.windows('append'), '10:5', 'append: a window is written when the watermark reaches its end');
SELECT is(pg_temp.counts('append'), 'watermark 15, aggregated 1, late 0, late windows 0', 'append: the watermark moves on');
SELECT is(pg_temp.state('append'), 2::bigint, 'append: two windows are open');
CALL pg_temp.send('append', 10);
SELECT is(pg_temp.windows('append'), '10:5', 'append: a late record changes nothing');
SELECT is(pg_temp.counts('append'), 'watermark 15, aggregated 0, late 1, late windows 1', 'append: it is counted');
SELECT is(pg_temp.state('append'), 2::bigint, 'append: it opens no window');
SELECT stream_agg.drop_stream('append', drop_sink => true);

CALL pg_temp.spark('reported', 'append', :'brokers');
CALL pg_temp.send('reported', 15);
SELECT is(pg_temp.windows('reported'), '', 'watermark: the first record');
SELECT is(pg_temp.counts('reported'), 'watermark 5, aggregated 1, late 0, late windows 0', 'watermark: 15 less 10');
CALL pg_temp.send('reported', 10, 12, 14);
SELECT is(pg_temp.windows('reported'), '', 'watermark: records before the greatest');
SELECT is(pg_temp.counts('reported'), 'watermark 5, aggregated 3, late 0, late windows 0', 'watermark: it never goes back');
CALL pg_temp.send('reported', 25);
SELECT is(pg_temp.windows('reported'), '10:3', 'watermark: a record that moves it');
SELECT is(pg_temp.counts('reported'), 'watermark 15, aggregated 1, late 0, late windows 0', 'watermark: 25 less 10');
SELECT stream_agg.drop_stream('reported', drop_sink => true);

CALL pg_temp.spark('update', 'update', :'brokers');
CALL pg_temp.send('update', 10, 11, 12, 13, 14, 15);
SELECT is(pg_temp.windows('update'), '10:5 15:1', 'update: each window that a record touched');
CALL pg_temp.send('update', 25);
SELECT is(pg_temp.windows('update'), '10:5 15:1 25:1', 'update: rows of windows that are over stay');
CALL pg_temp.send('update', 10, 25);
SELECT is(pg_temp.windows('update'), '10:5 15:1 25:2', 'update: a late record beside one in time');
SELECT is(pg_temp.counts('update'), 'watermark 15, aggregated 1, late 1, late windows 1', 'update: both are counted');
CALL pg_temp.send('update', 10);
SELECT is(pg_temp.windows('update'), '10:5 15:1 25:2', 'update: a late record changes nothing');
SELECT is(pg_temp.counts('update'), 'watermark 15, aggregated 0, late 1, late windows 1', 'update: it is counted');
SELECT stream_agg.drop_stream('update', drop_sink => true);

CALL pg_temp.spark('complete', 'complete', :'brokers');
CALL pg_temp.send('complete', 10, 11, 12);
SELECT is(pg_temp.windows('complete'), '10:3', 'complete: all windows');
CALL pg_temp.send('complete', 25);
SELECT is(pg_temp.windows('complete'), '10:3 25:1', 'complete: all windows, again');
CALL pg_temp.send('complete', 25);
SELECT is(pg_temp.windows('complete'), '10:3 25:2', 'complete: a window changes');
CALL pg_temp.send('complete', 10);
SELECT is(pg_temp.windows('complete'), '10:4 25:2', 'complete: no record is late');
SELECT is(pg_temp.counts('complete'), 'watermark 15, aggregated 1, late 0, late windows 0', 'complete: none is counted as late');
SELECT stream_agg.drop_stream('complete', drop_sink => true);

CALL pg_temp.spark('trigger_once', 'append', :'brokers');
CALL pg_temp.send('trigger_once', 15);
SELECT is(pg_temp.windows('trigger_once'), '', 'trigger by trigger: 15');
CALL pg_temp.send('trigger_once', 10, 12, 14);
SELECT is(pg_temp.windows('trigger_once'), '', 'trigger by trigger: 10, 12, 14');
CALL pg_temp.send('trigger_once', 25);
SELECT is(pg_temp.windows('trigger_once'), '10:3', 'trigger by trigger: 25');
CALL pg_temp.send('trigger_once', 50);
SELECT is(pg_temp.windows('trigger_once'), '10:3 15:1 25:1', 'trigger by trigger: 50');
SELECT is(pg_temp.counts('trigger_once'), 'watermark 40, aggregated 1, late 0, late windows 0', 'trigger by trigger: the watermark');
SELECT stream_agg.drop_stream('trigger_once', drop_sink => true);

CALL pg_temp.spark('inclusive', 'append', :'brokers');
CALL pg_temp.send('inclusive', 14, 25);
SELECT is(pg_temp.windows('inclusive'), '10:1', 'a window whose end is the watermark is over');
SELECT is(pg_temp.counts('inclusive'), 'watermark 15, aggregated 2, late 0, late windows 0', 'the watermark is that end');
CALL pg_temp.send('inclusive', 15, 14);
SELECT is(pg_temp.windows('inclusive'), '10:1', 'a record at the watermark is in the next window');
SELECT is(pg_temp.counts('inclusive'), 'watermark 15, aggregated 1, late 1, late windows 1', 'one before it is late');
SELECT stream_agg.drop_stream('inclusive', drop_sink => true);

CALL pg_temp.spark('before_1970', 'append', :'brokers');
CALL pg_temp.send('before_1970', -1, -5);
SELECT is(pg_temp.windows('before_1970'), '', 'a window that ends at 1970 is over when the stream starts');
SELECT is(pg_temp.counts('before_1970'), 'watermark 0, aggregated 0, late 2, late windows 2', 'its records are late');
SELECT stream_agg.drop_stream('before_1970', drop_sink => true);

CALL pg_temp.spark('sliding', 'append', :'brokers', $$stream_agg.hop(ts, '5 seconds', '10 seconds')$$);
CALL pg_temp.send('sliding', 14, 25);
SELECT is(pg_temp.windows('sliding'), '5:1', 'sliding: the first of two windows is over');
SELECT is(pg_temp.counts('sliding'), 'watermark 15, aggregated 2, late 0, late windows 0', 'sliding: each record is counted once');
CALL pg_temp.send('sliding', 14);
SELECT is(pg_temp.windows('sliding'), '5:1', 'sliding: a record late for one window');
SELECT is(pg_temp.counts('sliding'), 'watermark 15, aggregated 1, late 0, late windows 1', 'sliding: and in time for the other');
CALL pg_temp.send('sliding', 9);
SELECT is(pg_temp.windows('sliding'), '5:1', 'sliding: a record late for both');
SELECT is(pg_temp.counts('sliding'), 'watermark 15, aggregated 0, late 1, late windows 2', 'sliding: two windows lack it');
CALL pg_temp.send('sliding', 40);
SELECT is(pg_temp.windows('sliding'), '5:1 10:2 20:1', 'sliding: the windows in which records were');
SELECT is(pg_temp.counts('sliding'), 'watermark 30, aggregated 1, late 0, late windows 0', 'sliding: the watermark');
SELECT stream_agg.drop_stream('sliding', drop_sink => true);

CALL pg_temp.spark('candidates', 'complete', :'brokers', $$stream_agg.hop(ts, '3 seconds', '7 seconds')$$);
CALL pg_temp.send('candidates', 0, -1);
SELECT is(pg_temp.windows('candidates'), '-6:2 -3:2 0:1', 'windows are aligned to 1970, also before it');
SELECT is(pg_temp.counts('candidates'), 'watermark 0, aggregated 2, late 0, late windows 0', 'and records before it are counted');
SELECT stream_agg.drop_stream('candidates', drop_sink => true);
SELECT * FROM finish();
