# A state that comes from the checkpoint or the store goes on by way of its
# combine function: what a deserialize function makes is for that alone.  Some
# of PostgreSQL's own make states that would no longer add up squares.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $module = $ENV{STRICT_SUM} or die 'STRICT_SUM is not set: run the tests by test/run';
my $broker = start_broker(c => 1);
my $node = new_node('contract');

create_source($node, $broker, 'c', 'c', 'ts timestamptz, k int, v int');
$node->safe_psql('postgres', join("\n", map { "CREATE FUNCTION strict_sum_$_ AS '$module' LANGUAGE C IMMUTABLE PARALLEL SAFE;" }
		'transition(internal, int) RETURNS internal', 'combine(internal, internal) RETURNS internal',
		'serialize(internal) RETURNS bytea', 'deserialize(bytea, internal) RETURNS internal', 'final(internal) RETURNS bigint')
	=~ s/(serialize\([^;]*IMMUTABLE)/$1 STRICT/gr);
my $aggregate = q{CREATE AGGREGATE %s(int) (SFUNC = strict_sum_transition, STYPE = internal, FINALFUNC = strict_sum_final,
	SERIALFUNC = strict_sum_serialize, DESERIALFUNC = strict_sum_deserialize, PARALLEL = SAFE%s)};
$node->safe_psql('postgres', sprintf($aggregate, 'strict_sum', ', COMBINEFUNC = strict_sum_combine'));
$node->safe_psql('postgres', sprintf($aggregate, 'not_combined', ''));

my $query = q{SELECT stream_agg.tumble(ts, '1 minute') AS w, k, strict_sum(v) AS s, variance(v) AS i, stddev(v::numeric) AS n
	FROM c GROUP BY 1, 2};
for my $mode ('append', 'update')
{
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('strict_$mode', \$\$$query\$\$, output_mode => '$mode',
		watermark => '0', trigger => '20 days', max_offsets_per_trigger => 3)");
}
for my $round (0 .. 3)
{
	$broker->produce('c', map { sprintf('{"ts":"2026-01-01T00:%02d:%02dZ","k":%d,"v":%d}', $round, $_ * 5, $_ % 2, $_ * $round) } 0 .. 11);
	process($node, "strict_$_") for 'append', 'update';
	$node->restart if $round == 1;
}
is_equal_tables($node, 'SELECT * FROM strict_update', $query, 'update: states are combined before they go on');
is_equal_tables($node, 'SELECT * FROM strict_append', "SELECT * FROM ($query) q WHERE upper(w) <= '2026-01-01 00:03Z'",
	'append: states are combined before their results are made');

# without a combine function a deserialized state could not go on: inputs are kept
my $not_combined = 'SELECT k, not_combined(v) AS s, not_combined(v) FILTER (WHERE v > 5) AS some FROM c GROUP BY 1';
$node->safe_psql('postgres', "SELECT stream_agg.create_stream('not_combined', '$not_combined', output_mode => 'update',
	trigger => '20 days', max_offsets_per_trigger => 7)");
process($node, 'not_combined');
is_equal_tables($node, 'SELECT * FROM not_combined', $not_combined, 'an aggregate without a combine function');

done_testing();
