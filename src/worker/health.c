/*-------------------------------------------------------------------------
 *
 * health.c
 *	  What happens to a stream - started, retrying, failed, recovered - in the log
 *	  of events, the server log and shared memory.
 *
 * A stream has recovered when, after errors, a micro-batch is committed, or the
 * source was asked and has nothing to read.  Only then its last error is cleared.
 *
 * Events are written in transactions of their own, between micro-batches.  They are
 * for people and nothing depends on them: if one cannot be written, a line in the
 * server log says so and the stream goes on.
 *
 * Never: a wait for a lock of others for longer than EVENT_LOCK_TIMEOUT.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "define/define.h"
#include "streams/streams.h"
#include "worker_internal.h"

#define EVENT_LOCK_TIMEOUT	"1s"

/* the longest pause before a stream that has failed tries again, unless the first
 * one is longer */
#define LONGEST_FAILURE_PAUSE_MS	(10 * 60 * 1000)

#define PARTITION_HINT \
	"Create the partition. The option retention has partitions made ahead."

#define CLOSED_WINDOWS_HINT \
	"This is about rows of windows that have closed. No record of the micro-batch can be left out for it: fix the query or the sink."

#define AVOIDABLE_HINT \
	"To continue without such records, or such windows, set the option on_error: stream_agg.alter_stream(stream, '{\"on_error\": \"dead_letter\"}')."

/*
 * Set what a transaction that writes an event needs, whatever functions of the user
 * have set.
 */
static void
set_event_settings(void)
{
	sagg_worker_reset_role();
	ResetAllOptions();
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_deferrable", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("lock_timeout", EVENT_LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION);
}

/*
 * Insert an event, unless the stream is being dropped: DROP holds its lock.
 */
static void
insert_event(Oid view, const char *event, const char *message)
{
	LOCKTAG		tag;
	SaggStream *stream;

	sagg_stream_locktag(&tag, MyDatabaseId, view);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL ||
		!sagg_extension_exists())
		return;
	stream = sagg_stream_by_view(view, true);
	if (stream)
		sagg_checkpoint_event(stream->name, event, message);
}

/*
 * Add an event of the slot's stream to stream_agg.events, in a transaction of its
 * own; none is open.  "message" may be NULL.  Raises no error.  The settings of the
 * process are not those of the stream afterwards.
 */
void
sagg_record_event(SaggSlot *slot, const char *event, const char *message)
{
	MemoryContext old = CurrentMemoryContext;

	PG_TRY();
	{
		set_event_settings();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		insert_event(slot->view, event, message);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		EmitErrorReport();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	SetConfigOption("lock_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	MemoryContextSwitchTo(old);
}

/*
 * Log that a run begins, the first time in its process.  Outside of transactions.
 */
void
sagg_run_started(SaggStreamRun *run)
{
	if (run->started)
		return;
	run->started = true;
	ereport(LOG,
			(errmsg("stream \"%s\" has started", run->slot->name)));
	sagg_record_event(run->slot, "started", NULL);
	sagg_run_settings(run->reading->leader);
}

/*
 * Returns an error as pg_stat_stream_agg shows it.
 */
static char *
error_text(const SaggStreamRun *run, const ErrorData *error)
{
	StringInfoData message;

	initStringInfo(&message);
	appendStringInfoString(&message, error->message);
	if (error->detail)
		appendStringInfo(&message, "\nDETAIL:  %s", error->detail);
	if (error->hint)
		appendStringInfo(&message, "\nHINT:  %s", error->hint);
	if (sagg_error_of_partition(error) && error->hint == NULL)
		appendStringInfoString(&message, "\nHINT:  " PARTITION_HINT);
	if (run->poison.windows)
		appendStringInfoString(&message, "\nHINT:  " CLOSED_WINDOWS_HINT);
	if (run->poison.avoidable && error->hint == NULL)
		appendStringInfoString(&message, "\nHINT:  " AVOIDABLE_HINT);
	if (error->context)
		appendStringInfo(&message, "\nCONTEXT:  %s", error->context);
	return message.data;
}

/*
 * Log that a stream has failed, and when it tries again; 0 = it does not.
 */
static void
log_failed(const SaggStreamRun *run, TimestampTz again)
{
	ereport(LOG,
			(errmsg("stream \"%s\" has failed", run->slot->name),
			 again ? errdetail("It tries again at %s.", timestamptz_to_str(again)) : 0,
			 errhint("Fix the cause, then run stream_agg.start_stream.")));
}

/*
 * Returns when a stream that has failed tries again, by its on_failure: after a pause
 * that doubles each time.
 */
static TimestampTz
time_of_next_try(const SaggSlot *slot)
{
	int64		pause_ms = (int64) sagg_failure_retry_delay_ms << Min(slot->failures, 20);

	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									   Min(pause_ms, Max(LONGEST_FAILURE_PAUSE_MS,
														 sagg_failure_retry_delay_ms)));
}

/*
 * Record an error of a stream, which tries again at "next".  "failed": it does not,
 * unless the stream's on_failure says so.  While a record is searched (next = 0) an
 * error is not a failed attempt.
 */
void
sagg_note_error(SaggStreamRun *run, const ErrorData *error, bool failed,
				TimestampTz next)
{
	SaggSlot   *slot = run->slot;
	char	   *text = error_text(run, error);
	bool		again = failed && run->retries;

	if (again)
		next = time_of_next_try(slot);
	if (failed || (next != 0 && slot->attempts == 0))
		sagg_record_event(slot, failed ? "failed" : "retrying", text);
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	sagg_slot_set_error(slot, error->sqlerrcode, text);
	if (next != 0)
		sagg_slot_attempt_failed(slot, next);
	if (again)
	{
		slot->failures++;
		slot->next_start = next;
	}
	else if (failed)
		slot->state = SAGG_FAILED;
	LWLockRelease(sagg_shared->lock);
	pfree(text);
	if (!failed)
		return;
	log_failed(run, again ? next : 0);
	SAGG_FAILPOINT("stream.failed");
}

/*
 * A stream has no error any more: log that, and clear the last one.
 */
static void
recovered(SaggStreamRun *run)
{
	SaggSlot   *slot = run->slot;
	int			attempts = slot->attempts;
	char	   *message;

	if (attempts > 0)
	{
		ereport(LOG,
				(errmsg_plural("stream \"%s\" has recovered after %d failed attempt",
							   "stream \"%s\" has recovered after %d failed attempts",
							   attempts, slot->name, attempts)));
		message = psprintf("failed attempts: %d, since %s", attempts,
						   timestamptz_to_str(slot->retrying_since));
		sagg_record_event(slot, "recovered", message);
		sagg_run_settings(run->reading->leader);
		pfree(message);
	}
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	sagg_slot_clear_error(slot);
	LWLockRelease(sagg_shared->lock);
}

/*
 * A trigger has done what there was to do: the runs have no error any more, except
 * those that search a record that cannot be processed.  Outside of transactions.
 */
void
sagg_reading_recovered(SaggReading *reading)
{
	ListCell   *lc;

	foreach(lc, reading->runs)
	{
		SaggStreamRun *run = lfirst(lc);

		/* only the worker that has the slot writes these */
		if ((run->slot->attempts > 0 || run->slot->last_error[0] != '\0') &&
			run->progress->nsuspects == 0)
			recovered(run);
	}
}
