/*-------------------------------------------------------------------------
 *
 * sink_delete.c
 *	  Rows that have to leave the sink.
 *
 * They are named by their identities alone, and found by the sink's index.  The
 * one row of a query without GROUP BY has none: it is whatever there is.
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
 * Which combinations of null columns occur in the removed rows?  A list of
 * Bitmapset of columns of batch_removed (from 0); NULL is the empty set.
 */
static List *
null_patterns(Tuplestorestate *removed, TupleDesc desc)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	List	   *patterns = NIL;

	tuplestore_rescan(removed);
	while (tuplestore_gettupleslot(removed, true, false, slot))
	{
		Bitmapset  *pattern = NULL;
		bool		known = false;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		for (int i = 0; i < desc->natts; i++)
		{
			if (slot->tts_isnull[i])
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
 * The statement that deletes the removed rows of one null pattern.  Within a
 * pattern every condition is one that an index can serve, which cannot be said
 * of IS NOT DISTINCT FROM.
 */
static char *
delete_statement(const SinkBatch *batch, TupleDesc desc,
				 const Bitmapset *nulls)
{
	const SaggQuery *query = batch->query;
	bool		partitioned =
		batch->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "DELETE FROM %s%s s USING %s r WHERE ",
					 partitioned ? "" : "ONLY ", batch->name, SAGG_ENR_REMOVED);
	if (query->nidentity == 0)
		appendStringInfoString(&buf, "true");
	for (int i = 0; i < query->nidentity; i++)
	{
		const char *name = sagg_sink_column(desc, i + 1);

		if (i > 0)
			appendStringInfoString(&buf, " AND ");
		if (bms_is_member(i, nulls))
			appendStringInfo(&buf, "s.%s IS NULL AND r.%s IS NULL", name, name);
		else
		{
			sagg_sink_append_match(&buf, batch, i);
			appendStringInfo(&buf, " AND r.%s IS NOT NULL", name);
		}
	}
	return buf.data;
}

/*
 * Delete the rows with these identities, of sagg_sink_identity_desc; returns
 * how many were there.  Connected to SPI.
 */
int64
sagg_sink_delete(SinkBatch *batch, Tuplestorestate *removed)
{
	TupleDesc	desc = sagg_sink_identity_desc(batch);
	EphemeralNamedRelationData enr;
	int64		deleted = 0;
	ListCell   *lc;

	sagg_sink_register(&enr, SAGG_ENR_REMOVED, desc, removed,
					   (double) tuplestore_tuple_count(removed));
	foreach(lc, null_patterns(removed, desc))
	{
		char	   *text = delete_statement(batch, desc, lfirst(lc));
		int			ret = SPI_execute(text, false, 0);

		if (ret != SPI_OK_DELETE)
			elog(ERROR, "could not execute \"%s\": %s",
				 text, SPI_result_code_string(ret));
		deleted += (int64) SPI_processed;
	}
	sagg_sink_unregister(SAGG_ENR_REMOVED);
	return deleted;
}

