/*-------------------------------------------------------------------------
 *
 * poison.c
 *	  The record that makes a micro-batch fail: finding it, and going on
 *	  without it.
 *
 * Where on_error is not fail, an error about data - of an expression, of an
 * aggregate, of the sink's constraints - does not fail the stream.  The plan of the
 * batch is replaced by a smaller one, a half, until a batch of a single offset fails:
 * that record is rejected, in a commit that aggregates nothing.  The offsets where the
 * record must be (the suspects) are part of the plans, so a restart goes on with the
 * search, and after it plans have their usual size again.  The record that an
 * expression was given last is tried first: what is before it, then that record alone.
 *
 * A record that crashes the worker leaves no error.  A worker that begins an
 * unfinished plan again counts that in the log ("attempts"), durably and before
 * EXECUTE.  After SAGG_CRASHES attempts the plan is treated as one that fails; after
 * the first one if the crash log knows the record that the worker was at, and then
 * that record is tried first.  Only the record of a batch of one offset is rejected,
 * after SAGG_CRASHES crashes in that batch or, in a row, at that record.
 *
 * The rejected record is to blame only if the batch succeeds without it; if not, the
 * error is treated as any other.  Rows of closed windows in output mode append belong
 * to no record of the batch: failed_windows.c finds those.
 *
 * The batch that replaces rows of the sink is one commit or none: it is never made
 * smaller.
 *
 * A batch that does not fail pays nothing for this, except that the first plan of a
 * process is flushed: otherwise a crash could take it along, uncounted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "streams/streams.h"
#include "worker_internal.h"

/* rows without a partition are not waited for again so soon after one in vain */
#define PARTITION_PATIENCE_MS	(60 * 60 * 1000)

/*
 * Forget which batch has failed, and why.
 */
void
sagg_poison_forget(SaggPoison *poison)
{
	if (poison->message)
		pfree(poison->message);
	if (poison->detail)
		pfree(poison->detail);
	poison->message = NULL;
	poison->detail = NULL;
	poison->failed = -1;
	poison->last.partition = -1;
	poison->set_aside = false;
}

/*
 * A copy in TopMemoryContext of a message, which may quote a long value.
 */
static char *
copy_message(const char *message)
{
	int			len = pg_mbcliplen(message, strlen(message), SAGG_MAX_REPORT_BYTES);
	char	   *copy = MemoryContextAlloc(TopMemoryContext, len + 1);

	memcpy(copy, message, len);
	copy[len] = '\0';
	return copy;
}

static void
note_failure(SaggPoison *poison, int64 batch, int sqlstate, const char *message,
			 const char *detail)
{
	sagg_poison_forget(poison);
	poison->failed = batch;
	poison->sqlstate = sqlstate;
	poison->message = copy_message(message);
	if (detail)
		poison->detail = copy_message(detail);
}

/*
 * A run has been opened.  A pending plan that is found when the process opens it for
 * the first time is one in which another process has ended.
 */
void
sagg_poison_opened(SaggStreamRun *run)
{
	SaggPoison *poison = &run->poison;

	/* the error came after the commit: the batch is done */
	if (poison->opened && poison->failed >= 0 &&
		poison->failed <= run->progress->batch)
		sagg_poison_forget(poison);
	if (poison->opened)
		return;
	poison->opened = true;
	poison->failed = -1;
	poison->careful = -1;
	poison->last.partition = -1;
	poison->found = run->progress->pending ? run->progress->pending->batch : -1;
}

/*
 * Returns whether the plan that is about to be written must survive a crash.
 */
bool
sagg_poison_durable_plan(SaggStreamRun *run)
{
	bool		first = !run->poison.planned;

	run->poison.planned = true;
	return run->stream->options.on_error != SAGG_FAIL &&
		(first || run->progress->nsuspects > 0);
}

/*
 * The sink has no partition for a row.  Somebody may create it, so the batch is
 * retried as after other errors.  Returns whether that is over, so that it is the
 * fault of what the row comes from: all attempts have been in vain, now or for
 * another row not long ago, or the record is searched already.
 */
static bool
partition_stays_away(SaggStreamRun *run)
{
	SaggPoison *poison = &run->poison;
	TimestampTz now = GetCurrentTimestamp();
	bool		first = run->slot->tally.batches != run->last_batches;
	int			attempts = first ? 1 : run->attempts + 1;

	if (attempts < sagg_max_attempts && run->slot->failures == 0 &&
		run->plan->nsuspects == 0 &&
		(poison->gave_up == 0 ||
		 TimestampDifferenceExceeds(poison->gave_up, now, PARTITION_PATIENCE_MS)))
		return false;
	poison->gave_up = now;
	return true;
}

/*
 * Returns whether a group may be to blame for an error in a batch of the run.
 */
bool
sagg_poison_blames_group(SaggStreamRun *run, const ErrorData *error)
{
	return sagg_error_of_partition(error) ? partition_stays_away(run) :
		sagg_error_of_group(error);
}

/*
 * Windows that close have failed.  Returns whether the batch is to be retried
 * carefully, which is done once.
 */
static bool
windows_failed(SaggStreamRun *run, const ErrorData *error)
{
	SaggPoison *poison = &run->poison;

	poison->windows = poison->careful == run->plan->batch ||
		!sagg_poison_blames_group(run, error);
	if (poison->windows)
		return false;
	poison->careful = run->plan->batch;
	return true;
}

/*
 * The batch has failed with "error", and its run is about to be closed.  Returns true
 * if a record or a closing window is to blame, so that the batch is to be retried at
 * once; what is kept of the error is copied.
 */
bool
sagg_poison_failed(SaggStreamRun *run, const ErrorData *error)
{
	SaggPoison *poison = &run->poison;
	SaggFault	fault = run->fault;

	poison->windows = false;
	poison->avoidable = false;
	run->fault = SAGG_FAULT_NONE;
	if (fault == SAGG_FAULT_NONE || fault == SAGG_FAULT_READ ||
		sagg_reading_replaces(run->reading))
		return false;
	if (run->stream->options.on_error == SAGG_FAIL)
	{
		poison->avoidable = fault == SAGG_FAULT_WINDOWS ? sagg_error_of_group(error) :
			error->sqlerrcode == ERRCODE_SAGG_INVALID_RECORD || sagg_error_of_data(error) ||
			run->over_limit;
		return false;
	}
	if (!sagg_error_of_data(error) && !run->over_limit &&
		!(sagg_error_of_partition(error) && partition_stays_away(run)))
		return false;
	if (fault == SAGG_FAULT_WINDOWS)
		return windows_failed(run, error);
	if (poison->set_aside)
		return false;

	note_failure(poison, run->plan->batch, error->sqlerrcode, error->message, error->detail);
	if (!sagg_scan_last_record(&poison->last))
		poison->last.partition = -1;
	return true;
}

/*
 * Returns the range of a plan that has this record, or NULL.
 */
static const SaggRange *
range_of(const SaggPlan *plan, const SaggPlace *place)
{
	for (int i = 0; i < plan->nranges; i++)
	{
		const SaggRange *range = &plan->ranges[i];

		if (range->partition == place->partition && range->topic == place->topic &&
			place->offset >= range->start && place->offset < range->end)
			return range;
	}
	return NULL;
}

/*
 * Make a plan for what is before the record that was read last, or for that record
 * if nothing is before it.  Returns false if the record is not in the failed plan.
 */
static bool
plan_before_last_record(const SaggPoison *poison, const SaggPlan *failed,
						SaggPlan *plan)
{
	const SaggRange *range = range_of(failed, &poison->last);

	if (range == NULL)
		return false;
	plan->nranges = plan->nsuspects = 1;
	plan->ranges[0] = plan->suspects[0] = *range;
	plan->ranges[0].end = Max(poison->last.offset, range->start + 1);
	plan->suspects[0].start = poison->last.offset;
	plan->suspects[0].end = poison->last.offset + 1;
	return true;
}

/*
 * Replace a plan that fails by a smaller one, durably.  The result is in the run's
 * memory.
 */
static SaggPlan *
replace_plan(SaggStreamRun *run, const SaggPlan *failed)
{
	SaggPlan   *plan = sagg_plan_copy(run, failed);

	if (failed->nsuspects > 0 ||
		!plan_before_last_record(&run->poison, failed, plan))
		plan = sagg_plan_half(run, failed);
	ereport(LOG,
			(errmsg("stream \"%s\": micro-batch " INT64_FORMAT " is retried with " INT64_FORMAT " of its " INT64_FORMAT " offsets, to find the record that cannot be processed",
					sagg_stream_title(run->stream->name), plan->batch,
					sagg_plan_offsets(plan),
					sagg_plan_offsets(failed)),
			 errdetail_internal("%s", run->poison.message)));
	sagg_plan_replace(run, failed, plan);
	sagg_poison_forget(&run->poison);
	run->poison.found = -1;
	return plan;
}

static void
write_attempts(SaggStreamRun *run, SaggPlan *plan, int attempts)
{
	plan->attempts = attempts;
	sagg_plan_transaction(run, true);
	sagg_checkpoint_replan(run->checkpoint, plan);
	sagg_plan_commit();
}

/*
 * A worker may have ended in the batch.  When that cannot be by chance any more, it
 * is a failure of the batch.
 */
static void
consider_crashes(SaggStreamRun *run, SaggPlan *plan)
{
	bool		single = sagg_plan_offsets(plan) == 1;
	SaggPlace	at;
	int			at_record = sagg_crashes_at_record(run->slot->view, plan->batch, &at);
	int			ended = plan->attempts + 1;

	if (at_record > 0 && range_of(plan, &at) == NULL)
		at_record = 0;
	if (single)
		ended = Max(ended, at_record);

	/* workers end in it even without its record: somebody has to look at it */
	if (single && plan->attempts >= 2 * SAGG_CRASHES)
	{
		int			attempts = plan->attempts;

		write_attempts(run, plan, 0);
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_POISON),
				 errmsg("%d workers of the stream have ended in the same micro-batch, which has a single record",
						attempts),
				 errdetail("The last ones had left out the record.")));
	}
	if (ended >= SAGG_CRASHES || (!single && (plan->nsuspects > 0 || at_record > 0)))
		note_failure(&run->poison, plan->batch, ERRCODE_SAGG_POISON,
					 single ? psprintf("%d workers have ended while they processed the record",
									   ended) :
					 "workers have ended while they processed the micro-batch", NULL);
	if (run->poison.failed >= 0 && at_record > 0)
		run->poison.last = at;
}

/*
 * Leave out the single record of the batch.  If one is left out after the other, the
 * records are not what is wrong: raises an error.
 */
static void
set_aside(SaggStreamRun *run)
{
	SaggPoison *poison = &run->poison;

	if (poison->in_row >= sagg_max_poison_in_row)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_POISON),
				 errmsg("the processing of more than %d records in a row has failed",
						sagg_max_poison_in_row),
				 errdetail("The last one: %s", poison->message),
				 errhint("Perhaps the query or the sink is wrong, and not the records. Fix it, or raise stream_agg.max_poison_in_row, and start the stream again.")));
	poison->set_aside = true;
}

/*
 * Returns the plan to run in place of one that has been begun before: the same one,
 * or a smaller one.  Outside of transactions, with the stream's lock held.
 */
SaggPlan *
sagg_poison_retry(SaggStreamRun *run, SaggPlan *plan)
{
	SaggPoison *poison = &run->poison;

	if (run->stream->options.on_error == SAGG_FAIL || sagg_reading_replaces(run->reading))
		return plan;
	if (poison->failed != plan->batch && poison->found == plan->batch &&
		!poison->counted)
		consider_crashes(run, plan);
	if (poison->failed != plan->batch)
		return plan;
	if (sagg_plan_offsets(plan) > 1)
		return replace_plan(run, plan);
	if (!poison->set_aside)
		set_aside(run);
	return plan;
}

/*
 * EXECUTE is about to begin: count the attempt if another worker has begun the batch
 * before.
 */
void
sagg_poison_begin(SaggStreamRun *run)
{
	SaggPoison *poison = &run->poison;
	SaggPlan   *plan = run->plan;

	if (likely(poison->found != plan->batch) || poison->counted ||
		run->stream->options.on_error == SAGG_FAIL)
		return;
	write_attempts(run, plan, plan->attempts + 1);
	poison->counted = true;
}

/*
 * Reject the record of the batch if it is the one to be left out.
 */
void
sagg_poison_reject(SaggStreamRun *run, SaggRejections *rejections)
{
	SaggPoison *poison = &run->poison;

	if (poison->set_aside && rejections != NULL &&
		sagg_batch_records(sagg_reader_batch(run->reading->reader)) > 0)
		sagg_reject_record(rejections, 0, poison->sqlstate, poison->message, poison->detail);
}

/*
 * Tell another process whether the record of the batch is the one to be left out,
 * and why: "sqlstate" is 0 if it is not.
 */
void
sagg_poison_left_out(const SaggStreamRun *run, int *sqlstate, char **message, char **detail)
{
	const SaggPoison *poison = &run->poison;

	*sqlstate = poison->set_aside ? poison->sqlstate : 0;
	*message = poison->message;
	*detail = poison->detail;
}

/*
 * The batch is committed: the search is over, or has got further.
 */
void
sagg_poison_committed(SaggStreamRun *run, const SaggCounts *counts)
{
	SaggPoison *poison = &run->poison;

	if (counts->aggregated > 0)
		poison->in_row = 0;
	if (poison->set_aside)
		poison->in_row++;
	if (poison->failed >= 0)
		sagg_poison_forget(poison);
	poison->found = -1;
	poison->careful = -1;
}
