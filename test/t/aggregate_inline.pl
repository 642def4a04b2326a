# Aggregates with an inlined transition yield what PostgreSQL's own yield, to
# the last digit and the display scale: random and adversarial values, NULLs,
# every mix of them across micro-batches of 1, 7 and 1000 records and across
# restarts. The oracle is the batch query, compared as text.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker('values' => 1);
my $node = new_node('inline_aggregates');
my $rng = seeded_random();

# sums of floats, and which of equal numerics is the greatest, depend on the
# order of their input: that of the topic, unless the batch query sorts
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET enable_sort = off');

my $columns = 'ts timestamptz, k int, i2 smallint, i4 int, i8 bigint,
	f4 real, f8 double precision, n numeric, d date, t timestamp, z timestamptz';
create_source($node, $broker, 'values', 'values', $columns);

sub pick { return $_[ $rng->(scalar @_) ]; }

# a decimal number of up to so many digits before and behind the point
sub decimal
{
	my ($whole, $scale) = @_;
	my $text = join('', map { $rng->(10) } 1 .. 1 + $rng->($whole));
	$text =~ s/^0+(?=\d)//;
	my $places = $rng->($scale + 1);
	$text .= '.' . join('', map { $rng->(10) } 1 .. $places) if $places > 0;
	return ($rng->(2) ? '-' : '') . $text;
}

# what a group's numerics are like decides which way its sums go
my @numerics = (
	sub { decimal(3, 2) },                                # money
	sub { pick('1', '1.0', '1.00', '-1.000', '0.0', '0') },  # scales of equal values
	sub { decimal(20, 12) },                              # many digits
	sub { pick(decimal(3, 2), '9' x 38, '-' . '9' x 38, '1' . '0' x 37) },   # about 128 bits
	sub { pick(decimal(3, 2), 'NaN', 'Infinity', '-Infinity') },
	sub { pick(decimal(3, 2), '1e60', '-1e60', '1e-60', decimal(60, 50)) },  # never fits
	sub { pick(decimal(2, 1), '0.' . '0' x 37 . '1', '12345678901234567890123456789012345678') },
	sub { undef });

my @int2 = (-32768, 32767, 0, -1, 1);
my @int4 = ('-2147483648', '2147483647', 0, -1, 1);
my @int8 = ('-9223372036854775808', '9223372036854775807', 0, -1, 1);
my @float4 = ('0', '-0.0', '1e-30', '1e36', '-1e36', 'NaN', '0.1');
my @float8 = ('0', '-0.0', '1e-300', '1e150', '-1e150', '0.1', '1e16', '-1e16', '1');

my @records;
for my $n (0 .. 2099)
{
	my $k = $rng->(scalar @numerics);
	my $time = sprintf('2026-01-01T%02d:%02d:00Z', ($n / 600) % 24, ($n / 10) % 60);
	my %record = (
		ts => $time,
		padding => 'x' x 600,
		k => $k,
		i2 => pick(undef, $rng->(65536) - 32768, pick(@int2)),
		i4 => pick(undef, $rng->(32768) * 65536 + $rng->(65536) - 1073741824, pick(@int4)),
		i8 => pick(undef, decimal(17, 0), pick(@int8)),
		f4 => pick(undef, decimal(4, 5), $k == 1 ? pick(@float4) : decimal(2, 2)),
		f8 => pick(undef, decimal(8, 9), $k == 2 ? pick('NaN', 'Infinity', '-Infinity', '1') : pick(@float8)),
		n => $rng->(8) == 0 ? undef : $numerics[$k]->(),
		d => pick(undef, sprintf('20%02d-%02d-%02d', $rng->(100), 1 + $rng->(12), 1 + $rng->(28)), 'infinity', '-infinity'),
		t => pick(undef, sprintf('20%02d-01-01 00:00:%02d', $rng->(100), $rng->(60)), 'infinity', '-infinity'),
		z => pick(undef, sprintf('20%02d-01-01 00:00:%02d+00', $rng->(100), $rng->(60)), 'infinity', '-infinity'));
	push @records, json_record(\%record, numbers => [qw(k i2)]);
}

my @select;
for my $column (qw(i2 i4 i8 f4 f8 n))
{
	push @select, "$_($column) AS ${_}_$column" for (qw(count sum avg min max));
}
for my $column (qw(d t z))
{
	push @select, "$_($column) AS ${_}_$column" for (qw(count min max));
}
push @select, 'count(*) AS n_all', 'sum(n) FILTER (WHERE i2 > 0) AS filtered',
  'avg(i4) FILTER (WHERE i4 > 0) AS filtered_avg', 'stddev(n) AS deviation', 'variance(i8) AS var8';
my $list = join(', ', @select);

# every cell as text: 1.0 and 1.00 differ, and so do 0 and -0
sub as_text
{
	my ($from) = @_;
	return "SELECT k, win, key, value FROM (SELECT win, k, to_jsonb(r) - 'win' - 'k' AS cells FROM ($from) r) j, "
	  . 'jsonb_each_text(cells) AS each(key, value)';
}

sub query
{
	my ($source, $minutes) = @_;
	return "SELECT stream_agg.tumble(ts, '$minutes minutes') AS win, k, $list FROM $source GROUP BY 1, 2";
}

$broker->produce('values', @records);
for my $size (1, 7, 1000, undef)
{
	# the last batch holds all records, part of them in a temporary file
	if (!defined $size)
	{
		$node->append_conf('postgresql.conf', 'stream_agg.batch_memory = 1MB');
		$node->reload;
	}
	my $stream = 'inline_' . ($size // 'all');
	my $bound = defined $size ? ", max_offsets_per_trigger => $size" : '';
	my $query = query('values', 120);

	$node->safe_psql('postgres',
		"SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, output_mode => 'update',
			watermark => '1 day', trigger => '20 days'$bound)");
	process($node, $stream);
	is_equal_tables($node, as_text("SELECT * FROM $stream"), as_text($query),
		"$stream: every aggregate is what PostgreSQL's is");
	counts_add_up($node, $stream, scalar @records, "$stream counts every record once");
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$stream', drop_sink => true)");
}

# states come back from the log between any two batches
$broker->create_topic('restarts', 1);
create_source($node, $broker, 'restarts', 'restarts', $columns);
my $query = query('restarts', 1440);
$node->safe_psql('postgres',
	"SELECT stream_agg.create_stream('restarted', \$q\$$query\$q\$, output_mode => 'update',
		watermark => '1 day', trigger => '20 days')");
for (my $i = 0; $i < @records; $i += 150)
{
	my $last = $i + 150 > @records ? $#records : $i + 149;
	$broker->produce('restarts', @records[ $i .. $last ]);
	process($node, 'restarted');
	$node->restart;
}
is_equal_tables($node, as_text('SELECT * FROM restarted'), as_text($query),
	'every aggregate is what it is without restarts');

# what overflows raises what PostgreSQL raises
my %overflow = (
	'sum(f8)' => [ 'f8', '1.5e308', 'value out of range: overflow' ],
	'sum(f4)' => [ 'f4', '3e38', 'value out of range: overflow' ],
	'sum(n)' => [ 'n', '9' . '0' x 131071, 'value overflows numeric format' ]);
for my $aggregate (sort keys %overflow)
{
	my ($column, $value, $error) = @{ $overflow{$aggregate} };
	my $topic = "overflow_$column";

	$broker->create_topic($topic, 1);
	create_source($node, $broker, $topic, $topic, $columns);
	$broker->produce($topic,
		(json_record({ ts => '2026-01-01T00:00:00Z', $column => $value })) x 2);
	my (undef, undef, $stderr) =
	  $node->psql('postgres', "SELECT $aggregate FROM $topic");
	like($stderr, qr/\Q$error\E/, "$aggregate overflows in a batch");
	$node->safe_psql('postgres',
		"SELECT stream_agg.create_stream('${topic}_stream', 'SELECT k, $aggregate FROM $topic GROUP BY k',
			output_mode => 'update', trigger => '20 days')");
	(undef, undef, $stderr) = $node->psql('postgres',
		"SELECT * FROM stream_agg.process_available('${topic}_stream', '2 minutes')");
	like($stderr, qr/\Q$error\E/, "$aggregate overflows in a stream");
}

# bigint's sum is numeric and knows no overflow; int's sum is bigint
is($node->safe_psql('postgres', "SELECT pg_typeof(sum_i8), pg_typeof(sum_i4) FROM restarted LIMIT 1"),
	'numeric|bigint', 'results have the types of the originals');

done_testing();
