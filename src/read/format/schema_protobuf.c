/*-------------------------------------------------------------------------
 *
 * schema_protobuf.c
 *	  Makes a schema of protobuf messages of a registry's answers.
 *
 * Its text is a .proto file.  Files that it imports are schemas of their own in
 * the registry, which the answer names by subject and version:
 *
 *		{"schema": "...", "references": [{"name": "a.proto", "subject": "a", "version": 1}]}
 *
 * Answers never appear in a message, because they may come from any host; of a
 * schema's faults a message has printable characters only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"

#include "read/read_internal.h"
#include "schema_registry.h"

#define MAX_REFERENCES	32		/* of a file */
#define MAX_FILES		100		/* of a schema */

/* The parts of an answer: the text, and those of each reference. */
enum
{
	PART_NAME,
	PART_SUBJECT,
	PART_VERSION,
	REFERENCE_PARTS
};

#define REFERENCE_PART(i, part)	(1 + (i) * REFERENCE_PARTS + (part))
#define PARTS					REFERENCE_PART(MAX_REFERENCES, 0)

typedef struct Reference
{
	char	   *name;
	char	   *path;			/* of the registry, to ask for it */
} Reference;

/* A schema that is being put together. */
typedef struct Collection
{
	const SaggRegistryAccess *access;
	SaggHttpAnswer *answer;		/* the last one */
	int			nfiles;
	SaggProtobufFile files[MAX_FILES];
	const char *problem;		/* a constant, or NULL */
} Collection;

static char *
url_text(const char *text)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (const char *p = text; *p; p++)
	{
		if (strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~", *p))
			appendStringInfoChar(&buf, *p);
		else
			appendStringInfo(&buf, "%%%02X", (uint8) *p);
	}
	return buf.data;
}

/*
 * Returns the leaf that finds the parts of an answer.
 */
static SaggJsonLeaf *
make_leaf(void)
{
	static const SaggJsonName parts[REFERENCE_PARTS] = {
		{"name", 4}, {"subject", 7}, {"version", 7}
	};
	SaggJsonPath *paths = palloc0(sizeof(SaggJsonPath) * PARTS);
	SaggJsonName *names = palloc0(sizeof(SaggJsonName) * (PARTS * 3 + 1));
	SaggJsonName *next = names;
	SaggJsonLeaf *leaf;

	next->text = "schema";
	next->len = strlen("schema");
	paths[0].names = next++;
	paths[0].nnames = 1;
	for (int i = 0; i < MAX_REFERENCES; i++)
	{
		char	   *index = psprintf("%d", i);

		for (int part = 0; part < REFERENCE_PARTS; part++)
		{
			SaggJsonPath *path = &paths[REFERENCE_PART(i, part)];

			path->names = next;
			path->nnames = 3;
			next->text = "references";
			next++->len = strlen("references");
			next->text = index;
			next++->len = strlen(index);
			*next++ = parts[part];
		}
	}
	leaf = sagg_json_leaf_make(paths, PARTS, SAGG_JSON_MAX_DEPTH);
	if (leaf == NULL)
		ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	return leaf;
}

/*
 * Read an answer; returns its text, and sets its references.  NULL if it has no
 * text.
 */
static char *
read_answer(const SaggHttpAnswer *answer, List **references)
{
	SaggFieldValue values[PARTS];
	SaggJsonError error;
	SaggJsonLeaf *leaf = make_leaf();
	char	   *text = NULL;

	*references = NIL;
	if (sagg_json_leaf_parse(leaf, answer->body, answer->len, values, &error, NULL) == SAGG_JSON_OK &&
		values[0].kind == SAGG_FIELD_STRING)
	{
		text = pstrdup(values[0].text);
		for (int i = 0; i < MAX_REFERENCES; i++)
		{
			const SaggFieldValue *parts = &values[REFERENCE_PART(i, 0)];
			Reference  *reference;

			if (parts[PART_NAME].kind != SAGG_FIELD_STRING ||
				parts[PART_SUBJECT].kind != SAGG_FIELD_STRING ||
				parts[PART_VERSION].kind != SAGG_FIELD_NUMBER)
				break;
			reference = palloc(sizeof(Reference));
			reference->name = pstrdup(parts[PART_NAME].text);
			reference->path = psprintf("/subjects/%s/versions/%s",
									   url_text(parts[PART_SUBJECT].text),
									   url_text(parts[PART_VERSION].text));
			*references = lappend(*references, reference);
		}
	}
	sagg_json_leaf_free(leaf);
	return text;
}

static bool
has_file(const Collection *collection, const char *name)
{
	for (int i = 0; i < collection->nfiles; i++)
	{
		if (strcmp(collection->files[i].name, name) == 0)
			return true;
	}
	return false;
}

/*
 * Add the file of the last answer, and those that it imports.  Returns false with
 * the collection's problem, or without one if the last answer says nothing.
 */
static bool
add_files(Collection *collection, const char *name)
{
	List	   *references;
	ListCell   *lc;
	char	   *text = read_answer(collection->answer, &references);

	check_stack_depth();
	if (text == NULL || collection->nfiles == MAX_FILES)
	{
		collection->problem = text ? "it imports too many files" :
			"the registry gives none for a file that it imports";
		return false;
	}
	collection->files[collection->nfiles].name = name;
	collection->files[collection->nfiles++].text = text;
	foreach(lc, references)
	{
		const Reference *reference = lfirst(lc);

		if (has_file(collection, reference->name))
			continue;
		*collection->answer = sagg_registry_ask(collection->access, reference->path);
		if (collection->answer->status == 404)
			collection->problem = "the registry does not have a file that it imports";
		if (collection->answer->status != 200 || !add_files(collection, reference->name))
			return false;
	}
	return true;
}

/* Memory context callback: schemas are not palloc'ed. */
static void
free_schema(void *arg)
{
	sagg_protobuf_schema_free(arg);
}

/*
 * Set the schema of protobuf messages that an answer of the registry describes, or
 * its problem; it lives as long as the current memory context.  Asks for the files
 * that it imports, and returns false if the registry says nothing about one of them:
 * then "answer" is that one's.
 */
bool
sagg_schema_compile_protobuf(const SaggRegistryAccess *access, SaggSchema *schema,
							 SaggHttpAnswer *answer)
{
	MemoryContext memory = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(memory, "stream_agg files of a schema",
												  ALLOCSET_SMALL_SIZES);
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));
	Collection *collection;
	SaggProtobufProblem problem;

	MemoryContextSwitchTo(scratch);
	collection = palloc0(sizeof(Collection));
	collection->access = access;
	collection->answer = answer;
	if (add_files(collection, "schema.proto"))
		schema->protobuf = sagg_protobuf_compile(collection->files, collection->nfiles, &problem);
	else if (collection->problem == NULL)
	{
		/* the caller needs the answer, and frees it with the schema */
		MemoryContextSwitchTo(memory);
		return false;
	}
	MemoryContextSwitchTo(memory);
	if (schema->protobuf)
	{
		callback->func = free_schema;
		callback->arg = schema->protobuf;
		MemoryContextRegisterResetCallback(memory, callback);
	}
	schema->constant = collection->problem != NULL;
	if (schema->protobuf == NULL)
		schema->problem = collection->problem ? collection->problem : sagg_foreign_text(problem.text);
	MemoryContextDelete(scratch);
	return true;
}
