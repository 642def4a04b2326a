/*-------------------------------------------------------------------------
 *
 * sink_alter.c
 *	  Changes the columns of a sink, when those of the query change.
 *
 * It runs the server's own commands, as the current user, in the caller's
 * transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "streams/streams.h"
#include "write_internal.h"

static void
alter_table(Oid sink, AlterTableCmd *cmd)
{
	AlterTableStmt *stmt = makeNode(AlterTableStmt);
	char	   *name = get_rel_name(sink);
	char	   *schema = get_namespace_name(get_rel_namespace(sink));

	if (name == NULL || schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", sink)));
	stmt->relation = makeRangeVar(schema, name, -1);
	stmt->cmds = list_make1(cmd);
	stmt->objtype = OBJECT_TABLE;
	sagg_run_utility((Node *) stmt,
					 psprintf("ALTER TABLE %s",
							  quote_qualified_identifier(schema, name)),
					 -1, 0);
}

/*
 * Add a column like "att" to a sink, which has none of that name.
 */
void
sagg_sink_add_column(Oid sink, Form_pg_attribute att)
{
	AlterTableCmd *cmd = makeNode(AlterTableCmd);

	cmd->subtype = AT_AddColumn;
	cmd->def = (Node *) makeColumnDef(NameStr(att->attname), att->atttypid,
									  att->atttypmod, att->attcollation);
	alter_table(sink, cmd);
}

/*
 * Rename a column of a sink.
 */
void
sagg_sink_rename_column(Oid sink, const char *name, const char *new_name)
{
	RenameStmt *stmt = makeNode(RenameStmt);

	stmt->renameType = OBJECT_COLUMN;
	stmt->relationType = OBJECT_TABLE;
	stmt->relation = makeRangeVar(get_namespace_name(get_rel_namespace(sink)),
								  get_rel_name(sink), -1);
	stmt->subname = pstrdup(name);
	stmt->newname = pstrdup(new_name);
	stmt->behavior = DROP_RESTRICT;
	sagg_run_utility((Node *) stmt, "ALTER TABLE", -1, 0);
}

/*
 * Drop a column of a sink, unless something depends on it.
 */
void
sagg_sink_drop_column(Oid sink, const char *name)
{
	AlterTableCmd *cmd = makeNode(AlterTableCmd);

	cmd->subtype = AT_DropColumn;
	cmd->name = pstrdup(name);
	cmd->behavior = DROP_RESTRICT;
	alter_table(sink, cmd);
}
