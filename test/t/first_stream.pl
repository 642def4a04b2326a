# The example of the README: records in, windows out, what the views say.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(clicks => 4);
my $node = new_node('first');
create_source($node, $broker, 'clicks', 'clicks',
	'ts timestamptz, user_id bigint, purchase_amount numeric');

sub click
{
	my ($minute, $user, $amount) = @_;
	return json_record({
		ts => sprintf('2026-01-01T%02d:%02d:30Z', int($minute / 60), $minute % 60),
		user_id => $user, purchase_amount => $amount },
		numbers => [qw(user_id purchase_amount)]);
}

my $result = $node->safe_psql('postgres', q{
	SELECT stream_agg.create_stream('clickstream_agg',
	    $$ SELECT stream_agg.tumble(ts, '5 minutes') AS win, user_id,
	              count(*) AS event_count, sum(purchase_amount) AS total_spend
	         FROM clicks GROUP BY 1, user_id $$,
	    watermark => '10 minutes', output_mode => 'append', trigger => '20 days',
	    max_offsets_per_trigger => 10000)});
is($result, 'clickstream_agg', 'create_stream returns the sink');

process($node, 'clickstream_agg');
$broker->produce('clicks', map { click($_, $_ % 3, "$_.50") } 0 .. 29);
is_deeply([ process($node, 'clickstream_agg') ], [ 1, 30, 9 ], 'one batch, three windows of three users');
is($node->safe_psql('postgres', 'SELECT count(*), sum(event_count), sum(total_spend) FROM clickstream_agg'),
	'9|15|112.50', 'closed windows are in the sink');
is($node->safe_psql('postgres', 'SELECT count(*) FROM clicks'), 30, 'the topic can be queried');
is($node->safe_psql('postgres', 'SELECT max(user_id) FROM clicks WHERE purchase_amount > 10'), 2,
	'with conditions');

# nothing new: no batch, and no transaction
is_deeply([ process($node, 'clickstream_agg') ], [ 0, 0, 0 ], 'no records, no batch');

# late for its window, and just in time
$broker->produce('clicks', click(3, 1, 1), click(19, 1, 1), click(60, 2, 2));
process($node, 'clickstream_agg');
is($node->safe_psql('postgres',
		q{SELECT rows_in, rows_late, rows_filtered, rows_null_time, rows_dead_lettered, batches, lag
		    FROM pg_stat_stream_agg}),
	'33|1|0|0|0|2|0', 'late records are counted');
is($node->safe_psql('postgres', q{SELECT event_count FROM clickstream_agg
		WHERE user_id = 1 AND win @> '2026-01-01 00:16Z'::timestamptz}), 3,
	'a record in time is counted in its window');
is($node->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE lag = 0), sum(committed_offset)
		FROM pg_stat_stream_agg_partitions}), '4|33', 'offsets by partition');
# a topic of large records: what may be fetched at once follows
my $brokers = $broker->brokers;
$node->safe_psql('postgres', "SELECT stream_agg.create_source('large', topic => 'clicks', brokers => '$brokers',
	columns => 'user_id bigint', options => '{\"message.max.bytes\": 200000000, \"fetch.wait.max.ms\": 20}')");
is($node->safe_psql('postgres', 'SELECT count(*) FROM large'), 33, 'message.max.bytes beyond fetch_memory can be read with');
$node->safe_psql('postgres', q{SELECT stream_agg.drop_source('large')});

like($node->safe_psql('postgres',
		q{SELECT backend_type, application_name, query FROM pg_stat_activity WHERE pid = }
		  . worker_pid($node, 'clickstream_agg')),
	qr/clickstream_agg/, 'the worker is known by its stream');

# update mode without a window, over the same source
$node->safe_psql('postgres', q{
	SELECT stream_agg.create_stream('per_user',
		'SELECT user_id, count(*) AS n, max(ts) AS latest FROM clicks GROUP BY user_id',
		output_mode => 'update', trigger => '20 days')});
process($node, 'per_user');
is_equal_tables($node, 'SELECT * FROM per_user', 'SELECT * FROM per_user_query', 'update equals the query');
$broker->produce('clicks', map { click(61, 7, 1) } 1 .. 3);
process($node, 'per_user');
is_equal_tables($node, 'SELECT * FROM per_user', 'SELECT * FROM per_user_query', 'and goes on');

# joins: records are counted once, however many rows they become
$node->safe_psql('postgres', q{
	CREATE TABLE tags (user_id bigint, tag text);
	INSERT INTO tags VALUES (0, 'a'), (0, 'b'), (1, 'a'), (7, NULL);
	SELECT stream_agg.create_stream('per_tag',
		'SELECT tag, count(*) AS n FROM clicks JOIN tags USING (user_id) GROUP BY tag',
		output_mode => 'update', trigger => '20 days');
	SELECT stream_agg.create_stream('per_tag_or_none',
		'SELECT tag, count(*) AS n FROM (SELECT * FROM clicks) c LEFT JOIN tags t ON t.user_id = c.user_id GROUP BY tag',
		output_mode => 'update', trigger => '20 days')});
for my $stream ('per_tag', 'per_tag_or_none')
{
	process($node, $stream);
	is_equal_tables($node, "SELECT * FROM $stream", "SELECT * FROM ${stream}_query", "$stream equals the query");
	counts_add_up($node, $stream, 36, "$stream counts every record once");
}
is($node->safe_psql('postgres', q{SELECT rows_filtered FROM pg_stat_stream_agg WHERE stream = 'per_tag'}),
	$node->safe_psql('postgres', 'SELECT count(*) FROM clicks WHERE user_id NOT IN (SELECT user_id FROM tags)'),
	'records that the join left out are filtered ones');

# renames follow
$node->safe_psql('postgres', q{
	ALTER TABLE per_user RENAME TO by_user;
	ALTER FOREIGN TABLE clicks RENAME COLUMN user_id TO uid});
$broker->produce('clicks', click(62, 8, 1));
process($node, 'per_user');
is($node->safe_psql('postgres', 'SELECT n FROM by_user WHERE user_id = 8'), 1, 'sink and column were renamed');

# stop, drop
$node->safe_psql('postgres', q{SELECT stream_agg.stop_stream('per_user')});
ok($node->poll_query_until('postgres', q{SELECT state = 'stopped' AND pid IS NULL FROM pg_stat_stream_agg WHERE stream = 'per_user'}),
	'stop_stream ends the worker');
$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream(stream, drop_sink => true) FROM stream_agg.streams});
is($node->safe_psql('postgres', q{
		SELECT (SELECT count(*) FROM stream_agg.offsets) + (SELECT count(*) FROM stream_agg.commits)
		     + (SELECT count(*) FROM stream_agg.state) + (SELECT count(*) FROM stream_agg.sources)
		     + (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname !~ '^(clicks|tags|pg_stat_.*)$')}),
	0, 'drop_stream leaves nothing');

# shutdown with a broker that does not answer
$node->safe_psql('postgres', q{
	SELECT stream_agg.create_stream('silent', 'SELECT uid, count(*) AS n FROM clicks GROUP BY uid',
		output_mode => 'update')});
worker_pid($node, 'silent');
kill 'STOP', $broker->pid;
my $start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 5, 'the server stops within 5 s though the broker is silent');
kill 'CONT', $broker->pid;

done_testing();
