# Failpoints of stream workers, in a server whose library has them: arming,
# waiting until they are hit, letting go.  See src/failpoint.c.

package StreamAgg::Failpoint;

use strict;
use warnings;

use Exporter 'import';
use Time::HiRes qw(time usleep);

our @EXPORT = qw(arm disarm is_hit wait_hit release wait_until audit_functions);

# The longest wait for anything, in seconds.
my $patience = 60;

sub file { my ($node, $stream) = @_; return $node->data_dir . "/failpoint.$stream"; }

sub put
{
	my ($path, $text) = @_;
	open my $out, '>', "$path.new" or die "$path.new: $!";
	print $out "$text\n";
	close $out;
	rename "$path.new", $path or die "$path: $!";
	return;
}

# At its $hit-th time at $point the worker of $stream does $action: error,
# fatal, kill, or hang until it is released.
sub arm
{
	my ($node, $stream, $point, $action, $hit) = @_;
	disarm($node, $stream);
	put(file($node, $stream), join(' ', $point, $action, $hit // 1));
	return;
}

sub disarm
{
	my ($node, $stream) = @_;
	unlink map { file($node, $stream) . $_ } '', '.hit', '.go';
	return;
}

sub is_hit { my ($node, $stream) = @_; return -e file($node, $stream) . '.hit'; }

# Wait for a condition; returns whether it came true.
sub wait_until
{
	my ($condition, $seconds) = @_;
	my $end = time + ($seconds // $patience);
	until ($condition->())
	{
		return 0 if time > $end;
		usleep(2_000);
	}
	return 1;
}

sub wait_hit
{
	my ($node, $stream) = @_;
	return wait_until(sub { is_hit($node, $stream) });
}

# What a worker that hangs does next: error, fatal, kill, or go on by "go".
sub release
{
	my ($node, $stream, $action) = @_;
	put(file($node, $stream) . '.go', $action);
	return;
}

# Declare the functions that look at state stores.
sub audit_functions
{
	my ($node) = @_;
	$node->safe_psql('postgres', q{
		CREATE FUNCTION failpoint_store(query regclass, OUT handle bigint, OUT in_batch bool, OUT batch bigint,
			OUT bytes bigint, OUT objects bigint, OUT reachable bigint, OUT deaths int, OUT units_out bigint)
			LANGUAGE c STRICT AS '$libdir/stream_agg', 'stream_agg_failpoint_store';
		CREATE FUNCTION failpoint_segment(handle bigint) RETURNS bool
			LANGUAGE c STRICT AS '$libdir/stream_agg', 'stream_agg_failpoint_segment'});
	return;
}

1;
