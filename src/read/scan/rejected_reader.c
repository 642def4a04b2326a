/*-------------------------------------------------------------------------
 *
 * rejected_reader.c
 *	  Reads the records that a batch diverts, for CHECKPOINT: those it has
 *	  rejected (dead letters), and those that came too late.
 *
 * It goes through the batch once, in the order of the records' numbers,
 * whether they are in memory or in the file.  Nothing here may fail because of
 * the contents of a record, which may have been rejected for that already.  So
 * keys and values larger than a row can hold are truncated, such headers are
 * dropped, and the error says so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "scan_internal.h"

/*
 * Most bytes that are kept of a key, and of a value: several records fit into
 * what a stream may divert.
 */
#define MAX_KEPT_BYTES	(64 * 1024 * 1024)

struct SaggRejectedReader
{
	SaggBatchCursor *cursor;
	int64		count;
	const SaggRejection *list;
	int64		next;			/* index into the list */
	int64		record;			/* number of the next record of the batch */
};

static int
by_record(const void *a, const void *b, void *arg)
{
	int64		x = ((const SaggRejection *) a)->record;
	int64		y = ((const SaggRejection *) b)->record;

	return x < y ? -1 : x > y;
}

/*
 * Begin to read records of a batch, in the current context; "list" has "count"
 * of them, and is sorted here.
 */
SaggRejectedReader *
sagg_rejected_open(SaggBatch *batch, SaggRejection *list, int64 count)
{
	SaggRejectedReader *reader = palloc0(sizeof(SaggRejectedReader));

	if (count > 1)
		sagg_sort(list, count, sizeof(SaggRejection), by_record, NULL);
	reader->cursor = sagg_batch_open(batch, true);
	reader->list = list;
	reader->count = count;
	return reader;
}

/*
 * Go forward to a record of the batch.
 */
static void
seek_record(SaggBatchCursor *cursor, int64 *position, SaggRecordId id,
			SaggRecord *record)
{
	int64		number = sagg_record_number(id);

	do
	{
		if (!sagg_batch_next(cursor, record))
			elog(ERROR, "the batch has no record " INT64_FORMAT, number);
	} while ((*position)++ < number);
}

static Datum
bytes_datum(const char *data, Size len)
{
	bytea	   *result = palloc(VARHDRSZ + len);

	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), data, len);
	return PointerGetDatum(result);
}

/*
 * Returns what is kept of a key or value; appends to "cut" what was truncated,
 * for people.
 */
static Datum
kept_bytes(const char *data, Size len, const char *what, StringInfo cut)
{
	if (len > MAX_KEPT_BYTES)
		appendStringInfo(cut, "%sThe %s of %zu bytes is cut to the first %d.",
						 cut->len > 0 ? " " : "", what, len, MAX_KEPT_BYTES);
	return bytes_datum(data, Min(len, MAX_KEPT_BYTES));
}

/*
 * Set the headers of a record, unless they are too large.
 */
static void
put_headers(SaggDivertedRecord *letter, const SaggRecord *record, StringInfo cut)
{
	letter->no_headers = record->headers == NULL || !sagg_headers_fit(record);
	if (!letter->no_headers)
		letter->headers = sagg_headers_jsonb(record, true);
	else if (record->headers)
		appendStringInfo(cut, "\nDETAIL:  %d headers are too large, and left out.",
						 record->nheaders);
}

/*
 * Read the next of the records, its values in the current context; returns
 * false behind the last one.  A SaggNextDivertedRecord, whose argument is a
 * SaggRejectedReader.
 */
bool
sagg_rejected_next(void *arg, SaggDivertedRecord *letter)
{
	SaggRejectedReader *reader = (SaggRejectedReader *) arg;
	const SaggRejection *rejection;
	SaggRecord	record;
	StringInfoData cut;

	if (reader->next >= reader->count)
		return false;
	rejection = &reader->list[reader->next++];
	seek_record(reader->cursor, &reader->record, rejection->record, &record);

	memset(letter, 0, sizeof(*letter));
	initStringInfo(&cut);
	letter->topic = record.topic;
	letter->partition = record.partition;
	letter->offset = record.offset;
	letter->timestamp = sagg_record_timestamp(&record, &letter->no_timestamp);
	letter->no_key = record.key == NULL;
	if (record.key)
		letter->key = kept_bytes(record.key, record.key_len, "key", &cut);
	letter->no_value = record.payload == NULL;
	if (record.payload)
		letter->value = kept_bytes(record.payload, record.payload_len, "value", &cut);
	put_headers(letter, &record, &cut);
	letter->error = rejection->message;
	letter->detail = rejection->detail;
	letter->sqlstate = rejection->sqlstate;
	if (cut.len > 0)
		letter->detail = rejection->detail == NULL ? cut.data :
			psprintf("%s %s", rejection->detail, cut.data);
	return true;
}

/*
 * Find the position of a record; "batch" is that of its reading.
 */
void
sagg_batch_locate(SaggBatch *batch, SaggRecordId id, SaggPlace *place)
{
	SaggBatchCursor *cursor = sagg_batch_open(batch, false);
	int64		position = 0;
	SaggRecord	record;

	seek_record(cursor, &position, id, &record);
	place->topic = record.topic;
	place->partition = record.partition;
	place->offset = record.offset;
	sagg_batch_end(cursor);
}

/*
 * Close the reader; its memory is freed with its context.
 */
void
sagg_rejected_close(SaggRejectedReader *reader)
{
	sagg_batch_end(reader->cursor);
}
