# Records that fall beside a closed session are counted: a session that begins
# where the watermark had been already may be part of one that is closed.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker(few => 1, ses => 4);
my $node = new_node('split_sessions', 'timezone = UTC', 'max_worker_processes = 20');
my $rng = seeded_random();
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub beside { return sql("SELECT rows_beside_closed FROM pg_stat_stream_agg WHERE stream = '$_[0]'"); }

create_source($node, $broker, 'few', 'few', 'ts timestamptz, who text');
create_source($node, $broker, 'ses', 'ses', 'ts timestamptz, who text');
my @modes = qw(append update complete);
sql("SELECT stream_agg.create_stream('few_$_', \$\$SELECT stream_agg.session(ts, '10 seconds') AS s, who, count(*) AS n FROM few GROUP BY 1, 2\$\$,
	output_mode => '$_', watermark => '5 seconds', trigger => '20 days')") for @modes;

sub few
{
	my @records = @_;
	my @json;
	while (@records)
	{
		my ($who, $second) = splice @records, 0, 2;
		push @json, json_record({ ts => (1000 + $second) * 1000, who => $who }, numbers => ['ts']);
	}
	$broker->produce('few', @json);
	process($node, "few_$_") for @modes;
	return;
}

subtest 'a session beside a closed one of its key is counted once' => sub {
	few(a => 0, b => 20);
	is(beside("few_$_"), 0, "$_: nothing is closed yet") for @modes;
	few(a => 12, a => 8);
	is(beside("few_$_"), 1, "$_: [8, 22) would be part of [0, 10)") for qw(append update);
	few(a => 14);
	is(beside("few_$_"), 1, "$_: a session that goes on is not counted again") for qw(append update);
	few(a => 7);
	is(beside("few_$_"), 2, "$_: one that begins earlier now is") for qw(append update);
	few(c => 16, a => 30);
	is(beside("few_$_"), 2, "$_: what is after the watermark is not") for qw(append update);
	is(beside('few_complete'), 0, 'complete closes no session');
	is(sql(q{SELECT count(*) FROM stream_agg.commits WHERE stream = 'few_append' AND late > 0}), 0, 'none of the records was late');
};

# 4 partitions whose records are in order within 5 seconds, 40 seconds behind each other
my $t = 1767225600;
for my $part (0 .. 3)
{
	$broker->produce('ses', map { [ $part, '', json_record({ ts => int(($t + 10 * $_ + $rng->(5) - 40 * $part) * 1000), who => 'u' . $rng->(80) }, numbers => ['ts']) ] } 0 .. 1499);
}
my $sessions = q{SELECT stream_agg.session(ts, '2 minutes') AS s, who, count(*) AS n FROM ses GROUP BY 1, 2};
for my $stream (qw(split again))
{
	sql(qq{SELECT stream_agg.create_stream('$stream', '$sessions', watermark => '1 minute', max_offsets_per_trigger => 777,
		start => false, options => '{"watermark_policy": "global"}')} =~ s/'2 minutes'/''2 minutes''/r);
}
sql(q{SELECT stream_agg.start_stream('split')});
process($node, 'split');

subtest 'sessions that are split are all among those counted' => sub {
	my $pairs = sql(q{SELECT count(*) FROM split a JOIN split b ON a.who = b.who AND a.ctid <> b.ctid AND (a.s && b.s OR a.s -|- b.s) AND (a.s, a.ctid) > (b.s, b.ctid)});
	my $counted = beside('split');
	note("$pairs pairs, $counted counted");
	cmp_ok($pairs, '>', 0, 'sessions of one key overlap or touch');
	cmp_ok($counted, '>=', $pairs, 'no more than are counted');
	is(sql(q{SELECT sum(beside_closed) FROM stream_agg.commits WHERE stream = 'split'}), $counted, 'by batch, and in total');
};

subtest 'the same after a crash in between' => sub {
	sql(q{SELECT stream_agg.alter_stream('again', max_offsets_per_trigger => 777)});
	sql(q{SELECT stream_agg.start_stream('again')});
	$node->poll_query_until('postgres', q{SELECT count(*) > 1 FROM stream_agg.commits WHERE stream = 'again'}) or die 'no batch';
	$node->stop('immediate');
	$node->start;
	process($node, 'again');
	my $commits = 'SELECT batch, aggregated, late, beside_closed, total_beside_closed FROM stream_agg.commits WHERE delivered > 0 AND stream =';
	is(sql("$commits 'again' ORDER BY 1"), sql("$commits 'split' ORDER BY 1"), 'every batch counts the same');
};

subtest 'a reset goes on with the counter' => sub {
	my $counted = beside('split');
	sql(q{SELECT stream_agg.reset_stream('split', 'latest')});
	process($node, 'split');
	is(beside('split'), $counted, 'it is as before');
};

done_testing();
