# Whoever stops or drops a stream, or the server, does not wait for a broker
# that does not answer.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;
use Time::HiRes 'time';

my $broker = start_broker(events => 1);
my $node = new_node('silent', "stream_agg.kafka_timeout = '5 min'");
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int');
sub create
{
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$_[0]',
		'SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update')");
	return;
}
sub within
{
	my ($seconds, $name, $code) = @_;
	my $start = time();
	$code->();
	return cmp_ok(time() - $start, '<', $seconds, $name);
}

# silent from the first contact, and in the middle of the stream's life
create('known');
process($node, 'known');
kill STOP => $broker->pid;
create($_) for qw(stopped dropped);
$node->poll_query_until('postgres',
	q{SELECT count(pid) = 3 FROM pg_stat_stream_agg}) or die 'no workers';
my ($status) = $node->psql('postgres', q{SELECT stream_agg.process_available('known', '1 second')});
isnt($status, 0, 'process_available raises when its time is up');

within(5, "$_->[0] does not wait for the broker", sub { $node->safe_psql('postgres', $_->[1]) })
  for [ 'stop_stream', q{SELECT stream_agg.stop_stream('stopped')} ],
  [ 'drop_stream', q{SELECT stream_agg.drop_stream('dropped')} ],
  [ 'stop_stream after a question', q{SELECT stream_agg.stop_stream('known')} ];
$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$_')") for qw(stopped known);
$node->poll_query_until('postgres',
	q{SELECT count(pid) = 2 FROM pg_stat_stream_agg}) or die 'no workers';
within(5, 'a fast shutdown does not wait for the broker', sub { $node->stop('fast') });
kill CONT => $broker->pid;

done_testing();
