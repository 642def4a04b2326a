-- options that are about the watermark
SELECT stream_agg.create_stream('meters', 'SELECT stream_agg.tumble(ts, ''1 min'') AS win, user_id, count(*) FROM clicks GROUP BY 1, 2',
    watermark => '1 minute', start => false,
    options => '{"watermark_policy": "per_partition", "idle_timeout": "P1DT5.5S"}');
SELECT options FROM stream_agg.streams WHERE stream = 'meters';
SELECT stream_agg.alter_stream('meters', '{"watermark_policy": "global", "idle_timeout": null}');
SELECT options FROM stream_agg.streams WHERE stream = 'meters';
SELECT stream_agg.alter_stream('meters', '{"watermark_policy": "least"}');
SELECT stream_agg.alter_stream('meters', '{"idle_timeout": "0"}');
SELECT stream_agg.alter_stream('meters', '{"late_records": true}');
SELECT options FROM stream_agg.streams WHERE stream = 'meters';
SELECT stream_agg.alter_stream('meters', '{"late_records": "perhaps"}');
SELECT * FROM stream_agg.repair_late('meters');
SELECT stream_agg.delete_late_records('meters');
SELECT * FROM stream_agg.repair_late('nosuch');

\set q '\'SELECT user_id, count(*) FROM clicks GROUP BY 1\''
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', options => '{"watermark_policy": "per_partition"}');
SELECT stream_agg.create_stream('bad', :q, output_mode => 'update', event_time => 'ts', options => '{"idle_timeout": "1 minute"}');
SELECT stream_agg.create_stream('bad', 'SELECT stream_agg.tumble(ts, ''1 min'') AS win, count(*) FROM clicks GROUP BY 1', output_mode => 'complete', watermark => '1 minute', options => '{"late_records": true}');
SELECT stream_agg.create_stream('bad', 'SELECT stream_agg.session(ts, ''1 min'') AS win, user_id, count(*) FROM clicks GROUP BY 1, 2', watermark => '1 minute', options => '{"watermark_policy": "per_partition"}');

-- sliding windows: state by pane, or by window
SELECT stream_agg.create_stream('sliding', 'SELECT stream_agg.hop(ts, ''1 min'', ''1 hour'') AS win, count(*) FROM clicks GROUP BY 1', watermark => '1 minute', output_mode => 'update', start => false);
SELECT stream_agg.alter_stream('sliding', '{"watermark_policy": "per_partition"}');
SELECT stream_agg.drop_stream('sliding', drop_sink => true);
SELECT stream_agg.drop_stream('meters', drop_sink => true);
