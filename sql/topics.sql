-- sources of several topics: definition only, no broker is contacted
SELECT stream_agg.create_source('visits', topics => ARRAY['web', 'app'], brokers => 'localhost:1',
    columns => $$ts timestamptz, page text, t text OPTIONS (metadata 'topic'),
                 part integer OPTIONS (metadata 'partition')$$);
SELECT stream_agg.create_source('logs', topic_pattern => '^logs-[a-z]+$', brokers => 'localhost:1',
    columns => 'ts timestamptz, line text');
SELECT ftrelid::regclass, ftoptions FROM pg_foreign_table WHERE ftrelid IN ('visits'::regclass, 'logs'::regclass);

-- exactly one of topic, topics and topic_pattern
SELECT stream_agg.create_source('bad', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', 't', topics => '{a}', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topics => '{a}', topic_pattern => 'a', brokers => 'localhost:1', columns => 'a int');
CREATE FOREIGN TABLE bad (a int) SERVER kafka_localhost_1;
CREATE FOREIGN TABLE bad (a int) SERVER kafka_localhost_1 OPTIONS (topic 'a', topics 'a,b');
ALTER FOREIGN TABLE visits OPTIONS (ADD topic_pattern 'x');
ALTER FOREIGN TABLE visits OPTIONS (DROP topics);

-- lists
SELECT stream_agg.create_source('bad', topics => '{}', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topics => '{a,NULL}', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topics => '{a,""}', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topics => '{"a,b"}', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topics => '{a,b,a}', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topics => '{a b}', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topics => '{..}', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topics => ARRAY[repeat('x', 250)], brokers => 'localhost:1', columns => 'a int');
CREATE FOREIGN TABLE bad (a int) SERVER kafka_localhost_1 OPTIONS (topics 'a,,b');
CREATE FOREIGN TABLE bad (a int) SERVER kafka_localhost_1 OPTIONS (topics '');

-- patterns
SELECT stream_agg.create_source('bad', topic_pattern => 'a(', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topic_pattern => ' ', brokers => 'localhost:1', columns => 'a int');

-- the column with the topic
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1',
    columns => $$a int OPTIONS (metadata 'topic')$$);

-- conditions on it are pushed down where they are plain
EXPLAIN (COSTS off) SELECT * FROM visits WHERE t = 'web' AND part = 0;
EXPLAIN (COSTS off) SELECT * FROM visits WHERE t IN ('web', 'app');
EXPLAIN (COSTS off) SELECT * FROM visits WHERE t <> 'web';
EXPLAIN (COSTS off) SELECT * FROM visits WHERE lower(t) = 'web';
EXPLAIN (COSTS off) SELECT * FROM logs;

-- INSERT needs the topic, and goes nowhere else
INSERT INTO logs VALUES (now(), 'x');
INSERT INTO visits (page) VALUES ('x');
INSERT INTO visits (page, t) VALUES ('x', 'other');
EXPLAIN (COSTS off) INSERT INTO visits (page, t) VALUES ('x', 'web');
SELECT stream_agg.create_source('one', topic => 'one', brokers => 'localhost:1',
    columns => $$a int, t text OPTIONS (metadata 'topic')$$);
INSERT INTO one VALUES (1, 'two');


-- where a stream begins, by topic
SELECT stream_agg.create_stream('begun', 'SELECT t, count(*) FROM visits GROUP BY t', output_mode => 'update', start => false,
    starting_offsets => '{"web": {"1": 7, "0": -1}, "app": {"0": 3}}');
SELECT starting_offsets FROM stream_agg.streams;
SELECT stream_agg.drop_stream('begun', drop_sink => true);
SELECT stream_agg.create_stream('begun', 'SELECT t, count(*) FROM visits GROUP BY t', output_mode => 'update', start => false,
    starting_offsets => '{"web": {"1": 7}, "0": 3}');
SELECT stream_agg.create_stream('begun', 'SELECT t, count(*) FROM visits GROUP BY t', output_mode => 'update', start => false,
    starting_offsets => '{"web": {"1": {"0": 7}}}');
SELECT stream_agg.create_stream('begun', 'SELECT t, count(*) FROM visits GROUP BY t', output_mode => 'update', start => false,
    starting_offsets => '{"web": {"x": 7}}');

DROP FOREIGN TABLE one;
DROP FOREIGN TABLE visits;
DROP FOREIGN TABLE logs;
