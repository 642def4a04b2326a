# Records that cannot be processed: with each policy of on_error and each kind
# of fault, the records beside them count exactly, the sink equals the batch
# query over the good records, and a dead letter is the record byte by byte.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;

my $broker = start_broker(mixed => 3, good => 3);
my $node = new_node('on_error', 'stream_agg.keep_batches = 1000000');
my $columns = 'ts timestamptz, k text, v int, d positive, u uuid, part int OPTIONS (metadata $m$partition$m$)';

$node->safe_psql('postgres', q{
	CREATE FUNCTION even(int) RETURNS bool LANGUAGE plpgsql AS $$
	BEGIN
		IF $1 % 2 = 1 THEN RAISE 'odd numbers are not liked: %', $1; END IF;
		RETURN true;
	END $$;
	CREATE DOMAIN positive AS int CHECK (VALUE > 0) CHECK (even(VALUE))});

sub with { my %f = (ts => '"2026-01-01T00:00:00Z"', k => '"a"', v => 1, d => 2, @_);
	return '{' . join(',', map { "\"$_\":$f{$_}" } sort keys %f) . '}'; }

# kind of fault => [record, reason]
my %fault = (
	'not JSON' => [ 'no json at all', qr/^invalid JSON record: .*\nDETAIL:  The error is at byte/ ],
	'empty' => [ '', qr/^invalid JSON record: / ],
	'an array' => [ '[1]', qr/^invalid JSON record: / ],
	'missing brace' => [ '{"ts":"2026-01-01T00:00:00Z","k":"a","v":1', qr/^invalid JSON record: unexpected end of the record/ ],
	'invalid UTF-8' => [ with(k => "\"\xff\xfe\""), qr/^invalid JSON record: .*UTF-8/ ],
	'tombstone' => [ '\\N', qr/^record has no value/ ],
	'wrong type' => [ with(v => '"one"'), qr/^value for field "v" is not a valid integer\nDETAIL:  .*invalid input syntax.*"one"/ ],
	'out of range' => [ with(v => '99999999999'), qr/^value for field "v" is not a valid integer/ ],
	'wrong uuid' => [ with(u => '"12"'), qr/^value for field "u" is not a valid uuid/ ],
	'domain violation' => [ with(d => -2), qr/^value for field "d" is not a valid positive\nDETAIL:  .*positive_check/ ],
	'exception in a domain' => [ with(d => 3), qr/^value for field "d" is not a valid positive\nDETAIL:  .*odd numbers are not liked: 3/ ],
	'infinity' => [ with(ts => '"infinity"'), qr/^event time of a record is infinite/ ],
	'-infinity' => [ with(ts => '"-infinity"'), qr/^event time of a record is infinite/ ],
	'too far ahead' => [ with(ts => '"2999-01-01T00:00:00Z"'), qr/^event time of a record is too far in the future: 2999-.*\nDETAIL:  The micro-batch's time is 20.*, and the stream's max_future 24:00:00\./ ],
	'window out of range' => [ with(ts => '"4714-11-24 00:00:00+00 BC"'), qr/^window of event time 4714-11-24 .*BC is out of range/ ],
	'key too long' => [ with(k => '"' . 'k' x 2601 . '"'), qr/^grouping key "k" of a record is too long: 2601 bytes/ ]);
my @faults = sort keys %fault;

# good records around each bad one, and keys that are as long as can be
my $n = 0;
my (@mixed, @good);
my $long = join '', map { chr(97 + ($_ * 7919 + int($_ / 26) * 31) % 26) } 1 .. 2600;
sub good { my $r = [ $n % 3, '', with(k => '"' . ($n % 11 == 0 ? $long : chr(97 + $n % 4)) . '"', v => $n, d => 2 * $n + 2, ts =>
	sprintf('"2026-01-01T00:%02d:00Z"', $n % 60), $n % 3 ? () : (u => '"6f1b1e3c-7e4d-4b7e-8f2a-0123456789ab"')) ];
	$n++; push @good, $r; return $r; }
for my $round (0 .. 1)
{
	for my $i (0 .. $#faults)
	{
		push @mixed, good() for 1 .. 1 + $i % 3;
		push @mixed, [ ($i + $round) % 3, "key of $faults[$i]", $fault{ $faults[$i] }[0] ];
	}
	push @mixed, good();
}
$broker->produce('mixed', @mixed);
$broker->produce('good', @good);
create_source($node, $broker, $_, $_, $columns) for qw(mixed good);

my $query = q{SELECT stream_agg.tumble(ts, '7 minutes') AS win, k, count(*) AS n, sum(v) AS total, max(d) AS d, count(u) AS u
	FROM %s WHERE v <> 7 GROUP BY 1, 2};
my $expected = sprintf($query, 'good');
my $filtered = 1;
my $bad = 2 * @faults;

sub create
{
	my ($stream, $options, %args) = @_;
	my $source = $args{source} // 'mixed';
	my $text = $args{query} // sprintf($query, $source);
	my $batch = $args{batch} ? ", max_offsets_per_trigger => $args{batch}" : '';
	my $mode = $args{mode} // 'update';
	my $watermark = exists $args{watermark} ? $args{watermark} : '1000000 days';
	$watermark = defined $watermark ? "'$watermark'" : 'NULL';
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$$text\$q\$, output_mode => '$mode',
		watermark => $watermark, trigger => '0', options => '$options' $batch)");
	return;
}

sub counts
{
	return $node->safe_psql('postgres', qq{SELECT total_aggregated, total_late, total_null_time, total_dead_lettered, total_filtered
		FROM stream_agg.commits WHERE stream = '$_[0]' ORDER BY batch DESC LIMIT 1});
}

sub last_error { return $node->safe_psql('postgres', "SELECT last_error FROM pg_stat_stream_agg WHERE stream = '$_[0]'"); }
sub drop { $node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$_[0]', drop_sink => true)"); return; }

# Test the dead letters of a stream over "mixed": each record as it was
# produced, with its reason.
sub check_dead_letters
{
	my ($stream, $what) = @_;
	my @wrong;
	my %offset;
	my %letter = map { my ($partition, $offset, @rest) = split /\|/; ("$partition/$offset" => \@rest) }
	  split /\n/, $node->safe_psql('postgres', qq{
		SELECT partition, "offset", encode(key, 'hex'), COALESCE(encode(value, 'hex'), 'NULL'), encode(convert_to(concat_ws(E'\nDETAIL:  ', error, detail), 'UTF8'), 'hex'),
		       topic, "timestamp" > now() - interval '1 hour', headers IS NULL
		  FROM stream_agg.dead_letters WHERE stream = '$stream'});
	for my $record (@mixed)
	{
		my ($partition, $key, $value) = @$record;
		my $letter = delete $letter{ "$partition/" . $offset{$partition}++ };
		my ($kind) = $key =~ /^key of (.*)/;
		next if !defined $kind && !defined $letter;
		if (!defined $kind) { push @wrong, "a good record: $value"; next; }
		if (!defined $letter) { push @wrong, "none: $kind"; next; }
		my $error = pack('H*', $letter->[2]);
		push @wrong, "key of $kind" if $letter->[0] ne unpack('H*', $key);
		push @wrong, "value of $kind: $letter->[1]" if $letter->[1] ne ($value eq '\\N' ? 'NULL' : unpack('H*', $value));
		push @wrong, "reason of $kind: $error" if $error !~ $fault{$kind}[1];
		push @wrong, "rest of $kind: @$letter[3..5]" if join('|', @$letter[ 3 .. 5 ]) ne 'mixed|t|t';
	}
	push @wrong, 'more than there are' if %letter;
	is(join("\n", @wrong), '', $what);
	return;
}

# --- skip and dead_letter, in batches of any size
for my $policy ('skip', 'dead_letter')
{
	for my $batch (1, 7, 0)
	{
		my $stream = "${policy}_$batch";
		my $what = "$policy, batches of " . ($batch || 'all');
		create($stream, "{\"on_error\": \"$policy\", \"max_future\": \"1 day\"}", batch => $batch);
		process($node, $stream);
		is_equal_tables($node, "SELECT * FROM $stream", $expected, "$what: the sink is the batch query over the good records");
		counts_add_up($node, $stream, scalar @mixed, "$what: the counts add up");
		is(counts($stream), (@good - $filtered) . "|0|0|$bad|$filtered", "$what: and are exact");
		if ($policy eq 'skip')
		{
			is($node->safe_psql('postgres', "SELECT count(*) FROM stream_agg.dead_letters WHERE stream = '$stream'"), 0,
				"$what: no dead letters");
		}
		else { check_dead_letters($stream, "$what: dead letters are the records, with their reasons"); }
		drop($stream);
		is($node->safe_psql('postgres', 'SELECT count(*) FROM stream_agg.dead_letters'), 0, "$what: dropped with the stream");
	}
}
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
like($log, qr/WARNING: .*stream "dead_letter_0": $bad of ${\scalar @mixed} records of a micro-batch are dead letters\n.*DETAIL:  The first one, in partition \d of topic "mixed" at offset \d+: /,
	'one warning a batch tells how many, and the first');
is(scalar(() = $log =~ /WARNING: .*stream "skip_0": .* were skipped/g), 1, 'and only one');

# --- append mode, and keys that no index holds
create('appended', '{"on_error": "dead_letter", "max_future": "1 day"}', mode => 'append', watermark => '0');
process($node, 'appended');
is((split /\|/, counts('appended'))[3], $bad, 'append: every bad record is a dead letter');
check_dead_letters('appended', 'append: with its reason');
drop('appended');
create('completed', '{"on_error": "dead_letter", "max_future": "1 day"}', mode => 'complete', watermark => undef, batch => 7);
process($node, 'completed');
is_equal_tables($node, 'SELECT * FROM completed', $expected, 'complete: the sink is the batch query over the good records');
check_dead_letters('completed', 'complete: the others are dead letters');
drop('completed');
my $huge = with(k => '"' . 'h' x 100_000 . '"');
$broker->create_topic('huge', 1);
create_source($node, $broker, 'huge', 'huge', $columns);
$broker->produce('huge', $huge, with(ts => '"2026-01-02T00:00:00Z"'));
create('no_index', '{"on_error": "skip"}', mode => 'append', watermark => '0',
	query => q{SELECT count(*) AS n, max(length(k)) AS len FROM huge GROUP BY stream_agg.tumble(ts, '1 minute'), k});
process($node, 'no_index');
is($node->safe_psql('postgres', 'SELECT n, len FROM no_index'), '1|100000', 'keys that no index holds may be of any length');
drop('no_index');

# --- fail
for my $i (0 .. $#faults)
{
	my $kind = $faults[$i];
	my $reason = $fault{$kind}[1];
	$broker->create_topic("fail_$i", 1);
	create_source($node, $broker, "fail_$i", "fail_$i", $columns);
	$broker->produce("fail_$i", [ 0, '', with() ], [ 0, 'x', $fault{$kind}[0] ], [ 0, '', with() ]);
	create("failing_$i", '{"max_future": "1 day"}', source => "fail_$i");
	wait_state($node, "failing_$i", 'failed');
	like(last_error("failing_$i"), $reason, "fail, $kind: the reason");
	like(last_error("failing_$i"), qr/^HINT:  To continue without such records, .*alter_stream/m, "fail, $kind: what to do");
	like(last_error("failing_$i"), qr/record(?: read:| at) topic "fail_$i", partition 0, offset 1/, "fail, $kind: the record");
	is($node->safe_psql('postgres', "SELECT count(*) FROM failing_$i"), 0, "fail, $kind: nothing is written");
	drop("failing_$i");
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM stream_agg.dead_letters'), 0, 'fail makes no dead letters');

# --- a failed stream goes on with other options, and with others again
$broker->create_topic('changing', 1);
create_source($node, $broker, 'changing', 'changing', $columns);
$broker->produce('changing', with(), 'bad 1', with());
create('changed', '{}', source => 'changing', query => 'SELECT k, sum(v) AS s FROM changing GROUP BY k', watermark => undef);
wait_state($node, 'changed', 'failed');
my (undef, undef, $told) = $node->psql('postgres', q{SELECT stream_agg.alter_stream('changed', '{"on_error": "dead_letter"}')});
like($told, qr/NOTICE:  stream "changed" is still failed\nHINT:  .*start_stream/, 'that it has failed is told');
is($node->safe_psql('postgres', q{SELECT state FROM pg_stat_stream_agg WHERE stream = 'changed'}), 'failed', 'altered, a failed stream stays so');
$node->safe_psql('postgres', q{SELECT stream_agg.start_stream('changed')});
process($node, 'changed');
is(counts('changed'), '2|0|0|1|0', 'and goes on with the new options when it is started');
$node->safe_psql('postgres', q{SELECT stream_agg.alter_stream('changed', '{"on_error": "skip"}')});
$broker->produce('changing', with(), 'bad 2');
process($node, 'changed');
is(counts('changed'), '3|0|0|2|0', 'a running one goes on by itself');
is($node->safe_psql('postgres', q{SELECT string_agg(convert_from(value, 'UTF8'), ',') FROM stream_agg.dead_letters WHERE stream = 'changed'}),
	'bad 1', 'with each record as the options of its time say');
drop('changed');

# --- errors of the query's own expressions (poison_records.pl has more of them)
$broker->create_topic('zero', 1);
create_source($node, $broker, 'zero', 'zero', $columns);
$broker->produce('zero', with(v => 0), with(v => 1));
my $divides = 'SELECT k, sum(1 / v) AS s FROM zero GROUP BY k';
create('divides', '{}', query => $divides, watermark => undef);
wait_state($node, 'divides', 'retrying', 'division by zero');
$node->safe_psql('postgres', q{SELECT stream_agg.alter_stream('divides', '{"on_error": "skip"}')});
process($node, 'divides');
is(counts('divides'), '1|0|0|1|0', 'a record for which an expression fails is one that cannot be processed');
drop('divides');

# --- a record ahead of time does not move the watermark
$broker->create_topic('ahead', 1);
create_source($node, $broker, 'ahead', 'ahead', $columns);
my @times = map { $node->safe_psql('postgres', "SELECT to_char((now() + interval '$_') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')") }
  ('0', '50 minutes', '70 minutes', '-5 minutes');
my $simple = q{SELECT stream_agg.tumble(ts, '1 minute') AS win, count(*) AS n FROM ahead GROUP BY 1};
create($_->[0], $_->[1], query => $simple, watermark => '1 minute', batch => 1)
  for ([ 'drags', '{"max_future": null}' ], [ 'stands', '{"on_error": "skip", "max_future": "1 hour"}' ]);
$broker->produce('ahead', map { with(ts => "\"$times[$_]\"") } 0, 2);
process($node, $_) for qw(drags stands);
$broker->produce('ahead', with(ts => "\"$times[0]\""));
process($node, $_) for qw(drags stands);
is(counts('drags'), '2|1|0|0|0', 'with any time allowed a record of the future makes others late');
is(counts('stands'), '2|0|0|1|0', 'with max_future it does not');
$broker->produce('ahead', with(ts => "\"$times[1]\""));
process($node, 'stands');
is(counts('stands'), '3|0|0|1|0', 'up to max_future it counts');
is($node->safe_psql('postgres', "SELECT watermark = '$times[1]'::timestamptz - interval '1 minute' FROM pg_stat_stream_agg WHERE stream = 'stands'"),
	't', 'and moves the watermark');
drop($_) for qw(drags stands);

# a time without time zone is one of the stream's time zone
$broker->create_topic('local', 1);
create_source($node, $broker, 'local', 'local', 'ts timestamp, k text');
my @local = map { $node->safe_psql('postgres', "SELECT to_char((now() + interval '$_') AT TIME ZONE 'Asia/Tokyo', 'YYYY-MM-DD HH24:MI:SS')") }
  ('0', '50 minutes', '70 minutes');
$broker->produce('local', map { "{\"ts\": \"$_\", \"k\": \"a\"}" } @local);
$node->safe_psql('postgres', q{SET timezone = 'Asia/Tokyo'; SELECT stream_agg.create_stream('tokyo',
	$$ SELECT date_bin('1 minute', ts, '2000-01-01') AS minute, count(*) AS n FROM local GROUP BY 1 $$, output_mode => 'update',
	watermark => '1 day', options => '{"on_error": "dead_letter", "max_future": "1 hour"}')});
process($node, 'tokyo');
is(counts('tokyo'), '2|0|0|1|0', 'a time without time zone is compared in the time zone of the stream');
my $reason = $node->safe_psql('postgres', q{SELECT error FROM stream_agg.dead_letters WHERE stream = 'tokyo'});
like($reason, qr/too far in the future: \Q$local[2]\E$/, 'and shown as it is');
drop('tokyo');

# --- record metadata that a column cannot hold
$broker->create_topic('keyed', 1);
create_source($node, $broker, 'keyed', 'keyed', q{key text OPTIONS (metadata 'key'), at timestamptz OPTIONS (metadata 'timestamp'), v int});
$broker->produce('keyed', [ 0, 'one', '{"v":1}' ], [ 0, "\xff\xfe", '{"v":2}' ], [ 0, "zw\xc3\xb6lf", '{"v":12}' ]);
create('keys', '{"on_error": "dead_letter"}', query => 'SELECT key, sum(v) AS s, count(at) AS n FROM keyed GROUP BY key', watermark => undef);
process($node, 'keys');
is($node->safe_psql('postgres', 'SELECT * FROM keys ORDER BY s'), "one|1|1\nzw\xc3\xb6lf|12|1", 'records with good keys count');
is($node->safe_psql('postgres', q{SELECT "offset", key, value, error FROM stream_agg.dead_letters WHERE stream = 'keys'}),
	'1|\xfffe|\x7b2276223a327d|key of a record is not UTF-8 text', 'one with a bad key is a dead letter');
drop('keys');

# --- a row that no partition of the sink takes
# after all attempts; the next one at once
$node->append_conf('postgresql.conf', "stream_agg.max_attempts = 3\nstream_agg.max_retry_delay = 100");
$node->reload;
$broker->create_topic('years', 1);
create_source($node, $broker, 'years', 'years', 'ts timestamptz, k int');
$broker->produce('years', map { sprintf '{"ts":"%d-01-01T00:00:00Z","k":%d}', $_ % 7 == 3 ? 2025 : 2026, $_ } 0 .. 29);
for my $case ([ 'parted_rows', 'append', 'SELECT ts, k FROM years' ], [ 'parted_groups', 'update', 'SELECT ts, k, count(*) AS n FROM years GROUP BY ts, k' ])
{
	my ($stream, $mode, $text) = @$case;
	my $columns = $mode eq 'append' ? 'ts timestamptz, k int' : 'ts timestamptz, k int, n bigint, UNIQUE NULLS NOT DISTINCT (ts, k)';
	$node->safe_psql('postgres', "CREATE TABLE $stream ($columns) PARTITION BY RANGE (ts);
		CREATE TABLE ${stream}_1 PARTITION OF $stream FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')");
	create($stream, '{"on_error": "dead_letter"}', query => $text, mode => $mode, watermark => undef);
	process($node, $stream);
	is_equal_tables($node, "SELECT ts, k FROM $stream", "SELECT ts, k FROM years WHERE ts >= '2026-01-01'", "$stream: rows that a partition takes are in the sink");
	is($node->safe_psql('postgres', qq{SELECT string_agg(DISTINCT error, ','), string_agg("offset"::text, ',' ORDER BY "offset") FROM stream_agg.dead_letters WHERE stream = '$stream'}),
		qq{no partition of relation "$stream" found for row|3,10,17,24}, "$stream: records of the others are dead letters");
	drop($stream);
}

# headers and timestamps, also of records in a temporary file
$node->append_conf('postgresql.conf', "stream_agg.batch_memory = '1MB'");
$node->reload;
$broker->create_topic('headed', 1);
create_source($node, $broker, 'headed', 'headed', q{h jsonb OPTIONS (metadata 'headers'), at timestamptz OPTIONS (metadata 'timestamp'), v int, k text});
$broker->produce('headed', { timestamp => 1767225600000, header => "trace=\xe2\x82\xac" }, '{"v":1}', 'bad 1', ('{"v":2}') x 5000);
$broker->produce('headed', { timestamp => 9224318016000001, header => "\xff=\xfe" }, '{"v":3}', 'bad 2');
$broker->produce('headed', { timestamp => 9224318015000000, header => "a=\xfe\x01" }, '{"v":4}', 'bad 3');
my $headers = q{SELECT "offset", "timestamp" AT TIME ZONE 'UTC', headers, error
	FROM stream_agg.dead_letters WHERE stream = '%s' ORDER BY 1};
for my $what ([ 'read', 'h', 'at' ], [ 'ignored', 'k', 'k' ])
{
	my ($stream, $h, $at) = @$what;
	my $read = $stream eq 'read';
	create($stream, '{"on_error": "dead_letter"}', query => "SELECT k, count($h) AS h, max($at) AS at, sum(v) AS s FROM headed GROUP BY k", watermark => undef);
	process($node, $stream);
	my @rows = ("1|2026-01-01 00:00:00|[{\"key\": \"trace\", \"value\": \"\xe2\x82\xac\"}]",
		'5002||[{"hex": "fe", "key_hex": "ff"}]', '5003||[{"hex": "fe", "key_hex": "ff"}]',
		'5005|294276-12-31 23:43:20|[{"hex": "fe01", "key": "a"}]');
	my @got = split /\n/, $node->safe_psql('postgres', sprintf($headers, $stream));
	is(join("\n", map { s/\|[^|]*$//r } @got), join("\n", @rows[ $read ? (0 .. 3) : (0, 2, 3) ]), "headers and timestamps of dead letters, $stream");
	like($got[1], qr/\|key of a record's header is not UTF-8 text$/, 'a header that a column cannot hold is a reason') if $read;
	is(counts($stream), $read ? '5002|0|0|4|0' : '5003|0|0|3|0', "counts, $stream");
	drop($stream);
}
create('late_time', '{"on_error": "dead_letter"}', query => 'SELECT k, max(at) AS at FROM headed GROUP BY k', watermark => undef);
process($node, 'late_time');
like($node->safe_psql('postgres', q{SELECT string_agg(error, '|' ORDER BY "offset") FROM stream_agg.dead_letters WHERE stream = 'late_time'}),
	qr/^invalid JSON[^|]*\|timestamp of a record is out of range: 9224318016000001 ms\|invalid JSON[^|]*\|invalid JSON[^|]*$/,
	'so is a timestamp out of range');
drop('late_time');

done_testing();
