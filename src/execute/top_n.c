/*-------------------------------------------------------------------------
 *
 * top_n.c
 *	  The aggregate top_n(value, n).
 *
 * The result is an array of the n greatest values, the greatest first; of
 * equal values as many as there are.  NULL does not count.  The state holds no
 * more than n values, sorted: a value that is not among them costs one
 * comparison.  The order is that of typed_value.c, so the result depends
 * neither on the order of input nor on how states are combined.
 *
 * Bytes of a state are verified, and a type that differs from the result's is
 * rejected.  The order of values in it is not verified: a state that was forged
 * can give a wrong result, and nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "utils/array.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "execute_internal.h"
#include "typed_value.h"

PG_FUNCTION_INFO_V1(stream_agg_top_n_accumulate);
PG_FUNCTION_INFO_V1(stream_agg_top_n_combine);
PG_FUNCTION_INFO_V1(stream_agg_top_n_serialize);
PG_FUNCTION_INFO_V1(stream_agg_top_n_deserialize);
PG_FUNCTION_INFO_V1(stream_agg_top_n_final);

#define MAX_N	10000			/* bounds the state of a group */

/* A state: the greatest values so far, the greatest first. */
typedef struct TopValues
{
	SaggValueType type;
	int32		n;				/* at most so many */
	int32		count;
	int32		room;			/* values that the array has room for */
	Datum	   *values;
} TopValues;

static const char *const aggregates = "stream_agg.top_n";

/*
 * Returns a state without values, in "context".
 */
static TopValues *
make_state(MemoryContext context, const SaggValueType *type, int32 n)
{
	TopValues  *state = MemoryContextAlloc(context, sizeof(TopValues));

	state->type = *type;
	state->n = n;
	state->count = 0;
	state->room = Min(n, 4);
	state->values = MemoryContextAlloc(context, sizeof(Datum) * state->room);
	return state;
}

/*
 * Check that n can be used, and is that of the state, which may be NULL.
 */
static void
check_n(const TopValues *state, int32 n)
{
	if (n < 1 || n > MAX_N)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n of stream_agg.top_n must be from 1 to %d, not %d", MAX_N, n)));
	if (state && state->n != n)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("n of stream_agg.top_n differs between rows of a group: %d and %d",
						state->n, n)));
}

/*
 * Returns the place of a value among those of the state: behind all that are
 * greater.  Most values are no greater than the last one, so that is asked
 * first.
 */
static int32
find_place(FunctionCallInfo fcinfo, const TopValues *state, Datum value)
{
	int32		low = 0;
	int32		high = state->count;

	if (high > 0 &&
		sagg_value_compare(fcinfo, &state->type, value, state->values[high - 1]) <= 0)
		return high;
	while (low < high)
	{
		int32		middle = low + (high - low) / 2;

		if (sagg_value_compare(fcinfo, &state->type, value, state->values[middle]) > 0)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/*
 * Add a value to the state, in whose context it is copied, if it is among the n
 * greatest ones.
 */
static void
add_value(FunctionCallInfo fcinfo, MemoryContext context, TopValues *state, Datum value)
{
	int32		place = find_place(fcinfo, state, value);
	MemoryContext old;

	if (place == state->n)
		return;
	old = MemoryContextSwitchTo(context);
	value = datumCopy(value, state->type.byval, state->type.len);
	if (state->count == state->n)
	{
		state->count--;
		if (!state->type.byval)
			pfree(DatumGetPointer(state->values[state->count]));
	}
	else if (state->count == state->room)
	{
		state->room = Min(state->n, state->room * 2);
		state->values = repalloc(state->values, sizeof(Datum) * state->room);
	}
	memmove(state->values + place + 1, state->values + place,
			sizeof(Datum) * (state->count - place));
	state->values[place] = value;
	state->count++;
	MemoryContextSwitchTo(old);
}

/*
 * top_n_accumulate(internal, value anyelement, n integer)
 *
 * Raises ERRCODE_INVALID_PARAMETER_VALUE if n is NULL, not from 1 to 10,000, or
 * not that of the rows before.
 */
Datum
stream_agg_top_n_accumulate(PG_FUNCTION_ARGS)
{
	MemoryContext context = sagg_aggregate_context(fcinfo, aggregates);
	TopValues  *state = PG_ARGISNULL(0) ? NULL : (TopValues *) PG_GETARG_POINTER(0);
	SaggValueType type;

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("n of stream_agg.top_n must not be NULL")));
	check_n(state, PG_GETARG_INT32(2));
	type = sagg_value_type_of(fcinfo, 1, state ? &state->type : NULL, aggregates);
	if (!PG_ARGISNULL(1))
	{
		if (state == NULL)
			state = make_state(context, &type, PG_GETARG_INT32(2));
		add_value(fcinfo, context, state, PG_GETARG_DATUM(1));
	}
	if (state == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(state);
}

/*
 * top_n_combine(internal, internal).  The second state is not changed, and not
 * needed afterwards.
 */
Datum
stream_agg_top_n_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context = sagg_aggregate_context(fcinfo, aggregates);
	TopValues  *state = PG_ARGISNULL(0) ? NULL : (TopValues *) PG_GETARG_POINTER(0);

	if (!PG_ARGISNULL(1))
	{
		const TopValues *other = (TopValues *) PG_GETARG_POINTER(1);

		if (state == NULL)
			state = make_state(context, &other->type, other->n);
		sagg_value_check_type(&state->type, other->type.oid, aggregates);
		check_n(state, other->n);
		for (int32 i = 0; i < other->count; i++)
			add_value(fcinfo, context, state, other->values[i]);
	}
	if (state == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(state);
}

/*
 * top_n_serialize(internal) RETURNS bytea: int32 n, int32 number of values, the
 * type, the values.
 */
Datum
stream_agg_top_n_serialize(PG_FUNCTION_ARGS)
{
	const TopValues *state = (TopValues *) PG_GETARG_POINTER(0);
	StringInfoData buf;

	(void) sagg_aggregate_context(fcinfo, aggregates);
	pq_begintypsend(&buf);
	pq_sendint32(&buf, state->n);
	pq_sendint32(&buf, state->count);
	sagg_value_send_type(&buf, state->type.oid);
	for (int32 i = 0; i < state->count; i++)
		sagg_value_send(fcinfo, state->type.oid, &buf, state->values[i]);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/*
 * top_n_deserialize(bytea, internal) RETURNS internal, in the current context.
 */
Datum
stream_agg_top_n_deserialize(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	TopValues  *state;
	SaggValueType type;
	StringInfoData buf;
	int32		n;
	int32		count;

	(void) sagg_aggregate_context(fcinfo, aggregates);
	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	n = pq_getmsgint(&buf, 4);
	count = pq_getmsgint(&buf, 4);
	if (n < 1 || n > MAX_N || count < 1 || count > n)
		sagg_codec_corrupt("A state of stream_agg.top_n has no valid number of values.");
	type = sagg_value_receive_type(&buf, aggregates);
	state = make_state(CurrentMemoryContext, &type, n);
	if (count > state->room)
	{
		state->room = count;
		state->values = repalloc(state->values, sizeof(Datum) * count);
	}
	for (state->count = 0; state->count < count; state->count++)
		state->values[state->count] = sagg_value_receive(fcinfo, type.oid, &buf);
	pq_getmsgend(&buf);
	pfree(buf.data);
	PG_RETURN_POINTER(state);
}

/*
 * top_n_final(internal, anyelement, integer) RETURNS anyarray.
 */
Datum
stream_agg_top_n_final(PG_FUNCTION_ARGS)
{
	const TopValues *state = PG_ARGISNULL(0) ? NULL : (TopValues *) PG_GETARG_POINTER(0);
	int16		len;
	bool		byval;
	char		align;

	(void) sagg_aggregate_context(fcinfo, aggregates);
	if (state == NULL)
		PG_RETURN_NULL();
	sagg_value_check_type(&state->type, get_element_type(get_fn_expr_rettype(fcinfo->flinfo)),
						  aggregates);
	get_typlenbyvalalign(state->type.oid, &len, &byval, &align);
	PG_RETURN_ARRAYTYPE_P(construct_array(state->values, state->count, state->type.oid,
										  len, byval, align));
}
