# Records compressed by each of Kafka's codecs: read, and written by INSERT.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

my $kafka = StreamAgg::Kafka->new;
my $node = new_node('compression', 'max_worker_processes = 20');
my @codecs = qw(none gzip snappy lz4 zstd);
my $brokers = $kafka->brokers;
my $text = 'always the same words, ' x 10;

# what the segments of topics say of their batches
sub codecs_in
{
	my (@topics) = @_;
	my $files = join ',', map { "$kafka->{dir}/node.1/data/$_-0/00000000000000000000.log" } @topics;
	my $dump = $kafka->java_tool('org.apache.kafka.tools.DumpLogSegments', '--files', $files);
	my (%found, $topic);
	for my $line (split /\n/, $dump)
	{
		$topic = $1 if $line =~ m{^Dumping .*/([^/]+)-0/};
		$found{$topic}{ lc $1 } = 1 if $line =~ /compresscodec: (\w+)/;
	}
	return map { join ',', sort keys %{ $found{$_} // {} } } @topics;
}

for my $codec (@codecs)
{
	$kafka->create_topic("read_$codec", 1);
	$kafka->create_topic("write_$codec", 1);
	$kafka->produce("read_$codec", { property => "compression.type=$codec" }, map { "{\"k\": $_, \"t\": \"$text\"}" } 1 .. 100);
	for my $way (qw(read write))
	{
		$node->safe_psql('postgres', qq{
			SELECT stream_agg.create_source('${way}_$codec', topic => '${way}_$codec', brokers => '$brokers',
				columns => 'k int, t text', options => '{"compression.type": "$codec"}')});
	}
	$node->safe_psql('postgres', qq{INSERT INTO write_$codec SELECT i, repeat('$text', 3) FROM generate_series(1, 200) i});
	for my $way (qw(read write))
	{
		$node->safe_psql('postgres', qq{SELECT stream_agg.create_stream('${way}_${codec}_s',
			'SELECT k % 7 AS k, count(*) AS n, sum(length(t)) AS bytes FROM ${way}_$codec GROUP BY 1', output_mode => 'update')});
		process($node, "${way}_${codec}_s");
		is_equal_tables($node, "SELECT * FROM ${way}_${codec}_s", "SELECT * FROM ${way}_${codec}_s_query", "$codec: the table equals the query, topic ${way}_$codec");
	}
	is($node->safe_psql('postgres', "SELECT sum(n), sum(bytes) FROM read_${codec}_s"), '100|' . 100 * length $text, "$codec: all of it that others wrote");
	is($node->safe_psql('postgres', "SELECT sum(n), sum(bytes) FROM write_${codec}_s"), '200|' . 600 * length $text, "$codec: all of it that INSERT wrote");
}
is_deeply([ codecs_in(map { ("read_$_", "write_$_") } @codecs) ], [ map { ($_, $_) } @codecs ], 'the records were compressed as was said');

done_testing();
