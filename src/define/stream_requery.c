/*-------------------------------------------------------------------------
 *
 * stream_requery.c
 *	  Another query for a stream that has a state.
 *
 * The new query gets a view of its own, which replaces the former one and
 * takes its name, because columns of a view cannot be removed.  The sink gets
 * and loses columns, and the state of the aggregates that stay is rewritten
 * for the new query (execute/state_convert.c, checkpoint/state_rewrite.c).
 * Everything runs in the caller's transaction.
 *
 * The stream's lock is held, so no micro-batch runs meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "checkpoint/checkpoint.h"
#include "define_internal.h"
#include "execute/execute.h"
#include "read/read.h"
#include "streams/streams.h"
#include "write/write.h"

/* relations whose rules read view $1 */
#define DEPENDENT_VIEW \
	"SELECT r.ev_class::pg_catalog.regclass::text" \
	"  FROM pg_catalog.pg_depend d" \
	"  JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid" \
	" WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = $1 AND r.ev_class <> $1"

/*
 * Lock the sink, so that it stays until the end of the transaction.
 */
static void
lock_sink(const SaggStream *stream)
{
	Relation	sink = try_relation_open(stream->sink, AccessShareLock);

	if (sink == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the sink of stream \"%s\" does not exist",
						sagg_stream_title(stream->name)),
				 errhint("Drop the stream and create it again.")));
	relation_close(sink, NoLock);
}

/*
 * Check that nothing depends on the former view, which will be dropped.
 */
static void
check_no_dependents(const SaggStream *stream)
{
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(stream->view);
	SaggOwnerContext owner;

	SPI_connect();
	sagg_become_extension_owner(&owner);
	if (SPI_execute_with_args(DEPENDENT_VIEW, 1, &type, &value, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for dependent views");
	sagg_restore_user(&owner);
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot replace view \"%s\", the query of stream \"%s\"",
						get_rel_name(stream->view), sagg_stream_title(stream->name)),
				 errdetail("View %s depends on it.",
						   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1)),
				 errhint("Drop that view, and create it again afterwards.")));
	SPI_finish();
}

static void
rename_view(Oid view, const char *name)
{
	RenameStmt *stmt = makeNode(RenameStmt);

	stmt->renameType = OBJECT_VIEW;
	stmt->relation = makeRangeVar(get_namespace_name(get_rel_namespace(view)),
								  get_rel_name(view), -1);
	stmt->newname = pstrdup(name);
	stmt->behavior = DROP_RESTRICT;
	sagg_run_utility((Node *) stmt, "ALTER VIEW", -1, 0);
}

/*
 * Returns the options of a view, such as security_barrier, as a list of
 * DefElems.
 */
List *
sagg_view_options(Oid view)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(view));
	List	   *options = NIL;
	Datum		value;
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		return NIL;
	value = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions, &isnull);
	if (!isnull)
		options = untransformRelOptions(value);
	ReleaseSysCache(tuple);
	return options;
}

/*
 * Give a column the privileges of another, of a relation of the same owner.
 */
static void
copy_column_privileges(Oid from, AttrNumber from_column, Oid to, AttrNumber to_column)
{
	Relation	catalog = table_open(AttributeRelationId, RowExclusiveLock);
	HeapTuple	from_tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(from), Int16GetDatum(from_column));
	HeapTuple	to_tuple = SearchSysCacheCopy2(ATTNUM, ObjectIdGetDatum(to), Int16GetDatum(to_column));
	Datum		values[Natts_pg_attribute] = {0};
	bool		nulls[Natts_pg_attribute] = {0};
	bool		replace[Natts_pg_attribute] = {0};
	bool		isnull;
	Datum		acl = SysCacheGetAttr(ATTNUM, from_tuple, Anum_pg_attribute_attacl, &isnull);

	if (!isnull)
	{
		Oid		   *members;
		int			nmembers = aclmembers(DatumGetAclP(acl), &members);

		values[Anum_pg_attribute_attacl - 1] = acl;
		replace[Anum_pg_attribute_attacl - 1] = true;
		to_tuple = heap_modify_tuple(to_tuple, RelationGetDescr(catalog), values,
									 nulls, replace);
		CatalogTupleUpdate(catalog, &to_tuple->t_self, to_tuple);
		updateAclDependencies(RelationRelationId, to, to_column,
							  sagg_relation_owner(to), 0, NULL, nmembers, members);
	}
	ReleaseSysCache(from_tuple);
	table_close(catalog, RowExclusiveLock);
}

/*
 * Give one relation the privileges of another of the same owner, and its
 * columns those of the columns of the same names.
 */
static void
copy_privileges(Oid from, Oid to)
{
	Relation	catalog = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple	from_tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(from));
	HeapTuple	to_tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(to));
	Datum		values[Natts_pg_class] = {0};
	bool		nulls[Natts_pg_class] = {0};
	bool		replace[Natts_pg_class] = {0};
	bool		isnull;
	Datum		acl = SysCacheGetAttr(RELOID, from_tuple, Anum_pg_class_relacl, &isnull);

	if (!isnull)
	{
		Oid		   *members;
		int			nmembers = aclmembers(DatumGetAclP(acl), &members);

		values[Anum_pg_class_relacl - 1] = acl;
		replace[Anum_pg_class_relacl - 1] = true;
		to_tuple = heap_modify_tuple(to_tuple, RelationGetDescr(catalog), values,
									 nulls, replace);
		CatalogTupleUpdate(catalog, &to_tuple->t_self, to_tuple);
		updateAclDependencies(RelationRelationId, to, 0,
							  ((Form_pg_class) GETSTRUCT(to_tuple))->relowner,
							  0, NULL, nmembers, members);
	}
	ReleaseSysCache(from_tuple);
	table_close(catalog, RowExclusiveLock);
	for (AttrNumber column = 1; get_attname(from, column, true) != NULL; column++)
	{
		AttrNumber	other = get_attnum(to, get_attname(from, column, false));

		if (other != InvalidAttrNumber)
			copy_column_privileges(from, column, to, other);
	}
	CommandCounterIncrement();
}

/*
 * Rename columns of the sink as the query has renamed them, unless somebody
 * has renamed them already.
 */
static void
rename_columns(const SaggStream *stream, const SaggQuery *query, const SaggQueryChange *change)
{
	ListCell   *lc;
	ListCell   *lc2;

	forboth(lc, change->old_names, lc2, change->renamed)
	{
		const char *new_name =
		NameStr(TupleDescAttr(query->output_desc, lfirst_int(lc2) - 1)->attname);

		if (get_attnum(stream->sink, new_name) == InvalidAttrNumber ||
			get_attnum(stream->sink, lfirst(lc)) != InvalidAttrNumber)
			sagg_sink_rename_column(stream->sink, lfirst(lc), new_name);
	}
}

/*
 * Check that columns are not dropped by accident: only "drop_columns" drops
 * data.
 */
static void
check_drops(const SaggStream *stream, const SaggQueryChange *change, bool drop_columns)
{
	StringInfoData names;
	ListCell   *lc;

	if (change->removed == NIL || drop_columns)
		return;
	initStringInfo(&names);
	foreach(lc, change->removed)
		appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "", (char *) lfirst(lc));
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg_plural("column %s of sink \"%s\" would be dropped, with all its data",
						   "columns %s of sink \"%s\" would be dropped, with all their data",
						   list_length(change->removed), names.data, get_rel_name(stream->sink)),
			 errdetail("The query does not have them any more. A column of the same expression and another name is renamed."),
			 errhint("Leave them in the query, or use drop_columns => true.")));
}

/*
 * Add and drop columns of the sink as the query does.
 */
static void
change_sink(const SaggStream *stream, const SaggQuery *old, const SaggQuery *query,
			const SaggQueryChange *change, bool drop_columns)
{
	List	   *names = NIL;
	ListCell   *lc;

	if (change->removed != NIL && !stream->sink_created)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of sink \"%s\" is not dropped, because create_stream did not make the table",
						(char *) linitial(change->removed), get_rel_name(stream->sink)),
				 errhint("Leave the column in the query, or create another stream.")));
	if (change->removed != NIL && OidIsValid(sagg_live_view(stream)))
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("column \"%s\" of sink \"%s\" is in the live view",
						(char *) linitial(change->removed), get_rel_name(stream->sink)),
				 errhint("Drop the live view, and create it again afterwards.")));
	check_drops(stream, change, drop_columns);
	rename_columns(stream, query, change);
	foreach(lc, change->removed)
		sagg_sink_drop_column(stream->sink, lfirst(lc));
	foreach(lc, change->added)
	{
		Form_pg_attribute att = TupleDescAttr(query->output_desc, lfirst_int(lc) - 1);

		names = lappend(names, NameStr(att->attname));
		if (stream->sink_created &&
			get_attnum(stream->sink, NameStr(att->attname)) == InvalidAttrNumber)
			sagg_sink_add_column(stream->sink, att);
	}
	sagg_sink_check(stream->sink, query, stream->mode);
	if (change->added != NIL)
		sagg_refresh_live_view(stream, old->output_desc, names);
}

static SaggExecution *
begin_execution(const SaggStream *stream, SaggQuery *query,
				const SaggProgress *progress, const SaggPlan *plan, int64 log_bytes)
{
	return sagg_execution_begin(sagg_store_private(stream->name, log_bytes,
												   query->fingerprint, progress->batch),
								stream, query, plan);
}

/*
 * Convert the state of the old query into one of the new, in the log; runs as
 * the owner.  Rows of its groups get the new columns.
 */
static void
convert_state(const SaggStream *stream, SaggQuery *old, SaggQuery *new,
			  SaggQueryChange *change)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "stream_agg conversion",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext save = MemoryContextSwitchTo(memory);
	SaggCheckpoint *checkpoint = sagg_checkpoint_open(stream->name,
													  sagg_sources_by_topic(stream->sources));
	SaggProgress *progress = sagg_checkpoint_progress(checkpoint);
	SaggPlan	plan = {.batch = progress->batch + 1, .watermark = progress->watermark};
	SaggExecution *from;
	SaggExecution *to;
	int64		bytes;

	if (progress->replace)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("stream \"%s\" was reset, and its results have not been replaced yet",
						sagg_stream_title(stream->name)),
				 errhint("Change its query after its next micro-batch.")));
	if (progress->batch >= 0)
	{
		bytes = sagg_checkpoint_state_bytes(checkpoint, progress);
		from = begin_execution(stream, old, progress, &plan, bytes);
		sagg_checkpoint_restore(checkpoint, progress, sagg_execution_state(from));
		to = begin_execution(stream, new, progress, &plan, 4 * bytes);
		sagg_execution_convert(from, to, change->origins);
		sagg_sink_settle(stream, progress->batch);
		sagg_checkpoint_rewrite(checkpoint, progress, sagg_execution_state(to));
		MemoryContextSwitchTo(save);
		change->filled = sagg_fill_columns(stream, new, change, to, &change->rows_filled);
		MemoryContextSwitchTo(memory);
		sagg_execution_end(to);
		sagg_execution_end(from);
	}
	sagg_checkpoint_close(checkpoint);
	MemoryContextSwitchTo(save);
	MemoryContextDelete(memory);
}

static void
tell_about(const SaggStream *stream, const SaggQuery *query, const SaggQueryChange *change)
{
	sagg_tell_filled_columns(stream, query, change);
	if (change->new_aggregates > 0)
		ereport(NOTICE,
				(errmsg_plural("%d aggregate of stream \"%s\" begins with the next micro-batch",
							   "%d aggregates of stream \"%s\" begin with the next micro-batch",
							   change->new_aggregates,
							   change->new_aggregates, sagg_stream_title(stream->name)),
				 errdetail("In groups that exist already they cover records from now on; the others continue with their state."),
				 errhint("Use stream_agg.reset_stream to compute all of them from records that Kafka still has.")));
}

/*
 * Replace the query of "stream", whose lock is held, by "text".  Aggregates
 * that stay keep their state. "stream" gets the view of the new query.
 * "drop_columns": columns of the sink that it does not have are dropped.
 * Raises feature_not_supported, with the reason, if that is impossible,
 * undefined_table if the sink does not exist, and what create_stream would
 * raise for the query.
 */
void
sagg_change_query(SaggStream *stream, const char *text, bool drop_columns)
{
	char	   *name = get_rel_name(stream->view);
	Oid			namespace = get_rel_namespace(stream->view);
	SaggQuery  *old = sagg_query_of_view(stream);
	SaggStream	next = *stream;
	SaggOwnerContext owner;
	SaggOwnerContext settings;
	SaggQueryChange *change;
	SaggQuery  *new;
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2];

	if (sagg_may_fill_columns(stream, old))
		sagg_lock_micro_batch(stream->view);	/* previews write to the sink,
												 * too */
	lock_sink(stream);
	check_no_dependents(stream);

	/*
	 * pending trigger events belong to the session, and those of the sink are
	 * not deferred
	 */
	if (sagg_may_fill_columns(stream, old) && !sagg_session_is_of(stream->owner))
		sagg_fire_deferred_triggers();

	/* names in the text are looked up in the caller's search_path */
	sagg_become_owner(&owner, stream->owner);
	rename_view(stream->view, ChooseRelationName(name, NULL, "former", namespace, false));
	next.view = sagg_make_query_view(stream->name, get_namespace_name(namespace), name, text,
									 sagg_view_options(stream->view));
	sagg_become_stream_owner(&settings, stream);
	next.sources = NIL;			/* sagg_compare_queries has the better message */
	next.owners = NULL;			/* those of "stream" have just been checked */
	new = sagg_query_of_view(&next);
	next.sources = stream->sources;
	next.owners = stream->owners;
	sagg_check_query(&next, new);
	change = sagg_compare_queries(stream, old, next.view, new);
	change_sink(stream, old, new, change, drop_columns);
	convert_state(stream, old, new, change);
	copy_privileges(stream->view, next.view);
	values[1] = ObjectIdGetDatum(next.view);
	sagg_stream_update(stream, "query = $2", 2, types, values);
	CommandCounterIncrement();
	sagg_drop_relation(stream->view, OBJECT_VIEW);
	sagg_restore_user(&settings);
	sagg_restore_user(&owner);
	tell_about(stream, new, change);
	stream->view = next.view;
	if (stream->enabled && stream->database == MyDatabaseId)
		sagg_start_stream_at_commit(stream);
}
