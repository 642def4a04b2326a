/*-------------------------------------------------------------------------
 *
 * panes.c
 *	  Sliding windows out of panes.
 *
 * Groups of a stream with panes are of a pane each (windows.c).  When windows are
 * given out, the panes of a key - of the batch, and of the store - are brought
 * together in order of time, and each of its windows is the combination of a run
 * of them.  Every pane is read from the store once a batch, and combined about
 * three times, however many windows it is part of: the windows of a key slide
 * over its panes as a queue made of two stacks.  Of the front stack, panes that
 * were there when it was made, each entry holds the states from its pane to the
 * stack's end; to the back one, those that have come in since, belongs one sum.
 * A window is the front entry of its first pane combined with that sum; when
 * the front is used up, a new one is made of all panes of the window.
 *
 * Append gives out the windows that the batch closes, update the open ones of
 * which it has changed a pane, complete all.  Nothing here changes the store,
 * nor a group.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "execute_internal.h"

/* A pane of a key, to be brought together with others of it. */
typedef struct Pane
{
	uint32		keyhash;		/* the group's hash without its start */
	int64		start;
	SaggGroup  *group;			/* of the batch, or NULL: in the store only */
	dsa_pointer version;		/* in the store, if "group" is NULL */
} Pane;

typedef struct PaneList
{
	int64		n;
	int64		size;
	Pane	   *panes;
} PaneList;

/* The table of a pane in a partition of the store. */
typedef struct PaneTable
{
	int64		start;
	SaggTable  *table;
} PaneTable;

/* A pane of the key at hand. */
typedef struct KeyPane
{
	SaggGroup  *group;
	int64		changed;		/* how many panes before it the batch has changed */
	int64		stored;			/* how many before it were in the store */
	SaggAggState *front;		/* of this and those after it in the front stack */
} KeyPane;

typedef struct Sliding
{
	SaggExecution *ex;
	const SaggWindow *window;
	int64		first;			/* windows that start from here ... */
	int64		last;			/* ... to here are to be given out */
	PaneList	batch;			/* of all partitions */
	PaneList	work;			/* of the partition at hand */
	int			ntables;
	int			max_tables;
	PaneTable  *tables;

	/* the key at hand */
	int64		n;
	int64		size;
	KeyPane    *panes;			/* by time; one more than n */
	int64		middle;			/* where the front stack ends */
	int64		end;			/* where the back one does */
	SaggAggState *back;			/* its sum; NULL = empty */

	/* what aggregate functions allocate in */
	ExprContext *loaded;		/* panes read from the store */
	ExprContext *stacks;
	ExprContext *result;		/* of one window */
} Sliding;

#define ST_SORT sort_panes
#define ST_ELEMENT_TYPE Pane
#define ST_COMPARE(a, b) \
	((a)->keyhash != (b)->keyhash ? ((a)->keyhash < (b)->keyhash ? -1 : 1) : \
	 (a)->start != (b)->start ? ((a)->start < (b)->start ? -1 : 1) : 0)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

static int
compare_tables(const void *a, const void *b)
{
	int64		x = ((const PaneTable *) a)->start;
	int64		y = ((const PaneTable *) b)->start;

	return x < y ? -1 : x > y;
}

static void
add_pane(PaneList *list, uint32 keyhash, int64 start, SaggGroup *group,
		 dsa_pointer version)
{
	Pane	   *pane;

	if (list->n == list->size)
	{
		list->size = Max(1024, list->size * 2);
		list->panes = list->panes ?
			repalloc_huge(list->panes, sizeof(Pane) * list->size) :
			MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Pane) * list->size);
	}
	pane = &list->panes[list->n++];
	pane->keyhash = keyhash;
	pane->start = start;
	pane->group = group;
	pane->version = version;
}

/*
 * What aggregate functions allocate goes to "context".
 */
static void
allocate_in(Sliding *s, ExprContext *context)
{
	s->ex->aggcontext = context;
	s->ex->aggstate->curaggcontext = context;
}

/*
 * Start of the last window that ends at or before a time; PG_INT64_MIN if there
 * is none.
 */
static int64
last_window_until(const SaggWindow *window, int64 time)
{
	int64		start;
	int64		distance;

	if (TIMESTAMP_NOT_FINITE(time) ||
		pg_sub_s64_overflow(time, window->size, &start) ||
		pg_sub_s64_overflow(start, window->origin, &distance))
		return PG_INT64_MIN;
	return sagg_pane_window(window, start);
}

/*
 * Start of the first window that holds a pane.
 */
static int64
first_window_of(const SaggWindow *window, int64 pane)
{
	return sagg_pane_window(window, pane - window->size) + window->slide;
}

/*
 * The windows that the batch may give out.
 */
static void
set_range(Sliding *s)
{
	const SaggExecution *ex = s->ex;

	s->first = PG_INT64_MIN;
	s->last = PG_INT64_MAX;
	if (ex->stream->mode == SAGG_COMPLETE)
		return;
	s->first = last_window_until(s->window, ex->plan->watermark);
	if (s->first != PG_INT64_MIN)
		s->first += s->window->slide;
	if (ex->stream->mode == SAGG_APPEND)
		s->last = last_window_until(s->window, ex->store->close_before);
}

static void
collect_batch(Sliding *s)
{
	for (SaggGroup *group = sagg_groups_next(s->ex, true); group;
		 group = sagg_groups_next(s->ex, false))
		add_pane(&s->batch, group->hash ^ sagg_pane_salt(group->start),
				 group->start, group, InvalidDsaPointer);
}

/*
 * The tables of a partition, by time.
 */
static void
collect_tables(Sliding *s, int partition)
{
	SaggStore  *store = s->ex->store;

	s->ntables = 0;
	for (dsa_pointer dp = store->header->partitions[partition]; DsaPointerIsValid(dp);)
	{
		SaggTable  *table = SAGG_TABLE(store, dp);

		if (s->ntables == s->max_tables)
		{
			s->max_tables = Max(256, s->max_tables * 2);
			s->tables = s->tables ?
				repalloc(s->tables, sizeof(PaneTable) * s->max_tables) :
				palloc(sizeof(PaneTable) * s->max_tables);
		}
		s->tables[s->ntables].start = table->start;
		s->tables[s->ntables++].table = table;
		dp = table->next;
	}
	qsort(s->tables, s->ntables, sizeof(PaneTable), compare_tables);
}

/*
 * The first table at or after a time.
 */
static int
find_table(const Sliding *s, int64 start)
{
	int			low = 0;
	int			high = s->ntables;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (s->tables[middle].start < start)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * Append and complete: all stored panes of windows that are given out.
 */
static void
add_stored(Sliding *s)
{
	SaggStore  *store = s->ex->store;

	for (int i = find_table(s, s->first); i < s->ntables; i++)
	{
		SaggTable  *table = s->tables[i].table;
		uint32		salt = sagg_pane_salt(table->start);
		SaggSlotRef *slots;

		if (s->last != PG_INT64_MAX && table->start >= s->last + s->window->size)
			break;
		CHECK_FOR_INTERRUPTS();
		slots = table->nslots > 0 ? SAGG_SLOTS(store, table) : NULL;
		for (uint32 j = 0; j < table->nslots; j++)
		{
			if (DsaPointerIsValid(slots[j].version))
				add_pane(&s->work, slots[j].hash ^ salt, table->start, NULL,
						 slots[j].version);
		}
	}
}

/*
 * Update: of the keys the batch has changed, which "work" is sorted by, the
 * stored panes in their windows.
 */
static void
add_stored_of_changed(Sliding *s)
{
	SaggStore  *store = s->ex->store;
	int64		n = s->work.n;

	for (int64 i = 0, j; i < n; i = j)
	{
		uint32		keyhash = s->work.panes[i].keyhash;
		int64		first = Max(first_window_of(s->window, s->work.panes[i].start), s->first);
		int64		end;

		for (j = i + 1; j < n && s->work.panes[j].keyhash == keyhash; j++)
			;
		end = sagg_pane_window(s->window, s->work.panes[j - 1].start) + s->window->size;
		CHECK_FOR_INTERRUPTS();
		for (int t = find_table(s, first); t < s->ntables && s->tables[t].start < end; t++)
		{
			SaggTable  *table = s->tables[t].table;
			uint32		hash = keyhash ^ sagg_pane_salt(table->start);
			uint32		step = 0;
			dsa_pointer version;

			while (sagg_table_probe(store, table, hash, &step, &version))
				add_pane(&s->work, keyhash, table->start, NULL, version);
		}
	}
}

/*
 * Whether a pane of the store is among the batch's groups, in its present form.
 * "panes" have one hash and are sorted by time.
 */
static bool
is_superseded(const Pane *panes, int64 n, int64 i)
{
	for (int64 j = i - 1; j >= 0 && panes[j].start == panes[i].start; j--)
	{
		if (panes[j].group && panes[j].group->stored == panes[i].version)
			return true;
	}
	for (int64 j = i + 1; j < n && panes[j].start == panes[i].start; j++)
	{
		if (panes[j].group && panes[j].group->stored == panes[i].version)
			return true;
	}
	return false;
}

static SaggGroup *
load_pane(Sliding *s, const Pane *pane)
{
	SaggExecution *ex = s->ex;
	SaggVersion *version = SAGG_VERSION(ex->store, pane->version);
	SaggGroup  *group = sagg_groups_allocate(ex);

	sagg_entry_read(ex, group, version->entry, version->len, true);
	group->stored = pane->version;
	return group;
}

/*
 * The states of the window that begins with pane "head", as long as its panes
 * end at "tail".
 */
static const SaggAggState *
slide(Sliding *s, int64 head, int64 tail)
{
	SaggExecution *ex = s->ex;
	Size		size = sizeof(SaggAggState) * ex->query->naggs;
	SaggAggState *states;

	allocate_in(s, s->stacks);
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

	allocate_in(s, s->result);
	states = MemoryContextAlloc(s->result->ecxt_per_tuple_memory, size);
	sagg_states_copy(ex, states, s->panes[head].front);
	sagg_states_combine(ex, states, s->back);
	return states;
}

/*
 * The same without stacks, where no other window is given out.
 */
static const SaggAggState *
fold(Sliding *s, int64 head, int64 tail)
{
	SaggExecution *ex = s->ex;
	SaggAggState *states;

	allocate_in(s, s->result);
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

/*
 * Give out a window of the key at hand: panes from "head" to before "tail".
 */
static void
emit_window(Sliding *s, int64 start, int64 head, int64 tail)
{
	SaggExecution *ex = s->ex;
	SaggGroup	group = *s->panes[head].group;

	group.start = start;
	if (tail - head > 1)
		group.states = unconstify(SaggAggState *, s->first == s->last ?
								  fold(s, head, tail) : slide(s, head, tail));
	/* it was given out before if one of its panes was there */
	group.stored = InvalidDsaPointer;
	for (int64 i = head; s->panes[tail].stored > s->panes[head].stored; i++)
	{
		group.stored = s->panes[i].group->stored;
		if (DsaPointerIsValid(group.stored))
			break;
	}
	sagg_emit_group(ex, &group);
	ResetExprContext(ex->tmpcontext);
	ReScanExprContext(s->result);
}

/*
 * All windows of the key at hand that are to be given out.
 */
static void
emit_key(Sliding *s)
{
	bool		update = s->ex->stream->mode == SAGG_UPDATE;
	int64		size = s->window->size;
	int64		start = Max(s->first, first_window_of(s->window, s->panes[0].group->start));
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
			start = first_window_of(s->window, s->panes[head].group->start);
			continue;
		}
		tail = Max(tail, head);
		while (tail < s->n && s->panes[tail].group->start < start + size)
			tail++;
		if (!update || s->panes[tail].changed > s->panes[head].changed)
			emit_window(s, start, head, tail);
		if (pg_add_s64_overflow(start, s->window->slide, &start))
			break;
	}
}

/*
 * The key of the first of some panes: it becomes the key at hand, its panes are
 * taken out, and the number of those that remain is returned.
 */
static int64
take_key(Sliding *s, SaggGroup **groups, int64 n)
{
	int64		rest = 0;
	SaggGroup  *first = groups[0];

	s->n = 0;
	if (n >= s->size)
	{
		s->size = Max(256, n * 2);
		s->panes = s->panes ? repalloc_huge(s->panes, sizeof(KeyPane) * s->size) :
			MemoryContextAllocHuge(s->ex->memory, sizeof(KeyPane) * s->size);
	}
	s->panes[0].changed = s->panes[0].stored = 0;
	for (int64 i = 0; i < n; i++)
	{
		KeyPane    *pane = &s->panes[s->n];

		if (i > 0 && !sagg_keys_equal(s->ex, groups[i]->keys, groups[i]->keynulls,
									  first->keys, first->keynulls))
		{
			groups[rest++] = groups[i];
			continue;
		}
		pane->group = groups[i];
		pane[1].changed = pane->changed + (groups[i]->changed ? 1 : 0);
		pane[1].stored = pane->stored + (DsaPointerIsValid(groups[i]->stored) ? 1 : 0);
		s->n++;
	}
	return rest;
}

/*
 * The panes of one hash, sorted by time: of one key, as a rule.
 */
static void
emit_panes(Sliding *s, const Pane *panes, int64 n)
{
	MemoryContext old = MemoryContextSwitchTo(s->loaded->ecxt_per_tuple_memory);
	SaggGroup **groups = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(SaggGroup *) * n);
	int64		ngroups = 0;

	allocate_in(s, s->loaded);
	for (int64 i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
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

static void
emit_partition(Sliding *s, int partition)
{
	PaneList   *work = &s->work;

	work->n = 0;
	for (int64 i = 0; i < s->batch.n; i++)
	{
		if (SAGG_PARTITION_OF(s->batch.panes[i].keyhash) == partition)
			add_pane(work, s->batch.panes[i].keyhash, s->batch.panes[i].start,
					 s->batch.panes[i].group, InvalidDsaPointer);
	}
	collect_tables(s, partition);
	if (s->ex->stream->mode == SAGG_UPDATE)
	{
		sort_panes(work->panes, work->n);
		add_stored_of_changed(s);
	}
	else
		add_stored(s);
	CHECK_FOR_INTERRUPTS();
	sort_panes(work->panes, work->n);
	for (int64 i = 0, j; i < work->n; i = j)
	{
		for (j = i + 1; j < work->n && work->panes[j].keyhash == work->panes[i].keyhash; j++)
			;
		emit_panes(s, work->panes + i, j - i);
	}
}

/*
 * Give out what the batch has to, for a query with panes.  The batch's groups
 * are not yet in the store.
 */
void
sagg_panes_emit(SaggExecution *ex)
{
	Sliding		s = {.ex = ex,.window = &ex->query->window};
	ExprContext *aggcontext = ex->aggcontext;

	set_range(&s);
	if (s.last < s.first)
		return;
	s.loaded = CreateStandaloneExprContext();
	s.stacks = CreateStandaloneExprContext();
	s.result = CreateStandaloneExprContext();
	collect_batch(&s);
	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
		emit_partition(&s, p);
	allocate_in(&s, aggcontext);
	FreeExprContext(s.result, true);
	FreeExprContext(s.stacks, true);
	FreeExprContext(s.loaded, true);
}
