# Sources of several topics, named in a list or by a pattern: partitions of the
# same number in different topics never mix, in the log, in SELECT, through
# restarts and crashes; topics that come are read from their first offset, and
# topics that go stop the stream.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker('visits-eu' => 3, 'visits-us' => 2, 'unrelated' => 2, '__visits' => 1, 'single' => 2);
my $node = new_node('topics', 'restart_after_crash = on', 'stream_agg.max_attempts = 3', 'max_worker_processes = 24');
my $brokers = $broker->brokers;
my $random = seeded_random();
my %produced;

# Records of a topic, in all its partitions.  Their times rise slowly, so that
# none is late.
my $clock = 0;
sub produce
{
	my ($topic, $partitions, $records) = @_;
	$produced{$topic} += $records;
	$broker->produce($topic, map {
		[ $random->($partitions), undef, sprintf('{"ts": "2026-01-01T%02d:%02d:00Z", "k": %d, "v": %d}',
				$clock / 60 % 24, $clock % 60, $random->(4), $random->(100)) ] } 1 .. $records);
	$clock++;
	return;
}

sub sum { my $sum = 0; $sum += $produced{$_} // 0 for @_; return $sum; }
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub fails { my ($stdout, $stderr); $node->psql('postgres', $_[0], stdout => \$stdout, stderr => \$stderr); return $stderr; }

my $columns = q{ts timestamptz, k int, v int, topic text OPTIONS (metadata 'topic'),
	part int OPTIONS (metadata 'partition'), pos bigint OPTIONS (metadata 'offset')};

# a source, and a stream over it
sub create
{
	my ($name, $topics, %with) = @_;
	my $more = join('', map { ", $_ => '$with{$_}'" } sort keys %with);
	sql(qq{SELECT stream_agg.create_source('source_$name', $topics, brokers => '$brokers',
			columns => \$c\$$columns\$c\$, options => '{"fetch.wait.max.ms": 20}');
		SELECT stream_agg.create_stream('$name',
			\$q\$ SELECT stream_agg.tumble(ts, '10 minutes') AS win, topic, k, count(*) AS n, sum(v) AS total, max(pos) AS last
				FROM source_$name GROUP BY 1, 2, 3 \$q\$, output_mode => 'update'$more)});
	return;
}

sub equals
{
	my ($name, $text, @topics) = @_;
	process($node, $name);
	is_equal_tables($node, "SELECT * FROM $name", "SELECT * FROM ${name}_query", $text);
	counts_add_up($node, $name, sum(@topics), 'every record once');
	return;
}

# what a column of the log says of a stream's last batch
sub logged { return sql("SELECT $_[1] FROM stream_agg.$_[0] WHERE stream = '$_[2]' ORDER BY 1 DESC LIMIT 1"); }

produce('visits-eu', 3, 200);
produce('visits-us', 2, 100);
produce('unrelated', 2, 50);
produce('__visits', 1, 10);

# --- a stream whose pattern is asked by nobody but the worker itself; it is
# looked at again at the end
create('unasked', q{topic_pattern => '^late-'}, trigger => '0');
$node->poll_query_until('postgres', q{SELECT state = 'running' FROM pg_stat_stream_agg WHERE stream = 'unasked'});
is(sql(q{SELECT count(*) FROM source_unasked}), '0', 'a pattern without topics has no records');
is(sql(q{SELECT initial_offsets, topic FROM stream_agg.sources}), '{}|', 'a stream without topics waits for some');
$broker->create_topic('late-riser', 2);
produce('late-riser', 2, 20);

# --- a list
create('listed', q{topics => ARRAY['visits-us', 'visits-eu']}, max_offsets_per_trigger => 7, trigger => '0');
equals('listed', 'a list of topics', 'visits-eu', 'visits-us');
is(sql(q{SELECT array_agg(topic || ':' || partition ORDER BY 1) FROM (SELECT topic, partition FROM pg_stat_stream_agg_partitions WHERE stream = 'listed') p}),
	'{visits-eu:0,visits-eu:1,visits-eu:2,visits-us:0,visits-us:1}', 'partitions by topic in the statistics');
is(sql(q{SELECT sum(lag), sum(committed_offset) FROM pg_stat_stream_agg_partitions WHERE stream = 'listed'}), '0|300', 'and their lag');
is(sql(q{SELECT topic, initial_offsets FROM stream_agg.sources WHERE stream = 'listed'}),
	'|{"visits-eu": {"0": 0, "1": 0, "2": 0}, "visits-us": {"0": 0, "1": 0}}', 'the checkpoint names topics');
is(sql(q{SELECT jsonb_object_agg(t.key, (SELECT sum(value::int) FROM jsonb_each_text(t.value)))
		  FROM (SELECT offsets FROM stream_agg.commits WHERE stream = 'listed' ORDER BY batch DESC LIMIT 1) c, jsonb_each(offsets) t}),
	'{"visits-eu": 200, "visits-us": 100}', 'as do commits');
is(sql(q{SELECT count(*) FILTER (WHERE n > 7), count(*) > 40 FROM (SELECT (SELECT sum((r.value->>1)::int - (r.value->>0)::int)
		  FROM jsonb_each(ranges) t, jsonb_each(t.value) r) AS n FROM stream_agg.offsets WHERE stream = 'listed') p}),
	'0|t', 'and plans, which share the limit over topics');

# --- what SELECT reads, with conditions pushed down and without
is(sql(q{SELECT topic, count(*) FROM source_listed GROUP BY 1 ORDER BY 1}), "visits-eu|200\nvisits-us|100", 'SELECT reads all topics');
for my $condition (q{topic = 'visits-us'}, q{'visits-us' = topic AND part = 1}, q{topic IN ('visits-us', 'nowhere')},
	q{topic = ANY (ARRAY['visits-eu', NULL]) AND pos < 5}, q{topic = 'visits-eu' AND topic = 'visits-us'}, q{topic = NULL},
	q{topic = (SELECT 'visits-us')}, q{part = 2}, q{topic > 'visits-f'}, q{topic = ANY ('{}')}, q{topic <> ALL ('{visits-eu}')})
{
	(my $hidden = $condition) =~ s/\b(topic|part|pos)\b/coalesce($1)/g;
	is_equal_tables($node, "SELECT * FROM source_listed WHERE $condition", "SELECT * FROM source_listed WHERE $hidden", "SELECT … WHERE $condition");
}
is(sql(q{SELECT t, (SELECT count(*) FROM source_listed s WHERE s.topic = t) FROM unnest('{visits-eu,visits-us,other}'::text[]) t}),
	"visits-eu|200\nvisits-us|100\nother|0", 'a scan again for another topic');

# --- INSERT
sql(q{INSERT INTO source_listed (ts, k, v, topic, part) VALUES ('2026-01-01 00:00:00+00', 1, 1, 'visits-us', 1), ('2026-01-01 00:00:00+00', 2, 2, 'visits-eu', NULL)});
$produced{'visits-us'}++;
$produced{'visits-eu'}++;
equals('listed', 'rows inserted into topics', 'visits-eu', 'visits-us');
is(sql(q{SELECT count(*) FROM source_listed WHERE topic = 'visits-us'}), '101', 'each into the one it names');
like(fails(q{INSERT INTO source_listed (k, topic) VALUES (1, 'unrelated')}), qr/has no topic "unrelated"/, 'and into no other');

# --- a pattern, and topics that come mid-stream
create('matched', q{topic_pattern => '^visits-|visits$'}, starting_offsets => 'latest');
process($node, 'matched');
is(sql(q{SELECT rows_in FROM pg_stat_stream_agg WHERE stream = 'matched'}), '0', 'a pattern at the end of its topics');
is(sql(q{SELECT topic, count(*) FROM source_matched GROUP BY 1 ORDER BY 1}), "visits-eu|201\nvisits-us|101", q{a pattern leaves out Kafka's own topics});
$broker->create_topic('visits-asia', 2);
produce('visits-asia', 2, 30);
process($node, 'matched');
is(sql(q{SELECT sum(n), min(topic) FROM matched}), '30|visits-asia', 'a new topic is read from its first offset');
is(sql(q{SELECT initial_offsets->'visits-asia' FROM stream_agg.sources WHERE stream = 'matched'}), '{"0": 0, "1": 0}', 'which the checkpoint says');
drop_stream('matched');
create('matched', q{topic_pattern => '^visits-'}, max_offsets_per_trigger => 11, trigger => '0');
my @visits = ('visits-eu', 'visits-us', 'visits-asia');
equals('matched', 'a pattern from the beginning', @visits);

# --- where streams of several topics begin
create('begun', q{topics => '{visits-eu,visits-us}'}, starting_offsets => '{"visits-us": {"0": -1, "1": 3}, "visits-eu": {"2": -1, "1": -1}}');
process($node, 'begun');
is(sql(q{SELECT initial_offsets = jsonb_build_object('visits-eu', jsonb_build_object('0', 0,
		'1', (SELECT max(pos) + 1 FROM source_begun WHERE topic = 'visits-eu' AND part = 1), '2', (SELECT max(pos) + 1 FROM source_begun WHERE topic = 'visits-eu' AND part = 2)),
		'visits-us', jsonb_build_object('0', (SELECT max(pos) + 1 FROM source_begun WHERE topic = 'visits-us' AND part = 0), '1', 3)),
	(SELECT sum(n) FROM begun) = (SELECT count(*) FROM source_begun WHERE (topic, part) = ('visits-eu', 0) OR (topic, part) = ('visits-us', 1) AND pos >= 3)
	FROM stream_agg.sources WHERE stream = 'begun'}), 't|t', 'offsets by topic and partition to start from');
sql(q{SELECT stream_agg.reset_stream('begun', '{"0": 5}')});
like(fails(q{SELECT stream_agg.process_available('begun')}), qr/do not name topics, and the source has several/, 'offsets without topics are no place to start from');
sql(q{SELECT stream_agg.reset_stream('begun', 'earliest', results => true); SELECT stream_agg.start_stream('begun')});
process($node, 'begun');
is_equal_tables($node, 'SELECT * FROM begun', 'SELECT * FROM begun_query', 'a reset stream reads all topics again');
drop_stream('begun');

# --- an empty topic that was seen, then a batch with its first records fails:
# its retry reads the same
$broker->create_topic('visits-mars', 1);
process($node, 'matched');
sql('ALTER TABLE matched ADD CONSTRAINT none CHECK (n < 0) NOT VALID');
produce('visits-mars', 1, 5);
wait_state($node, 'matched', 'failed', 'violates check constraint "none"');
sql(q{ALTER TABLE matched DROP CONSTRAINT none; SELECT stream_agg.start_stream('matched')});
push @visits, 'visits-mars';
equals('matched', 'the first records of a topic that was empty, after failures', @visits);

# --- restarts and crashes amidst many small batches
for my $round (1 .. 4)
{
	my $batches = sql(q{SELECT batches FROM pg_stat_stream_agg WHERE stream = 'matched'});
	produce('visits-eu', 3, 60);
	produce('visits-mars', 1, 60);
	produce('visits-us', 2, 60);
	$node->poll_query_until('postgres', "SELECT batches > $batches FROM pg_stat_stream_agg WHERE stream = 'matched'");
	if ($round == 4) { $node->restart; }
	else { kill_backends($node, worker_pid($node, 'matched')); }
}
equals('matched', 'a pattern through crashes and a restart', @visits);
equals('listed', 'and a list', 'visits-eu', 'visits-us');

# --- records that cannot be processed are named with their topic
$broker->produce('visits-us', [ 1, '', 'nonsense' ]);
wait_state($node, 'matched', 'failed', 'record at topic "visits-us", partition 1, offset');
$produced{'visits-us'}++;
sql(q{SELECT stream_agg.alter_stream('matched', '{"on_error": "dead_letter"}'); SELECT stream_agg.start_stream('matched')});
$broker->produce('visits-mars', [ 0, '', 'rubbish' ]);
$produced{'visits-mars'}++;
process($node, 'matched');
is(sql(q{SELECT topic, partition, convert_from(value, 'UTF8') FROM stream_agg.dead_letters WHERE stream = 'matched' ORDER BY 1}),
	"visits-mars|0|rubbish\nvisits-us|1|nonsense", 'dead letters name their topic');
counts_add_up($node, 'matched', sum(@visits), 'and are counted');
sql(q{SELECT stream_agg.alter_stream('listed', '{"on_error": "skip"}'); SELECT stream_agg.start_stream('listed')});

$broker->produce('visits-mars', map { [ 0, '', 'garbage' ] } 1 .. 60);
$broker->produce('visits-asia', map { [ 0, '', 'garbage' ] } 1 .. 300);
$produced{'visits-mars'} += 60;
$produced{'visits-asia'} += 300;
process($node, 'matched');
is(sql(q{SELECT count(*), count(*) - count(DISTINCT "offset") > 30 FROM stream_agg.dead_letters WHERE stream = 'matched' AND value = 'garbage' AND partition = 0}),
	'360|t', 'those at the same offset of different topics are all there');

# the oracle cannot read records that do not decode
my $before = sql(q{SELECT sum(n) FROM matched});

# --- the source's options change while the stream runs
sql(q{ALTER FOREIGN TABLE source_matched OPTIONS (SET topic_pattern '^visits-[a-l]')});
is(fails(q{SELECT stream_agg.process_available('matched')}) =~ /the source does not read topic "(visits-mars|visits-us)" any more/ ? 'named' : sql('SELECT last_error FROM pg_stat_stream_agg'),
	'named', 'a pattern that leaves out a topic that was read stops the stream');
sql(q{ALTER FOREIGN TABLE source_matched OPTIONS (SET topic_pattern '^visits-|^unrel'); SELECT stream_agg.start_stream('matched')});
process($node, 'matched');
is(sql(q{SELECT sum(n) FROM matched}), $before + 50, 'a wider one goes on, and with new topics from their beginning');

create('grown', q{topic => 'single'}, trigger => '0');
produce('single', 2, 40);
equals('grown', 'one topic', 'single');
is(sql(q{SELECT topic, initial_offsets FROM stream_agg.sources WHERE stream = 'grown'}), 'single|{"0": 0, "1": 0}', 'has offsets without its name');
sql(q{ALTER FOREIGN TABLE source_grown OPTIONS (DROP topic, ADD topics 'unrelated, single')});
produce('single', 2, 10);
equals('grown', 'one topic that became two', 'single', 'unrelated');
is(sql(q{SELECT topic, initial_offsets FROM stream_agg.sources WHERE stream = 'grown'}),
	'single|{"single": {"0": 0, "1": 0}, "unrelated": {"0": 0, "1": 0}}', 'names both from then on');
sql(q{ALTER TABLE grown ADD CONSTRAINT none CHECK (n < 0) NOT VALID});
produce('unrelated', 2, 10);
wait_state($node, 'grown', 'failed', 'violates check constraint "none"');
sql(q{ALTER TABLE grown DROP CONSTRAINT none; SELECT stream_agg.start_stream('grown')});
equals('grown', 'and goes on after failures', 'single', 'unrelated');
sql(q{ALTER FOREIGN TABLE source_grown OPTIONS (DROP topics, ADD topic 'single')});
like(fails(q{SELECT stream_agg.process_available('grown')}), qr/the source now reads topic "single", the stream has read topic "unrelated"/, 'but not back to one');
sql(q{ALTER FOREIGN TABLE source_grown OPTIONS (DROP topic, ADD topics 'single,unrelated'); SELECT stream_agg.start_stream('grown')});
equals('grown', 'unless that is taken back', 'single', 'unrelated');

# --- a dump goes on elsewhere
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('postgres') ], 'pg_dump');
produce('single', 2, 30);
sql('CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('copy'), $dump ], 'pg_restore');
$node->safe_psql('copy', q{SELECT stream_agg.start_stream('grown')});
$node->safe_psql('copy', q{SELECT stream_agg.process_available('grown', '2 minutes')});
is($node->safe_psql('copy', q{SELECT count(*) FROM (SELECT * FROM grown EXCEPT ALL SELECT * FROM grown_query) x}), '0', 'a restored stream has the right rows');
is($node->safe_psql('copy', q{SELECT sum(n) FROM grown}), sum('single', 'unrelated'), 'all of them');

# --- parts of a checkpoint that cannot be
for my $offsets ('{"single": {"0": 1}, "0": 1}', '{"0": 1, "single": {"0": 1}}', '{"single": {}}', '{"single": {"0": {"0": 1}}}', '{"single": {"0": [1, 2]}}', '{"single": {"x": 1}}')
{
	$node->safe_psql('copy', q{SELECT stream_agg.stop_stream('grown')});
	$node->safe_psql('copy', "UPDATE stream_agg.commits SET offsets = '$offsets' WHERE batch = (SELECT max(batch) FROM stream_agg.commits WHERE stream = 'grown') AND stream = 'grown'");
	$node->safe_psql('copy', q{SELECT stream_agg.start_stream('grown')});
	my ($out, $error);
	$node->psql('copy', q{SELECT stream_agg.process_available('grown', '2 minutes')}, stdout => \$out, stderr => \$error);
	like($error, qr/in stream_agg.commits is corrupt/, "offsets $offsets are refused");
}

# --- the worker has found by itself what matches by now
ok($node->poll_query_until('postgres', q{SELECT rows_in = 20 FROM pg_stat_stream_agg WHERE stream = 'unasked'}), 'an idle stream looks for new topics');
sql(q{ALTER FOREIGN TABLE source_unasked OPTIONS (SET topic_pattern '^(late-|single$)')});
ok($node->poll_query_until('postgres', q{SELECT rows_in > 20 FROM pg_stat_stream_agg WHERE stream = 'unasked'}), 'and at its source');

sub drop_stream
{
	my $name = shift;
	sql("SELECT stream_agg.drop_stream('$name', drop_sink => true); SELECT stream_agg.drop_source('source_$name')");
	return;
}

$node->stop;
done_testing();
