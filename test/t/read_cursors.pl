# A function that a query calls may leave a cursor open over the query's source.
# When the micro-batch or the repair is over, the cursor reads nothing: its next row
# is an error, wherever it is fetched, and the server goes on.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(src => 1, timed => 1, other => 1);
my $node = new_node('cursors', 'restart_after_crash = on', 'stream_agg.max_attempts = 3', "stream_agg.max_retry_delay = '100ms'");
my $over = qr/cursor over source "\w+" reads a micro-batch that is over/;
my $repaired = qr/cursor over source "\w+" reads what was read for a repair that is over/;
my $seen = 0;                    # bytes of the log

# what a call of leave() leaves open; and is it fetched by triggers of sinks and
# functions of results?
$node->safe_psql('postgres', q{
	CREATE TABLE plan (leaves text, fetches bool);
	INSERT INTO plan VALUES (NULL, false);
	CREATE FUNCTION leave_open(source text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		leaves text := (SELECT p.leaves FROM plan p);
		c refcursor := 'leftover';
		r record;
	BEGIN
		IF leaves IS NULL OR EXISTS (SELECT FROM pg_cursors WHERE name = 'leftover') THEN RETURN; END IF;
		IF leaves = 'hold' THEN
			EXECUTE format('DECLARE leftover CURSOR WITH HOLD FOR SELECT * FROM %s', source);
		ELSIF leaves = 'set' THEN
			EXECUTE format('DECLARE leftover CURSOR WITH HOLD FOR SELECT v, generate_series(1, 3) FROM %s', source);
		ELSE
			OPEN c NO SCROLL FOR EXECUTE format('SELECT * FROM %s', source);
		END IF;
		FETCH c INTO r;
	END $$;
	CREATE FUNCTION leave(k int, source text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN PERFORM leave_open(source); RETURN k; END $$;
	CREATE FUNCTION fetch_leftover() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		c refcursor := 'leftover';
		r record;
	BEGIN
		IF NOT (SELECT fetches FROM plan) OR NOT EXISTS (SELECT FROM pg_cursors WHERE name = 'leftover') THEN RETURN; END IF;
		LOOP FETCH c INTO r; EXIT WHEN NOT FOUND; END LOOP;
	END $$;
	CREATE FUNCTION fetching(n bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
	BEGIN PERFORM fetch_leftover(); RETURN n; END $$;
	CREATE FUNCTION fetch_in_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN PERFORM fetch_leftover(); RETURN NULL; END $$});
create_source($node, $broker, 'src', 'src', 'k int, v text');
create_source($node, $broker, 'timed', 'timed', 'ts timestamptz, k int');

sub sql { return $node->safe_psql('postgres', shift); }

# plan(what is left open, is it fetched?)
sub plan_for
{
	my ($leaves, $fetches) = @_;
	await_server($node);
	sql('UPDATE plan SET leaves = ' . ($leaves ? "'$leaves'" : 'NULL') . ', fetches = ' . ($fetches ? 'true' : 'false'));
	return;
}

# what a session says that runs these statements, errors or not
sub said
{
	my $sql = shift;
	my ($status, $out, $err) = $node->psql('postgres', $sql, on_error_stop => 0);
	return "$out\n$err";
}

my $produced = 0;
sub produce
{
	my $n = shift;
	$broker->produce('src', map { $produced++; [ 0, '', sprintf('{"k": %d, "v": "%s"}', $produced % 7, ('x' x 900) . $produced) ] } 1 .. $n);
	return;
}

# No process has crashed since the last call.
sub survives
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	await_server($node);
	my $log = slurp_file($node->logfile);
	unlike(substr($log, $seen), qr/terminated by signal/, 'no process has crashed');
	$seen = length $log;
	return;
}

# Streams go on, also those that have failed, and have all records.
sub go_on
{
	my @streams = @_;
	my $list = join(', ', map { "'$_'" } @streams);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	plan_for(undef, 0);
	sql("SELECT stream_agg.start_stream(stream) FROM pg_stat_stream_agg WHERE stream IN ($list) AND state IN ('failed', 'stopped')");
	produce(10);
	ok($node->poll_query_until('postgres', "SELECT count(*) = @{[scalar @streams]} FROM pg_stat_stream_agg WHERE stream IN ($list) AND rows_in = $produced"),
		'the streams go on')
	  or diag(sql('SELECT stream, state, rows_in, last_error FROM pg_stat_stream_agg'));
	is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "$_ equals its batch query") for @streams;
	return;
}

my $query = q{SELECT leave(k, 'src') AS k, count(*) AS n, max(v) AS last FROM src GROUP BY 1};

produce(2000);
sql("SELECT stream_agg.create_stream('tried', \$q\$$query\$q\$, output_mode => 'update', start => false);
	CREATE TRIGGER fetching AFTER INSERT OR UPDATE ON tried FOR EACH STATEMENT EXECUTE FUNCTION fetch_in_trigger()");

for my $kind ('plain', 'hold', 'set')
{
	subtest "a cursor ($kind) that the query of a preview leaves open is over when the sink is written" => sub {
		plan_for($kind, 1);
		for my $round (1 .. 3)
		{
			# a smaller one than a batch is fetched from other memory
			my $said = said("SELECT count(*) FROM stream_agg.preview('tried', " . [ 'NULL', 50, 1500 ]->[ $round - 1 ] . '); SELECT count(*) AS open FROM pg_cursors');
			like($said, $over, "round $round: an error");
			like($said, qr/^0$/m, 'and no cursor is left');
		}
		plan_for($kind, 0);
		like(said("SELECT count(*) FROM stream_agg.preview('tried'); SELECT count(*) FROM stream_agg.preview('tried')"), qr/^7\n7$/m, 'no error if nobody fetches');
		survives();
	};
}

$broker->produce('timed', map { [ 0, '', sprintf('{"ts": %d, "k": %d}', 1767225600000 + $_, $_ % 5) ] } 1 .. 2000);
for my $kind ('plain', 'hold')
{
	subtest "a cursor ($kind) that the text of a query leaves open is over when open windows are shown" => sub {
		my $text = "SELECT stream_agg.tumble(ts, '1 minute') AS win, leave(k, 'timed') AS k, fetching(count(*)) AS n FROM timed GROUP BY 1, 2";
		plan_for($kind, 1);
		like(said("SELECT * FROM stream_agg.preview(\$q\$$text\$q\$, NULL, watermark => '1 hour')"), $over, 'an error') for 1 .. 2;
		survives();
	};
}

subtest 'streams go on over cursors that are left open in their worker' => sub {
	plan_for('plain', 0);
	sql("SELECT stream_agg.start_stream('tried')");
	produce(100);
	process($node, 'tried');
	plan_for('plain', 1);
	produce(100);
	ok($node->poll_query_until('postgres', q{SELECT last_error ~ 'reads a micro-batch that is over' FROM pg_stat_stream_agg WHERE stream = 'tried'}),
		'a cursor that its trigger fetches is the error of the stream');
	survives();
	go_on('tried');
	for my $kind ('plain', 'hold', 'set')
	{
		plan_for($kind, 0);
		produce(100);
		ok($node->poll_query_until('postgres', "SELECT rows_in = $produced FROM pg_stat_stream_agg WHERE stream = 'tried'"),
			"$kind: one that nobody fetches is closed with its batch");
	}
	survives();
	go_on('tried');
};

subtest 'streams that share a reader go on over cursors that are left open' => sub {
	plan_for(undef, 0);
	sql("BEGIN; SELECT stream_agg.create_stream('$_', \$q\$" . ($_ eq 'sane' ? $query =~ s/leave\(k, 'src'\)/k/r : $query)
		. "\$q\$, output_mode => 'update', reader => 'src', trigger => '0'); COMMIT") for 'sane', 'shared';
	ok($node->poll_query_until('postgres', "SELECT count(*) = 2 FROM pg_stat_stream_agg WHERE stream IN ('sane', 'shared') AND rows_in = $produced"), 'they run');
	for my $kind ('plain', 'hold', 'set')
	{
		plan_for($kind, 0);
		for (1 .. 2)
		{
			produce(500);
			ok($node->poll_query_until('postgres', "SELECT count(*) = 2 FROM pg_stat_stream_agg WHERE stream IN ('sane', 'shared') AND rows_in = $produced"),
				"$kind: both commit");
		}
		survives();
	}
	my $errors = () = slurp_file($node->logfile) =~ /ERROR: .*$over\n(?:.*\n){2}.*stream "(?:sane|shared)"/g;
	is($errors, 0, 'without an error');
	go_on('sane', 'shared');
};

subtest 'a cursor that a repair leaves open is over when the repair is' => sub {
	plan_for(undef, 0);
	my $base = 1767225600000;
	create_source($node, $broker, 'late', 'other', 'ts timestamptz, k int');
	sql(q{SELECT stream_agg.create_stream('repaired', $$SELECT stream_agg.tumble(ts, '1 minute') AS win, leave(k, 'late') AS k, count(*) AS n FROM late GROUP BY 1, 2$$,
		watermark => '1 minute', trigger => '20 days', options => '{"late_records": true, "on_error": "dead_letter"}')});
	process($node, 'repaired');
	for my $minutes (0, 10, 0, 20)
	{
		$broker->produce('other', (map { [ 0, '', sprintf('{"ts": %d, "k": %d}', $base + $minutes * 60000 + $_, $_ % 5) ] } 1 .. 200), [ 0, '', 'broken' ]);
		process($node, 'repaired');
	}
	plan_for('plain', 0);
	my $repair = q{SELECT count(*) FROM stream_agg.repair_late('repaired') WHERE repaired};
	for my $then ('FETCH 5 FROM leftover', 'FETCH 1000 FROM leftover', 'MOVE ALL FROM leftover')
	{
		like(said("BEGIN; $repair; SELECT 'open: ' || count(*) FROM pg_cursors WHERE name = 'leftover'; $then; ROLLBACK"), qr/1\nopen: 1\n.*$repaired/s, "$then: an error");
	}
	unlike(said("BEGIN; $repair; CLOSE leftover; ROLLBACK"), qr/ERROR/, 'it can be closed');
	plan_for('hold', 0);
	like(said("BEGIN; $repair; COMMIT"), $repaired, 'with hold: an error of COMMIT');
	plan_for('plain', 0);
	unlike(said("BEGIN; $repair; COMMIT"), qr/ERROR/, 'a plain one ends with the transaction, which commits');
	is(sql('SELECT sum(n) FROM repaired'), 600, 'the windows are repaired');
	survives();
};

done_testing();
