# Watermark policy aligned, the default: a backlog loses nothing, however it is cut
# into micro-batches and whatever the paces of its partitions.  Each partition is
# in order within less than the watermark's delay.  Where every micro-batch reads
# all there is, the policy is global, batch by batch.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $random = seeded_random();
my $broker = start_broker();
my $node = new_node('aligned', 'max_worker_processes = 30', 'stream_agg.keep_batches = 100000');
my $base = 1767225600;               # 2026-01-01 00:00 UTC
my $hours = 6;
my $disorder = 5;                    # seconds, with a watermark of a minute
my $all = $ENV{ALIGNED_ALL};          # every window at every size of micro-batches
my $scale = $ENV{ALIGNED_SCALE} // 1; # so many times the records
my $streams = 0;

my %windows = (
	tumble => "stream_agg.tumble(ts, '5 minutes')",
	hop => "stream_agg.hop(ts, '10 minutes', '4 minutes')",
	session => "stream_agg.session(ts, '20 seconds')");

# records of the same hours, evenly spread over time in each partition
sub produce_backlog
{
	my ($topic, @counts) = @_;
	my @records;

	$_ *= $scale for @counts;

	$broker->create_topic($topic, scalar @counts);
	for my $p (0 .. $#counts)
	{
		for my $i (0 .. $counts[$p] - 1)
		{
			my $time = $base + $hours * 3600 * $i / $counts[$p] + $random->(1000 * $disorder) / 1000;
			push @records, [ $p, '', sprintf('{"ts":%d,"k":%d,"v":%d}', $time * 1000, $random->(5), $random->(1000)) ];
		}
	}
	$broker->produce($topic, @records);
	create_source($node, $broker, $topic, $topic, 'ts timestamptz, k int, v bigint');
	return scalar @records;
}

sub run_stream
{
	my ($topic, $window, $mode, $limit, $options) = @_;
	my $stream = 's' . $streams++;
	my $bound = $limit ? ", max_offsets_per_trigger => $limit" : '';

	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream',
		\$q\$ SELECT $windows{$window} AS win, k, count(*) AS n, sum(v) AS total FROM $topic GROUP BY 1, k \$q\$,
		watermark => '1 minute', output_mode => '$mode', trigger => '20 days' $bound, options => '$options')");
	$node->safe_psql('postgres', "SELECT * FROM stream_agg.process_available('$stream', '10 minutes')");
	return $stream;
}

sub totals
{
	my $stream = shift;
	return $node->safe_psql('postgres', "SELECT total_delivered || ' delivered, ' || total_late || ' late'
		FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1");
}

# The batch query over the topic.  For sessions the stream's view is not: there
# GROUP BY merges nothing.
sub batch_query
{
	my ($stream, $topic, $window) = @_;
	return "SELECT * FROM ${stream}_query" if $window ne 'session';
	my $order = 'OVER (PARTITION BY k ORDER BY lower(s), upper(s)';
	return "SELECT tstzrange(min(lower(s)), max(upper(s))) AS win, k, count(*) AS n, sum(v) AS total
		  FROM (SELECT *, count(*) FILTER (WHERE fresh) $order ROWS UNBOUNDED PRECEDING) AS visit
		          FROM (SELECT *, (lower(s) <= max(upper(s)) $order
		                               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) IS NOT TRUE AS fresh
		                  FROM (SELECT *, $windows{session} AS s FROM $topic) c) o) v
		 GROUP BY k, visit";
}

# rows by which the sink and the batch query differ, of windows closed or open
sub differences
{
	my ($stream, $topic, $window, $mode) = @_;
	my $batch = '(' . batch_query($stream, $topic, $window) . ')';
	my $rows = $mode eq 'append' ? "(TABLE $stream UNION ALL SELECT * FROM stream_agg.open_windows(NULL::$stream))" : "(TABLE $stream)";
	return $node->safe_psql('postgres', "SELECT (SELECT count(*) FROM ($batch EXCEPT ALL $rows) a)
		+ (SELECT count(*) FROM ($rows EXCEPT ALL $batch) b)");
}

sub check_backlog
{
	my ($what, $topic, @counts) = @_;
	my $records = produce_backlog($topic, @counts);

	subtest "$what: nothing is late, and the table is the batch query's" => sub {
		for my $window (qw(tumble hop session))
		{
			for my $mode (qw(append update))
			{
				for my $limit (100, 777, 7777, 20000, 0)
				{
					next unless $all || $window eq 'tumble' && $limit != 100 || $limit == 777 || $limit == 0;
					my $name = "$window, $mode, " . ($limit || 'unlimited') . ' a micro-batch';
					my $stream = run_stream($topic, $window, $mode, $limit, '{}');
					is(totals($stream), "$records delivered, 0 late", "$name: nothing is late");
					is(differences($stream, $topic, $window, $mode), 0, "$name: as the batch query");
					$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream', drop_sink => true)");
				}
			}
		}
	};
	return;
}

check_backlog('four partitions alike', 'even', (6000) x 4);
check_backlog('partitions of other sizes', 'uneven', 12000, 2400, 600, 8000);
check_backlog('a partition without records', 'empty', 3000, 0, 5000);

# A record that cannot be processed has the plans of all streams of a reader made
# smaller; which partitions those leave behind is then to be found out again.
subtest 'a shared reader in search of failing records loses nothing either' => sub {
	produce_backlog('poisoned', 600, 100, 250);
	my @streams = ('first_fails', 'second_counts', 'third_fails');
	my $source = sub { "SELECT $windows{tumble} AS win, k, count(*) AS n, sum(v) AS total FROM poisoned WHERE $_[0] GROUP BY 1, k" };
	my %where = (fails => '1 / (v % 40) >= 0', counts => 'true');
	my $create = join '', map { my ($kind) = /_(.*)/; "SELECT stream_agg.create_stream('$_', \$q\$ " . $source->($where{$kind}) . " \$q\$, reader => 'together',
		watermark => '1 minute', output_mode => 'update', trigger => '20 days', max_offsets_per_trigger => 90, options => '{\"on_error\": \"skip\"}');" } @streams;
	$node->safe_psql('postgres', "BEGIN; $create COMMIT");
	$node->safe_psql('postgres', "SELECT * FROM stream_agg.process_available('$_', '10 minutes')") for @streams;
	for my $stream (@streams)
	{
		my $query = $source->($stream =~ /fails/ ? 'v % 40 <> 0' : 'true');
		is($node->safe_psql('postgres', "SELECT (SELECT count(*) FROM ($query EXCEPT ALL TABLE $stream) a) + (SELECT count(*) FROM (TABLE $stream EXCEPT ALL $query) b)"), 0, "$stream: as the batch query");
		like(totals($stream), qr/ 0 late/, 'and nothing was late');
	}
	my $skipped = $node->safe_psql('postgres', q{SELECT sum(dead_lettered) > 0 FROM stream_agg.commits WHERE stream = 'first_fails'});
	is($skipped, 't', 'records were skipped');
};

# Two streams share a reader and a backlog whose partitions are hours apart; the second
# one leaves and comes back, is changed, or comes later.  It catches up in batches that
# end where the first one stands, which is not where the partitions end.
subtest 'a stream that joins a reader in the middle of a backlog loses nothing' => sub {
	my $each = 2000;
	$broker->create_topic('apart', 2);
	create_source($node, $broker, 'apart', 'apart', 'ts timestamptz, k int');
	$broker->produce('apart', map { my $p = $_; map { [ $p, '', sprintf('{"ts":%d,"k":%d}', ($base + 12 * 3600 * $p + $_) * 1000, $_ % 10) ] } 1 .. $each } 0, 1);
	my $create = sub {
		my ($reader, $which, $options) = @_;
		return "SELECT stream_agg.create_stream('${reader}_$which', \$q\$SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n FROM apart GROUP BY 1, 2\$q\$,
			watermark => '5 seconds', max_offsets_per_trigger => 60, trigger => '100 ms', reader => '$reader', options => '$options', start => false);";
	};
	my %options = (restarted => '{}', altered => '{}', later => '{}', quiet => '{"idle_timeout": "1 second"}',
		quiet_each => '{"idle_timeout": "1 second", "watermark_policy": "per_partition"}', each => '{"watermark_policy": "per_partition"}', global => '{"watermark_policy": "global"}');
	my @restarted = grep { !/altered|later/ } sort keys %options;
	my $sql = sub { return $node->safe_psql('postgres', $_[0]); };
	my $await = sub {
		my ($batches, @streams) = @_;
		my $list = join ', ', map { "'$_'" } @streams;
		$node->poll_query_until('postgres', "SELECT count(*) = " . @streams . " FROM (SELECT stream FROM stream_agg.commits WHERE stream IN ($list) GROUP BY stream HAVING max(batch) >= $batches) c") or die "no batch $batches of $list";
		return;
	};

	for my $reader (sort keys %options)
	{
		$sql->(join '', map { $create->($reader, $_, $options{$reader}) } $reader eq 'later' ? 'a' : ('a', 'b'));
	}
	$sql->('SELECT stream_agg.start_stream(stream) FROM stream_agg.streams WHERE reader = ANY ($${' . join(',', keys %options) . '}$$)');
	$await->(5, map { ("${_}_a", $_ eq 'later' ? () : "${_}_b") } sort keys %options);
	$sql->(join '', map { "SELECT stream_agg.stop_stream('${_}_b');" } @restarted);
	$sql->($create->('later', 'b', '{}') . q{SELECT stream_agg.start_stream('later_b')});
	$node->safe_psql('postgres', q{BEGIN; SELECT stream_agg.alter_stream('altered_b', '{"max_future": "2 days"}'); SELECT pg_sleep(1.2); COMMIT});
	$sql->(join '', map { "SELECT stream_agg.start_stream('${_}_b');" } @restarted);
	my $read = $sql->('SELECT max(total_delivered) FROM stream_agg.commits WHERE stream LIKE $$%\_a$$');
	cmp_ok($read, '<', 2 * $each, 'they came in the middle');
	for my $reader (sort keys %options)
	{
		for my $stream (map { "${reader}_$_" } 'a', 'b')
		{
			$sql->("SELECT * FROM stream_agg.process_available('$stream', '2 minutes')");
			my $lost = totals($stream);
			$reader eq 'global' ? unlike($lost, qr/ 0 late/, "$stream: policy global loses records") : is($lost, 2 * $each . ' delivered, 0 late', "$stream: nothing is late");
		}
	}
	$sql->("SELECT stream_agg.drop_stream(stream, drop_sink => true) FROM stream_agg.streams WHERE reader IS NOT NULL");
};

subtest 'policy global loses records of the same backlog' => sub {
	my $stream = run_stream('uneven', 'tumble', 'append', 777, '{"watermark_policy": "global"}');
	unlike(totals($stream), qr/ 0 late/, 'which is what the default prevents');
};

done_testing();
