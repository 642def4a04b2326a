/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  The records of a micro-batch, in the order they were handed over.
 *
 * Up to stream_agg.batch_memory the batch holds librdkafka's messages by
 * reference.  From the first message beyond it on, records are copied to a
 * temporary file.  The file is not tied to a transaction: a batch is collected
 * outside of any and may be read by several, if the first ones fail.
 *
 * A record's number is its place in this order, the same for every cursor.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "reader_internal.h"

/* what librdkafka needs for a message besides key and payload, about */
#define MESSAGE_OVERHEAD	256

struct SaggBatch
{
	MemoryContext memory;
	int64		nrecords;
	int64		nmessages;		/* records 0 .. nmessages - 1 are in memory */
	int64		max_messages;
	rd_kafka_message_t **messages;
	Size		bytes;			/* of those, with overhead */
	rd_kafka_message_t *adding; /* being copied to the file */
	SaggSpill  *file;			/* NULL = none */
};

struct SaggBatchCursor
{
	SaggBatch  *batch;
	bool		want_headers;
	int64		next;			/* record */
	int64		place;			/* in the file */
	SaggReadAhead *ahead;
	char	   *buffer;			/* the record read from the file */
	Size		size;
	rd_kafka_headers_t *headers;	/* of the record read from the file */
	MemoryContextCallback callback;
};

/* A record in the file, before its key, payload and headers. */
typedef struct StoredRecord
{
	int32		partition;
	int32		nheaders;
	int64		offset;
	int64		timestamp_ms;
	int64		key_len;		/* -1 = none */
	int64		payload_len;	/* -1 = tombstone */
	int64		headers_len;	/* bytes of all headers */
} StoredRecord;

/* A header in the file, before its name with NUL and its value. */
typedef struct StoredHeader
{
	int64		name_len;
	int64		value_len;		/* -1 = null */
} StoredHeader;

/*
 * An empty batch, in a context of its own below the current one.
 */
SaggBatch *
sagg_batch_create(void)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "stream_agg batch",
												 ALLOCSET_DEFAULT_SIZES);
	SaggBatch  *batch = MemoryContextAllocZero(memory, sizeof(SaggBatch));

	batch->memory = memory;
	batch->max_messages = 1024;
	batch->messages = MemoryContextAlloc(memory,
										 sizeof(rd_kafka_message_t *) * batch->max_messages);
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
 * Give back the messages and the file.  Cursors must be gone or not used
 * again.  Raises no error.
 */
void
sagg_batch_reset(SaggBatch *batch)
{
	for (int64 i = 0; i < batch->nmessages; i++)
		rd_kafka_message_destroy(batch->messages[i]);
	batch->nmessages = 0;
	batch->nrecords = 0;
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
 * Bytes of the message's headers in the file; with "file", write them.
 */
static int64
store_headers(SaggSpill *file, rd_kafka_headers_t *headers)
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
		bytes += sizeof(stored) + stored.name_len + Max(stored.value_len, 0);
		if (file)
		{
			sagg_spill_write(file, &stored, sizeof(stored));
			sagg_spill_write(file, name, stored.name_len);
			if (stored.value_len > 0)
				sagg_spill_write(file, value, stored.value_len);
		}
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

static void
store_message(SaggBatch *batch, rd_kafka_message_t *message)
{
	rd_kafka_headers_t *headers = NULL;
	StoredRecord stored = {0};

	if (batch->file == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(batch->memory);

		batch->file = sagg_spill_create();
		MemoryContextSwitchTo(old);
	}

	if (rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		stored.nheaders = rd_kafka_header_cnt(headers);
		stored.headers_len = store_headers(NULL, headers);
	}
	stored.partition = message->partition;
	stored.offset = message->offset;
	stored.timestamp_ms = message_timestamp(message);
	stored.key_len = message->key ? (int64) message->key_len : -1;
	stored.payload_len = message->payload ? (int64) message->len : -1;

	sagg_spill_write(batch->file, &stored, sizeof(stored));
	if (stored.key_len > 0)
		sagg_spill_write(batch->file, message->key, stored.key_len);
	if (stored.payload_len > 0)
		sagg_spill_write(batch->file, message->payload, stored.payload_len);
	if (stored.nheaders > 0)
		(void) store_headers(batch->file, headers);
}

/*
 * Add a message, which is the batch's from now on, also after an error.  Not
 * while a cursor reads the batch.
 */
void
sagg_batch_add(SaggBatch *batch, rd_kafka_message_t *message)
{
	Size		bytes = message->len + message->key_len + MESSAGE_OVERHEAD;

	batch->adding = message;
	if (batch->file == NULL &&
		batch->bytes + bytes <= (Size) sagg_batch_memory_kb * 1024)
	{
		if (batch->nmessages == batch->max_messages)
		{
			batch->messages = repalloc_huge(batch->messages,
											sizeof(rd_kafka_message_t *) *
											batch->max_messages * 2);
			batch->max_messages *= 2;
		}
		batch->messages[batch->nmessages++] = message;
		batch->adding = NULL;
		batch->bytes += bytes;
	}
	else
	{
		store_message(batch, message);
		batch->adding = NULL;
		rd_kafka_message_destroy(message);
	}
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
 * A cursor before the first record, in the current context.  Headers of
 * records are returned with "want_headers" only.
 */
SaggBatchCursor *
sagg_batch_open(SaggBatch *batch, bool want_headers)
{
	SaggBatchCursor *cursor = palloc0(sizeof(SaggBatchCursor));

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

static void
next_from_file(SaggBatchCursor *cursor, SaggRecord *record)
{
	StoredRecord stored;
	Size		key_len;
	Size		payload_len;
	Size		len;

	read_file(cursor, &stored, sizeof(stored));
	key_len = Max(stored.key_len, 0);
	payload_len = Max(stored.payload_len, 0);
	len = key_len + payload_len + stored.headers_len;
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

	record->partition = stored.partition;
	record->offset = stored.offset;
	record->timestamp_ms = stored.timestamp_ms;
	record->key = stored.key_len < 0 ? NULL : key_len > 0 ? cursor->buffer : "";
	record->key_len = key_len;
	record->payload = stored.payload_len < 0 ? NULL :
		payload_len > 0 ? cursor->buffer + key_len : "";
	record->payload_len = payload_len;
	record->headers = NULL;
	free_cursor_headers(cursor);
	if (cursor->want_headers && stored.nheaders > 0)
	{
		load_headers(cursor, &stored, cursor->buffer + key_len + payload_len);
		record->headers = cursor->headers;
	}
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
	if (cursor->next < batch->nmessages)
	{
		rd_kafka_message_t *message = batch->messages[cursor->next];

		record->partition = message->partition;
		record->offset = message->offset;
		record->timestamp_ms = message_timestamp(message);
		record->key = message->key;
		record->key_len = message->key_len;
		record->payload = message->payload;
		record->payload_len = message->len;
		record->headers = NULL;
		if (cursor->want_headers)
			(void) rd_kafka_message_headers(message, &record->headers);
	}
	else
		next_from_file(cursor, record);
	cursor->next++;
	return true;
}
