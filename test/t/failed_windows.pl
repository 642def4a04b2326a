# Groups that fail when their window closes, in output mode append: with on_error
# skip or dead_letter they are left out, each in stream_agg.failed_windows, and the
# sink equals the batch query over the others.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $rng = seeded_random();
my $broker = start_broker(events => 3, results => 2);
my $node = new_node('failed_windows', 'stream_agg.keep_batches = 1000000', 'stream_agg.max_attempts = 3', 'stream_agg.max_retry_delay = 100', 'timezone = UTC', 'restart_after_crash = on');
sub value { return $node->safe_psql('postgres', $_[0]); }
sub drop { value("SELECT stream_agg.drop_stream('$_[0]', drop_sink => true)"); return; }

# an hour of records; some groups of a minute and a key have no record with v > 0
my $records = 1200;
my %empty;
$empty{ int($rng->(50)) . ' ' . $rng->(4) } = 1 while keys %empty < 12;
$broker->produce('events', map {
	my ($minute, $k) = (int($_ / 20), $rng->(4));
	[ $_ % 3, '', sprintf('{"ts":"2026-01-01T00:%02d:%02dZ","k":%d,"v":%d}', $minute, $_ % 20, $k, $empty{"$minute $k"} ? 0 : 1 + $rng->(9)) ]
} 0 .. $records - 1);
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');
create_source($node, $broker, 'results', 'results', 'win tstzrange, k int, mean int');

sub create
{
	my ($stream, $query, %args) = @_;
	my $options = $args{options} // '{"on_error": "dead_letter"}';
	my $more = join '', map { ", $_ => $args{$_}" } grep { $_ ne 'options' } sort keys %args;
	value("SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, trigger => '0', watermark => '1 minute', options => '$options' $more)");
	return;
}

# The sink has the batch query's rows of groups that do not fail, failed_windows the
# others; "bad" tells them by columns start, finish and k of the groups.
sub check
{
	my ($stream, $good, $bad, $name) = @_;
	is_equal_tables($node, "SELECT * FROM $stream", $good, "$name: the sink has all other groups");
	is_equal_tables($node, "SELECT window_start, window_end, keys FROM stream_agg.failed_windows WHERE stream = '$stream'",
		"SELECT start, finish, ARRAY[k::text] FROM ($bad) b", "$name: failed_windows has those that failed");
	cmp_ok(value("SELECT count(*) FROM stream_agg.failed_windows WHERE stream = '$stream'"), '>', 3, "$name: there are some");
	counts_add_up($node, $stream, $records, "$name: every record counts");
	return;
}

value(q{
	CREATE FUNCTION mean_of(state int[]) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
		IF state[1] = 0 THEN RAISE 'nothing to divide by'; END IF;
		RETURN state[1];
	END $$;
	CREATE FUNCTION mean_add(state int[], v int) RETURNS int[] IMMUTABLE LANGUAGE sql AS 'SELECT ARRAY[state[1] + v]';
	CREATE AGGREGATE sum_or_fail(int) (SFUNC = mean_add, STYPE = int[], FINALFUNC = mean_of, INITCOND = '{0}')});

my $closed = q{ts < '2026-01-01 00:58Z'};
my $tumble = q{stream_agg.tumble(ts, '1 minute')};
my $groups = "SELECT lower(win) AS start, upper(win) AS finish, k FROM (SELECT %s AS win, k FROM events WHERE $closed GROUP BY 1, 2 HAVING sum(v) = 0) g";
my $divide = "SELECT $tumble AS win, k, 100 / sum(v) AS mean FROM events %s GROUP BY 1, k %s";

# --- an expression of the select list
for my $size ('NULL', 7, 100)
{
	create('divided', sprintf($divide, '', ''), max_offsets_per_trigger => $size);
	process($node, 'divided');
	check('divided', sprintf($divide, "WHERE $closed", 'HAVING sum(v) > 0'), sprintf($groups, $tumble), "division by zero, $size offsets");
	is(value(q{SELECT DISTINCT error FROM stream_agg.failed_windows}), 'division by zero', 'with the reason') if $size eq '7';
	drop('divided') unless $size eq '100';
}
is(value(q{SELECT count(*) FROM stream_agg.dead_letters WHERE stream = 'divided'}), 0, 'no record is blamed');
like(slurp_file($node->logfile), qr/WARNING:  stream "divided": \d+ groups? failed when (its|their) windows? closed.*\n.*DETAIL:  The first one, of the window from 2026-01-01 .*: division by zero/, 'the log has a warning');
like(value(q{SELECT message FROM stream_agg.events WHERE stream = 'divided' AND event = 'failed windows' LIMIT 1}), qr/division by zero/, 'and so have the events');
is(value(q{SELECT state || COALESCE(last_error, '') FROM pg_stat_stream_agg WHERE stream = 'divided'}), 'running', 'the stream runs, without an error');
like(value(q{SELECT health, problem FROM pg_stat_stream_agg WHERE stream = 'divided'}), qr/^losing groups\|groups that failed when their windows closed: \d+; see stream_agg.failed_windows$/, 'but its health tells');

# --- who sees them, and how they go
value(q{CREATE ROLE other LOGIN});
is($node->safe_psql('postgres', 'SELECT count(*) FROM stream_agg.failed_windows', extra_params => [ '-U', 'other' ]), 0, 'others do not see them');
like(($node->psql('postgres', q{SELECT stream_agg.delete_failed_windows('divided')}, extra_params => [ '-U', 'other' ]))[2], qr/must be owner/, 'and do not delete them');
my $before = value(q{SELECT count(*) FROM stream_agg.failed_windows});
is(value(q{SELECT stream_agg.delete_failed_windows('divided', min(batch)) > 0 FROM stream_agg.failed_windows}), 't', 'those of the first micro-batches are deleted');
cmp_ok(value(q{SELECT count(*) FROM stream_agg.failed_windows}), '<', $before, 'and are gone');
drop('divided');
is(value(q{SELECT count(*) FROM stream_agg.failed_windows}), 0, 'and the others with the stream');

# --- a final function, a constraint, a trigger
my $summed = "SELECT $tumble AS win, k, %s(v) AS mean FROM events %s GROUP BY 1, k %s";
create('final', sprintf($summed, 'sum_or_fail', '', ''), max_offsets_per_trigger => 100);
process($node, 'final');
check('final', sprintf($summed, 'sum', "WHERE $closed", 'HAVING sum(v) > 0'), sprintf($groups, $tumble), 'a final function');
drop('final');
value(q{CREATE TABLE checked (win tstzrange, k int, mean bigint CHECK (mean > 0))});
create('checked', sprintf($summed, 'sum', '', ''), options => '{"on_error": "skip"}');
process($node, 'checked');
check('checked', sprintf($summed, 'sum', "WHERE $closed", 'HAVING sum(v) > 0'), sprintf($groups, $tumble), 'a constraint, on_error skip');
drop('checked');
value(q{
	CREATE TABLE refused (win tstzrange, k int, mean bigint);
	CREATE FUNCTION refuse_zero() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.mean = 0 THEN RAISE 'no zeros'; END IF; RETURN NULL; END $$;
	CREATE TRIGGER refuse AFTER INSERT ON refused FOR EACH ROW EXECUTE FUNCTION refuse_zero()});
create('refused', sprintf($summed, 'sum', '', ''), max_offsets_per_trigger => 100);
process($node, 'refused');
check('refused', sprintf($summed, 'sum', "WHERE $closed", 'HAVING sum(v) > 0'), sprintf($groups, $tumble), 'a trigger');
drop('refused');

value(q{
	CREATE TABLE positives AS SELECT g::bigint AS mean FROM generate_series(1, 1000) g;
	ALTER TABLE positives ADD PRIMARY KEY (mean);
	CREATE TABLE referring (win tstzrange, k int, mean bigint REFERENCES positives DEFERRABLE INITIALLY DEFERRED)});
create('referring', sprintf($summed, 'sum', '', ''), max_offsets_per_trigger => 300);
process($node, 'referring');
check('referring', sprintf($summed, 'sum', "WHERE $closed", 'HAVING sum(v) > 0'), sprintf($groups, $tumble), 'a deferred foreign key');
drop('referring');
value('TRUNCATE referring');
value('BEGIN;' . join('', map { "SELECT stream_agg.create_stream('$_', \$q\$" . sprintf($summed, 'sum', '', '') . "\$q\$, trigger => '0', watermark => '1 minute', max_offsets_per_trigger => 300, reader => 'both', options => '{\"on_error\": \"dead_letter\"}');" } qw(referring whole)) . 'COMMIT');
process($node, 'whole');
process($node, 'referring');
check('referring', sprintf($summed, 'sum', "WHERE $closed", 'HAVING sum(v) > 0'), sprintf($groups, $tumble), 'a deferred foreign key, beside another stream');
is_equal_tables($node, 'SELECT * FROM whole', sprintf($summed, 'sum', "WHERE $closed", ''), 'which has all groups');
drop($_) for qw(referring whole);

# --- windows that slide, and sessions
my $hop = q{stream_agg.hop(ts, '2 minutes', '1 minute')};
my $sliding = "SELECT $hop AS win, k, 100 / sum(CASE WHEN v > 7 THEN 1 ELSE 0 END) AS mean FROM events GROUP BY 1, k";
create('sliding', $sliding, max_offsets_per_trigger => 100);
process($node, 'sliding');
is_equal_tables($node, 'SELECT * FROM sliding', "SELECT win, k, 100 / n FROM (SELECT $hop AS win, k, sum(CASE WHEN v > 7 THEN 1 ELSE 0 END) AS n FROM events GROUP BY 1, k) x
	WHERE n > 0 AND upper(win) <= '2026-01-01 00:58:19Z'", 'windows that slide: the sink has all other groups');
cmp_ok(value(q{SELECT count(*) FROM stream_agg.failed_windows WHERE stream = 'sliding'}), '>', 0, 'there are some');
drop('sliding');
create('in_sessions', q{SELECT stream_agg.session(ts, '2500 milliseconds') AS win, k, 100 / sum(CASE WHEN v > 4 THEN 1 ELSE 0 END) AS mean FROM events GROUP BY 1, k});
process($node, 'in_sessions');
is_equal_tables($node, 'SELECT * FROM in_sessions', q{
	SELECT tstzrange(min(ts), max(ts) + '2500 milliseconds') AS win, k, 100 / sum(CASE WHEN v > 4 THEN 1 ELSE 0 END) AS mean
	  FROM (SELECT ts, k, v, count(*) FILTER (WHERE begins) OVER (PARTITION BY k ORDER BY ts) AS number
	          FROM (SELECT ts, k, v, ts - lag(ts) OVER (PARTITION BY k ORDER BY ts) > '2500 milliseconds' AS begins FROM events) x) y
	 GROUP BY k, number
	HAVING sum(CASE WHEN v > 4 THEN 1 ELSE 0 END) > 0 AND max(ts) + '2500 milliseconds' <= '2026-01-01 00:58:19Z'}, 'sessions: the sink has all other groups');
cmp_ok(value(q{SELECT count(*) FROM stream_agg.failed_windows WHERE stream = 'in_sessions'}), '>', 0, 'there are some');
drop('in_sessions');

# --- a topic as sink
create('to_topic', sprintf($divide, '', ''), sink => "'results'", max_offsets_per_trigger => 100, options => '{"on_error": "dead_letter", "delivery": "at_least_once"}');
process($node, 'to_topic');
is_equal_tables($node, 'SELECT win, k, mean FROM results', sprintf($divide, "WHERE $closed", 'HAVING sum(v) > 0'), 'a topic as sink has each of the others once');
cmp_ok(value(q{SELECT count(*) FROM stream_agg.failed_windows WHERE stream = 'to_topic'}), '>', 3, 'without those that failed');
value(q{SELECT stream_agg.drop_stream('to_topic')});

# --- a worker that is killed while it tries again
value(q{
	CREATE TABLE slowly (win tstzrange, k int, mean bigint CHECK (mean > 0));
	CREATE FUNCTION wait_a_little() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
	CREATE TRIGGER slow BEFORE INSERT ON slowly FOR EACH STATEMENT EXECUTE FUNCTION wait_a_little()});
create('slowly', sprintf($summed, 'sum', '', ''), max_offsets_per_trigger => 150);
for (1 .. 3)
{
	my $n = value(q{SELECT count(*) FROM slowly});
	$node->poll_query_until('postgres', "SELECT count(*) > $n OR (SELECT lag = 0 FROM pg_stat_stream_agg) FROM slowly");
	my $pid = value(q{SELECT pid FROM pg_stat_stream_agg WHERE stream = 'slowly' AND pid IS NOT NULL});
	kill_backends($node, $pid) if $pid;
}
process($node, 'slowly');
check('slowly', sprintf($summed, 'sum', "WHERE $closed", 'HAVING sum(v) > 0'), sprintf($groups, $tumble), 'killed workers');
drop('slowly');

# --- what is not the fault of a group
value(q{CREATE TABLE broken (win tstzrange, k int, mean bigint CHECK (false))});
value(q{ALTER SYSTEM SET stream_agg.max_poison_in_row = 5; SELECT pg_reload_conf()});
create('broken', sprintf($summed, 'sum', '', ''), max_offsets_per_trigger => 20);
wait_state($node, 'broken', 'failed', 'more than 5 groups in a row have failed when their windows closed');
cmp_ok(value(q{SELECT count(*) FROM stream_agg.failed_windows WHERE stream = 'broken'}), '<=', 5, 'a sink that takes nothing fails the stream');
value(q{ALTER TABLE broken DROP CONSTRAINT broken_check; SELECT stream_agg.start_stream('broken')});
process($node, 'broken');
is(value(q{SELECT (SELECT count(*) FROM broken) + (SELECT count(*) FROM stream_agg.failed_windows WHERE stream = 'broken')}),
	value("SELECT count(*) FROM (SELECT FROM events WHERE $closed GROUP BY $tumble, k) g"), 'mended it goes on, and each group is in one of the two');
drop('broken');
value('ALTER SYSTEM RESET stream_agg.max_poison_in_row; SELECT pg_reload_conf()');
value(q{CREATE TABLE again (win tstzrange, k int, mean bigint, UNIQUE NULLS NOT DISTINCT (win, k));
	INSERT INTO again SELECT stream_agg.tumble(ts, '1 minute'), k, 0 FROM events GROUP BY 1, 2});
create('again', sprintf($summed, 'sum', '', ''));
wait_state($node, 'again', 'failed', 'duplicate key');
is(value(q{SELECT count(*) FROM stream_agg.failed_windows WHERE stream = 'again'}), 0, 'a row that is there already is no failed window');
drop('again');

# --- a sink for which different keys are one
value(q{
	CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE TABLE by_case (win tstzrange, kt text COLLATE any_case, n bigint, PRIMARY KEY (win, kt));
	CREATE TABLE by_char (win tstzrange, kt char(5), n bigint, UNIQUE (kt, win));
	CREATE TABLE by_index (win tstzrange, kt text, n bigint);
	CREATE UNIQUE INDEX ON by_index (win, kt COLLATE any_case);
	CREATE TABLE by_second (win timestamptz(0), kt text, n bigint, PRIMARY KEY (win, kt));
	CREATE TABLE by_number (win tstzrange, kt numeric(5, 0), n bigint, PRIMARY KEY (win, kt))});
my %confusing = (by_case => [ 'text', $tumble ], by_char => [ 'text', $tumble ], by_index => [ 'text', $tumble ],
	by_second => [ 'text', q{stream_agg.tumble_start(ts, '100 milliseconds')} ], by_number => [ 'numeric', $tumble ]);
for my $sink (sort keys %confusing)
{
	my ($type, $window) = @{ $confusing{$sink} };
	my $call = "SELECT stream_agg.create_stream('$sink', \$q\$SELECT $window AS win, k::$type AS kt, count(*) AS n FROM events GROUP BY 1, 2\$q\$, watermark => '1 minute', start => false)";
	like(($node->psql('postgres', $call))[2], qr/ERROR:  unique index ".*" of sink "$sink" can make different keys equal/, "$sink is refused");
}
value(q{
	CREATE TABLE fitting (id bigserial PRIMARY KEY, win tstzrange, kt text, n bigint UNIQUE DEFERRABLE, UNIQUE (win, kt));
	CREATE UNIQUE INDEX ON fitting (id, (lower(kt)));
	SELECT stream_agg.create_stream('fitting', $q$SELECT stream_agg.tumble(ts, '1 minute') AS win, k::text AS kt, count(*) AS n FROM events GROUP BY 1, 2$q$, watermark => '1 minute', start => false)});
pass('others are taken');
drop('fitting');
value(q{CREATE TABLE changed (win tstzrange, k int, kt text COLLATE any_case, PRIMARY KEY (win, k))});
create('changed', "SELECT $tumble AS win, k FROM events GROUP BY 1, 2", start => 'false');
value('ALTER TABLE changed DROP CONSTRAINT changed_pkey, ADD PRIMARY KEY (win, kt)');
like(($node->psql('postgres', "SELECT stream_agg.alter_stream('changed', query => \$q\$SELECT $tumble AS win, k::text AS kt FROM events GROUP BY 1, 2\$q\$, drop_columns => true)"))[2], qr/ERROR/, 'nor does alter_stream take it');
drop('changed');

# --- on_error fail, the default
create('fails', sprintf($divide, '', ''), options => '{}');
wait_state($node, 'fails', 'failed', 'division by zero');
like(value(q{SELECT last_error FROM pg_stat_stream_agg WHERE stream = 'fails'}), qr/HINT:  To continue without such records, or such windows, set the option on_error/, 'by default such a group stops the stream');
value(q{SELECT stream_agg.alter_stream('fails', '{"on_error": "dead_letter"}'); SELECT stream_agg.start_stream('fails')});
process($node, 'fails');
check('fails', sprintf($divide, "WHERE $closed", 'HAVING sum(v) > 0'), sprintf($groups, $tumble), 'altered, it goes on');
drop('fails');

# --- a group that no partition of the sink takes
value(q{CREATE TABLE parted (win tstzrange, k int, n bigint) PARTITION BY LIST (k); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (0, 1, 3)});
create('parted', "SELECT $tumble AS win, k, count(*) AS n FROM events GROUP BY 1, 2", options => '{"on_error": "skip"}', output_mode => "'append'");
process($node, 'parted');
is_equal_tables($node, 'SELECT * FROM parted', "SELECT $tumble AS win, k, count(*) AS n FROM events WHERE $closed AND k <> 2 GROUP BY 1, 2", 'groups that a partition takes are in the sink');
is(value(q{SELECT count(*) > 0, count(*) = count(*) FILTER (WHERE error ~ '^no partition of relation "parted" found') FROM stream_agg.failed_windows WHERE stream = 'parted'}), 't|t',
	'the others are failed windows');
drop('parted');

# --- of many groups that are not in memory, each is read a few times only, whatever
# their number and that of those that fail
{
	my ($groups, $failing) = (4000, 100);
	$broker->create_topic('many', 1);
	create_source($node, $broker, 'many', 'many', 'ts timestamptz, k int');
	$node->append_conf('postgresql.conf', "stream_agg.batch_memory = 1MB\nwork_mem = 1MB");
	$node->reload;
	create('many_groups', "SELECT stream_agg.tumble(ts, '1 minute') AS win, repeat('x', 700) || k AS k, 1 / sum(k % ($groups / $failing)) AS n FROM many GROUP BY 1, 2",
		options => '{"on_error": "skip"}', output_mode => "'append'");
	$broker->produce('many', map { qq({"ts":"2026-01-01T00:00:00Z","k":$_}) } 1 .. $groups);
	process($node, 'many_groups');
	my $pid = worker_pid($node, 'many_groups');
	my $read = sub { my ($bytes) = slurp_file("/proc/$pid/io") =~ /^rchar: (\d+)/m; return $bytes; };
	my $before = $read->();
	$broker->produce('many', '{"ts":"2026-01-01T01:00:00Z","k":1}');
	process($node, 'many_groups');
	my $megabytes = int(($read->() - $before) / 1e6);
	is(value('SELECT count(*) FROM many_groups'), $groups - $failing, 'many groups: those that do not fail are in the sink');
	is(value(q{SELECT count(*) FROM stream_agg.failed_windows WHERE stream = 'many_groups'}), $failing, 'many groups: the others are failed windows');
	diag("figures: many groups: the worker has read $megabytes MB");
	cmp_ok($megabytes, '<', 200, 'M4: many groups: the worker does not read all of them for each that fails');
	drop('many_groups');
}

# --- the text of a key may be of megabytes, of which a failed window keeps the start
{
	my $groups = 1600;
	$broker->create_topic('long_keys', 1);
	create_source($node, $broker, 'long_keys', 'long_keys', 'ts timestamptz, k numeric, j jsonb, v int');
	create('long_keys_s', q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, j, 1 / sum(v) AS n FROM long_keys GROUP BY 1, 2, 3}, options => '{"on_error": "skip"}', output_mode => "'append'");
	process($node, 'long_keys_s');
	my $pid = worker_pid($node, 'long_keys_s');
	my $peak = sub { my ($kb) = slurp_file("/proc/$pid/status") =~ /VmHWM:\s+(\d+)/; return $kb / 1024; };
	# each of 131 kB, and a group that does not fail after each
	$broker->produce('long_keys', (map { (qq({"ts":"2026-01-01T00:00:00Z","k":${_}e131000,"j":[1e131000,$_],"v":0}), qq({"ts":"2026-01-01T00:00:00Z","k":$_,"v":1})) } 1 .. $groups),
		'{"ts":"2026-01-01T01:00:00Z","k":1,"v":1}');
	my $before = $peak->();
	process($node, 'long_keys_s');
	my $megabytes = int($peak->() - $before);
	is(value(q{SELECT count(*), min(length(keys[1])), max(length(keys[2])) FROM stream_agg.failed_windows WHERE stream = 'long_keys_s'}), "$groups|500|500", 'long keys: failed windows have the starts of their texts');
	diag("figures: long keys: $megabytes MB more");
	cmp_ok($megabytes, '<', 150, 'long keys: the worker does not keep the rest');
	drop('long_keys_s');

	value('ALTER SYSTEM SET stream_agg.max_dead_letters = 5; SELECT pg_reload_conf()');
	create('long_keys_s', q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, 1 / sum(v) AS n FROM long_keys GROUP BY 1, 2}, options => '{"on_error": "skip"}', output_mode => "'append'");
	wait_state($node, 'long_keys_s', 'failed', 'the stream would have more than 5 failed windows');
	is(value(q{SELECT count(*) FROM stream_agg.failed_windows}), 0, 'too many failed windows stop the stream before they are all found');
	like(value(q{SELECT last_error FROM pg_stat_stream_agg}), qr/Perhaps the query or the sink is wrong/, 'which says so');
	value('ALTER SYSTEM RESET stream_agg.max_dead_letters; SELECT pg_reload_conf()');
	drop('long_keys_s');
}

done_testing();
