/*-------------------------------------------------------------------------
 *
 * panes.c
 *	  Makes sliding windows of panes: chooses the panes, and the windows to
 *	  emit.
 *
 * Each group of a stream with panes belongs to one pane (windows.c).  When
 * windows are emitted, the panes of a key - of the batch, and of the store -
 * are collected in order of time, and sliding.c makes windows of them.  Every
 * pane is read from the store once per batch, however many windows it is part
 * of.
 *
 * Append emits the windows that the batch closes, update the open windows in
 * which it has changed a pane, complete all; open_windows all that are open.
 * Nothing here changes the store, or a group.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "execute/batch_units.h"
#include "panes.h"
#include "window_kinds.h"

#define ST_SORT sort_panes
#define ST_ELEMENT_TYPE SaggPane
#define ST_COMPARE(a, b) \
	((a)->keyhash != (b)->keyhash ? ((a)->keyhash < (b)->keyhash ? -1 : 1) : \
	 (a)->start != (b)->start ? ((a)->start < (b)->start ? -1 : 1) : 0)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

static int
compare_units(const void *a, const void *b, void *arg)
{
	int64		x = ((const SaggPaneUnit *) a)->start;
	int64		y = ((const SaggPaneUnit *) b)->start;

	return x < y ? -1 : x > y;
}

static void
add_pane(SaggPaneList *list, uint32 keyhash, int64 start, SaggGroup *group,
		 SaggStored stored)
{
	SaggPane   *pane;

	if (list->n == list->size)
	{
		list->size = Max(1024, list->size * 2);
		list->panes = list->panes ?
			repalloc_huge(list->panes, sizeof(SaggPane) * list->size) :
			MemoryContextAllocHuge(CurrentMemoryContext, sizeof(SaggPane) * list->size);
	}
	pane = &list->panes[list->n++];
	pane->keyhash = keyhash;
	pane->start = start;
	pane->group = group;
	pane->stored = stored;
}

/*
 * Returns the start of the last window that ends at or before a time;
 * PG_INT64_MIN if there is none.
 */
static int64
last_window_until(const SaggWindow *window, int64 time)
{
	int64		start;
	int64		distance;

	if (TIMESTAMP_NOT_FINITE(time) ||
		pg_sub_s64_overflow(time, window->size, &start) ||
		pg_sub_s64_overflow(start, window->origin, &distance))
		return PG_INT64_MIN;
	return sagg_pane_window(window, start);
}

/*
 * Determine the windows that the batch may emit.
 */
static void
set_range(SaggSliding *s)
{
	const SaggExecution *ex = s->ex;

	s->first = PG_INT64_MIN;
	s->last = PG_INT64_MAX;
	if (ex->stream->mode == SAGG_COMPLETE)
		return;
	s->first = last_window_until(s->window, ex->plan->watermark);
	if (s->first != PG_INT64_MIN)
		s->first += s->window->slide;
	if (ex->stream->mode == SAGG_APPEND && !ex->open_windows)
		s->last = last_window_until(s->window, sagg_store_close_before(ex->store));
}

static void
collect_batch(SaggSliding *s)
{
	for (SaggGroup *group = sagg_groups_next(s->ex, true); group;
		 group = sagg_groups_next(s->ex, false))
		add_pane(&s->batch, group->hash ^ sagg_start_salt(s->ex->seed, group->start),
				 group->start, group, SAGG_NOT_STORED);
}

/*
 * Collect the units of a partition, by time.
 */
static void
collect_units(SaggSliding *s, int partition)
{
	SaggScan	scan;

	s->nunits = 0;
	sagg_scan_partition(&scan, s->ex->store, partition);
	while (sagg_scan_next_unit(&scan))
	{
		if (s->nunits == s->max_units)
		{
			s->max_units = Max(256, s->max_units * 2);
			s->units = s->units ?
				repalloc(s->units, sizeof(SaggPaneUnit) * s->max_units) :
				palloc(sizeof(SaggPaneUnit) * s->max_units);
		}
		s->units[s->nunits].start = scan.start;
		s->units[s->nunits++].unit = scan.unit;
	}
	sagg_sort(s->units, s->nunits, sizeof(SaggPaneUnit), compare_units, NULL);
}

/*
 * Returns the first unit at or after a time.
 */
static int
find_unit(const SaggSliding *s, int64 start)
{
	int			low = 0;
	int			high = s->nunits;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (s->units[middle].start < start)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * Append and complete: collect all stored panes of windows that are emitted.
 */
static void
add_stored(SaggSliding *s)
{
	for (int i = find_unit(s, s->first); i < s->nunits; i++)
	{
		const SaggPaneUnit *unit = &s->units[i];
		uint32		salt = sagg_start_salt(s->ex->seed, unit->start);
		SaggScan	scan;

		if (s->last != PG_INT64_MAX && unit->start >= s->last + s->window->size)
			break;
		CHECK_FOR_INTERRUPTS();
		sagg_scan_unit(&scan, s->ex->store, unit->unit);
		while (sagg_scan_next(&scan))
			add_pane(&s->work, scan.hash ^ salt, unit->start, NULL, scan.stored);
	}
}

/*
 * Update: collect the stored panes in the windows of the keys the batch has
 * changed. "work" is sorted by keys.
 */
static void
add_stored_of_changed(SaggSliding *s)
{
	int64		n = s->work.n;

	for (int64 i = 0, j; i < n; i = j)
	{
		uint32		keyhash = s->work.panes[i].keyhash;
		int64		first = Max(sagg_first_window_of(s->window, s->work.panes[i].start), s->first);
		int64		end = sagg_pane_window(s->window, s->work.panes[i].start) + s->window->size;

		/* as long as the next pane is in windows that these panes may be in */
		for (j = i + 1; j < n && s->work.panes[j].keyhash == keyhash &&
			 sagg_first_window_of(s->window, s->work.panes[j].start) <= end; j++)
			end = sagg_pane_window(s->window, s->work.panes[j].start) + s->window->size;
		CHECK_FOR_INTERRUPTS();
		for (int t = find_unit(s, first); t < s->nunits && s->units[t].start < end; t++)
		{
			const SaggPaneUnit *unit = &s->units[t];
			uint32		hash = keyhash ^ sagg_start_salt(s->ex->seed, unit->start);
			uint32		step = 0;
			SaggStored	stored;

			while (sagg_unit_probe(s->ex->store, unit->unit, hash, &step, &stored))
				add_pane(&s->work, keyhash, unit->start, NULL, stored);
		}
	}
}

static void
emit_partition(SaggSliding *s, int partition)
{
	SaggPaneList *work = &s->work;

	if (s->last < s->first)
		return;
	work->n = 0;
	for (int64 i = 0; i < s->batch.n; i++)
	{
		if (SAGG_PARTITION_OF(s->batch.panes[i].keyhash) == partition)
			add_pane(work, s->batch.panes[i].keyhash, s->batch.panes[i].start,
					 s->batch.panes[i].group, SAGG_NOT_STORED);
	}
	collect_units(s, partition);
	if (!sagg_gives_out_all(s->ex))
	{
		sort_panes(work->panes, work->n);
		add_stored_of_changed(s);
	}
	else
		add_stored(s);
	CHECK_FOR_INTERRUPTS();
	sort_panes(work->panes, work->n);
	for (int64 i = 0, j; i < work->n; i = j)
	{
		for (j = i + 1; j < work->n && work->panes[j].keyhash == work->panes[i].keyhash; j++)
			;
		sagg_sliding_emit(s, work->panes + i, j - i);
	}
}

/*
 * Emit the windows of a query with panes.  The batch's groups are not in the
 * store yet.
 */
void
sagg_panes_emit(SaggExecution *ex)
{
	SaggSliding s = {.ex = ex, .window = &ex->query->window};
	ExprContext *aggcontext = ex->aggcontext;

	set_range(&s);
	if (s.last < s.first && ex->units == NULL)
		return;
	s.loaded = CreateStandaloneExprContext();
	s.stacks = CreateStandaloneExprContext();
	s.result = CreateStandaloneExprContext();
	collect_batch(&s);
	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
	{
		if (ex->units)
		{
			sagg_sliding_allocate_in(&s, aggcontext);
			sagg_batch_units_settle(ex, p);
		}
		emit_partition(&s, p);
		if (ex->units)
		{
			sagg_sliding_allocate_in(&s, aggcontext);
			sagg_batch_units_store(ex, p);
		}
	}
	sagg_sliding_allocate_in(&s, aggcontext);
	FreeExprContext(s.result, true);
	FreeExprContext(s.stacks, true);
	FreeExprContext(s.loaded, true);
}

/*
 * End the batch: emits its windows, and writes its panes to the store; by
 * partition where units leave memory.
 */
void
sagg_panes_close(SaggExecution *ex)
{
	sagg_panes_emit(ex);
	if (ex->units == NULL)
		sagg_groups_store(ex);
}
