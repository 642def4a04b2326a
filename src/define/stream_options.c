/*-------------------------------------------------------------------------
 *
 * stream_options.c
 *	  The options of a stream: reads what users write, and converts to and from
 *	  the form in the catalog.
 *
 * The catalog holds them in a form that means the same under any setting of
 * the session: intervals as hours, minutes and seconds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "define_internal.h"
#include "read/read.h"
#include "write/write.h"

/* microseconds, as in Spark */
#define DEFAULT_MAX_DELAY	(15 * USECS_PER_MINUTE)
/* longest name of a consumer group; Kafka itself accepts longer ones */
#define MAX_GROUP_BYTES		255

static const char *const on_error_words[] = {
	[SAGG_FAIL] = "fail",
	[SAGG_SKIP] = "skip",
	[SAGG_DEAD_LETTER] = "dead_letter"
};

static SaggOnError
on_error_from_word(const char *word)
{
	for (int i = 0; i < lengthof(on_error_words); i++)
	{
		if (strcmp(word, on_error_words[i]) == 0)
			return (SaggOnError) i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid on_error \"%s\"", word),
			 errhint("Valid values are fail (the stream stops), skip (the record is counted and left out) and dead_letter (it is also kept in stream_agg.dead_letters).")));
}

static SaggOnDataLoss
on_data_loss_from_word(const char *word)
{
	if (strcmp(word, "fail") == 0)
		return SAGG_LOSS_FAIL;
	if (strcmp(word, "earliest") == 0)
		return SAGG_LOSS_EARLIEST;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid on_data_loss \"%s\"", word),
			 errhint("Valid values are fail (the stream stops at offsets that Kafka does not have) and earliest (it continues from the first offset that Kafka has).")));
}

/*
 * Returns a length of time in microseconds, greater than zero.
 */
static int64
length_from_text(const char *name, char *text, const char *hint)
{
	Interval   *interval =
	DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
										  ObjectIdGetDatum(InvalidOid),
										  Int32GetDatum(-1)));
	int64		length = sagg_interval_length(interval, name);

	if (length <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be greater than zero", name),
				 errhint("%s", hint)));
	return length;
}

static int64
retention_from_text(char *text)
{
	Interval   *interval =
	DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(text),
										  ObjectIdGetDatum(InvalidOid),
										  Int32GetDatum(-1)));
	int64		length = sagg_interval_length(interval, "retention");

	if (length < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("retention must not be negative"),
				 errdetail("Windows that the watermark has not passed can still change."),
				 errhint("Use null to keep rows for ever.")));
	return length;
}

static int64
min_offsets_from_text(char *text)
{
	int64		value = DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(text)));

	if (value <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("min_offsets_per_trigger must be greater than zero"),
				 errhint("Leave it out to process whatever there is.")));
	return value;
}

/*
 * Returns the value of option "state_memory" in kB, -1 = no bound.
 */
static int
state_memory_from_text(const char *text)
{
	const char *hint = NULL;
	int			value;

	if (!parse_int(text, &value, GUC_UNIT_KB, &hint) || value < -1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid state_memory \"%s\"", text),
				 hint ? errhint("%s", _(hint)) :
				 errhint("Give a size such as 64MB, or -1 for no bound.")));
	return value;
}

static int
executors_from_text(char *text)
{
	int64		value = DatumGetInt64(DirectFunctionCall1(int8in, CStringGetDatum(text)));

	if (value < 1 || value > SAGG_MAX_READINGS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("executors must be between 1 and %d", SAGG_MAX_READINGS),
				 errhint("Leave it out to have the stream's worker do all.")));
	return (int) value;
}

static char *
checked_group(char *name)
{
	if (name[0] == '\0' || strlen(name) > MAX_GROUP_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("consumer_group must have between 1 and %d bytes", MAX_GROUP_BYTES),
				 errhint("Leave it out to commit no offsets to Kafka.")));
	return name;
}

/*
 * Returns the value of option "delivery": whether rows may arrive more than
 * once.
 */
static bool
delivery_from_word(const char *word)
{
	if (strcmp(word, "at_least_once") == 0)
		return true;
	if (strcmp(word, "exactly_once") == 0)
		return false;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid delivery \"%s\"", word),
			 errhint("Valid values are exactly_once (into a table) and at_least_once (into a Kafka topic).")));
}

static const char *const watermark_policy_words[] = {
	[SAGG_WATERMARK_ALIGNED] = "aligned",
	[SAGG_WATERMARK_GLOBAL] = "global",
	[SAGG_WATERMARK_PER_PARTITION] = "per_partition"
};

static SaggWatermarkPolicy
watermark_policy_from_word(const char *word)
{
	for (int i = 0; i < lengthof(watermark_policy_words); i++)
	{
		if (strcmp(word, watermark_policy_words[i]) == 0)
			return (SaggWatermarkPolicy) i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid watermark_policy \"%s\"", word),
			 errhint("Valid values are aligned (the greatest event time of all partitions less the delay, but not beyond partitions with records that are still to be read), "
					 "global (the greatest event time of all partitions less the delay, as in Spark) and per_partition (the least of the partitions' own watermarks).")));
}

static bool
flag_from_text(const char *name, const char *text)
{
	bool		value;

	if (!parse_bool(text, &value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be true or false", name)));
	return value;
}

/*
 * Read option "on_failure": what happens when the stream fails, also to the
 * streams that share its reader.
 */
static void
on_failure_from_word(const char *word, SaggStreamOptions *options)
{
	options->stops_all = strcmp(word, "stop_all") == 0;
	options->retries = strcmp(word, "retry") == 0;
	if (!options->stops_all && !options->retries && strcmp(word, "leave") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid on_failure \"%s\"", word),
				 errhint("Valid values are leave (the stream stays failed, other streams of the reader continue), retry (the stream tries again after growing pauses) and stop_all (the other streams of the reader fail with it).")));
}

/*
 * Arguments of create_stream that users look for among the options, and whether
 * alter_stream has them, too.
 */
static const struct
{
	const char *name;
	bool		can_change;
}			arguments[] = {
	{"trigger", true}, {"max_offsets_per_trigger", true}, {"watermark", true}, {"query", true},
	{"output_mode", false}, {"sink", false}, {"event_time", false}, {"starting_offsets", false}
};

static void
reject_argument(const char *name)
{
	for (int i = 0; i < lengthof(arguments); i++)
	{
		if (strcmp(name, arguments[i].name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" is not an option of a stream, but a parameter", name),
					 arguments[i].can_change ?
					 errhint("Give it to create_stream or alter_stream as %s => value.", name) :
					 errhint("Give it to create_stream as %s => value. It cannot be changed for an existing stream.", name)));
	}
}

/*
 * Raise invalid_parameter_value for an unknown option.
 */
void
sagg_check_option_name(const char *name)
{
	static const char *const names[] = {
		"on_error", "on_data_loss", "max_future", "consumer_group", "delivery",
		"min_offsets_per_trigger", "max_trigger_delay", "watermark_policy",
		"idle_timeout", "late_records", "on_failure", "retention", "state_memory", "executors"
	};
	SaggClosest closest;
	StringInfoData all;

	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(name, names[i]) == 0)
			return;
	}
	reject_argument(name);
	sagg_closest_begin(&closest, name);
	initStringInfo(&all);
	for (int i = 0; i < lengthof(names); i++)
	{
		sagg_closest_try(&closest, names[i]);
		appendStringInfo(&all, "%s%s", i == 0 ? "" : i == lengthof(names) - 1 ? " and " : ", ",
						 names[i]);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown option \"%s\" of a stream", name),
			 closest.match ?
			 errhint("Perhaps you meant the option \"%s\".", closest.match) :
			 errhint("Options of a stream are %s.", all.data)));
}

/*
 * Read options, a list of DefElems with strings.  Raises
 * invalid_parameter_value for an unknown option or an invalid value.
 */
void
sagg_stream_options_read(List *list, SaggStreamOptions *options)
{
	bool		has_delay = false;
	ListCell   *lc;

	memset(options, 0, sizeof(SaggStreamOptions));
	options->max_future = SAGG_MAX_FUTURE_DEFAULT;
	options->max_delay = DEFAULT_MAX_DELAY;
	options->executors = 1;
	foreach(lc, list)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		const char *name = option->defname;
		char	   *value = option->arg ? defGetString(option) : NULL;

		sagg_check_option_name(name);
		if (value == NULL && strcmp(name, "max_future") != 0 && strcmp(name, "retention") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" must not be null", name),
					 errhint("Leave it out to have its default.")));
		if (strcmp(name, "on_error") == 0)
			options->on_error = on_error_from_word(value);
		else if (strcmp(name, "on_data_loss") == 0)
			options->on_data_loss = on_data_loss_from_word(value);
		else if (strcmp(name, "max_future") == 0)
			options->max_future = value == NULL ? 0 :
				length_from_text(name, value, "Use null to allow any event time.");
		else if (strcmp(name, "consumer_group") == 0)
			options->consumer_group = checked_group(value);
		else if (strcmp(name, "on_failure") == 0)
			on_failure_from_word(value, options);
		else if (strcmp(name, "delivery") == 0)
			options->at_least_once = delivery_from_word(value);
		else if (strcmp(name, "min_offsets_per_trigger") == 0)
			options->min_offsets = min_offsets_from_text(value);
		else if (strcmp(name, "max_trigger_delay") == 0)
		{
			options->max_delay = length_from_text(name, value,
												  "Leave out min_offsets_per_trigger to wait for nothing.");
			has_delay = true;
		}
		else if (strcmp(name, "watermark_policy") == 0)
			options->watermark_policy = watermark_policy_from_word(value);
		else if (strcmp(name, "idle_timeout") == 0)
			options->idle_timeout = length_from_text(name, value,
													 "Leave it out to stop event time while there are no records.");
		else if (strcmp(name, "retention") == 0)
		{
			options->has_retention = value != NULL;
			options->retention = value ? retention_from_text(value) : 0;
		}
		else if (strcmp(name, "state_memory") == 0)
		{
			options->has_state_memory = true;
			options->state_memory_kb = state_memory_from_text(value);
		}
		else if (strcmp(name, "late_records") == 0)
			options->late_records = flag_from_text(name, value);
		else if (strcmp(name, "executors") == 0)
			options->executors = executors_from_text(value);
		else
			elog(ERROR, "option \"%s\" of a stream is known and not read", name);
	}
	if (has_delay && options->min_offsets == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_trigger_delay needs min_offsets_per_trigger"),
				 errdetail("It bounds how long fewer offsets than those wait.")));
}

/*
 * Add an option to the object that is being built; a NULL "value" becomes
 * null.
 */
static void
push_option(JsonbParseState **state, const char *name, const char *value)
{
	JsonbValue	string;

	string.type = jbvString;
	string.val.string.val = unconstify(char *, name);
	string.val.string.len = strlen(name);
	(void) pushJsonbValue(state, WJB_KEY, &string);
	if (value == NULL)
		string.type = jbvNull;
	else
	{
		string.val.string.val = unconstify(char *, value);
		string.val.string.len = strlen(value);
	}
	(void) pushJsonbValue(state, WJB_VALUE, &string);
}

static void
push_length(JsonbParseState **state, const char *name, int64 length)
{
	char	   *text = palloc(MAXDATELEN + 1);
	Interval	interval = {.time = length};
	struct pg_itm itm;

	interval2itm(interval, &itm);
	EncodeInterval(&itm, INTSTYLE_POSTGRES, text);
	push_option(state, name, text);
}

/*
 * Returns options in the form of the catalog, without those that have their
 * default.
 */
Datum
sagg_stream_options_jsonb(const SaggStreamOptions *options)
{
	JsonbParseState *state = NULL;
	JsonbValue *object;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (options->on_error != SAGG_FAIL)
		push_option(&state, "on_error", on_error_words[options->on_error]);
	if (options->on_data_loss == SAGG_LOSS_EARLIEST)
		push_option(&state, "on_data_loss", "earliest");
	if (options->max_future > 0)
		push_length(&state, "max_future", options->max_future);
	else if (options->max_future == 0)
		push_option(&state, "max_future", NULL);
	if (options->consumer_group)
		push_option(&state, "consumer_group", options->consumer_group);
	if (options->at_least_once)
		push_option(&state, "delivery", "at_least_once");
	if (options->min_offsets > 0)
		push_option(&state, "min_offsets_per_trigger",
					psprintf(INT64_FORMAT, options->min_offsets));
	if (options->min_offsets > 0 && options->max_delay != DEFAULT_MAX_DELAY)
		push_length(&state, "max_trigger_delay", options->max_delay);
	if (options->watermark_policy != SAGG_WATERMARK_ALIGNED)
		push_option(&state, "watermark_policy",
					watermark_policy_words[options->watermark_policy]);
	if (options->idle_timeout > 0)
		push_length(&state, "idle_timeout", options->idle_timeout);
	if (options->has_retention)
		push_length(&state, "retention", options->retention);
	if (options->late_records)
		push_option(&state, "late_records", "true");
	if (options->stops_all)
		push_option(&state, "on_failure", "stop_all");
	if (options->retries)
		push_option(&state, "on_failure", "retry");
	if (options->has_state_memory)
		push_option(&state, "state_memory", options->state_memory_kb < 0 ? "-1" :
					psprintf("%dkB", options->state_memory_kb));
	if (options->executors > 1)
		push_option(&state, "executors", psprintf("%d", options->executors));
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(object));
}

/*
 * Raise invalid_parameter_value if a micro-batch could never have as many
 * records as min_offsets_per_trigger waits for.
 */
void
sagg_check_min_offsets(const SaggStreamOptions *options, int64 max_offsets)
{
	if (max_offsets > 0 && options->min_offsets > max_offsets)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("min_offsets_per_trigger must not be greater than max_offsets_per_trigger"),
				 errdetail("The stream's max_offsets_per_trigger is " INT64_FORMAT ".",
						   max_offsets)));
}

/*
 * Raise insufficient_privilege if the stream may not commit its offsets to its
 * consumer group.
 */
void
sagg_check_group(const SaggStream *stream, const SaggQuery *query)
{
	if (stream->options.consumer_group)
		sagg_group_check(linitial_oid(query->sources), stream->owner,
						 stream->options.consumer_group, stream->name);
}

static void
needs_watermark(const char *option, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s needs a watermark", option),
			 errdetail("%s", detail),
			 errhint("Give one, for example watermark => '10 minutes'.")));
}

/*
 * Check option "retention".  Rows leave the sink by the ends of their windows,
 * when these cannot change any more.
 */
static void
check_retention(const SaggStream *stream, const SaggQuery *query)
{
	if (!stream->has_watermark)
		needs_watermark("retention", "It says for how long behind the watermark rows are kept.");
	if (stream->mode == SAGG_COMPLETE || query->kind != SAGG_AGGREGATION ||
		query->window.kind == SAGG_WINDOW_NONE)
		sagg_sink_reject_retention();
	if (query->window_output == 0 ||
		(query->window.kind == SAGG_WINDOW_SESSION && query->window_identity == SAGG_WINDOW_START))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("retention needs a column that says when a row's window ends"),
				 errhint("Add the window to the select list.")));
}

/*
 * Raise invalid_parameter_value for options that need a watermark, or late
 * records, if the stream has none.
 */
void
sagg_check_watermark_options(const SaggStream *stream, const SaggQuery *query)
{
	if (stream->options.late_records &&
		(!stream->has_watermark || stream->mode == SAGG_COMPLETE ||
		 query->window.kind == SAGG_WINDOW_NONE))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("late_records is only for streams that can have late records"),
				 errdetail("Records are late for windows that a watermark has passed, in the output modes append and update."),
				 errhint("Leave it out.")));
	if (stream->options.watermark_policy == SAGG_WATERMARK_PER_PARTITION &&
		query->window.kind == SAGG_WINDOW_SESSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("watermark_policy per_partition is not for session windows"),
				 errdetail("A record of one partition can join a session that the others have closed, or not, as they were read."),
				 errhint("Use watermark_policy aligned.")));
	if (stream->options.has_retention)
		check_retention(stream, query);
	if (stream->has_watermark)
		return;
	if (stream->options.watermark_policy != SAGG_WATERMARK_ALIGNED)
		needs_watermark("watermark_policy",
						"It says which partitions the watermark waits for.");
	if (stream->options.idle_timeout > 0)
		needs_watermark("idle_timeout",
						"It says when the watermark advances without records.");
}

/*
 * Raise invalid_parameter_value if max_future is given and the query has no
 * event time.
 */
void
sagg_check_max_future(const SaggStream *stream, const SaggQuery *query)
{
	if (stream->options.max_future > 0 && !query->has_event_time)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_future needs an event time"),
				 errdetail("It bounds the event times of records, and the query has no window."),
				 errhint("Name the column of the event time by event_time.")));
}

/*
 * Read the options of a stream that is only tried, as create_stream would
 * read them; "json" may be NULL.  Raises invalid_parameter_value.
 */
void
sagg_stream_options_of_json(Jsonb *json, SaggStreamOptions *options)
{
	sagg_stream_options_read(json ? sagg_options_from_json(json, true) : NIL, options);
}

/*
 * Check that such options fit the query.  Raises invalid_parameter_value.
 */
void
sagg_stream_options_check(const SaggStream *stream, const SaggQuery *query)
{
	sagg_check_watermark_options(stream, query);
	sagg_check_max_future(stream, query);
}
