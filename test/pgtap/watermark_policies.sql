-- Watermark policies: of partitions that are at different times, which one decides.
-- topics: policy_global:2 policy_per_partition:2 policy_aligned:2 policy_idle:2
\ir setup.psql
SELECT plan(16);

CREATE PROCEDURE pg_temp.make_policy(name text, options jsonb, brokers text) LANGUAGE plpgsql AS $$
BEGIN
    CALL pg_temp.make_stream(name, 'ts timestamptz, part int OPTIONS (metadata ''partition'')',
        $q$SELECT stream_agg.tumble(ts, '10 seconds') AS win, count(*) AS n FROM $topic GROUP BY 1$q$, 'append', brokers, '10 seconds', options);
END $$;
CREATE PROCEDURE pg_temp.send_to(name text, partition int, VARIADIC seconds int[]) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %I (ts, part) SELECT to_timestamp(s), $2 FROM unnest($1) s', name || '_topic') USING seconds, partition;
END $$;
CREATE FUNCTION pg_temp.watermark_of(name text) RETURNS int LANGUAGE sql AS
    $$ SELECT extract(epoch FROM watermark)::int FROM stream_agg.commits WHERE stream = name ORDER BY batch DESC LIMIT 1 $$;
CREATE FUNCTION pg_temp.late_of(name text) RETURNS bigint LANGUAGE sql AS
    $$ SELECT sum(late)::bigint FROM stream_agg.commits WHERE stream = name $$;

CREATE PROCEDURE pg_temp.process(name text, wait interval) LANGUAGE plpgsql AS
    $$ BEGIN PERFORM stream_agg.process_available(name, wait); END $$;

-- global, as Spark: the greatest event time of all partitions decides
CALL pg_temp.make_policy('policy_global', '{"watermark_policy": "global"}', :'brokers');
CALL pg_temp.send_to('policy_global', 0, 100);
CALL pg_temp.send_to('policy_global', 1, 15);
CALL pg_temp.process('policy_global', '2 minutes');
SELECT is(pg_temp.watermark_of('policy_global'), 90, 'global: the greatest event time less the delay');
SELECT is(pg_temp.windows('policy_global'), '10:1', 'global: a window of the slow partition is over');
CALL pg_temp.send_to('policy_global', 1, 16, 95);
CALL pg_temp.process('policy_global', '2 minutes');
SELECT is(pg_temp.late_of('policy_global'), 1::bigint, 'global: what else the slow partition has is late');
SELECT stream_agg.drop_stream('policy_global', drop_sink => true);

-- per_partition: the slowest partition decides
CALL pg_temp.make_policy('policy_per_partition', '{"watermark_policy": "per_partition"}', :'brokers');
CALL pg_temp.send_to('policy_per_partition', 0, 100);
CALL pg_temp.send_to('policy_per_partition', 1, 15);
CALL pg_temp.process('policy_per_partition', '2 minutes');
SELECT is(pg_temp.watermark_of('policy_per_partition'), 5, 'per_partition: the least of the partitions'' greatest event times less the delay');
CALL pg_temp.send_to('policy_per_partition', 1, 16);
CALL pg_temp.process('policy_per_partition', '2 minutes');
SELECT is(pg_temp.late_of('policy_per_partition'), 0::bigint, 'per_partition: the slow partition has no late records');
CALL pg_temp.send_to('policy_per_partition', 1, 60);
CALL pg_temp.process('policy_per_partition', '2 minutes');
SELECT is(pg_temp.watermark_of('policy_per_partition'), 50, 'per_partition: the watermark moves with it');
SELECT is(pg_temp.windows('policy_per_partition'), '10:2', 'per_partition: and closes windows');
SELECT stream_agg.drop_stream('policy_per_partition', drop_sink => true);

-- aligned, the default: a partition with records still to be read holds the watermark back
CALL pg_temp.make_policy('policy_aligned', '{}', :'brokers');
SELECT stream_agg.stop_stream('policy_aligned');
SELECT stream_agg.alter_stream('policy_aligned', max_offsets_per_trigger => 10);
CALL pg_temp.send_to('policy_aligned', 0, 100, 101, 102, 103, 104);
DO $$ BEGIN FOR i IN 1 .. 40 LOOP CALL pg_temp.send_to('policy_aligned', 1, 10 + 2 * i); END LOOP; END $$;
SELECT stream_agg.start_stream('policy_aligned');
CALL pg_temp.process('policy_aligned', '2 minutes');
SELECT cmp_ok(count(*)::int, '>', 3, 'aligned: a backlog is read by several micro-batches') FROM stream_agg.commits WHERE stream = 'policy_aligned';
SELECT is(pg_temp.late_of('policy_aligned'), 0::bigint, 'aligned: nothing of a backlog is late');
SELECT cmp_ok(min(extract(epoch FROM watermark))::int, '<', 60, 'aligned: the partition that is behind has held the watermark back')
  FROM stream_agg.commits WHERE stream = 'policy_aligned';
SELECT is(pg_temp.watermark_of('policy_aligned'), 94, 'aligned: at the end it is the greatest event time less the delay');
SELECT bag_eq($$SELECT * FROM policy_aligned$$,
    $$SELECT * FROM (SELECT stream_agg.tumble(ts, '10 seconds') AS win, count(*) AS n FROM policy_aligned_topic GROUP BY 1) b WHERE upper(win) <= to_timestamp(94)$$,
    'aligned: rows written are the batch query''s');
CALL pg_temp.send_to('policy_aligned', 1, 11);
CALL pg_temp.process('policy_aligned', '2 minutes');
SELECT is(pg_temp.late_of('policy_aligned'), 1::bigint, 'aligned: without a backlog a late record is late');
SELECT stream_agg.drop_stream('policy_aligned', drop_sink => true);

-- a partition in which nothing comes holds a watermark per partition back, unless it is idle
CALL pg_temp.make_policy('policy_idle', '{"watermark_policy": "per_partition", "idle_timeout": "100 milliseconds"}', :'brokers');
-- records of one partition, until the other has been idle for that long
CREATE PROCEDURE pg_temp.send_until_idle() LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        CALL pg_temp.send_to('policy_idle', 0, 110);
        COMMIT;
        PERFORM stream_agg.process_available('policy_idle', '2 minutes');
        EXIT WHEN pg_temp.watermark_of('policy_idle') > 0;
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
CALL pg_temp.send_until_idle();
SELECT is(pg_temp.watermark_of('policy_idle'), 100, 'idle: a partition without records does not hold the watermark back');
CALL pg_temp.send_to('policy_idle', 1, 105);
CALL pg_temp.process('policy_idle', '2 minutes');
SELECT is(pg_temp.late_of('policy_idle'), 0::bigint, 'idle: records that are ahead of the watermark are in time');
CALL pg_temp.send_to('policy_idle', 1, 15);
CALL pg_temp.process('policy_idle', '2 minutes');
SELECT is(pg_temp.late_of('policy_idle'), 1::bigint, 'idle: those of windows that are over are late');
SELECT stream_agg.drop_stream('policy_idle', drop_sink => true);
SELECT * FROM finish();
