/*-------------------------------------------------------------------------
 *
 * format.h
 *	  The interface of a format of records: a few functions, in a file of its
 *	  own (format_*.c), and what decoder.c and record_encode.c share with it.
 *
 * A format finds the values of a payload, as text; from there all formats make
 * Datums alike (fast_datum.c, record_datum.c).  Such a text is a SaggFieldValue
 * (json_leaf.h).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_FORMAT_H
#define SAGG_FORMAT_H

#include "postgres.h"

#include "decode.h"
#include "json_leaf.h"
#include "record_datum.h"

/* How columns refer to the payload. */
typedef enum SaggFieldRule
{
	SAGG_BY_NAME,				/* options field and path */
	SAGG_BY_POSITION,			/* all columns, in order */
	SAGG_WHOLE_PAYLOAD			/* there is one column */
} SaggFieldRule;

/* How the value of a column was made. */
typedef enum SaggWay
{
	SAGG_WAY_SHORT,
	SAGG_WAY_LONG,
	SAGG_WAY_NONE				/* it was not made, and is NULL */
} SaggWay;

/* A column that comes from the payload. */
typedef struct DecoderColumn
{
	int			index;			/* number of the column, from 0 */
	const SaggField *source;
	int			value;			/* index into the decoder's values */
	bool		optional;		/* not made if there is no short way */
	SaggWay		way;			/* how the value of the current record was
								 * made; set if not the short way, and reset
								 * by whoever reads it */
	SaggConversion conv;
} DecoderColumn;

struct SaggDecoder
{
	MemoryContext context;		/* memory of all of it */
	const SaggLayout *layout;
	int			ncolumns;
	DecoderColumn *columns;
	SaggFieldValue *values;		/* values of the current record, set by the
								 * format */
	void	   *state;			/* private to the format */
	const DecoderColumn *doubted;	/* whose error may not be the record's
									 * fault, or NULL */
	int			nunused;
	int		   *unused;			/* columns to set to NULL, from 0 */
	int			nlong;
	DecoderColumn **longs;		/* columns of the current record that need the
								 * long way */
};

typedef struct SaggOutValue SaggOutValue;

struct SaggFormat
{
	const char *name;
	SaggFieldRule rule;

	/*
	 * Makes what parsing needs, in decoder->context, which is current: sets
	 * decoder->values, state and the value of each column.
	 */
	void		(*prepare) (SaggDecoder *decoder);

	/*
	 * Finds the values of a payload (NULL: the record has none).  Sets "why"
	 * for an invalid record, for which it raises no error.
	 */
	SaggVerdict (*parse) (SaggDecoder *decoder, const char *payload, Size len,
						  SaggRecordError *why);

	/* record_encode.c; NULL if rows cannot be inserted */
	const struct SaggEncoding *encoding;
};

/* format_json.c */
extern void sagg_json_prepare(SaggDecoder *decoder, const SaggJsonPath *paths,
							  int npaths);
extern bool sagg_json_parse(SaggDecoder *decoder, const char *payload, Size len,
							SaggRecordError *why);
extern SaggJsonName *sagg_json_names(char *const *path, int n);
extern int	sagg_json_add_path(SaggJsonPath *paths, int *npaths,
							   const SaggJsonName *names, int nnames);

/* decoder.c */
typedef struct SaggBuffer
{
	char	   *data;
	Size		capacity;
} SaggBuffer;

extern char *sagg_buffer_reserve(SaggBuffer *buffer, MemoryContext context,
								 Size size);
extern bool sagg_payload_is_text(const char *payload, Size len,
								 const char *what, SaggRecordError *why);

/* the other formats */
extern const SaggFormat sagg_format_debezium;
extern const SaggFormat sagg_format_avro;
extern const SaggFormat sagg_format_protobuf;
extern const SaggFormat sagg_format_csv;
extern const SaggFormat sagg_format_text;
extern const SaggFormat sagg_format_raw;

#endif							/* SAGG_FORMAT_H */
