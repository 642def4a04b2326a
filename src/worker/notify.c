/*-------------------------------------------------------------------------
 *
 * notify.c
 *	  What a transaction that changes streams tells the launcher and the
 *	  workers, and when.
 *
 * Definitions are transactional, workers are not.  So everything that makes a
 * worker start waits for the commit, and a stream that shall not run while a
 * transaction changes it is held (stop_holds) until that transaction ends,
 * whichever way.  Transaction callbacks touch shared memory only: an ERROR
 * there would be a PANIC.
 *
 * Locks: the stream's lock is a heavyweight lock on (view, 1).  A worker holds
 * it at session level for as long as it works (I2), a transaction that stops
 * or drops the stream takes it after asking the worker to end.  It is waited
 * for with the deadlock detector watching, since the worker's batch may itself
 * wait for a lock of the transaction, on the sink say.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "worker_internal.h"

/* what the current transaction shall do at its end; in TopMemoryContext */
static bool wake_at_commit = false;
static bool look_at_commit = false; /* what streams are made of has changed */
static List *held_views = NIL;	/* one entry for each hold */
static List *dropped_views = NIL;	/* slots to free at commit */
static List *changes = NIL;		/* of StreamChange, in order */

typedef struct StreamChange
{
	bool		start;			/* else stop */
	Oid			view;
	Oid			owner;
	char		name[SAGG_NAME_SIZE];
	char		reader[NAMEDATALEN];
	Oid			source;
	Oid			sink;
	int			limit;			/* of the owner's streams */
} StreamChange;

static object_access_hook_type prev_object_access_hook = NULL;

void
sagg_stream_locktag(LOCKTAG *tag, Oid database, Oid view)
{
	SET_LOCKTAG_OBJECT(*tag, database, RelationRelationId, view, 1);
}

static void
remember(List **list, Oid view)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	*list = lappend_oid(*list, view);
	MemoryContextSwitchTo(old);
}

static void
forget_all(List **list)
{
	list_free(*list);
	*list = NIL;
}

static void
forget_changes(void)
{
	list_free_deep(changes);
	changes = NIL;
}

/*
 * What the transaction has done last with a stream, or NULL.
 */
static const StreamChange *
last_change(Oid view)
{
	const StreamChange *found = NULL;
	ListCell   *lc;

	foreach(lc, changes)
	{
		const StreamChange *change = lfirst(lc);

		if (change->view == view)
			found = change;
	}
	return found;
}

/*
 * How many streams of an owner shall run when this transaction has committed,
 * "view" left out.
 */
static int
streams_at_commit(Oid owner, Oid view)
{
	int			n = 0;
	ListCell   *lc;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		const SaggSlot *slot = &sagg_shared->slots[i];
		bool		here = slot->database == MyDatabaseId;
		const StreamChange *change = here ? last_change(slot->view) : NULL;

		if (!slot->in_use || slot->owner != owner ||
			(here && (slot->view == view || list_member_oid(dropped_views, slot->view))))
			continue;
		if (change ? change->start : slot->wanted)
			n++;
	}
	foreach(lc, changes)
	{
		const StreamChange *change = lfirst(lc);

		if (change->start && change->owner == owner && change->view != view &&
			change == last_change(change->view) &&
			sagg_slot_find(MyDatabaseId, change->view) == NULL)
			n++;
	}
	LWLockRelease(sagg_shared->lock);
	return n;
}

static void
change_at_commit(bool start, const SaggStream *stream, int limit)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	StreamChange *change = palloc(sizeof(StreamChange));

	change->start = start;
	change->view = stream->view;
	change->owner = stream->owner;
	strlcpy(change->name, sagg_stream_title(stream->name), sizeof(change->name));
	change->limit = limit;
	change->source = linitial_oid(stream->sources);
	change->sink = stream->sink;
	strlcpy(change->reader, stream->reader ? stream->reader : "", sizeof(change->reader));
	changes = lappend(changes, change);
	MemoryContextSwitchTo(old);
	wake_at_commit = true;
}

/*
 * At commit: a stream that is new, was stopped or failed, or waits before a
 * retry, starts at once.  Its slot is made here, so that there is one to tell
 * why the stream does not run if no worker can be had, not even a scout.
 *
 * Raises configuration_limit_exceeded if the stream's owner has as many streams
 * as stream_agg.max_streams_per_role allows.
 */
void
sagg_start_stream_at_commit(const SaggStream *stream)
{
	int			limit = sagg_role_limit(stream->owner);

	sagg_role_check(stream->owner, streams_at_commit(stream->owner, stream->view), limit);
	change_at_commit(true, stream, limit);
}

/*
 * At commit: a stream, whose lock is held, does not run any more.  Without
 * that the launcher could start it again before a scout has seen the catalog.
 */
void
sagg_stop_stream_at_commit(const SaggStream *stream)
{
	change_at_commit(false, stream, 0);
}

/*
 * A worker that is about to end may still have the slot: what it is called and
 * who owns it then stays, and detach_from_slot sees what is wanted.
 */
static void
apply_change(const StreamChange *change)
{
	SaggSlot   *slot = change->start ?
		sagg_role_slot(change->view, change->owner, change->limit) :
		sagg_slot_find(MyDatabaseId, change->view);

	if (slot == NULL)
	{
		/* others have been faster, or it has none to stop */
		if (change->start)
			sagg_slot_missing();
		return;
	}
	if (slot->wanted && !change->start)
		sagg_slot_freed();
	slot->wanted = change->start;
	slot->changed_at = ++sagg_shared->changes;
	if (!change->start)
	{
		if (slot->pid == 0)
			slot->state = SAGG_STOPPED;
		return;
	}
	slot->deaths = 0;
	slot->next_start = 0;
	sagg_crashes_forget(MyDatabaseId, change->view);
	slot->crowded_out = false;
	if (slot->pid == 0)
	{
		strlcpy(slot->name, change->name, sizeof(slot->name));
		strlcpy(slot->reader, change->reader, sizeof(slot->reader));
		slot->source = change->source;
		slot->sink = change->sink;
		slot->owner = change->owner;
	}
	if (slot->pid == 0 || slot->state == SAGG_FAILED)
	{
		slot->state = SAGG_STARTING;
		sagg_slot_clear_error(slot);
	}
}

/*
 * With the stream's lock held: a stopped stream has no shared state, the next
 * worker restores it from the checkpoint.
 */
static void
discard_store(Oid view)
{
	SaggSlot   *slot;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	slot = sagg_slot_find(MyDatabaseId, view);
	LWLockRelease(sagg_shared->lock);
	if (slot)
		sagg_state_discard(slot);
}

/*
 * Keep a stream from running until the current transaction ends, and return
 * when no worker runs it: its batch at hand is finished first, or cancelled after
 * stream_agg.stop_timeout.
 */
void
sagg_lock_stream(Oid view)
{
	SaggSlot   *slot;

	sagg_require_preload();

	/* room for the entry first: after it nothing may fail before it is noted */
	remember(&held_views, InvalidOid);

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot = sagg_slot_find(MyDatabaseId, view);
	if (slot && slot->pid == MyProcPid)
	{
		LWLockRelease(sagg_shared->lock);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("stream \"%s\" cannot be stopped, changed or dropped by its own micro-batch",
						slot->name)));
	}
	if (slot)
	{
		slot->stop_holds++;
		llast_oid(held_views) = view;
		if (slot->latch)
			SetLatch(slot->latch);
	}
	LWLockRelease(sagg_shared->lock);
	wake_at_commit = true;

	sagg_wait_for_worker(slot, view);
	discard_store(view);
}

/*
 * Until the end of the (sub)transaction be the only one to run a micro-batch of
 * a stream, or to write what one would write: wait for the one at hand, and have
 * the worker wait before it begins another.
 */
void
sagg_lock_micro_batch(Oid view)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, view, 3);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/*
 * Whether a relation is the view, the source or the sink of a stream with a slot;
 * "view" tells which.
 */
static bool
is_of_stream(Oid relid, bool *view)
{
	bool		found = false;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	*view = sagg_slot_find(MyDatabaseId, relid) != NULL;
	for (int i = 0; i < sagg_shared->nslots && !found; i++)
	{
		const SaggSlot *slot = &sagg_shared->slots[i];

		found = slot->in_use && slot->database == MyDatabaseId &&
			(slot->source == relid || slot->sink == relid);
	}
	LWLockRelease(sagg_shared->lock);
	return found || *view;
}

/*
 * A stream's view is being dropped, by whatever command: end its worker, free
 * its slot at commit.  One that is altered may have another owner, so a scout
 * looks at it after the commit.
 */
static void
on_object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
				 void *arg)
{
	bool		view;

	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if ((access != OAT_DROP && access != OAT_POST_ALTER) ||
		classId != RelationRelationId || subId != 0 || sagg_shared == NULL)
		return;

	if (!is_of_stream(objectId, &view))
		return;
	if (access == OAT_POST_ALTER)
		look_at_commit = true;
	else if (view)
	{
		sagg_lock_stream(objectId);
		remember(&dropped_views, objectId);
	}
}

/*
 * End of the transaction: let go of what was held, do what waited for the
 * commit.
 */
static void
release_streams(bool commit)
{
	ListCell   *lc;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	foreach(lc, changes)
	{
		if (commit)
			apply_change(lfirst(lc));
	}
	foreach(lc, held_views)
	{
		SaggSlot   *slot = sagg_slot_find(MyDatabaseId, lfirst_oid(lc));

		if (slot == NULL)
			continue;
		if (slot->stop_holds > 0)
			slot->stop_holds--;
		if (slot->pid == 0 && slot->state == SAGG_STOPPED && slot->wanted &&
			slot->stop_holds == 0 && sagg_enabled)
			slot->state = SAGG_STARTING;
	}
	foreach(lc, dropped_views)
	{
		SaggSlot   *slot = sagg_slot_find(MyDatabaseId, lfirst_oid(lc));

		if (commit)
			sagg_crashes_forget(MyDatabaseId, lfirst_oid(lc));
		if (commit && slot && slot->pid == 0 && !slot->launching)
			sagg_slot_free(slot);
	}
	LWLockRelease(sagg_shared->lock);

	forget_all(&held_views);
	forget_all(&dropped_views);
	forget_changes();
	sagg_mark_database(MyDatabaseId);
}

static void
on_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			/* an abort matters only if streams were held meanwhile */
			if (wake_at_commit &&
				(event == XACT_EVENT_COMMIT || held_views != NIL))
				release_streams(event == XACT_EVENT_COMMIT);
			else
			{
				forget_all(&dropped_views);
				forget_changes();
			}
			if (look_at_commit && event == XACT_EVENT_COMMIT)
				sagg_mark_database(MyDatabaseId);
			wake_at_commit = false;
			look_at_commit = false;
			break;
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			/* changes nothing, but must not leave a stream held */
			if (held_views != NIL)
				release_streams(false);
			forget_all(&dropped_views);
			forget_changes();
			wake_at_commit = false;
			look_at_commit = false;
			break;
		case XACT_EVENT_PREPARE:
			/* workers look for themselves before the next micro-batch */
			look_at_commit = false;
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (wake_at_commit)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has created, started, stopped or dropped a stream")));
			break;
		default:
			break;
	}
}

void
sagg_notify_init(void)
{
	RegisterXactCallback(on_transaction, NULL);
	prev_object_access_hook = object_access_hook;
	object_access_hook = on_object_access;
}
