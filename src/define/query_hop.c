/*-------------------------------------------------------------------------
 *
 * query_hop.c
 *	  Sliding windows in a stream's query: where hop() may stand.
 *
 * hop() is a set-returning function.  In the select list and GROUP BY it is
 * recognised like tumble(); in FROM, after the source, a reference to its rows
 * means the same, so the call replaces these references and is removed from
 * FROM.  That holds only where nothing but the select list, GROUP BY and
 * HAVING refers to them: a condition on a window, or an aggregate over it,
 * would have to be evaluated per window.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"

#include "define_internal.h"
#include "execute/execute.h"

/* most windows that a record may fall into */
#define MAX_WINDOWS_BY_PANE		100000
#define MAX_WINDOWS_BY_WINDOW	1000

typedef struct HopReplacement
{
	int			rtindex;
	FuncExpr   *hop;
	int			sublevels;
} HopReplacement;

static Node *
replace_reference(Node *node, void *arg)
{
	HopReplacement *replacement = arg;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varno == replacement->rtindex &&
			var->varlevelsup == replacement->sublevels)
		{
			Node	   *hop = copyObject((Node *) replacement->hop);

			IncrementVarSublevelsUp(hop, replacement->sublevels, 0);
			return hop;
		}
	}
	if (IsA(node, Query))
	{
		Node	   *result;

		replacement->sublevels++;
		result = (Node *) query_tree_mutator((Query *) node, replace_reference, arg, 0);
		replacement->sublevels--;
		return result;
	}
	return expression_tree_mutator(node, replace_reference, arg);
}

/*
 * Returns the call of hop() in an item of FROM, or NULL.
 */
FuncExpr *
sagg_hop_of_rte(const RangeTblEntry *rte)
{
	ListCell   *lc;

	foreach(lc, rte->rtekind == RTE_FUNCTION ? rte->functions : NIL)
	{
		Node	   *call = lfirst_node(RangeTblFunction, lc)->funcexpr;

		if (IsA(call, FuncExpr) && sagg_is_hop(((FuncExpr *) call)->funcid))
			return (FuncExpr *) call;
	}
	return NULL;
}

/*
 * Returns the call of hop() in an item of FROM that consists of nothing else,
 * or NULL.
 */
static FuncExpr *
hop_in_from(const Query *query, int rtindex)
{
	RangeTblEntry *rte = rt_fetch(rtindex, query->rtable);

	return rte->rtekind == RTE_FUNCTION && list_length(rte->functions) == 1 &&
		!rte->funcordinality ? sagg_hop_of_rte(rte) : NULL;
}

/*
 * Remove items of FROM that are hop() from a list; returns the range table
 * index of the last one, 0 if there is none.
 */
static int
take_from_list(const Query *query, List **items)
{
	int			found = 0;
	ListCell   *lc;

	foreach(lc, *items)
	{
		Node	   *item = lfirst(lc);

		if (IsA(item, RangeTblRef) && hop_in_from(query, ((RangeTblRef *) item)->rtindex))
		{
			found = ((RangeTblRef *) item)->rtindex;
			*items = foreach_delete_current(*items, lc);
		}
		else if (IsA(item, JoinExpr))
		{
			JoinExpr   *join = (JoinExpr *) item;

			/* CROSS JOIN LATERAL, or JOIN LATERAL ... ON true */
			if (join->jointype == JOIN_INNER && join->alias == NULL &&
				IsA(join->rarg, RangeTblRef) &&
				(join->quals == NULL ||
				 (IsA(join->quals, Const) && DatumGetBool(((Const *) join->quals)->constvalue))) &&
				hop_in_from(query, ((RangeTblRef *) join->rarg)->rtindex))
			{
				found = ((RangeTblRef *) join->rarg)->rtindex;
				lfirst(lc) = join->larg;
			}
		}
	}
	return found;
}

static void
reject_lateral(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("windows of stream_agg.hop in FROM can be used in the select list, GROUP BY and HAVING only"),
			 errdetail("A stream keeps aggregates of records by window, not the windows of a single record."),
			 errhint("Call stream_agg.hop in the select list, name that column in GROUP BY, and put conditions on it into HAVING.")));
}

static bool
has_aggregate_over(Node *node, void *rtindex)
{
	if (node == NULL)
		return false;
	if (IsA(node, Aggref) && bms_is_member(*(int *) rtindex, pull_varnos(NULL, node)))
		return true;
	return expression_tree_walker(node, has_aggregate_over, rtindex);
}

/*
 * Returns whether the rest of a query reads an item of FROM.
 */
static bool
still_refers(Query *query, int rtindex)
{
	int			i = 0;
	ListCell   *lc;

	if (bms_is_member(rtindex, pull_varnos(NULL, (Node *) query->jointree)))
		return true;
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (++i == rtindex)
			continue;
		if ((rte->rtekind == RTE_SUBQUERY &&
			 bms_is_member(rtindex, pull_varnos_of_level(NULL, (Node *) rte->subquery, 1))) ||
			bms_is_member(rtindex, pull_varnos(NULL, (Node *) rte->functions)))
			return true;
	}
	return false;
}

/*
 * Handle FROM source, stream_agg.hop(...)  AS win as if the call stood
 * wherever "win" is referred to.  "query", whose aliases are flattened, is
 * changed.  Raises feature_not_supported for another use of it.
 */
void
sagg_take_hop_from_lateral(Query *query)
{
	HopReplacement replacement = {0};
	RangeTblEntry *rte;
	int			hops = 0;

	if (query->commandType != CMD_SELECT || query->jointree == NULL)
		return;
	for (int i = 1; i <= list_length(query->rtable); i++)
	{
		if (sagg_hop_of_rte(rt_fetch(i, query->rtable)))
			hops++;
	}
	if (hops == 0)
		return;
	replacement.rtindex = take_from_list(query, &query->jointree->fromlist);
	if (hops > 1 || replacement.rtindex == 0 ||
		still_refers(query, replacement.rtindex) ||
		has_aggregate_over((Node *) query->targetList, &replacement.rtindex) ||
		has_aggregate_over(query->havingQual, &replacement.rtindex))
		reject_lateral();

	replacement.hop = copyObject(hop_in_from(query, replacement.rtindex));
	replacement.hop->funcretset = true;
	query->targetList = (List *) replace_reference((Node *) query->targetList, &replacement);
	query->havingQual = replace_reference(query->havingQual, &replacement);
	query->hasTargetSRFs = true;
	rte = rt_fetch(replacement.rtindex, query->rtable);
	rte->rtekind = RTE_RESULT;
	rte->functions = NIL;
	rte->lateral = false;
	sagg_check_select_list_srfs(query);
}

static bool
find_other_srf(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, FuncExpr) && ((FuncExpr *) node)->funcretset &&
		!sagg_is_hop(((FuncExpr *) node)->funcid))
		return true;
	if (IsA(node, OpExpr) && ((OpExpr *) node)->opretset)
		return true;
	return expression_tree_walker(node, find_other_srf, context);
}

/* calls of hop() that GROUP BY does not name, at level 0 */
static bool
find_loose_hop(Node *node, void *grouped)
{
	if (node == NULL || list_member(grouped, node))
		return false;
	if (IsA(node, FuncExpr) && ((FuncExpr *) node)->funcretset)
		return true;
	return expression_tree_walker(node, find_loose_hop, grouped);
}

/*
 * Reject set-returning functions in the select list, except hop() where GROUP
 * BY names it.
 */
void
sagg_check_select_list_srfs(const Query *query)
{
	List	   *grouped = NIL;
	ListCell   *lc;

	if (find_other_srf((Node *) query->targetList, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a stream cannot have set-returning functions in its select list"),
				 errdetail("A group is one row of the sink."),
				 errhint("Call the function in FROM, or where the sink is queried.")));
	foreach(lc, query->groupClause)
		grouped = lappend(grouped, get_sortgroupclause_expr(lfirst(lc), query->targetList));
	if (find_loose_hop((Node *) query->targetList, grouped))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a stream must group by stream_agg.hop"),
				 errhint("Name its column of the select list in GROUP BY, or group by lower() or upper() of it.")));
}

static int64
windows_per_record(const SaggWindow *window)
{
	return window->size / window->slide + (window->size % window->slide > 0 ? 1 : 0);
}

/*
 * Decide whether groups are kept by pane, for a query whose aggregates are
 * filled in: if windows overlap, and all aggregates can combine states.  Not
 * with watermark policy "per_partition", by which a record can be late for one
 * of two windows that are both open.  Rejects windows that overlap too much.
 */
void
sagg_settle_panes(SaggQuery *result, bool per_partition)
{
	SaggWindow *window = &result->window;
	const Aggref *obstacle = NULL;
	int64		limit;

	if (window->kind != SAGG_WINDOW_HOP || window->slide > window->size)
		return;
	for (int i = 0; i < result->naggs && obstacle == NULL; i++)
	{
		if (!sagg_aggregate_combines(result->aggs[i].aggref))
			obstacle = result->aggs[i].aggref;
	}
	window->panes = obstacle == NULL && !per_partition;
	limit = window->panes ? MAX_WINDOWS_BY_PANE : MAX_WINDOWS_BY_WINDOW;
	if (windows_per_record(window) <= limit)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a record would be in " INT64_FORMAT " windows of stream_agg.hop",
					windows_per_record(window)),
			 obstacle ?
			 errdetail("More than " INT64_FORMAT " are not supported where an aggregate cannot combine states, as %s.",
					   limit, get_func_name(obstacle->aggfnoid)) :
			 per_partition ?
			 errdetail("More than " INT64_FORMAT " are not supported with watermark_policy per_partition.", limit) :
			 errdetail("More than " INT64_FORMAT " are not supported.", limit),
			 errhint("Use a longer slide or a shorter size.")));
}
