# Two sessions read the live view without pause while ten thousand windows
# close, and the worker dies now and then: in every snapshot each record that has
# been committed is in one window, each window in one place, and nothing falls.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $windows = 12_000;
my $batches = 30;
my $broker = start_broker(ticks => 3);
my $random = seeded_random();
my $node = new_node('concurrent', 'restart_after_crash = on', 'autovacuum_naptime = 1s');
create_source($node, $broker, 'ticks', 'ticks', 'ts timestamptz, k int');
$node->safe_psql('postgres', q{
	SELECT stream_agg.create_stream('per_second',
		$$ SELECT stream_agg.tumble(ts, '1 second') AS win, k, count(*) AS n FROM ticks GROUP BY 1, 2 $$,
		watermark => '5 minutes', output_mode => 'append', trigger => '20 days');
	SELECT stream_agg.create_live_view('per_second');
	CREATE TABLE reads (reader int, reads bigint, closings bigint);
	CREATE TABLE wrong (reader int, what text);
	CREATE TABLE stop ();

	CREATE FUNCTION look(reader int, INOUT sum_before bigint, INOUT windows_before bigint, OUT closed bigint)
	LANGUAGE plpgsql AS $$
	DECLARE
		r record;
	BEGIN
		-- one query, one snapshot
		SELECT (SELECT COALESCE(sum(n), 0) FROM per_second_live) AS total,
		       (SELECT COALESCE(max(c), 0) FROM (SELECT count(*) AS c FROM per_second_live GROUP BY win, k) x) AS places,
		       (SELECT count(DISTINCT win) FROM per_second_live) AS windows,
		       (SELECT count(DISTINCT win) FROM per_second) AS closed,
		       (SELECT COALESCE(max(total_aggregated), 0) FROM stream_agg.commits) AS aggregated INTO r;
		IF r.total <> r.aggregated THEN
			INSERT INTO wrong VALUES (reader, format('%s records in windows, %s in the commits', r.total, r.aggregated));
		END IF;
		IF r.places > 1 THEN
			INSERT INTO wrong VALUES (reader, format('a window is there %s times', r.places));
		END IF;
		IF r.total < sum_before OR r.windows < windows_before THEN
			INSERT INTO wrong VALUES (reader, format('%s records in %s windows after %s in %s', r.total, r.windows, sum_before, windows_before));
		END IF;
		sum_before := r.total;
		windows_before := r.windows;
		closed := r.closed;
	END $$;

	CREATE PROCEDURE read_on(reader int) LANGUAGE plpgsql AS $$
	DECLARE
		total bigint := 0;
		windows bigint := 0;
		closed bigint;
		last bigint := 0;
		closings bigint := 0;
		reads bigint := 0;
	BEGIN
		WHILE to_regclass('stop') IS NOT NULL LOOP
			SELECT * FROM look(reader, total, windows) INTO total, windows, closed;
			closings := closings + (closed > last)::int;
			last := closed;
			reads := reads + 1;
			COMMIT;
		END LOOP;
		INSERT INTO reads VALUES (reader, reads, closings);
	END $$});

my $deaths = 0;
my @readers = map {
	IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', "CALL read_on($_)" ],
		'>', \my $out, '2>', \my $error) } 1, 2;

# each batch moves event time on by its share of the windows; records come in
# any order within what the watermark allows
my $second = 0;
my $produced = 0;
for my $batch (1 .. $batches)
{
	my $share = $windows / $batches;
	my @records = map { my $s = $second + $_ + $share - ($_ % 7 ? 0 : $random->(200));
		[ $random->(3), '', json_record({ ts => (1767225600 + $s) * 1000, k => $random->(2) }, numbers => [qw(ts k)]) ] } 1 .. $share;
	$second += $share;
	$produced += @records;
	$broker->produce('ticks', @records);
	process($node, 'per_second');
	# the state is then restored from the log, by the next worker as by readers
	if ($batch % 9 == 0)
	{
		my $pid = worker_pid($node, 'per_second');
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
		$node->poll_query_until('postgres', "SELECT pid <> $pid FROM pg_stat_stream_agg WHERE pid IS NOT NULL") or die 'no other worker';
		$deaths++;
	}
}
# a record far ahead closes what is open
$broker->produce('ticks', [ 0, '', json_record({ ts => (1767225600 + $second + 100_000) * 1000, k => 0 }, numbers => [qw(ts k)]) ]);
$produced++;
process($node, 'per_second');
$node->safe_psql('postgres', 'DROP TABLE stop');
$_->finish for @readers;

is($node->safe_psql('postgres', 'SELECT * FROM wrong LIMIT 5'), '', 'no window missing, none twice, nothing falls');
cmp_ok($node->safe_psql('postgres', 'SELECT count(DISTINCT win) FROM per_second'), '>=', 10_000,
	'ten thousand windows have closed');
is($node->safe_psql('postgres', 'SELECT count(*) FROM reads WHERE reads > 10 AND closings > 2'), 2, 'both readers have seen them close');
note($node->safe_psql('postgres', 'SELECT * FROM reads') . ", $deaths workers ended");
is($node->safe_psql('postgres', q{SELECT sum(n) FROM per_second_live}),
	$node->safe_psql('postgres', 'SELECT total_aggregated FROM stream_agg.commits ORDER BY batch DESC LIMIT 1'), 'in the end all of them are there');
is($node->safe_psql('postgres', q{SELECT rows_in - rows_late FROM pg_stat_stream_agg}),
	$node->safe_psql('postgres', 'SELECT sum(n) FROM per_second_live'), 'none but late ones are not');
is_equal_tables($node, 'SELECT * FROM per_second_live', 'SELECT * FROM per_second_query', 'the batch query says the same')
  if $node->safe_psql('postgres', 'SELECT rows_late FROM pg_stat_stream_agg') eq '0';
$node->stop;
done_testing();
