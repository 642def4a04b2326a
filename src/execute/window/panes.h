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

/* A pane of a key, to be collected with others of it. */
typedef struct SaggPane
{
	uint32		keyhash;		/* the group's hash without its start */
	int64		start;
	SaggGroup  *group;			/* group of the batch, or NULL: in the store
								 * only */
	SaggStored	stored;			/* version in the store, if "group" is NULL */
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

/* A pane of the current key. */
typedef struct SaggKeyPane
{
	SaggGroup  *group;
	int64		changed;		/* how many panes before it the batch has
								 * changed */
	int64		stored;			/* how many before it were in the store */
	SaggAggState *front;		/* states of this pane and those after it in
								 * the front stack */
} SaggKeyPane;

typedef struct SaggSliding
{
	SaggExecution *ex;
	const SaggWindow *window;
	int64		first;			/* windows that start from here */
	int64		last;			/* to here are emitted */
	SaggPaneList batch;			/* panes of the batch, of all partitions */
	SaggPaneList work;			/* panes of the current partition */
	int			nunits;
	int			max_units;
	SaggPaneUnit *units;

	/* the current key */
	int64		n;
	int64		size;
	SaggKeyPane *panes;			/* panes by time, and one more entry */
	int64		middle;			/* end of the front stack */
	int64		end;			/* end of the back stack */
	SaggAggState *back;			/* its sum; NULL = empty */

	/* context in which aggregate functions allocate */
	ExprContext *loaded;		/* context of panes read from the store */
	ExprContext *stacks;
	ExprContext *result;		/* context of one window */
} SaggSliding;

/* sliding.c */
extern bool sagg_gives_out_all(const SaggExecution *ex);
extern void sagg_sliding_allocate_in(SaggSliding *s, ExprContext *context);
extern void sagg_sliding_emit(SaggSliding *s, const SaggPane *panes, int64 n);

#endif							/* SAGG_PANES_H */
