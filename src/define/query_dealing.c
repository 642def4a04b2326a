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

#include "access/table.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "define_internal.h"
#include "execute/execute.h"
#include "read/read.h"

/*
 * Returns whether other processes can read a relation as of the same snapshot: it is
 * not temporary, and neither it nor what inherits from it is a foreign table that is
 * no source.  Temporary tables that inherit are for their session only.
 */
static bool
is_common_relation(Oid relid)
{
	List	   *all = has_subclass(relid) ? find_all_inheritors(relid, AccessShareLock, NULL) :
	list_make1_oid(relid);
	ListCell   *lc;

	if (get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
		return false;
	foreach(lc, all)
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE && !sagg_is_source(lfirst_oid(lc)))
			return false;
	}
	return true;
}

/*
 * Find a relation that is_common_relation is not true of.
 */
static bool
find_private_relation(Node *node, Oid *relid)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind != RTE_RELATION || is_common_relation(rte->relid))
			return false;
		*relid = rte->relid;
		return true;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_private_relation, relid,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, find_private_relation, relid);
}

static bool
is_parallel_safe_expression(Expr *expression)
{
	Query	   *query = makeNode(Query);

	query->commandType = CMD_SELECT;
	query->targetList = list_make1(makeTargetEntry(expression, 1, NULL, false));
	return max_parallel_hazard(query) == PROPARALLEL_SAFE;
}

static bool is_parallel_safe_type(Oid type);

static bool
is_parallel_safe_domain(Oid type)
{
	/* the reference registers itself in its context, and must not outlive it */
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext, "stream_agg domain",
												 ALLOCSET_SMALL_SIZES);
	DomainConstraintRef constraints;
	bool		safe = true;
	ListCell   *lc;

	InitDomainConstraintRef(type, &constraints, memory, false);
	foreach(lc, constraints.constraints)
	{
		DomainConstraintState *constraint = lfirst(lc);

		if (constraint->constrainttype == DOM_CONSTRAINT_CHECK)
			safe = safe && is_parallel_safe_expression(constraint->check_expr);
	}
	MemoryContextDelete(memory);
	return safe && is_parallel_safe_type(getBaseType(type));
}

static bool
has_parallel_safe_columns(Oid type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);
	bool		safe = true;

	for (int i = 0; safe && i < desc->natts; i++)
	{
		if (!TupleDescAttr(desc, i)->attisdropped)
			safe = is_parallel_safe_type(TupleDescAttr(desc, i)->atttypid);
	}
	ReleaseTupleDesc(desc);
	return safe;
}

/*
 * Returns whether the functions that make a value of a type from a record are
 * parallel safe: input functions, and those of domains.
 */
static bool
is_parallel_safe_type(Oid type)
{
	Oid			element = get_element_type(type);
	Oid			input;
	Oid			ioparam;

	check_stack_depth();
	if (OidIsValid(element))
		return is_parallel_safe_type(element);
	switch (get_typtype(type))
	{
		case TYPTYPE_DOMAIN:
			return is_parallel_safe_domain(type);
		case TYPTYPE_COMPOSITE:
			return has_parallel_safe_columns(type);
		case TYPTYPE_RANGE:
			return is_parallel_safe_type(get_range_subtype(type));
		case TYPTYPE_MULTIRANGE:
			return is_parallel_safe_type(get_multirange_range(type));
		default:
			getTypeInputInfo(type, &input, &ioparam);
			return func_parallel(input) == PROPARALLEL_SAFE;
	}
}

/*
 * Returns why records of a source cannot become rows in several processes, NULL if
 * they can.
 */
static char *
source_reason(Oid source)
{
	Relation	relation = table_open(source, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(relation);
	char	   *reason = NULL;

	for (int i = 0; reason == NULL && i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (!column->attisdropped && !is_parallel_safe_type(column->atttypid))
			reason = psprintf("type %s of column \"%s\" is not parallel safe",
							  format_type_be(column->atttypid), NameStr(column->attname));
	}
	table_close(relation, NoLock);
	return reason;
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
	ListCell   *lc;
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
	foreach(lc, query->sources)
	{
		char	   *reason = source_reason(lfirst_oid(lc));

		if (reason)
			return reason;
	}
	if (find_private_relation((Node *) query->inner, &relid))
		return psprintf("\"%s\" cannot be read by several processes", get_rel_name(relid));
	if (max_parallel_hazard(query->inner) != PROPARALLEL_SAFE)
		return pstrdup("an expression of the query is not parallel safe");
	return NULL;
}
