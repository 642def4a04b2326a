# When batches run and how large they are; process_available.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;
use Time::HiRes 'usleep';

my $broker = start_broker(ticks => 1, shared => 4, few => 1);
my $node = new_node('triggers', 'stream_agg.max_records_per_batch = 50');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET client_min_messages = warning');
create_source($node, $broker, $_, $_, 'ts timestamptz, k int') for qw(ticks shared few);

sub record { return qq({"ts": "2026-01-01T00:00:00Z", "k": $_[0]}); }

sub create
{
	my ($stream, $source, $more) = @_;
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream',
		'SELECT k, count(*) AS n FROM $source GROUP BY k', output_mode => 'update', $more)");
	return;
}

# --- triggers are multiples of the interval
create('ticking', 'ticks', "trigger => '1 second'");
worker_pid($node, 'ticking');
my $start = time;
for (1 .. 40)
{
	$broker->produce('ticks', record($_));
	usleep(100_000);
}
my ($batches, $misplaced) = split /\|/, $node->safe_psql('postgres', q{
	SELECT count(*), count(*) FILTER (WHERE extract(microseconds FROM batch_time)::int % 1000000 > 500000)
	  FROM stream_agg.offsets WHERE stream = 'ticking'});
cmp_ok($batches, '>=', 3, 'batches run while records come');
# a loaded machine takes its time to produce
cmp_ok($batches, '<=', time - $start + 2, 'once an interval, no more');
cmp_ok($misplaced, '<=', 2, 'at multiples of the interval, but for the first');
process($node, 'ticking');
counts_add_up($node, 'ticking', 40, 'and take every record once');

# --- the bound is shared by lag, and no partition starves
$broker->produce('shared', map { [ 0, '', record($_) ] } 1 .. 60);
$broker->produce('shared', map { [ $_, '', record($_) ] } 1, 1, 2, 2, 3, 3);
create('bounded', 'shared', "trigger => '0', max_offsets_per_trigger => 2");
process($node, 'bounded');
is($node->safe_psql('postgres', q{SELECT max(delivered), sum(delivered) FROM stream_agg.commits WHERE stream = 'bounded'}),
	'2|66', 'two records a batch, where the topic has four partitions');
is($node->safe_psql('postgres', q{
		SELECT count(DISTINCT r.key) FROM stream_agg.offsets, jsonb_object_keys(ranges) AS r(key)
		 WHERE stream = 'bounded' AND batch < 3}), 4, 'every partition has its turn at once');
create('proportional', 'shared', "trigger => '0', max_offsets_per_trigger => 22");
process($node, 'proportional');
is($node->safe_psql('postgres', q{SELECT ranges ->> '0', ranges ->> '1' FROM stream_agg.offsets
		WHERE stream = 'proportional' AND batch = 0}), '[0, 18]|[0, 2]', 'in proportion to what waits');

# --- without a bound of its own a stream keeps to the setting
create('unbounded', 'shared', "trigger => '1 hour'");
my ($ran, $in) = process($node, 'unbounded');
is($node->safe_psql('postgres', q{SELECT count(*), max(delivered) FROM stream_agg.commits WHERE stream = 'unbounded'}),
	'2|50', 'max_records_per_batch bounds a batch, and the next follows at once');

# --- what is there is one batch, and now() is its time
create('on_demand', 'few', "trigger => '1 hour'");
process($node, 'on_demand');
$broker->produce('few', map { record($_ % 3) } 1 .. 30);
is_deeply([ process($node, 'on_demand') ], [ 1, 30, 3 ], 'process_available is one batch of what is there');

# --- autovacuum hears of what the worker does
ok($node->poll_query_until('postgres', q{
		SELECT count(*) = 2 FROM pg_stat_all_tables
		 WHERE relid IN ('bounded'::regclass, 'stream_agg.commits'::regclass)
		   AND n_tup_ins > 0 AND n_live_tup > 0}),
	'a running worker reports the statistics of sink and logs');

# --- refused rather than left hanging
my %refused = (
	'that holds a lock on the sink' => q{BEGIN; LOCK TABLE on_demand; SELECT stream_agg.process_available('on_demand')},
	'that has changed the sink' => q{BEGIN; DELETE FROM on_demand; SELECT stream_agg.process_available('on_demand')},
	'that created the stream' => q{BEGIN;
		SELECT stream_agg.create_stream('brief', 'SELECT k, count(*) AS n FROM few GROUP BY k', output_mode => 'update');
		SELECT stream_agg.process_available('brief')});
for my $what (sort keys %refused)
{
	my ($status, $out, $err) = $node->psql('postgres', $refused{$what});
	like($err, qr/ERROR:.*\n.*HINT/s, "process_available is refused in a transaction $what");
}
my ($status, $out, $err) = $node->psql('postgres', q{
	SELECT stream_agg.stop_stream('on_demand'); SELECT stream_agg.process_available('on_demand')});
like($err, qr/stream "on_demand" is stopped/, 'a stopped stream is told');

# --- a reader with an old snapshot does not stop a stream
my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$old->query_safe('SELECT count(*) FROM unbounded');
$broker->produce('shared', map { [ 0, '', record(1) ] } 1 .. 5);
process($node, 'unbounded');
is($old->query_safe('SELECT sum(n) FROM unbounded'), 66, 'an old snapshot sees the old result');
$old->quit;
is($node->safe_psql('postgres', 'SELECT sum(n) FROM unbounded'), 71, 'a new one the new');

done_testing();
