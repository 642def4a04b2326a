/*-------------------------------------------------------------------------
 *
 * store.c
 *	  The state store: a stream's groups in dynamic shared memory.
 *
 * A store is a DSM segment that begins with a header, followed by a DSA area.
 * It is pinned, so it outlives its worker; only the holder of the stream's
 * lock changes it (I2).
 *
 * Outside of batches the store equals the last commit (I3).  A batch marks it,
 * links new versions of groups beside the old ones, and ends in publish, after
 * the commit, or in undo (store_undo.c).  Publish frees and never allocates,
 * so it cannot fail.  A store that is found marked is undone, if possible; if
 * not, or if its batch or definition is not that of the checkpoint, it is
 * discarded, and a new one is made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "execute/execute_internal.h"
#include "execute/store/store_internal.h"

#define STORE_MAGIC			0x53414753
#define STORE_INITIAL_SIZE	(256 * 1024)

#define STORE_PLACE_SIZE \
	(STORE_INITIAL_SIZE - MAXALIGN(sizeof(SaggStoreHeader)))

static SaggStore *
make_handle(dsm_segment *segment)
{
	SaggStore  *store = MemoryContextAllocZero(TopMemoryContext, sizeof(SaggStore));

	store->segment = segment;
	store->header = dsm_segment_address(segment);
	store->bound = SIZE_MAX;
	store->memory = AllocSetContextCreate(TopMemoryContext, "stream_agg undo",
										  ALLOCSET_DEFAULT_SIZES);
	return store;
}

/*
 * Initialize the header: no windows yet, and a secret of its own.
 */
void
sagg_store_init_header(SaggStoreHeader *header)
{
	header->touched = InvalidDsaPointer;
	for (int i = 0; i < SAGG_STATE_PARTITIONS; i++)
	{
		header->partitions[i].first = InvalidDsaPointer;
		header->partitions[i].buckets = InvalidDsaPointer;
	}
	sagg_hash_seed_make(&header->seed);
}

/*
 * Returns an empty store.
 */
static SaggStore *
create_store(dsa_handle *handle, int tranche_id, const SaggStoreBudget *budget,
			 const SaggQuery *query, int64 batch)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	dsm_segment *segment = sagg_store_create_segment(budget, STORE_INITIAL_SIZE);
	SaggStore  *store = make_handle(segment);

	memset(store->header, 0, sizeof(SaggStoreHeader));
	store->area = dsa_create_in_place(SAGG_STORE_PLACE(segment), STORE_PLACE_SIZE,
									  tranche_id, segment);
	store->header->size = STORE_PLACE_SIZE;
	dsa_set_size_limit(store->area, store->header->size);
	sagg_store_init_header(store->header);
	store->header->magic = STORE_MAGIC;
	store->header->fingerprint = query->store_fingerprint;
	store->header->identity = query->state_identity;
	store->header->batch = batch;
	store->header->in_batch = true; /* until the store is restored and
									 * published */
	dsa_pin(store->area);
	dsa_pin_mapping(store->area);
	dsm_pin_segment(segment);
	dsm_pin_mapping(segment);
	*handle = dsm_segment_handle(segment);
	MemoryContextSwitchTo(old);
	return store;
}

static SaggStore *
attach_store(dsa_handle handle)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	dsm_segment *segment = dsm_attach(handle);
	SaggStore  *store = NULL;

	if (segment)
	{
		store = make_handle(segment);
		store->area = dsa_attach_in_place(SAGG_STORE_PLACE(segment), segment);
		dsa_pin_mapping(store->area);
		dsm_pin_mapping(segment);
	}
	MemoryContextSwitchTo(old);
	return store;
}

/*
 * Returns whether a store is the state that "batch" left under a definition,
 * and everything that a batch after that may have changed can be undone.
 */
static bool
is_usable(const SaggStoreHeader *header, const SaggQuery *query, int64 batch)
{
	return header->magic == STORE_MAGIC &&
		(!header->in_batch || header->undoable) &&
		header->fingerprint == query->store_fingerprint &&
		memcmp(&header->identity, &query->state_identity, sizeof(SaggIdentity)) == 0 &&
		header->batch == batch;
}

/*
 * Undo the batch that another process has left in a store.  On an ERROR,
 * detaches from the store, which is then discarded by the next process to open
 * it.
 */
static void
undo_left(SaggStore *store)
{
	PG_TRY();
	{
		sagg_store_undo_left(store);
	}
	PG_CATCH();
	{
		sagg_store_close(store);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * Attach to the store behind "*handle", if it is the state that "batch" left
 * under the definition "query", with exactly the types and functions that this
 * now has, or can be undone to that; otherwise discard it and make an empty
 * one. "fresh" tells which: a fresh store has to be restored from the
 * checkpoint. "batch" is the last committed one, -1 = none yet. "tranche_id"
 * is for the area's locks, "budget" is asked before the store grows and must
 * live on.
 *
 * The caller holds the stream's lock, and frees the result by
 * sagg_store_close.  Raises ERRCODE_SAGG_STATE_LIMIT when there is no memory.
 */
SaggStore *
sagg_store_open(dsa_handle *handle, int tranche_id,
				const SaggStoreBudget *budget, const SaggQuery *query,
				int64 batch, bool *fresh)
{
	SaggStore  *store;

	*fresh = false;
	if (*handle != DSM_HANDLE_INVALID)
	{
		store = attach_store(*handle);
		if (store && is_usable(store->header, query, batch))
		{
			store->budget = budget;
			if (store->header->in_batch)
				undo_left(store);
			return store;
		}
		if (store)
			sagg_store_close(store);
		sagg_store_discard(handle);
	}
	*fresh = true;
	store = create_store(handle, tranche_id, budget, query, batch);
	store->budget = budget;
	return store;
}

/*
 * Detach from a store, which stays in shared memory, and free "store".
 */
void
sagg_store_close(SaggStore *store)
{
	dsa_detach(store->area);
	dsm_detach(store->segment);
	MemoryContextDelete(store->memory);
	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
	{
		if (store->due[p].items)
			pfree(store->due[p].items);
	}
	pfree(store);
}

/*
 * Free the store behind "*handle", if there is one, and set the handle to
 * DSM_HANDLE_INVALID.  This process must not have it open; other processes
 * keep it until they close it.
 */
void
sagg_store_discard(dsa_handle *handle)
{
	SaggStore  *store;

	if (*handle == DSM_HANDLE_INVALID)
		return;
	SAGG_FAILPOINT("store.discarding");
	store = attach_store(*handle);
	if (store)
	{
		dsa_unpin(store->area);
		dsm_unpin_segment(*handle);
		sagg_store_close(store);
	}
	*handle = DSM_HANDLE_INVALID;
}

/*
 * Note that a batch begins: from now on the store differs from the last
 * commit. "window" is that of the definition, and is copied.
 */
void
sagg_store_begin(SaggStore *store, int64 batch, const SaggWindow *window)
{
	Assert(store->nrecords == 0 && store->nunits == 0);

	/*
	 * a store that is being restored stays marked: nobody else could undo it
	 */
	if (!store->header->in_batch)
		store->header->undoable = true;
	store->header->in_batch = true;
	store->batch = batch;
	store->window = *window;
	store->bounds = sagg_window_bounds(&store->window);
	store->close_before = DT_NOBEGIN;
	memset(&store->paging, 0, sizeof(store->paging));
	if (sagg_store_is_bounded(store))
		sagg_store_measure(store);
}

/*
 * Windows that end until "time" are removed when the current batch is
 * published.
 */
void
sagg_store_close_until(SaggStore *store, TimestampTz time)
{
	store->close_before = time;
}

/*
 * Returns that time; DT_NOBEGIN = nothing is removed.
 */
TimestampTz
sagg_store_close_before(const SaggStore *store)
{
	return store->close_before;
}

/*
 * Returns the secret of the hashes of entries.  Lives as long as the store is
 * open.
 */
const SaggHashSeed *
sagg_store_seed(const SaggStore *store)
{
	return &store->header->seed;
}

/*
 * Copy the secret of another store, for entries that keep their hashes.  The
 * store must be empty.
 */
void
sagg_store_set_seed(SaggStore *store, const SaggHashSeed *seed)
{
	store->header->seed = *seed;
}

/*
 * Returns whether the current batch ends the window, or the last window of the
 * pane, that starts at "start".  Sessions end one by one, see session_close.c.
 */
bool
sagg_store_closes(const SaggStore *store, int64 start)
{
	return store->bounds->fixed &&
		sagg_window_end(&store->window, start) <= store->close_before;
}

/*
 * Returns the first end of the windows that the current batch does not end,
 * DT_NOEND = there are none.
 */
TimestampTz
sagg_store_next_end(SaggStore *store)
{
	TimestampTz next = DT_NOEND;
	SaggScan	scan;

	/* or a former end, of a session that has grown */
	if (store->window.kind == SAGG_WINDOW_SESSION)
		return sagg_due_first(store);

	if (!store->bounds->fixed)
		return next;
	sagg_scan_known(&scan, store);
	while (sagg_scan_next_unit(&scan))
	{
		if (!sagg_store_closes(store, scan.start))
			next = Min(next, store->bounds->next_end(&store->window, scan.start,
													 store->close_before));
	}
	return next;
}

/*
 * This process will neither publish nor undo the changes of the batch.
 */
void
sagg_store_forget_changes(SaggStore *store)
{
	MemoryContextReset(store->memory);
	store->records = NULL;
	store->units = NULL;
	store->nrecords = store->max_records = 0;
	store->nunits = store->max_units = 0;
	store->sought = false;
	store->candidates = NULL;
	store->ncandidates = store->next_candidate = 0;
	store->buried = NULL;
	store->nburied = store->max_buried = 0;
	memset(store->first_unit, 0, sizeof(store->first_unit));
	memset(store->last_unit, 0, sizeof(store->last_unit));
	store->lost = false;
	memset(store->sessions, 0, sizeof(store->sessions));
	memset(store->buried_bytes, 0, sizeof(store->buried_bytes));
	memset(store->buried_entries, 0, sizeof(store->buried_entries));
	store->close_before = DT_NOBEGIN;
}

/*
 * Free the windows that the batch has closed.
 */
static void
evict_closed(SaggStore *store)
{
	SaggScan	scan;

	sagg_scan_known(&scan, store);
	while (sagg_scan_next_unit(&scan))
	{
		if (sagg_store_closes(store, scan.start))
			sagg_store_free_unit(store, scan.partition, scan.place);
	}
}

/*
 * The batch is committed: its state becomes that of the store.  Frees
 * before-images, closed windows and buried entries.  Does not raise errors,
 * except when the system cannot map a segment of the area; the store stays
 * marked until the end, so that it is discarded in that case.
 */
void
sagg_store_publish(SaggStore *store)
{
	store->header->undoable = false;
	for (int64 i = 0; i < store->nrecords; i++)
	{
		SaggVersion *version;
		dsa_pointer before;

		/* of a unit that has left memory */
		if (!DsaPointerIsValid(store->records[i].version))
			continue;
		version = SAGG_VERSION(store, store->records[i].version);
		before = sagg_version_before(version);
		if (DsaPointerIsValid(before))
			dsa_free(store->area, before);
		version->prev = InvalidDsaPointer;
		SAGG_FAILPOINT("publish.version");
	}
	for (uint32 i = 0; i < store->nunits; i++)
	{
		SaggUnit   *unit;

		if (!DsaPointerIsValid(store->units[i].unit))
			continue;
		unit = SAGG_UNIT(store, store->units[i].unit);
		if (unit->resized && unit->former_nslots > 0)
			dsa_free(store->area, unit->former_slots);
		unit->spilled = false;
		unit->touched = 0;
		if (unit->log == SAGG_UNIT_MOVES)
			unit->log = SAGG_UNIT_OWN;
	}
	store->header->touched = InvalidDsaPointer;
	SAGG_FAILPOINT("publish.middle");
	evict_closed(store);
	for (int64 i = 0; i < store->nburied; i++)
		sagg_store_remove(store, store->buried[i].start, store->buried[i].hash,
						  store->buried[i].stored);
	sagg_store_forget_changes(store);
	store->header->batch = store->batch;
	store->header->in_batch = false;
}
