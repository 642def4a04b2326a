/*-------------------------------------------------------------------------
 *
 * stop_wait.c
 *	  Waits until the worker of a stream releases it.
 *
 * A worker that is asked to stop finishes its current micro-batch.  If it does
 * not finish within stream_agg.stop_timeout, it is cancelled: the micro-batch
 * is rolled back, and run again by the same plan when the stream starts again.
 * If users' code has caught the cancellation, the worker is terminated.
 *
 * The wait is one for the stream's lock, so that the deadlock detector sees it; a
 * timer of the waiting process sends the signals meanwhile.
 *
 * The timer's handler never takes SaggShared->lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "control.h"

/* how long a worker has after each signal before it is sent the next one */
#define NEXT_SIGNAL_MS		5000

/* slot whose worker is waited for; read by the handler */
static SaggSlot *volatile waited_for = NULL;
static volatile Oid waited_view;
static volatile int signals_sent;

/*
 * The worker's time is up.  It may have ended just now, and another stream may
 * have got the slot; then its process id differs.
 */
static void
end_worker(void)
{
	SaggSlot   *slot = waited_for;
	pid_t		pid;

	if (slot == NULL || !slot->in_use || slot->database != MyDatabaseId ||
		slot->view != waited_view)
		return;
	pid = slot->pid;
	if (pid > 0)
		kill(pid, signals_sent++ == 0 ? SIGINT : SIGTERM);
}

/*
 * Take the lock of a stream, whose slot is "slot", until the end of the
 * transaction.  When the worker in turn waits for this transaction, the worker
 * gives way: it looks for deadlocks early (SAGG_WORKER_DEADLOCK_TIMEOUT), this
 * transaction late.
 */
void
sagg_wait_for_worker(SaggSlot *slot, Oid view)
{
	static TimeoutId timeout = MAX_TIMEOUTS;
	int			nestlevel = NewGUCNestLevel();
	LOCKTAG		tag;

	if (timeout == MAX_TIMEOUTS)
		timeout = RegisterTimeout(USER_TIMEOUT, end_worker);
	sagg_stream_locktag(&tag, MyDatabaseId, view);
	(void) set_config_option("deadlock_timeout", "30s", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	waited_view = view;
	signals_sent = 0;
	waited_for = slot;
	PG_TRY();
	{
		if (slot && sagg_stop_timeout_ms >= 0)
			enable_timeout_every(timeout,
								 TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															 sagg_stop_timeout_ms),
								 NEXT_SIGNAL_MS);
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
	}
	PG_FINALLY();
	{
		waited_for = NULL;
		disable_timeout(timeout, false);
	}
	PG_END_TRY();
	AtEOXact_GUC(false, nestlevel);
}
