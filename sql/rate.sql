-- numbered rows that come at a given rate, without any server
CREATE EXTENSION IF NOT EXISTS stream_agg;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SELECT srvname, srvoptions[1] ~ '^start=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00$' AS starts FROM pg_foreign_server WHERE srvname = 'stream_agg_rate';

CREATE SERVER past FOREIGN DATA WRAPPER stream_agg_rate OPTIONS (start '2026-01-01 00:00:00');
CREATE FOREIGN TABLE plain ("timestamp" timestamptz, value bigint,
    topic text OPTIONS (metadata 'topic'), part int OPTIONS (metadata 'partition'), "offset" bigint OPTIONS (metadata 'offset'))
    SERVER past OPTIONS (rows_per_second '3', partitions '2');
SELECT * FROM plain WHERE "offset" < 4 ORDER BY value;
-- the row at an offset of a partition is always the same, and is found at once
SELECT "timestamp", value FROM plain WHERE part = 1 AND "offset" = 7000000;
SELECT "timestamp", value FROM plain WHERE part = 1 AND "offset" = 7000000;
EXPLAIN (COSTS OFF) SELECT value FROM plain WHERE part = 1 AND "offset" < 10;
-- and so are those from a time on
SELECT count(*) FROM plain WHERE "timestamp" >= '2026-01-01 00:00:01' AND "offset" < 3;
SELECT count(*) FROM plain WHERE "timestamp" > 'infinity';
SELECT count(*) FROM plain WHERE "timestamp" >= '294276-12-31 23:59:59.999999';

-- the rate grows evenly until the end of the ramp
CREATE FOREIGN TABLE ramp (at timestamptz, n bigint, "offset" bigint OPTIONS (metadata 'offset'))
    SERVER past OPTIONS (rows_per_second '10', ramp_up '4 seconds');
SELECT at, n FROM ramp WHERE "offset" < 32 ORDER BY n;

-- options mean the same in every session
SET timezone = 'Asia/Tokyo';
SET datestyle = 'German';
SET intervalstyle = 'sql_standard';
SELECT extract(epoch FROM at), n FROM ramp WHERE "offset" = 20;
RESET intervalstyle;
SET datestyle = 'ISO, YMD';
SET timezone = 'UTC';

-- nothing before it starts
CREATE FOREIGN TABLE later (at timestamptz, n bigint) SERVER past OPTIONS (start '2200-01-01 00:00:00+02');
SELECT * FROM later;

-- what cannot be
CREATE FOREIGN TABLE bad (at timestamptz) SERVER past OPTIONS (rows_per_second '0');
CREATE FOREIGN TABLE bad (at timestamptz) SERVER past OPTIONS (rows_per_second '1000000001');
CREATE FOREIGN TABLE bad (at timestamptz) SERVER past OPTIONS (partitions 'many');
CREATE FOREIGN TABLE bad (at timestamptz) SERVER past OPTIONS (start 'today');
CREATE FOREIGN TABLE bad (at timestamptz) SERVER past OPTIONS (start '1969-12-31');
CREATE FOREIGN TABLE bad (at timestamptz) SERVER past OPTIONS (start '2026-13-01');
CREATE FOREIGN TABLE bad (at timestamptz) SERVER past OPTIONS (ramp_up '1 month');
CREATE FOREIGN TABLE bad (at timestamptz) SERVER past OPTIONS (ramp_up '-1 second');
CREATE FOREIGN TABLE bad (at timestamptz) SERVER past OPTIONS (topic 'x');
CREATE FOREIGN TABLE bad (at timestamptz OPTIONS (metadata 'headers')) SERVER past;
CREATE FOREIGN TABLE bad (at timestamptz OPTIONS (path 'a.b')) SERVER past;
CREATE USER MAPPING FOR CURRENT_USER SERVER past OPTIONS (user 'x');
CREATE SERVER bare FOREIGN DATA WRAPPER stream_agg_rate;
CREATE FOREIGN TABLE bad (at timestamptz, n bigint) SERVER bare;
SELECT * FROM bad;
DROP FOREIGN TABLE bad;
CREATE FOREIGN TABLE bad (at timestamptz, what text) SERVER past;
SELECT * FROM bad LIMIT 1;
DROP FOREIGN TABLE bad;
CREATE FOREIGN TABLE bad (n bigint, m bigint) SERVER past;
SELECT * FROM bad LIMIT 1;
INSERT INTO plain ("timestamp", value) VALUES (now(), 1);
SELECT stream_agg.create_stream('into', 'SELECT at, n FROM ramp', sink => 'plain', options => '{"delivery": "at_least_once"}');
SELECT stream_agg.create_stream('told', 'SELECT at, n FROM ramp', options => '{"consumer_group": "g"}');
DROP SERVER past CASCADE;
DROP SERVER bare CASCADE;
