# Nobody's code runs with more rights than theirs: hostile streams in the hands of
# superusers, members of the owner's role and strangers, through every entry point.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1, windows => 1);
my $node = new_node('owners_code', 'log_statement = none', 'stream_agg.max_attempts = 2');
my $brokers = $broker->brokers;
my $options = q{options => '{"fetch.wait.max.ms": 20}'};
my $readme = PostgreSQL::Test::Utils::slurp_file('src_README.md');

$node->safe_psql('postgres', q{
	CREATE ROLE mallory LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE carol LOGIN;
	GRANT mallory TO bob;
	CREATE SCHEMA mallory AUTHORIZATION mallory;
	CREATE SCHEMA bob AUTHORIZATION bob;
	GRANT USAGE ON SCHEMA mallory TO PUBLIC;
	GRANT USAGE ON SCHEMA bob TO mallory;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO mallory;
	CREATE TABLE bob.private AS SELECT 'secret' AS what;
	ALTER TABLE bob.private OWNER TO bob});

sub as
{
	my ($role, $sql, $name) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
	is($status, 0, $name) or diag($err) if defined $name;
	return ($out, $err, $status);
}

sub value
{
	return $node->safe_psql('postgres', shift);
}

# ------------------------------------------------------------ the hostile stream

# Whatever mallory can plant calls mallory.attack, which tries all ways to keep
# something of the one who is here, now and at the commit; sequences count by kind
# how often that was, whether or not it is rolled back.
my @kinds = qw(folded called operator cast domain transition final policy default generated
  indexed checked immediate deferred);
as('mallory', q{
	SET search_path = mallory;
	CREATE TABLE bait (i int);
	CREATE TABLE loot (what text);
	CREATE FUNCTION escalate() RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		try text;
	BEGIN
		FOREACH try IN ARRAY ARRAY['ALTER ROLE mallory SUPERUSER', 'GRANT bob TO mallory',
			'GRANT SELECT ON bob.private TO mallory', 'INSERT INTO mallory.loot SELECT what FROM bob.private']
		LOOP
			BEGIN EXECUTE try; EXCEPTION WHEN OTHERS THEN NULL; END;
		END LOOP;
	END $$;
	CREATE FUNCTION attack(kind text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		try text;
	BEGIN
		PERFORM nextval('mallory.ran_' || kind);
		PERFORM mallory.escalate();
		FOREACH try IN ARRAY ARRAY['RESET ROLE', 'RESET SESSION AUTHORIZATION', 'SET ROLE postgres', 'SET ROLE bob',
			'SET SESSION AUTHORIZATION postgres', 'INSERT INTO mallory.bait VALUES (1)', 'CREATE TEMP TABLE t (i int)',
			'SET search_path = mallory', 'SET row_security = off']
		LOOP
			-- a trigger that queues itself would never end
			CONTINUE WHEN kind = 'deferred' AND try ~ 'bait';
			BEGIN
				EXECUTE try;
				PERFORM mallory.escalate();
			EXCEPTION WHEN OTHERS THEN NULL;
			END;
		END LOOP;
	END $$;
	CREATE FUNCTION spring() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM mallory.attack(TG_ARGV[0]);
		RETURN NULL;
	END $$;
	CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON bait DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION spring('deferred');
	CREATE FUNCTION folded() RETURNS interval IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('folded'); RETURN '1 minute'; END $$;
	CREATE FUNCTION called(int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('called'); RETURN $1; END $$;
	CREATE FUNCTION compared(int, int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('operator'); RETURN true; END $$;
	CREATE OPERATOR <-> (LEFTARG = int, RIGHTARG = int, FUNCTION = compared);
	CREATE TYPE boxed AS (i int);
	CREATE FUNCTION box(int) RETURNS boxed IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('cast'); RETURN ROW($1)::mallory.boxed; END $$;
	CREATE CAST (int AS boxed) WITH FUNCTION box(int);
	CREATE FUNCTION valid(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('domain'); RETURN true; END $$;
	CREATE DOMAIN checked_int AS int CHECK (valid(VALUE));
	CREATE FUNCTION step(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('transition'); RETURN $1 + $2; END $$;
	CREATE FUNCTION done(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('final'); RETURN $1; END $$;
	CREATE AGGREGATE summed(int) (SFUNC = step, STYPE = int, FINALFUNC = done, INITCOND = '0');
	CREATE COLLATION collated FROM "C";
	CREATE TABLE kinds (k int, label text);
	INSERT INTO kinds VALUES (0, 'even'), (1, 'odd');
	CREATE FUNCTION allowed() RETURNS boolean STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('policy'); RETURN true; END $$;
	ALTER TABLE kinds ENABLE ROW LEVEL SECURITY;
	ALTER TABLE kinds FORCE ROW LEVEL SECURITY;
	CREATE POLICY allowed ON kinds USING (allowed());
	CREATE FUNCTION filled() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('default'); RETURN 'x'; END $$;
	CREATE FUNCTION derived(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('generated'); RETURN $1; END $$;
	CREATE FUNCTION indexed(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('indexed'); RETURN $1; END $$;
	CREATE FUNCTION fits(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.attack('checked'); RETURN true; END $$;
	} . join('', map { "CREATE SEQUENCE ran_$_;" } @kinds), 'mallory prepares');
as('mallory', "SELECT stream_agg.create_source('mallory.events', topic => 'events', brokers => '$brokers',
	columns => 'ts timestamptz, k int, v int', $options)", 'a source');

my $columns = 1;
sub query
{
	return q{SELECT stream_agg.tumble(ts, mallory.folded()) AS win, label COLLATE mallory.collated AS label,
		mallory.summed(mallory.called(v)) AS total, max((v::mallory.boxed).i::mallory.checked_int) AS top}
	  . join('', map { ", count(*) AS n$_" } 1 .. $columns)
	  . q{ FROM mallory.events e JOIN mallory.kinds USING (k) WHERE v OPERATOR(mallory.<->) 1
		GROUP BY 1, label COLLATE mallory.collated};
}
my $create = q{SET search_path = mallory; SELECT stream_agg.create_stream('mallory.victim', $q$} . query() . q{$q$,
	watermark => '0 seconds', trigger => '20 days', options => '{"late_records": true}');};
my $furnish = q{SET search_path = mallory;
	ALTER TABLE victim ADD extra text DEFAULT filled(), ADD twice int GENERATED ALWAYS AS (derived(total)) STORED,
		ADD CHECK (fits(total));
	CREATE INDEX ON victim (indexed(total)) WHERE fits(total);
	CREATE TRIGGER immediate AFTER INSERT ON victim FOR EACH ROW EXECUTE FUNCTION spring('immediate');
	CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON victim DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION spring('deferred');
	SELECT stream_agg.create_live_view('mallory.victim')};
as('mallory', $create . $furnish, 'and a stream');

my $minute = 0;
sub produce
{
	my @records = map { sprintf('{"ts": "2026-01-01T%02d:%02d:%02dZ", "k": %d, "v": %d}', int($minute / 60), $minute % 60, $_, $_ % 2, $_) } 0 .. 3;
	$minute++;
	return $broker->produce('events', @records, @_);
}
produce();
as('mallory', q{SELECT stream_agg.process_available('mallory.victim')}, 'a batch');
produce();
as('mallory', q{SELECT stream_agg.process_available('mallory.victim')}, 'a window has closed');

# What mallory has got, which shall be nothing, and how often code of hers has run.
sub gained
{
	my ($found, $runs) = split /\|/, value(q{
		SELECT concat_ws(', ',
			(SELECT 'superuser' FROM pg_roles WHERE rolname = 'mallory' AND rolsuper),
			(SELECT 'member of bob' FROM pg_auth_members WHERE roleid = 'bob'::regrole AND member = 'mallory'::regrole),
			(SELECT 'privilege' WHERE has_table_privilege('mallory', 'bob.private', 'SELECT')),
			(SELECT 'loot' WHERE EXISTS (SELECT FROM mallory.loot))), }
		  . join(' + ', map { "(SELECT last_value - 1 + is_called::int FROM mallory.ran_$_)" } @kinds));
	$node->safe_psql('postgres', q{ALTER ROLE mallory NOSUPERUSER; REVOKE ALL ON bob.private FROM mallory; TRUNCATE mallory.loot;
		SET client_min_messages = error; REVOKE bob FROM mallory}) if $found ne '';
	return wantarray ? ($found, $runs) : $found;
}
is(scalar gained(), '', 'so far everything ran as mallory');

# ------------------------------------------------------------------ entry points

# the table of src/README.md
my %table;
for my $line (split /\n/, ($readme =~ /^## Whose code runs\n(.*?)^## /ms)[0] // '')
{
	my ($names, $whose) = $line =~ /^\| (`.*?) \| (\w+)/ or next;
	$table{$_} = $whose for $names =~ /`([^`]+)`/g;
}
my %there = map { $_ => 1 } split /\n/, value(q{
	SELECT DISTINCT format('stream_agg.%s', p.proname) FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
	  JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
	 WHERE d.classid = 'pg_proc'::regclass AND e.extname = 'stream_agg'
	UNION ALL
	SELECT evtname FROM pg_event_trigger WHERE evtname ~ 'stream_agg'});
is(join(' ', sort grep { !$table{$_} } keys %there), '', 'C3: every function and event trigger of the extension is in the table of entry points');
is(join(' ', sort grep { /^stream_agg\./ && !$there{$_} } keys %table), '', 'C3: and nothing else is');

# What each is called by; a stranger is refused where a pattern is given.  Some
# prepare for another one, or bring back what the one before has taken.
my $owner_only = qr/must be owner of/;
my $repair = q{SELECT stream_agg.repair_late('mallory.victim')};
my @calls = (
	[ 'stream_agg.alter_stream', q{SELECT stream_agg.alter_stream('mallory.victim', '{"on_error": "fail"}')}, $owner_only ],
	[ 'stream_agg.alter_stream', q{SELECT stream_agg.alter_stream('mallory.victim', '{"watermark_policy": "per_partition"}');
		SELECT stream_agg.alter_stream('mallory.victim', '{"watermark_policy": "global"}')}, $owner_only ],
	[ 'stream_agg.alter_stream', sub { $columns++; q{SELECT stream_agg.alter_stream('mallory.victim', query => $q$} . query() . '$q$)' }, $owner_only ],
	[ 'stream_agg.create_live_view', q{DROP VIEW IF EXISTS mallory.victim_live; SELECT stream_agg.create_live_view('mallory.victim')},
		qr/must be owner of (view|stream)/ ],
	[ 'stream_agg.alter_stream', sub { $columns++; q{SELECT stream_agg.alter_stream('mallory.victim', query => $q$} . query() . '$q$)' }, $owner_only ],
	[ 'stream_agg.explain_stream', q{SELECT stream_agg.explain_stream('mallory.victim')}, $owner_only ],
	[ 'stream_agg.open_windows', q{SELECT * FROM stream_agg.open_windows(NULL::mallory.victim)}, qr/permission denied for table victim/ ],
	[ 'stream_agg.open_windows', q{SELECT * FROM mallory.victim_live}, qr/permission denied for view victim_live/ ],
	[ 'stream_agg.preview', sub { produce(); q{SELECT stream_agg.preview('mallory.victim')} }, $owner_only ],
	[ 'stream_agg.process_available', q{SELECT stream_agg.process_available('mallory.victim')}, $owner_only ],
	[ 'stream_agg.repair_late', sub {
			$broker->produce('events', '{"ts": "2026-01-01T00:00:30Z", "k": 1, "v": 5}');
			as('mallory', q{SELECT stream_agg.process_available('mallory.victim')});
			return $repair;
		}, $owner_only ],
	[ 'stream_agg.stop_stream', q{SELECT stream_agg.stop_stream('mallory.victim')}, $owner_only ],
	[ 'stream_agg.start_stream', q{SELECT stream_agg.start_stream('mallory.victim')}, $owner_only ],
	[ 'stream_agg.delete_dead_letters', q{SELECT stream_agg.delete_dead_letters('mallory.victim')}, $owner_only ],
	[ 'stream_agg.delete_late_records', q{SELECT stream_agg.delete_late_records('mallory.victim')}, $owner_only ],
	[ 'stream_agg.reset_stream', q{SELECT stream_agg.stop_stream('mallory.victim'); SELECT stream_agg.reset_stream('mallory.victim', results => true)}, $owner_only ],
	[ 'stream_agg.create_source', q{SELECT stream_agg.create_source('mallory.events', topic => 'events', server => 'x', columns => 'k int', if_not_exists => true)},
		(qr/source "events" already exists\nDETAIL:  It belongs to role "mallory"/) x 2 ],
	[ 'stream_agg.describe_topic', sub { produce(); qq{SET search_path = mallory; SELECT stream_agg.describe_topic('events', brokers => '$brokers')} }, qr/permission denied for/ ],
	[ 'stream_agg.drop_source', q{SELECT stream_agg.drop_source('mallory.nothing', true)} ],
	[ 'stream_agg.tumble', q{SELECT stream_agg.tumble(now(), '1 minute'), stream_agg.session(now(), '1 minute'), stream_agg.hop(now(), '1 minute', '1 minute')} ],
	[ 'stream_agg.stat_streams', q{SELECT * FROM pg_stat_stream_agg; SELECT * FROM pg_stat_stream_agg_partitions;
		SELECT * FROM stream_agg.stat_streams(); SELECT * FROM stream_agg.stat_partitions()} ],
	[ 'stream_agg.is_owner', q{SELECT stream_agg.is_owner(query), stream_agg.has_owners(started_for, query, sink, source, other_sources)
		FROM stream_agg.streams; SELECT * FROM stream_agg.commits; SELECT * FROM stream_agg.state; SELECT * FROM stream_agg.late_records} ],
	[ 'stream_agg_ddl_command_end', q{CREATE OR REPLACE VIEW mallory.victim_query AS SELECT * FROM mallory.victim_query},
		qr/must be owner of view|permission denied for schema/,
		qr/cannot replace the query of stream/ ],
	[ 'object_access_hook', q{ALTER VIEW mallory.victim_query RENAME TO renamed; ALTER VIEW mallory.renamed RENAME TO victim_query;
		ALTER TABLE mallory.victim RENAME TO renamed; ALTER TABLE mallory.renamed RENAME TO victim}, qr/must be owner of view/ ],
	[ 'stream_agg.create_stream', q{SET search_path = mallory;
		SELECT stream_agg.create_stream('mallory.victim', 'SELECT 1', if_not_exists => true)}, qr/permission denied for|already exists/,
		qr/stream "mallory.victim" already exists\nDETAIL:  It belongs to role "mallory"/ ],
	[ 'stream_agg_sql_drop', q{DROP VIEW mallory.victim_query}, qr/must be owner of view/ ],
	[ 'stream_agg.drop_stream', q{SELECT stream_agg.drop_stream('mallory.victim', drop_sink => true)}, $owner_only ]);

# one who has become mallory can go back, so what runs may not
my %before = ('SET ROLE' => 'SET ROLE mallory', 'SET SESSION AUTHORIZATION' => 'SET SESSION AUTHORIZATION mallory');
my %after = ('SET ROLE' => 'RESET ROLE', 'SET SESSION AUTHORIZATION' => 'RESET SESSION AUTHORIZATION');

sub prepare_stream
{
	my $there = value(q{SELECT to_regclass('mallory.victim_query') IS NOT NULL});
	if ($there eq 'f')
	{
		as('mallory', q{SET client_min_messages = error; DROP TABLE IF EXISTS mallory.victim CASCADE});
		as('mallory', $create . $furnish, 'the stream is there again');
		$columns = 1;
	}
	as('mallory', q{SET client_min_messages = error; SELECT stream_agg.start_stream('mallory.victim'); SELECT stream_agg.process_available('mallory.victim')});
	return;
}
my %spoils = map { $_ => 1 } qw(stream_agg.stop_stream stream_agg.reset_stream stream_agg_sql_drop stream_agg.drop_stream);

sub call_as
{
	my ($who, $call) = @_;
	my ($entry, $sql, $refused, $error) = @$call;
	my $role = $who =~ /^SET/ ? 'postgres' : $who;
	my $whose = $table{$entry} // 'missing';
	$sql = $sql->() if ref $sql;
	my (undef, $first) = gained();
	my ($out, $err, $status) = as($role, $who =~ /^SET/ ? "$before{$who}; BEGIN; $sql; $after{$who}; COMMIT" : "BEGIN; $sql; COMMIT");
	if ($who eq 'carol' && $refused) { like($err, $refused, "$entry is refused"); }
	elsif ($error) { like($err, $error, "$entry says what is wrong"); }
	else { is($status, 0, "$entry works") or diag("$sql\n$err"); }
	my ($found, $runs) = gained();
	is($found, '', 'nothing is gained by it');

	# process_available waits for the worker, a session of mallory's
	if ($who eq 'postgres' && $entry ne 'stream_agg.process_available')
	{
		cmp_ok($runs, $whose eq 'owner' ? '>' : '==', $first, "the table is right about $entry: $whose");
	}
	prepare_stream() if $spoils{$entry} && $who ne 'carol';
	return;
}

for my $who ('carol', 'postgres', 'bob')
{
	subtest "C3: every entry point, by $who" => sub { call_as($who, $_) for @calls };
}
for my $who ('mallory', 'SET ROLE', 'SET SESSION AUTHORIZATION')
{
	subtest "C3: every entry point that runs the owner's code, by $who" => sub {
		call_as($who, $_) for grep { $table{ $_->[0] } eq 'owner' } @calls;
	};
}
is(join(' ', grep { value("SELECT is_called FROM mallory.ran_$_") eq 'f' } @kinds), '', 'C3: every kind of code has run');

# the first of all attacks, where nothing is caught: an error, not a superuser
as('mallory', q{CREATE OR REPLACE FUNCTION mallory.attack(kind text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM nextval('mallory.ran_' || kind);
		IF kind = 'deferred' THEN PERFORM mallory.escalate(); ELSE INSERT INTO mallory.bait VALUES (1); END IF;
	END $$}, 'mallory does nothing but to queue a trigger');
prepare_stream();
for my $role ('postgres', 'bob')
{
	$columns++;
	like((as($role, q{SELECT stream_agg.alter_stream('mallory.victim', query => $q$} . query() . '$q$)'))[1],
		qr/cannot fire deferred trigger within security-restricted operation/, "C3: another query by $role: a deferred trigger is refused");
	is(scalar gained(), '', 'C3: and nothing is gained');
}
as('mallory', q{SELECT stream_agg.alter_stream('mallory.victim', query => $q$} . query() . '$q$)', 'its owner may defer');
as('mallory', q{SELECT stream_agg.drop_stream('mallory.victim', drop_sink => true)});

done_testing();
