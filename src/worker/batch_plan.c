/*-------------------------------------------------------------------------
 *
 * batch_plan.c
 *	  Which offsets a micro-batch reads.
 *
 * READ starts with a plan: a range per partition of the source's topics,
 * bounded, the watermark that decides what is late, and the batch's time.  It is committed to the log
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

/*
 * Add a partition to the stream's positions, in order, if it is not there.
 * Returns whether it was added.
 */
static bool
add_position(SaggSession *session, const SaggRange *first)
{
	SaggProgress *progress = session->progress;
	int			i;

	if (sagg_partition_find(progress->positions, progress->npositions, first))
		return false;
	if (progress->npositions >= sagg_max_partitions)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("there are more than %d partitions of %s",
						sagg_max_partitions, sagg_reader_subject(session->reader)),
				 errhint("Increase stream_agg.max_partitions.")));
	if (progress->npositions == 0)
		progress->positions = MemoryContextAlloc(session->memory, sizeof(SaggRange));
	else
		progress->positions = repalloc(progress->positions,
									   sizeof(SaggRange) * (progress->npositions + 1));
	for (i = progress->npositions; i > 0 &&
		 sagg_partition_compare(&progress->positions[i - 1], first) > 0; i--)
		progress->positions[i] = progress->positions[i - 1];
	progress->positions[i] = *first;
	progress->positions[i].end = first->start;
	progress->npositions++;
	return true;
}

/*
 * A stream goes on only while its source has all topics it has read.
 */
static void
check_source(SaggSession *session, const SaggOrigin *origin)
{
	const char *topic = sagg_reader_one_topic(session->reader);

	for (int i = 0; i < origin->noffsets; i++)
	{
		int32		read = origin->offsets[i].topic;

		if (sagg_reader_has_topic(session->reader, read))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
				 topic ?
				 errmsg("the source now reads topic \"%s\", the stream has read topic \"%s\"",
						topic, sagg_topic_name(read)) :
				 errmsg("the source does not read topic \"%s\" any more, which the stream has read",
						sagg_topic_name(read)),
				 errhint("Set the source's option %s back, or drop the stream and create it anew.",
						 topic ? "topic" : "topics or topic_pattern")));
	}
}

/*
 * Are the topics that the stream has read still there?  A pattern has those
 * that are, so a topic that is gone is not missed otherwise.
 */
static void
check_topics(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	const SaggProgress *progress = session->progress;

	for (int i = 0; i < progress->npositions; i++)
	{
		int32		topic = progress->positions[i].topic;

		if ((i > 0 && topic == progress->positions[i - 1].topic) ||
			sagg_topic_among(bounds, nbounds, topic))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("topic \"%s\" does not exist in the Kafka cluster",
						sagg_topic_name(topic)),
				 errdetail("The stream has read it.")));
	}
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
		const SaggRange *bound = sagg_partition_find(unconstify(SaggRange *, bounds), nbounds, one);

		if (bounds == NULL ||
			(bound && one->start >= bound->start && one->start < bound->end))
			last[n++] = *one;
	}
	sagg_reader_verify(session->reader, last, n);
	pfree(last);
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
	const char *topic = sagg_reader_one_topic(session->reader);
	SaggRange  *bounds;
	int			nbounds;

	cluster_id = sagg_reader_cluster_id(session->reader);
	bounds = sagg_reader_bounds(session->reader, &nbounds);

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(session->memory);
	origin = sagg_checkpoint_origin(session->checkpoint);
	check_source(session, origin);
	if (origin->cluster_id == NULL)
	{
		bool		latest = strcmp(session->stream->starting_offsets, "latest") == 0;

		origin->topic = topic ? pstrdup(topic) : NULL;
		origin->cluster_id = pstrdup(cluster_id);
		origin->noffsets = nbounds;
		origin->offsets = palloc(sizeof(SaggRange) * Max(nbounds, 1));
		for (int i = 0; i < nbounds; i++)
		{
			origin->offsets[i] = bounds[i];
			origin->offsets[i].start = origin->offsets[i].end =
				latest ? bounds[i].end : bounds[i].start;
		}
		sagg_checkpoint_set_origin(session->checkpoint, origin);
	}
	else if (strcmp(origin->cluster_id, cluster_id) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_OTHER_CLUSTER),
				 errmsg("the brokers belong to Kafka cluster \"%s\", the stream has read from cluster \"%s\"",
						cluster_id, origin->cluster_id),
				 errdetail("Offsets of one cluster mean nothing in another."),
				 errhint("Point the server's brokers at the former cluster, or drop the stream and create it anew.")));
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(session->memory);

	for (int i = 0; i < origin->noffsets; i++)
		(void) add_position(session, &origin->offsets[i]);
	check_topics(session, bounds, nbounds);
	verify_last_records(session, bounds, nbounds);
	pfree(bounds);
	sagg_reader_assign(session->reader, session->progress->positions,
					   session->progress->npositions);
	sagg_reader_commit(session->reader, session->progress->positions,
					   session->progress->npositions);
}

/*
 * After a connection was broken the topic may be another one under its name:
 * see last_record.c.  "bounds" are as for sagg_batch_plan, if they are known.
 */
void
sagg_session_verify(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	if (sagg_reader_was_broken(session->reader))
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
		place = sagg_partition_find(last, *n, &one);
		if (place == NULL)
			place = &last[(*n)++];
		*place = one;
	}
	if (*n > 1)
		qsort(last, *n, sizeof(SaggRange), sagg_partition_order);
	return last;
}

/*
 * Topics and partitions the source has got since: from their first offset.
 */
static void
add_new_partitions(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	bool		added = false;

	for (int i = 0; i < nbounds; i++)
		added |= add_position(session, &bounds[i]);
	if (!added)
		return;
	session->new_partitions = true;
	sagg_reader_assign(session->reader, session->progress->positions,
					   session->progress->npositions);
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
					sagg_topic_name(position->topic)) :
			 errmsg("offset " INT64_FORMAT " of partition %d of topic \"%s\" is beyond the end of the partition",
					position->start, position->partition,
					sagg_topic_name(position->topic)),
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
	if (sagg_partition_find(unconstify(SaggRange *, bounds), nbounds, position))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("partition %d of topic \"%s\" does not exist in the Kafka cluster",
					position->partition, sagg_topic_name(position->topic)),
			 errdetail("The stream has read it up to offset " INT64_FORMAT ".",
					   position->start),
			 errhint("Topics do not lose partitions: this one was made anew. "
					 "Drop the stream and create it anew to read it.")));
}

/*
 * While a record is searched: of "ranges" the suspects, of which the next batch
 * takes half.  Returns how many ranges are left.  If none of them is there any
 * more, the search is over.
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
		offsets += ranges[kept].end - ranges[kept].start;
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
		SaggRange  *position = sagg_partition_find(session->progress->positions,
												   session->progress->npositions,
												   &bounds[i]);

		check_position(session, position, &bounds[i]);
		if (position->start >= bounds[i].end)
			continue;
		ranges[n] = bounds[i];
		ranges[n++].start = position->start;
	}
	for (int i = 0; i < session->progress->npositions; i++)
		check_exists(session, &session->progress->positions[i], bounds, nbounds);
	limit = limit > 0 ? limit : sagg_max_records_per_batch;
	if (session->progress->nsuspects > 0)
		n = keep_suspects(session->progress, ranges, n, &limit);
	sagg_ranges_share(ranges, n, limit, batch);
	for (int i = 0; i < n; i++)
	{
		if (ranges[i].end > ranges[i].start)
			ranges[kept++] = ranges[i];
	}
	*result = ranges;
	return kept;
}

/*
 * Begin a transaction that writes a plan.  "durable": it survives a crash of
 * the server as soon as it is committed, and not only a little later.
 */
void
sagg_plan_transaction(SaggSession *session, bool durable)
{
	StartTransactionCommand();
	(void) set_config_option("synchronous_commit", durable ? "local" : "off",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
							 true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	sagg_session_check_stream(session);
}

void
sagg_plan_commit(SaggSession *session)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
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
	SaggPlan   *plan = palloc0(sizeof(SaggPlan));

	check_topics(session, bounds, nbounds);
	add_new_partitions(session, bounds, nbounds);
	plan->batch = progress->batch + 1;
	plan->watermark = progress->watermark;
	plan->nranges = next_ranges(session, bounds, nbounds, plan->batch, &plan->ranges);
	if (plan->nranges == 0)
	{
		MemoryContextSwitchTo(old);
		return NULL;
	}
	plan->batch_time = GetCurrentTimestamp();
	plan->nsuspects = progress->nsuspects;
	if (plan->nsuspects > 0)
	{
		plan->suspects = palloc(sizeof(SaggRange) * plan->nsuspects);
		memcpy(plan->suspects, progress->suspects, sizeof(SaggRange) * plan->nsuspects);
	}

	sagg_plan_transaction(session, sagg_poison_durable_plan(session));
	MemoryContextSwitchTo(session->batch_memory);
	sagg_checkpoint_plan(session->checkpoint, plan);
	if (session->new_partitions)
	{
		SaggOrigin *origin = sagg_checkpoint_origin(session->checkpoint);

		origin->offsets = session->progress->positions;
		origin->noffsets = session->progress->npositions;
		sagg_checkpoint_set_origin(session->checkpoint, origin);
	}
	sagg_plan_commit(session);
	MemoryContextSwitchTo(old);
	session->new_partitions = false;
	SAGG_FAILPOINT("plan.committed");
	return plan;
}
