/*-------------------------------------------------------------------------
 *
 * process_available.c
 *	  process_available(stream, timeout): trigger at once, wait for the
 *	  commit.
 *
 * The caller leaves a request in the stream's slot and sleeps on a condition
 * variable; the worker serves requests in trigger.c.  The call is rejected
 * where the worker would have to wait for the caller in turn, because the
 * deadlock detector does not see this wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "streams/streams.h"
#include "define_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_process_available);

/* the longest sleep between two checks for a slot that does not exist yet */
#define LOOK_AGAIN_MS	1000

#define MAX_TIMEOUT_DAYS	INT64CONST(36525)

/* a request as its caller sees it */
typedef struct Request
{
	const SaggStream *stream;
	TimestampTz started;
	TimestampTz deadline;
	SaggSlot   *made;			/* the slot that was asked, or NULL */
	uint64		seq;
	bool		known;			/* "before" is known: what the stream had done
								 * at the call */
	SaggTally	before;
	SaggTally	result;			/* what it has done since then */
} Request;

static void
reject_locked(const SaggStream *stream, Oid relid)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);

	if (rel == NULL)			/* dropped: the caller gets an error for the
								 * stream */
		return;
	if (CheckRelationLockedByMe(rel, RowShareLock, true))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for stream \"%s\" while this transaction holds a lock on \"%s\"",
						sagg_stream_title(stream->name), RelationGetRelationName(rel)),
				 errdetail("The stream could not commit before the transaction ends."),
				 errhint("Call process_available in a transaction of its own.")));
	relation_close(rel, AccessShareLock);
}

/*
 * Reject a transaction that the worker might have to wait for.
 */
static void
check_transaction(const SaggStream *stream)
{
	SaggOwnerContext owner;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(stream->view)};
	bool		changed;
	ListCell   *lc;

	if (GetTopTransactionIdIfAny() != InvalidTransactionId)
	{
		SPI_connect();
		sagg_become_extension_owner(&owner);
		changed = SPI_execute_with_args("SELECT xmin FROM stream_agg.streams WHERE query = $1",
										1, types, values, NULL, true, 1) == SPI_OK_SELECT &&
			SPI_processed == 1;
		if (changed)
		{
			bool		isnull;
			Datum		xmin = SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 1, &isnull);

			changed = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
		}
		sagg_restore_user(&owner);
		SPI_finish();
		if (changed)
			ereport(ERROR,
					(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
					 errmsg("stream \"%s\" was created or changed by this transaction",
							sagg_stream_title(stream->name)),
					 errdetail("Its worker sees the stream only after the commit."),
					 errhint("Call process_available in a transaction of its own.")));
	}
	reject_locked(stream, stream->sink);
	reject_locked(stream, stream->view);
	foreach(lc, stream->sources)
		reject_locked(stream, lfirst_oid(lc));
}

/*
 * Check the slot once: make the request, or see whether it was served.
 * Returns true when it was served; raises the stream's error if it has failed.
 * "cv" is set to the condition variable to sleep on.
 */
static bool
look(Request *request, ConditionVariable **cv)
{
	SaggSlot   *slot;
	bool		done = false;
	bool		failed = false;
	bool		stopped = false;
	char		error[SAGG_ERROR_SIZE];
	int			sqlstate = 0;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot = sagg_slot_find(MyDatabaseId, request->stream->view);
	if (slot != NULL && slot->wanted)
	{
		failed = slot->state == SAGG_FAILED;
		stopped = slot->stop_holds > 0;
		strlcpy(error, slot->last_error, sizeof(error));
		sqlstate = slot->last_sqlstate;
		if (request->made != slot)
		{
			/* the first call, or the stream has got another slot */
			request->made = slot;
			request->seq = ++slot->request_seq;
			if (!request->known)
				request->before = slot->tally;
			request->known = request->known || slot->known;
			if (slot->latch)
				SetLatch(slot->latch);
			(void) sagg_slot_retry_now(slot);
		}
		else if (slot->done_seq >= request->seq)
		{
			if (!request->known)
				request->before = slot->first;
			request->result.batches = slot->tally.batches - request->before.batches;
			request->result.rows_in = slot->tally.rows_in - request->before.rows_in;
			request->result.rows_out = slot->tally.rows_out - request->before.rows_out;
			done = true;
		}
	}
	else if (slot != NULL && request->made)
		stopped = true;
	*cv = slot ? &slot->changed : &sagg_shared->slots_changed;
	LWLockRelease(sagg_shared->lock);

	if (done)
		return true;
	if (failed)
		ereport(ERROR,
				(errcode(sqlstate),
				 errmsg("stream \"%s\" has failed", sagg_stream_title(request->stream->name)),
				 errdetail_internal("%s", error),
				 errhint("Fix the cause, then run stream_agg.start_stream.")));
	if (stopped)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" was stopped", sagg_stream_title(request->stream->name))));
	return false;
}

/*
 * The timeout has passed.  An error since the call explains why.
 */
static void
raise_timeout(const Request *request, int64 timeout_ms)
{
	SaggSlot   *slot;
	char		error[SAGG_ERROR_SIZE] = "";

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	slot = sagg_slot_find(MyDatabaseId, request->stream->view);
	if (slot && slot->last_error[0] != '\0' &&
		(slot->last_error_time >= request->started || slot->state != SAGG_RUNNING))
		strlcpy(error, slot->last_error, sizeof(error));
	LWLockRelease(sagg_shared->lock);

	ereport(ERROR,
			(errcode(ERRCODE_QUERY_CANCELED),
			 errmsg("stream \"%s\" has not processed what was available within " INT64_FORMAT " ms",
					sagg_stream_title(request->stream->name), timeout_ms),
			 error[0] ? errdetail_internal("%s", error) :
			 errdetail("The stream continues by itself; nothing is lost.")));
}

static void
wait_until_served(Request *request, int64 timeout_ms)
{
	ConditionVariable *cv = &sagg_shared->slots_changed;
	ConditionVariable *next;
	uint32		event = SAGG_WAIT_EVENT("StreamAggProcessAvailable");

	ConditionVariablePrepareToSleep(cv);
	while (!look(request, &next))
	{
		TimestampTz now = GetCurrentTimestamp();
		long		left = TimestampDifferenceMilliseconds(now, request->deadline);

		if (left <= 0)
		{
			ConditionVariableCancelSleep();
			raise_timeout(request, timeout_ms);
		}
		if (next != cv)
		{
			/* check again once registered with the condition variable */
			ConditionVariableCancelSleep();
			cv = next;
			ConditionVariablePrepareToSleep(cv);
			continue;
		}
		(void) ConditionVariableTimedSleep(cv, Min(left, LOOK_AGAIN_MS), event);
	}
	ConditionVariableCancelSleep();
}

/*
 * process_available(stream text, timeout interval, OUT batches, rows_in,
 * rows_out).
 */
Datum
stream_agg_process_available(PG_FUNCTION_ARGS)
{
	SaggStream *stream;
	Interval   *timeout = PG_GETARG_INTERVAL_P(1);
	int64		timeout_days = timeout->day + timeout->month * INT64CONST(30);
	int64		timeout_ms;
	Request		request = {0};
	TupleDesc	tupdesc;
	Datum		values[3];
	bool		nulls[3] = {0};

	PreventCommandDuringRecovery("stream_agg.process_available()");
	PreventCommandIfParallelMode("stream_agg.process_available()");
	sagg_require_preload();
	stream = sagg_stream_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	sagg_stream_check_owner(stream);
	/* in days the largest timeout would overflow */
	timeout_ms = timeout_days > MAX_TIMEOUT_DAYS ? MAX_TIMEOUT_DAYS * (USECS_PER_DAY / 1000) :
		(timeout->time + timeout_days * USECS_PER_DAY) / 1000;
	if (timeout_ms <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must be greater than zero")));
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!stream->enabled || stream->database != MyDatabaseId || !sagg_enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" is stopped", sagg_stream_title(stream->name)),
				 sagg_enabled ?
				 errhint("Start it with stream_agg.start_stream.") :
				 errhint("stream_agg.enabled is off.")));
	check_transaction(stream);

	request.stream = stream;
	request.started = GetCurrentTimestamp();
	request.deadline = TimestampTzPlusMilliseconds(request.started, timeout_ms);
	wait_until_served(&request, timeout_ms);

	values[0] = Int64GetDatum(request.result.batches);
	values[1] = Int64GetDatum(request.result.rows_in);
	values[2] = Int64GetDatum(request.result.rows_out);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc),
													  values, nulls)));
}
