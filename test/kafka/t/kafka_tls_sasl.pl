# Logging in to Kafka: TLS with and without certificates of the client, SASL by
# PLAIN and SCRAM, what is refused and how that is told; secrets in the user
# mapping of the stream's owner, used for that owner alone, and nowhere else.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use StreamAgg::Kafka;
use StreamAgg::Test;
use Test::More;

# Without a certificate nobody gets in by SSL.  Who may do what tells as whom
# somebody has got in: alice and the owner of certificate "client" everything,
# others nothing.
my $kafka = StreamAgg::Kafka->new(properties => {
	'listener.name.ssl.ssl.client.auth' => 'required',
	'authorizer.class.name' => 'org.apache.kafka.metadata.authorizer.StandardAuthorizer',
	'super.users' => 'User:ANONYMOUS;User:alice;User:CN=client' });
my $node = new_node('tls', 'log_statement = none', 'log_min_messages = debug5', "stream_agg.kafka_timeout = '30s'");
my $tmp = PostgreSQL::Test::Utils::tempdir();

# librdkafka before 2.6.1 repeats a nonce that Kafka no longer takes
my $scram = librdkafka_version() ge "02.06.01";

sub librdkafka_version
{
	my ($out, $err);
	IPC::Run::run([ 'pkg-config', '--modversion', 'rdkafka' ], '>', \$out, '2>', \$err) or die "pkg-config: $err";
	return join '.', map { sprintf '%02d', $_ } $out =~ /(\d+)\.(\d+)\.(\d+)/;
}

sub as
{
	my ($role, $sql) = @_;
	return $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
}

sub literal { return "'" . $_[0] =~ s/'/''/gr . "'"; }

sub option_list
{
	my (%options) = @_;
	return join ', ', map { "\"$_\" " . literal($options{$_}) } sort keys %options;
}

# an authority of somebody else's, and a certificate of it
IPC::Run::run([ qw(openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=client
		-keyout), "$tmp/stranger.key", '-out', "$tmp/stranger.pem" ], '>', '/dev/null', '2>', '/dev/null') or die 'openssl';
my $stranger_key = PostgreSQL::Test::Utils::slurp_file("$tmp/stranger.key");
my $stranger = PostgreSQL::Test::Utils::slurp_file("$tmp/stranger.pem");
IPC::Run::run([ qw(openssl pkey -aes256 -passout pass:open-sesame -in), $kafka->tls_file('client.key'), '-out', "$tmp/locked.key" ],
	'>', '/dev/null', '2>', '/dev/null') or die 'openssl';
my $locked = PostgreSQL::Test::Utils::slurp_file("$tmp/locked.key");
$kafka->certificate('other');
$kafka->certificate('expired', -1, 'client');

my $ca = $kafka->tls_text('ca.pem');
my $certificate = $kafka->tls_text('client.pem');
my $key = $kafka->tls_text('client.key');
my %password = (alice => 'alice-secret', bob => 'bob-secret');

$kafka->create_topic('secured', 1);
$kafka->produce('secured', map { "{\"k\": $_}" } 1 .. 3);
$node->safe_psql('postgres', 'CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN;
	CREATE SCHEMA alice AUTHORIZATION alice; CREATE SCHEMA bob AUTHORIZATION bob;
	GRANT USAGE ON FOREIGN DATA WRAPPER stream_agg_kafka TO alice, bob');

my $servers = 0;

# A server by a listener, with a mapping; what a scan of the topic says.  Failures
# of TLS may pass, so a scan waits for its time before it tells.
sub try
{
	my ($listener, $server, $mapping, $timeout) = @_;
	my $name = 's' . ++$servers;
	my $protocol = lc $listener;
	my $options = option_list(brokers => $kafka->brokers($listener), 'security.protocol' => $protocol, %$server);
	my $private = %$mapping ? 'CREATE USER MAPPING FOR alice SERVER ' . $name . ' OPTIONS (' . option_list(%$mapping) . ')' : 'SELECT 1';
	my ($status, $out, $err) = as('alice', "CREATE SERVER $name FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS ($options);
		$private;
		CREATE FOREIGN TABLE alice.$name (k int) SERVER $name OPTIONS (topic 'secured');
		SET stream_agg.kafka_timeout = '$timeout';
		SELECT 'sum ' || sum(k) FROM alice.$name");
	return ($out =~ /^sum (\d+)$/m ? $1 : $err, $name);
}

sub lets_in
{
	my ($listener, $server, $mapping, $name) = @_;
	my ($result, $table) = try($listener, $server, $mapping, '30s');
	is($result, 6, "$listener lets in: $name");
	return $table;
}

sub refuses
{
	my ($listener, $server, $mapping, $error, $name) = @_;
	my ($result, $table) = try($listener, $server, $mapping, $error =~ /no answer/ ? '5s' : '30s');
	like($result, $error, "$listener refuses: $name");
	return $table;
}

my %alice = (user => 'alice', password => $password{alice});

# --- SASL
lets_in('SASL_PLAINTEXT', {}, \%alice, 'PLAIN, which is the default');
lets_in('SASL_PLAINTEXT', { 'sasl.mechanism' => 'PLAIN' }, \%alice, 'PLAIN by name');
my $rejected = qr/ERROR:  Kafka has rejected the credentials for topic "secured"\nDETAIL:  .*[Aa]uthentication fail/;
refuses('SASL_PLAINTEXT', {}, { user => 'alice', password => 'wrong' }, $rejected, 'a wrong password');
refuses('SASL_PLAINTEXT', {}, { user => 'nobody', password => 'wrong' }, $rejected, 'an unknown user');
refuses('SASL_PLAINTEXT', {}, {}, qr/could not set up a Kafka client\nDETAIL:  sasl\.username and sasl\.password must be set/, 'no user at all');
refuses('SASL_PLAINTEXT', {}, { user => 'bob', password => $password{bob} },
	qr/Kafka does not permit reading topic "secured"/, 'a user who may not read the topic');
for my $mechanism ('SCRAM-SHA-256', 'SCRAM-SHA-512')
{
	$scram ? lets_in('SASL_SSL', { 'sasl.mechanisms' => $mechanism, 'ssl.ca.pem' => $ca }, \%alice, $mechanism) :
	  refuses('SASL_SSL', { 'sasl.mechanisms' => $mechanism, 'ssl.ca.pem' => $ca }, \%alice, $rejected, "$mechanism of an old librdkafka");
	refuses('SASL_SSL', { 'sasl.mechanisms' => $mechanism, 'ssl.ca.pem' => $ca }, { user => 'alice', password => 'wrong' },
		$rejected, "$mechanism, a wrong password");
}

# --- TLS: is it the broker?
my $no_trust = qr/no (?:answer from|broker of) Kafka.*DETAIL:  sasl_ssl:.*(certificate verify failed|certificate could not be verified)/s;
my $secured = lets_in('SASL_SSL', { 'ssl.ca.pem' => $ca }, \%alice, 'PLAIN within TLS, the authority as text');
lets_in('SASL_SSL', {}, { %alice, 'ssl.ca.pem' => $ca }, 'the authority in the mapping');
refuses('SASL_SSL', {}, \%alice, $no_trust, 'a broker of an authority nobody has named');
refuses('SASL_SSL', { 'ssl.ca.pem' => $stranger }, \%alice, $no_trust, 'a broker of another authority');
lets_in('SASL_SSL', { 'enable.ssl.certificate.verification' => 'false' }, \%alice, 'any broker, if that is wanted');

# --- TLS: is it the client?
my %client = ('ssl.certificate.pem' => $certificate, 'ssl.key.pem' => $key);
lets_in('SSL', { 'ssl.ca.pem' => $ca }, \%client, 'certificate and key as text in the mapping');
lets_in('SSL', { 'ssl.ca.pem' => $ca }, { %client, 'ssl.key.pem' => $locked, 'ssl.key.password' => 'open-sesame' }, 'a key with a password');
my $no_key = qr/could not set up a Kafka client\nDETAIL:  ssl\.key\.pem failed: /;
my $no_client = qr/no (?:answer from|broker of) Kafka.*DETAIL:  ssl:.*SSL alert number (42|46|48|116)/s;
refuses('SSL', { 'ssl.ca.pem' => $ca }, { %client, 'ssl.key.pem' => $locked, 'ssl.key.password' => 'wrong-sesame' }, $no_key, 'the wrong password');
refuses('SSL', { 'ssl.ca.pem' => $ca }, {}, $no_client, 'no certificate');
refuses('SSL', { 'ssl.ca.pem' => $ca }, { 'ssl.certificate.pem' => $stranger, 'ssl.key.pem' => $stranger_key }, $no_client, 'one of another authority');
refuses('SSL', { 'ssl.ca.pem' => $ca }, { 'ssl.certificate.pem' => $kafka->tls_text('expired.pem'), 'ssl.key.pem' => $kafka->tls_text('expired.key') },
	$no_client, 'one that has expired');
refuses('SSL', { 'ssl.ca.pem' => $ca }, { 'ssl.certificate.pem' => $kafka->tls_text('other.pem'), 'ssl.key.pem' => $kafka->tls_text('other.key') },
	qr/Kafka does not permit reading topic "secured"/, 'a name that may not read the topic');
refuses('SSL', { 'ssl.ca.pem' => $ca }, { %client, 'ssl.key.pem' => $stranger_key }, $no_key, 'the key of another certificate');
refuses('SSL', { 'ssl.ca.pem' => $ca }, { %client, 'ssl.key.pem' => 'no key' }, $no_key, 'a key that is none');
refuses('PLAINTEXT', { 'security.protocol' => 'ssl', 'ssl.ca.pem' => $ca }, \%client, qr/no (?:answer from|broker of) Kafka.*DETAIL:  ssl:.*(?:SSL handshake failed|unexpected eof while reading)/s, 'TLS where there is none');

# --- a stream logs in as its owner: same server, same source, two mappings
as('alice', "GRANT USAGE ON FOREIGN SERVER $secured TO bob; GRANT USAGE ON SCHEMA alice TO bob; GRANT SELECT ON alice.$secured TO bob");
as('bob', "CREATE USER MAPPING FOR bob SERVER $secured OPTIONS (user 'bob', password '$password{bob}')");
for my $role ('alice', 'bob')
{
	my ($status, undef, $err) = as($role, "SELECT stream_agg.create_stream('$role.counts', 'SELECT k, count(*) AS n FROM alice.$secured GROUP BY k',
		output_mode => 'update', trigger => '100 milliseconds')");
	is($status, 0, "a stream of ${role}'s") or diag($err);
}
process($node, 'alice.counts');
is($node->safe_psql('postgres', 'SELECT sum(n) FROM alice.counts'), 3, 'alice reads the topic');
$node->poll_query_until('postgres', q{SELECT last_error ~ 'Kafka does not permit reading topic' FROM pg_stat_stream_agg WHERE stream = 'bob.counts'})
  or die 'bob reads as somebody else';
is($node->safe_psql('postgres', 'SELECT count(*) FROM bob.counts'), 0, 'bob, by the same source, does not');
as('bob', "ALTER USER MAPPING FOR bob SERVER $secured OPTIONS (SET user 'alice', SET password '$password{alice}');
	SELECT stream_agg.start_stream('bob.counts')");
process($node, 'bob.counts');
is($node->safe_psql('postgres', 'SELECT sum(n) FROM bob.counts'), 3, 'until his mapping is another');
as('alice', "DROP USER MAPPING FOR bob SERVER $secured; CREATE USER MAPPING FOR PUBLIC SERVER $secured OPTIONS (user 'alice', password '$password{alice}')");
is((as('bob', "SELECT count(*) FROM alice.$secured"))[1], 3, 'or, without one, that for everybody');
my (undef, undef, $err) = as('alice', "INSERT INTO alice.$secured VALUES (4)");
is($err, '', 'alice produces');
process($node, 'alice.counts');
is($node->safe_psql('postgres', 'SELECT sum(n) FROM alice.counts'), 4, 'what her stream reads');

# --- secrets are where they were put and nowhere else
my $everything = $node->safe_psql('postgres', 'SELECT * FROM pg_stat_stream_agg; SELECT * FROM stream_agg.streams; SELECT * FROM stream_agg.sources;
	SELECT * FROM pg_foreign_server; SELECT * FROM pg_stat_activity') . PostgreSQL::Test::Utils::slurp_file($node->logfile);
for my $secret (values %password, 'open-sesame', 'wrong-sesame', map { (split /\n/, $_)[1] } $key, $locked, $stranger_key)
{
	is(index($everything, $secret), -1, 'no secret in views and log: ' . substr($secret, 0, 6) . '...');
}
isnt(index($everything, 'Kafka has rejected the credentials'), -1, 'which have the errors');

done_testing();
