/*-------------------------------------------------------------------------
 *
 * aggregate_calls.c
 *	  Calls of transition, final, serialize, deserialize and combine functions.
 *
 * Functions see an AggState as their context, with the fields that
 * AggCheckCallContext, AggGetAggref and AggGetTempMemoryContext read.  States
 * live in the execution's aggregate context; calls run in a context reset by
 * each row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/memutils.h"

#include "execute/execute_internal.h"

/* length words of states without bytes */
#define STATE_NULL			(-1)
#define STATE_NO_VALUE		(-2)

static MemoryContext
state_memory(SaggExecution *ex)
{
	return ex->aggcontext->ecxt_per_tuple_memory;
}

static void
set_current(SaggExecution *ex, SaggAggCall *call)
{
	ex->aggstate->curpertrans = &call->pertrans;
	ex->aggstate->curperagg = NULL;
}

/*
 * Returns a copy of a value as a state.
 */
Datum
sagg_state_copy(SaggExecution *ex, const SaggAggCall *call, Datum value)
{
	MemoryContext old = MemoryContextSwitchTo(state_memory(ex));

	value = datumCopy(value, call->transbyval, call->translen);
	MemoryContextSwitchTo(old);
	return value;
}

/*
 * Initialize a transition state before its first input.
 */
void
sagg_state_begin(SaggExecution *ex, SaggAggCall *call, SaggAggState *state)
{
	memset(&state->sum, 0, sizeof(SaggSum));
	state->value = call->initnull ? (Datum) 0 :
		sagg_state_copy(ex, call, call->initvalue);
	state->isnull = call->initnull;
	state->no_value = call->initnull;
}

/*
 * Initialize the states of a group before its first row.
 */
void
sagg_states_init(SaggExecution *ex, SaggAggState *states)
{
	for (int i = 0; i < ex->query->naggs; i++)
	{
		if (ex->aggs[i].input_state)
			memset(&states[i], 0, sizeof(SaggAggState));
		else
			sagg_state_begin(ex, &ex->aggs[i], &states[i]);
	}
}

/*
 * A transition or combine function has returned a value other than the state
 * it was given: keep the value, and free the former state
 * (ExecAggTransReparent).
 */
Datum
sagg_state_replace(SaggExecution *ex, SaggAggCall *call, Datum value, bool isnull,
				   const SaggAggState *former)
{
	if (isnull)
		value = (Datum) 0;
	else if (!(DatumIsReadWriteExpandedObject(value, false, call->translen) &&
			   MemoryContextGetParent(DatumGetEOHP(value)->eoh_context) == state_memory(ex)))
		value = sagg_state_copy(ex, call, value);
	if (!former->isnull && DatumGetPointer(former->value) != DatumGetPointer(value))
	{
		if (DatumIsReadWriteExpandedObject(former->value, false, call->translen))
			DeleteExpandedObject(former->value);
		else
			pfree(DatumGetPointer(former->value));
	}
	return value;
}

/*
 * Call the transition function for the arguments in call->trans_fcinfo.
 */
static void
call_transition(SaggExecution *ex, SaggAggCall *call, SaggAggState *state)
{
	FunctionCallInfo fcinfo = call->trans_fcinfo;
	Datum		value;

	if (call->transfn.fn_strict)
	{
		if (state->no_value)
		{
			state->value = sagg_state_copy(ex, call, fcinfo->args[1].value);
			state->isnull = false;
			state->no_value = false;
			return;
		}
		if (state->isnull)
			return;
	}

	set_current(ex, call);
	InitFunctionCallInfoData(*fcinfo, &call->transfn, call->ntransargs + 1,
							 call->agg->aggref->inputcollid, (Node *) ex->aggstate, NULL);
	fcinfo->args[0].value = state->value;
	fcinfo->args[0].isnull = state->isnull;
	value = FunctionCallInvoke(fcinfo);
	if (!call->transbyval && DatumGetPointer(value) != DatumGetPointer(state->value))
		value = sagg_state_replace(ex, call, value, fcinfo->isnull, state);
	state->value = value;
	state->isnull = fcinfo->isnull;
	state->no_value = false;
}

/*
 * Advance a state by arguments that do not come from a row.
 */
void
sagg_state_advance_args(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
						const Datum *args, const bool *nulls)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	FunctionCallInfo fcinfo = call->trans_fcinfo;

	for (int i = 0; i < call->ntransargs; i++)
	{
		fcinfo->args[i + 1].value = args[i];
		fcinfo->args[i + 1].isnull = nulls[i];
	}
	call_transition(ex, call, state);
	MemoryContextSwitchTo(old);
}

/*
 * Advance one state by one row.
 */
static void
advance(SaggExecution *ex, SaggAggCall *call, SaggAggState *state,
		const Datum *values, const bool *nulls)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	FunctionCallInfo fcinfo = call->trans_fcinfo;
	const SaggAgg *agg = call->agg;
	bool		skip = false;

	for (int i = 0; i < agg->nargs; i++)
	{
		AttrNumber	attno = agg->args[i] - 1;

		skip |= nulls[attno] && call->transfn.fn_strict;
		fcinfo->args[i + 1].value = values[attno];
		fcinfo->args[i + 1].isnull = nulls[attno];
	}
	if (!skip)
		call_transition(ex, call, state);
	MemoryContextSwitchTo(old);
}

/*
 * Advance the states of a group by a row of the inner query.
 */
void
sagg_states_advance(SaggExecution *ex, SaggAggState *states,
					const Datum *values, const bool *nulls)
{
	int			naggs = ex->query->naggs;

	for (int i = 0; i < naggs; i++)
	{
		SaggAggCall *call = &ex->aggs[i];
		AttrNumber	filter = call->agg->filter;

		if (filter != 0 && (nulls[filter - 1] || !DatumGetBool(values[filter - 1])))
			continue;
		if (call->kind != SAGG_INLINE_NONE)
			sagg_inline_advance(ex, call, &states[i], values, nulls);
		else if (call->input_state)
			sagg_input_state_add(ex, call, &states[i], values, nulls);
		else
			advance(ex, call, &states[i], values, nulls);
	}
}

static Datum
read_only(const SaggAggCall *call, const SaggAggState *state)
{
	return MakeExpandedObjectReadOnly(state->value, state->isnull, call->translen);
}

/*
 * Returns the result of a transition state, in the current context or as part
 * of the state.
 */
Datum
sagg_state_finish(SaggExecution *ex, SaggAggCall *call, const SaggAggState *state,
				  bool *isnull)
{
	LOCAL_FCINFO(fcinfo, FUNC_MAX_ARGS);
	bool		anynull = state->isnull;
	int			nargs = 1;
	ListCell   *lc;
	Datum		result;

	if (!OidIsValid(call->finalfn.fn_oid))
	{
		*isnull = state->isnull;
		return read_only(call, state);
	}

	ex->aggstate->curperagg = &call->peragg;
	ex->aggstate->curpertrans = &call->pertrans;
	ex->aggstate->pertrans = &call->pertrans;	/* peragg's transno is 0 */
	InitFunctionCallInfoData(*fcinfo, &call->finalfn, call->nfinalargs,
							 call->agg->aggref->inputcollid, (Node *) ex->aggstate, NULL);
	fcinfo->args[0].value = read_only(call, state);
	fcinfo->args[0].isnull = state->isnull;
	foreach(lc, call->direct_args)
	{
		fcinfo->args[nargs].value = ExecEvalExpr(lfirst_node(ExprState, lc), ex->groupcontext,
												 &fcinfo->args[nargs].isnull);
		anynull |= fcinfo->args[nargs++].isnull;
	}
	for (; nargs < call->nfinalargs; nargs++)
	{
		fcinfo->args[nargs].value = (Datum) 0;
		fcinfo->args[nargs].isnull = true;
		anynull = true;
	}
	if (call->finalfn.fn_strict && anynull)
	{
		*isnull = true;
		return (Datum) 0;
	}
	result = FunctionCallInvoke(fcinfo);
	*isnull = fcinfo->isnull;
	return result;
}

/*
 * Returns the result of an aggregate, in the current context or as part of its
 * state, which is that of number "aggno" among those of its group.
 */
Datum
sagg_state_final(SaggExecution *ex, int aggno, const SaggAggState *state,
				 bool *isnull)
{
	SaggAggCall *call = &ex->aggs[aggno];

	if (SAGG_INLINE_IS_SUM(call->kind))
		return sagg_inline_final(call, state, isnull);
	if (call->input_state)
		return sagg_input_state_final(ex, call, &state[call->agg->inputs - aggno], isnull);
	return sagg_state_finish(ex, call, state, isnull);
}

/*
 * Append a state: a length word and its bytes; a negative length is a mark.
 * What precedes them for an inlined sum is described in inline_aggregate.c.
 */
void
sagg_state_write(SaggExecution *ex, int aggno, StringInfo buf,
				 const SaggAggState *state)
{
	SaggAggCall *call = &ex->aggs[aggno];
	int32		mark = state->no_value ? STATE_NO_VALUE : STATE_NULL;

	if (call->input_state)
	{
		sagg_input_state_write(call, buf, state);
		return;
	}
	if (SAGG_INLINE_IS_SUM(call->kind))
	{
		sagg_inline_write(buf, state);
		if (state->isnull)
			return;
	}
	if (state->isnull)
		appendBinaryStringInfo(buf, (char *) &mark, sizeof(mark));
	else if (OidIsValid(call->serialfn.fn_oid))
	{
		LOCAL_FCINFO(fcinfo, 1);
		bytea	   *bytes;
		int32		len;

		set_current(ex, call);
		InitFunctionCallInfoData(*fcinfo, &call->serialfn, 1, InvalidOid,
								 (Node *) ex->aggstate, NULL);
		fcinfo->args[0].value = state->value;
		fcinfo->args[0].isnull = false;
		bytes = DatumGetByteaPP(sagg_codec_call(fcinfo));
		if (fcinfo->isnull)
			elog(ERROR, "function %u returned NULL", call->serialfn.fn_oid);
		len = VARSIZE_ANY_EXHDR(bytes);
		appendBinaryStringInfo(buf, (char *) &len, sizeof(len));
		appendBinaryStringInfo(buf, VARDATA_ANY(bytes), len);
	}
	else
		sagg_codec_write(&call->codec, buf, state->value);
}

/*
 * Returns the state that was serialized as "data", allocated in the current
 * context.  The result of a deserialize function may only be combined with
 * another state: numeric's, for example, has no sum of squares.  So it is
 * combined with an empty state, as in a parallel plan, which gives a state
 * like those of the transition function.
 */
static Datum
deserialize(SaggExecution *ex, SaggAggCall *call, const char *data, int32 len)
{
	LOCAL_FCINFO(fcinfo, 2);
	MemoryContext target = CurrentMemoryContext;
	bytea	   *bytes;
	Datum		result;

	MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	bytes = palloc(len + VARHDRSZ);
	SET_VARSIZE(bytes, len + VARHDRSZ);
	memcpy(VARDATA(bytes), data, len);
	set_current(ex, call);
	InitFunctionCallInfoData(*fcinfo, &call->deserialfn, 2, InvalidOid,
							 (Node *) ex->aggstate, NULL);
	fcinfo->args[0].value = PointerGetDatum(bytes);
	fcinfo->args[0].isnull = false;
	fcinfo->args[1].value = PointerGetDatum(NULL);
	fcinfo->args[1].isnull = false;
	result = sagg_codec_call(fcinfo);
	if (fcinfo->isnull)
		elog(ERROR, "function %u returned NULL", call->deserialfn.fn_oid);

	/*
	 * a combine function allocates in the context that it sees as the
	 * aggregate context
	 */
	ex->aggstate->curaggcontext = target == state_memory(ex) ? ex->aggcontext : ex->tmpcontext;
	InitFunctionCallInfoData(*fcinfo, &call->combinefn, 2,
							 call->agg->aggref->inputcollid, (Node *) ex->aggstate, NULL);
	fcinfo->args[0].value = (Datum) 0;
	fcinfo->args[0].isnull = true;
	fcinfo->args[1].value = result;
	fcinfo->args[1].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	if (fcinfo->isnull)
		elog(ERROR, "function %u returned NULL", call->combinefn.fn_oid);
	ex->aggstate->curaggcontext = ex->aggcontext;
	MemoryContextSwitchTo(target);
	return result;
}

/*
 * Read what sagg_state_write wrote into "state"; its value is allocated in the
 * current context, which must be that of the states if the group is kept, and
 * that of the current row if not.
 */
void
sagg_state_read(SaggExecution *ex, int aggno, SaggBytes *bytes,
				SaggAggState *state)
{
	SaggAggCall *call = &ex->aggs[aggno];
	int32		len;
	const char *data;

	memset(state, 0, sizeof(*state));
	if (call->input_state)
	{
		sagg_input_state_read(call, bytes, state);
		return;
	}
	state->isnull = state->no_value = true;
	if (SAGG_INLINE_IS_SUM(call->kind) && !sagg_inline_read(bytes, state))
		return;
	len = sagg_bytes_take_length(bytes);
	state->isnull = len < 0;
	state->no_value = len == STATE_NO_VALUE;
	state->value = (Datum) 0;

	/*
	 * the first input would become the state of a call without initial value
	 */
	if (len < STATE_NO_VALUE || (state->no_value && !call->initnull))
		sagg_codec_corrupt("A state has no valid length.");
	if (len >= 0)
	{
		data = sagg_bytes_take(bytes, len);
		if (OidIsValid(call->deserialfn.fn_oid))
			state->value = deserialize(ex, call, data, len);
		else
			state->value = sagg_codec_read(&call->codec, data, len);
	}
	if (call->kind != SAGG_INLINE_NONE)
		sagg_inline_check(call, state);
}

/*
 * Step over what sagg_state_write wrote.  Returns the part of it that only
 * grows at its end: kept inputs, or nothing.
 */
SaggBytes
sagg_state_skip(SaggExecution *ex, int aggno, SaggBytes *bytes)
{
	SaggAggCall *call = &ex->aggs[aggno];
	SaggBytes	nothing = {bytes->data, bytes->data};
	SaggAggState state;
	int32		len;

	if (call->input_state)
		return sagg_input_state_skip(call, bytes);
	if (SAGG_INLINE_IS_SUM(call->kind) && !sagg_inline_read(bytes, &state))
		return nothing;
	len = sagg_bytes_take_length(bytes);
	if (len > 0)
		sagg_bytes_take(bytes, len);
	return nothing;
}
