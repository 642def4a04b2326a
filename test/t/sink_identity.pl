# The index that finds a group's row in the sink: what create_stream makes, which
# ones of a user's table are taken, and that streams find and replace, delete and
# expire rows by each of them alike.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 2);
my $node = new_node('identity', 'timezone = UTC', 'max_worker_processes = 64', 'autovacuum = off');
my $random = seeded_random();
my $minute = 0;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub said { my (undef, undef, $stderr) = $node->psql('postgres', $_[0]); return $stderr; }

create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');

my $tumble = q{SELECT stream_agg.tumble(ts, '5 minutes') AS win, k, count(*) AS n, sum(v) AS total FROM events GROUP BY 1, 2};
my $hop = q{SELECT stream_agg.hop(ts, '5 minutes', '10 minutes') AS win, k, count(*) AS n, sum(v) AS total FROM events GROUP BY 1, 2};
my $session = q{SELECT k, stream_agg.session(ts, '3 minutes') AS win, count(*) AS n, sum(v) AS total FROM events GROUP BY k, 2};
my $day = q{SELECT stream_agg.tumble(ts, '1 day', timezone => 'Europe/Paris') AS win, k, count(*) AS n, sum(v) AS total FROM events GROUP BY 1, 2};
my $start = q{SELECT lower(stream_agg.tumble(ts, '5 minutes')) AS win, k, count(*) AS n, sum(v) AS total FROM events GROUP BY stream_agg.tumble(ts, '5 minutes'), 2};

# more groups than rows are sorted for, so that both ways are taken
sub produce
{
	my ($n, $minutes) = @_;
	$broker->produce('events', map {
		my $at = 1767225600 + 60 * ($minute + $random->($minutes));
		[ $random->(2), '', json_record({ ts => $at * 1000, k => $random->(10) ? $random->(200) : undef, v => $random->(100) }, numbers => [qw(ts k v)]) ]
	} 1 .. $n);
	$minute += $minutes;
	return;
}

sub create
{
	my ($stream, $query, %args) = @_;
	$args{watermark} = q{'10 minutes'} if $query =~ /stream_agg/;
	my $more = join '', map { ", $_ => $args{$_}" } sort keys %args;
	return "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, trigger => '20 days' $more)";
}

sub index_of
{
	my $table = shift;
	return sql("SELECT string_agg(substring(pg_get_indexdef(indexrelid) from 'USING (.*)'), ', ' ORDER BY indexrelid) FROM pg_index WHERE indrelid = '$table'::regclass");
}

subtest 'the index of a new sink has the lower bound of the window, of sessions both' => sub {
	my %expected = (
		tumble => [ $tumble, 'btree (lower(win), k)' ],
		hop => [ $hop, 'btree (lower(win), k)' ],
		day => [ $day, 'btree (lower(win), k)' ],
		session => [ $session, 'btree (lower(win), upper(win), k)' ],
		start => [ $start, 'btree (win, k)' ],
		keys => [ 'SELECT k, count(*) AS n FROM events GROUP BY 1', 'btree (k)' ]);
	for my $name (sort keys %expected)
	{
		sql(create($name, $expected{$name}[0], output_mode => q{'update'}, start => 'false'));
		is(index_of($name), "$expected{$name}[1] NULLS NOT DISTINCT", $name);
		is(sql("SELECT relreplident FROM pg_class WHERE relname = '$name'"), 'f', "$name: its replica identity is the whole row");
		sql("SELECT stream_agg.drop_stream('$name', drop_sink => true)");
	}
};

# ---------- a table with each of the indexes, for each window and mode ----------

my $columns = 'win tstzrange, k int, n bigint, total bigint, note text';
my %indexes = (
	range => [ '(win, k)', 'tumble', 'hop', 'session', 'day' ],
	turned => [ '(k DESC NULLS LAST, win)', 'tumble' ],
	lower => [ '(lower(win), k)', 'tumble', 'hop', 'day' ],
	backwards => [ '(k, lower(win) DESC NULLS FIRST)', 'hop' ],
	bounds => [ '(upper(win), k, lower(win))', 'tumble', 'session' ]);
my %query = (tumble => $tumble, hop => $hop, session => $session, day => $day);
my %oracle = map { $_ => $query{$_} } qw(tumble hop day);
my @streams;    # name, window, mode

for my $index (sort keys %indexes)
{
	my ($list, @windows) = @{ $indexes{$index} };
	for my $window (@windows)
	{
		for my $mode ('append', 'update', $window eq 'tumble' ? 'complete' : ())
		{
			my $name = "${index}_${window}_$mode";
			sql("CREATE TABLE $name ($columns); CREATE UNIQUE INDEX ON $name $list NULLS NOT DISTINCT");
			my $query = $query{$window} . ($mode eq 'update' && $window ne 'session' ? ' HAVING sum(v) % 3 <> 0' : '');
			my %args = (output_mode => "'$mode'", sink => "'$name'");
			sql(create($name, $query, %args));
			push @streams, [ $name, $window, $mode ];
		}
	}
}

sub check
{
	my $what = shift;
	process($node, $_->[0]) for @streams;
	for my $stream (@streams)
	{
		my ($name, $window, $mode) = @$stream;
		next if $mode eq 'append';
		# sessions of one that has them all
		is_equal_tables($node, "SELECT win, k, n, total FROM $name",
			$window eq 'session' ? 'SELECT win, k, n, total FROM range_session_update' : "SELECT win, k, n, total FROM ${name}_query", "$name: $what")
		  if $window ne 'session' || $name ne 'range_session_update';
	}
	my %first;
	for my $stream (grep { $_->[2] eq 'append' } @streams)
	{
		my ($name, $window) = @$stream;
		$first{$window} //= $name;
		is_equal_tables($node, "SELECT win, k, n, total FROM $name", "SELECT win, k, n, total FROM $first{$window}", "$name: $what, as $first{$window}")
		  if $name ne $first{$window};
	}
	return;
}

subtest 'streams write and replace rows alike by all indexes' => sub {
	produce(2000, 20);
	check('the first batch');
	produce(30, 1);
	check('few rows');
	produce(2000, 20);
	check('many');
	is(sql("SELECT count(*) > 100 AND bool_or(k IS NULL) FROM lower_tumble_append"), 't', 'windows have closed, one of them of the NULL key');
	is_equal_tables($node, 'SELECT win, k, n, total FROM lower_tumble_append',
		q{SELECT * FROM lower_tumble_append_query WHERE upper(win) <= (SELECT max(ts) - interval '10 minutes' FROM events)}, 'and are those of the query');
	$node->restart;
	produce(1000, 10);
	check('after a restart');
};

subtest 'rows that were deleted or are not expected' => sub {
	for my $stream (grep { $_->[2] ne 'append' } @streams)
	{
		my $name = $stream->[0];
		sql("DELETE FROM $name WHERE k % 5 = 1 AND lower(win) = (SELECT max(lower(win)) FROM $name)");
	}
	$minute -= 3;
	produce(1500, 3);
	process($node, $_->[0]) for @streams;
	for my $name (map { $_->[0] } grep { $_->[1] eq 'tumble' && $_->[2] eq 'complete' } @streams)
	{
		is_equal_tables($node, "SELECT win, k, n, total FROM $name", "SELECT * FROM ${name}_query", "$name: complete");
	}
	for my $name (map { $_->[0] } grep { $_->[1] ne 'session' && $_->[2] eq 'update' } @streams)
	{
		is(sql("SELECT s, q FROM $name s LEFT JOIN ${name}_query q ON s.win = q.win AND s.k IS NOT DISTINCT FROM q.k WHERE (s.n, s.total) IS DISTINCT FROM (q.n, q.total)"),
			'', "$name: each row is right");
	}
};

subtest 'an update finds rows by the index' => sub {
	$node->restart;
	my $scans = 'SELECT indexrelname, idx_scan FROM pg_stat_user_indexes WHERE relname IN (\'lower_tumble_known\', \'range_tumble_known\')';
	for my $name ('lower', 'range')
	{
		sql("CREATE TABLE ${name}_tumble_known ($columns); CREATE UNIQUE INDEX ON ${name}_tumble_known $indexes{$name}[0] NULLS NOT DISTINCT");
		sql(create("${name}_tumble_known", "SELECT * FROM ($tumble) q WHERE k IS NOT NULL" =~ s/SELECT \* FROM \((.*) GROUP BY 1, 2\) q WHERE (.*)/$1 WHERE $2 GROUP BY 1, 2/r,
			output_mode => q{'update'}, sink => "'${name}_tumble_known'"));
		process($node, "${name}_tumble_known");
	}
	sql('SELECT pg_stat_reset()');
	$minute -= 2;
	produce(400, 2);
	process($node, "${_}_tumble_known") for 'lower', 'range';
	ok($node->poll_query_until('postgres', "SELECT count(*) = 2 FROM ($scans) x WHERE idx_scan > 100"), 'both kinds');
	is(sql('SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname IN (\'lower_tumble_known\', \'range_tumble_known\')'), 0, 'and never scans the table');
};

subtest 'indexes that do not find a row are refused' => sub {
	my $refused = sub {
		my ($query, $list, $error, $name) = @_;
		sql("CREATE TABLE bad ($columns); CREATE UNIQUE INDEX ON bad $list");
		like(said(create('bad', $query, output_mode => q{'update'}, sink => q{'bad'})), $error, $name);
		sql('DROP TABLE bad');
	};
	my $bounds = qr/on exactly \(win, k\)\n.*In place of the window it may have its bounds\.\n.*CREATE UNIQUE INDEX ON public\.bad \(lower\(win\), upper\(win\), k\) NULLS NOT DISTINCT/s;
	my $lower = qr/on exactly \(win, k\)\n.*In place of the window it may have its lower bound\.\n.*CREATE UNIQUE INDEX ON public\.bad \(lower\(win\), k\) NULLS NOT DISTINCT/s;
	$refused->($session, '(lower(win), k) NULLS NOT DISTINCT', $bounds, 'of sessions only the lower bound');
	$refused->($tumble, '(upper(win), k) NULLS NOT DISTINCT', $lower, 'only the upper bound');
	$refused->($tumble, '(lower(win)) NULLS NOT DISTINCT', $lower, 'without the key');
	$refused->($tumble, '(win, lower(win), k) NULLS NOT DISTINCT', $lower, 'the window twice');
	$refused->($tumble, '(lower(win), lower(win), k) NULLS NOT DISTINCT', $lower, 'its bound twice');
	$refused->($tumble, '(lower(win), (k + 1)) NULLS NOT DISTINCT', $lower, 'an expression of the key');
	$refused->($tumble, '(lower(win), k)', $lower, 'NULLs that are distinct');
	$refused->($tumble, '(lower(win), k) NULLS NOT DISTINCT WHERE n > 0', $lower, 'a part of the rows');
	$refused->($start, '(win, k) NULLS NOT DISTINCT', qr/column "win" of sink "bad" has type tstzrange/, 'a range for a time');
};

subtest 'the index may be exchanged while the stream runs' => sub {
	sql(create('changing', $tumble, output_mode => q{'update'}));
	produce(500, 5);
	process($node, 'changing');
	sql('DROP INDEX changing_lower_k_idx; CREATE UNIQUE INDEX old ON changing (win, k) NULLS NOT DISTINCT');
	$minute -= 5;
	produce(500, 5);
	process($node, 'changing');
	is_equal_tables($node, 'SELECT * FROM changing', 'SELECT * FROM changing_query', 'for the one that streams had');
	sql('CREATE UNIQUE INDEX new ON changing (lower(win), k) NULLS NOT DISTINCT');
	produce(500, 5);
	process($node, 'changing');
	sql('DROP INDEX old');
	$minute -= 5;
	produce(500, 5);
	process($node, 'changing');
	is_equal_tables($node, 'SELECT * FROM changing', 'SELECT * FROM changing_query', 'and back');
	is(sql(q{SELECT state || COALESCE(last_error, '') FROM pg_stat_stream_agg WHERE stream = 'changing'}), 'running', 'without an error');
	sql(q{SELECT stream_agg.drop_stream('changing')});
};

subtest 'a table that was that of a stream with other windows' => sub {
	my $rows = sql('SELECT count(*) FROM changing');
	my $ten = $tumble =~ s/5 minutes/10 minutes/r;
	sql(create('changing', $ten, output_mode => q{'update'}));
	process($node, 'changing');
	is_equal_tables($node, 'SELECT * FROM changing WHERE upper(win) - lower(win) = interval $$10 minutes$$', 'SELECT * FROM changing_query',
		'update: a row that begins with a window is replaced, with its window');
	cmp_ok(sql('SELECT count(*) FROM changing WHERE upper(win) - lower(win) = interval $$5 minutes$$'), '>', 0, 'others stay');
	sql(q{SELECT stream_agg.drop_stream('changing'); DELETE FROM changing WHERE lower(win) > '2026-01-01 00:00+00' OR k > 0});
	sql(q{UPDATE changing SET win = tstzrange(lower(win), lower(win) + interval '1 minute')});
	sql(create('changing', $ten, output_mode => q{'append'}));
	wait_state($node, 'changing', 'retrying', 'duplicate key value violates unique constraint');
	like(sql(q{SELECT last_error FROM pg_stat_stream_agg WHERE stream = 'changing'}), qr/truncate the sink/, 'append: it is a duplicate, with what to do');
	sql(q{SELECT stream_agg.drop_stream('changing', drop_sink => true)});
};

subtest 'rows are in the order of the index' => sub {
	my $unordered = sub {
		my ($table, $order) = @_;
		return sql("SELECT count(*) FROM (SELECT row_number() OVER (ORDER BY $order) AS a, row_number() OVER (ORDER BY ctid) AS b FROM $table) x WHERE a <> b");
	};
	sql(q{CREATE TABLE "C" (k text COLLATE "C", n bigint, total bigint); CREATE UNIQUE INDEX ON "C" (k DESC NULLS LAST) NULLS NOT DISTINCT;
		CREATE TABLE pattern (k text COLLATE "C", n bigint); CREATE UNIQUE INDEX ON pattern (k text_pattern_ops) NULLS NOT DISTINCT;
		CREATE TABLE wide (win tstzrange, k bigint, n bigint, total bigint); CREATE INDEX ON wide (k, lower(win))});
	my $text = q{SELECT chr(65 + k % 2 * 32 + k % 26) || k AS k, count(*) AS n FROM events GROUP BY 1};
	sql(create('in_order', $tumble, output_mode => q{'update'}));
	sql(create('c', $text, output_mode => q{'update'}, sink => q{'"C"'}));
	sql(create('pattern', $text, output_mode => q{'update'}, sink => q{'pattern'}));
	sql(create('wide', $tumble, sink => q{'wide'}));
	process($node, $_) for qw(in_order c pattern wide);
	is($unordered->('in_order', 'lower(win), k'), 0, 'of a new sink');
	is($unordered->('"C"', 'k DESC NULLS LAST'), 0, 'backwards, in another collation than the key has');
	is($unordered->('pattern', 'k COLLATE "C"'), 0, 'of another operator class');
	is($unordered->('wide', 'k, lower(win)'), 0, 'of an index that is not unique, over another type of integers');
	cmp_ok(sql("SELECT count(*) FROM $_"), '>', 100, "$_ has enough rows") for qw(in_order "C" pattern wide);
	sql('SELECT stream_agg.stop_stream(stream) FROM stream_agg.streams');
	$node->safe_psql('postgres', $_) for q{ALTER SYSTEM SET stream_agg.batch_memory = '1MB'}, q{ALTER SYSTEM SET work_mem = '64kB'};
	$node->restart;
	sql(create('in_parts', $tumble, output_mode => q{'update'}));
	process($node, 'in_parts');
	is_equal_tables($node, 'SELECT * FROM in_parts', 'SELECT * FROM in_parts_query', 'more rows than memory has room for are all there');
	cmp_ok($unordered->('in_parts', 'lower(win), k'), '>', 0, 'sorted in parts');
};

done_testing();
