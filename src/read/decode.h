/*-------------------------------------------------------------------------
 *
 * decode.h
 *	  A record's payload (JSON) to the columns of a source.
 *
 * The rules, with jsonb as the norm:
 *
 * - A record is valid when jsonb would take it and it is an object, whatever
 *	 columns are read.  Narrower than jsonb in three points: nesting is bounded
 *	 by SAGG_JSON_MAX_DEPTH, the size by SAGG_JSON_MAX_SIZE, and the payload
 *	 must be UTF-8 whatever the server encoding is.
 * - A field is found by its name at the top level; of duplicates the last one
 *	 counts.  A missing field and a JSON null are NULL.
 * - A value is converted as (record::jsonb ->> field)::type would by the
 *	 type's input function with the column's typmod; so 1e2 is an integer and
 *	 1.0 is not, and a string too long for varchar(n) is an error.
 * - Other than that: numbers are milliseconds since 1970-01-01 00:00 UTC for
 *	 timestamptz and timestamp (UTC), fractions kept to the microsecond;
 *	 columns of type json and jsonb take the value itself; arrays and
 *	 composites are read from JSON arrays and objects as jsonb_to_record does,
 *	 or from a string with their text form.
 * - Domains have their constraints checked, for NULL too.
 * - Texts are converted to the server encoding.  A character without an
 *	 equivalent there is an error only in a field that is read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_DECODE_H
#define SAGG_DECODE_H

#include "stream_agg.h"

#define SAGG_JSON_MAX_DEPTH		1000
#define SAGG_JSON_MAX_SIZE		(64 * 1024 * 1024)	/* bytes */

/* Where a column of a source comes from. */
typedef enum SaggFieldKind
{
	SAGG_FIELD_UNUSED,			/* not read, or dropped */
	SAGG_FIELD_JSON,			/* a field of the payload */
	/* of the record itself; the decoder leaves them to the scan */
	SAGG_FIELD_TOPIC,
	SAGG_FIELD_PARTITION,
	SAGG_FIELD_OFFSET,
	SAGG_FIELD_KEY,
	SAGG_FIELD_TIMESTAMP,
	SAGG_FIELD_HEADERS
} SaggFieldKind;

typedef struct SaggField
{
	SaggFieldKind kind;
	const char *name;			/* of the JSON field, in server encoding; only
								 * for SAGG_FIELD_JSON */
} SaggField;

typedef struct SaggDecoder SaggDecoder;

/* Why a record does not decode. */
typedef struct SaggRecordError
{
	const char *message;
	const char *detail;			/* or NULL */
} SaggRecordError;

/* json_decode.c */
extern SaggDecoder *sagg_decoder_make(TupleDesc desc, const SaggField *fields,
									  int natts);
extern void sagg_decoder_decode(SaggDecoder *decoder, const char *payload,
								Size len, Datum *values, bool *isnull);
extern bool sagg_decoder_try(SaggDecoder *decoder, const char *payload,
							 Size len, Datum *values, bool *isnull,
							 SaggRecordError *why);
extern void sagg_decoder_free(SaggDecoder *decoder);

/* record_errors.c */
extern bool sagg_is_record_fault(int sqlerrcode);
extern bool sagg_record_protect(void (*convert) (void *arg), void *arg,
								SaggRecordError *why);

#endif							/* SAGG_DECODE_H */
