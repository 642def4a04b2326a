# Topics that are deleted, made anew or truncated, and another cluster behind
# the same address: the stream stops and says why, nothing is read twice or
# passed over, and where it can go on by itself it does.

use strict;
use warnings;

use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

my $random = seeded_random();
my $kafka = StreamAgg::Kafka->shared;
my $node = new_node('topics', "stream_agg.max_attempts = 4", "stream_agg.kafka_timeout = '10s'", 'max_worker_processes = 24');
my $columns = 'k int, v numeric';

# what was produced, for topics that do not have it any more
$node->safe_psql('postgres', 'CREATE TABLE truth (topic text, k int, v numeric)');

sub produce
{
	my ($cluster, $topic, $partitions, $n) = @_;
	my @rows = map { [ $random->(20), $random->(1000) ] } 1 .. $n;
	my $partition = 0;
	$cluster->produce($topic, map { [ $partition++ % $partitions, '', qq({"k": $_->[0], "v": $_->[1]}) ] } @rows);
	return join(',', map { "('$topic', $_->[0], $_->[1])" } @rows);
}
sub produce_true
{
	my $rows = produce(@_);
	return $node->safe_psql('postgres', "INSERT INTO truth VALUES $rows");
}

sub create_stream
{
	my ($stream, $topic) = @_;
	return $node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream',
		'SELECT k, count(*) AS n, sum(v) AS total FROM $topic GROUP BY k', output_mode => 'update', trigger => '0')");
}

# a topic of two partitions, its source and a stream that has read 1000 records
sub start_stream_over
{
	my ($cluster, $topic) = @_;
	$cluster->create_topic($topic, 2);
	create_source($node, $cluster, $topic, $topic, $columns);
	create_stream("s_$topic", $topic);
	produce_true($cluster, $topic, 2, 1000);
	process($node, "s_$topic");
	return;
}

sub run { my ($what, $topic) = @_; return $node->safe_psql('postgres', "SELECT stream_agg.${what}_stream('s_$topic')"); }

sub is_true
{
	my ($topic, $name) = @_;
	return is_equal_tables($node, "SELECT * FROM s_$topic",
		"SELECT k, count(*) AS n, sum(v) AS total FROM truth WHERE topic = '$topic' GROUP BY k", $name);
}

# failed with an error, the table as it was; dropped and created anew it goes on
sub fails
{
	my ($topic, $error, $what) = @_;
	wait_state($node, "s_$topic", 'failed', $error);
	my $last = $node->safe_psql('postgres', "SELECT last_error FROM pg_stat_stream_agg WHERE stream = 's_$topic'");
	like($last, qr/$error/s, "$what: failed, " . (split /\n/, $last)[0]);
	like($last, qr/HINT:  ./, "$what: with a hint") unless $error =~ /exist/;
	return is_true($topic, "$what: the table is as it was");
}
sub anew
{
	my ($topic, $what) = @_;
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('s_$topic', drop_sink => true)");
	create_stream("s_$topic", $topic);
	process($node, "s_$topic");
	return is_equal_tables($node, "SELECT * FROM s_$topic", "SELECT * FROM s_${topic}_query", "$what: made anew, the table equals the query");
}

# --- deleted
start_stream_over($kafka, 'deleted');
$kafka->delete_topic('deleted');
fails('deleted', 'topic "deleted" does not exist in the Kafka cluster', 'deleted');

# --- deleted, and made anew with a shorter log
$kafka->create_topic('deleted', 2);
produce($kafka, 'deleted', 2, 100);
run('start', 'deleted');
fails('deleted', 'is beyond the end of the partition|created again', 'made anew, shorter');
anew('deleted', 'shorter');

# --- deleted and made anew under a stopped stream, with a longer log
start_stream_over($kafka, 'longer');
run('stop', 'longer');
$kafka->delete_topic('longer');
$kafka->create_topic('longer', 2);
produce($kafka, 'longer', 2, 3000);
run('start', 'longer');
fails('longer', 'topic "longer" is not the one that the stream has read: it was deleted and created again', 'made anew, longer');
anew('longer', 'longer');

# --- under a running stream
start_stream_over($kafka, 'running');
$kafka->delete_topic('running');
$kafka->create_topic('running', 2);
produce($kafka, 'running', 2, 3000);
fails('running', 'created again', 'made anew under a running stream');
anew('running', 'running');

# --- with as many records, and with fewer partitions
start_stream_over($kafka, 'equal');
run('stop', 'equal');
$kafka->delete_topic('equal');
$kafka->create_topic('equal', 2);
produce($kafka, 'equal', 2, 1000);
run('start', 'equal');
fails('equal', 'created again', 'made anew, as long as before');

start_stream_over($kafka, 'fewer');
run('stop', 'fewer');
$kafka->delete_topic('fewer');
$kafka->create_topic('fewer', 1);
run('start', 'fewer');
fails('fewer', 'partition 1 of topic "fewer" does not exist|beyond the end', 'made anew with fewer partitions');

# --- retention removes what the stream has read, while it is stopped
start_stream_over($kafka, 'retained');
run('stop', 'retained');
sub expire
{
	my ($topic) = @_;
	$kafka->alter_topic($topic, 'retention.ms' => 1);
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM $topic") or die 'retention does nothing';
	$kafka->alter_topic($topic);
	return;
}
expire('retained');
produce_true($kafka, 'retained', 2, 500);
run('start', 'retained');
process($node, 's_retained');
is_true('retained', 'retention of what has been read: the stream goes on');
counts_add_up($node, 's_retained', 1500, 'retention of what has been read: every record once');

# --- and what it has not read
run('stop', 'retained');
produce($kafka, 'retained', 2, 500);
expire('retained');
run('start', 'retained');
fails('retained', 'offsets 750 to 999 of partition \d of topic "retained" are gone before the stream has read them', 'truncated');
anew('retained', 'truncated');

# --- records that are removed one by one (compaction, delete_records) under a running stream
start_stream_over($kafka, 'trimmed');
$kafka->delete_records('trimmed', $_, 400) for 0, 1;
produce_true($kafka, 'trimmed', 2, 500);
process($node, 's_trimmed');
is_true('trimmed', 'records that were read are removed under a running stream: it goes on');
run('stop', 'trimmed');
$kafka->delete_records('trimmed', $_, 750) for 0, 1;
run('start', 'trimmed');
produce_true($kafka, 'trimmed', 2, 100);
process($node, 's_trimmed');
is_true('trimmed', 'the last record read is removed, too: it goes on');

# --- another cluster behind the same address, whatever topics it has
my $own = StreamAgg::Kafka->new;
start_stream_over($own, 'moved');
$own->renew;
fails('moved', 'the brokers belong to Kafka cluster ".+", the stream has read from cluster ".+"', 'another cluster without the topic');
$own->create_topic('moved', 2);
produce($own, 'moved', 2, 3000);
run('start', 'moved');
fails('moved', 'the brokers belong to Kafka cluster', 'another cluster with the topic, longer');
anew('moved', 'another cluster');

$node->stop;
done_testing();
