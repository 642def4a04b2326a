/*-------------------------------------------------------------------------
 *
 * state_convert.c
 *	  Converts the state of one query into that of another, which has some of
 *	  its aggregates.
 *
 * Groups are read as the one query wrote them and written as the other reads
 * them.  Both have the same window and keys, so a group keeps its place.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"

#include "execute/window/session_windows.h"

/*
 * Convert one group: "from_group" and "to_group" are scratch.
 */
static void
convert_group(SaggExecution *from, SaggExecution *to, SaggGroup *from_group,
			  SaggGroup *to_group, SaggEntry entry, const int *origins)
{
	sagg_entry_read(from, from_group, entry.data, entry.len, true);
	to_group->start = from_group->start;
	if (SAGG_HAS_SESSIONS(to))
		((SaggSessionWindow *) to_group)->end = ((SaggSessionWindow *) from_group)->end;
	to_group->keys = from_group->keys;
	to_group->keynulls = from_group->keynulls;
	sagg_states_init(to, to_group->states);
	for (int i = 0; i < to->query->naggs; i++)
	{
		if (origins[i] >= 0)
			to_group->states[i] = from_group->states[origins[i]];
	}
	sagg_entry_write(to, &to->entry, to_group);
}

/*
 * Give "to", whose store is empty, all groups in the store of "from".
 * origins[i] is the aggregate of "from" whose state aggregate i of "to"
 * continues; -1: it begins empty.  In the store of "to" all groups are
 * changes.
 */
void
sagg_execution_convert(SaggExecution *from, SaggExecution *to, const int *origins)
{
	SaggGroup  *from_group = sagg_groups_allocate(from);
	SaggGroup  *to_group = sagg_groups_allocate(to);
	SaggScan	scan;

	/* groups keep their place, so their hashes do */
	sagg_store_set_seed(to->store, from->seed);
	sagg_scan_store(&scan, from->store);
	while (sagg_scan_next_unit(&scan))
	{
		while (sagg_scan_next(&scan))
		{
			MemoryContext old = MemoryContextSwitchTo(to->tmpcontext->ecxt_per_tuple_memory);

			convert_group(from, to, from_group, to_group,
						  sagg_store_entry(from->store, scan.stored), origins);
			MemoryContextSwitchTo(old);
			sagg_store_put(to->store, scan.start, scan.hash, SAGG_NOT_STORED,
						   to->entry.data, to->entry.len);
			ResetExprContext(to->tmpcontext);
			ReScanExprContext(from->aggcontext);
			ReScanExprContext(to->aggcontext);
		}
	}
}
