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
extern TimestampTz sagg_calendar_end(const SaggCalendar *calendar, TimestampTz start);
extern TimestampTz sagg_calendar_first_open(const SaggCalendar *calendar, TimestampTz ts);
extern DateADT sagg_calendar_date(const SaggCalendar *calendar, TimestampTz ts);
extern TimestampTz sagg_calendar_midnight(const SaggCalendar *calendar, DateADT date);

/* window_column.c */
extern bool sagg_event_time_is_local(const SaggQuery *query);
extern Oid	sagg_window_column_type(const SaggQuery *query);
extern Datum sagg_window_column_value(const SaggQuery *query, int64 time);
extern int64 sagg_window_column_time(const SaggQuery *query, Datum value);

/* watermark.c */
extern SaggPartitionTime *sagg_partition_times(const SaggStream *stream,
											   const SaggRange *partitions,
											   int npartitions,
											   const SaggPartitionTime *known,
											   int nknown, TimestampTz batch_time,
											   int *n);
extern bool sagg_watermark_known(TimestampTz watermark);
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
