/*-------------------------------------------------------------------------
 *
 * calendar.c
 *	  Windows of days or months by the clocks of a time zone.
 *
 * Bounds are local times: the origin, and every so many days or months from it.
 * What lies between two of them has 23 or 25 hours where clocks are changed.  A
 * bound that clocks skip is the moment they skip it; one that they show twice is
 * the second of the two, as for a timestamp AT TIME ZONE.
 *
 * Finding a window takes several conversions by the zone's rules, so the last
 * windows found are remembered: event time stays in one for many records.
 *
 * Never raises an error and never allocates, so that it can be called after a
 * commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "datatype/timestamp.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "stream_agg.h"

#define REMEMBERED		8

typedef struct CalendarWindow
{
	TimestampTz start;
	TimestampTz end;
} CalendarWindow;

static SaggCalendar remembered_calendar;
static int	nremembered = 0;
static int	next_forgotten = 0;
static CalendarWindow remembered[REMEMBERED];

/*
 * What clocks show at a moment.
 */
static bool
local_time(const SaggCalendar *calendar, TimestampTz ts, Timestamp *local)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;

	return timestamp2tm(ts, &tz, &tm, &fsec, NULL, calendar->zone) == 0 &&
		tm2timestamp(&tm, fsec, NULL, local) == 0;
}

/*
 * When clocks show a local time.
 */
static bool
moment_of(const SaggCalendar *calendar, Timestamp local, TimestampTz *ts)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;

	if (!IS_VALID_TIMESTAMP(local) ||
		timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0)
		return false;
	tz = DetermineTimeZoneOffset(&tm, calendar->zone);
	return tm2timestamp(&tm, fsec, &tz, ts) == 0 && IS_VALID_TIMESTAMP(*ts);
}

static int64
months_of(const struct pg_tm *tm)
{
	return (int64) tm->tm_year * MONTHS_PER_YEAR + tm->tm_mon - 1;
}

/*
 * The start of window number n, counted from the origin.
 */
static bool
bound(const SaggCalendar *calendar, int64 n, TimestampTz *ts)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int64		local;
	int64		months;

	if (calendar->months == 0)
		return !pg_mul_s64_overflow(n, calendar->days * USECS_PER_DAY, &local) &&
			!pg_add_s64_overflow(local, calendar->origin, &local) &&
			moment_of(calendar, local, ts);
	if (timestamp2tm(calendar->origin, NULL, &tm, &fsec, NULL, NULL) != 0)
		return false;
	months = months_of(&tm) + n * calendar->months;
	if (months < 0 && months % MONTHS_PER_YEAR != 0)
		tm.tm_year = months / MONTHS_PER_YEAR - 1;
	else
		tm.tm_year = months / MONTHS_PER_YEAR;
	tm.tm_mon = months - (int64) tm.tm_year * MONTHS_PER_YEAR + 1;
	return tm2timestamp(&tm, fsec, NULL, &local) == 0 &&
		moment_of(calendar, local, ts);
}

static int64
divide_down(int64 a, int64 b)
{
	return a / b - (a % b < 0 ? 1 : 0);
}

/*
 * The number of the window that holds a local time, or of a neighbour of it.
 */
static bool
number_near(const SaggCalendar *calendar, Timestamp local, int64 *n)
{
	struct pg_tm tm;
	struct pg_tm origin;
	fsec_t		fsec;
	int64		since;

	if (calendar->months == 0)
	{
		if (pg_sub_s64_overflow(local, calendar->origin, &since))
			return false;
		*n = divide_down(since, calendar->days * USECS_PER_DAY);
		return true;
	}
	if (timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0 ||
		timestamp2tm(calendar->origin, NULL, &origin, &fsec, NULL, NULL) != 0)
		return false;
	*n = divide_down(months_of(&tm) - months_of(&origin), calendar->months);
	return true;
}

static bool
find_window(const SaggCalendar *calendar, TimestampTz ts, CalendarWindow *window)
{
	Timestamp	local;
	int64		n;

	if (!IS_VALID_TIMESTAMP(ts) || !local_time(calendar, ts, &local) ||
		!number_near(calendar, local, &n) || !bound(calendar, n, &window->start))
		return false;
	while (ts < window->start)
	{
		if (!bound(calendar, --n, &window->start))
			return false;
	}
	for (;;)
	{
		if (!bound(calendar, n + 1, &window->end))
			return false;
		if (ts < window->end)
			return true;
		window->start = window->end;
		n++;
	}
}

/*
 * The window of a calendar that holds a time.  Returns false if there is none
 * within the range of timestamps.
 */
bool
sagg_calendar_window(const SaggCalendar *calendar, TimestampTz ts,
					 TimestampTz *start, TimestampTz *end)
{
	CalendarWindow window;

	if (calendar->zone != remembered_calendar.zone ||
		calendar->months != remembered_calendar.months ||
		calendar->days != remembered_calendar.days ||
		calendar->origin != remembered_calendar.origin)
	{
		remembered_calendar = *calendar;
		nremembered = next_forgotten = 0;
	}
	for (int i = 0; i < nremembered; i++)
	{
		if (ts >= remembered[i].start && ts < remembered[i].end)
		{
			*start = remembered[i].start;
			*end = remembered[i].end;
			return true;
		}
	}
	if (!find_window(calendar, ts, &window))
		return false;
	remembered[next_forgotten] = window;
	nremembered = Max(nremembered, next_forgotten + 1);
	next_forgotten = (next_forgotten + 1) % REMEMBERED;
	*start = window.start;
	*end = window.end;
	return true;
}

/*
 * The same for a calendar of "size", in the zone of a name, counted from
 * "origin", or if that is NULL from Monday 1970-01-05 for days and from
 * 1970-01-01 for months.  Raises an error for what is no size in days, weeks,
 * months or years, and for names that are no time zone.
 */
void
sagg_calendar_init(SaggCalendar *calendar, const Interval *size, const char *zone,
				   const TimestampTz *origin)
{
	int			year = 1970;
	int			day;

	memset(calendar, 0, sizeof(SaggCalendar));
	if (size->time != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the size of a window by time zone must be days, weeks, months or years"),
				 errdetail("Hours have the same length in every time zone."),
				 errhint("Leave out timezone, and give an origin if hours must not begin with those of UTC.")));
	if ((size->month > 0) == (size->day > 0) || size->month < 0 || size->day < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 size->month == 0 && size->day == 0 ?
				 errmsg("window size must be greater than zero") :
				 errmsg("the size of a window by time zone must be either days or months, and positive")));
	calendar->months = size->month;
	calendar->days = size->day;
	calendar->zone = pg_tzset(zone);
	if (calendar->zone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", zone)));
	day = date2j(year, 1, size->month > 0 ? 1 : 5) - POSTGRES_EPOCH_JDATE;
	calendar->origin = (int64) day * USECS_PER_DAY;
	if (origin == NULL)
		return;
	if (TIMESTAMP_NOT_FINITE(*origin) ||
		!local_time(calendar, *origin, &calendar->origin))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("window origin must be finite")));
	if (size->month > 0)
	{
		struct pg_tm tm;
		fsec_t		fsec;

		if (timestamp2tm(calendar->origin, NULL, &tm, &fsec, NULL, NULL) != 0 || tm.tm_mday > 28)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("windows of months cannot begin on a day that some months do not have"),
					 errhint("Use an origin on one of the first 28 days of a month.")));
	}
}
