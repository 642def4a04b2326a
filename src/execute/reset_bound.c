/*-------------------------------------------------------------------------
 *
 * reset_bound.c
 *	  Determines which rows of the sink the first batch after
 *	  reset_stream(results => true) overwrites.
 *
 * Windows that its records fall into, and those that the watermark has not
 * passed when it ends, may get rows from it or a later batch.  One bound
 * identifies them: a window that starts earlier ends earlier, too, except for
 * sessions, for which only the end says whether they touch a time.  A reset
 * that keeps earlier windows gives the stream a watermark that has passed
 * them.  Nothing here changes a group.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "execute/window/window_kinds.h"

/*
 * Returns the value of the output column that identifies the window, for the
 * window that starts at "start".
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
 * Returns whether the rows of a stream's sink are identified by windows that
 * do not depend on their records.
 */
bool
sagg_rows_have_windows(const SaggStream *stream, const SaggQuery *query)
{
	return query->kind == SAGG_AGGREGATION && query->window_output != 0 &&
		sagg_window_bounds(&query->window)->fixed &&
		stream->has_watermark && stream->mode != SAGG_COMPLETE;
}

/*
 * Returns the end of the last window that starts at or before an event time,
 * for such a stream; DT_NOEND = out of range.  A watermark of that value has
 * passed these windows, and no others.
 */
TimestampTz
sagg_last_window_end(const SaggQuery *query, int64 time)
{
	return sagg_window_bounds(&query->window)->last_end(&query->window, time);
}

/*
 * Returns the start of the first window that a watermark has not passed, for
 * such a stream; sets "column" to the value of that window in the column that
 * identifies it.
 */
int64
sagg_first_window_after(const SaggQuery *query, TimestampTz watermark, int64 *column)
{
	int64		start = sagg_window_bounds(&query->window)->first_open(&query->window, watermark);

	*column = told_by(query, start);
	return start;
}

/*
 * Returns the greatest end of windows that are older than the stream's
 * retention; DT_NOBEGIN = none are.
 *
 * Their age counts from the watermark, so that results of records of the past
 * stay as long as those of today.  But it never counts from more than the
 * watermark that a record of the time "now" of the clock would leave: one
 * record with an event time of the future must not remove all other results.
 */
TimestampTz
sagg_expired_end(const SaggStream *stream, const SaggQuery *query,
				 TimestampTz watermark, TimestampTz now)
{
	TimestampTz end;

	if (!stream->options.has_retention)
		return DT_NOBEGIN;
	/* only a forged row of the catalog, as a dump may have it */
	if (query->window_output == 0)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
				 errmsg("retention needs a column that says when a row's window ends")));
	if (TIMESTAMP_NOT_FINITE(watermark))
		return DT_NOBEGIN;
	watermark = Min(watermark,
					sagg_watermark_of(stream, sagg_floor_ms(sagg_event_time_of_clock(query, now))));
	if (watermark == DT_NOBEGIN ||
		pg_sub_s64_overflow(watermark, stream->options.retention, &end) ||
		!IS_VALID_TIMESTAMP(end))
		return DT_NOBEGIN;
	return end;
}

/*
 * Returns a bound for rows of windows that are older than the stream's
 * retention, see sagg_expired_end: those with less than it in the column that
 * identifies the window; for a range, its start, for sessions its end.
 * DT_NOBEGIN = no rows.  No batch writes to a window that the watermark has
 * passed.
 */
int64
sagg_expired_before(const SaggStream *stream, const SaggQuery *query,
					TimestampTz watermark, TimestampTz now)
{
	TimestampTz end = sagg_expired_end(stream, query, watermark, now);
	int64		column;

	if (end == DT_NOBEGIN)
		return DT_NOBEGIN;
	if (query->window.kind == SAGG_WINDOW_SESSION)
		return end + 1;
	(void) sagg_first_window_after(query, end, &column);
	return column;
}

/*
 * Find the window of rows with "told" in the column that identifies the
 * window; *end = DT_NOEND: not known, for sessions.
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
 * Returns the bound of the rows that the batch's results overwrite: the least
 * value of the output column that identifies the window.  That is its start,
 * or its end if the column has only that, or if windows are sessions.
 * DT_NOBEGIN = all rows, DT_NOEND = none.  Called when the batch is closed.
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

	/* panes of later windows belong to earlier ones, too */
	if (window->panes && ex->stream->has_watermark)
		first = Max(first, bounds->first_open(window, ex->plan->watermark));
	return told_by(query, first);
}
