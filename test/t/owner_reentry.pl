# Code of a stream's owner runs in the middle of an operation and calls stream_agg
# again: the outer operation goes on as if nothing had been, whether the inner one
# works or fails.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1, shared => 1);
my $node = new_node('reentry', 'timezone = UTC', 'log_statement = none', 'stream_agg.max_attempts = 1',
	'stream_agg.max_crashes = 1');

sub sql { return $node->safe_psql('postgres', shift); }

# What a session says; it may crash.
sub session
{
	my ($status, $out, $err) = $node->psql('postgres', shift);
	diag($err) if $status != 0;
	$node->poll_query_until('postgres', 'SELECT true') if $status == 2;
	return $out;
}

# seconds 0 to 99, ten records each; then some of the first minute, which are late
my @records = map { sprintf('{"ts": "2026-01-01T00:%02d:%02dZ", "v": %d}', 10 + int($_ / 600), int($_ / 10) % 60, $_) } 0 .. 999;
push @records, map { sprintf('{"ts": "2026-01-01T00:00:%02dZ", "v": %d}', $_, 1000 + $_) } 0 .. 9;
$broker->produce('events', @records);
create_source($node, $broker, 'events', 'events', 'ts timestamptz, v bigint');
my $records = @records;

sql(q{
	CREATE TABLE failing (now boolean); INSERT INTO failing VALUES (true);
	CREATE TABLE told (what text, n bigint);
	CREATE FUNCTION fails(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
		IF $1 % 50 = 9 AND (SELECT now FROM failing) THEN RAISE EXCEPTION 'it fails'; END IF;
		RETURN $1; END $$;
	-- uses memory that was freed before
	CREATE FUNCTION counted(depth int DEFAULT 25) RETURNS bigint LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN
		IF depth = 0 THEN SELECT count(*) INTO n FROM events; RETURN n; END IF;
		EXECUTE '/*' || repeat('A', 900) || '*/ SELECT counted(' || depth - 1 || ')' INTO n; RETURN n; END $$;
	CREATE FUNCTION tried(call text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN
		EXECUTE 'SELECT count(*) FROM ' || call INTO n;
		RETURN 'worked'; EXCEPTION WHEN OTHERS THEN RETURN SQLERRM; END $$;
	CREATE FUNCTION note(text) RETURNS void LANGUAGE sql AS 'INSERT INTO told VALUES ($1)';
	SELECT stream_agg.create_stream('failing_query', $q$SELECT stream_agg.tumble_start(ts, '1 second') AS win, sum(fails(v)) AS n
		FROM events GROUP BY 1$q$, watermark => '0 seconds', trigger => '20 days', start => false)});

sub late_stream
{
	my ($name, $value) = @_;
	sql("SELECT stream_agg.create_stream('$name', \$q\$SELECT stream_agg.tumble(ts, '1 second') AS win, sum($value) AS n, count(*) AS records
		FROM events GROUP BY 1\$q\$, watermark => '0 seconds', trigger => '20 days', max_offsets_per_trigger => 500,
		options => '{\"late_records\": true}')");
	return;
}

sub right
{
	my ($name, $query, $sink) = @_;
	return is_equal_tables($node, "SELECT * FROM ${sink}_query WHERE upper(win) <= (SELECT watermark FROM pg_stat_stream_agg WHERE stream = '$sink')",
		"SELECT * FROM $sink", $name);
}

subtest 'C3: a trigger of the sink calls preview, which fails' => sub {
	late_stream('written', 'v');
	sql(q{CREATE FUNCTION preview_fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO told VALUES (tried('stream_agg.preview(''failing_query'', 1000)'), counted());
			RETURN NULL; END $$;
		CREATE TRIGGER t AFTER INSERT ON written FOR EACH STATEMENT EXECUTE FUNCTION preview_fails()});
	session(q{SELECT * FROM stream_agg.process_available('written', '20 seconds')});
	is(sql('SELECT DISTINCT what, n FROM told'), "it fails|$records", 'it sees all records, and so does the code after it');
	is(sql(q{SELECT state, last_error FROM pg_stat_stream_agg WHERE stream = 'written'}), 'running|', 'the stream runs');
	sql(q{DROP TRIGGER t ON written});
};

subtest 'C3: repair_late works, then another one and preview fail' => sub {
	sql('UPDATE failing SET now = false');
	late_stream('repaired', 'fails(v)');
	process($node, 'repaired');
	process($node, 'written');
	sql('UPDATE failing SET now = true');
	my $out = session(q{BEGIN;
		SELECT count(*) FROM stream_agg.repair_late('written');
		SELECT counted();
		SELECT tried('stream_agg.repair_late(''repaired'')');
		SELECT counted();
		SELECT tried('stream_agg.preview(''failing_query'', 1000)');
		SELECT counted();
		COMMIT;
		SELECT counted()});
	is($out, join("\n", 10, $records, 'it fails', $records, 'it fails', $records, $records), 'scans read all there is');
};

subtest 'C3: the query of a stream calls preview, and repair_late of another stream' => sub {
	sql(q{UPDATE failing SET now = false; TRUNCATE told;
		CREATE SEQUENCE calls;
		CREATE FUNCTION calls(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
			IF $1 % 100 = 50 THEN
				PERFORM nextval('calls');
				PERFORM note(tried('stream_agg.preview(''failing_query'', 100)'));
				PERFORM note(tried('stream_agg.repair_late(''repaired'')'));
			END IF;
			RETURN $1; END $$});
	late_stream('calling', 'calls(v)');
	process($node, 'calling');
	is(sql(q{SELECT state, last_error FROM pg_stat_stream_agg WHERE stream = 'calling'}), 'running|', 'the stream runs');
	is(sql('SELECT DISTINCT what FROM told'), 'worked', 'what it calls works');
	cmp_ok(sql('SELECT last_value FROM calls'), '>=', 10, 'it has called');
	is(sql(q{SELECT sum(records) FROM calling}), 990, 'every record but those of the last window and the late ones was counted once');
	is(session(q{SELECT count(*) FROM stream_agg.repair_late('calling')}), 10, 'its windows are repaired, and the query calls again');
	right('every window is right', undef, 'calling');
};

subtest 'C3: with a shared reader, a trigger previews as many records' => sub {
	create_source($node, $broker, 'shared', 'shared', 'ts timestamptz, v char(10)');
	sql(q{CREATE TABLE first_sink (win timestamptz, n bigint); CREATE TABLE second_sink (win timestamptz, n bigint, s bigint);
		CREATE FUNCTION preview_third() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			PERFORM FROM stream_agg.preview('third', 5000); RETURN NULL; END $$;
		CREATE TRIGGER t AFTER INSERT ON first_sink FOR EACH STATEMENT EXECUTE FUNCTION preview_third();
		SELECT stream_agg.create_stream('third', $q$SELECT stream_agg.tumble_start(ts, '1 second') AS win, sum(trim(v)::bigint) AS s FROM shared GROUP BY 1$q$,
			watermark => '0 seconds', start => false);
		BEGIN;
		SELECT stream_agg.create_stream('first', $q$SELECT stream_agg.tumble_start(ts, '1 second') AS win, count(*) AS n FROM shared GROUP BY 1$q$,
			watermark => '0 seconds', sink => 'first_sink', trigger => '0', max_offsets_per_trigger => 500, reader => 'both', output_mode => 'append');
		SELECT stream_agg.create_stream('second', $q$SELECT stream_agg.tumble_start(ts, '1 second') AS win, count(*) AS n, sum(trim(v)::bigint) AS s FROM shared GROUP BY 1$q$,
			watermark => '0 seconds', sink => 'second_sink', trigger => '0', max_offsets_per_trigger => 500, reader => 'both', output_mode => 'append');
		COMMIT});
	$broker->produce('shared', map { sprintf('{"ts": "2026-01-01T00:00:%02dZ", "v": "%d"}', int($_ / 100), $_) } 0 .. 4999);
	$node->poll_query_until('postgres', q{SELECT bool_and(rows_in = 5000 OR state <> 'running') AND min(rows_in) > 0
		FROM pg_stat_stream_agg WHERE stream IN ('first', 'second')});
	is(sql(q{SELECT stream, state, rows_in, last_error FROM pg_stat_stream_agg WHERE stream IN ('first', 'second') ORDER BY 1}),
		"first|running|5000|\nsecond|running|5000|", 'both streams have processed all of it');
	is_equal_tables($node, q{SELECT * FROM second_query WHERE win < '2026-01-01 00:00:49Z'}, 'SELECT * FROM second_sink', 'the other stream has its own rows');
};

subtest 'C3: code that runs while a state is restored closes the cursor over it' => sub {
	sql(q{CREATE TABLE closing (now boolean); INSERT INTO closing VALUES (false); TRUNCATE told;
		CREATE FUNCTION close_all(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ DECLARE name text; c refcursor; BEGIN
			IF (SELECT now FROM closing) AND (SELECT count(*) FROM told) = 0 THEN
				FOR name IN SELECT p.name FROM pg_cursors p LOOP
					BEGIN c := name; CLOSE c; PERFORM note('closed ' || name);
					EXCEPTION WHEN OTHERS THEN PERFORM note(SQLERRM); END;
				END LOOP;
			END IF;
			RETURN true; END $$;
		CREATE DOMAIN closer AS text CHECK (close_all(VALUE));
		CREATE TYPE closers AS (x closer, y int);
		SELECT stream_agg.create_stream('open', $q$SELECT stream_agg.tumble(ts, '1 hour') AS win, row('x' || v, 1)::closers AS k, count(*) AS n
			FROM events GROUP BY 1, 2$q$, watermark => '0 seconds', trigger => '20 days')});
	process($node, 'open');
	sql('UPDATE closing SET now = true');
	is(session(q{SELECT count(*) FROM stream_agg.open_windows(NULL::open)}), $records, 'all windows are there');
	is(sql(q{SELECT bool_or(what ~ '^cannot drop (pinned|active) portal'), bool_or(what ~ '^closed') FROM told}), 't|f', 'and the cursor was not closed');
};

done_testing();
