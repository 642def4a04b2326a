# A broker that says what a test wants it to, see test/broker/hostile_broker.py:
# its script is a Perl structure, and changes when a test says so.

package StreamAgg::HostileBroker;

use strict;
use warnings;

use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Time::HiRes 'usleep';

my $program = $ENV{HOSTILE_BROKER} or die 'HOSTILE_BROKER is not set: run the tests by test/run';
my $json = JSON::PP->new->canonical;
my $owner = $$;
my @running;

# new(script)
sub new
{
	my ($class, %script) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $self = bless { ready => "$dir/ready", script => "$dir/script", is => { cluster => 'hostile', topics => [], %script } }, $class;
	$self->say;
	$self->{harness} = IPC::Run::start([ 'python3', $program, $self->{ready}, $self->{script} ], '<', \undef, '>', "$dir/log", '2>&1');
	push @running, $self;
	for (1 .. 1800)
	{
		last if -s $self->{ready};
		usleep(100_000);
	}
	$self->{brokers} = slurp_file($self->{ready});
	return $self;
}

sub brokers { return $_[0]->{brokers}; }

# say(name => value, ...): from now on the script has these.
sub say
{
	my ($self, %changes) = @_;
	my $is = $self->{is};
	for my $name (keys %changes)
	{
		if (defined $changes{$name}) { $is->{$name} = $changes{$name}; }
		else { delete $is->{$name}; }
	}
	open my $out, '>', "$self->{script}.new" or die $!;
	print $out $json->encode($is);
	close $out;
	rename "$self->{script}.new", $self->{script} or die $!;
	return;
}

# add_topic(name, partition, ...): of each its batches, [batch, ...], or all there is
# to say of it, { batches => [...], ... }
sub add_topic
{
	my ($self, $name, @partitions) = @_;
	$self->say(topics => [ @{ $self->{is}{topics} }, { name => $name, partitions => [ map { ref $_ eq 'HASH' ? $_ : { batches => $_ } } @partitions ] } ]);
	return;
}

# requests answered, fetches among them, answers damaged
sub counts
{
	my ($self) = @_;
	return -e "$self->{ready}.count" ? split(/ /, slurp_file("$self->{ready}.count")) : (0, 0, 0);
}

END
{
	if ($$ == $owner)
	{
		my $status = $?;
		$_->{harness}->kill_kill for @running;
		$? = $status;
	}
}

1;
