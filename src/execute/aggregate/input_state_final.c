/*-------------------------------------------------------------------------
 *
 * input_state_final.c
 *	  The result of an aggregate whose inputs are kept.
 *
 * The transition function gets them as PostgreSQL would give them: sorted by
 * ORDER BY, without those that DISTINCT leaves out, otherwise in the order of
 * their arrival, which also orders inputs that sort alike.  An ordered-set
 * aggregate sorts them itself, by the server's quicksort; it gets them sorted
 * already, because producers choose the order.  The transition state lives in
 * a context of its own until the result is computed; so it need not be
 * storable, and the final function may change it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "execute/execute_internal.h"

/* All inputs of a group, to be sorted. */
typedef struct Inputs
{
	const SaggInputStateCall *call;
	Datum	   *values;			/* ncolumns each */
	bool	   *nulls;
	uint32	   *order;			/* their numbers, sorted */
} Inputs;

/*
 * Prepare aggregates that keep their inputs, and those with direct arguments;
 * in the execution's memory.
 */
void
sagg_input_state_final_init(SaggExecution *ex)
{
	for (int i = 0; i < ex->query->naggs; i++)
	{
		SaggAggCall *call = &ex->aggs[i];
		ListCell   *lc;

		if (call->input_state && ex->replaycontext == NULL)
		{
			ex->replaycontext = CreateStandaloneExprContext();
			ex->inputcontext = CreateStandaloneExprContext();
		}
		if (call->agg->direct_args && ex->groupcontext == NULL)
		{
			ex->groupcontext = CreateStandaloneExprContext();
			ex->groupcontext->ecxt_scantuple =
				MakeSingleTupleTableSlot(ex->query->groups_desc, &TTSOpsVirtual);
		}
		foreach(lc, call->agg->direct_args)
			call->direct_args = lappend(call->direct_args,
										ExecInitExpr(expression_planner(copyObject(lfirst(lc))), NULL));
	}
}

/*
 * Evaluate direct arguments from now on for a group with these "n" columns:
 * window and keys.
 */
void
sagg_input_state_set_group(SaggExecution *ex, const Datum *values, const bool *nulls, int n)
{
	TupleTableSlot *slot = ex->groupcontext->ecxt_scantuple;

	ResetExprContext(ex->groupcontext);
	ExecStoreAllNullTuple(slot);
	memcpy(slot->tts_values, values, sizeof(Datum) * n);
	memcpy(slot->tts_isnull, nulls, sizeof(bool) * n);
}

/*
 * Pass one input.  A strict function is given no NULL: the check is needed
 * here, too, because the function may not have been strict when the input
 * came.
 */
static void
give_input(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
		   const Datum *values, const bool *nulls)
{
	CHECK_FOR_INTERRUPTS();
	if (call->transfn.fn_strict)
	{
		for (int i = 0; i < call->ntransargs; i++)
		{
			if (nulls[i])
				return;
		}
	}
	sagg_state_advance_args(ex, call, state, values, nulls);
}

static void
give_in_order(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
			  const SaggInputState *kept)
{
	SaggBytes	bytes = {kept->data, kept->data + kept->len};
	Datum	   *values = palloc(sizeof(Datum) * Max(call->input_state->ncolumns, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(call->input_state->ncolumns, 1));

	for (int64 i = 0; i < kept->count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);

		sagg_input_state_take(call->input_state, &bytes, values, nulls);
		MemoryContextSwitchTo(old);
		give_input(ex, call, state, values, nulls);
		ResetExprContext(ex->tmpcontext);
	}
}

/*
 * Compare two inputs by what they are sorted by.
 */
static int
compare_columns(const Inputs *inputs, uint32 a, uint32 b)
{
	const SaggInputStateCall *call = inputs->call;

	for (int i = 0; i < call->nsort; i++)
	{
		SaggInputSort *sort = &call->sort[i];
		Size		x = (Size) a * call->ncolumns + sort->column;
		Size		y = (Size) b * call->ncolumns + sort->column;
		int			order = ApplySortComparator(inputs->values[x], inputs->nulls[x],
												inputs->values[y], inputs->nulls[y],
												&sort->support);

		if (order != 0)
			return order;
	}
	return 0;
}

static int
compare_inputs(const void *a, const void *b, void *arg)
{
	CHECK_FOR_INTERRUPTS();
	return compare_columns(arg, *(const uint32 *) a, *(const uint32 *) b);
}

/*
 * Read all inputs, in the current context.
 */
static void
read_inputs(Inputs *inputs, SaggAggCall *call, const SaggInputState *kept)
{
	SaggBytes	bytes = {kept->data, kept->data + kept->len};
	int			ncolumns = call->input_state->ncolumns;
	Size		n = (Size) kept->count;

	inputs->call = call->input_state;
	inputs->values = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(Datum) * ncolumns * n);
	inputs->nulls = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(bool) * ncolumns * n);
	inputs->order = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(uint32) * n);
	for (Size i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		sagg_input_state_take(call->input_state, &bytes, inputs->values + i * ncolumns,
							  inputs->nulls + i * ncolumns);
		inputs->order[i] = (uint32) i;
	}
}

static void
give_sorted(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
			const SaggInputState *kept)
{
	Inputs		inputs;
	int64		last = -1;

	read_inputs(&inputs, call, kept);
	sagg_sort(inputs.order, kept->count, sizeof(uint32), compare_inputs, &inputs);
	for (int64 i = 0; i < kept->count; i++)
	{
		Size		place = (Size) inputs.order[i] * call->input_state->ncolumns;

		if (call->input_state->distinct && last >= 0 &&
			compare_columns(&inputs, inputs.order[last], inputs.order[i]) == 0)
			continue;
		last = i;
		give_input(ex, call, state, inputs.values + place, inputs.nulls + place);
		ResetExprContext(ex->tmpcontext);
	}
}

/*
 * Returns the result of an aggregate whose inputs are in "inputs", in the
 * current context.
 */
Datum
sagg_input_state_final(SaggExecution *ex, SaggAggCall *call, const SaggAggState *inputs,
					   bool *isnull)
{
	const SaggInputState *kept = (const SaggInputState *) DatumGetPointer(inputs->value);
	ExprContext *aggcontext = ex->aggcontext;
	ExprContext *tmpcontext = ex->tmpcontext;
	MemoryContext target;
	SaggAggState state;
	Datum		result;

	if (call->input_state->counts)
	{
		*isnull = false;
		return Int64GetDatum(kept ? kept->count : 0);
	}

	ex->aggcontext = ex->aggstate->curaggcontext = ex->replaycontext;
	ex->tmpcontext = ex->aggstate->tmpcontext = ex->inputcontext;
	target = MemoryContextSwitchTo(ex->replaycontext->ecxt_per_tuple_memory);
	sagg_state_begin(ex, call, &state);
	if (kept && call->input_state->nsort > 0)
		give_sorted(ex, call, &state, kept);
	else if (kept)
		give_in_order(ex, call, &state, kept);
	result = sagg_state_finish(ex, call, &state, isnull);
	MemoryContextSwitchTo(target);
	if (!*isnull)
		result = datumCopy(result, call->input_state->resultbyval, call->input_state->resultlen);
	ReScanExprContext(ex->replaycontext);
	ReScanExprContext(ex->inputcontext);
	ex->aggcontext = ex->aggstate->curaggcontext = aggcontext;
	ex->tmpcontext = ex->aggstate->tmpcontext = tmpcontext;
	return result;
}
