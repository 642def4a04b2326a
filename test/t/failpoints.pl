# Every failure at every place of a micro-batch, in every output mode.
#
# A round has five sets of streams, one stream of each mode in a set, and takes
# each set to another place, where its workers hang.  Then all of them fail in
# the same way, by an action of their own or by one crash of the server, while
# records keep coming.  A cell - place, failure, mode - is ok if afterwards
#
#	table		the sink equals the batch query
#	counts		the five counts add up to the records produced
#	progress	offsets and watermark never went back, batches have no gap
#	plan		the batch at hand ran by the plan it had, and once
#	memory		the state store holds what it can reach and nothing else; an
#				ERROR leaves as many bytes as there were

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use StreamAgg::Failpoint;
use StreamAgg::Test;
use Test::More;
use Time::HiRes 'time';

my @actions = ('ERROR', 'FATAL', 'SIGKILL', 'SIGKILL other', 'immediate stop', 'cancel', 'terminate', 'stop_stream');
my %long = (
	'SIGKILL other' => 'SIGKILL of another backend',
	cancel => 'pg_cancel_backend',
	terminate => 'pg_terminate_backend',
	stop_stream => 'stop_stream and ERROR');
my $sets = 5;

# [place, where it is, hit].  Before or after COMMIT; when a session opens; when
# the state is restored; when an ERROR is undone; when a store that a FATAL has
# left is undone by the next worker, or, where it ended in the middle of a change,
# discarded.
my @points = (
	['session.locked',            'open'],
	['sink.recovered',            'open'],
	['session.opened',            'open'],
	['plan.committed',            'before'],
	['read.begun',                'before'],
	['read.done',                 'before'],
	['restore.blob',              'restore', 3],
	['execute.begun',             'before'],
	['execute.row',               'before', 5],
	['execute.ran',               'before'],
	['store.changing',            'before', 2],
	['store.changed',             'before'],
	['execute.done',              'before'],
	['write.statement_before',    'before'],
	['write.several',             'before'],
	['write.statement_after',     'before'],
	['write.done',                'before'],
	['write.triggers_done',       'before'],
	['checkpoint.chain_deleted',  'before'],
	['checkpoint.blob_made',      'before'],
	['checkpoint.base_made',      'before'],
	['checkpoint.blobs_inserted', 'before'],
	['checkpoint.state_written',  'before'],
	['checkpoint.commit_before',  'before'],
	['checkpoint.commit_after',   'before'],
	['sink.prepared',             'before'],
	['commit.before',             'before'],
	['undo.version',              'undo'],
	['undo.left',                 'left'],
	['store.discarding',          'discard'],
	['commit.after',              'after'],
	['sink.committed',            'after'],
	['publish.version',           'after'],
	['publish.middle',            'after'],
	['publish.done',              'after'],
	['batch.done',                'after']);
my $counted = 'SELECT k, count(*) AS n, sum(v) AS total FROM events WHERE v <> 13 GROUP BY k';
my %modes = (
	append => [ q{SELECT stream_agg.tumble(ts, '20 seconds', '2026-01-01 00:00:10Z') AS win, k, count(*) AS n, sum(v) AS total
		FROM events WHERE v <> 13 GROUP BY 1, 2}, ", watermark => '2 minutes'" ],
	complete => [ "$counted HAVING sum(v) % 3 <> 0", '' ],
	update => [ "$counted HAVING sum(v) % 5 <> 0", '' ]);
my @modes = sort keys %modes;

my $broker = start_broker(events => 2);
my $node = new_node('failpoints', 'restart_after_crash = on', 'max_worker_processes = 40',
	"stream_agg.max_retry_delay = '50ms'", 'stream_agg.keep_batches = 1000000', 'timezone = UTC');
my $rng = seeded_random();
create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');
audit_functions($node);

my %mode_of;
for my $set (1 .. $sets)
{
	for my $mode (@modes)
	{
		my ($query, $more) = @{ $modes{$mode} };
		$mode_of{"${mode}_$set"} = $mode;
		$node->safe_psql('postgres', "SELECT stream_agg.create_stream('${mode}_$set', \$q\$$query\$q\$,
			output_mode => '$mode', trigger => '0' $more)");
	}
}
my @streams = sort keys %mode_of;

# --- records: a chunk is 20 seconds of event time, so each ends one window, and
# brings some new groups, so that tables grow
my ($chunks, $produced) = (0, 0);

sub produce
{
	my @records;
	for my $i (0 .. 19)
	{
		my $second = 20 * $chunks + $i;
		my $ts = sprintf('2026-01-%02dT%02d:%02d:%02d.5Z', 1 + int($second / 86400), int($second / 3600) % 24,
			int($second / 60) % 60, $second % 60);
		my $record = {
			ts => $i == 7 ? undef : $ts,
			k => $i < 15 ? $rng->(8) : 1000 + 5 * $chunks + $i,
			v => $i == 3 ? 13 : $rng->(1000) };
		push @records, [ $i % 2, '', json_record($record, numbers => [qw(k v)]) ];
	}
	$broker->produce('events', @records);
	$chunks++;
	$produced += @records;
	return;
}

sub rows
{
	my $sql = shift;
	my @rows = map { [ split /\|/, $_, -1 ] } split /\n/, $node->safe_psql('postgres', $sql);
	return map { $_->[0] => $_ } @rows;
}

# stream => [stream, last planned batch, its plan, last committed batch, its row, pid]
sub snapshot
{
	return rows(q{
		BEGIN;
		SELECT s.stream, o.batch, md5(concat_ws(' ', o.ranges, o.watermark, o.batch_time)), c.batch, md5(c::text), st.pid
		  FROM stream_agg.streams s
		  JOIN pg_stat_stream_agg st ON st.stream = s.stream::text
		  JOIN LATERAL (SELECT * FROM stream_agg.offsets WHERE stream = s.stream ORDER BY batch DESC LIMIT 1) o ON true
		  JOIN LATERAL (SELECT * FROM stream_agg.commits WHERE stream = s.stream ORDER BY batch DESC LIMIT 1) c ON true;
		-- all of that durable, for plans are committed without waiting
		SELECT FROM pg_logical_emit_message(true, 'failpoints', '');
		COMMIT});
}

# stream => [stream, handle, in batch, batch, bytes, objects, reachable, deaths]
sub audit
{
	return rows(q{SELECT s.stream, f.* FROM stream_agg.streams s, failpoint_store(s.query) f});
}

# Everything there is into the tables; then stream => reason for each that is
# not as it should be.
sub verify
{
	my %plan = @_;
	my @processed = map { "SELECT FROM stream_agg.process_available('$_', '1 minute')" } @streams;
	my $oracles = join(";\n", map { "CREATE TEMP TABLE oracle_$_ AS " . $modes{$_}->[0] } @modes);
	my @checks;
	for my $stream (@streams)
	{
		my $mode = $mode_of{$stream};
		my $where = $mode eq 'append'
		  ? "upper(win) <= (SELECT watermark FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1)"
		  : 'true';
		my $oracle = "(SELECT * FROM oracle_$mode WHERE $where)";
		my ($batch, $hash, $committed, $row) = @{ $plan{$stream} }[ 1 .. 4 ];
		push @checks, qq{
		SELECT '$stream', concat_ws(' ',
			CASE WHEN EXISTS ($oracle EXCEPT ALL SELECT * FROM $stream) OR EXISTS (SELECT * FROM $stream EXCEPT ALL $oracle)
				THEN 'table' END,
			CASE WHEN (SELECT (total_delivered, total_aggregated + total_late + total_null_time + total_dead_lettered + total_filtered)
				         FROM stream_agg.commits WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1)
				IS DISTINCT FROM (${produced}::bigint, ${produced}::bigint) THEN 'counts' END,
			CASE WHEN EXISTS (SELECT FROM backwards WHERE stream = '$stream') THEN 'progress' END,
			CASE WHEN '$hash' <> (SELECT md5(concat_ws(' ', ranges, watermark, batch_time))
				                    FROM stream_agg.offsets WHERE stream = '$stream' AND batch = $batch)
				   OR NOT EXISTS (SELECT FROM stream_agg.commits c JOIN stream_agg.offsets o USING (stream, batch)
				                   WHERE stream = '$stream' AND batch = $batch AND
				                   NOT EXISTS (SELECT FROM jsonb_each(o.ranges) r
				                                WHERE (r.value ->> 1)::bigint <> (c.offsets ->> r.key)::bigint))
				   OR '$row' <> (SELECT md5(c::text) FROM stream_agg.commits c WHERE stream = '$stream' AND batch = $committed)
				THEN 'plan' END,
			(SELECT CASE WHEN in_batch OR objects <> reachable THEN format('memory (%s objects, %s reachable)', objects, reachable) END
			   FROM failpoint_store('${stream}_query'::regclass)))};
	}
	# one that fails shows in its table
	$node->psql('postgres', join(";\n", @processed), on_error_stop => 0);
	return rows(qq{
		$oracles;
		CREATE TEMP TABLE backwards AS
			SELECT stream FROM (
				SELECT *, lag(watermark) OVER w AS last_watermark, lag(batch) OVER w AS last_batch,
				       lag(offsets) OVER w AS last_offsets
				  FROM stream_agg.commits WINDOW w AS (PARTITION BY stream ORDER BY batch)) x
			 WHERE watermark < last_watermark OR batch <> last_batch + 1
			    OR EXISTS (SELECT FROM jsonb_each_text(last_offsets) before
			                WHERE before.value::bigint > (offsets ->> before.key)::bigint);
		} . join(' UNION ALL ', @checks));
}

# --- to its place with each stream of a round
sub streams_of { my $set = shift; return map { "${_}_$set" } @modes; }

sub take_to_points
{
	my %point = @_;    # by stream
	my @reopened = grep { $point{$_}->[1] =~ /open|restore/ } keys %point;
	my %way = (undo => [ 'execute.done', 'error' ], left => [ 'execute.done', 'fatal' ],
		discard => [ 'store.changing', 'fatal', 2 ]);
	my %leads_to = map { my $way = $way{ $point{$_}->[1] }; $way ? ($_ => $way) : () } keys %point;
	my %call = map { my $function = $_; ($_ => join('; ', map { "SELECT FROM stream_agg.$function('$_')" } @reopened)) }
	  qw(stop_stream start_stream);

	$node->safe_psql('postgres', $call{stop_stream}) if @reopened;
	for my $stream (keys %point)
	{
		my ($name, $where, $hit) = @{ $point{$stream} };
		($name, $hit) = @{ $leads_to{$stream} }[ 0, 2 ] if $leads_to{$stream};
		arm($node, $stream, $name, 'hang', $hit);
	}
	$node->safe_psql('postgres', $call{start_stream}) if @reopened;

	# a chunk, and others for places that not every batch comes to
	for (1 .. 40)
	{
		produce();
		last if wait_until(sub { !grep { !is_hit($node, $_) } keys %point }, 1);
	}
	for my $stream (keys %leads_to)
	{
		arm($node, $stream, $point{$stream}->[0], 'hang');
		release($node, $stream, $leads_to{$stream}->[1]);
	}
	wait_until(sub { !grep { !is_hit($node, $_) } keys %point });
	my @missed = grep { !is_hit($node, $_) } keys %point;
	disarm($node, $_) for @missed;
	return @missed;
}

# --- failures; each returns stream => reason for what is wrong at once
my ($known, $compared) = (0, 0);

sub fail_by_error
{
	my ($before, $at, %point) = @_;
	my %bad;

	# the next session hangs too: the store is then as undo has left it
	for my $stream (keys %point)
	{
		arm($node, $stream, 'session.opened', 'hang');
		release($node, $stream, 'error');
	}
	$bad{$_} = 'no retry' for grep { !wait_hit($node, $_) } keys %point;
	my %after = audit();
	for my $stream (keys %point)
	{
		my ($handle, $in_batch, $batch, $bytes, $objects, $reachable) = @{ $after{$stream} }[ 1 .. 6 ];
		my @was = @{ $before->{$stream} }[ 1 .. 4 ];
		if ($handle ne '')
		{
			my $undone = $point{$stream}->[1] !~ /undo|left|discard/;

			# a store that is only half undone is marked, and so discarded
			$bad{$stream} = "in batch: $in_batch, $objects objects, $reachable reachable"
			  if $undone ? $in_batch eq 't' || $objects != $reachable : $in_batch eq 'f';
			if ($undone && $handle eq $was[0] && $batch == $was[2])
			{
				$compared++;
				$bad{$stream} = "undo: $was[3] bytes became $bytes" if $bytes != $was[3];
			}
		}
		disarm($node, $stream);
		release($node, $stream, 'go');
	}
	return %bad;
}

# What the worker does with the signal once it serves interrupts again.
sub fail_by_signal
{
	my ($signal, $at, %point) = @_;
	kill $signal, grep { $_ ne '' } map { $at->{$_}->[5] } keys %point;
	release($node, $_, 'go') for keys %point;
	return ();
}

# The one that stops the stream gets its lock from a worker that recovers.
sub fail_while_stopping
{
	my ($before, $at, %point) = @_;
	my %stopping = map { my $stream = $_; ($stream => IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'),
				'-c', "SELECT FROM stream_agg.stop_stream('$stream')" ])) } keys %point;
	$node->poll_query_until('postgres', 'SELECT count(*) = ' . keys(%point) . q{
		  FROM pg_stat_activity WHERE query ~ 'stop_stream' AND wait_event_type = 'Lock'});
	release($node, $_, 'error') for keys %point;
	my %bad = map { $_ => 'not stopped' } grep { !$stopping{$_}->finish } keys %point;
	my %after = audit();
	$bad{$_} //= 'a stopped stream has a store' for grep { $after{$_}->[1] ne '' } keys %point;
	$node->safe_psql('postgres', join('; ', map { "SELECT FROM stream_agg.start_stream('$_')" } keys %point));
	return %bad;
}

my %failure = (
	stop_stream => \&fail_while_stopping,
	cancel => sub { my ($before, @rest) = @_; return fail_by_signal('INT', @rest); },
	terminate => sub { my ($before, @rest) = @_; return fail_by_signal('TERM', @rest); },
	ERROR => \&fail_by_error,
	FATAL => sub {
		my ($before, $at, %point) = @_;
		release($node, $_, 'fatal') for keys %point;
		return ();
	},
	SIGKILL => sub {
		my ($before, $at, %point) = @_;
		kill_backends($node, map { $at->{$_}->[5] } keys %point);
		return ();
	},
	'SIGKILL other' => sub {
		my ($victim, $pid) = start_backend($node);
		kill_backends($node, $pid);
		$victim->finish;
		return ();
	},
	'immediate stop' => sub {
		$node->stop('immediate');
		$node->start;
		return ();
	});

# --- all rounds
produce() for 1 .. 8;
my %idle = map { $_ => [ $_, 0, '', 0, '' ] } @streams;
process($node, $_) for @streams;
produce();
process($node, $_) for @streams;

my %result;
my $started = time;
ACTION: for my $action (@actions)
{
	my @left = @points;
	while (my @round = splice(@left, 0, $sets))
	{
		my %point;
		for my $set (1 .. @round) { $point{$_} = $round[ $set - 1 ] for streams_of($set); }

		my %before = audit();
		my %bad = map { $_ => 'not reached' } take_to_points(%point);
		my %at = snapshot();
		for my $stream (keys %point)
		{
			my ($planned, $committed) = @{ $at{$stream} }[ 1, 3 ];
			my $pending = $point{$stream}->[1] =~ /open|after/ ? 0 : 1;
			$bad{$stream} //= "batch $planned, committed $committed" if $planned - $committed != $pending;
		}
		produce();
		%bad = (%bad, $failure{$action}->(\%before, \%at, %point));

		my %wrong = verify(%at);
		my %after = audit();
		for my $stream (keys %point)
		{
			my $handle = $before{$stream}->[1];
			my $leaked = $handle ne '' && $handle ne $after{$stream}->[1] && $action !~ /SIGKILL|stop/
			  && $node->safe_psql('postgres', "SELECT failpoint_segment($handle)") eq 't';
			my @what = grep { defined && $_ ne '' } $bad{$stream}, $wrong{$stream}->[1], $leaked ? 'segment left' : undef;
			$result{ $point{$stream}->[0] }{$action}{ $mode_of{$stream} } = join(', ', @what);
		}
		my $failed = $node->safe_psql('postgres',
			q{SELECT string_agg(stream || ': ' || last_error, E'\n') FROM pg_stat_stream_agg WHERE state = 'failed'});
		if ($failed ne '') { diag($failed); last ACTION; }
	}
}
my $took = time - $started;

for my $point (map { $_->[0] } @points)
{
	for my $action (@actions)
	{
		for my $mode (@modes)
		{
			is($result{$point}{$action}{$mode} // 'not run', '', "$mode: " . ($long{$action} // $action) . " at $point");
		}
	}
}

# the table: a column for each failure, in it the modes in this order
note('table: each cell: ' . join(' ', @modes));
note(join(' ', sprintf('table: %-26s', 'failure at'), map { sprintf '%-14s', $_ } @actions));
for my $point (map { $_->[0] } @points)
{
	note(join(' ', sprintf('table: %-26s', $point), map { my $action = $_;
		sprintf '%-14s', join(' ', map { ($result{$point}{$action}{$_} // 'not run') eq '' ? 'ok' : 'NOT OK' } @modes) } @actions));
}

cmp_ok($compared, '>=', @modes * 10, "bytes of the state store were compared before and after an undo ($compared times)");
note(sprintf '%d cells in %.0f s, %d records', @points * @actions * @modes, $took, $produced);

# --- a store that a worker has left in a batch
for my $case ([ 'execute.done', 1, 1 ], [ 'store.changed', 2, 1 ], [ 'store.changing', 2, 0 ])
{
	my ($point, $hit, $undone) = @$case;
	my @left = streams_of(1);

	process($node, $_) for @streams;
	my %before = audit();
	arm($node, $_, $point, 'hang', $hit) for @left;
	produce();
	wait_hit($node, $_) or die "no worker comes to $point" for @left;
	for my $stream (@left)
	{
		arm($node, $stream, 'execute.begun', 'hang');
		release($node, $stream, 'fatal');
	}
	wait_hit($node, $_) or die 'the next worker does not come' for @left;
	my %after = audit();
	my (%is, %expected);
	for my $stream (@left)
	{
		my ($handle, undef, $batch, $bytes, $objects, $reachable) = @{ $after{$stream} }[ 1 .. 6 ];
		my $was = $before{$stream};

		$is{$stream} = [ $handle eq $was->[1] ? 'same' : 'another',
			$undone ? ("batch $batch", "$bytes bytes", "$objects objects", "$reachable reachable") : () ];
		$expected{$stream} = [ $undone ? 'same' : 'another',
			$undone ? ("batch $was->[3]", "$was->[4] bytes", "$was->[5] objects", "$was->[6] reachable") : () ];
	}
	is_deeply(\%is, \%expected, "after a FATAL at $point the next worker " .
		($undone ? 'has the store as it was before the batch' : 'does not trust the store'));
	for my $stream (@left)
	{
		disarm($node, $stream);
		release($node, $stream, 'go');
	}
	my %at = snapshot();
	my %wrong = verify(%at);
	is(join(', ', grep { $_ ne '' } map { $wrong{$_}->[1] } @left), '', '... and results, counts and memory are right');
}

# --- a batch that kills its worker again and again
my $stream = $streams[0];
arm($node, $stream, 'execute.row', 'hang');
produce();
for my $death (1 .. 4)
{
	wait_hit($node, $stream) or die 'the worker did not come back';
	arm($node, $stream, $death < 4 ? 'execute.row' : 'session.opened', 'hang');
	release($node, $stream, 'fatal');
}
wait_hit($node, $stream);
is($node->safe_psql('postgres', "SELECT deaths FROM failpoint_store('${stream}_query')"), 4,
	'deaths of workers are counted until a batch is good, so that each waits longer than the one before');
disarm($node, $stream);
release($node, $stream, 'go');
process($node, $stream);
is($node->safe_psql('postgres', "SELECT deaths FROM failpoint_store('${stream}_query')"), 0, 'and then anew');

# --- a stream that has failed, whose worker has not ended yet, can be started
$broker->create_topic('broken', 1);
create_source($node, $broker, 'broken', 'broken', 'k int');
$broker->produce('broken', '{"k": "no number"}');
arm($node, 'fails', 'stream.failed', 'hang');
$node->safe_psql('postgres', q{SELECT stream_agg.create_stream('fails', 'SELECT k, count(*) AS n FROM broken GROUP BY k', output_mode => 'update')});
wait_hit($node, 'fails') or die 'the stream does not fail';
wait_state($node, 'fails', 'failed');
my (undef, undef, $notice) = $node->psql('postgres', q{SELECT stream_agg.start_stream('fails')});
is($notice, '', 'a stream that has failed is not taken for one that runs, though its worker has not ended');
arm($node, 'fails', 'stream.failed', 'hang');
release($node, 'fails', 'go');
ok(wait_hit($node, 'fails'), 'and another worker takes it up');
disarm($node, 'fails');
release($node, 'fails', 'go');
$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('fails', drop_sink => true)});

# --- a worker that fails often keeps nothing of it
sub fail_often
{
	for (1 .. shift)
	{
		arm($node, $stream, 'execute.row', 'error');
		produce();
		wait_hit($node, $stream) or die 'the batch does not run';
		process($node, $stream);
	}
	return;
}

# threads of the worker, and its descriptors of other things than files, which
# the server keeps open
sub threads_and_descriptors
{
	my $pid = worker_pid($node, $stream);
	my @threads = glob "/proc/$pid/task/*";
	my @descriptors = grep { (readlink $_ // '') !~ m{^/} } glob "/proc/$pid/fd/*";
	return scalar(@threads) . ' threads, ' . scalar(@descriptors) . ' descriptors';
}

sub memory
{
	my $pid = worker_pid($node, $stream);
	my $log = -s $node->logfile;
	$node->safe_psql('postgres', "SELECT pg_log_backend_memory_contexts($pid)");
	$node->wait_for_log(qr/\[$pid\] LOG:  Grand total: \d+ bytes/, $log);
	my ($bytes) = slurp_file($node->logfile, $log) =~ /\[$pid\] LOG:  Grand total: (\d+) bytes/;
	return $bytes;
}

fail_often(5);
my ($few, $few_bytes) = (threads_and_descriptors(), memory());
fail_often(20);
my $many;
ok(wait_until(sub { $many = threads_and_descriptors(); $many eq $few }), 'after 25 ERRORs a worker has what it had after 5')
  or diag("$few; $many");
cmp_ok(memory(), '<', $few_bytes + 200_000, "and no more memory, $few_bytes bytes");

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|leak|signal (?:6|11):/, 'no PANIC, no segmentation fault, and the server has found nothing leaked');

done_testing();
