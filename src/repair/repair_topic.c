/*-------------------------------------------------------------------------
 *
 * repair_topic.c
 *	  Determines which part of what a stream has read the topic still holds,
 *	  and for which windows that is enough.
 *
 * Kafka says which offset of a partition is the first it has, but not which
 * event times came before it.  The stream's log gives a bound: no record
 * before that offset can have a greater event time than the greatest that the
 * stream had seen, in all partitions, when it reached the offset.  Windows
 * that start later have lost nothing.  All others count as incomplete, though
 * they may not be.
 *
 * Waits for Kafka, and holds no lock but the stream's meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "repair_internal.h"

/*
 * Check that this is the topic that the stream has read.  Returns the bounds
 * of its partitions.
 */
static SaggRange *
ask_for_bounds(const SaggRepair *repair, int *nbounds)
{
	const SaggProgress *progress = repair->progress;
	SaggReader *volatile reader = NULL;
	SaggRange  *volatile bounds = NULL;

	PG_TRY();
	{
		SaggRange  *last = palloc(sizeof(SaggRange) * Max(progress->nlast, 1));
		int			nlast = 0;
		const char *cluster_id;

		reader = sagg_reader_open(repair->stream->sources, false);
		cluster_id = sagg_reader_cluster_id(reader);
		if (strcmp(repair->origin->cluster_id, cluster_id) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_SAGG_OTHER_CLUSTER),
					 errmsg("the brokers belong to Kafka cluster \"%s\", the stream has read from cluster \"%s\"",
							cluster_id, repair->origin->cluster_id)));
		bounds = sagg_reader_bounds(reader, nbounds);
		for (int i = 0; i < progress->nlast; i++)
		{
			const SaggRange *bound = sagg_partition_find(bounds, *nbounds, &progress->last[i]);

			if (bound && progress->last[i].start >= bound->start &&
				progress->last[i].start < bound->end)
				last[nlast++] = progress->last[i];
		}
		sagg_reader_verify(reader, last, nlast);
	}
	PG_CATCH();
	{
		if (reader)
			sagg_reader_close(reader);
		PG_RE_THROW();
	}
	PG_END_TRY();
	sagg_reader_close(reader);
	return bounds;
}

/*
 * Records of a partition before "first" are gone, and the stream has read some
 * of them: determine which windows may have lost records.
 */
static void
reject_windows(SaggRepair *repair, const SaggRange *position, int64 first)
{
	SaggRange	bound = *position;
	int64		time;

	bound.start = bound.end = first;
	time = sagg_checkpoint_time_before(repair->checkpoint, &bound);
	for (int i = 0; i < repair->nwindows; i++)
	{
		SaggLateWindow *window = &repair->windows[i];

		/* event times are floored to milliseconds in the log */
		if (window->reason || (time != DT_NOEND && window->start >= time + 1000))
			continue;
		window->reason = psprintf("Kafka may not have all of its records any more: those before offset " INT64_FORMAT " of partition %d of topic \"%s\" are gone, and the stream had seen event times up to %s by then",
								  first, position->partition,
								  sagg_topic_name(position->topic),
								  time == DT_NOEND ? "any" : timestamptz_to_str(time));
	}
}

/*
 * Set the ranges to read, and the reasons why windows cannot be recomputed.
 */
void
sagg_repair_topic(SaggRepair *repair)
{
	const SaggProgress *progress = repair->progress;
	const SaggOrigin *origin = repair->origin;
	int			nbounds;
	SaggRange  *bounds = ask_for_bounds(repair, &nbounds);

	repair->ranges = palloc(sizeof(SaggRange) * Max(progress->npositions, 1));
	for (int i = 0; i < progress->npositions; i++)
	{
		const SaggRange *position = &progress->positions[i];
		const SaggRange *bound = sagg_partition_find(bounds, nbounds, position);
		const SaggRange *first = sagg_partition_find(origin->offsets, origin->noffsets, position);
		int64		begun = first ? first->start : 0;
		SaggRange	range = *position;

		if (begun >= position->start)
			continue;
		range.end = position->start;
		range.start = bound ? Max(begun, bound->start) : position->start;
		if (range.start > begun)
			reject_windows(repair, position, Min(range.start, position->start));
		if (range.start < range.end)
			repair->ranges[repair->nranges++] = range;
	}
}
