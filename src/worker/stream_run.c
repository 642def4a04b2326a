/*-------------------------------------------------------------------------
 *
 * stream_run.c
 *	  A stream worker's hold on its slot, and what it asks while it works: is
 *	  it to stop, is the stream still there, has anything come.
 *
 * The process has its slot from sagg_session_attach to its end, whatever that
 * is.  It ends in good order by sagg_session_leave only.
 *
 * Never: a wait within a transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "streams/streams.h"
#include "worker_internal.h"

/* how often an idle stream looks at the catalogs */
#define STREAM_CHECK_MS		30000

static SaggSlot *my_slot;
static SaggExit my_exit = SAGG_EXIT_DIED;
static bool connected = false;	/* to the database, as the owner */

/*
 * The process ends: give the slot back and let the launcher decide.
 */
static void
detach_from_slot(int code, Datum arg)
{
	SaggSlot   *slot = my_slot;
	Oid			database = slot->database;

	/*
	 * The server releases session-level locks of an open transaction only.
	 * Nothing is open here: ShutdownPostgres, registered later, ran before.
	 */
	LockReleaseAll(DEFAULT_LOCKMETHOD, true);
	sagg_mark_end();

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	if (my_exit == SAGG_EXIT_DIED && !connected)
		sagg_slot_set_error(slot, ERRCODE_CONNECTION_FAILURE, SAGG_NO_CONNECTION);
	sagg_slot_vacate(slot, my_exit);
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		/* others that the process worked for: another will */
		if (sagg_shared->slots[i].lead == slot)
			sagg_slot_vacate(&sagg_shared->slots[i],
							 my_exit == SAGG_EXIT_DIED ? SAGG_EXIT_DIED : SAGG_EXIT_STOPPED);
	}
	LWLockRelease(sagg_shared->lock);
	ConditionVariableBroadcast(&sagg_shared->slots_changed);
	sagg_mark_database(database);
}

/*
 * Take slot number "i" for the session of this process; ends the process if
 * nobody wants it to run.  Until the end of the process the slot is its own.
 */
void
sagg_session_attach(SaggSession *session, int i)
{
	SaggSlot   *slot = &sagg_shared->slots[i];
	bool		mine;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	mine = slot->in_use && slot->wanted && slot->pid == 0 && slot->lead == NULL &&
		slot->stop_holds == 0 && !sagg_database_held(slot->database);
	slot->launching = false;
	if (mine)
	{
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		sagg_slot_placed(slot);
	}
	LWLockRelease(sagg_shared->lock);
	if (!mine)
		proc_exit(0);
	my_slot = slot;
	SAGG_FAILPOINT_STREAM(slot->name);
	sagg_mark_begin(&slot->mark, slot->view);
	sagg_session_init(session, session, slot);
	before_shmem_exit(detach_from_slot, (Datum) 0);
}

/*
 * The process is connected to the database, as the owner.
 */
void
sagg_session_connected(void)
{
	connected = true;
}

/*
 * End the process in good order.  The holder of the stream's lock leaves no
 * shared state behind: the next worker restores it from the checkpoint.  Of
 * streams that share a reader "how" is about the session's.
 */
void
sagg_session_leave(SaggSession *session, SaggExit how)
{
	ListCell   *lc;

	if (how == SAGG_EXIT_STOPPED)
		sagg_session_stopped(session);
	foreach(lc, session->lead->held)
	{
		SaggSession *one = lfirst(lc);

		if (!one->locked)
			continue;
		if (one->store)
			sagg_store_close(one->store);
		one->store = NULL;
		sagg_state_discard(one->slot);
	}
	if (session != session->lead)
	{
		/* without it the others go on */
		LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
		sagg_slot_vacate(session->slot, how);
		LWLockRelease(sagg_shared->lock);
		how = SAGG_EXIT_CHANGED;
	}
	my_exit = how;
	proc_exit(0);
}

/*
 * Be who the process has connected as, whatever ALTER ROLE or ALTER DATABASE
 * have set the role to.  Outside of transactions.
 */
void
sagg_worker_reset_role(void)
{
	SetConfigOption("role", "none", PGC_USERSET, PGC_S_SESSION);
}

/*
 * What a worker is called where everybody can see it, in pg_stat_activity: by
 * the OID of the stream's view, for the names of streams are their owners' and
 * the database's.  In the current context.
 */
static char *
session_label(const SaggSession *session)
{
	return psprintf("stream_agg %u", session->slot->view);
}

/*
 * The settings captured when the stream was created, and those a batch depends
 * on whatever the role or the database say.  All others are as at the start of
 * the session: what a function of the user has set, the role included, does not
 * outlive its micro-batch.  To be called before each micro-batch and before a look
 * at the catalogs, and outside of transactions, or the first one would begin with
 * other defaults.
 */
void
sagg_session_settings(const SaggSession *session)
{
	const SaggStream *stream = session->stream;
	MemoryContext memory = AllocSetContextCreate(session->memory, "stream_agg settings",
												 ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(memory);

	SetConfigOption("role", "none", PGC_USERSET, PGC_S_SESSION);
	ResetAllOptions();
	SetConfigOption("timezone", stream->timezone, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("datestyle", stream->datestyle, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("intervalstyle", stream->intervalstyle, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("search_path", stream->search_path, PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_deferrable", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("row_security", "on", PGC_USERSET, PGC_S_SESSION);
	/* every micro-batch would be compiled anew */
	SetConfigOption("jit", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("deadlock_timeout", SAGG_WORKER_DEADLOCK_TIMEOUT, PGC_SUSET, PGC_S_SESSION);
	SetConfigOption("application_name", session_label(session), PGC_USERSET, PGC_S_SESSION);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(memory);
}

/*
 * The same captured settings for one stream's part of a transaction that several
 * share.  Returns a number for AtEOXact_GUC, which takes back these and what
 * functions of the user have set since.
 */
int
sagg_session_settings_begin(const SaggSession *session)
{
	const SaggStream *stream = session->stream;
	const char *const settings[][2] = {
		{"timezone", stream->timezone},
		{"datestyle", stream->datestyle},
		{"intervalstyle", stream->intervalstyle},
		{"search_path", stream->search_path},
		{"application_name", session_label(session)}
	};
	int			nestlevel = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

/*
 * Whether the stream is to stop.
 */
bool
sagg_session_told_to_stop(const SaggSession *session)
{
	const SaggSlot *slot = session->slot;
	bool		stop;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	stop = slot->stop_holds > 0 || !slot->wanted || !sagg_enabled ||
		sagg_database_held(slot->database);
	LWLockRelease(sagg_shared->lock);
	return stop;
}

/*
 * Serve interrupts and settings; end the process if the stream is to stop.
 * To be called outside of transactions only.
 */
void
sagg_session_check_stop(SaggSession *session)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (sagg_session_told_to_stop(session->lead))
		sagg_session_leave(session->lead, SAGG_EXIT_STOPPED);
	sagg_followers_check_stop(session->lead);
}

/*
 * Kafka is waited for: if that has taken a while, say so in pg_stat_stream_agg,
 * and once in the log.  The stream's state is what it was.  "since" as for
 * sagg_reader_silence.
 */
void
sagg_session_report_silence(SaggSession *session, TimestampTz since)
{
	char	   *text = sagg_reader_silence(session->reader, since);
	ListCell   *lc;

	if (text == NULL)
		return;
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	foreach(lc, session->lead->held)
		sagg_slot_set_error(((SaggSession *) lfirst(lc))->slot,
							ERRCODE_CONNECTION_FAILURE, text);
	LWLockRelease(sagg_shared->lock);
	if (!session->silence_logged)
		ereport(LOG,
				(errmsg_internal("stream \"%s\": %s", session->slot->name, text)));
	session->silence_logged = true;
	pfree(text);
}

/*
 * Show a stage in pg_stat_stream_agg and pg_stat_activity.
 */
void
sagg_session_stage(SaggSession *session, SaggStage stage)
{
	static const char *const names[SAGG_STAGES] =
	{"READ", "EXECUTE", "WRITE", "CHECKPOINT"};
	char		activity[SAGG_NAME_SIZE + 64];
	ListCell   *lc;

	session->slot->stage = stage;
	if (stage == SAGG_READ)
	{
		foreach(lc, session->sessions)
			((SaggSession *) lfirst(lc))->slot->stage = stage;
	}
	snprintf(activity, sizeof(activity), "stream \"%s\", batch " INT64_FORMAT ": %s",
			 session->slot->name, session->plan->batch, names[stage]);
	pgstat_report_activity(STATE_RUNNING, activity);
}

/*
 * Sleep until the latch is set, Kafka has something (if "kafka"), or the time
 * is over (-1: no limit).  Returns true if Kafka has something.
 */
bool
sagg_session_wait(SaggSession *session, bool kafka, long timeout_ms)
{
	static uint32 wait_kafka = 0;
	static uint32 wait_trigger = 0;
	WaitEvent	events[2];
	bool		readable = false;
	int			n;

	if (wait_kafka == 0)
	{
		wait_trigger = SAGG_WAIT_EVENT("StreamAggTrigger");
		wait_kafka = SAGG_WAIT_EVENT("StreamAggKafka");
	}

	if (!kafka)
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (timeout_ms >= 0 ? WL_TIMEOUT : 0),
						 timeout_ms, wait_trigger);
	else
	{
		n = WaitEventSetWait(session->lead->waitset, timeout_ms, events, 2, wait_kafka);
		for (int i = 0; i < n; i++)
			readable = readable || (events[i].events & WL_SOCKET_READABLE) != 0;
	}
	ResetLatch(MyLatch);
	sagg_session_check_stop(session);
	return readable;
}

/*
 * Leave if the stream's query, sink or sources belong to others than those it was
 * started for.  In a transaction, as the stream's owner; to be called again when
 * they are locked.
 */
void
sagg_session_check_owners(SaggSession *session)
{
	const SaggStream *stream = session->stream;

	if (sagg_relation_owner(session->slot->view) != GetUserId() ||
		!sagg_stream_has_owners(stream->owners, stream->view, stream->sink, stream->sources))
		sagg_session_leave(session, SAGG_EXIT_CHANGED);
}

/*
 * In a batch's transaction: is the stream still there, still this worker's and of
 * those who owned its parts, and has its source the topics the reader knows?  Ends the process if not; the
 * next one goes on with what the catalogs say.
 */
void
sagg_session_check_stream(SaggSession *session)
{
	if (!sagg_extension_exists() || !OidIsValid(sagg_relation_owner(session->slot->view)))
		sagg_session_leave(session, SAGG_EXIT_GONE);
	sagg_session_check_owners(session);
	if (sagg_reader_sources_changed(session->reader, session->stream->sources))
		sagg_session_leave(session, SAGG_EXIT_CHANGED);
	session->stream_checked = GetCurrentTimestamp();
}

/*
 * The same outside of batches, in a transaction of its own, as the stream's owner
 * whatever role the last batch has left.
 */
void
sagg_session_check_now(SaggSession *session)
{
	sagg_session_settings(session);
	StartTransactionCommand();
	sagg_session_check_stream(session);
	CommitTransactionCommand();
	MemoryContextSwitchTo(session->memory);
}

/*
 * For a stream without batches, which would not notice otherwise: now and then.
 */
void
sagg_session_check_idle(SaggSession *session)
{
	if (TimestampDifferenceExceeds(session->stream_checked, GetCurrentTimestamp(),
								   STREAM_CHECK_MS))
		sagg_session_check_now(session);
}
