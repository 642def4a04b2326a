/*-------------------------------------------------------------------------
 *
 * sink_write.c
 *	  Stage 3, WRITE: writes the output of a batch into the sink.
 *
 * Statements read the batch's rows as ephemeral relations, as triggers read
 * transition tables:
 *
 *		append	INSERT (sink_put.c)
 *		update	INSERT, UPDATE or an upsert; and DELETE (sink_delete.c) for
 *				groups that passed HAVING before and do not any more
 *		complete	as update, with what sink_complete.c finds to differ
 *
 * A sink to which rows are only added gets an INSERT of all rows that append
 * or update emit, and a kind with a function "write" gets the rows (sink.h).
 *
 * They run as the current user, who is the stream's owner, in the caller's
 * transaction (I1): triggers, constraints and privileges of the sink work as
 * for any statement of that user.  The sink is identified by its OID; its name
 * is looked up in every batch.  An ERROR leaves the object usable.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "streams/streams.h"
#include "write_internal.h"

static void
open_kind(SaggSink *sink, const SaggStream *stream)
{
	MemoryContext old = MemoryContextSwitchTo(sink->context);
	SaggSinkStream described;

	sagg_sink_describe(stream, &described);
	sink->opened = sink->kind->open(&described);
	MemoryContextSwitchTo(old);
}

/*
 * Open the sink of a stream, in a transaction.  Only sagg_sink_close frees the
 * object, which outlives transactions; "stream" is not needed after the call.
 * Does not check the table yet.
 */
SaggSink *
sagg_sink_open(const SaggStream *stream)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "stream_agg sink",
												  ALLOCSET_SMALL_SIZES);
	SaggSink   *sink = MemoryContextAllocZero(context, sizeof(SaggSink));

	sink->context = context;
	sink->stream = MemoryContextStrdup(context, stream->name);
	sink->relid = stream->sink;
	sink->mode = stream->mode;
	sink->kind = sagg_sink_kind(stream->sink);
	sink->batch_memory = AllocSetContextCreate(context, "stream_agg sink batch",
											   ALLOCSET_SMALL_SIZES);
	if (sink->kind->open)
		open_kind(sink, stream);
	/* an error before this leaves nothing behind */
	MemoryContextSetParent(context, TopMemoryContext);
	return sink;
}

/*
 * Free a sink object.  Needs no transaction.
 */
void
sagg_sink_close(SaggSink *sink)
{
	if (sink->kind->close)
		sink->kind->close(sink->opened);
	for (int i = 0; i < SINK_STATEMENTS; i++)
		sagg_sink_plan_forget(&sink->plans[i]);
	MemoryContextDelete(sink->context);
}

static void
sink_error_callback(void *arg)
{
	SinkBatch  *batch = arg;

	if (batch->name)
		errcontext("writing to sink %s of stream \"%s\"",
				   batch->name, sagg_stream_title(batch->sink->stream));
	else
		errcontext("writing to the sink of stream \"%s\"",
				   sagg_stream_title(batch->sink->stream));
	if (batch->sink->mode == SAGG_APPEND &&
		geterrcode() == ERRCODE_UNIQUE_VIOLATION)
		errhint("Output mode append writes a window once. If the stream was started without its checkpoint or created again, truncate the sink, delete what the stream will write again, or have it computed again by stream_agg.reset_stream(stream, results => true); then start the stream.");
}

/*
 * Lock the sink of a batch that has its sink and query, until the end of the
 * transaction, and check that it can take the output; fills in rel, which the
 * caller closes, columns, identity and name, in the current context. "running": see
 * sagg_sink_lock.
 */
void
sagg_sink_batch_open(SinkBatch *batch, bool running)
{
	SaggSink   *sink = batch->sink;

	batch->rel = sagg_sink_lock(sink->relid, batch->query, sink->mode,
								sink->kind, running, &batch->columns,
								&batch->identity);
	batch->name =
		pstrdup(quote_qualified_identifier(get_namespace_name(RelationGetNamespace(batch->rel)),
										   RelationGetRelationName(batch->rel)));
}

static bool
has_rows(Tuplestorestate *rows)
{
	return rows && tuplestore_tuple_count(rows) > 0;
}

static void
write_rows(SinkBatch *batch, const SaggOutput *output,
		   int64 *rows_out, int64 *rows_removed)
{
	if (has_rows(output->removed))
		*rows_removed = sagg_sink_delete(batch, output->removed);
	if (has_rows(output->fresh) || has_rows(output->known))
		*rows_out = sagg_sink_put(batch, output->fresh, output->known);
}

/*
 * Write the results in place of the rows that output->replaces selects.
 * Readers see those until the transaction commits, unlike with TRUNCATE.
 */
static void
replace_rows(SinkBatch *batch, const SaggOutput *output,
			 int64 *rows_out, int64 *rows_removed)
{
	bool		partitioned =
	batch->rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	char	   *which = sagg_sink_replaced_rows(batch, output->replaces);
	char	   *text = psprintf("DELETE FROM %s%s s%s%s", partitioned ? "" : "ONLY ",
								batch->name, which ? " WHERE " : "", which ? which : "");
	Oid			type = sagg_window_column_type(batch->query);
	Datum		bound = sagg_window_column_value(batch->query, output->replaces);
	SaggOutput	results = *output;
	int64		unused = 0;
	int			ret;

	if (which)
		sagg_sink_check_windows(batch->rel, batch->query,
								batch->columns[batch->query->window_output - 1], true,
								ERRCODE_SAGG_DEFINITION_CHANGED);
	ret = SPI_execute_with_args(text, which ? 1 : 0, &type, &bound, NULL, false, 0);
	if (ret != SPI_OK_DELETE)
		elog(ERROR, "could not execute \"%s\": %s",
			 text, SPI_result_code_string(ret));
	*rows_removed = (int64) SPI_processed;
	results.removed = NULL;
	write_rows(batch, &results, rows_out, &unused);
}

/*
 * Delete all rows if there is more than one, for the result of a query without
 * GROUP BY; returns their number.
 */
static int64
delete_surplus(SinkBatch *batch)
{
	const char *only = batch->rel->rd_rel->relkind == RELKIND_RELATION ? "ONLY " : "";
	char	   *text = psprintf("DELETE FROM %s%s WHERE (SELECT pg_catalog.count(*) OPERATOR(pg_catalog.>) 1"
								" FROM (SELECT FROM %s%s LIMIT 2) s)",
								only, batch->name, only, batch->name);
	int			ret = SPI_execute(text, false, 0);

	if (ret != SPI_OK_DELETE)
		elog(ERROR, "could not execute \"%s\": %s",
			 text, SPI_result_code_string(ret));
	return (int64) SPI_processed;
}

/*
 * Write the differences between the result and the sink.
 */
static void
write_difference(SinkBatch *batch, Tuplestorestate *result,
				 int64 *rows_out, int64 *rows_removed)
{
	SaggOutput	difference;
	int64		surplus = batch->query->single_row ? delete_surplus(batch) : 0;

	sagg_sink_difference(batch, result, &difference);
	write_rows(batch, &difference, rows_out, rows_removed);
	*rows_removed += surplus;
	tuplestore_end(difference.fresh);
	tuplestore_end(difference.known);
	tuplestore_end(difference.removed);
}

/*
 * Let the kind write the rows.  No statement checks the stream owner's INSERT
 * privilege, so it is checked here.
 */
static void
write_by_kind(SinkBatch *batch, const SaggOutput *output,
			  int64 *rows_out, int64 *rows_removed)
{
	SaggSink   *sink = batch->sink;
	MemoryContext old;

	sagg_sink_check_privileges(sink->relid, sink->mode, sink->kind);
	SAGG_FAILPOINT("write.statement_before");
	old = MemoryContextSwitchTo(sink->batch_memory);
	sink->kind->write(sink->opened, output, rows_out, rows_removed);
	MemoryContextSwitchTo(old);
	SAGG_FAILPOINT("write.statement_after");
}

/*
 * Write a batch's results into the sink; in mode complete the sink is made
 * equal to output->known.  The caller still owns the tuplestores; their read
 * position is undefined and their contents are used up.
 *
 * Returns in *rows_out and *rows_removed the rows put into and deleted from
 * the sink.  Runs in the caller's transaction with an active snapshot, as the
 * current user; keeps ROW EXCLUSIVE on the sink until its end.  Errors of the
 * sink's triggers and constraints are passed on unchanged; for a sink that
 * does not exist or no longer fits, raises ERRCODE_SAGG_DEFINITION_CHANGED.
 */
void
sagg_sink_write(SaggSink *sink, const SaggQuery *query, const SaggOutput *output,
				int64 *rows_out, int64 *rows_removed)
{
	SinkBatch	batch = {.sink = sink, .query = query, .desc = query->output_desc};
	ErrorContextCallback context;
	bool		replaces = output->replaces != DT_NOEND;

	*rows_out = 0;
	*rows_removed = 0;
	if (sink->mode != SAGG_COMPLETE && !replaces && !has_rows(output->fresh) &&
		!has_rows(output->known) && !has_rows(output->removed))
		return;

	context.callback = sink_error_callback;
	context.arg = &batch;
	context.previous = error_context_stack;
	error_context_stack = &context;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	sagg_sink_batch_open(&batch, true);
	if (sink->kind->write)
		write_by_kind(&batch, output, rows_out, rows_removed);
	else if (sink->mode == SAGG_COMPLETE)
		write_difference(&batch, output->known, rows_out, rows_removed);
	else if (replaces)
		replace_rows(&batch, output, rows_out, rows_removed);
	else
		write_rows(&batch, output, rows_out, rows_removed);
	relation_close(batch.rel, NoLock);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");

	error_context_stack = context.previous;
}
