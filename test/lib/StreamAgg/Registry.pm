# The schema registry of the tests (registry/schema_registry.py).
package StreamAgg::Registry;

use strict;
use warnings;

use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;

my $json = JSON::PP->new->canonical->allow_nonref;
my $request = <<'PYTHON';
import sys, urllib.request as r
print(r.urlopen(r.Request(sys.argv[2], method=sys.argv[1], data=sys.stdin.buffer.read() or None)).read().decode())
PYTHON

sub scripts { return $ENV{REGISTRY} // die 'REGISTRY is not set: run the tests by test/run'; }

# Starts a registry; the arguments are its user and password with ':' between, and a file
# with a certificate, if it shall ask for them.
sub new
{
	my ($class, @arguments) = @_;
	my $ready = PostgreSQL::Test::Utils::tempdir() . '/registry';
	my $self = bless { ready => $ready }, $class;

	$self->{process} = IPC::Run::start([ 'python3', scripts() . '/schema_registry.py', $ready, @arguments ],
		'<', \undef, '>', "$ready.log", '2>&1');
	for (1 .. 1800)
	{
		if (-s $ready)
		{
			$self->{url} = 'http://127.0.0.1:' . slurp_file($ready);
			return $self;
		}
		select(undef, undef, undef, 0.1);
	}
	die 'the registry does not start: ' . slurp_file("$ready.log");
}

# The file that other files which change what it answers are named after.
sub ready { return $_[0]{ready}; }
sub url { return $_[0]{url}; }
sub stop { $_[0]{process}->kill_kill; return; }

# Sends a request, whose body is JSON; returns the answer.
sub http
{
	my ($self, $method, $path, $body) = @_;
	my ($out, $err);
	my $in = defined $body ? $json->encode($body) : '';

	IPC::Run::run([ 'python3', '-c', $request, $method, "$self->{url}$path" ], '<', \$in, '>', \$out, '2>', \$err) or die $err;
	return $json->decode($out);
}

# Registers a schema, a text, as the next version of a subject; returns its id.
sub register
{
	my ($self, $subject, $schema, %more) = @_;
	return $self->http('POST', "/subjects/$subject/versions", { schema => $schema, %more })->{id};
}

# Registers an Avro schema, a Perl structure; returns its id.
sub register_avro
{
	my ($self, $schema) = @_;
	return $self->register('x', $json->encode($schema));
}

# Returns records, each [id of the schema, schema, value], in Avro's encoding, as hex.
sub avro_records
{
	my @records = @_;
	my $in = join('', map { $json->encode({ id => $_->[0] + 0, schema => $_->[1], value => $_->[2] }) . "\n" } @records);
	my ($out, $err);

	IPC::Run::run([ 'python3', scripts() . '/avro_encode.py' ], '<', \$in, '>', \$out, '2>', \$err) or die $err;
	return split /\n/, $out;
}

1;
