# Commands on whole databases while their streams consume: none is in the way
# of the other, and every copy continues exactly.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 2);
my $node = new_node('databases', 'max_worker_processes = 20', 'allow_in_place_tablespaces = on');
my $brokers = $broker->brokers;
my $total = 0;

sub produce
{
	my $n = shift;
	$broker->produce('events', map { $total++; [ $total % 2, undef, sprintf('{"k": %d, "v": %d}', $total % 7, $total) ] } 1 .. $n);
	return;
}

# what a worker that goes on batch after batch has before it
sub backlog { return produce(10_000); }

sub workers
{
	my $database = shift;
	return $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity
		WHERE backend_type IN ('stream_agg worker', 'stream_agg scout') AND datname = '$database'");
}

sub worker_of
{
	my $database = shift;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker' AND datname = '$database'");
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'stream_agg worker' AND datname = '$database'");
}

sub goes_on
{
	my ($database, $name) = @_;
	$node->safe_psql($database, q{SELECT stream_agg.process_available('counts', '2 minutes')});
	my $difference = $node->safe_psql($database, q{
		WITH expected AS MATERIALIZED (SELECT * FROM counts_query)
		(SELECT * FROM expected EXCEPT ALL SELECT * FROM counts) UNION ALL
		(SELECT * FROM counts EXCEPT ALL SELECT * FROM expected)});
	is($difference, '', $name);
	is($node->safe_psql($database, 'SELECT rows_in FROM pg_stat_stream_agg'), $total, 'every record once');
	return;
}

sub command
{
	my ($database, $sql, $name) = @_;
	my ($status, $out, $err) = $node->psql($database, $sql);
	is($status, 0, $name) or diag($err);
	return;
}

$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', qq{
	CREATE EXTENSION stream_agg;
	SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers',
		columns => 'k int, v int', options => '{"fetch.wait.max.ms": 20}');
	SELECT stream_agg.create_stream('counts', 'SELECT k, count(*) AS n, sum(v) AS v, max(v) AS last FROM events GROUP BY k',
		output_mode => 'update', trigger => '0', max_offsets_per_trigger => 5)});
produce(100);
goes_on('shop', 'the original');

# --- copies
for my $strategy (qw(wal_log file_copy))
{
	backlog();
	command('postgres', "CREATE DATABASE copy_$strategy TEMPLATE shop STRATEGY $strategy", "a copy by $strategy of a database whose stream consumes");
	cmp_ok($node->safe_psql("copy_$strategy", 'SELECT rows_in FROM pg_stat_stream_agg'), '<', $total, 'in the middle of it');
	is($node->safe_psql("copy_$strategy", q{SELECT state, enabled FROM pg_stat_stream_agg JOIN stream_agg.streams USING (stream)}),
		'stopped|t', 'the stream of the copy is stopped');
	goes_on('shop', 'the original goes on');
	is(workers("copy_$strategy"), 0, 'nothing runs in the copy');
	$node->safe_psql("copy_$strategy", q{SELECT stream_agg.start_stream('counts')});
	goes_on("copy_$strategy", 'the copy goes on from its checkpoint when it is started');
}
backlog();
command('shop', 'CREATE DATABASE copy_own TEMPLATE shop', 'a copy of the database of the session');
goes_on('shop', 'which goes on');
goes_on('copy_wal_log', 'and so does a copy that was started');

# --- RENAME, SET TABLESPACE: the stream goes on by itself
$node->safe_psql('postgres', q{CREATE TABLESPACE elsewhere LOCATION ''});
backlog();
command('postgres', 'ALTER DATABASE shop RENAME TO store', 'RENAME of a database whose stream consumes');
goes_on('store', 'it goes on under its new name');
backlog();
command('postgres', 'ALTER DATABASE store SET TABLESPACE elsewhere', 'SET TABLESPACE');
goes_on('store', 'it goes on at its new place');
unlike(slurp_file($node->logfile), qr/terminating background worker|FATAL/, 'all these workers finished their batch');

# --- DROP
backlog();
worker_of('copy_wal_log');
command('postgres', 'DROP DATABASE copy_wal_log', 'DROP of a database whose stream consumes');
is(workers('copy_wal_log'), 0, 'and its worker is gone');
backlog();
worker_of('copy_file_copy');
command('postgres', 'DROP DATABASE copy_file_copy WITH (FORCE)', 'DROP WITH (FORCE)');
command('postgres', 'DROP DATABASE copy_own', 'DROP of a copy that was never started');
goes_on('store', 'others go on');
unlike(slurp_file($node->logfile), qr/terminating background worker|FATAL/, 'nothing in the log');

# --- who may not run the command does not stop streams; nor does one that cannot succeed
$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN; CREATE ROLE maker LOGIN CREATEDB');
my $worker = worker_of('store');
for my $try (
	[ 'nobody', 'DROP DATABASE store', 'must be owner' ],
	[ 'nobody', 'ALTER DATABASE store RENAME TO mine', 'must be owner' ],
	[ 'nobody', 'ALTER DATABASE store SET TABLESPACE pg_default', 'must be owner' ],
	[ 'nobody', 'CREATE DATABASE mine TEMPLATE store', 'permission denied' ],
	[ 'maker', 'CREATE DATABASE mine TEMPLATE store', 'permission denied' ],
	[ 'postgres', 'CREATE DATABASE postgres TEMPLATE store', 'already exists' ],
	[ 'postgres', 'BEGIN; DROP DATABASE store', 'cannot run inside a transaction block' ],
	[ 'postgres', 'DO $$ BEGIN DROP DATABASE store; END $$', 'cannot be executed from a function' ],
	[ 'postgres', 'DROP DATABASE nosuch', 'does not exist' ])
{
	my ($role, $sql, $error) = @$try;
	my ($status, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
	like($err, qr/$error/, "$role: $sql");
}
is(worker_of('store'), $worker, 'none of them has touched the worker');

# --- a command that fails for another reason lets streams go on
my $session = $node->background_psql('store');
my ($status, $out, $err) = $node->psql('postgres', 'ALTER DATABASE store RENAME TO other');
like($err, qr/is being accessed by other users/, 'another session is the server\'s to complain about');
$session->quit;
produce(100);
goes_on('store', 'the stream goes on after the command has failed');

# --- a long batch: the wait is bounded and can be cancelled
$node->safe_psql('store', q{
	CREATE TABLE slow (seconds int);
	INSERT INTO slow VALUES (300);
	CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN PERFORM pg_sleep(seconds) FROM slow; RETURN NULL; END $$;
	CREATE TRIGGER slow AFTER INSERT ON counts FOR EACH STATEMENT EXECUTE FUNCTION slow()});
produce(10);
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'store' AND wait_event = 'PgSleep'});
$worker = worker_of('store');
($status, $out, $err) = $node->psql('postgres', q{SET statement_timeout = 500; ALTER DATABASE store RENAME TO other});
like($err, qr/statement timeout/, 'a command that waits for a long batch can be cancelled');
is(worker_of('store'), $worker, 'and the batch goes on');
my $start = time;
command('postgres', 'ALTER DATABASE store RENAME TO other', 'a longer wait ends the batch');
cmp_ok(time - $start, '<', 15, 'in time');
like(slurp_file($node->logfile), qr/terminating background worker "stream_agg worker"/, 'the worker was terminated');
$node->safe_psql('other', 'DELETE FROM slow');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'other' AND wait_event = 'PgSleep'});
goes_on('other', 'the batch is run again');

# --- a killed worker's state is not taken for that of the next stream
$node->safe_psql('other', 'INSERT INTO slow VALUES (300)');
produce(10);
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'other' AND wait_event = 'PgSleep'});
command('postgres', 'DROP DATABASE other', 'DROP during a long batch');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_database WHERE datname IN ($$other$$, $$store$$)'), 0, 'it is gone');
$node->safe_psql('postgres', qq{
	SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers', columns => 'k int, v int');
	SELECT stream_agg.create_stream('counts', 'SELECT k, count(*) AS n, sum(v) AS v, max(v) AS last FROM events GROUP BY k',
		output_mode => 'update', trigger => '0')});
goes_on('postgres', 'another stream of the same definition begins with nothing');

# --- what one database does is no other's business
$node->safe_psql('postgres', 'CREATE DATABASE neighbour');
$node->safe_psql('neighbour', 'CREATE EXTENSION stream_agg');
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE stream_agg.streams IN ACCESS EXCLUSIVE MODE');
$node->safe_psql('neighbour', qq{
	SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers', columns => 'k int, v int');
	SELECT stream_agg.create_stream('counts', 'SELECT k, count(*) AS n, sum(v) AS v, max(v) AS last FROM events GROUP BY k',
		output_mode => 'update', trigger => '0')});
# the launcher has something to ask the locked database
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'stream_agg launcher'});
goes_on('neighbour', 'a stream starts while another database keeps the launcher\'s scout waiting');
$locker->quit;

done_testing();
