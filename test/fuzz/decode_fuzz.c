/*
 * decode_fuzz.c
 *	  Decodes random records, and has PostgreSQL's jsonb decode them too.
 *
 * The rules that are held to are those of src/read/format/decode.h.  The decoder is
 * linked into this library, so that no Kafka is between; its short way
 * (fast_datum.c) and its long way (record_datum.c) are both called where the
 * short one takes a value.  What is expected is made from the record by jsonb
 * and the types' input functions alone.
 *
 * Errors are caught without a subtransaction, which only does because nothing
 * here touches a table.
 */
#include "postgres.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "pgtime.h"
#include "utils/timestamp.h"

#include "read/format/decode.h"
#include "read/format/record_datum.h"
#include "record_maker.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(fuzz_decode);
PG_FUNCTION_INFO_V1(fuzz_record);

#define FIELD				"v"
#define COLUMNS_PER_RECORD	6	/* of a valid one */
#define MAX_DIFFERENCES		20
#define RESULT_COLUMNS		8

/* A column of the relation: a type to decode to. */
typedef struct FuzzColumn
{
	Form_pg_attribute attr;
	SaggDecoder *decoder;		/* of this column alone */
	SaggConversion conv;		/* the decoder's own parts */
	Oid			base;
	int32		typmod;			/* of base */
	FmgrInfo	input;			/* of base */
	Oid			ioparam;
	FmgrInfo	output;
	FmgrInfo	to_record;		/* jsonb_to_record, which keeps what it knows of */
	TupleDesc	record_desc;	/* (v type) */
	void	   *domain_cache;
	int64		accepted;
	int64		rejected;
	int64		shortened;		/* taken by the short way */
} FuzzColumn;

typedef struct Fuzz
{
	int			ncolumns;
	FuzzColumn *columns;
	SaggJsonLeaf *leaf;
	MemoryContext context;		/* of all of this */
	MemoryContext per_record;
	ReturnSetInfo *rsinfo;
	int64		record;			/* the one at hand */
	RecordMaker maker;
	int			differences;
} Fuzz;

/* What became of a value. */
typedef struct Outcome
{
	bool		error;
	bool		isnull;
	int			sqlerrcode;
	char	   *message;
	Datum		value;
} Outcome;

typedef void (*Attempt) (Fuzz *fuzz, FuzzColumn *column, Outcome *outcome);

/* ---------- what jsonb makes of it ---------- */

static void
reject(const char *reason)
{
	ereport(ERROR, (errcode(ERRCODE_INVALID_TEXT_REPRESENTATION), errmsg("%s", reason)));
}

/* The greatest number of containers open at once, in valid JSON. */
static int
nesting(const char *p, const char *end)
{
	int			depth = 0;
	int			deepest = 0;
	bool		in_string = false;

	for (; p < end; p++)
	{
		if (in_string && *p == '\\')
			p++;
		else if (*p == '"')
			in_string = !in_string;
		else if (!in_string && (*p == '{' || *p == '['))
		{
			depth++;
			deepest = Max(deepest, depth);
		}
		else if (!in_string && (*p == '}' || *p == ']'))
			depth--;
	}
	return deepest;
}

/* The record as jsonb, if it is one that may be decoded. */
static Jsonb *
record_jsonb(Fuzz *fuzz)
{
	const char *data = (const char *) fuzz->maker.data;
	int			len = (int) fuzz->maker.len;
	char	   *text;
	Jsonb	   *jsonb;

	if (!pg_verify_mbstr(PG_UTF8, data, len, true))
		reject("not UTF-8");
	text = pg_any_to_server(pnstrdup(data, len), len, PG_UTF8);
	jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	if (!JB_ROOT_IS_OBJECT(jsonb))
		reject("not an object");
	if (nesting(data, data + len) > SAGG_JSON_MAX_DEPTH)
		reject("nested too deeply");
	return jsonb;
}

/* Milliseconds since 1970 as a timestamp. */
static Datum
epoch_timestamp(Numeric milliseconds, FuzzColumn *column)
{
	Datum		micro = DirectFunctionCall2(numeric_mul, NumericGetDatum(milliseconds),
											NumericGetDatum(int64_to_numeric(1000)));
	char	   *digits = DatumGetCString(DirectFunctionCall1(numeric_out,
															 DirectFunctionCall2(numeric_round, micro, Int32GetDatum(0))));
	int64		unix_time;
	PGFunction	scale = column->base == TIMESTAMPTZOID ? timestamptz_scale : timestamp_scale;
	const int64 epoch = INT64CONST(946684800000000);	/* 2000-01-01 */

	errno = 0;
	unix_time = strtoll(digits, NULL, 10);
	if (errno == ERANGE || unix_time < PG_INT64_MIN + epoch || !IS_VALID_TIMESTAMP(unix_time - epoch))
		reject("timestamp out of range");
	return DirectFunctionCall2(scale, TimestampGetDatum(unix_time - epoch), Int32GetDatum(column->typmod));
}

/* The field as an array or composite. */
static Datum
to_record(FuzzColumn *column, Jsonb *record, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 1);
	ReturnSetInfo rsinfo = {0};
	HeapTupleData tuple = {0};

	rsinfo.type = T_ReturnSetInfo;
	rsinfo.expectedDesc = column->record_desc;
	rsinfo.allowedModes = SFRM_ValuePerCall;
	InitFunctionCallInfoData(*fcinfo, &column->to_record, 1, InvalidOid, NULL, (fmNodePtr) &rsinfo);
	fcinfo->args[0].value = JsonbPGetDatum(record);
	fcinfo->args[0].isnull = false;
	tuple.t_data = DatumGetHeapTupleHeader(FunctionCallInvoke(fcinfo));
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	return heap_getattr(&tuple, 1, column->record_desc, isnull);
}

/* Is it an array or a composite? */
static bool
is_nested(FuzzColumn *column)
{
	return OidIsValid(get_element_type(column->base)) || get_typtype(column->base) == TYPTYPE_COMPOSITE;
}

/* Raises an error for a date or time by a word for the clock's time. */
static void
reject_clock(FuzzColumn *column, const char *string)
{
	static const char *const words[] = {"now", "today", "tomorrow", "yesterday"};
	char		category;
	bool		preferred;

	get_type_category_preferred(column->base, &category, &preferred);
	if (category != TYPCATEGORY_DATETIME)
		return;
	for (int i = 0; i < lengthof(words); i++)
	{
		const char *found = strcasestr(string, words[i]);
		size_t		len = strlen(words[i]);

		if (found && !isalpha((unsigned char) found[len]) &&
			(found == string || !isalpha((unsigned char) found[-1])))
			reject("a word for the clock's time");
	}
}

/* A field that is there and not null, as a value of the column's base type. */
static Datum
expected_value(FuzzColumn *column, Jsonb *record, JsonbValue *field, bool *isnull)
{
	Datum		name = CStringGetTextDatum(FIELD);
	char	   *string;

	if (column->base == JSONBOID || column->base == JSONOID)
	{
		Datum		value = DirectFunctionCall2(jsonb_object_field, JsonbPGetDatum(record), name);

		if (column->base == JSONBOID)
			return value;
		string = DatumGetCString(DirectFunctionCall1(jsonb_out, value));
		return CStringGetTextDatum(string);
	}
	if (field->type == jbvNumeric && (column->base == TIMESTAMPTZOID || column->base == TIMESTAMPOID))
		return epoch_timestamp(field->val.numeric, column);
	if (is_nested(column))
		return to_record(column, record, isnull);
	if (field->type == jbvNumeric && (column->base == INT2OID || column->base == INT4OID || column->base == INT8OID))
	{
		Datum		number = DirectFunctionCall2(jsonb_object_field, JsonbPGetDatum(record), name);

		return column->base == INT2OID ? DirectFunctionCall1(jsonb_int2, number) :
			column->base == INT4OID ? DirectFunctionCall1(jsonb_int4, number) :
			DirectFunctionCall1(jsonb_int8, number);
	}
	string = TextDatumGetCString(DirectFunctionCall2(jsonb_object_field_text, JsonbPGetDatum(record), name));
	reject_clock(column, string);
	return InputFunctionCall(&column->input, string, column->ioparam, column->typmod);
}

static void
expect(Fuzz *fuzz, FuzzColumn *column, Outcome *outcome)
{
	Jsonb	   *record = record_jsonb(fuzz);
	JsonbValue	buffer;
	JsonbValue *field = getKeyJsonValueFromContainer(&record->root, FIELD, strlen(FIELD), &buffer);

	outcome->isnull = field == NULL || field->type == jbvNull;
	if (!outcome->isnull)
		outcome->value = expected_value(column, record, field, &outcome->isnull);
	if (column->base != column->attr->atttypid)
		domain_check(outcome->value, outcome->isnull, column->attr->atttypid, &column->domain_cache, fuzz->context);
}

/* Raises an error if the record is not one that may be decoded. */
static void
validate(Fuzz *fuzz, FuzzColumn *column, Outcome *outcome)
{
	(void) record_jsonb(fuzz);
}

/* ---------- what the decoder makes of it ---------- */

static void
decode(Fuzz *fuzz, FuzzColumn *column, Outcome *outcome)
{
	char	   *copy = palloc(fuzz->maker.len + 1);

	memcpy(copy, fuzz->maker.data, fuzz->maker.len);
	sagg_decoder_decode(column->decoder, copy, fuzz->maker.len, &outcome->value, &outcome->isnull);
	pfree(copy);
}

/* Finds the field; false if there is none. */
static bool
find_field(Fuzz *fuzz, SaggFieldValue *value)
{
	SaggJsonError error;

	return sagg_json_leaf_parse(fuzz->leaf, (const char *) fuzz->maker.data, fuzz->maker.len,
								value, &error, NULL) == SAGG_JSON_OK &&
		value->kind != SAGG_FIELD_MISSING && value->kind != SAGG_FIELD_NULL;
}

static void
decode_short(Fuzz *fuzz, FuzzColumn *column, Outcome *outcome)
{
	SaggFieldValue value;

	outcome->isnull = !find_field(fuzz, &value) || !sagg_convert_fast(&column->conv, &value, &outcome->value);
}

static void
decode_long(Fuzz *fuzz, FuzzColumn *column, Outcome *outcome)
{
	SaggFieldValue value;

	outcome->isnull = true;
	if (find_field(fuzz, &value))
		outcome->value = sagg_convert(&column->conv, &value, &outcome->isnull);
}

/* ---------- comparison ---------- */

/* Runs one of the above; what it makes is in the memory of the record. */
static Outcome
attempt(Fuzz *fuzz, FuzzColumn *column, Attempt function)
{
	Outcome		outcome = {0};
	Outcome    *volatile result = &outcome;
	ResourceOwner parent = CurrentResourceOwner;
	ResourceOwner owner = ResourceOwnerCreate(parent, "fuzz attempt");

	MemoryContextSwitchTo(fuzz->per_record);
	CurrentResourceOwner = owner;
	PG_TRY();
	{
		function(fuzz, column, result);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(fuzz->per_record);
		error = CopyErrorData();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN ||
			error->sqlerrcode == ERRCODE_OUT_OF_MEMORY)
			PG_RE_THROW();
		FlushErrorState();
		result->error = true;
		result->sqlerrcode = error->sqlerrcode;
		result->message = psprintf("%s %s%s%s", unpack_sql_state(error->sqlerrcode), error->message,
								   error->detail ? ": " : "", error->detail ? error->detail : "");
	}
	PG_END_TRY();
	CurrentResourceOwner = parent;
	/* complains about what was left open without an error */
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_BEFORE_LOCKS, !outcome.error, false);
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_LOCKS, !outcome.error, false);
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_AFTER_LOCKS, !outcome.error, false);
	ResourceOwnerDelete(owner);
	return outcome;
}

static char *
outcome_text(FuzzColumn *column, const Outcome *outcome)
{
	if (outcome->error)
		return psprintf("error %s", outcome->message);
	if (outcome->isnull)
		return "NULL";
	return OutputFunctionCall(&column->output, outcome->value);
}

/* json keeps white space and duplicates: then what jsonb makes of it counts. */
static Outcome
normalized(FuzzColumn *column, const Outcome *outcome)
{
	Outcome		result = *outcome;

	if (column->base == JSONOID && !outcome->error && !outcome->isnull)
	{
		char	   *json = TextDatumGetCString(outcome->value);
		Datum		jsonb = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));

		result.value = CStringGetTextDatum(DatumGetCString(DirectFunctionCall1(jsonb_out, jsonb)));
	}
	return result;
}

static bool
same_outcome(FuzzColumn *column, const Outcome *left, const Outcome *right)
{
	if (left->error || right->error || left->isnull || right->isnull)
		return left->error == right->error && (left->error || left->isnull == right->isnull);
	if (datumIsEqual(left->value, right->value, column->attr->attbyval, column->attr->attlen))
		return true;
	/* from text or from JSON, arrays and composites differ in unused bytes */
	return is_nested(column) && strcmp(outcome_text(column, left), outcome_text(column, right)) == 0;
}

static void
put_result(Fuzz *fuzz, FuzzColumn *column, int64 record, const char *way, const char *got, const char *expected)
{
	Datum		values[RESULT_COLUMNS];
	bool		nulls[RESULT_COLUMNS] = {0};

	values[0] = NameGetDatum(&column->attr->attname);
	values[1] = Int64GetDatum(record);
	values[2] = way ? CStringGetTextDatum(way) : (Datum) 0;
	values[3] = got ? CStringGetTextDatum(got) : (Datum) 0;
	values[4] = expected ? CStringGetTextDatum(expected) : (Datum) 0;
	nulls[1] = nulls[2] = nulls[3] = nulls[4] = way == NULL;
	values[5] = Int64GetDatum(column->accepted);
	values[6] = Int64GetDatum(column->rejected);
	values[7] = Int64GetDatum(column->shortened);
	tuplestore_putvalues(fuzz->rsinfo->setResult, fuzz->rsinfo->setDesc, values, nulls);
}

static void
compare(Fuzz *fuzz, FuzzColumn *column, const char *way, const Outcome *got, const Outcome *expected)
{
	Outcome		left = normalized(column, got);

	if (same_outcome(column, &left, expected))
		return;
	fuzz->differences++;
	put_result(fuzz, column, fuzz->record, way, outcome_text(column, got), outcome_text(column, expected));
}

/* Was a record rejected for what the server takes as a time zone? */
static bool
has_made_up_zone(const Outcome *decoded)
{
	char	   *name;
	char	   *end = decoded->error ? strstr(decoded->message, "\" in a record is not a time zone") : NULL;

	if (end == NULL)
		return false;
	for (name = end; name > decoded->message && name[-1] != '"'; name--)
		;
	return pg_tzset(pnstrdup(name, end - name)) != NULL;
}

/* The record at hand, in one column. */
static void
fuzz_column(Fuzz *fuzz, FuzzColumn *column)
{
	Outcome		expected = attempt(fuzz, column, expect);
	Outcome		decoded = attempt(fuzz, column, decode);

	if (decoded.error)
		column->rejected++;
	else
		column->accepted++;
	/* jsonb needs all of the record in the server encoding, the decoder only the fields that are read */
	if (expected.error && expected.sqlerrcode == ERRCODE_UNTRANSLATABLE_CHARACTER && GetDatabaseEncoding() != PG_UTF8)
		return;
	if (has_made_up_zone(&decoded))
		return;
	compare(fuzz, column, "decoder", &decoded, &expected);
	/* only such an error is known to be the record's fault */
	if (decoded.error && decoded.sqlerrcode != ERRCODE_SAGG_INVALID_RECORD)
	{
		fuzz->differences++;
		put_result(fuzz, column, fuzz->record, "SQLSTATE", decoded.message, "an invalid record");
	}
	if (!expected.error && !expected.isnull)
	{
		Outcome		shortened = attempt(fuzz, column, decode_short);
		Outcome		lengthened = attempt(fuzz, column, decode_long);

		if (!shortened.isnull || shortened.error)
		{
			column->shortened++;
			compare(fuzz, column, "short way", &shortened, &expected);
		}
		compare(fuzz, column, "long way", &lengthened, &expected);
	}
	else if (expected.error && !attempt(fuzz, column, decode_short).isnull &&
			 attempt(fuzz, column, decode_long).error)
	{
		fuzz->differences++;
		put_result(fuzz, column, fuzz->record, "short way", "takes it", expected.message);
	}
}

/* ---------- the run ---------- */

static void
init_column(FuzzColumn *column, Form_pg_attribute attr)
{
	SaggField  *field = palloc0(sizeof(SaggField));
	SaggLayout *layout = palloc0(sizeof(SaggLayout));
	TupleDesc	desc = CreateTemplateTupleDesc(1);
	Oid			function;
	bool		varlena;

	column->attr = attr;
	column->typmod = attr->atttypmod;
	column->base = getBaseTypeAndTypmod(attr->atttypid, &column->typmod);
	TupleDescInitEntry(desc, 1, FIELD, attr->atttypid, attr->atttypmod, attr->attndims);
	TupleDescInitEntryCollation(desc, 1, attr->attcollation);
	column->record_desc = BlessTupleDesc(desc);
	fmgr_info(F_JSONB_TO_RECORD, &column->to_record);
	field->kind = SAGG_FIELD_PAYLOAD;
	field->name = FIELD;
	field->npath = 1;
	field->path = palloc(sizeof(char *));
	field->path[0] = pstrdup(FIELD);
	layout->format = &sagg_format_json;
	layout->natts = layout->npositions = 1;
	layout->fields = field;
	column->decoder = sagg_decoder_make(desc, layout, 1);
	sagg_conversion_init(&column->conv, attr->atttypid, attr->atttypmod, attr->attcollation);
	getTypeInputInfo(column->base, &function, &column->ioparam);
	fmgr_info(function, &column->input);
	getTypeOutputInfo(attr->atttypid, &function, &varlena);
	fmgr_info(function, &column->output);
}

static void
init_fuzz(Fuzz *fuzz, FunctionCallInfo fcinfo, TupleDesc types)
{
	SaggJsonName name = {FIELD, strlen(FIELD)};
	SaggJsonPath path = {&name, 1, 0};

	fuzz->context = CurrentMemoryContext;
	fuzz->per_record = AllocSetContextCreate(CurrentMemoryContext, "fuzz record", ALLOCSET_DEFAULT_SIZES);
	fuzz->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	fuzz->ncolumns = types->natts;
	fuzz->columns = palloc0(sizeof(FuzzColumn) * types->natts);
	for (int i = 0; i < types->natts; i++)
		init_column(&fuzz->columns[i], TupleDescAttr(types, i));
	fuzz->leaf = sagg_json_leaf_make(&path, 1, SAGG_JSON_MAX_DEPTH);
	if (fuzz->leaf == NULL)
		elog(ERROR, "out of memory");
}

static FuzzColumn *
random_column(Fuzz *fuzz)
{
	return &fuzz->columns[record_random(&fuzz->maker, fuzz->ncolumns)];
}

/*
 * fuzz_decode(types regclass, seed bigint, first bigint, records bigint): rows
 * of what differs, and one without a record for each column with the counts.
 */
Datum
fuzz_decode(PG_FUNCTION_ARGS)
{
	Relation	relation;
	uint64		seed = (uint64) PG_GETARG_INT64(1);
	int64		first = PG_GETARG_INT64(2);
	int64		records = PG_GETARG_INT64(3);
	Fuzz		fuzz = {0};

	InitMaterializedSRF(fcinfo, 0);
	relation = relation_open(PG_GETARG_OID(0), AccessShareLock);
	init_fuzz(&fuzz, fcinfo, CreateTupleDescCopy(RelationGetDescr(relation)));
	relation_close(relation, AccessShareLock);
	for (fuzz.record = first; fuzz.record < first + records && fuzz.differences < MAX_DIFFERENCES; fuzz.record++)
	{
		CHECK_FOR_INTERRUPTS();
		make_record(&fuzz.maker, seed, (uint64) fuzz.record);
		fuzz_column(&fuzz, random_column(&fuzz));
		if (!attempt(&fuzz, NULL, validate).error)
		{
			for (int i = 1; i < COLUMNS_PER_RECORD; i++)
				fuzz_column(&fuzz, random_column(&fuzz));
		}
		MemoryContextReset(fuzz.per_record);
	}
	MemoryContextSwitchTo(fuzz.context);
	for (int i = 0; i < fuzz.ncolumns; i++)
	{
		put_result(&fuzz, &fuzz.columns[i], 0, NULL, NULL, NULL);
		sagg_decoder_free(fuzz.columns[i].decoder);
	}
	sagg_json_leaf_free(fuzz.leaf);
	free(fuzz.maker.data);
	return (Datum) 0;
}

/* fuzz_record(seed bigint, n bigint) returns bytea: the record */
Datum
fuzz_record(PG_FUNCTION_ARGS)
{
	RecordMaker maker = {0};
	bytea	   *result;

	make_record(&maker, (uint64) PG_GETARG_INT64(0), (uint64) PG_GETARG_INT64(1));
	result = palloc(VARHDRSZ + maker.len);
	SET_VARSIZE(result, VARHDRSZ + maker.len);
	memcpy(VARDATA(result), maker.data, maker.len);
	free(maker.data);
	PG_RETURN_BYTEA_P(result);
}
