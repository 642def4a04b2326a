/*-------------------------------------------------------------------------
 *
 * key_hash.c
 *	  Values of keys as words for a seeded hash.
 *
 * The seeded hash functions of PostgreSQL's types are not keyed by a secret:
 * with the knowledge of how those of arrays, jsonb, ranges, composite types,
 * intervals and others combine their parts, one can choose values that collide
 * for every seed.  So everything that equality compares is fed into SipHash:
 * the digits of a number, the dimensions and elements of an array, and so on,
 * by the equality of each part.
 *
 * Values that are equal must give the same words, whatever their other
 * differences: 1.0 and 1.00, 0 and -0, '1 mon' and '30 days'.  For an equality
 * that is not known here, the type's own hash is a word.  Values that are not
 * equal must not give the same words, so each part includes its length, and a
 * NULL adds no word.
 *
 * These hashes are never stored, nor is the seed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/hash.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "catalog/pg_am.h"
#include "catalog/pg_amop.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/arrayaccess.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/date.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/multirangetypes.h"
#include "utils/numeric.h"
#include "utils/rangetypes.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "execute_internal.h"
#include "numeric_form.h"

/* How a value is turned into words. */
typedef enum ValueKind
{
	VALUE_FUNCTION,				/* the hash function of its equality */
	VALUE_INT1,
	VALUE_INT2,
	VALUE_INT4,
	VALUE_INT8,
	VALUE_FLOAT4,
	VALUE_FLOAT8,
	VALUE_NUMERIC,
	VALUE_BYTES,				/* text of a deterministic collation, too */
	VALUE_BPCHAR,
	VALUE_UUID,
	VALUE_INTERVAL,
	VALUE_TIMETZ,
	VALUE_JSONB,
	VALUE_ARRAY,				/* of parts[0] */
	VALUE_RANGE,				/* with bounds parts[0] */
	VALUE_MULTIRANGE,
	VALUE_RECORD				/* composite, of parts */
} ValueKind;

struct SaggKeyHash
{
	ValueKind	kind;
	Oid			collation;
	FmgrInfo	function;		/* of VALUE_FUNCTION */
	bool		seeded;			/* it takes a seed */
	TypeCacheEntry *type;		/* of an array's elements, or of a range */
	TupleDesc	record;
	SaggKeyHash *parts;
};

static bool init(SaggKeyHash *hash, Oid type, Oid eqop, Oid collation);
static void add(const SaggKeyHash *hash, SaggSip *sip, uint64 seed, Datum value);

/* ---------------------------------------------------------------- set up */

/*
 * Returns the kind of a value, by the function that compares it.
 */
static ValueKind
kind_by_equality(Oid function, Oid collation)
{
	bool		deterministic = OidIsValid(collation) && get_collation_isdeterministic(collation);

	switch (function)
	{
		case F_BOOLEQ:
		case F_CHAREQ:
			return VALUE_INT1;
		case F_INT2EQ:
			return VALUE_INT2;
		case F_INT4EQ:
		case F_OIDEQ:
		case F_DATE_EQ:
		case F_ENUM_EQ:
			return VALUE_INT4;
		case F_INT8EQ:
		case F_TIMESTAMP_EQ:
		case F_TIMESTAMPTZ_EQ:
		case F_TIME_EQ:
		case F_CASH_EQ:
		case F_PG_LSN_EQ:
			return VALUE_INT8;
		case F_FLOAT4EQ:
			return VALUE_FLOAT4;
		case F_FLOAT8EQ:
			return VALUE_FLOAT8;
		case F_NUMERIC_EQ:
			return VALUE_NUMERIC;
		case F_BYTEAEQ:
			return VALUE_BYTES;
		case F_TEXTEQ:
			return deterministic ? VALUE_BYTES : VALUE_FUNCTION;
		case F_BPCHAREQ:
			return deterministic ? VALUE_BPCHAR : VALUE_FUNCTION;
		case F_UUID_EQ:
			return VALUE_UUID;
		case F_INTERVAL_EQ:
			return VALUE_INTERVAL;
		case F_TIMETZ_EQ:
			return VALUE_TIMETZ;
		case F_JSONB_EQ:
			return VALUE_JSONB;
		case F_ARRAY_EQ:
			return VALUE_ARRAY;
		case F_RANGE_EQ:
			return VALUE_RANGE;
		case F_MULTIRANGE_EQ:
			return VALUE_MULTIRANGE;
		case F_RECORD_EQ:
			return VALUE_RECORD;
		default:
			return VALUE_FUNCTION;
	}
}

/*
 * Returns how a part of a value is hashed, if the type's functions compare it
 * by the default equality of the part's type.
 */
static bool
init_part(SaggKeyHash *part, Oid type, Oid collation)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_EQ_OPR);

	return OidIsValid(entry->eq_opr) && init(part, type, entry->eq_opr, collation);
}

static bool
init_array(SaggKeyHash *hash, Oid type, Oid collation)
{
	Oid			element = get_element_type(type);

	if (!OidIsValid(element))
		return false;
	hash->type = lookup_type_cache(element, 0);
	hash->parts = palloc0(sizeof(SaggKeyHash));
	return init_part(hash->parts, element, collation);
}

/*
 * Bounds of ranges are compared by the operator class that the range type
 * names.
 */
static bool
init_range(SaggKeyHash *hash, Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_RANGE_INFO |
											  TYPECACHE_MULTIRANGE_INFO);
	TypeCacheEntry *bound;

	hash->type = hash->kind == VALUE_RANGE ? entry : entry->rngtype;
	if (hash->type == NULL || hash->type->rngelemtype == NULL)
		return false;
	bound = lookup_type_cache(hash->type->rngelemtype->type_id, TYPECACHE_CMP_PROC);
	if (bound->cmp_proc != hash->type->rng_cmp_proc_finfo.fn_oid)
		return false;
	hash->parts = palloc0(sizeof(SaggKeyHash));
	return init_part(hash->parts, bound->type_id, hash->type->rng_collation);
}

static bool
init_record(SaggKeyHash *hash, Oid type)
{
	if (type == RECORDOID)
		return false;
	hash->record = lookup_rowtype_tupdesc_copy(type, -1);
	hash->parts = palloc0(sizeof(SaggKeyHash) * Max(hash->record->natts, 1));
	for (int i = 0; i < hash->record->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(hash->record, i);

		if (!att->attisdropped &&
			!init_part(&hash->parts[i], att->atttypid, att->attcollation))
			return false;
	}
	return true;
}

/*
 * Returns the hash function of an equality, with a seed if there is one.
 */
static bool
init_function(SaggKeyHash *hash, Oid eqop)
{
	CatCList   *members = SearchSysCacheList1(AMOPOPID, ObjectIdGetDatum(eqop));
	Oid			function = InvalidOid;
	Oid			ignore;

	for (int i = 0; i < members->n_members && !OidIsValid(function); i++)
	{
		Form_pg_amop member = (Form_pg_amop) GETSTRUCT(&members->members[i]->tuple);

		if (member->amopmethod == HASH_AM_OID && member->amopstrategy == HTEqualStrategyNumber)
			function = get_opfamily_proc(member->amopfamily, member->amoplefttype,
										 member->amoplefttype, HASHEXTENDED_PROC);
	}
	ReleaseSysCacheList(members);
	hash->kind = VALUE_FUNCTION;
	hash->seeded = OidIsValid(function);
	if (!hash->seeded && !get_op_hash_functions(eqop, &function, &ignore))
		return false;
	fmgr_info(function, &hash->function);
	return true;
}

/*
 * Determine how a value of "type" that is compared by "eqop" is turned into
 * words.  Returns false if that is impossible.
 */
static bool
init(SaggKeyHash *hash, Oid type, Oid eqop, Oid collation)
{
	bool		known = true;

	check_stack_depth();
	type = getBaseType(type);
	hash->collation = collation;
	hash->kind = kind_by_equality(get_opcode(eqop), collation);
	if (hash->kind == VALUE_ARRAY)
		known = init_array(hash, type, collation);
	else if (hash->kind == VALUE_RANGE || hash->kind == VALUE_MULTIRANGE)
		known = init_range(hash, type);
	else if (hash->kind == VALUE_RECORD)
		known = init_record(hash, type);
	return (known && hash->kind != VALUE_FUNCTION) || init_function(hash, eqop);
}

/*
 * Set up the hash of a key's values of "type", for which "eqop" has a hash
 * function, under a collation; in the current context.
 */
SaggKeyHash *
sagg_key_hash_init(Oid type, Oid eqop, Oid collation)
{
	SaggKeyHash *hash = palloc0(sizeof(SaggKeyHash));

	if (!init(hash, type, eqop, collation))
		elog(ERROR, "could not find hash function for operator %u", eqop);
	return hash;
}

/* ----------------------------------------------------------------- words */

static void
add_float(SaggSip *sip, float8 value)
{
	uint64		word = 0;

	if (isnan(value))
		value = get_float8_nan();
	if (value != 0)				/* 0 and -0 are equal */
		memcpy(&word, &value, sizeof(word));
	sagg_sip_add(sip, word);
}

/*
 * Hash sign, weight and digits without zeros at either end; the display scale
 * does not count.  For NaN and infinities, the header.
 */
static void
add_numeric(SaggSip *sip, Numeric value)
{
	const char *data = VARDATA_ANY(value);
	const char *end = data + VARSIZE_ANY_EXHDR(value);
	NumericHead head = {0};
	uint16		header;
	int16		digit;

	memcpy(&header, data, sizeof(header));
	if ((header & SIGN_MASK) == SIGN_SPECIAL)
	{
		sagg_sip_add(sip, header);
		return;
	}
	data = read_numeric_head(data, header, &head);
	for (; data < end; data += sizeof(digit), head.weight--)
	{
		memcpy(&digit, data, sizeof(digit));
		if (digit != 0)
			break;
	}
	for (; data < end; end -= sizeof(digit))
	{
		memcpy(&digit, end - sizeof(digit), sizeof(digit));
		if (digit != 0)
			break;
	}
	if (data == end)
		memset(&head, 0, sizeof(head));
	/* above the 16 bits of special values */
	sagg_sip_add(sip, UINT64CONST(1) << 63 | (uint64) head.negative << 62 |
				 (uint64) (uint32) head.weight << 16);
	sagg_sip_add_bytes(sip, data, end - data);
}

/*
 * Days count 24 hours and months 30 days, as in interval_eq.
 */
static void
add_interval(SaggSip *sip, const Interval *value)
{
	int64		days = (int64) value->month * DAYS_PER_MONTH + value->day;
	int128		span = (int128) days * USECS_PER_DAY + value->time;

	sagg_sip_add(sip, (uint64) span);
	sagg_sip_add(sip, (uint64) (span >> 64));
}

static void
add_jsonb_scalar(SaggSip *sip, const JsonbValue *value)
{
	sagg_sip_add(sip, value->type);
	switch (value->type)
	{
		case jbvNull:
			break;
		case jbvString:
			sagg_sip_add_bytes(sip, value->val.string.val, value->val.string.len);
			break;
		case jbvNumeric:
			add_numeric(sip, value->val.numeric);
			break;
		case jbvBool:
			sagg_sip_add(sip, value->val.boolean);
			break;
		default:
			elog(ERROR, "unexpected type %d of a jsonb value", (int) value->type);
	}
}

/*
 * Keys of an object have one fixed order in all jsonb.
 */
static void
add_jsonb(SaggSip *sip, Jsonb *jsonb)
{
	JsonbIterator *iterator = JsonbIteratorInit(&jsonb->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &value, false)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		sagg_sip_add(sip, token);
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				sagg_sip_add(sip, (uint64) value.val.array.nElems << 1 |
							 value.val.array.rawScalar);
				break;
			case WJB_BEGIN_OBJECT:
				sagg_sip_add(sip, value.val.object.nPairs);
				break;
			case WJB_KEY:
			case WJB_VALUE:
			case WJB_ELEM:
				add_jsonb_scalar(sip, &value);
				break;
			default:
				break;
		}
	}
}

static void
add_array(const SaggKeyHash *hash, SaggSip *sip, uint64 seed, Datum value)
{
	AnyArrayType *array = DatumGetAnyArrayP(value);
	TypeCacheEntry *element = hash->type;
	int			ndim = AARR_NDIM(array);
	int			n = ArrayGetNItems(ndim, AARR_DIMS(array));
	array_iter	iterator;

	sagg_sip_add(sip, ndim);
	for (int i = 0; i < ndim; i++)
		sagg_sip_add(sip, (uint64) (uint32) AARR_DIMS(array)[i] << 32 |
					 (uint32) AARR_LBOUND(array)[i]);
	array_iter_setup(&iterator, array);
	for (int i = 0; i < n; i++)
	{
		bool		isnull;
		Datum		part = array_iter_next(&iterator, &isnull, i, element->typlen,
										   element->typbyval, element->typalign);

		CHECK_FOR_INTERRUPTS();
		if (isnull)
			sagg_sip_add_null(sip);
		else
			add(hash->parts, sip, seed, part);
	}
}

static void
add_bound(const SaggKeyHash *hash, SaggSip *sip, uint64 seed, const RangeBound *bound)
{
	if (bound->infinite)
	{
		sagg_sip_add_null(sip);
		return;
	}
	sagg_sip_add(sip, bound->inclusive);
	add(hash->parts, sip, seed, bound->val);
}

static void
add_range(const SaggKeyHash *hash, SaggSip *sip, uint64 seed, const RangeType *range)
{
	RangeBound	lower;
	RangeBound	upper;
	bool		empty;

	range_deserialize(hash->type, range, &lower, &upper, &empty);
	sagg_sip_add(sip, empty);
	if (empty)
		return;
	add_bound(hash, sip, seed, &lower);
	add_bound(hash, sip, seed, &upper);
}

static void
add_multirange(const SaggKeyHash *hash, SaggSip *sip, uint64 seed,
			   const MultirangeType *ranges)
{
	sagg_sip_add(sip, ranges->rangeCount);
	for (uint32 i = 0; i < ranges->rangeCount; i++)
	{
		RangeBound	lower;
		RangeBound	upper;

		CHECK_FOR_INTERRUPTS();
		multirange_get_bounds(hash->type, ranges, i, &lower, &upper);
		add_bound(hash, sip, seed, &lower);
		add_bound(hash, sip, seed, &upper);
	}
}

static void
add_record(const SaggKeyHash *hash, SaggSip *sip, uint64 seed, HeapTupleHeader header)
{
	HeapTupleData tuple = {.t_data = header};
	int			natts = hash->record->natts;
	Datum	   *values = palloc(sizeof(Datum) * Max(natts, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(natts, 1));

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	heap_deform_tuple(&tuple, hash->record, values, nulls);
	for (int i = 0; i < natts; i++)
	{
		if (TupleDescAttr(hash->record, i)->attisdropped)
			continue;
		if (nulls[i])
			sagg_sip_add_null(sip);
		else
			add(&hash->parts[i], sip, seed, values[i]);
	}
}

static void
add_function(const SaggKeyHash *hash, SaggSip *sip, uint64 seed, Datum value)
{
	FmgrInfo   *function = unconstify(FmgrInfo *, &hash->function);

	if (hash->seeded)
		sagg_sip_add(sip, DatumGetUInt64(FunctionCall2Coll(function, hash->collation, value,
														   UInt64GetDatum(seed))));
	else
		sagg_sip_add(sip, DatumGetUInt32(FunctionCall1Coll(function, hash->collation, value)));
}

/*
 * Add the words of a value.  Leaves garbage in the current context.
 */
static void
add(const SaggKeyHash *hash, SaggSip *sip, uint64 seed, Datum value)
{
	struct varlena *bytes;

	check_stack_depth();
	switch (hash->kind)
	{
		case VALUE_FUNCTION:
			add_function(hash, sip, seed, value);
			break;
		case VALUE_INT1:
			sagg_sip_add(sip, (uint64) DatumGetChar(value));
			break;
		case VALUE_INT2:
			sagg_sip_add(sip, (uint64) DatumGetInt16(value));
			break;
		case VALUE_INT4:
			sagg_sip_add(sip, (uint64) DatumGetInt32(value));
			break;
		case VALUE_INT8:
			sagg_sip_add(sip, (uint64) DatumGetInt64(value));
			break;
		case VALUE_FLOAT4:
			add_float(sip, DatumGetFloat4(value));
			break;
		case VALUE_FLOAT8:
			add_float(sip, DatumGetFloat8(value));
			break;
		case VALUE_NUMERIC:
			add_numeric(sip, (Numeric) PG_DETOAST_DATUM_PACKED(value));
			break;
		case VALUE_BYTES:
			bytes = PG_DETOAST_DATUM_PACKED(value);
			sagg_sip_add_bytes(sip, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
			break;
		case VALUE_BPCHAR:
			bytes = PG_DETOAST_DATUM_PACKED(value);
			sagg_sip_add_bytes(sip, VARDATA_ANY(bytes),
							   bpchartruelen(VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes)));
			break;
		case VALUE_UUID:
			sagg_sip_add_bytes(sip, (const char *) DatumGetUUIDP(value)->data, UUID_LEN);
			break;
		case VALUE_INTERVAL:
			add_interval(sip, DatumGetIntervalP(value));
			break;
		case VALUE_TIMETZ:
			sagg_sip_add(sip, (uint64) DatumGetTimeTzADTP(value)->time);
			sagg_sip_add(sip, (uint64) DatumGetTimeTzADTP(value)->zone);
			break;
		case VALUE_JSONB:
			add_jsonb(sip, DatumGetJsonbP(value));
			break;
		case VALUE_ARRAY:
			add_array(hash, sip, seed, value);
			break;
		case VALUE_RANGE:
			add_range(hash, sip, seed, DatumGetRangeTypeP(value));
			break;
		case VALUE_MULTIRANGE:
			add_multirange(hash, sip, seed, DatumGetMultirangeTypeP(value));
			break;
		case VALUE_RECORD:
			add_record(hash, sip, seed, DatumGetHeapTupleHeader(value));
			break;
	}
}

/*
 * Add a value that is not NULL to the seeded hash of a row.  May leave garbage
 * in the memory of the current row, including what the type's hash function
 * leaves.
 */
void
sagg_key_hash_add(SaggExecution *ex, const SaggKeyHash *hash, SaggSip *sip, Datum value)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);

	add(hash, sip, ex->seed->k0, value);
	MemoryContextSwitchTo(old);
}
