/*-------------------------------------------------------------------------
 *
 * store_unit.c
 *	  Groups of a window in the store: look up, put, grow, remove.
 *
 * Every change is noted in the store's private undo log before it is made, and
 * all memory it needs is allocated before that; so whatever fails, undo finds
 * the store either unchanged or with the change noted.  An entry that a batch
 * removes is buried: it stays until the batch is published.  While a change is
 * made, other processes cannot undo the store (store_undo.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "execute/store/store_internal.h"

#define TABLE_INITIAL_SLOTS	8

/*
 * Returns the slot where the search for a hash begins.  A batch's own table
 * orders its groups by the lower bits, and they come in that order: the
 * multiplication separates groups that come one after the other.
 */
static inline uint32
first_slot(uint32 hash, uint32 nslots)
{
	return ((hash * (uint32) 0x9e3779b1) >> 8) & (nslots - 1);
}

#define FIRST_SLOT(unit, hash)		first_slot(hash, (unit)->nslots)

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
 * Go through the groups of a unit with this hash.  "step" is allocated by the
 * caller, 0 at first.  Returns false when there are no more.
 */
bool
sagg_unit_probe(SaggStore *store, const SaggUnit *unit, uint32 hash,
				uint32 *step, SaggStored *stored)
{
	SaggSlotRef *slots;
	uint32		mask = unit->nslots - 1;

	if (unit->nslots == 0)
		return false;
	slots = SAGG_SLOTS(store, unit);
	for (;;)
	{
		SaggSlotRef *slot = &slots[(FIRST_SLOT(unit, hash) + *step) & mask];

		if (!DsaPointerIsValid(slot->version))
			return false;
		(*step)++;
		if (slot->hash != hash)
			continue;
		stored->place = slot->version;
		return true;
	}
}

/*
 * Prefetch the place where the search for a group in the store begins.
 */
void
sagg_store_fetch_place(SaggStore *store, int64 start, uint32 hash)
{
	const SaggUnit *unit = sagg_store_unit(store, SAGG_PARTITION_OF(hash), start);

	if (unit && unit->nslots > 0)
		__builtin_prefetch(&SAGG_SLOTS(store, unit)[FIRST_SLOT(unit, hash)]);
}

static uint32
fold_start(int64 start)
{
	return (uint32) start ^ (uint32) (start >> 32);
}

/*
 * Go through the groups of a unit with this hash whose entries begin with
 * "start", and perhaps a few others; no other entries are read.
 */
bool
sagg_unit_probe_start(SaggStore *store, const SaggUnit *unit, uint32 hash,
					  int64 start, uint32 *step, SaggStored *stored)
{
	uint32		mask = unit->nslots - 1;
	uint32		folded = fold_start(start);

	while (sagg_unit_probe(store, unit, hash, step, stored))
	{
		if (SAGG_SLOTS(store, unit)[(FIRST_SLOT(unit, hash) + *step - 1) & mask].start == folded)
			return true;
	}
	*stored = SAGG_NOT_STORED;
	return false;
}

/*
 * Returns the slot of a version, or for an invalid one the slot where a new
 * group with this hash goes.
 */
static uint32
find_slot(SaggStore *store, const SaggUnit *unit, uint32 hash, dsa_pointer version)
{
	SaggSlotRef *slots = SAGG_SLOTS(store, unit);
	uint32		mask = unit->nslots - 1;
	uint32		i = FIRST_SLOT(unit, hash);

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
 * Make room in the undo log for a unit and a record.
 */
static void
reserve_undo(SaggStore *store)
{
	if (store->nunits == store->max_units)
	{
		uint32		max = Max(64, store->max_units * 2);

		store->units = store->units ?
			repalloc_huge(store->units, max * sizeof(SaggUndoUnit)) :
			MemoryContextAlloc(store->memory, max * sizeof(SaggUndoUnit));
		store->max_units = max;
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
 * Note a unit in the undo log, which has room; returns its number there.
 */
static uint32
touch_unit(SaggStore *store, int partition, dsa_pointer dp, bool created)
{
	SaggUnit   *unit = SAGG_UNIT(store, dp);
	SaggUndoUnit *undo;

	if (unit->touched > 0)
		return unit->touched - 1;
	Assert(store->nunits < store->max_units);
	undo = &store->units[store->nunits];
	undo->unit = dp;
	undo->partition = partition;
	undo->resized_at = -1;
	unit->former_slots = unit->slots;
	unit->former_nslots = unit->nslots;
	unit->former_nentries = unit->nentries;
	unit->former_bytes = unit->bytes;
	unit->created = created;
	unit->resized = false;
	unit->next_touched = store->header->touched;
	store->header->touched = dp;
	unit->touched = ++store->nunits;
	return unit->touched - 1;
}

/*
 * Returns the unit of a window; makes one without slots if there is none.
 */
static dsa_pointer
require_unit(SaggStore *store, int partition, int64 start, bool undoable)
{
	dsa_pointer dp = sagg_directory_find(store, partition, start);

	if (DsaPointerIsValid(dp))
		return dp;
	dp = sagg_directory_add(store, partition, start);
	if (undoable)
		touch_unit(store, partition, dp, true);
	return dp;
}

/*
 * Make room for one more group.  The slots from before the batch are kept for
 * undo.
 */
static void
grow_unit(SaggStore *store, SaggUnit *unit, SaggUndoUnit *undo)
{
	uint32		nslots = Max(TABLE_INITIAL_SLOTS, unit->nslots * 2);
	dsa_pointer grown;
	SaggSlotRef *from;
	SaggSlotRef *to;

	if ((uint64) (unit->nentries + 1) * 4 <= (uint64) unit->nslots * 3)
		return;
	grown = allocate_slots(store, nslots);
	from = unit->nslots > 0 ? SAGG_SLOTS(store, unit) : NULL;
	to = dsa_get_address(store->area, grown);
	for (uint32 i = 0; i < unit->nslots; i++)
	{
		uint32		first = first_slot(from[i].hash, nslots);

		if (DsaPointerIsValid(from[i].version))
			to[find_empty_slot(to, nslots, first)] = from[i];
	}
	if (undo && undo->resized_at < 0)
	{
		undo->resized_at = store->nrecords;
		unit->resized = true;
	}
	else if (unit->nslots > 0)
		dsa_free(store->area, unit->slots);
	unit->slots = grown;
	unit->nslots = nslots;
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
link_version(SaggStore *store, SaggUnit *unit, uint32 slot, uint32 hash,
			 dsa_pointer old, dsa_pointer version, Size len)
{
	SaggSlotRef *ref = &SAGG_SLOTS(store, unit)[slot];
	int64		start;

	memcpy(&start, SAGG_VERSION(store, version)->entry, sizeof(start));
	ref->hash = hash;
	ref->start = fold_start(start);
	ref->version = version;
	unit->bytes += len + sizeof(uint32);
	if (DsaPointerIsValid(old))
		unit->bytes -= SAGG_VERSION(store, old)->len + sizeof(uint32);
	else
		unit->nentries++;
}

/*
 * Give a group a new version: "len" bytes at "entry", which are copied. "old"
 * is its present version, invalid for a new group.  The change can be undone.
 * Returns the new version.  Raises ERRCODE_SAGG_STATE_LIMIT.
 */
SaggStored
sagg_store_put(SaggStore *store, int64 start, uint32 hash,
			   SaggStored old, const char *entry, Size len)
{
	int			partition = SAGG_PARTITION_OF(hash);
	dsa_pointer dp;
	SaggUnit   *unit;
	uint32		number;
	uint32		slot;
	dsa_pointer version;
	SaggUndoRecord *record;
	SaggStoreHeader *header = store->header;
	bool		undoable = header->undoable;

	reserve_undo(store);
	header->undoable = false;
	dp = require_unit(store, partition, start, true);
	unit = SAGG_UNIT(store, dp);
	number = touch_unit(store, partition, dp, false);
	grow_unit(store, unit, &store->units[number]);
	slot = find_slot(store, unit, hash, old.place);
	SAGG_FAILPOINT("store.changing");
	version = make_version(store, sagg_is_stored(old) ? old.place : SAGG_NO_VERSION,
						   entry, len);

	record = &store->records[store->nrecords++];
	record->version = version;
	record->unit = number;
	record->slot = slot;
	link_version(store, unit, slot, hash, old.place, version, len);
	header->undoable = undoable;
	return sagg_stored_at(version);
}

/*
 * Remove a group, with its present version, when the batch is published.
 * Until then it stays in place.
 */
void
sagg_store_bury(SaggStore *store, int64 start, uint32 hash, SaggStored stored)
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
	buried->stored = stored;
	store->buried_bytes[SAGG_PARTITION_OF(hash)] +=
		SAGG_VERSION(store, stored.place)->len + sizeof(uint32);
}

/*
 * Close the gap at slot "hole": later groups of the chain, which could not be
 * found behind it, move up.
 */
static void
empty_slot(SaggStore *store, SaggUnit *unit, uint32 hole)
{
	SaggSlotRef *slots = SAGG_SLOTS(store, unit);
	uint32		mask = unit->nslots - 1;

	for (uint32 i = (hole + 1) & mask; DsaPointerIsValid(slots[i].version); i = (i + 1) & mask)
	{
		uint32		home = FIRST_SLOT(unit, slots[i].hash);

		if (((i - home) & mask) < ((i - hole) & mask))
			continue;
		slots[hole] = slots[i];
		hole = i;
	}
	slots[hole].version = InvalidDsaPointer;
}

/*
 * Free a group, and its unit if that was the last one.  Takes effect at once
 * and cannot be undone: for publish, and while a store is restored.
 */
void
sagg_store_remove(SaggStore *store, int64 start, uint32 hash, SaggStored stored)
{
	int			partition = SAGG_PARTITION_OF(hash);
	dsa_pointer dp = sagg_directory_find(store, partition, start);
	SaggUnit   *unit = SAGG_UNIT(store, dp);

	unit->nentries--;
	unit->bytes -= SAGG_VERSION(store, stored.place)->len + sizeof(uint32);
	empty_slot(store, unit, find_slot(store, unit, hash, stored.place));
	dsa_free(store->area, stored.place);
	if (unit->nentries == 0)
		sagg_store_free_unit(store, partition, dp);
}

/*
 * Put a version while a store is restored: takes effect at once and cannot be
 * undone. "old" is freed.
 */
void
sagg_store_load(SaggStore *store, int64 start, uint32 hash,
				SaggStored old, const char *entry, Size len)
{
	SaggUnit   *unit = SAGG_UNIT(store,
								 require_unit(store, SAGG_PARTITION_OF(hash),
											  start, false));
	uint32		slot;
	dsa_pointer version;

	grow_unit(store, unit, NULL);
	slot = find_slot(store, unit, hash, old.place);
	version = make_version(store, InvalidDsaPointer, entry, len);
	link_version(store, unit, slot, hash, old.place, version, len);
	if (sagg_is_stored(old))
		dsa_free(store->area, old.place);
}

/*
 * Free a unit with all of its groups.
 */
void
sagg_store_free_unit(SaggStore *store, int partition, dsa_pointer dp)
{
	SaggUnit   *unit = SAGG_UNIT(store, dp);

	sagg_directory_remove(store, partition, dp);
	if (unit->nslots > 0)
	{
		SaggSlotRef *slots = SAGG_SLOTS(store, unit);

		for (uint32 i = 0; i < unit->nslots; i++)
		{
			if (DsaPointerIsValid(slots[i].version))
				dsa_free(store->area, slots[i].version);
		}
		dsa_free(store->area, unit->slots);
	}
	dsa_free(store->area, dp);
}
