/*-------------------------------------------------------------------------
 *
 * explain_stream.c
 *	  explain_stream: describes what a stream does in each micro-batch, and the
 *	  size of its state.
 *
 * The plan is the one that the next micro-batch gets, unless something it
 * depends on changes until then.  The state is measured as of the caller's
 * snapshot.  Kafka is not asked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parsetree.h"
#include "tcop/tcopprot.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "streams/streams.h"
#include "inspect_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_explain_stream);

#define line(text, ...)	(appendStringInfo(text, __VA_ARGS__), appendStringInfoChar(text, '\n'))

static char *
interval_text(int64 length)
{
	Interval	interval = {.time = length};

	return DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(&interval)));
}

/* name of a relation, which may have been dropped */
static char *
relation_name(Oid relid)
{
	return OidIsValid(relid) && get_rel_name(relid) ?
		DatumGetCString(DirectFunctionCall1(regclassout, ObjectIdGetDatum(relid))) :
		"none";
}

/*
 * Returns an expression of the stream's query, such as an argument of an
 * aggregate, as SQL: the text before FROM of a SELECT of only this expression.
 */
static char *
expression_text(const SaggQuery *query, Node *expr)
{
	Query	   *select = makeNode(Query);
	char	   *text;
	char	   *alias;

	select->commandType = CMD_SELECT;
	select->rtable = copyObject(query->inner->rtable);
	select->cteList = copyObject(query->inner->cteList);
	select->jointree = copyObject(query->inner->jointree);
	select->hasSubLinks = true;
	select->hasAggs = true;
	select->targetList = list_make1(makeTargetEntry(copyObject((Expr *) expr), 1,
													pstrdup("expression_text"), false));
	text = pg_get_querydef(select, false);
	alias = strstr(text, " AS expression_text");
	if (alias)
		*alias = '\0';
	text += strspn(text, " ");
	return strncmp(text, "SELECT ", 7) == 0 ? text + 7 : text;
}

static void
explain_definition(StringInfo text, const SaggStream *stream)
{
	ListCell   *lc;

	line(text, "Stream %s (%s)", stream->name, sagg_mode_name(stream->mode));
	foreach(lc, stream->sources)
		line(text, "  Source: %s", relation_name(lfirst_oid(lc)));
	line(text, "  Sink: %s", relation_name(stream->sink));
	if (stream->trigger == 0)
		appendStringInfoString(text, "  Trigger: as soon as there are records");
	else
		appendStringInfo(text, "  Trigger: every %s", interval_text(stream->trigger));
	appendStringInfo(text, ", at most " INT64_FORMAT " records\n",
					 stream->max_offsets > 0 ? stream->max_offsets :
					 (int64) sagg_max_records_per_batch);
}

/*
 * The processes that the stream has, as far as they are known without asking the
 * source or the server.
 */
static void
explain_executors(StringInfo text, const SaggInspection *inspection)
{
	const SaggStream *stream = inspection->stream;
	int			wanted = stream->options.executors;
	int			partitions = inspection->progress->npositions;
	char	   *reason;

	if (wanted <= 1)
		return;
	reason = sagg_query_undealt(inspection->query, stream->reader);
	if (reason)
		line(text, "  Executors: 1 of %d: %s", wanted, reason);
	else if (partitions > 0 && partitions < Min(wanted, sagg_max_executors))
		line(text, "  Executors: %d of %d, as there are partitions", partitions, wanted);
	else if (sagg_max_executors < wanted)
		line(text, "  Executors: %d of %d, by stream_agg.max_executors",
			 sagg_max_executors, wanted);
	else
		line(text, "  Executors: %d", wanted);
}

static void
explain_time(StringInfo text, const SaggInspection *inspection)
{
	const SaggStream *stream = inspection->stream;
	const SaggQuery *query = inspection->query;
	TimestampTz watermark = inspection->progress->watermark;

	if (query->has_event_time)
		line(text, "  Event time: %s",
			 expression_text(query, (Node *) linitial_node(TargetEntry, query->inner->targetList)->expr));
	if (stream->has_watermark)
		line(text, "  Watermark: %s behind the greatest event time, now %s",
			 interval_text(stream->watermark_delay),
			 !sagg_watermark_known(watermark) ? "none yet" :
			 DatumGetCString(DirectFunctionCall1(timestamptz_out,
												 TimestampTzGetDatum(watermark))));
	else
		line(text, "  Watermark: none");
}

static void
explain_groups(StringInfo text, const SaggInspection *inspection)
{
	const SaggQuery *query = inspection->query;

	if (query->kind != SAGG_AGGREGATION)
		line(text, "  Aggregates: none, %s",
			 query->kind == SAGG_ROWS ? "rows are written as they come" :
			 "the first row of a key within the watermark is written");
	switch (query->window.kind)
	{
		case SAGG_WINDOW_NONE:
			if (query->kind == SAGG_AGGREGATION)
				line(text, "  Window: none");
			break;
		case SAGG_WINDOW_TUMBLE:
			line(text, "  Window: tumbling, %s", interval_text(query->window.size));
			break;
		case SAGG_WINDOW_CALENDAR:
			if (query->window.calendar.clock > 0)
				line(text, "  Window: tumbling, %s by the clocks of %s",
					 interval_text(query->window.calendar.clock),
					 pg_get_timezone_name(query->window.calendar.zone));
			else
				line(text, query->window.calendar.months > 0 ?
					 "  Window: tumbling, %d months in %s" : "  Window: tumbling, %d days in %s",
					 Max(query->window.calendar.months, query->window.calendar.days),
					 pg_get_timezone_name(query->window.calendar.zone));
			break;
		case SAGG_WINDOW_HOP:
			line(text, "  Window: sliding by %s, %s; state by %s",
				 interval_text(query->window.slide), interval_text(query->window.size),
				 query->window.panes ? "pane" : "window");
			break;
		case SAGG_WINDOW_SESSION:
			line(text, "  Window: session, gap %s",
				 query->window.gap > 0 ? interval_text(query->window.gap) :
				 expression_text(query, (Node *) get_tle_by_resno(query->inner->targetList,
																  query->window.gap_column)->expr));
			break;
	}
	for (int i = 0; i < query->nkeys; i++)
		line(text, "  Key: %s %s", query->keys[i].name,
			 format_type_with_typemod(query->keys[i].type, query->keys[i].typmod));
	for (int i = 0; i < query->naggs; i++)
		line(text, "  Aggregate: %s: %s",
			 expression_text(query, (Node *) query->aggs[i].aggref),
			 sagg_execution_describe(inspection->execution, i));
}

static void
explain_state(StringInfo text, const SaggInspection *inspection)
{
	SaggStateSize size;

	sagg_store_statistics(inspection->store, &size);
	if (inspection->query->kind == SAGG_ROWS)
		line(text, "  State: none");
	else if (size.groups > 0)
		line(text, "  State: " INT64_FORMAT " %s of " INT64_FORMAT " bytes each, " INT64_FORMAT " kB; " INT64_FORMAT " kB in the log",
			 size.groups, size.groups == 1 ? "group" : "groups", size.bytes / size.groups,
			 (size.bytes + 1023) / 1024,
			 (inspection->log_bytes + 1023) / 1024);
	else
		line(text, "  State: no groups; one would take about " INT64_FORMAT " bytes",
			 sagg_execution_estimate(inspection->execution));
}

/*
 * Append the plan of the inner query, as EXPLAIN shows it.
 */
static void
explain_plan(StringInfo text, const SaggInspection *inspection)
{
	const char *name = inspection->stream->name;
	ExplainState *es = NewExplainState();
	PlannedStmt *plan = pg_plan_query(copyObject(inspection->query->inner), name, 0, NULL);
	QueryDesc  *desc = CreateQueryDesc(plan, name, GetActiveSnapshot(),
									   InvalidSnapshot, None_Receiver, NULL, NULL, 0);

	es->costs = false;
	es->indent = 1;
	ExecutorStart(desc, EXEC_FLAG_EXPLAIN_ONLY);
	ExplainBeginOutput(es);
	ExplainPrintPlan(es, desc);
	ExplainEndOutput(es);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
	line(text, "  Plan of a micro-batch:");
	appendStringInfoString(text, es->str->data);
}

static char *
explain(const SaggStream *stream)
{
	SaggInspection inspection = {.stream = stream};
	SaggOwnerContext owner;
	StringInfoData text;

	initStringInfo(&text);
	inspection.query = sagg_query_of_view(stream);
	explain_definition(&text, stream);
	sagg_become_stream_owner(&owner, stream);
	sagg_inspection_begin(&inspection);
	explain_executors(&text, &inspection);
	explain_time(&text, &inspection);
	explain_groups(&text, &inspection);
	explain_state(&text, &inspection);
	explain_plan(&text, &inspection);
	sagg_inspection_end(&inspection);
	sagg_restore_user(&owner);
	return text.data;
}

static void
return_lines(ReturnSetInfo *rsinfo, char *text)
{
	char	   *next;

	for (char *start = text; *start != '\0'; start = next)
	{
		char	   *end = strchr(start, '\n');
		Datum		value;
		bool		isnull = false;

		next = end ? end + 1 : start + strlen(start);
		value = PointerGetDatum(cstring_to_text_with_len(start, (end ? end : next) - start));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
	}
}

/*
 * explain_stream(stream text) RETURNS SETOF text: for the stream's owner.
 */
Datum
stream_agg_explain_stream(PG_FUNCTION_ARGS)
{
	SaggStream *stream = sagg_stream_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	MemoryContext memory;
	MemoryContext old;

	sagg_stream_check_owner(stream);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	memory = AllocSetContextCreate(CurrentMemoryContext, "stream_agg explain",
								   ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(memory);
	return_lines((ReturnSetInfo *) fcinfo->resultinfo, explain(stream));
	MemoryContextSwitchTo(old);
	MemoryContextDelete(memory);
	return (Datum) 0;
}
