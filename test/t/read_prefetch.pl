# Records that a thread has collected while the micro-batch before was executed:
# batches are as planned and in order, whatever of them was there before, in
# memory and in the temporary file, across gaps, restarts and errors.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my ($partitions, $records) = (5, 40_000);
my $broker = start_broker(events => $partitions, later => 3);
my $node = new_node('collect', 'restart_after_crash = on', 'stream_agg.collect_ahead = 0', 'log_min_messages = debug1');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET client_min_messages = warning');
my $brokers = $broker->brokers;
my $rng = seeded_random();
my $columns = q{value text, part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset')};

# records of unequal partitions, keys and sizes; a few larger than a chunk's end leaves room for
sub some_records
{
	my ($n, $npartitions, $large) = @_;
	return map {
		[ $rng->($rng->($npartitions) + 1), 'k' x $rng->(20),
			'v' x ($large && $rng->(2000) == 0 ? 100_000 : 50 + $rng->(100)) ] } 1 .. $n;
}
$broker->produce('events', some_records($records, $partitions, 1));
for my $topic (qw(events later))
{
	$node->safe_psql('postgres', qq{SELECT stream_agg.create_source('$topic', topic => '$topic', brokers => '$brokers',
		format => 'text', columns => \$c\$$columns\$c\$, options => '{"fetch.wait.max.ms": 20}')});
}

# What was collected ahead since the last call, as the log tells it: records.
my $log_position = -s $node->logfile;
sub collected
{
	my $text = slurp_file($node->logfile, $log_position);
	$log_position += length $text;
	my $n = 0;
	$n += $1 while $text =~ /collected (\d+) records of micro-batches to come/g;
	return $n;
}

# A table of rows in the order in which they were written.
sub create_stream
{
	my ($stream, $source, $more) = @_;
	$node->safe_psql('postgres', qq{
		CREATE TABLE $stream (part int, off bigint, bytes int, n bigserial);
		SELECT stream_agg.create_stream('$stream', 'SELECT part, off, length(value) AS bytes FROM $source', sink => '$stream',
			trigger => '20 days' $more)});
	return;
}

sub is_complete
{
	my ($stream, $source, $name) = @_;
	is_equal_tables($node, "SELECT part, off, bytes FROM $stream", "SELECT part, off, length(value) FROM $source",
		"$stream: $name");
	my $batches = $node->safe_psql('postgres', "SELECT max(batch) FROM stream_agg.commits WHERE stream = '$stream'");
	cmp_ok($node->safe_psql('postgres', qq{
			SELECT count(*) FILTER (WHERE (part, off) < before)
			  FROM (SELECT *, lag(ROW(part, off)) OVER (ORDER BY n) AS before FROM $stream) s}), '<=', $batches,
		"$stream: rows are in order within its $batches micro-batches");
	return;
}

for my $case ([ 'large', '256MB', 2_000 ], [ 'small', '256MB', 300 ], [ 'file', '1MB', 3_000 ], [ 'whole', '256MB', 100_000 ])
{
	my ($stream, $memory, $bound) = @$case;
	$node->append_conf('postgresql.conf', "stream_agg.batch_memory = '$memory'");
	$node->reload;
	collected();
	create_stream($stream, 'events', ", max_offsets_per_trigger => $bound");
	process($node, $stream);
	is_complete($stream, 'events', "batches of $bound records, $memory");
	is($node->safe_psql('postgres', "SELECT max(delivered) <= $bound FROM stream_agg.commits WHERE stream = '$stream'"), 't',
		"$stream: no more in a batch than its bound");
	my $n = collected();
	if ($bound > $records) { is($n, 0, "$stream: nothing to collect"); }
	elsif ($stream ne 'file') { cmp_ok($n, '>', 0, "$stream: $n records were collected ahead"); }
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream')");
}

# a stream that runs on, and micro-batches committed by now
sub start_running
{
	my ($stream, $source, $bound) = @_;
	create_stream($stream, $source, ", max_offsets_per_trigger => $bound, start => false");
	$node->safe_psql('postgres', qq{SELECT stream_agg.alter_stream('$stream', trigger => '0'); SELECT stream_agg.start_stream('$stream')});
	return;
}

sub await_batches
{
	my ($stream, $n) = @_;
	$node->poll_query_until('postgres', "SELECT max(batch) >= $n FROM stream_agg.commits WHERE stream = '$stream'")
	  or die "stream $stream has no $n batches";
	return;
}

# plans that cut what was collected: the bound changes on the way
$broker->produce('later', some_records(20_000, 3));
start_running('cut', 'later', 100);
for my $i (1 .. 6)
{
	await_batches('cut', 5 * $i);
	$node->safe_psql('postgres', "SELECT stream_agg.alter_stream('cut', max_offsets_per_trigger => " . (100 + $rng->(400)) . ')');
}
process($node, 'cut');
is_complete('cut', 'later', 'bounds changed on the way');

# the worker is killed and errors are raised while records are collected
$node->safe_psql('postgres', q{
	CREATE SEQUENCE calls;
	CREATE FUNCTION raise_now_and_then() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF nextval('calls') % 4 = 0 THEN RAISE 'not now' USING ERRCODE = '40001'; END IF;
		RETURN NULL;
	END $$});
create_stream('errors', 'events', ', max_offsets_per_trigger => 4000, start => false');
$node->safe_psql('postgres', q{
	CREATE TRIGGER t AFTER INSERT ON errors FOR EACH STATEMENT EXECUTE FUNCTION raise_now_and_then();
	SELECT stream_agg.start_stream('errors')});
process($node, 'errors');
is_complete('errors', 'events', 'errors in the middle');
cmp_ok($node->safe_psql('postgres', "SELECT last_value FROM calls"), '>=', 12, 'errors: there were some');

start_running('killed', 'events', 500);
for my $i (1 .. 4)
{
	await_batches('killed', 6 * $i);
	kill_backends($node, worker_pid($node, 'killed'));
}
process($node, 'killed');
is_complete('killed', 'events', 'SIGKILL while it ran');

# no thread where there is to be none
$node->append_conf('postgresql.conf', 'stream_agg.collect_ahead = -1');
$node->reload;
collected();
create_stream('without', 'events', ', max_offsets_per_trigger => 5000');
process($node, 'without');
is_complete('without', 'events', 'collect_ahead = -1');
is(collected(), 0, 'without: nothing was collected ahead');

done_testing();
