# Aggregates whose state is their inputs - DISTINCT, ORDER BY, ordered sets, and
# those whose transition state cannot be stored - equal the batch query over the
# same records, in small batches, over restarts, in every output mode.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker('events' => 1);
my $node = new_node('kept_inputs', 'max_worker_processes = 20');
my $rng = seeded_random();

# what depends on the order of arrival shall not be sorted by the batch query
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET enable_sort = off');
$node->safe_psql('postgres', q{
	CREATE EXTENSION hll;
	CREATE EXTENSION tdigest;
	CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
	CREATE TYPE pair AS (x int, y text);
	CREATE DOMAIN positive AS int CHECK (VALUE > 0);
	CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

	-- states of a domain, a composite type, a range, an array, an extended type
	CREATE FUNCTION add_positive(positive, int) RETURNS positive LANGUAGE plpgsql IMMUTABLE
		AS $$ BEGIN RETURN $1 + abs(coalesce($2, 0)); END $$;
	CREATE AGGREGATE sum_positive(int) (SFUNC = add_positive, STYPE = positive, INITCOND = '1');
	CREATE FUNCTION add_to_pair(pair, text) RETURNS pair LANGUAGE plpgsql IMMUTABLE
		AS $$ BEGIN RETURN ROW(coalesce($1.x, 0) + 1, coalesce($1.y, '') || coalesce($2, '?'))::pair; END $$;
	CREATE AGGREGATE pair_agg(text) (SFUNC = add_to_pair, STYPE = pair);
	CREATE FUNCTION widen(int8range, int) RETURNS int8range LANGUAGE sql IMMUTABLE STRICT
		AS $$ SELECT range_merge($1, int8range($2, $2, '[]')) $$;
	CREATE AGGREGATE extent(int) (SFUNC = widen, STYPE = int8range, INITCOND = 'empty');
	-- polymorphic, variadic, over several arguments
	CREATE FUNCTION last_of(anyelement, anyelement) RETURNS anyelement LANGUAGE sql IMMUTABLE AS $$ SELECT coalesce($2, $1) $$;
	CREATE AGGREGATE last_item(aclitem) (SFUNC = last_of, STYPE = aclitem);
	CREATE AGGREGATE collect(anycompatible) (SFUNC = array_append, STYPE = anycompatiblearray, INITCOND = '{}');
	CREATE FUNCTION add_all(int8, VARIADIC int[]) RETURNS int8 LANGUAGE sql IMMUTABLE
		AS $$ SELECT $1 + coalesce((SELECT sum(x) FROM unnest($2) x), 0) $$;
	CREATE AGGREGATE sum_all(VARIADIC int[]) (SFUNC = add_all, STYPE = int8, INITCOND = '0');
	-- a final function that changes the state, and one with extra arguments
	CREATE AGGREGATE modified(anynonarray) (SFUNC = array_agg_transfn, STYPE = internal,
		FINALFUNC = array_agg_finalfn, FINALFUNC_EXTRA, FINALFUNC_MODIFY = READ_WRITE);
	CREATE AGGREGATE shareable(int8) (SFUNC = int8_avg_accum, STYPE = internal,
		FINALFUNC = numeric_poly_sum, FINALFUNC_MODIFY = SHAREABLE);
	-- a moving aggregate, one to be computed in the leader only
	CREATE AGGREGATE moving(int) (SFUNC = int4pl, STYPE = int, MSFUNC = int4pl, MINVFUNC = int4mi, MSTYPE = int,
		PARALLEL = RESTRICTED);
	CREATE AGGREGATE ranks(VARIADIC "any" ORDER BY VARIADIC "any") (SFUNC = ordered_set_transition_multi, STYPE = internal,
		FINALFUNC = rank_final, FINALFUNC_EXTRA, HYPOTHETICAL, FINALFUNC_MODIFY = READ_WRITE);
});
create_source($node, $broker, 'events', 'events',
	'ts timestamptz, id int, k int, i int, n numeric, t text, c text COLLATE nocase, f float8, m mood, b bool, j jsonb, p point, a aclitem');

sub pick { return $_[ $rng->(scalar @_) ]; }
my @records;
for my $n (0 .. 599)
{
	push @records, json_record({
			ts => sprintf('2026-01-01T00:%02d:%02dZ', $n / 60, $n % 60),
			id => $n, k => pick(undef, 1, 2, 3), i => pick(undef, -3, 0, 4, 4, $rng->(9), $rng->(1000)),
			n => pick(undef, '1.0', '1.00', '1', '-2.5', $rng->(50)),
			t => pick(undef, '', 'a', 'A', 'b,c', 'x' x 40, 'y' x 2500, "w$n"),
			c => pick(undef, 'anna', 'ANNA', 'Anna', 'bob', 'Bob'),
			f => pick(undef, '0', '-0.0', '0.5', '2', $rng->(30)),
			m => pick(undef, 'sad', 'ok', 'happy'), b => pick(undef, 'true', 'false'),
			j => pick(undef, '{"a": 1}', '{"a": 1.0}', '[]', "[$n]"), p => pick(undef, '(1,2)', '(1.5,0)'),
			a => pick(undef, 'postgres=r/postgres', '=w/postgres') },
		numbers => [qw(id k i)], bare => [qw(b)]);
}

my %select = (
	distinct => q{
		count(DISTINCT i) AS i, count(DISTINCT n) AS n, count(DISTINCT t) AS t, count(DISTINCT c) AS c,
		count(DISTINCT f) AS f, count(DISTINCT m) AS m, count(DISTINCT j) AS j, count(DISTINCT (i, t)) AS pairs_it, count(DISTINCT (n, c, m)) AS rows, count(DISTINCT ts) AS ts,
		count(DISTINCT b) FILTER (WHERE i > 0) AS filtered, count(DISTINCT 10 / i) FILTER (WHERE i <> 0) AS guarded,
		count(DISTINCT i) * 2 + count(i) AS twice, sum(DISTINCT i) AS sum_i, sum(DISTINCT f) AS sum_f,
		round(avg(DISTINCT n), 6) AS avg_n, stddev(DISTINCT i) AS deviation,
		array_agg(DISTINCT i) AS all_i, array_agg(DISTINCT t COLLATE "C" ORDER BY t COLLATE "C" DESC) AS all_t,
		array_agg(DISTINCT m) AS all_m, string_agg(DISTINCT t COLLATE "C", ';') AS strings,
		lower(string_agg(DISTINCT c, ';')) AS names, corr(DISTINCT i, f) AS corr, regr_count(DISTINCT f, i) AS pairs,
		jsonb_agg(DISTINCT i) AS json, jsonb_agg(DISTINCT (m, id % 5)) AS json_rows, min(DISTINCT t) AS least, bool_and(DISTINCT b) AS all_b, collect(DISTINCT i) AS collected,
		sum_positive(DISTINCT i) AS positive, extent(DISTINCT i) AS extent, sum_all(DISTINCT i, id % 3) AS sum_all,
		modified(DISTINCT i) AS modified},
	ordered => q{
		array_agg(i ORDER BY ts DESC) AS latest_first, array_agg(t ORDER BY n NULLS FIRST, id) AS by_n,
		string_agg(t, m::text ORDER BY m DESC NULLS LAST, c, id) AS strings, jsonb_agg(j ORDER BY id DESC) AS json,
		jsonb_object_agg(coalesce(t, '-'), i ORDER BY id) AS object, sum(i ORDER BY i) AS sum,
		count(i ORDER BY id) AS n, count(*) FILTER (WHERE b) AS plain, pair_agg(t ORDER BY id) AS pair,
		array_agg(i ORDER BY id) FILTER (WHERE b) AS filtered, collect(i ORDER BY id DESC) AS collected,
		percentile_cont(0.5) WITHIN GROUP (ORDER BY f) AS median, percentile_cont(0.95) WITHIN GROUP (ORDER BY f) AS p95,
		percentile_cont(ARRAY[0, 0.25, 1]) WITHIN GROUP (ORDER BY f DESC) AS quartiles,
		percentile_disc(0.9) WITHIN GROUP (ORDER BY t COLLATE "C") AS disc, percentile_disc(ARRAY[0.1, 0.2]) WITHIN GROUP (ORDER BY m) AS discs,
		percentile_disc(0.5) WITHIN GROUP (ORDER BY trim_scale(n)) FILTER (WHERE b) AS filtered_disc,
		mode() WITHIN GROUP (ORDER BY i) AS mode, mode() WITHIN GROUP (ORDER BY m) AS mood,
		percentile_cont(coalesce(k, 0) / 10.0) WITHIN GROUP (ORDER BY i) AS by_key,
		rank(3) WITHIN GROUP (ORDER BY i) AS rank, dense_rank(4, 'a') WITHIN GROUP (ORDER BY i, t) AS dense,
		percent_rank(k) WITHIN GROUP (ORDER BY i) AS percent, cume_dist('ok'::mood) WITHIN GROUP (ORDER BY m) AS cume,
		ranks(3, 'a'::text) WITHIN GROUP (ORDER BY i, t) AS ranks},
	arrived => q{
		array_agg(i) AS i, array_agg(t) AS t, array_agg(ARRAY[id, i]) AS arrays, array_agg(p) AS points, array_agg(m) AS moods, array_agg(a) AS items, json_agg((a, k)) AS item_rows, last_item(a) AS last_item,
		string_agg(t, ',') AS strings, string_agg(convert_to(t, 'UTF8'), '\x00') AS bytes,
		json_agg(i) AS json, jsonb_agg(j) AS jsonb, json_agg(events) AS records, json_object_agg(id, t) AS object,
		jsonb_object_agg('k', i) AS last, xmlagg(xmlelement(name e, i)) AS xml, range_agg(int4range(id, id + i)) FILTER (WHERE i > 0) AS ranges,
		array_agg(ROW(id, t)::pair) AS pairs, json_agg((i, t, m, n, ts)) AS anonymous, jsonb_agg(ROW('x', id, p)) FILTER (WHERE b) AS guarded, modified(i) AS modified, shareable(i) AS shareable, moving(i) AS moving,
		pair_agg(t) AS pair, collect(i) AS collected, collect(t) FILTER (WHERE b) AS texts, sum_all(i, id, 3) AS sum_all,
		sum_positive(i) AS positive, extent(i) AS extent, array_agg(id) FILTER (WHERE b) AS filtered,
		hll_cardinality(hll_add_agg(hll_hash_text(t))) AS hll, hll_add_agg(hll_hash_integer(i), 12)::text AS hll_print,
		tdigest_percentile(f, 100, 0.5) AS tdigest, tdigest_count(tdigest(f, 50)) AS tdigest_count});

# every cell as text: types without equality are compared, too
sub as_text
{
	my $from = shift;
	return "SELECT win, k, key, value FROM (SELECT win, k, to_jsonb(r) - 'win' - 'k' AS cells FROM ($from) r) j, "
	  . 'jsonb_each_text(cells) AS each(key, value)';
}

my %query = map {
	$_ => "SELECT stream_agg.tumble(ts, '2 minutes') AS win, k, $select{$_} FROM events GROUP BY 1, 2"
} keys %select;
for my $name (sort keys %query)
{
	for my $mode ('update', 'append', 'complete')
	{
		$node->safe_psql('postgres', "SELECT stream_agg.create_stream('${name}_$mode', \$q\$$query{$name}\$q\$,
			output_mode => '$mode', watermark => '1 second', trigger => '20 days', max_offsets_per_trigger => 70)");
	}
}
for my $round (0 .. 3)
{
	$broker->produce('events', @records[ $round * 150 .. $round * 150 + 149 ]);
	$node->restart if $round == 2;
	for my $name (sort keys %query)
	{
		process($node, "${name}_$_") for 'update', 'append', 'complete';
	}
}
for my $name (sort keys %query)
{
	for my $mode ('update', 'complete')
	{
		is_equal_tables($node, as_text("SELECT * FROM ${name}_$mode"), as_text($query{$name}), "$name: $mode equals the batch query");
	}
	is_equal_tables($node, as_text("SELECT * FROM ${name}_append"),
		as_text("SELECT * FROM ($query{$name}) q WHERE upper(win) <= '2026-01-01 00:09:58Z'"), "$name: append equals the batch query");
	counts_add_up($node, "${name}_update", scalar @records, "$name counts every record once");
}
is($node->safe_psql('postgres', 'SELECT sum(coalesce(cardinality(i), 0)) FROM arrived_update'), scalar @records, 'the arrays have all records');

done_testing();
