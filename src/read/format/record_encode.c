/*-------------------------------------------------------------------------
 *
 * record_encode.c
 *	  Encodes a row of a source as a record: its payload, topic, key,
 *	  partition, timestamp and headers.
 *
 * The format encodes the payload; every payload is checked by the decoder's
 * own rules, so a stream can read what INSERT produces.  Of columns that share
 * a kind of metadata, only one can be inserted at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "read/format/format.h"
#include "read/scan/insert_internal.h"
#include "read/format/payload_encode.h"

typedef struct EncoderColumn
{
	int			index;			/* index into the slot's values */
	const char *name;			/* name for messages */
	Oid			type;			/* type below domains */
	int			next;			/* next column of the same kind, -1 = none */
} EncoderColumn;

struct SaggEncoder
{
	int			ncolumns;		/* columns of metadata */
	EncoderColumn *columns;
	int			metadata[SAGG_FIELD_ERROR + 1]; /* first column, -1 = none */
	const SaggEncoding *encoding;
	SaggPayloadEncoder *payload;
	SaggDecoder *checker;
};

/*
 * Append a column to the chain that starts at "first".
 */
static void
chain(SaggEncoder *encoder, int first, int column)
{
	while (encoder->columns[first].next >= 0)
		first = encoder->columns[first].next;
	encoder->columns[first].next = column;
}

static void
add_metadata(SaggEncoder *encoder, Form_pg_attribute att, SaggFieldKind kind)
{
	int			number = encoder->ncolumns++;
	EncoderColumn *column = &encoder->columns[number];

	column->index = att->attnum - 1;
	column->name = pstrdup(NameStr(att->attname));
	column->next = -1;
	column->type = getBaseType(att->atttypid);
	if (encoder->metadata[kind] < 0)
		encoder->metadata[kind] = number;
	else
		chain(encoder, encoder->metadata[kind], number);
}

/*
 * Prepare to encode rows of a source, in the current memory context.  Raises
 * feature_not_supported for a format that cannot be written.
 */
SaggEncoder *
sagg_encoder_make(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	SaggLayout *layout = sagg_source_layout(rel, NULL);
	SaggEncoder *encoder = palloc0(sizeof(SaggEncoder));

	encoder->encoding = layout->format->encoding;
	if (encoder->encoding == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot insert into source \"%s\"", RelationGetRelationName(rel)),
				 errdetail("Records of format %s can only be read.", layout->format->name)));
	encoder->columns = palloc0(sizeof(EncoderColumn) * Max(desc->natts, 1));
	for (int i = 0; i < lengthof(encoder->metadata); i++)
		encoder->metadata[i] = -1;
	for (int i = 0; i < desc->natts; i++)
	{
		if (layout->fields[i].kind > SAGG_FIELD_PAYLOAD)
			add_metadata(encoder, TupleDescAttr(desc, i), layout->fields[i].kind);
	}
	encoder->payload = encoder->encoding->prepare(desc, layout);
	encoder->checker = sagg_decoder_make(desc, layout, 0);
	return encoder;
}

/*
 * Returns whether there is a column that says into which topic a row goes.
 */
bool
sagg_encoder_has_topic(const SaggEncoder *encoder)
{
	return encoder->metadata[SAGG_FIELD_TOPIC] >= 0;
}

/*
 * Returns the column of a chain that is not NULL; NULL if all are.
 */
static EncoderColumn *
column_with_value(SaggEncoder *encoder, TupleTableSlot *slot, int first)
{
	EncoderColumn *found = NULL;

	for (int i = first; i >= 0; i = encoder->columns[i].next)
	{
		EncoderColumn *column = &encoder->columns[i];

		if (slot->tts_isnull[column->index])
			continue;
		if (found)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("columns \"%s\" and \"%s\" cannot both be inserted",
							found->name, column->name),
					 errdetail("They are the same part of a record.")));
		found = column;
	}
	return found;
}

/*
 * Make the settings with which text forms are written so that any session can
 * read them, as postgres_fdw does.  Undo by AtEOXact_GUC(true, result).
 */
int
sagg_output_settings(void)
{
	int			level = NewGUCNestLevel();

	if (DateStyle != USE_ISO_DATES)
		(void) set_config_option("datestyle", "ISO", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (IntervalStyle != INTSTYLE_POSTGRES)
		(void) set_config_option("intervalstyle", "postgres", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (extra_float_digits < 1)
		(void) set_config_option("extra_float_digits", "1", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);

	/* so that names of objects come with their schema */
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

static void
encode_payload(SaggEncoder *encoder, TupleTableSlot *slot, SaggOutRecord *record)
{
	StringInfoData out;

	initStringInfo(&out);
	if (!encoder->encoding->encode(encoder->payload, slot->tts_values,
								   slot->tts_isnull, &out))
		return;
	record->payload = out.data;
	record->payload_len = out.len;
	if (!encoder->encoding->bytes)
	{
		record->payload = pg_server_to_any(out.data, out.len, PG_UTF8);
		if (record->payload != out.data)
			record->payload_len = strlen(record->payload);
	}
	(void) sagg_decoder_decode(encoder->checker, record->payload, record->payload_len, NULL, NULL);
}

static int32
encode_partition(const EncoderColumn *column, Datum value)
{
	int64		partition = column->type == INT8OID ? DatumGetInt64(value) : DatumGetInt32(value);

	if (partition < 0 || partition > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("partition " INT64_FORMAT " in column \"%s\" is out of range",
						partition, column->name)));
	return (int32) partition;
}

static void
encode_key(const EncoderColumn *column, Datum value, SaggOutRecord *record)
{
	struct varlena *key = PG_DETOAST_DATUM_PACKED(value);
	char	   *utf8;

	record->key = VARDATA_ANY(key);
	record->key_len = VARSIZE_ANY_EXHDR(key);
	if (column->type == BYTEAOID)
		return;
	utf8 = pg_server_to_any(record->key, record->key_len, PG_UTF8);
	if (utf8 != record->key)
	{
		record->key = utf8;
		record->key_len = strlen(utf8);
	}
}

/*
 * Returns milliseconds since 1970; Kafka has no finer times, and none before
 * that.
 */
static int64
encode_timestamp(const EncoderColumn *column, TimestampTz value)
{
	int64		unix_time;

	if (TIMESTAMP_NOT_FINITE(value) ||
		pg_add_s64_overflow(value, (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY,
							&unix_time) ||
		unix_time < 1000)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp in column \"%s\" is out of range", column->name),
				 errdetail("Kafka's timestamps are finite and after 1970-01-01 00:00 UTC.")));
	return unix_time / 1000;
}

static void
encode_metadata(SaggEncoder *encoder, TupleTableSlot *slot, SaggOutRecord *record)
{
	for (int kind = SAGG_FIELD_TOPIC; kind <= SAGG_FIELD_ERROR; kind++)
	{
		EncoderColumn *column = column_with_value(encoder, slot, encoder->metadata[kind]);
		Datum		value;

		if (column == NULL)
			continue;
		value = slot->tts_values[column->index];
		if (kind == SAGG_FIELD_TOPIC)
			record->topic = TextDatumGetCString(value);
		else if (kind == SAGG_FIELD_PARTITION)
			record->partition = encode_partition(column, value);
		else if (kind == SAGG_FIELD_KEY)
			encode_key(column, value, record);
		else if (kind == SAGG_FIELD_TIMESTAMP)
			record->timestamp_ms = encode_timestamp(column, DatumGetTimestampTz(value));
		else if (kind == SAGG_FIELD_HEADERS)
			record->headers = sagg_headers_encode(value, column->name, &record->nheaders);
		else
			ereport(ERROR,
					(errcode(ERRCODE_GENERATED_ALWAYS),
					 errmsg("cannot insert a value into column \"%s\"", column->name),
					 kind == SAGG_FIELD_ERROR ?
					 errdetail("It says why a record that is read does not decode.") :
					 errdetail("It is the offset of a record, which Kafka assigns."),
					 errhint("Leave the column out, or insert NULL.")));
	}
}

/*
 * Fill in "record" from a row, in the current memory context.  Raises
 * invalid_parameter_value and the like for metadata that a record cannot have,
 * and ERRCODE_SAGG_INVALID_RECORD for a payload that could not be read again,
 * such as json with a \u0000.
 */
void
sagg_encoder_encode(SaggEncoder *encoder, TupleTableSlot *slot,
					SaggOutRecord *record)
{
	slot_getallattrs(slot);
	memset(record, 0, sizeof(*record));
	record->partition = SAGG_PARTITION_BY_KEY;
	encode_metadata(encoder, slot, record);
	if (encoder->payload->needs_settings)
	{
		int			level = sagg_output_settings();

		encode_payload(encoder, slot, record);
		AtEOXact_GUC(true, level);
	}
	else
		encode_payload(encoder, slot, record);
}
