# What a new user is told when something is wrong: each message names the cause and
# what to do about it.  One subtest for each case.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;
use Time::HiRes ();

my $broker = start_broker(ev => 1);
my $node = new_node('messages');
my $brokers = $broker->brokers;
create_source($node, $broker, 'ev', 'ev', q{ts timestamptz, k text, v int, off bigint OPTIONS (metadata 'offset')});

sub sql { return $node->safe_psql('postgres', $_[0]); }

# what a statement says beside its rows
sub said { my (undef, undef, $err) = $node->psql('postgres', $_[0]); return $err; }

sub create
{
	my ($name, $query, $more) = @_;
	return said("SELECT stream_agg.create_stream('$name', \$q\$$query\$q\$, trigger => '20 days'" . ($more // '') . ')');
}

my $counts = 'SELECT k, count(*) AS n FROM ev GROUP BY k';
my $windows = q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n FROM ev GROUP BY 1, k};
my $update = q{, output_mode => 'update'};
$broker->produce('ev', '{"ts":"2026-01-01T00:00:00Z","k":"a","v":1}');

subtest 'times need no cast' => sub {
	unlike(create('timed', $windows, q{, watermark => '1 minute', starting_offsets => now() - interval '3 minutes'}), qr/ERROR/, 'in starting_offsets');
	unlike(said(q{SELECT stream_agg.reset_stream('timed', now() - interval '3 minutes')}), qr/ERROR/, 'in reset_stream');
};

subtest 'a mistyped option of a source names the one that is meant' => sub {
	my $source = "SELECT stream_agg.create_source('x', topic => 'ev', brokers => '$brokers', columns => 'a text', format => 'csv', options => ";
	like(said("$source'{\"delimeter\": \";\"}')"), qr/ERROR:  invalid option "delimeter" for a source or its server\nHINT:  Perhaps you meant the option "delimiter"\.$/m, 'create_source');
	like(said("$source'{\"fetch.max.byte\": 1}')"), qr/HINT:  Perhaps you meant the option "fetch\.max\.bytes"/, 'of a server');
	like(said("$source'{\"something_else\": 1}')"), qr/HINT:  Options of a source and its server are: .*brokers.*delimiter/, 'all of them where none is near');
	like(said("$source'{\"plugin.library.paths\": \"x\"}')"), qr/ERROR:  property "plugin\.library\.paths" cannot be set/, 'a property that cannot be set keeps its own error');
	like(said(q{ALTER FOREIGN TABLE ev OPTIONS (ADD formt 'csv')}), qr/invalid option "formt" for a source\nHINT:  Perhaps you meant the option "format"/, 'ALTER FOREIGN TABLE');
	like(said(q{ALTER FOREIGN TABLE ev ALTER COLUMN v OPTIONS (ADD paht 'x')}), qr/HINT:  Perhaps you meant the option "path"/, 'of a column');
	like(create('x', $counts, qq{$update, options => '{"on_eror": "skip"}'}), qr/unknown option "on_eror" of a stream\nHINT:  Perhaps you meant the option "on_error"/, 'of a stream');
	like(create('x', $counts, qq{$update, options => '{"colour": "red"}'}), qr/HINT:  Options of a stream are on_error, .* and executors\./, 'all options of a stream');
};

subtest 'values of options are listed as valid values' => sub {
	for my $option (qw(on_error on_data_loss delivery on_failure watermark_policy))
	{
		like(create('x', $counts, qq{$update, options => '{"$option": "red"}'}), qr/ERROR:  invalid $option "red"\nHINT:  Valid values are /, $option);
	}
};

subtest 'missing arguments of create_source come with an example' => sub {
	like(said("SELECT stream_agg.create_source('x', topic => 'ev', brokers => '$brokers')"), qr/columns must not be NULL\nHINT:  Give columns => 'ts timestamptz, user_id bigint'.*describe_topic/, 'columns');
	like(said("SELECT stream_agg.create_source('x', columns => 'a text', brokers => '$brokers')"), qr/one of topic, topics and topic_pattern must be given\nHINT:  Give topic => 'clicks'/, 'topic');
};

subtest 'no privilege on the wrapper: the GRANT is in the hint' => sub {
	sql('CREATE ROLE analyst; GRANT CREATE ON SCHEMA public TO analyst');
	like(said("SET ROLE analyst; SELECT stream_agg.create_source('x', topic => 'ev', columns => 'a text', brokers => '$brokers')"),
		qr/permission denied for foreign-data wrapper stream_agg_kafka\nDETAIL: .*\nHINT:  Have a superuser run GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO analyst,/, 'create_source');
};

subtest 'a volatile function is named' => sub {
	like(create('x', 'SELECT k, count(*) FROM ev WHERE random() < 0.5 GROUP BY k', $update), qr/cannot call volatile functions\nDETAIL:  Function random\(\) is volatile\./, 'in WHERE');
	like(create('x', 'SELECT k, count(*) FROM ev WHERE k IN (SELECT clock_timestamp()::text) GROUP BY k', $update), qr/Function clock_timestamp\(\) is volatile/, 'in a subquery');
};

subtest 'a temporary table is named, and no view is made' => sub {
	my $said = said(qq{CREATE TEMP TABLE names (k text); SELECT stream_agg.create_stream('x', 'SELECT n.k, count(*) FROM ev JOIN names n USING (k) GROUP BY n.k'$update)});
	like($said, qr/ERROR:  the query of a stream cannot use temporary tables\nDETAIL:  Table "names" is temporary/, 'the table');
	unlike($said, qr/will be a temporary view/, 'nothing is said of views');
};

subtest 'a query without columns is refused at once' => sub {
	like(create('x', 'SELECT FROM ev'), qr/ERROR:  the query of a stream has no columns/, 'SELECT FROM');
	like(create('x', 'SELECT FROM ev GROUP BY k', $update), qr/ERROR:  the query of a stream has no columns/, 'with GROUP BY');
	is(sql(q{SELECT count(*) FROM pg_class WHERE relname ~ '^x'}), 0, 'and nothing is left');
};

subtest 'drop_stream does not point to a CASCADE that it does not have' => sub {
	create('slide', $counts, $update);
	sql('CREATE MATERIALIZED VIEW shown AS SELECT * FROM slide');
	my $said = said(q{SELECT stream_agg.drop_stream('slide', drop_sink => true)});
	like($said, qr/cannot drop table slide.*materialized view shown depends on table slide/s, 'what depends on the table is named');
	like($said, qr/HINT:  Drop these objects first, or keep the table by drop_stream without drop_sink\./, 'and what to do');
	unlike($said, qr/CASCADE/, 'there is no CASCADE');
	sql(q{DROP MATERIALIZED VIEW shown; SELECT stream_agg.drop_stream('slide', drop_sink => true)});
};

subtest 'output modes are taken in any case' => sub {
	unlike(create('upper', $counts, q{, output_mode => 'UPDATE'}), qr/ERROR/, 'UPDATE');
	is(sql(q{SELECT output_mode FROM stream_agg.streams WHERE stream = 'upper'}), 'update', 'and kept in one');
};

subtest 'a name that no topic can have is refused at creation' => sub {
	like(said("SELECT stream_agg.create_source('x', topic => 'nc ev', columns => 'a text', brokers => '$brokers')"),
		qr/invalid value for option "topic": "nc ev"\nDETAIL:  .*cannot be the name of a topic; names consist of ASCII letters, digits/, 'with a space');
	like(said("SELECT stream_agg.create_source('x', topic => '..', columns => 'a text', brokers => '$brokers')"), qr/invalid value for option "topic"/, 'two dots');
};

subtest 'starting_offsets beyond the end are not blamed on retention' => sub {
	create('beyond', $counts, qq{$update, starting_offsets => '{"0": 1000}'});
	said(q{SELECT stream_agg.alter_stream('beyond', trigger => '1 second')});
	$node->poll_query_until('postgres', q{SELECT last_error IS NOT NULL FROM pg_stat_stream_agg WHERE stream = 'beyond'}) or die;
	my $error = sql(q{SELECT last_error FROM pg_stat_stream_agg WHERE stream = 'beyond'});
	like($error, qr/offset 1000 of partition 0 .*beyond the end/, 'the offset');
	like($error, qr/HINT:  The stream has read nothing yet: these are its starting_offsets\./, 'where it comes from');
};

subtest 'a watermark that is none yet is not shown as 1970' => sub {
	unlike(create('fresh', $windows, q{, watermark => '1 minute', start => false}), qr/ERROR/, 'a stream that has not run');
	like(sql(q{SELECT stream_agg.explain_stream('fresh')}), qr/greatest event time, now none yet/, 'explain_stream');
	is(sql(q{SELECT watermark IS NULL FROM pg_stat_stream_agg WHERE stream = 'fresh'}), 't', 'pg_stat_stream_agg');
	like(said(q{SELECT * FROM stream_agg.preview('SELECT stream_agg.tumble(ts, ''1 minute'') AS w, count(*) FROM ev WHERE v > 100 GROUP BY 1', watermark => '1 minute')}), qr/watermark then: none\./, 'preview');
};

subtest 'streams that keep no late records or dead letters say so' => sub {
	like(said(q{SELECT * FROM stream_agg.repair_late('fresh')}), qr/NOTICE:  stream "fresh" keeps no late records\nHINT:  Set its option late_records/, 'repair_late');
	like(said(q{SELECT stream_agg.delete_late_records('fresh')}), qr/NOTICE:  stream "fresh" keeps no late records/, 'delete_late_records');
	like(said(q{SELECT stream_agg.delete_dead_letters('fresh')}), qr/NOTICE:  stream "fresh" keeps no dead letters\nHINT:  Set its option on_error to dead_letter/, 'delete_dead_letters');
	said(q{SELECT stream_agg.alter_stream('fresh', '{"on_error": "dead_letter", "late_records": true}')});
	is(said(q{SELECT stream_agg.delete_dead_letters('fresh'); SELECT * FROM stream_agg.repair_late('fresh')}), '', 'those that keep them say nothing');
};

subtest 'the error of a dead letter can be grouped by' => sub {
	$broker->create_topic('bad', 1);
	create_source($node, $broker, 'bad', 'bad', 'k text, v int');
	$broker->produce('bad', '{"k": "a", "v": "one"}', '{"k": "b", "v": "two"}', '{"k": "c" "v": 3}', '{"k": "d", "v": 0}');
	create('letters', 'SELECT k, sum(10 / v) AS s FROM bad GROUP BY k', qq{$update, options => '{"on_error": "dead_letter"}'});
	process($node, 'letters');
	is(sql(q{SELECT error, sqlstate, count(*) FROM stream_agg.dead_letters WHERE error ~ 'integer|zero' GROUP BY 1, 2 ORDER BY 1}),
		"division by zero|22012|1\nvalue for field \"v\" is not a valid integer|SA001|2", 'message and code');
	is(sql(q{SELECT string_agg(COALESCE(detail, 'none'), ',' ORDER BY "offset") FROM stream_agg.dead_letters WHERE error ~ 'integer|zero'}),
		'Its conversion failed: invalid input syntax for type integer: "one".,Its conversion failed: invalid input syntax for type integer: "two".,none', 'and the detail by itself');
	like(sql(q{SELECT detail FROM stream_agg.dead_letters WHERE error ~ 'JSON'}), qr/byte \d+/, 'that of a text which is no JSON too');
};

subtest 'a long name meets another: which one is said' => sub {
	my ($long, $longer) = ('x' x 60, 'x' x 62);
	unlike(create($longer, $counts, $update), qr/ERROR/, 'the first one');
	like(create($long, $counts, $update), qr/ERROR:  relation "x{57}_query" already exists\nDETAIL:  It is the query of stream "$longer"\. That of stream "$long" would be kept as a view of the same name/, 'the second one');
	like(said("SELECT stream_agg.stop_stream('$long')"), qr/ERROR:  stream "$long" does not exist/, 'and the first one does not answer for it');
	unlike(said("SELECT stream_agg.stop_stream('public.$longer')"), qr/ERROR/, 'but by its schema it does');
};

subtest 'open_windows by the name of the sink' => sub {
	like(said(q{SELECT * FROM stream_agg.open_windows('fresh')}), qr/ERROR:  open_windows takes the row type of a sink, not its name\nHINT:  Write SELECT \* FROM stream_agg\.open_windows\(NULL::fresh\)\./, 'an error with the right call');
	is(said('SELECT * FROM stream_agg.open_windows(NULL::fresh)'), '', 'which works');
};

subtest 'more streams than max_streams: where the setting is' => sub {
	my $few = new_node('few_streams', "stream_agg.max_streams = 1\nstream_agg.max_streams_per_role = 5");
	create_source($few, $broker, 'ev', 'ev', 'k text');
	$few->safe_psql('postgres', "SELECT stream_agg.create_stream('s$_', 'SELECT k, count(*) FROM ev GROUP BY k', output_mode => 'update')") for 1 .. 2;
	$few->poll_query_until('postgres', q{SELECT bool_or(last_error ~ 'max_streams allows') FROM pg_stat_stream_agg}) or die;
	like($few->safe_psql('postgres', q{SELECT last_error FROM pg_stat_stream_agg WHERE last_error ~ 'max_streams'}),
		qr/as many streams run as stream_agg\.max_streams allows\nHINT:  The setting is for all databases of the server together\. Raise it and restart/, 'in last_error');
	$few->stop('fast');
};

subtest 'CREATE EXTENSION without preloading warns' => sub {
	my $plain = PostgreSQL::Test::Cluster->new('not_preloaded');
	$plain->init;
	$plain->start;
	my (undef, undef, $err) = $plain->psql('postgres', 'CREATE EXTENSION stream_agg');
	like($err, qr/WARNING:  stream_agg is not loaded via shared_preload_libraries\nDETAIL: .*\nHINT:  Add stream_agg to shared_preload_libraries/, 'in the session that creates it');
	$plain->stop('fast');
};

subtest 'brokers that refuse connections are an error soon' => sub {
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	sql("SELECT stream_agg.create_source('gone', topic => 'gone', columns => 'a text', brokers => '127.0.0.1:$port')");
	my $start = Time::HiRes::time();
	my $said = said('SELECT * FROM gone');
	my $took = Time::HiRes::time() - $start;
	like($said, qr/ERROR:  no broker of Kafka can be reached for topic "gone"\nDETAIL:  .*Connection refused\.\nHINT:  Check the brokers/, 'with the reason');
	unlike($said, qr/in state|suppressed/, 'and without what librdkafka says of itself');
	cmp_ok($took, '<', 15, 'not after stream_agg.kafka_timeout');
	said(q{SELECT stream_agg.create_stream('waits', 'SELECT a FROM gone')});
	$node->poll_query_until('postgres', q{SELECT last_error ~ 'Connection refused' FROM pg_stat_stream_agg WHERE stream = 'waits'}) or die;
	my $error = sql(q{SELECT last_error FROM pg_stat_stream_agg WHERE stream = 'waits'});
	like($error, qr/no answer from Kafka/, 'a stream goes on waiting');
	unlike($error, qr/in state|suppressed/, 'and says it in the same words');
	is(sql(q{SELECT v.lag IS NULL, v.lag_seconds IS NULL, s.delay IS NULL FROM pg_stat_stream_agg v JOIN pg_stat_stream_agg_summary s USING (stream) WHERE stream = 'waits'}),
		't|t|t', 'its lag is unknown, in records and in time');
};

subtest 'queries about health and losses in doc/operations.md run as they stand there' => sub {
	my @queries = map { PostgreSQL::Test::Utils::slurp_file("$ENV{TESTDIR}/doc/$_.md") =~ /^```sql\n(SELECT.*?)^```/msg } qw(operations);
	@queries = grep { /pg_stat_stream_agg|FROM stream_agg\.(dead_letters|events)/ && !/\bstream_agg\.\w+\(/ } map { split /;\n\n?/ } @queries;
	cmp_ok(scalar @queries, '>=', 6, 'there are some');
	my ($status, undef, $err) = $node->psql('postgres', join(";\n", @queries), on_error_stop => 1);
	is($err, '', 'without an error');
};

done_testing();
