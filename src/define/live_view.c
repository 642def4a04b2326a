/*-------------------------------------------------------------------------
 *
 * live_view.c
 *	  create_live_view: a stream's whole result, closed windows and open ones.
 *
 * The view is an ordinary one, over the sink and open_windows.  It belongs to
 * the stream's owner and goes with the stream, for without the stream it could
 * not be read.  It is found by what it is made of, so it may be renamed; there is
 * no row of it in the catalog.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "define_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_create_live_view);

/* views of role $1 whose rules use open_windows, and table $2 */
#define LIVE_VIEWS \
	"SELECT c.oid FROM pg_catalog.pg_class c" \
	"  JOIN pg_catalog.pg_rewrite r ON r.ev_class = c.oid" \
	"  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid" \
	" WHERE c.relkind = 'v' AND c.relowner = $1" \
	"   AND d.refclassid = 'pg_catalog.pg_proc'::regclass" \
	"   AND d.refobjid = 'stream_agg.open_windows(anyelement)'::regprocedure" \
	"   AND EXISTS (SELECT FROM pg_catalog.pg_depend s" \
	"                WHERE s.classid = d.classid AND s.objid = d.objid" \
	"                  AND s.refclassid = 'pg_catalog.pg_class'::regclass AND s.refobjid = $2)" \
	" ORDER BY c.oid"

static char *
live_view_name(Oid sink)
{
	char	   *name = get_rel_name(sink);

	return name ? makeObjectName(name, NULL, "live") : NULL;
}

/*
 * The one relation, or function, that a subquery shows all rows of; NULL if it
 * does something else.
 */
static RangeTblEntry *
all_rows_of(const Query *query)
{
	Node	   *from;

	if (query->jointree->quals || list_length(query->jointree->fromlist) != 1 ||
		query->groupClause || query->hasAggs || query->hasTargetSRFs ||
		query->havingQual || query->distinctClause || query->setOperations ||
		query->limitCount || query->limitOffset)
		return NULL;
	from = linitial(query->jointree->fromlist);
	return IsA(from, RangeTblRef) ?
		rt_fetch(((RangeTblRef *) from)->rtindex, query->rtable) : NULL;
}

/*
 * Whether a view is one of all rows of the sink and all open windows.
 */
static bool
shows_all(Oid viewid, Oid sink)
{
	Relation	view = relation_open(viewid, AccessShareLock);
	Query	   *query = get_view_query(view);
	SetOperationStmt *setop = (SetOperationStmt *) query->setOperations;
	bool		table = false;
	bool		windows = false;
	ListCell   *lc;

	if (setop && setop->op == SETOP_UNION && setop->all &&
		IsA(setop->larg, RangeTblRef) && IsA(setop->rarg, RangeTblRef) &&
		!query->limitCount && !query->limitOffset)
	{
		foreach(lc, query->rtable)
		{
			RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);
			RangeTblEntry *of = rte->rtekind == RTE_SUBQUERY ?
				all_rows_of(rte->subquery) : NULL;

			table = table || (of && of->rtekind == RTE_RELATION &&
							  of->relid == sink && of->inh);
			windows = windows || (of && of->rtekind == RTE_FUNCTION);
		}
	}
	relation_close(view, NoLock);
	return table && windows;
}

/*
 * The live view of a stream, whatever it is called, or InvalidOid.
 */
Oid
sagg_live_view(const SaggStream *stream)
{
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2] = {ObjectIdGetDatum(stream->owner), ObjectIdGetDatum(stream->sink)};
	SaggOwnerContext save;
	Oid			found = InvalidOid;

	SPI_connect();
	sagg_become_extension_owner(&save);
	if (SPI_execute_with_args(LIVE_VIEWS, 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for a live view");
	sagg_restore_user(&save);
	for (uint64 i = 0; i < SPI_processed && !OidIsValid(found); i++)
	{
		bool		isnull;
		Oid			view = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
														  SPI_tuptable->tupdesc, 1, &isnull));

		if (shows_all(view, stream->sink))
			found = view;
	}
	SPI_finish();
	return found;
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

static void
refuse_another(const SaggStream *stream)
{
	Oid			view = sagg_live_view(stream);

	if (OidIsValid(view))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("stream \"%s\" has a live view already, \"%s\"",
						sagg_stream_title(stream->name), get_rel_name(view))));
}

/*
 * The statement that makes a live view of this name, which is qualified.
 */
static char *
view_statement(Oid sink, const char *view, const char *command)
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
					 command, view,
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
	Oid			view = sagg_live_view(stream);

	if (OidIsValid(view))
		run_statement(view_statement(stream->sink,
									 quote_qualified_identifier(get_namespace_name(get_rel_namespace(view)),
																get_rel_name(view)),
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
	refuse_another(stream);
	schema = get_namespace_name(get_rel_namespace(stream->sink));

	/* the stream's owner shall own it, whoever of that role is here */
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(stream->owner, save_context | SECURITY_LOCAL_USERID_CHANGE);
	run_statement(view_statement(stream->sink, quote_qualified_identifier(schema, name),
								 "CREATE VIEW"));
	run_statement(psprintf("COMMENT ON VIEW %s IS %s",
						   quote_qualified_identifier(schema, name),
						   quote_literal_cstr(psprintf("results of stream %s, with windows that are still open",
													   stream->name))));
	SetUserIdAndSecContext(save_user, save_context);
	PG_RETURN_OID(get_relname_relid(name, get_rel_namespace(stream->sink)));
}
