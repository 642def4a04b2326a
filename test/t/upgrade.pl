# pg_upgrade: definitions, checkpoints and sinks come over with their OIDs, and
# streams go on by themselves.  Upgraded to the same major version, as the
# state of another one is refused.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1);
my $old = new_node('old');
my $new = PostgreSQL::Test::Cluster->new('new');
my $bindir = $old->config_data('--bindir');
my $k = 0;

sub produce
{
	$broker->produce('events', map { sprintf('{"k": %d, "v": %d}', ++$k % 3, $k) } 1 .. 100);
	return;
}

$old->safe_psql('postgres', 'CREATE DATABASE "odd name"');
$old->safe_psql('odd name', 'CREATE EXTENSION stream_agg');
my $brokers = $broker->brokers;
for my $database ('postgres', 'odd name')
{
	$old->safe_psql($database, qq{
		SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers', columns => 'k int, v int',
			options => '{"fetch.wait.max.ms": 20}');
		SELECT stream_agg.create_stream('counts', 'SELECT k, count(*) AS n, sum(v) AS v FROM events GROUP BY k',
			output_mode => 'update', trigger => '20 days')});
}
produce();
$old->safe_psql($_, q{SELECT stream_agg.process_available('counts')}) for 'postgres', 'odd name';
produce();
$old->stop;

$new->init;
$new->append_conf('postgresql.conf', "shared_preload_libraries = 'stream_agg'\n");
chdir PostgreSQL::Test::Utils::tempdir();
command_ok([ 'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir,
		'-s', $new->host, '-p', $old->port, '-P', $new->port ], 'pg_upgrade');
$new->start;
for my $database ('postgres', 'odd name')
{
	$new->safe_psql($database, q{SELECT stream_agg.process_available('counts')});
	is($new->safe_psql($database, 'SELECT state FROM pg_stat_stream_agg'), 'running', "$database: the stream runs without being started");
	is_equal_tables_in($database);
	is($new->safe_psql($database, 'SELECT rows_in FROM pg_stat_stream_agg'), 200, "$database: every record once");
}

sub is_equal_tables_in
{
	my $database = shift;
	is($new->safe_psql($database, 'SELECT array_agg(c ORDER BY k) FROM counts c'),
		$new->safe_psql($database, 'SELECT array_agg(c ORDER BY k) FROM counts_query c'), "$database: and equals its query");
	return;
}

done_testing();
