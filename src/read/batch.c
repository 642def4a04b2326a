/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  The records of a micro-batch, in the order they were handed over.
 *
 * Records are copied, and librdkafka's messages given back at once: a message
 * takes twice the memory, holds on to the whole answer it came with, and is out
 * of every cache when its turn comes.  Up to stream_agg.batch_memory the copies
 * are in memory, one after the other in a few large chunks; from the first
 * record beyond it on they are in a temporary file, in the same form.  The file
 * is not tied to a transaction: a batch is collected outside of any and may be
 * read by several, if the first ones fail.
 *
 * A record's number is its place in this order, the same for every cursor.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "reader_internal.h"

/* a chunk, unless a record is larger; chunks that an empty batch may keep */
#define CHUNK_SIZE			((Size) 4 * 1024 * 1024)
#define CHUNKS_KEPT			8

typedef struct Chunk
{
	Size		size;			/* of data */
	Size		used;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} Chunk;

struct SaggBatch
{
	MemoryContext memory;
	bool		keep_headers;
	bool		lacks_headers;	/* records may have had some */
	int64		nrecords;
	int64		nstored;		/* records 0 .. nstored - 1 are in chunks */
	int			nchunks;
	int			chunk;			/* being filled */
	int			max_chunks;
	Chunk	  **chunks;
	Size		bytes;			/* in use in all chunks */
	rd_kafka_message_t *adding; /* being copied */
	StringInfoData scratch;		/* a record on its way to the file */
	SaggSpill  *file;			/* NULL = none */
	int			nruns;
	int			max_runs;
	SaggRange  *runs;			/* see sagg_batch_runs */
};

struct SaggBatchCursor
{
	SaggBatch  *batch;
	bool		want_headers;
	int64		next;			/* record */
	int			chunk;			/* of it */
	int64		place;			/* in the chunk, then in the file */
	SaggReadAhead *ahead;
	char	   *buffer;			/* the record read from the file */
	Size		size;
	rd_kafka_headers_t *headers;	/* of the record read from the file */
	MemoryContextCallback callback;
};

/* A record as stored, before its key, payload and headers. */
typedef struct StoredRecord
{
	int32		topic;
	int32		partition;
	int32		nheaders;
	int32		key_len;		/* -1 = none */
	int64		offset;
	int64		timestamp_ms;
	int64		payload_len;	/* -1 = tombstone */
	int64		headers_len;	/* bytes of all headers */
} StoredRecord;

/* A header as stored, before its name with NUL and its value. */
typedef struct StoredHeader
{
	int64		name_len;
	int64		value_len;		/* -1 = null */
} StoredHeader;

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
	batch->chunks = MemoryContextAlloc(memory, sizeof(Chunk *) * batch->max_chunks);
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
 * Which records are of which partition: ranges of their numbers, [start, end),
 * in order; valid until the batch is filled anew.
 */
const SaggRange *
sagg_batch_runs(const SaggBatch *batch, int *nruns)
{
	*nruns = batch->nruns;
	return batch->runs;
}

/*
 * The next record is one of this partition.
 */
static inline void
extend_runs(SaggBatch *batch, int32 topic, int32 partition)
{
	SaggRange  *run = batch->nruns > 0 ? &batch->runs[batch->nruns - 1] : NULL;

	if (run == NULL || run->partition != partition || run->topic != topic)
	{
		if (batch->nruns == batch->max_runs)
		{
			int			size = Max(256, batch->max_runs * 2);

			batch->runs = batch->runs ?
				repalloc_huge(batch->runs, sizeof(SaggRange) * size) :
				MemoryContextAllocHuge(batch->memory, sizeof(SaggRange) * size);
			batch->max_runs = size;
		}
		run = &batch->runs[batch->nruns++];
		run->topic = topic;
		run->partition = partition;
		run->start = batch->nrecords;
	}
	run->end = batch->nrecords + 1;
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
	batch->nstored = 0;
	batch->nrecords = 0;
	batch->nruns = 0;
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
		StoredHeader stored;

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
				bool keep_headers, StoredRecord *stored,
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
			 const StoredRecord *stored, rd_kafka_headers_t *headers)
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
									  sizeof(Chunk *) * batch->max_chunks * 2);
		batch->max_chunks *= 2;
	}
	batch->chunks[batch->nchunks] =
		MemoryContextAllocHuge(batch->memory, offsetof(Chunk, data) + size);
	batch->chunks[batch->nchunks]->size = size;
	batch->chunks[batch->nchunks]->used = 0;
	batch->nchunks++;
}

/*
 * Room for a record in a chunk.
 */
static char *
reserve(SaggBatch *batch, Size size)
{
	Chunk	   *chunk;
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
	batch->nstored++;
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
	StoredRecord stored;
	rd_kafka_headers_t *headers;
	Size		size;

	batch->adding = message;
	size = measure_message(topic, message, batch->keep_headers, &stored, &headers);
	batch->lacks_headers |= !batch->keep_headers;
	if (batch->file == NULL &&
		batch->bytes + size <= (Size) sagg_batch_memory_kb * 1024)
		copy_message(reserve(batch, size), message, &stored, headers);
	else
	{
		char	   *scratch = reserve_scratch(batch, size);

		copy_message(scratch, message, &stored, headers);
		sagg_spill_write(batch->file, scratch, size);
	}
	extend_runs(batch, topic, message->partition);
	batch->adding = NULL;
	rd_kafka_message_destroy(message);
	batch->nrecords++;
}

static void
free_cursor_headers(void *arg)
{
	SaggBatchCursor *cursor = (SaggBatchCursor *) arg;

	if (cursor->headers)
		rd_kafka_headers_destroy(cursor->headers);
	cursor->headers = NULL;
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

/*
 * A cursor before the first record, in the current context.  Headers of
 * records are returned with "want_headers" only.  Raises an error that passes
 * with the next attempt if they were not kept, because the source had no column
 * for them when the reader was opened.
 */
SaggBatchCursor *
sagg_batch_open(SaggBatch *batch, bool want_headers)
{
	SaggBatchCursor *cursor = palloc0(sizeof(SaggBatchCursor));

	if (want_headers)
		batch->keep_headers = true;
	if (!sagg_batch_usable(batch))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("headers of the records were not kept"),
				 errdetail("The source has got a column for them since the stream began to read; the records are read again.")));
	cursor->batch = batch;
	cursor->want_headers = want_headers;
	cursor->callback.func = free_cursor_headers;
	cursor->callback.arg = cursor;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &cursor->callback);
	return cursor;
}

/*
 * Back to before the first record, also after the batch was filled anew.
 */
void
sagg_batch_rewind(SaggBatchCursor *cursor)
{
	cursor->next = 0;
	cursor->chunk = 0;
	cursor->place = 0;
	if (cursor->ahead)
		cursor->ahead->len = 0;
}

/*
 * Done with the cursor; its memory goes with its context.  The batch need not
 * be there any more.
 */
void
sagg_batch_end(SaggBatchCursor *cursor)
{
	free_cursor_headers(cursor);
	cursor->batch = NULL;
}

/*
 * The next bytes of the file.
 */
static void
read_file(SaggBatchCursor *cursor, void *data, Size len)
{
	if (cursor->ahead == NULL)
		cursor->ahead = MemoryContextAllocZero(GetMemoryChunkContext(cursor),
											   sizeof(SaggReadAhead));
	sagg_spill_read(cursor->batch->file, cursor->ahead, cursor->place, data, len);
	cursor->place += len;
}

/*
 * Headers as they stand in the file, to a list of librdkafka's.
 */
static void
load_headers(SaggBatchCursor *cursor, const StoredRecord *stored, const char *p)
{
	cursor->headers = rd_kafka_headers_new(stored->nheaders);
	for (int i = 0; i < stored->nheaders; i++)
	{
		StoredHeader header;

		memcpy(&header, p, sizeof(header));
		p += sizeof(header);
		rd_kafka_header_add(cursor->headers, p, header.name_len - 1,
							header.value_len < 0 ? NULL : p + header.name_len,
							Max(header.value_len, 0));
		p += header.name_len + Max(header.value_len, 0);
	}
}

/*
 * "record" from what is stored; "data" is what stands behind "stored".
 */
static void
set_record(SaggBatchCursor *cursor, SaggRecord *record,
		   const StoredRecord *stored, const char *data)
{
	Size		key_len = Max(stored->key_len, 0);
	Size		payload_len = Max(stored->payload_len, 0);

	record->topic = stored->topic;
	record->partition = stored->partition;
	record->offset = stored->offset;
	record->timestamp_ms = stored->timestamp_ms;
	record->key = stored->key_len < 0 ? NULL : key_len > 0 ? data : "";
	record->key_len = key_len;
	record->payload = stored->payload_len < 0 ? NULL :
		payload_len > 0 ? data + key_len : "";
	record->payload_len = payload_len;
	record->headers = NULL;
	if (unlikely(cursor->headers))
		free_cursor_headers(cursor);
	if (cursor->want_headers && stored->nheaders > 0)
	{
		load_headers(cursor, stored, data + key_len + payload_len);
		record->headers = cursor->headers;
	}
}

static void
next_from_memory(SaggBatchCursor *cursor, SaggRecord *record)
{
	SaggBatch  *batch = cursor->batch;
	Chunk	   *chunk = batch->chunks[cursor->chunk];
	StoredRecord stored;
	const char *data;

	while (cursor->place == chunk->used)
	{
		chunk = batch->chunks[++cursor->chunk];
		cursor->place = 0;
	}
	data = chunk->data + cursor->place;
	memcpy(&stored, data, sizeof(stored));
	data += sizeof(stored);
	set_record(cursor, record, &stored, data);
	cursor->place += sizeof(stored) + Max(stored.key_len, 0) +
		Max(stored.payload_len, 0) + stored.headers_len;
}

static void
next_from_file(SaggBatchCursor *cursor, SaggRecord *record)
{
	StoredRecord stored;
	Size		len;

	if (cursor->next == cursor->batch->nstored)
		cursor->place = 0;
	read_file(cursor, &stored, sizeof(stored));
	len = Max(stored.key_len, 0) + Max(stored.payload_len, 0) + stored.headers_len;
	if (cursor->size < len)
	{
		Size		size = Max(len, 2 * cursor->size);

		if (cursor->buffer)
			pfree(cursor->buffer);
		cursor->buffer = NULL;
		cursor->size = 0;
		cursor->buffer = MemoryContextAllocHuge(GetMemoryChunkContext(cursor), size);
		cursor->size = size;
	}
	if (len > 0)
		read_file(cursor, cursor->buffer, len);
	set_record(cursor, record, &stored, cursor->buffer);
}

/*
 * The next record, or false behind the last one.  What "record" points to
 * stays until the next call for this cursor.
 */
bool
sagg_batch_next(SaggBatchCursor *cursor, SaggRecord *record)
{
	SaggBatch  *batch = cursor->batch;

	if (cursor->next >= batch->nrecords)
		return false;
	if (cursor->next < batch->nstored)
		next_from_memory(cursor, record);
	else
		next_from_file(cursor, record);
	cursor->next++;
	return true;
}
