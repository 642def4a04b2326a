/*-------------------------------------------------------------------------
 *
 * execute_batch.c
 *	  EXECUTE of one batch of one stream, for micro-batches and previews alike.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "batch_context.h"
#include "execute/execute.h"
#include "read/read.h"
#include "worker/worker.h"

/*
 * Unless the watermark policy is global: let the execution tell the partitions of
 * records apart.  It updates the times.
 */
static void
separate_partitions(SaggExecution *execution, const SaggStream *stream,
					SaggBatch *batch, SaggCommit *commit)
{
	const SaggRange *runs;
	int			nruns;

	if (!stream->has_watermark ||
		stream->options.watermark_policy == SAGG_WATERMARK_GLOBAL)
		return;
	/* numbers of records, which are the ids of reading 0 */
	runs = sagg_batch_runs(batch, &nruns);
	sagg_execution_partitions(execution, commit->times, commit->ntimes, runs, nruns);
}

/*
 * Run the query over the attached batch.  If it scans a source more than once, as
 * branches of a UNION ALL do, and the batch is not one of several streams, the first
 * scan decodes for the others.
 */
static void
run_query(SaggExecution *execution, const SaggStream *stream, const SaggQuery *query,
		  SaggBatch *batch)
{
	bool		shares = query->repeats_sources && sagg_batch_context.shared == NULL;

	if (shares)
		sagg_shared_rows_begin(batch,
							   OidIsValid(stream->view) ? list_make1_oid(stream->view) : NIL);
	sagg_execution_run(execution, sagg_batch_records(batch));
	SAGG_FAILPOINT("execute.ran");
	if (shares)
		sagg_shared_rows_end();
}

/*
 * Run the records of "batch" through the stream's query into groups, as
 * sagg_execute_batch does.  Changes commit->times.
 */
void
sagg_execute_records(SaggExecution *execution, const SaggStream *stream,
					 const SaggQuery *query, SaggBatch *batch,
					 SaggRejections *rejections, SaggCommit *commit, SaggFault *fault)
{
	ErrorContextCallback callback;

	callback.callback = sagg_scan_error_context;
	callback.arg = NULL;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	sagg_batch_attach(stream->sources, 0, batch, rejections);
	separate_partitions(execution, stream, batch, commit);
	*fault = SAGG_FAULT_RECORDS;
	run_query(execution, stream, query, batch);
	sagg_batch_detach();
	error_context_stack = callback.previous;
}

/*
 * Close what the new watermark closes, as sagg_execute_batch does, when all of the
 * batch's "records" are in their groups.
 */
void
sagg_execute_close(SaggExecution *execution, const SaggStream *stream,
				   const SaggQuery *query, int64 records, SaggCommit *commit,
				   SaggFault *fault)
{
	/* a window that closes is not about the record that closes it */
	if (stream->mode == SAGG_APPEND && query->kind == SAGG_AGGREGATION)
		*fault = SAGG_FAULT_WINDOWS;
	sagg_execution_close(execution, &commit->counts, &commit->watermark, &commit->max_time);
	sagg_counts_settle(&commit->counts, records);
}

/*
 * Run the records of "batch" through the stream's query into groups, and close what
 * the new watermark closes.  Records that cannot be processed go to "rejections", which
 * is NULL if they are errors.
 *
 * commit->times holds event time by partition before the batch.  Sets in "commit" the
 * counts, the times, the watermark, and max_time to the batch's greatest event time,
 * DT_NOBEGIN = none.  While it runs, "fault" says what an error is about.
 *
 * In a transaction with an active snapshot, as the stream's owner.  After an ERROR
 * nothing is left attached once the transaction or subtransaction is aborted.
 */
void
sagg_execute_batch(SaggExecution *execution, const SaggStream *stream,
				   const SaggQuery *query, SaggBatch *batch,
				   SaggRejections *rejections, SaggCommit *commit, SaggFault *fault)
{
	sagg_execute_records(execution, stream, query, batch, rejections, commit, fault);
	sagg_execute_close(execution, stream, query, sagg_batch_records(batch), commit, fault);
}
