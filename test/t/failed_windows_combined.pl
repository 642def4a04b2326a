# Groups whose aggregates fail when their window closes, not in a final function: while
# kept inputs are given to the transition function, or while the panes of a sliding
# window are combined.  With on_error dead_letter such groups are in
# stream_agg.failed_windows, and the sink equals the batch query over the others.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $rng = seeded_random();
my $broker = start_broker(events => 1, wide => 1, panes => 1);
my $node = new_node('failed_combined', 'work_mem = 64kB', 'timezone = UTC', 'max_worker_processes = 40', 'stream_agg.max_attempts = 3');
sub value { return $node->safe_psql('postgres', $_[0]); }

# groups of a minute and a key, of four keys and six minutes; the last record closes all
my ($keys, $minutes) = (4, 6);
$broker->produce('events', (map { sprintf '{"ts":"2026-01-01T00:%02d:%02dZ","k":%d,"v":%d}', int($_ / 40), $_ % 40, $_ % $keys, 1 + $rng->(9) } 0 .. 40 * $minutes - 1),
	'{"ts":"2026-01-01T02:00:00Z","k":0,"v":1}');
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');

sub create
{
	my ($stream, $query, $offsets) = @_;
	$offsets //= 'NULL';
	value("SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => 'append', trigger => '20 days', watermark => '1 minute', max_offsets_per_trigger => $offsets, options => '{\"on_error\": \"dead_letter\"}')");
	return;
}

# The sink has the rows of "good", a query; failed_windows the windows and keys of
# "bad", with this reason.
sub check
{
	my ($stream, $good, $bad, $error) = @_;
	process($node, $stream);
	is_equal_tables($node, "SELECT * FROM $stream", $good, "$stream: the sink has all other groups");
	is_equal_tables($node, "SELECT window_start, window_end, keys[1], error FROM stream_agg.failed_windows WHERE stream = '$stream'",
		"SELECT lower(win), upper(win), k::text, '$error' FROM ($bad) b", "$stream: those that fail are failed windows, with the reason");
	cmp_ok(value("SELECT count(*) FROM stream_agg.failed_windows WHERE stream = '$stream'"), '>', 0, "$stream: there are some");
	return;
}

# --- kept inputs; %s is whether a record makes its group fail
my %window = (minute => q{stream_agg.tumble(ts, '1 minute')}, hops => q{stream_agg.hop(ts, '1 minute', '2 minutes')});
my %kept = (
	arrays => [ q{array_length(array_agg(CASE WHEN %s THEN '{}'::int[] ELSE ARRAY[v] END), 1)}, 'cannot accumulate empty arrays' ],
	objects => [ q{jsonb_object_agg(CASE WHEN %s THEN NULL ELSE v::text END, v)}, 'field name must not be null' ],
	distinct_sum => [ q{sum(DISTINCT CASE WHEN %s THEN v * 1e306 + 1.5e308 ELSE v END::float8)}, 'value out of range: overflow' ],
	fraction => [ q{percentile_cont(CASE WHEN %s THEN 7 ELSE 0.5 END::float8) WITHIN GROUP (ORDER BY v)}, 'percentile value 7 is not between 0 and 1' ]);
my %failing = (
	(map { ("key_$_" => [ 'minute', 'arrays', "k = $_" ]) } 0 .. $keys - 1),
	all_keys => [ 'minute', 'arrays', 'k >= 0' ],
	only_key => [ 'minute', 'arrays', 'k = 2', 'k = 2' ],
	two_windows => [ 'minute', 'arrays', q{k <> 3 AND ts >= '2026-01-01 00:01Z' AND ts < '2026-01-01 00:03Z'} ],
	hops => [ 'hops', 'arrays', q{k = 1 AND ts < '2026-01-01 00:03Z'} ],
	map { ($_ => [ 'minute', $_, 'k = 1' ]) } 'objects', 'distinct_sum', 'fraction');

sub kept_query
{
	my ($window, $kind, $bad, $where, $having) = @_;
	return "SELECT $window{$window} AS win, k, " . sprintf($kept{$kind}[0], $bad) . ' AS result, count(*) AS n, array_agg(v ORDER BY v) AS ordered FROM events '
		. "WHERE $where GROUP BY 1, 2 $having";
}

for my $stream (sort keys %failing)
{
	my ($window, $kind, $bad, $where) = @{ $failing{$stream} };
	create($stream, kept_query($window, $kind, $bad, ($where // 'true') . q{ OR ts > '2026-01-01 01:00Z'}, ''));
}
for my $stream (sort keys %failing)
{
	my ($window, $kind, $bad, $where) = @{ $failing{$stream} };
	$where = ($where // 'true') . q{ AND ts < '2026-01-01 01:00Z'};
	my @query = ($window, $kind, 'false', $where);
	check($stream, kept_query(@query, "HAVING NOT bool_or($bad)"), kept_query(@query, "HAVING bool_or($bad)"), $kept{$kind}[1]);
}

# --- inputs that an aggregate was sorting in a temporary file when it failed
$broker->produce('wide', (map { sprintf '{"ts":"2026-01-01T00:00:00Z","k":%d,"v":%d}', $_ % 8 == 0 ? $_ / 8 % 3 : 1, $_ } 1 .. 6000), '{"ts":"2026-01-01T02:00:00Z","k":0,"v":1}');
create_source($node, $broker, 'wide', 'wide', 'ts timestamptz, k int, v int');
my $spilled = "SELECT $window{minute} AS win, k, percentile_cont(CASE k WHEN 1 THEN 7 ELSE 0.5 END) WITHIN GROUP (ORDER BY v) AS median FROM wide";
create('spilled', "$spilled GROUP BY 1, 2");
check('spilled', "$spilled WHERE k <> 1 AND ts < '2026-01-01 01:00Z' GROUP BY 1, 2", "SELECT $window{minute} AS win, k FROM wide WHERE k = 1 GROUP BY 1, 2", $kept{fraction}[1]);

# --- panes; each has one record of a key, and those of key 1 fail only together
$broker->produce('panes', (map { my $minute = $_; map { sprintf '{"ts":"2026-01-01T00:%02d:%02dZ","k":%d,"f":%s}', $minute, $rng->(60), $_, $_ == 1 && $minute =~ /^(5|7|8|15)$/ ? '1e308' : 1 + $rng->(9) } 0 .. 2 } 0 .. 19),
	'{"ts":"2026-01-01T02:00:00Z","k":0,"f":1}');
create_source($node, $broker, 'panes', 'panes', 'ts timestamptz, k int, f float8');
value(q{
	CREATE FUNCTION add_small(a float8, b float8) RETURNS float8 IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
		IF a > 1e300 AND b > 1e300 THEN RAISE 'too much'; END IF;
		RETURN a + b;
	END $$;
	CREATE AGGREGATE sum_of_small(float8) (SFUNC = float8pl, STYPE = float8, COMBINEFUNC = add_small, INITCOND = '0', PARALLEL = SAFE)});
my $hops = q{stream_agg.hop(ts, '1 minute', '5 minutes')};
# the aggregate, how many records with 1e308 it takes, and by how many records a batch grows
my %combined = (sums => [ 'sum(f)', 1, undef, 'value out of range: overflow' ], sums_by_batch => [ 'sum(f)', 1, 4, 'value out of range: overflow' ],
	averages => [ 'avg(f)', 0, undef, 'value out of range: overflow' ], by_function => [ 'sum_of_small(f)', 1, undef, 'too much' ],
	by_function_by_batch => [ 'sum_of_small(f)', 1, 11, 'too much' ]);
create($_, "SELECT $hops AS win, k, $combined{$_}[0] AS result, count(*) AS n FROM panes GROUP BY 1, 2", $combined{$_}[2]) for sort keys %combined;
for my $stream (sort keys %combined)
{
	my ($aggregate, $most, undef, $error) = @{ $combined{$stream} };
	my $rows = "SELECT $hops AS win, k, f FROM panes WHERE ts < '2026-01-01 01:00Z'";
	my $groups = "SELECT win, k FROM ($rows) r GROUP BY 1, 2 HAVING count(*) FILTER (WHERE f > 1e300)";
	check($stream, "SELECT win, k, $aggregate, count(*) FROM ($groups <= $most) g JOIN ($rows) r USING (win, k) GROUP BY 1, 2", "$groups > $most", $error);
}
unlike(slurp_file($node->logfile), qr/terminated by signal/, 'no worker has crashed');

done_testing();
