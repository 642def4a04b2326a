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

/* the place behind the last change of a unit */
#define NO_RECORD	(-1)

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
 * The same for who needs the units only, not their entries: those that are out
 * stay out.
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
		enter_partition(scan, scan->partition + 1);
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

	if (unit == NULL)
		return false;
	if (scan->slot == 0)
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
 * Fill in the sessions of a partition, as they will be after the commit.
 * Returns whether the batch has changed them, and not handed them over already.
 */
bool
sagg_sessions_state(SaggStore *store, int partition, SaggStateUnit *state)
{
	bool		changed = store->buried_entries[partition] > 0;

	memset(state, 0, sizeof(*state));
	state->partition = partition;
	state->start = SAGG_SESSIONS_UNIT;
	for (dsa_pointer dp = store->header->partitions[partition].first; DsaPointerIsValid(dp);
		 dp = SAGG_UNIT(store, dp)->next)
	{
		const SaggUnit *unit = SAGG_UNIT(store, dp);

		if (unit->spilled)
			return false;
		changed |= unit->touched > 0;
		state->entries += unit->nentries;
		state->bytes += unit->bytes;
	}
	state->entries -= store->buried_entries[partition];
	state->bytes -= store->buried_bytes[partition];
	state->due = sagg_due_first_of(store, partition);
	return changed;
}

/*
 * Pass the sessions of all partitions that the batch has changed to "fn".
 */
static void
session_units(SaggStore *store, SaggUnitFn fn, void *fnarg)
{
	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
	{
		SaggStateUnit state;

		if (sagg_sessions_state(store, p, &state))
			fn(fnarg, &state);
	}
}

/*
 * Pass units to "fn": those that the batch has changed, as they will be after
 * the commit, and without entries those that it closes.
 */
void
sagg_store_units(SaggStore *store, SaggUnitFn fn, void *fnarg)
{
	SaggScan	scan;

	if (sagg_has_sessions(store))
	{
		session_units(store, fn, fnarg);
		return;
	}
	sagg_scan_known(&scan, store);
	while (sagg_scan_next_unit(&scan))
	{
		const SaggUnit *unit = scan.unit;
		bool		closes = sagg_store_closes(store, unit->start);
		SaggStateUnit known = {.partition = unit->partition, .start = unit->start,
			.due = DT_NOEND
		};

		/* what is spilled has been handed over */
		if ((unit->touched == 0 || unit->spilled) && !closes)
			continue;
		if (!closes)
		{
			known.entries = unit->nentries;
			known.bytes = unit->bytes;
		}
		fn(fnarg, &known);
	}
}

/*
 * Returns the place of the first change of a unit, or NO_RECORD.
 */
static int64
first_record(SaggStore *store, const SaggStateUnit *known)
{
	const SaggUnit *unit = sagg_store_unit(store, known->partition, known->start);
	int64		first = 0;

	if (sagg_has_sessions(store))
		first = store->sessions[known->partition].first;
	else if (unit && unit->touched > 0)
		first = store->units[unit->touched - 1].records.first;
	return first > 0 ? first : NO_RECORD;
}

/*
 * Find the next entry of a unit that the batch has put, or of the sessions of
 * a partition.  "place" is allocated by the caller, and 0 at first.  Returns
 * false when there are no more.
 */
bool
sagg_store_next_change(SaggStore *store, const SaggStateUnit *known, int64 *place,
					   SaggChange *change)
{
	const SaggUndoRecord *record;
	const SaggVersion *version;

	CHECK_FOR_INTERRUPTS();
	if (*place == 0)
		*place = first_record(store, known);
	if (*place == NO_RECORD)
		return false;
	record = &store->records[*place - 1];
	version = SAGG_VERSION(store, record->version);
	change->entry = sagg_store_entry(store, sagg_stored_at(record->version));
	if (DsaPointerIsValid(sagg_version_before(version)))
		change->before = sagg_store_entry(store, sagg_stored_at(version->prev));
	else
		memset(&change->before, 0, sizeof(change->before));
	change->salt = record->slot;
	*place = record->next > 0 ? record->next : NO_RECORD;
	return true;
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
