/*-------------------------------------------------------------------------
 *
 * record_datum.c
 *	  Converts values to Datums of any type: the long way, by the rules of
 *	  decode.h.
 *
 * Users' input functions and domain constraints run here, as the current user
 * of the caller (I8).  They and PostgreSQL raise errors, which decoder.c turns
 * into invalid records.  Results are made in the current memory context,
 * caches in the conversion's.  Takes no locks of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "record_datum.h"

/* Returns which conversion the values of a type need. */
static SaggConversionKind
conversion_kind(Oid type, int32 typmod)
{
	switch (type)
	{
		case BOOLOID:
			return SAGG_TO_BOOL;
		case INT2OID:
			return SAGG_TO_INT2;
		case INT4OID:
			return SAGG_TO_INT4;
		case INT8OID:
			return SAGG_TO_INT8;
		case FLOAT8OID:
			return SAGG_TO_FLOAT8;
		case NUMERICOID:
			return SAGG_TO_NUMERIC;
		case TEXTOID:
			return SAGG_TO_TEXT;
		case VARCHAROID:
			return typmod < 0 ? SAGG_TO_TEXT : SAGG_TO_OTHER;
		case TIMESTAMPTZOID:
			return SAGG_TO_TIMESTAMPTZ;
		case TIMESTAMPOID:
			return SAGG_TO_TIMESTAMP;
		case DATEOID:
			return SAGG_TO_DATE;
		case JSONOID:
			return SAGG_TO_JSON;
		case JSONBOID:
			return SAGG_TO_JSONB;
		default:
			if (OidIsValid(get_element_type(type)) ||
				get_typtype(type) == TYPTYPE_COMPOSITE)
				return SAGG_TO_RECORD;
			return SAGG_TO_OTHER;
	}
}

/*
 * Prepares the conversion of JSON values to a column's type.  The result, and
 * caches, live in the current memory context.  Raises an error if the type has
 * no input function.
 */
void
sagg_conversion_init(SaggConversion *conv, Oid type, int32 typmod, Oid collation)
{
	Oid			base;
	Oid			input;

	memset(conv, 0, sizeof(*conv));
	conv->context = CurrentMemoryContext;
	conv->type_name = format_type_with_typemod(type, typmod);
	base = getBaseTypeAndTypmod(type, &typmod);
	if (base != type)
		conv->domain = type;
	conv->type = base;
	conv->typmod = typmod;
	conv->kind = conversion_kind(base, typmod);
	conv->bounds_digits = base != NUMERICOID && base != JSONBOID && sagg_holds_numerics(base);
	conv->texts = sagg_texts_make(base);
	if (type_is_enum(base))
		conv->labels = sagg_labels_make(base);
	getTypeInputInfo(base, &input, &conv->ioparam);
	fmgr_info(input, &conv->input);
	if (conv->kind == SAGG_TO_RECORD)
	{
		fmgr_info(F_JSONB_TO_RECORD, &conv->to_record);
		conv->record_desc = CreateTemplateTupleDesc(1);
		TupleDescInitEntry(conv->record_desc, 1, "value", base, typmod, 0);
		TupleDescInitEntryCollation(conv->record_desc, 1, collation);
		conv->record_desc = BlessTupleDesc(conv->record_desc);
	}
}

/*
 * Raises an error if the catalogs no longer have what a conversion needs of
 * its type.
 */
void
sagg_conversion_check(const SaggConversion *conv)
{
	Oid			base = getBaseType(OidIsValid(conv->domain) ? conv->domain : conv->type);
	Oid			element = get_base_element_type(base);
	Oid			input;
	Oid			ioparam;
	FmgrInfo	function;

	getTypeInputInfo(OidIsValid(element) ? getBaseType(element) : base, &input, &ioparam);
	fmgr_info(input, &function);
}

/*
 * Returns a value's text in server encoding.  Raises an error if it cannot be
 * converted.
 */
static char *
server_text(const SaggFieldValue *value)
{
	/* UTF-8 has been verified already */
	if (GetDatabaseEncoding() == PG_UTF8)
		return value->text;
	return pg_any_to_server(value->text, (int) value->len, PG_UTF8);
}

/* Returns a number as a Datum of type numeric, exact. */
static Datum
number_numeric(const SaggFieldValue *value)
{
	return DirectFunctionCall3(numeric_in, CStringGetDatum(value->text),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

/*
 * Returns a number as numeric prints it: no exponent, no minus before a zero.
 */
static char *
number_text(const SaggFieldValue *value)
{
	bool		zero = strspn(value->text, "-0.") == value->len;

	if (strpbrk(value->text, "eE") || (zero && value->text[0] == '-'))
		return DatumGetCString(DirectFunctionCall1(numeric_out,
												   number_numeric(value)));
	return value->text;
}

/* Returns any value as a Datum of type jsonb. */
static Datum
value_jsonb(const SaggFieldValue *value)
{
	JsonbValue	scalar;

	switch (value->kind)
	{
		case SAGG_FIELD_FALSE:
		case SAGG_FIELD_TRUE:
			scalar.type = jbvBool;
			scalar.val.boolean = (value->kind == SAGG_FIELD_TRUE);
			break;
		case SAGG_FIELD_NUMBER:
			scalar.type = jbvNumeric;
			scalar.val.numeric = DatumGetNumeric(number_numeric(value));
			break;
		case SAGG_FIELD_STRING:
			scalar.type = jbvString;
			scalar.val.string.val = server_text(value);
			scalar.val.string.len = strlen(scalar.val.string.val);
			break;
		default:
			return sagg_jsonb_make(server_text(value));
	}
	return JsonbPGetDatum(JsonbValueToJsonb(&scalar));
}

/* Returns any value as text, like the operator ->> of jsonb. */
static char *
value_text(const SaggFieldValue *value)
{
	switch (value->kind)
	{
		case SAGG_FIELD_FALSE:
			return "false";
		case SAGG_FIELD_TRUE:
			return "true";
		case SAGG_FIELD_NUMBER:
			return number_text(value);
		case SAGG_FIELD_STRING:
			return server_text(value);
		default:
			return DatumGetCString(DirectFunctionCall1(jsonb_out,
													   value_jsonb(value)));
	}
}

/*
 * Returns any value as a Datum of type json: the record's text, without
 * escapes.
 */
static Datum
value_json(const SaggFieldValue *value)
{
	StringInfoData buf;

	if (value->kind != SAGG_FIELD_STRING)
		return CStringGetTextDatum(server_text(value));
	initStringInfo(&buf);
	escape_json(&buf, server_text(value));
	return PointerGetDatum(cstring_to_text_with_len(buf.data, buf.len));
}

/* Returns the member "value" of an object that has one. */
static JsonbValue *
record_value(Datum record)
{
	return getKeyJsonValueFromContainer(&DatumGetJsonbP(record)->root, "value",
										strlen("value"), NULL);
}

/*
 * Makes an array or composite of a value that is not a string:
 *		SELECT value FROM jsonb_to_record('{"value": ...}') AS (value type)
 */
static Datum
value_record(SaggConversion *conv, const SaggFieldValue *value)
{
	LOCAL_FCINFO(fcinfo, 1);
	ReturnSetInfo rsinfo = {0};
	HeapTupleData tuple = {0};
	Datum		result;
	bool		isnull;

	rsinfo.type = T_ReturnSetInfo;
	rsinfo.expectedDesc = conv->record_desc;
	rsinfo.allowedModes = SFRM_ValuePerCall;
	InitFunctionCallInfoData(*fcinfo, &conv->to_record, 1, InvalidOid, NULL,
							 (fmNodePtr) &rsinfo);
	fcinfo->args[0].value =
		sagg_jsonb_make(psprintf("{\"value\":%s}", server_text(value)));
	fcinfo->args[0].isnull = false;
	if (conv->texts)
		sagg_texts_check_json(conv->texts, record_value(fcinfo->args[0].value));
	result = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull)
		elog(ERROR, "function jsonb_to_record returned NULL");
	tuple.t_data = DatumGetHeapTupleHeader(result);
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	result = heap_getattr(&tuple, 1, conv->record_desc, &isnull);
	if (isnull)
		elog(ERROR, "function jsonb_to_record left out the value");
	return result;
}

/* Returns how many microseconds a unit is: a Datum of type numeric. */
static Datum
unit_microseconds(SaggUnit unit)
{
	switch (unit)
	{
		case SAGG_UNIT_S:
			return NumericGetDatum(int64_to_numeric(USECS_PER_SEC));
		case SAGG_UNIT_US:
			return NumericGetDatum(int64_to_numeric(1));
		case SAGG_UNIT_NS:
			return NumericGetDatum(int64_div_fast_to_numeric(1, 3));
		case SAGG_UNIT_MS:
		case SAGG_UNIT_DEFAULT:
			break;
	}
	return NumericGetDatum(int64_to_numeric(1000));
}

/*
 * Converts a number to a time since 1970, rounded to microseconds, for
 * timestamptz and timestamp.
 */
static Datum
value_epoch(const SaggConversion *conv, const SaggFieldValue *value)
{
	Datum		scaled;
	int64		unix_time;
	Timestamp	timestamp;

	scaled = DirectFunctionCall2(numeric_mul, number_numeric(value),
								 unit_microseconds(conv->unit));
	unix_time = DatumGetInt64(DirectFunctionCall1(numeric_int8, scaled));
	if (pg_sub_s64_overflow(unix_time, (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
							USECS_PER_DAY, &timestamp) ||
		!IS_VALID_TIMESTAMP(timestamp))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return DirectFunctionCall2(conv->kind == SAGG_TO_TIMESTAMPTZ ?
							   timestamptz_scale : timestamp_scale,
							   TimestampGetDatum(timestamp),
							   Int32GetDatum(conv->typmod));
}

/* Converts a number to a Datum of an integer type, as jsonb casts it. */
static Datum
value_integer(const SaggConversion *conv, const SaggFieldValue *value)
{
	PGFunction	cast = conv->kind == SAGG_TO_INT2 ? numeric_int2 :
	conv->kind == SAGG_TO_INT4 ? numeric_int4 : numeric_int8;

	return DirectFunctionCall1(cast, number_numeric(value));
}

/* Converts bytes, which only bytea holds. */
static Datum
value_bytes(const SaggConversion *conv, const SaggFieldValue *value)
{
	bytea	   *result;

	if (conv->type != BYTEAOID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("bytes can only be read into a column of type bytea")));
	result = palloc(VARHDRSZ + value->len);
	SET_VARSIZE(result, VARHDRSZ + value->len);
	memcpy(VARDATA(result), value->text, value->len);
	return PointerGetDatum(result);
}

/* Reads a text in server encoding by the type's input function. */
static Datum
input_text(SaggConversion *conv, char *text)
{
	if (conv->texts)
		sagg_texts_check(conv->texts, text);
	if (conv->labels)
		sagg_labels_check(conv->labels, conv->type, text);
	if (conv->kind == SAGG_TO_JSONB)
		return sagg_jsonb_make(text);
	return InputFunctionCall(&conv->input, text, conv->ioparam, conv->typmod);
}

/*
 * Raises an error if no array or object of JSON has a text that is a value of
 * the type.  It may be of megabytes, and need not be read.
 */
static void
check_container(const SaggConversion *conv)
{
	switch (conv->kind)
	{
		case SAGG_TO_BOOL:
		case SAGG_TO_INT2:
		case SAGG_TO_INT4:
		case SAGG_TO_INT8:
		case SAGG_TO_FLOAT8:
		case SAGG_TO_NUMERIC:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("an array or object is not a valid %s", conv->type_name)));
			break;
		default:
			break;
	}
}

/* Converts a value to the type below the domains, if there are any. */
static Datum
convert_base(SaggConversion *conv, const SaggFieldValue *value)
{
	if (value->kind == SAGG_FIELD_AMBIGUOUS)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_INVALID_RECORD),
				 errmsg("the record has several fields whose names differ from that in case only")));
	if (conv->texts)
		sagg_texts_check_size(conv->texts, value->len);
	if (conv->kind == SAGG_TO_JSONB && value->kind == SAGG_PLAIN_TEXT)
		sagg_check_digits(value->text, value->len);
	if (value->kind == SAGG_PLAIN_TEXT)
		return input_text(conv, server_text(value));
	if (value->kind == SAGG_BYTES)
		return value_bytes(conv, value);
	if (value->kind == SAGG_FIELD_ARRAY || value->kind == SAGG_FIELD_OBJECT)
		check_container(conv);
	switch (conv->kind)
	{
		case SAGG_TO_JSON:
			return value_json(value);
		case SAGG_TO_JSONB:
			return value_jsonb(value);
		case SAGG_TO_RECORD:
			if (value->kind != SAGG_FIELD_STRING)
				return value_record(conv, value);
			break;
		case SAGG_TO_TIMESTAMPTZ:
		case SAGG_TO_TIMESTAMP:
			if (value->kind == SAGG_FIELD_NUMBER)
				return value_epoch(conv, value);
			break;
		case SAGG_TO_INT2:
		case SAGG_TO_INT4:
		case SAGG_TO_INT8:
			if (value->kind == SAGG_FIELD_NUMBER)
				return value_integer(conv, value);
			break;
		default:
			break;
	}
	return input_text(conv, value_text(value));
}

/*
 * Makes the Datum of any value, in the current memory context.  Sets *isnull
 * for a missing or null value.  Raises what the type's input function and
 * domain constraints raise, and errors of character conversion.
 */
Datum
sagg_convert(SaggConversion *conv, const SaggFieldValue *value, bool *isnull)
{
	Datum		result = (Datum) 0;

	*isnull = (value->kind == SAGG_FIELD_MISSING || value->kind == SAGG_FIELD_NULL);
	if (!*isnull)
		result = convert_base(conv, value);
	if (!*isnull && conv->bounds_digits)
		sagg_check_digits_made(result, conv->type, value);
	if (OidIsValid(conv->domain))
		domain_check(result, *isnull, conv->domain, &conv->domain_cache,
					 conv->context);
	return result;
}
