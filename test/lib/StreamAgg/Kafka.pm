# Real Kafka for the tests of test/kafka/t: clusters of one or three nodes, run
# by test/kafka/cluster.
#
# What a test says to its cluster is as for the embedded broker of
# StreamAgg::Test (brokers, create_topic, produce), so create_source takes one.

package StreamAgg::Kafka;

use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time usleep);

my $tool = $ENV{KAFKA_TOOL} or die 'KAFKA_TOOL is not set: run the tests by test/run';
my $script = $ENV{KAFKA_CLUSTER} or die 'KAFKA_CLUSTER is not set: run the tests by test/run';

my $owner = $$;
my @running;
my @proxies;

# The cluster of one node that all files share: topics need names of their own,
# and nobody kills it or alters its nodes.
sub shared
{
	my ($class) = @_;
	my $dir = $ENV{KAFKA_SHARED} or die 'KAFKA_SHARED is not set: run the tests by test/run';
	return bless({ dir => $dir, nodes => 1, shared => 1 }, $class)->read_ports;
}

# new(nodes => 1 or 3, properties => { name => value }, jars => folder): a cluster
# of the test's own, which ends with it; of another Kafka than the others if there
# are jars.
sub new
{
	my ($class, %how) = @_;
	my $self = bless { dir => PostgreSQL::Test::Utils::tempdir(), nodes => $how{nodes} // 1, jars => $how{jars} }, $class;
	if ($how{properties})
	{
		PostgreSQL::Test::Utils::append_to_file("$self->{dir}/extra.properties", "$_=$how{properties}{$_}\n")
		  for sort keys %{ $how{properties} };
	}
	push @running, $self;
	$self->cluster('start', $self->{nodes}, $$);
	return $self->read_ports;
}

sub cluster
{
	my ($self, $command, @arguments) = @_;
	my $output = '';
	my @command = ($script, $command, $self->{dir}, @arguments);
	local $ENV{KAFKA_JARS} = $self->{jars} // $ENV{KAFKA_JARS};

	# nodes outlive the command and keep what they inherit, so no pipes
	my $log = "$self->{dir}/cluster.log";
	IPC::Run::run(\@command, '<', '/dev/null', '>', $log, '2>&1')
	  or die "@command: " . PostgreSQL::Test::Utils::slurp_file($log);
	return PostgreSQL::Test::Utils::slurp_file($log);
}

sub read_ports
{
	my ($self) = @_;
	for my $line (split /\n/, PostgreSQL::Test::Utils::slurp_file("$self->{dir}/ports"))
	{
		my ($node, $listener, $port, $advertised) = split / /, $line;
		$self->{ports}{$listener}{$node} = $port;
		$self->{advertised}{$listener}{$node} = $advertised;
	}
	return $self;
}

# The nodes' addresses for a listener (test/kafka/cluster tells which there are),
# as a client is to know them.
sub brokers
{
	my ($self, $listener) = @_;
	my $ports = $self->{advertised}{ $listener // 'PLAINTEXT' };
	return join(',', map { "127.0.0.1:$ports->{$_}" } sort keys %$ports);
}

# The port a node listens on, and the one it tells clients.
sub port { my ($self, $listener, $node) = @_; return $self->{ports}{$listener}{ $node // 1 }; }
sub advertised_port { my ($self, $listener, $node) = @_; return $self->{advertised}{$listener}{ $node // 1 }; }

# A file of tls/: ca.pem, client.pem, client.key; and its text.
sub tls_file { my ($self, $name) = @_; return "$self->{dir}/tls/$name"; }
sub tls_text { my ($self, $name) = @_; return PostgreSQL::Test::Utils::slurp_file($self->tls_file($name)); }

# A further certificate, name.pem and name.key; expired if days is negative.
sub certificate
{
	my ($self, $name, $days, $subject) = @_;
	$self->cluster('certificate', $name, $days // 30, $subject // $name);
	return;
}

# One request of kafka_tool; returns what it prints.
sub admin
{
	my ($self, @words) = @_;
	my ($output, $error);
	IPC::Run::run([ $tool, 'admin', '--brokers', $self->brokers, @words ], '<', \undef, '>', \$output, '2>', \$error)
	  or die "@words: $error";
	return $output;
}

# create_topic(name, partitions, property => value, ...)
sub create_topic
{
	my ($self, $name, $partitions, %properties) = @_;
	my $replicas = delete $properties{replicas} // $self->{nodes};
	$self->admin('create', $name, $partitions // 1, $replicas, map { "$_=$properties{$_}" } sort keys %properties);
	$self->await_leader($name, $_) for 0 .. ($partitions // 1) - 1;
	return;
}

# The topic is gone when this returns, and its name free.
sub delete_topic
{
	my ($self, $name) = @_;
	$self->admin('delete', $name);
	until_true("topic $name is gone", sub { !eval { $self->admin('leader', $name, 0); 1 } });
	return;
}

sub add_partitions
{
	my ($self, $name, $total) = @_;
	$self->admin('partitions', $name, $total);
	$self->await_leader($name, $total - 1);
	return;
}

# alter_topic(name, property => value, ...): the others go back to their defaults.
sub alter_topic
{
	my ($self, $name, %properties) = @_;
	$self->admin('alter', 'topic', $name, map { "$_=$properties{$_}" } sort keys %properties);
	return;
}

sub alter_node
{
	my ($self, $node, %properties) = @_;
	$self->admin('alter', 'broker', $node, map { "$_=$properties{$_}" } sort keys %properties);
	return;
}

# Remove the records before an offset, as retention does.
sub delete_records
{
	my ($self, $name, $partition, $before) = @_;
	$self->admin('delete-records', $name, $partition, $before);
	return;
}

# The node that leads a partition, once one does.
sub await_leader
{
	my ($self, $name, $partition) = @_;
	my $leader;
	until_true("partition $partition of $name has a leader",
		sub { ($leader) = eval { $self->admin('leader', $name, $partition) =~ /^(\d+)/ }; defined $leader });
	return $leader;
}

# produce(topic, record...): as that of the embedded broker; of a hash also
# transaction => id, property => 'name=value', and abort => undef
sub produce
{
	my ($self, $topic, @records) = @_;
	my @options = map { my $o = $_; map { ("--$_", $o->{$_} // ()) } sort keys %$o } grep { ref $_ eq 'HASH' } @records;
	my $input = join('', map { ref $_ ? join("\t", map { $_ // '' } @$_) . "\n" : "\t\t$_\n" }
		  grep { ref $_ ne 'HASH' } @records);
	my ($output, $error);
	IPC::Run::run([ $tool, 'produce', '--brokers', $self->brokers, '--topic', $topic, '--tab', @options ],
		'<', \$input, '>', \$output, '2>', \$error)
	  or die "cannot produce: $error";
	return;
}

# Nodes: SIGKILL; start again, returns when it answers; and a new, empty cluster
# on the same ports.
sub kill_node { my ($self, $node) = @_; $self->own; $self->cluster('kill', $node // 1); return; }
sub start_node { my ($self, $node) = @_; return $self->start_nodes($node // 1); }
sub start_nodes { my ($self, @nodes) = @_; $self->own; $self->cluster('up', @nodes); return; }
sub renew { my ($self) = @_; $self->own; $self->cluster('renew'); return; }
sub own { my ($self) = @_; die 'the shared cluster is not to be changed' if $self->{shared}; return; }

# Put a proxy before a node, to be told cut, block, slow or pass: what the
# listener PROXIED tells its clients leads there.
sub start_proxy
{
	my ($self, $node) = @_;
	$node //= 1;
	my $control = PostgreSQL::Test::Utils::tempdir_short() . '/control';
	my $harness = IPC::Run::start([ $tool, 'proxy', '--listen', $self->advertised_port('PROXIED', $node),
			'--to', $self->port('PROXIED', $node), '--control', $control, '--parent', $$ ],
		'<', \undef, '>', "$self->{dir}/proxy.log", '2>&1');
	push @proxies, $harness;
	$self->{proxy}{$node} = $control;
	until_true('the proxy answers', sub { -S $control && eval { $self->network('pass'); 1 } });
	return;
}

# network(command, ...) for the proxies of all nodes that have one
sub network
{
	my ($self, @words) = @_;
	for my $control (values %{ $self->{proxy} })
	{
		my $reply;
		IPC::Run::run([ $tool, 'control', $control, @words ], '<', \undef, '>', \$reply, '2>&1') or die "proxy: $reply";
	}
	return;
}

# One of Kafka's own tools; a second or two each.
sub java_tool { my ($self, $class, @arguments) = @_; return $self->cluster('tool', $class, @arguments); }

sub stop
{
	my ($self) = @_;
	$self->cluster('stop') unless $self->{shared};
	return;
}

# Wait for a condition, two minutes at most.
sub until_true
{
	my ($what, $condition) = @_;
	my $end = time + 120;
	until ($condition->())
	{
		die "not in time: $what" if time > $end;
		usleep(50_000);
	}
	return;
}

END
{
	if ($$ == $owner)
	{
		my $status = $?;
		$_->kill_kill for @proxies;
		$_->stop for @running;
		$? = $status;
	}
}

1;
