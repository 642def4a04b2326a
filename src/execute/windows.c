/*-------------------------------------------------------------------------
 *
 * windows.c
 *	  Which windows a row belongs to, and which of them are over.
 *
 * A tumbling window is [origin + n * size, origin + (n + 1) * size), found by
 * arithmetic.  The semantics are Spark's: a row is late for a window that ends
 * at or before the watermark that the commit before left, except in output
 * mode complete, where nothing is late.
 *
 * Every kind of window has its branch in sagg_place_row; what a row costs there
 * it costs for each record of a stream, so a kind looks nothing up that the
 * analysis of the query could have found, and others do not pay for it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "execute_internal.h"

/*
 * Count a record by the greatest class of its rows.
 */
void
sagg_classify_record(SaggExecution *ex, TupleTableSlot *slot, SaggClass class)
{
	AttrNumber	record = ex->query->record;
	int64		n = SAGG_TID_RECORD((ItemPointer) DatumGetPointer(slot->tts_values[record - 1]));

	if (n >= ex->nclasses)
	{
		int64		size = Max(n + 1, Max(1024, ex->nclasses * 2));

		ex->classes = ex->classes ? repalloc_huge(ex->classes, size) :
			MemoryContextAllocHuge(ex->memory, size);
		memset(ex->classes + ex->nclasses, SAGG_CLASS_FILTERED, size - ex->nclasses);
		ex->nclasses = size;
	}
	ex->classes[n] = Max(ex->classes[n], class);
}

/*
 * Start of the window that holds a time; false if that is out of range.
 */
static inline bool
window_start(const SaggWindow *window, int64 time, int64 *start)
{
	int64		distance;
	int64		end;

	if (!pg_sub_s64_overflow(time, window->origin, &distance))
	{
		int64		into = distance % window->size;

		if (into < 0)
			into += window->size;
		return !pg_sub_s64_overflow(time, into, start) &&
			!pg_add_s64_overflow(*start, window->size, &end) &&
			IS_VALID_TIMESTAMP(*start) && IS_VALID_TIMESTAMP(end);
	}
	return false;
}

/*
 * Event time and windows of a row.  Returns false, having counted it, for a row
 * that goes no further.
 */
bool
sagg_place_row(SaggExecution *ex, TupleTableSlot *slot, SaggPlaces *places)
{
	const SaggQuery *query = ex->query;
	bool		windowed = query->window.kind != SAGG_WINDOW_NONE;
	int64		time;

	places->start = 0;
	places->n = 1;
	if (!query->has_event_time)
		return true;
	if (slot->tts_isnull[query->event_time - 1])
	{
		if (windowed)
			sagg_classify(ex, slot, SAGG_CLASS_NULL_TIME);
		return !windowed;
	}
	time = DatumGetTimestampTz(slot->tts_values[query->event_time - 1]);
	if (!sagg_check_event_time(ex, slot, time))
	{
		sagg_classify(ex, slot, SAGG_CLASS_REFUSED);
		return false;
	}
	if (windowed && !window_start(&query->window, time, &places->start))
	{
		sagg_refuse_window(ex, slot, time);
		sagg_classify(ex, slot, SAGG_CLASS_REFUSED);
		return false;
	}

	if (!ex->any_time || time > ex->max_time)
		ex->max_time = time;
	ex->any_time = true;
	if (sagg_window_passed(ex, places->start))
	{
		sagg_classify(ex, slot, SAGG_CLASS_LATE);
		return false;
	}
	return true;
}
