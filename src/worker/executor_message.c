/*-------------------------------------------------------------------------
 *
 * executor_message.c
 *	  What leader and executors say to each other, as bytes.
 *
 * The two are processes of one server with one library, so numbers are as they
 * are in memory.  Topics have numbers of each process and are sent by name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "utils/memutils.h"

#include "executors.h"

/* length word of what is NULL */
#define NO_BYTES	(-1)

void
sagg_put_int(StringInfo buf, int64 value)
{
	appendBinaryStringInfo(buf, (char *) &value, sizeof(value));
}

int64
sagg_get_int(StringInfo buf)
{
	int64		value;

	memcpy(&value, pq_getmsgbytes(buf, sizeof(value)), sizeof(value));
	return value;
}

void
sagg_put_bytes(StringInfo buf, const void *data, Size len)
{
	appendBinaryStringInfo(buf, data, len);
}

void
sagg_get_bytes(StringInfo buf, void *data, Size len)
{
	memcpy(data, pq_getmsgbytes(buf, len), len);
}

/*
 * A text, which may be NULL.
 */
void
sagg_put_text(StringInfo buf, const char *text)
{
	sagg_put_int(buf, text ? (int64) strlen(text) : NO_BYTES);
	if (text)
		appendBinaryStringInfo(buf, text, strlen(text));
}

/*
 * Returns a text, in the current context, or NULL.
 */
char *
sagg_get_text(StringInfo buf)
{
	int64		len = sagg_get_int(buf);

	return len == NO_BYTES ? NULL : pnstrdup(pq_getmsgbytes(buf, len), len);
}

void
sagg_put_ranges(StringInfo buf, const SaggRange *ranges, int n)
{
	sagg_put_int(buf, n);
	for (int i = 0; i < n; i++)
	{
		sagg_put_text(buf, sagg_topic_name(ranges[i].topic));
		sagg_put_bytes(buf, &ranges[i], sizeof(SaggRange));
	}
}

/*
 * Returns "n" ranges, in the current context, with this process's numbers of
 * topics.
 */
SaggRange *
sagg_get_ranges(StringInfo buf, int *n)
{
	SaggRange  *ranges;

	*n = (int) sagg_get_int(buf);
	ranges = palloc(sizeof(SaggRange) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		char	   *topic = sagg_get_text(buf);

		sagg_get_bytes(buf, &ranges[i], sizeof(SaggRange));
		ranges[i].topic = sagg_topic_number(topic);
		pfree(topic);
	}
	return ranges;
}

void
sagg_put_times(StringInfo buf, const SaggPartitionTime *times, int n)
{
	sagg_put_int(buf, n);
	for (int i = 0; i < n; i++)
	{
		sagg_put_text(buf, sagg_topic_name(times[i].topic));
		sagg_put_bytes(buf, &times[i], sizeof(SaggPartitionTime));
	}
}

/*
 * Returns "n" event times, in the current context, with this process's numbers of
 * topics.
 */
SaggPartitionTime *
sagg_get_times(StringInfo buf, int *n)
{
	SaggPartitionTime *times;

	*n = (int) sagg_get_int(buf);
	times = palloc(sizeof(SaggPartitionTime) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		char	   *topic = sagg_get_text(buf);

		sagg_get_bytes(buf, &times[i], sizeof(SaggPartitionTime));
		times[i].topic = sagg_topic_number(topic);
		pfree(topic);
	}
	return times;
}

static void
put_varlena(StringInfo buf, Datum value, bool isnull)
{
	if (isnull)
		sagg_put_int(buf, NO_BYTES);
	else
	{
		Size		len = VARSIZE_ANY(DatumGetPointer(value));

		sagg_put_int(buf, len);
		sagg_put_bytes(buf, DatumGetPointer(value), len);
	}
}

static Datum
get_varlena(StringInfo buf, bool *isnull)
{
	int64		len = sagg_get_int(buf);
	char	   *value;

	*isnull = len == NO_BYTES;
	if (*isnull)
		return (Datum) 0;
	value = palloc(len);
	sagg_get_bytes(buf, value, len);
	return PointerGetDatum(value);
}

/*
 * A record that is diverted, with the rows of a late one.
 */
void
sagg_put_diverted(StringInfo buf, const SaggDivertedRecord *record)
{
	sagg_put_text(buf, sagg_topic_name(record->topic));
	sagg_put_int(buf, record->partition);
	sagg_put_int(buf, record->offset);
	sagg_put_int(buf, record->no_timestamp);
	sagg_put_int(buf, DatumGetTimestampTz(record->timestamp));
	put_varlena(buf, record->key, record->no_key);
	put_varlena(buf, record->value, record->no_value);
	put_varlena(buf, record->headers, record->no_headers);
	sagg_put_text(buf, record->error);
	sagg_put_text(buf, record->detail);
	sagg_put_int(buf, record->sqlstate);
	sagg_put_int(buf, record->nrows);
	sagg_put_bytes(buf, record->rows, sizeof(SaggLateRow) * record->nrows);
}

/*
 * Read a diverted record; all of it is in the current context.
 */
void
sagg_get_diverted(StringInfo buf, SaggDivertedRecord *record)
{
	char	   *topic = sagg_get_text(buf);
	SaggLateRow *rows;

	memset(record, 0, sizeof(*record));
	record->topic = sagg_topic_number(topic);
	record->partition = (int32) sagg_get_int(buf);
	record->offset = sagg_get_int(buf);
	record->no_timestamp = sagg_get_int(buf) != 0;
	record->timestamp = TimestampTzGetDatum(sagg_get_int(buf));
	record->key = get_varlena(buf, &record->no_key);
	record->value = get_varlena(buf, &record->no_value);
	record->headers = get_varlena(buf, &record->no_headers);
	record->error = sagg_get_text(buf);
	record->detail = sagg_get_text(buf);
	record->sqlstate = (int) sagg_get_int(buf);
	record->nrows = sagg_get_int(buf);
	rows = MemoryContextAllocHuge(CurrentMemoryContext,
								  sizeof(SaggLateRow) * Max(record->nrows, 1));
	sagg_get_bytes(buf, rows, sizeof(SaggLateRow) * record->nrows);
	record->rows = rows;
}

/*
 * An error, and the record that was read last, partition -1 = none.
 */
void
sagg_put_error(StringInfo buf, const ErrorData *error, const SaggPlace *place)
{
	sagg_put_int(buf, error->sqlerrcode);
	sagg_put_text(buf, error->message);
	sagg_put_text(buf, error->detail);
	sagg_put_text(buf, error->hint);
	sagg_put_text(buf, error->context);
	sagg_put_text(buf, error->schema_name);
	sagg_put_text(buf, error->table_name);
	sagg_put_text(buf, error->column_name);
	sagg_put_text(buf, error->datatype_name);
	sagg_put_text(buf, error->constraint_name);
	sagg_put_int(buf, place->partition);
	if (place->partition < 0)
		return;
	sagg_put_text(buf, sagg_topic_name(place->topic));
	sagg_put_int(buf, place->offset);
}

/*
 * Raise the error of an executor; the record that it was at counts as the one that
 * this process has read last.
 */
void
sagg_throw_error(StringInfo buf, int executor)
{
	ErrorData	error = {0};
	SaggPlace	last;
	char	   *context;

	error.elevel = ERROR;
	error.filename = __FILE__;
	error.lineno = __LINE__;
	error.funcname = __func__;
	error.sqlerrcode = (int) sagg_get_int(buf);
	error.message = sagg_get_text(buf);
	error.detail = sagg_get_text(buf);
	error.hint = sagg_get_text(buf);
	context = sagg_get_text(buf);
	error.context = context ? psprintf("%s\nexecutor %d", context, executor) :
		psprintf("executor %d", executor);
	error.schema_name = sagg_get_text(buf);
	error.table_name = sagg_get_text(buf);
	error.column_name = sagg_get_text(buf);
	error.datatype_name = sagg_get_text(buf);
	error.constraint_name = sagg_get_text(buf);
	error.assoc_context = CurrentMemoryContext;
	last.partition = (int32) sagg_get_int(buf);
	if (last.partition >= 0)
	{
		last.topic = sagg_topic_number(sagg_get_text(buf));
		last.offset = sagg_get_int(buf);
		sagg_batch_read_elsewhere(&last);
	}
	ThrowErrorData(&error);
	pg_unreachable();
}

void
sagg_put_share(StringInfo buf, const SaggShare *share)
{
	sagg_put_int(buf, share->plan.batch);
	sagg_put_int(buf, share->plan.batch_time);
	sagg_put_int(buf, share->plan.watermark);
	sagg_put_int(buf, (int64) share->fingerprint);
	sagg_put_bytes(buf, &share->identity, sizeof(share->identity));
	sagg_put_int(buf, share->max_key_bytes);
	sagg_put_int(buf, share->keeps_late);
	sagg_put_int(buf, share->bound_rows);
	sagg_put_times(buf, share->times, share->ntimes);
	sagg_put_int(buf, share->rejected_state);
	sagg_put_text(buf, share->rejected_message);
	sagg_put_text(buf, share->rejected_detail);
	sagg_put_int(buf, share->snapshot_size);
	sagg_put_bytes(buf, share->snapshot, share->snapshot_size);
	sagg_put_int(buf, share->settings_size);
	sagg_put_bytes(buf, share->settings, share->settings_size);
}

/*
 * Read a share; all of it is in the current context.  It has no ranges.
 */
void
sagg_get_share(StringInfo buf, SaggShare *share)
{
	memset(share, 0, sizeof(*share));
	share->plan.batch = sagg_get_int(buf);
	share->plan.batch_time = sagg_get_int(buf);
	share->plan.watermark = sagg_get_int(buf);
	share->fingerprint = (uint64) sagg_get_int(buf);
	sagg_get_bytes(buf, &share->identity, sizeof(share->identity));
	share->max_key_bytes = sagg_get_int(buf);
	share->keeps_late = sagg_get_int(buf) != 0;
	share->bound_rows = sagg_get_int(buf) != 0;
	share->times = sagg_get_times(buf, &share->ntimes);
	share->rejected_state = (int) sagg_get_int(buf);
	share->rejected_message = sagg_get_text(buf);
	share->rejected_detail = sagg_get_text(buf);
	share->snapshot_size = sagg_get_int(buf);
	share->snapshot = palloc(share->snapshot_size);
	sagg_get_bytes(buf, share->snapshot, share->snapshot_size);
	share->settings_size = sagg_get_int(buf);
	share->settings = palloc(share->settings_size);
	sagg_get_bytes(buf, share->settings, share->settings_size);
}
