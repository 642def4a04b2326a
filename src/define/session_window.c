/*-------------------------------------------------------------------------
 *
 * session_window.c
 *	  session(ts, gap): the session window that a record makes by itself.
 *
 * That is [ts, ts + gap).  In a stream's query the analysis recognises the
 * function, and execute/window/session_windows.c merges those of a key that touch.
 * Elsewhere it is a range like any other: a batch query merges sessions by
 * window functions, see doc/windows.md.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/timestamp.h"

#include "define_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_session);

/*
 * Returns the constant gap of a stream's sessions in microseconds, greater
 * than zero.
 */
int64
sagg_session_gap(const Interval *gap)
{
	int64		length = sagg_interval_length(gap, "session gap");

	if (length <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("session gap must be greater than zero"),
				 errdetail("A record with no gap, or a negative one, is in no session.")));
	return length;
}

/*
 * session(ts timestamptz, gap interval) RETURNS tstzrange; NULL for a gap that
 * is not greater than zero.
 */
Datum
stream_agg_session(PG_FUNCTION_ARGS)
{
	TimestampTz ts = PG_GETARG_TIMESTAMPTZ(0);
	int64		gap = sagg_interval_length(PG_GETARG_INTERVAL_P(1), "session gap");
	int64		end;

	if (gap <= 0)
		PG_RETURN_NULL();
	sagg_check_window_time(ts, SAGG_EPOCH);
	if (pg_add_s64_overflow(ts, gap, &end) || !IS_VALID_TIMESTAMP(end))
		sagg_window_out_of_range();
	return sagg_make_window(fcinfo, ts, end);
}
