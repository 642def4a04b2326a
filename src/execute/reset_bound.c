/*-------------------------------------------------------------------------
 *
 * reset_bound.c
 *	  Which rows of the sink a batch takes the place of that computes results
 *	  anew.
 *
 * Windows that its records fall into, and those that the watermark has not passed
 * when it ends, may get rows from it or a later batch.  They are told by one
 * bound: a window that starts earlier ends earlier too, but for sessions, whose
 * ends alone tell what touches a time.  A reset that keeps earlier windows as they
 * are gives the stream a watermark that has passed them.  Nothing here changes a
 * group.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "execute/window/window_kinds.h"

/*
 * What the output column that tells the window has for the one that starts at
 * "start".
 */
static int64
told_by(const SaggQuery *query, int64 start)
{
	const SaggWindow *window = &query->window;
	const SaggWindowBounds *bounds = sagg_window_bounds(window);

	return query->window_identity == SAGG_WINDOW_END && bounds->fixed ?
		bounds->window_end(window, start) : start;
}

/*
 * Can the rows of a stream's sink be told by windows that do not depend on their
 * records?
 */
bool
sagg_rows_have_windows(const SaggStream *stream, const SaggQuery *query)
{
	return query->kind == SAGG_AGGREGATION && query->window_output != 0 &&
		sagg_window_bounds(&query->window)->fixed &&
		stream->has_watermark && stream->mode != SAGG_COMPLETE;
}

/*
 * The end of the last window that starts at or before an event time, for such a
 * stream; DT_NOEND = out of range.  A watermark of that has passed these windows,
 * and no others.
 */
TimestampTz
sagg_last_window_end(const SaggQuery *query, int64 time)
{
	return sagg_window_bounds(&query->window)->last_end(&query->window, time);
}

/*
 * Start of the first window that a watermark has not passed, for such a stream;
 * "column" becomes what the rows have in the column that tells the window.
 */
int64
sagg_first_window_after(const SaggQuery *query, TimestampTz watermark, int64 *column)
{
	int64		start = sagg_window_bounds(&query->window)->first_open(&query->window, watermark);

	*column = told_by(query, start);
	return start;
}

/*
 * Rows of windows that a watermark has passed by the stream's retention at least:
 * those for which the column that tells the window has less than this; of a range,
 * its start, of sessions its end.  DT_NOBEGIN = none.  No batch writes to a window
 * that the watermark has passed.
 */
int64
sagg_expired_before(const SaggStream *stream, const SaggQuery *query, TimestampTz watermark)
{
	TimestampTz end;
	int64		column;

	if (!stream->options.has_retention || TIMESTAMP_NOT_FINITE(watermark) ||
		pg_sub_s64_overflow(watermark, stream->options.retention, &end) ||
		!IS_VALID_TIMESTAMP(end))
		return DT_NOBEGIN;
	if (query->window.kind == SAGG_WINDOW_SESSION)
		return end + 1;
	(void) sagg_first_window_after(query, end, &column);
	return column;
}

/*
 * The window of rows with "told" in the column that tells the window; *end =
 * DT_NOEND: not known, of sessions.
 */
void
sagg_window_told_by(const SaggQuery *query, int64 told, int64 *start, int64 *end)
{
	const SaggWindowBounds *bounds = sagg_window_bounds(&query->window);
	bool		ends = query->window_identity == SAGG_WINDOW_END;

	*start = ends ? DT_NOBEGIN : told;
	*end = ends ? told : DT_NOEND;
	if (bounds->fixed && !TIMESTAMP_NOT_FINITE(told))
		bounds->bounds(&query->window, told, ends, start, end);
}

/*
 * The least value, in the rows that the batch's results take the place of, of the
 * output column that tells the window: of its start, or of its end if the column
 * has only that, or if windows are sessions.  DT_NOBEGIN = all rows, DT_NOEND =
 * none.  To be called when the batch is closed.
 */
int64
sagg_execution_overwrites_from(SaggExecution *ex)
{
	const SaggQuery *query = ex->query;
	const SaggWindow *window = &query->window;
	const SaggWindowBounds *bounds = sagg_window_bounds(window);
	int64		first;

	if (query->kind != SAGG_AGGREGATION || window->kind == SAGG_WINDOW_NONE ||
		query->window_output == 0 ||
		(!bounds->fixed && query->window_identity == SAGG_WINDOW_START))
		return DT_NOBEGIN;
	first = ex->methods->first_start(ex);
	if (first == DT_NOEND)
		return DT_NOEND;
	if (window->panes)
		first = sagg_first_window_of(window, first);
	if (ex->stream->has_watermark)
		first = Min(first, bounds->first_open(window, sagg_store_close_before(ex->store)));

	/* panes of later windows are in earlier ones, too */
	if (window->panes && ex->stream->has_watermark)
		first = Max(first, bounds->first_open(window, ex->plan->watermark));
	return told_by(query, first);
}
