/*-------------------------------------------------------------------------
 *
 * prefetch.c
 *	  Prefetch: collects the records of the next batches while one is executed.
 *
 * Taking messages from librdkafka's queues, copying them and returning them is
 * a fifth of the cost of a large batch, and needs nothing of PostgreSQL.  So
 * from the end of READ to the release of the batch a thread does it
 * (prefetch_thread.c): it takes as many records of each partition as the batch
 * has, which is what the next one will want (its quota), into chunks provided
 * for that.  The next batches take what it has found from prefetched_runs.c,
 * if their plans say so; plans do not depend on it.
 *
 * Without memory or a thread for it, the process does everything itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "prefetch_internal.h"

/*
 * Make a prefetch with a thread that sleeps; returns NULL when resources are
 * exhausted.
 */
static SaggPrefetch *
make_prefetch(SaggKafkaReader *reader)
{
	SaggPrefetch *prefetch = MemoryContextAllocExtended(reader->base.memory, sizeof(SaggPrefetch),
														MCXT_ALLOC_ZERO | MCXT_ALLOC_NO_OOM);

	if (prefetch == NULL)
		return NULL;
	prefetch->reader = reader;
	if (sagg_prefetch_thread_start(prefetch) == 0)
		return prefetch;
	pfree(prefetch);
	return NULL;
}

/*
 * Make room for the quotas of all partitions; returns false if there is no
 * memory.
 */
static bool
make_room_for_quotas(SaggPrefetch *prefetch, int n)
{
	if (prefetch->max_quotas >= n)
		return true;
	if (prefetch->quotas)
		pfree(prefetch->quotas);
	prefetch->quotas = MemoryContextAllocExtended(prefetch->reader->base.memory,
												  sizeof(SaggQuota) * n, MCXT_ALLOC_NO_OOM);
	prefetch->max_quotas = prefetch->quotas ? n : 0;
	return prefetch->quotas != NULL;
}

/*
 * Determine what to take: of each partition of the batch as many records
 * again, less those that are there already; "held" is set to their bytes.
 * Returns false if there is nothing to take.
 */
static bool
plan_quotas(SaggPrefetch *prefetch, Size *held)
{
	SaggKafkaReader *reader = prefetch->reader;

	*held = 0;
	prefetch->nquotas = 0;
	prefetch->wake = false;
	if (!make_room_for_quotas(prefetch, reader->npartitions))
		return false;
	for (int i = 0; i < reader->npartitions; i++)
	{
		SaggPartition *part = reader->partitions[i];
		SaggQuota  *quota = &prefetch->quotas[prefetch->nquotas];

		*held += sagg_prefetched_bytes(part);
		quota->part = part;
		quota->next = sagg_prefetched_end(part);
		quota->left = part->range_end - part->range_start - (quota->next - part->position);
		quota->bytes = 0;
		if (part->range_end >= 0 && !part->lost && quota->left > 0)
			prefetch->nquotas++;
	}
	return prefetch->nquotas > 0;
}

/*
 * Provide chunks for as much as the batch has, and somewhat more; together
 * with what is held, at most what queues leave of the fetch memory, but at least
 * one.  Returns false if there is none.
 */
static bool
provide_chunks(SaggPrefetch *prefetch, Size held)
{
	SaggBatch  *batch = prefetch->reader->base.batch;
	Size		most = (Size) sagg_fetch_memory_kb * 1024 / SAGG_QUEUES_SHARE * (SAGG_QUEUES_SHARE - 1);
	Size		wanted = Min(batch->bytes + batch->bytes / 8, most - Min(most, held));
	int			n = Min(wanted / SAGG_CHUNK_SIZE + 1, SAGG_MOST_CHUNKS);

	prefetch->chunk = 0;
	while (prefetch->nchunks < n)
	{
		SaggChunk  *chunk = sagg_chunk_take(batch, SAGG_CHUNK_SIZE, true);

		if (chunk == NULL)
			break;
		prefetch->chunks[prefetch->nchunks++] = chunk;
	}
	return prefetch->nchunks > 0;
}

/*
 * The batch is complete and will be executed: prefetch what comes after it
 * until the reader is used again, if the batch is large enough to make that
 * worthwhile.
 */
void
sagg_kafka_collect_ahead(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	SaggBatch  *batch = reader->base.batch;
	SaggPrefetch *prefetch;
	Size		held;

	if (reader->fetch == NULL || batch->file != NULL || sagg_collect_ahead < 0 ||
		batch->nrecords < Max(sagg_collect_ahead, 1))
		return;
	sagg_prefetch_halt(reader);
	if (reader->prefetch == NULL)
		reader->prefetch = make_prefetch(reader);
	prefetch = reader->prefetch;
	if (prefetch == NULL || !plan_quotas(prefetch, &held) ||
		!provide_chunks(prefetch, held))
		return;
	prefetch->headers = batch->keep_headers;
	sagg_prefetch_thread_run(prefetch);
}

static void
give_chunks_back(SaggPrefetch *prefetch)
{
	while (prefetch->nchunks > 0)
		sagg_chunk_release(prefetch->reader->base.batch,
						   prefetch->chunks[--prefetch->nchunks]);
}

/*
 * Stop the prefetch: from now on the partitions belong to the process again,
 * with what was collected.
 */
void
sagg_prefetch_halt(SaggKafkaReader *reader)
{
	SaggPrefetch *prefetch = reader->prefetch;
	int			nfound;
	int64		records = 0;

	if (prefetch == NULL || prefetch->nchunks == 0)
		return;
	sagg_prefetch_thread_wait(prefetch);
	nfound = prefetch->nfound;
	prefetch->nfound = 0;
	for (int i = 0; i < nfound; i++)
	{
		sagg_prefetched_add(reader, prefetch->found_of[i], &prefetch->found[i]);
		records += prefetch->found[i].records.run.end;
	}
	give_chunks_back(prefetch);
	ereport(DEBUG1,
			(errmsg_internal("collected " INT64_FORMAT " records of micro-batches to come",
							 records)));
}

/*
 * End the thread, and discard what it has collected.  Raises no error.
 */
void
sagg_prefetch_end(SaggKafkaReader *reader)
{
	SaggPrefetch *prefetch = reader->prefetch;

	if (prefetch == NULL)
		return;
	reader->prefetch = NULL;
	sagg_prefetch_thread_end(prefetch);
	give_chunks_back(prefetch);
	if (prefetch->quotas)
		pfree(prefetch->quotas);
	pfree(prefetch);
}
