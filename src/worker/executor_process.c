/*-------------------------------------------------------------------------
 *
 * executor_process.c
 *	  An executor: a process that does a share of the READ and EXECUTE of a
 *	  stream's micro-batches.
 *
 * It is started by the stream's worker, its leader, lives as long as the leader's
 * reading is open, and does what the leader says.  It is connected as the stream's
 * owner, has a reader of its own, and is in the leader's lock group: a lock of one
 * of them does not block the other.  Between micro-batches it tells the leader
 * when its partitions have records.
 *
 * An error goes to the leader and ends the process.  So does the end of the leader.
 *
 * Never: a change of shared state or tables, a lock of a stream, a retry.
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
#include "tcop/tcopprot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "define/define.h"
#include "streams/streams.h"
#include "executors.h"

/* how often to look at sources that do not say when they have records */
#define IDLE_MS		1000

/* for a process of the same number to end */
#define MARK_WAIT_MS	10

PGDLLEXPORT void stream_agg_executor_main(Datum arg);

static uint32
wait_event(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = SAGG_WAIT_EVENT("StreamAggExecutor");
	return event;
}

static void
detach(int code, Datum arg)
{
	SaggLinkHead *head = (SaggLinkHead *) DatumGetPointer(arg);

	pg_atomic_write_u32(&head->failed, 1);
	sagg_mark_end();
	sagg_process_freed();
}

/*
 * Take the mark of this executor, when the process that had it before has ended.
 */
static void
take_mark(SaggSlot *slot, SaggLinkHead *head, Oid view)
{
	SaggMark   *mark = &slot->executor_marks[head->number - 1];

	while (mark->activity != SAGG_NO_PROCESS)
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 MARK_WAIT_MS, wait_event());
		ResetLatch(MyLatch);
	}
	sagg_mark_begin(mark, view);
	before_shmem_exit(detach, PointerGetDatum(head));
}

/*
 * Find the leader's stream, and connect to its database as its owner.  Ends the
 * process if the leader is gone.
 */
static void
connect_to_leader(SaggExecutorBatch *batch)
{
	SaggLinkHead *head = batch->link->head;
	SaggSlot   *slot = &sagg_shared->slots[head->slot];
	Oid			database;
	Oid			owner;
	Oid			view;
	bool		present;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	present = slot->in_use && slot->pid == head->leader_pid &&
		!sagg_database_held(slot->database);
	database = slot->database;
	owner = slot->owner;
	view = slot->view;
	LWLockRelease(sagg_shared->lock);
	if (!present)
		proc_exit(0);
	take_mark(slot, head, view);
	SAGG_FAILPOINT_STREAM(psprintf("%s.%d", slot->name, head->number));
	SAGG_FAILPOINT("executor.started");
	BackgroundWorkerInitializeConnectionByOid(database, owner, 0);
	sagg_worker_reset_role();
	if (!BecomeLockGroupMember(head->leader, head->leader_pid))
		proc_exit(0);
	batch->run->slot = slot;
}

/*
 * Read the definition of the stream, and open a reader of its sources.
 */
static void
open_stream(SaggExecutorBatch *batch)
{
	SaggStreamRun *run = batch->run;
	SaggStream *stream = NULL;
	MemoryContext old;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	old = MemoryContextSwitchTo(run->memory);
	if (sagg_extension_exists())
		stream = sagg_stream_by_view(run->slot->view, true);
	if (stream == NULL || stream->owner != GetUserId() ||
		!sagg_stream_has_owners(stream->owners, stream->view, stream->sink, stream->sources))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("stream \"%s\" has changed while an executor started", run->slot->name)));
	run->stream = stream;
	batch->reader = sagg_reader_open(stream->sources,
									 stream->options.on_error == SAGG_DEAD_LETTER ||
									 stream->options.late_records);
	MemoryContextSwitchTo(old);
	if (stream->options.on_data_loss == SAGG_LOSS_EARLIEST)
		sagg_reader_skips_lost(batch->reader);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/*
 * Called by the reader while it waits for an answer.
 */
static void
while_waiting(void *arg)
{
	CHECK_FOR_INTERRUPTS();
}

static void
make_wait_set(SaggExecutorBatch *batch)
{
	pgsocket	fd = sagg_reader_fd(batch->reader);

	batch->waitset = SAGG_CREATE_WAIT_EVENT_SET(3);
	AddWaitEventToSet(batch->waitset, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(batch->waitset, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	if (fd != PGINVALID_SOCKET)
		AddWaitEventToSet(batch->waitset, WL_SOCKET_READABLE, fd, NULL, NULL);
}

/*
 * SAGG_TO_FIND_GAP: say where the offsets without a record end that the range of the
 * command begins with.
 */
static void
find_gap(SaggExecutorBatch *batch, StringInfo command)
{
	StringInfoData message;
	SaggRange  *range;
	int			n;

	range = sagg_get_ranges(command, &n);
	initStringInfo(&message);
	sagg_put_int(&message, sagg_reader_gap_end(batch->reader, range));
	pfree(range);
	if (!sagg_link_send(batch->link, SAGG_GAP_END, message.data, message.len))
		proc_exit(0);
	pfree(message.data);
}

static void
obey(SaggExecutorBatch *batch, char type, StringInfo command)
{
	SaggRange  *positions;
	int			n;

	switch (type)
	{
		case SAGG_TO_ASSIGN:
			positions = sagg_get_ranges(command, &n);
			sagg_reader_assign(batch->reader, positions, n);
			pfree(positions);
			break;
		case SAGG_TO_FIND_GAP:
			find_gap(batch, command);
			break;
		case SAGG_TO_READ:
			sagg_share_read(batch, command);
			break;
		case SAGG_TO_EXECUTE:
			sagg_share_execute(batch, command);
			break;
		case SAGG_TO_GIVE_REJECTED:
			sagg_share_give_rejected(batch);
			break;
		case SAGG_TO_GIVE_LATE:
			sagg_share_give_late(batch);
			break;
		case SAGG_TO_RELEASE:
			sagg_share_release(batch);
			break;
		default:
			elog(ERROR, "an executor does not know command '%c'", type);
	}
}

/*
 * Sleep until there is a command, or the source has something.  Tells the leader
 * when the source has.
 */
static void
idle(SaggExecutorBatch *batch)
{
	pg_atomic_uint32 *has_records = &batch->link->head->has_records;
	bool		before = pg_atomic_read_u32(has_records) != 0;
	bool		now;
	long		timeout_ms;

	/* the records are prefetched until they are released */
	if (batch->holds)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, 0,
						 wait_event());
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		return;
	}
	now = sagg_reader_has_records(batch->reader);
	pg_atomic_write_u32(has_records, now);
	if (now && !before)
		SetLatch(batch->link->head->leader_latch);
	timeout_ms = sagg_memory_rest(&batch->memory_use, batch->run->slot, batch->reader, IDLE_MS);
	sagg_executor_wait(batch, sagg_reader_rest(batch->reader, IDLE_MS, timeout_ms));
}

static void
obey_commands(SaggExecutorBatch *batch)
{
	for (;;)
	{
		StringInfoData command;
		char		type;
		bool		ended;

		if (!sagg_link_begin(batch->link))
			proc_exit(0);
		if (sagg_link_receive(batch->link, false, &type, &command, &ended))
		{
			obey(batch, type, &command);
			continue;
		}
		if (ended)
			proc_exit(0);
		sagg_link_end(batch->link);
		idle(batch);
	}
}

/*
 * Tell the leader about the error being handled, and end.
 */
static void
report_error(SaggExecutorBatch *batch)
{
	StringInfoData message;
	ErrorData  *error;
	SaggPlace	place;

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	FlushErrorState();
	if (!sagg_scan_last_record(&place))
		place.partition = -1;
	AbortOutOfAnyTransaction();
	RESUME_INTERRUPTS();
	MemoryContextSwitchTo(TopMemoryContext);
	initStringInfo(&message);
	sagg_put_error(&message, error, &place);
	pg_atomic_write_u32(&batch->link->head->failed, 1);
	(void) sagg_link_send(batch->link, SAGG_FAILED_EXECUTOR, message.data, message.len);
	proc_exit(0);
}

/*
 * Main function of an executor; the argument is the handle of the link's segment.
 */
void
stream_agg_executor_main(Datum arg)
{
	SaggStreamRun run = {0};
	SaggLink	link = {0};
	SaggExecutorBatch batch = {.run = &run, .link = &link};

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	sagg_memory_keep();
	sagg_clip_reports();
	if (!sagg_link_attach(&link, DatumGetUInt32(arg)))
		proc_exit(0);
	run.memory = AllocSetContextCreate(TopMemoryContext, "stream_agg run", ALLOCSET_DEFAULT_SIZES);
	batch.memory = AllocSetContextCreate(TopMemoryContext, "stream_agg batch", ALLOCSET_DEFAULT_SIZES);
	connect_to_leader(&batch);

	PG_TRY();
	{
		open_stream(&batch);
		sagg_reader_on_wait(batch.reader, while_waiting, NULL);
		make_wait_set(&batch);
		sagg_run_settings(&run);
		pgstat_report_activity(STATE_IDLE, NULL);
		obey_commands(&batch);
	}
	PG_CATCH();
	{
		report_error(&batch);
	}
	PG_END_TRY();
}
