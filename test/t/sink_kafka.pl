# Streams whose sink is a Kafka topic, and chains of them: what readers find is
# the batch query; after crashes and failures, once repeats are dropped by their
# headers.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 2);
my $other = start_broker(minutes => 3, groups => 3, remote => 1);
my $node = new_node('kafka_sink', 'restart_after_crash = on', 'stream_agg.keep_batches = 1000000', 'timezone = UTC');
my $rng = seeded_random();
my ($produced, $second) = (0, 0);

sub value { return $node->safe_psql('postgres', $_[0]); }
sub refused { my ($sql, $error, $name) = @_;
	my (undef, undef, $stderr) = $node->psql('postgres', $sql); like($stderr, $error, $name); return; }

# chunks of 20 seconds of event time
sub produce
{
	my @records;
	for (1 .. 20 * ($_[0] // 1))
	{
		my $ts = sprintf('2026-01-01T%02d:%02d:%02dZ', int($second / 3600), int($second / 60) % 60, $second % 60);
		push @records, [ $produced++ % 2, '', sprintf('{"ts":"%s","k":"%s","v":%d}', $ts, 'key \\"' . $rng->(4), $rng->(1000)) ];
		$second++;
	}
	$broker->produce('events', @records);
	return;
}

my $headers = 'h jsonb OPTIONS (metadata $m$headers$m$), key text OPTIONS (metadata $m$key$m$), part int OPTIONS (metadata $m$partition$m$), "offset" bigint OPTIONS (metadata $m$offset$m$)';
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k text, v int');
create_source($node, $other, 'minutes', 'minutes', "win tstzrange, k text, n bigint, total bigint, $headers");
create_source($node, $other, 'groups', 'groups', "k text, n bigint, total bigint, $headers");
create_source($node, $other, 'remote', 'remote', "k text, n bigint, $headers");
my $by_minute = q{SELECT stream_agg.tumble(ts, '20 seconds') AS win, k, count(*) AS n, sum(v) AS total FROM events GROUP BY 1, 2};
my $by_key = 'SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k';
my $once = q{'{"delivery": "at_least_once"}'};

sub create { my ($stream, $query, $more) = @_;
	return "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, trigger => '0', $more)"; }

# --- refused
refused(create('a', $by_minute, q{watermark => '0', sink => 'minutes'}),
	qr/sink "minutes" is a Kafka topic, which does not get every row exactly once.*HINT:  Accept that with options => '\{"delivery": "at_least_once"\}'/s,
	'without being told, no stream delivers at least once');
refused(create('a', $by_key, "output_mode => 'complete', sink => 'groups', options => $once"), qr/output mode "complete" needs a table/, 'complete mode');
refused(create('a', "$by_key HAVING sum(v) > 5", "output_mode => 'update', sink => 'groups', options => $once"), qr/HAVING is not supported/, 'HAVING in update mode');
refused(create('a', $by_minute =~ s/k, count/count/r =~ s/1, 2/1, k/r, "watermark => '0', sink => 'minutes', options => $once"), qr/omits k, by which the query groups/, 'no identity');
refused(create('a', $by_minute, "watermark => '0', sink => 'groups', options => $once"), qr/sink "groups" has no column "win"/, 'a column that is missing');
refused(create('a', $by_key, "output_mode => 'update', options => $once"), qr/delivery "at_least_once" is for sinks that are Kafka topics/, 'a table');
refused(create('a', 'SELECT k, sum(n)::bigint AS n FROM groups GROUP BY k', "output_mode => 'update', sink => 'groups', options => $once"),
	qr/would read its own results/, 'a stream that reads what it writes');
refused(create('a', $by_key, q{output_mode => 'update', options => '{"delivery": "maybe"}'}), qr/invalid delivery "maybe".*HINT:  Valid values are exactly_once/s, 'another word');

# --- a chain of two streams, without failures
my $by_hour = q{SELECT stream_agg.tumble(lower(win), '1 hour') AS hour, k, sum(n) AS n, sum(total) AS total, count(*) AS windows FROM minutes GROUP BY 1, 2};
value(create('minutes_made', $by_minute, "watermark => '1 minute', sink => 'minutes', options => $once"));
value(create('hours', $by_hour, q{output_mode => 'update', watermark => '1000 days'}));
for (1 .. 8) { produce(2); process($node, 'minutes_made'); }
process($node, 'hours');
my $closed = q{SELECT * FROM minutes_made_query WHERE upper(win) <= (SELECT watermark FROM pg_stat_stream_agg WHERE stream = 'minutes_made')};
is_equal_tables($node, 'SELECT win, k, n, total FROM minutes', $closed, 'append: the topic has the rows of closed windows');
is_equal_tables($node, 'SELECT * FROM hours', "WITH minutes AS ($closed) $by_hour", 'and a stream that reads it has their sum');
cmp_ok(value('SELECT count(*) FROM minutes'), '>', 20, 'of many rows');
is(value(q{SELECT count(DISTINCT h -> 1) > 1 AND bool_and(h @> '[{"key": "stream_agg.stream", "value": "minutes_made"}]' AND h -> 1 ->> 'key' = 'stream_agg.batch')
	FROM minutes}), 't', 'headers tell stream and batch');
is(value(q{SELECT bool_and((h -> 2 ->> 'value')::jsonb = jsonb_build_array(win, k)), bool_and(key = h -> 2 ->> 'value') FROM minutes}), 't|t',
	'and the row, by window and keys, which is the key of the record too');
is(value(q{SELECT rows_out FROM pg_stat_stream_agg WHERE stream = 'minutes_made'}), value('SELECT count(*) FROM minutes'), 'they are counted');

# --- update mode: a record whenever a group has changed
value(create('groups_made', $by_key, "output_mode => 'update', sink => 'groups', options => $once"));
for (1 .. 3) { process($node, 'groups_made'); produce(); }
process($node, 'groups_made');
my $last = q{SELECT k, n, total FROM (SELECT *, row_number() OVER (PARTITION BY key ORDER BY part, "offset" DESC) AS r FROM groups) x WHERE r = 1};
is_equal_tables($node, $last, $by_key, 'update: the last record of each row is its result');
is(value('SELECT max(n) FROM (SELECT count(DISTINCT part) AS n FROM groups GROUP BY key) x'), 1, 'a row stays in its partition');
refused(q{SELECT stream_agg.alter_stream('groups_made', '{"delivery": null}')}, qr/is a Kafka topic/, 'the option stays');

# --- crashes after everything is acknowledged and before the commit: every time
# the rows are sent again
sub crash_before_commit
{
	my @streams = @_;
	my $out = '';
	my $holder = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'),
			'-c', 'LOCK TABLE stream_agg.commits IN EXCLUSIVE MODE; SELECT pg_sleep(6000)' ], '>', \$out, '2>', '/dev/null');
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE relation = 'stream_agg.commits'::regclass AND mode = 'ExclusiveLock' AND granted})
	  or die 'no lock';
	produce(2);
	my $waiting = q{SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.relation = 'stream_agg.commits'::regclass AND NOT l.granted AND a.query ~ 'CHECKPOINT' AND l.pid IN (SELECT pid FROM pg_stat_stream_agg WHERE stream IN (}
	  . join(',', map { "'$_'" } @streams) . '))';
	$node->poll_query_until('postgres', "SELECT count(*) = " . @streams . " FROM ($waiting) x") or die 'no batch is there';
	kill_backends($node, split /\n/, value($waiting));
	$holder->finish;
	return;
}
for my $round (1 .. 3) { crash_before_commit('minutes_made', 'groups_made'); process($node, $_) for qw(minutes_made groups_made); }
my $distinct = q{SELECT DISTINCT ON (h) win, k, n, total FROM minutes ORDER BY h};
cmp_ok(value('SELECT count(*) - count(DISTINCT h) FROM minutes'), '>=', 3, 'append, crashes: records come again');
is_equal_tables($node, $distinct, $closed, 'without those of the same stream, batch and row it is the result');
cmp_ok(value('SELECT count(*) - count(DISTINCT h) FROM groups'), '>=', 3, 'update, crashes: records come again');
is_equal_tables($node, $last, $by_key, 'and the last one of each row is its result');
is_equal_tables($node, 'SELECT k, n, total FROM (SELECT DISTINCT ON (h) * FROM groups ORDER BY h) x',
	'SELECT DISTINCT k, n, total FROM groups', 'a record that comes again is the same');
process($node, 'hours');
is_equal_tables($node, 'SELECT * FROM hours', $by_hour, 'a stream that reads the topic has its records as often as they are there');
is_equal_tables($node, $by_hour =~ s/FROM minutes/FROM (SELECT DISTINCT ON (h) * FROM minutes) m/r, "WITH minutes AS ($closed) $by_hour",
	'so repeats are to be dropped before it adds up');

# a chained stream that repeats do not change
# --- a table of which a partition is a topic
value(q{CREATE TABLE parted (k text, n bigint) PARTITION BY LIST (k); CREATE TABLE parted_rest PARTITION OF parted DEFAULT PARTITION BY LIST (k);
	CREATE TABLE parted_last PARTITION OF parted_rest DEFAULT});
create_source($node, $other, 'below', 'remote', 'k text, n bigint');
my $topic_records = value('SELECT count(*) FROM below');
my $into_parted = create('parted_made', 'SELECT k, count(*) AS n FROM events GROUP BY k', "sink => 'parted', output_mode => 'append'") =~ s/SELECT k, count\(\*\) AS n FROM events GROUP BY k/SELECT k, v::bigint AS n FROM events/r;
value(q{ALTER TABLE parted_rest ATTACH PARTITION below FOR VALUES IN ('x')});
refused($into_parted, qr/ERROR:  partition "below" of sink "parted" is a foreign table.*HINT:  Detach the partition/s, 'a partition that is a topic, two levels down');
value('ALTER TABLE parted_rest DETACH PARTITION below');
value($into_parted);
process($node, 'parted_made');
value(q{SELECT stream_agg.stop_stream('parted_made')});
value(q{ALTER TABLE parted_rest DETACH PARTITION parted_last; ALTER TABLE parted_rest ATTACH PARTITION below DEFAULT});
produce();
refused(q{SELECT stream_agg.preview('parted_made')}, qr/partition "below" of sink "parted" is a foreign table/, 'preview, when it is attached later');
value(q{SELECT stream_agg.start_stream('parted_made')});
wait_state($node, 'parted_made', 'failed', 'partition "below" of sink "parted" is a foreign table');
is(value('SELECT count(*) FROM below'), $topic_records, 'and no record is produced');
value(q{ALTER TABLE parted_rest DETACH PARTITION below; ALTER TABLE parted_rest ATTACH PARTITION parted_last DEFAULT; SELECT stream_agg.start_stream('parted_made')});
process($node, 'parted_made');
is_equal_tables($node, 'SELECT * FROM parted', 'SELECT k, v FROM events', 'once it is detached the stream goes on');
value(q{SELECT stream_agg.drop_stream('parted_made'); DROP TABLE parted; DROP FOREIGN TABLE below});

# --- triggers of a topic that insert into it: the stream's own INSERT goes on meanwhile
for my $when ('BEFORE', 'AFTER')
{
	my $topic = 'nested_' . lc $when;
	$other->create_topic($topic);
	create_source($node, $other, $topic, $topic, 'k text, n bigint');
	value(qq{CREATE FUNCTION $topic() RETURNS trigger LANGUAGE plpgsql AS \$q\$ BEGIN
			IF pg_trigger_depth() > 1 OR TG_LEVEL = 'ROW' AND NEW.n % 25 <> 0 THEN RETURN NEW; END IF;
			INSERT INTO $topic VALUES (lower(TG_LEVEL), -1);
			BEGIN INSERT INTO $topic SELECT 'failed', 1 / i FROM generate_series(1, 0, -1) i; EXCEPTION WHEN division_by_zero THEN NULL; END;
			INSERT INTO $topic VALUES (lower(TG_LEVEL), -2); RETURN NEW; END \$q\$;
		CREATE TRIGGER each $when INSERT ON $topic FOR EACH ROW EXECUTE FUNCTION $topic();
		CREATE TRIGGER once BEFORE INSERT ON $topic FOR EACH STATEMENT EXECUTE FUNCTION $topic()});
	value(create("made_$when", 'SELECT k, v::bigint AS n FROM events', "sink => '$topic', output_mode => 'append', options => $once"));
	process($node, lc "made_$when");
	is_equal_tables($node, "SELECT * FROM $topic WHERE n >= 0 AND k <> 'failed'", 'SELECT k, v FROM events', "$when: every row of the stream is a record");
	is_equal_tables($node, "SELECT n FROM $topic WHERE k = 'row'", 'SELECT unnest(ARRAY[-1, -2]) FROM events WHERE v % 25 = 0', 'and every one that the trigger inserts');
	value("SELECT stream_agg.drop_stream('made_$when'); DROP FOREIGN TABLE $topic; DROP FUNCTION $topic");
}
unlike(slurp_file($node->logfile), qr/terminated by signal 11/, 'no worker crashes');

value(create('longest', q{SELECT win, k, max(n) AS n, max(total) AS total FROM minutes GROUP BY 1, 2}, q{output_mode => 'update'}));
process($node, 'longest');
is_equal_tables($node, 'SELECT * FROM longest', $closed, 'a stream whose aggregates do not mind repeats has exactly the result');

# --- a broker that does not answer: the batch fails, no transaction stays open,
# and the stream goes on by itself
$node->append_conf('postgresql.conf', "stream_agg.kafka_timeout = '1s'");
$node->reload;
value(create('remote_made', 'SELECT k, count(*) AS n FROM events GROUP BY k', "output_mode => 'update', sink => 'remote', options => $once"));
process($node, 'remote_made');
value(q{SELECT stream_agg.stop_stream(stream) FROM stream_agg.streams WHERE stream <> 'remote_made'});
$other->down;
produce();
wait_state($node, 'remote_made', 'retrying', 'Kafka acknowledged 0 of \d+ records for topic "remote"');
ok($node->poll_query_until('postgres', q{SELECT xact_start IS NULL FROM pg_stat_activity JOIN pg_stat_stream_agg s USING (pid) WHERE stream = 'remote_made'}), 'a broker that does not answer: no transaction stays open');
$other->up;
process($node, 'remote_made');
is_equal_tables($node, q{SELECT k, n FROM (SELECT *, row_number() OVER (PARTITION BY key ORDER BY "offset" DESC) AS r FROM remote) x WHERE r = 1},
	'SELECT k, count(*) FROM events GROUP BY k', 'and then it goes on');

# --- a group whose record is too large for the topic is left out, the others are written
$broker->create_topic('long');
$other->create_topic('too_long');
create_source($node, $broker, 'long', 'long', 'ts timestamptz, k text');
create_source($node, $other, 'too_long', 'too_long', 'win tstzrange, k text, n bigint');
value(create('long_made', q{SELECT stream_agg.tumble(ts, '20 seconds') AS win, k, count(*) AS n FROM long GROUP BY 1, 2},
	q{watermark => '0', sink => 'too_long', options => '{"delivery": "at_least_once", "on_error": "dead_letter"}'}));
my $long = 'x' x 400_000;
$broker->produce('long', map { [ 0, '', qq({"ts":"2026-02-01T00:00:00Z","k":"$_"}) ] } 'a', $long, 'b', 'c');
$broker->produce('long', [ 0, '', '{"ts":"2026-02-01T01:00:00Z","k":"d"}' ]);
process($node, 'long_made');
is(value(q{SELECT string_agg(DISTINCT k, ' ' ORDER BY k) FROM too_long}), 'a b c', 'the groups beside one that is too large are written');
like(value(q{SELECT count(*), min(error), min(detail) FROM stream_agg.failed_windows WHERE stream = 'long_made'}), qr/^1\|.*size too large/s, 'which is a failed window');

# --- a topic's columns change
value('ALTER FOREIGN TABLE remote DROP COLUMN n');
produce();
wait_state($node, 'remote_made', 'failed', 'sink "remote" has no column "n"');
value(q{ALTER FOREIGN TABLE remote ADD COLUMN n bigint; SELECT stream_agg.start_stream('remote_made')});
process($node, 'remote_made');
value(q{SELECT stream_agg.drop_stream(stream, drop_sink => true) FROM stream_agg.streams});
is(value(q{SELECT count(*) FROM pg_class WHERE relname IN ('minutes', 'groups', 'remote')}), 3, 'foreign tables stay when their streams are dropped');

done_testing();
