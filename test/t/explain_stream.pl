# explain_stream tells what a stream does, with its state measured.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(clicks => 2);
my $node = new_node('explain');
create_source($node, $broker, 'clicks', 'clicks', 'ts timestamptz, k bigint, v numeric, t text');
$node->safe_psql('postgres', q{
	CREATE TABLE names (k bigint PRIMARY KEY, name text);
	CREATE TYPE colour AS ENUM ('red');
	CREATE AGGREGATE last_colour(colour) (stype = colour, sfunc = enum_larger);
	SELECT stream_agg.create_stream('full_of_it',
		$$ SELECT stream_agg.tumble(ts, '5 minutes') AS win, name, count(*) AS n, sum(v + 1) FILTER (WHERE k > 0) AS total,
		          stddev(v) AS s, max(t) AS t, last_colour('red') AS c, max((SELECT 1)) AS one,
		          count(DISTINCT k) AS d, array_agg(t ORDER BY ts) AS ts
		     FROM clicks JOIN names USING (k) WHERE v > 3 GROUP BY 1, 2 HAVING count(*) > 1 $$,
		watermark => '10 minutes', output_mode => 'append', trigger => '1 hour', max_offsets_per_trigger => 500);
	SELECT stream_agg.create_stream('plain', 'SELECT k, count(*) AS n FROM clicks GROUP BY 1', output_mode => 'update', trigger => '0')});

my $text = $node->safe_psql('postgres', q{SELECT stream_agg.explain_stream('full_of_it')});
note($text);
like($text, $_, "it says $_") for (qr/^Stream full_of_it \(append\)$/m, qr/^  Source: clicks$/m, qr/^  Sink: full_of_it$/m,
	qr/^  Trigger: every 01:00:00, at most 500 records$/m, qr/^  Event time: clicks\.ts$/m,
	qr/^  Watermark: 00:10:00 behind the greatest event time, now none yet/m,
	qr/^  Window: tumbling, 00:05:00$/m, qr/^  Key: name text$/m,
	qr/^  Aggregate: count\(\*\): inlined, bigint, kept as it is$/m,
	qr/^  Aggregate: sum\(\(clicks\.v \+ \(1\)::numeric\)\) FILTER \(WHERE \(clicks\.k > 0\)\): inlined, an exact sum of 128 bits; beyond it serialized by numeric_avg_serialize$/m,
	qr/^  Aggregate: stddev\(clicks\.v\): serialized by numeric_serialize$/m,
	qr/^  Aggregate: max\(clicks\.t\): text, kept as it is$/m,
	qr/^  Aggregate: last_colour\('red'::colour\): colour, kept by its send function$/m,
	qr/^  Aggregate: max\(\( SELECT 1.*\)\): inlined, integer, kept as it is$/m,
	qr/^  Aggregate: count\(DISTINCT clicks\.k\): its different inputs are kept$/m,
	qr/^  Aggregate: array_agg\(clicks\.t ORDER BY clicks\.ts\): its inputs are kept$/m,
	qr/^  State: no groups; one would take about \d+ bytes$/m,
	qr/^  Plan of a micro-batch:$/m, qr/Foreign Scan on clicks/, qr/Filter: \(v > '3'::numeric\)/, qr/ on names/);

$node->safe_psql('postgres', q{INSERT INTO names SELECT i, 'name ' || i FROM generate_series(1, 1000) i});
$broker->produce('clicks', map { json_record({ ts => 1767225600000 + $_, k => $_, v => 5, t => "t$_" }, numbers => [qw(ts k v)]) } 1 .. 1000);
process($node, 'full_of_it') for 1 .. 2;
$text = $node->safe_psql('postgres', q{SELECT stream_agg.explain_stream('full_of_it')});
like($text, qr/^  State: 1000 groups of (\d+) bytes each, (\d+) kB; (\d+) kB in the log$/m, 'the state is measured');
my ($bytes) = $text =~ /groups of (\d+) bytes each/;
is($bytes, $node->safe_psql('postgres', q{SELECT state_bytes / state_rows FROM pg_stat_stream_agg WHERE stream = 'full_of_it'}),
	'as in pg_stat_stream_agg');

$text = $node->safe_psql('postgres', q{SELECT stream_agg.explain_stream('plain')});
like($text, $_, "it says $_") for (qr/^  Trigger: as soon as there are records, at most \d+ records$/m, qr/^  Window: none$/m, qr/^  Watermark: none$/m);
$node->safe_psql('postgres', 'CREATE ROLE other');
my (undef, undef, $stderr) = $node->psql('postgres', q{SET ROLE other; SELECT stream_agg.explain_stream('plain')});
like($stderr, qr/must be owner of stream/, 'of streams of one\'s own');

$node->stop;
done_testing();
