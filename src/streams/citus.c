/*-------------------------------------------------------------------------
 *
 * citus.c
 *	  What stream_agg has to know about Citus, if it is in the same database.
 *
 * A micro-batch is one local transaction over local tables.  Citus would plan
 * statements over its own tables for other nodes, and repeat commands that
 * define objects there.  Nothing here needs Citus: its objects are looked up
 * by name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "nodes/pg_list.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "stream_agg.h"
#include "streams.h"

#define DDL_PROPAGATION		"citus.enable_ddl_propagation"

/*
 * Returns whether Citus' catalog of tables has a row for this one.
 */
static bool
in_catalog(Oid relation)
{
	Oid			catalog = get_relname_relid("pg_dist_partition", PG_CATALOG_NAMESPACE);
	AttrNumber	column;
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	if (!OidIsValid(catalog))
		return false;
	column = get_attnum(catalog, "logicalrelid");
	if (column == InvalidAttrNumber)
		return false;
	rel = table_open(catalog, AccessShareLock);
	ScanKeyInit(&key, column, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * Returns whether this table is a shard that Citus has placed here.
 */
static bool
is_shard(Oid relation)
{
	Oid			regclass = REGCLASSOID;
	Oid			function = LookupFuncName(list_make2(makeString("pg_catalog"),
													 makeString("relation_is_a_known_shard")),
										  1, &regclass, true);

	return OidIsValid(function) && get_func_rettype(function) == BOOLOID &&
		DatumGetBool(OidFunctionCall1(function, ObjectIdGetDatum(relation)));
}

/*
 * Returns what a table is to Citus, as a noun for a message: NULL if nothing.
 */
const char *
sagg_citus_table(Oid relation)
{
	if (in_catalog(relation))
		return "a table of Citus";
	if (is_shard(relation))
		return "a shard of Citus";
	return NULL;
}

/*
 * Make commands that define objects run only on this node, until
 * AtEOXact_GUC(true, "nest level"), which is returned.
 */
int
sagg_citus_define_locally(void)
{
	int			nest = NewGUCNestLevel();

	if (GetConfigOption(DDL_PROPAGATION, true, false) != NULL)
		(void) set_config_option(DDL_PROPAGATION, "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nest;
}
