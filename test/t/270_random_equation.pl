# The equation, at random: whatever the query, the mode, the size of the batches,
# the disorder of the records and the restarts, the sink equals the batch query
# over the records that were not late, with the joined table as it was when each
# was read; and every record is counted for what became of it.
#
# Which records were late is worked out in SQL from the log of the batches: the
# source has the partition and the offset of each record, stream_agg.offsets
# says which batch read it, and the watermark follows from the event times.
#
# What queries are made of is in StreamAgg::RandomQuery.  Streams come in groups
# that share a topic and run at once.  CASES=n says how many streams there shall
# be.  A failure names its group; STREAM_AGG_SEED=seed RANDOM_GROUP=n runs that
# one again.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::RandomQuery;
use StreamAgg::Test;
use Test::More;

my $streams_per_group = 20;
my $cases = $ENV{CASES} // 160;
my $groups = int(($cases + $streams_per_group - 1) / $streams_per_group);
my $rounds = 3;
my $seed = seed();

my @modes = ('append', 'update', 'complete');
my @triggers = ('0', '0', '5 milliseconds', '1 hour');
my @policies = ('skip', 'dead_letter');
my @garbage = ('', 'no JSON', '{"v": 1', '{"v": 1}}', '[1]', "{\"t\": \"\\ud800\"}", '{"v": 01}');
my @restarts = ('none', 'none', 'none', 'stop', 'kill');
my @server_restarts = ('none', 'none', 'fast', 'immediate');
my @key_types = sort keys %values;
# what becomes of the joined table between two rounds; (1, 'g1') stays
my @dim_changes = ('', "UPDATE dim SET grp = 'g' || (id % 3) WHERE id > 1", 'DELETE FROM dim WHERE id = 2', "INSERT INTO dim VALUES (2, 'g2'), (10, NULL)",
	"TRUNCATE dim; INSERT INTO dim VALUES (1, 'g1'), (-4, 'new'), (3, 'g3')", "UPDATE dim SET id = id + 1 WHERE id > 1", "INSERT INTO dim SELECT id, 'twice' FROM dim");

my $rng;
sub one_of { return $_[ $rng->(scalar @_) ]; }

my $broker = start_broker('none' => 1);
my $node = new_node('random', 'max_worker_processes = 64', 'stream_agg.max_streams = 48', 'stream_agg.keep_batches = 1000000',
	"timezone = 'UTC'", 'fsync = off');
$node->safe_psql('postgres', q{
	CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
	CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE FUNCTION pick_longer(text, text) RETURNS text LANGUAGE sql IMMUTABLE
		AS $$ SELECT CASE WHEN length($2) > length($1) OR length($2) = length($1) AND $2 > $1 THEN $2 ELSE $1 END $$;
	CREATE AGGREGATE longest(text) (SFUNC = pick_longer, STYPE = text, INITCOND = '');
	CREATE TABLE dim (id int, grp text);
	CREATE TABLE dim_versions (version int, id int, grp text);
	CREATE TABLE dim_marks (stream text, batch bigint)});

# ---------- records ----------

sub timestamp
{
	my $ms = shift;
	my $days = int($ms / 86_400_000);
	my $rest = $ms % 86_400_000;
	return sprintf('2026-01-%02dT%02d:%02d:%02d.%03dZ', 1 + $days, $rest / 3_600_000, $rest / 60_000 % 60, $rest / 1000 % 60, $rest % 1000);
}

# the event time of a record: mostly near the head, some on the edges, some late
sub event_time
{
	my $topic = shift;
	my $head = $topic->{head} += $rng->($topic->{pace});
	my $kind = $rng->(20);

	return 'null' if $kind == 0;
	my $ms = $head;
	$ms = $head - $rng->(1 + $topic->{disorder}) if $kind > 8;
	$ms -= $ms % one_of(1000, 7000, 60_000, 3_600_000) if $kind == 1 || $kind == 12;
	$ms -= 1 if $kind == 12 && $ms > 0;
	$ms = $rng->(1 + $head) if $kind == 2;
	# on a coarse grid many windows end exactly at the watermark
	$ms -= $ms % $topic->{grain};
	$ms = 0 if $ms < 0;
	return $ms + 1767225600000 if $kind == 3;
	return '"' . timestamp($ms) . '"';
}

sub make_record
{
	my $topic = shift;
	my %record = (
		ts => event_time($topic),
		v => one_of('null', 0, 1, 2, 3, -4, 10),
		n => one_of('null', '1.0', '1.00', '2.50', '-3.125', '7', '1e2', '0.001'),
		f => one_of('null', '0.25', '-1.5', '3', '1024.75', '-0.0'),
		t => one_of('null', '""', '"a"', '"b"', '"\\u00e4"', '"long ' . 'y' x $rng->(40) . '"'),
		ok => one_of('null', 'true', 'false'),
		i => one_of('null', '"1 hour"', '"-1 day"', '"00:00:00.5"'));

	for my $i (0 .. $#{ $topic->{types} })
	{
		$record{"k$i"} = $rng->(6) == 0 ? 'null' : one_of(@{ $values{ $topic->{types}[$i] } });
	}
	# a field that is null may as well be missing
	my @fields = grep { $record{$_} ne 'null' || $rng->(2) } sort keys %record;
	return [ $rng->($topic->{partitions}), '', '{' . join(',', map { "\"$_\":$record{$_}" } @fields) . '}' ];
}

sub make_topic
{
	my $group = shift;
	my $name = "r$group";
	my $topic = {
		name => $name,
		partitions => one_of(1, 2, 4),
		head => $rng->(2) * 3_600_000,
		pace => one_of(2, 400, 4000, 60_000),
		grain => one_of(1, 1, 250, 1000, 30_000),
		types => [ map { one_of(@key_types) } 1 .. 4 ],
		garbage => $rng->(2),    # some records do not decode
		bad => [],               # [partition, offset] of these
		next => [ (0) x 4 ] };

	$topic->{disorder} = $topic->{pace} * one_of(0, 1, 10, 100);
	$broker->create_topic($name, $topic->{partitions});
	create_source($node, $broker, $name, $name, join(', ',
		'ts timestamptz, v int, n numeric, f float8, t text, ok boolean, i interval',
		map({ "k$_ $topic->{types}[$_]" } 0 .. $#{ $topic->{types} }),
		q{_p int OPTIONS (metadata 'partition'), _o bigint OPTIONS (metadata 'offset')}));
	return $topic;
}

# Produce n records, some of them garbage if the topic is to have any.  One
# producer keeps their order, so the offset of each is known.
sub produce_records
{
	my ($topic, $n) = @_;
	my @records;
	for (1 .. $n)
	{
		my $record = make_record($topic);
		my $offset = $topic->{next}[ $record->[0] ]++;
		if ($topic->{garbage} && $rng->(25) == 0)
		{
			$record->[2] = one_of(@garbage);
			push @{ $topic->{bad} }, [ $record->[0], $offset ];
		}
		push @records, $record;
	}
	$broker->produce($topic->{name}, @records);
	return;
}

# The records that decode as a table: what lies between the others.
sub load_records
{
	my $topic = shift;
	my @parts;
	for my $partition (0 .. $topic->{partitions} - 1)
	{
		my $from = 0;
		for my $bad (sort { $a <=> $b } map { $_->[1] } grep { $_->[0] == $partition } @{ $topic->{bad} })
		{
			push @parts, "_p = $partition AND _o >= $from AND _o < $bad" if $from < $bad;
			$from = $bad + 1;
		}
		push @parts, "_p = $partition AND _o >= $from";
	}
	return "CREATE TABLE $topic->{name}_all AS " . join(' UNION ALL ', map { "SELECT * FROM $topic->{name} WHERE $_" } @parts);
}

# ---------- streams ----------

sub make_stream
{
	my ($topic, $name) = @_;
	my $stream = random_query(one_of(@modes), $topic, \&one_of, $rng);

	$stream->{name} = $name;
	$stream->{bound} = one_of(undef, undef, 1, 3, 17, 100);
	$stream->{trigger} = one_of(@triggers);
	$stream->{policy} = one_of(@policies) if $topic->{garbage} || $rng->(3) == 0;
	return $stream;
}

sub create_stream
{
	my ($topic, $stream) = @_;
	my @arguments = ("'$stream->{name}'", '$q$' . stream_query($stream, $topic->{name}) . '$q$',
		"output_mode => '$stream->{mode}'", "trigger => '$stream->{trigger}'");

	push @arguments, "watermark => '$stream->{delay}'" if defined $stream->{delay};
	push @arguments, "max_offsets_per_trigger => $stream->{bound}" if $stream->{bound};
	push @arguments, "options => '{\"on_error\": \"$stream->{policy}\"}'" if $stream->{policy};
	return 'SELECT stream_agg.create_stream(' . join(', ', @arguments) . ')';
}

# ---------- the oracle ----------

# One row, a text, for whatever is not as it has to be.
sub oracle
{
	my ($topic, $stream) = @_;
	my $name = $stream->{name};
	my $window = $stream->{window};
	my $moves = defined $stream->{delay};
	my $late = $moves && $stream->{mode} ne 'complete' && $window ? "$window->[1] <= e.before" : 'false';
	my $start = $moves ? q{timestamptz '1970-01-01 00:00+00'} : q{timestamptz '-infinity'};
	my $after = $moves ? 'after' : $start;
	my $delay = $stream->{delay} // '0';
	my @conditions = $window ? ('x.w IS NOT NULL', "NOT ($late)") : ();
	push @conditions, "$window->[1] <= (SELECT max(after) FROM marks)" if $stream->{mode} eq 'append';
	my $expected = oracle_query($stream, 'records', @conditions);
	my $passes = passes($stream);
	my $time = $window ? 'e.ts' : q{'epoch'::timestamptz};
	# a record fits if one of its windows takes it
	my $fits = $window ? "EXISTS (SELECT FROM (SELECT $window->[0] AS w) x WHERE NOT ($late))" : 'true';
	# where the plan reads no record it meets no garbage
	my $bad = @{ $topic->{bad} };
	my $unread = $stream->{condition} eq 'false' ? $bad : 0;
	my $refused = $bad - $unread;
	my $letters = ($stream->{policy} // '') eq 'dead_letter' ? $refused : 0;
	return qq{
		WITH ranges AS MATERIALIZED (
			SELECT batch, r.key::int AS p, (r.value ->> 0)::bigint AS first, (r.value ->> 1)::bigint AS behind,
			       (SELECT count(*) FROM dim_marks m WHERE m.stream = '$name' AND m.batch < o.batch)::int AS version
			  FROM stream_agg.offsets o JOIN stream_agg.commits c USING (stream, batch), jsonb_each(ranges) r WHERE stream = '$name'),
		got_records AS MATERIALIZED (
			SELECT t.*, batch, version FROM $topic->{name}_all t JOIN ranges ON t._p = p AND t._o >= first AND t._o < behind),
		read AS MATERIALIZED (SELECT e.*, $passes AS passes FROM got_records e),
		tops AS (
			SELECT batch, date_trunc('milliseconds', max(e.ts)) AS top FROM read e WHERE passes GROUP BY batch),
		afters AS (
			SELECT batch, GREATEST($start, max(top - interval '$delay') OVER (ORDER BY batch)) AS after
			  FROM (SELECT DISTINCT batch FROM ranges) b LEFT JOIN tops USING (batch)),
		marks AS MATERIALIZED (
			SELECT batch, $after AS after, lag($after, 1, $start) OVER (ORDER BY batch) AS before FROM afters),
		records AS MATERIALIZED (SELECT read.*, before FROM read JOIN marks USING (batch)),
		expected AS MATERIALIZED ($expected),
		got AS MATERIALIZED (SELECT * FROM $name)
		SELECT '$name: ' || what FROM (
			SELECT 'lacks ' || left(x::text, 200) AS what FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM got) x
			UNION ALL
			SELECT 'has ' || left(x::text, 200) FROM (SELECT * FROM got EXCEPT ALL SELECT * FROM expected) x
			UNION ALL
			SELECT 'read ' || count(*) || ' of ' || (SELECT count(*) FROM $topic->{name}_all) FROM read
			HAVING count(*) <> (SELECT count(*) FROM $topic->{name}_all) OR count(DISTINCT (_p, _o)) <> count(*)
			UNION ALL
			SELECT format('batch %s has watermark %s -> %s, expected %s -> %s', batch, o.watermark, c.watermark, before, after)
			  FROM marks JOIN stream_agg.offsets o USING (batch) JOIN stream_agg.commits c USING (stream, batch)
			 WHERE stream = '$name' AND (o.watermark <> before OR c.watermark <> after)
			UNION ALL
			SELECT format('counts of batch %s do not add up', batch) FROM stream_agg.commits
			 WHERE stream = '$name' AND delivered <> aggregated + late + null_time + dead_lettered + filtered
			UNION ALL
			SELECT count(*) || ' dead letters, expected $letters' FROM stream_agg.dead_letters WHERE stream = '$name'
			HAVING count(*) <> $letters
			UNION ALL
			SELECT 'counts are ' || got.c || ', expected ' || expected.c
			  FROM (SELECT concat_ws(' ', sum(delivered), sum(aggregated), sum(late), sum(null_time), sum(filtered), sum(dead_lettered)) AS c
			          FROM stream_agg.commits WHERE stream = '$name') got,
			       (SELECT concat_ws(' ', count(*) + $bad, count(*) FILTER (WHERE passes AND $time IS NOT NULL AND $fits),
			                         count(*) FILTER (WHERE passes AND $time IS NOT NULL AND NOT $fits),
			                         count(*) FILTER (WHERE passes AND $time IS NULL), count(*) FILTER (WHERE NOT passes) + $unread, $refused) AS c
			          FROM records e) expected
			 WHERE got.c <> expected.c) problems LIMIT 8};
}

# ---------- a group ----------

# Run statements in one session; what they say, with the errors.
sub run_all
{
	my @statements = @_;
	my ($status, $out, $err) = $node->psql('postgres', join(";\n", @statements, ''), on_error_stop => 0);
	return grep { $_ ne '' } split(/\n/, $out), grep { /ERROR|FATAL/ } split(/\n/, $err);
}

sub restart_streams
{
	my @streams = @_;
	my (@before, @after);

	for my $stream (@streams)
	{
		my $how = one_of(@restarts);
		push @before, "SELECT stream_agg.stop_stream('$stream->{name}')" if $how eq 'stop';
		push @after, "SELECT stream_agg.start_stream('$stream->{name}')" if $how eq 'stop';
		push @before, "DO \$\$ BEGIN PERFORM pg_terminate_backend(pid) FROM pg_stat_stream_agg WHERE stream = '$stream->{name}'; END \$\$"
		  if $how eq 'kill';
	}
	return (\@before, \@after);
}

# Between rounds, when all records are read: the joined table changes.
sub change_dim
{
	my ($version, $change) = @_;
	run_all('INSERT INTO dim_marks SELECT stream, max(batch) FROM stream_agg.commits GROUP BY stream') if $version > 0;
	return grep { /ERROR/ } run_all($change, "INSERT INTO dim_versions SELECT $version, * FROM dim");
}

# Create the streams of a group; returns what they say that fail.
sub create_streams
{
	my ($topic, @streams) = @_;
	run_all(map { create_stream($topic, $_) } @streams);
	my %there = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', 'SELECT stream FROM stream_agg.streams');
	my @problems;
	for my $stream (grep { !$there{ $_->{name} } } @streams)
	{
		$stream->{refused} = 1;
		push @problems, map { "$stream->{name}: $_" } run_all(create_stream($topic, $stream));
	}
	return @problems;
}

my ($scenarios, $late, $batches, $refused) = (0, 0, 0, 0);

sub run_group
{
	my $group = shift;
	$rng = seeded_random($seed * 1000 + $group);
	$rng->(10) for 1 .. 5;
	my $topic = make_topic($group);
	my @streams = map { make_stream($topic, "s${group}_$_") } 1 .. $streams_per_group;

	run_all('TRUNCATE dim, dim_versions, dim_marks');
	my @problems = change_dim(0, q{INSERT INTO dim VALUES (1, 'g1'), (2, 'g1'), (2, 'g2'), (3, NULL), (NULL, 'g3')});
	# some begin with records there, some without
	produce_records($topic, 1 + $rng->(60));
	push @problems, create_streams($topic, @streams);
	my @running = grep { !$_->{refused} } @streams;
	for my $round (1 .. $rounds)
	{
		my ($before, $after) = restart_streams(@running);
		push @problems, grep { /ERROR/ } run_all(@$before);
		produce_records($topic, 1 + $rng->(120));
		push @problems, grep { /ERROR/ } run_all(@$after);
		my $how = one_of(@server_restarts);
		if ($how ne 'none') { $node->stop($how); $node->start; }
		push @problems, grep { /ERROR/ } run_all(map { "SELECT FROM stream_agg.process_available('$_->{name}', '2 minutes')" } @running);
		push @problems, change_dim($round, one_of(@dim_changes));
	}
	push @problems, grep { /ERROR/ } run_all(load_records($topic), "ANALYZE $topic->{name}_all");
	push @problems, run_all(map { oracle($topic, $_) } @running);
	my ($late_here, $refused_here, $batches_here) = split /\|/, $node->safe_psql('postgres',
		"SELECT COALESCE(sum(late), 0), COALESCE(sum(dead_lettered), 0), count(*) FROM stream_agg.commits WHERE stream LIKE 's${group}\\_%'");
	$late += $late_here;
	$refused += $refused_here;
	$batches += $batches_here;
	$scenarios += @running;
	push @problems, grep { /ERROR/ } run_all(map { "SELECT stream_agg.drop_stream('$_->{name}', drop_sink => true)" } @running);

	my %wrong = map { /\b(s${group}_\d+)\b/ ? ($1 => 1) : () } @problems;
	ok(!@problems, "group $group of seed $seed: " . scalar(@running) . ' streams equal their batch queries') or diag(join("\n", @problems,
		map({ create_stream($topic, $_) } grep { $wrong{ $_->{name} } } @streams),
		'columns: ' . join(', ', @{ $topic->{types} }) . "; $topic->{partitions} partitions",
		"again: STREAM_AGG_SEED=$seed RANDOM_GROUP=$group test/run 270_random_equation.pl"));
	return;
}

if (defined $ENV{RANDOM_GROUP})
{
	run_group($ENV{RANDOM_GROUP});
}
else
{
	run_group($_) for 1 .. $groups;
	cmp_ok($late, '>', 0, 'some records were late');
	cmp_ok($refused, '>', 0, 'and some could not be processed');
}
diag("figures: $scenarios streams, $batches batches, $late late records, $refused that do not decode");

done_testing();
