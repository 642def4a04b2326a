/*-------------------------------------------------------------------------
 *
 * tumble.c
 *	  tumble(ts, size [, origin [, timezone]]): the tumbling window that holds a time.
 *
 * Windows are the half-open intervals [origin + n * size, origin + (n + 1) *
 * size), n any integer; origin is 1970-01-01 00:00 UTC unless given, as in
 * Spark.  The functions work in any SQL; in a stream's query the analysis
 * recognises them and execute/ computes the window by arithmetic instead.
 *
 * With a time zone, size is a number of days or months by its clocks
 * (calendar.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "utils/builtins.h"
#include "utils/rangetypes.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "event_time/event_time.h"
#include "define_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_tumble);
PG_FUNCTION_INFO_V1(stream_agg_tumble_start);
PG_FUNCTION_INFO_V1(stream_agg_tumble_end);

static void
reject_months(const Interval *interval, const char *what, const char *hint)
{
	if (interval->month != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not contain months or years", what),
				 errdetail("The length of a month varies."),
				 errhint("%s", hint)));
}

/*
 * Returns the length of a window, or of a delay, in microseconds; a day is 24
 * hours. "what" names it in messages.  Raises an error for months, whose
 * length varies, and for a length that is out of range.
 */
int64
sagg_interval_length(const Interval *interval, const char *what)
{
	int64		days;
	int64		length;

	reject_months(interval, what, "Use days, which have 24 hours here, or smaller units.");
	if (pg_mul_s64_overflow(interval->day, USECS_PER_DAY, &days) ||
		pg_add_s64_overflow(days, interval->time, &length))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("%s is out of range", what)));
	return length;
}

/*
 * Returns the size of a window in microseconds, greater than zero.
 */
int64
sagg_window_size(const Interval *size)
{
	int64		length = sagg_interval_length(size, "window size");

	if (length <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window size must be greater than zero")));
	return length;
}

/*
 * Returns the size of a window in microseconds; the error for months suggests
 * a time zone.
 */
int64
sagg_tumble_size(const Interval *size)
{
	reject_months(size, "window size",
				  "Give a time zone that determines when months begin, for example timezone => 'UTC', or use days, which have 24 hours without one.");
	return sagg_window_size(size);
}

/*
 * Returns the time from one window's start to the next, in microseconds,
 * greater than zero.
 */
int64
sagg_window_slide(const Interval *slide)
{
	int64		length = sagg_interval_length(slide, "window slide");

	if (length <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window slide must be greater than zero")));
	return length;
}

/*
 * Reject an infinite time, which is in no window, and an infinite origin.
 */
void
sagg_check_window_time(TimestampTz ts, TimestampTz origin)
{
	if (TIMESTAMP_NOT_FINITE(ts))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("an infinite time is in no window")));
	if (TIMESTAMP_NOT_FINITE(origin))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window origin must be finite")));
}

/*
 * Raise the error for a window whose bounds are out of range.
 */
void
sagg_window_out_of_range(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("window is out of the range of timestamps")));
}

/*
 * Returns the result of a function that returns one window, [start, end).
 * Uses fn_extra for itself.
 */
Datum
sagg_make_window(FunctionCallInfo fcinfo, TimestampTz start, TimestampTz end)
{
	TypeCacheEntry *typcache = (TypeCacheEntry *) fcinfo->flinfo->fn_extra;
	RangeBound	lower = {.inclusive = true, .lower = true};
	RangeBound	upper = {.inclusive = false, .lower = false};

	if (typcache == NULL)
	{
		typcache = range_get_typcache(fcinfo, TSTZRANGEOID);
		fcinfo->flinfo->fn_extra = typcache;
	}
	lower.val = TimestampTzGetDatum(start);
	upper.val = TimestampTzGetDatum(end);
	PG_RETURN_RANGE_P(SAGG_MAKE_RANGE(typcache, &lower, &upper, false));
}

static void
tumble_by_zone(FunctionCallInfo fcinfo, TimestampTz ts, TimestampTz origin,
			   const char *zone, TimestampTz *start, TimestampTz *end)
{
	SaggCalendar calendar;

	sagg_calendar_init(&calendar, PG_GETARG_INTERVAL_P(1), zone,
					   origin == SAGG_EPOCH ? NULL : &origin);
	if (!sagg_calendar_window(&calendar, ts, start, end))
		sagg_window_out_of_range();
}

/*
 * Compute the window for the arguments ts timestamptz, size interval, origin
 * timestamptz, timezone text.  An empty timezone counts as none.
 */
static void
tumble(FunctionCallInfo fcinfo, TimestampTz *start, TimestampTz *end)
{
	TimestampTz ts = PG_GETARG_TIMESTAMPTZ(0);
	TimestampTz origin = PG_GETARG_TIMESTAMPTZ(2);
	text	   *zone = PG_GETARG_TEXT_PP(3);
	int64		size = 0;
	int64		since;

	if (VARSIZE_ANY_EXHDR(zone) == 0)
		size = sagg_tumble_size(PG_GETARG_INTERVAL_P(1));
	sagg_check_window_time(ts, origin);
	if (VARSIZE_ANY_EXHDR(zone) > 0)
	{
		tumble_by_zone(fcinfo, ts, origin, text_to_cstring(zone), start, end);
		return;
	}
	if (pg_sub_s64_overflow(ts, origin, &since))
		sagg_window_out_of_range();
	since -= since % size + (since % size < 0 ? size : 0);
	if (pg_add_s64_overflow(origin, since, start) ||
		pg_add_s64_overflow(*start, size, end) ||
		!IS_VALID_TIMESTAMP(*start) || !IS_VALID_TIMESTAMP(*end))
		sagg_window_out_of_range();
}

/*
 * tumble(...) RETURNS tstzrange, and its bounds, tumble_start(...) and tumble_end(...)
 * RETURNS timestamptz.
 */
Datum
stream_agg_tumble(PG_FUNCTION_ARGS)
{
	TimestampTz start;
	TimestampTz end;

	tumble(fcinfo, &start, &end);
	return sagg_make_window(fcinfo, start, end);
}

/*
 * tumble_start(...) RETURNS timestamptz, with the arguments of tumble.
 */
Datum
stream_agg_tumble_start(PG_FUNCTION_ARGS)
{
	TimestampTz start;
	TimestampTz end;

	tumble(fcinfo, &start, &end);
	PG_RETURN_TIMESTAMPTZ(start);
}

/*
 * tumble_end(...) RETURNS timestamptz, with the arguments of tumble.
 */
Datum
stream_agg_tumble_end(PG_FUNCTION_ARGS)
{
	TimestampTz start;
	TimestampTz end;

	tumble(fcinfo, &start, &end);
	PG_RETURN_TIMESTAMPTZ(end);
}
