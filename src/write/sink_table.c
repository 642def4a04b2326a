/*-------------------------------------------------------------------------
 *
 * sink_table.c
 *	  Sinks that are tables: their rows are part of the transaction, and SQL
 *	  writes them (sink_write.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "utils/lsyscache.h"

#include "write_internal.h"

static bool
is_table(Oid relid)
{
	char		relkind = get_rel_relkind(relid);

	return relkind == RELKIND_RELATION || relkind == RELKIND_PARTITIONED_TABLE;
}

const SaggSinkKind sagg_table_sink = {
	.api_version = SAGG_SINK_API_VERSION,
	.name = "table",
	.flags = SAGG_SINK_EXACTLY_ONCE | SAGG_SINK_TAKES_CHANGES | SAGG_SINK_TRANSACTIONAL,
	.title = "a table",
	.noun = "table",
	.rows = "rows of a table",
	.is_it = is_table
};
