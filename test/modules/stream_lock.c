/*
 * stream_lock.c
 *	  Takes the lock of a stream, as a second worker would.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(lock_stream);
PG_FUNCTION_INFO_V1(unlock_stream);

static LOCKTAG
stream_tag(Oid view)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, view, 1);
	return tag;
}

/* lock_stream(query oid): for the session; false if somebody else has it */
Datum
lock_stream(PG_FUNCTION_ARGS)
{
	LOCKTAG		tag = stream_tag(PG_GETARG_OID(0));

	PG_RETURN_BOOL(LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL);
}

/* unlock_stream(query oid) */
Datum
unlock_stream(PG_FUNCTION_ARGS)
{
	LOCKTAG		tag = stream_tag(PG_GETARG_OID(0));

	PG_RETURN_BOOL(LockRelease(&tag, ExclusiveLock, true));
}
