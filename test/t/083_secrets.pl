# Passwords of user mappings stay out of the server's log, whatever goes wrong
# with the statement that holds them and wherever it stands.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $node = new_node('secrets', 'log_statement = none', "log_min_messages = 'notice'", "log_min_error_statement = 'notice'");
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

done_testing();
