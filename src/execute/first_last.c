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

#include "libpq/pqformat.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "execute_internal.h"
#include "typed_value.h"

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
	SaggValueType type;
	bool		isnull;
	int64		at;
	Datum		value;
} TimedValue;

static const char *const aggregates = "stream_agg.first and stream_agg.last";

static int
compare(FunctionCallInfo fcinfo, const TimedValue *a, const TimedValue *b)
{
	if (a->at != b->at)
		return a->at < b->at ? -1 : 1;
	if (a->isnull || b->isnull)
		return (int) a->isnull - (int) b->isnull;
	return sagg_value_compare(fcinfo, &a->type, a->value, b->value);
}

/*
 * Copy "from" to the state, in its context; "state" may be NULL.
 */
static TimedValue *
set_state(MemoryContext context, TimedValue *state, const TimedValue *from)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Datum		value = from->isnull ? (Datum) 0 : datumCopy(from->value, from->type.byval, from->type.len);

	if (state == NULL)
		state = palloc(sizeof(TimedValue));
	else if (!state->isnull && !state->type.byval)
		pfree(DatumGetPointer(state->value));
	*state = *from;
	state->value = value;
	MemoryContextSwitchTo(old);
	return state;
}

static TimedValue *
earlier_or_later(FunctionCallInfo fcinfo, TimedValue *state, const TimedValue *other, bool later)
{
	MemoryContext context = sagg_aggregate_context(fcinfo, aggregates);
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

	(void) sagg_aggregate_context(fcinfo, aggregates);
	if (!PG_ARGISNULL(2))
	{
		input.type = sagg_value_type_of(fcinfo, 1, state ? &state->type : NULL, aggregates);
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

	(void) sagg_aggregate_context(fcinfo, aggregates);
	if (!PG_ARGISNULL(1))
	{
		const TimedValue *other = (TimedValue *) PG_GETARG_POINTER(1);

		if (state)
			sagg_value_check_type(&state->type, other->type.oid, aggregates);
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
 * timed_value_serialize(internal) RETURNS bytea: int64 at; the type;
 * whether the value is NULL, and if not, the value.
 */
Datum
stream_agg_timed_value_serialize(PG_FUNCTION_ARGS)
{
	const TimedValue *state = (TimedValue *) PG_GETARG_POINTER(0);
	StringInfoData buf;

	(void) sagg_aggregate_context(fcinfo, aggregates);
	pq_begintypsend(&buf);
	pq_sendint64(&buf, state->at);
	sagg_value_send_type(&buf, state->type.oid);
	pq_sendbyte(&buf, state->isnull);
	if (!state->isnull)
		sagg_value_send(fcinfo, state->type.oid, &buf, state->value);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
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

	(void) sagg_aggregate_context(fcinfo, aggregates);
	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	state->at = pq_getmsgint64(&buf);
	state->type = sagg_value_receive_type(&buf, aggregates);
	state->isnull = pq_getmsgbyte(&buf) != 0;
	if (!state->isnull)
		state->value = sagg_value_receive(fcinfo, state->type.oid, &buf);
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

	(void) sagg_aggregate_context(fcinfo, aggregates);
	if (state == NULL)
		PG_RETURN_NULL();
	sagg_value_check_type(&state->type, get_fn_expr_rettype(fcinfo->flinfo), aggregates);
	if (state->isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(state->value);
}
