# Enrichment: the records of a stream meet ordinary tables.  Each form of a join
# is run as a stream and compared with itself as a batch query.  A change of a
# table is seen from the next micro-batch on, and by no half of one.  The tables
# are read as the stream's owner, row-level security included; what DDL does to
# them under a running stream leaves it right or says what is wrong.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(e => 2);
my $node = new_node('enrichment', 'max_worker_processes = 32', 'stream_agg.max_attempts = 1000');
my $rng = seeded_random();
my $produced = 0;

sub one_of { return $_[ $rng->(scalar @_) ]; }
sub sql { return $node->safe_psql('postgres', $_[0]); }

sub produce
{
	my $n = shift;
	my @records;
	for (1 .. $n)
	{
		my $time = $produced++ * 3;
		push @records, [ $rng->(2), '', sprintf('{"ts":"2026-01-01T%02d:%02d:%02dZ","id":%s,"sku":%s,"v":%d}',
			$time / 3600, $time / 60 % 60, $time % 60, one_of('null', 1, 2, 3, 4, 40), one_of('null', '"a"', '"b"', '"z"'), $rng->(100)) ];
	}
	$broker->produce('e', @records);
	return;
}

sub create
{
	my ($name, $query, $more) = @_;
	return sql("SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$, trigger => '20 days', " . ($more // "output_mode => 'update'") . ')');
}

# a database with a table that another one reads
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
$node->safe_psql('elsewhere', q{CREATE TABLE rates (sku text, rate numeric); INSERT INTO rates VALUES ('a', 1.5), ('b', 0.25)});
my $csv = PostgreSQL::Test::Utils::tempdir_short() . '/cities.csv';
append_to_file($csv, "1,Bern\n2,Rome\n4,Oslo\n");
chmod 0644, $csv;
my ($host, $port) = ($node->host, $node->port);
sql(qq{
	CREATE TABLE users (id int PRIMARY KEY, name text, grp text, boss int);
	INSERT INTO users VALUES (1, 'one', 'g1', NULL), (2, 'two', 'g1', 1), (3, 'three', NULL, 2), (4, 'four', 'g2', 2);
	CREATE TABLE prices (sku text, valid_from timestamptz, price numeric);
	INSERT INTO prices VALUES ('a', '2026-01-01 00:00Z', 1), ('a', '2026-01-01 00:10Z', 2), ('b', '2026-01-01 00:05Z', 10);
	CREATE TABLE parted (id int, note text) PARTITION BY LIST (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1, 2);
	CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
	INSERT INTO parted VALUES (1, 'p1'), (3, 'p3'), (4, 'p4');
	CREATE TABLE mother (id int, kind text);
	CREATE TABLE child (extra int) INHERITS (mother);
	INSERT INTO mother VALUES (1, 'm'); INSERT INTO child VALUES (2, 'c', 5);
	CREATE MATERIALIZED VIEW groups AS SELECT grp, count(*) AS members FROM users GROUP BY grp;
	CREATE VIEW named AS SELECT id, upper(name) AS name FROM users WHERE grp IS NOT NULL;
	CREATE VIEW barrier WITH (security_barrier) AS SELECT * FROM users WHERE id < 4;
	CREATE EXTENSION postgres_fdw;
	CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'elsewhere');
	CREATE USER MAPPING FOR CURRENT_USER SERVER other;
	CREATE FOREIGN TABLE rates (sku text, rate numeric) SERVER other;
	CREATE EXTENSION file_fdw;
	CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
	CREATE FOREIGN TABLE cities (id int, city text) SERVER files OPTIONS (filename '$csv', format 'csv');
	CREATE FUNCTION group_of(int) RETURNS text STABLE LANGUAGE sql AS 'SELECT grp FROM users WHERE id = \$1';
	CREATE FUNCTION members(text) RETURNS SETOF users STABLE LANGUAGE plpgsql
		AS 'BEGIN RETURN QUERY SELECT * FROM users WHERE grp = \$1; END'});
create_source($node, $broker, 'e', 'e', 'ts timestamptz, id int, sku text, v int');

# --- each form against the batch query; with on_error, records are named as well
produce(400);
my @streams;
while (my $line = <DATA>)
{
	chomp $line;
	my ($name, $query) = split / *\| */, $line, 2;
	my $mode = one_of('update', 'complete');
	my $options = one_of('{}', '{"on_error": "dead_letter"}');
	create("j_$name", $query, "output_mode => '$mode', max_offsets_per_trigger => 97, options => '$options'");
	push @streams, [ $name, $mode, $query ];
	next if @streams % 10 && !eof(DATA);

	for (@streams)
	{
		my ($done, $how, $what) = @$_;
		process($node, "j_$done");
		is_equal_tables($node, "SELECT * FROM j_$done", "SELECT * FROM j_${done}_query", "$how: $what");
		counts_add_up($node, "j_$done", $produced, "$done counts every record once");
		sql("SELECT stream_agg.drop_stream('j_$done', drop_sink => true)");
	}
	@streams = ();
}

# --- a change is seen from the next micro-batch on: what was counted stays
my $grouped = 'SELECT u.grp, count(*) AS n FROM e LEFT JOIN users u ON u.id = e.id GROUP BY 1';
create('changes', $grouped);
create('closing', q{SELECT lower(stream_agg.tumble(ts, '5 minutes')) AS w, u.name, count(*) AS n FROM e JOIN users u ON u.id = e.id GROUP BY 1, 2},
	"output_mode => 'append', watermark => '0'");
process($node, $_) for 'changes', 'closing';
my ($whole_windows) = split /\|/, sql('SELECT max(w) FROM closing');
sql("CREATE TABLE before AS SELECT * FROM changes_query;
	CREATE TABLE named_before AS SELECT lower(stream_agg.tumble(ts, '5 minutes')) AS w, name, count(*) AS n FROM e JOIN users USING (id) GROUP BY 1, 2");
my $seen = $produced;
sql(q{UPDATE users SET grp = 'g9', name = 'renamed' WHERE id = 2; DELETE FROM users WHERE id = 4; INSERT INTO users VALUES (40, 'forty', 'g1')});
is_equal_tables($node, 'SELECT * FROM changes', 'SELECT * FROM before', 'a change of the table alone changes nothing');
produce(200);
process($node, $_) for 'changes', 'closing';
sql("CREATE TABLE after AS SELECT u.grp, count(*) AS n FROM (SELECT *, row_number() OVER (ORDER BY ts) AS k FROM e) e
	LEFT JOIN users u ON u.id = e.id WHERE k > $seen GROUP BY 1");
is_equal_tables($node, 'SELECT * FROM changes',
	'SELECT grp, sum(n)::bigint FROM (SELECT * FROM before UNION ALL SELECT * FROM after) x GROUP BY 1',
	'records after the change meet the table as it is then');
is_equal_tables($node, "SELECT * FROM closing WHERE w <= '$whole_windows'", "SELECT * FROM named_before WHERE w <= '$whole_windows'",
	'windows written before it stay as they are');
is(sql("SELECT count(*) FROM closing WHERE w > timestamptz '$whole_windows' + interval '5 minutes' AND name IN ('two', 'four')"), 0,
	'and those after it know nothing of what was');

# --- one snapshot for the batch: a change while it runs is not seen by half of it
sql(q{CREATE FUNCTION gate() RETURNS boolean STABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_lock_shared(7); PERFORM pg_advisory_unlock_shared(7); RETURN true; END';
	CREATE TABLE label (id int, what text); INSERT INTO label VALUES (1, 'old')});
create('halves', q{SELECT l.what, count(*) AS n, (SELECT max(what) FROM label) AS again FROM e JOIN label l ON true WHERE gate() GROUP BY 1},
	"output_mode => 'update', start => false");
my ($in, $said) = ('', '');
my $keeper = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$said, '2>&1');
$in .= "SELECT pg_advisory_lock(7), 'locked';\n";
$keeper->pump until $said =~ /locked/;
# its first micro-batch comes with its start
sql(q{SELECT stream_agg.start_stream('halves')});
my $out = '';
my $waiting = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', "SELECT count(*) FROM stream_agg.process_available('halves')" ],
	'<', \undef, '>', \$out, '2>&1');
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) or die 'nobody waits';
sql(q{UPDATE label SET what = 'new'});
$in .= "\\q\n";
$keeper->finish;
$waiting->finish;
is(sql('SELECT what, again FROM halves'), 'old|old', 'a change during a micro-batch is not seen by half of it');
sql(q{SELECT stream_agg.drop_stream('halves')});

# --- as the owner: privileges, row-level security, views with the rights of either
sql(q{
	CREATE ROLE analyst LOGIN;
	GRANT CREATE ON SCHEMA public TO analyst;
	GRANT SELECT ON e, users TO analyst;
	CREATE TABLE secrets (id int, note text); INSERT INTO secrets VALUES (1, 'secret');
	CREATE VIEW lent AS SELECT * FROM secrets;
	CREATE VIEW own_rights WITH (security_invoker) AS SELECT * FROM secrets;
	GRANT SELECT ON lent, own_rights TO analyst});

sub create_as_analyst
{
	my ($name, $query) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "SET ROLE analyst; SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$, output_mode => 'update', trigger => '50 ms')");
	return $err;
}
like(create_as_analyst('no', 'SELECT note, count(*) FROM e JOIN secrets USING (id) GROUP BY 1'), qr/permission denied for table secrets/,
	'a table that the owner may not read is refused');
like(create_as_analyst('no', 'SELECT id, count(*), (SELECT max(note) FROM secrets) AS m FROM e GROUP BY 1'), qr/permission denied for table secrets/,
	'in the select list, too');
like(create_as_analyst('no', 'SELECT note, count(*) FROM e JOIN own_rights USING (id) GROUP BY 1'), qr/permission denied for table secrets/,
	'and behind a view with the rights of its invoker');
unlike(create_as_analyst('lending', 'SELECT note, count(*) AS n FROM e JOIN lent USING (id) GROUP BY 1'), qr/ERROR/, 'a view lends the rights of its owner');
unlike(create_as_analyst('rows', 'SELECT u.name, count(*) AS n FROM e JOIN users u USING (id) GROUP BY 1'), qr/ERROR/, 'a table with SELECT is joined');
process($node, $_) for 'lending', 'rows';
is_equal_tables($node, 'SELECT * FROM lending', 'SELECT * FROM lending_query', 'and gives its rows');

my $rows = sql('SELECT sum(n) FROM rows');
sql(q{ALTER TABLE users ENABLE ROW LEVEL SECURITY; CREATE POLICY ones ON users TO analyst USING (id = 1 AND current_user = 'analyst')});
my $ones = sql('SELECT count(*) FROM e WHERE id = 1');
produce(100);
process($node, 'rows');
is(sql(q{SELECT sum(n) FROM rows}), $rows + sql('SELECT count(*) FROM e WHERE id = 1') - $ones,
	'row-level security of a joined table holds from the next micro-batch on, for the owner');
process($node, 'changes');
cmp_ok(sql('SELECT sum(n) FROM changes'), '==', $produced, 'but not for the owner of the table');

sql('REVOKE SELECT ON users FROM analyst');
produce(20);
$node->poll_query_until('postgres', q{SELECT last_error ~ 'permission denied for table users' FROM pg_stat_stream_agg WHERE stream = 'rows'})
  or die 'no error is shown';
pass('a privilege that is gone is named');
sql('GRANT SELECT ON users TO analyst');
sql(q{SELECT stream_agg.start_stream('rows')}) if sql(q{SELECT state FROM pg_stat_stream_agg WHERE stream = 'rows'}) eq 'failed';
process($node, 'rows');
is(sql('SELECT sum(n) FROM rows'), $rows + sql('SELECT count(*) FROM e WHERE id = 1') - $ones, 'and once it is back nothing is lost');

# --- DDL on a joined table
my $ddl = sub { my ($status, $out, $err) = $node->psql('postgres', $_[0]); return $err; };
like($ddl->('ALTER TABLE users DROP COLUMN grp'), qr/other objects depend on it/, 'a column in use is not dropped');
like($ddl->('ALTER TABLE users ALTER grp TYPE varchar(5)'), qr/used by a view/, 'nor given another type');
like($ddl->('DROP TABLE users'), qr/other objects depend on it/, 'nor is the table');
my $total = sql('SELECT sum(n) FROM changes');
sql(q{
	ALTER TABLE users RENAME COLUMN grp TO team;
	ALTER TABLE users ADD COLUMN added int DEFAULT 3;
	CREATE SCHEMA moved; ALTER TABLE users SET SCHEMA moved; ALTER TABLE moved.users RENAME TO people;
	CLUSTER moved.people USING users_pkey});
produce(50);
process($node, 'changes');
is(sql('SELECT sum(n) FROM changes'), $total + 70, 'renames, new columns and rewrites are no matter');
sql('TRUNCATE moved.people');
produce(30);
process($node, 'changes');
is(sql(q{SELECT sum(n) FROM changes}), $total + 100, 'TRUNCATE leaves records without a match');
sql(q{SET client_min_messages = error; DROP TABLE moved.people CASCADE});
is(sql(q{SELECT count(*) FROM stream_agg.streams WHERE stream IN ('changes', 'closing', 'rows')}), 0,
	'DROP TABLE ... CASCADE drops the streams that join it');
is(sql('SELECT sum(n) FROM changes'), $total + 100, 'whose sinks stay');

done_testing();

# The form of a query, by name; 400 records
__DATA__
inner            | select u.name, count(*) n, sum(v) s from e join users u on u.id = e.id group by 1
left             | select u.grp, count(*) n, count(u.id) m from e left join users u on u.id = e.id group by 1
left_cond        | select u.grp, count(*) n from e left join users u on u.id = e.id and e.v > 50 and u.grp = 'g1' group by 1
right            | select u.grp, count(*) n from users u right join e on u.id = e.id group by 1
using_both       | select id, grp, city, count(*) n from e join users using (id) left join cities using (id) group by 1, 2, 3
nested           | select u.name, b.name as boss, count(*) n from e left join (users u join users b on b.id = u.boss) on u.id = e.id group by 1, 2
theta            | select u.id as uid, count(*) n from e join users u on u.id > e.id and u.id <> e.v group by 1
constant_match   | select u.name, count(*) n from e join users u on u.id = 2 group by 1
none_match       | select u.name, count(*) n from e join users u on u.id = -e.v - 1 group by 1
table_sub        | select t.members, count(*) n from e join (select u.id, g.members from users u join (select grp, count(*) as members from users group by grp) g on g.grp is not distinct from u.grp) t using (id) group by 1
distinct_sub     | select t.grp, count(*) n from e, (select distinct grp from users order by 1 limit 2) t group by 1
union_sub        | select t.k, count(*) n from e join (select id as k from users union all select id from cities except select 3) t on t.k = e.id group by 1
rank_sub         | select r.place, sum(e.v) s from e join (select id, rank() over (order by name desc) as place from users) r using (id) group by 1
srf_sub          | select g, count(*) n from e join lateral generate_series(1, e.id % 4) g on true group by 1
scalar_sub       | select (select grp from users where users.id = e.id) as grp, count(*) n from e group by 1
scalar_arg       | select sku, sum((select length(name) from users u where u.id = e.id) * v) s from e group by 1
scalar_filter    | select sku, count(*) filter (where exists (select from users u where u.id = e.id and u.grp = 'g1')) n from e group by 1
scalar_having    | select id, count(*) n from e group by 1 having count(*) > (select count(*) * 10 from users)
scalar_out       | select id, count(*) n, (select name from users u where u.id = e.id) as name from e group by e.id
exists           | select sku, count(*) n from e where exists (select from users u where u.id = e.id and u.grp is null) group by 1
not_exists       | select sku, count(*) n from e where not exists (select from users u where u.id = e.id) group by 1
in               | select sku, count(*) n from e where id in (select id from users where grp = 'g1') group by 1
not_in           | select sku, count(*) n from e where id not in (select boss from users where boss is not null) group by 1
any_array        | select sku, count(*) n from e where id = any (array(select id from users)) group by 1
row_in           | select sku, count(*) n from e where (id, sku) in (select u.id, p.sku from users u, prices p) group by 1
cte              | with g as (select grp, count(*) c from users group by grp) select g.c, count(*) n from e join users u using (id) join g on g.grp = u.grp group by 1
cte_twice        | with g as materialized (select * from users where id < 4) select a.name, b.name as boss, count(*) n from e join g a on a.id = e.id left join g b on b.id = a.boss group by 1, 2
cte_both_sides   | with g as (select * from users where id < 4) select g.name, count(*) n, (select count(*) from g) as all_of_them from e join g using (id) group by 1
cte_of_source    | with s as materialized (select * from e where v > 20), g as (select * from users) select g.grp, count(*) n from s left join g using (id) group by 1
cte_recursive    | with recursive chain as (select id, id as top from users where boss is null union all select u.id, c.top from users u join chain c on c.id = u.boss) select top, count(*) n from e join chain using (id) group by 1
cte_recursive_out | with recursive n(i) as (select 1 union all select i + 1 from n where i < 5) select id, count(*) c, (select sum(i) from n) as s from e group by 1
lateral_latest   | select p.price, count(*) n, sum(e.v * p.price) s from e left join lateral (select price from prices p where p.sku = e.sku and p.valid_from <= e.ts order by valid_from desc limit 1) p on true group by 1
lateral_agg      | select x.c, count(*) n from e cross join lateral (select count(*) c from users u where u.id >= e.id) x group by 1
lateral_values   | select x.what, sum(x.n) s from e, lateral (values ('v', e.v), ('id', e.id)) x(what, n) group by 1
lateral_function | select m.name, count(*) n from e left join lateral members(e.sku || '1') m on true group by 1
function_expr    | select group_of(id) as g, count(*) n from e group by 1
view             | select named.name, count(*) n from e join named using (id) group by 1
view_barrier     | select b.name, count(*) n from e join barrier b using (id) where length(b.name) > 2 group by 1
matview          | select g.members, count(*) n from e join users u using (id) join groups g on g.grp = u.grp group by 1
partitioned      | select p.note, count(*) n from e join parted p using (id) group by 1
one_partition    | select p.note, count(*) n from e left join parted_1 p using (id) group by 1
inherited        | select m.kind, count(*) n from e join mother m using (id) group by 1
only_parent      | select m.kind, count(*) n from e left join only mother m using (id) group by 1
sampled          | select count(*) n, u.id from e join users u tablesample bernoulli (50) repeatable (3) using (id) group by 2
foreign_server   | select r.rate, sum(v) s from e left join rates r using (sku) group by 1
foreign_file     | select c.city, count(*) n from e left join cities c using (id) group by 1
foreign_sub      | select sku, count(*) n from e where sku in (select sku from rates where rate > 1) group by 1
whole_row        | select u, count(*) n from e join users u using (id) group by 1
window_join      | select stream_agg.tumble(ts, '3 minutes') as w, u.grp, count(*) n, sum(v) s from e join users u using (id) group by 1, 2
price_window     | select date_bin('5 minutes', ts, 'epoch') as w, sum(p.price * v) s from e join prices p on p.sku = e.sku and e.ts >= p.valid_from group by 1
catalog          | select t.typname::text as t, count(*) n from e join pg_type t on t.oid = 15 + e.id group by 1
