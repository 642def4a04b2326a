/*
 * format_fuzz.c
 *	  The formats other than json, given records that something has happened
 *	  to.  The decoder is linked into this library, and what it reads ends where
 *	  its memory ends, so that AddressSanitizer and valgrind see what reads behind
 *	  it.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "read/format/avro.h"
#include "read/format/decode.h"
#include "read/format/format.h"
#include "record_maker.h"

PG_FUNCTION_INFO_V1(fuzz_format);
PG_FUNCTION_INFO_V1(fuzz_avro);
PG_FUNCTION_INFO_V1(fuzz_damage);
PG_FUNCTION_INFO_V1(fuzz_schema);

static const SaggFormat *const formats[] = {
	&sagg_format_csv, &sagg_format_text, &sagg_format_raw, &sagg_format_debezium, &sagg_format_json
};
static const char *const column_names[] = {"v", "x", "op"};

#define MAX_COLUMNS	lengthof(column_names)

/* A decoder that is kept: text columns, or one of type bytea. */
static SaggDecoder *
format_decoder(int which)
{
	static SaggDecoder *decoders[lengthof(formats)];
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	bool		whole = formats[which]->rule == SAGG_WHOLE_PAYLOAD;

	if (decoders[which] == NULL)
	{
		SaggLayout *layout = palloc0(sizeof(SaggLayout));
		TupleDesc	desc;

		layout->format = formats[which];
		layout->natts = layout->npositions = whole ? 1 : MAX_COLUMNS;
		layout->fields = palloc0(sizeof(SaggField) * layout->natts);
		layout->delimiter = ',';
		layout->quote = '"';
		layout->null_text = "null";
		layout->ignore_others = true;
		desc = CreateTemplateTupleDesc(layout->natts);
		for (int i = 0; i < layout->natts; i++)
		{
			TupleDescInitEntry(desc, i + 1, NULL, formats[which] == &sagg_format_raw ? BYTEAOID : TEXTOID, -1, 0);
			layout->fields[i].kind = SAGG_FIELD_PAYLOAD;
			layout->fields[i].name = column_names[i];
			layout->fields[i].position = i;
			layout->fields[i].npath = 1;
			layout->fields[i].path = palloc(sizeof(char *));
			layout->fields[i].path[0] = pstrdup(column_names[i]);
			layout->fields[i].in_envelope = strcmp(column_names[i], "op") == 0;
		}
		decoders[which] = sagg_decoder_make(desc, layout, layout->natts);
	}
	MemoryContextSwitchTo(old);
	return decoders[which];
}

/* A copy that ends where its memory does; malloc'ed. */
static char *
exact_copy(const char *bytes, size_t len)
{
	char	   *copy = malloc(len > 0 ? len : 1);

	if (copy == NULL)
		elog(ERROR, "out of memory");
	memcpy(copy, bytes, len);
	return copy;
}

/*
 * fuzz_format(format text, payload bytea): the columns' texts, "left out", or
 * "invalid: reason"
 */
Datum
fuzz_format(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bytea	   *payload = PG_GETARG_BYTEA_PP(1);
	size_t		len = VARSIZE_ANY_EXHDR(payload);
	char	   *copy = exact_copy(VARDATA_ANY(payload), len);
	Datum		values[MAX_COLUMNS];
	bool		isnull[MAX_COLUMNS];
	SaggRecordError why;
	SaggVerdict verdict;
	StringInfoData result;
	int			which = 0;
	int			n;

	while (which < lengthof(formats) && strcmp(formats[which]->name, name) != 0)
		which++;
	if (which == lengthof(formats))
		elog(ERROR, "no format \"%s\"", name);
	n = formats[which]->rule == SAGG_WHOLE_PAYLOAD ? 1 : MAX_COLUMNS;
	verdict = sagg_decoder_try(format_decoder(which), copy, len, values, isnull, &why);
	free(copy);
	if (verdict == SAGG_RECORD_LEFT_OUT)
		PG_RETURN_TEXT_P(cstring_to_text("left out"));
	if (verdict == SAGG_RECORD_INVALID)
		PG_RETURN_TEXT_P(cstring_to_text(psprintf("invalid: %s", why.message)));
	initStringInfo(&result);
	for (int i = 0; i < n; i++)
		appendStringInfo(&result, "%s[%s]", i > 0 ? "," : "", isnull[i] ? "NULL" :
						 formats[which] == &sagg_format_raw ?
						 DatumGetCString(DirectFunctionCall1(byteaout, values[i])) :
						 TextDatumGetCString(values[i]));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(result.data, result.len));
}

/* ---------- Avro ---------- */

static void
damage(RecordMaker *maker)
{
	static const unsigned char favourites[] = {0, 1, 2, 3, 4, 0x7e, 0x7f, 0x80, 0x81, 0xfe, 0xff};

	for (uint32_t n = record_random(maker, 4); n > 0; n--)
	{
		size_t		at = maker->len ? record_random(maker, (uint32_t) maker->len) : 0;
		unsigned char byte = record_random(maker, 3) ? favourites[record_random(maker, lengthof(favourites))] :
			(unsigned char) record_random(maker, 256);

		switch (maker->len ? record_random(maker, 4) : 1)
		{
			case 0:
				maker->data[at] = byte;
				break;
			case 1:
				if (maker->len < maker->capacity)
				{
					memmove(maker->data + at + 1, maker->data + at, maker->len - at);
					maker->data[at] = byte;
					maker->len++;
				}
				break;
			case 2:
				memmove(maker->data + at, maker->data + at + 1, maker->len - at - 1);
				maker->len--;
				break;
			default:
				if (record_random(maker, 4) == 0)
					maker->len = at;
				break;
		}
	}
}

/* Some bytes, damaged by a seed, with room for a few more. */
static void
make_damaged(RecordMaker *maker, const bytea *bytes, uint64_t seed)
{
	maker->len = VARSIZE_ANY_EXHDR(bytes);
	maker->capacity = maker->len + 16;
	maker->data = palloc(maker->capacity);
	maker->state = seed;
	memcpy(maker->data, VARDATA_ANY(bytes), maker->len);
	damage(maker);
}

/*
 * fuzz_damage(payload bytea, seed bigint): the payload, damaged or whole.
 */
Datum
fuzz_damage(PG_FUNCTION_ARGS)
{
	RecordMaker maker = {0};

	make_damaged(&maker, PG_GETARG_BYTEA_PP(0), (uint64_t) PG_GETARG_INT64(1));
	PG_RETURN_BYTEA_P((bytea *) cstring_to_text_with_len((char *) maker.data, (int) maker.len));
}

/*
 * fuzz_schema(schema bytea, sample bytea, seed bigint): whether a damaged schema is
 * one; then the sample, damaged as well, is read by it.
 */
Datum
fuzz_schema(PG_FUNCTION_ARGS)
{
	RecordMaker maker = {0};
	RecordMaker sample = {0};
	AvroWant	all = {.subscript = -1, .value = 0};
	SaggFieldValue value = {0};
	const char *problem;
	const AvroNode *schema;

	make_damaged(&maker, PG_GETARG_BYTEA_PP(0), (uint64_t) PG_GETARG_INT64(2));
	schema = pg_verify_mbstr(PG_UTF8, (char *) maker.data, (int) maker.len, true) ?
		sagg_avro_compile(pnstrdup((char *) maker.data, maker.len), &problem) : NULL;
	if (schema == NULL)
		PG_RETURN_BOOL(false);
	make_damaged(&sample, PG_GETARG_BYTEA_PP(1), (uint64_t) PG_GETARG_INT64(2) / 2);
	{
		char	   *copy = exact_copy((const char *) sample.data, sample.len);
		AvroReader	reader = {.start = copy, .p = copy, .end = copy + sample.len, .values = &value, .memory = CurrentMemoryContext};

		(void) sagg_avro_read(&reader, schema, &all);
		free(copy);
	}
	PG_RETURN_BOOL(true);
}

/* Reads a payload in one of two ways; the reason why it is invalid, or NULL. */
static const char *
read_avro(const RecordMaker *maker, const AvroNode *schema, AvroWant *want, SaggFieldValue *values)
{
	char	   *copy = exact_copy((const char *) maker->data, maker->len);
	AvroReader	reader = {.start = copy, .p = copy, .end = copy + maker->len, .values = values, .memory = CurrentMemoryContext};
	bool		good = sagg_avro_read(&reader, schema, want);

	free(copy);
	if (good == (reader.reason != NULL))
		elog(ERROR, "a reason without an error, or the other way round");
	return reader.reason;
}

/*
 * fuzz_avro(schema text, sample bytea, seed bigint, n bigint): how many of n
 * damaged samples were valid.  Raises an error if that depends on what is
 * wanted of them, or if a value that is found is no text or no JSON.
 */
Datum
fuzz_avro(PG_FUNCTION_ARGS)
{
	const char *problem;
	AvroNode   *schema = sagg_avro_compile(text_to_cstring(PG_GETARG_TEXT_PP(0)), &problem);
	bytea	   *sample = PG_GETARG_BYTEA_PP(1);
	AvroWant   *fields;
	AvroWant	nothing = {.subscript = -1, .value = -1};
	AvroWant	all = nothing;
	SaggFieldValue *values;
	RecordMaker maker = {0};
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext, "fuzz record", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old;
	int64		valid = 0;

	if (schema == NULL)
		elog(ERROR, "schema: %s", problem);
	fields = palloc0(sizeof(AvroWant) * schema->n);
	values = palloc0(sizeof(SaggFieldValue) * schema->n);
	for (int i = 0; i < schema->n; i++)
		fields[i] = (AvroWant) {.name = schema->names[i], .subscript = -1, .value = i, .as_number = i % 2};
	all.children = fields;
	all.nchildren = schema->n;
	maker.capacity = VARSIZE_ANY_EXHDR(sample) + 16;
	maker.data = palloc(maker.capacity);
	maker.state = (uint64_t) PG_GETARG_INT64(2);
	old = MemoryContextSwitchTo(memory);
	for (int64 n = 0; n < PG_GETARG_INT64(3); n++)
	{
		const char *reason;

		CHECK_FOR_INTERRUPTS();
		maker.len = VARSIZE_ANY_EXHDR(sample);
		memcpy(maker.data, VARDATA_ANY(sample), maker.len);
		damage(&maker);
		reason = read_avro(&maker, schema, &all, values);
		/* a date out of range is one for who reads it */
		if ((reason != NULL) != (read_avro(&maker, schema, &nothing, NULL) != NULL) &&
			(reason == NULL || strstr(reason, "out of range") == NULL))
			elog(ERROR, "record " INT64_FORMAT ": validity depends on what is read: %s", n, reason ? reason : "valid");
		for (int i = 0; reason == NULL && i < schema->n; i++)
		{
			if (values[i].kind == SAGG_FIELD_OBJECT || values[i].kind == SAGG_FIELD_ARRAY)
				(void) DirectFunctionCall1(jsonb_in, CStringGetDatum(values[i].text));
			if (values[i].text[values[i].len] != '\0')
				elog(ERROR, "a value does not end with a NUL");
		}
		valid += reason == NULL;
		MemoryContextReset(memory);
	}
	MemoryContextSwitchTo(old);
	PG_RETURN_INT64(valid);
}
