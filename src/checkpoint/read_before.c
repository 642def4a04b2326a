/*-------------------------------------------------------------------------
 *
 * read_before.c
 *	  What a stream has read before some offsets, as far as the log knows.
 *
 * A commit holds the greatest event time of all records up to it, and its plan
 * the ranges it read.  So the records before an offset have no event time
 * beyond that of the last commit that read any of them.  That is exact where
 * the offset is the end of a micro-batch.  Elsewhere it errs on the high side,
 * because records of the same micro-batch behind the offset count, too.
 *
 * The log is trimmed (stream_agg.keep_batches).  Of what was read before its
 * oldest row, and lies partly behind the offsets, nothing is known.
 *
 * Never changes the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "checkpoint_internal.h"

/* columns of the statement SAGG_LOG_READ_BEFORE */
enum
{
	BATCH = 1,
	RANGES,
	OFFSETS,
	MAX_TIME,
	PLAN_WATERMARK,
	WATERMARK,
	IS_RESET
};

/* event times are floored to milliseconds in the log */
#define WITHIN_MS	999

/*
 * The event times of a micro-batch count as those of records before the
 * offsets.
 */
static void
include_times(SaggReadBefore *before, int row)
{
	TimestampTz time = sagg_log_int64(row, MAX_TIME);

	before->any = true;
	if (!TIMESTAMP_NOT_FINITE(time))
		before->time = Max(before->time, time + WITHIN_MS);
}

/*
 * The oldest row of the log.  Earlier batches have read up to where its plan
 * began or, in a partition without a range, up to its position.
 */
static void
look_before_log(SaggReadBefore *before, const SaggRange *starts, int nstarts,
				SaggRange *ranges, int nranges, SaggRange *offsets, int noffsets)
{
	for (int i = 0; i < nstarts; i++)
	{
		const SaggRange *range = sagg_partition_find(ranges, nranges, &starts[i]);
		const SaggRange *offset = sagg_partition_find(offsets, noffsets, &starts[i]);

		if (starts[i].start == 0 || offset == NULL)
			continue;
		before->any = true;
		if (starts[i].start < (range ? range->start : offset->start))
			before->known = false;
		else
			include_times(before, 0);
	}
}

static void
look_at_batch(SaggReadBefore *before, bool *judged, const SaggRange *starts, int nstarts,
			  SaggRange *ranges, int nranges, int row)
{
	TimestampTz watermark = sagg_log_int64(row, PLAN_WATERMARK);

	for (int i = 0; i < nstarts; i++)
	{
		const SaggRange *range = sagg_partition_find(ranges, nranges, &starts[i]);

		if (range == NULL)
			continue;
		if (range->start < starts[i].start)
			include_times(before, row);
		if (judged[i] || range->end <= starts[i].start)
			continue;
		judged[i] = true;
		if (range->start > starts[i].start && row == 0)
			watermark = DT_NOBEGIN;
		before->judged = Min(before->judged, watermark);
	}
}

/*
 * Find out what the stream has read before "starts", the first offsets of some
 * partitions by ascending topic and partition.  "topic" is that of offsets that
 * name none, NULL if the source has several.
 */
void
sagg_checkpoint_read_before(SaggCheckpoint *checkpoint, const char *topic,
							const SaggRange *starts, int nstarts,
							SaggReadBefore *before)
{
	bool	   *judged = palloc0(sizeof(bool) * Max(nstarts, 1));
	SaggLogSection section;
	Datum		values[1];
	int64		rows;

	before->any = false;
	before->known = true;
	before->time = DT_NOBEGIN;
	before->judged = before->watermark = DT_NOEND;
	sagg_log_begin(&section, checkpoint);
	rows = sagg_log_execute(&section, SAGG_LOG_READ_BEFORE, values, NULL, 0);
	for (int row = 0; row < rows; row++)
	{
		SaggRange  *ranges;
		SaggRange  *offsets;
		int			nranges;
		int			noffsets;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		if (!DatumGetBool(sagg_log_value(row, IS_RESET, &isnull)))
			before->watermark = sagg_log_int64(row, WATERMARK);

		/* offsets of another kind of source do not matter here */
		if (!sagg_ranges_from_jsonb(DatumGetJsonbP(sagg_log_value(row, RANGES, &isnull)),
									topic, &ranges, &nranges) ||
			!sagg_offsets_from_jsonb(DatumGetJsonbP(sagg_log_value(row, OFFSETS, &isnull)),
									 topic, &offsets, &noffsets))
			continue;
		if (row == 0 && sagg_log_int64(row, BATCH) > 0)
			look_before_log(before, starts, nstarts, ranges, nranges, offsets, noffsets);
		look_at_batch(before, judged, starts, nstarts, ranges, nranges, row);
	}
	sagg_log_end(&section);
	if (before->judged == DT_NOEND || !before->known)
		before->judged = DT_NOBEGIN;
}
