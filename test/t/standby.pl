# A standby that is promoted goes on from the offsets that were replicated, and
# a base backup restored to a point in time from those of that time; until then
# nothing runs there.

use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;
use Time::HiRes ();

my $broker = start_broker(clicks => 4);
my $seed = seed();
my $random = seeded_random($seed);

my @settings = ("shared_preload_libraries = 'stream_agg'", "stream_agg.max_retry_delay = '1s'",
	'stream_agg.keep_batches = 1000000', 'max_wal_senders = 5', 'wal_keep_size = 512MB');
my $first = PostgreSQL::Test::Cluster->new('first');
$first->init(allows_streaming => 1, has_archiving => 1);
$first->append_conf('postgresql.conf', join("\n", @settings, ''));
$first->start;
$first->safe_psql('postgres', 'CREATE EXTENSION stream_agg');
create_source($first, $broker, 'clicks', 'clicks', 'ts timestamptz, user_id bigint, purchase_amount numeric');

# Batches slow enough to be interrupted in their middle, or fast.
sub set_pause
{
	my ($node, $seconds) = @_;
	$node->safe_psql('postgres', qq{
		CREATE OR REPLACE FUNCTION slowly(numeric) RETURNS numeric STABLE LANGUAGE plpgsql AS \$\$
		BEGIN
			PERFORM pg_sleep($seconds) WHERE $seconds > 0;
			RETURN \$1;
		END \$\$});
	return;
}
set_pause($first, 0.002);
$first->safe_psql('postgres', q{
	SELECT stream_agg.create_stream('spend',
		'SELECT user_id, count(*) AS n, sum(slowly(purchase_amount)) AS total FROM clicks GROUP BY 1',
		output_mode => 'update', trigger => '0', max_offsets_per_trigger => 200);
	SELECT stream_agg.create_stream('windows',
		$q$ SELECT stream_agg.tumble(ts, '20 seconds') AS win, user_id % 5 AS u, count(*) AS n, sum(slowly(purchase_amount)) AS total
		      FROM clicks GROUP BY 1, 2 $q$,
		output_mode => 'append', watermark => '1 minute', trigger => '0', max_offsets_per_trigger => 200);
	SELECT stream_agg.create_stream('whole',
		'SELECT user_id % 7 AS u, count(*) AS n, sum(slowly(purchase_amount)) AS total FROM clicks GROUP BY 1',
		output_mode => 'complete', trigger => '0', max_offsets_per_trigger => 200)});
my @streams = ('spend', 'windows', 'whole');

# --- load: another process produces until it is told to stop, and says how many
# records that were.  A batch takes longer than its records take to come, so the
# streams are in the middle of one at almost any time.
my ($produced, $loads) = (0, 0);

sub produce_some
{
	my $from = shift;
	$broker->produce('clicks', map {
		my $second = ($from + $_) / 20 - $random->(10);
		my $ts = POSIX::strftime('%Y-%m-%dT%H:%M:%SZ', gmtime(1767225600 + $second));
		[ ($from + $_) % 4, '', json_record({ ts => $ts, user_id => $random->(50),
				purchase_amount => $random->(5) ? $random->(10000) / 100 : undef },
			numbers => [qw(user_id purchase_amount)]) ] } 1 .. 100);
	return;
}

sub start_load
{
	my %load = (stop => PostgreSQL::Test::Utils::tempdir() . '/stop' . ++$loads);
	$load{count} = "$load{stop}.count";
	$load{pid} = fork() // die "fork: $!";
	return \%load if $load{pid};

	# this process ends by _exit only: servers and broker are its parent's
	$random = seeded_random($seed + $loads);
	my $count = 0;
	until (-e $load{stop} || getppid() == 1)
	{
		eval { produce_some($produced + $count); 1 } or POSIX::_exit(1);
		$count += 100;
		Time::HiRes::usleep(150_000);
	}
	open my $out, '>', $load{count} or POSIX::_exit(1);
	print $out $count;
	close $out;
	POSIX::_exit(0);
}

sub end_load
{
	my $load = shift;
	append_to_file($load->{stop}, '');
	waitpid $load->{pid}, 0;
	$? == 0 or die 'cannot produce';
	$produced += slurp_file($load->{count});
	return;
}

sub last_batches
{
	my $node = shift;
	return $node->safe_psql('postgres',
		q{SELECT string_agg(stream || ' ' || b, ', ' ORDER BY stream)
		    FROM (SELECT stream, max(batch) AS b FROM stream_agg.commits GROUP BY stream) x});
}

# wait until every stream has committed some more batches
sub wait_for_batches
{
	my ($node, $n) = @_;
	my $before = $node->safe_psql('postgres',
		q{SELECT string_agg(format('(%L, %s)', stream, COALESCE((SELECT max(batch) FROM stream_agg.commits c WHERE c.stream = s.stream), -1)), ', ')
		    FROM stream_agg.streams s});
	$node->poll_query_until('postgres', qq{
		SELECT bool_and(COALESCE((SELECT max(batch) FROM stream_agg.commits c WHERE c.stream = was.stream), -1) >= was.batch + $n)
		  FROM (VALUES $before) was (stream, batch)}) or die 'no progress';
	return;
}

sub check_all
{
	my ($node, $what) = @_;
	set_pause($node, 0);
	for my $stream (@streams)
	{
		process($node, $stream);
		my $where = $stream eq 'windows' ? "upper(win) <= '" . watermark($node, $stream) . "'" : 'true';
		is_equal_tables($node, "SELECT * FROM $stream",
			"SELECT * FROM (SELECT * FROM ${stream}_query) q WHERE $where", "$what: $stream equals the batch query");
		counts_add_up($node, $stream, $produced, "$what: $stream has counted every record once");
	}
	is($node->safe_psql('postgres', q{
			SELECT count(*) FROM (
				SELECT batch, lag(batch) OVER w AS last_batch, offsets, lag(offsets) OVER w AS last_offsets
				  FROM stream_agg.commits WINDOW w AS (PARTITION BY stream ORDER BY batch)) x
			 WHERE batch <> last_batch + 1
			    OR EXISTS (SELECT FROM jsonb_each_text(last_offsets) before
			                WHERE before.value::bigint > (offsets ->> before.key)::bigint)}),
		0, "$what: batches follow each other, and offsets never go back");
	return;
}

# nothing of the extension runs in recovery, and who asks for it is told
sub check_standby
{
	my ($node, $what) = @_;
	is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'stream_agg%'}),
		0, "$what: neither launcher nor worker");
	is($node->safe_psql('postgres', 'SELECT count(*), count(pid), min(state), max(state) FROM pg_stat_stream_agg'),
		'3|0|stopped|stopped', "$what: streams are shown as stopped");
	for my $call ("process_available('spend', '1 hour')", "start_stream('spend')", "stop_stream('spend')",
		"alter_stream('spend', '{\"on_error\": \"skip\"}')", "reset_stream('spend')", "drop_stream('spend')")
	{
		my ($status, undef, $error) = $node->psql('postgres', "SELECT stream_agg.$call");
		like($error, qr/ERROR:  cannot execute stream_agg\.\w+\(\) during recovery/, "$what: no $call");
	}
	return;
}

sub start_standby
{
	my ($name, $primary) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$primary->backup("for_$name");
	$node->init_from_backup($primary, "for_$name", has_streaming => 1);
	$node->start;
	return $node;
}

# --- a base backup while streams run; it is restored further down
my $load = start_load();
wait_for_batches($first, 1);
$first->backup('base');

# --- the primary dies in the middle of batches
my $second = start_standby('second', $first);
wait_for_batches($first, 1 + $random->(3));
check_standby($second, 'a standby');
cmp_ok($second->safe_psql('postgres', 'SELECT count(*) FROM (SELECT FROM clicks LIMIT 10) x'), '==', 10,
	'a standby: a source can be read');
my $restore_point = $first->safe_psql('postgres',
	q{SELECT pg_create_restore_point('in the middle'); SELECT sum(total_delivered) FROM
	    (SELECT max(total_delivered) AS total_delivered FROM stream_agg.commits GROUP BY stream) x});
($restore_point) = $restore_point =~ /(\d+)$/;
my $segment = $first->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
$first->poll_query_until('postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver")
  or die 'the archive does not follow';
wait_for_batches($first, 1 + $random->(3));
$first->stop('immediate');
$second->promote;
wait_for_batches($second, 1);
note('promoted at ' . last_batches($second));
end_load($load);
check_all($second, 'promoted after a crash of the primary');

# --- a switchover under load: the primary is stopped, its standby takes over
my $third = start_standby('third', $second);
set_pause($second, 0.002);
$load = start_load();
wait_for_batches($second, 1 + $random->(3));
check_standby($third, 'the next standby');
$third->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'})
  or die 'the next standby does not follow';
$second->stop('fast');
my $left = $third->safe_psql('postgres', 'SELECT sum(total_delivered) FROM
	(SELECT max(total_delivered) AS total_delivered FROM stream_agg.commits GROUP BY stream) x');
$third->promote;
wait_for_batches($third, 1);
end_load($load);
cmp_ok($left, '<', 3 * $produced, 'a switchover: not everything had been processed');
check_all($third, 'a switchover');

# --- the former primary comes back as a standby of the new one, and takes over
# in its turn
$second->enable_streaming($third);
$second->set_standby_mode;
$second->start;
set_pause($third, 0.002);
$load = start_load();
wait_for_batches($third, 1 + $random->(3));
$second->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'})
  or die 'the former primary does not follow';
check_standby($second, 'the former primary');
$third->stop('immediate');
$second->promote;
wait_for_batches($second, 1);
end_load($load);
check_all($second, 'switched back');
$second->stop;

# --- the base backup, to the restore point: there it stays still until told
my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($first, 'base', has_restoring => 1);
$restored->append_conf('postgresql.conf', join("\n",
	"recovery_target_name = 'in the middle'", "recovery_target_action = 'promote'",
	'recovery_target_timeline = current', 'stream_agg.enabled = off', ''));
$restored->start;
$restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'recovery does not end';
is($restored->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'stream_agg worker'}),
	0, 'restored with stream_agg.enabled = off: no stream runs');
my $as_restored = $restored->safe_psql('postgres', 'SELECT sum(total_delivered) FROM
	(SELECT max(total_delivered) AS total_delivered FROM stream_agg.commits GROUP BY stream) x');
cmp_ok($as_restored, '<=', $restore_point, 'restored: offsets are those of the point in time');
$restored->append_conf('postgresql.conf', "stream_agg.enabled = on\n");
$restored->reload;
check_all($restored, 'restored to a point in time');
$restored->stop;

done_testing();
