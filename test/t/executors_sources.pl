# What executors read is what one process reads: offsets without records, topics that
# come while a stream runs, records with schemas, and all of it again after a reset.

use strict;
use warnings;

use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use StreamAgg::HostileBroker;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker('visits-eu' => 3, avro => 4);
my $node = new_node('executors_sources', 'max_worker_processes = 40', "stream_agg.max_retry_delay = '50ms'", "stream_agg.kafka_timeout = '60s'");
my $brokers = $broker->brokers;
my $rng = seeded_random();
my $json = JSON::PP->new->canonical->allow_nonref;

sub sql { return $node->safe_psql('postgres', $_[0]); }

# streams with one process and with several over the same query
sub create
{
	my ($name, $query, $n, $more) = @_;
	sql("SELECT stream_agg.create_stream('${name}_$_', \$q\$$query\$q\$, trigger => '0', options => '{\"executors\": $_}', $more)") for 1, $n;
	return;
}

sub equal
{
	my ($name, $n, $records, $text) = @_;
	process($node, "${name}_$_") for 1, $n;
	is_equal_tables($node, "SELECT * FROM ${name}_1", "SELECT * FROM ${name}_$n", $text);
	counts_add_up($node, "${name}_$n", $records, 'every record once');
	is(sql(qq{SELECT (SELECT offsets FROM stream_agg.commits WHERE stream = '${name}_1' ORDER BY batch DESC LIMIT 1)
		= (SELECT offsets FROM stream_agg.commits WHERE stream = '${name}_$n' ORDER BY batch DESC LIMIT 1)}), 't', 'and to the same offsets');
	return;
}

# the processes that have read a partition of a topic
sub readers { return sql("SELECT string_agg(DISTINCT value::text, ',') FROM stream_agg.offsets o, jsonb_each(COALESCE(dealt -> '$_[1]', dealt)) WHERE stream = '$_[0]' AND jsonb_typeof(value) = 'number'"); }

subtest 'offsets without records, in partitions of every process' => sub {
	my $hostile = StreamAgg::HostileBroker->new;
	my @partitions;
	my $records = 0;
	for my $partition (0 .. 5)
	{
		my ($base, @batches) = (0);
		for (1 .. 4)
		{
			my $n = 1 + $rng->(30);
			push @batches, { base => $base, values => [ map { "{\"k\":$_}" } $base .. $base + $n - 1 ] };
			$records += $n;
			# the end of a transaction, what compaction leaves, far more than a micro-batch has
			$base += $n + (1, 50, 2**40)[ $rng->(3) ];
		}
		push @partitions, \@batches;
	}
	$hostile->add_topic('gaps', @partitions);
	sql("SELECT stream_agg.create_source('gaps', topic => 'gaps', brokers => '" . $hostile->brokers . "', columns => 'k bigint, pos bigint OPTIONS (metadata \$\$offset\$\$)', options => '{\"fetch.wait.max.ms\": 20}')");
	create('gaps', 'SELECT k % 5 AS r, count(*) AS n, sum(k) AS s, max(pos) AS last FROM gaps GROUP BY 1', 3, "output_mode => 'update', max_offsets_per_trigger => 40");
	equal('gaps', 3, $records, 'gaps');
	is(readers('gaps_3', 'gaps'), '1,2', 'executors have read some');
	cmp_ok(sql(q{SELECT count(*) FROM stream_agg.commits WHERE stream = 'gaps_3'}), '<', 100, 'gaps are passed at once');
	sql("SELECT stream_agg.drop_stream('gaps_$_', drop_sink => true)") for 1, 3;
};

my $produced = 0;
my $second = 0;

sub produce
{
	my ($topic, $partitions, $n) = @_;
	$broker->produce($topic, map { [ $_ % $partitions, '', sprintf('{"ts": "2026-01-01T00:%02d:%02dZ", "k": %d, "v": %d}', $second / 60 % 60, $second++ % 60, $_ % $partitions, $rng->(100)) ] } 1 .. $n);
	$produced += $n;
	return;
}

subtest 'topics that come while a stream runs are dealt, too' => sub {
	produce('visits-eu', 3, 200);
	sql("SELECT stream_agg.create_source('visits', topic_pattern => '^visits-', brokers => '$brokers', columns => 'ts timestamptz, k int, v int, topic text OPTIONS (metadata \$\$topic\$\$)', options => '{\"fetch.wait.max.ms\": 20}')");
	create('visits', q{SELECT stream_agg.tumble(ts, '1 minute') AS win, topic, k, count(*) AS n, array_agg(v) AS vs FROM visits GROUP BY 1, 2, 3}, 4, "output_mode => 'update'");
	equal('visits', 4, $produced, 'one topic');
	is(readers('visits_4', 'visits-eu'), '1,2', 'a process for each partition');
	$broker->create_topic('visits-us', 5);
	produce('visits-us', 5, 300);
	produce('visits-eu', 3, 100);
	$node->poll_query_until('postgres', "SELECT count(*) = 8 FROM pg_stat_stream_agg_partitions WHERE stream = 'visits_4'") or die;
	equal('visits', 4, $produced, 'two topics');
	is(readers('visits_4', 'visits-us'), '1,2', 'dealt to the processes that there are');
	# from the start there are four
	sql(q{SELECT stream_agg.stop_stream('visits_4'); SELECT stream_agg.start_stream('visits_4')});
	produce('visits-us', 5, 100);
	equal('visits', 4, $produced, 'after another start');
	like(readers('visits_4', 'visits-us'), qr/3/, 'with more of them');
};

subtest 'a reset with results reads all of it again, in one micro-batch' => sub {
	sql("UPDATE visits_$_ SET n = -1; DELETE FROM visits_$_ WHERE k = 0") for 1, 4;
	sql("SELECT stream_agg.reset_stream('visits_$_', 'earliest', results => true)") for 1, 4;
	process($node, "visits_$_") for 1, 4;
	is_equal_tables($node, 'SELECT * FROM visits_1', 'SELECT * FROM visits_4', 'the tables are equal');
	is(sql('SELECT sum(n) FROM visits_4'), $produced, 'every record is counted');
	like(sql(q{SELECT dealt FROM stream_agg.offsets WHERE stream = 'visits_4' ORDER BY batch DESC LIMIT 1}), qr/1.*2.*3|3/, 'by several processes');
	produce('visits-eu', 3, 100);
	process($node, "visits_$_") for 1, 4;
	is_equal_tables($node, 'SELECT * FROM visits_1', 'SELECT * FROM visits_4', 'they go on');
	is(sql('SELECT sum(n) FROM visits_4'), $produced, 'from there');
	sql("SELECT stream_agg.drop_stream('visits_$_', drop_sink => true)") for 1, 4;
};

subtest 'a schema of Avro is looked up by each process that meets it' => sub {
	my $scripts = $ENV{REGISTRY} or die 'REGISTRY is not set: run the tests by test/run';
	my $ready = PostgreSQL::Test::Utils::tempdir() . '/registry';
	my $registry = IPC::Run::start([ 'python3', "$scripts/schema_registry.py", $ready ], '<', \undef, '>', "$ready.log", '2>&1');
	for (1 .. 600) { last if -s $ready; select(undef, undef, undef, 0.1); }
	my $url = 'http://127.0.0.1:' . slurp_file($ready);
	my ($out, $err, @records);
	for my $version (0 .. 2)
	{
		my $schema = { type => 'record', name => 'R', fields => [ { name => 'k', type => 'int' }, { name => 'v', type => 'long' }, map { { name => "x$_", type => 'string', default => '' } } 1 .. $version ] };
		IPC::Run::run([ 'python3', '-c', 'import sys, urllib.request as r; print(r.urlopen(r.Request(sys.argv[1], method="POST", data=sys.stdin.buffer.read())).read().decode())', "$url/subjects/x/versions" ],
			'<', \$json->encode({ schema => $json->encode($schema) }), '>', \$out, '2>', \$err) or die $err;
		my $id = $json->decode($out)->{id};
		push @records, map { { id => $id, schema => $schema, value => { k => $rng->(5), v => $rng->(1000), map { ("x$_" => "text $_") } 1 .. $version } } } 1 .. 60;
	}
	IPC::Run::run([ 'python3', "$scripts/avro_encode.py" ], '<', \join('', map { $json->encode($_) . "\n" } @records), '>', \$out, '2>', \$err) or die $err;
	sql(qq{CREATE SERVER avro FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$brokers', "schema.registry" '$url', "fetch.wait.max.ms" '20');
		SELECT stream_agg.create_source('avro', topic => 'avro', server => 'avro', format => 'avro', columns => 'k int, v bigint, x1 text, x2 text, part int OPTIONS (metadata \$\$partition\$\$)');
		SELECT stream_agg.create_source('bytes', topic => 'avro', server => 'avro', format => 'raw', columns => 'v bytea, k text OPTIONS (metadata \$\$key\$\$)')});
	# keys put them into all partitions
	my $key = 0;
	sql('INSERT INTO bytes (k, v) VALUES ' . join(', ', map { $key++; "('$key', '\\x$_')" } split /\n/, $out));
	create('avro', 'SELECT k, count(*) AS n, sum(v) AS s, count(x1) AS x1, count(x2) AS x2, array_agg(DISTINCT part) AS parts FROM avro GROUP BY k', 4, "output_mode => 'update'");
	equal('avro', 4, scalar(@records), 'the tables are equal');
	is_equal_tables($node, 'SELECT * FROM avro_4', 'SELECT * FROM avro_4_query', 'and equal the batch query');
	like(readers('avro_4', 'avro'), qr/\d/, 'executors have read some');
	sql("SELECT stream_agg.drop_stream('avro_$_', drop_sink => true)") for 1, 4;
	$registry->kill_kill;
};

done_testing();
