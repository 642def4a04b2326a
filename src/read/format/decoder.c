/*-------------------------------------------------------------------------
 *
 * decoder.c
 *	  The decoder: turns a record's payload into the columns of a source, by
 *	  the rules of decode.h.
 *
 * The source's format finds the values (format_*.c); each is converted the
 * short way (fast_datum.c) or the long way (record_datum.c).  Only the long
 * way can raise errors that are the record's fault, so only it has a PG_TRY:
 * that costs 5 ns, little compared with an input function, and nothing for
 * records of numbers, times and texts.
 *
 * An error that is the record's fault becomes ERRCODE_SAGG_INVALID_RECORD with
 * a reason; the scan's error context adds topic, partition and offset.  The
 * error is rethrown, never swallowed, so no subtransaction is needed; where a
 * record may be rejected instead, the long way has one (record_errors.c).  Any
 * other error (a cancelled query, no memory) is rethrown unchanged, because it
 * would not recur.
 *
 * Of a rejected record no column is ever used (I5): the caller gets an error,
 * or a result that says so.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "format.h"

/* longest text of another error's message in ours */
#define MAX_REASON_BYTES	500

/* a buffer for larger payloads is not kept */
#define KEEP_BUFFER_BYTES	(1024 * 1024)

static void
add_column(SaggDecoder *decoder, TupleDesc desc, int index,
		   const SaggField *field)
{
	Form_pg_attribute attr = TupleDescAttr(desc, index);
	DecoderColumn *column = &decoder->columns[decoder->ncolumns++];

	column->index = index;
	column->source = field;
	sagg_conversion_init(&column->conv, attr->atttypid, attr->atttypmod,
						 attr->attcollation);
	column->conv.unit = field->unit;
}

/*
 * Makes a decoder for rows of "desc", of which it fills the first "natts"
 * columns; the rest is not changed.  The decoder lives in a child of the
 * current memory context, until sagg_decoder_free or the end of that context;
 * the layout must live as long.  Raises an error for a column whose type has
 * no input function.
 */
SaggDecoder *
sagg_decoder_make(TupleDesc desc, const SaggLayout *layout, int natts)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "stream_agg record decoder",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext save = MemoryContextSwitchTo(context);
	SaggDecoder *decoder = palloc0(sizeof(SaggDecoder));

	decoder->context = context;
	decoder->layout = layout;
	decoder->columns = palloc0(sizeof(DecoderColumn) * (natts + 1));
	decoder->unused = palloc0(sizeof(int) * (natts + 1));
	decoder->longs = palloc0(sizeof(DecoderColumn *) * (natts + 1));
	for (int i = 0; i < natts; i++)
	{
		if (layout->fields[i].kind == SAGG_FIELD_PAYLOAD)
			add_column(decoder, desc, i, &layout->fields[i]);
		else if (layout->fields[i].kind == SAGG_FIELD_UNUSED)
			decoder->unused[decoder->nunused++] = i;
	}
	layout->format->prepare(decoder);

	MemoryContextSwitchTo(save);
	return decoder;
}

/* Frees a decoder.  The Datums it made remain valid. */
void
sagg_decoder_free(SaggDecoder *decoder)
{
	MemoryContextDelete(decoder->context);
}

/*
 * Makes a buffer hold "size" bytes and one more; its contents are lost.  It
 * lives in "context"; a buffer that is larger than necessary is freed (I7).
 */
char *
sagg_buffer_reserve(SaggBuffer *buffer, MemoryContext context, Size size)
{
	Size		capacity = 1024;

	if (buffer->data && size < buffer->capacity &&
		(buffer->capacity <= KEEP_BUFFER_BYTES || size > KEEP_BUFFER_BYTES))
		return buffer->data;
	while (capacity <= size)
		capacity *= 2;
	if (buffer->data)
		pfree(buffer->data);
	buffer->data = NULL;
	buffer->data = MemoryContextAllocHuge(context, capacity);
	buffer->capacity = capacity;
	return buffer->data;
}

/*
 * Returns whether a payload is a text: not too large, UTF-8, without NULs.
 * "what" is its format, for the reason.
 */
bool
sagg_payload_is_text(const char *payload, Size len, const char *what,
					 SaggRecordError *why)
{
	why->detail = NULL;
	if (len > SAGG_JSON_MAX_SIZE)
	{
		why->message = psprintf("record of %zu bytes is too large", len);
		why->detail = psprintf("Records of up to %d bytes can be decoded.",
							   SAGG_JSON_MAX_SIZE);
		return false;
	}
	if (pg_verify_mbstr(PG_UTF8, payload, (int) len, true))
		return true;
	why->message = psprintf("invalid %s record: not UTF-8 text", what);
	return false;
}

/*
 * Ends PG_CATCH: rethrows the caught error as an invalid record, or unchanged.
 */
static void
throw_invalid_field(SaggDecoder *decoder, const DecoderColumn *column)
{
	ErrorData  *error = CopyErrorData();
	int			len;

	if (!sagg_is_record_fault(error))
	{
		if (!sagg_is_input_complaint(error))
			PG_RE_THROW();
		decoder->doubted = column;
	}
	FlushErrorState();
	len = pg_mbcliplen(error->message, strlen(error->message), MAX_REASON_BYTES);
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_INVALID_RECORD),
			 errmsg("value for field \"%s\" is not a valid %s", column->source->name,
					column->conv.type_name),
			 errdetail("Its conversion failed: %.*s.", len, error->message)));
}

/* Makes the Datum of a column the long way. */
static void
decode_long(SaggDecoder *decoder, DecoderColumn *column, Datum *result,
			bool *isnull)
{
	MemoryContext save = CurrentMemoryContext;

	PG_TRY();
	{
		*result = sagg_convert(&column->conv, &decoder->values[column->value],
							   isnull);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(save);
		throw_invalid_field(decoder, column);
	}
	PG_END_TRY();
}

/*
 * Converts the columns of a parsed record the short way; those that need the
 * long way are noted for decode_longs.
 */
static void
decode_shorts(SaggDecoder *decoder, Datum *values, bool *isnull)
{
	decoder->nlong = 0;
	for (int i = 0; i < decoder->nunused; i++)
	{
		values[decoder->unused[i]] = (Datum) 0;
		isnull[decoder->unused[i]] = true;
	}
	for (int i = 0; i < decoder->ncolumns; i++)
	{
		DecoderColumn *column = &decoder->columns[i];
		SaggFieldValue *value = &decoder->values[column->value];
		Datum	   *result = &values[column->index];
		bool	   *null = &isnull[column->index];

		if ((value->kind == SAGG_FIELD_MISSING || value->kind == SAGG_FIELD_NULL) &&
			!OidIsValid(column->conv.domain))
		{
			*result = (Datum) 0;
			*null = true;
		}
		else if (sagg_convert_fast(&column->conv, value, result))
			*null = false;
		else if (column->optional)
		{
			*result = (Datum) 0;
			*null = true;
			column->way = SAGG_WAY_NONE;
		}
		else
		{
			column->way = SAGG_WAY_LONG;
			decoder->longs[decoder->nlong++] = column;
		}
	}
}

static void
decode_longs(SaggDecoder *decoder, Datum *values, bool *isnull)
{
	for (int i = 0; i < decoder->nlong; i++)
	{
		int			index = decoder->longs[i]->index;

		decode_long(decoder, decoder->longs[i], &values[index], &isnull[index]);
	}
}

/*
 * Handles a record without value, if the source's options say what to do.
 */
static SaggVerdict
take_tombstone(SaggDecoder *decoder, SaggRecordError *why)
{
	switch (decoder->layout->tombstones)
	{
		case SAGG_TOMBSTONES_IGNORE:
			return SAGG_RECORD_LEFT_OUT;
		case SAGG_TOMBSTONES_NULL:
			for (int i = 0; i < decoder->ncolumns; i++)
				decoder->values[decoder->columns[i].value].kind = SAGG_FIELD_MISSING;
			return SAGG_RECORD_GOOD;
		case SAGG_TOMBSTONES_FAIL:
		case SAGG_TOMBSTONES_BY_FORMAT:
			break;
	}
	why->message = "record has no value";
	why->detail = "It is a tombstone. The source's option tombstones could be ignore or null.";
	return SAGG_RECORD_INVALID;
}

static inline SaggVerdict
parse(SaggDecoder *decoder, const char *payload, Size len, SaggRecordError *why)
{
	if (payload == NULL && decoder->layout->tombstones != SAGG_TOMBSTONES_BY_FORMAT)
		return take_tombstone(decoder, why);
	return decoder->layout->format->parse(decoder, payload, len, why);
}

/*
 * Decodes a payload of len bytes, NULL for a record without value, into
 * values[] and isnull[] of the columns of kind SAGG_FIELD_PAYLOAD; columns of
 * kind SAGG_FIELD_UNUSED become NULL, others are not changed.  Values are made
 * in the current memory context; payload may be freed afterwards.  Returns
 * false for a record that the source leaves out.  Raises
 * ERRCODE_SAGG_INVALID_RECORD for one that does not decode.
 */
bool
sagg_decoder_decode(SaggDecoder *decoder, const char *payload, Size len,
					Datum *values, bool *isnull)
{
	SaggRecordError why;

	switch (parse(decoder, payload, len, &why))
	{
		case SAGG_RECORD_GOOD:
			break;
		case SAGG_RECORD_LEFT_OUT:
			return false;
		case SAGG_RECORD_INVALID:
			ereport(ERROR,
					(errcode(ERRCODE_SAGG_INVALID_RECORD),
					 errmsg("%s", why.message),
					 why.detail ? errdetail_internal("%s", why.detail) : 0));
	}
	decode_shorts(decoder, values, isnull);
	decode_longs(decoder, values, isnull);
	return true;
}

typedef struct LongWay
{
	SaggDecoder *decoder;
	Datum	   *values;
	bool	   *isnull;
} LongWay;

static void
run_long_way(void *arg)
{
	LongWay    *way = (LongWay *) arg;

	decode_longs(way->decoder, way->values, way->isnull);
}

/*
 * Decodes a payload like sagg_decoder_decode, but a record that does not
 * decode raises no error: returns SAGG_RECORD_INVALID then, with the reason in
 * the current memory context; the contents of values[] and isnull[] are
 * undefined.  Raises an error, although one of the conversion's is swallowed, if
 * the catalogs have lost what it needs.  Needs a transaction.
 */
SaggVerdict
sagg_decoder_try(SaggDecoder *decoder, const char *payload, Size len,
				 Datum *values, bool *isnull, SaggRecordError *why)
{
	LongWay		way = {decoder, values, isnull};
	SaggVerdict verdict;

	verdict = parse(decoder, payload, len, why);
	if (verdict != SAGG_RECORD_GOOD)
		return verdict;
	decode_shorts(decoder, values, isnull);
	if (decoder->nlong == 0)
		return SAGG_RECORD_GOOD;
	decoder->doubted = NULL;
	if (sagg_record_protect(run_long_way, &way, why))
		return SAGG_RECORD_GOOD;
	if (decoder->doubted)
		sagg_conversion_check(&decoder->doubted->conv);
	return SAGG_RECORD_INVALID;
}
