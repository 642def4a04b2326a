/*-------------------------------------------------------------------------
 *
 * stream_worker.c
 *	  The worker of a stream: sessions of micro-batches, and what becomes of
 *	  errors.
 *
 * A worker connects as the stream's owner (I8), takes the stream's lock at
 * session level before it touches shared state (I2), opens a session - reader,
 * checkpoint, sink, state store - and runs micro-batches until it is told to
 * stop.  On an ERROR the session is closed, shared state is put back (I3) and,
 * after a delay, a new session goes on with the same plan; the process stays.
 * On anything worse the process ends and the launcher starts another.
 *
 * Never: a transaction open while waiting for Kafka or for a trigger, but for
 * what a sink outside of the server has to acknowledge (sink.h).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "define/define.h"
#include "streams/streams.h"
#include "worker_internal.h"

PGDLLEXPORT void stream_agg_worker_main(Datum arg);

/*
 * Read the definition, in a transaction, and take the stream's lock.  Returns
 * false if there is no such stream for this worker, and in "how" why.
 */
bool
sagg_session_take(SaggSession *session, SaggExit *how)
{
	LOCKTAG		tag;

	sagg_stream_locktag(&tag, MyDatabaseId, session->slot->view);
	if (!session->locked && LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		ereport(LOG,
				(errmsg("another process holds stream \"%s\"", session->slot->name),
				 errdetail("This worker has not touched the stream's state.")));
		*how = SAGG_EXIT_DIED;
		return false;
	}
	session->locked = true;
	sagg_slot_discard_stale(session->slot);

	*how = SAGG_EXIT_GONE;
	if (!sagg_extension_exists())
		return false;
	MemoryContextSwitchTo(session->memory);
	session->stream = sagg_stream_by_view(session->slot->view, true);
	if (session->stream == NULL)
		return false;
	*how = SAGG_EXIT_CHANGED;
	return session->stream->owner == GetUserId() && session->stream->enabled &&
		session->stream->database == MyDatabaseId;
}

/*
 * While the reader waits for an answer from Kafka, which may take long.
 */
static void
while_waiting(void *arg)
{
	SaggSession *session = (SaggSession *) arg;

	sagg_session_check_stop(session);
	sagg_session_report_silence(session, 0);
}

/*
 * Open what belongs to the stream itself, not to its reader.  In a transaction.
 */
void
sagg_session_open_parts(SaggSession *session)
{
	MemoryContextSwitchTo(session->memory);
	session->checkpoint = sagg_checkpoint_open(session->stream->name,
											   sagg_sources_by_topic(session->stream->sources));
	session->sink = sagg_sink_open(session->stream);
	session->progress = sagg_checkpoint_progress(session->checkpoint);
	sagg_sink_recover(session->sink, session->progress->batch);
	sagg_poison_opened(session);
}

/*
 * Mappings and options of the server may have changed since the stream was told
 * of its consumer group.  Without one it goes on.
 */
static void
set_group(SaggSession *session)
{
	const SaggStream *stream = session->stream;
	const char *group = stream->options.consumer_group;

	if (group && !sagg_group_allowed(linitial_oid(stream->sources), stream->owner,
									 group, stream->name))
	{
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("stream \"%s\" may not commit to consumer group \"%s\" any more",
						session->slot->name, group),
				 errdetail("Its offsets are not committed to Kafka."),
				 errhint("Allow it by option \"consumer_groups\" of the server, or give the stream another group.")));
		group = NULL;
	}
	sagg_reader_set_group(session->reader, group, stream->name);
}

/*
 * Open everything a batch needs.  Contacts Kafka only after the transaction.
 */
static void
open_session(SaggSession *session)
{
	SaggExit	how;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!sagg_session_take(session, &how))
		sagg_session_leave(session, how);
	sagg_session_settings(session);
	SAGG_FAILPOINT("session.locked");

	MemoryContextSwitchTo(session->memory);
	session->batch_memory = AllocSetContextCreate(session->memory,
												  "stream_agg batch",
												  ALLOCSET_DEFAULT_SIZES);
	sagg_session_open_parts(session);
	session->reader = sagg_reader_open(session->stream->sources,
									   session->stream->options.on_error == SAGG_DEAD_LETTER ||
									   session->stream->options.late_records);
	if (session->stream->options.on_data_loss == SAGG_LOSS_EARLIEST)
		sagg_reader_skips_lost(session->reader);
	sagg_reader_skips_unreadable(session->reader, session->stream->options.on_error != SAGG_FAIL);
	sagg_reader_on_wait(session->reader, while_waiting, session);
	set_group(session);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(session->memory);

	session->waitset = SAGG_CREATE_WAIT_EVENT_SET(3);
	AddWaitEventToSet(session->waitset, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET,
					  NULL, NULL);
	AddWaitEventToSet(session->waitset, WL_LATCH_SET, PGINVALID_SOCKET,
					  MyLatch, NULL);
	if (sagg_reader_fd(session->reader) != PGINVALID_SOCKET)
		AddWaitEventToSet(session->waitset, WL_SOCKET_READABLE,
						  sagg_reader_fd(session->reader), NULL, NULL);
	sagg_session_started(session);
	sagg_session_origin(session);
	sagg_idle_begin(session);
	SAGG_FAILPOINT("session.opened");
	sagg_publish_statistics(session);
	if (session->slot->leads)
		sagg_followers_open(session);
}

/*
 * Close what belongs to the stream itself.  What else the session has is its
 * reader's, and left alone.
 */
void
sagg_session_close_parts(SaggSession *session)
{
	if (session->sink)
		sagg_sink_close(session->sink);
	if (session->checkpoint)
		sagg_checkpoint_close(session->checkpoint);
	if (session->store)
		sagg_store_close(session->store);
	MemoryContextReset(session->memory);
	session->waitset = NULL;
	session->reader = NULL;
	session->sink = NULL;
	session->checkpoint = NULL;
	session->store = NULL;
	session->store_restored = false;
	session->stream = NULL;
	session->progress = NULL;
	session->new_partitions = false;
	session->plan = NULL;
	session->batch_memory = NULL;
	session->recreated = NIL;
	session->doubts = NIL;
	session->doubtful = false;
	session->held_until = 0;
}

/*
 * Close what open_session opened, whole or in part.  Also after an error,
 * outside of transactions.
 */
static void
close_session(SaggSession *session)
{
	sagg_followers_close(session);
	if (session->waitset)
		FreeWaitEventSet(session->waitset);
	if (session->reader)
		sagg_reader_close(session->reader);
	sagg_session_close_parts(session);
}

/*
 * Will this error go away by itself?
 */
typedef enum ErrorKind
{
	ERROR_TRANSIENT,			/* retried without end */
	ERROR_UNKNOWN,				/* retried stream_agg.max_attempts times */
	ERROR_LASTING				/* needs somebody's hand */
} ErrorKind;

static ErrorKind
classify_error(int sqlstate)
{
	if (ERRCODE_TO_CATEGORY(sqlstate) == MAKE_SQLSTATE('S', 'A', '0', '0', '0'))
		return ERROR_LASTING;
	if (sqlstate == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
		return ERROR_UNKNOWN;	/* in use it is not */
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case MAKE_SQLSTATE('0', '8', '0', '0', '0'):	/* connection */
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'):	/* rollback */
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'):	/* resources */
		case MAKE_SQLSTATE('5', '5', '0', '0', '0'):	/* object in use */
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'):	/* intervention */
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'):	/* system */
			return ERROR_TRANSIENT;
		default:
			return ERROR_UNKNOWN;
	}
}

/*
 * Count an error of a stream; is it the last attempt?
 */
static bool
attempts_are_over(SaggSession *session, ErrorKind kind, bool searching)
{
	/* progress since the last error: count attempts anew */
	if (session->slot->tally.batches != session->last_batches)
		session->attempts = 0;
	session->last_batches = session->slot->tally.batches;
	if (searching)
		return false;
	session->attempts++;
	return kind == ERROR_LASTING ||
		(kind == ERROR_UNKNOWN &&
		 (session->attempts >= sagg_max_attempts || session->slot->failures > 0));
}

/*
 * Is the error that the worker gives way to a command that ends the stream?  Then
 * it is none.
 */
static bool
gives_way(const SaggSession *session, const ErrorData *error)
{
	return (error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
			error->sqlerrcode == ERRCODE_QUERY_CANCELED) &&
		sagg_session_told_to_stop(session);
}

/*
 * Record an error and decide how long to wait before the next attempt, in ms; in
 * search of a record, not at all.  A stream that has failed goes, and those that
 * share its reader with it if they are to.  Ends the process if that leaves
 * none, or not the one that leads.
 */
static long
handle_error(SaggSession *lead, const ErrorData *error, bool searching)
{
	SaggSession *culprit = lead->at_work ? lead->at_work : lead;
	long		delay_ms = 0;
	bool		failed;
	bool		all;
	ListCell   *lc;

	if (culprit != lead && sagg_session_told_to_stop(culprit))
	{
		sagg_follower_release(culprit, SAGG_EXIT_STOPPED);
		return 0;
	}
	failed = attempts_are_over(culprit, culprit->over_limit ? ERROR_UNKNOWN :
							   classify_error(error->sqlerrcode), searching);
	if (!searching)
		delay_ms = Min((int64) SAGG_FIRST_RETRY_DELAY_MS << Min(culprit->attempts, 20),
					   sagg_max_retry_delay_ms);
	all = lead->at_work == NULL || (failed && culprit->stops_all);
	foreach(lc, lead->held)
	{
		if ((all || lfirst(lc) == culprit) && !gives_way(lfirst(lc), error))
			sagg_note_error(lfirst(lc), error, failed, searching ? 0 :
							TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms));
	}
	lead->at_work = NULL;
	if (failed && (all || culprit == lead))
		sagg_session_leave(lead, SAGG_EXIT_STOPPED);
	if (failed)
	{
		sagg_follower_release(culprit, SAGG_EXIT_STOPPED);
		return 0;
	}
	return delay_ms;
}

/*
 * A store back to the last commit.  A stream that is not to be tried again gives
 * its shared memory to others.
 */
static void
recover_store(SaggSession *session, bool lasting)
{
	if (session->store && session->store_restored && !lasting)
		sagg_store_undo(session->store);
	else if (session->store || lasting)
	{
		/* half a restore is no state */
		if (session->store)
			sagg_store_close(session->store);
		session->store = NULL;
		sagg_state_discard(session->slot);
	}
	if (session->checkpoint)
		sagg_checkpoint_aborted(session->checkpoint);
}

/*
 * After an ERROR: shared state back to the last commit, while the locks of the
 * streams are still held.  Aborting a transaction releases them; if none was open
 * it is for us to do.
 */
static void
recover_from_error(SaggSession *lead, ErrorKind kind)
{
	List	   *sessions = lead->held;
	ListCell   *lc;

	LWLockReleaseAll();
	foreach(lc, sessions)
	{
		SaggSession *session = lfirst(lc);

		recover_store(session, kind == ERROR_LASTING && session->locked &&
					  (lead->at_work == NULL || lead->at_work == session));
		if (session->sink)
			sagg_sink_aborted(session->sink);
	}
	sagg_scan_detach();
	sagg_shared_rows_end();
	AbortOutOfAnyTransaction();
	LockReleaseAll(DEFAULT_LOCKMETHOD, true);
	foreach(lc, sessions)
		((SaggSession *) lfirst(lc))->locked = false;
}

/*
 * Where a message comes from.
 */
static void
session_error_context(void *arg)
{
	SaggSession *session = (SaggSession *) arg;

	if (session->at_work)
		session = session->at_work;
	if (session->plan)
		errcontext("micro-batch " INT64_FORMAT " of stream \"%s\"",
				   session->plan->batch, session->slot->name);
	else
		errcontext("stream \"%s\"", session->slot->name);
}

/*
 * The error being handled into the server's log, if it is one.
 */
static void
report_error(const SaggSession *lead, const ErrorData *error, bool searching)
{
	const SaggSession *session = lead->at_work ? lead->at_work : lead;

	/* the same again, or what is told when the plan is made smaller */
	if (searching && (session->plan->nsuspects > 0 ||
					  session->too_large == session->plan->batch))
		return;
	if (gives_way(session, error))
		ereport(LOG,
				(errmsg("stream \"%s\" gives way to a command that waits for it to stop",
						session->slot->name)));
	else
		EmitErrorReport();
}

/*
 * Whose fault is an error, before the session that tells is closed?  Returns
 * whether a record is to be searched for it.
 */
static bool
note_fault(SaggSession *lead, const ErrorData *error)
{
	SaggSession *culprit = lead->at_work ? lead->at_work : lead;
	ListCell   *lc;

	culprit->stops_all = culprit->stream && culprit->stream->options.stops_all;
	foreach(lc, lead->held)
	{
		SaggSession *one = lfirst(lc);

		one->retries = one->stream && one->stream->options.retries;
	}
	return sagg_batch_size_failed(culprit, error) || sagg_poison_failed(culprit, error);
}

/*
 * One session: from opening to an error.  Returns the error, allocated in
 * TopMemoryContext, and whether a record is to be searched for it; otherwise
 * the process ends in it.
 */
static ErrorData *
run_session(SaggSession *session, bool *searching)
{
	ErrorContextCallback callback;
	ErrorData  *volatile error = NULL;

	callback.callback = session_error_context;
	callback.arg = session;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	PG_TRY();
	{
		open_session(session);
		sagg_trigger_loop(session);
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(TopMemoryContext);
		error = CopyErrorData();
		*searching = note_fault(session, error);
		report_error(session, error, *searching);
		FlushErrorState();
		recover_from_error(session, classify_error(error->sqlerrcode));
		close_session(session);
		sagg_mark_stream(session->slot->view);
		sagg_mark_batch(-1);
		MemoryContextSwitchTo(TopMemoryContext);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	error_context_stack = callback.previous;
	return error;
}

static void
wait_before_retry(SaggSession *session, long delay_ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);

	pgstat_report_activity(STATE_IDLE, "stream_agg: waiting to retry");
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
		bool		now;

		LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
		now = session->slot->retry_now;
		session->slot->retry_now = false;
		LWLockRelease(sagg_shared->lock);
		if (left <= 0 || now)
			break;
		(void) sagg_session_wait(session, false, left);
	}
}

/*
 * Main function of a stream's worker; the argument is the slot's number.
 */
void
stream_agg_worker_main(Datum arg)
{
	SaggSession session = {.last_batches = -1};
	SaggSlot   *slot;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	sagg_clip_reports();
	sagg_session_attach(&session, DatumGetInt32(arg));
	slot = session.slot;
	BackgroundWorkerInitializeConnectionByOid(slot->database, slot->owner, 0);
	sagg_session_connected();
	sagg_worker_reset_role();
	session.memory = AllocSetContextCreate(TopMemoryContext,
										   "stream_agg session",
										   ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		bool		searching = false;
		ErrorData  *error = run_session(&session, &searching);
		long		delay_ms = handle_error(&session, error, searching);

		FreeErrorData(error);
		wait_before_retry(&session, delay_ms);
	}
}
