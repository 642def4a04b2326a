/*-------------------------------------------------------------------------
 *
 * rate_options.c
 *	  Options of rate sources, and the foreign-data wrapper stream_agg_rate:
 *	  handler and validator.
 *
 * The meaning of an option must not depend on the session that reads it, or on
 * the time: a source whose rows changed would not be read exactly once.  So
 * times are ISO 8601, and those without an offset are UTC, whatever the
 * session's settings are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "rate.h"
#include "rate_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_rate_handler);
PG_FUNCTION_INFO_V1(stream_agg_rate_validator);

#define MAX_PARTITIONS		1000

static const char *const metadata[] = {"timestamp", "partition", "offset", "topic"};

pg_noreturn static void
reject_value(const char *name, const char *value, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
			 errhint("%s", hint)));
}

/*
 * Read an integer from 1 to "most".
 */
static int64
number_option(const char *name, const char *value, int64 most)
{
	char	   *end;
	int64		number;

	errno = 0;
	number = strtoll(value, &end, 10);
	if (errno != 0 || end == value || *end != '\0' || number < 1 || number > most)
		reject_value(name, value, psprintf("It must be an integer from 1 to " INT64_FORMAT ".", most));
	return number;
}

/*
 * Read a value of a type, as every session would read it.
 */
static Datum
fixed_input(Oid function, const char *value, int32 typmod)
{
	int			level = NewGUCNestLevel();
	Datum		result;

	(void) set_config_option("TimeZone", "UTC", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("DateStyle", "ISO, YMD", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("IntervalStyle", "postgres", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	result = OidInputFunctionCall(function, pstrdup(value), InvalidOid, typmod);
	AtEOXact_GUC(true, level);
	return result;
}

/*
 * Read a time as milliseconds since 1970.
 */
static int64
start_option(const char *value)
{
	const char *hint = "Write a time from 1970 on, as in 2026-01-31 12:00:00+00; without an offset it is UTC.";
	TimestampTz time;

	/* words are rejected: "today" is another time each day */
	if (strspn(value, "0123456789-+:. TZ") != strlen(value))
		reject_value("start", value, hint);
	time = DatumGetTimestampTz(fixed_input(F_TIMESTAMPTZ_IN, value, -1));
	if (TIMESTAMP_NOT_FINITE(time) || time < SAGG_EPOCH)
		reject_value("start", value, hint);
	return (time - SAGG_EPOCH) / 1000;
}

/*
 * Read a length of time as milliseconds.
 */
static int64
ramp_option(const char *value)
{
	const char *hint = "Write an interval of 0 to 30 days, as in 5 minutes.";
	Interval   *interval = DatumGetIntervalP(fixed_input(F_INTERVAL_IN, value, -1));
	int64		ms;

	if (interval->month != 0 || interval->day < 0 || interval->day > 30 ||
		interval->time < 0 || interval->time > 30 * USECS_PER_DAY)
		reject_value("ramp_up", value, hint);
	ms = interval->day * INT64CONST(86400000) + interval->time / 1000;
	if (ms > SAGG_MAX_RAMP_MS)
		reject_value("ramp_up", value, hint);
	return ms;
}

/*
 * Take an option of a server or a source; returns false if there is no such
 * option.
 */
static bool
take_option(SaggRate *rate, const char *name, const char *value)
{
	if (strcmp(name, "rows_per_second") == 0)
		rate->rows_per_second = number_option(name, value, SAGG_MAX_RATE);
	else if (strcmp(name, "partitions") == 0)
		rate->partitions = (int32) number_option(name, value, MAX_PARTITIONS);
	else if (strcmp(name, "start") == 0)
		rate->start_ms = start_option(value);
	else if (strcmp(name, "ramp_up") == 0)
		rate->ramp_ms = ramp_option(value);
	else
		return false;
	return true;
}

static void
take_options(SaggRate *rate, List *options)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		(void) take_option(rate, def->defname, defGetString(def));
	}
}

/*
 * Read the sequence of a source: by its options, and where it has none by
 * those of its server.  Raises fdw_option_name_not_found if neither says when
 * it starts.
 */
void
sagg_rate_of_source(Oid source, SaggRate *rate)
{
	ForeignTable *table = GetForeignTable(source);
	ForeignServer *server = GetForeignServer(table->serverid);

	rate->rows_per_second = 1;
	rate->partitions = 1;
	rate->ramp_ms = 0;
	rate->start_ms = -1;
	take_options(rate, server->options);
	take_options(rate, table->options);
	if (rate->start_ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("source \"%s\" needs the option \"start\"", get_rel_name(source)),
				 errdetail("Neither it nor its server \"%s\" says when row 0 comes.",
						   server->servername),
				 errhint("Use ALTER FOREIGN TABLE %s OPTIONS (ADD start '2026-01-31 12:00:00+00').",
						 quote_identifier(get_rel_name(source)))));
}

/*
 * Returns the name of the topic that has these rows and no others; palloc'd.
 */
char *
sagg_rate_topic(const SaggRate *rate)
{
	return psprintf("rate.rows_per_second-" INT64_FORMAT ".partitions-%d.start-" INT64_FORMAT ".ramp_up-" INT64_FORMAT,
					rate->rows_per_second, rate->partitions, rate->start_ms, rate->ramp_ms);
}

/*
 * See source.h.
 */
static SaggTopics *
rate_topics(Oid source)
{
	SaggTopics *topics = palloc0(sizeof(SaggTopics));
	SaggRate	rate;
	char	   *name;

	sagg_rate_of_source(source, &rate);
	name = sagg_rate_topic(&rate);
	topics->one = name;
	topics->nnames = 1;
	topics->names = palloc(sizeof(char *));
	topics->names[0] = name;
	topics->subject = psprintf("topic \"%s\"", name);
	return topics;
}

/*
 * Check the columns: a row is a time and a number.
 */
static const char *
column_metadata(Form_pg_attribute att)
{
	Oid			type = getBaseType(att->atttypid);

	if (type == TIMESTAMPTZOID)
		return "timestamp";
	if (type != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_DATA_TYPE),
				 errmsg("column \"%s\" is of type %s, but a rate source has a time and a number",
						NameStr(att->attname), format_type_be(att->atttypid)),
				 errhint("Use a column of type timestamp with time zone for the time, and one of type bigint for the number.")));
	return NULL;
}

const SaggSourceKind sagg_rate_source = {
	.api_version = SAGG_SOURCE_API_VERSION,
	.name = "rate",
	.title = "Rate",
	.flags = SAGG_SOURCE_LOSES_NOTHING,
	.topics = rate_topics,
	.topic_option = "rows_per_second, partitions, start or ramp_up",
	.topics_option = "rows_per_second, partitions, start or ramp_up",
	.format = "text",
	.column_metadata = column_metadata,
	.reader_size = sizeof(SaggRateReader),
	.open = sagg_rate_open,
	.close = sagg_rate_close,
	.identity = sagg_rate_identity,
	.bounds = sagg_rate_bounds,
	.offsets_at = sagg_rate_offsets_at,
	.assign = sagg_rate_assign,
	.has_records = sagg_rate_has_records,
	.rest = sagg_rate_rest,
	.begin = sagg_rate_begin,
	.collect = sagg_rate_collect,
	.release = sagg_rate_release
};

/*
 * rate_handler() RETURNS fdw_handler
 */
Datum
stream_agg_rate_handler(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(sagg_source_routine(&sagg_rate_source));
}

static void
check_metadata(const char *value)
{
	for (int i = 0; i < lengthof(metadata); i++)
	{
		if (strcmp(metadata[i], value) == 0)
			return;
	}
	reject_value("metadata", value, "Valid values are timestamp, partition, offset and topic.");
}

pg_noreturn static void
reject_option(const char *name, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 errhint("%s", hint)));
}

/*
 * rate_validator(options text[], catalog oid) RETURNS void
 *
 * Raises fdw_invalid_option_name and fdw_invalid_attribute_value.
 */
Datum
stream_agg_rate_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	SaggRate	ignored;
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);
		const char *name = def->defname;

		if (catalog == AttributeRelationId)
		{
			if (strcmp(name, "metadata") != 0)
				reject_option(name, "The only option of a column is metadata.");
			check_metadata(defGetString(def));
		}
		else if (catalog != ForeignServerRelationId && catalog != ForeignTableRelationId)
			reject_option(name, "Only servers, sources and their columns have options.");
		else if (!take_option(&ignored, name, defGetString(def)))
			reject_option(name, "Options are rows_per_second, partitions, start and ramp_up.");
	}
	PG_RETURN_VOID();
}
