/*-------------------------------------------------------------------------
 *
 * schema_registry.h
 *	  Schemas of Avro and protobuf by their id, from a schema registry with
 *	  Confluent's API.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SCHEMA_REGISTRY_H
#define SAGG_SCHEMA_REGISTRY_H

#include "postgres.h"

#include "read/format/avro.h"
#include "http_get.h"
#include "protobuf_leaf.h"

typedef struct SaggRegistry SaggRegistry;

/* What is known about a schema. */
typedef struct SaggSchema
{
	int32		id;				/* hash key */
	AvroNode   *avro;			/* one of these two, or neither: records of
								 * this */
	SaggProtobufSchema *protobuf;	/* schema are invalid */
	const char *problem;		/* why they are invalid */
	bool		constant;		/* "problem" is a constant */
	int			doubts;			/* how often the registry said nothing about
								 * this schema, and answered for others */
	TimestampTz fetched;
	MemoryContext memory;
	Size		bytes;			/* bytes it takes */
} SaggSchema;

/*
 * Returns whether a schema can be used, by records of its format.
 */
static inline bool
sagg_schema_is_valid(const SaggSchema *schema)
{
	return schema->avro != NULL || schema->protobuf != NULL;
}

/* How to reach a registry, and how it is used. */
typedef struct SaggRegistryAccess
{
	char	   *url;			/* without a slash at its end */
	char	   *user;			/* NULL = none */
	char	   *password;
	char	   *ca_pem;
	int32		good;			/* a schema that it is known to have, -1 =
								 * none */
	bool		keep;			/* the connection, until sagg_http_close */
	void		(*check) (void *arg);	/* called while waiting, or NULL */
	void	   *check_arg;
} SaggRegistryAccess;

/* Who is to blame for an answer without a schema. */
typedef enum SaggBlame
{
	SAGG_BLAME_NOBODY,			/* there is a schema */
	SAGG_BLAME_RECORDS,			/* the records that name the schema */
	SAGG_BLAME_OPEN,			/* unknown so far: ask again */
	SAGG_BLAME_REGISTRY
} SaggBlame;

/* schema_request.c */
extern SaggBlame sagg_schema_ask(const SaggRegistryAccess *access, SaggSchema *schema,
								 SaggHttpAnswer *answer);
pg_noreturn extern void sagg_schema_reject_answer(const SaggRegistryAccess *access, int32 id,
												  const SaggHttpAnswer *answer);

/* registry_ask.c */
extern SaggHttpAnswer sagg_registry_ask(const SaggRegistryAccess *access, const char *path);

/* schema_protobuf.c */
extern bool sagg_schema_compile_protobuf(const SaggRegistryAccess *access, SaggSchema *schema,
										 SaggHttpAnswer *answer);

/*
 * schema_registry.c.  A registry lives as long as the process; schemas that
 * were looked up stay until sagg_registry_tidy, at most.
 */
extern SaggRegistry *sagg_registry_open(Oid server, Oid user);
extern void sagg_registry_tidy(SaggRegistry *registry);
extern const SaggSchema *sagg_registry_find(SaggRegistry *registry, int32 id);
extern const SaggSchema *sagg_registry_look_up(SaggRegistry *registry, int32 id,
											   void (*check) (void *arg), void *arg);


/* bytes in front of a record that name its schema */
#define SAGG_SCHEMA_ID_SIZE		5

extern bool sagg_schema_id(const char *payload, Size len, int32 *id);
extern const char *sagg_schema_problem(const SaggSchema *schema, const char *format);

#endif							/* SAGG_SCHEMA_REGISTRY_H */
