/*-------------------------------------------------------------------------
 *
 * sink_check.c
 *	  Checks whether a table can take a stream's results.
 *
 * The check runs when a stream is made over a table that exists, and again in
 * every batch: the table belongs to a user, who may change it at any time.
 * The checks of a batch raise ERRCODE_SAGG_DEFINITION_CHANGED, so that the
 * stream stops until somebody fixes the table.
 *
 * Locks: ROW EXCLUSIVE on the sink, which an INSERT takes anyway, kept until
 * the end of the transaction.  This file never changes anything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/catalog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "streams/streams.h"
#include "write_internal.h"

static void
check_kind(const SinkCheck *check)
{
	Relation	rel = check->rel;
	char	   *name = RelationGetRelationName(rel);

	if (check->transactional ?
		(rel->rd_rel->relkind != RELKIND_RELATION &&
		 rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE) :
		rel->rd_rel->relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(SINK_ERRCODE(check, ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be the sink of a stream", name),
				 errdetail_relkind_not_supported(rel->rd_rel->relkind),
				 SINK_ERRHINT(check, "Name a table, or a table that does not exist yet.")));
	if (IsSystemRelation(rel))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("system catalog \"%s\" cannot be the sink of a stream",
						name)));
	sagg_sink_check_schema(RelationGetNamespace(rel), name);
	if (sagg_citus_table(RelationGetRelid(rel)) != NULL)
		ereport(ERROR,
				(SINK_ERRCODE(check, ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" is %s and cannot be the sink of a stream",
						name, sagg_citus_table(RelationGetRelid(rel))),
				 errdetail("A micro-batch commits its results, offsets and state in one local transaction."),
				 SINK_ERRHINT(check, "Name a local table, or a table that does not exist yet.")));
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		ereport(ERROR,
				(SINK_ERRCODE(check, ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("unlogged table \"%s\" cannot be the sink of a stream",
						name),
				 errdetail("A crash of the server would empty it, and the stream would continue where it was."),
				 SINK_ERRHINT(check, "Run ALTER TABLE %s SET LOGGED.",
							  quote_identifier(name))));
	if (rel->rd_rules != NULL)
		ereport(ERROR,
				(SINK_ERRCODE(check, ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" has rules and cannot be the sink of a stream",
						name),
				 SINK_ERRHINT(check, "Use triggers instead of rules.")));
}

/*
 * Check the partitions.  The owner of a partition can have triggers run as the
 * stream's owner, so the stream must trust that owner already.  Rows that are
 * routed to a foreign table leave this server before the commit: a micro-batch
 * that is retried, or only tried, would leave them there.
 */
static void
check_partitions(const SinkCheck *check)
{
	Oid			sink = RelationGetRelid(check->rel);
	ListCell   *lc;

	if (check->rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return;
	foreach(lc, find_all_inheritors(sink, NoLock, NULL))
	{
		Oid			partition = lfirst_oid(lc);
		char	   *name = get_rel_name(partition);
		Oid			owner = sagg_relation_owner(partition);

		if (name != NULL && OidIsValid(owner) && owner != GetUserId() &&
			owner != check->rel->rd_rel->relowner && !superuser_arg(owner))
			ereport(ERROR,
					(SINK_ERRCODE(check, ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("partition \"%s\" of sink \"%s\" belongs to role \"%s\"",
							name, RelationGetRelationName(check->rel),
							GetUserNameFromId(owner, true)),
					 errdetail("Its triggers would run as the stream's owner."),
					 SINK_ERRHINT(check, "Give it to the owner of the sink, or to that of the stream.")));

		if (name != NULL && get_rel_relkind(partition) == RELKIND_FOREIGN_TABLE)
			ereport(ERROR,
					(SINK_ERRCODE(check, ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("partition \"%s\" of sink \"%s\" is a foreign table",
							name, RelationGetRelationName(check->rel)),
					 errdetail("Its server commits apart from this one, so its rows would not be written exactly once."),
					 SINK_ERRHINT(check, "Detach the partition.")));
	}
}

/*
 * Returns the number of a column of the sink by name; 0 when there is none.
 */
static AttrNumber
find_column(Relation rel, const char *name)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att->attnum;
	}
	return InvalidAttrNumber;
}

/*
 * Check that a column of the output has a column of that name in the sink,
 * which accepts its values.
 */
static void
check_output_column(const SinkCheck *check, Form_pg_attribute out)
{
	char	   *name = RelationGetRelationName(check->rel);
	AttrNumber	attno = find_column(check->rel, NameStr(out->attname));
	Form_pg_attribute att;

	if (attno == InvalidAttrNumber)
		ereport(ERROR,
				(SINK_ERRCODE(check, ERRCODE_UNDEFINED_COLUMN),
				 errmsg("sink \"%s\" has no column \"%s\"",
						name, NameStr(out->attname)),
				 errdetail("The query yields a column of that name with type %s.",
						   format_type_with_typemod(out->atttypid, out->atttypmod)),
				 SINK_ERRHINT(check, "Columns of the query go to the sink's columns by name; name the query's column with AS, or add one to the sink.")));

	att = TupleDescAttr(RelationGetDescr(check->rel), attno - 1);
	if (att->attgenerated != '\0' ||
		att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
		ereport(ERROR,
				(SINK_ERRCODE(check, ERRCODE_GENERATED_ALWAYS),
				 errmsg("column \"%s\" of sink \"%s\" is generated and cannot take the query's values",
						NameStr(att->attname), name)));
	if (!can_coerce_type(1, &out->atttypid, &att->atttypid, COERCION_ASSIGNMENT))
		ereport(ERROR,
				(SINK_ERRCODE(check, ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of sink \"%s\" has type %s, but the query yields type %s",
						NameStr(att->attname), name,
						format_type_with_typemod(att->atttypid, att->atttypmod),
						format_type_with_typemod(out->atttypid, out->atttypmod)),
				 SINK_ERRHINT(check, "Cast the query's column to the type of the sink's.")));
}

/*
 * Check that a column that the query does not fill has a default or accepts
 * NULL.
 */
static void
check_other_column(const SinkCheck *check, Form_pg_attribute att)
{
	if (!att->attnotnull || att->atthasdef || att->attidentity != '\0')
		return;
	for (int i = 0; i < check->query->output_desc->natts; i++)
	{
		if (check->columns[i] == att->attnum)
			return;
	}
	ereport(ERROR,
			(SINK_ERRCODE(check, ERRCODE_NOT_NULL_VIOLATION),
			 errmsg("column \"%s\" of sink \"%s\" is NOT NULL and has no default, but the query does not yield it",
					NameStr(att->attname), RelationGetRelationName(check->rel)),
			 SINK_ERRHINT(check, "Give the column a default, or add a column \"%s\" to the query.",
						  NameStr(att->attname))));
}

static void
check_columns(SinkCheck *check)
{
	TupleDesc	output = check->query->output_desc;
	TupleDesc	desc = RelationGetDescr(check->rel);

	check->columns = palloc0(sizeof(AttrNumber) * Max(output->natts, 1));
	for (int i = 0; i < output->natts; i++)
	{
		Form_pg_attribute out = TupleDescAttr(output, i);

		check_output_column(check, out);
		check->columns[i] = find_column(check->rel, NameStr(out->attname));
	}
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped)
			check_other_column(check, att);
	}
}

/*
 * Check the replica identity: rows that are published can be updated and
 * deleted only in a table that has one.  The server's own message says so,
 * also for partitions, of which only those matter that a batch writes to.
 */
static void
check_replica_identity(const SinkCheck *check)
{
	bool		deletes = check->mode == SAGG_COMPLETE || check->query->removed ||
	check->query->replaced;
	List	   *rels = list_make1_oid(RelationGetRelid(check->rel));
	ListCell   *lc;

	if (!check->running)
		rels = find_all_inheritors(RelationGetRelid(check->rel),
								   RowExclusiveLock, NULL);
	foreach(lc, rels)
	{
		Relation	rel = relation_open(lfirst_oid(lc), NoLock);

		CheckCmdReplicaIdentity(rel, CMD_UPDATE);
		if (deletes)
			CheckCmdReplicaIdentity(rel, CMD_DELETE);
		relation_close(rel, NoLock);
	}
	list_free(rels);
}

/*
 * Open and lock a sink, and check that it can take the results of "query".
 *
 * "kind": the kind it must have; a transactional one is a table, otherwise a
 * foreign table. "running": a batch checks, so that errors have code
 * ERRCODE_SAGG_DEFINITION_CHANGED. "columns" returns, palloc'd, the sink's
 * column for each column of the output, "identity", unless NULL, the index that
 * finds a row.  The caller closes the relation and keeps the lock.
 */
Relation
sagg_sink_lock(Oid sink, const SaggQuery *query, SaggOutputMode mode,
			   const SaggSinkKind *kind, bool running, AttrNumber **columns,
			   SinkIdentity *identity)
{
	SinkCheck	check = {.query = query, .mode = mode, .running = running,
	.transactional = (kind->flags & SAGG_SINK_TRANSACTIONAL) != 0};

	check.rel = try_relation_open(sink, RowExclusiveLock);
	if (check.rel == NULL)
		ereport(ERROR,
				(SINK_ERRCODE(&check, ERRCODE_UNDEFINED_TABLE),
				 errmsg("the sink of the stream does not exist"),
				 running ? errdetail("The table was dropped.") : 0,
				 running ? errhint("Drop the stream and create it again.") : 0));
	check_kind(&check);
	check_partitions(&check);
	check_columns(&check);
	if (mode != SAGG_APPEND && check.transactional)
	{
		if (query->missing_key != NULL || (query->nidentity == 0 && !query->single_row))
			elog(ERROR, "output mode %s needs an identity of the rows",
				 sagg_mode_name(mode));
		if (!query->single_row)
			sagg_sink_check_identity(&check);
		check_replica_identity(&check);
	}
	else if (check.transactional && query->missing_key == NULL && query->nidentity > 0)
	{
		if (!running)
			sagg_sink_check_unique_indexes(&check);
		sagg_sink_find_order(&check);
	}
	*columns = check.columns;
	if (identity)
		*identity = check.identity;
	return check.rel;
}

/*
 * Check that the current user has INSERT on a sink of the kind and, where rows
 * are changed, also SELECT, UPDATE and DELETE.  Raises insufficient_privilege.
 */
void
sagg_sink_check_privileges(Oid sink, SaggOutputMode mode, const SaggSinkKind *kind)
{
	bool		adds = mode == SAGG_APPEND || (kind->flags & SAGG_SINK_TAKES_CHANGES) == 0;
	AclMode		needed = adds ? ACL_INSERT : ACL_INSERT | ACL_SELECT | ACL_UPDATE | ACL_DELETE;

	if (pg_class_aclmask(sink, GetUserId(), needed, ACLMASK_ALL) != needed)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for sink \"%s\"", get_rel_name(sink)),
				 adds ?
				 errdetail("The stream's owner needs INSERT on it.") :
				 errdetail("In output mode %s the stream's owner needs SELECT, INSERT, UPDATE and DELETE on it.",
						   sagg_mode_name(mode))));
}

/*
 * Check that an existing relation can be the sink of a stream of the current
 * user, and raise an error that says what is missing if it cannot.  Locks the
 * sink until the end of the transaction, so that it stays unchanged.
 */
void
sagg_sink_check(Oid sink, const SaggQuery *query, SaggOutputMode mode)
{
	const SaggSinkKind *kind = sagg_sink_kind(sink);
	AttrNumber *columns;
	Relation	rel;

	if (get_rel_name(sink) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", sink)));
	sagg_sink_check_privileges(sink, mode, kind);
	rel = sagg_sink_lock(sink, query, mode, kind, false, &columns, NULL);
	relation_close(rel, NoLock);
	pfree(columns);
}
