# An idle stream costs next to nothing, with a consumer group too: no transaction
# ids, no CPU.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $seconds = 10;
my $broker = start_broker(events => 4);
my $node = new_node('idle', 'autovacuum = off');

# the fetch requests here are the long ones of a real stream
my $brokers = $broker->brokers;
$node->safe_psql('postgres', "
	SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers', columns => 'ts timestamptz, k int')");
$node->safe_psql('postgres', q{
	SELECT stream_agg.create_stream('idle', 'SELECT k, count(*) AS n FROM events GROUP BY k',
		output_mode => 'update', trigger => '1 second', options => '{"consumer_group": "idle"}')});
$broker->produce('events', '{"ts": "2026-01-01T00:00:00Z", "k": 1}');
process($node, 'idle');
my $pid = worker_pid($node, 'idle');

# ticks of user and system time, threads of librdkafka included
sub cpu_ms
{
	open my $stat, '<', "/proc/$pid/stat" or die "cannot read /proc/$pid/stat: $!";
	my @fields = split ' ', (<$stat> =~ s/.*\) //r);
	return ($fields[11] + $fields[12]) * 10;
}
sub next_xid
{
	return $node->safe_psql('postgres', 'SELECT pg_snapshot_xmax(pg_current_snapshot())');
}

# A busy machine makes everything cost more: the least of six is the stream's.
my $xid = next_xid();
my $cpu;
for (1 .. 6)
{
	my $before = cpu_ms();
	sleep $seconds;    # what is measured is time
	my $spent = cpu_ms() - $before;
	$cpu = $spent if !defined $cpu || $spent < $cpu;
	last if $cpu <= 20;
}
is(next_xid(), $xid, "an idle stream takes no transaction id in $seconds s");
cmp_ok($cpu, '<=', 20, "and $cpu ms of CPU");
is($node->safe_psql('postgres', 'SELECT batches FROM pg_stat_stream_agg'), 1, 'and runs no batch');

done_testing();
