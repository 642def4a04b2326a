/*
 * path_fuzz.c
 *	  Decodes random records into columns with paths, some of them inside of
 *	  others, and has jsonb's #> and #>> do it too.
 *
 * The decoder is linked into this library.  Every record is decoded once, with
 * all columns; texts and jsonb cannot fail in a UTF-8 database, so an error is
 * the record's.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "read/format/decode.h"
#include "record_maker.h"

PG_FUNCTION_INFO_V1(fuzz_paths);

#define MAX_DIFFERENCES	20
#define MAX_NAMES		4

static const struct
{
	Oid			type;
	const char *names[MAX_NAMES];
}			columns[] = {
	{JSONBOID, {"v"}},
	{TEXTOID, {"v", "x"}},
	{TEXTOID, {"v", "y"}},
	{JSONBOID, {"v", "x", "y"}},
	{TEXTOID, {"v", "x", "x"}},
	{TEXTOID, {"v", "0"}},
	{JSONBOID, {"v", "1"}},
	{TEXTOID, {"v", "1", "x"}},
	{TEXTOID, {"v", "0", "0"}},
	{JSONBOID, {"v", "2", "v", "y"}},
	{TEXTOID, {"w"}},
	{TEXTOID, {"w", "v"}},
	{TEXTOID, {"x", "0", "y"}}
};

static SaggDecoder *
make_decoder(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(lengthof(columns));
	SaggLayout *layout = palloc0(sizeof(SaggLayout));

	layout->format = &sagg_format_json;
	layout->natts = lengthof(columns);
	layout->fields = palloc0(sizeof(SaggField) * lengthof(columns));
	for (int i = 0; i < lengthof(columns); i++)
	{
		SaggField  *field = &layout->fields[i];

		TupleDescInitEntry(desc, i + 1, NULL, columns[i].type, -1, 0);
		field->kind = SAGG_FIELD_PAYLOAD;
		field->name = columns[i].names[0];
		field->path = palloc(sizeof(char *) * MAX_NAMES);
		while (field->npath < MAX_NAMES && columns[i].names[field->npath])
		{
			field->path[field->npath] = pstrdup(columns[i].names[field->npath]);
			field->npath++;
		}
	}
	return sagg_decoder_make(desc, layout, lengthof(columns));
}

/* What jsonb makes of a column: its text form, or NULL. */
static char *
expected_text(Datum record, int column)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum		names[MAX_NAMES];
	int			n = 0;
	Datum		result;

	while (n < MAX_NAMES && columns[column].names[n])
	{
		names[n] = CStringGetTextDatum(columns[column].names[n]);
		n++;
	}
	InitFunctionCallInfoData(*fcinfo, NULL, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = record;
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
	fcinfo->args[1].isnull = false;
	result = jsonb_extract_path_text(fcinfo);
	if (fcinfo->isnull)
		return NULL;
	if (columns[column].type == TEXTOID)
		return TextDatumGetCString(result);
	fcinfo->isnull = false;
	result = jsonb_extract_path(fcinfo);
	return DatumGetCString(DirectFunctionCall1(jsonb_out, result));
}

static char *
got_text(Datum value, bool isnull, int column)
{
	if (isnull)
		return NULL;
	return columns[column].type == TEXTOID ? TextDatumGetCString(value) :
		DatumGetCString(DirectFunctionCall1(jsonb_out, value));
}

/* The record as jsonb, NULL if it is none that may be decoded. */
static Jsonb *
record_jsonb(const RecordMaker *maker, MemoryContext memory)
{
	Jsonb	   *volatile result = NULL;

	if (!pg_verify_mbstr(PG_UTF8, (const char *) maker->data, (int) maker->len, true))
		return NULL;
	PG_TRY();
	{
		result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
													CStringGetDatum(pnstrdup((const char *) maker->data, maker->len))));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(memory);
		FlushErrorState();
	}
	PG_END_TRY();
	return result && JB_ROOT_IS_OBJECT(result) ? result : NULL;
}

static void
put_difference(ReturnSetInfo *rsinfo, int64 record, int column, const char *got, const char *expected)
{
	Datum		values[4];
	bool		nulls[4] = {0};

	values[0] = Int64GetDatum(record);
	values[1] = Int32GetDatum(column);
	values[2] = CStringGetTextDatum(got ? got : "NULL");
	values[3] = CStringGetTextDatum(expected ? expected : "NULL");
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* One record; returns how many differences there were, adds to the values found. */
static int
compare_record(SaggDecoder *decoder, const RecordMaker *maker, int64 record, ReturnSetInfo *rsinfo, int64 *found)
{
	Datum		values[lengthof(columns)];
	bool		isnull[lengthof(columns)];
	SaggRecordError why;
	char	   *copy = palloc(maker->len + 1);
	Jsonb	   *jsonb = record_jsonb(maker, CurrentMemoryContext);
	SaggVerdict verdict;
	int			differences = 0;

	memcpy(copy, maker->data, maker->len);
	verdict = sagg_decoder_try(decoder, copy, maker->len, values, isnull, &why);
	pfree(copy);
	if (verdict != SAGG_RECORD_GOOD || jsonb == NULL)
	{
		/* jsonb has no bound for the depth */
		if ((verdict == SAGG_RECORD_GOOD) == (jsonb != NULL) || strstr(why.message, "nested too deeply"))
			return 0;
		put_difference(rsinfo, record, -1, verdict == SAGG_RECORD_GOOD ? "valid" : why.message,
					   jsonb ? "valid" : "an error");
		return 1;
	}
	for (int i = 0; i < lengthof(columns); i++)
	{
		char	   *got = got_text(values[i], isnull[i], i);
		char	   *expected = expected_text(JsonbPGetDatum(jsonb), i);

		*found += i > 0 && got;
		/* a column is NULL for a json null */
		if (expected && columns[i].type == JSONBOID && strcmp(expected, "null") == 0)
			expected = NULL;
		if ((got == NULL) == (expected == NULL) && (got == NULL || strcmp(got, expected) == 0))
			continue;
		put_difference(rsinfo, record, i, got, expected);
		differences++;
	}
	return differences;
}

/*
 * fuzz_paths(seed bigint, records bigint): rows (record, column, got, expected)
 * of what differs, and one for record -1 with how many deeper values there were.
 */
Datum
fuzz_paths(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext memory = AllocSetContextCreate(outer, "fuzz record", ALLOCSET_DEFAULT_SIZES);
	RecordMaker maker = {0};
	SaggDecoder *decoder;
	int			differences = 0;
	int64		found = 0;

	InitMaterializedSRF(fcinfo, 0);
	decoder = make_decoder();
	for (int64 n = 0; n < PG_GETARG_INT64(1) && differences < MAX_DIFFERENCES; n++)
	{
		CHECK_FOR_INTERRUPTS();
		make_record(&maker, (uint64) PG_GETARG_INT64(0), (uint64) n);
		MemoryContextSwitchTo(memory);
		differences += compare_record(decoder, &maker, n, rsinfo, &found);
		MemoryContextSwitchTo(outer);
		MemoryContextReset(memory);
	}
	put_difference(rsinfo, -1, -1, psprintf(INT64_FORMAT, found), NULL);
	sagg_decoder_free(decoder);
	free(maker.data);
	return (Datum) 0;
}
