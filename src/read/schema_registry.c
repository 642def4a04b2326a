/*-------------------------------------------------------------------------
 *
 * schema_registry.c
 *	  Avro schemas by their id, from a schema registry with Confluent's REST
 *	  API: GET /schemas/ids/7 answers {"schema": "..."}.
 *
 * An id means the same schema for ever, so what was fetched once is kept, per
 * process.  A stream's worker fetches the ids of a batch in READ, outside of
 * any transaction; a scan of its own when it meets them.  Nobody else does.
 *
 * What the registry says of a schema - there is none, it is no valid Avro - is
 * the fault of the records that name it, and is asked again after a while.
 * That the registry does not answer is nobody's: a connection failure, retried.
 * What it answers goes into no message; it may be any host's answer.
 *
 * Whoever produces may name any number of schemas.  After MAX_FAILURES that are
 * none the registry is not asked for others until the next batch, nor when those
 * that are kept have MAX_SCHEMA_BYTES: records that name them are refused, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "http_get.h"
#include "reader_internal.h"
#include "schema_registry.h"

#define MAX_ANSWER_SIZE		(4 * 1024 * 1024)
#define MAX_SCHEMAS			1000	/* kept */
#define MAX_SCHEMA_BYTES	(64 * 1024 * 1024)	/* of all, of a batch too */
#define MAX_FAILURES		1000	/* of a batch */
#define FAILURE_KEPT_MS		10000	/* that there is no such schema */
#define NO_SUCH_SCHEMA		"40403" /* the registry's error_code */

struct SaggRegistry
{
	SaggRegistry *next;
	char	   *url;			/* without a slash at its end */
	char	   *user;			/* NULL = none */
	char	   *password;
	char	   *ca_pem;
	HTAB	   *schemas;
	int			failures;		/* since sagg_registry_tidy */
	Size		bytes;			/* of the schemas that are kept */
};

/* instead of schemas that are not asked for */
static const SaggSchema too_many = {
	.problem = "the registry is not asked for it, for it lacks very many of those that the records name"
};
static const SaggSchema too_large = {
	.problem = "the registry is not asked for it, for those that the records name take too much memory"
};

/* of this process, for ever: they are as many as servers and users */
static SaggRegistry *registries = NULL;

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
 * The registry of a foreign server, as a user reaches it.  Reads catalogs and
 * contacts nobody.  Raises fdw_option_name_not_found if the server has none.
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
				 errdetail("Records of format avro are written with schemas that are in a registry."),
				 errhint("Use ALTER SERVER %s OPTIONS (ADD \"schema.registry\" 'http://host:8081').",
						 server->servername)));
	for (registry = registries; registry; registry = registry->next)
	{
		if (same(registry->url, url) && same(registry->ca_pem, ca_pem) &&
			same(registry->user, user) && same(registry->password, password))
			return registry;
	}
	registry = MemoryContextAllocZero(TopMemoryContext, sizeof(SaggRegistry));
	registry->url = keep(url);
	registry->user = keep(user);
	registry->password = keep(password);
	registry->ca_pem = keep(ca_pem);
	registry->schemas = hash_create("stream_agg schemas", 16, &control,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	registry->next = registries;
	registries = registry;
	return registry;
}

static void
forget(SaggRegistry *registry, SaggSchema *schema)
{
	registry->bytes -= schema->bytes;
	if (schema->memory)
		MemoryContextDelete(schema->memory);
	hash_search(registry->schemas, &schema->id, HASH_REMOVE, NULL);
}

/*
 * Forget failures of a while ago, and all schemas if there are many or large ones
 * (I7); the registry may be asked again.  Not while a record is being decoded.
 */
void
sagg_registry_tidy(SaggRegistry *registry)
{
	bool		all = hash_get_num_entries(registry->schemas) > MAX_SCHEMAS ||
		registry->bytes > MAX_SCHEMA_BYTES;
	TimestampTz now = GetCurrentTimestamp();
	HASH_SEQ_STATUS seq;
	SaggSchema *schema;

	registry->failures = 0;
	hash_seq_init(&seq, registry->schemas);
	while ((schema = hash_seq_search(&seq)) != NULL)
	{
		if (all || (schema->root == NULL &&
					TimestampDifferenceExceeds(schema->fetched, now, FAILURE_KEPT_MS)))
			forget(registry, schema);
	}
}

/*
 * A schema that was looked up before; NULL if it was not.  Contacts nobody.
 */
const SaggSchema *
sagg_registry_find(SaggRegistry *registry, int32 id)
{
	return hash_search(registry->schemas, &id, HASH_FIND, NULL);
}

/* The parts of the registry's answer. */
enum AnswerPart
{
	ANSWER_SCHEMA,
	ANSWER_TYPE,
	ANSWER_REFERENCES,
	ANSWER_CODE,
	ANSWER_PARTS
};

/*
 * The type that an answer describes; NULL with the reason in *problem.
 */
static AvroNode *
compile_answer(const SaggJsonValue *parts, const char **problem)
{
	AvroNode   *node;

	*problem = NULL;
	if (parts[ANSWER_SCHEMA].kind != SAGG_JSON_STRING)
		*problem = "the registry gives none for it";
	else if (parts[ANSWER_TYPE].kind == SAGG_JSON_STRING &&
			 strcmp(parts[ANSWER_TYPE].text, "AVRO") != 0)
		*problem = "it is not an Avro schema";
	else if (parts[ANSWER_REFERENCES].kind == SAGG_JSON_ARRAY &&
			 strchr(parts[ANSWER_REFERENCES].text, '{'))
		*problem = "it refers to other schemas";
	if (*problem)
		return NULL;
	node = sagg_avro_compile(parts[ANSWER_SCHEMA].text, problem);
	if (*problem)
		*problem = sagg_foreign_text(*problem);
	return node;
}

/*
 * Raise an error for an answer that says nothing of the schema.
 */
static void
refuse_answer(const SaggRegistry *registry, int32 id, int status)
{
	int			code = status == 401 || status == 403 ?
		ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION :
		status >= 500 || status == 429 ? ERRCODE_CONNECTION_FAILURE : ERRCODE_FDW_ERROR;

	ereport(ERROR,
			(errcode(code),
			 errmsg("schema registry \"%s\" did not give schema %d", registry->url, id),
			 status == 200 ? errdetail("It answered something else than JSON.") :
			 errdetail("It answered with HTTP status %d.", status),
			 status == 401 || status == 403 ?
			 errhint("Set the options schema.registry.user and schema.registry.password of a user mapping.") :
			 status == 404 ? errhint("The server's option schema.registry may have another path.") : 0));
}

/*
 * Find the parts of an answer; true if it says something of the schema.
 */
static bool
read_answer(const SaggHttpAnswer *answer, SaggJsonLeaf *leaf, SaggJsonValue *parts)
{
	SaggJsonError error;

	if (sagg_json_leaf_parse(leaf, answer->body, answer->len, parts, &error) != SAGG_JSON_OK)
		return false;
	if (answer->status == 200)
		return true;
	parts[ANSWER_SCHEMA].kind = SAGG_JSON_MISSING;
	return answer->status == 404 && parts[ANSWER_CODE].kind == SAGG_JSON_NUMBER &&
		strcmp(parts[ANSWER_CODE].text, NO_SUCH_SCHEMA) == 0;
}

/*
 * The answer becomes what is known of a schema, in the current memory context.
 */
static void
take_answer(SaggRegistry *registry, SaggSchema *schema, const SaggHttpAnswer *answer)
{
	static const SaggJsonName names[] = {
		{"schema", 6}, {"schemaType", 10}, {"references", 10}, {"error_code", 10}
	};
	SaggJsonPath paths[ANSWER_PARTS];
	SaggJsonValue parts[ANSWER_PARTS];
	SaggJsonLeaf *leaf;
	volatile bool good = false;

	for (int i = 0; i < ANSWER_PARTS; i++)
		paths[i] = (SaggJsonPath) {&names[i], 1, 0};
	leaf = sagg_json_leaf_make(paths, ANSWER_PARTS, SAGG_JSON_MAX_DEPTH);
	if (leaf == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	PG_TRY();
	{
		good = read_answer(answer, leaf, parts);
		if (good)
			schema->root = compile_answer(parts, &schema->problem);
	}
	PG_FINALLY();
	{
		sagg_json_leaf_free(leaf);
	}
	PG_END_TRY();
	if (!good)
		refuse_answer(registry, schema->id, answer->status);
	if (schema->root && schema->root->type != AVRO_T_RECORD)
	{
		schema->root = NULL;
		schema->problem = "it is not the schema of a record";
	}
}

/*
 * Ask the registry for a schema.  What is kept of it goes into schema->memory,
 * the answer and the rest into the current context.
 */
static void
ask_for_schema(SaggRegistry *registry, SaggSchema *schema,
			   void (*check) (void *arg), void *arg)
{
	SaggHttpRequest request = {
		.accept = "application/vnd.schemaregistry.v1+json",
		.user = registry->user,
		.password = registry->password,
		.ca_pem = registry->ca_pem,
		.timeout_ms = sagg_kafka_timeout_ms,
		.max_size = MAX_ANSWER_SIZE,
		.check = check,
		.check_arg = arg
	};
	SaggHttpAnswer answer;
	MemoryContext old;

	request.url = psprintf("%s/schemas/ids/%d", registry->url, schema->id);
	answer = sagg_http_get(&request);
	schema->fetched = GetCurrentTimestamp();
	old = MemoryContextSwitchTo(schema->memory);
	take_answer(registry, schema, &answer);
	MemoryContextSwitchTo(old);
}

/*
 * Keep a schema that was asked for.  Without a root it counts as a failure.
 */
static const SaggSchema *
keep_schema(SaggRegistry *registry, SaggSchema *schema)
{
	SaggSchema *entry = hash_search(registry->schemas, &schema->id, HASH_ENTER, NULL);

	schema->bytes = MemoryContextMemAllocated(schema->memory, true);
	registry->bytes += schema->bytes;
	if (schema->root == NULL)
		registry->failures++;
	MemoryContextSetParent(schema->memory, TopMemoryContext);
	*entry = *schema;
	return entry;
}

/*
 * A schema, from the registry if it was not looked up before; waits for that,
 * and calls "check" meanwhile.  Raises connection_failure and the like.
 */
const SaggSchema *
sagg_registry_look_up(SaggRegistry *registry, int32 id,
					  void (*check) (void *arg), void *arg)
{
	const SaggSchema *known = sagg_registry_find(registry, id);
	MemoryContext scratch;
	MemoryContext old;
	SaggSchema	schema = {.id = id};

	if (known)
		return known;
	if (registry->failures >= MAX_FAILURES)
		return &too_many;
	if (registry->bytes > MAX_SCHEMA_BYTES)
		return &too_large;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "stream_agg answer of a registry",
									ALLOCSET_SMALL_SIZES);
	schema.memory = AllocSetContextCreate(scratch, "stream_agg schema",
										  ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		ask_for_schema(registry, &schema, check, arg);
		known = keep_schema(registry, &schema);
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
 * Look up the schemas of all records of the reader's batch, so that a scan of
 * it finds them.  Waits for the registry.
 */
void
sagg_reader_look_up_schemas(SaggReader *reader)
{
	MemoryContext memory;
	MemoryContext old;
	SaggBatchCursor *cursor;
	SaggRecord	record;
	int32		id;

	if (reader->registry == NULL)
		return;
	sagg_registry_tidy(reader->registry);
	memory = AllocSetContextCreate(CurrentMemoryContext, "stream_agg schemas of a batch",
								   ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(memory);
	PG_TRY();
	{
		cursor = sagg_batch_open(reader->batch, false);
		while (sagg_batch_next(cursor, &record))
		{
			if (sagg_avro_schema_id(record.payload, record.payload_len, &id))
				(void) sagg_registry_look_up(reader->registry, id, reader->check, reader->check_arg);
		}
		sagg_batch_end(cursor);
	}
	PG_FINALLY();
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(memory);
	}
	PG_END_TRY();
}
