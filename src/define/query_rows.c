/*-------------------------------------------------------------------------
 *
 * query_rows.c
 *	  Queries that do not aggregate: their rows are those of the sink.
 *
 * The inner query is the stream's own, with event time, record and the keys of
 * DISTINCT ON in front of its select list.  DISTINCT ON itself is left to
 * EXECUTE, which remembers keys from one micro-batch to the next.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "define_internal.h"

/*
 * Returns what a query makes of its rows.  "query" is analysed; it need not be
 * one that a stream can run.
 */
SaggQueryKind
sagg_query_kind(const Query *query)
{
	if (query->hasAggs || query->groupClause || query->groupingSets ||
		query->havingQual)
		return SAGG_AGGREGATION;
	return query->distinctClause ? SAGG_DEDUPLICATION : SAGG_ROWS;
}

/*
 * Append a column to the inner query; returns its number.
 */
static AttrNumber
add_column(List **inner, const void *expr)
{
	TargetEntry *tle = makeTargetEntry((Expr *) copyObject(expr),
									   list_length(*inner) + 1, NULL, false);

	tle->resname = psprintf("c%d", tle->resno);
	*inner = lappend(*inner, tle);
	return tle->resno;
}

static void
check_key(const SortGroupClause *clause, const SaggKey *key)
{
	if (get_typtype(key->type) == TYPTYPE_PSEUDO || !clause->hashable)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a stream cannot deduplicate by %s of type %s",
						key->name, format_type_be(key->type)),
				 errdetail("The type has no hash function for its equality.")));
}

/*
 * Collect the keys of DISTINCT ON.
 */
static void
take_keys(SaggQuery *result, const Query *query, List **inner)
{
	ListCell   *lc;

	result->keys = palloc0(sizeof(SaggKey) * Max(list_length(query->distinctClause), 1));
	foreach(lc, query->distinctClause)
	{
		SortGroupClause *clause = lfirst_node(SortGroupClause, lc);
		TargetEntry *tle = get_sortgroupclause_tle(clause, query->targetList);
		SaggKey    *key = &result->keys[result->nkeys++];

		key->name = sagg_expression_name(query, tle, psprintf("expression %d of DISTINCT ON",
															  result->nkeys));
		key->type = exprType((Node *) tle->expr);
		key->typmod = exprTypmod((Node *) tle->expr);
		key->collation = exprCollation((Node *) tle->expr);
		key->eqop = clause->eqop;
		check_key(clause, key);
		key->attno = add_column(inner, tle->expr);
	}
}

/*
 * Add the select list, as columns of the inner query in a row, and as the type
 * of the output.
 */
static void
take_output(SaggQuery *result, const Query *query, List **inner)
{
	List	   *output = NIL;
	ListCell   *lc;

	result->first_output = list_length(*inner) + 1;
	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (tle->resjunk)
			continue;
		(void) add_column(inner, tle->expr);
		output = lappend(output, tle);
	}
	result->output_desc = ExecCleanTypeFromTL(output);
}

/*
 * Fill in keys, output and inner query of "result", whose event time is the
 * one column of "inner" so far. "record" identifies the record of a row, or is
 * NULL.  Raises feature_not_supported for a key that cannot be looked up.
 */
void
sagg_take_rows(SaggQuery *result, const Query *query, List *inner, const Var *record)
{
	if (record)
		result->record = add_column(&inner, record);
	take_keys(result, query, &inner);
	take_output(result, query, &inner);

	result->inner = copyObject(unconstify(Query *, query));
	result->inner->targetList = inner;
	result->inner->distinctClause = NIL;
	result->inner->hasDistinctOn = false;
}
