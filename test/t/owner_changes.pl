# What is captured, shown and inherited: traps where the install script and the
# workers look for names, views that hide columns from open_windows, streams that
# change hands.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1, windows => 1);
my $node = new_node('changing_hands', 'log_statement = none', 'stream_agg.max_attempts = 2', 'max_prepared_transactions = 2');
my $brokers = $broker->brokers;
my $options = q{options => '{"fetch.wait.max.ms": 20}'};

$node->safe_psql('postgres', q{
	CREATE ROLE mallory LOGIN;
	CREATE ROLE bob LOGIN;
	CREATE ROLE carol LOGIN;
	CREATE SCHEMA mallory AUTHORIZATION mallory;
	GRANT USAGE ON SCHEMA mallory TO PUBLIC;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO mallory});

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

sub produce
{
	return $broker->produce('events', map { sprintf('{"ts": "2026-01-01T00:00:00Z", "k": %d, "v": %d}', $_ % 2, $_) } 0 .. 3);
}

produce();
as('mallory', "CREATE SEQUENCE mallory.ran; SELECT nextval('mallory.ran');
	SELECT stream_agg.create_source('mallory.events', topic => 'events', brokers => '$brokers',
	columns => 'ts timestamptz, k int, v int', $options)", 'a source of mallory\'s');

# ---------------------------------------------------- traps for CREATE EXTENSION

# In public anybody may create, and mallory has: for every function and operator
# that the script names, ones of that name which fit better than the server's or as
# well; relations and types of the server's names.
$node->safe_psql('postgres', 'CREATE DATABASE traps');
$node->safe_psql('traps', 'DROP EXTENSION IF EXISTS stream_agg; GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE EXTENSION IF NOT EXISTS plpgsql');
my $script = PostgreSQL::Test::Utils::slurp_file($node->config_data('--sharedir') . '/extension/stream_agg--1.0.sql');
$script =~ s/^COMMENT ON .*?;$//msg;
$script =~ s/--.*$//mg;
my %names = map { lc $_ => 1 } $script =~ /(?:^|[^\w.])(?:pg_catalog\.)?([a-z_]\w*)\s*\(/gi;
my $names = join ',', map { "'$_'" } sort keys %names, 'num_nulls';
my $types = q{'text', 'int4', 'int8', 'oid', 'regclass', 'jsonb', 'bool', 'name', 'timestamptz', 'bytea', 'interval'};
my $springs = q{LANGUAGE plpgsql AS $b$ DECLARE c text; BEGIN
	PERFORM nextval('public.sprung'); GET DIAGNOSTICS c = PG_CONTEXT; RAISE LOG 'sprung: %', c; RETURN NULL; END $b$};
my $traps = $node->safe_psql('traps', qq{
	SET search_path = pg_catalog;
	WITH types AS (SELECT oid, oid::regtype::text AS t, typname FROM pg_type WHERE typname IN ($types) AND typnamespace = 'pg_catalog'::regnamespace),
	signatures AS (
		SELECT p.proname, pg_get_function_identity_arguments(p.oid) AS args FROM pg_proc p
		 WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN ($names) AND p.provariadic = 0
		   AND p.prorettype <> 'internal'::regtype AND NOT 'internal'::regtype = ANY (p.proargtypes) AND NOT 'cstring'::regtype = ANY (p.proargtypes)
		   AND pg_get_function_identity_arguments(p.oid) !~ '"any"|ORDER BY|internal|anycompatible|anyelement|anyarray|OUT|anynonarray|anyenum|anyrange|anymultirange'
		UNION SELECT proname, t FROM pg_proc, types WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN ($names)
		UNION SELECT proname, a.t || ', ' || b.t FROM pg_proc, types a, types b WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN ($names) AND provariadic <> 0)
	SELECT format('CREATE FUNCTION public.%I(%s) RETURNS int %s;', proname, args, \$q\$$springs\$q\$) FROM signatures
	UNION ALL
	SELECT format('CREATE FUNCTION public.compare(%s, %s) RETURNS boolean %s;', a.t, b.t, \$q\$$springs\$q\$) FROM types a, types b
	UNION ALL
	SELECT format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.compare);', o, a.t, b.t)
	  FROM types a, types b, unnest(ARRAY['=', '<>', '<', '>', '<=', '>=', '+', '-', '||']) o});
my ($status, undef, $trap_errors) = $node->psql('traps', "CREATE SEQUENCE public.sprung; GRANT ALL ON SEQUENCE public.sprung TO PUBLIC;\n$traps",
	on_error_stop => 0, extra_params => [ '-U', 'mallory' ]);
unlike($trap_errors, qr/ERROR/, 'H1: mallory sets traps') or diag(substr($trap_errors, 0, 500));
$node->safe_psql('traps', q{
	CREATE TABLE public.pg_class (oid oid, relowner oid); CREATE VIEW public.pg_database AS SELECT 1::oid AS oid, 'x'::name AS datname;
	CREATE TABLE public.streams (stream text); CREATE TABLE public.commits (stream text)}, extra_params => [ '-U', 'mallory' ]);
cmp_ok(scalar(() = $traps =~ /^CREATE/mg), '>', 500, 'H1: hundreds of them');
$node->safe_psql('traps', q{CREATE DOMAIN public.jsonb AS int; CREATE DOMAIN public.regclass AS int; CREATE DOMAIN public.oid AS int;
	CREATE DOMAIN public.bytea AS int; CREATE DOMAIN public.tstzrange AS int; CREATE DOMAIN public.text AS int}, extra_params => [ '-U', 'mallory' ]);
$node->safe_psql('traps', 'CREATE EXTENSION stream_agg SCHEMA public');
is($node->safe_psql('traps', q{
	SET search_path = pg_catalog;
	SELECT DISTINCT pg_describe_object(d.refclassid, d.refobjid, 0)
	  FROM pg_depend d
	 WHERE d.refobjid >= 16384
	   AND (d.refclassid = 'pg_proc'::regclass AND (SELECT proowner FROM pg_proc WHERE oid = d.refobjid) = 'mallory'::regrole
	    OR d.refclassid = 'pg_operator'::regclass AND (SELECT oprowner FROM pg_operator WHERE oid = d.refobjid) = 'mallory'::regrole
	    OR d.refclassid = 'pg_type'::regclass AND (SELECT typowner FROM pg_type WHERE oid = d.refobjid) = 'mallory'::regrole
	    OR d.refclassid = 'pg_class'::regclass AND (SELECT relowner FROM pg_class WHERE oid = d.refobjid) = 'mallory'::regrole)
	   AND (d.classid, d.objid) IN (
	       SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
	       UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE connamespace = 'stream_agg'::regnamespace
	       UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class::regclass::text ~ 'pg_stat_stream_agg'
	       UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy
	       UNION ALL SELECT 'pg_attrdef'::regclass, a.oid FROM pg_attrdef a JOIN pg_class c ON c.oid = adrelid WHERE c.relnamespace = 'stream_agg'::regnamespace)}),
	'', 'H1: CREATE EXTENSION has captured nothing of mallory\'s');
$node->safe_psql('traps', qq{
	SELECT stream_agg.create_source('alone', topic => 'events', brokers => '$brokers', columns => 'ts timestamptz, k int, v int', $options);
	SELECT stream_agg.create_stream('counted', 'SELECT k, pg_catalog.count(*) AS n FROM alone GROUP BY k', output_mode => 'update', trigger => '20 days');
	SELECT stream_agg.process_available('counted');
	SELECT stream_agg.preview('counted'); SELECT stream_agg.explain_stream('counted');
	SELECT * FROM pg_stat_stream_agg; SELECT * FROM pg_stat_stream_agg_partitions; SELECT * FROM stream_agg.commits; SELECT * FROM stream_agg.state;
	SELECT stream_agg.alter_stream('counted', trigger => '10 days'); SELECT stream_agg.reset_stream('counted'); SELECT stream_agg.stop_stream('counted');
	UPDATE stream_agg.sources SET topic = topic; UPDATE stream_agg.streams SET reader = reader; UPDATE stream_agg.commits SET reset = reset;
	SELECT stream_agg.delete_dead_letters('counted'), stream_agg.delete_late_records('counted')});
$node->safe_psql('traps', 'SELECT * FROM public.pg_stat_stream_agg; SELECT * FROM stream_agg.streams; SELECT * FROM stream_agg.commits',
	extra_params => [ '-U', 'bob' ]);
$node->safe_psql('traps', q{SELECT stream_agg.drop_stream('counted', drop_sink => true)});
is($node->safe_psql('traps', 'SELECT is_called FROM public.sprung'), 'f', 'H1: and no trap has sprung, whoever used it')
  or diag(grep { /sprung/ } split /^/m, PostgreSQL::Test::Utils::slurp_file($node->logfile));
$node->safe_psql('traps', 'DROP EXTENSION stream_agg CASCADE');

# the same where the worker looks for names: in a search_path with public first
$node->safe_psql('postgres', 'CREATE ROLE alice LOGIN; CREATE SCHEMA alice AUTHORIZATION alice; GRANT CREATE ON SCHEMA public TO mallory;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO alice');
as('mallory', q{
	CREATE FUNCTION public.stepped(bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN
		PERFORM nextval('mallory.ran'); RETURN $1 + 1; END $$;
	CREATE AGGREGATE public.count(*) (SFUNC = public.stepped, STYPE = bigint, INITCOND = '0');
	GRANT ALL ON SEQUENCE mallory.ran TO PUBLIC}, 'mallory has a count(*) of her own');
my $ran = value('SELECT last_value FROM mallory.ran');
as('alice', qq{SELECT stream_agg.create_source('alice.events', topic => 'events', brokers => '$brokers', columns => 'k int, v int', $options);
	SET search_path = alice, public, pg_catalog;
	SELECT stream_agg.create_stream('one', 'SELECT sum(v) AS v FROM events', output_mode => 'complete', trigger => '20 days')}, 'alice looks in public first');
as('alice', q{SELECT stream_agg.process_available('alice.one')}, 'her stream runs');
is(value('SELECT last_value FROM mallory.ran'), $ran, 'H1: and nothing of mallory\'s with it');

# ------------------------------------------------------------- views that hide

as('alice', qq{SET search_path = alice; GRANT USAGE ON SCHEMA alice TO carol;
	SELECT stream_agg.create_source('windows', topic => 'windows', brokers => '$brokers', columns => 'ts timestamptz, email text', $options);
	SELECT stream_agg.create_stream('m', \$\$SELECT stream_agg.tumble(ts, '1 minute') AS w, email, count(*) AS n FROM windows GROUP BY 1, 2\$\$,
		watermark => '0 seconds', trigger => '20 days')}, 'alice counts mails');
$broker->produce('windows', '{"ts": "2026-01-01T00:00:00Z", "email": "ceo@corp.example"}');
as('alice', q{SELECT stream_agg.process_available('alice.m')}, 'a window is open');
my $all = 'w, email, n';
sub hides
{
	my ($name, $view, $more) = @_;
	my $complete = $more;    # a live view indeed, which gets the columns of the query
	as('alice', "SET search_path = alice; CREATE VIEW masked $view; GRANT SELECT ON masked TO carol; " . ($more // ''), "alice has a view $name");
	my ($out, $err) = as('carol', 'SELECT * FROM stream_agg.open_windows(NULL::alice.m)');
	is($out, '', "M6: open_windows does not show what is hidden by a view $name");
	like($err, qr/permission denied for table m|would bypass row-level security/, 'M6: but is refused');
	# nor does another query of the stream make it another view
	my $shape = q{SELECT string_agg(attname, ', ' ORDER BY attnum), pg_get_viewdef('alice.masked'::regclass)
		FROM pg_attribute WHERE attrelid = 'alice.masked'::regclass};
	my ($before) = as('alice', $shape);
	as('alice', q{SET search_path = alice; SELECT stream_agg.alter_stream('alice.m', query =>
		$$SELECT stream_agg.tumble(ts, '1 minute') AS w, email, count(*) AS n, min(email) AS least FROM windows GROUP BY 1, 2$$)}, 'another query');
	is((as('alice', $shape))[0], $before, "M6: a view $name stays as it is when the query gets a column") unless $complete;
	as('alice', q{SET search_path = alice; DROP VIEW masked; SELECT stream_agg.alter_stream('alice.m', query =>
		$$SELECT stream_agg.tumble(ts, '1 minute') AS w, email, count(*) AS n FROM windows GROUP BY 1, 2$$, drop_columns => true)}, 'and back');
	return;
}
my $open = 'stream_agg.open_windows(NULL::m)';
hides('with a mask', "AS SELECT w, '***'::text AS email, n FROM m UNION ALL SELECT w, '***'::text, n FROM $open");
hides('with a mask on one side', "AS SELECT w, email, n FROM m UNION ALL SELECT w, '***'::text, n FROM $open");
hides('with a mask on the other', "AS SELECT w, '***'::text AS email, n FROM m UNION ALL SELECT w, email, n FROM $open");
hides('with an expression around', "AS SELECT w, lower(email) AS email, n FROM m UNION ALL SELECT w, lower(email), n FROM $open");
hides('without a column', "AS SELECT w, n FROM m UNION ALL SELECT w, n FROM $open");
hides('of rows as a whole', "AS SELECT md5(m::text) AS email, NULL::tstzrange AS w, 1 AS n FROM m UNION ALL SELECT md5(o::text), NULL, 1 FROM $open o");
hides('with WHERE', "AS SELECT $all FROM m WHERE email <> 'ceo\@corp.example' UNION ALL SELECT $all FROM $open WHERE email <> 'ceo\@corp.example'");
hides('with WHERE above', "AS SELECT * FROM (SELECT $all FROM m UNION ALL SELECT $all FROM $open) u WHERE n > 10");
hides('with DISTINCT', "AS SELECT DISTINCT $all FROM m UNION ALL SELECT DISTINCT $all FROM $open");
hides('with UNION', "AS SELECT $all FROM m UNION SELECT $all FROM $open");
hides('with GROUP BY', "AS SELECT $all FROM m GROUP BY $all UNION ALL SELECT $all FROM $open GROUP BY $all");
hides('with LIMIT', "AS SELECT $all FROM m UNION ALL (SELECT $all FROM $open LIMIT 0)");
hides('with TABLESAMPLE', "AS SELECT $all FROM m TABLESAMPLE SYSTEM (0) UNION ALL SELECT $all FROM $open");
hides('with columns changed about', "(w, email, n) AS SELECT w, n::text, n FROM m UNION ALL SELECT w, n::text, n FROM $open");
hides('of other functions', "AS SELECT $all FROM m UNION ALL SELECT w, email, n FROM unnest((SELECT array_agg(o) FROM $open o)) x");
hides('with the rights of its reader', "WITH (security_invoker) AS SELECT $all FROM m UNION ALL SELECT $all FROM $open");
hides('whose column is not granted', "AS SELECT $all FROM m UNION ALL SELECT $all FROM $open",
	'REVOKE SELECT ON masked FROM carol; GRANT SELECT (w, n) ON masked TO carol; GRANT SELECT (w, n) ON m TO carol');
as('alice', q{SELECT stream_agg.create_live_view('alice.m'); GRANT SELECT ON alice.m_live TO carol;
	ALTER VIEW alice.m_live RENAME TO live; ALTER VIEW alice.live RENAME COLUMN email TO mail}, 'a real live view, renamed');
is((as('carol', 'SELECT email FROM stream_agg.open_windows(NULL::alice.m)'))[0], 'ceo@corp.example', 'M6: it gives open_windows to those who may read it');
is((as('carol', 'SELECT mail FROM alice.live'))[0], 'ceo@corp.example', 'M6: as it does itself');
as('alice', 'ALTER TABLE alice.m ENABLE ROW LEVEL SECURITY; ALTER TABLE alice.m FORCE ROW LEVEL SECURITY');
is((as('carol', 'SELECT * FROM stream_agg.open_windows(NULL::alice.m)'))[0], '', 'M6: not where policies hide rows from its owner');
as('alice', 'ALTER TABLE alice.m DISABLE ROW LEVEL SECURITY; ALTER TABLE alice.m NO FORCE ROW LEVEL SECURITY');
as('alice', q{SET search_path = alice; SELECT stream_agg.alter_stream('alice.m', query =>
	$$SELECT stream_agg.tumble(ts, '1 minute') AS w, email, count(*) AS n, max(email) AS greatest FROM windows GROUP BY 1, 2$$)}, 'another query');
is((as('carol', 'SELECT mail, n FROM alice.live'))[0], 'ceo@corp.example|1', 'M6: a live view that shows all gets the column, its own names stay');
is(value(q{SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'alice.live'::regclass}), 'w mail n greatest', 'M6: after the others');

# ------------------------------------ membership, which others can give to a victim

$node->safe_psql('postgres', q{CREATE ROLE team; GRANT team TO mallory WITH ADMIN OPTION; GRANT CREATE ON SCHEMA public TO team;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO team});
as('mallory', qq{SET ROLE team; CREATE TABLE public.payments (k int UNIQUE NULLS NOT DISTINCT, n bigint);
	CREATE SERVER trap FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$brokers,localhost:1');
	GRANT USAGE ON FOREIGN SERVER trap TO PUBLIC; RESET ROLE; GRANT team TO postgres, alice;
	SELECT stream_agg.create_stream('public.salaries', 'SELECT k, count(*) AS n FROM mallory.events GROUP BY k', output_mode => 'update', start => false)},
	'mallory makes others members of the role that owns her traps');
for my $role ('postgres', 'alice')
{
	my $source = $role eq 'alice' ? 'alice.events' : 'mallory.events';
	my (undef, $err) = as($role, qq{SET search_path = public;
		SELECT stream_agg.create_stream('payments', 'SELECT k, count(*) AS n FROM $source GROUP BY k', output_mode => 'update', start => false)});
	like($err, qr/table "payments" exists and belongs to role "team"/, "$role, made a member, does not get the role's table for a sink");
	(undef, $err) = as($role, qq{SET search_path = public;
		SELECT stream_agg.create_stream('public.salaries', 'SELECT k, count(*) AS n FROM $source GROUP BY k', output_mode => 'update', if_not_exists => true)});
	like($err, qr/stream "public.salaries" already exists\nDETAIL:  It belongs to role "mallory"/, "$role does not take another role's stream for one of its own");
}
as('alice', qq{SELECT stream_agg.create_source('alice.theirs', topic => 'events', brokers => '$brokers,localhost:1', columns => 'k int')}, 'alice has a source of those brokers');
is(value(q{SELECT pg_get_userbyid(srvowner) FROM pg_foreign_table t JOIN pg_foreign_server s ON s.oid = t.ftserver WHERE ftrelid = 'alice.theirs'::regclass}),
	'alice', 'its server is hers, not that of the role she was made a member of');
$node->safe_psql('postgres', q{DROP FOREIGN TABLE alice.theirs; SELECT stream_agg.drop_stream('public.salaries', drop_sink => true);
	DROP OWNED BY team; DROP ROLE team});

# ------------------------------------------------------- what goes with a session

for my $temporary (
	[ 'a function', 'CREATE FUNCTION pg_temp.f(int) RETURNS int IMMUTABLE LANGUAGE sql AS $$SELECT $1$$', 'pg_temp.f(k)' ],
	[ 'a type', 'CREATE DOMAIN pg_temp.d AS int', 'k::pg_temp.d::int' ],
	[ 'an operator', 'CREATE OPERATOR pg_temp.#+# (LEFTARG = int, RIGHTARG = int, FUNCTION = pg_catalog.int4pl)', 'k OPERATOR(pg_temp.#+#) 1' ],
	[ 'a collation', 'CREATE COLLATION pg_temp.c FROM "C"', 'length(max(k::text COLLATE pg_temp.c))' ],
	[ 'an aggregate', 'CREATE AGGREGATE pg_temp.a(int) (SFUNC = pg_catalog.int4pl, STYPE = int, INITCOND = 0)', 'pg_temp.a(k)' ],
	[ 'a function by way of another', 'CREATE DOMAIN pg_temp.d AS int; CREATE FUNCTION alice.through(int, pg_temp.d DEFAULT NULL) RETURNS int IMMUTABLE LANGUAGE sql AS $$SELECT $1$$', 'alice.through(k)' ],
	[ 'a type by way of a view', 'CREATE DOMAIN pg_temp.d AS int; CREATE VIEW alice.through AS SELECT 1::pg_temp.d::int AS one', '(SELECT one FROM alice.through)' ])
{
	my ($what, $make, $expression) = @$temporary;
	my $key = $expression =~ /max|pg_temp\.a/ ? "$expression AS v" : "count($expression) AS v";
	my (undef, $err) = as('alice', qq{SET client_min_messages = error; SET search_path = alice; $make;
		SELECT stream_agg.create_stream('brief', \$q\$SELECT $key FROM events\$q\$, output_mode => 'complete', start => false)});
	like($err, qr/cannot use temporary objects\nDETAIL:  It depends on .*, which is dropped when the session ends/, "the query of a stream cannot use $what in pg_temp");
}
is(value(q{SELECT count(*) FROM stream_agg.streams WHERE stream ~ 'brief'}), 0, 'no stream is left of those');

# a view that went without the event trigger
$node->safe_psql('postgres', q{ALTER EVENT TRIGGER stream_agg_sql_drop DISABLE});
for my $again ('create', 'drop')
{
	as('alice', q{SET search_path = alice; SELECT stream_agg.create_stream('gone', 'SELECT sum(v) AS v FROM events', output_mode => 'complete', start => false);
		DROP VIEW alice.gone_query; DROP TABLE alice.gone}, 'a stream loses its view');
	is(value(q{SELECT count(*) FROM stream_agg.streams WHERE stream = 'gone'}), 1, 'and its row stays');
	as('alice', q{SET search_path = alice; SELECT stream_agg.create_stream('gone', 'SELECT sum(v) AS v FROM events', output_mode => 'complete', start => false);
		DROP VIEW alice.gone_query; DROP TABLE alice.gone}, 'its name can be taken') if $again eq 'create';
	as('alice', q{SELECT stream_agg.drop_stream('gone')}, 'drop_stream removes it');
	is(value(q{SELECT count(*) FROM stream_agg.streams WHERE stream = 'gone'}), 0, 'and its row');
}
$node->safe_psql('postgres', q{ALTER EVENT TRIGGER stream_agg_sql_drop ENABLE});

# ------------------------------------------- a database that changes its name twice

$node->safe_psql('postgres', 'CREATE DATABASE named');
$node->safe_psql('named', qq{CREATE EXTENSION stream_agg;
	SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers', columns => 'k int, v int', $options);
	SELECT stream_agg.create_stream('total', 'SELECT sum(v) AS v FROM events', output_mode => 'complete', trigger => '0')});
for my $end (q{PREPARE TRANSACTION 'named'}, 'COMMIT', 'ROLLBACK')
{
	$node->safe_psql('postgres', "BEGIN; ALTER DATABASE named RENAME TO other; ALTER DATABASE other RENAME TO named; $end");
	$node->safe_psql('postgres', q{ROLLBACK PREPARED 'named'}) if $end =~ /PREPARE/;
	my ($status, undef, $err) = $node->psql('named', q{SELECT stream_agg.process_available('total', '30 seconds')});
	is($status, 0, "a database renamed twice and $end: its streams go on") or diag($err);
}
$node->safe_psql('postgres', 'DROP DATABASE named');

# --------------------------------------------------------- streams change hands

as('mallory', q{SET search_path = mallory; CREATE TABLE handed (k int UNIQUE NULLS NOT DISTINCT, n bigint);
	SELECT stream_agg.create_stream('passed', 'SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update', trigger => '20 days', sink => 'handed');
	CREATE TABLE ran_as (who text);
	GRANT INSERT ON ran_as TO PUBLIC;
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO mallory.ran_as VALUES (current_user); RETURN NULL; END $$;
	CREATE TRIGGER note AFTER INSERT OR UPDATE ON handed FOR EACH ROW EXECUTE FUNCTION note();
	CREATE SERVER mine FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'localhost:1')}, 'mallory has a stream with a trigger');
as('mallory', q{SELECT stream_agg.process_available('mallory.passed')}, 'it runs');
is(value(q{SELECT DISTINCT who FROM mallory.ran_as}), 'mallory', 'as mallory');
$node->safe_psql('postgres', q{CREATE ROLE dave LOGIN; GRANT alice, dave TO mallory; GRANT USAGE, CREATE ON SCHEMA mallory TO alice, dave;
	GRANT ALL ON ALL TABLES IN SCHEMA mallory TO alice, dave, mallory});

sub state_is
{
	my ($state, $name) = @_;
	$node->poll_query_until('postgres', "SELECT state = '$state' FROM pg_stat_stream_agg WHERE stream = 'passed'")
	  or diag(value(q{SELECT state, last_error FROM pg_stat_stream_agg WHERE stream = 'passed'}));
	return is(value(q{SELECT state FROM pg_stat_stream_agg WHERE stream = 'passed'}), $state, $name);
}

# by whom, how; who owns the stream then, and who starts it
for my $change (
	[ 'postgres', 'REASSIGN OWNED BY mallory TO alice', 'alice', 'alice' ],
	[ 'postgres', 'ALTER VIEW mallory.passed_query OWNER TO mallory', 'mallory', 'postgres' ],
	[ 'mallory', 'ALTER TABLE mallory.passed_query OWNER TO alice', 'alice', 'alice' ],
	[ 'postgres', 'ALTER TABLE mallory.handed OWNER TO dave', 'alice', 'alice' ],
	[ 'postgres', 'ALTER FOREIGN TABLE mallory.events OWNER TO dave', 'alice', 'alice' ],
	[ 'postgres', 'REASSIGN OWNED BY alice, dave TO postgres', 'postgres', 'postgres' ],
	[ 'postgres', 'REASSIGN OWNED BY postgres TO mallory', 'mallory', 'mallory' ])
{
	my ($who, $command, $owner, $starter) = @$change;
	$command = q{ALTER VIEW mallory.passed_query OWNER TO mallory; ALTER TABLE mallory.handed OWNER TO mallory;
		ALTER FOREIGN TABLE mallory.events OWNER TO mallory; ALTER TABLE mallory.ran_as OWNER TO mallory} if $command =~ /BY postgres/;
	$node->safe_psql('postgres', 'GRANT ALL ON ALL TABLES IN SCHEMA mallory TO alice, dave, mallory; DELETE FROM mallory.ran_as');
	as($who, $command, "$who: $command") if $who ne 'postgres';
	$node->safe_psql('postgres', $command) if $who eq 'postgres';
	$node->safe_psql('postgres', 'GRANT ALL ON ALL TABLES IN SCHEMA mallory TO alice, dave, mallory');
	produce();
	my (undef, $err) = as('postgres', q{SELECT stream_agg.process_available('mallory.passed')});
	like($err, qr/stream "passed" is stopped/, "L8: $command: the stream stops");
	$node->restart if $command =~ /^REASSIGN/;
	state_is('stopped', 'L8: and stays so');
	is(value('SELECT count(*) FROM mallory.ran_as'), 0, 'L8: no code has run');
	as($starter, q{SELECT stream_agg.start_stream('mallory.passed'); SELECT stream_agg.process_available('mallory.passed')}, "L8: until $starter starts it");
	is(value('SELECT DISTINCT who FROM mallory.ran_as'), $owner, "L8: as $owner");
}

# a stream that was stopped for it: neither preview nor repair_late run anything
as('mallory', q{SELECT stream_agg.alter_stream('mallory.passed', '{"on_error": "skip"}')});
$node->safe_psql('postgres', 'ALTER TABLE mallory.handed OWNER TO dave; DELETE FROM mallory.ran_as');
produce();
as('mallory', q{SELECT stream_agg.process_available('mallory.passed')});
state_is('stopped', 'L8: the sink has another owner');
for my $call (q{SELECT * FROM stream_agg.preview('mallory.passed')})
{
	like((as('mallory', $call))[1], qr/the query, the sink or a source of stream "passed" has got another owner since it was started.*HINT:  If you trust/s, "L8: $call is refused");
}
is(value('SELECT count(*) FROM mallory.ran_as'), 0, 'L8: no code has run');
$node->safe_psql('postgres', 'ALTER TABLE mallory.handed OWNER TO mallory');
as('mallory', q{SELECT stream_agg.start_stream('mallory.passed'); SELECT stream_agg.process_available('mallory.passed')}, 'L8: it goes on');

# a sink that changes hands while its stream is in EXECUTE
as('mallory', q{SET search_path = mallory;
	CREATE TABLE written_late (k int, v int);
	CREATE FUNCTION held(int) RETURNS int STABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN $1; END $$;
	SELECT stream_agg.create_stream('held', 'SELECT k, held(v) AS v FROM events', sink => 'written_late', starting_offsets => 'latest', trigger => '0')}, 'a stream that waits in EXECUTE');
as('mallory', q{SELECT stream_agg.process_available('mallory.held')});
my $locked = '';
my $holder = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'SELECT pg_advisory_lock(77)', '-c', 'SELECT pg_backend_pid()', '-c', 'SELECT pg_sleep(6000)' ],
	'>', \$locked, '2>', '/dev/null');
$holder->pump until $locked =~ /\d\n/;
produce();
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted") or die 'it does not wait';
$node->safe_psql('postgres', q{ALTER TABLE mallory.written_late OWNER TO dave});
as('dave', q{CREATE TRIGGER note AFTER INSERT ON mallory.written_late FOR EACH ROW EXECUTE FUNCTION mallory.note()}, 'its new owner gives it a trigger');
$node->safe_psql('postgres', 'DELETE FROM mallory.ran_as');
value("SELECT pg_terminate_backend(" . ($locked =~ /(\d+)/)[0] . ")");
$holder->finish;
$node->poll_query_until('postgres', "SELECT state = 'stopped' FROM pg_stat_stream_agg WHERE stream = 'held'") or die 'it does not stop';
is(value('SELECT count(*) FROM mallory.ran_as') . value('SELECT count(*) FROM mallory.written_late'), '00', 'L8: a sink that changes hands during EXECUTE gets no row, and no trigger runs');
as('mallory', q{SELECT stream_agg.drop_stream('mallory.held')}, 'gone');

# a partition of the sink that others own
as('mallory', q{SET search_path = mallory;
	CREATE TABLE parted (k int, v int) PARTITION BY LIST (k);
	CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
	SELECT stream_agg.create_stream('parted_stream', 'SELECT k, v FROM events', sink => 'parted', trigger => '0');
	SELECT stream_agg.process_available('parted_stream')}, 'a sink with partitions');
$node->safe_psql('postgres', q{ALTER TABLE mallory.parted_1 OWNER TO dave});
as('dave', q{CREATE TRIGGER note AFTER INSERT ON mallory.parted_1 FOR EACH ROW EXECUTE FUNCTION mallory.note()}, 'somebody has a partition of it');
produce();
wait_state($node, 'parted_stream', 'failed', 'partition "parted_1" of sink "parted" belongs to role "dave"');
is(value('SELECT count(*) FROM mallory.ran_as'), 0, 'L8: the trigger of its owner does not run');
as('mallory', q{SELECT stream_agg.drop_stream('mallory.parted_stream')}, 'gone, too');

# options and privileges of the query's view outlive another query
as('mallory', q{SET search_path = mallory;
	SELECT stream_agg.create_stream('fenced', $q$SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n FROM events WHERE v = 1 GROUP BY 1, k$q$, watermark => '1 minute', start => false);
	ALTER VIEW fenced_query SET (security_barrier, security_invoker = false);
	GRANT SELECT (k) ON fenced_query TO bob;
	SELECT stream_agg.create_live_view('fenced');
	ALTER VIEW fenced_live SET (security_barrier);
	SELECT stream_agg.alter_stream('fenced', query => $q$SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n, sum(v) AS total FROM events WHERE v = 1 GROUP BY 1, k$q$)}, 'a view with a barrier');
is(value(q{SELECT string_agg(reloptions::text, ' ' ORDER BY relname) FROM pg_class WHERE relname IN ('fenced_query', 'fenced_live')}),
	'{security_barrier=true} {security_barrier=true,security_invoker=false}', 'alter_stream keeps the options of views');
is(value(q{SELECT attacl FROM pg_attribute WHERE attrelid = 'mallory.fenced_query'::regclass AND attname = 'k'}), '{bob=r/mallory}', 'and the privileges of columns');

$node->safe_psql('postgres', 'ALTER ROLE mallory RENAME TO mallory2');
produce();
as('postgres', q{SELECT stream_agg.process_available('mallory.passed')}, 'L8: another name of the owner changes nothing');
as('mallory2', 'DROP OWNED BY mallory2 CASCADE', 'L8: the owner drops all');
is(value(q{SELECT count(*) FROM stream_agg.streams WHERE stream = 'mallory.passed'}), 0, 'L8: streams too');

done_testing();
