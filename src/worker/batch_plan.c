/*-------------------------------------------------------------------------
 *
 * batch_plan.c
 *	  Which offsets a micro-batch reads.
 *
 * READ starts with a plan: a bounded range per partition of the source's topics,
 * the watermark that decides which records are late, and the batch's time.  The
 * plan is committed to the log stream_agg.offsets before anything is executed -
 * without waiting for the disk, since the order of WAL keeps it before the batch's
 * own commit - and a retry runs the same plan, so replay is deterministic.
 *
 * Offsets that are gone stop the stream (I5), or are skipped where the option
 * on_data_loss says so: the plan then names them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "streams/streams.h"
#include "worker_internal.h"

/* the same doubtful end of a partition counts after so long */
#define END_DOUBT_MS	1000

/*
 * Add topics and partitions that the source has got since, from their first
 * offsets, to the positions of all runs.
 */
void
sagg_reading_add_partitions(SaggReading *reading, const SaggRange *bounds, int nbounds)
{
	bool		added = false;
	ListCell   *lc;

	foreach(lc, reading->runs)
	{
		SaggStreamRun *run = lfirst(lc);

		for (int i = 0; i < nbounds; i++)
		{
			if (sagg_run_add_position(run, &bounds[i]))
				added = run->new_partitions = true;
		}
	}
	if (added)
		sagg_reading_assign(reading, bounds, nbounds);
}

/*
 * Raise the error for offsets that the stream has to go on from and that are not in
 * Kafka, not any more or not yet.
 */
static void
raise_offsets_gone(const SaggStreamRun *run, const SaggRange *position,
				   const SaggRange *bounds)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_OFFSETS_GONE),
			 position->start < bounds->start ?
			 errmsg("offsets " INT64_FORMAT " to " INT64_FORMAT " of partition %d of topic \"%s\" are gone before the stream has read them",
					position->start, bounds->start - 1, position->partition,
					sagg_topic_name(position->topic)) :
			 errmsg("offset " INT64_FORMAT " of partition %d of topic \"%s\" is beyond the end of the partition",
					position->start, position->partition,
					sagg_topic_name(position->topic)),
			 errdetail("The partition has offsets " INT64_FORMAT " to " INT64_FORMAT " (exclusive).",
					   bounds->start, bounds->end),
			 run->progress->batch < 0 ?
			 errhint("The stream has read nothing yet: these are its starting_offsets. Use stream_agg.reset_stream to name others, then start the stream.") :
			 errhint("The topic's retention was too short for the time the stream did not run, or the topic was deleted and created again. "
					 "Set the stream's option on_data_loss to earliest to continue from the first offset that Kafka has, or reset the stream.")));
}

/*
 * Returns the doubt about a partition's end, NULL if there is none.
 */
static SaggEndDoubt *
find_doubt(const SaggReading *reading, const SaggRange *partition)
{
	ListCell   *lc;

	foreach(lc, reading->doubts)
	{
		SaggEndDoubt *doubt = lfirst(lc);

		if (doubt->topic == partition->topic && doubt->partition == partition->partition)
			return doubt;
	}
	return NULL;
}

/*
 * A partition ends before the position.  A broker that has just become its leader
 * may say so, or a wrong one, and on_data_loss would have all of it read again.  So
 * the answer counts only if a later one, which is asked for after END_DOUBT_MS,
 * says the same.  Returns whether it does not count yet.
 */
static bool
end_is_doubtful(SaggReading *reading, const SaggRange *bounds)
{
	TimestampTz now = GetCurrentTimestamp();
	SaggEndDoubt *doubt = find_doubt(reading, bounds);

	if (doubt && !doubt->settled && TimestampDifferenceExceeds(doubt->since, now, END_DOUBT_MS))
		return false;
	reading->doubtful = true;
	if (doubt && !doubt->settled)
		return true;
	if (doubt == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(reading->memory);

		doubt = palloc0(sizeof(SaggEndDoubt));
		doubt->topic = bounds->topic;
		doubt->partition = bounds->partition;
		reading->doubts = lappend(reading->doubts, doubt);
		MemoryContextSwitchTo(old);
	}
	doubt->settled = false;
	doubt->since = now;
	ereport(LOG,
			(errmsg("stream \"%s\": partition %d of topic \"%s\" is said to end at offset " INT64_FORMAT ", before what has been read, and its end is asked for again",
					sagg_stream_title(sagg_first_run(reading)->stream->name), bounds->partition,
					sagg_topic_name(bounds->topic), bounds->end)));
	return true;
}

/*
 * A partition does not end before the position any more.
 */
static void
settle_doubt(SaggReading *reading, const SaggRange *bounds)
{
	SaggEndDoubt *doubt = find_doubt(reading, bounds);

	if (doubt)
		doubt->settled = true;
}

/*
 * Returns where to go on with a partition; what is lost before that goes into the
 * plan.
 */
static int64
next_start(SaggReading *reading, SaggPlan *plan, const SaggRange *bounds)
{
	SaggStreamRun *first = sagg_first_run(reading);
	const SaggRange *position = sagg_partition_find(first->progress->positions,
													first->progress->npositions, bounds);
	bool		recreated = list_member_int(reading->recreated, bounds->topic);

	if (position->start >= bounds->start && position->start <= bounds->end &&
		(!recreated || position->start == bounds->start))
	{
		settle_doubt(reading, bounds);
		return position->start;
	}
	if (position->start > bounds->end && !recreated && end_is_doubtful(reading, bounds))
		return bounds->end;
	settle_doubt(reading, bounds);
	if (first->stream->options.on_data_loss == SAGG_LOSS_FAIL)
		raise_offsets_gone(first, position, bounds);
	plan->skipped[plan->nskipped] = *position;
	plan->skipped[plan->nskipped++].end = bounds->start;
	return bounds->start;
}

/*
 * Raise an error if a partition that has been read is not among "bounds".  Topics
 * do not lose partitions: one that has fewer was deleted and created again.  But a
 * broker may not have heard of new partitions yet, so the stream tries again.
 */
static void
check_exists(const SaggRange *position, const SaggRange *bounds, int nbounds)
{
	if (sagg_partition_find(unconstify(SaggRange *, bounds), nbounds, position))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("partition %d of topic \"%s\" does not exist in the Kafka cluster",
					position->partition, sagg_topic_name(position->topic)),
			 errdetail("The stream has read it up to offset " INT64_FORMAT ".",
					   position->start),
			 errhint("Topics do not lose partitions: this one was deleted and created again. "
					 "Use stream_agg.reset_stream to read it.")));
}

/*
 * While a record is searched: reduce "ranges" to the suspects, of which the next
 * batch takes half.  Returns how many ranges are left.  If none of the suspects is
 * there any more, the search is over.
 */
static int
keep_suspects(SaggProgress *progress, SaggRange *ranges, int n, int64 *limit)
{
	int64		offsets = 0;
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		SaggRange  *suspects = sagg_partition_find(progress->suspects,
												   progress->nsuspects, &ranges[i]);

		if (suspects == NULL)
			continue;
		ranges[kept] = ranges[i];
		ranges[kept].end = Min(ranges[i].end, suspects->end);
		if (ranges[kept].start >= ranges[kept].end)
			continue;
		offsets = sagg_add_saturated(offsets, ranges[kept].end - ranges[kept].start);
		kept++;
	}
	if (kept == 0)
	{
		progress->nsuspects = 0;
		return n;
	}
	*limit = Max(1, Min(*limit, offsets / 2));
	return kept;
}

/*
 * Shrink ranges, which are not empty, until they hold no more than "limit" offsets
 * together.  Offsets before the first one of a range that may have a record do not
 * count: the batch passes them at once.
 */
static void
share_offsets(SaggReading *reading, SaggRange *ranges, int n, int64 limit, int64 rotation)
{
	int64	   *starts = palloc(sizeof(int64) * Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		starts[i] = ranges[i].start;
		if (ranges[i].end - ranges[i].start > limit)
			ranges[i].start = Min(sagg_executors_gap_end(reading, &ranges[i]),
								  ranges[i].end - 1);
	}
	sagg_ranges_share(ranges, n, limit, rotation);
	for (int i = 0; i < n; i++)
	{
		if (ranges[i].end == ranges[i].start)
			ranges[i].end = starts[i];
		ranges[i].start = starts[i];
	}
	pfree(starts);
}

/*
 * Returns the most offsets that the trigger at hand may read next, and reduces
 * ranges to suspects, and to what it has left.
 */
static int64
offsets_limit(SaggReading *reading, SaggRange *ranges, int *n)
{
	const SaggStream *stream = sagg_first_run(reading)->stream;
	int64		limit = stream->max_offsets > 0 ?
	stream->max_offsets : sagg_max_records_per_batch;
	ListCell   *lc;

	foreach(lc, reading->runs)
	{
		SaggProgress *progress = ((SaggStreamRun *) lfirst(lc))->progress;

		if (progress->nsuspects > 0)
			*n = keep_suspects(progress, ranges, *n, &limit);
	}
	*n = sagg_unfinished_keep(sagg_first_run(reading), ranges, *n);
	return limit;
}

/*
 * Shrink ranges to those of the next batch, which has to be smaller than what the
 * trigger may read: batches follow without a pause until that is done.
 */
static void
share_by_size(SaggReading *reading, SaggRange *ranges, int n, int64 limit, int64 rotation)
{
	int64		bound = sagg_batch_size_bound(reading, limit);
	SaggRange  *all;

	if (bound < limit)
	{
		all = memcpy(palloc(sizeof(SaggRange) * Max(n, 1)), ranges, sizeof(SaggRange) * n);
		share_offsets(reading, all, n, limit, rotation);
		sagg_unfinished_note(reading, all, n);
		pfree(all);
	}
	share_offsets(reading, ranges, n, bound, rotation);
}

/*
 * Returns where the next batch ends at the latest in a partition: at the target,
 * if it has one, see sagg_batch_plan.
 */
static int64
last_end(const SaggRange *bound, const SaggRange *target, int ntarget)
{
	const SaggRange *end = sagg_partition_find(unconstify(SaggRange *, target), ntarget, bound);

	return end ? Min(bound->end, end->start) : bound->end;
}

/*
 * Put the ranges of the next batch into "plan", in the current context.  A
 * partition with a skip has a range in any case, perhaps an empty one.
 */
static void
next_ranges(SaggReading *reading, SaggPlan *plan, const SaggRange *bounds,
			int nbounds, const SaggRange *target, int ntarget)
{
	const SaggProgress *progress = sagg_first_run(reading)->progress;
	SaggRange  *ranges = palloc(sizeof(SaggRange) * Max(nbounds, 1));
	int			n = 0;

	plan->ranges = palloc(sizeof(SaggRange) * Max(nbounds, 1));
	plan->skipped = palloc(sizeof(SaggRange) * Max(nbounds, 1));
	for (int i = 0; i < nbounds; i++)
	{
		int64		start = next_start(reading, plan, &bounds[i]);
		int64		end = last_end(&bounds[i], target, ntarget);

		if (start >= end)
			continue;
		ranges[n] = bounds[i];
		ranges[n].start = start;
		ranges[n++].end = end;
	}
	for (int i = 0; i < progress->npositions; i++)
		check_exists(&progress->positions[i], bounds, nbounds);
	if (!sagg_reading_replaces(reading))
	{
		int64		limit = offsets_limit(reading, ranges, &n);

		share_by_size(reading, ranges, n, limit, plan->batch);
	}
	for (int i = 0; i < nbounds; i++)
	{
		SaggRange  *range = sagg_partition_find(ranges, n, &bounds[i]);
		SaggRange  *skip = sagg_partition_find(plan->skipped, plan->nskipped, &bounds[i]);

		if (range && range->end > range->start)
			plan->ranges[plan->nranges++] = *range;
		else if (skip)
		{
			plan->ranges[plan->nranges] = *skip;
			plan->ranges[plan->nranges++].start = skip->end;
		}
	}
}

/*
 * Record where partitions begin that the source has got since.
 */
static void
record_new_partitions(SaggStreamRun *run)
{
	SaggOrigin *origin = sagg_checkpoint_origin(run->checkpoint);

	origin->offsets = run->progress->positions;
	origin->noffsets = run->progress->npositions;
	sagg_checkpoint_set_origin(run->checkpoint, origin);
}

/*
 * Set which partitions a plan, complete otherwise, leaves behind.  "bounds" are as
 * for sagg_batch_plan.
 */
static void
find_behind(const SaggStreamRun *run, SaggPlan *plan,
			const SaggRange *bounds, int nbounds)
{
	const SaggProgress *progress = run->progress;
	SaggRange  *unread = palloc(sizeof(SaggRange) * Max(nbounds, 1));

	for (int i = 0; i < nbounds; i++)
	{
		unread[i] = bounds[i];
		unread[i].start = sagg_partition_find(progress->positions, progress->npositions,
											  &bounds[i])->start;
	}
	plan->nbehind = 0;
	plan->behind = NULL;
	sagg_plan_behind(run->stream, plan, unread, nbounds);
	pfree(unread);
}

/*
 * Returns the plan of one run, in the current context: the ranges of "plan", and
 * what is the run's own.
 */
static SaggPlan *
own_plan(const SaggStreamRun *run, const SaggPlan *plan,
		 const SaggRange *bounds, int nbounds)
{
	const SaggProgress *progress = run->progress;
	SaggPlan   *own = palloc(sizeof(SaggPlan));

	*own = *plan;
	own->batch = progress->batch + 1;
	own->watermark = progress->watermark;
	own->nsuspects = progress->nsuspects;
	if (own->nsuspects > 0)
	{
		own->suspects = palloc(sizeof(SaggRange) * own->nsuspects);
		memcpy(own->suspects, progress->suspects, sizeof(SaggRange) * own->nsuspects);
	}
	sagg_executors_plan(run->reading, own);
	sagg_plan_quiet(run, own, bounds, nbounds);
	find_behind(run, own, bounds, nbounds);
	return own;
}

/*
 * Make the plans of all runs.  Returns whether there is anything to do, perhaps
 * only a window to close by the clock.
 */
static bool
make_plans(SaggReading *reading, const SaggRange *bounds, int nbounds,
		   const SaggRange *target, int ntarget)
{
	SaggPlan	plan = {0};
	bool		closes = false;
	ListCell   *lc;

	plan.batch = sagg_first_run(reading)->progress->batch + 1;
	next_ranges(reading, &plan, bounds, nbounds, target, ntarget);
	plan.batch_time = GetCurrentTimestamp();
	foreach(lc, reading->runs)
	{
		SaggStreamRun *run = lfirst(lc);

		run->plan = own_plan(run, &plan, bounds, nbounds);
		closes |= sagg_idle_closes(run, run->plan);
	}
	if (plan.nranges > 0 || sagg_reading_replaces(reading) || closes)
		return true;
	foreach(lc, reading->runs)
		((SaggStreamRun *) lfirst(lc))->plan = NULL;
	return false;
}

/*
 * Write the plans of all runs into the log, in one transaction.
 */
static void
commit_plans(SaggReading *reading)
{
	bool		durable = false;
	ListCell   *lc;

	foreach(lc, reading->runs)
		durable |= sagg_poison_durable_plan(lfirst(lc));
	sagg_plan_transaction(sagg_first_run(reading), durable);
	MemoryContextSwitchTo(reading->batch_memory);
	foreach(lc, reading->runs)
	{
		SaggStreamRun *run = lfirst(lc);

		sagg_checkpoint_plan(run->checkpoint, run->plan);
		if (run->new_partitions)
			record_new_partitions(run);
	}
	sagg_plan_commit();
	foreach(lc, reading->runs)
		((SaggStreamRun *) lfirst(lc))->new_partitions = false;
}

/*
 * Plan the next batch of all runs over what lies within "bounds" (low and high
 * watermark by partition) and commit the plans.  Sets run->plan, in batch memory.
 * Returns false if there is nothing to read, and no window to close by the clock.
 * A batch that replaces rows of a sink reads all there is.
 *
 * "target": of some partitions nothing is read from these "start"s on, though the
 * partitions go on to their bounds: whether one is behind, or quiet, is told by
 * those.
 */
bool
sagg_batch_plan(SaggReading *reading, const SaggRange *bounds, int nbounds,
				const SaggRange *target, int ntarget)
{
	MemoryContext old = MemoryContextSwitchTo(reading->batch_memory);
	bool		planned;

	reading->doubtful = false;
	sagg_run_check_topics(sagg_first_run(reading), bounds, nbounds);
	sagg_reading_add_partitions(reading, bounds, nbounds);
	planned = make_plans(reading, bounds, nbounds, target, ntarget);
	if (planned)
	{
		commit_plans(reading);
		reading->recreated = NIL;
	}
	MemoryContextSwitchTo(old);
	if (planned)
		SAGG_FAILPOINT("plan.committed");
	return planned;
}
