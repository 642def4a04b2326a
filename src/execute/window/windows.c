/*-------------------------------------------------------------------------
 *
 * windows.c
 *	  Determines the windows a row belongs to, and which of them are over.
 *
 * A tumbling window is [origin + n * size, origin + (n + 1) * size), found by
 * arithmetic.  The semantics are Spark's: a row is late for a window that ends
 * at or before the watermark that the commit before left, except in output
 * mode complete, where nothing is late.  With watermark policy per_partition,
 * each row has its own watermark (event_times.c).
 *
 * A sliding window (hop) is [origin + n * slide, origin + n * slide + size).
 * Where windows overlap, time is cut at each start and each end of a window:
 * the time between two cuts is a pane, and every window consists of whole
 * panes.  With "rest" = size % slide they are
 *
 *		[origin + n * slide, origin + n * slide + rest)			if rest > 0
 *		[origin + n * slide + rest, origin + (n + 1) * slide)
 *
 * so there are never more of them than with panes as long as the greatest
 * common divisor of slide and size.  A row then goes into one group, that of
 * its pane, whatever the number of its windows, and panes.c combines panes
 * into windows.  A pane holds what was in time for any of its windows; records
 * that were late for one of them came after that window had been emitted for
 * the last time, so lateness by window needs no further care.
 *
 * Aggregates whose states cannot be combined have a group per window, and so
 * do windows that do not overlap, where slide > size.  A row between such
 * windows is in no window, and counts as removed by WHERE after it has moved
 * event time.
 *
 * Windows by the clocks of a time zone are found by calendar.c.
 *
 * Every kind of window has a function that places a row.  It runs for each
 * record of a stream, so it looks up nothing that the analysis of the query
 * could have found, and one kind must not slow down the others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "execute/event_times.h"
#include "execute/window/window_kinds.h"

/*
 * Count a record by the greatest class of its rows.  An execution has the records of
 * one batch.
 */
void
sagg_classify_record(SaggExecution *ex, TupleTableSlot *slot, SaggClass class)
{
	int64		n = sagg_record_number(sagg_row_record(ex, slot));

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
 * Find the start of the window that holds a time; returns false if it is out
 * of range.
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
 * Find the last window of a time, and the number of its windows; returns false
 * if any of them is out of range.
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
 * Returns how many of "n" windows, the last of which starts at "last", the
 * watermark has passed.
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
 * SaggWindowMethods.place for hop windows.
 */
bool
sagg_place_in_hop(SaggExecution *ex, TupleTableSlot *slot, int64 time, SaggPlaces *places)
{
	const SaggWindow *window = &ex->query->window;
	int64		last;
	int64		n;
	int64		late;

	if (!hop_windows(window, time, &last, &n))
	{
		sagg_reject_window(ex, slot, time);
		sagg_classify(ex, slot, SAGG_CLASS_REJECTED);
		return false;
	}
	sagg_note_time(ex, slot, time);
	if (n == 0)
	{
		sagg_classify(ex, slot, SAGG_CLASS_TIME_ONLY);
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
 * Place a row in the window that starts at places->start, if "found";
 * otherwise in none.  Returns false for a row that is left out, which has been
 * counted.
 */
static inline bool
place_in_window(SaggExecution *ex, TupleTableSlot *slot, int64 time, bool found,
				const SaggPlaces *places)
{
	if (!found)
	{
		sagg_reject_window(ex, slot, time);
		sagg_classify(ex, slot, SAGG_CLASS_REJECTED);
		return false;
	}

	sagg_note_time(ex, slot, time);
	if (sagg_window_passed(ex, places->start))
	{
		ex->late_windows++;
		if (ex->late)
			sagg_late_row(ex, slot, time, places->start,
						  sagg_window_end(&ex->query->window, places->start), 0, 1);
		sagg_classify(ex, slot, SAGG_CLASS_LATE);
		return false;
	}
	return true;
}

/*
 * SaggWindowMethods.place for queries without windows.
 */
bool
sagg_place_in_none(SaggExecution *ex, TupleTableSlot *slot, int64 time, SaggPlaces *places)
{
	sagg_note_time(ex, slot, time);
	return true;
}

/* windows by the clocks of a time zone */
bool
sagg_place_in_calendar(SaggExecution *ex, TupleTableSlot *slot, int64 time, SaggPlaces *places)
{
	TimestampTz end;
	bool		found = sagg_calendar_window(&ex->query->window.calendar, time,
											 &places->start, &end);

	return place_in_window(ex, slot, time, found, places);
}

/* windows of one size */
bool
sagg_place_in_tumble(SaggExecution *ex, TupleTableSlot *slot, int64 time, SaggPlaces *places)
{
	bool		found = window_start(&ex->query->window, time, &places->start);

	return place_in_window(ex, slot, time, found, places);
}

/*
 * Read the event time of a row and place it in its windows.  Returns false for
 * a row that is left out, which has been counted.
 */
bool
sagg_place_row(SaggExecution *ex, TupleTableSlot *slot, SaggPlaces *places)
{
	const SaggQuery *query = ex->query;
	int64		time;

	places->start = 0;
	places->n = 1;
	if (!query->has_event_time)
		return true;
	if (slot->tts_isnull[query->event_time - 1])
	{
		bool		windowed = query->window.kind != SAGG_WINDOW_NONE;

		if (windowed)
			sagg_classify(ex, slot, SAGG_CLASS_NULL_TIME);
		return !windowed;
	}
	time = DatumGetTimestampTz(slot->tts_values[query->event_time - 1]);
	if (unlikely(ex->judged_by_partition))
		sagg_partitions_row(ex, slot);
	if (!sagg_check_event_time(ex, slot, time))
	{
		sagg_classify(ex, slot, SAGG_CLASS_REJECTED);
		return false;
	}
	if (likely(query->window.kind == SAGG_WINDOW_TUMBLE))
		return sagg_place_in_tumble(ex, slot, time, places);
	return ex->methods->place(ex, slot, time, places);
}
