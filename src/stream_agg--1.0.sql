/* stream_agg--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION stream_agg" to load this file. \quit

-- It runs as a superuser, with a search_path that begins with the schema of the
-- extension, in which others may be able to create: functions, operators and
-- relations are always named with their schemas.  Types of the server are found in
-- pg_catalog first.

CREATE SCHEMA stream_agg;
COMMENT ON SCHEMA stream_agg IS 'stream_agg: streams, their checkpoints and the functions that define them';
GRANT USAGE ON SCHEMA stream_agg TO PUBLIC;

/* ---------------------------------------------------------------- sources */

CREATE FUNCTION stream_agg.kafka_handler()
RETURNS fdw_handler
AS 'MODULE_PATHNAME', 'stream_agg_kafka_handler'
LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_agg.kafka_handler() IS 'handler of the foreign-data wrapper stream_agg_kafka';

CREATE FUNCTION stream_agg.kafka_validator(options text[], catalog oid)
RETURNS void
AS 'MODULE_PATHNAME', 'stream_agg_kafka_validator'
LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_agg.kafka_validator(text[], oid) IS 'checks the options of servers, user mappings, foreign tables and columns of stream_agg_kafka';

CREATE FOREIGN DATA WRAPPER stream_agg_kafka
    HANDLER stream_agg.kafka_handler
    VALIDATOR stream_agg.kafka_validator;
COMMENT ON FOREIGN DATA WRAPPER stream_agg_kafka IS 'Kafka topics as foreign tables; USAGE on it is needed to create servers with brokers of your choice';

CREATE FUNCTION stream_agg.rate_handler()
RETURNS fdw_handler
AS 'MODULE_PATHNAME', 'stream_agg_rate_handler'
LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_agg.rate_handler() IS 'handler of the foreign-data wrapper stream_agg_rate';

CREATE FUNCTION stream_agg.rate_validator(options text[], catalog oid)
RETURNS void
AS 'MODULE_PATHNAME', 'stream_agg_rate_validator'
LANGUAGE C STRICT;
COMMENT ON FUNCTION stream_agg.rate_validator(text[], oid) IS 'checks the options of servers, foreign tables and columns of stream_agg_rate';

CREATE FOREIGN DATA WRAPPER stream_agg_rate
    HANDLER stream_agg.rate_handler
    VALIDATOR stream_agg.rate_validator;
COMMENT ON FOREIGN DATA WRAPPER stream_agg_rate IS 'numbered rows that come at a given rate, as foreign tables, to try streams on';

-- Rows of its sources begin now, unless they say when; it needs no user mapping.
DO $do$
BEGIN
    EXECUTE pg_catalog.format('CREATE SERVER stream_agg_rate FOREIGN DATA WRAPPER stream_agg_rate OPTIONS (start %L)',
        pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.now()), 'YYYY-MM-DD HH24:MI:SS"+00"'));
END
$do$ LANGUAGE plpgsql;
COMMENT ON SERVER stream_agg_rate IS 'sources of numbered rows that come at a given rate, from the creation of the extension on';

CREATE FUNCTION stream_agg.create_source(
    source        text,
    topic         text DEFAULT NULL,
    columns       text DEFAULT NULL,
    brokers       text DEFAULT NULL,
    server        text DEFAULT NULL,
    format        text DEFAULT 'json',
    options       jsonb DEFAULT '{}',
    if_not_exists boolean DEFAULT false,
    topics        text[] DEFAULT NULL,
    topic_pattern text DEFAULT NULL)
RETURNS regclass
AS 'MODULE_PATHNAME', 'stream_agg_create_source'
LANGUAGE C VOLATILE CALLED ON NULL INPUT;
COMMENT ON FUNCTION stream_agg.create_source(text, text, text, text, text, text, jsonb, boolean, text[], text) IS
'creates a foreign table over a Kafka topic, several topics or those that match a pattern; contacts no broker';

CREATE FUNCTION stream_agg.describe_topic(
    topic   text,
    brokers text DEFAULT NULL,
    server  text DEFAULT NULL,
    records integer DEFAULT 1000,
    options jsonb DEFAULT '{}')
RETURNS text
AS 'MODULE_PATHNAME', 'stream_agg_describe_topic'
LANGUAGE C VOLATILE CALLED ON NULL INPUT;
COMMENT ON FUNCTION stream_agg.describe_topic(text, text, text, integer, jsonb) IS
'reads a sample of a topic, from its beginning, and returns a call of create_source for it; creates nothing';

CREATE FUNCTION stream_agg.drop_source(source text, if_exists boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME', 'stream_agg_drop_source'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.drop_source(text, boolean) IS
'drops a source; rejected while a stream reads it';

/* ---------------------------------------------------------------- windows */

CREATE FUNCTION stream_agg.tumble(ts timestamptz, size interval,
                                  origin timestamptz DEFAULT '1970-01-01 00:00:00+00', timezone text DEFAULT '')
RETURNS tstzrange
AS 'MODULE_PATHNAME', 'stream_agg_tumble'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.tumble(timestamptz, interval, timestamptz, text) IS
'the tumbling window [start, end) that holds ts; windows are aligned to origin, a day is 24 hours; with a timezone, size is days, weeks, months or years by its clocks';

CREATE FUNCTION stream_agg.tumble_start(ts timestamptz, size interval,
                                        origin timestamptz DEFAULT '1970-01-01 00:00:00+00', timezone text DEFAULT '')
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'stream_agg_tumble_start'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.tumble_start(timestamptz, interval, timestamptz, text) IS
'the start of the tumbling window that holds ts: lower() of tumble with the same arguments';

CREATE FUNCTION stream_agg.tumble_end(ts timestamptz, size interval,
                                      origin timestamptz DEFAULT '1970-01-01 00:00:00+00', timezone text DEFAULT '')
RETURNS timestamptz
AS 'MODULE_PATHNAME', 'stream_agg_tumble_end'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.tumble_end(timestamptz, interval, timestamptz, text) IS
'the end of the tumbling window that holds ts, not part of it: upper() of tumble with the same arguments';

CREATE FUNCTION stream_agg.hop(ts timestamptz, slide interval, size interval)
RETURNS SETOF tstzrange
AS 'MODULE_PATHNAME', 'stream_agg_hop'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 10;
COMMENT ON FUNCTION stream_agg.hop(timestamptz, interval, interval) IS
'the sliding windows [start, end) that hold ts, earliest first; they start every slide, aligned to 1970-01-01 00:00 UTC';

CREATE FUNCTION stream_agg.hop(ts timestamptz, slide interval, size interval, origin timestamptz)
RETURNS SETOF tstzrange
AS 'MODULE_PATHNAME', 'stream_agg_hop'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 10;
COMMENT ON FUNCTION stream_agg.hop(timestamptz, interval, interval, timestamptz) IS
'the sliding windows [start, end) that hold ts, earliest first; they start every slide, aligned to origin';

CREATE FUNCTION stream_agg.session(ts timestamptz, gap interval)
RETURNS tstzrange
AS 'MODULE_PATHNAME', 'stream_agg_session'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.session(timestamptz, interval) IS
'the session window [ts, ts + gap) of a record, NULL if gap is not greater than zero; in GROUP BY of a stream, those of a key that overlap or touch become one';

/* ------------------------------------------------------------- aggregates */

CREATE FUNCTION stream_agg.first_combine(internal, internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_first_combine'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.first_combine(internal, internal) IS 'combine function of the aggregates first';

CREATE FUNCTION stream_agg.last_combine(internal, internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_last_combine'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.last_combine(internal, internal) IS 'combine function of the aggregates last';

CREATE FUNCTION stream_agg.timed_value_serialize(internal)
RETURNS bytea
AS 'MODULE_PATHNAME', 'stream_agg_timed_value_serialize'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.timed_value_serialize(internal) IS 'serialize function of the aggregates first and last';

CREATE FUNCTION stream_agg.timed_value_deserialize(bytea, internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_timed_value_deserialize'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.timed_value_deserialize(bytea, internal) IS 'deserialize function of the aggregates first and last';

CREATE FUNCTION stream_agg.first_accumulate(internal, anyelement, timestamptz)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_first_accumulate'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.first_accumulate(internal, anyelement, timestamptz) IS 'transition function of the aggregate first';

CREATE FUNCTION stream_agg.last_accumulate(internal, anyelement, timestamptz)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_last_accumulate'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.last_accumulate(internal, anyelement, timestamptz) IS 'transition function of the aggregate last';

CREATE FUNCTION stream_agg.timed_value_final(internal, anyelement, timestamptz)
RETURNS anyelement
AS 'MODULE_PATHNAME', 'stream_agg_timed_value_final'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.timed_value_final(internal, anyelement, timestamptz) IS 'final function of the aggregates first and last';

CREATE AGGREGATE stream_agg.first(value anyelement, at timestamptz) (
    SFUNC = stream_agg.first_accumulate, STYPE = internal, COMBINEFUNC = stream_agg.first_combine,
    SERIALFUNC = stream_agg.timed_value_serialize, DESERIALFUNC = stream_agg.timed_value_deserialize,
    FINALFUNC = stream_agg.timed_value_final, FINALFUNC_EXTRA, PARALLEL = SAFE);
COMMENT ON AGGREGATE stream_agg.first(anyelement, timestamptz) IS
'the value with the least at, of several the least value, NULL after all others; a row whose at is NULL does not count';

CREATE AGGREGATE stream_agg.last(value anyelement, at timestamptz) (
    SFUNC = stream_agg.last_accumulate, STYPE = internal, COMBINEFUNC = stream_agg.last_combine,
    SERIALFUNC = stream_agg.timed_value_serialize, DESERIALFUNC = stream_agg.timed_value_deserialize,
    FINALFUNC = stream_agg.timed_value_final, FINALFUNC_EXTRA, PARALLEL = SAFE);
COMMENT ON AGGREGATE stream_agg.last(anyelement, timestamptz) IS
'the value with the greatest at, of several the greatest value, NULL after all others; a row whose at is NULL does not count';

CREATE FUNCTION stream_agg.first_accumulate(internal, anyelement, timestamp)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_first_accumulate'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.first_accumulate(internal, anyelement, timestamp) IS 'transition function of the aggregate first';

CREATE FUNCTION stream_agg.last_accumulate(internal, anyelement, timestamp)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_last_accumulate'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.last_accumulate(internal, anyelement, timestamp) IS 'transition function of the aggregate last';

CREATE FUNCTION stream_agg.timed_value_final(internal, anyelement, timestamp)
RETURNS anyelement
AS 'MODULE_PATHNAME', 'stream_agg_timed_value_final'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.timed_value_final(internal, anyelement, timestamp) IS 'final function of the aggregates first and last';

CREATE AGGREGATE stream_agg.first(value anyelement, at timestamp) (
    SFUNC = stream_agg.first_accumulate, STYPE = internal, COMBINEFUNC = stream_agg.first_combine,
    SERIALFUNC = stream_agg.timed_value_serialize, DESERIALFUNC = stream_agg.timed_value_deserialize,
    FINALFUNC = stream_agg.timed_value_final, FINALFUNC_EXTRA, PARALLEL = SAFE);
COMMENT ON AGGREGATE stream_agg.first(anyelement, timestamp) IS
'the value with the least at, of several the least value, NULL after all others; a row whose at is NULL does not count';

CREATE AGGREGATE stream_agg.last(value anyelement, at timestamp) (
    SFUNC = stream_agg.last_accumulate, STYPE = internal, COMBINEFUNC = stream_agg.last_combine,
    SERIALFUNC = stream_agg.timed_value_serialize, DESERIALFUNC = stream_agg.timed_value_deserialize,
    FINALFUNC = stream_agg.timed_value_final, FINALFUNC_EXTRA, PARALLEL = SAFE);
COMMENT ON AGGREGATE stream_agg.last(anyelement, timestamp) IS
'the value with the greatest at, of several the greatest value, NULL after all others; a row whose at is NULL does not count';

CREATE FUNCTION stream_agg.first_accumulate(internal, anyelement, bigint)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_first_accumulate'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.first_accumulate(internal, anyelement, bigint) IS 'transition function of the aggregate first';

CREATE FUNCTION stream_agg.last_accumulate(internal, anyelement, bigint)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_last_accumulate'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.last_accumulate(internal, anyelement, bigint) IS 'transition function of the aggregate last';

CREATE FUNCTION stream_agg.timed_value_final(internal, anyelement, bigint)
RETURNS anyelement
AS 'MODULE_PATHNAME', 'stream_agg_timed_value_final'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.timed_value_final(internal, anyelement, bigint) IS 'final function of the aggregates first and last';

CREATE AGGREGATE stream_agg.first(value anyelement, at bigint) (
    SFUNC = stream_agg.first_accumulate, STYPE = internal, COMBINEFUNC = stream_agg.first_combine,
    SERIALFUNC = stream_agg.timed_value_serialize, DESERIALFUNC = stream_agg.timed_value_deserialize,
    FINALFUNC = stream_agg.timed_value_final, FINALFUNC_EXTRA, PARALLEL = SAFE);
COMMENT ON AGGREGATE stream_agg.first(anyelement, bigint) IS
'the value with the least at, of several the least value, NULL after all others; a row whose at is NULL does not count';

CREATE AGGREGATE stream_agg.last(value anyelement, at bigint) (
    SFUNC = stream_agg.last_accumulate, STYPE = internal, COMBINEFUNC = stream_agg.last_combine,
    SERIALFUNC = stream_agg.timed_value_serialize, DESERIALFUNC = stream_agg.timed_value_deserialize,
    FINALFUNC = stream_agg.timed_value_final, FINALFUNC_EXTRA, PARALLEL = SAFE);
COMMENT ON AGGREGATE stream_agg.last(anyelement, bigint) IS
'the value with the greatest at, of several the greatest value, NULL after all others; a row whose at is NULL does not count';

CREATE FUNCTION stream_agg.top_n_accumulate(internal, anyelement, integer)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_top_n_accumulate'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.top_n_accumulate(internal, anyelement, integer) IS 'transition function of the aggregate top_n';

CREATE FUNCTION stream_agg.top_n_combine(internal, internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_top_n_combine'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.top_n_combine(internal, internal) IS 'combine function of the aggregate top_n';

CREATE FUNCTION stream_agg.top_n_serialize(internal)
RETURNS bytea
AS 'MODULE_PATHNAME', 'stream_agg_top_n_serialize'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.top_n_serialize(internal) IS 'serialize function of the aggregate top_n';

CREATE FUNCTION stream_agg.top_n_deserialize(bytea, internal)
RETURNS internal
AS 'MODULE_PATHNAME', 'stream_agg_top_n_deserialize'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.top_n_deserialize(bytea, internal) IS 'deserialize function of the aggregate top_n';

CREATE FUNCTION stream_agg.top_n_final(internal, anyelement, integer)
RETURNS anyarray
AS 'MODULE_PATHNAME', 'stream_agg_top_n_final'
LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.top_n_final(internal, anyelement, integer) IS 'final function of the aggregate top_n';

CREATE AGGREGATE stream_agg.top_n(value anyelement, n integer) (
    SFUNC = stream_agg.top_n_accumulate, STYPE = internal, COMBINEFUNC = stream_agg.top_n_combine,
    SERIALFUNC = stream_agg.top_n_serialize, DESERIALFUNC = stream_agg.top_n_deserialize,
    FINALFUNC = stream_agg.top_n_final, FINALFUNC_EXTRA, PARALLEL = SAFE);
COMMENT ON AGGREGATE stream_agg.top_n(anyelement, integer) IS
'array of the n greatest values, the greatest first; NULL does not count; n is from 1 to 10000, the same in all rows of a group';

/* ---------------------------------------------------------------- catalog */

CREATE TABLE stream_agg.streams (
    stream                  text PRIMARY KEY,
    query                   regclass NOT NULL UNIQUE,
    sink                    regclass NOT NULL,
    source                  regclass NOT NULL,
    output_mode             text NOT NULL CHECK (output_mode OPERATOR(pg_catalog.=) ANY (ARRAY['append', 'update', 'complete'])),
    watermark               interval,
    event_time              text,
    trigger_interval        interval NOT NULL,
    max_offsets_per_trigger bigint CHECK (max_offsets_per_trigger OPERATOR(pg_catalog.>) 0),
    starting_offsets        text NOT NULL,
    options                 jsonb NOT NULL DEFAULT '{}',
    sink_created            boolean NOT NULL,
    enabled                 boolean NOT NULL,
    database                oid NOT NULL,
    timezone                text NOT NULL,
    datestyle               text NOT NULL,
    intervalstyle           text NOT NULL,
    search_path             text NOT NULL,
    started_for             oid[] NOT NULL DEFAULT '{}',
    reader                  text,
    other_sources           regclass[]
);
COMMENT ON TABLE stream_agg.streams IS 'one row per stream: the arguments of create_stream';
COMMENT ON COLUMN stream_agg.streams.stream IS 'name of the stream, as given to create_stream';
COMMENT ON COLUMN stream_agg.streams.query IS 'view that holds the query; its owner is the stream''s owner';
COMMENT ON COLUMN stream_agg.streams.sink IS 'table the results are written to';
COMMENT ON COLUMN stream_agg.streams.source IS 'foreign table the stream reads, the first one if its query appends several';
COMMENT ON COLUMN stream_agg.streams.output_mode IS 'append, update or complete';
COMMENT ON COLUMN stream_agg.streams.watermark IS 'delay of the watermark behind the greatest event time; NULL: no watermark';
COMMENT ON COLUMN stream_agg.streams.event_time IS 'event-time column named at creation; NULL: the argument of the window function';
COMMENT ON COLUMN stream_agg.streams.trigger_interval IS 'micro-batches start at multiples of this; 0: batch after batch';
COMMENT ON COLUMN stream_agg.streams.max_offsets_per_trigger IS 'most records in a micro-batch; NULL: stream_agg.max_records_per_batch';
COMMENT ON COLUMN stream_agg.streams.starting_offsets IS 'where the first micro-batch starts, or the first after reset_stream: earliest, latest, offsets by partition or a time';
COMMENT ON COLUMN stream_agg.streams.options IS 'options of the stream that are not at their default: on_error, on_data_loss, max_future, consumer_group, delivery, min_offsets_per_trigger, max_trigger_delay, watermark_policy, idle_timeout, late_records, on_failure, retention, state_memory';
COMMENT ON COLUMN stream_agg.streams.sink_created IS 'true when create_stream made the sink';
COMMENT ON COLUMN stream_agg.streams.enabled IS 'true when the stream shall run';
COMMENT ON COLUMN stream_agg.streams.database IS 'database the stream was started in, 0 after a restore; in a copy it differs, and the stream stays stopped';
COMMENT ON COLUMN stream_agg.streams.timezone IS 'TimeZone at creation, in force in every micro-batch';
COMMENT ON COLUMN stream_agg.streams.datestyle IS 'DateStyle at creation, in force in every micro-batch';
COMMENT ON COLUMN stream_agg.streams.intervalstyle IS 'IntervalStyle at creation, in force in every micro-batch';
COMMENT ON COLUMN stream_agg.streams.search_path IS 'search_path at creation, in force in every micro-batch';
COMMENT ON COLUMN stream_agg.streams.started_for IS 'roles that owned query, sink, source and other_sources when the stream was started; if one of these gets another owner, the stream stays stopped, and the array becomes empty';
COMMENT ON COLUMN stream_agg.streams.reader IS 'name of the reader that the stream shares with other streams of its owner; NULL: one of its own';
COMMENT ON COLUMN stream_agg.streams.other_sources IS 'further foreign tables the stream reads, where its query appends several by UNION ALL';

CREATE FUNCTION stream_agg.has_owners(owners oid[], query regclass, sink regclass, source regclass, other_sources regclass[])
RETURNS boolean
AS 'MODULE_PATHNAME', 'stream_agg_has_owners'
LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL SAFE;
COMMENT ON FUNCTION stream_agg.has_owners(oid[], regclass, regclass, regclass, regclass[]) IS
'whether the query, sink and sources of a stream have these owners, those that they had when it was started';

CREATE TABLE stream_agg.sources (
    stream          text PRIMARY KEY,
    topic           text,
    cluster_id      text,
    initial_offsets jsonb,
    CHECK ((cluster_id IS NULL) OPERATOR(pg_catalog.=) (initial_offsets IS NULL)
           AND (topic IS NULL OR cluster_id IS NOT NULL))
);
COMMENT ON TABLE stream_agg.sources IS 'where each stream began to read, from its first contact with Kafka on; all NULL: it was reset and has had no contact since';
COMMENT ON COLUMN stream_agg.sources.stream IS 'name of the stream';
COMMENT ON COLUMN stream_agg.sources.topic IS 'Kafka topic at the first contact; NULL: the source had several';
COMMENT ON COLUMN stream_agg.sources.cluster_id IS 'id of the Kafka cluster at the first contact; another id stops the stream';
COMMENT ON COLUMN stream_agg.sources.initial_offsets IS 'first offset of each partition, {"partition": offset}, or {"topic": {"partition": offset}} where the source has several topics';

CREATE TABLE stream_agg.offsets (
    stream     text NOT NULL,
    batch      bigint NOT NULL,
    ranges     jsonb NOT NULL,
    watermark  timestamptz NOT NULL,
    batch_time timestamptz NOT NULL,
    suspects   jsonb,
    attempts   integer NOT NULL DEFAULT 0,
    skipped    jsonb NOT NULL DEFAULT '{}',
    quiet      jsonb NOT NULL DEFAULT '{}',
    behind     jsonb NOT NULL DEFAULT '{}',
    dealt      jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (stream, batch)
);
COMMENT ON TABLE stream_agg.offsets IS 'log of planned micro-batches; a retry runs the same plan, or a smaller one in search of a record';
COMMENT ON COLUMN stream_agg.offsets.stream IS 'name of the stream';
COMMENT ON COLUMN stream_agg.offsets.batch IS 'number of the micro-batch, from 0';
COMMENT ON COLUMN stream_agg.offsets.ranges IS 'offsets to read, {"partition": [start, end]}, end exclusive; by topic where the source has several';
COMMENT ON COLUMN stream_agg.offsets.watermark IS 'watermark that decides which records are late: what the commit before left';
COMMENT ON COLUMN stream_agg.offsets.batch_time IS 'now() in the query';
COMMENT ON COLUMN stream_agg.offsets.suspects IS 'offsets among which a record that cannot be processed is searched, as in ranges; NULL: no search';
COMMENT ON COLUMN stream_agg.offsets.attempts IS 'how often a worker has begun the micro-batch again after another had ended in it; counted only where on_error is not fail';
COMMENT ON COLUMN stream_agg.offsets.skipped IS 'offsets that Kafka did not have, {"partition": [first, end]}, end exclusive and less than first where a partition was recreated';
COMMENT ON COLUMN stream_agg.offsets.quiet IS 'partitions that had been quiet for idle_timeout and are read to their ends, {"partition": end}; the watermark does not wait for those in which the micro-batch finds no event time, and follows the clock if there are no others';
COMMENT ON COLUMN stream_agg.offsets.behind IS 'with watermark_policy aligned: partitions that have records which this micro-batch leaves unread, {"partition": end at planning}; by topic where the source has several. The watermark does not pass their event time';
COMMENT ON COLUMN stream_agg.offsets.dealt IS 'partitions that an executor reads instead of the stream''s worker, {"partition": number of the executor, from 1}; by topic where the source has several';

CREATE TABLE stream_agg.commits (
    stream              text NOT NULL,
    batch               bigint NOT NULL,
    offsets             jsonb NOT NULL,
    watermark           timestamptz NOT NULL,
    delivered           bigint NOT NULL,
    aggregated          bigint NOT NULL,
    late                bigint NOT NULL,
    null_time           bigint NOT NULL,
    dead_lettered       bigint NOT NULL,
    filtered            bigint NOT NULL,
    rows_out            bigint NOT NULL,
    rows_removed        bigint NOT NULL,
    total_delivered     bigint NOT NULL,
    total_aggregated    bigint NOT NULL,
    total_late          bigint NOT NULL,
    total_null_time     bigint NOT NULL,
    total_dead_lettered bigint NOT NULL,
    total_filtered      bigint NOT NULL,
    total_rows_out      bigint NOT NULL,
    total_rows_removed  bigint NOT NULL,
    state_blobs         bigint NOT NULL,
    read_time           double precision NOT NULL,
    execute_time        double precision NOT NULL,
    write_time          double precision NOT NULL,
    checkpoint_time     double precision NOT NULL,
    committed           timestamptz NOT NULL,
    last_records        jsonb NOT NULL,
    skipped             jsonb NOT NULL DEFAULT '{}',
    total_skipped       bigint NOT NULL DEFAULT 0,
    late_windows        bigint NOT NULL DEFAULT 0,
    total_late_windows  bigint NOT NULL DEFAULT 0,
    reset               text CHECK (reset OPERATOR(pg_catalog.=) ANY (ARRAY['state', 'results'])),
    max_event_time      timestamptz NOT NULL DEFAULT '-infinity',
    event_times         jsonb NOT NULL DEFAULT '{}',
    active_times        jsonb NOT NULL DEFAULT '{}',
    beside_closed       bigint NOT NULL DEFAULT 0,
    total_beside_closed bigint NOT NULL DEFAULT 0,
    expired             bigint NOT NULL DEFAULT 0,
    total_expired       bigint NOT NULL DEFAULT 0,
    units_read          bigint NOT NULL DEFAULT 0,
    total_units_read    bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (stream, batch)
);
COMMENT ON TABLE stream_agg.commits IS 'log of done micro-batches; its key lets a micro-batch commit only once';
COMMENT ON COLUMN stream_agg.commits.stream IS 'name of the stream';
COMMENT ON COLUMN stream_agg.commits.batch IS 'number of the micro-batch, from 0';
COMMENT ON COLUMN stream_agg.commits.offsets IS 'next offset of each partition, {"partition": offset}; by topic where the source has several';
COMMENT ON COLUMN stream_agg.commits.watermark IS 'watermark after the micro-batch; -infinity: the stream has none; 1970-01-01 00:00 UTC: it has read no event time yet';
COMMENT ON COLUMN stream_agg.commits.delivered IS 'records Kafka delivered: the sum of the next five';
COMMENT ON COLUMN stream_agg.commits.aggregated IS 'records that went into a group';
COMMENT ON COLUMN stream_agg.commits.late IS 'records that came too late for all of their windows: the watermark had passed them';
COMMENT ON COLUMN stream_agg.commits.null_time IS 'records without an event time';
COMMENT ON COLUMN stream_agg.commits.dead_lettered IS 'records skipped or kept as dead letters because they could not be processed';
COMMENT ON COLUMN stream_agg.commits.filtered IS 'records that WHERE or a join removed';
COMMENT ON COLUMN stream_agg.commits.rows_out IS 'rows written to the sink';
COMMENT ON COLUMN stream_agg.commits.rows_removed IS 'rows deleted from the sink';
COMMENT ON COLUMN stream_agg.commits.total_delivered IS 'delivered, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.total_aggregated IS 'aggregated, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.total_late IS 'late, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.total_null_time IS 'null_time, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.total_dead_lettered IS 'dead_lettered, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.total_filtered IS 'filtered, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.total_rows_out IS 'rows_out, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.total_rows_removed IS 'rows_removed, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.state_blobs IS 'rows of the stream in stream_agg.state after the micro-batch';
COMMENT ON COLUMN stream_agg.commits.read_time IS 'time of READ in ms';
COMMENT ON COLUMN stream_agg.commits.execute_time IS 'time of EXECUTE in ms';
COMMENT ON COLUMN stream_agg.commits.write_time IS 'time of WRITE in ms';
COMMENT ON COLUMN stream_agg.commits.checkpoint_time IS 'time of CHECKPOINT in ms, up to this row';
COMMENT ON COLUMN stream_agg.commits.committed IS 'when this row was written';
COMMENT ON COLUMN stream_agg.commits.last_records IS 'last record of each partition, {"partition": [offset, timestamp in ms]}; it distinguishes a topic that was deleted and created again from the one read';
COMMENT ON COLUMN stream_agg.commits.skipped IS 'offsets that Kafka did not have, or whose records could not be decompressed, {"partition": [[first, end], ...]}, end exclusive and less than first where a partition was recreated';
COMMENT ON COLUMN stream_agg.commits.total_skipped IS 'number of offsets skipped, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.late_windows IS 'how often a record was too late for a window; one that slides can be late for some of its windows and count in others';
COMMENT ON COLUMN stream_agg.commits.total_late_windows IS 'late_windows, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.reset IS 'NULL: a micro-batch; otherwise a reset_stream: state: of state and offsets; results: the next micro-batch also computes the results of affected windows again';
COMMENT ON COLUMN stream_agg.commits.max_event_time IS 'greatest event time so far, floored to ms; -infinity: none yet';
COMMENT ON COLUMN stream_agg.commits.event_times IS 'with watermark_policy aligned or per_partition: greatest event time of each partition, {"partition": ms since 1970}; by topic where the source has several';
COMMENT ON COLUMN stream_agg.commits.active_times IS 'with idle_timeout: time of the last micro-batch with an event time in the partition, in the same form';
COMMENT ON COLUMN stream_agg.commits.beside_closed IS 'records that are not late and begin a session at or before the watermark, where one of the same key may be closed: sessions that lack a part of one are all counted, and some others';
COMMENT ON COLUMN stream_agg.commits.total_beside_closed IS 'beside_closed, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.expired IS 'rows older than the option retention that were deleted, which rows_removed counts too, or not written; not those of partitions that were dropped';
COMMENT ON COLUMN stream_agg.commits.total_expired IS 'expired, since the stream''s first micro-batch';
COMMENT ON COLUMN stream_agg.commits.units_read IS 'units of the state that were read from stream_agg.state, because they were not in memory';
COMMENT ON COLUMN stream_agg.commits.total_units_read IS 'units_read, since the stream''s first micro-batch';

CREATE TABLE stream_agg.state (
    stream    text NOT NULL,
    partition integer NOT NULL,
    unit      bigint NOT NULL,
    batch     bigint NOT NULL,
    seq       integer NOT NULL,
    base      boolean NOT NULL,
    entries   bigint,
    bytes     bigint,
    due       bigint,
    data      bytea NOT NULL,
    PRIMARY KEY (stream, partition, unit, batch, seq)
);
ALTER TABLE stream_agg.state ALTER COLUMN data SET STORAGE EXTERNAL;
COMMENT ON TABLE stream_agg.state IS 'log of changed groups; a stream''s state is the newest base of each unit and the deltas after it';
COMMENT ON COLUMN stream_agg.state.stream IS 'name of the stream';
COMMENT ON COLUMN stream_agg.state.partition IS 'partition of the state store';
COMMENT ON COLUMN stream_agg.state.unit IS 'unit within the partition: start of the window in microseconds since 2000; of deduplication, the time by which its keys have expired, less 1; 0 for sessions; 9223372036854775807 for all units that are small and have not left memory';
COMMENT ON COLUMN stream_agg.state.batch IS 'micro-batch that wrote the blob';
COMMENT ON COLUMN stream_agg.state.seq IS 'number of the blob within micro-batch and unit';
COMMENT ON COLUMN stream_agg.state.base IS 'true: with its neighbours of the same micro-batch, all groups of the unit; false: those the micro-batch changed';
COMMENT ON COLUMN stream_agg.state.entries IS 'groups in the unit after the micro-batch; NULL: of small units';
COMMENT ON COLUMN stream_agg.state.bytes IS 'bytes of these groups; NULL: of small units';
COMMENT ON COLUMN stream_agg.state.due IS 'of sessions: no session of the unit ends before this time, in microseconds since 2000; NULL: of small units';
COMMENT ON COLUMN stream_agg.state.data IS 'the groups, versioned and checksummed';

CREATE TABLE stream_agg.dead_letters (
    stream      text NOT NULL,
    batch       bigint NOT NULL,
    topic       text NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint NOT NULL,
    "timestamp" timestamptz,
    key         bytea,
    value       bytea,
    headers     jsonb,
    error       text NOT NULL,
    detail      text,
    sqlstate    text NOT NULL,
    PRIMARY KEY (stream, topic, partition, "offset")
);
COMMENT ON TABLE stream_agg.dead_letters IS 'records that streams with on_error dead_letter could not process';
COMMENT ON COLUMN stream_agg.dead_letters.stream IS 'name of the stream';
COMMENT ON COLUMN stream_agg.dead_letters.batch IS 'micro-batch that the record was part of';
COMMENT ON COLUMN stream_agg.dead_letters.topic IS 'Kafka topic';
COMMENT ON COLUMN stream_agg.dead_letters.partition IS 'partition of the topic';
COMMENT ON COLUMN stream_agg.dead_letters."offset" IS 'offset of the record';
COMMENT ON COLUMN stream_agg.dead_letters."timestamp" IS 'the record''s own timestamp; NULL: it has none, or one out of range';
COMMENT ON COLUMN stream_agg.dead_letters.key IS 'the record''s key, byte by byte; NULL: it has none';
COMMENT ON COLUMN stream_agg.dead_letters.value IS 'the record''s value, byte by byte; NULL: it has none';
COMMENT ON COLUMN stream_agg.dead_letters.headers IS 'the record''s headers, [{"key": ..., "value": ...}, ...], with "key_hex" or "hex" for what is not text; NULL: it has none';
COMMENT ON COLUMN stream_agg.dead_letters.error IS 'message of the error because of which the record could not be processed, cut to 500 bytes';
COMMENT ON COLUMN stream_agg.dead_letters.detail IS 'detail of the error, cut to 500 bytes, and which parts of the record are cut; NULL: it has none';
COMMENT ON COLUMN stream_agg.dead_letters.sqlstate IS 'code of the error; SA001 for a record that does not decode, SA009 for one that crashes the worker';

CREATE TABLE stream_agg.failed_windows (
    stream       text NOT NULL,
    batch        bigint NOT NULL,
    number       integer NOT NULL,
    window_start timestamptz,
    window_end   timestamptz,
    keys         text[],
    error        text NOT NULL,
    detail       text,
    sqlstate     text NOT NULL,
    PRIMARY KEY (stream, batch, number)
);
COMMENT ON TABLE stream_agg.failed_windows IS 'groups of closed windows that could not be output, of streams in output mode append whose on_error is not fail';
COMMENT ON COLUMN stream_agg.failed_windows.stream IS 'name of the stream';
COMMENT ON COLUMN stream_agg.failed_windows.batch IS 'micro-batch that closed the window';
COMMENT ON COLUMN stream_agg.failed_windows.number IS 'number of the group among those of the micro-batch, from 1';
COMMENT ON COLUMN stream_agg.failed_windows.window_start IS 'start of the window; one without time zone as if it was UTC; NULL: the group has none';
COMMENT ON COLUMN stream_agg.failed_windows.window_end IS 'end of the window';
COMMENT ON COLUMN stream_agg.failed_windows.keys IS 'values of the other expressions of GROUP BY, each cut to 500 bytes; NULL: they could not be converted to text';
COMMENT ON COLUMN stream_agg.failed_windows.error IS 'why the group could not be output, cut to 500 bytes';
COMMENT ON COLUMN stream_agg.failed_windows.detail IS 'detail of the error, cut to 500 bytes; NULL: it has none';
COMMENT ON COLUMN stream_agg.failed_windows.sqlstate IS 'SQLSTATE of the error';

CREATE TABLE stream_agg.late_records (
    stream      text NOT NULL,
    batch       bigint NOT NULL,
    topic       text NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint NOT NULL,
    "timestamp" timestamptz,
    key         bytea,
    value       bytea,
    headers     jsonb,
    event_time  timestamptz NOT NULL,
    windows     tstzrange[] NOT NULL,
    PRIMARY KEY (stream, topic, partition, "offset")
);
COMMENT ON TABLE stream_agg.late_records IS 'records that came too late for a window, of streams with the option late_records, until repair_late has repaired them';
COMMENT ON COLUMN stream_agg.late_records.stream IS 'name of the stream';
COMMENT ON COLUMN stream_agg.late_records.batch IS 'micro-batch that the record was part of';
COMMENT ON COLUMN stream_agg.late_records.topic IS 'Kafka topic';
COMMENT ON COLUMN stream_agg.late_records.partition IS 'partition of the topic';
COMMENT ON COLUMN stream_agg.late_records."offset" IS 'offset of the record';
COMMENT ON COLUMN stream_agg.late_records."timestamp" IS 'the record''s own timestamp; NULL: it has none, or one out of range';
COMMENT ON COLUMN stream_agg.late_records.key IS 'the record''s key, byte by byte; NULL: it has none';
COMMENT ON COLUMN stream_agg.late_records.value IS 'the record''s value, byte by byte; NULL: it has none';
COMMENT ON COLUMN stream_agg.late_records.headers IS 'the record''s headers, [{"key": ..., "value": ...}, ...], with "key_hex" or "hex" for what is not text; NULL: it has none';
COMMENT ON COLUMN stream_agg.late_records.event_time IS 'the record''s event time; one without time zone as if it was UTC, as watermarks are';
COMMENT ON COLUMN stream_agg.late_records.windows IS 'windows that lack the record';

CREATE TABLE stream_agg.events (
    stream  text NOT NULL,
    number  bigint NOT NULL,
    "time"  timestamptz NOT NULL,
    event   text NOT NULL CHECK (event OPERATOR(pg_catalog.=) ANY (ARRAY['started', 'stopped', 'retrying', 'recovered', 'failed', 'failed windows', 'reset'])),
    message text,
    PRIMARY KEY (stream, number)
);
COMMENT ON TABLE stream_agg.events IS 'history of each stream: its last 100 events';
COMMENT ON COLUMN stream_agg.events.stream IS 'name of the stream';
COMMENT ON COLUMN stream_agg.events.number IS 'number of the event, from 1';
COMMENT ON COLUMN stream_agg.events."time" IS 'when it happened';
COMMENT ON COLUMN stream_agg.events.event IS 'started and stopped; retrying: the first failed attempt of several in a row; recovered; failed; failed windows: some groups could not be output; reset';
COMMENT ON COLUMN stream_agg.events.message IS 'the error with detail, hint and context, or another text, cut to 1000 bytes';

-- Compression by lz4 costs little more than none, and the log of the state shrinks to a
-- third.  Without lz4 the log is not compressed: pglz costs more than all else that is
-- done for it.
DO $do$
BEGIN
    IF (SELECT 'lz4' OPERATOR(pg_catalog.=) ANY (enumvals) FROM pg_catalog.pg_settings
         WHERE name OPERATOR(pg_catalog.=) 'default_toast_compression') THEN
        ALTER TABLE stream_agg.state ALTER COLUMN data SET STORAGE EXTENDED,
            ALTER COLUMN data SET COMPRESSION lz4;
        ALTER TABLE stream_agg.dead_letters ALTER COLUMN key SET COMPRESSION lz4,
            ALTER COLUMN value SET COMPRESSION lz4, ALTER COLUMN headers SET COMPRESSION lz4;
        ALTER TABLE stream_agg.late_records ALTER COLUMN key SET COMPRESSION lz4,
            ALTER COLUMN value SET COMPRESSION lz4, ALTER COLUMN headers SET COMPRESSION lz4;
    END IF;
END;
$do$ LANGUAGE plpgsql;

-- A dump holds the definitions (streams), the checkpoint (sources, offsets,
-- commits, state), the dead letters, the failed windows, the late records and the
-- events.
SELECT pg_catalog.pg_extension_config_dump('stream_agg.streams', '');
SELECT pg_catalog.pg_extension_config_dump('stream_agg.sources', '');
SELECT pg_catalog.pg_extension_config_dump('stream_agg.offsets', '');
SELECT pg_catalog.pg_extension_config_dump('stream_agg.commits', '');
SELECT pg_catalog.pg_extension_config_dump('stream_agg.state', '');
SELECT pg_catalog.pg_extension_config_dump('stream_agg.dead_letters', '');
SELECT pg_catalog.pg_extension_config_dump('stream_agg.failed_windows', '');
SELECT pg_catalog.pg_extension_config_dump('stream_agg.late_records', '');
SELECT pg_catalog.pg_extension_config_dump('stream_agg.events', '');

-- Owners read the rows of their streams; nobody but the worker, as the owner
-- of the extension, writes.  A function deletes dead letters, because a role with
-- DELETE on a table may lock it.
GRANT SELECT ON stream_agg.streams, stream_agg.sources, stream_agg.offsets,
                stream_agg.commits, stream_agg.state, stream_agg.dead_letters,
                stream_agg.failed_windows, stream_agg.late_records, stream_agg.events TO PUBLIC;

CREATE FUNCTION stream_agg.is_owner(query oid)
RETURNS boolean
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT COALESCE((SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE')
                       FROM pg_catalog.pg_class c
                      WHERE c.oid OPERATOR(pg_catalog.=) $1), false);
END;
COMMENT ON FUNCTION stream_agg.is_owner(oid) IS
'whether the current user has the privileges of the owner of the stream whose query is this view';

ALTER TABLE stream_agg.streams ENABLE ROW LEVEL SECURITY;
ALTER TABLE stream_agg.sources ENABLE ROW LEVEL SECURITY;
ALTER TABLE stream_agg.offsets ENABLE ROW LEVEL SECURITY;
ALTER TABLE stream_agg.commits ENABLE ROW LEVEL SECURITY;
ALTER TABLE stream_agg.state ENABLE ROW LEVEL SECURITY;
ALTER TABLE stream_agg.dead_letters ENABLE ROW LEVEL SECURITY;
ALTER TABLE stream_agg.failed_windows ENABLE ROW LEVEL SECURITY;
ALTER TABLE stream_agg.late_records ENABLE ROW LEVEL SECURITY;
ALTER TABLE stream_agg.events ENABLE ROW LEVEL SECURITY;

CREATE POLICY owner ON stream_agg.streams FOR SELECT
    USING (stream_agg.is_owner(query));
COMMENT ON POLICY owner ON stream_agg.streams IS 'owners read the rows of their streams';
CREATE POLICY owner ON stream_agg.sources FOR SELECT
    USING (EXISTS (SELECT FROM stream_agg.streams s WHERE s.stream OPERATOR(pg_catalog.=) sources.stream));
COMMENT ON POLICY owner ON stream_agg.sources IS 'owners read the rows of their streams';
CREATE POLICY owner ON stream_agg.offsets FOR SELECT
    USING (EXISTS (SELECT FROM stream_agg.streams s WHERE s.stream OPERATOR(pg_catalog.=) offsets.stream));
COMMENT ON POLICY owner ON stream_agg.offsets IS 'owners read the rows of their streams';
CREATE POLICY owner ON stream_agg.commits FOR SELECT
    USING (EXISTS (SELECT FROM stream_agg.streams s WHERE s.stream OPERATOR(pg_catalog.=) commits.stream));
COMMENT ON POLICY owner ON stream_agg.commits IS 'owners read the rows of their streams';
CREATE POLICY owner ON stream_agg.state FOR SELECT
    USING (EXISTS (SELECT FROM stream_agg.streams s WHERE s.stream OPERATOR(pg_catalog.=) state.stream));
COMMENT ON POLICY owner ON stream_agg.state IS 'owners read the rows of their streams';
CREATE POLICY owner ON stream_agg.dead_letters FOR SELECT
    USING (EXISTS (SELECT FROM stream_agg.streams s WHERE s.stream OPERATOR(pg_catalog.=) dead_letters.stream));
COMMENT ON POLICY owner ON stream_agg.dead_letters IS 'owners read the rows of their streams';
CREATE POLICY owner ON stream_agg.failed_windows FOR SELECT
    USING (EXISTS (SELECT FROM stream_agg.streams s WHERE s.stream OPERATOR(pg_catalog.=) failed_windows.stream));
COMMENT ON POLICY owner ON stream_agg.failed_windows IS 'owners read the rows of their streams';
CREATE POLICY owner ON stream_agg.late_records FOR SELECT
    USING (EXISTS (SELECT FROM stream_agg.streams s WHERE s.stream OPERATOR(pg_catalog.=) late_records.stream));
COMMENT ON POLICY owner ON stream_agg.late_records IS 'owners read the rows of their streams';
CREATE POLICY owner ON stream_agg.events FOR SELECT
    USING (EXISTS (SELECT FROM stream_agg.streams s WHERE s.stream OPERATOR(pg_catalog.=) events.stream));
COMMENT ON POLICY owner ON stream_agg.events IS 'owners read the rows of their streams';

-- A dump is often restored into a database with the same OID (that of database
-- postgres is fixed), so a row that COPY or INSERT adds is marked as not started
-- here.
CREATE FUNCTION stream_agg.on_insert()
RETURNS trigger
AS 'MODULE_PATHNAME', 'stream_agg_on_insert'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.on_insert() IS 'marks a stream that comes out of a dump as not started in this database';

CREATE TRIGGER stream_agg_on_insert BEFORE INSERT ON stream_agg.streams
    FOR EACH ROW EXECUTE FUNCTION stream_agg.on_insert();
COMMENT ON TRIGGER stream_agg_on_insert ON stream_agg.streams IS 'marks a stream that comes out of a dump as not started in this database';

/* ---------------------------------------------------------------- streams */

CREATE FUNCTION stream_agg.create_stream(
    stream                  text,
    query                   text,
    watermark               interval DEFAULT NULL,
    event_time              text DEFAULT NULL,
    output_mode             text DEFAULT 'append',
    trigger                 interval DEFAULT '1 second',
    sink                    text DEFAULT NULL,
    starting_offsets        "any" DEFAULT 'earliest'::pg_catalog.text,
    max_offsets_per_trigger bigint DEFAULT NULL,
    start                   boolean DEFAULT true,
    options                 jsonb DEFAULT '{}',
    if_not_exists           boolean DEFAULT false,
    reader                  text DEFAULT NULL)
RETURNS regclass
AS 'MODULE_PATHNAME', 'stream_agg_create_stream'
LANGUAGE C VOLATILE CALLED ON NULL INPUT;
COMMENT ON FUNCTION stream_agg.create_stream(text, text, interval, text, text, interval, text, "any", bigint, boolean, jsonb, boolean, text) IS
'creates a stream, a query over a source that runs in micro-batches, and returns its sink';

CREATE FUNCTION stream_agg.drop_stream(stream text, drop_sink boolean DEFAULT false, if_exists boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME', 'stream_agg_drop_stream'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.drop_stream(text, boolean, boolean) IS
'stops a stream and removes its query and checkpoint; the sink stays unless drop_sink is true';

CREATE FUNCTION stream_agg.start_stream(stream text)
RETURNS void
AS 'MODULE_PATHNAME', 'stream_agg_start_stream'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.start_stream(text) IS
'starts a stopped or failed stream on commit; it continues from its last committed micro-batch';

CREATE FUNCTION stream_agg.stop_stream(stream text)
RETURNS void
AS 'MODULE_PATHNAME', 'stream_agg_stop_stream'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.stop_stream(text) IS
'stops a stream after the micro-batch it is in; stopping a stopped stream does nothing';

CREATE FUNCTION stream_agg.alter_stream(
    stream                  text,
    options                 jsonb DEFAULT NULL,
    trigger                 interval DEFAULT NULL,
    max_offsets_per_trigger bigint DEFAULT NULL,
    watermark               interval DEFAULT NULL,
    query                   text DEFAULT NULL,
    drop_columns            boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME', 'stream_agg_alter_stream'
LANGUAGE C VOLATILE CALLED ON NULL INPUT;
COMMENT ON FUNCTION stream_agg.alter_stream(text, jsonb, interval, bigint, interval, text, boolean) IS
'changes what is not NULL, options that are null to their default, the query with its state kept, and with drop_columns drops columns that the query no longer has; takes effect with the next micro-batch, also a failed one that is run again';

CREATE FUNCTION stream_agg.delete_dead_letters(stream text, through_batch bigint DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'stream_agg_delete_dead_letters'
LANGUAGE C VOLATILE CALLED ON NULL INPUT;
COMMENT ON FUNCTION stream_agg.delete_dead_letters(text, bigint) IS
'deletes the dead letters of a stream, all or those of micro-batches up to one, and returns how many';

CREATE FUNCTION stream_agg.delete_failed_windows(stream text, through_batch bigint DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'stream_agg_delete_failed_windows'
LANGUAGE C VOLATILE CALLED ON NULL INPUT;
COMMENT ON FUNCTION stream_agg.delete_failed_windows(text, bigint) IS
'deletes the failed windows of a stream, all or those of micro-batches up to one, and returns how many';

CREATE FUNCTION stream_agg.delete_late_records(stream text, through_batch bigint DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'stream_agg_delete_late_records'
LANGUAGE C VOLATILE CALLED ON NULL INPUT;
COMMENT ON FUNCTION stream_agg.delete_late_records(text, bigint) IS
'deletes the late records of a stream, all or those of micro-batches up to one, and returns how many';

CREATE FUNCTION stream_agg.repair_late(
    stream text,
    OUT win          tstzrange,
    OUT late_records bigint,
    OUT repaired     boolean,
    OUT reason       text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'stream_agg_repair_late'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.repair_late(text) IS
'recomputes the windows that lack late records and replaces their rows, in this transaction, or says why it cannot';

CREATE FUNCTION stream_agg.reset_stream(
    stream       text,
    offsets      "any" DEFAULT 'earliest'::pg_catalog.text,
    results      boolean DEFAULT false,
    results_from timestamptz DEFAULT NULL,
    force        boolean DEFAULT false,
    dry_run      boolean DEFAULT false,
    OUT win       tstzrange,
    OUT sink_rows bigint,
    OUT action    text)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'stream_agg_reset_stream'
LANGUAGE C VOLATILE CALLED ON NULL INPUT;
COMMENT ON FUNCTION stream_agg.reset_stream(text, "any", boolean, timestamptz, boolean, boolean) IS
'clears state and watermark of a stream, which continues from other offsets, a text or a time; with results the next micro-batch computes again the windows whose records all lie behind them, or from results_from on; with dry_run it returns the windows, their rows in the sink and what would happen to these, and does nothing; else no row';

CREATE FUNCTION stream_agg.process_available(
    stream  text,
    timeout interval DEFAULT '1 minute',
    OUT batches  bigint,
    OUT rows_in  bigint,
    OUT rows_out bigint)
RETURNS record
AS 'MODULE_PATHNAME', 'stream_agg_process_available'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.process_available(text, interval) IS
'triggers a stream at once and returns when all records that were in Kafka at the call are committed';

/* -------------------------------------------------------------- live state */

CREATE FUNCTION stream_agg.open_windows(sink anyelement)
RETURNS SETOF anyelement
AS 'MODULE_PATHNAME', 'stream_agg_open_windows'
LANGUAGE C STABLE CALLED ON NULL INPUT;
CREATE FUNCTION stream_agg.open_windows(sink text)
RETURNS void
AS 'MODULE_PATHNAME', 'stream_agg_open_windows_of_text'
LANGUAGE C STABLE CALLED ON NULL INPUT;
COMMENT ON FUNCTION stream_agg.open_windows(text) IS
'an error that says how open_windows is called: by the row type of the sink, not by its name';

COMMENT ON FUNCTION stream_agg.open_windows(anyelement) IS
'windows of a stream that are still open, as rows of its sink: SELECT * FROM stream_agg.open_windows(NULL::sink)';

CREATE FUNCTION stream_agg.create_live_view(stream text)
RETURNS regclass
AS 'MODULE_PATHNAME', 'stream_agg_create_live_view'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.create_live_view(text) IS
'makes the view <sink>_live of a stream in output mode append: its sink and its open windows';

CREATE FUNCTION stream_agg.preview(
    stream           text,
    "limit"          bigint DEFAULT 10000,
    watermark        interval DEFAULT NULL,
    event_time       text DEFAULT NULL,
    output_mode      text DEFAULT NULL,
    starting_offsets "any" DEFAULT NULL::pg_catalog.text,
    options          jsonb DEFAULT NULL,
    OUT action text,
    OUT data   jsonb)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'stream_agg_preview'
LANGUAGE C VOLATILE CALLED ON NULL INPUT;
COMMENT ON FUNCTION stream_agg.preview(text, bigint, interval, text, text, "any", jsonb) IS
'what the next micro-batch of a stream, or the first one of the text of a query, would write; rolled back';

CREATE FUNCTION stream_agg.explain_stream(stream text)
RETURNS SETOF text
AS 'MODULE_PATHNAME', 'stream_agg_explain_stream'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.explain_stream(text) IS
'what a stream does in each micro-batch: source, window, keys, how states are kept and their size, plan';

/* ------------------------------------------------------------- monitoring */

CREATE FUNCTION stream_agg.stat_streams(
    OUT query            oid,
    OUT pid              integer,
    OUT state            text,
    OUT stage            text,
    OUT state_rows       bigint,
    OUT state_bytes      bigint,
    OUT last_error       text,
    OUT last_error_time  timestamptz,
    OUT read_by          oid,
    OUT attempts         integer,
    OUT retrying_since   timestamptz,
    OUT next_attempt     timestamptz,
    OUT blocked_by       integer[],
    OUT blocked_since    timestamptz,
    OUT lag_as_of        timestamptz,
    OUT state_bytes_out  bigint,
    OUT state_units      bigint,
    OUT state_units_out  bigint,
    OUT executors        integer)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'stream_agg_stat_streams'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.stat_streams() IS
'what shared memory holds about the streams of this database; read it through pg_stat_stream_agg';

CREATE FUNCTION stream_agg.stat_partitions(
    OUT query            oid,
    OUT topic            text,
    OUT partition        integer,
    OUT committed_offset bigint,
    OUT end_offset       bigint,
    OUT lag_as_of        timestamptz,
    OUT last_record_time timestamptz,
    OUT event_time       timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'stream_agg_stat_partitions'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.stat_partitions() IS
'what shared memory holds about the partitions that streams of this database read; read it through pg_stat_stream_agg_partitions';

CREATE FUNCTION stream_agg.waiting_reason(owner oid)
RETURNS text
AS 'MODULE_PATHNAME', 'stream_agg_waiting_reason'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.waiting_reason(oid) IS
'why a stream of this owner that shall run has no place in shared memory, NULL if there is one; read it through pg_stat_stream_agg';

CREATE VIEW @extschema@.pg_stat_stream_agg WITH (security_barrier) AS
SELECT s.stream,
       s.query,
       s.sink,
       s.source,
       s.output_mode,
       t.state,
       h.health,
       CASE
            WHEN h.health OPERATOR(pg_catalog.=) 'failed' THEN e.first_line
            WHEN h.health OPERATOR(pg_catalog.=) 'stopped' THEN
                 CASE WHEN NOT s.enabled THEN NULL
                      WHEN pg_catalog.pg_is_in_recovery() THEN 'the server is a standby'
                      WHEN s.database OPERATOR(pg_catalog.<>) d.oid
                           THEN 'it has not been started in this database'
                      WHEN NOT t.has_owners
                           THEN 'its query, sink or source has got another owner since it was started'
                      ELSE 'stream_agg.enabled is off' END
            WHEN h.health OPERATOR(pg_catalog.=) 'retrying' THEN
                 pg_catalog.format('failed attempts: %s, since %s%s%s', w.attempts,
                                   pg_catalog.date_trunc('second', w.retrying_since),
                                   ', next attempt: ' OPERATOR(pg_catalog.||) pg_catalog.date_trunc('second', w.next_attempt)::pg_catalog.text,
                                   ': ' OPERATOR(pg_catalog.||) e.first_line)
            WHEN h.health OPERATOR(pg_catalog.=) 'waiting' THEN
                 CASE WHEN w.blocked_by IS NOT NULL
                           THEN pg_catalog.format('blocked by process %s, since %s',
                                                  pg_catalog.array_to_string(w.blocked_by, ', '),
                                                  pg_catalog.date_trunc('second', w.blocked_since))
                      WHEN e.first_line IS NOT NULL THEN e.first_line
                      ELSE 'the source has no partition yet' END
            WHEN h.health OPERATOR(pg_catalog.=) 'losing records' THEN
                 CASE WHEN k.records OPERATOR(pg_catalog.=) k.late
                           THEN pg_catalog.format('all of the last %s records were late', k.records)
                      WHEN k.records OPERATOR(pg_catalog.=) k.null_time
                           THEN pg_catalog.format('all of the last %s records were without an event time', k.records)
                      WHEN k.records OPERATOR(pg_catalog.=) k.dead_lettered
                           THEN pg_catalog.format('all of the last %s records could not be processed', k.records)
                      ELSE pg_catalog.format('none of the last %s records was aggregated; late: %s, without an event time: %s, not to be processed: %s',
                                             k.records, k.late, k.null_time, k.dead_lettered) END
            WHEN h.health OPERATOR(pg_catalog.=) 'catching up' THEN
                 pg_catalog.format('records behind: %s%s', p.lag,
                                   ', at this rate until ' OPERATOR(pg_catalog.||) pg_catalog.date_trunc('second', r.eta)::pg_catalog.text)
            WHEN h.health OPERATOR(pg_catalog.=) 'holding windows' THEN
                 pg_catalog.format('partition %s of topic "%s" holds windows open: %s; see idle_timeout',
                                   o.partition, o.topic,
                                   CASE WHEN o.event_time IS NULL THEN 'it has had no record with an event time'
                                        ELSE pg_catalog.format('its last event time is %s', o.event_time) END)
            WHEN h.health OPERATOR(pg_catalog.=) 'losing groups' THEN
                 pg_catalog.format('groups that failed when their windows closed: %s; see stream_agg.failed_windows', f.groups)
            WHEN c.max_event_time OPERATOR(pg_catalog.<) '1971-01-01 00:00+00'::timestamp with time zone AND pg_catalog.isfinite(c.max_event_time)
                 AND c.total_aggregated OPERATOR(pg_catalog.>) 0
                 THEN 'all event times are before 1971; numbers are milliseconds, unless the column has the option unit'
       END AS problem,
       w.stage,
       w.pid,
       w.executors,
       LEAST(COALESCE(c.batch, -1), 9223372036854775806) OPERATOR(pg_catalog.+) 1 AS batches,
       COALESCE(c.total_delivered, 0) AS rows_in,
       COALESCE(c.total_rows_out, 0) AS rows_out,
       COALESCE(c.total_rows_removed, 0) AS rows_removed,
       COALESCE(c.total_late, 0) AS rows_late,
       COALESCE(c.total_filtered, 0) AS rows_filtered,
       COALESCE(c.total_dead_lettered, 0) AS rows_dead_lettered,
       COALESCE(c.total_null_time, 0) AS rows_null_time,
       COALESCE(c.total_skipped, 0) AS offsets_skipped,
       COALESCE(c.total_late_windows, 0) AS late_windows,
       COALESCE(c.total_beside_closed, 0) AS rows_beside_closed,
       COALESCE(c.total_expired, 0) AS rows_expired,
       CASE WHEN pg_catalog.isfinite(c.watermark) AND c.watermark OPERATOR(pg_catalog.<>) pg_catalog.to_timestamp(0) THEN c.watermark END AS watermark,
       w.state_rows,
       w.state_bytes,
       w.state_bytes_out,
       w.state_units,
       w.state_units_out,
       COALESCE(c.total_units_read, 0) AS state_units_read,
       p.lag,
       w.lag_as_of,
       p.lag_seconds,
       r.rate,
       r.eta,
       c.committed AS last_commit,
       c.delivered AS last_batch_rows_in,
       c.read_time,
       c.execute_time,
       c.write_time,
       c.checkpoint_time,
       e.last_error,
       w.last_error_time,
       COALESCE(w.attempts, 0) AS attempts,
       w.next_attempt,
       s.reader,
       l.stream AS read_by
  FROM stream_agg.streams s
  JOIN pg_catalog.pg_class v ON v.oid OPERATOR(pg_catalog.=) s.query::pg_catalog.oid
  JOIN pg_catalog.pg_database d ON d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
  LEFT JOIN stream_agg.stat_streams() w ON w.query OPERATOR(pg_catalog.=) s.query::pg_catalog.oid
  LEFT JOIN stream_agg.streams l ON l.query::pg_catalog.oid OPERATOR(pg_catalog.=) w.read_by
  LEFT JOIN LATERAL (SELECT *
                       FROM stream_agg.commits c
                      WHERE c.stream OPERATOR(pg_catalog.=) s.stream
                      ORDER BY c.batch DESC
                      LIMIT 1) c ON true
 CROSS JOIN LATERAL (SELECT CASE WHEN w.state IS NOT NULL THEN w.state
                                 WHEN i.wanted AND NOT pg_catalog.pg_is_in_recovery() THEN 'starting'
                                 ELSE 'stopped' END AS state,
                            i.has_owners,
                            i.wanted
                       FROM (SELECT o.has_owners,
                                    s.enabled AND s.database OPERATOR(pg_catalog.=) d.oid AND o.has_owners AS wanted
                               FROM (SELECT stream_agg.has_owners(s.started_for, s.query, s.sink, s.source, s.other_sources) AS has_owners) o) i) t
 CROSS JOIN LATERAL (SELECT i.last_error,
                            pg_catalog.split_part(i.last_error, pg_catalog.chr(10), 1) AS first_line
                       FROM (SELECT CASE WHEN w.state IS NOT NULL THEN w.last_error
                                         WHEN t.wanted THEN stream_agg.waiting_reason(v.relowner) END AS last_error) i) e
  -- positions, by partition
 CROSS JOIN LATERAL (SELECT LEAST(pg_catalog.sum(GREATEST(p.end_offset OPERATOR(pg_catalog.-) p.committed_offset, 0)),
                                  CASE WHEN pg_catalog.count(p.end_offset) OPERATOR(pg_catalog.>) 0 THEN 9223372036854775807 END)::bigint AS lag,
                            CASE WHEN pg_catalog.count(p.end_offset) OPERATOR(pg_catalog.>) 0
                                      AND pg_catalog.bool_and(p.end_offset OPERATOR(pg_catalog.<=) p.committed_offset) THEN 0
                                 WHEN pg_catalog.min(p.last_record_time) FILTER (WHERE p.end_offset OPERATOR(pg_catalog.>) p.committed_offset) IS NOT NULL THEN
                                      GREATEST(EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-)
                                                       pg_catalog.min(p.last_record_time) FILTER (WHERE p.end_offset OPERATOR(pg_catalog.>) p.committed_offset)),
                                               0) END::double precision AS lag_seconds,
                            pg_catalog.count(*) AS partitions
                       FROM stream_agg.stat_partitions() p
                      WHERE p.query OPERATOR(pg_catalog.=) s.query::pg_catalog.oid) p
  -- records a second, by the micro-batches of the last minutes
 CROSS JOIN LATERAL (SELECT i.rate,
                            CASE WHEN p.lag OPERATOR(pg_catalog.>) 0 AND i.rate OPERATOR(pg_catalog.>) 0
                                      AND p.lag OPERATOR(pg_catalog./) i.rate OPERATOR(pg_catalog.<) 1e9
                                 THEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+)
                                      pg_catalog.make_interval(secs => p.lag OPERATOR(pg_catalog./) i.rate) END AS eta
                       FROM (SELECT CASE WHEN w.pid IS NOT NULL
                                         THEN pg_catalog.sum(b.delivered)::double precision
                                              OPERATOR(pg_catalog./) GREATEST(EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.min(b.begun))::double precision, 0.001::double precision) END AS rate
                               FROM (SELECT b.delivered,
                                            b.committed OPERATOR(pg_catalog.-)
                                            pg_catalog.make_interval(secs => LEAST(GREATEST(b.read_time OPERATOR(pg_catalog.+) b.execute_time OPERATOR(pg_catalog.+) b.write_time OPERATOR(pg_catalog.+) b.checkpoint_time, 0), 1e9) OPERATOR(pg_catalog./) 1000::double precision) AS begun
                                       FROM stream_agg.commits b
                                      WHERE b.stream OPERATOR(pg_catalog.=) s.stream
                                            AND b.batch OPERATOR(pg_catalog.>) (GREATEST(c.batch, 0) OPERATOR(pg_catalog.-) 20)
                                            AND pg_catalog.isfinite(b.committed)
                                            AND b.committed OPERATOR(pg_catalog.>=) (GREATEST(c.committed, '2000-01-01 00:00+00'::timestamp with time zone) OPERATOR(pg_catalog.-) '5 minutes'::interval)
                                            AND b.reset IS NULL) b) i) r
  -- what has become of the last records
 CROSS JOIN LATERAL (SELECT pg_catalog.sum(b.delivered::numeric OPERATOR(pg_catalog.-) b.filtered::numeric) AS records,
                            pg_catalog.sum(b.aggregated) AS aggregated,
                            pg_catalog.sum(b.late) AS late,
                            pg_catalog.sum(b.null_time) AS null_time,
                            pg_catalog.sum(b.dead_lettered) AS dead_lettered
                       FROM (SELECT b.*
                               FROM stream_agg.commits b
                              WHERE b.stream OPERATOR(pg_catalog.=) s.stream
                                    AND b.batch OPERATOR(pg_catalog.>) COALESCE((SELECT pg_catalog.max(z.batch)
                                                                                   FROM stream_agg.commits z
                                                                                  WHERE z.stream OPERATOR(pg_catalog.=) s.stream
                                                                                        AND z.batch OPERATOR(pg_catalog.>) (GREATEST(c.batch, 0) OPERATOR(pg_catalog.-) 100)
                                                                                        AND z.reset IS NOT NULL), -1)
                                    AND b.batch OPERATOR(pg_catalog.>) (GREATEST(c.batch, 0) OPERATOR(pg_catalog.-) 100)
                                    AND b.delivered OPERATOR(pg_catalog.>) b.filtered
                              ORDER BY b.batch DESC
                              LIMIT 3) b) k
  -- the partition that the watermark waits for, if it has nothing to be read
  LEFT JOIN LATERAL (SELECT q.topic, q.partition, q.event_time
                       FROM (SELECT q.*, pg_catalog.max(q.event_time) OVER () AS newest
                               FROM stream_agg.stat_partitions() q
                              WHERE q.query OPERATOR(pg_catalog.=) s.query::pg_catalog.oid
                                    AND (s.options OPERATOR(pg_catalog.->>) 'watermark_policy') OPERATOR(pg_catalog.=) 'per_partition'
                                    AND (s.options OPERATOR(pg_catalog.->>) 'idle_timeout') IS NULL) q
                      WHERE q.end_offset OPERATOR(pg_catalog.<=) q.committed_offset
                            AND q.newest IS NOT NULL
                            AND (q.event_time IS NULL
                                 OR q.newest OPERATOR(pg_catalog.-) q.event_time OPERATOR(pg_catalog.>) GREATEST(s.watermark, '1 minute'::interval))
                      ORDER BY q.event_time NULLS FIRST, q.topic, q.partition
                      LIMIT 1) o ON true
 CROSS JOIN LATERAL (SELECT pg_catalog.count(*) AS groups
                       FROM stream_agg.failed_windows f
                      WHERE f.stream OPERATOR(pg_catalog.=) s.stream) f
 CROSS JOIN LATERAL (SELECT CASE WHEN t.state OPERATOR(pg_catalog.=) ANY (ARRAY['failed', 'stopped', 'retrying']) THEN t.state
                                 WHEN w.blocked_by IS NOT NULL OR e.last_error IS NOT NULL THEN 'waiting'
                                 WHEN t.state OPERATOR(pg_catalog.=) 'starting' THEN t.state
                                 WHEN p.partitions OPERATOR(pg_catalog.=) 0 THEN 'waiting'
                                 WHEN k.records OPERATOR(pg_catalog.>) 0 AND k.aggregated OPERATOR(pg_catalog.=) 0 THEN 'losing records'
                                 WHEN p.lag OPERATOR(pg_catalog.>) COALESCE(s.max_offsets_per_trigger, pg_catalog.current_setting('stream_agg.max_records_per_batch')::bigint)
                                      OR (p.lag OPERATOR(pg_catalog.>) 0
                                          AND (c.batch IS NULL
                                               OR NOT s.options OPERATOR(pg_catalog.?) 'min_offsets_per_trigger'
                                                  AND p.lag_seconds OPERATOR(pg_catalog.>)
                                                      EXTRACT(epoch FROM LEAST(s.trigger_interval, '1 year'::interval) OPERATOR(pg_catalog.+) '1 minute'::interval)::double precision)) THEN 'catching up'
                                 WHEN o.topic IS NOT NULL THEN 'holding windows'
                                 WHEN f.groups OPERATOR(pg_catalog.>) 0 THEN 'losing groups'
                                 ELSE 'ok' END AS health) h
 WHERE pg_catalog.pg_has_role(v.relowner, 'USAGE')
    OR pg_catalog.pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW @extschema@.pg_stat_stream_agg IS 'one row per stream: current and past activity; times in ms, lag in records';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.stream IS 'name of the stream';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.query IS 'view that holds the query';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.sink IS 'table the results are written to';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.source IS 'foreign table the stream reads';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.output_mode IS 'append, update or complete';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.state IS 'starting, running, retrying (the last attempt has failed, there will be another), stopped (on a standby too) or failed (waits for start_stream)';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.health IS 'ok, starting, catching up, waiting, retrying, losing records, holding windows, losing groups (until its rows in failed_windows are deleted), failed or stopped';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.problem IS 'explanation of health, in a line; NULL: none';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.stage IS 'stage of the current micro-batch: read, execute, write, checkpoint; NULL between micro-batches';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.pid IS 'process of the worker';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.executors IS 'processes that execute its micro-batches, the worker included; NULL: it has no worker';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.batches IS 'micro-batches committed';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.rows_in IS 'records read: aggregated, late, filtered, dead-lettered and without event time';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.rows_out IS 'rows written to the sink';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.rows_removed IS 'rows deleted from the sink';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.rows_late IS 'records that came too late for all of their windows: the watermark had passed them';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.rows_filtered IS 'records that WHERE or a join removed';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.rows_dead_lettered IS 'records that could not be processed and were skipped or kept as dead letters';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.rows_null_time IS 'records without an event time';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.offsets_skipped IS 'offsets that Kafka did not have, or whose records could not be decompressed, and that on_data_loss or on_error let the stream continue without';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.late_windows IS 'how often a record was too late for a window; with hop() that can be some of its windows only';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.rows_beside_closed IS 'records that are not late and begin a session at or before the watermark, where one of the same key may be closed: sessions that lack a part of one are all counted, and some others';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.rows_expired IS 'rows older than the option retention that were deleted, which rows_removed counts too, or not written; not those of partitions that were dropped';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.watermark IS 'greatest event time less the watermark''s delay; NULL: the stream has no watermark, or has read no event time yet';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.state_rows IS 'groups in the state store';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.state_bytes IS 'bytes of the state store, as if all of it were in memory';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.state_bytes_out IS 'of these, bytes of groups that are in the state log only';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.state_units IS 'units of the state: windows by partition of the state';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.state_units_out IS 'of these, units that are in the state log only';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.state_units_read IS 'units that micro-batches have read from the state log';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.lag IS 'records in Kafka that are not committed yet, as of lag_as_of; NULL: unknown, or the stream does not run and it is older than a minute';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.lag_as_of IS 'when Kafka last reported the ends of partitions';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.lag_seconds IS 'age of the last record committed, by the record''s own timestamp, of the partition that is furthest behind; 0: all is read; NULL: unknown';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.rate IS 'records per second in the micro-batches of the last 5 minutes, 20 at most, until now; NULL: it does not run';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.eta IS 'when lag would be read at this rate, if no more came';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.last_commit IS 'when the last micro-batch was committed';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.last_batch_rows_in IS 'records of the last micro-batch';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.read_time IS 'time of READ in the last micro-batch, ms';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.execute_time IS 'time of EXECUTE in the last micro-batch, ms';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.write_time IS 'time of WRITE in the last micro-batch, ms';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.checkpoint_time IS 'time of CHECKPOINT in the last micro-batch, ms';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.last_error IS 'last error of the worker since it last worked, with detail, hint and context; stream_agg.events has earlier ones';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.last_error_time IS 'when it was raised';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.attempts IS 'failed attempts in a row';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.next_attempt IS 'when there will be another attempt; NULL: at once, or none';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.reader IS 'name of the reader that the stream shares; NULL: one of its own';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg.read_by IS 'stream whose worker runs this one''s micro-batches, itself if it has a worker of its own; streams with the same value are committed together; NULL: none runs';
GRANT SELECT ON @extschema@.pg_stat_stream_agg TO PUBLIC;

CREATE VIEW @extschema@.pg_stat_stream_agg_partitions WITH (security_barrier) AS
SELECT s.stream,
       p.topic,
       p.partition,
       p.committed_offset,
       p.end_offset,
       CASE WHEN p.end_offset IS NOT NULL
            THEN GREATEST(p.end_offset OPERATOR(pg_catalog.-) p.committed_offset, 0) END AS lag,
       p.lag_as_of,
       p.last_record_time,
       p.event_time
  FROM stream_agg.streams s
  JOIN pg_catalog.pg_class v ON v.oid OPERATOR(pg_catalog.=) s.query::pg_catalog.oid
  JOIN stream_agg.stat_partitions() p ON p.query OPERATOR(pg_catalog.=) s.query::pg_catalog.oid
 WHERE pg_catalog.pg_has_role(v.relowner, 'USAGE')
    OR pg_catalog.pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW @extschema@.pg_stat_stream_agg_partitions IS 'one row per stream and partition of its topics: offsets and lag in records';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_partitions.stream IS 'name of the stream';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_partitions.topic IS 'Kafka topic';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_partitions.partition IS 'partition of the topic';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_partitions.committed_offset IS 'next offset to read, as committed';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_partitions.end_offset IS 'end of the partition in Kafka, as of lag_as_of; NULL: unknown, or the stream does not run and it is older than a minute';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_partitions.lag IS 'records between the two';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_partitions.lag_as_of IS 'when Kafka last reported it';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_partitions.last_record_time IS 'timestamp of the last record committed, its own';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_partitions.event_time IS 'greatest event time of the partition; NULL with watermark_policy global';
GRANT SELECT ON @extschema@.pg_stat_stream_agg_partitions TO PUBLIC;

-- for people; alerts should use health
CREATE VIEW @extschema@.pg_stat_stream_agg_summary WITH (security_barrier) AS
SELECT s.stream,
       s.state,
       s.health,
       s.lag,
       pg_catalog.round(s.rate::numeric, 1) AS rate,
       pg_catalog.make_interval(secs => pg_catalog.round(s.lag_seconds)) AS delay,
       CASE WHEN s.rows_in OPERATOR(pg_catalog.>) s.rows_filtered
            THEN pg_catalog.round(100::numeric OPERATOR(pg_catalog.*) s.rows_late::numeric OPERATOR(pg_catalog./) (s.rows_in OPERATOR(pg_catalog.-) s.rows_filtered)::numeric, 1) END AS late_percent,
       s.problem
  FROM @extschema@.pg_stat_stream_agg s;
COMMENT ON VIEW @extschema@.pg_stat_stream_agg_summary IS 'one short row per stream, for people: columns of pg_stat_stream_agg';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_summary.stream IS 'name of the stream';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_summary.state IS 'starting, running, retrying, stopped or failed';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_summary.health IS 'ok, starting, catching up, waiting, retrying, losing records, holding windows, losing groups (until its rows in failed_windows are deleted), failed or stopped';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_summary.lag IS 'records in Kafka that are not committed yet; NULL: unknown';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_summary.rate IS 'records per second';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_summary.delay IS 'lag_seconds as an interval';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_summary.late_percent IS 'percentage of late records, of those that were not filtered, since the stream''s first micro-batch';
COMMENT ON COLUMN @extschema@.pg_stat_stream_agg_summary.problem IS 'explanation of health, in a line';
GRANT SELECT ON @extschema@.pg_stat_stream_agg_summary TO PUBLIC;

/* --------------------------------------------------------- event triggers */

-- DDL on views reaches the catalog: the row of a stream is deleted with its view,
-- and a stream's view cannot be replaced while there is state of its query.
CREATE FUNCTION stream_agg.on_sql_drop()
RETURNS event_trigger
AS 'MODULE_PATHNAME', 'stream_agg_on_sql_drop'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.on_sql_drop() IS 'removes the rows of streams whose view was dropped';

CREATE FUNCTION stream_agg.on_ddl_command_end()
RETURNS event_trigger
AS 'MODULE_PATHNAME', 'stream_agg_on_ddl_command_end'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION stream_agg.on_ddl_command_end() IS 'rejects a replacement of a stream''s query, by CREATE OR REPLACE VIEW or RULE, and names the streams of a source whose options change';

-- Only the server calls these: as handlers, validators and triggers they need
-- no privilege.
REVOKE EXECUTE ON FUNCTION stream_agg.kafka_handler(), stream_agg.kafka_validator(text[], oid),
    stream_agg.rate_handler(), stream_agg.rate_validator(text[], oid),
    stream_agg.on_insert(), stream_agg.on_sql_drop(), stream_agg.on_ddl_command_end()
    FROM PUBLIC;

CREATE EVENT TRIGGER stream_agg_sql_drop ON sql_drop
    EXECUTE FUNCTION stream_agg.on_sql_drop();
COMMENT ON EVENT TRIGGER stream_agg_sql_drop IS 'removes the rows of streams whose view was dropped';

CREATE EVENT TRIGGER stream_agg_ddl_command_end ON ddl_command_end
    WHEN TAG IN ('CREATE VIEW', 'CREATE RULE', 'ALTER FOREIGN TABLE')
    EXECUTE FUNCTION stream_agg.on_ddl_command_end();
COMMENT ON EVENT TRIGGER stream_agg_ddl_command_end IS 'rejects a replacement of a stream''s query, by CREATE OR REPLACE VIEW or RULE, and names the streams of a source whose options change';
