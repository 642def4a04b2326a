# Nobody waits without a bound for what another role does: not the launcher for a
# database, not a transaction for one of another role, not a command for a
# micro-batch that does not end.  And what the settings of a role mean for its
# streams.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1);
my $node = new_node('bounded_waits', 'max_worker_processes = 20');
my $brokers = $broker->brokers;
my $produced = 0;

sub value { my ($query, $database) = @_; return $node->safe_psql($database // 'postgres', $query); }

sub produce
{
	$broker->produce('events', map { sprintf('{"k":1,"v":%d}', $produced++) } 1 .. $_[0]);
	return;
}

sub create_source_in
{
	my ($database) = @_;
	value("CREATE EXTENSION IF NOT EXISTS stream_agg", $database);
	value("SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers', columns => 'k int, v int')", $database);
	return;
}

my $simple = q{'SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update', trigger => '0'};

# A session that stays open: what it is told is done when ask() returns.
sub session
{
	my ($database, $user) = @_;
	my %s = (in => '', out => '');
	$s{psql} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($database), $user ? ('-U', $user) : () ],
		'<', \$s{in}, '>', \$s{out}, '2>&1', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%s;
}
sub send_to { my ($s, $query) = @_; $s->{in} .= "$query;\n"; $s->{psql}->pump_nb; return; }

sub ask
{
	my ($s, $query) = @_;
	$s->{out} = '';
	send_to($s, $query) if $query;
	$s->{in} .= "\\echo done\n";
	$s->{psql}->pump until $s->{out} =~ /done\n/;
	return $s->{out} =~ s/done\n//r;
}
sub quit { my $s = shift; $s->{in} .= "\\q\n"; $s->{psql}->finish; return; }

sub wait_for
{
	my ($query) = @_;
	$node->poll_query_until('postgres', $query) or die "never: $query";
	return;
}

create_source_in('postgres');

subtest 'M7: databases whose owner keeps them locked do not keep streams of others from starting' => sub {
	# scouts that wait for their database
	my $waiting = q{SELECT count(*) %s FROM pg_locks WHERE locktype = 'object' AND mode = 'RowExclusiveLock' AND NOT granted};
	my @locked = map { "locked$_" } 1 .. 5;
	for my $database (@locked)
	{
		value("CREATE DATABASE $database");
		create_source_in($database);
		value("SELECT stream_agg.create_stream('s', $simple)", $database);
	}
	wait_for("SELECT count(*) = 5 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker'");
	my $log = -s $node->logfile;
	my $owner = session('postgres');
	ask($owner, 'BEGIN');
	for my $database (@locked)
	{
		# nested, so that it is not seen; it takes the lock, then waits for sessions to go
		my $inside = session($database);
		ask($inside, 'SELECT 1');
		send_to($owner, "DO \$\$ BEGIN EXECUTE 'ALTER DATABASE $database RENAME TO renamed_$database'; END \$\$");
		wait_for("SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'object' AND mode = 'AccessExclusiveLock' AND granted
			AND objid = (SELECT oid FROM pg_database WHERE datname = '$database')");
		ask($inside, q{SELECT stream_agg.stop_stream('s')});
		quit($inside);
		ask($owner);
	}
	wait_for(sprintf($waiting, '> 0'));
	value('CREATE DATABASE other');
	create_source_in('other');
	my $start = time;
	value("SELECT stream_agg.create_stream('s', $simple)", 'other');
	wait_for(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker' AND datname = 'other'});
	cmp_ok(time - $start, '<', 25, 'a stream of another database starts');
	for (1 .. 300)
	{
		last if slurp_file($node->logfile, $log) =~ /could not look for streams in database/;
		Time::HiRes::usleep(100_000);
	}
	like(slurp_file($node->logfile, $log), qr/WARNING:  could not look for streams in database \d+ within 10 s/, 'the scout is given up');
	wait_for(sprintf($waiting, '<= 1'));
	pass('and one place at most is taken by such databases');
	ask($owner, 'ROLLBACK');
	value(q{SELECT stream_agg.start_stream('s')}, $_) for @locked;
	wait_for("SELECT count(*) = 6 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker'");
	pass('when they are unlocked their streams start');

	ask($owner, 'BEGIN');
	send_to($owner, "ALTER DATABASE locked1 RENAME TO renamed");
	is(ask($owner), '', 'RENAME in a transaction block finds the database without workers');
	ask($owner, 'ROLLBACK');
	wait_for("SELECT count(*) = 6 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker'");
	quit($owner);
	value("DROP DATABASE $_") for @locked, 'other';
};

subtest 'L3: a transaction that has made a stream keeps no other role waiting' => sub {
	value(qq{CREATE ROLE $_ LOGIN; CREATE SCHEMA $_ AUTHORIZATION $_; GRANT SELECT ON events TO $_}) for 'alice', 'bob';
	my $alice = session('postgres', 'alice');
	ask($alice, "BEGIN; SELECT stream_agg.create_stream('alice.r', $simple, reader => 'clicks')");
	my $bob = "SET lock_timeout = '2s'; SELECT stream_agg.create_stream('bob.r', $simple, reader => 'clicks')";
	is($node->psql('postgres', $bob, extra_params => [ '-U', 'bob' ]), 0, 'with a reader of the same name');
	my $again = "SET lock_timeout = '200ms'; SELECT stream_agg.create_stream('alice.r2', $simple, reader => 'clicks')";
	isnt($node->psql('postgres', $again, extra_params => [ '-U', 'alice' ]), 0, 'the same reader is the same role');
	ask($alice, 'ROLLBACK');
	quit($alice);
	value(q{SELECT stream_agg.drop_stream('bob.r', drop_sink => true)});

	value('CREATE DATABASE fresh');
	create_source_in('fresh');
	value('GRANT CREATE ON DATABASE fresh TO alice, bob; GRANT SELECT ON events TO alice, bob', 'fresh');
	value(qq{CREATE SCHEMA $_ AUTHORIZATION $_}, 'fresh') for 'alice', 'bob';
	$alice = session('fresh', 'alice');
	ask($alice, "BEGIN; SELECT stream_agg.create_stream('alice.s', $simple)");
	$bob = "SET lock_timeout = '2s'; SELECT stream_agg.create_stream('bob.s', $simple)";
	is($node->psql('fresh', $bob, extra_params => [ '-U', 'bob' ]), 0, 'with the first stream of the database');
	ask($alice, 'COMMIT');
	quit($alice);
	is(value(q{SELECT string_agg(label, ',') FROM pg_shseclabel WHERE objoid = (SELECT oid FROM pg_database WHERE datname = 'fresh')}),
		'streams', 'which is labelled, once');
	wait_for(q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker' AND datname = 'fresh'});
	$node->restart;
	wait_for(q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker' AND datname = 'fresh'});
	pass('so that both run, also after a restart');
	value('DROP DATABASE fresh');
};

subtest 'L3: names chosen to collide keep no other role waiting' => sub {
	# names of 32 bits in one place would have some that are the same for two roles
	my $tag = sub { my ($role, $names) = @_; return qq{SELECT '$names' || i AS name, hashtext('$names' || i) AS hash, oid AS owner FROM pg_roles, generate_series(1, 200000) i WHERE rolname = '$role'}; };
	my $murmur = sub {
		my $h = shift;
		$h = (($h ^ $h >> 16) * 0x85ebca6b) & 0xffffffff;
		$h = (($h ^ $h >> 13) * 0xc2b2ae35) & 0xffffffff;
		return $h ^ $h >> 16;
	};
	my %mixed = map { my $a = $murmur->(value("SELECT oid FROM pg_roles WHERE rolname = '$_'")); ($_ => [ $a, (0x9e3779b9 + ($a << 6) + ($a >> 2)) & 0xffffffff ]) } 'alice', 'bob';
	my ($mine, $theirs) = map { my $role = $_; "SELECT name, $mixed{$role}[0] # ((hash::bigint & 4294967295) + $mixed{$role}[1] & 4294967295) AS mixed FROM (@{[ $tag->($role, $role) ]}) x" } 'alice', 'bob';
	my ($a, $b) = split /\|/, value("SET enable_nestloop = off; SELECT a.name, b.name FROM ($mine) a JOIN ($theirs) b USING (mixed) LIMIT 1");
	ok(defined $b, 'there are such names');
	my $alice = session('postgres', 'alice');
	ask($alice, "BEGIN; SELECT stream_agg.create_stream('alice.r', $simple, reader => '$a')");
	is($node->psql('postgres', "SET lock_timeout = '2s'; SELECT stream_agg.create_stream('bob.r', $simple, reader => '$b')", extra_params => [ '-U', 'bob' ]),
		0, 'a reader of another role');
	is(value(q{SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND objsubid = 2 AND classid = 'alice'::regrole}), 1, 'the lock has the whole owner');
	ask($alice, 'ROLLBACK');
	quit($alice);
	value(q{SELECT stream_agg.drop_stream('bob.r', drop_sink => true)});
};

subtest 'a stream that is not committed keeps no other role waiting for its name' => sub {
	my $alice = session('postgres', 'alice');
	ask($alice, "SET search_path = alice, public; BEGIN; SELECT stream_agg.create_stream('named', $simple, start => false)");
	my $bob = "SET lock_timeout = '2s'; SET search_path = bob, public; SELECT stream_agg.create_stream('%s', $simple, start => false)";
	my (undef, undef, $err) = $node->psql('postgres', sprintf($bob, 'named'), extra_params => [ '-U', 'bob' ]);
	like($err, qr/ERROR:  a transaction that has not ended creates a stream "named".*HINT:  Try again when it has ended, or name the stream with its schema/s, 'the same name');
	is($node->psql('postgres', sprintf($bob, 'bob.named'), extra_params => [ '-U', 'bob' ]), 0, 'the name with a schema');
	value(q{SELECT stream_agg.drop_stream('bob.named', drop_sink => true)});
	ask($alice, 'ROLLBACK');
	is($node->psql('postgres', sprintf($bob, 'named'), extra_params => [ '-U', 'bob' ]), 0, 'the name when it is free');
	(undef, undef, $err) = $node->psql('postgres', "SET search_path = alice, public; SELECT stream_agg.create_stream('named', $simple)", extra_params => [ '-U', 'alice' ]);
	like($err, qr/stream "named" already exists/, 'and when it is not');
	quit($alice);
	value(q{SELECT stream_agg.drop_stream('named', drop_sink => true)});
};

my $asleep = q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'stream_agg worker' AND wait_event = 'PgSleep'};
value(q{
	CREATE TABLE stuck (stuck bool);
	CREATE FUNCTION public.sleeping(int) RETURNS int STABLE LANGUAGE plpgsql AS $$
	BEGIN
		IF EXISTS (SELECT FROM stuck) THEN PERFORM pg_sleep(6000); END IF;
		RETURN $1;
	END $$;
	CREATE FUNCTION public.stubborn(int) RETURNS int STABLE LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. 100 LOOP
			BEGIN
				IF EXISTS (SELECT FROM stuck) THEN PERFORM pg_sleep(6000); END IF;
			EXCEPTION WHEN query_canceled THEN NULL;
			END;
		END LOOP;
		RETURN $1;
	END $$;
	GRANT SELECT ON stuck TO alice});
produce(3);

for my $function ('sleeping', 'stubborn')
{
	subtest "L6: stop_stream ends a micro-batch that does not end ($function)" => sub {
		value('INSERT INTO stuck VALUES (true)');
		value("SELECT stream_agg.create_stream('s', 'SELECT k, count(*) AS n, sum($function(v)) AS total FROM events GROUP BY k', output_mode => 'update', trigger => '0')");
		wait_for($asleep);
		is($node->psql('postgres', q{SET lock_timeout = '20s'; SET stream_agg.stop_timeout = '200ms'; SELECT stream_agg.stop_stream('s')}),
			0, 'it returns');
		is(value(q{SELECT count(*) FROM stream_agg.commits WHERE stream = 's'}), 0, 'the micro-batch is rolled back');
		value(q{DELETE FROM stuck; SELECT stream_agg.start_stream('s')});
		process($node, 's');
		is_equal_tables($node, 'SELECT * FROM s', 'SELECT k, count(*), sum(v) FROM events GROUP BY k', 'and run when the stream starts again');
		value(q{SELECT stream_agg.drop_stream('s', drop_sink => true)});
	};
}

subtest 'L6: DROP EXTENSION ends a micro-batch that does not end' => sub {
	value('CREATE DATABASE dropping');
	create_source_in('dropping');
	value(q{CREATE FUNCTION sleeping(int) RETURNS int STABLE LANGUAGE sql AS 'SELECT $1 FROM pg_sleep(6000)'}, 'dropping');
	value(q{SELECT stream_agg.create_stream('s', 'SELECT k, count(*) AS n, sum(sleeping(v)) AS total FROM events GROUP BY k', output_mode => 'update', trigger => '0')}, 'dropping');
	wait_for($asleep);
	is($node->psql('dropping', q{SET lock_timeout = '20s'; SET stream_agg.stop_timeout = '200ms'; DROP EXTENSION stream_agg CASCADE}), 0, 'it returns');
	value('DROP DATABASE dropping');
};

subtest 'L6: what statement_timeout, NOLOGIN, CONNECTION LIMIT and VALID UNTIL mean' => sub {
	value(q{ALTER ROLE alice SET statement_timeout = '1ms'});
	$node->safe_psql('postgres', q{SET statement_timeout = 0;
		SELECT stream_agg.create_stream('alice.s', 'SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k', output_mode => 'update', trigger => '0')},
		extra_params => [ '-U', 'alice' ]);
	wait_for("SELECT (SELECT sum(n) FROM alice.s) = $produced");
	pass('statement_timeout is not for workers');
	value('ALTER ROLE alice RESET statement_timeout');
	my $pid = worker_pid($node, 'alice.s');
	value(q{ALTER ROLE alice CONNECTION LIMIT 0 VALID UNTIL '2000-01-01'});
	value("SELECT pg_terminate_backend($pid)");
	wait_for("SELECT pid <> $pid AND state = 'running' FROM pg_stat_stream_agg WHERE stream = 'alice.s'");
	pass('a worker starts in spite of CONNECTION LIMIT 0 and VALID UNTIL');
	$pid = worker_pid($node, 'alice.s');
	value('ALTER ROLE alice NOLOGIN');
	produce(1);
	wait_for("SELECT (SELECT sum(n) FROM alice.s) = $produced");
	is(worker_pid($node, 'alice.s'), $pid, 'NOLOGIN does not end a worker that runs');
	value("SELECT pg_terminate_backend($pid)");
	wait_for(q{SELECT last_error ~ 'could not connect to the database as the stream''s owner' FROM pg_stat_stream_agg WHERE stream = 'alice.s'});
	pass('but none starts');
	value('ALTER ROLE alice LOGIN');
	wait_state($node, 'alice.s', 'running');
	pass('until the role has LOGIN again');
};

subtest 'L6: what ALTER ROLE ... SET role means' => sub {
	value(q{CREATE ROLE frank; GRANT frank TO alice; ALTER ROLE alice SET role = 'frank'});
	my $pid = worker_pid($node, 'alice.s');
	value("SELECT pg_terminate_backend($pid)");
	wait_for("SELECT pid <> $pid AND state = 'running' FROM pg_stat_stream_agg WHERE stream = 'alice.s'");
	pass('a worker starts, as the owner');
	$pid = worker_pid($node, 'alice.s');
	produce(2);
	wait_for("SELECT (SELECT sum(n) FROM alice.s) = $produced");
	is(worker_pid($node, 'alice.s'), $pid, 'and stays');
	value(q{ALTER ROLE alice RESET role});
};

done_testing();
