/*-------------------------------------------------------------------------
 *
 * session_store.c
 *	  Where sessions are in the store, and how those of a key are found.
 *
 * A key that a batch meets gets all of its sessions, so they are found by the
 * hash of the key.  Inserting into a unit with very many entries of one hash
 * takes longer and longer.  So the unit of all sessions has a few of each
 * hash; the others are in a unit of that hash alone, each at a place by its
 * start.  Only a walk over the sessions of a hash sees the difference: a unit
 * is made, undone and freed like that of a window (I3).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "session_windows.h"

static inline int64
unit_start(uint32 hash, bool apart)
{
	return apart ? (int64) hash + 1 : SAGG_SESSIONS_UNIT;
}

static inline uint32
stored_hash(const SaggStore *store, uint32 hash, int64 start, bool apart)
{
	return apart ? hash ^ sagg_start_salt(sagg_store_seed(store), start) : hash;
}

/*
 * Returns the hash of the keys of the session that a scan is at.
 */
uint32
sagg_session_scan_hash(const SaggScan *scan)
{
	return scan->start == SAGG_SESSIONS_UNIT ? scan->hash : (uint32) (scan->start - 1);
}

/*
 * Begin a walk over the sessions with a hash, which the store must not change
 * meanwhile.
 */
void
sagg_session_walk(SaggStore *store, uint32 hash, SaggSessionWalk *walk)
{
	walk->hash = hash;
	walk->apart = false;
	walk->step = 0;
	walk->unit = sagg_store_unit(store, SAGG_PARTITION_OF(hash), SAGG_SESSIONS_UNIT);
}

/*
 * Go to the next session; walk->apart says which unit it is in.  Returns false
 * when there are no more.
 */
bool
sagg_session_walk_next(SaggStore *store, SaggSessionWalk *walk, SaggStored *stored)
{
	if (!walk->apart)
	{
		if (walk->unit &&
			sagg_unit_probe(store, walk->unit, walk->hash, &walk->step, stored))
			return true;
		walk->apart = true;
		sagg_scan_unit(&walk->scan, store,
					   sagg_store_unit(store, SAGG_PARTITION_OF(walk->hash),
									   unit_start(walk->hash, true)));
	}
	if (!sagg_scan_next(&walk->scan))
		return false;
	*stored = walk->scan.stored;
	return true;
}

/*
 * Find the stored session with the keys and the start of "group", and its
 * place; if there is none, where it would go.  Leaves garbage in the current
 * context.
 */
SaggStored
sagg_session_stored(SaggExecution *ex, const SaggGroup *group, bool *apart)
{
	SaggStore  *store = ex->store;
	int			partition = SAGG_PARTITION_OF(group->hash);
	SaggUnit   *unit = sagg_store_unit(store, partition, SAGG_SESSIONS_UNIT);
	uint32		step = 0;
	int			n = 0;
	SaggStored	stored;

	for (*apart = false; unit && sagg_unit_probe(store, unit, group->hash, &step, &stored); n++)
	{
		SaggEntry	entry = sagg_store_entry(store, stored);

		if (sagg_entry_has_keys(ex, entry.data, entry.len, group))
			return stored;
	}
	*apart = true;
	step = 0;
	unit = sagg_store_unit(store, partition, unit_start(group->hash, true));
	while (unit && sagg_unit_probe(store, unit, stored_hash(store, group->hash, group->start, true),
								   &step, &stored))
	{
		SaggEntry	entry = sagg_store_entry(store, stored);

		if (sagg_entry_has_keys(ex, entry.data, entry.len, group))
			return stored;
	}
	*apart = n >= SAGG_FEW_SESSIONS;
	return SAGG_NOT_STORED;
}

/*
 * Like the functions of store_unit.c, for a session with the hash of its keys,
 * its start and its unit.
 */
SaggStored
sagg_session_put(SaggStore *store, uint32 hash, int64 start, bool apart,
				 SaggStored old, const StringInfo entry)
{
	return sagg_store_put(store, unit_start(hash, apart), stored_hash(store, hash, start, apart),
						  old, entry->data, entry->len);
}

/*
 * Remove a session, "stored", when the batch is published; see sagg_store_bury.
 */
void
sagg_session_bury(SaggStore *store, uint32 hash, int64 start, bool apart,
				  SaggStored stored)
{
	sagg_store_bury(store, unit_start(hash, apart), stored_hash(store, hash, start, apart), stored);
}

/*
 * Put a session that is being restored, in place of "old"; see sagg_store_load.
 */
void
sagg_session_restore(SaggStore *store, uint32 hash, int64 start, bool apart,
					 SaggStored old, const char *entry, Size len)
{
	sagg_store_load(store, unit_start(hash, apart), stored_hash(store, hash, start, apart),
					old, entry, len);
}

/*
 * Remove a session that is being restored.
 */
void
sagg_session_forget(SaggStore *store, uint32 hash, int64 start, bool apart,
					SaggStored stored)
{
	sagg_store_remove(store, unit_start(hash, apart), stored_hash(store, hash, start, apart), stored);
}
