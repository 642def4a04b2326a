# date_trunc and casts to date as windows: every unit, in zones whose clocks change
# by an hour, by half of one, at midnight and a minute after it; the table of a
# stream equals the batch query in each mode, and what looks at a stream or repairs
# it knows these windows.  Aggregates first and last over the same records.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker('events' => 1);
my $node = new_node('date_trunc', 'stream_agg.keep_batches = 1000', 'max_worker_processes = 40');
my $rng = seeded_random();
my @zones = qw(Europe/Berlin Asia/Kathmandu Australia/Lord_Howe America/St_Johns UTC);
my %length = (microseconds => '1 us', milliseconds => '1 ms', second => '1 s', minute => '1 min', hour => '1 hour',
	day => '1 day', week => '1 week', month => '1 month', quarter => '3 months', year => '1 year',
	decade => '10 years', century => '100 years', millennium => '1000 years');

sub value { return $node->safe_psql('postgres', $_[0]); }

# sessions to come have a zone, workers have that of their stream
sub use_zone { return value("ALTER DATABASE postgres SET timezone = '$_[0]'"); }

# Times on and around changes of clocks, and turns of centuries, in order.
sub random_times
{
	my @changes = ('1986-01-01T00:00',
		'1999-04-04T03:31', '1999-10-31T02:31', '1999-12-31T23:00', '2000-12-31T23:00', '2009-12-31T18:15',
		'2026-03-29T01:00', '2026-04-04T15:00', '2026-06-30T22:00', '2026-10-03T15:30', '2026-10-25T01:00');
	my @values;
	for my $change (@changes)
	{
		push @values, map { my $s = $rng->(3) == 0 ? $rng->(172_800) - 86_400 : $rng->(2) ? $rng->(7200) - 3600 : $rng->(240) - 120;
			"('$change:00Z'::timestamptz + interval '$s s' + interval '" . $rng->(1_000_000) . " us')" } 1 .. 16;
	}
	return join ',', @values;
}
my $values = random_times();
my @lines = split /\n/, value("SET timezone = 'UTC'; SET datestyle = ISO;
	SELECT json_build_object('ts', to_char(t, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), 'at', to_char(t, 'YYYY-MM-DD\"T\"HH24:MI:SS.US'),
		'k', extract(minute FROM t)::int % 3, 'v', floor(extract(microsecond FROM t) % 10))
	  FROM (VALUES $values) v (t) ORDER BY t");
create_source($node, $broker, 'events', 'events', 'ts timestamptz, at timestamp, k int, v int');
$broker->produce('events', @lines);

my $streams = 0;

# A stream of a query in a zone and mode equals the query there; $end is when a
# row's window is over.
sub run
{
	my ($query, $zone, $mode, $end, $name) = @_;
	my $stream = 'stream_' . ++$streams;
	my $size = (7, 40, 1000)[ $rng->(3) ];

	value("SET timezone = '$zone'; SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => '$mode',
		watermark => '6 hours', trigger => '20 days', max_offsets_per_trigger => $size)");
	use_zone('America/New_York');
	process($node, $stream);
	use_zone($zone);
	my $watermark = watermark($node, $stream);
	my $closed = $mode eq 'append' ? "WHERE $end <= '$watermark'" : '';
	is_equal_tables($node, "SELECT * FROM $stream", "SELECT * FROM ($query) q $closed", "$name in $zone, $mode: the table equals the batch query");
	counts_add_up($node, $stream, scalar @lines, "$name in $zone, $mode: no record is late");
	value("SELECT stream_agg.drop_stream('$stream', drop_sink => true)");
	return;
}

my @modes = qw(append update complete);
for my $zone (@zones)
{
	for my $unit (sort keys %length)
	{
		# a unit that does not fall together with a change of clocks is enough in one zone
		next if $zone ne 'Europe/Berlin' && $unit !~ /^(minute|hour|day|week)$/;
		run("SELECT date_trunc('$unit', ts) AS since, k, count(*) AS n, max(ts) AS latest FROM events GROUP BY 1, k",
			$zone, $modes[ $streams % 3 ], "since + interval '$length{$unit}'", $unit);
	}
	run('SELECT ts::date AS day, count(*) AS n FROM events GROUP BY 1', $zone, $modes[ $streams % 3 ], 'day + 1', 'a cast to date') if $zone ne 'Asia/Kathmandu';
}
for my $mode ('append', 'update')
{
	run("SELECT date_trunc('day', ts, 'America/St_Johns') AS since, k, count(*) AS n FROM events GROUP BY 1, 2",
		'Asia/Tokyo', $mode, "((since AT TIME ZONE 'America/St_Johns' + interval '1 day') AT TIME ZONE 'America/St_Johns')", 'a day in a zone given');
	run("SELECT date_trunc('hour', ts, 'EST') AS since, count(*) AS n FROM events GROUP BY 1", 'Asia/Tokyo', $mode, "since + interval '1 hour'", 'an hour in a zone by its abbreviation');
	run("SELECT date_trunc('month', ts)::date AS month, count(*) AS n FROM events GROUP BY 1", 'Europe/Berlin', $mode, "month + interval '1 month'", 'the date of a month');
	run("SELECT (ts AT TIME ZONE 'Australia/Lord_Howe')::date AS day, count(*) AS n FROM events GROUP BY 1",
		'Europe/Berlin', $mode, "((day + 1)::timestamp AT TIME ZONE 'Australia/Lord_Howe')", 'the date in a zone given');
	run("SELECT date_trunc('$_', at) AS since, k, count(*) AS n FROM events GROUP BY 1, 2", 'Europe/Berlin', $mode,
		"(since + interval '$length{$_}') AT TIME ZONE 'UTC'", "$_ of a timestamp") for qw(hour week month);
	run('SELECT at::date AS day, count(*) AS n FROM events GROUP BY 1', 'Europe/Berlin', $mode, "((day + 1)::timestamp AT TIME ZONE 'UTC')", 'a timestamp cast to date');
	run("SELECT date_trunc('day', ts) AS day, date_trunc('hour', ts) AS hour, date_trunc('hour', ts) + interval '1 hour' AS until, count(*) AS n
		FROM events GROUP BY 1, 2 HAVING count(*) < 9", 'Europe/Berlin', $mode, "hour + interval '1 hour'", 'hour beside day');
	run("SELECT stream_agg.tumble_start(ts, '10 minutes') AS window_start, stream_agg.tumble_end(ts, '10 minutes') AS window_end, k, count(*) AS n
		FROM events GROUP BY 1, 2, 3", 'Europe/Berlin', $mode, 'window_end', 'tumble_start and tumble_end');
	run("SELECT stream_agg.tumble_start(ts, '1 week', timezone => 'Europe/Berlin') AS week, count(*) AS n FROM events GROUP BY 1",
		'UTC', $mode, "((week AT TIME ZONE 'Europe/Berlin' + interval '1 week') AT TIME ZONE 'Europe/Berlin')", 'tumble_start of a week in a zone');
	run("SELECT stream_agg.tumble_end(ts, '1 hour') AS until, k, stream_agg.first(v, ts) AS opening, stream_agg.last(v, ts) AS closing,
		stream_agg.last(v::text || '!', at) AS words, stream_agg.first(NULLIF(v, 3), date_trunc('hour', ts)) AS tied, stream_agg.last(ts, v::bigint) AS longest
		FROM events GROUP BY 1, k", 'UTC', $mode, 'until', 'first and last');
	run("SELECT stream_agg.hop(ts, '10 minutes', '1 hour') AS win, stream_agg.first(v::numeric, ts) AS opening, stream_agg.last(v, date_trunc('minute', ts)) AS closing
		FROM events GROUP BY 1", 'UTC', $mode, 'upper(win)', 'first and last of panes');
	run("SELECT stream_agg.hop(ts, '10 minutes', '1 hour') AS win, k, stream_agg.top_n(v, 3) AS greatest, stream_agg.top_n(v || '!', 2) FILTER (WHERE v > 1) AS words
		FROM events GROUP BY 1, k", 'UTC', $mode, 'upper(win)', 'top_n of panes');
}

# sessions are no batch query; kept inputs of the same groups tell what is right
value("SELECT stream_agg.create_stream('visits', \$q\$SELECT stream_agg.session(ts, '10 minutes') AS win,
	stream_agg.first(v, ts) AS opening, (array_agg(v ORDER BY ts, v))[1] AS first_kept,
	stream_agg.last(NULLIF(v, 2), date_trunc('minute', ts)) AS closing,
	(array_agg(NULLIF(v, 2) ORDER BY date_trunc('minute', ts) DESC, NULLIF(v, 2) DESC))[1] AS last_kept
	FROM events GROUP BY 1\$q\$, watermark => '6 hours', trigger => '20 days', max_offsets_per_trigger => 7)");
process($node, 'visits');
is(value('SELECT count(*) > 20, count(*) FILTER (WHERE opening IS DISTINCT FROM first_kept OR closing IS DISTINCT FROM last_kept) FROM visits'),
	't|0', 'first and last of sessions are those of kept inputs');

# What looks at a stream, resets and repairs it, in sessions of another zone.
sub tools
{
	my ($stream, $zone, $window, $of, $from) = @_;
	my $topic = "topic_$stream";
	my $query = "SELECT $window AS since, count(*) AS n, stream_agg.last(v, ts) AS closing FROM $topic GROUP BY 1";
	my @days = map { my $day = $_; map { sprintf '{"ts":"2026-%02d-%02dT%02d:30:00Z","at":"2026-%02d-%02dT%02d:30:00","k":0,"v":%d}',
				(10, $day, $_) x 2, $_ % 10 } 0 .. 23 } 22 .. 28;

	$broker->create_topic($topic, 1);
	create_source($node, $broker, $topic, $topic, 'ts timestamptz, at timestamp, k int, v int');
	$broker->produce($topic, @days);
	value("SET timezone = '$zone'; SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, watermark => '2 hours', trigger => '20 days',
		start => false, options => '{\"late_records\": true}')");
	value("SELECT stream_agg.create_live_view('$stream')");
	use_zone('America/New_York');
	like(value("SELECT string_agg(data::text, ' ') FROM stream_agg.preview('$stream')"), qr/"closing"/, "$of: preview shows the windows that would close");
	value("SELECT stream_agg.start_stream('$stream')");
	process($node, $stream);
	my $whole = "SELECT * FROM ${stream}_query";
	my $equal = sub {
		my $name = shift;
		my $live = value("SELECT stream_agg.process_available('$stream'); SELECT json_agg(l ORDER BY l) FROM ${stream}_live l");
		my $both = value("SELECT json_agg(l ORDER BY l) FROM (SELECT * FROM $stream UNION ALL SELECT * FROM stream_agg.open_windows(NULL::$stream)) l");
		use_zone($zone);
		$live =~ s/^.*\n//;
		my $batch = value("SELECT json_agg(l ORDER BY l) FROM ($whole) l");
		my $same = value("SELECT (SELECT count(*) FROM json_populate_recordset(NULL::$stream, \$j\$$live\$j\$)) > 3 AND NOT EXISTS (
			(SELECT * FROM json_populate_recordset(NULL::$stream, \$j\$$live\$j\$) EXCEPT ALL $whole) UNION ALL
			($whole EXCEPT ALL SELECT * FROM json_populate_recordset(NULL::$stream, \$j\$$live\$j\$)))");
		is($same, 't', "$of: $name, in the live view") or diag("$live\n$batch");
		use_zone('America/New_York');
		return is($both, $live, "$of: $name, with the open windows");
	};
	$equal->('all windows are the batch query\'s');
	my $open = value("SELECT count(*) FROM stream_agg.open_windows(NULL::$stream)");
	ok($open > 0, "$of: some windows are open");

	# late records of a day of 25 hours
	$broker->produce($topic, map { qq({"ts":"2026-10-25T0$_:15:00Z","at":"2026-10-25T0$_:15:00","k":0,"v":9}) } 0 .. 3);
	process($node, $stream);
	is(value("SELECT rows_late FROM pg_stat_stream_agg WHERE stream = '$stream'"), 4, "$of: the records of closed windows are late");
	is(value("SELECT bool_and(repaired) FROM stream_agg.repair_late('$stream')"), 't', "$of: repair_late makes their windows anew");
	$equal->('after the repair all windows are right');

	# a window with a wrong row, and one that is missing, computed anew
	value("UPDATE $stream SET n = -1 WHERE since = (SELECT max(since) FROM $stream)");
	value("SELECT stream_agg.reset_stream('$stream', results => true, results_from => '$from')");
	process($node, $stream);
	$equal->('after a reset from one window on all are right');
	is(value("SELECT count(*) FILTER (WHERE n < 0) FROM $stream"), 0, "$of: rows from there on were replaced");
	my (undef, undef, $refusal) = $node->psql('postgres', "SELECT stream_agg.reset_stream('$stream', '{\"0\": 120}', results => true)");
	like($refusal, qr/would lose open windows that start before 2026-10-(29|30)/, "$of: a reset from an offset on knows the windows with records before it");

	# what a dry run lists, and rows that are too old
	is(value("SELECT (SELECT sum(sink_rows) FROM stream_agg.reset_stream('$stream', results => true, force => true, dry_run => true)) = count(*) FROM $stream"),
		't', "$of: a dry run lists all rows");
	value("SELECT stream_agg.alter_stream('$stream', '{\"retention\": \"2 days\"}')");
	for my $hour (0 .. 1)
	{
		$broker->produce($topic, qq({"ts":"2026-11-05T0$hour:00:00Z","at":"2026-11-05T0$hour:00:00","k":0,"v":1}));
		process($node, $stream);
	}
	is(value("SELECT count(*) FROM $stream WHERE since < '2026-11-02'"), 0, "$of: rows older than the retention are gone");
	cmp_ok(value("SELECT rows_expired FROM pg_stat_stream_agg WHERE stream = '$stream'"), '>', 3, "$of: and counted");
	return;
}
tools('by_day', 'Europe/Berlin', "date_trunc('day', ts)", 'a day', '2026-10-26 00:00+01');
tools('by_hour', 'Australia/Lord_Howe', "date_trunc('hour', ts)", 'an hour', '2026-10-26 00:00+11');
tools('by_date', 'Europe/Berlin', 'ts::date', 'a date', '2026-10-26 00:00+01');
tools('by_local_date', 'Europe/Berlin', 'at::date', 'the date of a timestamp', '2026-10-26 00:00+01');
tools('by_start', 'Europe/Berlin', "stream_agg.tumble_start(ts, '1 day', timezone => 'Europe/Berlin')", 'tumble_start', '2026-10-26 00:00+01');

done_testing();
