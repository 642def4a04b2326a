/*-------------------------------------------------------------------------
 *
 * poison.c
 *	  The record that makes a micro-batch fail: finding it, and going on
 *	  without it.
 *
 * Where on_error is not fail, an error that is the data's fault - of an
 * expression, of an aggregate, of the sink's constraints - does not fail the
 * stream.  The plan of the batch is replaced by a smaller one, a half, until a
 * batch of a single offset fails: that record is rejected, in a commit that
 * aggregates nothing.  The offsets where the record must be (the suspects) are
 * part of the plans, so a restart goes on with the search, and after it plans
 * have their usual size again.  The record that an expression was given last is
 * tried first: what is before it, then that record alone.
 *
 * A record that crashes the worker leaves no error.  A plan that a worker finds
 * unfinished, and begins again, says so in the log ("attempts"), durably and
 * before EXECUTE.  After SAGG_CRASHES of them it is taken for one that fails; after
 * the first one, if the crash log knows the record that the worker was at: then
 * that one is tried first.  Only the record of a batch of one offset is rejected,
 * after SAGG_CRASHES of that batch or, one after the other, at that record.
 *
 * The rejected record is to blame only if the batch does without it; if not,
 * the error is one of the batch, as any other.  Rows of closed windows in
 * output mode append belong to no record at hand: failed_windows.c finds those.
 *
 * The batch that replaces rows of the sink is one commit or none: it is never
 * made smaller.
 *
 * A batch that does not fail pays nothing for this, but that the first plan of
 * a process is flushed: else a crash could take it along, uncounted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "streams/streams.h"
#include "worker_internal.h"

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
 * The session has read its progress.  A plan that the first one of a process
 * finds is one in which another process has ended.
 */
void
sagg_poison_opened(SaggSession *session)
{
	SaggPoison *poison = &session->poison;

	/* an error behind the commit: the batch is done */
	if (poison->opened && poison->failed >= 0 &&
		poison->failed <= session->progress->batch)
		sagg_poison_forget(poison);
	if (poison->opened)
		return;
	poison->opened = true;
	poison->failed = -1;
	poison->careful = -1;
	poison->last.partition = -1;
	poison->found = session->progress->pending ? session->progress->pending->batch : -1;
}

/*
 * Must the plan that is about to be written survive a crash?
 */
bool
sagg_poison_durable_plan(SaggSession *session)
{
	bool		first = !session->poison.planned;

	session->poison.planned = true;
	return session->stream->options.on_error != SAGG_FAIL &&
		(first || session->progress->nsuspects > 0);
}

/*
 * Windows that close have failed.  Returns whether the batch is to be retried
 * carefully, which is done once.
 */
static bool
windows_failed(SaggSession *session, const ErrorData *error)
{
	SaggPoison *poison = &session->poison;

	poison->windows = poison->careful == session->plan->batch || !sagg_error_of_group(error);
	if (poison->windows)
		return false;
	poison->careful = session->plan->batch;
	return true;
}

/*
 * The batch has failed with "error", and its session is about to be closed.
 * Returns true if a record or a closing window is to blame, so that the batch is to
 * be retried at once; what is kept of the error is copied.
 */
bool
sagg_poison_failed(SaggSession *session, const ErrorData *error)
{
	SaggPoison *poison = &session->poison;
	SaggFault	fault = session->fault;

	poison->windows = false;
	poison->avoidable = false;
	session->fault = SAGG_FAULT_NONE;
	if (fault == SAGG_FAULT_NONE || fault == SAGG_FAULT_READ ||
		sagg_session_replaces(session->lead))
		return false;
	if (session->stream->options.on_error == SAGG_FAIL)
	{
		poison->avoidable = fault == SAGG_FAULT_WINDOWS ? sagg_error_of_group(error) :
			error->sqlerrcode == ERRCODE_SAGG_INVALID_RECORD || sagg_error_of_data(error) ||
			session->over_limit;
		return false;
	}
	if (!sagg_error_of_data(error) && !session->over_limit)
		return false;
	if (fault == SAGG_FAULT_WINDOWS)
		return windows_failed(session, error);
	if (poison->set_aside)
		return false;

	note_failure(poison, session->plan->batch, error->sqlerrcode, error->message, error->detail);
	if (!sagg_scan_last_record(&poison->last))
		poison->last.partition = -1;
	return true;
}

/*
 * The range of a plan with this record in it, or NULL.
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
 * A plan for what is before the record that was read last, or for that record
 * if there is nothing before it.  False if it is none of the plan's.
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
 * Put a smaller plan into the place of one that fails, durably.  It lives as
 * long as the session.
 */
static SaggPlan *
replace_plan(SaggSession *session, const SaggPlan *failed)
{
	SaggPlan   *plan = sagg_plan_copy(session, failed);

	if (failed->nsuspects > 0 ||
		!plan_before_last_record(&session->poison, failed, plan))
		plan = sagg_plan_half(session, failed);
	ereport(LOG,
			(errmsg("stream \"%s\": micro-batch " INT64_FORMAT " is retried with " INT64_FORMAT " of its " INT64_FORMAT " offsets, to find the record that cannot be processed",
					sagg_stream_title(session->stream->name), plan->batch,
					sagg_plan_offsets(plan),
					sagg_plan_offsets(failed)),
			 errdetail_internal("%s", session->poison.message)));
	sagg_plan_replace(session, failed, plan);
	sagg_poison_forget(&session->poison);
	session->poison.found = -1;
	return plan;
}

static void
write_attempts(SaggSession *session, SaggPlan *plan, int attempts)
{
	plan->attempts = attempts;
	sagg_plan_transaction(session, true);
	sagg_checkpoint_replan(session->checkpoint, plan);
	sagg_plan_commit(session);
}

/*
 * A worker has ended in the batch, perhaps.  Once that cannot be by chance it
 * is a failure of the batch.
 */
static void
consider_crashes(SaggSession *session, SaggPlan *plan)
{
	bool		single = sagg_plan_offsets(plan) == 1;
	SaggPlace	at;
	int			at_record = sagg_crashes_at_record(session->slot->view, plan->batch, &at);
	int			ended = plan->attempts + 1;

	if (at_record > 0 && range_of(plan, &at) == NULL)
		at_record = 0;
	if (single)
		ended = Max(ended, at_record);

	/* not even without its record: somebody else has to look at it */
	if (single && plan->attempts >= 2 * SAGG_CRASHES)
	{
		int			attempts = plan->attempts;

		write_attempts(session, plan, 0);
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_POISON),
				 errmsg("%d workers of the stream have ended in the same micro-batch, which has a single record",
						attempts),
				 errdetail("The last ones had left out the record.")));
	}
	if (ended >= SAGG_CRASHES || (!single && (plan->nsuspects > 0 || at_record > 0)))
		note_failure(&session->poison, plan->batch, ERRCODE_SAGG_POISON,
					 single ? psprintf("%d workers have ended while they processed the record",
									   ended) :
					 "workers have ended while they processed the micro-batch", NULL);
	if (session->poison.failed >= 0 && at_record > 0)
		session->poison.last = at;
}

/*
 * Leave out the single record of the batch.  But when one is left out after
 * the other it is not they that are wrong.
 */
static void
set_aside(SaggSession *session)
{
	SaggPoison *poison = &session->poison;

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
 * The plan to run in place of one that has been begun before: the same one, or
 * a smaller one.  Outside of transactions, with the stream's lock held.
 */
SaggPlan *
sagg_poison_retry(SaggSession *session, SaggPlan *plan)
{
	SaggPoison *poison = &session->poison;

	if (session->stream->options.on_error == SAGG_FAIL || sagg_session_replaces(session->lead))
		return plan;
	if (poison->failed != plan->batch && poison->found == plan->batch &&
		!poison->counted)
		consider_crashes(session, plan);
	if (poison->failed != plan->batch)
		return plan;
	if (sagg_plan_offsets(plan) > 1)
		return replace_plan(session, plan);
	if (!poison->set_aside)
		set_aside(session);
	return plan;
}

/*
 * EXECUTE is about to begin.  Count it if another worker has done so before.
 */
void
sagg_poison_begin(SaggSession *session, SaggPlan *plan)
{
	SaggPoison *poison = &session->poison;

	if (likely(poison->found != plan->batch) || poison->counted ||
		session->stream->options.on_error == SAGG_FAIL)
		return;
	write_attempts(session, plan, plan->attempts + 1);
	poison->counted = true;
}

/*
 * Reject the record of the batch if it is the one to be left out.
 */
void
sagg_poison_reject(SaggSession *session, SaggRejections *rejections)
{
	SaggPoison *poison = &session->poison;

	if (poison->set_aside && rejections != NULL &&
		sagg_batch_records(sagg_reader_batch(session->reader)) > 0)
		sagg_reject_record(rejections, 0, poison->sqlstate, poison->message, poison->detail);
}

/*
 * The batch is committed.
 */
void
sagg_poison_committed(SaggSession *session, const SaggCounts *counts)
{
	SaggPoison *poison = &session->poison;

	if (counts->aggregated > 0)
		poison->in_row = 0;
	if (poison->set_aside)
		poison->in_row++;
	if (poison->failed >= 0)
		sagg_poison_forget(poison);
	poison->found = -1;
	poison->careful = -1;
}
