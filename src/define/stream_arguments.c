/*-------------------------------------------------------------------------
 *
 * stream_arguments.c
 *	  The arguments of create_stream, checked one by one.
 *
 * Nothing here touches the catalogs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "streams/streams.h"
#include "define_internal.h"

/* positions of the arguments */
enum
{
	ARG_STREAM,
	ARG_QUERY,
	ARG_WATERMARK,
	ARG_EVENT_TIME,
	ARG_OUTPUT_MODE,
	ARG_TRIGGER,
	ARG_SINK,
	ARG_STARTING_OFFSETS,
	ARG_MAX_OFFSETS,
	ARG_START,
	ARG_OPTIONS,
	ARG_IF_NOT_EXISTS,
	ARG_READER
};

static SaggOutputMode
output_mode(FunctionCallInfo fcinfo)
{
	char	   *word = sagg_required_argument(fcinfo, ARG_OUTPUT_MODE, "output_mode");
	SaggOutputMode mode;

	if (!sagg_mode_by_name(word, &mode))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown output mode \"%s\"", word),
				 errhint("Output modes are append (each window once, when it is closed), update (every changed group at once) and complete (the sink equals the whole result).")));
	return mode;
}

/*
 * Returns a length of time in microseconds, not negative.
 */
int64
sagg_duration_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	int64		length = sagg_interval_length(PG_GETARG_INTERVAL_P(n), name);

	if (length < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative", name)));
	return length;
}

/*
 * Returns a length of time in microseconds as an interval, in the current
 * context.
 */
Datum
sagg_interval_datum(int64 length)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->time = length;
	return IntervalPGetDatum(interval);
}

static bool
flag(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", name)));
	return PG_GETARG_BOOL(n);
}

/*
 * Read the arguments of create_stream; the result is in the current context.
 * Raises null_value_not_allowed and invalid_parameter_value.
 */
SaggStreamArguments *
sagg_stream_arguments(FunctionCallInfo fcinfo)
{
	SaggStreamArguments *args = palloc0(sizeof(SaggStreamArguments));
	char	   *sink = sagg_text_argument(fcinfo, ARG_SINK);

	args->name = sagg_parse_name(sagg_required_argument(fcinfo, ARG_STREAM, "stream"), "stream");
	args->query = sagg_required_argument(fcinfo, ARG_QUERY, "query");
	args->has_watermark = !PG_ARGISNULL(ARG_WATERMARK);
	if (args->has_watermark)
		args->watermark_delay = sagg_duration_argument(fcinfo, ARG_WATERMARK, "watermark");
	args->event_time = sagg_text_argument(fcinfo, ARG_EVENT_TIME);
	args->mode = output_mode(fcinfo);
	if (PG_ARGISNULL(ARG_TRIGGER))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("trigger must not be NULL"),
				 errhint("trigger => '0' runs one micro-batch after the other.")));
	args->trigger = sagg_duration_argument(fcinfo, ARG_TRIGGER, "trigger");
	args->sink = sink ? sagg_parse_name(sink, "sink") : NULL;
	args->starting_offsets = sagg_offsets_argument(fcinfo, ARG_STARTING_OFFSETS, "starting_offsets");
	args->max_offsets = PG_ARGISNULL(ARG_MAX_OFFSETS) ? 0 : PG_GETARG_INT64(ARG_MAX_OFFSETS);
	if (!PG_ARGISNULL(ARG_MAX_OFFSETS) && args->max_offsets <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_offsets_per_trigger must be greater than zero")));
	args->start = flag(fcinfo, ARG_START, "start");
	args->if_not_exists = flag(fcinfo, ARG_IF_NOT_EXISTS, "if_not_exists");
	sagg_stream_options_read(PG_ARGISNULL(ARG_OPTIONS) ? NIL :
							 sagg_options_from_json(PG_GETARG_JSONB_P(ARG_OPTIONS), true),
							 &args->options);
	sagg_check_min_offsets(&args->options, args->max_offsets);
	args->reader = sagg_text_argument(fcinfo, ARG_READER);
	return args;
}
