# One role cannot take everything: its streams have a limit, and so have their
# state and the bytes of what they put aside.  Nor does it learn what the streams
# of others are called, or spoil what others see.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;
use Time::HiRes 'usleep';

my $broker = start_broker(events => 2, letters => 1, large => 1);
my $brokers = $broker->brokers;
my $node = new_node('limits', 'stream_agg.max_streams = 8', 'max_worker_processes = 20',
	"stream_agg.kafka_timeout = '10s'", 'log_statement = none', 'client_min_messages = warning');

sub sql { return $node->safe_psql('postgres', shift); }
sub as
{
	my ($role, $sql) = @_;
	my (undef, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
	return ($out, $err);
}
sub refused
{
	my ($role, $sql, $error, $name) = @_;
	return like((as($role, $sql))[1], $error, $name);
}
sub create
{
	my ($name, $source, $more) = @_;
	$more = defined $more ? ", $more" : '';
	return "SELECT stream_agg.create_stream('$name', 'SELECT k, count(*) AS n FROM " . ($source // 'events') . " GROUP BY k',
		output_mode => 'update', trigger => '1 hour'$more);";
}
sub last_error { my $stream = shift; return sql("SELECT last_error FROM pg_stat_stream_agg WHERE stream ~ '$stream'"); }
sub wait_until
{
	my ($condition, $name) = @_;
	return ok($node->poll_query_until('postgres', "SELECT $condition"), $name);
}

for my $role ('alice', 'mallory')
{
	sql("CREATE ROLE $role LOGIN; CREATE SCHEMA $role AUTHORIZATION $role;
		GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO $role");
	my (undef, $err) = as($role, qq{SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers',
		columns => 'k int', options => '{"fetch.wait.max.ms": 20}')});
	is($err, '', "$role has a source");
}
sql("SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers', columns => 'k int',
	options => '{\"fetch.wait.max.ms\": 20}')");

# --- M10: streams of a role

like((as('mallory', join('', map { create("hushed_$_") } 1 .. 6)))[1] // '', qr/^$/, 'M10: three quarters of all streams can be of one role');
refused('mallory', create('hushed_7'),
	qr/role "mallory" cannot run more than 6 streams\nDETAIL:  It has 6 streams .*\nHINT:  Stop another one by stream_agg.stop_stream, or have a superuser raise the limit: ALTER ROLE mallory SET stream_agg.max_streams_per_role = 7/,
	'M10: one more is refused, with the number, the setting and what to do');
as('mallory', create('hushed_8', 'events', 'start => false'));
refused('mallory', q{SELECT stream_agg.start_stream('hushed_8')}, qr/cannot run more than 6 streams/, 'M10: so it is by start_stream');
is((as('mallory', "BEGIN; SELECT stream_agg.stop_stream('hushed_1'); SELECT stream_agg.start_stream('hushed_8'); COMMIT"))[1], '',
	'M10: one stopped gives its place to another');
refused('mallory', q{BEGIN; SELECT stream_agg.stop_stream('hushed_8'); SELECT stream_agg.start_stream('hushed_1'); SELECT stream_agg.start_stream('hushed_8')},
	qr/cannot run more than 6/, 'M10: what the transaction itself has changed counts');
is((as('alice', create('hers')))[1], '', 'M10: another role creates a stream');
process($node, 'hers');
is(sql(q{SELECT state FROM pg_stat_stream_agg WHERE stream ~ 'hers'}), 'running', 'M10: and it runs');

# nobody raises its own limit
for my $set ('SET stream_agg.max_streams_per_role = 100', 'ALTER ROLE mallory SET stream_agg.max_streams_per_role = 100',
	q{SELECT set_config('stream_agg.max_role_state', '1GB', false)}, q{ALTER ROLE mallory SET stream_agg.max_role_state = '1GB'},
	q{SET stream_agg.max_dead_letters_size = '1GB'})
{
	refused('mallory', $set, qr/permission denied to set parameter/, "M10: refused to a role: $set");
}
sql('ALTER ROLE mallory SET stream_agg.max_streams_per_role = 7');
is((as('mallory', q{SELECT stream_agg.start_stream('hushed_1')}))[1], '', 'M10: a superuser raises it for a role');
refused('mallory', create('hushed_9'), qr/cannot run more than 7 streams/, 'M10: to what the superuser says');
sql('ALTER ROLE mallory IN DATABASE postgres SET stream_agg.max_streams_per_role = 6');
is((as('alice', q{SELECT stream_agg.stop_stream('hers')}))[1], '', 'M10: alice makes room');
refused('mallory', create('hushed_9'), qr/cannot run more than 6 streams/, 'M10: a setting for a database goes before that of the role');
refused('postgres', q{SET stream_agg.max_streams_per_role = 100; SELECT stream_agg.start_stream('mallory.hushed_7')}, qr/does not exist/,
	'the stream that was refused is not there');
as('mallory', create('hushed_10', 'events', 'start => false'));
refused('postgres', q{SET stream_agg.max_streams_per_role = 100; SELECT stream_agg.start_stream('mallory.hushed_10')},
	qr/role "mallory" cannot run more than 6 streams/, q{M10: the limit is the owner's, whoever starts the stream, in whatever session});

# transactions at the same time
as('mallory', q{SELECT stream_agg.stop_stream('hushed_1'); SELECT stream_agg.stop_stream('hushed_8')});
sql('ALTER ROLE mallory IN DATABASE postgres SET stream_agg.max_streams_per_role = 6');
my @psql = map { $node->background_psql('postgres', extra_params => [ '-U', 'mallory' ]) } 1 .. 2;
$psql[0]->query_safe(q{BEGIN; SELECT stream_agg.start_stream('hushed_8')});
$psql[1]->query_safe(q{BEGIN; SELECT stream_agg.start_stream('hushed_10')});
$_->query_safe('COMMIT') for @psql;
$_->quit for @psql;
wait_until(q{count(*) = 1 FROM pg_stat_stream_agg WHERE stream ~ 'hushed_(8|10)' AND state = 'starting'
	AND last_error ~ '^waiting for a free worker slot: role "mallory" has 6 streams .* stream_agg.max_streams_per_role'},
	'M10: of two that start at the same time one waits, and says for what');
as('mallory', q{SELECT stream_agg.stop_stream('hushed_2')});
wait_until(q{count(*) = 2 FROM pg_stat_stream_agg WHERE stream ~ 'hushed_(8|10)' AND state = 'running'},
	'M10: when there is a place it runs');

# --- M10: no slot at all, of 8 that run and 32 that wait
my $log = -s $node->logfile;
sql(join('', map { create("more_$_") } 1 .. 40));
wait_until(q{count(*) FILTER (WHERE state <> 'running' AND last_error ~ '^waiting for a free worker slot') = count(*) FILTER (WHERE state <> 'running')
		AND count(*) FILTER (WHERE last_error ~ 'all 40 are taken') > 0 FROM pg_stat_stream_agg WHERE stream ~ '^more' },
	'M10: each stream without a place says that it waits for one');
sql("SELECT stream_agg.stop_stream('more_$_')") for 1 .. 3;
my @lines = slurp_file($node->logfile, $log) =~ /WARNING:  .*(?:slot|wait).*/g;
cmp_ok(scalar @lines, '<=', 6, 'M10: the log has few lines about them, not one for each: ' . join(', ', @lines));
like("@lines", qr/streams of database "postgres" wait for a free slot: \d+/, 'M10: which say how many they are');
sql(q{SELECT stream_agg.drop_stream(stream, drop_sink => true) FROM stream_agg.streams WHERE stream ~ '^more_[1-3]$'});
wait_until(q{count(*) = 3 FROM pg_stat_stream_agg WHERE stream ~ '^more' AND last_error ~ 'all 40 are taken'},
	'M10: places that become free are taken, of 6 that waited 3');

# also by a stream of another database
sql('CREATE DATABASE other');
$node->safe_psql('other', "CREATE EXTENSION stream_agg;
	SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers', columns => 'k int')");
sql(create('more_41'));
$node->safe_psql('other', create("there_$_")) for 1 .. 5;
ok($node->poll_query_until('other', q{SELECT count(*) > 0 FROM pg_stat_stream_agg WHERE last_error ~ 'all 40 are taken'}),
	'M10: a stream of another database waits');
sql(q{SELECT stream_agg.drop_stream(stream, drop_sink => true) FROM stream_agg.streams WHERE stream ~ '^more'});
ok($node->poll_query_until('other', q{SELECT count(*) = 0 FROM pg_stat_stream_agg WHERE last_error ~ 'all 40 are taken'}),
	'M10: and is not forgotten when there is a place');
$node->safe_psql('other', q{SELECT stream_agg.drop_stream(stream) FROM stream_agg.streams});

# --- L7: names of others' streams
as('alice', q{SELECT stream_agg.start_stream('hers')});
process($node, 'hushed_8');
for my $database ('postgres', 'other')
{
	my (undef, $seen) = $node->psql($database, q{SELECT a::text FROM pg_stat_activity a UNION ALL SELECT l::text FROM pg_locks l
		UNION ALL SELECT s::text FROM pg_stat_stream_agg s}, extra_params => [ '-U', 'alice' ]);
	like($seen, qr/stream_agg worker/, "L7: in database $database workers are seen");
	unlike($seen, qr/hushed/, "L7: not what the streams of others are called");
}
is(sql(q{SELECT count(*) = count(*) FILTER (WHERE application_name = 'stream_agg ' || s.query::oid) FROM pg_stat_activity JOIN pg_stat_stream_agg s USING (pid)}),
	't', 'L7: a worker is known by the number of its stream');
my $args = 'ps -o args= -p ' . worker_pid($node, 'hushed_8');
like(`$args`, qr/stream_agg worker \d+/, 'L7: on the host, too');

# --- M10: state of a role
sql(q{ALTER ROLE mallory SET stream_agg.max_role_state = '6MB'; ALTER ROLE alice RESET ALL});
is(sql(q{SELECT pg_size_bytes(current_setting('stream_agg.max_total_state')) / 1024 / 1024}),
	int((split ' ', `df -k --output=size /dev/shm | tail -1`)[0] / 2 / 1024), 'M10: half of /dev/shm is left to others by default')
  if sql('SHOW dynamic_shared_memory_type') eq 'posix';
as('mallory', q{SELECT stream_agg.stop_stream('hushed_' || i) FROM generate_series(3, 5) i});
as('mallory', q{SELECT stream_agg.start_stream('hushed_' || i) FROM generate_series(3, 5) i});
as('alice', q{SELECT stream_agg.stop_stream('hers'); SELECT stream_agg.start_stream('hers')});
sql('INSERT INTO events SELECT i FROM generate_series(1, 40000) i');
process($node, 'hers');
for my $stream (3 .. 5)
{
	$node->psql('postgres', "SELECT stream_agg.process_available('mallory.hushed_$stream', '30 s')");
}
wait_until(q{count(*) > 0 FROM pg_stat_stream_agg WHERE stream ~ 'hushed_[345]' AND state = 'failed'}, 'M10: the state of a role has a limit');
like(sql(q{SELECT last_error FROM pg_stat_stream_agg WHERE stream ~ 'hushed_[345]' AND state = 'failed' LIMIT 1}),
	qr/^state of stream ".*hushed_.*" has reached the limit of 6144 kB for all streams of role "mallory"\nDETAIL:  It takes \d+ kB .*; other streams of the role take \d+ kB\.\nHINT:  Have a superuser increase stream_agg.max_role_state/,
	'M10: the error names the role, the limit and what to do');
is(sql('SELECT count(*) FROM alice.hers'), 40000, 'M10: the stream of another role has all its state');
sql(q{ALTER ROLE mallory SET stream_agg.max_role_state = '1GB'});
is((as('mallory', q{SELECT stream_agg.start_stream(stream) FROM pg_stat_stream_agg WHERE state = 'failed'}))[1], '', 'M10: with more room');
process($node, "mallory.hushed_$_") for 3 .. 5;
is(sql("SELECT count(*) FROM mallory.hushed_$_"), 40000, "M10: stream $_ goes on, exactly once") for 3 .. 5;
as('mallory', q{SELECT stream_agg.drop_stream(stream) FROM stream_agg.streams});
as('alice', q{SELECT stream_agg.drop_stream(stream) FROM stream_agg.streams});

# --- L9: dead letters by bytes
sql(qq{ALTER ROLE alice SET stream_agg.max_dead_letters_size = '100kB'; ALTER ROLE alice SET stream_agg.max_late_records_size = '20kB'});
as('alice', qq{SELECT stream_agg.create_source('letters', topic => 'letters', brokers => '$brokers',
		columns => 'k int, ts timestamptz', options => '{"fetch.wait.max.ms": 20}');
	SELECT stream_agg.create_stream('dead', 'SELECT k, count(*) AS n FROM letters GROUP BY k', output_mode => 'update', trigger => '0',
		options => '{"on_error": "dead_letter"}');
	SELECT stream_agg.create_stream('late', 'SELECT stream_agg.tumble(ts, \$\$1 hour\$\$) AS w, count(*) AS n FROM letters GROUP BY 1', output_mode => 'update', trigger => '0',
		watermark => '1 hour', options => '{"on_error": "skip", "late_records": true}')});
$broker->produce('letters', '{"k": 1, "ts": "2026-01-02T00:00:00Z"}');
process($node, 'dead');
process($node, 'late');
$broker->produce('letters', map { 'no json ' . 'x' x 20000 } 1 .. 3);
process($node, 'dead');
is(sql('SELECT count(*) FROM stream_agg.dead_letters'), 3, 'L9: dead letters within their bytes');
$broker->produce('letters', map { 'no json ' . 'x' x 20000 } 1 .. 3);
wait_state($node, 'dead', 'failed');
like(last_error('dead'), qr/^the dead letters of the stream would take more than 100 kB\nDETAIL:  Those of earlier micro-batches take 58 kB\.\nHINT:  .*stream_agg.delete_dead_letters or raise stream_agg.max_dead_letters_size/,
	'L9: more bytes than the limit fail the stream, and it says what to do');
is(sql('SELECT count(*) FROM stream_agg.dead_letters'), 3, 'L9: none of them is there');
as('alice', q{SELECT stream_agg.delete_dead_letters('dead'); SELECT stream_agg.start_stream('dead')});
process($node, 'dead');
is(sql('SELECT count(*) FROM stream_agg.dead_letters'), 3, 'L9: with room it goes on, each letter once');
$broker->produce('letters', map { '{"ts": "2026-01-01T00:00:00Z", "pad": "' . 'x' x 15000 . '"}' } 1 .. 2);
wait_state($node, 'late', 'failed', 'the late records of the stream would take more than 20 kB');
pass('L9: late records have such a limit as well');
as('alice', q{SELECT stream_agg.drop_stream('late')});

# windows count as well: a record of 40 bytes can be late for 1,440
my $wide = q{options => '{"on_error": "skip", "late_records": true}', output_mode => 'append', trigger => '20 days', watermark => '0 seconds'};
as('alice', qq{SELECT stream_agg.create_stream('wide', 'SELECT stream_agg.hop(ts, \$\$1 minute\$\$, \$\$5 hours\$\$) AS w, count(*) AS n FROM letters GROUP BY 1', $wide);
	SELECT stream_agg.create_stream('wider', 'SELECT stream_agg.hop(ts, \$\$1 minute\$\$, \$\$1 day\$\$) AS w, count(*) AS n FROM letters GROUP BY 1', $wide)});
process($node, $_) for 'wide', 'wider';
$broker->produce('letters', '{"ts": "2026-01-01T00:00:00Z"}');
process($node, 'wide');
is(sql(q{SELECT count(*) || ' ' || sum(cardinality(windows)) FROM stream_agg.late_records}), '1 300', 'L9: windows of late records within their bytes');
$node->psql('postgres', q{SELECT stream_agg.process_available('wider')});
wait_state($node, 'wider', 'failed', 'the late records of the stream would take more than 20 kB');
$broker->produce('letters', map { '{"ts": "2026-01-01T00:00:00Z"}' } 1 .. 3);
$node->psql('postgres', q{SELECT stream_agg.process_available('wide')});
wait_state($node, 'wide', 'failed', 'the late records of the stream would take more than 20 kB');
is(sql('SELECT count(*) FROM stream_agg.late_records'), 1, 'L9: more bytes of windows than the limit fail the stream');
as('alice', q{SELECT stream_agg.drop_stream('wide'); SELECT stream_agg.drop_stream('wider')});

# --- what a parallel worker holds
sql(create('kept'));
sql(q{CREATE FUNCTION stops(text) RETURNS boolean PARALLEL SAFE LANGUAGE plpgsql AS $$ BEGIN
	PERFORM stream_agg.stop_stream($1); RETURN true; END $$;
	CREATE TABLE one AS SELECT 'kept' AS stream});
my $force = sql('SHOW server_version_num') >= 160000 ? 'debug_parallel_query' : 'force_parallel_mode';
refused('postgres', "SET $force = on; SELECT stops(stream) FROM one", qr/cannot execute stream_agg\.stop_stream\(\) during a parallel operation/,
	'a parallel worker cannot stop a stream');
process($node, 'kept');
is(sql(q{SELECT state FROM pg_stat_stream_agg WHERE stream = 'kept'}), 'running', 'which runs on');
sql(q{SELECT stream_agg.drop_stream('kept', drop_sink => true); DROP FUNCTION stops; DROP TABLE one});

# --- L1: whatever a broker says of ends
my $script = PostgreSQL::Test::Utils::tempdir_short() . '/fake_broker.py';
append_to_file($script, <<'PYTHON');
# Answers librdkafka's questions about topic "t" of two partitions, whose end is
# the greatest offset there is; it has no records.
import os, socket, struct, threading, time
MAX = 2**63 - 1
def text(s): return struct.pack('>h', len(s)) + s.encode()
def serve(c, port):
    try:
        while True:
            n = b''
            while len(n) < 4:
                d = c.recv(4 - len(n))
                if not d: return
                n += d
            n = struct.unpack('>i', n)[0]
            b = b''
            while len(b) < n: b += c.recv(n - len(b))
            key, version, cid = struct.unpack('>hhi', b[:8])
            if key == 18:
                apis = [(1, 0, 4), (2, 1, 1), (3, 2, 2), (18, 0, 0)]
                r = struct.pack('>hi', 0 if version == 0 else 35, len(apis)) + b''.join(struct.pack('>hhh', *a) for a in apis)
            elif key == 3:
                part = lambda p: struct.pack('>hiiiiii', 0, p, 1, 1, 1, 1, 1)
                r = struct.pack('>ii', 1, 1) + text('127.0.0.1') + struct.pack('>ih', port, -1) + text('cluster') + struct.pack('>i', 1)
                r += struct.pack('>ih', 1, 0) + text('t') + b'\0' + struct.pack('>i', 2) + part(0) + part(1)
            elif key == 2:
                # replica, then topics: name, partitions of (partition, time)
                p = 8 + 2 + max(struct.unpack('>h', b[8:10])[0], 0) + 4 + 4 + 2 + 1
                m = struct.unpack('>i', b[p:p+4])[0]
                r = struct.pack('>i', 1) + text('t') + struct.pack('>i', m)
                for i in range(m):
                    part, when = struct.unpack('>iq', b[p+4+12*i:p+16+12*i])
                    r += struct.pack('>ihqq', part, 0, -1, MAX if when == -1 else 0)
            else:
                time.sleep(0.05)
                r = struct.pack('>iii', 0, 1, 1)[:8] + text('t') + struct.pack('>i', 2)
                for part in (0, 1): r += struct.pack('>ihqqii', part, 0, MAX, MAX, 0, 0)
            c.sendall(struct.pack('>ii', len(r) + 4, cid) + r)
    except OSError:
        pass
s = socket.socket()
s.bind(('127.0.0.1', 0))
s.listen(50)
port = s.getsockname()[1]
print(port, flush=True)
s.settimeout(1)
parent = os.getppid()
while os.getppid() == parent:
    try: c = s.accept()[0]
    except socket.timeout: continue
    c.settimeout(None)
    threading.Thread(target=serve, args=(c, port), daemon=True).start()
PYTHON
my $port = '';
my $fake = IPC::Run::start([ 'python3', $script ], '<', \undef, '>', \$port);
$fake->pump until $port =~ /\n/;
chomp $port;
as('mallory', qq{SELECT stream_agg.create_source('far', topic => 't', brokers => '127.0.0.1:$port', columns => 'k int');
	SELECT stream_agg.create_stream('endless', 'SELECT k, count(*) AS n FROM far GROUP BY k', output_mode => 'update', trigger => '0',
		max_offsets_per_trigger => 11)});
wait_until('count(*) = 2 FROM pg_stat_stream_agg_partitions WHERE end_offset = 9223372036854775807',
	'L1: two partitions with the greatest end there is');
is(sql(q{SELECT lag FROM pg_stat_stream_agg WHERE stream ~ 'endless'}), '9223372036854775807', 'L1: their lag is the greatest number, not an error');
wait_until(q{count(*) = 1 FROM stream_agg.offsets WHERE stream ~ 'endless'}, 'L1: a micro-batch is planned');
is(sql(q{SELECT sum((r.value ->> 1)::numeric - (r.value ->> 0)::numeric) FROM stream_agg.offsets, jsonb_each(ranges) r WHERE stream ~ 'endless'}),
	11, 'L1: and is no larger than it may be');
as('mallory', q{SELECT stream_agg.drop_stream('endless')});
$fake->kill_kill;

done_testing();
