# Where a stream begins to read, how many records make a micro-batch, and what
# becomes of offsets that Kafka does not have.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(begin => 3, waits => 1, gone => 2, retried => 1);
my $node = new_node('bounds', "stream_agg.kafka_timeout = '5s'");
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET client_min_messages = warning');
create_source($node, $broker, $_, $_, q{k int, part int OPTIONS (metadata 'partition'),
	off bigint OPTIONS (metadata 'offset')}) for qw(begin waits gone retried);

sub create
{
	my ($stream, $source, $more) = @_;
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream',
		'SELECT part, off, count(*) AS n FROM $source GROUP BY part, off', output_mode => 'update', $more)");
	return;
}

sub value { return $node->safe_psql('postgres', $_[0]); }

sub read_from
{
	my $stream = shift;
	return value("SELECT string_agg(part || ':' || first, ' ' ORDER BY part)
		FROM (SELECT part, min(off) AS first FROM $stream GROUP BY part) p");
}

# --- starting_offsets
$broker->produce('begin', map { my $p = $_; map { [ $p, '', qq({"k": $_}) ] } 1 .. 10 } 0 .. 2);
create('by_offset', 'begin', q{trigger => '20 days', starting_offsets => '{"0": 4, "1": -2}'});
create('by_end', 'begin', q{trigger => '20 days', starting_offsets => '{"1": -1, "2": 10}'});
create('from_end', 'begin', q{trigger => '20 days', starting_offsets => 'latest'});
# the embedded broker has no record of any time; a real one is in the Kafka tier
create('from_time', 'begin', q{trigger => '20 days', starting_offsets => '2020-01-01 00:00:00+01'});
process($node, $_) for qw(by_offset by_end from_end from_time);
is(read_from('by_offset'), '0:4 1:0 2:0', 'a named offset, the beginning, and partitions not named from their beginning');
is(read_from('by_end'), '0:0', 'the end, as -1 and as an offset');
is(value(q{SELECT initial_offsets FROM stream_agg.sources WHERE stream = 'by_end'}),
	'{"0": 0, "1": 10, "2": 10}', 'the first offsets are recorded');
is(value('SELECT count(*) FROM from_end') . value('SELECT count(*) FROM from_time'), '00',
	'the end, and a time that no record has: nothing of before');
is(value(q{SELECT starting_offsets FROM stream_agg.streams WHERE stream = 'from_time'}),
	'2019-12-31 23:00:00+00', 'a time is kept in one form');
$broker->produce('begin', map { [ $_, '', '{"k": 11}' ] } 0 .. 2);
process($node, $_) for qw(by_end from_end from_time);
is(read_from('by_end'), '0:0 1:10 2:10', 'new records are read from the end on');
is(read_from($_), '0:10 1:10 2:10', "$_: likewise") for qw(from_end from_time);

create('unknown', 'begin', q{starting_offsets => '{"7": 0}'});
wait_state($node, 'unknown', 'failed', 'partition 7, which topic "begin" does not have');
pass('a partition that the topic does not have stops the stream');
value(q{SELECT stream_agg.reset_stream('unknown', '{"1": 5}'); SELECT stream_agg.start_stream('unknown')});
process($node, 'unknown');
is(read_from('unknown'), '0:0 1:5 2:0', 'which begins when others are named');

create('beyond', 'begin', q{starting_offsets => '{"1": 100}'});
wait_state($node, 'beyond', 'failed', 'offset 100 of partition 1 of topic "begin" is beyond the end');
pass('so does an offset beyond the end');
value('SELECT stream_agg.drop_stream(stream) FROM stream_agg.streams');

# --- min_offsets_per_trigger
sub waiting
{
	my ($stream, $how, $trigger) = @_;
	create($stream, 'waits', "trigger => '$trigger', options => '$how'");
	return;
}

sub batches { return value("SELECT count(*) FROM stream_agg.commits WHERE stream = '$_[0]'"); }

sub lag_is
{
	my ($stream, $lag) = @_;
	return $node->poll_query_until('postgres', "SELECT lag = $lag FROM pg_stat_stream_agg WHERE stream = '$stream'");
}

my %triggers = (by_interval => '50 ms', at_once => '0');
for my $stream (sort keys %triggers)
{
	waiting($stream, '{"min_offsets_per_trigger": 10, "max_trigger_delay": "1 day"}', $triggers{$stream});
	worker_pid($node, $stream);
}
my $produced = 0;
sub produce_waiting { $broker->produce('waits', map { '{"k": 1}' } 1 .. $_[0]); $produced += $_[0]; return; }
produce_waiting(3);
for my $stream (sort keys %triggers)
{
	$node->poll_query_until('postgres', "SELECT count(*) >= 1 FROM stream_agg.commits WHERE stream = '$stream'");
	process($node, $stream);
	my $before = batches($stream);
	produce_waiting(4);
	ok(lag_is($stream, 4), "$stream: too few records");
	is(batches($stream), $before, "$stream: are left to wait");
	produce_waiting(5);
	ok(lag_is($stream, 9), "$stream: one is missing");
	is(batches($stream), $before, "$stream: and they still are");
	produce_waiting(1);
	ok($node->poll_query_until('postgres',
			"SELECT sum(delivered) = $produced FROM stream_agg.commits WHERE stream = '$stream'"),
		"$stream: as many as are needed run by themselves");
	is(batches($stream), $before + 1, "$stream: as one micro-batch");
	produce_waiting(2);
	ok(lag_is($stream, 2), "$stream: again too few");
	process($node, $stream);
	is(batches($stream), $before + 2, "$stream: process_available does not wait for more");
	produce_waiting(1);
	ok(lag_is($stream, 1), "$stream: one more");
	value("SELECT stream_agg.alter_stream('$stream', '{\"max_trigger_delay\": \"1 ms\"}')");
	ok($node->poll_query_until('postgres',
			"SELECT sum(delivered) = $produced FROM stream_agg.commits WHERE stream = '$stream'"),
		"$stream: and does not wait for longer than max_trigger_delay since the last commit");
	value("SELECT stream_agg.stop_stream('$stream')");
}

# the delay counts from the last commit, not from a start of the worker
waiting('restarted', '{"min_offsets_per_trigger": 1000, "max_trigger_delay": "1 day"}', '0');
process($node, 'restarted');
produce_waiting(1);
ok(lag_is('restarted', 1), 'a record waits');
value(q{SELECT stream_agg.stop_stream('restarted')});
value(q{UPDATE stream_agg.commits SET committed = committed - interval '2 days' WHERE stream = 'restarted';
	SELECT stream_agg.start_stream('restarted')});
ok($node->poll_query_until('postgres',
		"SELECT sum(delivered) = $produced FROM stream_agg.commits WHERE stream = 'restarted'"),
	'a restarted worker knows how long');
value('SELECT stream_agg.drop_stream(stream) FROM stream_agg.streams');

# --- on_data_loss: the embedded broker keeps 5 MiB of a partition
my $large = sprintf '{"k": 1, "filler": "%s"}', 'x' x 1000;

sub fill
{
	my ($topic, $partition) = @_;
	$broker->produce($topic, map { [ $partition, '', $large ] } 1 .. 2000) for 1 .. 5;
	return;
}

sub skipped
{
	my $stream = shift;
	return value("SELECT string_agg(batch || ' ' || skipped, '; ' ORDER BY batch) FROM stream_agg.commits
		WHERE stream = '$stream' AND skipped <> '{}'");
}

$broker->produce('gone', map { [ $_ % 2, '', '{"k": 1}' ] } 1 .. 20);
create('loses', 'gone', q{trigger => '20 days'});
process($node, 'loses');
value(q{SELECT stream_agg.stop_stream('loses')});
fill('gone', 0);
$broker->produce('gone', [ 1, '', '{"k": 2}' ]);
value(q{SELECT stream_agg.start_stream('loses')});
wait_state($node, 'loses', 'failed', 'are gone');
like(value(q{SELECT last_error FROM pg_stat_stream_agg WHERE stream = 'loses'}),
	qr/HINT.*on_data_loss/s, 'lost offsets stop a stream, which says what to do');
value(q{SELECT stream_agg.alter_stream('loses', '{"on_data_loss": "earliest"}'); SELECT stream_agg.start_stream('loses')});
process($node, 'loses');
my $low = value('SELECT min(off) FROM gone WHERE part = 0');
cmp_ok($low, '>', 10, 'the broker has forgotten some');
is(skipped('loses'), qq(1 {"0": [[10, $low]]}), 'a stream that may goes on, and its commit tells the range skipped');
is(value(q{SELECT offsets_skipped FROM pg_stat_stream_agg WHERE stream = 'loses'}), $low - 10, 'which is counted');
ok($node->log_contains(qr/WARNING:  stream "loses" continues without offsets.*\n.*DETAIL:  Topic "gone", partition 0: offsets 10 to ${\($low - 1)}\./),
	'and logged');
is_equal_tables($node, 'SELECT * FROM loses', q{SELECT * FROM loses_query UNION ALL SELECT 0, g, 1 FROM generate_series(0, 9) g},
	'all that was there is in the table once');
counts_add_up($node, 'loses', value('SELECT count(*) FROM loses'), 'and the counts add up');

# a partition that ends before the stream's offset: made anew, or never so long
my $end = value('SELECT max(off) + 1 FROM gone WHERE part = 1');
create('anew', 'gone', q{trigger => '20 days', starting_offsets => '{"0": -1, "1": 500}', options => '{"on_data_loss": "earliest"}'});
process($node, 'anew');
is(skipped('anew'), '0 {"1": [[500, 0]]}', 'a partition that ends before the offset is read from its beginning');
is(value('SELECT count(*) FROM anew'), $end, 'all of it');
is(value(q{SELECT offsets_skipped FROM pg_stat_stream_agg WHERE stream = 'anew'}), 0, 'and nothing was skipped');

# all that is left is gone too: the skip is committed by itself
create('empty', 'gone', qq{trigger => '20 days', starting_offsets => '{"0": 3, "1": -1}', options => '{"on_data_loss": "earliest"}'});
value(q{SELECT stream_agg.stop_stream('empty')});
value(q{SELECT stream_agg.start_stream('empty')});
process($node, 'empty');
like(skipped('empty'), qr/^0 \{"0": \[\[3, $low\]\]\}$/, 'offsets named that are gone are skipped likewise');
value('SELECT stream_agg.drop_stream(stream) FROM stream_agg.streams');

# a plan that skips is run again as it is, also after a crash of the server
value('CREATE TABLE guarded (part int, off bigint, n bigint CHECK (off < 10), UNIQUE NULLS NOT DISTINCT (part, off))');
create('skips', 'gone', q{trigger => '10 ms', sink => 'guarded', starting_offsets => '{"0": 5, "1": -1}', options => '{"on_data_loss": "earliest"}'});
$node->poll_query_until('postgres', q{SELECT last_error ~ 'check constraint' FROM pg_stat_stream_agg WHERE stream = 'skips'});
my $plan = q{SELECT ranges, skipped FROM stream_agg.offsets WHERE stream = 'skips' AND batch = 0};
my $planned = value($plan);
like($planned, qr/\|\{"0": \[5, $low\]\}$/, 'a plan says what it skips');
$node->stop('immediate');
$node->start;
value('ALTER TABLE guarded DROP CONSTRAINT guarded_off_check');
process($node, 'skips');
is(value($plan), $planned, 'after a crash it is the same');
is(skipped('skips'), qq(0 {"0": [[5, $low]]}), 'and its commit says so');
is_equal_tables($node, 'SELECT * FROM guarded', 'SELECT * FROM skips_query WHERE part = 0', 'with all that is there once');
value('SELECT stream_agg.drop_stream(stream) FROM stream_agg.streams');

# --- a plan whose offsets go before it is run again
$broker->produce('retried', map { '{"k": 1}' } 1 .. 20);
value(q{CREATE TABLE strict (part int, off bigint, n bigint CHECK (off < 10), UNIQUE NULLS NOT DISTINCT (part, off))});
create('planned', 'retried', q{trigger => '10 ms', sink => 'strict', options => '{"on_data_loss": "earliest"}'});
$node->poll_query_until('postgres', q{SELECT last_error ~ 'check constraint' FROM pg_stat_stream_agg WHERE stream = 'planned'});
is(value(q{SELECT ranges FROM stream_agg.offsets WHERE stream = 'planned'}), '{"0": [0, 20]}', 'a plan');
value(q{SELECT stream_agg.stop_stream('planned')});
fill('retried', 0);
value(q{ALTER TABLE strict DROP CONSTRAINT strict_off_check; SELECT stream_agg.start_stream('planned')});
process($node, 'planned');
$low = value('SELECT min(off) FROM retried');
is(skipped('planned'), qq(0 {"0": [[0, 20]]}; 1 {"0": [[20, $low]]}), 'is run without the offsets it has lost, the next without the others');
is_equal_tables($node, 'SELECT * FROM strict', 'SELECT * FROM planned_query', 'and the rest is read once');
is(value(q{SELECT offsets_skipped FROM pg_stat_stream_agg WHERE stream = 'planned'}), $low, 'all of them counted');

done_testing();
