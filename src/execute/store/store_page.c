/*-------------------------------------------------------------------------
 *
 * store_page.c
 *	  Units of the store leave memory, and come back from the state log.
 *
 * Every committed entry is in the log, so a unit that no batch has changed
 * since the last commit, and that has a chain of its own there, leaves memory
 * without being written: its entries are
 * freed, and the unit itself stays, with its size and, for sessions, when the
 * first of them may be over.  Whoever needs its entries next makes the store
 * read them again; a store that is new begins with units that are out.
 *
 * All sessions of a partition leave and come back together, because where they
 * are in the store depends on its secret (session_store.c); the unit
 * SAGG_SESSIONS_UNIT stands for them.
 *
 * A unit that could not be read to its end is out again after the undo.  While
 * units leave or are read, other processes cannot undo the store (I3).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "execute/store/store_internal.h"
#include "execute/window/session_windows.h"

/*
 * Set the function that reads a unit from the log, by sagg_store_add_known and
 * the functions of store_unit.c that restore.  NULL: no unit may be needed that
 * is out.
 */
void
sagg_store_fetch_by(SaggStore *store, SaggUnitFn fetch, void *arg)
{
	store->fetch = fetch;
	store->fetch_arg = arg;
}

/*
 * Bound the memory of units; SIZE_MAX = no bound.  Units leave when the bound is
 * exceeded between batches, or when another unit is read.  Units that a batch
 * has used stay until the execution lets them go.
 */
void
sagg_store_bound(SaggStore *store, Size bound)
{
	store->bound = bound;
}

bool
sagg_store_is_bounded(const SaggStore *store)
{
	return store->bound != SIZE_MAX;
}

/*
 * Returns whether units take more memory than they should.
 */
bool
sagg_store_is_over(const SaggStore *store)
{
	return store->resident > store->bound;
}

bool
sagg_unit_in_memory(const SaggUnit *unit)
{
	return !unit->out;
}

/*
 * Returns what has happened since the batch began.
 */
SaggPaging
sagg_store_paging(const SaggStore *store)
{
	return store->paging;
}

/*
 * Returns the memory that a unit takes.
 */
Size
sagg_unit_memory(const SaggUnit *unit)
{
	return sizeof(SaggUnit) + unit->bytes +
		unit->nentries * offsetof(SaggVersion, entry) + unit->nslots * sizeof(SaggSlotRef);
}

/*
 * Add a unit that is in the log, to a store that is being restored.
 */
void
sagg_store_add_known(SaggStore *store, const SaggStateUnit *known)
{
	SaggUnit   *unit = SAGG_UNIT(store, sagg_directory_add(store, known->partition,
														   known->start));

	unit->out = true;
	unit->log = SAGG_UNIT_OWN;
	unit->nentries = (uint32) known->entries;
	unit->bytes = known->bytes;
	unit->due = known->due;
	unit->used = -1;
}

/*
 * Free the entries of a unit, and of those that stand beside it.
 */
static void
free_entries(SaggStore *store, SaggUnit *unit)
{
	int			partition = unit->partition;
	dsa_pointer next;

	sagg_unit_free_entries(store, unit);
	if (!sagg_has_sessions(store))
		return;
	for (dsa_pointer dp = store->header->partitions[partition].first; DsaPointerIsValid(dp); dp = next)
	{
		next = SAGG_UNIT(store, dp)->next;
		if (SAGG_UNIT(store, dp) != unit)
			sagg_store_free_unit(store, partition, dp);
	}
}

/*
 * Returns the memory of the entries of a unit, and of those that stand beside
 * it.
 */
static Size
entries_memory(SaggStore *store, const SaggUnit *unit)
{
	Size		memory = 0;

	if (!sagg_has_sessions(store))
		return sagg_unit_memory(unit);
	for (dsa_pointer dp = store->header->partitions[unit->partition].first; DsaPointerIsValid(dp);
		 dp = SAGG_UNIT(store, dp)->next)
		memory += sagg_unit_memory(SAGG_UNIT(store, dp));
	return memory;
}

/*
 * Add up the sessions of a partition in its unit of all sessions, which is to
 * stand for them.
 */
static void
add_up_sessions(SaggStore *store, SaggUnit *unit)
{
	int64		entries = 0;
	uint64		bytes = 0;
	SaggScan	scan;

	unit->due = DT_NOEND;
	sagg_scan_partition(&scan, store, unit->partition);
	while (sagg_scan_next_unit(&scan))
	{
		entries += scan.unit->nentries;
		bytes += scan.unit->bytes;
		while (sagg_scan_next(&scan))
			unit->due = Min(unit->due, sagg_entry_end(sagg_store_entry(store, scan.stored).data));
	}
	unit->nentries = (uint32) Min(entries, PG_UINT32_MAX);
	unit->bytes = bytes;
}

/*
 * Take the entries of a unit out of memory; they are in the log.
 */
static void
evict_unit(SaggStore *store, SaggUnit *unit)
{
	uint32		nentries;
	uint64		bytes;

	store->resident -= Min(store->resident, entries_memory(store, unit));
	if (sagg_has_sessions(store))
		add_up_sessions(store, unit);
	nentries = unit->nentries;
	bytes = unit->bytes;
	free_entries(store, unit);
	unit->nentries = nentries;
	unit->bytes = bytes;
	unit->out = true;
	store->due[unit->partition].known = false;
	store->paging.evictions++;
	SAGG_FAILPOINT("store.unit_left");
}

/*
 * Returns whether a unit can be taken out of memory, and the log can give it back
 * by itself: sessions that are apart go with the others.
 */
static bool
can_leave(const SaggStore *store, const SaggUnit *unit)
{
	return !unit->out && unit->touched == 0 && unit->log == SAGG_UNIT_OWN &&
		unit != store->loading && unit->nentries > 0 &&
		(!sagg_has_sessions(store) || unit->start == SAGG_SESSIONS_UNIT);
}

static int
compare_used(const void *a, const void *b, void *arg)
{
	int64		x = ((const SaggCandidate *) a)->used;
	int64		y = ((const SaggCandidate *) b)->used;

	return x < y ? -1 : x > y;
}

/*
 * Find the units that satisfy "fits", those first that have not been used for
 * longest, as store->candidates.
 */
void
sagg_store_find_candidates(SaggStore *store, bool (*fits) (const SaggStore *store, const SaggUnit *unit))
{
	int			max = 64;
	SaggScan	scan;

	store->candidates = MemoryContextAlloc(store->memory, max * sizeof(SaggCandidate));
	store->ncandidates = store->next_candidate = 0;
	sagg_scan_known(&scan, store);
	while (sagg_scan_next_unit(&scan))
	{
		if (!fits(store, scan.unit))
			continue;
		if (store->ncandidates == max)
			store->candidates = repalloc_huge(store->candidates,
											  (max *= 2) * sizeof(SaggCandidate));
		store->candidates[store->ncandidates].used = scan.unit->used;
		store->candidates[store->ncandidates++].unit = scan.unit;
	}
	sagg_sort(store->candidates, store->ncandidates, sizeof(SaggCandidate), compare_used, NULL);
	store->sought = true;
}

/*
 * Add up the memory of the units that are not out.
 */
void
sagg_store_measure(SaggStore *store)
{
	SaggScan	scan;

	store->resident = 0;
	sagg_scan_known(&scan, store);
	while (sagg_scan_next_unit(&scan))
	{
		if (!scan.unit->out)
			store->resident += sagg_unit_memory(scan.unit);
	}
}

/*
 * Take units out of memory that the batch has not used, until there is room
 * for "need" bytes, as far as there are any.
 */
static void
make_room(SaggStore *store, Size need)
{
	if (store->resident + need <= store->bound)
		return;
	if (!store->sought)
		sagg_store_find_candidates(store, can_leave);
	while (store->resident + need > store->bound && store->next_candidate < store->ncandidates)
	{
		SaggUnit   *unit = store->candidates[store->next_candidate++].unit;

		if (unit->used < store->batch && can_leave(store, unit))
			evict_unit(store, unit);
	}
}

/*
 * Read the entries of a unit that is out.  Raises the errors of the function
 * that reads, and ERRCODE_SAGG_STATE_LIMIT.
 */
void
sagg_unit_fetch(SaggStore *store, SaggUnit *unit)
{
	SaggStoreHeader *header = store->header;
	bool		undoable = header->undoable;

	if (store->fetch == NULL || store->loading != NULL || unit->spilled)
		elog(ERROR, "a unit of the state is not in memory");
	SAGG_FAILPOINT("store.fetch_before");
	store->loaded.partition = unit->partition;
	store->loaded.start = unit->start;
	store->loaded.entries = unit->nentries;
	store->loaded.bytes = unit->bytes;
	store->loaded.due = unit->due;
	header->undoable = false;
	make_room(store, unit->bytes + unit->nentries * sagg_store_overhead());
	store->loading = unit;
	unit->nentries = 0;
	unit->bytes = 0;
	store->fetch(store->fetch_arg, &store->loaded);
	SAGG_FAILPOINT("store.fetched");
	unit->out = false;
	unit->used = store->batch;
	store->loading = NULL;
	store->due[unit->partition].known = false;
	store->resident += entries_memory(store, unit);
	header->undoable = undoable;
	store->paging.loads++;
}

/*
 * The unit that is being read is not read to its end: it stays out.
 */
void
sagg_unit_stop_fetch(SaggStore *store)
{
	SaggUnit   *unit = store->loading;

	if (unit == NULL)
		return;
	free_entries(store, unit);
	unit->nentries = (uint32) store->loaded.entries;
	unit->bytes = store->loaded.bytes;
	store->loading = NULL;
}

/*
 * A batch has been published: take units out of memory until the others take
 * no more than the bound, those first that have not been used for longest.
 * Raises an ERROR only where memory is exhausted.
 */
void
sagg_store_evict(SaggStore *store)
{
	if (!sagg_store_is_bounded(store))
		return;
	sagg_store_measure(store);
	if (store->resident <= store->bound)
		return;
	sagg_store_find_candidates(store, can_leave);
	store->header->undoable = false;
	store->header->in_batch = true;
	for (int i = 0; i < store->ncandidates && store->resident > store->bound; i++)
		evict_unit(store, store->candidates[i].unit);
	store->header->in_batch = false;
	sagg_store_forget_changes(store);
}

/*
 * Let go a unit that the batch has used and not changed, or its partition's
 * sessions.
 */
void
sagg_unit_leave(SaggStore *store, SaggUnit *unit)
{
	SaggStoreHeader *header = store->header;
	bool		undoable = header->undoable;

	if (!can_leave(store, unit))
		return;
	header->undoable = false;
	evict_unit(store, unit);
	header->undoable = undoable;
}

/*
 * Free the before-images of a unit's entries, and what its records know.
 */
static void
forget_records(SaggStore *store, SaggRecordList *list)
{
	for (int64 i = list->first; i > 0; i = store->records[i - 1].next)
	{
		SaggUndoRecord *record = &store->records[i - 1];
		dsa_pointer before = sagg_version_before(SAGG_VERSION(store, record->version));

		if (DsaPointerIsValid(before))
			dsa_free(store->area, before);
		record->version = InvalidDsaPointer;
	}
	list->first = list->last = 0;
}

static void
free_former_slots(SaggStore *store, SaggUnit *unit)
{
	if (unit->touched > 0 && unit->resized && unit->former_nslots > 0)
		dsa_free(store->area, unit->former_slots);
	unit->resized = false;
}

/*
 * Make the unit of all sessions of a partition stand for them, also in the
 * undo log, which forgets the units that are beside it.
 */
static void
gather_sessions(SaggStore *store, SaggUnit *unit)
{
	SaggStoreHeader *header = store->header;
	int64		former_entries = 0;
	uint64		former_bytes = 0;
	dsa_pointer *link = &header->touched;
	int64		nburied = 0;

	for (dsa_pointer dp = header->partitions[unit->partition].first; DsaPointerIsValid(dp);
		 dp = SAGG_UNIT(store, dp)->next)
	{
		SaggUnit   *other = SAGG_UNIT(store, dp);

		former_entries += other->touched > 0 ? other->former_nentries : other->nentries;
		former_bytes += other->touched > 0 ? other->former_bytes : other->bytes;
		free_former_slots(store, other);
		if (other->touched > 0 && other != unit)
			store->units[other->touched - 1].unit = InvalidDsaPointer;
	}
	while (DsaPointerIsValid(*link))
	{
		SaggUnit   *other = SAGG_UNIT(store, *link);

		if (other->partition == unit->partition && other != unit)
			*link = other->next_touched;
		else
			link = &other->next_touched;
	}
	unit->former_nentries = (uint32) Min(former_entries, PG_UINT32_MAX);
	unit->former_bytes = former_bytes;
	for (int64 i = 0; i < store->nburied; i++)
	{
		if (SAGG_PARTITION_OF(store->buried[i].hash) != unit->partition)
			store->buried[nburied++] = store->buried[i];
	}
	store->nburied = nburied;
	store->buried_entries[unit->partition] = 0;
	store->buried_bytes[unit->partition] = 0;
}

/*
 * Take a unit out of memory that the batch has changed, or the sessions of its
 * partition: the changes have been handed to CHECKPOINT.  When the batch is
 * undone, the unit is out as of the last commit; if the log cannot give it back
 * by itself, the store has to be discarded.
 */
void
sagg_unit_drop(SaggStore *store, SaggUnit *unit)
{
	SaggStoreHeader *header = store->header;
	bool		undoable = header->undoable;
	SaggStateUnit state;
	SaggUndoUnit *undo;

	(void) sagg_unit_state(store, unit, &state);
	sagg_unit_touch(store, unit);
	undo = &store->units[unit->touched - 1];
	header->undoable = false;
	if (unit->log != SAGG_UNIT_OWN)
	{
		unit->log = SAGG_UNIT_MOVES;
		store->lost |= !unit->created;
	}
	forget_records(store, sagg_records_of(store, unit->partition, undo));
	store->resident -= Min(store->resident, entries_memory(store, unit));
	if (sagg_has_sessions(store))
		gather_sessions(store, unit);
	else
		free_former_slots(store, unit);
	free_entries(store, unit);
	unit->nentries = (uint32) Min(state.entries, PG_UINT32_MAX);
	unit->bytes = state.bytes;
	unit->due = state.due;
	unit->out = unit->spilled = true;
	store->due[unit->partition].known = false;
	store->paging.evictions++;
	store->paging.spills++;
	SAGG_FAILPOINT("store.unit_left");
	header->undoable = undoable && !store->lost;
}
