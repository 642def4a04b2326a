/*-------------------------------------------------------------------------
 *
 * database_label.c
 *	  How the launcher, connected to no database, learns which databases
 *	  have streams: by a security label on the database.
 *
 * A label is transactional, is not copied by CREATE DATABASE ...  TEMPLATE and
 * goes with DROP DATABASE.  It lives in the shared catalog pg_shseclabel.  It
 * is only a hint where to look: scouts read the catalog.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_shseclabel.h"
#include "commands/seclabel.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "control.h"

#define LABEL_PROVIDER	"stream_agg"
#define LABEL_STREAMS	"streams"

/* the current transaction labels its database at commit */
static bool label_at_commit = false;

/*
 * SECURITY LABEL FOR stream_agg, as pg_dump --create writes it: on databases
 * only, by a superuser only.
 */
static void
check_relabel(const ObjectAddress *object, const char *seclabel)
{
	if (object->classId != DatabaseRelationId)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("label provider \"%s\" labels databases only",
						LABEL_PROVIDER)));
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to set labels of provider \"%s\"",
						LABEL_PROVIDER)));
	if (seclabel != NULL && strcmp(seclabel, LABEL_STREAMS) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid label \"%s\"", seclabel),
				 errhint("The only label of provider \"%s\" is \"%s\".",
						 LABEL_PROVIDER, LABEL_STREAMS)));
}

/*
 * Label the current database as one that has streams.  A lock serialises them,
 * because concurrent updates of a label raise an error.  It is taken just
 * before commit, so that nobody waits for a transaction that does something
 * else first.
 */
static void
set_label(void)
{
	ObjectAddress object;

	ObjectAddressSet(object, DatabaseRelationId, MyDatabaseId);
	LockSharedObject(DatabaseRelationId, MyDatabaseId, 0,
					 ShareUpdateExclusiveLock);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (GetSecurityLabel(&object, LABEL_PROVIDER) == NULL)
		SetSecurityLabel(&object, LABEL_PROVIDER, LABEL_STREAMS);
	PopActiveSnapshot();
}

static void
on_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT && label_at_commit)
		set_label();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		label_at_commit = false;
}

/*
 * Called by _PG_init in the postmaster: registers the label provider and its callback.
 */
void
sagg_label_init(void)
{
	RegisterXactCallback(on_transaction, NULL);
	register_label_provider(LABEL_PROVIDER, check_relabel);
}

/*
 * The current transaction makes or starts a stream in the current database:
 * label the database at commit, unless it is labelled.
 */
void
sagg_label_database(void)
{
	ObjectAddress object;

	ObjectAddressSet(object, DatabaseRelationId, MyDatabaseId);
	if (GetSecurityLabel(&object, LABEL_PROVIDER) == NULL)
		label_at_commit = true;
}

/*
 * Returns the OIDs of the databases with our label, in the current memory
 * context.  Runs in a transaction, also of a process without a database.
 */
List *
sagg_labelled_databases(void)
{
	List	   *databases = NIL;
	Relation	rel = table_open(SharedSecLabelRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_shseclabel label = (Form_pg_shseclabel) GETSTRUCT(tuple);
		bool		isnull;
		Datum		provider = heap_getattr(tuple, Anum_pg_shseclabel_provider,
											RelationGetDescr(rel), &isnull);

		if (label->classoid == DatabaseRelationId && !isnull &&
			strcmp(TextDatumGetCString(provider), LABEL_PROVIDER) == 0)
			databases = lappend_oid(databases, label->objoid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return databases;
}
