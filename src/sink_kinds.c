/*-------------------------------------------------------------------------
 *
 * sink_kinds.c
 *	  The registered kinds of sinks, and the kind of a relation.
 *
 * Kinds are registered by _PG_init of this library and of others (sink.h).  The
 * library of a foreign-data wrapper is loaded when the kind of a foreign table of the
 * wrapper is looked up.
 *
 * No code here depends on the name of a kind.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "batch_context.h"
#include "sink_kinds.h"
#include "streams/streams.h"

#define MAX_KINDS		32

static const SaggSinkKind *kinds[MAX_KINDS];
static int	nkinds = 0;

/*
 * Reject a kind that lacks functions for what its flags promise.
 */
static void
check_promises(const SaggSinkKind *kind)
{
	const bool	transactional = (kind->flags & SAGG_SINK_TRANSACTIONAL) != 0;

	if (kind->title == NULL || kind->noun == NULL || kind->rows == NULL || kind->is_it == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sink kind \"%s\" lacks title, noun, rows or is_it", kind->name)));
	if (transactional && kind->write)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sink kind \"%s\" is transactional and has a function write", kind->name),
				 errdetail("Such a sink is written by SQL.")));
	if ((kind->flags & SAGG_SINK_TAKES_CHANGES) && !transactional && kind->write == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sink kind \"%s\" takes changes and lacks write", kind->name),
				 errdetail("SQL can only add rows to a foreign table.")));
	if ((kind->flags & SAGG_SINK_EXACTLY_ONCE) && !transactional &&
		(kind->prepare == NULL || kind->committed == NULL || kind->recover == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sink kind \"%s\" promises every row exactly once and lacks prepare, committed or recover",
						kind->name)));
}

/*
 * Register a kind; see sagg_sink_register in sink.h.  Of a kind of another
 * version only api_version and name are looked at.
 */
void
stream_agg_register_sink(const SaggSinkKind *kind)
{
	if (kind->api_version != SAGG_SINK_API_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("sink kind \"%s\" is made for version %d of the interface of sinks, but stream_agg has version %d",
						kind->name, kind->api_version, SAGG_SINK_API_VERSION),
				 errhint("Compile its library with the header that is installed with this stream_agg.")));
	check_promises(kind);
	for (int i = 0; i < nkinds; i++)
	{
		if (strcmp(kinds[i]->name, kind->name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("sink kind \"%s\" is registered already", kind->name)));
	}
	if (nkinds == MAX_KINDS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d kinds of sinks", MAX_KINDS)));
	kinds[nkinds++] = kind;
}

static const SaggSinkKind *
find_kind(Oid relid)
{
	for (int i = 0; i < nkinds; i++)
	{
		if (kinds[i]->is_it(relid))
			return kinds[i];
	}
	return NULL;
}

/*
 * Load the library of a foreign table's wrapper, if it has one.  Calls no function
 * of it but _PG_init.  A wrapper is made by a superuser only.
 */
static void
load_library(Oid relid)
{
	ForeignServer *server = GetForeignServer(GetForeignServerIdByRelId(relid));
	ForeignDataWrapper *wrapper = GetForeignDataWrapper(server->fdwid);
	Oid			function = OidIsValid(wrapper->fdwvalidator) ? wrapper->fdwvalidator :
	wrapper->fdwhandler;
	FmgrInfo	info;

	if (OidIsValid(function))
		fmgr_info(function, &info);
}

/*
 * The kind of a sink.  What no other kind claims, be it there or not, is for the
 * first one, tables, whose checks say what is wrong.  In a transaction; raises
 * what loading the library of a foreign-data wrapper raises.
 */
const SaggSinkKind *
sagg_sink_kind(Oid relid)
{
	const SaggSinkKind *kind = find_kind(relid);

	if (kind == NULL && get_rel_relkind(relid) == RELKIND_FOREIGN_TABLE)
	{
		load_library(relid);
		kind = find_kind(relid);
	}
	return kind ? kind : kinds[0];
}

/*
 * Whether the kind of a sink has a flag, one of SAGG_SINK_...  As sagg_sink_kind.
 */
bool
sagg_sink_has(Oid relid, uint32 flag)
{
	return (sagg_sink_kind(relid)->flags & flag) != 0;
}

/*
 * A stream as kinds of sinks see it.  What "result" points to is the stream's, or
 * in the current context.
 */
void
sagg_sink_describe(const SaggStream *stream, SaggSinkStream *result)
{
	result->name = stream->name;
	result->title = sagg_stream_title(stream->name);
	result->sink = stream->sink;
	result->mode = stream->mode;
}

/*
 * The rows of a query as kinds of sinks see them, for the sink "relid".  What
 * "result" points to is the query's, or in the current context.
 */
void
sagg_sink_describe_rows(const SaggQuery *query, Oid relid, SaggSinkRows *result)
{
	TupleDesc	desc = query->output_desc;
	AttrNumber *columns = palloc(sizeof(AttrNumber) * Max(desc->natts, 1));

	for (int i = 0; i < desc->natts; i++)
		columns[i] = get_attnum(relid, NameStr(TupleDescAttr(desc, i)->attname));
	result->desc = desc;
	result->columns = columns;
	result->groups = query->kind == SAGG_AGGREGATION;
	result->nidentity = query->nidentity;
	result->identity = query->identity;
	result->missing_key = query->missing_key;
}

/*
 * What the kind of the sink "relid" has opened, if a micro-batch of this process
 * writes to it now; else NULL.
 */
void *
sagg_sink_attached(Oid relid)
{
	return OidIsValid(sagg_batch_context.sink) && sagg_batch_context.sink == relid ?
		sagg_batch_context.opened : NULL;
}
