# Logging in by SCRAM, to a Kafka that takes it from every librdkafka: a stream
# reads and writes as the user of its mapping, and a wrong password is told.

use strict;
use warnings;

use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

my $random = seeded_random();
my $kafka = StreamAgg::Kafka->new(jars => $ENV{KAFKA_3_7_JARS}, properties => {
	'authorizer.class.name' => 'org.apache.kafka.metadata.authorizer.StandardAuthorizer',
	'super.users' => 'User:ANONYMOUS;User:alice' });
my $node = new_node('scram', "stream_agg.kafka_timeout = '10s'");
my $ca = $kafka->tls_text('ca.pem');

sub sql { return $node->safe_psql('postgres', $_[0]); }

$kafka->create_topic('events', 2);
$kafka->produce('events', map { [ $_ % 2, '', '{"k": ' . $random->(20) . '}' ] } 1 .. 500);

my %listener = ('SASL_PLAINTEXT' => '', 'SASL_SSL' => qq{, "ssl.ca.pem" '$ca'});
for my $mechanism ('SCRAM-SHA-256', 'SCRAM-SHA-512')
{
	for my $protocol (sort keys %listener)
	{
		my $name = lc "${protocol}_$mechanism" =~ s/\W/_/gr;
		my $brokers = $kafka->brokers($protocol);
		sql(qq{
			CREATE SERVER $name FOREIGN DATA WRAPPER stream_agg_kafka
				OPTIONS (brokers '$brokers', "security.protocol" '$protocol', "sasl.mechanism" '$mechanism' $listener{$protocol});
			CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS ("user" 'alice', "password" 'guessed');
			SELECT stream_agg.create_source('src_$name', topic => 'events', server => '$name', columns => 'k int')});
		my ($status, undef, $error) = $node->psql('postgres', "SELECT count(*) FROM src_$name");
		like($error, qr/Kafka has rejected the credentials for topic "events"\nDETAIL:  .*[Aa]uthentication/, "$protocol, $mechanism: a wrong password is told");
		unlike($error, qr/guessed/, 'and not shown');
		sql(qq{
			ALTER USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (SET "password" 'alice-secret');
			SELECT stream_agg.create_stream('$name', 'SELECT k, count(*) AS n FROM src_$name GROUP BY k', output_mode => 'update')});
		process($node, $name);
		is_equal_tables($node, "SELECT * FROM $name", "SELECT * FROM ${name}_query", "$protocol, $mechanism: the table equals the query");
		counts_add_up($node, $name, 500, "$protocol, $mechanism: every record once");
		sql("SELECT stream_agg.stop_stream('$name')");
	}
}
my $records = sql('SELECT count(*) FROM src_sasl_ssl_scram_sha_512');
sql('INSERT INTO src_sasl_ssl_scram_sha_512 VALUES (21)');
is(sql('SELECT count(*) FROM src_sasl_ssl_scram_sha_256'), $records + 1, 'a record is produced');

# another user gets in, and may not read
sql(q{ALTER USER MAPPING FOR CURRENT_USER SERVER sasl_plaintext_scram_sha_256 OPTIONS (SET "user" 'bob', SET "password" 'bob-secret')});
my (undef, undef, $error) = $node->psql('postgres', 'SELECT count(*) FROM src_sasl_plaintext_scram_sha_256');
like($error, qr/Kafka does not permit reading topic "events"/, 'it is the user of the mapping who logs in');

$node->stop;
done_testing();
