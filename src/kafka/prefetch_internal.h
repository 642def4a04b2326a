/*-------------------------------------------------------------------------
 *
 * prefetch_internal.h
 *	  What prefetch.c and the thread it has share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_PREFETCH_INTERNAL_H
#define SAGG_PREFETCH_INTERNAL_H

#include <pthread.h>

#include "port/atomics.h"

#include "kafka_internal.h"

/* chunks and portions that may be filled during a batch */
#define SAGG_MOST_CHUNKS	64
#define SAGG_MOST_PORTIONS	4096

/* What to take of a partition. */
typedef struct SaggShare
{
	SaggPartition *part;
	int64		next;			/* offset */
	int64		left;			/* records */
	int64		bytes;			/* taken so far */
} SaggShare;

typedef struct SaggCollector
{
	SaggKafkaReader *reader;
	pthread_t	thread;
	pthread_mutex_t lock;		/* of the next three */
	bool		wanted;			/* it is to work */
	bool		busy;			/* it may */
	bool		quit;
	pthread_cond_t changed;
	pg_atomic_uint32 halt;		/* wanted no more; between two portions */

	/* while it is busy, the thread's */
	bool		headers;
	int			nshares;
	int			max_shares;
	SaggShare  *shares;
	int			nchunks;
	int			chunk;			/* being filled */
	SaggChunk  *chunks[SAGG_MOST_CHUNKS];
	bool		prod;			/* see sagg_kafka_prod */
	int			nfound;
	SaggPartition *found_of[SAGG_MOST_PORTIONS];
	SaggPortion found[SAGG_MOST_PORTIONS];
} SaggCollector;

/* prefetch_thread.c: called by the process */
extern int	sagg_collector_thread_start(SaggCollector *collector);
extern void sagg_collector_thread_run(SaggCollector *collector);
extern void sagg_collector_thread_wait(SaggCollector *collector);
extern void sagg_collector_thread_end(SaggCollector *collector);

#endif							/* SAGG_PREFETCH_INTERNAL_H */
