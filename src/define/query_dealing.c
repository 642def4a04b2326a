/*-------------------------------------------------------------------------
 *
 * query_dealing.c
 *	  Whether the records of a stream's micro-batches can be dealt to executors:
 *	  several processes that run the query over a share each.
 *
 * What a process makes of its share is combined afterwards.  So states must be
 * such that they can be, and the query must read the same in all of them, as in a
 * parallel plan.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_aggregate.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "define_internal.h"
#include "execute/execute.h"
#include "read/read.h"

/*
 * Returns a relation that other processes cannot read, or not as of the same
 * snapshot: a temporary one, or a foreign table that is no source.
 */
static bool
find_private_relation(Node *node, Oid *relid)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind != RTE_RELATION ||
			(get_rel_persistence(rte->relid) != RELPERSISTENCE_TEMP &&
			 (rte->relkind != RELKIND_FOREIGN_TABLE || sagg_is_source(rte->relid))))
			return false;
		*relid = rte->relid;
		return true;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_private_relation, relid,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, find_private_relation, relid);
}

/*
 * Returns why an aggregate keeps a query from being dealt, NULL if it does not.
 * Of one that keeps its inputs no function runs before they are together.  Where
 * sessions meet, the inputs of one follow those of the other, so their order
 * depends on which sessions there are in between; for sets and what is sorted it
 * does not matter.
 */
static char *
aggregate_reason(const SaggQuery *query, const SaggAgg *agg)
{
	Oid			function = agg->aggref->aggfnoid;

	if (agg->keeps_inputs && query->window.kind == SAGG_WINDOW_SESSION &&
		agg->aggref->aggdistinct == NIL && !AGGKIND_IS_ORDERED_SET(agg->aggref->aggkind))
		return psprintf("the order of the inputs of aggregate %s depends on how sessions meet",
						format_procedure(function));
	if (agg->keeps_inputs)
		return NULL;
	if (!sagg_aggregate_combines(agg->aggref))
		return psprintf("states of aggregate %s cannot be combined",
						format_procedure(function));
	if (func_parallel(function) != PROPARALLEL_SAFE)
		return psprintf("aggregate %s is not parallel safe", format_procedure(function));
	return NULL;
}

/*
 * Returns why the records of a query's micro-batches cannot be dealt, in the
 * current context; NULL if they can be.  "reader" is the reader that the stream
 * shares with others, or NULL.
 */
char *
sagg_query_undealt(const SaggQuery *query, const char *reader)
{
	Oid			relid;

	if (reader)
		return pstrdup("the stream shares a reader");
	if (query->kind == SAGG_DEDUPLICATION)
		return pstrdup("each row is compared with all that came before it");
	for (int i = 0; i < query->naggs; i++)
	{
		char	   *reason = aggregate_reason(query, &query->aggs[i]);

		if (reason)
			return reason;
	}
	if (find_private_relation((Node *) query->inner, &relid))
		return psprintf("\"%s\" cannot be read by several processes", get_rel_name(relid));
	if (max_parallel_hazard(query->inner) != PROPARALLEL_SAFE)
		return pstrdup("an expression of the query is not parallel safe");
	return NULL;
}
