/*-------------------------------------------------------------------------
 *
 * prefetch_internal.h
 *	  What prefetch.c and its thread share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_PREFETCH_INTERNAL_H
#define SAGG_PREFETCH_INTERNAL_H

#include <pthread.h>

#include "port/atomics.h"

#include "kafka_internal.h"

/* most chunks and prefetched runs that are filled during a batch */
#define SAGG_MOST_CHUNKS	64
#define SAGG_MAX_PREFETCHED_RUNS	4096

/* What to take of a partition. */
typedef struct SaggQuota
{
	SaggPartition *part;
	int64		next;			/* offset of the next record */
	int64		left;			/* records that are left to take */
	int64		bytes;			/* bytes taken so far */
} SaggQuota;

typedef struct SaggPrefetch
{
	SaggKafkaReader *reader;
	pthread_t	thread;
	pthread_mutex_t lock;		/* protects the next three */
	bool		wanted;			/* the thread has work */
	bool		busy;			/* the thread may be working */
	bool		quit;
	pthread_cond_t changed;
	pg_atomic_uint32 halt;		/* set to stop the thread; checked between
								 * messages */

	/* owned by the thread while it is busy */
	bool		headers;
	int			nquotas;
	int			max_quotas;
	SaggQuota  *quotas;
	int			nchunks;
	int			chunk;			/* number of the chunk being filled */
	SaggChunk  *chunks[SAGG_MOST_CHUNKS];
	bool		wake;			/* see sagg_kafka_wake_fetcher */
	int			nfound;
	SaggPartition *found_of[SAGG_MAX_PREFETCHED_RUNS];
	SaggPrefetchedRun found[SAGG_MAX_PREFETCHED_RUNS];
} SaggPrefetch;

/* prefetch_thread.c: called by the process */
extern int	sagg_prefetch_thread_start(SaggPrefetch *prefetch);
extern void sagg_prefetch_thread_run(SaggPrefetch *prefetch);
extern void sagg_prefetch_thread_wait(SaggPrefetch *prefetch);
extern void sagg_prefetch_thread_end(SaggPrefetch *prefetch);

#endif							/* SAGG_PREFETCH_INTERNAL_H */
