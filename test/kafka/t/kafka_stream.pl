# The README's example on Apache Kafka itself.

use strict;
use warnings;

use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

my $kafka = StreamAgg::Kafka->shared;
my $node = new_node('first');
my $random = seeded_random();
my $columns = 'ts timestamptz, user_id bigint, purchase_amount numeric';

$kafka->create_topic('clicks', 4);
create_source($node, $kafka, 'clicks', 'clicks', $columns);
$node->safe_psql('postgres', q{
	SELECT stream_agg.create_stream('clickstream_agg',
	    $$ SELECT stream_agg.tumble(ts, '5 minutes') AS win, user_id,
	              count(*) AS event_count, sum(purchase_amount) AS total_spend
	         FROM clicks GROUP BY 1, user_id $$,
	    watermark => '10 minutes', output_mode => 'append', trigger => '100 milliseconds');
	SELECT stream_agg.create_stream('per_user',
		'SELECT user_id, count(*) AS n, sum(purchase_amount) AS total FROM clicks GROUP BY user_id',
		output_mode => 'update', trigger => '0');
	SELECT stream_agg.create_stream('all_users',
		'SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id', output_mode => 'complete', trigger => '0')});

sub clicks
{
	my ($n, $from, $to) = @_;
	return map {
		my $second = $from * 60 + $random->(($to - $from) * 60);
		[ $random->(4), '', json_record({
			ts => sprintf('2026-01-01T%02d:%02d:%02dZ', $second / 3600, $second / 60 % 60, $second % 60),
			user_id => $random->(20), purchase_amount => $random->(10000) / 100 },
			numbers => [qw(user_id purchase_amount)]) ]
	} 1 .. $n;
}

my $delivered = 0;
for my $round (0 .. 4)
{
	# out of order, but none late
	$kafka->produce('clicks', clicks(2000, 20 * $round, 20 * $round + 10));
	$delivered += 2000;
	process($node, $_) for qw(clickstream_agg per_user all_users);
}
is_equal_tables($node, 'SELECT * FROM clickstream_agg',
	"SELECT * FROM clickstream_agg_query WHERE upper(win) <= '" . watermark($node, 'clickstream_agg') . "'",
	'append: the windows that are closed equal the query');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM clickstream_agg'), '>', 0, 'and there are some');
is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "$_ equals the query") for qw(per_user all_users);
counts_add_up($node, $_, $delivered, "$_ counts every record once") for qw(clickstream_agg per_user all_users);

# partitions that come later
$kafka->add_partitions('clicks', 6);
$kafka->produce('clicks', [ 5, '', '{"ts": "2026-01-01T03:00:00Z", "user_id": 99, "purchase_amount": 1}' ]);
process($node, 'per_user');
is($node->safe_psql('postgres', 'SELECT n FROM per_user WHERE user_id = 99'), 1, 'a new partition is read from its start');

# what INSERT produces comes back
$node->safe_psql('postgres',
	q{INSERT INTO clicks SELECT '2026-01-01 03:00Z', 100 + i % 3, i FROM generate_series(1, 300) i});
process($node, 'per_user');
is($node->safe_psql('postgres', 'SELECT sum(n), sum(total) FROM per_user WHERE user_id >= 100'), '300|45150',
	'records of an INSERT come back');
is_equal_tables($node, 'SELECT * FROM per_user', 'SELECT * FROM per_user_query', 'and the table equals the query');

$node->stop;
done_testing();
