/*-------------------------------------------------------------------------
 *
 * repair_rows.c
 *	  Computes rows of windows by running the stream's own query in PostgreSQL,
 *	  and replaces the rows in the sink.
 *
 * The query is run as a batch over what the stream has read, less what it has
 * left out.  Everything runs as the stream's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rangetypes.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "repair_internal.h"
#include "event_time/event_time.h"
#include "streams/streams.h"
#include "write/write.h"

#define ROWS_AT_ONCE	1000

/*
 * Raises an error unless a row identifies its window.
 */
void
sagg_repair_check_column(const SaggRepair *repair)
{
	if (repair->query->window_output == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("late records of stream \"%s\" cannot be repaired",
						sagg_stream_title(repair->stream->name)),
				 errdetail("Its select list omits the window, so it is unknown which rows of the sink belong to it."),
				 errhint("Create a stream whose query selects the window.")));
}

/*
 * Returns the value of the column that identifies the window, for a window.
 */
static Datum
window_value(const SaggRepair *repair, const SaggLateWindow *window)
{
	RangeBound	lower = {.inclusive = true, .lower = true};
	RangeBound	upper = {0};

	lower.val = TimestampTzGetDatum(window->start);
	upper.val = TimestampTzGetDatum(window->end);
	if (repair->query->window_identity == SAGG_WINDOW_WHOLE &&
		repair->query->window.type == TSTZRANGEOID)
		return RangeTypePGetDatum(SAGG_MAKE_RANGE(lookup_type_cache(TSTZRANGEOID, TYPECACHE_RANGE_INFO),
												  &lower, &upper, false));
	return sagg_window_column_value(repair->query,
									repair->query->window_identity == SAGG_WINDOW_END ?
									window->end : window->start);
}

/*
 * Returns the values of all windows that can be recomputed, as an array.
 */
static Datum
window_values(const SaggRepair *repair)
{
	Oid			type = TupleDescAttr(repair->query->output_desc, repair->query->window_output - 1)->atttypid;
	Datum	   *values = palloc(sizeof(Datum) * repair->nwindows);
	int			n = 0;
	int16		len;
	bool		byval;
	char		align;

	for (int i = 0; i < repair->nwindows; i++)
	{
		if (repair->windows[i].reason == NULL)
			values[n++] = window_value(repair, &repair->windows[i]);
	}
	get_typlenbyvalalign(type, &len, &byval, &align);
	return PointerGetDatum(construct_array(values, n, type, len, byval, align));
}

/*
 * Run the stream's query for those windows.
 */
static void
run_query(const SaggRepair *repair, Datum windows, Tuplestorestate *rows)
{
	const SaggStream *stream = repair->stream;
	TupleDesc	desc = repair->query->output_desc;
	Oid			type = get_array_type(TupleDescAttr(desc, repair->query->window_output - 1)->atttypid);
	char	   *text;
	Portal		portal;

	text = psprintf("SELECT * FROM %s q WHERE q.%s OPERATOR(pg_catalog.=) ANY ($1)",
					quote_qualified_identifier(get_namespace_name(get_rel_namespace(stream->view)),
											   get_rel_name(stream->view)),
					quote_identifier(NameStr(TupleDescAttr(desc, repair->query->window_output - 1)->attname)));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	portal = SPI_cursor_open_with_args(NULL, text, 1, &type, &windows, NULL, false, 0);
	PinPortal(portal);			/* users' code could close it */
	do
	{
		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, ROWS_AT_ONCE);
		for (uint64 i = 0; i < SPI_processed; i++)
			tuplestore_puttuple(rows, SPI_tuptable->vals[i]);
		SPI_freetuptable(SPI_tuptable);
	} while (SPI_processed > 0);
	UnpinPortal(portal);
	SPI_cursor_close(portal);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
}

/*
 * Returns what the stream has read, less the records it could not process.
 */
static SaggRestriction *
make_restriction(const SaggRepair *repair)
{
	SaggRestriction *restriction = palloc0(sizeof(SaggRestriction));
	SaggRange  *dead;

	restriction->sources = repair->stream->sources;
	restriction->nranges = repair->nranges;
	restriction->ranges = repair->ranges;
	restriction->lenient = repair->stream->options.on_error != SAGG_FAIL;
	if (!restriction->lenient)
		return restriction;
	dead = sagg_checkpoint_dead_offsets(repair->checkpoint, &restriction->nleft_out);
	restriction->left_out = palloc(sizeof(SaggPlace) * Max(restriction->nleft_out, 1));
	for (int i = 0; i < restriction->nleft_out; i++)
	{
		restriction->left_out[i].topic = dead[i].topic;
		restriction->left_out[i].partition = dead[i].partition;
		restriction->left_out[i].offset = dead[i].start;
	}
	sagg_restriction_sort(restriction->left_out, restriction->nleft_out);
	return restriction;
}

/*
 * Recompute the rows of all windows that have no reason against it.
 */
void
sagg_repair_rows(SaggRepair *repair)
{
	Datum		windows = window_values(repair);
	Tuplestorestate *rows = tuplestore_begin_heap(true, false, work_mem);
	SaggRestriction *restriction = make_restriction(repair);
	SaggSink   *sink = sagg_sink_open(repair->stream);

	PG_TRY();
	{
		sagg_batch_restrict(restriction);
		run_query(repair, windows, rows);
		sagg_batch_restrict(NULL);
		sagg_sink_repair(sink, repair->query, rows, repair->query->window_output, windows);
	}
	PG_CATCH();
	{
		sagg_sink_close(sink);
		PG_RE_THROW();
	}
	PG_END_TRY();
	sagg_sink_close(sink);
	tuplestore_end(rows);
}
