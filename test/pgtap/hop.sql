-- hop() against arithmetic on numbers, over random times, slides, sizes and origins
SELECT plan(4);

CREATE TEMP TABLE samples AS
SELECT row_number() OVER () AS n,
       to_timestamp((random() - 0.3) * 4e9)::timestamptz AS t,
       (1 + (random() * 1e6)::int) * interval '1 ms' AS slide,
       (1 + (random() * 3e6)::int) * interval '1 ms' AS size,
       to_timestamp(random() * 2e9) AS origin
  FROM generate_series(1, 2000);
CREATE TEMP TABLE windows AS
SELECT s.*, w FROM samples s, stream_agg.hop(t, slide, size, origin) w WHERE size / 100 < slide;

SELECT is_empty(
    'SELECT * FROM windows WHERE NOT w @> t OR upper(w) - lower(w) <> size',
    'a time is in its windows, which are as long as their size');
SELECT is_empty(
    $$ SELECT * FROM windows WHERE (extract(epoch FROM lower(w)) - extract(epoch FROM origin)) % extract(epoch FROM slide) <> 0 $$,
    'windows start at origin + n * slide');
SELECT is_empty(
    $$ SELECT n FROM windows GROUP BY n, t, slide, size
        HAVING min(lower(w)) - slide > t - size OR max(lower(w)) + slide <= t OR count(*) <> count(DISTINCT w)
            OR count(*) <> 1 + (extract(epoch FROM max(lower(w)) - min(lower(w))) / extract(epoch FROM slide)) $$,
    'no window is missing, none is there twice');
SELECT is_empty(
    $$ SELECT * FROM samples s WHERE size / 100 < slide AND NOT EXISTS (SELECT FROM windows w WHERE w.n = s.n)
          AND t - lower(stream_agg.tumble(t, slide, origin)) < size $$,
    'a time in no window is between two');
SELECT * FROM finish();
