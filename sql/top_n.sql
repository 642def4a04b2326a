-- the aggregate top_n: in any SQL, in parallel plans, in streams
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN price AS numeric(10, 2);
CREATE TYPE bid AS (price int, bidder text);
CREATE TABLE bids AS
SELECT i % 7 AS k, (i * 7919) % 1013 AS v, CASE WHEN i % 11 > 0 THEN 'word ' || i % 101 END AS word,
       ('{sad,ok,happy}'::mood[])[i % 3 + 1] AS mood, (i % 997 / 8.0)::price AS price, ROW(i % 97, i::text)::bid AS bid
  FROM generate_series(1, 20000) i;
INSERT INTO bids (k) VALUES (0), (7);
ANALYZE bids;

-- the greatest first, equal ones as often as they are there; NULL does not count
SELECT stream_agg.top_n(v, 3) FROM (VALUES (1), (5), (2), (NULL), (5), (4)) x (v);
SELECT stream_agg.top_n(v, 9) FROM (VALUES ('b'), ('c'), (NULL), ('a')) x (v);
SELECT stream_agg.top_n(v, 1) FROM (VALUES (1), (3), (2)) x (v);
SELECT stream_agg.top_n(NULL::int, 3), stream_agg.top_n(v, 2) FILTER (WHERE v < 2) FROM (VALUES (1), (2)) x (v);
SELECT stream_agg.top_n(1, 2) FROM bids WHERE false;
SELECT stream_agg.top_n(ROW(v, k::text)::bid, 2), pg_typeof(stream_agg.top_n(price, 2)) FROM bids;
SELECT stream_agg.top_n(v, 2) OVER (ORDER BY v ROWS 2 PRECEDING) FROM (VALUES (1), (2), (3), (4)) x (v);
-- equal values with other digits, and values without an order, by their bytes: the input's order does not matter
SELECT count(DISTINCT t) FROM (SELECT stream_agg.top_n(v, 1)::text AS t FROM (VALUES (1.0), (1.00)) x (v)
        UNION ALL SELECT stream_agg.top_n(v, 1)::text FROM (VALUES (1.00), (1.0)) x (v)) y;
SELECT DISTINCT stream_agg.top_n(j, 1)::text FROM (VALUES (1, '{"a": 1}'::json), (1, '{"b": 1}'), (2, '{"b": 1}'), (2, '{"a": 1}')) x (g, j) GROUP BY g;
-- the order of a collation
SELECT stream_agg.top_n(v COLLATE "C", 3) FROM (VALUES ('B'), ('a'), ('c')) x (v);

-- n is checked
SELECT stream_agg.top_n(1, 0);
SELECT stream_agg.top_n(1, 10001);
SELECT stream_agg.top_n(1, NULL);
SELECT stream_agg.top_n(v, v) FROM (VALUES (1), (2)) x (v);
SELECT stream_agg.top_n(ARRAY[1], 2);

-- the same as by sorting, and in a parallel plan
CREATE VIEW results AS
SELECT k, stream_agg.top_n(v, 5) AS v, stream_agg.top_n(word, 3) AS word, stream_agg.top_n(mood, 2) AS mood,
       stream_agg.top_n(price, 100) AS price, stream_agg.top_n(bid, 10) AS bid, stream_agg.top_n(NULL::text, 2) AS nothing
  FROM bids GROUP BY k;
CREATE TABLE serial AS SELECT * FROM results;
SELECT count(*) AS groups, count(*) FILTER (WHERE (s.v, s.word, s.price, s.bid) IS DISTINCT FROM (o.v, o.word, o.price, o.bid)) AS others
  FROM (SELECT k, (array_agg(v ORDER BY v DESC) FILTER (WHERE v IS NOT NULL))[:5] AS v,
               (array_agg(word ORDER BY word DESC) FILTER (WHERE word IS NOT NULL))[:3] AS word,
               (array_agg(price ORDER BY price DESC) FILTER (WHERE price IS NOT NULL))[:100] AS price,
               (array_agg(bid ORDER BY bid DESC) FILTER (WHERE bid IS NOT NULL))[:10] AS bid
          FROM bids GROUP BY k) o JOIN serial s USING (k);
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SET enable_sort = off;
EXPLAIN (COSTS OFF) SELECT k, stream_agg.top_n(v, 5) FROM bids GROUP BY k;
SELECT * FROM (SELECT r.* FROM results r EXCEPT ALL SELECT * FROM serial) x;
SELECT count(*) FROM results;
RESET ALL;
DROP VIEW results;
DROP TABLE serial, bids;
DROP TYPE bid, mood;
DROP DOMAIN price;
