# preview shows what the next micro-batch writes, and leaves nothing of it.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(clicks => 3);
my $random = seeded_random();
my $node = PostgreSQL::Test::Cluster->new('preview');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', join("\n", "shared_preload_libraries = 'stream_agg'",
	"stream_agg.max_retry_delay = '1s'", 'autovacuum = off', ''));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION stream_agg');
create_source($node, $broker, 'clicks', 'clicks', 'ts timestamptz, k bigint, v numeric');
my $windowed = q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n, sum(v) AS total FROM clicks WHERE v <> 7 GROUP BY 1, 2};
my $having = q{SELECT k, count(*) AS n, sum(v) AS total FROM clicks GROUP BY 1 HAVING sum(v) < 1000};
$node->safe_psql('postgres', qq{
	SELECT stream_agg.create_stream('appended', \$\$ $windowed \$\$, watermark => '1 minute', trigger => '20 days', max_offsets_per_trigger => 100000);
	SELECT stream_agg.create_stream('updated', \$\$ $having \$\$, output_mode => 'update', trigger => '20 days', max_offsets_per_trigger => 100000);
	SELECT stream_agg.create_stream('whole', \$\$ $having \$\$, output_mode => 'complete', trigger => '20 days', max_offsets_per_trigger => 100000)});

my $second = 0;
sub produce_some
{
	my $n = shift;
	$broker->produce('clicks', map {
		$second += $random->(3);
		[ $random->(3), '', json_record({ ts => (1767225600 + $second - $random->(150)) * 1000, k => $random->(6), v => $random->(50) },
			numbers => [qw(ts k v)]) ] } 1 .. $n);
	return;
}

# everything there is, as far as a session can see it
sub everything
{
	my $on = shift;
	return $on->safe_psql('postgres', q{
		SELECT query_to_xml(format('SELECT t::text AS t FROM %s t ORDER BY t::text COLLATE "C"', c.oid::regclass), true, true, '')
		  FROM pg_class c WHERE relkind = 'r' AND relnamespace IN ('stream_agg'::regnamespace, 'public'::regnamespace) ORDER BY relname;
		SELECT stream, state, batches, rows_in, rows_out, rows_late, watermark, state_rows, state_bytes, lag FROM pg_stat_stream_agg ORDER BY 1;
		SELECT count(*) FROM pg_class; SELECT count(*) FROM pg_locks WHERE locktype <> 'virtualxid' AND pid <> pg_backend_pid()});
}

# and what a transaction that is rolled back leaves behind; what is counted of
# reads does not matter
sub traces
{
	my $on = shift;
	return $on->safe_psql('postgres', q{
		SELECT relname, n_tup_ins, n_tup_upd, n_tup_del, n_live_tup, n_dead_tup FROM pg_stat_user_tables ORDER BY 1;
		SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relkind IN ('r', 'i') ORDER BY 1, 2});
}
sub next_xid { return shift->safe_psql('postgres', 'SELECT pg_snapshot_xmax(pg_current_snapshot())'); }

# the trigger at the start is over
process($node, $_) for 'appended', 'updated', 'whole';

for my $round (1 .. 3)
{
	produce_some(200);
	# statistics of what the session before has done are there when it has ended
	$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()});
	my ($before, $traces, $xid) = (everything($node), traces($node), next_xid($node));
	my %shown;
	for my $stream ('appended', 'updated', 'whole')
	{
		$shown{$stream} = $node->safe_psql('postgres', "BEGIN READ ONLY; SELECT action, data FROM stream_agg.preview('$stream', NULL) ORDER BY 1, 2; COMMIT");
	}
	is(everything($node), $before, "round $round: in a read-only transaction nothing has changed");
	is(traces($node), $traces, "round $round: nothing was written");
	is(next_xid($node), $xid, "round $round: no transaction id was taken");
	for my $stream ('appended', 'updated', 'whole')
	{
		is($node->safe_psql('postgres', "SELECT action, data FROM stream_agg.preview('$stream', NULL) ORDER BY 1, 2"), $shown{$stream},
			"round $round: $stream: the same with the sink");
	}
	is(everything($node), $before, "round $round: nothing has changed with the sink");

	# and then the real thing
	for my $stream ('appended', 'updated', 'whole')
	{
		$node->safe_psql('postgres', "DROP TABLE IF EXISTS before, shown; CREATE TABLE before AS SELECT * FROM $stream;
			CREATE TABLE shown AS SELECT action, r.* FROM stream_agg.preview('$stream', NULL) p, jsonb_populate_record(NULL::$stream, p.data) r");
		process($node, $stream);
		my $keys = $stream eq 'appended' ? 'win, k' : 'k';
		my $expected = $stream eq 'whole' ? "SELECT k, n, total FROM shown WHERE action = 'result'" :
			"SELECT * FROM before b WHERE NOT EXISTS (SELECT FROM shown s WHERE s.action <> 'open' AND s.k = b.k "
			. ($stream eq 'appended' ? 'AND s.win = b.win' : '') . ") UNION ALL SELECT "
			. ($stream eq 'appended' ? 'win, ' : '') . "k, n, total FROM shown WHERE action IN ('insert', 'update')";
		is_equal_tables($node, $expected, "SELECT * FROM $stream", "round $round: $stream: the micro-batch did what was shown");
		if ($stream eq 'appended')
		{
			is_equal_tables($node, "SELECT win, k, n, total FROM shown WHERE action = 'open'",
				'SELECT * FROM stream_agg.open_windows(NULL::appended)', "round $round: and left the windows open that were shown");
		}
		is($node->safe_psql('postgres', "SELECT count(*) FROM shown s WHERE action = CASE WHEN EXISTS (SELECT FROM before b WHERE b.k = s.k) THEN 'insert' ELSE 'update' END"),
			0, "round $round: $stream: inserts are of new groups, updates of old ones") if $stream eq 'updated' && $round == 1;
	}
}
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM appended'), '>', 0, 'windows have closed');

# --- a part of what there is
produce_some(50);
my ($status, $stdout, $stderr) = $node->psql('postgres', q{SELECT count(*) FROM stream_agg.preview('updated', 10)});
like($stderr, qr/NOTICE:  preview of micro-batch \d+ of stream "updated": 10 records/, 'limit bounds the records');
like($stderr, qr/Aggregated 10, late 0, filtered 0, without event time 0, cannot be processed 0; watermark then: none/, 'and the counts are told');

# --- the text of a query
($status, $stdout, $stderr) = $node->psql('postgres', qq{SELECT action, data->>'n' FROM stream_agg.preview(
	\$\$ SELECT stream_agg.tumble(ts, '1000 days') AS win, count(*) AS n FROM clicks GROUP BY 1 \$\$)});
is($stdout, 'insert|650', 'a query: all there is, in update mode');
is_equal_tables($node, "SELECT r.* FROM stream_agg.preview(\$\$ $windowed \$\$, watermark => '100 days') p, jsonb_populate_record(NULL::appended, p.data) r WHERE action = 'open'",
	"SELECT * FROM appended_query", 'a query with a watermark: append mode, windows that are open');
is($node->safe_psql('postgres', qq{SELECT count(*) FROM stream_agg.preview(\$\$ $having \$\$, starting_offsets => 'latest')}), 0, 'starting_offsets');
is($node->safe_psql('postgres', qq{SELECT DISTINCT action FROM stream_agg.preview('SELECT k, count(*) AS n FROM clicks GROUP BY 1', output_mode => 'complete')}), 'result', 'output_mode');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname ~ 'preview'}), 0, 'nothing was made');

# --- refused as create_stream does, and otherwise
sub refused
{
	my ($call, $error, $name) = @_;
	my (undef, undef, $got) = $node->psql('postgres', "SELECT * FROM stream_agg.preview($call)");
	return like($got, $error, $name);
}
refused(q{'SELECT k, count(*) FROM clicks GROUP BY k', output_mode => 'append'}, qr/ERROR/, 'append without a watermark');
refused(q{'SELECT k, countt(*) FROM clicks GROUP BY k'}, qr/function countt\(\) does not exist.*\^/s, 'errors show their place');
refused(q{'SELECT k, count(*), count(v) FROM clicks GROUP BY k'}, qr/column "count" specified more than once/, 'a name twice');
refused(q{'SELECT n FROM updated'}, qr/ERROR/, 'a query without a source');
refused(q{'nothing'}, qr/stream "nothing" does not exist/, 'no such stream');
refused(q{'updated', watermark => '1 minute'}, qr/cannot be given for existing stream/, 'arguments of a stream');
refused(q{'updated', 0}, qr/limit must be greater than zero/, 'limit 0');

# --- an error of a record names it, and is skipped as the stream would
$broker->produce('clicks', [ 1, '', '{"ts": "nonsense", "k": 1}' ]);
refused(q{'appended', NULL}, qr/ERROR:  .*partition 1/s, 'a record that does not decode');
$node->safe_psql('postgres', q{SELECT stream_agg.stop_stream('appended'); SELECT stream_agg.alter_stream('appended', '{"on_error": "skip"}')});
(undef, undef, $stderr) = $node->psql('postgres', q{SELECT count(*) FROM stream_agg.preview('appended', NULL)});
like($stderr, qr/cannot be processed 1/, 'on_error skip: it is counted');

# an error that is not the record's, while it is converted, leaves no transaction behind
$node->safe_psql('postgres', q{
	CREATE FUNCTION is_slow(bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN true; END $$;
	CREATE DOMAIN slow AS bigint CHECK (is_slow(value))});
create_source($node, $broker, 'slow_clicks', 'clicks', 'ts timestamptz, k slow');
$node->safe_psql('postgres', q{SELECT stream_agg.create_stream('slow_stream', 'SELECT k FROM slow_clicks', start => false, options => '{"on_error": "skip"}')});
(undef, $stdout, $stderr) = $node->psql('postgres', q{SET statement_timeout = '1s';
	SELECT count(*) FROM stream_agg.preview('slow_stream');
	SELECT 'and on'}, on_error_stop => 0);
like($stderr, qr/canceling statement due to statement timeout/, 'a preview that is cancelled while it converts a record');
like($stdout, qr/^and on$/m, 'the session goes on');

# scans of the source in the same session read the topic, not the batch
is((split /\n/, $node->safe_psql('postgres', q{
	SELECT stream_agg.alter_stream('updated', '{"on_error": "skip"}');
	SELECT count(*) > 0 FROM stream_agg.preview('updated', 1);
	SELECT count(*) FROM (SELECT FROM clicks LIMIT 600) x}))[-1], 600, 'afterwards a scan of the source reads the topic');

# --- privileges, and a standby
$node->safe_psql('postgres', 'CREATE ROLE other');
(undef, undef, $stderr) = $node->psql('postgres', q{SET ROLE other; SELECT * FROM stream_agg.preview('updated')});
like($stderr, qr/must be owner of stream/, 'the stream of another');
(undef, undef, $stderr) = $node->psql('postgres', q{SET ROLE other; SELECT * FROM stream_agg.preview('SELECT k, count(*) AS n FROM clicks GROUP BY 1')});
like($stderr, qr/permission denied for foreign table clicks/, 'the source of another');
produce_some(100);
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
cmp_ok($standby->safe_psql('postgres', q{SELECT count(*) FROM stream_agg.preview('appended', NULL)}), '>', 0, 'a standby shows something');
is($standby->safe_psql('postgres', q{SELECT action, data FROM stream_agg.preview('appended', NULL) ORDER BY 1, 2}),
	$node->safe_psql('postgres', q{SELECT action, data FROM stream_agg.preview('appended', NULL) ORDER BY 1, 2}), 'a standby shows the same');
$standby->stop;

# --- code of the owner runs as the owner, and what it does is undone
$node->safe_psql('postgres', q{
	CREATE TABLE touched (who text);
	CREATE FUNCTION touch() RETURNS text VOLATILE LANGUAGE sql AS $$ INSERT INTO touched VALUES (current_user) RETURNING who $$;
	CREATE FUNCTION sneak(bigint) RETURNS bigint STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM touch(); RETURN $1; END $$});
($status, $stdout, $stderr) = $node->psql('postgres', q{SELECT count(*) FROM stream_agg.preview('SELECT sneak(k) AS s, count(*) AS n FROM clicks WHERE ts IS NOT NULL GROUP BY 1', 10)});
is($node->safe_psql('postgres', 'SELECT count(*) FROM touched'), 0, 'writes that a function has hidden are rolled back');

$node->stop;
done_testing();
