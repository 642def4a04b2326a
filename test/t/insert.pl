# INSERT into a source produces records: what goes in comes out again, and what
# Kafka does not acknowledge is an error that says so.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use StreamAgg::Test;
use Test::More;
use Time::HiRes 'time';

my $broker = start_broker(events => 4, types => 1, copies => 1, many => 4, routed => 1, fed => 1, small => 1);
my $node = new_node('insert', "stream_agg.kafka_timeout = '10s'");
my $port = $node->port;

sub sql { return $node->safe_psql('postgres', shift); }
sub sql_error
{
	my ($status, $out, $err) = $node->psql('postgres', shift);
	return $status == 0 ? 'no error' : $err;
}

create_source($node, $broker, 'events', 'events', q{
	ts timestamptz, id bigint, note text, amount numeric OPTIONS (field 'the "amount"'),
	k text OPTIONS (metadata 'key'), part int OPTIONS (metadata 'partition'),
	pos bigint OPTIONS (metadata 'offset'), at timestamptz OPTIONS (metadata 'timestamp'),
	head jsonb OPTIONS (metadata 'headers')});
sql(q{ALTER FOREIGN TABLE events ALTER note SET DEFAULT 'none',
	ADD COLUMN twice bigint GENERATED ALWAYS AS (id * 2) STORED});

# one record of each kind
is(sql(q{INSERT INTO events (ts, id, amount, k, part, at, head)
	VALUES ('2026-01-02 03:04:05.678901+00', 1, 1.10, 'käse', 2, '2026-01-01 00:00:00.123Z',
	        '[{"key": "a", "value": "text"}, {"key": "a", "value": null}, {"key": "b", "hex": "00ff"}, {"key": "", "value": ""}]')
	RETURNING id, note, twice, k, part, pos}), '1|none|2|käse|2|', 'RETURNING gives the row as inserted');
is(sql(q{SELECT ts = '2026-01-02 03:04:05.678901+00', id, note, amount, twice, k, part, pos, at = '2026-01-01 00:00:00.123Z', head
	FROM events WHERE part = 2}),
	't|1|none|1.10|2|käse|2|0|t|[{"key": "a", "value": "text"}, {"key": "a", "value": null}, {"hex": "00ff", "key": "b"}, {"key": "", "value": ""}]',
	'columns, key, partition, timestamp and headers come back');
sql("INSERT INTO events (id) VALUES (2)");
is(sql("SELECT ts IS NULL, note, amount IS NULL, k IS NULL, head IS NULL, at > now() - interval '1 hour' FROM events WHERE id = 2"),
	't|none|t|t|t|t', 'NULL is NULL: no key, no headers, the time of now');
sql("INSERT INTO events (id, k) SELECT i, 'key' || i % 20 FROM generate_series(100, 499) i");
is(sql("SELECT count(*), count(DISTINCT k), count(DISTINCT (k, part)), count(DISTINCT part) > 1 FROM events WHERE id >= 100"),
	'400|20|20|t', 'a key has one partition, keys have several');
is(sql("SELECT bool_and(ordered) FROM (SELECT id > lag(id) OVER (PARTITION BY part ORDER BY pos) AS ordered FROM events WHERE id >= 100) x"),
	't', 'the order of rows is the order of a partition');
sql("INSERT INTO events (id, k) VALUES (600, ''), (601, NULL)");
is(sql("SELECT string_agg(COALESCE('[' || k || ']', 'null'), ',' ORDER BY id) FROM events WHERE id IN (600, 601)"),
	'[],null', 'an empty key is not none');
is(sql("INSERT INTO events (id) SELECT 1 WHERE false RETURNING id"), '', 'no rows');

# what Kafka or the format cannot do
like(sql_error("INSERT INTO events (pos) VALUES (7)"), qr/cannot insert a value into column "pos".*Kafka assigns/s, 'offset');
like(sql_error("INSERT INTO events (part) VALUES (-1)"), qr/partition -1 in column "part" is out of range/, 'partition below 0');
like(sql_error("INSERT INTO events (part) VALUES (4)"), qr/Kafka acknowledged 0 of 1 records.*partition/si, 'no such partition');
like(sql_error("INSERT INTO events (at) VALUES ('infinity')"), qr/timestamp in column "at" is out of range/, 'timestamp');
like(sql_error("INSERT INTO events (head) VALUES ('$_')"), qr/invalid headers in column "head"/, "headers $_")
  for '{}', '1', '[1]', '[[]]', '[{}]', '[{"key": 1, "value": ""}]', '[{"key": "a", "value": 1}]', '[{"key": "a", "values": ""}]',
	'[{"key": "a", "hex": null}]', '[{"value": "a", "hex": ""}]';
like(sql_error("UPDATE events SET id = 1"), qr/cannot update foreign table "events"/, 'UPDATE');
like(sql_error("DELETE FROM events"), qr/cannot delete from foreign table "events"/, 'DELETE');
like(sql_error("INSERT INTO events (id) VALUES (1) ON CONFLICT DO NOTHING"), qr/ON CONFLICT is not supported/, 'ON CONFLICT');
like(sql("EXPLAIN (COSTS OFF) INSERT INTO events (id) VALUES (1)"), qr/Insert on events\n  Kafka Topic: events/, 'EXPLAIN');
is(sql("SELECT is_insertable_into FROM information_schema.tables WHERE table_schema = 'public' AND table_name = 'events'"), 'YES', 'insertable');

# every type
sql(q{
	CREATE TYPE mood AS ENUM ('sad', 'ha"ppy');
	CREATE DOMAIN positive AS int CHECK (VALUE > 0);
	CREATE DOMAIN ints AS int[];
	CREATE TYPE inner_t AS (a int, at timestamptz, l text[]);
	CREATE TYPE outer_t AS (i inner_t, f float8, b bytea, j jsonb, many inner_t[]);
	CREATE DOMAIN outer_d AS outer_t;
	CREATE EXTENSION hstore;
	ALTER DATABASE postgres SET timezone = 'Asia/Kolkata'});
my %values = (
	smallint => [ '-32768', '7' ],
	integer => [ '2147483647' ],
	bigint => [ '-9223372036854775808', '9223372036854775807' ],
	real => [ '0.1', '1e-40', '3.4028235e38', 'NaN', 'Infinity', '-Infinity' ],
	'double precision' => [ '0.1', '5e-324', '1.7976931348623157e308', '-1e22', 'NaN', 'Infinity', '-Infinity' ],
	numeric => [ '1.10', '-0.00', '123456789012345678901234567890.123456789012345678901234567890', 'NaN', 'Infinity', '-Infinity', '1e-100' ],
	'numeric(6,2)' => [ '1234.50', '0' ],
	boolean => [ 'true', 'false' ],
	text => [ '', 'null', "a\"b\\c\tä€😀\n\x01", '{"a": 1}', '[1]', '1e5', 'true' ],
	'varchar(5)' => [ 'abc  ' ],
	'char(4)' => [ 'ab' ],
	'"char"' => [ 'x' ],
	name => [ 'a name' ],
	timestamptz => [ '2026-01-02 03:04:05.678901+00', 'infinity', '-infinity', '0044-03-15 12:00:00+00 BC', '294276-12-31 00:00:00+00', '1800-01-01 00:00:00.000001+00', '1970-01-01 00:00:00+00' ],
	timestamp => [ '2026-01-02 03:04:05.678901', 'infinity', '4713-11-24 00:00:00 BC', '294276-12-31 23:59:59.999999' ],
	date => [ '2026-01-02', 'infinity', '-infinity', '4713-11-24 BC', '5874897-12-31' ],
	time => [ '24:00:00', '12:34:56.789' ],
	timetz => [ '12:34:56.789-03:30' ],
	interval => [ '1 day 2 hours', '-1 mons +2 days -03:04:05.678', '178000000 years' ],
	uuid => [ '6f1b1e3c-7e4d-4b7e-8f2a-0123456789ab' ],
	bytea => [ '\\x00ff', '\\x' ],
	jsonb => [ '{"a": [1, null, {"b": 2.0}]}', '"text"', '1.10', 'true', '[]' ],
	json => [ '{"a" :  1, "a": 2}', '"teäxt"', '1.10', '[1,  2]' ],
	xml => [ '<a>b</a>' ],
	inet => [ '127.0.0.1/8' ],
	macaddr => [ '08:00:2b:01:02:03' ],
	'bit varying' => [ '10101' ],
	money => [ '1234.56' ],
	point => [ '(0.1,2)' ],
	tsvector => [ "'a':1 'b'" ],
	regclass => [ 'events', 'pg_class' ],
	oid => [ '4294967295' ],
	pg_lsn => [ '16/B374D848' ],
	int2vector => [ '1 2 3' ],
	int4range => [ '[1,5)', 'empty', '(,)' ],
	tstzrange => [ '["2026-01-02 03:04:05.678901+00",)' ],
	datemultirange => [ '{[2026-01-02,2026-02-01),[2027-01-01,)}' ],
	hstore => [ '"a"=>"1", "b"=>NULL' ],
	'hstore[]' => [ '{"\\"a\\"=>\\"1\\""}' ],
	mood => [ 'sad', 'ha"ppy' ],
	positive => [ '5' ],
	ints => [ '{1,2}', '[0:1]={1,2}' ],
	'integer[]' => [ '{}', '{1,NULL,3}', '{{1,2},{3,4}}', '[2:3]={1,2}', '[0:0][5:6]={{1,2}}' ],
	'text[]' => [ '{a,"b c","NULL",NULL,"","{}","ä\"\\\\"}', '{{{x}}}' ],
	'timestamptz[]' => [ '{"2026-01-02 03:04:05.678901+00"}' ],
	'interval[]' => [ '{"-1 days +02:00:00"}' ],
	'double precision[]' => [ '{NaN,0.1,-Infinity}' ],
	'numeric(5,2)[]' => [ '{1.50}' ],
	'bytea[]' => [ '{"\\\\x00ff"}' ],
	'jsonb[]' => [ '{"[1, 2]","{\"a\": null}",NULL,"null","\"x\""}' ],
	'ints[]' => [ '{"{1,2}","{3}"}' ],
	'mood[]' => [ '{sad,"ha\"ppy"}' ],
	inner_t => [ '(1,"2026-01-02 03:04:05.678901+00","{a,NULL}")', '(,,)', '(1,,"[3:4]={a,b}")' ],
	outer_t => [ q{("(1,\"2026-01-02 03:04:05+00\",{x})",NaN,"\\\\x00ff","{""a"": [1, null]}","{""(1,,{y})"",NULL}")} ],
	outer_d => [ q{("(1,,)",0.1,,,"{""(1,,[0:0]={y})""}")} ],
	'inner_t[]' => [ '{"(1,\"2026-01-02 03:04:05+00\",\"{a,b}\")",NULL,"(,,)"}', '{"(1,,\"[0:0]={a}\")"}' ],);
my @types = sort keys %values;
my $rows = 0;
my @columns = map { "c$_ $types[$_]" } 0 .. $#types;
create_source($node, $broker, 'types', 'types', join(', ', 'n int', @columns));
sql('CREATE TABLE wanted (n int, ' . join(', ', @columns) . ')');
my $longest = (sort { $b <=> $a } map { scalar @$_ } values %values)[0];
for my $row (0 .. $longest)    # the last one has NULL everywhere
{
	my @values = map { defined $values{$_}[$row] ? "\$q\$$values{$_}[$row]\$q\$" : 'NULL' } @types;
	sql("SET client_encoding = 'UTF8'; INSERT INTO wanted VALUES ($row, " . join(', ', @values) . ')');
	$rows++;
}
# settings that change text forms must not matter
sql(q{SET datestyle = 'German, DMY'; SET intervalstyle = 'sql_standard'; SET extra_float_digits = -5; SET bytea_output = 'escape';
	SET timezone = 'America/St_Johns'; INSERT INTO types TABLE wanted});
is(sql('SELECT count(*) FROM types'), $rows, 'a row of every type, and of NULLs');
for my $i (0 .. $#types)
{
	# values of a type without an equality operator are compared as text
	my ($a, $b) = ("w.c$i", "t.c$i");
	($a, $b) = ("$a\::text", "$b\::text") if $types[$i] =~ /^(json|xml|point|outer_[td])$/;
	is(sql("SELECT n, $a, $b FROM types t JOIN wanted w USING (n) WHERE $a IS DISTINCT FROM $b"), '', "$types[$i] comes back");
}
is(sql('SELECT count(*) FROM types t JOIN wanted w USING (n) WHERE ' . join(' OR ', map { "(w.c$_ IS NULL) <> (t.c$_ IS NULL)" } 0 .. $#types)),
	0, 'NULL is NULL in every type');
like(sql_error(q{CREATE FOREIGN TABLE bad (v json) SERVER } . sql('SELECT srvname FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$ LIMIT 1') . q{ OPTIONS (topic 'types');
	INSERT INTO bad VALUES ('"\u0000"')}), qr/invalid JSON record.*row 1 inserted into source "bad"/s,
	'what could not be read again is not produced');
is(sql('SELECT count(*) FROM types'), $rows, 'nothing of that is in the topic');

# columns of the same field
create_source($node, $broker, 'shared', 'small', q{a int OPTIONS (field 'v'), b text OPTIONS (field 'v')});
sql("INSERT INTO shared VALUES (1, NULL), (NULL, '2')");
is(sql('SELECT a, b FROM shared ORDER BY a'), "1|1\n2|2", 'columns of the same field');
like(sql_error("INSERT INTO shared VALUES (1, '2')"), qr/columns "a" and "b" cannot both be inserted/, 'but not both at once');

# COPY, partitions, triggers, views
create_source($node, $broker, 'copies', 'copies', 'id int, note text');
is(sql("COPY copies FROM STDIN;\n" . join('', map { "$_\tnote $_\n" } 1 .. 1000) . "\\.\nSELECT count(*), sum(id), max(note) FROM copies"),
	'1000|500500|note 999', 'COPY FROM');
sql(q{CREATE TABLE parted (id int, note text) PARTITION BY RANGE (id);
	CREATE TABLE parted_local PARTITION OF parted FOR VALUES FROM (0) TO (10);
	CREATE FOREIGN TABLE parted_kafka PARTITION OF parted FOR VALUES FROM (10) TO (20)
		SERVER } . sql('SELECT srvname FROM pg_foreign_server WHERE srvname <> $r$stream_agg_rate$r$ LIMIT 1') . q{ OPTIONS (topic 'routed');
	INSERT INTO parted SELECT i, 'x' FROM generate_series(0, 19) i;
	UPDATE parted SET id = 15 WHERE id = 3});
is(sql('SELECT count(*) FROM ONLY parted_local') . ' ' . sql('SELECT count(*), sum(id) FROM parted_kafka'), '9 11|160',
	'rows are routed to a partition that is a source');
sql(q{CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF NEW.id = 0 THEN RETURN NULL; END IF; NEW.note := 'changed'; RETURN NEW; END $$;
	CREATE TRIGGER before BEFORE INSERT ON copies FOR EACH ROW EXECUTE FUNCTION change();
	INSERT INTO copies VALUES (0, 'dropped'), (2000, 'new')});
is(sql('SELECT count(*), min(note) FROM copies WHERE id IN (0, 2000)'), '1|changed', 'BEFORE ROW triggers');
sql(q{CREATE ROLE writer LOGIN; GRANT INSERT ON copies TO writer; CREATE ROLE nobody LOGIN});
sql("SET ROLE writer; INSERT INTO copies VALUES (3000, '')");
like(sql_error("SET ROLE nobody; INSERT INTO copies VALUES (3000, '')"), qr/permission denied for foreign table copies/, 'privileges');
sql(q{CREATE VIEW copies_view AS SELECT * FROM copies WHERE id > 0 WITH CHECK OPTION; GRANT INSERT ON copies_view TO nobody;
	SET ROLE nobody; INSERT INTO copies_view VALUES (3001, '')});
is(sql('SELECT count(*) FROM copies WHERE id IN (3000, 3001)'), 2, 'by privilege and through a view');
sql('BEGIN; INSERT INTO copies VALUES (4000); ROLLBACK');
is(sql('SELECT count(*) FROM copies WHERE id = 4000'), 1, 'ROLLBACK takes nothing back');

# a stream whose sink produces into the stream's own source
create_source($node, $broker, 'fed', 'fed', 'ts timestamptz, id int');
sql(q{INSERT INTO fed VALUES (now(), 1);
	SELECT stream_agg.create_stream('echo', 'SELECT id, count(*) FROM fed GROUP BY id', output_mode => 'update', start => false);
	CREATE FUNCTION feed() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO fed VALUES (now(), NEW.id + 1); RETURN NULL; END $$;
	CREATE TRIGGER feed AFTER INSERT ON echo FOR EACH ROW WHEN (NEW.id < 5) EXECUTE FUNCTION feed();
	SELECT stream_agg.start_stream('echo')});
$node->poll_query_until('postgres', 'SELECT count(*) = 5 FROM echo') or diag(sql('SELECT state, last_error FROM pg_stat_stream_agg'));
is(sql('SELECT string_agg(id || $$:$$ || count, $$,$$ ORDER BY id) FROM echo'), '1:1,2:1,3:1,4:1,5:1', 'a sink feeds its own source');

# many rows
create_source($node, $broker, 'many', 'many', 'ts timestamptz, id bigint, amount numeric, note text, part int OPTIONS (metadata $$partition$$)');
my $start = time;
sql(q{INSERT INTO many SELECT '2026-01-01Z'::timestamptz + i * interval '1 second', i, i / 100.0, 'note', i % 4 FROM generate_series(1, 100000) i});
my $took = time - $start;
note(sprintf('100,000 rows in %.2f s', $took));
is(sql('SELECT count(*), count(DISTINCT id), sum(amount) = 50000500 FROM many'), '100000|100000|t', 'many rows, each once');

# too large for Kafka
like(sql_error("INSERT INTO copies SELECT i, CASE WHEN i = 5005 THEN repeat('x', 2000000) END FROM generate_series(5001, 5010) i") =~ s/\s+/ /gr,
	qr/no error/, 'a trigger makes it small');
sql('DROP TRIGGER before ON copies');
# those before it are in the topic when it comes
sql(q{
	CREATE FUNCTION large_behind(int) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		LOOP EXIT WHEN (SELECT count(*) FROM copies WHERE id BETWEEN $1 - 4 AND $1) = 4; END LOOP;
		RETURN repeat('x', 2000000);
	END $$});
my $error = sql_error("\\set VERBOSITY verbose\nINSERT INTO copies SELECT i, CASE WHEN i = 6005 THEN large_behind(i) END FROM generate_series(6001, 6010) i");
like($error, qr/54000: Kafka acknowledged 4 of 5 records for topic "copies"\n.*too large.*does not roll back/s, 'a record is too large: the number acknowledged');
is(sql('SELECT count(*) FROM copies WHERE id BETWEEN 6001 AND 6010'), 4, 'and it is right');

# Kafka does not answer
$broker->down;
$start = time;
$error = sql_error("SET stream_agg.kafka_timeout = '1s'; INSERT INTO copies SELECT i FROM generate_series(7001, 7100) i");
like($error, qr/Kafka acknowledged 0 of 100 records for topic "copies"\nDETAIL:.*(refused|disconnect|down).*\nHINT:  Check the brokers/i, 'no broker: nothing acknowledged');
cmp_ok(time - $start, '<', 8, 'within the time');
$start = time;
$error = sql_error("SET statement_timeout = '500ms'; INSERT INTO copies SELECT i FROM generate_series(7001, 7100) i");
like($error, qr/canceling statement due to statement timeout/, 'cancelled while it waits');
cmp_ok(time - $start, '<', 3, 'at once');
$start = time;
$error = sql_error("DO \$\$ BEGIN INSERT INTO copies SELECT i / (7050 - i) FROM generate_series(7001, 7100) i; END \$\$");
like($error, qr/division by zero/, 'an error elsewhere in the statement');
cmp_ok(time - $start, '<', 3, 'waits for nobody');
$broker->up;

# Kafka says nothing at all
kill 'STOP', $broker->pid;
$start = time;
$error = sql_error("SET stream_agg.kafka_timeout = '1s'; INSERT INTO copies SELECT i FROM generate_series(7101, 7200) i");
like($error, qr/Kafka acknowledged 0 of 100 records for topic "copies"/, 'a silent broker: nothing acknowledged');
cmp_ok(time - $start, '<', 8, 'within the time');
my $session = IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'),
		'-c', 'INSERT INTO copies SELECT i FROM generate_series(7201, 7300) i' ],
	'<', \undef, '>', \my $out, '2>', \my $err);
my $waiting = q{FROM pg_stat_activity WHERE query LIKE 'INSERT INTO copies%' AND pid <> pg_backend_pid()};
$node->poll_query_until('postgres', "SELECT count(*) = 1 $waiting AND wait_event_type = 'Extension'");
is(sql("SELECT pg_terminate_backend(pid, 5000) $waiting"), 't', 'a session that waits can be terminated');
$session->finish;
kill 'CONT', $broker->pid;

# a topic that is not there
$broker->control('hide', 'small');
$error = sql_error("\\set VERBOSITY verbose\nSET stream_agg.kafka_timeout = '6s'; INSERT INTO shared VALUES (1)");
like($error, qr/42704: Kafka acknowledged 0 of 1 records for topic "small"\n.*nknown topic.*\nHINT:  Create the topic/, 'no such topic');
$broker->control('show', 'small');

is(sql(q{DO $$ BEGIN
		FOR i IN 1 .. 20 LOOP
			BEGIN
				INSERT INTO copies SELECT j / (10 - j) FROM generate_series(1, 20) j;
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
		END LOOP;
	END $$; INSERT INTO copies VALUES (8000); SELECT count(*) FROM copies WHERE id = 8000}), 1, 'errors that are caught, and then one that works');
is(sql(q{DO $$ BEGIN
		FOR i IN 1 .. 50 LOOP
			BEGIN
				INSERT INTO copies SELECT j / (10 - j) FROM generate_series(1, 20) j;
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
		END LOOP;
	END $$; SELECT count(*) FROM pg_ls_dir('/proc/' || pg_backend_pid() || '/task') t,
		pg_ls_dir('/proc/' || pg_backend_pid() || '/fd')  f}) < 200 ? 'few' : 'many', 'few', 'neither threads nor descriptors are left');

done_testing();
