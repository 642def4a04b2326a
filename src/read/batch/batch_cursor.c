/*-------------------------------------------------------------------------
 *
 * batch_cursor.c
 *	  Reads the records of a micro-batch, in their order.
 *
 * A batch may be read by several cursors, each of them any number of times; none
 * changes it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "batch.h"

struct SaggBatchCursor
{
	SaggBatch  *batch;
	bool		want_headers;
	int64		next_stretch;
	int32		topic;			/* partition of the current stretch */
	int32		partition;
	int64		left;			/* records left of it */
	const SaggChunk *chunk;		/* chunk of the next record, NULL = the file */
	int64		place;			/* place of the next record in it */
	SaggReadAhead *ahead;
	char	   *buffer;			/* the record read from the file */
	Size		size;
};

/*
 * Returns a cursor before the first record, in the current context.  Headers
 * of records are returned only with "want_headers".  If they were not kept,
 * because the source had no column for them when the reader was opened, raises
 * an error that does not recur in the next attempt.
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
	sagg_batch_arrange(batch);
	cursor->batch = batch;
	cursor->want_headers = want_headers;
	return cursor;
}

/*
 * Go back to before the first record, also after the batch was filled again.
 */
void
sagg_batch_rewind(SaggBatchCursor *cursor)
{
	sagg_batch_arrange(cursor->batch);
	cursor->next_stretch = 0;
	cursor->left = 0;
	if (cursor->ahead)
		cursor->ahead->len = 0;
}

/*
 * Close the cursor; its memory is freed with its context.  The batch need not
 * exist any more.
 */
void
sagg_batch_end(SaggBatchCursor *cursor)
{
	cursor->batch = NULL;
}

/*
 * Read the next bytes of the file.
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
 * Set "record" from what is stored; "data" is what follows "stored".
 */
static void
set_record(SaggBatchCursor *cursor, SaggRecord *record,
		   const SaggStoredRecord *stored, const char *data)
{
	Size		key_len = Max(stored->key_len, 0);
	Size		payload_len = Max(stored->payload_len, 0);

	record->topic = cursor->topic;
	record->partition = cursor->partition;
	record->offset = stored->offset;
	record->timestamp_ms = stored->timestamp_ms;
	record->key = stored->key_len < 0 ? NULL : key_len > 0 ? data : "";
	record->key_len = key_len;
	record->payload = stored->payload_len < 0 ? NULL :
		payload_len > 0 ? data + key_len : "";
	record->payload_len = payload_len;
	record->headers = NULL;
	record->headers_unreadable = stored->nheaders < 0;
	if (cursor->want_headers && stored->nheaders > 0)
	{
		record->headers = data + key_len + payload_len;
		record->nheaders = stored->nheaders;
	}
}

static void
next_from_memory(SaggBatchCursor *cursor, SaggRecord *record)
{
	SaggStoredRecord stored;
	const char *data = cursor->chunk->data + cursor->place;

	memcpy(&stored, data, sizeof(stored));
	data += sizeof(stored);
	set_record(cursor, record, &stored, data);
	cursor->place += sagg_record_size(&stored);
}

static void
next_from_file(SaggBatchCursor *cursor, SaggRecord *record)
{
	SaggStoredRecord stored;
	Size		len;

	read_file(cursor, &stored, sizeof(stored));
	len = sagg_record_size(&stored) - sizeof(stored);
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

static bool
next_stretch(SaggBatchCursor *cursor)
{
	const SaggStretch *stretch;

	if (cursor->next_stretch >= cursor->batch->nstretches)
		return false;
	stretch = &cursor->batch->stretches[cursor->next_stretch++];
	cursor->topic = stretch->run.topic;
	cursor->partition = stretch->run.partition;
	cursor->left = stretch->run.end - stretch->run.start;
	cursor->chunk = stretch->chunk;
	cursor->place = stretch->place;
	return true;
}

/*
 * Read the next record; returns false behind the last one.  What "record"
 * points to stays until the next call for this cursor.
 */
bool
sagg_batch_next(SaggBatchCursor *cursor, SaggRecord *record)
{
	if (cursor->left == 0 && !next_stretch(cursor))
		return false;
	if (cursor->chunk == NULL)
		next_from_file(cursor, record);
	else
		next_from_memory(cursor, record);
	cursor->left--;
	return true;
}
