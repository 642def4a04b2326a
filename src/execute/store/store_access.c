/*-------------------------------------------------------------------------
 *
 * store_access.c
 *	  Reads a store: entries and walks over them.
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

/*
 * Read what is out of a partition's sessions, which adds units.
 */
static void
enter_partition(SaggScan *scan, int partition)
{
	SaggStore  *store = scan->store;

	if (sagg_has_sessions(store) && !scan->known)
	{
		SaggUnit   *unit = sagg_store_unit(store, partition, SAGG_SESSIONS_UNIT);

		if (unit)
			sagg_unit_use(store, unit);
	}
	scan->partition = partition;
	scan->next_unit = store->header->partitions[partition].first;
}

static void
begin_scan(SaggScan *scan, SaggStore *store, int partition, int last_partition, bool known)
{
	scan->store = store;
	scan->known = known;
	scan->shared = false;
	scan->unit = NULL;
	scan->last_partition = last_partition;
	enter_partition(scan, partition);
}

/*
 * Begin a walk over all units of a store; the caller allocates "scan", and
 * need not end it. sagg_scan_next_unit follows.
 */
void
sagg_scan_store(SaggScan *scan, SaggStore *store)
{
	begin_scan(scan, store, 0, SAGG_STATE_PARTITIONS - 1, false);
}

/*
 * The same for who needs the units only, and entries of those that are in memory:
 * those that are out stay out.
 */
void
sagg_scan_known(SaggScan *scan, SaggStore *store)
{
	begin_scan(scan, store, 0, SAGG_STATE_PARTITIONS - 1, true);
}

/*
 * Begin a walk over the units of one partition.
 */
void
sagg_scan_partition(SaggScan *scan, SaggStore *store, int partition)
{
	begin_scan(scan, store, partition, partition, false);
}

/*
 * Begin a walk over the units of one partition that share a chain of the log, as
 * they will be after the commit.
 */
void
sagg_scan_shared(SaggScan *scan, SaggStore *store, int partition)
{
	begin_scan(scan, store, partition, partition, true);
	scan->shared = true;
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

	do
	{
		while (!DsaPointerIsValid(scan->next_unit))
		{
			if (scan->partition == scan->last_partition)
				return false;
			enter_partition(scan, scan->partition + 1);
		}
		scan->place = scan->next_unit;
		unit = SAGG_UNIT(scan->store, scan->place);
		scan->next_unit = unit->next;
	} while (scan->shared && (unit->log != SAGG_UNIT_SHARES ||
							  sagg_store_closes(scan->store, unit->start)));
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
	scan->known = scan->shared = false;
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

	if (unit == NULL)
		return false;
	if (scan->slot == 0 && !scan->known)
		sagg_unit_use(scan->store, scan->unit);
	if (scan->slot >= unit->nslots)
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
 * Count the groups of a stream, and the bytes they take.
 */
void
sagg_store_statistics(SaggStore *store, SaggStateSize *size)
{
	SaggScan	scan;

	memset(size, 0, sizeof(*size));
	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
		size->bytes += store->header->partitions[p].nbuckets * sizeof(dsa_pointer);
	sagg_scan_known(&scan, store);
	while (sagg_scan_next_unit(&scan))
	{
		const SaggUnit *unit = scan.unit;

		size->units++;
		size->groups += unit->nentries;
		size->bytes += sagg_unit_memory(unit);
		if (!unit->out)
			continue;
		size->units_out++;
		size->bytes_out += sagg_unit_memory(unit);
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
