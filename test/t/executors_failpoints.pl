# A failure of any process of a stream with three executors, at each place of a
# micro-batch: it fails the micro-batch and nothing else.  Afterwards the table
# equals the batch query, the five counts add up, dead letters name their records,
# and no process, segment of shared memory or file is left.
#
# Every cell - process, place, failure - has a stream of its own.  Some run at once.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Failpoint;
use StreamAgg::Test;
use Test::More;

# [process, place, hit]; number 0 is the stream's worker
my @points = (
	(map { [ $_, 'executor.started' ], [ $_, 'executor.reading' ], [ $_, 'executor.read' ], [ $_, 'execute.row', 3 ], [ $_, 'execute.ran' ],
			[ $_, 'executor.ran' ], [ $_, 'executor.giving' ], [ $_, 'executor.given' ], [ $_, 'executor.diverting' ], [ $_, 'executor.released' ] } 1, 2),
	map { [ 0, $_ ] } qw(session.locked session.opened plan.committed read.begun read.done execute.begun execute.ran executors.taking executors.taken execute.done
	  write.done checkpoint.state_written commit.before commit.after publish.done batch.done));
my %failures = (error => 'ERROR', fatal => 'FATAL', kill => 'SIGKILL');

my $broker = start_broker(events => 6);
my $node = new_node('failpoints', 'restart_after_crash = on', 'max_worker_processes = 200', 'max_connections = 50', 'stream_agg.max_streams = 60',
	"stream_agg.max_retry_delay = '50ms'", "stream_agg.crash_restart_delay = '10ms'", 'stream_agg.max_crashes = -1',
	'stream_agg.keep_batches = 1000000', 'timezone = UTC', 'fsync = off', 'dynamic_shared_memory_type = mmap');
my $rng = seeded_random();
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');
audit_functions($node);

my $query = q{SELECT stream_agg.tumble(ts, '20 seconds') AS win, k, count(*) AS n, sum(v) AS total, array_agg(DISTINCT v) AS vs FROM events GROUP BY 1, 2};
my ($produced, $bad, $second) = (0, 0, 0);

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub leftovers
{
	my ($data) = $node->data_dir;
	return scalar(() = glob("$data/pg_dynshmem/mmap.*")) . ' segments, ' . scalar(() = glob("$data/base/pgsql_tmp/*")) . ' files, '
	  . sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'stream\_agg executor'}) . ' executors';
}

# in every partition some records, of which a few do not decode
sub produce
{
	my @records;
	for my $i (0 .. 59)
	{
		my $partition = $i % 6;
		my $at = $second + $rng->(10);
		my $ts = sprintf('2026-01-01T%02d:%02d:%02dZ', int($at / 3600), int($at / 60) % 60, $at % 60);
		my $json = json_record({ ts => $ts, k => $rng->(9), v => $rng->(1000) }, numbers => [qw(k v)]);
		if ($i >= 54) { $json = 'no JSON'; $bad++; }
		push @records, [ $partition, '', $json ];
		$second++ if $i % 10 == 0;
	}
	$broker->produce('events', @records);
	$produced += @records;
	return;
}

my $at_once = 12;
my $leftovers = leftovers();
produce();
for my $failure (sort keys %failures)
{
	for (my $first = 0; $first < @points; $first += $at_once)
	{
		my $last = $first + $at_once > @points ? $#points : $first + $at_once - 1;
		fail_at($failure, map { ("${failure}_$_" => $points[$_]) } $first .. $last);
	}
}

sub fail_at
{
	my ($failure, %point) = @_;
	my @streams = sort keys %point;
	for my $stream (@streams)
	{
		sql(qq{SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => 'update', trigger => '0', watermark => '1 hour',
			options => '{"executors": 3, "on_error": "dead_letter"}')});
	}
	run_available(@streams);
	for my $stream (@streams)
	{
		my ($process, $place, $hit) = @{ $point{$stream} };
		arm($node, $process ? "$stream.$process" : $stream, $place, $failure, $hit);
		# places of the beginning
		next unless $place =~ /started|session/;
		insist("SELECT stream_agg.stop_stream('$stream')");
		insist("SELECT stream_agg.start_stream('$stream')");
	}
	my @missed = @streams;
	for (1 .. 60)
	{
		produce();
		wait_until(sub { @missed = grep { !is_hit($node, hit_file($_, $point{$_})) } @missed; !@missed }, 1);
		last unless @missed;
	}
	is(join(', ', map { "@{ $point{$_} }[0, 1]" } @missed), '', "$failures{$failure} was at each place");
	run_available(@streams);
	check(\%point, $failure);
	sql("SELECT stream_agg.drop_stream('$_', drop_sink => true)") for @streams;
	ok($node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'stream\_agg executor')}),
		'the processes have ended');
	like(slurp_file($node->logfile), qr/the worker of stream "kill_\d+" has crashed the server/, 'the crash of an executor is one of its stream')
	  if $failure eq 'kill';
	is(leftovers(), $leftovers, "$failures{$failure} leaves no segment, file or process");
	return;
}

sub hit_file { my ($stream, $point) = @_; return $point->[0] ? "$stream.$point->[0]" : $stream; }

sub run_available
{
	insist("SELECT FROM stream_agg.process_available('$_', '1 minute')") for @_;
	return;
}

# the server may be on its way down
sub insist
{
	my $statement = shift;
	wait_until(sub { ($node->psql('postgres', $statement))[0] == 0 }, 120);
	return;
}

sub check
{
	my ($point, $failure) = @_;
	for my $stream (sort keys %$point)
	{
		my $name = "process @{ $point->{$stream} }[0, 1]";
		is(sql("SELECT total_delivered, total_aggregated, total_dead_lettered FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1"),
			"$produced|" . ($produced - $bad) . "|$bad", "$name: the counts are those of the records");
		is(sql("SELECT count(*), count(DISTINCT (partition, \"offset\")) FROM stream_agg.dead_letters WHERE stream = '$stream' AND value = 'no JSON'"),
			"$bad|$bad", "$name: each dead letter is there once");
	}
	my @streams = sort keys %$point;
	my $first = shift @streams;
	is(sql("SELECT sum(n) FROM $first"), $produced - $bad, 'the table has every record');
	is(sql(join ' UNION ALL ', map { "SELECT '$_' FROM (SELECT 1) o WHERE EXISTS ((TABLE $_ EXCEPT TABLE $first) UNION ALL (TABLE $first EXCEPT TABLE $_))" } @streams),
		'', 'all tables are equal');
	sql(qq{SELECT stream_agg.create_stream('oracle', \$q\$$query\$q\$, output_mode => 'update', trigger => '0', options => '{"on_error": "skip"}')});
	run_available('oracle');
	is(sql("SELECT count(*) FROM ((TABLE oracle EXCEPT TABLE $first) UNION ALL (TABLE $first EXCEPT TABLE oracle)) d"), 0, 'and equal that of one process');
	sql(q{SELECT stream_agg.drop_stream('oracle', drop_sink => true)});
	return;
}

done_testing();
