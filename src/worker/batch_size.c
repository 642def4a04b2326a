/*-------------------------------------------------------------------------
 *
 * batch_size.c
 *	  Micro-batches whose groups take too much memory, whose rows take too much
 *	  space, or whose records name too many schemas, are made smaller.
 *
 * How much memory the groups of a batch take is not known before it runs.  One
 * that takes more than it may fails with ERRCODE_SAGG_GROUP_MEMORY; its plan is
 * replaced by one of half of its offsets, whatever on_error says, for no record is
 * to blame.  The same holds for a batch whose records name more schemas than may be
 * asked for, which fails with ERRCODE_SAGG_SCHEMAS, and for one whose rows
 * (ERRCODE_SAGG_ROW_SPACE) or temporary files take too much space: more than
 * temp_file_limit, or than there is.  The batches after it have no more offsets than
 * the one that was small enough, until one of them leaves three quarters of what it
 * may have.
 *
 * A single record that exceeds temp_file_limit follows on_error, as one that fails
 * (poison.c).  The worker waits for space on a full disk: no record is to blame.
 *
 * The batch that replaces rows of the sink is one commit or none: it is never made
 * smaller, and fails.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "streams/streams.h"
#include "worker_internal.h"

/*
 * Returns whether an error says that the batch is too large.
 */
static bool
is_of_size(const SaggStreamRun *run, int sqlstate)
{
	switch (sqlstate)
	{
		case ERRCODE_SAGG_GROUP_MEMORY:
		case ERRCODE_SAGG_ROW_SPACE:
		case ERRCODE_SAGG_SCHEMAS:
			return true;
		case ERRCODE_CONFIGURATION_LIMIT_EXCEEDED:	/* temp_file_limit */
		case ERRCODE_DISK_FULL:
			return run->fault != SAGG_FAULT_NONE;
		default:
			return false;
	}
}

/*
 * The batch has failed with "error", and its run is about to be closed.  Returns
 * whether it failed because of its size and will be tried with half of its offsets.
 * If it cannot be, run->over_limit says that it exceeds temp_file_limit for good.
 */
bool
sagg_batch_size_failed(SaggStreamRun *run, const ErrorData *error)
{
	run->over_limit = false;
	if (run->plan == NULL || !is_of_size(run, error->sqlerrcode))
		return false;
	if (sagg_reading_replaces(run->reading) || sagg_plan_offsets(run->plan) <= 1)
	{
		run->over_limit = error->sqlerrcode == ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
		return false;
	}
	run->too_large = run->plan->batch;
	run->too_large_code = error->sqlerrcode;
	run->fault = SAGG_FAULT_NONE;
	run->poison.windows = run->poison.avoidable = false;
	return true;
}

static char *
describe_reason(int sqlstate)
{
	switch (sqlstate)
	{
		case ERRCODE_SAGG_SCHEMAS:
			return "its records name too many schemas that are not known";
		case ERRCODE_SAGG_ROW_SPACE:
			return psprintf("its rows take more than " INT64_FORMAT " kB", sagg_row_space_bound() / 1024);
		case ERRCODE_CONFIGURATION_LIMIT_EXCEEDED:
			return "its temporary files exceed temp_file_limit";
		case ERRCODE_DISK_FULL:
			return "the disk is full";
		default:
			return psprintf("its groups take more than %zu kB of memory", sagg_group_memory_bound() / 1024);
	}
}

/*
 * Returns the plan to run in place of one that has been begun before: the same one, or
 * one of half of its offsets, in the run's memory.  Outside of transactions, with the
 * stream's lock held.
 */
SaggPlan *
sagg_batch_size_retry(SaggStreamRun *run, SaggPlan *plan)
{
	int64		offsets = sagg_plan_offsets(plan);
	SaggPlan   *smaller;

	if (run->too_large != plan->batch)
		return plan;
	run->too_large = -1;
	if (offsets <= 1)
		return plan;
	smaller = sagg_plan_half(run, plan);
	smaller->suspects = plan->suspects;
	smaller->nsuspects = plan->nsuspects;
	run->reading->size_limit = sagg_plan_offsets(smaller);
	ereport(LOG,
			(errmsg("stream \"%s\": micro-batch " INT64_FORMAT " is retried with " INT64_FORMAT " of its " INT64_FORMAT " offsets, because %s",
					sagg_stream_title(run->stream->name), plan->batch,
					run->reading->size_limit, offsets, describe_reason(run->too_large_code)),
			 run->too_large_code == ERRCODE_SAGG_GROUP_MEMORY ?
			 errhint("If there is more memory, increase stream_agg.batch_memory.") : 0));
	sagg_plan_replace(run, plan, smaller);
	return smaller;
}

/*
 * Returns the most offsets of the next batch, "limit" at most.
 */
int64
sagg_batch_size_bound(const SaggReading *reading, int64 limit)
{
	return reading->size_limit > 0 ? Min(limit, reading->size_limit) : limit;
}

/*
 * A batch is committed.  The largest of its executions took "memory" for its groups
 * and, for its rows, "space" percent of what they may take.  If it was far below its
 * bounds, the next batch may be larger.
 */
void
sagg_batch_size_committed(SaggReading *reading, Size memory, int space)
{
	if (reading->size_limit == 0 || memory > sagg_group_memory_bound() / 4 ||
		space > 25 || reading->schemas_asked > 25)
		return;
	reading->size_limit = sagg_add_saturated(reading->size_limit, reading->size_limit);
	if (reading->size_limit > Max(sagg_first_run(reading)->stream->max_offsets, sagg_max_records_per_batch))
		reading->size_limit = 0;
}
