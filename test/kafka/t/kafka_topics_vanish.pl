# Sources of several topics of which one is deleted: whether it stands in a list
# or was found by a pattern, the stream stops, names it and loses nothing; a topic
# of the same name is not taken for it.

use strict;
use warnings;

use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

my $random = seeded_random();
my $kafka = StreamAgg::Kafka->shared;
my $node = new_node('vanish', "stream_agg.max_attempts = 4", "stream_agg.kafka_timeout = '10s'");
my %topics = (listed => q{topics => '{listed-a,listed-b}'}, matched => q{topic_pattern => '^matched-'});
my %produced;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub produce
{
	my ($kind, $topic, $n) = @_;
	$kafka->produce("$kind-$topic", map { [ $_ % 2, '', '{"k": ' . $random->(20) . '}' ] } 1 .. $n);
	return $produced{$kind}{$topic} += $n;
}
sub is_read
{
	my ($kind, $what) = @_;
	my $expected = join "\n", map { "$kind-$_|$produced{$kind}{$_}" } sort keys %{ $produced{$kind} };
	return is(sql("SELECT topic, sum(n) FROM $kind GROUP BY topic ORDER BY topic"), $expected, "$kind: $what");
}

for my $kind (sort keys %topics)
{
	$kafka->create_topic("$kind-$_", 2) for qw(a b);
	produce($kind, $_, 300) for qw(a b);
	my $brokers = $kafka->brokers;
	sql(qq{
		SELECT stream_agg.create_source('src_$kind', $topics{$kind}, brokers => '$brokers',
			columns => 'topic text OPTIONS (metadata ''topic''), k int');
		SELECT stream_agg.create_stream('$kind', 'SELECT topic, k, count(*) AS n FROM src_$kind GROUP BY topic, k',
			output_mode => 'update', trigger => '0')});
	process($node, $kind);
	is_read($kind, 'both topics are read');

	$kafka->delete_topic("$kind-b");
	produce($kind, 'a', 100);
	wait_state($node, $kind, 'failed', qq{topic "$kind-b" does not exist in the Kafka cluster});
	my $committed = sql("SELECT sum(n) FROM $kind");
	cmp_ok($committed, '>=', 600, "$kind: what was read stays");

	# one of the same name is another topic
	$kafka->create_topic("$kind-b", 2);
	produce($kind, 'b', 700) && ($produced{$kind}{b} = 300);
	sql("SELECT stream_agg.start_stream('$kind')");
	wait_state($node, $kind, 'failed', 'created again');
	is(sql("SELECT sum(n) FROM $kind WHERE topic = '$kind-b'"), 300, "$kind: nothing of the new topic is read");

	# until the user says so
	$produced{$kind}{b} = 700;
	sql("SELECT stream_agg.reset_stream('$kind', 'earliest', results => true); SELECT stream_agg.start_stream('$kind')");
	process($node, $kind);
	is_read($kind, 'reset, it has what the topics have');
	is_equal_tables($node, "SELECT * FROM $kind", "SELECT * FROM ${kind}_query", "$kind: the table equals the query");
}

$node->stop;
done_testing();
