/*-------------------------------------------------------------------------
 *
 * query_outer.c
 *	  The queries from groups to output rows.
 *
 * "outer" is the stream's select list and HAVING over SAGG_ENR_GROUPS, so
 * PostgreSQL evaluates them, sublinks included. "removed" gives the identity
 * of groups that do not pass HAVING, which an update stream deletes from its
 * sink; "replaced" gives that of sessions that were merged or extended.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/fmgroids.h"

#include "define_internal.h"

static RangeTblEntry *
groups_relation(const SaggQuery *result)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_NAMEDTUPLESTORE;
	rte->enrname = pstrdup(SAGG_ENR_GROUPS);
	rte->enrtuples = 1000;
	rte->eref = makeAlias(SAGG_ENR_GROUPS, NIL);
	rte->inFromCl = true;
	for (int i = 0; i < result->groups_desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(result->groups_desc, i);

		rte->eref->colnames = lappend(rte->eref->colnames,
									  makeString(pstrdup(NameStr(att->attname))));
		rte->coltypes = lappend_oid(rte->coltypes, att->atttypid);
		rte->coltypmods = lappend_int(rte->coltypmods, att->atttypmod);
		rte->colcollations = lappend_oid(rte->colcollations, att->attcollation);
	}
	return rte;
}

static Query *
query_over_groups(const SaggQuery *result, const Query *query,
				  List *targetlist, Node *quals)
{
	Query	   *outer = makeNode(Query);
	RangeTblRef *ref = makeNode(RangeTblRef);

	ref->rtindex = 1;
	outer->commandType = CMD_SELECT;
	outer->querySource = QSRC_ORIGINAL;
	outer->canSetTag = true;
	outer->rtable = list_make1(groups_relation(result));
	outer->jointree = makeFromExpr(list_make1(ref), quals);
	outer->targetList = targetlist;
	outer->hasSubLinks = query->hasSubLinks;
	if (query->hasSubLinks)
	{
		outer->cteList = copyObject(query->cteList);
		outer->hasRecursive = query->hasRecursive;
	}
	return outer;
}

/*
 * Returns whether a bound of the window, together with the keys, identifies
 * the window.  The start of a session does if all have the same gap: then a
 * later session of the key starts after any that is closed and before any that
 * is open.
 */
static bool
bound_identifies(const SaggQuery *result, bool lower)
{
	return result->window.kind != SAGG_WINDOW_SESSION || !lower || result->window.gap > 0;
}

/*
 * Returns the column of the groups that determines an output column's value
 * and is determined by it: the column itself, or for the window one of its
 * bounds.  0 = none.  Sets *part for the window.
 */
static AttrNumber
identifies(Node *expr, const SaggQuery *result, SaggWindowPart *part)
{
	*part = SAGG_WINDOW_WHOLE;
	if (IsA(expr, FuncExpr) && result->window.kind != SAGG_WINDOW_NONE)
	{
		FuncExpr   *func = (FuncExpr *) expr;

		if ((func->funcid == F_LOWER_ANYRANGE || func->funcid == F_UPPER_ANYRANGE) &&
			IsA(linitial(func->args), Var) &&
			((Var *) linitial(func->args))->varattno == 1 &&
			bound_identifies(result, func->funcid == F_LOWER_ANYRANGE))
		{
			*part = func->funcid == F_LOWER_ANYRANGE ? SAGG_WINDOW_START : SAGG_WINDOW_END;
			return 1;
		}
	}
	return IsA(expr, Var) ? ((Var *) expr)->varattno : 0;
}

/*
 * Determine the columns of the output that identify a row: the first one for
 * the window and for each key.
 */
static void
find_identity(SaggQuery *result, List *columns, List *targetlist)
{
	int			attno = 0;
	ListCell   *lc;

	result->identity = palloc(sizeof(AttrNumber) * list_length(columns));
	foreach(lc, columns)
	{
		SaggGroupColumn *column = lfirst(lc);
		ListCell   *lt;

		attno++;
		if (column->keyno < 0)
			continue;
		foreach(lt, targetlist)
		{
			TargetEntry *tle = lfirst_node(TargetEntry, lt);
			SaggWindowPart part;

			if (identifies((Node *) tle->expr, result, &part) != attno)
				continue;
			if (column->keyno == 0)
			{
				result->window_output = tle->resno;
				result->window_identity = part;
			}
			result->identity[result->nidentity++] = tle->resno;
			break;
		}
		if (lt == NULL && result->missing_key == NULL)
			result->missing_key = column->name;
	}
}

static List *
identity_targetlist(const SaggQuery *result, List *targetlist)
{
	List	   *identity = NIL;

	for (int i = 0; i < result->nidentity; i++)
	{
		TargetEntry *tle = copyObject(list_nth_node(TargetEntry, targetlist,
													result->identity[i] - 1));

		tle->resno = i + 1;
		identity = lappend(identity, tle);
	}
	return identity;
}

/*
 * Fill in outer, removed, output_desc and the identity of "result", whose
 * groups_desc is set, from the stream's query. "columns" are the columns of
 * the groups (SaggGroupColumn), in order.
 */
void
sagg_build_outer(SaggQuery *result, const Query *query, List *columns)
{
	List	   *targetlist = NIL;
	Node	   *having = sagg_over_groups(query, columns, query->havingQual);
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		Node	   *expr;

		if (tle->resjunk)
			continue;
		expr = sagg_over_groups(query, columns, (Node *) tle->expr);
		targetlist = lappend(targetlist,
							 makeTargetEntry((Expr *) expr, list_length(targetlist) + 1,
											 pstrdup(tle->resname), false));
	}
	result->outer = query_over_groups(result, query, targetlist, having);
	result->output_desc = ExecCleanTypeFromTL(targetlist);
	find_identity(result, columns, targetlist);

	if (result->window.kind == SAGG_WINDOW_SESSION && result->missing_key == NULL)
		result->replaced = query_over_groups(result, query,
											 identity_targetlist(result, targetlist), NULL);
	if (having && result->missing_key == NULL)
	{
		BooleanTest *test = makeNode(BooleanTest);

		test->arg = copyObject((Expr *) having);
		test->booltesttype = IS_NOT_TRUE;
		test->location = -1;
		result->removed = query_over_groups(result, query,
											identity_targetlist(result, targetlist),
											(Node *) test);
	}
}
