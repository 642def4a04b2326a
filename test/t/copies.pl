# Dumps of databases with streams: what comes over, how it goes on, and what
# is refused.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 2);
my $node = new_node('original', 'max_worker_processes = 40');
my $other = PostgreSQL::Test::Cluster->new('other');
$other->init;
$other->append_conf('postgresql.conf', "shared_preload_libraries = 'stream_agg'\nmax_worker_processes = 40\nstream_agg.max_attempts = 2\n");
$other->start;
my $dir = PostgreSQL::Test::Utils::tempdir();
my $random = seeded_random();
my $minute = 0;

# records of the next minutes, in both partitions
sub produce_minutes
{
	my $minutes = shift;
	my @records;
	for (1 .. $minutes)
	{
		my $time = sprintf('2026-01-01T%02d:%02d:%02dZ', int($minute / 60), $minute % 60, $random->(60));
		push @records, [ $random->(2), undef, sprintf('{"ts": "%s", "k": %d, "v": %d}', $time, $random->(3), $random->(100)) ]
		  for 1 .. 5;
		$minute++;
	}
	$broker->produce('events', @records);
	return;
}

my @streams = ('per_window', 'far."Odd ""näme"".x"', 'by_name', 'unqualified');
my %batch = (
	per_window => 'SELECT * FROM per_window_query WHERE upper(win) <= $watermark',
	'far."Odd ""näme"".x"' => 'SELECT * FROM far."Odd ""näme"".x_query"',
	by_name => 'SELECT * FROM by_name_query',
	unqualified => 'SELECT * FROM far.unqualified_query');
my %sink = (unqualified => 'far.results');

sub check_streams
{
	my ($where, $database, $name, @which) = @_;
	for my $stream (@which ? @which : @streams)
	{
		my $watermark = $where->safe_psql($database,
			"SELECT quote_literal(COALESCE(watermark, '-infinity')) || '::timestamptz'
			   FROM pg_stat_stream_agg WHERE stream = \$s\$$stream\$s\$");
		my $oracle = $batch{$stream};
		$oracle =~ s/\$watermark/$watermark/;
		my $difference = $where->safe_psql($database, qq{
			SET timezone = 'Asia/Kolkata';
			WITH got AS MATERIALIZED (SELECT * FROM } . ($sink{$stream} // $stream) . qq{), expected AS MATERIALIZED ($oracle)
			SELECT 'lacks', x::text FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM got) x
			UNION ALL
			SELECT 'has', x::text FROM (SELECT * FROM got EXCEPT ALL SELECT * FROM expected) x
			LIMIT 10});
		is($difference, '', "$name: $stream");
	}
	return;
}

sub process_all
{
	my ($where, $database) = @_;
	$where->safe_psql($database, 'SELECT stream_agg.process_available(stream) FROM stream_agg.streams');
	return;
}

sub start_all
{
	my ($where, $database) = @_;
	$where->safe_psql($database, 'SELECT stream_agg.start_stream(stream) FROM stream_agg.streams');
	return;
}

sub definitions
{
	my ($where, $database) = @_;
	return $where->safe_psql($database, q{
		SELECT stream, query, sink, source, output_mode, watermark, event_time, trigger_interval,
		       max_offsets_per_trigger, starting_offsets, options, sink_created, enabled,
		       timezone, datestyle, intervalstyle, search_path
		  FROM stream_agg.streams ORDER BY stream});
}

# nothing of a database runs, although the launcher has looked
sub is_stopped
{
	my ($where, $database, $name) = @_;
	is($where->safe_psql($database, q{SELECT string_agg(DISTINCT state, ',') FROM pg_stat_stream_agg}), 'stopped',
		"$name: streams are stopped");
	is($where->safe_psql($database, q{SELECT count(*) FROM pg_stat_activity
			WHERE backend_type = 'stream_agg worker' AND datname = current_database()}), 0, "$name: no worker");
	return;
}

sub dump_restore
{
	my ($dump, $restore, $target, $database, $name) = @_;
	my $file = "$dir/dump.$database." . $target->name;
	$node->command_ok([ 'pg_dump', @$dump, '-f', $file, '-d', $node->connstr('shop') ], "$name: pg_dump");
	my $oid = $database eq 'twin' ? ' OID = ' . $node->safe_psql('shop',
		'SELECT oid FROM pg_database WHERE datname = current_database()') : '';
	$target->safe_psql('postgres', "CREATE DATABASE $database TEMPLATE template0$oid");
	my @restore = (grep { /plain/ } @$dump) ?
	  [ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $target->connstr($database) ] :
	  map { [ 'pg_restore', '--exit-on-error', @$_, '-d', $target->connstr($database), $file ] } @$restore;
	$target->command_ok($_, "$name: restore") for @restore;
	return;
}

# --- the original
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', q{CREATE EXTENSION stream_agg;
	ALTER DATABASE shop SET client_min_messages = warning});
my $brokers = $broker->brokers;
$node->safe_psql('shop', qq{
	CREATE SCHEMA far;
	SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers',
		columns => 'ts timestamptz, k int, v int', options => '{"fetch.wait.max.ms": 20}');
	CREATE TABLE names (k int PRIMARY KEY, name text);
	INSERT INTO names VALUES (0, 'zero'), (1, 'one'), (2, NULL);
	SELECT stream_agg.create_stream('per_window',
		\$\$ SELECT stream_agg.tumble(ts, '10 minutes') AS win, k, count(*) AS n, sum(v) AS v FROM events GROUP BY 1, k \$\$,
		watermark => '30 minutes', trigger => '20 days', max_offsets_per_trigger => 20);
	SELECT stream_agg.create_stream('by_name',
		'SELECT m.k, m.name, count(*) AS n FROM events e JOIN (SELECT k, name FROM names GROUP BY k) m USING (k) GROUP BY m.k, m.name',
		output_mode => 'update', trigger => '20 days');
	SET search_path = far, public;
	SET timezone = 'Asia/Kolkata';
	SELECT stream_agg.create_stream('unqualified',
		\$\$ SELECT date_trunc('day', ts) AS day, count(*) AS n, min(v), avg(v) FROM events GROUP BY 1 \$\$,
		sink => 'results', output_mode => 'update', trigger => '20 days');
	RESET search_path;
	SELECT stream_agg.create_stream('far."Odd ""näme"".x"',
		'SELECT k, max(v) AS v, count(*) FILTER (WHERE v > 50) AS high FROM events GROUP BY k',
		output_mode => 'update', trigger => '20 days')});
produce_minutes(40);
process_all($node, 'shop');
$node->safe_psql('shop', 'ALTER DATABASE shop SET timezone = UTC');
check_streams($node, 'shop', 'the original');
my $definitions = definitions($node, 'shop');
my $sinks = 'SELECT (SELECT array_agg(t ORDER BY t) FROM per_window t), (SELECT array_agg(t ORDER BY t) FROM by_name t)';

# --- dump and restore in every way, also into databases of the same OID
for my $way (
	[ 'custom',   [ '-Fc' ], [ [] ], $node ],
	[ 'parallel', [ '-Fc' ], [ [ '-j', 3 ] ], $node ],
	[ 'sections', [ '-Fc' ], [ map { ["--section=$_"] } qw(pre-data data post-data) ], $node ],
	[ 'plain',    [ '-Fplain' ], [], $node ],
	[ 'inserts',  [ '-Fplain', '--inserts' ], [], $node ],
	[ 'twin',     [ '-Fc' ], [ [] ], $other ])
{
	my ($database, $dump, $restore, $target) = @$way;
	dump_restore($dump, $restore, $target, $database, $database);
	is(definitions($target, $database), $definitions, "$database: definitions have come over");
	is($target->safe_psql($database, $sinks), $node->safe_psql('shop', $sinks), "$database: sinks have their rows");
	is_stopped($target, $database, $database);
}

# --- the launcher looks at the twin, which has the original's OID, for the sake
# of another stream
$other->safe_psql('twin', q{SELECT stream_agg.create_stream('new', 'SELECT k, count(*) AS n FROM events GROUP BY k',
	output_mode => 'update', trigger => '20 days')});
$other->safe_psql('twin', q{SELECT stream_agg.process_available('new')});
is($other->safe_psql('twin', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'stream_agg worker'}), 1,
	'in a database of the same OID the restored streams stay stopped too');
$other->safe_psql('twin', q{SELECT stream_agg.drop_stream('new', drop_sink => true)});

# --- all of them go on, each by itself, from the dumped checkpoint
produce_minutes(40);
for my $copy ([ $node, 'shop' ], [ $node, 'parallel' ], [ $node, 'plain' ], [ $other, 'twin' ])
{
	start_all(@$copy) if $copy->[1] ne 'shop';
	process_all(@$copy);
	check_streams(@$copy, "$copy->[1] goes on");
	is($copy->[0]->safe_psql($copy->[1], q{SELECT min(rows_in), max(rows_in), bool_and(batches > 1) FROM pg_stat_stream_agg}),
		'400|400|t', "$copy->[1]: every record was read once");
}

# --- without the checkpoint: again from starting_offsets, with the sinks' rows
# replaced in mode update and in the way in mode append
my $checkpoint = "--exclude-table-data=stream_agg.(sources|offsets|commits|state)";
dump_restore([ '-Fc', $checkpoint ], [ [] ], $other, 'anew', 'anew');
is($other->safe_psql('anew', q{SELECT (SELECT count(*) FROM stream_agg.streams), (SELECT count(*) FROM stream_agg.sources),
	(SELECT count(*) FROM stream_agg.offsets), (SELECT count(*) FROM stream_agg.commits), (SELECT count(*) FROM stream_agg.state)}),
	'4|0|0|0|0', 'definitions without a checkpoint');
start_all($other, 'anew');
for my $stream (grep { $_ ne 'per_window' } @streams)
{
	$other->safe_psql('anew', "SELECT stream_agg.process_available(\$s\$$stream\$s\$)");
	check_streams($other, 'anew', 'from the beginning over old rows', $stream);
}
my ($status, $out, $err) = $other->psql('anew', q{SELECT stream_agg.process_available('per_window')});
like($err, qr/duplicate key value violates unique constraint.*\n.*HINT: .*truncate/s,
	'append over old rows conflicts, and the message says what to do');
$other->safe_psql('anew', q{TRUNCATE per_window; SELECT stream_agg.start_stream('per_window')});
process_all($other, 'anew');
check_streams($other, 'anew', 'from the beginning', 'per_window');
is($other->safe_psql('anew', 'SELECT min(rows_in), max(rows_in) FROM pg_stat_stream_agg'), '400|400',
	'every record was read again');

# --- starting_offsets is what counts then, not where the original began
$node->safe_psql('shop', q{SELECT stream_agg.create_stream('tail', 'SELECT v, count(*) AS n FROM events GROUP BY v',
	output_mode => 'update', trigger => '20 days', starting_offsets => 'latest')});
$node->safe_psql('shop', q{SELECT stream_agg.process_available('tail')});
produce_minutes(2);
dump_restore([ '-Fc', $checkpoint ], [ [] ], $other, 'latest', 'latest');
dump_restore([ '-Fc' ], [ [] ], $other, 'continued', 'continued');
for my $database (qw(latest continued))
{
	$other->safe_psql($database, q{SELECT stream_agg.start_stream('tail')});
	$other->safe_psql($database, q{SELECT stream_agg.process_available('tail')});
}
produce_minutes(3);
$other->safe_psql($_, q{SELECT stream_agg.process_available('tail')}) for qw(latest continued);
is($other->safe_psql('latest', 'SELECT sum(n) FROM tail'), 15, 'without checkpoint, latest is the end at the first start of the copy');
is($other->safe_psql('continued', 'SELECT sum(n) FROM tail'), 25, 'with it, a stream without a micro-batch goes on from its origin');

# --- half a checkpoint is refused, whichever half
for my $half (
	[ 'sources', 'stream_agg.sources has no row of stream "tail"' ],
	[ 'offsets', 'It is committed, and stream_agg.offsets has no plan of it' ],
	[ 'commits', 'is corrupt' ],
	[ 'state', 'state of stream "tail" is incomplete' ],
	[ '(offsets|commits)', 'state of stream "tail" has blobs of micro-batch \d+, the last committed one is -1' ],
	[ '(commits|state)', 'is corrupt' ],
	[ '(offsets|state)', 'stream_agg.offsets has no plan of it' ])
{
	my ($tables, $error) = @$half;
	(my $database = "without $tables") =~ s/\W+/_/g;
	$node->safe_psql('shop', q{SELECT stream_agg.process_available('tail')});
	produce_minutes(1);
	$node->safe_psql('shop', q{SELECT stream_agg.process_available('tail')});
	dump_restore([ '-Fc', "--exclude-table-data=stream_agg.$tables" ], [ [] ], $other, $database, $database);
	produce_minutes(1);
	$other->safe_psql($database, q{SELECT stream_agg.start_stream('tail')});
	$other->psql($database, q{SELECT stream_agg.process_available('tail')});
	like($other->safe_psql($database, q{SELECT last_error FROM pg_stat_stream_agg WHERE stream = 'tail'}),
		qr/$error/s, "without $tables it fails");
	is($other->safe_psql($database, 'SELECT sum(n) FROM tail'),
		$node->safe_psql('shop', 'SELECT sum(n) FROM tail'), 'and its sink stays as it is');
}

# --- without offsets, commits and state, but with its origin: from there
dump_restore([ '-Fc', '--exclude-table-data=stream_agg.(offsets|commits|state)' ], [ [] ], $other, 'origin', 'origin');
$other->safe_psql('origin', q{SELECT stream_agg.start_stream('tail')});
$other->safe_psql('origin', q{SELECT stream_agg.process_available('tail')});
$node->safe_psql('shop', q{SELECT stream_agg.process_available('tail')});
is($other->safe_psql('origin', 'SELECT array_agg(t ORDER BY t) FROM tail t'),
	$node->safe_psql('shop', 'SELECT array_agg(t ORDER BY t) FROM tail t'),
	'an origin without micro-batches is a whole checkpoint, that of the beginning');

# --- who may dump
$node->safe_psql('postgres', q{
	CREATE ROLE keeper LOGIN;
	CREATE ROLE dumper LOGIN BYPASSRLS IN ROLE pg_read_all_data;
	ALTER DATABASE shop OWNER TO keeper});
$node->safe_psql('shop', q{GRANT SELECT ON ALL TABLES IN SCHEMA public, far TO keeper; GRANT USAGE ON SCHEMA far TO keeper});
($status, $out, $err) = run_command([ 'pg_dump', '-U', 'keeper', '-d', $node->connstr('shop'), '-f', "$dir/keeper" ]);
like($out . $err, qr/row-level security/, 'a role that does not see all streams gets an error, not half a dump');
$node->command_ok([ 'pg_dump', '-U', 'keeper', '--enable-row-security', '-d', $node->connstr('shop'), '-f', "$dir/keeper" ],
	'with --enable-row-security it dumps its own streams');
$node->command_ok([ 'pg_dump', '-U', 'dumper', '-d', $node->connstr('shop'), '-f', "$dir/dumper" ],
	'with BYPASSRLS all of them');
like(slurp_file("$dir/dumper"), qr/CREATE OR REPLACE VIEW public\.by_name_query/,
	'a dump replaces views that rely on a primary key');

# --- pg_dumpall, or --create, brings the label, which makes the launcher look
$node->command_ok([ 'pg_dump', '--create', '-Fc', '-d', $node->connstr('shop'), '-f', "$dir/create" ], 'pg_dump --create');
$other->command_ok([ 'pg_restore', '--exit-on-error', '--no-owner', '--no-acl', '--create', '-d', $other->connstr('postgres'), "$dir/create" ], 'pg_restore --create');
is($other->safe_psql('shop', q{SELECT label FROM pg_shseclabel WHERE provider = 'stream_agg' AND objoid = (SELECT oid FROM pg_database WHERE datname = 'shop')}),
	'streams', 'the label has come over');
is_stopped($other, 'shop', 'with the label');

done_testing();
