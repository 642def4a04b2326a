# Late records: kept exactly once, with the windows that lack them, over crashes; and
# repair_late makes these windows what the query gives over all records.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $random = seeded_random();
my $broker = start_broker();
my $node = new_node('late', 'restart_after_crash = on', 'max_worker_processes = 30', 'stream_agg.keep_batches = 1000');
my $base = 1767225600;    # 2026-01-01 00:00 UTC

sub record
{
	my ($p, $time, $k, $v) = @_;
	return [ $p, "key$k", sprintf('{"ts":%d,"k":%d,"v":%d}', $time * 1000, $k, $v) ];
}

# A stream of records with stragglers, in two partitions.
my @records;
for my $i (1 .. 600)
{
	my $time = $base + $i * 4 - $random->(30);
	$time -= 60 * (2 + $random->(10)) if $random->(10) == 0;
	push @records, record($random->(2), $time, $random->(3), $random->(100));
}

sub make_stream
{
	my ($stream, $mode, $options, %how) = @_;
	my $query = $how{query} // "SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n, sum(v) AS total
		FROM late_source WHERE v > 5 GROUP BY 1, k";
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$,
		watermark => '20 seconds', output_mode => '$mode', trigger => '20 days', max_offsets_per_trigger => " . ($how{limit} // 40) . ",
		options => '{\"late_records\": true$options}')");
	return;
}

sub totals
{
	return $node->safe_psql('postgres', "SELECT total_late || ' late' FROM stream_agg.commits
		WHERE stream = '$_[0]' ORDER BY batch DESC LIMIT 1");
}

# (topic, partition, offset) of a stream's late records, by a column
sub kept
{
	my ($stream, $what) = @_;
	return $node->safe_psql('postgres', "SELECT $what FROM stream_agg.late_records WHERE stream = '$stream'");
}

# what of the query's result has windows that have closed
sub closed
{
	my ($stream, $column) = @_;
	return "SELECT * FROM ${stream}_query WHERE $column <= (SELECT watermark FROM pg_stat_stream_agg WHERE stream = '$stream')";
}

$broker->create_topic('late', 2);
create_source($node, $broker, 'late_source', 'late', 'ts timestamptz, k int, v bigint, part int OPTIONS (metadata $$partition$$), off bigint OPTIONS (metadata $$offset$$)');
make_stream('appended', 'append', '');
make_stream('updated', 'update', ', "watermark_policy": "per_partition"');
make_stream('crashed', 'update', '', limit => 7);
make_stream('hopped', 'update', '', query => "SELECT stream_agg.hop(ts, '30 seconds', '1 minute') AS win, k, count(*) AS n, sum(v) AS total
	FROM late_source GROUP BY 1, k");
make_stream('joined', 'append', '', query => "SELECT stream_agg.tumble(ts, '1 minute') AS win, name, count(*) AS n
	FROM late_source JOIN (VALUES (0, 'a'), (0, 'b'), (1, 'c')) AS names (k, name) USING (k) GROUP BY 1, name");

for my $part (0 .. 3)
{
	$broker->produce('late', @records[ $part * 150 .. $part * 150 + 149 ]);
	if ($part > 0)
	{
		# in the middle of something, perhaps
		my $pid = worker_pid($node, 'crashed');
		my $before = $node->safe_psql('postgres', 'SELECT batches FROM pg_stat_stream_agg WHERE stream = $$crashed$$');
		my $psql = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'),
				'-c', "SELECT * FROM stream_agg.process_available('crashed')" ], '>', '/dev/null', '2>', '/dev/null');
		$node->poll_query_until('postgres', "SELECT batches > $before FROM pg_stat_stream_agg WHERE stream = 'crashed'");
		kill_backends($node, $pid);
		$psql->finish;
	}
	process($node, $_) for 'appended', 'updated', 'crashed', 'joined', 'hopped';
}

for my $stream ('appended', 'updated', 'crashed', 'joined')
{
	my $late = kept($stream, 'count(*)');
	cmp_ok($late, '>', 10, "$stream: $late late records");
	is(totals($stream), "$late late", "$stream: as many as were counted");
	is(kept($stream, 'count(*) - count(DISTINCT (partition, "offset"))'), 0, "$stream: none of them twice");
	is(kept($stream, q{bool_and(windows = ARRAY[stream_agg.tumble(event_time, '1 minute')])}), 't', "$stream: with their windows");
	is_equal_tables($node, qq{SELECT partition, "offset", convert_from(key, 'UTF8'), convert_from(value, 'UTF8')::jsonb
		FROM stream_agg.late_records WHERE stream = '$stream'},
		qq{SELECT part, off, 'key' || k, jsonb_build_object('ts', extract(epoch FROM ts)::bigint * 1000, 'k', k, 'v', v)
		FROM late_source WHERE (part, off) IN (SELECT partition, "offset" FROM stream_agg.late_records WHERE stream = '$stream')},
		"$stream: byte by byte");
}

# Repair, and roll back.
my %before = map { $_ => $node->safe_psql('postgres', "SELECT md5(string_agg(x::text, ';' ORDER BY x::text)) FROM $_ x") } 'appended', 'updated';
$node->safe_psql('postgres', 'BEGIN; SELECT * FROM stream_agg.repair_late($$appended$$); ROLLBACK');
is($node->safe_psql('postgres', "SELECT md5(string_agg(x::text, ';' ORDER BY x::text)) FROM appended x"), $before{appended}, 'a repair can be rolled back');
cmp_ok(kept('appended', 'count(*)'), '>', 10, 'and the records are late again');

$node->safe_psql('postgres', 'ALTER TABLE updated ADD note text; UPDATE updated SET note = $$mine$$');
is($node->safe_psql('postgres', q{SELECT count(*) FROM stream_agg.late_records l WHERE stream = 'hopped'
	AND NOT windows <@ ARRAY(SELECT stream_agg.hop(event_time, '30 seconds', '1 minute'))}), 0, 'hopped: late records have windows of theirs');
for my $stream ('appended', 'updated', 'crashed', 'joined', 'hopped')
{
	my $columns = $stream eq 'joined' ? 'win, name, n' : 'win, k, n, total';
	my $summary = $node->safe_psql('postgres', "SELECT bool_and(repaired), sum(late_records) = (SELECT count(*) FROM stream_agg.late_records WHERE stream = '$stream')
		FROM stream_agg.repair_late('$stream') WHERE repaired OR reason !~ 'still open'");
	like($summary, qr/^t\|/, "$stream: repaired");
	is_equal_tables($node, "SELECT $columns FROM $stream WHERE upper(win) <= (SELECT watermark FROM pg_stat_stream_agg WHERE stream = '$stream')",
		closed($stream, 'upper(win)'), "$stream: the windows that have closed are the query's over all records");
}
is(kept('appended', 'count(*)'), 0, 'records that are in their windows are not late any more');
is($node->safe_psql('postgres', 'SELECT count(*) FROM updated WHERE note IS NULL'), $node->safe_psql('postgres',
	'SELECT count(*) FROM (SELECT win, k FROM updated EXCEPT SELECT win, k FROM updated WHERE note = $$mine$$) x'),
	'update: rows that were there keep what others have put into further columns');

# The stream goes on, and what is late for an open window waits until it closes.
my $last = $base + 600 * 4;
$broker->produce('late', record(0, $last + 600, 1, 50), record(1, $last + 100, 1, 50), record(1, $last + 300, 1, 50), record(0, $last + 130, 1, 50));
process($node, $_) for 'appended', 'updated';
$broker->produce('late', record(1, $last + 700, 2, 50), record(0, $last + 580, 2, 50), record(0, $last + 1500, 2, 50), record(0, $last + 900, 2, 50));
process($node, $_) for 'appended', 'updated';
my $open = $node->safe_psql('postgres', "SELECT count(*) FROM stream_agg.repair_late('updated') WHERE NOT repaired AND reason ~ 'still open'");
$broker->produce('late', record(0, $last + 5000, 2, 50), record(1, $last + 5000, 2, 50));
process($node, $_) for 'appended', 'updated', 'joined', 'crashed';
is($node->safe_psql('postgres', "SELECT count(*) FROM stream_agg.repair_late('$_') WHERE NOT repaired"), 0, "$_: all windows have closed") for 'appended', 'updated';
is(kept($_, 'count(*)'), 0, "$_: and nothing is late any more") for 'appended', 'updated';
is_equal_tables($node, "SELECT win, k, n, total FROM $_ WHERE upper(win) <= (SELECT watermark FROM pg_stat_stream_agg WHERE stream = '$_')",
	closed($_, 'upper(win)'), "$_: the windows are the query's over all records, again") for 'appended', 'updated';
is($open, 1, 'one window was open for which a record was late in its partition');

# A join makes several rows of a record, in no order, whose sliding windows overlap, touch,
# or are far from each other: each window is kept once, in order, and repaired.
$broker->create_topic('spread', 1);
create_source($node, $broker, 'spread_source', 'spread', 'ts timestamptz, k int');
my $offsets = join ', ', map { sprintf "('%d seconds'::interval)", $_ } map { $random->(4) ? $random->(400) : 100_000 + $random->(50) } 1 .. 200;
my $rows = "(SELECT ts - d AS t FROM spread_source, (VALUES $offsets) AS ds (d)) AS x";
make_stream('spread', 'update', '', query => "SELECT stream_agg.hop(t, '10 seconds', '30 seconds') AS win, count(*) AS n FROM $rows GROUP BY 1");
$broker->produce('spread', record(0, $base + 500_000, 1, 1));
process($node, 'spread');
$broker->produce('spread', record(0, $base + 200_000, 1, 1), record(0, $base + 200_007, 1, 1));
process($node, 'spread');
is_equal_tables($node, q{SELECT "offset", w FROM stream_agg.late_records, unnest(windows) AS w WHERE stream = 'spread'},
	"SELECT DISTINCT off, w FROM (VALUES (1, to_timestamp($base + 200000)), (2, to_timestamp($base + 200007))) AS r (off, ts), (VALUES $offsets) AS ds (d), stream_agg.hop(ts - d, '10 seconds', '30 seconds') AS w",
	'spread: each window once');
is(kept('spread', 'bool_and(windows = ARRAY(SELECT w FROM unnest(windows) AS w ORDER BY w))'), 't', 'spread: in order');
is($node->safe_psql('postgres', "SELECT bool_and(repaired) FROM stream_agg.repair_late('spread')"), 't', 'spread: repaired');
is_equal_tables($node, "SELECT * FROM spread WHERE upper(win) <= to_timestamp($base + 300000)",
	"SELECT * FROM spread_query WHERE upper(win) <= to_timestamp($base + 300000)", 'spread: the windows are the query\'s over all records');

# Retention has taken records that were read: windows that may have had some stay as
# they are, later ones are repaired.  (The embedded broker keeps 5 MiB of a partition.)
$broker->create_topic('short', 1);
create_source($node, $broker, 'short_source', 'short', 'ts timestamptz, k int');
make_stream('short', 'append', '', limit => 1000, query => "SELECT stream_agg.tumble(ts, '1 minute') AS win, count(*) AS n FROM short_source GROUP BY 1");
$broker->produce('short', record(0, $base + 10, 1, 1), record(0, $base + 300, 1, 1));
process($node, 'short');
$broker->produce('short', record(0, $base + 20, 1, 1));
process($node, 'short');
my $filler = 'x' x 1000;
for my $part (0 .. 9)
{
	$broker->produce('short', map { [ 0, '', sprintf('{"ts":%d,"k":1,"filler":"%s"}', ($base + 1000 + ($part * 1000 + $_) / 10) * 1000, $filler) ] } 1 .. 1000);
	process($node, 'short');
}
$broker->produce('short', record(0, $base + 1810, 1, 1));
process($node, 'short');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM short_source"), '<', 10004, 'the broker has forgotten some');
is($node->safe_psql('postgres', "SELECT lower(win) = to_timestamp($base), late_records, repaired, reason ~ 'Kafka may not have all of its records' FROM stream_agg.repair_late('short') ORDER BY win"),
	"t|1|f|t\nf|1|t|", 'what is gone is said of windows that may lack it, and of no others');
is($node->safe_psql('postgres', "SELECT n FROM short WHERE lower(win) = to_timestamp($base)"), 1, 'their rows stay');
is($node->safe_psql('postgres', "SELECT n FROM short WHERE lower(win) = to_timestamp($base + 1800)"), 601, 'and others have their late records');
is(kept('short', 'count(*)'), 1, 'and what is not repaired is still late');

# What has been left out is left out again.
$broker->create_topic('dirty', 1);
create_source($node, $broker, 'dirty_source', 'dirty', 'ts timestamptz, k int');
make_stream('dirty', 'update', ', "on_error": "dead_letter"', query => "SELECT stream_agg.tumble(ts, '1 minute') AS win, sum(10 / k) AS n FROM dirty_source GROUP BY 1");
$broker->produce('dirty', record(0, $base + 10, 1, 1), record(0, $base + 11, 0, 1), [ 0, '', 'no json' ], record(0, $base + 300, 1, 1));
process($node, 'dirty');
$broker->produce('dirty', record(0, $base + 20, 2, 1));
process($node, 'dirty');
is($node->safe_psql('postgres', "SELECT repaired FROM stream_agg.repair_late('dirty')"), 't', 'a stream with dead letters is repaired');
is($node->safe_psql('postgres', "SELECT n FROM dirty WHERE lower(win) = to_timestamp($base)"), 15, 'without these');

# Into a sink whose constraints are checked at the end, by the owner and by others.
$broker->create_topic('checked', 1);
create_source($node, $broker, 'checked_source', 'checked', 'ts timestamptz, k int');
$node->safe_psql('postgres', 'CREATE TABLE ks (k int PRIMARY KEY); INSERT INTO ks VALUES (1), (2);
	CREATE TABLE checked (win tstzrange, k int REFERENCES ks DEFERRABLE INITIALLY DEFERRED, n bigint, UNIQUE (win, k) DEFERRABLE INITIALLY DEFERRED)');
make_stream('checked', 'append', '', query => "SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n FROM checked_source GROUP BY 1, 2");
$broker->produce('checked', record(0, $base + 10, 1, 1), record(0, $base + 300, 1, 1));
process($node, 'checked');
for my $round (1, 2)
{
	$broker->produce('checked', record(0, $base + 20, $round, 1));
	process($node, 'checked');
	is($node->safe_psql('postgres', "SELECT late_records, repaired FROM stream_agg.repair_late('checked')"), '1|t', "deferred constraints: repaired, $round");
	is($node->safe_psql('postgres', "SELECT string_agg(k || ':' || n, ' ' ORDER BY k) FROM checked WHERE lower(win) = to_timestamp($base)"),
		$round == 1 ? '1:2' : '1:2 2:1', 'with the record');
}
$broker->produce('checked', record(0, $base + 30, 3, 1));
process($node, 'checked');
like(($node->psql('postgres', "SELECT * FROM stream_agg.repair_late('checked')"))[2], qr/violates foreign key constraint "checked_k_fkey"/, 'and heeded');

# days of a time zone, one of them of 23 hours
$broker->create_topic('days', 1);
create_source($node, $broker, 'days_source', 'days', 'ts timestamptz');
my $day = q{stream_agg.tumble(ts, '1 day', timezone => 'Europe/Berlin')};
for my $case ([ 'whole_days', $day ], [ 'starts_of_days', "lower($day)" ], [ 'ends_of_days', "upper($day)" ])
{
	my ($stream, $shown) = @$case;
	$node->safe_psql('postgres', qq{SELECT stream_agg.create_stream('$stream', \$q\$SELECT $shown AS d, count(*) AS n FROM days_source GROUP BY 1\$q\$,
		watermark => '0', output_mode => 'append', trigger => '20 days', options => '{"late_records": true}')});
}
for my $times ([ '2026-03-28 22:59', '2026-03-28 23:00', '2026-03-29 21:59', '2026-03-29 22:00', '2026-03-31 00:00' ],
	[ '2026-03-28 22:30', '2026-03-28 23:30', '2026-03-29 21:30', '2026-03-29 22:30' ])
{
	$broker->produce('days', map { [ 0, '', qq({"ts":"$_:00Z"}) ] } @$times);
	process($node, $_) for qw(whole_days starts_of_days ends_of_days);
}
for my $stream (qw(whole_days starts_of_days ends_of_days))
{
	is($node->safe_psql('postgres', "SELECT string_agg(upper(win) - lower(win) || ' ' || late_records || ' ' || repaired, ', ' ORDER BY win)
			FROM stream_agg.repair_late('$stream')"), '1 day 1 true, 23:00:00 2 true, 1 day 1 true', "$stream: days are repaired");
	is_equal_tables($node, "SELECT * FROM $stream", "SELECT * FROM ${stream}_query ORDER BY d LIMIT 3", "$stream: and equal the batch query");
}

# A repair takes time that grows with the rows of its windows, not with their square: nearly
# each key twice would take minutes.
$broker->create_topic('keys');
create_source($node, $broker, 'keys', 'keys', 'ts timestamptz, k int');
$node->safe_psql('postgres', q{SELECT stream_agg.create_stream('keyed', $q$SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n FROM keys GROUP BY 1, 2$q$,
	watermark => '0', output_mode => 'update', trigger => '20 days', options => '{"late_records": true}')});
$broker->produce('keys', map { [ 0, '', qq({"ts":"2026-01-01T00:00:00Z","k":$_}) ] } 1 .. 20_000);
for my $record ('{"ts":"2026-01-01T01:00:00Z","k":null}', '{"ts":"2026-01-01T00:00:00Z","k":null}')
{
	$broker->produce('keys', [ 0, '', $record ]);
	process($node, 'keyed');
}
is($node->safe_psql('postgres', q{SET statement_timeout = '100s'; SELECT repaired FROM stream_agg.repair_late('keyed')}), 't', 'a window of many keys is repaired');
is_equal_tables($node, 'SELECT * FROM keyed', 'SELECT * FROM keyed_query', 'and equals the batch query');

# Too many.
$node->safe_psql('postgres', q{SELECT stream_agg.delete_late_records('crashed')});
$node->append_conf('postgresql.conf', 'stream_agg.max_late_records = 5');
$node->reload;
make_stream('many', 'append', '', limit => 100);
$node->psql('postgres', q{SELECT stream_agg.process_available('many')});
wait_state($node, 'many', 'failed', 'would have more than 5 late records');
$node->safe_psql('postgres', q{SELECT stream_agg.alter_stream('many', '{"late_records": false}'); SELECT stream_agg.start_stream('many')});
process($node, 'many');
is($node->safe_psql('postgres', 'SELECT state FROM pg_stat_stream_agg WHERE stream = $$many$$'), 'running', 'without the option they are only counted');

# Not everything can be repaired.
sub fails
{
	my ($sql, $error, $name) = @_;
	my ($status, $stdout, $stderr) = $node->psql('postgres', $sql);
	return like($stderr, $error, $name);
}
fails("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT stream_agg.repair_late('appended')", qr/isolation level repeatable read/,
	'not with a snapshot that may be old');
$node->safe_psql('postgres', 'CREATE ROLE stranger');
fails("SET ROLE stranger; SELECT stream_agg.repair_late('appended')", qr/must be owner of stream/, 'not by a stranger');

done_testing();
