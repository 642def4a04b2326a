/*-------------------------------------------------------------------------
 *
 * drop_extension.c
 *	  DROP EXTENSION stream_agg stops the streams of the database first.
 *
 * The command locks everything that it will drop, including tables that
 * micro-batches use, before it drops any of it; workers learn about it only
 * then (commit_hooks.c).  It would wait for a micro-batch that does not end.
 * So the streams are stopped as stop_stream does it, with
 * stream_agg.stop_timeout, until the end of the transaction; if that aborts,
 * they continue.
 *
 * Only superusers can drop the extension, so only they stop anything here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "tcop/utility.h"

#include "control.h"

static ProcessUtility_hook_type next_process_utility = standard_ProcessUtility;

static bool
drops_extension(Node *stmt)
{
	ListCell   *lc;

	if (!IsA(stmt, DropStmt) || ((DropStmt *) stmt)->removeType != OBJECT_EXTENSION)
		return false;
	foreach(lc, ((DropStmt *) stmt)->objects)
	{
		if (strcmp(strVal(lfirst(lc)), SAGG_EXTENSION) == 0)
			return true;
	}
	return false;
}

/*
 * Returns the views of the streams of this database that have a worker, in the
 * current memory context.
 */
static List *
running_streams(void)
{
	List	   *views = NIL;
	Oid		   *found = palloc(sizeof(Oid) * sagg_shared->nslots);
	int			n = 0;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		const SaggSlot *slot = &sagg_shared->slots[i];

		if (slot->in_use && slot->database == MyDatabaseId &&
			(slot->wanted || slot->pid != 0))
			found[n++] = slot->view;
	}
	LWLockRelease(sagg_shared->lock);
	for (int i = 0; i < n; i++)
		views = lappend_oid(views, found[i]);
	pfree(found);
	return views;
}

static void
process_utility(PlannedStmt *pstmt, const char *text, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest,
				QueryCompletion *qc)
{
	if (drops_extension(pstmt->utilityStmt) && superuser() && OidIsValid(MyDatabaseId))
	{
		ListCell   *lc;

		foreach(lc, running_streams())
			sagg_lock_stream(lfirst_oid(lc));
	}

	next_process_utility(pstmt, text, read_only_tree, context, params,
						 environment, dest, qc);
}

/*
 * Called by _PG_init in the postmaster.
 */
void
sagg_drop_extension_init(void)
{
	if (ProcessUtility_hook)
		next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
