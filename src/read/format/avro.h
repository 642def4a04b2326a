/*-------------------------------------------------------------------------
 *
 * avro.h
 *	  Avro's schemas and its binary encoding, for format_avro.c and
 *	  schema_registry.c.
 *
 * libavro is not used: its C version does not support logical types, recurses
 * as deep as a record says, and trusts what a record says about the length of
 * its arrays.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_AVRO_H
#define SAGG_AVRO_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "json_leaf.h"

typedef enum AvroType
{
	AVRO_T_NULL,
	AVRO_T_BOOLEAN,
	AVRO_T_INT,
	AVRO_T_LONG,
	AVRO_T_FLOAT,
	AVRO_T_DOUBLE,
	AVRO_T_BYTES,
	AVRO_T_STRING,
	AVRO_T_RECORD,
	AVRO_T_ENUM,
	AVRO_T_ARRAY,
	AVRO_T_MAP,
	AVRO_T_UNION,
	AVRO_T_FIXED
} AvroType;

typedef enum AvroLogical
{
	AVRO_L_NONE,
	AVRO_L_DATE,
	AVRO_L_TIME_MILLIS,
	AVRO_L_TIME_MICROS,
	AVRO_L_TIMESTAMP_MILLIS,
	AVRO_L_TIMESTAMP_MICROS,
	AVRO_L_TIMESTAMP_NANOS,
	AVRO_L_LOCAL_MILLIS,
	AVRO_L_LOCAL_MICROS,
	AVRO_L_LOCAL_NANOS,
	AVRO_L_DECIMAL,
	AVRO_L_UUID
} AvroLogical;

/* A type of a schema; a named one may contain itself. */
typedef struct AvroNode
{
	AvroType	type;
	AvroLogical logical;
	int			scale;			/* scale of decimal */
	int			size;			/* size of fixed, bytes */
	int			n;				/* fields, symbols, branches; 1 for array, map */
	const char **names;			/* names of fields and symbols */
	struct AvroNode **parts;	/* types of fields, branches, elements */
} AvroNode;

/* avro_schema.c */
extern AvroNode *sagg_avro_compile(const char *schema, const char **problem);

/* What is wanted from a record, by name; see JsonNode. */
typedef struct AvroWant
{
	const char *name;			/* UTF-8 */
	int			subscript;		/* the name as an index of arrays, -1 = none */
	int			value;			/* index into the values, -1 = only on the way */
	bool		as_number;		/* dates and times are returned as numbers */
	int			nchildren;
	struct AvroWant *children;	/* children by name */
	int			nsubscripts;
	struct AvroWant **subscripts;	/* children that are indexes, ascending */
	struct AvroWant *found;		/* children found since they were forgotten */
	struct AvroWant *also_found;	/* next in the parent's list of children
									 * found */
	bool		is_found;
} AvroWant;

/* A record being read. */
typedef struct AvroReader
{
	const char *start;
	const char *p;
	const char *end;
	int64		budget;			/* number of values that may still be read */
	int64		digits;			/* digits, and bytes of symbols and names,
								 * that it may still stand for */
	const char *reason;			/* why the record is invalid, NULL = it is
								 * valid */
	SaggFieldValue *values;
	MemoryContext memory;		/* memory of the values' texts */
} AvroReader;

/* avro_walk.c */
extern bool sagg_avro_read(AvroReader *reader, const AvroNode *schema,
						   AvroWant *wanted);
extern bool sagg_avro_render(AvroReader *reader, const AvroNode *node,
							 StringInfo out, int depth);
extern bool sagg_avro_take_long(AvroReader *reader, int64 *result);
extern bool sagg_avro_take_length(AvroReader *reader, Size *len);
extern bool sagg_avro_expand(AvroReader *reader, int n, const char *reason);

/* avro_value.c */
extern bool sagg_avro_scalar(AvroReader *reader, const AvroNode *node,
							 bool as_number, SaggJsonKind *kind,
							 StringInfo out);

#endif							/* SAGG_AVRO_H */
