# What looks at a stream or changes it, for one that reads two sources by UNION
# ALL: open windows and the live view, preview, late records and their repair,
# another query, results anew.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker(web => 2, app => 1);
my $node = new_node('union_tools', "timezone = 'UTC'");
my $rng = seeded_random();
sub sql { return $node->safe_psql('postgres', $_[0]); }

create_source($node, $broker, 'web', 'web', 'ts timestamptz, page text, v int');
my $server = sql('SELECT srvname FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$');
sql(qq{SELECT stream_agg.create_source('app', topic => 'app', server => '$server', format => 'csv', columns => 'screen text, seen_at timestamptz, v int');
	CREATE VIEW visits AS SELECT 'web' AS origin, ts, page, v FROM web UNION ALL SELECT 'app', seen_at, screen, v FROM app});

# event time: the sources go side by side, with stragglers in both
my %time = (web => 0, app => 0);
sub at { my $s = shift; return sprintf '2026-01-01T%02d:%02d:%02dZ', $s / 3600, $s / 60 % 60, $s % 60; }
sub produce
{
	my ($n, $late) = @_;
	for my $topic ('web', 'app')
	{
		my @records;
		for (1 .. $n)
		{
			my $second = $time{$topic} += $rng->(5);
			$second -= 300 if $late && $second > 400 && $rng->(8) == 0;
			my ($where, $v) = ((qw(/ /tea /cart))[ $rng->(3) ], $rng->(100));
			push @records, $topic eq 'web' ? [ $rng->(2), '', sprintf('{"ts": "%s", "page": "%s", "v": %d}', at($second), $where, $v) ]
				: [ 0, '', sprintf('%s,%s,%d', $where, at($second), $v) ];
		}
		$broker->produce($topic, @records);
	}
	my ($most) = sort { $b <=> $a } values %time;
	$_ = $most for values %time;
	return;
}

my $query = q{SELECT stream_agg.tumble(ts, '1 minute') AS win, origin, count(*) AS n, sum(v) AS total FROM visits GROUP BY 1, 2};
sub make
{
	my ($stream, $mode, $options) = @_;
	return sql("SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, watermark => '1 minute', output_mode => '$mode', trigger => '20 days',
		max_offsets_per_trigger => 90, options => '{\"late_records\": true, \"on_error\": \"dead_letter\"$options}')");
}
make('closed', 'append', '');
make('updated', 'update', ', "watermark_policy": "per_partition"');
sql(q{SELECT stream_agg.create_live_view('closed')});
process($node, $_) for 'closed', 'updated';    # the trigger at the start is over

# --- live results and preview, batch by batch
for my $round (1 .. 3)
{
	produce(120, 0);
	for my $stream ('closed', 'updated')
	{
		sql("DROP TABLE IF EXISTS before, shown; CREATE TABLE before AS SELECT * FROM $stream;
			CREATE TABLE shown AS SELECT action, r.* FROM stream_agg.preview('$stream', 1000) p, jsonb_populate_record(NULL::$stream, p.data) r");
		sql("SELECT stream_agg.alter_stream('$stream', max_offsets_per_trigger => 1000)");
		process($node, $stream);
		is_equal_tables($node, q{SELECT b.* FROM before b LEFT JOIN shown s ON s.win = b.win AND s.origin = b.origin AND s.action <> 'open' WHERE s.action IS NULL
			UNION ALL SELECT win, origin, n, total FROM shown WHERE action <> 'open'}, "SELECT * FROM $stream", "round $round: $stream did what preview has shown");
	}
	is_equal_tables($node, 'SELECT * FROM closed_live', 'SELECT * FROM closed_query', "round $round: the live view is the query over both sources");
	is_equal_tables($node, q{SELECT win, origin, n, total FROM stream_agg.open_windows(NULL::closed)},
		qq{SELECT * FROM closed_query WHERE upper(win) > '@{[ watermark($node, 'closed') ]}'}, "round $round: and open windows are what has not closed");
}
is_equal_tables($node, qq{SELECT r.* FROM stream_agg.preview(\$q\$ $query \$q\$, NULL, starting_offsets => '{"app": {"0": -1}}') p, jsonb_populate_record(NULL::closed, p.data) r},
	q{SELECT * FROM closed_query WHERE origin = 'web'}, 'preview of a query, with offsets by topic');
my (undef, undef, $err) = $node->psql('postgres', qq{SELECT * FROM stream_agg.preview(\$q\$ $query \$q\$, starting_offsets => '{"0": 1}')});
like($err, qr/ERROR:  starting_offsets do not name topics/, 'without topics they are of no source');

# --- late records of both, and records that do not decode, which stay out of repairs
produce(150, 1);
$broker->produce('web', 'no json');
$broker->produce('app', '/,no time,1');
process($node, $_) for 'closed', 'updated';
for my $stream ('closed', 'updated')
{
	is(sql("SELECT string_agg(DISTINCT topic, ',' ORDER BY topic) FROM stream_agg.late_records WHERE stream = '$stream'"), 'app,web', "$stream: records of both sources came late");
	is(sql("SELECT string_agg(topic, ',' ORDER BY topic) FROM stream_agg.dead_letters WHERE stream = '$stream'"), 'app,web', 'and one of each does not decode');
	my $late = sql("SELECT count(*) FROM stream_agg.late_records WHERE stream = '$stream'");
	is(sql("SELECT bool_and(repaired OR reason ~ 'still open'), sum(late_records) FROM stream_agg.repair_late('$stream')"), "t|$late", "$late of them are repaired");
}
sub good { return "WITH visits AS (SELECT 'web' AS origin, ts, page, v FROM good_web UNION ALL SELECT 'app', seen_at, screen, v FROM good_app) $_[0]"; }

# the batch query fails at what does not decode, so the oracle reads text
sql(qq{SELECT stream_agg.create_source('web_text', topic => 'web', server => '$server', format => 'text', columns => 'line text');
	SELECT stream_agg.create_source('app_text', topic => 'app', server => '$server', format => 'text', columns => 'line text');
	CREATE VIEW good_web AS SELECT (j->>'ts')::timestamptz AS ts, j->>'page' AS page, (j->>'v')::int AS v FROM (SELECT line::jsonb AS j FROM web_text WHERE line <> 'no json') w;
	CREATE VIEW good_app AS SELECT split_part(line, ',', 1) AS screen, split_part(line, ',', 2)::timestamptz AS seen_at, split_part(line, ',', 3)::int AS v FROM app_text WHERE line !~ 'no time'});
is_equal_tables($node, 'SELECT * FROM closed_live', good($query), 'closed: with the late records it is the batch query');
is_equal_tables($node, qq{SELECT * FROM updated WHERE upper(win) <= '@{[ watermark($node, 'updated') ]}'},
	qq{SELECT * FROM (@{[ good($query) ]}) q WHERE upper(win) <= '@{[ watermark($node, 'updated') ]}'}, 'updated: and so are windows that have closed');
is(sql(q{SELECT count(*) FROM stream_agg.late_records WHERE stream = 'closed'}), 0, 'and nothing is late');

# --- another query, with its state kept
my $more = $query =~ s/AS total/AS total, max(v) AS top/r;
sql(q{SELECT stream_agg.stop_stream('closed')});
my $open = sql(q{SELECT count(*) FROM stream_agg.open_windows(NULL::closed)});
cmp_ok($open, '>', 0, 'with windows open');
(undef, undef, $err) = $node->psql('postgres', "SELECT stream_agg.alter_stream('closed', query => \$q\$$more\$q\$)");
like($err, qr/NOTICE:  1 aggregate of stream "closed" begins with the next micro-batch/, 'the query gets an aggregate');
is(sql(q{SELECT count(*), count(top), sum(n) > 0 FROM stream_agg.open_windows(NULL::closed)}), "$open|0|t", 'open windows keep what they have');
# all there is in one micro-batch, or one source would be late by the other
produce(90, 0);
sql(q{SELECT stream_agg.start_stream('closed')});
process($node, 'closed');
is_equal_tables($node, 'SELECT win, origin, n, total FROM closed_live', good($query), 'aggregates that stay are right');
my ($last) = sort { $b <=> $a } values %time;
is_equal_tables($node, qq{SELECT * FROM closed_live WHERE lower(win) > '@{[ at($last - 100) ]}'::timestamptz}, qq{SELECT * FROM (@{[ good($more) ]}) q WHERE lower(win) > '@{[ at($last - 100) ]}'::timestamptz},
	'and the new one in windows that have begun since');
(undef, undef, $err) = $node->psql('postgres', q{SELECT stream_agg.alter_stream('closed', query => $q$SELECT stream_agg.tumble(ts, '1 minute') AS win, 'web' AS origin, count(*) AS n, sum(v) AS total FROM web GROUP BY 1, 2$q$)});
like($err, qr/cannot be replaced by this one\nDETAIL:  It has another FROM/, 'a query that reads one source less is another one');

# --- results anew, of all that the topics have
sql(q{SELECT stream_agg.reset_stream('closed', 'earliest', results => true)});
process($node, 'closed');
is_equal_tables($node, 'SELECT win, origin, n, total, top FROM closed_live', good($more), 'reset_stream computes all anew from both sources');
like(sql(q{SELECT string_agg(line, E'\n') FROM stream_agg.explain_stream('closed') line}), qr/Source: web\n.*Source: app\n/, 'explain_stream names both');

$node->stop;
done_testing();
