/*-------------------------------------------------------------------------
 *
 * data_loss.c
 *	  Handles offsets that are gone in the middle of a batch, if the stream's
 *	  option on_data_loss says to continue without them.
 *
 * A plan is made of offsets that Kafka has, but retention may remove them
 * before they are read, usually when a plan is run again after a long time.
 * Then the batch has what is left of its ranges, and reports what it lacks, so
 * that its commit says so (I5).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "kafka_internal.h"

/*
 * Returns the ranges that the current batch lacks of its plan; owned by the
 * reader, until sagg_kafka_release.
 */
const SaggRange *
sagg_kafka_losses(SaggReader *base, int *nlosses)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;

	*nlosses = reader->nlosses;
	return reader->losses;
}

/*
 * Forget what the batch lacks, when it is released or begun.
 */
void
sagg_kafka_forget_losses(SaggKafkaReader *reader)
{
	if (reader->losses)
		pfree(reader->losses);
	reader->losses = NULL;
	reader->nlosses = 0;
}

/*
 * Note that the batch lacks the offsets from "start" up to, not including,
 * "end".
 */
void
sagg_kafka_add_loss(SaggKafkaReader *reader, const SaggPartition *part, int64 start, int64 end)
{
	SaggRange  *loss;

	reader->losses = reader->losses == NULL ?
		MemoryContextAlloc(reader->base.memory, sizeof(SaggRange)) :
		repalloc(reader->losses, sizeof(SaggRange) * (reader->nlosses + 1));
	loss = &reader->losses[reader->nlosses++];
	loss->topic = part->topic;
	loss->partition = part->partition;
	loss->start = start;
	loss->end = end;
}

/*
 * Continue a partition's range at the first offset that exists.  If the range
 * begins behind the end of the partition, there is none: the range is done,
 * and the next plan handles it.
 */
static void
skip_lost(SaggKafkaReader *reader, SaggPartition *part, const SaggRange *bounds)
{
	int64		next = part->range_end;

	if (part->position >= bounds->start && part->position <= bounds->end)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not read partition %d of topic \"%s\" from offset " INT64_FORMAT,
						part->partition, part->topic_name, part->position),
				 errdetail("Kafka rejects the offset, and says that it has offsets " INT64_FORMAT " to " INT64_FORMAT " (exclusive).",
						   bounds->start, bounds->end)));
	if (part->position < bounds->start)
		next = Min(next, bounds->start);
	sagg_kafka_add_loss(reader, part, part->position, next);
	part->position = next;
	part->complete = part->position >= part->range_end;
}

static bool
any_lost(const SaggKafkaReader *reader)
{
	for (int i = 0; i < reader->npartitions; i++)
	{
		if (reader->partitions[i]->lost)
			return true;
	}
	return false;
}

/*
 * Skip what the lost partitions of the batch lack; then all partitions must be
 * assigned again.  Waits for Kafka.
 */
void
sagg_kafka_skip_lost(SaggKafkaReader *reader)
{
	int			nbounds;
	SaggRange  *bounds;

	if (!any_lost(reader))
		return;
	bounds = sagg_kafka_bounds(&reader->base, &nbounds);
	for (int i = 0; i < reader->npartitions; i++)
	{
		SaggPartition *part = reader->partitions[i];
		SaggRange	key = {.topic = part->topic, .partition = part->partition};
		SaggRange  *bound;

		if (!part->lost || part->range_end < 0)
			continue;
		bound = sagg_partition_find(bounds, nbounds, &key);
		if (bound == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("partition %d of topic \"%s\" does not exist in the Kafka cluster",
							part->partition, part->topic_name)));
		skip_lost(reader, part, bound);
	}
	pfree(bounds);
}
