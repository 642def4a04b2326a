# Several sources in one stream, by UNION ALL: each with its own topics, offsets
# and format, one watermark; one source in several branches; what becomes of one
# of them under the stream.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(web => 2, app => 1, shop => 1, 'log-a' => 1);
my $node = new_node('union_all', 'max_worker_processes = 32');
my $rng = seeded_random();
my %produced = map { $_ => 0 } 'web', 'app', 'shop';

sub one_of { return $_[ $rng->(scalar @_) ]; }
sub sql { return $node->safe_psql('postgres', $_[0]); }

sub produce
{
	my ($topic, $n) = @_;
	my @records;
	for (1 .. $n)
	{
		my $time = $produced{$topic}++ * 5 + $rng->(4);
		my $ts = sprintf '2026-01-01T%02d:%02d:%02dZ', $time / 3600, $time / 60 % 60, $time % 60;
		my $v = $rng->(50);
		push @records, [ $topic eq 'web' ? $rng->(2) : 0, '', $topic eq 'shop' ? sprintf('%s,%s,%d', $ts, one_of('a', 'b'), $v)
			: sprintf('{"ts":"%s","k":%s,"v":%d}', $ts, one_of('null', '"a"', '"b"'), $v) ];
	}
	$broker->produce($topic, @records);
	return;
}

sub produce_all { produce($_, 100 + $rng->(50)) for sort keys %produced; return; }
sub total { my $n = 0; $n += $_ for values %produced; return $n; }

my $brokers = $broker->brokers;
sql(qq{
	SELECT stream_agg.create_source('web', topic => 'web', brokers => '$brokers', options => '{"fetch.wait.max.ms": 20}',
		columns => 'ts timestamptz, k text, v int, part int OPTIONS (metadata ''partition''), at bigint OPTIONS (metadata ''offset'')')});
my $server = sql(q{SELECT srvname FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$});
sql(qq{
	SELECT stream_agg.create_source('app', topic => 'app', server => '$server', columns => 'v numeric, ts timestamptz, k varchar');
	SELECT stream_agg.create_source('shop', topic => 'shop', server => '$server', format => 'csv', columns => 'ts timestamptz, k text, v int');
	SELECT stream_agg.create_source('logs', topic_pattern => '^log-', server => '$server', columns => 'ts timestamptz, k text, v int');
	CREATE TABLE names (k text, name text); INSERT INTO names VALUES ('a', 'anna'), ('a', 'adam'), ('b', 'bob');
	CREATE VIEW everything AS SELECT 'web' AS origin, ts, k, v::numeric FROM web UNION ALL SELECT 'app', ts, k, v FROM app UNION ALL SELECT 'shop', ts, k, v FROM shop});

my %query = (
	two => 'SELECT k, count(*) AS n, sum(v) AS s FROM (SELECT ts, k, v FROM web UNION ALL SELECT ts, k, v FROM app) u GROUP BY k',
	origin => q{SELECT stream_agg.tumble(ts, '2 minutes') AS win, origin, k, count(*) AS n, sum(v) AS s FROM everything GROUP BY 1, 2, 3},
	filtered => q{SELECT origin, max(v) AS m, count(*) AS n FROM everything WHERE v > 10 AND (origin <> 'app' OR k = 'a') GROUP BY 1},
	branches => q{SELECT what, count(*) AS n FROM (SELECT 'low' AS what FROM web WHERE v < 20 UNION ALL SELECT 'even' FROM web WHERE v % 2 = 0
		UNION ALL (SELECT 'app' FROM app UNION ALL SELECT k FROM shop)) u GROUP BY 1},
	joined => q{SELECT n.name, origin, count(*) AS n, sum(v) AS s FROM everything e LEFT JOIN names n USING (k) GROUP BY 1, 2},
	inside => q{SELECT name, count(*) AS n FROM (SELECT name FROM web JOIN names USING (k) UNION ALL SELECT 'shop ' || k FROM shop WHERE k IN (SELECT k FROM names)) u GROUP BY 1},
	cte => q{WITH w AS (SELECT ts, k FROM web WHERE v > 5), s AS (SELECT ts, k FROM shop) SELECT k, count(*) AS n FROM (SELECT * FROM w UNION ALL SELECT * FROM s) u GROUP BY 1},
	places => q{SELECT part, max(at) AS last, count(*) AS n FROM (SELECT part, at FROM web UNION ALL SELECT -1, v FROM shop) u GROUP BY 1});

# --- each against the batch query, in batches, over a restart
for my $name (sort keys %query)
{
	my $options = one_of('{}', '{"on_error": "dead_letter"}');
	my $bound = one_of('NULL', 7, 100);
	my $mode = one_of('update', 'complete');
	sql("SELECT stream_agg.create_stream('u_$name', \$q\$$query{$name}\$q\$, output_mode => '$mode', trigger => '20 days', max_offsets_per_trigger => $bound, options => '$options')");
}
for my $round (1, 2)
{
	produce_all();
	process($node, "u_$_") for sort keys %query;
	for my $name (sort keys %query)
	{
		is_equal_tables($node, "SELECT * FROM u_$name", "SELECT * FROM u_${name}_query", "$name equals the batch query, round $round");
		my $read = { two => [ 'web', 'app' ], cte => [ 'web', 'shop' ], inside => [ 'web', 'shop' ], places => [ 'web', 'shop' ] }->{$name} // [ keys %produced ];
		my $n = 0;
		$n += $produced{$_} for @$read;
		counts_add_up($node, "u_$name", $n, 'and counts every record once, whatever its branches make of it');
	}
	$node->restart if $round == 1;
}

# --- offsets by topic; lag; one watermark, from whichever source is ahead
is(sql(q{SELECT string_agg(format('%s %s %s', topic, partition, committed_offset = end_offset), ', ' ORDER BY topic, partition)
	FROM pg_stat_stream_agg_partitions WHERE stream = 'u_origin'}), 'app 0 t, shop 0 t, web 0 t, web 1 t', 'offsets and lag of all sources');
is(sql(q{SELECT source, other_sources FROM stream_agg.streams WHERE stream = 'u_origin'}), 'web|{app,shop}', 'the catalog names the sources');

sql(q{SELECT stream_agg.create_stream('closing', $q$ SELECT stream_agg.tumble(ts, '1 minute') AS win, origin, count(*) AS n FROM everything GROUP BY 1, 2 $q$,
	output_mode => 'append', watermark => '1 minute', trigger => '20 days', starting_offsets => '{"app": {"0": -1}, "web": {"1": -2}}')});
process($node, 'closing');
is_equal_tables($node, 'SELECT * FROM closing', q{SELECT * FROM closing_query WHERE origin <> 'app'
	AND upper(win) <= (SELECT date_trunc('milliseconds', max(ts)) - interval '1 minute' FROM everything WHERE origin <> 'app')},
	'windows close by the greatest event time of all sources; starting offsets are by topic');
$broker->produce('app', '{"ts": "2026-01-01T23:00:00Z", "k": "x", "v": 1}');
process($node, 'closing');
$broker->produce('shop', '2026-01-01T00:00:00Z,late,1');
process($node, 'closing');
is(sql(q{SELECT sum(late) FROM stream_agg.commits WHERE stream = 'closing'}), 1, 'a record of one source is late by the event time of another');
$produced{$_}++ for 'app', 'shop';

# --- streams that share a reader read several sources as well
sql(q{BEGIN;
	SELECT stream_agg.create_stream('shared_a', 'SELECT k, count(*) AS n FROM everything GROUP BY k', output_mode => 'update', trigger => '20 days', reader => 'all');
	SELECT stream_agg.create_stream('shared_b', 'SELECT origin, sum(v) AS s FROM everything GROUP BY 1', output_mode => 'complete', trigger => '20 days', reader => 'all');
	COMMIT});
process($node, 'shared_a');
is_equal_tables($node, "SELECT * FROM shared_$_", "SELECT * FROM shared_${_}_query", "streams with one reader read several sources: shared_$_") for 'a', 'b';
my ($code, $said, $why) = $node->psql('postgres', q{SELECT stream_agg.create_stream('shared_c', 'SELECT k, count(*) AS n FROM web GROUP BY k', output_mode => 'update', trigger => '20 days', reader => 'all')});
like($why, qr/must have the same source/, 'but all of them the same');

# --- a record that does not decode is one of its source's format
sql(q{SELECT stream_agg.create_stream('broken', 'SELECT count(*) AS n, k FROM everything GROUP BY k', output_mode => 'update', trigger => '20 days',
	options => '{"on_error": "dead_letter"}')});
process($node, 'broken');
my $before = sql('SELECT sum(n) FROM broken');
$broker->produce('web', 'no,json,1');
$broker->produce('shop', '{"v": 1}', '2026-01-01T00:00:00Z,ok,1');
process($node, 'broken');
is(sql(q{SELECT string_agg(topic, ',' ORDER BY topic) FROM stream_agg.dead_letters WHERE stream = 'broken'}), 'shop,web', 'records that do not decode are put aside, by their topic');
is(sql('SELECT sum(n) FROM broken'), $before + 1, 'and the others counted');

# --- a pattern beside a topic; the topic that comes later is read
sql(q{SELECT stream_agg.create_stream('patterned', 'SELECT k, sum(v) AS s FROM (SELECT k, v FROM logs UNION ALL SELECT k, v FROM app) u GROUP BY k',
	output_mode => 'update', trigger => '20 days')});
$broker->produce('log-a', '{"k": "log", "v": 3}');
process($node, 'patterned');
$broker->create_topic('log-b', 1);
$broker->produce('log-b', '{"k": "log", "v": 4}');
process($node, 'patterned');
is(sql(q{SELECT s FROM patterned WHERE k = 'log'}), 7, 'a topic that comes to match the pattern of one of the sources is read');

# --- a dump takes the sources along; what does not decode stands in them still
sql(q{SELECT stream_agg.alter_stream('u_two', '{"on_error": "skip"}')});
my $dump = PostgreSQL::Test::Utils::tempdir_short() . '/dump';
sql(q{SELECT stream_agg.drop_stream(stream, drop_sink => true) FROM stream_agg.streams WHERE stream NOT IN ('u_two', 'u_branches')});
command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('postgres') ], 'a dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
command_ok([ 'pg_restore', '-d', $node->connstr('copy'), $dump ], 'is restored');
is($node->safe_psql('copy', q{SELECT other_sources FROM stream_agg.streams WHERE stream = 'u_branches'}), '{app,shop}', 'with the sources of its streams');
$node->safe_psql('copy', q{SELECT stream_agg.start_stream('u_two')});
$broker->produce('app', '{"ts": "2026-01-01T00:00:00Z", "k": "dumped", "v": 1}');
$node->safe_psql('copy', q{SELECT stream_agg.process_available('u_two', '2 minutes')});
is($node->safe_psql('copy', q{SELECT n FROM u_two WHERE k = 'dumped'}), 1, 'and the copy goes on from its offsets');

# --- a source in use
my ($status, $out, $err) = $node->psql('postgres', q{SELECT stream_agg.drop_source('app')});
like($err, qr/cannot drop source "app" because stream "u_\w+" reads it/, 'a source in use is not dropped, whichever of several it is');
$node->stop;

done_testing();
