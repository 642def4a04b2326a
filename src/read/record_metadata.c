/*-------------------------------------------------------------------------
 *
 * record_metadata.c
 *	  Columns of a source that come from the record itself, not its payload.
 *
 * Bytes from Kafka become text only if they are UTF-8 that the server encoding
 * has characters for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "scan_internal.h"

static Datum
key_datum(Oid type, const SaggRecord *record)
{
	const char *text;

	if (type == BYTEAOID)
	{
		bytea	   *result = palloc(VARHDRSZ + record->key_len);

		SET_VARSIZE(result, VARHDRSZ + record->key_len);
		memcpy(VARDATA(result), record->key, record->key_len);
		return PointerGetDatum(result);
	}

	if (!pg_verify_mbstr(PG_UTF8, record->key, record->key_len, true))
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_INVALID_RECORD),
				 errmsg("key of a record is not UTF-8 text"),
				 errhint("Declare the column with metadata key as bytea.")));
	text = pg_any_to_server(record->key, record->key_len, PG_UTF8);
	return PointerGetDatum(cstring_to_text_with_len(text,
													text == record->key ?
													record->key_len : strlen(text)));
}

static Datum
timestamp_datum(int64 timestamp_ms)
{
	const int64 epoch_ms = (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
		INT64CONST(86400000);
	int64		result;

	if (pg_sub_s64_overflow(timestamp_ms, epoch_ms, &result) ||
		pg_mul_s64_overflow(result, 1000, &result) ||
		!IS_VALID_TIMESTAMP(result))
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_INVALID_RECORD),
				 errmsg("timestamp of a record is out of range: " INT64_FORMAT " ms",
						timestamp_ms)));
	return TimestampTzGetDatum(result);
}

static void
push_string(JsonbParseState **state, JsonbIteratorToken token,
			const char *text, Size len)
{
	JsonbValue	value;
	char	   *server = pg_any_to_server(text, len, PG_UTF8);

	value.type = jbvString;
	value.val.string.val = server;
	value.val.string.len = server == text ? len : strlen(server);
	(void) pushJsonbValue(state, token, &value);
}

/*
 * {"key": ..., "value": text or null}; a value that is no text has its bytes
 * in "hex" instead.
 */
static void
push_header(JsonbParseState **state, const char *name, const char *value, Size len)
{
	JsonbValue	null;

	if (!pg_verify_mbstr(PG_UTF8, name, strlen(name), true))
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_INVALID_RECORD),
				 errmsg("key of a record's header is not UTF-8 text")));

	(void) pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	push_string(state, WJB_KEY, "key", 3);
	push_string(state, WJB_VALUE, name, strlen(name));
	if (value == NULL)
	{
		push_string(state, WJB_KEY, "value", 5);
		null.type = jbvNull;
		(void) pushJsonbValue(state, WJB_VALUE, &null);
	}
	else if (pg_verify_mbstr(PG_UTF8, value, len, true))
	{
		push_string(state, WJB_KEY, "value", 5);
		push_string(state, WJB_VALUE, value, len);
	}
	else
	{
		char	   *hex = palloc(len * 2 + 1);

		(void) hex_encode(value, len, hex);
		push_string(state, WJB_KEY, "hex", 3);
		push_string(state, WJB_VALUE, hex, len * 2);
	}
	(void) pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

static Datum
headers_datum(const rd_kafka_headers_t *headers)
{
	JsonbParseState *state = NULL;
	JsonbValue *array;
	const char *name;
	const void *value;
	size_t		len;

	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (size_t i = 0; rd_kafka_header_get_all(headers, i, &name, &value,
											   &len) == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
		push_header(&state, name, value, len);
	array = pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(array));
}

/*
 * The value of a metadata column, in the current context.  "type" is the
 * column's and matters for keys only.  What a record does not have is NULL.
 * Raises ERRCODE_SAGG_INVALID_RECORD for what the column cannot hold.
 */
Datum
sagg_record_metadata(SaggFieldKind kind, Oid type, const SaggRecord *record,
					 bool *isnull)
{
	*isnull = false;
	switch (kind)
	{
		case SAGG_FIELD_PARTITION:
			return Int32GetDatum(record->partition);
		case SAGG_FIELD_OFFSET:
			return Int64GetDatum(record->offset);
		case SAGG_FIELD_KEY:
			if (record->key)
				return key_datum(type, record);
			break;
		case SAGG_FIELD_TIMESTAMP:
			if (record->timestamp_ms != -1)
				return timestamp_datum(record->timestamp_ms);
			break;
		case SAGG_FIELD_HEADERS:
			if (record->headers)
				return headers_datum(record->headers);
			break;
		case SAGG_FIELD_UNUSED:
		case SAGG_FIELD_JSON:
			elog(ERROR, "not a metadata column: %d", (int) kind);
	}
	*isnull = true;
	return (Datum) 0;
}
