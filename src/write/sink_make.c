/*-------------------------------------------------------------------------
 *
 * sink_make.c
 *	  Makes the table that a stream's results go to.
 *
 * It is an ordinary table of the current user: made by the server's own
 * commands, with that user's privileges, in the caller's transaction.  Its
 * columns are those of the query by name, type, typmod and collation.
 *
 * Where the rows of a result have an identity (window and keys) that the
 * table holds completely, a unique index with NULLS NOT DISTINCT guards it:
 * GROUP BY makes one group of all nulls, and so does that index.  Of a window that
 * is a range it has the lower bound, of a session both: these are compared much
 * faster, and serve conditions on the time.  In modes update and complete the index
 * also finds the row to replace.
 *
 * This file never looks at or changes a table that exists already.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/catalog.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "streams/streams.h"
#include "write_internal.h"

/*
 * Rows of mode update or complete are replaced again and again: leave room for
 * the next version on the page, and vacuum early.
 */
#define UPDATE_FILLFACTOR			70
#define UPDATE_VACUUM_THRESHOLD		1000
#define UPDATE_VACUUM_SCALE_FACTOR	"0.02"

/*
 * Reject a schema that no sink may be in: a temporary one, or one that belongs
 * to the server or to the extension.  "relname" is for messages.
 */
void
sagg_sink_check_schema(Oid namespaceId, const char *relname)
{
	char	   *schema = get_namespace_name(namespaceId);

	if (isAnyTempNamespace(namespaceId))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("sink \"%s\" cannot be a temporary table", relname),
				 errdetail("A stream is run by a background worker, which does not see the temporary tables of other sessions.")));
	if (IsCatalogNamespace(namespaceId) || IsToastNamespace(namespaceId) ||
		schema == NULL || strcmp(schema, SAGG_SCHEMA) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("sink \"%s\" cannot be in schema \"%s\"",
						relname, schema ? schema : "?"),
				 errhint("Choose a schema of your own for the sink.")));
}

static void
make_table(RangeVar *relation, const SaggQuery *query, SaggOutputMode mode,
		   const char *text)
{
	CreateStmt *stmt = makeNode(CreateStmt);
	TupleDesc	desc = query->output_desc;

	stmt->relation = copyObject(relation);
	stmt->oncommit = ONCOMMIT_NOOP;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		stmt->tableElts = lappend(stmt->tableElts,
								  makeColumnDef(NameStr(att->attname),
												att->atttypid, att->atttypmod,
												att->attcollation));
	}
	if (mode != SAGG_APPEND)
		stmt->options =
			list_make3(makeDefElem("fillfactor",
								   (Node *) makeInteger(UPDATE_FILLFACTOR), -1),
					   makeDefElem("autovacuum_vacuum_threshold",
								   (Node *) makeInteger(UPDATE_VACUUM_THRESHOLD), -1),
					   makeDefElem("autovacuum_vacuum_scale_factor",
								   (Node *) makeFloat(pstrdup(UPDATE_VACUUM_SCALE_FACTOR)), -1));
	sagg_run_utility((Node *) stmt, text, -1, 0);
}

/*
 * Check that a unique index, which compares with the default equality of
 * each column's type, compares as GROUP BY does.
 */
static void
check_identity_types(const SaggQuery *query, const char *relname)
{
	for (int i = 0; i < query->nidentity; i++)
	{
		Form_pg_attribute att = TupleDescAttr(query->output_desc,
											  query->identity[i] - 1);

		if (!OidIsValid(GetDefaultOpClass(att->atttypid, BTREE_AM_OID)))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("key column \"%s\" of sink \"%s\" has type %s, which has no default btree operator class",
							NameStr(att->attname), relname,
							format_type_be(att->atttypid)),
					 errdetail("Rows of the sink are identified by a unique index over the query's window and keys."),
					 errhint("Cast the key to a type that can be sorted, such as text.")));
	}
}

/*
 * Returns a column of an index: a column of the table, or a function of it.
 */
static IndexElem *
index_element(const char *function, const char *column)
{
	IndexElem  *elem = makeNode(IndexElem);

	if (function)
	{
		ColumnRef  *ref = makeNode(ColumnRef);

		ref->fields = list_make1(makeString(pstrdup(column)));
		ref->location = -1;
		elem->expr = (Node *) makeFuncCall(list_make2(makeString("pg_catalog"),
													  makeString(pstrdup(function))),
										   list_make1(ref), COERCE_EXPLICIT_CALL, -1);
	}
	else
		elem->name = pstrdup(column);
	elem->ordering = SORTBY_DEFAULT;
	elem->nulls_ordering = SORTBY_NULLS_DEFAULT;
	return elem;
}

static void
make_identity_index(RangeVar *relation, const SaggQuery *query,
					const char *text)
{
	IndexStmt  *stmt = makeNode(IndexStmt);
	bool		range = sagg_sink_window_is_range(query);

	stmt->relation = copyObject(relation);
	stmt->accessMethod = DEFAULT_INDEX_TYPE;
	stmt->unique = true;
	stmt->nulls_not_distinct = true;
	for (int i = 0; i < query->nidentity; i++)
	{
		Form_pg_attribute att = TupleDescAttr(query->output_desc,
											  query->identity[i] - 1);
		char	   *name = NameStr(att->attname);
		bool		window = range && att->attnum == query->window_output;

		stmt->indexParams = lappend(stmt->indexParams,
									index_element(window ? "lower" : NULL, name));
		if (window && query->window.kind == SAGG_WINDOW_SESSION)
			stmt->indexParams = lappend(stmt->indexParams, index_element("upper", name));
	}
	sagg_run_utility((Node *) stmt, text, -1, 0);
}

/*
 * Set the replica identity.  Logical replication of updates and deletes needs
 * a row's identity; the unique index cannot be it, as its columns may be null.
 * In mode append only the user updates or deletes rows, so it is left to the
 * user.
 */
static void
set_replica_identity(RangeVar *relation, const char *text)
{
	AlterTableStmt *stmt = makeNode(AlterTableStmt);
	AlterTableCmd *cmd = makeNode(AlterTableCmd);
	ReplicaIdentityStmt *identity = makeNode(ReplicaIdentityStmt);

	identity->identity_type = REPLICA_IDENTITY_FULL;
	cmd->subtype = AT_ReplicaIdentity;
	cmd->def = (Node *) identity;
	stmt->relation = copyObject(relation);
	stmt->cmds = list_make1(cmd);
	stmt->objtype = OBJECT_TABLE;
	sagg_run_utility((Node *) stmt, text, -1, 0);
}

static void
comment_on_table(RangeVar *relation, const char *text)
{
	CommentStmt *stmt = makeNode(CommentStmt);

	stmt->objtype = OBJECT_TABLE;
	stmt->object = (Node *) list_make2(makeString(pstrdup(relation->schemaname)),
									   makeString(pstrdup(relation->relname)));
	stmt->comment = psprintf("results of stream \"%s\"", relation->relname);
	sagg_run_utility((Node *) stmt, text, -1, 0);
}

/*
 * Make the sink of a stream named "relname", as the current user, and return
 * its OID.
 *
 * Raises what CREATE TABLE raises (duplicate_table, insufficient_privilege,
 * ...), and undefined_function when a key cannot be part of a unique index.
 * Except in mode append, the query must have an identity, or a single row; the
 * caller has checked that.
 */
Oid
sagg_sink_make(Oid namespaceId, const char *relname, const SaggQuery *query,
			   SaggOutputMode mode)
{
	bool		identified;
	RangeVar   *relation;
	char	   *text;
	Oid			sink;

	sagg_sink_check_schema(namespaceId, relname);
	identified = query->missing_key == NULL && query->nidentity > 0;
	if (mode != SAGG_APPEND && !identified && !query->single_row)
		elog(ERROR, "output mode %s needs an identity of the rows",
			 sagg_mode_name(mode));

	relation = makeRangeVar(get_namespace_name(namespaceId), pstrdup(relname), -1);
	text = psprintf("CREATE TABLE %s",
					quote_qualified_identifier(relation->schemaname,
											   relation->relname));
	if (identified)
		check_identity_types(query, relname);
	make_table(relation, query, mode, text);
	if (identified)
		make_identity_index(relation, query, text);
	set_replica_identity(relation, text);
	comment_on_table(relation, text);

	sink = get_relname_relid(relname, namespaceId);
	if (!OidIsValid(sink))
		elog(ERROR, "table \"%s\" was dropped as soon as it was created", relname);
	return sink;
}
