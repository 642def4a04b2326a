/*-------------------------------------------------------------------------
 *
 * schema_registry.c
 *	  Caches schemas of Avro and protobuf by their id, in a process.
 *
 * An id means the same schema for ever, so a schema that was fetched is kept,
 * per process.  A stream's worker fetches the ids of a batch in READ, outside
 * of any transaction; a scan that reads the topic itself, when it meets them.
 * Nothing else does.
 *
 * If the registry says that a schema does not exist or is not valid, the
 * records that name it are to blame; it is asked for again after a while.  A
 * record is never rejected because its id was not asked for.
 *
 * A producer may name any number of schemas.  A batch asks for MAX_ASKED of
 * them and keeps MAX_SCHEMA_BYTES; a batch that needs more is made smaller.
 * Failures never evict valid schemas from the cache.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "http_get.h"
#include "read/read_internal.h"
#include "schema_registry.h"

#define MAX_SCHEMAS			1000	/* schemas kept from batch to batch */
#define MAX_SCHEMA_BYTES	(64 * 1024 * 1024)	/* bytes of all of them */
#define MAX_FAILURES		1000	/* failures kept from batch to batch */
#define MAX_ASKED			1000	/* most schemas asked for in a batch */
#define FAILURE_KEPT_MS		10000	/* how long a failure is remembered */

struct SaggRegistry
{
	SaggRegistry *next;
	SaggRegistryAccess access;
	HTAB	   *schemas;		/* schemas and failures */
	int			nschemas;		/* number of valid schemas */
	Size		bytes;			/* bytes of these */
	int			asked;			/* requests since sagg_registry_tidy */
};

/*
 * registries of this process, kept for its life: there are as many as servers
 * and users
 */
static SaggRegistry *registries = NULL;

#define MAGIC_BYTE			0

/*
 * Reads the schema id of a payload; returns false if it has none.
 */
bool
sagg_schema_id(const char *payload, Size len, int32 *id)
{
	const uint8 *bytes = (const uint8 *) payload;

	if (payload == NULL || len < SAGG_SCHEMA_ID_SIZE || bytes[0] != MAGIC_BYTE)
		return false;
	*id = (int32) ((uint32) bytes[1] << 24 | (uint32) bytes[2] << 16 |
				   (uint32) bytes[3] << 8 | bytes[4]);
	return true;
}

/*
 * Returns why records of a format, named as in messages, cannot be read with a
 * schema that is not valid or of another format.
 */
const char *
sagg_schema_problem(const SaggSchema *schema, const char *format)
{
	return schema->problem ? schema->problem : psprintf("it is not a schema of %s", format);
}

static bool
same(const char *a, const char *b)
{
	return (a == NULL) == (b == NULL) && (a == NULL || strcmp(a, b) == 0);
}

static char *
keep(const char *text)
{
	return text ? MemoryContextStrdup(TopMemoryContext, text) : NULL;
}

/*
 * Returns the registry of a foreign server, as a user reaches it.  Reads
 * catalogs and contacts nobody.  Raises fdw_option_name_not_found if the
 * server has none.
 */
SaggRegistry *
sagg_registry_open(Oid serverid, Oid userid)
{
	ForeignServer *server = GetForeignServer(serverid);
	List	   *mapping = sagg_mapping_options(serverid, userid);
	char	   *url = sagg_find_option(server->options, "schema.registry");
	char	   *ca_pem = sagg_find_option(server->options, "schema.registry.ca.pem");
	char	   *user = sagg_find_option(mapping, "schema.registry.user");
	char	   *password = sagg_find_option(mapping, "schema.registry.password");
	SaggRegistry *registry;
	HASHCTL		control = {.keysize = sizeof(int32), .entrysize = sizeof(SaggSchema),
	.hcxt = TopMemoryContext};

	if (url == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("server \"%s\" has no option \"schema.registry\"", server->servername),
				 errdetail("Its records are written with schemas that are in a registry."),
				 errhint("Use ALTER SERVER %s OPTIONS (ADD \"schema.registry\" 'http://host:8081').",
						 server->servername)));
	for (registry = registries; registry; registry = registry->next)
	{
		if (same(registry->access.url, url) && same(registry->access.ca_pem, ca_pem) &&
			same(registry->access.user, user) && same(registry->access.password, password))
			return registry;
	}
	registry = MemoryContextAllocZero(TopMemoryContext, sizeof(SaggRegistry));
	registry->access.good = -1;
	registry->access.url = keep(url);
	registry->access.user = keep(user);
	registry->access.password = keep(password);
	registry->access.ca_pem = keep(ca_pem);
	registry->schemas = hash_create("stream_agg schemas", 16, &control,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	registry->next = registries;
	registries = registry;
	return registry;
}

static void
forget(SaggRegistry *registry, SaggSchema *schema)
{
	if (sagg_schema_is_valid(schema))
	{
		registry->nschemas--;
		registry->bytes -= schema->bytes;
	}
	if (schema->memory)
		MemoryContextDelete(schema->memory);
	hash_search(registry->schemas, &schema->id, HASH_REMOVE, NULL);
}

/*
 * Forget all schemas, or all failures.
 */
static void
forget_all(SaggRegistry *registry, bool schemas)
{
	HASH_SEQ_STATUS seq;
	SaggSchema *schema;

	hash_seq_init(&seq, registry->schemas);
	while ((schema = hash_seq_search(&seq)) != NULL)
	{
		if (sagg_schema_is_valid(schema) == schemas)
			forget(registry, schema);
	}
}

/*
 * Forget schemas if there are many or large ones, and failures if there are
 * many (I7).  Allows requests again; failures that are old enough are always
 * asked for again.  Not while a record is being decoded.
 */
void
sagg_registry_tidy(SaggRegistry *registry)
{
	TimestampTz now = GetCurrentTimestamp();
	HASH_SEQ_STATUS seq;
	SaggSchema *schema;

	registry->asked = 0;
	if (hash_get_num_entries(registry->schemas) - registry->nschemas > MAX_FAILURES)
		forget_all(registry, false);
	if (registry->nschemas > MAX_SCHEMAS || registry->bytes > MAX_SCHEMA_BYTES)
		forget_all(registry, true);
	hash_seq_init(&seq, registry->schemas);
	while ((schema = hash_seq_search(&seq)) != NULL)
	{
		if (sagg_schema_is_valid(schema) ||
			!TimestampDifferenceExceeds(schema->fetched, now, FAILURE_KEPT_MS))
			continue;
		if (schema->doubts == 0)
			forget(registry, schema);
		else
			schema->problem = NULL;
	}
}

/*
 * Returns a schema that was looked up before; NULL if it was not.  Contacts
 * nobody.
 */
const SaggSchema *
sagg_registry_find(SaggRegistry *registry, int32 id)
{
	const SaggSchema *schema = hash_search(registry->schemas, &id, HASH_FIND, NULL);

	return schema && (sagg_schema_is_valid(schema) || schema->problem) ? schema : NULL;
}

/*
 * Keep what is known about a schema now.
 */
static const SaggSchema *
keep_schema(SaggRegistry *registry, SaggSchema *schema)
{
	SaggSchema *entry;

	if (sagg_schema_is_valid(schema))
		registry->access.good = schema->id;
	else
	{
		/* discard what was built before the schema turned out to be invalid */
		schema->memory = NULL;
		if (schema->problem && !schema->constant)
		{
			schema->memory = AllocSetContextCreate(TopMemoryContext, "stream_agg schema",
												   ALLOCSET_SMALL_SIZES);
			schema->problem = MemoryContextStrdup(schema->memory, schema->problem);
		}
	}
	entry = hash_search(registry->schemas, &schema->id, HASH_FIND, NULL);
	if (entry)
		forget(registry, entry);
	entry = hash_search(registry->schemas, &schema->id, HASH_ENTER, NULL);
	*entry = *schema;
	if (sagg_schema_is_valid(schema))
	{
		registry->nschemas++;
		entry->bytes = MemoryContextMemAllocated(schema->memory, true) +
			(schema->protobuf ? sagg_protobuf_schema_size(schema->protobuf) : 0);
		registry->bytes += entry->bytes;
		MemoryContextSetParent(schema->memory, TopMemoryContext);
	}
	return entry;
}

/*
 * Request a schema that is not known, and keep what the registry says.  Waits
 * for the answer, and calls "check" meanwhile.  Returns NULL, with the status
 * of the answer, if the registry says nothing about this schema yet, though it
 * answers for others; without "status" that is an error.
 */
static const SaggSchema *
ask_for_schema(SaggRegistry *registry, int32 id, int *status,
			   void (*check) (void *arg), void *arg)
{
	const SaggSchema *known = hash_search(registry->schemas, &id, HASH_FIND, NULL);
	SaggSchema	schema = {.id = id, .doubts = known ? known->doubts : 0};
	MemoryContext scratch;
	MemoryContext old;

	/* nobody holds a schema: records are decoded one after the other */
	if (registry->bytes > MAX_SCHEMA_BYTES)
		forget_all(registry, true);
	registry->asked++;
	registry->access.check = check;
	registry->access.check_arg = arg;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "stream_agg answer of a registry",
									ALLOCSET_SMALL_SIZES);
	schema.memory = AllocSetContextCreate(scratch, "stream_agg schema",
										  ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		SaggHttpAnswer answer;
		SaggBlame	blame = sagg_schema_ask(&registry->access, &schema, &answer);

		known = NULL;
		if (blame != SAGG_BLAME_REGISTRY || schema.doubts > 0)
			known = keep_schema(registry, &schema);
		if (blame == SAGG_BLAME_REGISTRY ||
			(blame == SAGG_BLAME_OPEN && (status == NULL || answer.status == 0)))
			sagg_schema_reject_answer(&registry->access, id, &answer);
		if (blame == SAGG_BLAME_OPEN)
		{
			*status = answer.status;
			known = NULL;
		}
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(scratch);
	}
	PG_END_TRY();
	return known;
}

/*
 * Returns a schema, from the registry if it was not looked up before; waits
 * for the answer, and calls "check" meanwhile.  It is valid until the next
 * call.  Raises connection_failure and similar errors.
 */
const SaggSchema *
sagg_registry_look_up(SaggRegistry *registry, int32 id,
					  void (*check) (void *arg), void *arg)
{
	const SaggSchema *known = sagg_registry_find(registry, id);

	return known ? known : ask_for_schema(registry, id, NULL, check, arg);
}

/*
 * Raise the error that the batch needs more schemas than it may request or
 * keep.
 */
static void
raise_too_many(const SaggRegistry *registry)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_SCHEMAS),
			 errmsg("the records of the micro-batch name too many schemas that are not known"),
			 errdetail("Of schema registry \"%s\", %d were asked for; %zu kB are kept of those it has.",
					   registry->access.url, registry->asked, registry->bytes / 1024)));
}

/*
 * Returns whether a schema was requested since "begun" without success.
 */
static bool
asked_in_vain(SaggRegistry *registry, int32 id, TimestampTz begun)
{
	const SaggSchema *schema = hash_search(registry->schemas, &id, HASH_FIND, NULL);

	return schema && schema->fetched >= begun;
}

/*
 * Request the schemas that the records of a batch name and that are not known.
 */
static void
ask_for_batch(SaggReader *reader, bool whole)
{
	SaggRegistry *registry = reader->registry;
	SaggBatchCursor *cursor = sagg_batch_open(reader->batch, false);
	TimestampTz begun = GetCurrentTimestamp();
	SaggHttpAnswer open = {0};
	int32		open_id = -1;
	SaggRecord	record;
	int32		id;

	while (sagg_batch_next(cursor, &record))
	{
		int			status = 0;

		if (!sagg_schema_id(record.payload, record.payload_len, &id) ||
			sagg_registry_find(registry, id) || asked_in_vain(registry, id, begun))
			continue;
		if (!whole && (registry->asked >= MAX_ASKED || registry->bytes > MAX_SCHEMA_BYTES))
			raise_too_many(registry);
		if (ask_for_schema(registry, id, &status, reader->check, reader->check_arg) == NULL)
		{
			open.status = status;
			open_id = id;
		}
	}
	sagg_batch_end(cursor);
	if (open.status != 0)
		sagg_schema_reject_answer(&registry->access, open_id, &open);
}

/*
 * Look up the schemas of all records of the reader's batch, so that a scan of
 * it finds them.  Waits for the registry. "whole": the batch cannot be made
 * smaller; otherwise raises ERRCODE_SAGG_SCHEMAS if that is necessary.
 * Returns the number of schemas requested, in percent of the limit.
 */
int
sagg_reader_look_up_schemas(SaggReader *reader, bool whole)
{
	MemoryContext memory;
	MemoryContext old;

	if (reader->registry == NULL)
		return 0;
	sagg_registry_tidy(reader->registry);
	memory = AllocSetContextCreate(CurrentMemoryContext, "stream_agg schemas of a batch",
								   ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(memory);
	reader->registry->access.keep = true;
	PG_TRY();
	{
		ask_for_batch(reader, whole);
	}
	PG_FINALLY();
	{
		reader->registry->access.keep = false;
		sagg_http_close();
		MemoryContextSwitchTo(old);
		MemoryContextDelete(memory);
	}
	PG_END_TRY();
	return reader->registry->asked / (MAX_ASKED / 100);
}
