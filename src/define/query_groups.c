/*-------------------------------------------------------------------------
 *
 * query_groups.c
 *	  Turns expressions over records into expressions over groups.
 *
 * The select list and HAVING of a stream's query speak of records: grouping
 * expressions and aggregate calls.  EXECUTE keeps the value of each per group
 * and hands them on as columns of SAGG_ENR_GROUPS; here the expressions are
 * rewritten to read those columns, at any depth of sublinks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"

#include "define_internal.h"

typedef struct CollectContext
{
	int			sublevels;
	List	   *aggregates;
} CollectContext;

static bool
collect_aggregates(Node *node, void *arg)
{
	CollectContext *context = arg;

	if (node == NULL)
		return false;
	if (IsA(node, Aggref) &&
		((Aggref *) node)->agglevelsup == context->sublevels)
	{
		Node	   *aggref = copyObject(node);

		IncrementVarSublevelsUp(aggref, -context->sublevels, context->sublevels);
		context->aggregates = list_append_unique(context->aggregates, aggref);
		return false;
	}
	if (IsA(node, Query))
	{
		bool		result;

		context->sublevels++;
		result = query_tree_walker((Query *) node, collect_aggregates, arg, 0);
		context->sublevels--;
		return result;
	}
	return expression_tree_walker(node, collect_aggregates, arg);
}

/*
 * Returns the distinct aggregate calls of a query, as Aggrefs of level 0;
 * copies in the current context.
 */
List *
sagg_collect_aggregates(const Query *query)
{
	CollectContext context = {0};

	collect_aggregates((Node *) query->targetList, &context);
	collect_aggregates(query->havingQual, &context);
	return context.aggregates;
}

typedef struct GroupsContext
{
	const Query *query;
	List	   *columns;		/* of SaggGroupColumn */
	int			sublevels;
	List	   *shifted;		/* their expressions at the current query
								 * level */
} GroupsContext;

static List *
shift_columns(List *columns, int sublevels)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, columns)
	{
		Node	   *expr = copyObject(((SaggGroupColumn *) lfirst(lc))->expr);

		if (sublevels > 0)
			IncrementVarSublevelsUp(expr, sublevels, 0);
		result = lappend(result, expr);
	}
	return result;
}

static void
reject_ungrouped(const Query *query, const Var *var)
{
	char	   *name = get_rte_attribute_name(rt_fetch(var->varno, query->rtable),
											  var->varattno);

	ereport(ERROR,
			(errcode(ERRCODE_GROUPING_ERROR),
			 errmsg("column \"%s\" must appear in GROUP BY", name),
			 errdetail("That it depends on a primary key in GROUP BY does not help: a stream keeps grouping keys and aggregates only."),
			 errhint("Add \"%s\" to GROUP BY.", name)));
}

static Node *
over_groups(Node *node, void *arg)
{
	GroupsContext *context = arg;
	AttrNumber	attno = 0;
	ListCell   *lc;

	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
	{
		List	   *save = context->shifted;
		Node	   *result;

		context->sublevels++;
		context->shifted = shift_columns(context->columns, context->sublevels);
		result = (Node *) query_tree_mutator((Query *) node, over_groups, arg, 0);
		context->sublevels--;
		context->shifted = save;
		return result;
	}
	foreach(lc, context->shifted)
	{
		attno++;
		if (equal(node, lfirst(lc)))
			return (Node *) makeVar(1, attno, exprType(node), exprTypmod(node),
									exprCollation(node), context->sublevels);
	}
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == context->sublevels)
		reject_ungrouped(context->query, (Var *) node);
	return expression_tree_mutator(node, over_groups, arg);
}

/*
 * Returns a copy of "node", an expression of the select list or of HAVING,
 * that reads the columns of SAGG_ENR_GROUPS as range table entry 1.  "columns"
 * are those columns, in order.  Raises grouping_error for a column of FROM
 * that no column of the groups provides.
 */
Node *
sagg_over_groups(const Query *query, List *columns, Node *node)
{
	GroupsContext context = {0};

	context.query = query;
	context.columns = columns;
	context.shifted = shift_columns(columns, 0);
	return over_groups(node, &context);
}
