/*-------------------------------------------------------------------------
 *
 * prefetch_thread.c
 *	  What the collector's thread does, and how the process starts and stops it.
 *
 * The thread and the process take turns.  While the collector is busy, queues and
 * what was taken from them are the thread's (SaggPartition), and so is what
 * SaggCollector says is; the process waits until it has put down what it has in
 * hand, a few hundred messages at most.  The thread stops by itself at a message
 * that is an error, which is for the process to judge, and when it has what it was
 * to take.  Between batches it sleeps.
 *
 * Never in the thread: memory, errors, settings, locks or signals of PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "prefetch_internal.h"
#include "kafka_internal.h"

/*
 * Messages of a partition before it is the next one's turn, and how many there are
 * to be for a turn: portions are to be long.
 */
#define TURN				4096
#define LEAST_TURN			SAGG_TAKE_AT_ONCE

/* how soon to look into empty queues again */
#define PAUSE_NS			(1000 * 1000)

/*
 * A place for a record in a chunk, or NULL if there is no more room.
 */
static char *
find_room(SaggCollector *collector, Size size)
{
	if (size > SAGG_CHUNK_SIZE)
		return NULL;
	while (collector->chunk < collector->nchunks)
	{
		SaggChunk  *chunk = collector->chunks[collector->chunk];

		if (chunk->size - chunk->used >= size)
			return chunk->data + chunk->used;
		collector->chunk++;
	}
	return NULL;
}

/*
 * The portion for the partition's next record in a chunk: the last one if that
 * goes on there, or a new one; NULL if there are too many.
 */
static SaggPortion *
find_portion(SaggCollector *collector, SaggPartition *part, SaggChunk *chunk, int64 offset)
{
	SaggPortion *portion;
	int			last = collector->nfound - 1;

	if (last >= 0 && collector->found_of[last] == part &&
		collector->found[last].records.chunk == chunk)
		return &collector->found[last];
	if (collector->nfound == SAGG_MOST_PORTIONS)
		return NULL;
	portion = &collector->found[collector->nfound];
	memset(portion, 0, sizeof(*portion));
	portion->records.run.topic = part->topic;
	portion->records.run.partition = part->partition;
	portion->records.chunk = chunk;
	portion->records.place = portion->records.end = chunk->used;
	portion->records.first = offset;
	portion->headers = collector->headers;
	collector->found_of[collector->nfound++] = part;
	return portion;
}

/*
 * Copy a message.  Returns false if there is no room for it.
 */
static bool
store_message(SaggCollector *collector, SaggShare *share, const rd_kafka_message_t *message)
{
	SaggStoredRecord stored;
	rd_kafka_headers_t *headers;
	Size		size = sagg_message_measure(share->part->topic, message, collector->headers,
											&stored, &headers);
	char	   *room = find_room(collector, size);
	SaggChunk  *chunk;
	SaggPortion *portion;

	if (room == NULL)
		return false;
	chunk = collector->chunks[collector->chunk];
	portion = find_portion(collector, share->part, chunk, stored.offset);
	if (portion == NULL)
		return false;
	sagg_message_copy(room, message, &stored, headers);
	chunk->used += size;
	portion->records.end += size;
	portion->records.run.end++;
	portion->last_offset = stored.offset;
	portion->last_timestamp = stored.timestamp_ms;
	share->next = stored.offset + 1;
	share->left--;
	share->bytes += size;
	return true;
}

/*
 * Copy what has been taken from the partition's queue, as far as it is wanted.
 * Returns false if the rest is not to be collected.  That a partition ends here,
 * for now, is no more than that.
 */
static bool
store_taken(SaggCollector *collector, SaggShare *share)
{
	SaggPartition *part = share->part;

	while (part->next < part->ntaken)
	{
		rd_kafka_message_t *message = part->taken[part->next];

		if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			part->eof = Max(part->eof, message->offset);
		else if (share->left == 0 || message->err != RD_KAFKA_RESP_ERR_NO_ERROR ||
				 (message->offset >= share->next &&
				  !store_message(collector, share, message)))
			return false;
		part->next++;
		rd_kafka_message_destroy(message);
	}
	return true;
}

/*
 * Is there so much of a partition that it is worth while?
 */
static bool
worth_a_turn(const SaggShare *share)
{
	SaggPartition *part = share->part;

	return share->left > 0 &&
		(part->next < part->ntaken ||
		 rd_kafka_queue_length(part->queue) >= Min(share->left, LEAST_TURN));
}

/*
 * A turn of a partition.  Returns the number of records collected; a share that
 * is done has none left.
 */
static int64
collect_share(SaggCollector *collector, SaggShare *share)
{
	SaggPartition *part = share->part;
	int64		wanted = share->left;
	int64		n = 0;

	while (n < Min(TURN, wanted) && pg_atomic_read_u32(&collector->halt) == 0)
	{
		int64		left = share->left;

		if (part->next == part->ntaken)
		{
			ssize_t		taken = rd_kafka_consume_batch_queue(part->queue, 0, part->taken,
															 SAGG_TAKE_AT_ONCE);

			part->next = 0;
			part->ntaken = Max(taken, 0);
		}
		if (part->ntaken == 0)
			break;
		if (!store_taken(collector, share))
		{
			n = wanted - share->left;
			share->left = 0;
			break;
		}
		n = wanted - share->left;
		if (share->left == left)
			break;				/* nothing but records from before the position */
	}
	return n;
}

/*
 * A turn of each partition.  Returns whether all shares are done, and in "found"
 * whether there was anything.
 */
static bool
collect_round(SaggCollector *collector, bool *found)
{
	SaggKafkaReader *reader = collector->reader;
	bool		done = true;

	*found = false;
	for (int i = 0; i < collector->nshares; i++)
	{
		SaggShare  *share = &collector->shares[i];
		int64		bytes = share->bytes;
		int64		n = 0;

		if (worth_a_turn(share))
			n = collect_share(collector, share);
		*found = *found || n > 0;
		if (sagg_queue_was_full(reader, share->part, n, share->bytes - bytes))
			collector->prod = true;
		done = done && share->left == 0;
	}
	if (collector->prod && sagg_kafka_prod(reader, false))
		collector->prod = false;
	return done;
}

/*
 * With the lock held: sleep until something changes, or a while.
 */
static void
pause_collector(SaggCollector *collector)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += PAUSE_NS;
	if (until.tv_nsec >= 1000 * 1000 * 1000)
	{
		until.tv_sec++;
		until.tv_nsec -= 1000 * 1000 * 1000;
	}
	pthread_cond_timedwait(&collector->changed, &collector->lock, &until);
}

static void *
collector_main(void *arg)
{
	SaggCollector *collector = (SaggCollector *) arg;

	pthread_mutex_lock(&collector->lock);
	while (!collector->quit)
	{
		bool		found;
		bool		done;

		if (!collector->wanted)
		{
			collector->busy = false;
			pthread_cond_broadcast(&collector->changed);
			pthread_cond_wait(&collector->changed, &collector->lock);
			continue;
		}
		collector->busy = true;
		pthread_mutex_unlock(&collector->lock);
		done = collect_round(collector, &found);
		pthread_mutex_lock(&collector->lock);
		if (done)
			collector->wanted = false;
		else if (!found && collector->wanted)
			pause_collector(collector);
	}
	collector->busy = false;
	pthread_mutex_unlock(&collector->lock);
	return NULL;
}

/*
 * Start the thread, which serves no signal: they are the process's.  Returns 0, or
 * an errno for lack of resources.
 */
int
sagg_collector_thread_start(SaggCollector *collector)
{
	pthread_condattr_t attributes;
	int			error;

	pg_atomic_init_u32(&collector->halt, 0);
	pthread_mutex_init(&collector->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&collector->changed, &attributes);
	pthread_condattr_destroy(&attributes);

	error = sagg_thread_start(&collector->thread, collector_main, collector);
	if (error != 0)
	{
		pthread_cond_destroy(&collector->changed);
		pthread_mutex_destroy(&collector->lock);
	}
	return error;
}

/*
 * Let the thread take its shares.
 */
void
sagg_collector_thread_run(SaggCollector *collector)
{
	pg_atomic_write_u32(&collector->halt, 0);
	pthread_mutex_lock(&collector->lock);
	collector->wanted = collector->busy = true;
	pthread_cond_broadcast(&collector->changed);
	pthread_mutex_unlock(&collector->lock);
}

/*
 * Wait until the thread has put down what it has in hand.
 */
void
sagg_collector_thread_wait(SaggCollector *collector)
{
	pg_atomic_write_u32(&collector->halt, 1);
	pthread_mutex_lock(&collector->lock);
	collector->wanted = false;
	pthread_cond_broadcast(&collector->changed);
	while (collector->busy)
		pthread_cond_wait(&collector->changed, &collector->lock);
	pthread_mutex_unlock(&collector->lock);
}

/*
 * End the thread.
 */
void
sagg_collector_thread_end(SaggCollector *collector)
{
	pg_atomic_write_u32(&collector->halt, 1);
	pthread_mutex_lock(&collector->lock);
	collector->quit = true;
	pthread_cond_broadcast(&collector->changed);
	pthread_mutex_unlock(&collector->lock);
	pthread_join(collector->thread, NULL);
	pthread_cond_destroy(&collector->changed);
	pthread_mutex_destroy(&collector->lock);
}
