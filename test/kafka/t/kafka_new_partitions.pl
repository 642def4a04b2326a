# A topic gains partitions while streams read it: all records of these are
# counted, from the first offset on, by streams of either kind of trigger; and
# Kafka's own tools see how far the streams are.

use strict;
use warnings;

use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

my $kafka = StreamAgg::Kafka->shared;
my $node = new_node('partitions');
my $random = seeded_random();
my $produced = 0;

sub produce
{
	my ($topic, $n, @partitions) = @_;
	for my $partition (@partitions)
	{
		$kafka->produce($topic, map { [ $partition, '', json_record({ k => $random->(20), v => $random->(100) }, numbers => [qw(k v)]) ] } 1 .. $n);
		$produced += $n;
	}
	return;
}

my %trigger = (at_once => '0', by_second => '1 second');
$kafka->create_topic('growing', 2);
create_source($node, $kafka, 'growing', 'growing', q{k int, v int, part int OPTIONS (metadata 'partition')});
$node->safe_psql('postgres', qq{
	SELECT stream_agg.create_stream('$_', 'SELECT k, count(*) AS n, sum(v) AS v, count(*) FILTER (WHERE part > 1) AS new FROM growing GROUP BY k',
		output_mode => 'update', trigger => '$trigger{$_}', options => '{"consumer_group": "group of $_"}')})
  for sort keys %trigger;
produce('growing', 500, 0, 1);

# no process_available: the streams find out by themselves
sub await_all
{
	my $name = shift;
	for my $stream (sort keys %trigger)
	{
		ok($node->poll_query_until('postgres', "SELECT rows_in = $produced AND lag = 0 FROM pg_stat_stream_agg WHERE stream = '$stream'"),
			"$name: $stream has read all $produced records");
		is_equal_tables($node, "SELECT * FROM $stream", "SELECT * FROM ${stream}_query", "$name: $stream equals the batch query");
		counts_add_up($node, $stream, $produced, "$name: $stream has counted every record once");
	}
	return;
}
await_all('two partitions');

# while records come in the old partitions too
$kafka->add_partitions('growing', 4);
produce('growing', 300, 2, 0, 3, 1);
await_all('four partitions');

# while nothing else comes
$kafka->add_partitions('growing', 5);
produce('growing', 200, 4);
await_all('five partitions');
is($node->safe_psql('postgres', q{SELECT sum(new), (SELECT sum(new) FROM at_once) FROM by_second}), '800|800',
	'the new ones from their first offset on');

# --- the streams' groups, as Kafka's own tool shows them
for my $stream (sort keys %trigger)
{
	await_committed($node, $kafka->brokers, 'growing', "group of $stream", $stream);
	my $shown = $kafka->java_tool('org.apache.kafka.tools.consumer.group.ConsumerGroupCommand',
		'--bootstrap-server', $kafka->brokers, '--describe', '--group', "group of $stream");
	my $rows = join(', ', sort map { /growing\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)/ ? "$1: $2 of $3, lag $4" : () } split /\n/, $shown);
	is($rows, '0: 800 of 800, lag 0, 1: 800 of 800, lag 0, 2: 300 of 300, lag 0, 3: 300 of 300, lag 0, 4: 200 of 200, lag 0',
		"$stream: kafka-consumer-groups shows its offsets");
}

$node->stop;
done_testing();
