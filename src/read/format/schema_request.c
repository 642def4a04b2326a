/*-------------------------------------------------------------------------
 *
 * schema_request.c
 *	  Requests a schema from a registry with Confluent's REST API: GET
 *	  /schemas/ids/7 answers {"schema": "..."}.
 *
 * If a schema is invalid, the records that name it are to blame.  If the
 * registry does not answer, they are not.  A producer can name schemas for
 * which the registry gives a different answer than for others, such as
 * "forbidden" or an internal error.  So after such an answer it is asked for a
 * schema that it is known to have: if it returns that, the records are to
 * blame; if the answer may change later, only after stream_agg.max_attempts.
 *
 * Its answers never appear in a message, because they may come from any host.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "read/read_internal.h"
#include "schema_registry.h"

#define NO_SUCH_SCHEMA		"40403" /* the registry's error_code */

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
 * Returns whether an answer has a schema of a type; without one it is Avro's.
 */
static bool
is_of_type(const SaggFieldValue *parts, const char *type)
{
	return strcmp(parts[ANSWER_TYPE].kind == SAGG_FIELD_STRING ? parts[ANSWER_TYPE].text : "AVRO",
				  type) == 0;
}

/*
 * Set the Avro schema that an answer describes, or the reason why there is
 * none.
 */
static void
compile_answer(const SaggFieldValue *parts, SaggSchema *schema)
{
	if (parts[ANSWER_SCHEMA].kind != SAGG_FIELD_STRING)
		schema->problem = "the registry gives none for it";
	else if (!is_of_type(parts, "AVRO"))
		schema->problem = "it is a schema of neither Avro nor protobuf";
	else if (parts[ANSWER_REFERENCES].kind == SAGG_FIELD_ARRAY &&
			 strchr(parts[ANSWER_REFERENCES].text, '{'))
		schema->problem = "it refers to other schemas";
	schema->constant = schema->problem != NULL;
	if (schema->problem)
		return;
	schema->avro = sagg_avro_compile(parts[ANSWER_SCHEMA].text, &schema->problem);
	if (schema->problem)
	{
		schema->problem = sagg_foreign_text(schema->problem);
		schema->avro = NULL;
	}
	else if (schema->avro->type != AVRO_T_RECORD)
	{
		schema->avro = NULL;
		schema->problem = "it is not the schema of a record";
		schema->constant = true;
	}
}

/*
 * Raise an error for an answer that says nothing about the schema.
 */
void
sagg_schema_reject_answer(const SaggRegistryAccess *access, int32 id,
						  const SaggHttpAnswer *answer)
{
	int			status = answer->status;
	int			code = status == 401 || status == 403 ?
	ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION :
	status >= 500 || status == 429 ? ERRCODE_CONNECTION_FAILURE : ERRCODE_FDW_ERROR;

	if (status == 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("no answer from \"%s/schemas/ids/%d\"", access->url, id),
				 errdetail("%s.", answer->trouble)));
	ereport(ERROR,
			(errcode(code),
			 errmsg("schema registry \"%s\" did not give schema %d", access->url, id),
			 status == 200 ? errdetail("It answered something else than JSON.") :
			 errdetail("It answered with HTTP status %d.", status),
			 status == 401 || status == 403 ?
			 errhint("Set the options schema.registry.user and schema.registry.password of a user mapping.") :
			 status == 404 ? errhint("The server's option schema.registry may have another path.") : 0));
}

/*
 * Find the parts of an answer; returns true if it says something about the
 * schema.
 */
static bool
read_answer(const SaggHttpAnswer *answer, SaggJsonLeaf *leaf, SaggFieldValue *parts)
{
	SaggJsonError error;

	if (sagg_json_leaf_parse(leaf, answer->body, answer->len, parts, &error, NULL) != SAGG_JSON_OK)
		return false;
	if (answer->status == 200)
		return true;
	parts[ANSWER_SCHEMA].kind = SAGG_FIELD_MISSING;
	return answer->status == 404 && parts[ANSWER_CODE].kind == SAGG_FIELD_NUMBER &&
		strcmp(parts[ANSWER_CODE].text, NO_SUCH_SCHEMA) == 0;
}

/*
 * Set what is known about a schema from the answer, in the current memory
 * context.  Returns false if the answer says nothing about it; that can be the
 * answer to a question for a file that the schema imports.
 */
static bool
take_answer(const SaggRegistryAccess *access, SaggSchema *schema, SaggHttpAnswer *answer)
{
	static const SaggJsonName names[] = {
		{"schema", 6}, {"schemaType", 10}, {"references", 10}, {"error_code", 10}
	};
	SaggJsonPath paths[ANSWER_PARTS];
	SaggFieldValue parts[ANSWER_PARTS];
	SaggJsonLeaf *leaf;
	volatile bool good = false;

	if (answer->status == 0)
		return false;
	for (int i = 0; i < ANSWER_PARTS; i++)
	{
		memset(&paths[i], 0, sizeof(SaggJsonPath));
		paths[i].names = &names[i];
		paths[i].nnames = 1;
	}
	leaf = sagg_json_leaf_make(paths, ANSWER_PARTS, SAGG_JSON_MAX_DEPTH);
	if (leaf == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	PG_TRY();
	{
		good = read_answer(answer, leaf, parts);
		if (good && parts[ANSWER_SCHEMA].kind == SAGG_FIELD_STRING && is_of_type(parts, "PROTOBUF"))
			good = sagg_schema_compile_protobuf(access, schema, answer);
		else if (good)
			compile_answer(parts, schema);
	}
	PG_FINALLY();
	{
		sagg_json_leaf_free(leaf);
	}
	PG_END_TRY();
	return good;
}

/*
 * Returns whether the registry returns a schema that it is known to have.
 */
static bool
answers_others(const SaggRegistryAccess *access, int32 id)
{
	return (access->good >= 0 && access->good != id &&
			sagg_registry_ask(access, psprintf("/schemas/ids/%d", access->good)).status == 200) ||
		sagg_registry_ask(access, "/schemas/types").status == 200;
}

/*
 * Returns who is to blame for an answer that says nothing about the schema.
 */
static SaggBlame
find_blame(const SaggRegistryAccess *access, SaggSchema *schema,
		   const SaggHttpAnswer *answer)
{
	int			status = answer->status;

	if (status == 401 || status == 407 || status == 408 || status == 429 ||
		!answers_others(access, schema->id))
		return SAGG_BLAME_REGISTRY;
	if (status == 0 || status >= 500)
	{
		schema->doubts = Min(schema->doubts, INT_MAX - 1) + 1;
		if (schema->doubts < sagg_max_attempts)
			return SAGG_BLAME_OPEN;
	}
	return SAGG_BLAME_RECORDS;
}

/*
 * Request a schema from the registry, and wait for the answer.  The result
 * goes into *schema and schema->memory, the answer into the current context.
 * An answer that says nothing about the schema becomes the problem of the
 * schema if the records are to blame.  Raises out_of_memory, and what
 * interrupts raise.
 */
SaggBlame
sagg_schema_ask(const SaggRegistryAccess *access, SaggSchema *schema,
				SaggHttpAnswer *answer)
{
	MemoryContext old;
	SaggBlame	blame;
	bool		good;

	*answer = sagg_registry_ask(access, psprintf("/schemas/ids/%d", schema->id));
	old = MemoryContextSwitchTo(schema->memory);
	good = take_answer(access, schema, answer);
	MemoryContextSwitchTo(old);
	blame = good ? SAGG_BLAME_NOBODY : find_blame(access, schema, answer);
	schema->fetched = GetCurrentTimestamp();
	if (blame == SAGG_BLAME_NOBODY)
		schema->doubts = 0;
	else if (blame == SAGG_BLAME_RECORDS && answer->status == 0)
		schema->problem = psprintf("the registry gives no answer for it: %s", answer->trouble);
	else if (blame == SAGG_BLAME_RECORDS)
		schema->problem = answer->status == 200 ? "the registry answers something else than JSON for it" :
			psprintf("the registry answers with HTTP status %d for it", answer->status);
	return blame;
}
