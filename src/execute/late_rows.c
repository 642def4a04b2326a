/*-------------------------------------------------------------------------
 *
 * late_rows.c
 *	  The records of a batch that came too late, with the windows they missed.
 *
 * Only for streams that keep late records.  Rows come in the order of their
 * records, so those that a join or a sliding window makes of one record follow
 * each other.  The windows of one row of a sliding window are a single entry.
 * Duplicates among the rows of a record are found by sorting its entries.
 *
 * The number of records is bounded by stream_agg.max_late_records, that of
 * windows by max_late_records_size (I7): a batch that has more fails, because
 * none may be lost silently (I5).  Entries take at most three times that size.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "event_times.h"

/* rows of one record that are collected before duplicates are removed */
#define MIN_ROWS_TO_SORT	32

/*
 * Put late rows into "late", which is empty and outlives the execution.
 */
void
sagg_execution_keep_late(SaggExecution *ex, SaggLateRows *late)
{
	late->memory = CurrentMemoryContext;
	ex->late = late;
	Assert(ex->query->record != 0);
}

static int
compare_starts(const void *a, const void *b, void *arg)
{
	int64		x = ((const SaggLateRow *) a)->start;
	int64		y = ((const SaggLateRow *) b)->start;

	return x < y ? -1 : x > y;
}

/*
 * Merge the windows of a row into those of another one of the same record that
 * does not start later, if they overlap or touch.  Returns whether they do.
 * The distance of two times may exceed an int64.
 */
static bool
unite(SaggLateRow *row, const SaggLateRow *other)
{
	uint64		distance = (uint64) other->start - (uint64) row->start;

	if (row->step == 0)
		return distance == 0;
	distance /= row->step;
	if (distance > (uint64) row->n)
		return false;
	row->n = Max(row->n, (int64) distance + other->n);
	return true;
}

/*
 * Sort the rows of the record that came last, so that each window is there
 * once.  Returns the number of these windows.
 */
static int64
put_in_order(SaggLateRows *late)
{
	SaggLateRow *rows = late->rows + late->first;
	int64		n = late->n - late->first;
	int64		time = rows[0].time;
	int64		kept = 0;
	int64		windows = 0;

	if (n > late->in_order)
		sagg_sort(rows, n, sizeof(SaggLateRow), compare_starts, NULL);
	for (int64 i = 1; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (unite(&rows[kept], &rows[i]))
			continue;
		windows += rows[kept].n;
		rows[++kept] = rows[i];
	}
	windows += rows[kept].n;
	rows[0].time = time;
	late->in_order = kept + 1;
	late->n = late->first + late->in_order;
	return windows;
}

/*
 * Raise ERRCODE_SAGG_LATE_RECORDS if this many windows do not fit into
 * stream_agg.late_records.
 */
static void
check_windows(int64 windows)
{
	if (sagg_max_late_records_size_kb >= 0 &&
		windows > (int64) sagg_max_late_records_size_kb * 1024 / SAGG_LATE_WINDOW_BYTES)
		sagg_too_large_diverted(true, 0);
}

/*
 * All rows of the record that came last have come.
 */
static void
end_record(SaggLateRows *late)
{
	if (late->n == late->first)
		return;
	late->windows += put_in_order(late);
	check_windows(late->windows);
	late->first = late->n;
	late->in_order = 0;
}

static void
append_row(SaggLateRows *late, const SaggLateRow *row)
{
	if (late->n == late->size)
	{
		int64		size = Max(64, 2 * late->size);

		late->rows = late->rows ?
			repalloc_huge(late->rows, sizeof(SaggLateRow) * size) :
			MemoryContextAllocHuge(late->memory, sizeof(SaggLateRow) * size);
		late->size = size;
	}
	late->rows[late->n++] = *row;
}

/*
 * A row is late for "n" windows: [start, end), and those that begin and end
 * "step" later each.
 */
void
sagg_late_row(SaggExecution *ex, TupleTableSlot *slot, int64 time,
			  int64 start, int64 end, int64 step, int64 n)
{
	SaggLateRows *late = ex->late;
	const SaggLateRow *last = late->n > 0 ? &late->rows[late->n - 1] : NULL;
	SaggLateRow row;

	row.record = sagg_row_record(ex, slot);
	row.time = time;
	row.start = start;
	row.end = end;
	row.step = step;
	row.n = n;
	if (last == NULL || last->record != row.record)
	{
		end_record(late);
		if (late->records >= sagg_max_late_records)
			sagg_too_many_late_records(0, late->records + 1);
		late->records++;
	}
	else if (last->start == start && last->n == n)
		return;
	append_row(late, &row);

	/* only when the number has doubled, so that all of it takes linear time */
	if (late->n - late->first >= 2 * Max(late->in_order, MIN_ROWS_TO_SORT))
		check_windows(late->windows + put_in_order(late));
}

/*
 * All rows of the batch have come.
 */
void
sagg_late_end(SaggExecution *ex)
{
	end_record(ex->late);
}

/*
 * Start again, as if no row had come.
 */
void
sagg_late_forget(SaggExecution *ex)
{
	ex->late->n = 0;
	ex->late->records = 0;
	ex->late->first = 0;
	ex->late->in_order = 0;
	ex->late->windows = 0;
}
