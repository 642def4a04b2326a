/*-------------------------------------------------------------------------
 *
 * batch_plan.c
 *	  Which offsets a micro-batch reads.
 *
 * READ starts with a plan: a range per partition of the source's topics,
 * bounded, the watermark that decides what is late, and the batch's time.  It
 * is committed to the log stream_agg.offsets before anything is executed -
 * without waiting for the disk, since WAL order keeps it before the batch's own
 * commit - and a retry runs the very same plan, so replay is deterministic.
 *
 * Offsets that are no longer there stop the stream (I5), or are skipped where
 * the option on_data_loss says so: the plan then tells which.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "streams/streams.h"
#include "worker_internal.h"

/* after so long an end of a partition that is doubted counts, if it is the same again */
#define END_DOUBT_MS	1000

/*
 * Are the topics that the stream has read still there?  A pattern has those
 * that are, so a topic that is gone is not missed otherwise.
 */
void
sagg_session_check_topics(SaggSession *session, const SaggRange *bounds, int nbounds)
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
 * Topics and partitions the source has got since: from their first offset.
 */
void
sagg_session_add_partitions(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	bool		added = false;
	ListCell   *lc;

	foreach(lc, session->sessions)
	{
		SaggSession *one = lfirst(lc);

		for (int i = 0; i < nbounds; i++)
		{
			if (sagg_session_add_position(one, &bounds[i]))
				added = one->new_partitions = true;
		}
	}
	if (added)
		sagg_session_assign(session, bounds, nbounds);
}

/*
 * Offsets that the stream has to go on from are not in Kafka, not any more or
 * not yet.
 */
static void
raise_offsets_gone(SaggSession *session, const SaggRange *position,
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
			 errdetail("Kafka has offsets " INT64_FORMAT " to " INT64_FORMAT " (exclusive).",
					   bounds->start, bounds->end),
			 session->progress->batch < 0 ?
			 errhint("The stream has read nothing yet: these are its starting_offsets. Use stream_agg.reset_stream to name others, then start the stream.") :
			 errhint("The topic's retention was too short for the time the stream did not run, or the topic was deleted and created again. "
					 "Set the stream's option on_data_loss to earliest to continue from the first offset that Kafka has, or reset the stream.")));
}

/*
 * A partition that ends before the position is doubted: a broker that has just
 * become its leader may say so, or a wrong one, and on_data_loss would have all of it
 * read again.  It counts when a later answer, to be asked for after END_DOUBT_MS, says
 * so too.  Returns whether it does not count yet.
 */
static bool
end_is_doubtful(SaggSession *session, const SaggRange *bounds)
{
	TimestampTz now = GetCurrentTimestamp();
	SaggEndDoubt *doubt = NULL;
	ListCell   *lc;

	foreach(lc, session->doubts)
	{
		SaggEndDoubt *one = lfirst(lc);

		if (one->topic == bounds->topic && one->partition == bounds->partition)
			doubt = one;
	}
	if (doubt && !doubt->settled && TimestampDifferenceExceeds(doubt->since, now, END_DOUBT_MS))
		return false;
	if (doubt == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(session->memory);

		doubt = palloc0(sizeof(SaggEndDoubt));
		doubt->topic = bounds->topic;
		doubt->partition = bounds->partition;
		session->doubts = lappend(session->doubts, doubt);
		MemoryContextSwitchTo(old);
	}
	else if (!doubt->settled)
	{
		session->doubtful = true;
		return true;
	}
	doubt->settled = false;
	doubt->since = now;
	session->doubtful = true;
	ereport(LOG,
			(errmsg("stream \"%s\": partition %d of topic \"%s\" is said to end at offset " INT64_FORMAT ", before what has been read, and its end is asked for again",
					sagg_stream_title(session->stream->name), bounds->partition,
					sagg_topic_name(bounds->topic), bounds->end)));
	return true;
}

/*
 * A partition does not end before the position any more.
 */
static void
settle_doubt(SaggSession *session, const SaggRange *bounds)
{
	ListCell   *lc;

	foreach(lc, session->doubts)
	{
		SaggEndDoubt *one = lfirst(lc);

		if (one->topic == bounds->topic && one->partition == bounds->partition)
			one->settled = true;
	}
}

/*
 * Where to go on with a partition; what is lost before that goes into the plan.
 */
static int64
next_start(SaggSession *session, SaggPlan *plan, const SaggRange *bounds)
{
	SaggProgress *progress = session->progress;
	const SaggRange *position = sagg_partition_find(progress->positions,
													progress->npositions, bounds);

	if (position->start >= bounds->start && position->start <= bounds->end &&
		(!list_member_int(session->recreated, bounds->topic) ||
		 position->start == bounds->start))
	{
		if (session->doubts != NIL)
			settle_doubt(session, bounds);
		return position->start;
	}
	if (position->start > bounds->end && !list_member_int(session->recreated, bounds->topic) &&
		end_is_doubtful(session, bounds))
		return bounds->end;
	settle_doubt(session, bounds);
	if (session->stream->options.on_data_loss == SAGG_LOSS_FAIL)
		raise_offsets_gone(session, position, bounds);
	plan->skipped[plan->nskipped] = *position;
	plan->skipped[plan->nskipped++].end = bounds->start;
	return bounds->start;
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
			 errhint("Topics do not lose partitions: this one was deleted and created again. "
					 "Use stream_agg.reset_stream to read it.")));
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
 * Does the next batch replace the rows of a sink?
 */
bool
sagg_session_replaces(const SaggSession *session)
{
	ListCell   *lc;

	foreach(lc, session->sessions)
	{
		if (((SaggSession *) lfirst(lc))->progress->replace)
			return true;
	}
	return false;
}

/*
 * Shrink ranges, which are not empty, until they hold no more than "limit" offsets
 * together.  Those that are known to have no record, before the first one of a range,
 * do not count: it passes them at once.
 */
static void
share_offsets(SaggSession *session, SaggRange *ranges, int n, int64 limit, int64 rotation)
{
	int64	   *starts = palloc(sizeof(int64) * Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		starts[i] = ranges[i].start;
		if (ranges[i].end - ranges[i].start > limit)
			ranges[i].start = Min(sagg_reader_gap_end(session->reader, &ranges[i]),
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
 * The ranges of the next batch, in the current context.  A partition with a
 * skip has one in any case, be it empty.
 */
static void
next_ranges(SaggSession *session, SaggPlan *plan, const SaggRange *bounds,
			int nbounds)
{
	SaggProgress *progress = session->progress;
	SaggRange  *ranges = palloc(sizeof(SaggRange) * Max(nbounds, 1));
	ListCell   *lc;
	int			n = 0;

	plan->ranges = palloc(sizeof(SaggRange) * Max(nbounds, 1));
	plan->skipped = palloc(sizeof(SaggRange) * Max(nbounds, 1));
	for (int i = 0; i < nbounds; i++)
	{
		int64		start = next_start(session, plan, &bounds[i]);

		if (start >= bounds[i].end)
			continue;
		ranges[n] = bounds[i];
		ranges[n++].start = start;
	}
	for (int i = 0; i < progress->npositions; i++)
		check_exists(session, &progress->positions[i], bounds, nbounds);
	if (!sagg_session_replaces(session))
	{
		int64		limit = session->stream->max_offsets > 0 ?
			session->stream->max_offsets : sagg_max_records_per_batch;

		foreach(lc, session->sessions)
		{
			SaggProgress *one = ((SaggSession *) lfirst(lc))->progress;

			if (one->nsuspects > 0)
				n = keep_suspects(one, ranges, n, &limit);
		}
		share_offsets(session, ranges, n, sagg_batch_size_bound(session, limit), plan->batch);
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
 * Record where partitions that the source has got since begin.
 */
static void
record_new_partitions(SaggSession *session)
{
	SaggOrigin *origin = sagg_checkpoint_origin(session->checkpoint);

	origin->offsets = session->progress->positions;
	origin->noffsets = session->progress->npositions;
	sagg_checkpoint_set_origin(session->checkpoint, origin);
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
 * Find out which partitions a plan that is complete otherwise leaves behind.
 * "bounds" are as for sagg_batch_plan.
 */
static void
find_behind(const SaggSession *session, SaggPlan *plan,
			const SaggRange *bounds, int nbounds)
{
	const SaggProgress *progress = session->progress;
	SaggRange  *unread = palloc(sizeof(SaggRange) * Max(nbounds, 1));

	for (int i = 0; i < nbounds; i++)
	{
		unread[i] = bounds[i];
		unread[i].start = sagg_partition_find(progress->positions, progress->npositions,
											  &bounds[i])->start;
	}
	plan->nbehind = 0;
	plan->behind = NULL;
	sagg_plan_behind(session->stream, plan, unread, nbounds);
	pfree(unread);
}

/*
 * The plan of one stream: the ranges of "plan", and what is its own.  In the
 * current context.
 */
static SaggPlan *
own_plan(const SaggSession *session, const SaggPlan *plan,
		 const SaggRange *bounds, int nbounds)
{
	const SaggProgress *progress = session->progress;
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
	sagg_plan_quiet(session, own, bounds, nbounds);
	find_behind(session, own, bounds, nbounds);
	return own;
}

/*
 * Make the plans of all streams that take part.  Returns whether there is
 * anything to do, be it to close a window by the clock.
 */
static bool
make_plans(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	SaggPlan	plan = {0};
	bool		closes = false;
	ListCell   *lc;

	plan.batch = session->progress->batch + 1;
	next_ranges(session, &plan, bounds, nbounds);
	plan.batch_time = GetCurrentTimestamp();
	foreach(lc, session->sessions)
	{
		SaggSession *one = lfirst(lc);

		one->plan = own_plan(one, &plan, bounds, nbounds);
		closes |= sagg_idle_closes(one, one->plan);
	}
	if (plan.nranges > 0 || sagg_session_replaces(session) || closes)
		return true;
	foreach(lc, session->sessions)
		((SaggSession *) lfirst(lc))->plan = NULL;
	return false;
}

/*
 * Write the plans of a session and its followers into the log, in one
 * transaction.
 */
static void
commit_plans(SaggSession *session, List *sessions)
{
	bool		durable = false;
	ListCell   *lc;

	foreach(lc, sessions)
		durable |= sagg_poison_durable_plan(lfirst(lc));
	sagg_plan_transaction(session, durable);
	MemoryContextSwitchTo(session->batch_memory);
	foreach(lc, sessions)
	{
		SaggSession *one = lfirst(lc);

		sagg_checkpoint_plan(one->checkpoint, one->plan);
		if (one->new_partitions)
			record_new_partitions(one);
	}
	sagg_plan_commit(session);
	foreach(lc, sessions)
		((SaggSession *) lfirst(lc))->new_partitions = false;
}

/*
 * Plan the next batch over what lies within "bounds" (low and high watermark
 * by partition) and commit the plan, that of the session's followers with it.
 * Returns NULL if there is nothing to read, and no window to close by the clock.
 * The batch that replaces rows of a sink reads all there is.  Plans are allocated
 * in the session's batch memory.
 */
SaggPlan *
sagg_batch_plan(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	MemoryContext old = MemoryContextSwitchTo(session->batch_memory);

	session->doubtful = false;
	sagg_session_check_topics(session, bounds, nbounds);
	sagg_session_add_partitions(session, bounds, nbounds);
	if (!make_plans(session, bounds, nbounds))
	{
		MemoryContextSwitchTo(old);
		return NULL;
	}
	commit_plans(session, session->sessions);
	session->recreated = NIL;
	MemoryContextSwitchTo(old);
	SAGG_FAILPOINT("plan.committed");
	return session->plan;
}
