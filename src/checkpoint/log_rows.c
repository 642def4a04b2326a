/*-------------------------------------------------------------------------
 *
 * log_rows.c
 *	  Rows of the logs that every micro-batch reads and writes, without SQL.
 *
 * A small micro-batch costs little more than its statements.  So its plan, its commit
 * and the look at the last commit go to the tables and their indexes directly, as rows
 * of catalogs do.  Nothing of a user runs here: the tables belong to the extension, and
 * have no triggers, policies or computed columns.
 *
 * Locks: those that SELECT and INSERT take, until the end of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "checkpoint_internal.h"

/* both logs begin with them, and have them as their primary key */
#define ANUM_STREAM		1
#define ANUM_BATCH		2

static Relation
open_log(const char *name, LOCKMODE mode)
{
	return table_open(get_relname_relid(name, get_namespace_oid("stream_agg", false)), mode);
}

/*
 * Returns the greatest batch in a log of "stream" as of what is committed now, -1 for
 * none.  "log" is "offsets" or "commits".
 */
static int64
last_batch_of(const char *log, const char *stream)
{
	Relation	rel = open_log(log, AccessShareLock);
	Relation	index = index_open(SAGG_PRIMARY_KEY(rel),
								   AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		batch = -1;
	bool		isnull;

	ScanKeyEntryInitialize(&key, 0, ANUM_STREAM, BTEqualStrategyNumber, InvalidOid,
						   DEFAULT_COLLATION_OID, F_TEXTEQ, CStringGetTextDatum(stream));
	scan = systable_beginscan_ordered(rel, index, snapshot, 1, &key);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	if (HeapTupleIsValid(tuple))
		batch = DatumGetInt64(heap_getattr(tuple, ANUM_BATCH, RelationGetDescr(rel), &isnull));
	systable_endscan_ordered(scan);
	UnregisterSnapshot(snapshot);
	index_close(index, NoLock);
	table_close(rel, NoLock);
	return batch;
}

/*
 * Returns the last batch that is committed, -1 for none, whatever the isolation level of
 * the transaction.
 */
int64
sagg_log_last_batch(const SaggCheckpoint *checkpoint)
{
	return last_batch_of("commits", checkpoint->stream);
}

/*
 * Returns the last batch that is planned, as sagg_log_last_batch.
 */
int64
sagg_log_last_plan(const SaggCheckpoint *checkpoint)
{
	return last_batch_of("offsets", checkpoint->stream);
}

/*
 * Returns the value of the column "name", searching from *next on, where values that
 * are in the order of the columns are found at once.
 */
static const SaggLogValue *
find_value(const SaggLogValue *values, int n, const char *name, int *next)
{
	for (int i = 0; i < n; i++)
	{
		const SaggLogValue *value = &values[(*next + i) % n];

		if (strcmp(value->column, name) == 0)
		{
			*next = (*next + i + 1) % n;
			return value;
		}
	}
	return NULL;
}

/*
 * Insert a row into a log: "values" for columns by name, the others become NULL.
 * Raises an error if the primary key is there.
 */
void
sagg_log_insert(const char *log, const SaggLogValue *values, int n)
{
	Relation	rel = open_log(log, RowExclusiveLock);
	TupleDesc	desc = RelationGetDescr(rel);
	Datum	   *row = palloc0(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);
	int			next = 0;
	HeapTuple	tuple;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		const SaggLogValue *value = att->attisdropped ? NULL :
		find_value(values, n, NameStr(att->attname), &next);

		isnull[i] = value == NULL || value->isnull;
		if (!isnull[i])
			row[i] = value->value;
		else if (att->attnotnull)
			elog(ERROR, "no value for column \"%s\" of stream_agg.%s", NameStr(att->attname), log);
	}
	tuple = heap_form_tuple(desc, row, isnull);
	CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);
	pfree(row);
	pfree(isnull);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}
