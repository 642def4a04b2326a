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
	run('SELECT ts::date AS day, count(*) AS n FROM events GROUP BY 1', $zone, $_, 'day + 1', 'a cast to date') if $zone ne 'Asia/Kathmandu';
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

done_testing();
