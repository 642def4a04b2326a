# The nemesis of "make soak": see test/soak.  Prints what it does and, once a
# minute, what workers hold; then tests like any other file.

use strict;
use warnings;

use IPC::Run;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;
use Time::HiRes qw(time usleep);

my ($minutes, $rate) = @ENV{qw(MINUTES RATE)};
my $seed = seed();
my $random = seeded_random($seed);
my $topic = 'clicks';
my $partitions = 4;
my @streams = qw(per_key windows whole);

# event time runs four times as fast as the clock, so that windows close
my $time_factor = 4;

my $kafka = StreamAgg::Kafka->new(nodes => 3);
$kafka->create_topic($topic, $partitions);

# Processes are tight: a worker that does not go leaves no place for the next.
# State in files of the data directory: what is left over can be seen.
my $node = PostgreSQL::Test::Cluster->new('soak');
$node->init;
$node->append_conf('postgresql.conf', join("\n",
	"shared_preload_libraries = 'stream_agg'", "stream_agg.max_retry_delay = '2s'",
	'restart_after_crash = on', 'max_worker_processes = 6', 'max_parallel_workers = 0',
	'dynamic_shared_memory_type = mmap', 'log_min_messages = warning', 'max_wal_size = 2GB', ''));
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION stream_agg');
create_source($node, $kafka, 'clicks', $topic, 'ts timestamptz, k int, v int');
$node->safe_psql('postgres', q{
	SELECT stream_agg.create_stream('per_key',
		'SELECT k, count(*) AS n, sum(v) AS v FROM clicks GROUP BY k',
		output_mode => 'update', trigger => '0', options => '{"consumer_group": "soak"}');
	SELECT stream_agg.create_stream('windows',
		$q$ SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n, sum(v) AS v FROM clicks GROUP BY 1, 2 $q$,
		output_mode => 'append', watermark => '10 minutes', trigger => '1 second');
	SELECT stream_agg.create_stream('whole',
		'SELECT k % 20 AS k, count(*) AS n, avg(v::numeric) AS v FROM clicks GROUP BY 1',
		output_mode => 'complete', trigger => '2 seconds')});

# --- the producer, in a process of its own: a portion about once a second, which
# is sent as it is, or in a transaction that is committed or aborted
my $started = time;
my $stop = PostgreSQL::Test::Utils::tempdir() . '/stop';

sub portion
{
	my $n = shift;
	my $now = 1767225600 + (time - $started) * $time_factor;
	return map {
		my $ts = $now - $random->(20);
		[ '', $random->(1000), sprintf('{"ts": "%s", "k": %d, "v": %d}',
			POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime($ts)), $random->(500), $random->(1000)) ] } 1 .. $n;
}

sub start_producer
{
	my $pid = fork() // die "fork: $!";
	return $pid if $pid;

	# this process ends by _exit only: servers and brokers are its parent's
	my %sent = (plain => 0, committed => 0, aborted => 0, unknown => 0);
	$random = seeded_random($seed + 1);
	my $due = time;
	for (my $i = 0; !-e $stop && getppid() != 1; $i++)
	{
		my $kind = ('plain', 'plain', 'plain', 'committed', 'aborted')[ $random->(5) ];
		my @how = $kind eq 'plain' ? (property => 'enable.idempotence=true') :
		  (transaction => 'soak', property => 'transaction.timeout.ms=10000', $kind eq 'aborted' ? (abort => undef) : ());
		my $done = eval { $kafka->produce($topic, portion($rate), {@how}); 1 };
		$sent{ $done || $kind eq 'aborted' ? $kind : 'unknown' } += $rate;
		$due = POSIX::fmax($due + 1, time - 5);
		usleep(1_000_000 * ($due - time)) if $due > time;
	}
	append_to_file("$stop.sent", join(' ', map { "$_ $sent{$_}" } sort keys %sent));
	POSIX::_exit(0);
}

# --- what workers hold
my @samples;

sub sql { my $query = shift; my ($status, $out) = $node->psql('postgres', $query); return $status == 0 ? $out : undef; }

sub status_kb
{
	my ($pid, $field) = @_;
	open my $in, '<', "/proc/$pid/status" or return 0;
	my ($kb) = map { /^$field:\s+(\d+)/ ? $1 : () } <$in>;
	return $kb // 0;
}

sub max_of { my $max = 0; for (@_) { $max = $_ if $_ > $max } return $max; }

sub descriptors { my $pid = shift; my @fds = glob "/proc/$pid/fd/*"; return scalar @fds; }

sub shared_segments { my @files = glob $node->data_dir . '/pg_dynshmem/*'; return @files; }

sub sample
{
	my $when = shift;
	my $rows = sql(q{SELECT stream, pid, state, lag, state_bytes / 1024,
			round(EXTRACT(epoch FROM clock_timestamp() - (SELECT backend_start FROM pg_stat_activity a WHERE a.pid = s.pid)))
		  FROM pg_stat_stream_agg s ORDER BY stream});
	return unless defined $rows;
	for (split /\n/, $rows)
	{
		my ($stream, $pid, $state, $lag, $state_kb, $age) = split /\|/;
		next if $pid eq '';
		my %sample = (when => $when, stream => $stream, pid => $pid, age => $age, lag => $lag, dsa => $state_kb,
			anon => status_kb($pid, 'RssAnon'), rss => status_kb($pid, 'VmRSS'), fds => descriptors($pid));
		push @samples, \%sample;
		note sprintf "%6.1f min  %-8s %-8s lag %6s  age %5d s  RSS %6d kB (own %6d)  DSA %6d kB  %2d descriptors",
		  $when / 60, $stream, $state, $lag, $age, @sample{qw(rss anon dsa fds)};
	}
	return;
}

# --- what is done
my %done;

sub await_server
{
	for (1 .. 1200)
	{
		return if defined sql('SELECT 1');
		usleep(100_000);
	}
	die 'the server does not come back';
}

# the letter of a process's state, empty when it is not there
sub status_of
{
	my $pid = shift;
	open my $in, '<', "/proc/$pid/stat" or return '';
	return (<$in> // '') =~ /.*\) (\w)/ ? $1 : '';
}

# a signal to the postmaster; returns when it is gone
sub signal_server
{
	my $signal = shift;
	my ($pid) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	kill $signal, $pid;
	usleep(20_000) while status_of($pid) =~ /[^Z]/;
	undef $node->{_pid};
	return;
}

# a killed postmaster leaves children behind, which must be gone first
sub start_again
{
	for (1 .. 600)
	{
		return if $node->start(fail_ok => 1);
		undef $node->{_pid};
		usleep(200_000);
	}
	die 'the server does not start';
}

sub a_worker
{
	my $pid = sql("SELECT pid FROM pg_stat_stream_agg WHERE stream = '$streams[ $random->(3) ]' AND pid IS NOT NULL");
	return defined $pid && $pid ne '' ? $pid : undef;
}

my @nemesis = (
	[ 4, 'SIGKILL of a broker' => sub {
		my $victim = 1 + $random->(3);
		$kafka->kill_node($victim);
		usleep(100_000 * (1 + $random->(80)));
		$kafka->start_node($victim) } ],
	[ 3, 'SIGTERM of a worker' => sub { my $pid = a_worker(); kill 'TERM', $pid if $pid } ],
	[ 2, 'SIGKILL of a worker' => sub { my $pid = a_worker(); kill 'KILL', $pid if $pid } ],
	[ 1, 'SIGKILL of a backend' => sub { my ($psql, $pid) = start_backend($node); kill 'KILL', $pid; $psql->finish } ],
	[ 2, 'a worker halted for a while' => sub {
		my $pid = a_worker() or return;
		kill 'STOP', $pid;
		usleep(100_000 * (1 + $random->(100)));
		kill 'CONT', $pid } ],
	[ 1, 'SIGKILL of the postmaster' => sub { signal_server('KILL'); start_again() } ],
	[ 1, 'immediate stop' => sub { signal_server('QUIT'); start_again() } ],
	[ 1, 'fast stop' => sub { signal_server('INT'); start_again() } ],
	[ 2, 'a stream stopped and started' => sub {
		my $stream = $streams[ $random->(3) ];
		sql("SELECT stream_agg.stop_stream('$stream')");
		sql("SELECT stream_agg.start_stream('$stream')") } ],
	[ 1, 'more partitions' => sub {
		return if $partitions >= 12;
		my $total = $partitions + 1 + $random->(2);
		$partitions = $total if eval { $kafka->add_partitions($topic, $total); 1 } } ]);

# --- the run
my $producer = start_producer();
my $end = $started + 60 * $minutes;
my $next_sample = $started + 15;
my ($last_count, $fell) = (0, 0);
my @deck = map { my $n = $_; map { $n } 1 .. $nemesis[$n][0] } 0 .. $#nemesis;

note "$minutes minutes, $rate records/s, seed $seed";
while (time < $end)
{
	my (undef, $name, $action) = @{ $nemesis[ $deck[ $random->(scalar @deck) ] ] };
	my $until = time + 3 + $random->(15);

	note sprintf '%6.1f min  %s', (time - $started) / 60, $name;
	$done{$name}++;
	$action->();
	await_server();
	my $count = sql('SELECT COALESCE(sum(n), 0) FROM per_key');
	if (defined $count)
	{
		$fell++ if $count < $last_count;
		$last_count = $count;
	}
	while (time < $until)
	{
		if (time >= $next_sample)
		{
			sample(time - $started);
			$next_sample += 60;
			$next_sample = time + 60 if $next_sample < time;
		}
		usleep(250_000);
	}
}
note 'done: ' . join(', ', map { "$done{$_} times $_" } sort keys %done);

# --- the end
append_to_file($stop, '');
waitpid $producer, 0;
my %sent = split ' ', slurp_file("$stop.sent");
await_server();
$kafka->await_leader($topic, $_) for 0 .. $partitions - 1;
note 'sent: ' . join(', ', map { "$_ $sent{$_}" } sort keys %sent);
for my $stream (@streams)
{
	my $served = sql("SELECT * FROM stream_agg.process_available('$stream', '10 minutes')");
	ok(defined $served, "$stream: process_available returns");
}
sample(time - $started);

my $records = sql('SELECT count(*) FROM clicks');
my $known = $sent{plain} + $sent{committed};
cmp_ok($records, '>=', $known, "the topic has the $known records that Kafka acknowledged");
cmp_ok($records, '<=', $known + $sent{unknown}, "and at most $sent{unknown} more, of which that is not known");
for my $stream (@streams)
{
	counts_add_up($node, $stream, $records, "$stream: every record is counted once");
	is(sql("SELECT lag FROM pg_stat_stream_agg WHERE stream = '$stream'"), 0, "$stream: no lag is left");
	is(sql("SELECT state FROM pg_stat_stream_agg WHERE stream = '$stream'"), 'running', "$stream: it runs");
}
is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "$_ equals the batch query") for qw(per_key whole);
my $late = sql(q{SELECT rows_late FROM pg_stat_stream_agg WHERE stream = 'windows'});
my $closed = "upper(win) <= '" . watermark($node, 'windows') . "'";
is(sql("SELECT COALESCE(sum(q.n), 0) - (SELECT COALESCE(sum(n), 0) FROM windows) FROM windows_query q WHERE $closed"), $late,
	"windows lacks its $late late records and no other");
if ($late == 0)
{
	is_equal_tables($node, 'SELECT * FROM windows', "SELECT * FROM windows_query WHERE $closed",
		'windows equals the batch query over the windows that are closed');
}
cmp_ok(sql('SELECT count(*) FROM windows'), '>', 0, 'and there are some');
is($fell, 0, 'no count ever fell');
is(await_committed($node, $kafka->brokers, $topic, 'soak', 'per_key') ne '', 1, 'the consumer group has what the stream has');

# nothing left over
is(sql(q{SELECT string_agg(n::text, ',') FROM (SELECT count(*) AS n FROM pg_stat_activity
		WHERE backend_type = 'stream_agg worker' GROUP BY application_name) x}), '1,1,1', 'one worker for each stream');

# of one worker, from when it was young to its last; a client more or less, or
# broker, makes a difference of some forty
for my $stream (@streams)
{
	my %life;
	push @{ $life{ $_->{pid} } }, $_->{fds} for grep { $_->{stream} eq $stream && $_->{age} >= 20 } @samples;
	my @grown = map { $_->[-1] - $_->[0] } grep { @$_ > 1 } values %life;
	note "$stream: " . keys(%life) . " workers, descriptors " .
	  join ', ', map { join ' ', @$_ } map { $life{$_} } sort { $a <=> $b } keys %life;
	cmp_ok(max_of(@grown), '<=', 40, "$stream: no worker gathers descriptors (" . @grown . ' lived long enough to be seen twice)');
	cmp_ok(max_of(map { @$_ } values %life), '<=', 200, "$stream: nor has any of them more than its clients need");
}
my $launcher = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'stream_agg launcher'});
cmp_ok(descriptors($launcher), '<', 30, 'nor does the launcher lose any');
sql("SELECT stream_agg.stop_stream('$_')") for @streams;
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'stream_agg worker'}), 0, 'no worker is left');
is(sql('SELECT count(*) FROM pg_stat_stream_agg WHERE pid IS NOT NULL'), 0, 'no slot is taken');
is(sql(q{SELECT count(*) FROM pg_locks WHERE pid NOT IN (SELECT pid FROM pg_stat_activity)}), 0, 'no lock is held by nobody');
# segments that a backend maps which only looks at statistics are the server's own
my $out = '';
my $psql = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c',
		'SELECT sum(n_live_tup + n_tup_hot_upd) FROM pg_stat_all_tables', '-c', 'SELECT sum(calls) FROM pg_stat_user_functions',
		'-c', 'SELECT pg_backend_pid()', '-c', 'SELECT pg_sleep(6000)' ], '>', \$out, '2>', '/dev/null');
$psql->pump until $out =~ /\d+\n.*\n?(\d+)\n$/;
my ($backend) = $out =~ /(\d+)\n$/;
my $maps = slurp_file("/proc/$backend/maps");
my @left = grep { index($maps, $_) < 0 } map { s{.*/}{}r } shared_segments();
is("@left", '', 'no shared memory is left');
kill 'TERM', $backend;
$psql->finish;

# --- memory: of the longest life of a worker, and over the whole run
for my $stream (@streams)
{
	my @of_stream = grep { $_->{stream} eq $stream } @samples;
	for my $at ([ start => $of_stream[0] ], [ middle => $of_stream[ $#of_stream / 2 ] ], [ end => $of_stream[-1] ])
	{
		my ($name, $s) = @$at;
		note sprintf "memory %-8s %-6s minute %5.1f: RSS %d kB, own %d kB, DSA %d kB, worker %d s old",
		  $stream, $name, $s->{when} / 60, @$s{qw(rss anon dsa age)};
	}
	my %life;
	push @{ $life{ $_->{pid} } }, $_ for @of_stream;
	my ($longest) = sort { $b->[-1]{age} - $b->[0]{age} <=> $a->[-1]{age} - $a->[0]{age} } values %life;
	note sprintf "memory %-8s longest life seen, %d s to %d s: own %d kB to %d kB", $stream,
	  $longest->[0]{age}, $longest->[-1]{age}, $longest->[0]{anon}, $longest->[-1]{anon};
}
$node->stop;
done_testing();
