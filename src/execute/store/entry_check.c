/*-------------------------------------------------------------------------
 *
 * entry_check.c
 *	  Verifies that a group can be read from an entry of the state log.
 *
 * The log is a table: a server with other types may have written its contents,
 * or they may come from a dump, or be forged, with correct checksums.  So keys
 * are verified before they are hashed, and all of an entry before its states
 * are read; after that the store is trusted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "execute/window/session_windows.h"

#define NULL_VALUE	(-1)

static void
check_column(SaggCodec *codec, SaggBytes *bytes)
{
	int32		len = sagg_bytes_take_length(bytes);

	if (len < NULL_VALUE)
		sagg_codec_corrupt("A value has no valid length.");
	if (len != NULL_VALUE)
		sagg_codec_check(codec, sagg_bytes_take(bytes, len), len);
}

static void
check_head(SaggExecution *ex, SaggBytes *bytes)
{
	int64		start;
	int64		end;

	memcpy(&start, sagg_bytes_take(bytes, sizeof(start)), sizeof(start));
	if (!SAGG_HAS_SESSIONS(ex))
		return;
	memcpy(&end, sagg_bytes_take(bytes, sizeof(end)), sizeof(end));
	if (!IS_VALID_TIMESTAMP(end) || end < start)
		sagg_codec_corrupt("Its session does not end.");
}

/*
 * Verify that there are as many tuples as the state says.
 */
static void
check_kept(const SaggAggCall *call, SaggBytes *bytes)
{
	SaggBytes	tuples;
	int64		count;

	if (call->agg->shares_inputs)
		return;
	memcpy(&count, sagg_bytes_take(bytes, sizeof(count)), sizeof(count));
	bytes->data -= sizeof(count);
	tuples = sagg_input_state_skip(call, bytes);
	for (; count > 0 && tuples.data < tuples.end; count--)
	{
		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < call->input_state->ncolumns; i++)
			check_column(&call->input_state->codecs[i], &tuples);
	}
	if (count != 0 || tuples.data != tuples.end)
		sagg_codec_corrupt("Kept inputs are not as many as there should be.");
}

/*
 * Verify the bytes of a state that has any, behind their length.
 */
static void
check_state_bytes(SaggAggCall *call, SaggBytes bytes)
{
	SaggAggState sum;
	int32		len;

	if (SAGG_INLINE_IS_SUM(call->kind) && !sagg_inline_read(&bytes, &sum))
		return;
	len = sagg_bytes_take_length(&bytes);
	if (len < 0)
		return;
	if (OidIsValid(call->deserialfn.fn_oid))
		sagg_serialized_check(call->deserialfn.fn_oid, sagg_bytes_take(&bytes, len), len);
	else
		sagg_codec_check(&call->codec, sagg_bytes_take(&bytes, len), len);
}

/*
 * Verify window and keys of an entry.  Leaves garbage in the current context.
 * Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT, or what a receive function raises.
 */
void
sagg_entry_check_keys(SaggExecution *ex, const char *entry, Size len)
{
	SaggBytes	bytes = {entry, entry + len};

	check_head(ex, &bytes);
	for (int i = 0; i < ex->query->nkeys; i++)
		check_column(&ex->keys[i].codec, &bytes);
}

/*
 * Verify the states of an entry, whose keys are verified, and that nothing is
 * behind them.  Leaves garbage in the current context, which is that of the
 * current row.
 */
void
sagg_entry_check(SaggExecution *ex, const char *entry, Size len)
{
	SaggBytes	bytes = {entry, entry + len};

	sagg_entry_skip_keys(ex, &bytes);
	for (int i = 0; i < ex->query->naggs; i++)
	{
		SaggAggCall *call = &ex->aggs[i];
		SaggAggState state;

		if (call->input_state)
			check_kept(call, &bytes);
		else
		{
			check_state_bytes(call, bytes);
			sagg_state_read(ex, i, &bytes, &state);
		}
	}
	if (bytes.data != bytes.end)
		sagg_codec_corrupt("It is followed by bytes that do not belong to it.");
}
