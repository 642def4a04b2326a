# DISTINCT ON within the watermark: every stream equals the executable model, batch
# by batch, late records included, for batches of every size, over restarts and
# crashes.  Spark's documented cases are in test/pgtap/spark_deduplication.sql.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(none => 1);
my $node = new_node('dedup', 'restart_after_crash = on', 'stream_agg.keep_batches = 1000000');
my $rng = seeded_random();

sub pick { return $_[ $rng->(scalar @_) ]; }

# The first record of a key is the first in the order of arrival, whatever order the
# join has that IN or EXISTS in WHERE becomes.
$broker->create_topic('arrival', 1);
create_source($node, $broker, 'arrival', 'arrival', "ts timestamptz, k text, v int, off bigint OPTIONS (metadata 'offset')");
$broker->produce('arrival', map { my $v = 100 - $_; my $k = $_ % 5; qq({"k":"$k","v":$v,"ts":"2026-01-01T00:00:00Z"}) } 0 .. 99);
$node->safe_psql('postgres', 'CREATE TABLE wanted AS SELECT v FROM generate_series(1, 100) v');
for my $way ('enable_hashjoin', 'enable_mergejoin', 'enable_nestloop')
{
	$node->safe_psql('postgres', "ALTER DATABASE postgres SET $_ = " . ($_ eq $way ? 'on' : 'off'))
	  for 'enable_hashjoin', 'enable_mergejoin', 'enable_nestloop';
	for my $where ('v IN (SELECT v FROM wanted)', 'EXISTS (SELECT FROM wanted w WHERE w.v = arrival.v)')
	{
		$node->safe_psql('postgres', "SELECT stream_agg.create_stream('arrived', \$q\$ SELECT DISTINCT ON (k) k, off FROM arrival WHERE $where \$q\$,
			event_time => 'ts', watermark => '1 hour', trigger => '20 days')");
		process($node, 'arrived');
		is($node->safe_psql('postgres', q{SELECT string_agg(k || off, ' ' ORDER BY k) FROM arrived}), '00 11 22 33 44',
			"$way, $where: the first of a key is the one that came first");
		$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('arrived', drop_sink => true)");
	}
}
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET ALL');

# How keys are written, and in which form the model compares them.
$node->safe_psql('postgres', q{
	CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE TYPE color AS ENUM ('red', 'green');
	CREATE DOMAIN short AS text CHECK (length(VALUE) < 100)});
my %keys = (
	'k' => 'k',
	'k, name' => 'k, name',
	'lower(name)' => 'lower(name)',
	'name COLLATE ci' => 'lower(name)',
	'price' => 'trim_scale(price)',
	'jsonb_build_object($$p$$, price)' => 'trim_scale(price)',
	'k % 2 = 0, price > 1' => 'k % 2 = 0, price > 1',
	'ARRAY[k, k + 1]' => 'k',
	'CASE WHEN k % 2 = 0 THEN color $$red$$ ELSE $$green$$ END' => 'k % 2 = 0 IS TRUE',
	'name::short' => 'name',
	'int4range(0, abs(k) + 1)' => 'abs(k)',
	'ts' => 'ts');

my ($scenario, $head, $delay, $second) = (0, 0, 0, 1_000_000);

sub random_record
{
	my $kind = $rng->(20);
	my $time = $head + $rng->(2 * $delay + 2 * $second) - $delay - $second;
	$time -= $rng->(20) * $second if $kind == 1;
	$time -= $time % $second if $kind > 1 && $kind < 6;
	$time += $rng->(3) - 1 if $kind == 2;
	$head += $rng->(32768) * 16;
	return [ $rng->(3), '', json_record({
				ts => $kind ? sprintf('2026-01-01T%02d:%02d:%02d.%06dZ', int($time / 3600 / $second),
					int($time / 60 / $second) % 60, int($time / $second) % 60, $time % $second) : undef,
				k => $rng->(10) ? $rng->(40) : undef,
				name => pick('a', 'A', 'b', 'ä', 'Ä', undef, 'x' x 60),
				price => pick('1', '1.0', '1.00', '2.5', '2.50', '0', undef) },
			numbers => [qw(k price)]) ];
}

# What the stream has done, batch by batch, and what it should have.
sub check
{
	my ($stream, $key, $source, $what) = @_;
	my ($input, $model, $error);
	# the topic is read once, not for each batch
	$node->safe_psql('postgres', qq{
		DROP TABLE IF EXISTS topic;
		CREATE TABLE topic AS SELECT * FROM $source;
		CREATE INDEX ON topic (part, off);
		ANALYZE topic});
	# the records of each batch, in the order of partition and offset
	my @records = split /\n/, $node->safe_psql('postgres', qq{
		COPY (SELECT c.batch, (extract(epoch FROM s.ts) * 1000000)::bigint, ROW($key)::text, part || '/' || off
		        FROM stream_agg.offsets c, jsonb_each(ranges) r, topic s
		       WHERE stream = '$stream' AND part = r.key::int AND off >= (r.value ->> 0)::bigint
		         AND off < (r.value ->> 1)::bigint AND k IS DISTINCT FROM 7
		       ORDER BY batch, part, off) TO STDOUT});
	$input = join("\n", @records, '');
	IPC::Run::run([ 'python3', 'model/deduplication_model.py', $delay ], '<', \$input, '>', \$model, '2>', \$error)
	  or die "model: $error";
	my @expected = sort split /\n/, $model;
	s/\t\d+$// for grep { /^commit/ } @expected;
	my @got = sort split /\n/, $node->safe_psql('postgres', qq{
		COPY (SELECT 'row', batch, id FROM $stream) TO STDOUT;
		COPY (SELECT 'commit', batch, aggregated, late, null_time, filtered - (
		             SELECT count(*) FROM jsonb_each(ranges) r, topic s
		              WHERE part = r.key::int AND off >= (r.value ->> 0)::bigint AND off < (r.value ->> 1)::bigint AND k = 7),
		             (extract(epoch FROM c.watermark) * 1000000)::bigint
		        FROM stream_agg.commits c JOIN stream_agg.offsets USING (stream, batch) WHERE stream = '$stream'
		         AND EXISTS (SELECT FROM jsonb_each(ranges) r, topic s
		              WHERE part = r.key::int AND off >= (r.value ->> 0)::bigint AND off < (r.value ->> 1)::bigint
		                AND k IS DISTINCT FROM 7)) TO STDOUT});
	my %in_model = map { $_ => 1 } @expected;
	my %in_sink = map { $_ => 1 } @got;
	my @difference = ((map { "model: $_" } grep { !$in_sink{$_} } @expected),
		(map { "stream: $_" } grep { !$in_model{$_} } @got));
	push @difference, 'as many rows' if @expected != @got;
	return is(join("\n", @difference[ 0 .. ($#difference > 9 ? 9 : $#difference) ]), '',
		"$what: " . scalar(grep { /^row/ } @got) . ' rows of ' . scalar(@records) . ' equal the model');
}

# a crash can be met in the middle of a batch only if that takes its time
$node->safe_psql('postgres', q{
	CREATE FUNCTION slowly(int) RETURNS int STABLE LANGUAGE plpgsql AS $$
	BEGIN PERFORM pg_sleep(0.0005); RETURN $1; END $$});

# the batch a row came with, from a trigger that asks for the plan at hand
$node->safe_psql('postgres', q{
	CREATE FUNCTION note_batch() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		NEW.batch := (SELECT max(batch) FROM stream_agg.offsets WHERE stream = TG_ARGV[0]);
		RETURN NEW;
	END $$});

my ($rows, $late) = (0, 0);
for my $size (1, 7, 1000, undef, 50)
{
	my @streams;
	my $source = 'events' . $scenario++;
	my $crash = defined $size && $size == 50;
	$delay = pick(0, 250_000, $second, 3 * $second, 8 * $second);
	$delay = 3 * $second if $crash;
	$head = 100 * $second;
	$broker->create_topic($source, 3);
	create_source($node, $broker, $source, $source, 'ts timestamptz, k int, name text, price numeric,
		part int OPTIONS (metadata \'partition\'), off bigint OPTIONS (metadata \'offset\')');
	for my $key ($crash ? ('k', 'k, name') : map { pick(sort keys %keys) } 1 .. 3)
	{
		my $stream = "dedup_${source}_" . scalar @streams;
		my $k = $crash ? 'slowly(k)' : 'k';
		my $options = pick('{"watermark_policy": "global"}', '{"watermark_policy": "global", "on_error": "skip"}');
		my $max = $size ? ", max_offsets_per_trigger => $size" : '';
		note("$stream: ($key), delay $delay us, batches of " . ($size // 'any number of') . ", $options");
		$node->safe_psql('postgres', qq{
			CREATE TABLE $stream (id text, k int, batch bigint);
			CREATE TRIGGER note BEFORE INSERT ON $stream FOR EACH ROW EXECUTE FUNCTION note_batch('$stream');
			SELECT stream_agg.create_stream('$stream', \$q\$ SELECT DISTINCT ON ($key) part || '/' || off AS id, $k AS k
				  FROM $source WHERE k IS DISTINCT FROM 7 \$q\$,
				sink => '$stream', event_time => 'ts', watermark => '$delay microseconds', trigger => '0',
				options => '$options', start => false $max)});
		push @streams, [ $stream, $keys{$key} ];
	}
	for my $round (1 .. 4)
	{
		# where it stands before there is anything to do
		my ($victim) = @{ pick(@streams) };
		my $batch = $node->safe_psql('postgres', "SELECT COALESCE(max(batch), -1) FROM stream_agg.commits WHERE stream = '$victim'");
		$broker->produce($source, map { random_record() } 1 .. ($crash ? 400 : ($size // 0) == 1 ? 15 : 30 + $rng->(30)));
		$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$_->[0]')") for @streams;
		if ($crash && $round < 4)
		{
			$node->poll_query_until('postgres',
				"SELECT max(batch) > $batch + " . $rng->(3) . " FROM stream_agg.commits WHERE stream = '$victim'")
			  or die 'no progress';
			kill_backends($node, worker_pid($node, $victim));
		}
		for my $stream (@streams)
		{
			process($node, $stream->[0]);
			# a restart restores the keys from the checkpoint or finds them in shared memory
			$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('$stream->[0]')") if $rng->(2);
		}
		$node->restart if $round == 2 && !$crash && $rng->(2);
	}
	for my $stream (@streams)
	{
		check(@$stream, $source, "$stream->[0] ($stream->[1]), batches of " . ($size // 'any number'));
		counts_add_up($node, $stream->[0], $node->safe_psql('postgres', "SELECT count(*) FROM $source"),
			"$stream->[0] has counted every record once");
		$late += $node->safe_psql('postgres', "SELECT sum(late) FROM stream_agg.commits WHERE stream = '$stream->[0]'");
		$rows += $node->safe_psql('postgres', "SELECT count(*) FROM $stream->[0]");
	}
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$_->[0]')") for @streams;
}
cmp_ok($late, '>', 0, "$late records were late");
cmp_ok($rows, '>', 0, "$rows rows have passed");

done_testing();
