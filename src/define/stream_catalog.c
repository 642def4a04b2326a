/*-------------------------------------------------------------------------
 *
 * stream_catalog.c
 *	  Streams as the catalog tables describe them.
 *
 * Reads stream_agg.streams as the owner of the extension, so the caller must
 * check with sagg_stream_check_owner before showing or changing anything,
 * and before running any code of the stream's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "streams/streams.h"
#include "define_internal.h"

#define STREAM_QUERY \
	"SELECT s.stream, s.query, s.sink, s.source, s.other_sources, c.relowner, s.database," \
	"       s.output_mode, s.watermark, s.event_time, s.trigger_interval," \
	"       s.max_offsets_per_trigger, s.starting_offsets, s.sink_created," \
	"       s.enabled, s.started_for," \
	"       s.timezone, s.datestyle, s.intervalstyle, s.search_path, s.options," \
	"       s.reader" \
	"  FROM stream_agg.streams s" \
	"  JOIN pg_catalog.pg_class c ON c.oid = s.query" \
	" WHERE "

typedef struct Row
{
	HeapTuple	tuple;
	TupleDesc	desc;
	int			column;			/* number of the last column */
} Row;

static Datum
next_value(Row *row, bool *isnull)
{
	return SPI_getbinval(row->tuple, row->desc, ++row->column, isnull);
}

static char *
next_text(Row *row)
{
	bool		isnull;
	Datum		value = next_value(row, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static Oid
next_oid(Row *row)
{
	bool		isnull;

	return DatumGetObjectId(next_value(row, &isnull));
}

static bool
next_interval(Row *row, const char *what, int64 *length)
{
	bool		isnull;
	Datum		value = next_value(row, &isnull);

	*length = isnull ? 0 : sagg_interval_length(DatumGetIntervalP(value), what);
	return !isnull;
}

/*
 * Read the columns source and other_sources.
 */
static List *
next_sources(Row *row)
{
	Oid			source = next_oid(row);
	bool		isnull;
	Datum		others = next_value(row, &isnull);

	return sagg_source_list(source, isnull ? NULL : DatumGetArrayTypeP(others));
}

/*
 * Returns the stream in a row of STREAM_QUERY, in the current context.
 */
static SaggStream *
make_stream(HeapTuple tuple, TupleDesc desc)
{
	SaggStream *stream = palloc0(sizeof(SaggStream));
	Row			row = {tuple, desc, 0};
	Oid			snapshot_owner;
	char	   *mode;
	bool		isnull;

	stream->name = next_text(&row);
	stream->view = next_oid(&row);
	stream->sink = next_oid(&row);
	stream->sources = next_sources(&row);
	/* a snapshot may be older than the present owner */
	snapshot_owner = next_oid(&row);
	stream->owner = sagg_relation_owner(stream->view);
	if (!OidIsValid(stream->owner))
		stream->owner = snapshot_owner;
	stream->database = next_oid(&row);
	mode = next_text(&row);
	if (!sagg_mode_by_name(mode, &stream->mode))
		elog(ERROR, "unknown output mode \"%s\" in stream_agg.streams", mode);
	stream->has_watermark = next_interval(&row, "watermark", &stream->watermark_delay);
	stream->event_time = next_text(&row);
	next_interval(&row, "trigger", &stream->trigger);
	stream->max_offsets = DatumGetInt64(next_value(&row, &isnull));
	if (isnull)
		stream->max_offsets = 0;
	stream->starting_offsets = next_text(&row);
	stream->sink_created = DatumGetBool(next_value(&row, &isnull));
	stream->enabled = DatumGetBool(next_value(&row, &isnull));
	stream->owners = DatumGetArrayTypePCopy(next_value(&row, &isnull));
	stream->timezone = next_text(&row);
	stream->datestyle = next_text(&row);
	stream->intervalstyle = next_text(&row);
	stream->search_path = sagg_path_temporary_last(next_text(&row));
	sagg_stream_options_read(sagg_options_from_json(DatumGetJsonbP(next_value(&row, &isnull)), true),
							 &stream->options);
	stream->reader = next_text(&row);
	return stream;
}

/*
 * A stream with an owner who is not trusted does not run.  Trust that was taken
 * back is gone for old snapshots, too.
 */
static void
settle_trust(SaggStream *stream)
{
	if (IsolationUsesXactSnapshot())
	{
		ArrayType  *now = sagg_stream_trusted_owners(stream->view);

		if (now)
			stream->owners = now;
	}
	if (!sagg_stream_has_owners(stream->owners, stream->view, stream->sink, stream->sources))
		stream->enabled = false;
}

/*
 * Execute a command on the rows that are there now, whatever the isolation level: what
 * others have committed since the snapshot of the transaction counts, too.  Connected
 * to SPI, as the owner of the extension; "result" is an SPI_OK_...
 */
void
sagg_execute_latest(const char *command, int nargs, Oid *types, Datum *values, int result)
{
	SPIPlanPtr	plan = SPI_prepare(command, nargs, types);

	if (plan == NULL ||
		SPI_execute_snapshot(plan, values, NULL, GetLatestSnapshot(),
							 InvalidSnapshot, false, true, 0) != result)
		elog(ERROR, "could not execute: %s", command);
}

/*
 * Returns the stream whose row has a value in a column; NULL if there is none.
 * "latest": whatever the snapshot of the transaction.
 */
static SaggStream *
fetch_stream(const char *query, Oid type, Datum value, bool latest)
{
	MemoryContext caller = CurrentMemoryContext;
	SaggOwnerContext owner;
	SaggStream *stream = NULL;

	SPI_connect();
	sagg_become_extension_owner(&owner);
	if (latest)
		sagg_execute_latest(query, 1, &type, &value, SPI_OK_SELECT);
	else if (SPI_execute_with_args(query, 1, &type, &value, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read stream_agg.streams");
	sagg_restore_user(&owner);
	if (SPI_processed > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);

		stream = make_stream(SPI_tuptable->vals[0], SPI_tuptable->tupdesc);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	if (stream)
		settle_trust(stream);
	return stream;
}

/*
 * Returns the stream whose query is this view, in the current context.  NULL
 * if there is none and "missing_ok", otherwise raises undefined_object.
 */
SaggStream *
sagg_stream_by_view(Oid view, bool missing_ok)
{
	SaggStream *stream = fetch_stream(STREAM_QUERY "s.query = $1", OIDOID,
									  ObjectIdGetDatum(view), false);

	if (stream == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no stream with query view %u", view)));
	return stream;
}

/*
 * Returns the stream with this key (sagg_stream_key), in the current context,
 * or NULL.
 */
SaggStream *
sagg_stream_by_key(const char *key)
{
	return fetch_stream(STREAM_QUERY "s.stream = $1", TEXTOID,
						CStringGetTextDatum(key), false);
}

/*
 * Returns a stream that reads a source, in the current context; NULL if there
 * is none.
 */
SaggStream *
sagg_stream_of_source(Oid source)
{
	return fetch_stream(STREAM_QUERY "(s.source = $1 OR $1 = ANY (s.other_sources)) ORDER BY s.stream", OIDOID,
						ObjectIdGetDatum(source), false);
}

#define STREAM_OF_SINK \
	STREAM_QUERY "s.sink = $1 ORDER BY pg_catalog.pg_has_role(c.relowner," \
	" (SELECT r.relowner FROM pg_catalog.pg_class r WHERE r.oid = s.sink)," \
	" 'MEMBER') DESC, s.stream"

/*
 * Returns the stream that writes to a sink, in the current context; NULL if
 * there is none.  If there are several, prefers the one of the table's owner.
 */
SaggStream *
sagg_stream_of_sink(Oid sink)
{
	return fetch_stream(STREAM_OF_SINK, OIDOID, ObjectIdGetDatum(sink), false);
}

/*
 * The same as of now, whatever the snapshot of the transaction.
 */
SaggStream *
sagg_stream_of_sink_now(Oid sink)
{
	return fetch_stream(STREAM_OF_SINK, OIDOID, ObjectIdGetDatum(sink), true);
}

/*
 * Returns another stream that shares the reader of "stream" now, whatever the snapshot
 * of the transaction, in the current context; NULL if there is none.
 */
SaggStream *
sagg_stream_beside(const SaggStream *stream)
{
	return fetch_stream(psprintf(STREAM_QUERY "s.reader = $1 AND c.relowner = %u AND c.oid <> %u"
								 " ORDER BY s.stream", stream->owner, stream->view),
						TEXTOID, CStringGetTextDatum(stream->reader), true);
}

/*
 * Returns the views of all other streams that share the reader of "stream" now, in
 * order.
 */
List *
sagg_views_beside(const SaggStream *stream)
{
	Oid			types[3] = {TEXTOID, OIDOID, OIDOID};
	Datum		values[3] = {
		CStringGetTextDatum(stream->reader), ObjectIdGetDatum(stream->owner),
		ObjectIdGetDatum(stream->view)
	};
	MemoryContext caller = CurrentMemoryContext;
	List	   *views = NIL;
	SaggOwnerContext owner;

	SPI_connect();
	sagg_become_extension_owner(&owner);
	sagg_execute_latest("SELECT s.query::oid FROM stream_agg.streams s JOIN pg_catalog.pg_class c ON c.oid = s.query"
						" WHERE s.reader = $1 AND c.relowner = $2 AND c.oid <> $3 ORDER BY 1",
						3, types, values, SPI_OK_SELECT);
	sagg_restore_user(&owner);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		MemoryContext old = MemoryContextSwitchTo(caller);

		views = lappend_oid(views, DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
																  SPI_tuptable->tupdesc, 1, &isnull)));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return views;
}

/*
 * Change a stream's row, as the owner of the extension: "assignments" is the
 * SET clause, whose parameters begin at $2; values[0] is set here.  Raises
 * serialization_failure if the row does not exist any more.
 */
void
sagg_stream_update(const SaggStream *stream, const char *assignments, int nargs,
				   Oid *types, Datum *values)
{
	char	   *command = psprintf("UPDATE stream_agg.streams SET %s WHERE query = $1",
								   assignments);
	SaggOwnerContext owner;

	types[0] = OIDOID;
	values[0] = ObjectIdGetDatum(stream->view);
	SPI_connect();
	sagg_become_extension_owner(&owner);
	if (SPI_execute_with_args(command, nargs, types, values, NULL, false, 0) != SPI_OK_UPDATE ||
		SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("stream \"%s\" was dropped concurrently", sagg_stream_title(stream->name))));
	sagg_restore_user(&owner);
	SPI_finish();
}

/*
 * Returns whether the current user may see what streams of a role are called.
 */
bool
sagg_may_see_streams(Oid owner)
{
	return has_privs_of_role(GetUserId(), owner) ||
		has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);
}

/*
 * Returns a name, written like the name of a relation, as a RangeVar.  "what"
 * is the argument's name, for messages.  Raises invalid_parameter_value and
 * invalid_name.
 */
RangeVar *
sagg_parse_name(const char *name, const char *what)
{
	List	   *parts;

	if (name[strspn(name, " \t\n\r")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what)));
	if (!SplitIdentifierString(pstrdup(name), '.', &parts))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a %s: \"%s\"", what, name),
				 errhint("Write it as in SQL: names with spaces, capitals or dots need double quotes.")));
	return makeRangeVarFromNameList(SAGG_NAME_LIST(name));
}

/*
 * Returns the key of a stream of this name in the catalog: the name as given,
 * quoted where necessary, independent of the session's quote_all_identifiers.
 */
char *
sagg_stream_key(const RangeVar *name)
{
	bool		save = quote_all_identifiers;
	char	   *key;

	quote_all_identifiers = false;
	key = name->schemaname ?
		quote_qualified_identifier(name->schemaname, name->relname) :
		pstrdup(quote_identifier(name->relname));
	quote_all_identifiers = save;
	return key;
}

/*
 * Returns the name of the view that holds a stream's query.
 */
char *
sagg_stream_view_name(const RangeVar *name)
{
	return makeObjectName(name->relname, NULL, "query");
}

/*
 * Returns whether a stream has this name, apart from its schema.  Names of
 * views are truncated where those of streams are not, so the view found may be
 * another stream's.
 */
bool
sagg_stream_has_name(const SaggStream *stream, const RangeVar *name)
{
	return strcmp(sagg_parse_name(stream->name, "stream")->relname, name->relname) == 0;
}

/*
 * Returns the stream of this name, in the current context.  A stream that was
 * named without schema is also found with its schema, and the other way round.
 * NULL if there is none and "missing_ok", otherwise raises undefined_object.
 */
SaggStream *
sagg_stream_by_name(const char *name, bool missing_ok)
{
	RangeVar   *range = sagg_parse_name(name, "stream");
	SaggStream *stream = sagg_stream_by_key(sagg_stream_key(range));

	if (stream == NULL)
	{
		RangeVar   *view = copyObject(range);
		Oid			viewoid;

		view->relname = sagg_stream_view_name(range);
		viewoid = RangeVarGetRelid(view, NoLock, true);
		if (OidIsValid(viewoid))
			stream = sagg_stream_by_view(viewoid, true);
		if (stream && !sagg_stream_has_name(stream, range))
			stream = NULL;
	}
	if (stream == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("stream \"%s\" does not exist", sagg_stream_title(name))));
	return stream;
}

/*
 * Raise insufficient_privilege if no worker could run as "owner": a role that
 * cannot log in, or may not connect to the database.
 */
void
sagg_stream_check_can_run(Oid owner)
{
	char	   *name = GetUserNameFromId(owner, false);
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(owner));
	bool		can_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;

	ReleaseSysCache(tuple);
	if (!can_login)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" cannot run streams, because it cannot log in", name),
				 errdetail("The worker of a stream connects as the stream's owner."),
				 errhint("Use ALTER ROLE %s LOGIN, or give the stream's query to another owner.",
						 quote_identifier(name))));
	if (SAGG_DATABASE_ACLCHECK(MyDatabaseId, owner, ACL_CONNECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" cannot run streams, because it may not connect to this database", name),
				 errdetail("The worker of a stream connects as the stream's owner."),
				 errhint("Use GRANT CONNECT ON DATABASE %s TO %s.",
						 quote_identifier(get_database_name(MyDatabaseId)),
						 quote_identifier(name))));
}
