# The equation, at random: whatever the query, the mode, the size of the batches,
# the disorder of the records and the restarts, the sink equals the batch query
# over the records that were not late, with the joined table as it was when each
# was read; and every record is counted for what became of it.
#
# What queries are made of is in StreamAgg::RandomQuery, and what must come of
# them in StreamAgg::RandomOracle.  Streams come in groups that share topics and
# run at once.  RANDOM_GROUPS=n says how many groups there shall be.  A failure
# names its group; STREAM_AGG_SEED=seed RANDOM_GROUP=n runs that one again.
#
# Half as many groups, named rate1 and so on, read rate sources (StreamAgg::RandomRate)
# in the place of topics.

use strict;
use warnings;

use Digest::MD5 'md5';
use POSIX ();
use PostgreSQL::Test::Utils;
use StreamAgg::RandomOracle;
use StreamAgg::RandomQuery;
use StreamAgg::RandomRate;
use StreamAgg::Test;
use Test::More;

my $streams_per_group = 20;
my $groups = $ENV{RANDOM_GROUPS} // 10;
my $rounds = 3;
my $seed = seed();

my @modes = ('append', 'update', 'complete');
my @triggers = ('0', '0', '5 milliseconds', '20 days');
my @bounds = (undef, undef, 1, 3, 17, 100);
my @large_bounds = (undef, undef, 100, 1000);
my @executors = (1, 2, 3, 5);
my @policies = ('skip', 'dead_letter');
my @garbage = ('', 'no JSON', '{"v": 1', '{"v": 1}}', '[1]', "{\"t\": \"\\ud800\"}", '{"v": 01}');
# before records come, or while they are processed
my @restarts = ('none', 'none', 'none', 'stop', 'kill', 'kill busy', 'alter');
my @server_restarts = ('none', 'none', 'fast', 'immediate');
my @key_types = sort keys %values;
# what becomes of the joined table between two rounds; (1, 'g1') stays
my @dim_changes = ('', "UPDATE dim SET grp = 'g' || (id % 3) WHERE id > 1", 'DELETE FROM dim WHERE id = 2', "INSERT INTO dim VALUES (2, 'g2'), (10, NULL)",
	"TRUNCATE dim; INSERT INTO dim VALUES (1, 'g1'), (-4, 'new'), (3, 'g3')", "UPDATE dim SET id = id + 1 WHERE id > 1", "INSERT INTO dim SELECT id, 'twice' FROM dim");

# where times begin: January 1, and shortly before clocks are changed in America and Europe
my @bases = (1767225600, 1772935200, 1774731600, 1792879200, 1793494800);

my $rng;
sub one_of { return $_[ $rng->(scalar @_) ]; }

my $broker = start_broker('none' => 1);
my $node = new_node('random', 'max_worker_processes = 160', 'stream_agg.max_streams = 48', 'stream_agg.keep_batches = 1000000',
	"timezone = 'UTC'", 'fsync = off',
	# some groups have batches that do not fit into these
	'stream_agg.batch_memory = 1MB', 'stream_agg.fetch_memory = 1MB', 'stream_agg.max_poison_in_row = 1000000');
$node->safe_psql('postgres', q{
	CREATE DOMAIN few AS int CHECK (VALUE < 100);
	CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
	CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE FUNCTION pick_longer(text, text) RETURNS text LANGUAGE sql IMMUTABLE
		AS $$ SELECT CASE WHEN length($2) > length($1) OR length($2) = length($1) AND $2 > $1 THEN $2 ELSE $1 END $$;
	CREATE AGGREGATE longest(text) (SFUNC = pick_longer, STYPE = text, INITCOND = '');
	CREATE FUNCTION one_of(number bigint, salt bigint, n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
		AS $$ SELECT (hashint8extended(number, salt) & 9223372036854775807) % n $$;
	CREATE TABLE dim (id int, grp text);
	CREATE TABLE dim_versions (version int, id int, grp text);
	CREATE TABLE dim_marks (stream text, batch bigint);
	CREATE SCHEMA oracle});

# ---------- records ----------

# milliseconds since the topic's times began, and microseconds
sub timestamp
{
	my ($topic, $ms, $us) = @_;
	return POSIX::strftime('%Y-%m-%dT%H:%M:%S', gmtime($topic->{base} + int($ms / 1000))) . sprintf('.%06dZ', $ms % 1000 * 1000 + $us);
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
	return $ms + $topic->{base} * 1000 if $kind == 3;
	return '"' . timestamp($topic, $ms, $kind == 4 ? $rng->(1000) : 0) . '"';
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
	my $name = one_of(sort keys %{ $topic->{partitions} });
	return [ $name, $rng->($topic->{partitions}{$name}), '{' . join(',', map { "\"$_\":$record{$_}" } @fields) . '}' ];
}

# A source of one topic or several, all with the same columns.
sub create_source_of
{
	my ($source, $columns, @topics) = @_;
	my $of = @topics == 1 ? "topic => '$topics[0]'" : 'topics => ARRAY[' . join(', ', map { "'$_'" } @topics) . ']';
	my $brokers = $broker->brokers;
	$node->safe_psql('postgres', "SELECT stream_agg.create_source('$source', $of, brokers => '$brokers',
		columns => \$c\$$columns\$c\$, options => '{\"fetch.wait.max.ms\": 20}')");
	return;
}

# Two rate sources in the place of topics.
sub make_rate_sources
{
	my $topic = shift;
	my %rate = (main => one_of(3, 5), other => one_of(2, 4));
	my $start = $node->safe_psql('postgres', "SELECT date_trunc('second', now()) - interval '30 s'");

	for my $source ('main', 'other')
	{
		my $table = "$topic->{name}_$source";
		my $partitions = one_of(1, 2, 4);
		$node->safe_psql('postgres', "CREATE FOREIGN TABLE $table (number bigint, _t text OPTIONS (metadata 'topic'), _p int OPTIONS (metadata 'partition'),
			_o bigint OPTIONS (metadata 'offset')) SERVER stream_agg_rate OPTIONS (rows_per_second '$rate{$source}', partitions '$partitions', start '$start')");
		my $of = $node->safe_psql('postgres', "SELECT _t FROM $table LIMIT 1");
		$topic->{topics}{$source} = [$of];
		$topic->{partitions}{$of} = $partitions;
		$topic->{sources}{$source} = rate_relation($topic, $table);
	}
	return;
}

# The topics of a group: those of the main source and that of the other one.
sub make_topic
{
	my $group = shift;
	my $name = "r$group";
	my $rate = $group =~ /rate/;
	my $topic = {
		name => $name,
		rate => $rate,
		sources => { main => $name, other => "${name}_other" },
		topics => { main => [ $name, $rng->(3) ? () : "${name}_more" ], other => ["${name}_other"] },
		base => one_of(@bases),
		head => $rng->(2) * 3_600_000,
		pace => one_of(2, 400, 4000, 60_000, 900_000),
		grain => one_of(1, 1, 250, 1000, 30_000),
		types => [ map { one_of(@key_types) } 1 .. 4 ],
		garbage => !$rate && $group % 3 > 0,    # some records do not decode
		large => !$rate && $group % 10 == 4 ? 16 : 1 };    # times as many records
	my @columns = ('ts timestamptz', 'v int', 'n numeric', 'f float8', 't text', 'ok boolean', 'i interval',
		map({ "k$_ $topic->{types}[$_]" } 0 .. $#{ $topic->{types} }),
		map { "_$_->[0] $_->[1] OPTIONS (metadata '$_->[2]')" } [ 't', 'text', 'topic' ], [ 'p', 'int', 'partition' ], [ 'o', 'bigint', 'offset' ]);

	$topic->{pace_of_reader} = [ one_of($topic->{large} > 1 ? @large_bounds : @bounds), one_of(@triggers) ] if $rng->(2);
	$topic->{disorder} = $topic->{pace} * one_of(0, 1, 10, 100);
	$topic->{bad} = [];                                                            # [topic, partition, offset] of these
	if ($rate) { make_rate_sources($topic); return $topic; }
	$topic->{partitions} = { map { $_ => one_of(1, 2, 4, 6) } map { @$_ } @{ $topic->{topics} }{ 'main', 'other' } };
	$broker->create_topic($_, $topic->{partitions}{$_}) for sort keys %{ $topic->{partitions} };
	$topic->{next}{$_} = [ (0) x 6 ] for keys %{ $topic->{partitions} };
	create_source_of($name, join(', ', @columns), @{ $topic->{topics}{main} });
	create_source_of("${name}_other", join(', ', reverse @columns), @{ $topic->{topics}{other} });
	return $topic;
}

# Produce n records, some of them garbage if the topic is to have any.  One
# producer keeps their order, so the offset of each is known.
sub produce_records
{
	my ($topic, $n) = @_;
	my %records;
	return if $topic->{rate};    # they come by themselves
	for (1 .. $n * $topic->{large})
	{
		my ($name, $partition, $json) = @{ make_record($topic) };
		my $offset = $topic->{next}{$name}[$partition]++;
		if ($topic->{garbage} && $rng->(25) == 0)
		{
			$json = one_of(@garbage);
			push @{ $topic->{bad} }, [ $name, $partition, $offset ];
		}
		push @{ $records{$name} }, [ $partition, '', $json ];
	}
	$broker->produce($_, @{ $records{$_} }) for sort keys %records;
	return;
}

# The records of all sources that decode as a table: what lies between the others.
sub load_records
{
	my $topic = shift;
	my @parts;
	my $columns = join(', ', 'ts', 'v', 'n', 'f', 't', 'ok', 'i', map({ "k$_" } 0 .. $#{ $topic->{types} }), '_t', '_p', '_o');
	return "CREATE TABLE $topic->{name}_all AS " . join(' UNION ALL ', map { "SELECT $columns FROM $topic->{sources}{$_} e" } sort keys %{ $topic->{sources} }) if $topic->{rate};
	for my $source (sort keys %{ $topic->{sources} })
	{
		for my $place (map { my $t = $_; map { [ $t, $_ ] } 0 .. $topic->{partitions}{$t} - 1 } @{ $topic->{topics}{$source} })
		{
			my ($name, $partition) = @$place;
			my $where = "SELECT $columns FROM $topic->{sources}{$source} WHERE _t = '$name' AND _p = $partition AND";
			my $from = 0;
			for my $bad (sort { $a <=> $b } map { $_->[2] } grep { $_->[0] eq $name && $_->[1] == $partition } @{ $topic->{bad} })
			{
				push @parts, "$where _o >= $from AND _o < $bad" if $from < $bad;
				$from = $bad + 1;
			}
			push @parts, "$where _o >= $from";
		}
	}
	return "CREATE TABLE $topic->{name}_all AS " . join(' UNION ALL ', @parts);
}

# ---------- streams ----------

sub make_stream
{
	my ($topic, $name) = @_;
	my $stream = random_query(one_of(@modes), $topic, \&one_of, $rng);

	$stream->{name} = $name;
	$stream->{bound} = one_of($topic->{large} > 1 ? @large_bounds : @bounds);
	$stream->{trigger} = one_of(@triggers);
	# streams that share a reader have the same source and the same pace
	if ($topic->{pace_of_reader} && !$stream->{branches} && $rng->(2))
	{
		$stream->{reader} = "reader_of_$topic->{name}";
		($stream->{bound}, $stream->{trigger}) = @{ $topic->{pace_of_reader} };
	}
	elsif (!defined $stream->{bound} && $rng->(5) == 0) { $stream->{least} = one_of(2, 10); }
	$stream->{executors} = $stream->{reader} ? 1 : one_of(@executors);
	$stream->{patient} = 1 if defined $stream->{delay} && $rng->(4) == 0;
	$stream->{memory} = one_of('0', '1kB', '4kB', '30kB', '300kB') if $rng->(2);
	$stream->{policy} = one_of(@policies) if $topic->{garbage} || $stream->{poison} || $rng->(3) == 0;
	return $stream;
}

sub create_stream
{
	my ($topic, $stream) = @_;
	my @arguments = ("'$stream->{name}'", '$q$' . stream_query($stream, $topic->{sources}) . '$q$',
		"output_mode => '$stream->{mode}'", "trigger => '$stream->{trigger}'");

	push @arguments, "watermark => '$stream->{delay}'" if defined $stream->{delay};
	push @arguments, "max_offsets_per_trigger => $stream->{bound}" if $stream->{bound};
	my @options = ($stream->{policy} ? "\"on_error\": \"$stream->{policy}\"" : (),
		$stream->{per_partition} ? '"watermark_policy": "per_partition"' : !$stream->{aligned} ? '"watermark_policy": "global"' : ());
	push @options, '"late_records": true' if $stream->{late_records};
	# these make no difference to the result
	push @options, '"idle_timeout": "1 day"' if $stream->{patient};
	push @options, '"min_offsets_per_trigger": ' . $stream->{least} if $stream->{least};
	push @options, "\"state_memory\": \"$stream->{memory}\"" if defined $stream->{memory};
	push @options, '"executors": ' . $stream->{executors} if $stream->{executors} > 1;
	push @arguments, "reader => '$stream->{reader}'" if $stream->{reader};
	push @arguments, 'event_time => \'ts\'' if $stream->{event_time};
	push @arguments, "options => '{" . join(', ', @options) . "}'" if @options;
	return 'SELECT stream_agg.create_stream(' . join(', ', @arguments) . ')';
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
		my $kill = "DO \$\$ BEGIN PERFORM pg_terminate_backend(pid) FROM pg_stat_stream_agg WHERE stream = '$stream->{name}'; END \$\$";
		push @before, $kill if $how eq 'kill';
		push @after, $kill if $how eq 'kill busy';
		push @after, "SELECT stream_agg.alter_stream('$stream->{name}', max_offsets_per_trigger => " . one_of(0, 40, $stream->{bound} // 7) . ')'
		  if $how eq 'alter' && !$stream->{reader} && !$stream->{least};
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

# What of the streams is not as it has to be.
sub compare_streams
{
	my ($topic, @streams) = @_;
	my @modelled = grep { needs_model($_) } @streams;
	my @problems = grep { /ERROR/ } run_all('SET client_min_messages = error', 'DROP SCHEMA oracle CASCADE', 'CREATE SCHEMA oracle',
		load_records($topic), "ANALYZE $topic->{name}_all", map { prepare_oracle($topic, $_) } @streams);
	return @problems if @problems;
	my @results = map { model_result($_, $node->safe_psql('postgres', model_input($_))) } @modelled;
	push @problems, grep { /ERROR/ } run_all(@results) if @results;
	push @problems, run_all(map { oracle($topic, $_) } @streams);
	my @repairable = grep { is_repairable($_) } @streams;
	push @problems, grep { /ERROR/ } run_all(map { "SELECT FROM stream_agg.repair_late('$_->{name}')" } @repairable);
	return (@problems, run_all(map { repaired_oracle($topic, $_) } @repairable));
}

my ($scenarios, $late, $batches, $refused) = (0, 0, 0, 0);
my %kinds;

sub run_group
{
	my $group = shift;
	# groups and seeds next to each other have nothing in common
	$rng = seeded_random(unpack('N', md5("$seed $group")) & 0x7fffffff);
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
		$topic->{least} = { map { $_ => $node->safe_psql('postgres', "SELECT count(*) FROM $topic->{name}_$_") } keys %{ $topic->{sources} } } if $topic->{rate};
		push @problems, grep { /ERROR/ } run_all(map { "SELECT FROM stream_agg.process_available('$_->{name}', '2 minutes')" } @running);
		# rows of rate sources do not end, and each is to be read with the joined table as it was
		push @problems, grep { /ERROR/ } run_all(map { "SELECT FROM stream_agg.stop_stream('$_->{name}')" } @running) if $topic->{rate};
		push @problems, change_dim($round, one_of(@dim_changes));
		push @problems, grep { /ERROR/ } run_all(map { "SELECT FROM stream_agg.start_stream('$_->{name}')" } @running) if $topic->{rate} && $round < $rounds;
	}
	push @problems, run_all("SELECT stream || ': ' || last_error FROM pg_stat_stream_agg WHERE state = 'failed'");
	push @problems, eval { compare_streams($topic, @running) };
	push @problems, "$@" if $@;
	my ($late_here, $refused_here, $batches_here) = split /\|/, $node->safe_psql('postgres',
		"SELECT COALESCE(sum(late), 0), COALESCE(sum(dead_lettered), 0), count(*) FROM stream_agg.commits WHERE stream LIKE 's${group}\\_%'");
	$late += $late_here;
	$refused += $refused_here;
	$batches += $batches_here;
	$scenarios += @running;
	$kinds{ $_->{kind} }++ for @running;
	$kinds{'UNION ALL'}++ for grep { $_->{branches} } @running;
	$kinds{'with failing records'}++ for grep { $_->{poison} } @running;
	$kinds{'of rate sources'} += @running if $topic->{rate};
	$kinds{repaired}++ for grep { is_repairable($_) } @running;
	$kinds{'of a shared reader'}++ for grep { $_->{reader} } @running;
	$kinds{'dealt to executors'} += $node->safe_psql('postgres',
		"SELECT count(DISTINCT stream) FROM stream_agg.offsets WHERE stream LIKE 's${group}\\_%' AND dealt <> '{}'");
	$kinds{per_partition}++ for grep { $_->{per_partition} } @running;
	$kinds{aligned}++ for grep { $_->{aligned} && defined $_->{delay} } @running;
	push @problems, grep { /ERROR/ } run_all(map { "SELECT stream_agg.drop_stream('$_->{name}', drop_sink => true)" } @running);

	my %wrong = map { /\b(s${group}_\d+)\b/ ? ($1 => 1) : () } @problems;
	ok(!@problems, "group $group of seed $seed: " . scalar(@running) . ' streams equal their batch queries') or diag(join("\n", @problems,
		map({ create_stream($topic, $_) } grep { $wrong{ $_->{name} } } @streams),
		'columns: ' . join(', ', @{ $topic->{types} }) . '; ' . join(', ', map { "$_: $topic->{partitions}{$_} partitions" } sort keys %{ $topic->{partitions} }),
		"again: STREAM_AGG_SEED=$seed RANDOM_GROUP=$group test/run random_equation.pl"));
	return;
}

if (defined $ENV{RANDOM_GROUP})
{
	run_group($_) for split ' ', $ENV{RANDOM_GROUP};
}
else
{
	run_group($_) for 1 .. $groups, map { "rate$_" } 1 .. $groups / 2;
	cmp_ok($late, '>', 0, 'some records were late');
	cmp_ok($refused, '>', 0, 'and some could not be processed');
}
diag('figures: ' . join(', ', map { "$kinds{$_} $_" } sort keys %kinds));
diag("figures: $scenarios streams, $batches batches, $late late records, $refused that do not decode");

done_testing();
