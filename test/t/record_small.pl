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
use StreamAgg::Registry;
use StreamAgg::Test;
use Test::More;
use Time::HiRes 'time';

# Workers of earlier subtests would go on asking the broker, which does one thing at a time.
sub checked
{
	my ($name, $code) = @_;
	return checked_subtest($name, $code, sub { sql('SELECT stream_agg.drop_stream(stream, drop_sink => true) FROM stream_agg.streams') });
}

my $json = JSON::PP->new->canonical;
my $node = new_node('small_records', 'fsync = off', "stream_agg.kafka_timeout = '60s'", 'stream_agg.max_attempts = 2',
	"stream_agg.max_retry_delay = '100ms'", "stream_agg.batch_memory = '1MB'");
my $broker = StreamAgg::HostileBroker->new();
my $brokers = $broker->brokers;
my $registry = StreamAgg::Registry->new();
my $url = $registry->url;

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
# many bytes of them, compressed, each in a batch of its own
sub long_topic { my ($name, @values) = @_; $broker->add_topic($name, [ map { { base => $_, values => [ $values[$_] ], codec => 1 } } 0 .. $#values ]); return; }
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

checked 'symbols and names of schemas: what a record of a few bytes stands for is bounded' => sub {
	my %schemas = (long_symbol => { type => 'enum', name => 'e', symbols => [ 'x' x 2000 ] },
		symbols => { type => 'array', items => { type => 'enum', name => 'e', symbols => [ 'x' x 1000, 'y' ] } },
		long_name => { type => 'record', name => 'n', fields => [ { name => 'x' x 2000, type => 'long' } ] },
		names => { type => 'array', items => { type => 'record', name => 'n', fields => [ { name => 'x' x 1000, type => 'long' } ] } },
		long_type => { type => 'fixed', name => 'x' x 2000, size => 1 });
	my %ids = map { $_ => $registry->register_avro({ type => 'record', name => 'r', fields => [ { name => 'v', type => $schemas{$_} } ] }) } keys %schemas;
	# blocks of 10,000 and of 10 elements, each of a byte: 10 MB, and 10 kB
	topic('avro', avro($ids{long_symbol}, '00'), avro($ids{symbols}, 'a09c01' . '00' x 10_000 . '00'), avro($ids{symbols}, '14' . '00' x 10 . '00'),
		avro($ids{symbols}, 'a09c01' . '02' x 10_000 . '00'), avro($ids{long_name}, '00'), avro($ids{names}, 'a09c01' . '00' x 10_000 . '00'),
		avro($ids{names}, '14' . '00' x 10 . '00'), avro($ids{long_type}, '00'));
	source('avro', 'v text, pos bigint OPTIONS (metadata $$offset$$)', 'avro');
	create_stream('avro_s', 'SELECT pos, length(v) AS n FROM avro', 'dead_letter');
	process($node, 'avro_s');
	is(sql(q{SELECT string_agg(pos || ':' || n, ' ' ORDER BY pos) FROM avro_s}), '2:10040 3:50000 6:10090', 'records of a sensible size are taken');
	is(sql(q{SELECT string_agg("offset" || ' ' || substring(concat(error, detail) FROM 'a name or symbol is too long|its symbols stand for too many bytes|names of its fields take too many bytes'), '|' ORDER BY "offset")
		FROM stream_agg.dead_letters WHERE stream = 'avro_s'}),
		'0 a name or symbol is too long|1 its symbols stand for too many bytes|4 a name or symbol is too long|5 names of its fields take too many bytes|7 a name or symbol is too long',
		'others are dead letters, with the reason');
};

checked 'names of types that collide: a schema is compiled in time that grows with its length' => sub {
	my $n = 8_000;
	my @same = split / /, sql("SELECT string_agg(n, ' ') FROM (SELECT 'n' || i AS n FROM generate_series(1, 9000000) i WHERE hashtext('n' || i) & 1023 = 0 LIMIT $n) x");
	my %names = (collide => \@same, differ => [ map { "n$_" } 1 .. $n ]);
	my %spent;
	for my $kind (qw(differ collide))
	{
		my @fields = map { { name => "f$_", type => { type => 'fixed', name => $names{$kind}[$_], size => 1 } } } 0 .. $n - 1;
		push @fields, map { { name => "g$_", type => $names{$kind}[0] } } 0 .. $n - 1;
		my $id = $registry->register_avro({ type => 'record', name => 'r', fields => \@fields });
		topic($kind, avro($id, ''));
		source($kind, 'k bigint', 'avro');
		my $start = time;
		like(error_of("SET statement_timeout = '60s'; SELECT k FROM $kind"), qr/invalid Avro record of schema $id: it ends too early/, "$kind: the schema is compiled");
		$spent{$kind} = time - $start;
	}
	diag(sprintf 'figures: %.2f s, and %.2f s where they collide', @spent{qw(differ collide)});
	cmp_ok($spent{collide}, '<', 2 * $spent{differ} + 1, 'as fast as others');
};

checked 'times beyond what Kafka knows: nothing is of them' => sub {
	topic('times', '{"a":1}', '{"a":2}');
	source('times', 'a int, ts timestamptz OPTIONS (metadata $$timestamp$$)');
	for my $time ('294247-01-10 04:00:54.774+00', '294247-01-10 04:00:54.775807+00', '294247-01-10 04:00:54.776+00', '294276-12-31 23:59:59+00', 'infinity')
	{
		is(sql("SELECT count(*) FROM times WHERE ts >= '$time'"), 0, "a query from $time on ends, without a record");
	}
	sql(q{SELECT stream_agg.create_stream('far', 'SELECT a FROM times', starting_offsets => '294276-12-31 00:00+00')});
	process($node, 'far');
	is(sql('SELECT count(*) FROM far'), 0, 'a stream that starts there has read none');
};

# A megabyte each, 300 in all; four times batch_memory, or 256 MB if that is more, is
# the bound.
my $n = 300;
my $rows = q{SELECT pos, repeat('x', 1000000) AS v FROM rows};

checked 'rows of which a few bytes make many: a micro-batch that would fill the disk is made smaller' => sub {
	topic('rows', ('{}') x $n);
	source('rows', 'pos bigint OPTIONS (metadata $$offset$$)');
	my $log = -s $node->logfile;
	create_stream('rows_s', $rows, 'fail');
	process($node, 'rows_s');
	is(sql('SELECT count(*), count(DISTINCT pos), min(octet_length(v)) FROM rows_s'), "$n|$n|1000000", 'all rows are there, each once');
	counts_add_up($node, 'rows_s', $n, 'all are counted');
	my @retries = slurp_file($node->logfile, $log) =~ /micro-batch \d+ is retried with (\d+) of its \d+ offsets, because its rows take more than 262144 kB/g;
	is("@retries", 150, 'and the log says so');
	is(sql(q{SELECT count(*) FROM stream_agg.commits WHERE stream = 'rows_s'}), 2, 'in no more micro-batches than needed');

	sql(q{SELECT stream_agg.stop_stream('rows_s'); SELECT stream_agg.reset_stream('rows_s', results => true); SELECT stream_agg.start_stream('rows_s')});
	process($node, 'rows_s');
	is(sql('SELECT count(*), count(DISTINCT pos) FROM rows_s'), "$n|$n", 'a reset with results is one micro-batch, as large as it is');
	sql(q{SELECT stream_agg.drop_stream('rows_s'); DROP TABLE rows_s});
};

checked 'temp_file_limit: micro-batches become small enough, and a record that alone exceeds it follows on_error' => sub {
	topic('files', (map { "{\"k\":$_}" } 1 .. 40), '{"k":20000}', map { "{\"k\":$_}" } 1 .. 40);
	source('files', 'k int, pos bigint OPTIONS (metadata $$offset$$)');
	sql(q{ALTER ROLE postgres SET temp_file_limit = '2MB'});
	my $log = -s $node->logfile;
	# 1 to 40 kB, 20 MB and 1 to 40 kB again, times three
	my $query = q{SELECT pos, i, repeat(md5(k::text), k * 32) AS v FROM files, generate_series(1, 3) i};
	create_stream('files_skip', $query, 'skip');
	process($node, 'files_skip');
	is(sql('SELECT count(*), count(DISTINCT (pos, i)), count(*) FILTER (WHERE pos = 40) FROM files_skip'), '240|240|0', 'skip: all rows are there but those of the record');
	counts_add_up($node, 'files_skip', 81, 'all are counted');
	is(sql(q{SELECT total_dead_lettered FROM stream_agg.commits WHERE stream = 'files_skip' ORDER BY batch DESC LIMIT 1}), 1, 'one of them as left out');
	like(slurp_file($node->logfile, $log), qr/is retried with \d+ of its 81 offsets, because its temporary files exceed temp_file_limit/, 'the log says that micro-batches are made smaller');
	create_stream('files_fail', $query, 'fail');
	wait_state($node, 'files_fail', 'failed', 'temporary file size exceeds temp_file_limit');
	is(sql('SELECT count(*), max(pos) FROM files_fail'), '120|39', 'fail: the stream stops in front of the record');

	# 10 MB of records, of which a micro-batch has 1 MB in memory
	$broker->add_topic('read', [ map { { base => $_, values => [ '{"k":"' . 'x' x 100_000 . '"}' ] } } 0 .. 99 ]);
	source('read', 'k text, pos bigint OPTIONS (metadata $$offset$$)');
	create_stream('read_s', 'SELECT pos, length(k) AS n FROM read', 'fail');
	process($node, 'read_s');
	is(sql('SELECT count(*), count(DISTINCT pos), min(n) FROM read_s'), '100|100|100000', 'so do those whose records exceed it while they are read');
	sql(q{ALTER ROLE postgres RESET temp_file_limit});
};

checked 'gaps of trillions of offsets: a stream passes each of them at once' => sub {
	my @starts = (0, 2**40, '9223372036854775707' + 0);
	$broker->add_topic('gaps', [ map { { base => $_, values => [ ('{}') x 50 ] } } @starts ], [ { base => 7, values => [ ('{}') x 30 ] }, { base => 2**41, values => ['{}'] } ]);
	source('gaps', 'part int OPTIONS (metadata $$partition$$), pos bigint OPTIONS (metadata $$offset$$)');
	sql(q{SELECT stream_agg.create_stream('gaps_s', 'SELECT part, pos FROM gaps', max_offsets_per_trigger => 20)});
	process($node, 'gaps_s');
	is(sql('SELECT count(*), count(DISTINCT (part, pos)) FROM gaps_s'), '181|181', 'and has all records, each once');
	counts_add_up($node, 'gaps_s', 181, 'all are counted');
	cmp_ok(sql(q{SELECT count(*) FROM stream_agg.commits WHERE stream = 'gaps_s'}), '<', 25, 'in not many more micro-batches than without gaps');
};

checked 'a broker that hangs up at each fetch: a query and a stream give up after kafka_timeout' => sub {
	topic('deaf', '{"k":1}');
	source('deaf', 'k int');
	sql(q{ALTER SYSTEM SET stream_agg.kafka_timeout = '2s'; SELECT pg_reload_conf()});
	$broker->say(hangs_up => JSON::PP::true);
	like(error_of(q{SET statement_timeout = '15s'; SELECT count(*) FROM deaf}), qr/no records of .* from Kafka for 2000 ms/, 'a query');
	create_stream('deaf_s', 'SELECT k FROM deaf', 'fail');
	$node->poll_query_until('postgres', q{SELECT last_error ~ 'no (records|answer)' FROM pg_stat_stream_agg WHERE stream = 'deaf_s'}) or fail('never said');
	$broker->say(hangs_up => undef);
	process($node, 'deaf_s');
	is(sql('SELECT count(*) FROM deaf_s'), 1, 'a stream says so, and goes on when it is over');
	is(sql('SELECT count(*) FROM deaf'), 1, 'so does a query');
	sql(q{ALTER SYSTEM RESET stream_agg.kafka_timeout; SELECT pg_reload_conf()});
};

# The kB by which the memory of a backend has grown while it runs a statement, and the
# processor time of that in seconds.
sub grown
{
	my ($statement) = @_;
	my $kb = q{substring(pg_read_file('/proc/self/status') from 'VmRSS:\s+(\d+)')::int};
	my $ticks = q{split_part(pg_read_file('/proc/self/stat'), ' ', 14)::int};
	my @figures = split /\|/, sql(qq{CREATE TEMP TABLE used AS SELECT $kb AS kb, $ticks AS ticks;
		DO \$do\$ BEGIN PERFORM * FROM ($statement) x; END \$do\$; SELECT $kb - kb, ($ticks - ticks) / 100.0 FROM used});
	diag(sprintf 'figures: %d kB, %.2f s: %s', @figures, $statement);
	return @figures;
}

sub lenient
{
	my ($name, $topic, $columns, $format) = @_;
	$format //= 'json';
	sql(qq{SELECT stream_agg.create_source('$name', topic => '$topic', server => 'kafka', format => '$format', columns => \$c\$$columns, pos bigint OPTIONS (metadata 'offset'),
		why text OPTIONS (metadata 'error')\$c\$, options => '{"on_error": "null"}')});
	return;
}

sql(q{CREATE TYPE appointment AS (what text, at timestamptz); CREATE TYPE day AS (name text, first appointment, rest appointment[]);
	CREATE DOMAIN moment AS timestamptz; CREATE TYPE stay AS RANGE (subtype = appointment, multirange_type_name = stays); CREATE TYPE span AS RANGE (subtype = timestamptz[]);
	CREATE TYPE amount AS (a numeric, b text); CREATE TYPE amounts AS (x numeric[]); CREATE DOMAIN total AS numeric;
	CREATE TYPE amount_range AS RANGE (subtype = amount, multirange_type_name = amount_ranges)});

checked 'time zones that a record makes up: none stays in memory' => sub {
	my $n = 3000;
	my @made_up = map { my $i = $_; join '', map { my $c = chr(97 + $i % 26); $i = int($i / 26); $c } 1 .. 6 } 1 .. $n;
	my %text = (timestamptz => '"2026-12-01 06:00 %s+0"', timestamp => '"2026-12-01 06:00 %s+0"', date => '"2026-12-01 %s+0"', timetz => '"06:00 %s+0"',
		time => '"06:00 %s+0"', moment => '"2026-12-01 06:00 %s-1:30"', 'timestamptz[]' => '["2026-12-01 06:00 %s9"]', appointment => '{"at":"2026-12-01 06:00 %s+0"}',
		day => '{"rest":[{"at":"2026-12-01 06:00 %s+0"}]}', 'date[]' => '"{2026-12-01 %s\\\\+0}"', tstzrange => '"[\"2026-12-01 %s\"\\\\+0,)"',
		tstzmultirange => '"{[2026-12-01 06:00 %s+0,)}"', 'appointment[]' => '"{\"(,\\\\\"2026-12-01 06:00 %s+0\\\\\")\"}"',
		stay => '"[\"(,\\"\\"2026-12-01 06:00 %s+0\\"\\")\",)"', stays => '"{[\"(,\\"\\"2026-12-01 06:00 %s+0\\"\\")\",)}"', span => '"[{2026-12-01 06:00 %s+0},)"', 'span[]' => '["[{2026-12-01 06:00 %s+0},)"]');
	for my $type (sort keys %text)
	{
		my $name = 'zones_' . ($type =~ s/\W/_/gr);
		topic($name, map { sprintf qq({"t":$text{$type}}), $_ } @made_up);
		lenient($name, $name, "t $type");
		my ($kb) = grown("SELECT t FROM $name");
		cmp_ok($kb, '<', 20_000, "$type: memory");
		is(sql("SELECT count(t), count(*) FILTER (WHERE why ~ 'is not a time zone') FROM $name"), "0|$n", "$type: the records do not decode");
	}
	topic('zones_csv', map { "2026-12-01 06:00:00 $_+0" } @made_up);
	lenient('zones_csv', 'zones_csv', 't timestamptz', 'csv');
	cmp_ok((grown('SELECT t FROM zones_csv'))[0], '<', 20_000, 'CSV: memory');
};

checked 'time zones and dates that are known: they are what PostgreSQL reads' => sub {
	my @good = ('2026-12-01 06:00:00 Europe/Vienna', '2026-12-01 06:00 america/new_york', '2026-12-01 06:00 America/Port-au-Prince', '2026-12-01 06:00 Etc/GMT+5',
		'2026-12-01 06:00 EST5EDT', '2026-12-01 06:00 PST', '2026-12-01T06:00Z', '2026-12-01 06:00 zulu', '2026-12-01 06:00 UTC+3', '2026-12-01 06:00 gmt-5:30', '2026-12-01 06:00 GMT0',
		'20261201T060000+01', '08-Jan-1999', 'Jan-08-1999', 'Fri Jan 08 1999', 'jan/08/1999', 'January 8, 1999 04:05 PM', 'J2451187', '1999.008', '2026-12-01T06:00:00.5-07:30', 'Dec 1 06:00:00 2026 UTC');
	topic('good_zones', map { sprintf '{"t":"%s","a":["%s"],"c":{"what":"now xyz+0","at":"%s"}}', $_, ($_ =~ m{/08/} ? '2026-12-01' : $_) x 2 } @good);
	lenient('good_zones', 'good_zones', 't timestamptz, a timestamptz[], c appointment');
	is(sql('SELECT string_agg(t::text, $$,$$ ORDER BY pos) FROM good_zones'), sql('SELECT string_agg(t::timestamptz::text, $$,$$ ORDER BY o) FROM unnest(ARRAY[' .
		join(', ', map { "'$_'" } @good) . ']) WITH ORDINALITY x (t, o)'), 'alone');
	is(sql('SELECT string_agg(pos || why, $$,$$) FROM good_zones WHERE a IS NULL OR c IS NULL OR (c).what <> $$now xyz+0$$ OR (c).at <> a[1]'), '', 'in an array and in a composite, beside any text');
};

checked 'words for the time of the clock: they are no times inside of composites and arrays either' => sub {
	my @words = ('{"c":{"at":"now"}}', '{"c":"(,tomorrow)"}', '{"d":{"rest":[{"at":"to\u0064ay"}]}}', '{"d":{"rest":["(,now)"]}}', '{"a":["\u006eow"]}', '{"a":"{n\\\\ow}"}', '{"c":[]}',
		'{"d":{"first":{"what":"now","at":"2026-12-01"},"rest":[{"what":"today"}]}}', '{"r":"[\"n\"ow,)"}',
		'{"s":"[\"(,now)\",)"}', '{"p":"[,{now\\\\}]"}', '{"p":"[\"{infinity,now}\",)"}', '{"s":"[\"(a,2026-12-01)\",\"(now,2026-12-02)\")"}', '{"m":["{[2026-12-01,2026-12-02),[now,)}"]}');
	topic('nested_words', @words);
	lenient('nested_words', 'nested_words', 'a timestamptz[], c appointment, d day, r tstzrange, s stay, p span, m tstzmultirange[]');
	is(sql(q{SELECT string_agg(pos::text, ' ' ORDER BY pos) FROM nested_words WHERE why ~ 'in a record is not a date or time'}), '0 1 2 3 4 5 8 9 10 11 13', 'in any form');
	is(sql(q{SELECT pos, concat((d).first.what, (upper(s)).what) FROM nested_words WHERE why IS NULL ORDER BY pos}), "7|now\n12|now", 'texts beside them may be anything');
};

# The most memory in MB that a backend takes beyond what it has at the start; a
# sanitizer takes memory of its own.
sub peak
{
	my ($statement) = @_;
	my $kb = q{substring(pg_read_file('/proc/self/status') from 'VmHWM:\s+(\d+)')::int};
	my $peak = sql(qq{CREATE TEMP TABLE used AS SELECT $kb AS kb; DO \$do\$ BEGIN PERFORM * FROM ($statement) x; END \$do\$;
		SELECT CASE WHEN pg_read_file('/proc/self/maps') ~ 'libasan' THEN 0 ELSE ($kb - kb) / 1024 END FROM used});
	diag("figures: $peak MB: $statement");
	return $peak;
}

checked 'arrays nested deeper than an array has dimensions: columns of times take no more memory than others' => sub {
	my $deep = '[' x 900 . join(',', (1) x 10_000) . ']' x 900;
	topic('deep', qq({"t":$deep}), qq({"t":{"t":$deep}}), qq({"t":[{"rest":$deep}]}));
	for my $type ('timestamptz[]', 'time[]', 'tstzrange[]', 'appointment[]', 'day', 'day[]', 'tstzmultirange')
	{
		my $name = 'deep_' . ($type =~ s/\W/_/gr);
		lenient($name, 'deep', "t $type");
		cmp_ok(peak("SELECT t FROM $name"), '<', 50, "$type: memory");
	}
	is(sql(q{SELECT count(*) FROM deep_timestamptz__ WHERE why ~ 'number of array dimensions \(7\) exceeds the maximum allowed \(6\)'}), 1, 'with the reason');
	topic('dimensions', '{"a":[[["2026-01-01"],["2026-01-02"]]],"r":["[2026-01-01,)"]}', '{"a":[[["2026-01-01"],["now"]]]}', '{"r":["[2026-01-01,)",["now","infinity"]]}', '{"r":[[],[["now","infinity"]]]}',
		'{"r":["[2026-01-01,)",["2026-01-01","infinity"]]}', '{"a":[["2026-01-01"],"2026-01-02"]}', '{"a":[]}', '{"a":[[[[[["2026-01-01"]]]]]]}');
	lenient('dimensions', 'dimensions', 'a timestamptz[], r tstzrange[]');
	is(sql(q{SELECT string_agg(concat_ws(' ', pos, array_dims(a), array_dims(r), why ~ 'in a record is not a date or time'), '|' ORDER BY pos) FROM dimensions}),
		'0 [1:1][1:2][1:1] [1:1]|1 t|2 t|3 t|4 [1:2]|5 f|6|7 [1:1][1:1][1:1][1:1][1:1][1:1]', 'arrays are as the server reads them, and words for the time of the clock are found in them');
};

checked 'columns of types xml and tsquery: what a value may be is bounded, for their input functions serve no interrupts' => sub {
	my $attributes = sub { '<a ' . join(' ', map { "b$_='1'" } 1 .. $_[0]) . '/>' };
	my $list = '<!DOCTYPE a [<!ATTLIST a ' . join('', map { "b$_ CDATA 'x' " } 1 .. 800) . ']><a>' . '<a/>' x 800 . '</a>';
	my $row = sub { my ($field, $value) = @_; return JSON::PP->new->canonical->allow_nonref->encode({ $field => $value }); };
	sql('CREATE TYPE page AS (title text, body xml)');
	topic('costly', $row->(x => $attributes->(2000)), $row->(x => $attributes->(20_000)), $row->(x => $list), $row->(x => "<?xml version='1.0'?>\n<!-- <a> -->$list"),
		$row->(xs => [ '<a/>', $list ]), $row->(p => { title => 't', body => $list }), $row->(p => '(t,"' . ($list =~ s/"/""/gr) . '")'), $row->(xs => [ ('<a/>') x 20_000 ]),
		$row->(q => 'a&' x 50_000 . 'a'), $row->(q => 'a&' x 500 . 'a'), $row->(qs => [ ('a&' x 5000 . 'a') x 2 ]),
		$row->(x => "<!-- a comment --><a><![CDATA[<!DOCTYPE html>]]></a>"), $row->(xs => [ '<a/>', 'text <b/>' ]), $row->(p => { title => 'x' x 1000, body => '<a/>' }), $row->(x => 'x' x 65_536), $row->(x => 'x' x 65_537));
	lenient('costly', 'costly', 'x xml, xs xml[], p page, q tsquery, qs tsquery[]');
	cmp_ok((grown('SELECT x, xs, p, q, qs FROM costly'))[1], '<', 2, 'time');
	cmp_ok(peak('SELECT x, xs, p, q, qs FROM costly'), '<', 50, 'memory');
	is(sql(q{SELECT string_agg(pos::text, ' ' ORDER BY pos) FROM costly WHERE why ~ 'may have up to (65536|16384) bytes'}), '1 7 8 10 15', 'long values do not decode');
	is(sql(q{SELECT string_agg(pos::text, ' ' ORDER BY pos) FROM costly WHERE why ~ 'may not have a document type declaration'}), '2 3 4 5 6', 'nor does one with a document type declaration');
	is(sql(q{SELECT string_agg(pos::text, ' ' ORDER BY pos) FROM costly WHERE num_nonnulls(x, xs, p, q, qs) = 1}), '0 9 11 12 13 14', 'others do');
};

checked 'numbers of few bytes and many digits: wherever they are in a value, they are bounded' => sub {
	my $n = 3000;
	my @of = map { my $one = $_; sub { join ',', ($one) x $_[0] } } '"1e131071"', '1.e131071', '1e131071', '"[1e131071,)"', '{"a":"1e131071","b":"1e99999999"}', '\"(1e131071,1e99999999)\"',
		'"\u0031\u0065131071"', '"[\"(1e131071,)\",)"', '[1e131071,)';
	my %values = ('numeric[]' => [ '[%s]' => 0, '"{%s}"' => 1, '"{%s}"' => 2, '[%s]' => 6 ], 'total[]' => [ '[%s]' => 0 ], 'numrange[]' => [ '[%s]' => 3 ],
		'amount[]' => [ '[%s]' => 4, '"{%s}"' => 5 ], amounts => [ '{"x":[%s]}' => 0 ], 'amount_range[]' => [ '[%s]' => 7 ], 'jsonb[]' => [ '"{\"[%s]\"}"' => 2 ]);
	for my $type (sort keys %values)
	{
		my $name = 'digits_' . ($type =~ s/\W/_/gr);
		my @pairs = @{ $values{$type} };
		my @records;
		while (my ($form, $kind) = splice @pairs, 0, 2) { push @records, map { sprintf qq({"v":$form}), $of[$kind]->($_) } 1, $n; }
		topic($name, @records);
		lenient($name, $name, "v $type");
		is(sql(qq{SELECT count(*) FILTER (WHERE pos % 2 = 0 AND length(v::text) > 130000), count(*) FILTER (WHERE pos % 2 = 1 AND why ~ 'exponents of its numbers stand for too many digits') FROM $name}),
			join('|', (@records / 2) x 2), "$type: one is taken, $n are not");
	}
	topic('digits_good', '{"t":"' . 'x' x 60_000 . '","v":[' . join(',', ('1e131071') x 30) . ']}', '{"v":["1e5",-0.5,1e-20,"NaN"]}');
	lenient('digits_good', 'digits_good', 'v numeric[]');
	is(sql('SELECT cardinality(v), length(v::text) > 3900000 FROM digits_good'), "30|t\n4|f", 'numbers that the record may have are taken');
};

# An object whose members are in an order for which the server's quicksort takes quadratic time.
sub killer_object { return '{' . join(',', map { sprintf '"%06d":0', $_ } quicksort_killer($_[0])) . '}'; }

checked 'members of an object in an order that makes quicksort slow: whatever is made of it takes little time' => sub {
	my $object = killer_object(60_000);
	long_topic('members', qq({"v":$object}), qq({"v":{"a":[$object]}}), qq({"v":[$object]}), qq({"v":$object));
	topic('members_text', $object);
	sql('CREATE TYPE holder AS (a jsonb)');
	for my $type ('jsonb', 'text', 'bigint', 'timestamptz', 'jsonb[]', 'holder', 'int4range')
	{
		my $name = 'members_' . ($type =~ s/\W/_/gr);
		lenient($name, 'members', "v $type");
		cmp_ok((grown("SELECT v FROM $name"))[1], '<', 2, "$type: time");
	}
	is(sql("SELECT count(*) FROM members_jsonb m, jsonb_object_keys(v) k WHERE pos = 0"), 60_000, 'and is all there');
	lenient('members_csv', 'members_text', q{v jsonb}, 'text');
	cmp_ok((grown('SELECT v FROM members_csv'))[1], '<', 2, 'format text: time');
	my $start = time;
	described('members');
	cmp_ok(time - $start, '<', 4, 'describe_topic: time');
};

checked 'objects of many members: they are what jsonb makes of them' => sub {
	my $rng = seeded_random();
	my @objects = map {
		my $n = 400;
		my $member = sub { my ($self, $depth) = @_; my $key = $json->allow_nonref->encode(join '', map { ('a', 'b', '"', '\\', "\x{e9}", '/', "\n")[ $rng->(7) ] } 1 .. $rng->(4));
			my $kind = $rng->(8);
			return "$key:" . ($kind == 0 && $depth < 4 ? '{' . join(', ', map { $self->($self, $depth + 1) } 1 .. $rng->(9)) . '}' :
				$kind == 1 ? '[' . join(',', map { $rng->(100) } 1 .. $rng->(4)) . ']' : ('null', 'true', '-1.50', '1e3', '"\u00e4\ud83d\ude00"', '""', '[{}, []]', 'false')[ $rng->(8) ]); };
		'{' . join(' , ', map { $member->($member, 0) } 1 .. $n) . '}';
	} 1 .. 20;
	topic('objects', map { my $o = $_; utf8::encode($o); { hex => unpack 'H*', qq({"v":$o,"j":$o}) } } @objects);
	lenient('objects', 'objects', 'v jsonb, j json');
	is(sql('SELECT count(*), count(*) FILTER (WHERE v::text = j::jsonb::text AND v = j::jsonb) FROM objects'), '20|20', 'duplicates and all');
};

checked 'arrays of more elements than the server makes jsonb of: the record does not decode' => sub {
	my $many = '[' . '0,' x 17_000_000 . '0]';
	long_topic('elements', '{"id":1}', qq({"id":2,"v":$many}), '{"id":3,"v":[0]}', qq({"id":4,"w":"{\\"$many\\"}"}));
	source('elements', 'id int, v jsonb, w jsonb[]');
	create_stream('elements_s', 'SELECT id, jsonb_typeof(v) AS v, cardinality(w) AS w FROM elements', 'dead_letter');
	process($node, 'elements_s');
	is(sql(q{SELECT string_agg(id || coalesce(v, '-'), ' ' ORDER BY id) FROM elements_s}), '1- 3array', 'and the stream goes on');
	like(sql(q{SELECT string_agg(concat_ws(' ', error, detail), '|' ORDER BY "offset") FROM stream_agg.dead_letters WHERE stream = 'elements_s'}),
		qr/"v" is not a valid jsonb.*more than \d+ elements.*\|.*"w" is not a valid jsonb\[\].*request size/, 'with the reasons');
};

checked 'texts that are no labels of an enum: none stays in memory' => sub {
	sql(q{CREATE TYPE mood AS ENUM ('sad', 'ok')});
	my $n = 50_000;
	$broker->add_topic('moods', [ map { my $i = $_; { base => $i * 1000, values => [ map { qq({"m":"no label $_"}) } $i * 1000 .. $i * 1000 + 999 ] } } 0 .. $n / 1000 - 1 ],
		[ { base => 0, values => [ '{"m":"ok"}', '{"m":"sad"}', '{"m":"fine"}', '{"m":"' . 'x' x 100 . '"}' ] } ]);
	lenient('moods', 'moods', 'm mood');
	my $cache = q{SELECT used_bytes FROM pg_backend_memory_contexts WHERE name = 'CacheMemoryContext'};
	cmp_ok(sql(qq{CREATE TEMP TABLE used AS $cache; DO \$do\$ BEGIN PERFORM m FROM moods; END \$do\$; SELECT ($cache) - used_bytes FROM used}), '<', 1_000_000,
		"memory of the backend's caches");
	is(sql(q{SELECT string_agg(m::text, ' ' ORDER BY pos) || ' ' || (SELECT count(*) FROM moods WHERE why ~ 'not a valid mood.*invalid input value for enum mood') FROM moods}), "ok sad 50002",
		'labels are taken');
	is(sql(q{BEGIN; DECLARE c CURSOR FOR SELECT m FROM moods WHERE why IS NULL; FETCH 1 FROM c; COMMIT; ALTER TYPE mood ADD VALUE 'fine'; SELECT string_agg(m::text, ' ' ORDER BY pos) FROM moods}),
		"ok\nok sad fine", 'and so is one that is added');
};

$registry->stop;
done_testing();
