/*-------------------------------------------------------------------------
 *
 * fdw.c
 *	  The foreign-data wrapper stream_agg_kafka: handler and validator.
 *
 * The validator sees every option before it is stored and refuses what is not
 * on the allow-list (properties.c).  Neither contacts Kafka.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"

#include "insert_internal.h"
#include "read/properties.h"
#include "read_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_kafka_handler);
PG_FUNCTION_INFO_V1(stream_agg_kafka_validator);

/*
 * kafka_handler() RETURNS fdw_handler
 */
Datum
stream_agg_kafka_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = sagg_get_rel_size;
	routine->GetForeignPaths = sagg_get_paths;
	routine->GetForeignPlan = sagg_get_plan;
	routine->BeginForeignScan = sagg_begin_scan;
	routine->IterateForeignScan = sagg_iterate_scan;
	routine->ReScanForeignScan = sagg_rescan;
	routine->EndForeignScan = sagg_end_scan;
	routine->ExplainForeignScan = sagg_explain_scan;
	routine->PlanForeignModify = sagg_plan_modify;
	routine->BeginForeignModify = sagg_begin_modify;
	routine->BeginForeignInsert = sagg_begin_insert;
	routine->ExecForeignInsert = sagg_exec_insert;
	routine->EndForeignModify = sagg_end_insert;
	routine->EndForeignInsert = sagg_end_insert;
	routine->IsForeignRelUpdatable = sagg_is_updatable;
	routine->ExplainForeignModify = sagg_explain_modify;
	PG_RETURN_POINTER(routine);
}

/*
 * Kind of object that options of a catalog belong to.
 */
static int
option_object(Oid catalog, const char **name)
{
	switch (catalog)
	{
		case ForeignServerRelationId:
			*name = "server";
			return SAGG_OPT_SERVER;
		case UserMappingRelationId:
			*name = "user mapping";
			return SAGG_OPT_MAPPING;
		case ForeignTableRelationId:
			*name = "source";
			return SAGG_OPT_TABLE;
		case AttributeRelationId:
			*name = "column of a source";
			return SAGG_OPT_COLUMN;
		default:
			*name = "foreign-data wrapper";
			return 0;
	}
}

static void
check_not_empty(const char *name, const char *value)
{
	if (value[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" must not be empty", name)));
}

/*
 * Options that are ours and not librdkafka's.
 */
static void
check_own_value(const char *name, const char *value)
{
	SaggFieldKind kind;

	check_not_empty(name, value);
	if (strcmp(name, "format") == 0 && strcmp(value, "json") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("unknown format \"%s\"", value),
				 errhint("The format of records is json.")));
	if (strcmp(name, "metadata") == 0 && !sagg_metadata_kind(value, &kind))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("unknown metadata \"%s\"", value),
				 errhint("Metadata of a record are topic, partition, offset, key, timestamp and headers.")));
}

/*
 * kafka_validator(options text[], catalog oid) RETURNS void
 *
 * Raises fdw_invalid_option_name, fdw_invalid_attribute_value,
 * fdw_option_name_not_found, invalid_regular_expression and
 * insufficient_privilege.
 */
Datum
stream_agg_kafka_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	const char *object_name;
	int			object = option_object(PG_GETARG_OID(1), &object_name);
	bool		field = false;
	bool		metadata = false;
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);
		const SaggOption *option = sagg_option_find(def->defname, object);
		char	   *value;

		if (option == NULL)
			sagg_option_refuse(def->defname, object, object_name);
		value = defGetString(def);
		if (option->property == NULL)
			check_own_value(def->defname, value);
		else
			sagg_option_check_value(option, value);
		field |= strcmp(def->defname, "field") == 0;
		metadata |= strcmp(def->defname, "metadata") == 0;
	}
	if (field && metadata)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("a column cannot have both options \"field\" and \"metadata\"")));
	if (object == SAGG_OPT_TABLE)
		sagg_topics_check(options);
	PG_RETURN_VOID();
}
