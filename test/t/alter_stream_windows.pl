# Another query with the state kept, and the live view, for every kind of window:
# a stream whose query is changed in the middle has, in the columns that stay,
# what one has whose query is not.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(clicks => 2);
my $random = seeded_random();
my $node = new_node('windows', 'max_worker_processes = 16');
create_source($node, $broker, 'clicks', 'clicks', 'ts timestamptz, k bigint, v numeric');
my %window = (
	tumbling => q{stream_agg.tumble(ts, '1 minute')},
	panes => q{stream_agg.hop(ts, '20 seconds', '1 minute')},
	whole => q{stream_agg.hop(ts, '20 seconds', '1 minute')},
	sessions => q{stream_agg.session(ts, '15 seconds')},
	partitions => q{stream_agg.tumble(ts, '1 minute')});
my %options = (partitions => '{"watermark_policy": "per_partition"}');
# kept inputs cannot be combined by pane
my $more = 'array_agg(v ORDER BY v)';

sub query
{
	my ($kind, @columns) = @_;
	return "SELECT $window{$kind} AS win, k, " . join(', ', @columns) . ' FROM clicks GROUP BY 1, 2';
}
my @before = ('count(*) AS n', 'sum(v) AS total', 'stddev(v) AS s');
my @after = ('stddev(v) AS s', 'count(*) AS n', 'avg(v) AS mean');
for my $kind (sort keys %window)
{
	my @whole = $kind eq 'whole' ? ("$more AS vs") : ();
	for my $stream ("${kind}_control", "${kind}_changed")
	{
		my $query = query($kind, @before, @whole);
		$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$\$ $query \$\$, watermark => '1 minute', trigger => '20 days', options => '" . ($options{$kind} // '{}') . "')");
	}
	$node->safe_psql('postgres', "SELECT stream_agg.create_live_view('${kind}_control')");
}

my $second = 0;
sub produce_some
{
	$broker->produce('clicks', map {
		# one partition is ahead of the other, and some records are late
		$second += $random->(4);
		my $partition = $random->(2);
		my $time = 1767225600 + $second + 40 * $partition - $random->(50) - ($random->(6) ? 0 : $random->(130));
		[ $partition, '', json_record({ ts => $time * 1000, k => $random->(12), v => $random->(100) },
			numbers => [qw(ts k v)]) ] } 1 .. 150);
	return;
}

sub compare
{
	my ($kind, $what) = @_;
	my $columns = 'win, k, n, s' . ($kind eq 'whole' ? ', vs' : '');
	process($node, $_) for "${kind}_control", "${kind}_changed";
	is($node->safe_psql('postgres', "SELECT count(DISTINCT (rows_late, watermark)) FROM pg_stat_stream_agg WHERE stream IN ('${kind}_control', '${kind}_changed')"), 1, "$kind: $what: as many late records, and the same watermark")
	  or return;
	is_equal_tables($node, "SELECT $columns FROM ${kind}_changed", "SELECT $columns FROM ${kind}_control", "$kind: $what: the same windows have closed");
	is_equal_tables($node, "SELECT $columns FROM stream_agg.open_windows(NULL::${kind}_changed)", "SELECT $columns FROM stream_agg.open_windows(NULL::${kind}_control)",
		"$kind: $what: the same windows are open");
	return;
}

# the same micro-batches for both, so that the same records are late
sub round
{
	my $what = shift;
	produce_some();
	compare($_, $what) for sort keys %window;
	return;
}

# the trigger at the start is over
for my $kind (sort keys %window) { process($node, $_) for "${kind}_control", "${kind}_changed"; }
round("before, round $_") for 1 .. 2;
for my $kind (sort keys %window)
{
	cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM stream_agg.open_windows(NULL::${kind}_control)"), '>', 5, "$kind: windows are open");
	my $query = query($kind, @after, $kind eq 'whole' ? ("$more AS vs") : ());
	my (undef, undef, $stderr) = $node->psql('postgres', "SELECT stream_agg.alter_stream('${kind}_changed', query => \$\$ $query \$\$, drop_columns => true)");
	like($stderr, qr/^(?!.*ERROR).*1 aggregate of stream/s, "$kind: the query is changed");
}
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM (SELECT DISTINCT ON (stream) * FROM stream_agg.commits ORDER BY stream, batch DESC) c
	  JOIN stream_agg.commits b ON b.stream = c.stream AND b.batch = c.batch - 1
	 WHERE c.stream ~ '_changed$' AND c.delivered = 0
	   AND (c.offsets, c.watermark, c.last_records, c.max_event_time, c.event_times, c.active_times, c.total_delivered, c.total_late, c.total_late_windows, c.total_rows_out)
	     = (b.offsets, b.watermark, b.last_records, b.max_event_time, b.event_times, b.active_times, b.total_delivered, b.total_late, b.total_late_windows, b.total_rows_out)}),
	scalar(keys %window), 'the change is a row of the log that leaves offsets, event times and counters as they were');
compare($_, 'changed') for sort keys %window;
round("afterwards, round $_") for 1 .. 3;
# the streams start when all is there, so that none has only a part of it in its first batch
$node->stop('immediate');
produce_some();
$node->start;
compare($_, 'after a crash') for sort keys %window;
is($node->safe_psql('postgres', "SELECT count(*) FROM ${_}_changed WHERE mean IS NULL") > 0 ? 1 : 0, 1, "$_: windows that had begun lack the new aggregate")
  for grep { $_ ne 'tumbling' || 1 } sort keys %window;
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM ${_}_changed WHERE mean IS NOT NULL"), '>', 0, "$_: later ones have it") for sort keys %window;

cmp_ok($node->safe_psql('postgres', "SELECT rows_late FROM pg_stat_stream_agg WHERE stream = '${_}_changed'"), '>', 0, "$_: some records are late") for sort keys %window;

# nothing of a window is lost or doubled: a record is in one tumbling window or session
is($node->safe_psql('postgres', "SELECT sum(n) FROM ${_}_control_live"),
	$node->safe_psql('postgres', "SELECT total_aggregated FROM stream_agg.commits WHERE stream = '${_}_control' ORDER BY batch DESC LIMIT 1"),
	"$_: every record is in the live view once") for 'tumbling', 'sessions', 'partitions';

# from one window to another, and from panes to whole windows, no state goes over
for my $case ([ 'panes', query('panes', @before, "$more AS vs"), qr/kept whole where an aggregate cannot be combined/ ],
	[ 'panes', query('tumbling', @after), qr/another window/ ],
	[ 'sessions', query('tumbling', @after), qr/another window/ ],
	[ 'sessions', query('sessions', @after) =~ s/15 seconds/16 seconds/r, qr/another window/ ])
{
	my ($kind, $query, $error) = @$case;
	my (undef, undef, $stderr) = $node->psql('postgres', "SELECT stream_agg.alter_stream('${kind}_changed', query => \$\$ $query \$\$, drop_columns => true)");
	like($stderr, qr/cannot be replaced by this one.*$error/s, "$kind: refused: $error");
}
is($node->safe_psql('postgres', "SELECT count(*) FROM stream_agg.preview('${_}_control', NULL) WHERE action = 'open'"),
	$node->safe_psql('postgres', "SELECT count(*) FROM stream_agg.open_windows(NULL::${_}_control)"), "$_: a preview of no records shows what is open") for sort keys %window;

$node->stop;
done_testing();
