/*-------------------------------------------------------------------------
 *
 * last_record.c
 *	  Topic identity: detects that a topic is not the one that has been read,
 *	  because it was deleted and recreated.
 *
 * A topic that was deleted and recreated under its name has offsets like the
 * old one, and as soon as it has as many records, the offsets do not show that
 * the records differ. librdkafka before 2.3 does not provide the id of a
 * topic, so the checkpoint keeps the offset and the timestamp of the last
 * record of each partition.  When a reader is opened, and after a connection
 * was broken, that record is read again: if its timestamp differs, it is
 * another record.
 *
 * A client does not always notice, so before each batch Kafka is asked for the
 * first record younger than the last one read.  Usually that is behind the
 * last one; if not, the last one is read again, too.
 *
 * This cannot detect a record that retention or compaction has removed since
 * then, and does not work if records have no timestamps.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "kafka_internal.h"

/*
 * so that a topic with unordered timestamps is not read again for each batch
 */
#define SUSPICION_PAUSE_MS	10000

/* what a reader of last records holds, returned before it is destroyed */
typedef struct Verifier
{
	SaggClient *client;
	rd_kafka_queue_t *queue;
} Verifier;

/*
 * Store the last record that was handed over of the partition of a range in a
 * range: its offset as "start", its timestamp in milliseconds as "end".
 * Returns false if there is none, or it has no timestamp.
 */
bool
sagg_kafka_last_record(SaggReader *base, const SaggRange *range,
					   SaggRange *last)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;

	for (int i = 0; i < reader->npartitions; i++)
	{
		const SaggPartition *part = reader->partitions[i];

		if (part->partition != range->partition || part->topic != range->topic)
			continue;
		if (part->last_offset < range->start || part->last_offset >= range->end ||
			part->last_timestamp < 0)
			return false;
		*last = *range;
		last->start = part->last_offset;
		last->end = part->last_timestamp;
		return true;
	}
	return false;
}

/*
 * Returns whether a connection for fetching has broken since this was last
 * called.
 */
bool
sagg_kafka_was_broken(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	bool		broken;

	if (reader->fetch == NULL)
		return false;
	sagg_client_serve(reader->fetch);
	broken = reader->fetch->broken;
	reader->fetch->broken = false;
	return broken;
}

/*
 * Returns whether there is a younger record before one of the records of
 * "last".  In a recreated topic there is; in one with unordered timestamps
 * there may be, so after returning true this returns false for
 * SUSPICION_PAUSE_MS.  Called after sagg_kafka_bounds; waits for one answer.
 */
bool
sagg_kafka_suspects(SaggReader *base, const SaggRange *last, int nlast)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	rd_kafka_topic_partition_list_t *list;
	TimestampTz now = GetCurrentTimestamp();
	bool		suspicion = false;

	if (nlast == 0 || reader->query_client == NULL ||
		!TimestampDifferenceExceeds(reader->suspected, now, SUSPICION_PAUSE_MS))
		return false;
	list = rd_kafka_topic_partition_list_new(nlast);
	for (int i = 0; i < nlast; i++)
		rd_kafka_topic_partition_list_add(list, sagg_topic_name(last[i].topic),
										  last[i].partition)->offset = last[i].end + 1;
	if (rd_kafka_offsets_for_times(reader->query_client->rk, list,
								   SAGG_KAFKA_SLICE_MS) == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		for (int i = 0; i < nlast; i++)
		{
			const rd_kafka_topic_partition_t *one = &list->elems[i];

			if (one->err == RD_KAFKA_RESP_ERR_NO_ERROR && one->offset >= 0 &&
				one->offset <= last[i].start)
				suspicion = true;
		}
	}
	rd_kafka_topic_partition_list_destroy(list);
	if (suspicion)
		reader->suspected = now;
	return suspicion;
}

static SaggRange *
find_last(SaggRange *last, int nlast, const rd_kafka_message_t *message)
{
	const char *topic = message->rkt ? rd_kafka_topic_name(message->rkt) : "";

	for (int i = 0; i < nlast; i++)
	{
		if (last[i].partition == message->partition &&
			strcmp(sagg_topic_name(last[i].topic), topic) == 0)
			return &last[i];
	}
	return NULL;
}

static void
raise_recreated(const SaggRange *last, int64 timestamp)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_OFFSETS_GONE),
			 errmsg("topic \"%s\" is not the one that the stream has read: it was deleted and created again",
					sagg_topic_name(last->topic)),
			 errdetail("The record at offset " INT64_FORMAT " of partition %d has timestamp " INT64_FORMAT
					   " ms, the one that the stream has read there had " INT64_FORMAT " ms.",
					   last->start, last->partition, timestamp, last->end),
			 errhint("Offsets of the former topic mean nothing in this one. Use stream_agg.reset_stream to read it from its beginning, or set the stream's option on_data_loss to earliest.")));
}

/*
 * Compare a message with what is known about its partition, and free it.
 * Returns whether the partition is done.  A different record raises an error
 * or, if the reader skips what is lost, gives SAGG_ANOTHER_RECORD instead of
 * the timestamp.
 */
static bool
take_message(SaggKafkaReader *reader, rd_kafka_message_t *message, SaggRange *last)
{
	rd_kafka_timestamp_type_t type;
	rd_kafka_resp_err_t err = message->err;
	int64		offset = message->offset;
	int64		timestamp = rd_kafka_message_timestamp(message, &type);

	rd_kafka_message_destroy(message);
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			if (offset == last->start && timestamp != last->end)
			{
				if (!reader->base.skips_lost)
					raise_recreated(last, timestamp);
				last->end = SAGG_ANOTHER_RECORD;
				return true;
			}
			return offset >= last->start;
		case RD_KAFKA_RESP_ERR__PARTITION_EOF:
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			return true;		/* the caller decides what that means */
		default:
			return false;
	}
}

/*
 * Check that the brokers still belong to the cluster: another one may have got
 * their addresses.
 */
static void
check_cluster(SaggKafkaReader *reader, SaggClient *client)
{
	char	   *id = rd_kafka_clusterid(client->rk, 0);
	bool		same = id == NULL || reader->cluster_id == NULL ||
	strcmp(id, reader->cluster_id) == 0;

	if (id)
		rd_kafka_mem_free(client->rk, id);
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("the brokers of %s belong to another Kafka cluster than before",
						reader->base.topics->subject)));
}

/*
 * Stop fetching a partition.  All share one queue: whatever follows the record
 * of one partition, which can be a lot, would delay the others.
 */
static void
stop_fetching(SaggClient *client, const SaggRange *one)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);

	rd_kafka_topic_partition_list_add(list, sagg_topic_name(one->topic), one->partition);
	(void) rd_kafka_pause_partitions(client->rk, list);
	rd_kafka_topic_partition_list_destroy(list);
}

/*
 * Read the records of "last" again until it is known of each whether it is
 * still there.
 */
static void
read_again(SaggKafkaReader *reader, Verifier *verifier, SaggRange *last, int nlast)
{
	TimestampTz until = sagg_kafka_deadline(reader);
	bool	   *done = palloc0(sizeof(bool) * nlast);
	int			left = nlast;

	while (left > 0)
	{
		rd_kafka_message_t *message;
		SaggRange  *one;

		if (rd_kafka_consume_batch_queue(verifier->queue, sagg_kafka_slice(until), &message, 1) <= 0)
		{
			sagg_kafka_before_attempt(reader, verifier->client, until, RD_KAFKA_RESP_ERR__TIMED_OUT);
			continue;
		}
		one = find_last(last, nlast, message);
		if (one == NULL)
			rd_kafka_message_destroy(message);
		else if (take_message(reader, message, one) && !done[one - last])
		{
			done[one - last] = true;
			left--;
			stop_fetching(verifier->client, one);
		}
	}
	reader->waiting_since = 0;
	check_cluster(reader, verifier->client);
	pfree(done);
}

/* called right before the client is destroyed, perhaps at process exit */
static void
release_queue(void *owner)
{
	Verifier   *verifier = (Verifier *) owner;

	sagg_queue_release(verifier->client, &verifier->queue);
}

static SaggClient *
open_verifier(SaggKafkaReader *reader, Verifier *verifier)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_dup(reader->conf);

	PG_TRY();
	{
		sagg_conf_set(conf, "group.id", SAGG_EXTENSION);

		/*
		 * Fetch one record of each partition, and little of what follows it;
		 * but no partition must wait, as librdkafka before 2.2 does for a
		 * second, because the queue has a few messages of another.
		 */
		sagg_conf_set(conf, "queued.min.messages", "10000");
		sagg_conf_set(conf, "fetch.message.max.bytes", "1024");
		sagg_conf_set(conf, "fetch.wait.max.ms", "10");
	}
	PG_CATCH();
	{
		rd_kafka_conf_destroy(conf);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return sagg_client_open(RD_KAFKA_CONSUMER, conf, NULL, 0, release_queue, verifier);
}

/*
 * Raise ERRCODE_SAGG_OFFSETS_GONE if one of the records of "last" (see
 * sagg_kafka_last_record) differs from the one in Kafka.  A missing record
 * proves nothing.  Raises connection_failure if the brokers belong to another
 * cluster.  For a record that differs, a reader that skips what is lost sets "end"
 * to SAGG_ANOTHER_RECORD instead.  Waits.
 */
void
sagg_kafka_verify(SaggReader *base, SaggRange *last, int nlast)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	rd_kafka_topic_partition_list_t *list;
	Verifier	verifier = {0};

	if (nlast == 0)
		return;
	verifier.client = open_verifier(reader, &verifier);
	PG_TRY();
	{
		verifier.queue = rd_kafka_queue_get_consumer(verifier.client->rk);
		list = rd_kafka_topic_partition_list_new(nlast);
		for (int i = 0; i < nlast; i++)
			rd_kafka_topic_partition_list_add(list, sagg_topic_name(last[i].topic),
											  last[i].partition)->offset = last[i].start;
		rd_kafka_assign(verifier.client->rk, list);
		rd_kafka_topic_partition_list_destroy(list);
		read_again(reader, &verifier, last, nlast);
	}
	PG_FINALLY();
	{
		sagg_client_close(verifier.client);
	}
	PG_END_TRY();
}
