/*-------------------------------------------------------------------------
 *
 * sliding.c
 *	  Makes sliding windows of panes: the windows of one key.
 *
 * Each window is the combination of a run of panes, and the next window of
 * almost the same run.  So the windows of a key slide over its panes as a
 * queue made of two stacks.  Each entry of the front stack holds the combined
 * states from its pane to the stack's end; the back stack, with the panes
 * added later, has one sum.  A window is the front entry of its first pane
 * combined with that sum; when the front stack is used up, a new one is made
 * of all panes of the window.  A pane is thus combined about three times,
 * however many windows it is part of.
 *
 * Panes are always combined in their order.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "panes.h"

#define PREFETCHED 8			/* number of panes to prefetch */

/*
 * Returns whether all windows in the range are emitted, not only those that
 * the batch has changed.
 */
bool
sagg_gives_out_all(const SaggExecution *ex)
{
	return ex->stream->mode != SAGG_UPDATE || ex->open_windows;
}

/*
 * Let aggregate functions allocate in "context".
 */
void
sagg_sliding_allocate_in(SaggSliding *s, ExprContext *context)
{
	s->ex->aggcontext = context;
	s->ex->aggstate->curaggcontext = context;
}

/*
 * Returns whether a pane of the store is among the batch's groups, in its
 * present form. "panes" have one hash and are sorted by time.
 */
static bool
is_superseded(const SaggPane *panes, int64 n, int64 i)
{
	for (int64 j = i - 1; j >= 0 && panes[j].start == panes[i].start; j--)
	{
		if (panes[j].group && sagg_same_stored(panes[j].group->stored, panes[i].stored))
			return true;
	}
	for (int64 j = i + 1; j < n && panes[j].start == panes[i].start; j++)
	{
		if (panes[j].group && sagg_same_stored(panes[j].group->stored, panes[i].stored))
			return true;
	}
	return false;
}

/*
 * Prefetch a pane that will be read soon.  Panes are scattered over the store:
 * without this, most of the time of reading them is spent waiting for memory.
 */
static void
prefetch_pane(SaggSliding *s, const SaggPane *pane)
{
	if (pane->group == NULL)
		sagg_store_prefetch(s->ex->store, pane->stored);
}

static SaggGroup *
load_pane(SaggSliding *s, const SaggPane *pane)
{
	SaggExecution *ex = s->ex;
	SaggEntry	entry = sagg_store_entry(ex->store, pane->stored);
	SaggGroup  *group = sagg_groups_allocate(ex);

	sagg_entry_read(ex, group, entry.data, entry.len, true);
	group->stored = pane->stored;
	return group;
}

/*
 * Returns the states of the window that begins with pane "head", as long as
 * its panes end at "tail".
 */
static const SaggAggState *
slide(SaggSliding *s, int64 head, int64 tail)
{
	SaggExecution *ex = s->ex;
	Size		size = sizeof(SaggAggState) * ex->query->naggs;
	SaggAggState *states;

	sagg_sliding_allocate_in(s, s->stacks);
	if (head >= s->middle)
	{
		ReScanExprContext(s->stacks);
		s->panes[tail - 1].front = s->panes[tail - 1].group->states;
		for (int64 i = tail - 2; i >= head; i--)
		{
			states = MemoryContextAlloc(s->stacks->ecxt_per_tuple_memory, size);
			sagg_states_copy(ex, states, s->panes[i].group->states);
			sagg_states_combine(ex, states, s->panes[i + 1].front);
			s->panes[i].front = states;
			ResetExprContext(ex->tmpcontext);
		}
		s->middle = s->end = tail;
		s->back = NULL;
	}
	for (; s->end < tail; s->end++)
	{
		if (s->back)
			sagg_states_combine(ex, s->back, s->panes[s->end].group->states);
		else
		{
			s->back = MemoryContextAlloc(s->stacks->ecxt_per_tuple_memory, size);
			sagg_states_copy(ex, s->back, s->panes[s->end].group->states);
		}
		ResetExprContext(ex->tmpcontext);
	}
	if (s->back == NULL)
		return s->panes[head].front;

	sagg_sliding_allocate_in(s, s->result);
	states = MemoryContextAlloc(s->result->ecxt_per_tuple_memory, size);
	sagg_states_copy(ex, states, s->panes[head].front);
	sagg_states_combine(ex, states, s->back);
	return states;
}

/*
 * Returns the states of a window without stacks, where no other window is
 * emitted.
 */
static const SaggAggState *
fold(SaggSliding *s, int64 head, int64 tail)
{
	SaggExecution *ex = s->ex;
	SaggAggState *states;

	sagg_sliding_allocate_in(s, s->result);
	states = MemoryContextAlloc(s->result->ecxt_per_tuple_memory,
								sizeof(SaggAggState) * ex->query->naggs);
	sagg_states_copy(ex, states, s->panes[head].group->states);
	for (int64 i = head + 1; i < tail; i++)
	{
		sagg_states_combine(ex, states, s->panes[i].group->states);
		ResetExprContext(ex->tmpcontext);
	}
	return states;
}

/* Panes to combine into a window. */
typedef struct Combination
{
	SaggSliding *s;
	int64		head;
	int64		tail;
	const SaggAggState *states; /* result */
} Combination;

static void
combine(void *arg)
{
	Combination *c = arg;
	SaggSliding *s = c->s;

	c->states = s->first == s->last ? fold(s, c->head, c->tail) : slide(s, c->head, c->tail);
}

/*
 * The same in a careful execution: returns false if it fails, and the window has
 * been noted.  A stack may be half combined then, so the next window makes new
 * ones.
 */
static bool
try_combine(Combination *c, const SaggGroup *window)
{
	SaggSliding *s = c->s;
	ErrorData  *error = sagg_try_aggregates(s->ex, combine, c);

	if (error == NULL)
		return true;
	s->middle = s->end = c->head;
	s->back = NULL;
	sagg_renew_context(s->ex, &s->stacks);
	sagg_renew_context(s->ex, &s->result);
	sagg_sliding_allocate_in(s, s->loaded);
	sagg_emit_failed(s->ex, window, error);
	ResetExprContext(s->ex->tmpcontext);
	return false;
}

/*
 * Emit a window of the current key: panes from "head" to before "tail".
 */
static void
emit_window(SaggSliding *s, int64 start, int64 head, int64 tail)
{
	SaggExecution *ex = s->ex;
	SaggGroup	group = *s->panes[head].group;

	group.start = start;
	if (tail - head > 1)
	{
		Combination c = {s, head, tail};

		if (likely(!ex->careful))
			combine(&c);
		else if (!try_combine(&c, &group))
			return;
		group.states = unconstify(SaggAggState *, c.states);
	}
	/* it was emitted before if one of its panes was in the store */
	group.stored = SAGG_NOT_STORED;
	for (int64 i = head; s->panes[tail].stored > s->panes[head].stored; i++)
	{
		group.stored = s->panes[i].group->stored;
		if (sagg_is_stored(group.stored))
			break;
	}
	sagg_emit_group(ex, &group);
	ResetExprContext(ex->tmpcontext);
	ReScanExprContext(s->result);
}

/*
 * Emit all windows of the current key that have to be emitted.
 */
static void
emit_key(SaggSliding *s)
{
	bool		all = sagg_gives_out_all(s->ex);
	int64		size = s->window->size;
	int64		start = Max(s->first, sagg_first_window_of(s->window, s->panes[0].group->start));
	int64		head = 0;
	int64		tail = 0;

	s->middle = s->end = 0;
	s->back = NULL;
	while (start <= s->last)
	{
		while (head < s->n && s->panes[head].group->start < start)
			head++;
		if (head == s->n)
			break;
		if (s->panes[head].group->start >= start + size)
		{
			start = sagg_first_window_of(s->window, s->panes[head].group->start);
			continue;
		}
		tail = Max(tail, head);
		while (tail < s->n && s->panes[tail].group->start < start + size)
			tail++;
		if (all || s->panes[tail].changed > s->panes[head].changed)
			emit_window(s, start, head, tail);
		if (pg_add_s64_overflow(start, s->window->slide, &start))
			break;
	}
}

/*
 * Make the key of the first of some panes the current key, and remove its
 * panes; returns the number of those that remain.
 */
static int64
take_key(SaggSliding *s, SaggGroup **groups, int64 n)
{
	int64		rest = 0;
	SaggGroup  *first = groups[0];

	s->n = 0;
	if (n >= s->size)
	{
		s->size = Max(256, n * 2);
		s->panes = s->panes ? repalloc_huge(s->panes, sizeof(SaggKeyPane) * s->size) :
			MemoryContextAllocHuge(s->ex->memory, sizeof(SaggKeyPane) * s->size);
	}
	s->panes[0].changed = s->panes[0].stored = 0;
	for (int64 i = 0; i < n; i++)
	{
		SaggKeyPane *pane = &s->panes[s->n];

		if (i > 0 && !sagg_keys_equal(s->ex, groups[i]->keys, groups[i]->keynulls,
									  first->keys, first->keynulls))
		{
			groups[rest++] = groups[i];
			continue;
		}
		pane->group = groups[i];
		pane[1].changed = pane->changed + (groups[i]->changed ? 1 : 0);
		pane[1].stored = pane->stored + (sagg_is_stored(groups[i]->stored) ? 1 : 0);
		s->n++;
	}
	return rest;
}

/*
 * Handle the panes of one hash, sorted by time: usually of one key.
 */
void
sagg_sliding_emit(SaggSliding *s, const SaggPane *panes, int64 n)
{
	MemoryContext old = MemoryContextSwitchTo(s->loaded->ecxt_per_tuple_memory);
	SaggGroup **groups = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(SaggGroup *) * n);
	int64		ngroups = 0;

	sagg_sliding_allocate_in(s, s->loaded);
	for (int64 i = 0; i < Min(n, PREFETCHED); i++)
		prefetch_pane(s, &panes[i]);
	for (int64 i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (i + PREFETCHED < n)
			prefetch_pane(s, &panes[i + PREFETCHED]);
		if (panes[i].group)
			groups[ngroups++] = panes[i].group;
		else if (!is_superseded(panes, n, i))
			groups[ngroups++] = load_pane(s, &panes[i]);
		ResetExprContext(s->ex->tmpcontext);
	}
	while (ngroups > 0)
	{
		ngroups = take_key(s, groups, ngroups);
		emit_key(s);
	}
	MemoryContextSwitchTo(old);
	ReScanExprContext(s->stacks);
	ReScanExprContext(s->loaded);
}
