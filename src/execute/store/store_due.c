/*-------------------------------------------------------------------------
 *
 * store_due.c
 *	  A heap of the times when sessions may end.
 *
 * Windows that share their end are freed as units.  Sessions have ends of
 * their own, and a batch must not read all of them.  So a store's handle has a
 * heap of ends, the least first, each with the hash of its group: for every
 * session in the store there is an item of its hash that is not later than its
 * end.  A session that grows leaves its item in place; when that item comes
 * up, it is put back with the current end.  So an item costs a few steps each
 * time that its session has grown.
 *
 * The heap is memory of the process, like the handle, 16 bytes an item, and is
 * built from the store when it is needed and unknown: at first, and after an
 * undo, which discards it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "execute/store/store_internal.h"
#include "execute/window/session_windows.h"

typedef struct SaggDue
{
	int64		end;
	uint32		hash;
} SaggDue;

/*
 * Store an item at "i" or, further up, where the order of the heap puts it.
 */
static void
sift_up(SaggDue *heap, int64 i, SaggDue item)
{
	while (i > 0 && heap[(i - 1) / 2].end > item.end)
	{
		heap[i] = heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	heap[i] = item;
}

static void
sift_down(SaggDue *heap, int64 n, SaggDue item)
{
	int64		i = 0;

	for (;;)
	{
		int64		child = 2 * i + 1;

		if (child + 1 < n && heap[child + 1].end < heap[child].end)
			child++;
		if (child >= n || heap[child].end >= item.end)
			break;
		heap[i] = heap[child];
		i = child;
	}
	heap[i] = item;
}

/*
 * Note that a session of this hash ends at that time, or later; does nothing
 * while the heap is unknown.
 */
void
sagg_due_add(SaggStore *store, int64 end, uint32 hash)
{
	SaggDue		item = {end, hash};

	if (!store->due_known)
		return;
	if (store->ndue == store->max_due)
	{
		int64		max = Max(1024, store->max_due * 2);

		store->due = store->due ?
			repalloc_huge(store->due, max * sizeof(SaggDue)) :
			MemoryContextAllocHuge(MemoryContextGetParent(store->memory), max * sizeof(SaggDue));
		store->max_due = max;
	}
	sift_up(store->due, store->ndue++, item);
}

/*
 * Build the heap if it is unknown.  Not in the middle of a batch's changes.
 */
void
sagg_due_prepare(SaggStore *store)
{
	SaggScan	scan;

	if (store->due_known)
		return;
	store->ndue = 0;
	store->due_known = true;
	sagg_scan_store(&scan, store);
	while (sagg_scan_next_unit(&scan))
	{
		while (sagg_scan_next(&scan))
			sagg_due_add(store, sagg_entry_end(sagg_store_entry(store, scan.stored).data),
						 sagg_session_scan_hash(&scan));
	}
}

/*
 * Returns the end of the first item, DT_NOEND = there is none.
 */
int64
sagg_due_first(const SaggStore *store)
{
	return store->ndue > 0 ? store->due[0].end : DT_NOEND;
}

static int
compare_hashes(const void *a, const void *b)
{
	uint32		x = *(const uint32 *) a;
	uint32		y = *(const uint32 *) b;

	return x < y ? -1 : x > y;
}

/*
 * Remove all items that end until "until".  Returns their hashes, each once,
 * in the current context; the caller puts back those that are not over.
 */
uint32 *
sagg_due_take(SaggStore *store, int64 until, int64 *n)
{
	int64		max = 64;
	uint32	   *hashes = palloc(max * sizeof(uint32));
	int64		unique = 0;

	*n = 0;
	while (store->ndue > 0 && store->due[0].end <= until)
	{
		if (*n == max)
			hashes = repalloc_huge(hashes, (max *= 2) * sizeof(uint32));
		hashes[(*n)++] = store->due[0].hash;
		store->ndue--;
		sift_down(store->due, store->ndue, store->due[store->ndue]);
	}
	if (*n == 0)
		return hashes;
	qsort(hashes, *n, sizeof(uint32), compare_hashes);
	for (int64 i = 1; i < *n; i++)
	{
		if (hashes[i] != hashes[unique])
			hashes[++unique] = hashes[i];
	}
	*n = unique + 1;
	return hashes;
}
