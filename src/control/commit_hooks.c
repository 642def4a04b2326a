/*-------------------------------------------------------------------------
 *
 * commit_hooks.c
 *	  Informs the launcher and the workers at commit about streams that a
 *	  transaction has changed.
 *
 * Definitions are transactional, workers are not.  So everything that makes a
 * worker start waits for the commit, and a stream that must not run while a
 * transaction changes it is held (stop_holds) until that transaction commits
 * or aborts, or the subtransaction that held it is rolled back, as long as the
 * transaction has the stream's lock.  Transaction callbacks touch shared memory only: an ERROR there would be a
 * PANIC.
 *
 * Locks: the stream's lock is a heavyweight lock on (view, STREAM_LOCK).  A
 * worker holds it at session level (I2) until it ends; after an ERROR it takes
 * it again when it opens the stream again.  A transaction that stops or drops
 * the stream takes it after asking the worker to end.  The wait is
 * visible to the deadlock detector, since the worker's batch may itself wait
 * for a lock of the transaction, for example on the sink.
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

#include "streams/streams.h"
#include "control.h"

/*
 * Numbers of heavyweight locks on the OID of a stream's view; the map has their
 * order.  Numbers 2 and 4 are locks on names: of readers (stream_reader.c) and of
 * streams (stream_create.c); 5 is on the OID of a sink that gets a stream.
 */
typedef enum StreamLock
{
	STREAM_LOCK = 1,			/* held by the worker (I2) */
	MICRO_BATCH_LOCK = 3		/* held by who runs a micro-batch, or tries
								 * one */
} StreamLock;

/* a stream that is held, by a (sub)transaction of this nesting level */
typedef struct Hold
{
	Oid			view;			/* InvalidOid: room for the next one */
	int			level;
} Hold;

/* what the current transaction does at its end; in TopMemoryContext */
static bool wake_at_commit = false;
static bool look_at_commit = false; /* definitions that workers have analysed
									 * may have changed */
static List *holds = NIL;		/* of Hold: streams this transaction holds,
								 * each once */

static object_access_hook_type prev_object_access_hook = NULL;

/*
 * Set "tag" to the lock of a stream, which its worker holds (I2): "view" is that of its
 * query, in the database "database".
 */
void
sagg_stream_locktag(LOCKTAG *tag, Oid database, Oid view)
{
	SET_LOCKTAG_OBJECT(*tag, database, RelationRelationId, view, STREAM_LOCK);
}

/*
 * Returns how many streams shall run that the transaction has not changed:
 * those of this database, whose views go to "views" (which has room for all
 * slots), and those of other databases.
 */
static int
wanted_slots(Oid owner, Oid *views, int *others)
{
	int			n = 0;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	*others = 0;
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		const SaggSlot *slot = &sagg_shared->slots[i];

		if (!slot->in_use || slot->owner != owner || !slot->wanted)
			continue;
		if (slot->database == MyDatabaseId)
			views[n++] = slot->view;
		else
			(*others)++;
	}
	LWLockRelease(sagg_shared->lock);
	return n;
}

/*
 * Returns how many streams of an owner will run once this transaction has
 * committed, not counting "view".
 */
static int
streams_at_commit(Oid owner, Oid view)
{
	Oid		   *views = palloc(sizeof(Oid) * sagg_shared->nslots);
	int			n;
	int			nviews = wanted_slots(owner, views, &n);
	ListCell   *lc;

	for (int i = 0; i < nviews; i++)
	{
		if (views[i] != view && sagg_change_of(views[i]) == NULL)
			n++;
	}
	foreach(lc, sagg_changes())
	{
		const SaggStreamChange *change = lfirst(lc);

		if (change->kind == SAGG_CHANGE_START && change->owner == owner && change->view != view)
			n++;
	}
	pfree(views);
	return n;
}

static void
change_at_commit(SaggChangeKind kind, const SaggStream *stream, int limit)
{
	SaggStreamChange change = {.kind = kind, .view = stream->view};

	change.owner = stream->owner;
	strlcpy(change.name, sagg_stream_title(stream->name), sizeof(change.name));
	change.limit = limit;
	change.source = linitial_oid(stream->sources);
	change.sink = stream->sink;
	strlcpy(change.reader, stream->reader ? stream->reader : "", sizeof(change.reader));
	sagg_change_add(&change);
	wake_at_commit = true;
}

/*
 * At commit: a stream that is new, was stopped or failed, or waits before a
 * retry, starts at once.  Its slot is made here, so that there is a place to
 * report why the stream does not run if no worker, not even a scout, can be
 * started.  Raises configuration_limit_exceeded if the stream's owner has as
 * many streams as stream_agg.max_streams_per_role allows.
 */
void
sagg_start_stream_at_commit(const SaggStream *stream)
{
	int			limit = sagg_role_limit(stream->owner);

	sagg_role_check(stream->owner, streams_at_commit(stream->owner, stream->view), limit);
	change_at_commit(SAGG_CHANGE_START, stream, limit);
}

/*
 * At commit: a stream, whose lock is held, no longer runs.  Without this the
 * launcher could start it again before a scout has read the catalog.
 */
void
sagg_stop_stream_at_commit(const SaggStream *stream)
{
	change_at_commit(SAGG_CHANGE_STOP, stream, 0);
}

/*
 * A worker that is about to end may still have the slot.  Then the slot's name
 * and owner stay, and detach_from_slot sees what is wanted.
 */
static void
apply_change(const SaggStreamChange *change)
{
	bool		start = change->kind == SAGG_CHANGE_START;
	SaggSlot   *slot = start ?
	sagg_role_slot(change->view, change->owner, change->limit) :
	sagg_slot_find(MyDatabaseId, change->view);

	if (slot == NULL)
	{
		/* other backends were faster, or there is none to stop */
		if (start)
			sagg_slot_missing();
		return;
	}
	if (slot->wanted && !start)
		sagg_slot_freed();
	slot->wanted = start;
	slot->changed_at = ++sagg_shared->changes;
	if (!start)
	{
		if (slot->pid == 0)
			slot->state = SAGG_STOPPED;
		return;
	}
	slot->crashes = 0;
	slot->next_start = 0;
	sagg_crashes_forget(MyDatabaseId, change->view);
	slot->waiting_for_process = false;
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
 * With the stream's lock held: discard the shared state of a stopped stream;
 * the next worker restores it from the checkpoint.
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

static bool
is_held(Oid view)
{
	ListCell   *lc;

	foreach(lc, holds)
	{
		if (((const Hold *) lfirst(lc))->view == view)
			return true;
	}
	return false;
}

/*
 * Returns an entry for another stream that is held.
 */
static Hold *
room_for_hold(void)
{
	MemoryContext old;

	/* an earlier call has found no slot, or raised an error: use its entry */
	if (holds != NIL && ((const Hold *) llast(holds))->view == InvalidOid)
		return llast(holds);
	old = MemoryContextSwitchTo(TopMemoryContext);
	holds = lappend(holds, palloc0(sizeof(Hold)));
	MemoryContextSwitchTo(old);
	return llast(holds);
}

/*
 * Keep a stream from running until the current transaction ends, and return
 * when no worker runs it: its current batch is finished first, or cancelled
 * after stream_agg.stop_timeout.
 */
void
sagg_lock_stream(Oid view)
{
	SaggSlot   *slot;
	Hold	   *room = NULL;

	sagg_require_preload();

	/*
	 * make room for the entry first: after the hold nothing may fail before
	 * it is noted
	 */
	if (!is_held(view))
		room = room_for_hold();

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
		/*
		 * a slot with holds is not reused, so this transaction's is still
		 * there
		 */
		if (room || slot->stop_holds == 0)
			slot->stop_holds++;
		if (room)
		{
			room->view = view;
			room->level = GetCurrentTransactionNestLevel();
		}
		if (slot->latch)
			SetLatch(slot->latch);
	}
	LWLockRelease(sagg_shared->lock);
	wake_at_commit = true;

	sagg_wait_for_worker(slot, view);
	discard_store(view);
}

/*
 * Until the end of the (sub)transaction, be the only one to run a micro-batch
 * of a stream, or to write what one would write: wait for the current one, and
 * make the worker wait before it begins another.
 */
void
sagg_lock_micro_batch(Oid view)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, view, MICRO_BATCH_LOCK);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/*
 * Returns whether a relation is the view, the source or the sink of a stream
 * with a slot; sets "is_view" if it is the view.
 */
static bool
is_of_stream(Oid relid, bool *is_view)
{
	bool		found = false;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	*is_view = sagg_slot_find(MyDatabaseId, relid) != NULL;
	for (int i = 0; i < sagg_shared->nslots && !found; i++)
	{
		const SaggSlot *slot = &sagg_shared->slots[i];

		found = slot->in_use && slot->database == MyDatabaseId &&
			(slot->source == relid || slot->sink == relid);
	}
	LWLockRelease(sagg_shared->lock);
	/* a stream that this transaction has made or started has no slot yet */
	*is_view = *is_view || sagg_change_of(relid) != NULL;
	return found || *is_view;
}

/*
 * A stream's view is being dropped, by any command: end its worker, and free
 * its slot at commit.  A view that is altered may have another owner, so a
 * scout looks at it after the commit.
 */
static void
on_object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
				 void *arg)
{
	bool		is_view;

	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if ((access != OAT_DROP && access != OAT_POST_ALTER) ||
		classId != RelationRelationId || subId != 0 || sagg_shared == NULL)
		return;

	if (!is_of_stream(objectId, &is_view))
		return;
	if (access == OAT_POST_ALTER)
		look_at_commit = true;
	else if (is_view)
	{
		SaggStreamChange change = {.kind = SAGG_CHANGE_DROP, .view = objectId};

		sagg_lock_stream(objectId);
		sagg_change_add(&change);
	}
}

static void
apply_drop(Oid view)
{
	SaggSlot   *slot = sagg_slot_find(MyDatabaseId, view);

	sagg_crashes_forget(MyDatabaseId, view);
	if (slot && slot->pid == 0 && !slot->launching)
		sagg_slot_free(slot);
}

/*
 * Apply the changes of one kind.  Stops come first: they make room for what
 * starts.
 */
static void
apply_changes(SaggChangeKind kind)
{
	ListCell   *lc;

	foreach(lc, sagg_changes())
	{
		const SaggStreamChange *change = lfirst(lc);

		if (change->kind != kind)
			continue;
		if (kind == SAGG_CHANGE_DROP)
			apply_drop(change->view);
		else
			apply_change(change);
	}
}

/*
 * A stream is not held any more by this transaction.
 */
static void
release_hold(Oid view)
{
	SaggSlot   *slot = sagg_slot_find(MyDatabaseId, view);

	if (slot == NULL)
		return;
	if (slot->stop_holds > 0)
		slot->stop_holds--;
	if (slot->stop_holds > 0)
		return;
	if (!slot->wanted)
		sagg_slot_freed();
	else if (slot->pid == 0 && slot->state == SAGG_STOPPED && sagg_enabled)
		slot->state = SAGG_STARTING;
}

static void
release_holds(void)
{
	ListCell   *lc;

	foreach(lc, holds)
		release_hold(((const Hold *) lfirst(lc))->view);
}

static void
forget_all(void)
{
	list_free_deep(holds);
	holds = NIL;
	sagg_changes_forget();
}

/*
 * What a subtransaction holds goes to the enclosing one, or is released with the
 * locks of the streams.  Allocates nothing and raises no error.
 */
static void
on_subtransaction(SubXactEvent event, SubTransactionId subid,
				  SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	bool		released = false;
	ListCell   *lc;

	if (holds == NIL ||
		(event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB))
		return;
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	foreach(lc, holds)
	{
		Hold	   *hold = lfirst(lc);

		if (hold->view == InvalidOid || hold->level < level)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
		{
			hold->level--;
			continue;
		}
		release_hold(hold->view);
		holds = foreach_delete_current(holds, lc);
		pfree(hold);
		released = true;
	}
	LWLockRelease(sagg_shared->lock);
	if (released)
		sagg_mark_database(MyDatabaseId);
}

/*
 * End of the transaction: release the holds, do what waited for the commit.
 */
static void
release_streams(bool commit)
{
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	if (commit)
		apply_changes(SAGG_CHANGE_STOP);
	release_holds();			/* slots that are held count for the limit */
	if (commit)
	{
		apply_changes(SAGG_CHANGE_START);
		apply_changes(SAGG_CHANGE_DROP);
	}
	LWLockRelease(sagg_shared->lock);

	forget_all();
	sagg_mark_database(MyDatabaseId);
}

static void
on_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			/* an abort matters only if it had held streams */
			if (wake_at_commit &&
				(event == XACT_EVENT_COMMIT || holds != NIL))
				release_streams(event == XACT_EVENT_COMMIT);
			else
				forget_all();
			if (look_at_commit && event == XACT_EVENT_COMMIT)
				sagg_mark_database(MyDatabaseId);
			wake_at_commit = false;
			look_at_commit = false;
			break;
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			/* this changes nothing, but must not leave a stream held */
			if (holds != NIL)
				release_streams(false);
			forget_all();
			wake_at_commit = false;
			look_at_commit = false;
			break;
		case XACT_EVENT_PREPARE:
			/* workers look for changes before the next micro-batch */
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

/*
 * Called by _PG_init in the postmaster: registers the callbacks for ends of
 * transactions and subtransactions, and the hook for dropped objects.
 */
void
sagg_notify_init(void)
{
	RegisterXactCallback(on_transaction, NULL);
	RegisterSubXactCallback(on_subtransaction, NULL);
	sagg_changes_init();
	prev_object_access_hook = object_access_hook;
	object_access_hook = on_object_access;
}
