# What every function says of a stream whose sink, source or query is not there any
# more, or is something else: an error with a code of its own, never an internal one,
# and no process crashes.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(events => 1);
my $node = new_node('gone_relations', 'restart_after_crash = on', 'stream_agg.max_attempts = 1');

sub value { return $node->safe_psql('postgres', $_[0]); }

create_source($node, $broker, 'events', 'events', 'ts timestamptz, k int, v int');
$broker->produce('events', map { sprintf '{"ts":"2026-01-01T00:%02d:00Z","k":%d,"v":1}', $_ % 60, $_ % 3 } 1 .. 20);
my %query = (
	u => q{SELECT k, count(*) AS n, sum(v) AS total FROM events GROUP BY k},
	a => q{SELECT stream_agg.tumble(ts, '1 minute') AS win, k, count(*) AS n, sum(v) AS total FROM events GROUP BY 1, 2});
value("SELECT stream_agg.create_stream('u', \$q\$$query{u}\$q\$, output_mode => 'update', trigger => '20 days')");
value("SELECT stream_agg.create_stream('a', \$q\$$query{a}\$q\$, watermark => '5 minutes', trigger => '20 days', options => '{\"late_records\": true}')");
process($node, $_) for 'u', 'a';
value(q{SELECT stream_agg.stop_stream(stream) FROM stream_agg.streams; CREATE VIEW other AS SELECT 1 AS k; CREATE TABLE plain (k int)});

# every function of the extension, as SQL; '' for those that take no stream
my %calls = (
	create_stream => [ q{stream_agg.create_stream('$s', '$q', output_mode => 'update', if_not_exists => true)} ],
	drop_stream => [ q{stream_agg.drop_stream('$s')}, q{stream_agg.drop_stream('$s', drop_sink => true)} ],
	start_stream => [ q{stream_agg.start_stream('$s')} ],
	stop_stream => [ q{stream_agg.stop_stream('$s')} ],
	alter_stream => [
		q{stream_agg.alter_stream('$s', options => '{"on_error": "skip"}')},
		q{stream_agg.alter_stream('$s', options => '{"watermark_policy": "per_partition"}')},
		q{stream_agg.alter_stream('$s', options => '{"delivery": "at_least_once"}')},
		q{stream_agg.alter_stream('$s', trigger => '1 s')},
		q{stream_agg.alter_stream('$s', query => '$added')},
		q{stream_agg.alter_stream('$s', query => '$removed')},
		q{stream_agg.alter_stream('$s', query => '$q')} ],
	delete_dead_letters => [ q{stream_agg.delete_dead_letters('$s')} ],
	delete_failed_windows => [ q{stream_agg.delete_failed_windows('$s')} ],
	delete_late_records => [ q{stream_agg.delete_late_records('$s')} ],
	repair_late => [ q{stream_agg.repair_late('$s')} ],
	reset_stream => [ q{stream_agg.reset_stream('$s')}, q{stream_agg.reset_stream('$s', results => true)} ],
	process_available => [ q{stream_agg.process_available('$s', '50 ms')} ],
	open_windows => [ q{stream_agg.open_windows(NULL::$s)}, q{stream_agg.open_windows(NULL::plain)} ],
	create_live_view => [ q{stream_agg.create_live_view('$s')} ],
	preview => [ q{stream_agg.preview('$s')}, q{stream_agg.preview('$q', output_mode => 'update')} ],
	explain_stream => [ q{stream_agg.explain_stream('$s')} ],
	drop_source => [ q{stream_agg.drop_source('events')} ],
	create_source => [ q{stream_agg.create_source('more', topic => 'more', columns => 'k int', brokers => 'localhost:1')} ],
	has_owners => [ q{(SELECT stream_agg.has_owners(started_for, query, sink, source, other_sources) FROM stream_agg.streams WHERE stream = '$s')} ],
	is_owner => [ q{(SELECT stream_agg.is_owner(query) FROM stream_agg.streams WHERE stream = '$s')} ],
	waiting_reason => [ q{stream_agg.waiting_reason(4294967295)}, q{stream_agg.waiting_reason(0)} ],
	stat_streams => [ 'pg_stat_stream_agg' ],
	stat_partitions => [ 'pg_stat_stream_agg_partitions' ],
	(map { $_ => [] } qw(describe_topic tumble tumble_start tumble_end hop session
		first last top_n top_n_accumulate top_n_combine top_n_serialize top_n_deserialize top_n_final first_accumulate last_accumulate first_combine last_combine timed_value_serialize timed_value_deserialize timed_value_final kafka_handler kafka_validator rate_handler rate_validator on_insert on_sql_drop on_ddl_command_end)));
is(value(q{SELECT string_agg(DISTINCT proname, ' ' ORDER BY proname) FROM pg_proc WHERE pronamespace = 'stream_agg'::regnamespace}),
	join(' ', sort keys %calls), 'every function is called');

my @gone = (q{DROP TABLE $s}, q{SET LOCAL session_replication_role = replica; DROP VIEW $s_query},
	q{SET LOCAL session_replication_role = replica; DROP TABLE $s},
	q{SET LOCAL session_replication_role = replica; DROP FOREIGN TABLE events CASCADE});
for my $column (qw(sink source query))
{
	push @gone, "UPDATE stream_agg.streams SET $column = $_ WHERE stream = '\$s'"
	  for '0', '4294967295', q{'events'::regclass}, q{'plain'::regclass}, q{'other'::regclass}, q{'u'::regclass}, q{'pg_class_oid_index'::regclass};
}
push @gone, "UPDATE stream_agg.streams SET other_sources = $_ WHERE stream = '\$s'" for q{'{0}'}, q{'{4294967295}'}, q{ARRAY['plain'::regclass]};

value(q{
	CREATE TABLE tried (gone text, call text, state text, message text);
	CREATE FUNCTION try(gone text, call text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		state text := 'done';
		message text;
	BEGIN
		BEGIN
			EXECUTE gone;
			BEGIN
				EXECUTE 'SELECT * FROM ' || call;
			EXCEPTION WHEN OTHERS THEN
				state := SQLSTATE;
				message := SQLERRM;
			END;
			RAISE EXCEPTION 'rolled back' USING ERRCODE = 'ZZ000';
		EXCEPTION
			WHEN SQLSTATE 'ZZ000' THEN NULL;
			WHEN OTHERS THEN
				state := 'not tried';
				message := SQLERRM;
		END;
		INSERT INTO tried VALUES (gone, call, state, message);
	END $$});

subtest 'functions on streams whose sink, source or query is gone or something else' => sub {
	my $log = -s $node->logfile;
	my @broken;
	for my $s (sort keys %query)
	{
		my %text = (s => $s, q => $query{$s}, added => $query{$s} =~ s/ FROM/, max(v) AS top FROM/r, removed => $query{$s} =~ s/, sum\(v\) AS total//r);
		for my $gone (@gone)
		{
			my $sql = join '', map {
				my $call = $_ =~ s/\$(\w+)/$text{$1} =~ s{'}{''}gr/ger;
				my $damage = $gone =~ s/\$s/$s/gr;
				"SELECT try(\$t\$$damage\$t\$, \$t\$$call\$t\$);\n"
			} map { @{ $calls{$_} } } sort keys %calls;
			my ($status, undef, $err) = $node->psql('postgres', "SET client_min_messages = error; $sql");
			if ($status != 0)
			{
				push @broken, "$gone: $err";
				$node->poll_query_until('postgres', 'SELECT true');
			}
		}
	}
	is(join("\n", @broken), '', 'no session ends');
	is(value(q{SELECT DISTINCT * FROM tried WHERE state IN ('XX000', 'XX001', 'XX002', 'not tried')}), '', 'no error is an internal one');
	note(value(q{SELECT state, count(*), min(message) FROM tried GROUP BY state ORDER BY 2 DESC}));
	cmp_ok(value('SELECT count(*) FROM tried'), '>', 1000, 'calls are made');
	unlike(slurp_file($node->logfile, $log), qr/was terminated by signal/, 'no process crashes');
};

subtest 'another query for a stream whose sink was dropped is refused, with a hint' => sub {
	value('DROP TABLE u');
	for my $query ('SELECT k, count(*) AS n, sum(v) AS total, max(v) AS top FROM events GROUP BY k', 'SELECT k, count(*) AS n FROM events GROUP BY k')
	{
		my ($status, undef, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT stream_agg.alter_stream('u', query => '$query')");
		like($err, qr/ERROR:  42P01: the sink of stream "u" does not exist.*HINT:  Drop the stream and create it again/s, 'a column more or less');
	}
	value(q{SELECT stream_agg.start_stream('u')});
	$broker->produce('events', '{"ts":"2026-01-01T01:00:00Z","k":1,"v":1}');
	$node->psql('postgres', q{SELECT stream_agg.process_available('u')});
	wait_state($node, 'u', 'failed', 'sink of the stream does not exist');
	value(q{SELECT stream_agg.drop_stream('u', drop_sink => true)});
	is(value(q{SELECT count(*) FROM stream_agg.streams WHERE stream = 'u'}), 0, 'it can be dropped');
};

done_testing();
