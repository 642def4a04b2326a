# The log gets what is new of kept inputs, not all of them, and a state that is
# restored from it, after a restart or a crash, goes on as if nothing had been.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker('events' => 1);
my $node = new_node('kept_state_log', 'restart_after_crash = on');
my $rng = seeded_random();

create_source($node, $broker, 'events', 'events', 'id int, k int, v int, n numeric');
my $next = 0;

sub produce
{
	my $count = shift;
	$broker->produce('events', map { sprintf('{"id":%d,"k":%d,"v":%d,"n":%d.%d}', $next++, $rng->(2), $rng->(100000), $rng->(9), $rng->(3)) } 1 .. $count);
	return;
}

# kept inputs before, between and behind states of the other kinds
my $query = q{SELECT k, count(DISTINCT id) AS ids, sum(n) AS total, avg(v) AS mean, jsonb_array_length(jsonb_agg(v) FILTER (WHERE v % 2 = 0)) AS evens,
	md5(string_agg(id::text, ',' ORDER BY id) FILTER (WHERE v % 2 = 0)) AS even_ids,
	max(id) AS latest, count(*) AS records, sum(DISTINCT id) AS sum, md5(string_agg(v::text, ',' ORDER BY id DESC)) AS list, stddev(n) AS deviation
	FROM events GROUP BY k};
$node->safe_psql('postgres', "SELECT stream_agg.create_stream('kept', \$\$$query\$\$, output_mode => 'update',
	trigger => '20 days', max_offsets_per_trigger => 100)");

# each group is written whole in one of 64, by then with many inputs
produce(9000);
process($node, 'kept');
is_equal_tables($node, 'SELECT * FROM kept', $query, 'ninety micro-batches equal the batch query');
my $written = 'percentile_disc(0.5) WITHIN GROUP (ORDER BY length(data)) FILTER (WHERE NOT base)';
cmp_ok($node->safe_psql('postgres', "SELECT $written FROM stream_agg.state WHERE batch > 20"), '<', 12000, 'a micro-batch writes what is new');

for my $round (1 .. 4)
{
	if ($round % 2) { $node->restart; }
	else { kill_backends($node, worker_pid($node, 'kept')); }
	is_equal_tables($node, 'SELECT * FROM kept', $query, "nothing changes by restart $round");
	produce(250);
	process($node, 'kept');
	is_equal_tables($node, 'SELECT * FROM kept', $query, "after restart $round it goes on");
}
cmp_ok($node->safe_psql('postgres', 'SELECT max(length(data)) FROM stream_agg.state'), '>', 60000, 'and from time to time all');
counts_add_up($node, 'kept', $next, 'every record is counted once');

# many groups of a kilobyte or two
$node->safe_psql('postgres', q{SELECT stream_agg.create_stream('small', 'SELECT id % 100 AS k, count(DISTINCT id) AS ids, count(DISTINCT v) AS vs, count(DISTINCT id) FILTER (WHERE v % 2 = 0) AS even,
	max(n) AS top FROM events GROUP BY 1', output_mode => 'update', trigger => '20 days', max_offsets_per_trigger => 100)});
process($node, 'small');
is_equal_tables($node, 'SELECT * FROM small', 'SELECT * FROM small_query', 'groups of a kilobyte equal the batch query');
cmp_ok($node->safe_psql('postgres', "SELECT $written FROM stream_agg.state WHERE stream = 'small' AND batch > 40"), '<', 4000,
	'and a micro-batch writes what is new of each');
$node->restart;
produce(250);
process($node, 'small');
is_equal_tables($node, 'SELECT * FROM small', 'SELECT * FROM small_query', 'also after a restart');
process($node, 'kept');

# others read it from the log
$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('kept')");
is_equal_tables($node, 'SELECT * FROM stream_agg.open_windows(NULL::kept)', $query, 'open windows of a stopped stream');

# large values in tables of the extension
my $lz4 = $node->safe_psql('postgres', q{SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'}) eq 't';
is($node->safe_psql('postgres', q{SELECT string_agg(concat_ws(' ', attrelid::regclass, attname, attstorage, NULLIF(attcompression::text, '')), ', ' ORDER BY attrelid::regclass::text, attname)
	FROM pg_attribute WHERE attname IN ('data', 'key', 'value', 'headers') AND attrelid::regclass::text IN ('stream_agg.state', 'stream_agg.dead_letters', 'stream_agg.late_records')}),
	join(', ', (map { my $table = $_; map { "stream_agg.$table $_ x" . ($lz4 ? ' l' : '') } qw(headers key value) } qw(dead_letters late_records)),
		'stream_agg.state data ' . ($lz4 ? 'x l' : 'e')), 'they are compressed by lz4 where the server has it, the log by nothing else');
is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT pg_column_compression(data), ' ') FROM stream_agg.state}), $lz4 ? 'lz4' : '', 'and the log is');

done_testing();
