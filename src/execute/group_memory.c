/*-------------------------------------------------------------------------
 *
 * group_memory.c
 *	  Bounds the private memory of a batch's groups (I7).
 *
 * The state of a group can grow by much more than the size of a record: a sum
 * of numeric takes 260 kB for one value like 1e131071.  So the memory of keys
 * and states is checked after each row, or every few rows.  Above the bound
 * the batch fails with ERRCODE_SAGG_GROUP_MEMORY, and the worker tries a
 * smaller one (worker/batch_size.c).
 *
 * A batch of a single offset has no bound, because it cannot be made smaller.
 * A group that has grown over many batches must not be too large for the next
 * one, so the largest group that is loaded raises the bound.
 *
 * Reading the size of one memory context costs nothing.  States can be in
 * contexts below it; these are summed up less and less often.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "streams/streams.h"
#include "execute_internal.h"

/* least bound, whatever the setting is */
#define LEAST_BOUND		((Size) 64 * 1024 * 1024)

/* bytes of memory for each stored one of a group, while it grows */
#define LOADED_FACTOR	4

#define FIRST_SUM		256		/* rows before contexts are summed up */

/*
 * Returns the bytes that the groups of a batch may take.
 */
Size
sagg_group_memory_bound(void)
{
	return Max((Size) sagg_batch_memory_kb * 1024 * 2, LEAST_BOUND);
}

/*
 * Returns the bytes that the groups of an execution take.
 */
Size
sagg_execution_group_memory(const SaggExecution *ex)
{
	return MemoryContextMemAllocated(ex->group_memory.context, true);
}

/*
 * Groups are about to be made in "context", and contexts below it.
 */
void
sagg_group_memory_init(SaggExecution *ex, MemoryContext context)
{
	int64		offsets = 0;

	for (int i = 0; i < ex->plan->nranges; i++)
		offsets = sagg_add_saturated(offsets, ex->plan->ranges[i].end - ex->plan->ranges[i].start);
	ex->group_memory.context = context;
	ex->group_memory.bound = offsets == 1 ? MaxAllocHugeSize : sagg_group_memory_bound();
	ex->group_memory.next_sum = FIRST_SUM;
}

/*
 * A group of this many stored bytes is being loaded.
 */
void
sagg_group_memory_load(SaggExecution *ex, Size len)
{
	Size		bound = sagg_group_memory_bound() + len * LOADED_FACTOR;

	ex->group_memory.bound = Max(ex->group_memory.bound, bound);
}

/*
 * Sum up, and raise ERRCODE_SAGG_GROUP_MEMORY if the groups take too much.
 */
void
sagg_group_memory_sum(SaggExecution *ex)
{
	SaggGroupMemory *memory = &ex->group_memory;
	Size		taken = sagg_execution_group_memory(ex);

	memory->next_sum = memory->rows + FIRST_SUM + memory->rows / 4;
	if (taken <= memory->bound)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_GROUP_MEMORY),
			 errmsg("the groups of a micro-batch of stream \"%s\" take more than %zu kB of memory",
					sagg_stream_title(ex->stream->name), memory->bound / 1024),
			 errdetail("They take %zu kB after " INT64_FORMAT " rows.", taken / 1024, memory->rows),
			 errhint("Increase stream_agg.batch_memory, of which they can take twice as much, or cast values to types that bound them, such as numeric(30,6).")));
}
