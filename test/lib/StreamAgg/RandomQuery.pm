# What random queries of streams are made of: tables of their parts, to which a
# new feature adds a line, and the query as two texts - over the sources, for the
# stream, and over the records that a stream has read, for the oracle.
#
# In all parts e is the record.  {dim} is a table (id, grp) that changes between
# micro-batches; the oracle has it as it was at the record's.  {ratio} is 10 / e.v,
# an error for records with v = 0; {window} what the query groups by as its window.

package StreamAgg::RandomQuery;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(random_query stream_query oracle_query oracle_rows passes %values);

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
	time => [ '"01:02:03"', '"23:59:59.999999"' ],
	name => [ '"a"', '"A"', '""' ],
	'text[]' => [ '[]', '["a","b"]', '["a",null]' ],
	numrange => [ '"[1,2.0)"', '"[1.0,2)"', '"empty"' ],
	few => [ '1', '2', '3' ],
	inet => [ '"10.0.0.1"', '"10.0.0.0/8"' ],
	int4range => [ '"[1,5)"', '"[1,4]"', '"empty"' ]);

# A window has
#	stream	how the stream computes it, of e.ts
#	ranges	the windows that hold e.ts as rows w, by other means
#	shown	what the stream shows of one, w
sub as_shown
{
	my ($window, $shown) = @_;
	return { %$window, stream => $shown =~ s/\bw\b/$window->{stream}/r, shown => $shown };
}

sub fixed
{
	my ($stream, $size, $origin) = @_;
	return { stream => $stream, shown => 'w',
		ranges => "SELECT tstzrange(s, s + interval '$size') AS w FROM date_bin('$size', e.ts, '$origin') s WHERE s IS NOT NULL" };
}

sub tumble
{
	my ($size, $origin) = @_;
	return fixed("stream_agg.tumble(e.ts, '$size'" . ($origin ? ", '$origin'" : '') . ')', $size, $origin // '1970-01-01 00:00+00');
}

# n: size divided by slide, or one more
sub hop
{
	my ($slide, $size, $n, $origin) = @_;
	my $last = "date_bin('$slide', e.ts, '" . ($origin // '1970-01-01 00:00+00') . "')";
	return { stream => "stream_agg.hop(e.ts, '$slide', '$size'" . ($origin ? ", '$origin'" : '') . ')', shown => 'w',
		ranges => "SELECT tstzrange(s, s + interval '$size') AS w
			FROM generate_series($last - $n * interval '$slide', $last, interval '$slide') s WHERE s + interval '$size' > e.ts" };
}

# bounds are by the clocks of a zone: "start", or so many sizes from it
sub calendar
{
	my ($size, $zone, $start, $origin) = @_;
	my @bounds = map { "($start + $_ * interval '$size') AT TIME ZONE '$zone'" } 'n', '(n + 1)';
	$origin = $origin ? "'$origin', " : '';
	return { stream => "stream_agg.tumble(e.ts, '$size', ${origin}timezone => '$zone')", shown => 'w',
		ranges => "SELECT tstzrange($bounds[0], $bounds[1]) AS w FROM generate_series(-1, 1) n
			WHERE e.ts >= $bounds[0] AND e.ts < $bounds[1]" =~ s/\{local\}/e.ts AT TIME ZONE '$zone'/gr };
}

my @zones = ('Europe/Berlin', 'America/Havana', 'Australia/Lord_Howe', 'Asia/Kathmandu', 'America/New_York');
my %windows = (
	tumble => [
		map({ tumble($_) } '1 second', '7 seconds', '1 minute', '1 hour', '1 day', '250 milliseconds'),
		tumble('5 minutes', '2000-01-01 00:01:30+00'),
		map({ as_shown(tumble('30 seconds'), $_) } 'lower(w)', 'upper(w)') ],
	date_bin => [
		map({ { %$_, shown => 'lower(w)' } } fixed("date_bin('90 seconds', e.ts, '2000-01-01 00:00:07+00')", '90 seconds', '2000-01-01 00:00:07+00'),
			fixed("date_bin('1 second', e.ts, 'epoch')", '1 second', 'epoch')),
		{ %{ fixed("date_bin('15 minutes', e.ts AT TIME ZONE 'UTC', timestamp '2000-01-01')", '15 minutes', '2000-01-01 00:00+00') },
			shown => "lower(w) AT TIME ZONE 'UTC'" } ],
	hop => [
		map({ hop(@$_) } [ '1 second', '5 seconds', 5 ], [ '250 milliseconds', '1 second', 4 ], [ '4 minutes', '10 minutes', 3 ],
			[ '3 seconds', '10 seconds', 4, '2000-01-01 00:00:01.5+00' ], [ '10 minutes', '4 minutes', 1 ],
			[ '1 minute', '1 minute', 1 ], [ '1 hour', '1 day', 24 ], [ '5 minutes', '7 minutes', 2 ]),
		map({ as_shown(hop('2 minutes', '6 minutes', 3), $_) } 'lower(w)', 'upper(w)') ],
	calendar => [
		map({ calendar('1 day', $_, "date_trunc('day', {local})") } @zones),
		calendar('1 month', 'Europe/Berlin', "date_trunc('month', {local})"),
		calendar('1 week', 'America/Havana', "date_trunc('week', {local})"),
		calendar('2 days', 'Europe/Berlin', "date_bin('2 days', {local}, '2026-01-05 06:00')", '2026-01-05 06:00+01'),
		as_shown(calendar('1 day', 'America/New_York', "date_trunc('day', {local})"), 'lower(w)') ]);

# gap => whether it is constant
my %gaps = (map({ ("interval '$_'" => 1) } '1 second', '20 seconds', '5 minutes', '1 hour'),
	"e.v * interval '1 minute'" => 0, 'e.i' => 0, "CASE WHEN e.ok THEN interval '10 minutes' ELSE interval '3 seconds' END" => 0);

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
	'mode() WITHIN GROUP (ORDER BY e.ok)', 'count(DISTINCT (e.v, e.t))', 'array_agg(DISTINCT e.v ORDER BY e.v DESC)', 'avg(DISTINCT e.n)',
	'percentile_disc(ARRAY[0.25, 0.75]) WITHIN GROUP (ORDER BY e.v)', 'string_agg(DISTINCT e.t, \',\' ORDER BY e.t)', 'bit_and(e.v)', 'min(e.n)',
	'jsonb_object_agg(COALESCE(e.t, \'-\'), 1)', 'sum(e.v) * 1.5 / NULLIF(count(*) FILTER (WHERE e.ok), 0)', 'min(e.ok::int) = max(e.ok::int)',
	'dense_rank(2) WITHIN GROUP (ORDER BY e.v)', 'array_agg(e._o) FILTER (WHERE false)', 'max(ARRAY[e.v, 1])', 'max(e.v ORDER BY e.v)', 'rank(2) WITHIN GROUP (ORDER BY e.v)', '(SELECT max(length(e.t)) + min(k) FROM (VALUES (1), (2)) s(k))');
# over the window as well
my @of_windows = ('{window}::text || \'/\' || count(*)', 'CASE WHEN bool_or(e.ok) THEN {window} END');
my @windows_having = ('hashtext({window}::text) % 2 = 0', '{window}::text > \'\' AND count(*) > 1');
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
# in microseconds
my %delays = ('0' => 0, '7 milliseconds' => 7e3, '1 second' => 1e6, '10 seconds' => 1e7, '2 minutes' => 1.2e8, '1 hour' => 3.6e9,
	'1 day 00:00:01' => 86401e6);
# columns of a stream without GROUP BY, and some that give any number of rows
my @columns = ('e.ts', 'e.v', '%s', 'upper(e.t)', 'e.n * 2', "date_trunc('hour', e.ts)", 'ROW(e.n, e.t)::text', 'to_jsonb(e.i)',
	'COALESCE(e.v, -1)', "CASE WHEN e.ok THEN e.t ELSE 'none' END", "stream_agg.tumble(e.ts, '1 hour')");
my @looked_up = ('(SELECT max(grp) FROM {dim} s WHERE s.id = e.v)', 'EXISTS (SELECT FROM {dim} s WHERE s.id = e.v)');
my @sets = ('generate_series(1, e.v)', 'unnest(ARRAY[e.t, upper(e.t)])', "stream_agg.hop(e.ts, '10 minutes', '30 minutes')");
# what a branch of UNION ALL joins, and makes of v
my @branch_joins = ('', '', 'JOIN {dim} b ON b.id = e.v', "LEFT JOIN {dim} b ON b.id = e.v AND b.grp <> 'g2'", 'CROSS JOIN generate_series(1, 2) b');
my @branch_values = ('e.v', 'e.v', '-e.v', 'e.v + 1');

# aggregates that cannot combine states
my $kept = qr/DISTINCT|ORDER BY|longest|array_agg|object_agg/;
# and those whose combined states are not what they would be in one piece
my $inexact = qr/regr_slope/;

# What a mode, and chance, make of a stream: is it one that groups, by which
# window, with which watermark?
sub choose_kind
{
	my ($query, $one_of, $below) = @_;
	my $append = $query->{mode} eq 'append';

	$query->{kind} = $one_of->('tumble', 'tumble', 'date_bin', 'hop', 'hop', 'calendar', 'session', 'session',
		$append ? ('rows', 'rows', 'distinct', 'distinct', 'distinct') : 'none');
	$query->{delay} = $one_of->(sort keys %delays) if $append || $query->{kind} eq 'none' ? $query->{kind} !~ /none|rows/ || !$below->(3) : $below->(4);
	$query->{delay_us} = $delays{ $query->{delay} } if defined $query->{delay};
	$query->{event_time} = 1 if $query->{kind} =~ /none|rows|distinct/ && defined $query->{delay};
	$query->{per_partition} = 1 if defined $query->{delay} && $query->{kind} !~ /session|rows|distinct/ && !$below->(3);
	# the models of sessions and of DISTINCT know Spark's watermark only
	$query->{aligned} = 1 if !$query->{per_partition} && ($query->{kind} !~ /session|distinct/ && $below->(2) || !defined $query->{delay});
	$query->{late_records} = 1 if defined $query->{delay} && $query->{mode} ne 'complete' && $query->{kind} !~ /none|rows|distinct/ && $below->(2);
	return;
}

sub choose_window
{
	my ($query, $one_of, $below) = @_;

	if ($query->{kind} eq 'session')
	{
		$query->{gap} = $one_of->(sort keys %gaps);
		my @shown = ('w', 'upper(w)', $gaps{ $query->{gap} } || $query->{mode} eq 'append' ? 'lower(w)' : 'w');
		$query->{window} = as_shown({ stream => "stream_agg.session(e.ts, $query->{gap})" }, $one_of->(@shown));
	}
	elsif ($windows{ $query->{kind} })
	{
		$query->{window} = { %{ $one_of->(@{ $windows{ $query->{kind} } }) } };
		if ($query->{kind} eq 'hop' && !$below->(3))
		{
			# in FROM instead of the select list
			($query->{from_window}) = $query->{window}{stream} =~ /(stream_agg\.hop\([^()]*\))/;
			$query->{window}{stream} =~ s/\Q$query->{from_window}\E/win/;
		}
	}
	return;
}

# Several sources, or the main one several times; or a subquery over it alone.
sub choose_branches
{
	my ($query, $one_of, $below) = @_;

	return if $below->(3);
	for my $source ('main', $below->(4) ? ($one_of->('other', 'other', 'main'), ('other') x !$below->(4)) : ())
	{
		push @{ $query->{branches} }, { source => $source, condition => $one_of->(grep { $_ ne 'false' } @conditions),
			join => $one_of->(@branch_joins),
			# where a session or a key is of a record, its branches must not differ
			v => $query->{kind} =~ /session|distinct/ ? 'e.v' : $one_of->(@branch_values) };
	}
	return;
}

# What GROUP BY has and the select list has not, in mode append: no index needs it.
sub choose_hidden
{
	my ($query, $one_of, $below) = @_;

	$query->{having} = $one_of->(@windows_having) if $query->{window} && ($query->{kind} ne 'hop' || $query->{from_window}) && !$below->(5);
	return if $query->{mode} ne 'append' || !$query->{window} || $below->(4);
	# the window, or the last key
	if ($query->{kind} ne 'hop' && $below->(2)) { $query->{hidden}{0} = 1; }
	elsif (@{ $query->{keys} }) { $query->{hidden}{ scalar @{ $query->{keys} } } = 1; }
	return;
}

# Have some records fail, in WHERE or in the select list.  To find each of them
# takes many batches.
sub choose_poison
{
	my ($query, $topic, $one_of, $below) = @_;

	return if $query->{branches} || $topic->{large} > 1 || $below->(8);
	$query->{poison} = $one_of->('WHERE', 'output');
	if ($query->{poison} eq 'WHERE') { $query->{condition} = '{ratio} > 1'; }
	else { push @{ $query->{outputs} }, $query->{kind} =~ /rows|distinct/ ? '{ratio}' : 'sum({ratio})'; }
	return;
}

sub choose_aggregates
{
	my ($query, $own, $one_of, $below) = @_;
	my @choice = @aggregates;

	@choice = grep { !/$inexact/ } @choice if $query->{kind} =~ /hop|session/;
	@choice = grep { !/$kept/ } @choice if $query->{kind} =~ /hop|session/ && $below->(2);
	# hop() in the select list is a set, so it stands there once
	push @choice, (@of_windows) x 3 if $query->{window} && ($query->{kind} ne 'hop' || $query->{from_window});
	return map { $one_of->(@choice) =~ s/%s/$own/gr } 1 .. 1 + $below->(5);
}

# The select list without GROUP BY.  Of the rows of a record with the same keys
# DISTINCT ON may take any, so they are alike.
sub choose_columns
{
	my ($query, $own, $join_key, $one_of, $below) = @_;
	my @choice = (@columns, $query->{kind} eq 'rows' ? (@looked_up, $join_key // 'e.v') : ());
	my @outputs = ('e._t', 'e._p', 'e._o', map { $one_of->(@choice) =~ s/%s/$own/gr } 0 .. $below->(4));

	push @outputs, $one_of->(@sets) if $query->{kind} eq 'rows' && !$below->(4);
	return @outputs;
}

# A random query: one_of chooses among its arguments, below(n) a number;
# topic->{types} are the types of the columns k0, k1, ..., and topic->{large} is
# greater than 1 if there are many records.
sub random_query
{
	my ($mode, $topic, $one_of, $below) = @_;
	my $own = 'e.k' . $below->(scalar @{ $topic->{types} });
	my $query = { mode => $mode, condition => $one_of->(@conditions), having => $one_of->(@havings),
		columns => [ qw(n f t ok i _t _p _o), map { "k$_" } 0 .. $#{ $topic->{types} } ] };
	my ($join, $join_key) = @{ $one_of->(@joins) };
	my (@keys, %seen);

	choose_kind($query, $one_of, $below);
	choose_window($query, $one_of, $below);
	choose_branches($query, $one_of, $below);
	$query->{join} = $join;
	if ($query->{kind} eq 'rows')
	{
		$query->{outputs} = [ choose_columns($query, $own, $join_key, $one_of, $below) ];
		choose_poison($query, $topic, $one_of, $below);
		return $query;
	}
	for (1 .. $below->(4))
	{
		push @keys, $one_of->(map({ "e.k$_" } 0 .. $#{ $topic->{types} }), $join_key // 'e.v',
			'e.v % 2', 'e.ts', "date_trunc('hour', e.ts + interval '0')", 'COALESCE(e.t, \'-\')', 'e.ok', 'upper(e.t)', 'e.n', '(SELECT max(grp) FROM {dim} s WHERE s.id = e.v)');
	}
	# the same key twice is refused nowhere, but proves nothing
	@keys = grep { !$seen{$_}++ } @keys;
	push @keys, 'e.ok' if !@keys && ($query->{kind} eq 'distinct' || $query->{kind} eq 'none' && $below->(2));
	$query->{keys} = \@keys;
	choose_hidden($query, $one_of, $below);
	$query->{outputs} = [ $query->{kind} eq 'distinct' ? choose_columns($query, $own, undef, $one_of, $below)
		: choose_aggregates($query, $own, $one_of, $below) ];
	choose_poison($query, $topic, $one_of, $below);
	return $query;
}

# FROM: a relation e, or branches of several; relation->(source) is the main or
# the other one, with further columns.
sub from_clause
{
	my ($query, $relation, @further) = @_;
	my $from = $relation->('main') . ' e';

	if ($query->{branches})
	{
		my @columns = map { "e.$_" } @{ $query->{columns} }, @further;
		$from = '(' . join(' UNION ALL ', map {
			'SELECT ' . join(', ', 'e.ts', "$_->{v} AS v", @columns) . ' FROM ' . $relation->($_->{source}) . " e $_->{join} WHERE $_->{condition}"
		} @{ $query->{branches} }) . ') e';
	}
	return "$from $query->{join}";
}

# The SELECT over FROM with a window expression; further conditions choose among
# the rows.
sub assemble
{
	my ($query, $from, $window, @conditions) = @_;
	my @keys = (($query->{window} ? $window : ()), @{ $query->{keys} // [] });
	my @shown = grep { !$query->{hidden}{$_} } 0 .. $#keys;
	my @outputs = map { "$query->{outputs}[$_] AS out$_" } 0 .. $#{ $query->{outputs} };
	my $where = join(' AND ', map { "($_)" } $query->{condition}, @conditions);
	my $having = $query->{having} ? " HAVING $query->{having}" : '';

	return 'SELECT ' . join(', ', @outputs) . " FROM $from WHERE $where" if $query->{kind} eq 'rows';
	return 'SELECT DISTINCT ON (' . join(', ', @keys) . ') ' . join(', ', @outputs) . " FROM $from WHERE $where"
	  if $query->{kind} eq 'distinct';
	my $grouped = join(', ', 1 .. @shown, map { $keys[$_] } sort keys %{ $query->{hidden} // {} });
	my $text = 'SELECT ' . join(', ', map({ "$keys[$_] AS key$_" } @shown), @outputs)
	  . " FROM $from WHERE $where" . ($grouped ne '' ? " GROUP BY $grouped" : '') . $having;
	return $window ? $text =~ s/\{window\}/($window)/gr : $text;
}

# As a stream has it: sources are the foreign tables, main and other.
sub stream_query
{
	my ($query, $sources) = @_;
	my $from = from_clause($query, sub { $sources->{ $_[0] } });

	$from .= ", $query->{from_window} AS win" if $query->{from_window};
	return assemble($query, $from, $query->{window} ? $query->{window}{stream} : undef) =~ s/\{dim\}/dim/gr =~ s/\{ratio\}/10 \/ e.v/gr;
}

# What {dim} was when the record e was read; the oracle has no record that fails.
sub versioned
{
	my $text = shift;
	$text =~ s/JOIN (?=\{dim\}|\((?!VALUES))/JOIN LATERAL /g;
	$text =~ s/\{dim\}/(SELECT id, grp FROM dim_versions v WHERE v.version = e.version)/g;
	$text =~ s/\{ratio\}/10 \/ NULLIF(e.v, 0)/g;
	return $text;
}

# FROM, for the oracle: records is a relation with the columns of the sources
# and further ones, topics names those of each.
sub oracle_from
{
	my ($query, $records, $topics, @further) = @_;
	return from_clause($query, sub {
		my $names = join(', ', map { "'$_'" } @{ $topics->{ $_[0] } });
		return "(SELECT e.* FROM $records e WHERE e._t IN ($names))";
	}, 'version', @further);
}

# As the oracle has it: over rows x records and windows, x.w, with "batch",
# "before" and "version" of dim of each record; further conditions on these.
# Sessions are those of a table "made" by record and keys, key0 and so on.
sub oracle_query
{
	my ($query, $records, $topics, $made, @conditions) = @_;
	my $from = oracle_from($query, $records, $topics, 'batch', 'before');
	my $keys = $query->{keys} // [];

	if ($query->{kind} eq 'session')
	{
		$from .= " JOIN $made x ON " . join(' AND ', map({ "x.$_ = e.$_" } '_t', '_p', '_o'),
			map { "x.key$_ IS NOT DISTINCT FROM $keys->[$_]" } 0 .. $#$keys);
	}
	elsif ($query->{window}) { $from .= " CROSS JOIN LATERAL ($query->{window}{ranges}) x"; }
	my $text = versioned(assemble($query, $from, $query->{window} ? $query->{window}{shown} =~ s/\bw\b/x.w/r : undef, @conditions));
	# a session and one that was closed before may begin, or end, at the same time
	return $query->{kind} eq 'session' ? $text =~ s/.* GROUP BY \K/x.w, /sr : $text;
}

# The rows that a query with sessions, or DISTINCT ON, makes of records: by record,
# with keys, key0 and so on; gap or output.
sub oracle_rows
{
	my ($query, $records, $topics) = @_;
	my @list = (map({ "e.$_" } '_t', '_p', '_o', 'batch', 'ts'), map({ "$query->{keys}[$_] AS key$_" } 0 .. $#{ $query->{keys} }));

	push @list, "$query->{gap} AS gap" if $query->{gap};
	push @list, map { "$query->{outputs}[$_] AS out$_" } 0 .. $#{ $query->{outputs} } if $query->{kind} eq 'distinct';
	return versioned('SELECT ' . join(', ', @list) . ' FROM ' . oracle_from($query, $records, $topics, 'batch') . " WHERE $query->{condition}");
}

# An expression over a record e of such a relation: does a row of it pass; or,
# given a condition, does a row before the select list, that is under it?
sub passes
{
	my ($query, $topics, $condition) = @_;
	# rows that a set in the select list does not give do not
	my $list = $query->{kind} eq 'rows' && !$condition ? join(', ', @{ $query->{outputs} }) : '';
	return versioned("EXISTS (SELECT $list FROM " . oracle_from($query, '(SELECT e.*)', $topics) . " WHERE ($query->{condition})"
		  . ($condition ? " AND $condition" : '') . ')');
}

1;
