/*-------------------------------------------------------------------------
 *
 * store_access.c
 *	  Reads a store: entries, walks over them, what a batch has changed.
 *
 * Never changes a store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "execute/store/store_internal.h"

/*
 * Returns the bytes of a stored entry, in place; they must not be changed.
 */
SaggEntry
sagg_store_entry(SaggStore *store, SaggStored stored)
{
	const SaggVersion *version = SAGG_VERSION(store, stored.place);
	SaggEntry	entry = {version->entry, version->len};

	return entry;
}

/*
 * Hint that an entry will be read soon.
 */
void
sagg_store_prefetch(SaggStore *store, SaggStored stored)
{
	const char *version = dsa_get_address(store->area, stored.place);

	__builtin_prefetch(version);
	__builtin_prefetch(version + 64);
}

static void
begin_scan(SaggScan *scan, SaggStore *store, int partition, int last_partition)
{
	scan->store = store;
	scan->unit = NULL;
	scan->partition = partition;
	scan->last_partition = last_partition;
	scan->next_unit = store->header->partitions[partition].first;
}

/*
 * Begin a walk over all units of a store; the caller allocates "scan", and
 * need not end it. sagg_scan_next_unit follows.
 */
void
sagg_scan_store(SaggScan *scan, SaggStore *store)
{
	begin_scan(scan, store, 0, SAGG_STATE_PARTITIONS - 1);
}

/*
 * Begin a walk over the units of one partition.
 */
void
sagg_scan_partition(SaggScan *scan, SaggStore *store, int partition)
{
	begin_scan(scan, store, partition, partition);
}

static void
enter_unit(SaggScan *scan, SaggUnit *unit)
{
	scan->unit = unit;
	scan->start = unit->start;
	scan->slot = 0;
}

/*
 * Go to the next unit; sagg_scan_next returns its entries, which may be
 * skipped.  The unit before it may have been freed.  Returns false when there
 * are no more.
 */
bool
sagg_scan_next_unit(SaggScan *scan)
{
	SaggUnit   *unit;

	while (!DsaPointerIsValid(scan->next_unit))
	{
		if (scan->partition == scan->last_partition)
			return false;
		scan->next_unit = scan->store->header->partitions[++scan->partition].first;
	}
	scan->place = scan->next_unit;
	unit = SAGG_UNIT(scan->store, scan->place);
	scan->next_unit = unit->next;
	enter_unit(scan, unit);
	return true;
}

/*
 * Begin a walk over the entries of one unit, for sagg_scan_next only; NULL has
 * no entries.
 */
void
sagg_scan_unit(SaggScan *scan, SaggStore *store, SaggUnit *unit)
{
	scan->store = store;
	scan->unit = NULL;
	if (unit)
		enter_unit(scan, unit);
}

/*
 * Go to the next entry of the current unit.  Returns false when there are no
 * more.
 */
bool
sagg_scan_next(SaggScan *scan)
{
	const SaggUnit *unit = scan->unit;
	const SaggSlotRef *slots;

	if (unit == NULL || scan->slot >= unit->nslots)
		return false;
	CHECK_FOR_INTERRUPTS();
	slots = SAGG_SLOTS(scan->store, unit);
	while (scan->slot < unit->nslots)
	{
		const SaggSlotRef *slot = &slots[scan->slot++];

		if (DsaPointerIsValid(slot->version))
		{
			scan->stored.place = slot->version;
			scan->hash = slot->hash;
			return true;
		}
	}
	return false;
}

/*
 * Find the next entry of a partition that the batch has put.  "place" is
 * allocated by the caller, and 0 at first.  Returns false when there are no
 * more.
 */
bool
sagg_store_next_change(SaggStore *store, int partition, int64 *place, SaggChange *change)
{
	while (*place < store->nrecords)
	{
		const SaggUndoRecord *record = &store->records[(*place)++];
		const SaggVersion *version;

		CHECK_FOR_INTERRUPTS();
		if (store->units[record->unit].partition != partition)
			continue;
		version = SAGG_VERSION(store, record->version);
		change->entry = sagg_store_entry(store, sagg_stored_at(record->version));
		if (DsaPointerIsValid(sagg_version_before(version)))
			change->before = sagg_store_entry(store, sagg_stored_at(version->prev));
		else
			memset(&change->before, 0, sizeof(change->before));
		change->salt = record->slot;
		return true;
	}
	return false;
}

/*
 * Returns the bytes of a partition's entries that will exist after the commit,
 * each with a length word.
 */
Size
sagg_store_live_bytes(SaggStore *store, int partition)
{
	Size		bytes = 0;
	SaggScan	scan;

	sagg_scan_partition(&scan, store, partition);
	while (sagg_scan_next_unit(&scan))
	{
		if (!sagg_store_closes(store, scan.start))
			bytes += scan.unit->bytes;
	}
	return bytes - store->buried_bytes[partition];
}

/*
 * Count the groups in the store, and the bytes they take in it.
 */
void
sagg_store_statistics(SaggStore *store, int64 *groups, int64 *bytes)
{
	SaggScan	scan;

	*groups = 0;
	*bytes = 0;
	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
		*bytes += store->header->partitions[p].nbuckets * sizeof(dsa_pointer);
	sagg_scan_store(&scan, store);
	while (sagg_scan_next_unit(&scan))
	{
		const SaggUnit *unit = scan.unit;

		*groups += unit->nentries;
		*bytes += unit->bytes + sizeof(SaggUnit) +
			unit->nentries * offsetof(SaggVersion, entry) +
			unit->nslots * sizeof(SaggSlotRef);
	}
}

/*
 * Returns about how many bytes an entry takes in a store besides its own.
 */
Size
sagg_store_overhead(void)
{
	return offsetof(SaggVersion, entry) + sizeof(SaggSlotRef) * 3 / 2;
}
