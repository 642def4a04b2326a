/*-------------------------------------------------------------------------
 *
 * first_last.c
 *	  The aggregates first(value, at) and last(value, at).
 *
 * The result is the value with the least or the greatest time.  Of several
 * values with one time it is the least or the greatest, by the default order
 * of the type with NULL after all others; values that are equal, or have no
 * order, are compared by their bytes.  So the result depends neither on the
 * order of input nor on how states are combined.  Rows without a time do not
 * count.
 *
 * Times are those of timestamptz, timestamp and bigint: an int64 each.
 *
 * Bytes of a state are verified, and a type that differs from the result's is
 * rejected.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "libpq/pqformat.h"
#include "parser/parse_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "execute_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_first_accumulate);
PG_FUNCTION_INFO_V1(stream_agg_last_accumulate);
PG_FUNCTION_INFO_V1(stream_agg_first_combine);
PG_FUNCTION_INFO_V1(stream_agg_last_combine);
PG_FUNCTION_INFO_V1(stream_agg_timed_value_serialize);
PG_FUNCTION_INFO_V1(stream_agg_timed_value_deserialize);
PG_FUNCTION_INFO_V1(stream_agg_timed_value_final);

/* A state: the value that is first or last so far. */
typedef struct TimedValue
{
	Oid			type;
	int16		len;
	bool		byval;
	bool		isnull;
	int64		at;
	Datum		value;
} TimedValue;

typedef struct ValueCodec
{
	Oid			type;
	SaggCodec	codec;
} ValueCodec;

/*
 * Returns the context of the state; raises an error outside of an aggregate.
 */
static MemoryContext
state_context(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("this is a function of the aggregates stream_agg.first and stream_agg.last")));
	return context;
}

static int
compare_bytes(const TimedValue *a, const TimedValue *b)
{
	struct varlena *va;
	struct varlena *vb;
	Size		la;
	Size		lb;
	int			result;

	if (a->byval)
		return a->value < b->value ? -1 : a->value > b->value;
	if (a->len > 0)
		return memcmp(DatumGetPointer(a->value), DatumGetPointer(b->value), a->len);
	if (a->len == -2)
		return strcmp(DatumGetCString(a->value), DatumGetCString(b->value));
	va = PG_DETOAST_DATUM_PACKED(a->value);
	vb = PG_DETOAST_DATUM_PACKED(b->value);
	la = VARSIZE_ANY_EXHDR(va);
	lb = VARSIZE_ANY_EXHDR(vb);
	result = memcmp(VARDATA_ANY(va), VARDATA_ANY(vb), Min(la, lb));
	return result != 0 ? result : la < lb ? -1 : la > lb;
}

static int
compare(FunctionCallInfo fcinfo, const TimedValue *a, const TimedValue *b)
{
	TypeCacheEntry *typcache;
	int			result = 0;

	if (a->at != b->at)
		return a->at < b->at ? -1 : 1;
	if (a->isnull || b->isnull)
		return (int) a->isnull - (int) b->isnull;
	typcache = lookup_type_cache(a->type, TYPECACHE_CMP_PROC_FINFO);
	if (OidIsValid(typcache->cmp_proc))
		result = DatumGetInt32(FunctionCall2Coll(&typcache->cmp_proc_finfo, PG_GET_COLLATION(),
												 a->value, b->value));
	return result != 0 ? result : compare_bytes(a, b);
}

/*
 * Check the type of a state: one that was read may be of any type, and must
 * fit the others.
 */
static void
check_type(const TimedValue *state, Oid type)
{
	if (state && state->type != type)
		sagg_codec_corrupt("A state of stream_agg.first or stream_agg.last is of another type than its value.");
}

/*
 * Copy "from" to the state, in its context; "state" may be NULL.
 */
static TimedValue *
set_state(MemoryContext context, TimedValue *state, const TimedValue *from)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Datum		value = from->isnull ? (Datum) 0 : datumCopy(from->value, from->byval, from->len);

	if (state == NULL)
		state = palloc(sizeof(TimedValue));
	else if (!state->isnull && !state->byval)
		pfree(DatumGetPointer(state->value));
	*state = *from;
	state->value = value;
	MemoryContextSwitchTo(old);
	return state;
}

static TimedValue *
earlier_or_later(FunctionCallInfo fcinfo, TimedValue *state, const TimedValue *other, bool later)
{
	MemoryContext context = state_context(fcinfo);
	int			order = state == NULL ? 0 : compare(fcinfo, other, state);

	if (state == NULL || (later ? order > 0 : order < 0))
		return set_state(context, state, other);
	return state;
}

static Datum
accumulate(FunctionCallInfo fcinfo, bool later)
{
	TimedValue *state = PG_ARGISNULL(0) ? NULL : (TimedValue *) PG_GETARG_POINTER(0);
	TimedValue	input;

	(void) state_context(fcinfo);
	if (!PG_ARGISNULL(2))
	{
		input.type = get_fn_expr_argtype(fcinfo->flinfo, 1);
		if (!OidIsValid(input.type))
			elog(ERROR, "could not determine input data type");
		check_type(state, input.type);
		if (state)
		{
			input.len = state->len;
			input.byval = state->byval;
		}
		else
			get_typlenbyval(input.type, &input.len, &input.byval);
		input.isnull = PG_ARGISNULL(1);
		input.value = input.isnull ? (Datum) 0 : PG_GETARG_DATUM(1);
		input.at = PG_GETARG_INT64(2);
		state = earlier_or_later(fcinfo, state, &input, later);
	}
	if (state == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(state);
}

/*
 * first_accumulate(internal, value anyelement, at timestamptz | timestamp |
 * bigint), and last_accumulate.
 */
Datum
stream_agg_first_accumulate(PG_FUNCTION_ARGS)
{
	return accumulate(fcinfo, false);
}

/*
 * last_accumulate(internal, value anyelement, at timestamptz | timestamp | bigint)
 */
Datum
stream_agg_last_accumulate(PG_FUNCTION_ARGS)
{
	return accumulate(fcinfo, true);
}

static Datum
combine(FunctionCallInfo fcinfo, bool later)
{
	TimedValue *state = PG_ARGISNULL(0) ? NULL : (TimedValue *) PG_GETARG_POINTER(0);

	(void) state_context(fcinfo);
	if (!PG_ARGISNULL(1))
	{
		const TimedValue *other = (TimedValue *) PG_GETARG_POINTER(1);

		check_type(state, other->type);
		state = earlier_or_later(fcinfo, state, other, later);
	}
	if (state == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(state);
}

/*
 * first_combine(internal, internal), and last_combine.  The second state is
 * not changed, and not needed afterwards.
 */
Datum
stream_agg_first_combine(PG_FUNCTION_ARGS)
{
	return combine(fcinfo, false);
}

/*
 * last_combine(internal, internal)
 */
Datum
stream_agg_last_combine(PG_FUNCTION_ARGS)
{
	return combine(fcinfo, true);
}

/*
 * Returns how values of a type become bytes, and bytes values; kept in
 * fn_extra.
 */
static SaggCodec *
codec_of(FunctionCallInfo fcinfo, Oid type)
{
	ValueCodec *known = fcinfo->flinfo->fn_extra;
	MemoryContext old;

	if (known && known->type == type)
		return &known->codec;
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	if (known == NULL)
		known = fcinfo->flinfo->fn_extra = palloc(sizeof(ValueCodec));
	known->type = InvalidOid;
	sagg_codec_init(&known->codec, type, -1);
	known->type = type;
	MemoryContextSwitchTo(old);
	return &known->codec;
}

/*
 * timed_value_serialize(internal) RETURNS bytea: int64 at; the type (its OID
 * if it is the server's own, otherwise 0 and its name, because OIDs differ in
 * a restored database); whether the value is NULL, and if not, the value.
 */
Datum
stream_agg_timed_value_serialize(PG_FUNCTION_ARGS)
{
	const TimedValue *state = (TimedValue *) PG_GETARG_POINTER(0);
	bool		own = state->type < FirstGenbkiObjectId;
	StringInfoData buf;

	(void) state_context(fcinfo);
	pq_begintypsend(&buf);
	pq_sendint64(&buf, state->at);
	pq_sendint32(&buf, own ? state->type : InvalidOid);
	if (!own)
	{
		char	   *name = format_type_be_qualified(state->type);

		pq_sendbytes(&buf, name, strlen(name) + 1);
	}
	pq_sendbyte(&buf, state->isnull);
	if (!state->isnull)
		sagg_codec_write(codec_of(fcinfo, state->type), &buf, state->value);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

static Oid
read_type(StringInfo buf)
{
	Oid			type = pq_getmsgint(buf, 4);
	int32		typmod;

	if (!OidIsValid(type))
		SAGG_PARSE_TYPE(pq_getmsgrawstring(buf), &type, &typmod);
	if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(type)))
		sagg_codec_corrupt("A state of stream_agg.first or stream_agg.last is of a type that does not exist.");
	return type;
}

static Datum
read_value(FunctionCallInfo fcinfo, Oid type, StringInfo buf)
{
	SaggCodec  *codec = codec_of(fcinfo, type);
	SaggBytes	bytes = {buf->data + buf->cursor, buf->data + buf->len};
	int32		len = sagg_bytes_take_length(&bytes);
	const char *data = sagg_bytes_take(&bytes, len);

	buf->cursor = bytes.data - buf->data;
	sagg_codec_check(codec, data, len);
	return sagg_codec_read(codec, data, len);
}

/*
 * timed_value_deserialize(bytea, internal) RETURNS internal, in the current
 * context.
 */
Datum
stream_agg_timed_value_deserialize(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	TimedValue *state = palloc0(sizeof(TimedValue));
	StringInfoData buf;

	(void) state_context(fcinfo);
	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	state->at = pq_getmsgint64(&buf);
	state->type = read_type(&buf);
	state->isnull = pq_getmsgbyte(&buf) != 0;
	get_typlenbyval(state->type, &state->len, &state->byval);
	if (!state->isnull)
		state->value = read_value(fcinfo, state->type, &buf);
	pq_getmsgend(&buf);
	pfree(buf.data);
	PG_RETURN_POINTER(state);
}

/*
 * timed_value_final(internal, anyelement, at) RETURNS anyelement.
 */
Datum
stream_agg_timed_value_final(PG_FUNCTION_ARGS)
{
	const TimedValue *state = PG_ARGISNULL(0) ? NULL : (TimedValue *) PG_GETARG_POINTER(0);

	(void) state_context(fcinfo);
	if (state == NULL)
		PG_RETURN_NULL();
	check_type(state, get_fn_expr_rettype(fcinfo->flinfo));
	if (state->isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(state->value);
}
