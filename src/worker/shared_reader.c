/*-------------------------------------------------------------------------
 *
 * shared_reader.c
 *	  Streams that share a reader: which process works for which of them.
 *
 * Streams of one owner that name the same reader have one worker.  It is that of
 * one of them, which leads, as any other worker; and it takes on the others, its
 * followers, which have slots of their own and no process.  Their batches are
 * one: one plan of ranges, one READ, one transaction (micro_batch.c).
 *
 * All that a stream has committed is its own: offsets, commits, state.  That it
 * stands where the others do is not written anywhere but found anew whenever
 * a worker takes it on (join_reader.c).  One that does not, for it was stopped,
 * failed, was reset or is new, is "apart": it has a worker of its own, until it
 * has caught up and that worker gives it back.
 *
 * Who leads is settled under SaggShared->lock: the launcher marks the slot whose
 * worker it starts while no other leads; that worker claims slots that want to
 * run.  When it ends, so does its hold on them.
 *
 * A follower that is to stop is let go between batches, or while Kafka is
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
 * The slot whose process reads for others of the reader that "slot" names, or
 * NULL.  The caller holds SaggShared->lock.
 */
SaggSlot *
sagg_slot_lead(const SaggSlot *slot)
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
 * Make a session object for a slot.  A lead is its own lead.
 */
void
sagg_session_init(SaggSession *session, SaggSession *lead, SaggSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	session->slot = slot;
	session->lead = lead;
	session->last_batches = -1;
	session->too_large = -1;
	session->sessions = list_make1(session);
	lead->held = lappend(lead->held, session);
	MemoryContextSwitchTo(old);
}

/*
 * Does the worker of "lead" take this slot on?
 */
static bool
may_claim(const SaggSlot *lead, const SaggSlot *slot, TimestampTz now)
{
	return slot->in_use && slot->wanted && slot->pid == 0 && !slot->launching &&
		!slot->apart && slot->stop_holds == 0 && slot->state != SAGG_FAILED &&
		slot->next_start <= now && slot->paused_until <= now &&
		slot->database == lead->database &&
		slot->owner == lead->owner && slot->source == lead->source &&
		strcmp(slot->reader, lead->reader) == 0;
}

static bool
may_claim_any(const SaggSlot *lead)
{
	TimestampTz now = GetCurrentTimestamp();
	int			running = 0;
	bool		found = false;

	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		const SaggSlot *slot = &sagg_shared->slots[i];

		if (slot->in_use && (slot->pid != 0 || slot->launching))
			running++;
		found = found || may_claim(lead, slot, now);
	}
	return found && running < sagg_max_streams;
}

/*
 * Take on a slot that wants to run, if there is one: its session, not open yet,
 * or NULL.
 */
SaggSession *
sagg_follower_claim(SaggSession *lead)
{
	TimestampTz now = GetCurrentTimestamp();
	SaggSlot   *found = NULL;
	SaggSession *follower;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; may_claim_any(lead->slot) && found == NULL; i++)
	{
		if (may_claim(lead->slot, &sagg_shared->slots[i], now))
			found = &sagg_shared->slots[i];
	}
	if (found)
	{
		found->pid = MyProcPid;
		found->latch = MyLatch;
		found->lead = lead->slot;
		found->state = SAGG_STARTING;
		sagg_slot_placed(found);
	}
	LWLockRelease(sagg_shared->lock);
	if (found == NULL)
		return NULL;

	follower = MemoryContextAllocZero(TopMemoryContext, sizeof(SaggSession));
	sagg_session_init(follower, lead, found);
	follower->memory = AllocSetContextCreate(TopMemoryContext,
											 "stream_agg session",
											 ALLOCSET_DEFAULT_SIZES);
	return follower;
}

/*
 * The follower takes part in the batches from now on.
 */
void
sagg_follower_joined(SaggSession *follower)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	follower->lead->sessions = lappend(follower->lead->sessions, follower);
	MemoryContextSwitchTo(old);
}

/*
 * Let go of a follower, outside of transactions: its state, its lock, its slot.
 * It is freed.
 */
void
sagg_follower_release(SaggSession *follower, SaggExit how)
{
	SaggSession *lead = follower->lead;
	SaggSlot   *slot = follower->slot;
	LOCKTAG		tag;

	sagg_stream_locktag(&tag, MyDatabaseId, slot->view);
	if (follower->locked && follower->store)
	{
		sagg_store_close(follower->store);
		follower->store = NULL;
	}
	if (follower->locked)
		sagg_state_discard(slot);
	sagg_session_close_parts(follower);
	if (follower->locked)
		(void) LockRelease(&tag, ExclusiveLock, true);

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	sagg_slot_vacate(slot, how);
	LWLockRelease(sagg_shared->lock);
	ConditionVariableBroadcast(&sagg_shared->slots_changed);
	sagg_mark_database(MyDatabaseId);

	lead->held = list_delete_ptr(lead->held, follower);
	lead->sessions = list_delete_ptr(lead->sessions, follower);
	if (lead->at_work == follower)
		lead->at_work = NULL;
	sagg_poison_forget(&follower->poison);
	MemoryContextDelete(follower->memory);
	list_free(follower->sessions);
	pfree(follower);
}

/*
 * Let go of followers that are to stop.  While some are being opened that is an
 * error of the one to go; the others are opened again.
 */
void
sagg_followers_check_stop(SaggSession *lead)
{
	for (int i = list_length(lead->held) - 1; i > 0; i--)
	{
		SaggSession *follower = list_nth(lead->held, i);

		if (!sagg_session_told_to_stop(follower))
			continue;
		if (lead->opening)
		{
			lead->at_work = follower;
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("stream \"%s\" is to stop", follower->slot->name)));
		}
		sagg_follower_release(follower, SAGG_EXIT_STOPPED);
	}
}

/*
 * After an error, when no lock is held: close all that followers have open.
 * They are opened again with the lead.
 */
void
sagg_followers_close(SaggSession *lead)
{
	ListCell   *lc;

	foreach(lc, lead->held)
	{
		if (lfirst(lc) != lead)
			sagg_session_close_parts(lfirst(lc));
	}
	lead->sessions = list_truncate(lead->sessions, 1);
	lead->opening = false;
}

/*
 * Would a stream that is apart be close enough to those that share its reader?
 * "lead" is the slot of theirs.
 */
static bool
is_close(const SaggSession *session, const SaggSlot *lead)
{
	const SaggProgress *progress = session->progress;
	int64		distance = 0;

	if (lead->state != SAGG_RUNNING || lead->npartitions != progress->npositions)
		return false;
	for (int i = 0; i < lead->npartitions; i++)
	{
		const SaggSlotPartition *theirs = &lead->partitions[i];
		const SaggRange *ours = &progress->positions[i];

		if (theirs->partition != ours->partition ||
			strcmp(theirs->topic_name, sagg_topic_name(ours->topic)) != 0)
			return false;
		distance = sagg_add_saturated(distance, i64abs(theirs->committed - ours->start));
	}
	return distance <= SAGG_CLOSE_OFFSETS / 2;
}

/*
 * May a stream that is apart go back to the others?  If there are none to go to
 * it is the first itself.
 */
static bool
may_return(SaggSession *session)
{
	SaggSlot   *slot = session->slot;
	const SaggProgress *progress = session->progress;
	SaggSlot   *lead;
	bool		close = false;

	if (progress->pending || progress->nsuspects > 0 || progress->replace)
		return false;
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	lead = sagg_slot_lead(slot);
	if (lead == NULL)
	{
		slot->apart = false;
		slot->leads = true;
	}
	else
		close = is_close(session, lead);
	LWLockRelease(sagg_shared->lock);
	return close;
}

/*
 * Is there a stream to take on, or may this one go where others are read?  To be
 * asked between batches.
 */
bool
sagg_reader_company_changed(SaggSession *session)
{
	SaggSlot   *slot = session->slot;
	bool		changed;

	if (slot->reader[0] == '\0')
		return false;
	if (!slot->leads)
		return may_return(session);
	if (session->progress->pending)
		return false;
	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	changed = may_claim_any(slot);
	LWLockRelease(sagg_shared->lock);
	return changed;
}
