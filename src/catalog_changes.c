/*-------------------------------------------------------------------------
 *
 * catalog_changes.c
 *	  A number that differs whenever the catalogs may have changed.
 *
 * What has been made of the catalogs - an analysed query, a plan - can be kept while
 * the number stays the same.  The number counts all invalidation messages of other
 * sessions that this process has received, of whatever object, and what its own
 * transaction has changed.  So it changes too often rather than too rarely: whoever
 * keeps something pays for that with making it again.
 *
 * Messages are received when a transaction begins and when a lock is taken.  Take the
 * locks on the relations in question before the number is compared.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/sinval.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "stream_agg.h"

/*
 * The catalogs whose changes within a transaction of this process are counted; those
 * of relations are counted as well.  The server's plan cache has a similar list.
 */
static const int watched_caches[] = {
	AGGFNOID, AUTHMEMROLEMEM, AUTHOID, CASTSOURCETARGET, CLAOID, COLLOID, ENUMOID,
	FOREIGNDATAWRAPPEROID, FOREIGNSERVEROID, NAMESPACEOID, OPEROID, OPFAMILYOID,
	PROCOID, RANGETYPE, TYPEOID, USERMAPPINGOID
};

static uint64 own_changes = 0;

static void
relation_changed(Datum arg, Oid relid)
{
	own_changes++;
}

static void
object_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	own_changes++;
}

/*
 * Returns the number.  It is greater than 0, and meaningful within this process only.
 */
uint64
sagg_catalog_changes(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
		for (int i = 0; i < lengthof(watched_caches); i++)
			CacheRegisterSyscacheCallback(watched_caches[i], object_changed, (Datum) 0);
		registered = true;
	}
	return SharedInvalidMessageCounter + own_changes + 1;
}
