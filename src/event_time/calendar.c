/*-------------------------------------------------------------------------
 *
 * calendar.c
 *	  Windows by the clocks of a time zone.
 *
 * Bounds are local times: the origin, and every "size" days or months from it.
 * A day has 23 or 25 hours where clocks are changed.  A bound that clocks skip
 * is the moment of the change; a bound that they show twice is the second of
 * the two moments, as for a timestamp AT TIME ZONE.
 *
 * The windows of date_trunc and of casts to date are "shown": a time is in the
 * window that clocks show at that time.  The result differs only where clocks
 * go back over a bound: the window after it begins, ends and begins again.
 * Such a window is identified by its start, as date_trunc returns it, and is
 * over at the start of the next one.
 *
 * Shown windows of hours or less begin again where clocks are changed by a
 * part of their size.  They are identified by the time at which they would
 * have begun, and are over a whole size later.
 *
 * Finding a window takes several conversions by the zone's rules, so the last
 * windows found are cached: many records follow each other in one window.
 *
 * Never raises an error and never allocates, so that it can be called after a
 * commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "datatype/timestamp.h"
#include "pgtime.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "stream_agg.h"
#include "event_time.h"

#define REMEMBERED		8

#define UNIX_TO_POSTGRES_SECS \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY)

typedef struct CalendarWindow
{
	TimestampTz start;
	TimestampTz end;
	TimestampTz from;			/* times known to be in it */
	TimestampTz until;
} CalendarWindow;

static SaggCalendar remembered_calendar;
static int	nremembered = 0;
static int	next_forgotten = 0;
static CalendarWindow remembered[REMEMBERED];

/* Times between which a zone has one offset; a cache of the last lookup. */
typedef struct OffsetSpan
{
	struct pg_tz *zone;
	TimestampTz from;
	TimestampTz until;
	int64		offset;			/* microseconds by which clocks are ahead of
								 * UTC */
} OffsetSpan;

static OffsetSpan remembered_span;

/*
 * Returns what clocks show at a moment.
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
 * Returns the moment at which clocks show a local time.
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
 * Returns what clocks show at the start of window number n, counted from the
 * origin.
 */
static bool
local_bound(const SaggCalendar *calendar, int64 n, int64 *local)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int64		months;

	if (calendar->months == 0)
		return !pg_mul_s64_overflow(n, calendar->days * USECS_PER_DAY, local) &&
			!pg_add_s64_overflow(*local, calendar->origin, local);
	if (timestamp2tm(calendar->origin, NULL, &tm, &fsec, NULL, NULL) != 0)
		return false;
	months = months_of(&tm) + n * calendar->months;
	if (months < 0 && months % MONTHS_PER_YEAR != 0)
		tm.tm_year = months / MONTHS_PER_YEAR - 1;
	else
		tm.tm_year = months / MONTHS_PER_YEAR;
	tm.tm_mon = months - (int64) tm.tm_year * MONTHS_PER_YEAR + 1;
	return tm2timestamp(&tm, fsec, NULL, local) == 0;
}

static bool
bound(const SaggCalendar *calendar, int64 n, TimestampTz *ts)
{
	int64		local;

	return local_bound(calendar, n, &local) && moment_of(calendar, local, ts);
}

static int64
divide_down(int64 a, int64 b)
{
	return a / b - (a % b < 0 ? 1 : 0);
}

/*
 * Returns the number of the window that holds a local time, or of a neighbour
 * of it.
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
			break;
		window->start = window->end;
		n++;
	}
	window->from = window->start;
	window->until = window->end;
	return true;
}

/*
 * Returns the span of one offset that a time is in.
 */
static bool
find_span(struct pg_tz *zone, TimestampTz ts, OffsetSpan *span)
{
	pg_time_t	seconds;
	pg_time_t	change;
	long int	offset;
	long int	other_offset;
	int			is_dst;
	int			known;
	TimestampTz until;

	if (zone == remembered_span.zone &&
		ts >= remembered_span.from && ts < remembered_span.until)
	{
		*span = remembered_span;
		return true;
	}
	if (!IS_VALID_TIMESTAMP(ts))
		return false;
	seconds = divide_down(ts, USECS_PER_SEC) + UNIX_TO_POSTGRES_SECS;
	known = pg_next_dst_boundary(&seconds, &offset, &is_dst, &change,
								 &other_offset, &is_dst, zone);
	if (known < 0)
		return false;
	if (known == 0 ||
		pg_mul_s64_overflow(change - UNIX_TO_POSTGRES_SECS, USECS_PER_SEC, &until))
		until = DT_NOEND;
	if (zone == remembered_span.zone && until == remembered_span.until &&
		ts < remembered_span.from)
		remembered_span.from = ts;
	else
	{
		remembered_span.zone = zone;
		remembered_span.from = ts;
		remembered_span.until = until;
		remembered_span.offset = (int64) offset * USECS_PER_SEC;
	}
	*span = remembered_span;
	return true;
}

/*
 * Returns the shown window of a time, for windows of hours or less.
 */
static bool
shown_clock(const SaggCalendar *calendar, TimestampTz ts, TimestampTz *start,
			TimestampTz *end)
{
	OffsetSpan	span;
	int64		into;

	if (!find_span(calendar->zone, ts, &span))
		return false;
	into = (ts + span.offset) % calendar->clock;
	*start = ts - into - (into < 0 ? calendar->clock : 0);
	*end = *start + calendar->clock;
	return IS_VALID_TIMESTAMP(*start) && IS_VALID_TIMESTAMP(*end);
}

/*
 * Returns the shown window of a time, for windows of days or months.
 */
static bool
shown_window(const SaggCalendar *calendar, TimestampTz ts, CalendarWindow *window)
{
	OffsetSpan	span;
	int64		n;
	int64		from;
	int64		until;

	if (!find_span(calendar->zone, ts, &span) ||
		!number_near(calendar, ts + span.offset, &n) ||
		!local_bound(calendar, n, &from) || !local_bound(calendar, n + 1, &until) ||
		!moment_of(calendar, from, &window->start) ||
		!moment_of(calendar, until, &window->end))
		return false;
	window->from = Max(from - span.offset, span.from);
	window->until = Min(until - span.offset, span.until);
	return true;
}

/*
 * Find the window of a calendar that holds a time.  Returns false if there is
 * none within the range of timestamps.
 */
bool
sagg_calendar_window(const SaggCalendar *calendar, TimestampTz ts,
					 TimestampTz *start, TimestampTz *end)
{
	CalendarWindow window;

	if (calendar->clock > 0)
		return shown_clock(calendar, ts, start, end);
	if (calendar->zone != remembered_calendar.zone ||
		calendar->months != remembered_calendar.months ||
		calendar->days != remembered_calendar.days ||
		calendar->origin != remembered_calendar.origin ||
		calendar->shown != remembered_calendar.shown)
	{
		remembered_calendar = *calendar;
		nremembered = next_forgotten = 0;
	}
	for (int i = 0; i < nremembered; i++)
	{
		if (ts >= remembered[i].from && ts < remembered[i].until)
		{
			*start = remembered[i].start;
			*end = remembered[i].end;
			return true;
		}
	}
	if (!(calendar->shown ? shown_window(calendar, ts, &window) :
		  find_window(calendar, ts, &window)))
		return false;
	remembered[next_forgotten] = window;
	nremembered = Max(nremembered, next_forgotten + 1);
	next_forgotten = (next_forgotten + 1) % REMEMBERED;
	*start = window.start;
	*end = window.end;
	return true;
}

/*
 * Returns when the window of a calendar that "start" identifies is over;
 * DT_NOEND = out of range.
 */
TimestampTz
sagg_calendar_end(const SaggCalendar *calendar, TimestampTz start)
{
	TimestampTz from;
	TimestampTz end;

	if (calendar->clock > 0)
		return start + calendar->clock;
	return sagg_calendar_window(calendar, start, &from, &end) ? end : DT_NOEND;
}

/*
 * Returns the start of the first window of a calendar that is not over at a
 * time; DT_NOBEGIN = out of range.
 */
TimestampTz
sagg_calendar_first_open(const SaggCalendar *calendar, TimestampTz ts)
{
	CalendarWindow window;

	if (calendar->clock > 0)
		return shown_clock(calendar, ts, &window.start, &window.end) ? window.start : DT_NOBEGIN;
	return find_window(calendar, ts, &window) ? window.start : DT_NOBEGIN;
}

/*
 * Returns the date that clocks show at a time within the range of timestamps.
 */
DateADT
sagg_calendar_date(const SaggCalendar *calendar, TimestampTz ts)
{
	Timestamp	local;

	if (!local_time(calendar, ts, &local))
		return ts < 0 ? DATEVAL_NOBEGIN : DATEVAL_NOEND;
	return (DateADT) divide_down(local, USECS_PER_DAY);
}

/*
 * Returns the moment when a date begins.
 */
TimestampTz
sagg_calendar_midnight(const SaggCalendar *calendar, DateADT date)
{
	TimestampTz ts;

	if (DATE_IS_NOBEGIN(date))
		return DT_NOBEGIN;
	return !DATE_IS_NOEND(date) && moment_of(calendar, date * USECS_PER_DAY, &ts) ? ts : DT_NOEND;
}

/*
 * Set up a calendar of "size", in the zone of a name, counted from "origin",
 * or if that is NULL from Monday 1970-01-05 for days and from 1970-01-01 for
 * months.  Raises an error for a size that is not in days, weeks, months or
 * years, and for an unknown time zone.
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
