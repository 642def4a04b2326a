# Executors do not outlive what they work for: not their stream, its worker, their
# database or the server, whatever they do at the moment.  They run as their worker
# does, and where there is no process for them, the stream goes on without.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;
use Time::HiRes qw(time usleep);

my $broker = start_broker(events => 6, slow => 6);
my $node = new_node('executors_life', 'max_worker_processes = 30', "stream_agg.max_retry_delay = '50ms'", "stream_agg.stop_timeout = '200ms'",
	'restart_after_crash = off');
my $rng = seeded_random();
my $columns = 'k int, v int';
my $produced = 0;
create_source($node, $broker, 'events', 'events', $columns);
$node->safe_psql('postgres', 'CREATE DATABASE shop; CREATE DATABASE store');
$node->safe_psql($_, 'CREATE EXTENSION stream_agg') for 'shop', 'store';

# a batch of the records of topic "slow" lasts for many minutes
my $slow = q{CREATE FUNCTION slow(v int) RETURNS int LANGUAGE plpgsql STABLE PARALLEL SAFE AS 'BEGIN PERFORM pg_sleep(0.5); RETURN v; END'};
$broker->produce('slow', map { [ $_ % 6, '', "{\"k\": 1, \"v\": $_}" ] } 1 .. 6000);
for my $database ('postgres', 'shop', 'store')
{
	$node->safe_psql($database, $slow);
	$node->safe_psql($database, "SELECT stream_agg.create_source('slow', topic => 'slow', brokers => '" . $broker->brokers . "', columns => '$columns')");
}

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub produce
{
	my $n = shift;
	$broker->produce('events', map { [ $rng->(6), '', "{\"k\": " . $rng->(9) . ", \"v\": 1}" ] } 1 .. $n);
	$produced += $n;
	return;
}

sub available { sql("SELECT * FROM stream_agg.process_available('$_', '1 minute')") for @_; return; }
sub executors { return split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'stream_agg executor' ORDER BY pid}); }
sub is_alive { return -e "/proc/$_[0]" && slurp_file("/proc/$_[0]/stat") !~ /\) Z /; }

# Begin a batch that lasts; returns when worker and executors are in it.
sub begin_slow
{
	my $database = shift // 'postgres';
	$node->safe_psql($database, q{SELECT stream_agg.create_stream('lasts', 'SELECT k, sum(slow(v)) AS s FROM slow GROUP BY k', output_mode => 'update', trigger => '0',
		options => '{"executors": 3}')});
	$node->poll_query_until($database, q{SELECT count(*) = 3 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type LIKE 'stream\_agg %'}) or die;
	return;
}

sub ends_soon
{
	my ($name, $do) = @_;
	my @pids = split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type LIKE 'stream\_agg %'});
	my $begin = time;
	$do->();
	note(sprintf('figures: %s: %.1f s', $name, time - $begin));
	cmp_ok(time - $begin, '<', 30, "$name does not wait for the micro-batch");
	my @left = @pids;
	for (1 .. 300)
	{
		@left = grep { is_alive($_) } @left;
		last unless @left;
		usleep(100_000);
	}
	is(scalar(@pids) . ' processes, left: ' . join(' ', @left), '3 processes, left: ', 'worker and executors have ended');
	return;
}

subtest 'a micro-batch that executors are in does not keep a stream from being stopped' => sub {
	begin_slow();
	ends_soon('stop_stream', sub { sql(q{SELECT stream_agg.stop_stream('lasts')}) });
	sql(q{SELECT stream_agg.drop_stream('lasts', drop_sink => true)});
	begin_slow();
	ends_soon('drop_stream', sub { sql(q{SELECT stream_agg.drop_stream('lasts', drop_sink => true)}) });
};

subtest 'nor a database from being dropped' => sub {
	begin_slow('shop');
	ends_soon('DROP DATABASE', sub { sql('DROP DATABASE shop') });
	begin_slow('store');
	ends_soon('DROP DATABASE ... WITH (FORCE)', sub { sql('DROP DATABASE store WITH (FORCE)') });
};

subtest 'executors end with their worker, also if it is ended in a micro-batch' => sub {
	begin_slow();
	my $pid = worker_pid($node, 'lasts');
	ends_soon('pg_terminate_backend', sub {
		sql("SELECT pg_terminate_backend($pid)");
		$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
	});
	$node->poll_query_until('postgres', q{SELECT count(*) = 3 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type LIKE 'stream\_agg %'});
	pass('and the next one has others');
	sql(q{SELECT stream_agg.drop_stream('lasts', drop_sink => true)});
};

subtest 'executors that wait for a command end without a message' => sub {
	produce(300);
	sql(q{SELECT stream_agg.create_stream('counts', 'SELECT k, sum(v) AS n FROM events GROUP BY k', output_mode => 'update', trigger => '0', options => '{"executors": 3}')});
	available('counts');
	is(sql(q{SELECT executors FROM pg_stat_stream_agg WHERE stream = 'counts'}), 3, 'pg_stat_stream_agg shows how many processes there are');
	my $offset = -s $node->logfile;
	sql(q{SELECT stream_agg.stop_stream('counts')});
	ok($node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'stream_agg executor')}), 'they have ended');
	unlike(slurp_file($node->logfile, $offset), qr/FATAL/, 'quietly');
	is(sql(q{SELECT executors FROM pg_stat_stream_agg WHERE stream = 'counts'}), '', 'and are not shown any more');
	sql(q{SELECT stream_agg.start_stream('counts')});
	available('counts');
};

subtest 'an executor has the settings of its worker, also of one that has connected earlier' => sub {
	sql(q{CREATE ROLE o LOGIN; ALTER ROLE o SET app.factor = 1; ALTER ROLE o SET search_path = public, pg_catalog; GRANT SELECT ON events TO o; GRANT CREATE ON SCHEMA public TO o});
	$node->safe_psql('postgres', q{SELECT stream_agg.create_stream('settings', $q$SELECT current_setting('app.factor') AS factor, current_setting('search_path') AS path,
			current_user AS who, current_setting('transaction_isolation') AS isolation, count(*) AS n FROM events GROUP BY 1, 2, 3, 4$q$,
		output_mode => 'update', trigger => '0', options => '{"executors": 6}')}, extra_params => [ '-U', 'o' ]);
	available('settings');
	my $pid = worker_pid($node, 'settings');
	sql(q{ALTER ROLE o SET app.factor = 2; ALTER ROLE o SET search_path = elsewhere; ALTER ROLE o SET default_transaction_isolation = 'serializable'});
	my ($one) = split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'stream_agg executor' AND usename = 'o'});
	sql("SELECT pg_terminate_backend($one)");
	produce(300);
	available('settings');
	is(worker_pid($node, 'settings'), $pid, 'the worker is the same');
	is(sql(q{SELECT count(*), min(factor), max(factor), count(DISTINCT path), min(who), max(who), min(isolation), max(isolation), sum(n) FROM settings}),
		"1|1|1|1|o|o|read committed|read committed|$produced", 'and all records were read under its settings');
	sql(q{SELECT stream_agg.drop_stream('settings', drop_sink => true)});
};

subtest 'a function cannot write, or leave something behind, in an executor' => sub {
	sql(q{CREATE TABLE written (v int);
		CREATE FUNCTION inserts(v int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS
			$$BEGIN PERFORM set_config('transaction_read_only', 'off', false); INSERT INTO written VALUES (v); RETURN v; END$$;
		CREATE FUNCTION writes(v int) RETURNS int LANGUAGE plpgsql STABLE PARALLEL SAFE AS 'BEGIN RETURN inserts(v); END';
		CREATE FUNCTION leaves(v int) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS
			$$DECLARE before text := current_setting('app.left', true); BEGIN PERFORM set_config('app.left', now()::text, false); RETURN coalesce(nullif(before, now()::text), ''); END$$});
	sql(q{SELECT stream_agg.create_stream('writes', 'SELECT k, sum(writes(v)) AS s FROM events GROUP BY k', output_mode => 'update', trigger => '0', options => '{"executors": 6}')});
	ok($node->poll_query_until('postgres', q{SELECT last_error ~ 'read-write|read-only' FROM pg_stat_stream_agg WHERE stream = 'writes'}), 'the stream says so');
	is(sql('SELECT count(*) FROM written'), 0, 'nothing is written');
	sql(q{SELECT stream_agg.drop_stream('writes', drop_sink => true)});
	sql(q{SELECT stream_agg.create_stream('leaves', 'SELECT k, max(leaves(v)) AS most, count(*) AS n FROM events GROUP BY k', output_mode => 'update', trigger => '0', options => '{"executors": 6}')});
	for (1 .. 3) { produce(100); available('leaves'); }
	is(sql(q{SELECT count(DISTINCT most), max(most) FROM leaves}), '1|', 'what a function has set ends with its micro-batch');
	is(sql('SELECT sum(n) FROM leaves'), $produced, 'every record is counted');
	sql(q{SELECT stream_agg.drop_stream('leaves', drop_sink => true)});
};

subtest 'the server shuts down while executors are busy, and leaves none when it dies' => sub {
	begin_slow();
	my @pids = executors();
	my $begin = time;
	$node->stop('fast');
	cmp_ok(time - $begin, '<', 60, 'fast shutdown');
	is(scalar(grep { is_alive($_) } @pids), 0, 'no process is left');
	$node->start;
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 3 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type LIKE 'stream\_agg %'}), 'the stream goes on');
	available('counts');
	@pids = split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'stream\_agg %'});
	cmp_ok(scalar(@pids), '>=', 6, 'workers and executors, in a micro-batch and between two');
	$node->kill9;
	for (1 .. 600)
	{
		@pids = grep { is_alive($_) } @pids;
		last unless @pids;
		usleep(100_000);
	}
	is("@pids", '', 'all of them end when the postmaster is killed');
};

my $narrow = new_node('executors_narrow', 'max_worker_processes = 6', 'stream_agg.max_streams = 4', "stream_agg.max_retry_delay = '50ms'");
create_source($narrow, $broker, 'events', 'events', $columns);

subtest 'a stream that gets fewer processes than it could have says so, and goes on' => sub {
	$narrow->safe_psql('postgres', q{SELECT stream_agg.create_stream('wide', 'SELECT k, sum(v) AS n FROM events GROUP BY k', output_mode => 'update', trigger => '0', options => '{"executors": 6}')});
	process($narrow, 'wide');
	is($narrow->safe_psql('postgres', q{SELECT executors FROM pg_stat_stream_agg}), 4, 'as many as there are');
	like(slurp_file($narrow->logfile), qr/LOG:  stream "wide" has 4 of 6 executors\n.*DETAIL:  No background worker is free for more\.\n.*HINT:  Increase max_worker_processes\./, 'the log says so');
	is($narrow->safe_psql('postgres', 'SELECT sum(n) FROM wide'), $produced, 'every record is counted');
};

subtest 'streams come before executors' => sub {
	$narrow->safe_psql('postgres', qq{SELECT stream_agg.create_stream('other_$_', 'SELECT k, sum(v) AS n FROM events GROUP BY k', output_mode => 'update', trigger => '0')}) for 1 .. 3;
	for my $stream (map { "other_$_" } 1 .. 3)
	{
		process($narrow, $stream);
		is($narrow->safe_psql('postgres', "SELECT sum(n) FROM $stream"), $produced, "$stream runs");
	}
	produce(100);
	process($narrow, 'wide');
	is($narrow->safe_psql('postgres', 'SELECT sum(n) FROM wide'), $produced, 'the stream whose executors gave way goes on');
	is($narrow->safe_psql('postgres', q{SELECT executors FROM pg_stat_stream_agg WHERE stream = 'wide'}), 1, 'by itself');
	like(slurp_file($narrow->logfile), qr/LOG:  stream "wide" goes on without executors, as another stream waits for a process/, 'the log says so');
};

done_testing();
