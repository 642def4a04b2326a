/*-------------------------------------------------------------------------
 *
 * json_decode.c
 *	  The decoder: a record's payload to the columns of a source, by the rules
 *	  of decode.h.
 *
 * The payload goes through json_leaf.cpp, which checks all of it and picks the
 * fields; each field goes the short way (fast_datum.c) or the long one
 * (record_datum.c).  Only the long way can meet errors that are the record's
 * fault, and only there is a PG_TRY: it costs 5 ns, little beside an input
 * function, and nothing for records of numbers, times and texts.
 *
 * What is the record's fault becomes ERRCODE_SAGG_INVALID_RECORD with a reason;
 * the scan's error context adds topic, partition and offset.  The error is
 * raised anew, never swallowed, so no subtransaction is needed; where a record
 * may be refused instead, the long way has one (record_errors.c).  Anything
 * else (a cancelled query, no memory) passes as it is, for it would not be
 * lasting.
 *
 * A record that is refused never leaves half of its columns to be used (I5:
 * the caller sees an error, or is told).  Memory of the leaf is malloc'ed and freed with
 * the decoder's memory context.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "decode.h"
#include "json_leaf.h"
#include "record_datum.h"

/* of another error's message, in ours */
#define MAX_REASON_BYTES	500

/* A column that comes from a field of the payload. */
typedef struct DecoderColumn
{
	int			index;			/* of the column, from 0 */
	int			field;			/* index into the leaf's names and values */
	const char *name;			/* of the field, server encoding */
	SaggConversion conv;
} DecoderColumn;

struct SaggDecoder
{
	MemoryContext context;		/* of all of it */
	MemoryContextCallback callback;
	SaggJsonLeaf *leaf;
	SaggJsonValue *values;		/* one for each of the leaf's names */
	int			ncolumns;
	DecoderColumn *columns;
	int			nunused;
	int		   *unused;			/* columns to set to NULL, from 0 */
	int			nlong;
	DecoderColumn **longs;		/* of the record at hand, for the long way */
};

/* Memory context callback: the leaf's memory is not palloc'ed. */
static void
free_leaf(void *arg)
{
	SaggDecoder *decoder = (SaggDecoder *) arg;

	sagg_json_leaf_free(decoder->leaf);
	decoder->leaf = NULL;
}

static void
no_memory_for_leaf(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errdetail("Failed while decoding a record.")));
}

/*
 * Adds a column that reads a field.  Columns may share a field; the leaf looks
 * for each name once.
 */
static void
add_column(SaggDecoder *decoder, TupleDesc desc, int index, const char *name,
		   SaggJsonName *names, int *nnames)
{
	Form_pg_attribute attr = TupleDescAttr(desc, index);
	DecoderColumn *column = &decoder->columns[decoder->ncolumns++];
	char	   *utf8;
	int			i;

	column->index = index;
	column->name = pstrdup(name);
	sagg_conversion_init(&column->conv, attr->atttypid, attr->atttypmod,
						 attr->attcollation);
	utf8 = pg_server_to_any(column->name, strlen(column->name), PG_UTF8);
	for (i = 0; i < *nnames; i++)
		if (names[i].len == strlen(utf8) &&
			memcmp(names[i].text, utf8, names[i].len) == 0)
			break;
	if (i == *nnames)
	{
		names[i].text = utf8;
		names[i].len = strlen(utf8);
		(*nnames)++;
	}
	column->field = i;
}

/*
 * Makes a decoder for rows of "desc".  fields[i] tells where column i + 1
 * comes from; natts may be less than the columns of desc, the rest is then
 * left alone.  The decoder lives in a child of the current memory context,
 * until sagg_decoder_free or the end of that context.  Fields and their names
 * are copied.  Raises an error for a column whose type has no input function.
 */
SaggDecoder *
sagg_decoder_make(TupleDesc desc, const SaggField *fields, int natts)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "stream_agg record decoder",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext save = MemoryContextSwitchTo(context);
	SaggDecoder *decoder = palloc0(sizeof(SaggDecoder));
	SaggJsonName *names = palloc0(sizeof(SaggJsonName) * (natts + 1));
	int			nnames = 0;

	decoder->context = context;
	decoder->columns = palloc0(sizeof(DecoderColumn) * (natts + 1));
	decoder->unused = palloc0(sizeof(int) * (natts + 1));
	decoder->longs = palloc0(sizeof(DecoderColumn *) * (natts + 1));
	decoder->callback.func = free_leaf;
	decoder->callback.arg = decoder;
	MemoryContextRegisterResetCallback(context, &decoder->callback);

	for (int i = 0; i < natts; i++)
	{
		if (fields[i].kind == SAGG_FIELD_JSON)
			add_column(decoder, desc, i, fields[i].name, names, &nnames);
		else if (fields[i].kind == SAGG_FIELD_UNUSED)
			decoder->unused[decoder->nunused++] = i;
	}
	decoder->values = palloc0(sizeof(SaggJsonValue) * (nnames + 1));
	decoder->leaf = sagg_json_leaf_make(names, nnames, SAGG_JSON_MAX_DEPTH);
	if (decoder->leaf == NULL)
		no_memory_for_leaf();

	MemoryContextSwitchTo(save);
	return decoder;
}

/* Frees a decoder.  The Datums it made live on. */
void
sagg_decoder_free(SaggDecoder *decoder)
{
	MemoryContextDelete(decoder->context);
}

/*
 * Runs the leaf over a payload.  Returns false, with a reason, if that is not
 * valid.
 */
static bool
parse_payload(SaggDecoder *decoder, const char *payload, Size len,
			  SaggRecordError *why)
{
	SaggJsonError error = {0};

	why->detail = NULL;
	if (payload == NULL)
	{
		why->message = "record has no value";
		why->detail = "A record with a key and no value (a tombstone) cannot be decoded as JSON.";
		return false;
	}
	if (len > SAGG_JSON_MAX_SIZE)
	{
		why->message = psprintf("record of %zu bytes is too large", len);
		why->detail = psprintf("Records of up to %d bytes can be decoded.",
							   SAGG_JSON_MAX_SIZE);
		return false;
	}
	switch (sagg_json_leaf_parse(decoder->leaf, payload, len,
								 decoder->values, &error))
	{
		case SAGG_JSON_OK:
			break;
		case SAGG_JSON_NO_MEMORY:
			no_memory_for_leaf();
			break;
		case SAGG_JSON_INVALID:
			why->message = psprintf("invalid JSON record: %s", error.reason);
			if (error.has_position)
				why->detail = psprintf("The error is at byte %zu of %zu.",
									   error.position + 1, len);
			return false;
	}
	return true;
}

/*
 * Ends PG_CATCH: raises the error that was caught as an invalid record, or as
 * it is.
 */
static void
throw_invalid_field(const DecoderColumn *column)
{
	ErrorData  *error = CopyErrorData();
	int			len;

	if (!sagg_is_record_fault(error->sqlerrcode))
		PG_RE_THROW();
	FlushErrorState();
	len = pg_mbcliplen(error->message, strlen(error->message), MAX_REASON_BYTES);
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_INVALID_RECORD),
			 errmsg("value for field \"%s\" is not a valid %s", column->name,
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
		*result = sagg_convert(&column->conv, &decoder->values[column->field],
							   isnull);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(save);
		throw_invalid_field(column);
	}
	PG_END_TRY();
}

/*
 * The columns of a parsed record the short way; those that need the long one
 * are noted for decode_longs.
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
		SaggJsonValue *value = &decoder->values[column->field];
		Datum	   *result = &values[column->index];
		bool	   *null = &isnull[column->index];

		if ((value->kind == SAGG_JSON_MISSING || value->kind == SAGG_JSON_NULL) &&
			!OidIsValid(column->conv.domain))
		{
			*result = (Datum) 0;
			*null = true;
		}
		else if (sagg_convert_fast(&column->conv, value, result))
			*null = false;
		else
			decoder->longs[decoder->nlong++] = column;
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
 * Decodes a payload of len bytes, NULL for a record without value, into
 * values[] and isnull[] of the columns of kind SAGG_FIELD_JSON; columns of kind
 * SAGG_FIELD_UNUSED become NULL, others are left alone.  Values are made in the
 * current memory context; payload may be freed afterwards.  Raises
 * ERRCODE_SAGG_INVALID_RECORD for a record that does not decode.
 */
void
sagg_decoder_decode(SaggDecoder *decoder, const char *payload, Size len,
					Datum *values, bool *isnull)
{
	SaggRecordError why;

	if (!parse_payload(decoder, payload, len, &why))
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_INVALID_RECORD),
				 errmsg("%s", why.message),
				 why.detail ? errdetail_internal("%s", why.detail) : 0));
	decode_shorts(decoder, values, isnull);
	decode_longs(decoder, values, isnull);
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
 * The same, but a record that does not decode is no error: returns false then,
 * with the reason in the current memory context, and what values[] and
 * isnull[] hold is undefined.  Needs a transaction.
 */
bool
sagg_decoder_try(SaggDecoder *decoder, const char *payload, Size len,
				 Datum *values, bool *isnull, SaggRecordError *why)
{
	LongWay		way = {decoder, values, isnull};

	if (!parse_payload(decoder, payload, len, why))
		return false;
	decode_shorts(decoder, values, isnull);
	return decoder->nlong == 0 || sagg_record_protect(run_long_way, &way, why);
}
