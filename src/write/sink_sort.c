/*-------------------------------------------------------------------------
 *
 * sink_sort.c
 *	  Sorts rows of a batch by the index that identifies them in the sink.
 *
 * Neighbours in the index then come one after the other, whose pages are in the
 * cache.  More rows than fit into memory are sorted in parts: the order is for
 * speed alone.  Producers choose the values, so the sort is one that takes no
 * longer for any of them (merge_sort.c).
 *
 * Nothing here reads the sink.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rangetypes.h"
#include "utils/sortsupport.h"
#include "utils/typcache.h"

#include "write_internal.h"

/* fewer rows are written as they come: to sort them gains nothing */
#define LEAST_SORTED	100

typedef struct SortedRow
{
	MinimalTuple tuple;
	uint32		nulls;			/* bit i = key i is null */
	Datum		keys[FLEXIBLE_ARRAY_MEMBER];
} SortedRow;

typedef struct RowSort
{
	const SinkIdentity *identity;
	SortSupport supports;		/* one for each key */
	TypeCacheEntry *range;
	MemoryContext memory;		/* rows of a part */
	Size		row_size;
	char	   *rows;
	int64		n;
	int64		allocated;
	Size		bytes;			/* of tuples that are copies */
} RowSort;

static int
compare_rows(const void *a, const void *b, void *arg)
{
	const SortedRow *x = a;
	const SortedRow *y = b;
	const RowSort *sort = arg;

	for (int i = 0; i < sort->identity->norder; i++)
	{
		int			order = ApplySortComparator(x->keys[i], (x->nulls >> i) & 1,
												y->keys[i], (y->nulls >> i) & 1,
												&sort->supports[i]);

		if (order != 0)
			return order;
	}
	return 0;
}

static void
begin_sort(RowSort *sort, const SinkIdentity *identity)
{
	memset(sort, 0, sizeof(*sort));
	sort->identity = identity;
	sort->memory = AllocSetContextCreate(CurrentMemoryContext, "stream_agg sink sort",
										 ALLOCSET_DEFAULT_SIZES);
	sort->range = lookup_type_cache(TSTZRANGEOID, TYPECACHE_RANGE_INFO);
	sort->row_size = MAXALIGN(offsetof(SortedRow, keys) + sizeof(Datum) * identity->norder);
	sort->supports = palloc0(sizeof(SortSupportData) * identity->norder);
	for (int i = 0; i < identity->norder; i++)
	{
		SortSupport support = &sort->supports[i];

		support->ssup_cxt = CurrentMemoryContext;
		support->ssup_collation = identity->order[i].collation;
		support->ssup_nulls_first = identity->order[i].nulls_first;
		PrepareSortSupportFromOrderingOp(identity->order[i].oper, support);
	}
}

/*
 * Returns a bound of a range as lower() and upper() do.
 */
static Datum
range_bound(const RowSort *sort, Datum value, bool is_upper, bool *isnull)
{
	RangeBound	lower;
	RangeBound	upper;
	bool		empty;

	range_deserialize(sort->range, DatumGetRangeTypeP(value), &lower, &upper, &empty);
	if (is_upper)
		lower = upper;
	*isnull = empty || lower.infinite;
	return lower.val;
}

/*
 * Set the keys of a row, which point into the slot's tuple.
 */
static void
set_keys(const RowSort *sort, SortedRow *row, TupleTableSlot *slot)
{
	row->nulls = 0;
	for (int i = 0; i < sort->identity->norder; i++)
	{
		const SinkSortKey *key = &sort->identity->order[i];
		bool		isnull;
		Datum		value = slot_getattr(slot, key->attno, &isnull);

		if (!isnull && key->part != SAGG_WINDOW_WHOLE)
			value = range_bound(sort, value, key->part == SAGG_WINDOW_END, &isnull);
		row->keys[i] = value;
		row->nulls |= (uint32) isnull << i;
	}
}

/*
 * Returns room for one more row.
 */
static SortedRow *
next_row(RowSort *sort)
{
	if (sort->n == sort->allocated)
	{
		int64		allocated = Max(sort->allocated * 2, 1024);

		sort->rows = sort->rows ? repalloc_huge(sort->rows, sort->row_size * allocated) :
			MemoryContextAllocHuge(sort->memory, sort->row_size * allocated);
		sort->allocated = allocated;
	}
	return (SortedRow *) (sort->rows + sort->row_size * sort->n++);
}

/*
 * Sort the part that has been collected, append it to "sorted", and forget it.
 */
static void
finish_part(RowSort *sort, TupleTableSlot *slot, Tuplestorestate *sorted)
{
	MemoryContext old = MemoryContextSwitchTo(sort->memory);

	sagg_sort(sort->rows, sort->n, sort->row_size, compare_rows, sort);
	MemoryContextSwitchTo(old);
	for (int64 i = 0; i < sort->n; i++)
	{
		ExecStoreMinimalTuple(((SortedRow *) (sort->rows + sort->row_size * i))->tuple, slot, false);
		tuplestore_puttupleslot(sorted, slot);
	}
	ExecClearTuple(slot);
	MemoryContextReset(sort->memory);
	sort->rows = NULL;
	sort->n = 0;
	sort->allocated = 0;
	sort->bytes = 0;
}

/*
 * Add the row in the slot; "in_memory": its tuple stays where it is.
 */
static void
add_row(RowSort *sort, TupleTableSlot *slot, bool in_memory, TupleTableSlot *copy)
{
	MemoryContext old = MemoryContextSwitchTo(sort->memory);
	SortedRow  *row = next_row(sort);

	if (in_memory)
		row->tuple = ((MinimalTupleTableSlot *) slot)->mintuple;
	else
	{
		row->tuple = ExecCopySlotMinimalTuple(slot);
		sort->bytes += row->tuple->t_len;
		slot = copy;
		ExecStoreMinimalTuple(row->tuple, slot, false);
	}
	set_keys(sort, row, slot);
	MemoryContextSwitchTo(old);
}

/*
 * Returns the rows, of batch->desc, in the order of the sink's index: in a
 * tuplestore of their own, that the caller ends, or, where there is no order or
 * they are few, "rows" itself.
 */
Tuplestorestate *
sagg_sink_sort(const SinkBatch *batch, Tuplestorestate *rows)
{
	int			memory_kb = Max(work_mem, sagg_batch_memory_kb / 8);
	bool		in_memory = tuplestore_in_memory(rows);
	Tuplestorestate *sorted;
	TupleTableSlot *slot;
	TupleTableSlot *copy;
	RowSort		sort;

	if (batch->identity.norder == 0 || tuplestore_tuple_count(rows) < LEAST_SORTED)
		return rows;
	begin_sort(&sort, &batch->identity);
	sorted = tuplestore_begin_heap(true, false, memory_kb);
	slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	copy = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	tuplestore_rescan(rows);
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		CHECK_FOR_INTERRUPTS();
		add_row(&sort, slot, in_memory, copy);
		/* the sort takes as much again as the array */
		if (sort.bytes + 2 * sort.row_size * sort.n >= (Size) memory_kb * 1024)
			finish_part(&sort, copy, sorted);
	}
	finish_part(&sort, copy, sorted);
	ExecDropSingleTupleTableSlot(slot);
	ExecDropSingleTupleTableSlot(copy);
	MemoryContextDelete(sort.memory);
	return sorted;
}
