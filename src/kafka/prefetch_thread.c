/*-------------------------------------------------------------------------
 *
 * prefetch_thread.c
 *	  The prefetch thread: what it does, and how the process starts and stops
 *	  it.
 *
 * The thread and the process take turns.  While the prefetch is busy, the
 * thread owns the queues and what was taken from them (SaggPartition), and the
 * fields of SaggPrefetch marked so; the process waits until it has stored the
 * messages it has taken, a few hundred at most.  The thread stops by itself at
 * a message that is an error, which the process handles, and when its quotas
 * are filled.  Between batches it sleeps.
 *
 * The thread never uses memory, errors, settings, locks or signals of
 * PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "prefetch_internal.h"
#include "kafka_internal.h"

/*
 * How many messages of a partition are taken in one turn, and how many must be
 * there for a turn: prefetched runs should be long.
 */
#define TURN				4096
#define LEAST_TURN			SAGG_TAKE_AT_ONCE

/* pause before empty queues are polled again */
#define PAUSE_NS			(1000 * 1000)

/*
 * Returns a place for a record in a chunk, or NULL if there is no more room.
 */
static char *
find_room(SaggPrefetch *prefetch, Size size)
{
	if (size > SAGG_CHUNK_SIZE)
		return NULL;
	while (prefetch->chunk < prefetch->nchunks)
	{
		SaggChunk  *chunk = prefetch->chunks[prefetch->chunk];

		if (chunk->size - chunk->used >= size)
			return chunk->data + chunk->used;
		prefetch->chunk++;
	}
	return NULL;
}

/*
 * Returns the run for the partition's next record in a chunk: the last run if
 * it continues there, or a new one; NULL if there are too many.
 */
static SaggPrefetchedRun *
find_run(SaggPrefetch *prefetch, SaggPartition *part, SaggChunk *chunk, int64 offset)
{
	SaggPrefetchedRun *run;
	int			last = prefetch->nfound - 1;

	if (last >= 0 && prefetch->found_of[last] == part &&
		prefetch->found[last].records.chunk == chunk)
		return &prefetch->found[last];
	if (prefetch->nfound == SAGG_MAX_PREFETCHED_RUNS)
		return NULL;
	run = &prefetch->found[prefetch->nfound];
	memset(run, 0, sizeof(*run));
	run->records.run.topic = part->topic;
	run->records.run.partition = part->partition;
	run->records.chunk = chunk;
	run->records.place = run->records.end = chunk->used;
	run->records.first = offset;
	run->headers = prefetch->headers;
	prefetch->found_of[prefetch->nfound++] = part;
	return run;
}

/*
 * Copy a message.  Returns false if there is no room for it.
 */
static bool
store_message(SaggPrefetch *prefetch, SaggQuota *quota, const rd_kafka_message_t *message)
{
	SaggStoredRecord stored;
	rd_kafka_headers_t *headers;
	Size		size = sagg_message_measure(message, prefetch->headers, &stored, &headers);
	char	   *room = find_room(prefetch, size);
	SaggChunk  *chunk;
	SaggPrefetchedRun *run;

	if (room == NULL)
		return false;
	chunk = prefetch->chunks[prefetch->chunk];
	run = find_run(prefetch, quota->part, chunk, stored.offset);
	if (run == NULL)
		return false;
	sagg_message_copy(room, message, &stored, headers);
	chunk->used += size;
	run->records.end += size;
	run->records.run.end++;
	run->last_offset = stored.offset;
	run->last_timestamp = stored.timestamp_ms;
	quota->next = stored.offset + 1;
	quota->left--;
	quota->bytes += size;
	return true;
}

/*
 * Copy what has been taken from the partition's queue, as far as it is wanted.
 * Returns false if the rest must not be collected.  A message that the
 * partition ends here, for now, only sets "eof".
 */
static bool
store_taken(SaggPrefetch *prefetch, SaggQuota *quota)
{
	SaggPartition *part = quota->part;

	while (part->next < part->ntaken)
	{
		rd_kafka_message_t *message = part->taken[part->next];

		if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			part->eof = Max(part->eof, message->offset);
		else if (quota->left == 0 || message->err != RD_KAFKA_RESP_ERR_NO_ERROR ||
				 (message->offset >= quota->next &&
				  !store_message(prefetch, quota, message)))
			return false;
		part->next++;
		rd_kafka_message_destroy(message);
	}
	return true;
}

/*
 * Returns whether a partition has enough messages for a turn.
 */
static bool
worth_a_turn(const SaggQuota *quota)
{
	SaggPartition *part = quota->part;

	return quota->left > 0 &&
		(part->next < part->ntaken ||
		 rd_kafka_queue_length(part->queue) >= Min(quota->left, LEAST_TURN));
}

/*
 * Take a turn of a partition.  Returns the number of records collected; a
 * quota that is filled has none left.
 */
static int64
fill_quota(SaggPrefetch *prefetch, SaggQuota *quota)
{
	SaggPartition *part = quota->part;
	int64		wanted = quota->left;
	int64		n = 0;

	while (n < Min(TURN, wanted) && pg_atomic_read_u32(&prefetch->halt) == 0)
	{
		int64		left = quota->left;

		if (part->next == part->ntaken)
		{
			ssize_t		taken = rd_kafka_consume_batch_queue(part->queue, 0, part->taken,
															 SAGG_TAKE_AT_ONCE);

			part->next = 0;
			part->ntaken = Max(taken, 0);
		}
		if (part->ntaken == 0)
			break;
		if (!store_taken(prefetch, quota))
		{
			n = wanted - quota->left;
			quota->left = 0;
			break;
		}
		n = wanted - quota->left;
		if (quota->left == left)
			break;				/* only records from before the position */
	}
	return n;
}

/*
 * Take a turn of each partition.  Returns whether all quotas are filled, and
 * in "found" whether there was anything.
 */
static bool
collect_round(SaggPrefetch *prefetch, bool *found)
{
	SaggKafkaReader *reader = prefetch->reader;
	bool		done = true;

	*found = false;
	for (int i = 0; i < prefetch->nquotas; i++)
	{
		SaggQuota  *quota = &prefetch->quotas[i];
		int64		bytes = quota->bytes;
		int64		n = 0;

		if (worth_a_turn(quota))
			n = fill_quota(prefetch, quota);
		*found = *found || n > 0;
		if (sagg_queue_was_full(reader, quota->part, n, quota->bytes - bytes))
			prefetch->wake = true;
		done = done && quota->left == 0;
	}
	if (prefetch->wake && sagg_kafka_wake_fetcher(reader, false))
		prefetch->wake = false;
	return done;
}

/*
 * With the lock held: sleep until something changes, for a limited time.
 */
static void
pause_prefetch(SaggPrefetch *prefetch)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += PAUSE_NS;
	if (until.tv_nsec >= 1000 * 1000 * 1000)
	{
		until.tv_sec++;
		until.tv_nsec -= 1000 * 1000 * 1000;
	}
	pthread_cond_timedwait(&prefetch->changed, &prefetch->lock, &until);
}

static void *
prefetch_main(void *arg)
{
	SaggPrefetch *prefetch = (SaggPrefetch *) arg;

	pthread_mutex_lock(&prefetch->lock);
	while (!prefetch->quit)
	{
		bool		found;
		bool		done;

		if (!prefetch->wanted)
		{
			prefetch->busy = false;
			pthread_cond_broadcast(&prefetch->changed);
			pthread_cond_wait(&prefetch->changed, &prefetch->lock);
			continue;
		}
		prefetch->busy = true;
		pthread_mutex_unlock(&prefetch->lock);
		done = collect_round(prefetch, &found);
		pthread_mutex_lock(&prefetch->lock);
		if (done)
			prefetch->wanted = false;
		else if (!found && prefetch->wanted)
			pause_prefetch(prefetch);
	}
	prefetch->busy = false;
	pthread_mutex_unlock(&prefetch->lock);
	return NULL;
}

/*
 * Start the thread, which handles no signal: the process does.  Returns 0, or
 * an errno when resources are exhausted.
 */
int
sagg_prefetch_thread_start(SaggPrefetch *prefetch)
{
	pthread_condattr_t attributes;
	int			error;

	pg_atomic_init_u32(&prefetch->halt, 0);
	pthread_mutex_init(&prefetch->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&prefetch->changed, &attributes);
	pthread_condattr_destroy(&attributes);

	error = sagg_thread_start(&prefetch->thread, prefetch_main, prefetch);
	if (error != 0)
	{
		pthread_cond_destroy(&prefetch->changed);
		pthread_mutex_destroy(&prefetch->lock);
	}
	return error;
}

/*
 * Let the thread fill its quotas.
 */
void
sagg_prefetch_thread_run(SaggPrefetch *prefetch)
{
	pg_atomic_write_u32(&prefetch->halt, 0);
	pthread_mutex_lock(&prefetch->lock);
	prefetch->wanted = prefetch->busy = true;
	pthread_cond_broadcast(&prefetch->changed);
	pthread_mutex_unlock(&prefetch->lock);
}

/*
 * Wait until the thread has stored the messages it has taken.
 */
void
sagg_prefetch_thread_wait(SaggPrefetch *prefetch)
{
	pg_atomic_write_u32(&prefetch->halt, 1);
	pthread_mutex_lock(&prefetch->lock);
	prefetch->wanted = false;
	pthread_cond_broadcast(&prefetch->changed);
	while (prefetch->busy)
		pthread_cond_wait(&prefetch->changed, &prefetch->lock);
	pthread_mutex_unlock(&prefetch->lock);
}

/*
 * End the thread.
 */
void
sagg_prefetch_thread_end(SaggPrefetch *prefetch)
{
	pg_atomic_write_u32(&prefetch->halt, 1);
	pthread_mutex_lock(&prefetch->lock);
	prefetch->quit = true;
	pthread_cond_broadcast(&prefetch->changed);
	pthread_mutex_unlock(&prefetch->lock);
	pthread_join(prefetch->thread, NULL);
	pthread_cond_destroy(&prefetch->changed);
	pthread_mutex_destroy(&prefetch->lock);
}
