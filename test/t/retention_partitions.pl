# retention of a sink that is partitioned by the time of windows: whole partitions are
# dropped and made ahead, and neither readers nor micro-batches wait for it.

use strict;
use warnings;

use IPC::Run;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(ret => 1);
my $node = new_node('retention_partitions', 'timezone = UTC', 'max_worker_processes = 64');
create_source($node, $broker, 'ret', 'ret', 'ts timestamptz, k int');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub said { my (undef, undef, $err) = $node->psql('postgres', $_[0]); return $err; }
sub produce { $broker->produce('ret', map { [ 0, '', sprintf('{"ts": "2026-01-%02dT%02d:00:00Z", "k": 1}', 1 + $_ / 24, $_ % 24) ] } @_); return; }
sub partitions { return sql("SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = '$_[0]'::regclass"); }
sub call { my ($stream, $query, $more) = @_; return "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, watermark => '1 minute', trigger => '20 days', sink => '$stream', options => '{\"retention\": \"2 days\"}' $more)"; }

my $hours = q{stream_agg.tumble(ts, '1 hour')};
my %sinks = (
	starts => [ 'window_start timestamptz, n bigint, note text DEFAULT \'none\', UNIQUE NULLS NOT DISTINCT (window_start)', 'window_start', "SELECT lower($hours) AS window_start, count(*) AS n FROM ret GROUP BY $hours", q{, output_mode => 'update'} ],
	ends => [ 'window_end timestamptz, n bigint', 'window_end', "SELECT upper($hours) AS window_end, count(*) AS n FROM ret GROUP BY $hours", '' ],
	ranges => [ 'w tstzrange, n bigint', 'lower(w)', "SELECT $hours AS w, count(*) AS n FROM ret GROUP BY 1", '' ]);
for my $sink (sort keys %sinks)
{
	my ($columns, $key, $query, $more) = @{ $sinks{$sink} };
	sql("CREATE TABLE $sink ($columns) PARTITION BY RANGE (($key))" =~ s/RANGE \(\((\w+)\)\)/RANGE ($1)/r);
	sql("CREATE TABLE ${sink}_first PARTITION OF $sink FOR VALUES FROM ('2026-01-01') TO ('2026-01-02')");
}
produce(0 .. 5);
for my $sink (sort keys %sinks)
{
	sql(call($sink, $sinks{$sink}[2], $sinks{$sink}[3]));
	process($node, $sink);
}

subtest 'partitions are made ahead, as wide as the last one' => sub {
	is(partitions($_), "${_}_first", "$_: one is enough") for sort keys %sinks;
	produce(22);
	process($node, $_) for sort keys %sinks;
	is(partitions('starts'), 'starts_first starts_p20260102', 'for the window after the next, that begins at 00:00');
	produce(50);
	process($node, $_) for sort keys %sinks;
	is(partitions($_), "${_}_first ${_}_p20260102 ${_}_p20260103", "$_: and for what comes") for sort keys %sinks;
	is(sql(q{SELECT count(*), min(note), max(note) FROM starts_p20260103}), '1|none|none', 'with the defaults of the table');
	is(sql(q{SELECT count(*) FROM pg_index WHERE indrelid = 'starts_p20260103'::regclass AND indisunique}), 1, 'and its indexes');
};

subtest 'old partitions are dropped, whole ones only' => sub {
	produce(72);
	produce(73);
	process($node, $_) for sort keys %sinks;
	produce(74);
	process($node, $_) for sort keys %sinks;
	is(partitions('starts'), 'starts_p20260102 starts_p20260103 starts_p20260104', 'that of the first, when the last of its windows is older than two days');
	is(partitions('ranges'), 'ranges_p20260102 ranges_p20260103 ranges_p20260104', 'by lower(w)');
	is(partitions('ends'), 'ends_p20260102 ends_p20260103 ends_p20260104', 'by the end');
	is(sql('SELECT count(*) FROM starts WHERE window_start < $$2026-01-02$$'), 0, 'no older row');
};

subtest 'a reader keeps a partition, and no micro-batch waits for him' => sub {
	my $out = '';
	my $reader = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'BEGIN', '-c', 'SELECT count(*) FROM starts', '-c', 'SELECT pg_sleep(6000)' ], '>', \$out, '2>', '/dev/null');
	$reader->pump until $out =~ /\n/;
	produce(98, 99);
	process($node, 'starts');
	produce(100);
	is(sql(q{SELECT batches > 0 FROM stream_agg.process_available('starts', '20 s')}), 't', 'the micro-batch is committed while he reads');
	like(partitions('starts'), qr/starts_p20260102/, 'the partition is there');
	is(sql(q{SET lock_timeout = '5 s'; SELECT count(*) > 0 FROM starts}), 't', 'and another reader waits for neither');
	sql(q{SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(6000)%'});
	$reader->finish;
	produce(101);
	process($node, 'starts');
	unlike(partitions('starts'), qr/starts_p20260102/, 'and goes with the next one');
};

subtest 'readers do not wait for other streams of the reader' => sub {
	my $blocker = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \my $in, '>', \my $out);
	my $minutes = q{stream_agg.tumble_start(ts, '1 hour')};
	sql(q{CREATE TABLE early (w timestamptz, n bigint) PARTITION BY RANGE (w);
		CREATE TABLE early_0 PARTITION OF early FOR VALUES FROM ('2025-12-31') TO ('2026-01-05');
		CREATE TABLE early_1 PARTITION OF early FOR VALUES FROM ('2026-01-05') TO ('2026-01-06');
		CREATE TABLE later (k int, n bigint, UNIQUE NULLS NOT DISTINCT (k));
		CREATE FUNCTION wait_for_lock() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock_shared(330); RETURN NULL; END';
		CREATE TRIGGER wait AFTER INSERT OR UPDATE ON later FOR EACH STATEMENT EXECUTE FUNCTION wait_for_lock()});
	sql("BEGIN; SELECT stream_agg.create_stream('early', \$q\$SELECT $minutes AS w, count(*) AS n FROM ret GROUP BY 1\$q\$, watermark => '1 minute', trigger => '0', sink => 'early', reader => 'both', options => '{\"retention\": \"1 hour\"}');
		SELECT stream_agg.create_stream('later', 'SELECT k, count(*) AS n FROM ret GROUP BY k', output_mode => 'update', trigger => '0', sink => 'later', reader => 'both'); COMMIT");
	process($node, 'early');
	# the watermark has passed the first partition already; the next batch drops it
	$in .= "SELECT pg_advisory_lock(330), 'held';\n";
	$blocker->pump until $out =~ /held/;
	like(partitions('early'), qr/early_0/, 'the partition is there');
	produce(102);
	$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) or die 'the trigger does not wait';
	is(sql(q{SET lock_timeout = '2 s'; SELECT count(*) > 0 FROM early}), 't', 'who reads one sink does not wait for the trigger of another');
	$in .= "SELECT pg_advisory_unlock_all();\n\\q\n";
	$blocker->finish;
	process($node, 'early');
	unlike(partitions('early'), qr/early_0/, 'the partition goes in the end');
	sql(q{SELECT stream_agg.stop_stream(s) FROM unnest('{early,later}'::text[]) s});
};

subtest 'what cannot be dropped is told, and the stream goes on' => sub {
	sql('CREATE VIEW on_partition AS SELECT * FROM starts_p20260103');
	my $offset = -s $node->logfile;
	produce(123, 124);
	process($node, 'starts');
	produce(125);
	process($node, 'starts');
	like(partitions('starts'), qr/starts_p20260103/, 'the partition is there');
	like(PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset), qr/WARNING:  stream "starts": could not drop partition public\.starts_p20260103/, 'a warning says so');
	is(sql('SELECT max(window_start) FROM starts'), '2026-01-06 05:00:00+00', 'results go on');
};

subtest 'months, days and hours' => sub {
	for my $width ([ m => '2025-12-01', '2026-01-01', 'm_p20260101' ], [ h => '2026-01-06 03:00', '2026-01-06 06:00', 'h_p20260106_060000 h_p20260106_090000' ])
	{
		my ($name, $from, $to, $made) = @$width;
		sql("CREATE TABLE $name (w timestamptz, n bigint) PARTITION BY RANGE (w); CREATE TABLE ${name}_0 PARTITION OF $name FOR VALUES FROM ('$from') TO ('$to')");
		sql(call($name, "SELECT lower($hours) AS w, count(*) AS n FROM ret GROUP BY $hours", q{, starting_offsets => 'latest'}));
		process($node, $name);
		produce(126 + ($name eq 'h'), 127);
		process($node, $name);
		is(partitions($name) =~ s/${name}_0 ?//r, $made, "$name: $made");
	}
	is(sql(q{SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'm_p20260101'}), q{FOR VALUES FROM ('2026-01-01 00:00:00+00') TO ('2026-02-01 00:00:00+00')}, 'a month');
};

subtest 'what is refused' => sub {
	my $query = "SELECT lower($hours) AS w, k, count(*) AS n FROM ret GROUP BY $hours, k";
	sql('CREATE TABLE by_k (w timestamptz, k int, n bigint) PARTITION BY LIST (k); CREATE TABLE by_k1 PARTITION OF by_k FOR VALUES IN (1);
		CREATE TABLE rest (w timestamptz, k int, n bigint) PARTITION BY RANGE (w); CREATE TABLE rest_1 PARTITION OF rest DEFAULT;
		CREATE TABLE none (w timestamptz, k int, n bigint) PARTITION BY RANGE (w)');
	like(said(call('by_k', $query, '')), qr/ERROR:  retention cannot be used for sink "by_k", which is not partitioned by the time of windows/, 'by something else');
	like(said(call($_, $query, '')), qr/ERROR:  retention needs a last partition of sink "$_" with two bounds, and no default partition/, $_) for qw(rest none);
};

subtest 'rows far from each other have the partitions that they need' => sub {
	$node->append_conf('postgresql.conf', "stream_agg.max_attempts = 3\nstream_agg.max_retry_delay = 100");
	$node->reload;
	$broker->create_topic('far', 1);
	create_source($node, $broker, 'far', 'far', 'ts timestamptz, k int');
	sql(q{CREATE TABLE far_sink (w timestamptz, n bigint, UNIQUE NULLS NOT DISTINCT (w)) PARTITION BY RANGE (w);
		CREATE TABLE far_first PARTITION OF far_sink FOR VALUES FROM ('2026-01-01 00:00Z') TO ('2026-01-01 00:10Z');
		SELECT stream_agg.create_stream('far_ahead', $q$SELECT stream_agg.tumble_start(ts, '1 minute') AS w, count(*) AS n FROM far GROUP BY 1$q$,
			output_mode => 'update', watermark => '2 days', trigger => '20 days', sink => 'far_sink', options => '{"retention": "2 days", "on_error": "dead_letter"}')});
	my $send = sub { $broker->produce('far', map { qq({"ts":"$_:00Z","k":1}) } @_); process($node, 'far_ahead'); return; };
	my $rows = sub { return sql(q{SELECT string_agg(to_char(w, 'DD HH24:MI'), ',' ORDER BY w) FROM far_sink}); };
	$send->('2026-01-01T00:05', '2026-01-01T23:05');
	is($rows->(), '01 00:05,01 23:05', 'a day ahead');
	my $made = sql(q{SELECT count(*) FROM pg_inherits WHERE inhparent = 'far_sink'::regclass});
	cmp_ok($made, '<=', 101, 'a micro-batch makes as many as it may');
	$send->('2026-01-01T00:15', '2026-01-01T20:33', '2026-01-01T22:59');
	is($rows->(), '01 00:05,01 00:15,01 20:33,01 22:59,01 23:05', 'and what comes in between later');
	is(sql(q{SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = (SELECT tableoid FROM far_sink WHERE w = '2026-01-01 20:33Z')}),
		q{FOR VALUES FROM ('2026-01-01 20:30:00+00') TO ('2026-01-01 20:40:00+00')}, 'in partitions that are as wide');
	$send->('2025-12-31T23:00', '2026-01-01T23:06');
	is($rows->(), '01 00:05,01 00:15,01 20:33,01 22:59,01 23:05,01 23:06', 'a row before the first partition has none');
	is(sql(q{SELECT string_agg(error || ' ' || "offset", ',') FROM stream_agg.dead_letters WHERE stream = 'far_ahead'}), 'no partition of relation "far_sink" found for row 5',
		'and its record follows on_error after some attempts');
};

# A column that is read as a time has to have the type of the stream's windows.
subtest 'windows of another type, or partitions by something else' => sub {
	$broker->create_topic('types', 1);
	create_source($node, $broker, 'types', 'types', 'ts timestamptz, l timestamp, k int');
	sql(q{CREATE TYPE own_range AS RANGE (subtype = timestamptz);
		CREATE FUNCTION to_own(timestamptz) RETURNS own_range LANGUAGE sql IMMUTABLE AS 'SELECT public.own_range($1, $1 + interval ''1 hour'')';
		CREATE CAST (timestamptz AS own_range) WITH FUNCTION to_own(timestamptz) AS ASSIGNMENT;
		CREATE DOMAIN instant AS timestamptz});
	my $zoned = "date_trunc('hour', ts)";
	my %sinks = (
		own => [ 'w own_range', 'RANGE (lower(w))', $zoned, 'column "w" of sink "own" has type own_range, but windows of the stream have type timestamp with time zone' ],
		zoned => [ 'w timestamptz', 'RANGE (w)', "date_trunc('hour', l)", 'column "w" of sink "zoned" has type timestamp with time zone, but windows of the stream have type timestamp without time zone' ],
		texts => [ 'w text', undef, $zoned, 'column "w" of sink "texts" has type text, but windows of the stream have type timestamp with time zone' ],
		listed => [ 'w timestamptz', 'LIST (w)', $zoned, 'retention cannot be used for sink "listed", which is not partitioned by the time of windows' ],
		hashed => [ 'w timestamptz', 'HASH (w)', $zoned, 'retention cannot be used for sink "hashed", which is not partitioned by the time of windows' ],
		labels => [ q{w timestamptz, t text DEFAULT 'b'}, 'RANGE (t)', $zoned, 'retention cannot be used for sink "labels", which is not partitioned by the time of windows' ]);
	my %bounds = (listed => q{FOR VALUES IN ('2026-01-01')}, hashed => 'FOR VALUES WITH (MODULUS 1, REMAINDER 0)', labels => q{FOR VALUES FROM ('a') TO ('c')});
	for my $sink (sort keys %sinks)
	{
		my ($columns, $key, $window, $error) = @{ $sinks{$sink} };
		my $query = "SELECT $window AS w, count(*) AS n FROM types GROUP BY 1";
		sql("CREATE TABLE $sink ($columns, n bigint)" . ($key ? " PARTITION BY $key" : ''));
		sql("CREATE TABLE ${sink}_0 PARTITION OF $sink " . ($bounds{$sink} // q{FOR VALUES FROM ('2026-01-01') TO ('2026-01-02')})) if $key;
		sql("CREATE INDEX ON $sink (w)") if !$key;
		like(said(call($sink, $query, '')), qr/ERROR:  \Q$error\E/, "$sink: refused");
		sql(call($sink, $query, '') =~ s/, options => '.*?'//r);
		process($node, $sink);
		like(said("SELECT stream_agg.alter_stream('$sink', '{\"retention\": \"1 hour\"}')"), qr/ERROR:  \Q$error\E/, 'also later');
	}
	sql(q{SELECT stream_agg.create_stream('windowless', $q$SELECT k, count(*) AS n FROM types GROUP BY date_trunc('hour', ts), k$q$, watermark => '1 minute', trigger => '20 days')});
	process($node, 'windowless');
	$sinks{windowless} = [ undef, undef, undef, q{retention needs a column that says when a row's window ends} ];
	# rows of the catalog that a dump brings
	sql(q{SELECT stream_agg.stop_stream(sink) FROM unnest('{own,zoned,texts,listed,hashed,labels,windowless}'::text[]) sink;
		UPDATE stream_agg.streams SET options = options || '{"retention": "1 hour"}' WHERE stream = ANY ('{own,zoned,texts,listed,hashed,labels,windowless}');
		SELECT stream_agg.start_stream(sink) FROM unnest('{own,zoned,texts,listed,hashed,labels,windowless}'::text[]) sink});
	my $offset = -s $node->logfile;
	$broker->produce('types', map { qq({"ts":"2026-01-0${_}T00:05:00Z","l":"2026-01-0${_}T00:05:00","k":1}) } 1, 3, 5);
	for my $sink (sort keys %sinks)
	{
		said("SELECT * FROM stream_agg.process_available('$sink', '1 minute')");
		wait_state($node, $sink, 'failed', $sinks{$sink}[3]);
	}
	unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset), qr/terminated by signal/, 'no process has crashed');

	sql(q{CREATE TABLE tamed (w instant, n bigint); CREATE INDEX ON tamed (w)});
	sql(call('tamed', "SELECT $zoned AS w, count(*) AS n FROM types GROUP BY 1", ''));
	process($node, 'tamed');
	is(sql('SELECT max(w) FROM tamed'), '2026-01-03 00:00:00+00', 'a domain over the type serves');
	sql('DROP INDEX tamed_w_idx; ALTER TABLE tamed ALTER w TYPE text; CREATE INDEX ON tamed (w)');
	$broker->produce('types', '{"ts":"2026-01-06T00:05:00Z","k":1}');
	said(q{SELECT * FROM stream_agg.process_available('tamed', '1 minute')});
	wait_state($node, 'tamed', 'failed', 'column "w" of sink "tamed" has type text, but windows');
};

subtest 'rows too far from any partition take no time' => sub {
	$broker->create_topic('away', 1);
	create_source($node, $broker, 'away', 'away', 'ts timestamptz, k int');
	sql(q{CREATE TABLE away_sink (w timestamptz, n bigint, UNIQUE NULLS NOT DISTINCT (w)) PARTITION BY RANGE (w);
		CREATE TABLE away_first PARTITION OF away_sink FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
		SELECT stream_agg.create_stream('away', $q$SELECT date_trunc('minute', ts) AS w, count(*) AS n FROM away GROUP BY 1$q$,
			output_mode => 'update', watermark => '2 days', trigger => '20 days', sink => 'away_sink', options => '{"retention": "2 days", "max_future": null}')});
	$broker->produce('away', map { sprintf '{"ts":"%d-01-01T%02d:%02d:00Z","k":1}', 9000 + $_ / 1440, $_ / 60 % 24, $_ % 60 } 0 .. 3999);
	# stepping from day to day it takes a minute for each of the attempts
	like(said(q{SELECT * FROM stream_agg.process_available('away', '20 s')}), qr/no partition of relation "away_sink" found for row/, 'the first one is told soon');
	sql(q{SELECT stream_agg.drop_stream('away')});
};

subtest 'partitions are made where calendars say, from afar as from near' => sub {
	$node->append_conf('postgresql.conf', "timezone = 'Europe/Berlin'");
	$node->reload;
	$broker->create_topic('grid', 1);
	create_source($node, $broker, 'grid', 'grid', 'ts timestamptz, k int');
	for my $width ([ day => '2026-01-01', '2026-01-02', '2026-07-15 00:00:00+02', '2026-07-16 00:00:00+02' ],
		[ three_days => '2026-01-01', '2026-01-04', '2026-07-15 00:00:00+02', '2026-07-18 00:00:00+02' ],
		[ month => '2026-01-01', '2026-02-01', '2026-07-01 00:00:00+02', '2026-08-01 00:00:00+02' ],
		[ quarter => '2026-01-01', '2026-04-01', '2026-07-01 00:00:00+02', '2026-10-01 00:00:00+02' ],
		[ hour => '2026-01-01 00:00', '2026-01-01 01:00', '2026-07-15 12:00:00+02', '2026-07-15 13:00:00+02' ])
	{
		my ($name, $from, $to, @bounds) = @$width;
		sql("CREATE TABLE by_$name (w timestamptz, n bigint, UNIQUE NULLS NOT DISTINCT (w)) PARTITION BY RANGE (w); CREATE TABLE by_${name}_0 PARTITION OF by_$name FOR VALUES FROM ('$from') TO ('$to');
			SELECT stream_agg.create_stream('by_$name', \$q\$SELECT date_trunc('minute', ts) AS w, count(*) AS n FROM grid GROUP BY 1\$q\$, output_mode => 'update',
				watermark => '365 days', trigger => '20 days', sink => 'by_$name', options => '{\"retention\": \"365 days\", \"max_future\": null}')");
		$broker->produce('grid', '{"ts":"2026-07-15T10:30:00Z","k":1}') if $name eq 'day';
		process($node, "by_$name");
		is(sql("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = (SELECT tableoid FROM by_$name WHERE w = '2026-07-15 10:30Z')"), "FOR VALUES FROM ('$bounds[0]') TO ('$bounds[1]')", $name);
	}
};

done_testing();
