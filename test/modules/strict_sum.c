/*
 * strict_sum.c
 *	  sum(integer) as an aggregate that takes the contract of its functions at
 *	  its word: what its deserialize function makes is there to be combined,
 *	  and nothing else.
 */
#include "postgres.h"

#include "fmgr.h"
#include "libpq/pqformat.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(strict_sum_transition);
PG_FUNCTION_INFO_V1(strict_sum_combine);
PG_FUNCTION_INFO_V1(strict_sum_serialize);
PG_FUNCTION_INFO_V1(strict_sum_deserialize);
PG_FUNCTION_INFO_V1(strict_sum_final);

typedef struct StrictSum
{
	bool		goes_on;		/* false: only to be combined */
	int64		sum;
} StrictSum;

/* In the aggregate's memory, as a state that goes on has to be. */
static StrictSum *
make_state(FunctionCallInfo fcinfo, int64 sum)
{
	MemoryContext context;
	StrictSum  *state;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "aggregate function called in non-aggregate context");
	state = MemoryContextAlloc(context, sizeof(StrictSum));
	state->goes_on = true;
	state->sum = sum;
	return state;
}

static StrictSum *
going_on(FunctionCallInfo fcinfo)
{
	StrictSum  *state = (StrictSum *) PG_GETARG_POINTER(0);

	if (!state->goes_on)
		elog(ERROR, "a deserialized state was used without being combined");
	return state;
}

/* strict_sum_transition(internal, integer) */
Datum
strict_sum_transition(PG_FUNCTION_ARGS)
{
	StrictSum  *state = PG_ARGISNULL(0) ? make_state(fcinfo, 0) : going_on(fcinfo);

	if (!PG_ARGISNULL(1))
		state->sum += PG_GETARG_INT32(1);
	PG_RETURN_POINTER(state);
}

/* strict_sum_combine(internal, internal) */
Datum
strict_sum_combine(PG_FUNCTION_ARGS)
{
	StrictSum  *state = PG_ARGISNULL(0) ? make_state(fcinfo, 0) : going_on(fcinfo);

	if (!PG_ARGISNULL(1))
		state->sum += ((StrictSum *) PG_GETARG_POINTER(1))->sum;
	PG_RETURN_POINTER(state);
}

/* strict_sum_serialize(internal) */
Datum
strict_sum_serialize(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	pq_begintypsend(&buf);
	pq_sendint64(&buf, going_on(fcinfo)->sum);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* strict_sum_deserialize(bytea, internal) */
Datum
strict_sum_deserialize(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	StrictSum  *state = palloc0(sizeof(StrictSum));
	StringInfoData buf;

	initStringInfo(&buf);
	appendBinaryStringInfo(&buf, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	state->sum = pq_getmsgint64(&buf);
	pq_getmsgend(&buf);
	PG_RETURN_POINTER(state);
}

/* strict_sum_final(internal) */
Datum
strict_sum_final(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_INT64(going_on(fcinfo)->sum);
}
