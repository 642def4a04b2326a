/*-------------------------------------------------------------------------
 *
 * database_commands.c
 *	  Lets DROP, ALTER and CREATE DATABASE run while streams are active, by
 *	  pausing the workers of the database.
 *
 * DROP DATABASE, ALTER DATABASE ...  RENAME and SET TABLESPACE, and CREATE
 * DATABASE ...  TEMPLATE fail while anybody is connected to the database, as
 * workers are.  So such a command holds the database first: its workers end
 * after their current batch, or are terminated if that takes long, and neither
 * launcher nor scouts start others until the transaction of the command
 * commits or aborts.  Then its streams continue, if the database still exists.
 *
 * Only a user who may run the command holds the database: a command that fails
 * for lack of privilege must not stop anybody's streams.
 *
 * No lock is held while waiting.  If sessions are still connected after the
 * wait, the server raises its own error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "control.h"

/*
 * how long a worker may continue its current batch, and how long it then has
 * to exit
 */
#define FINISH_BATCH_MS		5000
#define TERMINATE_MS		5000

/* interval of polling, for a worker that dies before it has attached */
#define LOOK_AGAIN_MS		200

static ProcessUtility_hook_type next_process_utility = standard_ProcessUtility;

/* the database this backend holds, if any */
static Oid	held_database = InvalidOid;

/*
 * Returns whether a command holds the database.  Cheap enough to call in every
 * wait of a worker.
 */
bool
sagg_database_held(Oid database)
{
	bool		held = false;

	SpinLockAcquire(&sagg_shared->mutex);
	for (int i = 0; i < sagg_shared->nheld && !held; i++)
		held = sagg_shared->held[i].database == database;
	SpinLockRelease(&sagg_shared->mutex);
	return held;
}

/*
 * Hold a database.  Backends that hold the same one, waiting for its lock,
 * share an entry.  Returns false if too many databases are held already.
 */
static bool
hold(Oid database)
{
	int			i = 0;
	bool		done;

	SpinLockAcquire(&sagg_shared->mutex);
	while (i < sagg_shared->nheld && sagg_shared->held[i].database != database)
		i++;
	done = i < SAGG_HELD_DATABASES;
	if (done && i == sagg_shared->nheld)
	{
		sagg_shared->held[i].database = database;
		sagg_shared->held[i].holders = 0;
		sagg_shared->nheld++;
	}
	if (done)
		sagg_shared->held[i].holders++;
	SpinLockRelease(&sagg_shared->mutex);
	if (done)
		held_database = database;
	return done;
}

/*
 * Release what this backend holds; the launcher looks at the database again.
 * Cannot fail: transaction callbacks use it.
 */
static void
release(void)
{
	Oid			database = held_database;

	if (!OidIsValid(database))
		return;
	held_database = InvalidOid;
	SpinLockAcquire(&sagg_shared->mutex);
	for (int i = 0; i < sagg_shared->nheld; i++)
	{
		if (sagg_shared->held[i].database != database)
			continue;
		if (--sagg_shared->held[i].holders == 0)
			sagg_shared->held[i] = sagg_shared->held[--sagg_shared->nheld];
		break;
	}
	SpinLockRelease(&sagg_shared->mutex);
	sagg_mark_database(database);
}

static void
on_transaction(XactEvent event, void *arg)
{
	/* a prepared transaction may last for days, so it holds nothing */
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		release();
}

/*
 * Returns the number of workers of a database that run or are being started.
 * Sets their latches; with "signal", also sends them that signal.
 */
static int
call_workers(Oid database, int signal)
{
	int			workers = 0;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];

		if (!slot->in_use || slot->database != database)
			continue;
		if (slot->pid != 0 || slot->launching)
			workers++;
		if (slot->observing)
			workers++;
		if (slot->latch)
			SetLatch(slot->latch);
		if (signal != 0 && slot->pid != 0)
			kill(slot->pid, signal);
		if (signal != 0 && slot->observer != 0)
			kill(slot->observer, signal);
	}
	LWLockRelease(sagg_shared->lock);
	return workers;
}

/*
 * Wait, for a limited time, until the database has no workers; returns whether
 * it has none.
 */
static bool
wait_for_workers(Oid database, int timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   timeout_ms);
	uint32		event = SAGG_WAIT_EVENT("StreamAggDatabaseHold");
	bool		gone;

	ConditionVariablePrepareToSleep(&sagg_shared->slots_changed);
	while (!(gone = call_workers(database, 0) == 0))
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
														   deadline);

		if (left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&sagg_shared->slots_changed,
										   Min(left, LOOK_AGAIN_MS), event);
	}
	ConditionVariableCancelSleep();
	return gone;
}

/*
 * Keep a database free of workers until the end of the transaction.
 */
static void
clear_database(Oid database)
{
	if (OidIsValid(held_database) || !hold(database))
		return;
	if (wait_for_workers(database, FINISH_BATCH_MS))
		return;
	(void) call_workers(database, SIGTERM);
	(void) wait_for_workers(database, TERMINATE_MS);
}

static DefElem *
find_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		if (strcmp(lfirst_node(DefElem, lc)->defname, name) == 0)
			return lfirst_node(DefElem, lc);
	}
	return NULL;
}

/*
 * Returns whether the user has CREATEDB.  (The server's own function does not
 * exist in all minor versions.)
 */
static bool
may_create_databases(void)
{
	HeapTuple	tuple;
	bool		may;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (!HeapTupleIsValid(tuple))
		return false;
	may = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
	ReleaseSysCache(tuple);
	return may;
}

/*
 * Returns whether the user may copy a database: anybody who may create
 * databases can copy a template, and only the owner another database.
 */
static bool
may_copy(Oid database)
{
	HeapTuple	tuple;
	bool		template;

	if (!may_create_databases())
		return false;
	if (SAGG_OWNS_DATABASE(database, GetUserId()))
		return true;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (!HeapTupleIsValid(tuple))
		return false;
	template = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	ReleaseSysCache(tuple);
	return template;
}

/*
 * Returns the database that CREATE DATABASE copies; InvalidOid if the command
 * would fail before that.
 */
static Oid
copied_database(const CreatedbStmt *stmt)
{
	DefElem    *option = find_option(stmt->options, "template");
	Oid			database = get_database_oid(option && option->arg ?
											defGetString(option) : "template1",
											true);

	if (!OidIsValid(database) || !may_copy(database) ||
		OidIsValid(get_database_oid(stmt->dbname, true)))
		return InvalidOid;
	return database;
}

/*
 * Returns the database that a command drops or alters; InvalidOid if the
 * command would fail before that.  It is never the session's own.
 */
static Oid
altered_database(const char *name)
{
	Oid			database = get_database_oid(name, true);

	if (!OidIsValid(database) || database == MyDatabaseId ||
		!SAGG_OWNS_DATABASE(database, GetUserId()))
		return InvalidOid;
	return database;
}

/*
 * Returns the database that a command needs for itself, if the user has the
 * privilege; InvalidOid for any other command.
 */
static Oid
database_of_command(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_CreatedbStmt:
			return copied_database((CreatedbStmt *) stmt);
		case T_DropdbStmt:
			return altered_database(((DropdbStmt *) stmt)->dbname);
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE &&
				may_create_databases())
				return altered_database(((RenameStmt *) stmt)->subname);
			break;
		case T_AlterDatabaseStmt:
			if (find_option(((AlterDatabaseStmt *) stmt)->options, "tablespace"))
				return altered_database(((AlterDatabaseStmt *) stmt)->dbname);
			break;
		default:
			break;
	}
	return InvalidOid;
}

static void
process_utility(PlannedStmt *pstmt, const char *text, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *environment, DestReceiver *dest,
				QueryCompletion *qc)
{
	/* within a transaction block these commands fail, except RENAME */
	if (context == PROCESS_UTILITY_TOPLEVEL &&
		(IsA(pstmt->utilityStmt, RenameStmt) || !IsInTransactionBlock(true)))
	{
		Oid			database = database_of_command(pstmt->utilityStmt);

		if (OidIsValid(database))
			clear_database(database);
	}

	next_process_utility(pstmt, text, read_only_tree, context, params,
						 environment, dest, qc);
}

/*
 * Called by _PG_init in the postmaster.
 */
void
sagg_database_commands_init(void)
{
	RegisterXactCallback(on_transaction, NULL);
	if (ProcessUtility_hook)
		next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
