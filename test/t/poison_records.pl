# Records whose processing fails, by an error of an expression, of an aggregate or
# of the sink, or by the end of the worker: they are found and left out, and they
# alone.  The oracle is the batch query over the other records.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 3);
my $node = new_node('poison', 'restart_after_crash = on', 'stream_agg.keep_batches = 1000000', 'timezone = UTC');
my $rng = seeded_random();
my $columns = 'ts timestamptz, k int, v int';
$node->safe_psql('postgres', "CREATE FUNCTION crash_on(int, int) RETURNS int IMMUTABLE STRICT LANGUAGE c AS '$ENV{CRASH_ON}'");

# --- records: each has a number of its own in v
my $records = 600;
my %bad;
$bad{ $rng->($records) } = 1 while keys %bad < 5;
$bad{0} = $bad{ $records - 1 } = 1;    # the first and the last, and two in a row
my $twin = 100 + $rng->(400);
$bad{$twin} = $bad{ $twin + 1 } = 1;
my @produced = map {
	[ $rng->(3), '', sprintf('{"ts":"2026-01-01T00:%02d:00Z","k":%d,"v":%d}', int($_ / 10), $rng->(10), $_) ]
} 0 .. $records - 1;
$broker->produce('events', @produced);
create_source($node, $broker, 'events', 'events', $columns);
my $list = join(',', sort { $a <=> $b } keys %bad);
my $is_bad = "v IN ($list)";
note("bad: $list");

sub create
{
	my ($stream, $query, %args) = @_;
	my $options = $args{options} // '{"on_error": "dead_letter"}';
	my $more = join '', map { ", $_ => $args{$_}" } grep { $_ ne 'options' } sort keys %args;
	$args{output_mode} or $more .= ", output_mode => 'update'";
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, trigger => '0', options => '$options' $more)");
	return;
}

sub value { return $node->safe_psql('postgres', $_[0]); }
sub drop { value("SELECT stream_agg.drop_stream('$_[0]', drop_sink => true)"); return; }
sub last_error { return value("SELECT last_error FROM pg_stat_stream_agg WHERE stream = '$_[0]'"); }

sub letters
{
	return value(qq{SELECT string_agg(v, ',' ORDER BY v::numeric) FROM (SELECT convert_from(value, 'UTF8')::jsonb ->> 'v' AS v
		FROM stream_agg.dead_letters WHERE stream = '$_[0]') x});
}

# What must hold of a stream over all records when it is through.
sub check
{
	my ($stream, $oracle, $what, $bad) = @_;
	$bad //= $list;
	my $n = () = $bad =~ /\d+/g;
	is_equal_tables($node, "SELECT * FROM $stream", $oracle, "$what: the table is the batch query over the other records");
	is(letters($stream), $bad, "$what: the dead letters are those records");
	counts_add_up($node, $stream, $records, "$what: the counts add up");
	is(value("SELECT total_dead_lettered FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1"), $n, "$what: exactly");
	is(value(qq{SELECT count(*) FROM stream_agg.offsets JOIN stream_agg.commits USING (stream, batch)
		WHERE stream = '$stream' AND dead_lettered > 0 AND (delivered <> 1 OR aggregated <> 0)}), 0,
		"$what: a record that is left out is alone in its micro-batch");
	return;
}

# --- an expression
my $sum = 'SELECT k, count(*) AS n, sum(v) AS total FROM events %s GROUP BY k';
my $good = sprintf($sum, "WHERE NOT $is_bad");
my $divide = "SELECT k, count(*) AS n, sum(v + 0 * (1 / (CASE WHEN $is_bad THEN 0 ELSE 1 END))) AS total FROM events GROUP BY k";
for my $size (0, 7, 1)
{
	create("divided_$size", $divide, $size ? (max_offsets_per_trigger => $size) : ());
	process($node, "divided_$size");
	check("divided_$size", $good, 'an expression, batches of ' . ($size || 'all'));
}
is(value(q{SELECT string_agg(DISTINCT error, ',') FROM stream_agg.dead_letters}), 'division by zero', 'the reason is the error');
is(value(q{SELECT suspects IS NULL FROM stream_agg.offsets WHERE stream = 'divided_0' ORDER BY batch DESC LIMIT 1}), 't', 'the search is over');
drop("divided_$_") for 0, 7, 1;

create('skipped', $divide, options => '{"on_error": "skip"}');
process($node, 'skipped');
is_equal_tables($node, 'SELECT * FROM skipped', $good, 'skip: the table is the batch query over the other records');
is(letters('skipped'), '', 'skip: no dead letters');
counts_add_up($node, 'skipped', $records, 'skip: the counts add up');
drop('skipped');

create('failing', $divide, options => '{}');
wait_state($node, 'failing', 'retrying', 'division by zero');
is(value(q{SELECT count(*) FROM stream_agg.commits WHERE stream = 'failing'}), 0, 'fail: the batch is retried as it is');
is(value(q{SELECT count(*) FROM stream_agg.offsets WHERE stream = 'failing' AND suspects IS NULL AND attempts = 0}), 1, 'fail: by its plan');
drop('failing');

# --- what a trigger may read is done by it: none waits for the next because a record
# is left out, and it reads no more
for my $case ([ 'patient', '' ], [ 'patient_many', ', "min_offsets_per_trigger": 300, "max_trigger_delay": "20 days"' ])
{
	my ($stream, $more) = @$case;
	value("SELECT stream_agg.create_stream('$stream', \$q\$$divide\$q\$, output_mode => 'update', trigger => '20 days', max_offsets_per_trigger => 400, options => '{\"on_error\": \"dead_letter\"$more}')");
	ok($node->poll_query_until('postgres', "SELECT max(total_delivered) >= 400 FROM stream_agg.commits WHERE stream = '$stream'"), "$stream: one trigger reads all that it may");
	process($node, $stream);
	is(value("SELECT count(*) FROM stream_agg.commits WHERE stream = '$stream' AND total_delivered = 400"), 1, "$stream: and no more");
	check($stream, $good, "$stream: a trigger with a limit");
	drop($stream);
}

# --- a constraint of the sink, and a trigger: nobody knows the record there, so
# it is found by halves
value(q{CREATE TABLE guarded (k int, n bigint, total bigint, worst int, UNIQUE NULLS NOT DISTINCT (k), CHECK (worst < 1000))});
my $guarded = "SELECT k, count(*) AS n, sum(v) AS total, max(CASE WHEN $is_bad THEN 1000 ELSE 0 END) AS worst FROM events %s GROUP BY k";
my $log = -s $node->logfile;
create('guarded', sprintf($guarded, ''));
process($node, 'guarded');
check('guarded', sprintf($guarded, "WHERE NOT $is_bad"), 'a constraint of the sink');
my $tries = () = slurp_file($node->logfile, $log) =~ /is retried with \d+ of its \d+ offsets/g;
cmp_ok($tries, '<=', 10 * keys %bad, "found by halves ($tries attempts)");
cmp_ok($tries, '>=', 6, 'and not at once');
drop('guarded');
value(q{
	CREATE TABLE triggered (k int, n bigint, total bigint, worst int, UNIQUE NULLS NOT DISTINCT (k));
	CREATE FUNCTION complain() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.worst >= 1000 THEN RAISE 'too bad' USING ERRCODE = 'MY001', DETAIL = 'As bad as can be.'; END IF;
		RETURN NEW;
	END $$;
	CREATE CONSTRAINT TRIGGER complain AFTER INSERT OR UPDATE ON triggered DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION complain()});
create('triggered', sprintf($guarded, ''), max_offsets_per_trigger => 100);
process($node, 'triggered');
check('triggered', sprintf($guarded, "WHERE NOT $is_bad"), 'a deferred trigger of the sink');
is(value(q{SELECT string_agg(DISTINCT concat_ws(E'\nDETAIL:  ', error, detail), ',') FROM stream_agg.dead_letters}), "too bad\nDETAIL:  As bad as can be.", 'with its detail');
drop('triggered');

# --- the same in complete mode
value(q{CREATE TABLE completed (k int, n bigint, total bigint, worst int, UNIQUE NULLS NOT DISTINCT (k), CHECK (worst < 1000))});
create('completed', sprintf($guarded, ''), output_mode => "'complete'");
process($node, 'completed');
check('completed', sprintf($guarded, "WHERE NOT $is_bad"), 'complete mode');
drop('completed');

# --- the record that tips a result over: none is bad by itself
$broker->create_topic('sums', 1);
create_source($node, $broker, 'sums', 'sums', 'k int, v bigint');
$broker->produce('sums', map { [ 0, '', "{\"k\":1,\"v\":$_}" ] } 10, 20, '9223372036854775790', 5, 2, 3);
create('tipped', 'SELECT k, count(*) AS n, sum(v)::bigint AS total FROM sums GROUP BY k');
process($node, 'tipped');
is(value('SELECT * FROM tipped'), '1|5|40', 'the record that makes a sum too large is left out');
is(letters('tipped'), '9223372036854775790', 'it alone');
drop('tipped');

# --- the record whose input is more than an aggregate may keep in one group
$broker->create_topic('inputs', 1);
create_source($node, $broker, 'inputs', 'inputs', $columns);
$broker->produce('inputs', map { [ 0, '', "{\"k\":1,\"v\":$_}" ] } 10, 300_000_000, 20);
create('inputs_kept', q{SELECT k, cardinality(array_agg(repeat('x', v) ORDER BY v)) AS n FROM inputs GROUP BY k});
process($node, 'inputs_kept');
is(letters('inputs_kept'), '300000000', 'the record that brings more than a group may keep is left out');
is(value('SELECT n FROM inputs_kept'), 2, 'and the stream goes on without it');
like(value(q{SELECT error FROM stream_agg.dead_letters WHERE stream = 'inputs_kept'}), qr/^the inputs of aggregate array_agg in one group exceed 256 MB/, 'with the reason');
drop('inputs_kept');

# --- an error that stays without the record is none of the record's
$node->append_conf('postgresql.conf', 'stream_agg.max_attempts = 3');
$node->reload;
value('CREATE TABLE divisors (n int); INSERT INTO divisors VALUES (1)');
create('divisors_read', 'SELECT k, sum(v) / (SELECT n FROM divisors) AS total FROM sums GROUP BY k', output_mode => "'complete'");
process($node, 'divisors_read');
value('UPDATE divisors SET n = 0');
$broker->produce('sums', '{"k":2,"v":1}');
wait_state($node, 'divisors_read', 'failed', '^division by zero');
is(letters('divisors_read'), '', 'an error that stays without the record fails the stream');
value(q{UPDATE divisors SET n = 1; SELECT stream_agg.start_stream('divisors_read')});
process($node, 'divisors_read');
is_equal_tables($node, 'SELECT * FROM divisors_read', 'SELECT k, sum(v) FROM sums GROUP BY k', 'and mended it goes on with all of them');
drop('divisors_read');
$node->append_conf('postgresql.conf', 'stream_agg.max_attempts = 1000');
$node->reload;

# --- crashes of the worker
my ($crasher) = grep { $_ > 0 && $_ < $records - 1 } sort { $a <=> $b } keys %bad;
create('crashed', "SELECT k, count(*) AS n, sum(crash_on(v, $crasher)) AS total FROM events GROUP BY k");
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM stream_agg.dead_letters WHERE stream = 'crashed'") or die 'not found';
process($node, 'crashed');
check('crashed', sprintf($sum, "WHERE v <> $crasher"), 'a crash', $crasher);
is(value(q{SELECT error FROM stream_agg.dead_letters}), '3 workers have ended while they processed the record', 'crashes are counted');
sub crashes { my $n = () = slurp_file($node->logfile) =~ /was terminated by signal 11/g; return $n; }
is(crashes(), 3, 'it is the record that the worker was at');
drop('crashed');

# --- and one in the sink, where nobody knows the record
value(q{CREATE TABLE exploding (k int, n bigint, total bigint, worst int, UNIQUE NULLS NOT DISTINCT (k), CHECK (crash_on(worst, 1000) IS NOT NULL))});
my $exploding = 'SELECT k, count(*) AS n, sum(v) AS total, max(CASE WHEN v = %d THEN 1000 ELSE 0 END) AS worst FROM events %s GROUP BY k';
create('exploding', sprintf($exploding, $crasher, ''));
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM stream_agg.dead_letters WHERE stream = 'exploding'") or die 'not found';
process($node, 'exploding');
check('exploding', sprintf($exploding, -1, "WHERE v <> $crasher"), 'a crash in the sink', $crasher);
cmp_ok(crashes() - 3, '<=', 3 + 1 + 10 + 3, 'it is found by halves (' . crashes() . ' crashes)');
cmp_ok(crashes() - 3, '>', 6, 'and not at once');
drop('exploding');

# --- restarts and kills in the middle of a search
create('restarted', $divide =~ s/sum\(v/sum(pg_catalog.length(repeat('x', 20000)) - 20000 + v/r, max_offsets_per_trigger => 150);
for my $round (1 .. 4)
{
	my $batches = value(q{SELECT count(*) FROM stream_agg.commits WHERE stream = 'restarted'});
	$node->poll_query_until('postgres', "SELECT count(*) > $batches OR bool_or(total_delivered = $records) FROM stream_agg.commits WHERE stream = 'restarted'");
	if ($round % 2) { $node->restart; }
	else { kill_backends($node, value(q{SELECT pid FROM pg_stat_stream_agg WHERE stream = 'restarted'})); }
}
process($node, 'restarted');
check('restarted', $good, 'restarts and kills');
drop('restarted');

# --- workers that somebody ends, again and again, take no good record with them:
# it needs three at the very same record
value(q{
	CREATE TABLE holding (rest int);
	INSERT INTO holding VALUES (0);
	CREATE FUNCTION held(int) RETURNS int STABLE LANGUAGE plpgsql AS $$
	BEGIN
		WHILE $1 % 50 = (SELECT rest FROM holding) LOOP PERFORM pg_sleep(0.01); END LOOP;
		RETURN $1;
	END $$});
create('killed', 'SELECT k, count(*) AS n, sum(held(v)) AS total FROM events GROUP BY k');
for my $next (0, 13, 13, 26, 39, -1)
{
	my $worker = q{SELECT %s FROM pg_stat_activity WHERE backend_type ~ 'stream_agg worker'};
	$node->poll_query_until('postgres', sprintf("$worker AND wait_event = 'PgSleep'", 'count(*) = 1')) or die 'no worker executes';
	value("UPDATE holding SET rest = $next");    # for the next worker: this one has its snapshot
	kill_backends($node, value(sprintf($worker, 'pid')));
}
process($node, 'killed');
is_equal_tables($node, 'SELECT * FROM killed', sprintf($sum, ''), 'workers that are killed take no good record with them');
is(letters('killed'), '', 'so there are no dead letters');
is(value(q{SELECT count(*) > 0 FROM stream_agg.offsets WHERE stream = 'killed' AND suspects IS NOT NULL}), 't', 'though smaller batches were tried');
drop('killed');

# --- what a record makes a worker write into the log does not grow with its value
$broker->create_topic('texts', 1);
create_source($node, $broker, 'texts', 'texts', 'k text');
value(q{CREATE FUNCTION complain(text) RETURNS uuid STABLE LANGUAGE plpgsql AS $$
	BEGIN
		RAISE WARNING 'complaint of %', $1 USING DETAIL = 'detail of ' || $1, HINT = 'hint of ' || $1;
		IF $1 ~ 'raise' THEN RAISE 'raised %', $1 USING DETAIL = 'detail of ' || $1, HINT = 'hint of ' || $1; END IF;
		EXECUTE 'SELECT no_function($q$' || $1 || '$q$)';
	EXCEPTION WHEN undefined_function THEN
		RETURN $1::uuid;
	END $$});
my $logged = -s $node->logfile;
my $long = "\x{e9}" x 300_000;
utf8::encode($long);
$broker->produce('texts', map { [ 0, '', qq({"k":"$_"}) ] } "x$long", "raise $long");
for my $case ([ 'cast_skipped', 'k::uuid', 'skip' ], [ 'raised_aside', 'complain(k)', 'dead_letter' ])
{
	my ($stream, $expression, $policy) = @$case;
	create($stream, "SELECT $expression AS u, count(*) AS n FROM texts GROUP BY 1", options => qq({"on_error": "$policy"}));
	process($node, $stream);
}
create('cast_fails', 'SELECT k::uuid AS u FROM texts', options => '{"on_error": "fail"}', output_mode => "'append'");
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_stream_agg WHERE stream = 'cast_fails' AND last_error ~ 'invalid input syntax'})
  or die 'the stream does not fail';
my $written = substr slurp_file($node->logfile), $logged;
$written =~ s/^.*LOG:  (?:statement|duration).*$//mg;
cmp_ok(length $written, '<', 200_000, 'log: records of 600 kB each');
my @lines = grep { /\xc3\xa9/ } split /\n/, $written;
cmp_ok(scalar(grep { /complaint of|detail of|hint of/ } @lines), '>=', 3, 'log: what code of the owner says');
is(scalar(grep { length > 2200 } @lines), 0, 'log: no line is long');
is(scalar(grep { !utf8::decode(my $line = $_) } @lines), 0, 'log: and none ends within a character');
like($written, qr/\xc3\xa9\.\.\."?$/m, 'log: what is cut says so');
like($written, qr/CONTEXT: .*\n?.*micro-batch \d+ of stream "cast_skipped"/, 'log: and the context says of which stream');
drop($_) for 'cast_skipped', 'raised_aside', 'cast_fails';

# --- a sink that takes nothing
$node->append_conf('postgresql.conf', 'stream_agg.max_poison_in_row = 5');
$node->reload;
value(q{CREATE TABLE closed (k int, n bigint, total bigint, UNIQUE NULLS NOT DISTINCT (k), CHECK (false))});
create('closed', sprintf($sum, ''));
wait_state($node, 'closed', 'failed', 'the processing of more than 5 records in a row has failed');
like(last_error('closed'), qr/DETAIL:  The last one: new row for relation "closed" violates check constraint/, 'a sink that takes nothing fails the stream');
is(value(q{SELECT count(*) FROM stream_agg.dead_letters WHERE stream = 'closed'}), 5, 'after as many records as the setting says');
value(q{ALTER TABLE closed DROP CONSTRAINT closed_check; SELECT stream_agg.start_stream('closed')});
process($node, 'closed');
is(value(q{SELECT count(*) FROM stream_agg.dead_letters WHERE stream = 'closed'}), 5, 'and mended it goes on');
counts_add_up($node, 'closed', $records, 'with counts that add up');
drop('closed');

done_testing();
