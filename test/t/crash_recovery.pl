# Crashes at any moment: nothing is lost, nothing is counted twice, a retried
# batch runs the same plan, and readers never see a step back.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 4);
my $node = new_node('crash', 'restart_after_crash = on', 'stream_agg.keep_batches = 1000000');
my $rng = seeded_random();

create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');
$node->safe_psql('postgres', q{
	CREATE TABLE failing (on_purpose bool);
	-- slow enough to be hit in the middle of a batch, and failing on demand
	CREATE FUNCTION slowly(int) RETURNS int STABLE LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_sleep(0.0005);
		IF $1 % 17 = 0 AND EXISTS (SELECT FROM failing) THEN
			RAISE 'failing on purpose';
		END IF;
		RETURN $1;
	END $$;
	SELECT stream_agg.create_stream('counted',
		'SELECT k, count(*) AS n, sum(slowly(v)) AS total FROM events GROUP BY k',
		output_mode => 'update', trigger => '0', max_offsets_per_trigger => 100);
	SELECT stream_agg.create_stream('windowed',
		$q$ SELECT stream_agg.tumble(ts, '10 seconds') AS win, k, count(*) AS n, sum(slowly(v)) AS total
		      FROM events GROUP BY 1, 2 $q$,
		output_mode => 'append', watermark => '5 seconds', trigger => '0', max_offsets_per_trigger => 100);
	SELECT stream_agg.create_stream('completed',
		'SELECT k, v % 10 AS m, count(*) AS n, sum(slowly(v)) AS total FROM events GROUP BY 1, 2',
		output_mode => 'complete', trigger => '0', max_offsets_per_trigger => 100)});
my @streams = ('counted', 'windowed', 'completed');

# Records in the order of their times in each partition, 100 records a second:
# none is late for a watermark of 5 s while batches are taken evenly.
my $produced = 0;

sub produce
{
	my $n = shift;
	my @records;
	for (1 .. $n)
	{
		my $second = int($produced / 100);
		my $ts = sprintf('2026-01-01T%02d:%02d:%02d.%03dZ', int($second / 3600), int($second / 60) % 60,
			$second % 60, ($produced % 100) * 10);
		push @records, [ $produced % 4, '',
			json_record({ ts => $ts, k => $rng->(20), v => $rng->(1000) }, numbers => [qw(k v)]) ];
		$produced++;
	}
	$broker->produce('events', @records);
	return;
}

# A reader that polls throughout.  Plans are committed without waiting for the
# disk, so one that is seen can be lost in a crash; the message, whose commit
# does wait, comes after the snapshot and makes all that it showed durable.
my $poll = q{
	SELECT (SELECT COALESCE(sum(n), 0) FROM counted),
	       (SELECT count(*) FROM windowed),
	       (SELECT COALESCE(sum(n), 0) FROM completed),
	       (SELECT count(*) FROM completed),
	       COALESCE((SELECT total_rows_out FROM stream_agg.commits WHERE stream = 'windowed' ORDER BY batch DESC LIMIT 1), 0),
	       (SELECT string_agg(concat_ws('/', stream, batch, md5(concat_ws(' ', ranges, watermark, batch_time))), ' ')
	          FROM (SELECT * FROM stream_agg.offsets ORDER BY batch DESC LIMIT 8) o);
	SELECT pg_logical_emit_message(true, 'reader', '') IS NULL};
my ($reader, $seen) = start_reader($node, $poll, 20_000);

sub check_all
{
	my $what = shift;
	for my $stream (@streams)
	{
		await_server($node);
		process($node, $stream);
		my $where = $stream eq 'windowed' ? "upper(win) <= '" . watermark($node, $stream) . "'" : 'true';
		is_equal_tables($node, "SELECT * FROM $stream",
			"SELECT * FROM (SELECT * FROM ${stream}_query) q WHERE $where", "$what: $stream equals the batch query");
		counts_add_up($node, $stream, $produced, "$what: $stream has counted every record once");
	}
	return;
}

sub wait_for_progress
{
	my $n = shift;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 3 FROM (SELECT stream FROM stream_agg.commits GROUP BY stream HAVING max(batch) >= $n) x")
	  or die 'no progress';
	return;
}

sub last_batch
{
	return $node->safe_psql('postgres',
		'SELECT COALESCE(min(b), 0) FROM (SELECT max(batch) AS b FROM stream_agg.commits GROUP BY stream) x');
}

my %crash = (
	'SIGKILL of a worker' => sub {
		kill_backends($node, worker_pid($node, $streams[ $rng->(scalar @streams) ]));
	},
	'SIGKILL of another backend' => sub {
		my ($victim, $pid) = start_backend($node);
		kill_backends($node, $pid);
		$victim->finish;
	},
	'immediate stop' => sub {
		$node->stop('immediate');
		$node->start;
	},
	'ERROR inside the query' => sub {
		$node->safe_psql('postgres', 'INSERT INTO failing VALUES (true)');
		produce(200);    # of which there is a batch that sees the row
		wait_state($node, $streams[0], 'retrying', 'failing on purpose');
		$node->safe_psql('postgres', 'TRUNCATE failing');
	},
	'termination of a worker' => sub {
		$node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM pg_stat_stream_agg WHERE pid IS NOT NULL');
	});

for my $name (sort keys %crash)
{
	my $before = last_batch();
	produce(800);
	wait_for_progress($before + 1 + $rng->(3));
	$crash{$name}->();
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
	check_all($name);
}

stop_reader($reader);

# what the reader saw
my ($fell, $apart, $replanned, $snapshots) = (0, 0, 0, 0);
my @last = (0, 0, 0, 0);
my %plan;
for my $line (split /\n/, slurp_file($seen))
{
	my (@counts) = split /\|/, $line;
	my $plans = pop @counts;
	my $total = pop @counts;
	$snapshots++;
	$fell++ if grep { $counts[$_] < $last[$_] } 0 .. $#last;
	$apart++ if $counts[1] != $total;
	@last = @counts;
	for (split / /, $plans // '')
	{
		my ($stream, $batch, $hash) = split m{/};
		$replanned++ if defined $plan{"$stream $batch"} && $plan{"$stream $batch"} ne $hash;
		$plan{"$stream $batch"} = $hash;
	}
}
cmp_ok($snapshots, '>', 20, 'the reader has looked often');
is($fell, 0, 'no count ever fell');
is($apart, 0, 'rows of the append sink equal the cumulative rows out in every snapshot');
is($replanned, 0, 'a retried batch ran the same plan');

is($node->safe_psql('postgres', q{
		SELECT count(*) FROM (
			SELECT *, lag(watermark) OVER w AS last_watermark, lag(batch) OVER w AS last_batch,
			       lag(offsets) OVER w AS last_offsets
			  FROM stream_agg.commits WINDOW w AS (PARTITION BY stream ORDER BY batch)) x
		 WHERE watermark < last_watermark OR batch <> last_batch + 1
		    OR EXISTS (SELECT FROM jsonb_each_text(last_offsets) before
		                WHERE before.value::bigint > (offsets ->> before.key)::bigint)}),
	0, 'offsets and watermark never went back');
is($node->safe_psql('postgres', q{
		SELECT count(*) FROM stream_agg.commits c JOIN stream_agg.offsets o USING (stream, batch)
		 WHERE EXISTS (SELECT FROM jsonb_each(o.ranges) r WHERE (r.value ->> 1)::bigint <> (c.offsets ->> r.key)::bigint)}),
	0, 'every commit ends where its plan ends');

done_testing();
