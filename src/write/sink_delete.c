/*-------------------------------------------------------------------------
 *
 * sink_delete.c
 *	  Deletes rows from the sink.
 *
 * They are named by their identities alone, and found by the sink's index.
 * The one row of a query without GROUP BY has no identity: it is the only row
 * in the sink.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "write_internal.h"

/*
 * Returns which combinations of NULLs occur in the identity columns of the
 * rows: a list of Bitmapset of numbers in the array "columns"; NULL is the
 * empty set.
 */
List *
sagg_sink_null_patterns(Tuplestorestate *rows, TupleDesc desc,
						const AttrNumber *columns, int ncolumns)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	List	   *patterns = NIL;

	tuplestore_rescan(rows);
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		Bitmapset  *pattern = NULL;
		bool		known = false;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		for (int i = 0; i < ncolumns; i++)
		{
			if (slot->tts_isnull[columns[i] - 1])
				pattern = bms_add_member(pattern, i);
		}
		foreach(lc, patterns)
		{
			if (bms_equal(lfirst(lc), pattern))
				known = true;
		}
		if (known)
			bms_free(pattern);
		else
			patterns = lappend(patterns, pattern);
	}
	ExecDropSingleTupleTableSlot(slot);
	return patterns;
}

/*
 * Append the condition that a row of the sink, s, is that of r, for rows r of
 * one null pattern.  Within a pattern an index can serve every condition,
 * unlike IS NOT DISTINCT FROM.
 */
void
sagg_sink_append_identity(StringInfo buf, const SinkBatch *batch, const Bitmapset *nulls)
{
	const SaggQuery *query = batch->query;

	if (query->nidentity == 0)
		appendStringInfoString(buf, "true");
	for (int i = 0; i < query->nidentity; i++)
	{
		const char *name = sagg_sink_column(query->output_desc, query->identity[i]);

		if (i > 0)
			appendStringInfoString(buf, " AND ");
		if (bms_is_member(i, nulls))
			appendStringInfo(buf, SINK_BOTH_NULL("s.%s", "r.%s"), name, name);
		else
		{
			sagg_sink_append_match(buf, batch, i);
			appendStringInfo(buf, " AND r.%s IS DISTINCT FROM NULL", name);
		}
	}
}

/*
 * Returns the statement that deletes the removed rows of one null pattern.
 */
static char *
delete_statement(const SinkBatch *batch, const Bitmapset *nulls)
{
	bool		partitioned =
	batch->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "DELETE FROM %s%s s USING %s r WHERE ",
					 partitioned ? "" : "ONLY ", batch->name, SAGG_ENR_REMOVED);
	sagg_sink_append_identity(&buf, batch, nulls);
	return buf.data;
}

/*
 * Delete the rows with these identities, of sagg_sink_identity_desc; returns
 * their number.  Connected to SPI.
 */
int64
sagg_sink_delete(SinkBatch *batch, Tuplestorestate *removed)
{
	TupleDesc	desc = sagg_sink_identity_desc(batch);
	AttrNumber *columns = palloc(sizeof(AttrNumber) * Max(desc->natts, 1));
	EphemeralNamedRelationData enr;
	int64		deleted = 0;
	ListCell   *lc;

	for (int i = 0; i < desc->natts; i++)
		columns[i] = i + 1;

	sagg_enr_register(&enr, SAGG_ENR_REMOVED, desc, removed,
					  (double) tuplestore_tuple_count(removed));
	foreach(lc, sagg_sink_null_patterns(removed, desc, columns, desc->natts))
	{
		char	   *text = delete_statement(batch, lfirst(lc));
		int			ret = SPI_execute(text, false, 0);

		if (ret != SPI_OK_DELETE)
			elog(ERROR, "could not execute \"%s\": %s",
				 text, SPI_result_code_string(ret));
		deleted += (int64) SPI_processed;
	}
	sagg_enr_unregister(SAGG_ENR_REMOVED);
	return deleted;
}
