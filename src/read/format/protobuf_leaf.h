/*-------------------------------------------------------------------------
 *
 * protobuf_leaf.h
 *	  The interface between format_protobuf.c (C, PostgreSQL) and
 *	  protobuf_leaf.cpp (C++, libprotobuf): plain data and C functions that
 *	  never throw, so that no error can jump over a C++ frame (I6).
 *
 * Includes neither postgres.h nor any C++ header.  Memory of schemas and leaves
 * is malloc'ed; whoever makes one frees it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_PROTOBUF_LEAF_H
#define SAGG_PROTOBUF_LEAF_H

#include "json_leaf.h"

#ifdef __cplusplus
extern "C"
{
#endif

/* A file of a schema, in the language of .proto files. */
typedef struct SaggProtobufFile
{
	const char *name;			/* as other files import it */
	const char *text;			/* ends with a NUL */
} SaggProtobufFile;

/* Why a schema cannot be used: English, and parts of the schema. */
typedef struct SaggProtobufProblem
{
	char		text[256];
} SaggProtobufProblem;

/* A value that is wanted of each message. */
typedef struct SaggProtobufPath
{
	const SaggJsonName *names;	/* as in SaggJsonPath */
	int			nnames;
	int			any_case;
	int			as_number;		/* an enum is its number */
} SaggProtobufPath;

typedef struct SaggProtobufSchema SaggProtobufSchema;
typedef struct SaggProtobufLeaf SaggProtobufLeaf;

extern SaggProtobufSchema *sagg_protobuf_compile(const SaggProtobufFile *files, int nfiles,
												 SaggProtobufProblem *problem) SAGG_NOEXCEPT;
extern SaggProtobufSchema *sagg_protobuf_load(const char *descriptors, size_t len,
											  SaggProtobufProblem *problem) SAGG_NOEXCEPT;
extern size_t sagg_protobuf_schema_size(const SaggProtobufSchema *schema) SAGG_NOEXCEPT;
extern void sagg_protobuf_schema_free(SaggProtobufSchema *schema) SAGG_NOEXCEPT;

extern SaggProtobufLeaf *sagg_protobuf_leaf_by_name(const SaggProtobufSchema *schema,
													const char *message,
													const SaggProtobufPath *paths, int npaths,
													SaggProtobufProblem *problem) SAGG_NOEXCEPT;
extern SaggProtobufLeaf *sagg_protobuf_leaf_by_index(const SaggProtobufSchema *schema,
													 const int *indexes, int nindexes,
													 const SaggProtobufPath *paths, int npaths,
													 SaggProtobufProblem *problem) SAGG_NOEXCEPT;
extern int	sagg_protobuf_leaf_unknown(const SaggProtobufLeaf *leaf) SAGG_NOEXCEPT;
extern const char *sagg_protobuf_leaf_message(const SaggProtobufLeaf *leaf) SAGG_NOEXCEPT;
extern int	sagg_protobuf_leaf_parse(SaggProtobufLeaf *leaf, const char *message, size_t len,
									 SaggFieldValue *values, const char **reason) SAGG_NOEXCEPT;
extern void sagg_protobuf_leaf_free(SaggProtobufLeaf *leaf) SAGG_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif							/* SAGG_PROTOBUF_LEAF_H */
