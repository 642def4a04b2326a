# Streams that share a reader: one worker, one plan of ranges, one commit, so that
# their tables agree in every snapshot, also over crashes and errors.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 3);
my $node = new_node('shared', 'restart_after_crash = on', 'stream_agg.keep_batches = 1000000', 'timezone = UTC');
my $rng = seeded_random();

create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');

# each with settings of its own, output mode and all
my %streams = (
	per_user => [ 'SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k', "output_mode => 'update'" ],
	per_minute => [ q{SELECT stream_agg.tumble(ts, '1 minute') AS win, count(*) AS n, max(v) AS top FROM events GROUP BY 1},
		"output_mode => 'update'" ],
	in_all => [ 'SELECT v % 7 AS m, count(*) AS n, avg(v) AS mean FROM events GROUP BY 1', "output_mode => 'complete'" ],
	per_day => [ q{SELECT date_trunc('day', ts)::text AS day, count(*) AS n FROM events GROUP BY 1}, "output_mode => 'update'" ],
	closed => [ q{SELECT stream_agg.tumble(ts, '10 seconds') AS win, k, count(*) AS n FROM events WHERE v % 2 = 0 GROUP BY 1, 2},
		"output_mode => 'append', watermark => '5 seconds'" ]);
my @agreeing = qw(per_user per_minute in_all per_day);
my $definitions = join(";\n", map {
	my $zone = $_ eq 'per_day' ? 'Asia/Tokyo' : 'UTC';
	qq{SET LOCAL timezone = '$zone';
	   SELECT stream_agg.create_stream('$_', \$q\$$streams{$_}[0]\$q\$, $streams{$_}[1],
		trigger => '0', max_offsets_per_trigger => 150, reader => 'events')} } sort keys %streams);
$node->safe_psql('postgres', "BEGIN; $definitions; COMMIT");

my $produced = 0;
sub produce
{
	my $n = shift;
	my @records;
	for (1 .. $n)
	{
		my $second = int($produced / 20);
		push @records, [ $produced % 3, '', json_record({
				ts => sprintf('2026-01-01T%02d:%02d:%02dZ', 12 + int($second / 3600), int($second / 60) % 60, $second % 60),
				k => $rng->(20), v => $rng->(1000) }, numbers => [qw(k v)]) ];
		$produced++;
	}
	$broker->produce('events', @records);
	return;
}

# all of them are committed, whatever happens meanwhile
sub await_all
{
	$node->poll_query_until('postgres', qq{
		SELECT count(*) = @{[scalar keys %streams]} FROM pg_stat_stream_agg WHERE rows_in = $produced})
	  or die 'not all records are committed: '
	  . $node->safe_psql('postgres', 'SELECT stream, state, rows_in, last_error FROM pg_stat_stream_agg');
	return;
}

sub check_tables
{
	my $when = shift;
	for my $stream (sort keys %streams)
	{
		my $zone = $stream eq 'per_day' ? "Asia/Tokyo" : 'UTC';
		$node->safe_psql('postgres', "ALTER DATABASE postgres SET timezone = '$zone'");
		my $closed = $stream eq 'closed' ? " WHERE upper(win) <= '" . watermark($node, 'closed') . "'" : '';
		my $late = $node->safe_psql('postgres', "SELECT rows_late FROM pg_stat_stream_agg WHERE stream = '$stream'");
		if ($late > 0)
		{
			# one partition was ahead of another: what came late is counted, and lacks
			is($node->safe_psql('postgres', "SELECT (SELECT sum(n) FROM ${stream}_query$closed) - (SELECT sum(n) FROM $stream)"),
				$late, "$when: $stream lacks its $late late records only");
		}
		else
		{
			is_equal_tables($node, "SELECT * FROM $stream", "SELECT * FROM ${stream}_query$closed",
				"$when: $stream equals its batch query");
		}
		counts_add_up($node, $stream, $produced, "$when: the records of $stream add up");
	}
	return;
}

produce(700);
process($node, 'per_user');
await_all();
check_tables('at first');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT pid), count(DISTINCT read_by), count(*) FROM pg_stat_stream_agg'),
	'1|1|5', 'one worker reads for all');
is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT reader, ',') FROM pg_stat_stream_agg}), 'events', 'by the name of its reader');
is($node->safe_psql('postgres', q{
	SELECT count(*) > 3, bool_and(streams = 5 AND transactions = 1 AND places = 1)
	  FROM (SELECT count(*) AS streams, count(DISTINCT xmin::text) AS transactions, count(DISTINCT offsets) AS places
	          FROM stream_agg.commits GROUP BY batch) b}),
	't|t', 'every batch of all of them is one transaction, at the same offsets');
is($node->safe_psql('postgres', q{
	SELECT bool_and(streams = 5 AND transactions = 1 AND plans = 1)
	  FROM (SELECT count(*) AS streams, count(DISTINCT xmin::text) AS transactions,
	               count(DISTINCT (ranges, batch_time)) AS plans
	          FROM stream_agg.offsets GROUP BY batch) b}),
	't', 'and so is its plan');

# One statement is one snapshot.
my ($reader, $seen) = start_reader($node,
	'SELECT ' . join(', ', map { "(SELECT coalesce(sum(n), 0) FROM $_)" } @agreeing), 20000);

my @failures = (
	['SIGKILL of the worker', sub { kill_backends($node, worker_pid($node, 'per_day')) }],
	['an ERROR in one of them', sub {
		$node->safe_psql('postgres', q{
			CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				-- the sequence remembers, whatever is rolled back
				IF nextval('failures') <= 2 THEN RAISE 'failing on purpose' USING ERRCODE = '40001'; END IF;
				RETURN NEW;
			END $$;
			CREATE SEQUENCE failures;
			CREATE TRIGGER fail_once BEFORE INSERT ON per_user FOR EACH STATEMENT EXECUTE FUNCTION fail_once()});
		produce(100);
		$node->poll_query_until('postgres', 'SELECT last_value > 2 FROM failures') or die 'no error';
		$node->safe_psql('postgres', 'DROP TRIGGER fail_once ON per_user; DROP SEQUENCE failures; DROP FUNCTION fail_once');
	}],
	['SIGKILL of a backend', sub { kill_backends($node, (start_backend($node))[1]) }],
	['an immediate stop', sub { $node->stop('immediate'); $node->start }],
	['pg_terminate_backend', sub {
		$node->safe_psql('postgres', 'SELECT pg_terminate_backend(' . worker_pid($node, 'closed') . ')') }]);
for my $failure (@failures)
{
	my ($name, $do) = @$failure;
	produce(600);
	$do->();
	produce(300);
	await_all();
	check_tables("after $name");
}
stop_reader($reader);

my ($snapshots, $torn, $back, $last) = (0, 0, 0, 0);
for (split /\n/, slurp_file($seen))
{
	my @sums = split /\|/;
	$snapshots++;
	$torn++ if grep { $_ != $sums[0] } @sums;
	$last = $sums[0];
}
cmp_ok($snapshots, '>', 20, "the reader took $snapshots snapshots");
is($torn, 0, 'the tables agree in every one of them');
is($node->safe_psql('postgres', q{
	SELECT bool_and(batches = last + 1), count(DISTINCT last) FROM (
		SELECT count(*) AS batches, max(batch) AS last FROM stream_agg.commits GROUP BY stream) s}),
	't|1', 'no batch of any of them is missing, none is more');
is($node->safe_psql('postgres', q{
	SELECT bool_and(streams = 5 AND transactions = 1)
	  FROM (SELECT count(*) AS streams, count(DISTINCT xmin::text) AS transactions
	          FROM stream_agg.commits GROUP BY batch) b}),
	't', 'all batches were of all of them');

# what the reader is told all of its streams say
like(($node->psql('postgres', q{SELECT stream_agg.alter_stream('per_day', trigger => '1 s', max_offsets_per_trigger => 200, options => '{"on_data_loss": "earliest"}')}))[2],
	qr/NOTICE:  streams that share reader "events" get the same settings: (?=.*closed)(?=.*in_all)(?=.*per_minute)(?=.*per_user)/,
	'alter_stream of one of them changes the settings of all');
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT (trigger_interval, max_offsets_per_trigger, options ->> 'on_data_loss')) FROM stream_agg.streams
	WHERE trigger_interval = '1 s' AND max_offsets_per_trigger = 200 AND options ->> 'on_data_loss' = 'earliest'}), '5|1', 'which they have');
produce(300);
await_all();
check_tables('after other settings');

done_testing();
