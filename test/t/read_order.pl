# The records of a micro-batch come by partition and offset, whichever of them
# Kafka sent first, in memory and in the temporary file.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my ($partitions, $records) = (5, 30_000);
my $broker = start_broker(map { $_ => $partitions } qw(b_topic a_topic));
my $node = new_node('order');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET client_min_messages = warning');
my $brokers = $broker->brokers;
$node->safe_psql('postgres', qq{
	SELECT stream_agg.create_source('records', topics => '{b_topic,a_topic}', brokers => '$brokers',
		columns => \$c\$ topic text OPTIONS (metadata 'topic'),
		part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset') \$c\$)});

# partitions of unequal length, so that they end at different times
my $rng = seeded_random();
for my $topic (qw(a_topic b_topic))
{
	$broker->produce($topic, map {
			my $p = $rng->($partitions);
			[ $rng->($p + 1), '', sprintf('{"filler": "%s"}', 'x' x (100 + $rng->(100))) ] } 1 .. $records);
}

for my $case (
	[ 'memory', '256MB', '' ],
	[ 'file', '1MB', '' ],
	[ 'small', '256MB', ', max_offsets_per_trigger => 7000' ])
{
	my ($stream, $memory, $more) = @$case;
	$node->append_conf('postgresql.conf', "stream_agg.batch_memory = '$memory'");
	$node->reload;
	# rows come to the sink in the order of the query's input
	$node->safe_psql('postgres', qq{
		CREATE TABLE $stream (topic text, part int, off bigint, n bigserial);
		SELECT stream_agg.create_stream('$stream', 'SELECT topic, part, off FROM records', sink => '$stream',
			trigger => '20 days' $more)});
	process($node, $stream);
	my $batches = $node->safe_psql('postgres', "SELECT count(*) FROM stream_agg.commits WHERE stream = '$stream'");
	is($node->safe_psql('postgres', qq{
			SELECT count(*), count(DISTINCT (topic, part, off)), count(*) FILTER (WHERE (topic, part, off) < before)
			  FROM (SELECT *, lag(ROW(topic, part, off)) OVER (ORDER BY n) AS before FROM $stream) s}),
		join('|', 2 * $records, 2 * $records, $batches - 1),
		"$stream: $batches micro-batches, in order but for where one follows another");
	ok($more ? $batches > 1 : $batches == 1, "$stream: as many micro-batches as expected");
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream')");
}

done_testing();
