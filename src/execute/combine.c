/*-------------------------------------------------------------------------
 *
 * combine.c
 *	  Two states of an aggregate become one: that of the records of both.
 *
 * For sessions that merge.  It is done by the aggregate's combine function, as
 * in a parallel plan (nodeAgg.c is the model); inlined sums are added here, and
 * kept inputs put together (kept.c).  Where states are combined an aggregate
 * without a combine function has its inputs kept.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "utils/memutils.h"

#include "execute_internal.h"

/*
 * Another state as one more argument of the combine function.
 */
static void
combine_general(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
				const SaggAggState *other)
{
	LOCAL_FCINFO(fcinfo, 2);
	MemoryContext old;
	Datum		value;

	if (call->combinefn.fn_strict)
	{
		if (other->isnull)
			return;
		if (state->isnull)
		{
			state->value = sagg_state_copy(ex, call, other->value);
			state->isnull = state->no_value = false;
			return;
		}
	}

	old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	ex->aggstate->curpertrans = &call->pertrans;
	ex->aggstate->curperagg = NULL;
	InitFunctionCallInfoData(*fcinfo, &call->combinefn, 2,
							 call->agg->aggref->inputcollid, (Node *) ex->aggstate, NULL);
	fcinfo->args[0].value = state->value;
	fcinfo->args[0].isnull = state->isnull;
	fcinfo->args[1].value = other->value;
	fcinfo->args[1].isnull = other->isnull;
	value = FunctionCallInvoke(fcinfo);
	if (!call->transbyval && DatumGetPointer(value) != DatumGetPointer(state->value))
		value = sagg_state_replace(ex, call, value, fcinfo->isnull, state);
	state->value = value;
	state->isnull = fcinfo->isnull;
	state->no_value = state->isnull && state->no_value && other->no_value;
	MemoryContextSwitchTo(old);
}

/*
 * The inlined sum of a state becomes the server's, as when a value does not
 * fit it (inline_aggregate.c); its count stays.
 */
static void
outgrow(SaggExecution *ex, SaggAggCall *call, SaggAggState *state)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	bool		isnull = false;
	Datum		sum;

	if (state->isnull && state->sum.n > 0)
	{
		sum = sagg_sum_numeric(&state->sum);
		sagg_state_advance_args(ex, call, state, &sum, &isnull);
	}
	MemoryContextSwitchTo(old);
}

static void
combine_sums(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
			 const SaggAggState *other)
{
	SaggAggState copy = *other;
	int64		n = state->sum.n + other->sum.n;

	if (state->isnull && other->isnull && sagg_sum_add_sum(&state->sum, &other->sum))
		return;
	if (call->kind == SAGG_INLINE_SUM_INT8 || call->kind == SAGG_INLINE_AVG_INT8)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("bigint out of range")));
	outgrow(ex, call, state);
	outgrow(ex, call, &copy);
	combine_general(ex, call, state, &copy);
	state->sum.n = n;
}

/*
 * Add the states of another group, which stay as they are, to those of a
 * group.  "others" are of later records where that matters to an aggregate.
 * Leaves garbage in tmpcontext, which the caller resets.
 */
void
sagg_states_combine(SaggExecution *ex, SaggAggState *states,
					const SaggAggState *others)
{
	for (int i = 0; i < ex->query->naggs; i++)
	{
		SaggAggCall *call = &ex->aggs[i];

		if (SAGG_INLINE_IS_SUM(call->kind))
			combine_sums(ex, call, &states[i], &others[i]);
		else if (call->kept)
			sagg_kept_combine(ex, call, &states[i], &others[i]);
		else
			combine_general(ex, call, &states[i], &others[i]);
	}
}
