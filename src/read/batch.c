/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  The records of a micro-batch: how they are kept.
 *
 * Records are copied, and librdkafka's messages given back at once: a message
 * takes twice the memory, holds on to the whole answer it came with, and is out
 * of every cache when its turn comes.  Up to stream_agg.batch_memory the copies
 * are in memory, one after the other in a few large chunks; from the first
 * record beyond it on they are in a temporary file, in the same form.  The file
 * is not tied to a transaction: a batch is collected outside of any and may be
 * read by several, if the first ones fail.
 *
 * Partitions are collected all at once, as their records come.  What comes of
 * one partition without another's in between is a stretch; the batch is read
 * stretch by stretch in the order of partitions and offsets, so its order does
 * not depend on which came first.  A record's number is its place in that order,
 * the same for every cursor (batch_cursor.c) and each time the batch is collected.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "batch_internal.h"

/* a chunk, unless a record is larger; chunks that an empty batch may keep */
#define CHUNK_SIZE			((Size) 4 * 1024 * 1024)
#define CHUNKS_KEPT			8

/*
 * An empty batch, in a context of its own below the current one.  Looking for
 * headers takes librdkafka a while, so they are kept with "headers" only.
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
	batch->max_chunks = CHUNKS_KEPT;
	batch->chunks = MemoryContextAlloc(memory, sizeof(SaggChunk *) * batch->max_chunks);
	return batch;
}

/*
 * Number of records.
 */
int64
sagg_batch_records(const SaggBatch *batch)
{
	return batch->nrecords;
}

/*
 * The next record, which is one of this partition, stands at "place" of a chunk,
 * or of the file with chunk SAGG_IN_FILE.
 */
static inline void
extend_stretches(SaggBatch *batch, int32 topic, int32 partition, int chunk, int64 place)
{
	SaggStretch *stretch = batch->adding_to;

	if (stretch == NULL || stretch->run.partition != partition ||
		stretch->run.topic != topic ||
		(chunk == SAGG_IN_FILE) != (stretch->chunk == SAGG_IN_FILE))
	{
		if (batch->nstretches == batch->max_stretches)
		{
			int64		size = Max(256, batch->max_stretches * 2);

			batch->stretches = batch->stretches ?
				repalloc_huge(batch->stretches, sizeof(SaggStretch) * size) :
				MemoryContextAllocHuge(batch->memory, sizeof(SaggStretch) * size);
			batch->max_stretches = size;
		}
		stretch = &batch->stretches[batch->nstretches++];
		stretch->run.topic = topic;
		stretch->run.partition = partition;
		stretch->run.start = stretch->run.end = 0;
		stretch->chunk = chunk;
		stretch->place = place;
		batch->adding_to = stretch;
	}
	stretch->run.end++;
}

/*
 * By partition, then as the records were added, which is by offset.
 */
static int
compare_stretches(const void *a, const void *b)
{
	const SaggStretch *x = a;
	const SaggStretch *y = b;
	int			order = sagg_partition_compare(&x->run, &y->run);

	if (order != 0)
		return order;
	if (x->chunk != y->chunk)
		return x->chunk < y->chunk ? -1 : 1;
	return x->place < y->place ? -1 : x->place > y->place;
}

/*
 * Put the records in order and number them.  To be called before the batch is
 * read; does nothing the second time.
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
 * Which records are of which partition: ranges of their numbers, [start, end),
 * in order, one for each partition; valid until the batch is filled anew.
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
 * Give back memory and file.  Cursors must be gone or not used
 * again.  Raises no error.
 */
void
sagg_batch_reset(SaggBatch *batch)
{
	/* what this batch needed the next one may need too, but no more */
	while (batch->nchunks > Max(CHUNKS_KEPT, batch->chunk + 1) ||
		   (batch->nchunks > 0 && batch->chunks[batch->nchunks - 1]->size > CHUNK_SIZE))
		pfree(batch->chunks[--batch->nchunks]);
	for (int i = 0; i < batch->nchunks; i++)
		batch->chunks[i]->used = 0;
	batch->chunk = 0;
	batch->lacks_headers = false;
	batch->nrecords = 0;
	batch->nstretches = 0;
	batch->narranged = 0;
	if (batch->runs)
		pfree(batch->runs);
	batch->runs = NULL;
	batch->adding_to = NULL;
	batch->bytes = 0;
	if (batch->adding)
		rd_kafka_message_destroy(batch->adding);
	batch->adding = NULL;
	if (batch->file)
		sagg_spill_close(batch->file);
	batch->file = NULL;
}

/*
 * Free the batch.
 */
void
sagg_batch_destroy(SaggBatch *batch)
{
	sagg_batch_reset(batch);
	MemoryContextDelete(batch->memory);
}

/*
 * Bytes of the message's headers as stored; with "to", write them there.
 */
static int64
store_headers(char *to, rd_kafka_headers_t *headers)
{
	int64		bytes = 0;
	const char *name;
	const void *value;
	size_t		len;

	for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value,
											   &len) == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
	{
		SaggStoredHeader stored;

		stored.name_len = strlen(name) + 1;
		stored.value_len = value ? (int64) len : -1;
		if (to)
		{
			memcpy(to + bytes, &stored, sizeof(stored));
			memcpy(to + bytes + sizeof(stored), name, stored.name_len);
			if (stored.value_len > 0)
				memcpy(to + bytes + sizeof(stored) + stored.name_len, value, stored.value_len);
		}
		bytes += sizeof(stored) + stored.name_len + Max(stored.value_len, 0);
	}
	return bytes;
}

static int64
message_timestamp(const rd_kafka_message_t *message)
{
	rd_kafka_timestamp_type_t type;
	int64		timestamp = rd_kafka_message_timestamp(message, &type);

	return type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? -1 : timestamp;
}

/*
 * Fill in all of "stored"; returns the size of the record as stored.
 */
static Size
measure_message(int32 topic, const rd_kafka_message_t *message,
				bool keep_headers, SaggStoredRecord *stored,
				rd_kafka_headers_t **headers)
{
	*headers = NULL;
	memset(stored, 0, sizeof(*stored));
	if (keep_headers &&
		rd_kafka_message_headers(message, headers) == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		stored->nheaders = rd_kafka_header_cnt(*headers);
		stored->headers_len = store_headers(NULL, *headers);
	}
	stored->topic = topic;
	stored->partition = message->partition;
	stored->offset = message->offset;
	stored->timestamp_ms = message_timestamp(message);
	stored->key_len = message->key ? (int32) message->key_len : -1;
	stored->payload_len = message->payload ? (int64) message->len : -1;
	return sizeof(*stored) + Max(stored->key_len, 0) + Max(stored->payload_len, 0) +
		stored->headers_len;
}

static void
copy_message(char *to, const rd_kafka_message_t *message,
			 const SaggStoredRecord *stored, rd_kafka_headers_t *headers)
{
	memcpy(to, stored, sizeof(*stored));
	to += sizeof(*stored);
	if (stored->key_len > 0)
	{
		memcpy(to, message->key, stored->key_len);
		to += stored->key_len;
	}
	if (stored->payload_len > 0)
	{
		memcpy(to, message->payload, stored->payload_len);
		to += stored->payload_len;
	}
	if (stored->headers_len > 0)
		(void) store_headers(to, headers);
}

static void
add_chunk(SaggBatch *batch, Size size)
{
	if (batch->nchunks == batch->max_chunks)
	{
		batch->chunks = repalloc_huge(batch->chunks,
									  sizeof(SaggChunk *) * batch->max_chunks * 2);
		batch->max_chunks *= 2;
	}
	batch->chunks[batch->nchunks] =
		MemoryContextAllocHuge(batch->memory, offsetof(SaggChunk, data) + size);
	batch->chunks[batch->nchunks]->size = size;
	batch->chunks[batch->nchunks]->used = 0;
	batch->nchunks++;
}

/*
 * Room for a record in a chunk, batch->chunk from then on.
 */
static char *
reserve(SaggBatch *batch, Size size)
{
	SaggChunk  *chunk;
	char	   *result;

	while (batch->chunk < batch->nchunks &&
		   batch->chunks[batch->chunk]->used + size > batch->chunks[batch->chunk]->size)
		batch->chunk++;
	if (batch->chunk == batch->nchunks)
		add_chunk(batch, Max(size, CHUNK_SIZE));
	chunk = batch->chunks[batch->chunk];
	result = chunk->data + chunk->used;
	chunk->used += size;
	batch->bytes += size;
	return result;
}

/*
 * Room for a record that goes to the file.
 */
static char *
reserve_scratch(SaggBatch *batch, Size size)
{
	MemoryContext old = MemoryContextSwitchTo(batch->memory);

	if (batch->file == NULL)
		batch->file = sagg_spill_create();
	if (batch->scratch.data == NULL)
		initStringInfo(&batch->scratch);
	resetStringInfo(&batch->scratch);
	enlargeStringInfo(&batch->scratch, size);
	MemoryContextSwitchTo(old);
	return batch->scratch.data;
}

/*
 * Add a message of "topic", which is the batch's from now on, also after an
 * error.  Not while a cursor reads the batch.
 */
void
sagg_batch_add(SaggBatch *batch, int32 topic, rd_kafka_message_t *message)
{
	SaggStoredRecord stored;
	rd_kafka_headers_t *headers;
	Size		size;

	batch->adding = message;
	size = measure_message(topic, message, batch->keep_headers, &stored, &headers);
	batch->lacks_headers |= !batch->keep_headers;
	if (batch->file == NULL &&
		batch->bytes + size <= (Size) sagg_batch_memory_kb * 1024)
	{
		char	   *data = reserve(batch, size);

		copy_message(data, message, &stored, headers);
		extend_stretches(batch, topic, message->partition, batch->chunk,
						 data - batch->chunks[batch->chunk]->data);
	}
	else
	{
		char	   *scratch = reserve_scratch(batch, size);

		copy_message(scratch, message, &stored, headers);
		sagg_spill_write(batch->file, scratch, size);
		extend_stretches(batch, topic, message->partition, SAGG_IN_FILE,
						 sagg_spill_size(batch->file) - size);
	}
	batch->adding = NULL;
	rd_kafka_message_destroy(message);
	batch->nrecords++;
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
 * Can the batch be read as it is?  Otherwise it has to be collected anew.
 */
bool
sagg_batch_usable(const SaggBatch *batch)
{
	return !(batch->keep_headers && batch->lacks_headers);
}

