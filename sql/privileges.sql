-- a stream is its owner's
CREATE ROLE stream_alice LOGIN;
CREATE ROLE stream_bob LOGIN;
CREATE SCHEMA alice AUTHORIZATION stream_alice;
CREATE SCHEMA bob AUTHORIZATION stream_bob;
GRANT USAGE ON SCHEMA alice TO stream_bob;

-- brokers of your choice need USAGE on the wrapper
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
INSERT INTO stream_agg.state VALUES ('alice.counts', 0, 0, 0, 0, true, 0, 0, 0, '');
UPDATE stream_agg.streams SET enabled = true;
DELETE FROM stream_agg.commits;
INSERT INTO stream_agg.dead_letters (stream, batch, topic, partition, "offset", error) VALUES ('alice.counts', 0, '', 0, 0, '');
UPDATE stream_agg.dead_letters SET error = '';
DELETE FROM stream_agg.dead_letters;
TRUNCATE stream_agg.dead_letters;
TRUNCATE stream_agg.offsets;

SELECT stream_agg.delete_dead_letters('alice.counts');
SELECT stream_agg.delete_dead_letters('alice.counts', 0);
SELECT stream_agg.delete_dead_letters(NULL);
DELETE FROM stream_agg.late_records;
SET ROLE stream_bob;
SELECT stream_agg.delete_dead_letters('alice.counts');
SELECT stream_agg.delete_late_records('alice.counts');
SELECT stream_agg.repair_late('alice.counts');

-- what opens files, runs programs or fetches URLs is for superusers, or for nobody
SET ROLE stream_alice;
CREATE FUNCTION pg_temp.try_server(name text, value text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE SERVER bad FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers %L, %I %L)', 'localhost:1', name, value);
EXCEPTION WHEN fdw_error OR insufficient_privilege THEN
    RAISE NOTICE '%: % (%)', name, sqlerrm, sqlstate;
END $$;
CREATE FUNCTION pg_temp.try_mapping(name text, value text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE USER MAPPING FOR CURRENT_USER SERVER own OPTIONS (%I %L)', name, value);
EXCEPTION WHEN fdw_error OR insufficient_privilege THEN
    RAISE NOTICE '%: % (%)', name, sqlerrm, sqlstate;
END $$;
CREATE SERVER own FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'localhost:1');
\set attempts 'VALUES (''plugin.library.paths'', ''/tmp/x.so''), (''ssl.engine.location'', ''/tmp/x.so''), (''ssl.engine.id'', ''dynamic''), (''ssl.providers'', ''legacy''), (''sasl.kerberos.kinit.cmd'', ''touch /tmp/x''), (''sasl.kerberos.keytab'', ''/etc/keytab''), (''ssl.keystore.location'', ''/etc/passwd''), (''sasl.oauthbearer.token.endpoint.url'', ''http://localhost''), (''sasl.oauthbearer.config'', ''principal=x''), (''enable.sasl.oauthbearer.unsecure.jwt'', ''true''), (''internal.termination.signal'', ''9''), (''debug'', ''all''), (''log_cb'', ''1''), (''group.id'', ''x''), (''auto.offset.reset'', ''latest''), (''enable.auto.commit'', ''true''), (''transactional.id'', ''x''), (''offset.store.path'', ''/tmp/x''), (''ssl.ca.location'', ''/etc/passwd''), (''ssl.crl.location'', ''/etc/passwd''), (''ssl.certificate.location'', ''/etc/passwd''), (''ssl.key.location'', ''/etc/passwd''), (''sasl.mechanisms'', ''GSSAPI''), (''sasl.mechanisms'', ''PLAIN,GSSAPI''), (''sasl.mechanism'', ''OAUTHBEARER''), (''PLUGIN.LIBRARY.PATHS'', ''/tmp/x.so''), (''plugin.library.paths '', ''/tmp/x.so''), (''password'', ''hunter2''), (''ssl.key.pem'', ''hunter2'')'
SELECT count(pg_temp.try_server(n, v)) FROM (:attempts) t(n, v);
SELECT count(pg_temp.try_mapping(n, v)) FROM (:attempts) t(n, v) WHERE n NOT IN ('password', 'ssl.key.pem');
RESET ROLE;
SELECT count(pg_temp.try_server(n, v)) FROM (:attempts) t(n, v) WHERE n !~ 'location|^sasl.mechanism$' OR n ~ 'engine|keystore';

-- nor is a server that a superuser gave such an option pointed elsewhere
CREATE SERVER located FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'localhost:1', "ssl.ca.location" '/etc/ssl/certs');
CREATE USER MAPPING FOR stream_alice SERVER located OPTIONS ("ssl.key.location" '/etc/ssl/private/key');
ALTER SERVER located OWNER TO stream_alice;
SET ROLE stream_alice;
ALTER SERVER located OPTIONS (SET brokers 'elsewhere:1');
ALTER SERVER located OPTIONS (SET "ssl.ca.location" '/etc/passwd');
ALTER USER MAPPING FOR stream_alice SERVER located OPTIONS (ADD user 'x');
ALTER SERVER located OPTIONS (DROP "ssl.ca.location", SET brokers 'elsewhere:1');
DROP SERVER located, own CASCADE;
-- the wrapper is not without its validator, and there is no other
ALTER FOREIGN DATA WRAPPER stream_agg_kafka NO VALIDATOR;
CREATE FOREIGN DATA WRAPPER other HANDLER stream_agg.kafka_handler;
SELECT stream_agg.kafka_validator('{}', 0);
CREATE TABLE alice.streams (database text);
CREATE TRIGGER planted BEFORE INSERT ON alice.streams FOR EACH ROW EXECUTE FUNCTION stream_agg.on_insert();
DROP TABLE alice.streams;

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
