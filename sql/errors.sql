-- what a stream cannot be, and what it says about it
\set VERBOSITY default
CREATE TABLE users (id bigint PRIMARY KEY, name text);

-- the example with one part changed at a time
CREATE FUNCTION pg_temp.try(query text, mode text DEFAULT 'append', watermark interval DEFAULT '1 minute',
                            event_time text DEFAULT NULL)
RETURNS void LANGUAGE sql AS
$$ SELECT stream_agg.create_stream('bad', query, watermark => watermark, output_mode => mode,
                                   event_time => event_time, start => false) $$;
\set SHOW_CONTEXT never

-- watermark and event time
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM clicks GROUP BY 1', watermark => NULL);
SELECT pg_temp.try('SELECT user_id, count(*) FROM clicks GROUP BY 1', watermark => NULL);
SELECT pg_temp.try('SELECT user_id, count(*) FROM clicks GROUP BY 1', event_time => 'ts');
SELECT pg_temp.try('SELECT user_id, count(*) FROM clicks GROUP BY 1', mode => 'update');
SELECT pg_temp.try('SELECT user_id, count(*) FROM clicks GROUP BY 1', mode => 'update', event_time => 'nosuch');
SELECT pg_temp.try('SELECT user_id, count(*) FROM clicks GROUP BY 1', mode => 'update', event_time => 'user_id');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 month''), count(*) FROM clicks GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''0 min''), count(*) FROM clicks GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, user_id * interval ''1 min''), count(*) FROM clicks GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min'') AS a, stream_agg.tumble(ts, ''2 min'') AS b, count(*) FROM clicks GROUP BY 1, 2');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM clicks GROUP BY 1', watermark => '1 month');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM clicks GROUP BY 1', watermark => '-1 s');

-- where the source stands
SELECT pg_temp.try('SELECT id, count(*) FROM users GROUP BY 1', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT stream_agg.tumble(a.ts, ''1 min''), count(*) FROM clicks a JOIN clicks b USING (user_id) GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM users LEFT JOIN clicks ON id = user_id GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM clicks FULL JOIN users ON id = user_id GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM (SELECT * FROM clicks LIMIT 10) c GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM (SELECT ts, count(*) FROM clicks GROUP BY ts) c GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM (SELECT DISTINCT ts FROM clicks) c GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM (SELECT ts FROM clicks UNION SELECT ts FROM clicks) c GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM (SELECT ts FROM clicks UNION ALL (SELECT ts FROM clicks EXCEPT SELECT now())) c GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM (SELECT ts FROM clicks UNION ALL SELECT ''yesterday'' FROM users) c GROUP BY 1');
SELECT pg_temp.try('WITH c AS (SELECT ts FROM clicks) SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM (SELECT ts FROM c UNION ALL SELECT ts FROM c) c GROUP BY 1');
SELECT stream_agg.create_source('far_clicks', topic => 'clicks', brokers => 'far:9092', columns => 'ts timestamptz');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM (SELECT ts FROM clicks UNION ALL SELECT ts FROM far_clicks) c GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM clicks JOIN far_clicks USING (ts) GROUP BY 1');
SELECT stream_agg.drop_source('far_clicks');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM clicks WHERE user_id IN (SELECT user_id FROM clicks) GROUP BY 1');
SELECT pg_temp.try('SELECT name, count(*) FROM users WHERE id IN (SELECT user_id FROM clicks) GROUP BY 1', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM (SELECT ts, rank() OVER (ORDER BY ts) FROM clicks) c GROUP BY 1');

-- what stands beside it
CREATE FUNCTION all_clicks() RETURNS SETOF clicks STABLE LANGUAGE sql AS 'SELECT * FROM clicks';
CREATE TABLE own_result (id bigint, count bigint, UNIQUE NULLS NOT DISTINCT (id));
SELECT pg_temp.try('SELECT id, count(*) FROM clicks JOIN (SELECT id FROM users FOR UPDATE) u ON id = user_id GROUP BY 1', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT id, count(*) FROM clicks JOIN users TABLESAMPLE BERNOULLI (50) ON id = user_id GROUP BY 1', mode => 'update', watermark => NULL);
SELECT pg_temp.try('WITH RECURSIVE r AS (SELECT user_id AS id FROM clicks UNION SELECT users.id FROM r JOIN users USING (id)) SELECT id, count(*) FROM r GROUP BY 1', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT user_id AS id, count(*) FROM all_clicks() GROUP BY 1', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT c.user_id AS id, count(*) FROM clicks c JOIN all_clicks() USING (user_id) GROUP BY 1', mode => 'update', watermark => NULL);
SELECT stream_agg.create_stream('bad', 'SELECT user_id AS id, count(*) FROM clicks LEFT JOIN own_result r ON r.id = user_id GROUP BY 1', output_mode => 'update', sink => 'own_result');
DROP TABLE own_result;
DROP FUNCTION all_clicks;

-- system columns of a record, but for the source's OID
SELECT pg_temp.try('SELECT user_id, max(ctid) FROM clicks GROUP BY 1', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT user_id, count(*) FROM clicks c WHERE EXISTS (SELECT FROM users WHERE c.xmin IS NULL) GROUP BY 1', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT clicks.tableoid::regclass AS t, max(users.ctid) AS place, max(clicks.cmax::text) AS cmax FROM clicks JOIN users ON id = user_id GROUP BY 1', mode => 'update', watermark => NULL);

-- the shape of the query
SELECT pg_temp.try('SELECT count(*) FROM clicks', watermark => NULL);
SELECT pg_temp.try('SELECT count(*) FROM clicks GROUP BY ()', event_time => 'ts');
SELECT pg_temp.try('SELECT user_id, count(*) FROM clicks GROUP BY GROUPING SETS ((user_id), ())', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT user_id, count(*) FROM clicks GROUP BY ROLLUP (user_id)', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM clicks GROUP BY 1 ORDER BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM clicks GROUP BY 1 LIMIT 1');
SELECT pg_temp.try('SELECT DISTINCT stream_agg.tumble(ts, ''1 min''), count(*) FROM clicks GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), rank() OVER (ORDER BY count(*)) FROM clicks GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), generate_series(1, 2), count(*) FROM clicks GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*) FROM clicks WHERE random() < 0.5 GROUP BY 1');
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*), clock_timestamp() FROM clicks GROUP BY 1');
SELECT pg_temp.try('SELECT id, name, count(*) FROM clicks JOIN users ON id = user_id GROUP BY id', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT count(*) FROM clicks GROUP BY user_id', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT stream_agg.tumble(ts, ''1 min''), count(*), count(*) FROM clicks GROUP BY 1');

-- rows that are not aggregated
SELECT pg_temp.try('SELECT * FROM clicks');
SELECT pg_temp.try('SELECT * FROM clicks', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT * FROM clicks', mode => 'complete', watermark => NULL);
SELECT pg_temp.try('SELECT * FROM clicks ORDER BY ts', watermark => NULL);
SELECT pg_temp.try('SELECT * FROM clicks LIMIT 10', watermark => NULL);
SELECT pg_temp.try('SELECT * FROM clicks WHERE random() < 0.5', watermark => NULL);
SELECT pg_temp.try('SELECT *, rank() OVER (ORDER BY ts) FROM clicks', watermark => NULL);
SELECT pg_temp.try('SELECT * FROM clicks FOR UPDATE', watermark => NULL);
SELECT pg_temp.try('SELECT DISTINCT user_id FROM clicks', event_time => 'ts');
SELECT stream_agg.create_stream('bad', 'SELECT * FROM clicks', start => false, options => '{"max_future": "1 hour"}');

-- deduplication
SELECT pg_temp.try('SELECT DISTINCT ON (user_id) * FROM clicks');
SELECT pg_temp.try('SELECT DISTINCT ON (user_id) * FROM clicks', event_time => 'ts', watermark => NULL);
SELECT pg_temp.try('SELECT DISTINCT ON (user_id) * FROM clicks', event_time => 'ts', mode => 'update');
SELECT pg_temp.try('SELECT DISTINCT ON (user_id) * FROM clicks ORDER BY user_id, ts', event_time => 'ts');
SELECT pg_temp.try('SELECT DISTINCT ON (user_id) user_id, count(*) FROM clicks GROUP BY user_id', event_time => 'ts', mode => 'update');
SELECT pg_temp.try('SELECT DISTINCT ON (user_id::bit(64)) * FROM clicks', event_time => 'ts');

-- aggregates of which neither state nor inputs can be kept
SELECT pg_temp.try('SELECT user_id, json_agg(c) FROM (SELECT user_id, ts FROM clicks) c GROUP BY 1', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT user_id, count(DISTINCT (ts, (1, user_id))) FROM clicks GROUP BY 1', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT user_id, percentile_cont((SELECT 0.5)) WITHIN GROUP (ORDER BY purchase_amount::float8) FROM clicks GROUP BY 1', mode => 'update', watermark => NULL);

-- not one SELECT
SELECT pg_temp.try('');
SELECT pg_temp.try('SELECT 1; SELECT 2');
SELECT pg_temp.try('DELETE FROM clicks');
SELECT pg_temp.try('SELECT user_id, count(*) FROM clicks WHERE user_id = $1 GROUP BY 1', mode => 'update', watermark => NULL);
SELECT pg_temp.try('SELECT nosuch FROM clicks');
SELECT pg_temp.try('SELECT FROM WHERE');

-- arguments
SELECT pg_temp.try('SELECT user_id, count(*) FROM clicks GROUP BY 1', mode => 'upsert');
SELECT pg_temp.try('SELECT count(*) FROM clicks GROUP BY user_id', mode => 'complete', watermark => NULL);
\set q '\'SELECT user_id, count(*) FROM clicks GROUP BY 1\''
SELECT stream_agg.create_stream(NULL, :q, output_mode => 'update');
SELECT stream_agg.create_stream('bad', NULL, output_mode => 'update');
SELECT stream_agg.create_stream('', :q, output_mode => 'update');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', trigger => '-1 s');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', trigger => '1 month');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', starting_offsets => 'newest');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', max_offsets_per_trigger => 0);
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', options => '{"nosuch": 1}');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', options => '{"on_eror": null}');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', options => '{"trigger": "5 seconds"}');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', options => '[]');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', options => '{"on_error": "ignore"}');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', options => '{"on_error": null}');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', event_time => 'ts', options => '{"max_future": "-1 hour"}');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', event_time => 'ts', options => '{"max_future": 0}');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', event_time => 'ts', options => '{"max_future": "1 month"}');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', event_time => 'ts', options => '{"max_future": "soon"}');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', options => '{"max_future": "1 hour"}');
SELECT stream_agg.create_stream('nosuch.bad', :q, output_mode => 'update');

-- a shared reader
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', reader => '');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', reader => repeat('r', 64));
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', options => '{"on_failure": "stop_all"}');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', reader => 'r', options => '{"on_failure": "detach"}');
BEGIN;
SELECT stream_agg.create_stream('good', :q, output_mode => 'update', reader => 'r', start => false, options => '{"on_failure": "stop_all"}');
SAVEPOINT good;
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', reader => 'r', trigger => '2 s');
ROLLBACK TO good;
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', reader => 'r', max_offsets_per_trigger => 5);
ROLLBACK TO good;
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', reader => 'r', options => '{"on_data_loss": "earliest"}');
ROLLBACK TO good;
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', reader => 'r', options => '{"consumer_group": "g"}');
ROLLBACK TO good;
SELECT stream_agg.create_stream('other', :q, output_mode => 'update', reader => 'r', start => false, max_offsets_per_trigger => NULL);
SAVEPOINT other;
SELECT stream_agg.alter_stream('other', '{"min_offsets_per_trigger": 10}');
ROLLBACK TO other;
SELECT stream_agg.alter_stream('other', '{"on_error": "skip"}');
SELECT stream, reader, options FROM stream_agg.streams ORDER BY stream;
SELECT stream, state, reader, read_by FROM pg_stat_stream_agg ORDER BY stream;
ROLLBACK;

-- an owner who cannot connect
CREATE ROLE stream_nologin NOLOGIN;
GRANT SELECT ON clicks TO stream_nologin;
GRANT CREATE ON SCHEMA public TO stream_nologin;
SET ROLE stream_nologin;
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update');
RESET ROLE;
REVOKE ALL ON clicks FROM stream_nologin;
REVOKE CREATE ON SCHEMA public FROM stream_nologin;
DROP ROLE stream_nologin;

-- nothing is left of all this
SELECT count(*) FROM stream_agg.streams;
SELECT to_regclass('bad'), to_regclass('bad_query');
DROP TABLE users;
