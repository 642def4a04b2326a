/*-------------------------------------------------------------------------
 *
 * session_store.c
 *	  Where sessions are in the store, and how those of a key are found.
 *
 * A key that a batch meets gets all of its sessions, so they are found by the
 * hash of the key.  A table with very many of one hash would take ever longer to
 * put another one in.  So the table of all sessions has a few of each hash; the
 * others are in a table of that hash alone, each at a place by its start.
 * Nobody but who walks over the sessions of a hash sees the difference: a table
 * is made, undone and freed as that of a window is (I3).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "sessions.h"

static inline int64
table_name(uint32 hash, bool apart)
{
	return apart ? (int64) hash + 1 : SAGG_SESSIONS_TABLE;
}

static inline uint32
slot_hash(const SaggStore *store, uint32 hash, int64 start, bool apart)
{
	return apart ? hash ^ sagg_start_salt(store, start) : hash;
}

/*
 * The hash of the keys of the session in a slot.
 */
uint32
sagg_session_slot_hash(const SaggTable *table, const SaggSlotRef *slot)
{
	return table->start == SAGG_SESSIONS_TABLE ? slot->hash : (uint32) (table->start - 1);
}

/*
 * Begin to walk over the sessions with a hash, which the store must keep as they
 * are meanwhile.
 */
void
sagg_session_walk(SaggStore *store, uint32 hash, SaggSessionWalk *walk)
{
	walk->hash = hash;
	walk->apart = false;
	walk->step = 0;
	walk->table = sagg_store_table(store, SAGG_PARTITION_OF(hash), SAGG_SESSIONS_TABLE);
}

/*
 * The next one; walk->apart tells its table.  Returns false when there are no more.
 */
bool
sagg_session_walk_next(SaggStore *store, SaggSessionWalk *walk, dsa_pointer *version)
{
	if (!walk->apart)
	{
		if (walk->table &&
			sagg_table_probe(store, walk->table, walk->hash, &walk->step, version))
			return true;
		walk->apart = true;
		walk->step = 0;
		walk->table = sagg_store_table(store, SAGG_PARTITION_OF(walk->hash),
									   table_name(walk->hash, true));
	}
	while (walk->table && walk->step < walk->table->nslots)
	{
		*version = SAGG_SLOTS(store, walk->table)[walk->step++].version;
		if (DsaPointerIsValid(*version))
			return true;
	}
	return false;
}

/*
 * The stored session with the keys and the start of "group", and where it is; or
 * InvalidDsaPointer, and where it would be put.  Leaves garbage in the current
 * context.
 */
dsa_pointer
sagg_session_stored(SaggExecution *ex, const SaggGroup *group, bool *apart)
{
	SaggStore  *store = ex->store;
	int			partition = SAGG_PARTITION_OF(group->hash);
	SaggTable  *table = sagg_store_table(store, partition, SAGG_SESSIONS_TABLE);
	uint32		step = 0;
	int			n = 0;
	dsa_pointer dp;

	for (*apart = false; table && sagg_table_probe(store, table, group->hash, &step, &dp); n++)
	{
		SaggVersion *version = SAGG_VERSION(store, dp);

		if (sagg_entry_has_keys(ex, version->entry, version->len, group))
			return dp;
	}
	*apart = true;
	step = 0;
	table = sagg_store_table(store, partition, table_name(group->hash, true));
	while (table && sagg_table_probe(store, table, slot_hash(store, group->hash, group->start, true),
									 &step, &dp))
	{
		SaggVersion *version = SAGG_VERSION(store, dp);

		if (sagg_entry_has_keys(ex, version->entry, version->len, group))
			return dp;
	}
	*apart = n >= SAGG_FEW_SESSIONS;
	return InvalidDsaPointer;
}

/*
 * As the functions of store_table.c: a session with the hash of its keys, its start
 * and its table.
 */
dsa_pointer
sagg_session_put(SaggStore *store, uint32 hash, int64 start, bool apart,
				 dsa_pointer old, const StringInfo entry)
{
	return sagg_store_put(store, table_name(hash, apart), slot_hash(store, hash, start, apart),
						  old, entry->data, entry->len);
}

void
sagg_session_bury(SaggStore *store, uint32 hash, int64 start, bool apart,
				  dsa_pointer version)
{
	sagg_store_bury(store, table_name(hash, apart), slot_hash(store, hash, start, apart), version);
}

void
sagg_session_restore(SaggStore *store, uint32 hash, int64 start, bool apart,
					 dsa_pointer old, const char *entry, Size len)
{
	sagg_store_load(store, table_name(hash, apart), slot_hash(store, hash, start, apart),
					old, entry, len);
}

void
sagg_session_forget(SaggStore *store, uint32 hash, int64 start, bool apart,
					dsa_pointer version)
{
	sagg_store_remove(store, table_name(hash, apart), slot_hash(store, hash, start, apart), version);
}
