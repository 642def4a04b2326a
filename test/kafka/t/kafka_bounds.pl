# Offsets by the time of records, offsets that retention removes and topics made
# anew, on a broker that keeps times and deletes topics.

use strict;
use warnings;

use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

my $kafka = StreamAgg::Kafka->shared;
my $node = new_node('kafka_bounds', 'max_worker_processes = 24');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET client_min_messages = warning');
my $brokers = $kafka->brokers;
my $suffix = $$;

sub value { return $node->safe_psql('postgres', $_[0]); }

sub source
{
	my ($name, $partitions) = @_;
	# times of long ago, and none of them to go by itself
	$kafka->create_topic("$name$suffix", $partitions, 'retention.ms' => -1);
	value("SELECT stream_agg.create_source('$name', topic => '$name$suffix', brokers => '$brokers',
		columns => \$c\$k int, part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset'),
			at timestamptz OPTIONS (metadata 'timestamp')\$c\$)");
	return;
}

sub produce { my $name = shift; $kafka->produce("$name$suffix", @_); return; }

sub create
{
	my ($stream, $source, $more) = @_;
	value("SELECT stream_agg.create_stream('$stream',
		'SELECT part, off, max(k) AS k, count(*) AS n FROM $source GROUP BY part, off',
		output_mode => 'update', trigger => '20 days', $more)");
	process($node, $stream);
	return;
}

sub equals
{
	my ($stream, $where, $name) = @_;
	return is_equal_tables($node, "SELECT * FROM $stream", "SELECT part, off, k, 1 FROM timed WHERE $where", $name);
}

# --- by time: one record a second in partitions 0 and 1, none in partition 2
source('timed', 3);
my $start = 1767225600;    # 2026-01-01
for my $second (0 .. 9)
{
	produce('timed', { timestamp => ($start + $second) * 1000 + 500 * ($_ % 2) }, [ $_, '', qq({"k": $second}) ]) for 0, 1;
}
my @times = (
	[ '2026-01-01 00:00:04+00', 'a record of that very time' ],
	[ '2026-01-01 01:00:04.4999+01', 'the next record, in another time zone' ],
	[ '2026-01-01 00:00:04.5001+00', 'times are rounded up to the millisecond' ],
	[ '2025-12-31', 'before the first record' ],
	[ '2026-01-01 00:00:09.2+00', 'behind the last record of one partition' ]);
for my $i (0 .. $#times)
{
	my ($time, $name) = @{ $times[$i] };
	create("at_$i", 'timed', "starting_offsets => '$time'");
	equals("at_$i", "at >= '$time'", "by time: $name");
	my $condition = "at >= timestamptz '$time'";
	is_equal_tables($node, "SELECT part, off FROM timed WHERE $condition", 'SELECT part, off FROM timed WHERE NOT (' . ($condition =~ s/>=/</r) . ')',
		"conditions on timestamps are pushed down: $name");
	like(value("EXPLAIN (COSTS off) SELECT part FROM timed WHERE timestamptz '$time' < at"), qr/Kafka Bounds: timestamp > /, 'and EXPLAIN says so');
}
# records that are earlier and come later do not hide others
is_equal_tables($node, q{SELECT part, off FROM timed WHERE at = '2026-01-01 00:00:03+00'}, q{SELECT part, off FROM timed WHERE at + interval '0' = '2026-01-01 00:00:03+00'},
	'a condition on one timestamp');
is(value(q{SELECT count(*) FROM timed WHERE at > 'infinity' OR at >= 'infinity'}) . value(q{SELECT count(*) FROM timed WHERE at >= 'infinity'}) .
	'|' . value(q{SELECT count(*) FROM timed WHERE at >= '-infinity'}) . '|' . value(q{SELECT count(*) FROM timed WHERE at >= '1960-01-01'}), '00|20|20',
	'conditions on timestamps that no record has');
create('later', 'timed', q{starting_offsets => '2030-01-01'});
is(value('SELECT count(*) FROM later'), 0, 'by time: none that late');
produce('timed', { timestamp => $start * 1000 }, map { [ $_, '', '{"k": 10}' ] } 0 .. 2);
process($node, 'later');
equals('later', 'k = 10', 'and then what comes, whatever its time');
# the record of partition 2 has been read and is not read again: its row would be lost
like(($node->psql('postgres', q{SELECT stream_agg.reset_stream('later', '2026-01-01 00:00:05+00', results => true)}))[2],
	qr/resetting stream "later" would delete 3 rows, and records before the offsets given may have gone into them/,
	'a reset that would lose rows is refused');
value(q{SELECT stream_agg.reset_stream('later', '2026-01-01 00:00:05+00', results => true, force => true)});
process($node, 'later');
equals('later', 'k >= 5 AND part < 2', 'reset to a time: of a partition with none so late, what comes');
is(value(q{SELECT initial_offsets FROM stream_agg.sources WHERE stream = 'later'}), '{"0": 5, "1": 5, "2": 1}',
	'which is kept as offsets');

# --- a topic made anew, longer and shorter than what was read
for my $length (3, 30)
{
	my $name = "anew_$length";
	source($name, 2);
	produce($name, map { [ $_ % 2, '', '{"k": 1}' ] } 1 .. 20);
	create("s_$name", $name, q{options => '{"on_data_loss": "earliest"}'});
	value("SELECT stream_agg.stop_stream('s_$name')");
	$kafka->delete_topic("$name$suffix");
	$kafka->create_topic("$name$suffix", 2);
	produce($name, map { [ $_ % 2, '', '{"k": 2}' ] } 1 .. 2 * $length);
	value("SELECT stream_agg.start_stream('s_$name')");
	process($node, "s_$name");
	is(value("SELECT count(*) FILTER (WHERE n = 2), sum(n) FROM s_$name"),
		join('|', $length < 10 ? 2 * $length : 20, 20 + 2 * $length),
		"made anew with $length records: read from its beginning, once");
	is(value("SELECT skipped FROM stream_agg.commits WHERE stream = 's_$name' ORDER BY batch DESC LIMIT 1"),
		'{"0": [[10, 0]], "1": [[10, 0]]}', 'and the commit says so');
	process($node, "s_$name");
	is(value("SELECT sum(n) FROM s_$name"), 20 + 2 * $length, 'only once');
}

# --- records deleted by the broker
source('short', 2);
produce('short', map { [ $_ % 2, '', '{"k": 1}' ] } 1 .. 20);
create('lossy', 'short', q{options => '{"on_data_loss": "earliest"}'});
value(q{SELECT stream_agg.stop_stream('lossy')});
produce('short', map { [ $_ % 2, '', '{"k": 2}' ] } 1 .. 20);
$kafka->delete_records("short$suffix", 0, 15);
value(q{SELECT stream_agg.start_stream('lossy')});
process($node, 'lossy');
is(value(q{SELECT skipped, total_skipped FROM stream_agg.commits WHERE stream = 'lossy' ORDER BY batch DESC LIMIT 1}),
	'{"0": [[10, 15]]}|5', 'deleted records are skipped and counted');
is(value('SELECT count(*), max(n) FROM lossy'), '35|1', 'the others are read once');

done_testing();
