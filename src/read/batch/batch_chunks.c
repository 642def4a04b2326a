/*-------------------------------------------------------------------------
 *
 * batch_chunks.c
 *	  Memory for the records of micro-batches: chunks, used over and over.
 *
 * A chunk is held by whoever fills it and by each stretch of records in it
 * that is needed: of the batch, or prefetched for the next ones.  A chunk that
 * nobody holds is kept for the next batch, within limits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "batch.h"

static SaggChunk *
make_chunk(SaggBatch *batch, Size size, bool or_null)
{
	SaggChunk  *chunk = MemoryContextAllocExtended(batch->memory,
												   offsetof(SaggChunk, data) + size,
												   MCXT_ALLOC_HUGE |
												   (or_null ? MCXT_ALLOC_NO_OOM : 0));

	if (chunk)
		chunk->size = size;
	return chunk;
}

/*
 * Returns an empty chunk with room for at least "size" bytes, held by the
 * caller.  Without memory raises an error, or returns NULL with "or_null".
 */
SaggChunk *
sagg_chunk_take(SaggBatch *batch, Size size, bool or_null)
{
	SaggChunk  *chunk = batch->spare;

	if (chunk && size <= SAGG_CHUNK_SIZE)
	{
		batch->spare = chunk->next;
		batch->nspare--;
	}
	else
		chunk = make_chunk(batch, Max(size, SAGG_CHUNK_SIZE), or_null);
	if (chunk == NULL)
		return NULL;
	chunk->next = NULL;
	chunk->used = 0;
	chunk->holders = 1;
	batch->nchunks++;
	return chunk;
}

/*
 * Release a chunk that the caller held.  Raises no error.
 */
void
sagg_chunk_release(SaggBatch *batch, SaggChunk *chunk)
{
	Assert(chunk->holders > 0);
	if (--chunk->holders > 0)
		return;
	batch->nchunks--;
	if (chunk->size > SAGG_CHUNK_SIZE)
	{
		pfree(chunk);
		return;
	}
	chunk->next = batch->spare;
	batch->spare = chunk;
	batch->nspare++;
}

/*
 * Keep at most "needed" chunks that nobody holds.  Raises no error.
 */
void
sagg_chunks_trim(SaggBatch *batch, int needed)
{
	while (batch->nspare > needed)
	{
		SaggChunk  *chunk = batch->spare;

		batch->spare = chunk->next;
		batch->nspare--;
		pfree(chunk);
	}
}
