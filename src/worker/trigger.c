/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  When micro-batches run: the trigger loop of a stream's worker.
 *
 * Triggers fire at multiples of the interval, the first one at start; missed ones
 * are skipped.  With interval 0 batch follows batch.  process_available fires one
 * at once.  Without max_offsets_per_trigger a batch that left records in the source
 * is followed by the next at once; with it, one that had to be smaller than what its
 * trigger could read (unfinished.c).  With min_offsets_per_trigger a trigger that
 * finds fewer leaves them, until the last micro-batch is as old as
 * max_trigger_delay.
 *
 * A trigger that finds nothing does nothing: no transaction, no xid, no request to
 * the source unless its connections are in trouble.  The exception is event time
 * that has gone on by the clock so far that a window closes (quiet_partitions.c).
 * Only once in PARTITIONS_CHECK_MS the source and the catalogs are asked for other
 * partitions or topics.  All waiting is on the latch, and with interval 0 on the
 * source's event descriptor too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "pgstat.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "worker_internal.h"

/* with interval 0, how often at least to look for new partitions */
#define PARTITIONS_CHECK_MS		30000

/* with interval 0, how often to look whether there are enough records */
#define ENOUGH_CHECK_MS			250

/* how soon to ask again for the end of a partition that is in doubt */
#define DOUBT_CHECK_MS			500

/*
 * Returns the first multiple of the interval after now, counted from 1970-01-01 UTC.
 */
static TimestampTz
next_multiple(int64 interval, TimestampTz now)
{
	const int64 epoch = (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;
	int64		since = now - epoch;

	return epoch + (since / interval + 1) * interval;
}

/*
 * Returns whether process_available has asked for something that has not been
 * served, of any run; notes the requests.
 */
static bool
open_request(SaggReading *reading)
{
	bool		open = false;
	ListCell   *lc;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	foreach(lc, reading->runs)
	{
		SaggStreamRun *run = lfirst(lc);

		run->request = run->slot->request_seq > run->slot->done_seq ?
			run->slot->request_seq : 0;
		open = open || run->request != 0;
	}
	LWLockRelease(sagg_shared->lock);
	return open;
}

static void
requests_served(SaggReading *reading)
{
	ListCell   *lc;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	foreach(lc, reading->runs)
	{
		SaggStreamRun *run = lfirst(lc);

		if (run->slot->done_seq < run->request)
			run->slot->done_seq = run->request;
		ConditionVariableBroadcast(&run->slot->changed);
	}
	LWLockRelease(sagg_shared->lock);
}

static int64
position_of(const SaggProgress *progress, const SaggRange *partition)
{
	const SaggRange *position = sagg_partition_find(progress->positions,
													progress->npositions, partition);

	return position ? position->start : 0;
}

/*
 * Returns whether everything before the ends of "bounds" has been committed.
 */
static bool
reached(const SaggProgress *progress, const SaggRange *bounds, int nbounds)
{
	for (int i = 0; i < nbounds; i++)
	{
		int64		position = position_of(progress, &bounds[i]);

		/* no plan has been made since the partition ended earlier */
		if (position > bounds[i].end ||
			(position < bounds[i].end && bounds[i].end > bounds[i].start))
			return false;
	}
	return true;
}

/*
 * Returns whether the trigger at hand is not done: a run searches a record that
 * cannot be processed, or the last batch was smaller than what the trigger could
 * read.
 */
static bool
trigger_unfinished(const SaggReading *reading)
{
	ListCell   *lc;

	foreach(lc, reading->runs)
	{
		if (((SaggStreamRun *) lfirst(lc))->progress->nsuspects > 0)
			return true;
	}
	return reading->behind && sagg_is_unfinished(reading->leader);
}

/*
 * Returns whether the records within "bounds" are too few for a batch, and sets
 * recheck_at then.  Lost offsets, and results to be replaced, do not wait.
 */
static bool
held_back(SaggReading *reading, const SaggRange *bounds, int nbounds)
{
	const SaggStreamOptions *options = &reading->leader->stream->options;
	SaggProgress *progress = reading->leader->progress;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due;
	int64		waiting = 0;

	if (options->min_offsets == 0 || sagg_reading_replaces(reading) ||
		progress->committed == DT_NOBEGIN || trigger_unfinished(reading))
		return false;
	for (int i = 0; i < nbounds; i++)
	{
		SaggRange  *position = sagg_partition_find(progress->positions,
												   progress->npositions, &bounds[i]);
		int64		start = position ? position->start : bounds[i].start;

		if (start < bounds[i].start || start > bounds[i].end)
			return false;
		waiting = sagg_add_saturated(waiting, bounds[i].end - start);
	}
	if (waiting == 0 || waiting >= options->min_offsets ||
		now < progress->committed ||
		pg_add_s64_overflow(progress->committed, options->max_delay, &due))
		return false;
	if (now >= due)
		return false;
	reading->recheck_at = Min(due, TimestampTzPlusMilliseconds(now, ENOUGH_CHECK_MS));
	reading->behind = false;
	return true;
}

/*
 * Run one batch over what lies within "bounds".  Returns false if there is nothing.
 */
static bool
run_batch(SaggReading *reading, const SaggRange *bounds, int nbounds)
{
	SaggStreamRun *leader = reading->leader;
	bool		planned;

	leader->plan = NULL;
	MemoryContextReset(reading->batch_memory);
	sagg_run_settings(leader);
	planned = sagg_batch_plan(reading, bounds, nbounds, NULL, 0);
	if (planned)
		sagg_micro_batch(reading);
	reading->behind = !reached(leader->progress, bounds, nbounds);
	if (!planned && reading->doubtful)
	{
		reading->behind = false;
		reading->recheck_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DOUBT_CHECK_MS);
	}
	return planned;
}

/*
 * Run the batch that was planned and not committed, if there is one.
 */
static bool
finish_pending_batch(SaggReading *reading)
{
	ListCell   *lc;

	if (reading->leader->progress->pending == NULL)
		return false;
	MemoryContextReset(reading->batch_memory);
	sagg_run_settings(reading->leader);
	foreach(lc, reading->runs)
	{
		SaggStreamRun *run = lfirst(lc);

		run->plan = run->progress->pending;
		run->progress->pending = sagg_batch_size_retry(run, sagg_poison_retry(run, run->plan));
	}
	foreach(lc, reading->runs)
		((SaggStreamRun *) lfirst(lc))->plan = ((SaggStreamRun *) lfirst(lc))->progress->pending;
	sagg_micro_batch(reading);
	foreach(lc, reading->runs)
		((SaggStreamRun *) lfirst(lc))->progress->pending = NULL;
	reading->behind = true;
	return true;
}

/*
 * Serve process_available: run batches until all that the source had at the request
 * is committed.  It takes the place of a trigger.
 */
static void
serve_requests(SaggReading *reading)
{
	SaggStreamRun *leader = reading->leader;
	SaggRange  *bounds;
	int			nbounds;

	sagg_run_check_now(leader);
	(void) finish_pending_batch(reading);
	bounds = sagg_reader_bounds(reading->reader, &nbounds);
	sagg_publish_ends(reading, bounds, nbounds);
	sagg_reading_verify(reading, bounds, nbounds);
	while (sagg_reading_replaces(reading) || reading->recreated != NIL ||
		   !reached(leader->progress, bounds, nbounds))
	{
		sagg_reading_check_stop(reading);
		if (run_batch(reading, bounds, nbounds))
			continue;
		if (!reading->doubtful)
			break;
		(void) sagg_reading_wait(reading, false, DOUBT_CHECK_MS);
		pfree(bounds);
		bounds = sagg_reader_bounds(reading->reader, &nbounds);
	}

	/* a trigger by time reads what has come since */
	reading->recheck_at = 0;
	reading->behind = leader->stream->trigger == 0 ||
		!reached(leader->progress, bounds, nbounds);
	if (leader->stream->trigger > 0)
		reading->next_trigger = next_multiple(leader->stream->trigger,
											  GetCurrentTimestamp());
	pfree(bounds);
	sagg_reading_recovered(reading);
	requests_served(reading);
}

/*
 * Returns whether there are other topics or partitions to read; looks now and then.
 */
static bool
partitions_changed(SaggReading *reading)
{
	sagg_run_check_idle(reading->leader);
	return sagg_reader_partitions_changed(reading->reader);
}

/*
 * A trigger by time: run a batch if there is anything.
 */
static void
fire(SaggReading *reading)
{
	SaggRange  *bounds;
	int			nbounds;
	bool		held = reading->recheck_at != 0;
	long		unused = 0;

	reading->recheck_at = 0;
	if (finish_pending_batch(reading))
	{
		sagg_reading_recovered(reading);
		return;
	}
	if (!reading->behind && !held &&
		!sagg_reading_has_records(reading) &&
		!partitions_changed(reading) &&
		GetCurrentTimestamp() < sagg_reading_idle_due(reading) &&
		!sagg_reader_in_trouble(reading->reader, &unused))
	{
		sagg_publish_no_news(reading);
		return;
	}
	bounds = sagg_reader_bounds(reading->reader, &nbounds);
	sagg_publish_ends(reading, bounds, nbounds);
	sagg_reading_verify(reading, bounds, nbounds);
	if (!held_back(reading, bounds, nbounds))
		(void) run_batch(reading, bounds, nbounds);
	pfree(bounds);
	sagg_reading_recovered(reading);
}

/*
 * Report what the batches did to their tables, for autovacuum and the statistics
 * views: a worker has to do so itself.  The server takes reports only so often;
 * what is left is reported when its interval is over.  Returns how many of
 * "timeout_ms" to sleep until then.
 */
static long
report_statistics(SaggReading *reading, long timeout_ms)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		force = reading->statistics_due != 0 && now >= reading->statistics_due;
	long		delay_ms = pgstat_report_stat(force);

	if (delay_ms <= 0)
	{
		reading->statistics_due = 0;
		return timeout_ms;
	}
	if (reading->statistics_due == 0)
		reading->statistics_due = TimestampTzPlusMilliseconds(now, delay_ms);
	return Min(timeout_ms,
			   Max(1, TimestampDifferenceMilliseconds(now, reading->statistics_due)));
}

/*
 * Do what there is to do before a sleep of "timeout_ms".  Returns how long to sleep
 * before there may be more.
 */
static long
idle_work(SaggReading *reading, long timeout_ms)
{
	timeout_ms = report_statistics(reading, timeout_ms);
	timeout_ms = sagg_memory_rest(&reading->memory_use, reading->leader->slot,
								  reading->reader, timeout_ms);
	timeout_ms = sagg_reader_tend_group(reading->reader, timeout_ms);
	return sagg_reader_rest(reading->reader, reading->leader->stream->trigger / 1000, timeout_ms);
}

/*
 * One sleep of a stream with interval 0.  Returns false if its trigger is due.
 */
static bool
sleep_until_records(SaggReading *reading)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz idle_due;
	long		timeout_ms = PARTITIONS_CHECK_MS;

	if (reading->recheck_at != 0)
	{
		if (now >= reading->recheck_at)
			return false;
		(void) sagg_reading_wait(reading, false,
								 idle_work(reading, TimestampDifferenceMilliseconds(now, reading->recheck_at)));
		return true;
	}
	idle_due = sagg_reading_idle_due(reading);
	if (idle_due != DT_NOEND)
		timeout_ms = Min(timeout_ms, TimestampDifferenceMilliseconds(now, idle_due));
	if (reading->behind || reading->leader->progress->pending != NULL || now >= idle_due ||
		sagg_reading_has_records(reading) ||
		partitions_changed(reading) ||
		sagg_reader_in_trouble(reading->reader, &timeout_ms))
		return false;
	sagg_publish_no_news(reading);
	(void) sagg_reading_wait(reading, true, idle_work(reading, timeout_ms));
	return true;
}

/*
 * One sleep of a stream with an interval.  Returns false if its trigger is due.
 */
static bool
sleep_until_time(SaggReading *reading)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now >= reading->next_trigger)
		return false;
	(void) sagg_reading_wait(reading, false,
							 idle_work(reading, TimestampDifferenceMilliseconds(now, reading->next_trigger)));
	return true;
}

/*
 * Sleep until the next trigger is due, a request comes in or, with interval 0, the
 * source has something.
 */
static void
wait_for_trigger(SaggReading *reading)
{
	SaggStreamRun *leader = reading->leader;
	char		activity[SAGG_NAME_SIZE + 64];
	ListCell   *lc;

	/* behind without a limit set by the user, or what is within it: no pause */
	if ((reading->behind && leader->stream->max_offsets == 0) ||
		leader->progress->pending != NULL || trigger_unfinished(reading))
		reading->next_trigger = GetCurrentTimestamp();

	snprintf(activity, sizeof(activity), "stream \"%s\": waiting for a trigger",
			 leader->slot->name);
	pgstat_report_activity(STATE_IDLE, activity);
	foreach(lc, reading->runs)
		((SaggStreamRun *) lfirst(lc))->slot->stage = SAGG_STAGES;
	(void) report_statistics(reading, 0);
	(void) sagg_memory_rest(&reading->memory_use, reading->leader->slot,
							reading->reader, 0);

	while (!open_request(reading) && !sagg_reading_group_changed(reading) &&
		   !sagg_executors_are_wanted(reading))
	{
		if (!(leader->stream->trigger == 0 ? sleep_until_records(reading) :
			  sleep_until_time(reading)))
			break;
	}
}

/*
 * Run trigger after trigger, until an ERROR or until the process is told to end.
 */
void
sagg_trigger_loop(SaggReading *reading)
{
	SaggStreamRun *leader = reading->leader;

	reading->next_trigger = GetCurrentTimestamp();
	reading->behind = true;		/* until the source was asked */

	for (;;)
	{
		sagg_reading_check_stop(reading);
		wait_for_trigger(reading);
		leader->plan = NULL;
		MemoryContextSwitchTo(reading->memory);
		if (sagg_executors_give_way(reading))
			sagg_reading_assign(reading, NULL, 0);

		if (sagg_reading_group_changed(reading))
		{
			sagg_run_settings(leader);
			sagg_reading_change_group(reading);
		}
		else if (open_request(reading))
			serve_requests(reading);
		else
		{
			if (leader->stream->trigger > 0)
				reading->next_trigger = next_multiple(leader->stream->trigger,
													  GetCurrentTimestamp());
			fire(reading);
		}
	}
}
