/*-------------------------------------------------------------------------
 *
 * trial_read.c
 *	  READ for a batch that is only tried, in the session of a user.
 *
 * The records are those that the stream's next batch would read, or the first
 * of a query without a stream.  It waits for Kafka within the transaction, as
 * every scan of a source does.  No offset is committed anywhere, and the reader
 * is closed with its memory context, at the latest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "inspect_internal.h"
#include "event_time/event_time.h"
#include "read/read.h"
#include "streams/streams.h"

struct SaggTrialRead
{
	MemoryContextCallback callback;
	SaggReader *reader;
	int			npartitions;
	SaggRange  *partitions;		/* all that exist */
};

static void
end_trial(void *arg)
{
	SaggTrialRead *trial = (SaggTrialRead *) arg;

	if (trial->reader)
		sagg_reader_close(trial->reader);
	trial->reader = NULL;
}

/*
 * Returns the position of a stream in a partition, of which Kafka has
 * "bounds".
 */
static int64
next_offset(const SaggInspection *inspection, const SaggOrigin *origin,
			const SaggRange *bounds, bool loses_nothing)
{
	const SaggProgress *progress = inspection->progress;
	const SaggRange *position = sagg_partition_find(progress->positions,
													progress->npositions, bounds);

	if (position == NULL)
		position = sagg_partition_find(origin->offsets, origin->noffsets, bounds);
	if (position == NULL)
		return bounds->start;
	if (position->start >= bounds->start && position->start <= bounds->end)
		return position->start;
	if (position->start > bounds->end && loses_nothing)
		return bounds->end;
	ereport(inspection->stream->options.on_data_loss == SAGG_LOSS_FAIL ? ERROR : WARNING,
			(errcode(ERRCODE_SAGG_OFFSETS_GONE),
			 errmsg("offset " INT64_FORMAT " of partition %d of topic \"%s\", from which stream \"%s\" has to continue, is not in Kafka",
					position->start, bounds->partition, sagg_topic_name(bounds->topic),
					sagg_stream_title(inspection->stream->name)),
			 errdetail("The partition has offsets " INT64_FORMAT " to " INT64_FORMAT " (exclusive).",
					   bounds->start, bounds->end)));
	return bounds->start;
}

/*
 * Returns what there is to read, in the current context; waits for Kafka.
 */
static SaggRange *
ranges_to_read(const SaggInspection *inspection, SaggReader *reader, int *n)
{
	SaggOrigin *origin = inspection->checkpoint ?
	sagg_checkpoint_origin(inspection->checkpoint) : NULL;
	SaggRange  *ranges;

	if (origin == NULL || origin->cluster_id == NULL)
		return sagg_first_ranges(reader, inspection->stream->starting_offsets, n);
	if (strcmp(origin->cluster_id, sagg_reader_cluster_id(reader)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_OTHER_CLUSTER),
				 errmsg("the brokers belong to Kafka cluster \"%s\", the stream has read from cluster \"%s\"",
						sagg_reader_cluster_id(reader), origin->cluster_id)));
	ranges = sagg_reader_bounds(reader, n);
	for (int i = 0; i < *n; i++)
		ranges[i].start = next_offset(inspection, origin, &ranges[i],
									  sagg_reader_loses_nothing(reader));
	return ranges;
}

/*
 * Returns ranges that are not empty, of at most "limit" records together.
 */
static int
bound_ranges(SaggRange *ranges, int n, int64 limit, int64 batch)
{
	int			kept = 0;
	int			nonempty = 0;

	for (int i = 0; i < n; i++)
	{
		if (ranges[i].start < ranges[i].end)
			ranges[kept++] = ranges[i];
	}
	if (kept > 0)
		sagg_ranges_share(ranges, kept, limit, batch);
	for (int i = 0; i < kept; i++)
	{
		if (ranges[i].start < ranges[i].end)
			ranges[nonempty++] = ranges[i];
	}
	return nonempty;
}

/*
 * Read a batch of at most "limit" records, as the stream's owner, who is the
 * current user.  Its ranges go to inspection->plan.  The result lives in the
 * current context until sagg_trial_end.
 */
SaggTrialRead *
sagg_trial_read(SaggInspection *inspection, int64 limit)
{
	SaggTrialRead *trial = palloc0(sizeof(SaggTrialRead));
	SaggPlan   *plan = inspection->plan;
	int			n;

	trial->callback.func = end_trial;
	trial->callback.arg = trial;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &trial->callback);
	trial->reader = sagg_reader_open(inspection->stream->sources, false);
	sagg_reader_skips_unreadable(trial->reader, inspection->stream->options.on_error != SAGG_FAIL);
	plan->ranges = ranges_to_read(inspection, trial->reader, &n);
	trial->npartitions = n;
	trial->partitions = palloc(sizeof(SaggRange) * Max(n, 1));
	memcpy(trial->partitions, plan->ranges, sizeof(SaggRange) * n);
	plan->nranges = bound_ranges(plan->ranges, n, limit, plan->batch);
	sagg_reader_assign(trial->reader, plan->ranges, plan->nranges);
	sagg_reader_begin(trial->reader, plan->ranges, plan->nranges);
	sagg_reader_await(trial->reader);
	(void) sagg_reader_look_up_schemas(trial->reader, true);
	return trial;
}

/*
 * Returns the batch that was read; it lives until sagg_trial_end.
 */
SaggBatch *
sagg_trial_batch(SaggTrialRead *trial)
{
	return sagg_reader_batch(trial->reader);
}

/*
 * Returns event time by partition before the batch, "ntimes" of them in the current
 * context, and sets the partitions that the plan leaves behind.
 */
SaggPartitionTime *
sagg_trial_times(SaggTrialRead *trial, SaggInspection *inspection, int *ntimes)
{
	const SaggProgress *progress = inspection->progress;

	sagg_plan_behind(inspection->stream, inspection->plan, trial->partitions, trial->npartitions);
	return sagg_partition_times(inspection->stream, trial->partitions, trial->npartitions,
								progress->times, progress->ntimes,
								inspection->plan->batch_time, ntimes);
}

/*
 * End the reading: scans of the source no longer read the batch, and the reader is
 * closed.
 */
void
sagg_trial_end(SaggTrialRead *trial)
{
	end_trial(trial);
}
