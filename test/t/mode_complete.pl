# Output mode complete: after every micro-batch the sink equals the batch query
# over all records so far, the late ones too; rows that are as they should be
# are not touched, and a reader never sees fewer rows than there should be.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1, steps => 1, tampered => 1, polled => 2, many => 4, typed => 1);
my $node = new_node('complete', 'max_worker_processes = 20', 'stream_agg.max_attempts = 3');
my $columns = 'ts timestamptz, k text, id int, price numeric, v int';
my $rng = seeded_random();

sub one_of { return $_[ $rng->(scalar @_) ]; }

sub timestamp
{
	my $second = shift;
	return sprintf('2026-01-01T%02d:%02d:%02dZ', $second / 3600, $second / 60 % 60, $second % 60);
}

# Records all over four hours: with a watermark of a minute most are late.
sub random_record
{
	my %record = (
		ts => $rng->(20) == 0 ? undef : timestamp($rng->(4 * 3600)),
		k => one_of(undef, 'a', 'A', 'b', 'c', 'a "quoted" \\ key'),
		id => one_of(undef, 1, 2, 3),
		price => one_of(undef, '1', '1.0', '1.00', '-2.5', '17'),
		v => $rng->(21) - 10);
	return json_record(\%record, numbers => [qw(id price v)]);
}

$node->safe_psql('postgres', q{
	CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE TYPE pair AS (n bigint, k text);
	CREATE TABLE names (id int, name text);
	INSERT INTO names VALUES (1, 'one'), (2, 'two')});

my %query = (
	windowed => q{
		SELECT stream_agg.tumble(ts, '10 minutes') AS win, k, count(*) AS n, sum(price) AS total, max(v) AS greatest
		  FROM %s GROUP BY 1, k },
	bounds => q{
		SELECT lower(stream_agg.tumble(ts, '1 hour')) AS window_start, id, k, sum(v) AS v, count(price) AS priced
		  FROM %s GROUP BY stream_agg.tumble(ts, '1 hour'), id, k },
	keys => 'SELECT k, id, price, count(*) AS n FROM %s GROUP BY 1, 2, 3',
	nocase => 'SELECT k COLLATE nocase AS k, count(*) AS n FROM %s GROUP BY k COLLATE nocase',
	only_keys => 'SELECT k, price FROM %s GROUP BY 1, 2',
	having => 'SELECT k, id, sum(v) AS v FROM %s GROUP BY 1, 2 HAVING sum(v) > 0',
	no_equality => q{
		SELECT id, json_build_object('n', count(*), 'v', sum(v)) AS j, point(count(*), sum(v)) AS p,
		       xmlelement(name n, count(*)) AS x
		  FROM %s GROUP BY 1 },
	wide => q{
		SELECT id, ROW(count(*), max(k))::pair AS p, ARRAY[sum(v), NULL] AS a, avg(v)::float8 AS f,
		       (SELECT string_agg(md5((g * x.n)::text), '') FROM (SELECT count(e.v) AS n) x, generate_series(1, 200) g) AS long
		  FROM %s e GROUP BY 1 },
	other_table => q{
		SELECT id, (SELECT max(name) FROM names WHERE names.id = e.id) AS name, count(*) AS n
		  FROM %s e GROUP BY 1 HAVING count(*) > (SELECT count(*) FROM names) });
my %windowed = (windowed => 1, bounds => 1);

# json and xml have no equality: everything is compared as text
sub compare
{
	my ($stream, $name) = @_;
	my $where = $node->safe_psql('postgres', qq{
		SELECT COALESCE((SELECT quote_ident(attname) || ' IS NOT NULL' FROM pg_attribute
		                  WHERE attrelid = '$stream'::regclass AND attname IN ('win', 'window_start')), 'true')});
	return is_equal_tables($node, "SELECT s::text FROM $stream s",
		"SELECT q::text FROM ${stream}_query q WHERE $where", $name);
}

sub create_stream
{
	my ($stream, $query, $more) = @_;
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$,
		output_mode => 'complete', trigger => '20 days' $more)");
	return;
}

# Every query, by the size of micro-batches.  Topics have one partition where a
# key may be written in several ways, so that the batch query meets the same first.
create_source($node, $broker, 'events', 'events', $columns);
my @records = map { random_record() } 1 .. 120;
$broker->produce('events', @records);
for my $size (1, 7, 1000, undef)
{
	for my $kind (sort keys %query)
	{
		my $stream = join('_', $kind, $size // 'all');
		my $more = $windowed{$kind} ? ", watermark => '1 minute'" : '';
		$more .= ", max_offsets_per_trigger => $size" if defined $size;
		create_stream($stream, sprintf($query{$kind}, 'events'), $more);
		process($node, $stream);
		compare($stream, "$stream equals the batch query");
		counts_add_up($node, $stream, scalar @records, "$stream counts every record once");
		is($node->safe_psql('postgres',
				"SELECT rows_late, watermark IS NOT NULL FROM pg_stat_stream_agg WHERE stream = '$stream'"),
			$windowed{$kind} ? '0|t' : '0|f', "$stream calls no record late");
		$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream', drop_sink => true)");
	}
}

# after every batch, with a restart after each, while the other table changes
create_source($node, $broker, 'steps', 'steps', $columns);
for my $kind (sort keys %query)
{
	create_stream("step_$kind", sprintf($query{$kind}, 'steps'),
		$windowed{$kind} ? ", watermark => '1 minute'" : '');
}
for my $step (1 .. 8)
{
	$node->safe_psql('postgres', "UPDATE names SET name = name || $step WHERE id = " . (1 + $step % 2));
	$node->safe_psql('postgres', "INSERT INTO names VALUES (3, 'three')") if $step % 4 == 0;
	# the last: a stream that has just started triggers as soon as there are records
	$broker->produce('steps',
		json_record({ ts => timestamp(600), k => 'swing', id => 1, price => 1, v => $step % 2 ? 5 : -5 }, numbers => [qw(id price v)]),
		map { random_record() } 1 .. one_of(0, 1, 20));
	for my $kind (sort keys %query)
	{
		process($node, "step_$kind");
		compare("step_$kind", "$kind equals the batch query after step $step");
		next if $step % 3 == 0;
		$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('step_$kind');
			SELECT stream_agg.start_stream('step_$kind')");
	}
	$node->restart if $step % 3 == 0;
}
is($node->safe_psql('postgres', q{
		SELECT stream, aggregated, rows_out, rows_removed FROM stream_agg.commits
		 WHERE stream LIKE 'step%' AND stream <> 'step_other_table' AND rows_out + rows_removed > aggregated}),
	'', 'no more rows were written than groups had records');
cmp_ok($node->safe_psql('postgres', q{SELECT rows_removed FROM pg_stat_stream_agg WHERE stream = 'step_having'}),
	'>', 0, 'rows left the sink by HAVING');
$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('step_$_', drop_sink => true)") for keys %query;

# rows changed by hand are put right, the others are not touched
create_source($node, $broker, 'tampered', 'tampered', $columns);
$node->safe_psql('postgres', q{
	CREATE TABLE other_sink (note text DEFAULT 'own', total numeric(10,2), n smallint, k varchar, price numeric,
		UNIQUE NULLS NOT DISTINCT (k, price)) });
for my $sink ('tampered_sink', 'other_sink', 'parted')
{
	$node->safe_psql('postgres', q{
		CREATE TABLE parted (k text, price numeric, n bigint, total numeric, UNIQUE NULLS NOT DISTINCT (k, price))
			PARTITION BY LIST (k);
		CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
		CREATE TABLE parted_null PARTITION OF parted FOR VALUES IN (NULL);
		CREATE TABLE parted_rest PARTITION OF parted DEFAULT }) if $sink eq 'parted';
	create_stream("to_$sink", 'SELECT k, price, count(*) AS n, avg(v) * 1.0001 AS total FROM tampered GROUP BY 1, 2',
		", sink => '$sink'");
	$broker->produce('tampered', map { random_record() } 1 .. 100);
	process($node, "to_$sink");
	my $compare = sub {
		# values as the sink's columns take them
		my $total = $sink eq 'other_sink' ? 'total::numeric(10,2)' : 'total';
		is_equal_tables($node, "SELECT (k, price, n, total)::text FROM $sink",
			"SELECT (k, price, n, $total)::text FROM to_${sink}_query", "$sink $_[0]");
	};
	$compare->('equals the batch query');

	# one group changes
	my $places = q{SELECT (tableoid, ctid, xmin, xmax, k, price)::text FROM } . $sink;
	my $rows = $node->safe_psql('postgres', "SELECT count(*) FROM $sink");
	my $before = $node->safe_psql('postgres', "$places WHERE (k, price) IS DISTINCT FROM ('b', 17) ORDER BY 1");
	$broker->produce('tampered', json_record({ k => 'b', price => 17, v => 3 }, numbers => [qw(price v)]));
	process($node, "to_$sink");
	$compare->('equals the batch query after a change of one group');
	is($node->safe_psql('postgres', "$places WHERE (k, price) IS DISTINCT FROM ('b', 17) ORDER BY 1"), $before,
		"the other rows of $sink are neither written nor locked");
	is($node->safe_psql('postgres', "SELECT rows_out, rows_removed FROM stream_agg.commits
			WHERE stream = 'to_$sink' ORDER BY batch DESC LIMIT 1"), '1|0', "one row of $sink was written");

	# somebody else's changes, of every kind
	$node->safe_psql('postgres', qq{
		DELETE FROM $sink WHERE k = 'c';
		UPDATE $sink SET n = -1 WHERE k IS NULL;
		UPDATE $sink SET total = NULL WHERE k = 'a' AND price IS NULL;
		UPDATE $sink SET price = price + 0.000 WHERE k = 'b';
		UPDATE $sink SET k = 'z' WHERE k = 'b' AND price IS NULL;
		INSERT INTO $sink (k, price, n) VALUES (NULL, 99, 1), ('not there', NULL, 1), ('a', 1000, 1)});
	$broker->produce('tampered', json_record({ k => 'd', price => undef, v => 3 }, numbers => [qw(price v)]));
	process($node, "to_$sink");
	$compare->('is put right after changes by hand');
	$node->safe_psql('postgres', "TRUNCATE $sink");
	$broker->produce('tampered', json_record({ k => 'd', price => undef, v => 3 }, numbers => [qw(price v)]));
	process($node, "to_$sink");
	$compare->('is put right after TRUNCATE');
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('to_$sink')");
}
is($node->safe_psql('postgres', "SELECT count(*) FROM other_sink WHERE note = 'own'"),
	$node->safe_psql('postgres', 'SELECT count(*) FROM other_sink'), 'columns of the sink that are not the query\'s keep their defaults');

# a value that does not fit is an error as in every INSERT, and not cut off
create_source($node, $broker, 'typed', 'typed', $columns);
$node->safe_psql('postgres', 'CREATE TABLE narrow (id int UNIQUE NULLS NOT DISTINCT, k varchar(3))');
create_stream('narrow', 'SELECT id, max(k) AS k FROM typed GROUP BY 1', '');
$broker->produce('typed', json_record({ id => 1, k => 'abc' }, numbers => ['id']));
process($node, 'narrow');
$broker->produce('typed', json_record({ id => 1, k => 'abcd' }, numbers => ['id']));
$node->psql('postgres', "SELECT stream_agg.process_available('narrow', '1 minute')");
wait_state($node, 'narrow', 'failed', 'value too long');
is($node->safe_psql('postgres', q{SELECT last_error ~ 'value too long for type character varying\(3\)' FROM pg_stat_stream_agg WHERE stream = 'narrow'}),
	't', 'a value too long for its column is an error');
$node->safe_psql('postgres', q{ALTER TABLE narrow ALTER k TYPE text; SELECT stream_agg.start_stream('narrow')});
process($node, 'narrow');
is($node->safe_psql('postgres', 'SELECT * FROM narrow'), '1|abcd', 'and goes in when the column is wide enough');
$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('narrow', drop_sink => true)");

# A reader that polls throughout.  Keys only come, so rows never get fewer; the
# records are as many as the sink's counts say.
create_source($node, $broker, 'polled_in', 'polled', 'k int, v int');
create_stream('polled', 'SELECT k, count(*) AS n, sum(v) AS v FROM polled_in GROUP BY k', ', max_offsets_per_trigger => 50');
my ($reader, $seen) = start_reader($node, q{
	SELECT count(*), COALESCE(sum(n), 0),
	       COALESCE((SELECT total_aggregated FROM stream_agg.commits WHERE stream = 'polled' ORDER BY batch DESC LIMIT 1), 0)
	  FROM polled}, 5_000);
for my $round (1 .. 100)
{
	last if $round > 10 && (() = slurp_file($seen) =~ /\n/g) > 20;
	$broker->produce('polled', map { [ $_ % 2, '', sprintf('{"k":%d,"v":%d}', $rng->(20 * $round), $rng->(9)) ] } 1 .. 400);
	process($node, 'polled');
}
stop_reader($reader);
my ($fell, $apart, $snapshots, $last) = (0, 0, 0, 0);
for my $line (split /\n/, slurp_file($seen))
{
	my ($rows, $records, $aggregated) = split /\|/, $line;
	$snapshots++;
	$fell++ if $rows < $last;
	$apart++ if $records != $aggregated;
	$last = $rows;
}
cmp_ok($snapshots, '>', 20, 'the reader has looked often');
is($fell, 0, 'it never saw fewer rows than before');
is($apart, 0, 'it never saw another result than that of the last commit');
compare('polled', 'polled equals the batch query');

# Many groups: no plan is quadratic, neither one made for the first batch nor
# one made before it.  A quadratic one takes minutes here.
create_source($node, $broker, 'many_in', 'many', 'k int, v int');
$node->safe_psql('postgres', q{
	CREATE TABLE allowed AS SELECT k FROM generate_series(0, 39999) k;
	ANALYZE allowed});
create_stream('many', q{SELECT k, count(*) AS n, sum(v) AS v FROM many_in GROUP BY k
	HAVING EXISTS (SELECT FROM allowed WHERE allowed.k = many_in.k)}, ', start => false');
$broker->produce('many', map { [ $_ % 4, '', qq({"k":$_,"v":1}) ] } 0 .. 19999);
$node->safe_psql('postgres', "SELECT stream_agg.start_stream('many')");
process($node, 'many');
is($node->safe_psql('postgres', 'SELECT count(*) FROM many_query'),
	$node->safe_psql('postgres', 'SELECT count(*) FROM many'), 'the first batch puts 20,000 rows into the sink');
for my $round (1 .. 3)
{
	$broker->produce('many', map { [ $_ % 4, '', '{"k":' . $rng->(20000) . ',"v":1}' ] } 1 .. 100);
	$node->safe_psql('postgres', 'DELETE FROM allowed WHERE k % 2 = 0') if $round == 2;
	process($node, 'many');
	compare('many', "20,000 groups equal the batch query after round $round");
}
is($node->safe_psql('postgres', q{SELECT rows_removed FROM pg_stat_stream_agg WHERE stream = 'many'}),
	10000, 'rows that left are counted');
cmp_ok($node->safe_psql('postgres', q{SELECT max(execute_time + write_time) FROM stream_agg.commits WHERE stream = 'many'}),
	'<', 8000, 'no batch took long');

done_testing();
