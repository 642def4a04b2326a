# Records of every format that is no plain JSON object: what a source makes of
# them, as streams and as ordinary queries, against what PostgreSQL's own jsonb,
# COPY and input functions make of the same bytes.  Sources of format raw, over
# the same topics, put the bytes there.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $random = seeded_random();
my $broker = start_broker(none => 1);
my $node = new_node('formats');
my $brokers = $broker->brokers;
my $n = 0;

sub sql { return $node->safe_psql('postgres', $_[0]); }

# what an error says, 'no error' if there is none
sub error_of
{
	my ($status, $out, $err) = $node->psql('postgres', $_[0]);
	return $status == 0 ? 'no error' : $err;
}

# A topic with a source "name" of a format, and a source "name_bytes" for what
# it holds.
sub create_format
{
	my ($name, $format, $columns, $options) = @_;
	$options = $options ? ", $options" : '';
	$broker->create_topic($name, 1);
	for my $source ([ $name, $format, $columns, $options ],
		[ "${name}_bytes", 'raw', 'v bytea, k bytea OPTIONS (metadata $$key$$), pos bigint OPTIONS (metadata $$offset$$)', '' ])
	{
		sql("SELECT stream_agg.create_source('$source->[0]', topic => '$name', brokers => '$brokers', format => '$source->[1]',
			columns => \$c\$$source->[2]\$c\$, options => \$o\${\"fetch.wait.max.ms\": 20$source->[3]}\$o\$)");
	}
	return;
}

# Records, as strings of bytes; undef is one without value.
sub put
{
	my ($name, @records) = @_;
	sql("INSERT INTO ${name}_bytes (v) VALUES "
		  . join(', ', map { defined $_ ? "('\\x" . unpack('H*', $_) . "')" : '(NULL)' } @records));
	return;
}

# Runs a query as a stream, and compares it with the batch query and with the
# independent one.
sub is_stream
{
	my ($name, $query, $independent, $delivered, $what, $options) = @_;
	my $before = 's' . $n++;
	my $stream = "s$n";
	# a worker each: the server has not so many
	sql("SELECT stream_agg.drop_stream('$before', if_exists => true)");
	$options //= '{}';
	sql("SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => 'complete', options => '$options')");
	process($node, $stream);
	is_equal_tables($node, "SELECT * FROM $stream", $independent, "$what: a stream");
	counts_add_up($node, $stream, $delivered, "$what: every record is counted once");
	return $stream;
}

sql(q{ALTER DATABASE postgres SET timezone = 'UTC'});

# ---------- paths ----------

my @paths = ('user.id', 'user.name', 'user', 'items.0.sku', 'items.1', 'items', '{user,a.b}', 'user.0', 'x.y.z', '{"",""}');
create_format('deep', 'json', 'pos bigint OPTIONS (metadata $$offset$$), '
	  . join(', ', map { "p$_ text OPTIONS (path '$paths[$_]')" } 0 .. $#paths)
	  . ", u jsonb OPTIONS (path 'user'), i0 jsonb OPTIONS (path 'items.0'), id numeric OPTIONS (path 'user.num')");
my @values = ('1', '"a\u00e4\n"', 'null', 'true', '-1.50', '{}', '[]', '{"id":7,"name":"n"}', '{"a.b":2,"0":[1]}', '[{"sku":"k"},5]',
	'[[1,{"sku":0}],null]', '{"id":{"id":1},"num":1e2}', '{"y":{"z":"deep","z":null}}', '{"":{"":4}}', '[{"sku":1,"sku":[2]}, {"sku":3}]');
my @names = ('user', 'user', 'items', 'items', 'x', 'other', '', 'user.id', 'items.0');
my @docs;
push @docs, '{' . join(',', map { "\"$names[$random->(scalar @names)]\": $values[$random->(scalar @values)]" } 0 .. $random->(5)) . '}'
  for 1 .. 300;
push @docs, map { "{\"user\":{\"id\":$_}}" } 1 .. 20;
# every name twice: the last one counts, with all that is in it
push @docs, '{"user":{"id":1,"name":"a"},"user":{"name":"b"}}', '{"user":{"id":1},"user":2}', '{"user":1,"user":{"id":2,"id":3}}',
  '{"items":[{"sku":1}],"items":[]}', '{"x":{"y":{"z":1},"y":{}}}', '{"items":[1,2,{"sku":3}]}';
put('deep', @docs);
my $jsonb = 'SELECT pos, convert_from(v, $$UTF8$$)::jsonb AS j FROM deep_bytes';
my @wanted = map { my $p = $_; $p =~ s/\./,/g if $p !~ /^\{/; $p = "{$p}" if $p !~ /^\{/; $p } @paths;
is_equal_tables($node, 'SELECT pos, ' . join(', ', map { "p$_" } 0 .. $#paths) . q{, u, i0, id FROM deep},
	'SELECT pos, ' . join(', ', map { "j #>> '$_'" } @wanted)
	  . qq{, NULLIF(j #> '{user}', 'null'), NULLIF(j #> '{items,0}', 'null'), (j #>> '{user,num}')::numeric FROM ($jsonb) d},
	'paths: a query finds what jsonb finds');
is_stream('deep', 'SELECT p0, count(*), sum(id) FROM deep GROUP BY p0',
	"SELECT j #>> '{user,id}', count(*), sum((j #>> '{user,num}')::numeric) FROM ($jsonb) d GROUP BY 1", scalar @docs, 'paths');
cmp_ok(sql('SELECT count(p0) FROM deep WHERE p3 IS NOT NULL OR p0 IS NOT NULL'), '>', 10, 'paths: there is something to find');

# INSERT makes the objects
create_format('nested', 'json', q{id int OPTIONS (path 'user.id'), name text OPTIONS (path '{user,full.name}'), whole jsonb OPTIONS (path 'user'),
	z int OPTIONS (path 'x.y.z'), plain text, at timestamptz OPTIONS (path 'x.at', unit 's')});
sql(q{INSERT INTO nested (id, name, z, plain, at) VALUES (1, 'q"', 2, 'p', '2026-01-02 03:04:05.678901Z'), (NULL, 'only', NULL, NULL, 'infinity'),
		(NULL, NULL, NULL, NULL, '1969-12-31 23:59:59.9Z')});
sql(q{INSERT INTO nested (whole) VALUES ('{"id": 5, "k": []}')});
is(sql(q{SELECT convert_from(v, 'UTF8') FROM nested_bytes ORDER BY pos}), join("\n",
		'{"user":{"id":1,"full.name":"q\""},"x":{"y":{"z":2},"at":1767323045.678901},"plain":"p"}',
		'{"user":{"id":null,"full.name":"only"},"x":{"y":{"z":null},"at":"infinity"},"plain":null}',
		'{"user":null,"x":{"y":{"z":null},"at":-0.1},"plain":null}',
		'{"user":{"k": [], "id": 5},"x":{"y":{"z":null},"at":null},"plain":null}'), 'paths: INSERT makes the objects around');
is(sql(q{SELECT id, name, whole IS NULL, z, plain, at FROM nested}), join("\n",
		'1|q"|f|2|p|2026-01-02 03:04:05.678901+00', '|only|f|||infinity', '||t|||1969-12-31 23:59:59.9+00', '5||f|||'),
	'paths: and they read back');
like(error_of(q{INSERT INTO nested (id, whole) VALUES (1, '{}')}), qr/columns "whole" and "id" cannot both be inserted/,
	'paths: a value and a part of it cannot both be inserted');

# ---------- units ----------

my %microseconds = (s => 1000000, ms => 1000, us => 1, ns => 0.001);
my @times = ('0', '1', '-1', '1767323045', '1767323045.678901', '1767323045678', '1767323045678.901', '1767323045678901',
	'1767323045678901234', '-1767323045678901500', '1e3', '1.5e-6', '499', '500', '1500', '-499', '-500', '0.0000005', '-0.0000005', '2.5',
	'99999999999.999999', '1e400', '9223372036854775807', '-9223372036854775808', '1e30', '-62135596800000000');
# microseconds to a time without a float on the way; NULL if there is none
sql(q{CREATE FUNCTION wanted_time(n numeric, microseconds numeric) RETURNS timestamp LANGUAGE plpgsql AS $$
	DECLARE us bigint;
	BEGIN
		us := round(n * microseconds)::bigint;
		RETURN timestamp '1970-01-01' + us / 1000000 / 86400 * interval '1 day' + us / 1000000 % 86400 * interval '1 second'
			+ us % 1000000 * interval '1 microsecond';
	EXCEPTION WHEN OTHERS THEN RETURN NULL;
	END $$});
for my $unit (sort keys %microseconds)
{
	create_format("unit_$unit", 'json', "pos bigint OPTIONS (metadata 'offset'), a timestamptz OPTIONS (unit '$unit'),
		b timestamp OPTIONS (field 'a', unit '$unit'), c timestamptz(0) OPTIONS (field 'a', unit '$unit')");
	put("unit_$unit", map { "{\"a\":$_}" } @times, '"2026-01-02T03:04:05Z"', 'null');
	# a stream that skips what does not decode: what is left is what can be a time
	my $wanted = join(', ', map { "($_, '$times[$_]')" } 0 .. $#times);
	sql("SELECT stream_agg.create_stream('timed', 'SELECT pos, max(a) AS a, max(b) AS b, max(c) AS c FROM unit_$unit GROUP BY pos',
		output_mode => 'complete', options => '{\"on_error\": \"skip\"}')");
	process($node, 'timed');
	is(sql(qq{SELECT n, a, b, c, want FROM (VALUES $wanted) v (pos, n) LEFT JOIN timed USING (pos), LATERAL wanted_time(n::numeric, $microseconds{$unit}) AS want
			WHERE (a AT TIME ZONE 'UTC', b, c) IS DISTINCT FROM (want, want, (want AT TIME ZONE 'UTC')::timestamptz(0)) LIMIT 5}),
		'', "unit $unit: numbers are times, exact to the microsecond, or refused");
	cmp_ok(sql('SELECT count(*) FROM timed'), '<', @times + 2, "unit $unit: some are refused");
	sql(q{SELECT stream_agg.drop_stream('timed', drop_sink => true)});
	is(sql("SELECT a FROM unit_$unit WHERE pos >= " . scalar(@times)), "2026-01-02 03:04:05+00\n", "unit $unit: texts and null as ever");
	sql("INSERT INTO unit_$unit (a) VALUES ('2026-01-02 03:04:05.678901Z'), ('0001-01-01Z'), ('294000-01-01Z')");
	is(sql("SELECT a FROM unit_$unit WHERE pos >= " . (@times + 2)),
		"2026-01-02 03:04:05.678901+00\n0001-01-01 00:00:00+00\n294000-01-01 00:00:00+00", "unit $unit: what is inserted reads back");
}

# ---------- csv ----------

# what COPY makes of the bytes: one row, else an error
sql(q{
	CREATE TABLE copied (a text, b text);
	CREATE FUNCTION by_copy(v bytea) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE result text;
	BEGIN
		TRUNCATE copied;
		EXECUTE format('COPY copied FROM PROGRAM %L WITH (FORMAT csv, NULL %L)',
			format('perl -e ''print pack(q(H*), shift)'' ''%s''', encode(v, 'hex')), 'N');
		SELECT copied::text INTO STRICT result FROM copied;
		RETURN result;
	EXCEPTION WHEN OTHERS THEN RETURN 'error';
	END $$});
create_format('rows', 'csv', 'a text, pos bigint OPTIONS (metadata $$offset$$), b text', '"null": "N"');
my @pieces = (',', ',', ',', '"', '"', '""', 'a', 'bc', ' ', "\n", "\r\n", "\r", 'N', "\xc3\xa4", "'", '1', ';');
my @rows = ('a,b', 'a,b,c', 'a', 'N,"N"', '"a,b","c""d"', "\"two\nlines\",x\n", "a,b\r\n", "a,b\r", "a,b\nc,d", '"open,b', 'a"b"c,d', ',', "\"\",\n",
	"a,\xff");
push @rows, join('', map { $pieces[$random->(scalar @pieces)] } 0 .. 2 + $random->(7)) for 1 .. 120;
put('rows', @rows);
sql(q{CREATE TABLE by_copy AS SELECT pos, v, by_copy(v) AS r FROM rows_bytes; DELETE FROM by_copy WHERE r = 'error'});
is_stream('rows', 'SELECT pos, max(a) AS a, max(b) AS b FROM rows GROUP BY pos', 'SELECT pos, (r::copied).a, (r::copied).b FROM by_copy',
	scalar @rows, 'csv: what COPY takes is taken, and nothing else', '{"on_error": "skip"}');
my $good_rows = sql(q{SELECT count(*) FROM by_copy});
cmp_ok($good_rows, '>=', 8, "csv: $good_rows of " . scalar(@rows) . ' random rows are rows');
my $last = sql('SELECT max(pos) FROM by_copy');
is(sql("SELECT (a, b)::text FROM rows WHERE pos = $last"), sql("SELECT r FROM by_copy WHERE pos = $last"), 'csv: a query reads them too');

# values of all types, as their input functions read them
my @types = ('smallint', 'integer', 'bigint', 'real', 'double precision', 'numeric', 'numeric(6,2)', 'boolean', 'text', 'varchar(5)',
	'timestamptz', 'timestamp', 'date', 'uuid', 'bytea', 'jsonb', 'json', 'integer[]', 'positive', 'interval');
my @fields = ('1', '-1', '0', '-0', '-0.0', '00', '01', '+1', '1.', '.5', '-.5', '1.50', '1e2', '1e400', '32768', '2147483648', '9223372036854775808',
	'1234.567', '99999.99', '0.1', '123456789012345678901234567890.1', 'NaN', ' 1 ', '1 ', 'abc', 'abcdef', 't', 'null', '"x"', '{"a": [1, 2]}',
	'{1,2}', '2026-01-02', '2026-01-02T03:04:05.678Z', '2026-01-02 03:04:05', '2026-02-30', '1767323045678', '\\x00ff', 'a\\b',
	'6f1b1e3c-7e4d-4b7e-8f2a-0123456789ab', '1 day', 'infinity', '1_000', '0x10', "1\t", '-', '', '1-2');
sql(q{CREATE DOMAIN positive AS int CHECK (VALUE > 0);
	CREATE FUNCTION cast_text(v text, type text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE result text;
	BEGIN
		-- a cast to json reads it; one to varchar(n) would cut it off
		IF type LIKE 'json%' THEN EXECUTE format('SELECT ($1::%s)::text', type) INTO result USING v;
		ELSE EXECUTE format('SELECT v::text FROM jsonb_to_record(jsonb_build_object(%L, $1)) AS x(v %s)', 'v', type) INTO result USING v;
		END IF;
		RETURN result;
	EXCEPTION WHEN OTHERS THEN RETURN 'error';
	END $$;});
create_format('csv_values', 'csv', 'v text, pos bigint OPTIONS (metadata $$offset$$)', '"null": "none"');
put('csv_values', map { (my $f = $_) =~ s/"/""/g; "\"$f\"" } @fields);
sql("CREATE FOREIGN TABLE csv_$_ (v $types[$_], pos bigint OPTIONS (metadata 'offset')) SERVER "
	  . sql(q{SELECT quote_ident(srvname) FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$ LIMIT 1}) . " OPTIONS (topic 'csv_values', format 'csv')") for 0 .. $#types;
my $wrong = '';
for my $i (0 .. $#types)
{
	# a stream that skips what does not decode: what is left is what can be cast
	sql("SELECT stream_agg.create_stream('typed', 'SELECT pos, max(v::text) AS v FROM csv_$i GROUP BY pos', output_mode => 'complete',
		options => '{\"on_error\": \"skip\"}')");
	process($node, 'typed');
	my $difference = sql(qq{SELECT f.v, t.v, wanted FROM csv_values f LEFT JOIN typed t USING (pos), LATERAL cast_text(f.v, '$types[$i]') AS wanted
		WHERE COALESCE(t.v, 'error') <> wanted LIMIT 5});
	$wrong .= "$types[$i]: $difference\n" if $difference ne '';
	sql(q{SELECT stream_agg.drop_stream('typed', drop_sink => true)});
}
is($wrong, '', 'csv: ' . scalar(@fields) . ' values in ' . scalar(@types) . ' types are what their input functions give');

# INSERT and back
create_format('written', 'csv', 'a text, b int, t timestamptz OPTIONS (unit $$ms$$), c numeric[], d timestamptz, k text OPTIONS (metadata $$key$$)',
	'"delimiter": ";", "quote": "\'"');
sql(q{CREATE TABLE originals AS SELECT * FROM (VALUES ('a;b', 1, timestamptz '2026-01-02 03:04:05.678Z', ARRAY[1.5, NULL], timestamptz '2026-01-02Z', 'k1'),
		('it''s', NULL, NULL, '{}', 'infinity', NULL), (NULL, 2, '1960-01-01Z', NULL, NULL, 'k2'), ('', 3, NULL, NULL, NULL, NULL),
		(E'two\nlines\r', 4, NULL, NULL, NULL, 'ä')) v (a, b, t, c, d, k)});
sql(q{SET datestyle = 'German'; INSERT INTO written SELECT * FROM originals});
is_equal_tables($node, 'SELECT * FROM written', 'SELECT * FROM originals', 'csv: what is inserted reads back, keys too');
is(sql(q{SELECT convert_from(v, 'UTF8') FROM written_bytes WHERE pos < 2}), "'a;b';1;1767323045678;{1.5,NULL};2026-01-02 00:00:00+00\n'it''s';;;{};infinity",
	'csv: as RFC 4180 has it');
put('written', undef);
like(error_of('SELECT * FROM written'), qr/record has no value/, 'csv: a tombstone is no row');

# ---------- text and raw ----------

create_format('lines', 'text', 'v text, k bytea OPTIONS (metadata $$key$$), h jsonb OPTIONS (metadata $$headers$$)');
sql(q{INSERT INTO lines VALUES ('plain', '\x00ff', '[{"key": "a", "value": "b"}]'), (E'tab\tä\n', NULL, NULL), ('', 'k', NULL), (NULL, 'gone', NULL)});
is(sql(q{SELECT v IS NULL, encode(v::bytea, 'hex'), encode(k, 'hex'), h FROM lines}),
	"f|706c61696e|00ff|[{\"key\": \"a\", \"value\": \"b\"}]\nf|746162" . '09c3a40a' . "||\nf||6b|\nt||676f6e65|", 'text: the whole value, with key and headers');
is(sql(q{SELECT v IS NULL FROM lines_bytes ORDER BY pos}), "f\nf\nf\nt", 'text: NULL is a record without value, and not an empty one');
put('lines', "\xff", "a\0b");
like(error_of('SELECT * FROM lines'), qr/invalid text record: not UTF-8 text.*offset 4/s, 'text: what is no text is an error');
my $stream = is_stream('lines', 'SELECT v, count(*) FROM lines GROUP BY v',
	q{SELECT convert_from(v, 'UTF8'), count(*) FROM lines_bytes WHERE pos < 4 GROUP BY 1}, 6, 'text, dead letters', '{"on_error": "dead_letter"}');
is(sql("SELECT \"offset\", value FROM stream_agg.dead_letters WHERE stream = '$stream' ORDER BY 1"), "4|\\xff\n5|\\x610062", 'text: dead letters have the bytes');
create_format('documents', 'text', 'v jsonb');
put('documents', '{"a": [1]}', '[2]', '3', 'null');
is(sql('SELECT v, v IS NULL FROM documents'), "{\"a\": [1]}|f\n[2]|f\n3|f\nnull|f", 'text: a value of any type, such as jsonb that is no object');
put('documents', '{"a": ');
like(error_of('SELECT v FROM documents'), qr/value for field "v" is not a valid jsonb/, 'text: a value that its type does not take is an error');

create_format('blobs', 'raw', 'v bytea, k text OPTIONS (metadata $$key$$)');
sql(q{INSERT INTO blobs (v, k) VALUES ('\x00ff', 'a'), ('', NULL), (NULL, 'b')});
is(sql('SELECT v, k, v IS NULL FROM blobs'), "\\x00ff|a|f\n\\x||f\n|b|t", 'raw: the bytes as they are');
is_stream('blobs', 'SELECT length(v) AS l, count(*) FROM blobs GROUP BY 1', 'VALUES (2, 1::bigint), (0, 1), (NULL, 1)', 3, 'raw');

# ---------- debezium ----------

my $columns = q{id int, name text, city text OPTIONS (path 'address.city'), at timestamptz OPTIONS (envelope 'source.ts_ms'),
	op text OPTIONS (envelope 'op'), row jsonb OPTIONS (envelope 'after')};
create_format('changes', 'debezium', $columns, '"other_operations": "ignore"');
my @events;
for my $i (1 .. 200)
{
	my $op = ('c', 'c', 'r', 'u', 'd', 't', 'm')[ $random->(7) ];
	my $after = $op =~ /[cru]/ ? "{\"id\":$i,\"name\":\"n" . $random->(5) . "\",\"address\":{\"city\":\"c" . $random->(3) . '"},"op":"no","payload":1}' : 'null';
	my $event = "\"before\":null,\"after\":$after,\"source\":{\"ts_ms\":" . (1767323045000 + $i) . "},\"op\":\"$op\",\"ts_ms\":1";
	push @events, $random->(2) ? "{$event}" : "{\"schema\":{\"type\":\"struct\",\"fields\":[{\"field\":\"after\"}]},\"payload\":{$event}}";
}
put('changes', @events, undef, '{"schema":null,"payload":null}');
my $inserts = q{
	SELECT e -> 'after' AS a, e FROM (SELECT COALESCE(j -> 'payload', j) AS e
	  FROM (SELECT convert_from(v, 'UTF8')::jsonb AS j FROM changes_bytes WHERE v IS NOT NULL) d) x WHERE e ->> 'op' IN ('c', 'r')};
is_equal_tables($node, 'SELECT * FROM changes', qq{
		SELECT (a ->> 'id')::int, a ->> 'name', a #>> '{address,city}', to_timestamp((e #>> '{source,ts_ms}')::numeric / 1000), e ->> 'op', a FROM ($inserts) i},
	'debezium: inserts and snapshots are records, with and without the schema around them');
$stream = is_stream('changes', 'SELECT name, count(*) FROM changes GROUP BY name', "SELECT a ->> 'name', count(*) FROM ($inserts) i GROUP BY 1",
	scalar(@events) + 2, 'debezium');
is(sql("SELECT total_filtered FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1"),
	sql("SELECT (SELECT count(*) FROM changes_bytes) - (SELECT count(*) FROM ($inserts) i)"), 'debezium: other operations are counted as filtered');

my %refused = ('{"op":"u","before":{},"after":{}}' => 'change other than an insert: update', '{"payload":{"op":"d","after":null}}' => 'delete',
	'{"op":"t"}' => 'truncate', '{"payload":null}' => 'tombstone', '' => 'invalid JSON record');
my @no_events = ('{"id":1}', '{"op":"c"}', '{"op":"c","after":null}', '{"op":"c","after":[]}', '{"op":"x","after":{}}', '{"op":1,"after":{}}',
	'{"op":"c","after":{},"payload":{}}', '{"payload":{"op":"c"}}', '{"payload":7}', '{"op":"cc","after":{}}');
create_format('strict', 'debezium', 'id int, pos bigint OPTIONS (metadata $$offset$$)');
put('strict', (sort keys %refused), @no_events, '{"op":"c","after":{"id":1}}', undef);
my $pos = 0;
like(error_of('SELECT * FROM strict WHERE pos = ' . $pos++), qr/SA001|$refused{$_}/, "debezium: refused: $_") for sort keys %refused;
is(join('', map { error_of('SELECT * FROM strict WHERE pos = ' . $pos++) =~ /not a change event of Debezium/ ? '' : "taken: $_" } @no_events), '',
	'debezium: what is no event is an error');
like(error_of('SELECT * FROM strict WHERE pos = ' . ($pos + 1)), qr/tombstone/, 'debezium: so is a tombstone, as other operations are');
is_stream('strict', 'SELECT id, count(*) FROM strict GROUP BY id', 'VALUES (1, 1::bigint)', $pos + 2, 'debezium, refusing', '{"on_error": "skip"}');

# a stream fails at the first one by default, and goes on without it by option
sql(q{SELECT stream_agg.create_stream('fails', 'SELECT id, count(*) FROM strict GROUP BY id', output_mode => 'complete')});
wait_state($node, 'fails', 'failed', 'invalid JSON record|change other than an insert|not a change event');
sql(q{SELECT stream_agg.alter_stream('fails', '{"on_error": "skip"}'), stream_agg.start_stream('fails')});
process($node, 'fails');
is(sql('SELECT * FROM fails'), '1|1', 'debezium: a stream that failed goes on without such records');

done_testing();
