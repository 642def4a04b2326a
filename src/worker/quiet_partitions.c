/*-------------------------------------------------------------------------
 *
 * quiet_partitions.c
 *	  Event time by partition between micro-batches, and what becomes of it
 *	  when no records come.
 *
 * A partition is quiet when the last batch with an event time in it is as old
 * as the stream's idle_timeout.  The watermark does not wait for a quiet one
 * that is read to its end, and where all are quiet it goes by the clock: then it
 * is the batch's time less idle_timeout, less the watermark's delay.  A
 * partition that Kafka has more records of is never quiet, however long its
 * records have no event time, nor is one that Kafka does not answer for.  Which
 * ones are is written into the plan, so that a retry does not ask the clock
 * again.
 *
 * For this a batch without records is planned, but only when it closes a
 * window: an idle stream takes no transaction id otherwise.  When that will be is
 * known after each commit ("idle_due"), so looking for it costs a comparison.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "worker_internal.h"

/*
 * Event time of all partitions the stream has, as the last commit left it and
 * as of the batch at "batch_time" for those that are new; in the current
 * context.
 */
SaggPartitionTime *
sagg_session_times(const SaggSession *session, TimestampTz batch_time, int *n)
{
	const SaggProgress *progress = session->progress;

	return sagg_partition_times(session->stream, progress->positions, progress->npositions,
								progress->times, progress->ntimes, batch_time, n);
}

/*
 * The batch has found event times.  Only policy per_partition tells the
 * partitions apart by whether they are quiet.
 */
void
sagg_times_found(const SaggSession *session, SaggPartitionTime *times, int n,
				 TimestampTz batch_time)
{
	if (session->stream->options.watermark_policy == SAGG_WATERMARK_PER_PARTITION ||
		session->stream->options.idle_timeout == 0)
		return;
	for (int i = 0; i < n; i++)
		times[i].active = sagg_floor_ms(batch_time);
}

static bool
is_quiet_at(const SaggSession *session, const SaggPartitionTime *time, TimestampTz now)
{
	return time->active != DT_NOBEGIN &&
		now - time->active >= session->stream->options.idle_timeout;
}

/*
 * Does the plan read the partition to its end?
 */
static bool
reads_to_end(const SaggPlan *plan, const SaggRange *position, const SaggRange *bound)
{
	const SaggRange *range = sagg_partition_find(plan->ranges, plan->nranges, position);

	return (range ? range->end : position->start) >= bound->end;
}

/*
 * Find out which partitions are quiet, for a plan that is complete otherwise;
 * "bounds" are as for sagg_batch_plan.  But for policy per_partition it is all or
 * none.
 */
void
sagg_plan_quiet(const SaggSession *session, SaggPlan *plan,
				const SaggRange *bounds, int nbounds)
{
	const SaggProgress *progress = session->progress;
	SaggPartitionTime *times;
	int			n;

	plan->nquiet = 0;
	if (session->stream->options.idle_timeout == 0 || progress->replace ||
		plan->nsuspects > 0)
		return;
	times = sagg_session_times(session, plan->batch_time, &n);
	plan->quiet = palloc(sizeof(SaggRange) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		const SaggRange *bound = sagg_partition_find(unconstify(SaggRange *, bounds), nbounds,
													 &progress->positions[i]);

		if (bound == NULL || !is_quiet_at(session, &times[i], plan->batch_time) ||
			!reads_to_end(plan, &progress->positions[i], bound))
			continue;
		plan->quiet[plan->nquiet] = progress->positions[i];
		plan->quiet[plan->nquiet].start = plan->quiet[plan->nquiet].end = bound->end;
		plan->nquiet++;
	}
	if (session->stream->options.watermark_policy != SAGG_WATERMARK_PER_PARTITION &&
		plan->nquiet < n)
		plan->nquiet = 0;
}

/*
 * The watermark after a batch at "now" without records, if all partitions are
 * read to their ends.
 */
static TimestampTz
watermark_at(const SaggSession *session, TimestampTz now)
{
	SaggPartitionTime *times;
	bool	   *quiet;
	bool		all = true;
	TimestampTz watermark;
	int			n;

	times = sagg_session_times(session, now, &n);
	quiet = palloc(Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		quiet[i] = is_quiet_at(session, &times[i], now);
		all = all && quiet[i];
	}
	if (session->stream->options.watermark_policy == SAGG_WATERMARK_PER_PARTITION)
		watermark = sagg_least_watermark(session->stream, times, quiet, n,
										 now - session->clock_ahead);
	else
		watermark = all ? sagg_watermark_of_clock(session->stream, now - session->clock_ahead) :
			DT_NOBEGIN;
	pfree(times);
	pfree(quiet);
	return Max(watermark, session->progress->watermark);
}

/*
 * When the first window closes if no more records come; DT_NOEND = never.
 */
static TimestampTz
next_close(const SaggSession *session)
{
	const SaggProgress *progress = session->progress;
	int64		timeout = session->stream->options.idle_timeout;
	TimestampTz due = DT_NOEND;
	TimestampTz last = DT_NOBEGIN;
	TimestampTz tried = DT_NOBEGIN;
	TimestampTz by_clock;

	for (int i = 0; i < progress->ntimes; i++)
	{
		TimestampTz when = progress->times[i].active + timeout;

		last = Max(last, when);
		/* many have been active in the same batch */
		if (when >= due || when == tried)
			continue;
		tried = when;
		if (watermark_at(session, when) >= session->next_end)
			due = when;
	}
	if (last == DT_NOBEGIN)
		return DT_NOEND;
	by_clock = sagg_floor_ms(session->next_end + session->stream->watermark_delay +
							 timeout + session->clock_ahead) + 1000;
	return Min(due, Max(last, by_clock));
}

static bool
never_idle(const SaggSession *session)
{
	return session->stream->options.idle_timeout == 0 ||
		!session->stream->has_watermark || session->stream->mode == SAGG_COMPLETE;
}

/*
 * A batch is about to be committed: which windows does it leave open?
 */
void
sagg_idle_windows(SaggSession *session, SaggExecution *execution)
{
	if (!never_idle(session))
		session->next_end = sagg_execution_next_end(execution, &session->clock_ahead);
}

/*
 * The session begins.  Nobody knows which windows are open before the first
 * batch has restored the state.
 */
void
sagg_idle_begin(SaggSession *session)
{
	SaggProgress *progress = session->progress;

	session->clock_ahead = 0;
	session->next_end = progress->batch < 0 ? DT_NOEND : progress->watermark + 1;
	/* of partitions that have no time of their own, quiet from now on */
	progress->times = sagg_session_times(session, GetCurrentTimestamp(),
										 &progress->ntimes);
	sagg_idle_plan(session);
}

/*
 * After a commit: until when may the stream sleep?
 */
void
sagg_idle_plan(SaggSession *session)
{
	session->idle_due = never_idle(session) || session->next_end == DT_NOEND ?
		DT_NOEND : next_close(session);
}

/*
 * When is a batch without records to be run, of this stream or one that takes
 * part in its batches?  DT_NOEND = never.
 */
TimestampTz
sagg_idle_due(const SaggSession *session)
{
	TimestampTz due = DT_NOEND;
	ListCell   *lc;

	foreach(lc, session->sessions)
		due = Min(due, ((SaggSession *) lfirst(lc))->idle_due);
	return due;
}

/*
 * Does a plan without records close a window?
 */
bool
sagg_idle_closes(const SaggSession *session, const SaggPlan *plan)
{
	return plan->nquiet > 0 && plan->batch_time >= session->idle_due &&
		watermark_at(session, plan->batch_time) >= session->next_end;
}
