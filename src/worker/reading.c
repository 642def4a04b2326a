/*-------------------------------------------------------------------------
 *
 * reading.c
 *	  A reading: its source reader from opening to closing, and waiting for it.
 *
 * Never: a wait within a transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "streams/streams.h"
#include "worker_internal.h"

/*
 * Called by the reader while it waits for an answer, which may take long.
 */
static void
while_waiting(void *arg)
{
	SaggReading *reading = (SaggReading *) arg;

	sagg_reading_check_stop(reading);
	sagg_reading_report_silence(reading, 0);
}

/*
 * Name the consumer group for committed offsets.  Mappings and options of the
 * server may have changed since the stream got its group; the stream goes on
 * without a group that is not allowed any more.
 */
static void
set_group(SaggReading *reading, const SaggStreamRun *leader)
{
	const SaggStream *stream = leader->stream;
	const char *group = stream->options.consumer_group;

	if (group && !sagg_group_allowed(linitial_oid(stream->sources), stream->owner,
									 group, stream->name))
	{
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("stream \"%s\" may not commit to consumer group \"%s\" any more",
						leader->slot->name, group),
				 errdetail("Its offsets are not committed to Kafka."),
				 errhint("Allow it by option \"consumer_groups\" of the server, or give the stream another group.")));
		group = NULL;
	}
	sagg_reader_set_group(reading->reader, group, stream->name);
}

static void
make_wait_set(SaggReading *reading)
{
	reading->waitset = SAGG_CREATE_WAIT_EVENT_SET(3);
	AddWaitEventToSet(reading->waitset, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET,
					  NULL, NULL);
	AddWaitEventToSet(reading->waitset, WL_LATCH_SET, PGINVALID_SOCKET,
					  MyLatch, NULL);
	if (sagg_reader_fd(reading->reader) != PGINVALID_SOCKET)
		AddWaitEventToSet(reading->waitset, WL_SOCKET_READABLE,
						  sagg_reader_fd(reading->reader), NULL, NULL);
}

/*
 * Open a reader for the leader's sources; its run is open.  In a transaction.
 * The leader is the only run then.  Contacts nobody yet.
 */
void
sagg_reading_open(SaggReading *reading)
{
	SaggStreamRun *leader = reading->leader;
	const SaggStreamOptions *options = &leader->stream->options;
	MemoryContext old = MemoryContextSwitchTo(reading->memory);

	reading->batch_memory = AllocSetContextCreate(reading->memory,
												  "stream_agg batch",
												  ALLOCSET_DEFAULT_SIZES);
	reading->runs = list_make1(leader);
	reading->reader = sagg_reader_open(leader->stream->sources,
									   options->on_error == SAGG_DEAD_LETTER ||
									   options->late_records);
	if (options->on_data_loss == SAGG_LOSS_EARLIEST)
		sagg_reader_skips_lost(reading->reader);
	sagg_reader_skips_unreadable(reading->reader, options->on_error != SAGG_FAIL);
	sagg_reader_on_wait(reading->reader, while_waiting, reading);
	set_group(reading, leader);
	make_wait_set(reading);
	MemoryContextSwitchTo(old);
}

/*
 * Close what sagg_reading_open opened, all of it or a part.  Also after an error,
 * outside of transactions.  Runs stay open.
 */
void
sagg_reading_close(SaggReading *reading)
{
	sagg_executors_close(reading);
	if (reading->waitset)
		FreeWaitEventSet(reading->waitset);
	if (reading->reader)
		sagg_reader_close(reading->reader);
	reading->waitset = NULL;
	reading->reader = NULL;
	reading->batch_memory = NULL;
	reading->runs = NIL;
	reading->recreated = NIL;
	reading->doubts = NIL;
	reading->doubtful = false;
	reading->recheck_at = 0;
	MemoryContextReset(reading->memory);
}

/*
 * Serve interrupts and settings.  Ends the process if the leader is to stop, and
 * releases other members that are.  Outside of transactions only.
 */
void
sagg_reading_check_stop(SaggReading *reading)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (sagg_run_is_to_stop(reading->leader))
		sagg_worker_leave(reading->leader, SAGG_EXIT_STOPPED);
	sagg_members_check_stop(reading);
}

/*
 * If the source has not answered for a while, show it in pg_stat_stream_agg, and
 * log it once.  The streams' states stay what they are.  "since" is as for
 * sagg_reader_silence.
 */
void
sagg_reading_report_silence(SaggReading *reading, TimestampTz since)
{
	char	   *text = sagg_reader_silence(reading->reader, since);
	ListCell   *lc;

	if (text == NULL)
		return;
	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	foreach(lc, reading->members)
		sagg_slot_set_error(((SaggStreamRun *) lfirst(lc))->slot,
							ERRCODE_CONNECTION_FAILURE, text);
	LWLockRelease(sagg_shared->lock);
	if (!reading->silence_logged)
		ereport(LOG,
				(errmsg_internal("stream \"%s\": %s", reading->leader->slot->name, text)));
	reading->silence_logged = true;
	pfree(text);
}

/*
 * Sleep until the latch is set, the source has something (if "source"), or the
 * time is over (-1: no limit).  Returns whether the source has something.
 */
bool
sagg_reading_wait(SaggReading *reading, bool source, long timeout_ms)
{
	static uint32 wait_source = 0;
	static uint32 wait_trigger = 0;
	WaitEvent	events[2];
	bool		readable = false;
	int			n;

	if (wait_source == 0)
	{
		wait_trigger = SAGG_WAIT_EVENT("StreamAggTrigger");
		wait_source = SAGG_WAIT_EVENT("StreamAggKafka");
	}

	if (!source)
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (timeout_ms >= 0 ? WL_TIMEOUT : 0),
						 timeout_ms, wait_trigger);
	else
	{
		n = WaitEventSetWait(reading->waitset, timeout_ms, events, 2, wait_source);
		for (int i = 0; i < n; i++)
			readable = readable || (events[i].events & WL_SOCKET_READABLE) != 0;
	}
	ResetLatch(MyLatch);
	sagg_reading_check_stop(reading);
	return readable;
}

/*
 * Returns whether there is a record that no batch has taken, in a partition of
 * whatever process.
 */
bool
sagg_reading_has_records(SaggReading *reading)
{
	bool		others = sagg_executors_have_records(reading);

	return sagg_reader_has_records(reading->reader) || others;
}

/*
 * Raise the error for a source of which nothing has come for too long.
 */
void
sagg_raise_no_records(SaggReader *reader)
{
	const char *trouble = sagg_reader_trouble(reader);

	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("no records of %s from %s for %d s",
					sagg_reader_subject(reader), sagg_reader_title(reader),
					sagg_kafka_timeout_ms / 1000),
			 trouble ? errdetail("The broker connection reports: %s.", trouble) : 0));
}
