/*-------------------------------------------------------------------------
 *
 * trigger.c
 *	  When micro-batches run: the trigger loop of a stream's worker.
 *
 * Triggers fire at multiples of the interval, the first at start, missed ones
 * are skipped; with interval 0 batch follows batch.  process_available fires
 * one at once.  Without max_offsets_per_trigger a batch that left records in
 * Kafka is followed by the next at once.  With min_offsets_per_trigger a trigger
 * that finds fewer leaves them, until the last micro-batch is as old as
 * max_trigger_delay.
 *
 * A trigger that finds nothing does nothing: no transaction, no xid, no
 * request to Kafka unless its connections are in trouble, or event time has
 * gone on by the clock so far that a window closes (quiet_partitions.c).  Once in
 * PARTITIONS_CHECK_MS only it asks Kafka and the catalogs whether there are
 * other partitions or topics to read.  All waiting is on the latch, and with interval 0 on
 * Kafka's event descriptor too.
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
#define HELD_CHECK_MS			250

/* how soon to ask again for the end of a partition that is doubted */
#define DOUBT_CHECK_MS			500

/*
 * The first multiple of the interval, counted from 1970-01-01 UTC, after now.
 */
static TimestampTz
next_multiple(int64 interval, TimestampTz now)
{
	const int64 epoch = (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;
	int64		since = now - epoch;

	return epoch + (since / interval + 1) * interval;
}

/*
 * Has process_available asked for something that has not been served, of this
 * stream or of one that takes part in its batches?
 */
static bool
open_request(SaggSession *session)
{
	bool		open = false;
	ListCell   *lc;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	foreach(lc, session->sessions)
	{
		SaggSession *one = lfirst(lc);

		one->request = one->slot->request_seq > one->slot->done_seq ?
			one->slot->request_seq : 0;
		open = open || one->request != 0;
	}
	LWLockRelease(sagg_shared->lock);
	return open;
}

static void
requests_served(SaggSession *session)
{
	ListCell   *lc;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	foreach(lc, session->sessions)
	{
		SaggSession *one = lfirst(lc);

		if (one->slot->done_seq < one->request)
			one->slot->done_seq = one->request;
		ConditionVariableBroadcast(&one->slot->changed);
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
 * Has everything before the ends of "bounds" been committed?
 */
static bool
reached(const SaggProgress *progress, const SaggRange *bounds, int nbounds)
{
	for (int i = 0; i < nbounds; i++)
	{
		int64		position = position_of(progress, &bounds[i]);

		/* beyond the end is where no plan has been yet */
		if (position > bounds[i].end ||
			(position < bounds[i].end && bounds[i].end > bounds[i].start))
			return false;
	}
	return true;
}

/*
 * Do the records within "bounds" wait for more?  What has to be looked at at
 * once, whatever its number, does not: lost offsets, results to be replaced.
 */
static bool
held_back(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	const SaggStreamOptions *options = &session->stream->options;
	SaggProgress *progress = session->progress;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz due;
	int64		waiting = 0;

	if (options->min_offsets == 0 || sagg_session_replaces(session) ||
		progress->committed == DT_NOBEGIN)
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
	session->held_until = Min(due, TimestampTzPlusMilliseconds(now, HELD_CHECK_MS));
	session->behind = false;
	return true;
}

/*
 * One batch over what lies within "bounds".  Returns false if there is
 * nothing.
 */
static bool
run_batch(SaggSession *session, const SaggRange *bounds, int nbounds)
{
	SaggPlan   *plan;

	session->plan = NULL;
	MemoryContextReset(session->batch_memory);
	sagg_session_settings(session);
	plan = sagg_batch_plan(session, bounds, nbounds);
	if (plan != NULL)
		sagg_micro_batch(session, plan);
	session->behind = !reached(session->progress, bounds, nbounds);
	if (plan == NULL && session->doubtful)
	{
		session->behind = false;
		session->held_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DOUBT_CHECK_MS);
	}
	return plan != NULL;
}

/*
 * Run the batch that was planned and not committed, if there is one.
 */
static bool
finish_pending_batch(SaggSession *session)
{
	ListCell   *lc;

	if (session->progress->pending == NULL)
		return false;
	MemoryContextReset(session->batch_memory);
	sagg_session_settings(session);
	foreach(lc, session->sessions)
	{
		SaggSession *one = lfirst(lc);

		one->plan = one->progress->pending;
		one->progress->pending = sagg_batch_size_retry(one, sagg_poison_retry(one, one->plan));
	}
	foreach(lc, session->sessions)
		((SaggSession *) lfirst(lc))->plan = ((SaggSession *) lfirst(lc))->progress->pending;
	sagg_micro_batch(session, session->plan);
	foreach(lc, session->sessions)
		((SaggSession *) lfirst(lc))->progress->pending = NULL;
	session->behind = true;
	return true;
}

/*
 * Serve process_available: batches until all that Kafka had at the request is
 * committed.  It takes the place of a trigger.
 */
static void
serve_requests(SaggSession *session)
{
	SaggRange  *bounds;
	int			nbounds;

	sagg_session_check_now(session);
	(void) finish_pending_batch(session);
	bounds = sagg_reader_bounds(session->reader, &nbounds);
	sagg_publish_ends(session, bounds, nbounds);
	sagg_session_verify(session, bounds, nbounds);
	while (sagg_session_replaces(session) || session->made_anew != NIL ||
		   !reached(session->progress, bounds, nbounds))
	{
		sagg_session_check_stop(session);
		if (run_batch(session, bounds, nbounds))
			continue;
		if (!session->doubtful)
			break;
		(void) sagg_session_wait(session, false, DOUBT_CHECK_MS);
		pfree(bounds);
		bounds = sagg_reader_bounds(session->reader, &nbounds);
	}

	/* what has come since is for the next trigger, if that is one by time */
	session->held_until = 0;
	session->behind = session->stream->trigger == 0 ||
		!reached(session->progress, bounds, nbounds);
	if (session->stream->trigger > 0)
		session->next_trigger = next_multiple(session->stream->trigger,
											  GetCurrentTimestamp());
	pfree(bounds);
	sagg_sessions_recovered(session);
	requests_served(session);
}

/*
 * Look now and then whether there are other topics or partitions to read.
 */
static bool
partitions_changed(SaggSession *session)
{
	sagg_session_check_idle(session);
	return sagg_reader_partitions_changed(session->reader);
}

/*
 * A trigger by time: run a batch if there is anything.
 */
static void
fire(SaggSession *session)
{
	SaggRange  *bounds;
	int			nbounds;
	bool		held = session->held_until != 0;
	long		unused = 0;

	session->held_until = 0;
	if (finish_pending_batch(session))
	{
		sagg_sessions_recovered(session);
		return;
	}
	if (!session->behind && !held &&
		!sagg_reader_has_records(session->reader) &&
		!partitions_changed(session) &&
		GetCurrentTimestamp() < sagg_idle_due(session) &&
		!sagg_reader_in_trouble(session->reader, &unused))
	{
		sagg_publish_no_news(session);
		return;
	}
	bounds = sagg_reader_bounds(session->reader, &nbounds);
	sagg_publish_ends(session, bounds, nbounds);
	sagg_session_verify(session, bounds, nbounds);
	if (!held_back(session, bounds, nbounds))
		(void) run_batch(session, bounds, nbounds);
	pfree(bounds);
	sagg_sessions_recovered(session);
}

/*
 * Report what the batches did to their tables, for autovacuum and the
 * statistics views: a worker has to do so itself.  Not too often, so some may
 * be left; that is reported when the time that the server asks for is over.
 * Returns for how many of "timeout_ms" to sleep until then.
 */
static long
report_statistics(SaggSession *session, long timeout_ms)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		force = session->statistics_due != 0 && now >= session->statistics_due;
	long		delay_ms = pgstat_report_stat(force);

	if (delay_ms <= 0)
	{
		session->statistics_due = 0;
		return timeout_ms;
	}
	if (session->statistics_due == 0)
		session->statistics_due = TimestampTzPlusMilliseconds(now, delay_ms);
	return Min(timeout_ms,
			   Max(1, TimestampDifferenceMilliseconds(now, session->statistics_due)));
}

/*
 * What there is to do before a sleep of "timeout_ms"; returns how long to sleep
 * before there may be more.
 */
static long
idle_work(SaggSession *session, long timeout_ms)
{
	timeout_ms = report_statistics(session, timeout_ms);
	timeout_ms = sagg_reader_tend_group(session->reader, timeout_ms);
	return sagg_reader_rest(session->reader, session->stream->trigger / 1000, timeout_ms);
}

/*
 * Is a record searched that cannot be processed?
 */
static bool
in_search(const SaggSession *session)
{
	ListCell   *lc;

	foreach(lc, session->sessions)
	{
		if (((SaggSession *) lfirst(lc))->progress->nsuspects > 0)
			return true;
	}
	return false;
}

/*
 * Sleep until the next trigger is due, a request comes in or, with interval
 * 0, Kafka has something.
 */
static void
wait_for_trigger(SaggSession *session)
{
	int64		interval = session->stream->trigger;
	TimestampTz now = GetCurrentTimestamp();
	char		activity[SAGG_NAME_SIZE + 64];
	ListCell   *lc;

	/* behind, without a limit of the user's, or in the middle: no pause */
	if ((session->behind && session->stream->max_offsets == 0) ||
		session->progress->pending != NULL || in_search(session))
		session->next_trigger = now;

	snprintf(activity, sizeof(activity), "stream \"%s\": waiting for a trigger",
			 session->slot->name);
	pgstat_report_activity(STATE_IDLE, activity);
	foreach(lc, session->sessions)
		((SaggSession *) lfirst(lc))->slot->stage = SAGG_STAGES;
	(void) report_statistics(session, 0);

	while (!open_request(session) && !sagg_reader_company_changed(session))
	{
		if (interval == 0 && session->held_until != 0)
		{
			now = GetCurrentTimestamp();
			if (now >= session->held_until)
				break;
			(void) sagg_session_wait(session, false,
									 idle_work(session, TimestampDifferenceMilliseconds(now, session->held_until)));
		}
		else if (interval == 0)
		{
			long		timeout_ms = PARTITIONS_CHECK_MS;

			now = GetCurrentTimestamp();
			if (sagg_idle_due(session) != DT_NOEND)
				timeout_ms = Min(timeout_ms,
								 TimestampDifferenceMilliseconds(now, sagg_idle_due(session)));
			if (session->behind || session->progress->pending != NULL ||
				now >= sagg_idle_due(session) ||
				sagg_reader_has_records(session->reader) ||
				partitions_changed(session) ||
				sagg_reader_in_trouble(session->reader, &timeout_ms))
				break;
			sagg_publish_no_news(session);
			(void) sagg_session_wait(session, true, idle_work(session, timeout_ms));
		}
		else
		{
			now = GetCurrentTimestamp();
			if (now >= session->next_trigger)
				break;
			(void) sagg_session_wait(session, false,
									 idle_work(session, TimestampDifferenceMilliseconds(now, session->next_trigger)));
		}
	}
}

/*
 * Trigger after trigger, until an ERROR or until the process is told to end.
 */
void
sagg_trigger_loop(SaggSession *session)
{
	session->next_trigger = GetCurrentTimestamp();
	session->behind = true;		/* until Kafka was asked */

	for (;;)
	{
		sagg_session_check_stop(session);
		wait_for_trigger(session);
		session->plan = NULL;
		MemoryContextSwitchTo(session->memory);

		if (sagg_reader_company_changed(session))
		{
			sagg_session_settings(session);
			sagg_company_change(session);
		}
		else if (open_request(session))
			serve_requests(session);
		else
		{
			if (session->stream->trigger > 0)
				session->next_trigger = next_multiple(session->stream->trigger,
													  GetCurrentTimestamp());
			fire(session);
		}
	}
}
