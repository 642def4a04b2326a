# A kind of sources that a library outside of stream_agg registers, by the installed
# header alone: its records are those of queries and of streams, and what it does not
# have is refused with the reason.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::FileSink;
use StreamAgg::FileSource;
use StreamAgg::Test;
use Test::More;

my $rng = seeded_random();
my $node = new_node('source_kinds', 'stream_agg.max_retry_delay = 100', 'stream_agg.max_attempts = 3', 'stream_agg.batch_memory = 1MB', 'timezone = UTC',
	'restart_after_crash = on', 'max_worker_processes = 32');
sub value { return $node->safe_psql('postgres', $_[0]); }

sub refused
{
	my ($sql, $pattern, $name) = @_;
	my ($status, undef, $error) = $node->psql('postgres', $sql);
	isnt($status, 0, "refused: $name");
	like($error, $pattern, "with the reason: $name");
	return;
}

my $base = 1767225600000;    # 2026-01-01
my $appended = 0;

# $n records of random partitions, a second after the other.  Streams see those of
# one partition before those of the next.
sub append
{
	my ($directory, $partitions, $n) = @_;
	my @records;
	push @{ $records[ $rng->($partitions) ] }, [ $base + 1000 * $appended, $appended++, $rng->(10) ] for 1 .. $n;
	append_records($directory, $_, @{ $records[$_] // [] }) for 0 .. $partitions - 1;
	return;
}

subtest 'a kind is registered once, complete, and by the header of this version' => sub {
	value("CREATE FUNCTION $_() RETURNS void LANGUAGE c AS '$ENV{FILE_SOURCE}'") for qw(register_another_version register_incomplete register_with_brokers register_again);
	refused('SELECT register_another_version()', qr/ERROR:  source kind "file_source of tomorrow" is made for version 2 of the interface of sources, but stream_agg has version 1\nHINT:  Compile/, 'another version');
	refused('SELECT register_incomplete()', qr/ERROR:  source kind "file_source without an end" lacks something that every kind has\nDETAIL:  That is .*bounds/, 'a function that is missing');
	refused('SELECT register_with_brokers()', qr/ERROR:  source kind "file_source with brokers" cannot have brokers\nDETAIL:  create_source makes sources of kind "kafka"/, 'the sources of create_source');
	refused('SELECT register_again()', qr/ERROR:  source kind "file_source" is registered already/, 'the same again');
};

declare_file_source($node);
declare_file_sinks($node);
my $directory = create_file_source($node, 'lines', 3);
append($directory, 3, 3000);

subtest 'a query reads the records, and no more of them than its conditions ask for' => sub {
	is(value('SELECT count(*), count(DISTINCT n), sum(n), count(DISTINCT p) FROM lines'), '3000|3000|4498500|3', 'all of them');
	is(value('SELECT count(*) FROM lines WHERE ms <> 1000 * extract(epoch FROM t)'), 0, 'with their timestamps');
	is(value('SELECT count(*) FROM lines WHERE p = 1 AND o >= 10 AND o < 20'), 10, 'by offset');
	is(value(q{SELECT min(n), count(*) FROM lines WHERE t >= '2026-01-01 00:10:00+00'}), '600|2400', 'by time');
	like(value('EXPLAIN SELECT n FROM lines WHERE p = 1 AND o >= 10'), qr/File Topic: .*source_lines\n.*File Bounds/s, 'EXPLAIN names the kind');
	value(q{ALTER FOREIGN TABLE lines ADD COLUMN h jsonb OPTIONS (metadata 'headers'), ADD COLUMN k text OPTIONS (metadata 'key')});
	is(value('SELECT count(*), bool_and(k = ms::text), min(h::text), max(h::text) FROM lines'),
		'3000|t|[{"key": "file", "value": "source"}]|[{"key": "file", "value": "source"}]', 'with keys and headers');
	value('ALTER FOREIGN TABLE lines DROP COLUMN h, DROP COLUMN k');
};

subtest 'INSERT writes records by the kind' => sub {
	value("INSERT INTO lines (ms, n, v, p) SELECT $base + 1000 * i, i, 5, i % 3 FROM generate_series($appended, $appended + 29) i");
	$appended += 30;
	is(value('SELECT count(*), max(n) FROM lines'), "$appended|" . ($appended - 1), 'queries read them');
	refused('INSERT INTO lines (ms, n, v) VALUES (1767225600000, 1234567890123456789, 1)', qr/a record of 35 bytes does not fit into 31/, 'what the kind refuses');
	refused(qq{UPDATE lines SET v = 1}, qr/cannot update foreign table "lines"/, 'UPDATE');
};

subtest 'options are those of the kind and of stream_agg' => sub {
	my $create = sub { return "CREATE FOREIGN TABLE x (a int $_[1]) SERVER directories OPTIONS (directory '/tmp' $_[0])"; };
	refused($create->(", format 'yaml'", ''), qr/unknown format "yaml"/, 'a format that there is not');
	refused($create->(", delimiter ';'", ''), qr/option "delimiter" is for sources of format csv only/, 'options that do not fit');
	refused($create->('', "OPTIONS (metadata 'color')"), qr/unknown metadata "color"/, 'metadata that there is not');
	refused($create->('', "OPTIONS (field 'a', path 'b')"), qr/cannot have both options "field" and "path"/, 'options of a column that do not fit');
	refused($create->(", topic 'x'", ''), qr/invalid option "topic"/, 'options of another kind');
};

my $windows = q{SELECT stream_agg.tumble(t, '1 minute') AS win, v, count(*) AS n, sum(n) AS total FROM lines GROUP BY 1, 2};
my $by_value = q{SELECT v, count(*) AS n, sum(n) AS total FROM lines GROUP BY v};

subtest 'streams have the results of the batch query, also in files of a kind of sinks' => sub {
	create_file_sink($node, 'copies', 'files', 'n bigint, v int');
	value(qq{SELECT stream_agg.create_stream('closed', \$\$ $windows \$\$, watermark => '10 minutes', trigger => '0', max_offsets_per_trigger => 500);
		SELECT stream_agg.create_stream('counted', \$\$ $by_value \$\$, output_mode => 'update', trigger => '0');
		SELECT stream_agg.create_stream('all_values', \$\$ $by_value \$\$, output_mode => 'complete', trigger => '0');
		SELECT stream_agg.create_stream('copied', 'SELECT n, v FROM lines', sink => 'copies', trigger => '0')});
	for my $round (1 .. 3)
	{
		append($directory, 3, 100 * $round);
		process($node, $_) for qw(closed counted all_values copied);
	}
	is_equal_tables($node, 'SELECT * FROM closed', "SELECT * FROM ($windows) w WHERE upper(win) <= (SELECT watermark FROM stream_agg.commits WHERE stream = 'closed' ORDER BY batch DESC LIMIT 1)", 'append');
	is_equal_tables($node, 'SELECT * FROM counted', $by_value, 'update');
	is_equal_tables($node, 'SELECT * FROM all_values', $by_value, 'complete');
	is_equal_tables($node, 'SELECT n, v FROM ' . load_lines($node, 'copies'), 'SELECT n, v FROM lines', 'from files to files');
	counts_add_up($node, $_, $appended, "each record is counted by $_") for qw(closed counted all_values copied);
};

subtest 'records that come are seen without being asked for' => sub {
	append($directory, 3, 50);
	ok($node->poll_query_until('postgres', "SELECT sum(n) = $appended FROM counted"), 'by looking for them');
};

subtest 'batches that do not fit into memory' => sub {
	append($directory, 3, 30_000);
	process($node, $_) for qw(counted copied);
	is_equal_tables($node, 'SELECT * FROM counted', $by_value, 'have all of their records');
};

subtest 'partitions that come are read' => sub {
	append_records($directory, 3, map { [ $base + 1000 * $appended, $appended++, 3 ] } 1 .. 40);
	process($node, 'counted');
	is_equal_tables($node, 'SELECT * FROM counted', $by_value, 'from their first record on');
	$node->append_conf('postgresql.conf', 'stream_agg.max_partitions = 3');
	$node->restart;
	refused('SELECT count(*) FROM lines', qr/there are more than 3 partitions of directory/, 'too many of them');
	$node->append_conf('postgresql.conf', 'stream_agg.max_partitions = 256');
	$node->restart;
};

subtest 'streams that share a reader, a preview, a reset' => sub {
	value(q{SELECT stream_agg.create_stream(name, query, output_mode => 'update', trigger => '0', reader => 'both')
		FROM (VALUES ('first', 'SELECT v % 3 AS k, count(*) AS n FROM lines GROUP BY 1'), ('second', 'SELECT v % 2 AS k, count(*) AS n FROM lines GROUP BY 1')) s(name, query)});
	process($node, $_) for 'first', 'second';
	is_equal_tables($node, 'SELECT * FROM first', 'SELECT v % 3 AS k, count(*) AS n FROM lines GROUP BY 1', 'one has its rows');
	is_equal_tables($node, 'SELECT * FROM second', 'SELECT v % 2 AS k, count(*) AS n FROM lines GROUP BY 1', 'and so has the other one');
	is(value(qq{SELECT sum((data->>'n')::int) FROM stream_agg.preview(\$\$ $by_value \$\$, "limit" => 1000, output_mode => 'update')}), 1000, 'a preview reads as much as it is told to');
	value(q{SELECT stream_agg.stop_stream('counted'); SELECT stream_agg.reset_stream('counted', 'earliest', results => true); SELECT stream_agg.start_stream('counted')});
	process($node, 'counted');
	is_equal_tables($node, 'SELECT * FROM counted', $by_value, 'a reset with results');
	value(q{SELECT stream_agg.stop_stream('first'); SELECT stream_agg.drop_stream(s) FROM unnest(ARRAY['first', 'second']) s});
};

subtest 'what the kind does not have is refused with the reason' => sub {
	refused(q{SELECT stream_agg.create_stream('s', 'SELECT n FROM lines', output_mode => 'append', options => '{"consumer_group": "g"}')},
		qr/a stream that reads "lines" cannot have option "consumer_group"\nDETAIL:  Sources of foreign-data wrapper file_source have no consumer groups/, 'a consumer group');
	refused(q{SELECT stream_agg.create_source('s', 't', 'a int', server => 'directories')}, qr/server "directories" is not a foreign server of stream_agg_kafka\nDETAIL:  It is one of foreign-data wrapper file_source/, 'create_source');
	create_file_source($node, 'target', 1);
	refused(q{SELECT stream_agg.create_stream('s', 'SELECT ms, n, v FROM lines', output_mode => 'append', sink => 'target', options => '{"delivery": "at_least_once"}')},
		qr/source "target" cannot be the sink of a stream\nDETAIL:  No kind of sinks takes sources of foreign-data wrapper file_source/, 'a sink without a kind of sinks');
};

subtest 'two sources are read together' => sub {
	append("$directory/../source_target", 1, 70);
	my $both = 'SELECT v, count(*) AS n, sum(n) AS total FROM (SELECT v, n FROM lines UNION ALL SELECT v, n FROM target) u GROUP BY 1';
	value("SELECT stream_agg.create_stream('joined', '$both', output_mode => 'update', trigger => '0')");
	append($directory, 3, 70);
	process($node, 'joined');
	is_equal_tables($node, 'SELECT * FROM joined', $both, 'each by its own records');
	value(q{SELECT stream_agg.drop_stream('joined')});
};

subtest 'the handler tells the kind, not the name of the wrapper' => sub {
	value(q{ALTER FOREIGN DATA WRAPPER file_source RENAME TO renamed});
	append($directory, 3, 10);
	process($node, 'counted');
	is_equal_tables($node, 'SELECT * FROM counted', $by_value, 'by another name streams go on');
	value(q{CREATE FOREIGN DATA WRAPPER file_source; CREATE SERVER impostors FOREIGN DATA WRAPPER file_source; CREATE FOREIGN TABLE false_lines (n bigint, v int) SERVER impostors;
		ALTER FOREIGN DATA WRAPPER stream_agg_rate RENAME TO r; CREATE FOREIGN DATA WRAPPER stream_agg_rate; CREATE SERVER false_rate FOREIGN DATA WRAPPER stream_agg_rate;
		CREATE FOREIGN TABLE false_rate (t timestamptz, v bigint) SERVER false_rate});
	refused("SELECT stream_agg.create_stream('s', 'SELECT v FROM $_', output_mode => 'append')", qr/the query of a stream must read a source/, "the name alone: $_") for qw(false_lines false_rate);
	value(q{DROP FOREIGN DATA WRAPPER file_source CASCADE; ALTER FOREIGN DATA WRAPPER renamed NO HANDLER});
	append($directory, 3, 10);
	wait_state($node, 'counted', 'failed', 'foreign table "lines" is not a source');
	pass('without the handler the stream fails');
	value(q{ALTER FOREIGN DATA WRAPPER renamed HANDLER file_source_handler; SELECT stream_agg.start_stream('counted')});
	process($node, 'counted');
	is_equal_tables($node, 'SELECT * FROM counted', $by_value, 'with it again it goes on');
};

subtest 'records that are gone stop a stream, or are skipped if it is told to' => sub {
	my $gone = create_file_source($node, 'gone', 1);
	append($gone, 1, 100);
	for my $stream ('stops', 'goes_on')
	{
		my $options = $stream eq 'goes_on' ? q{, options => '{"on_data_loss": "earliest"}'} : '';
		value("SELECT stream_agg.create_stream('$stream', 'SELECT n, v FROM gone', trigger => '0' $options)");
		process($node, $stream);
	}
	truncate "$gone/0", 32 * 50 or die "$gone/0: $!";
	append($gone, 1, 1);
	wait_state($node, 'stops', 'failed', 'offset 100 of partition 0 of topic .* is beyond the end of the partition');
	is(value('SELECT count(*) FROM stops'), 100, 'one stops');
	ok($node->poll_query_until('postgres', 'SELECT count(*) = 151 FROM goes_on'), 'the other one has what there is now');
};

$node->stop;
done_testing();
