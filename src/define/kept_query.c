/*-------------------------------------------------------------------------
 *
 * kept_query.c
 *	  The analysed query of a stream, kept from micro-batch to micro-batch.
 *
 * Analysis reads dozens of catalog rows, and costs as much as some hundred records.  Its
 * result is used until the catalogs may have changed (catalog_changes.c); the plans that
 * execute/ makes of it go with it.  An ERROR closes the stream's run, and the kept query
 * with it: so nothing is kept that was read in a transaction which was rolled back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "optimizer/optimizer.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"

#include "define_internal.h"
#include "execute/execute.h"

struct SaggKeptQuery
{
	MemoryContext memory;		/* has all of it */
	List	   *relations;		/* OIDs of those that the query depends on */
	SaggQuery  *query;
};

static void
add_relations(SaggKeptQuery *kept, Query *query)
{
	List	   *relations;
	List	   *items;
	bool		row_security;

	if (query == NULL)
		return;
	extract_query_dependencies((Node *) query, &relations, &items, &row_security);
	kept->relations = list_concat_unique_oid(kept->relations, relations);
}

/*
 * Analyse the query of "stream" into a new context below "memory".
 */
static SaggKeptQuery *
analyze(const SaggStream *stream, MemoryContext memory)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "stream_agg query",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	SaggKeptQuery *kept = palloc0(sizeof(SaggKeptQuery));

	kept->memory = context;
	kept->query = sagg_query_of_view(stream);
	add_relations(kept, kept->query->inner);
	add_relations(kept, kept->query->outer);
	add_relations(kept, kept->query->removed);
	add_relations(kept, kept->query->replaced);
	kept->query->plans = sagg_kept_plans_make(context);
	MemoryContextSwitchTo(old);
	/* an error before this leaves nothing behind */
	MemoryContextSetParent(context, memory);
	return kept;
}

/*
 * Take the locks that analysis and planning would take.
 */
static void
lock_relations(const SaggKeptQuery *kept, const SaggStream *stream)
{
	ListCell   *lc;

	LockRelationOid(stream->view, AccessShareLock);
	foreach(lc, kept->relations)
		LockRelationOid(lfirst_oid(lc), AccessShareLock);
	sagg_kept_plans_lock(kept->query->plans);
}

/*
 * Returns the analysed query of a stream, as sagg_query_of_view does and with its errors,
 * under the locks that it takes.  It is kept in *kept, which is NULL at first, and in a
 * context below "memory"; the next call with the same *kept frees it if it makes
 * another one.  In a transaction, under the settings of the stream.
 */
SaggQuery *
sagg_kept_query(SaggKeptQuery **kept, const SaggStream *stream, MemoryContext memory)
{
	if (*kept)
	{
		lock_relations(*kept, stream);
		if ((*kept)->query->catalog_changes == sagg_catalog_changes())
			return (*kept)->query;
		MemoryContextDelete((*kept)->memory);
		*kept = NULL;
	}
	*kept = analyze(stream, memory);
	return (*kept)->query;
}
