# What a record's few bytes can stand for is bounded: decimals with millions of
# digits, numbers with great exponents inside of what is read as text, and
# containers of very many values are refused as records that do not decode.  The
# stream goes on, with no more memory and time than other records take.

use strict;
use warnings;

use IPC::Run;
use JSON::PP;
use Math::BigInt;
use POSIX ();
use PostgreSQL::Test::Utils;
use StreamAgg::Registry;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(map { $_ => 1 } qw(json csv avro wide types internal lost));
my $node = new_node('bounds', 'fsync = off', "stream_agg.kafka_timeout = '60s'");
my $brokers = $broker->brokers;

# kB that a worker may take beyond what it has at the start, and seconds of the
# processor's for a micro-batch
my $memory = 300_000;
my $time = 3;

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub memory { my ($kb) = slurp_file("/proc/$_[0]/status") =~ /VmHWM:\s+(\d+)/; return $kb; }

sub seconds
{
	my @fields = split ' ', (slurp_file("/proc/$_[0]/stat") =~ s/.*\) //sr);
	return ($fields[11] + $fields[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

sub create
{
	my ($stream, $query) = @_;
	sql("SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, options => '{\"on_error\": \"dead_letter\"}', trigger => '20 days')");
	process($node, $stream);
	return worker_pid($node, $stream);
}

# Run a micro-batch, and test that it is bounded.
sub bounded
{
	my ($stream, $pid, $name) = @_;
	my ($kb, $s) = (memory($pid), seconds($pid));
	process($node, $stream);
	is(worker_pid($node, $stream), $pid, "$name: the worker goes on");
	($kb, $s) = (memory($pid) - $kb, seconds($pid) - $s);
	diag(sprintf 'figures: %s: %d kB more, %.2f s', $name, $kb, $s);
	cmp_ok($kb, '<', $memory, "$name: memory of the worker");
	cmp_ok($s, '<', $time, "$name: time");
	return;
}

sub dead_letters { my $stream = shift; return sql("SELECT string_agg(error, '|' ORDER BY \"offset\") FROM stream_agg.dead_letters WHERE stream = '$stream'"); }

# ---------- JSON ----------

create_source($node, $broker, 'json', 'json', 'id int, t text, j jsonb, n numeric, a numeric[]');
my $pid = create('in_json', 'SELECT id, length(t) AS t, length(j::text) AS j, length(n::text) AS n, array_length(a, 1) AS a FROM json');
my $many = join ',', ('1e131071') x 6000;
my $small = join ',', ('1e-16383') x 20_000;
$broker->produce('json', '{"id":1,"t":[1e131071],"j":[1e131071],"n":1e131071,"a":[1e131071]}', qq({"id":2,"t":[$many]}), qq({"id":3,"j":[$many]}),
	qq({"id":4,"t":{"x":[$small]}}), qq({"id":5,"a":[$many]}), qq({"id":6,"nothing":[$many]}),
	sprintf('{"id":7,"t":[%s]}', join ',', ('1.7976931348623157e308') x 5_000), sprintf('{"id":8,"n":%s}', '9' x 100_000), '{"id":9,"t":[1]}');
bounded('in_json', $pid, 'M3: exponents in JSON');
is(sql('SELECT string_agg(id::text, $$ $$ ORDER BY id) FROM in_json'), '1 7 8 9', 'M3: records with exponents of a sensible size are taken');
is(sql('SELECT t, j, n, a FROM in_json WHERE id = 1'), '131074|131074|131072|1', 'M3: and have their values');
is(dead_letters('in_json'), join('|', ('invalid JSON record: the exponents of its numbers stand for too many digits') x 5),
	'M3: others are dead letters, whatever is read of them');

# the text of numbers in other places
my $array = join ',', ('1e131071') x 6000;
$broker->produce('json', qq({"id":11,"a":"{$array}"}), '{"id":12,"a":"{1e131071}"}');
bounded('in_json', $pid, 'M3: exponents in an array in a string');
is(sql('SELECT string_agg(id::text, $$ $$ ORDER BY id) FROM in_json WHERE id > 10'), '12', 'M3: an array of very many digits is refused');

# ---------- containers of very many values ----------

create_source($node, $broker, 'wide', 'wide', 'id int, t text');
$pid = create('in_wide', 'SELECT id, length(t) AS t FROM wide');
$broker->produce('wide', map { sprintf '{"id":%d,"t":[%s]}', $_, join ',', ('[]') x 300_000 } 1 .. 4);
bounded('in_wide', $pid, 'M3: containers of very many values');
is(sql('SELECT count(*), min(t) FROM in_wide'), '4|1200000', 'M3: containers that fit a message are taken');

# ---------- input functions with errors of other classes ----------

my %bad = (tsvector => q{'a}, tsquery => 'a &', jsonpath => '$.', regclass => 'nothing', regtype => 'nothing', regrole => 'nothing',
	regproc => 'nothing', regprocedure => 'nothing(int)', regoper => '@#@#', regconfig => 'nothing', regdictionary => 'nothing',
	regnamespace => 'nothing', regcollation => 'nothing', aclitem => 'nothing=r/nobody');
my @types = sort keys %bad;
create_source($node, $broker, 'types', 'types', join ', ', 'id int', map { "c_$_ $_" } @types);
$pid = create('in_types', sprintf 'SELECT id, num_nonnulls(%s) AS n FROM types', join ', ', map { "c_$_" } @types);
$broker->produce('types', '{"id":0,"c_regclass":"pg_class","c_tsvector":"a b"}',
	(map { sprintf '{"id":%d,"c_%s":%s}', $_ + 1, $types[$_], JSON::PP->new->allow_nonref->encode($bad{$types[$_]}) } 0 .. $#types),
	'{"id":100,"c_regclass":"nothing.nothing"}', '{"id":101,"c_regclass":"a.b.c.d"}', '{"id":102,"c_regrole":"postgres"}');
bounded('in_types', $pid, 'texts that are no values of their types');
is(sql(q{SELECT string_agg(id || ' ' || n, '|' ORDER BY id) FROM in_types}), '0 2|102 1', 'the others are taken');
is(dead_letters('in_types'), join('|', map { qq{value for field "c_$_" is not a valid $_} } @types, 'regclass', 'regclass'),
	'whatever class of error an input function raises, its record is a dead letter');

# ---------- input functions with internal errors ----------

sql('CREATE EXTENSION hstore; CREATE EXTENSION tdigest');
create_source($node, $broker, 'internal', 'internal', 'id int, h hstore, q tsquery, d tdigest, hs hstore[]');
$pid = create('in_internal', 'SELECT id, h::text AS h, q::text AS q FROM internal');
$broker->produce('internal', '{"id":1,"h":"a=>1"}', '{"id":2,"h":{"a":1}}', '{"id":3,"h":"a=>"}', sprintf('{"id":4,"q":"%sa"}', '!' x 40), '{"id":5,"d":"x"}', '{"id":6,"hs":["a=>1","=>"]}', '{"id":7,"q":"!a"}');
bounded('in_internal', $pid, 'internal errors of input functions');
is(sql(q{SELECT string_agg(concat_ws(' ', id, h, q), '|' ORDER BY id) FROM in_internal}), q{1 "a"=>"1"|5|6|7 !'a'}, 'records of which no such column is read are taken');
is(dead_letters('in_internal'), join('|', map { qq{value for field "$_" is not a valid } . ($_ eq 'h' ? 'hstore' : 'tsquery') } qw(h h q)), 'others are dead letters');
sql(q{ALTER FOREIGN TABLE internal OPTIONS (ADD on_error 'skip')});
is(sql(q{SELECT string_agg(id::text, ' ' ORDER BY id) FROM internal WHERE num_nonnulls(h, q, d, hs) >= 0}), '1 7', 'a query that skips such records ends');

sql(q{SELECT stream_agg.drop_stream('in_internal', drop_sink => true);
	CREATE DOMAIN needs_lost AS int CHECK (VALUE = 0 OR amvalidate(4294967290))});
create_source($node, $broker, 'lost', 'lost', 'id int, v needs_lost');
sql(q{ALTER SYSTEM SET stream_agg.max_attempts = 2; SELECT pg_reload_conf()});
create('in_lost', 'SELECT id, v FROM lost');
$broker->produce('lost', '{"id":1,"v":0}', '{"id":2,"v":1}');
like(($node->psql('postgres', q{SELECT stream_agg.process_available('in_lost')}))[2], qr/stream "in_lost" (has )?failed.*cache lookup failed for operator class 4294967290/s, 'what the catalogs have lost stops the stream');
is(sql(q{SELECT count(*) FROM stream_agg.dead_letters WHERE stream = 'in_lost'}), 0, 'and is not the fault of records');
sql(q{SELECT stream_agg.drop_stream('in_lost', drop_sink => true); ALTER SYSTEM RESET stream_agg.max_attempts; SELECT pg_reload_conf()});

# ---------- CSV ----------

sql(qq{SELECT stream_agg.create_source('csv', topic => 'csv', brokers => '$brokers', format => 'csv',
	columns => 'id int, n numeric, t text, a numeric[]', options => '{"fetch.wait.max.ms": 20}')});
$pid = create('in_csv', 'SELECT id, length(n::text) AS n, length(t) AS t, array_length(a, 1) AS a FROM csv');
$broker->produce('csv', qq(1,1e131071,1e131071,"{1e131071}"), qq(2,1,x,"{$array}"), '3,1e999999999,x,{}', '4,1,x,{2}');
bounded('in_csv', $pid, 'M3: CSV');
is(sql('SELECT string_agg(format($$%s %s %s$$, id, n, t), $$|$$ ORDER BY id) FROM in_csv'), '1 131072 8|4 1 1', 'M3: CSV: numbers are as long as numeric has them, texts as they are');

# ---------- Avro ----------

my $registry = StreamAgg::Registry->new();
my $url = $registry->url;
my $json = JSON::PP->new->canonical->allow_nonref;

# Produce records with a field "id" and one called "v", of the given type.
my $last_id = 0;
sub produce_avro
{
	my ($type, @values) = @_;
	my $schema = { type => 'record', name => 'R' . ++$last_id, fields => [ { name => 'id', type => 'int' }, { name => 'v', type => $type } ] };
	my $id = $registry->register_avro($schema);
	sql('INSERT INTO avro_bytes (v) VALUES ' . join(', ', map { "('\\x$_')" }
			StreamAgg::Registry::avro_records(map { [ $id, $schema, { id => $last_id, v => $_ } ] } @values)));
	return;
}
sub decimal { my ($precision, $scale) = @_; return { type => 'bytes', logicalType => 'decimal', precision => $precision, scale => $scale }; }

sql(qq{CREATE SERVER kafka FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$brokers', "schema.registry" '$url', "fetch.wait.max.ms" '20');
	SELECT stream_agg.create_source('avro', topic => 'avro', server => 'kafka', format => 'avro', columns => 'id int, v numeric');
	SELECT stream_agg.create_source('avro_text', topic => 'avro', server => 'kafka', format => 'avro', columns => 'id int, v text');
	SELECT stream_agg.create_source('avro_bytes', topic => 'avro', server => 'kafka', format => 'raw', columns => 'v bytea')});
$pid = create('in_avro', 'SELECT id, v FROM avro');
my $text_pid = create('as_text', 'SELECT id, length(v) AS v FROM avro_text');
produce_avro(decimal(30, 3), '7fff');
produce_avro(decimal(2_000_000_000, 1_000_000_000), '7f', '7f', '7f');
produce_avro(decimal(2_147_483_647, 2_147_483_647), '7f');
produce_avro(decimal(16_384, 16_384), '7f');
produce_avro(decimal(10, 11), '7f');
produce_avro(decimal(16_383, 16_383), '7f');
produce_avro(decimal(1300, 0), '7f' . 'ff' x 511, '7f' . 'ff' x 512);
produce_avro({ type => 'array', items => decimal(16_383, 16_383) }, [ ('7f') x 5000 ]);
produce_avro({ type => 'array', items => decimal(1300, 0) }, [ ('7f' . 'ff' x 511) x 1000 ]);
produce_avro({ type => 'array', items => 'double' }, [ ('1e308') x 20_000 ]);
produce_avro('bytes', 'ff' x 500_000);
bounded('in_avro', $pid, 'M2: Avro as numbers');
bounded('as_text', $text_pid, 'M2: Avro as texts');
is(sql(q{SELECT string_agg(id || ' ' || length(v::text), '|' ORDER BY id, length(v::text)) FROM in_avro}), '1 6|6 16385|7 1233',
	'M2: decimals that numeric holds are taken');
is(sql(q{SELECT v FROM in_avro WHERE id = 7}), Math::BigInt->new(2)->bpow(4095)->bdec->bstr, 'M2: and are exact, to the greatest');
is(sql(q{SELECT count(*) FROM stream_agg.dead_letters WHERE stream = 'in_avro'}), '11', 'M2: all else is a dead letter');
is(sql(q{SELECT string_agg(DISTINCT error, '|' ORDER BY error) FROM stream_agg.dead_letters WHERE stream = 'as_text'}),
	'invalid Avro record of schema 7: a decimal is too long|invalid Avro record of schema 8: its numbers stand for too many digits|value for field "v" is not a valid text',
	'M2: with its reason');

$registry->stop;
done_testing();
