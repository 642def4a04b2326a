/*-------------------------------------------------------------------------
 *
 * reset_range.c
 *	  Determines which results a reset computes again, and checks whether it
 *	  may.
 *
 * Windows are recomputed if all of their records lie behind the offsets: those
 * that start after the greatest event time before the offsets.  Earlier
 * windows are kept.  So the reset leaves a watermark that has passed the
 * earlier windows and no others, and records that fall into them are late, as
 * they were before.
 *
 * Unless forced, it rejects what would lose rows: windows that are still open
 * and have records before the offsets; rows that cannot be identified by their
 * windows; and results_from, if windows from there on have records before the
 * offsets.
 *
 * It asks Kafka for the offsets, reads no record, and writes nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "checkpoint/checkpoint.h"
#include "define_internal.h"
#include "event_time/event_time.h"
#include "execute/execute.h"
#include "read/read.h"
#include "streams/streams.h"
#include "write/write.h"

/* the hint of every rejection */
#define HINT_FORCE	"With force => true they are lost."

/* Reject the reset; a dry run only reports the reason */
#define REFUSAL(range)	((range)->dry_run ? NOTICE : ERROR)

/*
 * Returns an event time as text, for messages.
 */
static char *
time_text(const SaggQuery *query, int64 time)
{
	return DatumGetCString(sagg_event_time_is_local(query) ?
						   DirectFunctionCall1(timestamp_out, TimestampGetDatum(time)) :
						   DirectFunctionCall1(timestamptz_out, TimestampTzGetDatum(time)));
}

/*
 * Find out what the stream has read before the offsets; waits for Kafka.
 */
static void
look_before(const SaggStream *stream, SaggCheckpoint *checkpoint, SaggReadBefore *before)
{
	SaggReader *volatile reader = NULL;

	PG_TRY();
	{
		SaggRange  *starts;
		int			nstarts;

		reader = sagg_reader_open(stream->sources, false);
		starts = sagg_first_ranges(reader, stream->starting_offsets, &nstarts);
		sagg_checkpoint_read_before(checkpoint, sagg_reader_one_topic(reader),
									starts, nstarts, before);
	}
	PG_CATCH();
	{
		if (reader)
			sagg_reader_close(reader);
		PG_RE_THROW();
	}
	PG_END_TRY();
	sagg_reader_close(reader);
}

/*
 * Handle a reset that overwrites all rows of the sink.
 */
static void
check_all_rows(const SaggStream *stream, const SaggQuery *query, SaggResetRange *range)
{
	int64		first;

	range->rows = sagg_sink_count(stream, query, DT_NOBEGIN, DT_NOEND, &first);
	range->lost = range->before.any ? range->rows : 0;
	if (range->before.any && !range->force && query->window.kind == SAGG_WINDOW_SESSION)
		ereport(REFUSAL(range),
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("resetting stream \"%s\" would lose open sessions with records before the offsets given",
						sagg_stream_title(stream->name)),
				 errdetail("Rows of sessions that end after the first record behind these offsets would be replaced, too; its sink has " INT64_FORMAT " rows.",
						   range->rows),
				 errhint("Reset it to earliest, or to where it began. " HINT_FORCE)));
	if (range->lost == 0 || range->force)
		return;
	ereport(REFUSAL(range),
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg_plural("resetting stream \"%s\" would delete " INT64_FORMAT " row, and records before the offsets given may have gone into it",
						   "resetting stream \"%s\" would delete " INT64_FORMAT " rows, and records before the offsets given may have gone into them",
						   (unsigned long) range->lost, sagg_stream_title(stream->name), range->lost),
			 errdetail("All rows of its sink are replaced, because it is not known which windows they belong to."),
			 errhint("Reset it to earliest, or to where it began. " HINT_FORCE)));
}

static void
reject_unknown(const SaggStream *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("it is not known which windows of stream \"%s\" have records before the offsets given",
					sagg_stream_title(stream->name)),
			 errdetail("The log of its micro-batches does not go back to these offsets."),
			 errhint("Use results_from to say with which window results that are computed again begin.")));
}

/*
 * Check that windows before the range are closed, because their state is
 * discarded.
 */
static void
check_open_windows(const SaggStream *stream, const SaggQuery *query,
				   const SaggResetRange *range)
{
	if (range->passed <= range->before.watermark || range->force)
		return;
	ereport(REFUSAL(range),
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("resetting stream \"%s\" would lose open windows that start before %s",
					sagg_stream_title(stream->name), time_text(query, range->start)),
			 errdetail("They may have records before the offsets given, and the watermark, %s, has not passed the last of them.",
					   time_text(query, range->before.watermark)),
			 errhint("Give offsets before the first record of the windows that are open, or reset the stream when they are closed. " HINT_FORCE)));
}

/*
 * Count the rows of windows from the first one on that have records before the
 * offsets.
 */
static void
check_rows(const SaggStream *stream, const SaggQuery *query, SaggResetRange *range)
{
	int64		first = DT_NOEND;
	int64		column;
	int64		from;

	range->start = sagg_first_window_after(query, range->passed, &from);
	range->from = range->from_whole = from;
	if (range->before.any && range->before.time != DT_NOBEGIN)
	{
		(void) sagg_first_window_after(query, sagg_last_window_end(query, range->before.time),
									   &column);
		range->from_whole = Max(column, from);
		if (column > from)
			range->lost = sagg_sink_count(stream, query, from, column, &first);
	}
	range->rows = sagg_sink_count(stream, query, from, DT_NOEND, &column);
	if (range->lost == 0 || range->force)
		return;
	ereport(REFUSAL(range),
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg_plural("resetting stream \"%s\" would delete up to " INT64_FORMAT " row of windows with records before the offsets given, from %s on",
						   "resetting stream \"%s\" would delete up to " INT64_FORMAT " rows of windows with records before the offsets given, from %s on",
						   (unsigned long) range->lost, sagg_stream_title(stream->name), range->lost,
						   time_text(query, first)),
			 errdetail("Records before these offsets have event times up to %s.",
					   time_text(query, range->before.time)),
			 errhint("Leave results_from out, set it later than that, or give offsets further back. " HINT_FORCE)));
}

/*
 * Returns the watermark that the reset leaves.
 */
static TimestampTz
watermark_to_leave(const SaggStream *stream, const SaggQuery *query,
				   const SaggResetRange *range, const TimestampTz *results_from)
{
	TimestampTz from;

	if (results_from)
	{
		from = !sagg_event_time_is_local(query) ? *results_from :
			DatumGetTimestamp(DirectFunctionCall1(timestamptz_timestamp,
												  TimestampTzGetDatum(*results_from)));
		return sagg_last_window_end(query, from - 1);
	}
	if (!range->before.any)
		return DT_NOBEGIN;
	if (range->force)
		return range->before.judged;
	if (!range->before.known)
		reject_unknown(stream);
	return range->before.time == DT_NOBEGIN ? DT_NOBEGIN :
		sagg_last_window_end(query, range->before.time);
}

/*
 * The main part of sagg_reset_range.  For a stream without a micro-batch,
 * Kafka is not asked.
 */
static void
find_range(const SaggStream *stream, const SaggQuery *query, SaggCheckpoint *checkpoint,
		   SaggResetRange *range, const TimestampTz *results_from)
{

	sagg_checkpoint_read_before(checkpoint, NULL, NULL, 0, &range->before);
	if (range->before.watermark != DT_NOEND)
		look_before(stream, checkpoint, &range->before);
	range->by_window = sagg_rows_have_windows(stream, query);
	if (!range->by_window)
	{
		if (results_from)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("results_from cannot be used for stream \"%s\"", sagg_stream_title(stream->name)),
					 errdetail("It needs a watermark, output mode append or update, and windows of a fixed size that the select list shows.")));
		if (query->window.kind == SAGG_WINDOW_SESSION)
			range->passed = range->before.judged;
		range->from = DT_NOBEGIN;
		range->from_whole = range->before.any ? DT_NOEND : DT_NOBEGIN;
		check_all_rows(stream, query, range);
		return;
	}
	range->passed = watermark_to_leave(stream, query, range, results_from);
	if (range->passed == DT_NOEND)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("results_from is out of range")));
	if (range->passed == DT_NOBEGIN)
	{
		range->from = range->from_whole = DT_NOBEGIN;
		range->rows = sagg_sink_count(stream, query, DT_NOBEGIN, DT_NOEND, &range->start);
		return;
	}
	check_rows(stream, query, range);
	check_open_windows(stream, query, range);
	range->start_text = time_text(query, range->start);
}

/*
 * Determine what a reset of "stream" to its starting_offsets computes again,
 * into "range".  The caller has set "force", "dry_run" and "windows" there,
 * and the rest to 0; "results_from" is the caller's first window or NULL.  The
 * stream's lock is held.  Runs as the stream's owner; waits for Kafka.  Raises
 * object_not_in_prerequisite_state for what would lose rows.
 */
void
sagg_reset_range(const SaggStream *stream, SaggCheckpoint *checkpoint,
				 const TimestampTz *results_from, SaggResetRange *range)
{
	SaggOwnerContext owner;
	const SaggQuery *query;

	range->passed = DT_NOBEGIN;
	LockRelationOid(stream->sink, AccessShareLock); /* its owner stays */
	sagg_become_stream_owner(&owner, stream);
	query = sagg_query_of_view(stream);
	find_range(stream, query, checkpoint, range, results_from);
	if (range->dry_run)
		sagg_reset_windows(stream, query, range);
	sagg_restore_user(&owner);
}
