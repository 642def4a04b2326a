/*-------------------------------------------------------------------------
 *
 * sink_retention.c
 *	  Deletes rows of old windows from the sink: option "retention".
 *
 * A micro-batch deletes some of them, oldest windows first, and at most as
 * many as its caller says, so that it takes about as long as a batch without
 * retention.  They are found by an index that begins with the column of the
 * window, or its lower bound; the whole table is never scanned.  Rows that are already that old
 * when they would be written are left out.
 *
 * Like all writes, this runs as the stream's owner, in the batch's
 * transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rangetypes.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "event_time/event_time.h"
#include "write_internal.h"

/*
 * Returns whether an index column can return rows in the default order of a
 * type.
 */
static bool
in_order_of(Relation index, Oid type)
{
	return index->rd_opfamily[0] == get_opclass_family(GetDefaultOpClass(type, BTREE_AM_OID));
}

/*
 * Returns whether the index can return rows by the sink's column "attno": in
 * the order of its type, or if it is a range, of its lower bound.
 */
static bool
index_serves(Relation index, const SaggQuery *query, Form_pg_attribute att, bool *bound)
{
	Form_pg_index form = index->rd_index;
	FuncExpr   *func;

	*bound = false;
	if (index->rd_rel->relam != BTREE_AM_OID || !form->indisvalid || !form->indisready ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		return false;
	if (form->indkey.values[0] != 0)
		return form->indkey.values[0] == att->attnum && in_order_of(index, att->atttypid);
	func = (FuncExpr *) linitial(RelationGetIndexExpressions(index));
	*bound = true;
	return sagg_sink_window_is_range(query) && IsA(func, FuncExpr) &&
		func->funcid == F_LOWER_ANYRANGE && IsA(linitial(func->args), Var) &&
		((Var *) linitial(func->args))->varattno == att->attnum && in_order_of(index, TIMESTAMPTZOID);
}

/*
 * Returns whether an index finds old rows; sets *bound to whether it is one of
 * the lower bound of a range.
 */
static bool
find_index(Relation rel, const SaggQuery *query, AttrNumber attno, bool *bound)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attno - 1);
	List	   *indexes = RelationGetIndexList(rel);
	bool		found = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (!found)
			found = index_serves(index, query, att, bound);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return found;
}

/*
 * Check that an index finds old rows; returns whether it is one of the lower
 * bound of a range.
 */
static bool
check_index(Relation rel, const SaggQuery *query, AttrNumber attno, int code)
{
	const char *column = sagg_sink_column(query->output_desc, query->window_output);
	bool		bound;

	if (!find_index(rel, query, attno, &bound))
		ereport(ERROR,
				(errcode(code),
				 errmsg("retention needs an index on column %s of sink \"%s\"",
						column, RelationGetRelationName(rel)),
				 sagg_sink_window_is_range(query) ?
				 errdetail("Rows of old windows are found by it: a btree index that begins with the column, or with its lower bound, and has no WHERE clause.") :
				 errdetail("Rows of old windows are found by it: a btree index that begins with the column and has no WHERE clause."),
				 errhint(sagg_sink_window_is_range(query) ? "Run CREATE INDEX ON %s (lower(%s))." : "Run CREATE INDEX ON %s (%s).",
						 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
													RelationGetRelationName(rel)),
						 column)));
	return bound;
}

/*
 * Raise an error: the rows of this stream never become old.
 */
void
sagg_sink_reject_retention(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("retention is for streams that write windows into a table, in output mode append or update"),
			 errdetail("Rows are old by the ends of their windows, which do not change any more."),
			 errhint("Leave it out.")));
}

/*
 * Raise an error that says what is missing if rows of old windows cannot be
 * deleted from the sink of a stream of the current user.
 */
void
sagg_sink_check_retention(Oid sink, const SaggQuery *query, SaggOutputMode mode)
{
	AttrNumber *columns;
	Relation	rel;

	if (!sagg_sink_has(sink, SAGG_SINK_TRANSACTIONAL))
		sagg_sink_reject_retention();
	rel = sagg_sink_lock(sink, query, mode, &sagg_table_sink, false, &columns, NULL);
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		sagg_sink_check_partitions(rel, query, columns[query->window_output - 1]);
		relation_close(rel, NoLock);
		return;
	}
	sagg_sink_check_windows(rel, query, columns[query->window_output - 1], false,
							ERRCODE_DATATYPE_MISMATCH);
	if (pg_class_aclcheck(sink, GetUserId(), ACL_DELETE) != ACLCHECK_OK ||
		pg_class_aclcheck(sink, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for sink \"%s\"", RelationGetRelationName(rel)),
				 errdetail("For retention the stream's owner needs SELECT and DELETE on it.")));
	(void) check_index(rel, query, columns[query->window_output - 1],
					   ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE);
	CheckCmdReplicaIdentity(rel, CMD_DELETE);
	relation_close(rel, NoLock);
}

/*
 * Returns the value that identifies the window of an output row, see
 * sagg_expired_before.
 */
static int64
output_time(const SaggQuery *query, TypeCacheEntry *type, TupleTableSlot *slot)
{
	RangeBound	lower;
	RangeBound	upper;
	bool		empty;
	bool		isnull;
	Datum		value = slot_getattr(slot, query->window_output, &isnull);

	if (isnull)
		return DT_NOEND;
	if (!sagg_sink_window_is_range(query))
		return sagg_window_column_time(query, value);
	range_deserialize(type, DatumGetRangeTypeP(value), &lower, &upper, &empty);
	if (empty)
		return DT_NOEND;
	return DatumGetTimestampTz(query->window.kind == SAGG_WINDOW_SESSION ? upper.val : lower.val);
}

/*
 * Remove rows of windows before "before" from "rows"; returns their number.
 */
static int64
leave_out(const SaggQuery *query, Tuplestorestate **rows, int64 before)
{
	TypeCacheEntry *type = lookup_type_cache(TSTZRANGEOID, TYPECACHE_RANGE_INFO);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(query->output_desc, &TTSOpsMinimalTuple);
	Tuplestorestate *kept = tuplestore_begin_heap(true, false, work_mem);
	int64		left_out = 0;

	tuplestore_rescan(*rows);
	while (tuplestore_gettupleslot(*rows, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (output_time(query, type, slot) < before)
			left_out++;
		else
			tuplestore_puttupleslot(kept, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(*rows);
	*rows = kept;
	return left_out;
}

/*
 * Remove rows of windows before "before", see sagg_expired_before, from a
 * batch's output; returns their number.
 */
int64
sagg_sink_leave_out(const SaggQuery *query, SaggOutput *output, int64 before)
{
	int64		left_out = 0;

	if (output->fresh && tuplestore_tuple_count(output->fresh) > 0)
		left_out += leave_out(query, &output->fresh, before);
	if (output->known && tuplestore_tuple_count(output->known) > 0)
		left_out += leave_out(query, &output->known, before);
	return left_out;
}

/*
 * Returns the condition on a row of the sink, d: its window is before $1.  Of a
 * range what the index is about is compared as well: its lower bound, if
 * "bound", or the range itself, with the least range that starts there.
 */
static char *
expired_condition(const SinkBatch *batch, bool bound)
{
	char	   *time = sagg_sink_row_time(batch, "d");
	const char *column = sagg_sink_column(batch->desc, batch->query->window_output);

	if (!sagg_sink_window_is_range(batch->query))
		return psprintf("%s OPERATOR(pg_catalog.<) $1", time);
	return psprintf(bound ? "pg_catalog.lower(d.%s) OPERATOR(pg_catalog.<) $1 AND %s OPERATOR(pg_catalog.<) $1" :
					"d.%s OPERATOR(pg_catalog.<) pg_catalog.tstzrange($1, $1, '[]') AND %s OPERATOR(pg_catalog.<) $1",
					column, time);
}

/*
 * Run the statement by the index, which is of the lower bound if "bound",
 * whatever the planner knows about the sink.
 */
static int64
delete_expired(const SinkBatch *batch, bool bound, int64 before, int64 max_rows)
{
	static const char *const other_ways[] = {
		"enable_bitmapscan", "enable_seqscan", "enable_sort"
	};
	char	   *text = psprintf("DELETE FROM ONLY %s WHERE ctid OPERATOR(pg_catalog.=)"
								" ANY (ARRAY(SELECT d.ctid FROM ONLY %s d WHERE %s ORDER BY %s(d.%s) LIMIT " INT64_FORMAT "))",
								batch->name, batch->name, expired_condition(batch, bound),
								bound ? "pg_catalog.lower" : "", sagg_sink_column(batch->desc, batch->query->window_output),
								max_rows);
	Oid			type = sagg_window_column_type(batch->query);
	Datum		time = sagg_window_column_value(batch->query, before);
	int			nest = NewGUCNestLevel();
	int			ret;

	for (int i = 0; i < lengthof(other_ways); i++)
		(void) set_config_option(other_ways[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	ret = SPI_execute_with_args(text, 1, &type, &time, NULL, false, 0);
	if (ret != SPI_OK_DELETE)
		elog(ERROR, "could not execute \"%s\": %s", text, SPI_result_code_string(ret));
	AtEOXact_GUC(false, nest);
	return (int64) SPI_processed;
}

/*
 * Lock the sink, connected to SPI, and check that its windows can be compared.
 */
static void
open_sink(SinkBatch *batch)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	sagg_sink_batch_open(batch, true);
	sagg_sink_check_windows(batch->rel, batch->query,
							batch->columns[batch->query->window_output - 1], false,
							ERRCODE_SAGG_DEFINITION_CHANGED);
}

static void
close_sink(SinkBatch *batch)
{
	relation_close(batch->rel, NoLock);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
}

/*
 * Make partitions of a partitioned sink, so that there is one for each row of
 * "output", and for rows of the time "until".  Runs as the current user; what
 * cannot be done now is left for later.
 */
void
sagg_sink_prepare(SaggSink *sink, const SaggQuery *query, int64 until,
				  const SaggOutput *output)
{
	SinkBatch	batch = {.sink = sink, .query = query, .desc = query->output_desc};

	if (get_rel_relkind(sink->relid) != RELKIND_PARTITIONED_TABLE)
		return;
	open_sink(&batch);
	sagg_sink_make_partitions(&batch, until, output);
	close_sink(&batch);
}

/*
 * Delete rows of the sink with windows before "before", see
 * sagg_expired_before, the oldest "max_rows" of them; returns their number.
 * Does nothing for a partitioned sink, which loses whole partitions by
 * sagg_sink_drop_partitions.  Runs as the current user, as sagg_sink_write
 * does.  Raises ERRCODE_SAGG_DEFINITION_CHANGED if the sink has no index for
 * it any more.
 */
int64
sagg_sink_expire(SaggSink *sink, const SaggQuery *query, int64 before, int64 max_rows)
{
	SinkBatch	batch = {.sink = sink, .query = query, .desc = query->output_desc};
	bool		bound;
	int64		deleted;

	if (get_rel_relkind(sink->relid) == RELKIND_PARTITIONED_TABLE)
		return 0;
	open_sink(&batch);
	bound = check_index(batch.rel, query, batch.columns[query->window_output - 1],
						ERRCODE_SAGG_DEFINITION_CHANGED);
	deleted = delete_expired(&batch, bound, before, max_rows);
	close_sink(&batch);
	return deleted;
}
