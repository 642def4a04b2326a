# Looking at a topic with records that do not decode, and numbers, words and
# tombstones that a first day meets: what a query, a stream and preview make of
# them.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(bad => 2, values => 1, deletes => 1, events => 1);
my $node = new_node('bad_records');
my $brokers = $broker->brokers;
my $fast = '"fetch.wait.max.ms": 20';

sub sql { return $node->safe_psql('postgres', $_[0]); }

# what an error says, 'no error' if there is none
sub error_of
{
	my ($status, $out, $err) = $node->psql('postgres', $_[0]);
	return $status == 0 ? 'no error' : $err;
}

sub source
{
	my ($name, $topic, $columns, $options, $format) = @_;
	$options = $options ? ", $options" : '';
	$format //= 'json';
	sql("SELECT stream_agg.create_source('$name', topic => '$topic', brokers => '$brokers', format => '$format',
		columns => \$c\$$columns\$c\$, options => \$o\${$fast$options}\$o\$)");
	return;
}

# --- 2.3: partition 0 has a tombstone, what is no JSON, and a wrong number;
# partition 1 is good
$broker->produce('bad', [ 0, 'a', '{"v": 1}' ], [ 0, 'b', '\\N' ], [ 0, 'c', '{"v": 2}' ], [ 0, 'd', 'no json' ],
	[ 0, 'e', '{"v": "three"}' ], [ 0, 'f', '{"v": 4}' ], [ 1, 'g', '{"v": 10}' ], [ 1, 'h', '{"v": 20}' ]);
my $columns = q{v int, k text OPTIONS (metadata 'key'), part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset'),
	kts timestamptz OPTIONS (metadata 'timestamp'), top text OPTIONS (metadata 'topic'), h jsonb OPTIONS (metadata 'headers')};
source('bad', 'bad', $columns);

like(error_of('SELECT v FROM bad'), qr/record has no value.*tombstones could be ignore or null/s, '2.3: a query of values fails as ever, and says what could be done');
is(sql('SELECT count(*) FROM bad'), '8', '2.3: what reads no value decodes nothing: count(*)');
is(sql('SELECT part, off, k, kts IS NOT NULL, top, h FROM bad ORDER BY part, off LIMIT 3 OFFSET 1'), "0|1|b|t|bad|\n0|2|c|t|bad|\n0|3|d|t|bad|",
	'2.3: what reads no value decodes nothing: metadata');
for my $condition ('off <> 1 AND off < 3', 'off NOT IN (1, 3, 4) AND part = 0', 'off IN (0, 2, 5) AND part + 0 = 0', '(off < 1 OR off = 2 OR off = 5) AND part = 0',
	"k IN ('a', 'c', 'f')", "k ~ '[acf]' AND length(top) = 3", "(part, off) IN ((0, 0), (0, 2), (0, 5))", 'part = 1',
	"off <> ALL (ARRAY[1, 3, 4]) AND kts + interval '1 day' > '2000-01-01'", 'off IN (0, 2, 5) AND v > 0 AND part = 0')
{
	my $values = $condition eq 'part = 1' ? '10 20' : $condition =~ /^off <> 1/ ? '1 2 10' : $condition =~ /^off <> ALL/ ? '1 2 4 10' : '1 2 4';
	is(sql("SELECT string_agg(v::text, ' ' ORDER BY v) FROM bad WHERE $condition"), $values, "2.3: tested before decoding: $condition");
}
sql(q{CREATE FUNCTION is_good(bigint) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN $1 NOT IN (1, 3, 4); END $$;
	CREATE FUNCTION sure(bigint) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1 NOT IN (1, 3, 4); END $$});
is(sql('SELECT sum(v) FROM bad WHERE sure(off)'), '17', '2.3: tested before decoding: an immutable function');
like(error_of('SELECT sum(v) FROM bad WHERE is_good(off)'), qr/record has no value/, '2.3: a volatile function is called for rows only');
is(sql(q{SELECT sum(b.v) FROM (VALUES (0, 0), (0, 2), (1, 1)) x (p, o), LATERAL (SELECT v FROM bad WHERE part = p AND off = o OFFSET 0) b}), '23',
	'2.3: conditions of each row of a join');
is(sql(q{PREPARE p (bigint[]) AS SELECT sum(v) FROM bad WHERE off <> ALL ($1); SET plan_cache_mode = force_generic_plan; EXECUTE p ('{1,3,4}'); EXECUTE p ('{0,1,3,4}')}),
	"17\n6", '2.3: and of a prepared statement');
sql(q{CREATE TABLE seen (off bigint);
	CREATE FUNCTION spy(bigint) RETURNS bool LANGUAGE plpgsql IMMUTABLE COST 0.0001 AS $$ BEGIN RAISE NOTICE 'seen %', $1; RETURN true; END $$;
	CREATE VIEW hidden WITH (security_barrier) AS SELECT off, v FROM bad WHERE part = 0 AND v > 1 AND off NOT IN (1, 3, 4)});
my ($status, $out, $notices) = $node->psql('postgres', 'SELECT off FROM hidden WHERE spy(off)');
is("$out|" . join(' ', $notices =~ /seen (\d+)/g), "2\n5|2 5", '2.3: a view with a security barrier hides its rows from conditions as ever');

# --- 2.3: on_error for queries
source('skipped', 'bad', "$columns, why text OPTIONS (metadata 'error')", '"on_error": "skip"');
source('nulled', 'bad', "$columns, why text OPTIONS (metadata 'error')", '"on_error": "null"');
is(sql("SELECT string_agg(v::text, ' ' ORDER BY v), count(*), count(why) FROM skipped"), '1 2 4 10 20|5|0', '2.3: on_error skip leaves bad records out');
is(sql('SELECT count(*) FROM skipped'), '6', '2.3: on_error skip: what is no record is left out whatever is read, a wrong value where it is read');
is(sql("SELECT part, off, v, k, why FROM nulled ORDER BY part, off"), "0|0|1|a|\n0|1||b|record has no value\nDETAIL:  A record with a key and no value (a tombstone) cannot be decoded as JSON. The source's option tombstones could be ignore or null.\n"
	  . "0|2|2|c|\n0|3||d|invalid JSON record: not an object\nDETAIL:  The error is at byte 1 of 7.\n"
	  . "0|4||e|value for field \"v\" is not a valid integer\nDETAIL:  Its conversion failed: invalid input syntax for type integer: \"three\".\n0|5|4|f|\n1|0|10|g|\n1|1|20|h|",
	'2.3: on_error null: bad records are NULL, and column error says why');
is(sql("SELECT off FROM nulled WHERE why IS NOT NULL ORDER BY off"), "1\n3\n4", '2.3: the column error is about all columns, whichever are read');
is(sql('SELECT count(*), count(v) FROM nulled'), '8|5', '2.3: on_error null: every record is a row');
is(sql("SELECT string_agg(split_part(why, E'\\n', 1), '; ' ORDER BY off) FROM nulled WHERE part = 0 AND off > 1 AND why ~ 'JSON'"), 'invalid JSON record: not an object', '2.3: conditions on the error');
sql(q{ALTER FOREIGN TABLE bad OPTIONS (ADD on_error 'skip')});
is(sql('SELECT sum(v) FROM bad'), '37', '2.3: the option can be added to a source');
like(error_of(q{ALTER FOREIGN TABLE bad OPTIONS (SET on_error 'ignore')}), qr/invalid value for option "on_error": "ignore".*fail, skip and null/s, '2.3: and is checked');
like(error_of(q{INSERT INTO nulled (v, why) VALUES (1, 'x')}), qr/cannot insert a value into column "why"/, '2.3: nobody inserts errors');

# a stream has a policy of its own
sql(q{SELECT stream_agg.create_stream('strict', 'SELECT part, sum(v) FROM nulled GROUP BY part', output_mode => 'complete')});
like(error_of(q{SELECT stream_agg.process_available('strict')}), qr/stream "strict" (has )?failed.*record has no value/s, '2.3: a stream follows its own on_error, not that of its source');
sql(q{SELECT stream_agg.create_stream('lenient', 'SELECT part, sum(v), count(why) FROM skipped GROUP BY part', output_mode => 'complete', options => '{"on_error": "dead_letter"}')});
process($node, 'lenient');
is_equal_tables($node, 'TABLE lenient', 'TABLE lenient_query', '2.3: <stream>_query can be run on such a topic, and equals the stream');
is(sql(q{SELECT "offset" FROM stream_agg.dead_letters WHERE stream = 'lenient' ORDER BY 1}), "1\n3\n4", '2.3: whose dead letters are what the query leaves out');

# --- 2.3: preview of the text of a query
like(error_of(q{SELECT * FROM stream_agg.preview('SELECT part, sum(v) FROM nulled GROUP BY part')}), qr/record has no value/, '2.3: preview of a query fails at a bad record');
for my $policy ('skip', 'dead_letter')
{
	is(sql(qq{SELECT data ->> 'part', data ->> 'sum' FROM stream_agg.preview('SELECT part, sum(v) FROM nulled GROUP BY part', options => '{"on_error": "$policy"}') ORDER BY 1}),
		"0|7\n1|30", "2.3: preview of a query with the option on_error $policy");
}
is(sql(q{SELECT data ->> 'n' FROM stream_agg.preview('SELECT stream_agg.tumble(kts, ''1 hour'') AS w, count(*) AS n FROM bad WHERE part = 1 GROUP BY 1', watermark => '1 minute',
	options => '{"on_error": "skip", "watermark_policy": "per_partition", "max_future": "400 days"}')}), '2', '2.3: and with others');
like(error_of(q{SELECT * FROM stream_agg.preview('SELECT part, sum(v) FROM nulled GROUP BY part', options => '{"on_errors": "skip"}')}), qr/unknown option "on_errors" of a stream/, '2.3: which are checked');
like(error_of(q{SELECT * FROM stream_agg.preview('lenient', options => '{"on_error": "skip"}')}), qr/cannot be given for existing stream/, '2.3: a stream has options already');

# --- 2.7: numbers and words
my @numbers = ('12.0', '1e3', '12.5', '-12.5', '12.4999', '-0.4', '0.5', '1.0e-1', '9007199254740993.0', '2147483647.4');
$broker->produce('values', map { "{\"n\": $_}" } @numbers);
source('numbers', 'values', q{n bigint, off bigint OPTIONS (metadata 'offset')});
is(sql("SELECT string_agg(n::text, ' ' ORDER BY off) FROM numbers"), sql('SELECT string_agg(n::jsonb::bigint::text, \' \' ORDER BY o) FROM unnest(ARRAY[' . join(',', map { "'$_'" } @numbers) . ']) WITH ORDINALITY x (n, o)'),
	'2.7: numbers with decimals or an exponent are integers as jsonb casts them');
source('small', 'values', q{n smallint, off bigint OPTIONS (metadata 'offset')}, '"on_error": "null"');
is(sql("SELECT string_agg(COALESCE(n::text, '-'), ' ' ORDER BY off) FROM small"), '12 1000 13 -13 12 0 1 0 - -', '2.7: out of range is an error');
source('as_array', 'values', q{n int[] OPTIONS (field 'n'), off bigint OPTIONS (metadata 'offset')}, '"on_error": "null"');
$broker->create_topic('words', 1);
my @words = ('now', 'NOW', ' today ', 'tomorrow', 'yesterday 12:00', 'Today allballs', '2026-01-02', 'epoch', 'infinity', '-infinity', 'knowing');
$broker->produce('words', map { "{\"t\": \"$_\"}" } @words);
for my $type ('timestamptz', 'timestamp', 'date', 'time', 'timetz')
{
	source("words_$type", 'words', "t $type, off bigint OPTIONS (metadata 'offset'), why text OPTIONS (metadata 'error')", '"on_error": "null"');
	is(sql("SELECT string_agg(off::text, ' ' ORDER BY off) FROM words_$type WHERE why ~ 'in a record is not a date or time'"), '0 1 2 3 4 5',
		"words for the clock's time are no $type");
}
is(sql('SELECT string_agg(t::text, \' \' ORDER BY off) FROM words_date'), '2026-01-02 1970-01-01 infinity -infinity', 'words for a time that stays are times');
source('ranges', 'words', "t tstzrange OPTIONS (field 't'), why text OPTIONS (metadata 'error')", '"on_error": "null"');
$broker->produce('words', '{"t": "[now,infinity)"}', '{"t": "[2026-01-01,infinity)"}');
is(sql("SELECT count(t), count(*) FILTER (WHERE why ~ '\"now\" in a record is not a date or time') FROM ranges"), '1|1', 'nor in a range of times');

# --- 2.4: tombstones
$broker->produce('deletes', [ 0, 'a', '{"v": 1}' ], [ 0, 'a', '\\N' ], [ 0, 'b', '{"v": 2}' ], [ 0, 'c', '\\N' ]);
my $keyed = q{v int, k text OPTIONS (metadata 'key')};
source("deletes_$_", 'deletes', $keyed, "\"tombstones\": \"$_\"") for ('fail', 'ignore', 'null');
like(error_of('SELECT * FROM deletes_fail'), qr/record has no value/, '2.4: tombstones fail');
is(sql('SELECT k, v FROM deletes_ignore ORDER BY v'), "a|1\nb|2", '2.4: tombstones ignore');
is(sql('SELECT count(*) FROM deletes_ignore'), '2', '2.4: tombstones ignore: whatever is read');
is(sql('SELECT k, v FROM deletes_null ORDER BY v, k'), "a|1\nb|2\na|\nc|", '2.4: tombstones null');
sql(qq{SELECT stream_agg.create_stream('kept_$_', 'SELECT k, count(*), sum(v) FROM deletes_$_ GROUP BY k', output_mode => 'complete')}) for ('ignore', 'null');
for my $kind ('ignore', 'null')
{
	process($node, "kept_$kind");
	is_equal_tables($node, "TABLE kept_$kind", "TABLE kept_${kind}_query", "2.4: tombstones $kind: a stream equals the query");
	is(sql("SELECT total_filtered, total_dead_lettered, total_aggregated FROM stream_agg.commits WHERE stream = 'kept_$kind' ORDER BY batch DESC LIMIT 1"),
		$kind eq 'ignore' ? '2|0|2' : '0|0|4', "2.4: tombstones $kind: how they are counted");
}
source('deletes_text', 'deletes', q{v text}, '"tombstones": "ignore"', 'text');
is(sql('SELECT count(*), count(v) FROM deletes_text'), '2|2', '2.4: tombstones of other formats: text');
source('deletes_raw', 'deletes', q{v bytea}, '"tombstones": "fail"', 'raw');
like(error_of('SELECT v FROM deletes_raw'), qr/record has no value/, '2.4: tombstones of other formats: raw');
like(error_of(qq{SELECT stream_agg.create_source('no', topic => 'deletes', brokers => '$brokers', columns => 'v int', options => '{$fast, "tombstones": "drop"}')}),
	qr/invalid value for option "tombstones": "drop".*fail, ignore and null/s, '2.4: the option is checked');
like(error_of(qq{SELECT stream_agg.create_source('no', topic => 'deletes', brokers => '$brokers', columns => 'v int', format => 'debezium', options => '{$fast, "tombstones": "null"}')}),
	qr/option "tombstones" is not for sources of format debezium.*other_operations/s, '2.4: Debezium has an option of its own');

# --- domains over columns with metadata
$broker->create_topic('domains', 2);
$broker->produce('domains', [ 0, 'a', '{"v": 1}' ], [ 0, 'bb', '{"v": 2}' ], [ 1, 'a', '{"v": 4}' ]);
sql(q{CREATE DOMAIN not_first AS int CHECK (VALUE > 0); CREATE DOMAIN short_key AS bytea CHECK (length(VALUE) < 2); CREATE DOMAIN told AS jsonb NOT NULL; CREATE DOMAIN why AS text});
my %domains = (not_first => [ q{metadata 'partition'}, qr/value for domain not_first violates check constraint/, 1, 4 ],
	short_key => [ q{metadata 'key'}, qr/value for domain short_key violates check constraint/, 2, 5 ],
	told => [ q{metadata 'headers'}, qr/domain told does not allow null values/, 0, '' ]);
for my $domain (sort keys %domains)
{
	my ($metadata, $error, $good, $sum) = @{ $domains{$domain} };
	source("of_$domain", 'domains', "v int, m $domain OPTIONS ($metadata), part int OPTIONS (metadata 'partition'), off bigint OPTIONS (metadata 'offset')");
	like(error_of("SELECT m FROM of_$domain"), $error, "constraints of a domain over metadata hold in a query: $domain");
	like(error_of("SELECT v FROM of_$domain WHERE m IS NOT NULL"), $error, 'in its conditions');
	sql("SELECT stream_agg.create_stream('stream_of_$domain', 'SELECT count(*) AS n, sum(v) AS s, count(m) AS m FROM of_$domain', output_mode => 'update', options => '{\"on_error\": \"skip\"}')");
	process($node, "stream_of_$domain");
	is(sql("SELECT n, s FROM stream_of_$domain"), "$good|$sum", 'and in a stream, which leaves the others out');
	sql("SELECT stream_agg.drop_stream('stream_of_$domain')");
}
like(error_of(qq{SELECT stream_agg.create_source('of_why', topic => 'domains', brokers => '$brokers', columns => 'v int, m why OPTIONS (metadata \$\$error\$\$)')}),
	qr/column "m" is of type why, but the error of a record is text/, 'of the error there is none');
is(sql(q{SELECT string_agg(m::text, ' ' ORDER BY v) FROM of_short_key WHERE part = 1 OR off <> 1}), '\x61 \x61', 'a domain over bytea has bytes');

done_testing();
