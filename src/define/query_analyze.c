/*-------------------------------------------------------------------------
 *
 * query_analyze.c
 *	  Turns a stream's SELECT into a SaggQuery, by changing PostgreSQL's query
 *	  tree.
 *
 * The query is rewritten first (views, row-level security), then split at its
 * GROUP BY: "inner" yields the rows to aggregate, and "outer" turns groups
 * into output rows.  Both are ready for the planner.  No text is ever put
 * together.
 *
 * It runs at creation, to reject queries that cannot run, and in every
 * micro-batch, so that it sees renames and changes of the tables it joins.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"
#include "parser/parse_clause.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "define_internal.h"
#include "execute/execute.h"
#include "streams/streams.h"

typedef struct Analysis
{
	Query	   *query;			/* rewritten */
	SaggQuery  *result;
	List	   *inner;			/* target list of the inner query */
	List	   *columns;		/* SaggGroupColumn, in the order of the groups */
	Node	   *windowexpr;		/* the expression that the window column
								 * replaces */
	Node	   *eventtime;
} Analysis;

/*
 * Expand views and apply row-level security.  "query" is scribbled on.
 */
static Query *
rewrite(Query *query)
{
	List	   *queries;

	AcquireRewriteLocks(query, true, false);
	queries = QueryRewrite(query);
	if (list_length(queries) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a stream must be one SELECT")));
	return linitial_node(Query, queries);
}

/*
 * Replace columns of joins, and of GROUP BY, by the expressions they stand
 * for.
 */
void
sagg_flatten_aliases(Query *query)
{
	query->targetList = (List *) SAGG_FLATTEN_VARS(query, (Node *) query->targetList);
	query->havingQual = SAGG_FLATTEN_VARS(query, query->havingQual);
	SAGG_FORGET_GROUP_RTE(query);
}

/*
 * Returns the number of the inner query's column with this expression; adds
 * one if there is none yet.
 */
static AttrNumber
inner_column(Analysis *a, Node *expr)
{
	TargetEntry *tle = tlist_member((Expr *) expr, a->inner);

	if (tle == NULL)
	{
		tle = makeTargetEntry(copyObject((Expr *) expr),
							  list_length(a->inner) + 1, NULL, false);
		tle->resname = psprintf("c%d", tle->resno);
		a->inner = lappend(a->inner, tle);
	}
	return tle->resno;
}

static void
add_group_column(Analysis *a, Node *expr, char *name, int keyno)
{
	SaggGroupColumn *column = palloc(sizeof(SaggGroupColumn));

	column->expr = expr;
	column->name = name;
	column->keyno = keyno;
	a->columns = lappend(a->columns, column);
}

/*
 * Returns a name for an expression, as users would write it; "unnamed" if it
 * has none.
 */
char *
sagg_expression_name(const Query *query, const TargetEntry *tle, char *unnamed)
{
	if (IsA(tle->expr, Var))
	{
		Var		   *var = (Var *) tle->expr;

		return get_rte_attribute_name(rt_fetch(var->varno, query->rtable), var->varattno);
	}
	if (tle->resname && !tle->resjunk)
		return pstrdup(tle->resname);
	if (IsA(tle->expr, FuncExpr))
		return psprintf("%s(...)", get_func_name(((FuncExpr *) tle->expr)->funcid));
	return unnamed;
}

/*
 * Take a window from GROUP BY; returns false if the expression is not a
 * window.
 */
static bool
take_window(Analysis *a, Node *groupexpr)
{
	SaggWindow	window = {0};
	Node	   *windowexpr;
	Node	   *eventtime;

	if (!sagg_match_window(groupexpr, &window, &windowexpr, &eventtime))
		return false;
	if (a->windowexpr != NULL)
	{
		if (!equal(a->windowexpr, windowexpr))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the query of a stream can group by one window only"),
					 errhint("Create one stream per window.")));
		return true;
	}
	a->windowexpr = windowexpr;
	a->eventtime = eventtime;
	a->result->window = window;
	return true;
}

/*
 * If there is no other window, take the smallest window of GROUP BY that
 * date_trunc or a cast to date makes of the event time; the others are keys.
 * "column" is the one the user named, or NULL.
 */
static void
take_truncation(Analysis *a, const char *name, Node *column, bool has_watermark)
{
	ListCell   *lc;

	foreach(lc, a->query->groupClause)
	{
		Node	   *expr = (Node *) get_sortgroupclause_tle(lfirst(lc), a->query->targetList)->expr;
		SaggWindow	window = {0};
		Node	   *eventtime;

		if (!sagg_match_truncation(a->query, expr, &window, &eventtime, &a->result->window_hint))
			continue;
		if (!has_watermark)
			a->result->window_hint = "With a watermark date_trunc and casts to date are windows: give one, for example watermark => '10 minutes'.";
		else if (column && !equal(strip_implicit_coercions(eventtime), column))
			a->result->window_hint = psprintf("date_trunc and casts to date are windows of the event time only, which is \"%s\".", name);
		else if (a->windowexpr && !equal(a->eventtime, eventtime))
			ereport(ERROR,
					(errcode(ERRCODE_AMBIGUOUS_COLUMN),
					 errmsg("the query of a stream groups by date_trunc or dates of two times, and either could be the event time"),
					 errhint("Name the column of one as event_time.")));
		else if (a->windowexpr == NULL || window.size < a->result->window.size)
		{
			a->windowexpr = expr;
			a->eventtime = eventtime;
			a->result->window = window;
		}
	}
}

/*
 * Set the event time: the argument of the window, or the column the user
 * named.
 */
static void
settle_event_time(Analysis *a, const char *name, bool has_watermark)
{
	Node	   *column = name ? sagg_event_time_column(a->query, name) : NULL;

	if (a->windowexpr == NULL && a->result->kind == SAGG_AGGREGATION)
		take_truncation(a, name, column, has_watermark);
	if (a->eventtime == NULL)
		a->eventtime = column;
	else if (column && !equal(strip_implicit_coercions(a->eventtime), column))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event_time \"%s\" is not the time of the query's window", name),
				 errhint("Leave out event_time: the argument of the window function is the event time.")));

	a->result->has_event_time = a->eventtime != NULL;
	if (a->eventtime == NULL)
		a->eventtime = (Node *) makeNullConst(TIMESTAMPTZOID, -1, InvalidOid);
	a->result->event_time = inner_column(a, a->eventtime);
	Assert(a->result->event_time == 1);
}

/*
 * Set the gap of a session that each record gives itself.
 */
static void
settle_gap(Analysis *a)
{
	SaggWindow *window = &a->result->window;

	if (window->kind == SAGG_WINDOW_SESSION && window->gap == 0)
		window->gap_column = inner_column(a, lsecond(castNode(FuncExpr, a->windowexpr)->args));
}

/*
 * Collect the grouping keys other than the window.
 */
static void
take_keys(Analysis *a)
{
	SaggQuery  *result = a->result;
	List	   *groupclause = a->query->groupClause;
	ListCell   *lc;
	int			n = 0;

	result->keys = palloc0(sizeof(SaggKey) * list_length(groupclause));
	foreach(lc, groupclause)
	{
		SortGroupClause *clause = lfirst_node(SortGroupClause, lc);
		TargetEntry *tle = get_sortgroupclause_tle(clause, a->query->targetList);
		Node	   *expr = (Node *) tle->expr;
		SaggWindow	window;
		Node	   *windowexpr;
		Node	   *eventtime;
		SaggKey    *key;

		n++;
		if (equal(expr, a->windowexpr) ||
			sagg_match_window(expr, &window, &windowexpr, &eventtime))
			continue;
		key = &result->keys[result->nkeys++];
		key->name = sagg_expression_name(a->query, tle,
										 psprintf("expression %d of GROUP BY", n));
		key->type = exprType(expr);
		key->typmod = exprTypmod(expr);
		key->collation = exprCollation(expr);
		key->eqop = clause->eqop;
		sagg_check_key(clause, key->type, key->name);
		key->attno = inner_column(a, expr);
		add_group_column(a, expr, key->name, result->nkeys);
	}
}

/*
 * Wrap an argument so that it is not evaluated for rows that FILTER leaves
 * out.
 */
static Node *
guard_argument(Node *arg, Expr *filter)
{
	CaseExpr   *guard;
	CaseWhen   *when;

	if (filter == NULL || IsA(arg, Var) || IsA(arg, Const))
		return arg;
	when = makeNode(CaseWhen);
	when->expr = copyObject(filter);
	when->result = (Expr *) copyObject(arg);
	when->location = -1;
	guard = makeNode(CaseExpr);
	guard->casetype = exprType(arg);
	guard->casecollid = exprCollation(arg);
	guard->args = list_make1(when);
	guard->defresult = (Expr *) makeNullConst(exprType(arg), exprTypmod(arg),
											  exprCollation(arg));
	guard->location = -1;
	return (Node *) guard;
}

/*
 * Decide how the state of the last aggregate is kept.  Aggregates with equal
 * inputs share them.
 */
static void
settle_inputs(SaggQuery *result, bool *strict)
{
	int			n = result->naggs - 1;
	SaggAgg    *agg = &result->aggs[n];

	agg->inputs = n;
	agg->keeps_inputs = sagg_aggregate_keeps_inputs(agg->aggref,
													result->window.kind == SAGG_WINDOW_SESSION,
													&strict[n]);
	for (int i = 0; agg->keeps_inputs && i < n; i++)
	{
		const SaggAgg *other = &result->aggs[i];

		if (other->keeps_inputs && other->inputs == i &&
			strict[i] == strict[n] &&
			(other->aggref->aggdistinct != NIL) == (agg->aggref->aggdistinct != NIL) &&
			list_length(other->aggref->aggargtypes) == list_length(agg->aggref->aggargtypes) &&
			other->filter == agg->filter &&
			other->nargs == agg->nargs &&
			memcmp(other->args, agg->args, sizeof(AttrNumber) * agg->nargs) == 0)
			agg->inputs = i;
	}
	agg->shares_inputs = agg->inputs != n;
}

static void
take_aggregates(Analysis *a)
{
	SaggQuery  *result = a->result;
	List	   *keys = list_copy(a->columns);
	List	   *aggregates = sagg_collect_aggregates(a->query);
	bool	   *strict = palloc(sizeof(bool) * Max(list_length(aggregates), 1));
	ListCell   *lc;

	result->aggs = palloc0(sizeof(SaggAgg) * Max(list_length(aggregates), 1));
	foreach(lc, aggregates)
	{
		Aggref	   *aggref = lfirst_node(Aggref, lc);
		SaggAgg    *agg = &result->aggs[result->naggs++];
		ListCell   *la;

		sagg_check_direct_arguments(aggref);
		agg->aggref = aggref;
		agg->args = palloc(sizeof(AttrNumber) * Max(list_length(aggref->args), 1));
		foreach(la, aggref->args)
		{
			Node	   *arg = (Node *) lfirst_node(TargetEntry, la)->expr;

			agg->args[agg->nargs++] = inner_column(a, guard_argument(arg, aggref->aggfilter));
		}
		if (aggref->aggfilter)
			agg->filter = inner_column(a, (Node *) aggref->aggfilter);
		agg->direct_args = (List *) sagg_over_groups(a->query, keys,
													 (Node *) aggref->aggdirectargs);
		settle_inputs(result, strict);
		add_group_column(a, (Node *) aggref, get_func_name(aggref->aggfnoid), -1);
	}
}

/*
 * Define the columns of the groups: [window,] keys, results of the aggregates.
 */
static TupleDesc
make_groups_desc(const List *columns)
{
	TupleDesc	desc = CreateTemplateTupleDesc(list_length(columns));
	AttrNumber	attno = 0;
	ListCell   *lc;

	foreach(lc, columns)
	{
		SaggGroupColumn *column = lfirst(lc);

		attno++;
		TupleDescInitEntry(desc, attno, psprintf("g%d", attno),
						   exprType(column->expr), exprTypmod(column->expr), 0);
		TupleDescInitEntryCollation(desc, attno, exprCollation(column->expr));
	}
	return desc;
}

/*
 * Build the inner query: that of the stream up to its GROUP BY, with the
 * columns collected.
 */
static Query *
make_inner(Analysis *a)
{
	Query	   *inner = copyObject(a->query);

	inner->targetList = a->inner;
	inner->groupClause = NIL;
	inner->groupingSets = NIL;
	inner->groupDistinct = false;
	inner->havingQual = NULL;
	inner->hasAggs = false;
	inner->hasTargetSRFs = false;
	return inner;
}

/*
 * Sort the rows by the order of their records, which they have anyway where
 * nothing is joined.
 */
static void
order_by_record(Query *inner, AttrNumber record)
{
	TargetEntry *tle = list_nth_node(TargetEntry, inner->targetList, record - 1);
	SortGroupClause *clause = makeNode(SortGroupClause);

	clause->tleSortGroupRef = tle->ressortgroupref =
		assignSortGroupRef(tle, inner->targetList);
	clause->eqop = TIDEqualOperator;
	clause->sortop = TIDLessOperator;
	clause->hashable = true;
	inner->sortClause = list_make1(clause);
}

/*
 * Returns whether EXECUTE needs the rows in the order of their records.
 */
static bool
needs_order(const SaggQuery *result, const SaggStreamOptions *options)
{
	return result->kind == SAGG_DEDUPLICATION ||
		options->watermark_policy == SAGG_WATERMARK_PER_PARTITION ||
		options->late_records;
}

/*
 * Returns whether EXECUTE needs the partition of each row's record.  Where
 * rows come in the order of their records, the scan provides it.
 */
static bool
tells_partitions(bool has_watermark, const SaggStreamOptions *options)
{
	return has_watermark && options->watermark_policy == SAGG_WATERMARK_ALIGNED;
}

/*
 * Returns whether every row must identify its record.  Otherwise only the rows
 * of joins do.
 */
static bool
names_records(const SaggQuery *result, const Query *query,
			  const SaggStreamOptions *options)
{
	return options->on_error != SAGG_FAIL || options->late_records ||
		options->watermark_policy == SAGG_WATERMARK_PER_PARTITION ||
		(query->hasTargetSRFs && result->kind != SAGG_AGGREGATION);
}

/*
 * Analyse window, keys and aggregates, and build the inner and outer queries.
 */
static void
take_groups(Analysis *a, const SaggStreamOptions *options, Var *record)
{
	SaggQuery  *result = a->result;

	if (a->windowexpr)
		add_group_column(a, a->windowexpr, "the window", 0);
	take_keys(a);
	take_aggregates(a);
	sagg_settle_panes(result,
					  options->watermark_policy == SAGG_WATERMARK_PER_PARTITION);
	if (record)
		result->record = inner_column(a, (Node *) record);
	result->single_row = a->query->groupClause == NIL;
	result->groups_desc = make_groups_desc(a->columns);
	sagg_build_outer(result, a->query, a->columns);
	result->inner = make_inner(a);
}

/*
 * Analyse a stream's query.  "query" is the output of parse analysis and is
 * scribbled on; "event_time" is the column the user named, or NULL.  The result
 * is allocated in the current context.  Raises an error, with its reason, for a
 * query that a stream in this mode cannot run.
 */
SaggQuery *
sagg_query_analyze(Query *query, const char *event_time, SaggOutputMode mode,
				   bool has_watermark, const SaggStreamOptions *options)
{
	Analysis	a = {0};
	SaggQuery  *result = palloc0(sizeof(SaggQuery));
	Var		   *record;
	bool		reordered;
	ListCell   *lc;

	result->catalog_changes = sagg_catalog_changes();
	a.result = result;
	a.query = query = rewrite(query);
	sagg_leave_children_out(query);
	result->kind = sagg_query_kind(query);
	sagg_check_query_shape(query, result->kind);
	sagg_flatten_aliases(query);
	sagg_spell_out_bounds(query);
	if (result->kind == SAGG_AGGREGATION)
		sagg_take_hop_from_lateral(query);
	result->sources = sagg_find_sources(query, names_records(result, query, options),
										needs_order(result, options) ||
										tells_partitions(has_watermark, options), &record, &reordered);
	result->repeats_sources = sagg_count_sources((Node *) query) > list_length(result->sources);

	foreach(lc, query->groupClause)
		take_window(&a, (Node *) get_sortgroupclause_tle(lfirst(lc), query->targetList)->expr);
	settle_event_time(&a, event_time, has_watermark);
	settle_gap(&a);
	sagg_check_query_mode(result, mode, has_watermark);
	if (result->kind != SAGG_AGGREGATION)
		sagg_check_rows_options(options);

	if (result->kind == SAGG_AGGREGATION)
		take_groups(&a, options, record);
	else
		sagg_take_rows(result, query, a.inner, record);
	if (reordered && needs_order(result, options))
		order_by_record(result->inner, result->record);
	sagg_query_identify(result);
	return result;
}

/*
 * Check that the catalog's sources are those of the query.  They differ only
 * if somebody has written to the catalog.
 */
static void
check_sources_known(const SaggStream *stream, const SaggQuery *query)
{
	if (list_difference_oid(stream->sources, query->sources) == NIL &&
		list_difference_oid(query->sources, stream->sources) == NIL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
			 errmsg("the sources of stream \"%s\" are not those of its query",
					sagg_stream_title(stream->name)),
			 errhint("Drop the stream and create it again.")));
}

/*
 * Analyse the query of a stream from its view, as the stream's owner:
 * constants are folded, which calls functions that may be the owner's own
 * (I8).  Raises ERRCODE_SAGG_DEFINITION_CHANGED when the view does not exist
 * any more, or its sources differ from those of "stream", if that has some.
 */
SaggQuery *
sagg_query_of_view(const SaggStream *stream)
{
	Relation	view = try_relation_open(stream->view, AccessShareLock);
	SaggQuery  *result;
	Query	   *query;
	SaggOwnerContext owner;

	if (view == NULL || view->rd_rel->relkind != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
				 errmsg("the query of stream \"%s\" does not exist any more", sagg_stream_title(stream->name))));
	query = copyObject(get_view_query(view));
	relation_close(view, NoLock);

	sagg_become_stream_owner(&owner, stream);
	result = sagg_query_analyze(query, stream->event_time, stream->mode,
								stream->has_watermark,
								&stream->options);
	if (result->kind == SAGG_DEDUPLICATION)
		result->store_fingerprint = hash_combine64(result->fingerprint,
												   (uint64) stream->watermark_delay);
	sagg_restore_user(&owner);
	if (stream->owners)
		sagg_stream_check_owners(stream);	/* now that they are locked */
	if (stream->sources != NIL)
		check_sources_known(stream, result);
	return result;
}
