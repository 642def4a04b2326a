/*-------------------------------------------------------------------------
 *
 * live_view.c
 *	  create_live_view: a stream's whole result, closed windows and open ones.
 *
 * The view is an ordinary one, over the sink and open_windows.  It belongs to
 * the stream's owner and is dropped with the stream, because without the
 * stream it cannot be read.  It is recognised by its query, so it may be
 * renamed; the catalog has no row of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "streams/streams.h"
#include "define_internal.h"
#include "sink_kinds.h"

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
 * Returns the one relation, or function, of which a subquery shows all rows;
 * NULL if it does something else.
 */
static RangeTblEntry *
all_rows_of(const Query *query)
{
	Node	   *from;

	if (query->jointree->quals || list_length(query->jointree->fromlist) != 1 ||
		query->groupClause || query->groupingSets || query->hasAggs ||
		query->hasTargetSRFs || query->havingQual || query->distinctClause ||
		query->setOperations || query->limitCount || query->limitOffset)
		return NULL;
	from = linitial(query->jointree->fromlist);
	return IsA(from, RangeTblRef) ?
		rt_fetch(((RangeTblRef *) from)->rtindex, query->rtable) : NULL;
}

/*
 * Returns whether a range table entry is the sink itself, with all of its
 * rows.
 */
static bool
is_sink(const RangeTblEntry *rte, Oid sink)
{
	return rte->rtekind == RTE_RELATION && rte->relid == sink && rte->inh &&
		rte->tablesample == NULL;
}

/*
 * Returns whether a range table entry is open_windows of the sink.
 */
static bool
is_open_windows(const RangeTblEntry *rte, Oid sink)
{
	FuncExpr   *call;

	if (rte->rtekind != RTE_FUNCTION || rte->funcordinality ||
		list_length(rte->functions) != 1)
		return false;
	call = (FuncExpr *) linitial_node(RangeTblFunction, rte->functions)->funcexpr;
	return IsA(call, FuncExpr) && call->funcresulttype == get_rel_type_id(sink) &&
		get_func_namespace(call->funcid) == get_namespace_oid(SAGG_SCHEMA, true) &&
		strcmp(get_func_name(call->funcid), "open_windows") == 0;
}

/*
 * Returns the column of the sink that a branch of the view shows, unchanged,
 * at position "resno"; InvalidAttrNumber if it shows anything else there.
 */
static AttrNumber
column_shown(const Query *branch, AttrNumber resno)
{
	TargetEntry *tle = get_tle_by_resno(branch->targetList, resno);
	Var		   *var = tle ? (Var *) tle->expr : NULL;

	if (var == NULL || tle->resjunk || !IsA(var, Var) || var->varlevelsup != 0 ||
		var->varattno <= 0)
		return InvalidAttrNumber;
	return var->varattno;
}

/*
 * Returns the columns that both branches show, in order, by their numbers in
 * the sink; NIL if the branches differ in a column.
 */
static List *
columns_shown(const Query *query, const Query *left, const Query *right)
{
	List	   *columns = NIL;
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		AttrNumber	attno;

		if (tle->resjunk)
			continue;
		attno = column_shown(left, tle->resno);
		if (attno == InvalidAttrNumber || !IsA(tle->expr, Var) ||
			((Var *) tle->expr)->varattno != tle->resno ||
			column_shown(right, tle->resno) != attno)
			return NIL;
		columns = lappend_int(columns, attno);
	}
	return columns;
}

static Query *
branch_of(const Query *query, Node *branch)
{
	RangeTblEntry *rte;

	if (!IsA(branch, RangeTblRef))
		return NULL;
	rte = rt_fetch(((RangeTblRef *) branch)->rtindex, query->rtable);
	return rte->rtekind == RTE_SUBQUERY ? rte->subquery : NULL;
}

/*
 * Returns the columns, by their numbers in the sink, that a query shows of all
 * rows of the sink and all open windows, if it is their union and nothing
 * else.  NIL otherwise, because an expression in place of a column may be
 * there to hide it.
 */
static List *
shown_by_query(const Query *query, Oid sink)
{
	SetOperationStmt *setop = (SetOperationStmt *) query->setOperations;
	Query	   *left;
	Query	   *right;
	RangeTblEntry *a;
	RangeTblEntry *b;

	if (setop == NULL || setop->op != SETOP_UNION || !setop->all ||
		query->limitCount || query->limitOffset)
		return NIL;
	left = branch_of(query, setop->larg);
	right = branch_of(query, setop->rarg);
	a = left ? all_rows_of(left) : NULL;
	b = right ? all_rows_of(right) : NULL;
	if (a == NULL || b == NULL ||
		!((is_sink(a, sink) && is_open_windows(b, sink)) ||
		  (is_sink(b, sink) && is_open_windows(a, sink))))
		return NIL;
	return columns_shown(query, left, right);
}

/*
 * Returns the columns that a view shows of all rows of the sink and all open
 * windows.  A view whose readers need privileges of their own counts as
 * showing none.
 */
static List *
shown_by_view(Oid viewid, Oid sink)
{
	Relation	view = relation_open(viewid, AccessShareLock);
	List	   *columns = RelationHasSecurityInvoker(view) ? NIL :
	shown_by_query(get_view_query(view), sink);

	relation_close(view, NoLock);
	return columns;
}

/*
 * Returns the live view of a stream, under any name, or InvalidOid.
 * "columns", unless NULL, is set to those it shows, by their numbers in the
 * sink.
 */
static Oid
find_live_view(const SaggStream *stream, List **columns)
{
	MemoryContext caller = CurrentMemoryContext;
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
		MemoryContext old = MemoryContextSwitchTo(caller);
		List	   *shown = shown_by_view(view, stream->sink);

		MemoryContextSwitchTo(old);
		if (shown)
			found = view;
		if (columns)
			*columns = shown;
	}
	SPI_finish();
	return found;
}

/*
 * Returns the live view of a stream, under any name, or InvalidOid.
 */
Oid
sagg_live_view(const SaggStream *stream)
{
	return find_live_view(stream, NULL);
}

/*
 * Returns whether the columns that a query writes to the sink are among
 * "columns".
 */
static bool
has_columns(Oid sink, List *columns, TupleDesc output)
{
	for (int i = 0; i < output->natts; i++)
	{
		AttrNumber	attno = get_attnum(sink, NameStr(TupleDescAttr(output, i)->attname));

		/* open_windows shows only what the sink has a column for, either */
		if (attno != InvalidAttrNumber && !list_member_int(columns, attno))
			return false;
	}
	return true;
}

/*
 * Returns whether "role" sees, by its privilege to SELECT from the live view,
 * every column of "output" in all rows of the sink.  That is so if the view's
 * owner, who is the stream's owner, sees them.
 */
bool
sagg_live_view_shows(const SaggStream *stream, Oid role, TupleDesc output)
{
	List	   *columns = NIL;
	Oid			view = find_live_view(stream, &columns);

	return OidIsValid(view) &&
		pg_class_aclcheck(view, role, ACL_SELECT) == ACLCHECK_OK &&
		pg_class_aclcheck(stream->sink, stream->owner, ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(stream->sink, stream->owner, true) != RLS_ENABLED &&
		has_columns(stream->sink, columns, output);
}

/*
 * Drop the live view, if there is one, as DROP VIEW would.
 */
void
sagg_drop_live_view(const SaggStream *stream)
{
	Oid			view = sagg_live_view(stream);

	if (OidIsValid(view))
		sagg_drop_relation(view, OBJECT_VIEW);
}

static void
reject_unless_append(const SaggStream *stream)
{
	const SaggSinkKind *kind = sagg_sink_kind(stream->sink);

	if ((kind->flags & SAGG_SINK_TRANSACTIONAL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("stream \"%s\" cannot have a live view", sagg_stream_title(stream->name)),
				 errdetail("Its sink is %s, whose contents are not of the same moment as the state.",
						   kind->title),
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
reject_another(const SaggStream *stream)
{
	Oid			view = sagg_live_view(stream);

	if (OidIsValid(view))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("stream \"%s\" has a live view already, \"%s\"",
						sagg_stream_title(stream->name), get_rel_name(view))));
}

/*
 * Returns the columns of a table that are not dropped, by their numbers.
 */
static List *
all_columns(Oid table)
{
	Relation	rel = table_open(table, AccessShareLock);
	List	   *columns = NIL;

	for (int i = 0; i < RelationGetNumberOfAttributes(rel); i++)
	{
		if (!TupleDescAttr(RelationGetDescr(rel), i)->attisdropped)
			columns = lappend_int(columns, i + 1);
	}
	table_close(rel, NoLock);
	return columns;
}

/*
 * Returns the statement that makes a live view of this qualified name with
 * these columns of the sink.  "view", unless invalid, is the one to replace,
 * whose columns keep their names.
 */
static char *
view_statement(const char *command, const char *name, Oid sink, List *columns, Oid view)
{
	char	   *table = quote_qualified_identifier(get_namespace_name(get_rel_namespace(sink)),
												   get_rel_name(sink));
	StringInfoData list;
	AttrNumber	n = 0;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, columns)
	{
		char	   *column = get_attname(sink, lfirst_int(lc), false);
		char	   *kept = OidIsValid(view) ? get_attname(view, ++n, true) : NULL;

		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", quote_identifier(column));
		if (kept)
			appendStringInfo(&list, " AS %s", quote_identifier(kept));
	}
	return psprintf("%s %s AS SELECT %s FROM %s UNION ALL"
					" SELECT %s FROM stream_agg.open_windows(NULL::%s)",
					command, name, list.data, table, list.data, table);
}

/*
 * Run a statement that makes a view with these options.
 */
static void
run_statement(const char *text, List *options)
{
	Node	   *stmt = linitial_node(RawStmt, raw_parser(text, RAW_PARSE_DEFAULT))->stmt;

	if (IsA(stmt, ViewStmt))
		((ViewStmt *) stmt)->options = options;
	sagg_run_utility(stmt, text, -1, 0);
}

/*
 * The sink has got columns of these names: the live view, if there is one,
 * gets them too, unless it has left out some of "before", the columns that the
 * query had.  Runs as the stream's owner.
 */
void
sagg_refresh_live_view(const SaggStream *stream, TupleDesc before, List *added)
{
	List	   *columns = NIL;
	Oid			view = find_live_view(stream, &columns);
	ListCell   *lc;

	if (!OidIsValid(view) || !has_columns(stream->sink, columns, before))
		return;
	foreach(lc, added)
	{
		AttrNumber	attno = get_attnum(stream->sink, lfirst(lc));

		if (attno != InvalidAttrNumber)
			columns = list_append_unique_int(columns, attno);
	}
	run_statement(view_statement("CREATE OR REPLACE VIEW",
								 quote_qualified_identifier(get_namespace_name(get_rel_namespace(view)),
															get_rel_name(view)),
								 stream->sink, columns, view),
				  sagg_view_options(view));
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
	SaggOwnerContext owner;

	PreventCommandDuringRecovery("stream_agg.create_live_view()");
	PreventCommandIfParallelMode("stream_agg.create_live_view()");
	stream = sagg_stream_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	sagg_stream_check_owner(stream);
	name = live_view_name(stream->sink);
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the sink of stream \"%s\" does not exist", sagg_stream_title(stream->name))));
	reject_unless_append(stream);
	reject_another(stream);
	schema = get_namespace_name(get_rel_namespace(stream->sink));

	/* the stream's owner shall own it, whichever member of that role calls */
	sagg_become_owner(&owner, stream->owner);
	run_statement(view_statement("CREATE VIEW", quote_qualified_identifier(schema, name),
								 stream->sink, all_columns(stream->sink), InvalidOid), NIL);
	run_statement(psprintf("COMMENT ON VIEW %s IS %s",
						   quote_qualified_identifier(schema, name),
						   quote_literal_cstr(psprintf("results of stream %s, with windows that are still open",
													   stream->name))), NIL);
	sagg_restore_user(&owner);
	PG_RETURN_OID(get_relname_relid(name, get_rel_namespace(stream->sink)));
}
