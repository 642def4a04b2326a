/*-------------------------------------------------------------------------
 *
 * shared_slots.c
 *	  The shared memory of stream_agg: one slot per stream.
 *
 * A slot holds what backends, the launcher and the stream's worker know about
 * a running stream; the catalog says what shall run.  Scouts (scout.c) fill
 * slots from the catalog, so nothing is lost when slots are: after a crash
 * restart they are empty, except for what the crash log holds (crash_log.c).
 *
 * SaggShared->lock is held for memory accesses only, never while waiting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "control.h"

/*
 * workers that end because the stream changed: how many in a row are normal,
 * and the pause after that
 */
#define CHANGES_IN_A_ROW_MS		5000
#define MAX_CHANGE_PAUSE_MS		1000

SaggShared *sagg_shared = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static int
slot_count(void)
{
	return sagg_max_streams + SAGG_SPARE_SLOTS;
}

static Size
shared_size(void)
{
	Size		size = offsetof(SaggShared, slots);

	size = add_size(size, mul_size(slot_count(), sizeof(SaggSlot)));
	return MAXALIGN(size);
}

static Size
partitions_size(void)
{
	return mul_size(mul_size(slot_count(), sagg_max_partitions),
					sizeof(SaggSlotPartition));
}

/* of one slot */
static int
executor_count(void)
{
	return Max(sagg_max_executors - 1, 0);
}

static Size
executors_size(void)
{
	return MAXALIGN(mul_size(mul_size(slot_count(), executor_count()), sizeof(SaggMark)));
}

static Size
all_size(void)
{
	return add_size(add_size(shared_size(), executors_size()), partitions_size());
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(all_size());
	RequestNamedLWLockTranche("stream_agg", 1);
}

static void
shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	sagg_shared = ShmemInitStruct("stream_agg",
								  all_size(),
								  &found);
	if (!found)
	{
		SaggMark   *marks;
		SaggSlotPartition *partitions;

		memset(sagg_shared, 0, all_size());
		marks = (SaggMark *) ((char *) sagg_shared + shared_size());
		partitions = (SaggSlotPartition *) ((char *) marks + executors_size());
		sagg_shared->lock = &(GetNamedLWLockTranche("stream_agg"))->lock;
		sagg_shared->store_tranche = LWLockNewTrancheId();
		SpinLockInit(&sagg_shared->mutex);
		ConditionVariableInit(&sagg_shared->slots_changed);
		sagg_shared->nslots = slot_count();
		sagg_shared->streams_per_role = sagg_max_streams_per_role;
		for (int i = 0; i < sagg_shared->nslots; i++)
		{
			SaggSlot   *slot = &sagg_shared->slots[i];

			slot->store = DSM_HANDLE_INVALID;
			slot->partitions = partitions + (Size) i * sagg_max_partitions;
			slot->executor_marks = marks + (Size) i * executor_count();
			ConditionVariableInit(&slot->changed);
		}
		sagg_crash_log_init();
	}
	LWLockRelease(AddinShmemInitLock);

	LWLockRegisterTranche(sagg_shared->store_tranche, "stream_agg_state");
}

/*
 * Called by _PG_init in the postmaster: reserves shared memory and installs
 * the hooks of this room.
 */
void
sagg_slots_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/*
 * Raises object_not_in_prerequisite_state unless the library was preloaded.
 */
void
sagg_require_preload(void)
{
	if (sagg_shared == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream_agg must be loaded via shared_preload_libraries"),
				 errhint("Add stream_agg to shared_preload_libraries in postgresql.conf and restart the server.")));
}

/*
 * The slot of a stream, or NULL.
 */
SaggSlot *
sagg_slot_find(Oid database, Oid view)
{
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];

		if (slot->in_use && slot->database == database && slot->view == view)
			return slot;
	}
	return NULL;
}

/*
 * Make a slot for a stream.  If no slot is free, that of a stream that does
 * not run is taken.  Returns NULL when all are busy.  The caller fills in the
 * rest.
 */
SaggSlot *
sagg_slot_allocate(Oid database, Oid view)
{
	SaggSlot   *found = NULL;

	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];

		if (!slot->in_use)
		{
			found = slot;
			break;
		}
		if (found == NULL && !slot->wanted && slot->pid == 0 &&
			!slot->launching && slot->stop_holds == 0)
			found = slot;
	}
	if (found == NULL)
		return NULL;

	sagg_slot_free(found);
	found->in_use = true;
	found->database = database;
	found->view = view;
	sagg_crash_pause_slot(found);
	return found;
}

/*
 * Free a slot.  A store that a killed worker has left there is stale, and is
 * discarded before the slot gets another.  request_seq and done_seq stay,
 * because they must only grow.
 */
void
sagg_slot_free(SaggSlot *slot)
{
	Assert(slot->pid == 0);

	slot->store_stale = slot->store != DSM_HANDLE_INVALID;
	slot->in_use = false;
	slot->database = InvalidOid;
	slot->view = InvalidOid;
	slot->owner = InvalidOid;
	slot->name[0] = '\0';
	slot->wanted = false;
	slot->stop_holds = 0;
	slot->launching = false;
	slot->reader[0] = '\0';
	slot->leads = slot->apart = false;
	slot->lead = NULL;
	slot->crashes = 0;
	slot->next_start = 0;
	slot->changes = 0;
	slot->changed_last = 0;
	slot->paused_until = 0;
	slot->waiting_for_process = false;
	slot->state = SAGG_STOPPED;
	slot->latch = NULL;
	sagg_slot_clear_error(slot);
	slot->known = false;
	memset(&slot->tally, 0, sizeof(slot->tally));
	slot->state_rows = slot->state_bytes = 0;
	slot->state_bytes_out = slot->state_units = slot->state_units_out = 0;
	slot->state_memory = 0;
	slot->npartitions = 0;
	slot->ends_as_of = 0;
	slot->observed_at = 0;
	slot->unheard = 0;
	ConditionVariableBroadcast(&slot->changed);
	sagg_slot_freed();
}

/*
 * A worker ended in order to read the catalog again.  The next one starts at
 * once, unless that happens repeatedly: then after a pause, because it may
 * never come to an end.
 */
static void
pause_after_change(SaggSlot *slot, TimestampTz now)
{
	if (TimestampDifferenceExceeds(slot->changed_last, now, CHANGES_IN_A_ROW_MS))
		slot->changes = 0;
	if (slot->changes > 0)
		slot->next_start =
			TimestampTzPlusMilliseconds(now, Min((int64) SAGG_FIRST_RETRY_DELAY_MS << Min(slot->changes, 10),
												 MAX_CHANGE_PAUSE_MS));
	slot->changes++;
	slot->changed_last = now;
}

/*
 * No process works for the slot's stream any more.
 */
void
sagg_slot_vacate(SaggSlot *slot, SaggExit how)
{
	TimestampTz now = GetCurrentTimestamp();

	slot->pid = 0;
	slot->latch = NULL;
	slot->lead = NULL;
	slot->leads = false;
	slot->executors = 0;
	switch (how)
	{
		case SAGG_EXIT_DIED:
			slot->crashes++;
			slot->state = SAGG_STARTING;
			slot->next_start =
				TimestampTzPlusMilliseconds(now,
											Min((int64) SAGG_FIRST_RETRY_DELAY_MS << Min(slot->crashes, 20),
												sagg_max_retry_delay_ms));
			sagg_slot_attempt_failed(slot, slot->next_start);
			break;
		case SAGG_EXIT_STOPPED:
			if (slot->state != SAGG_FAILED)
				slot->state = slot->wanted && slot->stop_holds == 0 && sagg_enabled ?
					SAGG_STARTING : SAGG_STOPPED;
			break;
		case SAGG_EXIT_GONE:
			slot->wanted = false;
			slot->state = SAGG_STOPPED;
			sagg_slot_freed();
			break;
		case SAGG_EXIT_CHANGED:
			slot->state = SAGG_STARTING;
			pause_after_change(slot, now);
			break;
	}
	ConditionVariableBroadcast(&slot->changed);
}

/*
 * Free a store that belonged to the slot's former stream.  For the launcher
 * when no worker has the slot, or for the slot's worker; without the lock.
 */
void
sagg_slot_discard_stale(SaggSlot *slot)
{
	if (!slot->store_stale)
		return;
	sagg_store_discard(&slot->store);
	slot->store_stale = false;
}

/*
 * Store an error for pg_stat_stream_agg.  The message is cut at a character
 * boundary if it is too long.
 */
void
sagg_slot_set_error(SaggSlot *slot, int sqlstate, const char *message)
{
	int			len = strlen(message);

	if (len >= SAGG_ERROR_SIZE)
		len = pg_mbcliplen(message, len, SAGG_ERROR_SIZE - 1);
	memcpy(slot->last_error, message, len);
	slot->last_error[len] = '\0';
	slot->last_sqlstate = sqlstate;
	slot->last_error_time = GetCurrentTimestamp();
	ConditionVariableBroadcast(&slot->changed);
}

/*
 * The stream works, or starts again: clear the error to be shown.
 */
void
sagg_slot_clear_error(SaggSlot *slot)
{
	slot->last_error[0] = '\0';
	slot->last_sqlstate = 0;
	slot->last_error_time = 0;
	slot->attempts = 0;
	slot->retrying_since = 0;
	slot->next_attempt = 0;
	slot->failures = 0;
}

/*
 * An attempt to run the stream has failed, and the next one is at "next".
 */
void
sagg_slot_attempt_failed(SaggSlot *slot, TimestampTz next)
{
	if (slot->attempts++ == 0)
		slot->retrying_since = GetCurrentTimestamp();
	slot->next_attempt = next;
}

/*
 * Make a stream that waits for its next attempt try at once.  Returns whether
 * it was waiting.
 */
bool
sagg_slot_retry_now(SaggSlot *slot)
{
	SaggSlot   *lead = slot->lead ? slot->lead : slot;

	if (slot->attempts == 0 || slot->state == SAGG_FAILED || lead->latch == NULL)
		return false;
	lead->retry_now = true;
	SetLatch(lead->latch);
	return true;
}

/*
 * Note for the launcher that the streams of a database have changed, and wake
 * it.  Cannot fail: transaction callbacks use it.
 */
void
sagg_mark_database(Oid database)
{
	Latch	   *launcher;
	bool		known = false;

	SpinLockAcquire(&sagg_shared->mutex);
	for (int i = 0; i < Min(sagg_shared->ndirty, SAGG_DIRTY_DATABASES); i++)
		known = known || sagg_shared->dirty[i] == database;
	if (!known)
	{
		if (sagg_shared->ndirty < SAGG_DIRTY_DATABASES)
			sagg_shared->dirty[sagg_shared->ndirty++] = database;
		else
			sagg_shared->ndirty = SAGG_DIRTY_DATABASES + 1;
	}
	launcher = sagg_shared->launcher;
	SpinLockRelease(&sagg_shared->mutex);

	if (launcher)
		SetLatch(launcher);
}

/*
 * A stream, whose lock is held, is about to get another position: its lag is
 * unknown until it runs again.
 */
void
sagg_forget_positions(Oid view)
{
	SaggSlot   *slot;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot = sagg_slot_find(MyDatabaseId, view);
	if (slot)
	{
		slot->npartitions = 0;
		slot->ends_as_of = 0;
	}
	LWLockRelease(sagg_shared->lock);
}
