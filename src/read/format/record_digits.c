/*-------------------------------------------------------------------------
 *
 * record_digits.c
 *	  Bounds the digits that the numbers in a record's values stand for.
 *
 * A numeric of eight bytes, 1e131071, is a text of 131072 digits.  In JSON the
 * exponents are counted before anything is made of it.  What input functions
 * make of texts is counted afterwards, wherever numerics are in it: until they
 * become text, they are small.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/multirangetypes.h"
#include "utils/numeric.h"
#include "utils/rangetypes.h"
#include "utils/typcache.h"

#include "record_datum.h"

/* decimal digits of one that numeric stores */
#define DIGITS_PER_DIGIT	4

static void
too_many_digits(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("the exponents of its numbers stand for too many digits")));
}

/*
 * Returns how many digits the exponents in JSON stand for, which ends with a
 * NUL.  Strings do not count.
 */
static int64
count_exponents(const char *json, Size len)
{
	int64		digits = 0;
	const char *end = json + len;
	bool		inside = false;

	for (const char *p = json; p < end; p++)
	{
		int64		exponent = 0;

		if (*p == '"')
			inside = !inside;
		else if (*p == '\\' && inside)
			p++;
		if (inside || (*p != 'e' && *p != 'E') || p == json || !isdigit((unsigned char) p[-1]))
			continue;
		p += p[1] == '-' || p[1] == '+';
		for (; isdigit((unsigned char) p[1]) && exponent <= SAGG_MAX_DIGITS_OF_ALL; p++)
			exponent = exponent * 10 + (p[1] - '0');
		digits += exponent;
	}
	return digits;
}

/*
 * Raises an error if the exponents in JSON, which ends with a NUL, stand for
 * more digits than those of a record may.
 */
void
sagg_check_digits(const char *json, Size len)
{
	if (count_exponents(json, len) > SAGG_MAX_DIGITS(len))
		too_many_digits();
}

static bool
attributes_hold_numerics(Oid type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);
	bool		found = false;

	for (int i = 0; i < desc->natts && !found; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		found = !attr->attisdropped && sagg_holds_numerics(attr->atttypid);
	}
	ReleaseTupleDesc(desc);
	return found;
}

/*
 * Returns whether there may be numerics in the values of a type, below domains
 * and besides a value that is one itself.
 */
bool
sagg_holds_numerics(Oid type)
{
	Oid			element;

	check_stack_depth();
	type = getBaseType(type);
	if (type == NUMERICOID || type == JSONBOID)
		return true;
	element = get_element_type(type);
	if (OidIsValid(element))
		return sagg_holds_numerics(element);
	if (type_is_multirange(type))
		type = get_multirange_range(type);
	if (type_is_range(type))
		return sagg_holds_numerics(get_range_subtype(type));
	return get_typtype(type) == TYPTYPE_COMPOSITE && attributes_hold_numerics(type);
}

/* Counts digits in values down to zero. */
static void subtract(int64 *digits, Datum value, Oid type);

/* A numeric counts as long as its text may be. */
static void
subtract_numeric(int64 *digits, Datum value)
{
	bytea	   *sent = DatumGetByteaP(DirectFunctionCall1(numeric_send, value));
	const unsigned char *bytes = (const unsigned char *) VARDATA(sent);
	int			weight = (int16) (bytes[2] << 8 | bytes[3]);
	int			scale = (int16) (bytes[6] << 8 | bytes[7]);

	*digits -= Max(weight + 1, 0) * DIGITS_PER_DIGIT + scale;
	if (*digits < 0)
		too_many_digits();
	pfree(sent);
}

static void
subtract_jsonb(int64 *digits, Jsonb *jsonb)
{
	JsonbIterator *it = JsonbIteratorInit(&jsonb->root);
	JsonbValue	value;

	while (JsonbIteratorNext(&it, &value, false) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (value.type == jbvNumeric)
			subtract_numeric(digits, NumericGetDatum(value.val.numeric));
	}
}

static void
subtract_array(int64 *digits, ArrayType *array, Oid element)
{
	ArrayIterator it = array_create_iterator(array, 0, NULL);
	Oid			base = getBaseType(element);
	Datum		value;
	bool		isnull;

	while (array_iterate(it, &value, &isnull))
	{
		CHECK_FOR_INTERRUPTS();
		if (!isnull)
			subtract(digits, value, base);
	}
	array_free_iterator(it);
}

static void
subtract_range(int64 *digits, const RangeType *range, TypeCacheEntry *type)
{
	RangeBound	bounds[2];
	bool		empty;

	range_deserialize(type, range, &bounds[0], &bounds[1], &empty);
	for (int i = 0; i < 2 && !empty; i++)
	{
		if (!bounds[i].infinite)
			subtract(digits, bounds[i].val, type->rngelemtype->type_id);
	}
}

static void
subtract_multirange(int64 *digits, const MultirangeType *multirange, Oid range)
{
	TypeCacheEntry *type = lookup_type_cache(range, TYPECACHE_RANGE_INFO);
	RangeType **ranges;
	int32		n;

	multirange_deserialize(type, multirange, &n, &ranges);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		subtract_range(digits, ranges[i], type);
	}
}

static void
subtract_composite(int64 *digits, HeapTupleHeader header, Oid type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(type, -1);
	HeapTupleData tuple = {0};

	tuple.t_data = header;
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		bool		isnull;
		Datum		value;

		if (attr->attisdropped)
			continue;
		value = heap_getattr(&tuple, i + 1, desc, &isnull);
		if (!isnull)
			subtract(digits, value, attr->atttypid);
	}
	FreeTupleDesc(desc);
}

static void
subtract(int64 *digits, Datum value, Oid type)
{
	Oid			element;

	check_stack_depth();
	if (type == NUMERICOID)
	{
		subtract_numeric(digits, value);
		return;
	}
	type = getBaseType(type);
	element = get_element_type(type);
	if (type == NUMERICOID)
		subtract_numeric(digits, value);
	else if (type == JSONBOID)
		subtract_jsonb(digits, DatumGetJsonbP(value));
	else if (OidIsValid(element))
		subtract_array(digits, DatumGetArrayTypeP(value), element);
	else if (type_is_multirange(type))
		subtract_multirange(digits, DatumGetMultirangeTypeP(value), get_multirange_range(type));
	else if (type_is_range(type))
		subtract_range(digits, DatumGetRangeTypeP(value), lookup_type_cache(type, TYPECACHE_RANGE_INFO));
	else if (get_typtype(type) == TYPTYPE_COMPOSITE)
		subtract_composite(digits, DatumGetHeapTupleHeader(value), type);
}

/*
 * Raises an error if the numerics in a value of a type, which has been made of
 * a field's value, stand for more digits than those of a record may.  Numbers
 * in JSON have been counted with the rest of the record, so they may be as many.
 */
void
sagg_check_digits_made(Datum datum, Oid type, const SaggFieldValue *value)
{
	int64		digits = SAGG_MAX_DIGITS(value->len);
	MemoryContext memory;
	MemoryContext outer;

	/* then no number is longer than its text, which might have escapes */
	if (value->len == 0 || strpbrk(value->text, "eE\\") == NULL)
		return;
	if (value->kind == SAGG_FIELD_ARRAY || value->kind == SAGG_FIELD_OBJECT)
		digits += count_exponents(value->text, value->len);
	memory = AllocSetContextCreate(CurrentMemoryContext, "stream_agg digits of a value",
								   ALLOCSET_SMALL_SIZES);
	outer = MemoryContextSwitchTo(memory);
	subtract(&digits, datum, type);
	MemoryContextSwitchTo(outer);
	MemoryContextDelete(memory);
}
