/*-------------------------------------------------------------------------
 *
 * pass_rows.c
 *	  EXECUTE for queries that do not aggregate: rows of the inner query
 *	  straight to the output.
 *
 * Nothing of them is kept but, for DISTINCT ON, their keys (deduplicate.c).
 * An event time moves the watermark.  As in Spark no row is late for a query
 * without state, nor is one left out because it has no event time; only
 * deduplication, which could not tell a new row from a repeated one, leaves out
 * both.
 *
 * Rows wait for WRITE in a tuplestore, so that nothing is written of a record
 * that is refused later, with another of its rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "utils/memutils.h"

#include "event_times.h"
#include "pass_rows.h"

typedef struct RowReceiver
{
	DestReceiver pub;
	SaggExecution *ex;
} RowReceiver;

/*
 * Take a row's event time.  Returns false, having counted it, for a row that
 * goes no further.
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
		sagg_classify(ex, slot, SAGG_CLASS_REFUSED);
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
	if (sagg_row_refused(ex, slot) || !take_event_time(ex, slot, &time))
		return true;
	if (ex->seen && sagg_seen_key(ex, time, slot->tts_values, slot->tts_isnull))
	{
		sagg_classify(ex, slot, SAGG_CLASS_FILTERED);
		return true;
	}
	tuplestore_putvalues(ex->fresh, ex->query->output_desc,
						 slot->tts_values + first, slot->tts_isnull + first);
	sagg_classify(ex, slot, SAGG_CLASS_AGGREGATED);
	SAGG_FAILPOINT("execute.row");
	return true;
}

static void
startup_receiver(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static void
end_receiver(DestReceiver *self)
{
}

/*
 * The end of the inner query's plan, in the current context.
 */
DestReceiver *
sagg_row_receiver(SaggExecution *ex)
{
	RowReceiver *receiver = palloc0(sizeof(RowReceiver));

	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = startup_receiver;
	receiver->pub.rShutdown = end_receiver;
	receiver->pub.rDestroy = end_receiver;
	receiver->pub.mydest = DestNone;
	receiver->ex = ex;
	return &receiver->pub;
}

/*
 * As if no row had been received.
 */
void
sagg_rows_forget(SaggExecution *ex)
{
	tuplestore_clear(ex->fresh);
	if (ex->seen)
		sagg_seen_keys_forget(ex);
}
