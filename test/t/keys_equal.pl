# Keys that are equal are one group, however they are written: the hash of a value is
# made of what the value's equality looks at, and of nothing else.  Random values
# of many types, most of them equal to others, come in many micro-batches; the
# groups are those of the batch query.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $rounds = 3;
my $per_round = 400;
my $broker = start_broker(keys => 2);
my $node = new_node('equal', 'fsync = off', 'timezone = UTC', 'max_worker_processes = 40', 'stream_agg.max_streams = 30');
my $rng = seeded_random();

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub one_of { return $_[ $rng->(scalar @_) ]; }

# ---------- values as text; small sets, each value in several forms ----------

sub number
{
	my $zeros = '0' x $rng->(6);
	return one_of('NaN', 'Infinity', '-Infinity', "0.$zeros", "-0.0$zeros", "1.0$zeros", '1', '1e0', "-1.0$zeros", "10000.$zeros", '1e4', '1e8', "100000000.0$zeros",
		"0.0001$zeros", '1e-4', "0.00010000$zeros", "12345.678$zeros", "12345678.9$zeros", '1e200', '1' . '0' x 200, "-12345.678$zeros", '1e-200');
}
sub finite { my $x; do { $x = number() } while $x =~ /N|I/; return $x; }
sub float { return one_of('0', '-0', 'NaN', 'nan', '1', '1.0', '1e0', 'Infinity', '-1', '0.1', '1e-1'); }
sub word { return one_of('a', 'b', 'a b', 'ab', 'null', 'A'); }
sub whole { return one_of(-1, 0, 1, 2, 1 << 32, (1 << 32) + 1, -(1 << 32), '-4298589168137452372'); }
sub span
{
	return one_of('1 mon', '30 days', '720 hours', '1 day', '24 hours', '-1 day +24 hours', '0', '1 mon -30 days', '2 mons', '60 days', '1 mon 30 days', '-1 mon',
		'100000 years', '1 microsecond');
}
sub clock { return one_of('12:00+00', '13:00+01', '12:00+01', '11:00+00', '12:00:00.0+00'); }

sub elements
{
	my $value = shift;
	return map { $rng->(6) == 0 ? 'NULL' : '"' . $value->() . '"' } 1 .. $rng->(4);
}

sub array
{
	my $value = shift;
	my @elements = elements($value);
	return '{}' unless @elements;
	my $bounds = $rng->(4) ? '' : one_of('[1:%d]=', '[0:%d]=', '[2:%d]=');
	my $last = @elements + ($bounds =~ /\[(\d)/ ? $1 - 1 : 0);
	$bounds = sprintf $bounds, $last if $bounds;
	return $bounds . '{' . join(',', @elements) . '}' if @elements == 1 || $rng->(4);
	return '{{' . join(',', @elements) . '},{' . join(',', @elements) . '}}';
}

sub json
{
	my $depth = shift // 0;
	my $kind = $rng->($depth > 2 ? 5 : 8);
	return one_of('null', '"null"', '""', '[]', '{}') if $kind == 0;
	return one_of('true', 'false') if $kind == 1;
	return '"' . word() . '"' if $kind == 2;
	return finite() =~ s/\.$/.0/r if $kind < 5;
	return '[' . join(', ', map { json($depth + 1) } 1 .. $rng->(3)) . ']' if $kind == 5;
	# keys in any order, some of them twice
	return '{' . join(', ', map { sprintf '"%s": %s', one_of('x', 'y', 'zz'), json($depth + 1) } 1 .. $rng->(4)) . '}';
}

sub range
{
	my $value = shift;
	return 'empty' if $rng->(8) == 0;
	my ($low, $high) = sort { $a <=> $b } $value->(), $value->();
	return one_of('[', '(') . one_of($low, $low, '') . ',' . one_of($high, $high, '') . one_of(']', ')');
}

sub quoted { my $x = shift; $x =~ s/(["\\])/\\$1/g; return "\"$x\""; }

my %keys = (
	n => [ 'numeric', \&number ],
	f8 => [ 'float8', \&float ],
	f4 => [ 'float4', \&float ],
	iv => [ 'interval', \&span ],
	tz => [ 'timetz', \&clock ],
	bp => [ 'character(5)', sub { return word() . ' ' x $rng->(3); } ],
	ba => [ 'bytea', sub { return one_of('\x', '\x00', '\x61', 'a', '\x6162'); } ],
	u => [ 'uuid', sub { return one_of('00000000-0000-0000-0000-000000000001', '{00000000000000000000000000000001}', '00000000-0000-0000-0000-000000000002'); } ],
	an => [ 'numeric[]', sub { return array(\&number); } ],
	ai => [ 'bigint[]', sub { return array(\&whole); } ],
	at => [ 'text[]', sub { return array(\&word); } ],
	af => [ 'float8[]', sub { return array(\&float); } ],
	av => [ 'interval[]', sub { return array(\&span); } ],
	ac => [ 'nocase[]', sub { return array(sub { return one_of('a', 'A', 'b', 'B'); }); } ],
	j => [ 'jsonb', \&json ],
	aj => [ 'jsonb[]', sub { return '{' . join(',', map { quoted(json(2)) } 1 .. 1 + $rng->(2)) . '}'; } ],
	rn => [ 'numrange', sub { return range(sub { return one_of('1', '1.0', '1.00', '2', '2.0', '1e1'); }); } ],
	r8 => [ 'int8range', sub { return range(sub { return $rng->(4); }); } ],
	rw => [ 'wordrange', sub { return one_of('[a,b)', '[A,b)', '[a,B)', '(a,b)', '(A,B)', '[a,)', '[A,)', '(,b]', '(,B]', '[a,a]', '[a,A]', '[a,a)', 'empty'); } ],
	mr => [ 'nummultirange', sub { return '{' . join(',', map { range(sub { return one_of('1', '1.0', '2.00', '2', '3', '4.0'); }) } 1 .. $rng->(3)) . '}'; } ],
	p => [ 'pair', sub { return '(' . one_of(number(), '') . ',' . one_of('', quoted(array(\&number))) . ')'; } ],
	d => [ 'pair_domain', sub { return '(' . number() . ',' . ')'; } ],
	en => [ 'mood[]', sub { return array(sub { return one_of('sad', 'ok'); }); } ]);

sql(q{
	CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE DOMAIN nocase AS text COLLATE nocase;
	CREATE TYPE mood AS ENUM ('sad', 'ok');
	CREATE TYPE pair AS (n numeric, a numeric[]);
	CREATE DOMAIN pair_domain AS pair;
	CREATE TYPE wordrange AS RANGE (SUBTYPE = text, COLLATION = nocase);
	CREATE TABLE records (key text, value text)});
my @names = sort keys %keys;
create_source($node, $broker, 'keys', 'keys', 'key text, value text');
for my $name (@names)
{
	my $type = $keys{$name}[0];
	my $collate = $type eq 'nocase[]' ? ' COLLATE nocase' : '';
	sql(qq{SELECT stream_agg.create_stream('s_$name', \$q\$SELECT value::$type$collate AS k, count(*) AS n FROM keys WHERE key = '$name' GROUP BY 1\$q\$,
		output_mode => 'update', trigger => '20 days')});
}

for my $round (1 .. $rounds)
{
	my @records = map { my $name = one_of(@names); [ $name, $keys{$name}[1]->() ] } 1 .. $per_round * @names / 10;
	my $rows = join ',', map { sprintf "('%s', \$v\$%s\$v\$)", @$_ } @records;
	sql("INSERT INTO records VALUES $rows");
	$broker->produce('keys', map { [ $rng->(2), '', json_record({ key => $_->[0], value => $_->[1] }) ] } @records);
	process($node, "s_$_") for @names;
	# the store is read from the log
	$node->restart if $round == $rounds - 1;
}
for my $name (@names)
{
	my $type = $keys{$name}[0];
	my $collate = $type eq 'nocase[]' ? ' COLLATE nocase' : '';
	is(sql("SELECT count(*), sum(n) FROM s_$name"),
		sql("SELECT count(*), sum(n) FROM (SELECT count(*) AS n FROM records WHERE key = '$name' GROUP BY value::$type$collate) x"),
		"$type: as many groups as the batch query has");
	is(sql("SELECT count(*) FROM s_$name s WHERE n <> (SELECT count(*) FROM records WHERE key = '$name' AND value::$type IS NOT DISTINCT FROM s.k)"), 0,
		"$type: each group has the records that are equal");
}

done_testing();
