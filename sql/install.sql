-- what CREATE EXTENSION gives a user to see
CREATE EXTENSION stream_agg;

\df stream_agg.*
\dew
\d stream_agg.dead_letters
\d pg_stat_stream_agg
\d pg_stat_stream_agg_partitions
\d pg_stat_stream_agg_summary
\d stream_agg.events

-- every object says what it is for
SELECT pg_describe_object(d.classid, d.objid, 0) AS without_comment
  FROM pg_depend d
  JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
 WHERE e.extname = 'stream_agg' AND d.deptype = 'e'
   AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_namespace'::regclass,
                     'pg_foreign_data_wrapper'::regclass, 'pg_event_trigger'::regclass)
   AND CASE d.classid
         WHEN 'pg_class'::regclass THEN (SELECT relkind IN ('r', 'v') FROM pg_class WHERE oid = d.objid)
         ELSE true
       END
   AND obj_description(d.objid, d.classid::regclass::name) IS NULL
 ORDER BY 1;

-- and every column of its tables
SELECT a.attrelid::regclass, a.attname AS without_comment
  FROM pg_attribute a
  JOIN pg_class c ON c.oid = a.attrelid
 WHERE c.relnamespace = 'stream_agg'::regnamespace AND c.relkind = 'r'
   AND a.attnum > 0 AND col_description(a.attrelid, a.attnum) IS NULL
 ORDER BY 1, 2;

SELECT * FROM pg_stat_stream_agg;
SELECT * FROM pg_stat_stream_agg_partitions;
