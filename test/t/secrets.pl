# Passwords of user mappings stay out of the server's log, whatever goes wrong
# with the statement that holds them and wherever it stands.

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $node = new_node('secrets', 'restart_after_crash = on', "deadlock_timeout = '100ms'", 'log_statement = none', "log_min_messages = 'notice'", "log_min_error_statement = 'notice'");
$node->safe_psql('postgres', q{
	CREATE ROLE alice LOGIN;
	CREATE SERVER kafka FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'localhost:1');
	CREATE USER MAPPING FOR PUBLIC SERVER kafka;
	CREATE TABLE secrets (s text);
	GRANT SELECT ON secrets TO PUBLIC});

my $n = 0;

# Run SQL, in which %s is the secret, as a client that may get an error: the log
# must not have the secret, but a line that matches.
sub hidden
{
	my ($sql, $logged, $name, %options) = @_;
	my $secret = 'hush' . $n++ . 'x7';
	my $offset = -s $node->logfile;
	my ($status, $out, $err) = $node->psql('postgres', sprintf($sql, $secret),
		extra_params => [ '-U', $options{role} // 'postgres' ]);
	my $log = slurp_file($node->logfile, $offset);
	unlike($log, qr/$secret/, "$name: the log does not have it");
	like($log, $logged, "$name: but says what was wrong");
	unlike($err, qr/$secret/, "$name: nor does the client") if $options{client};
	return;
}

my $mapping = q{CREATE USER MAPPING FOR PUBLIC SERVER kafka OPTIONS (user 'u', password '%s')};

hidden($mapping, qr/user mapping for "public" already exists/, 'L2: a mapping that exists');
hidden(q{CREATE USER MAPPING FOR alice SERVER kafak OPTIONS (user 'u', password '%s')},
	qr/server "kafak" does not exist/, 'L2: a server whose name is misspelt');
hidden(q{ALTER USER MAPPING FOR alice SERVER kafak OPTIONS (SET password '%s')},
	qr/server "kafak" does not exist/, 'L2: ALTER for a server whose name is misspelt');
hidden(q{CREATE USER MAPPING FOR alice SERVER kafka OPTIONS (user 'u', pasword '%s')},
	qr/invalid option "pasword"/, 'L2: an option whose name is misspelt');
hidden(q{CREATE SERVER other FOREIGN DATA WRAPPER stream_agg_kafak OPTIONS (brokers 'b', password '%s')},
	qr/foreign-data wrapper "stream_agg_kafak" does not exist/, 'L2: a server with a secret, of a wrapper that is not there');
hidden(q{ALTER SERVER kafka OPTIONS (ADD "sasl.password" '%s')}, qr/cannot be set for a server/, 'L2: a secret for a server');
hidden(q{CREATE USER MAPPING FOR alice SERVER kafka OPTIONS (user 'u', password '%s')},
	qr/permission denied for foreign server kafka/, 'L2: a missing privilege', role => 'alice');

# where the command is part of something else
hidden("DO \$\$ BEGIN $mapping; END \$\$", qr/already exists.*CREATE USER MAPPING, whose text is not shown/s,
	'L2: in a DO block', client => 1);
hidden("DO \$\$ BEGIN EXECUTE \$x\$$mapping\$x\$; END \$\$", qr/already exists/, 'L2: in a DO block, by EXECUTE', client => 1);
hidden("DO \$\$ BEGIN EXECUTE \$x\$CREATE USER MAPPING FOR PUBLIC SERVER kafka OPTIONS (password '%s' nonsense)\$x\$; END \$\$",
	qr/syntax error/, 'L2: in a DO block, a syntax error in what is executed', client => 1);
$node->safe_psql('postgres', sprintf("CREATE FUNCTION with_secret() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS \$f\$ BEGIN $mapping; END \$f\$", 'hushinfunction'));
$node->safe_psql('postgres', sprintf("CREATE FUNCTION with_secret_sql() RETURNS void LANGUAGE sql SECURITY DEFINER AS \$f\$ $mapping \$f\$", 'hushinfunction'));
for my $function ('with_secret', 'with_secret_sql')
{
	my $offset = -s $node->logfile;
	my (undef, undef, $err) = $node->psql('postgres', "SELECT $function()", extra_params => [ '-U', 'alice' ]);
	my $log = slurp_file($node->logfile, $offset);
	like($log, qr/already exists/, "L2: $function(): the log says what was wrong");
	unlike("$log$err", qr/hushinfunction/, "L2: $function(), called by another role: neither log nor client has it");
}

# where the command does not even run
hidden("BEGIN; SELECT 1/0; \n$mapping", qr/division by zero/, 'L2: behind a statement that fails');
{
	my $offset = -s $node->logfile;
	$node->psql('postgres', "BEGIN;\nSELECT 1/0;\n" . sprintf($mapping, 'hushaborted') . ";\nROLLBACK", on_error_stop => 0,
		extra_params => []);
	# psql sends each statement of its standard input by itself
	my $log = slurp_file($node->logfile, $offset);
	like($log, qr/current transaction is aborted/, 'L2: in a failed transaction: the log says so');
	unlike($log, qr/hushaborted/, 'L2: in a failed transaction: the log does not have it');
}
hidden("CREATE USER MAPPING FOR alice SERVER kafka OPTIONS (user 'u', password '%s')\\; SELECT 1/0",
	qr/division by zero/, 'L2: before a statement of the same string that fails');
hidden("SELECT 1/0\\; $mapping", qr/division by zero/, 'L2: behind a statement of the same string that fails');
hidden(q{CREATE USER MAPPING FOR alice SERVER kafka OPTIONS (password '%s' user 'u')},
	qr/syntax error in a statement that is not shown/, 'L2: a syntax error');
hidden(q{CREATE USER MAPPING FOR alice SERVER kafka OPTIONS (password %s)},
	qr/syntax error in a statement that is not shown/, 'L2: a syntax error at the secret');
hidden(q{CREATE USR MAPPING FOR alice SERVER kafka OPTIONS (password '%s')},
	qr/syntax error in a statement that is not shown/, 'L2: a keyword whose name is misspelt');
hidden("SET statement_timeout = 100;\nDO \$\$ BEGIN PERFORM pg_sleep(60); $mapping; END \$\$", qr/statement timeout/,
	'L2: in a DO block that is cancelled elsewhere');
hidden(q{SELECT stream_agg.create_source('s', topic => 't', brokers => 'localhost:1', columns => 'k int', options => '{"password": "%s"}')},
	qr/option "password" cannot be set for a server/, 'L2: a secret for create_source');
hidden(q{SELECT stream_agg.create_sorce('s', server => 'kafka', options => '{"password": "%s"}')},
	qr/does not exist/, 'L2: a secret for a function that is misspelt');
hidden("PREPARE p AS $mapping", qr/syntax error/, 'L2: PREPARE');

# options of servers that are credentials
hidden(q{CREATE SERVER other FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'h:1', "basic.auth.user.info" 'u:%s')},
	qr/invalid option "basic.auth.user.info"/, 'L2: a server with the credentials of a registry', client => 1);
hidden(q{ALTER SERVER kafka OPTIONS (ADD "sasl.jaas.config" 'x username="u" token="%s"')}, qr/option "sasl.jaas.config"|property "sasl.jaas.config"/,
	'L2: a server with the configuration of a Java client', client => 1);
hidden(q{CREATE SERVER other FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'u:%s@h:1')}, qr/cannot hold credentials/,
	'L2: credentials in front of a broker', client => 1);
hidden(q{ALTER SERVER kafka OPTIONS (SET brokers 'h/u:%s:9092')}, qr/invalid value for option "brokers"\n/,
	'L2: a broker with more parts than host and port', client => 1);
for my $broker ('u:%s:9092', 'u:%s@h', 'h:1, u:%s:9092', 'SASL_SSL://u:%s:9092', 'SASL_SSL://u:%s@h:9092', '[::1]:%s:9092', 'u:%s:h:9092')
{
	hidden("CREATE SERVER other FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$broker')",
		qr/option "brokers"( cannot hold credentials)?\n/, "L2: brokers $broker", client => 1);
}
for my $broker ('h', 'h_1.example.com:9092', '127.0.0.1:9092', '[::1]', ' [fe80::1%%eth0]:9092 , h:1', 'sasl_ssl://[::ffff:127.0.0.1]:9092,PLAINTEXT://h')
{
	$node->safe_psql('postgres', sprintf("ALTER SERVER kafka OPTIONS (SET brokers '$broker')"));
	pass("brokers $broker are brokers");
}
hidden(q{CREATE SERVER other FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'h:1', "schema.registry" 'http://u:%s@h')},
	qr/invalid value for option "schema.registry"\n/, 'L2: credentials in the URL of a registry', client => 1);
hidden(q{CREATE SERVER other FOREIGN DATA WRAPPER stream_agg_kafak OPTIONS ("schema.registry" 'http://u:%s@h')},
	qr/foreign-data wrapper "stream_agg_kafak" does not exist/, 'L2: the same, of a wrapper that is not there');
hidden(q{CREATE USER MAPPING FOR alice SERVR kafka OPTIONS (token '%s')},
	qr/syntax error in a statement that is not shown/, 'L2: a mapping whose option is called otherwise');

# what is no secret is logged as ever
my $offset = -s $node->logfile;
$node->psql('postgres', q{SELECT 'shown', 1/0});
like(slurp_file($node->logfile, $offset), qr/STATEMENT:  SELECT 'shown', 1\/0/, 'other statements are logged with their text');
$offset = -s $node->logfile;
$node->psql('postgres', q{SELECT * FROM no_such_table});
like(slurp_file($node->logfile, $offset), qr/STATEMENT:  SELECT \* FROM no_such_table/, 'so are those with an error of their own');
$offset = -s $node->logfile;
my (undef, undef, $err) = $node->psql('postgres', q{CREATE USER MAPPING FOR alice SERVER kafka OPTIONS (password 'x' user 'u')});
like($err, qr/syntax error at or near "user"/, 'who has sent it learns where the syntax error is');

# Statements of other processes, in details.
sub session
{
	my ($sql) = @_;
	my %s = (in => "$sql;\n\\echo began\n", out => '');
	$s{psql} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$s{in}, '>', \$s{out}, '2>&1',
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	$s{psql}->pump until $s{out} =~ /began/;
	return \%s;
}
sub send_to { my ($s, $sql) = @_; $s->{in} .= "$sql;\n"; $s->{psql}->pump_nb; return; }
sub quit { my ($s) = @_; $s->{in} .= "\\q\n"; eval { $s->{psql}->finish }; return; }

$node->safe_psql('postgres', 'CREATE TABLE a (); CREATE TABLE b ()');
$offset = -s $node->logfile;
my $first = session('BEGIN; LOCK a');
my $second = session('BEGIN; LOCK b');
send_to($first, 'DO $$ BEGIN LOCK b; ' . sprintf($mapping, 'hushdeadlock') . '; END $$');
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE relation = 'b'::regclass AND NOT granted});
send_to($second, 'LOCK a');
quit($second);
quit($first);
my $log = slurp_file($node->logfile, $offset);
like($log, qr/deadlock detected.*DETAIL: .*waits for.*Statements are not shown/s, 'L2: a deadlock: the log says between whom');
unlike($log, qr/hushdeadlock/, 'L2: a deadlock: the log has no statement with a secret');

$offset = -s $node->logfile;
my $victim = session('SELECT');
send_to($victim, 'DO $$ BEGIN PERFORM pg_sleep(600); ' . sprintf($mapping, 'hushcrash') . '; END $$');
my $running = q{SELECT %s FROM pg_stat_activity WHERE wait_event = 'PgSleep'};
$node->poll_query_until('postgres', sprintf $running, 'count(*) = 1');
kill 'KILL', $node->safe_psql('postgres', sprintf $running, 'pid');
quit($victim);
$node->wait_for_log(qr/database system is ready to accept connections/, $offset);
$log = slurp_file($node->logfile, $offset);
like($log, qr/terminated by signal 9.*\n.*DETAIL: .*Statements are not shown/, 'L2: a crash: the log says so');
unlike($log, qr/hushcrash/, 'L2: a crash: the log does not have the statement that was running');

done_testing();
