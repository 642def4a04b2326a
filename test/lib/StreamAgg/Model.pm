# Streams batch by batch beside the executable models: test/model/stream_model.py,
# session_model.py.

package StreamAgg::Model;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;

our @EXPORT = qw(run_model make_stream compare);

# The output of a model: name => value of the scenario, and by batch the records,
# whether to restart before it, the commit and the sink.
sub run_model
{
	my ($model, @arguments) = @_;
	my ($output, $error);
	my (%scenario, @batches);

	IPC::Run::run([ 'python3', "model/$model.py", @arguments ], '>', \$output, '2>', \$error)
	  or die "model: $error";
	for (split /\n/, $output)
	{
		my ($kind, $what, $rest) = split /\t/, $_, 3;
		if ($kind eq 'scenario') { $scenario{$what} = $rest; }
		elsif ($kind eq 'record') { push @{ $batches[$what]{records} }, [ split /\t/, $rest, 2 ]; }
		elsif ($kind eq 'restart') { $batches[$what]{restart} = 1; }
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
	my ($node, $stream, $first, $last) = @_;
	my $watermark = microseconds("NULLIF(watermark, '-infinity')");
	my ($start, $end) = map { microseconds("$_(win)") } qw(lower upper);
	my $text = $node->safe_psql('postgres', qq{
		COPY (SELECT delivered, aggregated, late, null_time, filtered, rows_out, rows_removed, $watermark, late_windows
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

# A stream of a scenario, with a topic and a source of its own, to be started.
sub make_stream
{
	my ($node, $broker, $stream, $scenario, $more, $partitions) = @_;
	my $query = sprintf($scenario->{query}, "topic_$stream");
	my $watermark = $scenario->{watermark} ? ", watermark => '$scenario->{watermark}'" : '';

	$broker->create_topic("topic_$stream", $partitions // 1);
	create_source($node, $broker, "topic_$stream", "topic_$stream", $scenario->{columns});
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$,
		output_mode => '$scenario->{mode}', trigger => '20 days', start => false $watermark $more)");
	return;
}

# What differs after batches $first to $last; nothing if all is as it has to be.
sub compare
{
	my ($node, $stream, $batches, $first, $last) = @_;
	my @got = split /\n/, join("\n", observe($node, $stream, $first, $last));
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

1;
