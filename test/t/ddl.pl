# Commands on a stream's objects while it runs.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1);
my $node = new_node('ddl', 'stream_agg.keep_batches = 5');
my $k = 0;

sub record { return qq({"ts": "2026-01-01T00:00:00Z", "k": $_[0], "v": 1}); }

sub create
{
	my ($database, $stream) = @_;
	$node->safe_psql($database, "SELECT stream_agg.create_stream('$stream',
		'SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update', trigger => '100 ms')");
	return;
}

sub gone
{
	my ($database, $what) = @_;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker' AND datname = '$database'")
	  and pass($what);
	return;
}

$node->safe_psql('postgres', 'ALTER DATABASE postgres SET client_min_messages = warning');
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');

# --- the logs keep the last batches
create('postgres', 'trimmed');
for (1 .. 20)
{
	$broker->produce('events', record(++$k));
	process($node, 'trimmed');
}
is($node->safe_psql('postgres', q{SELECT max(batch), count(*) <= 7 FROM stream_agg.commits}), '19|t',
	'old commits are trimmed');
is($node->safe_psql('postgres', q{SELECT count(*) <= 7 FROM stream_agg.offsets}), 't', 'and old plans');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM stream_agg.state'), '<=', 100, 'and old state');

# --- TRUNCATE of the sink: groups that change come back with their whole count
$node->safe_psql('postgres', 'TRUNCATE trimmed');
$broker->produce('events', record(1));
process($node, 'trimmed');
is($node->safe_psql('postgres', 'SELECT * FROM trimmed'), '1|2', 'after TRUNCATE the stream goes on');

# --- a new column of the sink, an index, a rename
$node->safe_psql('postgres', q{
	ALTER TABLE trimmed ADD COLUMN noted timestamptz DEFAULT now();
	CREATE INDEX ON trimmed (n);
	ALTER TABLE trimmed RENAME TO counted});
$broker->produce('events', record(1), record(500));
process($node, 'trimmed');
is($node->safe_psql('postgres', 'SELECT k, n FROM counted WHERE k IN (1, 500) ORDER BY k'), "1|3\n500|1",
	'the sink may change as long as it fits');

# --- ownership
$node->safe_psql('postgres', q{
	CREATE ROLE heir LOGIN;
	GRANT CREATE ON SCHEMA public TO heir;
	ALTER VIEW trimmed_query OWNER TO heir;
	ALTER TABLE counted OWNER TO heir;
	ALTER FOREIGN TABLE events OWNER TO heir;
	GRANT USAGE ON FOREIGN SERVER } . $node->safe_psql('postgres', 'SELECT srvname FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$') . q{ TO heir});
$broker->produce('events', record(1));
wait_state($node, 'trimmed', 'stopped');
is($node->safe_psql('postgres', 'SELECT n FROM counted WHERE k = 1'), 3, 'another owner: the stream stops');
$node->safe_psql('postgres', q{SELECT stream_agg.start_stream('trimmed')});
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker' AND usename = 'heir'})
  and pass('a new owner gets a worker of his own');
process($node, 'trimmed');
is($node->safe_psql('postgres', 'SELECT n FROM counted WHERE k = 1'), 4, 'who goes on');

# --- dropping things
$node->safe_psql('postgres', 'DROP VIEW trimmed_query');
gone('postgres', 'DROP VIEW ends the stream');
is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM stream_agg.commits) + (SELECT count(*) FROM stream_agg.state)'),
	0, 'with all its rows');

create('postgres', 'second');
worker_pid($node, 'second');
$node->safe_psql('postgres', 'DROP FOREIGN TABLE events CASCADE');
gone('postgres', 'DROP FOREIGN TABLE CASCADE ends its streams');

create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');
create('postgres', 'third');
worker_pid($node, 'third');
$node->safe_psql('postgres', 'DROP EXTENSION stream_agg CASCADE');
gone('postgres', 'DROP EXTENSION CASCADE ends all of them');
$node->safe_psql('postgres', 'CREATE EXTENSION stream_agg; DROP TABLE IF EXISTS second, third');
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');
create('postgres', 'third');
process($node, 'third');
is_equal_tables($node, 'SELECT * FROM third', 'SELECT k, count(*) AS n FROM events GROUP BY k',
	'the extension can be created again');

# --- a second database, with a stream of the same name; then it is dropped
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION stream_agg');
my $brokers = $broker->brokers;
$node->safe_psql('other', "SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers', columns => 'k int')");
create('other', 'third');
is($node->safe_psql('other', q{SELECT batches >= 0 FROM stream_agg.process_available('third')}), 't',
	'another database has streams of its own');
$node->safe_psql('postgres', 'DROP DATABASE other WITH (FORCE)');
gone('other', 'DROP DATABASE ends its workers');
$broker->produce('events', record(1));
process($node, 'third');
is_equal_tables($node, 'SELECT * FROM third', 'SELECT k, count(*) AS n FROM events GROUP BY k', 'the others go on');

# --- one transaction makes and drops a stream, another is rolled back
$node->safe_psql('postgres', q{
	BEGIN;
	SELECT stream_agg.create_stream('brief', 'SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update');
	SELECT stream_agg.drop_stream('brief', drop_sink => true);
	COMMIT;
	BEGIN;
	SELECT stream_agg.stop_stream('third');
	ROLLBACK});
$broker->produce('events', record(2));
process($node, 'third');
is_equal_tables($node, 'SELECT * FROM third', 'SELECT k, count(*) AS n FROM events GROUP BY k',
	'a stop that is rolled back does not stop');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_stat_stream_agg'), 1, 'nothing is left of the brief one');

# --- shared memory is given back
$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('third')});
gone('postgres', 'the last worker has ended');

# --- tables that inherit from a source
$node->safe_psql('postgres', q{CREATE DATABASE heirs});
$node->safe_psql('heirs', 'CREATE EXTENSION stream_agg; ALTER DATABASE heirs SET client_min_messages = warning');
my $heirs_brokers = $broker->brokers;
$node->safe_psql('heirs', "SELECT stream_agg.create_source('events', topic => 'events', brokers => '$heirs_brokers', columns => 'ts timestamptz, k int, v int')");
my $kid = q{CREATE TABLE kid () INHERITS (events); INSERT INTO kid SELECT now(), 1, i FROM generate_series(1, 1000) i};
$node->safe_psql('heirs', $kid);
create('heirs', 'heir');
my $count_heir = sub {
	$node->safe_psql('heirs', q{SELECT * FROM stream_agg.process_available('heir')});
	return $node->safe_psql('heirs', q{SELECT sum(n) = (SELECT count(*) FROM ONLY events) FROM heir});
};
is($count_heir->(), 't', 'a table that inherits from a source has no records');
is($node->safe_psql('heirs', q{SELECT total_delivered = total_aggregated FROM stream_agg.commits WHERE stream = 'heir' ORDER BY batch DESC LIMIT 1}), 't', 'as many rows as records');
$node->safe_psql('heirs', q{SELECT stream_agg.reset_stream('heir', results => true)});
is($count_heir->(), 't', 'nor after a reset');
$node->safe_psql('heirs', q{DROP TABLE kid});
create('heirs', 'heir_later');
is($node->safe_psql('heirs', $kid . q{; SELECT rows_in FROM stream_agg.preview('SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update'), LATERAL (SELECT 1 AS rows_in) x LIMIT 1}), 1, 'a query is tried beside such a table');
$broker->produce('events', record(++$k));
is($count_heir->(), 't', 'a table that comes later changes nothing');
$node->safe_psql('heirs', q{SELECT stream_agg.drop_stream(stream, drop_sink => true) FROM stream_agg.streams});

done_testing();
