/*-------------------------------------------------------------------------
 *
 * query_trunc.c
 *	  date_trunc and casts to date in GROUP BY, as windows.
 *
 * date_trunc(unit, ts [, timezone]) and ts::date are the windows of a unit of time
 * by the clocks of a zone: the one given, that of the session, or, of a timestamp,
 * none.  So are date_trunc(...)::date and (ts AT TIME ZONE zone)::date.  The window
 * column is what PostgreSQL makes of any time in the window.
 *
 * The caller decides whether it is a window or a key like others: a time that
 * is not the event time can be truncated, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "parser/scansup.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"

#include "compat.h"
#include "define_internal.h"
#include "read/read.h"

/* The units that date_trunc knows. */
static const struct
{
	int			unit;
	int64		clock;			/* microseconds, */
	int			days;			/* or days, */
	int			months;			/* or months, */
	int			year;			/* a year on whose first day some of these
								 * begin */
}			units[] =

{
	{DTK_MICROSEC, 1, 0, 0, 2000},
	{DTK_MILLISEC, 1000, 0, 0, 2000},
	{DTK_SECOND, USECS_PER_SEC, 0, 0, 2000},
	{DTK_MINUTE, USECS_PER_MINUTE, 0, 0, 2000},
	{DTK_HOUR, USECS_PER_HOUR, 0, 0, 2000},
	{DTK_DAY, 0, 1, 0, 2000},
	{DTK_WEEK, 0, 7, 0, 2001},	/* which begins on a Monday */
	{DTK_MONTH, 0, 0, 1, 2000},
	{DTK_QUARTER, 0, 0, 3, 2000},
	{DTK_YEAR, 0, 0, 12, 2000},
	{DTK_DECADE, 0, 0, 120, 2000},
	{DTK_CENTURY, 0, 0, 1200, 2001},
	{DTK_MILLENNIUM, 0, 0, 12000, 2001}
};

/*
 * Windows of a unit, in the zone of window->calendar.  Where that never
 * changes its clocks, they have one size, except months.
 */
static void
set_unit(SaggWindow *window, int unit)
{
	SaggCalendar *calendar = &window->calendar;
	long int	offset;
	int			i = 0;

	while (units[i].unit != unit)
		i++;
	calendar->clock = units[i].clock;
	calendar->days = units[i].days;
	calendar->months = units[i].months;
	calendar->origin = (date2j(units[i].year, 1, 1) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY;
	calendar->shown = true;
	window->size = calendar->clock +
		(calendar->days + (int64) calendar->months * DAYS_PER_MONTH) * USECS_PER_DAY;
	window->slide = window->size;
	window->kind = SAGG_WINDOW_CALENDAR;
	if (calendar->months == 0 && pg_get_timezone_offset(calendar->zone, &offset))
	{
		window->kind = SAGG_WINDOW_TUMBLE;
		window->origin = calendar->origin - offset * USECS_PER_SEC;
	}
}

/*
 * Returns a text that is a constant, in the current context; NULL if it is not
 * one.
 */
static char *
constant_text(Node *arg)
{
	Node	   *folded = eval_const_expressions(NULL, copyObject(arg));

	if (!IsA(folded, Const) || ((Const *) folded)->constisnull)
		return NULL;
	return TextDatumGetCString(((Const *) folded)->constvalue);
}

static int
unit_of(const char *name)
{
	char	   *lower = downcase_truncate_identifier(name, strlen(name), false);
	int			unit;

	if (DecodeUnits(0, lower, &unit) == UNITS)
	{
		for (int i = 0; i < lengthof(units); i++)
		{
			if (units[i].unit == unit)
				return unit;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unit \"%s\" of date_trunc in GROUP BY not recognized", name),
			 errhint("Use a unit from microseconds to millennium, or stream_agg.tumble(column, size).")));
}

/*
 * Recognise a call of date_trunc over a time.  Returns false if an argument
 * that defines the window is not a constant.
 */
static bool
match_date_trunc(FuncExpr *func, SaggWindow *window, Node **eventtime)
{
	char	   *unit = constant_text(linitial(func->args));
	char	   *zone = "GMT";

	window->type = func->funcresulttype;
	if (list_length(func->args) == 3)
		zone = constant_text(lthird(func->args));
	if (unit == NULL || zone == NULL)
		return false;
	window->calendar.zone = window->type == TIMESTAMPTZOID && list_length(func->args) == 2 ?
		session_timezone : sagg_time_zone(zone);
	set_unit(window, unit_of(unit));
	*eventtime = lsecond(func->args);
	return true;
}

static bool
is_date_trunc(Node *expr)
{
	Oid			funcid = IsA(expr, FuncExpr) ? ((FuncExpr *) expr)->funcid : InvalidOid;

	return funcid == F_DATE_TRUNC_TEXT_TIMESTAMPTZ ||
		funcid == F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT ||
		funcid == F_DATE_TRUNC_TEXT_TIMESTAMP;
}

/*
 * Returns whether an expression is a cast to date, in the zone "by" and of
 * type "type", of a time or of a date_trunc.
 */
static bool
match_date(Node *arg, Oid type, pg_tz *by, SaggWindow *window, Node **eventtime)
{
	FuncExpr   *func = (FuncExpr *) arg;

	if (is_date_trunc(arg))
	{
		if (!match_date_trunc(func, window, eventtime) ||
			window->calendar.clock > 0 || window->calendar.zone != by)
			return false;
		window->type = DATEOID;
		return true;
	}
	window->type = DATEOID;
	window->calendar.zone = by;
	*eventtime = arg;
	if (type == TIMESTAMPOID && IsA(arg, FuncExpr) &&
		func->funcid == F_TIMEZONE_TEXT_TIMESTAMPTZ && constant_text(linitial(func->args)))
	{
		window->calendar.zone = sagg_time_zone(constant_text(linitial(func->args)));
		*eventtime = lsecond(func->args);
	}
	set_unit(window, DTK_DAY);
	return true;
}

/*
 * Returns whether a time is one of a record, as far as the query's FROM shows.
 */
static bool
is_of_record(const Query *query, Node *time)
{
	List	   *vars = pull_var_clause(time, 0);
	ListCell   *lc;

	foreach(lc, vars)
	{
		RangeTblEntry *rte = rt_fetch(lfirst_node(Var, lc)->varno, query->rtable);

		if (rte->rtekind == RTE_RELATION && !sagg_is_source(rte->relid))
			return false;
	}
	return vars != NIL;
}

/*
 * If an expression of GROUP BY is date_trunc of a time of records, or a cast
 * of one to date, describe it in "window" and give the time, which points into
 * "groupexpr".  Sets *hint for a call that is not a window.  Raises
 * invalid_parameter_value for an unknown unit or time zone.
 */
bool
sagg_match_truncation(const Query *query, Node *groupexpr, SaggWindow *window,
					  Node **eventtime, char **hint)
{
	FuncExpr   *func = (FuncExpr *) groupexpr;
	bool		matches;

	if (is_date_trunc(groupexpr))
		matches = match_date_trunc(func, window, eventtime);
	else if (IsA(groupexpr, FuncExpr) && func->funcid == F_DATE_TIMESTAMPTZ)
		matches = match_date(linitial(func->args), TIMESTAMPTZOID, session_timezone,
							 window, eventtime);
	else if (IsA(groupexpr, FuncExpr) && func->funcid == F_DATE_TIMESTAMP)
		matches = match_date(linitial(func->args), TIMESTAMPOID, sagg_time_zone("GMT"),
							 window, eventtime);
	else
		return false;
	if (!matches)
		*hint = "date_trunc and casts to date are windows only if unit and time zone are constants, and a date only with a unit from day to millennium.";
	else if (!is_of_record(query, *eventtime))
		*hint = "date_trunc and casts to date are windows only of a time of the source's records.";
	else
		return true;
	return false;
}
