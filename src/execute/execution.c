/*-------------------------------------------------------------------------
 *
 * execution.c
 *	  EXECUTE: the rows of a batch into windowed groups.
 *
 * PostgreSQL's executor runs the inner query; a DestReceiver at its end takes
 * each row's event time, drops what is late, and advances the group's states.
 * A window is [origin + n * size, origin + (n + 1) * size), found by
 * arithmetic.  The semantics are Spark's: a row is late when its window ends
 * at or before the watermark that the commit before left, except in output
 * mode complete, where nothing is late.  Rows of queries that do not aggregate
 * go to pass_rows.c instead.
 *
 * Nothing here changes the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/int.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "execute_internal.h"

typedef struct BatchReceiver
{
	DestReceiver pub;
	SaggExecution *ex;
	SaggRows   *rows;			/* NULL = one by one */
} BatchReceiver;

/*
 * Begin a batch of "stream" against "store".  "query", "plan" and "stream"
 * must live until sagg_execution_end; the result, in a context below the
 * current one, is the caller's.  Runs in a transaction.
 */
SaggExecution *
sagg_execution_begin(SaggStore *store, const SaggStream *stream,
					 SaggQuery *query, const SaggPlan *plan)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "stream_agg execution",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(memory);
	SaggExecution *ex = palloc0(sizeof(SaggExecution));

	ex->memory = memory;
	ex->store = store;
	ex->stream = stream;
	ex->query = query;
	ex->plan = plan;
	ex->aggcontext = CreateStandaloneExprContext();
	ex->tmpcontext = CreateStandaloneExprContext();
	ex->aggstate = makeNode(AggState);
	ex->aggstate->curaggcontext = ex->aggcontext;
	ex->aggstate->tmpcontext = ex->tmpcontext;
	ex->aggs = sagg_aggregates_init(query);
	initStringInfo(&ex->entry);
	sagg_groups_init(ex);
	sagg_emit_init(ex);
	sagg_execution_refuse(ex, NULL, 0);
	sagg_state_access_init(ex);
	if (query->kind == SAGG_DEDUPLICATION)
		ex->seen = sagg_seen_keys_init(ex);
	sagg_store_begin(store, plan->batch,
					 ex->seen ? sagg_expiry_step(stream->watermark_delay) :
					 query->window.size);
	MemoryContextSwitchTo(old);
	return ex;
}

/*
 * Count a row, or its record when joins may repeat it.
 */
void
sagg_classify(SaggExecution *ex, TupleTableSlot *slot, SaggClass class)
{
	AttrNumber	record = ex->query->record;
	int64		n;

	if (record == 0)
	{
		ex->rows[class]++;
		return;
	}
	n = SAGG_TID_RECORD((ItemPointer) DatumGetPointer(slot->tts_values[record - 1]));
	if (n >= ex->nclasses)
	{
		int64		size = Max(n + 1, Max(1024, ex->nclasses * 2));

		ex->classes = ex->classes ? repalloc_huge(ex->classes, size) :
			MemoryContextAllocHuge(ex->memory, size);
		memset(ex->classes + ex->nclasses, SAGG_CLASS_FILTERED, size - ex->nclasses);
		ex->nclasses = size;
	}
	ex->classes[n] = Max(ex->classes[n], class);
}

/*
 * Start of the window that holds a time; false if that is out of range.
 */
static bool
window_start(const SaggWindow *window, int64 time, int64 *start)
{
	int64		distance;
	int64		end;

	if (!pg_sub_s64_overflow(time, window->origin, &distance))
	{
		int64		into = distance % window->size;

		if (into < 0)
			into += window->size;
		return !pg_sub_s64_overflow(time, into, start) &&
			!pg_add_s64_overflow(*start, window->size, &end) &&
			IS_VALID_TIMESTAMP(*start) && IS_VALID_TIMESTAMP(end);
	}
	return false;
}

/*
 * Event time and window of a row.  Returns false, having counted it, for a row
 * that goes no further.
 */
static bool
place_row(SaggExecution *ex, TupleTableSlot *slot, int64 *start)
{
	const SaggQuery *query = ex->query;
	bool		windowed = query->window.kind != SAGG_WINDOW_NONE;
	int64		time;

	*start = 0;
	if (!query->has_event_time)
		return true;
	if (slot->tts_isnull[query->event_time - 1])
	{
		if (windowed)
			sagg_classify(ex, slot, SAGG_CLASS_NULL_TIME);
		return !windowed;
	}
	time = DatumGetTimestampTz(slot->tts_values[query->event_time - 1]);
	if (!sagg_check_event_time(ex, slot, time))
	{
		sagg_classify(ex, slot, SAGG_CLASS_REFUSED);
		return false;
	}
	if (windowed && !window_start(&query->window, time, start))
	{
		sagg_refuse_window(ex, slot, time);
		sagg_classify(ex, slot, SAGG_CLASS_REFUSED);
		return false;
	}

	if (!ex->any_time || time > ex->max_time)
		ex->max_time = time;
	ex->any_time = true;
	if (sagg_window_passed(ex, *start))
	{
		sagg_classify(ex, slot, SAGG_CLASS_LATE);
		return false;
	}
	return true;
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	BatchReceiver *receiver = (BatchReceiver *) self;
	SaggExecution *ex = receiver->ex;
	SaggGroup  *group;
	int64		start;

	slot_getallattrs(slot);
	if (sagg_row_refused(ex, slot) || !place_row(ex, slot, &start))
		return true;
	if (receiver->rows &&
		sagg_rows_add(receiver->rows, start, slot->tts_values, slot->tts_isnull))
	{
		sagg_classify(ex, slot, SAGG_CLASS_AGGREGATED);
		SAGG_FAILPOINT("execute.row");
		return true;
	}
	group = sagg_groups_lookup_row(ex, start,
								   sagg_groups_hash_row(ex, start, slot->tts_values,
														slot->tts_isnull),
								   slot->tts_values, slot->tts_isnull);
	if (group == NULL)
	{
		sagg_refuse_keys(ex, slot, ex->row_keys, ex->row_keynulls);
		sagg_classify(ex, slot, SAGG_CLASS_REFUSED);
		ResetExprContext(ex->tmpcontext);
		return true;
	}
	group->changed = true;
	sagg_states_advance(ex, group->states, slot->tts_values, slot->tts_isnull);
	sagg_classify(ex, slot, SAGG_CLASS_AGGREGATED);
	ResetExprContext(ex->tmpcontext);
	SAGG_FAILPOINT("execute.row");
	return true;
}

static void
startup_receiver(DestReceiver *self, int operation, TupleDesc typeinfo)
{
	BatchReceiver *receiver = (BatchReceiver *) self;
	MemoryContext old = MemoryContextSwitchTo(receiver->ex->memory);

	receiver->rows = sagg_rows_init(receiver->ex, typeinfo);
	MemoryContextSwitchTo(old);
}

static void
shutdown_receiver(DestReceiver *self)
{
	BatchReceiver *receiver = (BatchReceiver *) self;

	if (receiver->rows)
		sagg_rows_flush(receiver->rows);
}

static void
end_receiver(DestReceiver *self)
{
}

static DestReceiver *
make_receiver(SaggExecution *ex)
{
	BatchReceiver *receiver;

	if (ex->query->kind != SAGG_AGGREGATION)
		return sagg_row_receiver(ex);
	receiver = palloc0(sizeof(BatchReceiver));
	receiver->pub.receiveSlot = receive_row;
	receiver->pub.rStartup = startup_receiver;
	receiver->pub.rShutdown = shutdown_receiver;
	receiver->pub.rDestroy = end_receiver;
	receiver->pub.mydest = DestNone;
	receiver->ex = ex;
	return &receiver->pub;
}

static void
run_inner(SaggExecution *ex)
{
	DestReceiver *receiver = make_receiver(ex);
	PlannedStmt *plan;
	QueryDesc  *desc;

	plan = pg_plan_query(copyObject(ex->query->inner), ex->stream->name, 0, NULL);
	desc = CreateQueryDesc(plan, ex->stream->name, GetActiveSnapshot(),
						   InvalidSnapshot, receiver, NULL, NULL, 0);
	ExecutorStart(desc, 0);
	SAGG_EXECUTOR_RUN(desc, ForwardScanDirection, 0);
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
}

/*
 * As if no row had been received.
 */
static void
forget_rows(SaggExecution *ex)
{
	sagg_groups_forget(ex);
	sagg_rows_forget(ex);
	ex->any_time = false;
	memset(ex->rows, 0, sizeof(ex->rows));
	if (ex->nclasses > 0)
		memset(ex->classes, SAGG_CLASS_FILTERED, ex->nclasses);
}

/*
 * Run the inner query over the batch that is attached to the source.  The
 * active snapshot is the batch's.
 */
void
sagg_execution_run(SaggExecution *ex)
{
	MemoryContext old = MemoryContextSwitchTo(ex->memory);

	do
	{
		if (ex->run_again)
			forget_rows(ex);
		ex->run_again = false;
		run_inner(ex);
	} while (ex->run_again);
	MemoryContextSwitchTo(old);
}

/*
 * The state store of an execution, for checkpoint/.  Lives as long as the
 * execution.
 */
const SaggStateAccess *
sagg_execution_state(SaggExecution *ex)
{
	return &ex->access;
}

/*
 * Free an execution.  After an ERROR its memory goes with the context it was
 * made in.
 */
void
sagg_execution_end(SaggExecution *ex)
{
	if (ex->fresh)
		tuplestore_end(ex->fresh);
	tuplestore_end(ex->known);
	FreeExprContext(ex->tmpcontext, true);
	FreeExprContext(ex->aggcontext, true);
	MemoryContextDelete(ex->memory);
}
