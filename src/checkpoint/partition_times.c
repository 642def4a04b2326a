/*-------------------------------------------------------------------------
 *
 * partition_times.c
 *	  Event time by partition, as stream_agg.commits stores it.
 *
 * Columns event_times and active_times hold times in the form of offsets: in
 * milliseconds since 1970-01-01, negative before that.  A partition has
 * neither, one of them, or both.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "checkpoint_internal.h"

#define USECS_PER_MSEC	INT64CONST(1000)
#define EPOCH_MS \
	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (USECS_PER_DAY / USECS_PER_MSEC))

static int64
time_of(const SaggPartitionTime *time, bool active)
{
	return active ? time->active : time->time;
}

/*
 * Returns one of the two columns, in the current memory context.
 */
Datum
sagg_times_to_jsonb(const SaggPartitionTime *times, int ntimes, bool active,
					bool by_topic)
{
	SaggRange  *values = palloc(sizeof(SaggRange) * Max(ntimes, 1));
	int			n = 0;

	for (int i = 0; i < ntimes; i++)
	{
		int64		time = time_of(&times[i], active);

		if (time == DT_NOBEGIN)
			continue;
		values[n].topic = times[i].topic;
		values[n].partition = times[i].partition;
		values[n].start = values[n].end = time / USECS_PER_MSEC + EPOCH_MS;
		n++;
	}
	return sagg_offsets_to_jsonb(values, n, by_topic);
}

/*
 * Returns the entry for the partition of "value" in sorted times; adds it if
 * it is missing.  There must be room for one more.
 */
static SaggPartitionTime *
add_time(SaggPartitionTime *times, int *ntimes, const SaggRange *value)
{
	int			i;

	for (i = 0; i < *ntimes; i++)
	{
		SaggRange	key = {.topic = times[i].topic, .partition = times[i].partition};
		int			order = sagg_partition_compare(&key, value);

		if (order == 0)
			return &times[i];
		if (order > 0)
			break;
	}
	memmove(&times[i + 1], &times[i], sizeof(SaggPartitionTime) * (*ntimes - i));
	(*ntimes)++;
	times[i].topic = value->topic;
	times[i].partition = value->partition;
	times[i].time = times[i].active = DT_NOBEGIN;
	return &times[i];
}

/*
 * Returns times from both columns, sorted, in the current memory context.
 * Returns false if the columns do not hold such times.
 */
bool
sagg_times_from_jsonb(Jsonb *event_times, Jsonb *active_times, const char *topic,
					  SaggPartitionTime **times, int *ntimes)
{
	SaggRange  *values[2];
	int			n[2];

	if (!sagg_signed_from_jsonb(event_times, topic, &values[0], &n[0]) ||
		!sagg_signed_from_jsonb(active_times, topic, &values[1], &n[1]))
		return false;
	*ntimes = 0;
	*times = palloc(sizeof(SaggPartitionTime) * (n[0] + n[1] + 1));
	for (int column = 0; column < 2; column++)
	{
		for (int i = 0; i < n[column]; i++)
		{
			SaggPartitionTime *one = add_time(*times, ntimes, &values[column][i]);
			int64		ms = values[column][i].start - EPOCH_MS;

			if (ms < MIN_TIMESTAMP / USECS_PER_MSEC || ms >= END_TIMESTAMP / USECS_PER_MSEC)
				return false;
			if (column == 0)
				one->time = ms * USECS_PER_MSEC;
			else
				one->active = ms * USECS_PER_MSEC;
		}
	}
	return true;
}
