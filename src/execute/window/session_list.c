/*-------------------------------------------------------------------------
 *
 * session_list.c
 *	  The sessions of one key in order of time, in a batch's private memory.
 *
 * They do not touch each other, so the order of their starts is that of their
 * ends.  Most keys have a few.  One may have as many as there are records, in
 * any order; so the list is made of blocks, and finding, inserting or removing
 * a session is cheap for any number of sessions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "session_windows.h"

#define BLOCK_SESSIONS		256
#define FIRST_SESSIONS		4	/* room in a new list */

static void *
grow_array(void *array, Size size)
{
	return array ? repalloc_huge(array, size) :
		MemoryContextAllocHuge(CurrentMemoryContext, size);
}

/*
 * Insert a new block behind another one.
 */
static SaggSessionBlock *
add_block(SaggSessionList *list, int at)
{
	if (list->nblocks == list->max)
	{
		list->max = Max(1, list->max * 2);
		list->blocks = grow_array(list->blocks, sizeof(SaggSessionBlock) * list->max);
	}
	memmove(&list->blocks[at + 1], &list->blocks[at],
			sizeof(SaggSessionBlock) * (list->nblocks - at));
	memset(&list->blocks[at], 0, sizeof(SaggSessionBlock));
	list->nblocks++;
	return &list->blocks[at];
}

static void
reserve(SaggSessionBlock *block, int n)
{
	if (n <= block->max)
		return;
	block->max = Max(n, Max(FIRST_SESSIONS, block->max * 2));
	block->sessions = grow_array(block->sessions, sizeof(SaggSessionWindow *) * block->max);
}

/*
 * Move the upper half of a full block to a new one behind it.
 */
static void
split_block(SaggSessionList *list, int at)
{
	SaggSessionBlock *upper = add_block(list, at + 1);
	SaggSessionBlock *lower = &list->blocks[at];
	int			half = lower->n / 2;

	reserve(upper, BLOCK_SESSIONS);
	upper->n = lower->n - half;
	memcpy(upper->sessions, lower->sessions + half, sizeof(SaggSessionWindow *) * upper->n);
	lower->n = half;
}

/*
 * Returns the session at a place, NULL = behind the last one.
 */
SaggSessionWindow *
sagg_session_at(const SaggSessionList *list, SaggSessionPlace place)
{
	return place.block < list->nblocks && place.index < list->blocks[place.block].n ?
		list->blocks[place.block].sessions[place.index] : NULL;
}

/*
 * Returns the place of the first session, or the one behind another place.
 */
SaggSessionPlace
sagg_session_first(const SaggSessionList *list)
{
	SaggSessionPlace place = {0, 0};

	return place;
}

/*
 * Returns the place behind another one.
 */
SaggSessionPlace
sagg_session_next(const SaggSessionList *list, SaggSessionPlace place)
{
	if (++place.index >= list->blocks[place.block].n && place.block + 1 < list->nblocks)
	{
		place.block++;
		place.index = 0;
	}
	return place;
}

/*
 * Returns the place of the first session that does not end before "start".
 */
SaggSessionPlace
sagg_session_find(const SaggSessionList *list, int64 start)
{
	SaggSessionPlace place = {0, 0};
	const SaggSessionBlock *block;
	int			low = 0;
	int			high = list->nblocks;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		block = &list->blocks[middle];
		if (block->sessions[block->n - 1]->end < start)
			low = middle + 1;
		else
			high = middle;
	}
	if (list->nblocks == 0)
		return place;
	place.block = Min(low, list->nblocks - 1);
	block = &list->blocks[place.block];
	low = 0;
	high = block->n;
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (block->sessions[middle]->end < start)
			low = middle + 1;
		else
			high = middle;
	}
	place.index = low;
	return place;
}

/*
 * Insert a session before the one at a place; returns its own place.
 * Allocates in the current context, which is always the same one for a list.
 */
SaggSessionPlace
sagg_session_insert(SaggSessionList *list, SaggSessionPlace place, SaggSessionWindow *session)
{
	SaggSessionBlock *block;

	if (list->nblocks == 0)
		add_block(list, 0);
	if (list->blocks[place.block].n == BLOCK_SESSIONS)
	{
		split_block(list, place.block);
		if (place.index > list->blocks[place.block].n)
		{
			place.index -= list->blocks[place.block].n;
			place.block++;
		}
	}
	block = &list->blocks[place.block];
	reserve(block, block->n + 1);
	memmove(&block->sessions[place.index + 1], &block->sessions[place.index],
			sizeof(SaggSessionWindow *) * (block->n - place.index));
	block->sessions[place.index] = session;
	block->n++;
	return place;
}

/*
 * Append a session.
 */
void
sagg_session_append(SaggSessionList *list, SaggSessionWindow *session)
{
	SaggSessionPlace place = {0, 0};

	if (list->nblocks > 0)
	{
		place.block = list->nblocks - 1;
		place.index = list->blocks[place.block].n;
	}
	sagg_session_insert(list, place, session);
}

/*
 * Remove a session, and its block if that becomes empty.
 */
void
sagg_session_remove(SaggSessionList *list, SaggSessionPlace place)
{
	SaggSessionBlock *block = &list->blocks[place.block];

	block->n--;
	memmove(&block->sessions[place.index], &block->sessions[place.index + 1],
			sizeof(SaggSessionWindow *) * (block->n - place.index));
	if (block->n > 0)
		return;
	if (block->sessions)
		pfree(block->sessions);
	list->nblocks--;
	memmove(block, block + 1, sizeof(SaggSessionBlock) * (list->nblocks - place.block));
}
