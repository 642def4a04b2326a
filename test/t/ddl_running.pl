# Commands on a stream's objects while its worker goes batch after batch: each
# does what it says, none deadlocks, and no worker is left behind.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 2);
my $node = new_node('running', 'stream_agg.max_attempts = 3', 'log_min_messages = error', 'log_statement = none');
my $brokers = $broker->brokers;
my $n = 0;

sub backlog
{
	my $records = shift // 5_000;
	$broker->produce('events', map {
		$n++;
		[ $n % 2, undef, sprintf('{"ts": "2026-01-01T00:%02d:00Z", "k": %d, "v": %d}', $n % 60, $n % 5, $n) ] } 1 .. $records);
	return;
}

sub psql { return $node->safe_psql('postgres', @_); }

my $grants = q{
	GRANT CREATE ON DATABASE postgres TO alice, bob;
	GRANT CREATE ON SCHEMA public TO alice, bob;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO alice};

$node->safe_psql('postgres', q{
	ALTER DATABASE postgres SET client_min_messages = warning;
	CREATE ROLE alice LOGIN;
	CREATE ROLE bob LOGIN});
psql($grants);

# a stream of alice's, with source and sink in her schema, in the middle of a backlog
sub begin
{
	my ($mode) = @_;
	$node->safe_psql('postgres', qq{
		CREATE SCHEMA IF NOT EXISTS alice;
		SET search_path = alice, public;
		SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers', columns => 'ts timestamptz, k int, v int',
			options => '{"fetch.wait.max.ms": 20}', if_not_exists => true);
		SELECT stream_agg.create_stream('counts', \$q\$ SELECT stream_agg.tumble(ts, '1 hour') AS win, k, count(*) AS n, sum(v) AS v
			  FROM events GROUP BY 1, k \$q\$,
			output_mode => '$mode', watermark => '1 hour', trigger => '0', max_offsets_per_trigger => 20)},
		extra_params => [ '-U', 'alice' ]);
	backlog();
	$node->poll_query_until('postgres', q{SELECT batches > 5 FROM pg_stat_stream_agg});
	return;
}

sub goes_on
{
	my ($name, $sink) = @_;
	psql(q{SELECT stream_agg.process_available(stream, '2 minutes') FROM stream_agg.streams});
	is_equal_tables($node, 'SELECT win, k, n, v FROM ' . ($sink // 'alice.counts'), 'SELECT * FROM alice.counts_query', $name);
	is(psql('SELECT rows_in FROM pg_stat_stream_agg'), $n, 'every record once');
	return;
}

sub failed
{
	my ($error, $name) = @_;
	# the backlog may be done before the command came
	backlog(20);
	$node->psql('postgres', q{SELECT stream_agg.process_available(stream) FROM stream_agg.streams});
	ok($node->poll_query_until('postgres', q{SELECT state = 'failed' AND pid IS NULL FROM pg_stat_stream_agg}), $name);
	like(psql('SELECT last_error FROM pg_stat_stream_agg'), qr/$error/s, 'and says why');
	return;
}

sub gone
{
	my ($name) = @_;
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker'});
	# a slot that a worker has left behind the command is freed by the next look around
	$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM stream_agg.stat_streams()');
	is(psql(q{SELECT (SELECT count(*) FROM stream_agg.streams) + (SELECT count(*) FROM stream_agg.sources) +
		(SELECT count(*) FROM stream_agg.offsets) + (SELECT count(*) FROM stream_agg.commits) + (SELECT count(*) FROM stream_agg.state) +
		(SELECT count(*) FROM stream_agg.stat_streams())}), 0, $name);
	psql('DROP SCHEMA IF EXISTS alice CASCADE');
	return;
}

# --- what a stream does not mind
begin('update');
psql(q{TRUNCATE alice.counts});
backlog();
goes_on('TRUNCATE: groups come back whole when they change');
backlog();
psql(q{
	ALTER TABLE alice.counts ADD COLUMN noted timestamptz DEFAULT now();
	ALTER TABLE alice.counts ALTER COLUMN n TYPE numeric});
goes_on('ADD COLUMN, and another type that takes the values');
backlog();
psql(q{ALTER TABLE alice.counts RENAME TO renamed; CREATE SCHEMA elsewhere; GRANT USAGE ON SCHEMA elsewhere TO alice, bob; ALTER TABLE alice.renamed SET SCHEMA elsewhere});
goes_on('RENAME and SET SCHEMA of the sink', 'elsewhere.renamed');
backlog();
psql(q{ALTER SCHEMA elsewhere RENAME TO there; ALTER FOREIGN TABLE alice.events RENAME TO happenings;
	ALTER FOREIGN TABLE alice.happenings RENAME COLUMN v TO val});
goes_on('names of schema, source and column', 'there.renamed');
backlog();
psql(q{VACUUM FULL there.renamed; CREATE INDEX ON there.renamed (n); CLUSTER there.renamed USING renamed_n_idx;
	REINDEX TABLE CONCURRENTLY there.renamed; ALTER TABLE there.renamed RENAME TO counts; ALTER TABLE there.counts SET SCHEMA alice});
goes_on('VACUUM FULL, CLUSTER, REINDEX');

# --- owners
backlog();
my ($status, $out, $err) = $node->psql('postgres', 'DROP ROLE alice');
like($err, qr/cannot be dropped/, 'DROP ROLE of the owner is refused');
psql('REASSIGN OWNED BY alice TO bob');
$node->poll_query_until('postgres', q{SELECT state = 'stopped' FROM pg_stat_stream_agg})
  and pass('REASSIGN OWNED stops the stream');
psql(q{SELECT stream_agg.start_stream('alice.counts')});
$node->poll_query_until('postgres',
	q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker' AND usename = 'bob'})
  and pass('started, it has a worker of the new owner');
goes_on('who goes on');
backlog();
psql('ALTER ROLE bob RENAME TO robert');
goes_on('a renamed owner goes on');
psql('ALTER ROLE robert RENAME TO bob');
backlog();
psql('DROP OWNED BY bob CASCADE');
psql($grants);
gone('DROP OWNED drops the stream with its sink and source');

# --- what makes it fail, and how it goes on
begin('update');
psql('ALTER TABLE alice.counts RENAME COLUMN v TO total');
failed('has no column "v"', 'a column of the sink that is gone stops the stream');
psql(q{ALTER TABLE alice.counts RENAME COLUMN total TO v; SELECT stream_agg.start_stream('alice.counts')});
goes_on('with it back the stream goes on');
backlog();
psql('ALTER TABLE alice.counts ALTER COLUMN k TYPE text');
failed('key column "k"', 'a type of a key that makes keys equal');
psql(q{ALTER TABLE alice.counts ALTER COLUMN k TYPE int USING k::int; SELECT stream_agg.start_stream('alice.counts')});
goes_on('with the right type it goes on');
backlog();
psql('DROP INDEX alice.counts_lower_k_idx');
failed('no unique index', 'a sink without its unique index');
psql(q{CREATE UNIQUE INDEX ON alice.counts (win, k) NULLS NOT DISTINCT; SELECT stream_agg.start_stream('alice.counts')});
goes_on('with another it goes on');
backlog();
psql('DROP TABLE alice.counts');
failed('the sink of the stream does not exist', 'DROP of the sink');
is(psql('SELECT sink::oid FROM stream_agg.streams'), 0, 'whose OID is forgotten');
psql(q{SELECT stream_agg.drop_stream('alice.counts')});
gone('and the stream can be dropped');

# --- drops of everything it stands on, again and again
for my $drop (
	('DROP VIEW alice.counts_query') x 3,
	('DROP SCHEMA alice CASCADE') x 3,
	('DROP FOREIGN TABLE alice.events CASCADE') x 2,
	'DROP OWNED BY alice CASCADE',
	'BEGIN; DROP TABLE alice.counts; DROP VIEW alice.counts_query; DROP FOREIGN TABLE alice.events; COMMIT',
	'BEGIN; DROP VIEW alice.counts_query; DROP TABLE alice.counts; COMMIT')
{
	psql($grants);
	begin('update');
	if ($drop =~ /^DROP FOREIGN/)
	{
		($status, $out, $err) = $node->psql('postgres', 'DROP FOREIGN TABLE alice.events');
		like($err, qr/other objects depend on it/, 'DROP of the source is refused');
	}
	($status, $out, $err) = $node->psql('postgres', $drop);
	is($status, 0, $drop) or diag($err);
	gone('and nothing is left');
}

# --- a drop that is rolled back
psql($grants);
begin('update');
psql('BEGIN; DROP SCHEMA alice CASCADE; ROLLBACK');
goes_on('a drop that is rolled back changes nothing');
psql('DROP SCHEMA alice CASCADE');
gone('DROP SCHEMA CASCADE drops the stream');

# --- append: TRUNCATE forgets windows that are written
begin('append');
psql(q{SELECT stream_agg.process_available('alice.counts', '2 minutes')});
$broker->produce('events', map { [ $_, undef, '{"ts": "2026-01-01T02:30:00Z", "k": 1, "v": 1}' ] } 0, 1);
psql(q{SELECT stream_agg.process_available('alice.counts')});
is(psql('SELECT count(*), sum(n) FROM alice.counts'), "5|$n", 'append has written a window');
psql('TRUNCATE alice.counts');
$broker->produce('events', map { [ $_, undef, '{"ts": "2026-01-01T04:30:00Z", "k": 1, "v": 1}' ] } 0, 1);
psql(q{SELECT stream_agg.process_available('alice.counts')});
is(psql('SELECT lower(win) = $$2026-01-01T02:00:00Z$$, n FROM alice.counts'), 't|2', 'after TRUNCATE only new windows come');
# --- the extension itself goes with its sources, and so with all streams; sinks stay
backlog();
psql('DROP EXTENSION stream_agg CASCADE');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker'})
  and pass('DROP EXTENSION CASCADE ends the worker');
is(psql(q{SELECT to_regclass('alice.counts') IS NOT NULL, to_regclass('alice.counts_query') IS NULL, to_regclass('alice.events') IS NULL}),
	't|t|t', 'the sink stays, query and source go');

my @odd = grep { /FATAL|PANIC|TRAP|cache lookup failed|could not open relation|pl ERROR:  deadlock/ } split /\n/, slurp_file($node->logfile);
is("@odd", '', 'no odd errors in the log; in a deadlock it is the worker that gives way');
done_testing();
