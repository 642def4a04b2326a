/*-------------------------------------------------------------------------
 *
 * query_source.c
 *	  Finds the source in a stream's query and says how it may be reached.
 *
 * The source appears once, and every level between it and the top only
 * selects, projects and joins: then each of its records becomes rows of the
 * stream's query without looking at other records (or batches).  A WITH query
 * on the way is turned into a subquery, as the planner would do.
 *
 * Where joins may repeat or multiply a record, or where records may be refused,
 * the record's ctid is carried up through the levels, so that EXECUTE can count
 * records rather than rows (I5), and name one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_relation.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "define_internal.h"
#include "read/read.h"

typedef struct SourceSearch
{
	Oid			source;
	int			count;			/* of appearances of sources */
	bool		joined;			/* with anything, at any level */
	List	   *levels;			/* queries from the top down to here */
	List	   *path;			/* range table indexes from the top */
} SourceSearch;

static bool locate_in_tree(Query *query, Node *node, SourceSearch *search);

static bool
count_sources(Node *node, void *context)
{
	SourceSearch *search = context;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		if (rte->rtekind == RTE_RELATION && sagg_is_source(rte->relid))
		{
			search->source = rte->relid;
			search->count++;
		}
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, count_sources, context,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, count_sources, context);
}

/*
 * How often sources appear in a query, or in a part of one.
 */
int
sagg_count_sources(Node *node)
{
	SourceSearch search = {0};

	count_sources(node, &search);
	return search.count;
}

static void
refuse_level(const char *clause)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the source of a stream cannot stand below %s", clause),
			 errdetail("That would need all records of the topic, not those of a micro-batch."),
			 errhint("Between the source and the GROUP BY of the stream there can be WHERE, expressions and joins.")));
}

/*
 * A level below the top may select, project and join.
 */
static void
check_level(Query *query)
{
	ListCell   *lc;

	if (query->setOperations)
		refuse_level("UNION, INTERSECT or EXCEPT");
	if (query->groupClause || query->groupingSets || query->hasAggs || query->havingQual)
		refuse_level("GROUP BY or an aggregate");
	if (query->limitCount || query->limitOffset)
		refuse_level("LIMIT or OFFSET");
	if (query->distinctClause)
		refuse_level("DISTINCT");
	if (query->hasWindowFuncs)
		refuse_level("window functions");
	if (query->hasTargetSRFs)
		refuse_level("a set-returning function in a select list");
	if (query->rowMarks)
		refuse_level("FOR UPDATE or FOR SHARE");
	foreach(lc, query->rtable)
	{
		if (sagg_hop_of_rte(lfirst_node(RangeTblEntry, lc)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("windows of stream_agg.hop cannot stand in a subquery of FROM"),
					 errhint("Call stream_agg.hop in the select list of the stream's query, and group by it.")));
	}
}

/*
 * The order of rows below an aggregation means nothing: leave it out, with
 * the columns that served it alone.
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
 * Make a reference to a WITH query a subquery, when the source is in it.
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
		search->count++;
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
 * The same for all references in FROM, at this level and below.
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
 * Look for the source in one item of FROM.
 */
static bool
locate_in_relation(Query *query, int rtindex, SourceSearch *search)
{
	RangeTblEntry *rte = rt_fetch(rtindex, query->rtable);
	bool		found = false;

	if (rte->rtekind == RTE_RELATION)
		found = rte->relid == search->source;
	else if (rte->rtekind == RTE_SUBQUERY &&
			 sagg_count_sources((Node *) rte->subquery) > 0)
	{
		check_level(rte->subquery);
		drop_order(rte->subquery);
		found = locate_in_tree(rte->subquery, (Node *) rte->subquery->jointree,
							   search);
	}
	if (found)
		search->path = lcons_int(rtindex, search->path);
	return found;
}

static void
refuse_nullable_side(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the source of a stream cannot be on the nullable side of an outer join"),
			 errdetail("Whether a row of the other side has no match would be known only when all records are."),
			 errhint("Make it an inner join, or have the source on the preserved side.")));
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
			search->joined = true;
		foreach(lc, from->fromlist)
			found |= locate_in_tree(query, lfirst(lc), search);
		return found;
	}
	else
	{
		JoinExpr   *join = castNode(JoinExpr, node);
		bool		left = locate_in_tree(query, join->larg, search);
		bool		right = locate_in_tree(query, join->rarg, search);

		search->joined = true;
		if ((left && (join->jointype == JOIN_RIGHT || join->jointype == JOIN_FULL)) ||
			(right && (join->jointype == JOIN_LEFT || join->jointype == JOIN_FULL)))
			refuse_nullable_side();
		return left || right;
	}
}

/*
 * The record's ctid as a Var of "query", carried up from the source.
 */
static Var *
carry_record(Query *query, List *path)
{
	int			rtindex = linitial_int(path);
	RangeTblEntry *rte = rt_fetch(rtindex, query->rtable);
	AttrNumber	attno = SelfItemPointerAttributeNumber;

	if (rte->rtekind == RTE_SUBQUERY)
	{
		Query	   *subquery = rte->subquery;
		Var		   *var = carry_record(subquery, list_copy_tail(path, 1));

		attno = list_length(subquery->targetList) + 1;
		subquery->targetList = lappend(subquery->targetList,
									   makeTargetEntry((Expr *) var, attno,
													   pstrdup("record"), false));
		rte->eref->colnames = lappend(rte->eref->colnames,
									  makeString(pstrdup("record")));
	}
	return makeVar(rtindex, attno, TIDOID, -1, InvalidOid, 0);
}

/*
 * Find the source of a stream's query, which is analysed and rewritten, and
 * bring the way to it into the form of subqueries.  Sets "record" to a Var of
 * "query" that tells the record of a row, or to NULL where no join can repeat
 * one and "always" is false; "joined" to whether one can.  Returns the source's
 * OID; raises an error if there is not exactly one source, or if it stands where
 * a stream cannot read it.
 */
Oid
sagg_find_source(Query *query, bool always, Var **record, bool *joined)
{
	SourceSearch search = {0};

	count_sources((Node *) query, &search);
	if (search.count == 1)
		inline_ctes(query, &search);
	if (search.count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("the query of a stream must read a source"),
				 errdetail("None of its tables is a foreign table of %s.", SAGG_FDW),
				 errhint("Create one with stream_agg.create_source().")));
	if (search.count == 1 &&
		!locate_in_tree(query, (Node *) query->jointree, &search))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the source of a stream must stand in FROM"),
				 errdetail("In a subquery of an expression it would be read as a whole for every row.")));
	if (search.count > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a stream can read a source only once"),
				 errdetail("Joining, or appending, streams with streams is not supported.")));

	*joined = search.joined;
	*record = search.joined || always ? carry_record(query, search.path) : NULL;
	return search.source;
}

/*
 * Let the query read a column, as the parser does for columns named in it.
 */
static void
request_column(Query *query, RangeTblEntry *rte, AttrNumber attno)
{
	Bitmapset **selected;

	if (rte->rtekind != RTE_RELATION)
		return;
#if PG_VERSION_NUM >= 160000
	selected = &getRTEPermissionInfo(query->rteperminfos, rte)->selectedCols;
#else
	selected = &rte->selectedCols;
#endif
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
 * The column of FROM that the user named as event time, as a Var of "query".
 * Raises undefined_column, ambiguous_column, or datatype_mismatch.
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
		expandRTE(rte, rtindex, 0, -1, false, &names, &vars);
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
