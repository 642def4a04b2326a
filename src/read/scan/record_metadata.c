/*-------------------------------------------------------------------------
 *
 * record_metadata.c
 *	  Columns of a source that come from the record itself, not its payload.
 *
 * Bytes from Kafka become text only if they are UTF-8 that the server encoding
 * has characters for.  The size of keys and headers is bounded: a larger one
 * is an error of the record.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "scan_internal.h"

/* most bytes that a header takes in jsonb besides its name and value */
#define HEADER_OVERHEAD	64

static Datum
key_datum(Oid type, const SaggRecord *record)
{
	const char *text;

	if (record->key_len > SAGG_KEY_MAX_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_INVALID_RECORD),
				 errmsg("key of a record is too large: %zu bytes", record->key_len),
				 errdetail("Keys of up to %d bytes can be read.", SAGG_KEY_MAX_SIZE)));
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

static bool
timestamp_from_ms(int64 timestamp_ms, TimestampTz *result)
{
	const int64 epoch_ms = (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
	INT64CONST(86400000);

	return !pg_sub_s64_overflow(timestamp_ms, epoch_ms, result) &&
		!pg_mul_s64_overflow(*result, 1000, result) &&
		IS_VALID_TIMESTAMP(*result);
}

static Datum
timestamp_datum(int64 timestamp_ms)
{
	TimestampTz result;

	if (!timestamp_from_ms(timestamp_ms, &result))
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_INVALID_RECORD),
				 errmsg("timestamp of a record is out of range: " INT64_FORMAT " ms",
						timestamp_ms)));
	return TimestampTzGetDatum(result);
}

/*
 * Returns a record's timestamp; NULL if it has none or it is out of range.
 */
Datum
sagg_record_timestamp(const SaggRecord *record, bool *isnull)
{
	TimestampTz result = 0;

	*isnull = record->timestamp_ms == -1 ||
		!timestamp_from_ms(record->timestamp_ms, &result);
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

static bool
all_ascii(const char *text, Size len)
{
	for (Size i = 0; i < len; i++)
		if (IS_HIGHBIT_SET(text[i]))
			return false;
	return true;
}

/*
 * Append bytes, with "field" as their name; or in hex, with "hex" as their
 * name, if they are not text.  With "lenient" only text that any server
 * encoding has counts as text.
 */
static void
push_bytes(JsonbParseState **state, const char *field, const char *hex_field,
		   const char *bytes, Size len, bool lenient)
{
	char	   *hex;

	if (pg_verify_mbstr(PG_UTF8, bytes, len, true) &&
		(!lenient || GetDatabaseEncoding() == PG_UTF8 || all_ascii(bytes, len)))
	{
		push_string(state, WJB_KEY, field, strlen(field));
		push_string(state, WJB_VALUE, bytes, len);
		return;
	}
	hex = palloc(len * 2 + 1);
	(void) hex_encode(bytes, len, hex);
	push_string(state, WJB_KEY, hex_field, strlen(hex_field));
	push_string(state, WJB_VALUE, hex, len * 2);
}

/*
 * Append {"key": ..., "value": text or null}; a value that is not text has its
 * bytes in "hex" instead, and with "lenient" so has a key in "key_hex".
 */
static void
push_header(JsonbParseState **state, const char *name, const char *value,
			Size len, bool lenient)
{
	JsonbValue	null;

	if (!lenient && !pg_verify_mbstr(PG_UTF8, name, strlen(name), true))
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_INVALID_RECORD),
				 errmsg("key of a record's header is not UTF-8 text")));

	(void) pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	push_bytes(state, "key", "key_hex", name, strlen(name), lenient);
	if (value == NULL)
	{
		push_string(state, WJB_KEY, "value", 5);
		null.type = jbvNull;
		(void) pushJsonbValue(state, WJB_VALUE, &null);
	}
	else
		push_bytes(state, "value", "hex", value, len, lenient);
	(void) pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/*
 * Returns whether the headers of a record, which has some, are together small
 * enough for a column.  Bytes that are not text take twice as many there, and
 * each header adds a few.
 */
bool
sagg_headers_fit(const SaggRecord *record)
{
	const char *p = record->headers;
	SaggHeader	header;
	Size		total = 0;

	for (int i = 0; i < record->nheaders && total <= SAGG_HEADERS_MAX_SIZE; i++)
	{
		p = sagg_header_next(p, &header);
		total += 2 * (header.len + strlen(header.name)) + HEADER_OVERHEAD;
	}
	return total <= SAGG_HEADERS_MAX_SIZE;
}

/*
 * Returns the headers of a record, which fit, as a JSON array, in the current
 * context.  With "lenient" every header has some form; otherwise a header
 * whose key is not text is an error.
 */
Datum
sagg_headers_jsonb(const SaggRecord *record, bool lenient)
{
	JsonbParseState *state = NULL;
	const char *p = record->headers;
	JsonbValue *array;
	SaggHeader	header;

	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < record->nheaders; i++)
	{
		p = sagg_header_next(p, &header);
		push_header(&state, header.name, header.value, header.len, lenient);
	}
	array = pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(array));
}

/*
 * Set up a column, number "index" of the row from 0 and of this type.  What its
 * domain needs lives in the current memory context.
 */
void
sagg_metadata_column_init(SaggMetadataColumn *column, int index, SaggFieldKind kind, Oid type)
{
	memset(column, 0, sizeof(*column));
	column->index = index;
	column->kind = kind;
	column->type = getBaseType(type);
	column->context = CurrentMemoryContext;
	if (column->type != type)
		column->domain = type;
}

/*
 * Returns metadata in the current context.  "type" matters only for keys.  What a
 * record does not have is NULL.  Raises ERRCODE_SAGG_INVALID_RECORD for what the
 * type cannot hold.
 */
static Datum
base_value(SaggFieldKind kind, Oid type, const SaggRecord *record, bool *isnull)
{
	*isnull = false;
	switch (kind)
	{
		case SAGG_FIELD_TOPIC:
			return CStringGetTextDatum(sagg_topic_name(record->topic));
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
			if (record->headers_unreadable)
				ereport(ERROR,
						(errcode(ERRCODE_SAGG_INVALID_RECORD),
						 errmsg("headers of a record cannot be read"),
						 errdetail("They are damaged or too many.")));
			if (record->headers && !sagg_headers_fit(record))
				ereport(ERROR,
						(errcode(ERRCODE_SAGG_INVALID_RECORD),
						 errmsg("headers of a record are too large"),
						 errdetail("Headers of up to %d bytes can be read.", SAGG_HEADERS_MAX_SIZE)));
			if (record->headers)
				return sagg_headers_jsonb(record, false);
			break;
		case SAGG_FIELD_ERROR:
			break;
		case SAGG_FIELD_UNUSED:
		case SAGG_FIELD_PAYLOAD:
			elog(ERROR, "not a metadata column: %d", (int) kind);
	}
	*isnull = true;
	return (Datum) 0;
}

/*
 * Returns the value of a column, as base_value does; raises also what constraints of
 * its domain raise.
 */
static Datum
metadata_value(SaggMetadataColumn *column, const SaggRecord *record, bool *isnull)
{
	Datum		result = base_value(column->kind, column->type, record, isnull);

	if (OidIsValid(column->domain))
		domain_check(result, *isnull, column->domain, &column->domain_cache,
					 column->context);
	return result;
}

/*
 * Returns whether the value of a column can obviously be made without an
 * error.
 */
static bool
is_safe(const SaggMetadataColumn *column, const SaggRecord *record)
{
	TimestampTz ignore;

	if (OidIsValid(column->domain))
		return false;
	switch (column->kind)
	{
		case SAGG_FIELD_KEY:
			return record->key == NULL ||
				(column->type == BYTEAOID && record->key_len <= SAGG_KEY_MAX_SIZE) ||
				(GetDatabaseEncoding() == PG_UTF8 && record->key_len <= SAGG_KEY_MAX_SIZE &&
				 pg_verify_mbstr(PG_UTF8, record->key, record->key_len, true));
		case SAGG_FIELD_TIMESTAMP:
			return timestamp_from_ms(record->timestamp_ms, &ignore);
		case SAGG_FIELD_HEADERS:
			return record->headers == NULL && !record->headers_unreadable;
		default:
			return true;
	}
}

typedef struct MetadataArguments
{
	SaggMetadataColumn *column;
	const SaggRecord *record;
	Datum	   *value;
	bool	   *isnull;
} MetadataArguments;

static void
make_metadata(void *arg)
{
	MetadataArguments *a = (MetadataArguments *) arg;

	*a->value = metadata_value(a->column, a->record, a->isnull);
}

/*
 * Does metadata_value for a record that may be rejected: returns false, with
 * the reason, for what the column cannot hold.
 */
static bool
try_metadata(SaggMetadataColumn *column, const SaggRecord *record,
			 Datum *value, bool *isnull, SaggRecordError *why)
{
	MetadataArguments a = {column, record, value, isnull};

	if (!is_safe(column, record))
		return sagg_record_protect(make_metadata, &a, why);
	make_metadata(&a);
	return true;
}

/*
 * Make the values of "n" columns; with "early" only of those that conditions
 * need.  Raises ERRCODE_SAGG_INVALID_RECORD.
 */
void
sagg_fill_metadata(SaggMetadataColumn *columns, int n, bool early,
				   const SaggRecord *record, Datum *values, bool *isnull)
{
	for (int i = 0; i < n; i++)
	{
		int			index = columns[i].index;

		if (columns[i].early || !early)
			values[index] = metadata_value(&columns[i], record, &isnull[index]);
	}
}

/*
 * Make the values of columns for a record that may be rejected: a column that
 * cannot hold its value is NULL.  Returns false then, with the reason of the
 * first such column.
 */
bool
sagg_try_fill_metadata(SaggMetadataColumn *columns, int n, bool early,
					   const SaggRecord *record, Datum *values, bool *isnull,
					   SaggRecordError *why)
{
	bool		good = true;
	SaggRecordError ignored;

	for (int i = 0; i < n; i++)
	{
		int			index = columns[i].index;

		if ((columns[i].early || !early) &&
			!try_metadata(&columns[i], record, &values[index], &isnull[index],
						  good ? why : &ignored))
		{
			isnull[index] = true;
			good = false;
		}
	}
	return good;
}
