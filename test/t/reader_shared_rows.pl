# Streams that share a reader, and branches of one stream, decode each record once,
# and each finds what it would have decoded by itself: columns of all kinds, a column that does not
# decode for those that read it only, other settings, a source that changes in
# the meantime, and more rows than there is memory for.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 3, bad => 2, zones => 1, changing => 2, large => 2, web => 2, app => 2, cdc => 1);
my $node = new_node('shared_rows', 'timezone = UTC', 'log_min_messages = debug1', 'stream_agg.max_attempts = 2',
	"stream_agg.max_retry_delay = '200ms'", 'stream_agg.keep_batches = 1000000');
my $rng = seeded_random();
my %produced;

sub sql { return $node->safe_psql('postgres', shift); }

# make_streams(reader, [ name, query, arguments, settings ]...)
sub make_streams
{
	my ($reader, @streams) = @_;
	sql('BEGIN;' . join('', map {
		my ($name, $query, $arguments, $settings) = @$_;
		join('', map { "SET LOCAL $_;" } @{ $settings // [] })
		  . "SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$, output_mode => 'update', trigger => '0', reader => '$reader'"
		  . ($arguments ? ", $arguments" : '') . ');' . join('', map { 'RESET ' . (split / /)[0] . ';' } @{ $settings // [] })
	} @streams) . 'COMMIT');
	return;
}

sub produce
{
	my ($topic, @records) = @_;
	my $n = $produced{$topic} // 0;
	my $partitions = { events => 3, zones => 1, cdc => 1 }->{$topic} // 2;
	$broker->produce($topic, map { [ $n++ % $partitions, 'key', $_ ] } @records);
	$produced{$topic} = $n;
	return;
}

# All of these streams have committed so many records.
sub await_records
{
	my ($records, @streams) = @_;
	my $list = join(', ', map { "'$_'" } @streams);
	$node->poll_query_until('postgres', qq{
		SELECT count(*) = @{[scalar @streams]} FROM pg_stat_stream_agg WHERE stream IN ($list) AND rows_in = $records})
	  or die 'not all records are committed: '
	  . sql('SELECT stream, state, rows_in, last_error FROM pg_stat_stream_agg');
	return;
}

# What the batches since byte $from of the log say of their scans: of batches of
# at least so many records, lists of scans, records, decoded, bytes.
sub batches
{
	my ($from, $least) = @_;
	my $log = substr(slurp_file($node->logfile), $from);
	return grep { $_->[1] >= $least }
	  map { [$_ =~ /(\d+) scans of a batch of (\d+) records have decoded (\d+), with (\d+) bytes/] }
	  $log =~ /\d+ scans of a batch of \d+ records have decoded \d+, with \d+ bytes of shared rows/g;
}

sub log_size { return -s $node->logfile; }

# columns of all kinds, and what each stream reads of them
sql(q{
	CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
	CREATE DOMAIN positive AS int CHECK (VALUE > 0);
	CREATE TYPE pair AS (a int, b text);
});
create_source($node, $broker, 'events', 'events', q{
	ts timestamptz, k int, amount numeric, name text, code varchar(8), day date, clock time, span interval, r real,
	doc jsonb, numbers int[], days date[], feeling mood, size positive, both_of pair, flag boolean, id uuid});
sql(q{
	ALTER FOREIGN TABLE events ADD COLUMN part int OPTIONS (metadata 'partition'),
		ADD COLUMN place bigint OPTIONS (metadata 'offset'), ADD COLUMN sent timestamptz OPTIONS (metadata 'timestamp'),
		ADD COLUMN key text OPTIONS (metadata 'key')});

my %all = (
	counted => 'SELECT count(*) AS n FROM events',
	by_k => 'SELECT k, count(*) AS n, sum(amount) AS total, max(name) AS last FROM events GROUP BY k',
	by_time => q{SELECT stream_agg.tumble(ts, '1 minute') AS win, count(*) AS n, max(amount) AS top FROM events WHERE ts IS NOT NULL GROUP BY 1},
	by_text => 'SELECT code, count(*) AS n, min(name) AS first, max(r) AS top, count(DISTINCT id) AS ids FROM events GROUP BY code',
	by_day => 'SELECT day, max(clock) AS last, sum(span) AS total, count(*) AS n FROM events GROUP BY day',
	by_doc => q{SELECT doc->>'a' AS a, sum(numbers[1]) AS s, max(days[1]) AS last, count(*) AS n FROM events GROUP BY 1},
	by_mood => 'SELECT feeling, count(size) AS n, sum(size) AS total, max((both_of).b) AS b FROM events GROUP BY feeling',
	by_part => 'SELECT part, flag, count(*) AS n, max(place) AS last, count(sent) AS sent, max(key) AS key FROM events GROUP BY 1, 2');
make_streams('events', map { [ $_, $all{$_} ] } sort keys %all);

sub null_or { my ($value) = @_; return $rng->(10) == 0 ? undef : $value; }

sub random_event
{
	my $n = $rng->(100000);
	my %event = (
		ts => sprintf('2026-01-01T12:%02d:%02d%s', $rng->(60), $rng->(60), ('Z', '+02', '')[ $rng->(3) ]),
		k => $rng->(7), amount => $rng->(5) ? "$n." . $rng->(100) : '1e-30', name => "name $n",
		code => ('a', 'bb', 'ccc')[ $rng->(3) ],
		day => $rng->(2) ? '2026-02-' . (10 + $rng->(9)) : '3 Jan 2026', clock => sprintf('%02d:00', $rng->(24)),
		span => $rng->(9) . ' hours', r => "$n.5", doc => "{\"a\": $n, \"b\": [1, null]}", numbers => '[' . $rng->(9) . ', 2]',
		days => '["2026-01-0' . (1 + $rng->(9)) . '"]', feeling => ('sad', 'ok', 'happy')[ $rng->(3) ], size => 1 + $rng->(9),
		both_of => "{\"a\": 1, \"b\": \"x$n\"}", flag => ('true', 'false')[ $rng->(2) ],
		id => sprintf('00000000-0000-0000-0000-%012d', $rng->(5)));
	my @bare = qw(amount k r doc numbers days size both_of flag);
	$event{$_} = null_or($event{$_}) for keys %event;
	my $missing = (sort keys %event)[ $rng->(scalar keys %event) ];
	delete $event{$missing};
	return json_record(\%event, bare => \@bare);
}

for my $round (1 .. 3)
{
	produce('events', map { random_event() } 1 .. 400);
	await_records($produced{events}, sort keys %all);
	is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "round $round: $_ equals its batch query")
	  for sort keys %all;
}
sql("SELECT stream_agg.drop_stream('$_', drop_sink => true)") for sort keys %all;

# columns that have a short way are decoded once, whoever reads them
my @short = ('by_k', 'by_time', 'counted');
my $from = log_size();
make_streams('short', map { [ $_, $all{$_} ] } @short);
await_records($produced{events}, @short);
my ($first) = batches($from, 1);
is($first->[0], 3, 'they begin together');
cmp_ok($first->[2], '<', 2 * $first->[1], 'in the first batch only values that have no short way are decoded twice');
$from = log_size();
my $event = '{"ts": "2026-01-01T12:00:00Z", "k": 1, "amount": 1.5, "name": "x"}';
produce('events', ($event) x 300);
await_records($produced{events}, @short);
my ($scans, $records, $decoded) = (0, 0, 0);
for (batches($from, 1))
{
	$scans += $_->[0] * $_->[1];
	$records += $_->[1];
	$decoded += $_->[2];
}
is($records, 300, 'all of them were batches of several streams');
is($scans, 900, 'which each have read');
is($decoded, 300, 'and each record was decoded once');
is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "decoded once: $_ equals its batch query") for @short;

sql("SELECT stream_agg.drop_stream('$_', drop_sink => true)") for @short;

# a column that does not decode is an error of the streams that read it
create_source($node, $broker, 'bad', 'bad', 'k int, x int, size positive');
my @good = ('other', 'strict_domain', 'lenient', 'letters');
make_streams('bad',
	[ 'other', 'SELECT k, count(*) AS n FROM bad GROUP BY k' ],
	[ 'reads_x', 'SELECT k, sum(x) AS total FROM bad GROUP BY k' ],
	[ 'strict_domain', 'SELECT k, sum(size) AS total FROM bad GROUP BY k' ],
	[ 'lenient', 'SELECT k, count(*) AS n, sum(x) AS total FROM bad GROUP BY k', q(options => '{"on_error": "skip"}') ],
	[ 'letters', 'SELECT x % 2 AS odd, count(*) AS n FROM bad GROUP BY 1', q(options => '{"on_error": "dead_letter"}') ]);
produce('bad', map { json_record({ k => $_ % 5, x => $_, size => 1 }, numbers => [qw(k x size)]) } 1 .. 100);
await_records($produced{bad}, @good, 'reads_x');
produce('bad', (map { json_record({ k => $_ % 5, x => $_, size => 1 }, numbers => [qw(k x size)]) } 1 .. 50),
	'{"k": 1, "x": "not a number", "size": 3}', '{"k": 2, "x": 20000000000, "size": 3}');
wait_state($node, 'reads_x', 'failed', 'value for field "x" is not a valid integer');
await_records($produced{bad}, @good);
is(sql('SELECT sum(n) FROM other'), $produced{bad}, 'a stream that does not read the bad column has all records');
is(sql('SELECT sum(total) FROM strict_domain'), $produced{bad} + 4, 'nor does another');
is(sql('SELECT sum(n) FROM lenient'), $produced{bad} - 2, 'one that does leaves out those');
is(sql(q{SELECT string_agg(convert_from(value, 'UTF8'), ' ' ORDER BY value) FROM stream_agg.dead_letters WHERE stream = 'letters'}),
	'{"k": 1, "x": "not a number", "size": 3} {"k": 2, "x": 20000000000, "size": 3}', 'or puts them aside');
is(sql('SELECT sum(n) FROM letters'), $produced{bad} - 2, 'and has the others');
counts_add_up($node, $_, $produced{bad}, "the records of $_ add up") for @good;
produce('bad', '{"k": 1, "x": 1, "size": -5}');
wait_state($node, 'strict_domain', 'failed', 'value for domain positive violates check constraint');
await_records($produced{bad}, 'other', 'lenient', 'letters');
is(sql('SELECT sum(n) FROM other'), $produced{bad}, 'a constraint of a domain is checked for who reads the column');
produce('bad', 'no JSON');
wait_state($node, 'other', 'failed', 'invalid JSON');
await_records($produced{bad}, 'lenient', 'letters');
counts_add_up($node, $_, $produced{bad}, "a record that is none: the records of $_ add up") for 'lenient', 'letters';

# times without a zone are those of each stream's settings
create_source($node, $broker, 'zones', 'zones', 'ts timestamptz, day date, span interval');
my %zones = (
	tokyo => [q{timezone = 'Asia/Tokyo'}],
	lima => [ q{timezone = 'America/Lima'}, q{datestyle = 'ISO, DMY'} ],
	standard => [q{intervalstyle = 'sql_standard'}]);
# the first one decodes times in its zone that it does not read
make_streams('zones', [ 'first', 'SELECT count(*) AS n FROM zones', '', [q{timezone = 'Asia/Kathmandu'}] ],
	map { [ $_, 'SELECT ts, day, span, count(*) AS n FROM zones GROUP BY 1, 2, 3', '', $zones{$_} ] } sort keys %zones);
for my $round (1, 2)
{
	produce('zones', map { qq({"ts": "2026-01-0$_ 12:00:00", "day": "0$_/03/2026", "span": "-$_ 2:00:00"}) } 1 .. 9);
	await_records($produced{zones}, 'first', sort keys %zones);
}
for my $stream (sort keys %zones)
{
	my $settings = join(';', map { "SET $_" } @{ $zones{$stream} });
	is(sql(qq{$settings; SELECT count(*), min(n), max(n), count(*) FILTER (WHERE (ts, day, span) IN (
		SELECT ('2026-01-0' || i || ' 12:00:00')::timestamptz, ('0' || i || '/03/2026')::date, ('-' || i || ' 2:00:00')::interval
		  FROM generate_series(1, 9) i)) FROM $stream}), '9|2|2|9', "$stream has the times of its settings");
}
is(sql('SELECT count(DISTINCT t) FROM (SELECT min(ts) FROM tokyo UNION ALL SELECT min(ts) FROM lima UNION ALL SELECT min(ts) FROM standard) m(t)'),
	'3', 'which differ');

# those of the same settings share them
sql("SELECT stream_agg.drop_stream('$_', drop_sink => true)") for 'first', sort keys %zones;
my @same = ('tokyo', 'kyoto');
make_streams('same', map { [ $_, 'SELECT ts, day, span, count(*) AS n FROM zones GROUP BY 1, 2, 3', '', [q{timezone = 'Asia/Tokyo'}] ] } @same);
await_records($produced{zones}, @same);
$from = log_size();
produce('zones', ('{"ts": "2026-01-01 12:00:00", "day": "01/03/2026", "span": "1 day"}') x 50);
await_records($produced{zones}, @same);
my $zoned = 0;
$zoned += $_->[2] for batches($from, 1);
is($zoned, 50, 'times of the same settings are decoded once');
is(sql(q{SET timezone = 'Asia/Tokyo'; SELECT count(*) FROM (SELECT * FROM tokyo EXCEPT SELECT * FROM kyoto) d}), '0', 'and are the same');

# the source changes: between batches, and in the middle of one
create_source($node, $broker, 'changing', 'changing', 'k int, v int');
my @changing = ('one', 'two', 'three');
make_streams('changing', map { [ $_, 'SELECT k, v, count(*) AS n FROM changing GROUP BY 1, 2' ] } @changing);
my $both = '{"k": 1, "v": 2, "w": 300, "u": 4000}';
produce('changing', ($both) x 20);
await_records(20, @changing);
sql(q{ALTER FOREIGN TABLE changing ALTER COLUMN v OPTIONS (SET field 'w')});
produce('changing', ($both) x 20);
await_records(40, @changing);
is(sql("SELECT string_agg(v || ' ' || n, ', ' ORDER BY v) FROM $_"), '2 20, 300 20', "$_ reads the field that it shall from then on")
  for @changing;

my $lead = sql(q{SELECT DISTINCT read_by FROM pg_stat_stream_agg WHERE stream = 'one'});
my @others = grep { $_ ne $lead } @changing;
sql(qq{
	CREATE FUNCTION change_source() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		ALTER FOREIGN TABLE public.changing ALTER COLUMN v OPTIONS (SET field 'u');
		RETURN NULL;
	END \$\$;
	CREATE TRIGGER change AFTER INSERT ON $lead FOR EACH STATEMENT EXECUTE FUNCTION change_source()});
produce('changing', $both);
await_records(41, @changing);
is(sql("SELECT max(v) FROM $lead"), '300', 'a trigger changes the source behind the first stream');
is(sql("SELECT max(v) FROM $_"), '4000', "and $_, in the same batch, reads it as it is then") for @others;
sql("DROP TRIGGER change ON $lead");
sql("SELECT stream_agg.drop_stream('$_', drop_sink => true)") for @changing;

# two topics in one batch
create_source($node, $broker, $_, $_, 'k int, v int') for 'web', 'app';
my @union = ('per_k', 'per_v', 'web_only');
make_streams('union',
	[ 'per_k', q{SELECT k, count(*) AS n FROM (SELECT k FROM web UNION ALL SELECT k + 100 FROM app) u GROUP BY k} ],
	[ 'per_v', q{SELECT v, count(*) AS n FROM (SELECT v FROM web UNION ALL SELECT v + 100 FROM app WHERE k > 2) u GROUP BY v} ],
	[ 'web_only', q{SELECT k, v, count(*) AS n FROM (SELECT k, v FROM web UNION ALL SELECT k, v FROM app WHERE false) u GROUP BY 1, 2} ]);
for my $round (1, 2)
{
	produce($_, map { json_record({ k => $rng->(5), v => $rng->(9) }, numbers => [qw(k v)]) } 1 .. 100) for 'web', 'app';
	await_records($produced{web} + $produced{app}, @union);
	is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "two topics, round $round: $_ equals its batch query")
	  for @union;
}

# records that the source leaves out
my $brokers = $broker->brokers;
sql(qq{SELECT stream_agg.create_source('cdc', topic => 'cdc', brokers => '$brokers', columns => 'k int, v int',
	format => 'debezium', options => '{"fetch.wait.max.ms": 20, "other_operations": "ignore"}')});
make_streams('cdc', [ 'cdc_k', 'SELECT k, count(*) AS n FROM cdc GROUP BY k' ], [ 'cdc_v', 'SELECT v, count(*) AS n FROM cdc GROUP BY v' ]);
for my $round (1, 2)
{
	produce('cdc', map { sprintf '{"op": "%s", "after": {"k": %d, "v": %d}}', ('c', 'u', 'd')[ $_ % 3 ], $rng->(5), $rng->(5) } 1 .. 60);
	await_records($produced{cdc}, 'cdc_k', 'cdc_v');
	is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "changes, round $round: $_ equals its batch query")
	  for 'cdc_k', 'cdc_v';
	is(sql("SELECT sum(n) FROM $_"), 20 * $round, "$_ has the inserts only") for 'cdc_k', 'cdc_v';
}

# branches of one stream
my %branches = (
	low_even => q{SELECT what, count(*) AS n, sum(v) AS s FROM (SELECT 'low' AS what, v FROM web WHERE v < 5 UNION ALL
		SELECT 'even ' || k, v FROM web WHERE k % 2 = 0 UNION ALL SELECT 'app', k FROM app) u GROUP BY 1},
	twice => 'SELECT k, v, count(*) AS n FROM (SELECT k, NULL::int AS v FROM web UNION ALL SELECT NULL, v FROM web UNION ALL SELECT v, k FROM app UNION ALL SELECT k, v FROM app) u GROUP BY 1, 2');
$from = log_size();
sql("SELECT stream_agg.create_stream('$_', \$q\$$branches{$_}\$q\$, output_mode => 'update', trigger => '20 days')") for sort keys %branches;
for my $round (1, 2)
{
	produce($_, map { json_record({ k => $rng->(5), v => $rng->(9) }, numbers => [qw(k v)]) } 1 .. 100) for 'web', 'app';
	process($node, $_) for sort keys %branches;
	is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "branches, round $round: $_ equals its batch query") for sort keys %branches;
}
my @of_branches = grep { $_->[0] > 2 } batches($from, 200);
cmp_ok(scalar @of_branches, '>=', 4, 'batches of one stream have scans that share rows');
is_deeply([ grep { $_->[1] != $_->[2] } @of_branches ], [], 'and decode each record once, whatever branches read it');
sql("SELECT stream_agg.drop_stream('$_', drop_sink => true)") for sort keys %branches;

# a batch that is larger than the memory for its rows, which is in part in a file
$node->append_conf('postgresql.conf', "stream_agg.batch_memory = '1MB'");
$node->reload;
create_source($node, $broker, 'large', 'large', 'k int, name text, v int');
sql(q{ALTER FOREIGN TABLE large ADD COLUMN place bigint OPTIONS (metadata 'offset'), ADD COLUMN key text OPTIONS (metadata 'key')});
my @large = ('names', 'sums', 'places');
sub large { return map { json_record({ k => $rng->(20), name => 'x' x $rng->(80), v => $rng->(1000) }, numbers => [qw(k v)]) } 1 .. shift; }
produce('large', large(10));    # of the first batch, which waits for no more
make_streams('large',
	map { [ @$_, q(options => '{"min_offsets_per_trigger": 20000, "max_trigger_delay": "1 hour"}') ] }
	[ 'names', 'SELECT name, count(*) AS n FROM large GROUP BY name' ],
	[ 'sums', 'SELECT k, sum(v) AS total, count(*) AS n, max(name) AS last FROM large GROUP BY k' ],
	[ 'places', 'SELECT k, max(place) AS last, count(key) AS keys, count(name) AS names FROM large GROUP BY k' ]);
# the second batch waits for all
await_records(10, @large);
$from = log_size();
produce('large', large(20000));
await_records($produced{large}, @large);
is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "more rows than memory: $_ equals its batch query") for @large;
my @batches = batches($from, 1);
is(scalar @batches, 1, 'they were read in one batch');
cmp_ok($batches[0][3], '<=', 1024 * 1024, 'whose rows have kept to their memory');
cmp_ok($batches[0][2], '>', 20000, 'those behind that are decoded by each');
cmp_ok($batches[0][2], '<', 60000, 'those before it once');

done_testing();
