/*-------------------------------------------------------------------------
 *
 * scan_record.c
 *	  The current record of a scan to a row.
 *
 * In a micro-batch with refusals a record that does not decode is refused; in a
 * repair it may be left out; in any other query the source's option on_error says
 * what becomes of it, and as little as possible is decoded: nothing of a record
 * that conditions on metadata exclude, and nothing at all where no column comes
 * from the value.  Must never give a row of which a part was not decoded, unless
 * the option says so (I5).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "utils/builtins.h"

#include "scan_internal.h"

static void
record_error_context(void *arg)
{
	SaggSourceScan *state = (SaggSourceScan *) arg;

	errcontext("record at topic \"%s\", partition %d, offset " INT64_FORMAT,
			   sagg_topic_name(state->record.topic), state->record.partition,
			   state->record.offset);
}

/*
 * The columns of the current record that come from its payload.  Errors are
 * raised if "why" is NULL.
 */
static SaggVerdict
decode_payload(SaggSourceScan *state, TupleTableSlot *slot, SaggRecordError *why)
{
	const SaggRecord *record = &state->record;
	SaggVerdict verdict;

	if (state->shared)
	{
		if (state->want_record)
			(void) sagg_scan_load_record(state);
		if (sagg_shared_find(state->shared, slot->tts_values, slot->tts_isnull, &verdict))
			return verdict;
		(void) sagg_scan_load_record(state);
		return sagg_shared_decode(state->shared, state->next, record,
								  slot->tts_values, slot->tts_isnull, why);
	}
	if (why)
		return sagg_decoder_try(state->decoder, record->payload, record->payload_len,
								slot->tts_values, slot->tts_isnull, why);
	return sagg_decoder_decode(state->decoder, record->payload, record->payload_len,
							   slot->tts_values, slot->tts_isnull) ?
		SAGG_RECORD_GOOD : SAGG_RECORD_LEFT_OUT;
}

/*
 * The current record to the slot's values, in the current context.  Returns
 * false if the source leaves it out.
 */
static bool
decode_record(SaggSourceScan *state, TupleTableSlot *slot)
{
	ErrorContextCallback callback;
	bool		found;

	callback.callback = record_error_context;
	callback.arg = state;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	found = decode_payload(state, slot, NULL) == SAGG_RECORD_GOOD;
	if (found && state->nmetadata > 0)
		sagg_fill_metadata(state->metadata, state->nmetadata, false, &state->record,
						   slot->tts_values, slot->tts_isnull);
	error_context_stack = callback.previous;
	return found;
}

/*
 * The same for a record that may not decode: then "why" says so.
 */
static SaggVerdict
decode_leniently(SaggSourceScan *state, TupleTableSlot *slot, SaggRecordError *why)
{
	ErrorContextCallback callback;
	SaggVerdict verdict;
	bool		good;

	callback.callback = record_error_context;
	callback.arg = state;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	verdict = decode_payload(state, slot, why);
	good = verdict == SAGG_RECORD_GOOD &&
		sagg_try_fill_metadata(state->metadata, state->nmetadata, false, &state->record,
							   slot->tts_values, slot->tts_isnull, why);
	error_context_stack = callback.previous;
	return good || verdict != SAGG_RECORD_GOOD ? verdict : SAGG_RECORD_INVALID;
}

/*
 * The current record of a batch that refuses records.  Returns false if it is
 * left out, does not decode, or is refused already: then the slot's values are
 * undefined.
 */
static pg_noinline bool
try_record(SaggSourceScan *state, TupleTableSlot *slot)
{
	SaggRecordError why;
	SaggVerdict verdict;

	if (sagg_record_refused(state->refusals, state->base + state->next))
		return false;
	verdict = decode_leniently(state, slot, &why);
	if (verdict == SAGG_RECORD_INVALID)
		sagg_refuse_record(state->refusals, state->base + state->next, ERRCODE_SAGG_INVALID_RECORD,
						   why.message, why.detail);
	return verdict == SAGG_RECORD_GOOD;
}

/*
 * The current record of a scan that is restricted.
 */
static pg_noinline bool
take_restricted(SaggSourceScan *state, TupleTableSlot *slot)
{
	SaggRecordError why;

	if (sagg_restriction_skips(state->restriction, &state->record))
		return false;
	if (!state->restriction->lenient)
		return decode_record(state, slot);
	return decode_leniently(state, slot, &why) == SAGG_RECORD_GOOD;
}

/*
 * The columns of the current record, of which nothing is decoded.  With "early"
 * only those that conditions need.
 */
static void
fill_metadata(SaggSourceScan *state, TupleTableSlot *slot, bool early)
{
	ErrorContextCallback callback;
	SaggRecordError why;

	callback.callback = record_error_context;
	callback.arg = state;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	memset(slot->tts_isnull, true, sizeof(bool) * slot->tts_tupleDescriptor->natts);
	if (state->on_error == SAGG_SCAN_FAIL)
		sagg_fill_metadata(state->metadata, state->nmetadata, early, &state->record,
						   slot->tts_values, slot->tts_isnull);
	else
		(void) sagg_try_fill_metadata(state->metadata, state->nmetadata, early, &state->record,
									  slot->tts_values, slot->tts_isnull, &why);
	error_context_stack = callback.previous;
}

/*
 * Do the conditions on metadata hold for the current record of a query?
 */
static bool
passes_early(ForeignScanState *node, SaggSourceScan *state, TupleTableSlot *slot)
{
	ExprContext *context = node->ss.ps.ps_ExprContext;
	bool		passes;

	fill_metadata(state, slot, true);
	ExecStoreVirtualTuple(slot);
	context->ecxt_scantuple = slot;
	passes = ExecQual(node->fdw_recheck_quals, context);
	ExecClearTuple(slot);
	return passes;
}

/*
 * The current record of a query, as the source's options have it.
 */
static pg_noinline bool
take_queried(ForeignScanState *node, SaggSourceScan *state, TupleTableSlot *slot)
{
	SaggRecordError why;
	SaggVerdict verdict;

	if (node->fdw_recheck_quals && !passes_early(node, state, slot))
		return false;
	if (!state->decodes)
	{
		if (state->ignores_tombstones && state->record.payload == NULL)
			return false;
		fill_metadata(state, slot, false);
		return true;
	}
	if (state->error >= 0)
		slot->tts_isnull[state->error] = true;
	if (state->on_error == SAGG_SCAN_FAIL)
		return decode_record(state, slot);
	verdict = decode_leniently(state, slot, &why);
	if (verdict != SAGG_RECORD_INVALID || state->on_error == SAGG_SCAN_SKIP)
		return verdict == SAGG_RECORD_GOOD;
	fill_metadata(state, slot, false);
	if (state->error >= 0)
	{
		slot->tts_values[state->error] =
			CStringGetTextDatum(psprintf("%s%s%s", why.message, why.detail ? "\nDETAIL:  " : "",
										 why.detail ? why.detail : ""));
		slot->tts_isnull[state->error] = false;
	}
	return true;
}

/*
 * The current record to the slot's values, in the current context, which is that
 * of a tuple.  Returns false if it gives no row.  Raises
 * ERRCODE_SAGG_INVALID_RECORD where one that does not decode is an error.  The
 * rare ways are not inlined: each record would pay for the registers they save.
 */
bool
sagg_scan_take_record(ForeignScanState *node, SaggSourceScan *state, TupleTableSlot *slot)
{
	if (state->cursor == NULL && state->restriction == NULL)
		return take_queried(node, state, slot);
	if (state->error >= 0)
		slot->tts_isnull[state->error] = true;
	if (state->refusals)
		return try_record(state, slot);
	if (state->restriction)
		return take_restricted(state, slot);
	return decode_record(state, slot);
}
