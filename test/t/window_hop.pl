# Sliding windows: the table of a stream equals the batch query over the same
# records, whatever the size of the micro-batches, however often the stream is
# restarted, with groups kept by pane and by window.  Records come in the order
# of their times, so that none is late; t/030 has those that are.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker('events' => 1);
my $node = new_node('hop');
my $columns = 'ts timestamptz, id int, price numeric, big bigint, name text, f float8';

$node->safe_psql('postgres', q{
	CREATE FUNCTION pick_longer(text, text) RETURNS text LANGUAGE sql IMMUTABLE
		AS $$ SELECT CASE WHEN length($2) > length($1) THEN $2 ELSE $1 END $$;
	CREATE AGGREGATE longest(text) (SFUNC = pick_longer, STYPE = text, INITCOND = '');
	CREATE AGGREGATE longest_combined(text) (SFUNC = pick_longer, STYPE = text, INITCOND = '', COMBINEFUNC = pick_longer);
});
create_source($node, $broker, 'events', 'events', $columns);

my $rng = seeded_random();
my @prices = ('1.0', '1.00', '2', '2.50', '-3.125', undef, '12345678901234567890.0123456789',
	'99999999999999999999999999999999999999', '-99999999999999999999999999999999999999', '1e-40', 'NaN');
my @names = ('anna', 'Bob', 'longer', 'the longest', undef);
my @records;
my $time = 0;
for my $n (0 .. 299)
{
	# with gaps, that a window does not reach over
	$time += $rng->(20) == 0 ? $rng->(3_000_000) : $rng->(30_000);
	my $price = $prices[ $rng->(100) == 0 ? $#prices : $rng->($#prices) ];
	my %record = (
		ts => sprintf('2026-01-01T%02d:%02d:%02d.%03dZ', $time / 3600000,
			($time / 60000) % 60, ($time / 1000) % 60, $time % 1000),
		id => $rng->(10) == 0 ? undef : $rng->(3),
		price => $price,
		big => $rng->(5) == 0 ? undef : $rng->(2) ? '9223372036854775807' : $rng->(1000),
		name => $names[ $rng->(scalar @names) ],
		f => $rng->(9) == 0 ? undef : $rng->(64) / 8);
	push @records, json_record(\%record, numbers => [qw(id price big f)]) =~ s/:NaN/:"NaN"/r;
}

# every inlined kind, states of each storage, strict and not
my $aggregates = q{count(*) AS n, count(price) AS priced, sum(id) AS ids, sum(id::smallint) AS small,
	sum(price) AS total, avg(price) AS mean, sum(big) AS bigs, avg(big) AS mean_big, avg(id) AS mean_id,
	avg(id::smallint) AS mean_small, min(id) AS min_id, max(big) AS max_big, min(ts) AS first, max(ts) AS last,
	min(price) AS least, max(price) AS most, sum(f) AS fs, sum(f::float4) AS fs4, min(f) AS min_f, max(f::float4) AS max_f,
	min(name) AS min_name, max(name) AS max_name, bool_and(id > 0) AS all_positive, bit_or(id) AS bits,
	var_pop(id) AS variance, sum(ts - '2026-01-01 00:00Z') AS sum_interval, count(*) FILTER (WHERE id = 1) AS ones};

my %query = (
	panes => "SELECT stream_agg.hop(ts, '2 minutes', '10 minutes') AS win, id, $aggregates,
		longest_combined(name) IS NULL AS combined FROM events GROUP BY 1, id",
	rest => "SELECT stream_agg.hop(ts, '3 minutes', '10 minutes', '2026-01-01 00:00:17Z') AS win, price, $aggregates
		FROM events WHERE id IS NOT NULL GROUP BY 1, price HAVING count(*) > 1",
	windows => "SELECT stream_agg.hop(ts, '4 minutes', '10 minutes') AS win, name, $aggregates, length(longest(name)) AS longest,
		count(DISTINCT id) AS ids_seen, array_agg(id ORDER BY id) AS id_list, percentile_cont(0.5) WITHIN GROUP (ORDER BY f) AS median
		FROM events GROUP BY 1, name",
	gaps => "SELECT lower(stream_agg.hop(ts, '10 minutes', '4 minutes')) AS start, id, $aggregates FROM events GROUP BY 1, id",
	lateral => "SELECT win, id, count(*) AS n FROM events, stream_agg.hop(ts, '5 minutes', '20 minutes') AS win
		WHERE price > 1 GROUP BY win, id HAVING upper(win) > '2026-01-01 00:30Z'",
	many => "SELECT upper(stream_agg.hop(ts, '10 seconds', '5 minutes')) AS until, count(*) AS n, sum(price) AS total FROM events GROUP BY 1");
my %end = (gaps => "start + interval '4 minutes'", many => 'until');
my $with_watermark = "watermark => '2 minutes', trigger => '20 days'";

my @runs = map { my $kind = $_; map { [ $kind, $_, 7 ] } qw(append update) } sort keys %query;
push @runs, map { my $kind = $_; map { [ $kind, $_, undef ] } qw(append update complete) } qw(panes rest windows gaps);
push @runs, [ 'panes', 'append', 1 ], [ 'rest', 'update', 1 ], [ 'windows', 'append', 1 ], [ 'panes', 'complete', 7 ],
  [ 'lateral', 'append', 1000 ], [ 'many', 'complete', 1000 ];

# what the table has to hold, given the watermark
sub expected
{
	my ($kind, $mode, $stream, $query) = @_;
	return $query if $mode ne 'append';
	my $end = $end{$kind} // 'upper(win)';
	return "SELECT * FROM ($query) q WHERE $end <= '" . watermark($node, $stream) . "'";
}

$broker->produce('events', @records);
for my $run (@runs)
{
	my ($kind, $mode, $size) = @$run;
	my $stream = join('_', $kind, $mode, $size // 'all');
	my $bound = defined $size ? ", max_offsets_per_trigger => $size" : '';

	$node->safe_psql('postgres',
		"SELECT stream_agg.create_stream('$stream', \$q\$$query{$kind}\$q\$, output_mode => '$mode', $with_watermark $bound)");
	process($node, $stream);
	is_equal_tables($node, "SELECT * FROM $stream", expected($kind, $mode, $stream, $query{$kind}),
		"$stream equals the batch query");
	counts_add_up($node, $stream, scalar @records, "$stream counts every record once");
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream', drop_sink => true)");
}

# a record between two windows counts as filtered, and moves event time
$broker->create_topic('between', 1);
create_source($node, $broker, 'between', 'between', $columns);
$node->safe_psql('postgres', "SELECT stream_agg.create_stream('between_windows',
	\$\$ SELECT stream_agg.hop(ts, '10 minutes', '4 minutes') AS win, count(*) AS n FROM between GROUP BY 1 \$\$,
	output_mode => 'append', watermark => '0', trigger => '20 days')");
$broker->produce('between', map { json_record({ ts => "2026-01-01T00:$_:00Z" }) } qw(01 05 03));
process($node, 'between_windows');
is($node->safe_psql('postgres', q{SELECT aggregated, filtered, late, late_windows, watermark = '2026-01-01 00:05Z' FROM stream_agg.commits WHERE stream = 'between_windows'}),
	'2|1|0|0|t', 'a record between two windows is filtered');
is($node->safe_psql('postgres', 'SELECT lower(win) AT TIME ZONE $$UTC$$, n FROM between_windows'),
	'2026-01-01 00:00:00|2', '... and closes the window before it');

# late for some windows: counted apart, and there in the others
$broker->produce('between', json_record({ ts => '2026-01-01T00:03:59Z' }));
$node->safe_psql('postgres', "SELECT stream_agg.create_stream('some_late',
	\$\$ SELECT stream_agg.hop(ts, '2 minutes', '4 minutes') AS win, count(*) AS n FROM between GROUP BY 1 \$\$,
	output_mode => 'append', watermark => '0', trigger => '20 days', max_offsets_per_trigger => 3)");
process($node, 'some_late');
is($node->safe_psql('postgres', q{SELECT batch, aggregated, late, late_windows FROM stream_agg.commits WHERE stream = 'some_late' ORDER BY 1}),
	"0|3|0|0\n1|1|0|1", 'a record that is late for one of two windows is not late');
$broker->produce('between', json_record({ ts => '2026-01-01T00:30:00Z' }), json_record({ ts => '2026-01-01T00:01:00Z' }));
process($node, 'some_late');
is($node->safe_psql('postgres', q{SELECT lower(win) AT TIME ZONE 'UTC', n FROM some_late ORDER BY 1}),
	"2025-12-31 23:58:00|1\n2026-01-01 00:00:00|2\n2026-01-01 00:02:00|3\n2026-01-01 00:04:00|1", '... and counts in the other');
is($node->safe_psql('postgres', q{SELECT rows_late, late_windows FROM pg_stat_stream_agg WHERE stream = 'some_late'}),
	'1|3', 'late records and windows they were late for are counted apart');

# a restart after every batch, and a crash of the server: panes come back from the checkpoint
for my $mode (qw(append update complete))
{
	my $kind = $mode eq 'complete' ? 'windows' : 'rest';
	my $topic = "restarts_$mode";
	my $query = $query{$kind} =~ s/FROM events/FROM $topic/r;
	my $stream = "restarted_$mode";

	$broker->create_topic($topic, 1);
	create_source($node, $broker, $topic, $topic, $columns);
	$node->safe_psql('postgres',
		"SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => '$mode', $with_watermark)");
	for (my $i = 0; $i < @records; $i += 60)
	{
		$broker->produce($topic, @records[ $i .. $i + 59 ]);
		process($node, $stream);
		if ($i == 120)
		{
			$node->stop('immediate');
			$node->start;
		}
		else
		{
			$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('$stream')");
			$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$stream')");
		}
	}
	is_equal_tables($node, "SELECT * FROM $stream", expected($kind, $mode, $stream, $query),
		"$mode equals the batch query after a restart for every batch");
}

# panes go when the last window that needs them is closed: what is left are the
# panes of windows that are open
my $open = $node->safe_psql('postgres', q{
	SELECT count(DISTINCT (id, date_bin('2 minutes', ts, '1970-01-01 00:00Z'))) FROM events
	 WHERE date_bin('2 minutes', ts, '1970-01-01 00:00Z') + interval '10 minutes' >
	       (SELECT max(ts) - interval '2 minutes' FROM events)});
$node->safe_psql('postgres',
	"SELECT stream_agg.create_stream('freed', \$q\$$query{panes}\$q\$, output_mode => 'append', $with_watermark, max_offsets_per_trigger => 50)");
process($node, 'freed');
ok($node->poll_query_until('postgres', "SELECT state_rows = $open FROM pg_stat_stream_agg WHERE stream = 'freed'"),
	'panes are freed with the last window that needs them');
is_equal_tables($node, 'SELECT * FROM freed UNION ALL SELECT * FROM stream_agg.open_windows(NULL::freed)', $query{panes},
	'open windows are made of panes, too: with those in the sink they are the batch query');
like($node->safe_psql('postgres', q{SELECT * FROM stream_agg.explain_stream('freed')}),
	qr/Window: sliding by .+, .+; state by pane/, 'explain_stream tells how state is kept');

done_testing();
