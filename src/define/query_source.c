/*-------------------------------------------------------------------------
 *
 * query_source.c
 *	  Finds the source in a stream's query and checks every level on the way to
 *	  it.
 *
 * Every level between the source and the top only selects, projects and joins:
 * then each of its records becomes rows of the stream's query without looking at
 * other records (or batches).  There is one source, or several, or one several
 * times, in the branches of UNION ALL.  A WITH query on the way is turned into a
 * subquery, as the planner would do.
 *
 * Where joins and unions may repeat or multiply a record, or where records may
 * be rejected, the record's ctid is carried up through the levels, so that
 * EXECUTE can count records rather than rows (I5), and name one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"

#include "define_internal.h"
#include "read/read.h"

typedef struct SourceSearch
{
	List	   *sources;		/* OIDs of sources, each once, in the order
								 * they were found */
	int			found;			/* how often sources appear where a stream can
								 * read one */
	bool		repeated;		/* a source is read twice, by a WITH query */
	bool		multiplied;		/* a record may have several rows, by anything
								 * at any level */
	bool		semijoined;		/* a subquery in WHERE may become a join,
								 * which changes rows and their order */
	List	   *levels;			/* queries from the top down to this level */
} SourceSearch;

static bool locate_in_tree(Query *query, Node *node, SourceSearch *search);
static bool locate_in_relation(Query *query, int rtindex, SourceSearch *search);

static bool
count_sources(Node *node, void *context)
{
	int		   *count = context;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_RELATION && sagg_is_source(rte->relid))
			(*count)++;
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, count_sources, context,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, count_sources, context);
}

/*
 * Returns how often sources appear in a query, or in a part of one.
 */
int
sagg_count_sources(Node *node)
{
	int			count = 0;

	count_sources(node, &count);
	return count;
}

static bool
leave_children_out(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_RELATION && sagg_is_source(rte->relid))
			rte->inh = false;
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, leave_children_out, context,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, leave_children_out, context);
}

/*
 * Make the query read sources alone (ONLY), at every level: rows of tables
 * that inherit from one are not records.
 */
void
sagg_leave_children_out(Query *query)
{
	(void) leave_children_out((Node *) query, NULL);
}

static void
reject_level_with_hint(const char *clause, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the source of a stream cannot be below %s", clause),
			 errdetail("That would need all records of the topic, not those of a micro-batch."),
			 errhint("%s", hint)));
}

static void
reject_level(const char *clause)
{
	reject_level_with_hint(clause, "Between the source and the GROUP BY of the stream there can be WHERE, expressions, joins and UNION ALL.");
}

static bool
all_union_all(Node *node)
{
	SetOperationStmt *set = (SetOperationStmt *) node;

	if (!IsA(node, SetOperationStmt))
		return true;
	return set->op == SETOP_UNION && set->all &&
		all_union_all(set->larg) && all_union_all(set->rarg);
}

/*
 * Check a level below the top: it may select, project, join and append.
 */
static void
check_level(Query *query)
{
	ListCell   *lc;

	if (query->setOperations && !all_union_all(query->setOperations))
		reject_level("UNION without ALL, INTERSECT or EXCEPT");
	if (query->groupClause || query->groupingSets || query->hasAggs || query->havingQual)
		reject_level("GROUP BY or an aggregate");
	if (query->limitCount || query->limitOffset)
		reject_level("LIMIT or OFFSET");
	if (query->distinctClause)
		reject_level("DISTINCT");
	if (query->hasWindowFuncs)
		reject_level_with_hint("window functions", HINT_ONE_ROW_OF_EACH_KEY);
	if (query->hasTargetSRFs)
		reject_level("a set-returning function in a select list");
	if (query->rowMarks)
		reject_level("FOR UPDATE or FOR SHARE");
	foreach(lc, query->rtable)
	{
		if (sagg_hop_of_rte(lfirst_node(RangeTblEntry, lc)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("windows of stream_agg.hop cannot be in a subquery of FROM"),
					 errhint("Call stream_agg.hop in the select list of the stream's query, and group by it.")));
	}
}

/*
 * The order of rows below an aggregation means nothing: remove it, with the
 * columns that only served it.
 */
static void
drop_order(Query *query)
{
	List	   *kept = NIL;
	ListCell   *lc;

	if (query->sortClause == NIL)
		return;
	query->sortClause = NIL;
	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (tle->resjunk)
			continue;
		tle->ressortgroupref = 0;
		kept = lappend(kept, tle);
	}
	query->targetList = kept;
}

/*
 * Turn a reference to a WITH query into a subquery, when the source is in it.
 */
static void
inline_cte(RangeTblEntry *rte, SourceSearch *search)
{
	Query	   *owner;
	CommonTableExpr *cte = NULL;
	ListCell   *lc;

	owner = list_nth(search->levels,
					 list_length(search->levels) - 1 - (int) rte->ctelevelsup);
	foreach(lc, owner->cteList)
	{
		cte = lfirst_node(CommonTableExpr, lc);
		if (strcmp(cte->ctename, rte->ctename) == 0)
			break;
	}
	if (cte == NULL || cte->cterecursive)
		return;
	if (sagg_count_sources(cte->ctequery) == 0)
		return;
	if (cte->cterefcount > 1)
	{
		search->repeated = true;
		return;
	}

	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = copyObject(castNode(Query, cte->ctequery));
	rte->security_barrier = false;
	if (rte->ctelevelsup > 0)
		IncrementVarSublevelsUp((Node *) rte->subquery, rte->ctelevelsup, 1);
	rte->ctename = NULL;
	rte->ctelevelsup = 0;
	rte->coltypes = rte->coltypmods = rte->colcollations = NIL;
	owner->cteList = list_delete_ptr(owner->cteList, cte);
}

/*
 * Turn all such references in FROM into subqueries, at this level and below.
 */
static void
inline_ctes(Query *query, SourceSearch *search)
{
	ListCell   *lc;

	search->levels = lappend(search->levels, query);
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_CTE)
			inline_cte(rte, search);
		if (rte->rtekind == RTE_SUBQUERY)
			inline_ctes(rte->subquery, search);
	}
	search->levels = list_delete_last(search->levels);
}

/*
 * Look for sources in the branches of a UNION ALL.  Each branch must have one;
 * otherwise its rows would be added again in every batch.
 */
static bool
locate_in_union(Query *query, Node *node, SourceSearch *search)
{
	if (IsA(node, SetOperationStmt))
	{
		SetOperationStmt *set = (SetOperationStmt *) node;
		bool		left = locate_in_union(query, set->larg, search);

		return locate_in_union(query, set->rarg, search) && left;
	}
	if (!locate_in_relation(query, castNode(RangeTblRef, node)->rtindex, search))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("every branch of a UNION ALL with a source must read a source"),
				 errdetail("The rows of another branch would be added again in every micro-batch."),
				 errhint("Join tables with the source; or append their rows where the sink is queried.")));
	search->multiplied = true;
	return true;
}

/*
 * Look for the source in one item of FROM.
 */
static bool
locate_in_relation(Query *query, int rtindex, SourceSearch *search)
{
	RangeTblEntry *rte = rt_fetch(rtindex, query->rtable);
	Query	   *subquery = rte->subquery;

	if (rte->rtekind == RTE_RELATION && sagg_is_source(rte->relid))
	{
		search->sources = list_append_unique_oid(search->sources, rte->relid);
		search->found++;
		return true;
	}
	if (rte->rtekind != RTE_SUBQUERY || sagg_count_sources((Node *) subquery) == 0)
		return false;
	check_level(subquery);
	drop_order(subquery);
	if (subquery->setOperations)
		return locate_in_union(subquery, subquery->setOperations, search);
	return locate_in_tree(subquery, (Node *) subquery->jointree, search);
}

static void
reject_second_source(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the query of a stream can read a source only once"),
			 errdetail("Joining streams with streams is not supported."),
			 errhint("Sources can be appended to each other by UNION ALL in a subquery in FROM.")));
}

static void
reject_nullable_side(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the source of a stream cannot be on the nullable side of an outer join"),
			 errdetail("Whether a row of the other side has no match would be known only when all records are."),
			 errhint("Make it an inner join, or have the source on the preserved side.")));
}

/*
 * Returns whether there is a subquery that the planner may turn into a join.
 * "context" is not used.
 */
static bool
can_become_join(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink) &&
		(((SubLink *) node)->subLinkType == EXISTS_SUBLINK ||
		 ((SubLink *) node)->subLinkType == ANY_SUBLINK))
		return true;
	return expression_tree_walker(node, can_become_join, context);
}

static bool
locate_in_tree(Query *query, Node *node, SourceSearch *search)
{
	if (IsA(node, RangeTblRef))
		return locate_in_relation(query, ((RangeTblRef *) node)->rtindex, search);
	if (IsA(node, FromExpr))
	{
		FromExpr   *from = (FromExpr *) node;
		bool		found = false;
		ListCell   *lc;

		if (list_length(from->fromlist) > 1)
			search->multiplied = true;
		if (can_become_join(from->quals, NULL))
			search->semijoined = true;
		foreach(lc, from->fromlist)
		{
			if (!locate_in_tree(query, lfirst(lc), search))
				continue;
			if (found)
				reject_second_source();
			found = true;
		}
		return found;
	}
	else
	{
		JoinExpr   *join = castNode(JoinExpr, node);
		bool		left = locate_in_tree(query, join->larg, search);
		bool		right = locate_in_tree(query, join->rarg, search);

		search->multiplied = true;
		if (left && right)
			reject_second_source();
		if ((left && (join->jointype == JOIN_RIGHT || join->jointype == JOIN_FULL)) ||
			(right && (join->jointype == JOIN_LEFT || join->jointype == JOIN_FULL)))
			reject_nullable_side();
		return left || right;
	}
}

/*
 * Find the source of a stream's query, which is analysed and rewritten, and
 * bring the way to it into the form of subqueries.  Sets "record" to a Var of
 * "query" that identifies the record of a row, or to NULL where it is not
 * needed: a record has at most one row, "always" is false, and rows come in
 * the order of their records or "ordered" is false.  Sets "reordered" to
 * whether rows may come in another order, as those of joins do, including
 * joins that the planner makes of IN and EXISTS.  Returns the OIDs of the
 * sources; raises an error if there are none, or if one stands where a stream
 * cannot read it.
 */
List *
sagg_find_sources(Query *query, bool always, bool ordered, Var **record,
				  bool *reordered)
{
	SourceSearch search = {0};

	if (sagg_count_sources((Node *) query) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("the query of a stream must read a source"),
				 errdetail("None of its tables is a source, a foreign table over a topic."),
				 errhint("Create one with stream_agg.create_source().")));
	inline_ctes(query, &search);
	if (search.repeated)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a WITH query that reads a source can be referred to only once"),
				 errhint("Name the source itself in each branch of a UNION ALL.")));
	if (!locate_in_tree(query, (Node *) query->jointree, &search))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the source of a stream must be in FROM"),
				 errdetail("In a subquery of an expression it would be read as a whole for every row.")));
	if (sagg_count_sources((Node *) query) > search.found)
		reject_second_source();

	*reordered = search.multiplied || search.semijoined;
	*record = search.multiplied || always || (ordered && *reordered) ?
		sagg_carry_record(query) : NULL;
	return search.sources;
}
