# The analysed query and its plans are kept from micro-batch to micro-batch.  What DDL
# changes counts from the next micro-batch on all the same, without a restart of the
# worker: also what a trigger of one stream does to another in the same transaction.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 2, pair => 1);
my $node = new_node('query_kept', 'max_worker_processes = 16', 'stream_agg.max_attempts = 1', 'timezone = UTC');
my $worker;

sub sql { return $node->safe_psql('postgres', @_); }

# the next second's records, a batch of their own; the stream's only worker reads them
my $second = 0;
sub batch
{
	my ($stream, $n) = @_;
	$second++;
	$broker->produce('events', map { [ $_ % 2, undef, sprintf('{"ts": "2026-01-01T00:%02d:%02dZ", "k": %d, "v": %d}', $second / 60, $second % 60, $_ % 3, $_) ] } 1 .. $n);
	process($node, $stream);
	return;
}

# the rows of the last batch's window
sub last_rows
{
	my $columns = shift;
	return sql("SELECT string_agg(concat_ws(',', $columns), ' ' ORDER BY k) FROM counts WHERE lower(win) = '2026-01-01 00:00Z'::timestamptz + '$second s'");
}

sub same_worker
{
	my $name = shift;
	$worker //= worker_pid($node, 'counts');
	is(worker_pid($node, 'counts'), $worker, "$name, without a new worker");
	return;
}

create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');
sql(q{
	CREATE ROLE owner LOGIN;
	GRANT CREATE ON SCHEMA public TO owner;
	GRANT SELECT ON events TO owner;
	CREATE TABLE names (k int, name text);
	INSERT INTO names VALUES (0, 'zero'), (1, 'one'), (2, 'two');
	CREATE TABLE areas (k int, area text) PARTITION BY LIST (k);
	CREATE TABLE areas_0 PARTITION OF areas FOR VALUES IN (0);
	CREATE TABLE areas_1 PARTITION OF areas FOR VALUES IN (1);
	INSERT INTO areas VALUES (0, 'a0'), (1, 'a1');
	GRANT SELECT ON names, areas TO owner;
	CREATE FUNCTION factor() RETURNS int LANGUAGE sql IMMUTABLE RETURN 1;
	CREATE FUNCTION within(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 * factor()';
	CREATE FUNCTION add_up(bigint, int) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
	CREATE AGGREGATE total(int) (SFUNC = add_up, STYPE = bigint, INITCOND = '0');
	SET SESSION AUTHORIZATION owner;
	SELECT stream_agg.create_stream('counts', $$
		SELECT stream_agg.tumble(ts, '1 second') AS win, k, count(*) AS n, total(within(v)) AS v, min(name) AS name, min(area) AS area
		  FROM events LEFT JOIN names USING (k) LEFT JOIN areas USING (k) GROUP BY 1, 2 $$,
		output_mode => 'update', watermark => '1 hour', trigger => '20 days')});

batch('counts', 6);
is(last_rows('k, n, v, name, area'), '0,2,9,zero,a0 1,2,5,one,a1 2,2,7,two', 'a micro-batch');
same_worker('the next');

sql('CREATE OR REPLACE FUNCTION factor() RETURNS int LANGUAGE sql IMMUTABLE RETURN 10');
batch('counts', 6);
is(last_rows('k, v'), '0,90 1,50 2,70', 'a function that was folded into a constant is replaced');

sql(q{CREATE OR REPLACE FUNCTION add_up(bigint, int) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2 + 1'});
batch('counts', 6);
is(last_rows('k, v'), '0,92 1,52 2,72', 'a transition function is replaced');

sql(q{ALTER TABLE names ADD number int; UPDATE names SET name = upper(name)});
batch('counts', 6);
is(last_rows('k, name'), '0,ZERO 1,ONE 2,TWO', 'a joined table gets a column');

sql(q{CREATE TABLE areas_2 PARTITION OF areas FOR VALUES IN (2); INSERT INTO areas VALUES (2, 'a2')});
batch('counts', 6);
is(last_rows('k, area'), '0,a0 1,a1 2,a2', 'a joined table gets a partition');

sql(q{ALTER TABLE areas DETACH PARTITION areas_0; DROP TABLE areas_0});
batch('counts', 6);
is(last_rows('k, area'), '0 1,a1 2,a2', 'and loses one');

sql(q{CREATE POLICY positive ON names USING (k > 0); ALTER TABLE names ENABLE ROW LEVEL SECURITY});
batch('counts', 6);
is(last_rows('k, name'), '0 1,ONE 2,TWO', 'a policy hides rows of a joined table');

sql('ALTER ROLE owner BYPASSRLS');
batch('counts', 6);
is(last_rows('k, name'), '0,ZERO 1,ONE 2,TWO', 'until the role is exempt from policies');

sql(q{INSERT INTO names SELECT i, i FROM generate_series(3, 20000) i; CREATE INDEX ON names (k); ANALYZE names});
batch('counts', 3000);
is(last_rows('k, n'), '0,1000 1,1000 2,1000', 'a micro-batch of many records after one of few');
batch('counts', 6);
is(last_rows('k, name'), '0,ZERO 1,ONE 2,TWO', 'and of few after many');
same_worker('all of that');

sql('REVOKE EXECUTE ON FUNCTION total(int) FROM PUBLIC');
$broker->produce('events', [ 0, undef, '{"ts": "2026-01-01T00:30:00Z", "k": 1, "v": 1}' ]);
$node->psql('postgres', q{SELECT stream_agg.process_available('counts', '2 minutes')});
wait_state($node, 'counts', 'failed');
like(sql(q{SELECT last_error FROM pg_stat_stream_agg}), qr/permission denied for (aggregate|function) total/, 'a privilege that is revoked counts at once');
sql(q{GRANT EXECUTE ON FUNCTION total(int) TO PUBLIC; SELECT stream_agg.start_stream('counts')});
process($node, 'counts');
is(sql(q{SELECT n FROM counts WHERE lower(win) = '2026-01-01 00:30Z'}), '1', 'and goes on when it is granted again');
sql(q{SELECT stream_agg.drop_stream('counts', drop_sink => true)});

# --- two streams in one transaction: the first one's trigger replaces what the second one's query calls
create_source($node, $broker, 'pair', 'pair', 'ts timestamptz, v int');
sql(q{
	CREATE FUNCTION level() RETURNS int LANGUAGE sql IMMUTABLE RETURN 0;
	BEGIN;
	SELECT stream_agg.create_stream('a_first', $$ SELECT stream_agg.tumble(ts, '1 second') AS win, max(v) AS v FROM pair GROUP BY 1 $$,
		output_mode => 'update', trigger => '20 days', watermark => '1 hour', reader => 'pair');
	SELECT stream_agg.create_stream('b_second', $$ SELECT stream_agg.tumble(ts, '1 second') AS win, max(v) AS v, max(v * 0 + level()) AS level FROM pair GROUP BY 1 $$,
		output_mode => 'update', trigger => '20 days', watermark => '1 hour', reader => 'pair');
	COMMIT;
	CREATE FUNCTION raise_level() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		EXECUTE format('CREATE OR REPLACE FUNCTION level() RETURNS int LANGUAGE sql IMMUTABLE RETURN %s', NEW.v);
		RETURN NEW;
	END $$;
	CREATE TRIGGER raise BEFORE INSERT ON a_first FOR EACH ROW EXECUTE FUNCTION raise_level()});
for my $v (1 .. 4)
{
	$broker->produce('pair', [ 0, undef, sprintf('{"ts": "2026-01-01T00:00:%02dZ", "v": %d}', $v, $v) ]);
	process($node, 'a_first');
	process($node, 'b_second');
}
is(sql(q{SELECT string_agg(v || ':' || level, ' ' ORDER BY v) FROM b_second}), '1:1 2:2 3:3 4:4',
	'what a trigger of the first stream replaces counts for the second in the same transaction');

done_testing();
