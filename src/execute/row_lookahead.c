/*-------------------------------------------------------------------------
 *
 * row_lookahead.c
 *	  Looks ahead a few rows, and prefetches their groups into the CPU's
 *	  caches.
 *
 * With many groups most of a row's time is the wait for its group to come from
 * memory.  So a few rows are held back, while the memory they need is
 * prefetched, and then taken in their order.  That is done only where a row
 * can no longer raise an error, because an error names the record that was
 * read last.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"

#include "execute_internal.h"

/* rows held back, and bytes of their values */
#define MAX_ROWS	32
#define MAX_BYTES	(32 * 1024)

/* A column whose values are read: a key, an argument or a filter. */
typedef struct RowColumn
{
	int			index;
	bool		byval;
	int16		len;
} RowColumn;

struct SaggRows
{
	SaggExecution *ex;
	int			natts;
	int			ncolumns;
	RowColumn  *columns;
	int			n;
	int64		starts[MAX_ROWS];
	uint32		hashes[MAX_ROWS];
	Datum	   *values;			/* natts per row */
	bool	   *nulls;
	Size		nbytes;
	char	   *bytes;			/* memory that values point to */
	bool		check_keys;		/* some keys may be too long */
	bool		fetch_places;	/* a hash of the store costs less than a place
								 * that is not in a cache */
};

/*
 * Returns whether rows may be held back.
 */
static bool
is_safe(const SaggExecution *ex)
{
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		if (ex->keys[i].kind == SAGG_KEY_GENERAL)
			return false;
	}
	for (int i = 0; i < ex->query->naggs; i++)
	{
		switch (ex->aggs[i].kind)
		{
			case SAGG_INLINE_NONE:
			case SAGG_INLINE_SUM_FLOAT4:
			case SAGG_INLINE_SUM_FLOAT8:
				return false;
			default:
				break;
		}
	}
	return true;
}

static void
add_column(SaggRows *rows, TupleDesc desc, AttrNumber attno)
{
	Form_pg_attribute attr = TupleDescAttr(desc, attno - 1);
	RowColumn  *column;

	for (int i = 0; i < rows->ncolumns; i++)
	{
		if (rows->columns[i].index == attno - 1)
			return;
	}
	column = &rows->columns[rows->ncolumns++];
	column->index = attno - 1;
	column->byval = attr->attbyval;
	column->len = attr->attlen;
}

/*
 * Prepare for rows of "desc", in the current context; returns NULL if rows
 * have to be taken one by one.
 */
SaggRows *
sagg_rows_init(SaggExecution *ex, TupleDesc desc)
{
	const SaggQuery *query = ex->query;
	SaggRows   *rows;

	if (!is_safe(ex))
		return NULL;
	rows = palloc0(sizeof(SaggRows));
	rows->ex = ex;
	rows->natts = desc->natts;
	rows->columns = palloc(sizeof(RowColumn) * Max(desc->natts, 1));
	rows->fetch_places = true;
	for (int i = 0; i < query->nkeys; i++)
	{
		if (ex->keys[i].kind == SAGG_KEY_ENUM)
			rows->fetch_places = false;
		add_column(rows, desc, query->keys[i].attno);
		if (ex->max_key_bytes > 0 && ex->keys[i].codec.len < 0)
			rows->check_keys = true;
	}
	for (int i = 0; i < query->naggs; i++)
	{
		for (int j = 0; j < query->aggs[i].nargs; j++)
			add_column(rows, desc, query->aggs[i].args[j]);
		if (query->aggs[i].filter != 0)
			add_column(rows, desc, query->aggs[i].filter);
	}
	rows->values = palloc(sizeof(Datum) * rows->natts * MAX_ROWS);
	rows->nulls = palloc(sizeof(bool) * rows->natts * MAX_ROWS);
	rows->bytes = palloc(MAX_BYTES);
	return rows;
}

/*
 * Returns the bytes of the row's values, without their Datums.
 */
static Size
row_bytes(const SaggRows *rows, const Datum *values, const bool *nulls)
{
	Size		bytes = 0;

	for (int i = 0; i < rows->ncolumns; i++)
	{
		const RowColumn *column = &rows->columns[i];

		if (column->byval || nulls[column->index])
			continue;
		if (column->len > 0)
			bytes += MAXALIGN(column->len);
		else
			bytes += MAXALIGN(VARSIZE_ANY(DatumGetPointer(values[column->index])));
	}
	return bytes;
}

/*
 * Take a row at once.
 */
static void
take_row(SaggExecution *ex, int64 start, uint32 hash, Datum *values, bool *nulls)
{
	SaggGroup  *group = sagg_groups_lookup_row(ex, start, hash, values, nulls);

	group->changed = true;
	sagg_states_advance(ex, group->states, values, nulls);
}

/*
 * Prefetch the groups of the rows that were held back: where the batch has them,
 * or else where the store may.
 */
static void
fetch_groups(const SaggRows *rows)
{
	SaggExecution *ex = rows->ex;
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);

	for (int i = 0; i < rows->n; i++)
	{
		if (!sagg_groups_fetch(ex, rows->hashes[i]) && rows->fetch_places)
			sagg_groups_fetch_place(ex, rows->starts[i], rows->hashes[i],
									rows->values + i * rows->natts,
									rows->nulls + i * rows->natts);
	}
	MemoryContextSwitchTo(old);
}

/*
 * Take the rows that were held back.
 */
void
sagg_rows_flush(SaggRows *rows)
{
	int			n = rows->n;

	fetch_groups(rows);
	rows->n = 0;
	rows->nbytes = 0;
	for (int i = 0; i < n; i++)
		take_row(rows->ex, rows->starts[i], rows->hashes[i],
				 rows->values + i * rows->natts, rows->nulls + i * rows->natts);
	ResetExprContext(rows->ex->tmpcontext);
	sagg_group_memory_check(rows->ex, n);
}

/*
 * Take, or hold back, a row of the window that starts at "start".  Returns
 * false for a row that may be rejected, when none is held back any more and
 * this one is the caller's to take.
 */
bool
sagg_rows_add(SaggRows *rows, int64 start, Datum *values, bool *nulls)
{
	SaggExecution *ex = rows->ex;
	uint32		hash = sagg_groups_hash_row(ex, start, values, nulls);
	Size		bytes = row_bytes(rows, values, nulls);
	Datum	   *to;

	if (rows->check_keys && !sagg_keys_fit(ex, ex->row_keys, ex->row_keynulls))
	{
		sagg_rows_flush(rows);
		return false;
	}
	if (rows->n == MAX_ROWS || rows->nbytes + bytes > MAX_BYTES)
		sagg_rows_flush(rows);
	if (bytes > MAX_BYTES)
	{
		take_row(ex, start, hash, values, nulls);
		ResetExprContext(ex->tmpcontext);
		sagg_group_memory_check(ex, 1);
		return true;
	}

	sagg_groups_fetch_slot(ex, hash);
	rows->starts[rows->n] = start;
	rows->hashes[rows->n] = hash;
	to = rows->values + rows->n * rows->natts;
	memcpy(to, values, sizeof(Datum) * rows->natts);
	memcpy(rows->nulls + rows->n * rows->natts, nulls, sizeof(bool) * rows->natts);
	rows->n++;
	for (int i = 0; i < rows->ncolumns; i++)
	{
		const RowColumn *column = &rows->columns[i];
		const char *value = DatumGetPointer(values[column->index]);
		Size		len;

		if (column->byval || nulls[column->index])
			continue;
		len = column->len > 0 ? (Size) column->len : VARSIZE_ANY(value);
		memcpy(rows->bytes + rows->nbytes, value, len);
		to[column->index] = PointerGetDatum(rows->bytes + rows->nbytes);
		rows->nbytes += MAXALIGN(len);
	}
	return true;
}
