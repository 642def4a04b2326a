/*-------------------------------------------------------------------------
 *
 * partition_queue.c
 *	  The messages of one assigned partition, in order, without waiting.
 *
 * Messages are taken from librdkafka's queue in small portions and handed over
 * one by one; what a batch does not take stays for the next one.  Nothing is
 * handed over twice, nothing before the position, and no error of Kafka that
 * could mean a lost record is ignored (I5).
 *
 * A wake-up on the reader's descriptor is sent once until the queue is polled
 * again, so a partition's queue is polled until it is empty or until "taken"
 * has a message that nobody wants yet.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka_internal.h"

/*
 * Make the partition's queue, separate from the client's common one, wake up
 * the reader's descriptor.  Called before the partition is assigned.
 */
void
sagg_partition_attach(SaggKafkaReader *reader, SaggPartition *part)
{
	static const uint64 one = 1;

	part->queue = rd_kafka_queue_get_partition(reader->fetch->rk, part->topic_name,
											   part->partition);
	if (part->queue == NULL)
		elog(ERROR, "librdkafka has no queue for partition %d of topic \"%s\"",
			 part->partition, part->topic_name);
	rd_kafka_queue_forward(part->queue, NULL);
	rd_kafka_queue_io_event_enable(part->queue, reader->fd, &one, sizeof(one));
}

/*
 * Forget what was taken and continue at "position"; the caller assigns it.
 */
void
sagg_partition_restart(SaggKafkaReader *reader, SaggPartition *part, int64 position)
{
	sagg_prefetched_drop(reader, part);
	while (part->next < part->ntaken)
		rd_kafka_message_destroy(part->taken[part->next++]);
	part->next = part->ntaken = 0;
	part->position = position;
	part->eof = -1;
	part->lost = false;
	part->unreadable = false;
}

/*
 * Discard what is in a queue.  Raises no error and does not wait.
 */
void
sagg_queue_drain(rd_kafka_queue_t *queue)
{
	rd_kafka_message_t *messages[SAGG_TAKE_AT_ONCE];
	ssize_t		n;

	while (queue && (n = rd_kafka_consume_batch_queue(queue, 0, messages, SAGG_TAKE_AT_ONCE)) > 0)
	{
		for (ssize_t i = 0; i < n; i++)
			rd_kafka_message_destroy(messages[i]);
	}
}

/*
 * Unassign, drain and destroy the queue of a client that is about to be
 * destroyed, and set it to NULL.  Does nothing if it is NULL; the client may be
 * NULL then.
 */
void
sagg_queue_release(const SaggClient *client, rd_kafka_queue_t **queue)
{
	if (*queue == NULL)
		return;
	for (int round = 0; round < SAGG_DRAIN_ROUNDS; round++)
	{
		rd_kafka_assign(client->rk, NULL);
		sagg_queue_drain(*queue);
	}
	rd_kafka_queue_destroy(*queue);
	*queue = NULL;
}

/*
 * Return messages and queue to librdkafka.  Raises no error.
 */
void
sagg_partition_detach(SaggKafkaReader *reader, SaggPartition *part)
{
	sagg_partition_restart(reader, part, part->position);
	if (part->queue)
	{
		rd_kafka_queue_io_event_enable(part->queue, -1, NULL, 0);
		rd_kafka_queue_destroy(part->queue);
	}
	part->queue = NULL;
}

static void
raise_offsets_gone(SaggKafkaReader *reader, SaggPartition *part, int64 offset)
{
	int64		low = RD_KAFKA_OFFSET_INVALID;
	int64		high = RD_KAFKA_OFFSET_INVALID;

	(void) rd_kafka_get_watermark_offsets(reader->fetch->rk, part->topic_name,
										  part->partition, &low, &high);
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_OFFSETS_GONE),
			 errmsg("offset " INT64_FORMAT " of partition %d of topic \"%s\" is not in Kafka",
					offset, part->partition, part->topic_name),
			 low >= 0 && high >= 0 ?
			 errdetail("Kafka has offsets " INT64_FORMAT " to " INT64_FORMAT " (exclusive).",
					   low, high) : 0,
			 errhint("The topic's retention was too short for the time in which it was not read, or the topic was deleted and created again. "
					 "With the option on_data_loss set to earliest a stream continues without these records.")));
}

static void
raise_unreadable(const SaggPartition *part, bool avoidable, const char *text)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("could not read partition %d of topic \"%s\" from offset " INT64_FORMAT,
					part->partition, part->topic_name, part->position),
			 errdetail_internal("%s.", text),
			 avoidable ?
			 errhint("A stream leaves out records that cannot be read if its option on_error is skip or dead_letter; a query, by conditions on columns with metadata partition and offset.") : 0));
}

/*
 * Handle an error in place of a message.  Raises an error unless librdkafka
 * continues by itself without a gap.
 */
static void
handle_error(SaggKafkaReader *reader, SaggPartition *part, rd_kafka_message_t *message)
{
	rd_kafka_resp_err_t err = message->err;
	int64		offset = message->offset;
	bool		unreadable = sagg_is_unreadable(message);
	char		text[SAGG_TROUBLE_SIZE];

	strlcpy(text, rd_kafka_message_errstr(message), sizeof(text));
	sagg_foreign_text_clean(text);
	rd_kafka_message_destroy(message);

	switch (err)
	{
		case RD_KAFKA_RESP_ERR__PARTITION_EOF:
			part->eof = Max(part->eof, offset);
			break;
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			if (!reader->base.skips_lost)
				raise_offsets_gone(reader, part, offset >= 0 ? offset : part->position);
			part->lost = true;
			break;
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("Kafka does not permit reading topic \"%s\"", part->topic_name),
					 errdetail_internal("%s.", text)));
			break;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("partition %d of topic \"%s\" does not exist in the Kafka cluster",
							part->partition, part->topic_name)));
			break;
		case RD_KAFKA_RESP_ERR__BAD_MSG:
		case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
		case RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED:
		case RD_KAFKA_RESP_ERR__UNDERFLOW:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
			if (!unreadable || !reader->base.skips_unreadable)
				raise_unreadable(part, unreadable, text);
			part->unreadable = true;
			break;
		default:
			sagg_client_note_trouble(reader->fetch, text);
			break;
	}
}

/*
 * Returns the first message at or behind the position, where there is no
 * prefetched run, or NULL if there is none yet.  It stays there until taken.
 * If records cannot be read, or offsets are gone, raises an error; if the
 * reader skips these, the partition becomes "unreadable" or "lost".
 */
rd_kafka_message_t *
sagg_partition_peek(SaggKafkaReader *reader, SaggPartition *part)
{
	while (!part->lost && !part->unreadable)
	{
		rd_kafka_message_t *message;

		if (part->next == part->ntaken)
		{
			ssize_t		n;

			part->next = part->ntaken = 0;
			n = rd_kafka_consume_batch_queue(part->queue, 0, part->taken,
											 SAGG_TAKE_AT_ONCE);
			if (n <= 0)
				return NULL;
			part->ntaken = n;
		}
		message = part->taken[part->next];
		if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			if (message->offset >= part->position)
				return message;
			part->next++;
			rd_kafka_message_destroy(message);
		}
		else
		{
			part->next++;
			handle_error(reader, part, message);
		}
	}
	return NULL;
}

/*
 * Take the message that sagg_partition_peek returned; the caller now owns it.
 */
rd_kafka_message_t *
sagg_partition_take(SaggPartition *part)
{
	rd_kafka_message_t *message = part->taken[part->next++];
	rd_kafka_timestamp_type_t type;

	part->position = message->offset + 1;
	part->last_offset = message->offset;
	part->last_timestamp = rd_kafka_message_timestamp(message, &type);
	return message;
}
