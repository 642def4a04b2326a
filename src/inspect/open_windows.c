/*-------------------------------------------------------------------------
 *
 * open_windows.c
 *	  open_windows: what a stream would write if its windows closed now, as
 *	  rows of its sink.
 *
 * The rows are of the last commit that the caller's snapshot sees, so together
 * with the sink they are the whole result: a closed window is in the sink, an
 * open one is here, and none is in both.  That holds within one query, as in
 * the view that create_live_view makes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "parser/parse_node.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/typcache.h"

#include "streams/streams.h"
#include "inspect_internal.h"
#include "batch_context.h"

PG_FUNCTION_INFO_V1(stream_agg_open_windows);
PG_FUNCTION_INFO_V1(stream_agg_open_windows_of_text);

/*
 * Returns the table whose rows the function returns.
 */
static Oid
sink_of_call(FunctionCallInfo fcinfo)
{
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 0);
	Oid			relid = OidIsValid(type) ? get_typ_typrelid(type) : InvalidOid;

	if (!OidIsValid(relid) || get_rel_type_id(relid) != type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("open_windows takes a row of the stream's sink"),
				 errhint("Write SELECT * FROM stream_agg.open_windows(NULL::sink), with the name of the sink.")));
	return relid;
}

/*
 * Returns the columns of the query, of which no code runs.  Raises
 * serialization_failure if the snapshot is older than the query: then it sees
 * the former view.
 */
static TupleDesc
query_columns(const SaggStream *stream)
{
	Relation	view = try_relation_open(stream->view, AccessShareLock);
	TupleDesc	columns;

	if (view == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the query of stream \"%s\" has changed since the snapshot of this query was taken",
						sagg_stream_title(stream->name)),
				 errhint("Run it again, in a new transaction.")));
	/* anything else than a view is an error of the analysis */
	columns = view->rd_rel->relkind == RELKIND_VIEW ?
		ExecCleanTypeFromTL(get_view_query(view)->targetList) : CreateTemplateTupleDesc(0);
	relation_close(view, NoLock);
	return columns;
}

/*
 * Check that the caller may see all rows of the sink: a role that may
 * read the sink, if no policy hides rows from it; or one that may read the
 * live view, for which policies are those of its owner.  To be called before
 * any code of the stream's owner runs.
 */
static void
check_may_read(const SaggStream *stream)
{
	if (sagg_live_view_shows(stream, GetUserId(), query_columns(stream)))
		return;
	if (pg_class_aclcheck(stream->sink, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(stream->sink));
	if (check_enable_rls(stream->sink, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("open windows of stream \"%s\" would bypass row-level security of table \"%s\"",
						sagg_stream_title(stream->name), get_rel_name(stream->sink)),
				 errhint("Read a view that the stream's owner has made over the live view.")));
}

/*
 * Returns the value of the query's output column for a column of the sink, as
 * an INSERT would convert it; NULL for a column that the query does not have.
 */
static Expr *
value_for_column(const SaggQuery *query, Form_pg_attribute att)
{
	ListCell   *lc;

	foreach(lc, query->outer->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		Node	   *expr = (Node *) tle->expr;

		if (att->attisdropped || tle->resjunk ||
			strcmp(tle->resname, NameStr(att->attname)) != 0)
			continue;
		expr = coerce_to_target_type(make_parsestate(NULL), expr, exprType(expr),
									 att->atttypid, att->atttypmod,
									 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
		if (expr == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of the sink does not take the query's type %s",
							NameStr(att->attname),
							format_type_be(exprType((Node *) tle->expr)))));
		return (Expr *) expr;
	}
	return (Expr *) makeNullConst(att->attisdropped ? INT4OID : att->atttypid,
								  att->attisdropped ? -1 : att->atttypmod,
								  att->attisdropped ? InvalidOid : att->attcollation);
}

/*
 * Change the query to return rows of the sink.
 */
static void
shape_as_sink(SaggQuery *query, Relation sink)
{
	TupleDesc	desc = RelationGetDescr(sink);
	List	   *columns = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		columns = lappend(columns,
						  makeTargetEntry(value_for_column(query, att), i + 1,
										  pstrdup(NameStr(att->attname)), false));
	}
	query->outer->targetList = columns;
}

static void
return_rows(ReturnSetInfo *rsinfo, Tuplestorestate *rows)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(rsinfo->setDesc,
													&TTSOpsMinimalTuple);

	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		tuplestore_puttupleslot(rsinfo->setResult, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
}

static void
collect_rows(ReturnSetInfo *rsinfo, const SaggStream *stream, Relation sink)
{
	SaggInspection inspection = {.stream = stream};
	SaggBatchContext outer;
	SaggOwnerContext owner;
	SaggOutput	output;

	check_may_read(stream);
	inspection.query = sagg_query_of_view(stream);
	if (inspection.query->kind != SAGG_AGGREGATION)
		return;
	shape_as_sink(inspection.query, sink);
	sagg_batch_enter(&outer);
	sagg_become_stream_owner(&owner, stream);
	sagg_inspection_begin(&inspection);
	sagg_execution_open_windows(inspection.execution);
	sagg_execution_output(inspection.execution, &output);
	sagg_restore_user(&owner);
	return_rows(rsinfo, output.fresh);
	return_rows(rsinfo, output.known);
	sagg_execution_output_end(&output);
	sagg_inspection_end(&inspection);
	sagg_batch_leave(&outer);
}

/*
 * open_windows(sink text): raises an error for a sink named by a string, from
 * which no row type can be determined.  Raises datatype_mismatch.
 */
Datum
stream_agg_open_windows_of_text(PG_FUNCTION_ARGS)
{
	char	   *sink = PG_ARGISNULL(0) ? "sink" : text_to_cstring(PG_GETARG_TEXT_PP(0));

	ereport(ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("open_windows takes the row type of a sink, not its name"),
			 errhint("Write SELECT * FROM stream_agg.open_windows(NULL::%s).", sink)));
}

/*
 * open_windows(sink anyelement): returns the groups of windows that are open,
 * in rows of the sink's type.  The argument only determines the type.
 */
Datum
stream_agg_open_windows(PG_FUNCTION_ARGS)
{
	MemoryContext memory;
	MemoryContext old;
	Relation	sink;
	SaggStream *stream;

	/*
	 * locked as for a SELECT, so that its columns and the query fit together
	 */
	sink = table_open(sink_of_call(fcinfo), AccessShareLock);
	stream = sagg_stream_of_sink(RelationGetRelid(sink));
	if (stream == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not the sink of a stream",
						RelationGetRelationName(sink))));
	InitMaterializedSRF(fcinfo, 0);

	memory = AllocSetContextCreate(CurrentMemoryContext, "stream_agg open windows",
								   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(memory);
	collect_rows((ReturnSetInfo *) fcinfo->resultinfo, stream, sink);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(memory);
	table_close(sink, NoLock);
	return (Datum) 0;
}
