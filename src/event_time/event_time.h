/*-------------------------------------------------------------------------
 *
 * event_time.h
 *	  Arithmetic of event time: windows, watermarks.
 *
 * Reads no clock, no catalog and no record.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_EVENT_TIME_H
#define SAGG_EVENT_TIME_H

#include "datatype/timestamp.h"

#include "stream_agg.h"

/* 1970-01-01 00:00 UTC as a TimestampTz, and in milliseconds */
#define SAGG_EPOCH \
	((TimestampTz) (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY)
#define SAGG_EPOCH_MS	(SAGG_EPOCH / 1000)

/* calendar.c */
extern void sagg_calendar_init(SaggCalendar *calendar, const Interval *size,
							   const char *zone, const TimestampTz *origin);
extern bool sagg_calendar_window(const SaggCalendar *calendar, TimestampTz ts,
								 TimestampTz *start, TimestampTz *end);
extern TimestampTz sagg_calendar_end(const SaggCalendar *calendar, TimestampTz start);
extern TimestampTz sagg_calendar_first_open(const SaggCalendar *calendar, TimestampTz ts);
extern DateADT sagg_calendar_date(const SaggCalendar *calendar, TimestampTz ts);
extern TimestampTz sagg_calendar_midnight(const SaggCalendar *calendar, DateADT date);

/* Where windows of a kind start and end; see window_bounds.c. */
typedef struct SaggWindowBounds
{
	/*
	 * Whether windows have bounds that do not depend on records.  Otherwise
	 * the functions are NULL, except first_open for sessions.
	 */
	bool		fixed;

	/* end of the window that starts at "start" */
	int64		(*window_end) (const SaggWindow *window, int64 start);

	/*
	 * time when groups that start at "start" are over: the end of their last
	 * window
	 */
	int64		(*group_end) (const SaggWindow *window, int64 start);

	/*
	 * first end of a window of such groups that the watermark has not passed
	 */
	int64		(*next_end) (const SaggWindow *window, int64 start, TimestampTz watermark);

	/*
	 * start of the first window that ends after a time; for sessions, that
	 * time
	 */
	int64		(*first_open) (const SaggWindow *window, TimestampTz time);

	/*
	 * end of the last window that starts at or before a time; DT_NOEND = out
	 * of range
	 */
	TimestampTz (*last_end) (const SaggWindow *window, int64 time);

	/* the window that starts, or ends, at "told" */
	void		(*bounds) (const SaggWindow *window, int64 told, bool is_end,
						   int64 *start, int64 *end);
} SaggWindowBounds;

/* window_bounds.c */
extern const SaggWindowBounds *sagg_window_bounds(const SaggWindow *window);
extern int64 sagg_pane_window(const SaggWindow *window, int64 time);
extern int64 sagg_first_window_of(const SaggWindow *window, int64 pane);

/* window_column.c */
extern bool sagg_event_time_is_local(const SaggQuery *query);
extern int64 sagg_event_time_of_clock(const SaggQuery *query, TimestampTz time);
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
