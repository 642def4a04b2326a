# Streams without an aggregate: random queries over random records, in batches of
# every size, with restarts and crashes in between, equal the batch query, row by
# row and as often.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 3, slow => 2);
my $node = new_node('rows', 'restart_after_crash = on');
my $rng = seeded_random();
my $produced = 0;

my $columns = 'ts timestamptz, k int, name text, price numeric, doc jsonb,
	part int OPTIONS (metadata \'partition\'), off bigint OPTIONS (metadata \'offset\')';
create_source($node, $broker, 'events', 'events', $columns);
create_source($node, $broker, 'slow', 'slow', $columns);
$node->safe_psql('postgres', q{
	CREATE TABLE dims (k int, title text);
	INSERT INTO dims SELECT i % 6, 't' || i FROM generate_series(1, 9) i;
	CREATE FUNCTION slowly(int) RETURNS int STABLE LANGUAGE plpgsql AS $$
	BEGIN PERFORM pg_sleep(0.0005); RETURN $1; END $$});

sub pick { return $_[ $rng->(scalar @_) ]; }

sub random_record
{
	my $ts = sprintf('2026-01-01T%02d:%02d:%02d.%06dZ', map { $rng->($_) } 24, 60, 60, 32768);
	return [ $rng->(3) % ($_[0] // 3), '', json_record({
				ts => $rng->(8) ? $ts : undef,
				k => $rng->(8) ? $rng->(8) : undef,
				name => pick('a', 'B', 'ß', '', undef, "a\x{27}b", 'x' x $rng->(200)),
				price => $rng->(8) ? pick('0', '1.50', '-7', '12345678901234567890.5') : undef,
				doc => pick('null', '[1,2,3]', '[]', '{"a":{"b":[true]}}') },
			numbers => ['k'], bare => [qw(price doc)]) ];
}

sub produce
{
	my ($topic, $n, $partitions) = @_;
	$broker->produce($topic, map { random_record($partitions) } 1 .. $n);
	return;
}

sub random_query
{
	my @expressions = ('part, off', 's.k', 'name', 'price * 2 AS doubled', 'doc', 'upper(name) AS upper_name',
		"date_trunc('hour', ts) AS hour", 'ts', "CASE WHEN s.k > 3 THEN 'big' ELSE name END AS size",
		'COALESCE(price, 0) AS price_or_zero', "doc -> 'a' AS a", '(SELECT count(*) FROM dims WHERE dims.k = s.k) AS matches',
		"stream_agg.tumble(ts, '1 hour') AS win", "row_to_json(row(name, price))::text AS pair", 'ROW(name, s.k)::text AS both');
	my %chosen = map { $_ => 1 } map { pick(@expressions) } 0 .. 3;
	my @list = sort keys %chosen;
	my $from = pick('%s s', '%s s', '%s s', '%s s JOIN dims ON dims.k = s.k', '%s s LEFT JOIN dims ON dims.k = s.k',
		'(SELECT * FROM %s WHERE k IS NOT NULL OFFSET 0 * 0) s', '(SELECT *, k + 1 AS next FROM %s) s',
		'%s s, generate_series(1, s.k % 3) g', "%s s CROSS JOIN LATERAL (VALUES (1), (2)) x(i)",
		'(WITH w AS (SELECT * FROM %s) SELECT * FROM w) s');
	$from =~ s/ OFFSET 0 \* 0//;
	push @list, 'title' if $from =~ /dims/;
	push @list, "jsonb_array_elements(CASE WHEN jsonb_typeof(doc) = 'array' THEN doc END) AS element" if !$rng->(4);
	my $where = pick('true', 'true', 's.k % 2 = 0', "name LIKE 'a%%'", 'price > 1', 'ts IS NOT NULL',
		'EXISTS (SELECT FROM dims WHERE dims.k = s.k)', 's.k IN (SELECT k FROM dims)', 'part = 1', 'false');
	return 'SELECT ' . join(', ', @list) . " FROM $from WHERE $where";
}

# the sizes of batches
my %size = (one => 1, seven => 7, thousand => 1000, unlimited => undef);

sub check
{
	my ($stream, $what) = @_;
	process($node, $stream);
	is_equal_tables($node, "SELECT t::text FROM $stream t", "SELECT q::text FROM ${stream}_query q",
		"$what: $stream equals the batch query");
	counts_add_up($node, $stream, $produced, "$what: $stream has counted every record once");
	return;
}

my %query;
for my $n (1 .. 5)
{
	for my $name (sort keys %size)
	{
		my $stream = "rows_${name}_$n";
		my $event_time = pick('', '', ", event_time => 'ts'", ", event_time => 'ts', watermark => '1 minute'");
		my $on_error = pick('', ", options => '{\"on_error\": \"skip\"}'");
		$query{$stream} = sprintf(random_query(), 'events');
		note("$stream: $query{$stream} $event_time $on_error");
		my $max = $size{$name} ? ", max_offsets_per_trigger => $size{$name}" : '';
		$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$query{$stream}\$q\$,
			trigger => '0' $max $event_time $on_error)");
	}
	for my $round (0 .. 1)
	{
		produce('events', 20 + $rng->(60));
		$produced = $node->safe_psql('postgres', 'SELECT count(*) FROM events');
		for my $name (sort keys %size)
		{
			my $stream = "rows_${name}_$n";
			$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('$stream');
				SELECT stream_agg.start_stream('$stream')") if $rng->(2);
			check($stream, "round $round");
		}
	}
	$node->safe_psql('postgres', join(';', map { "SELECT stream_agg.drop_stream('rows_${_}_$n', drop_sink => true)" } keys %size));
}

# crashes in the middle of batches
$produced = 0;
$node->safe_psql('postgres', q{
	SELECT stream_agg.create_stream('crashed', 'SELECT part, off, slowly(k) AS k, name, doc FROM slow',
		trigger => '0', max_offsets_per_trigger => 50);
	SELECT stream_agg.create_stream('joined', 'SELECT part, off, slowly(s.k) AS k, title FROM slow s LEFT JOIN dims USING (k)',
		trigger => '0', max_offsets_per_trigger => 80, options => '{"on_error": "dead_letter"}')});
for my $how ('SIGKILL of a worker', 'immediate stop', 'termination of a worker')
{
	my $before = $node->safe_psql('postgres', 'SELECT COALESCE(max(batch), -1) FROM stream_agg.commits');
	produce('slow', 600, 2);
	$produced += 600;
	$node->poll_query_until('postgres', "SELECT max(batch) > $before + 1 + " . $rng->(3) . ' FROM stream_agg.commits')
	  or die 'no progress';
	if ($how =~ /SIGKILL/) { kill_backends($node, worker_pid($node, pick('crashed', 'joined'))); }
	elsif ($how =~ /stop/) { $node->stop('immediate'); $node->start; }
	else { $node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM pg_stat_stream_agg WHERE pid IS NOT NULL'); }
	check('crashed', $how);
	check('joined', $how);
}
is($node->safe_psql('postgres', "SELECT sum(total_rows_out) FROM stream_agg.commits c WHERE stream = 'joined'
		AND batch = (SELECT max(batch) FROM stream_agg.commits WHERE stream = 'joined')"),
	$node->safe_psql('postgres', 'SELECT count(*) FROM joined'), 'rows that joins make of a record are rows out');

done_testing();
