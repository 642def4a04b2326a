/*-------------------------------------------------------------------------
 *
 * hop.c
 *	  hop(ts, slide, size [, origin]): the sliding windows that hold a time.
 *
 * Windows are the half-open intervals [origin + n * slide, origin + n * slide +
 * size), n any integer; origin is 1970-01-01 00:00 UTC unless given, as in
 * Spark.  Where the slide is greater than the size there are times between two
 * windows, for which there is no row.  The function works in any SQL; in a
 * stream's query the analysis recognises it, and execute/ computes windows by
 * arithmetic instead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "funcapi.h"
#include "utils/rangetypes.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "define_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_hop);

/* Between calls: the windows that are still to be returned. */
typedef struct HopWindows
{
	int64		next;			/* start of the next one */
	int64		last;
	int64		slide;
	int64		size;
	TypeCacheEntry *typcache;
} HopWindows;

/*
 * The first and the last window of a time; the first is after the last if
 * there is none.
 */
static void
find_windows(HopWindows *windows, TimestampTz ts, TimestampTz origin)
{
	int64		slide = windows->slide;
	int64		since;
	int64		into;
	int64		before;
	int64		end;

	sagg_check_window_time(ts, origin);
	if (pg_sub_s64_overflow(ts, origin, &since))
		sagg_window_out_of_range();
	into = since % slide + (since % slide < 0 ? slide : 0);
	if (into >= windows->size)
	{
		windows->next = 1;
		windows->last = 0;
		return;
	}
	before = (windows->size - into - 1) / slide * slide;
	if (pg_sub_s64_overflow(ts, into, &windows->last) ||
		pg_sub_s64_overflow(windows->last, before, &windows->next) ||
		pg_add_s64_overflow(windows->last, windows->size, &end) ||
		!IS_VALID_TIMESTAMP(windows->next) || !IS_VALID_TIMESTAMP(end))
		sagg_window_out_of_range();
}

static HopWindows *
start_windows(FunctionCallInfo fcinfo)
{
	HopWindows *windows = palloc(sizeof(HopWindows));

	windows->slide = sagg_window_slide(PG_GETARG_INTERVAL_P(1));
	windows->size = sagg_window_size(PG_GETARG_INTERVAL_P(2));
	windows->typcache = lookup_type_cache(TSTZRANGEOID, TYPECACHE_RANGE_INFO);
	find_windows(windows, PG_GETARG_TIMESTAMPTZ(0),
				 PG_NARGS() > 3 ? PG_GETARG_TIMESTAMPTZ(3) : SAGG_EPOCH);
	return windows;
}

/*
 * hop(ts timestamptz, slide interval, size interval [, origin timestamptz])
 * RETURNS SETOF tstzrange
 */
Datum
stream_agg_hop(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;
	HopWindows *windows;
	RangeBound	lower = {.inclusive = true, .lower = true};
	RangeBound	upper = {.inclusive = false, .lower = false};

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;

		context = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(context->multi_call_memory_ctx);
		context->user_fctx = start_windows(fcinfo);
		MemoryContextSwitchTo(old);
	}
	context = SRF_PERCALL_SETUP();
	windows = context->user_fctx;
	if (windows->next > windows->last)
		SRF_RETURN_DONE(context);

	lower.val = TimestampTzGetDatum(windows->next);
	upper.val = TimestampTzGetDatum(windows->next + windows->size);
	if (windows->next == windows->last)
		windows->last--;
	else
		windows->next += windows->slide;
	SRF_RETURN_NEXT(context, RangeTypePGetDatum(SAGG_MAKE_RANGE(windows->typcache, &lower,
																&upper, false)));
}
