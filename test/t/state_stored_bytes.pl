# What is stored is read the same way by everybody, and damaged bytes are never
# more than an error.
#
# FUZZ_BLOBS is the number of damaged blobs whose checksum is right; blob n of a
# seed is always the same.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $blobs = $ENV{FUZZ_BLOBS} // 4000;
my $seed = seed();
my $module = $ENV{DECODE_FUZZ} or die 'DECODE_FUZZ is not set: run the tests by test/run';

my $broker = start_broker(events => 1, words => 1);
my $node = new_node('stored_bytes', 'max_worker_processes = 40');

# --- M8: settings of who writes and of who reads
$node->safe_psql('postgres', q{
	CREATE DATABASE words ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0});
$node->safe_psql('words', q{
	CREATE EXTENSION stream_agg;
	CREATE ROLE alice LOGIN;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO alice;
	GRANT CREATE ON SCHEMA public TO alice;
	CREATE TYPE mood AS ENUM ('müde', 'wach');
	CREATE TYPE pair AS (k int, t text);
	CREATE TYPE dated AS (x aclitem, d timestamptz, i interval, f float8, b bytea, m money)});
my $brokers = $broker->brokers;
my $statement = "SELECT stream_agg.create_source('words', topic => 'words', brokers => '$brokers',
	columns => 'k int, t text, m mood', options => '{\"fetch.wait.max.ms\": 20}');";
my %query = (
	pairs => 'SELECT k, array_agg(ROW(k, t)::pair) AS a FROM words GROUP BY k',
	moods => 'SELECT m, count(*) AS n, min(t) AS t FROM words GROUP BY m',
	dates => q{SELECT k, array_agg(ROW(NULL, to_timestamp(k * 86400 * 3), interval '1 month -3 days', 0.1::float8 + 0.2, '\x4100', '1234.5')::dated) AS a
		FROM words GROUP BY k});
$statement .= "SELECT stream_agg.create_stream('$_', \$q\$$query{$_}\$q\$, output_mode => 'update', trigger => '20 days');"
  for sort keys %query;
$node->safe_psql('words', "SET SESSION AUTHORIZATION alice; $statement");

sub words
{
	$broker->produce('words', map { json_record({ k => $_ % 3, t => 'é', m => 'müde' }, numbers => ['k']) } 1 .. 5);
	for my $stream (sort keys %query)
	{
		$node->safe_psql('words', "SELECT stream_agg.process_available('$stream', '2 minutes')");
		is_same($stream);
	}
	return;
}

# what readers with other settings see of the open windows is what the sink has
sub is_same
{
	my ($stream) = @_;
	for my $settings ('-c client_encoding=UTF8', '-c client_encoding=LATIN1', '-c client_encoding=SQL_ASCII',
		'-c DateStyle=German -c IntervalStyle=sql_standard -c extra_float_digits=0 -c bytea_output=escape -c TimeZone=Asia/Kathmandu')
	{
		local $ENV{PGOPTIONS} = $settings;
		my ($status, $out, $err) = $node->psql('words', qq{
			SELECT count(*) FROM (
				(SELECT s::text FROM $stream s EXCEPT ALL SELECT w::text FROM stream_agg.open_windows(NULL::$stream) w)
				UNION ALL (SELECT w::text FROM stream_agg.open_windows(NULL::$stream) w EXCEPT ALL SELECT s::text FROM $stream s)) x});
		is("$out $err", '0 ', "M8: $stream: a reader with $settings reads what was written");
		($status, $out) = $node->psql('words', 'SHOW client_encoding');
		like($settings, qr/Date|$out/, 'M8: and keeps its own encoding');
	}
	return;
}

{
	words();
	$node->safe_psql('words', q{ALTER ROLE alice SET client_encoding = 'LATIN1'; ALTER ROLE alice SET DateStyle = 'SQL, DMY';
		ALTER ROLE alice SET extra_float_digits = 0; ALTER ROLE alice SET bytea_output = 'escape'; ALTER ROLE alice SET IntervalStyle = 'sql_standard'});
	$node->restart;
	words();
	is($node->safe_psql('words', q{SELECT DISTINCT encode(convert_to((u).t, 'UTF8'), 'hex') FROM pairs, unnest(a) u}), 'c3a9',
		'M8: a worker whose role has another client_encoding goes on with the state');
	is_equal_tables_in($_) for sort keys %query;
}

sub is_equal_tables_in
{
	my ($stream) = @_;
	return is($node->safe_psql('words', "SELECT count(*) FROM (SELECT s::text FROM $stream s EXCEPT SELECT q::text FROM ${stream}_query q) x"), 0,
		"M8: $stream: its results are those of its query");
}

# names of types and functions in the state's identity
{
	my $settings = join ' ', map { "-c $_" } 'quote_all_identifiers=on', 'array_nulls=off', 'standard_conforming_strings=off', 'search_path=information_schema,public';
	local $ENV{PGOPTIONS} = $settings;
	for my $stream (sort keys %query)
	{
		is($node->safe_psql('words', "SELECT count(*) FROM (SELECT s::text FROM public.$stream s EXCEPT ALL SELECT w::text FROM stream_agg.open_windows(NULL::public.$stream) w) x"), 0,
			"M8: $stream: a reader with $settings");
	}
	$node->safe_psql('words', q{SELECT stream_agg.create_stream('public.quoted', $q$SELECT k, array_agg(ROW(k, t)::pair) AS a, max(t) AS t FROM words GROUP BY k$q$, output_mode => 'update', trigger => '20 days', sink => 'public.quoted');});
	$query{quoted} = '';
	local $ENV{PGOPTIONS} = '';
	words();
	$node->safe_psql('words', 'ALTER ROLE alice SET quote_all_identifiers = on; ALTER DATABASE words SET quote_all_identifiers = on; ALTER ROLE alice SET array_nulls = off');
	$node->restart;
	words();
	$node->safe_psql('words', 'ALTER ROLE alice RESET quote_all_identifiers; ALTER DATABASE words RESET quote_all_identifiers; ALTER ROLE alice RESET array_nulls');
	$node->restart;
	words();
	is($node->safe_psql('words', q{SELECT count(*) FROM pg_stat_stream_agg WHERE state <> 'running'}), 0, 'M8: no stream fails');
	is_equal_tables_in($_) for sort keys %query;
}

# an error in the midst of it leaves the reader's encoding as it was
{
	local $ENV{PGOPTIONS} = '-c client_encoding=LATIN1';
	$node->safe_psql('words', q{
		UPDATE stream_agg.state SET data = overlay(data PLACING '\x00' FROM 30 FOR 1) WHERE stream = (SELECT min(stream) FROM stream_agg.state)});
	my ($status, $out, $err) = $node->psql('words', q{
		SELECT stream_agg.explain_stream('moods'); SHOW client_encoding});
	like($out, qr/LATIN1$/, 'M8: an error leaves the encoding of the session as it was');
}

# --- M9: streams with all kinds of state
$node->safe_psql('postgres', qq{
	CREATE FUNCTION fuzz_blob(blob bytea, donor bytea, seed bigint, n bigint) RETURNS bytea AS '$module' LANGUAGE C STRICT;
	CREATE TYPE mood AS ENUM ('sad', 'happy');
	CREATE TYPE pair AS (x int, y text);
	CREATE DOMAIN positive AS numeric CHECK (VALUE > -2);
	CREATE FUNCTION last_of(anyelement, anyelement) RETURNS anyelement IMMUTABLE LANGUAGE sql AS 'SELECT \$2';
	CREATE AGGREGATE last(anyelement) (SFUNC = last_of, STYPE = anyelement, COMBINEFUNC = last_of);
	CREATE FUNCTION first_of(anyelement, anyelement) RETURNS anyelement IMMUTABLE STRICT LANGUAGE sql AS 'SELECT \$1';
	CREATE AGGREGATE strictly_first(anyelement) (SFUNC = first_of, STYPE = anyelement, COMBINEFUNC = first_of)});
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v bigint, f float8, n numeric, t text, j jsonb, b bytea');
my %stream = (
	inlined => q{SELECT k, count(*) AS a, count(v) AS b, sum(k) AS c, avg(k) AS d, sum(v) AS e, avg(v) AS f, sum(n) AS g, avg(n) AS h, max(n) AS i,
		min(n) AS j, max(k) AS l, min(v) AS m, max(ts) AS o, sum(f) AS p, min(ts::date) AS q FROM events GROUP BY k},
	serialized => q{SELECT t, stddev(n) AS a, variance(v) AS b, stddev(k) AS c, avg(f) AS d, corr(f, k) AS e, var_pop(n) AS g, sum(ts - '2026-01-01') AS h,
		avg(n) FILTER (WHERE k > 1) AS i FROM events GROUP BY t},
	timed => q{SELECT t, stream_agg.first(v, ts) AS a, stream_agg.last(t, ts) AS b, stream_agg.last(ROW(k, t)::pair, v) AS c, stream_agg.first('happy'::mood, ts) AS d,
		stream_agg.last(n::positive, ts) AS e, stream_agg.last(ARRAY[n, k], date_trunc('day', ts)) AS f, stream_agg.first(j, ts) AS g,
		stream_agg.last(NULLIF(k, 1), ts) AS h FROM events GROUP BY t},
	topmost => q{SELECT k, stream_agg.top_n(v, 3) AS a, stream_agg.top_n(t, 5) AS b, stream_agg.top_n(ROW(k, t)::pair, 4) AS c, stream_agg.top_n(n::positive, 9) AS d
		FROM events GROUP BY k},
	raw => q{SELECT n, ts, last(t) AS a, last(b) AS b, last(j) AS c, last(n) AS d, last(ts) AS e, last(ts::time) AS f, last(ts::timetz) AS g,
		last(('10.0.0.' || k)::inet) AS h, last('::/64'::cidr) AS i, last(t::name) AS l, last(t::bpchar) AS m, last(k > 1) AS o, last(f::float4) AS p,
		last(j::json) AS q, last(md5(t)::uuid) AS r, last(interval '1 day' * k) AS s FROM events GROUP BY n, ts},
	arrays => q{SELECT ARRAY[k, NULL, 3] AS kk, last(ARRAY[t, NULL, 'x']) AS a, last(ARRAY[[n, 1], [2, NaN]]) AS b, last(ARRAY[ts]) AS c,
		last(ARRAY[b, b]) AS d, last(ARRAY[j, NULL]) AS e, last(ARRAY['a'::"char"]) AS f, last('{}'::int8[]) AS g, last(ARRAY[k > 1]) AS h,
		last(ARRAY[t::name]) AS i FROM (SELECT *, numeric 'NaN' AS NaN FROM events) e GROUP BY 1},
	received => q{SELECT ROW(k, t)::pair AS p, last(ROW(k, t)::pair) AS a, last('happy'::mood) AS b, last(int4range(k, 9)) AS c, last(int4multirange(int4range(k, 9))) AS d,
		last(ARRAY[ROW(k, t)::pair]) AS e, last(B'101'::varbit) AS f, last(to_tsvector('simple', t)) AS g, last('a & b'::tsquery) AS h,
		last('((0,0),(1,1),(2,0))'::polygon) AS i, last('$.a'::jsonpath) AS l, last('1 2 3'::int2vector) AS m, last(textrange(t, t || 'z')) AS o,
		strictly_first(n::positive) AS q FROM events GROUP BY 1},
	jsonbs => q{SELECT j, last(jsonb_build_object('a', k, 'b', n, 'c', jsonb_build_array(j, t, NULL, true, jsonb_build_object()))) AS a, count(*) AS c
		FROM events GROUP BY j},
	kept => q{SELECT k, array_agg(t ORDER BY n DESC) AS a, count(DISTINCT t) AS b, jsonb_agg(j) AS c, string_agg(DISTINCT t, ',' ORDER BY t) AS d,
		percentile_cont(0.5) WITHIN GROUP (ORDER BY f) AS e, array_agg(DISTINCT n) AS f, count(DISTINCT ROW(k, n, t)) AS g, mode() WITHIN GROUP (ORDER BY n) AS h,
		array_agg(ROW(k, t)::pair) AS i, array_agg(b) AS l FROM events GROUP BY k},
	sessions => q{SELECT stream_agg.session(ts, '5 minutes') AS win, t, count(*) AS n, avg(k) AS a, sum(n) AS s, max(n) AS m, array_agg(DISTINCT n) AS d, last(t) AS l
		FROM events GROUP BY 1, 2},
	panes => q{SELECT stream_agg.hop(ts, '1 minute', '5 minutes') AS win, k, count(*) AS n, avg(k) AS a, sum(n) AS s, min(n) AS m, stddev(n) AS d, avg(v) AS v
		FROM events GROUP BY 1, 2},
	days => q{SELECT stream_agg.tumble(ts, '1 day', timezone => 'Europe/Vienna') AS win, sum(n) AS s, max(n) AS m FROM events GROUP BY 1},
	plain => q{SELECT stream_agg.tumble(ts, '1 hour') AS win, t::varchar(9) AS t, sum(n) AS s, avg(k) AS m FROM events GROUP BY 1, 2});
$node->safe_psql('postgres', 'CREATE TYPE textrange AS RANGE (subtype = text)');
my $make = join('', map {
	my $watermark = /sessions|panes|days|plain/ ? ", watermark => '10 days'" : '';
	"SELECT stream_agg.create_stream('$_', \$q\$$stream{$_}\$q\$, output_mode => 'update', trigger => '20 days'$watermark);\n" } sort keys %stream);
$node->safe_psql('postgres', $make);
my $random = seeded_random($seed);
for my $batch (0 .. 2)
{
	$broker->produce('events', map { json_record({ ts => sprintf('2026-01-01T%02d:%02d:00Z', $random->(24), $random->(60)), k => $random->(3), v => $random->(1000000),
				f => $random->(1000) / 7, n => $random->(2) ? '-1.50' : $random->(1000000) . '.' . $random->(1000000) . '0' x $random->(30),
				t => ('a', 'bé', 'x' x 40)[ $random->(3) ], j => '{"a":[1,{"b":null}],"c":"d"}', b => '\\\\x00ff' },
			numbers => [qw(k v f n)], bare => ['j']) } 1 .. 12);
	process($node, $_) for sort keys %stream;
}

# every blob, damaged, is read again and again by a reader of the open windows
$node->safe_psql('postgres', q{
	CREATE TABLE originals AS SELECT row_number() OVER (ORDER BY stream, partition, batch, seq) - 1 AS place, * FROM stream_agg.state;
	CREATE TABLE outcomes (stream text, outcome text, n bigint);
	CREATE FUNCTION damage(first bigint, last bigint, seed bigint) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		blob originals; donor originals; places bigint := (SELECT count(*) FROM originals);
		outcome text; seen jsonb := '{}'; name text;
	BEGIN
		FOR n IN first .. last LOOP
			SELECT * INTO blob FROM originals WHERE place = n % places;
			SELECT * INTO donor FROM originals WHERE place = (n * 7919 + n / places) % places;
			BEGIN
				UPDATE stream_agg.state s SET data = fuzz_blob(blob.data, donor.data, seed, n)
				 WHERE (s.stream, s.partition, s.batch, s.seq) = (blob.stream, blob.partition, blob.batch, blob.seq);
				EXECUTE format('SELECT count(w::text) FROM stream_agg.open_windows(NULL::%s) w', blob.stream::text);
				RAISE EXCEPTION USING ERRCODE = 'UND01';
			EXCEPTION WHEN OTHERS THEN
				outcome := SQLSTATE;
				IF outcome IN ('XX000', '57014', '53200') THEN
					RAISE LOG 'blob % of stream %: % %', n, blob.stream, outcome, SQLERRM;
				END IF;
			END;
			name := blob.stream || ' ' || outcome;
			seen := jsonb_set(seen, ARRAY[name], to_jsonb(COALESCE((seen->>name)::bigint, 0) + 1));
		END LOOP;
		INSERT INTO outcomes SELECT split_part(key, ' ', 1), split_part(key, ' ', 2), value::bigint FROM jsonb_each_text(seen);
	END $$});
is($node->safe_psql('postgres', 'SELECT count(DISTINCT stream) FROM originals'), scalar keys %stream, 'all streams have state');

my $log = -s $node->logfile;
my ($status, $err, $first) = (0, '', 0);
for (; $first < $blobs && $status == 0; $first += 500)
{
	my $last = $first + 500 > $blobs ? $blobs - 1 : $first + 499;
	($status, undef, $err) = $node->psql('postgres', "SELECT damage($first, $last, $seed)");
}
is("$status $err", '0 ', "M9: seed $seed: $blobs damaged blobs: no crash");
unlike(substr(slurp_file($node->logfile), $log), qr/terminated by signal|TRAP:|PANIC/, 'M9: nor does the server say so');
diag('figures: ' . $node->safe_psql('postgres', q{
	SELECT string_agg(format('%s %s', n, CASE outcome WHEN 'UND01' THEN 'read' ELSE outcome END), ', ' ORDER BY n DESC)
	  FROM (SELECT outcome, sum(n) AS n FROM outcomes GROUP BY 1) x}));
is($node->safe_psql('postgres', q{SELECT string_agg(outcome, ',') FROM outcomes WHERE outcome IN ('57014', '53200')}), '',
	'M9: none ends in the limit of time or without memory');

# --- the state itself is as it was, and every blob that is not damaged is read
for my $name (sort keys %stream)
{
	is_equal_tables($node, "SELECT w::text FROM stream_agg.open_windows(NULL::$name) w", "SELECT w::text FROM $name w",
		"M9: $name: undamaged state is read as it was written");
}

done_testing();
