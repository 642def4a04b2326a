/*-------------------------------------------------------------------------
 *
 * window_kinds.h
 *	  What depends on the kind of a query's windows in EXECUTE: a table of
 *	  functions for each kind, see window_kinds.c.
 *
 * Where windows start and end is in event_time/window_bounds.c, by kind as well.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_WINDOW_KINDS_H
#define SAGG_WINDOW_KINDS_H

#include "execute/execute_internal.h"

struct SaggWindowMethods
{
	/* make, and discard, what the batch keeps besides groups; or NULL */
	void		(*init) (SaggExecution *ex);
	void		(*forget) (SaggExecution *ex);

	/*
	 * Determine the windows of a row with this event time.  Returns false for
	 * a row that is left out, which has been counted.  NULL: "row" takes the
	 * row.
	 */
	bool		(*place) (SaggExecution *ex, TupleTableSlot *slot, int64 time,
						  SaggPlaces *places);

	/* put a row, whose record is not rejected, into its group; or NULL */
	void		(*row) (SaggExecution *ex, TupleTableSlot *slot);

	/* emit what the batch emits, and write its groups to the store */
	void		(*close) (SaggExecution *ex);

	/* emit everything that the last commit left open */
	void		(*emit_open) (SaggExecution *ex);

	/*
	 * returns the least start of the batch's groups, DT_NOEND = there are
	 * none
	 */
	int64		(*first_start) (SaggExecution *ex);

	/*
	 * Put an entry of the log, or a delta of one, into the store.  "group" is
	 * scratch.  Leaves garbage in the current context.
	 */
	void		(*restore) (SaggExecution *ex, const SaggStateUnit *unit, SaggGroup *group,
							const char *entry, Size len, bool delta);
};

/* window_kinds.c */
extern const SaggWindowMethods *sagg_window_methods(const SaggWindow *window);

/* windows.c */
extern bool sagg_place_in_none(SaggExecution *ex, TupleTableSlot *slot, int64 time,
							   SaggPlaces *places);
extern bool sagg_place_in_tumble(SaggExecution *ex, TupleTableSlot *slot, int64 time,
								 SaggPlaces *places);
extern bool sagg_place_in_calendar(SaggExecution *ex, TupleTableSlot *slot, int64 time,
								   SaggPlaces *places);
extern bool sagg_place_in_hop(SaggExecution *ex, TupleTableSlot *slot, int64 time,
							  SaggPlaces *places);

/* close_windows.c */
extern void sagg_groups_close(SaggExecution *ex);
extern void sagg_groups_emit(SaggExecution *ex);
extern void sagg_groups_store(SaggExecution *ex);

/* groups.c */
extern int64 sagg_groups_first_start(SaggExecution *ex);

/* panes.c */
extern void sagg_panes_close(SaggExecution *ex);
extern void sagg_panes_emit(SaggExecution *ex);

/* session_windows.c */
extern void sagg_sessions_init(SaggExecution *ex);
extern void sagg_sessions_forget(SaggExecution *ex);
extern void sagg_session_row(SaggExecution *ex, TupleTableSlot *slot);
extern int64 sagg_sessions_first_start(SaggExecution *ex);

/* session_close.c */
extern void sagg_sessions_close(SaggExecution *ex);
extern void sagg_sessions_emit_stored(SaggExecution *ex);

/* state_access.c */
extern void sagg_group_restore(SaggExecution *ex, const SaggStateUnit *unit, SaggGroup *group,
							   const char *entry, Size len, bool delta);
extern void sagg_session_entry_restore(SaggExecution *ex, const SaggStateUnit *unit,
									   SaggGroup *group, const char *entry,
									   Size len, bool delta);

#endif							/* SAGG_WINDOW_KINDS_H */
