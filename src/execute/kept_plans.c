/*-------------------------------------------------------------------------
 *
 * kept_plans.c
 *	  The plans of a stream's queries: made for one use, or kept from batch to batch.
 *
 * A kept plan belongs to a kept query (define/kept_query.c) and goes with it when the
 * catalogs change.  It was made for a number of rows.  Where the number decides, as for
 * joins, a plan is made again when there are far more or far fewer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

#include "execute_internal.h"

/* a plan is made again for more or fewer rows than these times its own */
#define ROWS_FACTOR		8

typedef struct KeptPlan
{
	MemoryContext memory;		/* NULL = there is none */
	PlannedStmt *plan;
	int64		rows;			/* that it was made for; -1 = any number */
} KeptPlan;

typedef struct SaggKeptPlans
{
	MemoryContext memory;
	KeptPlan	plans[SAGG_PLAN_KINDS];
} SaggKeptPlans;

/*
 * Returns an empty set of plans, which lives as long as "memory".
 */
SaggKeptPlans *
sagg_kept_plans_make(MemoryContext memory)
{
	SaggKeptPlans *plans = MemoryContextAllocZero(memory, sizeof(SaggKeptPlans));

	plans->memory = memory;
	return plans;
}

/*
 * Take the locks that the execution of the plans needs, as planning has taken them.
 */
void
sagg_kept_plans_lock(const SaggKeptPlans *plans)
{
	for (int i = 0; i < SAGG_PLAN_KINDS; i++)
	{
		ListCell   *lc;

		if (plans->plans[i].plan == NULL)
			continue;
		foreach(lc, plans->plans[i].plan->rtable)
		{
			RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

			if (OidIsValid(rte->relid) &&
				(rte->rtekind == RTE_RELATION || rte->rtekind == RTE_SUBQUERY))
				LockRelationOid(rte->relid, rte->rellockmode);
		}
	}
}

/*
 * Returns whether another number of rows could make another plan better: there is more
 * than one relation, or a subquery.
 */
static bool
depends_on_rows(const PlannedStmt *plan)
{
	return plan->subplans != NIL ||
		list_length(list_union_oid(NIL, plan->relationOids)) > 1;
}

static bool
fits(const KeptPlan *kept, int64 rows)
{
	return kept->memory != NULL &&
		(kept->rows < 0 ||
		 (rows / ROWS_FACTOR <= kept->rows && kept->rows / ROWS_FACTOR <= rows));
}

static PlannedStmt *
make_plan(const SaggExecution *ex, SaggPlanKind kind, const Query *query, int64 rows)
{
	Query	   *copy = copyObject(unconstify(Query *, query));

	if (kind != SAGG_PLAN_INNER)
		linitial_node(RangeTblEntry, copy->rtable)->enrtuples = rows;
	return pg_plan_query(copy, ex->stream->name, 0, NULL);
}

static void
keep(SaggKeptPlans *plans, KeptPlan *kept, PlannedStmt *plan, int64 rows)
{
	MemoryContext memory = AllocSetContextCreate(plans->memory, "stream_agg plan",
												 ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(memory);

	plan = copyObject(plan);
	MemoryContextSwitchTo(old);
	if (kept->memory)
		MemoryContextDelete(kept->memory);
	kept->memory = memory;
	kept->plan = plan;
	kept->rows = depends_on_rows(plan) ? rows : -1;
}

/*
 * Returns a plan of "query", one of the execution's, for about so many rows: of the batch
 * if it is the inner query, otherwise of groups.  It must not be changed, and lives until
 * the end of the execution at least.  Raises what planning raises.
 */
PlannedStmt *
sagg_planned(const SaggExecution *ex, SaggPlanKind kind, const Query *query, int64 rows)
{
	SaggKeptPlans *plans = ex->query->plans;
	KeptPlan   *kept;
	PlannedStmt *plan;

	if (plans == NULL)
		return make_plan(ex, kind, query, rows);
	kept = &plans->plans[kind];
	if (fits(kept, rows))
		return kept->plan;
	plan = make_plan(ex, kind, query, rows);
	if (plan->transientPlan)
		return plan;
	keep(plans, kept, plan, rows);
	return kept->plan;
}
