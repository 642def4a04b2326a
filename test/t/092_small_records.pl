# Records, schemas and brokers that cost little to send and would cost much to
# process: numbers of a few bytes and 131,072 digits, symbols of megabytes, names of
# types that collide, connections that break again and again.  Memory, temporary
# files and time stay in their bounds.
#
# ONLY=text: the subtests whose names have it.

use strict;
use warnings;

use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use StreamAgg::HostileBroker;
use StreamAgg::Test;
use Test::More;
use Time::HiRes 'time';

# the rest of a subtest that dies is a failure, and the others go on
sub checked
{
	my ($name, $code) = @_;
	return if defined $ENV{ONLY} && index($name, $ENV{ONLY}) < 0;
	return subtest $name => sub { eval { $code->(); 1 } or fail("died: $@"); };
}

my $json = JSON::PP->new->canonical;
my $node = new_node('small_records', 'fsync = off', "stream_agg.kafka_timeout = '60s'", 'stream_agg.max_attempts = 2',
	"stream_agg.max_retry_delay = '100ms'", "stream_agg.batch_memory = '1MB'");
my $broker = StreamAgg::HostileBroker->new();
my $brokers = $broker->brokers;
my $scripts = $ENV{REGISTRY} or die 'REGISTRY is not set: run the tests by test/run';
my $ready = PostgreSQL::Test::Utils::tempdir() . '/registry';
my $registry = IPC::Run::start([ 'python3', "$scripts/schema_registry.py", $ready ], '<', \undef, '>', "$ready.log", '2>&1');
for (1 .. 1800) { last if -s $ready; select(undef, undef, undef, 0.1); }
my $url = 'http://127.0.0.1:' . slurp_file($ready);

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub error_of
{
	my ($sql, %params) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql, %params);
	return $status == 0 ? 'no error' : $err;
}
sub source
{
	my ($name, $columns, $format) = @_;
	$format //= 'json';
	sql("SELECT stream_agg.create_source('$name', topic => '$name', server => 'kafka', format => '$format', columns => \$c\$$columns\$c\$)");
	return;
}
sub create_stream
{
	my ($name, $query, $policy) = @_;
	sql("SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$, options => '{\"on_error\": \"$policy\"}')");
	return;
}
sub register
{
	my ($schema) = @_;
	my $code = 'import json, sys, urllib.request as r; print(json.loads(r.urlopen(r.Request(sys.argv[1], data=sys.stdin.buffer.read())).read())["id"])';
	my ($out, $err);
	IPC::Run::run([ 'python3', '-c', $code, "$url/subjects/s/versions" ], '<', \$json->encode({ schema => $json->encode($schema) }), '>', \$out, '2>', \$err) or die $err;
	return $out + 0;
}
# the records of a topic, in one batch; those of Avro in hex
sub topic { my ($name, @values) = @_; $broker->add_topic($name, [ { base => 0, values => \@values } ]); return; }
sub avro { my ($id, $hex) = @_; return { hex => sprintf('00%08x%s', $id, $hex) }; }

# what describe_topic says, and the most memory its backend has taken, in MB; a
# sanitizer takes memory of its own
sub described
{
	my ($topic) = @_;
	my $out = sql(qq{SELECT stream_agg.describe_topic('$topic', server => 'kafka');
		SELECT 'maps ' || (pg_read_file('/proc/self/maps') ~ 'libasan');
		SELECT 'peak ' || substring(pg_read_file('/proc/self/status') from 'VmHWM:\\s+(\\d+)')});
	$out =~ s/\npeak (\d+)$// or die $out;
	my $peak = $1 / 1024;
	$out =~ s/\nmaps (\w+)$// or die $out;
	return ($out, $1 eq 'true' ? 0 : $peak);
}

sql(qq{CREATE SERVER kafka FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$brokers', "schema.registry" '$url', "fetch.wait.max.ms" '20')});

checked 'numbers of many digits: describe_topic takes no memory for them' => sub {
	topic('numbers', ('{' . join(',', map { qq("a$_":1e131071) } 1 .. 8) . '}') x 1000);
	my ($call, $peak) = described('numbers');
	diag(sprintf 'figures: %d MB', $peak);
	cmp_ok($peak, '<', 300, 'memory');
	is(() = $call =~ / numeric\b/g, 8, 'and finds numbers');
	topic('digits', ('{' . join(',', map { qq("a$_":1e131071) } 1 .. 40) . '}') x 50);
	($call, $peak) = described('digits');
	cmp_ok($peak, '<', 300, 'memory for records that no source of JSON takes');
	like($call, qr/^-- 50 records: 0 JSON objects, 50 other texts/, 'which do not count as JSON');
	topic('kinds', '{"a":9223372036854775807,"b":9223372036854775808,"c":-9223372036854775808,"d":-9223372036854775809,"e":12.0,"f":1e3,"g":-1,"made_at":1700000000000,"h":1700000000000,"i":0.5}');
	($call) = described('kinds');
	is_deeply([ $call =~ /^        (\w+ \w+)/mg ], [ 'a bigint', 'b numeric', 'c bigint', 'd numeric', 'e numeric', 'f bigint', 'g bigint', 'h bigint', 'i numeric', 'made_at timestamptz' ],
		'whole numbers are told from others');
};

checked 'names that are not what they look like: what describe_topic prints is what it makes' => sub {
	topic('system', '{"ctid":1,"xmin":"a","tableoid":2,"cmax":3,"TableOid":4,"ok":5}');
	my ($call) = described('system');
	eval { sql($call); 1 } or fail("the call cannot be run: $@");
	is(sql(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'system'::regclass AND attnum > 0}), 6, 'columns for fields with names of system columns');
	is(sql('SELECT ctid_2, xmin_2, tableoid_2, cmax_2, table_oid, ok FROM system'), '1|a|2|3|4|5', 'which find their fields');
	my @odd = ("a\x{80}", "b\x{9b}31m", "c\x{202e}d", "e\x{2066}", "f\x{200b}", "g\x{feff}", "h\x{e0041}", "i\x{ad}", "j\x{61c}", "k\x{2028}", "l\x{85}");
	topic('odd', { hex => unpack 'H*', JSON::PP->new->utf8->encode({ (map { $_ => 1 } @odd), "\x{e4}\x{65e5}\x{1f600}" => 2, ok => 3 }) });
	($call) = described('odd');
	like($call, qr/some fields are left out/, 'names with controls, or characters that cannot be seen, are left out');
	sql($call);
	is(sql(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'odd'::regclass AND attnum > 0}), 2, 'and others are not');
};

$registry->kill_kill;
done_testing();
