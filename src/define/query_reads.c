/*-------------------------------------------------------------------------
 *
 * query_reads.c
 *	  What a stream's query reads besides its source.
 *
 * Tables, views and foreign tables of other wrappers are read under the
 * snapshot of the micro-batch, as the stream's owner.  Checks, when a stream
 * is created, the owner's privileges, and that the query reads neither a
 * source in another way nor the stream's own sink.
 *
 * This file never changes the query.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/partition.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"

#include "define_internal.h"
#include "read/read.h"

/*
 * Check the privileges of the view's owner on what a query reads, at every
 * level of it.
 */
static bool
check_permissions(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		SAGG_CHECK_PERMISSIONS((Query *) node);
		return query_tree_walker((Query *) node, check_permissions, context, 0);
	}
	return expression_tree_walker(node, check_permissions, context);
}

/*
 * Check that the sources of a stream have one server: they are read with one
 * connection.
 */
static void
check_sources(const SaggQuery *query)
{
	Oid			server = GetForeignTable(linitial_oid(query->sources))->serverid;
	ListCell   *lc;

	foreach(lc, query->sources)
	{
		Oid			source = lfirst_oid(lc);
		AclResult	result = pg_class_aclcheck(source, GetUserId(), ACL_SELECT);

		if (result != ACLCHECK_OK)
			aclcheck_error(result, OBJECT_FOREIGN_TABLE, get_rel_name(source));
		if (GetForeignTable(source)->serverid != server)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("the sources of a stream must have the same server"),
					 errdetail("Source \"%s\" has server \"%s\", source \"%s\" has server \"%s\".",
							   get_rel_name(linitial_oid(query->sources)),
							   GetForeignServer(server)->servername,
							   get_rel_name(source),
							   GetForeignServer(GetForeignTable(source)->serverid)->servername),
					 errhint("Create the sources with the same server, or a stream for each and a view over their sinks.")));
	}
}

/*
 * Returns how many sources a plan reads, which includes those of SQL functions that
 * the planner has inlined.
 */
static int
sources_of_plan(const Query *query)
{
	PlannedStmt *plan = pg_plan_query(copyObject(unconstify(Query *, query)),
									  "the query of a stream", 0, NULL);
	int			n = 0;
	ListCell   *lc;

	foreach(lc, plan->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION && sagg_is_source(rte->relid))
			n++;
	}
	return n;
}

/*
 * Check what a query reads, as the current user.  Raises
 * insufficient_privilege, or feature_not_supported for sources of different
 * servers and a source behind an SQL function.  Errors of the planner are
 * raised here, too, at creation rather than in the first micro-batch.
 */
void
sagg_check_reads(const SaggQuery *query)
{
	check_sources(query);
	(void) check_permissions((Node *) query->inner, NULL);
	(void) check_permissions((Node *) query->outer, NULL);

	/* the planner needs no rows of the groups, only the executor does */
	if (sources_of_plan(query->inner) > sagg_count_sources((Node *) query->inner) ||
		(query->outer && sources_of_plan(query->outer) > 0))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a stream calls a function that reads a source"),
				 errdetail("The function would see the records of a micro-batch, or all of the topic for every one."),
				 errhint("Name the source in FROM, once; functions can read tables.")));
}

static bool
reads_relation(Node *node, void *context)
{
	Oid			sink = *(Oid *) context;

	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		return rte->rtekind == RTE_RELATION &&
			(rte->relid == sink ||
			 (get_rel_relispartition(rte->relid) &&
			  list_member_oid(get_partition_ancestors(rte->relid), sink)));
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, reads_relation, context,
								 QTW_EXAMINE_RTES_BEFORE);
	return expression_tree_walker(node, reads_relation, context);
}

/*
 * Reject a query that reads its own results: no batch query would be equal to
 * it.  Raises feature_not_supported.
 */
void
sagg_check_sink_not_read(const SaggQuery *query, Oid sink)
{
	if (reads_relation((Node *) query->inner, &sink) ||
		reads_relation((Node *) query->outer, &sink))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a stream cannot read the stream's own sink"),
				 errdetail("Its result would depend on how the records are cut into micro-batches."),
				 errhint("Read \"%s\" in a query over the results, or in another stream.",
						 get_rel_name(sink))));
}
