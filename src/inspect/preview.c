/*-------------------------------------------------------------------------
 *
 * preview.c
 *	  preview: shows what the next micro-batch of a stream, or the first one of
 *	  a query, would write.
 *
 * The batch is a real one, up to CHECKPOINT: its records come from Kafka, go
 * through the query into a state that is a copy, and the rows that go to the
 * sink go to the caller as well.  The copy is in memory of this process.  A
 * subtransaction rolls back all changes in the database, by functions of the
 * query, the sink's triggers or preview itself, whether there is an error or
 * not; advisory locks of the session are released (user_locks.c).
 *
 * Preview and the stream's worker exclude each other only while rows are
 * written (trial_write.c).  READ and EXECUTE run concurrently with the worker;
 * if it has committed meanwhile, everything is done again while the worker
 * waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "inspect_internal.h"
#include "batch_context.h"
#include "control/control.h"
#include "event_time/event_time.h"
#include "streams/streams.h"
#include "worker/worker.h"
#include "write/write.h"

PG_FUNCTION_INFO_V1(stream_agg_preview);

/* positions of the arguments */
enum
{
	ARG_STREAM,
	ARG_LIMIT,
	ARG_WATERMARK,
	ARG_EVENT_TIME,
	ARG_OUTPUT_MODE,
	ARG_STARTING_OFFSETS,
	ARG_OPTIONS
};

typedef struct Preview
{
	FunctionCallInfo fcinfo;
	ReturnSetInfo *rsinfo;
	char	   *text;			/* name of a stream, or a query */
	Oid			view;			/* view of the stream, for the next attempt */

	/* memory of one attempt */
	int64		limit;
	SaggInspection inspection;
	SaggCommit	commit;			/* what its row would say */
	const char *no_write;		/* why the sink is not tried; NULL: it is, or
								 * there is none */
} Preview;

/* this process is in a preview */
static bool busy = false;

/*
 * Set up a query without a stream, with the arguments in place of those of
 * create_stream.
 */
static void
settle_query(Preview *preview)
{
	FunctionCallInfo fcinfo = preview->fcinfo;
	SaggStream *stream = palloc0(sizeof(SaggStream));
	char	   *mode = sagg_text_argument(fcinfo, ARG_OUTPUT_MODE);

	stream->name = "preview";
	stream->has_watermark = !PG_ARGISNULL(ARG_WATERMARK);
	if (stream->has_watermark)
		stream->watermark_delay = sagg_interval_length(PG_GETARG_INTERVAL_P(ARG_WATERMARK),
													   "watermark");
	stream->event_time = sagg_text_argument(fcinfo, ARG_EVENT_TIME);
	if (mode && !sagg_mode_by_name(mode, &stream->mode))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown output mode \"%s\"", mode)));
	stream->starting_offsets = PG_ARGISNULL(ARG_STARTING_OFFSETS) ? "earliest" :
		sagg_offsets_argument(fcinfo, ARG_STARTING_OFFSETS, "starting_offsets");
	sagg_stream_options_of_json(PG_ARGISNULL(ARG_OPTIONS) ? NULL : PG_GETARG_JSONB_P(ARG_OPTIONS),
								&stream->options);
	preview->inspection.stream = stream;
	preview->inspection.query = sagg_query_of_text(preview->text, mode == NULL, stream);
	sagg_stream_options_check(stream, preview->inspection.query);
}

static void
settle_stream(Preview *preview)
{
	FunctionCallInfo fcinfo = preview->fcinfo;
	SaggStream *stream = sagg_stream_by_name(preview->text, false);

	sagg_stream_check_owner(stream);
	for (int i = ARG_WATERMARK; i <= ARG_OPTIONS; i++)
	{
		if (!PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("watermark, event_time, output_mode, starting_offsets and options cannot be given for existing stream \"%s\"",
							sagg_stream_title(stream->name)),
					 errhint("Give them only with the text of a query.")));
	}
	sagg_stream_lock_sink(stream);
	preview->inspection.stream = stream;
	preview->inspection.query = sagg_query_of_view(stream);
	preview->view = stream->view;
	preview->no_write = sagg_trial_no_write(stream);
}

/*
 * Determine what is tried, and with how many records.
 */
static void
settle(Preview *preview)
{
	FunctionCallInfo fcinfo = preview->fcinfo;

	if (sagg_is_name(preview->text))
		settle_stream(preview);
	else
		settle_query(preview);
	preview->limit = !PG_ARGISNULL(ARG_LIMIT) ? PG_GETARG_INT64(ARG_LIMIT) :
		preview->inspection.stream->max_offsets > 0 ?
		preview->inspection.stream->max_offsets : sagg_max_records_per_batch;
	if (preview->limit <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limit must be greater than zero")));
}

/*
 * Returns a row as JSON.  Runs as the owner, because types may have casts of
 * the owner's.
 */
static Datum
row_as_jsonb(TupleTableSlot *slot)
{
	Datum		row = ExecFetchSlotHeapTupleDatum(slot);
	Datum		json = DirectFunctionCall1(row_to_json, row);

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(TextDatumGetCString(json)));
}

/*
 * Return the rows of a relation, at most "limit" of them; NULL = there are
 * none.
 */
static void
return_rows(Preview *preview, Tuplestorestate *rows, TupleDesc desc,
			const char *action, int64 limit)
{
	TupleTableSlot *slot;
	MemoryContext memory;
	MemoryContext old;

	if (rows == NULL)
		return;
	slot = MakeSingleTupleTableSlot(BlessTupleDesc(desc), &TTSOpsMinimalTuple);
	memory = AllocSetContextCreate(CurrentMemoryContext, "stream_agg preview row",
								   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(memory);
	for (int64 n = 0; n < limit && tuplestore_gettupleslot(rows, true, false, slot); n++)
	{
		Datum		values[2] = {CStringGetTextDatum(action), row_as_jsonb(slot)};
		bool		nulls[2] = {false, false};

		CHECK_FOR_INTERRUPTS();
		tuplestore_putvalues(preview->rsinfo->setResult, preview->rsinfo->setDesc,
							 values, nulls);
		MemoryContextReset(memory);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(memory);
	ExecDropSingleTupleTableSlot(slot);
}

static TupleDesc
identity_desc(const SaggQuery *query)
{
	TupleDesc	desc = CreateTemplateTupleDesc(query->nidentity);

	for (int i = 0; i < query->nidentity; i++)
		TupleDescCopyEntry(desc, i + 1, query->output_desc, query->identity[i]);
	return desc;
}

static void
return_output(Preview *preview, const SaggOutput *output)
{
	const SaggQuery *query = preview->inspection.query;

	return_rows(preview, output->fresh, query->output_desc, "insert", PG_INT64_MAX);
	return_rows(preview, output->known, query->output_desc,
				preview->inspection.stream->mode == SAGG_COMPLETE ? "result" : "update",
				PG_INT64_MAX);
	if (output->removed)
		return_rows(preview, output->removed, identity_desc(query), "delete", PG_INT64_MAX);
}

/*
 * Return the rows of the sink that the batch overwrites.
 */
static void
return_replaced(Preview *preview, const SaggOutput *output)
{
	const SaggInspection *inspection = &preview->inspection;

	if (output->replaces != DT_NOEND && preview->no_write == NULL &&
		inspection->stream->mode != SAGG_COMPLETE)
		sagg_sink_replaced(inspection->stream, inspection->query, output->replaces,
						   preview->rsinfo->setResult, preview->rsinfo->setDesc);
}

/*
 * In mode append: return windows that the batch would leave open.
 */
static void
return_open_windows(Preview *preview)
{
	SaggOutput	output;

	sagg_inspection_next(&preview->inspection, preview->commit.watermark);
	sagg_execution_open_windows(preview->inspection.execution);
	sagg_execution_output(preview->inspection.execution, &output);
	return_rows(preview, output.fresh, preview->inspection.query->output_desc,
				"open", preview->limit);
	sagg_execution_output_end(&output);
}

/*
 * Run READ and EXECUTE.
 */
static void
run_batch(Preview *preview)
{
	SaggInspection *inspection = &preview->inspection;
	const SaggStream *stream = inspection->stream;
	SaggCommit *commit = &preview->commit;
	SaggRejections *rejections = NULL;
	SaggFault	unused;
	SaggTrialRead *trial;

	if (stream->options.on_error != SAGG_FAIL)
		rejections = sagg_rejections_make(stream->options.on_error);
	sagg_execution_reject(inspection->execution, rejections,
						  OidIsValid(stream->sink) ?
						  sagg_sink_max_key_bytes(stream->sink, inspection->query) : 0);
	trial = sagg_trial_read(inspection, preview->limit);
	commit->times = sagg_trial_times(trial, inspection, &commit->ntimes);
	sagg_execute_batch(inspection->execution, stream, inspection->query,
					   sagg_trial_batch(trial), rejections, commit, &unused);
	sagg_trial_end(trial);
}

/*
 * Return what the row of the batch in stream_agg.commits would say.
 */
static void
tell_counts(const Preview *preview)
{
	const SaggInspection *inspection = &preview->inspection;
	const SaggCounts *counts = &preview->commit.counts;
	char	   *watermark = !sagg_watermark_known(preview->commit.watermark) ? "none" :
	DatumGetCString(DirectFunctionCall1(timestamptz_out,
										TimestampTzGetDatum(preview->commit.watermark)));

	ereport(NOTICE,
			(inspection->checkpoint ?
			 errmsg("preview of micro-batch " INT64_FORMAT " of stream \"%s\": " INT64_FORMAT " records",
					inspection->progress->batch + 1,
					sagg_stream_title(inspection->stream->name), counts->delivered) :
			 errmsg("preview of a first micro-batch in output mode %s: " INT64_FORMAT " records",
					sagg_mode_name(inspection->stream->mode), counts->delivered),
			 errdetail("Aggregated " INT64_FORMAT ", late " INT64_FORMAT ", filtered " INT64_FORMAT ", without event time " INT64_FORMAT ", cannot be processed " INT64_FORMAT "; watermark then: %s.%s%s%s",
					   counts->aggregated, counts->late, counts->filtered,
					   counts->null_time, counts->dead_lettered, watermark,
					   preview->no_write ? " The sink was not tried, for " : "",
					   preview->no_write ? preview->no_write : "",
					   preview->no_write ? "." : "")));
}

/*
 * Run WRITE.  Returns false if the batch is not the next one any more.
 */
static bool
try_sink(Preview *preview, const SaggOutput *output)
{
	const SaggStream *stream = preview->inspection.stream;

	if (!OidIsValid(stream->sink))
		return true;
	if (preview->no_write == NULL &&
		!sagg_trial_write(&preview->inspection, output))
		return false;

	/*
	 * there may have been no rows; a standby does not grant the lock of an
	 * INSERT
	 */
	if (!RecoveryInProgress())
		sagg_sink_check(stream->sink, preview->inspection.query, stream->mode);
	return true;
}

/*
 * Try the batch as the stream's owner.
 */
static void
become_owner(const Preview *preview, SaggOwnerContext *owner)
{
	const SaggStream *stream = preview->inspection.stream;

	if (OidIsValid(stream->sink) && preview->no_write == NULL)
		sagg_become_stream_owner_to_write(owner, stream);
	else
		sagg_become_stream_owner(owner, stream);
}

/*
 * Try the batch and return its rows, in a subtransaction that will be rolled
 * back, which also restores user and settings.  "alone": the worker has to
 * wait.  Returns false, without rows, if the worker has committed meanwhile.
 */
static bool
try_batch(Preview *preview, bool alone)
{
	SaggInspection *inspection = &preview->inspection;
	SaggBatchContext outer;
	SaggOwnerContext owner;
	SaggOutput	output;

	sagg_batch_enter(&outer);	/* the rollback leaves it */
	if (alone)
		sagg_lock_micro_batch(preview->view);
	if (!IsolationUsesXactSnapshot())
		PushActiveSnapshot(GetTransactionSnapshot());
	settle(preview);
	become_owner(preview, &owner);
	if (OidIsValid(preview->view))
		sagg_inspection_begin(inspection);
	else
		sagg_inspection_begin_empty(inspection);
	run_batch(preview);
	sagg_execution_output(inspection->execution, &output);
	if (inspection->progress->replace)
		output.replaces = sagg_execution_overwrites_from(inspection->execution);
	return_replaced(preview, &output);
	return_output(preview, &output);
	if (inspection->stream->mode == SAGG_APPEND &&
		inspection->query->kind == SAGG_AGGREGATION)
		return_open_windows(preview);
	if (!try_sink(preview, &output))
	{
		tuplestore_clear(preview->rsinfo->setResult);
		return false;
	}
	sagg_execution_output_end(&output);
	tell_counts(preview);
	(void) sagg_warn_of_null_times(inspection->stream, &preview->commit.counts);
	sagg_inspection_end(inspection);
	return true;
}

/*
 * Roll back what an attempt has done, except advisory locks in "before".
 */
static void
leave_attempt(ResourceOwner resources, MemoryContext memory, MemoryContext caller,
			  const List *before)
{
	RollbackAndReleaseCurrentSubTransaction();
	CurrentResourceOwner = resources;
	MemoryContextSwitchTo(memory);
	sagg_user_locks_release(before);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(memory);
	busy = false;
}

/*
 * Run try_batch, of which only the rows for the caller remain.  An ERROR must
 * not leave the subtransaction open, otherwise the session would be in a
 * transaction that can only be rolled back.
 */
static bool
attempt(Preview *preview, bool alone)
{
	ResourceOwner resources = CurrentResourceOwner;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext memory = AllocSetContextCreate(caller, "stream_agg preview",
												 ALLOCSET_DEFAULT_SIZES);
	volatile bool done = false;
	List	   *before;

	memset(&preview->inspection, 0, sizeof(SaggInspection));
	memset(&preview->commit, 0, sizeof(SaggCommit));
	MemoryContextSwitchTo(memory);
	before = sagg_user_locks();
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(memory);
	busy = true;
	PG_TRY();
	{
		done = try_batch(preview, alone);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		leave_attempt(resources, memory, caller, before);
		ReThrowError(error);
	}
	PG_END_TRY();
	leave_attempt(resources, memory, caller, before);
	return done;
}

/*
 * preview(stream text, limit bigint, watermark interval, event_time text,
 * output_mode text, starting_offsets text, options jsonb, OUT action text, OUT
 * data jsonb): "stream" is the name of a stream or the text of a query.
 */
Datum
stream_agg_preview(PG_FUNCTION_ARGS)
{
	Preview		preview = {.fcinfo = fcinfo};

	PreventCommandIfParallelMode("stream_agg.preview()");
	preview.text = sagg_required_argument(fcinfo, ARG_STREAM, "stream");
	if (busy)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("preview cannot be called by code that a preview runs")));
	InitMaterializedSRF(fcinfo, 0);
	preview.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	if (!attempt(&preview, false) && !attempt(&preview, true))
		elog(ERROR, "a micro-batch was committed that should have waited");
	return (Datum) 0;
}
