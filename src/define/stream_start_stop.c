/*-------------------------------------------------------------------------
 *
 * stream_start_stop.c
 *	  SQL functions that start, stop and drive streams.
 *
 * start_stream and stop_stream change the catalog row; workers follow at
 * commit (commit_hooks.c).  Only the stream's owner may call them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "streams/streams.h"
#include "define_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_start_stream);
PG_FUNCTION_INFO_V1(stream_agg_stop_stream);

/*
 * Lock the relations of a stream, and its catalog row, until the end of the
 * transaction, and check again that it is the caller's.  In this order: commands that
 * change an owner have locked the relation before they wait for the row.
 */
static void
lock_stream(const SaggStream *stream)
{
	Oid			types[1];
	Datum		values[1];

	sagg_stream_lock_owners(stream);
	sagg_stream_update(stream, "enabled = enabled", 1, types, values);
	(void) sagg_own_stream_now(stream->view);
}

/*
 * Set in the catalog row of a stream whether it shall run.
 */
static void
set_enabled(const SaggStream *stream, bool enabled)
{
	Oid			types[4] = {OIDOID, BOOLOID, OIDOID, OIDARRAYOID};
	Datum		values[4];

	values[1] = BoolGetDatum(enabled);
	values[2] = ObjectIdGetDatum(MyDatabaseId);
	values[3] = PointerGetDatum(sagg_stream_owners(stream->view, stream->sink, stream->sources));
	sagg_stream_update(stream,
					   "enabled = $2,"
					   " database = CASE WHEN $2 THEN $3 ELSE database END,"
					   " started_for = CASE WHEN $2 THEN $4 ELSE started_for END",
					   4, types, values);
}

/*
 * Returns the stream of that name, if the current user owns it, for a function
 * that neither a standby nor a parallel worker can run.
 */
static SaggStream *
own_stream(FunctionCallInfo fcinfo, const char *function)
{
	SaggStream *stream;

	PreventCommandDuringRecovery(function);
	PreventCommandIfParallelMode(function);
	sagg_require_preload();
	stream = sagg_stream_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	sagg_stream_check_owner(stream);
	return stream;
}

/*
 * Calls sagg_slot_retry_now for a caller that does not hold the lock.
 */
void
sagg_retry_now(Oid view)
{
	SaggSlot   *slot;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot = sagg_slot_find(MyDatabaseId, view);
	if (slot)
		(void) sagg_slot_retry_now(slot);
	LWLockRelease(sagg_shared->lock);
}

/*
 * start_stream(stream text): on commit the stream runs.  A failed stream, or
 * one that waits for its next attempt, tries again at once.
 */
Datum
stream_agg_start_stream(PG_FUNCTION_ARGS)
{
	SaggStream *stream = own_stream(fcinfo, "stream_agg.start_stream()");
	SaggSlot   *slot;
	bool		running;
	bool		retries;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot = sagg_slot_find(MyDatabaseId, stream->view);
	running = slot && slot->pid != 0 && slot->stop_holds == 0 &&
		slot->state != SAGG_FAILED;
	retries = running && stream->enabled && sagg_slot_retry_now(slot);
	LWLockRelease(sagg_shared->lock);

	if (running && stream->enabled)
	{
		ereport(NOTICE,
				(retries ?
				 errmsg("stream \"%s\" is already running, and tries again at once", sagg_stream_title(stream->name)) :
				 errmsg("stream \"%s\" is already running", sagg_stream_title(stream->name))));
		PG_RETURN_VOID();
	}
	lock_stream(stream);
	sagg_stream_check_can_run(stream->owner);
	set_enabled(stream, true);
	sagg_label_database();
	sagg_start_stream_at_commit(stream);
	PG_RETURN_VOID();
}

/*
 * Report that a changed stream does not run and needs start_stream.
 */
void
sagg_tell_if_failed(const SaggStream *stream)
{
	SaggSlot   *slot;
	bool		failed;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	slot = sagg_slot_find(MyDatabaseId, stream->view);
	failed = slot && slot->state == SAGG_FAILED;
	LWLockRelease(sagg_shared->lock);
	if (failed)
		ereport(NOTICE,
				(errmsg("stream \"%s\" is still failed", sagg_stream_title(stream->name)),
				 errhint("Start it again with stream_agg.start_stream.")));
}

/*
 * stop_stream(stream text): returns when the worker has finished the batch it
 * is in and has ended.  If the transaction aborts, the stream continues.
 */
Datum
stream_agg_stop_stream(PG_FUNCTION_ARGS)
{
	SaggStream *stream = own_stream(fcinfo, "stream_agg.stop_stream()");

	sagg_lock_stream(stream->view);
	stream = sagg_own_stream_now(stream->view);
	set_enabled(stream, false);
	if (stream->enabled)
		sagg_checkpoint_event(stream->name, "stopped", NULL);
	sagg_stop_stream_at_commit(stream);
	PG_RETURN_VOID();
}
