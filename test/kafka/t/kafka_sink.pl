# A Kafka topic as a stream's sink, on Apache Kafka itself: a broker that is
# killed and comes back, and a server that crashes before it commits, may make
# records come again; without those of the same stream, batch and row, or with the
# last of each row, there is exactly the batch query.

use strict;
use warnings;

use IPC::Run;
use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

my $kafka = StreamAgg::Kafka->new(nodes => 1);
my $node = new_node('kafka_sink', 'restart_after_crash = on', 'stream_agg.keep_batches = 1000000', 'timezone = UTC');
my $rng = seeded_random();
my ($produced, $second) = (0, 0);
my $headers = 'h jsonb OPTIONS (metadata $m$headers$m$), key text OPTIONS (metadata $m$key$m$), part int OPTIONS (metadata $m$partition$m$), "offset" bigint OPTIONS (metadata $m$offset$m$)';

sub value { return $node->safe_psql('postgres', $_[0]); }

sub produce
{
	my @records = map { $second++;
		[ $produced++ % 2, '', sprintf('{"ts":"2026-01-01T%02d:%02d:%02dZ","k":%d,"v":%d}', int($second / 3600), int($second / 60) % 60,
				$second % 60, $rng->(20), $rng->(1000)) ] } 1 .. $_[0];
	$kafka->produce('events', @records);
	return;
}

# a batch may have read one partition only, so nothing that is produced at once
# may be late by the other one
$kafka->create_topic('events', 2);
$kafka->create_topic($_, 3) for qw(minutes groups);
create_source($node, $kafka, 'events', 'events', 'ts timestamptz, k int, v int');
create_source($node, $kafka, 'minutes', 'minutes', "win tstzrange, k int, n bigint, total bigint, $headers");
create_source($node, $kafka, 'groups', 'groups', "k int, n bigint, total bigint, $headers");
my $by_key = 'SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k';
my $once = q{'{"delivery": "at_least_once"}'};
value(qq{SELECT stream_agg.create_stream('minutes_made', \$\$ SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n, sum(v) AS total
	FROM events GROUP BY 1, 2 \$\$, watermark => '11 minutes', trigger => '0', sink => 'minutes', options => $once)});
value(qq{SELECT stream_agg.create_stream('groups_made', '$by_key', output_mode => 'update', trigger => '0', sink => 'groups', options => $once)});
value(q{SELECT stream_agg.create_stream('chained', 'SELECT win, k, max(n) AS n, max(total) AS total FROM minutes GROUP BY 1, 2',
	output_mode => 'update', trigger => '0')});

my $closed = q{SELECT * FROM minutes_made_query WHERE upper(win) <= (SELECT watermark FROM pg_stat_stream_agg WHERE stream = 'minutes_made')};
my $last = q{SELECT k, n, total FROM (SELECT *, row_number() OVER (PARTITION BY key ORDER BY part, "offset" DESC) AS r FROM groups) x WHERE r = 1};

sub check
{
	my $what = shift;
	process($node, $_) for qw(minutes_made groups_made chained);
	is_equal_tables($node, q{SELECT DISTINCT ON (h) win, k, n, total FROM minutes ORDER BY h}, $closed, "$what: append, without repeats");
	is_equal_tables($node, $last, $by_key, "$what: update, the last record of each row");
	is_equal_tables($node, 'SELECT * FROM chained', $closed, "$what: a stream that reads the topic");
	return;
}

for (1 .. 3) { produce(400); process($node, $_) for qw(minutes_made groups_made); }
check('a chain');
is(value('SELECT count(*) - count(DISTINCT h) FROM minutes'), 0, 'without failures nothing comes twice');

for my $round (1 .. 2)
{
	produce(300);
	$kafka->kill_node(1);
	$kafka->start_node(1);
}
check('a broker that is killed');

my $holder = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'),
		'-c', 'LOCK TABLE stream_agg.commits IN EXCLUSIVE MODE; SELECT pg_sleep(6000)' ], '>', \my $out, '2>', '/dev/null');
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE relation = 'stream_agg.commits'::regclass AND mode = 'ExclusiveLock' AND granted});
produce(300);
my $waiting = q{SELECT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.relation = 'stream_agg.commits'::regclass
	AND NOT l.granted AND a.query ~ 'CHECKPOINT' AND l.pid IN (SELECT pid FROM pg_stat_stream_agg WHERE stream IN ('minutes_made', 'groups_made'))};
$node->poll_query_until('postgres', "SELECT count(*) = 2 FROM ($waiting) x") or die 'no batch is there';
kill_backends($node, split /\n/, value($waiting));
$holder->finish;
check('a crash before the commit');
cmp_ok(value('SELECT count(*) - count(DISTINCT h) FROM groups'), '>', 0, 'which made records come again');

done_testing();
