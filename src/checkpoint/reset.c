/*-------------------------------------------------------------------------
 *
 * reset.c
 *	  A stream's checkpoint as if it had not begun yet, but with its history.
 *
 * A reset is a row of the logs, between micro-batches and numbered like one:
 * it reads nothing and leaves no state, no offsets and the watermark of the
 * beginning, or one that has passed the windows whose results are to stay.  So
 * counters continue, a stale worker fails at its number (I2), and the next
 * micro-batch follows it like any other.  The origin is emptied, and is
 * determined again at the next contact with Kafka, which may be another topic
 * or cluster.  Late records are deleted: nothing is late yet, and the stream
 * computes the windows they missed again.
 *
 * Column "reset" of its row in stream_agg.commits says whether the micro-batch
 * after it replaces rows of the sink.  That is in the log, not in the
 * micro-batch's plan, so that a retry, a crash or a restore cannot miss it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "checkpoint_internal.h"

/*
 * Reset the checkpoint of a stream, whose lock is held, in the caller's
 * transaction. "replace": the next micro-batch overwrites rows of the sink.
 * That also holds if only an earlier reset, which no batch has followed yet,
 * asked for it.  Rows of windows that the watermark "passed" has passed are
 * kept; DT_NOBEGIN = all rows are overwritten.
 */
void
sagg_checkpoint_reset(const char *stream, bool replace, TimestampTz passed)
{
	SaggCheckpoint *checkpoint = sagg_checkpoint_open(stream, false);
	SaggLogSection section;
	TimestampTz watermark;
	int64		batch;
	Datum		values[4];
	bool		isnull;

	sagg_log_begin(&section, checkpoint);
	watermark = Max(sagg_log_initial_watermark(&section), passed);
	batch = sagg_log_last_batch(checkpoint);
	if (!replace && batch >= 0 &&
		sagg_log_execute(&section, SAGG_LOG_LAST_COMMIT, values, NULL, 1) == 1)
		replace = DatumGetBool(sagg_log_value(0, SAGG_COMMIT_REPLACE, &isnull));

	values[1] = Int64GetDatum(batch);
	(void) sagg_log_execute(&section, SAGG_LOG_RESET_PLANS, values, NULL, 0);
	(void) sagg_log_execute(&section, SAGG_LOG_RESET_STATE, values, NULL, 0);
	(void) sagg_log_execute(&section, SAGG_LOG_RESET_LATE_RECORDS, values, NULL, 0);
	(void) sagg_log_execute(&section, SAGG_LOG_RESET_ORIGIN, values, NULL, 0);
	values[1] = Int64GetDatum(batch + 1);
	values[2] = TimestampTzGetDatum(watermark);
	values[3] = CStringGetTextDatum(replace ? "results" : "state");
	(void) sagg_log_execute(&section, SAGG_LOG_RESET_PLAN, values, NULL, 0);
	(void) sagg_log_execute(&section, SAGG_LOG_RESET_COMMIT, values, NULL, 0);
	sagg_log_end(&section);
	sagg_checkpoint_close(checkpoint);
}

/*
 * Delete a plan behind the last committed batch, "batch": what it would read
 * may no longer exist.
 */
void
sagg_checkpoint_forget_plan(SaggCheckpoint *checkpoint, int64 batch)
{
	SaggLogSection section;
	Datum		values[2];

	sagg_log_begin(&section, checkpoint);
	values[1] = Int64GetDatum(batch);
	(void) sagg_log_execute(&section, SAGG_LOG_RESET_PLANS, values, NULL, 0);
	sagg_log_end(&section);
}
