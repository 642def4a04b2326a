/*-------------------------------------------------------------------------
 *
 * format_csv.c
 *	  Format csv: a record is one row of CSV, its fields are the source's
 *	  columns in their order, without metadata.
 *
 * The rules are those of COPY ...  CSV (RFC 4180), with the quote as its own
 * escape: an unquoted field that equals the null string is NULL, and a quoted
 * one never is.  COPY's own reader takes a stream of lines, in which an open
 * quote would swallow the next record, and cannot continue after an error; so
 * this file splits rows, and the types' input functions do the rest.  A line
 * end behind the row is ignored.
 *
 * The number of fields is checked whatever columns are read.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "format.h"
#include "payload_encode.h"

typedef struct CsvState
{
	SaggBuffer	buffer;			/* fields without quotes, each with a NUL */
	Size		null_len;
} CsvState;

static void
prepare_csv(SaggDecoder *decoder)
{
	const SaggLayout *layout = decoder->layout;
	CsvState   *state = palloc0(sizeof(CsvState));

	state->null_len = strlen(layout->null_text);
	decoder->state = state;
	decoder->values = palloc0(sizeof(SaggFieldValue) * (layout->npositions + 1));
	for (int i = 0; i < decoder->ncolumns; i++)
		decoder->columns[i].value = decoder->columns[i].source->position;
}

/*
 * Copies the field that starts at p, without quotes, to "out".  Returns where
 * it ends in the record and sets its end in "out"; NULL if a quote is not
 * closed.
 */
static const char *
take_field(const SaggLayout *layout, const char *p, const char *end, char **out,
		   bool *quoted)
{
	bool		inside = false;
	char	   *to = *out;

	*quoted = false;
	for (; p < end; p++)
	{
		if (*p == layout->quote)
		{
			if (inside && p + 1 < end && p[1] == layout->quote)
				*to++ = *p++;
			else
				inside = !inside;
			*quoted = true;
		}
		else if (!inside && (*p == layout->delimiter || *p == '\n' || *p == '\r'))
			break;
		else
			*to++ = *p;
	}
	*out = to;
	return inside ? NULL : p;
}

static bool
invalid(SaggRecordError *why, const char *reason)
{
	why->message = psprintf("invalid CSV record: %s", reason);
	why->detail = NULL;
	return false;
}

static bool
split(SaggDecoder *decoder, const char *p, const char *end, SaggRecordError *why)
{
	const SaggLayout *layout = decoder->layout;
	CsvState   *state = (CsvState *) decoder->state;
	char	   *out = sagg_buffer_reserve(&state->buffer, decoder->context,
										  (end - p) + layout->npositions + 1);

	for (int n = 0; n < Max(layout->npositions, 1); n++)
	{
		SaggFieldValue *value = &decoder->values[n];
		bool		quoted;

		CHECK_FOR_INTERRUPTS();
		value->text = out;
		p = take_field(layout, p, end, &out, &quoted);
		if (p == NULL)
			return invalid(why, "unterminated quoted field");
		value->len = out - value->text;
		*out++ = '\0';
		value->kind = SAGG_PLAIN_TEXT;
		if (!quoted && value->len == state->null_len &&
			memcmp(value->text, layout->null_text, value->len) == 0)
			value->kind = SAGG_FIELD_NULL;
		if (p < end && *p == layout->delimiter)
		{
			if (n >= layout->npositions - 1)
				return invalid(why, psprintf("there are more than %d fields", layout->npositions));
			p++;
		}
		else if (n < layout->npositions - 1)
			return invalid(why, psprintf("there are only %d of %d fields", n + 1, layout->npositions));
	}
	return p == end || invalid(why, "there is more than one line");
}

/*
 * Returns whether a field is a number as JSON writes it, without exponent,
 * which int, numeric and float read alike: then it can be converted the short
 * way.  A zero with a sign does not count, because float keeps the sign.
 */
static bool
is_plain_number(const SaggFieldValue *value)
{
	const char *p = value->text + (value->text[0] == '-');
	size_t		whole = strspn(p, "0123456789");
	size_t		decimals = 0;

	if (whole == 0 || (p[0] == '0' && whole > 1))
		return false;
	if (value->text[0] == '-' && strspn(p, "0.") == strlen(p))
		return false;
	if (p[whole] == '\0')
		return p + whole == value->text + value->len;
	decimals = p[whole] == '.' ? strspn(p + whole + 1, "0123456789") : 0;
	return decimals > 0 && p + whole + 1 + decimals == value->text + value->len;
}

/*
 * Sets the kind of a field.  Numbers are recognised if that allows the short
 * way, or if the column has a unit.
 */
static void
find_numbers(SaggDecoder *decoder)
{
	for (int i = 0; i < decoder->ncolumns; i++)
	{
		DecoderColumn *column = &decoder->columns[i];
		SaggFieldValue *value = &decoder->values[column->value];

		if (value->kind != SAGG_PLAIN_TEXT)
			continue;
		switch (column->conv.kind)
		{
			case SAGG_TO_INT2:
			case SAGG_TO_INT4:
			case SAGG_TO_INT8:
				/* in CSV, a number with decimals is not an integer */
				if (memchr(value->text, '.', value->len) == NULL && is_plain_number(value))
					value->kind = SAGG_FIELD_NUMBER;
				break;
			case SAGG_TO_FLOAT8:
			case SAGG_TO_NUMERIC:
				if (is_plain_number(value))
					value->kind = SAGG_FIELD_NUMBER;
				break;
			case SAGG_TO_TIMESTAMPTZ:
			case SAGG_TO_TIMESTAMP:
				if (column->conv.unit != SAGG_UNIT_DEFAULT && is_plain_number(value))
					value->kind = SAGG_FIELD_NUMBER;
				break;
			default:
				break;
		}
	}
}

static SaggVerdict
parse_csv(SaggDecoder *decoder, const char *payload, Size len,
		  SaggRecordError *why)
{
	const char *end = payload + len;

	if (payload == NULL)
	{
		why->message = "record has no value";
		why->detail = "A record with a key and no value (a tombstone) cannot be decoded as CSV. The source's option tombstones could be ignore or null.";
		return SAGG_RECORD_INVALID;
	}
	if (!sagg_payload_is_text(payload, len, "CSV", why))
		return SAGG_RECORD_INVALID;
	if (end > payload && end[-1] == '\n')
		end--;
	if (end > payload && end[-1] == '\r')
		end--;
	if (!split(decoder, payload, end, why))
		return SAGG_RECORD_INVALID;
	find_numbers(decoder);
	return SAGG_RECORD_GOOD;
}

typedef struct CsvEncoder
{
	SaggPayloadEncoder base;
	const SaggLayout *layout;
	int		   *indexes;		/* numbers of the columns */
	SaggValueEncoder *columns;
} CsvEncoder;

static SaggPayloadEncoder *
prepare_encoder(TupleDesc desc, const SaggLayout *layout)
{
	CsvEncoder *encoder = palloc0(sizeof(CsvEncoder));
	int			n = 0;

	encoder->base.needs_settings = true;
	encoder->layout = layout;
	encoder->indexes = palloc0(sizeof(int) * (layout->npositions + 1));
	encoder->columns = palloc0(sizeof(SaggValueEncoder) * (layout->npositions + 1));
	for (int i = 0; i < layout->natts; i++)
	{
		if (layout->fields[i].kind != SAGG_FIELD_PAYLOAD)
			continue;
		encoder->indexes[n] = i;
		sagg_value_encoder_init(&encoder->columns[n++], TupleDescAttr(desc, i)->atttypid,
								layout->fields[i].unit);
	}
	return &encoder->base;
}

/*
 * Writes a field, with quotes if it needs them.
 */
static void
append_field(const SaggLayout *layout, const char *text, StringInfo out)
{
	bool		quote = strcmp(text, layout->null_text) == 0;

	for (const char *p = text; *p && !quote; p++)
		quote = *p == layout->delimiter || *p == layout->quote || *p == '\n' || *p == '\r';
	if (!quote)
	{
		appendStringInfoString(out, text);
		return;
	}
	appendStringInfoChar(out, layout->quote);
	for (const char *p = text; *p; p++)
	{
		if (*p == layout->quote)
			appendStringInfoChar(out, layout->quote);
		appendStringInfoChar(out, *p);
	}
	appendStringInfoChar(out, layout->quote);
}

static bool
encode_csv(SaggPayloadEncoder *base, const Datum *values, const bool *isnull,
		   StringInfo out)
{
	CsvEncoder *encoder = (CsvEncoder *) base;
	StringInfoData field;

	initStringInfo(&field);
	for (int i = 0; i < encoder->layout->npositions; i++)
	{
		int			index = encoder->indexes[i];

		if (i > 0)
			appendStringInfoChar(out, encoder->layout->delimiter);
		if (isnull[index])
		{
			appendStringInfoString(out, encoder->layout->null_text);
			continue;
		}
		resetStringInfo(&field);
		sagg_value_encode_text(&encoder->columns[i], values[index], &field);
		append_field(encoder->layout, field.data, out);
	}
	return true;
}

const SaggEncoding sagg_csv_encoding = {
	.prepare = prepare_encoder,
	.encode = encode_csv
};

const SaggFormat sagg_format_csv = {
	.name = "csv",
	.rule = SAGG_BY_POSITION,
	.prepare = prepare_csv,
	.parse = parse_csv,
	.encoding = &sagg_csv_encoding
};
