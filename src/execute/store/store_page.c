/*-------------------------------------------------------------------------
 *
 * store_page.c
 *	  Units of the store leave memory, and come back from the state log.
 *
 * Every committed entry is in the log, so a unit that no batch has changed
 * since the last commit leaves memory without being written: its entries are
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
 * Returns what has happened since the store was opened.
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
	unit->nentries = (uint32) known->entries;
	unit->bytes = known->bytes;
	unit->due = known->due;
	unit->used = -1;
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

	if (store->fetch == NULL || store->loading != NULL)
		elog(ERROR, "a unit of the state is not in memory");
	SAGG_FAILPOINT("store.fetch_before");
	store->loaded.partition = unit->partition;
	store->loaded.start = unit->start;
	store->loaded.entries = unit->nentries;
	store->loaded.bytes = unit->bytes;
	store->loaded.due = unit->due;
	header->undoable = false;
	store->loading = unit;
	unit->nentries = 0;
	unit->bytes = 0;
	store->fetch(store->fetch_arg, &store->loaded);
	SAGG_FAILPOINT("store.fetched");
	unit->out = false;
	unit->used = store->batch;
	store->loading = NULL;
	store->due[unit->partition].known = false;
	header->undoable = undoable;
	store->paging.loads++;
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
	SAGG_FAILPOINT("store.evicted");
}

/*
 * Returns whether a unit can be taken out of memory: sessions that are apart
 * go with the others.
 */
static bool
can_leave(const SaggStore *store, const SaggUnit *unit)
{
	return !unit->out && unit->touched == 0 && unit != store->loading && unit->nentries > 0 &&
		(!sagg_has_sessions(store) || unit->start == SAGG_SESSIONS_UNIT);
}

typedef struct Candidate
{
	int64		used;
	SaggUnit   *unit;
} Candidate;

static int
compare_used(const void *a, const void *b, void *arg)
{
	int64		x = ((const Candidate *) a)->used;
	int64		y = ((const Candidate *) b)->used;

	return x < y ? -1 : x > y;
}

/*
 * Take units out of memory until the others take no more than "bound", those
 * first that have not been used for longest.  Not within a batch.  Raises an
 * ERROR only where memory is exhausted.
 */
void
sagg_store_evict(SaggStore *store, Size bound)
{
	Candidate  *candidates = NULL;
	int			n = 0;
	int			max = 0;
	Size		memory = 0;
	SaggScan	scan;

	sagg_scan_known(&scan, store);
	while (sagg_scan_next_unit(&scan))
	{
		SaggUnit   *unit = scan.unit;

		if (!unit->out)
			memory += sagg_unit_memory(unit);
		if (!can_leave(store, unit))
			continue;
		if (n == max)
		{
			max = Max(64, max * 2);
			candidates = candidates ? repalloc_huge(candidates, max * sizeof(Candidate)) :
				palloc(max * sizeof(Candidate));
		}
		candidates[n].used = unit->used;
		candidates[n++].unit = unit;
	}
	if (memory > bound)
	{
		sagg_sort(candidates, n, sizeof(Candidate), compare_used, NULL);
		store->header->undoable = false;
		store->header->in_batch = true;
		for (int i = 0; i < n && memory > bound; i++)
		{
			memory -= Min(memory, sagg_unit_memory(candidates[i].unit));
			evict_unit(store, candidates[i].unit);
		}
		store->header->in_batch = false;
	}
	if (candidates)
		pfree(candidates);
}
