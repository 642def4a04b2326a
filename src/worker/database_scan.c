/*-------------------------------------------------------------------------
 *
 * database_scan.c
 *	  A scan of a database for the streams that are to run.
 *
 * The process, a "stream_agg scout" in pg_stat_activity, is a short-lived worker.  The
 * launcher starts it after a commit that changed streams, and at server start.  It is
 * connected as the bootstrap superuser.  Therefore it runs no SQL, calls no function
 * of the database and reads nothing but stream_agg.streams, by a table scan, after
 * checking that it is the extension's own table.  What it finds goes into the slots.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "streams/streams.h"
#include "worker_internal.h"

PGDLLEXPORT void stream_agg_scout_main(Datum arg);

/* how long to try to lock stream_agg.streams */
#define LOCK_ATTEMPTS	10
#define LOCK_PAUSE_MS	100

/*
 * Start a scan of a database.  Returns its process, in TopMemoryContext; NULL if it
 * cannot be started, or a command holds the database, so that the caller tries again.
 * The caller's latch is set when the scan ends.
 */
BackgroundWorkerHandle *
sagg_database_scan_start(Oid database)
{
	static bool warned = false; /* that no slot is free */
	BackgroundWorkerHandle *handle = NULL;

	if (sagg_database_held(database))
		return NULL;
	if (sagg_start_process("stream_agg_scout_main", "stream_agg scout", "stream_agg scout",
						   ObjectIdGetDatum(database), &handle))
		warned = false;
	else if (!warned)
	{
		warned = true;
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no free background worker slot to look for streams"),
				 errhint("Consider increasing max_worker_processes.")));
	}
	return handle;
}

/*
 * Lock stream_agg.streams, but do not wait for long: other databases may wait for the
 * background worker slot of this process.
 */
static bool
lock_streams(Oid relid)
{
	for (int i = 0; !ConditionalLockRelationOid(relid, AccessShareLock); i++)
	{
		if (i >= LOCK_ATTEMPTS)
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOCK_PAUSE_MS, SAGG_WAIT_EVENT("StreamAggScoutLock"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/*
 * Open stream_agg.streams.  Returns NULL if it is not the table that CREATE EXTENSION
 * made, or if somebody holds a lock on it; "busy" is set then.
 */
static Relation
open_streams(bool *busy)
{
	Oid			extension = get_extension_oid(SAGG_EXTENSION, true);
	Oid			nsp = get_namespace_oid(SAGG_SCHEMA, true);
	Oid			relid = OidIsValid(nsp) ? get_relname_relid("streams", nsp) : InvalidOid;

	if (!OidIsValid(extension) || !OidIsValid(relid) ||
		get_rel_relkind(relid) != RELKIND_RELATION ||
		getExtensionOfObject(RelationRelationId, relid) != extension)
		return NULL;
	*busy = !lock_streams(relid);
	return *busy ? NULL : try_relation_open(relid, NoLock);
}

static Datum
column(TupleTableSlot *row, Relation rel, const char *name, bool *isnull)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), name);

	if (attno == InvalidAttrNumber)
	{
		*isnull = true;
		return (Datum) 0;
	}
	return slot_getattr(row, attno, isnull);
}

/*
 * Put one stream that is to run into its slot.  Returns false if no slot is free.  Slots
 * that a transaction has changed since "changes" stay as they are: the snapshot may be
 * older.
 */
static bool
want_stream(Oid view, Oid owner, const char *name, const char *reader,
			Oid source, Oid sink, int limit, uint64 changes)
{
	SaggSlot   *slot;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	slot = sagg_slot_find(MyDatabaseId, view);
	if (slot == NULL || slot->changed_at <= changes)
		slot = sagg_role_slot(view, owner, limit);
	if (slot != NULL && slot->changed_at <= changes)
	{
		if (slot->pid == 0)
		{
			strlcpy(slot->name, name, sizeof(slot->name));
			strlcpy(slot->reader, reader, sizeof(slot->reader));
			slot->source = source;
			slot->sink = sink;
		}
		if (slot->owner != owner)
		{
			slot->owner = owner;
			slot->next_start = 0;
		}
		if (!slot->wanted && slot->state == SAGG_STOPPED)
			slot->state = SAGG_STARTING;
		slot->wanted = true;
		ConditionVariableBroadcast(&slot->changed);
	}
	LWLockRelease(sagg_shared->lock);
	return slot != NULL;
}

/*
 * Put the stream of a row of stream_agg.streams into its slot.  Counts streams for which
 * no slot is free, or which their role may not have.
 */
static void
want_row(Oid view, Oid owner, Datum name, const char *reader, Oid source,
		 Oid sink, uint64 changes, int *waiting, int *limited)
{
	int			limit = sagg_role_limit(owner);
	int			n;

	if (want_stream(view, owner, sagg_stream_title(TextDatumGetCString(name)),
					reader, source, sink, limit, changes))
		return;
	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	n = sagg_role_streams(owner);
	LWLockRelease(sagg_shared->lock);
	(*(n >= limit ? limited : waiting))++;
}

/*
 * Mark slots of streams of this database that are not to run, or do not exist, as not
 * wanted.  Slots of streams that exist stay, with their last errors.  "changes" is as for
 * want_stream.
 */
static void
dismiss_others(List *wanted, List *present, uint64 changes)
{
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];

		if (!slot->in_use || slot->database != MyDatabaseId ||
			slot->changed_at > changes ||
			list_member_oid(wanted, slot->view))
			continue;
		if (slot->wanted)
			sagg_slot_freed();
		slot->wanted = false;
		if (slot->latch)
			SetLatch(slot->latch);
		if (slot->pid == 0)
		{
			slot->state = SAGG_STOPPED;
			if (!list_member_oid(present, slot->view) && !slot->launching &&
				slot->stop_holds == 0)
				sagg_slot_free(slot);
		}
	}
	LWLockRelease(sagg_shared->lock);
	ConditionVariableBroadcast(&sagg_shared->slots_changed);
}

static void
look_at_streams(Relation rel, uint64 changes)
{
	List	   *wanted = NIL;
	List	   *present = NIL;
	int			waiting = 0;
	int			limited = 0;
	TableScanDesc scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	TupleTableSlot *row = table_slot_create(rel, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
	{
		bool		isnull[9];
		Datum		name = column(row, rel, "stream", &isnull[0]);
		Datum		view = column(row, rel, "query", &isnull[1]);
		Datum		enabled = column(row, rel, "enabled", &isnull[2]);
		Datum		database = column(row, rel, "database", &isnull[3]);
		Datum		started_for = column(row, rel, "started_for", &isnull[4]);
		Datum		reader = column(row, rel, "reader", &isnull[5]);
		Datum		source = column(row, rel, "source", &isnull[6]);
		Datum		sink = column(row, rel, "sink", &isnull[7]);
		Datum		others = column(row, rel, "other_sources", &isnull[8]);
		Oid			owner;
		List	   *sources;

		CHECK_FOR_INTERRUPTS();
		if (isnull[0] || isnull[1] || isnull[2] || isnull[3] || isnull[4] ||
			isnull[6] || isnull[7])
			continue;
		owner = sagg_relation_owner(DatumGetObjectId(view));
		if (!OidIsValid(owner))
			continue;
		present = lappend_oid(present, DatumGetObjectId(view));
		sources = sagg_source_list(DatumGetObjectId(source),
								   isnull[8] ? NULL : DatumGetArrayTypeP(others));
		if (DatumGetBool(enabled) && DatumGetObjectId(database) == MyDatabaseId &&
			sagg_stream_has_owners(DatumGetArrayTypeP(started_for), DatumGetObjectId(view),
								   DatumGetObjectId(sink), sources))
		{
			wanted = lappend_oid(wanted, DatumGetObjectId(view));
			want_row(DatumGetObjectId(view), owner, name,
					 isnull[5] ? "" : TextDatumGetCString(reader),
					 DatumGetObjectId(source), DatumGetObjectId(sink), changes,
					 &waiting, &limited);
		}
	}
	ExecDropSingleTupleTableSlot(row);
	table_endscan(scan);
	dismiss_others(wanted, present, changes);
	sagg_warn_of_missing_slots(waiting, limited);
}

/*
 * Returns how many changes transactions have made to slots so far.
 */
static uint64
changes_so_far(void)
{
	uint64		changes;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	changes = sagg_shared->changes;
	LWLockRelease(sagg_shared->lock);
	return changes;
}

/*
 * Main function of a scan; the argument is the database's OID.
 */
void
stream_agg_scout_main(Datum arg)
{
	Relation	rel;
	uint64		changes;
	bool		busy = false;

	/*
	 * The server's own handler would end the process wherever it is, even
	 * while it holds a spinlock or lightweight lock, and the server could not
	 * shut down.
	 */
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (sagg_database_held(DatumGetObjectId(arg)))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(arg), InvalidOid, 0);
	sagg_worker_reset_role();

	/* before the snapshot, which then shows all of them */
	changes = changes_so_far();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, "stream_agg: looking for streams");
	rel = open_streams(&busy);
	if (rel)
	{
		look_at_streams(rel, changes);
		relation_close(rel, AccessShareLock);
	}
	else if (busy)
		sagg_mark_database(MyDatabaseId);	/* for another scan */
	else
		dismiss_others(NIL, NIL, changes);
	PopActiveSnapshot();
	CommitTransactionCommand();
	proc_exit(0);
}
