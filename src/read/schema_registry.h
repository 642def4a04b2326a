/*-------------------------------------------------------------------------
 *
 * schema_registry.h
 *	  Avro schemas by their id, from a schema registry with Confluent's API.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SCHEMA_REGISTRY_H
#define SAGG_SCHEMA_REGISTRY_H

#include "postgres.h"

#include "read/format/avro.h"

typedef struct SaggRegistry SaggRegistry;

/* What is known of a schema. */
typedef struct SaggSchema
{
	int32		id;				/* key */
	AvroNode   *root;			/* NULL = records of this schema are invalid */
	const char *problem;		/* why */
	TimestampTz fetched;
	MemoryContext memory;
	Size		bytes;			/* of it */
} SaggSchema;

/*
 * schema_registry.c.  A registry lives as long as the process; schemas that
 * were looked up stay until sagg_registry_tidy, at most.
 */
extern SaggRegistry *sagg_registry_open(Oid server, Oid user);
extern void sagg_registry_tidy(SaggRegistry *registry);
extern const SaggSchema *sagg_registry_find(SaggRegistry *registry, int32 id);
extern const SaggSchema *sagg_registry_look_up(SaggRegistry *registry, int32 id,
											   void (*check) (void *arg), void *arg);

/* format_avro.c */
extern bool sagg_avro_schema_id(const char *payload, Size len, int32 *id);

#endif							/* SAGG_SCHEMA_REGISTRY_H */
