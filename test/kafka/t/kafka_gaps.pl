# Offsets with gaps: transactions, their control records, compaction and records
# that are deleted.  Everything committed is aggregated once, nothing else is,
# lag reaches 0, and process_available returns.

use strict;
use warnings;

use IPC::Run;
use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;
use Time::HiRes ();

my $kafka = StreamAgg::Kafka->shared;
my $node = new_node('gaps', 'max_worker_processes = 30');
my $random = seeded_random();
my $serial = 0;

# records of their own for a partition, with a header line to each
sub records
{
	my ($n, $partition) = @_;
	return map { [ $partition, $random->(10), json_record({ k => $random->(10), v => ++$serial }, numbers => [qw(k v)]) ] } 1 .. $n;
}

# one kind of records after another: plain, commit or abort, and how many
sub produce
{
	my ($topic, $partition, @what) = @_;
	while (my ($kind, $n) = splice @what, 0, 2)
	{
		$kafka->produce($topic, records($n, $partition), $kind eq 'plain' ? () : {
			transaction => "$topic.$partition", $kind eq 'abort' ? (abort => undef) : () });
	}
	return;
}

sub create_streams
{
	my ($topic, $source) = @_;
	$source //= $topic;
	create_source($node, $kafka, $source, $topic, q{k int, v int, part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset')})
	  if $source eq $topic;
	$node->safe_psql('postgres', qq{
		SELECT stream_agg.create_stream('${source}_at_once', 'SELECT k, count(*) AS n, sum(v) AS v, max(off) AS off FROM $source GROUP BY k',
			output_mode => 'update', trigger => '0', max_offsets_per_trigger => 17);
		SELECT stream_agg.create_stream('${source}_hourly', 'SELECT k, part, count(*) AS n, sum(v) AS v FROM $source GROUP BY 1, 2',
			output_mode => 'complete', trigger => '20 days')});
	return;
}

# all is there, and nothing is behind
sub check
{
	my ($source, $records, $name) = @_;
	# a commit is answered before its marker is there
	$node->poll_query_until('postgres', "SELECT count(*) = $records FROM $source") or die "$name: not $records records";
	for my $stream ("${source}_at_once", "${source}_hourly")
	{
		process($node, $stream);
		is_equal_tables($node, "SELECT * FROM $stream", "SELECT * FROM ${stream}_query", "$name: $stream equals the batch query");
		counts_add_up($node, $stream, $records, "$name: $stream has $records records") if $records > 0;
		is($node->safe_psql('postgres', "SELECT lag, rows_in FROM pg_stat_stream_agg WHERE stream = '$stream'"),
			"0|$records", "$name: $stream has no lag");
		is((process($node, $stream))[1], 0, "$name: $stream finds no more");
	}
	is($node->safe_psql('postgres', "SELECT count(*) FROM $source"), $records, "$name: a scan finds $records records");
	return;
}

# --- transactions; the partitions end with a record, the marker of a commit, and
# that of an abort
$kafka->create_topic('transactions', 3);
create_streams('transactions');
produce('transactions', 0, plain => 40, commit => 30, abort => 20, plain => 10);
produce('transactions', 1, abort => 25, plain => 25, commit => 50);
produce('transactions', 2, commit => 35, plain => 5, abort => 60);
check('transactions', 40 + 30 + 10 + 25 + 50 + 35 + 5, 'transactions');
for (1 .. 5)
{
	# each a commit or an abort, and nothing behind it
	my ($partition, $kind) = ($random->(3), $random->(2) ? 'commit' : 'abort');
	my $before = $node->safe_psql('postgres', q{SELECT rows_in FROM pg_stat_stream_agg WHERE stream = 'transactions_at_once'});
	produce('transactions', $partition, $kind => 3);
	check('transactions', $before + ($kind eq 'commit' ? 3 : 0), "a $kind more");
}

# --- nothing but what was aborted
$kafka->create_topic('aborted', 1);
create_streams('aborted');
produce('aborted', 0, abort => 30, abort => 1);
check('aborted', 0, 'aborted only');
produce('aborted', 0, commit => 1);
check('aborted', 1, 'and one committed');

# --- a transaction that is open: its records, and those behind it, are not read
# until it ends, and are no lag; a source that says so reads them at once
$kafka->create_topic('open', 1);
my $brokers = $kafka->brokers;
$node->safe_psql('postgres', qq{
	SELECT stream_agg.create_source('uncommitted', topic => 'open', brokers => '$brokers',
		columns => 'k int, v int, part int OPTIONS (metadata ''partition''), off bigint OPTIONS (metadata ''offset'')',
		options => '{"fetch.wait.max.ms": 20, "isolation.level": "read_uncommitted"}')});
create_streams('open');
create_streams('open', 'uncommitted');
produce('open', 0, plain => 10);
my ($input, $output, $error) = (join('', map { "0\t\t{\"k\": $_, \"v\": 1}\n" } 1 .. 20), '', '');
my $producer = IPC::Run::start([ $ENV{KAFKA_TOOL}, 'produce', '--brokers', $brokers, '--topic', 'open', '--tab',
		'--transaction', 'held', '--property', 'transaction.timeout.ms=600000', '--abort' ],
	'<', \$input, '>', \$output, '2>', \$error);
$producer->pump while length $input;
$node->poll_query_until('postgres', 'SELECT count(*) = 30 FROM uncommitted') or die 'the transaction does not start';
produce('open', 0, plain => 5);
check('open', 10, 'an open transaction');
check('uncommitted', 35, 'an open transaction, read_uncommitted');
$producer->finish or die "cannot produce: $error";
$node->poll_query_until('postgres', 'SELECT count(*) = 15 FROM open') or die 'the transaction does not end';
check('open', 15, 'the transaction aborted');
check('uncommitted', 35, 'the transaction aborted, read_uncommitted');
my (undef, undef, $refused) = $node->psql('postgres',
	"ALTER SERVER uncommitted_kafka OPTIONS (SET \"isolation.level\" 'read_some')");
like($refused, qr/ERROR:  (invalid value for option "isolation.level"|server .* does not exist)/, 'other levels are refused');

# --- compaction
$kafka->create_topic('compacted', 2, 'cleanup.policy' => 'compact', 'min.cleanable.dirty.ratio' => '0.001',
	'segment.ms' => 100, 'min.compaction.lag.ms' => 0, 'max.compaction.lag.ms' => 100, 'delete.retention.ms' => 0);
create_source($node, $kafka, 'compacted', 'compacted',
	q{k int, v int, part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset')});
my $produced = 0;

sub compact
{
	# a record that comes later closes the segment of the others
	for (1 .. 600)
	{
		produce('compacted', $_, plain => 1) for 0, 1;
		$produced += 2;
		return if $node->safe_psql('postgres', 'SELECT count(*) FROM compacted') < $produced / 2;
		Time::HiRes::usleep(200_000);
	}
	die 'the topic is not compacted';
}
for (0, 1)
{
	produce('compacted', $_, plain => 500, commit => 100, abort => 100);
	$produced += 600;
}
compact();
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM compacted'), '<', $produced, 'the topic has been compacted');
$node->safe_psql('postgres', q{
	SELECT stream_agg.create_stream('compacted_sum', 'SELECT k, count(*) AS n, sum(v) AS v FROM compacted GROUP BY k',
		output_mode => 'update', trigger => '0', max_offsets_per_trigger => 50)});
my $deadline = time + 120;
my $equal = 0;

# the topic may be compacted between the two reads, so not to be compared once
until ($equal || time > $deadline)
{
	$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('compacted_sum', drop_sink => true)});
	$node->safe_psql('postgres', q{
		SELECT stream_agg.create_stream('compacted_sum', 'SELECT k, count(*) AS n, sum(v) AS v FROM compacted GROUP BY k',
			output_mode => 'update', trigger => '0', max_offsets_per_trigger => 50)});
	process($node, 'compacted_sum');
	$equal = $node->safe_psql('postgres', q{
		SELECT count(*) = 0 FROM ((TABLE compacted_sum EXCEPT ALL TABLE compacted_sum_query)
			UNION ALL (TABLE compacted_sum_query EXCEPT ALL TABLE compacted_sum)) x}) eq 't';
}
ok($equal, 'compaction: the table equals the batch query');
is($node->safe_psql('postgres', q{SELECT lag FROM pg_stat_stream_agg WHERE stream = 'compacted_sum'}), 0, 'compaction: no lag');

# ahead of a stream that has read a part of it
$node->safe_psql('postgres', q{SELECT stream_agg.stop_stream('compacted_sum')});
my $read = $node->safe_psql('postgres', q{SELECT rows_in FROM pg_stat_stream_agg WHERE stream = 'compacted_sum'});
my @ends = split /\|/, $node->safe_psql('postgres',
	q{SELECT offsets ->> '0', offsets ->> '1' FROM stream_agg.commits WHERE stream = 'compacted_sum' ORDER BY batch DESC LIMIT 1});
for (0, 1)
{
	produce('compacted', $_, plain => 500, commit => 100);
	$produced += 600;
}
compact();
$node->safe_psql('postgres', q{SELECT stream_agg.start_stream('compacted_sum')});
process($node, 'compacted_sum');
my ($more, $lag) = split /\|/, $node->safe_psql('postgres',
	"SELECT rows_in - $read, lag FROM pg_stat_stream_agg WHERE stream = 'compacted_sum'");
my $offsets = $node->safe_psql('postgres', "SELECT count(*) FROM compacted WHERE part = 0 AND off >= $ends[0] OR part = 1 AND off >= $ends[1]");
cmp_ok($more, '>=', $offsets, 'compacted ahead of a stream: every record that is left is read');
cmp_ok($more, '<', 1200, 'and those that are gone are not waited for');
is($lag, 0, 'and there is no lag');

# --- deleted to the end: nothing to read, and nothing to wait for
$kafka->create_topic('emptied', 1);
produce('emptied', 0, commit => 20);
StreamAgg::Kafka::until_true('the marker of the commit is there', sub { eval { $kafka->delete_records('emptied', 0, 21); 1 } });
create_streams('emptied');
check('emptied', 0, 'a partition that is empty behind its offset 21');
produce('emptied', 0, plain => 2, abort => 3);
check('emptied', 2, 'and has records again');

$node->stop;
done_testing();
