/*-------------------------------------------------------------------------
 *
 * sink_replaced.c
 *	  Finds the rows of a sink that recomputed results overwrite.
 *
 * The column that has the window, or one of its bounds, identifies them.
 * Nothing here changes a row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "write_internal.h"

#define ROWS_AT_ONCE	1000

/*
 * Returns the time that identifies the window of a row: an expression over the
 * sink.
 */
char *
sagg_sink_row_time(const SinkBatch *batch, const char *alias)
{
	const SaggQuery *query = batch->query;
	const char *column = sagg_sink_column(batch->desc, query->window_output);

	if (query->window_identity != SAGG_WINDOW_WHOLE || query->window.type != TSTZRANGEOID)
		return psprintf("%s.%s", alias, column);
	return psprintf("pg_catalog.%s(%s.%s)",
					query->window.kind == SAGG_WINDOW_SESSION ? "upper" : "lower", alias, column);
}

/*
 * Returns the condition for the rows that "replaces" of a batch's output
 * selects: an expression over the sink, s, with the bound as $1; NULL = all.
 */
char *
sagg_sink_replaced_rows(const SinkBatch *batch, TimestampTz replaces)
{
	if (replaces == DT_NOBEGIN)
		return NULL;
	return psprintf("%s OPERATOR(pg_catalog.>=) $1", sagg_sink_row_time(batch, "s"));
}

/*
 * Lock the sink and open it as for a batch that will not write, and check that
 * the windows of its rows can be read.  In mode complete all rows are replaced,
 * whatever their windows.
 */
static void
open_sink(SinkBatch *batch, SaggSink *sink, const SaggStream *stream, const SaggQuery *query)
{
	memset(batch, 0, sizeof(SinkBatch));
	memset(sink, 0, sizeof(SaggSink));
	sink->relid = stream->sink;
	sink->mode = stream->mode;
	sink->kind = &sagg_table_sink;
	batch->sink = sink;
	batch->query = query;
	batch->desc = query->output_desc;
	sagg_sink_batch_open(batch, false);
	if (query->window_output != 0 && stream->mode != SAGG_COMPLETE)
		sagg_sink_check_windows(batch->rel, query, batch->columns[query->window_output - 1],
								true, ERRCODE_DATATYPE_MISMATCH);
	if (batch->rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		batch->name = psprintf("ONLY %s", batch->name);
}

/*
 * Returns a cursor over the sink's rows whose window is "from" or later, see
 * sagg_sink_replaced_rows: "columns" are expressions over the sink, s, and the
 * text after the condition.
 */
static Portal
open_cursor(const SinkBatch *batch, TimestampTz from, const char *columns, const char *rest)
{
	Oid			type = sagg_window_column_type(batch->query);
	Datum		bound = sagg_window_column_value(batch->query, from);
	char	   *which = sagg_sink_replaced_rows(batch, from);

	return SPI_cursor_open_with_args(NULL, psprintf("SELECT %s FROM %s s%s%s%s", columns, batch->name,
													which ? " WHERE " : "", which ? which : "", rest),
									 which ? 1 : 0, &type, &bound, NULL, false, 0);
}

/*
 * Returns the number of the sink's rows whose window is identified by a value
 * from "from" up to, not including, "to", or with DT_NOBEGIN and DT_NOEND of
 * all rows; sets *first to the least of these values, DT_NOEND = none or not
 * known.  Runs as the current user; keeps ROW EXCLUSIVE on the sink.  Raises
 * what sagg_sink_check does.
 */
int64
sagg_sink_count(const SaggStream *stream, const SaggQuery *query,
				TimestampTz from, TimestampTz to, int64 *first)
{
	SaggSink	sink;
	SinkBatch	batch;
	Oid			type = sagg_window_column_type(query);
	Oid			types[2] = {type, type};
	Datum		values[2] = {sagg_window_column_value(query, from), sagg_window_column_value(query, to)};
	bool		all = from == DT_NOBEGIN && to == DT_NOEND;
	char	   *text;
	int64		rows;
	Datum		least;
	bool		isnull;

	SPI_connect();
	open_sink(&batch, &sink, stream, query);
	text = all ? psprintf("SELECT pg_catalog.count(*), NULL FROM %s", batch.name) :
		psprintf("SELECT pg_catalog.count(*), pg_catalog.min(%s) FROM %s s"
				 " WHERE %s OPERATOR(pg_catalog.>=) $1 AND %s OPERATOR(pg_catalog.<) $2",
				 sagg_sink_row_time(&batch, "s"), batch.name, sagg_sink_row_time(&batch, "s"), sagg_sink_row_time(&batch, "s"));
	if (SPI_execute_with_args(text, all ? 0 : 2, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", text);
	rows = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	least = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	*first = isnull ? DT_NOEND : sagg_window_column_time(query, least);
	relation_close(batch.rel, NoLock);
	SPI_finish();
	return rows;
}

/*
 * Returns start and end of a row's window, two expressions over the sink, s; NULL
 * where the sink has no windows of the query's type.
 */
static const char *
window_bounds(const SinkBatch *batch)
{
	const SaggQuery *query = batch->query;
	const char *column;

	if (query->window_output == 0 ||
		!sagg_sink_has_windows(batch->rel, query, batch->columns[query->window_output - 1], false))
		return "NULL::pg_catalog.timestamptz, NULL::pg_catalog.timestamptz";
	column = sagg_sink_column(batch->desc, query->window_output);
	if (query->window_identity != SAGG_WINDOW_WHOLE || query->window.type != TSTZRANGEOID)
		return psprintf("s.%s, NULL::pg_catalog.timestamptz", column);
	return psprintf("pg_catalog.lower(s.%s), pg_catalog.upper(s.%s)", column, column);
}

static void
fill_window(SaggSinkWindow *window, const SaggQuery *query, HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, 1, &isnull);

	window->known = !isnull;
	window->told = isnull ? 0 : sagg_window_column_time(query, value);
	value = SPI_getbinval(tuple, desc, 2, &isnull);
	window->end = isnull ? DT_NOEND : DatumGetTimestampTz(value);
	window->rows = DatumGetInt64(SPI_getbinval(tuple, desc, 3, &isnull));
}

/*
 * Returns the windows of the sink's rows, in order, and how many rows each
 * has: of windows identified by "from" or a later value, DT_NOBEGIN = of all.
 * The result is an array of *n in the caller's context.  Runs as the current
 * user; keeps ROW EXCLUSIVE on the sink.
 */
SaggSinkWindow *
sagg_sink_windows(const SaggStream *stream, const SaggQuery *query,
				  TimestampTz from, int64 *n)
{
	SaggSinkWindow *windows = palloc(sizeof(SaggSinkWindow));
	SaggSink	sink;
	SinkBatch	batch;
	Portal		portal;

	*n = 0;
	SPI_connect();
	open_sink(&batch, &sink, stream, query);
	portal = open_cursor(&batch, from, psprintf("%s, pg_catalog.count(*)", window_bounds(&batch)),
						 " GROUP BY 1, 2 ORDER BY 1, 2");
	PinPortal(portal);			/* users' code could close it */
	do
	{
		SPI_cursor_fetch(portal, true, ROWS_AT_ONCE);
		if (SPI_processed > 0)
			windows = repalloc_huge(windows, sizeof(SaggSinkWindow) * (*n + SPI_processed));
		for (uint64 i = 0; i < SPI_processed; i++)
			fill_window(&windows[(*n)++], query, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	UnpinPortal(portal);
	SPI_cursor_close(portal);
	relation_close(batch.rel, NoLock);
	SPI_finish();
	return windows;
}

/*
 * Put the rows that "replaces" selects into "result", each as the text
 * "delete" and the row as jsonb; "desc" is the type of these two columns.
 * Runs as the current user; keeps ROW EXCLUSIVE on the sink.
 */
void
sagg_sink_replaced(const SaggStream *stream, const SaggQuery *query,
				   TimestampTz replaces, Tuplestorestate *result, TupleDesc desc)
{
	SaggSink	sink;
	SinkBatch	batch;
	Portal		portal;

	SPI_connect();
	open_sink(&batch, &sink, stream, query);
	portal = open_cursor(&batch, replaces, "'delete'::pg_catalog.text, pg_catalog.to_jsonb(s)", "");
	PinPortal(portal);			/* users' code could close it */
	do
	{
		SPI_cursor_fetch(portal, true, ROWS_AT_ONCE);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			Datum		values[2];
			bool		nulls[2];

			CHECK_FOR_INTERRUPTS();
			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
			tuplestore_putvalues(result, desc, values, nulls);
		}
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	UnpinPortal(portal);
	SPI_cursor_close(portal);
	relation_close(batch.rel, NoLock);
	SPI_finish();
}
