# The table of a stream equals the batch query over the same records, whatever
# the size of the micro-batches and however often the stream is restarted.
# Records come in the order of their times here, so that none is late.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker('events' => 1);
my $node = new_node('oracle');

$node->safe_psql('postgres', q{
	CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
	CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE FUNCTION pick_longer(text, text) RETURNS text LANGUAGE sql IMMUTABLE
		AS $$ SELECT CASE WHEN length($2) > length($1) THEN $2 ELSE $1 END $$;
	CREATE AGGREGATE longest(text) (SFUNC = pick_longer, STYPE = text, INITCOND = '');
	CREATE FUNCTION add_pair(point, float8, float8) RETURNS point LANGUAGE sql IMMUTABLE
		AS $$ SELECT point($1[0] + $2, $1[1] + $3) $$;
	CREATE FUNCTION pair_text(point) RETURNS text LANGUAGE sql IMMUTABLE
		AS $$ SELECT $1[0] || '/' || $1[1] $$;
	CREATE AGGREGATE pair_sum(float8, float8)
		(SFUNC = add_pair, STYPE = point, INITCOND = '(0,0)', FINALFUNC = pair_text);
});
create_source($node, $broker, 'events', 'events',
	'ts timestamptz, id int, name text COLLATE nocase, price numeric, mood mood, ok bool, note text');

# records: keys with NULLs, equal values written differently, long texts
my $rng = seeded_random();
my @moods = ('sad', 'ok', 'happy');
my @names = ('anna', 'ANNA', 'Bob', 'bob', undef);
my @prices = ('1.0', '1.00', '2', '2.50', '-3.125', undef, '12345678901234567890.0123456789');
my @records;
my $time = 0;
for my $n (0 .. 1199)
{
	$time += $rng->(4000);
	my %record = (
		ts => sprintf('2026-01-01T%02d:%02d:%02d.%03dZ', $time / 3600000,
			($time / 60000) % 60, ($time / 1000) % 60, $time % 1000),
		id => $rng->(10) == 0 ? undef : $rng->(5),
		name => $names[ $rng->(scalar @names) ],
		price => $prices[ $rng->(scalar @prices) ],
		mood => $rng->(8) == 0 ? undef : $moods[ $rng->(3) ],
		ok => $rng->(7) == 0 ? undef : $rng->(2) ? 'true' : 'false',
		note => 'x' x ($rng->(20) == 0 ? 3000 + $rng->(100) : $rng->(20)));
	push @records, json_record(\%record, numbers => [qw(id price)], bare => ['ok']);
}

my %query = (
	all_aggregates => q{
		SELECT stream_agg.tumble(ts, '5 minutes') AS win, id,
		       count(*) AS n, count(price) AS priced, sum(id) AS ids, sum(price) AS total,
		       avg(id) AS avg_id, avg(price) AS avg_price, min(name) AS least, max(note) AS greatest,
		       stddev(price) AS deviation, bool_and(ok) AS all_ok, bool_or(ok) AS any_ok,
		       longest(note) AS longest, pair_sum(id, length(note)) AS pairs,
		       count(*) FILTER (WHERE ok) AS n_ok,
		       sum(10 / id) FILTER (WHERE id > 0) AS guarded,
		       min(mood) AS worst, max(price) - min(price) AS spread
		  FROM events GROUP BY 1, id },
	keys => q{
		SELECT stream_agg.tumble(ts, '10 minutes') AS win, name, price, mood, count(*) AS n
		  FROM events WHERE id IS DISTINCT FROM 3 GROUP BY 1, 2, 3, 4 },
	having => q{
		SELECT stream_agg.tumble(ts, '15 minutes') AS win, mood, sum(price) AS total, count(*) AS n
		  FROM events WHERE price < 100 GROUP BY 1, 2 HAVING sum(price) > 1 },
	date_bin => q{
		SELECT date_bin('7 minutes', ts, '2000-01-01 00:00:30+00') AS bin, id % 2 AS odd, count(*) * 2 + 1 AS n
		  FROM events GROUP BY 1, 2 },
	bounds => q{
		SELECT lower(stream_agg.tumble(ts, '1 hour', '2000-01-01 00:17+00')) AS window_start,
		       COALESCE(name, '-') AS who, max(ts) AS latest
		  FROM (SELECT * FROM events WHERE ok) e
		 GROUP BY stream_agg.tumble(ts, '1 hour', '2000-01-01 00:17+00'), 2 });

my %window_end = (
	all_aggregates => 'upper(win)',
	keys => 'upper(win)',
	having => 'upper(win)',
	date_bin => q{bin + interval '7 minutes'},
	bounds => q{window_start + interval '1 hour'});

my @sizes = (1, 7, 1000, undef);

# min(name) and max(note) are any of the equal values: compare what is equal
sub compare
{
	my ($stream, $query, $where, $name) = @_;
	is_equal_tables($node, "SELECT * FROM $stream",
		"SELECT * FROM ($query) q WHERE $where", $name);
}

sub run_query
{
	my ($kind, $mode, $size, $restarts) = @_;
	my $query = $query{$kind};
	my $stream = join('_', $kind, $mode, $size // 'all');
	my $bound = defined $size ? ", max_offsets_per_trigger => $size" : '';

	$node->safe_psql('postgres',
		"SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => '$mode',
			watermark => '2 minutes', trigger => '20 days', start => false $bound)");
	$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$stream')");
	process($node, $stream);
	my $watermark = watermark($node, $stream);
	my $where = $mode eq 'append' ? "$window_end{$kind} <= '$watermark'" : 'true';
	compare($stream, $query, $where, "$stream equals the batch query");
	counts_add_up($node, $stream, scalar @records, "$stream counts every record once");
	if (defined $size)
	{
		is( $node->safe_psql('postgres',
				"SELECT max(delivered) FROM stream_agg.commits WHERE stream = '$stream'"),
			$size < @records ? $size : scalar @records,
			"$stream keeps to max_offsets_per_trigger");
	}
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream', drop_sink => true)");
}

$broker->produce('events', @records);
for my $size (@sizes)
{
	for my $kind (sort keys %query)
	{
		run_query($kind, $_, $size) for ('update', 'append');
	}
}

# a restart after every batch: what comes back is what the checkpoint holds
for my $mode ('update', 'append')
{
	my $stream = "restarted_$mode";
	my $topic = "restarts_$mode";
	my $query = $query{all_aggregates} =~ s/FROM events/FROM $topic/r;
	my $batch = 100;

	$broker->create_topic($topic, 1);
	create_source($node, $broker, $topic, $topic,
		'ts timestamptz, id int, name text COLLATE nocase, price numeric, mood mood, ok bool, note text');
	$node->safe_psql('postgres',
		"SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => '$mode',
			watermark => '2 minutes', trigger => '20 days')");
	for (my $i = 0; $i < @records; $i += $batch)
	{
		my $last = $i + $batch > @records ? $#records : $i + $batch - 1;
		$broker->produce($topic, @records[ $i .. $last ]);
		process($node, $stream);
		if ($i % 300 == 0)
		{
			$node->restart;
		}
		else
		{
			$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('$stream')");
			$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$stream')");
		}
	}
	my $watermark = watermark($node, $stream);
	compare($stream, $query, $mode eq 'append' ? "upper(win) <= '$watermark'" : 'true',
		"$stream equals the batch query after a restart for every batch");
	counts_add_up($node, $stream, scalar @records, "$stream counts every record once");
}

# HAVING that turns true, false and true again: the row comes and goes
$broker->create_topic('swings', 1);
create_source($node, $broker, 'swings', 'swings', 'ts timestamptz, k text, v int');
$node->safe_psql('postgres', q{
	SELECT stream_agg.create_stream('swinging',
		'SELECT k, sum(v) AS total FROM swings GROUP BY k HAVING sum(v) > 10',
		output_mode => 'update', trigger => '20 days')});
my @swings = ([ 'a', 11 ], [ 'a', -5 ], [ 'a', 20 ], [ undef, 30 ], [ undef, -30 ], [ 'b', 1 ]);
for my $swing (@swings)
{
	$broker->produce('swings',
		json_record({ ts => '2026-01-01T00:00:00Z', k => $swing->[0], v => $swing->[1] }, numbers => ['v']));
	process($node, 'swinging');
	is_equal_tables($node, 'SELECT * FROM swinging',
		'SELECT k, sum(v) AS total FROM swings GROUP BY k HAVING sum(v) > 10',
		'HAVING decides after ' . ($swing->[0] // 'NULL') . " $swing->[1]");
}
is($node->safe_psql('postgres', q{SELECT rows_removed FROM pg_stat_stream_agg WHERE stream = 'swinging'}),
	2, 'rows that HAVING removed are counted');

done_testing();
