/*-------------------------------------------------------------------------
 *
 * prefetch.c
 *	  Collecting the records of the batches to come while one is executed.
 *
 * Taking messages from librdkafka's queues, copying them and giving them back is
 * a fifth of what a large batch costs, and needs nothing of PostgreSQL.  So from
 * the end of READ to the release of the batch a thread does it
 * (prefetch_thread.c): it takes as many records of each partition as the batch
 * has, which is what the next one will want, into chunks it is given for that.
 * What it has found the next batches take from prefetched_runs.c, if their plans say so;
 * plans do not depend on it.
 *
 * Where there is no memory or no thread for it, the process does all by itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "prefetch_internal.h"

/*
 * A collector with a thread that sleeps; NULL for lack of resources.
 */
static SaggCollector *
make_collector(SaggKafkaReader *reader)
{
	SaggCollector *collector = MemoryContextAllocExtended(reader->base.memory, sizeof(SaggCollector),
														  MCXT_ALLOC_ZERO | MCXT_ALLOC_NO_OOM);

	if (collector == NULL)
		return NULL;
	collector->reader = reader;
	if (sagg_collector_thread_start(collector) == 0)
		return collector;
	pfree(collector);
	return NULL;
}

/*
 * Room for the shares of all partitions; false if there is none.
 */
static bool
make_room_for_shares(SaggCollector *collector, int n)
{
	if (collector->max_shares >= n)
		return true;
	if (collector->shares)
		pfree(collector->shares);
	collector->shares = MemoryContextAllocExtended(collector->reader->base.memory,
												   sizeof(SaggShare) * n, MCXT_ALLOC_NO_OOM);
	collector->max_shares = collector->shares ? n : 0;
	return collector->shares != NULL;
}

/*
 * What to take: of each partition of the batch as many records again, less those
 * that are there; "held" tells how many bytes these are.  False if there is nothing
 * to take.
 */
static bool
plan_shares(SaggCollector *collector, Size *held)
{
	SaggKafkaReader *reader = collector->reader;

	*held = 0;
	collector->nshares = 0;
	collector->prod = false;
	if (!make_room_for_shares(collector, reader->npartitions))
		return false;
	for (int i = 0; i < reader->npartitions; i++)
	{
		SaggPartition *part = reader->partitions[i];
		SaggShare  *share = &collector->shares[collector->nshares];

		*held += sagg_portions_bytes(part);
		share->part = part;
		share->next = sagg_portions_end(part);
		share->left = part->range_end - part->range_start - (share->next - part->position);
		share->bytes = 0;
		if (part->range_end >= 0 && !part->lost && share->left > 0)
			collector->nshares++;
	}
	return collector->nshares > 0;
}

/*
 * Chunks for as much as the batch has, and somewhat more; with what is held, no
 * more than the fetch memory, but one.  False if there is none.
 */
static bool
provide_chunks(SaggCollector *collector, Size held)
{
	SaggBatch  *batch = collector->reader->base.batch;
	Size		most = (Size) sagg_fetch_memory_kb * 1024;
	Size		wanted = Min(batch->bytes + batch->bytes / 8, most - Min(most, held));
	int			n = Min(wanted / SAGG_CHUNK_SIZE + 1, SAGG_MOST_CHUNKS);

	collector->chunk = 0;
	while (collector->nchunks < n)
	{
		SaggChunk  *chunk = sagg_chunk_take(batch, SAGG_CHUNK_SIZE, true);

		if (chunk == NULL)
			break;
		collector->chunks[collector->nchunks++] = chunk;
	}
	return collector->nchunks > 0;
}

/*
 * The batch is complete and will be executed: collect what comes after it until
 * the reader is used again, if the batch is large enough to make that worth while.
 */
void
sagg_kafka_collect_ahead(SaggReader *base)
{
	SaggKafkaReader *reader = (SaggKafkaReader *) base;
	SaggBatch  *batch = reader->base.batch;
	SaggCollector *collector;
	Size		held;

	if (reader->fetch == NULL || batch->file != NULL || sagg_collect_ahead < 0 ||
		batch->nrecords < Max(sagg_collect_ahead, 1))
		return;
	sagg_collector_halt(reader);
	if (reader->collector == NULL)
		reader->collector = make_collector(reader);
	collector = reader->collector;
	if (collector == NULL || !plan_shares(collector, &held) ||
		!provide_chunks(collector, held))
		return;
	collector->headers = batch->keep_headers;
	sagg_collector_thread_run(collector);
}

static void
give_chunks_back(SaggCollector *collector)
{
	while (collector->nchunks > 0)
		sagg_chunk_release(collector->reader->base.batch,
						   collector->chunks[--collector->nchunks]);
}

/*
 * From here on the partitions are the process's again, with what was collected.
 */
void
sagg_collector_halt(SaggKafkaReader *reader)
{
	SaggCollector *collector = reader->collector;
	int			nfound;
	int64		records = 0;

	if (collector == NULL || collector->nchunks == 0)
		return;
	sagg_collector_thread_wait(collector);
	nfound = collector->nfound;
	collector->nfound = 0;
	for (int i = 0; i < nfound; i++)
	{
		sagg_portion_add(reader, collector->found_of[i], &collector->found[i]);
		records += collector->found[i].records.run.end;
	}
	give_chunks_back(collector);
	ereport(DEBUG1,
			(errmsg_internal("collected " INT64_FORMAT " records of micro-batches to come",
							 records)));
}

/*
 * End the thread, and forget what it has collected.  Raises no error.
 */
void
sagg_collector_end(SaggKafkaReader *reader)
{
	SaggCollector *collector = reader->collector;

	if (collector == NULL)
		return;
	reader->collector = NULL;
	sagg_collector_thread_end(collector);
	give_chunks_back(collector);
	if (collector->shares)
		pfree(collector->shares);
	pfree(collector);
}
