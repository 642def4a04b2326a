# alter_stream with another query: columns are renamed rather than dropped, and
# dropped only if that is said; options of a source that change under streams.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker(orders => 1);
my $node = new_node('alter_columns', 'max_worker_processes = 64');
create_source($node, $broker, 'orders', 'orders', 'ts timestamptz, k text, amount int');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub said { my (undef, undef, $err) = $node->psql('postgres', $_[0]); return $err; }
sub columns { return sql("SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '$_[0]'::regclass AND attnum > 0 AND NOT attisdropped"); }
sub produce { $broker->produce('orders', map { [ 0, '', qq({"ts": "2026-01-01T00:00:00Z", "k": "k$_", "amount": $_, "w": 10}) ] } 1 .. 3); return; }
sub alter { my ($stream, $query, $more) = @_; return said("SELECT stream_agg.alter_stream('$stream', query => \$q\$$query\$q\$" . ($more // '') . ')'); }

sql(q{SELECT stream_agg.create_stream('k6', 'SELECT k, count(*), sum(amount) FROM orders GROUP BY k', output_mode => 'update', trigger => '20 days')});
produce();
process($node, 'k6');

subtest 'the same expression by another name is a renamed column' => sub {
	my $rows = sql('SELECT k, count, sum FROM k6 ORDER BY k');
	is(alter('k6', 'SELECT k, count(*) AS n, sum(amount) FROM orders GROUP BY k'), '', 'nothing to be told');
	is(columns('k6'), 'k n sum', 'the column of the sink has the other name');
	is(sql('SELECT k, n, sum FROM k6 ORDER BY k'), $rows, 'and what it held');
	produce();
	process($node, 'k6');
	is_equal_tables($node, 'SELECT k, n, sum FROM k6', 'SELECT * FROM k6_query', 'and the stream goes on with its state');
	sql('ALTER TABLE k6 RENAME sum TO total');
	is(alter('k6', 'SELECT k AS key, count(*) AS n, sum(amount) AS total FROM orders GROUP BY k'), '', 'a column that was renamed by hand, and a key');
	is(columns('k6'), 'key n total', 'the sink has the names of the query');
	produce();
	process($node, 'k6');
	is_equal_tables($node, 'SELECT key, n, total FROM k6', 'SELECT * FROM k6_query', 'and rows are found by the key');
};

subtest 'columns are dropped only with drop_columns' => sub {
	my $query = 'SELECT k AS key, max(amount) AS most FROM orders GROUP BY k';
	my $rows = sql('TABLE k6 ORDER BY key');
	like(alter('k6', $query), qr/ERROR:  columns "n", "total" of sink "k6" would be dropped, with all their data\nDETAIL: .*\nHINT:  .*drop_columns => true/, 'an error names them');
	like(alter('k6', 'SELECT k AS key, count(*) AS n FROM orders GROUP BY k', ', drop_columns => false'), qr/ERROR:  column "total" of sink "k6" would be dropped, with all its data/, 'and one alone');
	is(sql('TABLE k6 ORDER BY key'), $rows, 'the table is as it was');
	unlike(alter('k6', $query, ', drop_columns => true'), qr/ERROR/, 'with drop_columns they go');
	is(columns('k6'), 'key most', 'and are gone');
};

subtest 'a live view and a table of the user' => sub {
	sql(q{SELECT stream_agg.create_stream('live', $$SELECT stream_agg.tumble(ts, '1 minute') AS w, count(*) FROM orders GROUP BY 1$$, watermark => '1 minute', trigger => '20 days');
		SELECT stream_agg.create_live_view('live');
		CREATE TABLE mine (k text PRIMARY KEY, n bigint);
		SELECT stream_agg.create_stream('own', 'SELECT k, count(*) AS n FROM orders GROUP BY k', sink => 'mine', output_mode => 'update', trigger => '20 days')});
	process($node, $_) for qw(live own);
	unlike(alter('live', q{SELECT stream_agg.tumble(ts, '1 minute') AS w, count(*) AS n FROM orders GROUP BY 1}), qr/ERROR/, 'under a live view');
	is(sql('SELECT count FROM live_live'), 9, 'which keeps its own name for it');
	unlike(alter('own', 'SELECT k, count(*) AS number FROM orders GROUP BY k'), qr/ERROR/, 'of a table of the user');
	is(columns('mine'), 'k number', 'is renamed as well');
	like(alter('own', 'SELECT k, sum(amount) AS total FROM orders GROUP BY k', ', drop_columns => true'), qr/column "number" of sink "mine" is not dropped/, 'but not dropped');
};

subtest 'rows of groups in the state are filled at once' => sub {
	$broker->produce('orders', [ 0, '', '{"ts": "2026-01-01T00:00:00Z", "amount": 5}' ]);
	sql(q{CREATE TABLE names (k text, name text); INSERT INTO names VALUES ('k1', 'one');
		SELECT stream_agg.create_stream('filled', 'SELECT k, count(*) AS n, sum(amount) AS total FROM orders GROUP BY k', output_mode => 'update', trigger => '20 days');
		SELECT stream_agg.create_stream('all_rows', 'SELECT k, count(*) AS n, sum(amount) AS total FROM orders GROUP BY k', output_mode => 'complete', trigger => '20 days');
		SELECT stream_agg.create_stream('single', 'SELECT count(*) AS n FROM orders', output_mode => 'update', trigger => '20 days')});
	process($node, $_) for qw(filled all_rows single);
	my $query = q{SELECT k, count(*) AS n, sum(amount) AS total, sum(amount) / count(*) AS mean, (SELECT name FROM names WHERE names.k = orders.k) AS name FROM orders GROUP BY k};
	sql(q{DELETE FROM filled WHERE k = 'k3'});
	like(alter('filled', $query), qr/NOTICE:  columns "mean", "name" of sink "filled" are filled in the rows of groups in the state\nDETAIL:  Rows filled: 3\.(?!.*NOTICE)/s, 'told');
	like(alter('all_rows', $query), qr/Rows filled: 4\./, 'in output mode complete, too');
	like(alter('single', 'SELECT count(*) AS n, count(*) * 2 AS twice FROM orders'), qr/column "twice" of sink "single" is filled in .*\n.*Rows filled: 1\./, 'and the one row of a query without GROUP BY');
	is_equal_tables($node, 'SELECT * FROM filled', "SELECT * FROM filled_query WHERE k IS DISTINCT FROM 'k3'", 'that of the NULL key among them; a row that is not there is not made');
	is_equal_tables($node, 'TABLE all_rows', 'TABLE all_rows_query', 'complete');
	is(sql('SELECT twice = 2 * n FROM single'), 't', 'single row');
	produce();
	process($node, $_) for qw(filled all_rows single);
	is_equal_tables($node, "TABLE $_", "TABLE ${_}_query", "$_ goes on") for qw(filled all_rows single);
};

subtest 'what the state does not tell is not filled' => sub {
	my $before = sql('SELECT k, n, total, mean FROM filled ORDER BY k');
	my $query = q{SELECT k, count(*) AS n, sum(amount) AS total, sum(amount) / count(*) AS mean, (SELECT name FROM names WHERE names.k = orders.k) AS name};
	my $said = alter('filled', "$query, max(amount) AS most, max(amount) - count(*) AS rest, (SELECT max(amount) + length(name) FROM names WHERE names.k = orders.k) AS inner_most, count(*) + 1 AS more FROM orders GROUP BY k");
	like($said, qr/NOTICE:  column "more" of sink "filled" is filled in .*Rows filled: 4\..*NOTICE:  1 aggregate of stream "filled" begins/s, 'told');
	is(sql('SELECT count(*), count(most), count(rest), count(inner_most), count(*) FILTER (WHERE more = n + 1) FROM filled'), '4|0|0|0|4', 'of aggregates that begin nothing is written');
	is(sql('SELECT k, n, total, mean FROM filled ORDER BY k'), $before, 'the others are as they were');
};

subtest 'rows of windows that are closed are not in the state' => sub {
	my $query = q{SELECT stream_agg.tumble(ts, '1 minute') AS w, k, count(*) AS n, sum(amount) AS total};
	sql(qq{SELECT stream_agg.create_stream('$_', \$\$$query FROM orders GROUP BY 1, 2\$\$, output_mode => '$_', watermark => '1 minute', trigger => '20 days')} =~ s/create_stream\('/create_stream('w_/r) for qw(update append);
	process($node, "w_$_") for qw(update append);
	$broker->produce('orders', map { [ 0, '', qq({"ts": "2026-01-01T00:0$_:00Z", "k": "k1", "amount": $_}) ] } 3 .. 5);
	process($node, "w_$_") for qw(update append);
	my $rows = sql('SELECT count(*) FROM w_append');
	like(alter('w_update', "$query, sum(amount) / count(*) AS mean FROM orders GROUP BY 1, 2"), qr/column "mean" of sink "w_update" is filled in .*\nDETAIL:  Rows filled: 2\. Rows of closed windows are not changed/, 'update');
	is(sql('SELECT lower(w), mean FROM w_update WHERE mean IS NOT NULL ORDER BY 1'), "2026-01-01 00:04:00+00|4\n2026-01-01 00:05:00+00|5", 'those of open windows have it');
	like(alter('w_append', "$query, sum(amount) / count(*) AS mean FROM orders GROUP BY 1, 2"), qr/NOTICE:  column "mean" of sink "w_append" is not filled in existing rows\nDETAIL:  .*no longer in the state/, 'append');
	is(sql('SELECT count(*), count(mean) FROM w_append'), "$rows|0", 'none of append has it');
	$broker->produce('orders', [ 0, '', '{"ts": "2026-01-01T01:00:00Z", "k": "k1", "amount": 1}' ]);
	process($node, 'w_append');
	is(sql('SELECT count(mean) FROM w_append'), 2, 'but those that close later');
};

subtest 'by somebody else: as the owner, and rolled back' => sub {
	sql(q{CREATE FUNCTION who() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''filled as %'', current_user; RETURN NULL; END';
		CREATE ROLE keeper LOGIN; GRANT ALL ON SCHEMA public TO keeper; GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO keeper;
		GRANT SELECT ON orders TO keeper;
		SET ROLE keeper; SELECT stream_agg.create_stream('kept', 'SELECT k, count(*) AS n FROM orders GROUP BY k', output_mode => 'update', trigger => '20 days', start => false);
		RESET ROLE; CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON kept DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION who()});
	sql(q{SELECT stream_agg.start_stream('kept')});
	process($node, 'kept');
	my $rows = sql('TABLE kept ORDER BY k');
	like(said(q{BEGIN; SELECT stream_agg.alter_stream('kept', query => 'SELECT k, count(*) AS n, count(*) + 1 AS more FROM orders GROUP BY k'); ROLLBACK}), qr/filled as keeper\n.*column "more"/s, 'a deferred trigger of the sink runs as the owner, at once');
	is(sql('TABLE kept ORDER BY k'), $rows, 'nothing is left after a rollback');
};

subtest 'options of a source that change under streams are told' => sub {
	my $told = qr/NOTICE:  streams that read "orders" use its new options from their next micro-batch on: [a-z_0-9, ]*k6, [a-z_0-9, ]*live, own/m;
	like(said(q{ALTER FOREIGN TABLE orders ALTER COLUMN amount OPTIONS (SET field 'w')}), $told, 'of a column');
	produce();
	process($node, 'k6');
	is(sql('SELECT max(most) FROM k6'), 10, 'and hold from the next micro-batch on');
	like(said(q{ALTER FOREIGN TABLE orders OPTIONS (SET format 'csv')}), $told, 'the format');
	unlike(said(q{ALTER FOREIGN TABLE orders OPTIONS (SET topic 'orders')}), qr/NOTICE/, 'what is read is another matter');
	unlike(said('ALTER FOREIGN TABLE orders RENAME COLUMN amount TO sum'), qr/NOTICE/, 'and so are names');
	sql('SELECT stream_agg.stop_stream(stream) FROM stream_agg.streams');
	is(said(q{ALTER FOREIGN TABLE orders OPTIONS (SET format 'json')}), '', 'no stream runs');
};

done_testing();
