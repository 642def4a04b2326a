# Citus in the same database, as far as stand-ins for what it has show it: its
# catalog of tables, the function that knows shards, its setting, and what it does
# outside of transaction blocks.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker();
my $node = new_node('citus', 'allow_system_table_mods = on');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub error_of { my ($status, $out, $err) = $node->psql('postgres', $_[0]); return $status == 0 ? 'no error' : $err; }

$broker->create_topic('events', 1);
create_source($node, $broker, 'events', 'events', 'k int');
my $query = 'SELECT k, count(*) AS n FROM events GROUP BY k';
sub create { my ($stream, $more) = @_; return "SELECT stream_agg.create_stream('$stream', '$query', output_mode => 'update', trigger => '20 days' $more)"; }
my $table = '(k int, n bigint, UNIQUE NULLS NOT DISTINCT (k))';

subtest 'commands that define a stream are not repeated on other nodes' => sub {
	sql(q{CREATE TABLE seen (command text, setting text);
		CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO seen VALUES (tg_tag, current_setting('citus.enable_ddl_propagation', true)); END $$;
		CREATE EVENT TRIGGER see ON ddl_command_end EXECUTE FUNCTION see()});
	my $after = sql("SET citus.enable_ddl_propagation = on; " . create('defined', '') . '; SHOW citus.enable_ddl_propagation');
	like($after, qr/^on$/m, 'the setting of the session is as it was');
	is(sql('SELECT count(*) > 1 AND bool_and(setting = $$off$$) FROM seen'), 't', 'and off for each of our own commands');
	sql('TRUNCATE seen; SET citus.enable_ddl_propagation = on; CREATE TABLE other (i int)');
	is(sql('SELECT setting FROM seen'), 'on', 'others are repeated as ever');
	sql('DROP EVENT TRIGGER see');
};

subtest 'tables of Citus and shards are refused as sinks' => sub {
	sql("CREATE TABLE distributed $table; CREATE TABLE shard $table; CREATE TABLE local $table;
		CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass, partmethod \"char\");
		INSERT INTO pg_catalog.pg_dist_partition VALUES ('distributed', 'h');
		CREATE FUNCTION pg_catalog.relation_is_a_known_shard(regclass) RETURNS boolean LANGUAGE sql AS 'SELECT \$1::text = \$\$shard\$\$'");
	like(error_of(create('a', ", sink => 'distributed'")), qr/"distributed" is a table of Citus and cannot be the sink of a stream.*DETAIL: .*HINT: /s, 'a distributed or reference table');
	like(error_of(create('b', ", sink => 'shard'")), qr/"shard" is a shard of Citus and cannot be the sink of a stream/, 'a shard');
	sql(create('c', ", sink => 'local'"));
	$broker->produce('events', '{"k":1}');
	process($node, 'c');
	is(sql('TABLE local'), '1|1', 'a local table is none of them');
	sql(q{INSERT INTO pg_catalog.pg_dist_partition VALUES ('local', 'h')});
	$broker->produce('events', '{"k":1}');
	like(error_of("SELECT stream_agg.process_available('c', '1 minute')"), qr/"local" is a table of Citus/, 'one that becomes a table of Citus stops its stream');
	sql('DROP TABLE pg_catalog.pg_dist_partition; DROP FUNCTION pg_catalog.relation_is_a_known_shard(regclass)');
	sql(q{SELECT stream_agg.start_stream('c')});
	process($node, 'c');
	is(sql('TABLE local'), '1|2', 'and it goes on afterwards without loss');
};

# Citus leaves it to the caller's COMMIT only then
subtest 'triggers of the sink run in a transaction block' => sub {
	sql("CREATE FUNCTION in_transaction_block() RETURNS boolean LANGUAGE c AS '$ENV{TRANSACTION_BLOCK}';
		CREATE TABLE blocks (inside boolean); CREATE TABLE triggered $table;
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN INSERT INTO blocks SELECT in_transaction_block(); RETURN NULL; END \$\$;
		CREATE TRIGGER note AFTER INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION note()");
	is(sql('SELECT in_transaction_block()'), 'f', 'a statement of its own does not');
	sql(create('d', ", sink => 'triggered'"));
	process($node, 'd');
	is(sql('TABLE triggered'), '1|2', 'a micro-batch is written');
	is(sql('SELECT DISTINCT inside FROM blocks'), 't', 'in a transaction block');
};

done_testing();
