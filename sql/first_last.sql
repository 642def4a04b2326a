-- the aggregates first and last: in any SQL, in parallel plans, in streams
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN price AS numeric(10, 2);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE ticks AS
SELECT '2026-01-01'::timestamptz + i % 1009 * interval '1 s' AS ts, i % 7 AS k, (i * 7919) % 1013 AS v,
       CASE WHEN i % 11 > 0 THEN 'word ' || i % 101 END AS word, ('{sad,ok,happy}'::mood[])[i % 3 + 1] AS mood,
       (i % 997 / 8.0)::price AS price, ROW(i % 5, i::text)::pair AS pair, json_build_object('i', i % 17) AS doc, ARRAY[i % 13, i] AS list
  FROM generate_series(1, 20000) i;
INSERT INTO ticks (ts, k, v) VALUES (NULL, 0, -1), (NULL, 7, 1);
ANALYZE ticks;

-- by the order of times, then of values; NULL values come after all others, rows without a time do not count
SELECT stream_agg.first(v, t), stream_agg.last(v, t) FROM (VALUES (1, 3), (2, 1), (3, 2), (4, NULL)) x (v, t);
SELECT stream_agg.first(v, t), stream_agg.last(v, t) FROM (VALUES ('b', 1), ('c', 1), ('a', 1)) x (v, t);
SELECT stream_agg.first(v, t), stream_agg.last(v, t) FROM (VALUES ('b', 1), (NULL, 1), ('a', 1)) x (v, t);
SELECT stream_agg.first(v, t) IS NULL AS first, stream_agg.last(v, t) FROM (VALUES (NULL, 1), ('a', 2)) x (v, t);
SELECT stream_agg.last(v, t) FILTER (WHERE v IS NOT NULL) FROM (VALUES ('b', 1), (NULL, 2)) x (v, t);
SELECT stream_agg.first(v, t), stream_agg.last(v, t) FROM (VALUES (1, NULL::bigint)) x (v, t);
SELECT stream_agg.first(1, now()) FROM ticks WHERE false;
-- equal values with other digits, and values without an order, by their bytes: the input's order does not matter
SELECT count(DISTINCT f), count(DISTINCT l), bool_and(f <> l) AS differ
  FROM (SELECT stream_agg.first(v, 1)::text AS f, stream_agg.last(v, 1)::text AS l FROM (VALUES (1.0), (1.00)) x (v)
        UNION ALL SELECT stream_agg.first(v, 1)::text, stream_agg.last(v, 1)::text FROM (VALUES (1.00), (1.0)) x (v)) y;
SELECT DISTINCT stream_agg.last(j, 1)::text FROM (VALUES (1, '{"a": 1}'::json), (1, '{"b": 1}'), (2, '{"b": 1}'), (2, '{"a": 1}')) x (g, j) GROUP BY g;
-- times of each kind, infinite ones among them
SELECT stream_agg.first(v, t), stream_agg.last(v, t) FROM (VALUES (1, 'infinity'::timestamptz), (2, '-infinity'), (3, now())) x (v, t);
SELECT stream_agg.first(v, t), stream_agg.last(v, t) FROM (VALUES (1, '2026-01-02'::timestamp), (2, '2026-01-01')) x (v, t);
SELECT stream_agg.first(v, t), stream_agg.last(v, t) FROM (VALUES (1, 7::smallint), (2, 8::smallint)) x (v, t);
SELECT stream_agg.first(v, t), stream_agg.last(v, t) FROM (VALUES (1, '2026-01-02'::date), (2, '2026-01-01')) x (v, t);
SELECT stream_agg.last(ROW(v, 'x'), t) FROM (VALUES (1, 1), (2, 2)) x (v, t);
SELECT stream_agg.last(v, t) OVER (ORDER BY t ROWS 1 PRECEDING) FROM (VALUES (1, 1), (2, 2), (3, 3)) x (v, t);

-- the same as by sorting, and in a parallel plan
CREATE VIEW results AS
SELECT k, stream_agg.first(v, ts) AS v1, stream_agg.last(v, ts) AS v2, stream_agg.first(word, ts) AS word1, stream_agg.last(word, ts) AS word2,
       stream_agg.last(mood, ts) AS mood, stream_agg.first(price, ts) AS price, stream_agg.last(pair, ts) AS pair,
       stream_agg.last(doc, v)::text AS doc, stream_agg.first(list, ts) AS list, stream_agg.last(NULL::text, ts) AS nothing,
       pg_typeof(stream_agg.last(price, ts)) AS type
  FROM ticks GROUP BY k;
CREATE TABLE serial AS SELECT * FROM results;
SELECT count(*) AS groups, count(*) FILTER (WHERE (s.v1, s.v2, s.word1, s.word2) IS DISTINCT FROM (o.v1, o.v2, o.word1, o.word2)) AS others FROM (SELECT k,
       (array_agg(v ORDER BY ts, v) FILTER (WHERE ts IS NOT NULL))[1] AS v1, (array_agg(v ORDER BY ts DESC, v DESC) FILTER (WHERE ts IS NOT NULL))[1] AS v2,
       (array_agg(word ORDER BY ts, word) FILTER (WHERE ts IS NOT NULL))[1] AS word1, (array_agg(word ORDER BY ts DESC, word DESC) FILTER (WHERE ts IS NOT NULL))[1] AS word2
  FROM ticks GROUP BY k) o JOIN (SELECT k, v1, v2, word1, word2 FROM serial) s USING (k);
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SET enable_sort = off;
EXPLAIN (COSTS OFF) SELECT k, stream_agg.last(v, ts) FROM ticks GROUP BY k;
SELECT * FROM (SELECT r.* FROM results r EXCEPT ALL SELECT * FROM serial) x;
SELECT count(*) FROM results;
RESET ALL;
-- only as aggregates
SELECT aggfnoid, aggtransfn, aggcombinefn, aggserialfn, aggfinalextra, proparallel, provolatile, obj_description(aggfnoid, 'pg_proc') IS NOT NULL AS comment
  FROM pg_aggregate JOIN pg_proc p ON p.oid = aggfnoid WHERE pronamespace = 'stream_agg'::regnamespace ORDER BY 1::text;
DROP VIEW results;
DROP TABLE serial, ticks;
DROP TYPE pair, mood;
DROP DOMAIN price;
