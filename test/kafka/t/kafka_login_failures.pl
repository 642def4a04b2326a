# Credentials that are wrong and put right, and certificates that expire: each
# is told within seconds, and the stream goes on after the change alone.

use strict;
use warnings;

use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

my $random = seeded_random();
my $kafka = StreamAgg::Kafka->new;
my $node = new_node('login', "stream_agg.kafka_timeout = '10s'");
my $delivered = 0;
my $ca = $kafka->tls_text('ca.pem');

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub last_error { return sql("SELECT last_error FROM pg_stat_stream_agg WHERE stream = '$_[0]'"); }
sub state { return sql("SELECT state FROM pg_stat_stream_agg WHERE stream = '$_[0]'"); }
sub now { return sql('SELECT clock_timestamp()'); }
sub wait_error
{
	my ($stream, $error, $since) = @_;
	return $node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_stream_agg WHERE stream = '$stream' AND last_error ~ \$e\$$error\$e\$ AND last_error_time > '$since'")
	  || (diag(last_error($stream)) && 0);
}
sub produce
{
	my ($n) = @_;
	$kafka->produce('events', map { [ $_ % 2, '', '{"k": ' . $random->(20) . '}' ] } 1 .. $n);
	return $delivered += $n;
}
sub create
{
	my ($stream, $listener, $options) = @_;
	my $brokers = $kafka->brokers($listener);
	return sql(qq{
		CREATE SERVER $stream FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$brokers', $options);
		SELECT stream_agg.create_source('src_$stream', topic => 'events', server => '$stream', columns => 'k int');});
}
sub start
{
	my ($stream) = @_;
	return sql(qq{SELECT stream_agg.create_stream('$stream', 'SELECT k, count(*) AS n FROM src_$stream GROUP BY k',
		output_mode => 'update', trigger => '0')});
}
sub equal_after
{
	my ($stream, $what) = @_;
	process($node, $stream);
	is(state($stream), 'running', "$what: running");
	is_equal_tables($node, "SELECT * FROM $stream", "SELECT * FROM ${stream}_query", "$what: the table equals the query");
	return counts_add_up($node, $stream, $delivered, "$what: every record once");
}

$kafka->create_topic('events', 2);
produce(500);

# --- a wrong password
create('login', 'SASL_SSL', qq{"security.protocol" 'SASL_SSL', "sasl.mechanisms" 'PLAIN', "ssl.ca.pem" '$ca'});
sql(q{CREATE USER MAPPING FOR CURRENT_USER SERVER login OPTIONS ("user" 'alice', "password" 'guessed')});
my $since = now();
start('login');
ok(wait_error('login', 'Kafka has rejected the credentials for topic "events".*DETAIL:  .*[Aa]uthentication', $since), 'wrong password: told');
like(state('login'), qr/^(starting|retrying)$/, 'wrong password: starting, or retrying');
unlike(last_error('login'), qr/guessed/, 'wrong password: not shown');
sql(q{ALTER USER MAPPING FOR CURRENT_USER SERVER login OPTIONS (SET "password" 'alice-secret')});
equal_after('login', 'password put right');

# --- the password is changed on Kafka's side while the stream runs: connections
# live on, and the next one is refused
$since = now();
my $properties = "$kafka->{dir}/node.1/properties";
sub change_passwords
{
	my ($from, $to) = @_;
	my $text = PostgreSQL::Test::Utils::slurp_file($properties);
	$text =~ s/user_alice="$from"/user_alice="$to"/g;
	open my $out, '>', $properties or die "$properties: $!";
	print $out $text;
	close $out;
	$kafka->kill_node;
	return $kafka->start_node;
}
change_passwords('alice-secret', 'alice-new');
ok(wait_error('login', 'rejected the credentials', $since), 'password changed: an idle stream tells');
like(state('login'), qr/^(running|retrying)$/, 'password changed: running, or retrying');
produce(300);
sql(q{ALTER USER MAPPING FOR CURRENT_USER SERVER login OPTIONS (SET "password" 'alice-new')});
equal_after('login', 'password changed here, too');

# --- the client's certificate has expired
$kafka->certificate('expired', -1);
create('client', 'SSL', qq{"security.protocol" 'SSL', "ssl.ca.pem" '$ca'});
my %client = map { $_ => $kafka->tls_text($_) } qw(client.pem client.key expired.pem expired.key);
sql(qq{CREATE USER MAPPING FOR CURRENT_USER SERVER client OPTIONS (
	"ssl.certificate.pem" '$client{"expired.pem"}', "ssl.key.pem" '$client{"expired.key"}')});
$since = now();
start('client');
ok(wait_error('client', 'Kafka about topic "events".*DETAIL:  .*certificate', $since), 'expired certificate of ours: told');
like(state('client'), qr/^(starting|retrying)$/, 'expired certificate of ours: starting, or retrying');
note(last_error('client'));
sql(qq{ALTER USER MAPPING FOR CURRENT_USER SERVER client OPTIONS (
	SET "ssl.certificate.pem" '$client{"client.pem"}', SET "ssl.key.pem" '$client{"client.key"}')});
equal_after('client', 'certificate of ours renewed');

# --- the broker's certificate has expired, while the stream runs
$since = now();
$kafka->certificate('broker', -1, 'broker');
$kafka->kill_node;
$kafka->start_node;
ok(wait_error('client', 'Kafka about topic "events".*DETAIL:  .*(certificate verify failed|certificate has expired)', $since),
	'expired certificate of the broker: an idle stream tells');
like(state('client'), qr/^(running|retrying)$/, 'expired certificate of the broker: running, or retrying');
note(last_error('client'));
produce(300);
$kafka->certificate('broker', 30, 'broker');
$kafka->kill_node;
$kafka->start_node;
equal_after('client', 'certificate of the broker renewed');
equal_after('login', 'and for the other stream');

$node->stop;
done_testing();
