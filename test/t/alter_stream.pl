# alter_stream: other trigger, bounds, watermark and query for a stream that is
# there, with the state of the aggregates that stay.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(clicks => 3);
my $random = seeded_random();
my $node = new_node('alter', 'restart_after_crash = on');
create_source($node, $broker, 'clicks', 'clicks', 'ts timestamptz, k bigint, v numeric, t text');
my $from = 'FROM clicks WHERE v <> 7 GROUP BY 1, 2';
my $window = q{stream_agg.tumble(ts, '1 minute') AS win, k};
$node->safe_psql('postgres', qq{
	SELECT stream_agg.create_stream('appended', \$\$ SELECT $window, count(*) AS n, sum(v) AS total, stddev(v) AS s $from \$\$,
		watermark => '2 minutes', trigger => '20 days');
	SELECT stream_agg.create_live_view('appended');
	SELECT stream_agg.create_stream('updated', \$\$ SELECT $window, count(*) AS n, sum(v) AS total, max(t) AS t $from \$\$,
		watermark => '10 days', output_mode => 'update', trigger => '20 days');
	SELECT stream_agg.create_stream('whole', 'SELECT k, count(*) AS n, count(DISTINCT v) AS d FROM clicks GROUP BY 1',
		output_mode => 'complete', trigger => '20 days');
	CREATE TABLE mine (k bigint PRIMARY KEY, n bigint, total numeric);
	SELECT stream_agg.create_stream('own', 'SELECT k, count(*) AS n FROM clicks GROUP BY 1', sink => 'mine', output_mode => 'update', trigger => '20 days')});

my $second = 0;
sub produce_some
{
	my $n = shift;
	my @records = map {
		$second += $random->(3);
		[ $random->(3), '', json_record({ ts => (1767225600 + $second - $random->(100)) * 1000, k => $random->(5), v => $random->(50), t => 't' . $random->(1000) },
			numbers => [qw(ts k v)]) ] } 1 .. $n;
	$broker->produce('clicks', @records);
	return;
}
sub alter { my ($call) = @_; my (undef, undef, $stderr) = $node->psql('postgres', "SELECT stream_agg.alter_stream($call)"); return $stderr; }
sub refused { my ($call, $error, $name) = @_; return like(alter($call), $error, $name); }
sub altered { my ($call, $name) = @_; return unlike(alter($call), qr/ERROR/, $name); }
sub all_of { process($node, $_) for 'appended', 'updated', 'whole', 'own'; return; }

# --- trigger, bounds, watermark
produce_some(200);
all_of();
altered(q{'updated', trigger => '2 hours', max_offsets_per_trigger => 50}, 'trigger and bound');
is($node->safe_psql('postgres', q{SELECT trigger_interval, max_offsets_per_trigger FROM stream_agg.streams WHERE stream = 'updated'}), '02:00:00|50', 'are in the catalog');
# the first trigger of the worker that goes on comes by itself
process($node, 'updated');
produce_some(200);
is((process($node, 'updated'))[0], 4, 'a bound holds from the next micro-batch on');
altered(q{'updated', max_offsets_per_trigger => 0}, '0 takes it away');
process($node, 'updated');
produce_some(200);
is((process($node, 'updated'))[0], 1, 'and then there is none');
refused(q{'updated', max_offsets_per_trigger => -1}, qr/must not be negative/, 'a negative bound');
refused(q{'whole', watermark => '1 minute'}, qr/has no watermark, and cannot get one/, 'a watermark for a stream without one');
process($node, 'appended');
my $watermark = watermark($node, 'appended');
altered(q{'appended', watermark => '5 minutes'}, 'a longer delay');
process($node, 'appended');    # the first trigger of the worker that goes on comes by itself
produce_some(1);
process($node, 'appended');
is(watermark($node, 'appended'), $watermark, 'does not take the watermark back');
altered(q{'appended', watermark => '100 seconds'}, 'a shorter one');
process($node, 'appended');
produce_some(50);
process($node, 'appended');
is($node->safe_psql('postgres', "SELECT watermark > '$watermark' FROM pg_stat_stream_agg WHERE stream = 'appended'"), 't', 'takes it on');
# trigger 0: without being asked
altered(q{'own', trigger => '0'}, 'trigger 0');
produce_some(10);
$node->poll_query_until('postgres', q{SELECT lag = 0 AND rows_in = (SELECT count(*) FROM clicks) FROM pg_stat_stream_agg WHERE stream = 'own'}) or die 'the stream does not run by itself';
ok(1, 'a stream runs by its new trigger');
altered(q{'own', trigger => '20 days'}, 'and back');
all_of();

# --- queries: aggregates come and go, those that stay go on
sub equal_for
{
	my ($stream, $columns, $name, $where) = @_;
	my $got = $stream eq 'appended' ? 'appended_live' : $stream;
	return is_equal_tables($node, "SELECT $columns FROM $got", "SELECT $columns FROM ${stream}_query " . ($where // ''), $name);
}
equal_for('appended', '*', 'append: before');
equal_for('updated', '*', 'update: before');
equal_for('whole', '*', 'complete: before');
$node->safe_psql('postgres', 'CREATE ROLE reader; GRANT SELECT ON appended_query, updated_query TO reader');

my $notice = alter(qq{'appended', query => \$\$ SELECT $window, count(*) AS n, avg(v) AS mean, sum(v) AS total, stddev(v) AS s, array_agg(v ORDER BY v, ts) AS all_of_them $from \$\$});
like($notice, qr/NOTICE:  2 aggregates of stream "appended" begin with the next micro-batch/, 'added ones are told');
equal_for('appended', 'win, k, n, total, s', 'append: aggregates that stay have their state');
is($node->safe_psql('postgres', q{SELECT count(*) FROM stream_agg.open_windows(NULL::appended) WHERE mean IS NOT NULL OR all_of_them IS NOT NULL}), 0, 'new ones have none');
process($node, 'appended');
produce_some(300);
process($node, 'appended');
equal_for('appended', 'win, k, n, total, s', 'append: and go on with it');
my $begun = $node->safe_psql('postgres', q{SELECT max(upper(win)) FROM appended_live WHERE mean IS NULL OR cardinality(all_of_them) < n});
is_equal_tables($node, "SELECT * FROM (SELECT win, k, n, mean, total, s, all_of_them FROM appended_live) x WHERE lower(win) >= '$begun'",
	"SELECT * FROM appended_query WHERE lower(win) >= '$begun'", 'append: windows that begin later have all of it');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM appended_live WHERE lower(win) >= '$begun'"), '>', 0, 'and there are some');

process($node, 'updated');
like(alter(qq{'updated', query => \$\$ SELECT $window, max(t) AS t, sum(v) AS total, count(*) FILTER (WHERE v > 25) AS large $from \$\$, drop_columns => true}),
	qr/NOTICE:  1 aggregate of/, 'one added, one removed');
is($node->safe_psql('postgres', q{SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'updated'::regclass AND attnum > 0 AND NOT attisdropped}),
	'win k total t large', 'the sink has the columns of the query');
equal_for('updated', 'win, k, t, total', 'update: rows stay as they are');
produce_some(200);
process($node, 'updated');
equal_for('updated', 'win, k, t, total', 'update: aggregates that stay go on');
cmp_ok($node->safe_psql('postgres', 'SELECT sum(large) FROM updated'), '<',
	$node->safe_psql('postgres', 'SELECT sum(large) FROM updated_query'), 'the new one counts what has come since');
is($node->safe_psql('postgres', q{SELECT has_table_privilege('reader', 'updated_query', 'SELECT')}), 't', 'privileges on the query stay');

# kept inputs: of DISTINCT, shared by an aggregate that is new
unlike(alter(q{'whole', query => 'SELECT k, sum(DISTINCT v) AS sd, count(DISTINCT v) AS d, count(*) AS n FROM clicks GROUP BY 1 HAVING count(*) > 1'}), qr/ERROR/, 'complete: another HAVING, too');
produce_some(100);
process($node, 'whole');
equal_for('whole', 'k, d, n', 'complete: equals the query');

# nothing but the select list
unlike(alter(q{'own', query => 'SELECT k, count(*) AS n, sum(v) AS total FROM clicks GROUP BY k'}), qr/ERROR/, 'a sink of the user\'s has the column');
all_of();
is_equal_tables($node, 'SELECT k, n FROM mine', 'SELECT k, n FROM own_query', 'sink of the user\'s');

# --- restarts: the state is the one that was written
$node->safe_psql('postgres', q{SELECT stream_agg.stop_stream(stream) FROM stream_agg.streams});
altered(qq{'updated', query => \$\$ SELECT $window, sum(v) AS total, count(*) FILTER (WHERE v > 25) AS large, min(v) AS least $from \$\$, drop_columns => true}, 'of a stopped stream');
is($node->safe_psql('postgres', q{SELECT state FROM pg_stat_stream_agg WHERE stream = 'updated'}), 'stopped', 'it stays so');
$node->stop('immediate');
$node->start;
produce_some(100);
$node->safe_psql('postgres', q{SELECT stream_agg.start_stream(stream) FROM stream_agg.streams});
all_of();
equal_for('updated', 'win, k, total', 'after a crash: update');
equal_for('appended', 'win, k, n, total, s', 'after a crash: append');

# a worker that dies in the transaction, or the transaction that fails, leaves all as it was
my $before = $node->safe_psql('postgres', q{SELECT string_agg(c::text, '' ORDER BY stream, batch) FROM stream_agg.commits c});
my $definition = $node->safe_psql('postgres', q{SELECT pg_get_viewdef('updated_query')});
my (undef, undef, $stderr) = $node->psql('postgres', qq{BEGIN;
	SELECT stream_agg.alter_stream('updated', query => \$\$ SELECT $window, sum(v) AS total, max(v) AS most $from \$\$, drop_columns => true); SELECT 1 / 0; COMMIT});
like($stderr, qr/division by zero/, 'a transaction fails');
is($node->safe_psql('postgres', q{SELECT string_agg(c::text, '' ORDER BY stream, batch) FROM stream_agg.commits c}), $before, 'the checkpoint is as before');
is($node->safe_psql('postgres', q{SELECT pg_get_viewdef('updated_query')}), $definition, 'the query, too');
produce_some(50);
all_of();
equal_for('updated', 'win, k, total', 'and the stream goes on');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname ~ 'former'}), 0, 'no view is left over');

# a reader whose snapshot is older than the query
{
	my $reader = $node->background_psql('postgres', on_error_stop => 0);
	my $windows = 'SELECT count(*) FROM stream_agg.open_windows(NULL::appended)';
	$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM stream_agg.commits');
	altered(qq{'appended', query => \$\$ SELECT $window, count(*) AS n, avg(v) AS mean, sum(v) AS total, stddev(v) AS s,
		array_agg(v ORDER BY v, ts) AS all_of_them $from HAVING max(t) IS NULL OR max(t) <> '' \$\$}, 'append: another HAVING, with an aggregate of its own');
	$reader->query($windows);
	like($reader->{stderr}, qr/ERROR:  the query of stream "appended" has changed since the snapshot of this query was taken/, 'an older snapshot is told so');
	$reader->{stderr} = '';
	$reader->query('ROLLBACK');
	cmp_ok($reader->query_safe($windows), '>', 0, 'a new one reads on');
	$reader->quit;
}

# before the first micro-batch
$node->safe_psql('postgres', q{SELECT stream_agg.create_stream('fresh', 'SELECT k, count(*) AS n FROM clicks GROUP BY 1', output_mode => 'update', start => false)});
altered(q{'fresh', query => 'SELECT k, count(*) AS n, sum(v) AS total FROM clicks GROUP BY 1'}, 'a stream that has not begun');
$node->safe_psql('postgres', q{SELECT stream_agg.start_stream('fresh')});
process($node, 'fresh');
equal_for('fresh', '*', 'has the whole query');

# --- refused, with the reason
my $cannot = qr/cannot be replaced by this one/;
refused(qq{'appended', query => 'SELECT $window, count(*) AS n FROM clicks WHERE v <> 8 GROUP BY 1, 2'} =~ s/'1 minute'/''1 minute''/r, qr/$cannot.*another WHERE/s, 'another WHERE');
refused(q{'updated', query => $$ SELECT stream_agg.tumble(ts, '2 minutes') AS win, k, sum(v) AS total FROM clicks WHERE v <> 7 GROUP BY 1, 2 $$}, qr/$cannot.*another window/s, 'another window');
refused(q{'own', query => 'SELECT v::bigint AS k, count(*) AS n FROM clicks GROUP BY 1'}, qr/$cannot.*another window, event time or grouping key|Column "k"/s, 'another key of the same type');
refused(q{'own', query => 'SELECT k, count(*) AS n FROM (SELECT * FROM clicks) c GROUP BY 1'}, qr/$cannot.*another FROM/s, 'another FROM');
refused(q{'own', query => 'SELECT k, count(v) AS n FROM clicks GROUP BY 1'}, qr/$cannot.*Column "n" would mean something else/s, 'another meaning of a column');
refused(q{'own', query => 'SELECT k, count(*) AS n, sum(v) AS total FROM clicks GROUP BY 1 HAVING count(*) > 1'}, qr/$cannot.*another HAVING/s, 'another HAVING in update mode');
refused(q{'own', query => 'SELECT count(*) AS n FROM clicks GROUP BY k'}, qr/omits k, by which the query groups/, 'a missing key');
refused(q{'own', query => 'SELECT k, count(*) AS n FROM clicks GROUP BY 1'}, qr/column "total" of sink "mine" is not dropped/, 'a column of the user\'s table');
refused(q{'own', query => 'SELECT k, count(*) AS n, sum(v) AS total, max(v) AS most FROM clicks GROUP BY 1'}, qr/sink "mine" has no column "most"/, 'a column that the user\'s table has not');
refused(qq{'appended', query => \$\$ SELECT $window, count(*) AS n $from \$\$}, qr/is in the live view/, 'a column that the live view has');
refused(q{'own', query => 'SELECT k, countt(*) AS n FROM clicks GROUP BY 1'}, qr/function countt\(\) does not exist/, 'no query');
$node->safe_psql('postgres', 'CREATE VIEW dependent AS SELECT k FROM own_query');
refused(q{'own', query => 'SELECT k, count(*) AS n, sum(v) AS total FROM clicks GROUP BY 1'}, qr/View public\.dependent depends on it/, 'somebody reads the query\'s view');
$node->safe_psql('postgres', q{CREATE ROLE other; DROP VIEW dependent});
(undef, undef, $stderr) = $node->psql('postgres', q{SET ROLE other; SELECT stream_agg.alter_stream('own', trigger => '1 second')});
like($stderr, qr/must be owner/, 'the stream of another');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname ~ 'former'}), 0, 'nothing is left of what was refused');
produce_some(50);
all_of();
process($node, 'fresh');
is_equal_tables($node, 'SELECT k, n FROM mine', 'SELECT k, n FROM own_query', 'and nothing was lost');
is($node->safe_psql('postgres', q{SELECT count(DISTINCT rows_in) FROM pg_stat_stream_agg}), 1, 'all streams have counted the same records');

# the live view has got the columns, too
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'appended_live'::regclass AND attnum > 0}), 7, 'the live view has the columns');

$node->stop;
done_testing();
