# Keys that are null, composite keys whose fields are null, and composite keys with some
# fields null are different keys: in each mode a row of one is never taken for that of
# another one.  IS NULL is true for both of the first two, IS NOT NULL for the last is not.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker(pairs => 2);
my $node = new_node('keys_null', 'timezone = UTC', 'stream_agg.max_attempts = 2', 'max_worker_processes = 16');
my @keys = ('null', '"(,)"', '"(1,)"', '"(,1)"', '"(1,1)"');

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub produce
{
	my ($minute, @values) = @_;
	$broker->produce('pairs', map {
		[ $_ % 2, undef, sprintf('{"ts": "2026-01-01T00:%02d:00Z", "k": %s, "v": %d}', $minute, $keys[$_], $values[$_]) ]
	} grep { defined $values[$_] } 0 .. $#values);
	return;
}

sub process_all
{
	process($node, $_) for split /\n/, sql('SELECT stream FROM stream_agg.streams ORDER BY 1');
	return;
}

# sessions: what is less than the gap after the record before is of its session
my $sessions = q{
	SELECT tstzrange(min(ts), max(ts) + '10 minutes') AS win, k, sum(v) AS v
	  FROM (SELECT *, count(*) FILTER (WHERE begins) OVER (PARTITION BY k ORDER BY ts) AS n
	          FROM (SELECT *, ts >= lag(ts, 1, '-infinity') OVER (PARTITION BY k ORDER BY ts) + interval '10 minutes' AS begins FROM pairs) AS a) AS b
	 GROUP BY k, n};

sub all_equal
{
	my $name = shift;
	is_equal_tables($node, "SELECT * FROM $_", $_ eq 'sessions' ? $sessions : "SELECT * FROM ${_}_query", "$_: $name")
	  for split /\n/, sql('SELECT stream FROM stream_agg.streams ORDER BY 1');
	return;
}

sql('CREATE TYPE pair AS (a numeric, b int)');
create_source($node, $broker, 'pairs', 'pairs', 'ts timestamptz, k pair, v int');
my $tumbling = q{SELECT stream_agg.tumble(ts, '1 hour') AS win, k, sum(v) AS v FROM pairs GROUP BY 1, 2};
for (
	[ plain => $tumbling, 'update' ],
	[ having => "$tumbling HAVING sum(v) > 0", 'update' ],
	[ complete => "$tumbling HAVING sum(v) > 0", 'complete' ],
	[ sessions => q{SELECT stream_agg.session(ts, '10 minutes') AS win, k, sum(v) AS v FROM pairs GROUP BY 1, 2}, 'update' ])
{
	my ($name, $query, $mode) = @$_;
	my $late = $name eq 'plain' ? q{, options => '{"late_records": true}'} : '';
	sql("SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$, output_mode => '$mode', watermark => '1 hour', trigger => '20 days'$late)");
}

produce(0, 1, 2, 3, 4, 5);
process_all();
all_equal('all kinds of keys');
produce(15, 1, 1, 1, 1, 1);
process_all();
all_equal('again');
produce(7, 1, 1, 1, 1, 1);
process_all();
all_equal('sessions are merged');
produce(8, undef, undef, -100, undef, undef);
process_all();
all_equal('a key with some fields null does not pass HAVING any more');
produce(9, -100, undef, undef, undef, undef);
process_all();
all_equal('and null, where a composite value of nulls does');

# the window has passed; a row of it that the query does not yield any more goes by the repair
$broker->produce('pairs', [ 0, undef, '{"ts": "2026-01-01T04:00:00Z", "k": "(9,9)", "v": 1}' ]);
process_all();
$broker->produce('pairs', [ 0, undef, '{"ts": "2026-01-01T00:30:00Z", "k": "(1,)", "v": 7}' ]);
process_all();
sql(q{UPDATE plain SET v = -1 WHERE lower(win) = '2026-01-01 00:00Z'; INSERT INTO plain SELECT win, '(8,)', 0 FROM plain WHERE lower(win) = '2026-01-01 00:00Z' LIMIT 1});
sql(q{SELECT * FROM stream_agg.repair_late('plain')});
is_equal_tables($node, q{SELECT * FROM plain WHERE lower(win) = '2026-01-01 00:00Z'},
	q{SELECT * FROM plain_query WHERE lower(win) = '2026-01-01 00:00Z'}, 'repair_late: rows of all kinds of keys');

sql(q{SELECT stream_agg.drop_stream('plain', drop_sink => true)});
sql(qq{SELECT stream_agg.create_stream('plain', \$q\$$tumbling\$q\$, output_mode => 'update', watermark => '1 day', trigger => '20 days')});
process($node, 'plain');
sql(q{SELECT stream_agg.alter_stream('plain', query => $q$SELECT stream_agg.tumble(ts, '1 hour') AS win, k, sum(v) AS v, sum(v) + 1 AS next FROM pairs GROUP BY 1, 2$q$)});
is(sql('SELECT count(*) FROM plain WHERE next IS NULL'), '0', 'alter_stream fills a new column of all kinds of keys');

done_testing();
