/*-------------------------------------------------------------------------
 *
 * scan_limits.c
 *	  Computes the part of a source that the pushed-down conditions leave, for
 *	  a scan that reads the topic.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "scan_internal.h"

/*
 * Narrow [min, max] by "column <strategy> value".
 */
static void
narrow(int64 *min, int64 *max, int strategy, int64 value)
{
	switch (strategy)
	{
		case BTLessStrategyNumber:
			if (value == PG_INT64_MIN)
				*max = value;	/* no value */
			else
				*max = Min(*max, value - 1);
			break;
		case BTLessEqualStrategyNumber:
			*max = Min(*max, value);
			break;
		case BTEqualStrategyNumber:
			*min = Max(*min, value);
			*max = Min(*max, value);
			break;
		case BTGreaterEqualStrategyNumber:
			*min = Max(*min, value);
			break;
		case BTGreaterStrategyNumber:
			if (value == PG_INT64_MAX)
				*min = value;	/* no value */
			else
				*min = Max(*min, value + 1);
			break;
		default:
			elog(ERROR, "unexpected strategy number: %d", strategy);
	}
}

/*
 * Returns the names in a text, or in an array of texts.
 */
static List *
topic_names(int strategy, Datum value)
{
	List	   *names = NIL;
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	if (strategy == BTEqualStrategyNumber)
		return list_make1(TextDatumGetCString(value));
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (!nulls[i])
			names = lappend(names, TextDatumGetCString(elements[i]));
	}
	return names;
}

/*
 * Evaluate the conditions pushed down: "bounds" as the plan has them (see
 * SAGG_SCAN_BOUNDS), and the states of the expressions, which are evaluated in
 * "context".  Sets all of "limits" except the restriction.  Returns false if
 * no row can pass, also because a value is NULL.
 */
bool
sagg_scan_limits(List *bounds, List *expressions, ExprContext *context,
				 SaggScanLimits *limits)
{
	int			i = 0;
	ListCell   *lc;

	limits->topics = NIL;
	limits->has_time = false;
	limits->min_partition = limits->min_offset = 0;
	limits->max_partition = limits->max_offset = PG_INT64_MAX - 1;
	foreach(lc, expressions)
	{
		SaggFieldKind kind = list_nth_int(bounds, i++);
		int			strategy = list_nth_int(bounds, i++);
		bool		isnull;
		Datum		value;

		value = ExecEvalExprSwitchContext((ExprState *) lfirst(lc), context, &isnull);
		if (isnull)
			return false;
		if (kind == SAGG_FIELD_TOPIC)
			limits->topics = lappend(limits->topics, topic_names(strategy, value));
		else if (kind == SAGG_FIELD_PARTITION)
			narrow(&limits->min_partition, &limits->max_partition, strategy,
				   DatumGetInt64(value));
		else if (kind == SAGG_FIELD_TIMESTAMP)
		{
			TimestampTz time = DatumGetTimestampTz(value);

			/* no record has that time */
			if (TIMESTAMP_IS_NOEND(time))
				return false;
			limits->min_time = limits->has_time ? Max(limits->min_time, time) : time;
			limits->has_time = true;
		}
		else
			narrow(&limits->min_offset, &limits->max_offset, strategy,
				   DatumGetInt64(value));
	}
	return limits->min_partition <= limits->max_partition &&
		limits->min_offset <= limits->max_offset;
}
