# Random records and random queries, as streams: whatever the mode, the size of
# the batches, the disorder of the records and the restarts, the sink equals
# the batch query over the records that were not late, and every record is
# counted for what became of it.
#
# Which records were late is worked out in SQL from the log of the batches: the
# source has the partition and the offset of each record, stream_agg.offsets
# says which batch read it, and the watermark follows from the event times.
#
# Scenarios come in groups that share a topic and run at once.  A failure names
# its group; STREAM_AGG_SEED=seed RANDOM_STREAMS_GROUP=n runs that one again.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $groups = $ENV{RANDOM_STREAMS_GROUPS} // 6;
my $streams_per_group = 20;
my $rounds = 3;
my $seed = seed();

# What a scenario is made of: to add to a list is all a new feature needs.
# A mode is tried once, and left out if create_stream does not know it.
my @modes = ('append', 'update', 'complete');
my @triggers = ('0', '0', '5 milliseconds', '1 hour');
my @policies = ('skip', 'dead_letter');
my @garbage = ('', 'no JSON', '{"v": 1', '{"v": 1}}', '[1]', "{\"t\": \"\\ud800\"}", '{"v": 01}');
my @restarts = ('none', 'none', 'none', 'stop', 'kill');
my @server_restarts = ('none', 'none', 'fast', 'immediate');
my @delays = ('0', '1 second', '10 seconds', '2 minutes', '1 hour', '1 day 00:00:01', '7 milliseconds');
my @windows = (
	map({ [ "stream_agg.tumble(e.ts, '$_')", "upper(stream_agg.tumble(e.ts, '$_'))" ] }
		'1 second', '7 seconds', '1 minute', '1 hour', '1 day', '250 milliseconds'),
	[ "stream_agg.tumble(e.ts, '5 minutes', '2000-01-01 00:01:30+00')", "upper(stream_agg.tumble(e.ts, '5 minutes', '2000-01-01 00:01:30+00'))" ],
	[ "lower(stream_agg.tumble(e.ts, '30 seconds'))", "upper(stream_agg.tumble(e.ts, '30 seconds'))" ],
	[ "date_bin('90 seconds', e.ts, '2000-01-01 00:00:07+00')", "date_bin('90 seconds', e.ts, '2000-01-01 00:00:07+00') + interval '90 seconds'" ],
	[ "date_bin('15 minutes', e.ts AT TIME ZONE 'UTC', timestamp '2000-01-01')",
	  "date_bin('15 minutes', e.ts, '2000-01-01 00:00+00') + interval '15 minutes'" ],
	[ "date_bin('1 second', e.ts, 'epoch')", "date_bin('1 second', e.ts, 'epoch') + interval '1 second'" ]);
# type of a column => its values in JSON
my %values = (
	smallint => [ 0, 1, -1, 32767, -32768 ],
	int => [ 0, 1, 2, 3, -5, 2147483647 ],
	bigint => [ 0, 7, -7, '9007199254740993', '-1000000000000' ],
	numeric => [ '1.0', '1.00', '2', '-3.125', '0', '12345678901234567890.0123456789', '1e10' ],
	'numeric(8,2)' => [ '1.005', '1', '-2.5', '99999.99' ],
	float8 => [ '0', '-0.0', '1.5', '-2.25', '"NaN"', '"infinity"', '1024' ],
	real => [ '0', '0.5', '-8', '"-infinity"' ],
	text => [ '""', '"a"', '"A"', '"b c"', '"\\u00e4\\"\\\\"', '"' . 'x' x 300 . '"' ],
	'text COLLATE nocase' => [ '"anna"', '"ANNA"', '"Bob"', '"bob"', '""' ],
	'varchar(3)' => [ '"a"', '"abc"', '"\\u00e4"' ],
	'char(3)' => [ '"x"', '"x "', '"xyz"' ],
	boolean => [ 'true', 'false' ],
	date => [ '"2026-01-02"', '"1999-12-31"', '"infinity"' ],
	timestamptz => [ '"2026-01-02T03:04:05Z"', '"2026-01-02T05:04:05+02:00"', '0', '1767323045000' ],
	timestamp => [ '"2026-01-02T03:04:05"', '86400000' ],
	interval => [ '"1 day"', '"24 hours"', '"1 month"', '"-00:00:01"' ],
	uuid => [ '"6f1b1e3c-7e4d-4b7e-8f2a-0123456789ab"', '"00000000-0000-0000-0000-000000000000"' ],
	bytea => [ '"\\\\x00ff"', '"\\\\x"', '"abc"' ],
	jsonb => [ '{"a":1}', '{"a":1.0}', '[1,null]', '"x"', '{}' ],
	'int[]' => [ '[]', '[1,2]', '[1,null]', '"{1,2}"' ],
	mood => [ '"sad"', '"ok"', '"happy"' ],
	inet => [ '"10.0.0.1"', '"10.0.0.0/8"' ],
	int4range => [ '"[1,5)"', '"[1,4]"', '"empty"' ]);
my @key_types = sort keys %values;
# with the columns v int, n numeric, f float8, t text, ok boolean of every source; %s: one of its own
my @aggregates = ('count(*)', 'count(%s)', 'count(e.n)', 'sum(e.v)', 'sum(e.n)', 'sum(e.f)', 'avg(e.v)', 'avg(e.n)', 'avg(e.f)',
	'min(e.v)', 'max(e.n)', 'min(e.t)', 'max(e.f)', 'max(e.ts)', 'min(e.ts) + interval \'1 day\'', 'bool_and(e.ok)', 'bool_or(e.ok)',
	'every(e.v > 1)', 'bit_xor(e.v)', 'bit_or(e.v::bigint)', 'stddev(e.v)', 'var_pop(e.n)', 'variance(e.v::numeric)',
	'sum(e.v) FILTER (WHERE e.ok)', 'count(*) FILTER (WHERE e.t > \'a\')', 'sum(10 / e.v) FILTER (WHERE e.v <> 0)',
	'max(e.v) - min(e.v)', 'COALESCE(sum(e.n), 0) + count(*)', 'CASE WHEN count(*) > 2 THEN \'many\' ELSE \'few\' END',
	'count(*)::text || \'/\' || count(e.v)::text', 'longest(e.t)', 'sum(e.v::bigint * 3 + 1)', 'sum(length(e.t)) / count(*)',
	'max(upper(e.t))', 'sum(e.i)', 'avg(e.i)', 'max(e.i)');
my @conditions = ('true', 'true', 'e.v % 3 <> 0', 'e.v > 0 OR e.t = \'a\'', 'e.t IS NOT NULL', 'e.ok', 'e.ok IS NOT TRUE',
	'e.n BETWEEN -10 AND 10', 'e.v IN (SELECT id FROM dim)', 'NOT EXISTS (SELECT FROM dim WHERE dim.id = e.v AND dim.grp = \'g1\')',
	'e.f > 0 AND e.v < 5', 'false');
my @havings = ('', '', '', 'count(*) > 1', 'sum(e.v) > 5', 'count(*) % 2 = 1', 'min(e.v) IS NOT NULL', 'bool_or(e.ok)', 'sum(e.n) < 3');
# a join, and a key it offers
my @joins = (([ '', undef ]) x 5, [ 'JOIN dim d ON d.id = e.v', 'd.grp' ], [ 'LEFT JOIN dim d ON d.id = e.v', 'd.grp' ],
	[ 'LEFT JOIN (SELECT DISTINCT id, 1 AS one FROM dim) d ON d.id = e.v', 'd.one' ], [ 'CROSS JOIN (VALUES (1), (2)) d(i)', 'd.i' ]);

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
	INSERT INTO dim VALUES (1, 'g1'), (2, 'g1'), (2, 'g2'), (3, NULL), (NULL, 'g3')});

# ---------- what there is to try ----------

sub supported_modes
{
	my @supported;

	create_source($node, $broker, 'probe', 'none', 'ts timestamptz, v int');
	for my $mode (@modes)
	{
		my ($status, $out, $err) = $node->psql('postgres', qq{
			SELECT stream_agg.create_stream('probe_$mode', 'SELECT stream_agg.tumble(ts, ''1 s'') AS w, count(*) AS n FROM probe GROUP BY 1',
				output_mode => '$mode', watermark => '1 s', start => false)});
		if ($status == 0) { push @supported, $mode; next; }
		# any other error is a failure, not a mode to leave out
		like($err, qr/output.mode/i, "mode $mode is not known yet");
	}
	diag("figures: modes @supported");
	return @supported;
}

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

# ---------- queries ----------

sub make_stream
{
	my ($topic, $name, @supported) = @_;
	my $own = 'e.k' . $rng->(scalar @{ $topic->{types} });
	my $stream = { name => $name, mode => one_of(@supported), condition => one_of(@conditions), having => one_of(@havings) };
	my ($join, $join_key) = @{ one_of(@joins) };
	my @keys;

	$stream->{window} = $stream->{mode} eq 'append' || $rng->(5) ? one_of(@windows) : undef;
	$stream->{delay} = one_of(@delays) if $stream->{window} && ($stream->{mode} eq 'append' || $rng->(4));
	$stream->{join} = $join;
	for (1 .. $rng->(4))
	{
		push @keys, one_of(map({ "e.k$_" } 0 .. 3), $join_key // 'e.v', 'e.v % 2', 'COALESCE(e.t, \'-\')', 'e.ok', 'upper(e.t)', 'e.n');
	}
	unshift @keys, $stream->{window}[0] if $stream->{window};
	# the same key twice is refused nowhere, but proves nothing
	my %seen;
	@keys = grep { !$seen{$_}++ } @keys;
	push @keys, 'e.ok' unless @keys;
	my @outputs = map { sprintf(one_of(@aggregates), $own) } 1 .. 1 + $rng->(5);
	$stream->{list} = join(', ', map({ "$keys[$_] AS key$_" } 0 .. $#keys), map({ "$outputs[$_] AS out$_" } 0 .. $#outputs));
	$stream->{group} = join(', ', 1 .. scalar @keys);
	$stream->{bound} = one_of(undef, undef, 1, 3, 17, 100);
	$stream->{trigger} = one_of(@triggers);
	$stream->{policy} = one_of(@policies) if $topic->{garbage} || $rng->(3) == 0;
	return $stream;
}

# The query over a relation e; further conditions choose among the records.
sub query
{
	my ($stream, $from, @conditions) = @_;
	my $having = $stream->{having} ? " HAVING $stream->{having}" : '';
	return "SELECT $stream->{list} FROM $from e $stream->{join} WHERE "
	  . join(' AND ', map { "($_)" } $stream->{condition}, @conditions) . " GROUP BY $stream->{group}$having";
}

sub create_stream
{
	my ($topic, $stream) = @_;
	my @arguments = ("'$stream->{name}'", '$q$' . query($stream, $topic->{name}) . '$q$',
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
	my $end = $stream->{window} ? $stream->{window}[1] : undef;
	my $moves = defined $stream->{delay};
	my $complete = $stream->{mode} eq 'complete';
	my $late = $moves && !$complete ? "$end <= e.before" : 'false';
	my $start = $moves ? q{timestamptz '1970-01-01 00:00+00'} : q{timestamptz '-infinity'};
	my $after = $moves ? 'after' : $start;
	my $delay = $stream->{delay} // '0';
	my @conditions = $end ? ("$end IS NOT NULL", "NOT ($late)") : ();
	push @conditions, "$end <= (SELECT max(after) FROM marks)" if $stream->{mode} eq 'append';
	my $expected = query($stream, 'records', @conditions);
	my $time = $end ? 'e.ts' : q{'epoch'};
	# where the plan reads no record it meets no garbage
	my $bad = @{ $topic->{bad} };
	my $unread = $stream->{condition} eq 'false' ? $bad : 0;
	my $refused = $bad - $unread;
	my $letters = ($stream->{policy} // '') eq 'dead_letter' && !$stream->{join} ? $refused : undef;
	my $letters_check = defined $letters ? qq{
		UNION ALL
		SELECT count(*) || ' dead letters, expected $letters' FROM stream_agg.dead_letters WHERE stream = '$name'
		HAVING count(*) <> $letters} : '';
	# a join makes several rows of a record, or none
	my $counts = $stream->{join} ? '' : qq{
		UNION ALL
		SELECT 'counts are ' || got.c || ', expected ' || expected.c
		  FROM (SELECT concat_ws(' ', sum(delivered), sum(aggregated), sum(late), sum(null_time), sum(filtered), sum(dead_lettered)) AS c
		          FROM stream_agg.commits WHERE stream = '$name') got,
		       (SELECT concat_ws(' ', count(*) + $bad, count(*) FILTER (WHERE passes AND $time IS NOT NULL AND NOT ($late)),
		                         count(*) FILTER (WHERE passes AND $time IS NOT NULL AND $late),
		                         count(*) FILTER (WHERE passes AND $time IS NULL), count(*) FILTER (WHERE NOT passes) + $unread, $refused) AS c
		          FROM (SELECT *, COALESCE(($stream->{condition}), false) AS passes FROM records e) e) expected
		 WHERE got.c <> expected.c};
	return qq{
		WITH ranges AS MATERIALIZED (
			SELECT batch, r.key::int AS p, (r.value ->> 0)::bigint AS first, (r.value ->> 1)::bigint AS behind
			  FROM stream_agg.offsets JOIN stream_agg.commits USING (stream, batch), jsonb_each(ranges) r WHERE stream = '$name'),
		read AS MATERIALIZED (
			SELECT t.*, batch FROM $topic->{name}_all t JOIN ranges ON t._p = p AND t._o >= first AND t._o < behind),
		tops AS (
			SELECT batch, date_trunc('milliseconds', max(e.ts)) AS top FROM read e $stream->{join} WHERE ($stream->{condition}) GROUP BY batch),
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
			$counts $letters_check) problems LIMIT 8};
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

my ($scenarios, $late, $batches, $refused) = (0, 0, 0, 0);

sub run_group
{
	my ($group, @supported) = @_;
	$rng = seeded_random($seed * 1000 + $group);
	$rng->(10) for 1 .. 5;
	my $topic = make_topic($group);
	my @streams = map { make_stream($topic, "s${group}_$_", @supported) } 1 .. $streams_per_group;
	my @problems;
	my %refused;

	# some begin with records there, some without
	produce_records($topic, 1 + $rng->(60));
	for my $stream (@streams)
	{
		my @said = grep { /ERROR/ } run_all(create_stream($topic, $stream));
		push @problems, map { "$stream->{name}: $_" } @said;
		$refused{ $stream->{name} } = 1 if @said;
	}
	my @running = grep { !$refused{ $_->{name} } } @streams;
	for my $round (1 .. $rounds)
	{
		my ($before, $after) = restart_streams(@running);
		push @problems, grep { /ERROR/ } run_all(@$before);
		produce_records($topic, 1 + $rng->(120));
		push @problems, grep { /ERROR/ } run_all(@$after);
		my $how = one_of(@server_restarts);
		if ($how ne 'none') { $node->stop($how); $node->start; }
		push @problems, grep { /ERROR/ } run_all(map { "SELECT FROM stream_agg.process_available('$_->{name}', '2 minutes')" } @running);
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
		map({ ($_->{bound} ? "bound $_->{bound} " : '') . create_stream($topic, $_) } grep { $wrong{ $_->{name} } } @streams),
		'columns: ' . join(', ', @{ $topic->{types} }) . "; $topic->{partitions} partitions",
		"again: STREAM_AGG_SEED=$seed RANDOM_STREAMS_GROUP=$group test/run 035_random_streams.pl"));
	return;
}

my @supported = supported_modes();
if (defined $ENV{RANDOM_STREAMS_GROUP})
{
	run_group($ENV{RANDOM_STREAMS_GROUP}, @supported);
}
else
{
	run_group($_, @supported) for 1 .. $groups;
	cmp_ok($late, '>', 0, 'some records were late');
	cmp_ok($refused, '>', 0, 'and some could not be processed');
}
diag("figures: $scenarios streams, $batches batches, $late late records, $refused that do not decode");

done_testing();
