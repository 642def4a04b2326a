# What runs as the owner of a stream is code of that owner, and of those who owned
# the query, sink and sources when the stream was started.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $node = new_node('trust', 'log_statement = none', 'fsync = off');

sub as
{
	my ($role, $sql, $name) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
	is($status, 0, $name) or diag($err) if defined $name;
	return ($out, $err, $status);
}
sub value { return $node->safe_psql('postgres', $_[0]); }

# how often code of somebody's has run as somebody else
sub calls { return value(q{SELECT last_value - 1 + is_called::int FROM public.calls}); }

sub background
{
	my ($role, @sql) = @_;
	my %session = (out => '', err => '', in => '');
	$session{psql} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-U', $role, '-d', $node->connstr('postgres'), '-f', '-' ],
		'<', \$session{in}, '>', \$session{out}, '2>', \$session{err});
	say_to(\%session, @sql);
	return \%session;
}
sub say_to
{
	my ($session, @sql) = @_;
	$session->{in} .= join('', map { /^\\/ ? "$_\n" : "$_;\n" } @sql);
	$session->{psql}->pump_nb;
	return;
}
sub waits { my ($like) = @_; return "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '$like%')"; }

$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN; CREATE ROLE mallory LOGIN; CREATE ROLE dave LOGIN; CREATE ROLE reader LOGIN;
	GRANT USAGE ON FOREIGN SERVER stream_agg_rate TO alice;
	GRANT CREATE ON SCHEMA public TO PUBLIC;
	CREATE SEQUENCE calls; GRANT ALL ON SEQUENCE calls TO PUBLIC;
	CREATE FUNCTION code_of(role text) RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN
		IF current_user <> role THEN PERFORM nextval('public.calls'); RAISE WARNING 'code of % ran as %', role, current_user; END IF;
		RETURN 1; END $$;
	CREATE SCHEMA super; GRANT USAGE ON SCHEMA super TO PUBLIC;
	SET search_path = super;
	CREATE FOREIGN TABLE ticks ("timestamp" timestamptz, value bigint) SERVER stream_agg_rate OPTIONS (rows_per_second '10');
	CREATE TABLE rates (k int, rate int); INSERT INTO rates VALUES (1, 2);
	CREATE TABLE sizes (k int, size interval); INSERT INTO sizes VALUES (1, '10 days');
	CREATE FUNCTION by_sql(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT max(rate) FROM rates WHERE k = $1';
	CREATE FUNCTION by_plpgsql(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT max(rate) FROM rates WHERE k = $1); END';
	CREATE FUNCTION size(int) RETURNS interval LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN (SELECT max(size) FROM sizes WHERE k = $1); END';
	CREATE FUNCTION valid(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN (SELECT max(rate) > 0 FROM rates); END';
	CREATE DOMAIN positive AS int CHECK (valid(VALUE));
	SELECT stream_agg.create_stream('rated', $q$SELECT stream_agg.tumble("timestamp", size(1)) AS win, count(*) * by_sql(1) AS a,
		count(*) * by_plpgsql(1) AS b, array_agg(DISTINCT 1::positive) AS c FROM ticks GROUP BY 1$q$, watermark => '5 seconds', trigger => '20 days');
	SELECT stream_agg.create_live_view('rated');
	GRANT SELECT ON rated_live TO reader});
value(q{SELECT stream_agg.process_available('rated', '60 seconds')});

subtest 'C3: names in functions of the query are never temporary objects of who reads it' => sub {
	my $hide = q{CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS $$SELECT public.code_of('reader')$$;
		CREATE TEMP VIEW rates AS SELECT 1 AS k, pg_temp.mine() AS rate;
		CREATE TEMP VIEW sizes AS SELECT 1 AS k, make_interval(days => pg_temp.mine()) AS size;
		GRANT SELECT ON rates, sizes TO PUBLIC; };
	my ($out, $err) = as('reader', "$hide SELECT count(*), min(a) > 1, min(b) > 1 FROM super.rated_live", 'a reader reads the live view');
	is($out, '1|t|t', 'and gets the window');
	is(calls(), 0, 'none of the reader\'s code has run as the owner') or diag($err);
	(undef, $err) = as('mallory', "$hide SELECT * FROM stream_agg.open_windows(NULL::super.rated)");
	like($err, qr/permission denied for table rated/, 'a stranger is refused');
	unlike($err, qr/ran as/, 'before any code runs');
	is(calls(), 0, 'none of the stranger\'s has run');
	for my $call (q{explain_stream('rated')}, q{preview('rated')}, q{reset_stream('rated', results => true, dry_run => true)},
		q{alter_stream('rated', '{"max_future": "1 hour"}')})
	{
		(undef, $err) = as('postgres', qq{SET client_min_messages = warning; $hide SET search_path = pg_temp, super; SELECT stream_agg.$call}, $call);
		unlike($err, qr/ran as/, "$call neither");
	}
};

# --- streams of which something gets another owner

value(q{CREATE SCHEMA alice AUTHORIZATION alice; GRANT ALL ON SCHEMA alice TO PUBLIC});
my $query = q{SELECT stream_agg.tumble("timestamp", '10 days') AS win, count(*) + public.code_of('alice') AS n, count(*) AS c FROM alice.ticks GROUP BY 1};
as('alice', qq{SET search_path = alice;
	CREATE FOREIGN TABLE ticks ("timestamp" timestamptz, value bigint) SERVER stream_agg_rate OPTIONS (rows_per_second '10');
	GRANT SELECT ON ticks TO PUBLIC;
	CREATE FUNCTION spring() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM public.code_of('alice'); RETURN NEW; END \$\$;
	SELECT stream_agg.create_stream('passed', \$q\$$query\$q\$, watermark => '5 seconds', output_mode => 'append', trigger => '20 days', options => '{"late_records": true}');
	CREATE TRIGGER spring BEFORE INSERT OR UPDATE ON passed FOR EACH ROW EXECUTE FUNCTION spring();
	GRANT ALL ON passed TO PUBLIC;
	SELECT stream_agg.create_live_view('passed');
	GRANT SELECT ON passed_live TO PUBLIC}, 'alice has a stream');
as('alice', q{SELECT stream_agg.process_available('passed', '60 seconds')}, 'it runs');

for my $change (
	[ 'REASSIGN OWNED BY alice TO dave', 'dave' ],
	[ 'ALTER VIEW alice.passed_query OWNER TO dave', 'dave' ],
	[ 'ALTER TABLE alice.passed_query OWNER TO dave; ALTER VIEW alice.passed_query OWNER TO alice', 'alice' ],
	[ 'ALTER TABLE alice.passed OWNER TO dave', 'alice' ],
	[ 'ALTER TABLE alice.passed OWNER TO dave; ALTER TABLE alice.passed OWNER TO alice', 'alice' ],
	[ 'ALTER FOREIGN TABLE alice.ticks OWNER TO dave; ALTER TABLE alice.ticks OWNER TO alice', 'alice' ],
	[ 'DO $$ BEGIN ALTER TABLE alice.passed OWNER TO dave; REASSIGN OWNED BY dave TO alice; END $$', 'alice' ])
{
	my ($command, $owner) = @$change;
	subtest "L8: $command: nothing of the stream runs until start_stream" => sub {
		value($command);
		for my $call (q{* FROM stream_agg.open_windows(NULL::alice.passed)}, q{* FROM alice.passed_live}, q{stream_agg.explain_stream('passed')},
			q{stream_agg.preview('passed')}, q{stream_agg.repair_late('passed')}, q{stream_agg.reset_stream('passed', results => true)},
			q{stream_agg.alter_stream('passed', '{"on_error": "skip"}')},
			qq{stream_agg.alter_stream('passed', query => \$q\$} . ($query =~ s/ FROM/, count(*) * 2 AS more FROM/r) . q{$q$)})
		{
			my @who = $call =~ /FROM/ && $call !~ /\$q\$/ ? ('alice', 'reader', 'postgres') : ($owner, 'postgres');
			for my $who (@who)
			{
				my (undef, $err, $status) = as($who, "SELECT $call");
				# without late records repair_late has nothing to do
				like($err, qr/query, the sink or a source of stream "passed" has got another owner since it was started.*HINT:  If you trust/s,
					"$who: $call") unless $call =~ /repair/ && $status == 0;
				unlike($err, qr/ran as/, 'no code');
			}
		}
		like((as('postgres', q{SELECT stream_agg.process_available('passed', '60 seconds')}))[1], qr/stream "passed" is stopped/, 'it has stopped');
		is(value(q{SELECT problem FROM pg_stat_stream_agg WHERE stream = 'passed'}), 'its query, sink or source has got another owner since it was started', 'and why');
		is(value(q{SELECT started_for FROM stream_agg.streams WHERE stream = 'passed'}), '{}', 'durably');
		is(calls(), 0, 'no code has run as another role');
		value(q{REASSIGN OWNED BY dave TO alice});
		as('alice', q{SELECT stream_agg.start_stream('passed'); SELECT stream_agg.process_available('passed', '60 seconds')}, 'alice starts it');
		is((as('alice', q{SELECT count(*) FROM alice.passed_live}))[0], 1, 'and reads it');
	};
}

subtest 'L8: an old snapshot does not trust who is not trusted any more' => sub {
	my $old = background('reader', 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1');
	$old->{psql}->pump until $old->{out} =~ /1\n/;
	value('ALTER TABLE alice.passed OWNER TO dave; ALTER TABLE alice.passed OWNER TO alice');
	say_to($old, 'SELECT * FROM stream_agg.open_windows(NULL::alice.passed)', '\q');
	$old->{psql}->finish;
	like($old->{err}, qr/has got another owner since it was started/, 'refused');
	as('alice', q{SELECT stream_agg.start_stream('passed')});
};

my $given = 'its query, sink or source has got another owner since it was started';
sub there_and_back { value('ALTER TABLE alice.passed OWNER TO dave; ALTER TABLE alice.passed OWNER TO alice'); return; }
sub is_distrusted
{
	is(value(q{SELECT started_for FROM stream_agg.streams WHERE stream = 'passed'}), '{}', $_[0]);
	is(value(q{SELECT problem FROM pg_stat_stream_agg WHERE stream = 'passed'}), $given, 'and it stays stopped');
	as('alice', q{SELECT stream_agg.start_stream('passed')}, 'until alice starts it');
	return;
}

subtest 'L8: start_stream waits for a change of owner that is not committed' => sub {
	there_and_back();
	my $admin = background('postgres', 'BEGIN', 'ALTER TABLE alice.passed OWNER TO dave', q{SELECT 'changed'});
	$admin->{psql}->pump until $admin->{out} =~ /changed/;
	my $starter = background('alice', q{SELECT stream_agg.start_stream('passed')}, q{SELECT 'started'}, '\q');
	$starter->{psql}->pump_nb until $starter->{out} =~ /started/ || value(waits('SELECT stream_agg.start_stream')) eq 't';
	say_to($admin, 'COMMIT', '\q');
	$_->{psql}->finish for $admin, $starter;
	like($starter->{out}, qr/started/, 'and then starts the stream') or diag($starter->{err});
	value('ALTER TABLE alice.passed OWNER TO alice');
	is_distrusted('when the sink is given back, nobody is trusted any more');
};

subtest 'L8: a change of owner in a transaction with an old snapshot takes trust back that is newer' => sub {
	there_and_back();
	my $admin = background('postgres', 'BEGIN ISOLATION LEVEL REPEATABLE READ', q{SELECT 'snapshot'});
	$admin->{psql}->pump until $admin->{out} =~ /snapshot/;
	as('alice', q{SELECT stream_agg.start_stream('passed')}, 'started after the snapshot');
	say_to($admin, 'ALTER TABLE alice.passed OWNER TO dave', 'COMMIT', '\q');
	$admin->{psql}->finish;
	value('ALTER TABLE alice.passed OWNER TO alice');
	is_distrusted('nobody is trusted any more');
};

subtest 'L8: a change of owner does not wait for streams that it does not concern' => sub {
	value(q{UPDATE stream_agg.streams SET started_for = '{1,2,3}' WHERE stream = 'passed'; CREATE TABLE unrelated ()});
	my $holder = background('alice', 'BEGIN', q{SELECT stream_agg.start_stream('passed')}, q{SELECT 'held'});
	$holder->{psql}->pump until $holder->{out} =~ /held/;
	as('postgres', "SET lock_timeout = '3s'; $_", $_) for 'ALTER TABLE unrelated OWNER TO reader', 'REASSIGN OWNED BY reader TO dave';
	say_to($holder, 'COMMIT', '\q');
	$holder->{psql}->finish;
	as('postgres', 'DROP TABLE unrelated');
};

# --- owners who change during the wait for a lock

for my $call (
	[ 'alter_stream', q{stream_agg.alter_stream('passed', query => $q$} . ($query =~ s/ FROM/, sum(value) AS more FROM/r) . '$q$)' ],
	[ 'reset_stream', q{stream_agg.reset_stream('passed', results => true)} ],
	[ 'stop_stream', q{stream_agg.stop_stream('passed')} ],
	[ 'repair_late', q{stream_agg.repair_late('passed')} ],
	[ 'drop_stream', q{stream_agg.drop_stream('passed')} ])
{
	my ($function, $sql) = @$call;
	for my $change ('ALTER VIEW alice.passed_query OWNER TO dave', 'REVOKE alice FROM mallory')
	{
		my $who = $change =~ /REVOKE/ ? 'mallory' : 'alice';
		subtest "C3: $function waits, and meanwhile $change" => sub {
			value('GRANT alice TO mallory');
			my $holder = background('alice', 'BEGIN', q{SELECT stream_agg.stop_stream('passed')}, q{SELECT 'held'});
			$holder->{psql}->pump until $holder->{out} =~ /held/;
			my $waiter = background($who, "SELECT $sql", '\q');
			$node->poll_query_until('postgres', waits("SELECT stream_agg.$function")) or die 'does not wait';
			my $admin = background('postgres', $change, q{SELECT 'changed'}, '\q');
			$node->poll_query_until('postgres', waits('ALTER VIEW')) or die 'neither' if $change =~ /VIEW/;
			$admin->{psql}->finish if $change =~ /REVOKE/;
			say_to($holder, 'ROLLBACK', '\q');
			$_->{psql}->finish for $holder, $waiter;
			$admin->{psql}->finish if $change =~ /VIEW/;
			like($waiter->{err}, qr/must be owner of stream "passed"/, "$who is refused");
			is(calls(), 0, 'no code has run as another role');
			value('REASSIGN OWNED BY dave TO alice');
			as('alice', q{SELECT stream_agg.start_stream('passed')}, 'the stream is there');
		};
	}
}

done_testing();
