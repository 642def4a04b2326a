/*-------------------------------------------------------------------------
 *
 * retention.c
 *	  Rows that are older than a stream's retention, in a micro-batch.
 *
 * Rows that the batch would write are judged by the watermark it leaves, rows in the
 * sink by the watermark it began with, of the last commit: a plan that is run again
 * removes the same rows.  Windows that these watermarks have passed do not change any
 * more.  A watermark of the future counts as one of the batch's time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "execute/execute.h"
#include "worker_internal.h"
#include "write/write.h"

/* a batch may delete so many rows, or twice as many as it has written */
#define LEAST_EXPIRED	10000

/*
 * Have partitions made for the rows, for the window of the greatest event time, and
 * for the next one.
 */
static void
prepare_sink(const SaggStreamRun *run, const SaggQuery *query, const SaggOutput *output,
			 const SaggCommit *commit)
{
	TimestampTz end;

	if (TIMESTAMP_NOT_FINITE(commit->max_time) || !sagg_window_bounds(&query->window)->fixed)
		return;
	end = sagg_last_window_end(query, commit->max_time);
	if (end != DT_NOEND)
		sagg_sink_prepare(run->sink, query, sagg_last_window_end(query, end), output);
}

/*
 * Remove from "output" what is too old to be written, and have partitions made for the
 * rest.  commit->watermark is the one that the batch leaves.
 * Counts rows_expired.
 */
void
sagg_leave_out_expired(const SaggStreamRun *run, const SaggQuery *query,
					   SaggOutput *output, SaggCommit *commit)
{
	int64		before = sagg_expired_before(run->stream, query, commit->watermark,
											 run->plan->batch_time);

	if (before != DT_NOBEGIN)
		commit->counts.rows_expired += sagg_sink_leave_out(query, output, before);
	if (run->stream->options.has_retention)
		prepare_sink(run, query, output, commit);
}

/*
 * Delete rows of the sink that were too old already when the batch began.  Adds to
 * the counts of rows removed and expired.  To be called when the batch has written
 * its rows; runs as the stream's owner.
 */
void
sagg_expire_rows(const SaggStreamRun *run, const SaggQuery *query, SaggCommit *commit)
{
	int64		before = sagg_expired_before(run->stream, query, run->plan->watermark,
											 run->plan->batch_time);
	int64		expired;

	if (before == DT_NOBEGIN)
		return;
	expired = sagg_sink_expire(run->sink, query, before,
							   Max(LEAST_EXPIRED, 2 * commit->counts.rows_out));
	commit->counts.rows_removed += expired;
	commit->counts.rows_expired += expired;
}

/*
 * Returns the partitions of the sink that were too old already when the batch began,
 * for sagg_sink_drop_partitions; in the current context.
 */
List *
sagg_expired_partitions(const SaggStreamRun *run, const SaggQuery *query)
{
	int64		before = sagg_expired_before(run->stream, query, run->plan->watermark,
											 run->plan->batch_time);

	return before == DT_NOBEGIN ? NIL : sagg_sink_expired_partitions(run->sink, query, before);
}
