# Sinks of a library outside of stream_agg, at each place near WRITE and COMMIT:
# after each failure every row is there as the flags of the kind promise, once or
# at least once, and nothing is left of batches that did not commit.
#
# A round has two streams at each place, one for each promise, and fails all of
# them in the same way.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Failpoint;
use StreamAgg::FileSink;
use StreamAgg::Test;
use Test::More;

# [place, where a session that comes after a failure there hangs once more]
my @points = (
	['write.statement_before'],
	['write.statement_after'],
	['write.triggers_done'],
	['checkpoint.commit_after'],
	['sink.prepared'],
	['sink.prepared', 'sink.recovered'],
	['commit.before'],
	['commit.after'],
	['commit.after', 'sink.recovered'],
	['sink.committed'],
	['publish.done']);
my %failure = (
	error => sub { release($_[0], $_, 'error') for @{ $_[1] }; },
	fatal => sub { release($_[0], $_, 'fatal') for @{ $_[1] }; },
	SIGKILL => sub { kill_backends($_[0], pids($_[0])); },
	'immediate stop' => sub { $_[0]->stop('immediate'); $_[0]->start; });

my $rng = seeded_random();
my $broker = start_broker(events => 2);
my $node = new_node('sink_failpoints', 'restart_after_crash = on', 'max_worker_processes = 40',
	"stream_agg.max_retry_delay = '50ms'", 'timezone = UTC');
create_source($node, $broker, 'events', 'events', 'n bigint, v int');
declare_file_sinks($node);

sub pids { return split /\n/, $_[0]->safe_psql('postgres', 'SELECT pid FROM pg_stat_stream_agg WHERE pid IS NOT NULL'); }

my $produced = 0;
sub produce
{
	$broker->produce('events', map { [ $rng->(2), '', sprintf('{"n":%d,"v":%d}', $produced++, $rng->(100)) ] } 1 .. 20);
	return;
}

my %point;    # by stream
for my $i (0 .. $#points)
{
	for my $promise (qw(files logs))
	{
		my $name = "${promise}_$i";
		create_file_sink($node, $name, $promise, 'n bigint, v int');
		my $options = $promise eq 'logs' ? q{, options => '{"delivery": "at_least_once"}'} : '';
		$node->safe_psql('postgres', "SELECT stream_agg.create_stream('s_$name', 'SELECT n, v FROM events', sink => '$name', trigger => '0'$options)");
		$point{"s_$name"} = $points[$i];
	}
}
my @streams = sort keys %point;
produce();
process($node, $_) for @streams;

# the rows of each stream's sink that are missing or wrong, and repeated
sub verify
{
	my ($name) = @_;
	process($node, $_) for @streams;
	for my $stream (@streams)
	{
		my ($table) = $stream =~ /^s_(.*)/;
		my ($place, $again) = @{ $point{$stream} };
		my $lines = load_lines($node, $table);
		my $difference = $node->safe_psql('postgres', qq{
			SELECT (SELECT count(*) FROM (SELECT n, v FROM events EXCEPT SELECT n, v FROM $lines) x),
			       (SELECT count(*) FROM (SELECT n, v FROM $lines EXCEPT SELECT n, v FROM events) x),
			       (SELECT count(*) - count(DISTINCT n) FROM $lines)});
		my ($missing, $wrong, $repeated) = split /\|/, $difference;
		my @left = $table =~ /^files/ ? files_of($node, $table, '.prepared') : ();
		my $where = $again ? "$place, then at $again" : $place;
		is("$missing missing, $wrong wrong", '0 missing, 0 wrong', "$name at $where: every row is in $table");
		is("$repeated repeated, @left", '0 repeated, ', "$name at $where: once, and no batch is left half done") if $table =~ /^files/;
		$produced == $node->safe_psql('postgres', 'SELECT count(*) FROM events') or die 'records are gone';
	}
	return;
}

for my $action (sort keys %failure)
{
	arm($node, $_, $point{$_}[0], 'hang') for @streams;
	produce();
	my @missed = grep { !wait_hit($node, $_) } @streams;
	is("@missed", '', "$action: all streams are at their places");

	# what comes after it hangs in a session that has found what was left
	my @again = grep { $point{$_}[1] } @streams;
	my @others = grep { !$point{$_}[1] } @streams;
	arm($node, $_, $point{$_}[1], 'hang') for @again;
	disarm($node, $_) for $action =~ /SIGKILL|stop/ ? @others : ();
	produce();
	$failure{$action}->($node, \@streams);
	is(join(' ', grep { !wait_hit($node, $_) } @again), '', "$action: those that recover are there");
	disarm($node, $_) for @again;
	kill_backends($node, pids($node));
	unlink map { $node->data_dir . "/failpoint.$_.go" } @streams;
	verify($action);
}

# --- a reset takes the number of a batch that did not end: what that has prepared
# does not pass for committed
my ($stream, $table) = ('s_files_0', 'files_0');
arm($node, $stream, 'sink.prepared', 'hang');
produce();
ok(wait_hit($node, $stream), 'reset_stream: a batch is prepared');
my ($left) = files_of($node, $table, '.prepared');
$node->append_conf('postgresql.conf', 'stream_agg.enabled = off');
$node->reload;
kill_backends($node, pids($node));
is(join(' ', files_of($node, $table, '.prepared')), $left, 'reset_stream: its worker is gone, and it is still there');
$node->safe_psql('postgres', "SELECT stream_agg.reset_stream('$stream', 'latest')");
$node->append_conf('postgresql.conf', 'stream_agg.enabled = on');
$node->reload;
produce();
process($node, $stream);
is(join(' ', grep { $_ eq $left =~ s/prepared/rows/r } files_of($node, $table, '.rows')), '', 'reset_stream: it is never seen');
is(join(' ', files_of($node, $table, '.prepared')), '', 'reset_stream: and nothing is left of it');

# what at least once allows did happen, or the places are not where they should be
my $repeats = $node->safe_psql('postgres', join(' UNION ALL ', map { "SELECT count(*) - count(DISTINCT n) FROM " . load_lines($node, $_ =~ s/^s_//r) } grep { /logs/ } @streams) . ' ORDER BY 1 DESC LIMIT 1');
cmp_ok($repeats, '>', 0, 'a kind without a commit has rows again');

done_testing();
