/*-------------------------------------------------------------------------
 *
 * window_column.c
 *	  The value of a column that identifies the window: a time or a date.
 *
 * The stages identify windows by int64 times: those of a TimestampTz, or of a
 * Timestamp where the event time has no time zone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "stream_agg.h"
#include "event_time.h"

/*
 * Returns whether the event time of a query, which has one, is a timestamp
 * without time zone.
 */
bool
sagg_event_time_is_local(const SaggQuery *query)
{
	TargetEntry *tle = list_nth_node(TargetEntry, query->inner->targetList,
									 query->event_time - 1);

	return getBaseType(exprType((Node *) tle->expr)) == TIMESTAMPOID;
}

/*
 * Returns a time of the clock as an event time.  A timestamp without time zone
 * is in the stream's time zone, as wherever it is compared with one that has a
 * zone.
 */
int64
sagg_event_time_of_clock(const SaggQuery *query, TimestampTz time)
{
	if (!sagg_event_time_is_local(query))
		return time;
	return DatumGetTimestamp(DirectFunctionCall1(timestamptz_timestamp,
												 TimestampTzGetDatum(time)));
}

/*
 * Returns the type of a bound of the window, as the output has it:
 * timestamptz, timestamp or date.
 */
Oid
sagg_window_column_type(const SaggQuery *query)
{
	return query->window.type == TIMESTAMPOID || query->window.type == DATEOID ?
		query->window.type : TIMESTAMPTZOID;
}

/*
 * Returns a value of that type for a bound of a window, or for DT_NOBEGIN or
 * DT_NOEND.  Allocates nothing where int64 is passed by value.
 */
Datum
sagg_window_column_value(const SaggQuery *query, int64 time)
{
	if (query->window.type != DATEOID)
		return TimestampTzGetDatum(time);
	if (TIMESTAMP_NOT_FINITE(time))
		return DateADTGetDatum(TIMESTAMP_IS_NOBEGIN(time) ? DATEVAL_NOBEGIN : DATEVAL_NOEND);
	return DateADTGetDatum(sagg_calendar_date(&query->window.calendar, time));
}

/*
 * Returns the bound that such a value stands for.
 */
int64
sagg_window_column_time(const SaggQuery *query, Datum value)
{
	if (query->window.type != DATEOID)
		return DatumGetTimestampTz(value);
	return sagg_calendar_midnight(&query->window.calendar, DatumGetDateADT(value));
}
