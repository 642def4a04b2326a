# Watermark policies.  per_partition: what is late depends on the order of records
# in their own partitions alone, so sinks and counts are the same however the
# stream is cut into micro-batches, and over restarts and crashes.  global: what is
# late is what the micro-batches that were run make late, by Spark's rule.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $random = seeded_random();
my $broker = start_broker();
my $node = new_node('policy', 'max_worker_processes = 30', 'restart_after_crash = on', 'stream_agg.keep_batches = 1000');

my ($size, $delay) = (60, 20);    # seconds
my $base = 1767225600;            # 2026-01-01 00:00 UTC
my $columns = 'ts timestamptz, k int, v bigint';
my $query = "SELECT stream_agg.tumble(ts, '$size seconds') AS win, k, count(*) AS n, sum(v) AS total
	FROM %s WHERE v %% 5 <> 0 GROUP BY 1, k";

# [partition, time (s) or undef, k, v]: partitions of unequal speed, disorder and
# stragglers
sub make_records
{
	my ($counts, $span, $late_of) = @_;
	my @records;
	for my $p (0 .. $#$counts)
	{
		for my $i (0 .. $counts->[$p] - 1)
		{
			my $time = $base + int($span * ($i + 1) / $counts->[$p]) - $random->(15);
			$time -= $random->(4 * $size) if $random->($late_of) == 0;
			push @records, [ $p, $random->(40) == 0 ? undef : $time, $random->(3), $random->(1000) ];
		}
	}
	return @records;
}

sub json_of
{
	my ($p, $time, $k, $v) = @{ $_[0] };
	return [ $p, '', sprintf('{"ts":%s,"k":%d,"v":%d}', defined $time ? $time * 1000 : 'null', $k, $v) ];
}

# in the order in which they are produced: as they are in their partitions
sub shuffle_partitions
{
	my %of;
	push @{ $of{ $_->[0] } }, $_ for @_;
	my @order;
	while (my @left = grep { @{ $of{$_} } } sort keys %of)
	{
		my $p = $left[ $random->(scalar @left) ];
		push @order, splice @{ $of{$p} }, 0, 1 + $random->(5);
	}
	return @order;
}

sub passes { return $_[0]->[3] % 5 != 0; }
sub window_end { my $time = shift; return $time - $time % $size + $size; }

# what per_partition makes of records: (late, null, rows of all windows, watermark)
sub per_partition
{
	my ($partitions, @records) = @_;
	my (%greatest, %groups);
	my ($late, $null) = (0, 0);
	for my $r (grep { passes($_) } @records)
	{
		my ($p, $time, $k, $v) = @$r;
		if (!defined $time) { $null++; next; }
		if (defined $greatest{$p} && window_end($time) <= $greatest{$p} - $delay) { $late++; }
		else
		{
			my $group = $groups{ window_end($time) }{$k} //= [ 0, 0 ];
			$group->[0]++;
			$group->[1] += $v;
		}
		$greatest{$p} = $time if !defined $greatest{$p} || $time > $greatest{$p};
	}
	my ($least) = sort { $a <=> $b } values %greatest;
	my $watermark = keys %greatest == $partitions ? $least - $delay : 0;
	return ($late, $null, \%groups, $watermark);
}

sub rows_of
{
	my ($groups, $until) = @_;
	my @rows;
	for my $end (grep { !defined $until || $_ <= $until } keys %$groups)
	{
		push @rows, join('|', $end - $size, $_, @{ $groups->{$end}{$_} }) for keys %{ $groups->{$end} };
	}
	return join("\n", sort @rows);
}

sub sink
{
	my $stream = shift;
	my $rows = $node->safe_psql('postgres',
		"SELECT extract(epoch FROM lower(win))::bigint, k, n, total FROM $stream");
	return join("\n", sort split /\n/, $rows);
}

sub totals
{
	my $stream = shift;
	return $node->safe_psql('postgres', "SELECT total_late || ' late, ' || total_null_time || ' null, at '
		|| extract(epoch FROM watermark)::bigint FROM stream_agg.commits
		WHERE stream = '$stream' ORDER BY batch DESC LIMIT 1");
}

sub create_stream
{
	my ($stream, $source, $mode, $policy, $limit) = @_;
	my $bound = $limit ? ", max_offsets_per_trigger => $limit" : '';
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$stream', \$q\$" . sprintf($query, $source) . "\$q\$,
		watermark => '$delay seconds', output_mode => '$mode', trigger => '20 days' $bound,
		options => '{\"watermark_policy\": \"$policy\"}')");
	return;
}

# One stream of records, cut in many ways.
{
	my @records = shuffle_partitions(make_records([ 150, 40, 90 ], 1500, 12));
	my @portions = map { [ splice @records, 0, 70 ] } 1 .. 4;
	my @all = map { @$_ } @portions;
	my %streams;

	$broker->create_topic('cut', 3);
	create_source($node, $broker, 'cut', 'cut', $columns);
	# name => [mode, how: 0 = as records come, 1 = with restarts, 2 = all of them in the end]
	for my $mode ('append', 'update')
	{
		for my $limit (1, 7, 1000, 0)
		{
			my $name = $mode . '_' . ($limit || 'all');
			$streams{$name} = [ $mode, 0, $limit ];
			$streams{"${name}_restarts"} = [ $mode, 1, $limit ];
		}
		$streams{"${mode}_at_once"} = [ $mode, 2, 0 ];
	}
	create_stream($_, 'cut', $streams{$_}[0], 'per_partition', $streams{$_}[2]) for sort keys %streams;
	$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('${_}_at_once')") for 'append', 'update';
	for my $i (0 .. $#portions)
	{
		my @restarted = grep { $streams{$_}[1] == 1 } sort keys %streams;
		if ($i == 2) { kill_backends($node, worker_pid($node, $restarted[0])); }
		elsif ($i > 0)
		{
			$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('$_')") for @restarted;
			$node->safe_psql('postgres', "SELECT stream_agg.start_stream('$_')") for @restarted;
		}
		$broker->produce('cut', map { json_of($_) } @{ $portions[$i] });
		process($node, $_) for grep { $streams{$_}[1] < 2 } sort keys %streams;
	}
	for my $mode ('append', 'update')
	{
		$node->safe_psql('postgres', "SELECT stream_agg.start_stream('${mode}_at_once')");
		process($node, "${mode}_at_once");
	}

	my ($late, $null, $groups, $watermark) = per_partition(3, @all);
	cmp_ok($late, '>', 0, "$late of " . @all . ' records are late in their own partitions');
	for my $stream (sort keys %streams)
	{
		my $mode = $streams{$stream}[0];
		is(totals($stream), "$late late, $null null, at $watermark", "$stream: late records and watermark");
		is(sink($stream), rows_of($groups, $mode eq 'append' ? $watermark : undef), "$stream: the sink");
	}
	my $batches = $node->safe_psql('postgres', "SELECT batches FROM pg_stat_stream_agg WHERE stream = 'append_1'");
	is($batches, scalar @all, 'micro-batches of one record were such');

	# read again from the beginning, all at once
	for my $stream ('append_7', 'update_7_restarts')
	{
		$node->safe_psql('postgres', "SELECT stream_agg.reset_stream('$stream', 'earliest', results => true)");
		process($node, $stream);
		is(sink($stream), rows_of($groups, $streams{$stream}[0] eq 'append' ? $watermark : undef), "$stream: the sink after a reset");
	}

	# a preview judges as the micro-batch will
	$node->safe_psql('postgres', "SELECT stream_agg.stop_stream('append_1000')");
	$broker->produce('cut', map { json_of($_) } [ 0, $base + 5000, 1, 1 ], [ 1, $base + 1490, 1, 1 ], [ 0, $base + 1600, 1, 1 ]);
	my ($status, $out, $err) = $node->psql('postgres', "SELECT * FROM stream_agg.preview('append_1000')");
	my ($previewed) = $err =~ /late (\d+)/;
	$node->safe_psql('postgres', "SELECT stream_agg.start_stream('append_1000')");
	process($node, 'append_1000');
	is($node->safe_psql('postgres', "SELECT late FROM stream_agg.commits WHERE stream = 'append_1000' ORDER BY batch DESC LIMIT 1"),
		$previewed, "a preview tells what is late: $previewed");
	$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$_', drop_sink => true)") for sort keys %streams;
}

# A join gives rows in an order of its own, and several of a record: each record is
# judged by those before it in its partition all the same.
{
	my @records = shuffle_partitions(make_records([ 60, 60 ], 900, 8));
	$broker->create_topic('joined', 2);
	create_source($node, $broker, 'joined', 'joined', $columns);
	$node->safe_psql('postgres', 'CREATE TABLE kinds AS SELECT k, i FROM generate_series(0, 2) k, generate_series(0, k) i');
	$broker->produce('joined', map { json_of($_) } @records);
	my ($late, $null, $groups, $watermark) = per_partition(2, @records);
	my $once = rows_of($groups);
	for my $window (values %$groups)
	{
		for my $k (keys %$window) { $_ *= $k + 1 for @{ $window->{$k} }; }
	}
	for my $way ('enable_hashjoin', 'enable_mergejoin', 'enable_nestloop')
	{
		$node->safe_psql('postgres', "ALTER DATABASE postgres SET $_ = " . ($_ eq $way ? 'on' : 'off'))
		  for 'enable_hashjoin', 'enable_mergejoin', 'enable_nestloop';
		for my $limit (7, 0)
		{
			my $stream = "joined_${way}_$limit";
			create_stream($stream, 'joined JOIN kinds USING (k)', 'update', 'per_partition', $limit);
			process($node, $stream);
			is(totals($stream), "$late late, $null null, at $watermark", "$way, $limit offsets at a time: late records");
			is(sink($stream), rows_of($groups), "$way, $limit offsets at a time: the sink");
			# so does the join that IN in WHERE becomes
			create_stream("in_$stream", '(SELECT * FROM joined WHERE k IN (SELECT k FROM kinds)) j', 'update', 'per_partition', $limit);
			process($node, "in_$stream");
			is(totals("in_$stream"), "$late late, $null null, at $watermark", "$way of IN, $limit offsets at a time: late records");
			is(sink("in_$stream"), $once, "$way of IN, $limit offsets at a time: the sink");
		}
	}
	$node->safe_psql('postgres', "ALTER DATABASE postgres RESET ALL");
}

# A backlog of 24 hours, in partitions that are read at very unequal speed.
{
	my @records = make_records([ 1200, 150, 20 ], 86400, 60);
	my %by_partition;
	$broker->create_topic('backlog', 3);
	create_source($node, $broker, 'backlog', 'backlog', $columns);
	$broker->produce('backlog', map { json_of($_) } @records);
	push @{ $by_partition{ $_->[0] } }, $_ for @records;
	my ($late, $null, $groups, $watermark) = per_partition(3, @records);

	for my $limit (31, 400, 0)
	{
		my $own = 'own_' . ($limit || 'all');
		my $global = 'global_' . ($limit || 'all');
		create_stream($own, 'backlog', 'append', 'per_partition', $limit);
		create_stream($global, 'backlog', 'append', 'global', $limit);
		process($node, $_) for $own, $global;
		is(totals($own), "$late late, $null null, at $watermark",
			"$own: nothing is late that is not late in its own partition");
		is(sink($own), rows_of($groups, $watermark), "$own: the sink");

		# the model, over the micro-batches that were run
		my ($w, $model_late, $max) = (0, 0, undef);
		for my $ranges (split /\n/, $node->safe_psql('postgres',
				"SELECT ranges FROM stream_agg.offsets WHERE stream = '$global' ORDER BY batch"))
		{
			while ($ranges =~ /"(\d+)": \[(\d+), (\d+)\]/g)
			{
				for my $r (grep { defined $_->[1] && passes($_) } @{ $by_partition{$1} }[ $2 .. $3 - 1 ])
				{
					$model_late++ if window_end($r->[1]) <= $w;
					$max = $r->[1] if !defined $max || $r->[1] > $max;
				}
			}
			$w = $max - $delay if defined $max && $max - $delay > $w;
		}
		is(totals($global), "$model_late late, $null null, at $w", "$global: late is what the model says");
		$node->safe_psql('postgres', "SELECT stream_agg.drop_stream('$_', drop_sink => true)") for $own, $global;
	}
}

done_testing();
