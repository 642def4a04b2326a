# The memory of a worker: micro-batches use again what those before them have freed,
# without new pages from the kernel; a worker that rests gives it back; and settings
# bound it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;
use Time::HiRes ();

my $partitions = 16;
my $broker = start_broker(large => $partitions);
my $node = new_node('memory', 'fsync = off', 'shared_buffers = 8MB', 'timezone = UTC');

# memory of AddressSanitizer is not what a server has
my ($server) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
plan skip_all => 'built with AddressSanitizer' if slurp_file("/proc/$server/maps") =~ /libasan/;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub kb { my ($pid, $what) = @_; my ($kb) = slurp_file("/proc/$pid/status") =~ /^$what:\s+(\d+) kB/m; return $kb; }
sub faults { my $pid = shift; my @fields = split / /, slurp_file("/proc/$pid/stat") =~ s/.*\) //sr; return $fields[7]; }

sub set
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = '$value'");
	$node->reload;
	return;
}

# records of 1 kB
sub produce
{
	my $n = shift;
	my $text = 'x' x 1000;
	$broker->produce('large', map { [ $_ % $partitions, '', qq({"k":$_,"v":"$text"}) ] } 1 .. $n);
	return;
}

my $start = sql(q{SELECT date_trunc('second', now() - interval '1 hour')});
sql(qq{CREATE FOREIGN TABLE numbers (t timestamptz, v bigint) SERVER stream_agg_rate
	OPTIONS (rows_per_second '100000', start '$start')});
create_source($node, $broker, 'large', 'large', 'k bigint, v text');

checked_subtest('the pages that one micro-batch has used serve the next one', sub {
	sql(q{SELECT stream_agg.create_stream('pages', $q$
		SELECT stream_agg.tumble(t, '1 second') AS win, v, count(*) AS n, sum(v) AS total FROM numbers GROUP BY 1, v HAVING count(*) > 1 $q$,
		watermark => '1 second', max_offsets_per_trigger => 100000, trigger => '0', starting_offsets => 'earliest')});
	my $pid = worker_pid($node, 'pages');
	my $batches = sub {
		my $n = shift;
		$node->poll_query_until('postgres', "SELECT max(batch) >= $n FROM stream_agg.commits WHERE stream = 'pages'") or die 'no batches';
		return (sql("SELECT max(batch) FROM stream_agg.commits WHERE stream = 'pages'"), faults($pid));
	};
	my ($first, $before) = $batches->(4);
	my ($last, $after) = $batches->($first + 5);
	my $pages = ($after - $before) / ($last - $first);
	diag("figures: $pages page faults a micro-batch");
	cmp_ok($pages, '<', 2500, 'a micro-batch of 100000 groups faults in few pages');
	is(worker_pid($node, 'pages'), $pid, 'by the same worker');
	sql(q{SELECT stream_agg.drop_stream('pages')});
});

checked_subtest('a worker that rests gives back the memory of its micro-batches', sub {
	sql(q{SELECT stream_agg.create_stream('rests', 'SELECT k % 10 AS key, count(*) AS n, sum(length(v)) AS bytes FROM large GROUP BY 1',
		output_mode => 'update', trigger => '20 days', starting_offsets => 'earliest')});
	produce(100);
	process($node, 'rests');
	my $pid = worker_pid($node, 'rests');
	my $before = kb($pid, 'RssAnon');
	produce(40_000);
	process($node, 'rests');
	my $held = kb($pid, 'RssAnon') - $before;
	cmp_ok($held, '>', 20_000, "a micro-batch of 40 MB: $held kB are kept for the next one");

	my $log = -s $node->logfile;
	set('log_min_messages', 'debug1');
	set('stream_agg.memory_release_delay', '100ms');
	$node->wait_for_log(qr/stream "rests" has given free memory back, and rests/, $log);
	$held = kb($pid, 'RssAnon') - $before;
	diag("figures: $held kB more than before the micro-batch");
	cmp_ok($held, '<', 8_000, 'all but a few MB are given back');
	produce(40_000);
	process($node, 'rests');
	is(sql('SELECT sum(n) FROM rests'), 80_100, 'the stream goes on');
	is(worker_pid($node, 'rests'), $pid, 'in the same worker');
	$node->wait_for_log(qr/(given free memory back, and rests.*){2}/s, $log);
	$held = kb($pid, 'RssAnon') - $before;
	cmp_ok($held, '<', 8_000, 'and gives memory back again');
	sql(q{SELECT stream_agg.drop_stream('rests')});
});

# Peak of a worker's own memory over all there is, in micro-batches of $records.
sub peak
{
	my ($stream, $records) = @_;
	sql(qq{SELECT stream_agg.create_stream('$stream', 'SELECT k % 10 AS key, count(*) AS n FROM large GROUP BY 1',
		output_mode => 'update', trigger => '20 days', starting_offsets => 'earliest', max_offsets_per_trigger => $records)});
	my $pid = worker_pid($node, $stream);
	my $before = kb($pid, 'VmHWM');
	process($node, $stream);
	my $peak = kb($pid, 'VmHWM') - $before;
	is(worker_pid($node, $stream), $pid, "$stream: the worker goes on");
	is(sql("SELECT sum(n) FROM $stream"), 80_100, "$stream: all records are counted");
	sql("SELECT stream_agg.drop_stream('$stream')");
	diag("figures: $stream: peak of $peak kB");
	return $peak;
}

checked_subtest('settings bound the memory of a worker', sub {
	set('stream_agg.batch_memory', '8MB');
	set('stream_agg.fetch_memory', '4MB');
	# besides: answers of the broker, messages of librdkafka, pages of the server's shared
	# memory, and what malloc has kept
	cmp_ok(peak('file', 100_000), '<', 8_000 + 4_000 + 40_000, 'what exceeds the memory of a micro-batch goes to a file');
	set('stream_agg.batch_memory', '256MB');
	cmp_ok(peak('ahead', 10_000), '<', 10_000 + 4_000 + 40_000, 'records fetched ahead are bounded');
});

done_testing();
