# Session windows, late records included, against the executable model: every
# batch's counts and the sink, for micro-batches of several sizes, with restarts
# of the stream, of the server and a crash between them.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $per_mode = $ENV{MODEL_SCENARIOS} // 2;
my $broker = start_broker('none' => 1);
my $node = new_node('session_model');
$node->append_conf('postgresql.conf', "restart_after_crash = on\nstream_agg.keep_batches = 10000");
$node->restart;
my $seed = seed() % 100000;

# The model's output: name => value of the scenario, and by batch the records,
# the commit and the sink.
sub run_model
{
	my @arguments = @_;
	my ($output, $error);
	my (%scenario, @batches);

	IPC::Run::run([ 'python3', 'model/session_model.py', @arguments ], '>', \$output, '2>', \$error)
	  or die "model: $error";
	for (split /\n/, $output)
	{
		my ($kind, $what, $rest) = split /\t/, $_, 3;
		if ($kind eq 'scenario') { $scenario{$what} = $rest; }
		elsif ($kind eq 'record') { push @{ $batches[$what]{records} }, [ split /\t/, $rest, 2 ]; }
		elsif ($kind eq 'commit') { $batches[$what]{commit} = $rest; }
		elsif ($kind eq 'row') { push @{ $batches[$what]{rows} }, $rest; }
	}
	$_->{records} = [ map { [ $_->[0], '', $_->[1] ] } @{ $_->{records} } ] for @batches;
	return (\%scenario, \@batches);
}

sub microseconds { my $e = shift; return "(extract(epoch FROM $e) * 1000000)::bigint"; }

# what stream_agg.commits says of batches, and the sink, as the model writes it
sub observe
{
	my ($stream, $first, $last) = @_;
	my $watermark = microseconds("NULLIF(watermark, '-infinity')");
	my ($start, $end) = map { microseconds("$_(win)") } qw(lower upper);
	my $text = $node->safe_psql('postgres', qq{
		COPY (SELECT delivered, aggregated, late, null_time, filtered, rows_out, rows_removed, $watermark
		        FROM stream_agg.commits WHERE stream = '$stream' AND batch BETWEEN $first AND $last ORDER BY batch) TO STDOUT;
		COPY (SELECT $start, $end, k, n, n_large, total, least, greatest, price FROM $stream) TO STDOUT});
	$text =~ s/\\\\/\\/g;
	my @lines = split /\n/, $text;
	return (join("\n", @lines[ 0 .. $last - $first ]), sort @lines[ $last - $first + 1 .. $#lines ]);
}

sub expected
{
	my ($batches, $first, $last) = @_;
	return (join("\n", map { $batches->[$_]{commit} } $first .. $last), sort @{ $batches->[$last]{rows} // [] });
}

sub make_stream
{
	my ($stream, $scenario, $more) = @_;
	my $query = sprintf($scenario->{query}, "topic_$stream");
	my $watermark = $scenario->{watermark} ? ", watermark => '$scenario->{watermark}'" : '';

	$broker->create_topic("topic_$stream", 1);
	create_source($node, $broker, "topic_$stream", "topic_$stream", $scenario->{columns});
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$,
		output_mode => '$scenario->{mode}', trigger => '1 hour', start => false $watermark $more)");
	return;
}

sub compare
{
	my ($stream, $batches, $first, $last) = @_;
	my @got = split /\n/, join("\n", observe($stream, $first, $last));
	my @wanted = split /\n/, join("\n", expected($batches, $first, $last));
	my (@lines, %other);

	return '' if "@got" eq "@wanted";
	for my $i (0 .. $last - $first)
	{
		push @lines, 'batch ' . ($first + $i) . ": got $got[$i], expected $wanted[$i]" if $got[$i] ne $wanted[$i];
	}
	$other{$_}++ for @wanted;
	push @lines, map { "has $_" } grep { !$other{$_} } @got;
	%other = map { $_ => 1 } @got;
	push @lines, map { "lacks $_" } grep { !$other{$_} } @wanted;
	return join("\n", "batches $first to $last", @lines[ 0 .. ($#lines > 12 ? 12 : $#lines) ]);
}

# All records first, then batches of one size.
sub in_batches_of
{
	my ($scenario_seed, $size) = @_;
	my ($scenario, $batches) = run_model($scenario_seed, '--size', $size);
	my $stream = "s${scenario_seed}_$size";

	make_stream($stream, $scenario, $size ? ", max_offsets_per_trigger => $size" : '');
	$broker->produce("topic_$stream", map { @{ $_->{records} } } @$batches);
	$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$stream')");
	process($node, $stream);
	is(compare($stream, $batches, 0, $#$batches), '',
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
	my ($scenario, $batches) = run_model($scenario_seed);
	my $stream = "r$scenario_seed";
	my $failure = '';

	make_stream($stream, $scenario, '');
	for my $batch (0 .. $#$batches)
	{
		$broker->produce("topic_$stream", @{ $batches->[$batch]{records} });
		$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$stream')") if $batch == 0;
		process($node, $stream);
		$failure = compare($stream, $batches, $batch, $batch);
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
		do { $seed++ } until (run_model($seed, '--batches', 1))[0]{mode} eq $mode;
		in_batches_of($seed, $_) for 1, 7, 1000, 0;
		with_restarts($seed) if $n == 1;
	}
}

done_testing();
