# Rows that the sink has although it should not, or lacks although it should
# have them: update mode inserts what it believes to be new and updates what it
# believes to be there, and is right when that is wrong.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1);
my $node = new_node('rows', 'max_worker_processes = 20');
create_source($node, $broker, 'events', 'events', 'k text, v int');

my $query = q{SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k};
my @sinks = qw(deleted foreign_rows nulls triggers concurrent partitioned passing typed keys_only);
my %query = map { $_ => $query } @sinks;
$query{passing} = "$query HAVING sum(v) % 2 = 0";
$query{keys_only} = 'SELECT k FROM events GROUP BY k';

$node->safe_psql('postgres', q{
	CREATE TABLE partitioned (k text UNIQUE NULLS NOT DISTINCT, n bigint, total bigint) PARTITION BY LIST (k);
	CREATE TABLE partitioned_a PARTITION OF partitioned FOR VALUES IN ('a');
	CREATE TABLE partitioned_rest PARTITION OF partitioned DEFAULT;
	CREATE TABLE typed (k text COLLATE "C" UNIQUE NULLS NOT DISTINCT, n numeric(10, 2), total text);
	CREATE TABLE foreign_rows (k text UNIQUE NULLS NOT DISTINCT, n bigint, total bigint, note text);
	INSERT INTO foreign_rows VALUES ('c', 77, 77, 'mine'), ('other', 1, 1, 'mine')});
for my $sink (@sinks)
{
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('to_$sink', \$q\$$query{$sink}\$q\$,
		sink => '$sink', output_mode => 'update', trigger => '20 days', start => false)");
}
$node->safe_psql('postgres', q{
	CREATE TABLE fired (tg text);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN INSERT INTO fired VALUES (TG_LEVEL || ' ' || TG_OP); RETURN NULL; END $$;
	CREATE TRIGGER rows AFTER INSERT OR UPDATE ON triggers FOR EACH ROW EXECUTE FUNCTION note();
	CREATE TRIGGER inserts AFTER INSERT ON triggers EXECUTE FUNCTION note();
	CREATE TRIGGER updates AFTER UPDATE ON triggers EXECUTE FUNCTION note()});
$node->safe_psql('postgres', "SELECT stream_agg.start_stream('to_$_')") for @sinks;

my $i = 0;

sub batch
{
	my @keys = @_;
	$broker->produce('events', map { json_record({ k => $_, v => ++$i }, numbers => ['v']) } @keys);
	process($node, "to_$_") for @sinks;
	return;
}

sub is_result
{
	my ($sink, $columns, $expected, $name) = @_;
	return is_equal_tables($node, "SELECT $columns FROM $sink", "SELECT $columns FROM ($expected) x", $name);
}

sub check
{
	my ($when) = @_;
	for my $sink (grep { !/foreign_rows|typed/ } @sinks)
	{
		is_equal_tables($node, "SELECT * FROM $sink", $query{$sink}, "$sink: $when");
	}
	is_result('typed', 'k, n, total', 'SELECT k, n::numeric(10, 2), total::text FROM to_typed_query', "typed: $when");
	is_result("foreign_rows f WHERE k IS NULL OR k IN (SELECT k FROM to_foreign_rows_query)", 'k, n, total', $query, "foreign_rows: $when");
	return;
}

batch('a', 'b', undef);
check('the first batch');
is($node->safe_psql('postgres', "SELECT string_agg(tg, ', ' ORDER BY tg) FROM fired"),
	join(', ', ('ROW INSERT') x 3, 'STATEMENT INSERT', 'STATEMENT UPDATE'), 'triggers of a sink fire once for each row and batch');

batch('a', 'b', 'c', 'd');
check('groups that are there, and new ones');
is($node->safe_psql('postgres', "SELECT string_agg(k || ' ' || note, ', ' ORDER BY k) FROM foreign_rows WHERE note IS NOT NULL"),
	'c mine, other mine', 'a row that was in the sink before is updated, with what the stream does not write left as it was');
is($node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE tg = 'STATEMENT INSERT') FROM fired"), 2,
	'and statement triggers once more');

$node->safe_psql('postgres', "DELETE FROM deleted WHERE k IN ('a', 'd'); DELETE FROM partitioned WHERE k = 'a'");
batch('a', 'b', 'e', undef);
is_equal_tables($node, 'SELECT * FROM deleted', "SELECT * FROM ($query) q WHERE k IS DISTINCT FROM 'd'",
	'a row that was deleted comes back with its next record, and only then');
batch('d');
check('after rows were deleted');

# the same, with what the worker has learned forgotten
$node->restart;
batch('a', 'f', undef);
check('after a restart');
batch('b', 'f');
check('and another batch');

# another session has changed a row, and not committed yet, when the worker comes
my ($in, $out, $err) = ('', '', '');
my $session = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);
$in .= "BEGIN; UPDATE concurrent SET n = -1 WHERE k = 'a'; DELETE FROM concurrent WHERE k = 'b'; SELECT 'done';\n";
$session->pump until $out =~ /done/;
$broker->produce('events', map { json_record({ k => $_, v => ++$i }, numbers => ['v']) } qw(a b g));
my $waiting = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'),
		'-c', "SELECT FROM stream_agg.process_available('to_concurrent', '2 minutes')" ], '>', '/dev/null', '2>', '/dev/null');
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity
	WHERE backend_type = 'stream_agg worker' AND wait_event_type = 'Lock'}) or die 'the worker does not wait';
$in .= "COMMIT;\n\\q\n";
$session->finish;
ok($waiting->finish, 'the worker waits for another session that has changed rows');
process($node, "to_$_") for @sinks;
check('and then has the last word');

done_testing();
