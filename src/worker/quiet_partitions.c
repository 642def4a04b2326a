/*-------------------------------------------------------------------------
 *
 * quiet_partitions.c
 *	  Event time by partition between micro-batches, and how it goes on when no
 *	  records come.
 *
 * A partition is quiet when the last batch with an event time in it is as old as the
 * stream's idle_timeout.  The watermark does not wait for a quiet partition that is
 * read to its end.  Where all are quiet it goes by the clock: it is the batch's time
 * less idle_timeout, less the watermark's delay.  A partition is never quiet while the
 * source has more records of it, even if they have no event time, nor while the source
 * does not answer for it.  The plan says which partitions are quiet, so that a retry
 * does not ask the clock again.
 *
 * For this a batch without records is planned, but only when it closes a window:
 * otherwise an idle stream takes no transaction id.  When that will be is known after
 * each commit ("idle_due"), so looking for it costs a comparison.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "worker_internal.h"

/*
 * Returns the event time of all partitions of the stream, in the current context: as
 * the last commit left it, and as of the batch at "batch_time" for new partitions.
 */
SaggPartitionTime *
sagg_run_times(const SaggStreamRun *run, TimestampTz batch_time, int *n)
{
	const SaggProgress *progress = run->progress;

	return sagg_partition_times(run->stream, progress->positions, progress->npositions,
								progress->times, progress->ntimes, batch_time, n);
}

/*
 * The batch has found event times: all partitions are active, except with policy
 * per_partition, where each has its own time.
 */
void
sagg_times_found(const SaggStreamRun *run, SaggPartitionTime *times, int n,
				 TimestampTz batch_time)
{
	if (run->stream->options.watermark_policy == SAGG_WATERMARK_PER_PARTITION ||
		run->stream->options.idle_timeout == 0)
		return;
	for (int i = 0; i < n; i++)
		times[i].active = sagg_floor_ms(batch_time);
}

static bool
is_quiet_at(const SaggStreamRun *run, const SaggPartitionTime *time, TimestampTz now)
{
	return time->active != DT_NOBEGIN &&
		now - time->active >= run->stream->options.idle_timeout;
}

/*
 * Returns whether the plan reads the partition to its end.
 */
static bool
reads_to_end(const SaggPlan *plan, const SaggRange *position, const SaggRange *bound)
{
	const SaggRange *range = sagg_partition_find(plan->ranges, plan->nranges, position);

	return (range ? range->end : position->start) >= bound->end;
}

/*
 * Set which partitions are quiet in a plan that is complete otherwise; "bounds" are as
 * for sagg_batch_plan.  Except with policy per_partition it is all or none.
 */
void
sagg_plan_quiet(const SaggStreamRun *run, SaggPlan *plan,
				const SaggRange *bounds, int nbounds)
{
	const SaggProgress *progress = run->progress;
	SaggPartitionTime *times;
	int			n;

	plan->nquiet = 0;
	if (run->stream->options.idle_timeout == 0 || progress->replace ||
		plan->nsuspects > 0)
		return;
	times = sagg_run_times(run, plan->batch_time, &n);
	plan->quiet = palloc(sizeof(SaggRange) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		const SaggRange *bound = sagg_partition_find(unconstify(SaggRange *, bounds), nbounds,
													 &progress->positions[i]);

		if (bound == NULL || !is_quiet_at(run, &times[i], plan->batch_time) ||
			!reads_to_end(plan, &progress->positions[i], bound))
			continue;
		plan->quiet[plan->nquiet] = progress->positions[i];
		plan->quiet[plan->nquiet].start = plan->quiet[plan->nquiet].end = bound->end;
		plan->nquiet++;
	}
	if (run->stream->options.watermark_policy != SAGG_WATERMARK_PER_PARTITION &&
		plan->nquiet < n)
		plan->nquiet = 0;
}

/*
 * Returns the watermark after a batch at "now" without records, if all partitions are
 * read to their ends.
 */
static TimestampTz
watermark_at(const SaggStreamRun *run, TimestampTz now)
{
	SaggPartitionTime *times;
	bool	   *quiet;
	bool		all = true;
	TimestampTz watermark;
	int			n;

	times = sagg_run_times(run, now, &n);
	quiet = palloc(Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		quiet[i] = is_quiet_at(run, &times[i], now);
		all = all && quiet[i];
	}
	if (run->stream->options.watermark_policy == SAGG_WATERMARK_PER_PARTITION)
		watermark = sagg_least_watermark(run->stream, times, quiet, n,
										 now - run->clock_ahead);
	else
		watermark = all ? sagg_watermark_of_clock(run->stream, now - run->clock_ahead) :
			DT_NOBEGIN;
	pfree(times);
	pfree(quiet);
	return Max(watermark, run->progress->watermark);
}

/*
 * Returns when the first window closes if no more records come; DT_NOEND = never.
 */
static TimestampTz
next_close(const SaggStreamRun *run)
{
	const SaggProgress *progress = run->progress;
	int64		timeout = run->stream->options.idle_timeout;
	TimestampTz due = DT_NOEND;
	TimestampTz last = DT_NOBEGIN;
	TimestampTz tried = DT_NOBEGIN;
	TimestampTz by_clock;

	for (int i = 0; i < progress->ntimes; i++)
	{
		TimestampTz when = progress->times[i].active + timeout;

		last = Max(last, when);
		/* many partitions have been active in the same batch */
		if (when >= due || when == tried)
			continue;
		tried = when;
		if (watermark_at(run, when) >= run->next_end)
			due = when;
	}
	if (last == DT_NOBEGIN)
		return DT_NOEND;
	by_clock = sagg_floor_ms(run->next_end + run->stream->watermark_delay +
							 timeout + run->clock_ahead) + 1000;
	return Min(due, Max(last, by_clock));
}

static bool
never_idle(const SaggStreamRun *run)
{
	return run->stream->options.idle_timeout == 0 ||
		!run->stream->has_watermark || run->stream->mode == SAGG_COMPLETE;
}

/*
 * A batch is about to be committed: note the end of the first window it leaves open.
 */
void
sagg_idle_windows(SaggStreamRun *run, SaggExecution *execution)
{
	if (!never_idle(run))
		run->next_end = sagg_execution_next_end(execution, &run->clock_ahead);
}

/*
 * A run has been opened.  Which windows are open is unknown before the first batch has
 * restored the state.
 */
void
sagg_idle_begin(SaggStreamRun *run)
{
	SaggProgress *progress = run->progress;
	MemoryContext old = MemoryContextSwitchTo(run->memory);

	run->clock_ahead = 0;
	run->next_end = progress->batch < 0 ? DT_NOEND : progress->watermark + 1;
	/* partitions without a time of their own are quiet from now on */
	progress->times = sagg_run_times(run, GetCurrentTimestamp(), &progress->ntimes);
	MemoryContextSwitchTo(old);
	sagg_idle_plan(run);
}

/*
 * After a commit: set until when the stream may sleep.
 */
void
sagg_idle_plan(SaggStreamRun *run)
{
	run->idle_due = never_idle(run) || run->next_end == DT_NOEND ?
		DT_NOEND : next_close(run);
}

/*
 * Returns when a batch without records is to be run, for any run of the reading;
 * DT_NOEND = never.
 */
TimestampTz
sagg_reading_idle_due(const SaggReading *reading)
{
	TimestampTz due = DT_NOEND;
	ListCell   *lc;

	foreach(lc, reading->runs)
		due = Min(due, ((SaggStreamRun *) lfirst(lc))->idle_due);
	return due;
}

/*
 * Returns whether a plan without records closes a window.
 */
bool
sagg_idle_closes(const SaggStreamRun *run, const SaggPlan *plan)
{
	return plan->nquiet > 0 && plan->batch_time >= run->idle_due &&
		watermark_at(run, plan->batch_time) >= run->next_end;
}
