# The attacker's view: roles with little that want what is others', by what they
# plant, name, change or own.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1, other => 1);
my $node = new_node('attacks', 'log_statement = none', 'stream_agg.max_attempts = 2');
my $brokers = $broker->brokers;

# in public anybody may create, as before PostgreSQL 15
$node->safe_psql('postgres', qq{
	CREATE ROLE alice LOGIN;
	CREATE ROLE mallory LOGIN;
	CREATE SCHEMA alice AUTHORIZATION alice;
	CREATE SCHEMA mallory AUTHORIZATION mallory;
	GRANT CREATE ON SCHEMA public TO PUBLIC;
	GRANT USAGE ON SCHEMA alice TO mallory;
	GRANT USAGE ON SCHEMA mallory TO alice;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO alice, mallory;
	CREATE TABLE ran (who text);
	GRANT ALL ON ran TO PUBLIC});

sub as
{
	my ($role, $sql, $name) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
	is($status, 0, $name) or diag($err) if defined $name;
	return ($out, $err);
}

# a statement of a role that must fail in the way given
sub refused
{
	my ($role, $sql, $error, $name) = @_;
	my (undef, $err) = as($role, $sql);
	return like($err, $error, $name);
}

sub ran
{
	return $node->safe_psql('postgres', q{SELECT COALESCE(string_agg(DISTINCT who, ',' ORDER BY who), '') FROM ran});
}

my $options = q{options => '{"fetch.wait.max.ms": 20}'};
my $event = '{"ts": "2026-01-01T00:00:00Z", "k": 1}';

# --- functions that are nobody's to call
refused('mallory', 'CREATE TABLE mallory.t (database text);
	CREATE TRIGGER t BEFORE INSERT ON mallory.t FOR EACH ROW EXECUTE FUNCTION stream_agg.on_insert()',
	qr/permission denied for function .*on_insert/, 'the trigger of the catalog goes on no table of others');
$node->safe_psql('postgres', 'CREATE TABLE wrong (database text);
	CREATE TRIGGER t BEFORE INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION stream_agg.on_insert()');
refused('postgres', "INSERT INTO wrong VALUES ('x')", qr/stream_agg\.on_insert.* must be a trigger/,
	'nor does it take a column for what it is not');
refused('mallory', "SELECT stream_agg.kafka_validator(ARRAY['brokers=x'], 1417)", qr/permission denied for function/,
	'the validator is the server\'s to call');

# --- a server that waits for others to use it
as('mallory', "CREATE SERVER bait FOREIGN DATA WRAPPER stream_agg_kafka
	OPTIONS (brokers '$brokers', \"fetch.wait.max.ms\" '20');
	GRANT USAGE ON FOREIGN SERVER bait TO PUBLIC", 'mallory sets a bait');
as('alice', "SELECT stream_agg.create_source('alice.events', topic => 'events', brokers => '$brokers',
	columns => 'ts timestamptz, k int', $options)", 'alice makes a source by its brokers');
is($node->safe_psql('postgres', "SELECT pg_get_userbyid(srvowner) FROM pg_foreign_server s, pg_foreign_table t
	WHERE t.ftserver = s.oid AND ftrelid = 'alice.events'::regclass"), 'alice',
	'a server that another role can point elsewhere is not used again');
as('alice', "SELECT stream_agg.create_source('alice.again', topic => 'events', brokers => '$brokers',
	columns => 'ts timestamptz, k int', $options)");
is($node->safe_psql('postgres', 'SELECT count(DISTINCT ftserver) FROM pg_foreign_table'), 1, 'one\'s own is');

# --- a sink that waits for its stream
as('mallory', q{
	CREATE TABLE public.planted (k int UNIQUE NULLS NOT DISTINCT, n bigint);
	GRANT ALL ON public.planted TO PUBLIC;
	CREATE FUNCTION mallory.spring() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN INSERT INTO public.ran VALUES ('trap as ' || current_user); RETURN NEW; END $$;
	GRANT EXECUTE ON FUNCTION mallory.spring() TO PUBLIC;
	CREATE TRIGGER trap BEFORE INSERT ON public.planted FOR EACH ROW EXECUTE FUNCTION mallory.spring()}, 'mallory plants a table');
my $counts = 'SELECT k, count(*) AS n FROM alice.events GROUP BY k';
refused($_, "SET search_path = public; SELECT stream_agg.create_stream('planted', '$counts', output_mode => 'update', start => false)",
	qr/table "planted" exists and belongs to role "mallory"/, 'a table of another role is a sink only if it is named as such')
  for qw(alice postgres);
as('alice', "SELECT stream_agg.create_stream('named', '$counts', output_mode => 'update', start => false, sink => 'public.planted');
	SELECT stream_agg.drop_stream('named')", 'which works');

# --- a name that is taken
as('mallory', "SELECT stream_agg.create_source('mallory.events', topic => 'events', server => 'bait', columns => 'k int');
	SET search_path = mallory;
	SELECT stream_agg.create_stream('taken', 'SELECT k, count(*) FROM events GROUP BY k', output_mode => 'update', start => false)",
	'mallory takes a name');
refused('alice', "SET search_path = alice; SELECT stream_agg.create_stream('taken', '$counts', output_mode => 'update', if_not_exists => true)",
	qr/stream "taken" already exists\nDETAIL:  It belongs to role "mallory"/, 'a stream of another role is not taken for one\'s own');

# --- what is planted where names are looked up, with public before pg_catalog
as('alice', "SET search_path = alice, public, pg_catalog;
	SELECT stream_agg.create_stream('all_modes', 'SELECT k, count(*) AS n FROM events GROUP BY k HAVING count(*) <> 2',
		output_mode => 'update', trigger => '20 days', start => false);
	SELECT stream_agg.create_stream('completed', 'SELECT k, count(*) AS n FROM events GROUP BY k',
		output_mode => 'complete', trigger => '20 days', start => false)", 'alice looks in public first');
my $planted = '';
for my $type ('integer', 'bigint', 'text', 'name', 'oid', 'jsonb')
{
	$planted .= qq{
		CREATE FUNCTION public.equal($type, $type) RETURNS boolean LANGUAGE plpgsql AS
			\$\$ BEGIN INSERT INTO public.ran VALUES ('operator as ' || current_user); RETURN true; END \$\$;
		CREATE OPERATOR public.= (LEFTARG = $type, RIGHTARG = $type, FUNCTION = public.equal);};
}
as('mallory', qq{$planted
	CREATE FUNCTION public.note(text) RETURNS bigint LANGUAGE plpgsql AS
		\$\$ BEGIN INSERT INTO public.ran VALUES (\$1 || ' as ' || current_user); RETURN 0; END \$\$;
	CREATE FUNCTION public.hash_record_extended(record, bigint) RETURNS bigint LANGUAGE plpgsql AS \$\$ BEGIN RETURN public.note('hash'); END \$\$;
	CREATE FUNCTION public.record_image_eq(record, record) RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN RETURN public.note('image') = 0; END \$\$;
	CREATE FUNCTION public.count() RETURNS bigint LANGUAGE sql AS \$\$ SELECT public.note('count') \$\$;
	CREATE FUNCTION public.max(bigint) RETURNS bigint LANGUAGE sql AS \$\$ SELECT public.note('max') \$\$;
	CREATE FUNCTION public.min(bigint) RETURNS bigint LANGUAGE sql AS \$\$ SELECT public.note('min') \$\$;
	CREATE FUNCTION public.octet_length(bytea) RETURNS integer LANGUAGE sql AS \$\$ SELECT public.note('length')::integer \$\$;
	CREATE FUNCTION public.unnest(integer[]) RETURNS SETOF integer LANGUAGE sql AS \$\$ SELECT public.note('unnest')::integer \$\$;
	CREATE FUNCTION public.to_timestamp(integer) RETURNS timestamptz LANGUAGE sql AS \$\$ SELECT now() + public.note('time') * interval '1 s' \$\$;
	CREATE FUNCTION public.pg_has_role(oid, text) RETURNS boolean LANGUAGE sql AS \$\$ SELECT public.note('role') = 0 \$\$;
	CREATE VIEW public.batch_output AS SELECT 1 AS k, public.note('relation') AS n;
	CREATE VIEW public.batch_groups AS SELECT 1 AS g1, public.note('relation') AS g2;
	CREATE VIEW public.batch_removed AS SELECT 1 AS k;
	GRANT SELECT ON public.batch_output, public.batch_groups, public.batch_removed TO PUBLIC}, 'mallory plants operators, functions and relations');
as('alice', q{SET search_path = public, pg_catalog;
	SELECT stream_agg.start_stream('all_modes'); SELECT stream_agg.start_stream('completed')});
for my $n (1 .. 3)
{
	$broker->produce('events', $event);
	as('alice', "SET search_path = public, pg_catalog; SELECT stream_agg.process_available('$_')", "batch $n of $_") for qw(all_modes completed);
}
is($node->safe_psql('postgres', q{SELECT k, n FROM alice.all_modes}), '1|3', 'update, with rows that HAVING removed');
is($node->safe_psql('postgres', q{SELECT k, n FROM alice.completed}), '1|3', 'complete');
as($_, 'SET search_path = public, pg_catalog;
	SELECT * FROM pg_stat_stream_agg; SELECT * FROM pg_stat_stream_agg_partitions; SELECT * FROM stream_agg.commits') for qw(alice postgres);
as('alice', q{SET search_path = public, pg_catalog; SELECT stream_agg.stop_stream('completed');
	SELECT stream_agg.alter_stream('completed', '{"on_error": "dead_letter"}'); SELECT stream_agg.start_stream('completed')});
$broker->produce('events', 'not JSON');
as('alice', q{SET search_path = public, pg_catalog; SELECT stream_agg.process_available('completed')}, 'a dead letter');
as('alice', q{SET search_path = public, pg_catalog;
	SELECT stream_agg.drop_stream('completed', drop_sink => true); SELECT stream_agg.drop_stream('all_modes', drop_sink => true)}, 'drop');
is(ran(), '', 'nothing that was planted has run, as nobody');
$node->safe_psql('postgres', 'SET client_min_messages = warning; DROP OWNED BY mallory CASCADE;
	CREATE SCHEMA mallory AUTHORIZATION mallory; GRANT USAGE ON SCHEMA mallory TO alice;
	GRANT CREATE ON SCHEMA public TO PUBLIC;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO mallory;');

# --- a trigger that changes the session: the next micro-batch is as the first
$broker->produce('other', $event);
$node->safe_psql('postgres', 'CREATE ROLE staff; GRANT staff TO alice; GRANT ALL ON ran TO staff; GRANT USAGE ON SCHEMA alice TO staff');
as('alice', qq{SET search_path = alice;
	SELECT stream_agg.create_source('other', topic => 'other', brokers => '$brokers', columns => 'ts timestamptz, k int', $options);
	CREATE TABLE seen (what text);
	GRANT INSERT ON seen TO staff;
	CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		INSERT INTO alice.seen SELECT 'in the batch: ' || string_agg(current_setting(s), ', ')
			FROM unnest(ARRAY['role', 'search_path', 'timezone', 'datestyle', 'row_security', 'default_transaction_read_only',
				'default_transaction_isolation', 'work_mem']) s;
		SET CONSTRAINTS ALL DEFERRED;
		INSERT INTO alice.late VALUES (1);
		PERFORM set_config(s[1], s[2], false) FROM (VALUES (ARRAY['search_path', 'mallory, public']), ('{timezone,Asia/Tokyo}'),
			('{datestyle,German}'), ('{row_security,off}'), ('{default_transaction_read_only,on}'),
			('{default_transaction_isolation,serializable}'), ('{work_mem,77MB}')) v(s);
		RETURN NULL;
	END \$\$;
	CREATE TABLE late (i int);
	CREATE FUNCTION last() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		INSERT INTO alice.seen VALUES ('at commit: ' || current_user || ', ' || session_user);
		IF (SELECT count(*) > 3 FROM alice.seen) THEN PERFORM set_config('role', 'staff', false); END IF;
		RETURN NULL;
	END \$\$;
	CREATE CONSTRAINT TRIGGER last AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION last();
	SET timezone = 'UTC'; SET datestyle = 'ISO'; SET work_mem = '5MB';
	SELECT stream_agg.create_stream('meddled', 'SELECT k, count(*) AS n FROM other GROUP BY k', output_mode => 'update',
		trigger => '20 days', start => false);
	CREATE CONSTRAINT TRIGGER meddle AFTER INSERT OR UPDATE ON meddled DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION meddle();
	SELECT stream_agg.start_stream('meddled')}, 'a trigger meddles with the session');
as('alice', q{SELECT stream_agg.process_available('alice.meddled')}, 'a batch is done');
my $pid = worker_pid($node, 'meddled');
for (1 .. 2)
{
	$broker->produce('other', $event);
	as('alice', q{SELECT stream_agg.process_available('alice.meddled')}, 'and one after it');
}
is($node->safe_psql('postgres', 'SELECT * FROM alice.seen'), join("\n",
		('in the batch: none, alice, pg_temp, UTC, ISO, MDY, on, off, read committed, 4MB', 'at commit: alice, alice') x 3),
	'settings and role are those of the stream in every micro-batch; what runs at commit runs as the owner');
is(worker_pid($node, 'meddled'), $pid, 'in the same process');
as('alice', q{SELECT stream_agg.drop_stream('alice.meddled')});

# --- a trigger that stops and drops its own stream
for my $call (q{stream_agg.stop_stream('alice.suicide')}, q{stream_agg.drop_stream('alice.suicide')},
	q{stream_agg.process_available('alice.suicide')}, q{stream_agg.alter_stream('alice.suicide', '{"on_error": "skip"}')})
{
	as('alice', qq{SET search_path = alice;
		SELECT stream_agg.create_stream('suicide', 'SELECT k, count(*) AS n FROM other GROUP BY k', output_mode => 'update', start => false);
		CREATE OR REPLACE FUNCTION turn() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM $call; RETURN NULL; END \$\$;
		CREATE TRIGGER turn AFTER INSERT ON suicide FOR EACH STATEMENT EXECUTE FUNCTION turn();
		SELECT stream_agg.start_stream('suicide')}, "a trigger that calls $call");
	$node->poll_query_until('postgres', q{SELECT last_error ~ 'by its own micro-batch|while this transaction holds a lock'
		FROM pg_stat_stream_agg WHERE stream = 'suicide'}) or die "$call goes through";
	as('alice', q{SELECT stream_agg.drop_stream('alice.suicide', drop_sink => true)}, 'is refused, the stream can be dropped');
}

# --- an aggregate whose state becomes another type's
as('alice', q{SET search_path = alice;
	CREATE FUNCTION crafted(bytea, int) RETURNS bytea IMMUTABLE LANGUAGE sql AS
		$$ SELECT '\x000000100000000000000019ffffff7f01000000ffffff7fffffff7f'::bytea $$;
	CREATE FUNCTION shown(bytea) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'bytes' $$;
	CREATE AGGREGATE confused(int) (SFUNC = crafted, STYPE = bytea, FINALFUNC = shown);
	SELECT stream_agg.create_stream('confusion', 'SELECT k, confused(k) AS s FROM other GROUP BY k', output_mode => 'update',
		trigger => '20 days');
}, 'an aggregate has bytes of its owner as its state');
as('alice', q{SELECT stream_agg.process_available('alice.confusion')});
as('alice', q{SET search_path = alice;
	CREATE FUNCTION crafted(text[], int) RETURNS text[] IMMUTABLE LANGUAGE sql AS $$ SELECT $1 || 'x'::text $$;
	CREATE FUNCTION shown(text[]) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT $1::text $$;
	CREATE OR REPLACE AGGREGATE confused(int) (SFUNC = crafted, STYPE = text[], FINALFUNC = shown)}, 'and gets another type of state');
$broker->produce('other', $event);
refused('alice', q{SELECT stream_agg.process_available('alice.confusion')}, qr/stream "confusion" has failed.*cannot be used/s,
	'the bytes are not read as that type');
as('alice', q{SELECT stream_agg.drop_stream('alice.confusion')});

# --- a superuser who looks after somebody's stream runs none of its code
as('alice', q{SET search_path = alice;
	CREATE FUNCTION noted() RETURNS interval LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.ran VALUES ('size as ' || current_user); RETURN '1 min'; END $$;
	CREATE FUNCTION size() RETURNS interval IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN alice.noted(); END $$;
	SELECT stream_agg.create_stream('trap', 'SELECT stream_agg.tumble(ts, size()) AS w, count(*) AS n FROM other GROUP BY 1',
		output_mode => 'update', trigger => '20 days');
	CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO public.ran VALUES ('trigger as ' || current_user); RETURN NULL; END $$;
	CREATE TRIGGER fire AFTER INSERT OR UPDATE ON trap FOR EACH ROW EXECUTE FUNCTION fire()}, 'alice sets a trap for superusers');
as('alice', q{SELECT stream_agg.process_available('alice.trap')});
as('postgres', q{SELECT stream_agg.alter_stream('alice.trap', '{"on_error": "skip"}');
	SELECT stream_agg.stop_stream('alice.trap'); SELECT stream_agg.start_stream('alice.trap');
	SELECT stream_agg.process_available('alice.trap'); SELECT * FROM pg_stat_stream_agg, stream_agg.streams}, 'a superuser looks after the stream');
is(ran(), 'size as alice,trigger as alice', 'and runs none of its code');

# --- a stream that comes to a superuser does not run before a superuser says so
$node->safe_psql('postgres', 'REASSIGN OWNED BY alice TO postgres');
$broker->produce('other', $event);
refused('postgres', q{SELECT stream_agg.process_available('alice.trap')}, qr/stream "trap" is stopped/,
	'a stream that comes to a superuser does not run for him');
$node->restart;
is($node->safe_psql('postgres', "SELECT state FROM pg_stat_stream_agg WHERE stream = 'trap'"), 'stopped',
	'a stream that comes to a superuser is stopped, after a restart too');
is(ran(), 'size as alice,trigger as alice', 'and no code of the former owner runs as the superuser');
$node->safe_psql('postgres', q{SELECT stream_agg.start_stream('alice.trap')});
process($node, 'alice.trap');
is(ran(), 'size as alice,size as postgres,trigger as alice,trigger as postgres', 'until a superuser starts it');
$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('alice.trap', drop_sink => true);
	ALTER SCHEMA alice OWNER TO alice});

# --- a lock on what all streams share
refused('mallory', "BEGIN; LOCK TABLE stream_agg.$_ IN ACCESS EXCLUSIVE MODE; SELECT 'held'", qr/permission denied for table $_/,
	"nobody locks stream_agg.$_") for qw(streams sources offsets commits state dead_letters late_records);

# --- privileges that are taken away from a stream that runs, and row-level security
$node->safe_psql('postgres', qq{
	SELECT stream_agg.create_source('public.lent', topic => 'other', brokers => '$brokers', columns => 'ts timestamptz, k int', $options);
	CREATE TABLE public.given (k int UNIQUE NULLS NOT DISTINCT, n bigint);
	CREATE TABLE public.kinds (k int, allowed boolean);
	INSERT INTO public.kinds VALUES (1, true), (1, false);
	ALTER TABLE public.kinds ENABLE ROW LEVEL SECURITY;
	CREATE POLICY allowed ON public.kinds USING (allowed AND current_user = 'alice');
	GRANT SELECT ON public.lent, public.kinds TO alice;
	GRANT SELECT, INSERT, UPDATE, DELETE ON public.given TO alice});
as('alice', q{SET search_path = alice;
	SELECT stream_agg.create_stream('borrowed', 'SELECT k, count(*) AS n FROM public.lent JOIN public.kinds USING (k) GROUP BY k',
		output_mode => 'update', trigger => '20 days', sink => 'public.given')}, 'a stream on what others have');
as('alice', q{SELECT stream_agg.process_available('alice.borrowed')});
my $n = $node->safe_psql('postgres', 'SELECT count(*) FROM public.lent');
is($node->safe_psql('postgres', 'SELECT n FROM public.given'), $n, 'sees the rows that policies let its owner see');
for my $privilege ('UPDATE ON public.given', 'SELECT ON public.lent', 'SELECT ON public.kinds')
{
	my ($what) = $privilege =~ /public\.(\w+)/;
	$node->safe_psql('postgres', "REVOKE $privilege FROM alice");
	$broker->produce('other', $event);
	refused('alice', q{SELECT stream_agg.process_available('alice.borrowed')},
		qr/stream "borrowed" has failed.*permission denied for (foreign )?table $what/s, "without $privilege it fails");
	is($node->safe_psql('postgres', 'SELECT n FROM public.given'), $n, 'and has written nothing');
	$node->safe_psql('postgres', "GRANT $privilege TO alice; SELECT stream_agg.start_stream('alice.borrowed')");
	as('alice', q{SELECT stream_agg.process_available('alice.borrowed')}, 'with it, it goes on');
	is($node->safe_psql('postgres', 'SELECT n FROM public.given'), ++$n, 'where it was');
}
as('alice', q{SELECT stream_agg.drop_stream('alice.borrowed')});

# --- secrets: not in what others can read, not in messages, not in the log
my $secret = 'hunter2';
my $log = -s $node->logfile;
$node->safe_psql('postgres', 'ALTER SYSTEM SET log_min_messages = debug5');
$node->reload;
$node->poll_query_until('postgres', 'SHOW log_min_messages', 'debug5');
as('alice', "CREATE SERVER kafka FOREIGN DATA WRAPPER stream_agg_kafka
	OPTIONS (brokers '127.0.0.1:1', \"security.protocol\" 'sasl_plaintext');
	GRANT USAGE ON FOREIGN SERVER kafka TO mallory;
	CREATE USER MAPPING FOR alice SERVER kafka OPTIONS (user 'alice', password '$secret');
	SET search_path = alice;
	SELECT stream_agg.create_source('secured', topic => 'events', server => 'kafka', columns => 'ts timestamptz, k int');
	SELECT stream_agg.create_stream('secured_counts', 'SELECT k, count(*) AS n FROM secured GROUP BY k', output_mode => 'update')",
	'alice has a password');
for my $try (
	"CREATE USER MAPPING FOR alice SERVER kafka OPTIONS (password '$secret')",
	"ALTER USER MAPPING FOR alice SERVER kafka OPTIONS (SET password '$secret', ADD \"sasl.kerberos.kinit.cmd\" 'x')",
	"CREATE USER MAPPING FOR mallory SERVER kafka OPTIONS (password '$secret', \"ssl.key.location\" '/etc/passwd')",
	"ALTER SERVER kafka OPTIONS (ADD password '$secret')",
	"ALTER SERVER kafka OPTIONS (ADD \"sasl.password\" '$secret')",
	"ALTER SERVER kafka OPTIONS (SET brokers 'alice:$secret\@127.0.0.1:1')",
	"SELECT stream_agg.create_source('x', topic => 'x', columns => 'a int', brokers => 'h:1', options => '{\"password\": \"$secret\"}')")
{
	my (undef, $err) = as('alice', $try);
	like($err, qr/ERROR/, "fails: $try");
	# psql shows the statement only where it is told a position in it
	unlike($err, qr/$secret/, 'and does not tell the secret');
}
as('alice', q{SET client_min_messages = debug5; SET stream_agg.kafka_timeout = '500ms'; EXPLAIN (VERBOSE) SELECT * FROM alice.secured});
like((as('alice', q{SET client_min_messages = debug5; SET stream_agg.kafka_timeout = '500ms'; SELECT * FROM alice.secured}))[1],
	qr/no answer from Kafka/, 'a scan with a password that fails');
as('alice', q{SET client_min_messages = debug5; SET stream_agg.kafka_timeout = '500ms'; INSERT INTO alice.secured (k) VALUES (1)});
for my $role ('mallory', 'postgres')
{
	my $everything = join "\n", map { (as($role, $_))[0] } 'SELECT * FROM pg_stat_stream_agg', 'SELECT * FROM stream_agg.streams',
	  'SELECT * FROM stream_agg.sources', 'SELECT * FROM pg_foreign_server', 'SELECT * FROM pg_foreign_table',
	  'SELECT * FROM stream_agg.stat_streams()', q{SELECT * FROM pg_stat_activity WHERE backend_type LIKE 'stream_agg%'},
	  $role eq 'postgres' ? () : ('SELECT * FROM pg_user_mappings', 'SELECT * FROM information_schema.user_mapping_options');
	unlike($everything, qr/$secret/, "no secret in what $role can read");
}
refused('mallory', 'SELECT * FROM pg_user_mapping', qr/permission denied/, 'the catalog of mappings is nobody\'s to read');
refused('mallory', q{ALTER USER MAPPING FOR alice SERVER kafka OPTIONS (SET user 'mallory')}, qr/permission denied|must be owner/, 'mappings are not altered by others');
as('alice', q{SELECT stream_agg.drop_stream('alice.secured_counts')});
$node->safe_psql('postgres', 'ALTER SYSTEM RESET log_min_messages');
$node->reload;
my $logged = substr(PostgreSQL::Test::Utils::slurp_file($node->logfile), $log);
like($logged, qr/user mapping for "alice" already exists/, 'the log has the errors');
unlike($logged, qr/$secret/, 'and not the secret');

# --- quotes, spaces, other alphabets and 63 bytes in every name
for my $name ('x"; DROP TABLE ran; --', "it''s", 'Ünï cödé', 'a.b', '"', '%s%n', 'q' x 63, '"' x 30)
{
	my $sql = $name =~ s/''/'/gr;
	my $id = '"' . $sql =~ s/"/""/gr . '"';
	my $literal = "'" . $id =~ s/'/''/gr . "'";
	my $column = $id eq '"ctid"' ? 'c' : $id;
	my $json = $sql =~ s/(["\\])/\\$1/gr;
	my $schema = $id;
	$node->safe_psql('postgres', "CREATE SCHEMA $schema AUTHORIZATION alice");
	my $full = "'" . "$schema.$id" =~ s/'/''/gr . "'";
	my $source = "'" . ("$schema." . '"' . substr($sql, 0, 50) =~ s/"/""/gr . ' src"') =~ s/'/''/gr . "'";
	my $field = $sql =~ s/'/''/gr;
	as('alice', "SELECT stream_agg.create_source($source, topic => 'events', brokers => '$brokers',
			columns => \$c\$ $column int OPTIONS (field 'k'), ts timestamptz \$c\$, $options);
		SELECT stream_agg.create_stream($full, 'SELECT ' || \$c\$ $column, count(*) AS n FROM \$c\$ || $source || \$c\$ GROUP BY $column HAVING count(*) < 100\$c\$,
			output_mode => 'update', options => '{\"on_error\": \"skip\"}')", "a stream named $sql");
	as('alice', "SELECT stream_agg.process_available($full)", 'runs');
	is((as('alice', "SELECT n FROM $schema.$id WHERE $column = 1"))[0], 3, 'and writes');
	for my $call ('start_stream(%s)', 'process_available(%s, \'-1 s\')', 'drop_stream(%s)')
	{
		my (undef, $err) = as('mallory', sprintf('SELECT stream_agg.' . $call =~ s/%s/%1\$s/r, $full));
		like($err, qr/stream "\Q$sql.$sql\E"/, "a message names it as it is, of $call");
	}
	as('alice', "SET quote_all_identifiers = on; SELECT stream_agg.stop_stream($full); SELECT stream_agg.start_stream($full);
		SELECT stream_agg.alter_stream($full, '{}'); SELECT stream_agg.drop_stream($full, drop_sink => true);
		SELECT stream_agg.drop_source($source)", 'whatever quote_all_identifiers says');
	$node->safe_psql('postgres', "DROP SCHEMA $schema");
}
as('alice', q{SET search_path = alice; SET quote_all_identifiers = on;
	SELECT stream_agg.create_stream('quoted', 'SELECT k, count(*) FROM secured GROUP BY k', output_mode => 'update', start => false)});
is($node->safe_psql('postgres', q{SELECT stream FROM stream_agg.streams}), 'quoted', 'a name does not depend on the session');
is($node->safe_psql('postgres', q{SELECT to_regclass('public.ran')}), 'ran', 'no name was run as SQL');

done_testing();
