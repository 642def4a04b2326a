# A stream that crashes the server does so a few times only, with longer and longer
# pauses, and then fails; nobody else does for it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 2);
my $node = new_node('crash_loop', 'restart_after_crash = on', 'stream_agg.max_crashes = 3',
	"stream_agg.crash_restart_delay = '50ms'", 'max_connections = 20');
my $rng = seeded_random();
my $crash_on = "CREATE OR REPLACE FUNCTION crash_on(int, int) RETURNS int IMMUTABLE STRICT LANGUAGE c AS '$ENV{CRASH_ON}'";
my $produced = 0;
my $bad = 1;

sub value { return $node->safe_psql('postgres', $_[0]); }

sub set
{
	my ($setting, $value) = @_;
	$node->append_conf('postgresql.conf', "$setting = '$value'");
	$node->reload;
	return;
}

# records, the last of which is the one that crashes
sub produce_bad
{
	$broker->produce('events', map { [ $rng->(2), '', sprintf('{"k":%d,"v":%d}', $rng->(5), $produced++) ] } 1 .. 60);
	$bad = $produced - 1;
	return;
}

sub log_since { return slurp_file($node->logfile, $_[0]); }
sub crashes { my $n = () = log_since($_[0]) =~ /was terminated by signal 11/g; return $n; }

sub create_crasher
{
	my ($stream, $options) = @_;
	value("SELECT stream_agg.create_stream('$stream', 'SELECT k, count(*) AS n, sum(crash_on(v, $bad)) AS total FROM events GROUP BY k',
		output_mode => 'update', trigger => '0', options => '$options')");
	return;
}

# The neighbour is in a micro-batch nearly always.
sub await_neighbour
{
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type ~ 'stream_agg worker' AND wait_event = 'PgSleep'}) or die 'the neighbour does nothing';
	return;
}

sub neighbour_is_exact
{
	my $what = shift;
	process($node, 'neighbour');
	is_equal_tables($node, 'SELECT * FROM neighbour', 'SELECT k, count(*), sum(v) FROM events GROUP BY k', $what);
	return;
}

create_source($node, $broker, 'events', 'events', 'k int, v int');
value($crash_on);
value(q{
	CREATE FUNCTION slowly(int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN $1; END $$;
	SELECT stream_agg.create_stream('neighbour', 'SELECT k, count(*) AS n, sum(slowly(v)) AS total FROM events GROUP BY k',
		output_mode => 'update', trigger => '0', max_offsets_per_trigger => 200)});
my $failed = q{^the stream's worker has crashed the server 3 times within 3600 s\sDETAIL:  The last time was at .*, in micro-batch [01], at the record of topic "events", partition \d, offset \d+\.\sHINT:  See};

for my $on_error ('fail', 'skip', 'dead_letter')
{
	subtest "H2: a record that crashes the worker ends the server three times, on_error $on_error" => sub {
		my $log = -s $node->logfile;
		produce_bad();
		await_neighbour();
		create_crasher("crasher_$on_error", "{\"on_error\": \"$on_error\"}");
		await_server($node);
		wait_state($node, "crasher_$on_error", 'failed', $failed);
		is(crashes($log), 3, 'as often as stream_agg.max_crashes says');
		my @pauses = log_since($log) =~ /It is started again (\d+) ms after the server/g;
		cmp_ok($pauses[0], '==', 100, "with longer pauses (@pauses)");
		is($pauses[1], 2 * $pauses[0], 'twice as long each time');
		is(() = log_since($log) =~ /streams start after 50 ms/g, 3, 'and one for everybody');
		unlike(log_since($log), qr/worker of stream "neighbour" has crashed/, 'nobody else is to blame');
		neighbour_is_exact('a neighbour goes on, and is exact');
	};
}

subtest 'H2: a failed stream stays so over crashes and restarts, and counts no crash of others' => sub {
	for my $round (1 .. 4)
	{
		produce_bad();
		await_neighbour();
		my ($victim, $pid) = start_backend($node);
		kill_backends($node, $pid);
		$victim->finish;
	}
	wait_state($node, "crasher_$_", 'failed', $failed) for 'fail', 'skip', 'dead_letter';
	neighbour_is_exact('four crashes of other backends do not fail a stream that was in a micro-batch');
	for my $mode ('immediate', 'fast')
	{
		$node->stop($mode);
		$node->start;
		wait_state($node, 'neighbour', 'running');
		wait_state($node, 'crasher_skip', 'failed', $failed);
		pass("failed after a stop, $mode");
	}
};

subtest 'H2: start_stream tries again' => sub {
	my $log = -s $node->logfile;
	value(q{SELECT stream_agg.start_stream('crasher_fail')});
	await_server($node);
	wait_state($node, 'crasher_fail', 'failed', $failed);
	is(crashes($log), 3, 'as often as the first time');
	value(q{CREATE OR REPLACE FUNCTION crash_on(int, int) RETURNS int IMMUTABLE STRICT LANGUAGE sql AS 'SELECT $1'});
	for my $stream ('crasher_fail', 'crasher_dead_letter')
	{
		value("SELECT stream_agg.start_stream('$stream')");
		process($node, $stream);
		is_equal_tables($node, "SELECT * FROM $stream", 'SELECT k, count(*), sum(v) FROM events GROUP BY k',
			"mended, $stream has all records");
	}
	value(qq{SELECT stream_agg.drop_stream('crasher_$_', drop_sink => true)}) for 'fail', 'skip', 'dead_letter';
	value($crash_on);
};

subtest 'H2: clients come in during the pause, and stream_agg.enabled = off works' => sub {
	set('stream_agg.crash_restart_delay', '30min');
	produce_bad();
	create_crasher('crasher', '{}');
	await_server($node);
	wait_state($node, $_, 'starting') for 'crasher', 'neighbour';
	is(value(q{SELECT last_error ~ E'^the stream''s worker has crashed the server 1 times .*\nDETAIL:  It is started again at ' FROM pg_stat_stream_agg WHERE stream = 'crasher'}),
		't', 'last_error says what has happened and when the stream starts');
	is(value(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'stream_agg worker'}), 0, 'no worker runs');
	value('ALTER SYSTEM SET stream_agg.enabled = off');
	$node->restart;
	is(value(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'stream_agg worker'}), 0, 'none with enabled = off');
	value(q{SELECT stream_agg.drop_stream('crasher', drop_sink => true)});
	value('ALTER SYSTEM RESET stream_agg.enabled');
	$node->reload;
	wait_state($node, 'neighbour', 'running');
	neighbour_is_exact('after a clean restart nothing waits');
};

# Fewer crashes than fail a stream: the search begins with the record that the
# worker was at.  What other tests leave unset is at its default here.
set('stream_agg.crash_restart_delay', '10ms');
set('stream_agg.max_crashes', 5);
my $next_bad = 1000000;
my %crashing = (
	'an expression' => 'SELECT k, count(*) AS n, sum(crash_on(v, %d)) AS total FROM events GROUP BY k',
	'decoding' => 'SELECT k, count(*) AS n, sum(v) AS total FROM exploding_%d GROUP BY k');

for my $case (map { my $at = $_; map { [ $at, $_ ] } 'dead_letter', 'skip' } sort keys %crashing)
{
	my ($where, $on_error) = @$case;
	subtest "H2: a stream gets past a record that crashes its worker in $where, on_error $on_error" => sub {
		my $log = -s $node->logfile;
		produce_bad();
		$bad = ++$next_bad;
		value("CREATE DOMAIN explosive_$bad AS int CHECK (crash_on(VALUE, $bad) IS NOT NULL)");
		create_source($node, $broker, "exploding_$bad", 'events', "k int, v explosive_$bad");
		$broker->produce('events', [ $rng->(2), '', "{\"k\":1,\"v\":$bad}" ],
			map { [ $rng->(2), '', sprintf('{"k":%d,"v":%d}', $rng->(5), $produced++) ] } 1 .. 60);
		value(sprintf(q{SELECT stream_agg.create_stream('past', $q$%s$q$, output_mode => 'update', trigger => '0', options => '{"on_error": "%s"}')},
			$crashing{$where} =~ s/%d/$bad/r, $on_error));
		await_server($node);
		$node->poll_query_until('postgres', q{SELECT coalesce(sum(dead_lettered), 0) > 0 FROM stream_agg.commits WHERE stream = 'past'})
			or die 'not found';
		await_server($node);
		process($node, 'past');
		my $crashed = crashes($log);
		my $bad_ones = value("SELECT sum(dead_lettered) FROM stream_agg.commits WHERE stream = 'past'");
		is($bad_ones, 1, 'one record is left out');
		is($crashed, 3, 'after three crashes');
		is_equal_tables($node, 'SELECT * FROM past', "SELECT k, count(*), sum(v) FROM events WHERE v <> $bad GROUP BY k",
			'the table is the batch query over the other records');
		is(value(q{SELECT string_agg(convert_from(value, 'UTF8') || ': ' || error, E'\n') FROM stream_agg.dead_letters WHERE stream = 'past'}),
			$on_error eq 'skip' ? '' : "{\"k\":1,\"v\":$bad}: 3 workers have ended while they processed the record", 'the dead letter is that record');
		like(log_since($log), qr/it was at the record of topic "events", partition \d, offset \d+\n/, 'the log names the record');

		# the rate of crashes is bounded all the same
		$broker->produce('events', "{\"k\":1,\"v\":$bad}");
		wait_state($node, 'past', 'failed', 'has crashed the server 5 times within 3600 s.*, at the record of topic "events", partition \d, offset \d+\.');
		is(crashes($log), 5, 'the next such record fails the stream after the fifth crash');
		value(q{SELECT stream_agg.drop_stream('past', drop_sink => true)});
	};
}

subtest 'H2: so does one of several streams that share a reader' => sub {
	my $log = -s $node->logfile;
	produce_bad();
	for my $n (1 .. 3)
	{
		my $crash = $n == 2 ? $bad : -1;
		value("SELECT stream_agg.create_stream('past_$n', 'SELECT k, count(*) AS n, sum(crash_on(v, $crash)) AS total FROM events GROUP BY k',
			output_mode => 'update', trigger => '0', reader => 'together', options => '{\"on_error\": \"skip\"}', start => false)");
	}
	value(join ';', map { "SELECT stream_agg.start_stream('past_$_')" } 1 .. 3);
	await_server($node);
	$node->poll_query_until('postgres', q{SELECT coalesce(sum(dead_lettered), 0) > 0 FROM stream_agg.commits WHERE stream = 'past_2'}) or die 'not found';
	await_server($node);
	for my $n (1 .. 3)
	{
		process($node, "past_$n");
		is_equal_tables($node, "SELECT * FROM past_$n", 'SELECT k, count(*), sum(v) FROM events ' . ($n == 2 ? "WHERE v <> $bad" : '') . ' GROUP BY k',
			"the table of stream $n");
	}
	cmp_ok(crashes($log), '<=', 4, 'after as few crashes');
	value(qq{SELECT stream_agg.drop_stream('past_$_', drop_sink => true)}) for 1 .. 3;
};
set('stream_agg.max_crashes', 3);

subtest 'H2: crashes count where the server does not come back by itself' => sub {
	set('stream_agg.crash_restart_delay', '0');
	$node->append_conf('postgresql.conf', 'restart_after_crash = off');
	$node->reload;
	my $log = -s $node->logfile;
	produce_bad();
	create_crasher('crasher', '{}');
	for my $crash (1 .. 3)
	{
		my $pidfile = $node->data_dir . '/postmaster.pid';
		for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
		{
			last if !-e $pidfile;
			Time::HiRes::usleep(100_000);
		}
		$node->{_pid} = undef;
		# it may crash before pg_ctl has seen that it is up
		$node->start(fail_ok => $crash < 3);
	}
	wait_state($node, 'crasher', 'failed', $failed);
	is(crashes($log), 3, 'three times');
	neighbour_is_exact('the neighbour goes on');
};

done_testing();
