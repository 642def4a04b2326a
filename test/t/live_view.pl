# Windows that are still open, as rows of the sink: by open_windows and in the
# live view, of the very commit that the reader's snapshot sees.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(clicks => 2);
my $random = seeded_random();
my $node = PostgreSQL::Test::Cluster->new('live');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', join("\n", "shared_preload_libraries = 'stream_agg'",
	"stream_agg.max_retry_delay = '1s'", ''));
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION stream_agg;
	CREATE ROLE analyst LOGIN;
	CREATE ROLE reader LOGIN;
	CREATE ROLE other LOGIN;
	GRANT CREATE ON SCHEMA public TO analyst, other;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO analyst;
	SET ROLE analyst;
	CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')});
my $brokers = $broker->brokers;
$node->safe_psql('postgres', "SET ROLE analyst; SELECT stream_agg.create_source('clicks', topic => 'clicks', brokers => '$brokers',
	columns => 'ts timestamptz, user_id bigint, amount numeric, mood mood', options => '{\"fetch.wait.max.ms\": 20}')");

# a sink of the user's own, with other types, other columns and a column less
$node->safe_psql('postgres', q{
	SET ROLE analyst;
	SET timezone = 'Asia/Kathmandu';
	CREATE TABLE results (gone int, note text DEFAULT 'written', total numeric(20, 1), n int, win tstzrange, u bigint, m mood, clock text);
	ALTER TABLE results DROP COLUMN gone;
	SELECT stream_agg.create_stream('windows',
		$$ SELECT stream_agg.tumble(ts, '1 minute') AS win, user_id AS u, mood AS m, count(*) AS n, sum(amount) AS total,
		          to_char(min(ts), 'HH24:MI') AS clock
		     FROM clicks GROUP BY 1, 2, 3 HAVING count(*) > 1 $$,
		sink => 'results', watermark => '2 minutes', output_mode => 'append', trigger => '20 days');
	SELECT stream_agg.create_stream('totals', 'SELECT user_id, count(*) AS n, avg(amount) AS a FROM clicks GROUP BY 1',
		output_mode => 'update', trigger => '20 days');
	SELECT stream_agg.create_live_view('windows')});

my $second = 0;
sub click
{
	$second += $random->(4);
	my $ts = 1767225600 + $second - $random->(90);
	return [ $random->(2), '', json_record({ ts => $ts * 1000, user_id => $random->(4), amount => $random->(1000) / 10,
			mood => ('sad', 'ok', 'happy')[ $random->(3) ] }, numbers => [qw(ts user_id amount)]) ];
}

# what the records give that the stream has not called late; there are none here
sub expected
{
	return q{SELECT NULL::text AS note, total::numeric(20, 1), n::int, win, u, m, clock FROM windows_query};
}
my $got = q{SELECT NULL::text AS note, total, n, win, u, m, clock FROM results_live};

sub equal_at
{
	my ($on, $name) = @_;
	my $difference = $on->safe_psql('postgres', "SET timezone = 'Asia/Kathmandu';
		WITH got AS MATERIALIZED ($got), expected AS MATERIALIZED (" . expected() . ")
		SELECT 'lacks', x::text FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM got) x
		UNION ALL SELECT 'has', x::text FROM (SELECT * FROM got EXCEPT ALL SELECT * FROM expected) x LIMIT 5");
	return is($difference, '', $name);
}

process($node, 'windows');    # the trigger at the start is over
is($node->safe_psql('postgres', 'SELECT count(*) FROM results_live'), 0, 'nothing yet');
for my $round (1 .. 4)
{
	$broker->produce('clicks', map { click() } 1 .. 150);
	process($node, 'windows');
	my $late = $node->safe_psql('postgres', q{SELECT rows_late FROM pg_stat_stream_agg WHERE stream = 'windows'});
	is($late, 0, 'no record is late');
	equal_at($node, "round $round: sink and open windows are the batch query");
}
ok($node->safe_psql('postgres', 'SELECT count(*) > 0 FROM results'), 'some windows have closed');
ok($node->safe_psql('postgres', 'SELECT count(*) > 0 FROM stream_agg.open_windows(NULL::results)'), 'some are open');
is($node->safe_psql('postgres', q{SELECT count(*) FROM stream_agg.open_windows(NULL::results) o
	JOIN pg_stat_stream_agg s ON s.stream = 'windows' WHERE upper(o.win) <= s.watermark}), 0, 'none of the open ones is closed');
is($node->safe_psql('postgres', q{SELECT count(*) FROM results r JOIN stream_agg.open_windows(NULL::results) o USING (win, u, m)}),
	0, 'none is both');
is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT coalesce(note, 'none'), ' ' ORDER BY coalesce(note, 'none')) FROM results_live}),
	'none written', 'columns that the query does not fill are NULL in open windows');
process($node, 'totals');
is_equal_tables($node, 'SELECT * FROM stream_agg.open_windows(NULL::totals)', 'SELECT * FROM totals', 'update mode: the sink has them too');

# the reader's settings neither matter nor change
is($node->safe_psql('postgres', q{SET timezone = 'America/New_York'; SET search_path = '';
	SELECT (SELECT count(*) FROM public.results_live l WHERE NOT EXISTS (SELECT FROM public.windows_query q
		WHERE q.win = l.win AND q.u = l.u AND q.m = l.m)), current_setting('timezone'), current_user, current_setting('search_path')}),
	q{0|America/New_York|} . $node->safe_psql('postgres', 'SELECT current_user') . '|""', 'settings of the reader are as before');

# --- snapshots
{
	my $reader = $node->background_psql('postgres', on_error_die => 1);
	my $sum = q{SELECT count(*), sum(n), sum(total) FROM results_live};
	my $before = $node->safe_psql('postgres', $sum);
	my $first = '';
	$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
	is($reader->query_safe($sum), $before, 'REPEATABLE READ: as committed');
	$broker->produce('clicks', map { click() } 1 .. 300);
	process($node, 'windows');
	isnt($node->safe_psql('postgres', $sum), $before, 'a micro-batch has come');
	is($reader->query_safe($sum), $before, 'REPEATABLE READ: the same again, after windows have closed');
	$reader->query_safe('COMMIT');
	$reader->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT n FROM results_live');
	my $n = $node->safe_psql('postgres', 'SELECT count(*) FROM results_live');
	$broker->produce('clicks', map { click() } 1 .. 100);
	process($node, 'windows');
	is(scalar(() = $reader->query_safe('FETCH ALL FROM c') =~ /\d+/g), $n, 'a cursor reads the snapshot it was opened with');
	$reader->query_safe('COMMIT');
	$reader->quit;
}
equal_at($node, 'after that, too');

# --- a standby reads them as they are replicated, with no worker there
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$broker->produce('clicks', map { click() } 1 .. 100);
process($node, 'windows');
$node->wait_for_catchup($standby);
equal_at($standby, 'a standby: sink and open windows are the batch query');
$standby->stop;

# --- a worker that has been stopped, and one that was killed
$node->safe_psql('postgres', q{SELECT stream_agg.stop_stream('windows')});
equal_at($node, 'a stopped stream has its open windows');
$node->safe_psql('postgres', q{SELECT stream_agg.start_stream('windows')});

# --- privileges
sub denied
{
	my ($role, $query, $error, $name) = @_;
	my (undef, undef, $stderr) = $node->psql('postgres', "SET ROLE $role; $query");
	return like($stderr, $error, $name);
}
my $open = 'SELECT count(*) FROM stream_agg.open_windows(NULL::results)';
denied('reader', $open, qr/permission denied for table results/, 'open windows need SELECT on the sink');
denied('reader', 'SELECT FROM results_live', qr/permission denied for view results_live/, 'the live view is a view');
denied('reader', 'SELECT FROM stream_agg.state', qr/^$/, 'the state may be selected');
is($node->safe_psql('postgres', 'SET ROLE reader; SELECT count(*) FROM stream_agg.state'), 0, 'and shows nothing of others');
$node->safe_psql('postgres', 'GRANT SELECT ON results_live TO reader');
my $all = $node->safe_psql('postgres', 'SELECT count(*) FROM results_live');
is($node->safe_psql('postgres', 'SET ROLE reader; SELECT count(*) FROM results_live'), $all, 'SELECT on the live view is enough');
$node->safe_psql('postgres', 'REVOKE SELECT ON results_live FROM reader; GRANT SELECT ON results TO reader');
cmp_ok($node->safe_psql('postgres', "SET ROLE reader; $open"), '>', 0, 'SELECT on the sink is enough for open windows');
$node->safe_psql('postgres', 'ALTER TABLE results ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON results USING (u = 1)');
denied('reader', $open, qr/would bypass row-level security/, 'policies of the sink are not bypassed');
cmp_ok($node->safe_psql('postgres', "SET ROLE analyst; $open"), '>', 0, 'the owner has no policies to heed');
$node->safe_psql('postgres', 'ALTER TABLE results DISABLE ROW LEVEL SECURITY');
denied('reader', 'SELECT stream_agg.create_live_view($$windows$$)', qr/must be owner/, 'the live view is the owner\'s to make');

# it is known by what it shows, whatever it and the sink are called
$node->safe_psql('postgres', 'REVOKE SELECT ON results FROM reader; GRANT SELECT ON results_live TO reader;
	ALTER VIEW results_live RENAME TO live; ALTER TABLE results RENAME TO outcome');
is($node->safe_psql('postgres', 'SET ROLE reader; SELECT count(*) FROM live'), $all, 'renamed: SELECT on the live view is enough');
denied('analyst', 'SELECT stream_agg.create_live_view($$windows$$)', qr/has a live view already, "live"/, 'one is enough');
$node->safe_psql('postgres', 'ALTER VIEW live RENAME TO results_live; ALTER TABLE outcome RENAME TO results');
# a view of the owner's that shows less gives no right to more
$node->safe_psql('postgres', q{SET ROLE analyst; REVOKE SELECT ON results_live FROM reader; DROP VIEW results_live;
	CREATE VIEW results_live AS SELECT n FROM results UNION ALL SELECT n FROM stream_agg.open_windows(NULL::results) WHERE u = 1;
	CREATE VIEW narrow AS SELECT n FROM results UNION ALL SELECT n FROM stream_agg.open_windows(NULL::results);
	GRANT SELECT ON results_live, narrow TO reader});
denied('reader', $open, qr/permission denied for table results/, 'views that show less');
$node->safe_psql('postgres', q{SET ROLE analyst; DROP VIEW results_live, narrow; SELECT stream_agg.create_live_view('windows')});

# a dump has it, and its restored copy shows what is in the dump
$node->command_ok([ 'bash', '-c', "createdb -h '" . $node->host . "' -p " . $node->port . " copied && pg_dump -h '" . $node->host . "' -p " . $node->port
	. " postgres | psql -XAtq -v ON_ERROR_STOP=1 -h '" . $node->host . "' -p " . $node->port . ' copied >/dev/null' ], 'a dump is restored');
is($node->safe_psql('copied', 'SELECT count(*), sum(n), sum(total) FROM results_live'),
	$node->safe_psql('postgres', 'SELECT count(*), sum(n), sum(total) FROM results_live'), 'with its open windows');

# a view of that name that somebody else has made opens nothing
$node->safe_psql('postgres', q{
	SET ROLE analyst; DROP VIEW results_live; RESET ROLE;
	SET ROLE other; CREATE VIEW results_live AS SELECT 1 AS one FROM stream_agg.open_windows(NULL::results)});
denied('other', $open, qr/permission denied for table results/, 'a view of that name by somebody else');
$node->safe_psql('postgres', q{DROP VIEW results_live; SELECT stream_agg.create_live_view('windows')});
is($node->safe_psql('postgres', q{SELECT relowner::regrole FROM pg_class WHERE relname = 'results_live'}), 'analyst',
	'the view belongs to the stream\'s owner, whoever makes it');

# code of the owner runs as the owner, even if a superuser reads
$node->safe_psql('postgres', q{
	SET ROLE analyst;
	CREATE FUNCTION tell(bigint) RETURNS text STABLE LANGUAGE plpgsql AS $$
	BEGIN
		RETURN current_user || ' ' || current_setting('timezone');
	END $$;
	CREATE FUNCTION escape(bigint) RETURNS bigint STABLE LANGUAGE plpgsql AS $$
	BEGIN
		SET ROLE NONE;
		RETURN 1;
	END $$;
	SELECT stream_agg.create_stream('spy', $q$ SELECT stream_agg.tumble(ts, '1 day') AS win, tell(count(*)) AS who FROM clicks GROUP BY 1 $q$,
		watermark => '1 day', trigger => '20 days');
	SELECT stream_agg.create_stream('escaper', $q$ SELECT stream_agg.tumble(ts, '1 day') AS win, escape(count(*)) AS who FROM clicks GROUP BY 1 $q$,
		watermark => '1 day', trigger => '20 days')});
process($node, 'spy');
process($node, 'escaper');
like($node->safe_psql('postgres', 'SELECT who FROM stream_agg.open_windows(NULL::spy)'), qr/^analyst /, 'as the owner');
my (undef, undef, $stderr) = $node->psql('postgres', 'SELECT who FROM stream_agg.open_windows(NULL::escaper)');
like($stderr, qr/ERROR/, 'which it cannot leave: ' . ((split /\n/, $stderr)[0] // ''));

# --- refusals
denied('analyst', 'SELECT stream_agg.create_live_view($$totals$$)', qr/needs no live view/, 'update mode has all in the sink');
denied('analyst', 'SELECT * FROM stream_agg.open_windows($$windows$$::text)', qr/open_windows takes the row type of a sink, not its name/, 'a name is no row');
denied('analyst', 'CREATE TABLE plain (a int); SELECT * FROM stream_agg.open_windows(NULL::plain)',
	qr/table "plain" is not the sink of a stream/, 'a table that is no sink');

# --- the view goes with the stream
$node->safe_psql('postgres', q{SET ROLE analyst; SELECT stream_agg.drop_stream('windows')});
is($node->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE relname = 'results'), count(*) FILTER (WHERE relname = 'results_live')
	FROM pg_class}), '1|0', 'drop_stream drops the live view, and not the table');
denied('analyst', $open, qr/is not the sink of a stream/, 'nothing to show any more');

$node->stop;
done_testing();
