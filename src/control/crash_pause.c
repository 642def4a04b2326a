/*-------------------------------------------------------------------------
 *
 * crash_pause.c
 *	  Decides, from the crash log, which streams start when after a crash of
 *	  the server, and which do not start at all.
 *
 * After a crash no worker starts for stream_agg.crash_restart_delay, so that
 * clients can connect between crashes and change settings.  A stream that has
 * crashed the server waits longer, twice as long each time, so that the others
 * can work meanwhile.  If no stream is to blame, that holds for all streams
 * that were in a micro-batch, which start one after the other.  The stream
 * that has crashed the server stream_agg.max_crashes times within
 * stream_agg.crash_window has failed, whatever its on_error says, until
 * start_stream; a restart of the server does not change that.
 *
 * All of it is a property of the slot from the moment it is made, so launcher,
 * scouts and the leaders of shared readers need not know about crashes.
 *
 * Callers hold SaggShared->lock, unless the function says otherwise.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "control.h"

/*
 * The launcher has started: pauses are counted from now.  Takes the lock
 * itself.
 */
void
sagg_crash_pause_begin(void)
{
	SaggCrashLog *log = &sagg_shared->crash_log;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	if (log->fresh)
	{
		log->fresh = false;
		log->resumed = GetCurrentTimestamp();
		if (log->delay_ms > 0)
			ereport(LOG,
					(errmsg("the server has crashed: streams start after %d ms",
							log->delay_ms)));
	}
	LWLockRelease(sagg_shared->lock);
}

static void
tell_failed(SaggSlot *slot, const SaggCrashes *stream)
{
	char		text[SAGG_ERROR_SIZE];
	char		record[SAGG_TOPIC_SIZE + 100] = "";

	if (stream->nrecord > 0)
		snprintf(record, sizeof(record),
				 ", at the record of topic \"%s\", partition %d, offset " INT64_FORMAT,
				 stream->topic, stream->partition, stream->offset);
	snprintf(text, sizeof(text),
			 "the stream's worker has crashed the server %d times within %d s"
			 "\nDETAIL:  The last time was at %s, in micro-batch " INT64_FORMAT "%s."
			 "\nHINT:  See the server log. Fix the cause, then run stream_agg.start_stream.",
			 stream->ntimes, sagg_crash_window_s, timestamptz_to_str(stream->last),
			 stream->batch, record);
	sagg_slot_set_error(slot, ERRCODE_SAGG_CRASHES, text);
	slot->last_error_time = stream->last;
}

static void
tell_paused(SaggSlot *slot, const SaggCrashes *stream)
{
	char		text[SAGG_ERROR_SIZE];

	snprintf(text, sizeof(text),
			 "the stream's worker has crashed the server %d times within %d s"
			 "\nDETAIL:  It is started again at %s.",
			 stream->ntimes, sagg_crash_window_s, timestamptz_to_str(slot->paused_until));
	sagg_slot_set_error(slot, ERRCODE_SAGG_CRASHES, text);
	slot->last_error_time = stream->last;
}

/*
 * A slot has been made for a stream: set when the stream may start, if at all.
 * Cannot fail: transaction callbacks use it.
 */
void
sagg_crash_pause_slot(SaggSlot *slot)
{
	const SaggCrashLog *log = &sagg_shared->crash_log;
	const SaggCrashes *stream = sagg_crashes_find(slot->database, slot->view);
	TimestampTz from = log->resumed;
	int			pause_ms = Max(log->delay_ms, stream ? stream->pause_ms : 0);

	/* before the launcher has started */
	if (log->fresh)
		from = GetCurrentTimestamp();
	slot->paused_until = from == 0 ? 0 : TimestampTzPlusMilliseconds(from, pause_ms);
	if (stream && stream->failed)
	{
		slot->state = SAGG_FAILED;
		tell_failed(slot, stream);
	}
	else if (stream && stream->ntimes > 0 &&
			 slot->paused_until > GetCurrentTimestamp())
		tell_paused(slot, stream);
}

/*
 * The stream is started by hand, or dropped: forget its crashes.  Cannot fail.
 */
void
sagg_crashes_forget(Oid database, Oid view)
{
	SaggCrashLog *log = &sagg_shared->crash_log;
	SaggCrashes *stream = sagg_crashes_find(database, view);
	SaggSlot   *slot = sagg_slot_find(database, view);

	if (stream == NULL)
		return;
	*stream = log->streams[--log->nstreams];
	log->changed = true;
	if (slot)
		slot->paused_until = 0;
}

/*
 * Forget the crashes of all streams of databases that are not among these.
 */
void
sagg_crashes_forget_others(const List *databases)
{
	SaggCrashLog *log = &sagg_shared->crash_log;

	for (int i = log->nstreams - 1; i >= 0; i--)
	{
		if (list_member_oid(databases, log->streams[i].database))
			continue;
		log->streams[i] = log->streams[--log->nstreams];
		log->changed = true;
	}
}

/*
 * For the launcher: write to the file what sessions have removed from the log.
 * Takes the lock itself, and does not hold it while writing.
 */
void
sagg_crash_pause_save(void)
{
	static SaggCrashLog copy;

	LWLockAcquire(sagg_shared->lock, LW_EXCLUSIVE);
	copy.changed = sagg_shared->crash_log.changed;
	if (copy.changed)
	{
		sagg_shared->crash_log.changed = false;
		copy = sagg_shared->crash_log;
	}
	LWLockRelease(sagg_shared->lock);
	if (copy.changed)
		sagg_crash_log_save(&copy);
}
