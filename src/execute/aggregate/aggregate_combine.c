/*-------------------------------------------------------------------------
 *
 * aggregate_combine.c
 *	  Combines two states of an aggregate into one that has seen the input of
 *	  both.
 *
 * The aggregates whose transitions are inlined are combined inline, too
 * (inline_aggregate.c); all others by their combine functions, as nodeAgg.c
 * does in a parallel plan, and inputs that are kept instead are put together
 * (input_state.c).  A combine function must not change its second argument,
 * which may belong to a pane that is used again.
 *
 * Sums of float4 and float8 depend on the order of addition, as everywhere.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"

#include "execute/execute_internal.h"

static Datum
call_combine(SaggExecution *ex, SaggAggCall *call, Datum into, bool into_null,
			 Datum from, bool from_null, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 2);
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	Datum		result;

	ex->aggstate->curpertrans = &call->pertrans;
	ex->aggstate->curperagg = NULL;
	InitFunctionCallInfoData(*fcinfo, &call->combinefn, 2,
							 call->agg->aggref->inputcollid, (Node *) ex->aggstate, NULL);
	fcinfo->args[0].value = into;
	fcinfo->args[0].isnull = into_null;
	fcinfo->args[1].value = from;
	fcinfo->args[1].isnull = from_null;
	result = FunctionCallInvoke(fcinfo);
	*isnull = fcinfo->isnull;
	MemoryContextSwitchTo(old);
	return result;
}

/*
 * Combine by the aggregate's function, strict or not.  "into" is changed, its
 * value in the execution's aggregate context.
 */
void
sagg_state_combine_by_function(SaggExecution *ex, SaggAggCall *call,
							   SaggAggState *into, const SaggAggState *from)
{
	Datum		value;
	bool		isnull;

	if (call->combinefn.fn_strict)
	{
		if (from->isnull)
			return;
		if (into->no_value)
		{
			into->value = sagg_state_copy(ex, call, from->value);
			into->isnull = into->no_value = false;
			return;
		}
		if (into->isnull)
			return;
	}
	value = call_combine(ex, call, into->value, into->isnull,
						 from->value, from->isnull, &isnull);
	if (!call->transbyval && DatumGetPointer(value) != DatumGetPointer(into->value))
		value = sagg_state_replace(ex, call, value, isnull, into);
	into->value = value;
	into->isnull = isnull;
	into->no_value = into->no_value && from->no_value;
}

/*
 * Combine the states of all aggregates of a group into those of another, whose
 * values are in the execution's aggregate context.  Leaves garbage in
 * tmpcontext.
 */
void
sagg_states_combine(SaggExecution *ex, SaggAggState *into,
					const SaggAggState *from)
{
	for (int i = 0; i < ex->query->naggs; i++)
	{
		SaggAggCall *call = &ex->aggs[i];

		if (call->combine_inline)
			sagg_inline_combine(ex, call, &into[i], &from[i]);
		else if (call->input_state)
			sagg_input_state_combine(ex, call, &into[i], &from[i]);
		else
			sagg_state_combine_by_function(ex, call, &into[i], &from[i]);
	}
}

/*
 * Combine the states of a group into those of another, leaving "from"
 * undefined.  So many states can be combined in any order in linear time.
 */
void
sagg_states_absorb(SaggExecution *ex, SaggAggState *into, SaggAggState *from)
{
	for (int i = 0; i < ex->query->naggs; i++)
	{
		SaggAggCall *call = &ex->aggs[i];

		if (call->combine_inline)
			sagg_inline_combine(ex, call, &into[i], &from[i]);
		else if (call->input_state)
			sagg_input_state_absorb(ex, call, &into[i], &from[i]);
		else
			sagg_state_combine_by_function(ex, call, &into[i], &from[i]);
	}
}

/*
 * Copy a group's states, into the execution's aggregate context.
 */
void
sagg_states_copy(SaggExecution *ex, SaggAggState *to, const SaggAggState *from)
{
	memcpy(to, from, sizeof(SaggAggState) * ex->query->naggs);
	for (int i = 0; i < ex->query->naggs; i++)
	{
		SaggAggCall *call = &ex->aggs[i];

		if (from[i].isnull)
			continue;
		if (call->input_state)
		{
			to[i].value = (Datum) 0;
			sagg_input_state_combine(ex, call, &to[i], &from[i]);
		}
		else if (call->transtype == INTERNALOID)
			to[i].value = call_combine(ex, call, (Datum) 0, true, from[i].value, false,
									   &to[i].isnull);
		else if (!call->transbyval)
			to[i].value = sagg_state_copy(ex, call, from[i].value);
	}
}
