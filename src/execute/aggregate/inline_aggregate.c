/*-------------------------------------------------------------------------
 *
 * inline_aggregate.c
 *	  Transitions of the commonest aggregates, without a function call.
 *
 * The server's own aggregates are inlined, by their OID, as long as they are
 * defined as the server defines them: their functions, type of state and
 * initial value.  Inlined code trusts the form of a state, which is checked
 * wherever one is read (sagg_inline_check).  Users' aggregates over these
 * functions are not inlined.
 *
 * Most states have the form that the server's functions give them, and
 * everything except the transition is done by aggregate_calls.c: count, sum of
 * int2, int4, float4 and float8, avg of int2 and int4, min and max of by-value
 * types and numeric.
 *
 * The others, sum and avg of numeric and int8, have a SaggSum in place of the
 * server's internal state.  A numeric that does not fit it is handed to the
 * server's function, with the sum so far as its first input; from then on the
 * group's state is the server's, beside the count of finite values.  Results
 * are the same digit for digit, errors are too.
 *
 * A sum is stored as a byte, INLINE_SUM, and the bytes of a SaggSum less
 * padding: int64 n, int32 scale, 16 bytes of unscaled; or GENERAL_SUM, int64
 * n, and what the serialize function makes of the server's state.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "utils/array.h"
#include "utils/date.h"
#include "utils/datum.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "execute/execute_internal.h"

#define INLINE_SUM		1
#define GENERAL_SUM		2

/* state of int2_avg_accum and int4_avg_accum, within an array of int8 */
typedef struct CountAndSum
{
	int64		count;
	int64		sum;
} CountAndSum;

/* How the server defines an aggregate that is inlined. */
static const struct
{
	Oid			aggregate;
	SaggInlineKind kind;
	Oid			transtype;
	Oid			transfn;
	Oid			combinefn;
	Oid			finalfn;
}			inlined[] =

{
	{F_COUNT_, SAGG_INLINE_COUNT, INT8OID, F_INT8INC, F_INT8PL, InvalidOid},
	{F_COUNT_ANY, SAGG_INLINE_COUNT, INT8OID, F_INT8INC_ANY, F_INT8PL, InvalidOid},
	{F_SUM_INT2, SAGG_INLINE_SUM_INT2, INT8OID, F_INT2_SUM, F_INT8PL, InvalidOid},
	{F_SUM_INT4, SAGG_INLINE_SUM_INT4, INT8OID, F_INT4_SUM, F_INT8PL, InvalidOid},
	{F_SUM_FLOAT4, SAGG_INLINE_SUM_FLOAT4, FLOAT4OID, F_FLOAT4PL, F_FLOAT4PL, InvalidOid},
	{F_SUM_FLOAT8, SAGG_INLINE_SUM_FLOAT8, FLOAT8OID, F_FLOAT8PL, F_FLOAT8PL, InvalidOid},
	{F_AVG_INT2, SAGG_INLINE_AVG_INT2, INT8ARRAYOID, F_INT2_AVG_ACCUM, F_INT4_AVG_COMBINE, F_INT8_AVG},
	{F_AVG_INT4, SAGG_INLINE_AVG_INT4, INT8ARRAYOID, F_INT4_AVG_ACCUM, F_INT4_AVG_COMBINE, F_INT8_AVG},
	{F_MAX_INT2, SAGG_INLINE_MAX_INT2, INT2OID, F_INT2LARGER, F_INT2LARGER, InvalidOid},
	{F_MAX_INT4, SAGG_INLINE_MAX_INT4, INT4OID, F_INT4LARGER, F_INT4LARGER, InvalidOid},
	{F_MAX_DATE, SAGG_INLINE_MAX_INT4, DATEOID, F_DATE_LARGER, F_DATE_LARGER, InvalidOid},
	{F_MAX_INT8, SAGG_INLINE_MAX_INT8, INT8OID, F_INT8LARGER, F_INT8LARGER, InvalidOid},
	{F_MAX_TIMESTAMP, SAGG_INLINE_MAX_INT8, TIMESTAMPOID, F_TIMESTAMP_LARGER, F_TIMESTAMP_LARGER, InvalidOid},
	{F_MAX_TIMESTAMPTZ, SAGG_INLINE_MAX_INT8, TIMESTAMPTZOID, F_TIMESTAMPTZ_LARGER, F_TIMESTAMPTZ_LARGER, InvalidOid},
	{F_MAX_FLOAT4, SAGG_INLINE_MAX_FLOAT4, FLOAT4OID, F_FLOAT4LARGER, F_FLOAT4LARGER, InvalidOid},
	{F_MAX_FLOAT8, SAGG_INLINE_MAX_FLOAT8, FLOAT8OID, F_FLOAT8LARGER, F_FLOAT8LARGER, InvalidOid},
	{F_MAX_NUMERIC, SAGG_INLINE_MAX_NUMERIC, NUMERICOID, F_NUMERIC_LARGER, F_NUMERIC_LARGER, InvalidOid},
	{F_MIN_INT2, SAGG_INLINE_MIN_INT2, INT2OID, F_INT2SMALLER, F_INT2SMALLER, InvalidOid},
	{F_MIN_INT4, SAGG_INLINE_MIN_INT4, INT4OID, F_INT4SMALLER, F_INT4SMALLER, InvalidOid},
	{F_MIN_DATE, SAGG_INLINE_MIN_INT4, DATEOID, F_DATE_SMALLER, F_DATE_SMALLER, InvalidOid},
	{F_MIN_INT8, SAGG_INLINE_MIN_INT8, INT8OID, F_INT8SMALLER, F_INT8SMALLER, InvalidOid},
	{F_MIN_TIMESTAMP, SAGG_INLINE_MIN_INT8, TIMESTAMPOID, F_TIMESTAMP_SMALLER, F_TIMESTAMP_SMALLER, InvalidOid},
	{F_MIN_TIMESTAMPTZ, SAGG_INLINE_MIN_INT8, TIMESTAMPTZOID, F_TIMESTAMPTZ_SMALLER, F_TIMESTAMPTZ_SMALLER, InvalidOid},
	{F_MIN_FLOAT4, SAGG_INLINE_MIN_FLOAT4, FLOAT4OID, F_FLOAT4SMALLER, F_FLOAT4SMALLER, InvalidOid},
	{F_MIN_FLOAT8, SAGG_INLINE_MIN_FLOAT8, FLOAT8OID, F_FLOAT8SMALLER, F_FLOAT8SMALLER, InvalidOid},
	{F_MIN_NUMERIC, SAGG_INLINE_MIN_NUMERIC, NUMERICOID, F_NUMERIC_SMALLER, F_NUMERIC_SMALLER, InvalidOid},
	{F_SUM_INT8, SAGG_INLINE_SUM_INT8, INTERNALOID, F_INT8_AVG_ACCUM, F_INT8_AVG_COMBINE, F_NUMERIC_POLY_SUM},
	{F_AVG_INT8, SAGG_INLINE_AVG_INT8, INTERNALOID, F_INT8_AVG_ACCUM, F_INT8_AVG_COMBINE, F_NUMERIC_POLY_AVG},
	{F_SUM_NUMERIC, SAGG_INLINE_SUM_NUMERIC, INTERNALOID, F_NUMERIC_AVG_ACCUM, F_NUMERIC_AVG_COMBINE, F_NUMERIC_SUM},
	{F_AVG_NUMERIC, SAGG_INLINE_AVG_NUMERIC, INTERNALOID, F_NUMERIC_AVG_ACCUM, F_NUMERIC_AVG_COMBINE, F_NUMERIC_AVG}
};

static inline bool
averages_integers(SaggInlineKind kind)
{
	return kind == SAGG_INLINE_AVG_INT2 || kind == SAGG_INLINE_AVG_INT4;
}

/*
 * Returns whether an array of int8 has exactly two elements, as it must.
 */
static inline bool
is_count_and_sum(Datum value)
{
	const ArrayType *array = (const ArrayType *) DatumGetPointer(value);

	return ARR_SIZE(array) == ARR_OVERHEAD_NONULLS(1) + sizeof(CountAndSum) &&
		ARR_NDIM(array) == 1 && ARR_DIMS(array)[0] == 2 && !ARR_HASNULL(array) &&
		ARR_ELEMTYPE(array) == INT8OID;
}

/*
 * Returns whether a call begins with the initial state of the server's
 * definition.
 */
static bool
begins_well(const SaggAggCall *call, SaggInlineKind kind)
{
	if (averages_integers(kind))
		return !call->initnull && is_count_and_sum(call->initvalue);
	if (kind == SAGG_INLINE_COUNT)
		return !call->initnull;
	return call->initnull;
}

/*
 * Raise an error unless a state that was read has the form that this file
 * relies on.
 */
void
sagg_inline_check(const SaggAggCall *call, const SaggAggState *state)
{
	bool		valid;

	if (state->isnull)
		valid = call->initnull && state->no_value && !SAGG_INLINE_IS_SUM(call->kind);
	else
		valid = !averages_integers(call->kind) || is_count_and_sum(state->value);
	if (unlikely(!valid))
		sagg_codec_corrupt("It does not have the form that the aggregate makes.");
}

/*
 * Returns how a call's transitions can be inlined.  Its transition and final
 * functions are looked up, "combinefn" is the combine function of its
 * definition.
 */
SaggInlineKind
sagg_inline_kind(const SaggAggCall *call, Oid combinefn)
{
#if SIZEOF_DATUM != 8 || !defined(HAVE_INT128)
	return SAGG_INLINE_NONE;
#endif
	for (int i = 0; i < lengthof(inlined); i++)
	{
		if (inlined[i].aggregate == call->agg->aggref->aggfnoid &&
			inlined[i].transtype == call->transtype &&
			inlined[i].transfn == call->transfn.fn_oid &&
			inlined[i].combinefn == combinefn &&
			inlined[i].finalfn == call->finalfn.fn_oid &&
			begins_well(call, inlined[i].kind))
			return inlined[i].kind;
	}
	return SAGG_INLINE_NONE;
}

static void
reject_overflow(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("bigint out of range")));
}

static inline void
count(SaggAggState *state)
{
	if (unlikely(DatumGetInt64(state->value) == PG_INT64_MAX))
		reject_overflow();
	state->value = Int64GetDatum(DatumGetInt64(state->value) + 1);
}

/* not strict: the first value that is not NULL becomes the sum */
static inline void
sum_integer(SaggAggState *state, int64 value)
{
	/* the server's function also wraps around silently */
	state->value = Int64GetDatum((int64) ((uint64) (state->isnull ? 0 : DatumGetInt64(state->value)) +
										  (uint64) value));
	state->isnull = false;
}

/* the array belongs to the state, and its form was checked */
static inline void
average_integer(SaggAggState *state, int64 value)
{
	CountAndSum *sums = (CountAndSum *) ARR_DATA_PTR((ArrayType *) DatumGetPointer(state->value));

	sums->count++;
	sums->sum += value;
}

/*
 * Returns a numeric as a state: with a long header, so that another can
 * replace it in place.
 */
static Datum
copy_numeric(SaggExecution *ex, SaggAggCall *call, Datum value)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);

	value = sagg_state_copy(ex, call, PointerGetDatum(PG_DETOAST_DATUM(value)));
	MemoryContextSwitchTo(old);
	return value;
}

/*
 * Keep the greater ("sign" 1) or lesser (-1) numeric; of equal values the
 * last one, whose display scale may differ.
 */
static void
extreme_numeric(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
				Datum value, int sign)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	struct varlena *former = (struct varlena *) DatumGetPointer(state->value);
	struct varlena *stored;

	if (DatumGetInt32(DirectFunctionCall2(numeric_cmp, state->value, value)) * sign <= 0)
	{
		stored = PG_DETOAST_DATUM(value);
		if (VARSIZE(stored) == VARSIZE(former))
			memcpy(former, stored, VARSIZE(stored));
		else
		{
			state->value = sagg_state_copy(ex, call, PointerGetDatum(stored));
			pfree(former);
		}
	}
	MemoryContextSwitchTo(old);
}

/*
 * Handle a numeric that does not fit the inlined sum: the server's function
 * continues, with the sum so far as one value.
 */
static void
outgrow(SaggExecution *ex, SaggAggCall *call, SaggAggState *state, Datum value)
{
	bool		isnull = false;

	if (state->isnull && state->sum.n > 0)
	{
		Datum		so_far = sagg_sum_numeric(&state->sum);

		sagg_state_advance_args(ex, call, state, &so_far, &isnull);
		pfree(DatumGetPointer(so_far));
	}
	sagg_state_advance_args(ex, call, state, &value, &isnull);
}

static void
sum_numeric(SaggExecution *ex, SaggAggCall *call, SaggAggState *state, Datum value)
{
	if (likely(state->isnull) && likely(sagg_sum_add_numeric(&state->sum, value)))
		return;
	outgrow(ex, call, state, value);
	if (!numeric_is_nan(DatumGetNumeric(value)) &&
		!numeric_is_inf(DatumGetNumeric(value)))
		state->sum.n++;
}

/*
 * Add a value to a state, whose kind is not SAGG_INLINE_NONE.
 */
static inline void
advance_by_value(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
				 Datum value)
{
	if (state->no_value && call->transfn.fn_strict)
	{
		/* the first value becomes the state */
		if (!call->transbyval)
			value = copy_numeric(ex, call, value);
		state->value = value;
		state->isnull = state->no_value = false;
		return;
	}

#define FLOAT4(function) \
	Float4GetDatum(function(DatumGetFloat4(state->value), DatumGetFloat4(value)))
#define FLOAT8(function) \
	Float8GetDatum(function(DatumGetFloat8(state->value), DatumGetFloat8(value)))
#define EXTREME(type, comparison) \
	do { \
		if (!(DatumGet##type(state->value) comparison DatumGet##type(value))) \
			state->value = value; \
	} while (0)

	switch (call->kind)
	{
		case SAGG_INLINE_NONE:
			Assert(false);
			break;
		case SAGG_INLINE_COUNT:
			count(state);
			break;
		case SAGG_INLINE_SUM_INT2:
			sum_integer(state, DatumGetInt16(value));
			break;
		case SAGG_INLINE_SUM_INT4:
			sum_integer(state, DatumGetInt32(value));
			break;
		case SAGG_INLINE_SUM_FLOAT4:
			state->value = FLOAT4(float4_pl);
			break;
		case SAGG_INLINE_SUM_FLOAT8:
			state->value = FLOAT8(float8_pl);
			break;
		case SAGG_INLINE_AVG_INT2:
			average_integer(state, DatumGetInt16(value));
			break;
		case SAGG_INLINE_AVG_INT4:
			average_integer(state, DatumGetInt32(value));
			break;
		case SAGG_INLINE_MAX_INT2:
			EXTREME(Int16, >);
			break;
		case SAGG_INLINE_MAX_INT4:
			EXTREME(Int32, >);
			break;
		case SAGG_INLINE_MAX_INT8:
			EXTREME(Int64, >);
			break;
		case SAGG_INLINE_MIN_INT2:
			EXTREME(Int16, <);
			break;
		case SAGG_INLINE_MIN_INT4:
			EXTREME(Int32, <);
			break;
		case SAGG_INLINE_MIN_INT8:
			EXTREME(Int64, <);
			break;
		case SAGG_INLINE_MAX_FLOAT4:
			state->value = FLOAT4(float4_max);
			break;
		case SAGG_INLINE_MAX_FLOAT8:
			state->value = FLOAT8(float8_max);
			break;
		case SAGG_INLINE_MIN_FLOAT4:
			state->value = FLOAT4(float4_min);
			break;
		case SAGG_INLINE_MIN_FLOAT8:
			state->value = FLOAT8(float8_min);
			break;
		case SAGG_INLINE_MAX_NUMERIC:
			extreme_numeric(ex, call, state, value, 1);
			break;
		case SAGG_INLINE_MIN_NUMERIC:
			extreme_numeric(ex, call, state, value, -1);
			break;
		case SAGG_INLINE_SUM_INT8:
		case SAGG_INLINE_AVG_INT8:
			if (!sagg_sum_add_int8(&state->sum, DatumGetInt64(value)))
				reject_overflow();
			break;
		case SAGG_INLINE_SUM_NUMERIC:
		case SAGG_INLINE_AVG_NUMERIC:
			sum_numeric(ex, call, state, value);
			break;
	}
}

/*
 * Add one row to a state, whose kind is not SAGG_INLINE_NONE.
 */
void
sagg_inline_advance(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
					const Datum *values, const bool *nulls)
{
	Datum		value = (Datum) 0;

	if (call->agg->nargs > 0)
	{
		AttrNumber	attno = call->agg->args[0] - 1;

		if (nulls[attno])
			return;
		value = values[attno];
	}
	advance_by_value(ex, call, state, value);
}

/*
 * Returns whether combining by the aggregate's definition equals
 * sagg_inline_combine.
 */
bool
sagg_inline_combines(const SaggAggCall *call)
{
	Oid			function = call->combinefn.fn_oid;

	switch (call->kind)
	{
		case SAGG_INLINE_NONE:
			return false;
		case SAGG_INLINE_COUNT:
		case SAGG_INLINE_SUM_INT2:
		case SAGG_INLINE_SUM_INT4:
			return function == F_INT8PL;
		case SAGG_INLINE_AVG_INT2:
		case SAGG_INLINE_AVG_INT4:
			return function == F_INT4_AVG_COMBINE;
		default:
			/* sagg_aggregate_combines has checked the functions of sums */
			return SAGG_INLINE_IS_SUM(call->kind) || function == call->transfn.fn_oid;
	}
}

/*
 * Add a sum to another.  If one of them has become a state of the server, the
 * server's function combines both.
 */
static void
combine_sums(SaggExecution *ex, SaggAggCall *call, SaggAggState *into,
			 const SaggAggState *from)
{
	int64		n = from->sum.n;

	if (from->isnull)
	{
		if (n == 0 || (into->isnull && sagg_sum_add_sum(&into->sum, &from->sum)))
			return;
		outgrow(ex, call, into, sagg_sum_numeric(&from->sum));
	}
	else
	{
		bool		isnull = false;

		if (into->isnull && into->sum.n > 0)
		{
			Datum		so_far = sagg_sum_numeric(&into->sum);

			sagg_state_advance_args(ex, call, into, &so_far, &isnull);
		}
		sagg_state_combine_by_function(ex, call, into, from);
	}
	into->sum.n += n;
}

/*
 * Combine the state "from" into "into", whose call has sagg_inline_combines.
 */
void
sagg_inline_combine(SaggExecution *ex, SaggAggCall *call, SaggAggState *into,
					const SaggAggState *from)
{
	int64		count;

	switch (call->kind)
	{
		case SAGG_INLINE_COUNT:
			if (pg_add_s64_overflow(DatumGetInt64(into->value),
									DatumGetInt64(from->value), &count))
				reject_overflow();
			into->value = Int64GetDatum(count);
			break;
		case SAGG_INLINE_SUM_INT2:
		case SAGG_INLINE_SUM_INT4:
			if (!from->isnull)
				sum_integer(into, DatumGetInt64(from->value));
			break;
		case SAGG_INLINE_AVG_INT2:
		case SAGG_INLINE_AVG_INT4:
			{
				CountAndSum *a = (CountAndSum *) ARR_DATA_PTR((ArrayType *) DatumGetPointer(into->value));
				const CountAndSum *b = (CountAndSum *) ARR_DATA_PTR((ArrayType *) DatumGetPointer(from->value));

				a->count += b->count;
				a->sum += b->sum;
				break;
			}
		case SAGG_INLINE_SUM_INT8:
		case SAGG_INLINE_AVG_INT8:
		case SAGG_INLINE_SUM_NUMERIC:
		case SAGG_INLINE_AVG_NUMERIC:
			combine_sums(ex, call, into, from);
			break;
		default:

			/*
			 * for minima, maxima and sums of floats it equals the transition
			 */
			if (!from->isnull)
				advance_by_value(ex, call, into, from->value);
	}
}

/*
 * Returns the result of a SaggSum, in the current context.
 */
Datum
sagg_inline_final(SaggAggCall *call, const SaggAggState *state, bool *isnull)
{
	Datum		sum;

	if (!state->isnull)
		sum = DirectFunctionCall1(numeric_sum, state->value);
	else if (state->sum.n > 0)
		sum = sagg_sum_numeric(&state->sum);
	else
	{
		*isnull = true;
		return (Datum) 0;
	}
	*isnull = false;
	if (call->kind == SAGG_INLINE_SUM_INT8 || call->kind == SAGG_INLINE_SUM_NUMERIC ||
		numeric_is_nan(DatumGetNumeric(sum)) || numeric_is_inf(DatumGetNumeric(sum)))
		return sum;
	return DirectFunctionCall2(numeric_div, sum,
							   NumericGetDatum(int64_to_numeric(state->sum.n)));
}

/*
 * Append a SaggSum; the caller appends the server's state, if it has become
 * that.
 */
void
sagg_inline_write(StringInfo buf, const SaggAggState *state)
{
	char		bytes[1 + sizeof(int64) + sizeof(int32) + sizeof(int128)];
	int32		scale = state->sum.scale;

	bytes[0] = state->isnull ? INLINE_SUM : GENERAL_SUM;
	memcpy(bytes + 1, &state->sum.n, sizeof(int64));
	memcpy(bytes + 9, &scale, sizeof(int32));
	memcpy(bytes + 13, &state->sum.unscaled, sizeof(int128));
	appendBinaryStringInfo(buf, bytes, state->isnull ? sizeof(bytes) : 9);
}

/*
 * Read a SaggSum.  Returns whether the server's state follows.
 */
bool
sagg_inline_read(SaggBytes *bytes, SaggAggState *state)
{
	char		format = *sagg_bytes_take(bytes, 1);
	int32		scale = 0;

	memcpy(&state->sum.n, sagg_bytes_take(bytes, sizeof(int64)), sizeof(int64));
	if (format == INLINE_SUM)
	{
		memcpy(&scale, sagg_bytes_take(bytes, sizeof(int32)), sizeof(int32));
		memcpy(&state->sum.unscaled, sagg_bytes_take(bytes, sizeof(int128)), sizeof(int128));
	}
	if ((format != INLINE_SUM && format != GENERAL_SUM) || state->sum.n < 0 ||
		scale < 0 || scale > SAGG_SUM_DIGITS)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
				 errmsg("the stored state of a group cannot be read"),
				 errdetail("A sum has format %d and scale %d.", format, scale)));
	state->sum.scale = scale;
	return format == GENERAL_SUM;
}
