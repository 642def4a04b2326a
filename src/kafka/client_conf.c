/*-------------------------------------------------------------------------
 *
 * client_conf.c
 *	  librdkafka's configuration from a source's server and user mapping.
 *
 * Options were checked when they were stored, and are looked up in the
 * allow-list again here, because a catalog can be older than the list.
 * Secrets go from the catalog to librdkafka and nowhere else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "properties.h"
#include "kafka_internal.h"

static void
apply_options(rd_kafka_conf_t *conf, List *options, int object,
			  const char *object_name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);
		const SaggOption *option = sagg_option_find(def->defname, object);
		char		reason[256] = "";

		if (option == NULL)
			sagg_option_reject(def->defname, object, object_name);
		if (option->property == NULL)
			continue;
		if (rd_kafka_conf_set(conf, option->property, defGetString(def),
							  reason, sizeof(reason)) == RD_KAFKA_CONF_OK)
			continue;
		if (option->flags & SAGG_OPT_SECRET)
			reason[0] = '\0';
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\" of a %s",
						def->defname, object_name),
				 reason[0] ? errdetail("librdkafka reports: %s.", reason) : 0));
	}
}

static void
require_brokers(ForeignServer *server)
{
	ListCell   *lc;

	foreach(lc, server->options)
	{
		if (strcmp(lfirst_node(DefElem, lc)->defname, "brokers") == 0)
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
			 errmsg("server \"%s\" has no option \"brokers\"", server->servername),
			 errhint("Use ALTER SERVER %s OPTIONS (ADD brokers 'host:9092').",
					 quote_identifier(server->servername))));
}

/*
 * Returns a client's configuration from the options of the source's server and
 * of the current user's mapping.  Reads catalogs.  The caller owns the result,
 * and gives it to rd_kafka_new or rd_kafka_conf_destroy.  Raises
 * fdw_option_name_not_found and fdw_invalid_attribute_value.
 */
rd_kafka_conf_t *
sagg_client_conf(Oid source)
{
	ForeignServer *server = GetForeignServer(GetForeignServerIdByRelId(source));
	rd_kafka_conf_t *conf;

	require_brokers(server);
	conf = rd_kafka_conf_new();
	/* librdkafka's own default is GSSAPI, which runs a program */
	(void) rd_kafka_conf_set(conf, "sasl.mechanisms", "PLAIN", NULL, 0);
	PG_TRY();
	{
		apply_options(conf, server->options, SAGG_OPT_SERVER, "server");
		apply_options(conf, sagg_mapping_options(server->serverid, GetUserId()), SAGG_OPT_MAPPING, "user mapping");
	}
	PG_CATCH();
	{
		rd_kafka_conf_destroy(conf);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return conf;
}
