/*-------------------------------------------------------------------------
 *
 * format_text.c
 *	  Formats text and raw: one column is the whole payload, as text in the form
 *	  its type reads, or as bytea.  A record without value is NULL.
 *
 * Texts are UTF-8 without NULs, and are converted to the server encoding.
 * Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "format.h"
#include "payload_encode.h"

typedef struct TextState
{
	SaggBuffer	buffer;
} TextState;

static void
prepare_whole(SaggDecoder *decoder)
{
	decoder->state = palloc0(sizeof(TextState));
	decoder->values = palloc0(sizeof(SaggFieldValue));
	for (int i = 0; i < decoder->ncolumns; i++)
		decoder->columns[i].value = 0;
}

/*
 * Takes the payload as the only value; copied, because it needs a NUL behind
 * it.
 */
static void
take_whole(SaggDecoder *decoder, const char *payload, Size len, SaggJsonKind kind)
{
	TextState  *state = (TextState *) decoder->state;
	SaggFieldValue *value = &decoder->values[0];

	value->kind = kind;
	value->text = sagg_buffer_reserve(&state->buffer, decoder->context, len);
	value->len = len;
	memcpy(value->text, payload, len);
	value->text[len] = '\0';
}

static SaggVerdict
parse_text(SaggDecoder *decoder, const char *payload, Size len,
		   SaggRecordError *why)
{
	decoder->values[0].kind = SAGG_FIELD_MISSING;
	if (payload == NULL)
		return SAGG_RECORD_GOOD;
	if (!sagg_payload_is_text(payload, len, "text", why))
		return SAGG_RECORD_INVALID;
	take_whole(decoder, payload, len, SAGG_PLAIN_TEXT);
	return SAGG_RECORD_GOOD;
}

static SaggVerdict
parse_raw(SaggDecoder *decoder, const char *payload, Size len,
		  SaggRecordError *why)
{
	decoder->values[0].kind = SAGG_FIELD_MISSING;
	if (payload && len > SAGG_RAW_MAX_SIZE)
	{
		why->message = psprintf("record of %zu bytes is too large", len);
		why->detail = psprintf("Records of up to %d bytes can be read as bytea.", SAGG_RAW_MAX_SIZE);
		return SAGG_RECORD_INVALID;
	}
	if (payload)
		take_whole(decoder, payload, len, SAGG_BYTES);
	return SAGG_RECORD_GOOD;
}

typedef struct TextEncoder
{
	SaggPayloadEncoder base;
	int			index;			/* number of the column, -1 = there is none */
	SaggValueEncoder value;
} TextEncoder;

static SaggPayloadEncoder *
prepare_encoder(TupleDesc desc, const SaggLayout *layout)
{
	TextEncoder *encoder = palloc0(sizeof(TextEncoder));

	encoder->base.needs_settings = true;
	encoder->index = -1;
	for (int i = 0; i < layout->natts; i++)
	{
		if (layout->fields[i].kind != SAGG_FIELD_PAYLOAD)
			continue;
		encoder->index = i;
		sagg_value_encoder_init(&encoder->value, TupleDescAttr(desc, i)->atttypid,
								layout->fields[i].unit);
	}
	return &encoder->base;
}

static bool
encode_text(SaggPayloadEncoder *base, const Datum *values, const bool *isnull,
			StringInfo out)
{
	TextEncoder *encoder = (TextEncoder *) base;

	if (encoder->index < 0 || isnull[encoder->index])
		return false;
	sagg_value_encode_text(&encoder->value, values[encoder->index], out);
	return true;
}

static bool
encode_raw(SaggPayloadEncoder *base, const Datum *values, const bool *isnull,
		   StringInfo out)
{
	TextEncoder *encoder = (TextEncoder *) base;
	bytea	   *value;

	if (encoder->index < 0 || isnull[encoder->index])
		return false;
	value = DatumGetByteaPP(values[encoder->index]);
	appendBinaryStringInfo(out, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	return true;
}

const SaggEncoding sagg_text_encoding = {
	.prepare = prepare_encoder,
	.encode = encode_text
};

const SaggEncoding sagg_raw_encoding = {
	.bytes = true,
	.prepare = prepare_encoder,
	.encode = encode_raw
};

const SaggFormat sagg_format_text = {
	.name = "text",
	.rule = SAGG_WHOLE_PAYLOAD,
	.prepare = prepare_whole,
	.parse = parse_text,
	.encoding = &sagg_text_encoding
};

const SaggFormat sagg_format_raw = {
	.name = "raw",
	.rule = SAGG_WHOLE_PAYLOAD,
	.prepare = prepare_whole,
	.parse = parse_raw,
	.encoding = &sagg_raw_encoding
};
