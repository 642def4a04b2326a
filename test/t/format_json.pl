# A field of a record becomes the value that PostgreSQL's own jsonb would give
# for it, or an error where jsonb gives one: over values of every kind and
# columns of every type.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my @types = ('smallint', 'integer', 'bigint', 'real', 'double precision', 'numeric', 'numeric(6,2)',
	'boolean', 'text', 'varchar(5)', 'char(4)', 'timestamptz', 'timestamp', 'date', 'time', 'interval',
	'uuid', 'bytea', 'jsonb', 'json', 'integer[]', 'text[]', 'mood', 'positive', 'inet', 'int4range');

# values of the field, as JSON
my @values = ('null', 'true', 'false', '0', '-0', '1', '-1', '32767', '32768', '2147483648',
	'9223372036854775807', '9223372036854775808', '1.0', '1.5', '-1.25', '1e2', '1E-2', '1e400', '1.10',
	'0.1', '12.0', '1e3', '2.5', '-2.5', '12.49999', '-0.5', '0.4', '32767.4', '32767.5', '-32768.5', '9223372036854775807.4', '922337203685477580.75',
	'"now"', '"Today"', '"tomorrow"', '"yesterday 12:00"', '"epoch"', '123456789012345678901234567890', '1.123456789012345678901234567890', '1234.567', '99999.99',
	'""', '"1"', '" 1 "', '"1.0"', '"abc"', '"abcde"', '"abcdef"', '"true"', '"f"', '"NaN"', '"infinity"',
	'"2026-01-02T03:04:05.678901Z"', '"2026-01-02T03:04:05+05:30"', '"2026-01-02 03:04:05"', '"2026-01-02"',
	'"2026-02-30"', '"2026-01-02T24:00:00Z"', '"12:34:56"', '"1 day 2 hours"',
	'"6f1b1e3c-7e4d-4b7e-8f2a-0123456789ab"', '"\\\\x00ff"', '"a\\\\b"', '"\\u00e4\\n\\t\\""', '"\\ud83d\\ude00"',
	"\"\xc3\xa4\"", '{"a": [1, null, {"b": 2}]}', '{}', '[]', '[1, 2, 3]', '[null]', '["a", "b c"]', '[[1, 2], [3, 4]]',
	'[[1], [2, 3]]', '"{1,2}"', '"happy"', '"mad"', '"127.0.0.1/8"', '"[1,5)"');

# documents that are not a JSON object, or no JSON at all
my @invalid = ('', ' ', '[]', '1', 'null', '"a"', '{', '{"v":1', '{"v":1}}', '{"v":1} x', '{"v":1}{"v":2}', '{"v":nul}',
	'{"v":01}', '{"v":1.}', '{"v":.5}', '{"v":+1}', '{"v":NaN}', '{"v":1e}', '{v:1}', "{'v':1}", '{"v":1,}', '{,}',
	'{"v":[1,]}', '{"v":"a""b"}', '{"v":"\\ud83d"}', '{"v":"\\u0000"}', '{"v":"\\x"}', "{\"v\":\"a\tb\"}",
	"{\"v\":\"\xff\"}", "\xef\xbb\xbf{\"v\":1}", '{"v":1e131072}');
my @valid = ('{"v":1}', ' { "v" : 1 } ', '{"v":1,"v":2}', '{"v":2,"v":null}', '{"w":1}', '{}', '{"\\u0076":3}',
	'{"w":{"v":4},"v":5}', '{"v":' . '1' x 300 . '}', '{"v":' . '[' x 900 . ']' x 900 . '}');

my $broker = start_broker(none => 1);
my $node = new_node('decode');
$node->safe_psql('postgres', q{
	CREATE TYPE mood AS ENUM ('sad', 'happy');
	CREATE DOMAIN positive AS int CHECK (VALUE > 0);
	CREATE TABLE docs (n int, doc text);
	-- what jsonb makes of a field, as text; 'error' where it is one
	CREATE FUNCTION wanted(doc text, type text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		result text;
		field jsonb;
	BEGIN
		IF jsonb_typeof(doc::jsonb) <> 'object' THEN RETURN 'error'; END IF;
		field := doc::jsonb -> 'v';
		IF type IN ('json', 'jsonb') THEN
			result := NULLIF(field::text, 'null');
		ELSIF type IN ('timestamptz', 'timestamp') AND jsonb_typeof(field) = 'number' THEN
			EXECUTE format('SELECT (timestamptz %L + (%L::numeric / 1000) * interval %L)::%s::text',
				'1970-01-01 00:00Z', field::text, '1 second', type) INTO result;
		ELSIF type IN ('smallint', 'integer', 'bigint', 'positive') AND jsonb_typeof(field) = 'number' THEN
			EXECUTE format('SELECT (%L::jsonb::%s)::%s::text', field::text, CASE type WHEN 'positive' THEN 'integer' ELSE type END, type) INTO result;
		ELSIF type IN ('timestamptz', 'timestamp', 'date', 'time') AND field #>> '{}' ~* '\m(now|today|tomorrow|yesterday)\M' THEN
			RETURN 'error';
		ELSE
			EXECUTE format('SELECT v::text FROM jsonb_to_record(%L) AS x(v %s)', doc, type) INTO result;
		END IF;
		RETURN COALESCE(result, 'NULL');
	EXCEPTION WHEN OTHERS THEN RETURN 'error';
	END $$;
	CREATE FUNCTION got(source regclass, n bigint) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		result text;
	BEGIN
		EXECUTE format('SELECT COALESCE(v::text, %L) FROM %s WHERE pos = %s', 'NULL', source, n) INTO STRICT result;
		RETURN result;
	EXCEPTION WHEN OTHERS THEN RETURN 'error';
	END $$;
	ALTER DATABASE postgres SET timezone = 'UTC'});

my @docs = (@valid, @invalid, map { "{\"v\":$_}" } @values);
# what is not UTF-8 is no text: an error in any case
@docs = map { [ unpack('H*', $_), $_ !~ /\xff/ ] } @docs;
$node->safe_psql('postgres', 'INSERT INTO docs VALUES ' . join(', ', map {
	"($_, " . ($docs[$_][1] ? "convert_from('\\x$docs[$_][0]', 'UTF8')" : "'not UTF-8'") . ')' } 0 .. $#docs));

my $i = 0;
for my $type (@types)
{
	my $name = 'type_' . $i++;
	my @good = split /\n/, $node->safe_psql('postgres',
		"SELECT n FROM docs WHERE wanted(doc, '$type') <> 'error' ORDER BY n");
	my %good = map { $_ => 1 } @good;
	my @bad = grep { !$good{$_} } 0 .. $#docs;
	# a document on each line of the producer's input: none here has a line feed
	for my $kind ([ 'good', \@good ], [ 'bad', \@bad ])
	{
		my $topic = "${name}_$kind->[0]";
		$broker->create_topic($topic, 1);
		create_source($node, $broker, $topic, $topic, "v $type, pos bigint OPTIONS (metadata 'offset')");
		$broker->produce($topic, map { [ 0, '', pack('H*', $docs[$_][0]) ] } @{ $kind->[1] });
	}
	my $order = join(',', @good);
	# json keeps the text as it was written
	my $shown = $type eq 'json' ? 'g.v::jsonb::text' : 'g.v::text';
	is($node->safe_psql('postgres', qq{
			SELECT left(d.doc, 60), wanted(d.doc, '$type'), COALESCE($shown, 'NULL')
			  FROM ${name}_good g JOIN docs d ON d.n = (ARRAY[$order])[g.pos + 1]
			 WHERE COALESCE($shown, 'NULL') <> wanted(d.doc, '$type')}),
		'', "$type: " . scalar(@good) . ' documents give what jsonb gives');
	$order = join(',', @bad);
	is($node->safe_psql('postgres', qq{
			SELECT left(doc, 60), got FROM (
				SELECT doc, got('${name}_bad', pos) FROM unnest(ARRAY[$order]) WITH ORDINALITY AS u(n, o)
				  JOIN docs USING (n), LATERAL (SELECT o - 1 AS pos) p) x
			 WHERE got <> 'error'}),
		'', "$type: " . scalar(@bad) . ' documents are errors');
}

# which record it was
my ($status, $out, $err) = $node->psql('postgres', 'SELECT * FROM type_0_bad');
like($err, qr/record at topic "type_0_bad", partition 0, offset 0/, 'the record is named');

# narrower than jsonb: nesting is bounded
$broker->create_topic('deep', 1);
create_source($node, $broker, 'deep', 'deep', 'v jsonb');
$broker->produce('deep', '{"v":' . '[' x 1000 . ']' x 1000 . '}');
($status, $out, $err) = $node->psql('postgres', 'SELECT * FROM deep');
like($err, qr/nested too deeply/, 'nesting is bounded');

done_testing();
