/*-------------------------------------------------------------------------
 *
 * health.c
 *	  What becomes of a stream, told to the log of events, the server log and
 *	  shared memory: started, stopped, retrying, failed, recovered.
 *
 * A stream has recovered when, after errors, a micro-batch is committed, or Kafka
 * has been asked and there is nothing to read.  Only then it has no last error.
 *
 * Events are written in transactions of their own, between micro-batches.  They
 * are for people, so nothing depends on them: where one cannot be written that
 * is a line in the server log, and the stream goes on.
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

/* longest pause of a stream that has failed and tries again, unless the first
 * one is longer */
#define LONGEST_FAILURE_PAUSE_MS	(10 * 60 * 1000)

#define PARTITION_HINT \
	"Create the partition. The option retention has partitions made ahead."

#define CLOSED_WINDOWS_HINT \
	"This is about rows of windows that have closed. No record of the micro-batch can be left out for it: fix the query or the sink."

#define AVOIDABLE_HINT \
	"To continue without such records, or such windows, set the option on_error: stream_agg.alter_stream(stream, '{\"on_error\": \"dead_letter\"}')."

/*
 * The settings of a transaction that writes an event, whatever functions of
 * the user have set.
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
 * Insert an event, unless the stream is about to go: who drops it has its lock.
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
 * session are not those of the stream afterwards.
 */
void
sagg_tell_event(SaggSlot *slot, const char *event, const char *message)
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
 * The session runs for the first time in its process.  Outside of transactions.
 */
void
sagg_session_started(SaggSession *session)
{
	if (session->started)
		return;
	session->started = true;
	ereport(LOG,
			(errmsg("stream \"%s\" has started", session->slot->name)));
	sagg_tell_event(session->slot, "started", NULL);
	sagg_session_settings(session->lead);
}

/*
 * The session ends, by a command or a setting unless it has failed.
 */
void
sagg_session_stopped(const SaggSession *session)
{
	if (session->started && sagg_session_told_to_stop(session))
		ereport(LOG,
				(errmsg("stream \"%s\" has stopped", session->slot->name)));
}

/*
 * An error as pg_stat_stream_agg shows it.
 */
static char *
error_text(const SaggSession *session, const ErrorData *error)
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
	if (session->poison.windows)
		appendStringInfoString(&message, "\nHINT:  " CLOSED_WINDOWS_HINT);
	if (session->poison.avoidable && error->hint == NULL)
		appendStringInfoString(&message, "\nHINT:  " AVOIDABLE_HINT);
	if (error->context)
		appendStringInfo(&message, "\nCONTEXT:  %s", error->context);
	return message.data;
}

/*
 * The log says that a stream has failed, and when it tries again; 0 = it does not.
 */
static void
tell_failed(const SaggSession *session, TimestampTz again)
{
	ereport(LOG,
			(errmsg("stream \"%s\" has failed", session->slot->name),
			 again ? errdetail("It tries again at %s.", timestamptz_to_str(again)) : 0,
			 errhint("Fix the cause, then run stream_agg.start_stream.")));
}

/*
 * When a stream that has failed tries again, by its on_failure: after a pause that
 * doubles each time.
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
 * Record an error of a stream, which is tried again at "next".  "failed": there is
 * to be no other attempt, unless the stream's on_failure says so.  While a record
 * is searched (next = 0) an error is no failed attempt.
 */
void
sagg_note_error(SaggSession *session, const ErrorData *error, bool failed,
				TimestampTz next)
{
	SaggSlot   *slot = session->slot;
	char	   *text = error_text(session, error);
	bool		again = failed && session->retries;

	if (again)
		next = time_of_next_try(slot);
	if (failed || (next != 0 && slot->attempts == 0))
		sagg_tell_event(slot, failed ? "failed" : "retrying", text);
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
	tell_failed(session, again ? next : 0);
	SAGG_FAILPOINT("stream.failed");
}

/*
 * One of the streams that a session works for is well.
 */
static void
recovered(SaggSession *session)
{
	SaggSlot   *slot = session->slot;
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
		sagg_tell_event(slot, "recovered", message);
		sagg_session_settings(session->lead);
		pfree(message);
	}
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	sagg_slot_clear_error(slot);
	LWLockRelease(sagg_shared->lock);
}

/*
 * A trigger has done what there was to do: the streams that take part have no
 * error any more.  While a record is searched that cannot be processed they
 * still have one.  Outside of transactions.
 */
void
sagg_sessions_recovered(SaggSession *session)
{
	ListCell   *lc;

	foreach(lc, session->sessions)
	{
		SaggSession *one = lfirst(lc);

		/* the worker alone writes them while it has the slot */
		if ((one->slot->attempts > 0 || one->slot->last_error[0] != '\0') &&
			one->progress->nsuspects == 0)
			recovered(one);
	}
}
