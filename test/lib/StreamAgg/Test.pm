# Helpers of the TAP tests: servers with stream_agg, the embedded broker, and
# the comparison of a stream's table with the batch query.
#
# Nothing here sleeps for a time: tests wait on process_available or on a query
# that becomes true.

package StreamAgg::Test;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

our @EXPORT = qw(start_broker new_node create_source process is_equal_tables
  counts_add_up watermark worker_pid wait_state start_backend kill_backends await_server start_reader stop_reader seed
  seeded_random json_record committed await_committed checked_subtest quicksort_killer);

my $tool = $ENV{KAFKA_TOOL} or die 'KAFKA_TOOL is not set: run the tests by test/run';

# The seed of the run, printed once, so that a failure can be repeated.
sub seed
{
	my $seed = $ENV{STREAM_AGG_SEED} // 1;
	note("seed $seed");
	return $seed;
}

# A function that returns a random integer below its argument; it is the same
# sequence for the same seed, on every machine.
sub seeded_random
{
	my $state = shift // seed();
	return sub {
		my $below = shift;
		my $drawn = 0;
		for (my $reach = 1; $reach < $below; $reach *= 32768)
		{
			$state = ($state * 1103515245 + 12345) % 2147483648;
			$drawn = $drawn * 32768 + int($state / 65536);
		}
		return $drawn % $below;
	};
}

# A record as JSON.  Values are strings, or NULL if undefined; those of the
# fields named in numbers and bare are written as they are.
sub json_record
{
	my ($record, %how) = @_;
	my %plain = map { $_ => 1 } @{ $how{numbers} // [] }, @{ $how{bare} // [] };
	my @fields;
	for my $name (sort keys %$record)
	{
		my $value = $record->{$name};
		if (!defined $value) { $value = 'null'; }
		elsif (!$plain{$name})
		{
			$value =~ s/(["\\])/\\$1/g;
			$value = "\"$value\"";
		}
		push @fields, "\"$name\":$value";
	}
	return '{' . join(',', @fields) . '}';
}

# start_broker(topic => partitions, ...): the embedded broker; it ends with the
# test.
sub start_broker
{
	my %topics = @_;
	return StreamAgg::Test::Broker->new(%topics);
}

# A running server with stream_agg; further lines go to postgresql.conf.  Half of
# the servers, others with each seed, collect records ahead for any micro-batch.
# Streams may crash as often as they like, and start again at once.
sub new_node
{
	my ($name, @conf) = @_;
	my $always = (unpack('%32C*', "$0 $name") + seed()) % 2;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	$node->append_conf('postgresql.conf', join("\n",
		"shared_preload_libraries = 'stream_agg'",
		"stream_agg.max_retry_delay = '1s'",
		'stream_agg.crash_restart_delay = 0',
		'stream_agg.max_crashes = -1',
		$always ? 'stream_agg.collect_ahead = 0' : '',
		# any test, with state that leaves memory
		$ENV{STREAM_AGG_STATE_MEMORY} ? "stream_agg.state_memory = '$ENV{STREAM_AGG_STATE_MEMORY}'" : '',
		@conf, ''));
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION stream_agg');
	return $node;
}

# A source.  The embedded broker looks for new records only when a fetch request
# ends, so these are kept short.
sub create_source
{
	my ($node, $broker, $source, $topic, $columns) = @_;
	my $brokers = $broker->brokers;
	$node->safe_psql('postgres',
		"SELECT stream_agg.create_source('$source', topic => '$topic', brokers => '$brokers',
			columns => \$c\$$columns\$c\$, options => '{\"fetch.wait.max.ms\": 20}')");
	return;
}

# Process all there is; returns (batches, rows in, rows out).
sub process
{
	my ($node, $stream) = @_;
	my $result = $node->safe_psql('postgres',
		"SELECT * FROM stream_agg.process_available('$stream', '2 minutes')");
	return split /\|/, $result;
}

# A subtest, if its name has the text ONLY of the environment: one that dies has failed,
# and the others go on.  "after" is called in either case.
sub checked_subtest
{
	my ($name, $code, $after) = @_;
	return if defined $ENV{ONLY} && index($name, $ENV{ONLY}) < 0;
	return Test::More::subtest(
		$name => sub {
			eval { $code->(); 1 } or Test::More::fail("died: $@");
			$after->() if $after;
		});
}

# A permutation for which quicksort as the server has it - the median of three
# medians of three, then a partition - splits off four numbers at a time: the least
# numbers that are left stand where it looks for a pivot.  Each partition is followed,
# for it moves some of the others.
sub quicksort_killer
{
	my $n = shift;
	my @place = 0 .. $n - 1;    # whose number stands where in the sort
	my @value;
	my $next = 0;
	my $left = 0;
	while ($n - $left > 40)
	{
		my $size = $n - $left;
		my $d = int($size / 8);
		my $middle = $left + int($size / 2);
		my @chosen = ($left + $d, $left + 2 * $d, $middle - $d, $middle);
		$value[ $place[$_] ] = $next++ for @chosen;
		# the greatest of the four is the pivot, and goes to the front
		my $swap = sub { @place[ @_ ] = @place[ reverse @_ ]; };
		$swap->($left, $middle);
		my $pivot = $next - 1;
		my $is_less = sub { my $v = $value[ $place[ $_[0] ] ]; return defined $v && $v < $pivot; };
		my @less = sort { $b <=> $a } grep { $is_less->($_) } @chosen;
		my $b = $left + 1;
		while (1)
		{
			$b++ while $is_less->($b);
			my $c = shift @less;
			last if !defined $c || $c < $b;
			$swap->($b++, $c);
		}
		$swap->($left, $b - 1);
		$left += 4;
	}
	# those that are left, so that no part is in order
	$value[ $place[$_] ] = $next++ for reverse $left .. $n - 1;
	return @value;
}

# Test that two queries yield the same rows, as often.
sub is_equal_tables
{
	my ($node, $got, $expected, $name) = @_;
	my $difference = $node->safe_psql('postgres', qq{
		WITH got AS MATERIALIZED ($got), expected AS MATERIALIZED ($expected)
		SELECT 'lacks', x::text FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM got) x
		UNION ALL
		SELECT 'has', x::text FROM (SELECT * FROM got EXCEPT ALL SELECT * FROM expected) x
		LIMIT 10});
	return is($difference, '', $name);
}

# Test that every record delivered was counted in exactly one way.
sub counts_add_up
{
	my ($node, $stream, $delivered, $name) = @_;
	my $counts = $node->safe_psql('postgres', qq{
		SELECT total_delivered, total_aggregated + total_late + total_null_time
		       + total_dead_lettered + total_filtered
		  FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1});
	return is($counts, "$delivered|$delivered", $name);
}

sub watermark
{
	my ($node, $stream) = @_;
	return $node->safe_psql('postgres',
		"SELECT COALESCE(watermark, '-infinity') FROM pg_stat_stream_agg WHERE stream = '$stream'");
}

sub worker_pid
{
	my ($node, $stream) = @_;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my ($status, $pid) = eval { $node->psql('postgres',
			"SELECT pid FROM pg_stat_stream_agg WHERE stream = '$stream' AND state = 'running'") };
		return $pid if defined $status && $status == 0 && $pid ne '';
		Time::HiRes::usleep(100_000);
	}
	die "stream $stream does not run";
}

# Wait until a stream is in a state, with an error that matches if one is given.
sub wait_state
{
	my ($node, $stream, $state, $error) = @_;
	my $condition = "state = '$state'";
	$condition .= " AND last_error ~ \$e\$$error\$e\$" if defined $error;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_stream_agg WHERE stream = '$stream' AND $condition")
	  or die "stream $stream is not $state"
	  . $node->safe_psql('postgres', 'SELECT stream, state, last_error FROM pg_stat_stream_agg');
	return;
}

# A backend that does nothing until it is killed; returns its psql and its pid.
sub start_backend
{
	my ($node) = @_;
	my $out = '';
	my $psql = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'),
			'-c', 'SELECT pg_backend_pid()', '-c', 'SELECT pg_sleep(6000)' ], '>', \$out, '2>', '/dev/null');
	$psql->pump until $out =~ /\n/;
	return ($psql, (split /\n/, $out)[0]);
}

# SIGKILL of processes of a server with restart_after_crash; returns when it has
# recovered.  A pid may be '', of a process that is gone; where no other is left, it
# is a backend started here that dies: the server crashes in any case.  The end of
# another backend shows that the crash has been noticed: until then the server
# accepts connections, only to end them.
sub kill_backends
{
	my ($node, @pids) = @_;
	my ($witness) = start_backend($node);
	my ($victim, $pid) = start_backend($node);
	@pids = grep { $_ ne '' } @pids;
	kill 'KILL', @pids or kill 'KILL', $pid;
	$_->finish for $witness, $victim;
	await_server($node);
	return;
}

# Wait until a server that has crashed takes connections.  psql can be gone before
# it was told what to ask, which is an exception, not an answer.
sub await_server
{
	my ($node) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	until (eval { $node->poll_query_until('postgres', 'SELECT true') })
	{
		die 'the server does not come back' if time > $end;
		Time::HiRes::usleep(100_000);
	}
	return;
}

# A reader that polls throughout, in a process of its own: the first line of what
# the query says goes to a file, one line per snapshot.  A server that is not there
# is asked again.  Returns the process and the file.
sub start_reader
{
	my ($node, $query, $pause_us) = @_;
	my $seen = PostgreSQL::Test::Utils::tempdir() . '/seen';
	my $pid = fork() // die "fork: $!";
	return ($pid, $seen) if $pid;

	# this process ends by _exit only: the server and the broker are its parent's
	my $stop = 0;
	local $SIG{TERM} = sub { $stop = 1 };
	open my $out, '>', $seen or POSIX::_exit(1);
	$out->autoflush(1);
	while (!$stop)
	{
		my ($status, $stdout) = eval { $node->psql('postgres', $query, on_error_die => 0) };
		print $out ((split /\n/, $stdout)[0], "\n") if defined $status && $status == 0 && $stdout ne '';
		Time::HiRes::usleep($pause_us);
	}
	POSIX::_exit(0);
}

sub stop_reader
{
	my $pid = shift;
	kill 'TERM', $pid;
	waitpid $pid, 0;
	return;
}

# What a consumer group has committed for a topic: "partition offset", with commas.
sub committed
{
	my ($brokers, $topic, $group) = @_;
	my ($output, $error);
	IPC::Run::run([ $tool, 'committed', '--brokers', $brokers, '--topic', $topic, '--group', $group ],
		'<', \undef, '>', \$output, '2>', \$error)
	  or die "cannot ask: $error";
	return join(', ', split /\n/, $output);
}

# Wait until a group has committed what the stream has: returns that.
sub await_committed
{
	my ($node, $brokers, $topic, $group, $stream) = @_;
	my ($got, $expected);
	for (1 .. 1200)
	{
		$expected = $node->safe_psql('postgres', qq{
			SELECT string_agg(format('%s %s', partition, committed_offset), ', ' ORDER BY partition)
			  FROM pg_stat_stream_agg_partitions WHERE stream = '$stream'});
		$got = committed($brokers, $topic, $group);
		return $got if $got ne '' && $got eq $expected;
		Time::HiRes::usleep(100_000);
	}
	die "group $group has committed $got, stream $stream $expected";
}

package StreamAgg::Test::Broker;

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Time::HiRes 'usleep';

my $owner = $$;
my @running;

sub new
{
	my ($class, %topics) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my $self = bless {
		ready => "$dir/ready",
		control => "$dir/control" }, $class;
	my @topics = map { ('--topic', "$_:$topics{$_}") } sort keys %topics;

	$self->{harness} = IPC::Run::start(
		[ $tool, 'serve', '--ready-file', $self->{ready}, '--control', $self->{control},
			'--parent', $$, @topics ],
		'<', \undef, '>', "$dir/log", '2>&1');
	push @running, $self;
	for (1 .. 200)
	{
		last if -s $self->{ready};
		usleep(50_000);
	}
	$self->{brokers} = PostgreSQL::Test::Utils::slurp_file($self->{ready});
	chomp $self->{brokers};
	return $self;
}

sub brokers { return $_[0]->{brokers}; }
sub pid { return $_[0]->{harness}->{KIDS}[0]{PID}; }

sub control
{
	my ($self, @words) = @_;
	my $reply;

	IPC::Run::run([ $tool, 'control', $self->{control}, @words ], '>', \$reply)
	  or die "broker: $reply";
	return;
}

sub create_topic { my ($self, $name, $n) = @_; return $self->control('topic', $name, $n // 1); }
sub down { return $_[0]->control('down'); }
sub up { return $_[0]->control('up'); }

# produce(topic, record...): a record is JSON, or [partition, key, JSON], or
# { option => value }, for all of them, of the tool: timestamp (ms), header
# (name=value)
sub produce
{
	my ($self, $topic, @records) = @_;
	my @options = map { my $o = $_; map { ("--$_", $o->{$_}) } keys %$o } grep { ref $_ eq 'HASH' } @records;
	@records = grep { ref $_ ne 'HASH' } @records;
	my $input = join('', map {
		ref $_ ? join("\t", map { $_ // '' } @$_) . "\n" : "\t\t$_\n" } @records);
	my ($output, $error);

	IPC::Run::run([ $tool, 'produce', '--brokers', $self->{brokers}, '--topic', $topic, '--tab', @options ],
		'<', \$input, '>', \$output, '2>', \$error)
	  or die "cannot produce: $error";
	return;
}

sub stop
{
	my ($self) = @_;
	$self->{harness}->kill_kill if $self->{harness};
	delete $self->{harness};
	return;
}

END
{
	# not in a process that a test has forked off
	if ($$ == $owner)
	{
		my $status = $?;
		$_->stop for @running;
		$? = $status;
	}
}

1;
