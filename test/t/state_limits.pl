# A stream that reaches a limit of state, or finds no shared memory, fails by
# itself and cleanly: others live on, it goes on where it was once there is
# room, and nothing is left behind, however often it fails.
#
# STREAM_AGG_FAILURES sets how often (1000 for a thorough run).

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $failures = $ENV{STREAM_AGG_FAILURES} // 10;
my $broker = start_broker(big => 2, other => 1, ram => 1);
my $node = new_node('limits', "stream_agg.kafka_timeout = '10s'", "stream_agg.max_records_per_batch = 2000",
	# in files of its own directory, so that they can be counted
	"dynamic_shared_memory_type = mmap");

sub sql { return $node->safe_psql('postgres', shift); }
sub set
{
	my ($setting, $value) = @_;
	$node->append_conf('postgresql.conf', "$setting = '$value'");
	$node->reload;
	$node->poll_query_until('postgres', "SELECT pg_size_bytes(current_setting('$setting')) = pg_size_bytes('$value')")
	  unless $value eq '-1';
	return;
}
# segments of dynamic shared memory, and their kilobytes
sub segments
{
	my @files = glob($node->data_dir . '/pg_dynshmem/*');
	my $sum = 0;
	$sum += -s $_ // 0 for @files;
	return scalar(@files) . ' segments of ' . int($sum / 1024) . ' kB';
}
sub descriptors
{
	my $pid = shift;
	my @fds = glob("/proc/$pid/fd/*");
	return scalar @fds;
}
sub produce
{
	my ($source, $from, $to) = @_;
	sql("INSERT INTO $source SELECT timestamptz '2026-01-01Z' + i * interval '1 millisecond', rpad('key' || i, 500, 'x'), i
	       FROM generate_series($from, $to) i");
	return;
}
sub stream
{
	my ($name, $source) = @_;
	sql("SELECT stream_agg.create_stream('$name', 'SELECT stream_agg.tumble(ts, \$\$1 hour\$\$) AS win, k, count(*), sum(n)
		FROM $source GROUP BY 1, k', watermark => '1 day', output_mode => 'update', trigger => '0')");
	return;
}
sub is_exact
{
	my ($stream, $name) = @_;
	process($node, $stream);
	is_equal_tables($node, "SELECT * FROM $stream", "SELECT * FROM ${stream}_query", $name);
	return;
}
sub last_error { my $stream = shift; return sql("SELECT last_error FROM pg_stat_stream_agg WHERE stream = '$stream'"); }

# the embedded broker keeps no more than 5 MiB of what was sent
for my $source ('big', 'other', 'ram')
{
	my $brokers = $broker->brokers;
	sql("SELECT stream_agg.create_source('$source', topic => '$source', brokers => '$brokers',
		columns => 'ts timestamptz, k text, n bigint',
		options => '{\"fetch.wait.max.ms\": 20, \"compression.type\": \"lz4\"}')");
}

stream('others', 'other');

# the system refuses: a worker that must not make files of more than 17 MB
# cannot make such segments either; before other streams have filled the state log
SKIP:
{
	skip 'there is no prlimit', 4 unless system('command -v prlimit >/dev/null') == 0;
	sql("ALTER SERVER " . sql('SELECT srvname FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$ LIMIT 1') . " OPTIONS (ADD \"message.max.bytes\" '25000000')");
	sql("SELECT stream_agg.create_stream('memory', 'SELECT stream_agg.tumble(ts, \$\$1 hour\$\$) AS win, n, max(k), count(*)
		FROM ram GROUP BY 1, n', watermark => '1 day', output_mode => 'append', trigger => '0')");
	system_or_bail('prlimit', '--pid', worker_pid($node, 'memory'), '--fsize=17825792');
	produce('ram', 1, 100);
	process($node, 'memory');
	counts_add_up($node, 'memory', 100, 'a little memory');
	sql("INSERT INTO ram VALUES ('2026-01-01Z', repeat('x', 20000000), 0)");
	wait_state($node, 'memory', 'failed');
	like(last_error('memory'), qr/^no shared memory is left for the state of stream "memory"\nDETAIL:  The state takes \d+ kB\. The server reports: could not .*shared memory.*\nHINT:  Provide more dynamic shared memory/,
		'no shared memory: the stream fails');
	produce('other', 1, 100);
	is_exact('others', 'others live on');
	sql("SELECT stream_agg.start_stream('memory')");
	process($node, 'memory');
	counts_add_up($node, 'memory', 101, 'with memory it goes on, exactly once');
	sql("SELECT stream_agg.drop_stream('memory')");
}

# the limit of a stream
set('stream_agg.max_stream_state', '4MB');
stream('totals', 'big');
produce('big', 1, 2000);
is_exact('totals', 'below the limit');
produce('big', 2001, 20000);
wait_state($node, 'totals', 'failed', 'limit');
$node->poll_query_until('postgres', "SELECT pid IS NULL FROM pg_stat_stream_agg WHERE stream = 'totals'");
like(segments(), qr/^\d segments of [1-3]?\d{1,3} kB/, 'the state of a failed stream is out of shared memory');
like(last_error('totals'),
	qr/^state of stream "totals" has reached the limit of 4096 kB\nDETAIL:  It takes \d+ kB of shared memory and needs \d+ kB more\.\nHINT:  Increase stream_agg\.max_stream_state/,
	'the error names stream, limit and size, and tells what to do');
my ($batches, $rows) = split /\|/, sql("SELECT max(batch), count(*) FROM totals, (SELECT max(batch) AS batch FROM stream_agg.commits WHERE stream = 'totals') c GROUP BY batch");
cmp_ok($rows, '>=', 2000, 'what was committed stays');
cmp_ok($rows, '<', 20000, 'the batch that failed is not there');
produce('other', 101, 200);
is_exact('others', 'the other stream lives on');

# again and again
sql(q{CREATE PROCEDURE fail(times int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. times LOOP
			PERFORM stream_agg.start_stream('totals');
			COMMIT;
			LOOP
				EXIT WHEN (SELECT state = 'failed' AND pid IS NULL AND last_error ~ 'limit' FROM pg_stat_stream_agg WHERE stream = 'totals');
				PERFORM pg_sleep(0.01);
			END LOOP;
		END LOOP;
	END $$});
my $launcher = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'stream_agg launcher'");
my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
sub traces
{
	return join(', ', segments(), 'descriptors ' . descriptors($launcher) . ' and ' . descriptors($postmaster),
		sql('SELECT count(*) FROM totals') . ' rows');
}
sub memory_of
{
	my ($kb) = slurp_file("/proc/$launcher/status") =~ /RssAnon:\s+(\d+)/;
	return $kb;
}
sql('CALL fail(2)');
my $before = traces();
my $launcher_memory = memory_of();
sql("CALL fail($failures)");
is(traces(), $before, "$failures failures leave neither shared memory nor descriptors nor rows");
cmp_ok(memory_of() - $launcher_memory, '<', 1024, 'nor memory of the launcher (kB)');
like($before, qr/, $rows rows/, 'and the rows are those of the last commit');

# raised
set('stream_agg.max_stream_state', '200MB');
sql("SELECT stream_agg.start_stream('totals')");
is_exact('totals', 'with a higher limit it goes on, exactly once');
counts_add_up($node, 'totals', 20000, 'every record counted once');

# a state that no longer fits is not restored
sql("SELECT stream_agg.stop_stream('totals')");
set('stream_agg.max_stream_state', '4MB');
sql("SELECT stream_agg.start_stream('totals')");
produce('big', 20001, 20010);
wait_state($node, 'totals', 'failed', 'state of stream "totals" has reached the limit of 4096 kB');
pass('a state larger than the limit is not restored');
set('stream_agg.max_stream_state', '-1');
sql("SELECT stream_agg.start_stream('totals')");
is_exact('totals', 'without a limit it is');

# the limit of all streams
my $memory = sql("SELECT sum(state_bytes) FROM pg_stat_stream_agg");
set('stream_agg.max_total_state', '32MB');
produce('other', 201, 40000);
wait_state($node, 'others', 'failed', 'limit');
like(last_error('others'),
	qr/^state of stream "others" has reached the limit of 32768 kB for all streams\nDETAIL:  It takes \d+ kB .*; other streams take \d+ kB\.\nHINT:  Increase stream_agg\.max_total_state/,
	'the limit of all streams');
produce('big', 20011, 20020);
is_exact('totals', 'the first stream lives on');
set('stream_agg.max_total_state', '-1');
sql("SELECT stream_agg.start_stream('others')");
is_exact('others', 'and the other goes on, exactly once');

done_testing();
