# What the groups of a micro-batch take of a worker's private memory is bounded:
# a micro-batch whose groups take more is tried again with half of its offsets, and
# those after it are as small.  All records are aggregated, each once.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $records = $ENV{GROUP_MEMORY_RECORDS} // 3000;
my $broker = start_broker(map { $_ => 1 } qw(sums inputs shared whole));
# twice that, or 64 MB if that is more, is the bound
my $node = new_node('memory', 'fsync = off', 'timezone = UTC', 'stream_agg.batch_memory = 1MB');

# kB that a worker may take beyond what it has at the start
my $most = 64 * 1024 + 100_000;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub memory { my ($kb) = slurp_file("/proc/$_[0]/status") =~ /VmHWM:\s+(\d+)/; return $kb; }

# Records of one group each, in windows of a minute that close behind each other.
sub records
{
	my $value = shift;
	return map { sprintf '{"k":%d,"v":"%s","ts":%d}', $_, $value, 1767225600 + 60 * $_ } 1 .. $records;
}

sub create
{
	my ($stream, $query, %how) = @_;
	my $mode = $how{mode} // 'append';
	my $more = $mode eq 'append' ? ", watermark => '0 seconds'" : '';
	sql("SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => '$mode', trigger => '20 days'$more)");
	process($node, $stream);
	return worker_pid($node, $stream);
}

# Process all there is, within bounds.
sub bounded
{
	my ($stream, $pid, $name) = @_;
	my $kb = memory($pid);
	my $log = -s $node->logfile;
	process($node, $stream);
	is(worker_pid($node, $stream), $pid, "$name: the worker goes on");
	$kb = memory($pid) - $kb;
	diag("figures: $name: $kb kB more");
	cmp_ok($kb, '<', $most, "$name: memory of the worker is bounded");
	my $text = substr(slurp_file($node->logfile), $log);
	my $retried = () = $text =~ /is retried with \d+ of its \d+ offsets, because its groups take more than 65536 kB/g;
	cmp_ok($retried, '>', 0, "$name: the log says that micro-batches are made smaller");
	cmp_ok($retried, '<', 15, "$name: those that follow are small at once");
	unlike($text, qr/ERROR/, "$name: without an error");
	return;
}

create_source($node, $broker, $_, $_, q{k int, v text, ts timestamptz OPTIONS (unit 's')}) for qw(sums inputs shared whole);

{
	my $pid = create('s_sums', q{SELECT stream_agg.tumble(ts, '1 minute') AS w, sum(v::numeric) AS s, avg(v::numeric) AS a FROM sums GROUP BY 1});
	$broker->produce('sums', records('1e131071'));
	bounded('s_sums', $pid, 'sums of 1e131071');
	# the last window is open
	is(sql(q{SELECT count(*), count(DISTINCT w), bool_and(s = '1e131071' AND a = '1e131071') FROM s_sums}),
		join('|', $records - 1, $records - 1, 't'), 'sums of 1e131071: all windows, each once');
	counts_add_up($node, 's_sums', $records, 'sums of 1e131071: every record counts once');
}

# The rest does not wait for the next trigger.
{
	my $limit = int($records / 2);
	sql("SELECT stream_agg.create_stream('s_limited', \$q\$SELECT stream_agg.tumble(ts, '1 minute') AS w, sum(v::numeric) AS s FROM sums GROUP BY 1\$q\$,
		output_mode => 'append', trigger => '20 days', watermark => '0 seconds', max_offsets_per_trigger => $limit)");
	ok($node->poll_query_until('postgres', "SELECT max(total_delivered) >= $limit FROM stream_agg.commits WHERE stream = 's_limited'"), 'one trigger reads all that it may, in small micro-batches');
	is(sql(q{SELECT count(*) > 1 FROM stream_agg.commits WHERE stream = 's_limited'}), 't', 'in several');
	process($node, 's_limited');
	is(sql("SELECT count(*) FROM stream_agg.commits WHERE stream = 's_limited' AND total_delivered = $limit"), 1, 'and no more');
	counts_add_up($node, 's_limited', $records, 'and every record counts once');
}
{
	my $pid = create('s_inputs', q{SELECT stream_agg.tumble(ts, '1 minute') AS w, length(string_agg(repeat(v, 100000), ',' ORDER BY k)) AS n FROM inputs GROUP BY 1});
	$broker->produce('inputs', records('x'));
	bounded('s_inputs', $pid, 'kept inputs');
	is(sql('SELECT count(*), count(DISTINCT w), min(n), max(n) FROM s_inputs'), join('|', $records - 1, $records - 1, 100000, 100000),
		'kept inputs: all windows, each once');
}
{
	my $pid = create('s_light', q{SELECT count(*) AS n FROM shared}, mode => 'update');
	create('s_heavy', q{SELECT stream_agg.tumble(ts, '1 minute') AS w, sum(v::numeric) AS s FROM shared GROUP BY 1});
	$broker->produce('shared', records('1e131071'));
	process($node, $_) for 's_heavy', 's_light';
	is(sql('SELECT count(*) FROM s_heavy'), $records - 1, 'streams of one source: all windows');
	is(sql('SELECT n FROM s_light'), $records, 'streams of one source: the other one has counted every record once');
}
{
	create('s_whole', q{SELECT k, sum(v::numeric) AS s FROM whole WHERE k <= 1000 GROUP BY 1}, mode => 'update');
	$broker->produce('whole', records('1e131071'));
	sql(q{SELECT stream_agg.stop_stream('s_whole')});
	sql(q{SELECT stream_agg.reset_stream('s_whole', results => true)});
	sql(q{SELECT stream_agg.start_stream('s_whole')});
	$node->poll_query_until('postgres', q{SELECT state = 'failed' FROM pg_stat_stream_agg WHERE stream = 's_whole'})
	  or die 's_whole has not failed';
	like(sql(q{SELECT last_error FROM pg_stat_stream_agg WHERE stream = 's_whole'}),
		qr/groups of a micro-batch of stream "s_whole" take more than 65536 kB.*Increase stream_agg.batch_memory/s,
		'a micro-batch that cannot be made smaller fails, and the error names the setting');
	sql(q{ALTER SYSTEM SET stream_agg.batch_memory = '300MB'});
	sql('SELECT pg_reload_conf()');
	sql(q{SELECT stream_agg.start_stream('s_whole')});
	process($node, 's_whole');
	is(sql('SELECT count(*) FROM s_whole'), 1000, 'with a greater one it goes on');
}

done_testing();
