/*-------------------------------------------------------------------------
 *
 * unreadable.c
 *	  Skips records that librdkafka cannot decompress, if the stream's option
 *	  on_error says to continue without them.
 *
 * Records come in batches of their producer, compressed as a whole, so one
 * that cannot be decompressed hides all of its offsets. librdkafka reports
 * only the first of them, and stays there.  The start of the next one is
 * searched for: a separate client is set to a later offset, and finds either the
 * same batch or what is behind it.  Steps double until they are behind it, and
 * are then halved, so a million offsets take forty fetches; no readable record
 * is skipped.
 *
 * What is left out is a loss of the batch, recorded in its commit (I5).  A
 * retry of the plan finds the same, because it depends only on the records and
 * the settings.
 *
 * Waits for Kafka.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "kafka_internal.h"

/* what the client of a search holds, returned before it is destroyed */
typedef struct Search
{
	SaggKafkaReader *reader;
	SaggPartition *part;
	SaggClient *client;
	rd_kafka_queue_t *queue;
	char		reason[SAGG_FOREIGN_TEXT];	/* reason of the first error */
} Search;

/* a probe has found no unreadable records */
#define READABLE			(-1)

/*
 * Returns whether a message is an error of records that cannot be read, and
 * not one of the broker or the connection. librdkafka reports a batch in an
 * unknown format only once, so its end cannot be searched.
 */
bool
sagg_is_unreadable(const rd_kafka_message_t *message)
{
	switch (message->err)
	{
		case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
		case RD_KAFKA_RESP_ERR__BAD_MSG:
			return true;
		case RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED:
			return strstr(rd_kafka_message_errstr(message), "MagicByte") == NULL;
		default:
			return false;
	}
}

/* called right before the client is destroyed, perhaps at process exit */
static void
release_search(void *owner)
{
	Search	   *search = (Search *) owner;

	sagg_queue_release(search->client, &search->queue);
}

/*
 * Make a client that treats records like the one that fetches, which depends
 * on its limits, and that responds quickly.
 */
static void
open_search(Search *search)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_dup(search->reader->conf);
	int64		queue_bytes;
	int64		queue_records;

	PG_TRY();
	{
		sagg_conf_for_fetch(conf, 1, &queue_bytes, &queue_records);
		sagg_conf_set(conf, "fetch.wait.max.ms", "10");
		sagg_conf_set(conf, "fetch.message.max.bytes", "1024");
		sagg_conf_set(conf, "fetch.error.backoff.ms", "10");
	}
	PG_CATCH();
	{
		rd_kafka_conf_destroy(conf);
		PG_RE_THROW();
	}
	PG_END_TRY();
	search->client = sagg_client_open(RD_KAFKA_CONSUMER, conf, NULL, 0, release_search, search);
	search->queue = rd_kafka_queue_get_consumer(search->client->rk);
}

static void
seek_to(Search *search, int64 offset)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);

	rd_kafka_topic_partition_list_add(list, search->part->topic_name,
									  search->part->partition)->offset = offset;
	rd_kafka_assign(search->client->rk, list);
	rd_kafka_topic_partition_list_destroy(list);
}

/*
 * Evaluate a message and free it.  Returns whether it says what is at
 * "offset": sets *first to the first offset of records that cannot be read, or
 * READABLE.
 */
static bool
judge(Search *search, rd_kafka_message_t *message, int64 offset, int64 *first)
{
	rd_kafka_resp_err_t err = message->err;
	bool		tells = true;

	*first = READABLE;
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		tells = message->offset >= offset;
	else if (sagg_is_unreadable(message))
	{
		*first = Max(message->offset, 0);
		if (search->reason[0] == '\0')
		{
			strlcpy(search->reason, rd_kafka_message_errstr(message), sizeof(search->reason));
			sagg_foreign_text_clean(search->reason);
		}
	}
	else if (err != RD_KAFKA_RESP_ERR__PARTITION_EOF &&
			 err != RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET &&
			 err != RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE &&
			 err != RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED)
	{
		char		text[SAGG_TROUBLE_SIZE];

		strlcpy(text, rd_kafka_message_errstr(message), sizeof(text));
		sagg_client_note_trouble(search->client, text);
		tells = false;
	}
	rd_kafka_message_destroy(message);
	return tells;
}

/*
 * Returns what is at an offset: the first offset of records that cannot be
 * read, or READABLE.  The reader itself finds out that offsets are gone.
 */
static int64
probe(Search *search, int64 offset)
{
	TimestampTz until = sagg_kafka_deadline(search->reader);
	rd_kafka_message_t *message;
	int64		first;

	seek_to(search, offset);
	for (;;)
	{
		if (rd_kafka_consume_batch_queue(search->queue, sagg_kafka_slice(until), &message, 1) <= 0)
			sagg_kafka_before_attempt(search->reader, search->client, until, RD_KAFKA_RESP_ERR__TIMED_OUT);
		else if (judge(search, message, offset, &first))
			break;
	}
	search->reader->waiting_since = 0;
	CHECK_FOR_INTERRUPTS();
	return first;
}

/*
 * Returns the first offset behind "offset" that does not belong to the
 * unreadable records that begin at "first", or "end" if they reach that far.
 * Sets *next to what is there.
 */
static int64
end_of_batch(Search *search, int64 first, int64 offset, int64 end, int64 *next)
{
	int64		within = offset;
	int64		behind = end;
	int64		step = 1;

	*next = READABLE;
	while (within < behind - 1)
	{
		int64		at = behind < end ? within + (behind - within) / 2 :
		within + Min(step, end - 1 - within);
		int64		found = probe(search, at);

		step *= 2;
		if (found == first)
			within = at;
		else
		{
			behind = at;
			*next = found;
		}
	}
	return behind;
}

/*
 * Returns the first offset from the partition's position on, up to the end of
 * its range, that does not belong to records that cannot be read.
 */
static int64
first_readable(Search *search)
{
	int64		offset = search->part->position;
	int64		end = search->part->range_end;
	int64		first = probe(search, offset);

	while (first != READABLE && offset < end)
	{
		int64		next;

		/* an old batch is identified by its last offset, so this may be one */
		if (first >= end)
			return end;
		offset = end_of_batch(search, first, Max(offset, first), end, &next);
		first = next;
	}
	return offset;
}

/*
 * A search has found nothing wrong at the position of a partition.  That may
 * happen once, because the error may be of what was fetched from elsewhere;
 * twice would repeat for ever.
 */
static void
note_readable(SaggPartition *part)
{
	if (part->readable_at == part->position)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("could not read partition %d of topic \"%s\" from offset " INT64_FORMAT,
						part->partition, part->topic_name, part->position),
				 errdetail("Records there can be decompressed at one time, and not at another.")));
	part->readable_at = part->position;
}

/*
 * Skip what cannot be read at the position of a partition.
 */
static void
skip_unreadable(SaggKafkaReader *reader, SaggPartition *part)
{
	/*
	 * not on the stack, because the client may be closed at the end of the
	 * process
	 */
	Search	   *search = MemoryContextAllocZero(reader->base.memory, sizeof(Search));
	int64		position = part->position;
	int64		next = position;

	search->reader = reader;
	search->part = part;
	PG_TRY();
	{
		open_search(search);
		next = first_readable(search);
	}
	PG_FINALLY();
	{
		if (search->client)
			sagg_client_close(search->client);
	}
	PG_END_TRY();
	if (next == position)
		note_readable(part);
	else
	{
		ereport(WARNING,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("records of partition %d of topic \"%s\" cannot be read and are left out",
						part->partition, part->topic_name),
				 errdetail("They have offsets " INT64_FORMAT " to " INT64_FORMAT ". %s.",
						   position, next - 1, search->reason)));
		sagg_kafka_add_loss(reader, part, position, next);
		part->position = next;
		part->complete = part->position >= part->range_end;
	}
	part->unreadable = false;
	pfree(search);
}

/*
 * Skip what cannot be read of the batch's ranges; then all partitions must be
 * assigned again.  Raises connection_failure if Kafka does not answer.
 */
void
sagg_kafka_skip_unreadable(SaggKafkaReader *reader)
{
	for (int i = 0; i < reader->npartitions; i++)
	{
		SaggPartition *part = reader->partitions[i];

		if (part->unreadable && part->range_end >= 0 && !part->complete)
			skip_unreadable(reader, part);
	}
}
