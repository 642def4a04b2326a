# Every aggregate of pg_aggregate of a stock server, in each form that SQL allows
# - plain, with FILTER, DISTINCT, ORDER BY, over each of several types where it is
# polymorphic - as a stream in small batches with a restart in between: it equals
# the batch query, or create_stream refuses it. None is left out.

use strict;
use warnings;

use StreamAgg::Test;
use Test::More;

my $broker = start_broker('samples' => 1);
my $node = new_node('all_aggregates');
my $rng = seeded_random();

# what depends on the order of arrival shall not be sorted by the batch query
$node->safe_psql('postgres', q{
	ALTER DATABASE postgres SET enable_sort = off;
	CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
	CREATE TYPE pair AS (x int, y text)});

# values by type; every float adds up exactly, so that its order does not matter
my %samples = (
	'smallint' => [ -3, 0, 1, 1, 12 ],
	'integer' => [ -70000, 0, 1, 1, 5, 6 ],
	'bigint' => [ '-5000000000', 0, 3, 3, 4 ],
	'real' => [ '-1.5', '0', '0.25', '8' ],
	'double precision' => [ '-2.5', '0', '0.125', '1000' ],
	'numeric' => [ '-1.5', '0', '2', '123456789012345678901234567890' ],
	'money' => [ '-1.50', '2', '0' ],
	'boolean' => [ 'true', 'false' ],
	'text' => [ '', 'a', 'B', 'c d', 'long ' x 500 ],
	'character' => [ 'a', 'b', ' ' ],
	'bytea' => [ '\x00ff', '\x', '\x0a' ],
	'bit(8)' => [ '10101010', '00001111' ],
	'date' => [ '2026-01-01', '1999-12-31', 'infinity' ],
	'time without time zone' => [ '00:00:00', '12:34:56.789' ],
	'time with time zone' => [ '00:00:00+02', '12:34:56-01' ],
	'timestamp without time zone' => [ '2026-01-01 00:00:00', '-infinity' ],
	'timestamp with time zone' => [ '2026-01-01 00:00:00+00', '2026-01-01 02:00:00+01' ],
	'interval' => [ '1 day', '2 hours', '-1 month' ],
	'oid' => [ '1', '4294967295' ],
	'tid' => [ '(0,1)', '(3,2)' ],
	'xid8' => [ '1', '18446744073709551615' ],
	'pg_lsn' => [ '0/0', '16/B374D848' ],
	'inet' => [ '192.168.0.1', '::1/64', '10.0.0.0/8' ],
	'xml' => [ '<a>1</a>', '<b/>' ],
	'jsonb' => [ '{"a": [1, 2.50]}', '3', '"x"' ],
	'uuid' => [ 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '00000000-0000-0000-0000-000000000000' ],
	'mood' => [ 'sad', 'ok', 'happy' ],
	'pair' => [ '(1,a)', '(2,)' ],
	'integer[]' => [ '{1,2}', '{3,4}', '{-1,-2}' ],
	'text[]' => [ '{a,b}', '{"c d",e}' ],
	'int4range' => [ '[1,10)', '[5,7)', '(,6]' ],
	'tstzrange' => [ '["2026-01-01 00:00+00","2026-02-01 00:00+00")', '["2026-01-10 00:00+00",)' ],
	'int4multirange' => [ '{[1,10),[20,30)}', '{[5,8)}' ]);
my %alternatives = (
	'bit' => [ 'bit(8)' ],
	'anyelement' => [ 'integer', 'text', 'numeric', 'timestamp with time zone', 'mood', 'pair', 'integer[]', 'uuid' ],
	'anynonarray' => [ 'integer', 'text', 'double precision', 'interval', 'mood', 'pair', 'jsonb', 'int4range', 'bit(8)' ],
	'anyarray' => [ 'integer[]', 'text[]' ],
	'anyenum' => ['mood'],
	'anyrange' => [ 'int4range', 'tstzrange' ],
	'anymultirange' => ['int4multirange'],
	'record' => ['pair']);
my @types = sort keys %samples;
my %column = map { $types[$_] => "c$_" } 0 .. $#types;
create_source($node, $broker, 'samples', 'samples',
	'id int, k int, pass bool, ' . join(', ', map { "$column{$_} $_" } @types));

my @records;
for my $n (0 .. 239)
{
	my %record = (id => $n, k => $rng->(4), pass => $rng->(3) ? 'true' : 'false');
	for my $type (@types)
	{
		# arrays of arrays have no NULLs
		$record{ $column{$type} } = $samples{$type}[ $rng->(scalar @{ $samples{$type} }) ]
		  if $type =~ /\[\]$/ || $rng->(5) > 0;
	}
	$record{$_} //= undef for values %column;
	push @records, json_record(\%record, numbers => [qw(id k)], bare => [qw(pass)]);
}

# the ways to write the arguments of an aggregate; none if a type has no samples
sub argument_lists
{
	my ($name, $variadic, @types) = @_;
	return ('id, ' . $column{'text'}, 'id, ' . $column{'jsonb'}) if $name =~ /^jsonb?_object_agg/;
	@types = ('anyelement') if $variadic;
	my @lists = ([]);
	for my $type (@types)
	{
		my @ways = grep { defined } map { $column{$_} } @{ $alternatives{ $type eq '"any"' ? 'anyelement' : $type } // [$type] };
		@lists = map { my $list = $_; map { [ @$list, $_ ] } @ways } @lists;
	}
	# of two polymorphic arguments the same, as of two floats
	return map { join(', ', @$_) } grep { my $list = $_; @types < 2 || $types[0] ne $types[1] || !grep { $_ ne $list->[0] } @$list } @lists;
}

# the calls of an aggregate, by form
sub calls
{
	my ($name, $kind, $direct, $variadic, @types) = @_;
	my %calls;
	if ($kind eq 'h')
	{
		$calls{'within group'} = [ "$name(3, 'b'::text) WITHIN GROUP (ORDER BY $column{integer}, $column{text} COLLATE \"C\" DESC)",
			"$name(k) WITHIN GROUP (ORDER BY $column{integer} NULLS FIRST) FILTER (WHERE pass)" ];
	}
	elsif ($kind eq 'o')
	{
		my @direct = map { /\[\]/ ? 'ARRAY[0, 0.25, 0.9]' : '0.75' } @types[ 0 .. $direct - 1 ];
		for my $list (argument_lists($name, 0, @types[ $direct .. $#types ]))
		{
			push @{ $calls{'within group'} }, map { "$name(" . join(', ', @direct) . ") WITHIN GROUP (ORDER BY $list$_)" }
			  '', ' DESC', ') FILTER (WHERE pass';
		}
	}
	elsif (!@types)
	{
		$calls{plain} = [ "$name(*)", "$name(*) FILTER (WHERE pass)" ];
	}
	else
	{
		for my $list (argument_lists($name, $variadic, @types))
		{
			push @{ $calls{plain} }, "$name($list)", "$name($list) FILTER (WHERE pass)";
			push @{ $calls{distinct} }, "$name(DISTINCT $list)";
			push @{ $calls{'order by'} }, "$name($list ORDER BY id DESC)";
		}
	}
	return %calls;
}

# what the batch query and create_stream say to calls: one row for each that one
# of them complains of
$node->safe_psql('postgres', q{
	CREATE FUNCTION complaints(calls text[]) RETURNS TABLE (call text, batch text, stream text) LANGUAGE plpgsql AS $$
	DECLARE
		query text;
		half int := cardinality(calls) / 2;
	BEGIN
		SELECT 'SELECT k, ' || string_agg(format('%s AS a%s', c, n), ', ') || ' FROM samples %s GROUP BY k'
		  INTO query FROM unnest(calls) WITH ORDINALITY AS u(c, n);
		BEGIN
			EXECUTE format(query, 'WHERE false');
		EXCEPTION WHEN OTHERS THEN
			batch := SQLSTATE || ': ' || SQLERRM;
		END;
		BEGIN
			PERFORM stream_agg.create_stream('tried', format(query, ''), output_mode => 'update', start => false);
			RAISE SQLSTATE 'UNDO1';
		EXCEPTION WHEN SQLSTATE 'UNDO1' THEN
			NULL;
		WHEN OTHERS THEN
			stream := SQLSTATE || ': ' || SQLERRM;
		END;
		IF batch IS NOT NULL OR stream IS NOT NULL THEN
			IF half = 0 THEN
				call := calls[1];
				RETURN NEXT;
			ELSE
				RETURN QUERY SELECT * FROM complaints(calls[:half]) UNION ALL SELECT * FROM complaints(calls[half + 1:]);
			END IF;
		END IF;
	END $$});

my @aggregates = map { [ split /\|/ ] } split /\n/, $node->safe_psql('postgres', q{
	SELECT concat_ws('|', proname, aggkind, aggnumdirectargs, provariadic <> 0,
	                 (SELECT string_agg(t::regtype::text, '|' ORDER BY n) FROM unnest(proargtypes) WITH ORDINALITY AS u(t, n)))
	  FROM pg_aggregate a JOIN pg_proc p ON p.oid = aggfnoid
	 WHERE aggfnoid < 16384 ORDER BY 1});
my %form;
my @mute;
for my $aggregate (@aggregates)
{
	my ($name, $kind, $direct, $variadic, @types) = @$aggregate;
	my %calls = calls($name, $kind, $direct, $variadic eq 't', @types);
	push @mute, "$name(@types)" unless %calls;
	push @{ $form{$_} }, @{ $calls{$_} } for keys %calls;
}
cmp_ok(scalar @aggregates, '>', 130, 'the server has its aggregates');
is("@mute", '', 'there is a call of every aggregate');

my (%accepted, @refused, @no_sql, @wrong);
for my $form (sort keys %form)
{
	my $calls = join(', ', map { "\$c\$$_\$c\$" } @{ $form{$form} });
	my %complained;
	for my $row (split /\n/, $node->safe_psql('postgres', "SELECT * FROM complaints(ARRAY[$calls])"))
	{
		my ($call, $batch, $stream) = split /\|/, $row, -1;
		$complained{$call} = 1;
		# DISTINCT of what has no order, an array of arrays as result
		if ($batch =~ /^42883: could not identify an (equality|ordering) operator|^42704: could not find array type/) { push @no_sql, "$call: $batch"; }
		elsif ($batch ne '') { push @wrong, "$call: $batch"; }
		# of a pseudo-type no table has a column
		elsif ($stream =~ /^0A000: a stream cannot compute|^42P16: column .* has pseudo-type record$/) { push @refused, "$call: $stream"; }
		else { push @wrong, "$call: $stream"; }
	}
	$accepted{$form} = [ grep { !$complained{$_} } @{ $form{$form} } ];
}
note("refused: $_") for @refused;
note("no SQL: $_") for @no_sql;
is(join("\n", @wrong), '', 'every call runs in a batch, and is accepted or refused with its reason by create_stream');

my $streams = 0;
my %query;
for my $form (sort keys %accepted)
{
	my $n = 0;
	my $list = join(', ', map { "$_ AS a" . $n++ } @{ $accepted{$form} });
	my $name = 'all_' . $form =~ s/ /_/r;
	$query{$name} = "SELECT k, $list FROM samples GROUP BY k";
	$node->safe_psql('postgres', "SELECT stream_agg.create_stream('$name', \$q\$$query{$name}\$q\$, output_mode => 'update',
		trigger => '20 days', max_offsets_per_trigger => 50)");
}
for my $round (0 .. 1)
{
	$broker->produce('samples', @records[ $round * 120 .. $round * 120 + 119 ]);
	$node->restart if $round == 1;
	process($node, $_) for sort keys %query;
}

# every cell as text: types without equality are compared, too
sub as_text
{
	my $from = shift;
	return "SELECT k, key, value FROM (SELECT k, to_jsonb(r) - 'k' AS cells FROM ($from) r) j, jsonb_each_text(cells) AS each(key, value)";
}
for my $form (sort keys %accepted)
{
	my $name = 'all_' . $form =~ s/ /_/r;
	my $calls = scalar @{ $accepted{$form} };
	is_equal_tables($node, as_text("SELECT * FROM $name"), as_text($query{$name}), "$form: $calls calls yield what they yield in a batch")
	  or note(join("\n", map { "a$_: $accepted{$form}[$_]" } 0 .. $#{ $accepted{$form} }));
	is($node->safe_psql('postgres', "SELECT count(*) FROM (SELECT k FROM $name) s"), 4, "$form: all groups are there");
	$streams += $calls;
}
my $all = 0;
$all += @$_ for values %form;
is($streams + @refused + @no_sql, $all, 'no call is left out');
note(sprintf('table: %d aggregates, %d calls: %d equal the batch query, %d refused, %d are no SQL',
	scalar @aggregates, $all, $streams, scalar @refused, scalar @no_sql));

done_testing();
