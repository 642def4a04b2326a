/*-------------------------------------------------------------------------
 *
 * window_kinds.c
 *	  The functions that EXECUTE uses for each kind of windows.
 *
 * A batch looks up its table once.  Rows of tumbling windows, the most common
 * kind, do not use the table (sagg_place_row).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "window_kinds.h"

#define METHODS_OF_GROUPS \
	.close = sagg_groups_close, \
	.emit_open = sagg_groups_emit, \
	.first_start = sagg_groups_first_start, \
	.restore = sagg_group_restore

static const SaggWindowMethods none = {
	.place = sagg_place_in_none,
	METHODS_OF_GROUPS
};

static const SaggWindowMethods tumble = {
	.place = sagg_place_in_tumble,
	METHODS_OF_GROUPS
};

static const SaggWindowMethods calendar = {
	.place = sagg_place_in_calendar,
	METHODS_OF_GROUPS
};

static const SaggWindowMethods hop_by_window = {
	.place = sagg_place_in_hop,
	METHODS_OF_GROUPS
};

static const SaggWindowMethods hop_by_pane = {
	.place = sagg_place_in_hop,
	.close = sagg_panes_close,
	.emit_open = sagg_panes_emit,
	.first_start = sagg_groups_first_start,
	.restore = sagg_group_restore
};

static const SaggWindowMethods session = {
	.init = sagg_sessions_init,
	.forget = sagg_sessions_forget,
	.row = sagg_session_row,
	.close = sagg_sessions_close,
	.emit_open = sagg_sessions_emit_stored,
	.first_start = sagg_sessions_first_start,
	.restore = sagg_session_entry_restore
};

/*
 * Returns the functions for a window, by its kind.
 */
const SaggWindowMethods *
sagg_window_methods(const SaggWindow *window)
{
	switch (window->kind)
	{
		case SAGG_WINDOW_TUMBLE:
			return &tumble;
		case SAGG_WINDOW_HOP:
			return window->panes ? &hop_by_pane : &hop_by_window;
		case SAGG_WINDOW_CALENDAR:
			return &calendar;
		case SAGG_WINDOW_SESSION:
			return &session;
		case SAGG_WINDOW_NONE:
			break;
	}
	return &none;
}
