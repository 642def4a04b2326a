/*-------------------------------------------------------------------------
 *
 * repair_late.c
 *	  repair_late: recomputes windows with the records that came too late for
 *	  them.
 *
 * In the caller's transaction, the rows of closed windows in the sink are
 * replaced by the result of the stream's query over what it has read,
 * including late records, which are not late any more.  So the repair can be
 * rolled back, and readers see either the old rows or the new ones.
 *
 * The stream's lock is held until the end of the transaction (I2): no
 * micro-batch runs meanwhile.  Its state need not be changed, because a closed
 * window is not in it.  A window that is still open - with watermark policy
 * per_partition a record can be late for it - has to wait until it closes,
 * otherwise the stream would write it again without the record.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rangetypes.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "batch_context.h"
#include "control/control.h"
#include "event_time/event_time.h"
#include "execute/execute.h"
#include "read/read.h"
#include "repair_internal.h"
#include "sink_kinds.h"
#include "streams/streams.h"

PG_FUNCTION_INFO_V1(stream_agg_repair_late);

static void
check_stream(const SaggStream *stream)
{
	const SaggSinkKind *kind = sagg_sink_kind(stream->sink);

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("repair_late cannot run in a transaction with isolation level %s",
						IsolationIsSerializable() ? "serializable" : "repeatable read"),
				 errdetail("Its snapshot may be older than rows that the stream has written."),
				 errhint("Use read committed.")));
	if ((kind->flags & SAGG_SINK_TRANSACTIONAL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("late records of stream \"%s\" cannot be repaired", sagg_stream_title(stream->name)),
				 errdetail("Its sink is %s, in which no record can be replaced.", kind->title)));
}

/*
 * Leave out windows that are still open, by the watermark of the last commit.
 */
static void
wait_for_open_windows(SaggRepair *repair)
{
	for (int i = 0; i < repair->nwindows; i++)
	{
		if (repair->windows[i].end > repair->progress->watermark)
			repair->windows[i].reason = "it is still open: run repair_late again when the watermark has passed its end";
	}
}

/*
 * Leave out windows that a reset with results has kept, if records of theirs
 * may lie before its offsets: the stream has not read all of them since then.
 */
static void
reject_windows_before_reset(SaggRepair *repair)
{
	TimestampTz passed = sagg_checkpoint_reset_watermark(repair->checkpoint);

	for (int i = 0; i < repair->nwindows; i++)
	{
		if (repair->windows[i].end <= passed)
			repair->windows[i].reason = "the stream was reset, and records of the window may lie before the offsets from which it has read since then";
	}
}

/*
 * Leave out windows whose rows retention has deleted.
 */
static void
reject_expired_windows(SaggRepair *repair)
{
	TimestampTz expired = sagg_expired_end(repair->stream, repair->query,
										   repair->progress->watermark,
										   GetCurrentTransactionStartTimestamp());

	if (expired == DT_NOBEGIN)
		return;
	for (int i = 0; i < repair->nwindows; i++)
	{
		if (repair->windows[i].end <= expired)
			repair->windows[i].reason = "it is older than the stream's retention";
	}
}

static bool
any_to_repair(const SaggRepair *repair)
{
	for (int i = 0; i < repair->nwindows; i++)
	{
		if (repair->windows[i].reason == NULL)
			return true;
	}
	return false;
}

/*
 * Check the query: only windows with bounds of their own can be recomputed one
 * by one.
 */
static void
check_window(const SaggRepair *repair)
{
	if (!sagg_window_bounds(&repair->query->window)->fixed)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("late records of stream \"%s\" cannot be repaired",
						sagg_stream_title(repair->stream->name)),
				 errdetail("Their windows cannot be computed one by one."),
				 errhint("Use stream_agg.reset_stream with results => true.")));
}

/*
 * Check the sources: the query is run as SQL, which also reads the tables that
 * inherit from a source, whose rows are not records.
 */
static void
check_no_children(const SaggRepair *repair)
{
	ListCell   *lc;

	foreach(lc, repair->query->sources)
	{
		Oid			source = lfirst_oid(lc);

		if (find_inheritance_children(source, AccessShareLock) != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("late records of stream \"%s\" cannot be repaired",
							sagg_stream_title(repair->stream->name)),
					 errdetail("Tables inherit from source \"%s\".", get_rel_name(source)),
					 errhint("Use ALTER TABLE ... NO INHERIT.")));
	}
}

/*
 * Determine what can be repaired, and repair it; runs as the stream's owner.
 */
static void
repair_windows(SaggRepair *repair)
{
	SaggBatchContext outer;
	SaggOwnerContext owner;

	sagg_batch_enter(&outer);
	sagg_become_stream_owner_to_write(&owner, repair->stream);
	repair->query = sagg_query_of_view(repair->stream);
	check_window(repair);
	check_no_children(repair);
	sagg_repair_check_column(repair);
	wait_for_open_windows(repair);
	reject_windows_before_reset(repair);
	reject_expired_windows(repair);
	if (any_to_repair(repair))
		sagg_repair_topic(repair);
	if (any_to_repair(repair))
	{
		sagg_repair_rows(repair);
		/* nor this session as another user */
		sagg_fire_deferred_triggers();
	}
	sagg_restore_user(&owner);
	sagg_batch_leave(&outer);
}

/*
 * Return one row for each window: window, late records, repaired, reason.
 */
static void
return_windows(ReturnSetInfo *rsinfo, const SaggRepair *repair)
{
	TypeCacheEntry *type = lookup_type_cache(TSTZRANGEOID, TYPECACHE_RANGE_INFO);

	for (int i = 0; i < repair->nwindows; i++)
	{
		const SaggLateWindow *window = &repair->windows[i];
		RangeBound	lower = {.inclusive = true, .lower = true};
		RangeBound	upper = {0};
		Datum		values[4];
		bool		nulls[4] = {false, false, false, false};

		lower.val = TimestampTzGetDatum(window->start);
		upper.val = TimestampTzGetDatum(window->end);
		values[0] = RangeTypePGetDatum(SAGG_MAKE_RANGE(type, &lower, &upper, false));
		values[1] = Int64GetDatum(window->records);
		values[2] = BoolGetDatum(window->reason == NULL);
		nulls[3] = window->reason == NULL;
		if (window->reason)
			values[3] = CStringGetTextDatum(window->reason);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/*
 * repair_late(stream text) RETURNS TABLE (win, late_records, repaired,
 * reason).  Waits for the current micro-batch, and for Kafka; the stream
 * continues at the end of the transaction.
 */
Datum
stream_agg_repair_late(PG_FUNCTION_ARGS)
{
	SaggRepair	repair = {0};
	SaggStream *stream;

	PreventCommandDuringRecovery("stream_agg.repair_late()");
	PreventCommandIfParallelMode("stream_agg.repair_late()");
	InitMaterializedSRF(fcinfo, 0);
	stream = sagg_stream_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	sagg_stream_check_owner(stream);
	check_stream(stream);
	sagg_lock_stream(stream->view);
	sagg_lock_micro_batch(stream->view);	/* preview also writes rows */
	PushActiveSnapshot(GetTransactionSnapshot());
	repair.stream = stream = sagg_own_stream_now(stream->view);
	sagg_stream_lock_sink(stream);
	repair.checkpoint = sagg_checkpoint_open(stream->name, sagg_sources_by_topic(stream->sources));
	repair.progress = sagg_checkpoint_progress(repair.checkpoint);
	repair.origin = sagg_checkpoint_origin(repair.checkpoint);
	repair.windows = sagg_checkpoint_late_windows(repair.checkpoint, &repair.nwindows);
	if (repair.nwindows == 0)
		sagg_tell_none_kept(stream, "late_records");
	else
	{
		repair_windows(&repair);
		sagg_checkpoint_late_repaired(repair.checkpoint, repair.windows, repair.nwindows);
	}
	sagg_checkpoint_close(repair.checkpoint);
	PopActiveSnapshot();
	return_windows((ReturnSetInfo *) fcinfo->resultinfo, &repair);
	return (Datum) 0;
}
