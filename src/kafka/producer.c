/*-------------------------------------------------------------------------
 *
 * producer.c
 *	  The producer behind an INSERT: sends records and waits until Kafka has
 *	  acknowledged all of them.
 *
 * Records are acknowledged by all in-sync replicas, in order and once each
 * (acks=all, an idempotent producer), whatever the server's options say.
 * Delivery reports are events of a queue that this process polls (I6): there
 * is no callback, and any error can be raised at any point.  The queue of
 * records to be sent is bounded (I7); when it is full, sending waits.
 *
 * Kafka does not roll back.  So an error says how many records were
 * acknowledged.  A producer that is closed early, by an error elsewhere or a
 * cancelled query, drops what it has not sent and does not wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "streams/streams.h"
#include "kafka_internal.h"

/* how long to wait for more records for one request */
#define LINGER_MS				"1"

/* number of records after which reports are polled */
#define RECORDS_BETWEEN_REPORTS	256

/* interval at which librdkafka looks for records that have timed out */
#define TIMEOUT_SLACK_MS		3000

#define LOOK_AGAIN_MS			1000

struct SaggProducer
{
	MemoryContextCallback callback;
	const char *subject;		/* for messages: topic "a" */
	int			fd;				/* readable when there are events */
	SaggClient *client;			/* NULL = closed */
	int64		sent;			/* records given to librdkafka, or rejected */
	int64		acknowledged;
	int64		failed;
	int64		unknown;		/* of failed records: Kafka may have stored
								 * them nevertheless */
	rd_kafka_resp_err_t error;	/* error of the first that failed */
	char		reason[SAGG_TROUBLE_SIZE];
	TimestampTz last_report;
};

/*
 * Called right before the client is destroyed, perhaps at process exit.
 * Without records in its queues, destroying it does not wait.
 */
static void
release_producer(void *owner)
{
	SaggProducer *producer = (SaggProducer *) owner;
	rd_kafka_event_t *event;

	(void) rd_kafka_purge(producer->client->rk,
						  RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
						  RD_KAFKA_PURGE_F_NON_BLOCKING);
	rd_kafka_queue_io_event_enable(producer->client->events, -1, NULL, 0);
	while ((event = rd_kafka_queue_poll(producer->client->events, 0)) != NULL)
		rd_kafka_event_destroy(event);
	producer->client = NULL;
}

static void
close_producer(void *arg)
{
	SaggProducer *producer = (SaggProducer *) arg;

	if (producer->client)
		sagg_client_close(producer->client);
	if (producer->fd >= 0)
		sagg_event_fd_close(producer->fd);
	producer->fd = -1;
}

/*
 * Close the producer; memory goes with the context.  Raises no error.
 */
static void
close_early(SaggProducer *producer)
{
	close_producer(producer);
}

static void
set_number(rd_kafka_conf_t *conf, const char *name, int64 number)
{
	char		value[32];

	snprintf(value, sizeof(value), INT64_FORMAT, number);
	sagg_conf_set(conf, name, value);
}

/*
 * Set what does not depend on the server's options.
 */
static void
prepare_conf(rd_kafka_conf_t *conf)
{
	char		value[32];
	size_t		size = sizeof(value);
	int64		largest = 0;

	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG |
							 RD_KAFKA_EVENT_DR);
	sagg_conf_set(conf, "log.queue", "true");
	sagg_conf_set(conf, "log.connection.close", "false");
	sagg_conf_set(conf, "log_level", "5");
	sagg_conf_set(conf, "enable.idempotence", "true");
	sagg_conf_set(conf, "acks", "all");
	sagg_conf_set(conf, "linger.ms", LINGER_MS);
	/* choose the partition of a key as Kafka's own clients do */
	sagg_conf_set(conf, "partitioner", "murmur2_random");
	set_number(conf, "message.timeout.ms", sagg_kafka_timeout_ms);
	set_number(conf, "topic.metadata.propagation.max.ms",
			   Min(sagg_kafka_timeout_ms / 2, 5000));

	/*
	 * the largest record must fit, otherwise it would wait for room for ever
	 */
	if (rd_kafka_conf_get(conf, "message.max.bytes", value, &size) == RD_KAFKA_CONF_OK)
		largest = strtol(value, NULL, 10) / 1024;
	set_number(conf, "queue.buffering.max.kbytes",
			   Min(Max(sagg_fetch_memory_kb, 2 * largest), INT_MAX));
}

static rd_kafka_conf_t *
producer_conf(Oid source, Oid user)
{
	rd_kafka_conf_t *conf;
	SaggOwnerContext owner;

	/* an ERROR in between: the end of the transaction restores the user */
	sagg_become_owner(&owner, user);
	conf = sagg_client_conf(source);
	sagg_restore_user(&owner);

	PG_TRY();
	{
		prepare_conf(conf);
	}
	PG_CATCH();
	{
		rd_kafka_conf_destroy(conf);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return conf;
}

/*
 * Make a producer for the topics of "source", with the options of its server
 * and of the mapping of "user".  Lives in the current context and is closed
 * with it, or when the process ends.  Contacts brokers only in the background.
 */
static SaggProducer *
open_producer(Oid source, Oid user)
{
	SaggProducer *producer = palloc0(sizeof(SaggProducer));
	SaggTopics *topics = sagg_kafka_topics(source);
	uint64		wake = 1;

	producer->fd = -1;
	producer->callback.func = close_producer;
	producer->callback.arg = producer;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &producer->callback);

	producer->subject = topics->subject;
	producer->fd = sagg_event_fd_open();
	producer->client = sagg_client_open(RD_KAFKA_PRODUCER, producer_conf(source, user),
										topics->names, topics->one ? 1 : 0,
										release_producer, producer);
	rd_kafka_queue_io_event_enable(producer->client->events, producer->fd,
								   &wake, sizeof(wake));
	producer->last_report = GetCurrentTimestamp();
	return producer;
}

/*
 * Another statement begins, whose records are counted from 0.  All records of
 * the one before are acknowledged.
 */
static void
restart_producer(SaggProducer *producer)
{
	Assert(producer->acknowledged == producer->sent);
	producer->sent = 0;
	producer->acknowledged = 0;
	producer->client->trouble[0] = '\0';
	producer->last_report = GetCurrentTimestamp();
}

/*
 * Returns the number of records not reported on yet.
 */
static int64
outstanding(const SaggProducer *producer)
{
	return producer->sent - producer->acknowledged - producer->failed;
}

static void
note_failure(SaggProducer *producer, rd_kafka_resp_err_t err, const char *reason)
{
	producer->failed++;
	if (producer->error != RD_KAFKA_RESP_ERR_NO_ERROR)
		return;
	producer->error = err;
	strlcpy(producer->reason, reason, sizeof(producer->reason));
}

static void
take_reports(SaggProducer *producer, rd_kafka_event_t *event)
{
	const rd_kafka_message_t *message;

	while ((message = rd_kafka_event_message_next(event)) != NULL)
	{
		if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			producer->acknowledged++;
			continue;
		}
		if (rd_kafka_message_status(message) != RD_KAFKA_MSG_STATUS_NOT_PERSISTED)
			producer->unknown++;
		note_failure(producer, message->err, rd_kafka_err2str(message->err));
	}
	producer->last_report = GetCurrentTimestamp();
}

/*
 * Take all events that are there.  Never waits.
 */
static void
serve(SaggProducer *producer)
{
	SaggClient *client = producer->client;
	rd_kafka_event_t *event;
	uint64		wake;

	/*
	 * reset it before polling, because one wake-up stands for any number of
	 * events
	 */
	(void) !read(producer->fd, &wake, sizeof(wake));
	while ((event = rd_kafka_queue_poll(client->events, 0)) != NULL)
	{
		if (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR)
			take_reports(producer, event);
		else
			sagg_client_note_event(client, event);
		rd_kafka_event_destroy(event);
	}
}

/*
 * Wait for events on latch and descriptor, and take them.
 */
static void
wait_for_events(SaggProducer *producer)
{
	static uint32 wait_event = 0;
	int			events;

	if (wait_event == 0)
		wait_event = SAGG_WAIT_EVENT("StreamAggKafka");
	events = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_SOCKET_READABLE |
							   WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							   producer->fd, LOOK_AGAIN_MS, wait_event);
	if (events & WL_LATCH_SET)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	serve(producer);
}

static int
sqlstate(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
			return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
		case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
			return ERRCODE_DATA_EXCEPTION;	/* the broker refuses what the
											 * record has */
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
			return ERRCODE_UNDEFINED_OBJECT;
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			return ERRCODE_INVALID_PARAMETER_VALUE;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
			return ERRCODE_INSUFFICIENT_PRIVILEGE;
		default:
			return ERRCODE_CONNECTION_FAILURE;
	}
}

/*
 * Returns why not all records were acknowledged, as the start of a sentence.
 */
static const char *
failure_reason(SaggProducer *producer, char *buffer, size_t size)
{
	bool		timeout = producer->error == RD_KAFKA_RESP_ERR_NO_ERROR ||
	producer->error == RD_KAFKA_RESP_ERR__MSG_TIMED_OUT ||
	producer->error == RD_KAFKA_RESP_ERR__PURGE_QUEUE ||
	producer->error == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT;

	if (rd_kafka_fatal_error(producer->client->rk, buffer, size) !=
		RD_KAFKA_RESP_ERR_NO_ERROR)
		return buffer;
	if (timeout && producer->client->trouble[0] != '\0')
		return producer->client->trouble;
	return producer->reason[0] ? producer->reason :
		rd_kafka_err2str(RD_KAFKA_RESP_ERR__MSG_TIMED_OUT);
}

/*
 * Returns what to do about it.
 */
static int
hint(const SaggProducer *producer)
{
	if (producer->acknowledged > 0)
		return errhint("Records that were acknowledged stay in the topic, because Kafka does not roll back.");
	switch (sqlstate(producer->error))
	{
		case ERRCODE_UNDEFINED_OBJECT:
			return errhint("Create the topic, or name another one in the options of the foreign table.");
		case ERRCODE_CONNECTION_FAILURE:
			return errhint("Check the brokers of the foreign server, and stream_agg.kafka_timeout.");
		default:
			return 0;
	}
}

static void
raise_failure(SaggProducer *producer)
{
	char		fatal[SAGG_TROUBLE_SIZE] = "";
	const char *reason = failure_reason(producer, fatal, sizeof(fatal));
	int64		unknown = producer->unknown + outstanding(producer);

	ereport(ERROR,
			(errcode(sqlstate(producer->error)),
			 errmsg("Kafka acknowledged " INT64_FORMAT " of " INT64_FORMAT
					" records for %s",
					producer->acknowledged, producer->sent, producer->subject),
			 unknown > 0 ?
			 errdetail_internal("%s. Kafka may also have stored " INT64_FORMAT
								" records without acknowledging them.", reason, unknown) :
			 errdetail_internal("%s.", reason),
			 hint(producer)));
}

/*
 * Returns whether records have been rejected, or will be.
 */
static bool
is_hopeless(const SaggProducer *producer)
{
	return producer->failed > 0 || producer->client->rejected;
}

static bool
is_silent(const SaggProducer *producer)
{
	return TimestampDifferenceExceeds(producer->last_report, GetCurrentTimestamp(),
									  Min(sagg_kafka_timeout_ms, INT_MAX - TIMEOUT_SLACK_MS) +
									  TIMEOUT_SLACK_MS);
}

/*
 * Wait until every record sent is acknowledged.  Raises an error if one is
 * not, shortly after stream_agg.kafka_timeout at the latest, which says how
 * many were; records that have not been sent by then never are.
 */
static void
finish_producer(SaggProducer *producer)
{
	bool		purged = false;

	producer->last_report = GetCurrentTimestamp();
	serve(producer);
	while (outstanding(producer) > 0)
	{
		if (is_hopeless(producer) && !purged)
		{
			(void) rd_kafka_purge(producer->client->rk, RD_KAFKA_PURGE_F_QUEUE);
			purged = true;
		}
		if (is_silent(producer))
			raise_failure(producer);
		wait_for_events(producer);
	}
	if (producer->failed > 0)
		raise_failure(producer);
}

/*
 * Make one attempt to hand a record to librdkafka, which copies it.
 */
static rd_kafka_resp_err_t
try_to_send(SaggProducer *producer, const SaggOutRecord *record)
{
	rd_kafka_topic_t *named = NULL;
	rd_kafka_headers_t *headers = NULL;
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;

	if (record->topic)
	{
		named = rd_kafka_topic_new(producer->client->rk, record->topic, NULL);
		if (named == NULL)
			return rd_kafka_last_error();
	}
	if (record->nheaders > 0)
		headers = rd_kafka_headers_new(record->nheaders);
	for (int i = 0; i < record->nheaders && err == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		err = rd_kafka_header_add(headers, record->headers[i].name, -1,
								  record->headers[i].value, record->headers[i].len);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		err = rd_kafka_producev(producer->client->rk,
								RD_KAFKA_V_RKT(named ? named : producer->client->topics[0]),
								RD_KAFKA_V_PARTITION(record->partition),
								RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
								RD_KAFKA_V_VALUE((void *) record->payload, record->payload_len),
								RD_KAFKA_V_KEY(record->key, record->key_len),
								RD_KAFKA_V_TIMESTAMP(record->timestamp_ms),
								RD_KAFKA_V_HEADERS(headers),
								RD_KAFKA_V_END);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR && headers)
		rd_kafka_headers_destroy(headers);
	if (named)
		rd_kafka_topic_destroy(named);
	return err;
}

/*
 * Send a record, whose memory belongs to the caller again on return.  Waits
 * while too much is waiting to be sent.  Raises an error like finish_producer
 * as soon as it is known that a record was not acknowledged.
 */
static void
send_record(SaggProducer *producer, const SaggOutRecord *record)
{
	rd_kafka_resp_err_t err;

	if (producer->sent % RECORDS_BETWEEN_REPORTS == 0)
		serve(producer);
	producer->last_report = GetCurrentTimestamp();
	while (!is_hopeless(producer) &&
		   (err = try_to_send(producer, record)) == RD_KAFKA_RESP_ERR__QUEUE_FULL &&
		   outstanding(producer) > 0)
		wait_for_events(producer);

	if (is_hopeless(producer))
	{
		finish_producer(producer);
		raise_failure(producer);
	}
	producer->sent++;
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		note_failure(producer, err, rd_kafka_err2str(err));
		finish_producer(producer);
	}
}

const SaggSourceProducer sagg_kafka_producer = {
	.open = open_producer,
	.restart = restart_producer,
	.send = send_record,
	.finish = finish_producer,
	.close = close_early
};
