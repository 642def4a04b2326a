# What random queries of streams are made of: tables of their parts, to which a
# new feature adds a line, and the query as two texts - over the source, for the
# stream, and over the records that a stream has read, for the oracle.
#
# In all parts e is the record.  {dim} is a table (id, grp) that changes between
# micro-batches; the oracle has it as it was at the record's.

package StreamAgg::RandomQuery;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(random_query stream_query oracle_query passes %values %windows);

# type of a column => its values in JSON
our %values = (
	smallint => [ 0, 1, -1, 32767, -32768 ],
	int => [ 0, 1, 2, 3, -5, 2147483647 ],
	bigint => [ 0, 7, -7, '9007199254740993', '-1000000000000' ],
	numeric => [ '1.0', '1.00', '2', '-3.125', '0', '12345678901234567890.0123456789', '1e10' ],
	'numeric(8,2)' => [ '1.005', '1', '-2.5', '99999.99' ],
	float8 => [ '0', '-0.0', '1.5', '-2.25', '"NaN"', '"infinity"', '1024' ],
	real => [ '0', '0.5', '-8', '"-infinity"' ],
	text => [ '""', '"a"', '"A"', '"b c"', '"\\u00e4\\"\\\\"', '"' . 'x' x 300 . '"' ],
	'text COLLATE nocase' => [ '"anna"', '"ANNA"', '"Bob"', '"bob"', '""' ],
	'varchar(3)' => [ '"a"', '"abc"', '"\\u00e4"' ],
	'char(3)' => [ '"x"', '"x "', '"xyz"' ],
	boolean => [ 'true', 'false' ],
	date => [ '"2026-01-02"', '"1999-12-31"', '"infinity"' ],
	timestamptz => [ '"2026-01-02T03:04:05Z"', '"2026-01-02T05:04:05+02:00"', '0', '1767323045000' ],
	timestamp => [ '"2026-01-02T03:04:05"', '86400000' ],
	interval => [ '"1 day"', '"24 hours"', '"1 month"', '"-00:00:01"' ],
	uuid => [ '"6f1b1e3c-7e4d-4b7e-8f2a-0123456789ab"', '"00000000-0000-0000-0000-000000000000"' ],
	bytea => [ '"\\\\x00ff"', '"\\\\x"', '"abc"' ],
	jsonb => [ '{"a":1}', '{"a":1.0}', '[1,null]', '"x"', '{}' ],
	'int[]' => [ '[]', '[1,2]', '[1,null]', '"{1,2}"' ],
	mood => [ '"sad"', '"ok"', '"happy"' ],
	inet => [ '"10.0.0.1"', '"10.0.0.0/8"' ],
	int4range => [ '"[1,5)"', '"[1,4]"', '"empty"' ]);

# kind of window => [ the window or windows of e.ts, the end of a window x.w ]...
our %windows = (
	tumble => [
		map({ [ "stream_agg.tumble(e.ts, '$_')", 'upper(x.w)' ] }
			'1 second', '7 seconds', '1 minute', '1 hour', '1 day', '250 milliseconds'),
		[ "stream_agg.tumble(e.ts, '5 minutes', '2000-01-01 00:01:30+00')", 'upper(x.w)' ],
		[ "lower(stream_agg.tumble(e.ts, '30 seconds'))", "x.w + interval '30 seconds'" ] ],
	date_bin => [
		[ "date_bin('90 seconds', e.ts, '2000-01-01 00:00:07+00')", "x.w + interval '90 seconds'" ],
		[ "date_bin('15 minutes', e.ts AT TIME ZONE 'UTC', timestamp '2000-01-01')", "x.w AT TIME ZONE 'UTC' + interval '15 minutes'" ],
		[ "date_bin('1 second', e.ts, 'epoch')", "x.w + interval '1 second'" ] ]);
my @window_kinds = sort keys %windows;

# with the columns v int, n numeric, f float8, t text, ok boolean of every source; %s: one of its own
my @aggregates = ('count(*)', 'count(%s)', 'count(e.n)', 'sum(e.v)', 'sum(e.n)', 'sum(e.f)', 'avg(e.v)', 'avg(e.n)', 'avg(e.f)',
	'min(e.v)', 'max(e.n)', 'min(e.t)', 'max(e.f)', 'max(e.ts)', 'min(e.ts) + interval \'1 day\'', 'bool_and(e.ok)', 'bool_or(e.ok)',
	'every(e.v > 1)', 'bit_xor(e.v)', 'bit_or(e.v::bigint)', 'stddev(e.v)', 'var_pop(e.n)', 'variance(e.v::numeric)',
	'sum(e.v) FILTER (WHERE e.ok)', 'count(*) FILTER (WHERE e.t > \'a\')', 'sum(10 / e.v) FILTER (WHERE e.v <> 0)',
	'max(e.v) - min(e.v)', 'COALESCE(sum(e.n), 0) + count(*)', 'CASE WHEN count(*) > 2 THEN \'many\' ELSE \'few\' END',
	'count(*)::text || \'/\' || count(e.v)::text', 'longest(e.t)', 'sum(e.v::bigint * 3 + 1)', 'sum(length(e.t)) / count(*)',
	'max(upper(e.t))', 'sum(e.i)', 'avg(e.i)', 'max(e.i)', 'sum((SELECT count(*) FROM {dim} s WHERE s.id = e.v))',
	'count(*) FILTER (WHERE e.v IN (SELECT id FROM {dim} s))', 'regr_slope(e.v, e.v * 2)',
	'count(DISTINCT e.v)', 'count(DISTINCT %s)', 'sum(DISTINCT e.n)', 'count(DISTINCT e.t) FILTER (WHERE e.ok)', 'array_agg(DISTINCT e.t)',
	'string_agg(e.t, \',\' ORDER BY e.t)', 'array_agg(e.v ORDER BY e.v DESC)', 'jsonb_agg(e.ok ORDER BY e.ok)', 'array_agg(%s::text ORDER BY %s::text)',
	'percentile_cont(0.5) WITHIN GROUP (ORDER BY e.v)', 'percentile_disc(0.9) WITHIN GROUP (ORDER BY e.n)',
	'mode() WITHIN GROUP (ORDER BY e.ok)', 'max(e.v ORDER BY e.v)', 'rank(2) WITHIN GROUP (ORDER BY e.v)', '(SELECT max(length(e.t)) + min(k) FROM (VALUES (1), (2)) s(k))');
my @conditions = ('true', 'true', 'true', 'e.v % 3 <> 0', 'e.v > 0 OR e.t = \'a\'', 'e.t IS NOT NULL', 'e.ok', 'e.ok IS NOT TRUE',
	'e.n BETWEEN -10 AND 10', 'e.v IN (SELECT id FROM {dim} s)', 'NOT EXISTS (SELECT FROM {dim} s WHERE s.id = e.v AND s.grp = \'g1\')',
	'e.v > (SELECT min(id) FROM {dim} s)', 'e.f > 0 AND e.v < 5', 'false');
my @havings = ('', '', '', 'count(*) > 1', 'sum(e.v) > 5', 'count(*) % 2 = 1', 'min(e.v) IS NOT NULL', 'bool_or(e.ok)', 'sum(e.n) < 3');
# a join, and a key it offers
my @joins = (([ '', undef ]) x 5,
	[ 'JOIN {dim} d ON d.id = e.v', 'd.grp' ],
	[ 'LEFT JOIN {dim} d ON d.id = e.v', 'd.grp' ],
	[ 'LEFT JOIN {dim} d ON d.id = e.v AND e.ok', 'd.id' ],
	[ 'LEFT JOIN (SELECT DISTINCT id, 1 AS one FROM {dim} s) d ON d.id = e.v', 'd.one' ],
	[ 'LEFT JOIN LATERAL (SELECT grp FROM {dim} s WHERE s.id <= e.v ORDER BY id DESC, grp LIMIT 1) d ON true', 'd.grp' ],
	[ 'JOIN (SELECT grp, count(*) AS c FROM {dim} s GROUP BY grp) d ON d.c >= e.v', 'd.grp' ],
	[ 'JOIN {dim} d ON d.id = e.v LEFT JOIN {dim} d2 ON d2.id = d.id + 1', 'd2.grp' ],
	[ 'CROSS JOIN (VALUES (1), (2)) d(i)', 'd.i' ],
	[ 'CROSS JOIN LATERAL generate_series(1, e.v % 3) d(i)', 'd.i' ]);
my @delays = ('0', '1 second', '10 seconds', '2 minutes', '1 hour', '1 day 00:00:01', '7 milliseconds');

# A random query: one_of chooses among its arguments, below(n) a number;
# topic->{types} are the types of the columns k0, k1, ...
sub random_query
{
	my ($mode, $topic, $one_of, $below) = @_;
	my $own = 'e.k' . $below->(scalar @{ $topic->{types} });
	my $query = { mode => $mode, condition => $one_of->(@conditions), having => $one_of->(@havings) };
	my ($join, $join_key) = @{ $one_of->(@joins) };
	my @keys;

	if ($mode eq 'append' || $below->(5))
	{
		$query->{kind} = $one_of->(@window_kinds);
		$query->{window} = $one_of->(@{ $windows{ $query->{kind} } });
		$query->{delay} = $one_of->(@delays) if $mode eq 'append' || $below->(4);
	}
	$query->{join} = $join;
	for (1 .. $below->(4))
	{
		push @keys, $one_of->(map({ "e.k$_" } 0 .. $#{ $topic->{types} }), $join_key // 'e.v',
			'e.v % 2', 'COALESCE(e.t, \'-\')', 'e.ok', 'upper(e.t)', 'e.n', '(SELECT max(grp) FROM {dim} s WHERE s.id = e.v)');
	}
	# the same key twice is refused nowhere, but proves nothing
	my %seen;
	@keys = grep { !$seen{$_}++ } @keys;
	push @keys, 'e.ok' unless @keys || $query->{window};
	my @outputs = map { my $a = $one_of->(@aggregates); $a =~ s/%s/$own/g; $a } 1 .. 1 + $below->(5);
	$query->{keys} = \@keys;
	$query->{outputs} = \@outputs;
	return $query;
}

# The SELECT over a relation with a window expression; further conditions choose
# among the rows.
sub assemble
{
	my ($query, $from, $window, @conditions) = @_;
	my @keys = (($query->{window} ? $window : ()), @{ $query->{keys} });
	my $list = join(', ', map({ "$keys[$_] AS key$_" } 0 .. $#keys), map({ "$query->{outputs}[$_] AS out$_" } 0 .. $#{ $query->{outputs} }));
	my $having = $query->{having} ? " HAVING $query->{having}" : '';
	return "SELECT $list FROM $from WHERE " . join(' AND ', map { "($_)" } $query->{condition}, @conditions)
	  . ' GROUP BY ' . join(', ', 1 .. @keys) . $having;
}

# As a stream has it.
sub stream_query
{
	my ($query, $source) = @_;
	my $text = assemble($query, "$source e $query->{join}", $query->{window} ? $query->{window}[0] : undef);
	$text =~ s/\{dim\}/dim/g;
	return $text;
}

# What {dim} was when the record e was read.
sub versioned
{
	my $text = shift;
	$text =~ s/JOIN (?=\{dim\}|\((?!VALUES))/JOIN LATERAL /g;
	$text =~ s/\{dim\}/(SELECT id, grp FROM dim_versions v WHERE v.version = e.version)/g;
	return $text;
}

# As the oracle has it: over rows x records and windows, x.w, of a relation with
# the columns of the source, and "version" of dim; further conditions on these.
sub oracle_query
{
	my ($query, $records, @conditions) = @_;
	my $windows = $query->{window} ? "CROSS JOIN LATERAL (SELECT $query->{window}[0] AS w) x" : '';
	return versioned(assemble($query, "$records e $query->{join} $windows", 'x.w', @conditions));
}

# An expression over a record e of such a relation: does a row of it pass?
sub passes
{
	my $query = shift;
	return versioned("EXISTS (SELECT FROM (SELECT e.*) e $query->{join} WHERE $query->{condition})");
}

1;
