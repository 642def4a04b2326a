/*-------------------------------------------------------------------------
 *
 * stream_changes.c
 *	  What the current transaction does with streams at its end, by stream.
 *
 * A stream has one entry, which is the last change; what was so before, in the
 * transactions around a subtransaction, is behind it, one change for each level.
 * So the list is as long as there are streams that are changed, however many
 * subtransactions change them, and a subtransaction that is rolled back leaves
 * nothing.
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
 * What the transaction has done last with the stream of a view; NULL if nothing.
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
 * All of them, of SaggStreamChange, in no order that matters.  The list is valid
 * until the next change.
 */
const List *
sagg_changes(void)
{
	return changes;
}

/*
 * Note a change of the current (sub)transaction; it replaces an earlier one of
 * the same stream.  "change" is copied, its level and what is before it are set
 * here.
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
 * Take the last change of a stream back; false if there was none before it.
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
 * The change becomes one of the transaction around, instead of the one there.
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
 * Have the ends of subtransactions told.
 */
void
sagg_changes_init(void)
{
	RegisterSubXactCallback(on_subtransaction, NULL);
}
