/*-------------------------------------------------------------------------
 *
 * batch_size.c
 *	  Micro-batches whose groups take too much memory, whose rows take too much
 *	  space, or whose records name too many schemas, are made smaller.
 *
 * How much memory the groups of a batch take is not known before it runs.  One
 * that takes more than it may fails with ERRCODE_SAGG_GROUP_MEMORY; its plan is
 * replaced by one of half of its offsets, whatever on_error says, for no record is
 * to blame.  So is that of a batch whose records name more schemas than may be asked
 * for, which fails with ERRCODE_SAGG_SCHEMAS, and of one whose rows take too much space
 * (ERRCODE_SAGG_ROW_SPACE) or whose temporary files do: more than temp_file_limit, or
 * than there is.  The batches after it have no more
 * offsets than the one that was small enough, until one of them has left three quarters of what it may have.
 *
 * A single record that exceeds temp_file_limit follows on_error, as one that fails
 * (poison.c); a full disk is no record's fault, and waited for.
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
 * Does an error say that the batch is too large?
 */
static bool
is_of_size(const SaggSession *session, int sqlstate)
{
	switch (sqlstate)
	{
		case ERRCODE_SAGG_GROUP_MEMORY:
		case ERRCODE_SAGG_ROW_SPACE:
		case ERRCODE_SAGG_SCHEMAS:
			return true;
		case ERRCODE_CONFIGURATION_LIMIT_EXCEEDED:	/* temp_file_limit */
		case ERRCODE_DISK_FULL:
			return session->fault != SAGG_FAULT_NONE;
		default:
			return false;
	}
}

/*
 * The batch has failed with "error", and its session is about to be closed.
 * Returns whether it failed because of its size and will be tried with half of its
 * offsets.  If it cannot be, session->over_limit tells that it exceeds a limit for
 * good.
 */
bool
sagg_batch_size_failed(SaggSession *session, const ErrorData *error)
{
	session->over_limit = false;
	if (session->plan == NULL || !is_of_size(session, error->sqlerrcode))
		return false;
	if (sagg_session_replaces(session->lead) || sagg_plan_offsets(session->plan) <= 1)
	{
		session->over_limit = error->sqlerrcode == ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
		return false;
	}
	session->too_large = session->plan->batch;
	session->too_large_code = error->sqlerrcode;
	session->fault = SAGG_FAULT_NONE;
	session->poison.windows = session->poison.avoidable = false;
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
 * The plan to run in place of one that has been begun before: the same one, or one
 * of half of its offsets, which lives as long as the session.  Outside of
 * transactions, with the stream's lock held.
 */
SaggPlan *
sagg_batch_size_retry(SaggSession *session, SaggPlan *plan)
{
	int64		offsets = sagg_plan_offsets(plan);
	SaggPlan   *smaller;

	if (session->too_large != plan->batch)
		return plan;
	session->too_large = -1;
	if (offsets <= 1)
		return plan;
	smaller = sagg_plan_half(session, plan);
	smaller->suspects = plan->suspects;
	smaller->nsuspects = plan->nsuspects;
	session->lead->size_limit = sagg_plan_offsets(smaller);
	ereport(LOG,
			(errmsg("stream \"%s\": micro-batch " INT64_FORMAT " is retried with " INT64_FORMAT " of its " INT64_FORMAT " offsets, because %s",
					sagg_stream_title(session->stream->name), plan->batch,
					session->lead->size_limit, offsets, describe_reason(session->too_large_code)),
			 session->too_large_code == ERRCODE_SAGG_GROUP_MEMORY ?
			 errhint("If there is more memory, increase stream_agg.batch_memory.") : 0));
	sagg_plan_replace(session, plan, smaller);
	return smaller;
}

/*
 * The most offsets of the next batch, of "limit".
 */
int64
sagg_batch_size_bound(const SaggSession *session, int64 limit)
{
	return session->size_limit > 0 ? Min(limit, session->size_limit) : limit;
}

/*
 * A batch is committed, the greatest of whose executions has taken "memory" for its
 * groups, or for its rows "space" percent of what they may take.
 */
void
sagg_batch_size_committed(SaggSession *session, Size memory, int space)
{
	if (session->size_limit == 0 || memory > sagg_group_memory_bound() / 4 ||
		space > 25 || session->schemas_asked > 25)
		return;
	session->size_limit = sagg_add_saturated(session->size_limit, session->size_limit);
	if (session->size_limit > Max(session->stream->max_offsets, sagg_max_records_per_batch))
		session->size_limit = 0;
}
