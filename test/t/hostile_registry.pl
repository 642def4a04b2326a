# Schema registries that answer what none should, and producers who name schemas
# without end: requests, time and memory of a micro-batch stay in their bounds, and
# records whose schemas are none follow on_error, and no others.
#
# FUZZ_REGISTRY=n: so many damaged answers, instead of 200; FUZZ_SECONDS=n: for so long.
# ONLY=text: the subtests whose names have it.

use strict;
use warnings;

use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use StreamAgg::Registry;
use StreamAgg::Test;
use Test::More;
use Time::HiRes 'time';

my $random = seeded_random();
my $json = JSON::PP->new->canonical->allow_nonref;
my $broker = start_broker(none => 1);
my $node = new_node('hostile_registry', "stream_agg.kafka_timeout = '60s'", "stream_agg.max_attempts = 1",
	'stream_agg.max_dead_letters = 100000');
my $brokers = $broker->brokers;
my $registry = StreamAgg::Registry->new();
my $url = $registry->url;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub register { my ($text) = @_; return $registry->register('x', $text); }
sub requests { return $registry->http('GET', '/requests'); }

sql(qq{CREATE SERVER kafka FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$brokers', "schema.registry" '$url', "fetch.wait.max.ms" '20')});
sub create_avro
{
	my ($name) = @_;
	$broker->create_topic($name, 1);
	sql(qq{SELECT stream_agg.create_source('$name', topic => '$name', server => 'kafka', format => 'avro', columns => 'k bigint');
		SELECT stream_agg.create_source('${name}_bytes', topic => '$name', server => 'kafka', format => 'raw', columns => 'v bytea')});
	return;
}
sub create_stream
{
	my ($name, $policy) = @_;
	sql("SELECT stream_agg.create_stream('${name}_s', 'SELECT k FROM $name', options => '{\"on_error\": \"$policy\"}', start => false)");
	return;
}
# a record of a schema {"k": long}: its id, and k below 64
sub record { my ($id, $k) = @_; return sprintf '00%08x%02x', $id, 2 * $k; }
sub put { my ($name, @hex) = @_; sql("INSERT INTO ${name}_bytes (v) VALUES " . join(', ', map { "('\\x$_')" } @hex)); return; }
# of a process, in MB; a sanitizer takes memory of its own
sub peak { return slurp_file("/proc/$_[0]/maps") =~ /libasan/ ? 0 : slurp_file("/proc/$_[0]/status") =~ /^VmHWM:\s+(\d+) kB/m ? $1 / 1024 : die 'no VmHWM'; }

my $good = register('{"type": "record", "name": "r", "fields": [{"name": "k", "type": "long"}]}');

checked_subtest 'L5: 2,500 records that name as many schemas that are none take no good record with them' => sub {
	create_avro('many');
	my $late = register('{"type": "record", "name": "late", "fields": [{"name": "k", "type": "long"}]}');
	put('many', record($good, 1));
	sql(q{INSERT INTO many_bytes (v) SELECT ('\x00' || lpad(to_hex(1000000 + i), 8, '0') || '02')::bytea FROM generate_series(1, 2500) i});
	put('many', record($good, 2), record($late, 3));
	create_stream('many', 'dead_letter');
	my $before = requests();
	sql("SELECT stream_agg.start_stream('many_s')");
	my $start = time;
	process($node, 'many_s');
	note(sprintf '%d requests, %.1f s', requests() - $before, time - $start);
	is(sql('SELECT string_agg(k::text, $$,$$ ORDER BY k) FROM many_s'), '1,2,3', 'records whose schemas there are are processed, those that were not asked for before too');
	counts_add_up($node, 'many_s', 2503, 'all are counted');
	is(sql(q{SELECT count(*) || ' ' || count(DISTINCT value) FROM stream_agg.dead_letters WHERE stream = 'many_s'}), '2500 2500', 'dead letters keep all others');
	cmp_ok(sql(q{SELECT count(*) FROM stream_agg.commits WHERE stream = 'many_s'}), '>=', 3, 'in several micro-batches');
	cmp_ok(requests() - $before, '<=', 6000, 'the registry is asked for each of them a few times at most');
	like(slurp_file($node->logfile), qr/is retried with \d+ of its \d+ offsets, because its records name too many schemas/, 'and the log says so');
	put('many', record($late, 4));
	$before = requests();
	process($node, 'many_s');
	is(sql('SELECT count(*) FROM many_s WHERE k = 4'), 1, 'the next micro-batch is as any other');
	is(requests() - $before, 0, 'and schemas are not forgotten because of those that are none');
	sql("SELECT stream_agg.drop_stream('many_s')");
};

checked_subtest 'a schema that the registry refuses, or fails at, is the fault of its record' => sub {
	create_avro('refused');
	put('refused', record($good, 1), record(9013, 2), record(9014, 3), record(9015, 4), record(9016, 5), record($good, 6));
	create_stream('refused', 'dead_letter');
	sql("SELECT stream_agg.start_stream('refused_s')");
	process($node, 'refused_s');
	is(sql('SELECT string_agg(k::text, $$,$$ ORDER BY k) FROM refused_s'), '1,6', 'the others are processed');
	is(sql(q{SELECT string_agg(substring(concat_ws(' ', error, detail) from 'schema \d+') || ' ' || substring(concat_ws(' ', error, detail) from 'HTTP status \d+'), ',' ORDER BY "offset") FROM stream_agg.dead_letters WHERE stream = 'refused_s'}),
		'schema 9013 HTTP status 400,schema 9014 HTTP status 403,schema 9015 HTTP status 500,schema 9016 HTTP status 500', 'and these say why not');

	# with more attempts than one, all of them go on at once
	sql(q{ALTER SYSTEM SET stream_agg.max_attempts = 3; SELECT pg_reload_conf()});
	sql("SELECT stream_agg.drop_stream('refused_s'); DROP TABLE refused_s");
	create_stream('refused', 'skip');
	sql("SELECT stream_agg.start_stream('refused_s')");
	process($node, 'refused_s');
	is(sql('SELECT string_agg(k::text, $$,$$ ORDER BY k) FROM refused_s'), '1,6', 'after stream_agg.max_attempts, where it may be the registry');
	like(slurp_file($node->logfile), qr/did not give schema 901[56].*\n.*DETAIL:  It answered with HTTP status 500/, 'which the log has');
	counts_add_up($node, 'refused_s', 6, 'all are counted');
	sql("SELECT stream_agg.drop_stream('refused_s')");
	sql(q{ALTER SYSTEM RESET stream_agg.max_attempts; SELECT pg_reload_conf()});
};

checked_subtest 'a registry that refuses everything is no fault of a record' => sub {
	create_avro('forbidden');
	put('forbidden', record($good, 1), record(7777777, 2));
	create_stream('forbidden', 'skip');
	append_to_file($registry->ready . '.forbidden', '');
	sql("SELECT stream_agg.start_stream('forbidden_s')");
	$node->poll_query_until('postgres', q{SELECT state = 'failed' FROM pg_stat_stream_agg WHERE stream = 'forbidden_s'}) or die 'it does not fail';
	unlink $registry->ready . '.forbidden';
	sql("SELECT stream_agg.start_stream('forbidden_s')");
	process($node, 'forbidden_s');
	is(sql('SELECT string_agg(k::text, $$,$$) FROM forbidden_s'), '1', 'no record is lost');
	sql("SELECT stream_agg.drop_stream('forbidden_s')");
};

checked_subtest 'L5: a schema of 20,000 named types' => sub {
	create_avro('large');
	put('large', record(30000, 1), record($good, 2));
	create_stream('large', 'dead_letter');
	my $start = time;
	sql("SELECT stream_agg.start_stream('large_s')");
	process($node, 'large_s');
	my $spent = time - $start;
	note(sprintf '%.1f s', $spent);
	cmp_ok($spent, '<', 15, 'is compiled or refused in a few seconds');
	is(sql('SELECT string_agg(k::text, $$,$$) FROM large_s'), '2', 'what follows is processed');
	like(sql(q{SELECT concat_ws(' ', error, detail) FROM stream_agg.dead_letters WHERE stream = 'large_s'}), qr/too many types/, 'and the record says why it is not');
	ok($node->poll_query_until('postgres', q{SELECT stream_agg.stop_stream('large_s') IS NOT NULL OR true}), 'the stream can be stopped');
};

checked_subtest 'L5: large schemas without end' => sub {
	create_avro('sizes');
	put('sizes', (map { record(20000 + $_, 1) . '00' } 1 .. 60), record($good, 2));
	create_stream('sizes', 'skip');
	sql("SELECT stream_agg.start_stream('sizes_s')");
	my $pid = worker_pid($node, 'sizes_s');
	process($node, 'sizes_s');
	my $peak = peak($pid);
	note("VmHWM $peak MB");
	cmp_ok($peak, '<', 300, 'what is kept of schemas is bounded');
	is(sql('SELECT count(*) FROM sizes_s WHERE k = 1'), 60, 'and no record is refused for that');
	counts_add_up($node, 'sizes_s', 61, 'all are counted');
};

checked_subtest 'M5: texts of registries in messages' => sub {
	create_avro('texts');
	my $long = register($json->encode({ type => 'record', name => 'r', fields => [ { name => 'k', type => "no\n\x{1}such" . 'x' x 1000 } ] }));
	put('texts', record($long, 1));
	create_stream('texts', 'dead_letter');
	sql("SELECT stream_agg.start_stream('texts_s')");
	process($node, 'texts_s');
	my $error = sql(q{SELECT concat_ws(' ', error, detail) FROM stream_agg.dead_letters WHERE stream = 'texts_s'});
	like($error, qr/there is no type "no\\x0a\\x01suchxxx/, 'a name is shown, but for what cannot be');
	cmp_ok(length $error, '<', 500, 'and not all of it');
};

# Answers damaged at random: no crash, and afterwards all is as it would have been.
checked_subtest 'damaged answers' => sub {
	my $wanted = $ENV{FUZZ_REGISTRY} // 200;
	my $text = $json->encode({ type => 'record', name => 'r', namespace => 'a.b', fields => [
				{ name => 'k', type => 'long' },
				{ name => 'u', type => [ 'null', { type => 'enum', name => 'e', symbols => [ 'A', 'B' ] }, { type => 'fixed', name => 'f', size => 16, logicalType => 'uuid' } ] },
				{ name => 'd', type => { type => 'bytes', logicalType => 'decimal', precision => 10, scale => 2 } },
				{ name => 'm', type => { type => 'map', values => { type => 'array', items => [ 'null', 'r' ] } } } ] });
	my $id = register($text);
	create_avro('fuzz');
	put('fuzz', map { record($id, $_) . '00' . '0264' . '00' } 1 .. 5);
	create_stream('fuzz', 'skip');
	sql(q{ALTER SYSTEM SET stream_agg.kafka_timeout = '2s'; SELECT pg_reload_conf()});
	$registry->http('POST', '/fuzz', { seed => seed() });
	my $damaged = 0;
	my $start = time;
	my $log = slurp_file($node->logfile);
	while ($ENV{FUZZ_SECONDS} ? time - $start < $ENV{FUZZ_SECONDS} : $damaged < $wanted)
	{
		# each in a session of its own, which knows no schema yet
		$node->psql('postgres', 'SET statement_timeout = 5000; SELECT count(k) FROM fuzz') for 1 .. 20;
		$damaged = $registry->http('POST', '/fuzz', {});
	}
	sql("SELECT stream_agg.start_stream('fuzz_s')");
	note(sprintf '%d damaged answers in %d s', $damaged, time - $start);
	$registry->http('POST', '/fuzz', { seed => undef });
	unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP|AddressSanitizer|runtime error/, 'no process has ended by them');
	is(sql('SELECT count(k) FROM fuzz'), 5, 'afterwards the records are as they were');
};

$node->stop;
$registry->stop;
done_testing();
