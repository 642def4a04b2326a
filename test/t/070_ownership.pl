# Users' code runs as the stream's owner, wherever it hides, and a stream is
# nobody else's.

use strict;
use warnings;

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
	"deferred|alice/alice|alice\nimmediate|alice/alice|alice",
	'triggers of the sink, deferred ones too, run as the owner with the captured search_path');
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

done_testing();
