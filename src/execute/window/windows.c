/*-------------------------------------------------------------------------
 *
 * windows.c
 *	  Which windows a row belongs to, and which of them are over.
 *
 * A tumbling window is [origin + n * size, origin + (n + 1) * size), found by
 * arithmetic.  The semantics are Spark's: a row is late for a window that ends
 * at or before the watermark that the commit before left, except in output
 * mode complete, where nothing is late.  With watermark policy per_partition
 * it is another one for every row (event_times.c).
 *
 * A sliding window (hop) is [origin + n * slide, origin + n * slide + size).
 * Where windows overlap, time is cut at each start and each end of one: what is
 * between two cuts is a pane, and every window consists of whole panes.  With
 * "rest" = size % slide they are
 *
 *		[origin + n * slide, origin + n * slide + rest)			if rest > 0
 *		[origin + n * slide + rest, origin + (n + 1) * slide)
 *
 * so there are never more of them than with panes as long as the greatest
 * common divisor of slide and size.  A row then goes into one group, that of its
 * pane, whatever the number of its windows, and panes.c combines panes into
 * windows.  A pane holds what was in time for any of its windows; what was late
 * for one of them came after that window had been given out for the last time,
 * so lateness by window needs no further care.
 *
 * Aggregates whose states cannot be combined have a group per window.  So have
 * windows that do not overlap, where slide > size; a row between them is in no
 * window, and counts as one that WHERE removes after it has moved event time.
 *
 * Windows by the clocks of a time zone are found by calendar.c.
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

#include "event_time/event_time.h"
#include "execute/event_times.h"

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
 * Start of the last window that begins at or before a time.
 */
int64
sagg_pane_window(const SaggWindow *window, int64 time)
{
	int64		into = (time - window->origin) % window->slide;

	return time - into - (into < 0 ? window->slide : 0);
}

/*
 * sagg_window_end for windows that are not of one size or not alone.
 */
int64
sagg_other_window_end(const SaggWindow *window, int64 start)
{
	TimestampTz from = start;

	if (window->kind == SAGG_WINDOW_CALENDAR)
		return sagg_calendar_end(&window->calendar, start);
	if (window->panes)
		from = sagg_pane_window(window, start);
	return from + window->size;
}

/*
 * The last window of a time, and how many there are; false if any of them is
 * out of range.
 */
static bool
hop_windows(const SaggWindow *window, int64 time, int64 *last, int64 *n)
{
	int64		distance;
	int64		into;
	int64		first;
	int64		end;

	if (pg_sub_s64_overflow(time, window->origin, &distance))
		return false;
	into = distance % window->slide;
	if (into < 0)
		into += window->slide;
	*n = window->size / window->slide + (into < window->size % window->slide ? 1 : 0);
	return !pg_sub_s64_overflow(time, into, last) &&
		(*n == 0 ||
		 (!pg_sub_s64_overflow(*last, (*n - 1) * window->slide, &first) &&
		  !pg_add_s64_overflow(*last, window->size, &end) &&
		  IS_VALID_TIMESTAMP(first) && IS_VALID_TIMESTAMP(end)));
}

/*
 * Of "n" windows, the last of which starts at "last": how many the watermark
 * has passed.
 */
static int64
hop_late(const SaggExecution *ex, int64 last, int64 n)
{
	const SaggWindow *window = &ex->query->window;
	int64		watermark = ex->row_watermark;
	int64		first = last - (n - 1) * window->slide;

	if (ex->stream->mode == SAGG_COMPLETE || first + window->size > watermark)
		return 0;
	return Min(n, (watermark - first - window->size) / window->slide + 1);
}

/*
 * The first end of a window that a group which starts at "start" is part of,
 * and that the watermark has not passed.
 */
int64
sagg_window_next_end(const SaggWindow *window, int64 start, TimestampTz watermark)
{
	int64		into;

	if (!window->panes)
		return sagg_window_end(window, start);
	start = Max(start, watermark) - window->size;
	into = (start - window->origin) % window->slide;
	return start - into + (into < 0 ? 0 : window->slide) + window->size;
}

/*
 * The windows of a row under hop.  Returns false, having counted it, for a row
 * that goes no further.
 */
static bool
place_in_hop(SaggExecution *ex, TupleTableSlot *slot, int64 time, SaggPlaces *places)
{
	const SaggWindow *window = &ex->query->window;
	int64		last;
	int64		n;
	int64		late;

	if (!hop_windows(window, time, &last, &n))
	{
		sagg_refuse_window(ex, slot, time);
		sagg_classify(ex, slot, SAGG_CLASS_REFUSED);
		return false;
	}
	sagg_note_time(ex, slot, time);
	if (n == 0)
	{
		sagg_classify(ex, slot, SAGG_CLASS_FILTERED);
		return false;
	}
	late = hop_late(ex, last, n);
	ex->late_windows += late;
	if (ex->late && late > 0)
	{
		int64		start = last - (n - 1) * window->slide;

		sagg_late_row(ex, slot, time, start, start + window->size, window->slide, late);
	}
	if (late == n)
	{
		sagg_classify(ex, slot, SAGG_CLASS_LATE);
		return false;
	}
	places->start = last;
	if (!window->panes)
	{
		places->n = n - late;
		places->step = window->slide;
	}
	else if (time - last >= window->size % window->slide)
		places->start += window->size % window->slide;
	return true;
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
	int64		end;

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
	if (unlikely(ex->judged_by_partition))
		sagg_partitions_row(ex, slot);
	if (!sagg_check_event_time(ex, slot, time))
	{
		sagg_classify(ex, slot, SAGG_CLASS_REFUSED);
		return false;
	}
	if (query->window.kind == SAGG_WINDOW_HOP)
		return place_in_hop(ex, slot, time, places);
	if (windowed &&
		!(query->window.kind == SAGG_WINDOW_CALENDAR ?
		  sagg_calendar_window(&query->window.calendar, time, &places->start, &end) :
		  window_start(&query->window, time, &places->start)))
	{
		sagg_refuse_window(ex, slot, time);
		sagg_classify(ex, slot, SAGG_CLASS_REFUSED);
		return false;
	}

	sagg_note_time(ex, slot, time);
	if (sagg_window_passed(ex, places->start))
	{
		ex->late_windows++;
		if (ex->late)
			sagg_late_row(ex, slot, time, places->start,
						  sagg_window_end(&query->window, places->start), 0, 1);
		sagg_classify(ex, slot, SAGG_CLASS_LATE);
		return false;
	}
	return true;
}
