/*-------------------------------------------------------------------------
 *
 * format_avro.c
 *	  Format avro: records in Avro's binary encoding behind five bytes that
 *	  name their schema, as Confluent's serializers write them.
 *
 *		0x00, schema id (4 bytes, highest first), the record
 *
 * Columns are fields of the record by name, or deeper parts by path, whatever
 * schema a record was written with: a field that it does not have is NULL.
 *
 * - Numbers, strings and booleans are treated like those of JSON; enums are
 *	 strings.
 * - date, time and timestamp types become strings or, for columns that are
 *	 numbers, the number that was written; decimals are exact.
 * - bytes and fixed are read into bytea.
 * - Records, arrays and maps are read as JSON, in which bytes are written as
 *	 "\x00ff" and what is no number in JSON as a string.
 *
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "format.h"
#include "schema_registry.h"

typedef struct AvroState
{
	AvroWant	root;			/* what is wanted of a record */
	MemoryContext memory;		/* memory of the current record's values */
	int			nvalues;
} AvroState;

/* Returns a name as the index of an array's element, or -1. */
static int
name_subscript(const char *name)
{
	size_t		len = strlen(name);

	if (len == 0 || len > 9 || strspn(name, "0123456789") != len ||
		(name[0] == '0' && len > 1))
		return -1;
	return atoi(name);
}

static AvroWant *
find_child(AvroWant *want, const char *name)
{
	AvroWant   *child;

	for (int i = 0; i < want->nchildren; i++)
	{
		if (strcmp(want->children[i].name, name) == 0)
			return &want->children[i];
	}
	want->children = want->nchildren == 0 ? palloc0(sizeof(AvroWant)) :
		repalloc(want->children, sizeof(AvroWant) * (want->nchildren + 1));
	child = &want->children[want->nchildren++];
	memset(child, 0, sizeof(*child));
	child->name = name;
	child->subscript = name_subscript(name);
	child->value = -1;
	return child;
}

/*
 * Returns whether dates and times are numbers for columns of a type.
 */
static bool
wants_numbers(const SaggConversion *conv)
{
	switch (conv->kind)
	{
		case SAGG_TO_INT2:
		case SAGG_TO_INT4:
		case SAGG_TO_INT8:
		case SAGG_TO_FLOAT8:
		case SAGG_TO_NUMERIC:
			return true;
		default:
			return false;
	}
}

/*
 * Columns that differ in whether they want numbers do not share a value, so a
 * path may have a value of each kind.
 */
static void
want_column(AvroState *state, DecoderColumn *column)
{
	bool		as_number = wants_numbers(&column->conv);
	AvroWant   *want = &state->root;

	for (int i = 0; i < column->source->npath; i++)
		want = find_child(want, pg_server_to_any(column->source->path[i],
												 strlen(column->source->path[i]), PG_UTF8));
	if (want->value >= 0 && want->as_number != as_number)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("field \"%s\" cannot be read as a number and as something else at once",
						column->source->name),
				 errhint("Read it into columns of one kind, and convert it in the query.")));
	if (want->value < 0)
		want->value = state->nvalues++;
	want->as_number = as_number;
	column->value = want->value;
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(((const AvroWant *) a)->name, ((const AvroWant *) b)->name);
}

static int
compare_subscripts(const void *a, const void *b)
{
	return (*(AvroWant *const *) a)->subscript - (*(AvroWant *const *) b)->subscript;
}

/*
 * Sorts what is wanted, once it is complete, as the search needs it.
 */
static void
sort_wants(AvroWant *want)
{
	if (want->nchildren == 0)
		return;
	qsort(want->children, want->nchildren, sizeof(AvroWant), compare_names);
	want->subscripts = palloc(sizeof(AvroWant *) * want->nchildren);
	for (int i = 0; i < want->nchildren; i++)
	{
		if (want->children[i].subscript >= 0)
			want->subscripts[want->nsubscripts++] = &want->children[i];
		sort_wants(&want->children[i]);
	}
	qsort(want->subscripts, want->nsubscripts, sizeof(AvroWant *), compare_subscripts);
}

static void
prepare_avro(SaggDecoder *decoder)
{
	AvroState  *state = palloc0(sizeof(AvroState));

	state->root.subscript = -1;
	state->root.value = -1;
	state->memory = AllocSetContextCreate(decoder->context, "stream_agg Avro record",
										  ALLOCSET_DEFAULT_SIZES);
	decoder->state = state;
	for (int i = 0; i < decoder->ncolumns; i++)
		want_column(state, &decoder->columns[i]);
	sort_wants(&state->root);
	decoder->values = palloc0(sizeof(SaggFieldValue) * (state->nvalues + 1));
}

static SaggVerdict
invalid(SaggRecordError *why, const char *message, const char *detail)
{
	why->message = message;
	why->detail = detail;
	return SAGG_RECORD_INVALID;
}

static SaggVerdict
parse_avro(SaggDecoder *decoder, const char *payload, Size len,
		   SaggRecordError *why)
{
	AvroState  *state = (AvroState *) decoder->state;
	const SaggSchema *schema;
	AvroReader	reader;
	int32		id;

	if (payload == NULL)
		return invalid(why, "record has no value",
					   "A record with a key and no value (a tombstone) cannot be decoded as Avro. The source's option tombstones could be ignore or null.");
	if (len > SAGG_JSON_MAX_SIZE)
		return invalid(why, psprintf("record of %zu bytes is too large", len), NULL);
	if (!sagg_schema_id(payload, len, &id))
		return invalid(why, "invalid Avro record: it does not begin with the id of a schema",
					   "Records must be as Confluent's serializers write them.");
	schema = decoder->layout->registry ?
		sagg_registry_look_up(decoder->layout->registry, id, NULL, NULL) : NULL;
	if (schema == NULL || schema->avro == NULL)
		return invalid(why, psprintf("records of schema %d cannot be decoded", id),
					   schema ? psprintf("Of this schema: %s.", sagg_schema_problem(schema, "Avro")) : NULL);

	MemoryContextReset(state->memory);
	for (int i = 0; i < state->nvalues; i++)
		decoder->values[i].kind = SAGG_FIELD_MISSING;
	reader.start = payload;
	reader.p = payload + SAGG_SCHEMA_ID_SIZE;
	reader.end = payload + len;
	reader.values = decoder->values;
	reader.memory = state->memory;
	if (!sagg_avro_read(&reader, schema->avro, &state->root))
		return invalid(why, psprintf("invalid Avro record of schema %d: %s", id, reader.reason),
					   psprintf("The error is at byte %zu of %zu.", (Size) (reader.p - payload), len));
	return SAGG_RECORD_GOOD;
}

const SaggFormat sagg_format_avro = {
	.name = "avro",
	.rule = SAGG_BY_NAME,
	.prepare = prepare_avro,
	.parse = parse_avro
};
