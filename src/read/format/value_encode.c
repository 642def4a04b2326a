/*-------------------------------------------------------------------------
 *
 * value_encode.c
 *	  Encodes values of any type as JSON, so that the decoder returns an equal
 *	  value.
 *
 * The server's to_json writes a value.  In some cases decoding (decode.h)
 * would return something else; then the value is written as a string in its
 * type's text form, which the decoder accepts for every type:
 *
 * - arrays whose bounds do not start at 1, which JSON does not tell
 * - arrays of json and jsonb, and of domains over arrays, whose elements would
 *	 be taken for further dimensions
 * - types that have a cast to json of their own, which their input function
 *	 knows nothing of
 *
 * Users' output functions run here, as the current user of the caller (I8).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "payload_encode.h"

typedef struct TypeTraits
{
	bool		as_text;
	bool		has_arrays;
} TypeTraits;

static void add_traits(Oid type, TypeTraits *traits);

static void
add_array_traits(Oid element, TypeTraits *traits)
{
	Oid			base = getBaseType(element);

	traits->has_arrays = true;
	if (base == JSONOID || base == JSONBOID || OidIsValid(get_element_type(base)))
		traits->as_text = true;
	add_traits(element, traits);
}

static void
add_composite_traits(Oid type, TypeTraits *traits)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);

	for (int i = 0; i < desc->natts; i++)
	{
		if (!TupleDescAttr(desc, i)->attisdropped)
			add_traits(TupleDescAttr(desc, i)->atttypid, traits);
	}
	ReleaseTupleDesc(desc);
}

static bool
has_cast_to_json(Oid type)
{
	Oid			function;

	return type >= FirstNormalObjectId &&
		find_coercion_pathway(JSONOID, type, COERCION_EXPLICIT,
							  &function) == COERCION_PATH_FUNC;
}

/*
 * Determine the properties of a type and of all types its values contain.
 */
static void
add_traits(Oid type, TypeTraits *traits)
{
	Oid			element;

	check_stack_depth();
	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		add_array_traits(element, traits);
	else if (get_typtype(type) == TYPTYPE_COMPOSITE)
		add_composite_traits(type, traits);
	else if (has_cast_to_json(type))
		traits->as_text = true;
}

/*
 * Prepare to write values of a type, timestamps as numbers of "unit" unless
 * that is SAGG_UNIT_DEFAULT.  Keeps what it needs in the current memory
 * context.
 */
void
sagg_value_encoder_init(SaggValueEncoder *encoder, Oid type, SaggUnit unit)
{
	TypeTraits	traits = {false, false};
	Oid			output;
	bool		is_varlena;
	Node	   *argument;

	add_traits(type, &traits);
	encoder->type = getBaseType(type);
	encoder->unit = unit;
	encoder->as_text = traits.as_text;
	encoder->has_arrays = traits.has_arrays;
	getTypeOutputInfo(encoder->type, &output, &is_varlena);
	fmgr_info(output, &encoder->output);

	/* to_json gets the type from its call expression */
	argument = (Node *) makeNullConst(encoder->type, -1, InvalidOid);
	fmgr_info(F_TO_JSON, &encoder->to_json);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSON, JSONOID, list_make1(argument),
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
					   &encoder->to_json);
}

/*
 * Returns whether the output may depend on settings of the session such as
 * IntervalStyle.
 */
bool
sagg_value_encoder_needs_settings(const SaggValueEncoder *encoder)
{
	switch (encoder->type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case TIMESTAMPTZOID:
		case TIMESTAMPOID:
		case DATEOID:
		case UUIDOID:
		case BYTEAOID:
		case JSONOID:
		case JSONBOID:
			return false;
		default:
			return true;
	}
}

static bool bounds_are_default(Datum value, Oid type);

static bool
array_bounds_are_default(Datum value)
{
	ArrayType  *array = DatumGetArrayTypeP(value);
	Oid			element = getBaseType(ARR_ELEMTYPE(array));
	bool		result = true;
	Datum	   *values;
	bool	   *nulls;
	int			n;
	int16		len;
	bool		byval;
	char		align;

	for (int i = 0; i < ARR_NDIM(array); i++)
	{
		if (ARR_LBOUND(array)[i] != 1)
			return false;
	}
	if (get_typtype(element) != TYPTYPE_COMPOSITE)
		return true;
	get_typlenbyvalalign(ARR_ELEMTYPE(array), &len, &byval, &align);
	deconstruct_array(array, ARR_ELEMTYPE(array), len, byval, align,
					  &values, &nulls, &n);
	for (int i = 0; i < n && result; i++)
		result = nulls[i] || bounds_are_default(values[i], element);
	return result;
}

static bool
composite_bounds_are_default(Datum value)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
											  HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple;
	bool		result = true;

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	tuple.t_data = header;
	for (int i = 0; i < desc->natts && result; i++)
	{
		bool		isnull;
		Datum		field;

		if (TupleDescAttr(desc, i)->attisdropped)
			continue;
		field = heap_getattr(&tuple, i + 1, desc, &isnull);
		result = isnull || bounds_are_default(field, TupleDescAttr(desc, i)->atttypid);
	}
	ReleaseTupleDesc(desc);
	return result;
}

/*
 * Returns whether all arrays in a value start at 1.
 */
static bool
bounds_are_default(Datum value, Oid type)
{
	check_stack_depth();
	type = getBaseType(type);
	if (OidIsValid(get_element_type(type)))
		return array_bounds_are_default(value);
	if (get_typtype(type) == TYPTYPE_COMPOSITE)
		return composite_bounds_are_default(value);
	return true;
}

/*
 * Append a timestamp as a number of the unit, exactly; returns false if it is
 * infinite or there is no such number.
 */
static bool
append_epoch(const SaggValueEncoder *encoder, Timestamp value, StringInfo out)
{
	int			decimals = encoder->unit == SAGG_UNIT_S ? 6 :
	encoder->unit == SAGG_UNIT_MS ? 3 : 0;
	int64		microseconds;
	char	   *digits;
	int			len;

	if (TIMESTAMP_NOT_FINITE(value) ||
		pg_add_s64_overflow(value, (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
							USECS_PER_DAY, &microseconds))
		return false;
	digits = psprintf(UINT64_FORMAT, microseconds < 0 ? -(uint64) microseconds : microseconds);
	len = strlen(digits);
	if (microseconds < 0)
		appendStringInfoChar(out, '-');
	if (len > decimals)
		appendBinaryStringInfo(out, digits, len - decimals);
	else
		appendStringInfoChar(out, '0');
	if (decimals > 0)
	{
		appendStringInfoChar(out, '.');
		for (int i = len; i < decimals; i++)
			appendStringInfoChar(out, '0');
		appendStringInfoString(out, digits + Max(len - decimals, 0));
		while (out->data[out->len - 1] == '0')
			out->data[--out->len] = '\0';
		if (out->data[out->len - 1] == '.')
			out->data[--out->len] = '\0';
	}
	if (encoder->unit == SAGG_UNIT_NS && microseconds != 0)
		appendStringInfoString(out, "000");
	return true;
}

/*
 * Append a value that is not NULL, as JSON in server encoding.  Allocates in
 * the current memory context.  Raises what output functions raise.
 */
void
sagg_value_encode(SaggValueEncoder *encoder, Datum value, StringInfo out)
{
	if (encoder->unit != SAGG_UNIT_DEFAULT &&
		append_epoch(encoder, DatumGetTimestamp(value), out))
		return;
	if (encoder->as_text ||
		(encoder->has_arrays && !bounds_are_default(value, encoder->type)))
		escape_json(out, OutputFunctionCall(&encoder->output, value));
	else
	{
		text	   *json = DatumGetTextPP(FunctionCall1(&encoder->to_json, value));

		appendBinaryStringInfo(out, VARDATA_ANY(json), VARSIZE_ANY_EXHDR(json));
	}
}

/*
 * Append a value that is not NULL in its type's text form, which depends on
 * settings of the session for many types.
 */
void
sagg_value_encode_text(SaggValueEncoder *encoder, Datum value, StringInfo out)
{
	if (encoder->unit == SAGG_UNIT_DEFAULT ||
		!append_epoch(encoder, DatumGetTimestamp(value), out))
		appendStringInfoString(out, OutputFunctionCall(&encoder->output, value));
}
