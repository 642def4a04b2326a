/*-------------------------------------------------------------------------
 *
 * batch_add.c
 *	  Records as kinds of sources outside of this library hand them over, copied
 *	  into a batch.
 *
 * A kind of this library that can write records where they stay does so by itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "batch.h"

#define RECORDS_PER_CHECK	1024

/*
 * Bytes of a record's headers as stored.
 */
static Size
headers_size(const SaggSourceRecord *record)
{
	Size		size = 0;

	for (int i = 0; i < record->nheaders; i++)
	{
		const SaggHeader *header = &record->headers[i];

		size += sizeof(SaggStoredHeader) + strlen(header->name) + 1 +
			(header->value ? header->len : 0);
	}
	return size;
}

static void
write_headers(char *to, const SaggSourceRecord *record)
{
	for (int i = 0; i < record->nheaders; i++)
	{
		const SaggHeader *header = &record->headers[i];
		SaggStoredHeader stored;

		stored.name_len = strlen(header->name) + 1;
		stored.value_len = header->value ? (int64) header->len : -1;
		memcpy(to, &stored, sizeof(stored));
		to += sizeof(stored);
		memcpy(to, header->name, stored.name_len);
		to += stored.name_len;
		if (stored.value_len > 0)
			memcpy(to, header->value, stored.value_len);
		to += Max(stored.value_len, 0);
	}
}

pg_noreturn static void
raise_too_large(const SaggSourceRecord *record)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("a record at offset " INT64_FORMAT " of partition %d has more than %zu bytes",
					record->offset, record->partition, (Size) MaxAllocSize)));
}

/*
 * What a kind says of a record: no number is one that the rest of READ cannot take.
 */
static void
check_record(const SaggSourceRecord *record)
{
	if (record->topic < 0 || record->partition < 0 || record->offset < 0 || record->nheaders < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid record of a kind of sources"),
				 errdetail("It is at offset " INT64_FORMAT " of partition %d, with %d headers.",
						   record->offset, record->partition, record->nheaders)));
	if ((record->key && record->key_len > MaxAllocSize) ||
		(record->payload && record->payload_len > MaxAllocSize))
		raise_too_large(record);
}

/*
 * Add a record; its headers if those are kept.
 */
static void
add_record(SaggBatch *batch, const SaggSourceRecord *record)
{
	Size		headers_len = batch->keep_headers ? headers_size(record) : 0;
	SaggStoredRecord stored = {
		.offset = record->offset,
		.timestamp_ms = record->timestamp_ms,
		.key_len = record->key ? (int32) record->key_len : -1,
		.payload_len = record->payload ? (int32) record->payload_len : -1,
		.headers_len = (int32) headers_len,
		.nheaders = batch->keep_headers ? record->nheaders : 0
	};
	Size		size;
	char	   *room;
	char	   *to;

	if (headers_len > MaxAllocSize)
		raise_too_large(record);
	size = sagg_record_size(&stored);
	to = room = sagg_batch_room(batch, size);
	memcpy(to, &stored, sizeof(stored));
	to += sizeof(stored);
	if (stored.key_len > 0)
		memcpy(to, record->key, stored.key_len);
	to += Max(stored.key_len, 0);
	if (stored.payload_len > 0)
		memcpy(to, record->payload, stored.payload_len);
	to += Max(stored.payload_len, 0);
	if (stored.headers_len > 0)
		write_headers(to, record);
	sagg_batch_put(batch, record->topic, record->partition, &stored, room, size);
}

/*
 * Copy "n" records to the batch; they stay the caller's.  Serves interrupts.
 */
void
sagg_batch_add(SaggBatch *batch, const SaggSourceRecord *records, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (i % RECORDS_PER_CHECK == 0)
			CHECK_FOR_INTERRUPTS();
		check_record(&records[i]);
		add_record(batch, &records[i]);
	}
}
