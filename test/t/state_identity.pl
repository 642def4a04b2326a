# Stored state is never read as another type's.  A role makes an aggregate, lets
# a stream store its state, and then sees to it that the names are the same and
# what they stand for is not: the state that a role chose the bytes of is refused,
# whichever way it would have become another type's.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1);
my $node = new_node('state_identity', 'stream_agg.max_attempts = 2');
$node->safe_psql('postgres', 'CREATE ROLE mallory LOGIN; CREATE SCHEMA mallory AUTHORIZATION mallory');
create_source($node, $broker, 'public.src', 'events', 'k int, v int, w numeric');
$node->safe_psql('postgres', 'GRANT SELECT ON public.src TO mallory');

sub as_mallory
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', "SET SESSION AUTHORIZATION mallory; SET search_path = mallory, public; $sql");
}

sub produce
{
	$broker->produce('events', map { json_record({ k => 1, v => 1094795585, w => $_ }, numbers => [qw(k v w)]) } @_);
	return;
}

# attack NAME, DEFINITION, REPLACEMENT [, QUERY]: a stream has stored the state of
# aggregate ag(int), then it is replaced.  The next batch must fail, and no way to
# look at the state may show it.  With a restart the state comes from the log, and
# without one from shared memory.
my $n = 0;
sub attack
{
	my ($name, $definition, $replacement, $query) = @_;
	for my $restart (0, 1)
	{
		subtest "$name, " . ($restart ? 'from the log' : 'in shared memory') => sub {
			my $stream = 's' . ++$n;
			as_mallory($definition);
			$query //= 'SELECT k, ag(v) AS a FROM src GROUP BY k';
			as_mallory("SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => 'update', trigger => '20 days')");
			produce(2);
			as_mallory("SELECT stream_agg.process_available('$stream')");
			my $before = as_mallory("SELECT * FROM $stream");
			my $log = -s $node->logfile;
			as_mallory($replacement);
			produce(2, '123456789012345678901234567890');
			$restart and $node->restart;
			my (undef, undef, $err) = $node->psql('postgres', "SELECT stream_agg.process_available('mallory.$stream')");
			like($err, qr/stream "$stream" has failed.*was written for another definition/s, 'the next batch fails, and says why');
			is($node->safe_psql('postgres', "SELECT * FROM mallory.$stream"), $before, 'the sink is as it was');
			(undef, undef, $err) = $node->psql('postgres', "SELECT * FROM stream_agg.open_windows(NULL::mallory.$stream)");
			like($err, qr/has changed since|another definition/, 'nor do others read it');
			unlike(substr(slurp_file($node->logfile), $log), qr/terminated by signal|TRAP/, 'no process crashes');
			$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('mallory.$stream', drop_sink => true);
				DROP SCHEMA mallory CASCADE; CREATE SCHEMA mallory AUTHORIZATION mallory");
		};
	}
	return;
}

# bytea[] of one element that is said to have 8,000 bytes
my $lying = '\x0100000000000000110000000100000001000000007d000041414141';

attack('C1: a domain is renamed and another one takes its name', qq{
	CREATE DOMAIN st AS bytea;
	CREATE FUNCTION s1(st, int) RETURNS st IMMUTABLE LANGUAGE sql AS \$\$ SELECT '$lying'::bytea::st \$\$;
	CREATE FUNCTION f1(st) RETURNS text IMMUTABLE LANGUAGE sql AS \$\$ SELECT 'x'::text \$\$;
	CREATE AGGREGATE ag(int) (SFUNC = s1, STYPE = st, FINALFUNC = f1)}, q{
	ALTER DOMAIN st RENAME TO st_old;
	CREATE DOMAIN st AS bytea[];
	CREATE FUNCTION s2(st, int) RETURNS st IMMUTABLE LANGUAGE sql AS $$ SELECT $1 $$;
	CREATE FUNCTION f2(st) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT encode($1[1], 'hex') $$;
	CREATE OR REPLACE AGGREGATE ag(int) (SFUNC = s2, STYPE = st, FINALFUNC = f2)});

attack('C1: functions of the same names come with it', qq{
	CREATE DOMAIN st AS bytea;
	CREATE FUNCTION s(st, int) RETURNS st IMMUTABLE LANGUAGE sql AS \$\$ SELECT '$lying'::bytea::st \$\$;
	CREATE FUNCTION f(st) RETURNS text IMMUTABLE LANGUAGE sql AS \$\$ SELECT 'x'::text \$\$;
	CREATE AGGREGATE ag(int) (SFUNC = s, STYPE = st, FINALFUNC = f)}, q{
	ALTER DOMAIN st RENAME TO st_old; ALTER FUNCTION s RENAME TO s_old; ALTER FUNCTION f RENAME TO f_old;
	CREATE DOMAIN st AS bytea[];
	CREATE FUNCTION s(st, int) RETURNS st IMMUTABLE LANGUAGE sql AS $$ SELECT $1 $$;
	CREATE FUNCTION f(st) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT encode($1[1], 'hex') $$;
	CREATE OR REPLACE AGGREGATE ag(int) (SFUNC = s, STYPE = st, FINALFUNC = f)});

attack('C1: a domain over a domain, of which the lower one is another', qq{
	CREATE DOMAIN low AS bytea;
	CREATE DOMAIN st AS low;
	CREATE FUNCTION s(st, int) RETURNS st IMMUTABLE LANGUAGE sql AS \$\$ SELECT '$lying'::bytea::st \$\$;
	CREATE FUNCTION f(st) RETURNS text IMMUTABLE LANGUAGE sql AS \$\$ SELECT 'x'::text \$\$;
	CREATE AGGREGATE ag(int) (SFUNC = s, STYPE = st, FINALFUNC = f)}, q{
	ALTER DOMAIN low RENAME TO low_old; ALTER DOMAIN st RENAME TO st_old;
	ALTER FUNCTION s RENAME TO s_old; ALTER FUNCTION f RENAME TO f_old;
	CREATE DOMAIN low AS numeric;
	CREATE DOMAIN st AS low;
	CREATE FUNCTION s(st, int) RETURNS st IMMUTABLE LANGUAGE sql AS $$ SELECT $1 $$;
	CREATE FUNCTION f(st) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT $1::text $$;
	CREATE OR REPLACE AGGREGATE ag(int) (SFUNC = s, STYPE = st, FINALFUNC = f)});

attack('C1: a composite type with another column', q{
	CREATE TYPE st AS (x bytea, y int);
	CREATE FUNCTION s(st, int) RETURNS st IMMUTABLE LANGUAGE sql AS $$ SELECT ROW('\x4142', $2)::mallory.st $$;
	CREATE FUNCTION f(st) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT $1::text $$;
	CREATE AGGREGATE ag(int) (SFUNC = s, STYPE = st, FINALFUNC = f)}, q{
	ALTER TYPE st ADD ATTRIBUTE z int});

attack('C1: a range type of the same name over another subtype', q{
	CREATE TYPE st AS RANGE (subtype = text);
	CREATE FUNCTION s(st, int) RETURNS st IMMUTABLE LANGUAGE sql AS $$ SELECT mallory.st('a', 'b') $$;
	CREATE FUNCTION f(st) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT $1::text $$;
	CREATE AGGREGATE ag(int) (SFUNC = s, STYPE = st, FINALFUNC = f)}, q{
	ALTER TYPE st RENAME TO st_old; ALTER FUNCTION s RENAME TO s_old; ALTER FUNCTION f RENAME TO f_old;
	CREATE TYPE st AS RANGE (subtype = int4, multirange_type_name = st_multi);
	CREATE FUNCTION s(st, int) RETURNS st IMMUTABLE LANGUAGE sql AS $$ SELECT $1 $$;
	CREATE FUNCTION f(st) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT $1::text $$;
	CREATE OR REPLACE AGGREGATE ag(int) (SFUNC = s, STYPE = st, FINALFUNC = f)});

my $average = q{
	CREATE FUNCTION evil(int8[], int) RETURNS int8[] IMMUTABLE LANGUAGE sql AS $$ SELECT '%s'::int8[] $$;
	CREATE FUNCTION fin(int8[]) RETURNS numeric IMMUTABLE LANGUAGE sql AS $$ SELECT 1::numeric $$;
	CREATE AGGREGATE ag(int) (SFUNC = evil, STYPE = int8[], FINALFUNC = fin, INITCOND = '%s')};
my $inlined = q{
	CREATE OR REPLACE AGGREGATE ag(int) (SFUNC = pg_catalog.int4_avg_accum, STYPE = int8[], FINALFUNC = fin, INITCOND = '{0,0}')};
for my $state ('{}', '{{5}}', '{NULL,NULL}')
{
	attack("C2: another transition function and initial value, with a state $state",
		sprintf($average, $state, $state), $inlined, 'SELECT k, ag(v) AS a, max(w) AS w FROM src GROUP BY k');
}

attack('C2: another initial value alone', q{
	CREATE FUNCTION s(int8[], int) RETURNS int8[] IMMUTABLE LANGUAGE sql AS $$ SELECT $1 $$;
	CREATE AGGREGATE ag(int) (SFUNC = s, STYPE = int8[], INITCOND = '{}')}, q{
	CREATE OR REPLACE AGGREGATE ag(int) (SFUNC = s, STYPE = int8[], INITCOND = '{0,0}')});

attack('C2: a function that is strict no more', q{
	CREATE FUNCTION s(int, int) RETURNS int IMMUTABLE STRICT LANGUAGE sql AS $$ SELECT $1 $$;
	CREATE AGGREGATE ag(int) (SFUNC = s, STYPE = int)}, q{
	CREATE OR REPLACE FUNCTION s(int, int) RETURNS int IMMUTABLE CALLED ON NULL INPUT LANGUAGE sql AS $$ SELECT $1 $$});

# --- an aggregate of a user's over the functions of avg, which are not given what
# they write beyond
subtest 'C2: an initial value of another shape is not taken for count and sum' => sub {
	as_mallory(q{
		CREATE FUNCTION fin(int8[]) RETURNS int IMMUTABLE LANGUAGE sql AS $$ SELECT cardinality($1) $$;
		CREATE AGGREGATE ag(int) (SFUNC = pg_catalog.int4_avg_accum, STYPE = int8[], FINALFUNC = fin, INITCOND = '{0,0}');
		SELECT stream_agg.create_stream('shape', 'SELECT k, ag(v) AS a FROM src GROUP BY k', output_mode => 'update', start => false)});
	like($node->safe_psql('postgres', q{SELECT string_agg(explain_stream, ' ') FROM stream_agg.explain_stream('mallory.shape')}),
		qr/bigint\[\], kept as it is/, 'it is not inlined');
	unlike($node->safe_psql('postgres', q{SELECT string_agg(explain_stream, ' ') FROM stream_agg.explain_stream('mallory.shape')}),
		qr/inlined/, 'whatever its functions are');
	$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('mallory.shape', drop_sink => true);
		DROP SCHEMA mallory CASCADE; CREATE SCHEMA mallory AUTHORIZATION mallory});
};

# --- the definition changes between the analysis of the query and the calls: in
# the midst of that runs code of the role's, the check of a domain
subtest 'C1: an aggregate that is replaced while a batch begins' => sub {
	as_mallory(qq{
		CREATE TABLE armed (armed bool); INSERT INTO armed VALUES (false);
		CREATE FUNCTION swap() RETURNS bool LANGUAGE plpgsql AS \$\$ BEGIN
			IF (SELECT armed FROM mallory.armed) THEN
				UPDATE mallory.armed SET armed = false;
				CREATE OR REPLACE AGGREGATE mallory.ag(int) (SFUNC = mallory.s2, STYPE = bytea[], FINALFUNC = mallory.f2);
			END IF;
			RETURN true; END \$\$;
		CREATE DOMAIN checked AS int CHECK (swap());
		CREATE FUNCTION c(checked, int) RETURNS checked IMMUTABLE LANGUAGE sql AS \$\$ SELECT \$1 \$\$;
		CREATE AGGREGATE a_first(int) (SFUNC = c, STYPE = checked, INITCOND = '1');
		CREATE FUNCTION s1(bytea, int) RETURNS bytea IMMUTABLE LANGUAGE sql AS \$\$ SELECT '$lying'::bytea \$\$;
		CREATE FUNCTION f1(bytea) RETURNS text IMMUTABLE LANGUAGE sql AS \$\$ SELECT 'x'::text \$\$;
		CREATE FUNCTION s2(bytea[], int) RETURNS bytea[] IMMUTABLE LANGUAGE sql AS \$\$ SELECT \$1 \$\$;
		CREATE FUNCTION f2(bytea[]) RETURNS text IMMUTABLE LANGUAGE sql AS \$\$ SELECT encode(\$1[1], 'hex') \$\$;
		CREATE AGGREGATE ag(int) (SFUNC = s1, STYPE = bytea, FINALFUNC = f1);
		SELECT stream_agg.create_stream('race', 'SELECT k, a_first(v) AS c, ag(v) AS a FROM src GROUP BY k',
			output_mode => 'update', trigger => '20 days')});
	produce(2);
	as_mallory(q{SELECT stream_agg.process_available('race')});
	is(as_mallory('SELECT DISTINCT a FROM race'), 'x', 'the state is there');
	as_mallory('UPDATE armed SET armed = true');
	produce(2);
	my $log = -s $node->logfile;
	# it is tried again and again, for another analysis may find what the calls do
	$node->psql('postgres', q{SELECT stream_agg.process_available('mallory.race', '1 second')});
	$node->poll_query_until('postgres', q{SELECT last_error IS NOT NULL OR (SELECT max(length(a)) > 1 FROM mallory.race)
		FROM pg_stat_stream_agg WHERE stream = 'race'}) or die 'the batch does not run';
	my $logged = substr(slurp_file($node->logfile), $log);
	like($logged, qr/was replaced while a query was being prepared/, 'is noticed');
	unlike($logged, qr/terminated by signal|TRAP/, 'no process crashes');
	is(as_mallory(q{SELECT max(length(a)) FROM race}), 1, 'nothing of the memory comes to the sink');
	$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('mallory.race', drop_sink => true);
		DROP SCHEMA mallory CASCADE; CREATE SCHEMA mallory AUTHORIZATION mallory});
};

# --- what goes on
subtest 'C1: types and functions that are other ones and the same by name and make go on from the log' => sub {
	my $definition = q{
		CREATE DOMAIN st AS numeric(9, 2);
		CREATE FUNCTION s(st, int) RETURNS st IMMUTABLE LANGUAGE sql AS $$ SELECT ($1 + 1)::mallory.st $$;
		CREATE FUNCTION f(st) RETURNS numeric IMMUTABLE LANGUAGE sql AS $$ SELECT $1 $$;
		CREATE %s ag(int) (SFUNC = s, STYPE = st, FINALFUNC = f, INITCOND = '0')};
	as_mallory(sprintf($definition, 'AGGREGATE'));
	as_mallory(q{SELECT stream_agg.create_stream('renamed', 'SELECT ag(v) AS a FROM src', output_mode => 'update', trigger => '20 days')});
	as_mallory(q{SELECT stream_agg.process_available('renamed')});
	my $before = as_mallory('SELECT a FROM renamed');
	as_mallory('ALTER DOMAIN st RENAME TO st_old; ALTER FUNCTION s RENAME TO s_old; ALTER FUNCTION f RENAME TO f_old;' . sprintf($definition, 'OR REPLACE AGGREGATE'));
	produce(2);
	as_mallory(q{SELECT stream_agg.process_available('renamed')});
	is(as_mallory('SELECT a FROM renamed'), $before + 1 . '.00', 'as a dump that is restored does');
	$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('mallory.renamed', drop_sink => true);
		DROP SCHEMA mallory CASCADE; CREATE SCHEMA mallory AUTHORIZATION mallory});
};
subtest 'C1: a function with another body goes on with the state of its types' => sub {
	as_mallory(q{
		CREATE FUNCTION s(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS $$ SELECT $1 + 1 $$;
		CREATE AGGREGATE ag(int) (SFUNC = s, STYPE = int, INITCOND = '0');
		SELECT stream_agg.create_stream('body', 'SELECT ag(v) AS a FROM src', output_mode => 'update', trigger => '20 days')});
	as_mallory(q{SELECT stream_agg.process_available('body')});
	my $before = as_mallory('SELECT a FROM body');
	as_mallory(q{CREATE OR REPLACE FUNCTION s(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS $$ SELECT $1 + 1000 $$});
	produce(2);
	as_mallory(q{SELECT stream_agg.process_available('body')});
	is(as_mallory('SELECT a FROM body'), $before + 1000, 'from where it was');
	$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('mallory.body', drop_sink => true)});
};

done_testing();
