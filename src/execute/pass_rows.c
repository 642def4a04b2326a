/*-------------------------------------------------------------------------
 *
 * pass_rows.c
 *	  EXECUTE for queries that do not aggregate: rows of the inner query become
 *	  the output.
 *
 * Only the keys of DISTINCT ON are kept (deduplicate.c).  An event time moves
 * the watermark.  As in Spark, rows are never late for a query without state,
 * and rows without event time are not left out; only deduplication, which
 * cannot tell a new row from a repeated one, leaves out both.
 *
 * Rows wait for WRITE in a tuplestore, so that nothing is written of a record
 * that is rejected later, with another of its rows.  The space they take
 * there, mostly in a temporary file, can be ten thousand times that of their
 * records.  So it has a bound (I7), above which the batch fails with
 * ERRCODE_SAGG_ROW_SPACE, and the worker tries a smaller one
 * (worker/batch_size.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "executor/executor.h"
#include "utils/guc.h"

#include "event_times.h"
#include "pass_rows.h"
#include "streams/streams.h"

/* least bound of the rows of a batch, whatever the setting is */
#define LEAST_SPACE		(INT64CONST(256) * 1024 * 1024)

typedef struct RowReceiver
{
	DestReceiver pub;
	SaggExecution *ex;
	int			fixed;			/* bytes of a row without the following
								 * columns */
	int			nvarying;
	int		   *varying;		/* columns of the output, from 0, that have a
								 * varying length */
} RowReceiver;

/*
 * Returns the bytes that the rows of a batch may take.
 */
int64
sagg_row_space_bound(void)
{
	return Max((int64) sagg_batch_memory_kb * 1024 * 4, LEAST_SPACE);
}

/*
 * Bound the rows of an execution whose batch can be made smaller; by default
 * they are unbounded.
 */
void
sagg_execution_bound_rows(SaggExecution *ex)
{
	ex->row_bound = sagg_row_space_bound();
}

/*
 * Returns how much of the bytes that the rows of a batch may take an execution
 * has taken, in percent.
 */
int
sagg_execution_row_space(const SaggExecution *ex)
{
	int64		bound = sagg_row_space_bound();

	if (temp_file_limit >= 0)
		bound = Min(bound, Max((int64) temp_file_limit * 1024, 1));
	return (int) Min(ex->row_bytes / (bound / 100.0), 1000);
}

/*
 * A row of so many bytes is one of the batch's output.
 */
void
sagg_count_row_bytes(SaggExecution *ex, int64 bytes)
{
	ex->row_bytes += bytes;
	if (unlikely(ex->row_bytes > ex->row_bound))
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_ROW_SPACE),
				 errmsg("the rows of a micro-batch of stream \"%s\" take more than " INT64_FORMAT " kB",
						sagg_stream_title(ex->stream->name), ex->row_bound / 1024),
				 errhint("Increase stream_agg.batch_memory, of which they can take four times as much.")));
}

static void
count_bytes(const RowReceiver *receiver, const Datum *values, const bool *nulls)
{
	int64		bytes = receiver->fixed;

	for (int i = 0; i < receiver->nvarying; i++)
	{
		if (!nulls[receiver->varying[i]])
			bytes += VARSIZE_ANY(DatumGetPointer(values[receiver->varying[i]]));
	}
	sagg_count_row_bytes(receiver->ex, bytes);
}

/*
 * Take a row's event time.  Returns false for a row that is left out, which
 * has been counted.
 */
static bool
take_event_time(SaggExecution *ex, TupleTableSlot *slot, int64 *time)
{
	const SaggQuery *query = ex->query;

	*time = 0;
	if (!query->has_event_time)
		return true;
	if (slot->tts_isnull[query->event_time - 1])
	{
		if (ex->seen)
			sagg_classify(ex, slot, SAGG_CLASS_NULL_TIME);
		return ex->seen == NULL;
	}
	*time = DatumGetTimestampTz(slot->tts_values[query->event_time - 1]);
	if (!sagg_check_event_time(ex, slot, *time))
	{
		sagg_classify(ex, slot, SAGG_CLASS_REJECTED);
		return false;
	}
	sagg_note_time(ex, slot, *time);
	if (ex->seen && *time <= ex->plan->watermark)
	{
		sagg_classify(ex, slot, SAGG_CLASS_LATE);
		return false;
	}
	return true;
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	SaggExecution *ex = ((RowReceiver *) self)->ex;
	int			first = ex->query->first_output - 1;
	int64		time;

	slot_getallattrs(slot);
	if (sagg_row_rejected(ex, slot) || !take_event_time(ex, slot, &time))
		return true;
	if (ex->seen && sagg_seen_key(ex, time, slot->tts_values, slot->tts_isnull))
	{
		sagg_classify(ex, slot, SAGG_CLASS_TIME_ONLY);
		return true;
	}
	count_bytes((RowReceiver *) self, slot->tts_values + first, slot->tts_isnull + first);
	tuplestore_putvalues(ex->fresh, ex->query->output_desc,
						 slot->tts_values + first, slot->tts_isnull + first);
	sagg_classify(ex, slot, SAGG_CLASS_AGGREGATED);
	SAGG_FAILPOINT("execute.row");
	return true;
}

/*
 * Returns the receiver for the rows of the inner query, in the current
 * context.
 */
DestReceiver *
sagg_row_receiver(SaggExecution *ex)
{
	RowReceiver *receiver = palloc0(sizeof(RowReceiver));
	TupleDesc	desc = ex->query->output_desc;

	receiver->fixed = MAXALIGN(SizeofMinimalTupleHeader);
	receiver->varying = palloc(sizeof(int) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		if (TupleDescAttr(desc, i)->attlen == -1)
			receiver->varying[receiver->nvarying++] = i;
		else
			receiver->fixed += Max(TupleDescAttr(desc, i)->attlen, 0);
	}
	sagg_receiver_init(&receiver->pub, DestNone, receive_row);
	receiver->ex = ex;
	return &receiver->pub;
}

/*
 * Start again, as if no row had been received.
 */
void
sagg_rows_forget(SaggExecution *ex)
{
	tuplestore_clear(ex->fresh);
	ex->row_bytes = 0;
	if (ex->seen)
		sagg_seen_keys_forget(ex);
}
