# Session windows: Spark's documented cases by their numbers, and where nothing is
# late the sessions of a batch query, for aggregates of all kinds, gaps of the
# records' own, and what goes wrong in between.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(words => 1, visits => 2, odd => 1);
my $node = new_node('sessions', 'timezone = UTC', 'max_worker_processes = 20');
my $rng = seeded_random();

sub one_of { return $_[ $rng->(scalar @_) ]; }

# A session stream; it runs when it is asked to.
sub create
{
	my ($name, $mode, $query, $more) = @_;
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$,
		output_mode => '$mode', trigger => '20 days' $more)");
	return;
}

sub rows { my $query = shift; return $node->safe_psql('postgres', $query); }

# ---------- StreamingSessionWindowSuite: gap 10 s, delay 30 s ----------

create_source($node, $broker, 'words', 'words', 'ts timestamptz, word text');
for my $mode (qw(append update complete))
{
	create("words_$mode", $mode, q{SELECT stream_agg.session(ts, '10 seconds') AS s, word, count(*) AS n FROM words GROUP BY 1, 2},
		", watermark => '30 seconds'");
}

sub words
{
	my @words = @_;
	my @records;
	while (@words)
	{
		my ($second, $text) = splice @words, 0, 2;
		push @records, map { json_record({ ts => $second * 1000, word => $_ }, numbers => ['ts']) } split ' ', $text;
	}
	$broker->produce('words', @records);
	process($node, "words_$_") for qw(append update complete);
	return;
}

sub sessions
{
	my $mode = shift;
	return rows("SELECT format('%s %s-%s %s', word, extract(epoch FROM lower(s))::int, extract(epoch FROM upper(s))::int, n)
		FROM words_$mode ORDER BY word COLLATE \"C\", s");
}

sub late
{
	my $mode = shift;
	return rows("SELECT sum(late) FROM stream_agg.commits WHERE stream = 'words_$mode'");
}

words(40, 'hello world spark streaming', 41, 'world hello structured streaming');
my $expected = "hello 40-51 2\nspark 40-50 1\nstreaming 40-51 2\nstructured 41-51 1\nworld 40-51 2";
is(sessions('complete'), $expected, 'rows at 40 and 41 merge to [40,51)');
is(sessions('update'), $expected, 'in mode update, too');
is(sessions('append'), '', 'append waits');

words(25, 'spark streaming');
$expected = "hello 40-51 2\nspark 25-35 1\nspark 40-50 1\nstreaming 25-35 1\nstreaming 40-51 2\nstructured 41-51 1\nworld 40-51 2";
is(sessions($_), $expected, "$_: new sessions before previous ones") for qw(update complete);

words(30, 'spark streaming');
$expected = "hello 40-51 2\nspark 25-50 3\nstreaming 25-51 4\nstructured 41-51 1\nworld 40-51 2";
is(sessions($_), $expected, "$_: 25 and 30 bridge to [25,51), the one exactly a gap apart") for qw(update complete);

words(0, 'hello spark');
is(late($_), 2, "$_: rows at 0 end at 10, not after the watermark 11: two are dropped") for qw(append update);
is(sessions('update'), $expected, 'and change nothing');
is(late('complete'), 0, 'complete calls nothing late');

words(60, 'hello apache spark');
words(90, 'structured');
is(sessions('append'), "hello 40-51 2\nspark 25-50 3\nstreaming 25-51 4\nstructured 41-51 1\nworld 40-51 2",
	'append gives out what ends until the watermark 60');
words(70, 'spark', 1000, 'end');
is(sessions('append'),
	"apache 60-70 1\nhello 40-51 2\nhello 60-70 1\nspark 25-50 3\nspark 60-80 2\nstreaming 25-51 4\nstructured 41-51 1\nstructured 90-100 1\nworld 40-51 2",
	'70 touches [60,70), which is open');
is(rows("SELECT state_rows FROM pg_stat_stream_agg WHERE stream = 'words_append'"), 1, 'what is over is out of the state');
is(rows("SELECT string_agg(word || ' ' || n, ',') FROM stream_agg.open_windows(NULL::words_append)"), 'end 1',
	'open_windows shows the session that is open');
$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('words_$_')") for qw(append update complete);

# ---------- the batch query, as doc/windows.md has it ----------

# Sessions of the rows of $from, which has a column "s", by key.
sub batch_sessions
{
	my ($from, $key, $list) = @_;
	return qq{
		SELECT tstzrange(min(lower(s)), max(upper(s))) AS s, $key, $list
		  FROM (SELECT *, count(*) FILTER (WHERE fresh) OVER (PARTITION BY $key ORDER BY lower(s), upper(s) ROWS UNBOUNDED PRECEDING) AS session
		          FROM (SELECT *, (lower(s) <= max(upper(s)) OVER (PARTITION BY $key ORDER BY lower(s), upper(s)
		                                                           ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) IS NOT TRUE AS fresh
		                  FROM ($from) v WHERE s IS NOT NULL) w) x
		 GROUP BY $key, session};
}

create_source($node, $broker, 'visits', 'visits',
	'ts timestamptz, visitor text, shop numeric, pages int, hits bigint, spent numeric, weight float8, idle interval, part int OPTIONS (metadata \'partition\')');
$node->safe_psql('postgres', q{
	CREATE TABLE idle_times (visitor text, idle interval);
	INSERT INTO idle_times VALUES ('v1', '10 seconds'), ('v2', '1 minute'), ('v3', NULL), ('v4', '-1 second'), ('v5', '0');
	CREATE FUNCTION longer(text, text) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT
		AS 'BEGIN RETURN CASE WHEN length($1) >= length($2) THEN $1 ELSE $2 END; END';
	CREATE AGGREGATE longest(text) (sfunc = longer, stype = text, combinefunc = longer);
	CREATE AGGREGATE biggest(int) (sfunc = int4larger, stype = int);
	CREATE FUNCTION add_up(numeric[], numeric) RETURNS numeric[] LANGUAGE sql IMMUTABLE AS 'SELECT ARRAY[$1[1] + 1, $1[2] + COALESCE($2, 0)]';
	CREATE FUNCTION add_both(numeric[], numeric[]) RETURNS numeric[] LANGUAGE sql IMMUTABLE AS 'SELECT ARRAY[$1[1] + $2[1], $1[2] + $2[2]]';
	CREATE AGGREGATE added(numeric) (sfunc = add_up, stype = numeric[], initcond = '{0,0}', combinefunc = add_both)});

my $time = 0;
sub visit
{
	$time += one_of(0, 0, 1, 5, 40);
	my $at = $time - $rng->(60);
	return [ $rng->(2), '', json_record({
			ts => $rng->(40) ? 1767225600000 + $at * 1000 : undef,
			visitor => 'v' . $rng->(6),
			shop => one_of('1', '1.0', '1.00', '2.50', undef),
			pages => one_of(undef, -3 .. 9),
			hits => one_of(undef, 0, 1, -5, '9223372036854775807', '-9223372036854775808'),
			spent => one_of(undef, '0.10', '-3', '12345678901234567890123456789012345678.5', '1e-30', '"NaN"', '7.000'),
			weight => one_of('0.5', '-2', '1024', undef),
			idle => one_of('"10 seconds"', '"10 seconds"', '"25 seconds"', '"00:00:01"', '"0"', '"-1 day"', undef) },
			bare => [qw(ts shop pages hits spent weight idle)]) ];
}

my $aggregates = q{count(*) AS n, count(pages) AS np, sum(pages) AS p, avg(pages) AS ap, sum(hits) AS h, avg(hits) AS ah,
	sum(spent) AS sp, avg(spent) AS asp, max(spent) AS msp, min(visitor) AS mv, sum(weight) AS w, max(weight) AS mw,
	stddev(hits) AS dh, var_pop(pages) AS vp, bool_and(pages > 0) AS pos, bit_or(pages) AS bits, min(ts) AS first, max(ts) AS last,
	longest(visitor || pages) AS l, added(spent) AS ad, count(*) FILTER (WHERE pages > 5) AS many, sum(spent) FILTER (WHERE pages > 5) AS sm,
	count(DISTINCT pages) AS dp, string_agg(visitor, ',' ORDER BY visitor) AS names, percentile_disc(0.5) WITHIN GROUP (ORDER BY pages) AS med,
	biggest(pages) AS big};
my @streams = (
	[ 'by_visitor', 'update', q{stream_agg.session(ts, '10 seconds')}, 'visitor', 'visits v' ],
	[ 'by_shop', 'complete', q{stream_agg.session(ts, '1 second')}, 'shop', 'visits v' ],
	[ 'own_gap', 'update', 'stream_agg.session(ts, v.idle)', 'visitor', 'visits v' ],
	[ 'joined_gap', 'complete', 'stream_agg.session(ts, i.idle)', 'part', 'visits v JOIN idle_times i USING (visitor)' ],
	[ 'closing', 'append', q{stream_agg.session(ts, '10 seconds')}, 'visitor', 'visits v' ]);
for (@streams)
{
	my ($name, $mode, $session, $key, $from) = @$_;
	create($name, $mode, "SELECT $session AS s, $key, $aggregates FROM $from GROUP BY $session, $key",
		", watermark => '45 minutes', max_offsets_per_trigger => " . one_of(3, 17, 100, 1000));
}

# longest() tells by the order of records where lengths are equal, and float sums
# by that of additions; neither happens here
sub compare
{
	my $when = shift;
	for (@streams)
	{
		my ($name, $mode, $session, $key, $from) = @$_;
		process($node, $name);
		my $closed = $mode eq 'append' ? " WHERE upper(s) <= (SELECT watermark FROM pg_stat_stream_agg WHERE stream = '$name')" : '';
		my $list = $aggregates =~ s/longest\(visitor \|\| pages\) AS l/max(length(visitor || pages)) AS l/r;
		my $columns = join(', ', 's', $key, map { $_ eq 'l' ? 'length(l)' : $_ } $aggregates =~ /\bAS (\w+)/g);
		is_equal_tables($node, "SELECT $columns FROM $name",
			'SELECT * FROM (' . batch_sessions("SELECT v.*, $session AS s FROM $from", $key, $list) . ") b$closed",
			"$when: $name, $mode");
	}
	return;
}

for my $round (1 .. 3)
{
	$broker->produce('visits', map { visit() } 1 .. 150);
	compare("round $round");
	$node->restart if $round == 1;
	$node->stop('immediate'), $node->start if $round == 2;
}
like(rows("SELECT stream_agg.explain_stream('$_->[0]')"), $_->[1], "explain_stream of $_->[0] tells the gap")
  for [ 'closing', qr/^  Window: session, gap 00:00:10$/m ], [ 'own_gap', qr/^  Window: session, gap (v\.)?idle$/m ];
is(rows("SELECT sum(late) FROM stream_agg.commits WHERE stream IN ('closing', 'by_visitor', 'own_gap')"), 0, 'nothing was late');
counts_add_up($node, $_->[0], 450, "$_->[0] counts every record once") for @streams;
cmp_ok(rows("SELECT rows_filtered FROM pg_stat_stream_agg WHERE stream = 'own_gap'"), '>', 0, 'records without a gap are filtered');

# every session ends: then append has them all, and the state is empty but for one
$broker->produce('visits', json_record({ ts => 1767225600000 + ($time + 10000) * 1000, visitor => 'last' }, numbers => ['ts']));
compare('in the end');
cmp_ok(rows('SELECT count(*) FROM closing'), '>', 100, 'sessions have closed');
is(rows("SELECT state_rows FROM pg_stat_stream_agg WHERE stream = 'closing'"), 1, 'the state of mode append is empty but for the last session');
is(rows("SELECT state_rows FROM pg_stat_stream_agg WHERE stream = 'by_visitor'"), 1, 'that of mode update as well');

# ---------- rows that go on, failures, records that cannot be ----------

# told by its start a session is updated in place, told by its end it is not
create("by_$_", 'update', "SELECT $_(stream_agg.session(ts, '10 seconds')) AS at, word, count(*) AS n FROM words WHERE ts > '1971-01-01' GROUP BY stream_agg.session(ts, '10 seconds'), 2",
	", watermark => '1 hour'") for qw(lower upper);
my $shown;
for my $seconds ([ 0, 20 ], [ 5 ], [ 22 ], [ 13 ], [ -8 ])
{
	$broker->produce('words', map { json_record({ ts => (86400 * 700 + $_) * 1000, word => 'a' }, numbers => ['ts']) } @$seconds);
	$shown = rows(q{SELECT string_agg(action, ' ' ORDER BY action) FROM stream_agg.preview('by_upper', 100)});
	process($node, "by_$_") for qw(lower upper);
}
is($shown, 'update', 'preview has shown what the last one does: the session begins earlier');
my $changes = "SELECT string_agg(rows_out || '/' || rows_removed, ' ' ORDER BY batch) FROM stream_agg.commits WHERE aggregated > 0 AND stream =";
is(rows('SELECT extract(epoch FROM at)::bigint - 86400 * 700, n FROM by_lower'), '-8|6', 'one session in the end');
is(rows('SELECT extract(epoch FROM at)::bigint - 86400 * 700, n FROM by_upper'), '32|6', 'by its end, too');
is(rows("$changes 'by_lower'"), '2/0 1/0 1/0 1/1 1/1', 'by its start: a row leaves when sessions merge or begin earlier');
is(rows("$changes 'by_upper'"), '2/0 1/1 1/1 1/1 1/0', 'by its end: a row leaves when sessions merge or end later');

# an ERROR in the middle leaves the sessions as they were
$node->safe_psql('postgres', q{
	CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
	CREATE TRIGGER fail BEFORE INSERT OR UPDATE OR DELETE ON by_lower FOR EACH ROW EXECUTE FUNCTION fail()});
$broker->produce('words', map { json_record({ ts => (86400 * 700 + $_) * 1000, word => 'a' }, numbers => ['ts']) } -20, -18, 41, 100);
$node->psql('postgres', "SELECT stream_agg.process_available('by_lower', '2 seconds')");
$node->poll_query_until('postgres', "SELECT last_error ~ 'not now' FROM pg_stat_stream_agg WHERE stream = 'by_lower'") or die;
$node->safe_psql('postgres', 'DROP TRIGGER fail ON by_lower; SELECT stream_agg.start_stream(\'by_lower\')');
process($node, 'by_lower');
is(rows('SELECT string_agg(format(\'%s:%s\', extract(epoch FROM at)::bigint - 86400 * 700, n), \' \' ORDER BY at) FROM by_lower'),
	'-20:8 41:1 100:1', 'a batch that failed changes nothing, and counts once in the end');

# other aggregates, with the state of those that stay
sub try_query
{
	my ($gap, $list) = @_;
	my (undef, undef, $stderr) = $node->psql('postgres', "SELECT stream_agg.alter_stream('by_lower', query =>
		\$\$ SELECT lower(stream_agg.session(ts, '$gap')) AS at, word, $list FROM words WHERE ts > '1971-01-01' GROUP BY stream_agg.session(ts, '$gap'), 2 \$\$)");
	return $stderr;
}
like(try_query('20 seconds', 'count(*) AS n'), qr/another window/, 'another gap is refused');
unlike(try_query('10 seconds', 'count(*) AS n, min(ts) AS first'), qr/ERROR/, 'another aggregate is taken');
$broker->produce('words', map { json_record({ ts => (86400 * 700 + $_) * 1000, word => 'a' }, numbers => ['ts']) } -5, 50);
process($node, 'by_lower');
is(rows('SELECT string_agg(format(\'%s:%s %s\', extract(epoch FROM at)::bigint - 86400 * 700, n, extract(epoch FROM first)::bigint - 86400 * 700), \', \' ORDER BY at) FROM by_lower'),
	'-20:9 -5, 41:2 50, 100:1 ', 'counts go on, the new aggregate begins');

# a gap of months, one that leads out of time
create_source($node, $broker, 'odd', 'odd', 'ts timestamptz, idle interval');
create('odd_gaps', 'update', 'SELECT stream_agg.session(ts, idle) AS s, count(*) AS n FROM odd GROUP BY 1', q{, options => '{"on_error": "dead_letter"}'});
$broker->produce('odd', map { sprintf '{"ts":"2026-01-01 00:00Z","idle":"%s"}', $_ } '1 minute', '1 mon', '106750000 days', '59 seconds');
process($node, 'odd_gaps');
is(rows('SELECT upper(s) - lower(s), n FROM odd_gaps'), '00:01:00|2', 'good records make a session');
is(rows("SELECT string_agg(concat_ws(E'\nDETAIL:  ', error, detail), '; ' ORDER BY \"offset\") FROM stream_agg.dead_letters WHERE stream = 'odd_gaps'"),
	"session gap of a record has no fixed length: 1 mon\nDETAIL:  It must not contain months or years, whose length varies, and must not be out of range.; "
	  . 'window of event time 2026-01-01 00:00:00+00 is out of range', 'the others are dead letters');

done_testing();
