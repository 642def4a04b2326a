/*-------------------------------------------------------------------------
 *
 * event_time.h
 *	  Arithmetic of event time: calendar windows, watermarks.
 *
 * Reads no clock, no catalog and no record.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_EVENT_TIME_H
#define SAGG_EVENT_TIME_H

#include "stream_agg.h"

/* calendar.c */
extern void sagg_calendar_init(SaggCalendar *calendar, const Interval *size,
							   const char *zone, const TimestampTz *origin);
extern bool sagg_calendar_window(const SaggCalendar *calendar, TimestampTz ts,
								 TimestampTz *start, TimestampTz *end);

/* watermark.c */
extern SaggPartitionTime *sagg_partition_times(const SaggStream *stream,
											   const SaggRange *partitions,
											   int npartitions,
											   const SaggPartitionTime *known,
											   int nknown, TimestampTz batch_time,
											   int *n);
extern int64 sagg_floor_ms(int64 time);
extern int64 sagg_max_future(const SaggStream *stream);
extern TimestampTz sagg_watermark_of(const SaggStream *stream, int64 time);
extern void sagg_plan_behind(const SaggStream *stream, SaggPlan *plan,
							 const SaggRange *unread, int nunread);
extern TimestampTz sagg_watermark_of_clock(const SaggStream *stream, int64 now);
extern TimestampTz sagg_least_watermark(const SaggStream *stream,
										const SaggPartitionTime *times,
										const bool *quiet, int n, int64 now);

#endif							/* SAGG_EVENT_TIME_H */
