# Format avro: records as Confluent's serializers write them, with schemas from a
# registry.  They are encoded by a program of the tests' own; each value is to be
# what it was, in columns of every type that fits.  Schemas change from record to
# record; a registry that is down, refuses or answers nonsense is told from
# records that are wrong; damaged records neither end a process nor are taken.

use strict;
use warnings;

use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use StreamAgg::Registry;
use StreamAgg::Test;
use Test::More;

my $random = seeded_random();
my $json = JSON::PP->new->canonical->allow_nonref;
my $broker = start_broker(none => 1);
my $node = new_node('avro', "stream_agg.kafka_timeout = '150s'");
my $brokers = $broker->brokers;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub error_of
{
	my ($status, $out, $err) = $node->psql('postgres', $_[0]);
	return $status == 0 ? 'no error' : $err;
}

my $registry = StreamAgg::Registry->new();
sql(qq{ALTER DATABASE postgres SET timezone = 'America/St_Johns';
	CREATE SERVER kafka FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$brokers', "schema.registry" '$registry->{url}', "fetch.wait.max.ms" '20')});

sub create_avro
{
	my ($name, $columns, $server) = @_;
	$server //= 'kafka';
	$broker->create_topic($name, 1);
	sql("SELECT stream_agg.create_source('$name', topic => '$name', server => '$server', format => 'avro', columns => \$c\$$columns\$c\$)");
	sql("SELECT stream_agg.create_source('${name}_bytes', topic => '$name', server => '$server', format => 'raw',
		columns => 'v bytea, pos bigint OPTIONS (metadata \$\$offset\$\$)')");
	return;
}
sub put { my ($name, @hex) = @_; sql("INSERT INTO ${name}_bytes (v) VALUES " . join(', ', map { "('\\x$_')" } @hex)); return; }

# ---------- values of every type ----------

# name, schema, column type, [value as it is encoded, value as SQL]...; what a
# random number makes is the same on both sides
my @long = map { $random->(30000) * $random->(30000) * ($random->(2) ? 1 : -1) } 1 .. 3;
my @types = (
	[ 'b', 'boolean', 'boolean', [ JSON::PP::true, 'true' ], [ JSON::PP::false, 'false' ] ],
	[ 'i', 'int', 'int', [ 0, 0 ], [ -1, -1 ], [ 2147483647, 2147483647 ], [ -2147483648, "'-2147483648'" ], [ 64, 64 ], [ -65, -65 ] ],
	[ 'l', 'long', 'bigint', [ 9223372036854775807, "'9223372036854775807'" ], [ -9223372036854775807 - 1, "'-9223372036854775808'" ], map { [ $_, "'$_'" ] } @long ],
	[ 'ln', 'long', 'numeric', map { [ $_, $_ ] } @long ],
	[ 'lt', 'long', 'text', map { [ $_, "'$_'" ] } @long ],
	[ 'f', 'float', 'real', [ '1.5', '1.5' ], [ '0.1', '0.1' ], [ 'inf', "'Infinity'" ], [ '-1e30', "'-1e30'" ] ],
	[ 'd', 'double', 'float8', [ '0.1', '0.1' ], [ '-2.5e-300', "'-2.5e-300'" ], [ 'nan', "'NaN'" ], [ '-inf', "'-Infinity'" ], [ '123456789.125', '123456789.125' ] ],
	[ 'dn', 'double', 'numeric', [ '0.1', '0.1' ], [ '1e20', "'100000000000000000000'" ] ],
	[ 's', 'string', 'text', [ '', "''" ], [ "\x{e4}\x{1f600}", "U&'\\00e4\\+01f600'" ], [ "it's \"q\"\n", "E'it''s \"q\"\\n'" ] ],
	[ 'sj', 'string', 'jsonb', [ '{"a"', q!'"{\"a\""'! ] ],
	[ 'su', { type => 'string', logicalType => 'uuid' }, 'uuid', [ '6f1b1e3c-7e4d-4b7e-8f2a-0123456789ab', "'6f1b1e3c-7e4d-4b7e-8f2a-0123456789ab'" ] ],
	[ 'y', 'bytes', 'bytea', [ '00ff', q{'\x00ff'} ], [ '', q{''} ] ],
	[ 'x', { type => 'fixed', name => 'F3', size => 3 }, 'bytea', [ '010203', q{'\x010203'} ] ],
	[ 'fu', { type => 'fixed', name => 'U', size => 16, logicalType => 'uuid' }, 'text', [ '6f1b1e3c7e4d4b7e8f2a0123456789ab', "'6f1b1e3c-7e4d-4b7e-8f2a-0123456789ab'" ] ],
	[ 'e', { type => 'enum', name => 'E', symbols => [ 'A', 'B', 'C' ] }, 'text', [ 'A', "'A'" ], [ 'C', "'C'" ] ],
	[ 'dt', { type => 'int', logicalType => 'date' }, 'date', [ 0, "'1970-01-01'" ], [ 20455, "'2026-01-02'" ], [ -719162, "'0001-01-01'" ], [ -800000, "date '1970-01-01' - 800000" ], [ 9999999, "date '1970-01-01' + 9999999" ] ],
	[ 'di', { type => 'int', logicalType => 'date' }, 'int', [ 20455, 20455 ] ],
	[ 'tm', { type => 'int', logicalType => 'time-millis' }, 'time', [ 1, "'00:00:00.001'" ], [ 86399999, "'23:59:59.999'" ] ],
	[ 'tu', { type => 'long', logicalType => 'time-micros' }, 'time', [ 3723000001, "'01:02:03.000001'" ] ],
	[ 'sm', { type => 'long', logicalType => 'timestamp-millis' }, 'timestamptz', [ 1767323045678, "'2026-01-02 03:04:05.678Z'" ], [ -1, "'1969-12-31 23:59:59.999Z'" ], [ -62135596800001, "timestamptz '0001-01-01Z' - interval '1 ms'" ] ],
	[ 'sc', { type => 'long', logicalType => 'timestamp-micros' }, 'timestamptz', [ 1767323045678901, "'2026-01-02 03:04:05.678901Z'" ], [ -1, "'1969-12-31 23:59:59.999999Z'" ] ],
	[ 'sn', { type => 'long', logicalType => 'timestamp-nanos' }, 'timestamptz', [ 1767323045678901234, "'2026-01-02 03:04:05.678901Z'" ], [ -1500, "'1969-12-31 23:59:59.999998Z'" ] ],
	[ 'sb', { type => 'long', logicalType => 'timestamp-micros' }, 'bigint', [ 1767323045678901, "'1767323045678901'" ] ],
	[ 'lm', { type => 'long', logicalType => 'local-timestamp-millis' }, 'timestamp', [ 1767323045678, "'2026-01-02 03:04:05.678'" ] ],
	[ 'us', 'long', q{timestamptz OPTIONS (unit 's')}, [ 1767323045, "'2026-01-02 03:04:05Z'" ] ],
	[ 'de', { type => 'bytes', logicalType => 'decimal', precision => 30, scale => 3 }, 'numeric', [ '00', '0.000' ], [ 'ff', '-0.001' ], [ '7fff', '32.767' ], [ '8000', '-32.768' ],
		[ '0cb8b3cc0f2b1a12', '916680213179079.186' ], [ '', '0.000' ], [ '00000000000000000001', '0.001' ], [ 'ffffffffffffffffff00', '-0.256' ] ],
	[ 'df', { type => 'fixed', name => 'D', size => 4, logicalType => 'decimal', precision => 9, scale => 0 }, 'numeric', [ 'fffffffe', '-2' ], [ '7fffffff', '2147483647' ] ],
	[ 'un', [ 'null', 'string' ], 'text', [ [ 0, undef ], 'NULL' ], [ [ 1, 'x' ], "'x'" ] ],
	[ 'ux', [ 'long', 'string', 'null', { type => 'array', items => 'int' } ], 'jsonb', [ [ 0, 7 ], "'7'" ], [ [ 1, 'q' ], q{'"q"'} ], [ [ 3, [ 1, 2 ] ], "'[1, 2]'" ], [ [ 2, undef ], 'NULL' ] ],
	[ 'ar', { type => 'array', items => [ 'null', 'int' ] }, 'int[]', [ [], "'{}'" ], [ [ [ 1, 5 ], [ 0, undef ], [ 1, -7 ] ], "'{5,NULL,-7}'" ] ],
	[ 'mp', { type => 'map', values => 'double' }, 'jsonb', [ {}, "'{}'" ], [ { a => '1.5', b => 'nan' }, q{'{"a": 1.5, "b": "NaN"}'} ] ],
	[ 'rc', { type => 'record', name => 'R', fields => [ { name => 'k', type => 'bytes' }, { name => 'in', type => [ 'null', 'R' ] }, { name => 't', type => { type => 'long', logicalType => 'timestamp-millis' } } ] },
		'jsonb', [ { k => '00ff', in => [ 1, { k => '', in => [ 0, undef ], t => 0 } ], t => 1767323045678 },
			q{'{"k": "\\\\x00ff", "in": {"k": "\\\\x", "in": null, "t": "1970-01-01 00:00:00+00"}, "t": "2026-01-02 03:04:05.678+00"}'} ] ]);
my $schema = { type => 'record', name => 'All', namespace => 'test', doc => "\x{e4}", fields => [ map { { name => $_->[0], type => $_->[1] } } @types ] };
my $id = $registry->register_avro($schema);
create_avro('everything', join(', ', map { "\"$_->[0]\" $_->[2]" } @types) . ', pos bigint OPTIONS (metadata $$offset$$)');
my (@records, @expected);
for my $n (0 .. 39)
{
	my @picked = map { my @v = @$_[ 3 .. $#$_ ]; $v[ $n < 10 ? $n % @v : $random->(scalar @v) ] } @types;
	push @records, [ $id, $schema, { map { $types[$_][0] => $picked[$_][0] } 0 .. $#types } ];
	push @expected, 'SELECT ' . join(', ', (map { my $t = $types[$_][2]; $t =~ s/ OPTIONS.*//; "($picked[$_][1])::$t" } 0 .. $#types), $n);
}
my @hex = StreamAgg::Registry::avro_records(@records);
put('everything', @hex);
sql('CREATE TABLE got AS SELECT * FROM everything; CREATE TABLE expected AS SELECT * FROM got LIMIT 0; INSERT INTO expected ' . join(' UNION ALL ', @expected));
for my $t (@types)
{
	my $schema_text = $json->encode($t->[1]);
	is(sql(qq{SELECT e."$t->[0]", g."$t->[0]" FROM got g JOIN expected e USING (pos)
			WHERE e."$t->[0]" IS DISTINCT FROM g."$t->[0]" OR e."$t->[0]"::text IS DISTINCT FROM g."$t->[0]"::text LIMIT 3}), '', "$schema_text as $t->[2]");
}
is(sql('SELECT count(*) FROM got JOIN expected USING (pos)'), '40', 'all records are there');
is_equal_tables($node, 'SELECT sm, pos FROM everything', 'SELECT sm, pos FROM expected', 'a query that reads one column');

# ---------- paths, schemas that change, streams ----------

my $v1 = { type => 'record', name => 'Click', fields => [ { name => 'user', type => { type => 'record', name => 'User', fields => [ { name => 'id', type => 'int' }, { name => 'tags', type => { type => 'map', values => 'string' } } ] } }, { name => 'amount', type => 'int' } ] };
my $v2 = { type => 'record', name => 'Click', fields => [ { name => 'note', type => [ 'null', 'string' ] }, { name => 'amount', type => [ 'null', 'double' ] },
		{ name => 'items', type => { type => 'array', items => { type => 'record', name => 'Item', fields => [ { name => 'sku', type => 'string' } ] } } },
		{ name => 'user', type => [ 'null', { type => 'record', name => 'User', fields => [ { name => 'tags', type => [ 'null', { type => 'map', values => 'string' } ] }, { name => 'id', type => 'long' } ] } ] } ] };
my ($id1, $id2) = ($registry->register_avro($v1), $registry->register_avro($v2));
create_avro('evolving', q{user_id bigint OPTIONS (path 'user.id'), whole jsonb OPTIONS (path 'user'), tag text OPTIONS (path '{user,tags,a.b}'), amount numeric, note text,
	sku text OPTIONS (path 'items.1.sku'), pos bigint OPTIONS (metadata 'offset'), k text OPTIONS (metadata 'key')});
(@records, @expected) = ();
for my $n (0 .. 99)
{
	my ($user, $amount) = ($random->(5), $random->(100));
	my $tags = { 'a.b' => "t$n", c => 'd' };
	if ($random->(2))
	{
		push @records, [ $id1, $v1, { user => { id => $user, tags => $tags }, amount => $amount } ];
		push @expected, "($user, '{\"id\": $user, \"tags\": {\"a.b\": \"t$n\", \"c\": \"d\"}}', 't$n', $amount, NULL, NULL, $n)";
	}
	else
	{
		my $given = $random->(2);
		push @records, [ $id2, $v2, { note => [ 1, "n$n" ], amount => [ 1, "$amount.5" ], items => [ { sku => 'a' }, ({ sku => "k$n" }) x $given ],
				user => $given ? [ 1, { id => $user, tags => [ 1, $tags ] } ] : [ 0, undef ] } ];
		push @expected, '(' . ($given ? "$user, '{\"id\": $user, \"tags\": {\"a.b\": \"t$n\", \"c\": \"d\"}}', 't$n'" : 'NULL, NULL, NULL')
		  . ", $amount.5, 'n$n', " . ($given ? "'k$n'" : 'NULL') . ", $n)";
	}
}
put('evolving', StreamAgg::Registry::avro_records(@records));
my $values = 'SELECT a::bigint, b::jsonb, c, d::numeric, e, f, g::bigint FROM (VALUES ' . join(', ', @expected) . ') v (a, b, c, d, e, f, g)';
is_equal_tables($node, 'SELECT user_id, whole, tag, amount, note, sku, pos FROM evolving', $values, 'each record by its own schema, paths into records, maps and arrays');
my $requests = $registry->http('GET', '/requests');
sql(q{SELECT stream_agg.create_stream('per_user', 'SELECT user_id, count(*), sum(amount) FROM evolving GROUP BY user_id', output_mode => 'complete', trigger => '0')});
process($node, 'per_user');
is_equal_tables($node, 'SELECT * FROM per_user', "SELECT a, count(*), sum(d) FROM ($values) x GROUP BY a", 'a stream over them');
put('evolving', StreamAgg::Registry::avro_records($records[0], $records[1]));
process($node, 'per_user');
is_equal_tables($node, 'SELECT * FROM per_user', 'SELECT user_id, count(*), sum(amount) FROM evolving GROUP BY user_id', 'a stream equals the batch query');
counts_add_up($node, 'per_user', 102, 'every record is counted once');
my $asked = $registry->http('GET', '/requests') - $requests;
cmp_ok($asked, '<=', 4, "a process asks once for a schema: $asked requests by a stream's worker and a query");

# ---------- a registry that fails ----------

# down: the stream waits, and goes on by itself
my $v3 = { %$v1, doc => 'another one' };
my $id3 = $registry->register_avro($v3);
append_to_file("$registry->{ready}.down", '');
put('evolving', StreamAgg::Registry::avro_records([ $id3, $v3, { user => { id => 77, tags => {} }, amount => 1 } ]));
$node->poll_query_until('postgres', q{SELECT last_error LIKE '%did not give schema%HTTP status 503%' FROM pg_stat_stream_agg WHERE stream = 'per_user'})
  or die 'the stream does not say what is wrong';
like(error_of('SELECT * FROM evolving'), qr/schema registry .* did not give schema \d+.*HTTP status 503/s, 'a registry that is down is an error of a query');
is(sql(q{SELECT state <> 'failed' FROM pg_stat_stream_agg WHERE stream = 'per_user'}), 't', 'and no reason for a stream to fail');
unlink "$registry->{ready}.down";
process($node, 'per_user');
is(sql('SELECT count FROM per_user WHERE user_id = 77'), '1', 'it goes on by itself');
is(sql(q{SELECT stream_agg.drop_stream('per_user')}), '', 'dropped');

# what is wrong with a schema is the fault of its records
my %faults = (9002 => 'it is not JSON', 9003 => 'there is no type "nosuch"', 9004 => 'it is a schema of neither Avro nor protobuf', 9005 => 'it is not the schema of a record',
	9006 => 'the registry gives none for it', 9010 => 'it refers to other schemas', 9011 => 'it is not JSON', 8000 => 'the registry gives none for it');
create_avro('faulty', q{a int, pos bigint OPTIONS (metadata 'offset')});
my @fault = sort keys %faults;
put('faulty', map { sprintf('00%08x02', $_) } @fault);
for my $i (0 .. $#fault)
{
	like(error_of("SELECT * FROM faulty WHERE pos = $i"), qr/records of schema $fault[$i] cannot be decoded.*\Q$faults{$fault[$i]}\E/s,
		"schema $fault[$i]: $faults{$fault[$i]}");
}
sql(q{SELECT stream_agg.create_stream('skips', 'SELECT a, count(*) FROM faulty GROUP BY a', output_mode => 'complete', options => '{"on_error": "skip"}')});
process($node, 'skips');
counts_add_up($node, 'skips', scalar @fault, 'records of such schemas can be skipped');
sql(q{SELECT stream_agg.drop_stream('skips')});

# what is no answer about a schema is not
my %answers = (9001 => 'something else than JSON', 9007 => 'HTTP status 404', 9008 => 'HTTP status 302', 9009 => 'the answer is too large');
create_avro('misled', q{a int, pos bigint OPTIONS (metadata 'offset')});
my @answer = sort keys %answers;
put('misled', map { sprintf('00%08x02', $_) } @answer);
like(error_of("SELECT * FROM misled WHERE pos = $_"), qr/\Q$answers{$answer[$_]}\E/, "answer $answer[$_]: $answers{$answer[$_]}") for 0 .. $#answer;

# credentials are those of the user's mapping; proxies of the environment do not matter
my $private = StreamAgg::Registry->new('reader:secret');
my $secret_id = $private->register_avro($v1);
sql(qq{CREATE SERVER private FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$brokers', "schema.registry" '$private->{url}', "fetch.wait.max.ms" '20')});
create_avro('secrets', 'amount int', 'private');
put('secrets', StreamAgg::Registry::avro_records([ $secret_id, $v1, { user => { id => 1, tags => {} }, amount => 42 } ]));
like(error_of('SELECT * FROM secrets'), qr/HTTP status 401.*HINT:.*user mapping/s, 'a registry that wants a password');
sql(q{CREATE USER MAPPING FOR postgres SERVER private OPTIONS ("schema.registry.user" 'reader', "schema.registry.password" 'secret')});
is(sql('SELECT amount FROM secrets'), '42', 'and gets it from the user mapping');
sql(q{CREATE SERVER silent FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '} . $brokers . q{', "schema.registry" 'http://127.0.0.1:1', "fetch.wait.max.ms" '20')});
create_avro('lost', 'a int', 'silent');
put('lost', '0000000001');
like(error_of('SELECT * FROM lost'), qr{no answer from "http://127.0.0.1:1/schemas/ids/1".*DETAIL:}s, 'nobody there');

# TLS: only with a certificate that is trusted
my $pem = PostgreSQL::Test::Utils::tempdir() . '/registry.pem';
IPC::Run::run([ 'openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=registry', '-addext', 'subjectAltName=IP:127.0.0.1',
		'-keyout', "$pem.key", '-out', "$pem.crt" ], '>', '/dev/null', '2>&1') or die 'no certificate';
my $certificate = slurp_file("$pem.crt");
append_to_file($pem, slurp_file("$pem.key") . $certificate);
my $tls = StreamAgg::Registry->new('', $pem);
(my $https = $tls->{url}) =~ s/^http:/https:/;
sql(qq{CREATE SERVER tls FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$brokers', "schema.registry" '$https', "fetch.wait.max.ms" '20')});
create_avro('encrypted', 'a int', 'tls');
put('encrypted', '0000001f40');
like(error_of('SELECT * FROM encrypted'), qr/no answer from .*certificate/s, 'a registry whose certificate nobody trusts');
sql(qq{ALTER SERVER tls OPTIONS (ADD "schema.registry.ca.pem" '$certificate')});
like(error_of('SELECT * FROM encrypted'), qr/records of schema 8000 cannot be decoded/, 'and one whose certificate the server says');

# a registry that takes its time keeps neither a query nor a stream
create_avro('hanging', 'a int');
put('hanging', sprintf('00%08x02', 9012));
like(error_of(q{SET statement_timeout = '1s'; SELECT * FROM hanging}), qr/canceling statement due to statement timeout/, 'a query that waits for a registry can be cancelled');
sql(q{SELECT stream_agg.create_stream('hangs', 'SELECT a, count(*) FROM hanging GROUP BY a', output_mode => 'complete', trigger => '0')});
$node->poll_query_until('postgres', q{SELECT state = 'running' AND pid IS NOT NULL FROM pg_stat_stream_agg WHERE stream = 'hangs'}) or die 'it does not run';
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM stream_agg.offsets WHERE stream = 'hangs'}) or die 'it plans no batch';
like(sql(q{SELECT pid > 0 FROM pg_stat_stream_agg WHERE stream = 'hangs'}), qr/t/, 'a stream waits for it');
sql(q{SELECT stream_agg.stop_stream('hangs')});
$node->poll_query_until('postgres', q{SELECT pid IS NULL FROM pg_stat_stream_agg WHERE stream = 'hangs'}) or die 'it does not stop';
is(sql(q{SELECT state FROM pg_stat_stream_agg WHERE stream = 'hangs'}), 'stopped', 'and stops when it is told to');
sql(q{SELECT stream_agg.drop_stream('hangs')});

# ---------- records that are wrong ----------

create_avro('wrong', q{i int, s text, e text, ar int[], pos bigint OPTIONS (metadata 'offset')});
my $small = { type => 'record', name => 'Small', fields => [ { name => 'i', type => 'int' }, { name => 's', type => 'string' }, { name => 'e', type => { type => 'enum', name => 'E2', symbols => ['A'] } },
		{ name => 'ar', type => { type => 'array', items => 'null' } }, { name => 'n', type => [ 'null', 'Small' ] } ] };
my $head = sprintf('00%08x', $registry->register_avro($small));
my %wrong = ('' => 'does not begin with the id', '00' => 'does not begin with the id', "01" . substr($head, 2) => 'does not begin with the id', $head => 'ends too early',
	"${head}02" => 'ends too early', "${head}0206616263" => 'ends too early', "${head}020800" => 'length goes beyond', "${head}0201" => 'length goes beyond',
	"${head}ffffffffff0f00000000" => 'more than 32 bits', "${head}ffffffffffffffffffff01" => 'number is too long', "${head}0202ff0000" => 'not UTF-8',
	"${head}0202000000" => 'not UTF-8', "${head}02000200" => 'not in the schema', "${head}0200000004" => 'not in the schema', "${head}020000000000" => 'bytes behind',
	"${head}020000feffffffffffffffff0100" => 'too many values', "${head}020000ffffffffffffffffff0100" => 'goes beyond', $head . '0200000002' x 2000 => 'nested too deeply');
my @bad = sort keys %wrong;
put('wrong', @bad, "${head}0202610000" . '00');
for my $i (0 .. $#bad)
{
	like(error_of("SELECT i FROM wrong WHERE pos = $i"), qr/$wrong{$bad[$i]}/, "$wrong{$bad[$i]}, whatever field is read");
}
is(sql('SELECT i, s, e, ar FROM wrong WHERE pos = ' . @bad), '1|a|A|{}', 'and the right one is right');

# random damage: a record decodes or it does not, and nothing else happens
my @damaged;
for (1 .. 3000)
{
	my $bytes = pack('H*', $hex[ $random->(scalar @hex) ]);
	for (0 .. $random->(3))
	{
		my $at = 5 + $random->(length($bytes) - 4);
		my $kind = $random->(4);
		my $some = join('', map { chr($random->(3) ? (0, 1, 2, 0x7f, 0x80, 0xff)[ $random->(6) ] : $random->(256)) } 0 .. $random->(9));
		if ($kind == 0) { substr($bytes, $at, 1) = substr($some, 0, 1) if $at < length $bytes; }
		elsif ($kind == 1) { substr($bytes, $at, 0) = $some; }
		elsif ($kind == 2) { substr($bytes, $at, $random->(6)) = ''; }
		else { $bytes = substr($bytes, 0, $at); }
	}
	push @damaged, unpack('H*', $bytes);
}
create_avro('damaged', join(', ', map { "\"$_->[0]\" $_->[2]" } grep { $_->[0] ne 'rc' } @types) . q{, rc jsonb, inner_t text OPTIONS (path 'rc.in.t')});
put('damaged', @damaged);
sql(q{SELECT stream_agg.create_stream('survives', 'SELECT b, count(*), max(l) AS l, max(s) AS s, max(de) AS de, max(dt) AS dt, max(sm) AS sm, max(rc::text) AS rc, max(inner_t) AS t,
	max(ux::text) AS ux, max(mp::text) AS mp, max(fu) AS fu, max(d) AS d, max(tm) AS tm, max(length(y)) AS y FROM damaged GROUP BY b', output_mode => 'complete', options => '{"on_error": "skip"}')});
process($node, 'survives');
counts_add_up($node, 'survives', scalar @damaged, 'damaged records: every one is counted once');
my ($good, $refused) = split /\|/, sql(q{SELECT total_aggregated, total_dead_lettered FROM stream_agg.commits WHERE stream = 'survives' ORDER BY batch DESC LIMIT 1});
cmp_ok($good, '>', 20, "$good of them decode all the same");
cmp_ok($refused, '>', 500, "$refused do not");
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP/, 'no process has ended of it');

$_->stop for $registry, $private, $tls;
done_testing();
