/*-------------------------------------------------------------------------
 *
 * store_due.c
 *	  A heap of the times when sessions may end.
 *
 * Windows that share their end are freed as units.  Sessions have ends of
 * their own, and a batch must not read all of them.  So a store's handle has,
 * for each partition, a heap of ends, the least first, each with the hash of
 * its group: for every session in memory there is an item of its hash that is
 * not later than its end.  Of sessions that are out the unit knows a time
 * before which none of them ends.  A session that grows leaves its item in place; when that item comes
 * up, it is put back with the current end.  So an item costs a few steps each
 * time that its session has grown.
 *
 * A heap is memory of the process, like the handle, 16 bytes an item, and is
 * built from the store when it is needed and unknown: at first, when sessions
 * have come into memory, and after an undo, which discards it.
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
	SaggDueHeap *heap = &store->due[SAGG_PARTITION_OF(hash)];
	SaggDue		item = {end, hash};

	if (!heap->known)
		return;
	if (heap->n == heap->max)
	{
		int64		max = Max(256, heap->max * 2);

		heap->items = heap->items ?
			repalloc_huge(heap->items, max * sizeof(SaggDue)) :
			MemoryContextAllocHuge(MemoryContextGetParent(store->memory), max * sizeof(SaggDue));
		heap->max = max;
	}
	sift_up(heap->items, heap->n++, item);
}

/*
 * Build the heap of a partition if it is unknown.  Sessions that are out are
 * read if one of them may end until "until", else nothing is done and the
 * result is false.  Not in the middle of a batch's changes to the partition.
 */
bool
sagg_due_prepare(SaggStore *store, int partition, int64 until)
{
	SaggDueHeap *heap = &store->due[partition];
	const SaggUnit *unit = sagg_store_unit(store, partition, SAGG_SESSIONS_UNIT);
	SaggScan	scan;

	if (unit && unit->out && unit->due > until)
		return false;
	if (heap->known)
		return true;
	/* this reads the sessions, after which the heap is unknown */
	sagg_scan_partition(&scan, store, partition);
	heap->n = 0;
	heap->known = true;
	while (sagg_scan_next_unit(&scan))
	{
		while (sagg_scan_next(&scan))
			sagg_due_add(store, sagg_entry_end(sagg_store_entry(store, scan.stored).data),
						 sagg_session_scan_hash(&scan));
	}
	return true;
}

/*
 * Returns a time before which no session of a partition ends; DT_NOEND = there
 * are no sessions, DT_NOBEGIN = none is known.
 */
int64
sagg_due_first_of(const SaggStore *store, int partition)
{
	const SaggDueHeap *heap = &store->due[partition];
	const SaggUnit *unit;

	if (heap->known)
		return heap->n > 0 ? heap->items[0].end : DT_NOEND;
	unit = sagg_store_unit(unconstify(SaggStore *, store), partition, SAGG_SESSIONS_UNIT);
	if (unit == NULL)
		return DT_NOEND;
	return unit->out ? unit->due : DT_NOBEGIN;
}

/*
 * Returns the first of these times of all partitions; where none is known,
 * DT_NOEND.
 */
int64
sagg_due_first(const SaggStore *store)
{
	int64		first = DT_NOEND;

	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
	{
		int64		of_partition = sagg_due_first_of(store, p);

		if (of_partition != DT_NOBEGIN)
			first = Min(first, of_partition);
	}
	return first;
}

static int
compare_hashes(const void *a, const void *b)
{
	uint32		x = *(const uint32 *) a;
	uint32		y = *(const uint32 *) b;

	return x < y ? -1 : x > y;
}

/*
 * Remove all items of a partition that end until "until".  Returns their
 * hashes, each once, in the current context; the caller puts back those that
 * are not over.
 */
uint32 *
sagg_due_take(SaggStore *store, int partition, int64 until, int64 *n)
{
	SaggDueHeap *heap = &store->due[partition];
	int64		max = 64;
	uint32	   *hashes = palloc(max * sizeof(uint32));
	int64		unique = 0;

	*n = 0;
	while (heap->n > 0 && heap->items[0].end <= until)
	{
		if (*n == max)
			hashes = repalloc_huge(hashes, (max *= 2) * sizeof(uint32));
		hashes[(*n)++] = heap->items[0].hash;
		heap->n--;
		sift_down(heap->items, heap->n, heap->items[heap->n]);
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
