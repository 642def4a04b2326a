/*-------------------------------------------------------------------------
 *
 * query_checks.c
 *	  Rejects queries that a stream cannot run, by their shape.
 *
 * A stream keeps groups between micro-batches, so a query that aggregates must
 * be one aggregation whose result can be brought up to date group by group.
 * For a query that does not aggregate, what becomes of a record must depend
 * only on the record itself, or on the keys that have been seen.  What needs
 * the whole result at once (ORDER BY, LIMIT, window functions), more than one
 * grouping, or gives another answer when a batch is retried (volatile
 * functions) is rejected here, each with its reason.
 *
 * This file never changes the query.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/heap.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

#include "compat.h"
#include "define_internal.h"
#include "read/read.h"
#include "streams/streams.h"

pg_noreturn static void reject(int sqlstate, const char *what, const char *detail,
							   const char *hint);

static void
reject(int sqlstate, const char *what, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("%s", what),
			 detail ? errdetail("%s", detail) : 0,
			 hint ? errhint("%s", hint) : 0));
}

static void
reject_feature(const char *what, const char *detail, const char *hint)
{
	reject(ERRCODE_FEATURE_NOT_SUPPORTED, what, detail, hint);
}

/*
 * Reject clauses over the result as a whole.
 */
static void
check_result_clauses(const Query *query, SaggQueryKind kind)
{
	const char *whole = kind == SAGG_AGGREGATION ?
	"A stream updates its result group by group." :
	"A stream writes rows as their records arrive.";

	if (query->setOperations)
		reject_feature("the query of a stream cannot be a UNION, INTERSECT or EXCEPT",
					   NULL, "Append sources to each other in a subquery: FROM (SELECT ... UNION ALL SELECT ...) AS u.");
	if (query->limitCount || query->limitOffset)
		reject_feature("the query of a stream cannot have LIMIT or OFFSET",
					   whole, "Use LIMIT where the sink is queried.");
	if (query->hasWindowFuncs)
		reject_feature("the query of a stream cannot have window functions",
					   whole, "Use window functions where the sink is queried. " HINT_ONE_ROW_OF_EACH_KEY);
	if (query->distinctClause && kind == SAGG_AGGREGATION)
		reject_feature("the query of a stream cannot have DISTINCT",
					   whole, "Group by the columns that must be distinct.");
	if (query->distinctClause && !query->hasDistinctOn)
		reject_feature("the query of a stream cannot have DISTINCT without ON",
					   "It would have to keep every row for ever.",
					   "Group by the columns that must be distinct, in output mode update, or use DISTINCT ON (columns) with event_time and watermark to leave out what is repeated within the watermark.");
	if (query->sortClause && kind == SAGG_DEDUPLICATION)
		reject_feature("the query of a stream cannot have ORDER BY",
					   "Of several records with equal keys, the first to arrive is kept.",
					   "Leave out ORDER BY. To keep the least or the greatest, group by the keys and use an aggregate.");
	if (query->sortClause)
		reject_feature("the query of a stream cannot have ORDER BY",
					   "The sink is a table and has no order.",
					   "Use ORDER BY where the sink is queried.");
	if (query->hasTargetSRFs && kind == SAGG_AGGREGATION)
		sagg_check_select_list_srfs(query);
}

/*
 * Check that there is one grouping; GROUP BY () does not count as one.
 */
static void
check_grouping(const Query *query)
{
	if (query->groupingSets == NIL ||
		(list_length(query->groupingSets) == 1 &&
		 linitial_node(GroupingSet, query->groupingSets)->kind == GROUPING_SET_EMPTY))
		return;
	reject_feature("the query of a stream cannot have GROUPING SETS, ROLLUP or CUBE",
				   NULL, "Create one stream per grouping.");
}

/*
 * Reject system columns: records have no place in a table and no transaction
 * that wrote them.
 */
static void
check_system_columns(const Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);
		int			attno;

		if (rte->rtekind != RTE_RELATION || !sagg_is_source(rte->relid))
			continue;
		for (attno = FirstLowInvalidHeapAttributeNumber + 1; attno < 0; attno++)
		{
			if (attno != TableOidAttributeNumber &&
				bms_is_member(attno - FirstLowInvalidHeapAttributeNumber,
							  SAGG_SELECTED_COLUMNS(query, rte)))
				reject_feature(psprintf("the query of a stream cannot use column \"%s\" of a source",
										NameStr(SystemAttributeDefinition(attno)->attname)),
							   NULL, "Columns with the options metadata 'partition' and metadata 'offset' identify a record.");
		}
	}
}

/*
 * Check what may stand anywhere in a query, also where it reads only tables.
 */
static bool
check_everywhere(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		const Query *query = (Query *) node;

		if (query->hasModifyingCTE)
			reject_feature("the query of a stream cannot modify data", NULL, NULL);
		if (query->rowMarks)
			reject_feature("the query of a stream cannot lock rows", NULL,
						   "Leave out FOR UPDATE and FOR SHARE.");
		check_system_columns(query);
		return query_tree_walker((Query *) node, check_everywhere, context,
								 QTW_EXAMINE_RTES_BEFORE);
	}
	if (IsA(node, RangeTblEntry))
	{
		const TableSampleClause *sample = ((RangeTblEntry *) node)->tablesample;

		if (sample && sample->repeatable == NULL)
			reject_feature("the query of a stream cannot sample a table without REPEATABLE",
						   "A micro-batch that is retried must give the same result.",
						   "Add REPEATABLE (seed) to TABLESAMPLE.");
		return false;
	}
	if (IsA(node, CommonTableExpr))
	{
		const CommonTableExpr *cte = (CommonTableExpr *) node;

		if (cte->cterecursive && sagg_count_sources(cte->ctequery) > 0)
			reject_feature("the source of a stream cannot be in a recursive WITH query",
						   "That would need all records of the topic, not those of a micro-batch.",
						   "A recursive WITH query over tables can be joined with the source.");
	}
	return expression_tree_walker(node, check_everywhere, context);
}

/*
 * Note a volatile function in "context", an Oid.
 */
static bool
is_volatile(Oid function, void *context)
{
	if (func_volatile(function) != PROVOLATILE_VOLATILE)
		return false;
	*(Oid *) context = function;
	return true;
}

static bool
find_volatile_function(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, is_volatile, context))
		return true;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_volatile_function, context, 0);
	return expression_tree_walker(node, find_volatile_function, context);
}

static void
check_volatile_functions(const Query *query)
{
	Oid			function = InvalidOid;

	if (!contain_volatile_functions((Node *) query))
		return;
	(void) find_volatile_function((Node *) query, &function);
	reject_feature("the query of a stream cannot call volatile functions",
				   OidIsValid(function) ?
				   psprintf("Function %s is volatile. A micro-batch that is retried must give the same result.",
							format_procedure(function)) :
				   "A micro-batch that is retried must give the same result.",
				   "now() is the time of the micro-batch and may be used.");
}

static bool
find_grouping_function(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, GroupingFunc))
		return true;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_grouping_function, context, 0);
	return expression_tree_walker(node, find_grouping_function, context);
}

static bool
find_temporary_table(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		const RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_RELATION &&
			get_rel_persistence(rte->relid) == RELPERSISTENCE_TEMP)
			*(Oid *) context = rte->relid;
		return OidIsValid(*(Oid *) context);
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, find_temporary_table, context,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, find_temporary_table, context);
}

/*
 * Reject an analysed query over a temporary table.  Raises feature_not_supported.
 */
void
sagg_check_no_temporary(const Query *query)
{
	Oid			table = InvalidOid;

	if (!isQueryUsingTempRelation(unconstify(Query *, query)))
		return;
	(void) find_temporary_table((Node *) query, &table);
	reject_feature("the query of a stream cannot use temporary tables",
				   OidIsValid(table) ?
				   psprintf("Table \"%s\" is temporary, and the stream runs in a session of its own.",
							get_rel_name(table)) :
				   "The stream runs in a session of its own.",
				   "Use an ordinary table.");
}

/*
 * Reject a query that no stream can run.  "query" is analysed and rewritten.
 * Raises feature_not_supported.
 */
void
sagg_check_query_shape(const Query *query, SaggQueryKind kind)
{
	if (query->commandType != CMD_SELECT || query->utilityStmt)
		reject_feature("the query of a stream must be a SELECT", NULL, NULL);
	if (ExecCleanTargetListLength(query->targetList) == 0)
		reject(ERRCODE_SYNTAX_ERROR, "the query of a stream has no columns",
			   "The select list is empty, so there is nothing to write.",
			   "Name columns after SELECT.");
	check_result_clauses(query, kind);
	check_grouping(query);
	(void) check_everywhere((Node *) query, NULL);
	if (find_grouping_function((Node *) query->targetList, NULL) ||
		find_grouping_function(query->havingQual, NULL))
		reject_feature("the query of a stream cannot call GROUPING()", NULL, NULL);
	check_volatile_functions(query);
	sagg_check_no_temporary(query);
}

/*
 * Reject a query without aggregation that no stream can run.
 */
static void
check_rows_mode(const SaggQuery *result, SaggOutputMode mode, bool has_watermark)
{
	if (mode != SAGG_APPEND)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("output mode \"%s\" needs a query that aggregates",
						sagg_mode_name(mode)),
				 errdetail("Without GROUP BY and aggregate functions rows are written once, and never change."),
				 errhint("Use output_mode => 'append'.")));
	if (result->kind == SAGG_DEDUPLICATION && !has_watermark)
		reject(ERRCODE_INVALID_PARAMETER_VALUE,
			   "DISTINCT ON in the query of a stream needs a watermark",
			   "Keys are remembered for the watermark's delay; without one all of them would be kept for ever.",
			   "Name the column of the event time as event_time and give a watermark, for example watermark => '10 minutes'. To keep every key for ever, group by the keys in output mode update.");
}

/*
 * Reject options that are about windows, for a query that does not aggregate.
 */
void
sagg_check_rows_options(const SaggStreamOptions *options)
{
	if (options->watermark_policy == SAGG_WATERMARK_PER_PARTITION)
		reject_feature("watermark_policy \"per_partition\" needs a query that aggregates",
					   "Rows are written, and keys are forgotten, by the watermark of all partitions.",
					   "Leave it out.");
	if (options->late_records)
		reject_feature("late_records needs a query that aggregates",
					   "They are kept to repair windows.", "Leave it out.");
}

/*
 * Reject what an output mode, or a watermark, cannot do with the analysed
 * query.
 */
void
sagg_check_query_mode(const SaggQuery *result, SaggOutputMode mode,
					  bool has_watermark)
{
	bool		aggregates = result->kind == SAGG_AGGREGATION;

	if (aggregates && mode == SAGG_APPEND && result->window.kind == SAGG_WINDOW_NONE)
		reject(ERRCODE_INVALID_PARAMETER_VALUE,
			   "output mode \"append\" needs a window in GROUP BY",
			   "A group without a window never ends, so it would never be written.",
			   result->window_hint ? result->window_hint : has_watermark ?
			   "Group by stream_agg.tumble(column, size), or use output_mode => 'update'." :
			   "Group by stream_agg.tumble(column, size) and give a watermark, or use output_mode => 'update'.");
	if (has_watermark && !result->has_event_time)
		reject(ERRCODE_INVALID_PARAMETER_VALUE,
			   "a watermark needs an event-time column",
			   aggregates ? "The query groups by no window, and no event_time is given." :
			   "No event_time is given.",
			   result->window_hint ? result->window_hint :
			   aggregates ? "Group by stream_agg.tumble(column, size), or name the column as event_time." :
			   "Name the column as event_time.");
	if (!aggregates)
		check_rows_mode(result, mode, has_watermark);
	else if (mode == SAGG_APPEND && !has_watermark)
		reject(ERRCODE_INVALID_PARAMETER_VALUE,
			   "output mode \"append\" needs a watermark",
			   "A window is written once, when the watermark says that no more of its records will come.",
			   "Give a watermark, for example watermark => '10 minutes', or use output_mode => 'update'.");
}

/*
 * Reject grouping keys that cannot be looked up or written.  "name" is for
 * messages.
 */
void
sagg_check_key(const SortGroupClause *clause, Oid type, const char *name)
{
	if (get_typtype(type) == TYPTYPE_PSEUDO || !clause->hashable)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a stream cannot group by %s of type %s",
						name, format_type_be(type)),
				 errdetail("The type has no hash function for its equality.")));
}

/*
 * Reject direct arguments of an aggregate that cannot be computed per group.
 */
void
sagg_check_direct_arguments(const Aggref *aggref)
{
	if (checkExprHasSubLink((Node *) aggref->aggdirectargs))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a stream cannot compute %s with a subquery as direct argument",
						get_func_name(aggref->aggfnoid)),
				 errhint("Join the table and group by its column.")));
}
