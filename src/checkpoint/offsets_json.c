/*-------------------------------------------------------------------------
 *
 * offsets_json.c
 *	  Offsets by topic and partition, as the logs store them.
 *
 * stream_agg.offsets holds ranges, and stream_agg.commits and
 * stream_agg.sources hold offsets.  A stream that reads one topic writes {"0":
 * [5, 17], "1": [0, 3]} and {"0": 17, "1": 3}; its topic is in
 * stream_agg.sources.  One that reads several has these by topic, {"clicks":
 * {"0": 17, "1": 3}, "views": {"0": 4}}.  Both forms can be read, because a
 * source of one topic can become one of several.
 *
 * The last records in stream_agg.commits are pairs like ranges, of an offset
 * and a timestamp, and so is what a plan skips, which may go back to a smaller
 * offset; the caller checks which pairs make sense.  What a commit skipped is
 * a list for each partition, {"0": [[5, 17], [20, 30]]}, for people.
 *
 * Reading is strict: whatever writing would not have produced is rejected, and
 * the caller says which row it was.  Ranges are sorted by topic and partition.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/numeric.h"

#include "checkpoint_internal.h"

/* ranges being read */
typedef struct RangeReader
{
	bool		pairs;			/* pairs, not single offsets */
	bool		negative;		/* values may be below zero */
	int			n;
	int			size;			/* allocated length of "ranges" */
	SaggRange  *ranges;
} RangeReader;

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = pstrdup(key);
	value.val.string.len = strlen(key);
	(void) pushJsonbValue(state, WJB_KEY, &value);
}

static void
push_number(JsonbParseState **state, JsonbIteratorToken token, int64 number)
{
	JsonbValue	value;

	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(number);
	(void) pushJsonbValue(state, token, &value);
}

static void
push_partition(JsonbParseState **state, const SaggRange *range, bool pair)
{
	char		key[MAXINT8LEN + 1];

	pg_ltoa(range->partition, key);
	push_key(state, key);
	if (!pair)
	{
		push_number(state, WJB_VALUE, range->start);
		return;
	}
	(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	push_number(state, WJB_ELEM, range->start);
	push_number(state, WJB_ELEM, range->end);
	(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/*
 * Ranges, sorted, as jsonb.
 */
static Datum
make_jsonb(const SaggRange *ranges, int nranges, bool pairs, bool by_topic)
{
	JsonbParseState *state = NULL;
	JsonbValue *result;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < nranges; i++)
	{
		if (by_topic && (i == 0 || ranges[i].topic != ranges[i - 1].topic))
		{
			push_key(&state, sagg_topic_name(ranges[i].topic));
			(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		}
		push_partition(&state, &ranges[i], pairs);
		if (by_topic && (i == nranges - 1 || ranges[i + 1].topic != ranges[i].topic))
			(void) pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	result = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(result));
}

/*
 * The starts of ranges, which are sorted, as jsonb, in the current memory
 * context; with "by_topic" in the form that names topics.
 */
Datum
sagg_offsets_to_jsonb(const SaggRange *ranges, int nranges, bool by_topic)
{
	return make_jsonb(ranges, nranges, false, by_topic);
}

/*
 * Returns ranges as jsonb, in the current memory context; with "by_topic" in
 * the form that names topics.
 */
Datum
sagg_ranges_to_jsonb(const SaggRange *ranges, int nranges, bool by_topic)
{
	return make_jsonb(ranges, nranges, true, by_topic);
}

static void
append_skip(StringInfo json, const SaggRange *skip, int *n)
{
	appendStringInfo(json, "%s[" INT64_FORMAT "," INT64_FORMAT "]",
					 (*n)++ > 0 ? "," : "", skip->start, skip->end);
}

/*
 * Append what a batch skipped of a partition, by its plan and as it was read.
 * Returns whether there is anything.
 */
static bool
append_skips(StringInfo json, const SaggRange *range, const SaggPlan *plan,
			 const SaggCommit *commit)
{
	int			n = 0;

	for (int i = 0; i < plan->nskipped; i++)
	{
		if (sagg_partition_compare(&plan->skipped[i], range) == 0)
			append_skip(json, &plan->skipped[i], &n);
	}
	for (int i = 0; i < commit->nlosses; i++)
	{
		if (sagg_partition_compare(&commit->losses[i], range) == 0)
			append_skip(json, &commit->losses[i], &n);
	}
	return n > 0;
}

/*
 * Returns what a batch skipped as jsonb, in the current memory context.
 */
Datum
sagg_skips_to_jsonb(const SaggPlan *plan, const SaggCommit *commit, bool by_topic)
{
	StringInfoData json;
	const SaggRange *last = NULL;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int r = 0; r < plan->nranges; r++)
	{
		const SaggRange *range = &plan->ranges[r];
		StringInfoData list;

		initStringInfo(&list);
		if (append_skips(&list, range, plan, commit))
		{
			bool		new_topic = by_topic && (last == NULL || last->topic != range->topic);

			if (last)
				appendStringInfoString(&json, new_topic ? "}," : ",");
			if (new_topic)
			{
				escape_json(&json, sagg_topic_name(range->topic));
				appendStringInfoString(&json, ":{");
			}
			appendStringInfo(&json, "\"%d\":[%s]", range->partition, list.data);
			last = range;
		}
		pfree(list.data);
	}
	if (last && by_topic)
		appendStringInfoChar(&json, '}');
	appendStringInfoChar(&json, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/* Returns whether the string consists of digits only. */
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
parse_offset(const RangeReader *reader, const JsonbValue *element, int64 *offset)
{
	char	   *text;

	if (element->type != jbvNumeric)
		return false;
	text = DatumGetCString(DirectFunctionCall1(numeric_out,
											   NumericGetDatum(element->val.numeric)));
	if (reader->negative && text[0] == '-')
	{
		if (!parse_digits(text + 1, PG_INT64_MAX, offset))
			return false;
		*offset = -*offset;
		return true;
	}
	return parse_digits(text, PG_INT64_MAX, offset);
}

static SaggRange *
add_range(RangeReader *reader)
{
	if (reader->n == reader->size)
	{
		reader->size = Max(16, 2 * reader->size);
		reader->ranges = reader->ranges == NULL ?
			palloc(sizeof(SaggRange) * reader->size) :
			repalloc(reader->ranges, sizeof(SaggRange) * reader->size);
	}
	return &reader->ranges[reader->n++];
}

/*
 * Read one partition: the iterator has just returned "token" for its value, an
 * offset or a pair of them.
 */
static bool
parse_partition(RangeReader *reader, JsonbIterator **it, int32 topic,
				const char *key, JsonbIteratorToken token, JsonbValue *v)
{
	SaggRange  *range = add_range(reader);
	int64		partition;

	if (topic < 0 || !parse_digits(key, PG_INT32_MAX, &partition))
		return false;
	range->topic = topic;
	range->partition = (int32) partition;
	if (!reader->pairs)
	{
		if (token != WJB_VALUE || !parse_offset(reader, v, &range->start))
			return false;
		range->end = range->start;
		return true;
	}
	return token == WJB_BEGIN_ARRAY &&
		JsonbIteratorNext(it, v, false) == WJB_ELEM &&
		parse_offset(reader, v, &range->start) &&
		JsonbIteratorNext(it, v, false) == WJB_ELEM &&
		parse_offset(reader, v, &range->end) &&
		JsonbIteratorNext(it, v, false) == WJB_END_ARRAY;
}

/*
 * Read the partitions of an object that was just entered.  Where "nested" is
 * given, its values may also be objects, named after a topic, with the
 * partitions of that topic.
 */
static bool
parse_partitions(RangeReader *reader, JsonbIterator **it, int32 topic, bool nested)
{
	JsonbIteratorToken token;
	JsonbValue	v;
	bool		by_topic = false;
	int			first = reader->n;

	while ((token = JsonbIteratorNext(it, &v, false)) == WJB_KEY)
	{
		char	   *key = pnstrdup(v.val.string.val, v.val.string.len);

		token = JsonbIteratorNext(it, &v, false);
		if (nested && token == WJB_BEGIN_OBJECT)
		{
			if (reader->n > first && !by_topic)
				return false;
			by_topic = true;
			first = reader->n;
			if (!parse_partitions(reader, it, sagg_topic_number(key), false) ||
				reader->n == first)
				return false;
		}
		else if (by_topic || !parse_partition(reader, it, topic, key, token, &v))
			return false;
	}
	return token == WJB_END_OBJECT;
}

static bool
parse_object(Jsonb *json, bool pairs, bool negative, const char *topic,
			 SaggRange **ranges, int *nranges)
{
	RangeReader reader = {.pairs = pairs, .negative = negative};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (!JB_ROOT_IS_OBJECT(json))
		return false;
	it = JsonbIteratorInit(&json->root);
	token = JsonbIteratorNext(&it, &v, false);
	Assert(token == WJB_BEGIN_OBJECT);
	(void) token;
	if (!parse_partitions(&reader, &it, topic ? sagg_topic_number(topic) : -1, true))
		return false;
	if (reader.n > 1)
		qsort(reader.ranges, reader.n, sizeof(SaggRange), sagg_partition_order);
	for (int i = 1; i < reader.n; i++)
	{
		if (sagg_partition_compare(&reader.ranges[i], &reader.ranges[i - 1]) == 0)
			return false;
	}
	*ranges = reader.ranges;
	*nranges = reader.n;
	return true;
}

/*
 * Offsets from jsonb, as ranges with start = end, allocated in the current
 * memory context. "topic" is the topic of partitions for which the value names
 * none; NULL if it must name all.  Returns false if the value does not hold
 * offsets.
 */
bool
sagg_offsets_from_jsonb(Jsonb *json, const char *topic,
						SaggRange **ranges, int *nranges)
{
	return parse_object(json, false, false, topic, ranges, nranges);
}

/*
 * Sets ranges from jsonb, allocated in the current memory context; parameters
 * and result are those of sagg_offsets_from_jsonb.
 */
bool
sagg_ranges_from_jsonb(Jsonb *json, const char *topic,
					   SaggRange **ranges, int *nranges)
{
	return parse_object(json, true, false, topic, ranges, nranges);
}

/*
 * Sets offsets from jsonb that may be below zero; parameters and result are
 * those of sagg_offsets_from_jsonb.
 */
bool
sagg_signed_from_jsonb(Jsonb *json, const char *topic,
					   SaggRange **values, int *nvalues)
{
	return parse_object(json, false, true, topic, values, nvalues);
}
