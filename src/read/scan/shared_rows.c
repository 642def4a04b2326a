/*-------------------------------------------------------------------------
 *
 * shared_rows.c
 *	  Keeps rows of a batch that is read for several streams, or by several
 *	  scans of one query.
 *
 * This file has the memory for it, bounded by stream_agg.batch_memory (I7),
 * from the first stream's part of a batch to the end of the last one's; and
 * the columns that the streams read of a source, which are learned from batch
 * to batch, and for the first batch taken from the catalogs.  The scans decide
 * what is kept and used (shared_scan.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_rewrite.h"
#include "rewrite/prs2lock.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "shared_rows.h"

/*
 * size of blocks of values; a value larger than an eighth of it gets its own
 * memory
 */
#define CHUNK_BYTES		(64 * 1024)

/* The attribute numbers that streams read of a source. */
typedef struct Interest
{
	Oid			source;
	Bitmapset  *expected;		/* in this batch */
	Bitmapset  *seen;			/* so far */
} Interest;

/* in TopMemoryContext */
static List *interests = NIL;
static List *views = NIL;		/* OIDs of views whose columns are in
								 * interests */

/*
 * Relation cache callback: a source has changed, or (InvalidOid) any source
 * may have.
 */
static void
source_changed(Datum arg, Oid relid)
{
	SaggSharedRows *shared = sagg_batch_context.shared;
	ListCell   *lc;

	if (shared == NULL)
		return;
	foreach(lc, shared->stores)
	{
		SaggRowStore *store = lfirst(lc);

		if (relid == InvalidOid || relid == store->source)
			store->stale = true;
	}
}

static Interest *
find_interest(Oid source)
{
	MemoryContext old;
	Interest   *interest;
	ListCell   *lc;

	foreach(lc, interests)
	{
		interest = lfirst(lc);
		if (interest->source == source)
			return interest;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	interest = palloc0(sizeof(Interest));
	interest->source = source;
	interests = lappend(interests, interest);
	MemoryContextSwitchTo(old);
	return interest;
}

/*
 * A view's query will be run for the first time: note which columns of sources
 * it names.  What it reads through other views is learned later.
 */
static void
expect_columns(Relation view)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RewriteRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(view->rd_rules->rules[0]->ruleId));
	scan = systable_beginscan(depend, DependDependerIndexId, true, NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);
		Interest   *interest;
		MemoryContext old;

		if (form->refclassid != RelationRelationId || form->refobjsubid <= 0 ||
			!sagg_is_source(form->refobjid))
			continue;
		interest = find_interest(form->refobjid);
		old = MemoryContextSwitchTo(TopMemoryContext);
		interest->expected = bms_add_member(interest->expected, form->refobjsubid);
		MemoryContextSwitchTo(old);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
}

/*
 * Determine what the streams read of the sources: what they read in the last
 * batch or, for streams that took no part in it, what their views say.
 */
static void
update_interests(List *streams)
{
	ListCell   *lc;

	foreach(lc, interests)
	{
		Interest   *interest = lfirst(lc);

		bms_free(interest->expected);
		interest->expected = interest->seen;
		interest->seen = NULL;
	}
	foreach(lc, streams)
	{
		Relation	view = list_member_oid(views, lfirst_oid(lc)) ? NULL :
		try_relation_open(lfirst_oid(lc), AccessShareLock);
		MemoryContext old;

		if (view == NULL)
			continue;
		if (view->rd_rules && view->rd_rules->numLocks > 0)
			expect_columns(view);
		relation_close(view, NoLock);
		old = MemoryContextSwitchTo(TopMemoryContext);
		views = lappend_oid(views, lfirst_oid(lc));
		MemoryContextSwitchTo(old);
	}
}

/*
 * The scans that begin from now on belong to several streams, one after the
 * other, or to one query, over one batch: what they decode is kept, in a
 * context below the current one, until sagg_shared_rows_end or the end of that
 * context. "streams" are the OIDs of
 * their views.
 */
void
sagg_shared_rows_begin(const SaggBatch *batch, List *streams)
{
	static bool registered = false;
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "stream_agg shared rows",
												 ALLOCSET_DEFAULT_SIZES);
	SaggSharedRows *rows = MemoryContextAllocZero(memory, sizeof(SaggSharedRows));

	if (!registered)
		CacheRegisterRelcacheCallback(source_changed, (Datum) 0);
	registered = true;
	update_interests(streams);
	rows->memory = memory;
	rows->batch = batch;
	rows->records = sagg_batch_records(batch);
	rows->nblocks = (rows->records + SAGG_BLOCK_ROWS - 1) / SAGG_BLOCK_ROWS;
	sagg_batch_set_shared(rows);
}

/*
 * Free what is kept, if there is anything.  Scans must have ended.  After an
 * error it goes with the transaction and the context it is in.
 */
void
sagg_shared_rows_end(void)
{
	SaggSharedRows *shared = sagg_batch_context.shared;

	elog(DEBUG1, "%d scans of a batch of " INT64_FORMAT " records have decoded " INT64_FORMAT ", with %zu bytes of shared rows",
		 shared->nscans, shared->records, shared->ndecoded, shared->bytes);
	sagg_batch_set_shared(NULL);
	MemoryContextDelete(shared->memory);
}

/*
 * Returns "size" bytes of memory, zeroed; NULL if that is too much.
 */
void *
sagg_shared_memory(SaggSharedRows *rows, Size size)
{
	if (rows->full || rows->bytes + size > (Size) sagg_batch_memory_kb * 1024)
	{
		/* a value that is too large does not mean that others are */
		rows->full |= size <= CHUNK_BYTES;
		return NULL;
	}
	rows->bytes += size;
	return MemoryContextAllocExtended(rows->memory, size,
									  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

/*
 * Copy a by-reference value of a type of this length.  Returns false if there
 * is no memory for it, or if it is not flat.
 */
bool
sagg_shared_copy(SaggSharedRows *rows, int16 len, Datum value, Datum *copy)
{
	const char *p = DatumGetPointer(value);
	Size		size;
	char	   *to;

	if (len == -1 && VARATT_IS_EXTERNAL(p))
		return false;
	size = len > 0 ? (Size) len : len == -1 ? VARSIZE_ANY(p) : strlen(p) + 1;
	if (MAXALIGN(size) > rows->left && size <= CHUNK_BYTES / 8)
	{
		rows->chunk = sagg_shared_memory(rows, CHUNK_BYTES);
		rows->left = rows->chunk ? CHUNK_BYTES : 0;
	}
	if (MAXALIGN(size) <= rows->left)
	{
		to = rows->chunk;
		rows->chunk += MAXALIGN(size);
		rows->left -= MAXALIGN(size);
	}
	else if ((to = sagg_shared_memory(rows, size)) == NULL)
		return false;
	memcpy(to, p, size);
	*copy = PointerGetDatum(to);
	return true;
}

/*
 * Returns the place for what is kept of the source's records.  NULL if the
 * attached batch is not the one that is shared, or if there is no memory for it.
 */
SaggRowStore *
sagg_shared_store(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	SaggSharedRows *shared = sagg_batch_context.shared;
	MemoryContext old;
	SaggRowStore *store;
	ListCell   *lc;

	if (shared == NULL || shared->batch != sagg_batch_context.batch)
		return NULL;
	foreach(lc, shared->stores)
	{
		store = lfirst(lc);
		if (store->source == RelationGetRelid(rel) && !store->stale)
			return store;
	}
	if ((store = sagg_shared_memory(shared, sizeof(SaggRowStore))) == NULL ||
		(store->columns = sagg_shared_memory(shared, sizeof(SaggRowColumn) *
											 Max(desc->natts, 1))) == NULL ||
		(store->blocks = sagg_shared_memory(shared, sizeof(SaggRowBlock *) *
											Max(shared->nblocks, 1))) == NULL)
		return NULL;
	store->rows = shared;
	store->source = RelationGetRelid(rel);
	store->natts = desc->natts;
	for (int i = 0; i < desc->natts; i++)
	{
		store->columns[i].byval = TupleDescAttr(desc, i)->attbyval;
		store->columns[i].len = TupleDescAttr(desc, i)->attlen;
	}
	old = MemoryContextSwitchTo(shared->memory);
	shared->stores = lappend(shared->stores, store);
	MemoryContextSwitchTo(old);
	return store;
}

/*
 * A scan reads the attributes "used" of a source: scans of this batch are
 * expected to read them.
 */
Bitmapset *
sagg_shared_interest(Oid source, const Bitmapset *used)
{
	Interest   *interest = find_interest(source);
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	interest->seen = bms_add_members(interest->seen, used);
	MemoryContextSwitchTo(old);
	return interest->expected;
}
