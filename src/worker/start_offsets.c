/*-------------------------------------------------------------------------
 *
 * start_offsets.c
 *	  A stream's first contact with its topic: from which offsets it reads; and
 *	  later, whether it is that topic still.
 *
 * What create_stream or reset_stream were told (define/starting_offsets.c) is
 * made into an offset for each partition once, and written to
 * stream_agg.sources before anything is planned: later sessions, and a retry
 * after a crash, begin at the very same offsets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "define/define.h"
#include "worker_internal.h"

/*
 * Add a partition to the stream's positions, in order, if it is not there.
 * Returns whether it was added.
 */
bool
sagg_session_add_position(SaggSession *session, const SaggRange *first)
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
				 errhint("Set the source's option %s back, or use stream_agg.reset_stream to read others.",
						 sagg_reader_topic_option(session->reader))));
	}
}

/*
 * Where a stream that has not begun would begin; in the session's memory.
 * Waits for Kafka.
 */
static SaggOrigin *
first_offsets(SaggSession *session)
{
	SaggReader *reader = session->reader;
	SaggOrigin *first = palloc0(sizeof(SaggOrigin));
	int			nbounds;
	SaggRange  *bounds = sagg_first_ranges(reader, session->stream->starting_offsets,
										   &nbounds);

	for (int i = 0; i < nbounds; i++)
		bounds[i].end = bounds[i].start;
	if (sagg_reader_one_topic(reader))
		first->topic = pstrdup(sagg_reader_one_topic(reader));
	first->cluster_id = pstrdup(sagg_reader_cluster_id(reader));
	first->noffsets = nbounds;
	first->offsets = bounds;
	return first;
}

/*
 * The stream's origin, if it has one: is that the topic and the cluster the
 * source reads now?
 */
static SaggOrigin *
known_origin(SaggSession *session, const char *cluster_id)
{
	SaggOrigin *origin;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(session->memory);
	origin = sagg_checkpoint_origin(session->checkpoint);
	check_source(session, origin);
	if (origin->cluster_id && strcmp(origin->cluster_id, cluster_id) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_OTHER_CLUSTER),
				 errmsg("the brokers belong to Kafka cluster \"%s\", the stream has read from cluster \"%s\"",
						cluster_id, origin->cluster_id),
				 errdetail("Offsets of one cluster mean nothing in another."),
				 errhint("Point the server's brokers at the former cluster, or use stream_agg.reset_stream to read the other.")));
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(session->memory);
	return origin;
}

static void
record_origin(SaggSession *session, const SaggOrigin *origin)
{
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	sagg_checkpoint_set_origin(session->checkpoint, origin);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(session->memory);
}

/*
 * Topics were deleted and made anew, and on_data_loss says to read them from
 * their beginning: the next plan skips all that was read of the former ones.  A
 * plan for those goes.
 */
static void
forget_former_topics(SaggSession *session, const List *recreated)
{
	SaggProgress *progress = session->progress;
	int			kept = 0;

	for (int i = 0; i < progress->nlast; i++)
	{
		if (!list_member_int(recreated, progress->last[i].topic))
			progress->last[kept++] = progress->last[i];
	}
	progress->nlast = kept;
	progress->nsuspects = 0;
	if (progress->pending == NULL)
		return;
	progress->pending = NULL;
	sagg_checkpoint_forget_plan(session->checkpoint, progress->batch);
}

/*
 * The same for all streams that read here, in one transaction.
 */
static void
forget_former_topics_of_all(SaggSession *session)
{
	ListCell   *lc;

	sagg_plan_transaction(session, true);
	foreach(lc, session->sessions)
		forget_former_topics(lfirst(lc), session->recreated);
	sagg_plan_commit(session);
	MemoryContextSwitchTo(session->memory);
}

/*
 * Are the topics still those that have been read?  Records that are gone need
 * not be asked for.  Those that are not are in session->recreated then, and
 * the result tells whether there are any.  Waits for Kafka.
 */
bool
sagg_session_other_topics(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	const SaggProgress *progress = session->progress;
	SaggRange  *last = palloc(sizeof(SaggRange) * Max(progress->nlast, 1));
	bool		other = false;
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
	for (int i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(session->memory);

		if (last[i].end == SAGG_ANOTHER_RECORD)
		{
			session->recreated = list_append_unique_int(session->recreated, last[i].topic);
			other = true;
		}
		MemoryContextSwitchTo(old);
	}
	pfree(last);
	return other;
}

static void
verify_last_records(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	if (sagg_session_other_topics(session, bounds, nbounds))
		forget_former_topics_of_all(session);
}

/*
 * Have all partitions fetched from where they go on: a plan that is pending
 * says so, or the stream's position.  Lost positions are replaced right here:
 * librdkafka (2.0) may fall silent about a partition that is assigned anew just
 * when it finds out that it does not have the offset.
 */
void
sagg_session_assign(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	SaggProgress *progress = session->progress;
	SaggPlan   *pending = progress->pending;
	SaggRange  *targets = palloc(sizeof(SaggRange) * Max(progress->npositions, 1));

	for (int i = 0; i < progress->npositions; i++)
	{
		const SaggRange *planned = pending == NULL ? NULL :
			sagg_partition_find(pending->ranges, pending->nranges,
								&progress->positions[i]);
		const SaggRange *bound = sagg_partition_find(unconstify(SaggRange *, bounds), nbounds,
													 &progress->positions[i]);

		targets[i] = progress->positions[i];
		if (planned)
			targets[i].start = planned->start;
		else if (bound &&
				 (list_member_int(session->recreated, targets[i].topic) ||
				  targets[i].start < bound->start ||
				  (targets[i].start > bound->end &&
				   !sagg_reader_loses_nothing(session->reader))))
			targets[i].start = bound->start;
	}
	sagg_reader_assign(session->reader, targets, progress->npositions);
	pfree(targets);
}

/*
 * Where another stream of the reader stands, as an origin; in the session's
 * memory.
 */
static SaggOrigin *
offsets_of(SaggSession *session)
{
	const SaggProgress *progress = session->progress;
	SaggOrigin *origin = palloc0(sizeof(SaggOrigin));

	if (sagg_reader_one_topic(session->reader))
		origin->topic = pstrdup(sagg_reader_one_topic(session->reader));
	origin->cluster_id = pstrdup(sagg_reader_cluster_id(session->reader));
	origin->noffsets = progress->npositions;
	origin->offsets = palloc(sizeof(SaggRange) * Max(progress->npositions, 1));
	memcpy(origin->offsets, progress->positions, sizeof(SaggRange) * progress->npositions);
	return origin;
}

/*
 * First contact of a stream with its topic: which cluster, from which offsets;
 * those of "like", if that is not NULL.  In later sessions: is it still that
 * cluster, and that topic?  Waits for Kafka.
 */
void
sagg_session_settle(SaggSession *session, SaggSession *like)
{
	const char *cluster_id = sagg_reader_cluster_id(session->reader);
	SaggOrigin *origin = known_origin(session, cluster_id);

	if (origin->cluster_id == NULL)
	{
		origin = like ? offsets_of(like) : first_offsets(session);
		record_origin(session, origin);
	}
	for (int i = 0; i < origin->noffsets; i++)
		(void) sagg_session_add_position(session, &origin->offsets[i]);
}

/*
 * The same for who has a reader, which is left assigned to the stream's
 * positions.
 */
void
sagg_session_origin(SaggSession *session)
{
	SaggProgress *progress = session->progress;
	SaggRange  *bounds;
	int			nbounds;

	sagg_session_settle(session, NULL);
	bounds = sagg_reader_bounds(session->reader, &nbounds);
	sagg_session_check_topics(session, bounds, nbounds);
	verify_last_records(session, bounds, nbounds);
	sagg_session_assign(session, bounds, nbounds);
	pfree(bounds);
	sagg_reader_commit(session->reader, progress->positions, progress->npositions);
}

/*
 * After a connection was broken, and where it looks so, the topic may be another
 * one under its name: see last_record.c.  "bounds" are as for sagg_batch_plan, if they are known;
 * else a batch is under way, and one of another topic is an error.
 */
void
sagg_session_verify(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	if (!sagg_reader_was_broken(session->reader) &&
		!(bounds && sagg_reader_suspects(session->reader, session->progress->last,
										 session->progress->nlast)))
		return;
	verify_last_records(session, bounds, nbounds);
	if (session->recreated != NIL && bounds == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("topic \"%s\" was deleted and created again while it was read",
						sagg_topic_name(linitial_int(session->recreated)))));
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
