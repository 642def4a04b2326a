/*-------------------------------------------------------------------------
 *
 * panes.h
 *	  What panes.c and sliding.c share: panes, and windows that slide over them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_PANES_H
#define SAGG_PANES_H

#include "execute/execute_internal.h"

/* A pane of a key, to be brought together with others of it. */
typedef struct SaggPane
{
	uint32		keyhash;		/* the group's hash without its start */
	int64		start;
	SaggGroup  *group;			/* of the batch, or NULL: in the store only */
	SaggStored	stored;			/* in the store, if "group" is NULL */
} SaggPane;

typedef struct SaggPaneList
{
	int64		n;
	int64		size;
	SaggPane   *panes;
} SaggPaneList;

/* The unit of a pane in a partition of the store. */
typedef struct SaggPaneUnit
{
	int64		start;
	SaggUnit   *unit;
} SaggPaneUnit;

/* A pane of the key at hand. */
typedef struct SaggKeyPane
{
	SaggGroup  *group;
	int64		changed;		/* how many panes before it the batch has changed */
	int64		stored;			/* how many before it were in the store */
	SaggAggState *front;		/* of this and those after it in the front stack */
} SaggKeyPane;

typedef struct SaggSliding
{
	SaggExecution *ex;
	const SaggWindow *window;
	int64		first;			/* windows that start from here ... */
	int64		last;			/* ... to here are to be given out */
	SaggPaneList batch;			/* of all partitions */
	SaggPaneList work;			/* of the partition at hand */
	int			nunits;
	int			max_units;
	SaggPaneUnit *units;

	/* the key at hand */
	int64		n;
	int64		size;
	SaggKeyPane *panes;			/* by time; one more than n */
	int64		middle;			/* where the front stack ends */
	int64		end;			/* where the back one does */
	SaggAggState *back;			/* its sum; NULL = empty */

	/* what aggregate functions allocate in */
	ExprContext *loaded;		/* panes read from the store */
	ExprContext *stacks;
	ExprContext *result;		/* of one window */
} SaggSliding;

/* sliding.c */
extern bool sagg_gives_out_all(const SaggExecution *ex);
extern void sagg_sliding_allocate_in(SaggSliding *s, ExprContext *context);
extern void sagg_sliding_emit(SaggSliding *s, const SaggPane *panes, int64 n);

#endif							/* SAGG_PANES_H */
