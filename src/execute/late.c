/*-------------------------------------------------------------------------
 *
 * late.c
 *	  The records of a batch that came too late, with the windows they missed.
 *
 * Only for streams that keep late records.  Rows come in the order of their
 * records, so those that a join or a sliding window makes of one stand together.
 * The number of records is bounded by stream_agg.max_late_records (I7): a batch
 * that has more fails, for none is to be lost silently (I5).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "event_times.h"

/*
 * Have the rows that are late put into "late", which is empty and outlives the
 * execution.
 */
void
sagg_execution_keep_late(SaggExecution *ex, SaggLateRows *late)
{
	late->memory = CurrentMemoryContext;
	ex->late = late;
	Assert(ex->query->record != 0);
}

/*
 * Is the window one that the record is late for already, by another row?
 */
static bool
is_there(const SaggLateRows *late, const SaggLateRow *row)
{
	for (int64 i = late->n - 1; i >= 0 && late->rows[i].record == row->record; i--)
	{
		if (late->rows[i].start == row->start)
			return true;
	}
	return false;
}

/*
 * A row is late for the window [start, end).
 */
void
sagg_late_row(SaggExecution *ex, TupleTableSlot *slot, int64 time,
			  int64 start, int64 end)
{
	SaggLateRows *late = ex->late;
	AttrNumber	attno = ex->query->record;
	SaggLateRow row;

	row.record = SAGG_TID_RECORD((ItemPointer) DatumGetPointer(slot->tts_values[attno - 1]));
	row.time = time;
	row.start = start;
	row.end = end;
	if (late->n == 0 || late->rows[late->n - 1].record != row.record)
	{
		if (late->records >= sagg_max_late_records)
			sagg_too_many_late_records(0, late->records + 1);
		late->records++;
	}
	else if (is_there(late, &row))
		return;
	if (late->n == late->size)
	{
		int64		size = Max(64, 2 * late->size);

		late->rows = late->rows ?
			repalloc_huge(late->rows, sizeof(SaggLateRow) * size) :
			MemoryContextAllocHuge(late->memory, sizeof(SaggLateRow) * size);
		late->size = size;
	}
	late->rows[late->n++] = row;
}

/*
 * As if no row had come.
 */
void
sagg_late_forget(SaggExecution *ex)
{
	ex->late->n = 0;
	ex->late->records = 0;
}
