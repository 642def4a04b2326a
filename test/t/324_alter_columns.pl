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
	like(alter('k6', $query), qr/ERROR:  columns "n", "total" of sink "k6" would be dropped, with all they hold\nDETAIL: .*\nHINT:  .*drop_columns => true/, 'an error names them');
	like(alter('k6', 'SELECT k AS key, count(*) AS n FROM orders GROUP BY k', ', drop_columns => false'), qr/ERROR:  column "total" of sink "k6" would be dropped, with all it holds/, 'and one alone');
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

subtest 'options of a source that change under streams are told' => sub {
	my $told = qr/NOTICE:  streams that read "orders" go by its new options from their next micro-batch on: k6, live, own$/m;
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
