/*-------------------------------------------------------------------------
 *
 * store_limit.c
 *	  Growth of a store: within its budget, and with a clean error when memory
 *	  is exhausted.
 *
 * The area of a store does not grow beyond its size limit.  An allocation that
 * does not fit asks the store's budget, which sets the new limit.  So the
 * limits of the settings hold exactly, and what a store was given counts as
 * taken until the store is discarded, because the server does not say how much
 * of it is free again.
 *
 * When the system has no dynamic shared memory left, the server reports that
 * by an ERROR of several kinds; here it becomes ERRCODE_SAGG_STATE_LIMIT.
 *
 * On Linux the server reserves a segment's memory when it makes it
 * (posix_fallocate), so a full /dev/shm is an error here rather than a SIGBUS
 * later.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "execute/store/store_internal.h"

/* a store grows by at least this, if the budget allows */
#define GROWTH_MIN			((Size) 1024 * 1024)

/*
 * what an allocation takes besides its size: a block of spans, the headers of
 * a segment, and eight bytes for each of its pages
 */
#define GROWTH_OVERHEAD(size)	((size) / 256 + (Size) 128 * 1024)

static void
no_memory(const SaggStoreBudget *budget, Size present, const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_STATE_LIMIT),
			 errmsg("no shared memory is left for the state of stream \"%s\"", budget->stream),
			 errdetail_internal("The state takes %zu kB. %s.", present / 1024, reason),
			 errhint("Provide more dynamic shared memory (containers often have no more than 64 MB, see --shm-size), "
					 "a shorter watermark or fewer groups, then run stream_agg.start_stream.")));
}

/*
 * Rethrow the current error, as ours if it says that shared memory is
 * exhausted.  Locks of the area may be held, as after any ERROR.
 */
static void
rethrow(const SaggStoreBudget *budget, Size present, MemoryContext memory)
{
	ErrorData  *error;

	MemoryContextSwitchTo(memory);
	error = CopyErrorData();
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_INSUFFICIENT_RESOURCES &&
		ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_SYSTEM_ERROR)
		PG_RE_THROW();
	FlushErrorState();
	no_memory(budget, present, psprintf("The server reports: %s", error->message));
}

/*
 * Does dsm_create, for a new store of "stream".  Raises
 * ERRCODE_SAGG_STATE_LIMIT.
 */
dsm_segment *
sagg_store_create_segment(const SaggStoreBudget *budget, Size size)
{
	MemoryContext memory = CurrentMemoryContext;
	dsm_segment *segment = NULL;

	(void) budget->reserve(budget->arg, 0, size, size);
	PG_TRY();
	{
		segment = dsm_create(size, 0);
	}
	PG_CATCH();
	{
		rethrow(budget, 0, memory);
	}
	PG_END_TRY();
	return segment;
}

/*
 * Returns the bytes of shared memory that the store has been given.
 */
Size
sagg_store_size(SaggStore *store)
{
	return store->header->size;
}

/*
 * Get more memory from the budget.  Raises ERRCODE_SAGG_STATE_LIMIT.
 */
static void
grow(SaggStore *store, Size size)
{
	Size		present = store->header->size;
	Size		least = size + GROWTH_OVERHEAD(size);
	Size		wanted = Max(least, Max(GROWTH_MIN, present / 4));

	store->header->size = present +
		store->budget->reserve(store->budget->arg, present, least, wanted);
	dsa_set_size_limit(store->area, store->header->size);
}

/*
 * Does dsa_allocate_extended, but raises ERRCODE_SAGG_STATE_LIMIT when memory
 * is exhausted.  Returns InvalidDsaPointer if the area has to grow.
 */
static dsa_pointer
try_to_allocate(SaggStore *store, Size size)
{
	MemoryContext memory = CurrentMemoryContext;
	int			flags = DSA_ALLOC_NO_OOM | (size > MaxAllocSize ? DSA_ALLOC_HUGE : 0);
	volatile dsa_pointer result = InvalidDsaPointer;

	PG_TRY();
	{
		result = dsa_allocate_extended(store->area, size, flags);
	}
	PG_CATCH();
	{
		rethrow(store->budget, store->header->size, memory);
	}
	PG_END_TRY();
	return result;
}

/*
 * Allocate memory of the store.  Raises ERRCODE_SAGG_STATE_LIMIT when the
 * store must not or cannot grow.
 */
dsa_pointer
sagg_store_allocate(SaggStore *store, Size size)
{
	dsa_pointer result = try_to_allocate(store, size);

	if (DsaPointerIsValid(result))
		return result;
	grow(store, size);
	result = try_to_allocate(store, size);
	if (!DsaPointerIsValid(result))
		no_memory(store->budget, store->header->size,
				  psprintf("The server cannot give %zu bytes more", size));
	return result;
}
