# preview writes into the sink, too: its constraints, triggers and privileges
# speak as they would in the real micro-batch.  Nothing of it stays, and the
# stream's worker goes on as if nobody had looked.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(clicks => 2, busy => 2, results => 1);
my $random = seeded_random();
my $node = new_node('preview_sink', 'max_worker_processes = 32', "timezone = 'UTC'", 'log_lock_waits = on', 'max_prepared_transactions = 0', 'autovacuum = off');
sub sql { return $node->safe_psql('postgres', $_[0]); }

# what psql says: (stdout, stderr); the session goes on after errors
sub says { my (undef, $out, $err) = $node->psql('postgres', $_[0], on_error_stop => 0); return ($out, $err); }

create_source($node, $broker, $_, $_, 'ts timestamptz, k int, v int') for 'clicks', 'busy';
create_source($node, $broker, 'results', 'results', 'k int, n bigint');
my $turn = 0;
sub produce
{
	my ($topic, @records) = @_;
	$broker->produce($topic, map { [ $turn++ % 2, '', sprintf('{"ts": "2026-01-01T%02d:%02d:%02dZ", "k": %s, "v": %s}',
		$_->[0] / 3600, $_->[0] / 60 % 60, $_->[0] % 60, $_->[1], $_->[2]) ] } @records);
	return;
}
my $windows = q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, sum(v) AS total FROM clicks GROUP BY 1, 2};
my $keys = 'SELECT k, count(*) AS n, sum(v) AS total FROM clicks GROUP BY k';
produce('clicks', map { [ $_, $random->(4), $random->(50) ] } 1 .. 300);
produce('clicks', [ 900, 1, 1 ]);

sub make
{
	my ($stream, $mode, $query, $more) = @_;
	my $watermark = $mode eq 'append' ? q{, watermark => '1 minute'} : '';
	return sql("SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => '$mode', trigger => '20 days', start => false $watermark $more)");
}

# --- an error of the sink is the batch's, word by word, and nothing stays of it
sql('CREATE TABLE seen (stream text, k int); CREATE SEQUENCE numbers');
sql(q{CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO seen VALUES (TG_TABLE_NAME, NEW.k);
		PERFORM nextval('numbers');
		PERFORM pg_notify('seen', TG_TABLE_NAME);
		RETURN NEW;
	END $$});
my %streams = (appended => [ 'append', $windows ], updated => [ 'update', $keys ], whole => [ 'complete', $keys ],
	single => [ 'update', 'SELECT count(*) AS k, sum(v) AS total FROM clicks' ], row_by_row => [ 'append', 'SELECT k, v AS total FROM clicks', 'no watermark' ]);
for my $stream (sort keys %streams)
{
	my ($mode, $query, $rows) = @{ $streams{$stream} };
	if ($rows) { sql("SELECT stream_agg.create_stream('$stream', '$query', trigger => '20 days', start => false)"); }
	else { make($stream, $mode, $query, ''); }
	sql("CREATE TRIGGER note BEFORE INSERT OR UPDATE ON $stream FOR EACH ROW EXECUTE FUNCTION note()");

	my ($out, $err) = says("SELECT count(*) > 0 FROM stream_agg.preview('$stream', NULL)");
	is($out, 't', "$stream: rows are shown");
	unlike($err, qr/not tried/, 'and written on trial');
	is(sql("SELECT count(*) FROM seen"), 0, 'what a trigger has written is gone');
	is(sql("SELECT count(*) FROM $stream"), 0, 'and so are the rows');
	cmp_ok(sql("SELECT last_value FROM numbers WHERE is_called"), '>', 0, 'a sequence has advanced');
	sql('ALTER SEQUENCE numbers RESTART');

	sql("ALTER TABLE $stream ADD CONSTRAINT small CHECK (total < 0)");
	($out, $err) = says("LISTEN seen; SELECT * FROM stream_agg.preview('$stream', NULL); SELECT 'alive', count(*) FROM seen");
	is($out, 'alive|0', 'after an error of the sink the session is not in a failed transaction');
	like($err, qr/ERROR:  new row for relation "$stream" violates check constraint "small"/, 'which a constraint raises');
	my ($said) = $err =~ /ERROR:  (.*\nDETAIL:  .*)/;
	is(sql("SELECT count(*) FROM stream_agg.commits WHERE stream = '$stream'"), 0, 'no batch is committed');
	sql("SELECT stream_agg.start_stream('$stream')");
	$node->poll_query_until('postgres', "SELECT last_error ~ 'violates check constraint' FROM pg_stat_stream_agg WHERE stream = '$stream'") or die 'no error';
	my ($told) = sql("SELECT last_error FROM pg_stat_stream_agg WHERE stream = '$stream'") =~ /\A(.*\nDETAIL:  .*)/;
	# which of the rows comes first is not determined
	s/contains \(.*\)/contains (a row)/ for $said, $told;
	is($said, $told, 'in the same words as in the real micro-batch');

	sql("ALTER TABLE $stream DROP CONSTRAINT small; SELECT stream_agg.start_stream('$stream')");
	process($node, $stream);
	cmp_ok(sql("SELECT count(*) FROM seen WHERE stream = '$stream'"), '>', 0, 'the real one then writes, and its trigger');
	sql("SELECT stream_agg.stop_stream('$stream'); TRUNCATE seen");
}

# --- known groups, deleted ones and those of somebody else
produce('clicks', map { [ 910 + $_, $random->(6), $random->(50) ] } 1 .. 100);
sql(q{DELETE FROM updated WHERE k = 1; INSERT INTO updated (k, n) VALUES (5, -1); DELETE FROM whole WHERE k = 2; INSERT INTO whole (k, n) VALUES (77, 1)});
my $rows = sql('SELECT * FROM updated ORDER BY k') . sql('SELECT * FROM whole ORDER BY k');
for my $stream ('updated', 'whole')
{
	my $shown = "SELECT (data->>'k')::int AS k, (data->>'n')::bigint AS n, (data->>'total')::bigint AS total FROM stream_agg.preview('$stream', NULL)";
	is_equal_tables($node, $shown, "SELECT k, n, total FROM ${stream}_query q" . ($stream eq 'updated' ? ' WHERE k IN (SELECT k FROM clicks WHERE ts >= \'2026-01-01 00:15:10+00\')' : ''),
		"$stream: rows that are not there, or should not be, do not matter");
}
is(sql('SELECT * FROM updated ORDER BY k') . sql('SELECT * FROM whole ORDER BY k'), $rows, 'and the tables are as they were');

# --- in PL/pgSQL, and within a transaction that goes on
is(sql(q{DO $$ BEGIN
		ALTER TABLE updated ADD CONSTRAINT small CHECK (total < 0) NOT VALID;
		PERFORM * FROM stream_agg.preview('updated', NULL);
	EXCEPTION WHEN check_violation THEN
		INSERT INTO seen VALUES ('caught', 0);
	END $$; SELECT count(*) FROM seen WHERE stream = 'caught'}), 1, 'an error can be caught');
is(sql(q{BEGIN; INSERT INTO seen VALUES ('mine', 1); SELECT count(*) > 0 FROM stream_agg.preview('updated', NULL); COMMIT; SELECT count(*) FROM seen WHERE stream = 'mine'}),
	"t\n1", 'what the transaction has done before stays');

# --- deferred constraints speak before the end
sql(q{CREATE TABLE allowed (k int PRIMARY KEY); INSERT INTO allowed SELECT generate_series(0, 3);
	ALTER TABLE updated ADD CONSTRAINT allowed FOREIGN KEY (k) REFERENCES allowed DEFERRABLE INITIALLY DEFERRED NOT VALID});
my ($out, $err) = says(q{SELECT count(*) FROM stream_agg.preview('updated', NULL)});
like($err, qr/ERROR:  insert or update on table "updated" violates foreign key constraint "allowed"/, 'a deferred constraint');
sql('INSERT INTO allowed SELECT generate_series(4, 9)');
cmp_ok(sql(q{SELECT count(*) FROM stream_agg.preview('updated', NULL)}), '>', 3, 'which is content');
sql('CREATE TABLE child (k int REFERENCES allowed DEFERRABLE INITIALLY DEFERRED)');
($out, $err) = says(q{BEGIN; INSERT INTO child VALUES (100); SAVEPOINT a; SELECT count(*) FROM stream_agg.preview('whole', NULL);
	ROLLBACK TO a; DELETE FROM child; COMMIT; SELECT 'done'});
like($out, qr/done/, 'constraints that the caller has waiting still wait after it');
is(sql(q{BEGIN; SET CONSTRAINTS ALL DEFERRED; SELECT count(*) > 0 FROM stream_agg.preview('updated', NULL); INSERT INTO child VALUES (100);
	UPDATE child SET k = 1; COMMIT; SELECT count(*) FROM child}), "t\n1", 'and are deferred as they were');

# --- another role: privileges are the owner's, code runs as the owner
sql(q{CREATE ROLE analyst LOGIN; GRANT USAGE ON FOREIGN SERVER } . sql('SELECT quote_ident(srvname) FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$') . q{ TO analyst;
	GRANT SELECT ON clicks TO analyst; GRANT CREATE ON SCHEMA public TO analyst;
	CREATE TABLE theirs (k int UNIQUE NULLS NOT DISTINCT, n bigint, total bigint, who text DEFAULT current_user);
	GRANT ALL ON theirs TO analyst; ALTER TABLE theirs ADD CONSTRAINT allowed FOREIGN KEY (k) REFERENCES allowed DEFERRABLE INITIALLY DEFERRED;
	CREATE FUNCTION not_mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF current_user <> 'analyst' THEN RAISE 'run by %', current_user; END IF; RETURN NEW; END $$;
	CREATE TRIGGER not_mine BEFORE INSERT ON theirs FOR EACH ROW EXECUTE FUNCTION not_mine();
	SET ROLE analyst; SELECT stream_agg.create_stream('theirs', '} . $keys . q{', output_mode => 'update', trigger => '20 days', start => false, sink => 'theirs')});
cmp_ok(sql(q{SELECT count(*) FROM stream_agg.preview('theirs', NULL)}), '>', 3, 'a superuser tries the stream of another, as its owner, deferred constraints and all');
cmp_ok(sql(q{SET ROLE analyst; SELECT count(*) FROM stream_agg.preview('theirs', NULL)}), '>', 3, 'and so does the owner');
sql('REVOKE UPDATE ON theirs FROM analyst');
(undef, $err) = says(q{SELECT count(*) FROM stream_agg.preview('theirs', NULL)});
like($err, qr/ERROR:  permission denied for table theirs/, 'a privilege that the owner lacks');
sql('GRANT UPDATE ON theirs TO analyst; ALTER TABLE theirs ADD inverse int GENERATED ALWAYS AS (1 / (k - 1)) STORED');
(undef, $err) = says(q{SELECT count(*) FROM stream_agg.preview('theirs', NULL)});
like($err, qr/ERROR:  division by zero/, 'a generated column');
sql('ALTER TABLE theirs DROP inverse; ALTER TABLE theirs ENABLE ROW LEVEL SECURITY; CREATE POLICY low ON theirs USING (k < 3)');
(undef, $err) = says(q{SET row_security = off; SELECT count(*) FROM stream_agg.preview('theirs', NULL)});
like($err, qr/ERROR:  new row violates row-level security policy for table "theirs"/, 'a policy');

# --- results that are to be replaced
sql(q{SELECT stream_agg.reset_stream('whole', 'earliest', results => true); SELECT stream_agg.reset_stream('appended', 'earliest', results => true)});
$rows = sql('SELECT * FROM appended ORDER BY 1, 2');
cmp_ok(sql(q{SELECT count(*) FROM stream_agg.preview('appended', NULL)}), '>', 3, 'a stream that is to replace all rows is tried');
is(sql('SELECT * FROM appended ORDER BY 1, 2'), $rows, 'they are there still');
sql(q{CREATE TABLE refers (k int); CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not deleted'; END $$;
	CREATE TRIGGER no BEFORE DELETE ON appended FOR EACH ROW EXECUTE FUNCTION no()});
(undef, $err) = says(q{SELECT count(*) FROM stream_agg.preview('appended', NULL)});
like($err, qr/ERROR:  not deleted/, 'and what keeps them from being deleted is seen');

# --- where nothing can be written
sql(qq{SELECT stream_agg.create_stream('sent', 'SELECT k, count(*) AS n FROM clicks GROUP BY k', output_mode => 'update', trigger => '20 days', start => false,
	sink => 'results', options => '{"delivery": "at_least_once"}')});
($out, $err) = says(q{SELECT count(*) > 0 FROM stream_agg.preview('sent', NULL); SELECT count(*) FROM results});
is($out, "t\n0", 'no record is sent to a sink that is a topic');
like($err, qr/The sink was not tried, for it is a Kafka topic/, 'which is said');
($out, $err) = says(q{BEGIN READ ONLY; SELECT count(*) > 0 FROM stream_agg.preview('updated', NULL); COMMIT});
like($err, qr/The sink was not tried, for the transaction is read-only\./, 'a read-only transaction');
($out, $err) = says(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) > 0 FROM stream_agg.preview('updated', NULL); COMMIT});
like($err, qr/The sink was not tried, for the transaction is not read committed/, 'a snapshot that may be old');
sql('ALTER TABLE theirs DISABLE ROW LEVEL SECURITY; ALTER TABLE theirs DROP COLUMN total');
(undef, $err) = says(q{BEGIN READ ONLY; SELECT count(*) > 0 FROM stream_agg.preview('theirs', NULL)});
like($err, qr/sink "theirs" has no column "total"/, 'there it is looked at, at least');

# --- a trigger that asks for a preview
sql(q{CREATE FUNCTION ask() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM stream_agg.preview('updated'); RETURN NEW; END $$;
	CREATE TRIGGER ask BEFORE INSERT ON updated FOR EACH ROW EXECUTE FUNCTION ask()});
(undef, $err) = says(q{SELECT count(*) > 0 FROM stream_agg.preview('updated', NULL)});
like($err, qr/ERROR:  preview cannot be called by code that a preview runs/, 'previews do not nest');
sql('DROP TRIGGER ask ON updated');
cmp_ok(sql(q{SELECT count(*) FROM stream_agg.preview('updated', NULL)}), '>', 3, 'the next one works');

# --- beside a worker that never rests, with triggers that meet in one row
sql(q{CREATE TABLE meters (name text PRIMARY KEY, n bigint); INSERT INTO meters VALUES ('all', 0);
	CREATE FUNCTION meter() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE meters SET n = n + 1; PERFORM pg_sleep(0.005); RETURN NULL; END $$});
my %busy = (busy_updated => [ 'SELECT k, count(*) AS n, sum(v) AS total FROM busy GROUP BY k', q{output_mode => 'update'} ],
	busy_whole => [ 'SELECT k % 7 AS k, count(*) AS n, sum(v) AS total FROM busy GROUP BY 1', q{output_mode => 'complete'} ],
	busy_appended => [ q{SELECT stream_agg.tumble(ts, '5 seconds') AS win, k, count(*) AS n FROM busy GROUP BY 1, 2}, q{output_mode => 'append', watermark => '1 minute'} ]);
sql('BEGIN; ' . join('; ', map { "SELECT stream_agg.create_stream('$_', \$q\$$busy{$_}[0]\$q\$, $busy{$_}[1], trigger => '0', max_offsets_per_trigger => 60, reader => 'busy')" } sort keys %busy) . '; COMMIT');
sql("CREATE TRIGGER meter AFTER INSERT OR UPDATE ON $_ FOR EACH STATEMENT EXECUTE FUNCTION meter()") for sort keys %busy;
sql('CREATE UNIQUE INDEX ON busy_appended (win, k)');
my $before = -s $node->logfile;
my @watchers = map {
	my $stream = $_;
	IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', 'SET client_min_messages = warning',
			'-c', "DO \$\$ BEGIN FOR i IN 1 .. 60 LOOP PERFORM * FROM stream_agg.preview('$stream', 100); END LOOP; END \$\$" ],
		'<', '/dev/null', '>', '/dev/null', '2>', '/dev/null');
} (sort keys %busy) x 2;
my $second = 0;
my $produced = 0;
while ($produced < 400 || ($produced < 20_000 && sql(q{SELECT count(*) FROM pg_stat_activity WHERE query ~ '^DO.*preview' AND state = 'active'}) > 0))
{
	produce('busy', map { [ $second++ / 4, $random->(30), $random->(100) ] } 1 .. 40);
	$produced += 40;
}
is(scalar(grep { $_->finish } @watchers), 6, "previews of three streams beside $produced records");
process($node, $_) for sort keys %busy;
my $log = slurp_file($node->logfile, $before);
my @errors = grep { /ERROR|deadlock/ } split /\n/, $log;
is(join("\n", @errors), '', 'neither they nor the worker met an error');
is(sql('SELECT count(*) FROM pg_stat_stream_agg WHERE reader = \'busy\' AND last_error !~ \'Kafka about .* yet\''), 0, 'the streams have none');
is(sql(q{SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'}), 0, 'no deadlock was broken');
is(sql(qq{SELECT rows_in FROM pg_stat_stream_agg WHERE stream = '$_'}), $produced, "$_: each record counts once") for sort keys %busy;
is_equal_tables($node, "SELECT * FROM $_", "SELECT * FROM ${_}_query", "$_ equals the batch query") for 'busy_updated', 'busy_whole';
is_equal_tables($node, 'SELECT * FROM busy_appended', qq{SELECT * FROM busy_appended_query WHERE upper(win) <= '@{[ watermark($node, 'busy_appended') ]}'},
	'busy_appended equals the batch query');

# --- the stream waits for a preview, for no longer than that runs
sql(q{CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;
	CREATE TRIGGER linger AFTER INSERT OR UPDATE ON busy_updated FOR EACH STATEMENT EXECUTE FUNCTION linger()});
my $holder = $node->background_psql('postgres');
my $watcher = $node->background_psql('postgres', on_error_stop => 0);
sql(q{SELECT stream_agg.stop_stream(stream) FROM stream_agg.streams WHERE reader = 'busy'});
produce('busy', [ $second, 1, 1 ]);
$holder->query_safe('SELECT pg_advisory_lock(7)');
$watcher->query_until(qr/asked/, qq{\\echo asked\nBEGIN;\nSELECT count(*) FROM stream_agg.preview('busy_updated', NULL);\n\\echo shown\n});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) or die 'no preview at its trigger';
sql(q{SELECT stream_agg.start_stream(stream) FROM stream_agg.streams WHERE reader = 'busy'});
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	WHERE l.locktype = 'object' AND NOT granted AND backend_type = 'stream_agg worker'}), 'while a preview writes the worker waits before its micro-batch');
is(sql(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE backend_type = 'stream_agg worker' AND l.relation = 'busy_whole'::regclass}), 0, 'and holds no table meanwhile');
sql('DROP TRIGGER no ON appended');
$holder->query_safe('SELECT pg_advisory_unlock(7)');
$watcher->query_until(qr/shown/, '');
process($node, $_) for sort keys %busy;
is_equal_tables($node, 'SELECT * FROM busy_updated', 'SELECT * FROM busy_updated_query', 'it goes on while the transaction of the preview is open');
is(sql(qq{SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid() AND relation = 'busy_updated'::regclass}), 0, 'which has no lock on the sink any more');
$_->quit for $holder, $watcher;

# --- locks that the owner's code takes for the session
sql(q{CREATE OR REPLACE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_advisory_lock(70), pg_advisory_lock(70), pg_advisory_lock_shared(7, 1), pg_advisory_lock(72), pg_advisory_xact_lock(73);
		IF current_setting('test.how') = 'fails' THEN RAISE 'no'; END IF;
		IF current_setting('test.how') = 'is cancelled' THEN PERFORM pg_sleep(60); END IF;
		RETURN NULL;
	END $$;
	SELECT stream_agg.stop_stream(stream) FROM stream_agg.streams WHERE reader = 'busy'});
produce('busy', [ $second, 1, 1 ]);
for my $how ('works', 'fails', 'is cancelled')
{
	my ($status, $out, $err) = $node->psql('postgres', qq{
		SET test.how = '$how';
		SELECT 'before' FROM pg_advisory_lock(72);
		SET statement_timeout = '@{[ $how eq 'is cancelled' ? '2s' : '0' ]}';
		SELECT count(*) > 0 FROM stream_agg.preview('busy_updated', NULL);
		RESET statement_timeout;
		SELECT locktype, objid, mode FROM pg_locks WHERE pid = pg_backend_pid() AND locktype IN ('advisory', 'object')}, on_error_stop => 0);
	is($out, "before\n" . ($how eq 'works' ? "t\n" : '') . 'advisory|72|ExclusiveLock', "a preview that $how leaves no lock behind") or diag($err);
	is($err =~ /^psql:<stdin>:\d+: (?:WARNING|ERROR):  (.*)/m ? $1 : 'no error', { works => 'no error', fails => 'no', 'is cancelled' => 'canceling statement due to statement timeout' }->{$how}, 'and says no more');
}
sql(q{DROP TRIGGER linger ON busy_updated; SELECT stream_agg.start_stream(stream) FROM stream_agg.streams WHERE reader = 'busy'});

# --- a change of the sink is tried while the stream stands still
($out, $err) = says(q{BEGIN; SELECT stream_agg.stop_stream('busy_updated'); INSERT INTO busy VALUES ('2026-01-01', 3, 3); ALTER TABLE busy_updated ADD CONSTRAINT few CHECK (n < 0) NOT VALID;
	SELECT count(*) FROM stream_agg.preview('busy_updated', NULL); ROLLBACK});
like($err, qr/ERROR:  new row for relation "busy_updated" violates check constraint "few"/, 'a change of the sink is tried in the transaction that stops the stream');
process($node, $_) for sort keys %busy;
is_equal_tables($node, 'SELECT * FROM busy_updated', 'SELECT * FROM busy_updated_query', 'which goes on after it is rolled back');

$node->stop;
done_testing();
