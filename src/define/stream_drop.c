/*-------------------------------------------------------------------------
 *
 * stream_drop.c
 *	  drop_stream, and what happens to a stream when its view is dropped.
 *
 * A stream ends with its view, whichever command drops that: the event trigger
 * removes its rows from the catalog and the logs, and worker/commit_hooks.c
 * ends its worker. drop_stream is a convenient way to drop the view.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

#include "define_internal.h"
#include "streams/streams.h"

PG_FUNCTION_INFO_V1(stream_agg_drop_stream);
PG_FUNCTION_INFO_V1(stream_agg_on_sql_drop);
PG_FUNCTION_INFO_V1(stream_agg_on_ddl_command_end);

/* view of the stream that drop_stream is dropping */
static Oid	named_view = InvalidOid;

/*
 * Replace the server's hint about CASCADE, which drop_stream does not have.
 */
static void
replace_hint(void *arg)
{
	if (geterrcode() == ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST)
		errhint("%s", (const char *) arg);
}

/*
 * Drop a relation as DROP ...  RESTRICT would.  Raises undefined_table if it
 * does not exist, and what DROP raises.
 */
void
sagg_drop_relation(Oid relid, ObjectType type)
{
	DropStmt   *stmt = makeNode(DropStmt);
	char	   *name = get_rel_name(relid);
	char	   *schema = get_namespace_name(get_rel_namespace(relid));
	ErrorContextCallback callback;

	if (name == NULL || schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u was dropped concurrently", relid)));
	stmt->removeType = type;
	stmt->behavior = DROP_RESTRICT;
	stmt->objects = list_make1(list_make2(makeString(schema), makeString(name)));
	callback.callback = replace_hint;
	callback.arg = type == OBJECT_TABLE ?
		"Drop these objects first, or keep the table by drop_stream without drop_sink." :
		"Drop these objects first.";
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	sagg_run_utility((Node *) stmt, "DROP", -1, 0);
	error_context_stack = callback.previous;
}

static void
tell_missing(const char *name, bool if_exists)
{
	if (!if_exists)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("stream \"%s\" does not exist", sagg_stream_title(name))));
	ereport(NOTICE,
			(errmsg("stream \"%s\" does not exist, skipping", sagg_stream_title(name))));
}

/*
 * drop_stream(stream, drop_sink, if_exists): the sink stays unless drop_sink,
 * and unless it is a table of the user's own.
 */
Datum
stream_agg_drop_stream(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bool		drop_sink = PG_GETARG_BOOL(1);
	bool		if_exists = PG_GETARG_BOOL(2);
	SaggStream *stream;

	PreventCommandDuringRecovery("stream_agg.drop_stream()");
	PreventCommandIfParallelMode("stream_agg.drop_stream()");
	stream = sagg_stream_by_name(name, true);
	if (stream == NULL)
	{
		if (sagg_delete_orphan(sagg_stream_key(sagg_parse_name(name, "stream"))))
			PG_RETURN_VOID();
		tell_missing(name, if_exists);
		PG_RETURN_VOID();
	}
	sagg_stream_check_owner(stream);
	sagg_lock_stream(stream->view);

	/*
	 * another session may have dropped the stream during the wait for the
	 * lock, or given it to another owner
	 */
	LockRelationOid(stream->view, AccessShareLock);
	AcceptInvalidationMessages();
	if (get_rel_name(stream->view) == NULL)
	{
		tell_missing(name, if_exists);
		PG_RETURN_VOID();
	}
	sagg_stream_check_owner(stream);
	sagg_drop_live_view(stream);
	named_view = stream->view;
	sagg_drop_relation(stream->view, OBJECT_VIEW);
	named_view = InvalidOid;
	if (drop_sink && get_rel_name(stream->sink) != NULL)
	{
		if (stream->sink_created)
			sagg_drop_relation(stream->sink, OBJECT_TABLE);
		else
			ereport(NOTICE,
					(errmsg("table \"%s\" is kept, because it existed before the stream",
							get_rel_name(stream->sink)),
					 errhint("DROP TABLE removes it.")));
	}
	PG_RETURN_VOID();
}

static void
check_event_trigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("not fired by event trigger manager")));
}

/*
 * Returns OIDs that a query of one column yields, as an array; (Datum) 0 for
 * none.  SPI is connected.
 */
static Datum
collect_oids(const char *query)
{
	Datum	   *oids;

	if (SPI_execute(query, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute: %s", query);
	if (SPI_processed == 0)
		return (Datum) 0;
	oids = palloc(sizeof(Datum) * SPI_processed);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		oids[i] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
	}
	return PointerGetDatum(construct_array(oids, SPI_processed, OIDOID, sizeof(Oid),
										   true, TYPALIGN_INT));
}

/*
 * Report streams that were dropped with their views, if not asked for by name:
 * rows of view and stream that SPI has returned.
 */
static void
tell_dropped(void)
{
	SPITupleTable *rows = SPI_tuptable;

	for (uint64 i = 0; i < rows->numvals; i++)
	{
		bool		isnull;

		if (DatumGetObjectId(SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull)) != named_view)
			ereport(NOTICE,
					(errmsg("drop cascades to stream \"%s\"",
							sagg_stream_title(SPI_getvalue(rows->vals[i], rows->tupdesc, 2)))));
	}
}

/*
 * Delete rows from all tables with rows of streams except stream_agg.streams;
 * "condition" has a parameter.  What the worker has committed since the snapshot of
 * the transaction must not outlive the stream, otherwise a new one of the same name
 * would continue from it.
 */
static void
delete_logs(const char *condition, Oid type, Datum parameter)
{
	static const char *const logs[] = {
		"sources", "offsets", "commits", "state", "dead_letters", "failed_windows",
		"late_records", "events"
	};

	for (int i = 0; i < lengthof(logs); i++)
		sagg_execute_latest(psprintf("DELETE FROM stream_agg.%s WHERE %s", logs[i], condition),
							1, &type, &parameter, SPI_OK_DELETE);
}

/*
 * Delete the rows of streams whose views are among "views", everywhere, and
 * report the streams if "tell".
 */
static void
delete_streams(Datum views, bool tell)
{
	Oid			type = OIDARRAYOID;

	delete_logs("stream IN (SELECT stream FROM stream_agg.streams WHERE query = ANY ($1))",
				type, views);
	sagg_execute_latest("DELETE FROM stream_agg.streams WHERE query = ANY ($1)"
						" RETURNING query::oid, stream", 1, &type, &views,
						SPI_OK_DELETE_RETURNING);
	if (tell)
		tell_dropped();
}

/*
 * Delete the rows of a stream whose view was dropped without the event
 * trigger: event triggers were off, or the view was dropped with the temporary
 * objects of a session. "stream" is its key; returns whether there was such a
 * stream.  Its owner is not known any more, so everybody may delete it.
 */
bool
sagg_delete_orphan(const char *stream)
{
	SaggOwnerContext owner;
	Datum		views = (Datum) 0;

	SPI_connect();
	sagg_become_extension_owner(&owner);
	views = collect_oids(psprintf("SELECT s.query::pg_catalog.oid FROM stream_agg.streams s"
								  " WHERE s.stream OPERATOR(pg_catalog.=) %s"
								  "   AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c"
								  "                    WHERE c.oid OPERATOR(pg_catalog.=) s.query)",
								  quote_literal_cstr(stream)));
	if (views)
		delete_streams(views, false);
	sagg_restore_user(&owner);
	SPI_finish();
	return views != (Datum) 0;
}

/*
 * Delete what is left of a former stream with this key: the rows that
 * sagg_delete_orphan deletes, and those whose row in stream_agg.streams
 * somebody has deleted.  Whoever makes the next stream of the name must
 * neither see them nor continue from them.
 */
void
sagg_delete_leftovers(const char *stream)
{
	SaggOwnerContext owner;

	(void) sagg_delete_orphan(stream);
	SPI_connect();
	sagg_become_extension_owner(&owner);
	delete_logs("stream = $1 AND NOT EXISTS"
				" (SELECT FROM stream_agg.streams WHERE stream = $1)",
				TEXTOID, CStringGetTextDatum(stream));
	sagg_restore_user(&owner);
	SPI_finish();
}

/*
 * Clear the sinks of streams whose sinks are among "tables".  Their workers
 * find out by themselves; the OID must not stay, because a dump would carry it
 * to where it is another table's.
 */
static void
forget_sinks(Datum tables)
{
	Oid			type = OIDARRAYOID;

	sagg_execute_latest("UPDATE stream_agg.streams SET sink = 0 WHERE sink = ANY ($1)",
						1, &type, &tables, SPI_OK_UPDATE);
}

#define DROPPED_OBJECTS \
	"SELECT objid FROM pg_catalog.pg_event_trigger_dropped_objects()" \
	" WHERE object_type OPERATOR(pg_catalog.=)"

/*
 * on_sql_drop(): event trigger, deletes the rows of streams whose view was
 * dropped, and clears dropped sinks.
 */
Datum
stream_agg_on_sql_drop(PG_FUNCTION_ARGS)
{
	Datum		views;
	Datum		tables;

	check_event_trigger(fcinfo);
	if (!sagg_extension_exists())
		PG_RETURN_NULL();
	SPI_connect();
	views = collect_oids(DROPPED_OBJECTS " 'view'");
	tables = collect_oids(DROPPED_OBJECTS " ANY ('{table,foreign table}')");
	if (views || tables)
	{
		SaggOwnerContext owner;

		sagg_become_extension_owner(&owner);
		if (views)
			delete_streams(views, true);
		if (tables)
			forget_sinks(tables);
		sagg_restore_user(&owner);
	}
	SPI_finish();
	PG_RETURN_NULL();
}

/* views that CREATE VIEW made or replaced, or that got a new rule "_RETURN" */
#define REPLACED_VIEWS \
	"SELECT objid FROM pg_catalog.pg_event_trigger_ddl_commands()" \
	" WHERE object_type OPERATOR(pg_catalog.=) 'view'" \
	" UNION ALL " \
	"SELECT r.ev_class FROM pg_catalog.pg_event_trigger_ddl_commands() c" \
	"  JOIN pg_catalog.pg_rewrite r ON r.oid OPERATOR(pg_catalog.=) c.objid" \
	" WHERE c.object_type OPERATOR(pg_catalog.=) 'rule'" \
	"   AND r.ev_type OPERATOR(pg_catalog.=) '1'"

/*
 * on_ddl_command_end(): event trigger, rejects a replacement of a stream's
 * view, because the state belongs to the former query.  A stream that was not
 * started in this database may get its query: pg_restore replaces views with a
 * GROUP BY that relies on a primary key, after it has loaded the table of
 * streams.  Also reports streams whose sources are altered.
 */
Datum
stream_agg_on_ddl_command_end(PG_FUNCTION_ARGS)
{
	Datum		views;

	check_event_trigger(fcinfo);
	if (!sagg_extension_exists())
		PG_RETURN_NULL();
	SPI_connect();
	sagg_tell_source_change(((EventTriggerData *) fcinfo->context)->parsetree);
	views = collect_oids(REPLACED_VIEWS);
	if (views)
	{
		Oid			types[2] = {OIDARRAYOID, OIDOID};
		Datum		values[2] = {views, ObjectIdGetDatum(MyDatabaseId)};
		SaggOwnerContext owner;

		sagg_become_extension_owner(&owner);
		sagg_execute_latest("SELECT stream FROM stream_agg.streams"
							" WHERE query = ANY ($1) AND database = $2",
							2, types, values, SPI_OK_SELECT);
		sagg_restore_user(&owner);
		if (SPI_processed > 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("cannot replace the query of stream \"%s\"",
							sagg_stream_title(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1))),
					 errdetail("Its state belongs to the current query."),
					 errhint("Use stream_agg.alter_stream(stream, query => ...), which keeps the state if possible.")));
	}
	SPI_finish();
	PG_RETURN_NULL();
}
