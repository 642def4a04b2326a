# Dead letters under joins, rescans, spilled batches, crashes and their cap:
# each record is one exactly once, or counted exactly once; and they are their
# owner's.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;
use Time::HiRes 'time';

my $broker = start_broker(events => 3, many => 2);
my $node = new_node('dead_letters', 'restart_after_crash = on', 'stream_agg.keep_batches = 1000000',
	"stream_agg.batch_memory = '1MB'");
my $rng = seeded_random();
my $columns = 'ts timestamptz, k int, v int';

sub create
{
	my ($stream, $query, %args) = @_;
	my $policy = $args{policy} // 'dead_letter';
	my $batch = $args{batch} ? ", max_offsets_per_trigger => $args{batch}" : '';
	my $watermark = $args{watermark} ? ", watermark => '$args{watermark}'" : '';
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => 'update',
		trigger => '0', options => '{\"on_error\": \"$policy\"}' $batch $watermark)");
	return;
}

sub counts
{
	return $node->safe_psql('postgres', qq{SELECT total_aggregated, total_late, total_null_time, total_dead_lettered, total_filtered
		FROM stream_agg.commits WHERE stream = '$_[0]' ORDER BY batch DESC LIMIT 1});
}

sub letters
{
	return $node->safe_psql('postgres', qq{SELECT partition, "offset", convert_from(value, 'UTF8')
		FROM stream_agg.dead_letters WHERE stream = '$_[0]' ORDER BY 1, 2});
}

sub last_error { return $node->safe_psql('postgres', "SELECT last_error FROM pg_stat_stream_agg WHERE stream = '$_[0]'"); }
sub drop { $node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$_[0]', drop_sink => true)"); return; }
sub record { my ($k, $v, $ts) = @_; return sprintf('{"ts":"%s","k":%s,"v":%s}', $ts // '2026-01-01T00:00:00Z', $k, $v); }

# --- joins that repeat a record.  The second row of k = 2 has no usable time,
# whichever of the two comes first; those of k = 3 are late, and one is refused;
# k = 4 is removed by the join; k = 5 gives no event time.
create_source($node, $broker, 'events', 'events', $columns);
$node->safe_psql('postgres', q{
	CREATE TABLE dims (k int, label text, shift text);
	INSERT INTO dims VALUES (1, 'one', '0'), (1, 'uno', '0'), (2, 'two', '0'), (2, 'due', 'infinite'), (2, 'deux', '0'),
		(3, 'three', '0'), (3, 'tre', 'infinite'), (5, 'five', 'none'), (5, 'cinque', '0'), (6, 'six', 'none'), (7, 'seven', 'none'), (7, 'sette', 'infinite')});
my $joined = q{SELECT stream_agg.tumble(CASE shift WHEN 'infinite' THEN timestamptz 'infinity' WHEN '0' THEN ts END, '1 minute') AS win,
	label, count(*) AS n, sum(v) AS total FROM events JOIN dims USING (k) GROUP BY 1, 2};
$broker->produce('events', map { [ 0, '', record(1, $_) ] } 1 .. 3);
create('repeated', $joined, watermark => '1 minute');
process($node, 'repeated');
$broker->produce('events', [ 1, '', record(1, 10, '2026-01-01T01:00:00Z') ]);
process($node, 'repeated');
$broker->produce('events', [ 0, '', record(2, 1, '2026-01-01T02:00:00Z') ], [ 0, '', record(3, 1) ], [ 0, '', record(4, 1) ],
	[ 1, '', record(5, 1, '2026-01-01T01:10:00Z') ], [ 1, '', record(6, 1) ], [ 1, '', record(7, 1) ], [ 2, '', record(1, 5) ],
	[ 2, '', record(1, 20, '2026-01-01T01:10:00Z') ], [ 2, '', 'nonsense' ]);
process($node, 'repeated');
is(letters('repeated'), join("\n", '0|3|' . record(2, 1, '2026-01-01T02:00:00Z'), '0|4|' . record(3, 1), '1|3|' . record(7, 1), '2|2|nonsense'),
	'a record of which a join makes a row that is refused is a dead letter, once');
is(counts('repeated'), '6|1|1|4|1', 'each record is in one of the counts');
counts_add_up($node, 'repeated', 13, 'which add up');
is($node->safe_psql('postgres', q{SELECT lower(win) AT TIME ZONE 'UTC', label, n, total FROM repeated ORDER BY 1, 2}),
	join("\n", '2026-01-01 00:00:00|one|3|6', '2026-01-01 00:00:00|uno|3|6', '2026-01-01 01:00:00|one|1|10', '2026-01-01 01:00:00|uno|1|10',
		'2026-01-01 01:10:00|cinque|1|1', '2026-01-01 01:10:00|one|1|20', '2026-01-01 01:10:00|uno|1|20'),
	'no row of a dead letter was aggregated');
is($node->safe_psql('postgres', q{SELECT watermark AT TIME ZONE 'UTC' FROM pg_stat_stream_agg WHERE stream = 'repeated'}), '2026-01-01 01:09:00',
	'or moved the watermark');
drop('repeated');

# --- a plan that scans the source again and again
$node->safe_psql('postgres', q{
	ALTER DATABASE postgres SET enable_material = off;
	ALTER DATABASE postgres SET enable_hashjoin = off;
	ALTER DATABASE postgres SET enable_mergejoin = off});
my $rescanned = q{SELECT d.label, count(*) AS n, sum(v) AS total FROM events e,
	(SELECT k, label FROM dims, generate_series(1, 10000) WHERE k < 3 GROUP BY 1, 2) d WHERE e.v + d.k > 2 GROUP BY 1};
create('rescanned', $rescanned);
my $plan = $node->safe_psql('postgres', "EXPLAIN (COSTS off) $rescanned");
like($plan, qr/Nested Loop\n.*Join Filter.*\n +->  HashAggregate\n(?s:.*)\n +->  Foreign Scan on events/, 'the plan scans the source once for each row of the other side');
process($node, 'rescanned');
is(letters('rescanned'), '2|2|nonsense', 'scanned again, a record is refused once');
is(counts('rescanned'), (split /\n/, $node->safe_psql('postgres', q{
	SELECT count(*) || '|0|0|1|' || 12 - count(*) FROM (VALUES (1), (2), (3), (10), (1), (1), (1), (1), (1), (1), (5), (20)) AS e(v)
	 WHERE EXISTS (SELECT FROM dims d WHERE d.k < 3 AND e.v + d.k > 2)}))[0], 'and counts once');
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET ALL');
drop('rescanned');

# --- a batch that does not fit into memory, with dead letters all over it, and
# one of them larger than a buffer
$broker->create_topic('large', 2);
create_source($node, $broker, 'large', 'large', "$columns, filler text");
my $filler = 'x' x 2000;
my (@bad, $good);
for my $i (0 .. 2999)
{
	my $bad = $i % 600 == 5 || $i == 2999 || $i == 1;
	my $value = sprintf('{"ts":"2026-01-01T00:00:00Z","k":%d,"v":%s,"filler":"%s"}', $i % 5, $bad ? '"bad"' : $i,
		$i == 605 ? 'y' x 200_000 : $filler);
	$broker->{batch} .= ($i % 2) . "\tkey $i\t$value\n";
	push @bad, join('|', $i % 2, "key $i", $value) if $bad;
}
IPC::Run::run([ $ENV{KAFKA_TOOL}, 'produce', '--brokers', $broker->brokers, '--topic', 'large', '--tab' ], '<', \$broker->{batch})
  or die 'cannot produce';
create('spilled', 'SELECT k, count(*) AS n, sum(v) AS total FROM large GROUP BY k', batch => 100000);
process($node, 'spilled');
is($node->safe_psql('postgres', q{SELECT partition, convert_from(key, 'UTF8'), convert_from(value, 'UTF8')
	FROM stream_agg.dead_letters WHERE stream = 'spilled' ORDER BY substr(convert_from(key, 'UTF8'), 5)::int}), join("\n", @bad),
	'dead letters of a spilled batch are whole');
is(counts('spilled'), (3000 - @bad) . '|0|0|' . @bad . '|0', 'its counts are exact');
cmp_ok($node->safe_psql('postgres', q{SELECT max(delivered) FROM stream_agg.commits WHERE stream = 'spilled'}), '>', 1000,
	'it was a batch that spilled');
is($node->safe_psql('postgres', 'SELECT sum(n), sum(total) FROM spilled'),
	join('|', 3000 - @bad, 2999 * 3000 / 2 - (5 + 605 + 1205 + 1805 + 2405 + 2999 + 1)), 'its good records count');
drop('spilled');

# --- crashes: every record is counted once, every bad one a dead letter once
create_source($node, $broker, 'many', 'many', $columns);
$node->safe_psql('postgres', q{
	CREATE FUNCTION slowly(int) RETURNS int STABLE LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_sleep(0.0003);
		RETURN $1;
	END $$});
my $produced = 0;
my (@dead, @alive);
sub produce_many
{
	my @records = map {
		my $bad = $rng->(4) == 0;
		my $value = $bad ? one_bad($produced) : record($rng->(10), $produced);
		push @{ $bad ? \@dead : \@alive }, $produced;
		[ $produced++ % 2, '', $value ] } 1 .. shift;
	$broker->produce('many', @records);
	return;
}
sub one_bad { my $i = shift; return (qq({"v":"bad $i"}), qq({"n":$i), record(1, $i, 'infinity'))[ $i % 3 ]; }
produce_many(300);
create('crashed', q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n, sum(slowly(v)) AS total FROM many GROUP BY 1, 2},
	batch => 40, watermark => '1 day');
for my $round (1 .. 4)
{
	my $pid = worker_pid($node, 'crashed');
	my $batches = $node->safe_psql('postgres', q{SELECT count(*) FROM stream_agg.commits WHERE stream = 'crashed'});
	produce_many(200);
	$node->poll_query_until('postgres', "SELECT count(*) > $batches FROM stream_agg.commits WHERE stream = 'crashed'");
	if ($round == 4) { $node->stop('immediate'); $node->start; }
	else { kill_backends($node, $pid); }
}
process($node, 'crashed');
counts_add_up($node, 'crashed', $produced, 'after crashes the counts add up');
is(counts('crashed'), @alive . '|0|0|' . @dead . '|0', 'and are exact');
is($node->safe_psql('postgres', q{SELECT sum(n), sum(total) FROM crashed}), join('|', scalar @alive, eval { my $s = 0; $s += $_ for @alive; $s }),
	'every good record counted once');
is($node->safe_psql('postgres', q{SELECT "offset" * 2 + partition FROM stream_agg.dead_letters WHERE stream = 'crashed' ORDER BY 1}),
	join("\n", @dead), 'every bad one is a dead letter, once');
is($node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT batch, count(*) AS n FROM stream_agg.dead_letters WHERE stream = 'crashed' GROUP BY 1) d
	FULL JOIN (SELECT batch, dead_lettered AS n FROM stream_agg.commits WHERE stream = 'crashed' AND dead_lettered > 0) c USING (batch)
	WHERE d.n IS DISTINCT FROM c.n}), 0, 'as many in each batch as its commit says');
drop('crashed');

# --- the cap: reached by one batch, or together with what is there
$broker->create_topic('capped', 1);
create_source($node, $broker, 'capped', 'capped', $columns);
$node->append_conf('postgresql.conf', 'stream_agg.max_dead_letters = 5');
$node->reload;
$broker->produce('capped', map { [ 0, '', record(1, $_ % 2 ? $_ : '"bad"') ] } 1 .. 8);
create('few', 'SELECT k, count(*) AS n, sum(v) AS total FROM capped GROUP BY k', batch => 8);
process($node, 'few');
is(counts('few'), '4|0|0|4|0', 'below the cap');
$node->safe_psql('postgres', q{SELECT stream_agg.stop_stream('few')});
$broker->produce('capped', map { [ 0, '', record(1, $_ % 2 ? $_ : '"bad"') ] } 1 .. 4);
$node->safe_psql('postgres', q{SELECT stream_agg.start_stream('few')});
wait_state($node, 'few', 'failed');
like(last_error('few'), qr/would have more than 5 dead letters\nDETAIL:  There are 4, and this micro-batch adds \d\.\nHINT:  .*dead_letters.*max_dead_letters/,
	'beyond it the stream fails and says what to do');
is(counts('few'), '4|0|0|4|0', 'and nothing of the batch is committed');
is($node->safe_psql('postgres', q{SELECT n FROM few}), 4, 'nor written');
$node->safe_psql('postgres', q{SELECT stream_agg.delete_dead_letters('few'); SELECT stream_agg.start_stream('few')});
process($node, 'few');
is(counts('few'), '6|0|0|6|0', 'with rows deleted it goes on');
is(letters('few'), "0|9|" . record(1, '"bad"') . "\n0|11|" . record(1, '"bad"'), 'with those that are new');
$broker->produce('capped', map { [ 0, '', 'x' ] } 1 .. 8);
wait_state($node, 'few', 'failed');
$node->append_conf('postgresql.conf', 'stream_agg.max_dead_letters = 100');
$node->reload;
$node->safe_psql('postgres', q{SELECT stream_agg.start_stream('few')});
process($node, 'few');
is(counts('few'), '6|0|0|14|0', 'or with the setting raised');
drop('few');

# --- a batch of nothing but garbage
$broker->create_topic('garbage', 1);
create_source($node, $broker, 'garbage', 'garbage', $columns);
$broker->produce('garbage', map { [ 0, '', $_ % 2 ? "garbage $_" : "{\"k\": \"garbage $_\"}" ] } 1 .. 100_000);
$node->append_conf('postgresql.conf', 'stream_agg.max_dead_letters = 200000');
$node->reload;
for my $policy ('skip', 'dead_letter')
{
	my $before = -s $node->logfile;
	my $started = time;
	create("garbage_$policy", 'SELECT k, count(*) AS n FROM garbage GROUP BY k', policy => $policy);
	process($node, "garbage_$policy");
	is(counts("garbage_$policy"), '0|0|0|100000|0', sprintf('%s: 100,000 records of garbage, in %.1f s', $policy, time - $started));
	cmp_ok(-s $node->logfile, '<', $before + 100_000, "$policy: and the log stays short");
}
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT "offset"), bool_and(strpos(convert_from(value, 'UTF8'), 'garbage ' || "offset" + 1) > 0),
	count(*) FILTER (WHERE error ~ 'invalid JSON'), count(*) FILTER (WHERE error ~ 'not a valid integer' AND detail ~ 'invalid input syntax')
	FROM stream_agg.dead_letters}), '100000|100000|t|50000|50000', 'all of them are dead letters');
drop("garbage_$_") for qw(skip dead_letter);

# --- they are their owner's
$node->safe_psql('postgres', q{CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN; GRANT CREATE ON SCHEMA public TO alice;
	GRANT SELECT ON capped TO alice});
sub as
{
	my ($role, $sql) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
	return $out . $err;
}
as('alice', q{SELECT stream_agg.create_stream('hers', 'SELECT k, count(*) AS n FROM capped GROUP BY k', output_mode => 'update',
	options => '{"on_error": "dead_letter"}', start => false)});
$node->safe_psql('postgres', q{CREATE USER MAPPING FOR alice SERVER } . $node->safe_psql('postgres',
	q{SELECT quote_ident(foreign_server_name) FROM information_schema.foreign_tables WHERE foreign_table_name = 'capped'}));
as('alice', q{SELECT stream_agg.start_stream('hers')});
process($node, 'hers');
is(as('alice', 'SELECT count(*) FROM stream_agg.dead_letters'), 8, 'the owner sees them');
is(as('bob', 'SELECT count(*) FROM stream_agg.dead_letters'), 0, 'another role sees nothing');
like(as('bob', $_), qr/permission denied|must be owner/, "who cannot: $_")
  for 'DELETE FROM stream_agg.dead_letters', q{SELECT stream_agg.delete_dead_letters('hers')};
is(as('alice', 'SELECT count(*) FROM stream_agg.dead_letters'), 8, 'and has deleted nothing');
like(as('alice', q{INSERT INTO stream_agg.dead_letters SELECT stream, batch, topic, 9, 9, NULL, NULL, NULL, NULL, 'x' FROM stream_agg.dead_letters LIMIT 1}),
	qr/permission denied for table dead_letters/, 'the owner adds none');
like(as('alice', q{UPDATE stream_agg.dead_letters SET error = ''}), qr/permission denied for table dead_letters/, 'nor changes them');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
like(PostgreSQL::Test::Utils::slurp_file($dump), qr/COPY stream_agg\.dead_letters .*FROM stdin;\n(?:hers\t.*\n){8}\\\./, 'dumps them');
is(as('alice', q{SELECT stream_agg.delete_dead_letters('hers', -1), stream_agg.delete_dead_letters('hers')}), '0|8',
	'the owner deletes those up to a micro-batch, and all');
is(as('alice', 'SELECT count(*) FROM stream_agg.dead_letters'), 0, 'and they are gone');

done_testing();
