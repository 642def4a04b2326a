# What guards the checkpoint: a second worker, a stale one, damaged blobs; and
# the way back of a large state.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1, many => 4);
my $node = new_node('checkpoint');
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');
create_source($node, $broker, 'many', 'many', 'ts timestamptz, k int, v int');
$node->safe_psql('postgres', qq{
	CREATE FUNCTION lock_stream(oid) RETURNS bool LANGUAGE c STRICT AS '$ENV{STREAM_LOCK}';
	CREATE FUNCTION unlock_stream(oid) RETURNS bool LANGUAGE c STRICT AS '$ENV{STREAM_LOCK}';
	CREATE FUNCTION held(int) RETURNS int STABLE LANGUAGE plpgsql AS
		'BEGIN PERFORM pg_advisory_xact_lock_shared(5); RETURN \$1; END'});

sub record
{
	my ($k, $v) = @_;
	return json_record({ ts => '2026-01-01T00:00:00Z', k => $k, v => $v }, numbers => [qw(k v)]);
}

sub create
{
	my ($stream, $query) = @_;
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$,
		output_mode => 'update', trigger => '20 days')");
	return;
}

# --- a second worker is refused before it touches anything
create('fenced', 'SELECT k, count(*) AS n, sum(held(v)) AS total FROM events GROUP BY k');
$broker->produce('events', map { record($_ % 5, $_) } 1 .. 20);
process($node, 'fenced');
$node->safe_psql('postgres', q{SELECT stream_agg.stop_stream('fenced')});

my $first = $node->background_psql('postgres');
is($first->query_safe(q{SELECT lock_stream('fenced_query'::regclass)}), 't', 'somebody else holds the stream');
my $log = -s $node->logfile;
$broker->produce('events', record(1, 1));
$node->safe_psql('postgres', q{SELECT stream_agg.start_stream('fenced')});
$node->wait_for_log(qr/another process holds stream "fenced"/, $log);
is($node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM stream_agg.offsets), (SELECT count(*) FROM stream_agg.commits)}),
	'1|1', 'the second worker has planned and committed nothing');
$first->query_safe(q{SELECT unlock_stream('fenced_query'::regclass)});
$first->quit;
process($node, 'fenced');
is_equal_tables($node, 'SELECT * FROM fenced', 'SELECT * FROM fenced_query', 'later it runs');

# --- a stale worker fails its compare-and-set
my $holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(5)');
$broker->produce('events', map { record($_ % 5, $_) } 1 .. 200);
my $processing = $node->background_psql('postgres', on_error_stop => 0);
$processing->query_until(qr/begun/, q{
	\echo begun
	SELECT stream_agg.process_available('fenced');
});
$node->poll_query_until('postgres', q{SELECT stage = 'execute' AND wait_event_type = 'Lock' FROM pg_stat_stream_agg
	JOIN pg_stat_activity USING (pid) WHERE stream = 'fenced'}) or die 'no batch began';
my $batch = $node->safe_psql('postgres', q{SELECT max(batch) FROM stream_agg.offsets});
$node->safe_psql('postgres', qq{
	INSERT INTO stream_agg.commits
	SELECT (c).* FROM (SELECT jsonb_populate_record(c, jsonb_build_object('batch', $batch)) AS c
	                     FROM stream_agg.commits c WHERE batch = $batch - 1) x});
my $before = $node->safe_psql('postgres', 'SELECT sum(n), sum(total) FROM fenced');
$holder->query_safe('SELECT pg_advisory_unlock(5)');
$holder->quit;
wait_state($node, 'fenced', 'failed', 'already committed|is not the successor|does not follow');
is($node->safe_psql('postgres', 'SELECT sum(n), sum(total) FROM fenced'), $before,
	'what the stale worker did is not there');
eval { $processing->quit };
$node->safe_psql('postgres', qq{
	DELETE FROM stream_agg.commits WHERE batch = $batch;
	SELECT stream_agg.start_stream('fenced')});
process($node, 'fenced');
is_equal_tables($node, 'SELECT * FROM fenced', 'SELECT * FROM fenced_query', 'without the forged row it goes on');

# --- a flipped byte
$node->safe_psql('postgres', q{
	SELECT stream_agg.stop_stream('fenced');
	UPDATE stream_agg.state SET data = set_byte(data, length(data) - 3, get_byte(data, length(data) - 3) # 4)
	 WHERE (partition, batch, seq) = (SELECT partition, batch, seq FROM stream_agg.state ORDER BY 1, 2, 3 LIMIT 1);
	SELECT stream_agg.start_stream('fenced')});
# units are read when they are needed: all keys
$broker->produce('events', map { record($_, 1) } 0 .. 4);
my $blob = $node->safe_psql('postgres', q{SELECT format('partition %s, unit %s, micro-batch %s, seq %s', partition, unit, batch, seq)
	FROM stream_agg.state ORDER BY partition, batch, seq LIMIT 1});
my ($status, $out, $err) = $node->psql('postgres', q{SELECT stream_agg.process_available('fenced')});
isnt($status, 0, 'process_available raises');
wait_state($node, 'fenced', 'failed', $blob);
like($node->safe_psql('postgres', q{SELECT last_error FROM pg_stat_stream_agg WHERE stream = 'fenced'}),
	qr/"fenced", \Q$blob\E/, 'a flipped byte stops the stream and is named');
$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('fenced')});

# --- a state of 100,000 groups comes back
$broker->produce('many', map { [ $_ % 4, '', record($_, $_ * 7) ] } 1 .. 100_000);
create('large', 'SELECT k, count(*) AS n, sum(v) AS total, avg(v) AS mean FROM many GROUP BY k');
process($node, 'large');
is($node->safe_psql('postgres', q{SELECT state_rows FROM pg_stat_stream_agg WHERE stream = 'large'}),
	100_000, 'there are 100,000 groups');
$node->stop('immediate');
$node->start;
process($node, 'large');    # the first trigger of the worker is over
$broker->produce('many', map { record($_ * 1000, 1) } 1 .. 100);
my ($batches, $rows) = process($node, 'large');
is($rows, 100, 'process_available tells of what was new only');
is($node->safe_psql('postgres', q{SELECT state_rows FROM pg_stat_stream_agg WHERE stream = 'large'}),
	100_000, 'all of them are back after a crash');
is_equal_tables($node, 'SELECT * FROM large', 'SELECT * FROM large_query', 'and none has changed');

unlike(slurp_file($node->logfile), qr/leak/, 'the server has found nothing leaked');

done_testing();
