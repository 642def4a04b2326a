# A stream that comes back to a great backlog in some partitions and none in
# others asks each whether it is still the one it has read, and gets its answer
# from all before it reads on.

use strict;
use warnings;

use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

my $random = seeded_random();
my $kafka = StreamAgg::Kafka->new(nodes => 3);
my $node = new_node('backlog', "stream_agg.kafka_timeout = '20s'");
my $partitions = 6;
my $delivered = 0;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub produce
{
	my ($n, $busy) = @_;
	$kafka->produce('events', map { [ $_ % $busy, '', '{"k": ' . $random->(20) . ', "text": "' . 'x' x 200 . '"}' ] } 1 .. $n);
	return $delivered += $n;
}

$kafka->create_topic('events', $partitions);
produce(600, $partitions);
create_source($node, $kafka, 'events', 'events', 'k int');
sql(q{SELECT stream_agg.create_stream('counts', 'SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update', trigger => '0')});
process($node, 'counts');
sql(q{SELECT stream_agg.stop_stream('counts')});

# most partitions have a backlog, as large as it takes the client a while to fetch
produce(60_000, $partitions - 2) for 1 .. 5;
sql(q{SELECT stream_agg.start_stream('counts')});
process($node, 'counts');
# or that an answer took a while
like(sql(q{SELECT last_error FROM pg_stat_stream_agg WHERE stream = 'counts'}), qr/\A(no answer from Kafka about topic "events" yet\n.*)?\z/s, 'it begins at the first attempt');
is_equal_tables($node, 'SELECT * FROM counts', 'SELECT * FROM counts_query', 'the table equals the query');
counts_add_up($node, 'counts', $delivered, 'every record once');

$node->stop;
done_testing();
