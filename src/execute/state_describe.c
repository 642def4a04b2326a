/*-------------------------------------------------------------------------
 *
 * state_describe.c
 *	  Describes how the state of a stream is kept, in words and in bytes.
 *
 * Nothing here changes a store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "execute_internal.h"

/* guessed bytes of a serialized state, or of inputs */
#define SERIALIZED_BYTES	64

/*
 * Returns how the state of aggregate "aggno" (from 0) is computed and kept, in
 * the current context.
 */
char *
sagg_execution_describe(const SaggExecution *ex, int aggno)
{
	const SaggAggCall *call = &ex->aggs[aggno];

	if (call->input_state)
		return pstrdup(call->input_state->distinct ? "its different inputs are kept" :
					   "its inputs are kept");
	if (SAGG_INLINE_IS_SUM(call->kind))
		return psprintf("inlined, an exact sum of 128 bits; beyond it serialized by %s",
						get_func_name(call->serialfn.fn_oid));
	if (call->transtype == INTERNALOID)
		return psprintf("serialized by %s", get_func_name(call->serialfn.fn_oid));
	return psprintf("%s%s, %s", call->kind == SAGG_INLINE_NONE ? "" : "inlined, ",
					format_type_be(call->transtype),
					call->codec.raw ? "kept as it is" : "kept by its send function");
}

/*
 * Returns an estimate of the bytes of shared memory that a group takes, for a
 * stream that has no groups to measure.
 */
int64
sagg_execution_estimate(const SaggExecution *ex)
{
	int64		bytes = sagg_store_overhead() + sizeof(int64);

	for (int i = 0; i < ex->query->nkeys; i++)
		bytes += sizeof(int32) + get_typavgwidth(ex->query->keys[i].type,
												 ex->query->keys[i].typmod);
	for (int i = 0; i < ex->query->naggs; i++)
	{
		const SaggAggCall *call = &ex->aggs[i];

		if (call->input_state)
			bytes += sizeof(int64) + SERIALIZED_BYTES;
		else if (SAGG_INLINE_IS_SUM(call->kind))
			bytes += 1 + sizeof(SaggSum);
		else if (call->transtype == INTERNALOID)
			bytes += sizeof(int32) + SERIALIZED_BYTES;
		else
			bytes += sizeof(int32) + get_typavgwidth(call->transtype, -1);
	}
	return bytes;
}
