-- a stream is its owner's
CREATE ROLE stream_alice LOGIN;
CREATE ROLE stream_bob LOGIN;
CREATE SCHEMA alice AUTHORIZATION stream_alice;
CREATE SCHEMA bob AUTHORIZATION stream_bob;
GRANT USAGE ON SCHEMA alice TO stream_bob;

-- brokers of one's choice need USAGE on the wrapper
SET ROLE stream_alice;
SELECT stream_agg.create_source('alice.events', topic => 'events', brokers => 'localhost:1',
    columns => 'ts timestamptz, id bigint');
RESET ROLE;
GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO stream_alice;
SET ROLE stream_alice;
SELECT stream_agg.create_source('alice.events', topic => 'events', brokers => 'localhost:1',
    columns => 'ts timestamptz, id bigint');
SELECT stream_agg.create_stream('alice.counts', 'SELECT id, count(*) AS n FROM alice.events GROUP BY id',
    output_mode => 'update', start => false);
SELECT stream, enabled FROM stream_agg.streams;
SELECT stream, state FROM pg_stat_stream_agg;

-- another role neither sees nor touches it
SET ROLE stream_bob;
SELECT stream FROM stream_agg.streams;
SELECT stream FROM stream_agg.sources;
SELECT count(*) FROM stream_agg.offsets;
SELECT count(*) FROM stream_agg.commits;
SELECT count(*) FROM stream_agg.state;
SELECT count(*) FROM stream_agg.dead_letters;
SELECT stream FROM pg_stat_stream_agg;
SELECT stream FROM pg_stat_stream_agg_partitions;
-- not by a function that looks cheap either
CREATE FUNCTION bob.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
$$ BEGIN RAISE NOTICE 'told %', $1; RETURN true; END $$;
SELECT stream FROM stream_agg.streams WHERE bob.tell(stream);
SELECT stream FROM pg_stat_stream_agg WHERE bob.tell(stream);
SELECT stream FROM pg_stat_stream_agg_partitions WHERE bob.tell(stream);
SELECT stream_agg.start_stream('alice.counts');
SELECT stream_agg.stop_stream('alice.counts');
SELECT stream_agg.alter_stream('alice.counts', '{"on_error": "skip"}');
SELECT stream_agg.drop_stream('alice.counts');
SELECT stream_agg.process_available('alice.counts');
SELECT * FROM alice.events;
SELECT * FROM alice.counts;
SELECT stream_agg.create_stream('bob.counts', 'SELECT id, count(*) FROM alice.events GROUP BY 1', output_mode => 'update');
SELECT stream_agg.drop_source('alice.events');

-- nor reads through a stream what it may not read itself
RESET ROLE;
CREATE TABLE alice.secret (id bigint);
GRANT SELECT ON alice.events TO stream_bob;
SET ROLE stream_bob;
SELECT stream_agg.create_stream('bob.counts', 'SELECT id, count(*) FROM alice.events JOIN alice.secret USING (id) GROUP BY 1',
    output_mode => 'update');
SELECT stream_agg.create_stream('bob.counts', 'SELECT id, count(*) FROM alice.events WHERE id IN (SELECT id FROM alice.secret) GROUP BY 1',
    output_mode => 'update');
SELECT stream_agg.create_stream('bob.counts', 'SELECT id, count(*) FROM alice.events GROUP BY 1 HAVING count(*) > (SELECT count(*) FROM alice.secret)',
    output_mode => 'update');
RESET ROLE;
REVOKE SELECT ON alice.events FROM stream_bob;
DROP TABLE alice.secret;
SET ROLE stream_bob;
SELECT * FROM stream_agg.stat_streams();

-- nobody but the worker writes, not even the owner
SET ROLE stream_alice;
INSERT INTO stream_agg.state VALUES ('alice.counts', 0, 0, 0, true, '');
UPDATE stream_agg.streams SET enabled = true;
DELETE FROM stream_agg.commits;
INSERT INTO stream_agg.dead_letters (stream, batch, topic, partition, "offset", error) VALUES ('alice.counts', 0, '', 0, 0, '');
UPDATE stream_agg.dead_letters SET error = '';
DELETE FROM stream_agg.dead_letters;
TRUNCATE stream_agg.dead_letters;
TRUNCATE stream_agg.offsets;

-- pg_monitor sees statistics
RESET ROLE;
GRANT pg_monitor TO stream_bob;
SET ROLE stream_bob;
SELECT stream, state FROM pg_stat_stream_agg;
SELECT stream FROM stream_agg.streams;
RESET ROLE;

-- the stream follows its view to another owner
REASSIGN OWNED BY stream_alice TO stream_bob;
SET ROLE stream_bob;
SELECT stream FROM stream_agg.streams;
SELECT stream_agg.drop_stream('alice.counts', drop_sink => true);
RESET ROLE;
SELECT count(*) FROM stream_agg.streams;
DROP OWNED BY stream_bob, stream_alice CASCADE;
DROP ROLE stream_alice, stream_bob;
