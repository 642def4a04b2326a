# Rate sources with the columns of random queries: every column is an expression
# over the number of a row, by the function one_of of the test, so that a row is the same one for a stream, in a retry,
# and for the oracle.

package StreamAgg::RandomRate;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP 'decode_json';
use StreamAgg::RandomQuery;

our @EXPORT = qw(rate_relation);

my $salt;

# a number below n, another one for each expression
sub hashed { my $n = shift; $salt++; return "one_of(r.number, $salt, $n)"; }

# A JSON value as text, or undef if only a decoder makes a value of the type of it.
sub text_of
{
	my ($type, $json) = @_;
	return $json if $type eq 'jsonb';
	return if $type =~ /\[\]/ || $type =~ /^timestamp/ && $json =~ /^\d/;
	return decode_json("[$json]")->[0] if $json =~ /^"/;
	return $json;
}

# One of these values, or NULL.
sub one_value
{
	my ($type, @json) = @_;
	my @values = map { s/'/''/gr } grep { defined } map { text_of($type, $_) } @json;
	return "NULL::$type" if !@values;
	return '(ARRAY[' . join(', ', map { "'$_'" } @values) . '])[' . hashed(1 + @values) . "]::$type";
}

# As event_time of records: mostly near the head, some on the edges, some late.
sub event_time
{
	my $topic = shift;
	my $head = "($topic->{head} + r.number * $topic->{pace})";
	my $kind = hashed(20);
	my $edge = '(ARRAY[1000, 7000, 60000, 3600000])[1 + ' . hashed(4) . ']';
	my $ms = "CASE WHEN k > 8 AND k <> 12 THEN h - " . hashed(1 + $topic->{disorder}) . ' WHEN k = 1 THEN h - h % e WHEN k = 12 THEN h - h % e - 1 WHEN k = 2 THEN '
	  . hashed('1 + h') . ' ELSE h END';
	return "(SELECT 'epoch'::timestamptz + ($topic->{base} * 1000::bigint + GREATEST(ms - ms % $topic->{grain}, 0)) * interval '1 ms' + us * interval '1 us'
		FROM (SELECT $kind AS k, $head AS h, $edge AS e) a, LATERAL (SELECT $ms AS ms, CASE k WHEN 4 THEN " . hashed(1000) . ' ELSE 0 END AS us) b WHERE k > 0)';
}

# A relation over the rate source "source" with the columns that topics have; "types"
# are those of k0, k1, ...
sub rate_relation
{
	my ($topic, $source) = @_;
	$salt = 0;
	my %columns = (
		ts => event_time($topic),
		v => one_value('int', 0, 1, 2, 3, -4, 10),
		n => one_value('numeric', '1.0', '1.00', '2.50', '-3.125', '7', '1e2', '0.001'),
		f => one_value('float8', '0.25', '-1.5', '3', '1024.75', '-0.0'),
		t => one_value('text', '""', '"a"', '"b"', '"\\u00e4"', '"long yyyyyyyyyyyyyyyyyyyyyyy"'),
		ok => one_value('boolean', 'true', 'false'),
		i => one_value('interval', '"1 hour"', '"-1 day"', '"00:00:00.5"'),
		map({ ("k$_" => one_value($topic->{types}[$_], @{ $values{ $topic->{types}[$_] } })) } 0 .. $#{ $topic->{types} }));
	return '(SELECT ' . join(', ', map({ "$columns{$_} AS $_" } sort keys %columns), map { "r.$_" } qw(_t _p _o)) . " FROM $source r)";
}

1;
