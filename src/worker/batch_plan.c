/*-------------------------------------------------------------------------
 *
 * batch_plan.c
 *	  Which offsets a micro-batch reads.
 *
 * READ starts with a plan: a range per partition, bounded, the watermark that
 * decides what is late, and the batch's time.  It is committed to the log
 * stream_agg.offsets before anything is executed - without waiting for the
 * disk, since WAL order keeps it before the batch's own commit - and a retry
 * runs the very same plan, so replay is deterministic.
 *
 * Offsets that are no longer there stop the stream (I5).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "worker_internal.h"

static SaggRange *
find_partition(SaggRange *ranges, int nranges, int32 partition)
{
	for (int i = 0; i < nranges; i++)
	{
		if (ranges[i].partition == partition)
			return &ranges[i];
	}
	return NULL;
}

/*
 * Add a partition to the stream's positions, in order.
 */
static void
add_position(SaggSession *session, int32 partition, int64 start)
{
	SaggProgress *progress = session->progress;
	int			i;

	if (progress->npositions >= sagg_max_partitions)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("topic \"%s\" has more than %d partitions",
						sagg_reader_topic(session->reader), sagg_max_partitions),
				 errhint("Increase stream_agg.max_partitions.")));
	if (progress->npositions == 0)
		progress->positions = MemoryContextAlloc(session->memory, sizeof(SaggRange));
	else
		progress->positions = repalloc(progress->positions,
									   sizeof(SaggRange) * (progress->npositions + 1));
	for (i = progress->npositions; i > 0 &&
		 progress->positions[i - 1].partition > partition; i--)
		progress->positions[i] = progress->positions[i - 1];
	progress->positions[i].partition = partition;
	progress->positions[i].start = progress->positions[i].end = start;
	progress->npositions++;
}

/*
 * Is the topic still the one that has been read?  Records that are gone need
 * not be asked for.
 */
static void
verify_last_records(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	const SaggProgress *progress = session->progress;
	SaggRange  *last = palloc(sizeof(SaggRange) * Max(progress->nlast, 1));
	int			n = 0;

	for (int i = 0; i < progress->nlast; i++)
	{
		const SaggRange *one = &progress->last[i];
		const SaggRange *bound = find_partition(unconstify(SaggRange *, bounds), nbounds, one->partition);

		if (bounds == NULL ||
			(bound && one->start >= bound->start && one->start < bound->end))
			last[n++] = *one;
	}
	sagg_reader_verify(session->reader, last, n);
	pfree(last);
}

/*
 * Is it still the cluster that the stream has read from?  Asked before the
 * topic, which another cluster need not have.
 */
static void
check_cluster(SaggSession *session, const char *cluster_id)
{
	SaggOrigin *origin;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	origin = sagg_checkpoint_origin(session->checkpoint);
	if (origin->cluster_id && strcmp(origin->cluster_id, cluster_id) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_OTHER_CLUSTER),
				 errmsg("the brokers belong to Kafka cluster \"%s\", the stream has read from cluster \"%s\"",
						cluster_id, origin->cluster_id),
				 errdetail("Offsets of one cluster mean nothing in another."),
				 errhint("Point the server's brokers at the former cluster, or drop the stream and create it anew.")));
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(session->memory);
}

/*
 * First contact of a stream with its topic: which cluster, from which offsets.
 * In later sessions: is it still that cluster?  Leaves the reader assigned to
 * the stream's positions.  Waits for Kafka.
 */
void
sagg_session_origin(SaggSession *session)
{
	SaggOrigin *origin;
	const char *cluster_id;
	const char *topic = sagg_reader_topic(session->reader);
	SaggRange  *bounds;
	int			nbounds;

	cluster_id = sagg_reader_cluster_id(session->reader);
	check_cluster(session, cluster_id);
	bounds = sagg_reader_bounds(session->reader, &nbounds);

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(session->memory);
	origin = sagg_checkpoint_origin(session->checkpoint);
	if (origin->topic && strcmp(origin->topic, topic) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
				 errmsg("the source now reads topic \"%s\", the stream has read topic \"%s\"",
						topic, origin->topic),
				 errhint("Set the source's option topic back, or drop the stream and create it anew.")));
	if (origin->cluster_id == NULL)
	{
		bool		latest = strcmp(session->stream->starting_offsets, "latest") == 0;

		origin->topic = pstrdup(topic);
		origin->cluster_id = pstrdup(cluster_id);
		origin->noffsets = nbounds;
		origin->offsets = palloc(sizeof(SaggRange) * Max(nbounds, 1));
		for (int i = 0; i < nbounds; i++)
		{
			origin->offsets[i].partition = bounds[i].partition;
			origin->offsets[i].start = origin->offsets[i].end =
				latest ? bounds[i].end : bounds[i].start;
		}
		sagg_checkpoint_set_origin(session->checkpoint, origin);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(session->memory);

	for (int i = 0; i < origin->noffsets; i++)
	{
		if (!find_partition(session->progress->positions,
							session->progress->npositions,
							origin->offsets[i].partition))
			add_position(session, origin->offsets[i].partition,
						 origin->offsets[i].start);
	}
	verify_last_records(session, bounds, nbounds);
	pfree(bounds);
	sagg_reader_assign(session->reader, session->progress->positions,
					   session->progress->npositions);
}

/*
 * After a connection was broken, and where it looks so, the topic may be another one under its name:
 * see last_record.c.  "bounds" are as for sagg_batch_plan, if they are known.
 */
void
sagg_session_verify(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	if (sagg_reader_was_broken(session->reader) ||
		(bounds && sagg_reader_suspects(session->reader, session->progress->last,
										session->progress->nlast)))
		verify_last_records(session, bounds, nbounds);
}

/*
 * The last record of each partition after the batch that was just read; "n" of
 * them, in the current context.
 */
SaggRange *
sagg_last_records(SaggSession *session, const SaggPlan *plan, int *n)
{
	const SaggProgress *progress = session->progress;
	SaggRange  *last = palloc(sizeof(SaggRange) * (progress->nlast + plan->nranges + 1));

	*n = progress->nlast;
	if (progress->nlast > 0)
		memcpy(last, progress->last, sizeof(SaggRange) * progress->nlast);
	for (int i = 0; i < plan->nranges; i++)
	{
		SaggRange	one;
		SaggRange  *place;

		if (!sagg_reader_last_record(session->reader, &plan->ranges[i], &one))
			continue;
		place = find_partition(last, *n, one.partition);
		if (place == NULL)
			place = &last[(*n)++];
		*place = one;
	}
	return last;
}

/*
 * Partitions the topic has got since: from their first offset.  Returns
 * whether there are any.
 */
static bool
add_new_partitions(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	bool		added = false;

	for (int i = 0; i < nbounds; i++)
	{
		if (find_partition(session->progress->positions,
						   session->progress->npositions, bounds[i].partition))
			continue;
		add_position(session, bounds[i].partition, bounds[i].start);
		added = true;
	}
	if (added)
		sagg_reader_assign(session->reader, session->progress->positions,
						   session->progress->npositions);
	return added;
}

/*
 * Are the offsets a stream has to go on from still (or yet) in Kafka?
 */
static void
check_position(SaggSession *session, const SaggRange *position,
			   const SaggRange *bounds)
{
	if (position->start >= bounds->start && position->start <= bounds->end)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_OFFSETS_GONE),
			 position->start < bounds->start ?
			 errmsg("offsets " INT64_FORMAT " to " INT64_FORMAT " of partition %d of topic \"%s\" are gone before the stream has read them",
					position->start, bounds->start - 1, position->partition,
					sagg_reader_topic(session->reader)) :
			 errmsg("offset " INT64_FORMAT " of partition %d of topic \"%s\" is beyond the end of the partition",
					position->start, position->partition,
					sagg_reader_topic(session->reader)),
			 errdetail("Kafka has offsets " INT64_FORMAT " to " INT64_FORMAT " (exclusive).",
					   bounds->start, bounds->end),
			 errhint("The topic's retention was too short for the time the stream did not run, or the topic was made anew. "
					 "Drop the stream and create it anew to go on without these records.")));
}

/*
 * Topics do not lose partitions; one that has fewer was made anew.  That may
 * also be a broker that has not heard of new ones yet, so it is tried again.
 */
static void
check_exists(SaggSession *session, const SaggRange *position,
			 const SaggRange *bounds, int nbounds)
{
	if (find_partition(unconstify(SaggRange *, bounds), nbounds, position->partition))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("partition %d of topic \"%s\" does not exist in the Kafka cluster",
					position->partition, sagg_reader_topic(session->reader)),
			 errdetail("The stream has read it up to offset " INT64_FORMAT ".",
					   position->start),
			 errhint("Topics do not lose partitions: this one was made anew. "
					 "Drop the stream and create it anew to read it.")));
}

/*
 * The ranges of the next batch, in the current context; returns how many.
 */
static int
next_ranges(SaggSession *session, const SaggRange *bounds, int nbounds,
			int64 batch, SaggRange **result)
{
	SaggRange  *ranges = palloc(sizeof(SaggRange) * Max(nbounds, 1));
	int64		limit = session->stream->max_offsets;
	int			n = 0;
	int			kept = 0;

	for (int i = 0; i < nbounds; i++)
	{
		SaggRange  *position = find_partition(session->progress->positions,
											  session->progress->npositions,
											  bounds[i].partition);

		check_position(session, position, &bounds[i]);
		if (position->start >= bounds[i].end)
			continue;
		ranges[n].partition = bounds[i].partition;
		ranges[n].start = position->start;
		ranges[n].end = bounds[i].end;
		n++;
	}
	for (int i = 0; i < session->progress->npositions; i++)
		check_exists(session, &session->progress->positions[i], bounds, nbounds);
	sagg_ranges_share(ranges, n, limit > 0 ? limit : sagg_max_records_per_batch,
					  batch);
	for (int i = 0; i < n; i++)
	{
		if (ranges[i].end > ranges[i].start)
			ranges[kept++] = ranges[i];
	}
	*result = ranges;
	return kept;
}

/*
 * Plan the next batch over what lies within "bounds" (low and high watermark
 * by partition) and commit the plan.  Returns NULL if there is nothing to
 * read.  The plan is allocated in the session's batch memory.
 */
SaggPlan *
sagg_batch_plan(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	SaggProgress *progress = session->progress;
	MemoryContext old = MemoryContextSwitchTo(session->batch_memory);
	bool		added = add_new_partitions(session, bounds, nbounds);
	SaggPlan   *plan = palloc0(sizeof(SaggPlan));

	plan->batch = progress->batch + 1;
	plan->watermark = progress->watermark;
	plan->nranges = next_ranges(session, bounds, nbounds, plan->batch, &plan->ranges);
	if (plan->nranges == 0)
	{
		MemoryContextSwitchTo(old);
		return NULL;
	}
	plan->batch_time = GetCurrentTimestamp();

	StartTransactionCommand();
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(session->batch_memory);
	sagg_session_check_stream(session);
	sagg_checkpoint_plan(session->checkpoint, plan);
	if (added)
	{
		SaggOrigin *origin = sagg_checkpoint_origin(session->checkpoint);

		for (int i = 0; i < nbounds; i++)
		{
			if (find_partition(origin->offsets, origin->noffsets, bounds[i].partition))
				continue;
			origin->offsets = origin->noffsets == 0 ? palloc(sizeof(SaggRange)) :
				repalloc(origin->offsets, sizeof(SaggRange) * (origin->noffsets + 1));
			origin->offsets[origin->noffsets++] = bounds[i];
		}
		sagg_checkpoint_set_origin(session->checkpoint, origin);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(old);
	SAGG_FAILPOINT("plan.committed");
	return plan;
}
