/*-------------------------------------------------------------------------
 *
 * shared_scan.c
 *	  Scans of a batch that is read for several streams, or by several scans of
 *	  one query: each record is decoded once.
 *
 * A stream's scan decodes what its query reads, and keeps that; the scans of
 * the streams after it take it from here.  The first scan of a batch also
 * keeps what the others are expected to read, so that one pass over the
 * payloads is enough.  A scan decodes by itself what is missing.
 *
 * A scan finds here only values that it would have made itself:
 *
 * - Of the columns that only others read, the first scan takes what has a short
 *	 way (fast_datum.c), which cannot fail.  So no stream gets an error, or runs
 *	 an input function, of a column it does not read; and a record that does not
 *	 decode is decoded, and rejected, by each.
 * - What went the short way depends on no setting, except local times.  They are
 *	 kept as dates and times that went the long way.
 * - What went the long way is kept if the type's input function is immutable;
 *	 dates and times, for scans under the same settings; what has domains or
 *	 composites in it is not kept.
 * - A change to the source's definition, which only a trigger can make in a
 *	 batch, makes what was kept before it unusable.
 *
 * Values live until the end of the batch.  All of this is bounded by
 * stream_agg.batch_memory (I7); further rows are decoded by every scan.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"

#include "read/format/format.h"
#include "shared_rows.h"

struct SaggSharedScan
{
	SaggRowStore *store;
	SaggDecoder *decoder;		/* decoder of what the scan reads */
	SaggDecoder *first;			/* decoder of more columns, or NULL */
	bool		cleared;		/* columns that are not read are NULL */
	int64		ndecoded;		/* number of records */
	const SaggRowBlock *block;	/* block of the current record, or NULL */
	int			row;			/* index in it */
};

/*
 * Returns a decoder of what the other streams are expected to read, too; NULL
 * if that is no more than "used".  For avro, one decoder cannot always read
 * the parts of all streams at once.
 */
static SaggDecoder *
make_first(Relation rel, const SaggLayout *layout, const Bitmapset *used,
		   const Bitmapset *expected)
{
	SaggDecoder *decoder;

	if (layout->format == &sagg_format_avro || bms_is_subset(expected, used))
		return NULL;
	decoder = sagg_decoder_make(RelationGetDescr(rel),
								sagg_source_layout(rel, bms_union(expected, used)),
								layout->natts);
	for (int i = 0; i < decoder->ncolumns; i++)
		decoder->columns[i].optional = !bms_is_member(decoder->columns[i].index + 1, used);
	return decoder;
}

/*
 * A scan of the attached batch begins, which reads the attributes "used" of
 * the source with "decoder", made for "layout".  The result is in the current
 * context; NULL if the batch is not shared, and then only the scan uses the
 * decoder.
 */
SaggSharedScan *
sagg_shared_scan_begin(Relation rel, const SaggLayout *layout,
					   const Bitmapset *used, SaggDecoder *decoder)
{
	SaggRowStore *store = sagg_shared_store(rel);
	SaggSharedScan *scan;
	Bitmapset  *expected;

	if (store == NULL)
		return NULL;
	expected = sagg_shared_interest(RelationGetRelid(rel), used);
	scan = palloc0(sizeof(SaggSharedScan));
	scan->store = store;
	scan->decoder = decoder;
	if (!store->read)
		scan->first = make_first(rel, layout, used, expected);
	store->read = true;
	return scan;
}

static bool
under_settings(const SaggRowStore *store)
{
	return store->has_settings && store->settings.timezone == session_timezone &&
		store->settings.date_order == DateOrder &&
		store->settings.interval_style == IntervalStyle;
}

/*
 * Set columns of the source that the scan does not read to NULL.
 */
static void
clear_unused(SaggSharedScan *scan, Datum *values, bool *isnull)
{
	const SaggDecoder *decoder = scan->decoder;

	for (int i = 0; i < decoder->nunused; i++)
	{
		values[decoder->unused[i]] = (Datum) 0;
		isnull[decoder->unused[i]] = true;
	}
	scan->cleared = true;
}

/*
 * Go to the record of a number; sets its position if that is kept.  Returns
 * false if it is not.
 */
bool
sagg_shared_seek(SaggSharedScan *scan, int64 number, SaggRecord *record)
{
	const SaggRowStore *store = scan->store;
	const SaggPlace *place;

	scan->block = number / SAGG_BLOCK_ROWS < store->rows->nblocks ?
		store->blocks[number / SAGG_BLOCK_ROWS] : NULL;
	scan->row = number % SAGG_BLOCK_ROWS;
	if (scan->block && scan->block->rows[scan->row] == SAGG_ROW_UNKNOWN)
		scan->block = NULL;
	if (scan->block == NULL)
		return false;
	place = &scan->block->places[scan->row];
	record->topic = place->topic;
	record->partition = place->partition;
	record->offset = place->offset;
	return true;
}

/*
 * Set the columns of the record that sagg_shared_seek has gone to, if they are
 * kept.  Returns false if not all are.  Values live until the end of the
 * batch, and must not be changed.
 */
bool
sagg_shared_find(SaggSharedScan *scan, Datum *values, bool *isnull,
				 SaggVerdict *verdict)
{
	const SaggDecoder *decoder = scan->decoder;
	const SaggRowBlock *block = scan->block;
	int			row = scan->row;

	if (block == NULL)
		return false;
	*verdict = block->rows[row] == SAGG_ROW_GOOD ? SAGG_RECORD_GOOD : SAGG_RECORD_LEFT_OUT;
	if (*verdict == SAGG_RECORD_LEFT_OUT)
		return true;
	for (int i = 0; i < decoder->ncolumns; i++)
	{
		int			index = decoder->columns[i].index;
		const SaggCells *cells = block->columns[index];
		uint8		state = cells ? cells->states[row] : SAGG_CELL_UNKNOWN;

		if (state == SAGG_CELL_UNKNOWN ||
			(state == SAGG_CELL_OF_SETTINGS && !under_settings(scan->store)))
			return false;
		values[index] = cells->values[row];
		isnull[index] = state == SAGG_CELL_NULL;
	}
	if (!scan->cleared)
		clear_unused(scan, values, isnull);
	return true;
}

/*
 * Returns whether values of a column that are converted the long way may be
 * kept.  The value must depend only on the text, apart from the source's own
 * definition and the server's types of dates and times; and the parts of a
 * type must not change meanwhile.
 */
static SaggKeep
look_up_keep(const SaggConversion *conv)
{
	Oid			type = get_element_type(conv->type);
	Oid			input;
	Oid			ioparam;

	if (!OidIsValid(type))
		type = conv->type;
	if (OidIsValid(conv->domain))
		return SAGG_KEEP_NEVER;
	switch (type)
	{
		case TIMESTAMPTZOID:
		case TIMESTAMPOID:
		case DATEOID:
		case TIMEOID:
		case TIMETZOID:
		case INTERVALOID:
			return SAGG_KEEP_OF_SETTINGS;
	}
	if (get_typtype(type) == TYPTYPE_ENUM)
		return SAGG_KEEP_ALWAYS;
	if (get_typtype(type) != TYPTYPE_BASE)
		return SAGG_KEEP_NEVER;
	getTypeInputInfo(type, &input, &ioparam);
	return func_volatile(input) == PROVOLATILE_IMMUTABLE ? SAGG_KEEP_ALWAYS : SAGG_KEEP_NEVER;
}

/*
 * Returns how a value that was converted the long way, or is a local time, is
 * kept; SAGG_CELL_UNKNOWN: it is not.
 */
static uint8
kept_state(SaggRowStore *store, const DecoderColumn *column, bool isnull)
{
	SaggKeep   *keep = &store->columns[column->index].keep;

	if (*keep == SAGG_KEEP_NOT_LOOKED_UP)
		*keep = look_up_keep(&column->conv);
	if (*keep == SAGG_KEEP_NEVER)
		return SAGG_CELL_UNKNOWN;
	if (isnull)
		return SAGG_CELL_NULL;
	if (*keep == SAGG_KEEP_ALWAYS)
		return SAGG_CELL_VALUE;
	if (!store->has_settings)
	{
		store->has_settings = true;
		store->settings.timezone = session_timezone;
		store->settings.date_order = DateOrder;
		store->settings.interval_style = IntervalStyle;
	}
	return under_settings(store) ? SAGG_CELL_OF_SETTINGS : SAGG_CELL_UNKNOWN;
}

/*
 * Keep a column of the record that "decoder" has just decoded.
 */
static void
keep_column(SaggRowStore *store, SaggRowBlock *block, int row, DecoderColumn *column,
			Datum value, bool isnull)
{
	const SaggRowColumn *kept = &store->columns[column->index];
	SaggWay		way = column->way;
	SaggCells  *cells = block->columns[column->index];
	uint8		state = isnull ? SAGG_CELL_NULL : SAGG_CELL_VALUE;

	column->way = SAGG_WAY_SHORT;
	if (way == SAGG_WAY_NONE || (cells && cells->states[row] != SAGG_CELL_UNKNOWN))
		return;
	if (way == SAGG_WAY_LONG || column->conv.is_local)
		state = kept_state(store, column, isnull);
	if (state == SAGG_CELL_UNKNOWN)
		return;
	if (cells == NULL && (cells = sagg_shared_memory(store->rows, sizeof(SaggCells))) == NULL)
		return;
	block->columns[column->index] = cells;
	if (isnull || kept->byval)
		cells->values[row] = value;
	else if (!sagg_shared_copy(store->rows, kept->len, value, &cells->values[row]))
		return;
	cells->states[row] = state;
}

/*
 * Keep what "decoder" has made of a record.
 */
static void
keep_row(SaggRowStore *store, SaggDecoder *decoder, int64 number, const SaggRecord *record,
		 SaggVerdict verdict, const Datum *values, const bool *isnull)
{
	SaggRowBlock *block;
	int			row = number % SAGG_BLOCK_ROWS;

	if (number / SAGG_BLOCK_ROWS >= store->rows->nblocks)
		return;
	block = store->blocks[number / SAGG_BLOCK_ROWS];
	if (block == NULL)
		block = sagg_shared_memory(store->rows, offsetof(SaggRowBlock, columns) +
								   sizeof(SaggCells *) * store->natts);
	if (block == NULL)
		return;
	store->blocks[number / SAGG_BLOCK_ROWS] = block;
	block->rows[row] = verdict == SAGG_RECORD_GOOD ? SAGG_ROW_GOOD : SAGG_ROW_LEFT_OUT;
	block->places[row].topic = record->topic;
	block->places[row].partition = record->partition;
	block->places[row].offset = record->offset;
	if (verdict != SAGG_RECORD_GOOD)
		return;
	for (int i = 0; i < decoder->ncolumns; i++)
	{
		DecoderColumn *column = &decoder->columns[i];

		keep_column(store, block, row, column, values[column->index],
					isnull[column->index]);
	}
}

/*
 * Does sagg_decoder_try (or, if "why" is NULL, sagg_decoder_decode) for the
 * record of a number, when sagg_shared_find has not found it.
 */
SaggVerdict
sagg_shared_decode(SaggSharedScan *scan, int64 number, const SaggRecord *record,
				   Datum *values, bool *isnull, SaggRecordError *why)
{
	SaggDecoder *decoder = scan->first && !scan->store->rows->full ? scan->first : scan->decoder;
	SaggVerdict verdict;

	scan->ndecoded++;
	if (why)
		verdict = sagg_decoder_try(decoder, record->payload, record->payload_len,
								   values, isnull, why);
	else
		verdict = sagg_decoder_decode(decoder, record->payload, record->payload_len,
									  values, isnull) ?
			SAGG_RECORD_GOOD : SAGG_RECORD_LEFT_OUT;
	if (verdict != SAGG_RECORD_INVALID && !scan->store->rows->full)
		keep_row(scan->store, decoder, number, record, verdict, values, isnull);
	if (decoder == scan->first)
		clear_unused(scan, values, isnull);
	return verdict;
}

/*
 * The scan has ended; the caller frees its own decoder.
 */
void
sagg_shared_scan_end(SaggSharedScan *scan)
{
	scan->store->rows->nscans++;
	scan->store->rows->ndecoded += scan->ndecoded;
	if (scan->first)
		sagg_decoder_free(scan->first);
}
