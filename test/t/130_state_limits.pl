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

my $failures = $ENV{STREAM_AGG_FAILURES} // 25;
my $broker = start_broker(big => 2, other => 1, ram => 1);
my $node = new_node('limits', "stream_agg.kafka_timeout = '10s'", "stream_agg.max_records_per_batch = 2000");

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
# segments of dynamic shared memory of this server, and their kilobytes
sub segments
{
	my $data = $node->data_dir;
	my $state = slurp_file("$data/postmaster.pid");
	my @files = glob("/dev/shm/PostgreSQL.* $data/pg_dynshmem/*");
	@files = grep { -O $_ } @files;
	my $maps = '';
	return scalar(@files), int(eval { my $sum = 0; $sum += -s $_ // 0 for @files; $sum } / 1024);
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

# the limit of a stream
set('stream_agg.max_stream_state', '4MB');
stream('totals', 'big');
stream('others', 'other');
produce('other', 1, 100);
produce('big', 1, 2000);
is_exact('totals', 'below the limit');
produce('big', 2001, 20000);
wait_state($node, 'totals', 'failed', 'limit');
like(last_error('totals'),
	qr/^state of stream "totals" has reached the limit of 4096 kB\nDETAIL:  It takes \d+ kB of shared memory and needs \d+ kB more\.\nHINT:  Increase stream_agg\.max_stream_state/,
	'the error names stream, limit and size, and tells what to do');
my ($batches, $rows) = split /\|/, sql("SELECT max(batch), count(*) FROM totals, (SELECT max(batch) AS batch FROM stream_agg.commits WHERE stream = 'totals') c GROUP BY batch");
cmp_ok($rows, '>=', 2000, 'what was committed stays');
cmp_ok($rows, '<', 20000, 'the batch that failed is not there');
produce('other', 101, 200);
is_exact('others', 'the other stream lives on');

# again and again
my @before;
my $launcher = sql("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'stream_agg launcher%'");
my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
for my $i (1 .. $failures)
{
	sql("SELECT stream_agg.start_stream('totals')");
	wait_state($node, 'totals', 'failed', 'limit');
	next if $i < 3;
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'stream_agg%' AND pid NOT IN ($launcher) AND application_name = 'totals'");
	@before = (segments(), descriptors($launcher), descriptors($postmaster), $rows) if $i == 3;
}
my @after = (segments(), descriptors($launcher), descriptors($postmaster), sql('SELECT count(*) FROM totals'));
is("@after[0 .. 1]", "@before[0 .. 1]", "$failures failures leave no shared memory (segments, kB)");
is("@after[2 .. 3]", "@before[2 .. 3]", 'nor descriptors of launcher and postmaster');
is($after[4], $rows, 'nor rows');

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

# the system refuses: a worker that must not make files larger than a few
# megabytes cannot make such segments either
SKIP:
{
	skip 'no prlimit, or shared memory is not in files', 4
	  unless system('command -v prlimit >/dev/null') == 0 && sql('SHOW dynamic_shared_memory_type') =~ /posix|mmap/;
	sql("SELECT stream_agg.create_stream('memory', 'SELECT stream_agg.tumble(ts, \$\$1 hour\$\$) AS win, k, count(*), sum(n)
		FROM ram GROUP BY 1, k', watermark => '1 day', output_mode => 'append', trigger => '0', max_offsets_per_trigger => 100000)");
	my $pid = worker_pid($node, 'memory');
	system_or_bail('prlimit', '--pid', $pid, '--fsize=33554432');
	my $insert = q{INSERT INTO ram SELECT timestamptz '2026-01-01Z' + i * interval '1 millisecond', repeat('x', 9000) || i, i
		FROM generate_series(};
	sql($insert . '1, 300) i');
	is((process($node, 'memory'))[0] > 0, 1, 'a little memory');
	sql($insert . '301, 20000) i');
	wait_state($node, 'memory', 'failed');
	like(last_error('memory'), qr/^no shared memory is left for the state of stream "memory"\nDETAIL:  The state takes \d+ kB\. The server reports: could not resize shared memory/,
		'no shared memory: the stream fails');
	sql("SELECT stream_agg.start_stream('memory')");
	is((process($node, 'memory'))[1] > 0, 1, 'with memory it goes on');
	is(sql("SELECT total_aggregated FROM stream_agg.commits WHERE stream = 'memory' ORDER BY batch DESC LIMIT 1"), 20000, 'exactly once');
}

done_testing();
