/*-------------------------------------------------------------------------
 *
 * stream_worker.c
 *	  The worker of a stream: opening what micro-batches need, and what happens
 *	  after errors.
 *
 * A worker connects as the stream's owner (I8), takes the stream's lock at
 * session level before it touches shared state (I2), opens a run - checkpoint,
 * sink, state store - and a reading, and runs micro-batches until it is told to
 * stop.  On an ERROR both are closed, shared state goes back to the last commit
 * (I3), the lock is released and, after a delay, all is taken and opened again; the
 * process stays.  A batch that was not committed runs again with the same plan;
 * after its commit the worker goes on with the next batch.  On anything worse the
 * process ends and the launcher starts another.
 *
 * Never: a transaction that is open while waiting for the source or for a trigger,
 * except for what a sink outside of the server has to acknowledge (sink.h).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "streams/streams.h"
#include "worker_internal.h"

PGDLLEXPORT void stream_agg_worker_main(Datum arg);

/*
 * Open everything a batch needs.  Contacts the source only after the transaction.
 */
static void
open_all(SaggReading *reading)
{
	SaggStreamRun *leader = reading->leader;
	SaggExit	how;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!sagg_run_load(leader, &how))
		sagg_worker_leave(leader, how);
	sagg_run_settings(leader);
	SAGG_FAILPOINT("session.locked");
	sagg_run_open(leader);
	sagg_poison_opened(leader);
	sagg_reading_open(reading);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(reading->memory);

	sagg_run_started(leader);
	sagg_reading_find_start(reading);
	sagg_idle_begin(leader);
	SAGG_FAILPOINT("session.opened");
	sagg_publish_statistics(leader);
	if (leader->slot->leads)
		sagg_members_open(reading);
}

/*
 * Close what open_all opened, all of it or a part.  Also after an error, outside
 * of transactions.
 */
static void
close_all(SaggReading *reading)
{
	sagg_members_close(reading);
	sagg_reading_close(reading);
	sagg_run_close(reading->leader);
}

/* whether an error goes away by itself */
typedef enum ErrorKind
{
	ERROR_TRANSIENT,			/* retried without end */
	ERROR_UNKNOWN,				/* retried stream_agg.max_attempts times */
	ERROR_LASTING				/* somebody has to act */
} ErrorKind;

static ErrorKind
classify_error(int sqlstate)
{
	if (ERRCODE_TO_CATEGORY(sqlstate) == MAKE_SQLSTATE('S', 'A', '0', '0', '0'))
		return ERROR_LASTING;
	if (sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
		return ERROR_UNKNOWN;	/* of class 55, but no object is in use */
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case MAKE_SQLSTATE('0', '8', '0', '0', '0'):	/* connection */
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'):	/* rollback */
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'):	/* resources */
		case MAKE_SQLSTATE('5', '5', '0', '0', '0'):	/* object in use */
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'):	/* intervention */
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'):	/* system */
			return ERROR_TRANSIENT;
		default:
			return ERROR_UNKNOWN;
	}
}

/*
 * Returns the run that an error is about; the leader's if it is about all.
 */
static SaggStreamRun *
culprit_of(const SaggReading *reading)
{
	return reading->current ? reading->current : reading->leader;
}

/*
 * Count an error of a run.  Returns whether it was the last attempt.
 */
static bool
attempts_are_over(SaggStreamRun *run, ErrorKind kind, bool searching)
{
	/* a batch since the last error: the count begins again */
	if (run->slot->tally.batches != run->last_batches)
		run->attempts = 0;
	run->last_batches = run->slot->tally.batches;
	if (searching)
		return false;
	run->attempts++;
	return kind == ERROR_LASTING ||
		(kind == ERROR_UNKNOWN &&
		 (run->attempts >= sagg_max_attempts || run->slot->failures > 0));
}

/*
 * Returns whether an error is only the worker giving way to a command that ends
 * the stream.
 */
static bool
gives_way(const SaggStreamRun *run, const ErrorData *error)
{
	return (error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
			error->sqlerrcode == ERRCODE_QUERY_CANCELED) &&
		sagg_run_is_to_stop(run);
}

/*
 * Record an error and return how long to wait before the next attempt, in ms; 0
 * while a record is searched.  A stream that has failed is released, and with it
 * those that share its reader if its options say so.  Ends the process if none is
 * left, or the leader has failed.
 */
static long
handle_error(SaggReading *reading, const ErrorData *error, bool searching)
{
	SaggStreamRun *culprit = culprit_of(reading);
	long		delay_ms = 0;
	bool		failed;
	bool		all;
	ListCell   *lc;

	if (culprit != reading->leader && sagg_run_is_to_stop(culprit))
	{
		sagg_member_release(culprit, SAGG_EXIT_STOPPED);
		return 0;
	}
	failed = attempts_are_over(culprit, culprit->over_limit ? ERROR_UNKNOWN :
							   classify_error(error->sqlerrcode), searching);
	if (!searching)
		delay_ms = Min((int64) SAGG_FIRST_RETRY_DELAY_MS << Min(culprit->attempts, 20),
					   sagg_max_retry_delay_ms);
	all = reading->current == NULL || (failed && culprit->stops_all);
	foreach(lc, reading->members)
	{
		if ((all || lfirst(lc) == culprit) && !gives_way(lfirst(lc), error))
			sagg_note_error(lfirst(lc), error, failed, searching ? 0 :
							TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms));
	}
	reading->current = NULL;
	if (failed && (all || culprit == reading->leader))
		sagg_worker_leave(reading->leader, SAGG_EXIT_STOPPED);
	if (failed)
	{
		sagg_member_release(culprit, SAGG_EXIT_STOPPED);
		return 0;
	}
	return delay_ms;
}

/*
 * Take a store back to the last commit.  If the stream is not to be tried again,
 * give its shared memory to others.
 */
static void
recover_store(SaggStreamRun *run, bool lasting)
{
	bool		undone = run->store && run->store_undoable && !lasting &&
	sagg_store_undo(run->store);

	if (!undone && (run->store || lasting))
	{
		/*
		 * restored in half, or of a batch that is committed already, or not
		 * all there
		 */
		if (run->store)
			sagg_store_close(run->store);
		run->store = NULL;
		sagg_state_discard(run->slot);
	}
	if (run->checkpoint)
		sagg_checkpoint_aborted(run->checkpoint);
}

/*
 * After an ERROR: take shared state back to the last commit while the locks of the
 * streams are still held.  Aborting a transaction releases them; if none was open
 * we do.
 */
static void
recover_from_error(SaggReading *reading, ErrorKind kind)
{
	ListCell   *lc;

	LWLockReleaseAll();
	foreach(lc, reading->members)
	{
		SaggStreamRun *run = lfirst(lc);

		recover_store(run, kind == ERROR_LASTING && run->locked &&
					  (reading->current == NULL || reading->current == run));
		if (run->sink)
			sagg_sink_aborted(run->sink);
	}
	AbortOutOfAnyTransaction();
	LockReleaseAll(DEFAULT_LOCKMETHOD, true);
	foreach(lc, reading->members)
		((SaggStreamRun *) lfirst(lc))->locked = false;
}

/*
 * Error context callback: the stream and micro-batch that a message is about.
 */
static void
worker_error_context(void *arg)
{
	const SaggStreamRun *run = culprit_of((SaggReading *) arg);

	if (run->plan)
		errcontext("micro-batch " INT64_FORMAT " of stream \"%s\"",
				   run->plan->batch, run->slot->name);
	else
		errcontext("stream \"%s\"", run->slot->name);
}

/*
 * Write the error being handled into the server's log, if it is one.
 */
static void
report_error(const SaggReading *reading, const ErrorData *error, bool searching)
{
	const SaggStreamRun *run = culprit_of(reading);

	/* it is logged already, or will be when the plan is made smaller */
	if (searching && (run->plan->nsuspects > 0 ||
					  run->too_large == run->plan->batch))
		return;
	if (gives_way(run, error))
		ereport(LOG,
				(errmsg("stream \"%s\" gives way to a command that waits for it to stop",
						run->slot->name)));
	else
		EmitErrorReport();
}

/*
 * Note what an error is about, before the run that knows is closed.  Returns
 * whether a record is to be searched for it.
 */
static bool
note_fault(SaggReading *reading, const ErrorData *error)
{
	SaggStreamRun *culprit = culprit_of(reading);
	ListCell   *lc;

	culprit->stops_all = culprit->stream && culprit->stream->options.stops_all;
	foreach(lc, reading->members)
	{
		SaggStreamRun *run = lfirst(lc);

		run->retries = run->stream && run->stream->options.retries;
	}
	return sagg_batch_size_failed(culprit, error) || sagg_poison_failed(culprit, error);
}

/*
 * Run micro-batches, from opening to an error.  Returns the error, allocated in
 * TopMemoryContext, and in "searching" whether a record is to be searched for it.
 * Without an error the process ends here.
 */
static ErrorData *
run_batches(SaggReading *reading, bool *searching)
{
	ErrorContextCallback callback;
	ErrorData  *volatile error = NULL;

	callback.callback = worker_error_context;
	callback.arg = reading;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	PG_TRY();
	{
		open_all(reading);
		sagg_trigger_loop(reading);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(TopMemoryContext);
		error = CopyErrorData();
		*searching = note_fault(reading, error);
		report_error(reading, error, *searching);
		FlushErrorState();
		recover_from_error(reading, classify_error(error->sqlerrcode));
		close_all(reading);
		sagg_mark_stream(reading->leader->slot->view);
		sagg_mark_batch(-1);
		MemoryContextSwitchTo(TopMemoryContext);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	error_context_stack = callback.previous;
	return error;
}

static void
wait_before_retry(SaggReading *reading, long delay_ms)
{
	SaggSlot   *slot = reading->leader->slot;
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);

	pgstat_report_activity(STATE_IDLE, "stream_agg: waiting to retry");
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		bool		now;

		LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
		now = slot->retry_now;
		slot->retry_now = false;
		LWLockRelease(sagg_shared->lock);
		if (left <= 0 || now)
			break;
		(void) sagg_reading_wait(reading, false,
								 sagg_memory_rest(&reading->memory_use, reading->leader->slot,
												  reading->reader, left));
	}
}

/*
 * Main function of a stream's worker; the argument is the slot's number.
 */
void
stream_agg_worker_main(Datum arg)
{
	SaggReading reading = {0};
	SaggStreamRun leader = {0};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	sagg_memory_keep();
	sagg_clip_reports();
	sagg_worker_attach(&reading, &leader, DatumGetInt32(arg));
	BackgroundWorkerInitializeConnectionByOid(leader.slot->database, leader.slot->owner, 0);
	sagg_worker_connected();
	sagg_worker_reset_role();
	for (;;)
	{
		bool		searching = false;
		ErrorData  *error = run_batches(&reading, &searching);
		long		delay_ms = handle_error(&reading, error, searching);

		FreeErrorData(error);
		wait_before_retry(&reading, delay_ms);
	}
}
