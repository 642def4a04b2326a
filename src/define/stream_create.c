/*-------------------------------------------------------------------------
 *
 * stream_create.c
 *	  create_stream: query, sink and catalog rows of a new stream.
 *
 * The query becomes a view, so that renames, dependencies, privileges and
 * pg_dump come with it; the view's owner is the stream's.  All of it is
 * ordinary transactional DDL: a failure leaves nothing behind, and the worker
 * starts on commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "commands/comment.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/analyze.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "define_internal.h"
#include "read/read.h"
#include "streams/streams.h"
#include "write/write.h"

PG_FUNCTION_INFO_V1(stream_agg_create_stream);

/*
 * Returns the one SELECT in the text of a query.  Raises syntax_error and
 * feature_not_supported.
 */
RawStmt *
sagg_parse_query(const char *text)
{
	List	   *statements = sagg_parse_text(text);
	RawStmt    *raw;

	if (list_length(statements) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 list_length(statements) == 0 ?
				 errmsg("the query of a stream is empty") :
				 errmsg("the query of a stream must be one statement")));
	raw = linitial_node(RawStmt, statements);
	if (!IsA(raw->stmt, SelectStmt) || ((SelectStmt *) raw->stmt)->intoClause)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the query of a stream must be a SELECT")));
	return raw;
}

/*
 * Reject a query of which CREATE VIEW would make a temporary view.
 */
static void
check_not_temporary(RawStmt *raw, const char *text)
{
	sagg_check_no_temporary(parse_analyze_fixedparams(copyObject(raw), text, NULL, 0, NULL));
}

/*
 * Make a view for the query "text" of the stream "stream", a key, with options of the
 * view, which may be NIL; returns its OID.  Raises what CREATE VIEW and
 * sagg_check_lasting raise.
 */
Oid
sagg_make_query_view(const char *stream, char *schema, char *name, const char *text,
					 List *options)
{
	RawStmt    *raw = sagg_parse_query(text);
	ViewStmt   *stmt = makeNode(ViewStmt);
	Oid			view;
	ErrorContextCallback callback;

	stmt->view = makeRangeVar(schema, name, -1);
	stmt->query = raw->stmt;
	stmt->options = options;
	stmt->withCheckOption = NO_CHECK_OPTION;
	sagg_text_errors_begin(&callback, text);
	check_not_temporary(raw, text);
	sagg_run_utility((Node *) stmt, text, raw->stmt_location, raw->stmt_len);
	sagg_text_errors_end(&callback);
	view = RangeVarGetRelid(stmt->view, NoLock, false);
	sagg_check_lasting(view);
	CreateComments(view, RelationRelationId, 0,
				   psprintf("query of stream %s", stream));
	return view;
}

/*
 * Reject an existing table of another role that has the stream's name by
 * chance, or because its owner waits for the stream's owner to run its
 * triggers.  Membership in the table's owner does not help: others can have
 * granted that to the user.
 */
static void
reject_stranger(Oid sink, const char *name)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(sink));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		return;
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	if (owner != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("table \"%s\" exists and belongs to role \"%s\"",
						name, GetUserNameFromId(owner, false)),
				 errdetail("The triggers of a sink run as the stream's owner."),
				 errhint("Choose another name for the stream, or name the table by sink => if it is meant.")));
}

/*
 * Serialise creators of streams into a table, otherwise two new streams would not see
 * each other; not by a lock on the table, because VACUUM of its owner would wait.  Its
 * owner waits for himself only: he may have a stream besides that of another role,
 * which is therefore of no interest.  Other roles do not wait for each other.
 */
static void
lock_sink_to_create(Oid sink, const char *name, bool owns)
{
	LOCKTAG		tag;

	LockRelationOid(sink, RowExclusiveLock);
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, sink, owns ? 5 : 6);
	if (LockAcquire(&tag, ExclusiveLock, false, !owns) == LOCKACQUIRE_NOT_AVAIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("a transaction that has not ended creates a stream into table \"%s\"", name),
				 errhint("Try again when it has ended, or name another sink.")));
}

/*
 * A table is the sink of one stream only.  But a role that may only insert into a
 * table of another role does not keep its owner from having that one stream.
 */
static void
check_sink_is_free(Oid sink, const char *name)
{
	bool		owns = SAGG_OWNS_RELATION(sink, GetUserId());
	SaggStream *other;

	lock_sink_to_create(sink, name, owns);
	other = sagg_stream_of_sink_now(sink);
	if (other == NULL)
		return;
	if (!owns || SAGG_OWNS_RELATION(sink, other->owner))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 sagg_may_see_streams(other->owner) ?
				 errmsg("table \"%s\" is the sink of stream \"%s\"", name, sagg_stream_title(other->name)) :
				 errmsg("table \"%s\" is the sink of another role's stream", name),
				 errhint("Name another sink.")));
	ereport(NOTICE,
			(sagg_may_see_streams(other->owner) ?
			 errmsg("table \"%s\" is also the sink of stream \"%s\" of role \"%s\"",
					name, sagg_stream_title(other->name),
					GetUserNameFromId(other->owner, false)) :
			 errmsg("table \"%s\" is also the sink of a stream of role \"%s\"",
					name, GetUserNameFromId(other->owner, false)),
			 errhint("To end that, revoke INSERT on the table from the role.")));
}

/*
 * Find or make the table that the results go to.
 */
static void
settle_sink(const SaggStreamArguments *args, char *schema, const SaggQuery *query,
			SaggStream *stream)
{
	RangeVar   *name = args->sink;

	if (name == NULL)
		name = makeRangeVar(schema, args->name->relname, -1);
	stream->sink = RangeVarGetRelid(name, NoLock, true);
	if (args->sink == NULL && OidIsValid(stream->sink))
		reject_stranger(stream->sink, name->relname);
	stream->sink_created = !OidIsValid(stream->sink);
	if (stream->sink_created)
	{
		stream->sink = sagg_sink_make(RangeVarGetCreationNamespace(name), name->relname,
									  query, stream->mode);
		CreateComments(stream->sink, RelationRelationId, 0,
					   psprintf("results of stream %s", stream->name));
		sagg_check_delivery(stream, query);
		return;
	}
	sagg_check_delivery(stream, query);
	sagg_check_sink_not_read(query, stream->sink);
	sagg_sink_check(stream->sink, query, stream->mode);
	check_sink_is_free(stream->sink, name->relname);
	if (args->sink == NULL)
		ereport(NOTICE,
				(errmsg("stream \"%s\" writes to the existing table \"%s\", which keeps its rows",
						sagg_stream_title(stream->name), name->relname),
				 errhint("To begin with an empty table, drop the stream, TRUNCATE or DROP the table, and create the stream again. drop_stream(stream, drop_sink => true) drops the table with the stream.")));
}

/*
 * Returns the schemas in which unqualified names are looked up, as a setting.
 */
static char *
current_search_path(void)
{
	StringInfoData path;
	List	   *schemas = fetch_search_path(false);
	ListCell   *lc;

	initStringInfo(&path);
	foreach(lc, schemas)
	{
		char	   *name = get_namespace_name(lfirst_oid(lc));

		if (name && !isTempNamespace(lfirst_oid(lc)))
			appendStringInfo(&path, "%s%s", path.len > 0 ? ", " : "",
							 quote_identifier(name));
	}
	list_free(schemas);
	if (path.len == 0)
		appendStringInfoString(&path, "\"\"");
	return path.data;
}

static Datum
setting(const char *name)
{
	return CStringGetTextDatum(GetConfigOption(name, false, false));
}

static void
insert_row(const char *command, int nargs, Oid *types, Datum *values, const char *nulls)
{
	if (SPI_execute_with_args(command, nargs, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not execute: %s", command);
}

/*
 * Returns the sources except the first, as an array of regclass.
 */
static Datum
other_sources(const SaggStream *stream)
{
	int			n = list_length(stream->sources) - 1;
	Datum	   *oids = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		oids[i] = ObjectIdGetDatum(list_nth_oid(stream->sources, i + 1));
	return PointerGetDatum(construct_array(oids, n, REGCLASSOID, sizeof(Oid), true,
										   TYPALIGN_INT));
}

static void
insert_stream(const SaggStream *stream, const char *search_path, bool start)
{
	Oid			types[19] = {
		TEXTOID, OIDOID, OIDOID, OIDOID, TEXTOID, INTERVALOID, TEXTOID,
		INTERVALOID, INT8OID, TEXTOID, BOOLOID, BOOLOID,
		TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, TEXTOID, REGCLASSARRAYOID
	};
	Datum		values[19];
	char		nulls[19];

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(stream->name);
	values[1] = ObjectIdGetDatum(stream->view);
	values[2] = ObjectIdGetDatum(stream->sink);
	values[3] = ObjectIdGetDatum(linitial_oid(stream->sources));
	values[4] = CStringGetTextDatum(sagg_mode_name(stream->mode));
	values[5] = sagg_interval_datum(stream->watermark_delay);
	nulls[5] = stream->has_watermark ? ' ' : 'n';
	values[6] = stream->event_time ? CStringGetTextDatum(stream->event_time) : (Datum) 0;
	nulls[6] = stream->event_time ? ' ' : 'n';
	values[7] = sagg_interval_datum(stream->trigger);
	values[8] = Int64GetDatum(stream->max_offsets);
	nulls[8] = stream->max_offsets > 0 ? ' ' : 'n';
	values[9] = CStringGetTextDatum(stream->starting_offsets);
	values[10] = BoolGetDatum(stream->sink_created);
	values[11] = BoolGetDatum(start);
	values[12] = setting("TimeZone");
	values[13] = setting("DateStyle");
	values[14] = setting("IntervalStyle");
	values[15] = CStringGetTextDatum(search_path);
	values[16] = sagg_stream_options_jsonb(&stream->options);
	values[17] = stream->reader ? CStringGetTextDatum(stream->reader) : (Datum) 0;
	nulls[17] = stream->reader ? ' ' : 'n';
	values[18] = other_sources(stream);
	nulls[18] = list_length(stream->sources) > 1 ? ' ' : 'n';
	insert_row("INSERT INTO stream_agg.streams (stream, query, sink, source, output_mode,"
			   " watermark, event_time, trigger_interval, max_offsets_per_trigger,"
			   " starting_offsets, sink_created, enabled, timezone,"
			   " datestyle, intervalstyle, search_path, options, reader, other_sources, database)"
			   " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,"
			   " $14, $15, $16, $17, $18, $19, 0)",
			   19, types, values, nulls);
}

/*
 * Mark the stream as one of this database.  A row can only get this mark by an
 * UPDATE, see stream_restore.c.
 */
static void
adopt_stream(const SaggStream *stream)
{
	Oid			types[3] = {OIDOID, OIDOID, OIDARRAYOID};
	Datum		values[3];

	values[0] = ObjectIdGetDatum(stream->view);
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	values[2] = PointerGetDatum(sagg_stream_owners(stream->view, stream->sink, stream->sources));
	if (SPI_execute_with_args("UPDATE stream_agg.streams SET database = $2, started_for = $3 WHERE query = $1",
							  3, types, values, NULL, false, 0) != SPI_OK_UPDATE ||
		SPI_processed != 1)
		elog(ERROR, "the row of stream \"%s\" does not exist any more", sagg_stream_title(stream->name));
}

/*
 * Reserve a name that streams of all schemas share.  It does not wait for a
 * transaction that has reserved the name and has not ended: that can be
 * another role's, and last.
 */
static void
take_name(const SaggStream *stream)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId,
					   string_hash(stream->name, strlen(stream->name) + 1), 4);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("a transaction that has not ended creates a stream \"%s\"",
						sagg_stream_title(stream->name)),
				 errhint("Try again when it has ended, or name the stream with its schema.")));
	if (sagg_stream_by_key(stream->name) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("stream \"%s\" already exists", sagg_stream_title(stream->name))));
}

/*
 * Write the stream's rows in the catalog, as the owner of the extension.
 */
static void
record_stream(const SaggStream *stream, bool start)
{
	char	   *search_path = current_search_path();
	SaggOwnerContext owner;

	take_name(stream);
	sagg_stream_lock_owners(stream);
	SPI_connect();
	sagg_become_extension_owner(&owner);
	insert_stream(stream, search_path, start);
	adopt_stream(stream);
	sagg_restore_user(&owner);
	SPI_finish();
}

/*
 * Reject a query that the current user may not run, or that does not fit the
 * stream's other arguments.
 */
void
sagg_check_query(const SaggStream *stream, const SaggQuery *query)
{
	sagg_check_reads(query);
	if (stream->mode != SAGG_APPEND && query->missing_key)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the select list omits %s, by which the query groups", query->missing_key),
				 errdetail("Output mode \"%s\" finds the row of a group by its window and keys.",
						   sagg_mode_name(stream->mode)),
				 errhint("Add it to the select list.")));
	sagg_check_max_future(stream, query);
	sagg_check_watermark_options(stream, query);
	sagg_check_group(stream, query);
}

/*
 * Tell the user what to know before waiting for rows.
 */
static void
tell_about(const SaggStream *stream, const SaggQuery *query)
{
	if (query->kind != SAGG_AGGREGATION)
		return;
	if (stream->mode == SAGG_APPEND)
		ereport(NOTICE,
				(errmsg("the first window of stream \"%s\" appears when event time has advanced by %s",
						sagg_stream_title(stream->name),
						DatumGetCString(DirectFunctionCall1(interval_out,
															sagg_interval_datum(Min(query->window.slide, query->window.size) + query->window.gap + stream->watermark_delay)))),
				 errdetail("Output mode \"append\" writes a window once, when the watermark has passed its end.")));
	else if (stream->mode == SAGG_COMPLETE && !query->single_row)
		ereport(NOTICE,
				(errmsg("the state of stream \"%s\" keeps every group for ever", sagg_stream_title(stream->name)),
				 errdetail("Output mode \"complete\" forgets nothing, whatever the watermark, and compares the whole result with the sink in every micro-batch."),
				 errhint("Group by a window, give a watermark and use output_mode => 'update' to have old groups forgotten.")));
	else if (!query->single_row &&
			 (!stream->has_watermark || query->window.kind == SAGG_WINDOW_NONE))
		ereport(NOTICE,
				(errmsg("the state of stream \"%s\" keeps every group for ever", sagg_stream_title(stream->name)),
				 query->window_hint ? errhint("%s", query->window_hint) :
				 query->window.kind == SAGG_WINDOW_NONE ?
				 errhint("Group by a window and give a watermark to have old groups forgotten.") :
				 errhint("Give a watermark to have old groups forgotten.")));
}

static void
fill_stream(SaggStream *stream, const SaggStreamArguments *args)
{
	stream->name = sagg_stream_key(args->name);
	stream->owner = GetUserId();
	stream->database = MyDatabaseId;
	stream->mode = args->mode;
	stream->has_watermark = args->has_watermark;
	stream->watermark_delay = args->watermark_delay;
	stream->event_time = args->event_time;
	stream->trigger = args->trigger;
	stream->max_offsets = args->max_offsets;
	stream->starting_offsets = args->starting_offsets;
	stream->options = args->options;
	stream->reader = args->reader;
}

/*
 * Returns the stream of this name, or the one that has the same name with or
 * without its schema.  NULL if there is none; raises duplicate_table if
 * something else has the name of its view.
 */
static SaggStream *
find_stream(const SaggStreamArguments *args, Oid schema)
{
	char	   *key = sagg_stream_key(args->name);
	char	   *view = sagg_stream_view_name(args->name);
	SaggStream *stream = sagg_stream_by_key(key);
	Oid			relid;

	if (stream)
		return stream;
	relid = get_relname_relid(view, schema);
	if (!OidIsValid(relid))
		return NULL;
	stream = sagg_stream_by_view(relid, true);
	if (stream && sagg_stream_has_name(stream, args->name))
		return stream;
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_TABLE),
			 errmsg("relation \"%s\" already exists", view),
			 stream ?
			 errdetail("It is the query of stream \"%s\". That of stream \"%s\" would be kept as a view of the same name, which is made of the first bytes of the stream's.",
					   sagg_stream_title(stream->name), sagg_stream_title(key)) :
			 errdetail("The query of stream \"%s\" would be kept as a view of that name.", sagg_stream_title(key)),
			 errhint("Choose another name for the stream.")));
}

/*
 * Handle a stream of this name that exists already: returns its sink with a
 * NOTICE, if IF NOT EXISTS was given and the stream is the user's; otherwise
 * raises an error.  What another role's stream writes is not what the user
 * wants, even if he may alter that stream.
 */
static Oid
existing_stream(const SaggStreamArguments *args, Oid schema)
{
	SaggStream *stream = find_stream(args, schema);

	if (stream == NULL)
		return InvalidOid;
	if (!args->if_not_exists || stream->owner != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("stream \"%s\" already exists", sagg_stream_title(stream->name)),
				 args->if_not_exists ?
				 errdetail("It belongs to role \"%s\".", GetUserNameFromId(stream->owner, false)) : 0));
	ereport(NOTICE,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("stream \"%s\" already exists, skipping", sagg_stream_title(stream->name))));
	return stream->sink;
}

/*
 * create_stream(stream, query, watermark, event_time, output_mode, trigger,
 * sink, starting_offsets, max_offsets_per_trigger, start, options,
 * if_not_exists, reader): see doc/streams.md.  Returns the sink.
 */
Datum
stream_agg_create_stream(PG_FUNCTION_ARGS)
{
	SaggStreamArguments *args;
	SaggStream	stream = {0};
	SaggQuery  *query;
	Oid			namespace;
	char	   *schema;
	Oid			sink;

	PreventCommandDuringRecovery("stream_agg.create_stream()");
	PreventCommandIfParallelMode("stream_agg.create_stream()");
	sagg_require_preload();
	args = sagg_stream_arguments(fcinfo);
	namespace = RangeVarGetCreationNamespace(args->name);
	sink = existing_stream(args, namespace);
	if (OidIsValid(sink))
		PG_RETURN_OID(sink);

	schema = get_namespace_name(namespace);
	sagg_delete_leftovers(sagg_stream_key(args->name));
	sagg_stream_check_can_run(GetUserId());
	fill_stream(&stream, args);
	stream.view = sagg_make_query_view(stream.name, schema,
									   sagg_stream_view_name(args->name), args->query, NIL);
	query = sagg_query_of_view(&stream);
	stream.sources = query->sources;
	sagg_check_query(&stream, query);
	sagg_check_reader(&stream);
	settle_sink(args, schema, query, &stream);
	if (stream.options.has_retention)
		sagg_sink_check_retention(stream.sink, query, stream.mode);
	record_stream(&stream, args->start);
	sagg_label_database();
	if (args->start)
		sagg_start_stream_at_commit(&stream);
	tell_about(&stream, query);
	PG_RETURN_OID(stream.sink);
}
