# Every recipe of doc/cookbook.md, as it stands there: its SQL runs, and each
# table it makes equals the batch query over the same records.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(map { $_ => 2 } qw(clicks payments orders readings requests));
my $node = new_node('cookbook', 'max_worker_processes = 64', "timezone = 'UTC'");
my $rng = seeded_random();

sub one_of { return $_[ $rng->(scalar @_) ]; }
sub sql { return $node->safe_psql('postgres', $_[0]); }

# --- the book: [ heading, SQL block... ]...
my @recipes;
my $block;
for my $line (split /\n/, slurp_file("$ENV{TESTDIR}/doc/cookbook.md"))
{
	if (defined $block)
	{
		if ($line eq '```') { push @{ $recipes[-1] }, $block; $block = undef; }
		else { $block .= "$line\n"; }
	}
	elsif ($line =~ /^## (.*)/) { push @recipes, [$1]; }
	elsif ($line eq '```sql') { $block = ''; }
}

# --- records in the form that the book shows, an hour and a half of them, out of
# order by less than a minute; some payments are sent again, as they are
sub at
{
	my $second = shift;
	return sprintf '"2026-01-05T%02d:%02d:%02dZ"', 9 + $second / 3600, $second / 60 % 60, $second % 60;
}
my $payment = 0;
my (@sent_last, $sent_again);
my %record = (
	clicks => sub { sprintf '{"ts": %s, "user_id": %s, "page": "%s", "event": "%s", "amount": %s}', at($_[0]), one_of('null', 1 .. 9),
		one_of('/', '/tea', '/cake', '/cart'), one_of('view', 'view', 'view', 'cart', 'buy'), one_of('null', '19.90', '5', '120.00') },
	payments => sub { sprintf '{"id": "p-%d", "paid_at": %s, "card": "c-%d", "merchant": "%s", "amount": %d.%02d, "status": "%s"}', ++$payment,
		at($_[0]), $rng->(8) * $rng->(3), one_of('kiosk', 'bakery'), $rng->(90), $rng->(100), one_of('ok', 'ok', 'ok', 'refused') },
	orders => sub { sprintf '{"at": %s, "customer": %d, "sku": "%s", "quantity": %d}', at($_[0]), 1 + $rng->(4), one_of('tea', 'cake', 'gone'), 1 + $rng->(5) },
	readings => sub { sprintf '{"device": "d-%d", "time": %d, "temperature": %d.%d}', 1 + $rng->(4), 1767603600000 + 1000 * $_[0], $rng->(30), $rng->(10) },
	requests => sub { sprintf '{"at": %s, "service": "%s", "status": %d, "ms": %d.%d}', at($_[0]), one_of('login', 'search', 'pay'),
		one_of(200, 200, 200, 404, 500), $rng->(300), $rng->(10) });

# Every sixth payment a second time, a little later, and the last ones in front of
# the next.
sub send_again
{
	my @once = @_;
	my @sent = @sent_last;
	for my $n (0 .. $#once)
	{
		push @sent, $once[$n];
		push @sent, [ $rng->(2), '', $once[ $n - $rng->(5) ][2] ] if $n >= 5 && $rng->(6) == 0;
	}
	$sent_again += @sent - @once;
	@sent_last = @once[ -2, -1 ];
	return @sent;
}

sub produce
{
	my ($from, $to) = @_;
	for my $topic (sort keys %record)
	{
		my @records;
		for my $n (1 .. 300)
		{
			my $second = $from + int($n * ($to - $from) / 300) + $rng->(50);
			push @records, [ $rng->(2), '', $record{$topic}->($second) ];
		}
		@records = send_again(@records) if $topic eq 'payments';
		$broker->produce($topic, @records);
	}
	return;
}

# --- the book is run, in two halves of the records with a restart between them
my %before = map { $_ => 1 } split /\n/, sql('SELECT stream FROM stream_agg.streams');
my %queries;
produce(0, 2700);
my $brokers = $broker->brokers;
sub runs
{
	my ($heading, $text) = @_;
	$text =~ s/brokers => 'broker:9092'/brokers => '$brokers', options => '{"fetch.wait.max.ms": 20}'/g;
	my ($status, $out, $err) = $node->psql('postgres', $text, on_error_stop => 1);
	return is($status, 0, "$heading: the SQL runs") || diag($text, $err);
}
# these two change what others have, and run at the end
my %at_end = map { $_->[0] => $_->[1] } grep { $_->[0] =~ /^(Two streams through a topic|A watermark that is ahead)$/ } @recipes;
@recipes = grep { !$at_end{ $_->[0] } } @recipes;
is(scalar keys %at_end, 2, 'the last two recipes are there');
for my $recipe (@recipes)
{
	my ($heading, @blocks) = @$recipe;

	for my $text (@blocks)
	{
		if ($text =~ /\ASELECT (?!stream_agg)/) { push @{ $queries{$heading} }, $text; next; }
		runs($heading, $text);
	}
	my @streams = grep { !$before{$_}++ } split /\n/, sql('SELECT stream FROM stream_agg.streams ORDER BY stream');
	$recipe->[0] = { heading => $heading, streams => \@streams };
}
my @streams = map { @{ $_->[0]{streams} } } @recipes;
process($node, $_) for @streams;
# they start when all is there: a part of it could make the others late
$node->stop;
produce(2700, 5400);
$node->start;
process($node, $_) for @streams;

my $rest = @recipes - 1;
cmp_ok($rest, '>=', 14, "the book has $rest recipes");
for my $recipe (map { $_->[0] } @recipes)
{
	for my $stream (@{ $recipe->{streams} })
	{
		# in mode append, what the watermark has passed
		my ($mode, $watermark) = split /\|/, sql("SELECT s.output_mode, p.watermark FROM stream_agg.streams s JOIN pg_stat_stream_agg p USING (stream) WHERE stream = '$stream'");
		my $sink = sql("SELECT sink FROM stream_agg.streams WHERE stream = '$stream'");
		my $end = { spending => 'window_end', latency_percentiles => "minute + interval '1 minute'", sessions => 'upper(visit)', spending_days => "window_start + interval '1 day'" }->{$stream};
		my $where = $mode ne 'append' ? 'true' : defined $end ? "$end <= '$watermark'" : 'true';
		my $batch = sql("SELECT COALESCE(to_regclass('${stream}_batch'), to_regclass('${stream}_query'))");
		is_equal_tables($node, "SELECT * FROM $sink", "SELECT * FROM $batch q WHERE $where", "$recipe->{heading}: $stream equals the batch query");
		is(sql("SELECT COALESCE(sum(late), 0) FROM stream_agg.commits WHERE stream = '$stream'"), 0, 'no record was late');
		cmp_ok(sql("SELECT count(*) FROM $sink"), '>', 0, 'and it has rows') if $stream ne 'spending_days';
	}
	cmp_ok(scalar(split /\n/, sql($_)), '>', 0, "$recipe->{heading}: a query gives rows") for @{ $queries{ $recipe->{heading} } };
}

# --- what two recipes say of their queries
cmp_ok($sent_again, '>', 50, "$sent_again payments came again");
is(sql($queries{'Payments that come twice'}[0]), join('|', $payment, $sent_again, 0), 'each is once in the table, and the others are counted');
my ($archive) = @{ $queries{'An archive and its aggregates'} };
is(sql($archive), '600|600|600', 'an archive and its aggregates have the same records');
is(sql(q{SELECT count(*), count(DISTINCT read_by) FROM pg_stat_stream_agg WHERE reader = 'clicks'}), '3|1', 'which one worker has read');


# --- the last two recipes
$broker->create_topic('minutes', 2);
runs($_, $at_end{$_}) for 'Two streams through a topic';
process($node, 'minutes_to_kafka');
produce(5360, 5400); # groups whose result has been produced get another one
process($node, $_) for qw(minutes_to_kafka merchant_totals);
is_equal_tables($node, 'SELECT minute, merchant, total FROM merchant_totals',
	q{SELECT date_trunc('minute', paid_at), merchant, sum(amount) FROM payments GROUP BY 1, 2},
	'two streams through a topic: the second one has the results of the first');

sql(q{SELECT stream_agg.stop_stream('spending')});
sql(q{DELETE FROM spending WHERE window_start IN (SELECT window_start FROM spending LIMIT 1)});
sql(q{SELECT stream_agg.start_stream('spending')});
runs($_, $at_end{$_}) for 'A watermark that is ahead';
process($node, 'spending');
my $watermark = watermark($node, 'spending');
is_equal_tables($node, 'SELECT * FROM spending', "SELECT * FROM spending_query WHERE window_end <= '$watermark'",
	'a watermark that is ahead: the results are computed again');

done_testing();
