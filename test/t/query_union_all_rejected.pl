# Records that only some branches of UNION ALL reject, because each branch decodes the
# columns it needs: they are left out as a whole.  The result is that of the batch
# query over the other records, every record counts once, and the event time of a
# rejected record moves no watermark.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $rng = seeded_random();
my $broker = start_broker(events => 1, good => 1, keys => 1);
my $node = new_node('union_rejected', 'timezone = UTC', 'max_worker_processes = 40', 'stream_agg.max_attempts = 2');
sub value { return $node->safe_psql('postgres', $_[0]); }

my $columns = 'ts timestamptz, views int, buys int';
create_source($node, $broker, $_, $_, $columns) for 'events', 'good';
create_source($node, $broker, 'events_too', 'events', $columns);
value('CREATE VIEW good_too AS SELECT * FROM good');

my $union = q{(SELECT ts, 'views' AS kind, views AS n FROM %1$s WHERE views > 0 UNION ALL SELECT ts, 'buys', buys FROM %1$s WHERE buys > 0) u};
my $both = $union =~ s/(.*)%1\$s/$1%1\$s_too/r;
my $total = "kind, sum(n) AS s, count(*) AS c FROM $union";
my %query = (
	updated => [ 'update', "SELECT $total GROUP BY 1" ],
	complete => [ 'complete', "SELECT $total GROUP BY 1" ],
	two_sources => [ 'update', "SELECT kind, sum(n) AS s, count(*) AS c FROM $both GROUP BY 1" ],
	passed => [ 'append', "SELECT ts, kind, n FROM $union" ],
	windows => [ 'append', "SELECT stream_agg.tumble(ts, '1 minute') AS win, $total GROUP BY 1, 2" ],
	by_partition => [ 'append', "SELECT stream_agg.tumble(ts, '1 minute') AS win, $total GROUP BY 1, 2", ', "watermark_policy": "per_partition"' ],
	gaps => [ 'append', "SELECT stream_agg.hop(ts, '1 minute', '10 seconds') AS win, $total GROUP BY 1, 2" ],
	sessions => [ 'update', "SELECT stream_agg.session(ts, '4 seconds') AS win, $total GROUP BY 1, 2" ]);

# Good records of five minutes from "minute" on, and others among them: with columns
# that do not decode, and times given.
sub produce
{
	my ($minute, @others) = @_;
	my @good = map { sprintf '{"ts":"2026-01-01T00:%02d:%02dZ","views":%d,"buys":%d}', $minute + int($_ / 10), $_ % 10 * 6, 1 + $rng->(9), 1 + $rng->(9) } 0 .. 49;
	my @all = @good;
	splice @all, 1 + $rng->(scalar @all), 0, sprintf '{"ts":"2026-01-01T%s","views":%s,"buys":%s}', @$_ for @others;
	$broker->produce('good', @good);
	$broker->produce('events', @all);
	return;
}

my $policy = '"on_error": "dead_letter"';
my @first = ([ '00:00:30Z', 1000, '"x"' ], [ '00:01:00Z', '"x"', 1000 ], [ '02:00:30Z', 1000, '"x"' ]);
my @second = ([ '00:00:01Z', 1000, '"x"' ], [ '00:02:01Z', '"x"', 1000 ], [ '00:21:00Z', 1000, '"x"' ]);
produce(0, @first);
value(join '', map {
	my ($mode, $query, $more) = @{ $query{$_} };
	my $watermark = $query =~ /win/ ? q{, watermark => '1 minute'} : '';
	"SELECT stream_agg.create_stream('$_', \$q\$" . sprintf($query, 'events') . "\$q\$, output_mode => '$mode', trigger => '20 days', options => '{$policy" . ($more // '') . "}' $watermark);"
} sort keys %query);
for my $round (1, 2)
{
	for my $stream (sort keys %query)
	{
		my ($mode, $query) = @{ $query{$stream} };
		my $windowed = $query =~ /win/;
		my $last = $round == 1 ? '00:04:54' : '00:24:54';
		process($node, $stream);
		is_equal_tables($node, "SELECT * FROM $stream", $query =~ /win/ && $mode eq 'append' ? "SELECT * FROM (" . sprintf($query, 'good') . ") q WHERE upper(win) <= '2026-01-01 ${last}Z'::timestamptz - interval '1 minute'"
			: sprintf($query, 'good'), "$stream, round $round: the result is that of the other records");
		is(value("SELECT count(*) FROM stream_agg.dead_letters WHERE stream = '$stream'"), $round * 3, "$stream: the rejected ones are dead letters");
		counts_add_up($node, $stream, $round * 53, "$stream: every record counts once");
		is(value("SELECT total_late FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1"), 0, "$stream: none of them counts as late");
		is(watermark($node, $stream), value("SELECT '2026-01-01 ${last}Z'::timestamptz - interval '1 minute'"), "$stream: nor moves the watermark") if $windowed;
	}
	produce(20, @second) if $round == 1;
}

# --- a record that is rejected after its event time was read
create_source($node, $broker, 'keys', 'keys', 'ts timestamptz, k text');
value(qq{SELECT stream_agg.create_stream('long_keys', \$q\$SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n FROM keys GROUP BY 1, 2\$q\$,
	output_mode => 'update', trigger => '20 days', watermark => '1 minute', options => '{$policy}')});
$broker->produce('keys', '{"ts":"2026-01-01T00:05:00Z","k":"a"}', '{"ts":"2026-01-01T02:00:00Z","k":"' . 'x' x 9000 . '"}', '{"ts":"2026-01-01T00:05:01Z","k":"a"}');
process($node, 'long_keys');
is(value('SELECT k, n FROM long_keys'), 'a|2', 'a key that is too long: the result is that of the other records');
is(value(q{SELECT count(*) FROM stream_agg.dead_letters WHERE stream = 'long_keys'}), 1, 'it is a dead letter');
is(watermark($node, 'long_keys'), value(q{SELECT '2026-01-01 00:04:01Z'::timestamptz}), 'and moves no watermark');

done_testing();
