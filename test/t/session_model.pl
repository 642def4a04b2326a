# Session windows, late records included, against the executable model: every
# batch's counts and the sink, for micro-batches of several sizes, with restarts
# of the stream, of the server and a crash between them.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Model;
use StreamAgg::Test;
use Test::More;

my $per_mode = $ENV{MODEL_SCENARIOS} // 2;
my $broker = start_broker('none' => 1);
my $node = new_node('session_model');
$node->append_conf('postgresql.conf', "restart_after_crash = on\nstream_agg.keep_batches = 10000");
$node->restart;
my $seed = seed() % 100000;

# All records first, then batches of one size.
sub in_batches_of
{
	my ($scenario_seed, $size) = @_;
	my ($scenario, $batches) = run_model('session_model', $scenario_seed, '--size', $size);
	my $stream = "s${scenario_seed}_$size";

	make_stream($node, $broker, $stream, $scenario, $size ? ", max_offsets_per_trigger => $size" : '');
	$broker->produce("topic_$stream", map { @{ $_->{records} } } @$batches);
	$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$stream')");
	process($node, $stream);
	is(compare($node, $stream, $batches, 0, $#$batches), '',
		"seed $scenario_seed: $scenario->{mode}, " . ($size ? "batches of $size" : 'one batch') . ' equal the model');
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream', drop_sink => true)");
	return;
}

# Batch by batch, and after each one of these: the stream finds its state in
# shared memory, in the log, or in the log after a crash.
my @restarts = (
	sub { my $s = shift; $node->safe_psql('postgres', "SELECT stream_agg.$_('$s')") for qw(stop_stream start_stream) },
	sub { $node->restart },
	sub { my $s = shift; kill_backends($node, worker_pid($node, $s)) },
	sub { $node->stop('immediate'); $node->start });

sub with_restarts
{
	my ($scenario_seed) = @_;
	my ($scenario, $batches) = run_model('session_model', $scenario_seed);
	my $stream = "r$scenario_seed";
	my $failure = '';

	make_stream($node, $broker, $stream, $scenario, '');
	for my $batch (0 .. $#$batches)
	{
		$broker->produce("topic_$stream", @{ $batches->[$batch]{records} });
		$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$stream')") if $batch == 0;
		process($node, $stream);
		$failure = compare($node, $stream, $batches, $batch, $batch);
		last if $failure;
		$restarts[ $batch % @restarts ]->($stream);
		# it triggers when it starts, and finds nothing
		worker_pid($node, $stream);
		process($node, $stream);
	}
	is($failure, '', "seed $scenario_seed: $scenario->{mode}, restarts after each of " . scalar(@$batches) . ' batches: equal to the model');
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream', drop_sink => true)");
	return;
}

for my $mode (qw(append update complete))
{
	for my $n (1 .. $per_mode)
	{
		do { $seed++ } until (run_model('session_model', $seed, '--batches', 1))[0]{mode} eq $mode;
		in_batches_of($seed, $_) for 1, 7, 1000, 0;
		with_restarts($seed) if $n == 1;
	}
}

done_testing();
