# Who shares a reader: streams that stop, fail, are reset, dropped or made later,
# while the others go on; each has every record once, and comes back to the others.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 2);
my $node = new_node('members', 'stream_agg.max_attempts = 2', "stream_agg.max_retry_delay = '200ms'", 'timezone = UTC');
my $rng = seeded_random();

create_source($node, $broker, 'events', 'events', 'k int, v int, note text');
my %made;
my $produced = 0;

sub sql { return $node->safe_psql('postgres', shift); }

sub definition
{
	my ($name, $query, %args) = @_;
	my $arguments = join('', map { ", $_ => '$args{$_}'" } sort keys %args);
	$made{$name} = 1;
	return qq{SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$, output_mode => 'update',
		trigger => '0', max_offsets_per_trigger => 100, reader => 'one'$arguments);};
}

sub produce
{
	my ($n, @more) = @_;
	$broker->produce('events', map {
		[ $_ % 2, '', json_record({ k => $rng->(9), v => 1 + $rng->(50), note => 'x' }, numbers => [qw(k v)]) ] } 1 .. $n);
	$broker->produce('events', @more) if @more;
	$produced += $n + @more;
	return;
}

# Every one of these streams has committed all there is, and one worker reads for them.
sub await_together
{
	my @streams = @_;
	my $list = join(', ', map { "'$_'" } @streams);
	$node->poll_query_until('postgres', qq{
		SELECT count(*) = @{[scalar @streams]} AND count(DISTINCT read_by) = 1 AND bool_and(lag = 0 AND state = 'running')
		       AND bool_and((SELECT sum((o.value)::bigint) FROM stream_agg.commits c, jsonb_each_text(c.offsets) o
		                      WHERE c.stream = s.stream
		                        AND c.batch = (SELECT max(batch) FROM stream_agg.commits m WHERE m.stream = s.stream)) = $produced)
		  FROM pg_stat_stream_agg s WHERE stream IN ($list)})
	  or die "not together: " . sql('SELECT stream, state, read_by, rows_in, lag, last_error FROM pg_stat_stream_agg');
	return;
}

sub check
{
	my ($when, @streams) = @_;
	is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "$when: $_ equals its batch query") for @streams;
	return;
}

# the last batches of them are one transaction
sub is_one_commit
{
	my ($when, @streams) = @_;
	my $list = join(', ', map { "'$_'" } @streams);
	is(sql(qq{SELECT count(DISTINCT xmin::text) FROM (
		SELECT DISTINCT ON (stream) xmin FROM stream_agg.commits WHERE stream IN ($list) ORDER BY stream, batch DESC) c}),
		'1', "$when: one commit");
	return;
}

sql(q{
	CREATE TABLE failing (stream text);
	CREATE FUNCTION fail_on_demand() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF EXISTS (SELECT FROM public.failing WHERE stream = TG_TABLE_NAME) THEN RAISE 'failing on purpose'; END IF;
		RETURN NEW;
	END $$});
my @abc = ('a', 'b', 'c');
sql('BEGIN;' . definition('a', 'SELECT k, count(*) AS n FROM events GROUP BY k')
	. definition('b', 'SELECT v, count(*) AS n FROM events GROUP BY v')
	. definition('c', 'SELECT k, v, count(*) AS n FROM events GROUP BY 1, 2') . 'COMMIT');
sql("CREATE TRIGGER fail BEFORE INSERT ON $_ FOR EACH STATEMENT EXECUTE FUNCTION fail_on_demand()") for @abc;
produce(300);
await_together(@abc);
check('at first', @abc);

# stop and start: a follower, then the one that leads
for my $who ('follower', 'lead')
{
	my $lead = sql('SELECT DISTINCT read_by FROM pg_stat_stream_agg');
	my $stopped = $who eq 'lead' ? $lead : (grep { $_ ne $lead } @abc)[0];
	my @others = grep { $_ ne $stopped } @abc;

	sql("SELECT stream_agg.stop_stream('$stopped')");
	is(sql("SELECT state, pid, read_by FROM pg_stat_stream_agg WHERE stream = '$stopped'"), 'stopped||', "the $who is stopped");
	produce(250);
	await_together(@others);
	check("without the $who", @others);
	isnt(sql("SELECT sum(n) FROM $stopped"), $produced, 'and it has stayed behind');
	sql("SELECT stream_agg.start_stream('$stopped')");
	await_together(@abc);
	produce(150);
	await_together(@abc);
	check("with the $who again", @abc);
	is_one_commit("with the $who again", @abc);
}

# a stream that fails leaves, the others go on
my $lead = sql('SELECT DISTINCT read_by FROM pg_stat_stream_agg');
for my $failed ((grep { $_ ne $lead } @abc)[0], $lead)
{
	my @others = grep { $_ ne $failed } @abc;
	sql("INSERT INTO failing VALUES ('$failed')");
	produce(150);
	wait_state($node, $failed, 'failed', 'failing on purpose');
	await_together(@others);
	check("while $failed has failed", @others);
	sql("DELETE FROM failing; SELECT stream_agg.start_stream('$failed')");
	await_together(@abc);
	produce(50);
	await_together(@abc);
	check("$failed is back", @abc);
	is_one_commit("$failed is back", @abc);
}

# or takes them along
sql(q{SELECT stream_agg.alter_stream('b', '{"on_failure": "stop_all"}')});
await_together(@abc);
sql(q{INSERT INTO failing VALUES ('b')});
produce(20);
wait_state($node, $_, 'failed', 'failing on purpose') for @abc;
pass('on_failure stop_all: all of them have failed');
sql(q{DELETE FROM failing; SELECT stream_agg.alter_stream('b', '{"on_failure": null}');
	SELECT stream_agg.start_stream(stream) FROM stream_agg.streams WHERE reader = 'one'});
await_together(@abc);
check('all started', @abc);

# streams made later
my ($status, $out, $notice) = $node->psql('postgres', definition('d', 'SELECT k % 2 AS odd, count(*) AS n FROM events GROUP BY 1'));
like($notice, qr/stream "d" reads separately from the other streams of reader "one" until it has caught up/, 'a later one is told so');
await_together(@abc, 'd');
sql(definition('e', 'SELECT k % 3 AS m, count(*) AS n FROM events GROUP BY 1', starting_offsets => 'latest'));
await_together(@abc, 'd', 'e');
produce(130);
await_together(@abc, 'd', 'e');
check('a later one', @abc, 'd');
is(sql('SELECT sum(n) FROM e'), '130', 'one from latest has what came after it');
is_one_commit('later ones', @abc, 'd', 'e');

# a reset of one of them
sql("SELECT stream_agg.reset_stream('c', 'earliest', results => true)");
await_together(@abc, 'd', 'e');
produce(70);
await_together(@abc, 'd', 'e');
check('after a reset', @abc, 'd');
is_one_commit('after a reset', @abc, 'd', 'e');
sql("SELECT stream_agg.drop_stream('e', drop_sink => true)");
sql("SELECT stream_agg.drop_stream('$lead', drop_sink => true)");
my @left = ((grep { $_ ne $lead } @abc), 'd');
produce(70);
await_together(@left);
check('after two were dropped', @left);

# a record that one of them cannot process: that one leaves it out, all stay together
sql(definition('strict', 'SELECT k, count(*) AS n, sum(1 / (v - 100)) AS x FROM events GROUP BY k',
	options => '{"on_error": "dead_letter"}'));
await_together(@left, 'strict');
produce(120, [ 0, '', '{"k": 1, "v": 100, "note": "bad"}' ], map { [ $_ % 2, '', '{"k": 2, "v": 7, "note": "x"}' ] } 1 .. 60);
await_together(@left, 'strict');
is(sql('SELECT count(*), min(convert_from(value, \'UTF8\')) FROM stream_agg.dead_letters'),
	'1|{"k": 1, "v": 100, "note": "bad"}', 'the record is a dead letter of the one that cannot process it');
check('with a dead letter', @left);
is(sql('SELECT sum(n) FROM strict'), $produced - 1, 'and of no other');
counts_add_up($node, $_, $produced, "the records of $_ add up") for 'strict', 'd';
is_one_commit('with a dead letter', @left, 'strict');

# and one that crashes nobody but does not decode
produce(10, [ 0, '', 'no JSON' ]);
wait_state($node, $_, 'failed', 'invalid JSON') for @left;
$node->poll_query_until('postgres', "SELECT lag = 0 AND state = 'running' FROM pg_stat_stream_agg WHERE stream = 'strict'");
counts_add_up($node, 'strict', $produced, 'a record that does not decode fails those that say so only');

done_testing();
