/*-------------------------------------------------------------------------
 *
 * counters.c
 *	  The counters of batches: a table, and what is the same for all of them.
 *
 * A new counter is a field of SaggCounts, a line here, and two columns of
 * stream_agg.commits.  Planning, progress and CHECKPOINT go by the table; only the
 * place that counts, and views that show the counter, name it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "stream_agg.h"

#define COUNTER(field, column, total, share) \
	{offsetof(SaggCounts, field), column, total, share}

const SaggCounter sagg_counters[] = {
	COUNTER(delivered, "delivered", "total_delivered", false),
	COUNTER(aggregated, "aggregated", "total_aggregated", true),
	COUNTER(late, "late", "total_late", true),
	COUNTER(null_time, "null_time", "total_null_time", true),
	COUNTER(dead_lettered, "dead_lettered", "total_dead_lettered", true),
	COUNTER(filtered, "filtered", "total_filtered", true),
	COUNTER(late_windows, "late_windows", "total_late_windows", false),
	COUNTER(beside_closed, "beside_closed", "total_beside_closed", false),
	COUNTER(rows_out, "rows_out", "total_rows_out", false),
	COUNTER(rows_removed, "rows_removed", "total_rows_removed", false),
	COUNTER(rows_expired, "expired", "total_expired", false),
	COUNTER(units_read, "units_read", "total_units_read", false),
	COUNTER(skipped, NULL, "total_skipped", false)	/* column "skipped" has
													 * the ranges */
};

StaticAssertDecl(lengthof(sagg_counters) == SAGG_COUNTERS,
				 "every field of SaggCounts has a line in the table");

/*
 * Add all counters of "counts" to those of "to".
 */
void
sagg_counts_add(SaggCounts *to, const SaggCounts *counts)
{
	for (int i = 0; i < SAGG_COUNTERS; i++)
		*sagg_counter(to, i) = sagg_add_saturated(*sagg_counter(to, i),
												  sagg_counter_value(counts, i));
}

/*
 * The sum of the counters that every record is in one of.
 */
static int64
sum_of_shares(const SaggCounts *counts)
{
	int64		sum = 0;

	for (int i = 0; i < SAGG_COUNTERS; i++)
	{
		if (sagg_counters[i].share)
			sum += sagg_counter_value(counts, i);
	}
	return sum;
}

/*
 * EXECUTE has ended: so many records were delivered, and those that are in no other
 * counter were filtered (I5).
 */
void
sagg_counts_settle(SaggCounts *counts, int64 delivered)
{
	counts->delivered = delivered;
	counts->filtered = 0;
	counts->filtered = delivered - sum_of_shares(counts);
	if (counts->filtered < 0)
		elog(ERROR, "more rows than records: " INT64_FORMAT " of " INT64_FORMAT,
			 delivered - counts->filtered, delivered);
}

/*
 * Returns whether the records delivered are the sum of their shares (I5).
 */
bool
sagg_counts_add_up(const SaggCounts *counts)
{
	return counts->delivered == sum_of_shares(counts);
}
