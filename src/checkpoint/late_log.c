/*-------------------------------------------------------------------------
 *
 * late_log.c
 *	  Late records as repair_late needs them: which windows lack some, and what
 *	  the logs say about records that Kafka no longer has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "checkpoint_internal.h"

/*
 * Returns the windows that lack records, in the current context, by their
 * starts.
 */
SaggLateWindow *
sagg_checkpoint_late_windows(SaggCheckpoint *checkpoint, int *nwindows)
{
	SaggLogSection section;
	SaggLateWindow *windows;
	Datum		values[1];

	sagg_log_begin(&section, checkpoint);
	*nwindows = (int) sagg_log_execute(&section, SAGG_LOG_LATE_WINDOWS, values, NULL, 0);
	windows = MemoryContextAllocZero(section.caller,
									 sizeof(SaggLateWindow) * Max(*nwindows, 1));
	for (int i = 0; i < *nwindows; i++)
	{
		windows[i].start = sagg_log_int64(i, 1);
		windows[i].end = sagg_log_int64(i, 2);
		windows[i].records = sagg_log_int64(i, 3);
	}
	sagg_log_end(&section);
	return windows;
}

static Datum
times_array(const SaggLateWindow *windows, int n, bool ends)
{
	Datum	   *times = palloc(sizeof(Datum) * Max(n, 1));
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		if (windows[i].reason == NULL)
			times[kept++] = TimestampTzGetDatum(ends ? windows[i].end : windows[i].start);
	}
	return PointerGetDatum(construct_array(times, kept, TIMESTAMPTZOID, 8,
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * Delete the late records of repaired windows: those without a reason against
 * it.  Their records are no longer late for them.
 */
void
sagg_checkpoint_late_repaired(SaggCheckpoint *checkpoint,
							  const SaggLateWindow *windows, int nwindows)
{
	SaggLogSection section;
	Datum		values[3];

	values[1] = times_array(windows, nwindows, false);
	values[2] = times_array(windows, nwindows, true);
	sagg_log_begin(&section, checkpoint);
	(void) sagg_log_execute(&section, SAGG_LOG_LATE_REPAIRED, values, NULL, 0);
	(void) sagg_log_execute(&section, SAGG_LOG_LATE_FORGET, values, NULL, 0);
	sagg_log_end(&section);
}

/*
 * Returns the watermark that resets with results have left, as far back as the
 * log goes.  Windows it has passed were kept, and may have records that the
 * stream does not read any more.  DT_NOBEGIN = none.
 */
TimestampTz
sagg_checkpoint_reset_watermark(SaggCheckpoint *checkpoint)
{
	SaggLogSection section;
	Datum		values[1];
	TimestampTz watermark;

	sagg_log_begin(&section, checkpoint);
	(void) sagg_log_execute(&section, SAGG_LOG_RESET_WATERMARK, values, NULL, 0);
	watermark = sagg_log_int64(0, 1);
	sagg_log_end(&section);
	return watermark;
}

/*
 * Returns the greatest event time among records that the stream has read and
 * the source no longer has: those at offsets before "bound" in their
 * partitions.  It is that of all records which the first commit behind "bound"
 * had seen, as far back as the log goes; DT_NOEND if the stream has not read
 * up to "bound".
 */
int64
sagg_checkpoint_time_before(SaggCheckpoint *checkpoint, const SaggRange *bound)
{
	SaggLogSection section;
	Datum		values[1];
	int64		rows;
	int64		time = DT_NOEND;

	sagg_log_begin(&section, checkpoint);
	rows = sagg_log_execute(&section, SAGG_LOG_COMMITS, values, NULL, 0);
	for (int64 i = 0; i < rows && time == DT_NOEND; i++)
	{
		SaggRange  *positions;
		SaggRange  *position;
		int			npositions;
		bool		isnull;

		if (!sagg_offsets_from_jsonb(DatumGetJsonbP(sagg_log_value(i, 1, &isnull)),
									 checkpoint->topic, &positions, &npositions))
			continue;			/* corrupt rows are reported elsewhere */
		position = sagg_partition_find(positions, npositions, bound);
		if (position && position->start >= bound->start)
			time = sagg_log_int64(i, 2);
	}
	sagg_log_end(&section);
	return time;
}

/*
 * Returns the offsets of the stream's dead letters (start = offset), in the
 * current context.
 */
SaggRange *
sagg_checkpoint_dead_offsets(SaggCheckpoint *checkpoint, int *n)
{
	SaggLogSection section;
	SaggRange  *places;
	Datum		values[1];

	sagg_log_begin(&section, checkpoint);
	*n = (int) sagg_log_execute(&section, SAGG_LOG_DEAD_OFFSETS, values, NULL, 0);
	places = MemoryContextAlloc(section.caller, sizeof(SaggRange) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
	{
		bool		isnull;

		places[i].topic =
			sagg_topic_number(TextDatumGetCString(sagg_log_value(i, 1, &isnull)));
		places[i].partition = DatumGetInt32(sagg_log_value(i, 2, &isnull));
		places[i].start = places[i].end = sagg_log_int64(i, 3);
	}
	sagg_log_end(&section);
	return places;
}
