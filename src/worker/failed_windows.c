/*-------------------------------------------------------------------------
 *
 * failed_windows.c
 *	  A batch whose closing windows fail: WRITE group by group.
 *
 * In output mode append an error may come from a window that closes, and then no
 * record of the batch is to blame.  Where on_error is not fail, such a batch is
 * retried carefully: groups are written by halves, each half in a subtransaction,
 * until the ones that fail are alone.  They are left out, and CHECKPOINT puts them
 * into stream_agg.failed_windows, in the batch's own transaction (I1, I5).
 *
 * Rows for a sink outside of the server cannot be taken back: those of a half that has
 * failed are there once more when a smaller one is written, as those of a batch that is
 * retried.  Deferred triggers and constraints run at the end of
 * each half, so that one that fails is the fault of a group.  Groups that only pass a
 * deferred constraint together, in different halves, do not pass it then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "streams/streams.h"
#include "worker_internal.h"

/* Groups to write by halves, and the counts of the half at hand. */
typedef struct CarefulWrite
{
	SaggStreamRun *run;
	const SaggQuery *query;
	SaggExecution *execution;
	int64		first;			/* of the part at hand */
	int64		end;
	SaggOutput	output;
	SaggCommit	commit;			/* counts of the part */
} CarefulWrite;

static void
write_output(CarefulWrite *write)
{
	sagg_sink_write(write->run->sink, write->query, &write->output,
					&write->commit.counts.rows_out, &write->commit.counts.rows_removed);
}

static void
try_part(void *arg)
{
	CarefulWrite *write = arg;

	sagg_execution_output_part(write->execution, write->first, write->end, &write->output);
	sagg_leave_out_expired(write->run, write->query, &write->output, &write->commit);
	write_output(write);
	if (sagg_sink_is_transactional(write->run->sink))
		sagg_fire_triggers_so_far();
}

/*
 * Write the groups from "first" up to, not including, "end".  Returns false if that
 * fails and there are several of them; one that fails is noted.
 */
static bool
write_part(CarefulWrite *write, int64 first, int64 end, SaggCommit *commit)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "stream_agg part of the groups",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(memory);
	ErrorData  *error;

	write->first = first;
	write->end = end;
	write->commit.watermark = commit->watermark;
	write->commit.max_time = commit->max_time;
	memset(&write->commit.counts, 0, sizeof(SaggCounts));
	error = sagg_try(try_part, write);
	if (error == NULL)
	{
		sagg_execution_output_end(&write->output);
		sagg_execution_groups_written(write->execution);
		sagg_counts_add(&commit->counts, &write->commit.counts);
	}
	else if (!sagg_poison_blames_group(write->run, error))
		ReThrowError(error);
	else if (end - first == 1)
		sagg_execution_group_failed(write->execution, first, error);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(memory);
	return error == NULL || end - first == 1;
}

static void
write_groups(CarefulWrite *write, int64 first, int64 end, SaggCommit *commit)
{
	int64		middle = first + (end - first) / 2;

	CHECK_FOR_INTERRUPTS();
	if (first == end || write_part(write, first, end, commit))
		return;
	write_groups(write, first, middle, commit);
	write_groups(write, middle, end, commit);
}

/*
 * WRITE of a careful execution.  Counts the rows in commit->counts;
 * groups that fail are noted by the execution.
 */
void
sagg_write_carefully(SaggStreamRun *run, const SaggQuery *query,
					 SaggExecution *execution, SaggCommit *commit)
{
	CarefulWrite write = {.run = run, .query = query, .execution = execution};

	write_groups(&write, 0, sagg_execution_groups(execution), commit);
}

/*
 * Put the groups of a careful execution that have failed into
 * stream_agg.failed_windows; a part of CHECKPOINT.  Returns a description of the
 * first one for the log, NULL if there are none.  Raises ERRCODE_SAGG_DEAD_LETTERS
 * if there are too many.
 */
char *
sagg_keep_failed_windows(SaggStreamRun *run, const SaggExecution *execution)
{
	const List *failed = sagg_execution_failed(execution);
	const SaggFailedGroup *first;

	if (failed == NIL)
		return NULL;
	sagg_checkpoint_failed_windows(run->checkpoint, run->plan->batch, failed);
	first = linitial(failed);
	return psprintf("The first one, of the window from %s: %s",
					timestamptz_to_str(first->start),
					sagg_error_reason(first->message, first->detail));
}
