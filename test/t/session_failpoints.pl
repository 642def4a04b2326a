# Session windows beside the model while micro-batches fail in the middle of what
# they do to the state: by an ERROR, by the end of the worker, by a crash of the
# server.  Afterwards the state store holds what it can reach and nothing else.
# The library of this test writes a base of the state log every few batches.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Failpoint;
use StreamAgg::Model;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker('none' => 1);
my $node = new_node('session_failpoints', 'restart_after_crash = on', 'stream_agg.keep_batches = 10000',
	"stream_agg.max_retry_delay = '50ms'");
my $rng = seeded_random();
my $seed = seed() % 100000;
my @points = map { my $point = $_; map { [ $point, $_ ] } 'error', 'error', 'fatal', 'kill' }
  qw(execute.row store.changing store.changed execute.done write.done checkpoint.blob_made checkpoint.state_written
  commit.before commit.after publish.version publish.middle);
my %hits;
my $audits = 0;

audit_functions($node);

# Process what there is while a failpoint waits for the worker: one that every batch
# passes, or any.
sub process_with_failure
{
	my ($stream, $certain) = @_;
	my ($point, $action) = $certain ? ('commit.before', 'error') : @{ $points[ $rng->(scalar @points) ] };
	my ($witness) = start_backend($node);

	arm($node, $stream, $point, $action, $certain ? 1 : 1 + $rng->(3));
	$node->psql('postgres', "SELECT FROM stream_agg.process_available('$stream', '1 minute')");
	if (is_hit($node, $stream))
	{
		$hits{$action}++;
		# the end of another backend shows that the crash has been noticed
		$witness->finish if $action eq 'kill';
	}
	disarm($node, $stream);
	$witness->kill_kill;
	await_server($node);
	process($node, $stream);
	return;
}

for my $mode (qw(append update complete))
{
	do { $seed++ } until (run_model('session_model', $seed, '--batches', 1))[0]{mode} eq $mode;
	my ($scenario, $batches) = run_model('session_model', $seed, '--batches', 14);
	my $stream = "s_$mode";
	my $failure = '';

	make_stream($node, $broker, $stream, $scenario, '');
	for my $batch (0 .. $#$batches)
	{
		$broker->produce("topic_$stream", @{ $batches->[$batch]{records} });
		$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$stream')") if $batch == 0;
		if ($batch % 2) { process_with_failure($stream, $batch == 1); }
		else { process($node, $stream); }
		$failure = compare($node, $stream, $batches, $batch, $batch);
		last if $failure;

		# a store that a failed publish has left is marked, or gone
		my ($in_batch, $objects, $reachable) = split /\|/, $node->safe_psql('postgres',
			"SELECT in_batch, objects, reachable FROM failpoint_store('${stream}_query')");
		$failure = "$objects objects, $reachable reachable" if $in_batch eq 'f' && $objects != $reachable;
		$audits++ if $in_batch eq 'f';
		last if $failure;
	}
	is($failure, '', "seed $seed: $mode, " . scalar(@$batches) . ' batches with failures equal the model, and leak nothing');
}
cmp_ok($audits, '>', 0, 'stores were looked through');
cmp_ok($hits{error} // 0, '>', 0, 'ERRORs were raised');
diag('figures: ' . join(', ', map { "$hits{$_} by $_" } sort keys %hits));

done_testing();
