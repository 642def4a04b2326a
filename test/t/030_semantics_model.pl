# Late records, watermarks, NULL times, times on the edges of windows: random
# streams, batch by batch, against an executable model of the semantics.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $scenarios = $ENV{MODEL_SCENARIOS} // 16;
my $broker = start_broker('none' => 1);
my $node = new_node('model');
my $first = seed() % 100000;
$node->safe_psql('postgres', 'CREATE AGGREGATE plain_sum(numeric) (SFUNC = numeric_add, STYPE = numeric)');

# The model's output: name => value of the scenario, and by batch the records,
# whether to restart before it, the commit and the sink.
sub run_model
{
	my $seed = shift;
	my ($output, $error);
	my (%scenario, @batches);

	IPC::Run::run([ 'python3', 'model/stream_model.py', $seed ], '>', \$output, '2>', \$error)
	  or die "model: $error";
	for (split /\n/, $output)
	{
		my ($kind, $what, $rest) = split /\t/, $_, 3;
		if ($kind eq 'scenario') { $scenario{$what} = $rest; }
		elsif ($kind eq 'record')
		{
			my ($partition, $json) = split /\t/, $rest, 2;
			push @{ $batches[$what]{records} }, [ $partition, '', $json ];
		}
		elsif ($kind eq 'restart') { $batches[$what]{restart} = 1; }
		elsif ($kind eq 'commit') { $batches[$what]{commit} = $rest; }
		elsif ($kind eq 'row') { push @{ $batches[$what]{rows} }, $rest; }
	}
	return (\%scenario, \@batches);
}

sub microseconds { my $e = shift; return "(extract(epoch FROM $e) * 1000000)::bigint"; }

# what stream_agg.commits and the sink say, as the model writes it
sub observe
{
	my ($stream, $batch) = @_;
	my $watermark = microseconds("NULLIF(watermark, '-infinity')");
	my $start = microseconds('lower(win)');
	my $text = $node->safe_psql('postgres', qq{
		COPY (SELECT delivered, aggregated, late, null_time, filtered, rows_out, rows_removed, $watermark, late_windows
		        FROM stream_agg.commits WHERE stream = '$stream' AND batch = $batch) TO STDOUT;
		COPY (SELECT $start, k, n, n_large, total, least, greatest, price FROM $stream) TO STDOUT});
	$text =~ s/\\\\/\\/g;
	return split /\n/, $text;
}

for my $seed ($first .. $first + $scenarios - 1)
{
	my ($scenario, $batches) = run_model($seed);
	my $stream = "model_$seed";
	my $query = sprintf($scenario->{query}, "topic_$seed");
	my $watermark = $scenario->{watermark} ? ", watermark => '$scenario->{watermark}'" : '';
	my $failure = '';

	$broker->create_topic("topic_$seed", 3);
	create_source($node, $broker, "topic_$seed", "topic_$seed", $scenario->{columns});
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$,
		output_mode => '$scenario->{mode}', trigger => '1 hour', start => false $watermark)");
	for my $batch (0 .. $#$batches)
	{
		my $expected = $batches->[$batch];
		# a stream triggers when it starts: by then the records must be there
		my $restart = $expected->{restart};
		$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('$stream')") if $restart;
		$broker->produce("topic_$seed", @{ $expected->{records} });
		$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$stream')") if $restart || $batch == 0;
		process($node, $stream);
		my ($commit, @rows) = observe($stream, $batch);
		my $got = join("\n", $commit, sort @rows);
		my $wanted = join("\n", $expected->{commit}, sort @{ $expected->{rows} // [] });
		next if $got eq $wanted;
		$failure = "batch $batch\ngot:\n$got\nexpected:\n$wanted\n";
		last;
	}
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream')");
	my ($window, $sum) = $scenario->{query} =~ /stream_agg\.(.*?\)) AS.*(\w+_sum|sum)\(price\)/;
	is($failure, '', "seed $seed: $scenario->{mode}, $window, $sum, "
		  . ($scenario->{watermark} // 'no watermark') . ', ' . scalar(@$batches) . ' batches equal the model');
}

done_testing();
