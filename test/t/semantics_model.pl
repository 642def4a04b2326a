# Late records, watermarks, NULL times, times on the edges of windows: random
# streams, batch by batch, against an executable model of the semantics.

use strict;
use warnings;

use StreamAgg::Model;
use StreamAgg::Test;
use Test::More;

my $scenarios = $ENV{MODEL_SCENARIOS} // 16;
my $broker = start_broker('none' => 1);
my $node = new_node('model');
my $first = seed() % 100000;
$node->safe_psql('postgres', 'CREATE AGGREGATE plain_sum(numeric) (SFUNC = numeric_add, STYPE = numeric)');

for my $seed ($first .. $first + $scenarios - 1)
{
	my ($scenario, $batches) = run_model('stream_model', $seed, '--partitions', 3);
	my $stream = "model_$seed";
	my $failure = '';

	make_stream($node, $broker, $stream, $scenario, '', 3);
	for my $batch (0 .. $#$batches)
	{
		my $expected = $batches->[$batch];
		# a stream triggers when it starts: by then the records must be there
		my $restart = $expected->{restart};
		$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('$stream')") if $restart;
		$broker->produce("topic_$stream", @{ $expected->{records} });
		$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$stream')") if $restart || $batch == 0;
		process($node, $stream);
		$failure = compare($node, $stream, $batches, $batch, $batch);
		last if $failure;
	}
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream')");
	my ($window, $sum) = $scenario->{query} =~ /stream_agg\.(.*?\)) AS.*(\w+_sum|sum)\(price\)/;
	is($failure, '', "seed $seed: $scenario->{mode}, $window, $sum, "
		  . ($scenario->{watermark} // 'no watermark') . ', ' . scalar(@$batches) . ' batches equal the model');
}

done_testing();
