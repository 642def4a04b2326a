/*-------------------------------------------------------------------------
 *
 * reset_windows.c
 *	  What reset_stream with dry_run returns: the windows of the sink that a
 *	  reset overwrites, and what becomes of their rows.
 *
 *		replaced	the rows go; those that the records behind the offsets give come
 *		incomplete	the same, but the window may have records before the offsets,
 *					which are not read
 *		kept		one line for all windows that start earlier and stay as they are
 *
 * Rows are counted, and nothing is written.  Kafka is not asked: whether it still
 * has all records behind the offsets is not known here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/rangetypes.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "define_internal.h"
#include "execute/execute.h"
#include "write/write.h"

static Datum
range_datum(int64 start, int64 end)
{
	RangeBound	lower = {.inclusive = true, .lower = true};
	RangeBound	upper = {0};

	lower.infinite = start == DT_NOBEGIN;
	lower.val = TimestampTzGetDatum(start);
	upper.infinite = end == DT_NOEND;
	upper.val = TimestampTzGetDatum(end);
	return RangeTypePGetDatum(SAGG_MAKE_RANGE(lookup_type_cache(TSTZRANGEOID, TYPECACHE_RANGE_INFO),
											  &lower, &upper, false));
}

static void
put_line(const SaggResetRange *range, bool known, int64 start, int64 end,
		 int64 rows, const char *action)
{
	Datum		values[3];
	bool		nulls[3] = {!known, false, false};

	values[0] = known ? range_datum(start, end) : (Datum) 0;
	values[1] = Int64GetDatum(rows);
	values[2] = CStringGetTextDatum(action);
	tuplestore_putvalues(range->windows, range->windows_desc, values, nulls);
}

/*
 * Add the line for rows that stay: all that are not overwritten.
 */
static void
put_kept(const SaggStream *stream, const SaggQuery *query, const SaggResetRange *range)
{
	int64		first;
	int64		start;
	int64		end;
	int64		rows = sagg_sink_count(stream, query, DT_NOBEGIN, DT_NOEND, &first) - range->rows;

	if (rows == 0)
		return;
	sagg_window_told_by(query, range->from, &start, &end);
	put_line(range, true, DT_NOBEGIN, start, rows, "kept");
}

/*
 * Put the lines for "range" into its windows; runs as the stream's owner.
 */
void
sagg_reset_windows(const SaggStream *stream, const SaggQuery *query, const SaggResetRange *range)
{
	int64		n;
	SaggSinkWindow *windows;

	if (range->from != DT_NOBEGIN)
		put_kept(stream, query, range);
	windows = sagg_sink_windows(stream, query, range->from, &n);
	for (int64 i = 0; i < n; i++)
	{
		const SaggSinkWindow *window = &windows[i];
		int64		start;
		int64		end;

		CHECK_FOR_INTERRUPTS();
		sagg_window_told_by(query, window->told, &start, &end);
		if (window->end != DT_NOEND)
			end = window->end;
		put_line(range, window->known, start, end, window->rows,
				 window->told < range->from_whole ? "incomplete" : "replaced");
	}
	pfree(windows);
}
