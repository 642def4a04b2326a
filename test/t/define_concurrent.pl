# Definitions by two sessions at once, and under a snapshot older than what a
# stream's worker has committed.  No stream runs here.

use strict;
use warnings;

use IPC::Run;
use StreamAgg::Test;
use Test::More;

my $node = new_node('definitions');

$node->safe_psql('postgres', q{
	SELECT stream_agg.create_source('clicks', topic => 'clicks', brokers => 'localhost:1',
		columns => 'ts timestamptz, user_id bigint')});

sub create_stream
{
	my ($stream, $sink) = @_;
	return "SELECT stream_agg.create_stream('$stream',"
	  . " 'SELECT user_id, count(*) AS n FROM clicks GROUP BY 1', output_mode => 'update',"
	  . " sink => '$sink', start => false);";
}

# A session that takes one command after the other.
sub session
{
	my $self = { in => '', out => '', err => '' };

	$self->{psql} = IPC::Run::start(
		[ 'psql', '-XqAt', '-d', $node->connstr('postgres') ],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
	return $self;
}

# Send a command to a session and wait for its end.
sub run_in
{
	my ($self, $command) = @_;

	$self->{out} = '';
	$self->{in} .= "$command\n\\echo done\n";
	$self->{psql}->pump until $self->{out} =~ /^done$/m;
	return;
}

# Send a command that will wait for a lock, and return when it does, as the session
# of this number.
sub block_in
{
	my ($self, $command, $waiting) = @_;

	$waiting //= 1;
	$self->{out} = '';
	$self->{in} .= "$command\n\\echo done\n";
	$self->{psql}->pump_nb;
	$node->poll_query_until('postgres',
		"SELECT count(*) >= $waiting FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
	  or die 'the command does not wait';
	return;
}

sub finish
{
	my $self = shift;

	$self->{psql}->pump until $self->{out} =~ /^done$/m;
	$self->{in} .= "\\q\n";
	$self->{psql}->finish;
	return $self->{err};
}

my ($one, $two);

# both find the stream, one drops it
$node->safe_psql('postgres', create_stream('twice', 'twice'));
$one = session();
run_in($one, "BEGIN; SELECT stream_agg.drop_stream('twice');");
$two = session();
block_in($two, "SELECT stream_agg.drop_stream('twice');");
run_in($one, 'COMMIT;');
like(finish($two), qr/stream "twice" does not exist/, 'the second drop finds no stream');
is(finish($one), '', 'the first drop succeeds');

$node->safe_psql('postgres', create_stream('twice', 'twice'));
$one = session();
run_in($one, "BEGIN; SELECT stream_agg.drop_stream('twice');");
$two = session();
block_in($two, "SELECT stream_agg.drop_stream('twice', if_exists => true);");
run_in($one, 'COMMIT;');
unlike(finish($two), qr/ERROR/, 'nor is that an error with if_exists');
finish($one);

# two streams made at once do not share a sink
$node->safe_psql('postgres',
	'CREATE TABLE own (user_id bigint UNIQUE NULLS NOT DISTINCT, n bigint)');
$one = session();
run_in($one, 'BEGIN; ' . create_stream('own_one', 'own'));
$two = session();
block_in($two, create_stream('own_two', 'own'));
run_in($one, 'COMMIT;');
like(finish($two), qr/table "own" is the sink of stream "own_one"/, 'a sink has one stream');
finish($one);

# rows committed after the snapshot of the transaction that drops
$node->safe_psql('postgres', create_stream('old', 'old'));
$one = session();
run_in($one, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM stream_agg.offsets;');
$node->safe_psql('postgres', q{
	INSERT INTO stream_agg.offsets VALUES ('old', 0, '{}', now(), now());
	INSERT INTO stream_agg.state VALUES ('old', 0, 0, 0, 0, true, 0, 0, 0, '')});
run_in($one, "SELECT stream_agg.drop_stream('old'); COMMIT;");
is(finish($one), '', 'a stream is dropped under an old snapshot');
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM (SELECT stream FROM stream_agg.offsets
	                      UNION ALL SELECT stream FROM stream_agg.state
	                      UNION ALL SELECT stream FROM stream_agg.streams WHERE stream = 'old') x}),
	'0', 'and nothing of it is left');

# streams that were made after the snapshot of the transaction that changes what they need
for my $change (
	[ 'CREATE OR REPLACE VIEW newer_query AS SELECT user_id, 1::bigint AS n FROM clicks', qr/cannot replace the query of stream "newer"/, qr/^\d+$/, 'a query is not replaced' ],
	[ 'DROP TABLE newer', qr/^$/, qr/^0$/, 'a sink that is dropped is forgotten' ])
{
	my ($command, $error, $sink, $name) = @$change;
	$one = session();
	run_in($one, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM stream_agg.streams;');
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('newer', drop_sink => true, if_exists => true);" . create_stream('newer', 'newer'));
	run_in($one, "$command; COMMIT;");
	like(finish($one), $error, "$name under an old snapshot");
	like($node->safe_psql('postgres', q{SELECT sink::oid FROM stream_agg.streams WHERE stream = 'newer'}), $sink, 'its sink');
}
$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('newer')});
$one = session();
run_in($one, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM stream_agg.streams;');
$node->safe_psql('postgres', 'CREATE TABLE taken (user_id bigint UNIQUE NULLS NOT DISTINCT, n bigint);' . create_stream('newer', 'taken'));
run_in($one, create_stream('second', 'taken'));
like(finish($one), qr/table "taken" is the sink of stream "newer"/, 'a sink has one stream, under an old snapshot too');
$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('newer')});

my @alike = map { create_stream("alike_$_", "alike_$_") =~ s{start => false}{trigger => '$_ s', reader => 'alike', $&}r } 1 .. 2;
$one = session();
run_in($one, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM stream_agg.streams;');
$node->safe_psql('postgres', $alike[0]);
run_in($one, $alike[1]);
like(finish($one), qr/ERROR:.*alike/, 'streams of one reader are alike, under an old snapshot too');
$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('alike_1')});

# both change a stream of one reader, and so the other one
$node->safe_psql('postgres', "BEGIN; " . join('', map { create_stream($_, $_) =~ s{start => false}{trigger => '1 s', reader => 'both', $&}r } qw(left_one right_one)) . 'COMMIT');
$one = session();
run_in($one, "BEGIN; SELECT stream_agg.stop_stream('left_one'); SELECT stream_agg.stop_stream('right_one');");
my @changes = map { session() } 1 .. 2;
block_in($changes[0], "SELECT stream_agg.alter_stream('left_one', trigger => '2 s');");
block_in($changes[1], "SELECT stream_agg.alter_stream('right_one', trigger => '3 s');", 2);
run_in($one, 'COMMIT;');
unlike(finish($_), qr/ERROR/, 'changes of two streams of a reader do not wait for each other') for @changes;
finish($one);
like($node->safe_psql('postgres', q{SELECT string_agg(trigger_interval::text, ' ') FROM stream_agg.streams WHERE reader = 'both'}), qr/^(00:00:0[23]) \g1$/, 'and both streams have the settings of one of them');

$node->stop;
done_testing();
