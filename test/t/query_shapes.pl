# What a query of a stream may be: joins, subqueries, WITH, views, keys and
# aggregates of every kind.  Each is run as a stream, in batches, and compared
# with itself.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(q => 3);
my $node = new_node('queries');
my $rng = seeded_random();

sub one_of { return $_[ $rng->(scalar @_) ]; }

my @records;
for my $n (0 .. 1199)
{
	my $time = $n * 3;
	my $ts = $rng->(50) == 0 ? 'null' : sprintf('"2026-01-01T%02d:%02d:%02dZ"', $time / 3600, $time / 60 % 60, $time % 60);
	push @records, [ $rng->(3), '', sprintf(
		'{"ts":%s,"id":%s,"name":%s,"price":%s,"arr":%s,"comp":%s,"f":%s,"c":%s,"j":%s,"mood":%s,"iv":"%d minutes","note":"%s"}',
		$ts, one_of('null', 1, 2, 3, 4, 40), one_of('null', '"a"', '"A"', '"b c"', '"q\\"uote"'),
		one_of('null', '1', '1.0', '1.00', '2.5', '-0.001'), one_of('null', '[1,2]', '[1,2,null]', '[]', '[3]'),
		one_of('null', '{"x":1,"y":"p"}', '{"x":null,"y":"q"}'), one_of('0', '-0.0', '1.5', '"NaN"', '"-infinity"'),
		one_of('"x"', '"x "', 'null'), one_of('{"a":1}', '{"a":1.0}', 'null', '[1]'), one_of('"sad"', '"happy"', 'null'),
		$rng->(50), 'x' x one_of(1, 5, 2000)) ];
}
$broker->produce('q', @records);

$node->safe_psql('postgres', q{
	CREATE TYPE mood AS ENUM ('sad', 'happy');
	CREATE TYPE comp AS (x int, y text);
	CREATE DOMAIN posint AS int CHECK (VALUE > 0);
	CREATE COLLATION nc (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE TABLE users (id int, uname text, grp text);
	INSERT INTO users VALUES (1, 'one', 'g1'), (2, 'two', 'g1'), (2, 'zwei', 'g2'), (4, 'four', NULL), (NULL, 'nul', 'g3');
	ALTER TABLE users ENABLE ROW LEVEL SECURITY;
	CREATE TABLE "Odd Names" ("Key" int, "val ue" int);
	INSERT INTO "Odd Names" SELECT g, g * 10 FROM generate_series(1, 5) g;
	CREATE FUNCTION greater(anyelement, anyelement) RETURNS anyelement LANGUAGE sql IMMUTABLE
		AS 'SELECT CASE WHEN $1 IS NULL OR $2 > $1 THEN $2 ELSE $1 END';
	CREATE AGGREGATE mymax(anyelement) (SFUNC = greater, STYPE = anyelement)});
create_source($node, $broker, 'e', 'q',
	q{ts timestamptz, id int, name text, price numeric, arr int[], comp comp, f float8, c char(3), j jsonb,
	  mood mood, iv interval, note text, p int OPTIONS (metadata 'partition'), o bigint OPTIONS (metadata 'offset')});
$node->safe_psql('postgres', q{
	CREATE VIEW ev AS SELECT * FROM e WHERE id IS DISTINCT FROM 40;
	CREATE VIEW sec WITH (security_barrier) AS SELECT * FROM e WHERE price IS NOT NULL});

# NULL times belong to no window; the column that says so, by query
my %windowed = (tumble => 'w', tumble_lo => 'lo', tumble_expr => 'w', tumble_cast => 'w', tumble_join => 'w',
	bin => 'b', bin_ts => 'b');

while (my $line = <DATA>)
{
	chomp $line;
	my ($name, $query) = split / *\| */, $line, 2;
	my $mode = one_of('update', 'complete');
	my $where = $windowed{$name} ? "$windowed{$name} IS NOT NULL" : 'true';

	# with on_error the inner query tells the record of every row
	my $options = $rng->(2) ? '{"on_error": "dead_letter"}' : '{}';
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('s_$name', \$q\$$query\$q\$,
		output_mode => '$mode', trigger => '20 days', max_offsets_per_trigger => 173, options => '$options')");
	process($node, "s_$name");
	is_equal_tables($node, "SELECT * FROM s_$name", "SELECT * FROM s_${name}_query WHERE $where", "$mode: $query");
	counts_add_up($node, "s_$name", scalar @records, "$name counts every record once");
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('s_$name', drop_sink => true)");
}

done_testing();

__DATA__
join             | select u.uname, count(*) n, sum(price) s from e join users u on u.id=e.id group by 1
left             | select u.grp, count(*) n, count(u.id) m from e left join users u on u.id=e.id group by 1
right            | select u.grp, count(*) n from users u right join e on u.id=e.id group by 1
cross            | select u.grp, e.id, count(*) n from e, users u where u.id > e.id group by 1,2
lateral          | select x.y, count(*) n from e, lateral (select e.id % 2 as y where e.id > 1) x group by 1
lateral2         | select g, count(*) n from e, lateral generate_series(1,e.id % 5) g group by 1
cte              | with c as (select id, price from e where id < 4) select id, sum(price) s from c group by 1
cte_mat          | with c as materialized (select id, price from e where id < 4), u as (select * from users) select c.id, u.uname, sum(price) s from c join u using (id) group by 1,2
cte_nested       | with a as (with b as (select * from e) select * from b where id>1) select id, count(*) n from (select * from a) z group by id
cte_sub          | with u as (select id, count(*) k from users group by id) select e.id, (select k from u where u.id = e.id) as k, count(*) n from e group by 1
view             | select id, count(*) n from ev group by 1
secview          | select id, count(*) n, max(price) m from sec group by 1
exists           | select id, count(*) n from e where exists (select 1 from users u where u.id=e.id) group by 1
notin            | select id, count(*) n from e where id not in (select id from users where id is not null) group by 1
having_sub       | select id, count(*) n from e group by id having count(*) > (select count(*)*50 from users u where u.id = e.id)
sel_sub          | select id, count(*) n, (select max(uname) from users u where u.id = e.id) nm, (select sum("val ue") from "Odd Names" o) z from e group by id
agg_in_sub       | select id, (select sum(u.id) + max(e.price) from users u) z from e group by id
odd              | select o."Key" as "A Key", count(*) as "co""unt" from e join "Odd Names" o on o."Key"=e.id group by 1
arr              | select arr, count(*) n from e group by 1
comp             | select comp, count(*) n from e group by 1
float            | select f, count(*) n from e group by 1
char             | select c, count(*) n from e group by 1
jsonb            | select j, count(*) n from e group by 1
mood             | select mood, count(*) n, min(mood) mm, max(mood) from e group by 1
nc               | select name collate nc as name2, count(*) n from e group by 1
price            | select price, count(*) n from e group by 1
iv               | select id, avg(iv) a, sum(iv) s, max(iv) m from e group by 1
iv_key           | select iv, count(*) n from e group by 1
range            | select int4range(id, id+2) as r, count(*) n from e where id is not null group by 1
domain           | select id::posint as d, count(*) n from e where id is not null group by 1
min_arr          | select id, min(arr) a, max(arr) b from e group by 1
poly             | select id, mymax(price) a, mymax(name) b, mymax(arr) c from e group by 1
bits             | select id, bit_and(id) a, bit_or(id) b, every(id>1) ev, bool_or(price>1) o from e group by 1
var              | select id, var_pop(price) a, stddev_samp(id) b, variance(price) c, var_samp(o) d from e group by 1
case             | select case when id > 2 then 'big' when id is null then 'none' else 'small' end as size, coalesce(sum(price),0) s, nullif(count(*),3) n from e group by 1
same_twice       | select id, count(*) a, count(*)+1 b, count(*) filter (where id=1) c, sum(price) filter (where price>1) d, sum(price) e2 from e group by 1 having count(*)>2
filter_err       | select id % 5 as m, sum(10/(id-1)) filter (where id<>1) s from e group by 1
text_keys        | select left(note,3) nn, length(max(note)) l from e group by 1
twokeys          | select id, name, mood, count(*) n from e group by 1,2,3
expr_keys        | select id+1 as k, (id+1)*2 as kk, count(*) n from e group by id+1
const_key        | select 'x'::text as k, id, count(*) n from e group by 1,2
offs             | select p, max(o) mx, count(*) n from e group by p
event_time       | select id, max(ts) m from e group by 1
distinct_on_users | select u.grp, count(*) n from e join (select distinct grp, id from users) u using (id) group by 1
union_side       | select k.id, count(*) n from e join (select 1 as id union select 2) k using (id) group by 1
win_side         | select k.rn, count(*) n from e join (select id, row_number() over (order by uname) rn from users) k using (id) group by 1
srf_side         | select k.g, count(*) n from e join (select generate_series(1,3) g) k on k.g=e.id group by 1
values           | select v.n, count(*) c from e join (values (1,'uno'),(2,'dos')) v(id,n) using (id) group by 1
semi_or          | select e.id, count(*) n from e left join users u on u.id=e.id where u.id is null or e.price > 1 group by 1
selfkey          | select e.id, u.id as uid, count(*) n from e join users u on u.id=e.id group by e.id, u.id
using_group      | select id, count(*) n from e join users using (id) group by id
natural_left     | select id, count(*) n from e left join users using (id) group by id
tumble           | select stream_agg.tumble(ts,'10 min') w, lower(stream_agg.tumble(ts,'10 min')) lo, id, count(*) n from e group by 1, 3
tumble_lo        | select lower(stream_agg.tumble(ts,'10 min')) lo, upper(stream_agg.tumble(ts,'10 min')) hi, count(*) n from e group by 1,2
tumble_expr      | select to_char(lower(stream_agg.tumble(ts,'10 min')),'HH24:MI') t, stream_agg.tumble(ts,'10 min') as w, count(*) n from e group by stream_agg.tumble(ts,'10 min')
bin              | select date_bin('10 min', ts, '2000-01-01') b, sum(price) s from e group by 1
bin_ts           | select date_bin('10 min', ts at time zone 'UTC', timestamp '2000-01-01') b, sum(price) s from e group by 1
tumble_cast      | select stream_agg.tumble((ts::text)::timestamptz,'10 min') w, count(*) n from e group by 1
tumble_join      | select stream_agg.tumble(ts,'10 min') w, u.grp, count(*) n, sum(price) s from e left join users u on u.id=e.id group by 1,2 having count(*) > 5
sub_ordered      | select id, count(*) n from (select * from e order by price, name) x group by id
now              | select id, count(*) n, bool_and(now() > '2020-01-01') b from e group by 1
