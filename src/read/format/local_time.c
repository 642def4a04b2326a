/*-------------------------------------------------------------------------
 *
 * local_time.c
 *	  The offset from UTC of a local time in the session's time zone, as the
 *	  server's input function of timestamptz determines it.
 *
 * DetermineTimeZoneOffset decides.  Times of one micro-batch are close to each
 * other, so the last answer is kept with the local times that it holds for.
 * Raises no errors, takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgtime.h"
#include "utils/datetime.h"

#include "record_datum.h"

/* how far before a time its range may begin, for times that come disordered */
#define DISORDER_SECONDS	(32 * SECS_PER_DAY)

/* Local times, in seconds since 1970, of the same offset. */
typedef struct LocalRange
{
	const pg_tz *zone;			/* zones live as long as the process */
	pg_time_t	start;
	pg_time_t	end;			/* not included */
	int			offset;			/* seconds east of UTC */
} LocalRange;

/*
 * Sets the range of local times that begins at "start" and for which
 * DetermineTimeZoneOffset finds no transition that matters.  It looks for the
 * next transition after the instant that is a day before the local time, read
 * as UTC; a local time is before the transition if it is so by the offsets on
 * both sides.  Returns whether the range has "time".
 */
static bool
find_range(LocalRange *range, pg_time_t start, pg_time_t time)
{
	pg_time_t	instant = start - SECS_PER_DAY;
	pg_time_t	boundary;
	long int	before = 0;
	long int	after;
	int			isdst;
	int			found;

	found = pg_next_dst_boundary(&instant, &before, &isdst, &boundary, &after, &isdst,
								 session_timezone);
	range->zone = session_timezone;
	range->start = start;
	range->end = start;
	if (found > 0)
		range->end = Min(boundary + SECS_PER_DAY, boundary + Min(before, after));
	else if (found == 0)
	{
		/* none is found at the very last one listed, though there may be more */
		instant++;
		if (pg_next_dst_boundary(&instant, &before, &isdst, &boundary, &after, &isdst,
								 session_timezone) == 0)
			range->end = PG_INT64_MAX;
	}
	range->offset = (int) before;
	return time >= range->start && time < range->end;
}

/*
 * Returns the offset from UTC, in seconds to the east, of a local time of the
 * session's time zone: the day as a Julian day number, and the time of the day
 * in seconds.  The day is of the years 1 to 9999.
 */
int
sagg_local_offset(int day, int second)
{
	static LocalRange range;
	pg_time_t	time = (pg_time_t) (day - UNIX_EPOCH_JDATE) * SECS_PER_DAY + second;
	struct pg_tm tm = {0};

	if (range.zone == session_timezone && time >= range.start && time < range.end)
		return range.offset;
	if (find_range(&range, time - DISORDER_SECONDS, time) || find_range(&range, time, time))
		return range.offset;

	/* close to a transition */
	j2date(day, &tm.tm_year, &tm.tm_mon, &tm.tm_mday);
	tm.tm_hour = second / SECS_PER_HOUR;
	tm.tm_min = second / SECS_PER_MINUTE % MINS_PER_HOUR;
	tm.tm_sec = second % SECS_PER_MINUTE;
	return -DetermineTimeZoneOffset(&tm, session_timezone);
}
