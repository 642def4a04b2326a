/*-------------------------------------------------------------------------
 *
 * stream_reset.c
 *	  reset_stream: restarts a stream from other offsets.
 *
 * State, watermark and offsets are discarded in the caller's transaction;
 * query, sink, options and counters stay.  Nothing here writes to the sink: if
 * its rows have to be overwritten, the next micro-batch does so in its own
 * commit, and readers see the old rows until then (checkpoint/reset.c).
 * reset_range.c determines which rows these are, and checks that the reset
 * loses none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "checkpoint/checkpoint.h"
#include "define_internal.h"
#include "read/read.h"
#include "sink_kinds.h"
#include "streams/streams.h"
#include "write/write.h"

PG_FUNCTION_INFO_V1(stream_agg_reset_stream);

/* positions of the arguments */
enum
{
	ARG_STREAM,
	ARG_OFFSETS,
	ARG_RESULTS,
	ARG_RESULTS_FROM,
	ARG_FORCE,
	ARG_DRY_RUN
};

/*
 * Check the privilege of the stream's owner to delete rows of the sink, as the
 * worker will.
 */
static void
check_sink(const SaggStream *stream)
{
	char	   *name = get_rel_name(stream->sink);
	const SaggSinkKind *kind;

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the sink of stream \"%s\" does not exist", sagg_stream_title(stream->name))));
	kind = sagg_sink_kind(stream->sink);
	if ((kind->flags & SAGG_SINK_TRANSACTIONAL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("results of stream \"%s\" cannot be replaced", sagg_stream_title(stream->name)),
				 errdetail("Its sink is %s, from which records cannot be removed.", kind->title),
				 errhint("Reset it without results: the %s gets the new results after the old ones.",
						 kind->noun)));
	if (pg_class_aclcheck(stream->sink, stream->owner, ACL_DELETE) != ACLCHECK_OK ||
		(pg_class_aclcheck(stream->sink, stream->owner, ACL_SELECT) != ACLCHECK_OK &&
		 pg_attribute_aclcheck_all(stream->sink, stream->owner, ACL_SELECT,
								   ACLMASK_ANY) != ACLCHECK_OK))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for sink \"%s\"", name),
				 errdetail("To replace its rows the stream's owner needs SELECT and DELETE on it.")));
}

/*
 * Report what the reset will do, or would do.
 */
static void
tell_about(const SaggStream *stream, const SaggResetRange *range)
{
	if (range->start_text == NULL && !range->before.any && !range->dry_run)
		return;
	ereport(NOTICE,
			(range->start_text ?
			 errmsg("windows of stream \"%s\" are computed again from %s on",
					sagg_stream_title(stream->name), range->start_text) :
			 errmsg("all results of stream \"%s\" are computed again",
					sagg_stream_title(stream->name)),
			 errdetail("They replace up to " INT64_FORMAT " rows of its sink. " INT64_FORMAT " of these may have records before the offsets given, which are not read.%s",
					   range->rows, range->lost,
					   range->start_text ? " Earlier windows stay as they are." : ""),
			 range->dry_run ? errhint("Nothing was reset. To see each row, reset the stream in a transaction, call stream_agg.preview, and roll back.") : 0));
}

static bool
flag_argument(FunctionCallInfo fcinfo, int n)
{
	return !PG_ARGISNULL(n) && PG_GETARG_BOOL(n);
}

/*
 * Determine which results are computed again, of a stream whose lock is held
 * and that has its new offsets, and report them.
 */
static void
settle_results(const SaggStream *stream, FunctionCallInfo fcinfo, SaggResetRange *range)
{
	TimestampTz from = PG_ARGISNULL(ARG_RESULTS_FROM) ? 0 : PG_GETARG_TIMESTAMPTZ(ARG_RESULTS_FROM);
	SaggCheckpoint *checkpoint = sagg_checkpoint_open(stream->name, false);

	check_sink(stream);
	range->force = flag_argument(fcinfo, ARG_FORCE);
	range->dry_run = flag_argument(fcinfo, ARG_DRY_RUN);
	range->windows = ((ReturnSetInfo *) fcinfo->resultinfo)->setResult;
	range->windows_desc = ((ReturnSetInfo *) fcinfo->resultinfo)->setDesc;
	sagg_reset_range(stream, checkpoint, PG_ARGISNULL(ARG_RESULTS_FROM) ? NULL : &from, range);
	sagg_checkpoint_close(checkpoint);
	tell_about(stream, range);
}

/*
 * Returns whether the stream still has to overwrite results since an earlier
 * reset.
 */
static bool
replaces_already(const SaggStream *stream)
{
	SaggCheckpoint *checkpoint = sagg_checkpoint_open(stream->name, sagg_sources_by_topic(stream->sources));
	bool		replaces = sagg_checkpoint_progress(checkpoint)->replace;

	sagg_checkpoint_close(checkpoint);
	return replaces;
}

/*
 * Settle the transactions of a sink with its own commit whose micro-batches
 * did not end, before the reset takes their number.
 */
static void
settle_sink(const SaggStream *stream)
{
	SaggCheckpoint *checkpoint;
	SaggOwnerContext owner;
	int64		last;

	if (sagg_sink_has(stream->sink, SAGG_SINK_TRANSACTIONAL))
		return;
	checkpoint = sagg_checkpoint_open(stream->name, sagg_sources_by_topic(stream->sources));
	last = sagg_checkpoint_progress(checkpoint)->batch;
	sagg_checkpoint_close(checkpoint);
	sagg_become_stream_owner(&owner, stream);
	sagg_sink_settle(stream, last);
	sagg_restore_user(&owner);
}

/*
 * reset_stream(stream text, offsets "any", results boolean, results_from
 * timestamptz, force boolean, dry_run boolean) RETURNS TABLE (win, sink_rows,
 * action), which has rows only with dry_run: waits for the current
 * micro-batch; on commit the stream continues from "offsets".  A stopped or
 * failed stream stays so.
 */
Datum
stream_agg_reset_stream(PG_FUNCTION_ARGS)
{
	char	   *name = sagg_required_argument(fcinfo, ARG_STREAM, "stream");
	char	   *offsets = sagg_offsets_argument(fcinfo, ARG_OFFSETS, "offsets");
	bool		results = flag_argument(fcinfo, ARG_RESULTS);
	bool		dry_run = flag_argument(fcinfo, ARG_DRY_RUN);
	SaggResetRange range = {.passed = DT_NOBEGIN};
	SaggStream *stream;
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2];

	PreventCommandDuringRecovery("stream_agg.reset_stream()");
	PreventCommandIfParallelMode("stream_agg.reset_stream()");
	InitMaterializedSRF(fcinfo, 0);
	if (!results && (dry_run || !PG_ARGISNULL(ARG_RESULTS_FROM)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s needs results => true", dry_run ? "dry_run" : "results_from"),
				 errdetail("Without results no row of the sink is touched.")));
	stream = sagg_stream_by_name(name, false);
	sagg_stream_check_owner(stream);
	sagg_lock_stream(stream->view);
	stream = sagg_own_stream_now(stream->view);
	stream->starting_offsets = offsets;
	results = results || replaces_already(stream);
	if (results)
		settle_results(stream, fcinfo, &range);
	if (dry_run)
		return (Datum) 0;
	settle_sink(stream);
	values[1] = CStringGetTextDatum(offsets);
	sagg_stream_update(stream, "starting_offsets = $2", 2, types, values);
	sagg_checkpoint_reset(stream->name, results, range.passed);
	sagg_forget_positions(stream->view);
	sagg_checkpoint_event(stream->name, "reset",
						  psprintf("offsets: %s, results: %s", offsets,
								   results ? "true" : "false"));
	ereport(LOG,
			(errmsg("stream \"%s\" is reset to offsets %s",
					sagg_stream_title(stream->name), offsets)));
	sagg_tell_if_failed(stream);
	return (Datum) 0;
}
