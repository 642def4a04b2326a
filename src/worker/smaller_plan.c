/*-------------------------------------------------------------------------
 *
 * smaller_plan.c
 *	  A smaller plan in the place of one whose batch fails, for all streams that
 *	  share the reader.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "event_time/event_time.h"
#include "worker_internal.h"

/*
 * How many offsets a plan has.
 */
int64
sagg_plan_offsets(const SaggPlan *plan)
{
	int64		n = 0;

	for (int i = 0; i < plan->nranges; i++)
		n = sagg_add_saturated(n, plan->ranges[i].end - plan->ranges[i].start);
	return n;
}

/*
 * A copy of a plan, with ranges and suspects to be changed, in the session's
 * memory.
 */
SaggPlan *
sagg_plan_copy(SaggSession *session, const SaggPlan *failed)
{
	MemoryContext old = MemoryContextSwitchTo(session->memory);
	SaggPlan   *plan = palloc(sizeof(SaggPlan));
	Size		size = sizeof(SaggRange) * Max(failed->nranges, 1);

	*plan = *failed;
	plan->attempts = 0;
	plan->ranges = memcpy(palloc(size), failed->ranges, sizeof(SaggRange) * failed->nranges);
	plan->suspects = palloc(size);
	plan->nsuspects = 0;
	MemoryContextSwitchTo(old);
	return plan;
}

/*
 * A copy of a plan with half of the offsets, in the same partitions; all of them
 * are suspects.
 */
SaggPlan *
sagg_plan_half(SaggSession *session, const SaggPlan *failed)
{
	SaggPlan   *plan = sagg_plan_copy(session, failed);
	int			n = 0;

	for (int i = 0; i < failed->nranges; i++)
	{
		/* of a partition that skips offsets and has none left */
		if (failed->ranges[i].end > failed->ranges[i].start)
			plan->suspects[plan->nsuspects++] = failed->ranges[i];
	}
	memcpy(plan->ranges, plan->suspects, sizeof(SaggRange) * plan->nsuspects);
	sagg_ranges_share(plan->ranges, plan->nsuspects, sagg_plan_offsets(failed) / 2,
					  failed->batch);
	for (int i = 0; i < plan->nsuspects; i++)
	{
		if (plan->ranges[i].end > plan->ranges[i].start)
			plan->ranges[n++] = plan->ranges[i];
	}
	plan->nranges = n;
	return plan;
}

/*
 * Of partitions that a smaller plan does not read it does not skip anything
 * either; a later one will.
 */
static void
keep_skips(SaggSession *session, SaggPlan *plan)
{
	const SaggRange *skipped = plan->skipped;
	int			n = 0;

	plan->skipped = MemoryContextAlloc(session->memory,
									   sizeof(SaggRange) * Max(plan->nskipped, 1));
	for (int i = 0; i < plan->nskipped; i++)
	{
		if (sagg_partition_find(plan->ranges, plan->nranges, &skipped[i]))
			plan->skipped[n++] = skipped[i];
	}
	plan->nskipped = n;
}

/*
 * The pending plan of a stream that shares the reader, with the ranges of one
 * that is made smaller than "failed".  In the current context, which lives as
 * long as the session.
 */
static void
follow_plan(SaggSession *session, const SaggPlan *failed, const SaggPlan *smaller)
{
	SaggPlan   *plan = session->progress->pending;

	plan->attempts = 0;
	plan->nranges = smaller->nranges;
	plan->ranges = smaller->ranges;
	plan->nskipped = smaller->nskipped;
	plan->skipped = smaller->skipped;
	plan->nquiet = 0;
	sagg_plan_behind(session->stream, plan, failed->ranges, failed->nranges);
}

/*
 * Put a smaller plan, of which the ranges are made, into the place of the pending
 * one, "failed", durably.
 */
void
sagg_plan_replace(SaggSession *session, const SaggPlan *failed, SaggPlan *plan)
{
	MemoryContext old = MemoryContextSwitchTo(session->memory);
	ListCell   *lc;

	keep_skips(session, plan);
	plan->nquiet = 0;			/* it does not read them to their ends */
	sagg_plan_behind(session->stream, plan, failed->ranges, failed->nranges);
	foreach(lc, session->lead->sessions)
	{
		if (lfirst(lc) != session)
			follow_plan(lfirst(lc), failed, plan);
	}

	sagg_plan_transaction(session, true);
	sagg_checkpoint_replan(session->checkpoint, plan);
	foreach(lc, session->lead->sessions)
	{
		SaggSession *other = lfirst(lc);

		if (other != session)
			sagg_checkpoint_replan(other->checkpoint, other->progress->pending);
	}
	sagg_plan_commit(session);
	MemoryContextSwitchTo(old);
}
