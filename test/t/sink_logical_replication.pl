# A database under a publication FOR ALL TABLES: streams run in every output
# mode, and a subscriber gets their results, row by row.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1, later => 1);
my $rng = seeded_random();

# the publication is there first, as it is where somebody replicates already
my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->append_conf('postgresql.conf', join("\n",
	"shared_preload_libraries = 'stream_agg'",
	"stream_agg.max_retry_delay = '1s'",
	'stream_agg.max_attempts = 2',
	'max_worker_processes = 20', ''));
$publisher->start;
$publisher->safe_psql('postgres', 'CREATE PUBLICATION everything FOR ALL TABLES; CREATE EXTENSION stream_agg');
my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init;
$subscriber->append_conf('postgresql.conf', "max_logical_replication_workers = 10\nmax_worker_processes = 20\n");
$subscriber->start;

sub one_of { return $_[ $rng->(scalar @_) ]; }

create_source($publisher, $broker, 'events', 'events', 'ts timestamptz, k text, id int, v int');
$publisher->safe_psql('postgres', q{
	CREATE TABLE keyed (id int PRIMARY KEY, n bigint, v bigint);
	CREATE TABLE own (k text, n bigint, UNIQUE NULLS NOT DISTINCT (k));
	CREATE TABLE parted (k text, n bigint, UNIQUE NULLS NOT DISTINCT (k)) PARTITION BY LIST (k);
	CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a', NULL);
	CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
	CREATE TABLE logged (n bigint)});

# sink => arguments of its stream
my %stream = (
	appended => q{ $q$ SELECT stream_agg.tumble(ts, '10 minutes') AS win, k, count(*) AS n, sum(v) AS v
		FROM events GROUP BY 1, 2 $q$, watermark => '5 minutes', output_mode => 'append'},
	no_identity => q{ $q$ SELECT count(*) AS n FROM events GROUP BY stream_agg.tumble(ts, '10 minutes'), k $q$,
		watermark => '5 minutes', output_mode => 'append'},
	logged => q{ 'SELECT count(*) AS n FROM events GROUP BY stream_agg.tumble(ts, ''20 minutes'')',
		watermark => '5 minutes', output_mode => 'append'},
	updated => q{ $q$ SELECT k, id, count(*) AS n, sum(v) AS v FROM events GROUP BY 1, 2 HAVING sum(v) > 0 $q$,
		output_mode => 'update'},
	completed => q{ $q$ SELECT k, id, sum(v) AS v, jsonb_build_object('n', count(*)) AS j
		FROM events GROUP BY 1, 2 HAVING sum(v) > 0 $q$, output_mode => 'complete'},
	keyed => q{ 'SELECT id * 100 + v AS id, count(*) AS n, sum(v) AS v FROM events WHERE id IS NOT NULL GROUP BY 1 HAVING sum(v) % 2 = 0',
		output_mode => 'update'},
	own => q{ 'SELECT k, count(*) AS n FROM events GROUP BY 1', output_mode => 'complete'},
	parted => q{ 'SELECT k, count(*) AS n FROM events GROUP BY 1', output_mode => 'update'});
my @sinks = sort keys %stream;

sub create_stream
{
	my ($sink) = @_;
	return $publisher->psql('postgres', "SELECT stream_agg.create_stream('to_$sink', $stream{$sink},
		sink => '$sink', trigger => '20 days', start => false)");
}

# rows of these are updated, and nothing tells a subscriber which
for my $sink ('own', 'parted')
{
	my ($status, $stdout, $stderr) = create_stream($sink);
	like($stderr, qr/cannot update table "(own|parted_a)" because it does not have a replica identity and publishes updates/,
		"sink $sink without a replica identity is refused");
	like($stderr, qr/HINT:  .*REPLICA IDENTITY/, "with a hint, for $sink");
}
$publisher->safe_psql('postgres', "ALTER TABLE $_ REPLICA IDENTITY FULL") for ('own', 'parted_a', 'parted_rest');
create_stream($_) for @sinks;
is($publisher->safe_psql('postgres', 'SELECT count(*) FROM stream_agg.streams'), scalar @sinks, 'all streams are made');

# the subscriber: the sinks as pg_dump has them; and since everything is
# published, tables for the checkpoint too, without references to relations
my @tables = map { ('-t', $_) } @sinks, 'parted_a', 'parted_rest';
my ($dump, $error);
IPC::Run::run([ 'pg_dump', '--schema-only', '--no-publications', @tables,
		'-d', $publisher->connstr('postgres') ],
	'>', \$dump, '2>', \$error) or die $error;
$subscriber->safe_psql('postgres', 'CREATE DATABASE results');
$subscriber->safe_psql($_, $dump) for ('postgres', 'results');
my $checkpoint = $publisher->safe_psql('postgres', q{
	SELECT format('CREATE TABLE %s (%s, %s);', c.oid::regclass,
	              string_agg(format('%I %s', attname, CASE WHEN atttypid = 'regclass'::regtype THEN 'text'
	                                                       ELSE format_type(atttypid, atttypmod) END), ', ' ORDER BY attnum),
	              (SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = c.oid AND contype = 'p'))
	  FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
	 WHERE relnamespace = 'stream_agg'::regnamespace AND relkind = 'r' GROUP BY c.oid});
$subscriber->safe_psql('postgres', "CREATE SCHEMA stream_agg; $checkpoint");
$publisher->safe_psql('postgres', 'CREATE PUBLICATION results FOR TABLE ' . join(', ', @sinks));
my $connection = $publisher->connstr('postgres') =~ s/'/''/gr;
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION everything CONNECTION '$connection' PUBLICATION everything");
$subscriber->safe_psql('results', "CREATE SUBSCRIPTION results CONNECTION '$connection' PUBLICATION results");
$subscriber->poll_query_until($_, q{SELECT count(*) > 0 AND bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel})
  or die "no synchronization of $_" for ('postgres', 'results');

my $clock = 0;

sub produce
{
	my @records;
	for (1 .. 60)
	{
		$clock += $rng->(30);
		push @records, json_record({
			ts => sprintf('2026-01-01T%02d:%02d:%02dZ', $clock / 3600, $clock / 60 % 60, $clock % 60),
			k => one_of(undef, 'a', 'b', 'c'), id => one_of(undef, 1, 2, 3), v => $rng->(21) - 10 }, numbers => [qw(id v)]);
	}
	$broker->produce('events', @records);
	return;
}

sub rows
{
	my ($node, $database, $table) = @_;
	return $node->safe_psql($database, "SELECT t::text FROM $table t ORDER BY 1");
}

sub compare
{
	my $what = shift;
	$publisher->wait_for_catchup($_) for ('everything', 'results');
	for my $sink (@sinks)
	{
		my $published = rows($publisher, 'postgres', $sink);
		is(rows($subscriber, 'postgres', $sink), $published, "$what: $sink is the same at the subscriber to everything");
		is(rows($subscriber, 'results', $sink), $published, "$what: $sink is the same at the subscriber to the results");
	}
	for my $table ('commits', 'offsets', 'state')
	{
		is($subscriber->safe_psql('postgres', "SELECT count(*), max(batch) FROM stream_agg.$table"),
			$publisher->safe_psql('postgres', "SELECT count(*), max(batch) FROM stream_agg.$table"),
			"$what: the log $table is the same");
	}
	return;
}

produce() for 1 .. 3;
$publisher->safe_psql('postgres', "SELECT stream_agg.start_stream('to_$_')") for @sinks;
process($publisher, "to_$_") for @sinks;
compare('the first batches');

# logs are trimmed, groups change, windows close
$publisher->append_conf('postgresql.conf', 'stream_agg.keep_batches = 2');
for my $round (1 .. 6)
{
	$publisher->restart if $round % 3 == 1;
	produce();
	process($publisher, "to_$_") for @sinks;
}
compare('six batches later');
is($publisher->safe_psql('postgres', "SELECT count(*) > 0 FROM $_"), 't', "$_ has rows") for @sinks;
for my $sink ('updated', 'completed', 'keyed')
{
	cmp_ok($publisher->safe_psql('postgres', "SELECT rows_removed FROM pg_stat_stream_agg WHERE stream = 'to_$sink'"),
		'>', 0, "rows were deleted from $sink");
}
is_equal_tables($publisher, 'SELECT * FROM completed', 'SELECT * FROM to_completed_query',
	'the complete sink equals the batch query');

# old results can be deleted, from sinks that a stream only inserts into too
for my $sink ('appended', 'no_identity')
{
	$publisher->safe_psql('postgres', "DELETE FROM $sink WHERE n % 2 = 0; UPDATE $sink SET n = 0");
}
compare('after a clean-up');

$publisher->safe_psql('postgres', "SELECT stream_agg.drop_stream('to_$_')") for @sinks;
$publisher->wait_for_catchup('everything');
is($subscriber->safe_psql('postgres', 'SELECT (SELECT count(*) FROM stream_agg.streams), (SELECT count(*) FROM stream_agg.state)'),
	'0|0', 'streams and their state are dropped at the subscriber too');

# a publication that comes after the stream
$publisher->safe_psql('postgres', 'CREATE DATABASE later');
$publisher->safe_psql('later', 'CREATE EXTENSION stream_agg; CREATE TABLE own (k text UNIQUE NULLS NOT DISTINCT, n bigint)');
my $brokers = $broker->brokers;
$publisher->safe_psql('later', qq{
	SELECT stream_agg.create_source('later', topic => 'later', brokers => '$brokers', columns => 'k text',
		options => '{"fetch.wait.max.ms": 20}');
	SELECT stream_agg.create_stream('to_own', 'SELECT k, count(*) AS n FROM later GROUP BY 1',
		output_mode => 'update', sink => 'own', trigger => '20 days')});
$broker->produce('later', '{"k":"a"}');
$publisher->safe_psql('later', "SELECT stream_agg.process_available('to_own', '1 minute')");
$publisher->safe_psql('later', 'CREATE PUBLICATION everything FOR ALL TABLES');
$broker->produce('later', '{"k":"a"}');
$publisher->psql('later', "SELECT stream_agg.process_available('to_own', '1 minute')");
$publisher->poll_query_until('later', q{SELECT state = 'failed' FROM pg_stat_stream_agg}) or die 'the stream goes on';
like($publisher->safe_psql('later', 'SELECT last_error FROM pg_stat_stream_agg'),
	qr/cannot update table "own" because it does not have a replica identity and publishes updates/,
	'a stream whose sink cannot be published any more fails and says why');
$publisher->safe_psql('later', "ALTER TABLE own REPLICA IDENTITY FULL; SELECT stream_agg.start_stream('to_own')");
$publisher->safe_psql('later', "SELECT stream_agg.process_available('to_own', '1 minute')");
is($publisher->safe_psql('later', 'SELECT * FROM own'), 'a|2', 'and goes on when the sink has a replica identity');

done_testing();
