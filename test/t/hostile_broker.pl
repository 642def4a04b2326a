# Brokers that answer what no broker should, and producers whose records unpack to
# more than a library takes: memory stays in its bounds, nothing that is no text
# gets into a table, records that cannot be read are left out as on_error says, and
# no more than these.
#
# FUZZ_BROKER=n: so many damaged answers, instead of 300; FUZZ_SECONDS=n: for so long.
# ONLY=text: the subtests whose names have it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::HostileBroker;
use Compress::Zlib ();
use StreamAgg::Test;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_node('hostile', "stream_agg.kafka_timeout = '60s'", "stream_agg.max_attempts = 1", 'max_worker_processes = 16');
my $MB = 1024 * 1024;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub error_of
{
	my ($sql, %params) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql, %params);
	return $status == 0 ? 'no error' : $err;
}

# a broker, and its server
sub hostile
{
	my ($server, %script) = @_;
	my $broker = StreamAgg::HostileBroker->new(%script);
	sql("CREATE SERVER $server FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '" . $broker->brokers . q{', "fetch.wait.max.ms" '20')});
	return $broker;
}
sub source
{
	my ($server, $name, %how) = @_;
	my $columns = $how{columns} // 'k text, pos bigint OPTIONS (metadata $$offset$$)';
	my $topic = $how{topic} // "topic => '$name'";
	my $format = $how{format} // 'json';
	sql("SELECT stream_agg.create_source('$name', $topic, server => '$server', format => '$format', columns => \$c\$$columns\$c\$)");
	return;
}
sub create_stream
{
	my ($name, $query, $options) = @_;
	sql("SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$, options => '$options')");
	return;
}

# batches of records {"k": "<offset>"}: [first offset, number]
sub good { my ($base, $n) = @_; return { base => $base, values => [ map { "{\"k\":\"$_\"}" } $base .. $base + $n - 1 ] }; }

# ones that cannot be read: too large for zstd, no gzip at all, a codec nobody knows
sub too_large { my ($base, $n) = @_; return { base => $base, times => $n, codec => 4, bytes => 200 * $MB }; }
sub no_gzip { my ($base, $n) = @_; return { base => $base, times => $n, codec => 1, garbage => '00112233' }; }
sub no_snappy { my ($base, $n) = @_; return { base => $base, times => $n, codec => 2, garbage => 'ffffffffffff' }; }
sub no_lz4 { my ($base, $n) = @_; return { base => $base, times => $n, codec => 3, garbage => '0011223344556677' }; }
sub no_codec { my ($base, $n) = @_; return { base => $base, times => $n, codec => 6, garbage => '00' }; }

# of a process, in MB; a sanitizer takes memory of its own
sub peak
{
	my ($pid) = @_;
	return 0 if slurp_file("/proc/$pid/maps") =~ /libasan/;
	return slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m ? $1 / 1024 : die 'no VmHWM';
}

my $poison = hostile('poison');
$poison->add_topic('mixed',
	[ good(0, 3), too_large(3, 1000), good(1003, 2), no_gzip(1005, 1), no_snappy(1006, 7), no_lz4(1013, 1), good(1014, 1), no_codec(1015, 2), good(1017, 3) ],
	[ no_gzip(0, 5), good(5, 2), too_large(7, 1) ]);
my $columns = 'k text, part int OPTIONS (metadata $$partition$$), pos bigint OPTIONS (metadata $$offset$$)';
source('poison', 'mixed', columns => $columns);
my $left = '0:0,1,2,1003,1004,1014,1017,1018,1019 1:5,6';
sub what_is_in
{
	return sql("SELECT string_agg(part || ':' || o, ' ' ORDER BY part) FROM (SELECT part, string_agg(pos::text, ',' ORDER BY pos) AS o FROM $_[0] GROUP BY part) x");
}
my $skipped = q{SELECT string_agg(format('%s:%s-%s', p, r->0, r->1), ' ' ORDER BY p, (r->>0)::bigint)
	FROM stream_agg.commits, jsonb_each(skipped) AS s(p, rs), jsonb_array_elements(rs) AS r WHERE stream = '%s'};
my @lost;

checked_subtest 'M1: records that cannot be unpacked are left out as on_error says, and no others' => sub {
	for my $policy (qw(skip dead_letter))
	{
		create_stream("mixed_$policy", 'SELECT part, pos FROM mixed', "{\"on_error\": \"$policy\"}");
		process($node, "mixed_$policy");
		is(what_is_in("mixed_$policy"), $left, "$policy: all records that can be read are there, and each once");
		my $query = $skipped =~ s/'%s'\}?$/'mixed_$policy'/r;
		my $lost = sql($query);
		my %gone = (0 => {}, 1 => {});
		$lost =~ s/(\d+):(\d+)-(\d+)/@{$gone{$1}}{$2 .. $3 - 1} = (); ''/ge;
		is_deeply([ sort { $a <=> $b } keys %{ $gone{0} } ], [ 3 .. 1002, 1005 .. 1013, 1015, 1016 ], "$policy: skipped has the offsets of partition 0 that were not read");
		is_deeply([ sort { $a <=> $b } keys %{ $gone{1} } ], [ 0 .. 4, 7 ], "$policy: and those of partition 1");
		is(sql("SELECT offsets_skipped FROM pg_stat_stream_agg WHERE stream = 'mixed_$policy'"), 1000 + 9 + 2 + 5 + 1, "$policy: they are counted");
		counts_add_up($node, "mixed_$policy", 11, "$policy: what was delivered adds up");
	}
	like(slurp_file($node->logfile), qr/WARNING: .*cannot be read.*\n.*DETAIL: .*offsets 3 to 1002/, 'the log tells which and why');

	# what comes later is read
	$poison->{is}{topics}[0]{partitions}[1]{batches}[3] = good(8, 2);
	$poison->say;
	process($node, 'mixed_skip');
	is(what_is_in('mixed_skip'), "$left,8,9", 'the stream goes on behind them');
};

checked_subtest 'M1: the search for the end of such records is short' => sub {
	$poison->add_topic('long', [ too_large(0, 1_000_000), good(1_000_000, 1), too_large(1_000_001, 3) ]);
	source('poison', 'long');
	my (undef, $before) = $poison->counts;
	create_stream('long_s', 'SELECT pos FROM long', '{"on_error": "skip"}');
	process($node, 'long_s');
	my (undef, $after) = $poison->counts;
	is(sql('SELECT string_agg(pos::text, $$,$$) FROM long_s'), '1000000', 'the one record behind a million lost ones is read');
	cmp_ok($after - $before, '<', 500, 'a million offsets take few fetches: ' . ($after - $before));
};

checked_subtest 'M1: micro-batches that end within such records' => sub {
	$poison->add_topic('cut', [ good(0, 2), no_gzip(2, 30), good(32, 3) ]);
	source('poison', 'cut');
	sql(q{SELECT stream_agg.create_stream('cut_s', 'SELECT pos FROM cut', max_offsets_per_trigger => 7, options => '{"on_error": "skip"}')});
	process($node, 'cut_s');
	is(sql('SELECT string_agg(pos::text, $$,$$ ORDER BY pos) FROM cut_s'), '0,1,32,33,34', 'all that can be read is there, once');
	is(sql("SELECT offsets_skipped FROM pg_stat_stream_agg WHERE stream = 'cut_s'"), 30, 'each lost offset is counted once');
};

checked_subtest 'M1: with on_error = fail the stream fails, and says where and what to do' => sub {
	create_stream('mixed_fail', 'SELECT pos FROM mixed WHERE part = 0', '{}');
	wait_state($node, 'mixed_fail', 'failed', 'could not read partition [01] of topic "mixed" from offset [03]');
	like(sql("SELECT last_error FROM pg_stat_stream_agg WHERE stream = 'mixed_fail'"), qr/HINT: .*on_error/, 'the option that helps is named');
	is(sql('SELECT count(*) FROM mixed_fail'), 0, 'nothing is written');
	sql(q{SELECT stream_agg.alter_stream('mixed_fail', options => '{"on_error": "skip"}'); SELECT stream_agg.start_stream('mixed_fail')});
	process($node, 'mixed_fail');
	is(sql('SELECT count(*) FROM mixed_fail'), 9, 'with the option it goes on');
};

checked_subtest 'M1: a query and a preview' => sub {
	like(error_of('SELECT * FROM mixed'), qr/could not read partition [01] of topic "mixed" from offset [03].*HINT: .*offset/s, 'a query raises the error, with the way around');
	is(sql('SELECT string_agg(pos::text, $$,$$) FROM mixed WHERE part = 0 AND pos BETWEEN 1003 AND 1004'), '1003,1004', 'and reads around by its conditions');
	create_stream('mixed_preview', 'SELECT part, pos FROM mixed', '{"on_error": "skip"}');
	is(sql(q{SELECT count(*) FROM stream_agg.preview('mixed_preview', 5000)}) >= 0 ? 'done' : '', 'done', 'a preview of a stream that skips does not fail');
};

checked_subtest 'headers that cannot be read make a record invalid where they are wanted, and only there' => sub {
	$poison->add_topic('headed', [ { %{ good(0, 1) }, headers => [ [ '61', '62' ] ] }, { %{ good(1, 1) }, headers => [ ([ '', '' ]) x 100_001 ] }, good(2, 1) ]);
	source('poison', 'headed', columns => 'k text, h jsonb OPTIONS (metadata $$headers$$)');
	like(error_of('SELECT * FROM headed'), qr/headers of a record cannot be read/, 'a query says so');
	is(sql('SELECT string_agg(k, $$,$$) FROM headed'), '0,1,2', 'one that does not ask for them reads it');
	create_stream('headed_s', 'SELECT k, h FROM headed', '{"on_error": "dead_letter"}');
	process($node, 'headed_s');
	is(sql('SELECT string_agg(k || coalesce(h::text, $$ none$$), $$,$$ ORDER BY k) FROM headed_s'), '0[{"key": "a", "value": "b"}],2 none', 'a stream leaves it out, and no other');
	is(sql(q{SELECT string_agg("offset" || ' ' || error, ',') FROM stream_agg.dead_letters WHERE stream = 'headed_s'}), '1 headers of a record cannot be read', 'it is a dead letter');
};

checked_subtest 'an end of a partition that is wrong once makes nothing be read again' => sub {
	$poison->add_topic('short', { batches => [ good(0, 5) ] });
	source('poison', 'short');
	for my $policy (qw(earliest fail))
	{
		create_stream("short_$policy", 'SELECT k, pos FROM short', "{\"on_data_loss\": \"$policy\"}");
		process($node, "short_$policy");
		is(sql("SELECT count(*) FROM short_$policy"), 5, "$policy: all is read");
		sql("SELECT stream_agg.stop_stream('short_$policy')");
	}
	my $partition = $poison->{is}{topics}[-1]{partitions}[0];
	push $partition->{batches}->@*, good(5, 1);
	for my $policy (qw(earliest fail))
	{
		sql("SELECT stream_agg.start_stream('short_$policy')");
		wait_state($node, "short_$policy", 'running');
		process($node, "short_$policy");
		$partition->{wrong_end} = [ 2, $policy ];
		$poison->say;
		process($node, "short_$policy") for 1 .. 2;
		is(sql("SELECT string_agg(pos::text, ',' ORDER BY pos) FROM short_$policy"), '0,1,2,3,4,5', "$policy: each record is there once");
		like(slurp_file($node->logfile), qr/"short_$policy".*is said to end at offset 2, before what has been read, and its end is asked for again/, "$policy: the log says that the broker is asked again");
		sql("SELECT stream_agg.stop_stream('short_$policy')");
	}
	# said again and again, it counts
	delete $partition->{wrong_end};
	$partition->{batches} = [ good(0, 2) ];
	$poison->say;
	sql("SELECT stream_agg.start_stream('short_earliest')");
	process($node, 'short_earliest');
	is(sql('SELECT count(*) FROM short_earliest'), 8, 'what is said again counts: the partition is read again');
	like(slurp_file($node->logfile), qr/WARNING: .*short_earliest.*\n.*DETAIL:  Topic "short", partition 0: it ends before offset 6, and all of it is read again, from offset 0/, 'which the log says');
	sql("SELECT stream_agg.start_stream('short_fail')");
	wait_state($node, 'short_fail', 'failed', 'offset 6 of partition 0 of topic "short" is beyond the end');
	pass('or stops the stream');
};

checked_subtest 'H3: a query over gaps of trillions of offsets ends' => sub {
	my $broker = hostile('gaps');
	my @parts = (0, 2**40, '9223372036854775707' + 0);
	$broker->add_topic('gaps', [ map { good($_, 50) } @parts ], [ good(2**41, 3), good(2**42, 2) ]);
	source('gaps', 'gaps', columns => $columns);
	for my $query ('SELECT count(*) FROM gaps', 'SELECT count(DISTINCT (part, pos)) FROM gaps')
	{
		my ($status, $out, $err) = $node->psql('postgres', "SET statement_timeout = '30s'; $query", timeout => 60, timed_out => \my $hangs);
		ok(!$hangs, "$query can be cancelled");
		is($out, 155, "$query ends, and has all records");
	}
	is(sql('SELECT count(*) FROM gaps WHERE part = 0 AND pos BETWEEN 30 AND 1099511627800'), 45, 'so does one whose end is in a batch');
};

checked_subtest 'H3: more partitions than stream_agg.max_partitions are refused before anything is asked about them' => sub {
	my $broker = hostile('wide');
	$broker->add_topic('wide', map { [] } 1 .. 100_000);
	source('wide', 'wide', columns => $columns);
	my $refused = qr/there are more than 256 partitions of .*HINT: .*stream_agg.max_partitions/s;
	like(error_of("SET statement_timeout = '60s'; SELECT count(*) FROM wide"), $refused, 'a query');
	create_stream('wide_s', 'SELECT part, pos FROM wide', '{}');
	$node->poll_query_until('postgres', q{SELECT last_error ~ 'more than 256 partitions' FROM pg_stat_stream_agg WHERE stream = 'wide_s'}) or fail('never refused');
	pass('a stream');
	like(error_of(q{SET statement_timeout = '60s'; SELECT count(*) FROM stream_agg.preview('wide_s')}), $refused, 'a preview');
	sql(q{SELECT stream_agg.drop_stream('wide_s')});
};

checked_subtest 'M5: names from brokers that are no names' => sub {
	my %ids = (
		'no text' => { hex => '636c75fffe807374' },
		'32,000 bytes' => 'x' x 32000,
		'line break' => "a\nb",
		'NUL' => { hex => '610062' },
		'blanks' => 'a b');
	my $n = 0;
	for my $what (sort keys %ids)
	{
		my $name = 'id' . ++$n;
		my $broker = hostile($name, cluster => $ids{$what});
		$broker->add_topic($name, [ good(0, 2) ]);
		source($name, $name);
		create_stream("${name}_s", "SELECT pos FROM $name", '{}');
		# librdkafka ends texts at NULs: what is before is a name
		if ($what eq 'NUL') { process($node, "${name}_s"); next; }
		$node->poll_query_until('postgres', "SELECT last_error ~ 'cluster id' FROM pg_stat_stream_agg WHERE stream = '${name}_s'") or fail("$what: an error of the broker");
		my $error = sql("SELECT last_error FROM pg_stat_stream_agg WHERE stream = '${name}_s'");
		cmp_ok(length $error, '<', 1000, "$what: an error of bounded length");
		like($error, qr/^[\x20-\x7e\n]*$/, "$what: that is text");
		sql("SELECT stream_agg.drop_stream('${name}_s')");
	}
	my $broker = hostile('names');
	$broker->add_topic('web_1', [ good(0, 2) ]);
	source('names', 'web', topic => q{topic_pattern => '^web.*'}, columns => 'pos bigint OPTIONS (metadata $$offset$$), topic text OPTIONS (metadata $$topic$$)');
	create_stream('web_s', 'SELECT topic, pos FROM web', '{}');
	process($node, 'web_s');
	for my $name ({ hex => '7765625fff' }, "web'; --", "web\n", "web\x{22}", 'web' x 100)
	{
		my @topics = @{ $broker->{is}{topics} };
		$broker->add_topic($name, [ good(0, 2) ]);
		my $error = error_of('SELECT count(*) FROM web');
		like($error, qr/ERROR: .*name of a topic/, 'a topic that cannot be one is an error');
		like($error, qr/^[\x20-\x7e\n\t]*$/, 'that is text');
		$broker->say(topics => \@topics);
	}
	is(sql('SELECT count(*) FROM web'), 2, 'afterwards all is well');
	is(sql('SELECT count(*) FROM web_s'), 2, 'the stream has what it should have');

	my ($stdout, $stderr);
	my $restored = IPC::Run::run([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', "$PostgreSQL::Test::Utils::tmp_check/dump.sql" ], '>', \$stdout, '2>', \$stderr);
	ok($restored, 'the database can be dumped') or diag $stderr;
	sql('CREATE DATABASE restored');
	$restored = IPC::Run::run([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', "$PostgreSQL::Test::Utils::tmp_check/dump.sql" ], '>', \$stdout, '2>', \$stderr);
	ok($restored, 'and restored') or diag $stderr;
	is($node->safe_psql('restored', 'SELECT count(*) FROM stream_agg.sources'), sql('SELECT count(*) FROM stream_agg.sources'), 'with all sources');
};

checked_subtest 'M5: texts of brokers and of records in messages and columns' => sub {
	my $broker = hostile('texts', error => { hex => 'fffe0a0d22' . '41' x 5000 });
	$broker->add_topic('headers', [ { base => 0, values => ['{"k":"1"}'], headers => [ [ 'ff01', '00ff' ] ] }, good(1, 2) ]);
	source('texts', 'headers', columns => 'k text, h jsonb OPTIONS (metadata $$headers$$)');
	create_stream('headers_s', 'SELECT k, h FROM headers', '{"on_error": "dead_letter", "consumer_group": "g"}');
	process($node, 'headers_s');
	is(sql('SELECT count(*) FROM headers_s'), 2, 'a header whose name is no text is refused with its record');
	like(sql(q{SELECT headers::text FROM stream_agg.dead_letters WHERE stream = 'headers_s'}), qr/ff01/, 'and kept in a form that is text');
	my $log = slurp_file($node->logfile);
	unlike($log, qr/[^\x00-\x7f]/, 'nothing in the server log is anything but ASCII');
};

checked_subtest 'H3, L9: records that unpack to hundreds of megabytes' => sub {
	my $broker = hostile('bombs');
	$broker->add_topic('bombs', [ (map { { base => $_, codec => 1, bytes => 100 * $MB } } 0 .. 7), good(8, 2) ]);
	source('bombs', 'bombs');
	create_stream('bombs_s', 'SELECT pos FROM bombs', '{"on_error": "skip"}');
	my $pid = worker_pid($node, 'bombs_s');
	process($node, 'bombs_s');
	is(sql('SELECT string_agg(pos::text, $$,$$ ORDER BY pos) FROM bombs_s'), '8,9', 'they are refused one by one, and what follows is read');
	my $peak = peak($pid);
	note("VmHWM $peak MB");
	cmp_ok($peak, '<', 700, '800 MB in 8 records: memory is that of few at a time');

	$broker->add_topic('huge', [ { base => 0, codec => 1, bytes => 300 * $MB }, good(1, 1) ]);
	$broker->add_topic('huge_key', [ { base => 0, codec => 1, bytes => 100 * $MB, key_bytes => 1 }, good(1, 1) ]);
	$broker->add_topic('huge_header', [ { base => 0, codec => 1, bytes => 100 * $MB, header_bytes => 1 }, good(1, 1) ]);
	source('bombs', 'huge', format => 'raw', columns => 'v bytea, pos bigint OPTIONS (metadata $$offset$$)');
	source('bombs', 'huge_key', format => 'raw', columns => 'v bytea, key bytea OPTIONS (metadata $$key$$), pos bigint OPTIONS (metadata $$offset$$)');
	source('bombs', 'huge_header', format => 'raw', columns => 'v bytea, h jsonb OPTIONS (metadata $$headers$$), pos bigint OPTIONS (metadata $$offset$$)');
	create_stream('huge_s', 'SELECT length(v) AS n, pos FROM huge', '{"on_error": "dead_letter"}');
	create_stream('huge_key_s', 'SELECT length(key) AS n, pos FROM huge_key', '{"on_error": "dead_letter"}');
	create_stream('huge_header_s', 'SELECT h, pos FROM huge_header', '{"on_error": "dead_letter"}');
	for my $stream (qw(huge huge_key huge_header))
	{
		process($node, "${stream}_s");
		is(sql("SELECT string_agg(pos::text, ',') FROM ${stream}_s"), '1', "$stream: such a record follows on_error");
		sql("SELECT stream_agg.stop_stream('${stream}_s')");
	}
	is(sql(q{SELECT string_agg(stream || ':' || (error ~ 'too large') || coalesce(length(key), -1), ' ' ORDER BY stream) FROM stream_agg.dead_letters WHERE stream ~ '^huge'}),
		'huge_header_s:true-1 huge_key_s:true' . 64 * $MB . ' huge_s:true-1', 'dead letters of such records are kept without headers that are too large, and with the beginning of a key');
	is(sql(q{SELECT octet_length(value) FROM stream_agg.dead_letters WHERE stream ~ 'huge_s'}), 64 * $MB, 'and with the beginning of a value');
};

checked_subtest 'a client that librdkafka does not set up' => sub {
	my $broker = hostile('unset');
	sql(q{ALTER SERVER unset OPTIONS ("security.protocol" 'sasl_plaintext')});
	source('unset', 'unset');
	like(error_of('SELECT count(*) FROM unset'), qr/could not set up a Kafka client.*must be set/s, 'is an error') for 1 .. 2;
	is(sql('SELECT 1'), 1, 'and no more');
};

# Records of a transaction that is aborted are fetched and left out by librdkafka.
# Nothing of them arrives, for longer than records are waited for.
checked_subtest 'an aborted transaction that takes longer than kafka_timeout' => sub {
	my ($each, $n) = (100, 20);
	my $end = $each * $n;
	my $broker = hostile('aborts', pause => 200);
	sql(q{ALTER SERVER aborts OPTIONS ("fetch.max.bytes" '2000')});
	$broker->add_topic('aborts', { aborted => [ [ 7, 0 ] ], batches => [ (map { { %{ good($_ * $each, $each) }, producer => 7 } } 0 .. $n - 1),
			{ base => $end, producer => 7, abort => \1 }, good($end + 1, 3) ] });
	source('aborts', 'aborts');
	sql(q{ALTER SYSTEM SET stream_agg.kafka_timeout = '2s'; SELECT pg_reload_conf()});
	my $log = -s $node->logfile;
	create_stream('aborts_s', 'SELECT pos FROM aborts', '{}');
	process($node, 'aborts_s');
	is(sql('SELECT string_agg(pos::text, $$ $$ ORDER BY pos) FROM aborts_s'), join(' ', $end + 1 .. $end + 3), 'a stream gets through');
	unlike(slurp_file($node->logfile, $log), qr/no records of/, 'at the first attempt');
	is(sql('SELECT count(*) FROM aborts'), 3, 'and a query');
	sql(q{ALTER SYSTEM RESET stream_agg.kafka_timeout; SELECT pg_reload_conf()});
};

# A gzip stream without its end: librdkafka unpacks it for ever, in a thread of its
# own, and does not end as long.
checked_subtest 'a batch that librdkafka does not get done with' => sub {
	my $broker = hostile('spin');
	my $endless = unpack 'H*', substr(Compress::Zlib::memGzip('x' x 100), 0, -8);
	$broker->add_topic('spin', [ { base => 0, codec => 1, garbage => $endless } ]);
	source('spin', 'spin');
	my $log = -s $node->logfile;
	my $left = sub { my $n = () = slurp_file($node->logfile, $log) =~ /a Kafka client has not ended within/g; return $n; };

	like(error_of("SET statement_timeout = 2000; SELECT count(*) FROM spin;\nSELECT 1", on_error_stop => 0), qr{canceling statement.*terminating connection}s,
		'a session that has read it is cancelled, and ends');
	is($left->(), 1, 'and the log says why');
	create_stream('spin_s', 'SELECT pos FROM spin', '{"on_error": "skip"}');
	like(error_of(q{SELECT stream_agg.process_available('spin_s', '3 seconds')}), qr/has not processed what was available/, 'a stream waits');
	my $pid = worker_pid($node, 'spin_s');
	sql("SELECT stream_agg.stop_stream('spin_s')");
	is(sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid"), 0, 'and stops');
	is($left->(), 2, 'as the log says');
};

# The rest: answers damaged at random.  No crash, and afterwards all is as it would
# have been.
checked_subtest 'damaged answers' => sub {
	my $wanted = $ENV{FUZZ_BROKER} // 300;
	my $broker = hostile('fuzz');
	my $random = seeded_random();
	my (@batches, $n);
	for my $i (0 .. 39)
	{
		my $size = 1 + $random->(20);
		push @batches, { %{ good($n // 0, $size) }, codec => $random->(2), headers => [ [ '6e', '76' ] ] };
		$n += $size;
	}
	$broker->add_topic('fuzz_1', \@batches, [ good(0, 50) ]);
	source('fuzz', 'fuzz', topic => q{topic_pattern => '^fuzz.*'}, columns => "$columns, h jsonb OPTIONS (metadata \$\$headers\$\$)");
	sql(q{ALTER SYSTEM SET stream_agg.kafka_timeout = '2s'; ALTER SYSTEM SET stream_agg.max_retry_delay = '100ms'; SELECT pg_reload_conf()});
	my $start = time;
	my $round = 0;
	my $more = sub { $ENV{FUZZ_SECONDS} ? time - $start < $ENV{FUZZ_SECONDS} : ($broker->counts)[2] < $wanted };
	while ($more->())
	{
		my $stream = 'fuzz_' . $round++;
		my $policy = (qw(fail skip dead_letter))[ $random->(3) ];
		$broker->say(fuzz => { seed => seed() * 1000 + $round, share => 1 + $random->(6) });
		create_stream($stream, 'SELECT part, pos, k, h FROM fuzz', "{\"on_error\": \"$policy\", \"on_data_loss\": \"earliest\"}");
		my $until = time + 3;
		while (time < $until && $more->())
		{
			$node->psql('postgres', $_, timeout => 60) for 'SET statement_timeout = 1000; SELECT count(h) FROM fuzz',
			  "SELECT stream_agg.start_stream('$stream')", "SET statement_timeout = 1000; SELECT count(*) FROM stream_agg.preview('$stream')";
		}
		sql("SELECT stream_agg.drop_stream('$stream', drop_sink => true)");
	}
	note(sprintf '%d damaged answers of %d in %d s', ($broker->counts)[2], ($broker->counts)[0], time - $start);
	unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP|AddressSanitizer|runtime error/, 'no process has ended by them');
	$broker->say(fuzz => undef);
	sql(q{ALTER SYSTEM SET stream_agg.kafka_timeout = '60s'; SELECT pg_reload_conf()});
	is(sql('SELECT count(*) FROM fuzz'), $n + 50, 'afterwards the topic is as it was');
	create_stream('fuzz_after', 'SELECT part, pos FROM fuzz', '{}');
	process($node, 'fuzz_after');
	is(sql('SELECT count(*) FROM fuzz_after'), $n + 50, 'and a stream reads all of it');
};

$node->stop;
done_testing();
