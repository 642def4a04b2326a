/*-------------------------------------------------------------------------
 *
 * json_leaf.h
 *	  The interface between format_json.c (C, PostgreSQL) and json_leaf.cpp
 *	  (C++, simdjson): plain data and C functions that never throw, so that no
 *	  error can jump over a C++ frame in either direction (I6).
 *
 * Includes neither postgres.h nor any C++ header.  All memory of the leaf is
 * malloc'ed; whoever makes a leaf frees it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_JSON_LEAF_H
#define SAGG_JSON_LEAF_H

#include <signal.h>
#include <stddef.h>

#ifdef __cplusplus
#define SAGG_NOEXCEPT noexcept
extern "C"
{
#else
#define SAGG_NOEXCEPT
#endif

/*
 * Returns how many digits the exponents of a record's numbers may stand for in
 * all: 1e131071, written in eight bytes, is a text of 131072 digits. "len" is
 * the record's in bytes; numbers of double precision stay below in records of
 * up to a megabyte.
 */
#define SAGG_MAX_DIGITS_OF_ALL	(64 * 1024 * 1024)
#define SAGG_MAX_DIGITS(len) \
	((len) >= SAGG_MAX_DIGITS_OF_ALL / 64 ? SAGG_MAX_DIGITS_OF_ALL : \
	 1024 * 1024 + (long) (len) * 63)

typedef enum SaggJsonKind
{
	SAGG_FIELD_MISSING,
	SAGG_FIELD_NULL,
	SAGG_FIELD_FALSE,
	SAGG_FIELD_TRUE,
	SAGG_FIELD_NUMBER,
	SAGG_FIELD_STRING,
	SAGG_FIELD_ARRAY,
	SAGG_FIELD_OBJECT,
	SAGG_FIELD_AMBIGUOUS,		/* several fields could be meant, see any_case */
	/* of other formats, never from the JSON leaf: */
	SAGG_PLAIN_TEXT,			/* the text form of the column's type */
	SAGG_BYTES					/* bytes, which may have NULs inside */
} SaggJsonKind;

/*
 * A field's value: a string without its quotes and escapes, anything else as
 * it stood in the record.  UTF-8, followed by a NUL and without one inside.
 * The text belongs to the leaf and may be overwritten; the next parse frees
 * it.  NULL text for SAGG_FIELD_MISSING.
 */
typedef struct SaggFieldValue
{
	char	   *text;
	size_t		len;			/* bytes */
	SaggJsonKind kind;
} SaggFieldValue;

/* The name of a field, UTF-8, not NUL-terminated. */
typedef struct SaggJsonName
{
	const char *text;
	size_t		len;			/* bytes */
} SaggJsonName;

/*
 * The path of a value: names from the record's object inwards, at most
 * SAGG_JSON_MAX_PATH; without names it is the record itself.  In an array, a
 * name that is a number without sign and leading zeros is the index of an
 * element, from 0.  With "kind_only" the value's kind is set and its text may
 * be missing, which is cheaper if other paths lead into it.  With "any_case",
 * if an object has no member of exactly the last name, a member whose name
 * differs only in the case of ASCII letters matches; several such members are
 * ambiguous.
 */
#define SAGG_JSON_MAX_PATH		64

typedef struct SaggJsonPath
{
	const SaggJsonName *names;
	int			nnames;
	int			kind_only;
	int			any_case;
} SaggJsonPath;

typedef enum SaggJsonResult
{
	SAGG_JSON_OK,
	SAGG_JSON_INVALID,
	SAGG_JSON_NO_MEMORY,
	SAGG_JSON_INTERRUPTED
} SaggJsonResult;

/* Why a record was found invalid. */
typedef struct SaggJsonError
{
	const char *reason;			/* a constant: English, lower case */
	size_t		position;		/* position in the record, in bytes from 0 */
	int			has_position;
} SaggJsonError;

typedef struct SaggJsonLeaf SaggJsonLeaf;

extern SaggJsonLeaf *sagg_json_leaf_make(const SaggJsonPath *paths, int npaths,
										 size_t max_depth) SAGG_NOEXCEPT;
extern SaggJsonResult sagg_json_leaf_parse(SaggJsonLeaf *leaf,
										   const char *record, size_t len,
										   SaggFieldValue *values,
										   SaggJsonError *error,
										   const volatile sig_atomic_t *interrupt) SAGG_NOEXCEPT;
extern void sagg_json_leaf_free(SaggJsonLeaf *leaf) SAGG_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif							/* SAGG_JSON_LEAF_H */
