# retention: rows of windows that the watermark has passed by more leave the sink,
# a bounded number in each micro-batch, and do not come back.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker(ret => 1, ahead => 1);
chomp(my $libraries = `pg_config --pkglibdir`);
my $explains = -e "$libraries/auto_explain.so";
my $node = new_node('retention', 'timezone = UTC', 'max_worker_processes = 64', 'autovacuum = off', q{shared_preload_libraries = 'stream_agg} . ($explains ? q{,auto_explain'} : q{'}));
create_source($node, $broker, 'ret', 'ret', 'ts timestamptz, k int');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub said { my (undef, undef, $err) = $node->psql('postgres', $_[0]); return $err; }
sub produce { $broker->produce('ret', map { [ 0, '', sprintf('{"ts": "2026-01-%02dT%02d:%02d:00Z", "k": %d}', 1 + $_ / 1440, $_ / 60 % 24, $_ % 60, $_ % 7) ] } @_); return; }
sub call { my ($stream, $query, $options, $more) = @_; return "SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, watermark => '1 minute', trigger => '20 days', options => '$options' " . ($more // '') . ')'; }
sub create { my ($stream) = @_; sql(call(@_)); process($node, $stream); return; }

my $minute = q{SELECT stream_agg.tumble(ts, '1 minute') AS w, k, count(*) AS n FROM ret GROUP BY 1, 2};
my $option = '{"retention": "10 minutes"}';
my %streams = (
	appended => [ $minute, $option ],
	updated => [ $minute, $option, q{, output_mode => 'update'} ],
	starts => [ q{SELECT lower(stream_agg.tumble(ts, '1 minute')) AS window_start, count(*) AS n FROM ret GROUP BY stream_agg.tumble(ts, '1 minute')}, $option ],
	ends => [ q{SELECT upper(stream_agg.tumble(ts, '1 minute')) AS window_end, count(*) AS n FROM ret GROUP BY stream_agg.tumble(ts, '1 minute')}, $option ],
	hop => [ q{SELECT w, count(*) AS n FROM ret, stream_agg.hop(ts, '1 minute', '3 minutes') w GROUP BY w}, $option, q{, output_mode => 'update'} ],
	days => [ q{SELECT stream_agg.tumble(ts, '1 day', timezone => 'UTC') AS w, count(*) AS n FROM ret GROUP BY 1}, $option, q{, output_mode => 'update'} ],
	sessions => [ q{SELECT stream_agg.session(ts, '30 seconds') AS s, count(*) AS n FROM ret GROUP BY 1}, $option ],
	binned => [ q{SELECT date_bin('1 minute', ts, '2026-01-01') AS b, count(*) AS n FROM ret GROUP BY 1}, $option, q{, output_mode => 'update'} ],
	ever => [ $minute, '{"retention": null}' ]);

subtest 'rows leave when the watermark has passed their window by the retention' => sub {
	produce(0 .. 30);
	create($_, @{ $streams{$_} }) for sort keys %streams;
	# the first micro-batch left a watermark of 00:29
	produce(31);
	process($node, $_) for sort keys %streams;
	is(sql('SELECT min(upper(w)), count(*) FROM appended'), '2026-01-01 00:20:00+00|11', 'append: windows that end after 00:19, the watermark of the commit before less 10 minutes');
	is(sql('SELECT min(upper(w)), count(*) FROM updated'), '2026-01-01 00:20:00+00|13', 'update');
	is(sql('SELECT min(window_start), count(*) FROM starts'), '2026-01-01 00:19:00+00|11', 'by the start of windows');
	is(sql('SELECT min(window_end), count(*) FROM ends'), '2026-01-01 00:20:00+00|11', 'by their end');
	is(sql('SELECT min(upper(w)) FROM hop'), '2026-01-01 00:20:00+00', 'of sliding windows');
	is(sql('SELECT min(upper(s)) FROM sessions'), '2026-01-01 00:19:30+00', 'of sessions');
	is(sql('SELECT min(b) FROM binned'), '2026-01-01 00:19:00+00', 'of date_bin');
	is(sql('SELECT n FROM days'), 32, 'a day that is open stays');
	is(sql('SELECT count(*) FROM ever'), 30, 'null is for ever');
	is(sql(q{SELECT rows_expired, rows_removed FROM pg_stat_stream_agg WHERE stream = 'updated'}), '19|0', 'those of a backlog are not written at all, and counted');
	is(sql(q{SELECT sum(expired), max(total_expired) FROM stream_agg.commits WHERE stream = 'updated'}), '19|19', 'by micro-batch, too');
};

subtest 'a backlog writes no rows that are older, and a window that can change stays' => sub {
	produce(1440);
	process($node, $_) for sort keys %streams;
	is(sql('SELECT count(*) FROM appended WHERE upper(w) > $$2026-01-01 00:20+00$$ AND upper(w) < $$2026-01-01 23:49+00$$'), 10, 'what was there goes with the next one');
	produce(1441, 1442);
	process($node, $_) for sort keys %streams;
	is(sql('SELECT count(*) FROM appended'), 1, 'and is gone');
	is(sql('SELECT count(*) FROM updated'), 3, 'update');
	is(sql(q{SELECT rows_expired - rows_removed FROM pg_stat_stream_agg WHERE stream = 'updated'}), 19, 'rows that were there are removed ones, too');
	is(sql('SELECT count(*) FROM days'), 2, 'a day that ended a minute ago stays');
	is(sql('SELECT count(*) FROM ever'), 33, 'for ever');
	sql(q{SELECT stream_agg.reset_stream('appended', results => true)});
	process($node, 'appended');
	is(sql('SELECT min(upper(w)), count(*) FROM appended'), '2026-01-02 00:01:00+00|1', 'nor does a reset bring them back');
	is(sql(q{SELECT sum(expired) > 30 FROM stream_agg.commits WHERE stream = 'appended' AND batch = (SELECT max(batch) FROM stream_agg.commits WHERE stream = 'appended' AND delivered > 30)}), 't', 'which is counted');
};

subtest 'a bounded number of rows, by the index' => sub {
	sql(q{ALTER ROLE postgres SET auto_explain.log_min_duration = 0}) if $explains;
	sql(q{SELECT stream_agg.stop_stream('appended')});
	sql(q{SELECT stream_agg.start_stream('appended')});
	my $offset = -s $node->logfile;
	sql(q{INSERT INTO appended SELECT tstzrange('2025-01-01 00:00+00'::timestamptz + i * interval '1 minute', '2025-01-01 00:01+00'::timestamptz + i * interval '1 minute'), 1, 1 FROM generate_series(0, 24999) i; ANALYZE appended});
	my @left;
	for my $i (1 .. 3)
	{
		produce(1442 + $i);
		process($node, 'appended');
		push @left, sql(q{SELECT count(*) FROM appended WHERE w < tstzrange('2025-12-31', NULL)});
	}
	is("@left", '15000 5000 0', '10,000 in each micro-batch, until all are gone');
	is(sql(q{SELECT string_agg(expired::text, ' ' ORDER BY batch) FROM (SELECT batch, expired FROM stream_agg.commits WHERE stream = 'appended' ORDER BY batch DESC LIMIT 3) c}), '10000 10000 5000', 'as counted');
	return if !$explains;
	my ($plan) = PostgreSQL::Test::Utils::slurp_file($node->logfile, $offset) =~ /(Query Text: DELETE FROM ONLY public\.appended .*?)\n\S/s;
	like($plan, qr/Limit .*Index Scan using \w+ on appended d .*Tid Scan on appended/s, 'by the index, and by the place of rows');
	unlike($plan, qr/Seq Scan|Sort/, 'nothing is scanned or sorted');
};

subtest 'alter_stream sets and unsets it, replayed after a crash' => sub {
	sql(q{SELECT stream_agg.alter_stream('ever', '{"retention": "5 minutes"}')});
	is(sql(q{SELECT options ->> 'retention' FROM stream_agg.streams WHERE stream = 'ever'}), '00:05:00', 'set');
	$node->stop('immediate');
	$node->start;
	process($node, 'ever');
	produce(1450);
	process($node, 'ever');
	cmp_ok(sql('SELECT count(*) FROM ever'), '<', 10, 'rows go by it');
	sql(q{SELECT stream_agg.alter_stream('ever', '{"retention": null}')});
	is(sql(q{SELECT options ? 'retention' FROM stream_agg.streams WHERE stream = 'ever'}), 'f', 'unset');
	my $rows = sql('SELECT count(*) FROM ever');
	produce(2000);
	process($node, 'ever');
	cmp_ok(sql('SELECT count(*) FROM ever'), '>', $rows, 'and none goes any more');
};

subtest 'repair_late does not bring rows back' => sub {
	create('late', $minute, '{"late_records": true, "retention": "10 minutes"}');
	produce(1, 1995);
	process($node, 'late');
	is(sql(q{SELECT win, repaired, reason FROM stream_agg.repair_late('late') ORDER BY 1 LIMIT 1}), q{["2026-01-01 00:01:00+00","2026-01-01 00:02:00+00")|f|it is older than the stream's retention}, 'it says why');
	is(sql(q{SELECT count(*) FROM late WHERE w < tstzrange('2026-01-02', NULL)}), 0, 'no row');
};

subtest 'a record of the future removes no other results' => sub {
	create_source($node, $broker, 'ahead', 'ahead', 'ts timestamptz, k text, loc timestamp');
	my $now = time;
	my $send = sub { $broker->produce('ahead', map { my $at = POSIX::strftime('%Y-%m-%dT%H:%M:%S', gmtime($now + 60 * $_)); [ 0, '', qq({"ts": "${at}Z", "loc": "$at", "k": "$_"}) ] } @_); return; };
	my $by = q{SELECT %s AS w, count(*) AS n FROM ahead GROUP BY 1};
	my %ahead = (
		ahead_updated => [ sprintf($by, q{stream_agg.tumble_start(ts, '1 minute')}), '{"retention": "12 hours"}', q{, output_mode => 'update'} ],
		ahead_appended => [ sprintf($by, q{stream_agg.tumble_start(ts, '1 minute')}), '{"retention": "12 hours", "late_records": true}' ],
		# its clock is 12 hours behind event times
		ahead_local => [ sprintf($by, q{date_bin('1 minute', loc, '2026-01-01')}), '{"retention": "20 minutes", "max_future": "2 days"}', q{, output_mode => 'update'} ]);
	$send->(-50 .. 0);
	sql(q{ALTER ROLE postgres SET TimeZone = '<-12>+12'});
	create('ahead_local', @{ $ahead{ahead_local} });
	sql('ALTER ROLE postgres RESET TimeZone');
	create($_, @{ $ahead{$_} }) for qw(ahead_updated ahead_appended);
	sql(q{INSERT INTO ahead_updated SELECT now() - interval '14 hours', 1});
	# two more batches: the second one begins with the watermark of the first
	for my $at ([ 23 * 60 + 55 ], [ 0 ], [ 0 ])
	{
		$send->(@$at);
		process($node, $_) for sort keys %ahead;
	}
	is(sql(q{SELECT date_trunc('hour', watermark - now()) FROM pg_stat_stream_agg WHERE stream = 'ahead_updated'}), '23:00:00', 'the watermark is of the future');
	is(sql('SELECT count(*) FROM ahead_updated WHERE w > now() - interval $$2 hours$$'), 52, 'update: all rows stay');
	is(sql('SELECT count(*) FROM ahead_appended'), 51, 'append: those of windows that close by that watermark are written, and stay');
	is(sql('SELECT count(*) FROM ahead_local'), 52, 'the clock is that of the time zone of the stream');
	is(sql('SELECT count(*) FROM ahead_updated WHERE w < now() - interval $$13 hours$$'), 0, 'older rows go by the clock');
	is(sql(q{SELECT bool_and(repaired), min(reason) FROM stream_agg.repair_late('ahead_appended')}), 't|', 'repair_late, too, takes windows as old as they are');
};

subtest 'rows are deleted as the owner of the stream' => sub {
	sql(q{CREATE ROLE keeper LOGIN; CREATE SCHEMA keeping AUTHORIZATION keeper; GRANT SELECT ON ret TO keeper;
		CREATE TABLE theirs (w tstzrange, k int, n bigint); CREATE INDEX ON theirs (w); GRANT INSERT, SELECT ON theirs TO keeper;
		CREATE TABLE deleted_by (who name); GRANT INSERT ON deleted_by TO keeper;
		CREATE FUNCTION note_who() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO deleted_by VALUES (current_user); RETURN NULL; END';
		CREATE TRIGGER note AFTER DELETE ON theirs FOR EACH STATEMENT EXECUTE FUNCTION note_who();
		INSERT INTO theirs VALUES ('[2020-01-01,2020-01-02)', 1, 1)});
	my $call = call('keeping.kept', $minute, $option, q{, sink => 'theirs'});
	like(said("SET ROLE keeper; $call"), qr/ERROR:  permission denied for sink "theirs"\nDETAIL:  For retention the stream's owner needs SELECT and DELETE/, 'who needs DELETE on the sink');
	sql("GRANT DELETE ON theirs TO keeper; SET ROLE keeper; $call");
	process($node, 'keeping.kept');
	produce(2020);
	process($node, 'keeping.kept');
	is(sql('SELECT DISTINCT who FROM deleted_by'), 'keeper', 'and is who deletes');
	is(sql('SELECT count(*) FROM theirs WHERE lower(w) < $$2026-01-01$$'), 0, 'what is there from before, too');
};

subtest 'what is refused' => sub {
	my $refused = sub { my ($expected, @call) = @_; like(said(call('no', @call)), $expected, $expected); };
	$refused->(qr/ERROR:  retention must not be negative/, $minute, '{"retention": "-1 minute"}');
	$refused->(qr/ERROR:  retention is for streams that write windows into a table/, $minute, $option, q{, output_mode => 'complete'});
	$refused->(qr/ERROR:  retention is for streams that write windows into a table/, 'SELECT k, count(*) FROM ret GROUP BY k', $option, q{, output_mode => 'update', event_time => 'ts'});
	$refused->(qr/ERROR:  retention is for streams that write windows into a table/, 'SELECT ts, k FROM ret', $option, q{, event_time => 'ts'});
	$refused->(qr/ERROR:  retention needs a column that says when a row's window ends/, q{SELECT k, count(*) FROM ret GROUP BY k, stream_agg.tumble(ts, '1 minute')}, $option);
	$refused->(qr/ERROR:  retention needs a column that says when a row's window ends/, q{SELECT lower(stream_agg.session(ts, '1 minute')) AS s, count(*) FROM ret GROUP BY stream_agg.session(ts, '1 minute')}, $option);
	like(said(qq{SELECT stream_agg.create_stream('no', \$q\$$minute\$q\$, output_mode => 'update', options => '$option')}), qr/ERROR:  retention needs a watermark/, 'no watermark');
	sql('CREATE TABLE mine (w tstzrange, k int, n bigint); CREATE INDEX ON mine (k, w); CREATE INDEX ON mine (w) WHERE k > 0');
	$refused->(qr/ERROR:  retention needs an index on column w of sink "mine"\n.*\nHINT:  Run CREATE INDEX ON public.mine \(lower\(w\)\)/, $minute, $option, q{, sink => 'mine'});
	sql(call('own', $minute, '{}', q{, sink => 'mine', start => false}));
	like(said(qq{SELECT stream_agg.alter_stream('own', '$option')}), qr/ERROR:  retention needs an index on column w of sink "mine"/, 'alter_stream');
	sql('CREATE INDEX ON public.mine (w)');
	is(said(qq{SELECT stream_agg.alter_stream('own', '$option')}), '', 'with the index it is taken');
	sql(q{SELECT stream_agg.start_stream('own')});
	process($node, 'own');
	sql('DROP INDEX mine_w_idx1');
	produce(2010);
	$node->psql('postgres', q{SELECT stream_agg.process_available('own', '20 s')});
	wait_state($node, 'own', 'failed');
	like(sql(q{SELECT last_error FROM pg_stat_stream_agg WHERE stream = 'own'}), qr/retention needs an index.*CREATE INDEX/s, 'an index that is dropped later stops the stream, and it says so');
};

done_testing();
