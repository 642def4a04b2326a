/*-------------------------------------------------------------------------
 *
 * store_private.c
 *	  A private state store, for a process that inspects a stream's state.
 *
 * It works like the one in shared memory.  A process that inspects the state,
 * or tries what a batch would make of it, fills it from the state log.  Its
 * area lies in the memory of the process and never grows, so freeing a memory
 * context cleans it up.
 *
 * It is never published, closed or discarded, nor seen by another process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/lwlock.h"
#include "utils/memutils.h"

#include "streams/streams.h"
#include "execute/store/store_internal.h"

/*
 * Upper bound of the bytes that a group takes for each of its bytes in the
 * log: the smallest entry may be alone in its window, with a table and slots
 * of its own.  Memory that is never touched is only address space.
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
 * Returns an empty store for the state that "batch" left under a definition,
 * whose log has "log_bytes".  Lives in the current context and is freed with
 * it.
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
	store->bound = SIZE_MAX;
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
