# reset_stream: a stream begins anew, from other offsets; a reader of its table
# never sees a hole, whatever happens meanwhile.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(clicks => 2, other => 1, bad => 1);
my $node = new_node('reset', 'restart_after_crash = on', 'max_worker_processes = 64', 'stream_agg.max_records_per_batch = 100');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET client_min_messages = warning');
create_source($node, $broker, $_, $_, 'ts timestamptz, k int, v int') for qw(clicks bad);
my $random = seeded_random();

my $reader;
END { stop_reader($reader) if $reader }

sub value { return $node->safe_psql('postgres', $_[0]); }

# records of some minutes, in disorder
my $minute = 0;
sub produce
{
	my ($n, $minutes) = @_;
	$broker->produce('clicks', map {
		my $at = $minute * 60 + $random->($minutes * 60);
		[ $_ % 2, '', json_record({ ts => sprintf('2026-01-01T%02d:%02d:%02dZ', $at / 3600, $at / 60 % 60, $at % 60),
			k => $random->(10), v => $random->(100) }, numbers => [qw(k v)]) ] } 1 .. $n);
	$minute += $minutes;
	return;
}

# a record that closes the windows of all before
sub close_windows
{
	$minute += 30;
	$broker->produce('clicks', map { [ $_, '', sprintf('{"ts": "2026-01-01T%02d:%02d:00Z", "k": 99, "v": 0}',
			$minute / 60, $minute % 60) ] } 0, 1);
	$minute += 1;
	return;
}

my %query = (
	windows => q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n, sum(v) AS total FROM clicks GROUP BY 1, k},
	having => q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n FROM clicks GROUP BY 1, k HAVING count(*) < 3});
my %streams = (
	closed => [ 'append', 'windows' ],
	changed => [ 'update', 'windows' ],
	kept => [ 'update', 'having' ],
	whole => [ 'complete', 'windows' ]);
for my $stream (sort keys %streams)
{
	my ($mode, $query) = @{ $streams{$stream} };
	value("SELECT stream_agg.create_stream('$stream', \$q\$$query{$query}\$q\$, output_mode => '$mode',
		watermark => '1 minute', trigger => '20 days')");
}

sub expect
{
	my ($stream, $name) = @_;
	my $open = $streams{$stream}[0] eq 'append' ?
	  " WHERE upper(win) <= (SELECT watermark FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1)" : '';
	return is_equal_tables($node, "SELECT * FROM $stream", "SELECT * FROM ${stream}_query$open", "$stream: $name");
}

produce(300, 10) for 1 .. 3;
close_windows();
process($node, $_) for sort keys %streams;

# a defect: the tables are wrong, and late records were dropped
produce(100, 10);
$minute -= 40;
produce(200, 10);
$minute += 30;
close_windows();
process($node, $_) for sort keys %streams;
cmp_ok(value(q{SELECT rows_late FROM pg_stat_stream_agg WHERE stream = 'closed'}), '>', 0, 'there were late records');
value(q{UPDATE closed SET n = n + 1000; UPDATE changed SET n = n + 1000;
	INSERT INTO changed SELECT tstzrange(t, t + '1 second'), 1, 1, 1
		FROM unnest('{1999-01-01,2026-01-01 00:10:01}'::timestamptz[]) t;
	DELETE FROM kept WHERE k < 5; DELETE FROM whole WHERE k < 5});
my $records = value('SELECT count(*) FROM clicks');

# --- rolled back, a reset leaves everything as it was
my $logs = q{SELECT (SELECT md5(string_agg(o::text, '' ORDER BY batch)) FROM stream_agg.offsets o WHERE stream = 'closed'),
	(SELECT md5(string_agg(c::text, '' ORDER BY batch)) FROM stream_agg.commits c WHERE stream = 'closed'),
	(SELECT md5(string_agg(s::text, '' ORDER BY s.partition, batch, seq)) FROM stream_agg.state s WHERE stream = 'closed'),
	(SELECT s::text FROM stream_agg.sources s WHERE stream = 'closed'),
	(SELECT s::text FROM stream_agg.streams s WHERE stream = 'closed')};
my $before = value($logs);
value(q{BEGIN; SELECT stream_agg.reset_stream('closed', 'latest', results => true, force => true); ROLLBACK});
is(value($logs), $before, 'rolled back, a reset leaves the checkpoint as it was');
is((process($node, 'closed'))[1], 0, 'and the stream goes on where it was');

# --- with results, every table is that of the batch query, late records and all
for my $stream (sort keys %streams)
{
	my $batches = value("SELECT max(batch) FROM stream_agg.commits WHERE stream = '$stream'");
	value("SELECT stream_agg.reset_stream('$stream', results => true)");
	process($node, $stream);
	is(value(q{DELETE FROM changed WHERE lower(win) < '2000-01-01' RETURNING 1}), '1',
		'a window before those of the records stays') if $stream eq 'changed';
	expect($stream, 'with results the table is made anew');
	is(value("SELECT string_agg(concat_ws(' ', reset, delivered), ', ' ORDER BY batch) FROM stream_agg.commits
		WHERE stream = '$stream' AND batch > $batches"), "results 0, $records",
		"$stream: by the first micro-batch alone, whatever its size");
	counts_add_up($node, $stream, 2 * $records, "$stream: counters go on");
}
# one window, of which no micro-batch can be late
produce(200, 1);
close_windows();
for my $stream (sort keys %streams)
{
	process($node, $stream);
	expect($stream, 'and the stream goes on from there');
}

# --- without results the table stays, and its groups are counted from the offsets given
value(q{SELECT stream_agg.reset_stream('changed', 'latest')});
isnt(value(q{SELECT state FROM pg_stat_stream_agg WHERE stream = 'changed'}), 'stopped', 'a running stream is not stopped by that');
process($node, 'changed');
expect('changed', 'without results the table stays');
is(value(q{SELECT state_rows, watermark IS NULL FROM pg_stat_stream_agg WHERE stream = 'changed'}), '0|t', 'state is cleared');
is(value(q{SELECT watermark = to_timestamp(0) FROM stream_agg.commits WHERE stream = 'changed' AND reset = 'state'}), 't',
	'and so is the watermark');
# as one micro-batch, or it would drop late records again
$node->append_conf('postgresql.conf', 'stream_agg.max_records_per_batch = 100000');
$node->reload;
value(q{SELECT stream_agg.reset_stream('changed', 'earliest')});
process($node, 'changed');
expect('changed', 'read again, an update stream comes to the same');

# --- a stopped stream stays stopped, one that is behind a reset is reset again
value(q{SELECT stream_agg.stop_stream('whole'); SELECT stream_agg.reset_stream('whole', 'latest', results => true, force => true);
	SELECT stream_agg.reset_stream('whole', 'earliest')});
is(value(q{SELECT state, starting_offsets FROM pg_stat_stream_agg JOIN stream_agg.streams USING (stream)
	WHERE stream = 'whole'}), 'stopped|earliest', 'a stopped stream stays stopped');
value(q{SELECT stream_agg.start_stream('whole')});
process($node, 'whole');
expect('whole', 'and begins anew when started');

# --- from offsets in the middle: windows from the first of theirs on are made anew,
# as a stream has them that begins there; those before stay
my $middle = value('SELECT count(*) / 4 FROM clicks');
my $offsets = qq({"0": $middle, "1": $middle});
my $brokers = $broker->brokers;
value(qq{SELECT stream_agg.create_source('tail', topic => 'clicks', brokers => '$brokers',
	columns => \$\$ts timestamptz, k int, v int, off bigint OPTIONS (metadata 'offset')\$\$)});
my $hop = q{clicks, stream_agg.hop(ts, '1 minute', '3 minutes') win};
my $first_hop = q{(SELECT min(lower(w)) FROM unnest(ARRAY[first_time, watermark]) t, stream_agg.hop(t, '1 minute', '3 minutes') w)};
my @cases = (
	# mode, query, and which rows are affected
	[ 'tumble', 'update', $query{windows}, q{lower(win) >= date_trunc('minute', least(first_time, watermark))} ],
	[ 'tumble_append', 'append', $query{windows}, q{lower(win) >= date_trunc('minute', least(first_time, watermark))} ],
	[ 'tumble_having', 'update', $query{having}, q{lower(win) >= date_trunc('minute', least(first_time, watermark))} ],
	[ 'tumble_end', 'update', q{SELECT upper(stream_agg.tumble(ts, '1 minute')) AS stop, k, count(*) AS n FROM clicks GROUP BY stream_agg.tumble(ts, '1 minute'), k},
		q{stop > date_trunc('minute', least(first_time, watermark))} ],
	[ 'hop', 'update', "SELECT win, k, sum(v) AS total FROM $hop GROUP BY win, k", "lower(win) >= $first_hop" ],
	[ 'hop_end', 'append', "SELECT upper(win) AS stop, k, sum(v) AS total FROM $hop GROUP BY win, k", "stop >= $first_hop + interval '3 minutes'" ],
	[ 'hop_windows', 'append', "SELECT lower(win) AS start, k, array_agg(v ORDER BY v) AS v FROM $hop GROUP BY win, k", "start >= $first_hop" ],
	[ 'sessions', 'append', q{SELECT stream_agg.session(ts, '1 minute') AS win, k, count(*) AS n FROM clicks GROUP BY 1, k}, 'upper(win) >= least(first_time, watermark)' ],
	[ 'bins', 'update', q{SELECT date_bin('5 minutes', ts, '2000-01-01'), k, max(v) FROM clicks GROUP BY 1, k},
		q{date_bin >= date_bin('5 minutes', least(first_time, watermark), '2000-01-01')} ],
	[ 'days', 'update', q{SELECT stream_agg.tumble(ts, '1 day', timezone => 'Europe/Berlin') AS day, k, count(*) AS n FROM clicks GROUP BY 1, k}, q{lower(day) >= '2025-12-31 23:00Z'} ],
	[ 'no_window', 'update', q{SELECT k, count(*) AS n FROM clicks GROUP BY k}, 'true' ]);
my @names = map { ($_->[0], "from_$_->[0]") } @cases;
for my $case (@cases)
{
	my ($stream, $mode, $query) = @$case;
	my $watermark = $query =~ /GROUP BY k$/ ? '' : ", watermark => '1 minute'";
	my $create = "\$q\$$query\$q\$, output_mode => '$mode', trigger => '20 days' $watermark";
	value("SELECT stream_agg.create_stream('$stream', $create);
		SELECT stream_agg.create_stream('from_$stream', $create, starting_offsets => '$offsets')");
}
process($node, $_) for @names;
value("CREATE TABLE before_$_->[0] AS SELECT * FROM $_->[0];
	SELECT stream_agg.reset_stream('$_->[0]', '$offsets', results => true, force => true)") for @cases;
my $first_time = value("SELECT min(ts) FROM tail WHERE off >= $middle");
for my $case (@cases)
{
	my ($stream, $mode, undef, $affected) = @$case;
	process($node, $stream);
	my $kept = "SELECT b.* FROM before_$stream b, CAST('$first_time' AS timestamptz) AS first_time,
		(SELECT watermark FROM pg_stat_stream_agg WHERE stream = '$stream') w WHERE ($affected) IS NOT TRUE";
	is_equal_tables($node, "SELECT * FROM $stream", "$kept UNION ALL SELECT * FROM from_$stream",
		"$stream ($mode), from offsets in the middle: affected windows anew, those before as they were");
	cmp_ok(value("SELECT count(*) FROM ($kept) k"), '>', 0, "$stream: there are windows before")
	  unless $stream =~ /^(days|no_window)$/;
}
value("SELECT stream_agg.drop_stream('$_')") for @names;

# --- a polling reader sees old rows until the new ones are there, through crashes
value(q{SELECT stream_agg.reset_stream('changed', results => true)});
process($node, 'changed');
for my $stream (qw(closed changed))
{
	my $total = value("SELECT count(*), sum(n) FROM $stream");
	($reader, my $seen) = start_reader($node, "SELECT count(*), sum(n) FROM $stream", 1_000);
	for my $round (1 .. 2)
	{
		# the worker is killed where it has deleted and written and cannot commit
		value("SELECT stream_agg.stop_stream('$stream'); SELECT stream_agg.reset_stream('$stream', results => true)");
		my $blocker = $node->background_psql('postgres');
		$blocker->query_safe("BEGIN; LOCK TABLE stream_agg.commits IN SHARE MODE");
		value("SELECT stream_agg.start_stream('$stream')");
		$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity a JOIN pg_stat_stream_agg s USING (pid)
			WHERE s.stream = '$stream' AND a.wait_event_type = 'Lock'") or die 'the worker does not wait';
		kill_backends($node, value("SELECT pid FROM pg_stat_stream_agg WHERE stream = '$stream'"));
		eval { $blocker->quit };
		process($node, $stream);
		expect($stream, "round $round: after a crash in the middle the table is that of the batch query");
	}
	stop_reader($reader);
	undef $reader;
	my %lines;
	$lines{$_}++ for split /\n/, slurp_file($seen);
	cmp_ok($lines{$total} // 0, '>', 3, "$stream: a reader was there");
	is(join(', ', grep { $_ ne $total } sort keys %lines), '', "$stream: and never saw anything but the whole result");
}

# --- dead letters are there once, however often they are read
$broker->produce('bad', '{"k": 1}', '{"k": "none"}', '{"k": 2}');
value(q{SELECT stream_agg.create_stream('letters', 'SELECT k, count(*) AS n FROM bad GROUP BY k', output_mode => 'update',
	trigger => '20 days', options => '{"on_error": "dead_letter"}')});
process($node, 'letters');
value(q{SELECT stream_agg.reset_stream('letters', results => true)});
process($node, 'letters');
is(value(q{SELECT count(*), max(batch) FROM stream_agg.dead_letters WHERE stream = 'letters'}), '1|2',
	'a dead letter that is read again is there once');

# --- a source that reads another topic, or another cluster
$broker->produce('other', map { qq({"k": $_}) } 5 .. 7);
value(q{ALTER FOREIGN TABLE bad OPTIONS (SET topic 'other');
	SELECT stream_agg.stop_stream('letters'); SELECT stream_agg.start_stream('letters')});
wait_state($node, 'letters', 'failed', 'topic "other"');
value(q{SELECT stream_agg.reset_stream('letters', results => true); SELECT stream_agg.start_stream('letters')});
process($node, 'letters');
is_equal_tables($node, 'SELECT * FROM letters', 'SELECT * FROM letters_query', 'a stream that was reset takes another topic');

# --- a dump takes a reset along that nothing has followed yet
value(q{SELECT stream_agg.stop_stream('closed'); SELECT stream_agg.reset_stream('closed', 'earliest', results => true)});
value('CREATE DATABASE copy');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], 'a dump of a stream that was reset');
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('copy') ], 'is restored');
my $rows = value('SELECT count(*) FROM closed');
is($node->safe_psql('copy', q{UPDATE closed SET n = 0;
	SELECT count(*) FROM stream_agg.commits WHERE stream = 'closed' AND reset = 'results' AND batch =
		(SELECT max(batch) FROM stream_agg.commits WHERE stream = 'closed')}), 1, 'with its reset');
$node->safe_psql('copy', q{SELECT stream_agg.start_stream('closed'); SELECT * FROM stream_agg.process_available('closed', '2 minutes')});
is($node->safe_psql('copy', 'SELECT count(*), count(*) FILTER (WHERE n = 0) FROM closed'), "$rows|0",
	'and the copy replaces its rows');

# --- results that are in Kafka stay there
value(q{SELECT stream_agg.create_source('produced', topic => 'other', brokers => '} . $broker->brokers . q{',
	columns => $$win tstzrange, k int, n bigint$$)});
value(q{SELECT stream_agg.create_stream('producing',
	$$ SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n FROM clicks GROUP BY 1, k $$,
	watermark => '1 minute', sink => 'produced', start => false, options => '{"delivery": "at_least_once"}')});
(undef, undef, my $kafka_sink) = $node->psql('postgres', q{SELECT stream_agg.reset_stream('producing', results => true)});
like($kafka_sink, qr/results of stream "producing" cannot be replaced/, 'a Kafka topic is no table to be replaced');

# --- owners only, and DELETE on the sink is needed
value(q{CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app; GRANT SELECT ON clicks TO app;
	CREATE TABLE only_insert (k int, n bigint, win tstzrange); GRANT INSERT ON only_insert TO app});
my ($status, $out, $err) = $node->psql('postgres', q{SET ROLE app; SELECT stream_agg.reset_stream('letters')});
like($err, qr/must be owner of stream/, 'only the owner may');
value(q{SET ROLE app; SELECT stream_agg.create_stream('theirs',
	$$ SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n FROM clicks GROUP BY 1, k $$,
	watermark => '1 minute', sink => 'only_insert', start => false)});
($status, $out, $err) = $node->psql('postgres', q{SET ROLE app; SELECT stream_agg.reset_stream('theirs', results => true)});
like($err, qr/permission denied for sink "only_insert"/, 'with results the owner needs DELETE on the sink');
value(q{SET ROLE app; SELECT stream_agg.reset_stream('theirs', 'latest')});
is(value(q{SELECT starting_offsets FROM stream_agg.streams WHERE stream = 'theirs'}), 'latest', 'without it is no matter');

done_testing();
