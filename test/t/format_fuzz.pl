# Random records, many of them damaged: each is decoded as jsonb would decode
# it, or is an error where jsonb makes one, in columns of every type, by the
# decoder as a whole, by its short way and by its long way.  And the part that
# reads bytes, built with the sanitizers, touches none that is not its own.
#
# FUZZ_RECORDS is the number of records, for each of the two; record n of a
# seed is always the same:
#
#	SELECT fuzz_record(seed, n)

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $records = $ENV{FUZZ_RECORDS} // 50_000;
my $chunk = 10_000;
my $seed = seed();

my $module = $ENV{DECODE_FUZZ} or die 'DECODE_FUZZ is not set: run the tests by test/run';
my $node = new_node('fuzz');

my $setup = qq{
	CREATE TYPE mood AS ENUM ('sad', 'happy');
	CREATE TYPE pair AS (x int, y text);
	CREATE DOMAIN positive AS int CHECK (VALUE > 0);
	CREATE DOMAIN given AS text NOT NULL CHECK (length(VALUE) < 10);
	CREATE DOMAIN recently AS timestamptz(3) CHECK (VALUE > '2000-01-01');
	CREATE TABLE types (
		int2 smallint, int4 int, int8 bigint, "real" real, float8 float8, "numeric" numeric, "numeric(6,2)" numeric(6, 2),
		"numeric(3,5)" numeric(3, 5), "numeric(4,-2)" numeric(4, -2), "numeric(20)" numeric(20),
		"numeric(38,10)" numeric(38, 10), "numeric(18,18)" numeric(18, 18), bool boolean, text text, varchar varchar,
		"varchar(5)" varchar(5), "char(4)" char(4), name name, timestamptz timestamptz, "timestamptz(0)" timestamptz(0),
		"timestamptz(3)" timestamptz(3), timestamp timestamp, "timestamp(2)" timestamp(2), date date, time time,
		timetz timetz, "interval" interval, uuid uuid, bytea bytea, jsonb jsonb, json json, "int[]" int[],
		"text[]" text[], "numeric(4,1)[]" numeric(4, 1)[], pair pair, "pair[]" pair[], mood mood, positive positive,
		given given, recently recently, inet inet, int4range int4range, int4multirange int4multirange, "bit" bit(3),
		money money, point point, oid oid, macaddr macaddr, xid8 xid8);
	CREATE FUNCTION fuzz_decode(types regclass, seed bigint, first bigint, records bigint, OUT type name,
		OUT record bigint, OUT way text, OUT got text, OUT expected text, OUT accepted bigint, OUT refused bigint,
		OUT shortened bigint) RETURNS SETOF record AS '$module' LANGUAGE C STRICT;
	CREATE FUNCTION fuzz_record(seed bigint, n bigint) RETURNS bytea AS '$module' LANGUAGE C STRICT;
	CREATE TABLE results AS SELECT * FROM fuzz_decode('types', 0, 0, 0) LIMIT 0};

# a server encoding that has not all characters, and settings that decide what
# a text means
my %databases = (
	utf8 => [ q{ENCODING 'UTF8'}, q{TimeZone = 'America/St_Johns'}, q{DateStyle = 'ISO, MDY'}, 1 ],
	latin1 => [ q{ENCODING 'LATIN1'}, q{TimeZone = 'UTC'}, q{DateStyle = 'German, DMY'}, 0.2 ]);

for my $database (sort keys %databases)
{
	my ($encoding, $timezone, $datestyle, $share) = @{ $databases{$database} };
	$node->safe_psql('postgres', "CREATE DATABASE $database $encoding LOCALE 'C' TEMPLATE template0");
	$node->safe_psql('postgres', "ALTER DATABASE $database SET $timezone; ALTER DATABASE $database SET $datestyle");
	$node->safe_psql($database, $setup);

	my ($status, $out, $warnings) = (0, '', '');
	for (my $first = 0; $first < $records * $share; $first += $chunk)
	{
		my $n = $first + $chunk > $records * $share ? $records * $share - $first : $chunk;
		($status, $out, $warnings) = $node->psql($database, sprintf(
			q{INSERT INTO results SELECT * FROM fuzz_decode('types', %d, %d, %d)}, $seed, $first, $n));
		last if $status != 0 || $warnings ne '';
	}
	is("$status $warnings", '0 ', "$database: no crash, nothing is left open");
	is($node->safe_psql($database, qq{
			SELECT 'column ' || type, 'record ' || record, way, 'got ' || left(got, 200), 'expected ' || left(expected, 200),
			       left(encode(fuzz_record($seed, record), 'escape'), 300)
			  FROM results WHERE record IS NOT NULL LIMIT 10}),
		'', "$database: seed $seed: what jsonb accepts and gives is accepted and given");

	# a comparison that compared little proves little
	my $least = int($records * $share / 5000);
	$least > 0 and is($node->safe_psql($database, qq{
			SELECT type, sum(accepted), sum(refused) FROM results WHERE record IS NULL
			 GROUP BY type HAVING sum(accepted) <= $least OR sum(refused) <= $least}),
		'', "$database: every type has seen values it takes and values it does not");
	diag($node->safe_psql($database, q{
		SELECT format('figures: %s: %s decoded, %s refused, %s by the short way', current_database(), sum(accepted), sum(refused), sum(shortened))
		  FROM results WHERE record IS NULL}));
}

# paths, some of them inside of others, as jsonb's #> and #>>
$node->safe_psql('utf8', qq{
	CREATE FUNCTION fuzz_paths(seed bigint, records bigint, OUT record bigint, OUT path int, OUT got text, OUT expected text)
	RETURNS SETOF record AS '$module' LANGUAGE C STRICT});
my ($status, $out, $err) = $node->psql('utf8', "CREATE TABLE paths AS SELECT * FROM fuzz_paths($seed, $records)");
is("$status $err", '0 ', 'paths: no crash');
is($node->safe_psql('utf8', qq{
		SELECT record, path, left(got, 200), left(expected, 200), left(encode(fuzz_record($seed, record), 'escape'), 300)
		  FROM paths WHERE record >= 0 LIMIT 10}),
	'', "paths: seed $seed: what jsonb finds is found");
cmp_ok($node->safe_psql('utf8', 'SELECT got FROM paths WHERE record = -1'), '>', $records / 50,
	'paths: there was something to find');

# times without a zone, in every zone that there is
$node->safe_psql('utf8', qq{
	CREATE FUNCTION fuzz_times(zone text, seed bigint, n int) RETURNS text AS '$module' LANGUAGE C});
my $times = int($records / 100);
is($node->safe_psql('utf8', qq{
		SELECT zone, found FROM (SELECT name AS zone, fuzz_times(name, $seed + hashtext(name), $times) AS found
		  FROM (SELECT name FROM pg_timezone_names UNION ALL VALUES ('<+05:30>-05:30'), ('EST5EDT'), ('FOO-1BAR,M4.1.0,M9.1.0')) z) x
		 WHERE found IS NOT NULL LIMIT 10}),
	'', "times: seed $seed: the short way reads times without a zone as the server does, in all time zones");

# other formats: records inside of Debezium's events as jsonb has them, and
# nothing that ends the process
$node->safe_psql('utf8', qq{
	CREATE FUNCTION fuzz_format(format text, payload bytea) RETURNS text AS '$module' LANGUAGE C STRICT;
	CREATE FUNCTION fuzz_avro(schema text, sample bytea, seed bigint, n bigint) RETURNS bigint AS '$module' LANGUAGE C STRICT;
	CREATE FUNCTION by_jsonb(payload bytea) RETURNS text LANGUAGE plpgsql AS \$\$
	DECLARE
		j jsonb := convert_from(payload, 'UTF8')::jsonb;
		e jsonb := CASE WHEN j ? 'payload' THEN j -> 'payload' ELSE j END;
		after jsonb := e -> 'after';
	BEGIN
		IF jsonb_typeof(j) <> 'object' THEN RETURN 'invalid'; END IF;
		IF jsonb_typeof(e) = 'null' OR (jsonb_typeof(e -> 'op') = 'string' AND e ->> 'op' IN ('u', 'd', 't', 'm')) THEN RETURN 'left out'; END IF;
		IF jsonb_typeof(e -> 'op') = 'string' AND e ->> 'op' IN ('c', 'r') AND jsonb_typeof(after) = 'object' THEN
			RETURN format('[%s],[%s],[%s]', COALESCE(after ->> 'v', 'NULL'), COALESCE(after ->> 'x', 'NULL'), COALESCE(e ->> 'op', 'NULL'));
		END IF;
		RETURN 'invalid';
	EXCEPTION WHEN OTHERS THEN RETURN 'invalid';
	END \$\$;
	CREATE FUNCTION before_error(payload bytea) RETURNS text LANGUAGE plpgsql AS \$\$
	BEGIN RETURN by_jsonb(payload); EXCEPTION WHEN OTHERS THEN RETURN 'invalid'; END \$\$});
my $events = int($records / 10);
($status, $out, $err) = $node->psql('utf8', <<"SQL");
	CREATE TABLE events AS
	SELECT n, payload, fuzz_format('debezium', payload) AS got, before_error(payload) AS wanted FROM (
		SELECT n, CASE n % 6 WHEN 0 THEN r WHEN 1 THEN a || r || '}'::bytea WHEN 2 THEN '{"schema":{},"payload":'::bytea || a || r || '}}'::bytea
		       WHEN 3 THEN '{"payload":'::bytea || r || '}'::bytea WHEN 4 THEN '{"after":'::bytea || r || ',"op":"r"}'::bytea
		       ELSE '{"op":"u","payload":null,"x":'::bytea || r || '}'::bytea END AS payload
		  FROM generate_series(1, $events) n, LATERAL (SELECT fuzz_record($seed, n) AS r, '{"op":"c","after":'::bytea AS a) x) y
SQL
is("$status $err", '0 ', 'debezium: no crash');
is($node->safe_psql('utf8', q{
		SELECT n, left(got, 100), left(wanted, 100), left(encode(payload, 'escape'), 300) FROM events
		 WHERE got <> wanted AND NOT (got LIKE 'invalid%' AND wanted = 'invalid') AND got NOT LIKE '%nested too deeply' LIMIT 10}),
	'', "debezium: seed $seed: what jsonb finds in an event is found");
my %counts = map { $_ => $node->safe_psql('utf8', "SELECT count(*) FROM events WHERE got LIKE '$_%'") } '[', 'invalid', 'left out';
cmp_ok($counts{$_}, '>', $events / 50, "debezium: $counts{$_} of $events records: $_") for sort keys %counts;

for my $format ('csv', 'text', 'raw')
{
	($status, $out, $err) = $node->psql('utf8', "SELECT count(*) FROM generate_series(1, $events) n WHERE fuzz_format('$format', fuzz_record($seed, n)) IS NULL");
	is("$status $out $err", '0 0 ', "$format: no crash");
}

# Avro: a record with something of everything, damaged in all ways
my $schema = q({"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"string"},{"name":"c","type":["null","R"]},
	{"name":"d","type":{"type":"map","values":{"type":"array","items":["null","double","bytes"]}}},{"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]}},
	{"name":"f","type":{"type":"fixed","name":"F","size":3}},{"name":"g","type":{"type":"bytes","logicalType":"decimal","precision":40,"scale":5}},
	{"name":"h","type":{"type":"long","logicalType":"timestamp-millis"}},{"name":"i","type":{"type":"int","logicalType":"date"}},
	{"name":"j","type":{"type":"array","items":"null"}},{"name":"k","type":"float"},{"name":"l","type":{"type":"array","items":"R"}},{"name":"m","type":"boolean"}]});
my $inner = '"b":"xä","d":{"k":[[0,null],[1,"1.5"],[2,"00ff"]],"":[]},"e":"B","f":"010203","g":"ff7f00","h":1767323045678,"i":20000,"j":[null,null],"k":"0.1","m":true';
my $line = qq({"id":1,"schema":$schema,"value":{"a":-5,$inner,"c":[1,{"a":1,$inner,"c":[0,null],"l":[]}],"l":[{"a":2,$inner,"c":[0,null],"l":[]}]}});
$line =~ s/\n\s*//g;
my $sample;
IPC::Run::run([ 'python3', "$ENV{REGISTRY}/avro_encode.py" ], '<', \"$line\n", '>', \$sample) or die 'cannot encode';
chomp $sample;
($status, $out, $err) = $node->psql('utf8', sprintf(q{SELECT fuzz_avro($s$%s$s$, '\\x%s', %d, %d)}, $schema, substr($sample, 10), $seed, $records));
is("$status $err", '0 ', 'avro: no crash, validity does not depend on what is read, and what is nested is JSON');
cmp_ok($out, '>', $records / 100, "avro: $out of $records damaged records are valid");
cmp_ok($out, '<', $records, 'avro: others are not');

# Seeds picked by hand, what bounds are for among them, damaged in all ways and
# read as every format; and schemas, of which a damaged sample is then read.
$node->safe_psql('utf8', qq{
	CREATE FUNCTION fuzz_damage(payload bytea, seed bigint) RETURNS bytea AS '$module' LANGUAGE C STRICT;
	CREATE FUNCTION fuzz_schema(schema bytea, sample bytea, seed bigint) RETURNS boolean AS '$module' LANGUAGE C STRICT;
	CREATE TABLE corpus AS SELECT convert_to(v, 'UTF8') AS payload FROM (VALUES
		('{"v":' || repeat('[', 999) || repeat(']', 999) || '}'), (repeat('{"v":', 1000) || '1' || repeat('}', 1000)), (repeat('[', 5000)),
		('{"v":[' || repeat('1e131071,', 40) || '1]}'), ('{"v":1e-16383,"x":-0.1E+131072}'), ('{"v":' || repeat('9', 131073) || '}'),
		('{"v":0.' || repeat('0', 16384) || '1}'), ('{"v":"' || repeat('\\ud83d\\ude00', 100) || '\\ud800"}'), ('{"v":"\\u0000"}'),
		('{"op":"c","after":{"v":1e131071,"x":[1e131071]}}'), ('{"payload":{"op":"r","after":{"v":{"op":"u"}}},"op":"d"}'),
		('{"payload":{"payload":{"op":"c"}},"after":null}'), (repeat('"', 1001)), (repeat('",', 500)), ('"a""b",' || repeat(',', 3) || E'\r\n'),
		('1e999999999,-1e-999999999,NaN'), (repeat('x', 100000)), ('{"' || repeat('v', 70000) || '":1,"v":2}'), ('{' || repeat('"v":1,', 2000) || '"v":2}')) x(v)});
my $damages = int($records / 500);
for my $format ('json', 'debezium', 'csv', 'text', 'raw')
{
	($status, $out, $err) = $node->psql('utf8', "SELECT count(*) FROM corpus, generate_series($seed, $seed + $damages - 1) n WHERE fuzz_format('$format', fuzz_damage(payload, n)) IS NULL");
	is("$status $out $err", '0 0 ', "$format: no crash with damaged seeds picked by hand");
}
($status, $out, $err) = $node->psql('utf8', sprintf(
	q{SELECT count(*) FROM generate_series(%d, %d) n WHERE fuzz_schema(convert_to($s$%s$s$, 'UTF8'), '\\x%s', n)}, $seed, $seed + $events - 1, $schema, substr($sample, 10)));
is("$status $err", '0 ', 'avro: no crash with damaged schemas');
cmp_ok($out, '>', $events / 20, "avro: $out of $events damaged schemas are valid");

# with the instructions of every processor, the same
my %digests;
for my $implementation ('', 'fallback', 'westmere', 'haswell', 'icelake')
{
	local $ENV{SIMDJSON_FORCE_IMPLEMENTATION} = $implementation if $implementation;
	local $ENV{ASAN_OPTIONS} = 'detect_leaks=1';
	# all of them by the processor's own, a share by the others
	my ($out, $err);
	my $n = $implementation ? int($records / 10) : $records;
	my $ok = IPC::Run::run([ $ENV{LEAF_FUZZ}, $seed, $n ], '>', \$out, '2>', \$err);
	# those that this processor has not are replaced by one that refuses all
	next if $implementation && !$ok && $err =~ /unsupported/i;
	ok($ok, 'sanitizers find nothing' . ($implementation ? " with the instructions of $implementation" : ''))
	  or diag($err);
	diag("figures: $out");
	like($out, qr/, [1-9]\d* fields in another case, [1-9]\d* ambiguous/, 'there were names in several cases') if !$implementation && $records >= 10_000;
	next unless $implementation && $out =~ /: (\d+) valid, digest (\w+)/ && $1 > 0;
	$digests{$2} .= " $implementation";
}
is(keys %digests, 1, 'verdicts and values do not depend on the processor') or diag(explain(\%digests));

done_testing();
