# What goes wrong around a stream: its state and message, and how it goes on.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1, bad => 2, infinite => 1, kept => 1, coming => 1);
my $node = new_node('failures', "stream_agg.kafka_timeout = '2s'", 'max_worker_processes = 6',
	'stream_agg.max_streams = 4');
my $columns = 'ts timestamptz, k int, v int';
create_source($node, $broker, $_, $_, $columns) for qw(events bad infinite kept coming);

sub record
{
	my ($k, $v) = @_;
	return json_record({ ts => '2026-01-01T00:00:00Z', k => $k, v => $v }, numbers => [qw(k v)]);
}

sub create
{
	my ($stream, $source, $sink) = @_;
	$sink = $sink ? ", sink => '$sink'" : '';
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream',
		'SELECT k, count(*) AS n, sum(v) AS total FROM $source GROUP BY k',
		output_mode => 'update', trigger => '100 ms' $sink)");
	return;
}

sub drop
{
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$_[0]', drop_sink => true)");
	return;
}

sub last_error
{
	return $node->safe_psql('postgres', "SELECT last_error FROM pg_stat_stream_agg WHERE stream = '$_[0]'");
}

# --- a broker that is not there, and comes
$broker->produce('events', map { record($_ % 3, $_) } 1 .. 10);
$broker->down;
create('absent', 'events');
wait_state($node, 'absent', 'retrying', 'broker|Kafka');
like(last_error('absent'), qr/\S/, 'an unreachable broker is told: ' . (split /\n/, last_error('absent'))[0]);
$broker->up;
$node->poll_query_until('postgres', q{SELECT state = 'running' FROM pg_stat_stream_agg WHERE stream = 'absent'});
process($node, 'absent');
is_equal_tables($node, 'SELECT * FROM absent', 'SELECT * FROM absent_query', 'the stream goes on when it is back');

# --- a broker that goes away while the stream runs
$broker->down;
my ($status, $out, $err) =
  $node->psql('postgres', q{SELECT stream_agg.process_available('absent', '5 seconds')});
isnt($status, 0, 'process_available raises while the broker is away');
$broker->up;
$broker->produce('events', map { record($_ % 4, $_) } 1 .. 10);
process($node, 'absent');
is_equal_tables($node, 'SELECT * FROM absent', 'SELECT * FROM absent_query', 'and the stream goes on after it');
counts_add_up($node, 'absent', 20, 'with every record counted once');

# --- a topic that is not there, and comes
$broker->control('hide', 'coming');
create('early', 'coming');
wait_state($node, 'early', 'retrying', 'topic "coming"');
like(last_error('early'), qr/topic "coming" does not exist.*\nHINT:  Create it/, 'a missing topic is told: ' . (split /\n/, last_error('early'))[0]);
$broker->control('show', 'coming');
$broker->produce('coming', record(1, 1));
$node->poll_query_until('postgres', q{SELECT state = 'running' FROM pg_stat_stream_agg WHERE stream = 'early'});
process($node, 'early');
is($node->safe_psql('postgres', 'SELECT * FROM early'), '1|1|1', 'the stream goes on when it is there');

# --- another cluster behind the same server
my $other = start_broker(coming => 1);
my $server = $node->safe_psql('postgres', q{SELECT srvname FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$});
$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('early'), stream_agg.stop_stream('absent');
	ALTER SERVER $server OPTIONS (SET brokers '" . $other->brokers . "');
	SELECT stream_agg.start_stream('early')");
wait_state($node, 'early', 'failed', 'Kafka cluster');
like(last_error('early'), qr/belong to Kafka cluster ".+", the stream has read from cluster ".+"/,
	'another cluster stops the stream');
$node->safe_psql('postgres', "ALTER SERVER $server OPTIONS (SET brokers '" . $broker->brokers . "');
	SELECT stream_agg.start_stream('absent')");
$other->stop;
drop('early');

# --- the sink is gone, and back
$node->safe_psql('postgres', 'ALTER TABLE absent RENAME TO away; ALTER TABLE away DROP COLUMN total');
$broker->produce('events', record(1, 1));
wait_state($node, 'absent', 'failed', 'total');
like(last_error('absent'), qr/sink/, 'a sink that no longer fits stops the stream: ' . (split /\n/, last_error('absent'))[0]);
drop('absent');

# --- a sink that refuses a row, until it is repaired
$node->safe_psql('postgres', q{CREATE TABLE strict (k int UNIQUE NULLS NOT DISTINCT, n bigint CHECK (n < 3), total bigint)});
$broker->produce('kept', map { record(1, $_) } 1 .. 5);
create('refused', 'kept', 'strict');
wait_state($node, 'refused', 'retrying', 'violates check constraint');
is($node->safe_psql('postgres', 'SELECT count(*) FROM strict'), 0, 'a batch that fails leaves nothing');
$node->safe_psql('postgres', 'ALTER TABLE strict DROP CONSTRAINT strict_n_check');
process($node, 'refused');
is($node->safe_psql('postgres', 'SELECT * FROM strict'), '1|5|15', 'repaired, the batch is retried and counts once');
drop('refused');
$node->safe_psql('postgres', 'DROP TABLE strict');

# --- records that do not decode
$broker->produce('bad', [ 0, '', record(1, 1) ], [ 1, '', record(2, 2) ], [ 1, '', '{"k": "no number"}' ]);
create('undecodable', 'bad');
wait_state($node, 'undecodable', 'failed', 'offset 1');
like(last_error('undecodable'), qr/topic "?bad"?.*partition 1.*offset 1/s,
	'a record that does not decode stops the stream and is named');
like(last_error('undecodable'), qr/invalid input syntax for type integer|no number/, 'with the reason');
drop('undecodable');

$broker->produce('infinite', '{"ts": "infinity", "k": 1}');
$node->safe_psql('postgres', q{SELECT stream_agg.create_stream('infinite_time',
	$$ SELECT stream_agg.tumble(ts, '1 min') AS win, count(*) AS n FROM infinite GROUP BY 1 $$,
	output_mode => 'update', watermark => '1 minute')});
wait_state($node, 'infinite_time', 'failed', 'infinite');
like(last_error('infinite_time'), qr/topic "?infinite"?.*partition 0.*offset 0/s,
	'an infinite event time stops the stream and is named');
drop('infinite_time');

# --- offsets that are gone: the broker keeps 5 MiB of a partition
$broker->create_topic('short', 1);
create_source($node, $broker, 'short', 'short', "$columns, filler text");
my $filler = 'x' x 1000;
my @large = map { qq({"k": 1, "v": 1, "filler": "$filler"}) } 1 .. 2000;
$broker->produce('short', @large[ 0 .. 9 ]);
create('behind', 'short');
process($node, 'behind');
$node->safe_psql('postgres', q{SELECT stream_agg.stop_stream('behind')});
$broker->produce('short', @large) for 1 .. 5;
$node->safe_psql('postgres', q{SELECT stream_agg.start_stream('behind')});
wait_state($node, 'behind', 'failed', 'are gone');
like(last_error('behind'), qr/offsets 10 to \d+ of partition 0 of topic "short"/, 'offsets that are gone are named');
is($node->safe_psql('postgres', 'SELECT n FROM behind'), 10, 'and nothing was skipped');
drop('behind');

# --- no free worker: two of six processes are taken by the server and the launcher
create("crowd_$_", 'kept') for 1 .. 5;
$node->poll_query_until('postgres',
	q{SELECT bool_or(last_error ~ 'max_streams|max_worker_processes') FROM pg_stat_stream_agg});
my $waiting = $node->safe_psql('postgres',
	q{SELECT count(*) FROM pg_stat_stream_agg WHERE pid IS NULL AND state = 'starting' AND last_error IS NOT NULL});
cmp_ok($waiting, '>=', 1, 'a stream without a worker says what it waits for');
my $running = $node->safe_psql('postgres', q{SELECT min(stream) FROM pg_stat_stream_agg WHERE pid IS NOT NULL});
my $left_out = $node->safe_psql('postgres',
	q{SELECT min(stream) FROM pg_stat_stream_agg WHERE pid IS NULL AND last_error IS NOT NULL});
$node->safe_psql('postgres', "SELECT stream_agg.drop_stream(stream) FROM stream_agg.streams WHERE stream <> '$left_out'");
process($node, $left_out);
is_equal_tables($node, "SELECT * FROM $left_out", "SELECT * FROM ${left_out}_query", 'and runs when one is free');

# --- switched off and on again
$node->append_conf('postgresql.conf', 'stream_agg.enabled = off');
$node->reload;
$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_stream_agg WHERE pid IS NOT NULL');
pass('stream_agg.enabled = off ends the workers');
$node->append_conf('postgresql.conf', 'stream_agg.enabled = on');
$node->reload;
$broker->produce('kept', record(1, 1));
process($node, $left_out);
is_equal_tables($node, "SELECT * FROM $left_out", "SELECT * FROM ${left_out}_query", 'on starts them again');

done_testing();
