/*-------------------------------------------------------------------------
 *
 * watermark.c
 *	  The watermark: event time by partition, quiet (idle) partitions,
 *	  lateness.
 *
 * EXECUTE computes by it the watermark that a batch leaves, and the worker
 * when a batch without records would close a window.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/timestamp.h"

#include "event_time.h"

/*
 * Returns whether a watermark comes from an event time.  A stream that has
 * seen no event time yet has the watermark 1970, as in Spark, and a stream
 * without watermark minus infinity.
 */
bool
sagg_watermark_known(TimestampTz watermark)
{
	return !TIMESTAMP_NOT_FINITE(watermark) && watermark != SAGG_EPOCH;
}

/*
 * Returns a time floored to milliseconds, as event times are.
 */
int64
sagg_floor_ms(int64 time)
{
	int64		into = time % 1000;

	return time - (into < 0 ? into + 1000 : into);
}

/*
 * Returns how far the event time of a record may be ahead of the batch's time,
 * in microseconds; 0 = any distance.  The default is a day if the event time
 * of one record moves the watermark for all others.
 */
int64
sagg_max_future(const SaggStream *stream)
{
	if (stream->options.max_future != SAGG_MAX_FUTURE_DEFAULT)
		return stream->options.max_future;
	return stream->has_watermark ? USECS_PER_DAY : 0;
}

/*
 * Returns the watermark for an event time, which is in whole milliseconds;
 * DT_NOBEGIN if there is none or it is out of range.
 */
TimestampTz
sagg_watermark_of(const SaggStream *stream, int64 time)
{
	TimestampTz watermark;

	if (time == DT_NOBEGIN ||
		pg_sub_s64_overflow(time, stream->watermark_delay, &watermark) ||
		!IS_VALID_TIMESTAMP(watermark))
		return DT_NOBEGIN;
	return watermark;
}

/*
 * Returns the watermark by the clock, when no records come: as if a record
 * came that is idle_timeout old.  "now" is the clock's time as an event time.
 */
TimestampTz
sagg_watermark_of_clock(const SaggStream *stream, int64 now)
{
	int64		time;

	if (stream->options.idle_timeout == 0 ||
		pg_sub_s64_overflow(now, stream->options.idle_timeout, &time))
		return DT_NOBEGIN;
	return sagg_watermark_of(stream, sagg_floor_ms(time));
}

/*
 * Returns the least watermark of the partitions that are not quiet.  If all
 * are quiet, returns that of the clock, but not less than the least of the
 * partitions that have one.  DT_NOBEGIN if there is no partition, or if a
 * partition that is waited for has no event time yet.
 */
TimestampTz
sagg_least_watermark(const SaggStream *stream, const SaggPartitionTime *times,
					 const bool *quiet, int n, int64 now)
{
	TimestampTz least = DT_NOEND;
	TimestampTz least_quiet = DT_NOEND;

	for (int i = 0; i < n; i++)
	{
		TimestampTz own = sagg_watermark_of(stream, times[i].time);

		if (!quiet[i])
			least = Min(least, own);
		else if (own != DT_NOBEGIN)
			least_quiet = Min(least_quiet, own);
	}
	if (n == 0 || least != DT_NOEND)
		return n == 0 ? DT_NOBEGIN : least;
	return Max(sagg_watermark_of_clock(stream, now),
			   least_quiet == DT_NOEND ? DT_NOBEGIN : least_quiet);
}

/*
 * Policy aligned: add to the plan the partitions that are behind: those of
 * "unread", offsets that existed when the plan was made, of which it does not
 * read all.  In the current context.
 */
void
sagg_plan_behind(const SaggStream *stream, SaggPlan *plan,
				 const SaggRange *unread, int nunread)
{
	SaggRange  *behind;
	int			n = plan->nbehind;

	if (!stream->has_watermark ||
		stream->options.watermark_policy != SAGG_WATERMARK_ALIGNED)
		return;
	behind = palloc(sizeof(SaggRange) * Max(n + nunread, 1));
	if (n > 0)
		memcpy(behind, plan->behind, sizeof(SaggRange) * n);
	for (int i = 0; i < nunread; i++)
	{
		const SaggRange *range = sagg_partition_find(plan->ranges, plan->nranges, &unread[i]);

		if ((range ? range->end : unread[i].start) >= unread[i].end ||
			sagg_partition_find(behind, plan->nbehind, &unread[i]))
			continue;
		behind[n] = unread[i];
		behind[n++].start = unread[i].end;
	}
	qsort(behind, n, sizeof(SaggRange), sagg_partition_order);
	plan->behind = behind;
	plan->nbehind = n;
}

/*
 * Returns the time of a partition; "place" is where it usually is.
 */
static const SaggPartitionTime *
find_time(const SaggPartitionTime *times, int ntimes, const SaggRange *partition,
		  int place)
{
	for (int i = 0; i < ntimes; i++)
	{
		const SaggPartitionTime *time = &times[(place + i) % ntimes];

		if (time->partition == partition->partition && time->topic == partition->topic)
			return time;
	}
	return NULL;
}

/*
 * Returns the event times of partitions before a batch at "batch_time", as a
 * commit left them, with entries for new partitions; in the current context.
 * None if the stream's options do not need them.
 */
SaggPartitionTime *
sagg_partition_times(const SaggStream *stream, const SaggRange *partitions,
					 int npartitions, const SaggPartitionTime *known, int nknown,
					 TimestampTz batch_time, int *n)
{
	const SaggStreamOptions *options = &stream->options;
	bool		by_partition = options->watermark_policy != SAGG_WATERMARK_GLOBAL;
	SaggPartitionTime *times = palloc(sizeof(SaggPartitionTime) * Max(npartitions, 1));
	int			count = 0;

	if (stream->has_watermark && (by_partition || options->idle_timeout > 0))
		count = npartitions;
	for (int i = 0; i < count; i++)
	{
		const SaggPartitionTime *before = find_time(known, nknown, &partitions[i], i);

		times[i].topic = partitions[i].topic;
		times[i].partition = partitions[i].partition;
		times[i].time = times[i].active = DT_NOBEGIN;
		if (before && by_partition)
			times[i].time = before->time;
		if (options->idle_timeout > 0)
			times[i].active = before && before->active != DT_NOBEGIN ?
				before->active : sagg_floor_ms(batch_time);
	}
	*n = count;
	return times;
}
