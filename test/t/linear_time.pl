# What a producer chooses - the times of records, their order, their keys - does
# not make a micro-batch quadratic: twice the records cost about twice the
# processor time of the worker, for windows, sessions, panes and keys chosen
# so that a hash table without a secret would have them all in one place.
#
# LINEAR_RECORDS is the least number of records; it is doubled twice.  Processor
# time depends little on what else the machine does; what grows too fast is
# measured again, and the least of all measurements counts.  LINEAR_RATIO is the
# most that twice the records may cost: 2.3 holds on a quiet machine, where the
# smallest sizes do not fit into the processor's cache better than the others; a
# quadratic micro-batch has 4.

use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Utils;
use StreamAgg::HostileBroker;
use StreamAgg::Test;
use Test::More;

my $least = $ENV{LINEAR_RECORDS} // 20_000;
my @sizes = map { $_ * $least } 1, 2, 4;
my $ratio = $ENV{LINEAR_RATIO} // 2.7;
my $tries = 5;

# the embedded broker keeps 5 MiB of a partition, and texts are long
my $text_partitions = 8;
my %long = (texts => 1, parts => 1);
my @sources = qw(spread numbers texts parts ends left killer late);
my @topics = map { my $n = $_; map { ("${_}_$n" => $long{$_} ? $text_partitions : 1) } @sources } @sizes;
my $broker = start_broker(@topics);
my $node = new_node('linear', 'timezone = UTC', 'fsync = off');
my $start = 1767225600;    # seconds since 1970

sub sql { return $node->safe_psql('postgres', $_[0]); }

# ---------- keys that have one hash without a seed ----------

# Arithmetic modulo 2^64; shifts are logical.
sub times64 { use integer; return $_[0] * $_[1]; }
sub shift64 { my ($x, $n) = @_; return ($x >> $n) & (~0 >> $n); }

sub inverse64
{
	my $x = shift;
	my $inverse = $x;
	$inverse = times64($inverse, do { use integer; 2 - $x * $inverse }) for 1 .. 6;
	return $inverse;
}

# Integers whose MurmurHash-like hash without a seed has the same upper half.
sub colliding_numbers
{
	my $n = shift;
	my $m = do { no warnings 'portable'; 0xff51afd7ed558ccd };
	my $last = do { no warnings 'portable'; 0xc4ceb9fe1a85ec53 };
	my $golden = do { no warnings 'portable'; 0x9e3779b97f4a7c15 };
	my ($mi, $li) = (inverse64($m), inverse64($last));
	my $first = times64($golden, $m);
	$first ^= shift64($first, 33);
	return map {
		my $h = times64((0x12345678 << 32) | $_, $li);
		$h ^= shift64($h, 33);
		sprintf '%d', do { use integer; (times64($h, $mi) ^ $first) + 0 };
	} 1 .. $n;
}

sub rot { my ($x, $k) = @_; return (($x << $k) | ($x >> (32 - $k))) & 0xffffffff; }

# One step of hash_bytes: the state after twelve bytes more.
sub step
{
	my ($state, $words) = @_;
	my ($a, $b, $c) = map { ($state->[$_] + $words->[$_]) & 0xffffffff } 0 .. 2;
	for my $k ([ 4, 6, 8 ], [ 16, 19, 4 ])
	{
		$a = (($a - $c) & 0xffffffff) ^ rot($c, $k->[0]); $c = ($c + $b) & 0xffffffff;
		$b = (($b - $a) & 0xffffffff) ^ rot($a, $k->[1]); $a = ($a + $c) & 0xffffffff;
		$c = (($c - $b) & 0xffffffff) ^ rot($b, $k->[2]); $b = ($b + $a) & 0xffffffff;
	}
	return [ $a, $b, $c ];
}

# A word and the same word with "difference" added, both of letters and digits.
sub two_words
{
	my $difference = shift;
	my ($one, $two, $carry) = ('', '', 0);
	for my $byte (unpack 'C4', pack 'V', $difference)
	{
		my ($x) = grep { chr($_) =~ /[0-9A-Za-z]/ && chr(($_ + $byte + $carry) & 255) =~ /[0-9A-Za-z]/ } 48 .. 122;
		return unless defined $x;
		my $sum = $x + $byte + $carry;
		$one .= chr $x;
		$two .= chr($sum & 255);
		$carry = $sum >> 8;
	}
	return ($one, $two);
}

# Texts of one length that hash_bytes without a seed cannot tell apart: n times one
# of two pairs of blocks, of which the second block undoes what the first one does.
sub colliding_texts
{
	my $n = shift;
	my $rng = seeded_random();
	my $bits = 1;
	$bits++ while 2**$bits < $n;
	my $state = [ ((0x9e3779b9 + 24 * $bits + 3923095) & 0xffffffff) x 3 ];
	my @choices;
	while (@choices < $bits)
	{
		my ($one, $two) = map { join '', map { ('a' .. 'z', 0 .. 9)[ $rng->(36) ] } 1 .. 12 } 1 .. 2;
		my ($s1, $s2) = map { step($state, [ unpack 'V3', $_ ]) } $one, $two;
		my @ends = ('', '');
		for my $i (0 .. 2)
		{
			my @words = two_words(($s1->[$i] - $s2->[$i]) & 0xffffffff) or last;
			$ends[$_] .= $words[$_] for 0, 1;
		}
		next if length $ends[0] < 12 || $one eq $two;
		push @choices, [ $one . $ends[0], $two . $ends[1] ];
		$state = step($s1, [ unpack 'V3', $ends[0] ]);
	}
	return map { my $i = $_; join '', map { $choices[$_][ ($i >> $_) & 1 ] } 0 .. $bits - 1 } 0 .. $n - 1;
}

# A jsonb array of the number's bits, each twice: the bit where hash functions rotate
# by i, its complement where they have rotated once around.
sub colliding_jsonb
{
	my $bits = reverse sprintf '%032b', $_[0];
	return '[' . join(',', split //, $bits . ($bits =~ tr/01/10/r)) . ']';
}

# Microseconds whose upper half undoes the lower one.
sub colliding_interval { my $half = $_[0]; return (($half << 32) | $half) . ' microseconds'; }

# ---------- records ----------

my @all_numbers = colliding_numbers($sizes[-1]);
my @all_texts = colliding_texts($sizes[-1]);
for my $n (@sizes)
{
	my @numbers = @all_numbers[ 0 .. $n - 1 ];
	my @texts = @all_texts[ 0 .. $n - 1 ];
	my $half = $n / 2;

	# a minute each, in no order
	$broker->produce("spread_$n", map { my $i = $_ * 7919 % $n; sprintf '{"k":%d,"ts":%d}', $i, $start + 60 * $i } 1 .. $n);
	$broker->produce("numbers_$n", map { sprintf '{"k":%s,"ts":%d}', $_, $start } @numbers);
	$broker->produce("texts_$n", map { [ $_ % $text_partitions, '', sprintf('{"t":"%s","ts":%d}', $texts[$_], $start) ] } 0 .. $#texts);
	$broker->produce("parts_$n", map { [ $_ % $text_partitions, '', sprintf('{"a":"[%d:%d]={1}","j":%s,"i":"%s","ts":%d}',
		$_, $_, colliding_jsonb($_), colliding_interval($_), $start) ] } 0 .. $n - 1);
	my @killer = quicksort_killer($n);
	$broker->produce("killer_$n", map { sprintf '{"k":%d,"ts":%d}', $killer[$_], $start + $_ } 0 .. $n - 1);
	# minutes of keys of their own, then keys that come at both ends of the time
	$broker->produce("ends_$n", map { sprintf '{"k":%d,"ts":%d}', -$_, $start + 60 * $_ } 1 .. $half);
	# one session that grows to the left, each time by one of a single record
	my $x = $start + 60 * $n;
	$broker->produce("left_$n", map { sprintf '{"k":%d,"ts":%d}', $_, $x - ($_ % 2 ? 9 * ($_ + 1) : $_ ? 9 * ($_ - 1) : 0) } 0 .. $n - 1);
	$broker->produce("late_$n", sprintf('{"k":0,"ts":%d}', $start + 3650 * 86400));
	create_source($node, $broker, "${_}_$n", "${_}_$n", q{ts timestamptz OPTIONS (unit 's'), k bigint, t text, a text, j jsonb, i text})
	  for @sources;
}

# ---------- measurements ----------

my $ticks = POSIX::sysconf(POSIX::_SC_CLK_TCK());

# Seconds that a process has used the processor.
sub cpu
{
	my @fields = split ' ', (slurp_file("/proc/$_[0]/stat") =~ s/.*\) //sr);
	return ($fields[11] + $fields[12]) / $ticks;
}

sub create
{
	my ($case, $n) = @_;
	my $more = join '', map { ", $_ => '$case->{$_}'" } grep { exists $case->{$_} } qw(output_mode watermark event_time);
	# times go on for years
	my @options = ($case->{options} // (), $case->{watermark} ? '"max_future": null' : ());
	$more .= ", options => '{" . join(', ', @options) . "}'" if @options;
	sql(sprintf q{SELECT stream_agg.create_stream('s', $q$%s$q$, trigger => '20 days'%s)}, $case->{query} =~ s/\$n/$n/gr, $more);
	return worker_pid($node, 's');
}

# The most memory a process has had, in kB.
sub memory { my ($kb) = slurp_file("/proc/$_[0]/status") =~ /VmHWM:\s+(\d+)/; return $kb; }

# The processor time of one case with n records: all that its worker has used.
sub measure
{
	my ($case, $n) = @_;
	my $pid = create($case, $n);
	process($node, 's');
	if ($case->{then})
	{
		$broker->produce("$case->{topic}_$n", $case->{then}->($n));
		process($node, 's');
	}
	# a micro-batch may end before the last record
	my $delivered = 0;
	my $records = $case->{records} // $n;
	for (1 .. 100)
	{
		$delivered = sql(q{SELECT total_delivered FROM stream_agg.commits WHERE stream = 's' ORDER BY batch DESC LIMIT 1});
		last if $delivered >= $records;
		process($node, 's');
	}
	die "$case->{name}: $delivered of $records records" if $delivered < $records;
	my $used = cpu($pid);
	is(sql(q{SELECT sum(cardinality(windows)) FROM stream_agg.late_records}), $n, "$case->{name}: all of them are kept, $n") if $case->{late};
	if ($case->{memory})
	{
		is(sql('SELECT max(n) FROM s'), $n - 1, "$case->{name}: all records but the last are in one session");
		cmp_ok(memory($pid), '<', $case->{memory}, "M4: $case->{name}: memory of the worker, $n records");
	}
	if ($case->{restore})
	{
		$used = sql(q{
			CREATE TEMP TABLE used AS SELECT split_part(pg_read_file('/proc/self/stat'), ' ', 14)::int AS ticks;
			DO $$ BEGIN PERFORM count(*) FROM stream_agg.open_windows(NULL::s); END $$;
			SELECT split_part(pg_read_file('/proc/self/stat'), ' ', 14)::int - ticks FROM used}) / $ticks;
	}
	sql(q{SELECT stream_agg.drop_stream('s', true)});
	return $used;
}

sub grows_linearly
{
	my $case = shift;
	my @used;
	my $worst;
	for my $try (1 .. $tries)
	{
		for my $i (0 .. $#sizes)
		{
			my $used = measure($case, $sizes[$i]);
			$used[$i] = $used if !defined $used[$i] || $used < $used[$i];
		}
		# a few ticks more or less say nothing; two doublings, each by the mean of both
		$worst = sqrt($used[2] / ($used[0] > 0.1 ? $used[0] : 0.1));
		last if $worst <= $ratio;
	}
	diag(sprintf 'figures: %s: %s s for %s records', $case->{name}, join('/', map { sprintf '%.2f', $_ } @used), join('/', @sizes));
	cmp_ok($worst, '<=', $ratio, "M4: $case->{name}: twice the records, at most $ratio times the time");
	return;
}

my $last = sub { my $n = shift; return sprintf '{"k":0,"ts":%d}', $start + 60 * $n + 12 * 365 * 86400; };

# LINEAR_CASE is a pattern of the names of those to be measured
grows_linearly($_) for grep { $_->{name} =~ ($ENV{LINEAR_CASE} // '') } (
	{ name => 'windows of one group each', query => q{SELECT stream_agg.tumble(ts, '1 minute') AS w, count(*) AS n FROM spread_$n GROUP BY 1},
		output_mode => 'update' },
	{ name => 'sessions of one key', query => q{SELECT stream_agg.session(ts, '10 seconds') AS w, count(*) AS n FROM spread_$n GROUP BY 1},
		output_mode => 'update' },
	{ name => 'sessions that grow to the left, in order', topic => 'left', memory => 400_000, output_mode => 'update',
		query => q{SELECT stream_agg.session(ts, '10 seconds') AS w, cardinality(array_agg(k)) AS n FROM left_$n GROUP BY 1} },
	{ name => 'sessions that grow to the left, as a set', topic => 'left', memory => 400_000, output_mode => 'update',
		query => q{SELECT stream_agg.session(ts, '10 seconds') AS w, count(DISTINCT k) AS n FROM left_$n GROUP BY 1} },
	{ name => 'colliding numbers', query => q{SELECT k, count(*) AS n FROM numbers_$n GROUP BY k}, output_mode => 'update' },
	{ name => 'colliding texts', query => q{SELECT t, count(*) AS n FROM texts_$n GROUP BY t}, output_mode => 'update' },
	{ name => 'colliding texts in a set', query => q{SELECT count(DISTINCT t) AS n FROM texts_$n}, output_mode => 'update' },
	{ name => 'colliding arrays', query => q{SELECT a::int[] AS a, count(*) AS n FROM parts_$n GROUP BY 1}, output_mode => 'update' },
	{ name => 'colliding jsonb', query => q{SELECT j, count(*) AS n FROM parts_$n GROUP BY 1}, output_mode => 'update' },
	{ name => 'colliding intervals', query => q{SELECT i::interval AS i, count(*) AS n FROM parts_$n GROUP BY 1}, output_mode => 'update' },
	{ name => 'an order that makes quicksort slow, ORDER BY', query => q{SELECT cardinality(array_agg(k ORDER BY k)) AS n FROM killer_$n}, output_mode => 'update' },
	{ name => 'an order that makes quicksort slow, WITHIN GROUP', query => q{SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY k) AS n FROM killer_$n},
		output_mode => 'update' },
	{ name => 'panes', query => q{SELECT stream_agg.hop(ts, '5 minutes', '10 minutes') AS w, count(*) AS n FROM spread_$n GROUP BY 1},
		output_mode => 'update' },
	{ name => 'DISTINCT ON, times far from each other', query => q{SELECT DISTINCT ON (k) k, ts FROM spread_$n}, event_time => 'ts', watermark => '1 minute' },
	{ name => 'DISTINCT ON, colliding numbers', query => q{SELECT DISTINCT ON (k) k, ts FROM numbers_$n}, event_time => 'ts', watermark => '1 minute' },
	{ name => 'panes between the ends of keys', topic => 'ends',
		then => sub { my $n = shift; return map { my $i = $_; map { sprintf '{"k":%d,"ts":%d}', $i, $_ } $start, $start + 60 * $n } 1 .. $n / 4; },
		query => q{SELECT stream_agg.hop(ts, '5 minutes', '10 minutes') AS w, k, count(*) AS n FROM ends_$n GROUP BY 1, 2}, output_mode => 'update' },
	{ name => 'windows that close at once', topic => 'spread', then => $last, watermark => '4000 days',
		query => q{SELECT stream_agg.tumble(ts, '1 minute') AS w, count(*) AS n FROM spread_$n GROUP BY 1}, output_mode => 'append' },
	{ name => 'sessions that close at once', topic => 'spread', then => $last, watermark => '4000 days',
		query => q{SELECT stream_agg.session(ts, '10 seconds') AS w, count(*) AS n FROM spread_$n GROUP BY 1}, output_mode => 'append' },
	{ name => 'sliding windows of a late record', topic => 'late', late => 1, records => 2, then => sub { return sprintf '{"k":0,"ts":%d}', $start; },
		query => q{SELECT stream_agg.hop(ts, '1 second', '$n seconds') AS w, count(*) AS n FROM late_$n GROUP BY 1}, output_mode => 'append',
		watermark => '0 seconds', options => '"late_records": true' },
	{ name => 'windows of the rows that a join makes of a late record', topic => 'late', late => 1, records => 2,
		then => sub { return sprintf '{"k":0,"ts":%d}', $start; },
		query => q{SELECT stream_agg.tumble(t, '1 second') AS w, count(*) AS n FROM (SELECT ts - (step * 7919 % $n) * interval '1 second' AS t
			FROM late_$n, generate_series(1, $n) AS steps (step)) AS x GROUP BY 1}, output_mode => 'append', watermark => '0 seconds', options => '"late_records": true' },
	{ name => 'sessions of one key, restored', restore => 1, query => q{SELECT stream_agg.session(ts, '10 seconds') AS w, count(*) AS n FROM spread_$n GROUP BY 1},
		output_mode => 'update' });

# Of one record, the columns of a source that reads it do not multiply the time: not
# by members that nobody wants, not even in another case, nor by members that come again and again.
{
	my $hostile = StreamAgg::HostileBroker->new;
	my @columns = map { $_ * ($ENV{LINEAR_COLUMNS} // 100) } 1, 2, 4;
	my %record = (
		others => [ 'json', '{' . '"x":0,' x 400_000 . '"c0":1}' ],
		cases => [ 'json', '{' . '"CX":0,"CXX":0,"CXXX":0,' x 150_000 . '"c0":1}' ],
		repeated => [ 'debezium', '{"op":"c",' . '"after":{"c0":1},' x 150_000 . '"after":{"c0":1}}' ],
		elements => [ 'json', '{"a":[' . '0,' x 1_000_000 . '0],"c0":1}' ]);
	sql(q{CREATE SERVER hostile FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers '} . $hostile->brokers . q{', "fetch.wait.max.ms" '20')});
	for my $kind (sort keys %record)
	{
		next if "columns: $kind" !~ ($ENV{LINEAR_CASE} // '');
		my ($format, $text) = $record{$kind}->@*;
		$hostile->add_topic($kind, [ { base => 0, values => [$text], codec => 1 } ]);
		my @used;
		for my $n (@columns)
		{
			my $columns = join ', ', map { "c$_ int" . ($kind eq 'elements' && $_ ? " OPTIONS (path '{a,$_}')" : '') } 0 .. $n - 1;
			sql(qq{SELECT stream_agg.create_source('${kind}_$n', topic => '$kind', server => 'hostile', format => '$format', columns => \$c\$$columns\$c\$)});
			my $count = 'SELECT count(coalesce(' . join(', ', map { "c$_" } 0 .. $n - 1) . ")) FROM ${kind}_$n";
			my ($result, $ticks_used) = split /\n/, sql(qq{
				CREATE TEMP TABLE used AS SELECT split_part(pg_read_file('/proc/self/stat'), ' ', 14)::int AS ticks;
				$count;
				DO \$\$ BEGIN FOR i IN 1 .. 9 LOOP PERFORM * FROM ($count) x; END LOOP; END \$\$;
				SELECT split_part(pg_read_file('/proc/self/stat'), ' ', 14)::int - ticks FROM used});
			is($result, 1, "columns: $kind: the record is read by $n columns");
			push @used, $ticks_used / $ticks;
		}
		my $growth = sqrt($used[2] / ($used[0] > 0.1 ? $used[0] : 0.1));
		diag(sprintf 'figures: columns: %s: %s s for %s columns', $kind, join('/', map { sprintf '%.2f', $_ } @used), join('/', @columns));
		cmp_ok($growth, '<=', 1.6, "M4: columns: $kind: twice the columns, about the same time");
	}
}

done_testing();
