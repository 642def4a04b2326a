/*-------------------------------------------------------------------------
 *
 * source_def.c
 *	  create_source and drop_source: Kafka topics as a foreign table.
 *
 * Both run DDL of the server, as the caller.  Nothing here contacts Kafka.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "define_internal.h"
#include "read/read.h"
#include "streams/streams.h"

PG_FUNCTION_INFO_V1(stream_agg_create_source);
PG_FUNCTION_INFO_V1(stream_agg_drop_source);

/*
 * Returns a text argument that may be NULL.
 */
char *
sagg_text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/*
 * Returns a text argument that must have a value; "name" is for the message.
 */
char *
sagg_required_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	char	   *value = sagg_text_argument(fcinfo, n);

	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", name),
				 strcmp(name, "columns") == 0 ?
				 errhint("Give columns => 'ts timestamptz, user_id bigint'. stream_agg.describe_topic finds the columns of a topic.") : 0));
	if (value[strspn(value, " \t\n\r")] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", name)));
	return value;
}

/*
 * Split options that are in one argument into those for the server and those
 * for the source.
 */
static void
split_options(FunctionCallInfo fcinfo, List **for_server, List **for_source)
{
	const SaggSourceKind *kind = sagg_source_kind_of_brokers();
	List	   *options = PG_ARGISNULL(6) ? NIL :
	sagg_options_from_json(PG_GETARG_JSONB_P(6), false);
	ListCell   *lc;

	*for_server = *for_source = NIL;
	foreach(lc, options)
	{
		const char *name = lfirst_node(DefElem, lc)->defname;
		List	  **list = kind->is_table_option(name) ? for_source : for_server;

		kind->check_option_name(name);
		*list = lappend(*list, lfirst(lc));
	}
}

/*
 * Returns the name of the server to use, made from the brokers and options if
 * necessary.
 */
static char *
settle_server(FunctionCallInfo fcinfo, List *options)
{
	char	   *brokers = sagg_text_argument(fcinfo, 3);
	char	   *server = sagg_text_argument(fcinfo, 4);

	if ((brokers == NULL) == (server == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 brokers ? errmsg("brokers and server cannot be given both") :
				 errmsg("either brokers or server must be given"),
				 errhint("Give brokers => 'host:9092', or server => the name of a foreign server of %s.",
						 sagg_source_kind_of_brokers()->wrapper)));
	if (brokers)
		return sagg_server_of_brokers(sagg_required_argument(fcinfo, 3, "brokers"), options);
	if (options != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" cannot be given together with server",
						linitial_node(DefElem, options)->defname),
				 errdetail("It is an option of the server."),
				 errhint("Use ALTER SERVER %s OPTIONS.", quote_identifier(server))));
	sagg_check_server_of_brokers(server);
	return server;
}

static DefElem *
text_option(const char *name, char *value)
{
	return makeDefElem(pstrdup(name), (Node *) makeString(value), -1);
}

/*
 * Returns an array of topics as the option "topics" has them; the validator
 * checks their names.
 */
static char *
join_topics(ArrayType *array)
{
	StringInfoData list;
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	initStringInfo(&list);
	for (int i = 0; i < n; i++)
	{
		char	   *name = nulls[i] ? NULL : TextDatumGetCString(elements[i]);

		if (name == NULL || strchr(name, ',') != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 name ? errmsg("\"%s\" cannot be the name of a topic", name) :
					 errmsg("topics must not contain NULL")));
		appendStringInfo(&list, "%s%s", i > 0 ? "," : "", name);
	}
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topics must not be empty")));
	return list.data;
}

/*
 * Returns the option that says which topics the source has.
 */
static DefElem *
topic_option(FunctionCallInfo fcinfo)
{
	int			given = !PG_ARGISNULL(1) + !PG_ARGISNULL(8) + !PG_ARGISNULL(9);

	if (given != 1)
		ereport(ERROR,
				(errcode(given == 0 ? ERRCODE_NULL_VALUE_NOT_ALLOWED :
						 ERRCODE_INVALID_PARAMETER_VALUE),
				 given == 0 ?
				 errmsg("one of topic, topics and topic_pattern must be given") :
				 errmsg("only one of topic, topics and topic_pattern can be given"),
				 errhint("Give topic => 'clicks', topics => ARRAY['web', 'app'] or topic_pattern => '^clicks-'.")));
	if (!PG_ARGISNULL(8))
		return text_option("topics", join_topics(PG_GETARG_ARRAYTYPE_P(8)));
	if (!PG_ARGISNULL(9))
		return text_option("topic_pattern",
						   sagg_required_argument(fcinfo, 9, "topic_pattern"));
	return text_option("topic", sagg_required_argument(fcinfo, 1, "topic"));
}

/*
 * Returns the relation of this name where CREATE would put it; InvalidOid if
 * there is none.
 */
static Oid
already_there(RangeVar *name)
{
	return get_relname_relid(name->relname, RangeVarGetCreationNamespace(name));
}

/*
 * Check a source that exists already, if IF NOT EXISTS was given: it must be
 * what the user would have made.  The owner of another source can make it
 * return any records; membership in the owner does not help, because others
 * can have granted that to the user.
 */
static void
check_existing(Oid relid, const char *name)
{
	Oid			owner = sagg_relation_owner(relid);

	if (!sagg_is_source(relid))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists", name),
				 errdetail("It is not a source."),
				 errhint("Choose another name for the source.")));
	if (owner != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("source \"%s\" already exists", name),
				 OidIsValid(owner) ?
				 errdetail("It belongs to role \"%s\".", GetUserNameFromId(owner, false)) : 0,
				 errhint("Choose another name for the source, or leave the call out if that source is meant.")));
	ereport(NOTICE,
			(errcode(ERRCODE_DUPLICATE_TABLE),
			 errmsg("source \"%s\" already exists, skipping", name)));
}

/*
 * create_source(source, topic, columns, brokers, server, format, options,
 * if_not_exists, topics, topic_pattern): see doc/sources.md.  Returns the foreign table.
 */
Datum
stream_agg_create_source(PG_FUNCTION_ARGS)
{
	RangeVar   *name = sagg_parse_name(sagg_required_argument(fcinfo, 0, "source"), "source");
	DefElem    *topic = topic_option(fcinfo);
	char	   *columns = sagg_required_argument(fcinfo, 2, "columns");
	char	   *format = sagg_required_argument(fcinfo, 5, "format");
	bool		if_not_exists = !PG_ARGISNULL(7) && PG_GETARG_BOOL(7);
	CreateForeignTableStmt *stmt = makeNode(CreateForeignTableStmt);
	ErrorContextCallback callback;
	List	   *for_server;
	List	   *for_source;
	char	   *text;
	Oid			relid = already_there(name);

	PreventCommandIfParallelMode("stream_agg.create_source()");
	if (if_not_exists && OidIsValid(relid))
	{
		check_existing(relid, name->relname);
		PG_RETURN_OID(relid);
	}

	stmt->base.type = T_CreateForeignTableStmt;
	stmt->base.relation = name;
	stmt->base.tableElts = sagg_parse_columns(columns, sagg_format_has_names(format),
											  sagg_format_any_case(format), &text);
	stmt->base.oncommit = ONCOMMIT_NOOP;
	split_options(fcinfo, &for_server, &for_source);
	stmt->servername = settle_server(fcinfo, for_server);
	stmt->options = list_concat(list_make2(topic, text_option("format", format)),
								for_source);
	sagg_text_errors_begin(&callback, text);
	sagg_run_utility((Node *) stmt, text, -1, 0);
	sagg_text_errors_end(&callback);
	relid = already_there(name);
	sagg_source_check(relid);
	PG_RETURN_OID(relid);
}

/*
 * drop_source(source, if_exists)
 */
Datum
stream_agg_drop_source(PG_FUNCTION_ARGS)
{
	RangeVar   *name = sagg_parse_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), "source");
	bool		if_exists = PG_GETARG_BOOL(1);
	Oid			relid = RangeVarGetRelid(name, NoLock, if_exists);
	SaggStream *stream;

	PreventCommandIfParallelMode("stream_agg.drop_source()");
	if (!OidIsValid(relid))
	{
		ereport(NOTICE,
				(errmsg("source \"%s\" does not exist, skipping", name->relname)));
		PG_RETURN_VOID();
	}
	if (!sagg_is_source(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a source", name->relname)));
	if (!SAGG_OWNS_RELATION(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_FOREIGN_TABLE, name->relname);
	stream = sagg_stream_of_source(relid);
	if (stream)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop source \"%s\" because stream \"%s\" reads it",
						name->relname, sagg_stream_title(stream->name)),
				 errhint("Drop the stream first, with stream_agg.drop_stream(%s).",
						 quote_literal_cstr(stream->name))));
	sagg_drop_relation(relid, OBJECT_FOREIGN_TABLE);
	PG_RETURN_VOID();
}
