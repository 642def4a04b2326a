# Offsets for Kafka's own tools: a stream with a consumer group commits to it
# what it has committed itself, never reads it back, and does not need it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 2, others => 1);
my $node = new_node('group');
create_source($node, $broker, 'events', 'events', 'k int');
create_source($node, $broker, 'others', 'others', 'k int');

sub produce
{
	my $n = shift;
	$broker->produce('events', map { [ $_ % 2, '', "{\"k\": $_}" ] } 1 .. $n);
	return;
}

sub create_stream
{
	my ($stream, $source, $trigger, $options) = @_;
	$node->safe_psql('postgres', qq{
		SELECT stream_agg.create_stream('$stream', 'SELECT k, count(*) AS n FROM $source GROUP BY k',
			output_mode => 'update', trigger => '$trigger', max_offsets_per_trigger => 100, options => '$options')});
	return;
}

sub is_committed
{
	my ($group, $stream, $name) = @_;
	my $offsets = await_committed($node, $broker->brokers, 'events', $group, $stream);
	ok($offsets ne '', "$name: $offsets");
	return;
}

produce(1000);
create_stream('grouped', 'events', '0', '{"consumer_group": "dashboard"}');
create_stream('slow', 'events', '1 hour', '{"consumer_group": "slow dashboard"}');
create_stream('alone', 'events', '0', '{}');
process($node, $_) for qw(grouped slow alone);
is_committed('dashboard', 'grouped', 'what the stream has committed the group has');
is_committed('slow dashboard', 'slow', 'with a long trigger interval, too');
is(committed($broker->brokers, 'events', 'stream_agg'), '', 'a stream without a group commits to none');
produce(500);
process($node, 'grouped');
is_committed('dashboard', 'grouped', 'and goes on to');

# the group is told, not asked: a stream made anew starts at its starting_offsets
$node->safe_psql('postgres', q{SELECT stream_agg.drop_stream('grouped', drop_sink => true)});
create_stream('grouped', 'events', '0', '{"consumer_group": "dashboard"}');
my (undef, $rows) = process($node, 'grouped');
is($node->safe_psql('postgres', q{SELECT rows_in FROM pg_stat_stream_agg WHERE stream = 'grouped'}), 1500,
	'a new stream with the same group reads everything');

# other groups for streams that are there
$node->safe_psql('postgres', q{SELECT stream_agg.alter_stream('grouped', '{"consumer_group": "other"}')});
is_committed('other', 'grouped', 'another group is told at once, without new records');
$node->safe_psql('postgres', q{SELECT stream_agg.alter_stream('grouped', '{"consumer_group": null}')});
produce(100);
process($node, 'grouped');
is($node->safe_psql('postgres', q{SELECT options FROM stream_agg.streams WHERE stream = 'grouped'}), '{}',
	'null takes the group away');
isnt(committed($broker->brokers, 'events', 'other'),
	$node->safe_psql('postgres', q{SELECT string_agg(format('%s %s', partition, committed_offset), ', ' ORDER BY partition)
		FROM pg_stat_stream_agg_partitions WHERE stream = 'grouped'}),
	'and nothing is committed to it any more');

# refused commits are warnings, few of them, and made up for
$node->safe_psql('postgres', q{SELECT stream_agg.alter_stream('grouped', '{"consumer_group": "refused"}')});
is_committed('refused', 'grouped', 'before');
$broker->control('refuse-commits', 3);
my $log = -s $node->logfile;
for (1 .. 5)
{
	produce(100);
	process($node, 'grouped');
}
is($node->safe_psql('postgres', q{SELECT state, rows_in, COALESCE(last_error, '') ~ '^($|no (answer|records) from Kafka about .* yet)' FROM pg_stat_stream_agg WHERE stream = 'grouped'}),
	'running|2100|t', 'a stream whose commits to the group are refused runs on');
is_equal_tables($node, 'SELECT * FROM grouped', 'SELECT * FROM grouped_query', 'and its table equals the query');
$node->wait_for_log(qr/WARNING:  stream "grouped" could not commit its offsets to consumer group "refused"/, $log);
is_committed('refused', 'grouped', 'they are made up for, without new records');
my @warnings = slurp_file($node->logfile, $log) =~ /could not commit its offsets to consumer group "refused"/g;
is(@warnings, 1, 'there is one warning');

# A stop does not wait for a commit that is under way, as one is at a start; a
# consumer's commit would be waited for, three quarters of a minute and longer.
my $longest = 0;
for (1 .. 10)
{
	$node->safe_psql('postgres', q{SELECT stream_agg.start_stream('slow')}) if $_ > 1;
	worker_pid($node, 'slow');
	my $before = time;
	$node->safe_psql('postgres', q{SELECT stream_agg.stop_stream('slow')});
	$longest = time - $before if time - $before > $longest;
}
cmp_ok($longest, '<', 30, 'a stream that has just started stops at once');

# what is no name of a group
for my $bad ('""', '"' . 'x' x 256 . '"')
{
	my ($status, undef, $error) = $node->psql('postgres',
		qq{SELECT stream_agg.alter_stream('grouped', '{"consumer_group": $bad}')});
	like($error, qr/consumer_group must have between 1 and 255 bytes/, 'refused: ' . substr($bad, 0, 5));
}

# --- L4: with credentials that are not the owner's a stream has a group of its own
my $brokers = $broker->brokers;
$node->safe_psql('postgres', qq{
	CREATE ROLE alice LOGIN;
	CREATE SCHEMA alice AUTHORIZATION alice;
	CREATE SERVER shared FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '$brokers', "fetch.wait.max.ms" '20');
	CREATE USER MAPPING FOR PUBLIC SERVER shared OPTIONS (user 'mighty', password 'x');
	GRANT USAGE ON FOREIGN SERVER shared TO alice});
sub alice
{
	my (undef, undef, $error) = $node->psql('postgres', "SET client_min_messages = warning; $_[0]", extra_params => [ '-U', 'alice' ]);
	return $error;
}
is(alice(q{SELECT stream_agg.create_source('alice.events', server => 'shared', topic => 'events', columns => 'k int')}), '', 'alice has a source over a server of others');
sub alice_creates
{
	my $group = shift;
	return alice("SELECT stream_agg.create_stream('alice.mine', 'SELECT k, count(*) AS n FROM alice.events GROUP BY k',
		output_mode => 'update', trigger => '0', options => '{\"consumer_group\": \"$group\"}')");
}
my $refused = qr/may not commit to consumer group "billing"\nDETAIL:  Role "alice" has no credentials of its own for server "shared"\.\nHINT:  Use consumer group "stream_agg\.postgres\.alice\.mine", or have the owner of the server allow others by its option "consumer_groups"/;
like(alice_creates('billing'), $refused, 'L4: the mapping for PUBLIC does not lend its rights to any group');
is(alice_creates('stream_agg.postgres.alice.mine'), '', 'L4: a group of its own a stream has');
is_committed('stream_agg.postgres.alice.mine', 'alice.mine', 'L4: and commits to it');
my $alter = q{SELECT stream_agg.alter_stream('alice.mine', '{"consumer_group": "billing"}')};
like(alice($alter), $refused, 'L4: alter_stream refuses others as well');
alice(q{CREATE USER MAPPING FOR alice SERVER shared});
like(alice($alter), $refused, 'L4: a mapping of its own without credentials changes nothing');
alice(q{ALTER USER MAPPING FOR alice SERVER shared OPTIONS (ADD user 'alice', ADD password 'x')});
like(alice($alter), $refused, 'L4: nor credentials that the protocol does not use');
like(alice(q{ALTER SERVER shared OPTIONS (ADD consumer_groups '*')}), qr/must be owner/, q{L4: only the server's owner allows groups});
$node->safe_psql('postgres', q{ALTER SERVER shared OPTIONS (ADD consumer_groups 'bill, reports.*')});
like(alice($alter), qr/Option "consumer_groups" of server "shared" does not have it/, 'L4: what is not listed is refused');
like(alice($alter =~ s/billing/reports/r), qr/does not have it/, 'L4: a prefix is one up to the star');
is(alice($alter =~ s/billing/reports.daily/r), '', 'L4: what has a prefix that is listed is allowed');
is(alice($alter =~ s/billing/bill/r), '', 'L4: so is what is listed');
is_committed('bill', 'alice.mine', 'L4: and is committed to');
$log = -s $node->logfile;
$node->safe_psql('postgres', q{ALTER SERVER shared OPTIONS (SET consumer_groups 'other'); SELECT stream_agg.stop_stream('alice.mine'); SELECT stream_agg.start_stream('alice.mine')});
$node->wait_for_log(qr/WARNING:  stream "alice\.mine" may not commit to consumer group "bill" any more/, $log);
my $was = committed($brokers, 'events', 'bill');
produce(100);
process($node, 'alice.mine');
is(committed($brokers, 'events', 'bill'), $was, 'L4: what is not allowed any more is not committed to; the stream goes on');

# a quoted name with a dot is another name than one with a schema
alice(q{SELECT stream_agg.drop_stream('alice.mine', drop_sink => true)});
sub alice_creates_dotted
{
	return alice("SET search_path = alice; SELECT stream_agg.create_stream('\"alice.mine\"', 'SELECT k, count(*) AS n FROM alice.events GROUP BY k',
		output_mode => 'update', start => false, options => '{\"consumer_group\": \"$_[0]\"}')");
}
like(alice_creates_dotted('stream_agg.postgres.alice.mine'), qr/Use consumer group "stream_agg\.postgres\."alice\.mine""|does not have it/,
	'L4: the group of stream alice.mine is not that of stream "alice.mine"');
is(alice_creates_dotted('stream_agg.postgres.\\"alice.mine\\"'), '', 'L4: which has one with quotes');

# a key for TLS can be made by anybody
$node->safe_psql('postgres', q{ALTER SERVER shared OPTIONS (DROP consumer_groups, ADD "security.protocol" 'ssl')});
alice(q{ALTER USER MAPPING FOR alice SERVER shared OPTIONS (DROP user, DROP password, ADD "ssl.key.pem" 'made by alice', ADD "ssl.certificate.pem" 'made by alice')});
like(alice(q{SELECT stream_agg.alter_stream('alice."alice.mine"', '{"consumer_group": "billing"}')}), qr/may not commit to consumer group "billing"/,
	'L4: a key for TLS opens no group');
$node->safe_psql('postgres', q{ALTER SERVER shared OPTIONS (ADD consumer_groups 'billing')});
is(alice(q{SELECT stream_agg.alter_stream('alice."alice.mine"', '{"consumer_group": "billing"}')}), '', 'L4: the server does');

done_testing();
