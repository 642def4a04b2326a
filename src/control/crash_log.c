/*-------------------------------------------------------------------------
 *
 * crash_log.c
 *	  Records which streams have crashed the server.  The log survives
 *	  restarts.
 *
 * When a process crashes, the postmaster sends SIGQUIT to all others, with the
 * reason.  A worker notes in its slot that it received the signal.  So when no
 * process is left, a slot that still has a process but received no signal
 * belongs to the worker that crashed: its stream is to blame.  If there is no
 * such slot (for example, the backend of a client has crashed), streams that
 * were in a micro-batch are suspects: their batch may have made the other
 * process crash.  The mark in a slot also holds the record that a scan of the
 * batch was reading, for poison.c.
 *
 * That is worked out in the postmaster, between the end of the last process
 * and the start of the next, and written to a file, as pg_stat_statements
 * does: the shared memory is gone after that, and the postmaster may be.  The
 * file is in a directory that base backups and pg_rewind leave out: another
 * server has its own crashes.
 *
 * crash_pause.c decides when the streams start again.
 *
 * Never raises an error that would keep the server from starting or stopping,
 * and never trusts shared memory that a crashed process has left.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "postmaster/interrupt.h"
#include "postmaster/postmaster.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "utils/timestamp.h"

#include "control.h"

#define CRASH_FILE			PG_STAT_TMP_DIR "/stream_agg_crashes"
#define CRASH_FILE_MAGIC	0x5A6C0002

/*
 * a stream's pause doubles up to this, or stays at the first pause if that is
 * longer
 */
#define LONGEST_PAUSE_MS	(5 * 60 * 1000)

typedef struct CrashFile
{
	uint32		magic;
	pg_crc32c	crc;			/* checksum of what follows */
	SaggCrashLog log;
} CrashFile;

/* the mark of this process, NULL = none */
static SaggMark *my_mark = NULL;

/*
 * SIGQUIT: note why, then end as any process of the server does.  SIGQUIT from
 * anybody but the postmaster counts as a crash of this process.
 */
static void
told_to_quit(SIGNAL_ARGS)
{
	if (my_mark)
		my_mark->told = GetQuitSignalReason();
	SignalHandlerForCrashExit(postgres_signal_arg);
}

/*
 * Use "mark" for this process, which has just begun.  "view" is that of its
 * stream, InvalidOid for the launcher.
 */
void
sagg_mark_begin(SaggMark *mark, Oid view)
{
	mark->told = PMQUIT_NOT_SENT;
	mark->view = view;
	mark->batch = -1;
	mark->activity = SAGG_OUTSIDE_BATCH;
	mark->record.partition = -1;
	my_mark = mark;
	if (OidIsValid(view))
		sagg_scan_mark(&mark->record);
	pqsignal(SIGQUIT, told_to_quit);
}

/*
 * The process ends normally.
 */
void
sagg_mark_end(void)
{
	if (my_mark)
		my_mark->activity = SAGG_NO_PROCESS;
	my_mark = NULL;
	sagg_scan_mark(NULL);
}

/*
 * The worker begins a micro-batch, or (-1) has left it.
 */
void
sagg_mark_batch(int64 batch)
{
	my_mark->record.partition = -1;
	my_mark->batch = batch;
	my_mark->activity = batch >= 0 ? SAGG_IN_BATCH : SAGG_OUTSIDE_BATCH;
}

/*
 * The worker, which runs several streams, now works for this one.
 */
void
sagg_mark_stream(Oid view)
{
	my_mark->view = view;
}

/*
 * Keep those of the times that are not older than stream_agg.crash_window;
 * returns how many.
 */
static void
forget_old_times(SaggCrashTimes *times, TimestampTz now)
{
	int			n = 0;

	for (int i = 0; i < times->n; i++)
	{
		if (!TimestampDifferenceExceeds(times->at[i], now, sagg_crash_window_s * 1000L))
			times->at[n++] = times->at[i];
	}
	times->n = n;
}

static void
add_time(SaggCrashTimes *times, TimestampTz now)
{
	forget_old_times(times, now);
	if (times->n == SAGG_CRASH_TIMES)
		memmove(times->at, times->at + 1, sizeof(TimestampTz) * --times->n);
	times->at[times->n++] = now;
}

/*
 * Returns the entry of a stream in the crash log, or NULL.  The caller holds
 * SaggShared->lock or is the postmaster.
 */
SaggCrashes *
sagg_crashes_find(Oid database, Oid view)
{
	SaggCrashLog *log = &sagg_shared->crash_log;

	for (int i = 0; i < log->nstreams; i++)
	{
		if (log->streams[i].database == database && log->streams[i].view == view)
			return &log->streams[i];
	}
	return NULL;
}

/*
 * Find the record that the worker of a stream of this database was reading
 * when it last crashed the server, if that was in "batch".  Returns how many
 * crashes in a row were at that record; 0 if it is not known.
 */
int
sagg_crashes_at_record(Oid view, int64 batch, SaggPlace *place)
{
	char		topic[SAGG_TOPIC_SIZE];
	SaggCrashes *stream;
	int			n = 0;

	LWLockAcquire(sagg_shared->lock, LW_SHARED);
	stream = sagg_crashes_find(MyDatabaseId, view);
	if (stream && stream->batch == batch && stream->nrecord > 0)
	{
		n = stream->nrecord;
		strlcpy(topic, stream->topic, sizeof(topic));
		place->partition = stream->partition;
		place->offset = stream->offset;
	}
	LWLockRelease(sagg_shared->lock);
	if (n > 0)
		place->topic = sagg_topic_number(topic);
	return n;
}

/*
 * Remove entries that have become meaningless.
 */
static void
forget_old_streams(SaggCrashLog *log, TimestampTz now)
{
	int			n = 0;

	for (int i = 0; i < log->nstreams; i++)
	{
		SaggCrashes *stream = &log->streams[i];

		forget_old_times(&stream->times, now);
		if (stream->failed || stream->times.n > 0 || stream->pause_ms > 0)
			log->streams[n++] = *stream;
	}
	log->nstreams = n;
}

/*
 * Returns the entry of a stream, a new one if there is none.  If there is no
 * room, the oldest entry is dropped.
 */
static SaggCrashes *
record_of(SaggCrashLog *log, Oid database, Oid view)
{
	SaggCrashes *stream = sagg_crashes_find(database, view);

	if (stream)
		return stream;
	if (log->nstreams == SAGG_CRASH_STREAMS)
		memmove(log->streams, log->streams + 1, sizeof(SaggCrashes) * --log->nstreams);
	stream = &log->streams[log->nstreams++];
	memset(stream, 0, sizeof(SaggCrashes));
	stream->database = database;
	stream->view = view;
	return stream;
}

/*
 * Returns how long a stream waits after this many crashes: twice as long each
 * time.
 */
static int
pause_after(int crashes)
{
	return Min((int64) sagg_crash_restart_delay_ms << Min(crashes, 20),
			   Max(sagg_crash_restart_delay_ms, LONGEST_PAUSE_MS));
}

/*
 * Find the record that a crashed process was reading, from the memory it has
 * left.
 */
static void
note_record(SaggCrashes *stream, const SaggScanMark *at)
{
	char		topic[SAGG_TOPIC_SIZE];

	memcpy(topic, at->topic, sizeof(topic));
	topic[sizeof(topic) - 1] = '\0';
	if (at->partition < 0 || at->offset < 0 || !sagg_is_topic_name(topic))
	{
		stream->nrecord = 0;
		return;
	}
	if (stream->nrecord > 0 && strcmp(stream->topic, topic) == 0 &&
		stream->partition == at->partition && stream->offset == at->offset)
	{
		stream->nrecord++;
		return;
	}
	strlcpy(stream->topic, topic, sizeof(stream->topic));
	stream->partition = at->partition;
	stream->offset = at->offset;
	stream->nrecord = 1;
}

/*
 * A process of a slot, its worker, an executor or an observer, has crashed the
 * server.
 */
static void
blame(SaggCrashLog *log, const SaggSlot *of_worker, const SaggMark *mark, TimestampTz now)
{
	const SaggSlot *slot = sagg_slot_find(of_worker->database, mark->view);
	SaggCrashes *stream;

	if (slot == NULL)
		slot = of_worker;
	stream = record_of(log, slot->database, slot->view);
	add_time(&stream->times, now);
	stream->last = now;
	stream->batch = mark->batch;
	note_record(stream, &mark->record);
	stream->ntimes = stream->times.n;
	stream->pause_ms = pause_after(stream->times.n);
	if (sagg_max_crashes >= 0 && stream->times.n >= Max(sagg_max_crashes, 1))
		stream->failed = true;
	ereport(LOG,
			(errmsg_plural("the worker of stream \"%.*s\" has crashed the server, %d time within %d s",
						   "the worker of stream \"%.*s\" has crashed the server, %d times within %d s",
						   stream->times.n,
						   SAGG_NAME_SIZE - 1, slot->name, stream->times.n, sagg_crash_window_s),
			 stream->failed ?
			 errdetail("The stream has failed, and waits for stream_agg.start_stream.") :
			 errdetail("It is started again %d ms after the server.", stream->pause_ms)));
	if (stream->nrecord > 0)
		ereport(LOG,
				(errmsg("it was at the record of topic \"%s\", partition %d, offset " INT64_FORMAT,
						stream->topic, stream->partition, stream->offset)));
}

/*
 * No stream is to blame: those in a micro-batch start one after the other.
 */
static void
suspect(SaggCrashLog *log, const SaggSlot *slot, int nth)
{
	record_of(log, slot->database, slot->view)->pause_ms =
		pause_after(log->unexplained.n) + Min((int64) nth * sagg_crash_restart_delay_ms, LONGEST_PAUSE_MS);
}

static bool
has_crashed(const SaggMark *mark)
{
	return mark->activity != SAGG_NO_PROCESS && mark->told == PMQUIT_NOT_SENT &&
		!SAGG_ABORTS_FOR_CRASH;
}

/*
 * Returns the mark of the slot's process that has crashed the server, or NULL.
 */
static const SaggMark *
culprit(const SaggSlot *slot)
{
	if (!slot->in_use)
		return NULL;
	if (has_crashed(&slot->mark))
		return &slot->mark;
	/* another stream may have got the slot meanwhile */
	if (slot->observer_mark.view == slot->view && has_crashed(&slot->observer_mark))
		return &slot->observer_mark;
	for (int i = 0; i < sagg_max_executors - 1; i++)
	{
		if (slot->executor_marks[i].view == slot->view && has_crashed(&slot->executor_marks[i]))
			return &slot->executor_marks[i];
	}
	return NULL;
}

/*
 * Returns the reason that the postmaster gave a process when it ended it;
 * PMQUIT_NOT_SENT if it gave none.
 */
static int
what_they_were_told(void)
{
	int			told = PMQUIT_NOT_SENT;

	if (sagg_shared->launcher_mark.activity != SAGG_NO_PROCESS)
		told = sagg_shared->launcher_mark.told;
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggMark   *mark = &sagg_shared->slots[i].mark;

		if (mark->activity != SAGG_NO_PROCESS && mark->told != PMQUIT_NOT_SENT)
			told = mark->told;
	}
	return told;
}

/*
 * The server has crashed, and no process is left: update the log.
 */
static void
note_crash(SaggCrashLog *log)
{
	TimestampTz now = GetCurrentTimestamp();
	int			culprits = 0;
	int			suspects = 0;

	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];
		SaggCrashes *stream;

		if (culprit(slot))
			culprits++;
		if (!slot->in_use || slot->mark.activity == SAGG_NO_PROCESS)
			continue;
		if (!culprit(slot) && slot->mark.activity == SAGG_IN_BATCH)
			suspects++;
		/* it had recovered from the previous crash */
		stream = sagg_crashes_find(slot->database, slot->view);
		if (stream)
			stream->pause_ms = 0;
	}
	log->fresh = true;
	log->delay_ms = sagg_crash_restart_delay_ms;
	forget_old_streams(log, now);
	if (culprits == 0 && suspects > 0)
		add_time(&log->unexplained, now);
	suspects = 0;
	for (int i = 0; i < sagg_shared->nslots; i++)
	{
		SaggSlot   *slot = &sagg_shared->slots[i];

		if (culprit(slot))
			blame(log, slot, culprit(slot), now);
		else if (culprits == 0 && slot->in_use && slot->mark.activity == SAGG_IN_BATCH)
			suspect(log, slot, suspects++);
	}
}

/*
 * The server has been stopped: pauses are no longer needed.
 */
static void
note_stop(SaggCrashLog *log)
{
	log->fresh = false;
	log->delay_ms = 0;
	for (int i = 0; i < log->nstreams; i++)
		log->streams[i].pause_ms = 0;
	forget_old_streams(log, GetCurrentTimestamp());
}

static pg_crc32c
checksum(const CrashFile *file)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, &file->log, sizeof(SaggCrashLog));
	FIN_CRC32C(crc);
	return crc;
}

/*
 * Write the log to its file, durably; a failure is reported in the server's
 * log.  For the launcher, with a copy of its own, and the postmaster.
 */
void
sagg_crash_log_save(const SaggCrashLog *log)
{
	static CrashFile content;
	FILE	   *file = AllocateFile(CRASH_FILE ".tmp", PG_BINARY_W);
	bool		done;

	content.magic = CRASH_FILE_MAGIC;
	content.log = *log;
	content.crc = checksum(&content);
	done = file != NULL && fwrite(&content, sizeof(content), 1, file) == 1;
	if (file != NULL && FreeFile(file) != 0)
		done = false;
	if (done)
		(void) durable_rename(CRASH_FILE ".tmp", CRASH_FILE, LOG);
	else
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", CRASH_FILE ".tmp")));
}

static bool
is_sound(const CrashFile *content)
{
	const SaggCrashLog *log = &content->log;

	if (content->magic != CRASH_FILE_MAGIC || content->crc != checksum(content) ||
		log->nstreams < 0 || log->nstreams > SAGG_CRASH_STREAMS ||
		log->unexplained.n < 0 || log->unexplained.n > SAGG_CRASH_TIMES)
		return false;
	for (int i = 0; i < log->nstreams; i++)
	{
		if (log->streams[i].times.n < 0 || log->streams[i].times.n > SAGG_CRASH_TIMES)
			return false;
	}
	return true;
}

/*
 * Read the file.  A missing file is an empty log.
 */
static void
load(void)
{
	static CrashFile content;
	FILE	   *file = AllocateFile(CRASH_FILE, PG_BINARY_R);

	if (file == NULL)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", CRASH_FILE)));
		return;
	}
	if (fread(&content, sizeof(content), 1, file) == 1 && is_sound(&content))
		sagg_shared->crash_log = content.log;
	else
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("ignoring invalid data in file \"%s\"", CRASH_FILE)));
	(void) FreeFile(file);
	sagg_shared->crash_log.resumed = 0;
}

/*
 * In the postmaster, whose children have ended: the shared memory is about to
 * be released.
 */
static void
at_shared_memory_exit(int code, Datum arg)
{
	SaggCrashLog *log = &sagg_shared->crash_log;
	int			told = what_they_were_told();

	/* it may be damaged by the crashed process */
	if (log->nstreams < 0 || log->nstreams > SAGG_CRASH_STREAMS ||
		log->unexplained.n < 0 || log->unexplained.n > SAGG_CRASH_TIMES)
		return;
	if (told == PMQUIT_FOR_CRASH)
		note_crash(log);
	else if (told == PMQUIT_FOR_STOP || code == 0)
		note_stop(log);
	sagg_crash_log_save(log);
}

/*
 * Called when shared memory is created: load the log as the last server, or
 * this one before its crash, has left it.
 */
void
sagg_crash_log_init(void)
{
	if (IsUnderPostmaster)
		return;
	load();
	on_shmem_exit(at_shared_memory_exit, (Datum) 0);
}
