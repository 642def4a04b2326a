/*-------------------------------------------------------------------------
 *
 * trial_write.c
 *	  WRITE for a batch that is only tried: writes into the sink itself, with
 *	  its constraints, triggers and privileges, in a subtransaction that the
 *	  caller rolls back.
 *
 * Rows are written under the stream's batch lock, which its worker takes at
 * the beginning of a micro-batch, when it holds nothing else that others wait
 * for.  So the two write one after the other: neither sees uncommitted rows of
 * the other, and they cannot deadlock.  The worker waits no longer than the
 * subtransaction lasts.
 *
 * It never writes rows to a sink that does not roll back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "inspect_internal.h"
#include "control/control.h"
#include "sink_kinds.h"
#include "streams/streams.h"
#include "write/write.h"

/*
 * Returns the reason why rows of the stream cannot be written on trial, for
 * messages; NULL if they can.
 */
const char *
sagg_trial_no_write(const SaggStream *stream)
{
	const SaggSinkKind *kind = sagg_sink_kind(stream->sink);

	if ((kind->flags & SAGG_SINK_TRANSACTIONAL) == 0)
		return psprintf("it is %s, which does not roll back", kind->title);
	if (RecoveryInProgress())
		return "the server is a standby";
	if (XactReadOnly)
		return "the transaction is read-only";
	if (IsolationUsesXactSnapshot())
		return "the transaction is not read committed, so its snapshot may be older than rows that the stream has written";
	return NULL;
}

/*
 * Returns whether the batch of "inspection" is still the next one.
 */
static bool
is_next(const SaggInspection *inspection)
{
	SaggCheckpoint *checkpoint;
	int64		last;

	PushActiveSnapshot(GetTransactionSnapshot());
	checkpoint = sagg_checkpoint_open_snapshot(inspection->stream->name);
	last = sagg_checkpoint_progress(checkpoint)->batch;
	sagg_checkpoint_close(checkpoint);
	PopActiveSnapshot();
	return last == inspection->progress->batch;
}

static void
write_rows(const SaggInspection *inspection, const SaggOutput *output)
{
	SaggSink   *sink = sagg_sink_open(inspection->stream);
	int64		rows_out;
	int64		rows_removed;

	PG_TRY();
	{
		sagg_sink_write(sink, inspection->query, output, &rows_out, &rows_removed);
		sagg_fire_deferred_triggers();
	}
	PG_FINALLY();
	{
		sagg_sink_close(sink);
	}
	PG_END_TRY();
}

/*
 * Write the output of the batch into the stream's sink, and run deferred
 * triggers, as the stream's owner, who is the current user.  Raises what the
 * real batch would.  Uses up the rows of "output".
 *
 * Returns false, without having written, if the stream has committed a batch
 * since its state was read: then these rows are not the next ones, and could
 * conflict with rows written meanwhile.  That cannot happen if
 * sagg_lock_micro_batch was called before the state was read.
 */
bool
sagg_trial_write(const SaggInspection *inspection, const SaggOutput *output)
{
	sagg_lock_micro_batch(inspection->stream->view);
	if (!is_next(inspection))
		return false;
	write_rows(inspection, output);
	return true;
}
