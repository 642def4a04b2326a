/*-------------------------------------------------------------------------
 *
 * observer.c
 *	  An observer: asks the source once for the ends of the partitions of a stream
 *	  that does not run, or is blocked, so that its lag is not out of date.
 *
 * A short-lived worker, which the launcher starts every stream_agg.lag_check_interval
 * at most, one at a time.  It is connected as the stream's owner, reads the definition,
 * and asks with the owner's credentials what the stream's own worker would ask.  The
 * answer goes into the slot.  A stream that has nothing new is asked about later each
 * time.
 *
 * Never: a record read, a query of the stream run, a lock of a stream taken, a
 * transaction that is open while waiting for the source.  An error here is not an error
 * of the stream.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "define/define.h"
#include "streams/streams.h"
#include "worker_internal.h"

/* how long an observer may take */
#define OBSERVER_TIMEOUT_MS		10000

/* the pause after an observer without news doubles up to this */
#define LONGEST_PAUSE_MS		(10 * 60 * 1000)

PGDLLEXPORT void stream_agg_observer_main(Datum arg);

/* of the launcher: the running observer, and when it is given up */
static BackgroundWorkerHandle *observer = NULL;
static int	observed_slot;
static TimestampTz deadline;

/* of the observer */
static SaggSlot *my_slot;
static Oid	my_view;

/*
 * Returns when the slot's stream is to be asked about; DT_NOEND = not at all.  A stream
 * that runs knows by itself, unless its micro-batch takes long.
 */
static TimestampTz
when_due(const SaggSlot *slot, TimestampTz now)
{
	int64		pause_ms = (int64) sagg_lag_check_interval_ms << Min(slot->unheard, 20);

	if (!slot->in_use || slot->launching || slot->stop_holds > 0 ||
		slot->npartitions == 0 || sagg_database_held(slot->database))
		return DT_NOEND;
	if (slot->pid != 0 && slot->attempts == 0 && slot->stage >= SAGG_STAGES)
		return TimestampTzPlusMilliseconds(now, sagg_lag_check_interval_ms);
	pause_ms = Min(pause_ms, Max(LONGEST_PAUSE_MS, sagg_lag_check_interval_ms));
	return TimestampTzPlusMilliseconds(Max(slot->ends_as_of, slot->observed_at), pause_ms);
}

/*
 * Returns the slot whose turn is next, and in "due" when; -1 = none.
 */
static int
next_slot(TimestampTz now, TimestampTz *due)
{
	int			found = -1;
	bool		waiting = false;

	*due = DT_NOEND;
	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		const SaggSlot *slot = &sagg_shared->slots[i];
		TimestampTz when = when_due(slot, now);

		if (slot->in_use && slot->waiting_for_process)
			waiting = true;
		if (when >= *due)
			continue;
		*due = when;
		found = i;
	}
	/* a stream that waits for a process comes first */
	if (found >= 0 && waiting)
		*due = Max(*due, TimestampTzPlusMilliseconds(now, sagg_lag_check_interval_ms));
	LWLockRelease(sagg_shared->lock);
	return found;
}

static void
send_observer(int i, TimestampTz now)
{
	SaggSlot   *slot = &sagg_shared->slots[i];
	bool		sent;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot->observed_at = now;
	slot->unheard++;
	slot->observing = true;
	LWLockRelease(sagg_shared->lock);
	sent = sagg_start_process("stream_agg_observer_main", "stream_agg observer",
							  "stream_agg observer", Int32GetDatum(i), &observer);
	observed_slot = i;
	deadline = TimestampTzPlusMilliseconds(now, OBSERVER_TIMEOUT_MS);
	if (sent)
		return;
	/* no process is free for it now */
	observer = NULL;
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot->observing = false;
	LWLockRelease(sagg_shared->lock);
}

/*
 * Returns when to check again on the observer, 0 = it has ended.
 */
static TimestampTz
check_ended(TimestampTz now)
{
	pid_t		pid;

	if (GetBackgroundWorkerPid(observer, &pid) != BGWH_STOPPED)
	{
		if (now < deadline)
			return deadline;
		TerminateBackgroundWorker(observer);
		return TimestampTzPlusMilliseconds(now, OBSERVER_TIMEOUT_MS);
	}
	pfree(observer);
	observer = NULL;
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	sagg_shared->slots[observed_slot].observing = false;
	LWLockRelease(sagg_shared->lock);
	return 0;
}

/*
 * For the launcher: start an observer if a stream is due.  Returns when to call again,
 * 0 = when the latch is set.
 */
TimestampTz
sagg_observers_tend(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due;
	int			i;

	if (observer)
	{
		due = check_ended(now);
		if (observer)
			return due;
	}
	if (sagg_lag_check_interval_ms == 0 || !sagg_enabled)
		return 0;
	i = next_slot(now, &due);
	if (i < 0)
		return 0;
	if (due > now)
		return due;
	send_observer(i, now);
	return observer ? deadline : TimestampTzPlusMilliseconds(now, sagg_lag_check_interval_ms);
}

static void
detach(int code, Datum arg)
{
	my_slot->observer_mark.activity = SAGG_NO_PROCESS;
	sagg_mark_end();
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	my_slot->observer = 0;
	my_slot->observing = false;
	LWLockRelease(sagg_shared->lock);
	sagg_process_freed();
}

/*
 * Called by the reader while it waits: do not keep a command on the database waiting.
 */
static void
while_waiting(void *arg)
{
	if (sagg_database_held(MyDatabaseId))
		proc_exit(0);
}

/*
 * Returns a reader for the sources of the stream, NULL if the stream does not exist any
 * more or belongs to others.
 */
static SaggReader *
open_reader(void)
{
	SaggReader *reader = NULL;
	SaggStream *stream = NULL;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (sagg_extension_exists())
		stream = sagg_stream_by_view(my_view, true);
	if (stream && stream->owner == GetUserId() && stream->database == MyDatabaseId &&
		sagg_stream_has_owners(stream->owners, stream->view, stream->sink, stream->sources))
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		reader = sagg_reader_open(stream->sources, false);
		MemoryContextSwitchTo(old);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	return reader;
}

/*
 * Put the ends of partitions into the slot, if it is still the stream's.
 */
static void
publish(const SaggRange *bounds, int nbounds)
{
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	if (my_slot->in_use && my_slot->database == MyDatabaseId && my_slot->view == my_view &&
		my_slot->npartitions > 0)
	{
		sagg_slot_set_ends(my_slot, bounds, nbounds);
		my_slot->unheard = 0;
	}
	LWLockRelease(sagg_shared->lock);
}

static void
observe(void)
{
	SaggReader *reader = open_reader();
	SaggRange  *bounds;
	int			nbounds;

	if (reader == NULL)
		return;
	sagg_reader_on_wait(reader, while_waiting, NULL);
	bounds = sagg_reader_bounds(reader, &nbounds);
	publish(bounds, nbounds);
	sagg_reader_close(reader);
}

/*
 * Main function of an observer; the argument is the slot's number.
 */
void
stream_agg_observer_main(Datum arg)
{
	Oid			database;
	Oid			owner;

	my_slot = &sagg_shared->slots[DatumGetInt32(arg)];
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	database = my_slot->database;
	owner = my_slot->owner;
	my_view = my_slot->view;
	if (my_slot->in_use && my_slot->observer == 0 && !sagg_database_held(database))
		my_slot->observer = MyProcPid;
	LWLockRelease(sagg_shared->lock);
	if (my_slot->observer != MyProcPid)
		proc_exit(0);
	sagg_mark_begin(&my_slot->observer_mark, my_view);
	before_shmem_exit(detach, (Datum) 0);

	BackgroundWorkerInitializeConnectionByOid(database, owner, 0);
	sagg_worker_reset_role();
	pgstat_report_activity(STATE_RUNNING, "stream_agg: asking for the ends of partitions");
	PG_TRY();
	{
		observe();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		/* the stream's own worker reports what is wrong */
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(TopMemoryContext);
		error = CopyErrorData();
		FlushErrorState();
		AbortOutOfAnyTransaction();
		RESUME_INTERRUPTS();
		ereport(DEBUG1,
				(errmsg_internal("could not ask for the ends of partitions: %s", error->message)));
	}
	PG_END_TRY();
	proc_exit(0);
}
