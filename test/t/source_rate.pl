# Rate sources: the rows that there should be, and no others, in queries and in
# streams, whatever happens to the worker and the server.

use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $node = new_node('rate', 'restart_after_crash = on', 'stream_agg.keep_batches = 1000000');
my $rng = seeded_random();

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub fails
{
	my ($statement, $pattern, $name) = @_;
	my (undef, undef, $stderr) = $node->psql('postgres', $statement);
	return like($stderr, $pattern, $name);
}

# a time in the past, to ten seconds, as an option says it
sub ago
{
	my $time = time - shift;
	return POSIX::strftime('%Y-%m-%d %H:%M:%S+00', gmtime($time - $time % 10));
}

# The rows of a source without ramp-up by the definition, from the catalog alone.
sub rows
{
	my ($rate, $partitions, $start) = @_;
	return "(SELECT '$start'::timestamptz + v * 1000 / $rate * interval '1 ms' AS \"timestamp\", v AS value,
		(v % $partitions)::int AS p, v / $partitions AS o
		FROM generate_series(0, ceil(extract(epoch FROM clock_timestamp() - '$start'::timestamptz) * $rate)::bigint - 1) v)";
}

subtest 'a stream runs after two statements' => sub {
	sql(q{CREATE FOREIGN TABLE ticks ("timestamp" timestamptz, value bigint) SERVER stream_agg_rate OPTIONS (rows_per_second '1000')});
	sql(q{SELECT stream_agg.create_stream('seconds', $$ SELECT stream_agg.tumble("timestamp", '1 second') AS win, count(*) AS n
		FROM ticks GROUP BY 1 $$, watermark => '0 seconds', output_mode => 'append')});
	ok($node->poll_query_until('postgres', 'SELECT count(*) > 1 FROM seconds'), 'windows close by themselves');
	is(sql('SELECT DISTINCT n FROM seconds'), 1000, 'each has the rows of a second');
	sql(q{SELECT stream_agg.drop_stream('seconds', drop_sink => true)});
};

my $start = ago(60);
sql(qq{CREATE FOREIGN TABLE r (t timestamptz, v bigint, p int OPTIONS (metadata 'partition'), o bigint OPTIONS (metadata 'offset'))
	SERVER stream_agg_rate OPTIONS (rows_per_second '300', partitions '4', start '$start')});

subtest 'a query reads every row until now, and the same ones each time' => sub {
	my $rows = rows(300, 4, $start);
	is(sql("SELECT count(*) FROM (SELECT t, v, p, o FROM r WHERE t < '$start'::timestamptz + interval '50 s'
			EXCEPT SELECT * FROM $rows q) x"), 0, 'no row too many');
	is(sql("SELECT count(*), min(v), max(v), count(DISTINCT v) FROM r WHERE t < '$start'::timestamptz + interval '50 s'"),
		'15000|0|14999|15000', 'none missing');
	is(sql('SELECT count(*) >= 18000, count(DISTINCT p), max(t) <= clock_timestamp() FROM r'), 't|4|t', 'up to now');
	is(sql('SELECT v FROM r WHERE p = 2 AND o = 1000'), 4002, 'row n of partition p');
	is(sql("SELECT min(v) FROM r WHERE t >= '$start'::timestamptz + interval '10 s'"), 3000, 'from a time on');
	like(sql("EXPLAIN SELECT v FROM r WHERE p = 2 AND o = 1000"), qr/Rate Topic: rate\.rows_per_second-300\..*\n.*Rate Bounds/s,
		'bounds are pushed down');
};

subtest 'the rate is reached by a ramp' => sub {
	sql(qq{CREATE FOREIGN TABLE ramp (t timestamptz, v bigint) SERVER stream_agg_rate
		OPTIONS (rows_per_second '100', start '$start', ramp_up '20 seconds')});
	my $until = sub { return sql("SELECT count(*) FROM ramp WHERE t < '$start'::timestamptz + interval '$_[0] s'"); };
	is($until->(20), 1000, 'half as many rows until then');
	is($until->(10), 250, 'a quarter of them in the first half');
	is($until->(30), 2000, 'all of them afterwards');
	is(sql('SELECT count(*) FROM (SELECT t < lag(t) OVER (ORDER BY v) AS back FROM ramp) x WHERE back'), 0,
		'times ascend with the numbers');
};

sql(q{
	CREATE FUNCTION slowly(bigint) RETURNS bigint STABLE LANGUAGE plpgsql AS $$
	BEGIN PERFORM pg_sleep(0.0001); RETURN $1; END $$;
	SELECT stream_agg.create_stream('windowed', $$ SELECT stream_agg.tumble(t, '2 seconds') AS win, v % 5 AS k,
		count(*) AS n, sum(slowly(v)) AS total FROM r GROUP BY 1, 2 $$,
		output_mode => 'append', watermark => '1 second', trigger => '0', max_offsets_per_trigger => 200);
	SELECT stream_agg.create_stream('counted', 'SELECT v % 7 AS k, count(*) AS n, sum(slowly(v)) AS total FROM r GROUP BY 1',
		output_mode => 'update', trigger => '0', max_offsets_per_trigger => 200)});

# Closed windows have all their rows, and the other stream has those before its
# positions: each in one snapshot, while the streams go on.
sub check
{
	my $what = shift;
	await_server($node);
	process($node, $_) for 'windowed', 'counted';
	my $rows = rows(300, 4, $start);
	is_equal_tables($node, 'SELECT * FROM windowed',
		qq{SELECT stream_agg.tumble("timestamp", '2 seconds') AS win, value % 5 AS k, count(*) AS n, sum(value) AS total
			FROM $rows q GROUP BY 1, 2
			HAVING upper(stream_agg.tumble("timestamp", '2 seconds')) <= (SELECT watermark FROM stream_agg.commits
				WHERE stream = 'windowed' ORDER BY batch DESC LIMIT 1)},
		"$what: closed windows have every row once");
	is_equal_tables($node, 'SELECT * FROM counted',
		qq{SELECT value % 7 AS k, count(*) AS n, sum(value) AS total FROM $rows q
			JOIN (SELECT r.key::int AS part, max((r.value->>1)::bigint) AS position
				FROM stream_agg.offsets o CROSS JOIN jsonb_each(o.ranges) r
				WHERE o.stream = 'counted' AND o.batch <= (SELECT max(batch) FROM stream_agg.commits WHERE stream = 'counted')
				GROUP BY 1) x ON p = part AND o < position
			GROUP BY 1},
		"$what: every row before the positions is counted once");
	return;
}

my %crash = (
	'SIGKILL of a worker' => sub { kill_backends($node, worker_pid($node, $rng->(2) ? 'windowed' : 'counted')); },
	'immediate stop' => sub { $node->stop('immediate'); $node->start; },
	'stop and start' => sub { $node->restart; });
subtest 'every row is counted once, whatever crashes' => sub {
	check('running');
	for my $round (0 .. 5)
	{
		my $what = (sort keys %crash)[ $round % 3 ];
		my $batch = sql("SELECT max(batch) FROM stream_agg.commits WHERE stream = 'windowed'");
		$node->poll_query_until('postgres', "SELECT max(batch) > $batch FROM stream_agg.commits WHERE stream = 'windowed'");
		$crash{$what}->();
		check($what);
	}
	is(sql(q{SELECT sum(n) FROM (SELECT count(*) AS n FROM stream_agg.events WHERE event = 'failed') x}), 0, 'and no stream has failed');
};

subtest 'streams of one reader have the same rows' => sub {
	sql(q{SELECT stream_agg.create_stream(name, query, output_mode => 'update', trigger => '0', reader => 'both')
		FROM (VALUES ('first', 'SELECT v % 3 AS k, count(*) AS n, max(v) AS top FROM r GROUP BY 1'),
			('second', 'SELECT v % 3 AS k, count(*) AS n, min(v) AS low FROM r GROUP BY 1')) s(name, query)});
	process($node, $_) for 'first', 'second';
	kill_backends($node, worker_pid($node, 'first'));
	await_server($node);
	process($node, $_) for 'first', 'second';
	is(sql('SELECT count(*), bool_and(f.n = s.n), bool_and(low = k) FROM first f JOIN second s USING (k)'), '3|t|t',
		'after a crash too');
	sql("SELECT stream_agg.drop_stream(s, drop_sink => true) FROM unnest(ARRAY['first', 'second']) s");
};

subtest 'a stream that joins a reader later reads on from where it stands' => sub {
	sql(q{SELECT stream_agg.create_stream('early', 'SELECT v % 4 AS k, count(*) AS n FROM r GROUP BY 1', output_mode => 'update', trigger => '0', reader => 'late_ones')});
	process($node, 'early');
	sql(q{SELECT stream_agg.create_stream('later', 'SELECT v % 4 AS k, count(*) AS n FROM r GROUP BY 1', output_mode => 'update', trigger => '0', reader => 'late_ones')});
	process($node, $_) for 'early', 'later';
	ok($node->poll_query_until('postgres', q{SELECT count(DISTINCT pid) = 1 AND count(pid) = 2 FROM pg_stat_stream_agg WHERE stream IN ('early', 'later')}), 'one worker runs both');
	ok($node->poll_query_until('postgres', 'SELECT count(*) = 4 AND bool_and(e.n = l.n) FROM early e JOIN later l USING (k)'), 'with the same rows');
	sql("SELECT stream_agg.drop_stream(s, drop_sink => true) FROM unnest(ARRAY['early', 'later']) s");
};

subtest 'a stream with a watermark of each partition' => sub {
	sql(q{SELECT stream_agg.create_stream('apart', $$ SELECT stream_agg.tumble(t, '5 seconds') AS win, count(*) AS n FROM r GROUP BY 1 $$,
		output_mode => 'append', watermark => '0 seconds', trigger => '0', options => '{"watermark_policy": "per_partition"}')});
	ok($node->poll_query_until('postgres', 'SELECT count(*) > 9 FROM apart'), 'windows close');
	is(sql('SELECT DISTINCT n FROM apart'), 1500, 'with all of their rows');
};

subtest 'a preview reads what comes next' => sub {
	is(sql(qq{SELECT count(*), bool_and((data->>'n')::int = 300) FROM stream_agg.preview(\$\$ SELECT stream_agg.tumble(t, '1 second') AS win,
			count(*) AS n FROM r GROUP BY 1 \$\$, "limit" => 3000, output_mode => 'update')}), '10|t', 'of the text of a query');
	like(sql(q{SELECT count(*) FROM stream_agg.preview('apart')}), qr/^\d+$/, 'of a stream');
};

subtest 'a reset begins anew, also from a time' => sub {
	my $at = ago(20);
	sql(qq{SELECT stream_agg.stop_stream('apart'); SELECT stream_agg.reset_stream('apart', '$at'::timestamptz, force => true)});
	sql(q{SELECT stream_agg.start_stream('apart'); TRUNCATE apart});
	process($node, 'apart');
	ok($node->poll_query_until('postgres', 'SELECT count(*) > 1 FROM apart'), 'windows close');
	is(sql("SELECT bool_and(lower(win) > '$at'::timestamptz - interval '5 s') FROM apart"), 't', 'none from before');
	sql(q{SELECT stream_agg.drop_stream('apart', drop_sink => true)});
};

subtest 'late rows are repaired' => sub {
	sql(qq{CREATE FOREIGN TABLE few (t timestamptz, v bigint) SERVER stream_agg_rate OPTIONS (rows_per_second '20', start '$start')});
	sql(q{SELECT stream_agg.create_stream('tardy', $$ SELECT stream_agg.tumble(t - v % 10 * interval '1 s', '2 seconds') AS win, count(*) AS n
		FROM few GROUP BY 1 $$, output_mode => 'append', watermark => '1 seconds', trigger => '0', max_offsets_per_trigger => 50,
		options => '{"late_records": true}')});
	process($node, 'tardy');
	sql("SELECT stream_agg.stop_stream('tardy')");
	is(sql("SELECT count(*) > 10 FROM stream_agg.late_records WHERE stream = 'tardy'"), 't', 'there are some');
	is(sql("SELECT bool_and(repaired), count(*) > 5 FROM stream_agg.repair_late('tardy')"), 't|t', 'their windows are rebuilt');
	is_equal_tables($node, q{SELECT win, n FROM tardy WHERE upper(win) < (SELECT max(upper(win)) - interval '12 s' FROM tardy)},
		q{SELECT win, n FROM (SELECT * FROM tardy_query) q WHERE upper(win) < (SELECT max(upper(win)) - interval '12 s' FROM tardy)},
		'and are as the query has them, before rows that have come since');
	sql(q{SELECT stream_agg.drop_stream('tardy', drop_sink => true)});
};

subtest 'what a rate source cannot do is refused with the reason' => sub {
	fails(q{SELECT stream_agg.create_stream('s', 'SELECT t, v FROM ramp', output_mode => 'append', sink => 'r',
		options => '{"delivery": "at_least_once"}')}, qr/source "r" cannot be the sink of a stream\nDETAIL:  Sources of foreign-data wrapper stream_agg_rate cannot be written to/, 'a sink');
	fails(q{SELECT stream_agg.create_stream('s', 'SELECT t, v FROM r', output_mode => 'append', options => '{"consumer_group": "g"}')},
		qr/a stream that reads "r" cannot have option "consumer_group"\nDETAIL:  Sources of foreign-data wrapper stream_agg_rate have no consumer groups/, 'a consumer group');
	fails(q{SELECT stream_agg.alter_stream('counted', '{"consumer_group": "g"}')}, qr/a stream that reads "r" cannot have option "consumer_group"/, 'also later');
	fails('INSERT INTO r (t, v) VALUES (now(), 1)', qr/cannot insert into source "r"\nDETAIL:  Sources of foreign-data wrapper stream_agg_rate cannot be written to/, 'INSERT');
	fails('EXPLAIN INSERT INTO r (t, v) VALUES (now(), 1)', qr/cannot insert into source "r"/, 'also where it is planned only');
	fails('COPY r (t, v) FROM STDIN', qr/cannot insert into foreign table "r"/, 'COPY');
	fails('UPDATE r SET v = 1', qr/cannot update foreign table "r"/, 'UPDATE');
	my $not_kafka = qr/server "stream_agg_rate" is not a foreign server of stream_agg_kafka\nDETAIL:  It is one of foreign-data wrapper stream_agg_rate.\nHINT:  Make sources of it by CREATE FOREIGN TABLE/;
	fails(q{SELECT stream_agg.describe_topic('r', server => 'stream_agg_rate')}, $not_kafka, 'describe_topic');
	fails(q{SELECT stream_agg.create_source('s', 't', 'a int', server => 'stream_agg_rate')}, $not_kafka, 'create_source');
};

subtest 'a stream does not go on with other rows' => sub {
	sql("ALTER FOREIGN TABLE r OPTIONS (SET rows_per_second '301')");
	wait_state($node, $_, 'failed', 'the source now reads topic') for 'counted', 'windowed';
	sql("ALTER FOREIGN TABLE r OPTIONS (SET rows_per_second '300')");
	sql("SELECT stream_agg.start_stream(s) FROM unnest(ARRAY['counted', 'windowed']) s");
	check('with the former options again');
};

subtest 'two sources are read together' => sub {
	sql(qq{CREATE FOREIGN TABLE other (t timestamptz, v bigint) SERVER stream_agg_rate OPTIONS (rows_per_second '50', start '$start')});
	sql(q{SELECT stream_agg.create_stream('joined', $$ SELECT which, count(*) AS n, max(v) AS top
		FROM (SELECT 'r' AS which, v FROM r UNION ALL SELECT 'other', v FROM other) u GROUP BY 1 $$, output_mode => 'update', trigger => '0')});
	process($node, 'joined');
	is(sql('SELECT count(*), bool_and(n > 0) FROM joined'), '2|t', 'each by its own');
	is(sql("SELECT n = top + 1 FROM joined WHERE which = 'other'"), 't', 'without a row missing');
};

subtest 'a stream that begins at a row to come waits for it' => sub {
	sql(q{SELECT stream_agg.create_stream(name, 'SELECT v % 2 AS k, count(*) AS n, min(v) AS low FROM other GROUP BY 1',
		output_mode => 'update', trigger => '0', starting_offsets => offsets)
		FROM (VALUES ('never', '{"0": 9223372036854775807}'::jsonb), ('soon', jsonb_build_object('0', (SELECT max(v) + 100 FROM other)))) s(name, offsets)});
	is(join(' ', process($node, 'never')), '0 0 0', 'nothing to do');
	ok($node->poll_query_until('postgres', 'SELECT count(*) = 2 FROM soon'), 'which comes');
	is(sql(q{SELECT min(low) = (SELECT (initial_offsets->'0')::bigint FROM stream_agg.sources WHERE stream = 'soon') FROM soon}), 't', 'it is the first');
	is(sql("SELECT count(*) FROM pg_stat_stream_agg WHERE stream IN ('never', 'soon') AND state = 'running' AND last_error IS NULL"), 2, 'both run');
};

$node->stop;
done_testing();
