/*-------------------------------------------------------------------------
 *
 * window_bounds.c
 *	  Where windows start and end, by their kind.
 *
 * Windows of a fixed size, [origin + n * slide, origin + n * slide + size),
 * are found by arithmetic, those by the clocks of a time zone by calendar.c.
 * Sessions are as long as their records make them, so little is known about
 * them here.
 *
 * A group belongs to a window, or to a pane (execute/window/windows.c), which
 * is part of several windows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "event_time/event_time.h"

/*
 * Returns the start of the last window that begins at or before a time, for
 * windows of a fixed size.
 */
int64
sagg_pane_window(const SaggWindow *window, int64 time)
{
	int64		into = (time - window->origin) % window->slide;

	return time - into - (into < 0 ? window->slide : 0);
}

/*
 * Returns the start of the first window that holds a pane, or that ends after
 * a time.
 */
int64
sagg_first_window_of(const SaggWindow *window, int64 pane)
{
	return sagg_pane_window(window, pane - window->size) + window->slide;
}

static int64
fixed_end(const SaggWindow *window, int64 start)
{
	return start + window->size;
}

static int64
fixed_next_end(const SaggWindow *window, int64 start, TimestampTz watermark)
{
	return start + window->size;
}

static TimestampTz
fixed_last_end(const SaggWindow *window, int64 time)
{
	return sagg_pane_window(window, time) + window->size;
}

static void
fixed_bounds(const SaggWindow *window, int64 told, bool is_end, int64 *start, int64 *end)
{
	*start = is_end ? told - window->size : told;
	*end = *start + window->size;
}

static int64
pane_end(const SaggWindow *window, int64 start)
{
	return sagg_pane_window(window, start) + window->size;
}

static int64
pane_next_end(const SaggWindow *window, int64 start, TimestampTz watermark)
{
	int64		into;

	start = Max(start, watermark) - window->size;
	into = (start - window->origin) % window->slide;
	return start - into + (into < 0 ? 0 : window->slide) + window->size;
}

static int64
calendar_end(const SaggWindow *window, int64 start)
{
	return sagg_calendar_end(&window->calendar, start);
}

static int64
calendar_next_end(const SaggWindow *window, int64 start, TimestampTz watermark)
{
	return sagg_calendar_end(&window->calendar, start);
}

static int64
calendar_first_open(const SaggWindow *window, TimestampTz time)
{
	return sagg_calendar_first_open(&window->calendar, time);
}

static TimestampTz
calendar_last_end(const SaggWindow *window, int64 time)
{
	TimestampTz start;
	TimestampTz end;

	return sagg_calendar_window(&window->calendar, time, &start, &end) ? end : DT_NOEND;
}

static void
calendar_bounds(const SaggWindow *window, int64 told, bool is_end, int64 *start, int64 *end)
{
	(void) sagg_calendar_window(&window->calendar, is_end ? told - 1 : told, start, end);
}

static int64
session_first_open(const SaggWindow *window, TimestampTz time)
{
	return time;
}

static const SaggWindowBounds fixed = {
	.fixed = true,
	.window_end = fixed_end,
	.group_end = fixed_end,
	.next_end = fixed_next_end,
	.first_open = sagg_first_window_of,
	.last_end = fixed_last_end,
	.bounds = fixed_bounds
};

static const SaggWindowBounds by_pane = {
	.fixed = true,
	.window_end = fixed_end,
	.group_end = pane_end,
	.next_end = pane_next_end,
	.first_open = sagg_first_window_of,
	.last_end = fixed_last_end,
	.bounds = fixed_bounds
};

static const SaggWindowBounds calendar = {
	.fixed = true,
	.window_end = calendar_end,
	.group_end = calendar_end,
	.next_end = calendar_next_end,
	.first_open = calendar_first_open,
	.last_end = calendar_last_end,
	.bounds = calendar_bounds
};

static const SaggWindowBounds session = {
	.first_open = session_first_open
};

static const SaggWindowBounds none = {0};

/*
 * Returns the functions for a window, by its kind.
 */
const SaggWindowBounds *
sagg_window_bounds(const SaggWindow *window)
{
	switch (window->kind)
	{
		case SAGG_WINDOW_TUMBLE:
			return &fixed;
		case SAGG_WINDOW_HOP:
			return window->panes ? &by_pane : &fixed;
		case SAGG_WINDOW_CALENDAR:
			return &calendar;
		case SAGG_WINDOW_SESSION:
			return &session;
		case SAGG_WINDOW_NONE:
			break;
	}
	return &none;
}
