# Kinds of sinks that a library outside of stream_agg registers, by the installed
# header alone: what their flags promise, what is refused, and what becomes of rows
# when a batch, its commit or the kind itself fails.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::FileSink;
use StreamAgg::Test;
use Test::More;

my $rng = seeded_random();
my $broker = start_broker(events => 2);
my $node = new_node('sink_kinds', 'stream_agg.max_retry_delay = 100', 'stream_agg.max_attempts = 1000000', 'timezone = UTC');
sub value { return $node->safe_psql('postgres', $_[0]); }

sub refused
{
	my ($sql, $pattern, $name) = @_;
	my ($status, undef, $error) = $node->psql('postgres', $sql);
	isnt($status, 0, "refused: $name");
	like($error, $pattern, "with the reason: $name");
	return;
}

sub create
{
	my ($stream, $query, $sink, %args) = @_;
	my $more = join '', map { ", $_ => $args{$_}" } sort keys %args;
	return "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, sink => '$sink', trigger => '0' $more)";
}

my $minutes = 0;
my $produced = 0;
sub produce
{
	my ($n) = @_;
	for (1 .. $n // 1)
	{
		$broker->produce('events', map {
			[ $_ % 2, '', sprintf('{"ts":"2026-01-01T%02d:%02d:%02dZ","k":%d,"v":%d}', int($minutes / 60), $minutes % 60, 3 * $_, $rng->(5), $rng->(100)) ]
		} 0 .. 19);
		$minutes++;
		$produced += 20;
	}
	return;
}
produce(5);
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');
declare_file_sinks($node);

my $windows = q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n FROM events GROUP BY 1, 2};
my $by_key = q{SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k};
my $plain = 'SELECT ts, k, v FROM events';
my $once = q{'{"delivery": "at_least_once"}'};

# --- registration
value(qq{CREATE FUNCTION $_() RETURNS void LANGUAGE c AS '$ENV{FILE_SINK}'}) for qw(register_another_version register_false_promise register_again);
refused('SELECT register_another_version()', qr/ERROR:  sink kind "file_sink of tomorrow" is made for version 2 of the interface of sinks, but stream_agg has version 1\nHINT:  Compile/, 'a kind of another version of the header');
refused('SELECT register_false_promise()', qr/ERROR:  sink kind "file_sink that forgets" promises every row exactly once and lacks prepare, committed or recover/, 'a promise without what keeps it');
refused('SELECT register_again()', qr/ERROR:  sink kind "file_sink" is registered already/, 'a kind that is there');

# --- what flags say is refused, and what the kind itself refuses
create_file_sink($node, 'minutes', 'files', 'win tstzrange, k int, n bigint');
create_file_sink($node, 'keys', 'files', 'k int, n bigint, total bigint');
create_file_sink($node, 'logged', 'logs', 'ts timestamptz, k int, v int');
my $update = q{'update'};
refused(create('x', $by_key, 'keys', output_mode => q{'complete'}), qr/output mode "complete" needs a table as its sink\nDETAIL:  It changes and deletes rows, and lines of a file stay as they are/, 'mode complete');
refused(create('x', "$by_key HAVING count(*) > 3", 'keys', output_mode => $update), qr/HAVING is not supported in output mode "update" with a directory of files as the sink/, 'rows that would be taken back');
refused(create('x', $by_key, 'keys', output_mode => $update, options => $once), qr/delivery "at_least_once" is for sinks that are Kafka topics\nDETAIL:  "keys" is not a Kafka topic/, 'at_least_once for a kind that is exactly once');
refused(create('x', $plain, 'logged'), qr/sink "logged" is a log file, which does not get every row exactly once\nDETAIL:  A micro-batch that is retried appends its lines again/, 'a kind that is not, without the option');
refused(create('x', $windows, 'minutes', watermark => q{'1 minute'}, options => q{'{"retention": "1 hour"}'}), qr/retention is for streams that write windows into a table/, 'retention');
refused(create('x', $plain, 'keys'), qr/sink "keys" has no column "ts"/, 'columns that are not there');
value(q{CREATE FOREIGN TABLE nowhere (ts timestamptz, k int, v int) SERVER files OPTIONS (directory '/nowhere')});
refused(create('x', $plain, 'nowhere'), qr{stream "x" cannot write 3 columns into "/nowhere", which is not a directory}, 'what the kind checks');
value(q{CREATE FOREIGN DATA WRAPPER nobodys; CREATE SERVER nobodys FOREIGN DATA WRAPPER nobodys; CREATE FOREIGN TABLE nobodys (ts timestamptz, k int, v int) SERVER nobodys});
refused(create('x', $plain, 'nobodys'), qr/"nobodys" cannot be the sink of a stream/, 'a foreign table that is of no kind');

# --- rows arrive, in each mode that there is
value(create('minutes_made', $windows, 'minutes', watermark => q{'1 minute'}));
value(create('keys_made', $by_key, 'keys', output_mode => $update));
value(create('logged_made', $plain, 'logged', options => $once));
for (1 .. 3) { produce(2); process($node, $_) for qw(minutes_made keys_made logged_made); }
my $closed = "SELECT * FROM ($windows) w WHERE upper(win) <= (SELECT watermark FROM stream_agg.commits WHERE stream = 'minutes_made' ORDER BY batch DESC LIMIT 1)";
is_equal_tables($node, 'SELECT win, k, n FROM ' . load_lines($node, 'minutes'), $closed, 'append: files have the rows of closed windows');
cmp_ok(scalar(lines_of($node, 'minutes')), '>', 20, 'of many rows');
my $last = sub { return 'SELECT DISTINCT ON (k) k, n, total FROM ' . load_lines($node, 'keys') . ' ORDER BY k, batch DESC'; };
is_equal_tables($node, 'SELECT * FROM (' . $last->() . ') x', $by_key, 'update: the last line of each group is its result');
is_equal_tables($node, 'SELECT ts, k, v FROM ' . load_lines($node, 'logged'), $plain, 'a kind without a commit has all rows, too');
is(value(q{SELECT rows_out FROM pg_stat_stream_agg WHERE stream = 'minutes_made'}), scalar(lines_of($node, 'minutes')), 'rows are counted');
is(join(' ', map { files_of($node, $_, '.prepared') } qw(minutes keys)), '', 'nothing is left of the commits');

# --- functions that need rows in a table
refused(q{SELECT stream_agg.reset_stream('minutes_made', 'earliest', results => true)}, qr/results of stream "minutes_made" cannot be replaced\nDETAIL:  Its sink is a directory of files, from which records cannot be removed.\nHINT:  Reset it without results: the directory gets the new results/, 'results that are computed again');
refused(q{SELECT stream_agg.repair_late('minutes_made')}, qr/DETAIL:  Its sink is a directory of files, in which no record can be replaced/, 'repair_late');
refused(q{SELECT stream_agg.create_live_view('minutes_made')}, qr/DETAIL:  Its sink is a directory of files, whose contents are not of the same moment/, 'a live view');
produce();
my (undef, undef, $notice) = $node->psql('postgres', q{SELECT stream_agg.stop_stream('logged_made'); SELECT count(*) FROM stream_agg.preview('logged_made')});
like($notice, qr/The sink was not tried, for it is a log file, which does not roll back/, 'preview does not try a sink that cannot be rolled back');
value(q{SELECT stream_agg.start_stream('logged_made')});
process($node, 'logged_made');
is_equal_tables($node, 'SELECT ts, k, v FROM ' . load_lines($node, 'logged'), $plain, 'and has written nothing');

# --- a reader that streams share: one is prepared, and another fails
create_file_sink($node, 'shared', 'files', 'ts timestamptz, k int, v int');
value(q{CREATE TABLE guarded (ts timestamptz, k int, v int);
	CREATE TABLE guard (closed bool); INSERT INTO guard VALUES (false);
	CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF (SELECT closed FROM guard) THEN RAISE 'the gate is closed'; END IF; RETURN NULL; END $$;
	CREATE TRIGGER look AFTER INSERT ON guarded FOR EACH STATEMENT EXECUTE FUNCTION look()});
value(create('a_shared', $plain, 'shared', reader => q{'both'}));
value(create('b_guarded', $plain, 'guarded', reader => q{'both'}));
process($node, $_) for qw(a_shared b_guarded);
ok($node->poll_query_until('postgres', q{SELECT count(DISTINCT pid) = 1 AND count(pid) = 2 FROM pg_stat_stream_agg WHERE stream IN ('a_shared', 'b_guarded')}), 'two streams share a reader');
value('UPDATE guard SET closed = true');
produce();
wait_state($node, 'b_guarded', 'retrying', 'the gate is closed');
my %seen = map { $_ => 1 } lines_of($node, 'shared');
is(scalar(keys %seen), scalar(lines_of($node, 'shared')), 'while one of them fails the other one has no line twice');
value('UPDATE guard SET closed = false');
process($node, $_) for qw(a_shared b_guarded);
is_equal_tables($node, 'SELECT ts, k, v FROM ' . load_lines($node, 'shared'), $plain, 'and then each row once');
is_equal_tables($node, 'SELECT * FROM guarded', $plain, 'as in the table');

# --- a kind that fails after the COMMIT finishes in a later session
value(q{SELECT stream_agg.drop_stream(s) FROM unnest(ARRAY['a_shared', 'b_guarded', 'logged_made', 'keys_made']) s});
process($node, 'minutes_made');
my $next = 1 + value(q{SELECT max(batch) FROM stream_agg.commits WHERE stream = 'minutes_made'});
my $obstacle = $node->basedir . "/sink_minutes/$next.rows";
mkdir $obstacle or die "$obstacle: $!";
produce();
wait_state($node, 'minutes_made', 'retrying', 'Is a directory');
is(value(q{SELECT max(batch) FROM stream_agg.commits WHERE stream = 'minutes_made'}), $next, 'a kind that fails after the COMMIT does not take it back');
is(join(' ', files_of($node, 'minutes', '.prepared')), "$next.prepared", 'its rows stay prepared');
rmdir $obstacle or die "$obstacle: $!";
produce();
process($node, 'minutes_made');
is_equal_tables($node, 'SELECT win, k, n FROM ' . load_lines($node, 'minutes'), $closed, 'and are there, each once, when it can');

# --- groups that fail are left out, and nothing else is written twice
create_file_sink($node, 'careful', 'logs', 'win tstzrange, k int, n bigint, part bigint');
value(q{SELECT stream_agg.drop_stream('minutes_made')});
my $careful = $windows =~ s/count\(\*\) AS n/count(*) AS n, 100 \/ sum(v - 50) AS part/r =~ s/FROM events/FROM events WHERE v <> 50 OR k <> 2/r;
$broker->produce('events', [ 0, '', '{"ts":"2026-01-01T00:01:00Z","k":77,"v":50}' ]);
value(create('careful_made', $careful, 'careful', watermark => q{'1 minute'}, options => q{'{"delivery": "at_least_once", "on_error": "skip"}'}));
process($node, 'careful_made');
produce(2);
process($node, 'careful_made');
my $lines = load_lines($node, 'careful');
is(value("SELECT count(*) - count(DISTINCT (win, k)) FROM $lines"), 0, 'groups that fail: those of the batch that do not are written once');
is(value(q{SELECT count(*) FROM stream_agg.failed_windows WHERE stream = 'careful_made' AND keys = '{77}'}), 1, 'and the others are in failed_windows');
is(value("SELECT count(*) FROM $lines WHERE k = 77"), 0, 'and not in the sink');
value(q{SELECT stream_agg.drop_stream('careful_made')});

# --- what takes the number of a batch that did not end does not make it committed
my $taken = create_file_sink($node, 'taken', 'files', 'k int, n bigint, m int');
value(create('taken_made', 'SELECT k, count(*) AS n FROM events GROUP BY k', 'taken', output_mode => $update));
process($node, 'taken_made');
my %takes = (
	alter_stream => q{SELECT stream_agg.alter_stream('taken_made', query => 'SELECT k, count(*) AS n, max(v) AS m FROM events GROUP BY k')},
	reset_stream => q{SELECT stream_agg.reset_stream('taken_made', 'latest')});
for my $function (sort keys %takes)
{
	value(q{SELECT stream_agg.stop_stream('taken_made')});
	my $number = 1 + value(q{SELECT max(batch) FROM stream_agg.commits WHERE stream = 'taken_made'});
	append_to_file("$taken/$number.prepared", "$number\t-1\t0\t0\n");
	value($takes{$function});
	is(value(q{SELECT max(batch) FROM stream_agg.commits WHERE stream = 'taken_made'}), $number, "$function takes the number of a batch that was only prepared");
	value(q{SELECT stream_agg.start_stream('taken_made')});
	produce();
	process($node, 'taken_made');
	is(join(' ', grep { /\t-1\t/ } lines_of($node, 'taken')), '', "$function: its rows are never seen");
	is(join(' ', files_of($node, 'taken', '.prepared')), '', "$function: nor left");
}
value(q{SELECT stream_agg.drop_stream('taken_made')});

# --- privileges are those of an INSERT, at any time
create_file_sink($node, 'lent', 'files', 'ts timestamptz, k int, v int');
value(q{CREATE ROLE writer LOGIN; GRANT ALL ON SCHEMA public TO writer; GRANT SELECT ON events TO writer});
refused('SET ROLE writer; ' . create('lent_made', $plain, 'lent'), qr/permission denied for sink "lent"\nDETAIL:  The stream's owner needs INSERT on it/, 'a role that may not insert');
value('GRANT INSERT ON lent TO writer');
value('SET ROLE writer; ' . create('lent_made', $plain, 'lent'));
process($node, 'lent_made');
my $had = lines_of($node, 'lent');
is($had, value("SELECT count(*) FROM events"), 'with INSERT it has its rows');
value('REVOKE INSERT ON lent FROM writer');
produce();
wait_state($node, 'lent_made', 'retrying', 'permission denied for sink "lent"');
is(scalar(lines_of($node, 'lent')), $had, 'without it there is no row more');
is(join(' ', files_of($node, 'lent', '.prepared')), '', 'nor one that is prepared');

done_testing();
