# Executors: micro-batches of a stream whose partitions are dealt to several
# processes give the same table as one process does, whatever the query, and
# whatever becomes of the processes.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $partitions = 6;
my $broker = start_broker(events => $partitions, one => 1);
my $node = new_node('executors', 'restart_after_crash = on', 'max_worker_processes = 40', "timezone = 'UTC'",
	"stream_agg.max_retry_delay = '50ms'", 'stream_agg.keep_batches = 1000000');
my $rng = seeded_random();
my $columns = 'ts timestamptz, k int, v int, t text';
create_source($node, $broker, 'events', 'events', $columns);
create_source($node, $broker, 'one', 'one', $columns);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# records of a second of event time each, in random order within ten seconds
my $second = 0;

sub produce
{
	my $n = shift;
	my @records;
	for (1 .. $n)
	{
		my $at = $second++ / 10 - $rng->(10);
		$at = 0 if $at < 0;
		my $k = $rng->(20);
		my $record = {
			ts => sprintf('2026-01-01T%02d:%02d:%02d.%03dZ', int($at / 3600) % 24, int($at / 60) % 60, $at % 60, $rng->(1000)),
			k => $k, v => $rng->(1000), t => 'text ' . $rng->(50) };
		push @records, [ $k % $partitions, '', json_record($record, numbers => [qw(k v)]) ];
	}
	$broker->produce('events', @records);
	return;
}

sub create
{
	my ($name, $query, $executors, $more) = @_;
	sql("SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$, trigger => '0', $more options => '{\"executors\": $executors}')");
	return;
}

sub available { sql("SELECT * FROM stream_agg.process_available('$_', '1 minute')") for @_; return; }

sub processes
{
	my $stream = shift;
	return sql("SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'stream_agg executor' AND application_name = 'stream_agg ' || '$stream'::regclass::oid");
}

produce(3000);

subtest 'a stream has a process for each executor, and each reads partitions of its own' => sub {
	my $query = q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n, sum(v) AS total, avg(v) AS mean, min(t) AS least FROM events GROUP BY 1, 2};
	create($_, $query, $_ eq 'three' ? 3 : 1, "watermark => '10 minutes', output_mode => 'update',") for 'single', 'three';
	available('single', 'three');
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'stream_agg executor'}), 2, 'executors besides the worker');
	is(sql(q{SELECT (SELECT count(*) FROM ((TABLE single EXCEPT TABLE three) UNION ALL (TABLE three EXCEPT TABLE single)) d), count(*) > 20 FROM three}),
		'0|t', 'the tables are equal');
	is(sql(q{SELECT dealt FROM stream_agg.offsets WHERE stream = 'three' ORDER BY batch LIMIT 1}),
		'{"1": 1, "2": 2, "4": 1, "5": 2}', 'the plan says who reads what');
	is(sql(q{SELECT count(*) FROM stream_agg.commits WHERE delivered <> aggregated + late + null_time + dead_lettered + filtered}), 0, 'counts add up');
};

done_testing();
