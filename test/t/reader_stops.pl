# A stream is told to stop while the others that share its reader are being opened:
# it stops at once, and nothing of it stays with their worker.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 2);
my $node = new_node('stops');
my @streams = qw(a b c d e);
my $records = 40;

sub sql { return $node->safe_psql('postgres', shift); }

# a psql of its own, whose commands come by and by
sub session
{
	my ($in, $out) = ('', '');
	my $psql = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ],
		'<', \$in, '>', \$out, '2>', \$out);
	return { psql => $psql, in => \$in, out => \$out };
}

sub ask
{
	my ($session, $commands) = @_;
	${ $session->{in} } .= "$commands\n";
	$session->{psql}->pump_nb;
	return;
}

create_source($node, $broker, 'events', 'events', 'k int');
$broker->produce('events', map { [ $_ % 2, '', '{"k": ' . $_ % 7 . '}' ] } 1 .. $records);
for my $stopped (@streams)
{
	sql(qq{SELECT stream_agg.create_stream('$_', 'SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update',
		trigger => '0', reader => 'one', start => false, starting_offsets => '@{[$_ eq 'e' ? 'latest' : 'earliest']}')}) for @streams;

	# the worker of all waits for a row of one of them, after it has taken others, and
	# then for Kafka, to tell the offsets of the last one
	my $holder = session();
	ask($holder, "BEGIN; INSERT INTO stream_agg.sources (stream) VALUES ('d'); SELECT 'held';");
	$holder->{psql}->pump until ${ $holder->{out} } =~ /held/;
	sql(join('', 'BEGIN;', map({ "SELECT stream_agg.start_stream('$_');" } @streams), 'COMMIT;'));
	$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
	  or die 'nobody waits for the row';

	my $stopper = session();
	ask($stopper, "SET statement_timeout = '60s'; SELECT 'stopped' || stream_agg.stop_stream('$stopped')::text;");
	$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity
		WHERE query ~ 'stop_stream' AND pid <> pg_backend_pid() AND wait_event IS NOT NULL AND state = 'active'
		   OR query ~ 'stop_stream' AND pid <> pg_backend_pid() AND state <> 'active'});
	ask($holder, "ROLLBACK;\n\\q");
	$holder->{psql}->finish;
	ask($stopper, '\\q');
	$stopper->{psql}->finish;
	like(${ $stopper->{out} }, qr/^stopped/m, "$stopped stops while others are being opened");
	is(${ $stopper->{out} } =~ /ERROR/ ? ${ $stopper->{out} } : '', '', 'without an error');

	# what is left of it: it starts again, in whatever process
	sql("SELECT stream_agg.start_stream('$stopped')");
	process($node, $_) for @streams;
	sql("SELECT stream_agg.stop_stream('$_')") for @streams;
	is(sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND mode = 'ExclusiveLock'}), 0, 'no lock of a stream is left');
	is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "$_ equals its batch query") for grep { $_ ne 'e' } @streams;
	sql("SELECT stream_agg.drop_stream('$_', drop_sink => true)") for @streams;
}

done_testing();
