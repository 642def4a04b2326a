# What rows of the catalog and the logs can do that no stream has written: those of
# a dump that somebody has edited, and those that a stream has left behind.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1);
my $node = new_node('restored_rows', 'stream_agg.max_attempts = 1');
my $rng = seeded_random();
my @tables = qw(streams sources offsets commits state dead_letters late_records);

sub value { return $node->safe_psql('postgres', $_[0]); }

sub create
{
	my ($stream, $more) = @_;
	return value("SELECT stream_agg.create_stream('$stream', 'SELECT k, count(*) AS n FROM events GROUP BY k',
		output_mode => 'update', trigger => '20 days', options => '{\"on_error\": \"dead_letter\"}' @{[ $more // '' ]})");
}

create_source($node, $broker, 'events', 'events', 'k int');
$broker->produce('events', '{"k": 1}', '{"k": "no number"}', '{"k": 2}');
create('victim');
create('neighbour');
process($node, $_) for 'victim', 'neighbour';
value(q{INSERT INTO stream_agg.late_records VALUES ('victim', 0, 'events', 0, 0, now(), NULL, NULL, NULL, now(), '{}')});

# values by type, as SQL; the table's constraints may refuse them
my %hostile = (
	'text' => [ q{''}, q{'"'}, q{'a.b.c'}, q{repeat('x', 100000)}, 'NULL' ],
	'bigint' => [ '-1', '-9223372036854775808', '9223372036854775807', 'NULL' ],
	'integer' => [ '-1', '-2147483648', '2147483647', 'NULL' ],
	'double precision' => [ q{'NaN'}, q{'infinity'}, '-1' ],
	'boolean' => [ 'NULL', 'false', 'true' ],
	'interval' => [ q{'-1 day'}, q{'178000000 years'}, q{'1 month'}, 'NULL' ],
	'oid' => [ '0', '4294967295', q{'stream_agg.streams'::regclass} ],
	'regclass' => [ '0', '4294967295', q{'stream_agg.streams'::regclass} ],
	'oid[]' => [ q{'{}'}, q{'{NULL}'}, q{'{NULL,NULL,NULL}'}, q{'{{1,2},{3,4}}'}, q{'[-5:-4]={1,2}'}, q{array_fill(1::oid, ARRAY[10000])} ],
	'regclass[]' => [ q{'{}'}, q{'{NULL}'}, q{'{0,NULL}'}, q{'{{1,2},{3,4}}'}, q{'[-5:-4]={1,2}'}, q{array_fill(1::regclass, ARRAY[10000])}, 'NULL' ],
	'tstzrange[]' => [ q{'{}'}, q{'{NULL}'}, q{'{empty,"(,)"}'} ],
	'timestamp with time zone' => [ q{'-infinity'}, q{'infinity'}, q{'294276-12-31 UTC'}, q{'4714-11-24 UTC BC'}, 'NULL' ],
	'bytea' => [ q{''}, q{'\x00'}, q{decode(repeat('ff', 100), 'hex')} ],
	'jsonb' => [ 'NULL', q{'null'}, q{'[]'}, q{'1'}, q{'"x"'}, q{'{"x": null}'}, q{'{"0": -1}'}, q{'{"0": [9223372036854775807, -1]}'},
		q{'{"0": 1e400}'}, q{'{"on_error": {}, "max_future": [], "idle_timeout": "-1 s", "delivery": 7}'}, q{'{"99999999999": 1}'} ]);
my @columns = split /\n/, value(q{SELECT attrelid::regclass || '|' || quote_ident(attname) || '|' || format_type(atttypid, -1)
	FROM pg_attribute WHERE attrelid = ANY (ARRAY[} . join(',', map { "'stream_agg.$_'" } @tables) . q{]::regclass[])
	  AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum});
my @cases;
for my $column (@columns)
{
	my ($table, $name, $type) = split /\|/, $column;
	die "no hostile values of type $type" if !$hostile{$type};
	push @cases, [ $table, $name, $_ ] for @{ $hostile{$type} };
}

subtest 'no value of a column makes a view raise an error' => sub {
	# one that shall run, and is not in shared memory
	value(q{SELECT stream_agg.stop_stream('victim')});
	$node->restart;
	my $sql = join '', map {
		my ($table, $name, $value) = @$_;
		sprintf("PERFORM try(\$t\$UPDATE $table SET $name = %s WHERE stream = 'victim'\$t\$);\n", $value)
	} @cases;
	value(q{
		CREATE TABLE broken (tried text, error text);
		CREATE FUNCTION try(text) RETURNS void LANGUAGE plpgsql AS $$
		DECLARE
			message text;
		BEGIN
			BEGIN
				UPDATE stream_agg.streams SET enabled = true WHERE stream = 'victim';
				EXECUTE $1;
				BEGIN
					PERFORM v::text FROM pg_stat_stream_agg v;
					PERFORM v::text FROM pg_stat_stream_agg_partitions v;
				EXCEPTION WHEN OTHERS THEN
					message := SQLERRM;
				END;
				RAISE EXCEPTION 'roll back';
			EXCEPTION WHEN OTHERS THEN
				NULL;
			END;
			IF message IS NOT NULL THEN INSERT INTO broken VALUES (left($1, 100), message); END IF;
		END $$});
	value("DO \$do\$ BEGIN\n$sql END \$do\$");
	is(value('SELECT * FROM broken'), '', scalar(@cases) . ' values');
};

subtest 'rows that no stream has written are an error of their stream, and of no other' => sub {
	value("CREATE TABLE saved_$_ AS SELECT * FROM stream_agg.$_ WHERE stream = 'victim'") for @tables;
	my @tried = ([ 'stream_agg.streams', 'other_sources', q{'{NULL}'} ], [ 'stream_agg.streams', 'started_for', q{'{NULL}'} ],
		[ 'stream_agg.streams', 'options', q{'[]'} ]);
	my @rest = grep { $_->[1] !~ /^(stream|query|reader)$/ } @cases;
	push @tried, $rest[ $rng->(scalar @rest) ] for 1 .. 12;
	my $log = -s $node->logfile;
	for my $case (@tried)
	{
		my ($table, $name, $value) = @$case;
		my ($status) = $node->psql('postgres', "UPDATE $table SET $name = $value WHERE stream = 'victim'");
		if ($status == 0)
		{
			# the worker reads all of it, a scout the streams
			$node->psql('postgres', q{SELECT stream_agg.start_stream('victim')});
			$node->psql('postgres', q{SELECT stream_agg.process_available('victim', '200 ms')});
			# a scout makes all slots anew, that of the neighbour last
			value(q{UPDATE stream_agg.streams SET enabled = enabled WHERE stream = 'neighbour'});
			$node->restart if $name eq 'other_sources' || $name eq 'started_for';
			wait_state($node, 'neighbour', 'running');
			create('after');
			$broker->produce('events', '{"k": 3}');
			process($node, 'after');
			is(value('SELECT count(*) FROM after'), 3, "a new stream starts and reads beside $table.$name = $value");
			value(q{SELECT stream_agg.drop_stream('after', drop_sink => true)});
			$node->psql('postgres', q{SELECT stream_agg.stop_stream('victim')});
		}
		value("BEGIN; SET session_replication_role = replica; DELETE FROM stream_agg.$_ WHERE stream = 'victim';
			INSERT INTO stream_agg.$_ SELECT * FROM saved_$_; COMMIT") for @tables;
	}
	unlike(slurp_file($node->logfile, $log), qr/was terminated by signal/, 'and no process crashes');
	value(q{SELECT stream_agg.start_stream('victim')});
	process($node, 'victim');
	is_equal_tables($node, 'SELECT * FROM victim', 'SELECT * FROM neighbour', 'with its rows back the stream goes on') if process($node, 'neighbour');
};

subtest 'what a stream has left is not seen by, nor goes into, the next one of its name' => sub {
	value(q{
		CREATE ROLE mallory LOGIN;
		GRANT CREATE ON SCHEMA public TO mallory;
		GRANT SELECT ON events TO mallory;
		SELECT stream_agg.stop_stream('victim');
		DELETE FROM stream_agg.streams WHERE stream = 'victim';
		DROP VIEW victim_query; DROP TABLE victim});
	is(value(q{SELECT count(*) FROM stream_agg.dead_letters WHERE stream = 'victim'}), 1, 'rows are left');
	my ($status, $out, $err) = $node->psql('postgres', q{
		SELECT stream_agg.create_stream('victim', 'SELECT k, count(*) AS n FROM events GROUP BY k', output_mode => 'update',
			trigger => '20 days', start => false);}
		. join(';', map { "SELECT '$_', count(*) FROM stream_agg.$_ WHERE stream = 'victim'" } @tables), extra_params => [ '-U', 'mallory' ]);
	is($out, join("\n", 'victim', map { "$_|" . ($_ eq 'streams' ? 1 : 0) } @tables), 'the next owner sees none of them') or diag($err);
	value(q{SELECT stream_agg.drop_stream('victim', drop_sink => true)});
	create('victim');
	process($node, 'victim');
	is_equal_tables($node, 'SELECT * FROM victim', 'SELECT * FROM neighbour', 'and the next stream reads from the beginning');
	is(value(q{SELECT count(*) FROM stream_agg.dead_letters WHERE stream = 'victim'}), 1, 'with dead letters of its own');
};

done_testing();
