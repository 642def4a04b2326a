/*-------------------------------------------------------------------------
 *
 * offsets_json.c
 *	  Offsets by partition, as the logs store them.
 *
 * stream_agg.offsets holds ranges, {"0": [5, 17], "1": [0, 3]}, and
 * stream_agg.commits and stream_agg.sources hold offsets, {"0": 17, "1": 3}.
 * The last records in stream_agg.commits are pairs like ranges, of an offset
 * and a timestamp, and so is what a plan skips, which may go back to a smaller
 * offset; which pairs make sense is for the caller to say.  What a commit
 * skipped is a list for each partition, {"0": [[5, 17], [20, 30]]}, for people.
 * Reading is strict: whatever writing would not have produced is refused, and
 * the caller says which row it was.  Ranges are sorted by partition.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "checkpoint_internal.h"

static Datum
text_to_jsonb(const char *text)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
}

/*
 * The starts of ranges as jsonb, in the current memory context.
 */
Datum
sagg_offsets_to_jsonb(const SaggRange *ranges, int nranges)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < nranges; i++)
		appendStringInfo(&json, "%s\"%d\":" INT64_FORMAT, i > 0 ? "," : "",
						 ranges[i].partition, ranges[i].start);
	appendStringInfoChar(&json, '}');
	return text_to_jsonb(json.data);
}

/*
 * Ranges as jsonb, in the current memory context.
 */
Datum
sagg_ranges_to_jsonb(const SaggRange *ranges, int nranges)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < nranges; i++)
		appendStringInfo(&json, "%s\"%d\":[" INT64_FORMAT "," INT64_FORMAT "]",
						 i > 0 ? "," : "", ranges[i].partition,
						 ranges[i].start, ranges[i].end);
	appendStringInfoChar(&json, '}');
	return text_to_jsonb(json.data);
}

static void
append_skip(StringInfo json, const SaggRange *skip, int *n)
{
	appendStringInfo(json, "%s[" INT64_FORMAT "," INT64_FORMAT "]",
					 (*n)++ > 0 ? "," : "", skip->start, skip->end);
}

/*
 * What a batch skipped, by its plan and as it was read, as jsonb in the current
 * memory context.
 */
Datum
sagg_skips_to_jsonb(const SaggPlan *plan, const SaggCommit *commit)
{
	StringInfoData json;
	int			partitions = 0;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int r = 0; r < plan->nranges; r++)
	{
		int32		partition = plan->ranges[r].partition;
		StringInfoData list;
		int			n = 0;

		initStringInfo(&list);
		for (int i = 0; i < plan->nskipped; i++)
		{
			if (plan->skipped[i].partition == partition)
				append_skip(&list, &plan->skipped[i], &n);
		}
		for (int i = 0; i < commit->nlosses; i++)
		{
			if (commit->losses[i].partition == partition)
				append_skip(&list, &commit->losses[i], &n);
		}
		if (n > 0)
			appendStringInfo(&json, "%s\"%d\":[%s]", partitions++ > 0 ? "," : "",
							 partition, list.data);
		pfree(list.data);
	}
	appendStringInfoChar(&json, '}');
	return text_to_jsonb(json.data);
}

/* A string of digits alone. */
static bool
parse_digits(const char *text, int64 limit, int64 *value)
{
	char	   *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	*value = strtoi64(text, &end, 10);
	return errno == 0 && *end == '\0' && *value <= limit;
}

static bool
parse_partition(const JsonbValue *key, int32 *partition)
{
	char	   *text = pnstrdup(key->val.string.val, key->val.string.len);
	int64		value;

	if (!parse_digits(text, PG_INT32_MAX, &value))
		return false;
	*partition = (int32) value;
	return true;
}

static bool
parse_offset(const JsonbValue *element, int64 *offset)
{
	Datum		text;

	if (element->type != jbvNumeric)
		return false;
	text = DirectFunctionCall1(numeric_out,
							   NumericGetDatum(element->val.numeric));
	return parse_digits(DatumGetCString(text), PG_INT64_MAX, offset);
}

/* One value of the object: an offset, or a pair of them. */
static bool
parse_range(JsonbIterator **it, bool pair, SaggRange *range)
{
	JsonbValue	v;
	JsonbIteratorToken token = JsonbIteratorNext(it, &v, false);

	if (!pair)
	{
		if (token != WJB_VALUE || !parse_offset(&v, &range->start))
			return false;
		range->end = range->start;
		return true;
	}
	return token == WJB_BEGIN_ARRAY &&
		JsonbIteratorNext(it, &v, false) == WJB_ELEM &&
		parse_offset(&v, &range->start) &&
		JsonbIteratorNext(it, &v, false) == WJB_ELEM &&
		parse_offset(&v, &range->end) &&
		JsonbIteratorNext(it, &v, false) == WJB_END_ARRAY;
}

static int
compare_ranges(const void *a, const void *b)
{
	int32		pa = ((const SaggRange *) a)->partition;
	int32		pb = ((const SaggRange *) b)->partition;

	return pa < pb ? -1 : pa > pb;
}

static bool
parse_object(Jsonb *json, bool pairs, SaggRange **ranges, int *nranges)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	int			n = 0;

	if (!JB_ROOT_IS_OBJECT(json))
		return false;
	*ranges = palloc(sizeof(SaggRange) * Max(JB_ROOT_COUNT(json), 1));
	it = JsonbIteratorInit(&json->root);
	token = JsonbIteratorNext(&it, &v, false);
	Assert(token == WJB_BEGIN_OBJECT);
	while ((token = JsonbIteratorNext(&it, &v, false)) == WJB_KEY)
	{
		if (!parse_partition(&v, &(*ranges)[n].partition) ||
			!parse_range(&it, pairs, &(*ranges)[n]))
			return false;
		n++;
	}
	qsort(*ranges, n, sizeof(SaggRange), compare_ranges);
	for (int i = 1; i < n; i++)
	{
		if ((*ranges)[i].partition == (*ranges)[i - 1].partition)
			return false;
	}
	*nranges = n;
	return true;
}

/*
 * Offsets from jsonb, as ranges with start = end, allocated in the current
 * memory context.  Returns false if that is not what the value holds.
 */
bool
sagg_offsets_from_jsonb(Jsonb *json, SaggRange **ranges, int *nranges)
{
	return parse_object(json, false, ranges, nranges);
}

/*
 * Ranges from jsonb, the same way.
 */
bool
sagg_ranges_from_jsonb(Jsonb *json, SaggRange **ranges, int *nranges)
{
	return parse_object(json, true, ranges, nranges);
}
