# Health of streams: what pg_stat_stream_agg says of one that fails, waits, lags or
# loses what it reads, the log of events, and failed streams that try again.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

seed();
my $broker = start_broker(midnight => 1, letters => 1, retried => 1, locked => 1, late => 1, camel => 1, idle => 2, backlog => 1, control => 1);
my $node = new_node('health', 'max_worker_processes = 20', 'stream_agg.max_attempts = 3',
	"stream_agg.failure_retry_delay = '200ms'", "stream_agg.lag_check_interval = '500ms'");
create_source($node, $broker, $_, $_, 'ts timestamptz, k int') for qw(midnight letters retried locked late camel idle backlog control);

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub of_stream { return sql("SELECT $_[1] FROM pg_stat_stream_agg WHERE stream = '$_[0]'"); }

sub wait_for
{
	my ($stream, $condition) = @_;
	return $node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_stream_agg WHERE stream = '$stream' AND $condition")
	  || (diag(sql("SELECT state, health, problem, lag, last_error FROM pg_stat_stream_agg WHERE stream = '$stream'")), 0);
}

sub events { return sql("SELECT string_agg(event, ' ' ORDER BY number) FROM stream_agg.events WHERE stream = '$_[0]'"); }

sub log_has { return slurp_file($node->logfile) =~ $_[0]; }

# a table partitioned by key, without the partition of key 1
sub partitioned_sink
{
	my ($table) = @_;
	return "CREATE TABLE $table (k int, n bigint, UNIQUE NULLS NOT DISTINCT (k)) PARTITION BY LIST (k);
		CREATE TABLE ${table}_0 PARTITION OF $table FOR VALUES IN (0)";
}

sub create
{
	my ($stream, $more) = @_;
	sql("SELECT stream_agg.create_stream('$stream', 'SELECT k, count(*) AS n FROM $stream GROUP BY k',
		output_mode => 'update', trigger => '100 ms' $more)");
	return;
}

sub record
{
	my ($ts, $k) = @_;
	return json_record({ ts => $ts, k => $k // 0 }, numbers => ['k']);
}

my $hour = '2026-01-01T00';

subtest 'retrying while it fails, without a last error when it is well' => sub {
	sql(partitioned_sink('midnight_sink'));
	$node->append_conf('postgresql.conf', 'stream_agg.max_attempts = 1000');
	$node->reload;
	create('midnight', ", sink => 'midnight_sink'");
	$broker->produce('midnight', record("$hour:00:00Z"));
	process($node, 'midnight');
	is(of_stream('midnight', 'state, health, problem IS NULL, attempts, lag, lag_seconds, lag_as_of IS NOT NULL'),
		'running|ok|t|0|0|0|t', 'well');

	$broker->produce('midnight', record("$hour:00:00Z", 1));
	ok(wait_for('midnight', q{state = 'retrying' AND attempts > 1 AND next_attempt > now()}), 'the state tells, with the attempt and the next one');
	is(of_stream('midnight', 'health'), 'retrying', 'so does health');
	like(of_stream('midnight', 'problem'), qr/^failed attempts: \d+, since 2.*no partition of relation "midnight_sink" found for row$/, 'problem says since when, and why');
	like(of_stream('midnight', 'last_error'), qr/^no partition of relation.*DETAIL.*\nHINT:  Create the partition/s, 'the last error is there, and says what to do');

	sql('CREATE TABLE midnight_1 PARTITION OF midnight_sink FOR VALUES IN (1)');
	process($node, 'midnight');
	is(of_stream('midnight', 'state, health, problem IS NULL, attempts, next_attempt IS NULL, last_error IS NULL, last_error_time IS NULL'),
		'running|ok|t|0|t|t|t', 'it is well again, and says nothing else');
	is(events('midnight'), 'started retrying recovered', 'events tell what was');
	like(sql(q{SELECT message FROM stream_agg.events WHERE stream = 'midnight' AND event = 'retrying'}),
		qr/^no partition of relation.*DETAIL/s, 'with the error');
	like(sql(q{SELECT message FROM stream_agg.events WHERE stream = 'midnight' AND event = 'recovered'}),
		qr/^failed attempts: \d+, since 2/, 'and how long it took');
	ok(log_has(qr/stream "midnight" has started/), 'the log has the start');
	ok(log_has(qr/stream "midnight" has recovered after \d+ failed attempts?/), 'and the recovery');
	is(sql('SELECT * FROM midnight_sink ORDER BY k'), "0|1\n1|1", 'every record counted once');
	$node->append_conf('postgresql.conf', 'stream_agg.max_attempts = 2');
	$node->reload;
};

subtest 'a missing partition is no fault of a record, and start_stream tries at once' => sub {
	sql(partitioned_sink('letters_sink'));
	$node->append_conf('postgresql.conf', 'stream_agg.max_attempts = 1000');
	$node->reload;
	create('letters', q{, sink => 'letters_sink', options => '{"on_error": "dead_letter"}'});
	$broker->produce('letters', record("$hour:00:00Z", 1));
	ok(wait_for('letters', q{state = 'retrying' AND attempts > 6}), 'with on_error dead_letter, too, it is tried again');
	is(sql(q{SELECT count(*) FROM stream_agg.dead_letters WHERE stream = 'letters'}), 0, 'and no record is put aside');
	sql('CREATE TABLE letters_1 PARTITION OF letters_sink FOR VALUES IN (1)');
	like(($node->psql('postgres', q{SELECT stream_agg.start_stream('letters')}))[2], qr/stream "letters" is already running(, and tries again at once)?/, 'start_stream says what happens');
	process($node, 'letters');
	is(sql('SELECT * FROM letters_sink'), '1|1', 'the record is counted');
	$node->append_conf('postgresql.conf', 'stream_agg.max_attempts = 2');
	$node->reload;
};

subtest 'a failed stream tries again by on_failure retry' => sub {
	sql(partitioned_sink('retried_sink') . ';' . partitioned_sink('control_sink'));
	$broker->produce($_, record("$hour:00:00Z", 1)) for qw(retried control);
	create('retried', q{, sink => 'retried_sink', options => '{"on_failure": "retry"}'});
	create('control', q{, sink => 'control_sink'});
	is(sql(q{SELECT options FROM stream_agg.streams WHERE stream = 'retried'}), '{"on_failure": "retry"}', 'the option is kept');
	wait_state($node, 'control', 'failed', 'no partition');
	is(of_stream('control', 'health, problem'), 'failed|no partition of relation "control_sink" found for row', 'without it the stream has failed, and says why');
	$broker->produce('control', map { record("$hour:00:00Z") } 1 .. 30);
	ok(wait_for('control', q{state = 'failed' AND lag = 31 AND lag_as_of > last_error_time}), 'the lag of a failed stream is that of now');
	$node->poll_query_until('postgres', q{SELECT count(*) > 2 FROM stream_agg.events WHERE stream = 'retried' AND event = 'failed'});
	pass('with it the stream fails again and again');
	ok(wait_for('retried', q{state = 'retrying' AND pid IS NULL AND next_attempt > now()}), 'between attempts it has no process');
	ok(log_has(qr/stream "retried" has failed\n.*DETAIL:  It tries again at/), 'the log says when it tries again');
	sql("CREATE TABLE ${_}_1 PARTITION OF ${_}_sink FOR VALUES IN (1)") for qw(retried control);
	ok(wait_for('retried', q{state = 'running' AND last_error IS NULL AND rows_in = 1}), 'it recovers by itself');
	is(sql('SELECT * FROM retried_sink'), '1|1', 'with every record counted once');
	is(of_stream('control', 'state'), 'failed', 'the other one waits for start_stream');
	is(events('control'), 'started retrying failed', 'as its events say');
	sql(q{SELECT stream_agg.start_stream('control')});
	process($node, 'control');
	is(sql('SELECT * FROM control_sink ORDER BY k'), "0|30\n1|1", 'and goes on then');
	like(events('control'), qr/^started retrying failed started( recovered)?$/, 'which is an event');
};

subtest 'a worker that waits for a lock says who holds it' => sub {
	create('locked', q{, sink => 'locked_sink'});
	$broker->produce('locked', record("$hour:00:00Z"));
	process($node, 'locked');
	my $session = $node->background_psql('postgres', on_error_die => 1);
	$session->query_safe('BEGIN');
	$session->query_safe('LOCK TABLE locked_sink');
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$broker->produce('locked', record("$hour:00:00Z"));
	ok(wait_for('locked', q{health = 'waiting'}), 'health is waiting');
	like(of_stream('locked', 'problem'), qr/^blocked by process $pid, since 2/, 'problem names the process');
	$broker->produce('locked', map { record("$hour:00:00Z") } 1 .. 40);
	ok(wait_for('locked', q{health = 'waiting' AND lag = 41}), 'and the lag is that of now');
	$session->query_safe('COMMIT');
	$session->quit;
	process($node, 'locked');
	is(of_stream('locked', 'health'), 'ok', 'then it is well');
};

subtest 'all records are late' => sub {
	sql(q{SELECT stream_agg.create_stream('late', $$SELECT stream_agg.tumble(ts, '1 minute') AS win, count(*) AS n FROM late GROUP BY 1$$,
		output_mode => 'update', watermark => '1 minute', trigger => '100 ms', sink => 'late_sink')});
	$broker->produce('late', record('2026-01-01T12:00:00Z'));
	process($node, 'late');
	is(of_stream('late', 'health'), 'ok', 'the first one counts');
	for (1 .. 3)
	{
		$broker->produce('late', record("$hour:00:00Z"), record("$hour:01:00Z"));
		process($node, 'late');
	}
	is(of_stream('late', 'health, problem'), 'losing records|all of the last 6 records were late', 'health and problem say so');
	is(sql(q{SELECT state, health, late_percent, problem FROM pg_stat_stream_agg_summary WHERE stream = 'late'}),
		'running|losing records|85.7|all of the last 6 records were late', 'and the summary, with the percentage');
	$broker->produce('late', record('2026-01-01T13:00:00Z'));
	process($node, 'late');
	is(of_stream('late', 'health'), 'ok', 'until one counts');
};

subtest 'no record has an event time' => sub {
	sql(q{SELECT stream_agg.create_stream('camel', $$SELECT stream_agg.tumble(ts, '1 minute') AS win, count(*) AS n FROM camel GROUP BY 1$$,
		output_mode => 'update', watermark => '1 minute', trigger => '100 ms', sink => 'camel_sink')});
	$broker->produce('camel', map { qq({"eventTime": "$hour:00:00Z", "k": $_}) } 1 .. 5);
	process($node, 'camel');
	is(of_stream('camel', 'health, problem'), 'losing records|all of the last 5 records were without an event time', 'health and problem say so');
};

subtest 'a partition without records holds windows open' => sub {
	sql(q{SELECT stream_agg.create_stream('idle', $$SELECT stream_agg.tumble(ts, '1 minute') AS win, count(*) AS n FROM idle GROUP BY 1$$,
		watermark => '1 minute', trigger => '100 ms', sink => 'idle_sink', options => '{"watermark_policy": "per_partition"}')});
	$broker->produce('idle', map { [ 0, '', record("$hour:$_:00Z") ] } 10 .. 30);
	process($node, 'idle');
	is(of_stream('idle', 'health, problem'),
		'holding windows|partition 1 of topic "idle" holds windows open: it has had no record with an event time; see idle_timeout', 'the partition is named');
	$broker->produce('idle', [ 1, '', record("$hour:10:00Z") ]);
	process($node, 'idle');
	like(of_stream('idle', 'health, problem'),
		qr/^holding windows\|partition 1 of topic "idle" holds windows open: its last event time is 2026-01-01/, 'one that is far behind, too');
	$broker->produce('idle', [ 1, '', record("$hour:30:00Z") ]);
	process($node, 'idle');
	is(of_stream('idle', 'health'), 'ok', 'level with the other one it holds nothing');
};

subtest 'a backlog: rate, lag in seconds and when it will be read' => sub {
	$broker->produce('backlog', map { record("$hour:00:00Z", $_ % 5) } 1 .. 4000);
	sql(q{SELECT stream_agg.create_stream('backlog', 'SELECT k, count(*) AS n FROM backlog GROUP BY k',
		output_mode => 'update', trigger => '200 ms', max_offsets_per_trigger => 100, sink => 'backlog_sink')});
	ok(wait_for('backlog', q{health = 'catching up' AND batches > 1 AND lag > 100 AND lag_seconds > 0 AND rate > 0 AND eta > now()
		AND problem ~ '^records behind: \d+, at this rate until 2'}), 'all are there while it catches up');
	process($node, 'backlog');
	is(of_stream('backlog', 'health, problem IS NULL, lag, lag_seconds, eta IS NULL'), 'ok|t|0|0|t', 'and gone when it has');
	is(sql(q{SELECT lag, delay, late_percent FROM pg_stat_stream_agg_summary WHERE stream = 'backlog'}), '0|00:00:00|0.0', 'as in the summary');
};

subtest 'events of commands; bounded, private, and gone with the stream' => sub {
	sql(q{SELECT stream_agg.stop_stream('backlog')});
	is(of_stream('backlog', 'state, health, rate IS NULL'), 'stopped|stopped|t', 'stopped');
	$broker->produce('backlog', map { record("$hour:00:00Z") } 1 .. 7);
	ok(wait_for('backlog', q{state = 'stopped' AND lag = 7}), 'the lag of a stopped stream is that of now');
	sql(q{SELECT stream_agg.reset_stream('backlog', 'latest')});
	is(of_stream('backlog', 'lag IS NULL'), 't', 'after a reset nobody knows the lag');
	is(events('backlog'), 'started stopped reset', 'both are events');
	is(sql(q{SELECT message FROM stream_agg.events WHERE stream = 'backlog' AND event = 'reset'}), 'offsets: latest, results: false', 'with the offsets');
	ok(log_has(qr/stream "backlog" has stopped/), 'the log has the stop');
	ok(log_has(qr/stream "backlog" is reset to offsets latest/), 'and the reset');
	sql(q{SELECT stream_agg.reset_stream('backlog') FROM generate_series(1, 110)});
	is(sql(q{SELECT count(*), max(number) FROM stream_agg.events WHERE stream = 'backlog'}), '100|113', 'the last 100 events stay');
	sql('CREATE ROLE stranger LOGIN');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM stream_agg.events', extra_params => [ '-U', 'stranger' ]), 0, 'others see none');
	my (undef, undef, $err) = $node->psql('postgres', 'DELETE FROM stream_agg.events', extra_params => [ '-U', 'stranger' ]);
	like($err, qr/permission denied for table events/, 'and delete none');
	sql(q{SELECT stream_agg.drop_stream('backlog')});
	is(events('backlog'), '', 'dropped, the stream has no events');
};

done_testing();
