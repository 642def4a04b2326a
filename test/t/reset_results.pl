# reset_stream with results: windows are made anew only if all of their records
# lie behind the offsets, whatever is late; what would lose rows is refused.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker(rst => 1);
my $node = new_node('reset_bounded', 'max_worker_processes = 64', 'stream_agg.max_records_per_batch = 100000');
create_source($node, $broker, 'rst', 'rst', 'ts timestamptz, v int');
sub sql { return $node->safe_psql('postgres', $_[0]); }
sub said { my (undef, undef, $err) = $node->psql('postgres', $_[0]); return $err; }
sub at { my ($second) = @_; return sprintf('{"ts": "2026-01-01T%02d:%02d:%02dZ", "v": 1}', $second / 3600, $second / 60 % 60, $second % 60); }
sub create
{
	my ($stream, $query, $more) = @_;
	sql("SELECT stream_agg.create_stream('$stream', \$q\$$query\$q\$, trigger => '20 days' $more)");
	return process($node, $stream);
}

my $tumble = q{SELECT stream_agg.tumble(ts, '1 minute') w, count(*) n FROM rst GROUP BY 1};
my %streams = (
	rst_s => [ $tumble, ", watermark => '10 s'" ],
	kept => [ $tumble, q{, watermark => '10 s', options => '{"late_records": true}'} ],
	updated => [ $tumble, ", watermark => '10 s', output_mode => 'update'" ],
	hop => [ q{SELECT w, count(*) n FROM rst, stream_agg.hop(ts, '1 minute', '3 minutes') w GROUP BY w}, ", watermark => '10 s'" ],
	ends => [ q{SELECT upper(stream_agg.tumble(ts, '1 minute')) AS stop, count(*) n FROM rst GROUP BY stream_agg.tumble(ts, '1 minute')}, ", watermark => '10 s'" ],
	hours => [ q{SELECT stream_agg.tumble(ts, '1 day', timezone => 'UTC') w, count(*) n FROM rst GROUP BY 1}, ", watermark => '10 s', output_mode => 'update'" ],
	sessions => [ q{SELECT stream_agg.session(ts, '5 seconds') w, count(*) n FROM rst GROUP BY 1}, ", watermark => '10 s'" ],
	whole => [ $tumble, ", watermark => '10 s', output_mode => 'complete'" ],
	totals => [ 'SELECT v, count(*) n FROM rst GROUP BY v', ", output_mode => 'update'" ]);

$broker->produce('rst', map { [ 0, '', at($_) ] } 0 .. 3599);
create($_, @{ $streams{$_} }) for sort keys %streams;
$broker->produce('rst', [ 0, '', at(630) ], map { [ 0, '', at(3600 + $_) ] } 0 .. 599);
process($node, $_) for sort keys %streams;

subtest 'a straggler behind the offsets deletes no good windows' => sub {
	my $before = sql('TABLE rst_s ORDER BY 1');
	is(sql('SELECT count(*), sum(n) FROM rst_s'), '69|4140', 'the windows as the stream has written them');
	is(sql(q{SELECT rows_late FROM pg_stat_stream_agg WHERE stream = 'rst_s'}), 1, 'one record was late');
	sql('UPDATE rst_s SET n = 1000 WHERE lower(w) >= $$2026-01-01 01:00+00$$');
	sql(q{SELECT stream_agg.reset_stream('rst_s', '{"0": 3600}', results => true)});
	process($node, 'rst_s');
	is(sql('SELECT count(*), sum(n) FROM rst_s'), '69|4140', 'are all there after the reset');
	is(sql('TABLE rst_s ORDER BY 1'), $before, 'those behind the offsets anew, the others as they were');
	is(sql(q{SELECT rows_late FROM pg_stat_stream_agg WHERE stream = 'rst_s'}), 2, 'the straggler is late again');
};

subtest 'nor does repair_late afterwards' => sub {
	my $before = sql('TABLE kept ORDER BY 1');
	sql(q{SELECT stream_agg.reset_stream('kept', '{"0": 3600}', results => true)});
	process($node, 'kept');
	is(sql(q{SELECT count(*) FROM stream_agg.late_records WHERE stream = 'kept'}), 0, 'what was late at the reset is not kept');
	$broker->produce('rst', [ 0, '', at(631) ]);
	process($node, 'kept');
	is(sql(q{SELECT lower(win), repaired, reason FROM stream_agg.repair_late('kept')}), '2026-01-01 00:10:00+00|f|the stream was reset, and records of the window may lie before the offsets from which it has read since then', 'a window that stayed cannot be repaired, and the reason is told');
	is(sql('TABLE kept ORDER BY 1'), $before, 'the table is as it was');
};

# every stream: all windows from 01:00 on are damaged, and made anew
my %shape = (
	updated => [ 'w, n', q{lower(w) >= '2026-01-01 01:00+00'}, 70 ],
	hop => [ 'w, n', q{lower(w) >= '2026-01-01 01:00+00'}, 69 ],
	ends => [ 'stop, n', q{stop > '2026-01-01 01:00+00'}, 69 ]);
for my $stream (sort keys %shape)
{
	my ($columns, $anew, $windows) = @{ $shape{$stream} };
	subtest "$stream: windows behind the offsets anew, others as they were" => sub {
		my $before = sql("SELECT $columns FROM $stream ORDER BY 1");
		sql("UPDATE $stream SET n = n + 1000 WHERE $anew");
		my $said = said(qq{SELECT stream_agg.reset_stream('$stream', '{"0": 3600}', results => true)});
		like($said, qr/NOTICE:  windows of stream "$stream" are computed again from 2026-01-01 01:00:00\+00 on\nDETAIL:  They replace up to \d+ rows of its sink. 0 of these may have records before/, 'told at the call');
		process($node, $stream);
		is(sql("SELECT $columns FROM $stream ORDER BY 1"), $before, 'the table is as before the damage');
		is(sql("SELECT count(*) FROM $stream"), $windows, "$windows windows") if $stream ne 'hop';
		$broker->produce('rst', [ 0, '', at(3590) ]);
		process($node, $stream);
		is(sql("SELECT $columns FROM $stream ORDER BY 1"), $before, 'and a window that stays is not begun again by a late record');
	};
}

subtest 'a reset that would lose rows is an error that says how many and from when' => sub {
	my $before = sql('TABLE rst_s ORDER BY 1');
	my $reset = sub { my ($stream, $offset, $more) = @_; return said(qq{SELECT stream_agg.reset_stream('$stream', '{"0": $offset}', results => true $more)}); };
	like($reset->('rst_s', 3600, q{, results_from => '2026-01-01 00:50+00'}),
		qr/ERROR:  resetting stream "rst_s" would delete up to 10 rows of windows with records before the offsets given, from 2026-01-01 00:50:00\+00 on\n.*event times up to 2026-01-01 00:59:59.*force => true/s, 'results_from before what the offsets give');
	like($reset->('sessions', 3600, ''), qr/ERROR:  resetting stream "sessions" would lose open sessions with records before the offsets given/, 'sessions');
	like($reset->('whole', 3600, ''), qr/ERROR:  resetting stream "whole" would delete 70 rows, and records/, 'output mode complete');
	like($reset->('totals', 3600, ''), qr/ERROR:  resetting stream "totals" would delete 1 row, and records/, 'no windows');
	like($reset->('hours', 3600, ''), qr/ERROR:  resetting stream "hours" would lose open windows that start before 2026-01-02 00:00:00\+00\nDETAIL: .* has not passed the last of them/, 'windows that are open and have records before the offsets');
	like($reset->('totals', 3600, q{, results_from => '2026-01-01'}), qr/ERROR:  results_from cannot be used for stream "totals"/, 'results_from without windows');
	like(said(q{SELECT stream_agg.reset_stream('rst_s', 'latest', results_from => now())}), qr/results_from needs results => true/, 'results_from without results');
	is(sql('TABLE rst_s ORDER BY 1'), $before, 'nothing has changed');
	is(sql(q{SELECT count(*) FROM stream_agg.commits WHERE stream IN ('sessions', 'whole', 'totals', 'hours') AND reset IS NOT NULL}), 0, 'and no stream was reset');
};

subtest 'a dry run tells, and a preview lists, what would be replaced' => sub {
	my $commits = sql('SELECT count(*) FROM stream_agg.commits');
	like(said(q{SELECT stream_agg.reset_stream('rst_s', '{"0": 3600}', results => true, results_from => '2026-01-01 00:50+00', force => true, dry_run => true)}),
		qr/NOTICE:  windows of stream "rst_s" are computed again from 2026-01-01 00:50:00\+00 on\nDETAIL:  They replace up to 19 rows of its sink. 10 of these may have records before the offsets given.*HINT:  Nothing was reset/s, 'rows that are replaced, and those that may have records before the offsets');
	is(sql('SELECT count(*) FROM stream_agg.commits'), $commits, 'nothing was reset');
	is(sql(q{BEGIN; SELECT stream_agg.reset_stream('rst_s', '{"0": 3600}', results => true);
		SELECT action, count(*), sum((data ->> 'n')::int) FROM stream_agg.preview('rst_s') GROUP BY 1 ORDER BY 1; ROLLBACK}) =~ s/^\n//r,
		"delete|9|540\ninsert|9|540\nopen|1|60", 'preview: rows deleted and rows inserted');
};

subtest 'a dry run lists the windows' => sub {
	my $resets = sql('SELECT count(*) FROM stream_agg.commits WHERE reset IS NOT NULL');
	my $list = sub { my ($stream, $more) = @_; return $node->psql('postgres', qq{SELECT action, min(lower(win)), max(upper(win)), count(*), sum(sink_rows) FROM stream_agg.reset_stream('$stream', '{"0": 3600}', results => true, dry_run => true $more) GROUP BY 1 ORDER BY 1}); };
	my $results_from = q{, results_from => '2026-01-01 00:50+00'};
	my (undef, $out, $err) = $list->('rst_s', '');
	is($out, "kept||2026-01-01 01:00:00+00|1|60\nreplaced|2026-01-01 01:00:00+00|2026-01-01 01:09:00+00|9|9", 'those that are replaced, each, and those that stay');
	(undef, $out, $err) = $list->('rst_s', $results_from);
	is($out =~ s/\|[^|\n]*\|[^|\n]*\|/|/gr, "incomplete|10|10\nkept|1|50\nreplaced|9|9", 'those with records before the offsets');
	like($err, qr/NOTICE:  resetting stream "rst_s" would delete up to 10 rows.*from 2026-01-01 00:50:00\+00 on\n.*NOTICE:  windows of stream "rst_s" are computed again from 2026-01-01 00:50/s, 'and that it would be refused, which is no error yet');
	(undef, $out) = $list->('ends', '');
	is($out, "kept||2026-01-01 01:00:00+00|1|60\nreplaced|2026-01-01 01:00:00+00|2026-01-01 01:09:00+00|9|9", 'by the end of a window, too');
	(undef, $out) = $list->('totals', '');
	is($out, 'incomplete|||1|1', 'rows that tell no window in one line');
	(undef, $out, $err) = $list->('hours', '');
	like($err, qr/NOTICE:  resetting stream "hours" would lose open windows/, 'open windows that would be lost');
	sql(q{INSERT INTO sessions VALUES ('[2026-01-01 00:00+00,2026-01-01 00:00:05+00)', 1)});
	(undef, $out, $err) = $list->('sessions', '');
	is($out, 'incomplete|2026-01-01 00:00:00+00|2026-01-01 00:00:05+00|1|1', 'sessions');
	like($err, qr/NOTICE:  resetting stream "sessions" would lose open sessions/, 'and that open ones are lost');
	is(sql(q{SELECT count(*) FROM stream_agg.reset_stream('rst_s', results => true, dry_run => true) WHERE action = 'replaced'}), 69, 'from earliest all are');
	is(sql('SELECT count(*) FROM stream_agg.commits WHERE reset IS NOT NULL'), $resets, 'nothing was reset');
};

subtest 'results_from and force' => sub {
	sql('UPDATE rst_s SET n = n + 1000 WHERE lower(w) >= $$2026-01-01 01:02+00$$');
	sql(q{SELECT stream_agg.reset_stream('rst_s', '{"0": 3600}', results => true, results_from => '2026-01-01 01:02:30+00')});
	process($node, 'rst_s');
	is(sql('SELECT lower(w), n FROM rst_s WHERE n <> 60'), '2026-01-01 01:02:00+00|1060', 'windows that start at results_from or later are made anew');
	sql(q{SELECT stream_agg.reset_stream('rst_s', '{"0": 3600}', results => true, results_from => '2026-01-01 00:50+00', force => true)});
	process($node, 'rst_s');
	is(sql('SELECT count(*), sum(n), count(*) FILTER (WHERE lower(w) = $$2026-01-01 00:59+00$$ AND n = 3) FROM rst_s'), '69|4083|1',
		'with force a window of which records lie before the offsets is replaced by what is behind them');
	sql(q{SELECT stream_agg.reset_stream('rst_s', results => true)});
	process($node, 'rst_s');
	is(sql('SELECT count(*), min(n), max(n) FROM rst_s'), '69|60|63', 'to earliest everything is right again, whatever was late');
	sql(q{SELECT stream_agg.reset_stream('updated', '{"0": 3600}', results => true, force => true)});
	process($node, 'updated');
	is(sql('SELECT count(*), sum(n) FROM updated WHERE lower(w) < $$2026-01-01 00:59+00$$'), '59|3540', 'forced, what was late before does not widen the range either');
	sql(q{SELECT stream_agg.reset_stream('hours', '{"0": 3600}', results => true, force => true)});
	process($node, 'hours');
	cmp_ok(sql('SELECT n FROM hours'), '<', 4000, 'an open window has what is behind the offsets');
};

subtest 'times are timestamps or text, and output modes are of any case' => sub {
	for my $time ("now() - interval '3 minutes'", "(now() - interval '1 hour')::timestamp", "'2026-01-01'::date", "'2026-01-01 00:00+00'::text", "'2026-01-01 00:00+00'")
	{
		unlike(said("SELECT stream_agg.reset_stream('totals', $time, false)"), qr/ERROR/, "reset_stream: $time");
	}
	is(sql(q{SELECT starting_offsets FROM stream_agg.streams WHERE stream = 'totals'}), '2026-01-01 00:00:00+00', 'kept as the same text');
	sql(qq{SELECT stream_agg.create_stream('timed', '$streams{totals}[0]', output_mode => 'UPDATE', start => false, starting_offsets => '2026-01-01 00:00+00'::timestamptz)});
	is(sql(q{SELECT output_mode, starting_offsets FROM stream_agg.streams WHERE stream = 'timed'}), 'update|2026-01-01 00:00:00+00', 'create_stream');
	unlike(said(qq{SELECT * FROM stream_agg.preview('$streams{totals}[0]', output_mode => 'Update', starting_offsets => now() - interval '1 hour')}), qr/ERROR/, 'preview');
	like(said(q{SELECT stream_agg.reset_stream('totals', 42)}), qr/ERROR:  offsets cannot be of type integer\nHINT: /, 'other types are refused');
};

# A table of one's own, whose column an INSERT converts the window to: rows of a window
# are not found by it, and what it has is no time.
subtest 'windows that the sink has in another type' => sub {
	sql('CREATE TABLE as_text (w text, n bigint); CREATE TABLE as_date (w date, n bigint); CREATE TABLE as_minutes (w timestamptz(0), n bigint); CREATE TABLE as_local (w timestamp, n bigint)');
	for my $stream ('as_text', 'as_date', 'as_minutes', 'as_local')
	{
		create($stream, q{SELECT lower(stream_agg.tumble(ts, '1 minute')) AS w, count(*) AS n FROM rst GROUP BY stream_agg.tumble(ts, '1 minute')}, qq{, watermark => '10 s', sink => '$stream', options => '{"late_records": true}'});
		my $before = sql("TABLE $stream ORDER BY w, n");
		my $error = qr/ERROR:  column "w" of sink "$stream" has type .*, but windows of the stream have type timestamp with time zone/;
		like(said(qq{SELECT stream_agg.reset_stream('$stream', '{"0": 3600}', results => true)}), $error, "$stream: a reset with results is refused");
		like(said("SELECT * FROM stream_agg.reset_stream('$stream', results => true, dry_run => true)"), $error, 'a dry run, which would show times that are none');
		like(said("SELECT stream_agg.reset_stream('$stream', results => true)"), $error, 'one of all rows');
		$broker->produce('rst', [ 0, '', at(640) ]);
		process($node, $stream);
		like(said("SELECT * FROM stream_agg.repair_late('$stream')"), $error, 'and repair_late');
		is(sql("TABLE $stream ORDER BY w, n"), $before, 'all rows are as they were');
		# what has changed since the reset was asked for
		next if $stream ne 'as_minutes';
		sql("SELECT stream_agg.stop_stream('$stream'); ALTER TABLE $stream ALTER w TYPE timestamptz; SELECT stream_agg.reset_stream('$stream', '{\"0\": 3600}', results => true, force => true); ALTER TABLE $stream ALTER w TYPE text; SELECT stream_agg.start_stream('$stream')");
		said("SELECT * FROM stream_agg.process_available('$stream', '1 minute')");
		wait_state($node, $stream, 'failed', 'column "w" of sink "as_minutes" has type text, but windows');
		is(sql("SELECT count(*) FROM $stream"), 69, 'a change after the call stops the stream');
	}
};

done_testing();
