# idle_timeout: after that much quiet event time goes on with the clock, so the
# last windows close; a retry goes by the clock of its plan; nothing happens, and no
# transaction id is taken, when there is no window to close.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

seed();
my $broker = start_broker();
my $node = new_node('idle_timeout', 'autovacuum = off', 'max_worker_processes = 30', "timezone = 'America/New_York'");

sub make_stream
{
	my ($name, $partitions, %how) = @_;
	my $mode = $how{mode} // 'append';
	my $type = $how{type} // 'timestamptz';
	my $window = $how{window} // "stream_agg.tumble(ts, '1 minute')";
	my %options = (max_future => undef, %{ $how{options} // {} });
	my $options = join(', ', map { "\"$_\": " . (defined $options{$_} ? "\"$options{$_}\"" : 'null') } sort keys %options);
	$broker->create_topic($name, $partitions);
	create_source($node, $broker, "${name}_source", $name, "ts $type, k int");
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$name',
		\$q\$SELECT $window AS win, count(*) AS n FROM ${name}_source WHERE k > 0 GROUP BY 1\$q\$,
		watermark => '10 seconds', output_mode => '$mode', trigger => '" . ($how{trigger} // '0') . "',
		options => '{$options}')");
	return;
}

sub record { my ($p, $ts, $k) = @_; return [ $p, '', sprintf('{"ts":"%s","k":%d}', $ts, $k // 1) ]; }

sub wait_for
{
	my ($query, $name) = @_;
	return ok($node->poll_query_until('postgres', $query), $name);
}

sub last_commit { return "(SELECT * FROM stream_agg.commits WHERE stream = '$_[0]' ORDER BY batch DESC LIMIT 1) c"; }

# the commits that went by the clock went by that of their plans
sub by_the_clock
{
	my $stream = shift;
	return $node->safe_psql('postgres', qq{
		SELECT count(*) > 0 AND bool_and(c.watermark = date_trunc('milliseconds', o.batch_time - interval '1 second') - interval '10 seconds')
		  FROM stream_agg.commits c JOIN stream_agg.offsets o USING (stream, batch)
		 WHERE stream = '$stream' AND o.quiet <> '{}' AND c.delivered = 0});
}

# Without it windows wait; with it they close, in either trigger and mode.
make_stream('waits', 1);
make_stream('closes', 2, options => { idle_timeout => '1 second' });
make_stream('by_trigger', 2, options => { idle_timeout => '1 second' }, trigger => '100 milliseconds');
make_stream('updates', 1, options => { idle_timeout => '1 second' }, mode => 'update');
make_stream('no_zone', 1, options => { idle_timeout => '1 second' }, type => 'timestamp',
	window => "date_bin('1 minute', ts, '2020-01-01')");
make_stream('sliding', 1, options => { idle_timeout => '1 second' }, window => "stream_agg.hop(ts, '1 minute', '2 minutes')");
make_stream('sessions', 1, options => { idle_timeout => '1 second' }, window => "stream_agg.session(ts, '50 seconds')");
my @streams = ('waits', 'closes', 'by_trigger', 'updates', 'no_zone', 'sessions', 'sliding');
for my $stream (@streams)
{
	$broker->produce($stream, record(0, '2026-01-01 00:00:10'), record(0, '2026-01-01 00:01:10'), record(0, '2026-01-01 00:01:20'));
	process($node, $stream);
}
my $batches = $node->safe_psql('postgres', q{SELECT batches FROM pg_stat_stream_agg WHERE stream = 'waits'});
wait_for("SELECT count(*) = 2 AND sum(n) = 3 FROM $_", "$_: the last window is in the sink") for @streams[1 .. 5];
wait_for('SELECT count(*) = 3 AND sum(n) = 6 FROM sliding', 'sliding: all windows of the last records are in the sink');
wait_for("SELECT state_rows = 0 FROM pg_stat_stream_agg WHERE stream = '$_'", "$_: and no state is left") for @streams[1 .. 6];
is(by_the_clock($_), 't', "$_: event time went by the clock of the plan") for 'closes', 'by_trigger', 'updates';
is($node->safe_psql('postgres', "SELECT abs(extract(epoch FROM (now() AT TIME ZONE 'America/New_York') - (watermark AT TIME ZONE 'UTC'))) < 1800
	FROM " . last_commit('no_zone')), 't', 'no_zone: by the clock of the stream\'s time zone');
is($node->safe_psql('postgres', 'SELECT count(*) FROM waits'), 1, 'without idle_timeout the last window waits');
is($node->safe_psql('postgres', 'SELECT batches FROM pg_stat_stream_agg WHERE stream = $$waits$$'), $batches, 'and no batch was run for it');

# No window to close: no batch, no transaction id.
my $quiet = q{SELECT string_agg(stream || batches, ' ' ORDER BY stream) || ' ' || pg_snapshot_xmax(pg_current_snapshot()) FROM pg_stat_stream_agg};
my $before = $node->safe_psql('postgres', $quiet);
sleep 4;    # what is measured is time
is($node->safe_psql('postgres', $quiet), $before, 'without a window to close idle streams do nothing');

# What comes back is late or not by the watermark that the clock has made.
my $last = $node->safe_psql('postgres', q{SELECT max(batch) FROM stream_agg.commits WHERE stream = 'closes'});
$broker->produce('closes', record(0, '2026-01-01 00:01:30'), record(1, '2026-01-01 00:03:30'), record(0, '2126-01-01 00:00:10'));
process($node, 'closes');
is($node->safe_psql('postgres', "SELECT sum(late), sum(aggregated) FROM stream_agg.commits WHERE stream = 'closes' AND batch > $last"), '2|1',
	'records older than the clock are late when they come back');

# Records that WHERE removes are quiet too.
make_stream('filtered', 1, options => { idle_timeout => '1 second' });
$broker->produce('filtered', record(0, '2026-01-01 00:00:10'));
process($node, 'filtered');
for (1 .. 600)
{
	$broker->produce('filtered', record(0, '2026-01-01 00:00:10', 0));
	process($node, 'filtered');
	last if $node->safe_psql('postgres', 'SELECT count(*) FROM filtered') eq '1';
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM filtered'), 1, 'records without event time do not keep a window open');

# A partition without records is waited for, and left out when it is quiet.
make_stream('held', 2, options => { watermark_policy => 'per_partition' });
make_stream('left_out', 2, options => { watermark_policy => 'per_partition', idle_timeout => '1 second' });
for my $stream ('held', 'left_out')
{
	$broker->produce($stream, record(0, '2126-01-01 00:00:10'), record(0, '2126-01-01 00:02:10'));
	process($node, $stream);
}
wait_for('SELECT count(*) = 1 FROM left_out', 'a partition without records is not waited for longer than idle_timeout');
is($node->safe_psql('postgres', 'SELECT watermark = timestamptz $$2126-01-01 00:02:00$$ FROM ' . last_commit('left_out')), 't',
	'the watermark is that of the others');
is($node->safe_psql('postgres', 'SELECT count(*) FROM held'), 0, 'without idle_timeout it is waited for');
is($node->safe_psql('postgres', 'SELECT watermark = to_timestamp(0) FROM ' . last_commit('held')), 't', 'and the watermark stands');
$broker->produce('left_out', record(1, '2126-01-01 00:00:30'), record(1, '2126-01-01 00:02:30'));
process($node, 'left_out');
is($node->safe_psql('postgres', 'SELECT total_late, total_aggregated FROM ' . last_commit('left_out')), '1|3',
	'of what comes in it later the part before the watermark is late');

# A restart goes on with the quiet, and a retry with the plan.
make_stream('restarted', 1, options => { idle_timeout => '1 second' });
$node->safe_psql('postgres', q{
	CREATE TABLE gate (open boolean);
	CREATE FUNCTION check_gate() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NOT EXISTS (SELECT FROM public.gate) THEN RAISE EXCEPTION 'the gate is closed' USING ERRCODE = '55P03'; END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER gate BEFORE INSERT ON restarted FOR EACH ROW EXECUTE FUNCTION check_gate()});
$broker->produce('restarted', record(0, '2026-01-01 00:00:10'));
process($node, 'restarted');
$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('restarted')");
$node->safe_psql('postgres', "SELECT stream_agg.start_stream('restarted')");
wait_state($node, 'restarted', 'retrying', 'the gate is closed');
my $plan = "SELECT max(batch_time) FROM stream_agg.offsets WHERE stream = 'restarted'";
my $planned = $node->safe_psql('postgres', $plan);
$node->safe_psql('postgres', 'INSERT INTO gate VALUES (true)');
wait_for('SELECT count(*) = 1 FROM restarted', 'after a restart without records the last window closes');
is($node->safe_psql('postgres', $plan), $planned, 'the retry has run the same plan');
is(by_the_clock('restarted'), 't', 'and went by its clock');

# An option that comes later counts from then on.
$node->safe_psql('postgres', q{SELECT stream_agg.alter_stream('waits', '{"idle_timeout": "1 second"}')});
wait_for('SELECT count(*) = 2 FROM waits', 'idle_timeout can be set by alter_stream');

done_testing();
