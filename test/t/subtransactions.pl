# Streams that are started, stopped and dropped in subtransactions: what is rolled
# back has no effect at the commit, and many of them cost no more than their number.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1);
my $node = new_node('subtransactions', 'fsync = off');

sub value { return $node->safe_psql('postgres', $_[0]); }

# the error of what alice does in one transaction, '' if there is none
sub alice
{
	my (undef, undef, $err) = $node->psql('postgres', "SET client_min_messages = error; BEGIN; $_[0]; COMMIT", extra_params => [ '-U', 'alice' ],
		on_error_stop => 1);
	return $err;
}

create_source($node, $broker, 'events', 'events', 'k int');
value(q{CREATE ROLE alice LOGIN; GRANT SELECT ON events TO alice; GRANT CREATE ON SCHEMA public TO alice;
	ALTER ROLE alice SET stream_agg.max_streams_per_role = 1});
for my $stream ('a', 'b')
{
	is(alice("SELECT stream_agg.create_stream('$stream', 'SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update', trigger => '20 days', start => false)"),
		'', "stream $stream");
}
my ($start_a, $start_b, $stop_a) = (map({ "SELECT stream_agg.start_stream('$_')" } 'a', 'b'), q{SELECT stream_agg.stop_stream('a')});
my $limit = qr/max_streams_per_role/;

subtest 'what counts for the limit of a role is what is left of the subtransactions' => sub {
	my @cases = (
		[ "SAVEPOINT s; $start_a; ROLLBACK TO s; $start_b", 0, 'a start that is rolled back' ],
		[ "SAVEPOINT s; $start_a; RELEASE s; $start_b", 1, 'a start that is not' ],
		[ "SAVEPOINT s; $start_a; SAVEPOINT t; $stop_a; ROLLBACK TO t; $start_b", 1, 'a stop that is rolled back after a start' ],
		[ "$start_a; SAVEPOINT t; $stop_a; RELEASE t; $start_b", 0, 'a stop that is not' ],
		[ "SAVEPOINT s; $start_a; SAVEPOINT t; $stop_a; RELEASE t; ROLLBACK TO s; $start_b", 0, 'both are rolled back with what they are in' ],
		[ "$start_a; SAVEPOINT s; SAVEPOINT t; $stop_a; RELEASE t; ROLLBACK TO s; $start_b", 1, 'so is a stop, to the start before it' ],
		[ "$start_a; SAVEPOINT s; $stop_a; SAVEPOINT t; $start_a; SAVEPOINT u; $stop_a; ROLLBACK TO u; RELEASE t; $start_b", 1, 'three levels' ],
		[ "$start_a; SAVEPOINT s; $stop_a; SAVEPOINT t; $start_a; SAVEPOINT u; $stop_a; RELEASE t; $start_b", 0, 'three levels that are released at once' ],
		[ "$start_a; SAVEPOINT s; $stop_a; SAVEPOINT t; $start_a; ROLLBACK TO s; $start_b", 1, 'three levels that are rolled back at once' ],
		[ "$start_a; SAVEPOINT s; SELECT stream_agg.drop_stream('a'); ROLLBACK TO s; $start_b", 1, 'a stream whose DROP is rolled back' ],
		[ "$start_a; SAVEPOINT s; SELECT stream_agg.drop_stream('a'); RELEASE s; $start_b", 0, 'a stream that is dropped' ]);
	for my $case (@cases)
	{
		my ($sql, $refused, $name) = @$case;
		my $err = alice("$sql; DO \$\$ BEGIN RAISE EXCEPTION 'in the end' USING ERRCODE = 'ZZ000'; END \$\$");
		like($err, $refused ? $limit : qr/in the end/, $name);
	}
};

subtest 'a stream runs as the transaction has left it' => sub {
	is(alice("SAVEPOINT s; $start_b; ROLLBACK TO s; $start_a"), '', 'one start is rolled back');
	worker_pid($node, 'a');
	is(value(q{SELECT string_agg(stream || ' ' || state, ', ' ORDER BY stream) FROM pg_stat_stream_agg}), 'a running, b stopped', 'the other stream runs');
	is(alice(q{SAVEPOINT s; SELECT stream_agg.drop_stream('a'); ROLLBACK TO s}), '', 'a DROP that is rolled back');
	worker_pid($node, 'a');
	pass('the stream goes on');
	is(alice("SAVEPOINT s; $stop_a; ROLLBACK TO s"), '', 'a stop that is rolled back');
	worker_pid($node, 'a');
	pass('the stream goes on');
	is(alice("$stop_a; SAVEPOINT s; $start_a; ROLLBACK TO s"), '', 'a start that is rolled back after a stop');
	is(value(q{SELECT state FROM pg_stat_stream_agg WHERE stream = 'a'}), 'stopped', 'the stream is stopped');
};

# seconds that 20 calls take after n subtransactions
sub seconds_for
{
	my ($n) = @_;
	my $calls = q{DO $$ BEGIN FOR i IN 1 .. 20 LOOP PERFORM stream_agg.start_stream('b'); END LOOP; END $$};
	my $sql = qq{SET client_min_messages = error; BEGIN;
		DO \$\$ BEGIN FOR i IN 1 .. $n LOOP
			BEGIN PERFORM stream_agg.start_stream('a'); RAISE EXCEPTION 'x' USING ERRCODE = 'ZZ000'; EXCEPTION WHEN SQLSTATE 'ZZ000' THEN NULL; END;
		END LOOP; END \$\$;
		SELECT extract(epoch FROM clock_timestamp()); $calls; SELECT extract(epoch FROM clock_timestamp()); ROLLBACK};
	my $out = $node->safe_psql('postgres', $sql, extra_params => [ '-U', 'alice' ]);
	my @times = $out =~ /^([\d.]+)$/mg;
	return $times[1] - $times[0];
}

subtest 'a call costs the same after 6,000 subtransactions that were rolled back as after 500' => sub {
	my $few = seconds_for(500);
	my $many = seconds_for(6_000);
	note("20 calls: $few s, $many s");
	cmp_ok($many, '<', 10 * $few + 0.1, 'no list grows');
};

# --- what a session holds

value(q{ALTER ROLE alice SET stream_agg.max_streams_per_role = 1; SELECT stream_agg.stop_stream('b')});
is(alice("$stop_a"), '', 'both are stopped');
is(alice("$start_a"), '', 'one runs');
value(q{SELECT stream_agg.process_available('a')});
my %session = (in => '', out => '');
my $session = IPC::Run::start([ 'psql', '-XAtq', '-U', 'alice', '-d', $node->connstr('postgres'), '-f', '-' ], '<', \$session{in}, '>', \$session{out}, '2>', '/dev/null');
sub in_session
{
	my ($sql) = @_;
	$session{out} = '';
	$session{in} .= "$sql; SELECT 'done';\n";
	$session->pump until $session{out} =~ /done/;
	return;
}
subtest 'M10: a stream is not held longer than the lock on it' => sub {
	in_session("BEGIN; SAVEPOINT s; SELECT stream_agg.stop_stream('a'); SAVEPOINT t; SELECT stream_agg.stop_stream('a'); RELEASE t; ROLLBACK TO s");
	ok($node->poll_query_until('postgres', q{SELECT state = 'running' FROM pg_stat_stream_agg WHERE stream = 'a'}), 'it runs again, while the transaction is open');
	in_session('COMMIT');
};
subtest 'M10: a slot that a session holds counts for the limit of the role' => sub {
	is(alice($stop_a), '', 'no stream runs');
	in_session("BEGIN; SELECT stream_agg.stop_stream('a')");
	is(alice($start_b), '', 'another one is to start');
	ok($node->poll_query_until('postgres', q{SELECT problem ~ 'waiting for a free worker slot' FROM pg_stat_stream_agg WHERE stream = 'b'}), 'but has no place');
	in_session('ROLLBACK');
	ok($node->poll_query_until('postgres', q{SELECT state = 'running' FROM pg_stat_stream_agg WHERE stream = 'b'}), 'until the first is released');
};
$session{in} .= "\\q\n";
$session->finish;

done_testing();
