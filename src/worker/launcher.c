/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The launcher: keeps one worker per stream running.
 *
 * It is connected to no database, so it never blocks DROP DATABASE, and it contacts no
 * broker.  Security labels say which databases have streams (database_label.c); scans of these
 * find the streams (scan_schedule.c, database_scan.c).  It starts a worker for each slot
 * that wants one, and when a worker dies it starts another, later each time.  It sleeps
 * on its latch until something changes, and waits for nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "worker_internal.h"

#define NO_WORKER_RETRY_MS		10000

#define NO_PLACE \
	"waiting for a free worker slot: no free background worker slot; max_worker_processes may have to be raised"

PGDLLEXPORT void stream_agg_launcher_main(Datum arg);

/* handles of the workers this launcher has registered, by slot */
static BackgroundWorkerHandle **handles;

/* streams for which no worker could be started, since the last warning */
static int	unplaced = 0;

/*
 * Register the launcher; called by _PG_init in the postmaster.
 */
void
sagg_launcher_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, SAGG_EXTENSION, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "stream_agg_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "stream_agg launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "stream_agg launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

static void
leave_shared_memory(int code, Datum arg)
{
	sagg_mark_end();
	SpinLockAcquire(&sagg_shared->mutex);
	sagg_shared->launcher = NULL;
	SpinLockRelease(&sagg_shared->mutex);
}

/*
 * Free the slots of databases without a label, and the state that killed workers have
 * left behind.  Only the launcher starts workers, so nobody uses it.
 */
static void
forget_other_databases(List *labelled)
{
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];

		if (slot->in_use && slot->pid == 0 && !slot->launching &&
			!list_member_oid(labelled, slot->database))
			sagg_slot_free(slot);
	}
	sagg_crashes_forget_others(labelled);
	LWLockRelease(sagg_shared->lock);

	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];

		if (slot->store_stale && slot->pid == 0 && !slot->launching)
			sagg_slot_discard_stale(slot);
	}
}

/*
 * Schedule scans of labelled databases: those marked since the last call, or all.
 * Frees the slots of databases without a label: they were dropped.
 */
static void
scan_dirty_databases(bool all)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			dirty[SAGG_DIRTY_DATABASES];
	int			ndirty;
	ListCell   *lc;
	List	   *labelled;

	SpinLockAcquire(&sagg_shared->mutex);
	ndirty = sagg_shared->ndirty;
	memcpy(dirty, sagg_shared->dirty, sizeof(dirty));
	sagg_shared->ndirty = 0;
	SpinLockRelease(&sagg_shared->mutex);
	if (ndirty == 0 && !all)
		return;

	StartTransactionCommand();
	labelled = sagg_labelled_databases();
	forget_other_databases(labelled);
	sagg_scan_schedule_keep(labelled);
	foreach(lc, labelled)
	{
		Oid			database = lfirst_oid(lc);
		bool		wanted = all || ndirty > SAGG_DIRTY_DATABASES;

		for (int i = 0; i < ndirty && !wanted; i++)
			wanted = dirty[i] == database;
		if (wanted)
			sagg_scan_schedule_add(database);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/*
 * A worker has ended: let streams try again for which no process was free.
 */
static void
retry_waiting_for_process(void)
{
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];

		if (slot->waiting_for_process)
			slot->next_start = 0;
		slot->waiting_for_process = false;
	}
}

/*
 * A stream waits for a process: those that have more than one give way.  The caller
 * holds the lock.
 */
static void
wake_those_with_executors(void)
{
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];

		if (slot->in_use && slot->executors > 0 && slot->latch)
			SetLatch(slot->latch);
	}
}

/*
 * Notice when the worker of a slot has ended.  If it had not attached to its slot it died
 * on the way, and the server log has the reason.
 */
static void
note_ended_worker(int i)
{
	SaggSlot   *slot = &sagg_shared->slots[i];
	pid_t		pid;

	if (handles[i] == NULL ||
		GetBackgroundWorkerPid(handles[i], &pid) != BGWH_STOPPED)
		return;
	pfree(handles[i]);
	handles[i] = NULL;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	retry_waiting_for_process();
	if (slot->launching)
	{
		slot->launching = false;
		slot->leads = false;
		slot->crashes++;
		slot->next_start = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   NO_WORKER_RETRY_MS);
		sagg_slot_set_error(slot, ERRCODE_CONNECTION_FAILURE,
							SAGG_NO_CONNECTION);
		sagg_slot_attempt_failed(slot, slot->next_start);
		sagg_mark_database(slot->database);
	}
	LWLockRelease(sagg_shared->lock);
}

static bool
register_worker(int i, Oid view)
{
	char		name[BGW_MAXLEN];

	/* the handle outlives the round */
	if (handles[i])
		pfree(handles[i]);
	handles[i] = NULL;
	snprintf(name, sizeof(name), "stream_agg worker %u", view);
	return sagg_start_process("stream_agg_worker_main", "stream_agg worker", name,
							  Int32GetDatum(i), &handles[i]);
}

/*
 * Start the worker of a slot if the slot wants one and it is time.  Returns when to call
 * again, or 0.
 */
static TimestampTz
tend_slot(int i, int *running)
{
	SaggSlot   *slot = &sagg_shared->slots[i];
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz again = 0;
	bool		start = false;
	SaggSlot   *leader;
	Oid			view = InvalidOid;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	if (slot->in_use && slot->wanted && slot->pid == 0 && !slot->launching &&
		slot->stop_holds == 0 && slot->state != SAGG_FAILED && sagg_enabled &&
		!sagg_database_held(slot->database))
	{
		if (slot->next_start > now || slot->paused_until > now)
			again = Max(slot->next_start, slot->paused_until);
		else if (*running >= sagg_max_streams)
		{
			sagg_slot_set_error(slot, ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
								"waiting for a free worker slot: as many streams run as stream_agg.max_streams allows\n"
								"HINT:  The setting is for all databases of the server together. Raise it and restart the server, or stop other streams.");
			again = TimestampTzPlusMilliseconds(now, NO_WORKER_RETRY_MS);
		}
		else if (!slot->apart && (leader = sagg_slot_leader(slot)) != NULL)
		{
			/* its worker adopts the stream, now or when it has started */
			slot->state = SAGG_STARTING;
			if (leader->latch)
				SetLatch(leader->latch);
		}
		else
		{
			slot->state = SAGG_STARTING;
			slot->leads = slot->reader[0] != '\0' && !slot->apart;
			slot->launching = start = true;
			view = slot->view;
		}
	}
	if (slot->in_use && (slot->pid != 0 || slot->launching))
		(*running)++;
	LWLockRelease(sagg_shared->lock);

	if (start && !register_worker(i, view))
	{
		LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
		slot->launching = false;
		slot->leads = false;
		slot->waiting_for_process = true;
		slot->next_start = again =
			TimestampTzPlusMilliseconds(now, NO_WORKER_RETRY_MS);
		/* no other warning if it is the last error already */
		unplaced += strcmp(slot->last_error, NO_PLACE) != 0;
		sagg_slot_set_error(slot, ERRCODE_CONFIGURATION_LIMIT_EXCEEDED, NO_PLACE);
		wake_those_with_executors();
		LWLockRelease(sagg_shared->lock);
	}
	return again;
}

static void
warn_of_unplaced(void)
{
	if (unplaced > 0)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no free background worker slot for streams: %d", unplaced),
				 errdetail("They wait for one; pg_stat_stream_agg shows which."),
				 errhint("Consider increasing max_worker_processes.")));
	unplaced = 0;
}

/*
 * One round over databases and slots.  Returns how long to sleep, in ms; -1 = until the
 * latch is set.
 */
static long
one_round(bool all)
{
	TimestampTz again;
	TimestampTz observe;
	int			running = 0;

	sagg_role_limit_configured();
	scan_dirty_databases(all);
	again = sagg_scan_schedule_tend();
	observe = sagg_observers_tend();
	if (observe != 0 && (again == 0 || observe < again))
		again = observe;
	sagg_crash_pause_save();
	for (int i = 0; i < sagg_shared->nslots; i++)
		note_ended_worker(i);

	/* running ones first, so that they are counted */
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		if (sagg_shared->slots[i].pid != 0)
			(void) tend_slot(i, &running);
	}
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		TimestampTz next;

		if (sagg_shared->slots[i].pid != 0)
			continue;
		next = tend_slot(i, &running);
		if (next != 0 && (again == 0 || next < again))
			again = next;
	}

	warn_of_unplaced();
	if (again == 0)
		return -1;
	return Max(1, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), again));
}

/*
 * Forget workers that a former launcher has registered and that have not attached to
 * their slots; they may still come.  A second one for the same slot ends by itself.
 */
static void
forget_launches(void)
{
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];

		slot->launching = false;
		slot->observing = slot->observer != 0;
		slot->leads = slot->leads && slot->pid != 0;
	}
	LWLockRelease(sagg_shared->lock);
}

/*
 * Main function of the launcher.
 */
void
stream_agg_launcher_main(Datum arg)
{
	MemoryContext round_context;
	bool		all = true;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	handles = MemoryContextAllocZero(TopMemoryContext,
									 sizeof(BackgroundWorkerHandle *) * sagg_shared->nslots);
	round_context = AllocSetContextCreate(TopMemoryContext,
										  "stream_agg launcher round",
										  ALLOCSET_DEFAULT_SIZES);
	before_shmem_exit(leave_shared_memory, (Datum) 0);
	sagg_mark_begin(&sagg_shared->launcher_mark, InvalidOid);
	sagg_crash_pause_begin();
	forget_launches();
	SpinLockAcquire(&sagg_shared->mutex);
	sagg_shared->launcher = MyLatch;
	SpinLockRelease(&sagg_shared->mutex);

	for (;;)
	{
		long		sleep_ms;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		MemoryContextReset(round_context);
		MemoryContextSwitchTo(round_context);
		sleep_ms = one_round(all);
		all = false;

		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (sleep_ms >= 0 ? WL_TIMEOUT : 0),
						 sleep_ms, SAGG_WAIT_EVENT("StreamAggLauncherMain"));
	}
}
