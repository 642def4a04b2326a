/*-------------------------------------------------------------------------
 *
 * client_tuning.c
 *	  The part of a client's configuration that users do not decide.
 *
 * sagg_conf_prepare sets what the reader relies on, whatever the server's
 * options say; those are properties the validator never lets through.
 * sagg_conf_for_fetch sizes queues and requests by stream_agg.fetch_memory;
 * properties set by the server's options stay unchanged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka_internal.h"

/* an idle partition costs one fetch request per broker in this time */
#define FETCH_WAIT_MS			1000

/*
 * a full queue stays within its memory if records have at least this many
 * bytes
 */
#define SMALLEST_RECORD			256

/* most bytes of a response besides its records */
#define RESPONSE_OVERHEAD		(1024 * 1024)

/*
 * librdkafka decompresses all of a response at once, without a bound of its
 * own for gzip and lz4, which expand at most a thousandfold.  A response is so
 * small a part of the fetch memory that it fits even if it expands half of
 * that.  But a request names all partitions, and costs time for each of them:
 * many partitions get larger responses, which still fit at a tenth of the
 * worst expansion, as real records do.  Kafka's response is larger only if the
 * first batch of records is.
 */
#define UNPACKED				512
#define UNPACKED_OF_MANY		64
#define ANSWER_OF_PARTITION		(16 * 1024)
#define SMALLEST_ANSWER			(64 * 1024)
#define MOST_OF_PARTITION		(1024 * 1024)

/*
 * For a fetching client message.max.bytes bounds the memory into which a batch of
 * records packed by lz4 is first unpacked: four times its size.  Larger ones are
 * copied again and again as the memory grows.
 */
#define SMALLEST_MESSAGE		INT64CONST(1000)	/* librdkafka's own
													 * minimum */
#define MOST_UNPACKED			INT64CONST(1048576)

/* least size of a partition's queue */
#define SMALLEST_QUEUE_KB		256

/*
 * Set a property.  Raises an error if librdkafka does not accept it; the
 * caller still owns "conf" then.
 */
void
sagg_conf_set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		reason[256];

	if (rd_kafka_conf_set(conf, name, value, reason, sizeof(reason)) != RD_KAFKA_CONF_OK)
		elog(ERROR, "librdkafka does not accept %s=%s: %s", name, value, reason);
}

static bool
get_property(const rd_kafka_conf_t *conf, const char *name, char *value, size_t size)
{
	return rd_kafka_conf_get(conf, name, value, &size) == RD_KAFKA_CONF_OK;
}

/*
 * Set a property unless its value differs from librdkafka's default.
 */
static void
set_default(rd_kafka_conf_t *conf, const rd_kafka_conf_t *defaults,
			const char *name, int64 number)
{
	char		was[64];
	char		is[64];
	char		value[32];
	char		reason[256];

	if (!get_property(defaults, name, was, sizeof(was)) ||
		!get_property(conf, name, is, sizeof(is)) ||
		strcmp(was, is) != 0)
		return;
	snprintf(value, sizeof(value), INT64_FORMAT, number);

	/* tuning only: a value outside of librdkafka's limits is no error */
	(void) rd_kafka_conf_set(conf, name, value, reason, sizeof(reason));
}

/*
 * Set what every client needs: logs and errors as events instead of callbacks,
 * no offsets stored anywhere but in our checkpoint (I1), no jump over offsets
 * that are gone (I5).
 */
void
sagg_conf_prepare(rd_kafka_conf_t *conf)
{
	rd_kafka_conf_t *defaults;

	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);
	sagg_conf_set(conf, "log.queue", "true");
	sagg_conf_set(conf, "log.connection.close", "false");
	sagg_conf_set(conf, "log_level", "5");
	sagg_conf_set(conf, "enable.auto.commit", "false");
	sagg_conf_set(conf, "enable.auto.offset.store", "false");
	sagg_conf_set(conf, "auto.offset.reset", "error");
	sagg_conf_set(conf, "enable.partition.eof", "true");
	sagg_conf_set(conf, "allow.auto.create.topics", "false");

	/* limit of requests that are sent; responses may be smaller */
	sagg_conf_set(conf, "message.max.bytes", "1000");	/* fetching: see below */

	defaults = rd_kafka_conf_new();
	set_default(conf, defaults, "reconnect.backoff.max.ms", 2000);
	rd_kafka_conf_destroy(defaults);
}

/*
 * Returns the time of a long poll, which is within the socket's timeout.
 */
static int64
fetch_wait(const rd_kafka_conf_t *conf)
{
	char		timeout[32];

	if (!get_property(conf, "socket.timeout.ms", timeout, sizeof(timeout)))
		return FETCH_WAIT_MS;
	return Max(10, Min(FETCH_WAIT_MS, strtol(timeout, NULL, 10) - 1000));
}

/*
 * Returns the most bytes of a response, as sent.
 */
static int64
answer_bytes(int npartitions)
{
	int64		memory = (int64) sagg_fetch_memory_kb * 1024;
	int64		many = Min((int64) npartitions * ANSWER_OF_PARTITION, memory / UNPACKED_OF_MANY);
	int64		bytes = Max(memory / UNPACKED, many);

	return Max(Min(bytes, 50 * 1024 * 1024), SMALLEST_ANSWER);
}

/*
 * Set what a client needs that fetches "npartitions" partitions.  Sets how
 * many bytes and records make a partition's queue full.
 */
void
sagg_conf_for_fetch(rd_kafka_conf_t *conf, int npartitions,
					int64 *queue_bytes, int64 *queue_records)
{
	rd_kafka_conf_t *defaults = rd_kafka_conf_new();
	int64		queue_kb = Max(sagg_fetch_memory_kb / SAGG_QUEUES_SHARE / Max(npartitions, 1),
							   SMALLEST_QUEUE_KB);
	int64		fetch_bytes = answer_bytes(npartitions);
	char		value[32];

	/* assigning partitions needs a group, though nobody ever joins it */
	sagg_conf_set(conf, "group.id", SAGG_EXTENSION);
	sagg_conf_set(conf, "max.poll.interval.ms", "86400000");

	set_default(conf, defaults, "queued.max.messages.kbytes", queue_kb);
	set_default(conf, defaults, "queued.min.messages",
				Max(queue_kb * 1024 / SMALLEST_RECORD, 1000));

	set_default(conf, defaults, "fetch.max.bytes", fetch_bytes);
	set_default(conf, defaults, "fetch.message.max.bytes", Min(fetch_bytes, MOST_OF_PARTITION));
	get_property(conf, "fetch.max.bytes", value, sizeof(value));
	fetch_bytes = strtol(value, NULL, 10);
	set_default(conf, defaults, "receive.message.max.bytes",
				Max(100000000, fetch_bytes + RESPONSE_OVERHEAD));
	snprintf(value, sizeof(value), INT64_FORMAT,
			 Max(SMALLEST_MESSAGE, Min(fetch_bytes, MOST_UNPACKED)));
	sagg_conf_set(conf, "message.max.bytes", value);
	set_default(conf, defaults, "fetch.wait.max.ms", fetch_wait(conf));
	/* also the pause after a batch of records that cannot be unpacked */
	set_default(conf, defaults, "fetch.error.backoff.ms", 50);
	if (rd_kafka_version() >= 0x02020000)
		set_default(conf, defaults, "fetch.queue.backoff.ms", 10);
	rd_kafka_conf_destroy(defaults);

	*queue_bytes = queue_kb * 1024;
	if (get_property(conf, "queued.max.messages.kbytes", value, sizeof(value)))
		*queue_bytes = strtol(value, NULL, 10) * INT64CONST(1024);
	*queue_records = queue_kb * 1024 / SMALLEST_RECORD;
	if (get_property(conf, "queued.min.messages", value, sizeof(value)))
		*queue_records = strtol(value, NULL, 10);
}
