/*-------------------------------------------------------------------------
 *
 * close_windows.c
 *	  The end of EXECUTE: watermark, output, changed groups to the store.
 *
 * The batch's own records move the watermark only for what the batch closes at
 * its end.  Output mode append emits the groups of windows that end at or
 * before the new watermark, update those the batch has changed; then closed
 * windows are removed.  Complete closes no window and emits all groups.  Undo
 * can take back what the store gets here (I3); windows are freed when the
 * batch is published.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "event_times.h"
#include "pass_rows.h"
#include "execute/window/window_kinds.h"

/* how many groups ahead of one that is emitted these are prefetched */
#define GROUPS_AHEAD	8

static void
count_records(const SaggExecution *ex, SaggCounts *counts)
{
	int64		rows[SAGG_CLASSES];

	memcpy(rows, ex->rows, sizeof(rows));
	for (int64 i = 0; i < ex->nclasses; i++)
		rows[ex->classes[i]]++;
	counts->aggregated = rows[SAGG_CLASS_AGGREGATED];
	counts->late = rows[SAGG_CLASS_LATE];
	counts->null_time = rows[SAGG_CLASS_NULL_TIME];
	counts->late_windows = ex->late_windows;
	counts->dead_lettered = ex->rejections ? ex->rejections->count : 0;
}

/*
 * Returns whether append or complete emits the groups of a window.
 */
static bool
emits_window(const SaggExecution *ex, int64 start)
{
	if (ex->open_windows)
		return !sagg_window_passed(ex, start);
	return ex->stream->mode == SAGG_COMPLETE || sagg_store_closes(ex->store, start);
}

/*
 * Emit the stored groups of the current unit that the batch has not met.
 */
static void
emit_stored(SaggExecution *ex, SaggScan *scan)
{
	SaggGroup  *group = sagg_groups_allocate(ex);

	while (sagg_scan_next(scan))
	{
		SaggEntry	entry = sagg_store_entry(ex->store, scan->stored);
		MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);

		group->hash = scan->hash;
		sagg_entry_read(ex, group, entry.data, entry.len, false);
		if (!sagg_groups_met(ex, group))
		{
			sagg_entry_read(ex, group, entry.data, entry.len, true);
			sagg_emit_group(ex, group);
		}
		MemoryContextSwitchTo(old);
		ResetExprContext(ex->tmpcontext);
	}
}

/*
 * Append: emits the groups of closing windows.  Complete: all groups.  When
 * open windows are read: those.
 */
void
sagg_groups_emit(SaggExecution *ex)
{
	SaggScan	scan;

	for (SaggGroup *group = sagg_groups_next(ex, true); group;
		 group = sagg_groups_next(ex, false))
	{
		if (emits_window(ex, group->start))
			sagg_emit_group(ex, group);
		ResetExprContext(ex->tmpcontext);
	}
	sagg_scan_store(&scan, ex->store);
	while (sagg_scan_next_unit(&scan))
	{
		if (emits_window(ex, scan.start))
			emit_stored(ex, &scan);
	}
}

/*
 * Update: emits the groups the batch has changed.
 */
static void
emit_changed(SaggExecution *ex)
{
	int64		n;
	SaggGroup **groups = sagg_groups_changed(ex, &n);

	for (int64 i = 0; i < n; i++)
	{
		if (i + GROUPS_AHEAD < n)
			sagg_group_fetch(groups[i + GROUPS_AHEAD]);
		sagg_emit_group(ex, groups[i]);
		ResetExprContext(ex->tmpcontext);
	}
	pfree(groups);
}

/*
 * Write changed groups to the store, unless their window closes.
 */
void
sagg_groups_store(SaggExecution *ex)
{
	for (SaggGroup *group = sagg_groups_next_to_store(ex, true); group;
		 group = sagg_groups_next_to_store(ex, false))
	{
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		if (!group->changed || sagg_store_closes(ex->store, group->start))
			continue;
		old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
		sagg_entry_write(ex, &ex->entry, group);
		MemoryContextSwitchTo(old);
		sagg_store_put(ex->store, group->start, group->hash, group->stored,
					   ex->entry.data, ex->entry.len);
		SAGG_FAILPOINT("store.changed");
		ResetExprContext(ex->tmpcontext);
	}
}

/*
 * Without GROUP BY there is a group even if there are no rows.
 */
static void
require_single_group(SaggExecution *ex)
{
	SaggGroup  *group = sagg_groups_lookup_row(ex, 0,
											   sagg_groups_hash_row(ex, 0, NULL, NULL),
											   NULL, NULL);

	if (!sagg_is_stored(group->stored))
		group->changed = true;
}

/*
 * End the batch for groups that are emitted unchanged: emits them, and writes
 * changed ones to the store.
 */
void
sagg_groups_close(SaggExecution *ex)
{
	if (ex->query->single_row)
		require_single_group(ex);
	if (ex->stream->mode == SAGG_UPDATE)
		emit_changed(ex);
	else
		sagg_groups_emit(ex);
	sagg_groups_store(ex);
}

/*
 * End the batch's work on groups.  Sets the counts of aggregated, late and
 * rejected records and of those without event time, the watermark after the batch,
 * and "max_time", the batch's greatest event time, DT_NOBEGIN = none.
 * From here on the store holds the batch's state, to be published or undone.
 */
void
sagg_execution_close(SaggExecution *ex, SaggCounts *counts,
					 TimestampTz *watermark, int64 *max_time)
{
	MemoryContext old = MemoryContextSwitchTo(ex->memory);

	count_records(ex, counts);
	*watermark = sagg_next_watermark(ex, max_time);
	if (ex->stream->mode != SAGG_COMPLETE)
		sagg_store_close_until(ex->store, *watermark);
	switch (ex->query->kind)
	{
		case SAGG_AGGREGATION:
			ex->methods->close(ex);
			counts->beside_closed = ex->beside_closed;
			break;
		case SAGG_ROWS:
			break;
		case SAGG_DEDUPLICATION:
			sagg_seen_keys_store(ex);
			break;
	}
	MemoryContextSwitchTo(old);
}

/*
 * Emit, without a batch, the groups of all windows that the last commit left
 * open.  The store was restored from that commit, or no batch has changed it.
 * The caller then calls sagg_execution_output.
 */
void
sagg_execution_open_windows(SaggExecution *ex)
{
	MemoryContext old = MemoryContextSwitchTo(ex->memory);

	ex->open_windows = true;
	ex->methods->emit_open(ex);
	MemoryContextSwitchTo(old);
}
