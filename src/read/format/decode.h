/*-------------------------------------------------------------------------
 *
 * decode.h
 *	  Decodes a record's payload to the columns of a source.
 *
 * A source has a format (format.h).  The rules of JSON, with jsonb as the norm:
 *
 * - A record is valid when jsonb would take it and it is an object, whatever
 *	 columns are read.  Narrower than jsonb in four points: nesting is bounded
 *	 by SAGG_JSON_MAX_DEPTH, the size by SAGG_JSON_MAX_SIZE, the digits that the
 *	 exponents of its numbers stand for by SAGG_MAX_DIGITS, and the payload
 *	 must be UTF-8 whatever the server encoding is.
 * - A field is found by its name at the top level, or by its path, as
 *	 record::jsonb #>> path does; but only numbers without sign and leading zeros
 *	 are elements of arrays.  Of duplicates the last one counts, at each level.
 *	 A column without a field of its own takes the field that differs from its name
 *	 in the case of ASCII letters only, if there is none of that very name; several
 *	 such are an error.  A missing field and a JSON null are NULL.
 * - A value is converted as (record::jsonb #>> path)::type would by the
 *	 type's input function with the column's typmod; so a string too long for
 *	 varchar(n) is an error.
 * - Other than that: numbers become smallint, integer and bigint as by a cast of
 *	 jsonb, so 12.0 and 1e3 are integers and 12.5 is rounded; words for the time
 *	 of the clock - now, today, tomorrow and yesterday - are no dates and times,
 *	 and POSIX time zones that are made up are none (record_times.c);
 *	 values with an xml or tsquery are bounded in length, and an xml has no
 *	 document type declaration (record_texts.c);
 *	 numbers are seconds, milliseconds, microseconds or
 *	 nanoseconds, as the column's unit says, since 1970-01-01 00:00 UTC for
 *	 timestamptz and timestamp (UTC), rounded to the microsecond;
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

/*
 * Bytes of a payload of format raw; and of a key, or of all headers of a record,
 * as columns.  A row of all three, or a dead letter, is within what PostgreSQL
 * takes for a row (MaxAllocSize).
 */
#define SAGG_RAW_MAX_SIZE		(256 * 1024 * 1024)
#define SAGG_KEY_MAX_SIZE		(64 * 1024 * 1024)
#define SAGG_HEADERS_MAX_SIZE	(64 * 1024 * 1024)

/* Where the value of a column comes from. */
typedef enum SaggFieldKind
{
	SAGG_FIELD_UNUSED,			/* not read, or dropped */
	SAGG_FIELD_PAYLOAD,			/* the payload, or a part of it */
	/* metadata of the record; the decoder leaves them to the scan */
	SAGG_FIELD_TOPIC,
	SAGG_FIELD_PARTITION,
	SAGG_FIELD_OFFSET,
	SAGG_FIELD_KEY,
	SAGG_FIELD_TIMESTAMP,
	SAGG_FIELD_HEADERS,
	SAGG_FIELD_ERROR			/* why the record does not decode */
} SaggFieldKind;

/* The unit of a number that becomes a timestamp. */
typedef enum SaggUnit
{
	SAGG_UNIT_DEFAULT,			/* milliseconds, for numbers of JSON only */
	SAGG_UNIT_S,
	SAGG_UNIT_MS,
	SAGG_UNIT_US,
	SAGG_UNIT_NS
} SaggUnit;

typedef struct SaggField
{
	SaggFieldKind kind;

	/* for SAGG_FIELD_PAYLOAD only */
	const char *name;			/* for messages: field or path as written */
	int			npath;			/* names of the path, from the outside in, for
								 * formats with names: in server */
	char	  **path;			/* encoding */
	bool		in_envelope;	/* the path starts outside of the row */
	bool		any_case;		/* of JSON: the last name is matched in any
								 * case, if the record has no exact match */
	int			position;		/* of formats without names: position from 0 */
	SaggUnit	unit;
} SaggField;

/* What to do with a record that has no value. */
typedef enum SaggTombstones
{
	SAGG_TOMBSTONES_BY_FORMAT,	/* the format decides */
	SAGG_TOMBSTONES_FAIL,		/* it counts as one that does not decode */
	SAGG_TOMBSTONES_IGNORE,		/* it is left out */
	SAGG_TOMBSTONES_NULL		/* its columns are NULL */
} SaggTombstones;

/* What to do, in a query, with a record that does not decode. */
typedef enum SaggScanErrors
{
	SAGG_SCAN_FAIL,
	SAGG_SCAN_SKIP,				/* it gives no row */
	SAGG_SCAN_NULL				/* its columns are NULL */
} SaggScanErrors;

typedef struct SaggFormat SaggFormat;

/*
 * What the payloads of a source look like (source_layout.c).  It must live as
 * long as a decoder or encoder made for it.
 */
typedef struct SaggLayout
{
	const SaggFormat *format;
	int			natts;
	SaggField  *fields;			/* one for each column */
	int			npositions;		/* columns that come from the payload */
	SaggTombstones tombstones;
	SaggScanErrors scan_errors;

	/* options of csv */
	char		delimiter;
	char		quote;
	const char *null_text;
	/* of protobuf: the schema of records, or one of a registry */
	const char *proto;
	const char *descriptor_set;
	const char *message;		/* NULL = the only one */
	/* of debezium */
	bool		ignore_others;	/* operations whose events are left out */

	/*
	 * of avro and protobuf, set by the reader of records; NULL = no schema is
	 * known
	 */
	struct SaggRegistry *registry;
} SaggLayout;

typedef struct SaggDecoder SaggDecoder;

/* The result of decoding a record. */
typedef enum SaggVerdict
{
	SAGG_RECORD_GOOD,
	SAGG_RECORD_LEFT_OUT,		/* left out, by the source's options */
	SAGG_RECORD_INVALID
} SaggVerdict;

/* Why a record does not decode. */
typedef struct SaggRecordError
{
	const char *message;
	const char *detail;			/* or NULL */
} SaggRecordError;

/* decoder.c */
extern SaggDecoder *sagg_decoder_make(TupleDesc desc, const SaggLayout *layout,
									  int natts);
extern bool sagg_decoder_decode(SaggDecoder *decoder, const char *payload,
								Size len, Datum *values, bool *isnull);
extern SaggVerdict sagg_decoder_try(SaggDecoder *decoder, const char *payload,
									Size len, Datum *values, bool *isnull,
									SaggRecordError *why);
extern void sagg_decoder_free(SaggDecoder *decoder);

/* format_json.c */
extern const SaggFormat sagg_format_json;

/* record_digits.c */
extern void sagg_check_digits(const char *json, Size len);

/* record_jsonb.c */
extern Datum sagg_jsonb_make(char *text);

/* record_errors.c */
extern bool sagg_is_record_fault(const ErrorData *error);
extern bool sagg_is_input_complaint(const ErrorData *error);
extern bool sagg_record_protect(void (*convert) (void *arg), void *arg,
								SaggRecordError *why);

#endif							/* SAGG_DECODE_H */
