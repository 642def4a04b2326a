/*-------------------------------------------------------------------------
 *
 * payload_encode.h
 *	  Encodes rows to payloads, by format; for record_encode.c and the formats.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_PAYLOAD_ENCODE_H
#define SAGG_PAYLOAD_ENCODE_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "decode.h"

/* What an encoding prepares for a source; its private data follows. */
typedef struct SaggPayloadEncoder
{
	bool		needs_settings; /* text forms depend on settings of the
								 * session */
} SaggPayloadEncoder;

typedef struct SaggEncoding
{
	bool		bytes;			/* payloads are not text */

	/*
	 * Prepares to encode rows of "desc", in the current memory context.
	 * Raises an error for a source whose rows cannot be inserted.
	 */
	SaggPayloadEncoder *(*prepare) (TupleDesc desc, const SaggLayout *layout);

	/*
	 * Appends a row's payload, in server encoding if it is text.  Returns
	 * false if the record has no value.
	 */
	bool		(*encode) (SaggPayloadEncoder *encoder, const Datum *values,
						   const bool *isnull, StringInfo out);
} SaggEncoding;

/* value_encode.c */
typedef struct SaggValueEncoder
{
	Oid			type;			/* type below domains */
	SaggUnit	unit;
	bool		as_text;		/* always in the type's text form */
	bool		has_arrays;		/* may contain arrays whose bounds JSON cannot
								 * express */
	FmgrInfo	to_json;
	FmgrInfo	output;
} SaggValueEncoder;

extern void sagg_value_encoder_init(SaggValueEncoder *encoder, Oid type,
									SaggUnit unit);
extern bool sagg_value_encoder_needs_settings(const SaggValueEncoder *encoder);
extern void sagg_value_encode(SaggValueEncoder *encoder, Datum value,
							  StringInfo out);
extern void sagg_value_encode_text(SaggValueEncoder *encoder, Datum value,
								   StringInfo out);

/* json_encode.c, format_csv.c, format_text.c */
extern const SaggEncoding sagg_json_encoding;
extern const SaggEncoding sagg_csv_encoding;
extern const SaggEncoding sagg_text_encoding;
extern const SaggEncoding sagg_raw_encoding;

#endif							/* SAGG_PAYLOAD_ENCODE_H */
