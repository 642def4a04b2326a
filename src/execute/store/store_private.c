/*-------------------------------------------------------------------------
 *
 * store_private.c
 *	  A state store for one process, to look at a stream's state.
 *
 * It works as the one in shared memory does, and is made anew from the state
 * log by whoever wants to see or to try what a batch would make of it.  Its
 * area lies in the memory of the process and never grows, so there is nothing
 * to clean up but a memory context.
 *
 * Never: to be published, closed or discarded, nor seen by another process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/lwlock.h"
#include "utils/memutils.h"

#include "streams/streams.h"
#include "execute/store/store_internal.h"

/*
 * How many bytes a group may take for each of its bytes in the log: the least
 * entry is alone in its window, with a table and slots of its own.  What is not
 * touched is no more than address space.
 */
#define ROOM_PER_LOG_BYTE	20
#define ROOM_AT_LEAST		((Size) 16 * 1024 * 1024)

static Size
reserve_nothing(void *arg, Size present, Size least, Size wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("the state of stream \"%s\" does not fit into %zu kB of this session's memory",
					sagg_stream_title((char *) arg), present / 1024)));
	return 0;
}

/*
 * An empty store for the state that "batch" left under a definition, whose log
 * has "log_bytes".  Lives in the current context and goes with it.
 */
SaggStore *
sagg_store_private(const char *stream, int64 log_bytes, uint64 fingerprint,
				   int64 batch)
{
	SaggStore  *store = palloc0(sizeof(SaggStore));
	SaggStoreBudget *budget = palloc(sizeof(SaggStoreBudget));
	Size		size = ROOM_AT_LEAST + ROOM_PER_LOG_BYTE * (Size) log_bytes;

	budget->stream = pstrdup(stream);
	budget->reserve = reserve_nothing;
	budget->arg = pstrdup(stream);
	store->budget = budget;
	store->memory = AllocSetContextCreate(CurrentMemoryContext, "stream_agg undo",
										  ALLOCSET_DEFAULT_SIZES);
	store->header = palloc0(sizeof(SaggStoreHeader));
	store->header->fingerprint = fingerprint;
	store->header->batch = batch;
	store->header->size = size;
	sagg_store_init_header(store->header);
	store->area = dsa_create_in_place(MemoryContextAllocHuge(CurrentMemoryContext, size),
									  size, LWTRANCHE_PARALLEL_QUERY_DSA, NULL);
	dsa_set_size_limit(store->area, size);
	return store;
}
