/*-------------------------------------------------------------------------
 *
 * describe_topic.c
 *	  describe_topic: a create_source call for a topic, by a sample of its records.
 *
 * The sample is read through a source, made as create_source makes one, with
 * the privileges that it needs, and rolled back with a subtransaction, errors
 * or not.  The contents of a record become part of a statement only as a
 * quoted literal or identifier (read/topic_sample.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "define_internal.h"
#include "read/read.h"
#include "streams/streams.h"

PG_FUNCTION_INFO_V1(stream_agg_describe_topic);

#define MAX_SAMPLE_RECORDS	100000
#define MAX_SAMPLE_BYTES	(64 * 1024 * 1024)

/* positions of the arguments */
enum
{
	ARG_TOPIC,
	ARG_BROKERS,
	ARG_SERVER,
	ARG_RECORDS,
	ARG_OPTIONS
};

typedef struct Describe
{
	char	   *topic;
	char	   *brokers;		/* or */
	char	   *server;
	List	   *options;		/* of the server, DefElems */
	int			records;
	SaggSample *sample;
} Describe;

static DefElem *
text_option(const char *name, const char *value)
{
	return makeDefElem(pstrdup(name), (Node *) makeString(pstrdup(value)), -1);
}

/*
 * Make the source that the sample is read from, where CREATE puts it; returns
 * its name.
 */
static char *
make_source(const Describe *describe)
{
	CreateForeignTableStmt *stmt = makeNode(CreateForeignTableStmt);
	char	   *name = psprintf("stream_agg_describe_topic_%d", MyProcPid);
	char	   *text;

	stmt->base.type = T_CreateForeignTableStmt;
	stmt->base.relation = makeRangeVar(NULL, name, -1);
	stmt->base.tableElts = sagg_parse_columns("value bytea, key bytea OPTIONS (metadata 'key')",
											  false, false, &text);
	stmt->base.oncommit = ONCOMMIT_NOOP;
	stmt->servername = describe->server ? describe->server :
		sagg_server_of_brokers(describe->brokers, describe->options);
	stmt->options = list_make3(text_option("topic", describe->topic),
							   text_option("format", "raw"),
							   text_option("on_error", "skip"));
	sagg_run_utility((Node *) stmt, text, -1, 0);
	return name;
}

/* Returns a bytea as a NUL-terminated string; NULL if there is none. */
static char *
bytes_of(HeapTuple tuple, TupleDesc desc, int column, Size *len)
{
	bool		isnull;
	Datum		datum = SPI_getbinval(tuple, desc, column, &isnull);
	bytea	   *bytes;

	if (isnull)
		return NULL;
	bytes = DatumGetByteaPP(datum);
	*len = VARSIZE_ANY_EXHDR(bytes);
	return pnstrdup(VARDATA_ANY(bytes), *len);
}

static void
read_sample(Describe *describe, const char *source)
{
	MemoryContext memory;
	MemoryContext old;
	Portal		portal;
	Size		bytes = 0;
	SPIParseOpenOptions reading = {.read_only = true};

	SPI_connect();
	portal = SPI_cursor_parse_open(NULL, psprintf("SELECT value, key FROM %s LIMIT %d",
												  quote_identifier(source), describe->records),
								   &reading);
	PinPortal(portal);			/* users' code could close it */
	memory = AllocSetContextCreate(CurrentMemoryContext, "stream_agg sample",
								   ALLOCSET_DEFAULT_SIZES);
	while (bytes <= MAX_SAMPLE_BYTES)
	{
		Size		len = 0;
		Size		key_len = 0;
		char	   *value;
		char	   *key;

		SPI_cursor_fetch(portal, true, 1);
		if (SPI_processed == 0)
			break;
		old = MemoryContextSwitchTo(memory);
		value = bytes_of(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &len);
		key = bytes_of(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &key_len);
		sagg_sample_add(describe->sample, value, len, key, key_len);
		MemoryContextSwitchTo(old);
		MemoryContextReset(memory);
		SPI_freetuptable(SPI_tuptable);
		bytes += len + key_len;
	}
	UnpinPortal(portal);
	SPI_cursor_close(portal);
	SPI_finish();
}

/*
 * Make the source, read, and roll back.  An ERROR does not leave the
 * subtransaction open either.
 */
static void
take_sample(Describe *describe)
{
	ResourceOwner resources = CurrentResourceOwner;
	MemoryContext caller = CurrentMemoryContext;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		read_sample(describe, make_source(describe));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = resources;
		ReThrowError(error);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = resources;
}

/*
 * Returns a name for the source, derived from that of the topic.
 */
static char *
source_name(const char *topic)
{
	char	   *name = pnstrdup(topic, NAMEDATALEN - 1);

	for (char *c = name; *c; c++)
	{
		*c = pg_tolower((unsigned char) *c);
		if (strchr("abcdefghijklmnopqrstuvwxyz0123456789_", *c) == NULL)
			*c = '_';
	}
	return pstrdup(quote_identifier(name));
}

/*
 * Returns a text between dollar quotes that do not occur in it.
 */
static char *
dollar_quoted(const char *text)
{
	char	   *tag = "$$";

	for (int i = 1; strstr(text, "$") && strstr(text, tag); i++)
		tag = psprintf("$columns%d$", i);
	return psprintf("%s%s\n    %s", tag, text, tag);
}

static char *
make_call(const Describe *describe, Jsonb *options)
{
	StringInfoData call;

	initStringInfo(&call);
	appendStringInfo(&call, "-- %s\nSELECT stream_agg.create_source(%s, topic => %s, %s => %s,\n    format => %s,\n",
					 sagg_sample_summary(describe->sample),
					 quote_literal_cstr(source_name(describe->topic)),
					 quote_literal_cstr(describe->topic),
					 describe->brokers ? "brokers" : "server",
					 quote_literal_cstr(describe->brokers ? describe->brokers : describe->server),
					 quote_literal_cstr(sagg_sample_format(describe->sample)));
	if (sagg_sample_tombstones(describe->sample) > 0)
		options = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(options),
													 DirectFunctionCall1(jsonb_in, CStringGetDatum("{\"tombstones\": \"ignore\"}"))));
	if (JB_ROOT_COUNT(options) > 0)
		appendStringInfo(&call, "    options => %s,\n",
						 quote_literal_cstr(JsonbToCString(NULL, &options->root, VARSIZE(options))));
	appendStringInfo(&call, "    columns => %s)",
					 dollar_quoted(sagg_sample_columns(describe->sample)));
	return call.data;
}

/*
 * describe_topic(topic, brokers, server, records, options): see doc/sources.md.
 */
Datum
stream_agg_describe_topic(PG_FUNCTION_ARGS)
{
	Describe	describe = {0};
	Jsonb	   *options = PG_ARGISNULL(ARG_OPTIONS) ?
	DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"))) :
	PG_GETARG_JSONB_P(ARG_OPTIONS);

	PreventCommandIfParallelMode("stream_agg.describe_topic()");
	describe.topic = sagg_required_argument(fcinfo, ARG_TOPIC, "topic");
	describe.brokers = sagg_text_argument(fcinfo, ARG_BROKERS);
	describe.server = sagg_text_argument(fcinfo, ARG_SERVER);
	describe.records = PG_ARGISNULL(ARG_RECORDS) ? 0 : PG_GETARG_INT32(ARG_RECORDS);
	describe.options = sagg_options_from_json(options, false);
	if (describe.records < 1 || describe.records > MAX_SAMPLE_RECORDS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("records must be between 1 and %d", MAX_SAMPLE_RECORDS)));
	if ((describe.brokers == NULL) == (describe.server == NULL) ||
		(describe.server && describe.options != NIL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("either brokers, perhaps with options, or server must be given")));
	if (describe.server)
		sagg_check_server_of_brokers(describe.server);
	describe.sample = sagg_sample_make();
	take_sample(&describe);
	if (sagg_sample_records(describe.sample) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("topic \"%s\" has no records", describe.topic),
				 errhint("A source needs none: call stream_agg.create_source with the columns that records will have.")));
	PG_RETURN_TEXT_P(cstring_to_text(make_call(&describe, options)));
}
