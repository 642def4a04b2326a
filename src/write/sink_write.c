/*-------------------------------------------------------------------------
 *
 * sink_write.c
 *	  Stage 3, WRITE: the output of a batch into the sink.
 *
 * Statements read the batch's rows as ephemeral relations, as triggers read
 * transition tables:
 *
 *		append	INSERT INTO sink (...) SELECT ... FROM batch_output
 *		update	the same with ON CONFLICT (identity) DO UPDATE; and
 *				DELETE FROM sink USING batch_removed, for groups that passed
 *				HAVING before and do not any more
 *		complete	as update, with what sink_complete.c finds to differ
 *
 * They run as the current user, who is the stream's owner, in the caller's
 * transaction (I1): triggers, constraints and privileges of the sink work as
 * for any statement of that user.  The sink is known by its OID; its name is
 * looked up in every batch.
 *
 * The INSERT is planned once and kept over transactions; the plan cache sees
 * to changes of the sink.  An ERROR leaves the object usable.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "write_internal.h"

/*
 * The plan of the INSERT is kept, so it is made for batches that may come, not
 * for the rows of the first one.
 */
#define LEAST_ESTIMATE		1000

struct SaggSink
{
	MemoryContext context;		/* holds this struct */
	char	   *stream;			/* for messages */
	Oid			relid;
	SaggOutputMode mode;

	MemoryContext plan_context; /* holds the next two */
	char	   *plan_text;
	TupleDesc	plan_desc;		/* of batch_output */
	SPIPlanPtr	plan;			/* kept, or NULL */
};

/*
 * Open the sink of a stream.  The object is freed by sagg_sink_close only and
 * lives over transactions; "stream" is not needed after the call.  Does not
 * look at the table yet.
 */
SaggSink *
sagg_sink_open(const SaggStream *stream)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "stream_agg sink",
												  ALLOCSET_SMALL_SIZES);
	SaggSink   *sink = MemoryContextAllocZero(context, sizeof(SaggSink));

	sink->context = context;
	sink->plan_context = AllocSetContextCreate(context, "stream_agg sink plan",
											   ALLOCSET_SMALL_SIZES);
	sink->stream = MemoryContextStrdup(context, stream->name);
	sink->relid = stream->sink;
	sink->mode = stream->mode;
	return sink;
}

static void
forget_plan(SaggSink *sink)
{
	SPIPlanPtr	plan = sink->plan;

	sink->plan = NULL;
	sink->plan_text = NULL;
	sink->plan_desc = NULL;
	if (plan)
		SPI_freeplan(plan);
	MemoryContextReset(sink->plan_context);
}

/*
 * Free a sink object.  Needs no transaction.
 */
void
sagg_sink_close(SaggSink *sink)
{
	forget_plan(sink);
	MemoryContextDelete(sink->context);
}

static void
sink_error_callback(void *arg)
{
	SinkBatch  *batch = arg;

	if (batch->name)
		errcontext("writing to sink %s of stream \"%s\"",
				   batch->name, batch->sink->stream);
	else
		errcontext("writing to the sink of stream \"%s\"",
				   batch->sink->stream);
	if (batch->sink->mode == SAGG_APPEND &&
		geterrcode() == ERRCODE_UNIQUE_VIOLATION)
		errhint("Output mode append writes a window once. If the stream was started without its checkpoint or made anew, truncate the sink, or delete what the stream will write again, and start the stream.");
}

static const char *
quoted_column(TupleDesc desc, AttrNumber attno)
{
	return quote_identifier(NameStr(TupleDescAttr(desc, attno - 1)->attname));
}

static bool
is_identity(const SaggQuery *query, AttrNumber attno)
{
	for (int i = 0; i < query->nidentity; i++)
	{
		if (query->identity[i] == attno)
			return true;
	}
	return false;
}

/*
 * ON CONFLICT ... of modes update and complete.  Returns false when a row that is there
 * already stays as it is, because it is nothing but its identity.
 */
static bool
append_on_conflict(StringInfo buf, const SaggQuery *query)
{
	TupleDesc	desc = query->output_desc;
	bool		updates = false;

	appendStringInfo(buf, " ON CONFLICT (%s) DO ",
					 sagg_sink_identity_list(query));
	for (int attno = 1; attno <= desc->natts; attno++)
	{
		const char *name = quoted_column(desc, attno);

		if (is_identity(query, attno))
			continue;
		appendStringInfo(buf, "%s%s = EXCLUDED.%s",
						 updates ? ", " : "UPDATE SET ", name, name);
		updates = true;
	}
	if (!updates)
		appendStringInfoString(buf, "NOTHING");
	return updates;
}

/*
 * The statement that puts the output into the sink.  "counts" returns whether
 * the number of rows it processes is that of the output.
 */
static char *
insert_statement(const SinkBatch *batch, bool *counts)
{
	TupleDesc	desc = batch->desc;
	StringInfoData columns;
	StringInfoData buf;

	initStringInfo(&columns);
	for (int attno = 1; attno <= desc->natts; attno++)
		appendStringInfo(&columns, "%s%s", attno > 1 ? ", " : "",
						 quoted_column(desc, attno));

	initStringInfo(&buf);
	appendStringInfo(&buf, "INSERT INTO %s (%s) SELECT %s FROM %s",
					 batch->name, columns.data, columns.data, SAGG_ENR_OUTPUT);
	*counts = true;
	if (batch->sink->mode != SAGG_APPEND)
		*counts = append_on_conflict(&buf, batch->query);
	return buf.data;
}

/*
 * The kept plan of the INSERT, made anew when its text (which has the sink's
 * name) or the type of the output is no longer what it was made for.  Called
 * with batch_output registered.
 */
static SPIPlanPtr
insert_plan(SaggSink *sink, const char *text, TupleDesc desc)
{
	MemoryContext save;
	SPIPlanPtr	plan;
	int			ret;

	if (sink->plan && strcmp(sink->plan_text, text) == 0 &&
		equalTupleDescs(sink->plan_desc, desc))
		return sink->plan;

	forget_plan(sink);
	save = MemoryContextSwitchTo(sink->plan_context);
	sink->plan_text = pstrdup(text);
	sink->plan_desc = CreateTupleDescCopy(desc);
	MemoryContextSwitchTo(save);

	plan = SPI_prepare(text, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s",
			 text, SPI_result_code_string(SPI_result));
	ret = SPI_keepplan(plan);
	if (ret != 0)
		elog(ERROR, "could not keep a plan: %s", SPI_result_code_string(ret));
	sink->plan = plan;
	return plan;
}

/*
 * Put the output rows into the sink; returns how many.
 */
static int64
write_output(SinkBatch *batch, Tuplestorestate *output)
{
	TupleDesc	desc = batch->desc;
	int64		count = tuplestore_tuple_count(output);
	EphemeralNamedRelationData enr;
	bool		counts;
	char	   *text = insert_statement(batch, &counts);
	SPIPlanPtr	plan;
	int64		processed;
	int			ret;

	sagg_sink_register(&enr, SAGG_ENR_OUTPUT, desc, output,
					   Max((double) count, LEAST_ESTIMATE));
	plan = insert_plan(batch->sink, text, desc);
	SAGG_FAILPOINT("write.statement_before");
	ret = SPI_execute_plan(plan, NULL, NULL, false, 0);
	SAGG_FAILPOINT("write.statement_after");
	if (ret != SPI_OK_INSERT)
		elog(ERROR, "could not execute \"%s\": %s",
			 text, SPI_result_code_string(ret));
	processed = (int64) SPI_processed;
	sagg_sink_unregister(SAGG_ENR_OUTPUT);
	return counts ? processed : count;
}

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
	for (int i = 0; i < query->nidentity; i++)
	{
		AttrNumber	attno = batch->columns[query->identity[i] - 1];
		const char *name = quoted_column(desc, i + 1);
		Form_pg_attribute att;

		if (i > 0)
			appendStringInfoString(&buf, " AND ");
		if (bms_is_member(i, nulls))
		{
			appendStringInfo(&buf, "s.%s IS NULL AND r.%s IS NULL", name, name);
			continue;
		}
		att = TupleDescAttr(RelationGetDescr(batch->rel), attno - 1);
		sagg_sink_append_equality(&buf, att, psprintf("s.%s", name),
								  psprintf("r.%s", name));
		if (att->attcollation != TupleDescAttr(desc, i)->attcollation)
			sagg_sink_append_collation(&buf, att->attcollation);
		appendStringInfo(&buf, " AND r.%s IS NOT NULL", name);
	}
	return buf.data;
}

/*
 * Delete the rows that do not belong in the sink any more; returns how many were
 * there.
 */
static int64
delete_removed(SinkBatch *batch, Tuplestorestate *removed)
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

/*
 * Lock the sink and see that it still can take the output.
 */
static void
begin_batch(SinkBatch *batch)
{
	SaggSink   *sink = batch->sink;

	batch->rel = sagg_sink_lock(sink->relid, batch->query, sink->mode, true,
								&batch->columns);
	batch->name =
		pstrdup(quote_qualified_identifier(get_namespace_name(RelationGetNamespace(batch->rel)),
										   RelationGetRelationName(batch->rel)));
}

static int64
row_count(Tuplestorestate *rows)
{
	return rows ? tuplestore_tuple_count(rows) : 0;
}

static void
write_rows(SinkBatch *batch, Tuplestorestate *output, Tuplestorestate *removed,
		   int64 *rows_out, int64 *rows_removed)
{
	if (row_count(removed) > 0)
		*rows_removed = delete_removed(batch, removed);
	if (row_count(output) > 0)
		*rows_out = write_output(batch, output);
}

/*
 * Delete all rows; returns how many there were.  The transaction's readers see
 * them until it commits, as they would not with TRUNCATE.
 */
static int64
delete_all(SinkBatch *batch)
{
	bool		partitioned =
		batch->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	char	   *text = psprintf("DELETE FROM %s%s", partitioned ? "" : "ONLY ",
								batch->name);
	int			ret = SPI_execute(text, false, 0);

	if (ret != SPI_OK_DELETE)
		elog(ERROR, "could not execute \"%s\": %s",
			 text, SPI_result_code_string(ret));
	return (int64) SPI_processed;
}

/*
 * Write what differs between the result and the sink.
 */
static void
write_difference(SinkBatch *batch, Tuplestorestate *output,
				 int64 *rows_out, int64 *rows_removed)
{
	Tuplestorestate *changed;
	Tuplestorestate *removed;

	sagg_sink_difference(batch, output, &changed, &removed);
	write_rows(batch, changed, removed, rows_out, rows_removed);
	tuplestore_end(changed);
	tuplestore_end(removed);
}

/*
 * Write a batch's results: "output" (rows of query->output_desc) into the
 * sink, and in mode update delete the rows with the identities in "removed".
 * In mode complete, and with "replace" in any mode, "output" is the whole
 * result, and the sink is made equal to it.  Either may be empty, and "removed" NULL; other modes ignore "removed".
 * No identity is in both or twice in one.  The tuplestores must allow rescans
 * (made with randomAccess); they stay the caller's, with their read position
 * undefined.
 *
 * Returns in *rows_out and *rows_removed the rows put into and deleted from
 * the sink.  Runs in the caller's transaction with an active snapshot, as the
 * current user; keeps ROW EXCLUSIVE on the sink until its end.  Errors of the
 * sink's triggers and constraints come through as they are; a sink that is
 * gone or no longer fits is ERRCODE_SAGG_DEFINITION_CHANGED.
 */
void
sagg_sink_write(SaggSink *sink, const SaggQuery *query,
				Tuplestorestate *output, Tuplestorestate *removed,
				bool replace, int64 *rows_out, int64 *rows_removed)
{
	SinkBatch	batch = {.sink = sink, .query = query, .desc = query->output_desc};
	ErrorContextCallback context;

	*rows_out = 0;
	*rows_removed = 0;
	if (sink->mode != SAGG_UPDATE)
		removed = NULL;
	if (sink->mode != SAGG_COMPLETE && !replace &&
		row_count(output) == 0 && row_count(removed) == 0)
		return;

	context.callback = sink_error_callback;
	context.arg = &batch;
	context.previous = error_context_stack;
	error_context_stack = &context;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	begin_batch(&batch);
	if (sink->mode == SAGG_COMPLETE || (sink->mode == SAGG_UPDATE && replace))
		write_difference(&batch, output, rows_out, rows_removed);
	else if (replace)
	{
		*rows_removed = delete_all(&batch);
		write_rows(&batch, output, NULL, rows_out, rows_removed);
	}
	else
		write_rows(&batch, output, removed, rows_out, rows_removed);
	relation_close(batch.rel, NoLock);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");

	error_context_stack = context.previous;
}
