/*-------------------------------------------------------------------------
 *
 * live_view.c
 *	  create_live_view: a stream's whole result, closed windows and open ones.
 *
 * The view is an ordinary one, over the sink and open_windows.  It belongs to
 * the stream's owner and goes with the stream, for without the stream it could
 * not be read.  It is found by its name, <sink>_live, and by what it is made
 * of; there is no row of it in the catalog.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "define_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_create_live_view);

/* does the rule of view $1 use open_windows, and belongs the view to role $2? */
#define IS_LIVE_VIEW \
	"SELECT FROM pg_catalog.pg_class c" \
	"  JOIN pg_catalog.pg_rewrite r ON r.ev_class = c.oid" \
	"  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid" \
	" WHERE c.oid = $1 AND c.relkind = 'v' AND c.relowner = $2" \
	"   AND d.refclassid = 'pg_catalog.pg_proc'::regclass" \
	"   AND d.refobjid = 'stream_agg.open_windows(anyelement)'::regprocedure"

static char *
live_view_name(Oid sink)
{
	char	   *name = get_rel_name(sink);

	return name ? makeObjectName(name, NULL, "live") : NULL;
}

static bool
is_live_view(Oid relid, Oid owner)
{
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2] = {ObjectIdGetDatum(relid), ObjectIdGetDatum(owner)};
	SaggOwnerContext save;
	bool		found;

	SPI_connect();
	sagg_become_extension_owner(&save);
	if (SPI_execute_with_args(IS_LIVE_VIEW, 2, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for a live view");
	found = SPI_processed > 0;
	sagg_restore_user(&save);
	SPI_finish();
	return found;
}

/*
 * The live view of a stream, or InvalidOid.
 */
Oid
sagg_live_view(const SaggStream *stream)
{
	char	   *name = live_view_name(stream->sink);
	Oid			relid = name ? get_relname_relid(name, get_rel_namespace(stream->sink)) :
		InvalidOid;

	return OidIsValid(relid) && is_live_view(relid, stream->owner) ? relid : InvalidOid;
}

/*
 * Drop it, if there is one, as DROP VIEW would.
 */
void
sagg_drop_live_view(const SaggStream *stream)
{
	Oid			view = sagg_live_view(stream);

	if (OidIsValid(view))
		sagg_drop_relation(view, OBJECT_VIEW);
}

static void
refuse_unless_append(const SaggStream *stream)
{
	if (stream->options.at_least_once)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("stream \"%s\" cannot have a live view", sagg_stream_title(stream->name)),
				 errdetail("Its sink is a Kafka topic, and what is read there is of another moment than the state."),
				 errhint("Read the open windows by stream_agg.open_windows.")));
	if (stream->mode != SAGG_APPEND)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream \"%s\" needs no live view", sagg_stream_title(stream->name)),
				 errdetail("In output mode \"%s\" the sink holds open windows as well as closed ones.",
						   sagg_mode_name(stream->mode)),
				 errhint("Read table \"%s\".", get_rel_name(stream->sink))));
}

static char *
view_statement(Oid sink, const char *name, const char *command)
{
	Relation	rel = table_open(sink, AccessShareLock);
	char	   *schema = get_namespace_name(RelationGetNamespace(rel));
	char	   *table = pstrdup(quote_qualified_identifier(schema, RelationGetRelationName(rel)));
	StringInfoData columns;
	StringInfoData text;

	initStringInfo(&columns);
	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (!att->attisdropped)
			appendStringInfo(&columns, "%s%s", columns.len > 0 ? ", " : "",
							 quote_identifier(NameStr(att->attname)));
	}
	table_close(rel, NoLock);
	initStringInfo(&text);
	appendStringInfo(&text, "%s %s AS SELECT %s FROM %s UNION ALL"
					 " SELECT %s FROM stream_agg.open_windows(NULL::%s)",
					 command, quote_qualified_identifier(schema, name),
					 columns.data, table, columns.data, table);
	return text.data;
}

static void
run_statement(const char *text)
{
	sagg_run_utility(linitial_node(RawStmt, raw_parser(text, RAW_PARSE_DEFAULT))->stmt,
					 text, -1, 0);
}

/*
 * The sink has got columns: the live view, if there is one, gets them too.
 */
void
sagg_refresh_live_view(const SaggStream *stream)
{
	if (OidIsValid(sagg_live_view(stream)))
		run_statement(view_statement(stream->sink, live_view_name(stream->sink),
									 "CREATE OR REPLACE VIEW"));
}

/*
 * create_live_view(stream text): makes view <sink>_live and returns it.
 */
Datum
stream_agg_create_live_view(PG_FUNCTION_ARGS)
{
	SaggStream *stream;
	char	   *name;
	char	   *schema;
	Oid			save_user;
	int			save_context;

	PreventCommandDuringRecovery("stream_agg.create_live_view()");
	stream = sagg_stream_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	sagg_stream_check_owner(stream);
	name = live_view_name(stream->sink);
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the sink of stream \"%s\" does not exist", sagg_stream_title(stream->name))));
	refuse_unless_append(stream);
	schema = get_namespace_name(get_rel_namespace(stream->sink));

	/* the stream's owner shall own it, whoever of that role is here */
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(stream->owner, save_context | SECURITY_LOCAL_USERID_CHANGE);
	run_statement(view_statement(stream->sink, name, "CREATE VIEW"));
	run_statement(psprintf("COMMENT ON VIEW %s IS %s",
						   quote_qualified_identifier(schema, name),
						   quote_literal_cstr(psprintf("results of stream %s, with windows that are still open",
													   stream->name))));
	SetUserIdAndSecContext(save_user, save_context);
	PG_RETURN_OID(get_relname_relid(name, get_rel_namespace(stream->sink)));
}
