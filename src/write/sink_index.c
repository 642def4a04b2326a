/*-------------------------------------------------------------------------
 *
 * sink_index.c
 *	  Limits the length of a group's keys, for the indexes of the sink.
 *
 * An index would reject an entry that is too long only at WRITE, with all the
 * batch's rows: too late to know which record it was.  So EXECUTE enforces a
 * fixed length, which always fits, however well the values compress.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "write_internal.h"

/*
 * Limit of the keys together, each rounded up to 8 bytes, without the window.
 * A btree accepts entries of up to 2704 bytes, with a header of 16 and a range
 * of up to 40.
 */
#define MAX_KEY_BYTES	2600

static bool
has_long_keys(const SaggQuery *query)
{
	for (int i = 0; i < query->nkeys; i++)
	{
		if (get_typlen(query->keys[i].type) < 0)
			return true;
	}
	return false;
}

/*
 * Returns whether one of the index's columns takes a key of the query.
 */
static bool
index_holds_key(Relation rel, Relation index, const SaggQuery *query)
{
	Form_pg_index form = index->rd_index;

	for (int i = 0; i < form->indnkeyatts; i++)
	{
		AttrNumber	attno = form->indkey.values[i];

		for (int j = 0; attno > 0 && j < query->nidentity; j++)
		{
			Form_pg_attribute out = TupleDescAttr(query->output_desc,
												  query->identity[j] - 1);

			if (strcmp(NameStr(out->attname),
					   NameStr(TupleDescAttr(RelationGetDescr(rel), attno - 1)->attname)) == 0)
				return true;
		}
	}
	return false;
}

/*
 * Returns the greatest length in bytes that the keys of a group may have
 * together; 0 for any, if no index of the sink holds one of them.  If the sink
 * does not exist, WRITE raises the error.
 */
Size
sagg_sink_max_key_bytes(Oid sink, const SaggQuery *query)
{
	Size		result = 0;
	Relation	rel;
	List	   *indexes;
	ListCell   *lc;

	if (!has_long_keys(query))
		return 0;
	rel = try_table_open(sink, AccessShareLock);
	if (rel == NULL)
		return 0;
	indexes = RelationGetIndexList(rel);
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_rel->relam == BTREE_AM_OID && index_holds_key(rel, index, query))
			result = MAX_KEY_BYTES;
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	table_close(rel, AccessShareLock);
	return result;
}
