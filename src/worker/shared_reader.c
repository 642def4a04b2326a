/*-------------------------------------------------------------------------
 *
 * shared_reader.c
 *	  Streams that share a reader: which process works for which of them.
 *
 * Streams of one owner that name the same reader have one worker.  It is the
 * worker of one of them, the leader, and it adopts the others, which have slots
 * of their own and no process.  Leader and adopted streams are the members of its
 * reading.  Their batches are one: one plan of ranges, one READ, one transaction
 * (micro_batch.c).
 *
 * Whatever a stream has committed is its own: offsets, commits, state.  That
 * members stand at the same offsets is written nowhere; a worker finds out each
 * time it adopts a stream (join_reader.c).  A stream that stands elsewhere, as it
 * was stopped, failed, was reset or is new, is detached: a worker of its own runs
 * it until it has caught up, and then gives it back.
 *
 * SaggShared->lock decides who leads: the launcher marks the slot whose worker it
 * starts while no other slot leads, and that worker claims slots that want to run.
 * Its claims end when it ends.
 *
 * A member that is to stop is released between batches, or while the source is
 * waited for; its lock is held until then (I2).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "worker_internal.h"

/*
 * Returns the slot whose process reads for others with the reader that "slot"
 * names, or NULL.  The caller holds SaggShared->lock.
 */
SaggSlot *
sagg_slot_leader(const SaggSlot *slot)
{
	if (slot->reader[0] == '\0')
		return NULL;
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *other = &sagg_shared->slots[i];

		if (other != slot && other->in_use && other->leads &&
			(other->pid != 0 || other->launching) &&
			other->database == slot->database && other->owner == slot->owner &&
			other->source == slot->source &&
			strcmp(other->reader, slot->reader) == 0)
			return other;
	}
	return NULL;
}

/*
 * Returns whether the worker of slot "leader" may adopt the stream of a slot.
 */
static bool
may_adopt(const SaggSlot *leader, const SaggSlot *slot, TimestampTz now)
{
	return slot->in_use && slot->wanted && slot->pid == 0 && !slot->launching &&
		!slot->apart && slot->stop_holds == 0 && slot->state != SAGG_FAILED &&
		slot->next_start <= now && slot->paused_until <= now &&
		slot->database == leader->database &&
		slot->owner == leader->owner && slot->source == leader->source &&
		strcmp(slot->reader, leader->reader) == 0;
}

static bool
may_adopt_any(const SaggSlot *leader)
{
	TimestampTz now = GetCurrentTimestamp();
	int			running = 0;
	bool		found = false;

	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		const SaggSlot *slot = &sagg_shared->slots[i];

		if (slot->in_use && (slot->pid != 0 || slot->launching))
			running++;
		found = found || may_adopt(leader, slot, now);
	}
	return found && running < sagg_max_streams;
}

/*
 * Claim a slot that wants to run.  Returns its run, a member that is not open
 * yet, or NULL if there is no such slot.
 */
SaggStreamRun *
sagg_member_adopt(SaggReading *reading)
{
	SaggSlot   *leader = reading->leader->slot;
	TimestampTz now = GetCurrentTimestamp();
	SaggSlot   *found = NULL;
	SaggStreamRun *member;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; may_adopt_any(leader) && found == NULL; i++)
	{
		if (may_adopt(leader, &sagg_shared->slots[i], now))
			found = &sagg_shared->slots[i];
	}
	if (found)
	{
		found->pid = MyProcPid;
		found->latch = MyLatch;
		found->lead = leader;
		found->state = SAGG_STARTING;
		sagg_slot_placed(found);
	}
	LWLockRelease(sagg_shared->lock);
	if (found == NULL)
		return NULL;

	member = MemoryContextAllocZero(TopMemoryContext, sizeof(SaggStreamRun));
	sagg_run_init(member, reading, found);
	return member;
}

/*
 * From now on the member takes part in the batches.
 */
void
sagg_member_join(SaggStreamRun *member)
{
	SaggReading *reading = member->reading;
	MemoryContext old = MemoryContextSwitchTo(reading->memory);

	reading->runs = lappend(reading->runs, member);
	MemoryContextSwitchTo(old);
}

/*
 * Release a member other than the leader, outside of transactions: its state, its
 * lock, its slot.  Frees the run.
 */
void
sagg_member_release(SaggStreamRun *member, SaggExit how)
{
	SaggReading *reading = member->reading;
	SaggSlot   *slot = member->slot;
	LOCKTAG		tag;

	if (how == SAGG_EXIT_STOPPED)
		sagg_run_stopped(member);
	sagg_stream_locktag(&tag, MyDatabaseId, slot->view);
	if (member->locked && member->store)
	{
		sagg_store_close(member->store);
		member->store = NULL;
	}
	if (member->locked)
		sagg_state_discard(slot);
	sagg_run_close(member);
	if (member->locked)
		(void) LockRelease(&tag, ExclusiveLock, true);

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	sagg_slot_vacate(slot, how);
	LWLockRelease(sagg_shared->lock);
	ConditionVariableBroadcast(&sagg_shared->slots_changed);
	sagg_mark_database(MyDatabaseId);

	reading->members = list_delete_ptr(reading->members, member);
	reading->runs = list_delete_ptr(reading->runs, member);
	if (reading->current == member)
		reading->current = NULL;
	sagg_poison_forget(&member->poison);
	sagg_unfinished_forget(member);
	MemoryContextDelete(member->memory);
	pfree(member);
}

/*
 * Release members that are to stop.  While members are being opened that raises
 * an error instead, of the one to go; the others are opened again.
 */
void
sagg_members_check_stop(SaggReading *reading)
{
	for (int i = list_length(reading->members) - 1; i > 0; i--)
	{
		SaggStreamRun *member = list_nth(reading->members, i);

		if (!sagg_run_is_to_stop(member))
			continue;
		if (reading->opening)
		{
			reading->current = member;
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("stream \"%s\" is to stop", member->slot->name)));
		}
		sagg_member_release(member, SAGG_EXIT_STOPPED);
	}
}

/*
 * After an error, when no lock is held: close all members but the leader.  They
 * are opened again with it.
 */
void
sagg_members_close(SaggReading *reading)
{
	ListCell   *lc;

	foreach(lc, reading->members)
	{
		if (lfirst(lc) != reading->leader)
			sagg_run_close(lfirst(lc));
	}
	reading->opening = false;
}

/*
 * Returns whether a detached stream stands close enough to those that share its
 * reader; "leader" is the slot of their leader.
 */
static bool
is_close(const SaggStreamRun *run, const SaggSlot *leader)
{
	const SaggProgress *progress = run->progress;
	int64		distance = 0;

	if (leader->state != SAGG_RUNNING || leader->npartitions != progress->npositions)
		return false;
	for (int i = 0; i < leader->npartitions; i++)
	{
		const SaggSlotPartition *theirs = &leader->partitions[i];
		const SaggRange *ours = &progress->positions[i];

		if (theirs->partition != ours->partition ||
			strcmp(theirs->topic_name, sagg_topic_name(ours->topic)) != 0)
			return false;
		distance = sagg_add_saturated(distance, i64abs(theirs->committed - ours->start));
	}
	return distance <= SAGG_CLOSE_OFFSETS / 2;
}

/*
 * Returns whether a detached stream may go back to the others.  If no other leads,
 * it becomes the leader itself.
 */
static bool
may_return(SaggStreamRun *run)
{
	SaggSlot   *slot = run->slot;
	const SaggProgress *progress = run->progress;
	SaggSlot   *leader;
	bool		close = false;

	if (progress->pending || progress->nsuspects > 0 || progress->replace)
		return false;
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	leader = sagg_slot_leader(slot);
	if (leader == NULL)
	{
		slot->apart = false;
		slot->leads = true;
	}
	else
		close = is_close(run, leader);
	LWLockRelease(sagg_shared->lock);
	return close;
}

/*
 * Returns whether there is a stream to adopt or, in a process whose stream is
 * detached, whether it may go back.  To be asked between batches.
 */
bool
sagg_reading_group_changed(SaggReading *reading)
{
	SaggStreamRun *leader = reading->leader;
	SaggSlot   *slot = leader->slot;
	bool		changed;

	if (slot->reader[0] == '\0')
		return false;
	if (!slot->leads)
		return may_return(leader);
	if (leader->progress->pending)
		return false;
	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	changed = may_adopt_any(slot);
	LWLockRelease(sagg_shared->lock);
	return changed;
}
