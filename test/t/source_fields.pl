# Fields that a column does not find: names in another case, columns that are NULL
# throughout, and what describe_topic finds in a topic.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(camel => 1, cases => 1, events => 1, null_times => 1, sparse => 1);
my $node = new_node('fields');
my $brokers = $broker->brokers;
my $fast = '{"fetch.wait.max.ms": 20}';

sub sql { return $node->safe_psql('postgres', $_[0]); }

# what a statement says beside its rows
sub said
{
	my ($status, $out, $err) = $node->psql('postgres', $_[0]);
	return $err;
}

sub create { my ($name, $topic, $columns, $format) = @_; $format //= 'json';
	return said("SELECT stream_agg.create_source('$name', topic => '$topic', brokers => '$brokers', format => '$format', columns => \$c\$$columns\$c\$, options => '$fast')"); }

# --- 1.4: camelCase JSON
my $said = create('camel', 'camel', 'eventTime timestamptz, userId int, "exactOne" text, amount numeric, other text OPTIONS (field \'orderId\')');
like($said, qr/NOTICE:  names of columns are folded to lower case: eventTime, userId\nDETAIL:  .*in any case/, '1.4: create_source says that names are folded');
unlike($said, qr/exactOne|orderId|amount/, '1.4: not of names in quotes, and of fields');
is(create('plain', 'camel', 'amount numeric, part int OPTIONS (metadata \'partition\')'), '', '1.4: nothing to say of names in lower case');
$broker->produce('camel', map { sprintf('{"eventTime":"2026-01-01T00:%02d:00Z","userId":%d,"exactOne":"x","amount":%d,"orderId":"o"}', $_ % 60, $_ % 3, $_) } 0 .. 99);
is(sql('SELECT count(eventtime), count(userid), count("exactOne"), sum(amount), count(other) FROM camel'), '100|100|100|4950|100',
	'1.4: a name that no field has takes the one in another case');
sql(q{SELECT stream_agg.create_stream('by_user', $$ SELECT stream_agg.tumble(eventTime, '10 minutes') AS w, userId, sum(amount) FROM camel GROUP BY 1, 2 $$, output_mode => 'update')});
process($node, 'by_user');
is_equal_tables($node, 'TABLE by_user', 'TABLE by_user_query', '1.4: in a stream too');
is(sql('SELECT count(*), sum(sum) FROM by_user'), '18|4950', '1.4: which has all records');

# --- the exact name wins, wherever it stands; the last of one name counts; two in
# other cases are an error
my @cases = ('{"userid":1,"userId":2}', '{"userId":2,"userid":1}', '{"USERID":{"a":[1,"x\\n"]},"userid":1}', '{"userId":3,"userId":1}', '{"userId":1,"x":{"userID":9}}',
	'{"userId":2,"userid":null}', '{"user_id":1}', '{"userId":null}', '{"\\u0075serId":1}', '{"userID":5,"userId":6}', '{"userID":5,"userId":6,"userid":1}', "{\"us\xc3\x89rid\":7}");
$broker->produce('cases', @cases);
create('cases', 'cases', q{userid int, off bigint OPTIONS (metadata 'offset')});
sql(q{CREATE FOREIGN TABLE own (userid int OPTIONS (field 'userid'), off bigint OPTIONS (metadata 'offset')) SERVER } . sql('SELECT srvname FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$') . q{ OPTIONS (topic 'cases');
	CREATE FOREIGN TABLE bare (userid int, off bigint OPTIONS (metadata 'offset'), why text OPTIONS (metadata 'error')) SERVER } . sql('SELECT srvname FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$') . q{ OPTIONS (topic 'cases', on_error 'null')});
like(said('SELECT * FROM cases'), qr/value for field "userid" is not a valid integer.*several fields whose names differ.*offset 9/s, 'two fields in other cases: an error of the record');
is(sql("SELECT string_agg(COALESCE(userid::text, '-'), ' ' ORDER BY off) FROM cases WHERE off <> 9"), '1 1 1 1 1 - - - 1 1 -', 'the exact name wins, the last one counts');
is(sql("SELECT string_agg(COALESCE(userid::text, '-'), ' ' ORDER BY off), string_agg(off::text, '') FILTER (WHERE why IS NOT NULL) FROM bare"), '1 1 1 1 1 - - - 1 - 1 -|9',
	'a foreign table without options of its columns does the same');
is(sql("SELECT string_agg(COALESCE(userid::text, '-'), ' ' ORDER BY off) FROM own"), '1 1 1 - - - - - - - 1 -', 'a field that was given is that one alone');
sql(q{ALTER FOREIGN TABLE cases ALTER COLUMN userid OPTIONS (SET field 'userID', DROP any_case)});
is(sql("SELECT string_agg(COALESCE(userid::text, '-'), ' ' ORDER BY off) FROM cases"), '- - - - - - - - - 5 5 -', 'also by ALTER FOREIGN TABLE');
like(said(q{ALTER FOREIGN TABLE bare ALTER COLUMN userid OPTIONS (any_case 'true')}), qr/option "any_case" of a column needs option "field"/, 'any_case is of a field');
like(said(q{ALTER FOREIGN TABLE cases ALTER COLUMN userid OPTIONS (any_case 'no')}), qr/invalid value for option "any_case"/, 'and is true');

# with parts of it, and in a change event
create('parts', 'camel', q{Amount int, orderid text, x jsonb OPTIONS (path 'eventTime.x')});
is(sql('SELECT count(orderid), count(x), sum(amount) FROM parts'), '100|0|4950', 'columns beside paths');
$broker->create_topic('changes', 1);
$broker->produce('changes', '{"op":"c","after":{"orderId":1,"Total":2}}', '{"payload":{"op":"r","after":{"orderid":3,"TOTAL":4}}}', '{"op":"c","after":{"OrderId":7,"total":8},"orderId":9}');
create('changes', 'changes', 'orderid int, total int', 'debezium');
is(sql('SELECT orderid, total FROM changes ORDER BY 1'), "1|2\n3|4\n7|8", 'the fields of Debezium\'s rows');
is(sql(q{SELECT array_agg(option_value ORDER BY option_name) FROM information_schema.column_options WHERE table_name = 'cases' AND column_name = 'userid'}), '{userID}', 'the options are what they were set to');

# --- the whole value beside its fields
create('wholes', 'cases', q{userid int, whole jsonb OPTIONS (path '{}'), text text OPTIONS (path '{}'), verbatim json OPTIONS (path '{}'), off bigint OPTIONS (metadata 'offset')});
is_equal_tables($node, q{SELECT off, whole, text, verbatim::jsonb FROM wholes WHERE off <> 9}, q{SELECT off, v::jsonb, v::jsonb::text, v::jsonb FROM lines WHERE off <> 9}, 'a path {} is the whole value')
  if create('lines', 'cases', q{v text, off bigint OPTIONS (metadata 'offset')}, 'text') eq '';
is(sql('SELECT verbatim, userid FROM wholes WHERE off = 8'), '{"\u0075serId":1}|1', 'json has its very text, also where escapes are');
like(said('INSERT INTO wholes (userid) VALUES (1)'), qr/cannot insert into a source whose column "whole" has the path "\{\}"/, 'which cannot be inserted');
create('events_whole', 'changes', q{orderid int, row jsonb OPTIONS (path '{}'), event jsonb OPTIONS (envelope '{}')}, 'debezium');
is(sql('SELECT row, event FROM events_whole WHERE orderid < 5 ORDER BY orderid'), qq({"Total": 2, "orderId": 1}|{"op": "c", "after": {"Total": 2, "orderId": 1}}\n{"TOTAL": 4, "orderid": 3}|{"op": "r", "after": {"TOTAL": 4, "orderid": 3}}),
	'of Debezium: the row, and the event');

# --- 1.4: nothing is found, and somebody says so
sub logged { my ($pattern, $offset) = @_; my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset); my @found = $log =~ /$pattern/g; return scalar @found; }
$broker->produce('null_times', map { sprintf('{"eventTime":"2026-01-01T00:%02d:00Z","user":{"id":%d},"say \\"\u00e4\"":1}', $_ % 60, $_) } 0 .. 9);
create('wrong', 'null_times', q{ts timestamptz OPTIONS (field 'event_time'), id int OPTIONS (path 'user.id'), n int});
my $counting = q{SELECT stream_agg.tumble(ts, '1 minute') AS w, count(*), max(id) AS id, max(n) AS n FROM wrong GROUP BY 1};
like(said("SELECT * FROM stream_agg.preview(\$q\$$counting\$q\$)"), qr/WARNING:  stream "preview": all 10 records of a micro-batch are without event time\nDETAIL:  NULL in all of the first 10 records: columns "ts" \(field "event_time"\), "n"\. A record has the fields .*"eventTime"/,
	'1.4: preview says that all event times are NULL, and which fields there are');
my $offset = -s $node->logfile;
sql("SELECT stream_agg.create_stream('untimed', \$q\$$counting\$q\$, output_mode => 'update')");
process($node, 'untimed');
$broker->produce('null_times', '{"eventTime":"2026-01-01T00:00:00Z"}');
process($node, 'untimed');
is(logged(qr/WARNING:  stream "untimed": all 10 records of a micro-batch are without event time\n.*DETAIL:  NULL in all of the first 10 records: columns "ts" \(field "event_time"\), "n"\. A record has the fields "user", "say "\\xc3\\xa4"", "eventTime"\./, $offset), 1,
	'1.4: so does the log of a stream');
is(logged(qr/records of a micro-batch are without event time/, $offset), 1, '1.4: once');

# columns that are NULL in all of the first 10,000 records
my @names = map { "f$_" } 1 .. 30;
$broker->produce('sparse', map { my $i = $_; '{' . join(',', map { "\"$_\":1" } @names) . ($i == 9998 ? ',"rare":1' : $i > 9999 ? ',"never":1' : '') . '}' } 0 .. 10_050);
create('sparse', 'sparse', q{f1 int, rare int, never int, "mistyped" int OPTIONS (field 'fone'), unread int, off bigint OPTIONS (metadata 'offset')});
sql(q{SELECT stream_agg.create_stream('sparse_s', 'SELECT f1, count(rare) AS r, count(never) AS n, count(mistyped) AS m, max(off) FROM sparse GROUP BY f1', output_mode => 'complete', max_offsets_per_trigger => 3000)});
process($node, 'sparse_s');
is(sql('SELECT r, n FROM sparse_s'), '1|51', 'fields that are rare');
is(logged(qr/WARNING:  columns of source "sparse" were NULL in all of the first 10000 records: "never", "mistyped" \(field "fone"\)\n.*DETAIL:  A record has the fields ("f\d+", ){20}\.\.\.\./, $offset), 1,
	'1.4: the log names columns without a value in the first 10,000 records, and some of the fields that there are');
is(logged(qr/were NULL in all of the first 10000 records/, $offset), 1, '1.4: once, and not those that are not read');

# --- what a topic has: describe_topic
$broker->create_topic($_, 1) for 'described', 'rows', 'log-lines', 'blobs', 'empty', 'shop.public.orders';
$broker->produce('described', [ 0, 'k1', '{"eventTime":"2026-01-01T00:00:00Z","userId":7,"amount":1.5,"ok":true,"day":"2026-01-01","createdAt":1767323045000,"paidAt":1767323045,"id":"6f1b1e3c-7e4d-4b7e-8f2a-0123456789ab","tags":["a"],"geo":{"lat":1,"lonDeg":2.5,"a.b":{"c":"x"}},"order":1,"mixed":1,"nothing":null,"local":"2026-01-01T00:00:00"}' ],
	[ 0, 'k2', '{"eventTime":"2026-01-01T00:00:01.5+02:00","userId":8,"amount":2,"mixed":"x","$$ AS x, $columns1$ \'; DROP":1}' ], [ 0, 'k3', '\\N' ]);
my $call = sql("SELECT stream_agg.describe_topic('described', brokers => '$brokers', options => '$fast')");
like($call, qr/^-- 3 records: 2 JSON objects, 0 other texts, 0 other values, 1 without value\nSELECT stream_agg.create_source\('described', topic => 'described', brokers => '\Q$brokers\E',\n    format => 'json',/, 'describe_topic: what it is');
for my $column (q{event_time timestamptz OPTIONS (field 'eventTime')}, q{user_id bigint OPTIONS (field 'userId')}, 'amount numeric', 'ok boolean', 'day date',
	q{created_at timestamptz OPTIONS (field 'createdAt')}, q{paid_at timestamptz OPTIONS (field 'paidAt', unit 's')}, 'id uuid', 'tags jsonb', q{geo_lat bigint OPTIONS (path 'geo.lat')}, q{geo_lon_deg numeric OPTIONS (path 'geo.lonDeg')},
	q{geo_a_b_c text OPTIONS (path '{geo,a.b,c}')}, q{"order" bigint}, 'mixed text', 'nothing text', 'local timestamp', q{record_key text OPTIONS (metadata 'key')})
{
	like($call, qr/\n        \Q$column\E(,|\n)/, "describe_topic: $column");
}
is(sql('SELECT count(*) FROM pg_foreign_table WHERE ftrelid::regclass::text ~ $$describe$$'), '0', 'describe_topic leaves nothing behind');
is(sql($call), 'described', 'describe_topic: the call can be run as it is, whatever a producer writes');
is(sql('SELECT count(*), count(event_time), sum(user_id), min(created_at), min(created_at) = min(paid_at), sum(geo_lat), min(geo_a_b_c), sum(amount) FROM described'), '2|2|15|2026-01-02 03:04:05+00|t|1|x|3.5', 'describe_topic: and finds what the records have');
$broker->produce('rows', '1,a,"x,y"', '2,b,z');
$broker->produce('log-lines', 'a line', 'another, one');
$broker->produce('blobs', "\0\0\0\0\1\xff\xfe");
$broker->produce('shop.public.orders', '{"before":null,"after":{"orderId":1,"total":"1.5"},"op":"c"}', '{"schema":{},"payload":{"before":null,"after":{"orderId":2,"total":"2"},"op":"r"}}');
my %wanted = (rows => qr/format => 'csv'.*c1 text,\s+c2 text,\s+c3 text/s, 'log-lines' => qr/'log_lines', topic => 'log-lines'.*format => 'text'.*value text/s, blobs => qr/look like Avro.*format => 'raw'.*value bytea/s,
	'shop.public.orders' => qr/'shop_public_orders'.*format => 'debezium'.*total text,\s+order_id bigint OPTIONS \(field 'orderId'\)/s);
for my $topic (sort keys %wanted)
{
	my $described = sql("SELECT stream_agg.describe_topic('$topic', brokers => '$brokers', options => '$fast')");
	like($described, $wanted{$topic}, "describe_topic: $topic");
	sql($described);
}
is(sql('SELECT sum(order_id) FROM shop_public_orders'), '3', 'describe_topic: change events');
like(said("SELECT stream_agg.describe_topic('empty', brokers => '$brokers', options => '$fast')"), qr/topic "empty" has no records/, 'describe_topic: no records');
like(said("SELECT stream_agg.describe_topic('rows', brokers => '$brokers', records => 0)"), qr/records must be between 1 and 100000/, 'describe_topic: how many records');
like(said("SELECT stream_agg.describe_topic('rows', brokers => '$brokers', server => 'x')"), qr/either brokers, perhaps with options, or server must be given/, 'describe_topic: brokers or server');
is(sql('DO $$ BEGIN PERFORM stream_agg.describe_topic($q$empty$q$, server => (SELECT srvname FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$ LIMIT 1)); EXCEPTION WHEN no_data_found THEN RAISE NOTICE $q$caught$q$; END $$; SELECT 1'), '1', 'describe_topic: its errors can be caught');

# the privileges of create_source
sql(q{CREATE ROLE nobody LOGIN; CREATE ROLE somebody LOGIN; CREATE SCHEMA own_one AUTHORIZATION somebody; GRANT USAGE ON SCHEMA stream_agg TO nobody, somebody; CREATE SCHEMA no_more AUTHORIZATION nobody});
my $server = sql('SELECT srvname FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$ ORDER BY 1 LIMIT 1');
sub as { my ($role, $what) = @_; return said("SET SESSION AUTHORIZATION $role; SET search_path = own_one, no_more; $what"); }
like(as('somebody', "SELECT stream_agg.describe_topic('rows', brokers => '$brokers')"), qr/permission denied for foreign-data wrapper/, 'describe_topic: brokers need USAGE on the wrapper');
like(as('somebody', "SELECT stream_agg.describe_topic('rows', server => '$server')"), qr/permission denied for foreign server/, 'describe_topic: a server needs USAGE');
sql("GRANT USAGE ON FOREIGN SERVER $server TO somebody, nobody");
is(as('somebody', "SELECT stream_agg.describe_topic('rows', server => '$server')"), '', 'describe_topic: which is enough');
sql('ALTER SCHEMA no_more OWNER TO postgres');
like(as('nobody', "SELECT stream_agg.describe_topic('rows', server => '$server')"), qr/no schema has been selected to create in|permission denied for schema/, 'describe_topic: and CREATE on a schema, as for a source');

done_testing();
