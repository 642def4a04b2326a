/*-------------------------------------------------------------------------
 *
 * replaced.c
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
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "execute/window/panes.h"
#include "event_time/event_time.h"
#include "execute/window/sessions.h"

/*
 * The least start of the batch's groups, DT_NOEND = there are none.
 */
static int64
first_group(SaggExecution *ex)
{
	int64		first = DT_NOEND;

	if (ex->sessions)
	{
		for (SaggSessionKey *key = sagg_sessions_next(ex, true); key;
			 key = sagg_sessions_next(ex, false))
		{
			SaggSession *session = sagg_session_at(&key->sessions,
												   sagg_session_first(&key->sessions));

			if (session)
				first = Min(first, session->group.start);
		}
		return first;
	}
	for (SaggGroup *group = sagg_groups_next(ex, true); group;
		 group = sagg_groups_next(ex, false))
		first = Min(first, group->start);
	return first;
}

/*
 * Start of the first window that ends after a time.
 */
static int64
first_open_window(const SaggWindow *window, TimestampTz time)
{
	switch (window->kind)
	{
		case SAGG_WINDOW_SESSION:
			return time;
		case SAGG_WINDOW_CALENDAR:
			return sagg_calendar_first_open(&window->calendar, time);
		default:
			return sagg_first_window_of(window, time);
	}
}

/*
 * What the output column that tells the window has for the one that starts at
 * "start".
 */
static int64
told_by(const SaggQuery *query, int64 start)
{
	const SaggWindow *window = &query->window;

	if (query->window_identity != SAGG_WINDOW_END || window->kind == SAGG_WINDOW_SESSION)
		return start;
	return window->kind == SAGG_WINDOW_CALENDAR ?
		sagg_other_window_end(window, start) : start + window->size;
}

/*
 * Can the rows of a stream's sink be told by windows that do not depend on their
 * records?
 */
bool
sagg_rows_have_windows(const SaggStream *stream, const SaggQuery *query)
{
	return query->kind == SAGG_AGGREGATION && query->window_output != 0 &&
		query->window.kind != SAGG_WINDOW_NONE &&
		query->window.kind != SAGG_WINDOW_SESSION &&
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
	const SaggWindow *window = &query->window;
	TimestampTz start;
	TimestampTz end;

	if (window->kind == SAGG_WINDOW_CALENDAR)
		return sagg_calendar_window(&window->calendar, time, &start, &end) ? end : DT_NOEND;
	return sagg_pane_window(window, time) + window->size;
}

/*
 * Start of the first window that a watermark has not passed, for such a stream;
 * "column" becomes what the rows have in the column that tells the window.
 */
int64
sagg_first_window_after(const SaggQuery *query, TimestampTz watermark, int64 *column)
{
	int64		start = first_open_window(&query->window, watermark);

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
	const SaggWindow *window = &query->window;
	bool		ends = query->window_identity == SAGG_WINDOW_END;

	*start = ends ? DT_NOBEGIN : told;
	*end = ends ? told : DT_NOEND;
	if (window->kind == SAGG_WINDOW_SESSION || TIMESTAMP_NOT_FINITE(told))
		return;
	if (window->kind == SAGG_WINDOW_CALENDAR)
		(void) sagg_calendar_window(&window->calendar, ends ? told - 1 : told, start, end);
	else if (ends)
		*start = told - window->size;
	else
		*end = told + window->size;
}

/*
 * The least value, in the rows that the batch's results take the place of, of the
 * output column that tells the window: of its start, or of its end if the column
 * has only that, or if windows are sessions.  DT_NOBEGIN = all rows, DT_NOEND =
 * none.  To be called when the batch is closed.
 */
int64
sagg_execution_replaces(SaggExecution *ex)
{
	const SaggQuery *query = ex->query;
	const SaggWindow *window = &query->window;
	bool		session = window->kind == SAGG_WINDOW_SESSION;
	int64		first;

	if (query->kind != SAGG_AGGREGATION || window->kind == SAGG_WINDOW_NONE ||
		query->window_output == 0 ||
		(session && query->window_identity == SAGG_WINDOW_START))
		return DT_NOBEGIN;
	first = first_group(ex);
	if (first == DT_NOEND)
		return DT_NOEND;
	if (window->panes)
		first = sagg_first_window_of(window, first);
	if (ex->stream->has_watermark)
		first = Min(first, first_open_window(window, sagg_store_close_before(ex->store)));

	/* panes of later windows are in earlier ones, too */
	if (window->panes && ex->stream->has_watermark)
		first = Max(first, first_open_window(window, ex->plan->watermark));
	return told_by(query, first);
}
