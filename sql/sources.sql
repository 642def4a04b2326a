-- sources: definition only, no broker is contacted
SELECT stream_agg.create_source('clicks', topic => 'clicks', brokers => 'localhost:1',
    columns => 'ts timestamptz, user_id bigint, purchase_amount numeric');
\d clicks
SELECT srvname, srvoptions FROM pg_foreign_server WHERE srvname <> 'stream_agg_rate' ORDER BY 1;

-- brokers used before find their server again
SELECT stream_agg.create_source('views', topic => 'views', brokers => 'localhost:1',
    columns => 'ts timestamptz, page text COLLATE "C"');
SELECT srvname, srvoptions FROM pg_foreign_server WHERE srvname <> 'stream_agg_rate' ORDER BY 1;
SELECT ftrelid::regclass, srvname
  FROM pg_foreign_table JOIN pg_foreign_server s ON s.oid = ftserver ORDER BY 1;

-- a server by name, a schema-qualified source, field and metadata options
CREATE SCHEMA shop;
CREATE SERVER shop_kafka FOREIGN DATA WRAPPER stream_agg_kafka
    OPTIONS (brokers 'localhost:1', "client.id" 'shop');
SELECT stream_agg.create_source('shop.orders', topic => 'orders', server => 'shop_kafka',
    columns => $$id bigint OPTIONS (field 'orderId'),
                 amount numeric(10,2),
                 part integer OPTIONS (metadata 'partition'),
                 pos bigint OPTIONS (metadata 'offset'),
                 k bytea OPTIONS (metadata 'key'),
                 at timestamptz OPTIONS (metadata 'timestamp'),
                 h jsonb OPTIONS (metadata 'headers')$$);
\d shop.orders

-- renaming a column leaves its field
ALTER FOREIGN TABLE shop.orders RENAME COLUMN amount TO value;
SELECT attname, attfdwoptions FROM pg_attribute
 WHERE attrelid = 'shop.orders'::regclass AND attnum > 0 ORDER BY attnum;

-- the same by hand
CREATE FOREIGN TABLE by_hand (ts timestamptz, n int) SERVER shop_kafka OPTIONS (topic 'orders');

-- if_not_exists
SELECT stream_agg.create_source('clicks', topic => 'clicks', brokers => 'localhost:1',
    columns => 'ts timestamptz', if_not_exists => true);
SELECT stream_agg.create_source('clicks', topic => 'clicks', brokers => 'localhost:1',
    columns => 'ts timestamptz');

-- columns is one list of columns, nothing else
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => '');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => 'a');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => 'a nosuchtype');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1',
    columns => 'a int) SERVER shop_kafka; DROP TABLE clicks; CREATE FOREIGN TABLE y (b int');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1',
    columns => 'a int) SERVER shop_kafka OPTIONS (topic $$x$$) --');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => 'a int, LIKE clicks');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => 'a int, a int');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => '-- none');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => 'a int) INHERITS (clicks');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => 'a int NOT NULL');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => 'a bigserial');

-- arguments
SELECT stream_agg.create_source(NULL, topic => 't', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topic => NULL, brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topic => '', brokers => 'localhost:1', columns => 'a int');
SELECT stream_agg.create_source('bad', topic => 't', columns => 'a int');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', server => 'shop_kafka', columns => 'a int');
SELECT stream_agg.create_source('bad', topic => 't', server => 'nosuch', columns => 'a int');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => 'a int', format => 'xml');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => 'a int',
    options => '{"plugin.library.paths": "/tmp/evil"}');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => 'a int',
    options => '{"nosuch": "1"}');
SELECT stream_agg.create_source('bad', topic => 't', brokers => 'localhost:1', columns => 'a int', options => '[]');
SELECT stream_agg.create_source('nosuch.bad', topic => 't', brokers => 'localhost:1', columns => 'a int');

-- options by hand are checked too
CREATE SERVER bad FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'localhost:1', "plugin.library.paths" '/tmp/evil');
CREATE SERVER bad FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'localhost:1', "group.id" 'x');
CREATE SERVER bad FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'localhost:1', password 'x');
CREATE SERVER bad FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'http://localhost:1');
CREATE SERVER bad FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'localhost:1, SSLX://localhost:2');
CREATE SERVER good FOREIGN DATA WRAPPER stream_agg_kafka OPTIONS (brokers 'SASL_SSL://localhost:1, plaintext://[::1]:2');
DROP SERVER good;
CREATE FOREIGN TABLE bad (a int) SERVER shop_kafka;
CREATE FOREIGN TABLE bad (a int) SERVER shop_kafka OPTIONS (topic 't', nosuch '1');
CREATE FOREIGN TABLE bad (a int OPTIONS (nosuch '1')) SERVER shop_kafka OPTIONS (topic 't');
CREATE FOREIGN TABLE bad (a int OPTIONS (metadata 'nosuch')) SERVER shop_kafka OPTIONS (topic 't');

-- records can be added, and neither changed nor removed
UPDATE clicks SET user_id = 1;
DELETE FROM clicks;

-- drop
SELECT stream_agg.drop_source('views');
SELECT stream_agg.drop_source('pg_class');
CREATE TABLE plain (a int);
SELECT stream_agg.drop_source('plain');
SELECT stream_agg.drop_source('nosuch');
DROP TABLE plain;
DROP FOREIGN TABLE by_hand;
SELECT stream_agg.drop_source('shop.orders');
DROP SERVER shop_kafka;
DROP SCHEMA shop;
