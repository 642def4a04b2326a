/*-------------------------------------------------------------------------
 *
 * state_rewrite.c
 *	  Rewrites a stream's state for another query.
 *
 * Like a reset it is a row of the logs between micro-batches, numbered like
 * one: it reads nothing, and offsets, event times and counters are as before.
 * All of the state log is deleted and the new state written in the caller's
 * transaction, so a crash leaves either the old state or the new one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "checkpoint_internal.h"

/*
 * Replace the state that the last commit of the stream left by "state", of
 * which everything counts as changed; "progress" is the stream's.  A plan that
 * is not committed is deleted: the next micro-batch is planned again from the
 * same offsets.  The stream's lock is held.
 */
void
sagg_checkpoint_rewrite(SaggCheckpoint *checkpoint, const SaggProgress *progress,
						const SaggStateAccess *state)
{
	SaggPlan	plan = {
		.batch = progress->batch + 1,
		.watermark = progress->watermark,
		.batch_time = GetCurrentTimestamp()
	};
	SaggCommit	commit = {
		.watermark = progress->watermark,
		.nlast = progress->nlast,
		.last = progress->last,
		.max_time = progress->max_time,
		.ntimes = progress->ntimes,
		.times = progress->times
	};
	SaggLogSection section;
	Datum		values[2];
	Datum		oldest;
	bool		isnull;

	sagg_log_begin(&section, checkpoint);
	values[1] = Int64GetDatum(progress->batch);
	(void) sagg_log_execute(&section, SAGG_LOG_RESET_PLANS, values, NULL, 0);
	(void) sagg_log_execute(&section, SAGG_LOG_RESET_STATE, values, NULL, 0);
	(void) sagg_log_execute(&section, SAGG_LOG_OLDEST_BATCH, values, NULL, 1);
	oldest = sagg_log_value(0, 1, &isnull);
	checkpoint->sizes.oldest = isnull ? 0 : DatumGetInt64(oldest);
	checkpoint->sizes.delta_bytes = 0;
	sagg_chains_clear(checkpoint);
	checkpoint->known = true;
	sagg_log_end(&section);

	sagg_checkpoint_plan(checkpoint, &plan);
	sagg_checkpoint_commit(checkpoint, progress, &plan, &commit, state);
}
