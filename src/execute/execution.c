/*-------------------------------------------------------------------------
 *
 * execution.c
 *	  EXECUTE: puts the rows of a batch into windowed groups.
 *
 * PostgreSQL's executor runs the inner query; a DestReceiver at its end puts
 * each row into its windows (windows.c) and advances the groups' states.  Rows
 * of queries that do not aggregate go to pass_rows.c instead.
 *
 * Nothing here changes the store.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "batch_units.h"
#include "event_times.h"
#include "pass_rows.h"
#include "execute/window/session_windows.h"

typedef struct BatchReceiver
{
	DestReceiver pub;
	SaggExecution *ex;
	SaggRows   *rows;			/* NULL = rows are taken one by one */
} BatchReceiver;

/*
 * Returns whether states of the batch's groups can be combined with those in
 * the store.  Without GROUP BY it matters early whether there are any.
 */
static bool
all_combine(const SaggExecution *ex)
{
	for (int i = 0; i < ex->query->naggs; i++)
	{
		if (!ex->aggs[i].combines)
			return false;
	}
	return !ex->query->single_row;
}

/*
 * Begin a batch of "stream" against "store". "query", "plan" and "stream" must
 * live until sagg_execution_end.  Free it with sagg_execution_end; it is in a
 * context below the current one.  Runs in a transaction.
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
	ex->seed = sagg_store_seed(store);
	ex->methods = sagg_window_methods(&query->window);
	ex->stream = stream;
	ex->query = query;
	ex->plan = plan;
	ex->row_watermark = plan->watermark;
	ex->aggcontext = CreateStandaloneExprContext();
	ex->tmpcontext = CreateStandaloneExprContext();
	ex->aggstate = makeNode(AggState);
	ex->aggstate->curaggcontext = ex->aggcontext;
	ex->aggstate->tmpcontext = ex->tmpcontext;
	ex->aggs = sagg_aggregates_init(query, sagg_store_is_bounded(store));
	sagg_input_state_final_init(ex);
	initStringInfo(&ex->entry);
	sagg_group_memory_init(ex, ex->aggcontext->ecxt_per_tuple_memory);
	ex->row_bound = PG_INT64_MAX;
	sagg_groups_init(ex);
	if (sagg_store_is_bounded(store) && query->kind == SAGG_AGGREGATION)
	{
		ex->units = sagg_batch_units_init();
		ex->defers = all_combine(ex);
	}
	if (ex->methods->init)
		ex->methods->init(ex);
	sagg_emit_init(ex);
	sagg_execution_reject(ex, NULL, 0);
	sagg_state_access_init(ex);
	if (query->kind == SAGG_DEDUPLICATION)
		ex->seen = sagg_seen_keys_init(ex);
	sagg_store_begin(store, plan->batch,
					 ex->seen ? sagg_seen_keys_window(ex) : &query->window);
	MemoryContextSwitchTo(old);
	return ex;
}

/*
 * Put a row into the group of one window.  Returns false if its record is
 * rejected.
 */
static bool
take_row(BatchReceiver *receiver, TupleTableSlot *slot, int64 start)
{
	SaggExecution *ex = receiver->ex;
	SaggGroup  *group;

	if (receiver->rows &&
		sagg_rows_add(receiver->rows, start, slot->tts_values, slot->tts_isnull))
		return true;
	group = sagg_groups_lookup_row(ex, start,
								   sagg_groups_hash_row(ex, start, slot->tts_values,
														slot->tts_isnull),
								   slot->tts_values, slot->tts_isnull);
	if (group == NULL)
	{
		sagg_reject_keys(ex, slot, ex->row_keys, ex->row_keynulls);
		sagg_classify(ex, slot, SAGG_CLASS_REJECTED);
		ResetExprContext(ex->tmpcontext);
		return false;
	}
	group->changed = true;
	sagg_states_advance(ex, group->states, slot->tts_values, slot->tts_isnull);
	ResetExprContext(ex->tmpcontext);
	sagg_group_memory_check(ex, 1);
	return true;
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	BatchReceiver *receiver = (BatchReceiver *) self;
	SaggExecution *ex = receiver->ex;
	SaggPlaces	places;

	slot_getallattrs(slot);
	if (sagg_row_rejected(ex, slot) || !sagg_place_row(ex, slot, &places))
		return true;
	if (!take_row(receiver, slot, places.start))
		return true;
	sagg_classify(ex, slot, SAGG_CLASS_AGGREGATED);
	while (--places.n > 0)
	{
		places.start -= places.step;
		if (!take_row(receiver, slot, places.start))
			return true;
	}
	SAGG_FAILPOINT("execute.row");
	return true;
}

/*
 * Put a row into its group as the kind of its windows requires.
 */
static bool
receive_row_by_kind(TupleTableSlot *slot, DestReceiver *self)
{
	SaggExecution *ex = ((BatchReceiver *) self)->ex;

	slot_getallattrs(slot);
	if (!sagg_row_rejected(ex, slot))
		ex->methods->row(ex, slot);
	return true;
}

static void
startup_receiver(DestReceiver *self, int operation, TupleDesc typeinfo)
{
	BatchReceiver *receiver = (BatchReceiver *) self;
	MemoryContext old = MemoryContextSwitchTo(receiver->ex->memory);

	if (receiver->ex->methods->place)
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

static DestReceiver *
make_receiver(SaggExecution *ex)
{
	BatchReceiver *receiver;

	if (ex->query->kind != SAGG_AGGREGATION)
		return sagg_row_receiver(ex);
	receiver = palloc0(sizeof(BatchReceiver));
	sagg_receiver_init(&receiver->pub, DestNone,
					   ex->methods->place ? receive_row : receive_row_by_kind);
	receiver->pub.rStartup = startup_receiver;
	receiver->pub.rShutdown = shutdown_receiver;
	receiver->ex = ex;
	return &receiver->pub;
}

/*
 * Returns the slot of the scan whose rows become the query's one by one, in
 * their order; NULL if the plan has none because there can be no row.
 */
static TupleTableSlot *
find_scan_slot(PlanState *state)
{
	while (state && !IsA(state, ForeignScanState))
		state = IsA(state, SubqueryScanState) ?
			((SubqueryScanState *) state)->subplan : outerPlanState(state);
	return state ? ((ForeignScanState *) state)->ss.ss_ScanTupleSlot : NULL;
}

static void
run_inner(SaggExecution *ex, int64 records)
{
	DestReceiver *receiver = make_receiver(ex);
	PlannedStmt *plan = sagg_planned(ex, SAGG_PLAN_INNER, ex->query->inner, records);
	QueryDesc  *desc;

	desc = CreateQueryDesc(plan, ex->stream->name, GetActiveSnapshot(),
						   InvalidSnapshot, receiver, NULL, NULL, 0);
	ExecutorStart(desc, 0);
	ex->scanned = ex->query->record == 0 ? find_scan_slot(desc->planstate) : NULL;
	SAGG_EXECUTOR_RUN(desc, ForwardScanDirection, 0);
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
}

/*
 * Start again, as if no row had been received.
 */
static void
forget_rows(SaggExecution *ex)
{
	if (ex->methods->forget)
		ex->methods->forget(ex);
	sagg_groups_forget(ex);
	sagg_rows_forget(ex);
	ex->any_time = false;
	ex->late_windows = 0;
	if (ex->partitions)
		sagg_partitions_forget(ex);
	if (ex->late)
		sagg_late_forget(ex);
	memset(ex->rows, 0, sizeof(ex->rows));
	if (ex->nclasses > 0)
		memset(ex->classes, SAGG_CLASS_FILTERED, ex->nclasses);
}

/*
 * Run the inner query over the batch that is attached to the source, which has so many
 * records.  The active snapshot is the batch's.
 */
void
sagg_execution_run(SaggExecution *ex, int64 records)
{
	MemoryContext old = MemoryContextSwitchTo(ex->memory);

	do
	{
		if (ex->run_again)
			forget_rows(ex);
		ex->run_again = false;
		run_inner(ex, records);
		if (sagg_rejected_has_counted(ex))
			ex->run_again = true;
	} while (ex->run_again);
	if (ex->late)
		sagg_late_end(ex);
	MemoryContextSwitchTo(old);
}

/*
 * Returns the state store of an execution, for checkpoint/.  Lives as long as
 * the execution.
 */
const SaggStateAccess *
sagg_execution_state(SaggExecution *ex)
{
	return &ex->access;
}

/*
 * Free an execution.  After an ERROR its memory is freed with the context it
 * was made in.
 */
void
sagg_execution_end(SaggExecution *ex)
{
	if (ex->fresh)
		tuplestore_end(ex->fresh);
	tuplestore_end(ex->known);
	if (ex->replaced)
		tuplestore_end(ex->replaced);
	if (ex->replaycontext)
	{
		FreeExprContext(ex->replaycontext, true);
		FreeExprContext(ex->inputcontext, true);
	}
	if (ex->groupcontext)
		FreeExprContext(ex->groupcontext, true);
	if (ex->unitcontext)
		FreeExprContext(ex->unitcontext, true);
	sagg_store_fetch_by(ex->store, NULL, NULL);
	FreeExprContext(ex->tmpcontext, true);
	FreeExprContext(ex->aggcontext, true);
	MemoryContextDelete(ex->memory);
}
