/*-------------------------------------------------------------------------
 *
 * worker_slot.c
 *	  The hold of a stream worker on the slot of its leader.
 *
 * The process has the slot from sagg_worker_attach to its end, however it ends.
 * sagg_worker_leave is the only end in good order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "worker_internal.h"

static SaggSlot *my_slot;
static SaggExit my_exit = SAGG_EXIT_DIED;
static bool connected = false;	/* to the database, as the owner */

/*
 * The process ends: give back its slot, and those of other members, whom
 * another process will run.  The launcher decides what happens next.
 */
static void
detach_from_slot(int code, Datum arg)
{
	SaggSlot   *slot = my_slot;
	Oid			database = slot->database;

	/*
	 * The server releases session-level locks of an open transaction only.
	 * Nothing is open here: ShutdownPostgres, registered later, ran before.
	 */
	LockReleaseAll(DEFAULT_LOCKMETHOD, true);
	sagg_mark_end();

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	if (my_exit == SAGG_EXIT_DIED && !connected)
		sagg_slot_set_error(slot, ERRCODE_CONNECTION_FAILURE, SAGG_NO_CONNECTION);
	sagg_slot_vacate(slot, my_exit);
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		if (sagg_shared->slots[i].lead == slot)
			sagg_slot_vacate(&sagg_shared->slots[i],
							 my_exit == SAGG_EXIT_DIED ? SAGG_EXIT_DIED : SAGG_EXIT_STOPPED);
	}
	LWLockRelease(sagg_shared->lock);
	ConditionVariableBroadcast(&sagg_shared->slots_changed);
	sagg_mark_database(database);
}

/*
 * Initialize a run, whose memory is zero, for a slot, as a member of "reading".
 */
void
sagg_run_init(SaggStreamRun *run, SaggReading *reading, SaggSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	run->slot = slot;
	run->reading = reading;
	run->last_batches = -1;
	run->too_large = -1;
	run->memory = AllocSetContextCreate(TopMemoryContext, "stream_agg run",
										ALLOCSET_DEFAULT_SIZES);
	reading->members = lappend(reading->members, run);
	MemoryContextSwitchTo(old);
}

/*
 * Take slot number "i" for "leader", the run that this process is started for,
 * and make it the first member of "reading".  Ends the process if the slot is
 * not to run.  Both structs are zero, and live as long as the process.
 */
void
sagg_worker_attach(SaggReading *reading, SaggStreamRun *leader, int i)
{
	SaggSlot   *slot = &sagg_shared->slots[i];
	bool		mine;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	mine = slot->in_use && slot->wanted && slot->pid == 0 && slot->lead == NULL &&
		slot->stop_holds == 0 && !sagg_database_held(slot->database);
	slot->launching = false;
	if (mine)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		sagg_slot_placed(slot);
	}
	LWLockRelease(sagg_shared->lock);
	if (!mine)
		proc_exit(0);
	my_slot = slot;
	SAGG_FAILPOINT_STREAM(slot->name);
	sagg_mark_begin(&slot->mark, slot->view);
	sagg_run_init(leader, reading, slot);
	reading->leader = leader;
	reading->memory = AllocSetContextCreate(TopMemoryContext, "stream_agg reading",
											ALLOCSET_DEFAULT_SIZES);
	before_shmem_exit(detach_from_slot, (Datum) 0);
}

/*
 * Note that the process is connected to the database, as the owner.
 */
void
sagg_worker_connected(void)
{
	connected = true;
}

/*
 * Returns whether the stream is to stop.
 */
bool
sagg_run_is_to_stop(const SaggStreamRun *run)
{
	const SaggSlot *slot = run->slot;
	bool		stop;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	stop = slot->stop_holds > 0 || !slot->wanted || !sagg_enabled ||
		sagg_database_held(slot->database);
	LWLockRelease(sagg_shared->lock);
	return stop;
}

/*
 * Log that a run ends, unless it has failed: by a command or a setting.
 */
void
sagg_run_stopped(const SaggStreamRun *run)
{
	if (run->started && sagg_run_is_to_stop(run))
		ereport(LOG,
				(errmsg("stream \"%s\" has stopped", run->slot->name)));
}

/*
 * End the process in good order because of "run"; "how" is about its stream.
 * The holder of a stream's lock leaves no shared state behind: the next worker
 * restores it from the checkpoint.
 */
void
sagg_worker_leave(SaggStreamRun *run, SaggExit how)
{
	SaggReading *reading = run->reading;
	ListCell   *lc;

	if (how == SAGG_EXIT_STOPPED)
		sagg_run_stopped(run);
	foreach(lc, reading->members)
	{
		SaggStreamRun *member = lfirst(lc);

		if (!member->locked)
			continue;
		if (member->store)
			sagg_store_close(member->store);
		member->store = NULL;
		sagg_state_discard(member->slot);
	}
	if (run != reading->leader)
	{
		/* the others go on without it */
		LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
		sagg_slot_vacate(run->slot, how);
		LWLockRelease(sagg_shared->lock);
		how = SAGG_EXIT_CHANGED;
	}
	my_exit = how;
	proc_exit(0);
}
