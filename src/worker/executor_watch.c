/*-------------------------------------------------------------------------
 *
 * executor_watch.c
 *	  Looks after executors while the stream's worker is busy: if one of them fails,
 *	  the worker breaks off what it does.
 *
 * A timer looks every WATCH_MS whether an executor has failed, and then cancels the
 * worker's query.  What the worker has made by then would be lost anyhow.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "executor_pool.h"

#define WATCH_MS	100

/* executors of the batch that is being executed, NULL = none is */
static SaggExecutors *volatile watched = NULL;

/* for whom the worker's query was cancelled, NULL = it was not */
static SaggExecutor *volatile failed = NULL;

static TimeoutId watch_timeout = MAX_TIMEOUTS;

/*
 * Timeout handler.
 */
static void
look_after_executors(void)
{
	SaggExecutors *executors = watched;

	for (int i = 0; executors && failed == NULL && i < executors->n; i++)
	{
		SaggExecutor *executor = &executors->list[i];

		if (executor->nranges == 0 || pg_atomic_read_u32(&executor->link.head->failed) == 0)
			continue;
		failed = executor;
		QueryCancelPending = true;
		InterruptPending = true;
	}
}

/*
 * Look after executors from now on.
 */
void
sagg_executor_watch_begin(SaggExecutors *executors)
{
	if (watch_timeout == MAX_TIMEOUTS)
		watch_timeout = RegisterTimeout(USER_TIMEOUT, look_after_executors);
	failed = NULL;
	watched = executors;
	enable_timeout_every(watch_timeout,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), WATCH_MS), WATCH_MS);
}

/*
 * Do not look any more.  Returns the executor for whose failure the worker's query was
 * cancelled, NULL if it was not; a cancellation that has not been noticed is taken
 * back.  Links can be closed afterwards.
 */
SaggExecutor *
sagg_executor_watch_end(void)
{
	if (watched == NULL)
		return NULL;
	disable_timeout(watch_timeout, false);
	watched = NULL;
	if (failed)
		QueryCancelPending = false;
	return failed;
}
