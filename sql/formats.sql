-- formats, and the options of sources and columns that belong to them; no
-- broker is contacted
CREATE SERVER format_kafka FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'localhost:1');

-- paths and units
SELECT stream_agg.create_source('deep', topic => 't', server => 'format_kafka',
    columns => $$ user_id bigint OPTIONS (path 'user.id'), sku text OPTIONS (path 'items.0.sku'),
                  lat float8 OPTIONS (path '{user,"geo.lat"}'), at timestamptz OPTIONS (path 'meta.at', unit 's'),
                  plain int $$);
SELECT attname, attfdwoptions FROM pg_attribute WHERE attrelid = 'deep'::regclass AND attnum > 0 ORDER BY attnum;
ALTER FOREIGN TABLE deep ALTER user_id OPTIONS (SET path 'user..id');
ALTER FOREIGN TABLE deep ALTER user_id OPTIONS (SET path '.');
ALTER FOREIGN TABLE deep ALTER user_id OPTIONS (SET path '{{a},{b}}');
ALTER FOREIGN TABLE deep ALTER user_id OPTIONS (SET path '{a,NULL}');
ALTER FOREIGN TABLE deep ALTER user_id OPTIONS (SET path '{{a},{b}}');
ALTER FOREIGN TABLE deep ALTER user_id OPTIONS (SET path '{a');
ALTER FOREIGN TABLE deep ALTER user_id OPTIONS (ADD field 'x');
ALTER FOREIGN TABLE deep ALTER user_id OPTIONS (ADD metadata 'key');
ALTER FOREIGN TABLE deep ALTER at OPTIONS (SET unit 'min');
DO $$ BEGIN
    EXECUTE format('ALTER FOREIGN TABLE deep ALTER user_id OPTIONS (SET path %L)', repeat('a.', 70) || 'a');
END $$;
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka',
    columns => $$ a int OPTIONS (unit 's') $$);
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka',
    columns => $$ a timestamptz OPTIONS (metadata 'timestamp', unit 's') $$);

-- csv
SELECT stream_agg.create_source('csv', topic => 't', server => 'format_kafka', format => 'csv',
    columns => 'a int, k text OPTIONS (metadata $$key$$), b timestamptz OPTIONS (unit $$ms$$)',
    options => '{"delimiter": ";", "null": "\\N", "quote": "''"}');
\d csv
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka', format => 'csv',
    columns => 'a int OPTIONS (field $$x$$)');
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka', format => 'csv',
    columns => 'a int', options => '{"delimiter": ";;"}');
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka', format => 'csv',
    columns => 'a int', options => '{"delimiter": "\""}');
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka', format => 'csv',
    columns => 'a int', options => '{"null": "a,b"}');
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka',
    columns => 'a int', options => '{"delimiter": ";"}');
ALTER FOREIGN TABLE csv OPTIONS (SET format 'json');
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka', format => 'csv',
    columns => 'a int', options => '{"client.id": "x"}');

-- text and raw: one column
SELECT stream_agg.create_source('line', topic => 't', server => 'format_kafka', format => 'text',
    columns => 'v text, p int OPTIONS (metadata $$partition$$)');
SELECT stream_agg.create_source('bytes', topic => 't', server => 'format_kafka', format => 'raw', columns => 'v bytea');
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka', format => 'text', columns => 'a text, b text');
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka', format => 'raw', columns => 'a text');
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka', format => 'raw',
    columns => 'a bytea OPTIONS (path $$a.b$$)');

-- debezium
SELECT stream_agg.create_source('changes', topic => 't', server => 'format_kafka', format => 'debezium',
    columns => 'id int, at timestamptz OPTIONS (envelope $$source.ts_ms$$)', options => '{"other_operations": "ignore"}');
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka', format => 'debezium',
    columns => 'id int', options => '{"other_operations": "drop"}');
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka',
    columns => 'id int', options => '{"other_operations": "ignore"}');
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka',
    columns => 'id int OPTIONS (envelope $$op$$)');
INSERT INTO changes (id) VALUES (1);

-- avro: the schemas' registry is the server's, credentials are the user's
SELECT stream_agg.create_source('bad', topic => 't', server => 'format_kafka', format => 'avro', columns => 'id int');
ALTER SERVER format_kafka OPTIONS (ADD "schema.registry" 'file:///etc/passwd');
ALTER SERVER format_kafka OPTIONS (ADD "schema.registry" 'http://user:secret@host:8081');
ALTER SERVER format_kafka OPTIONS (ADD "schema.registry" 'http://host/?a=b');
ALTER SERVER format_kafka OPTIONS (ADD "schema.registry" 'http://');
ALTER SERVER format_kafka OPTIONS (ADD "schema.registry" 'http://ho st');
ALTER SERVER format_kafka OPTIONS (ADD "schema.registry.password" 'x');
ALTER SERVER format_kafka OPTIONS (ADD "schema.registry" 'https://host:8081/registry');
CREATE USER MAPPING FOR CURRENT_USER SERVER format_kafka
    OPTIONS ("schema.registry.user" 'u', "schema.registry.password" 'p');
SELECT stream_agg.create_source('events', topic => 't', server => 'format_kafka', format => 'avro',
    columns => $$ id int OPTIONS (path 'user.id'), at timestamptz $$);
INSERT INTO events (id) VALUES (1);
DROP USER MAPPING FOR CURRENT_USER SERVER format_kafka;

-- what cannot be written
INSERT INTO deep (user_id) VALUES (1);

DROP FOREIGN TABLE deep, csv, line, bytes, changes, events;
DROP SERVER format_kafka;
