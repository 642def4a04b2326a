/*-------------------------------------------------------------------------
 *
 * record_datum.h
 *	  Converts values of a payload to Datums, for decoder.c only.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_RECORD_DATUM_H
#define SAGG_RECORD_DATUM_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "fmgr.h"
#include "utils/jsonb.h"

#include "decode.h"
#include "json_leaf.h"

/* How the values of a column are made. */
typedef enum SaggConversionKind
{
	SAGG_TO_BOOL,
	SAGG_TO_INT2,
	SAGG_TO_INT4,
	SAGG_TO_INT8,
	SAGG_TO_FLOAT8,
	SAGG_TO_NUMERIC,
	SAGG_TO_TEXT,				/* text, and varchar without a length */
	SAGG_TO_TIMESTAMPTZ,
	SAGG_TO_TIMESTAMP,
	SAGG_TO_DATE,
	SAGG_TO_JSON,
	SAGG_TO_JSONB,
	SAGG_TO_RECORD,				/* arrays and composites, as jsonb_to_record */
	SAGG_TO_OTHER				/* the type's input function */
} SaggConversionKind;

typedef struct SaggTexts SaggTexts; /* record_texts.c */
typedef struct SaggLabels SaggLabels;	/* record_enum.c */

/* Made once for a column; lives in the memory context it was made in. */
typedef struct SaggConversion
{
	SaggConversionKind kind;
	const char *type_name;		/* for messages */
	bool		bounds_digits;	/* there may be numerics in values:
								 * record_digits.c */
	SaggTexts  *texts;			/* texts in values that are checked; NULL =
								 * none */
	SaggLabels *labels;			/* of an enum; NULL = it is none */
	Oid			type;			/* type below domains, as are the next three */
	int32		typmod;
	SaggUnit	unit;			/* unit of numbers that become timestamps */
	bool		is_local;		/* of times: the last value made by the short
								 * way is one of the session's time zone */
	FmgrInfo	input;
	Oid			ioparam;
	Oid			domain;			/* domain; InvalidOid if the column has none */
	void	   *domain_cache;
	FmgrInfo	to_record;		/* only for SAGG_TO_RECORD */
	TupleDesc	record_desc;	/* row type with one column, of the type */
	MemoryContext context;
} SaggConversion;

/* record_texts.c */
extern SaggTexts *sagg_texts_make(Oid type);
extern void sagg_texts_check_size(const SaggTexts *texts, Size len);
extern void sagg_texts_check(SaggTexts *texts, char *string);
extern void sagg_texts_check_json(SaggTexts *texts, const JsonbValue *value);

/* record_times.c */
extern void sagg_time_check(const char *string, bool dated);

/* record_digits.c */
extern bool sagg_holds_numerics(Oid type);
extern void sagg_check_digits_made(Datum datum, Oid type, const SaggFieldValue *value);

/* record_enum.c */
extern SaggLabels *sagg_labels_make(Oid type);
extern void sagg_labels_check(const SaggLabels *labels, Oid type, const char *label);

/* record_datum.c */
extern void sagg_conversion_init(SaggConversion *conv, Oid type, int32 typmod,
								 Oid collation);
extern void sagg_conversion_check(const SaggConversion *conv);
extern Datum sagg_convert(SaggConversion *conv, const SaggFieldValue *value,
						  bool *isnull);

/* local_time.c */
extern int	sagg_local_offset(int day, int second);

/* fast_datum.c */
extern bool sagg_convert_fast(SaggConversion *conv,
							  const SaggFieldValue *value, Datum *result);

#endif							/* SAGG_RECORD_DATUM_H */
