/*-------------------------------------------------------------------------
 *
 * kafka_source.c
 *	  The source kind kafka, and its foreign-data wrapper stream_agg_kafka:
 *	  handler and validator.
 *
 * The validator sees every option before it is stored and rejects what is not
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

#include "kafka.h"
#include "kafka_internal.h"
#include "properties.h"

PG_FUNCTION_INFO_V1(stream_agg_kafka_handler);
PG_FUNCTION_INFO_V1(stream_agg_kafka_validator);

const SaggSourceKind sagg_kafka_source = {
	.api_version = SAGG_SOURCE_API_VERSION,
	.name = "kafka",
	.title = "Kafka",
	.wrapper = "stream_agg_kafka",
	.flags = SAGG_SOURCE_OF_BROKERS,
	.topics = sagg_kafka_topics,
	.topic_option = "topic",
	.topics_option = "topics or topic_pattern",
	.is_table_option = sagg_option_of_table,
	.check_option_name = sagg_option_check_name,
	.group_allowed = sagg_kafka_group_allowed,
	.group_check = sagg_kafka_group_check,
	.reader_size = sizeof(SaggKafkaReader),
	.open = sagg_kafka_open,
	.close = sagg_kafka_close,
	.event_fd = sagg_kafka_fd,
	.identity = sagg_kafka_cluster_id,
	.bounds = sagg_kafka_bounds,
	.offsets_at = sagg_kafka_offsets_at,
	.partitions_changed = sagg_kafka_partitions_changed,
	.assign = sagg_kafka_assign,
	.has_records = sagg_kafka_has_records,
	.rest = sagg_kafka_rest,
	.begin = sagg_kafka_begin,
	.gap_end = sagg_kafka_gap_end,
	.collect = sagg_kafka_collect,
	.collect_ahead = sagg_kafka_collect_ahead,
	.hears = sagg_kafka_hears,
	.release = sagg_kafka_release,
	.trouble = sagg_kafka_trouble,
	.in_trouble = sagg_kafka_in_trouble,
	.silence = sagg_kafka_silence,
	.last_record = sagg_kafka_last_record,
	.was_broken = sagg_kafka_was_broken,
	.suspects = sagg_kafka_suspects,
	.verify = sagg_kafka_verify,
	.losses = sagg_kafka_losses,
	.set_group = sagg_kafka_set_group,
	.commit = sagg_kafka_commit,
	.tend_group = sagg_kafka_tend_group,
	.producer = &sagg_kafka_producer
};

/*
 * kafka_handler() RETURNS fdw_handler
 */
Datum
stream_agg_kafka_handler(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(sagg_source_routine(&sagg_kafka_source));
}

/*
 * Returns the kind of object that the options of a catalog belong to.
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
			sagg_option_reject(def->defname, object, object_name);
		value = defGetString(def);
		if (option->property == NULL)
			sagg_check_source_option(def->defname, value);
		else
			sagg_option_check_value(option, value);
	}
	if (object == SAGG_OPT_TABLE)
		sagg_topics_check(options);
	sagg_source_options_fit(PG_GETARG_OID(1), options);
	PG_RETURN_VOID();
}
