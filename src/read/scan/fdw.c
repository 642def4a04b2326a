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
#include "kafka/properties.h"
#include "read/read_internal.h"

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
			sagg_check_source_option(def->defname, value);
		else
			sagg_option_check_value(option, value);
	}
	if (object == SAGG_OPT_COLUMN)
		sagg_check_column_options(options);
	if (object == SAGG_OPT_TABLE)
	{
		sagg_topics_check(options);
		sagg_check_source_options(options);
	}
	PG_RETURN_VOID();
}
