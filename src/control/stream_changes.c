/*-------------------------------------------------------------------------
 *
 * stream_changes.c
 *	  What the current transaction will do with streams at its end, by stream.
 *
 * A stream has one entry, its last change.  Changes made in the enclosing
 * transactions are chained behind it, one for each level.  So the list has as
 * many entries as streams are changed, however many subtransactions change
 * them, and a subtransaction that is rolled back leaves nothing.
 *
 * The callback only moves and frees entries: it allocates nothing and raises no
 * error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "control.h"

static List *changes = NIL;		/* of SaggStreamChange, in TopMemoryContext */

/*
 * Returns the last change that the transaction made to the stream of a view;
 * NULL if none.
 */
SaggStreamChange *
sagg_change_of(Oid view)
{
	ListCell   *lc;

	foreach(lc, changes)
	{
		SaggStreamChange *change = lfirst(lc);

		if (change->view == view)
			return change;
	}
	return NULL;
}

/*
 * Returns all changes, of SaggStreamChange, in no particular order.  The list
 * is valid until the next change.
 */
const List *
sagg_changes(void)
{
	return changes;
}

/*
 * Note a change of the current (sub)transaction; it replaces an earlier one of
 * the same stream. "change" is copied, its level and the change before it are
 * set here.
 */
void
sagg_change_add(const SaggStreamChange *change)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	int			level = GetCurrentTransactionNestLevel();
	SaggStreamChange *last = sagg_change_of(change->view);
	SaggStreamChange *before = last && last->level == level ? last->before : NULL;

	if (last == NULL)
	{
		last = palloc(sizeof(SaggStreamChange));
		changes = lappend(changes, last);
	}
	else if (last->level < level)
	{
		before = palloc(sizeof(SaggStreamChange));
		*before = *last;
	}
	*last = *change;
	last->level = level;
	last->before = before;
	MemoryContextSwitchTo(old);
}

/*
 * Take back the last change of a stream; returns false if there was none
 * before it.
 */
static bool
take_back(SaggStreamChange *change)
{
	SaggStreamChange *before = change->before;

	if (before == NULL)
		return false;
	*change = *before;
	pfree(before);
	return true;
}

/*
 * The change moves to the enclosing transaction, and replaces the one there.
 */
static void
hand_up(SaggStreamChange *change)
{
	SaggStreamChange *before = change->before;

	change->level--;
	if (before && before->level == change->level)
	{
		change->before = before->before;
		pfree(before);
	}
}

static void
on_subtransaction(SubXactEvent event, SubTransactionId subid,
				  SubTransactionId parent, void *arg)
{
	int			level;
	ListCell   *lc;

	if (changes == NIL ||
		(event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB))
		return;
	level = GetCurrentTransactionNestLevel();
	foreach(lc, changes)
	{
		SaggStreamChange *change = lfirst(lc);

		if (change->level < level)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			hand_up(change);
		else if (!take_back(change))
		{
			changes = foreach_delete_current(changes, lc);
			pfree(change);
		}
	}
}

/*
 * Forget all changes, at the end of the transaction.
 */
void
sagg_changes_forget(void)
{
	ListCell   *lc;

	foreach(lc, changes)
	{
		while (take_back(lfirst(lc)))
			;
	}
	list_free_deep(changes);
	changes = NIL;
}

/*
 * Register the callback for ends of subtransactions.
 */
void
sagg_changes_init(void)
{
	RegisterSubXactCallback(on_subtransaction, NULL);
}
