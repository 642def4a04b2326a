/*-------------------------------------------------------------------------
 *
 * executor_batch.c
 *	  An executor's side of a micro-batch: READ and EXECUTE of its share.
 *
 * READ waits for the source, outside of any transaction.  EXECUTE is a read-only
 * transaction of this process, with the leader's snapshot, now() and settings; it
 * is over when the leader has what it made.  Nothing of it is lost or kept if the
 * leader's transaction fails: the records stay until the leader releases them, and
 * are read again for another attempt.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "define/define.h"
#include "streams/streams.h"
#include "executors.h"

static void
reply(SaggExecutorBatch *batch, char type, const StringInfoData *message)
{
	if (!sagg_link_send(batch->link, type, message->data, message->len))
		proc_exit(0);
}

static void
show_activity(const SaggExecutorBatch *batch, const char *stage)
{
	char		activity[SAGG_NAME_SIZE + 64];

	snprintf(activity, sizeof(activity), "stream \"%s\", batch " INT64_FORMAT ": %s",
			 batch->run->slot->name, batch->number, stage);
	pgstat_report_activity(STATE_RUNNING, activity);
}

/*
 * Sleep until the latch is set, the source has something, or the time is over.
 * Serves interrupts and settings.
 */
void
sagg_executor_wait(SaggExecutorBatch *batch, long timeout_ms)
{
	static uint32 wait_event = 0;
	WaitEvent	events[2];

	if (wait_event == 0)
		wait_event = SAGG_WAIT_EVENT("StreamAggKafka");
	(void) WaitEventSetWait(batch->waitset, timeout_ms, events, lengthof(events), wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * READ: all records of the share's ranges.
 */
static void
read_records(SaggExecutorBatch *batch)
{
	SaggReader *reader = batch->reader;
	TimestampTz last_progress = GetCurrentTimestamp();

	sagg_reader_begin(reader, batch->ranges, batch->nranges);
	batch->holds = true;
	SAGG_FAILPOINT("executor.reading");
	while (!sagg_reader_collect(reader))
	{
		sagg_executor_wait(batch, 500);
		if (sagg_reader_hears(reader) && sagg_reader_trouble(reader) == NULL)
			last_progress = GetCurrentTimestamp();
		if (TimestampDifferenceExceeds(last_progress, GetCurrentTimestamp(),
									   sagg_kafka_timeout_ms))
			sagg_raise_no_records(reader);
	}
}

static void
put_last_records(SaggExecutorBatch *batch, StringInfo message)
{
	SaggRange  *last = palloc(sizeof(SaggRange) * Max(batch->nranges, 1));
	int			n = 0;

	for (int i = 0; i < batch->nranges; i++)
	{
		if (sagg_reader_last_record(batch->reader, &batch->ranges[i], &last[n]))
			n++;
	}
	sagg_put_ranges(message, last, n);
}

/*
 * SAGG_TO_READ: read the ranges of the command, and say what they had.
 */
void
sagg_share_read(SaggExecutorBatch *batch, StringInfo command)
{
	StringInfoData message;
	const SaggRange *losses;
	int			nlosses;
	bool		whole;
	int			asked;

	sagg_share_release(batch);
	pg_atomic_write_u32(&batch->link->head->has_records, 0);
	MemoryContextSwitchTo(batch->memory);
	batch->number = sagg_get_int(command);
	sagg_reader_skips_unreadable(batch->reader, sagg_get_int(command) != 0);
	whole = sagg_get_int(command) != 0;
	batch->ranges = sagg_get_ranges(command, &batch->nranges);
	sagg_mark_batch(batch->number);
	show_activity(batch, "READ");
	sagg_run_settings(batch->run);
	read_records(batch);
	asked = sagg_reader_look_up_schemas(batch->reader, whole);
	losses = sagg_reader_losses(batch->reader, &nlosses);

	initStringInfo(&message);
	sagg_put_int(&message, sagg_batch_records(sagg_reader_batch(batch->reader)));
	sagg_put_int(&message, sagg_reader_was_broken(batch->reader));
	sagg_put_int(&message, asked);
	sagg_put_ranges(&message, losses, nlosses);
	put_last_records(batch, &message);
	SAGG_FAILPOINT("executor.read");
	reply(batch, SAGG_DONE_READING, &message);
}

/*
 * Begin a transaction that sees what the leader's sees, at the same now(), and
 * writes nothing.
 */
static void
begin_transaction(SaggExecutorBatch *batch, const SaggShare *share)
{
	int			save = ParallelWorkerNumber;
	Snapshot	snapshot;

	ParallelWorkerNumber = 0;
	SetParallelStartTimestamps(share->plan.batch_time, share->plan.batch_time);
	ParallelWorkerNumber = save;

	StartTransactionCommand();
	RestoreGUCState(share->settings);
	XactReadOnly = true;
	snapshot = RestoreSnapshot(share->snapshot);
	RestoreTransactionSnapshot(snapshot, batch->link->head->leader);
	PushActiveSnapshot(snapshot);
	MemoryContextSwitchTo(batch->memory);
}

/*
 * Returns the stream's query, which must be the one that the leader has analysed.
 */
static SaggQuery *
analyze(SaggStreamRun *run, const SaggShare *share)
{
	const SaggStream *stream = run->stream;
	SaggQuery  *query = sagg_kept_query(&run->query, stream, run->memory);

	if (query->store_fingerprint != share->fingerprint ||
		memcmp(&query->state_identity, &share->identity, sizeof(SaggIdentity)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the query of stream \"%s\" has changed while a micro-batch began",
						sagg_stream_title(stream->name))));
	query->dealt = true;
	return query;
}

static SaggExecution *
begin_execution(SaggExecutorBatch *batch, SaggQuery *query, SaggShare *share)
{
	const SaggStream *stream = batch->run->stream;
	SaggStore  *store = sagg_store_private(stream->name, 0, query->store_fingerprint,
										   share->plan.batch - 1);
	SaggExecution *execution;

	share->plan.ranges = batch->ranges;
	share->plan.nranges = batch->nranges;
	execution = sagg_execution_begin(store, stream, query, &share->plan);
	batch->rejections = stream->options.on_error == SAGG_FAIL ? NULL :
		sagg_rejections_make(stream->options.on_error);
	sagg_execution_reject(execution, batch->rejections, share->max_key_bytes);
	if (share->keeps_late)
		sagg_execution_keep_late(execution, &batch->late);
	if (share->bound_rows)
		sagg_execution_bound_rows(execution);
	if (share->rejected_state != 0 && batch->rejections &&
		sagg_batch_records(sagg_reader_batch(batch->reader)) > 0)
		sagg_reject_record(batch->rejections, 0, share->rejected_state,
						   share->rejected_message, share->rejected_detail);
	return execution;
}

/* SaggGiveFn */
static void
give(void *arg, char type, const char *data, Size len)
{
	if (!sagg_link_send(((SaggExecutorBatch *) arg)->link, type, data, len))
		proc_exit(0);
	SAGG_FAILPOINT("executor.giving");
}

/*
 * The last reply of EXECUTE, when the transaction is over.
 */
static void
reply_done(SaggExecutorBatch *batch, const SaggShare *share, Size group_memory)
{
	const SaggRejections *rejections = batch->rejections;
	StringInfoData message;

	initStringInfo(&message);
	sagg_put_int(&message, group_memory);
	sagg_put_times(&message, share->times, share->ntimes);
	sagg_put_int(&message, sagg_late_settle(&batch->late, rejections));
	sagg_put_int(&message, rejections ? rejections->count : 0);
	if (rejections && rejections->count > 0)
	{
		sagg_put_int(&message, rejections->first.sqlstate);
		sagg_put_text(&message, rejections->first.message);
		sagg_put_text(&message, rejections->first.detail);
		sagg_put_text(&message, sagg_describe_rejection(sagg_reader_batch(batch->reader),
														&rejections->first));
	}
	reply(batch, SAGG_DONE, &message);
}

/*
 * SAGG_TO_EXECUTE: run the query over the records, and hand over what it makes.
 */
void
sagg_share_execute(SaggExecutorBatch *batch, StringInfo command)
{
	const SaggStream *stream = batch->run->stream;
	SaggCommit	commit = {0};
	SaggFault	fault;
	SaggShare	share;
	SaggQuery  *query;
	SaggExecution *execution;
	Size		group_memory;

	MemoryContextSwitchTo(batch->memory);
	sagg_get_share(command, &share);
	show_activity(batch, "EXECUTE");
	sagg_reader_collect_ahead(batch->reader);
	begin_transaction(batch, &share);
	query = analyze(batch->run, &share);
	execution = begin_execution(batch, query, &share);
	commit.times = share.times;
	commit.ntimes = share.ntimes;
	sagg_execute_records(execution, stream, query, sagg_reader_batch(batch->reader),
						 batch->rejections, &commit, &fault);
	SAGG_FAILPOINT("executor.ran");
	sagg_execution_give(execution, give, batch);
	group_memory = sagg_execution_group_memory(execution);
	sagg_execution_end(execution);
	PortalHashTableDeleteAll();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(batch->memory);
	SAGG_FAILPOINT("executor.given");
	reply_done(batch, &share, group_memory);
	pgstat_report_activity(STATE_IDLE, NULL);
}

/*
 * Send records that are diverted, which "next" returns one by one.
 */
static void
give_diverted(SaggExecutorBatch *batch, SaggNextDivertedRecord next, void *arg)
{
	MemoryContext memory = AllocSetContextCreate(batch->memory, "stream_agg diverted record",
												 ALLOCSET_DEFAULT_SIZES);
	StringInfoData message;
	SaggDivertedRecord record;

	for (;;)
	{
		MemoryContextReset(memory);
		MemoryContextSwitchTo(memory);
		if (!next(arg, &record))
			break;
		initStringInfo(&message);
		sagg_put_diverted(&message, &record);
		reply(batch, SAGG_DIVERTED, &message);
		SAGG_FAILPOINT("executor.diverting");
	}
	initStringInfo(&message);
	reply(batch, SAGG_DIVERTED_END, &message);
	MemoryContextSwitchTo(batch->memory);
	MemoryContextDelete(memory);
}

/*
 * SAGG_TO_GIVE_REJECTED: the dead letters of the share.
 */
void
sagg_share_give_rejected(SaggExecutorBatch *batch)
{
	SaggRejectedReader *reader;

	StartTransactionCommand();
	MemoryContextSwitchTo(batch->memory);
	reader = sagg_rejected_open(sagg_reader_batch(batch->reader), batch->rejections->list,
								batch->rejections->count);
	give_diverted(batch, sagg_rejected_next, reader);
	sagg_rejected_close(reader);
	CommitTransactionCommand();
}

/*
 * SAGG_TO_GIVE_LATE: the late records of the share.
 */
void
sagg_share_give_late(SaggExecutorBatch *batch)
{
	SaggLateReader *reader;

	StartTransactionCommand();
	MemoryContextSwitchTo(batch->memory);
	reader = sagg_late_open(sagg_reader_batch(batch->reader), &batch->late);
	give_diverted(batch, sagg_late_next, reader);
	sagg_late_close(reader);
	CommitTransactionCommand();
}

/*
 * SAGG_TO_RELEASE: the leader has committed.  Frees the records.
 */
void
sagg_share_release(SaggExecutorBatch *batch)
{
	if (batch->holds)
	{
		sagg_reader_release(batch->reader);
		SAGG_FAILPOINT("executor.released");
	}
	batch->rejections = NULL;
	memset(&batch->late, 0, sizeof(batch->late));
	batch->nranges = 0;
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextReset(batch->memory);
	if (batch->holds)
		sagg_memory_used(&batch->memory_use);
	batch->holds = false;
	sagg_mark_batch(-1);
	(void) pgstat_report_stat(false);
}
