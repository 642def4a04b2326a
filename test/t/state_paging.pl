# State larger than memory: units of the state leave memory, are read from the
# state log when they are needed, and results are the same as if all of it were
# in memory.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 2);
# segments of shared memory are files, so that they can be counted
my $node = new_node('paging', "dynamic_shared_memory_type = mmap", "stream_agg.max_records_per_batch = 4000", 'timezone = UTC', 'max_worker_processes = 40',
	'stream_agg.keep_batches = 1000000');
my $rng = seeded_random();
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');

sub sql { return $node->safe_psql('postgres', shift); }
sub figure
{
	my ($stream, $columns) = @_;
	return sql("SELECT $columns FROM pg_stat_stream_agg WHERE stream = '$stream'");
}
# records of some minutes of one hour, each with a key of its own choice
sub produce
{
	my ($n, $minute, $key) = @_;
	$broker->produce('events', map {
			[ $_ % 2, '', json_record({ ts => sprintf('2026-01-01T%02d:%02d:%02d.%03dZ', int($minute / 60), $minute % 60, $rng->(60), $rng->(1000)),
				k => $key->($_), v => $rng->(100) }, numbers => [qw(k v)]) ] } 1 .. $n);
	return;
}
sub any_key { return $rng->(3000); }
my @streams;
sub create
{
	my ($name, $query, $mode, $memory) = @_;
	my $option = defined $memory ? ", options => '{\"state_memory\": \"$memory\"}'" : '';
	my $watermark = $mode eq 'complete' ? '' : ", watermark => '2 hours'";
	$watermark .= ", event_time => 'ts'" if $name =~ /seen/;
	sql("SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$, output_mode => '$mode', trigger => '20 days'$watermark$option)");
	push @streams, $name;
	return;
}
sub are_equal
{
	my ($name, @which) = @_;
	for my $stream (@which ? @which : @streams)
	{
		next if $stream =~ /twin/;
		process($node, $stream);
		process($node, $stream =~ s/_bound//r . '_twin') if $stream =~ /session/;
		my $result = $stream =~ /append/ ? "SELECT * FROM $stream UNION ALL SELECT * FROM stream_agg.open_windows(NULL::$stream)"
		  : $stream =~ /seen/ ? "SELECT k FROM $stream" : "SELECT * FROM $stream";
		my $expected = $stream eq 'session_bound' ? 'SELECT * FROM session_twin'
		  : $stream eq 'session_append' ? 'SELECT * FROM session_append_twin UNION ALL SELECT * FROM stream_agg.open_windows(NULL::session_append_twin)'
		  : $stream =~ /seen/ ? 'SELECT DISTINCT k FROM events' : "SELECT * FROM ${stream}_query";
		is_equal_tables($node, $result, $expected, "$stream equals the batch query $name");
	}
	return;
}

my $tumble = q{SELECT stream_agg.tumble(ts, '10 minutes') AS win, k, count(*) AS n, sum(v) AS s, avg(v) AS a FROM events GROUP BY 1, 2};
create('append_bound', $tumble, 'append', '200kB');
create('update_bound', $tumble, 'update', '200kB');
create('update_none', $tumble, 'update', '0');
create('update_all', $tumble, 'update');
create('complete_bound', 'SELECT k, count(*) AS n, max(v) AS m, count(DISTINCT v) AS d FROM events GROUP BY k', 'complete', '60kB');
create('kept_bound', q{SELECT stream_agg.tumble(ts, '10 minutes') AS win, k % 500 AS g, array_agg(v ORDER BY ts, v) AS vs, count(DISTINCT v) AS d
	FROM events GROUP BY 1, 2}, 'update', '100kB');
# units that become large
create('large_all', q{SELECT stream_agg.tumble(ts, '10 minutes') AS win, k % 4 AS g, md5(array_agg(repeat(k::text, 100) ORDER BY ts, k, v)::text) AS vs, count(*) AS n
	FROM events GROUP BY 1, 2}, 'update');
create('hop_bound', q{SELECT stream_agg.hop(ts, '5 minutes', '20 minutes') AS win, k % 700 AS g, count(*) AS n, sum(v) AS s FROM events GROUP BY 1, 2}, 'update', '100kB');
create('session_bound', q{SELECT stream_agg.session(ts, '3 minutes') AS win, k, count(*) AS n, sum(v) AS s FROM events GROUP BY 1, 2}, 'update', '100kB');
create('session_append', q{SELECT stream_agg.session(ts, '3 minutes') AS win, k % 900 AS g, count(*) AS n, sum(v) AS s FROM events GROUP BY 1, 2}, 'append', '100kB');
# sessions are compared with those of a stream that has all in memory
(my $sessions = q{SELECT stream_agg.session(ts, '3 minutes') AS win, k, count(*) AS n, sum(v) AS s FROM events GROUP BY 1, 2});
create('session_twin', $sessions, 'update');
create('session_append_twin', $sessions =~ s/k, count/k % 900 AS g, count/r, 'append');
create('seen_bound', 'SELECT DISTINCT ON (k) k, ts FROM events', 'append', '50kB');
create('first_bound', q{SELECT stream_agg.tumble(ts, '10 minutes') AS win, k % 500 AS g, min_by_order(v) AS f FROM events GROUP BY 1, 2}, 'update', '50kB')
  if sql(q{CREATE FUNCTION least_of(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT least($1, $2)';
	CREATE AGGREGATE min_by_order(int) (SFUNC = least_of, STYPE = int)}) eq '';

# ---- windows one after the other
produce(4000, 10 * $_, \&any_key) for 0 .. 5;
are_equal('after six windows');
for my $stream ('append_bound', 'update_bound')
{
	my ($groups, $bytes, $out, $units, $units_out) = split /\|/, figure($stream, 'state_rows, state_bytes, state_bytes_out, state_units, state_units_out');
	cmp_ok($units_out, '>', $units / 2, "most units of $stream are out ($units_out of $units)");
	cmp_ok($bytes, '>', 5 * 200 * 1024, 'the state is much larger than its bound');
	cmp_ok($bytes - $out, '<=', 1.2 * 200 * 1024, 'and what is in memory is not');
}
is(figure('update_all', 'state_units_out'), 0, 'without a bound nothing leaves');
is(figure('update_none', 'state_units_out = state_units'), 't', 'with a bound of 0 nothing stays');
is(figure('update_none', 'state_rows'), figure('update_all', 'state_rows'), 'groups that are out are counted');

# ---- small units share a chain of the log, others have one of their own
my $shared = '9223372036854775807';
sub chains { my ($stream, $which) = @_; return sql("SELECT count(DISTINCT (partition, unit)) FROM stream_agg.state WHERE stream = '$stream' AND unit $which $shared"); }
sub most_rows { my $stream = shift; return sql("SELECT max(n) FROM (SELECT count(*) AS n FROM stream_agg.state WHERE stream = '$stream' GROUP BY batch) AS b"); }
is(chains('update_all', '<>'), 0, 'without a bound small units share');
is(chains('update_all', '='), 16, 'one chain for each partition');
cmp_ok(most_rows('update_all'), '<=', 16, 'so a micro-batch writes no more than 16 rows');
cmp_ok(chains('large_all', '<>'), '>', 0, 'large units have chains of their own');
is(chains('update_none', '='), 0, 'with a bound of 0 all have');
is(sql("SELECT count(*) FROM stream_agg.state WHERE stream ~ 'session' AND unit <> 0"), 0, 'sessions never share');
for my $stream ('append_bound', 'hop_bound')
{
	cmp_ok(chains($stream, '<>'), '>=', figure($stream, 'state_units_out'), "units of $stream that are out have chains of their own");
}

# ---- only what is needed is read
sub last_read { my $stream = shift; return sql("SELECT units_read FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1"); }
produce(1, 1, sub { 17 });
process($node, 'update_none');
is(last_read('update_none'), 1, 'a record reads one unit');
produce(2000, 31, \&any_key);
process($node, 'update_none');
cmp_ok(last_read('update_none'), '<=', 16, 'records of one window read the units of this window');
cmp_ok(sql("SELECT max(units_read) FROM stream_agg.commits WHERE stream = 'update_all'"), '==', 0, 'without a bound nothing is read');
are_equal('after records of old windows');

# ---- a restart reads nothing before it is needed
for my $how ('fast', 'immediate')
{
	$node->stop($how);
	$node->start;
	process($node, $_) for @streams;
	produce(1, 41, sub { 18 });
	process($node, $_) for 'update_all', 'update_none', 'large_all';
	is(last_read('update_none'), 1, "after a restart ($how) a record reads one unit");
	is(last_read('large_all'), 1, 'a large unit, too');
	is(last_read('update_all'), 0, 'units that share are read at once');
	is(figure('update_all', 'state_rows'), figure('update_none', 'state_rows'), 'all groups are known');
	produce(500, 45, \&any_key);
	are_equal("after a restart ($how)");
}

# ---- windows close
produce(3000, 185, \&any_key);
produce(1, 250, sub { 1 });
are_equal('after windows have closed', grep { !/seen/ } @streams);
sub chains_before { my ($stream, $time) = @_; return sql("SELECT count(*) FROM stream_agg.state WHERE stream = '$stream' AND unit < extract(epoch FROM timestamptz '$time' - timestamptz '2000-01-01Z') * 1000000"); }
is(chains_before('append_bound', '2026-01-01T02:00Z'), 0, 'closed windows have left the log');

for my $how ('fast', 'immediate')
{
	$node->stop($how);
	$node->start;
	produce(200, 250, \&any_key);
	are_equal("after windows have closed and a restart ($how)", grep { !/seen/ } @streams);
}

# ---- another bound, and another query
sql(q{SELECT stream_agg.alter_stream('update_none', options => '{"state_memory": "-1"}')});
produce(2000, 251, \&any_key);
are_equal('after its bound was removed', 'update_none');
is(figure('update_none', 'state_units_out > 0'), 't', 'units come back when they are needed only');
cmp_ok(chains('update_none', '<>'), '>', 0, 'and keep their chains');
sql(qq{SELECT stream_agg.alter_stream('update_bound', query => \$q\$SELECT stream_agg.tumble(ts, '10 minutes') AS win, k, count(*) AS n, sum(v) AS s, avg(v) AS a, max(v) AS m FROM events GROUP BY 1, 2\$q\$)});
produce(2000, 252, \&any_key);
process($node, 'update_bound');
is_equal_tables($node, 'SELECT win, k, n, s, a FROM update_bound', 'SELECT win, k, n, s, a FROM update_bound_query', 'another query has the state that was out');

# ---- what the shared chain has of units that moved does not come back
my $moved = q{SELECT stream_agg.tumble(ts, '10 minutes') AS win, k % 50 AS g, count(*) AS n, sum(v) AS s FROM events WHERE ts > '2026-01-01T05:00Z' GROUP BY 1, 2};
create("moved_$_", $moved, $_) for 'append', 'update';
sub crash
{
	$node->stop('immediate');
	$node->start;
	return;
}
sub moved_are_equal { my $when = shift; are_equal($when, 'moved_append', 'moved_update'); return; }
my @moved = ('moved_append', 'moved_update');
sub groups_in_state { my $stream = shift; return sql("SELECT count(*) FROM moved_update_query WHERE upper(win) > (SELECT watermark FROM pg_stat_stream_agg WHERE stream = '$stream')"); }
sub state_is_exact
{
	my $when = shift;
	moved_are_equal($when);
	is(figure($_, 'state_rows'), groups_in_state($_), "$_ has no group too many $when") for @moved;
	return;
}
produce(1000, 300 + 10 * $_, \&any_key) for 0, 1;
process($node, $_) for @moved;
is(chains($_, '<>'), 0, "$_: units share") for @moved;
sql(qq{SELECT stream_agg.alter_stream('$_', options => '{"state_memory": "0"}')}) for @moved;
produce(1, 305, sub { 1 });
process($node, $_) for @moved;
cmp_ok(chains($_, '<>'), '>', 16, "$_: units have moved") for @moved;
sql(qq{SELECT stream_agg.alter_stream('$_', options => '{"state_memory": "-1"}')}) for @moved;
crash();
produce(500, 308, \&any_key);
state_is_exact('after a move and a crash');
produce(500, 300 + 10 * $_, \&any_key) for 0, 2;
process($node, $_) for @moved;
crash();
produce(1, 308, sub { 2 });
state_is_exact('after changes of moved units, new ones that share, and a crash');
produce(1, 435, sub { 3 });
process($node, $_) for @moved;
is(chains_before($_, '2026-01-01T05:10Z'), 0, "$_: a chain is deleted with its window") for @moved;
crash();
produce(1, 436, sub { 4 });
state_is_exact('after windows with chains of their own have closed, and a crash');
produce(1, 460, sub { 5 });
process($node, $_) for @moved;
produce(1, 461, sub { 5 });
state_is_exact('after all of them have closed');

# ---- units that share, spilled by a micro-batch that fails
sql(qq{SELECT stream_agg.create_stream('refused_update', \$q\$$moved\$q\$, output_mode => 'update', trigger => '50 milliseconds', watermark => '2 hours')});
process($node, 'refused_update');
is(chains('refused_update', '<>'), 0, 'units share');
sql(q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'serialization_failure'; END $$;
	CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON refused_update EXECUTE FUNCTION refuse();
	SELECT stream_agg.alter_stream('refused_update', options => '{"state_memory": "0"}')});
produce(500, 461, \&any_key);
ok($node->poll_query_until('postgres', q{SELECT last_error ~ 'refused' FROM pg_stat_stream_agg WHERE stream = 'refused_update'}), 'a micro-batch has failed');
sql('DROP TRIGGER refuse ON refused_update');
are_equal('after micro-batches that failed', 'refused_update');
is(chains('refused_update', '='), 0, 'then all units have moved');
crash();
produce(100, 461, \&any_key);
are_equal('after micro-batches that failed, and a crash', 'refused_update');

# ---- values of the option
my ($status, $out, $err) = $node->psql('postgres', q{SELECT stream_agg.alter_stream('update_none', options => '{"state_memory": "much"}')});
like($err, qr/invalid state_memory "much"/, 'an option that is no size is refused');

unlike(slurp_file($node->logfile), qr/leak|is not in memory|TRAP/, 'the server has found nothing leaked');

done_testing();
