/*-------------------------------------------------------------------------
 *
 * refused_records.c
 *	  The bytes of the records that a batch puts aside, for CHECKPOINT: those
 *	  it has refused, and those that came too late.
 *
 * Goes through the batch once, in the order of the records' numbers, whether
 * they are in memory or in the file.  Nothing here may fail because of what is
 * in a record: it may have been refused for that already.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "scan_internal.h"

struct SaggRefusedReader
{
	SaggBatchCursor *cursor;
	int64		count;
	const SaggRefusal *list;
	int64		next;			/* into the list */
	int64		record;			/* number of the next record of the batch */
};

static int
by_record(const void *a, const void *b)
{
	int64		x = ((const SaggRefusal *) a)->record;
	int64		y = ((const SaggRefusal *) b)->record;

	return x < y ? -1 : x > y;
}

/*
 * Begin to read records of a batch, in the current context; "list" has "count"
 * of them, and is sorted here.
 */
SaggRefusedReader *
sagg_refused_open(SaggBatch *batch, SaggRefusal *list, int64 count)
{
	SaggRefusedReader *reader = palloc0(sizeof(SaggRefusedReader));

	if (count > 1)
		qsort(list, count, sizeof(SaggRefusal), by_record);
	reader->cursor = sagg_batch_open(batch, true);
	reader->list = list;
	reader->count = count;
	return reader;
}

/*
 * Go on to a record of the batch.
 */
static void
seek_record(SaggBatchCursor *cursor, int64 *position, int64 number,
			SaggRecord *record)
{
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
 * The reason why a record is put aside and, if it is too large to be kept whole,
 * what is missing.  NULL for a record that has none.
 */
static const char *
add_missing(const char *reason, const SaggAside *letter, const SaggRecord *record)
{
	bool		key = letter->no_key && record->key;
	bool		value = letter->no_value && record->payload;
	bool		headers = letter->no_headers && record->headers;

	if (reason == NULL || !(key || value || headers))
		return reason;
	return psprintf("%s (too large to be kept:%s%s%s)", reason, key ? " key" : "",
					value ? " value" : "", headers ? " headers" : "");
}

/*
 * The next of the records, its values in the current context; false behind the
 * last one.  A SaggNextAside, whose argument is a SaggRefusedReader.
 */
bool
sagg_refused_next(void *arg, SaggAside *letter)
{
	SaggRefusedReader *reader = (SaggRefusedReader *) arg;
	const SaggRefusal *refusal;
	SaggRecord	record;

	if (reader->next >= reader->count)
		return false;
	refusal = &reader->list[reader->next++];
	seek_record(reader->cursor, &reader->record, refusal->record, &record);

	memset(letter, 0, sizeof(*letter));
	letter->topic = record.topic;
	letter->partition = record.partition;
	letter->offset = record.offset;
	letter->timestamp = sagg_record_timestamp(&record, &letter->no_timestamp);
	letter->no_key = record.key == NULL || record.key_len > SAGG_KEY_MAX_SIZE;
	if (!letter->no_key)
		letter->key = bytes_datum(record.key, record.key_len);
	letter->no_value = record.payload == NULL || record.payload_len > SAGG_RAW_MAX_SIZE;
	if (!letter->no_value)
		letter->value = bytes_datum(record.payload, record.payload_len);
	letter->no_headers = record.headers == NULL || !sagg_headers_fit(record.headers);
	if (!letter->no_headers)
		letter->headers = sagg_headers_jsonb(record.headers, true);
	letter->error = add_missing(refusal->reason, letter, &record);
	return true;
}

/*
 * Where a record of a batch comes from, by its number.
 */
void
sagg_batch_locate(SaggBatch *batch, int64 number, SaggPlace *place)
{
	SaggBatchCursor *cursor = sagg_batch_open(batch, false);
	int64		position = 0;
	SaggRecord	record;

	seek_record(cursor, &position, number, &record);
	place->topic = record.topic;
	place->partition = record.partition;
	place->offset = record.offset;
	sagg_batch_end(cursor);
}

/*
 * Done; memory goes with its context.
 */
void
sagg_refused_close(SaggRefusedReader *reader)
{
	sagg_batch_end(reader->cursor);
}
