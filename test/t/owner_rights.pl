# Users' code runs as the stream's owner, wherever it hides, and a stream is
# nobody else's.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1);
my $node = new_node('ownership');
my $brokers = $broker->brokers;

$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	CREATE ROLE mallory LOGIN;
	CREATE SCHEMA alice AUTHORIZATION alice;
	GRANT USAGE ON SCHEMA alice TO mallory;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO alice});

sub as
{
	my ($role, $sql) = @_;
	return $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
}

my ($status, $out, $err) = as('alice', qq{
	SET search_path = alice;
	SELECT stream_agg.create_source('events', topic => 'events', brokers => '$brokers',
		columns => 'ts timestamptz, k int', options => '{"fetch.wait.max.ms": 20}');
	CREATE TABLE ran_as (what text, who text, path text);
	CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN
		INSERT INTO alice.ran_as VALUES (TG_ARGV[0], current_user || '/' || session_user, current_setting('search_path'));
		RETURN NEW;
	END \$\$;
	CREATE FUNCTION who(int) RETURNS text STABLE LANGUAGE sql AS 'SELECT current_user::text';
	SELECT stream_agg.create_stream('counts', 'SELECT k, count(*) AS n, min(who(k)) AS who FROM events GROUP BY k',
		output_mode => 'update', trigger => '20 days', start => false);
	CREATE TRIGGER immediate AFTER INSERT ON counts FOR EACH ROW EXECUTE FUNCTION note('immediate');
	CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON counts DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION note('deferred');
	SELECT stream_agg.start_stream('counts')});
is($status, 0, 'a role with USAGE on the wrapper makes source and stream') or diag($err);

$broker->produce('events', '{"ts": "2026-01-01T00:00:00Z", "k": 1}');
as('alice', q{SELECT stream_agg.process_available('alice.counts')});
is($node->safe_psql('postgres', 'SELECT what, who, path FROM alice.ran_as ORDER BY what'),
	"deferred|alice/alice|alice, pg_temp\nimmediate|alice/alice|alice, pg_temp",
	'triggers of the sink, deferred ones too, run as the owner with the captured search_path, temporary objects last');
is($node->safe_psql('postgres', 'SELECT k, n, who FROM alice.counts'), '1|1|alice', 'so do functions of the query');
is($node->safe_psql('postgres', q{SELECT usename FROM pg_stat_activity WHERE backend_type = 'stream_agg worker'}),
	'alice', 'the worker is connected as the owner');

for my $call (
	q{SELECT stream_agg.stop_stream('alice.counts')},
	q{SELECT stream_agg.start_stream('alice.counts')},
	q{SELECT stream_agg.drop_stream('alice.counts')},
	q{SELECT stream_agg.process_available('alice.counts')})
{
	($status, $out, $err) = as('mallory', $call);
	like($err, qr/must be owner of stream/, "another role cannot: $call");
}
($status, $out, $err) = as('mallory', 'SELECT * FROM alice.events');
like($err, qr/permission denied/, 'another role cannot read the source');
($status, $out, $err) = as('mallory', 'SELECT count(*) FROM stream_agg.state');
is($out, 0, 'another role sees no state');
($status, $out, $err) = as('alice', 'SELECT count(*) > 0 FROM stream_agg.state');
is($out, 't', 'the owner does');
($status, $out, $err) = as('mallory', 'SELECT count(*) FROM pg_stat_stream_agg');
is($out, 0, 'another role sees no statistics');

# an owner who may no longer connect
$node->safe_psql('postgres', 'ALTER ROLE alice NOLOGIN;
	SELECT pg_terminate_backend(pid) FROM pg_stat_stream_agg');
wait_state($node, 'counts', 'retrying', 'could not connect');
like($node->safe_psql('postgres', 'SELECT last_error FROM pg_stat_stream_agg'),
	qr/could not connect to the database as the stream's owner/, 'a worker that may no longer connect is told');
($status, $out, $err) = $node->psql('postgres', q{SELECT stream_agg.stop_stream('alice.counts');
	SELECT stream_agg.start_stream('alice.counts')});
like($err, qr/role "alice" cannot run streams, because it cannot log in/, 'an owner who cannot log in is refused');
$node->safe_psql('postgres', 'ALTER ROLE alice LOGIN');

# settings of the role that would be in the way of a batch
$node->safe_psql('postgres', q{
	ALTER ROLE alice SET default_transaction_read_only = on;
	ALTER ROLE alice SET default_transaction_isolation = 'serializable';
	ALTER ROLE alice SET statement_timeout = '1ms';
	ALTER ROLE alice SET timezone = 'Asia/Tokyo';
	SELECT stream_agg.start_stream('alice.counts')});
$broker->produce('events', '{"ts": "2026-01-01T00:00:00Z", "k": 2}');
process($node, 'alice.counts');
is($node->safe_psql('postgres', 'SELECT count(*) FROM alice.counts'), 2, 'settings of the role do not stop the stream');

# what is there already must be what its creator would have made
sub source
{
	my ($role, $name) = @_;
	return as($role, qq{SELECT stream_agg.create_source('public.$name', topic => 'events', brokers => '$brokers', columns => 'k int', if_not_exists => true)});
}
$node->safe_psql('postgres', q{
	GRANT CREATE ON SCHEMA public TO alice, mallory;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO mallory;
	GRANT mallory TO alice;
	ALTER ROLE alice RESET ALL});
source('mallory', 'theirs');
as('mallory', q{
	GRANT SELECT ON theirs TO alice;
	CREATE TABLE a_table (k int);
	GRANT ALL ON a_table TO alice;
	CREATE VIEW a_view AS SELECT 1 AS k;
	GRANT SELECT ON a_view TO alice});
as('alice', 'CREATE TABLE public.own_table (k int)');
($status, $out, $err) = source('alice', 'theirs');
like($err, qr/source "theirs" already exists\n.*It belongs to role "mallory"/, 'create_source if_not_exists takes no source of another role, also of one that has been granted');
for my $name ('a_table', 'a_view', 'own_table')
{
	($status, $out, $err) = source('alice', $name);
	like($err, qr/relation "$name" already exists\n.*It is not a source/, "nor $name");
}
source('alice', 'ours');
($status, $out, $err) = source('alice', 'ours');
is("$status $out", '0 ours', 'but one of its own');
like($err, qr/source "ours" already exists, skipping/, 'with a NOTICE');
$node->safe_psql('postgres', 'REVOKE mallory FROM alice');

# who may only insert into a table does not keep its owner from using it
as('alice', q{
	SET search_path = alice;
	CREATE TABLE results (k int, n bigint);
	GRANT INSERT ON results TO mallory;
	GRANT USAGE ON SCHEMA alice TO mallory;
	CREATE TABLE taken (k int, n bigint)});
($status, $out, $err) = as('mallory', q{BEGIN; SELECT stream_agg.create_stream('squatter', 'SELECT k, 1::bigint AS n FROM theirs', sink => 'alice.results', start => false);
	SELECT string_agg(DISTINCT mode, ' ') FROM pg_locks WHERE relation = 'alice.results'::regclass AND pid = pg_backend_pid() AND mode !~ '^(AccessShare|RowExclusive)Lock$'; ROLLBACK});
is("$status $out", "0 alice.results\n", 'a role with INSERT on a table takes no lock on it for which VACUUM would wait') or diag($err);
my ($open_in, $open_out) = (q{BEGIN; SELECT stream_agg.create_stream('open', 'SELECT k, 1::bigint AS n FROM theirs', sink => 'alice.results', start => false);} . "\n", '');
my $open = IPC::Run::start([ 'psql', '-XAtq', '-U', 'mallory', '-d', $node->connstr('postgres') ], '<', \$open_in, '>', \$open_out, '2>', '/dev/null');
$open->pump until $open_out =~ /results/;
($status, $out, $err) = as('alice', q{SET lock_timeout = '3s'; BEGIN; SELECT stream_agg.create_stream('alice.own', 'SELECT k, 2::bigint AS n FROM alice.events', sink => 'alice.results', start => false); ROLLBACK});
is($status, 0, 'the owner of a table does not wait for another role that is making a stream into it') or diag($err);
($status, $out, $err) = as('mallory', q{SET lock_timeout = '3s'; SELECT stream_agg.create_stream('again', 'SELECT k, 1::bigint AS n FROM theirs', sink => 'alice.results', start => false)});
like($err, qr/a transaction that has not ended creates a stream into table "results"/, 'nor does a role that may only insert: it is refused');
$open_in .= "ROLLBACK;\n\\q\n";
$open->finish;
as('mallory', q{SELECT stream_agg.create_stream('squatter', 'SELECT k, 1::bigint AS n FROM theirs', sink => 'alice.results', trigger => '20 days')});
as('mallory', q{SELECT stream_agg.process_available('squatter')});
is($node->safe_psql('postgres', 'SELECT count(*) FROM alice.results'), 2, 'a role with INSERT on a table has a stream into it');
($status, $out, $err) = as('mallory', q{SELECT stream_agg.create_stream('again', 'SELECT k, 1::bigint AS n FROM theirs', sink => 'alice.results', start => false)});
like($err, qr/table "results" is the sink of stream "squatter"/, 'one only');
my $own = q{SET search_path = alice; SELECT stream_agg.create_stream('own', 'SELECT k, 2::bigint AS n FROM events', sink => 'results', trigger => '20 days')};
($status, $out, $err) = as('alice', $own);
is($status, 0, 'the owner of the table makes a stream into it all the same') or diag($err);
like($err, qr/table "results" is also the sink of a stream of role "mallory"/, 'and is told of the other');
as('alice', q{SELECT stream_agg.process_available('alice.own')});
is($node->safe_psql('postgres', 'SELECT n, count(*) FROM alice.results GROUP BY n ORDER BY n'), "1|2\n2|2", 'both write');
($status, $out, $err) = as('alice', $own =~ s/'own'/'more'/r);
like($err, qr/table "results" is the sink of stream "own"/, 'one of the owner, too');
($status, $out, $err) = as('mallory', q{SELECT stream_agg.create_stream('again', 'SELECT k, 1::bigint AS n FROM theirs', sink => 'alice.results', start => false)});
like($err, qr/table "results" is the sink of another role's stream/, 'after which nobody else does');
as('alice', 'GRANT SELECT ON alice.events TO mallory');
as('mallory', q{SELECT stream_agg.create_stream('hidden', 'SELECT k FROM alice.events')});
($status, $out, $err) = as('alice', q{ALTER FOREIGN TABLE alice.events OPTIONS (SET format 'json')});
like($err, qr/streams that read "events" use its new options from their next micro-batch on: counts, own, 1 of other roles$/m, 'names of streams are those of the caller\'s own');
($status, $out, $err) = as('alice', 'SELECT count(*) FROM stream_agg.open_windows(NULL::alice.results)');
unlike($err, qr/squatter/, 'open windows of the table are those of its owner\'s stream');
as('alice', 'SET lock_timeout = 60000; DROP TABLE alice.results');
is($node->safe_psql('postgres', q{SELECT to_regclass('alice.results') IS NULL}), 't', 'the owner can drop the table');

done_testing();
