-- tumble() against arithmetic on numbers, over random times, sizes and origins
SELECT plan(3);

CREATE TEMP TABLE samples AS
SELECT to_timestamp((random() - 0.3) * 4e9)::timestamptz AS t,
       (1 + (random() * 1e6)::int) * interval '1 ms' AS size,
       to_timestamp(random() * 2e9) AS origin
  FROM generate_series(1, 5000);

SELECT is_empty(
    'SELECT * FROM samples WHERE NOT stream_agg.tumble(t, size, origin) @> t',
    'a time is in its window');
SELECT is_empty(
    'SELECT * FROM samples WHERE upper(stream_agg.tumble(t, size, origin)) - lower(stream_agg.tumble(t, size, origin)) <> size',
    'a window is as long as its size');
SELECT is_empty(
    $$ SELECT * FROM samples
        WHERE (extract(epoch FROM lower(stream_agg.tumble(t, size, origin))) - extract(epoch FROM origin))
              % extract(epoch FROM size) <> 0 $$,
    'windows are aligned to the origin');
SELECT * FROM finish();
