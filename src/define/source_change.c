/*-------------------------------------------------------------------------
 *
 * source_change.c
 *	  ALTER FOREIGN TABLE of a source that running streams read: a notice names
 *	  them.
 *
 * Options of a source and of its columns say what a record means.  A stream
 * uses the new ones from its next micro-batch on, and its state and sink keep
 * what the old ones made.  Options that say what is read are handled by the
 * worker, which restarts.
 *
 * Nothing is rejected here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "streams/streams.h"
#include "define_internal.h"

/* started streams of this database that read $1 */
#define STREAMS_OF_SOURCE \
	"SELECT pg_catalog.quote_ident(s.stream), c.relowner" \
	"  FROM stream_agg.streams s JOIN pg_catalog.pg_class c ON c.oid = s.query" \
	" WHERE s.enabled AND s.database = $2 AND (s.source = $1 OR $1 = ANY (s.other_sources))" \
	" ORDER BY s.stream"

static bool
changes_format(const AlterTableCmd *cmd)
{
	ListCell   *lc;

	if (cmd->subtype == AT_AlterColumnGenericOptions)
		return true;
	if (cmd->subtype != AT_GenericOptions)
		return false;
	foreach(lc, (List *) cmd->def)
	{
		const char *name = lfirst_node(DefElem, lc)->defname;

		/*
		 * options about what is read, and about bad records in queries, do
		 * not count
		 */
		if (strncmp(name, "topic", 5) != 0 && strcmp(name, "on_error") != 0)
			return true;
	}
	return false;
}

/*
 * Returns the names in rows of STREAMS_OF_SOURCE that SPI has returned, as a list in a
 * text.  Streams whose names the current user may not see are counted.
 */
static char *
list_streams(void)
{
	StringInfoData names;
	int			others = 0;

	initStringInfo(&names);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		if (!sagg_may_see_streams(DatumGetObjectId(SPI_getbinval(row, desc, 2, &isnull))))
			others++;
		else
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", SPI_getvalue(row, desc, 1));
	}
	if (others > 0)
		appendStringInfo(&names, "%s%d of other roles", names.len > 0 ? ", " : "", others);
	return names.data;
}

/*
 * A command on a table has ended: if it changes what records of a source mean,
 * report which streams that concerns.  Connected to SPI.
 */
void
sagg_tell_source_change(const Node *command)
{
	const AlterTableStmt *stmt = (const AlterTableStmt *) command;
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2];
	bool		changes = false;
	SaggOwnerContext owner;
	ListCell   *lc;
	Oid			relid;

	if (!IsA(command, AlterTableStmt))
		return;
	foreach(lc, stmt->cmds)
		changes |= changes_format(lfirst_node(AlterTableCmd, lc));
	if (!changes)
		return;
	relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	values[0] = ObjectIdGetDatum(relid);
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	sagg_become_extension_owner(&owner);
	if (SPI_execute_with_args(STREAMS_OF_SOURCE, 2, types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for streams of a source");
	sagg_restore_user(&owner);
	if (SPI_processed == 0)
		return;
	ereport(NOTICE,
			(errmsg("streams that read \"%s\" use its new options from their next micro-batch on: %s",
					get_rel_name(relid), list_streams()),
			 errdetail("Their state and their sinks are not changed."),
			 errhint("Use stream_agg.reset_stream(stream, results => true) to compute it again.")));
}
