# From a kind of sources to a kind of sinks, both of libraries outside of stream_agg,
# with a failure at each place of a micro-batch: afterwards every window is in the
# sink once and equals the batch query over the records, and nothing is left of
# batches that did not commit.
#
# A round has a stream for each place and fails all of them at once.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Failpoint;
use StreamAgg::FileSink;
use StreamAgg::FileSource;
use StreamAgg::Test;
use Test::More;

# place => [hit, where it is]: as a session opens; when the state is restored, undone
# by the one that has failed or by the next one, discarded; else in a batch
my %points = (
	(map { $_ => [ 1, 'open' ] } qw(session.locked sink.recovered session.opened)),
	'restore.blob' => [ 1, 'open' ],
	'undo.version' => [ 1, 'after', 'execute.done', 1, 'error' ],
	'undo.left' => [ 1, 'after', 'execute.done', 1, 'fatal' ],
	'store.discarding' => [ 1, 'after', 'store.changing', 2, 'fatal' ],
	'execute.row' => [5],
	'store.changing' => [2],
	(map { $_ => [1] } qw(plan.committed read.begun read.done execute.begun execute.ran store.changed execute.done
		  write.statement_before write.statement_after write.done write.triggers_done
		  checkpoint.chain_deleted checkpoint.blob_made checkpoint.base_made checkpoint.blobs_inserted
		  checkpoint.state_written checkpoint.commit_before checkpoint.commit_after sink.prepared commit.before
		  commit.after sink.committed publish.version publish.middle publish.done batch.done)));
my %failure = (
	error => sub { release($_[0], $_, 'error') for @{ $_[1] }; },
	SIGKILL => sub { kill_backends($_[0], pids($_[0])); },
	'immediate stop' => sub { $_[0]->stop('immediate'); $_[0]->start; });

my $rng = seeded_random();
my $node = new_node('source_failpoints', 'restart_after_crash = on', 'max_worker_processes = 60', 'stream_agg.max_streams = 48',
	"stream_agg.max_retry_delay = '50ms'", 'timezone = UTC');
declare_file_source($node);
declare_file_sinks($node);
my $directory = create_file_source($node, 'lines', 2);
my $query = q{SELECT stream_agg.tumble(t, '20 seconds') AS win, v, count(*) AS n, sum(n) AS total FROM lines GROUP BY 1, 2};

sub pids { return split /\n/, $_[0]->safe_psql('postgres', 'SELECT pid FROM pg_stat_stream_agg WHERE pid IS NOT NULL'); }
sub in_all { my $function = shift; $node->safe_psql('postgres', join '; ', map { "SELECT FROM stream_agg.$function('$_')" } @_) if @_; return; }

# 20 seconds, a window, of event time; streams see those of one partition first
my $appended = 0;
sub append
{
	my @records = ([], []);
	push @{ $records[ $_ % 2 ] }, [ 1767225600000 + 1000 * $appended, $appended++, $rng->(6) + ($_ < 4 ? 10 * $appended : 0) ] for 1 .. 20;
	append_records($directory, $_, @{ $records[$_] }) for 0, 1;
	return;
}

my %point;    # by stream
for my $place (sort keys %points)
{
	my $name = $place =~ tr/./_/r;
	create_file_sink($node, $name, 'files', 'win tstzrange, v int, n bigint, total bigint');
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('s_$name', \$\$ $query \$\$, sink => '$name', watermark => '30 seconds', trigger => '0')");
	$point{"s_$name"} = $place;
}
my @streams = sort keys %point;
append() for 1 .. 3;
process($node, $_) for @streams;

# Take each stream to its place; returns those that did not come there.
sub take_to_places
{
	my @opened = grep { ($points{ $point{$_} }[1] // '') eq 'open' } @streams;
	my @indirect = grep { ($points{ $point{$_} }[1] // '') eq 'after' } @streams;

	in_all('stop_stream', @opened);
	arm($node, $_, $point{$_}, 'hang', $points{ $point{$_} }[0]) for @streams;
	arm($node, $_, $points{ $point{$_} }[2], 'hang', $points{ $point{$_} }[3]) for @indirect;
	in_all('start_stream', @opened);
	# not every batch comes to all places
	for (1 .. 60)
	{
		append();
		last if wait_until(sub { !grep { !is_hit($node, $_) } @streams }, 0.5);
	}
	for my $stream (@indirect)
	{
		arm($node, $stream, $point{$stream}, 'hang');
		release($node, $stream, $points{ $point{$stream} }[4]);
	}
	wait_until(sub { !grep { !is_hit($node, $_) } @streams });
	return grep { !is_hit($node, $_) } @streams;
}

sub verify
{
	my ($name) = @_;
	process($node, $_) for @streams;
	for my $stream (@streams)
	{
		my ($table) = $stream =~ /^s_(.*)/;
		my $lines = load_lines($node, $table);
		my $expected = "SELECT * FROM oracle WHERE upper(win) <= (SELECT watermark FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1)";
		my ($lacks, $has, $delivered, $windows) = split /\|/, $node->safe_psql('postgres', qq{
			DROP TABLE IF EXISTS oracle; CREATE TABLE oracle AS $query;
			SELECT (SELECT count(*) FROM ($expected EXCEPT ALL SELECT win, v, n, total FROM $lines) x),
			       (SELECT count(*) FROM (SELECT win, v, n, total FROM $lines EXCEPT ALL $expected) x),
			       (SELECT total_delivered FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1),
			       (SELECT count(DISTINCT win) FROM $lines)} =~ s/CREATE TABLE oracle AS/SET client_min_messages = error; CREATE TABLE oracle AS/r);
		my @left = files_of($node, $table, '.prepared');
		is("lacks $lacks, has $has, read $delivered, left @left", "lacks 0, has 0, read $appended, left ", "$name at $point{$stream}: every window is in the files once");
		cmp_ok($windows, '>=', $appended / 20 - 4, "$name at $point{$stream}: of all records but the last");
	}
	return;
}

for my $action (sort keys %failure)
{
	my @missed = take_to_places();
	is("@missed", '', "$action: all streams are at their places");
	disarm($node, $_) for @missed, $action eq 'error' ? () : @streams;
	append();
	$failure{$action}->($node, \@streams);
	await_server($node);
	verify($action);
}

$node->stop;
done_testing();
