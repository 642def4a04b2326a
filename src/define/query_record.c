/*-------------------------------------------------------------------------
 *
 * query_record.c
 *	  Columns of the source that a stream's query needs beyond those it names:
 *	  the record of a row, and the event time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "define_internal.h"
#include "read/read.h"

static AttrNumber carry_through(RangeTblEntry *rte);

/*
 * Returns the item of FROM that the source is in; sagg_find_sources has
 * checked that there is one.
 */
static int
source_item(const Query *query)
{
	int			rtindex = 0;
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		rtindex++;
		if (rte->rtekind == RTE_RELATION && sagg_is_source(rte->relid))
			return rtindex;
		if (rte->rtekind == RTE_SUBQUERY &&
			sagg_count_sources((Node *) rte->subquery) > 0)
			return rtindex;
	}
	elog(ERROR, "no source in the query of a stream");
	return 0;
}

/*
 * Carry the record through all branches, and add the column, number "attno",
 * to their unions.  Returns the range table index of the first branch.
 */
static int
widen_union(Query *query, Node *node, AttrNumber *attno)
{
	SetOperationStmt *set = (SetOperationStmt *) node;
	int			first;

	if (IsA(node, RangeTblRef))
	{
		first = ((RangeTblRef *) node)->rtindex;
		*attno = carry_through(rt_fetch(first, query->rtable));
		return first;
	}
	first = widen_union(query, set->larg, attno);
	(void) widen_union(query, set->rarg, attno);
	set->colTypes = lappend_oid(set->colTypes, TIDOID);
	set->colTypmods = lappend_int(set->colTypmods, -1);
	set->colCollations = lappend_oid(set->colCollations, InvalidOid);
	return first;
}

static Var *
carry_through_union(Query *query)
{
	AttrNumber	attno;
	int			first = widen_union(query, query->setOperations, &attno);

	return makeVar(first, attno, TIDOID, -1, InvalidOid, 0);
}

/*
 * Returns the number of the column of a subquery that identifies the record.
 */
static AttrNumber
carry_through(RangeTblEntry *rte)
{
	Query	   *subquery = rte->subquery;
	AttrNumber	attno = list_length(subquery->targetList) + 1;
	Var		   *var = subquery->setOperations ? carry_through_union(subquery) :
	sagg_carry_record(subquery);

	subquery->targetList = lappend(subquery->targetList,
								   makeTargetEntry((Expr *) var, attno,
												   pstrdup("record"), false));
	rte->eref->colnames = lappend(rte->eref->colnames,
								  makeString(pstrdup("record")));
	return attno;
}

/*
 * Returns the ctid of a row's record as a Var of "query", carried up from the
 * source.
 */
Var *
sagg_carry_record(Query *query)
{
	int			rtindex = source_item(query);
	RangeTblEntry *rte = rt_fetch(rtindex, query->rtable);
	AttrNumber	attno = rte->rtekind == RTE_SUBQUERY ? carry_through(rte) :
	SelfItemPointerAttributeNumber;

	return makeVar(rtindex, attno, TIDOID, -1, InvalidOid, 0);
}

/*
 * Mark a column as read by the query, as the parser does for columns named in
 * it.
 */
static void
request_column(Query *query, RangeTblEntry *rte, AttrNumber attno)
{
	Bitmapset **selected;

	if (rte->rtekind != RTE_RELATION)
		return;
	selected = &SAGG_SELECTED_COLUMNS(query, rte);
	*selected = bms_add_member(*selected, attno - FirstLowInvalidHeapAttributeNumber);
}

static void
check_event_time_type(const Var *var, const char *name)
{
	Oid			type = getBaseType(var->vartype);

	if (type != TIMESTAMPTZOID && type != TIMESTAMPOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("event_time \"%s\" is of type %s",
						name, format_type_be(var->vartype)),
				 errdetail("An event time is a timestamp with or without time zone.")));
}

/*
 * Returns the column of FROM that the user named as event time, as a Var of
 * "query".  Raises undefined_column, ambiguous_column, or datatype_mismatch.
 */
Node *
sagg_event_time_column(Query *query, const char *name)
{
	Var		   *found = NULL;
	int			rtindex = 0;
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);
		List	   *names;
		List	   *vars;
		ListCell   *lname;
		ListCell   *lvar;

		rtindex++;
		if (!rte->inFromCl || rte->rtekind == RTE_JOIN)
			continue;
		SAGG_EXPAND_RTE(rte, rtindex, &names, &vars);
		forboth(lname, names, lvar, vars)
		{
			if (strcmp(strVal(lfirst(lname)), name) != 0)
				continue;
			if (found)
				ereport(ERROR,
						(errcode(ERRCODE_AMBIGUOUS_COLUMN),
						 errmsg("event_time \"%s\" is ambiguous", name),
						 errhint("Rename the column in a subquery in FROM.")));
			found = lfirst_node(Var, lvar);
			request_column(query, rte, found->varattno);
		}
	}
	if (found == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("event_time \"%s\" is not a column of the query's FROM", name)));
	check_event_time_type(found, name);
	return (Node *) found;
}
