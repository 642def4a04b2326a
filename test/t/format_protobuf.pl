# Format protobuf: what libprotobuf's own library for Python makes of random schemas
# and messages is what a source reads, as JSON and in columns of every type; with a
# schema of the source's options or of a registry, with imports.  Damaged records
# neither end a process nor are taken.
#
# PROTOBUF_SCHEMAS and PROTOBUF_MESSAGES are how many schemas and messages of each.

use strict;
use warnings;

use IPC::Run;
use JSON::PP;
use MIME::Base64;
use StreamAgg::Registry;
use StreamAgg::Test;
use Test::More;

my $seed = seed();
my $random = seeded_random($seed);
my $nschemas = $ENV{PROTOBUF_SCHEMAS} // 12;
my $nmessages = $ENV{PROTOBUF_MESSAGES} // 150;
my $json = JSON::PP->new->canonical->allow_nonref;
my $broker = start_broker(none => 1);
my $node = new_node('protobuf');
my $brokers = $broker->brokers;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub error_of
{
	my ($status, $out, $err) = $node->psql('postgres', $_[0]);
	return $status == 0 ? 'no error' : $err;
}

# what the messages' program prints: the lines before messages, and [hex, JSON] of each
sub messages
{
	my ($in, $nhead, @arguments) = @_;
	my ($out, $err);
	IPC::Run::run([ StreamAgg::Registry::scripts() . '/protobuf_messages.py', @arguments ], '<', \$in, '>', \$out, '2>', \$err) or die $err;
	my @lines = split /\n/, $out;
	return ([ splice @lines, 0, $nhead ], map { [ split /\t/, $_, 2 ] } @lines);
}

sub create_protobuf
{
	my ($name, $columns, %options) = @_;
	my $server = delete $options{server};
	my $options = %options ? ', options => $j$' . $json->encode(\%options) . '$j$' : '';
	my $place = $server ? "server => '$server'" : "brokers => '$brokers'";
	return "SELECT stream_agg.create_source('$name', topic => '$name', $place, format => 'protobuf', columns => \$c\$$columns\$c\$$options)";
}

sub make_topic
{
	my ($name) = @_;
	$broker->create_topic($name, 1);
	sql("SELECT stream_agg.create_source('${name}_bytes', topic => '$name', brokers => '$brokers', format => 'raw',
		columns => 'v bytea, pos bigint OPTIONS (metadata \$\$offset\$\$)')");
	return;
}
sub put { my ($name, @hex) = @_; sql("INSERT INTO ${name}_bytes (v) VALUES " . join(', ', map { "('\\x$_')" } @hex)); return; }

# --- random schemas and messages
my $same = 0;
for my $n (1 .. $nschemas)
{
	my ($head, @messages) = messages('', 2, 'random', $seed * 1000 + $n, $nmessages);
	my ($text, $set) = @$head;
	make_topic("random$n");
	put("random$n", map { $_->[0] } @messages);
	sql(create_protobuf("random$n", 'doc jsonb OPTIONS (path $$' . '{}$$), pos bigint OPTIONS (metadata $$offset$$)',
			$n % 2 ? (proto => decode_base64($text)) : (descriptor_set => $set), message => $n % 3 ? 'test.random.M0' : 'M0'));
	my $expected = join ', ', map { my $d = $messages[$_][1]; "($_, \$e\$$d\$e\$::jsonb)" } 0 .. $#messages;
	my $others = sql("SELECT count(*) FILTER (WHERE doc IS DISTINCT FROM e.expected), min(pos) FILTER (WHERE doc IS DISTINCT FROM e.expected)
		FROM random$n FULL JOIN (VALUES $expected) e (n, expected) ON n = pos");
	$same += @messages if $others eq '0|';
	next if $others eq '0|';
	my ($which) = $others =~ /\|(\d+)/;
	diag("schema $n, message $which: expected $messages[$which][1]\nis " . sql("SELECT doc FROM random$n WHERE pos = $which") . "\n" . decode_base64($text));
}
is($same, $nschemas * $nmessages, 'messages of random schemas are the JSON that protobuf\'s library prints');

# --- columns
my $schema = <<'PROTO';
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
enum Kind { UNKNOWN = 0; BUY = 1; SELL = 2; }
message Item { string name = 1; double price = 2; repeated Item parts = 3; }
message Order {
  int64 order_id = 1;  uint64 big = 2;  bool paid = 3;  string customerName = 4;  bytes token = 5;  Kind kind = 6;
  google.protobuf.Timestamp at = 7;  google.protobuf.Duration took = 8;  google.protobuf.Int64Value maybe = 9;
  repeated Item items = 10;  map<string, Item> by_name = 11;  repeated int64 numbers = 12;  optional int32 tracked = 13;
  oneof payment { string card = 14; int32 cash = 15; }
  google.protobuf.Struct extra = 16;  float rate = 17;  sint32 delta = 18;  repeated string tags = 19;  map<int32, string> codes = 20;
  repeated Order linked = 21;
}
PROTO
my $columns = <<'COLUMNS';
order_id bigint, big numeric, paid boolean, customername text, token bytea, kind text, kind_number int OPTIONS (field 'kind'),
at timestamptz, took interval, maybe bigint, items jsonb, second_price float8 OPTIONS (path 'items.1.price'),
deep text OPTIONS (path 'items.0.parts.0.name'), by_b float8 OPTIONS (path 'by_name.b.price'), numbers bigint[], tracked int, card text, cash int,
extra jsonb, color text OPTIONS (path 'extra.look.color'), second int OPTIONS (path 'extra.list.1'), rate real, delta smallint, tags text[],
code text OPTIONS (path 'codes.7'), pos bigint OPTIONS (metadata 'offset')
COLUMNS
my @orders = (
	{ order_id => '9223372036854775807', big => '18446744073709551615', paid => JSON::PP::true, customerName => "Zo\x{eb}", token => encode_base64("\0\xff", ''),
		kind => 'SELL', at => '2026-01-02T03:04:05.678901Z', took => '-1.5s', maybe => '0', items => [ { name => 'a', parts => [ { name => 'p' } ] }, { price => 2.5 } ],
		by_name => { b => { price => 3 } }, numbers => [ '1', '-2' ], tracked => 0, cash => 0, extra => { look => { color => 'red' }, list => [ 1, 2 ] },
		rate => 0.1, delta => -7, tags => [ 'x', 'y z' ], codes => { 7 => 'seven' } },
	{});
my ($head, @messages) = messages(join("\n", $json->encode($schema), map { $json->encode($_) } @orders) . "\n", 1, 'encode', 'shop.Order');
make_topic('orders');
put('orders', map { $_->[0] } @messages);
sql(create_protobuf('orders', $columns, proto => $schema, message => 'Order'));
is(sql("SET timezone = 'UTC'; SELECT r FROM orders r ORDER BY pos"),
	'(9223372036854775807,18446744073709551615,t,Zoë,"\\\\x00ff",SELL,2,"2026-01-02 03:04:05.678901+00",-00:00:01.5,0,' .
	'"[{""name"": ""a"", ""parts"": [{""name"": ""p"", ""parts"": [], ""price"": 0}], ""price"": 0}, {""name"": """", ""parts"": [], ""price"": 2.5}]",' .
	'2.5,p,3,"{1,-2}",0,,0,"{""list"": [1, 2], ""look"": {""color"": ""red""}}",red,2,0.1,-7,"{x,""y z""}",seven,0)' . "\n" .
	'(0,0,f,"","\\\\x",UNKNOWN,0,,,,[],,,,{},,,,,,,0,0,{},,1)',
	'columns of every kind, by name, by path, through maps, elements and Structs; without presence the default, with presence NULL');
sql("SELECT stream_agg.create_stream('totals', 'SELECT kind, count(*) AS n, sum(numbers[1]) AS total FROM orders GROUP BY kind', output_mode => 'update', trigger => '20 days')");
sql("SELECT stream_agg.process_available('totals', '2 minutes')");
is(sql('SELECT kind, n, total FROM totals ORDER BY 1'), "SELL|1|1\nUNKNOWN|1|", 'a stream reads them');

# --- what is refused, and how it is said
like(error_of(create_protobuf('orders2', 'order_id bigint, nothing text', proto => $schema, message => 'Order')),
	qr/message "shop.Order" has no field "nothing"/, 'a column whose field the message does not have is refused at creation');
like(error_of(create_protobuf('orders2', 'order_id bigint', proto => $schema)),
	qr/does not say which message records are.*it has 2 messages.*option message/s, 'a schema of several messages needs the name of one');
like(error_of(create_protobuf('orders2', 'order_id bigint', proto => $schema, message => 'Nothing')), qr/it has no message "Nothing"/, 'a message that is not there');
like(error_of(create_protobuf('orders2', 'order_id bigint', proto => 'message {')), qr/no schema of protobuf messages.*line 1: Expected/s, 'a schema that is none');
like(error_of(create_protobuf('orders2', 'order_id bigint', proto => 'import "a.proto";')), qr/it imports "a.proto", which is not there/, 'an import that is not there');
like(error_of(create_protobuf('orders2', 'order_id bigint', descriptor_set => 'AAA')), qr/it is not base64/, 'a descriptor set that is not base64');
like(error_of(create_protobuf('orders2', 'order_id bigint', proto => 'message a {' x 3000)), qr/nested too deeply/, 'messages within messages have a limit');
like(error_of(create_protobuf('orders2', 'order_id bigint')), qr/schema.registry/, 'without a schema a registry is needed');
like(error_of(create_protobuf('orders2', 'order_id bigint', message => 'x')), qr/option "message" of a source needs option "proto" or "descriptor_set"/, 'a message without a schema');

# --- a registry
my $registry = StreamAgg::Registry->new();
my $url = $registry->url;

sub register
{
	my ($subject, $text, @references) = @_;
	return $registry->register($subject, $text, schemaType => 'PROTOBUF', references => \@references);
}

sub framed { my ($id, $indexes, $hex) = @_; return sprintf '00%08x%s%s', $id, $indexes, $hex; }

sql(qq{CREATE SERVER registry FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$brokers', "schema.registry" '$url', "fetch.wait.max.ms" '20')});
my $money = 'syntax = "proto3"; package m; message Money { int64 cents = 1; }';
my $bill = 'syntax = "proto3"; import "m/money.proto"; message Other { int32 x = 1; } message Bill { message Line { int32 k = 1; m.Money amount = 2; } int32 k = 1; m.Money amount = 2; }';
register('money', $money);
register('middle', 'syntax = "proto3"; import public "m/money.proto";', { name => 'm/money.proto', subject => 'money', version => 1 });
my $one = register('bills', $bill, { name => 'm/money.proto', subject => 'money', version => 1 });
my $two = register('bills', $bill =~ s/"m\/money.proto"/"middle.proto"/r, { name => 'middle.proto', subject => 'middle', version => 1 });
my $later = register('bills', 'syntax = "proto3"; message Bill { int32 k = 1; string note = 3; }');
my $lost = register('bills', $bill, { name => 'm/money.proto', subject => 'lost/it', version => 3 });
my $broken = register('bills', 'syntax = "proto3"; message {');
make_topic('bills');
my $line = '0807' . '1202' . '0805';
put('bills', framed($one, '0202', $line), framed($two, '040200', $line), framed($later, '00', '0808' . '1a0178'),
	framed($one, '0200', '0809'), framed($lost, '00', '08'), framed($broken, '00', '08'), framed(4711, '00', ''), framed($one, '0208', ''), '0800', framed($one, '0202', '12ff01'));
sql(create_protobuf('bills', q{k int, cents bigint OPTIONS (path 'amount.cents'), note text, pos bigint OPTIONS (metadata 'offset'), why text OPTIONS (metadata 'error')},
		server => 'registry', on_error => 'null'));
is(sql("SELECT pos, k, cents, note FROM bills WHERE why IS NULL ORDER BY pos"), "0|7|5|\n1|7|5|\n2|8||x\n3|||",
	'records of several schemas of a registry, with imports, within messages, by their numbers');
my @why = map { [ split /\nDETAIL:\s+/ ] } split /\n--\n/, sql("SELECT string_agg(why, E'\\n--\\n' ORDER BY pos) FROM bills");
is_deeply(\@why, [
	[ "records of schema $lost cannot be decoded", 'Of this schema: the registry does not have a file that it imports.' ],
	[ "records of schema $broken cannot be decoded", 'Of this schema: line 1: Expected message name..' ],
	[ 'records of schema 4711 cannot be decoded', 'Of this schema: the registry gives none for it.' ],
	[ "records of schema $one cannot be decoded", 'Of this schema: it has no message of the number that the record names.' ],
	[ 'invalid protobuf record: it does not begin with the id of a schema',
		'Records must be as Confluent\'s serializers write them, or the source must have the option proto or descriptor_set.' ],
	[ 'invalid protobuf record: it ends too early', 'It was read as message Bill.' ] ], 'what is wrong with a record is said');

# --- damaged records: read or refused, nothing else; and what a short record can stand for
my @damaged;
for my $n (1 .. 3000)
{
	my $bytes = pack 'H*', $messages[0][0];
	for (0 .. $random->(3))
	{
		my $at = $random->(length $bytes);
		my $kind = $random->(4);
		substr($bytes, $at, 1) = chr $random->(256) if $kind < 2;
		substr($bytes, $at, $random->(9)) = '' if $kind == 2;
		substr($bytes, $at, 0) = substr($bytes, $random->(length $bytes), $random->(30)) if $kind == 3;
		$bytes = 'x' if $bytes eq '';
	}
	push @damaged, unpack 'H*', $bytes;
}
push @damaged, '0a' . 'ffffffff0f', '08' . 'ff' x 10 . '01', '7b' x 500, '22' . '02' . 'c328', '22' . '01' . '00', '00', '0d';
make_topic('damaged');
put('damaged', @damaged);
sql(create_protobuf('damaged', $columns =~ s/pos bigint/why text OPTIONS (metadata 'error'), pos bigint/r, proto => $schema, message => 'Order', on_error => 'null'));
my ($read, $refused) = split /\|/, sql('SELECT count(*) FILTER (WHERE why IS NULL), count(*) FILTER (WHERE why IS NOT NULL) FROM damaged');
is($read + $refused, scalar @damaged, "each damaged record is read or refused: $read and $refused");
cmp_ok($refused, '>', 500, 'many are refused');
is(sql("SELECT string_agg(DISTINCT substring(why, '^invalid protobuf record: (.*?)\n'), '; ') FROM damaged WHERE pos >= 3000"),
	'a field has no valid number; a number has too many bytes; a string is not UTF-8 text, or has a NUL in it; it ends too early; its messages are nested too deeply', 'with the reason');
my $many = 'aa0100' x 300000;
put('damaged', $many);
like(sql("SELECT why FROM damaged WHERE pos = (SELECT max(pos) FROM damaged_bytes)"), qr/it stands for too many values/, '900 kB cannot stand for 300,000 messages of many fields');

$registry->stop;
$node->stop;
done_testing();
