/*-------------------------------------------------------------------------
 *
 * query_window.c
 *	  Recognises the window among the expressions of GROUP BY.
 *
 * stream_agg.tumble(ts, size [, origin] [, timezone]) is a tumbling window, as
 * is date_bin(size, ts, origin); stream_agg.hop(ts, slide, size [, origin]) is
 * a sliding one.  Slide, size and origin must be constants.
 * stream_agg.session(ts, gap) makes sessions; its gap may be an expression.
 * lower() and upper() of a window are that window, too; tumble_start and
 * tumble_end are another way to write them. date_trunc and casts to date are
 * windows where none of these is used (query_trunc.c).  The functions are
 * recognised by their OIDs, never by name alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_func.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "define_internal.h"

/*
 * Returns the OID of tumble, tumble_start or tumble_end.
 */
static Oid
tumble_function(char *function)
{
	Oid			argtypes[4] = {TIMESTAMPTZOID, INTERVALOID, TIMESTAMPTZOID, TEXTOID};

	return LookupFuncName(list_make2(makeString(SAGG_SCHEMA), makeString(function)),
						  4, argtypes, true);
}

static bool
is_tumble(Oid funcid)
{
	return funcid == tumble_function("tumble");
}

static bool
is_session(Oid funcid)
{
	Oid			argtypes[2] = {TIMESTAMPTZOID, INTERVALOID};
	List	   *name = list_make2(makeString(SAGG_SCHEMA), makeString("session"));

	return funcid == LookupFuncName(name, 2, argtypes, true);
}

/*
 * Returns whether a function is stream_agg.hop.
 */
bool
sagg_is_hop(Oid funcid)
{
	Oid			argtypes[4] = {TIMESTAMPTZOID, INTERVALOID, INTERVALOID, TIMESTAMPTZOID};
	List	   *name = list_make2(makeString(SAGG_SCHEMA), makeString("hop"));

	return funcid == LookupFuncName(name, 3, argtypes, true) ||
		funcid == LookupFuncName(name, 4, argtypes, true);
}

/*
 * Returns the value of an argument that must be a constant.
 */
static Datum
constant_argument(Node *arg, const char *function, const char *what)
{
	Node	   *folded = eval_const_expressions(NULL, copyObject(arg));

	if (!IsA(folded, Const))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the %s of %s in GROUP BY must be a constant", what, function)));
	if (((Const *) folded)->constisnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the %s of %s in GROUP BY must not be NULL", what, function)));
	return ((Const *) folded)->constvalue;
}

static int64
constant_origin(Node *arg, const char *function)
{
	TimestampTz origin = DatumGetTimestampTz(constant_argument(arg, function, "origin"));

	if (TIMESTAMP_NOT_FINITE(origin))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("the origin of %s in GROUP BY must be finite", function)));
	return origin;
}

/*
 * Returns the arguments in the order of the parameters, including those left
 * out, which a call by name may have.
 */
static List *
all_arguments(const FuncExpr *func)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(func->funcid));
	List	   *args;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", func->funcid);
	args = expand_function_arguments(copyObject(func->args), false, func->funcresulttype, tuple);
	ReleaseSysCache(tuple);
	return args;
}

static Node *
match_tumble(FuncExpr *func, SaggWindow *window)
{
	List	   *args = all_arguments(func);
	Interval   *size = DatumGetIntervalP(constant_argument(lsecond(args), "tumble", "size"));
	TimestampTz origin = constant_origin(lthird(args), "tumble");
	char	   *zone = TextDatumGetCString(constant_argument(lfourth(args), "tumble", "timezone"));

	window->kind = SAGG_WINDOW_TUMBLE;
	window->type = TSTZRANGEOID;
	window->origin = origin;
	if (zone[0] == '\0')
		window->size = sagg_tumble_size(size);
	else
	{
		window->kind = SAGG_WINDOW_CALENDAR;
		sagg_calendar_init(&window->calendar, size, zone, origin == SAGG_EPOCH ? NULL : &origin);
		window->size = USECS_PER_DAY * (window->calendar.days +
										(int64) window->calendar.months * DAYS_PER_MONTH);
	}
	window->slide = window->size;
	return linitial(args);
}

/*
 * A gap that is not a constant belongs to the record; query_analyze.c gives it
 * a column.
 */
static Node *
match_session(FuncExpr *func, SaggWindow *window)
{
	Node	   *gap = eval_const_expressions(NULL, copyObject(lsecond(func->args)));

	window->kind = SAGG_WINDOW_SESSION;
	window->type = TSTZRANGEOID;
	if (IsA(gap, Const))
		window->gap = sagg_session_gap(DatumGetIntervalP(constant_argument(gap, "session", "gap")));
	return linitial(func->args);
}

static Node *
match_hop(FuncExpr *func, SaggWindow *window)
{
	List	   *args = all_arguments(func);
	Interval   *slide = DatumGetIntervalP(constant_argument(lsecond(args), "hop", "slide"));
	Interval   *size = DatumGetIntervalP(constant_argument(lthird(args), "hop", "size"));

	window->kind = SAGG_WINDOW_HOP;
	window->type = TSTZRANGEOID;
	window->slide = sagg_window_slide(slide);
	window->size = sagg_window_size(size);
	window->origin = list_length(args) > 3 ?
		constant_origin(lfourth(args), "hop") : SAGG_EPOCH;
	if (window->slide > PG_INT64_MAX / 4 || window->size > PG_INT64_MAX / 4)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("slide or size of hop in GROUP BY is out of range")));
	if (window->slide == window->size)
		window->kind = SAGG_WINDOW_TUMBLE;
	return linitial(args);
}

static Node *
match_date_bin(FuncExpr *func, SaggWindow *window)
{
	Interval   *size = DatumGetIntervalP(constant_argument(linitial(func->args),
														   "date_bin", "stride"));

	window->kind = SAGG_WINDOW_TUMBLE;
	window->type = func->funcresulttype;
	window->slide = window->size = sagg_window_size(size);
	window->origin = constant_origin(lthird(func->args), "date_bin");
	return lsecond(func->args);
}

typedef struct BoundsContext
{
	Oid			tumble;
	Oid			start;
	Oid			end;
} BoundsContext;

static Node *
spell_out_bounds(Node *node, void *arg)
{
	const BoundsContext *context = arg;

	if (node == NULL)
		return NULL;
	if (IsA(node, Query))
		return (Node *) query_tree_mutator((Query *) node, spell_out_bounds, arg, 0);
	node = expression_tree_mutator(node, spell_out_bounds, arg);
	if (IsA(node, FuncExpr))
	{
		FuncExpr   *func = (FuncExpr *) node;
		Oid			funcid = func->funcid;

		if (!OidIsValid(funcid) || (funcid != context->start && funcid != context->end))
			return node;
		func->funcid = context->tumble;
		func->funcresulttype = TSTZRANGEOID;
		return (Node *) makeFuncExpr(funcid == context->start ? F_LOWER_ANYRANGE : F_UPPER_ANYRANGE,
									 TIMESTAMPTZOID, list_make1(func), InvalidOid,
									 InvalidOid, COERCE_EXPLICIT_CALL);
	}
	return node;
}

/*
 * Rewrite tumble_start(...) and tumble_end(...) in the select list and HAVING
 * of a query as lower(tumble(...)) and upper(tumble(...)).
 */
void
sagg_spell_out_bounds(Query *query)
{
	BoundsContext context;

	context.tumble = tumble_function("tumble");
	context.start = tumble_function("tumble_start");
	context.end = tumble_function("tumble_end");
	query->targetList = (List *) spell_out_bounds((Node *) query->targetList, &context);
	query->havingQual = spell_out_bounds(query->havingQual, &context);
}

/*
 * If an expression of GROUP BY is a window, describe it in "window", and give
 * the expression the window column stands for and the event time in it; both
 * point into "groupexpr".  Raises an error where it is one of our functions with
 * arguments that do not make a window.
 */
bool
sagg_match_window(Node *groupexpr, SaggWindow *window,
				  Node **windowexpr, Node **eventtime)
{
	FuncExpr   *func;

	if (!IsA(groupexpr, FuncExpr))
		return false;
	func = (FuncExpr *) groupexpr;
	if ((func->funcid == F_LOWER_ANYRANGE || func->funcid == F_UPPER_ANYRANGE) &&
		IsA(linitial(func->args), FuncExpr))
		func = linitial(func->args);

	if (is_tumble(func->funcid))
		*eventtime = match_tumble(func, window);
	else if (is_session(func->funcid))
		*eventtime = match_session(func, window);
	else if (func->funcretset && sagg_is_hop(func->funcid))
		*eventtime = match_hop(func, window);
	else if (func == (FuncExpr *) groupexpr &&
			 (func->funcid == F_DATE_BIN_INTERVAL_TIMESTAMP_TIMESTAMP ||
			  func->funcid == F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ))
		*eventtime = match_date_bin(func, window);
	else
		return false;
	*windowexpr = (Node *) func;
	return true;
}
