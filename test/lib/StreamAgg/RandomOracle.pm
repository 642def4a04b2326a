# The oracle of random streams: what a stream's table, its counts and watermarks
# have to be, in SQL over the records and the log of the batches.
#
# The log says which batch read which record; what was late, and when windows
# closed, follows from the event times.  Which records make a session, and which
# are the first of their keys, the executable models in test/model say.
#
# Tables of the oracle are in schema oracle, named after the stream:
#	_read		the records read, with "batch", "version" of the joined table, whether a
#				row of it "passes", and whether that moves the watermark ("moves")
#	_failed		the records read that fail, which are left out, and in no other table
#	_marks		the watermark before and after each batch
#	_records	as _read, with "before", the watermark that the record is judged by
#	_rows		of sessions and DISTINCT ON, the rows of records; "id" is their order
#	_made		and what the model makes of these: sessions w, or rows that pass

package StreamAgg::RandomOracle;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run;
use StreamAgg::RandomQuery;

our @EXPORT = qw(topics_of prepare_oracle needs_model model_input model_result oracle is_repairable repaired_oracle);

# The topics of a group that a stream reads.
sub topics_of
{
	my ($topic, $stream) = @_;
	my %sources = map { $_->{source} => 1 } @{ $stream->{branches} // [ { source => 'main' } ] };
	return map { @{ $topic->{topics}{$_} } } sort keys %sources;
}

sub needs_model { return $_[0]->{kind} =~ /session|distinct/; }

# the watermark before there is one
sub first_watermark { return defined $_[0]->{delay} ? q{timestamptz '1970-01-01 00:00+00'} : q{timestamptz '-infinity'}; }

# Batch by batch, the watermark that event times lead to.
sub watermarks
{
	my ($topic, $stream) = @_;
	my $read = "oracle.$stream->{name}_read";
	my $start = first_watermark($stream);
	my $batches = "(SELECT batch FROM stream_agg.commits WHERE stream = '$stream->{name}') b";

	return "SELECT batch, $start AS after FROM $batches" if !defined $stream->{delay};
	return qq{
		SELECT batch, GREATEST($start, date_trunc('milliseconds', max(top) OVER (ORDER BY batch)) - interval '$stream->{delay}') AS after
		  FROM $batches LEFT JOIN (SELECT batch, max(ts) AS top FROM $read WHERE moves GROUP BY batch) t USING (batch)}
	  if !$stream->{per_partition} && !$stream->{aligned};
	my $partitions = join(', ', map { my $t = $_; map { "('$t', $_)" } 0 .. $topic->{partitions}{$t} - 1 } topics_of($topic, $stream));
	my $tops = qq{(SELECT batch, t, p, max(top) OVER (PARTITION BY t, p ORDER BY batch) AS top
		          FROM $batches CROSS JOIN (VALUES $partitions) q (t, p)
		          LEFT JOIN (SELECT batch, _t AS t, _p AS p, max(ts) AS top FROM $read WHERE moves GROUP BY 1, 2, 3) x USING (batch, t, p)) y};
	return aligned_watermarks($stream, $tops, $start, scalar(() = topics_of($topic, $stream))) if $stream->{aligned};
	return qq{
		SELECT batch, CASE WHEN bool_and(top IS NOT NULL) THEN GREATEST($start, date_trunc('milliseconds', min(top)) - interval '$stream->{delay}')
		                   ELSE $start END AS after
		  FROM $tops
		 GROUP BY batch};
}

# The same with policy aligned: the greatest event time of all partitions, but not
# beyond those that the log of plans says are behind.
sub aligned_watermarks
{
	my ($stream, $tops, $start, $ntopics) = @_;
	my $behind = $ntopics > 1 ? q{(SELECT o.batch, y.key AS t, z.key::int AS p FROM stream_agg.offsets o, jsonb_each(behind) y, jsonb_each(y.value) z
			WHERE stream = '%s')} : q{(SELECT o.batch, NULL::text AS t, z.key::int AS p FROM stream_agg.offsets o, jsonb_each(behind) z WHERE stream = '%s')};
	$behind = sprintf $behind, $stream->{name};
	return qq{
		SELECT batch, GREATEST($start, date_trunc('milliseconds', max(bound) OVER (ORDER BY batch)) - interval '$stream->{delay}') AS after
		  FROM (SELECT batch, LEAST(max(top), min(COALESCE(top, '-infinity')) FILTER (WHERE EXISTS (
		               SELECT FROM $behind b WHERE b.batch = y.batch AND b.p = y.p AND COALESCE(b.t, y.t) = y.t))) AS bound
		          FROM $tops GROUP BY batch) a};
}

# Statements that make the tables, but _made.
sub prepare_oracle
{
	my ($topic, $stream) = @_;
	my $name = $stream->{name};
	my $prefix = "oracle.$name";
	my $start = first_watermark($stream);
	my $passes = passes($stream, $topic->{topics});
	my $moves = $stream->{gap} ? passes($stream, $topic->{topics}, "$stream->{gap} > interval '0'") : 'passes';
	# offsets are by topic where there are several
	my ($only, $another) = map { "'$_'" } topics_of($topic, $stream);
	$only = 'NULL' if $another;
	my $own = $stream->{per_partition} ? qq{, date_trunc('milliseconds', max(ts) FILTER (WHERE moves)
			OVER (PARTITION BY _t, _p ORDER BY _o ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) - interval '$stream->{delay}'} : '';
	my @statements = (qq{
		CREATE TABLE ${prefix}_read AS
		WITH ranges AS MATERIALIZED (
			SELECT batch, x.t AS topic, x.p::int AS part, (x.r ->> 0)::bigint AS first, (x.r ->> 1)::bigint AS behind,
			       (SELECT count(*) FROM dim_marks m WHERE m.stream = '$name' AND m.batch < o.batch)::int AS version
			  FROM stream_agg.offsets o JOIN stream_agg.commits c USING (stream, batch), LATERAL (
				SELECT $only AS t, key AS p, value AS r FROM jsonb_each(ranges) WHERE jsonb_typeof(value) = 'array'
				UNION ALL
				SELECT y.key, z.key, z.value FROM jsonb_each(ranges) y, jsonb_each(y.value) z WHERE jsonb_typeof(y.value) = 'object') x
			 WHERE stream = '$name')
		SELECT *, $moves AND ts IS NOT NULL AS moves FROM (
			SELECT e.*, $passes AS passes FROM (
				SELECT a.*, batch, version FROM $topic->{name}_all a JOIN ranges ON _t = topic AND _p = part AND _o >= first AND _o < behind) e) e},
		failed_statements($topic, $stream),
		qq{CREATE TABLE ${prefix}_marks AS
		SELECT *, lag(after, 1, $start) OVER (ORDER BY batch) AS before FROM (} . watermarks($topic, $stream) . ') a',
		qq{CREATE TABLE ${prefix}_records AS
		SELECT r.*, GREATEST(before$own) AS before FROM ${prefix}_read r JOIN ${prefix}_marks USING (batch)});
	push @statements, rows_statement($topic, $stream) if needs_model($stream);
	return @statements;
}

# A record fails in WHERE, or if a row of it passes.
sub failed_statements
{
	my ($topic, $stream) = @_;
	my $prefix = "oracle.$stream->{name}";
	my $fails = !$stream->{poison} ? 'false' : $stream->{poison} eq 'WHERE' ? 'v = 0' : passes($stream, $topic->{topics}, 'e.v = 0');
	return ("CREATE TABLE ${prefix}_failed AS SELECT _t, _p, _o FROM ${prefix}_read e WHERE $fails",
		"DELETE FROM ${prefix}_read WHERE (_t, _p, _o) IN (SELECT _t, _p, _o FROM ${prefix}_failed)");
}

sub rows_statement
{
	my ($topic, $stream) = @_;
	my $keys = join(', ', map { "key$_" } 0 .. $#{ $stream->{keys} });
	my $key = $keys ? "dense_rank() OVER (ORDER BY $keys)" : 1;
	return "CREATE TABLE oracle.$stream->{name}_rows AS SELECT row_number() OVER (ORDER BY batch, _t COLLATE \"C\", _p, _o) AS id, $key AS key, x.* FROM ("
	  . oracle_rows($stream, "oracle.$stream->{name}_read", $topic->{topics}) . ') x';
}

# A query for what the model reads, and how it is called.
sub model_input
{
	my $stream = shift;
	my $gap = $stream->{gap} ? '(extract(epoch FROM gap) * 1000000)::bigint, ' : '';
	return "COPY (SELECT batch, (extract(epoch FROM ts) * 1000000)::bigint, ${gap}key, id FROM oracle.$stream->{name}_rows ORDER BY id) TO STDOUT";
}

# Run the model over that; returns the statement that makes _made.
sub model_result
{
	my ($stream, $input) = @_;
	my $name = "oracle.$stream->{name}";
	my $delay = $stream->{delay_us} // '\\N';
	my @model = $stream->{kind} eq 'session' ? ('model/session_model.py', $stream->{mode}, $delay) : ('model/deduplication_model.py', $delay);
	my ($output, $error, @values);

	$input .= "\n" if $input ne '';
	IPC::Run::run([ 'python3', @model ], '<', \$input, '>', \$output, '2>', \$error) or die "model: $error";
	for (split /\n/, $output)
	{
		my @fields = split /\t/;
		push @values, "($fields[1], $fields[2], $fields[3])" if $fields[0] eq 'session';
		push @values, "($fields[2], 0, 0)" if $fields[0] eq 'row';
	}
	push @values, '(NULL::bigint, 0, 0)' if !@values;
	my $keys = join('', map { ", key$_" } 0 .. $#{ $stream->{keys} });
	return "CREATE TABLE ${name}_made AS SELECT DISTINCT ON (_t, _p, _o, key) _t, _p, _o, id$keys,
		tstzrange('epoch'::timestamptz + s * interval '1 microsecond', 'epoch'::timestamptz + e * interval '1 microsecond') AS w
		FROM ${name}_rows JOIN (VALUES " . join(', ', @values) . ') m (id, s, e) USING (id) ORDER BY _t, _p, _o, key, id';
}

# What the stream's table has to hold; "open": together with open windows,
# "repaired": after repair_late.
sub expected_rows
{
	my ($topic, $stream, %how) = @_;
	my $prefix = "oracle.$stream->{name}";
	my @conditions;

	return 'SELECT ' . join(', ', map { "out$_" } 0 .. $#{ $stream->{outputs} }) . " FROM ${prefix}_rows JOIN ${prefix}_made USING (id)"
	  if $stream->{kind} eq 'distinct';
	my $closed = "upper(x.w) <= (SELECT max(after) FROM ${prefix}_marks)";
	push @conditions, 'upper(x.w) > e.before' . ($how{repaired} ? " OR $closed" : '') if $stream->{window} && defined $stream->{delay} && $stream->{mode} ne 'complete'
	  && $stream->{kind} ne 'session';
	push @conditions, $closed if $stream->{mode} eq 'append' && $stream->{window} && !$how{open};
	return oracle_query($stream, "${prefix}_records", $topic->{topics}, "${prefix}_made", @conditions);
}

# What becomes of a record e that passes: an expression.
sub class_of
{
	my $stream = shift;
	my $made = "EXISTS (SELECT FROM oracle.$stream->{name}_made m WHERE (m._t, m._p, m._o) = (e._t, e._p, e._o))";
	my $late = defined $stream->{delay} && $stream->{mode} ne 'complete';

	return q{'aggregated'} if $stream->{kind} =~ /rows|none/;
	return qq{CASE WHEN ts IS NULL THEN 'null_time' WHEN ts <= before THEN 'late' WHEN $made THEN 'aggregated' ELSE 'filtered' END}
	  if $stream->{kind} eq 'distinct';
	return qq{CASE WHEN ts IS NULL THEN 'null_time' WHEN NOT moves THEN 'filtered' WHEN $made THEN 'aggregated' ELSE 'late' END}
	  if $stream->{kind} eq 'session';
	my $windows = "EXISTS (SELECT FROM ($stream->{window}{ranges}) x";
	my $in_time = $late ? "$windows WHERE upper(w) > e.before)" : "$windows)";
	return qq{CASE WHEN ts IS NULL THEN 'null_time' WHEN $in_time THEN 'aggregated' WHEN $windows) THEN 'late' ELSE 'filtered' END};
}

# Pairs of a record and a window that it was late for, where a record is one row;
# else what was counted.
sub late_windows
{
	my $stream = shift;
	my $late = defined $stream->{delay} && $stream->{mode} ne 'complete' && $stream->{window} && $stream->{kind} ne 'session';
	return "(SELECT sum(late_windows) FROM stream_agg.commits WHERE stream = '$stream->{name}')" if $stream->{join} || $stream->{branches} || $stream->{kind} eq 'session';
	return 0 if !$late;
	return "(SELECT count(*) FROM oracle.$stream->{name}_records e, LATERAL ($stream->{window}{ranges}) x WHERE passes AND upper(w) <= e.before)";
}

# Queries for what is wrong with the windows that are open.
sub open_problems
{
	my ($topic, $stream) = @_;
	my $name = $stream->{name};
	my $got = "SELECT * FROM $name UNION ALL SELECT * FROM stream_agg.open_windows(NULL::$name)";
	my $expected = expected_rows($topic, $stream, open => 1);

	return () if $stream->{mode} ne 'append' || !$stream->{window};
	return ("SELECT 'with open windows lacks ' || left(x::text, 200) FROM (($expected) EXCEPT ALL ($got)) x",
		"SELECT 'with open windows has ' || left(x::text, 200) FROM (($got) EXCEPT ALL ($expected)) x");
}

# Queries for what is wrong with the late records that the stream has kept.
sub late_problems
{
	my $stream = shift;
	my $name = $stream->{name};
	my $ranges = $stream->{kind} eq 'session' ? "SELECT tstzrange(e.ts, e.ts + $stream->{gap}) AS w" : $stream->{window}{ranges};
	my $got = qq{SELECT topic, partition, "offset", event_time, (SELECT array_agg(w ORDER BY w) FROM unnest(windows) w)
		FROM stream_agg.late_records WHERE stream = '$name'};
	my $expected = "SELECT _t, _p, _o, ts, array_agg(w ORDER BY w) FROM oracle.${name}_records e, LATERAL ($ranges) x
		WHERE moves AND upper(w) <= before GROUP BY 1, 2, 3, 4";

	return () if !$stream->{late_records};
	return ("SELECT 'late records lack ' || left(x::text, 200) FROM (($expected) EXCEPT ALL ($got)) x",
		"SELECT 'late records have ' || left(x::text, 200) FROM (($got) EXCEPT ALL ($expected)) x");
}

# Can the windows of late records be made anew to equal a batch query?  Sessions
# cannot, joined tables are read as they are now, and records that fail fail again.
sub is_repairable
{
	my $stream = shift;
	return $stream->{late_records} && $stream->{kind} ne 'session' && !$stream->{poison} && !$stream->{hidden}{0}
	  && stream_query($stream, { main => 'm', other => 'o' }) !~ /\bdim\b/;
}

# The oracle after repair_late: windows that are closed have all their records,
# and nothing is late for them.
sub repaired_oracle
{
	my ($topic, $stream) = @_;
	my $name = $stream->{name};
	my $expected = expected_rows($topic, $stream, repaired => 1);
	return qq{
		WITH expected AS MATERIALIZED ($expected), got AS MATERIALIZED (SELECT * FROM $name)
		SELECT '$name: ' || what FROM (
			SELECT 'repaired lacks ' || left(x::text, 200) AS what FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM got) x
			UNION ALL
			SELECT 'repaired has ' || left(x::text, 200) FROM (SELECT * FROM got EXCEPT ALL SELECT * FROM expected) x
			UNION ALL
			SELECT 'still late for ' || w FROM stream_agg.late_records, unnest(windows) w
			 WHERE stream = '$name' AND upper(w) <= (SELECT max(after) FROM oracle.${name}_marks)) problems LIMIT 8};
}

# A query: one row, a text, for whatever is not as it has to be.
sub oracle
{
	my ($topic, $stream) = @_;
	my $name = $stream->{name};
	my $expected = expected_rows($topic, $stream);
	my $class = class_of($stream);
	my $topics = join(', ', map { "'$_'" } topics_of($topic, $stream));
	my $all = "(SELECT count(*) FROM $topic->{name}_all WHERE _t IN ($topics))";
	# of rate sources those that the stream has come to
	my $least = 0;
	if ($topic->{rate})
	{
		my %sources = map { $_->{source} => 1 } @{ $stream->{branches} // [ { source => 'main' } ] };
		$least += $topic->{least}{$_} for keys %sources;
		$all = "(SELECT COALESCE(sum(n), 0) FROM (SELECT max(_o) + 1 AS n FROM (SELECT _t, _p, _o FROM oracle.${name}_read
			UNION ALL SELECT _t, _p, _o FROM oracle.${name}_failed) r GROUP BY _t, _p) x)";
	}
	my $late_windows = late_windows($stream);
	# where the plan reads no record it meets no garbage
	my %read = map { $_ => 1 } topics_of($topic, $stream);
	my $bad = grep { $read{ $_->[0] } } @{ $topic->{bad} };
	my $unread = $stream->{condition} eq 'false' ? $bad : 0;
	my $failed = "(SELECT count(*) FROM oracle.${name}_failed)";
	my $refused = $bad - $unread . " + $failed";
	my $more = join(' UNION ALL ', '', open_problems($topic, $stream), late_problems($stream));
	my $letters = ($stream->{policy} // '') eq 'dead_letter' ? "($refused)" : 0;
	return qq{
		WITH expected AS MATERIALIZED ($expected),
		got AS MATERIALIZED (SELECT * FROM $name),
		classes AS MATERIALIZED (SELECT CASE WHEN passes THEN $class ELSE 'filtered' END AS class FROM oracle.${name}_records e)
		SELECT '$name: ' || what FROM (
			SELECT 'lacks ' || left(x::text, 200) AS what FROM (SELECT * FROM expected EXCEPT ALL SELECT * FROM got) x
			UNION ALL
			SELECT 'has ' || left(x::text, 200) FROM (SELECT * FROM got EXCEPT ALL SELECT * FROM expected) x
			UNION ALL
			SELECT 'read ' || count(*) || ' of ' || $all FROM oracle.${name}_read
			HAVING count(*) + $failed <> $all OR count(*) + $failed < $least OR count(DISTINCT (_t, _p, _o)) <> count(*)
			UNION ALL
			SELECT format('batch %s has watermark %s -> %s, expected %s -> %s', batch, o.watermark, c.watermark, before, after)
			  FROM oracle.${name}_marks JOIN stream_agg.offsets o USING (batch) JOIN stream_agg.commits c USING (stream, batch)
			 WHERE stream = '$name' AND (o.watermark <> before OR c.watermark <> after)
			UNION ALL
			SELECT format('counts of batch %s do not add up', batch) FROM stream_agg.commits
			 WHERE stream = '$name' AND delivered <> aggregated + late + null_time + dead_lettered + filtered
			UNION ALL
			SELECT count(*) || ' dead letters, expected ' || $letters FROM stream_agg.dead_letters WHERE stream = '$name'
			HAVING count(*) <> $letters
			UNION ALL
			SELECT 'counts are ' || got.c || ', expected ' || expected.c
			  FROM (SELECT concat_ws(' ', sum(delivered), sum(aggregated), sum(late), sum(null_time), sum(filtered), sum(dead_lettered), sum(late_windows)) AS c
			          FROM stream_agg.commits WHERE stream = '$name') got,
			       (SELECT concat_ws(' ', count(*) + $bad + $failed, count(*) FILTER (WHERE class = 'aggregated'), count(*) FILTER (WHERE class = 'late'),
			                         count(*) FILTER (WHERE class = 'null_time'), count(*) FILTER (WHERE class = 'filtered') + $unread, $refused, $late_windows) AS c
			          FROM classes) expected
			 WHERE got.c <> expected.c $more) problems LIMIT 8};
}

1;
