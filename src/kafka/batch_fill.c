/*-------------------------------------------------------------------------
 *
 * batch_fill.c
 *	  The reader: moves records that have arrived into the current batch.
 *
 * A range [start, end) of a partition is complete when the record before its
 * end was handed over, when one at or behind its end has arrived, or when
 * Kafka says that the partition ends there or later.  Gaps in between are
 * normal: compaction and transactions leave them (I4).
 *
 * No function of this file waits for Kafka, unless records have to be skipped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "kafka_internal.h"

/* see sagg_kafka_wake_fetcher */
#define PROD_INTERVAL_MS	10
#define PROD_WAIT_MS		1

/*
 * Allow the next wake-up of the descriptor.
 */
static void
drain_descriptor(SaggKafkaReader *reader)
{
	uint64		count;

	(void) !read(reader->fd, &count, sizeof(count));
}

/*
 * Returns whether there is a record that no batch has taken, or there are lost
 * offsets to skip.  Sends no request.  May raise what sagg_kafka_collect
 * raises.
 */
bool
sagg_kafka_has_records(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	bool		found = false;

	drain_descriptor(reader);
	sagg_kafka_check_rejected(reader);
	if (reader->fetch == NULL)
		return false;
	sagg_prefetch_halt(reader);

	/*
	 * poll all partitions that have no record, so that each sends a wake-up
	 * for new ones
	 */
	for (int i = 0; i < reader->npartitions; i++)
	{
		if (sagg_prefetched_first(reader->partitions[i]) >= 0 ||
			sagg_partition_peek(reader, reader->partitions[i]) != NULL ||
			reader->partitions[i]->lost || reader->partitions[i]->unreadable)
			found = true;
	}
	return found;
}

/*
 * Wake up the client that fetches.  A client whose queue was full checks it
 * only once a second, however fast the queue is emptied (librdkafka before
 * 2.2).  A request wakes it up; nobody waits for the answer. "at_once": a
 * batch is complete, and the client should fetch while the batch is executed,
 * otherwise the next batch waits.  Returns false if it is too soon after the
 * last one.
 *
 * Runs in the prefetch thread, too: raises no error, uses no memory of
 * PostgreSQL.
 */
bool
sagg_kafka_wake_fetcher(SaggKafkaReader *reader, bool at_once)
{
	const struct rd_kafka_metadata *metadata;
	TimestampTz now;

	if (rd_kafka_version() >= 0x02020000)
		return true;
	now = GetCurrentTimestamp();
	if (!at_once &&
		!TimestampDifferenceExceeds(reader->woken, now, PROD_INTERVAL_MS))
		return false;
	reader->woken = now;
	if (rd_kafka_metadata(reader->fetch->rk, 0, reader->fetch->topics[0], &metadata,
						  PROD_WAIT_MS) == RD_KAFKA_RESP_ERR_NO_ERROR)
		rd_kafka_metadata_destroy(metadata);
	return true;
}

/*
 * Returns whether the partition's queue may have been full: what was taken so
 * far (records and bytes) plus an estimate of what remains exceeds half its
 * limits.  Runs in the prefetch thread, too.
 */
bool
sagg_queue_was_full(const SaggKafkaReader *reader, const SaggPartition *part,
					int64 records, int64 bytes)
{
	if (records > 0)
	{
		int64		left = (int64) rd_kafka_queue_length(part->queue);

		bytes += left * (bytes / records);
		records += left;
	}
	return bytes >= reader->queue_bytes / 2 || records >= reader->queue_records / 2;
}

/*
 * Returns whether the reader has made progress since the last call: partitions
 * have, or librdkafka has fetched records.  Those may be of aborted
 * transactions, which it does not report.  Events of the connection, which
 * breaks and comes back, are not progress.
 */
bool
sagg_kafka_hears(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	uint64		before = reader->answers;
	uint64		positions = reader->positions_sum;

	reader->answers = reader->fetch ? sagg_arrivals_answers(reader->fetch->arrivals) : 0;
	reader->positions_sum = 0;
	for (int i = 0; i < reader->npartitions; i++)
		reader->positions_sum += (uint64) reader->partitions[i]->position;
	return reader->answers != before || reader->positions_sum != positions;
}

/*
 * Move the available records of the partition's range to the batch.  Returns
 * whether the queue may have been full.
 */
static bool
collect_partition(SaggKafkaReader *reader, SaggPartition *part)
{
	rd_kafka_message_t *message;
	int64		bytes = 0;
	int64		records = 0;
	int64		n;

	while ((n = sagg_prefetched_take(reader, part, part->range_end, &bytes)) > 0)
		records += n;
	part->complete = part->position >= part->range_end;
	if (!part->complete && sagg_prefetched_first(part) >= 0)
	{
		part->position = part->range_end;
		part->complete = true;
	}
	while (!part->complete && (message = sagg_partition_peek(reader, part)) != NULL)
	{
		if (message->offset >= part->range_end)
		{
			part->position = part->range_end;
			part->complete = true;
			break;
		}
		bytes += message->len + message->key_len;
		records++;
		sagg_message_add(reader->base.batch, part->topic, message);
		rd_kafka_message_destroy(sagg_partition_take(part));
		part->complete = part->position >= part->range_end;
		if (records % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	if (!part->complete && part->eof >= part->range_end)
	{
		part->position = part->range_end;
		part->complete = true;
	}
	if (records > 0)
		reader->fetch->trouble[0] = '\0';
	return sagg_queue_was_full(reader, part, records, bytes);
}

static bool
all_complete(const SaggKafkaReader *reader)
{
	for (int i = 0; i < reader->npartitions; i++)
	{
		if (reader->partitions[i]->range_end >= 0 && !reader->partitions[i]->complete)
			return false;
	}
	return true;
}

/*
 * Collect what has arrived.  Returns true when all ranges of the batch are
 * complete.  Otherwise call it again when the descriptor is readable, and once
 * a second at least.  Raises ERRCODE_SAGG_OFFSETS_GONE when records of the
 * ranges are not in Kafka any more, or data_corrupted when they cannot be
 * read; a reader that skips these asks Kafka where to continue, and waits for
 * the answer.
 */
bool
sagg_kafka_collect(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	bool		complete = true;
	bool		was_full = false;
	bool		stuck = false;

	if (reader->nranges == 0)
		return true;
	drain_descriptor(reader);
	sagg_kafka_check_rejected(reader);
	sagg_prefetch_halt(reader);
	for (int i = 0; i < reader->npartitions; i++)
	{
		SaggPartition *part = reader->partitions[i];

		if (part->range_end < 0 || part->complete)
			continue;
		if (collect_partition(reader, part))
			was_full = true;
		if (part->lost || part->unreadable)
			stuck = true;
		if (!part->complete)
			complete = false;
	}
	if (stuck)
	{
		sagg_kafka_skip_unreadable(reader);
		sagg_kafka_skip_lost(reader);
		sagg_kafka_assign_all(reader);
		return all_complete(reader);
	}
	if (was_full)
		(void) sagg_kafka_wake_fetcher(reader, complete);
	return complete;
}
