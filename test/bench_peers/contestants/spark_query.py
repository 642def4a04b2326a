"""One query by Spark Structured Streaming, run by spark.py.

    spark_query.py BROKERS TOPIC QUERY MODE DIRECTORY available|continuous

A first run over the topic "warm" loads classes and warms up the compiler.  Then
prints "started", reads what the topic has (or, continuous, what comes until stdin
ends), prints "finished", and ends when stdin does."""

import glob
import os
import sys

from pyspark.sql import SparkSession, functions as f

# Two cores, one task each; partitions of the shuffle as many as cores instead of
# 200; the default state store, in memory.  Micro-batches as large as stream_agg's.
SETTINGS = {
    'spark.master': 'local[2]',
    'spark.driver.memory': '4g',
    'spark.sql.shuffle.partitions': '2',
    'spark.sql.session.timeZone': 'UTC',
    'spark.ui.enabled': 'false',
    'spark.log.level': 'ERROR',
    'spark.jars': ','.join(glob.glob(os.path.join(os.environ['SPARK_JARS'], '*.jar'))),
}
BATCH_RECORDS = 500_000
SCHEMA = 'ts TIMESTAMP, user_id BIGINT, page STRING, purchase_amount DECIMAL(10,2), country STRING'

COUNT_AND_TOTAL = ['count(*) AS event_count', 'sum(purchase_amount) AS total_spend']
# window, other keys, values
QUERIES = {
    'clicks': ("window(ts, '5 minutes')", ['user_id'], COUNT_AND_TOTAL),
    'country': ("window(ts, '1 minute')", ['country'],
                ['count(*) AS event_count', 'avg(purchase_amount) AS average']),
    'hop': ("window(ts, '10 minutes', '1 minute')", ['page'], COUNT_AND_TOTAL),
    'sessions': ("session_window(ts, '30 seconds')", ['user_id'], COUNT_AND_TOTAL),
}


def start(spark, brokers, topic, output, name, mode, directory, continuous):
    window, keys, values = QUERIES[name]
    records = (spark.readStream.format('kafka')
               .option('kafka.bootstrap.servers', brokers).option('subscribe', topic)
               .option('startingOffsets', 'earliest').option('maxOffsetsPerTrigger', BATCH_RECORDS).load()
               .select(f.from_json(f.col('value').cast('string'), SCHEMA).alias('record')).select('record.*')
               .withWatermark('ts', '10 minutes'))
    results = (records.groupBy(f.expr(window).alias('win'), *keys).agg(*map(f.expr, values))
               .select(f.col('win.start').alias('started'), f.col('win.end').alias('ended'), '*').drop('win'))
    writer = (results.select(f.to_json(f.struct('started', 'ended', *keys)).alias('key'),
                             f.to_json(f.struct('*')).alias('value'))
              .writeStream.format('kafka').outputMode(mode)
              .option('kafka.bootstrap.servers', brokers).option('topic', output)
              .option('kafka.compression.type', 'lz4')
              .option('checkpointLocation', directory))
    return writer.start() if continuous else writer.trigger(availableNow=True).start()


def main():
    brokers, topic, name, mode, directory, how = sys.argv[1:]
    builder = SparkSession.builder
    for setting, value in SETTINGS.items():
        builder = builder.config(setting, value)
    spark = builder.getOrCreate()
    start(spark, brokers, 'warm', 'warm_output', name, mode, directory + '/warm', False).awaitTermination()
    print('started', flush=True)
    query = start(spark, brokers, topic, 'output', name, mode, directory + '/query', how == 'continuous')
    if how == 'available':
        query.awaitTermination()
        print('finished', flush=True)
    sys.stdin.read()
    query.stop()
    spark.stop()


main()
