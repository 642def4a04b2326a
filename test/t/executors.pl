# Executors: micro-batches of a stream whose partitions are dealt to several
# processes give the same table as one process does, whatever the query, and
# whatever becomes of the processes.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $partitions = 6;
my $broker = start_broker(events => $partitions, one => 1);
my $node = new_node('executors', 'restart_after_crash = on', 'max_worker_processes = 60', "timezone = 'UTC'",
	"stream_agg.max_retry_delay = '50ms'", 'stream_agg.keep_batches = 1000000');
my $rng = seeded_random();
my $columns = 'ts timestamptz, k int, v int, t text';
create_source($node, $broker, 'events', 'events', $columns);
create_source($node, $broker, 'one', 'one', $columns);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# records of a second of event time each, in random order within ten seconds
my $second = 0;

sub produce
{
	my $n = shift;
	my @records;
	for (1 .. $n)
	{
		my $at = $second++ / 10 - $rng->(10);
		$at = 0 if $at < 0;
		my $k = $rng->(20);
		my $record = {
			ts => sprintf('2026-01-01T%02d:%02d:%02d.%03dZ', int($at / 3600) % 24, int($at / 60) % 60, $at % 60, $rng->(1000)),
			k => $k, v => $rng->(1000), t => 'text ' . $rng->(50) };
		push @records, [ $k % $partitions, '', json_record($record, numbers => [qw(k v)]) ];
	}
	$broker->produce('events', @records);
	return;
}

sub create
{
	my ($name, $query, $executors, $more) = @_;
	sql("SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$, trigger => '0', $more options => '{\"executors\": $executors}')");
	return;
}

sub available { sql("SELECT * FROM stream_agg.process_available('$_', '1 minute')") for @_; return; }

sub processes
{
	my $stream = shift;
	return sql("SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'stream_agg executor' AND application_name = 'stream_agg ' || '$stream'::regclass::oid");
}

produce(3000);

subtest 'a stream has a process for each executor, and each reads partitions of its own' => sub {
	my $query = q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n, sum(v) AS total, avg(v) AS mean, min(t) AS least FROM events GROUP BY 1, 2};
	create($_, $query, $_ eq 'three' ? 3 : 1, "watermark => '10 minutes', output_mode => 'update',") for 'single', 'three';
	available('single', 'three');
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'stream_agg executor'}), 2, 'executors besides the worker');
	is(sql(q{SELECT (SELECT count(*) FROM ((TABLE single EXCEPT TABLE three) UNION ALL (TABLE three EXCEPT TABLE single)) d), count(*) > 20 FROM three}),
		'0|t', 'the tables are equal');
	is(sql(q{SELECT dealt FROM stream_agg.offsets WHERE stream = 'three' ORDER BY batch LIMIT 1}),
		'{"1": 1, "2": 2, "4": 1, "5": 2}', 'the plan says who reads what');
	is(sql(q{SELECT count(*) FROM stream_agg.commits WHERE delivered <> aggregated + late + null_time + dead_lettered + filtered}), 0, 'counts add up');
};

# Differences of two tables, both ways.
sub differences
{
	my ($first, $second, $columns) = @_;
	$columns //= '*';
	return sql("SELECT count(*) FROM ((SELECT $columns FROM $first EXCEPT ALL SELECT $columns FROM $second)
		UNION ALL (SELECT $columns FROM $second EXCEPT ALL SELECT $columns FROM $first)) d");
}

sub executors { return split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'stream_agg executor' ORDER BY pid}); }

subtest 'tables of three executors are those of one, for all kinds of windows, aggregates and modes' => sub {
	# records of a key are in one partition, so that their order is known
	my $win = "stream_agg.tumble(ts, '30 seconds')";
	my %queries = (
		inputs => [ "SELECT $win AS win, k, array_agg(v) AS vs, string_agg(t, ',') AS ts, array_agg(DISTINCT v % 7) AS few, percentile_disc(0.5) WITHIN GROUP (ORDER BY v) AS mid FROM events GROUP BY 1, 2", 'update' ],
		states => [ "SELECT $win AS win, k, count(*) AS n, sum(v::numeric) AS s, avg(v::bigint) AS a, stddev(v) AS d, max(t) AS m, bool_and(v > 3) AS b, bit_xor(v) AS x,
			stream_agg.first(v, ts) AS f, stream_agg.last(t, ts) AS l, count(*) FILTER (WHERE v % 2 = 0) AS e FROM events GROUP BY 1, 2", 'append' ],
		across => [ "SELECT $win AS win, count(*) AS n, count(DISTINCT t) AS d, sum(v) AS s, max(v) AS m FROM events GROUP BY 1", 'append' ],
		none => [ 'SELECT k, count(*) AS n, sum(v) AS s FROM events GROUP BY k HAVING count(*) % 3 > 0', 'complete' ],
		one_row => [ 'SELECT count(*) AS n, sum(v) AS s FROM events', 'update' ],
		panes => [ "SELECT stream_agg.hop(ts, '10 seconds', '25 seconds') AS win, k, count(*) AS n, sum(v) AS s FROM events GROUP BY 1, 2", 'append' ],
		sessions => [ "SELECT stream_agg.session(ts, '2 seconds') AS win, k, count(*) AS n, sum(v) AS s, array_agg(DISTINCT v) AS vs FROM events GROUP BY 1, 2", 'append' ],
		sessions_across => [ "SELECT stream_agg.session(ts, '400 ms') AS win, count(*) AS n, sum(v) AS s FROM events GROUP BY 1", 'update' ],
		calendar => [ "SELECT date_trunc('minute', ts) AS win, k, count(*) AS n FROM events GROUP BY 1, 2", 'append' ],
		rows => [ "SELECT ts, k, upper(t) AS t, v FROM events WHERE v % 3 = 0", 'append' ]);
	my @names = sort keys %queries;
	for my $name (@names)
	{
		my ($query, $mode) = @{ $queries{$name} };
		my $watermark = $query !~ /AS win/ ? '' : "watermark => '20 seconds', ";
		create("${name}_$_", $query, $_, "output_mode => '$mode', max_offsets_per_trigger => 700, $watermark") for 1, 3;
	}
	my @streams = map { ("${_}_1", "${_}_3") } @names;
	available(@streams);
	for (1 .. 2)
	{
		produce(1500);
		available(@streams);
	}
	is(differences("${_}_1", "${_}_3"), 0, $_) for @names;
	is(sql(q{SELECT string_agg(DISTINCT stream, ',') FROM stream_agg.streams s WHERE stream LIKE '%\_3' AND
		NOT EXISTS (SELECT FROM stream_agg.offsets o WHERE o.stream = s.stream AND dealt <> '{}')}), '', 'all of them were dealt');
	is(sql(q{SELECT string_agg(a.stream, ',') FROM
		(SELECT DISTINCT ON (stream) * FROM stream_agg.commits ORDER BY stream, batch DESC) a JOIN
		(SELECT DISTINCT ON (stream) * FROM stream_agg.commits ORDER BY stream, batch DESC) b ON a.stream LIKE '%\_1' AND b.stream = regexp_replace(a.stream, '1$', '3')
		WHERE (a.total_delivered, a.total_aggregated, a.total_late, a.total_null_time, a.total_filtered, a.watermark, a.offsets, a.last_records, a.max_event_time, a.event_times)
			IS DISTINCT FROM (b.total_delivered, b.total_aggregated, b.total_late, b.total_null_time, b.total_filtered, b.watermark, b.offsets, b.last_records, b.max_event_time, b.event_times)}),
		'', 'what the streams have counted, and the watermarks, are equal');
	sql("SELECT stream_agg.drop_stream('$_', drop_sink => true)") for @streams;
};

subtest 'explain_stream says why a stream stays on one process' => sub {
	sql(q{CREATE FUNCTION unsafe(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1';
		CREATE FUNCTION plus(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
		CREATE FUNCTION add(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS 'BEGIN RETURN $1 + $2; END';
		CREATE AGGREGATE no_combine(int) (SFUNC = add, STYPE = int, INITCOND = 0, PARALLEL = SAFE);
		CREATE AGGREGATE unsafe_sum(int) (SFUNC = add, STYPE = int, INITCOND = 0, COMBINEFUNC = add);
		CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN $1; END'});
	my %reason = (
		'SELECT k, no_combine(v) AS s FROM events GROUP BY k' => qr/1 of 2: states of aggregate no_combine\(integer\) cannot be combined/,
		'SELECT k, unsafe_sum(v) AS s FROM events GROUP BY k' => qr/1 of 2: aggregate unsafe_sum\(integer\) is not parallel safe/,
		'SELECT k, count(slow(v)) AS s FROM events GROUP BY k' => qr/1 of 2: an expression of the query is not parallel safe/,
		q{SELECT stream_agg.session(ts, '1 second') AS w, k, array_agg(v) AS s FROM events GROUP BY 1, 2} => qr/1 of 2: the order of the inputs of aggregate array_agg\(anynonarray\) depends/,
		'SELECT k, count(*) AS s FROM events GROUP BY k' => qr/Executors: 2$/m);
	my $n = 0;
	for my $query (sort keys %reason)
	{
		my $name = 'explained_' . $n++;
		create($name, $query, 2, "output_mode => 'update'," . ($query =~ /session/ ? "watermark => '1 second'," : ''));
		available($name);
		like(sql("SELECT stream_agg.explain_stream('$name')"), $reason{$query}, $query);
		is(sql("SELECT count(*) > 0 FROM stream_agg.offsets WHERE stream = '$name' AND dealt <> '{}'"), $query =~ /slow|no_comb|unsafe|session/ ? 'f' : 't', 'and so it is');
		sql("SELECT stream_agg.drop_stream('$name', drop_sink => true)");
	}
	# what a view, or a relation that inherits, hides; and what runs before the query does
	my $file = $node->basedir . '/names.csv';
	append_to_file($file, "1,one\n");
	my $has_files = sql(q{SELECT count(*) FROM pg_available_extensions WHERE name = 'file_fdw'});
	sql(qq{CREATE TABLE parts (k int, name text) PARTITION BY LIST (k);
		CREATE VIEW hides AS SELECT k, slow(k) AS s FROM generate_series(0, 19) k;
		CREATE FUNCTION judges(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
		CREATE DOMAIN small AS int CHECK (VALUE > -1);
		CREATE DOMAIN judged AS int CHECK (judges(VALUE));
		CREATE TYPE pair AS (a small, b judged[])});
	create_source($node, $broker, 'of_domain', 'events', 'k small, v int');
	create_source($node, $broker, 'of_pair', 'events', 'k int, p pair');
	sql(qq{CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
		CREATE FOREIGN TABLE part_1 PARTITION OF parts FOR VALUES IN (1) SERVER files OPTIONS (filename '$file', format 'csv')}) if $has_files;
	my %hidden = (
		'SELECT name, count(*) AS n FROM events JOIN parts USING (k) GROUP BY 1' =>
		  $has_files ? qr/1 of 2: "parts" cannot be read by several processes/ : qr/Executors: 2$/m,
		'SELECT s, count(*) AS n FROM events JOIN hides USING (k) GROUP BY 1' => qr/1 of 2: an expression of the query is not parallel safe/,
		'SELECT k, count(*) AS n FROM of_pair GROUP BY 1' => qr/1 of 2: type pair of column "p" is not parallel safe/,
		'SELECT k, count(*) AS n FROM of_domain GROUP BY 1' => qr/Executors: 2$/m);
	for my $query (sort keys %hidden)
	{
		create('hidden', $query, 2, "output_mode => 'update',");
		like(sql("SELECT stream_agg.explain_stream('hidden')"), $hidden{$query}, $query);
		sql("SELECT stream_agg.drop_stream('hidden', drop_sink => true)");
	}
	$broker->produce('one', [ 0, '', '{"k": 1}' ]);
	create('narrow', 'SELECT k, count(*) AS n FROM one GROUP BY k', 4, "output_mode => 'update',");
	available('narrow');
	like(sql("SELECT stream_agg.explain_stream('narrow')"), qr/Executors: 1 of 4, as there are partitions/, 'a topic with one partition');
	is(sql('TABLE narrow'), '1|1', 'is read');
	sql("SELECT stream_agg.drop_stream('narrow', drop_sink => true)");
};

subtest 'how many processes a stream can have' => sub {
	for my $value ('0', '-1', '129', '1000000000000', '"many"', '1.5')
	{
		my (undef, undef, $error) = $node->psql('postgres', "SELECT stream_agg.create_stream('wrong', 'SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update', options => '{\"executors\": $value}')");
		like($error, qr/executors must be between 1 and 128|invalid input syntax for type bigint/, "$value is refused");
	}
	is(sql(q{SELECT count(*) FROM stream_agg.streams WHERE stream = 'wrong'}), 0, 'there is no such stream');
};

subtest 'an executor that is ended or cancelled fails its micro-batch, and nothing else' => sub {
	my ($one) = executors();
	my $worker = sql(q{SELECT pid FROM pg_stat_stream_agg WHERE stream = 'three'});
	sql("SELECT pg_terminate_backend($one)");
	produce(500);
	available('single', 'three');
	is(differences('single', 'three'), 0, 'the table is complete');
	is(sql(q{SELECT pid FROM pg_stat_stream_agg WHERE stream = 'three'}), $worker, 'the worker is the same');
	is(scalar(executors()), 2, 'there are as many executors again');
	is(scalar(grep { $_ == $one } executors()), 0, 'not the one that was ended');
	like(slurp_file($node->logfile), qr/ERROR:  executor \d of stream "three" has ended/, 'the log says what happened');
};

subtest 'a stream that stops ends its executors, and so does DROP' => sub {
	sql(q{SELECT stream_agg.stop_stream('three')});
	ok($node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'stream_agg executor')}), 'stop_stream');
	sql(q{SELECT stream_agg.start_stream('three')});
	available('three');
	is(scalar(executors()), 2, 'there are new ones');
	sql(q{SELECT stream_agg.drop_stream('three', drop_sink => true)});
	ok($node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'stream_agg executor')}), 'drop_stream');
};

subtest 'a record that an executor rejects, or fails at, is named as one process names it' => sub {
	my $query = q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n, sum(100 / (v % 500)) AS s FROM events GROUP BY 1, 2};
	$broker->produce('events', [ 4, '', 'no JSON' ], [ 5, '', '{"ts": "2026-01-01T00:09:00Z", "k": 3, "v": 500}' ], [ 1, '', '{"ts": "no time"}' ]);
	sql(qq{SELECT stream_agg.create_stream('rejects_$_', \$q\$$query\$q\$, trigger => '0', watermark => '1 minute', output_mode => 'append',
		options => '{"executors": $_, "on_error": "dead_letter", "late_records": true}')}) for 1, 3;
	available('rejects_1', 'rejects_3');
	is(differences('rejects_1', 'rejects_3'), 0, 'the tables are equal');
	my $letters = 'topic, partition, "offset", key, value, headers, sqlstate, error, detail';
	is(differences(map({ "(SELECT * FROM stream_agg.dead_letters WHERE stream = 'rejects_$_') x" } 1, 3), $letters), 0, 'dead letters');
	cmp_ok(sql(q{SELECT count(*) FROM stream_agg.dead_letters WHERE stream = 'rejects_3'}), '>=', 3, 'of which there are some');
	cmp_ok(sql(q{SELECT count(DISTINCT partition) FROM stream_agg.dead_letters WHERE stream = 'rejects_3'}), '>=', 3, 'in partitions of several processes');
	is(sql(q{SELECT count(*) FROM stream_agg.commits WHERE delivered <> aggregated + late + null_time + dead_lettered + filtered}), 0, 'counts add up');
	# records before the watermark, in all partitions
	$broker->produce('events', map { [ $_ % $partitions, '', "{\"ts\": \"2026-01-01T00:00:0${_}Z\", \"k\": $_, \"v\": 1}" ] } 1 .. 9);
	available('rejects_1', 'rejects_3');
	is(differences(map({ "(SELECT * FROM stream_agg.late_records WHERE stream = 'rejects_$_') x" } 1, 3),
			'topic, partition, "offset", key, value, headers, event_time, windows'), 0, 'late records');
	cmp_ok(sql(q{SELECT count(*) FROM stream_agg.late_records WHERE stream = 'rejects_3'}), '>=', 9, 'of which there are some');
	cmp_ok(sql(q{SELECT count(*) FROM stream_agg.offsets WHERE stream = 'rejects_3' AND dealt <> '{}'}), '>', 0, 'they were dealt');
	my $rejected = sql(q{SELECT count(*) FROM stream_agg.dead_letters WHERE stream = 'rejects_3'});
	cmp_ok(sql(q{SELECT count(*) FROM stream_agg.offsets WHERE stream = 'rejects_3'}), '<=', 3 * $rejected + 5, 'the record that an executor was at is tried first');
	sql("SELECT stream_agg.drop_stream('rejects_$_', drop_sink => true)") for 1, 3;
};

subtest 'an error of an executor says which record it was at' => sub {
	create('fails', 'SELECT k, sum(100 / (v % 500)) AS s FROM events GROUP BY k', 6, "output_mode => 'update', starting_offsets => 'latest',");
	$node->poll_query_until('postgres', q{SELECT state = 'running' FROM pg_stat_stream_agg WHERE stream = 'fails'});
	$broker->produce('events', [ 5, '', '{"k": 3, "v": 500}' ]);
	ok($node->poll_query_until('postgres', q{SELECT last_error ~ 'division by zero' FROM pg_stat_stream_agg WHERE stream = 'fails'}), 'in pg_stat_stream_agg');
	my $log = slurp_file($node->logfile);
	like($log, qr/ERROR:  division by zero\n.*CONTEXT: .*last record read: topic "events", partition 5, offset \d+\n.*executor 5/, 'in the log');
	sql(q{SELECT stream_agg.drop_stream('fails', drop_sink => true)});
};

subtest 'a command that waits for a lock on a table of the query does not block worker and executors for ever' => sub {
	sql('CREATE TABLE names (k int PRIMARY KEY, name text); INSERT INTO names SELECT i, \'name \' || i FROM generate_series(0, 19) i');
	create('joined', 'SELECT name, count(*) AS n FROM events JOIN names USING (k) GROUP BY name', 3, "output_mode => 'update', starting_offsets => 'latest',");
	available('joined');
	for my $i (1 .. 5)
	{
		produce(200);
		sql("ALTER TABLE names ADD COLUMN c$i int");
	}
	available('joined');
	is(sql(q{SELECT count(*) FROM pg_stat_stream_agg WHERE stream = 'joined' AND state = 'running'}), 1, 'the stream runs');
	sql(q{SELECT stream_agg.drop_stream('joined', drop_sink => true)});
};

subtest 'a role has no more executors than its limit of streams' => sub {
	sql(q{CREATE ROLE small LOGIN; ALTER ROLE small SET stream_agg.max_streams_per_role = 2; GRANT SELECT ON events TO small; GRANT CREATE ON SCHEMA public TO small});
	sql(q{SET SESSION AUTHORIZATION small; SELECT stream_agg.create_stream('limited', 'SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update', trigger => '0',
		starting_offsets => 'latest', options => '{"executors": 4}')});
	available('limited');
	is(scalar(executors()), 1, 'two processes in all');
	sql(q{SELECT stream_agg.drop_stream('limited', drop_sink => true)});
};

done_testing();
