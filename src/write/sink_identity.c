/*-------------------------------------------------------------------------
 *
 * sink_identity.c
 *	  Which index of a sink finds the row of a group, and in which order it has
 *	  the rows.
 *
 * Identities are compared by the query's GROUP BY, by the unique index and by
 * the statements on the sink.  All three must agree on what is equal, or two
 * groups would share a row; most rules below are about that.
 *
 * An index holds the columns of the identity.  In place of a window that is a
 * range it may hold lower() of it: windows of one query that begin at the same
 * time are the same window.  Sessions are not, so their index holds lower() and
 * upper().
 *
 * This file only reads.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "streams/streams.h"
#include "write_internal.h"

/*
 * Returns the identity columns as a list for SQL, quoted; of a window that is a
 * range the bounds that an index may hold instead, if "bounds".
 */
static char *
identity_list(const SaggQuery *query, bool bounds)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (int i = 0; i < query->nidentity; i++)
	{
		const char *name = sagg_sink_column(query->output_desc, query->identity[i]);
		bool		window = bounds && query->identity[i] == query->window_output;

		appendStringInfo(&buf, window ? "%slower(%s)" : "%s%s", i > 0 ? ", " : "", name);
		if (window && query->window.kind == SAGG_WINDOW_SESSION)
			appendStringInfo(&buf, ", upper(%s)", name);
	}
	return buf.data;
}

/*
 * Returns whether the window is in the output as a range.
 */
bool
sagg_sink_window_is_range(const SaggQuery *query)
{
	return query->window_output > 0 && query->window_identity == SAGG_WINDOW_WHOLE &&
		query->window.type == TSTZRANGEOID;
}

/*
 * Returns the columns and expressions that the index of a new sink is over,
 * as a list for SQL.
 */
char *
sagg_sink_index_list(const SaggQuery *query)
{
	return identity_list(query, sagg_sink_window_is_range(query));
}

/*
 * Returns what ON CONFLICT infers the identity index from.
 */
char *
sagg_sink_conflict_list(const SinkBatch *batch)
{
	const SaggQuery *query = batch->query;
	const char *window;
	StringInfoData buf;

	if (batch->identity.window == SINK_WINDOW_ITSELF)
		return identity_list(query, false);
	window = sagg_sink_column(query->output_desc, query->window_output);
	initStringInfo(&buf);
	appendStringInfo(&buf, "pg_catalog.lower(%s)", window);
	if (batch->identity.window == SINK_WINDOW_BOUNDS)
		appendStringInfo(&buf, ", pg_catalog.upper(%s)", window);
	for (int i = 0; i < query->nidentity; i++)
	{
		if (query->identity[i] != query->window_output)
			appendStringInfo(&buf, ", %s",
							 sagg_sink_column(query->output_desc, query->identity[i]));
	}
	return buf.data;
}

static bool
is_integer(Oid type)
{
	return type == INT2OID || type == INT4OID || type == INT8OID;
}

static bool
same_equality(Oid type1, Oid type2)
{
	return lookup_type_cache(type1, TYPECACHE_EQ_OPR)->eq_opr ==
		lookup_type_cache(type2, TYPECACHE_EQ_OPR)->eq_opr;
}

static bool
collation_compatible(Oid collation1, Oid collation2)
{
	if (collation1 == collation2)
		return true;
	return OidIsValid(collation1) && OidIsValid(collation2) &&
		get_collation_isdeterministic(collation1) &&
		get_collation_isdeterministic(collation2);
}

/*
 * Returns whether different identities may become equal when they are put into
 * this column.  Integers never do: a value that is too large raises an error.
 */
static bool
keeps_identity(Form_pg_attribute out, Form_pg_attribute att)
{
	Oid			from = getBaseType(out->atttypid);
	int32		typmod = att->atttypmod;
	Oid			to = getBaseTypeAndTypmod(att->atttypid, &typmod);

	if (!collation_compatible(out->attcollation, att->attcollation))
		return false;
	if (is_integer(from) && is_integer(to))
		return true;
	if (typmod != -1 && typmod != out->atttypmod)
		return false;
	return from == to ||
		(IsBinaryCoercible(from, to) && same_equality(from, to));
}

/*
 * Returns the sink's column for number "i" of the identity.
 */
static Form_pg_attribute
identity_column(const SinkCheck *check, int i)
{
	AttrNumber	attno = check->columns[check->query->identity[i] - 1];

	return TupleDescAttr(RelationGetDescr(check->rel), attno - 1);
}

static Form_pg_attribute
identity_output(const SinkCheck *check, int i)
{
	return TupleDescAttr(check->query->output_desc, check->query->identity[i] - 1);
}

static void
check_identity_columns(const SinkCheck *check)
{
	for (int i = 0; i < check->query->nidentity; i++)
	{
		Form_pg_attribute out = identity_output(check, i);
		Form_pg_attribute att = identity_column(check, i);

		if (!keeps_identity(out, att))
			ereport(ERROR,
					(SINK_ERRCODE(check, ERRCODE_DATATYPE_MISMATCH),
					 errmsg("key column \"%s\" of sink \"%s\" has type %s, which can make different keys of type %s equal",
							NameStr(att->attname),
							RelationGetRelationName(check->rel),
							format_type_with_typemod(att->atttypid, att->atttypmod),
							format_type_with_typemod(out->atttypid, out->atttypmod)),
					 errdetail("In output mode %s a row of the sink is found by its key, so type and collation of the key must be the same in the query and in the sink.",
							   sagg_mode_name(check->mode)),
					 SINK_ERRHINT(check, "Cast the key to the column's type in the query's GROUP BY.")));
	}
}

/*
 * Returns which number of the identity column "key" of the index (from 0) is
 * for, -1 = none; sets *part to what it has of that column: itself, or of a
 * range lower() or upper().
 */
static int
index_part(const SinkCheck *check, Relation index, int key, SaggWindowPart *part)
{
	AttrNumber	attno = index->rd_index->indkey.values[key];

	*part = SAGG_WINDOW_WHOLE;
	if (attno == 0)
	{
		List	   *exprs = RelationGetIndexExpressions(index);
		int			n = 0;
		FuncExpr   *func;

		for (int i = 0; i < key; i++)
			n += index->rd_index->indkey.values[i] == 0;
		func = (FuncExpr *) list_nth(exprs, n);
		if (!IsA(func, FuncExpr) ||
			(func->funcid != F_LOWER_ANYRANGE && func->funcid != F_UPPER_ANYRANGE) ||
			!IsA(linitial(func->args), Var))
			return -1;
		attno = ((Var *) linitial(func->args))->varattno;
		*part = func->funcid == F_LOWER_ANYRANGE ? SAGG_WINDOW_START : SAGG_WINDOW_END;
	}
	for (int i = 0; i < check->query->nidentity; i++)
	{
		if (check->columns[check->query->identity[i] - 1] == attno)
			return *part == SAGG_WINDOW_WHOLE ||
				(sagg_sink_window_is_range(check->query) &&
				 check->query->identity[i] == check->query->window_output) ? i : -1;
	}
	return -1;
}

/*
 * Returns whether column "key" of the index, which has that part of number "i"
 * of the identity, compares as GROUP BY does.
 */
static bool
index_column_fits(const SinkCheck *check, Relation index, int key, int i,
				  SaggWindowPart part)
{
	Oid			opcintype = index->rd_opcintype[key];
	Oid			equal = get_opfamily_member(index->rd_opfamily[key], opcintype,
											opcintype, BTEqualStrategyNumber);
	Oid			type = part == SAGG_WINDOW_WHOLE ? identity_column(check, i)->atttypid :
	TIMESTAMPTZOID;

	return equal == lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr &&
		(part != SAGG_WINDOW_WHOLE ||
		 collation_compatible(index->rd_indcollation[key],
							  identity_output(check, i)->attcollation));
}

/*
 * Returns whether the index holds exactly the identity, in any order; sets
 * *window to how.  "confused" is set to a column of the output that it does
 * not compare as GROUP BY does, or NULL.
 */
static bool
index_holds_identity(const SinkCheck *check, Relation index, SinkWindowKey *window,
					 Form_pg_attribute *confused)
{
	const SaggQuery *query = check->query;
	int		   *parts = palloc0(sizeof(int) * Max(query->nidentity, 1));

	*window = SINK_WINDOW_ITSELF;
	*confused = NULL;
	for (int key = 0; key < index->rd_index->indnkeyatts; key++)
	{
		SaggWindowPart part;
		int			i = index_part(check, index, key, &part);

		if (i < 0 || (parts[i] & (1 << part)) != 0)
			return false;
		parts[i] |= 1 << part;
		if (!keeps_identity(identity_output(check, i), identity_column(check, i)) ||
			!index_column_fits(check, index, key, i, part))
			*confused = identity_output(check, i);
	}
	for (int i = 0; i < query->nidentity; i++)
	{
		if (parts[i] == 1 << SAGG_WINDOW_WHOLE)
			continue;
		if (parts[i] == (1 << SAGG_WINDOW_START | 1 << SAGG_WINDOW_END))
			*window = SINK_WINDOW_BOUNDS;
		else if (parts[i] == 1 << SAGG_WINDOW_START &&
				 query->window.kind != SAGG_WINDOW_SESSION)
			*window = SINK_WINDOW_START;
		else
			return false;
	}
	return true;
}

/*
 * Returns whether an identity column may be null.
 */
static bool
identity_is_nullable(const SinkCheck *check)
{
	for (int i = 0; i < check->query->nidentity; i++)
	{
		if (!identity_column(check, i)->attnotnull)
			return true;
	}
	return false;
}

/*
 * Returns whether this index can be the arbiter of the upsert.  Raises an
 * error when the statement would choose it and then reject it.
 */
static bool
index_fits(const SinkCheck *check, Relation index, SinkWindowKey *window)
{
	Form_pg_index form = index->rd_index;
	Form_pg_attribute confused;

	if (!form->indisunique || !form->indisvalid || !form->indisready ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) ||
		!index_holds_identity(check, index, window, &confused) || confused != NULL)
		return false;
	if (!form->indimmediate)
		ereport(ERROR,
				(SINK_ERRCODE(check, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("unique constraint \"%s\" of sink \"%s\" is deferrable",
						RelationGetRelationName(index),
						RelationGetRelationName(check->rel)),
				 errdetail("The server's INSERT ... ON CONFLICT does not work with deferrable unique constraints over the columns of the identity."),
				 SINK_ERRHINT(check, "Create the constraint again as NOT DEFERRABLE.")));
	return form->indnullsnotdistinct || !identity_is_nullable(check);
}

/*
 * Returns the operator by which rows of the output have the order of a column of
 * the index, InvalidOid = none.
 */
static Oid
ordering_operator(Relation index, int key, Form_pg_attribute out, bool descending)
{
	Oid			opcintype = index->rd_opcintype[key];
	Oid			type = getBaseType(out->atttypid);
	TypeCacheEntry *entry;

	if (IsBinaryCoercible(type, opcintype))
		return get_opfamily_member(index->rd_opfamily[key], opcintype, opcintype,
								   descending ? BTGreaterStrategyNumber : BTLessStrategyNumber);
	if (!is_integer(type) || !is_integer(opcintype))
		return InvalidOid;
	entry = lookup_type_cache(type, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
	return descending ? entry->gt_opr : entry->lt_opr;
}

static void
add_order(SinkIdentity *identity, AttrNumber attno, SaggWindowPart part, Oid oper,
		  Oid collation, bool nulls_first)
{
	SinkSortKey *key = &identity->order[identity->norder++];

	key->attno = attno;
	key->part = part;
	key->oper = oper;
	key->collation = collation;
	key->nulls_first = nulls_first;
}

/*
 * Add the order of one column of the index; returns false if rows of the output
 * have no such order.  That of a range is that of its bounds, which are compared
 * faster.
 */
static bool
add_order_of(SinkCheck *check, Relation index, int key)
{
	const SaggQuery *query = check->query;
	bool		descending = (index->rd_indoption[key] & INDOPTION_DESC) != 0;
	bool		nulls_first = (index->rd_indoption[key] & INDOPTION_NULLS_FIRST) != 0;
	SaggWindowPart part;
	int			i = index_part(check, index, key, &part);
	Form_pg_attribute out = identity_output(check, i);
	TypeCacheEntry *time = lookup_type_cache(TIMESTAMPTZOID, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
	Oid			oper = descending ? time->gt_opr : time->lt_opr;

	if (part != SAGG_WINDOW_WHOLE)
		add_order(&check->identity, out->attnum, part, oper, InvalidOid, nulls_first);
	else if (sagg_sink_window_is_range(query) && out->attnum == query->window_output)
	{
		add_order(&check->identity, out->attnum, SAGG_WINDOW_START, oper, InvalidOid, nulls_first);
		if (query->window.kind == SAGG_WINDOW_SESSION)
			add_order(&check->identity, out->attnum, SAGG_WINDOW_END, oper, InvalidOid, nulls_first);
	}
	else
	{
		oper = ordering_operator(index, key, out, descending);
		if (!OidIsValid(oper))
			return false;
		add_order(&check->identity, out->attnum, part, oper, index->rd_indcollation[key], nulls_first);
	}
	return true;
}

/*
 * Set the order of rows in the index.
 */
static void
set_order(SinkCheck *check, Relation index)
{
	int			n = index->rd_index->indnkeyatts;

	check->identity.norder = 0;
	check->identity.order = palloc(sizeof(SinkSortKey) * (n + 1));
	for (int key = 0; key < n; key++)
	{
		if (!add_order_of(check, index, key))
			break;
	}
}

/*
 * Find the index whose order the rows are written in; one that has the bounds
 * of a range is preferred to one that has the range.  With "arbiter" only one
 * that an upsert can use.
 */
static void
find_identity_index(SinkCheck *check, bool arbiter)
{
	SinkIdentity *identity = &check->identity;
	List	   *indexes = RelationGetIndexList(check->rel);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_attribute confused;
		SinkWindowKey window;

		if (index->rd_rel->relam == BTREE_AM_OID &&
			(arbiter ? index_fits(check, index, &window) :
			 index->rd_index->indisready &&
			 index_holds_identity(check, index, &window, &confused) && confused == NULL) &&
			(!identity->indexed || identity->window == SINK_WINDOW_ITSELF))
		{
			identity->indexed = true;
			identity->window = window;
			set_order(check, index);
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
}

/*
 * Check that modes update and complete can find the row of a group by a unique
 * index, and set check->identity.
 */
void
sagg_sink_check_identity(SinkCheck *check)
{
	Relation	rel = check->rel;
	bool		range = sagg_sink_window_is_range(check->query);

	check_identity_columns(check);
	find_identity_index(check, true);
	if (!check->identity.indexed)
	{
		char	   *columns = identity_list(check->query, false);
		char	   *name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
													  RelationGetRelationName(rel));

		ereport(ERROR,
				(SINK_ERRCODE(check, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sink \"%s\" has no unique index with NULLS NOT DISTINCT on exactly (%s)",
						RelationGetRelationName(rel), columns),
				 errdetail("In output mode %s a row of the sink is found by its window and keys, any of which may be null. The index must be valid, over columns alone and without a WHERE clause.%s",
						   sagg_mode_name(check->mode),
						   !range ? "" : check->query->window.kind == SAGG_WINDOW_SESSION ?
						   " In place of the window it may have its bounds." :
						   " In place of the window it may have its lower bound."),
				 range ?
				 errhint("Run CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT.",
						 name, sagg_sink_index_list(check->query)) :
				 errhint("Run ALTER TABLE %s ADD UNIQUE NULLS NOT DISTINCT (%s).", name, columns)));
	}
}

/*
 * Set check->identity for mode append, which needs no index.
 */
void
sagg_sink_find_order(SinkCheck *check)
{
	find_identity_index(check, false);
}

/*
 * Check that no unique index over exactly the identity columns makes different
 * groups equal, for mode append, which needs no index: the second one of such
 * groups would fail, and every attempt of its batch.
 */
void
sagg_sink_check_unique_indexes(const SinkCheck *check)
{
	List	   *indexes = RelationGetIndexList(check->rel);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_attribute confused;
		SinkWindowKey window;

		if (index->rd_index->indisunique &&
			index_holds_identity(check, index, &window, &confused) && confused != NULL)
			ereport(ERROR,
					(SINK_ERRCODE(check, ERRCODE_DATATYPE_MISMATCH),
					 errmsg("unique index \"%s\" of sink \"%s\" can make different keys equal",
							RelationGetRelationName(index), RelationGetRelationName(check->rel)),
					 errdetail("The query's column \"%s\" has type %s; the index compares it by another type or collation.",
							   NameStr(confused->attname),
							   format_type_with_typemod(confused->atttypid, confused->atttypmod)),
					 SINK_ERRHINT(check, "Cast the key to the column's type in the query's GROUP BY, or drop the index.")));
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
}
