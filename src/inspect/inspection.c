/*-------------------------------------------------------------------------
 *
 * inspection.c
 *	  Restores a stream's state into the memory of this process.
 *
 * The state log holds what the last commit left, and by MVCC a snapshot sees
 * it and the sink as of the same commit: so any backend can read the open
 * windows, under any isolation level and on a standby, and neither waits for
 * the worker nor makes it wait.
 *
 * Functions of aggregates and of the query are the owner's code: it runs as the
 * owner, in a security-restricted operation, and with the settings that hold
 * in the stream's micro-batches (I8).
 *
 * Nothing here writes, or takes a lock that the worker would wait for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "inspect_internal.h"

/*
 * Begin an execution of the batch after "progress", against a store for the
 * state it left.
 */
static void
begin_execution(SaggInspection *inspection)
{
	const SaggProgress *progress = inspection->progress;
	SaggPlan   *plan = palloc0(sizeof(SaggPlan));

	plan->batch = progress->batch + 1;
	plan->watermark = progress->watermark;
	plan->batch_time = GetCurrentTransactionStartTimestamp();
	inspection->plan = plan;
	inspection->store = sagg_store_private(inspection->stream->name,
										   inspection->log_bytes,
										   inspection->query->fingerprint,
										   progress->batch);
	inspection->execution = sagg_execution_begin(inspection->store,
												 inspection->stream,
												 inspection->query, plan);
}

/*
 * Restore the state of inspection->stream as of the last commit that the
 * active snapshot sees, ready for the batch after it; the caller fills in
 * "query", this function the rest.  In the current context, which frees it
 * after an ERROR.  The current user is the stream's owner.
 */
void
sagg_inspection_begin(SaggInspection *inspection)
{
	inspection->checkpoint = sagg_checkpoint_open_snapshot(inspection->stream->name);
	inspection->progress = sagg_checkpoint_progress(inspection->checkpoint);
	inspection->log_bytes = sagg_checkpoint_state_bytes(inspection->checkpoint,
														inspection->progress);
	begin_execution(inspection);
	sagg_checkpoint_restore(inspection->checkpoint, inspection->progress,
							sagg_execution_state(inspection->execution));
}

/*
 * Begin an inspection of a stream that has no checkpoint, before its first
 * batch.
 */
void
sagg_inspection_begin_empty(SaggInspection *inspection)
{
	SaggProgress *progress = palloc0(sizeof(SaggProgress));

	progress->batch = -1;
	progress->watermark = inspection->stream->has_watermark ?
		SAGG_EPOCH : DT_NOBEGIN;
	inspection->progress = progress;
	begin_execution(inspection);
}

/*
 * Treat the batch of the execution as committed, and begin the next one.
 */
void
sagg_inspection_next(SaggInspection *inspection, TimestampTz watermark)
{
	sagg_execution_end(inspection->execution);
	sagg_store_publish(inspection->store);
	inspection->plan->batch++;
	inspection->plan->watermark = watermark;
	inspection->execution = sagg_execution_begin(inspection->store,
												 inspection->stream,
												 inspection->query,
												 inspection->plan);
}

/*
 * End the inspection; the memory of the state is freed with the context it was
 * begun in.
 */
void
sagg_inspection_end(SaggInspection *inspection)
{
	sagg_execution_end(inspection->execution);
	if (inspection->checkpoint)
		sagg_checkpoint_close(inspection->checkpoint);
}
