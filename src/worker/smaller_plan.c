/*-------------------------------------------------------------------------
 *
 * smaller_plan.c
 *	  A smaller plan in the place of one whose batch fails, for all runs of the
 *	  reading.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "event_time/event_time.h"
#include "worker_internal.h"

/*
 * Returns how many offsets a plan has.
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
 * Returns a copy of a plan, with ranges and suspects that may be changed, in the
 * run's memory.
 */
SaggPlan *
sagg_plan_copy(SaggStreamRun *run, const SaggPlan *failed)
{
	MemoryContext old = MemoryContextSwitchTo(run->memory);
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
 * Returns a copy of a plan with half of the offsets, in the same partitions; all
 * offsets of the plan are suspects.
 */
SaggPlan *
sagg_plan_half(SaggStreamRun *run, const SaggPlan *failed)
{
	SaggPlan   *plan = sagg_plan_copy(run, failed);
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
 * Keep the skips of partitions that a smaller plan reads.  A later plan has the
 * others.
 */
static void
keep_skips(SaggStreamRun *run, SaggPlan *plan)
{
	const SaggRange *skipped = plan->skipped;
	int			n = 0;

	plan->skipped = MemoryContextAlloc(run->memory,
									   sizeof(SaggRange) * Max(plan->nskipped, 1));
	for (int i = 0; i < plan->nskipped; i++)
	{
		if (sagg_partition_find(plan->ranges, plan->nranges, &skipped[i]))
			plan->skipped[n++] = skipped[i];
	}
	plan->nskipped = n;
}

/*
 * Give the pending plan of another run the ranges of a plan that is made smaller
 * than "failed".  In the current context, which lives as long as the reading.
 */
static void
follow_plan(SaggStreamRun *run, const SaggPlan *failed, const SaggPlan *smaller)
{
	SaggPlan   *plan = run->progress->pending;

	plan->attempts = 0;
	plan->nranges = smaller->nranges;
	plan->ranges = smaller->ranges;
	plan->nskipped = smaller->nskipped;
	plan->skipped = smaller->skipped;
	plan->nquiet = 0;
	sagg_plan_behind(run->stream, plan, failed->ranges, failed->nranges);
}

/*
 * Replace the pending plan of a run, "failed", by a smaller one whose ranges are
 * complete, durably; those of the reading's other runs follow it.
 */
void
sagg_plan_replace(SaggStreamRun *run, const SaggPlan *failed, SaggPlan *plan)
{
	MemoryContext old = MemoryContextSwitchTo(run->memory);
	ListCell   *lc;

	sagg_unfinished_note(run->reading, failed->ranges, failed->nranges);
	keep_skips(run, plan);
	plan->nquiet = 0;			/* it does not read partitions to their ends */
	sagg_plan_behind(run->stream, plan, failed->ranges, failed->nranges);
	foreach(lc, run->reading->runs)
	{
		if (lfirst(lc) != run)
			follow_plan(lfirst(lc), failed, plan);
	}

	sagg_plan_transaction(run, true);
	sagg_checkpoint_replan(run->checkpoint, plan);
	foreach(lc, run->reading->runs)
	{
		SaggStreamRun *other = lfirst(lc);

		if (other != run)
			sagg_checkpoint_replan(other->checkpoint, other->progress->pending);
	}
	sagg_plan_commit();
	MemoryContextSwitchTo(old);
}
