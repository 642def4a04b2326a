/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  The records of a micro-batch: how they are kept.
 *
 * Records are copies.  Up to stream_agg.batch_memory they are in memory, one
 * after the other in a few large chunks (batch_chunks.c), which a kind of
 * sources may have filled before the batch was begun; further records are
 * spilled to a temporary file, in the same form.  The file is not tied to a
 * transaction, because a batch is collected outside of any.  The batch ends with
 * sagg_reader_release or, after an ERROR, with its reader: a retry reads the
 * ranges again.
 *
 * All partitions are collected together, as their records come.  A stretch is
 * a run of records of one partition without others in between; the batch is
 * read stretch by stretch in the order of partitions and offsets, so its order
 * does not depend on which came first.  A record's number is its place in that
 * order, equal for every cursor (batch_cursor.c) and each time the batch is
 * collected.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "batch.h"

/*
 * Returns an empty batch, in a context of its own below the current one.
 * Headers take time, so they are kept only with "headers".
 */
SaggBatch *
sagg_batch_create(bool headers)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "stream_agg batch",
												 ALLOCSET_DEFAULT_SIZES);
	SaggBatch  *batch = MemoryContextAllocZero(memory, sizeof(SaggBatch));

	batch->memory = memory;
	batch->keep_headers = headers;
	return batch;
}

/*
 * Returns the number of records.
 */
int64
sagg_batch_records(const SaggBatch *batch)
{
	return batch->nrecords;
}

/*
 * Add the next records, all of one partition, which are at "records"; from now
 * on the batch holds their chunk.
 */
static void
add_stretch(SaggBatch *batch, const SaggStretch *records)
{
	SaggStretch *stretch = batch->adding_to;

	if (stretch && stretch->chunk == records->chunk && stretch->end == records->place &&
		sagg_partition_compare(&stretch->run, &records->run) == 0)
	{
		stretch->end = records->end;
		stretch->run.end += records->run.end;
		return;
	}
	if (batch->nstretches == batch->max_stretches)
	{
		int64		size = Max(256, batch->max_stretches * 2);

		batch->stretches = batch->stretches ?
			repalloc_huge(batch->stretches, sizeof(SaggStretch) * size) :
			MemoryContextAllocHuge(batch->memory, sizeof(SaggStretch) * size);
		batch->max_stretches = size;
	}
	stretch = &batch->stretches[batch->nstretches++];
	*stretch = *records;
	if (stretch->chunk)
		stretch->chunk->holders++;
	batch->adding_to = stretch;
}

/*
 * Compare by partition and offset.
 */
static int
compare_stretches(const void *a, const void *b)
{
	const SaggStretch *x = a;
	const SaggStretch *y = b;
	int			order = sagg_partition_compare(&x->run, &y->run);

	if (order != 0)
		return order;
	return x->first < y->first ? -1 : x->first > y->first;
}

/*
 * Sort the records and number them.  Called before the batch is read; does
 * nothing the second time.
 */
void
sagg_batch_arrange(SaggBatch *batch)
{
	int64		number = 0;

	if (batch->narranged == batch->nstretches)
		return;
	qsort(batch->stretches, batch->nstretches, sizeof(SaggStretch), compare_stretches);
	for (int64 i = 0; i < batch->nstretches; i++)
	{
		SaggRange  *run = &batch->stretches[i].run;

		run->end += number - run->start;
		run->start = number;
		number = run->end;
	}
	batch->narranged = batch->nstretches;
	batch->adding_to = NULL;
}

/*
 * Returns which records belong to which partition: ranges of their numbers,
 * [start, end), in order, one for each partition; valid until the batch is
 * filled again.
 */
const SaggRange *
sagg_batch_runs(SaggBatch *batch, int *nruns)
{
	int			n = 0;

	sagg_batch_arrange(batch);
	if (batch->runs)
		pfree(batch->runs);
	batch->runs = NULL;
	if (batch->nstretches > 0)
		batch->runs = MemoryContextAllocHuge(batch->memory,
											 sizeof(SaggRange) * batch->nstretches);
	for (int64 i = 0; i < batch->nstretches; i++)
	{
		const SaggRange *run = &batch->stretches[i].run;

		if (n > 0 && sagg_partition_compare(&batch->runs[n - 1], run) == 0)
			batch->runs[n - 1].end = run->end;
		else
			batch->runs[n++] = *run;
	}
	*nruns = n;
	return batch->runs;
}

/*
 * Free memory and file.  Cursors must be closed or not used again.  Raises no
 * error.
 */
void
sagg_batch_reset(SaggBatch *batch)
{
	int			needed = batch->nchunks;

	if (batch->filling)
		sagg_chunk_release(batch, batch->filling);
	batch->filling = NULL;
	for (int64 i = 0; i < batch->nstretches; i++)
	{
		if (batch->stretches[i].chunk)
			sagg_chunk_release(batch, batch->stretches[i].chunk);
	}

	/*
	 * The next batch may need as much as this one, but not more.  One that is
	 * reset before it has begun says nothing.
	 */
	if (batch->nrecords > 0)
		sagg_chunks_trim(batch, Max(needed, SAGG_CHUNKS_KEPT));
	batch->lacks_headers = false;
	batch->nrecords = 0;
	batch->nstretches = 0;
	batch->narranged = 0;
	if (batch->runs)
		pfree(batch->runs);
	batch->runs = NULL;
	batch->adding_to = NULL;
	batch->bytes = 0;
	if (batch->file)
		sagg_spill_close(batch->file);
	batch->file = NULL;
}

static void
drop_scratch(SaggBatch *batch)
{
	if (batch->scratch)
		pfree(batch->scratch);
	batch->scratch = NULL;
	batch->scratch_size = 0;
}

/*
 * Free what an empty batch keeps for the next one.  Raises no error.
 */
void
sagg_batch_give_back(SaggBatch *batch)
{
	Assert(batch->nstretches == 0);
	sagg_chunks_trim(batch, 0);
	if (batch->stretches)
		pfree(batch->stretches);
	batch->stretches = NULL;
	batch->max_stretches = 0;
	drop_scratch(batch);
}

/*
 * Returns room for a record in the chunk being filled.
 */
static char *
reserve(SaggBatch *batch, Size size)
{
	SaggChunk  *chunk = batch->filling;
	char	   *result;

	if (chunk == NULL || chunk->size - chunk->used < size)
	{
		SaggChunk  *next = sagg_chunk_take(batch, size, false);

		if (chunk)
			sagg_chunk_release(batch, chunk);
		batch->filling = chunk = next;
	}
	result = chunk->data + chunk->used;
	chunk->used += size;
	batch->bytes += size;
	return result;
}

static SaggSpill *
create_file(SaggBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->memory);
	SaggSpill  *file = sagg_spill_create();

	MemoryContextSwitchTo(old);
	return file;
}

/*
 * Returns room for a record that goes to the file, whatever its size.
 */
static char *
reserve_scratch(SaggBatch *batch, Size size)
{
	if (batch->file == NULL)
		batch->file = create_file(batch);
	if (batch->scratch_size < size)
	{
		drop_scratch(batch);
		batch->scratch = MemoryContextAllocHuge(batch->memory, size);
		batch->scratch_size = size;
	}
	return batch->scratch;
}

static bool
fits_memory(const SaggBatch *batch, Size size)
{
	return batch->file == NULL &&
		batch->bytes + size <= (Size) sagg_batch_memory_kb * 1024;
}

/*
 * Returns room for the next record, "size" bytes as stored (sagg_record_size),
 * to be filled and then put.  Not while a cursor reads the batch.
 */
char *
sagg_batch_room(SaggBatch *batch, Size size)
{
	return fits_memory(batch, size) ? reserve(batch, size) : reserve_scratch(batch, size);
}

/*
 * Add the record of a partition that was written to "room", which was reserved
 * last; "stored" is what it begins with.
 */
void
sagg_batch_put(SaggBatch *batch, int32 topic, int32 partition,
			   const SaggStoredRecord *stored, char *room, Size size)
{
	SaggStretch record = {.run = {.topic = topic, .partition = partition, .end = 1}};

	batch->lacks_headers |= !batch->keep_headers;
	record.first = stored->offset;
	if (batch->file == NULL)
	{
		record.chunk = batch->filling;
		record.place = room - batch->filling->data;
	}
	else
	{
		sagg_spill_write(batch->file, room, size);
		record.place = sagg_spill_size(batch->file) - size;
		if (batch->scratch_size > SAGG_CHUNK_SIZE)
			drop_scratch(batch);
	}
	record.end = record.place + size;
	add_stretch(batch, &record);
	batch->nrecords++;
}

/*
 * Add records that were stored before, with their headers if "headers";
 * "records" says how many, of which partition, and where.  Their chunk is
 * held, not copied.
 */
void
sagg_batch_add_stored(SaggBatch *batch, const SaggStretch *records, bool headers)
{
	SaggStretch stored = *records;
	Size		size = records->end - records->place;

	if (fits_memory(batch, size))
		batch->bytes += size;
	else
	{
		if (batch->file == NULL)
			batch->file = create_file(batch);
		sagg_spill_write(batch->file, records->chunk->data + records->place, size);
		stored.chunk = NULL;
		stored.end = sagg_spill_size(batch->file);
		stored.place = stored.end - size;
	}
	add_stretch(batch, &stored);
	batch->lacks_headers |= !headers;
	batch->nrecords += records->run.end;
}

/*
 * Keep headers from now on.
 */
void
sagg_batch_keep_headers(SaggBatch *batch)
{
	batch->keep_headers = true;
}

/*
 * Returns whether the headers of records are kept.
 */
bool
sagg_batch_keeps_headers(const SaggBatch *batch)
{
	return batch->keep_headers;
}

/*
 * Returns whether the batch can be read.  Otherwise it lacks headers that are
 * wanted, and a new reader has to collect it.
 */
bool
sagg_batch_usable(const SaggBatch *batch)
{
	return !(batch->keep_headers && batch->lacks_headers);
}
