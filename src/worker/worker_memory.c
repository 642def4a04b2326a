/*-------------------------------------------------------------------------
 *
 * worker_memory.c
 *	  Memory that micro-batches have freed: a worker, or an executor, keeps it for
 *	  the next ones, and gives it back when it is not needed.
 *
 * One micro-batch needs what the one before has freed.  Memory that goes back to
 * the operating system in between comes again as pages that the kernel has to
 * clear, which was up to a fifth of the time of a large batch.  So the allocator
 * of a worker returns nothing by itself.  The worker returns what is free
 * stream_agg.memory_release_delay after a batch, and then as often while batches
 * follow one another: no more is kept than was in use within that time (I7).
 *
 * The settings of the allocator are in this file only.  They hold for the whole
 * process, so also for the threads of librdkafka.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "utils/timestamp.h"

#include "worker_internal.h"

/*
 * What is larger is mapped by itself, and unmapped when it is freed.  The most
 * that glibc accepts.  Arrays of a batch with millions of groups are larger.
 */
#define MAPPED_APART	(32 * 1024 * 1024)

/*
 * Make the allocator keep what is freed.  Called when a worker starts, before
 * there are threads.
 */
void
sagg_memory_keep(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_MMAP_THRESHOLD, MAPPED_APART);
	(void) mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

/*
 * A micro-batch has ended.
 */
void
sagg_memory_used(SaggMemoryUse *use)
{
	use->used = GetCurrentTimestamp();
	if (use->since == 0)
		use->since = use->used;
}

/*
 * Give free memory back to the operating system if that is due; if there was no
 * batch in the meantime, also what the reader, which may be NULL, keeps for the next
 * one.  "slot" is the stream's.  Outside of batches.  Returns how many of "timeout_ms"
 * to sleep until it is due.
 */
long
sagg_memory_rest(SaggMemoryUse *use, const SaggSlot *slot, SaggReader *reader, long timeout_ms)
{
	TimestampTz now;
	TimestampTz due;
	bool		idle;

	if (use->since == 0 || sagg_memory_release_delay_ms < 0)
		return timeout_ms;
	now = GetCurrentTimestamp();
	due = TimestampTzPlusMilliseconds(use->since, sagg_memory_release_delay_ms);
	if (now < due)
		return Min(timeout_ms, Max(1, TimestampDifferenceMilliseconds(now, due)));
	idle = now >= TimestampTzPlusMilliseconds(use->used, sagg_memory_release_delay_ms);
	if (idle && reader)
		sagg_reader_give_back(reader);
#ifdef __GLIBC__
	(void) malloc_trim(0);
#endif
	use->since = idle ? 0 : use->used;
	ereport(DEBUG1,
			(errmsg_internal("stream \"%s\" has given free memory back%s",
							 slot->name, idle ? ", and rests" : "")));
	return timeout_ms;
}
