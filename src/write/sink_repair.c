/*-------------------------------------------------------------------------
 *
 * sink_repair.c
 *	  Replaces whole windows in the sink by corrected results.
 *
 * The column of the sink that has the window, or one of its bounds, identifies
 * the rows of the windows.  If rows have an identity, those that are still in
 * the result are updated, so that values in further columns of the sink stay;
 * only those that are not in the result any more are deleted.  Otherwise all
 * are deleted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "write_internal.h"

/*
 * Returns a hash of the identity of a row, by which rows can be joined whose keys may be
 * null.  Equal keys have equal hashes: sink_check.c accepts no other types.
 */
static char *
identity_hash(const SinkBatch *batch, char row)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoString(&buf, "pg_catalog.hash_record_extended(ROW(");
	for (int i = 0; i < batch->query->nidentity; i++)
		appendStringInfo(&buf, "%s%c.%s", i > 0 ? ", " : "", row,
						 sagg_sink_column(batch->desc, batch->query->identity[i]));
	appendStringInfoString(&buf, "), 0)");
	return buf.data;
}

/*
 * Returns the statement that deletes the rows of the windows, $1, except those
 * of the new result that have an identity.  It finds them by the column, or by
 * the index of its lower bound.
 */
static char *
delete_statement(const SinkBatch *batch, AttrNumber window)
{
	bool		partitioned =
	batch->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	const char *column = sagg_sink_column(batch->desc, window);
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "DELETE FROM %s%s s WHERE s.%s OPERATOR(pg_catalog.=) ANY ($1)",
					 partitioned ? "" : "ONLY ", batch->name, column);
	if (batch->identity.window != SINK_WINDOW_ITSELF)
		appendStringInfo(&buf, " AND pg_catalog.lower(s.%s) OPERATOR(pg_catalog.=)"
						 " ANY (ARRAY(SELECT pg_catalog.lower(w) FROM pg_catalog.unnest($1) w))",
						 column);
	if (batch->sink->mode == SAGG_APPEND)
		return buf.data;
	appendStringInfo(&buf, " AND NOT EXISTS (SELECT FROM %s r"
					 " WHERE %s OPERATOR(pg_catalog.=) %s", SAGG_ENR_OUTPUT,
					 identity_hash(batch, 's'), identity_hash(batch, 'r'));
	for (int i = 0; i < batch->query->nidentity; i++)
	{
		const char *name = sagg_sink_column(batch->desc, batch->query->identity[i]);

		appendStringInfoString(&buf, " AND (");
		sagg_sink_append_match(&buf, batch, i);
		appendStringInfo(&buf, " OR " SINK_BOTH_NULL("s.%s", "r.%s") ")", name, name);
	}
	appendStringInfoChar(&buf, ')');
	return buf.data;
}

static int64
delete_rows(SinkBatch *batch, Tuplestorestate *rows, AttrNumber window, Datum windows)
{
	Oid			type = get_array_type(TupleDescAttr(batch->desc, window - 1)->atttypid);
	char	   *text = delete_statement(batch, window);
	EphemeralNamedRelationData enr;
	int64		deleted;
	int			ret;

	sagg_enr_register(&enr, SAGG_ENR_OUTPUT, batch->desc, rows,
					  (double) tuplestore_tuple_count(rows));
	ret = SPI_execute_with_args(text, 1, &type, &windows, NULL, false, 0);
	if (ret != SPI_OK_DELETE)
		elog(ERROR, "could not execute \"%s\": %s", text, SPI_result_code_string(ret));
	deleted = (int64) SPI_processed;
	sagg_enr_unregister(SAGG_ENR_OUTPUT);
	return deleted;
}

/*
 * Replace the sink's rows of some windows by "rows", of query->output_desc:
 * those whose value in column number "window" of the output is among the array
 * "windows" of that column's type.  Runs as the current user, as
 * sagg_sink_write does, who needs DELETE on the sink.  The rows are used up.
 */
void
sagg_sink_repair(SaggSink *sink, const SaggQuery *query, Tuplestorestate *rows,
				 AttrNumber window, Datum windows)
{
	SinkBatch	batch = {.sink = sink, .query = query, .desc = query->output_desc};
	Tuplestorestate *none = tuplestore_begin_heap(true, false, 64);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	sagg_sink_batch_open(&batch, true);
	sagg_sink_check_windows(batch.rel, query, batch.columns[window - 1], true,
							ERRCODE_DATATYPE_MISMATCH);
	(void) delete_rows(&batch, rows, window, windows);
	if (tuplestore_tuple_count(rows) > 0)
		(void) sagg_sink_put(&batch, sink->mode == SAGG_APPEND ? rows : none,
							 sink->mode == SAGG_APPEND ? none : rows);
	relation_close(batch.rel, NoLock);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
	tuplestore_end(none);
}
