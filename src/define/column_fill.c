/*-------------------------------------------------------------------------
 *
 * column_fill.c
 *	  Fills the columns that alter_stream adds, in the rows of the sink whose
 *	  groups the state has.
 *
 * It fills columns that the state determines: expressions over keys and over
 * aggregates that continue with their state.  In a group that exists already,
 * a new aggregate lacks the earlier records, so nothing is written for it.
 * The rows that output mode append has written are of groups that are no
 * longer in the state.
 *
 * Everything runs in the caller's transaction, as the stream's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"

#include "define_internal.h"
#include "execute/execute.h"
#include "sink_kinds.h"
#include "write/write.h"

typedef struct FreshSearch
{
	const SaggQuery *query;
	const SaggQueryChange *change;
	int			level;			/* depth of subqueries */
} FreshSearch;

/*
 * Returns whether an expression over the groups uses an aggregate that has no
 * state yet.
 */
static bool
uses_fresh(Node *node, void *arg)
{
	FreshSearch *search = arg;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		bool		result;

		search->level++;
		result = query_tree_walker((Query *) node, uses_fresh, search, 0);
		search->level--;
		return result;
	}
	if (IsA(node, Var))
	{
		const SaggQuery *query = search->query;
		Var		   *var = (Var *) node;
		int			aggno = var->varattno - 1 - (query->groups_desc->natts - query->naggs);

		if ((int) var->varlevelsup != search->level || aggno < 0)
			return false;
		if (query->aggs[aggno].keeps_inputs)
			aggno = query->aggs[aggno].inputs;
		return search->change->origins[aggno] < 0;
	}
	return expression_tree_walker(node, uses_fresh, search);
}

/*
 * Returns the columns among those added that the state determines, by number.
 */
static List *
told_columns(const SaggQuery *query, const SaggQueryChange *change)
{
	FreshSearch search = {.query = query, .change = change};
	List	   *columns = NIL;
	ListCell   *lc;

	foreach(lc, change->added)
	{
		AttrNumber	attno = lfirst_int(lc);
		TargetEntry *tle = list_nth_node(TargetEntry, query->outer->targetList, attno - 1);

		if (!uses_fresh((Node *) tle->expr, &search))
			columns = lappend_int(columns, attno);
	}
	return columns;
}

/*
 * Returns the names of columns, for messages.
 */
static char *
column_names(const SaggQuery *query, List *columns)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, columns)
		appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "",
						 NameStr(TupleDescAttr(query->output_desc, lfirst_int(lc) - 1)->attname));
	return names.data;
}

/*
 * Returns whether sagg_fill_columns may write, for a stream of this kind.
 */
bool
sagg_may_fill_columns(const SaggStream *stream, const SaggQuery *query)
{
	return query->kind == SAGG_AGGREGATION && stream->mode != SAGG_APPEND &&
		sagg_sink_has(stream->sink, SAGG_SINK_TRANSACTIONAL);
}

/*
 * Fill the columns that "query" has got by "change"; "execution" has the state as
 * of that query.  Runs as the stream's owner, who is the current user.  Returns
 * the columns that are filled, and how many rows in *rows.
 */
List *
sagg_fill_columns(const SaggStream *stream, const SaggQuery *query,
				  const SaggQueryChange *change, SaggExecution *execution, int64 *rows)
{
	List	   *columns = told_columns(query, change);
	SaggOutput	output;

	if (columns == NIL || !sagg_may_fill_columns(stream, query))
		return NIL;
	sagg_execution_open_windows(execution);
	sagg_execution_output(execution, &output);
	*rows = sagg_sink_fill(stream, query, &output, columns);
	sagg_execution_output_end(&output);
	return columns;
}

/*
 * Report which of the new columns are filled, and where.
 */
void
sagg_tell_filled_columns(const SaggStream *stream, const SaggQuery *query,
						 const SaggQueryChange *change)
{
	List	   *told = told_columns(query, change);

	if (change->filled != NIL)
		ereport(NOTICE,
				(errmsg_plural("column %s of sink \"%s\" is filled in the rows of groups in the state",
							   "columns %s of sink \"%s\" are filled in the rows of groups in the state",
							   list_length(change->filled), column_names(query, change->filled),
							   get_rel_name(stream->sink)),
				 errdetail("Rows filled: " INT64_FORMAT ". Rows of closed windows are not changed.",
						   change->rows_filled)));
	else if (told != NIL && stream->mode == SAGG_APPEND && query->kind == SAGG_AGGREGATION)
		ereport(NOTICE,
				(errmsg_plural("column %s of sink \"%s\" is not filled in existing rows",
							   "columns %s of sink \"%s\" are not filled in existing rows",
							   list_length(told), column_names(query, told),
							   get_rel_name(stream->sink)),
				 errdetail("Output mode \"append\" writes windows that are closed, and their groups are no longer in the state."),
				 errhint("Use stream_agg.reset_stream with results => true to compute them from records that Kafka still has.")));
}
