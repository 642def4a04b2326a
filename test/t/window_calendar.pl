# Windows of days and months by a time zone: the table of a stream equals the
# batch query across changes of the clocks, in each mode, over restarts.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker('events' => 1);
my $node = new_node('calendar');
my $rng = seeded_random();

# times in order: from winter into summer and back, on and around midnights
my @changes = map { "2026-$_" } qw(03-28T23:00 03-29T22:00 03-31T22:00 10-24T22:00 10-25T01:00 10-25T23:00 10-31T23:00);
my @records;
for my $change (@changes)
{
	push @records, map { [ $change, $_ ] } sort { $a <=> $b } map { $rng->(3) ? $rng->(172_800) - 86_400 : $rng->(3) - 1 } 1 .. 30;
}
my $values = join ',', map { "('$_->[0]:00Z'::timestamptz + interval '$_->[1] s')" } @records;
my @lines = split /\n/, $node->safe_psql('postgres',
	"SELECT json_build_object('ts', t AT TIME ZONE 'UTC' || 'Z', 'k', extract(minute FROM t)::int % 3) FROM (VALUES $values) v (t) ORDER BY t");

create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int');
$broker->produce('events', @lines);
my %query = (
	day => q{SELECT stream_agg.tumble(ts, '1 day', timezone => 'Europe/Berlin') AS win, k, count(*) AS n, max(ts) AS last FROM events GROUP BY 1, 2},
	month => q{SELECT stream_agg.tumble(ts, '1 month', timezone => 'Europe/Berlin') AS win, count(*) AS n FROM events GROUP BY 1},
	shift => q{SELECT stream_agg.tumble(ts, '2 days', '2026-01-05 06:00+01', timezone => 'Europe/Berlin') AS win, k, count(*) AS n FROM events GROUP BY 1, 2});

for my $kind (sort keys %query)
{
	for my $run ([ 'append', 1 ], [ 'append', 1000 ], [ 'update', 7 ], [ 'complete', 7 ])
	{
		my ($mode, $size) = @$run;
		my $stream = "${kind}_${mode}_$size";
		$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$query{$kind}\$q\$, output_mode => '$mode',
			watermark => '6 hours', trigger => '20 days', max_offsets_per_trigger => $size)");
		process($node, $stream);
		my $watermark = watermark($node, $stream);
		my $closed = $mode eq 'append' ? "WHERE upper(win) <= '$watermark'" : '';
		is_equal_tables($node, "SELECT * FROM $stream", "SELECT * FROM ($query{$kind}) q $closed", "$stream equals the batch query");
		counts_add_up($node, $stream, scalar @lines, "$stream counts every record once");
		$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream', drop_sink => true)");
	}
}
is($node->safe_psql('postgres', "SELECT count(DISTINCT upper(win) - lower(win)) > 2 FROM ($query{day}) q"), 't', 'days of 23, 24 and 25 hours are among them');

# state comes back from the checkpoint: the stream reads on after a restart, and a crash
$broker->create_topic('again', 1);
create_source($node, $broker, 'again', 'again', 'ts timestamptz, k int');
my $query = $query{day} =~ s/FROM events/FROM again/r;
$node->safe_psql('postgres', "SELECT stream_agg.create_stream('again_daily', \$q\$$query\$q\$, output_mode => 'append', watermark => '6 hours', trigger => '20 days')");
for (my $i = 0; $i < @lines; $i += 35)
{
	$broker->produce('again', @lines[ $i .. ($i + 34 < $#lines ? $i + 34 : $#lines) ]);
	process($node, 'again_daily');
	$node->stop($i % 2 ? 'fast' : 'immediate');
	$node->start;
}
is_equal_tables($node, 'SELECT * FROM again_daily UNION ALL SELECT * FROM stream_agg.open_windows(NULL::again_daily)', $query,
	'the same after restarts and crashes, with the windows that are open');
is($node->safe_psql('postgres', "SELECT rows_late FROM pg_stat_stream_agg WHERE stream = 'again_daily'"), 0, 'none was late');

done_testing();
