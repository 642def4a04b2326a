/*-------------------------------------------------------------------------
 *
 * query_change.c
 *	  Checks whether a stream's query can be replaced by another while its
 *	  state is kept.
 *
 * That is possible if both take the same rows into the same groups: FROM,
 * WHERE, window, keys and event time are equal, and only aggregates are added
 * or removed.  A column that both queries have must mean the same in both,
 * because there are rows in the sink already.  A new column with the
 * expression of a removed one is that column renamed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "nodes/nodeFuncs.h"
#include "rewrite/rewriteHandler.h"
#include "utils/rel.h"

#include "streams/streams.h"
#include "define_internal.h"

pg_noreturn static void reject(const SaggStream *stream, const char *detail);

static void
reject(const SaggStream *stream, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("the query of stream \"%s\" cannot be replaced by this one", sagg_stream_title(stream->name)),
			 errdetail_internal("%s", detail),
			 errhint("Aggregates can be added and removed. For any other query create another stream, or drop this one and create it again.")));
}

/*
 * Returns the query of a view, without what belongs to the view itself and
 * without the columns that permissions are checked for.
 */
static Query *
plain_query(Oid viewid)
{
	Relation	view = relation_open(viewid, AccessShareLock);
	Query	   *query = copyObject(get_view_query(view));
	ListCell   *lc;

	relation_close(view, NoLock);
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION && rte->relid == viewid)
		{
			rte->relid = InvalidOid;
			rte->eref->colnames = NIL;
		}
	}
	sagg_flatten_aliases(query);
	sagg_forget_permissions(query);
	return query;
}

static Node *
inner_expression(const SaggQuery *query, AttrNumber attno)
{
	return (Node *) list_nth_node(TargetEntry, query->inner->targetList, attno - 1)->expr;
}

/*
 * Returns whether the queries have the same gap between sessions, if they have
 * any.
 */
static bool
same_gap(const SaggQuery *old, const SaggQuery *new)
{
	AttrNumber	old_column = old->window.gap_column;
	AttrNumber	new_column = new->window.gap_column;

	if (old->window.gap != new->window.gap || (old_column == 0) != (new_column == 0))
		return false;
	return old_column == 0 ||
		equal(inner_expression(old, old_column), inner_expression(new, new_column));
}

/*
 * Returns whether the queries make the same groups of their rows.
 */
static bool
same_groups(const SaggQuery *old, const SaggQuery *new)
{
	SaggQuery	old_groups = *old;
	SaggQuery	new_groups = *new;

	old_groups.naggs = new_groups.naggs = 0;
	if (sagg_query_fingerprint(&old_groups) != sagg_query_fingerprint(&new_groups) ||
		old->has_event_time != new->has_event_time || !same_gap(old, new) ||
		!equal(inner_expression(old, old->event_time),
			   inner_expression(new, new->event_time)))
		return false;
	for (int i = 0; i < new->nkeys; i++)
	{
		if (!equal(inner_expression(old, old->keys[i].attno),
				   inner_expression(new, new->keys[i].attno)))
			return false;
	}
	return true;
}

static int
find_aggregate(const SaggQuery *query, const SaggAgg *agg)
{
	for (int i = 0; i < query->naggs; i++)
	{
		/*
		 * versions of one definition also differ if it was replaced between
		 * the two
		 */
		if (equal(query->aggs[i].aggref, agg->aggref) &&
			memcmp(&query->aggs[i].identity, &agg->identity, sizeof(SaggIdentity)) == 0)
			return i;
	}
	return -1;
}

/*
 * Set the aggregates of the old query whose states those of the new one
 * continue.  Aggregates that share kept inputs have one state, that of one of
 * them.
 */
static void
match_aggregates(const SaggQuery *old, const SaggQuery *new, SaggQueryChange *change)
{
	change->origins = palloc(sizeof(int) * Max(new->naggs, 1));
	for (int i = 0; i < new->naggs; i++)
		change->origins[i] = -1;
	for (int i = 0; i < new->naggs; i++)
	{
		const SaggAgg *agg = &new->aggs[i];
		int			origin = find_aggregate(old, agg);

		if (origin < 0)
		{
			change->new_aggregates++;
			continue;
		}
		if (old->aggs[origin].keeps_inputs)
			origin = old->aggs[origin].inputs;
		change->origins[agg->keeps_inputs ? agg->inputs : i] = origin;
	}
}

static TargetEntry *
find_column(const Query *query, const char *name)
{
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (!tle->resjunk && strcmp(tle->resname, name) == 0)
			return tle;
	}
	return NULL;
}

/*
 * Returns a column of the new query with this expression and a name that the
 * old one does not have; 0 = none.  Each is found once.
 */
static AttrNumber
take_renamed(const Query *new, const SaggQuery *new_query, const Node *expr,
			 SaggQueryChange *change)
{
	ListCell   *lc;

	foreach(lc, change->added)
	{
		AttrNumber	attno = lfirst_int(lc);
		Form_pg_attribute att = TupleDescAttr(new_query->output_desc, attno - 1);

		if (!equal(expr, find_column(new, NameStr(att->attname))->expr))
			continue;
		change->added = foreach_delete_current(change->added, lc);
		return attno;
	}
	return 0;
}

/*
 * Determine which columns are added, removed or renamed; all others must be
 * unchanged.
 */
static void
match_columns(const SaggStream *stream, const Query *old, const Query *new,
			  const SaggQuery *old_query, const SaggQuery *new_query,
			  SaggQueryChange *change)
{
	for (int i = 0; i < new_query->output_desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(new_query->output_desc, i);
		TargetEntry *before = find_column(old, NameStr(att->attname));

		if (before == NULL)
			change->added = lappend_int(change->added, att->attnum);
		else if (!equal(before->expr, find_column(new, NameStr(att->attname))->expr))
			reject(stream, psprintf("Column \"%s\" would mean something else than in the existing rows of the sink.",
									NameStr(att->attname)));
	}
	for (int i = 0; i < old_query->output_desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(old_query->output_desc, i);

		AttrNumber	renamed;

		if (find_column(new, NameStr(att->attname)))
			continue;
		renamed = take_renamed(new, new_query,
							   (Node *) find_column(old, NameStr(att->attname))->expr, change);
		if (renamed > 0)
		{
			change->old_names = lappend(change->old_names, pstrdup(NameStr(att->attname)));
			change->renamed = lappend_int(change->renamed, renamed);
			continue;
		}
		if (sagg_is_identity(old_query, att->attnum))
			reject(stream, psprintf("Column \"%s\", which identifies the rows of the sink, would be missing.",
									NameStr(att->attname)));
		change->removed = lappend(change->removed, pstrdup(NameStr(att->attname)));
	}
}

/*
 * Returns what changes when the query of "stream" becomes that of view
 * "new_view".  Raises feature_not_supported if the state could not be kept.
 */
SaggQueryChange *
sagg_compare_queries(const SaggStream *stream, const SaggQuery *old,
					 Oid new_view, const SaggQuery *new)
{
	SaggQueryChange *change = palloc0(sizeof(SaggQueryChange));
	Query	   *old_select = plain_query(stream->view);
	Query	   *new_select = plain_query(new_view);

	if (!equal(old->sources, new->sources) || !equal(old_select->rtable, new_select->rtable) ||
		!equal(old_select->jointree->fromlist, new_select->jointree->fromlist) ||
		!equal(old_select->cteList, new_select->cteList))
		reject(stream, "It has another FROM or WITH: other records would go into the groups.");
	if (!equal(old_select->jointree->quals, new_select->jointree->quals))
		reject(stream, "It has another WHERE: other records would go into the groups.");
	if (old->window.kind == new->window.kind && old->window.panes != new->window.panes)
		reject(stream, "Sliding windows are kept whole where an aggregate cannot be combined, and else by pane: neither state is the other's.");
	if (!same_groups(old, new))
		reject(stream, "It has another window, event time or grouping key: there would be other groups.");
	if (stream->mode == SAGG_UPDATE &&
		!equal(old_select->havingQual, new_select->havingQual))
		reject(stream, "It has another HAVING, and in output mode \"update\" only groups with new records are checked.");
	match_columns(stream, old_select, new_select, old, new, change);
	match_aggregates(old, new, change);
	return change;
}
