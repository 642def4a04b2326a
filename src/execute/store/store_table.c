/*-------------------------------------------------------------------------
 *
 * store_table.c
 *	  Groups of a window in the store: look up, put, grow, remove.
 *
 * Every change is noted in the store's private undo log before it is made, and
 * all memory it needs is allocated before that; so whatever fails, undo finds
 * the store either unchanged or with the change noted.  What a batch removes
 * is buried: it stays until the batch is published.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "execute/execute_internal.h"

#define TABLE_INITIAL_SLOTS	8

/*
 * Where the search for a hash begins.  The batch's own table has its groups by
 * the lower bits, and they come from there in its order: the multiplication keeps
 * those that come next to each other apart.
 */
static inline uint32
first_slot(uint32 hash, uint32 nslots)
{
	return ((hash * (uint32) 0x9e3779b1) >> 8) & (nslots - 1);
}

#define FIRST_SLOT(table, hash)		first_slot(hash, (table)->nslots)

static dsa_pointer
allocate_slots(SaggStore *store, uint32 nslots)
{
	dsa_pointer result = sagg_store_allocate(store, nslots * sizeof(SaggSlotRef));
	SaggSlotRef *slots = dsa_get_address(store->area, result);

	for (uint32 i = 0; i < nslots; i++)
		slots[i].version = InvalidDsaPointer;
	return result;
}

/*
 * Go through the groups of a table with this hash.  "step" is the caller's, 0
 * at first.  Returns false when there are no more.
 */
bool
sagg_table_probe(SaggStore *store, SaggTable *table, uint32 hash,
				 uint32 *step, dsa_pointer *version)
{
	SaggSlotRef *slots;
	uint32		mask = table->nslots - 1;

	if (table->nslots == 0)
		return false;
	slots = SAGG_SLOTS(store, table);
	for (;;)
	{
		SaggSlotRef *slot = &slots[(FIRST_SLOT(table, hash) + *step) & mask];

		if (!DsaPointerIsValid(slot->version))
			return false;
		(*step)++;
		if (slot->hash != hash)
			continue;
		*version = slot->version;
		return true;
	}
}

static uint32
fold_start(int64 start)
{
	return (uint32) start ^ (uint32) (start >> 32);
}

/*
 * The same for those whose entries begin with "start", and perhaps a few others;
 * none but these are looked at.
 */
bool
sagg_table_probe_start(SaggStore *store, SaggTable *table, uint32 hash,
					   int64 start, uint32 *step, dsa_pointer *version)
{
	uint32		mask = table->nslots - 1;
	uint32		folded = fold_start(start);

	while (sagg_table_probe(store, table, hash, step, version))
	{
		if (SAGG_SLOTS(store, table)[(FIRST_SLOT(table, hash) + *step - 1) & mask].start == folded)
			return true;
	}
	*version = InvalidDsaPointer;
	return false;
}

/*
 * The slot of a version, or for an invalid one the slot where to put a new
 * group with this hash.
 */
static uint32
find_slot(SaggStore *store, const SaggTable *table, uint32 hash, dsa_pointer version)
{
	SaggSlotRef *slots = SAGG_SLOTS(store, table);
	uint32		mask = table->nslots - 1;
	uint32		i = FIRST_SLOT(table, hash);

	while (slots[i].version != version)
	{
		if (!DsaPointerIsValid(slots[i].version))
			elog(ERROR, "a stored group is not where it was");
		i = (i + 1) & mask;
	}
	return i;
}

static uint32
find_empty_slot(SaggSlotRef *slots, uint32 nslots, uint32 first)
{
	uint32		i = first;

	while (DsaPointerIsValid(slots[i].version))
		i = (i + 1) & (nslots - 1);
	return i;
}

/*
 * Make room in the undo log for a table and a record.
 */
static void
reserve_undo(SaggStore *store)
{
	if (store->ntables == store->max_tables)
	{
		uint32		max = Max(64, store->max_tables * 2);

		store->tables = store->tables ?
			repalloc_huge(store->tables, max * sizeof(SaggUndoTable)) :
			MemoryContextAlloc(store->memory, max * sizeof(SaggUndoTable));
		store->max_tables = max;
	}
	if (store->nrecords == store->max_records)
	{
		int64		max = Max(1024, store->max_records * 2);

		store->records = store->records ?
			repalloc_huge(store->records, max * sizeof(SaggUndoRecord)) :
			MemoryContextAlloc(store->memory, max * sizeof(SaggUndoRecord));
		store->max_records = max;
	}
}

/*
 * Note a table in the undo log, where there is room; returns its number there.
 */
static uint32
touch_table(SaggStore *store, int partition, dsa_pointer dp, bool created)
{
	SaggTable  *table = SAGG_TABLE(store, dp);
	SaggUndoTable *undo;

	if (table->touched > 0)
		return table->touched - 1;
	Assert(store->ntables < store->max_tables);
	undo = &store->tables[store->ntables];
	undo->table = dp;
	undo->partition = partition;
	undo->created = created;
	undo->resized_at = -1;
	undo->slots = table->slots;
	undo->nslots = table->nslots;
	undo->nentries = table->nentries;
	undo->bytes = table->bytes;
	table->touched = ++store->ntables;
	return table->touched - 1;
}

/*
 * The table of a window, made if need be, then without slots.
 */
static dsa_pointer
require_table(SaggStore *store, int partition, int64 start, bool undoable)
{
	dsa_pointer dp = sagg_directory_find(store, partition, start);

	if (DsaPointerIsValid(dp))
		return dp;
	dp = sagg_directory_add(store, partition, start);
	if (undoable)
		touch_table(store, partition, dp, true);
	return dp;
}

/*
 * Make room for one more group.  The slots from before the batch are kept for
 * undo.
 */
static void
grow_table(SaggStore *store, SaggTable *table, SaggUndoTable *undo)
{
	uint32		nslots = Max(TABLE_INITIAL_SLOTS, table->nslots * 2);
	dsa_pointer grown;
	SaggSlotRef *from;
	SaggSlotRef *to;

	if ((uint64) (table->nentries + 1) * 4 <= (uint64) table->nslots * 3)
		return;
	grown = allocate_slots(store, nslots);
	from = table->nslots > 0 ? SAGG_SLOTS(store, table) : NULL;
	to = dsa_get_address(store->area, grown);
	for (uint32 i = 0; i < table->nslots; i++)
	{
		uint32		first = first_slot(from[i].hash, nslots);

		if (DsaPointerIsValid(from[i].version))
			to[find_empty_slot(to, nslots, first)] = from[i];
	}
	if (undo && undo->resized_at < 0)
		undo->resized_at = store->nrecords;
	else if (table->nslots > 0)
		dsa_free(store->area, table->slots);
	table->slots = grown;
	table->nslots = nslots;
}

static dsa_pointer
make_version(SaggStore *store, dsa_pointer old, const char *entry, Size len)
{
	dsa_pointer dp = sagg_store_allocate(store, offsetof(SaggVersion, entry) + len);
	SaggVersion *version = SAGG_VERSION(store, dp);

	version->prev = old;
	version->len = len;
	memcpy(version->entry, entry, len);
	return dp;
}

static void
link_version(SaggStore *store, SaggTable *table, uint32 slot, uint32 hash,
			 dsa_pointer old, dsa_pointer version, Size len)
{
	SaggSlotRef *ref = &SAGG_SLOTS(store, table)[slot];
	int64		start;

	memcpy(&start, SAGG_VERSION(store, version)->entry, sizeof(start));
	ref->hash = hash;
	ref->start = fold_start(start);
	ref->version = version;
	table->bytes += len + sizeof(uint32);
	if (DsaPointerIsValid(old))
		table->bytes -= SAGG_VERSION(store, old)->len + sizeof(uint32);
	else
		table->nentries++;
}

/*
 * Give a group a new version, of "len" bytes at "entry", which are copied.
 * "old" is its present version, invalid for a new group.  The change can be
 * undone.  Returns the new version.  Raises ERRCODE_SAGG_STATE_LIMIT.
 */
dsa_pointer
sagg_store_put(SaggStore *store, int64 start, uint32 hash,
			   dsa_pointer old, const char *entry, Size len)
{
	int			partition = SAGG_PARTITION_OF(hash);
	dsa_pointer dp;
	SaggTable  *table;
	uint32		number;
	uint32		slot;
	dsa_pointer version;
	SaggUndoRecord *record;

	reserve_undo(store);
	dp = require_table(store, partition, start, true);
	table = SAGG_TABLE(store, dp);
	number = touch_table(store, partition, dp, false);
	grow_table(store, table, &store->tables[number]);
	slot = find_slot(store, table, hash, old);
	SAGG_FAILPOINT("store.changing");
	version = make_version(store, old, entry, len);

	record = &store->records[store->nrecords++];
	record->version = version;
	record->table = number;
	record->slot = slot;
	link_version(store, table, slot, hash, old, version, len);
	return version;
}

/*
 * Have the present version of a group removed, and the group with it, when the
 * batch is published.  Until then it stays where it is.
 */
void
sagg_store_bury(SaggStore *store, int64 start, uint32 hash, dsa_pointer version)
{
	SaggBuried *buried;

	if (store->nburied == store->max_buried)
	{
		int64		max = Max(256, store->max_buried * 2);

		store->buried = store->buried ?
			repalloc_huge(store->buried, max * sizeof(SaggBuried)) :
			MemoryContextAlloc(store->memory, max * sizeof(SaggBuried));
		store->max_buried = max;
	}
	buried = &store->buried[store->nburied++];
	buried->start = start;
	buried->hash = hash;
	buried->version = version;
	store->buried_bytes[SAGG_PARTITION_OF(hash)] +=
		SAGG_VERSION(store, version)->len + sizeof(uint32);
}

/*
 * Close the gap at slot "hole": later groups of the chain that would not be
 * found behind it move up.
 */
static void
empty_slot(SaggStore *store, SaggTable *table, uint32 hole)
{
	SaggSlotRef *slots = SAGG_SLOTS(store, table);
	uint32		mask = table->nslots - 1;

	for (uint32 i = (hole + 1) & mask; DsaPointerIsValid(slots[i].version); i = (i + 1) & mask)
	{
		uint32		home = FIRST_SLOT(table, slots[i].hash);

		if (((i - home) & mask) < ((i - hole) & mask))
			continue;
		slots[hole] = slots[i];
		hole = i;
	}
	slots[hole].version = InvalidDsaPointer;
}

/*
 * Free a group, and its table if that was the last one.  At once and for good:
 * for publish, and while a store is restored.
 */
void
sagg_store_remove(SaggStore *store, int64 start, uint32 hash, dsa_pointer version)
{
	int			partition = SAGG_PARTITION_OF(hash);
	dsa_pointer dp = sagg_directory_find(store, partition, start);
	SaggTable  *table = SAGG_TABLE(store, dp);

	table->nentries--;
	table->bytes -= SAGG_VERSION(store, version)->len + sizeof(uint32);
	empty_slot(store, table, find_slot(store, table, hash, version));
	dsa_free(store->area, version);
	if (table->nentries == 0)
		sagg_store_free_table(store, partition, dp);
}

/*
 * The same for a store that is being restored: at once and for good.  "old" is
 * freed.
 */
void
sagg_store_load(SaggStore *store, int64 start, uint32 hash,
				dsa_pointer old, const char *entry, Size len)
{
	SaggTable  *table = SAGG_TABLE(store,
								   require_table(store, SAGG_PARTITION_OF(hash),
												 start, false));
	uint32		slot;
	dsa_pointer version;

	grow_table(store, table, NULL);
	slot = find_slot(store, table, hash, old);
	version = make_version(store, InvalidDsaPointer, entry, len);
	link_version(store, table, slot, hash, old, version, len);
	if (DsaPointerIsValid(old))
		dsa_free(store->area, old);
}

/*
 * Free a table with all of its groups.
 */
void
sagg_store_free_table(SaggStore *store, int partition, dsa_pointer dp)
{
	SaggTable  *table = SAGG_TABLE(store, dp);

	sagg_directory_remove(store, partition, dp);
	if (table->nslots > 0)
	{
		SaggSlotRef *slots = SAGG_SLOTS(store, table);

		for (uint32 i = 0; i < table->nslots; i++)
		{
			if (DsaPointerIsValid(slots[i].version))
				dsa_free(store->area, slots[i].version);
		}
		dsa_free(store->area, table->slots);
	}
	dsa_free(store->area, dp);
}
