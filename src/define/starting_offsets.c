/*-------------------------------------------------------------------------
 *
 * starting_offsets.c
 *	  Where a stream begins to read, as users write it.
 *
 *		earliest, latest
 *		{"0": 42, "1": -2}	offsets by partition; -2 earliest, -1 latest;
 *							partitions not named: earliest
 *		{"topic": {"0": 42}}	offsets of a source of several topics
 *		a timestamptz		the first record of that time or later
 *
 * The catalog holds it in a form that means the same under any setting of the
 * session, and at any time: 'yesterday' becomes the time that it meant at
 * create_stream.  Nothing here asks Kafka: worker/start_offsets.c finds the
 * offsets, once, at the stream's first contact with its topic.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "define_internal.h"

static void
bad_partition(const JsonbValue *key, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid partition \"%.*s\" in %s", key->val.string.len,
					key->val.string.val, what),
			 errdetail("Partitions are numbers from 0.")));
}

static int32
partition_from_key(const JsonbValue *key, const char *what)
{
	char	   *text = pnstrdup(key->val.string.val, key->val.string.len);
	char	   *end;
	long		value;

	if (text[0] < '0' || text[0] > '9' || (text[0] == '0' && text[1] != '\0'))
		bad_partition(key, what);
	errno = 0;
	value = strtol(text, &end, 10);
	if (errno != 0 || *end != '\0' || value > PG_INT32_MAX)
		bad_partition(key, what);
	return (int32) value;
}

static int64
not_a_number(int32 partition, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the offset of partition %d in %s is not a number", partition, what),
			 errdetail("An offset is a whole number from 0, -1 for the end of the partition or -2 for its beginning.")));
	return 0;
}

static int64
offset_from_value(const JsonbValue *value, int32 partition, const char *what)
{
	char	   *text = NULL;
	char	   *end;
	int64		offset = -3;

	if (value->type == jbvNumeric)
	{
		text = DatumGetCString(DirectFunctionCall1(numeric_out,
												   NumericGetDatum(value->val.numeric)));
		errno = 0;
		offset = strtoi64(text, &end, 10);
		if (errno != 0 || *end != '\0')
			offset = -3;
	}
	if (offset < SAGG_OFFSET_EARLIEST)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 text ? errmsg("invalid offset %s of partition %d in %s", text, partition, what) :
				 errmsg("the offset of partition %d in %s is not a number", partition, what),
				 errdetail("An offset is a whole number from 0, -1 for the end of the partition or -2 for its beginning.")));
	return offset;
}

static SaggRange *
add_range(SaggStart *start)
{
	start->offsets = start->offsets == NULL ? palloc(sizeof(SaggRange)) :
		repalloc(start->offsets, sizeof(SaggRange) * (start->noffsets + 1));
	return &start->offsets[start->noffsets++];
}

/*
 * Read offsets by partition, of an object that was just entered; topic -1 is
 * the source's only one.
 */
static void
partitions_from_json(JsonbIterator **it, int32 topic, const char *what,
					 SaggStart *start)
{
	JsonbValue	v;

	while (JsonbIteratorNext(it, &v, false) == WJB_KEY)
	{
		JsonbValue	key = v;
		JsonbIteratorToken token = JsonbIteratorNext(it, &v, topic >= 0);
		SaggRange  *range;

		if (token == WJB_BEGIN_OBJECT)
		{
			char	   *name = pnstrdup(key.val.string.val, key.val.string.len);

			partitions_from_json(it, sagg_topic_number(name), what, start);
			continue;
		}
		range = add_range(start);
		range->topic = topic;
		range->partition = partition_from_key(&key, what);
		range->start = range->end = token == WJB_VALUE ?
			offset_from_value(&v, range->partition, what) : not_a_number(range->partition, what);
	}
}

/*
 * Read offsets by partition, or by topic and partition.
 */
static void
offsets_from_json(const char *text, const char *what, SaggStart *start)
{
	Jsonb	   *json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbValue	v;
	bool		named = false;

	start->kind = SAGG_START_OFFSETS;
	(void) JsonbIteratorNext(&it, &v, false);
	partitions_from_json(&it, -1, what, start);
	for (int i = 0; i < start->noffsets; i++)
		named |= start->offsets[i].topic >= 0;
	for (int i = 0; i < start->noffsets && named; i++)
	{
		if (start->offsets[i].topic < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s name topics for some partitions only", what)));
	}
	if (named)
		qsort(start->offsets, start->noffsets, sizeof(SaggRange), sagg_partition_order);
}

/*
 * Read a time.  Kafka counts milliseconds since 1970.
 */
static TimestampTz
checked_time(TimestampTz time, const char *what)
{
	if (TIMESTAMP_NOT_FINITE(time) || time < SAGG_EPOCH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a time in %s must be finite and not before 1970", what)));
	return time;
}

static void
time_from_text(const char *text, const char *what, SaggStart *start)
{
	Datum		time = DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
										   ObjectIdGetDatum(InvalidOid),
										   Int32GetDatum(-1));

	start->kind = SAGG_START_TIME;
	start->time = checked_time(DatumGetTimestampTz(time), what);
}

static void
error_callback(void *arg)
{
	errcontext("reading %s", (const char *) arg);
	errhint("Valid values are earliest, latest, offsets by partition as in {\"0\": 42, \"1\": -2}, and timestamps.");
}

static SaggStart *
parse(const char *text, const char *what)
{
	SaggStart  *start = palloc0(sizeof(SaggStart));
	ErrorContextCallback callback;

	callback.callback = error_callback;
	callback.arg = unconstify(char *, what);
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	if (strcmp(text, "earliest") == 0)
		start->kind = SAGG_START_EARLIEST;
	else if (strcmp(text, "latest") == 0)
		start->kind = SAGG_START_LATEST;
	else if (text[strspn(text, " \t\n\r")] == '{')
		offsets_from_json(text, what, start);
	else
		time_from_text(text, what, start);
	error_context_stack = callback.previous;
	return start;
}

/*
 * Read what a row of stream_agg.streams says; in the current context.
 */
SaggStart *
sagg_starting_offsets(const char *text)
{
	return parse(text, "starting_offsets");
}

static char *
offsets_text(const SaggStart *start)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < start->noffsets; i++)
	{
		const SaggRange *range = &start->offsets[i];
		bool		first = i == 0 || range->topic != start->offsets[i - 1].topic;
		bool		last = i == start->noffsets - 1 ||
		range->topic != start->offsets[i + 1].topic;

		appendStringInfoString(&json, i > 0 ? ", " : "");
		if (range->topic >= 0 && first)
		{
			escape_json(&json, sagg_topic_name(range->topic));
			appendStringInfoString(&json, ": {");
		}
		appendStringInfo(&json, "\"%d\": " INT64_FORMAT, range->partition, range->start);
		if (range->topic >= 0 && last)
			appendStringInfoChar(&json, '}');
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

static char *
time_text(TimestampTz time)
{
	char	   *text = palloc(MAXDATELEN + 1);
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	tm.tm_isdst = 0;
	EncodeDateTime(&tm, fsec, true, 0, NULL, USE_ISO_DATES, text);
	return text;
}

/*
 * Check what a user wrote and return it as the catalog holds it, in the current
 * context.  "what" is the argument's name.  Raises invalid_parameter_value, and
 * what reading JSON or a timestamp raises.
 */
char *
sagg_starting_offsets_check(const char *text, const char *what)
{
	SaggStart  *start = parse(text, what);

	if (start->kind == SAGG_START_OFFSETS)
		return offsets_text(start);
	if (start->kind == SAGG_START_TIME)
		return time_text(start->time);
	return pstrdup(text);
}

/*
 * Read an argument of a function, of type "any": a text or a time, as the
 * catalog holds it.  Raises what sagg_starting_offsets_check does,
 * null_value_not_allowed and datatype_mismatch.
 */
char *
sagg_offsets_argument(FunctionCallInfo fcinfo, int n, const char *what)
{
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, n);
	char	   *words;
	Datum		time;

	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", what)));
	switch (type)
	{
		case TIMESTAMPTZOID:
			return time_text(checked_time(PG_GETARG_TIMESTAMPTZ(n), what));
		case TIMESTAMPOID:
			time = DirectFunctionCall1(timestamp_timestamptz, PG_GETARG_DATUM(n));
			return time_text(checked_time(DatumGetTimestampTz(time), what));
		case DATEOID:
			time = DirectFunctionCall1(date_timestamptz, PG_GETARG_DATUM(n));
			return time_text(checked_time(DatumGetTimestampTz(time), what));
		case UNKNOWNOID:
			words = pstrdup(PG_GETARG_CSTRING(n));
			break;
		case TEXTOID:
		case VARCHAROID:
			words = text_to_cstring(PG_GETARG_TEXT_PP(n));
			break;
		case JSONBOID:
			words = DatumGetCString(DirectFunctionCall1(jsonb_out, PG_GETARG_DATUM(n)));
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("%s cannot be of type %s", what, format_type_be(type)),
					 errhint("Valid values are earliest, latest, offsets by partition as in {\"0\": 42, \"1\": -2}, and timestamps.")));
	}
	if (words[strspn(words, " \t\n\r")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what)));
	return sagg_starting_offsets_check(words, what);
}
