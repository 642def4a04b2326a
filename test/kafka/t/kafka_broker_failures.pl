# Brokers that are not there, die, change their leader, are cut off or slow:
# what pg_stat_stream_agg says, and that the stream goes on by itself with a
# table that equals the batch query.

use strict;
use warnings;

use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

my $random = seeded_random();
my $kafka = StreamAgg::Kafka->new(nodes => 3);
my $node = new_node('brokers', "stream_agg.kafka_timeout = '10s'");
my $columns = 'k int, v numeric';
my $delivered = 0;

sub produce
{
	my ($n) = @_;
	$kafka->produce('events', map { [ $_ % 6, '', '{"k": ' . $random->(50) . ', "v": ' . $random->(1000) . '}' ] } 1 .. $n);
	return $delivered += $n;
}

sub last_error { return $node->safe_psql('postgres', q{SELECT last_error FROM pg_stat_stream_agg}); }

# wait for an error that is raised after a moment
sub wait_error
{
	my ($error, $since) = @_;
	my $after = defined $since ? "AND last_error_time > '$since'" : '';
	return $node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_stream_agg WHERE last_error ~ \$e\$$error\$e\$ $after") || (diag(last_error() // 'none') && 0);
}
sub now { return $node->safe_psql('postgres', 'SELECT clock_timestamp()'); }
sub state { return $node->safe_psql('postgres', 'SELECT state FROM pg_stat_stream_agg'); }

sub equal_after
{
	my ($what) = @_;
	process($node, 'totals');
	is(state(), 'running', "$what: running");
	is_equal_tables($node, 'SELECT * FROM totals', 'SELECT * FROM totals_query', "$what: the table equals the query");
	return counts_add_up($node, 'totals', $delivered, "$what: every record once");
}

$kafka->create_topic('events', 6);
$kafka->start_proxy($_) for 1 .. 3;

# --- the brokers are absent when the stream starts
$kafka->network('cut');
my $brokers = $kafka->brokers('PROXIED');
$node->safe_psql('postgres', qq{
	SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers', columns => '$columns');
	SELECT stream_agg.create_stream('totals', 'SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k',
		output_mode => 'update', trigger => '0', max_offsets_per_trigger => 2000)});
ok(wait_error('^no answer from Kafka about topic "events" yet.*DETAIL:  .*(Disconnected|refused|reset|closed|down)'),
	'absent at start: told before kafka_timeout, with what the connections report');
is(state(), 'starting', 'absent at start: starting');
produce(3000);
$kafka->network('pass');
equal_after('absent at start');

# --- cut while nothing happens, and while records come
my $since = now();
$kafka->network('cut');
ok(wait_error('Kafka about topic "events"', $since), 'cut while idle: an idle stream tells, too');
is(state(), 'running', 'cut while idle: running');
ok(wait_error('within 10000 ms', $since), 'cut for longer than kafka_timeout: the attempt ends with an error');
is(state(), 'retrying', 'cut for longer than kafka_timeout: retrying');
produce(5000);
$kafka->network('pass');
equal_after('cut');

# --- silent: connections stay and carry nothing
$since = now();
produce(2000);
process($node, 'totals');
$kafka->network('block');
produce(5000);
my ($status, $out, $error) = $node->psql('postgres', q{SELECT stream_agg.process_available('totals', '4 s')});
like($error, qr/has not processed what was available within 4000 ms/, 'silent: process_available has its limit');
ok(wait_error('Kafka about topic "events"', $since), 'silent: told');
$kafka->network('pass');
equal_after('silent');

# --- slow: 200 kB/s, and a batch takes a while
$kafka->network('slow', 200_000);
produce(10_000);
equal_after('slow');
$kafka->network('pass');

# --- the leader of a partition changes, since its node is killed in mid-batch
my $leader = $kafka->await_leader('events', 0);
produce(20_000);
$kafka->kill_node($leader);
produce(5000);
my $next = $kafka->await_leader('events', 0);
isnt($next, $leader, "leader changed from node $leader to $next");
equal_after('leader change');
$kafka->start_node($leader);
produce(1000);
equal_after('node back');

# --- all nodes are killed in mid-batch, and come back
produce(20_000);
$since = now();
$kafka->kill_node($_) for 1 .. 3;
ok(wait_error('Kafka about topic "events"', $since), 'all killed: told');
like(state(), qr/^(running|retrying)$/, 'all killed: running, or retrying');
$kafka->start_nodes(1 .. 3);
$kafka->await_leader('events', $_) for 0 .. 5;
produce(1000);
equal_after('all killed and restarted');

is($node->safe_psql('postgres', q{SELECT count(*) FROM stream_agg.commits WHERE stream = 'totals' AND delivered > 2000}), 0,
	'and no batch was larger than it may be');
$node->stop;
done_testing();
