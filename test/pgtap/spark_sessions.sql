-- Spark's documented cases of session windows (StreamingSessionWindowSuite): gap of 10
-- seconds, delay of 30 seconds; the sessions are [first, last + 10).
-- topics: sessions:1 touching:1
\ir setup.psql
SELECT plan(11);

CREATE FUNCTION pg_temp.sessions(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format($q$ SELECT string_agg(extract(epoch FROM lower(win)) || '-' || extract(epoch FROM upper(win)) || ':' || n, ' ' ORDER BY win)
        FROM (SELECT win, n FROM %1$I UNION ALL SELECT win, n FROM stream_agg.open_windows(NULL::%1$I)) s $q$, name)
       INTO result;
    RETURN coalesce(regexp_replace(result, '\.0+', '', 'g'), '');
END $$;

CALL pg_temp.make_stream('sessions', 'ts timestamptz',
    $$SELECT stream_agg.session(ts, '10 seconds') AS win, count(*) AS n FROM $topic GROUP BY 1$$, 'append', :'brokers', '30 seconds');
CALL pg_temp.send('sessions', 40, 41);
SELECT is(pg_temp.sessions('sessions'), '40-51:2', 'records within the gap are one session');
SELECT is(pg_temp.counts('sessions'), 'watermark 11, aggregated 2, late 0, late windows 0', 'the watermark is 41 less 30');
CALL pg_temp.send('sessions', 25);
SELECT is(pg_temp.sessions('sessions'), '25-35:1 40-51:2', 'a record further away is a session of its own');
CALL pg_temp.send('sessions', 30);
SELECT is(pg_temp.sessions('sessions'), '25-51:4', 'a record between two makes them one');
CALL pg_temp.send('sessions', 0);
SELECT is(pg_temp.sessions('sessions'), '25-51:4', 'a record whose session is over is late');
SELECT is(pg_temp.counts('sessions'), 'watermark 11, aggregated 0, late 1, late windows 1', 'it is counted');
SELECT is(pg_temp.windows('sessions'), '', 'nothing is written of open sessions');
CALL pg_temp.send('sessions', 81);
SELECT is(pg_temp.sessions('sessions'), '25-51:4 81-91:1', 'a watermark at its end closes a session');
SELECT is(pg_temp.windows('sessions'), '25:4', 'which is written then');

SELECT stream_agg.drop_stream('sessions', drop_sink => true);

CALL pg_temp.make_stream('touching', 'ts timestamptz',
    $$SELECT stream_agg.session(ts, '10 seconds') AS win, count(*) AS n FROM $topic GROUP BY 1$$, 'append', :'brokers', '30 seconds');
CALL pg_temp.send('touching', 100, 110);
SELECT is(pg_temp.sessions('touching'), '100-120:2', 'records exactly the gap apart are one session');
SELECT is(pg_temp.counts('touching'), 'watermark 80, aggregated 2, late 0, late windows 0', 'both are counted');
SELECT stream_agg.drop_stream('touching', drop_sink => true);
SELECT * FROM finish();
