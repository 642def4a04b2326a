# Spark's documented cases of event-time windows (EventTimeWatermarkSuite):
# watermark delay 10 seconds, windows of 5 seconds, count; times in seconds.
# Where Spark emits in a further batch without data, the batch itself emits here.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker('none' => 1);
my $node = new_node('spark');

# Run batches of event times.  After each, test the sink - "start,count ..." -
# and, where given, the watermark in seconds, groups in state, and counts.
sub run_case
{
	my ($name, $mode, $window, @batches) = @_;
	my ($topic, $stream) = ("topic_$name", "stream_$name");
	my $query = "SELECT stream_agg.$window AS win, count(*) AS n FROM $topic GROUP BY 1";

	$broker->create_topic($topic, 1);
	create_source($node, $broker, $topic, $topic, 'ts timestamptz');
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$,
		output_mode => '$mode', watermark => '10 seconds', trigger => '20 days')");
	while (my ($times, $expected) = splice @batches, 0, 2)
	{
		$broker->produce($topic, map { sprintf '{"ts":%d}', $_ * 1000 } @$times);
		process($node, $stream);
		is($node->safe_psql('postgres', "SELECT string_agg(extract(epoch FROM lower(win))::int || ',' || n, ' ' ORDER BY win) FROM $stream"),
			$expected->{rows}, "Spark 2.9 $name: [@$times]");
		my $columns = "extract(epoch FROM watermark)::int, aggregated, late, late_windows";
		is($node->safe_psql('postgres', "SELECT $columns FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1"),
			$expected->{counts}, '... watermark, records aggregated and late') if $expected->{counts};
		ok($node->poll_query_until('postgres', "SELECT state_rows = $expected->{state} FROM pg_stat_stream_agg WHERE stream = '$stream'"),
			"... $expected->{state} groups in state") if defined $expected->{state};
	}
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream')");
	return;
}

my $five = "tumble(ts, '5 seconds')";
run_case('append', 'append', $five,
	[ 10 .. 15 ] => { rows => '', counts => '5|6|0|0' },
	[25] => { rows => '10,5', counts => '15|1|0|0', state => 2 },
	[10] => { rows => '10,5', counts => '15|0|1|1', state => 2 });
run_case('watermark', 'append', $five,
	[15] => { rows => '', counts => '5|1|0|0' },
	[ 10, 12, 14 ] => { rows => '', counts => '5|3|0|0' },
	[25] => { rows => '10,3', counts => '15|1|0|0' });
run_case('update', 'update', $five,
	[ 10 .. 15 ] => { rows => '10,5 15,1' },
	[25] => { rows => '10,5 15,1 25,1' },
	[ 10, 25 ] => { rows => '10,5 15,1 25,2', counts => '15|1|1|1' },
	[10] => { rows => '10,5 15,1 25,2', counts => '15|0|1|1' });
run_case('complete', 'complete', $five,
	[ 10, 11, 12 ] => { rows => '10,3' },
	[25] => { rows => '10,3 25,1' },
	[25] => { rows => '10,3 25,2' },
	[10] => { rows => '10,4 25,2', counts => '15|1|0|0' });
run_case('trigger_once', 'append', $five,
	[15] => { rows => '' },
	[ 10, 12, 14 ] => { rows => '' },
	[25] => { rows => '10,3' },
	[50] => { rows => '10,3 15,1 25,1', counts => '40|1|0|0' });

# 2.4: a window whose end is the watermark is over; a record on its start is in it
run_case('inclusive', 'append', $five,
	[ 14, 25 ] => { rows => '10,1', counts => '15|2|0|0' },
	[ 15, 14 ] => { rows => '10,1', counts => '15|1|1|1' });
# 2.4: with the watermark at 0 a window that ends there is late already
run_case('before_1970', 'append', $five,
	[ -1, -5 ] => { rows => '', counts => '0|0|2|2' });
# 2.5: late is a matter of the window: 14 is late for [5, 15), and in [10, 20)
run_case('sliding', 'append', "hop(ts, '5 seconds', '10 seconds')",
	[ 14, 25 ] => { rows => '5,1', counts => '15|2|0|0', state => 2 },
	[14] => { rows => '5,1', counts => '15|1|0|1' },
	[9] => { rows => '5,1', counts => '15|0|1|2' },
	[40] => { rows => '5,1 10,2 20,1', counts => '30|1|0|0' });
# 2.8: windows aligned to the epoch, ceil(size / slide) candidates; before 1970 too
run_case('candidates', 'complete', "hop(ts, '3 seconds', '7 seconds')",
	[ 0, -1 ] => { rows => '-6,2 -3,2 0,1', counts => '0|2|0|0' });

done_testing();
