/*-------------------------------------------------------------------------
 *
 * format_protobuf.c
 *	  Format protobuf: messages of Protocol Buffers, of a schema that the source's
 *	  options have, or that a registry has.
 *
 * With the option proto or descriptor_set a record is the message alone.  Without
 * them it begins as Confluent's serializers write it:
 *
 *		0x00, schema id (4 bytes, highest first), number of the message, the message
 *
 * The number of a message is a list: the message in the schema's file, one within
 * it, and so on: their count and each number, zigzag varints; a single 0 is short
 * for a list of one 0.
 *
 * Columns are fields by name, as the schema or its JSON form spells them, or deeper
 * parts by path.  protobuf_leaf.cpp says when a value is missing, protobuf_json.cpp
 * how values are written.
 *
 * Takes no locks.  Schemas and leaves are malloc'ed, and freed with the memory
 * context that has them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/base64.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "format.h"
#include "protobuf_leaf.h"
#include "schema_registry.h"

#define MAX_INDEXES		16		/* messages within messages, in a list */
#define MAX_LEAVES		64		/* of a decoder, with schemas of a registry */
#define MAX_LOCAL		16		/* schemas of options, in a process */

/* A leaf, and the records that it is for. */
typedef struct ProtobufLeaf
{
	int32		id;				/* of the schema */
	int			nindexes;
	int			indexes[MAX_INDEXES];
	SaggProtobufLeaf *leaf;
} ProtobufLeaf;

typedef struct ProtobufState
{
	MemoryContextCallback callback;
	int			npaths;
	SaggProtobufPath *paths;
	int			nleaves;
	ProtobufLeaf leaves[MAX_LEAVES];	/* with a schema of options: one */
} ProtobufState;

/* A schema that options have, compiled. */
typedef struct LocalSchema
{
	char	   *text;			/* the option */
	bool		is_set;			/* it is descriptor_set */
	SaggProtobufSchema *schema;
} LocalSchema;

/* those of this process, the newest last */
static LocalSchema local_schemas[MAX_LOCAL];
static int	nlocal = 0;

static void
forget_leaves(ProtobufState *state)
{
	for (int i = 0; i < state->nleaves; i++)
		sagg_protobuf_leaf_free(state->leaves[i].leaf);
	state->nleaves = 0;
}

/* Memory context callback: leaves are not palloc'ed. */
static void
free_leaves(void *arg)
{
	forget_leaves((ProtobufState *) arg);
}

static SaggVerdict
invalid(SaggRecordError *why, const char *message, const char *detail)
{
	why->message = message;
	why->detail = detail;
	return SAGG_RECORD_INVALID;
}

/*
 * Returns the schema that an option has: compiled, or NULL with a problem.
 */
static SaggProtobufSchema *
compile_option(const char *text, bool is_set, SaggProtobufProblem *problem)
{
	SaggProtobufFile file = {"source.proto", text};
	int			size = pg_b64_dec_len((int) strlen(text));
	char	   *bytes;
	int			len;
	SaggProtobufSchema *schema;

	if (!is_set)
		return sagg_protobuf_compile(&file, 1, problem);
	bytes = palloc(size + 1);
	len = pg_b64_decode(text, (int) strlen(text), bytes, size);
	if (len < 0)
	{
		strlcpy(problem->text, "it is not base64", sizeof(problem->text));
		return NULL;
	}
	schema = sagg_protobuf_load(bytes, len, problem);
	pfree(bytes);
	return schema;
}

/*
 * Returns the schema of a source's options, which stays for the next scans of this
 * process.  Raises ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE if it cannot be used.
 */
static const SaggProtobufSchema *
local_schema(const SaggLayout *layout)
{
	bool		is_set = layout->descriptor_set != NULL;
	const char *text = is_set ? layout->descriptor_set : layout->proto;
	SaggProtobufProblem problem;
	LocalSchema *local;
	SaggProtobufSchema *schema;

	for (int i = 0; i < nlocal; i++)
	{
		if (local_schemas[i].is_set == is_set && strcmp(local_schemas[i].text, text) == 0)
			return local_schemas[i].schema;
	}
	schema = compile_option(text, is_set, &problem);
	if (schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" is no schema of protobuf messages",
						is_set ? "descriptor_set" : "proto"),
				 errdetail("It cannot be used: %s.", sagg_foreign_text(problem.text))));
	if (nlocal == MAX_LOCAL)
	{
		pfree(local_schemas[0].text);
		sagg_protobuf_schema_free(local_schemas[0].schema);
		memmove(local_schemas, local_schemas + 1, sizeof(LocalSchema) * --nlocal);
	}
	local = &local_schemas[nlocal];
	local->text = MemoryContextStrdup(TopMemoryContext, text);
	local->is_set = is_set;
	local->schema = schema;
	nlocal++;
	return schema;
}

/*
 * Make the leaf for the schema of the source's options.  Raises
 * ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE for a message or a column's field that it
 * does not have.
 */
static void
make_local_leaf(SaggDecoder *decoder, ProtobufState *state)
{
	const SaggLayout *layout = decoder->layout;
	SaggProtobufProblem problem;
	SaggProtobufLeaf *leaf = sagg_protobuf_leaf_by_name(local_schema(layout), layout->message,
														state->paths, state->npaths, &problem);
	int			unknown;

	if (leaf == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("the schema of the source does not say which message records are"),
				 errdetail("Of the schema: %s.", sagg_foreign_text(problem.text)),
				 errhint("Set the option message of the foreign table to the name of one of its messages.")));
	state->leaves[state->nleaves++].leaf = leaf;
	unknown = sagg_protobuf_leaf_unknown(leaf);
	if (unknown >= 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("message \"%s\" has no field \"%s\"", sagg_protobuf_leaf_message(leaf),
						decoder->columns[unknown].source->name),
				 errhint("The option field or path of a column says what it is read from.")));
}

/*
 * Returns whether enums are numbers for columns of a type.
 */
static bool
wants_numbers(const SaggConversion *conv)
{
	return conv->kind == SAGG_TO_INT2 || conv->kind == SAGG_TO_INT4 ||
		conv->kind == SAGG_TO_INT8 || conv->kind == SAGG_TO_NUMERIC;
}

static void
prepare_protobuf(SaggDecoder *decoder)
{
	ProtobufState *state = palloc0(sizeof(ProtobufState));

	state->callback.func = free_leaves;
	state->callback.arg = state;
	MemoryContextRegisterResetCallback(decoder->context, &state->callback);
	state->npaths = decoder->ncolumns;
	state->paths = palloc0(sizeof(SaggProtobufPath) * Max(state->npaths, 1));
	for (int i = 0; i < decoder->ncolumns; i++)
	{
		DecoderColumn *column = &decoder->columns[i];
		SaggProtobufPath *path = &state->paths[i];

		path->names = sagg_json_names(column->source->path, column->source->npath);
		path->nnames = column->source->npath;
		path->any_case = column->source->any_case;
		path->as_number = wants_numbers(&column->conv);
		column->value = i;
	}
	decoder->state = state;
	decoder->values = palloc0(sizeof(SaggFieldValue) * Max(state->npaths, 1));
	if (decoder->layout->proto || decoder->layout->descriptor_set)
		make_local_leaf(decoder, state);
}

static bool
take_zigzag(const char **p, const char *end, int *value)
{
	uint32		bits = 0;

	for (int shift = 0; shift < 35 && *p < end; shift += 7)
	{
		uint8		byte = (uint8) *(*p)++;

		bits |= (uint32) (byte & 0x7f) << shift;
		if ((byte & 0x80) == 0)
		{
			*value = (int) (bits >> 1) ^ -(int) (bits & 1);
			return true;
		}
	}
	return false;
}

/*
 * Take the number of the message from a record; returns false if it has none.
 */
static bool
take_indexes(const char **p, const char *end, ProtobufLeaf *wanted)
{
	if (!take_zigzag(p, end, &wanted->nindexes) || wanted->nindexes < 0 ||
		wanted->nindexes > MAX_INDEXES)
		return false;
	for (int i = 0; i < wanted->nindexes; i++)
	{
		if (!take_zigzag(p, end, &wanted->indexes[i]))
			return false;
	}
	if (wanted->nindexes == 0)
		wanted->indexes[wanted->nindexes++] = 0;
	return true;
}

static SaggProtobufLeaf *
known_leaf(const ProtobufState *state, const ProtobufLeaf *wanted)
{
	for (int i = state->nleaves - 1; i >= 0; i--)
	{
		const ProtobufLeaf *known = &state->leaves[i];

		if (known->id == wanted->id && known->nindexes == wanted->nindexes &&
			memcmp(known->indexes, wanted->indexes, sizeof(int) * wanted->nindexes) == 0)
			return known->leaf;
	}
	return NULL;
}

/*
 * Returns the leaf for a record of a registry's schema, of which "p" is moved to the
 * message; NULL with the reason if there is none.
 */
static SaggProtobufLeaf *
leaf_of_record(SaggDecoder *decoder, const char **p, const char *end, SaggRecordError *why)
{
	ProtobufState *state = (ProtobufState *) decoder->state;
	ProtobufLeaf wanted = {0};
	SaggProtobufProblem problem;
	const SaggSchema *schema;

	if (!sagg_schema_id(*p, end - *p, &wanted.id))
	{
		(void) invalid(why, "invalid protobuf record: it does not begin with the id of a schema",
					   "Records must be as Confluent's serializers write them, or the source must have the option proto or descriptor_set.");
		return NULL;
	}
	*p += SAGG_SCHEMA_ID_SIZE;
	if (!take_indexes(p, end, &wanted))
	{
		(void) invalid(why, "invalid protobuf record: it does not name a message of its schema", NULL);
		return NULL;
	}
	wanted.leaf = known_leaf(state, &wanted);
	if (wanted.leaf)
		return wanted.leaf;
	schema = decoder->layout->registry ?
		sagg_registry_look_up(decoder->layout->registry, wanted.id, NULL, NULL) : NULL;
	if (schema && schema->protobuf)
		wanted.leaf = sagg_protobuf_leaf_by_index(schema->protobuf, wanted.indexes, wanted.nindexes,
												  state->paths, state->npaths, &problem);
	if (wanted.leaf == NULL)
	{
		(void) invalid(why, psprintf("records of schema %d cannot be decoded", wanted.id),
					   schema == NULL ? NULL :
					   psprintf("Of this schema: %s.", schema->protobuf ? problem.text :
								sagg_schema_problem(schema, "protobuf")));
		return NULL;
	}
	if (state->nleaves == MAX_LEAVES)
		forget_leaves(state);
	state->leaves[state->nleaves++] = wanted;
	return wanted.leaf;
}

static SaggVerdict
parse_protobuf(SaggDecoder *decoder, const char *payload, Size len, SaggRecordError *why)
{
	ProtobufState *state = (ProtobufState *) decoder->state;
	const char *p = payload;
	const char *reason;
	SaggProtobufLeaf *leaf;

	if (payload == NULL)
		return invalid(why, "record has no value",
					   "A record with a key and no value (a tombstone) cannot be decoded as protobuf. The source's option tombstones could be ignore or null.");
	if (len > SAGG_JSON_MAX_SIZE)
		return invalid(why, psprintf("record of %zu bytes is too large", len),
					   psprintf("Records of up to %d bytes can be decoded.", SAGG_JSON_MAX_SIZE));
	CHECK_FOR_INTERRUPTS();
	if (decoder->layout->proto || decoder->layout->descriptor_set)
		leaf = state->leaves[0].leaf;
	else
		leaf = leaf_of_record(decoder, &p, payload + len, why);
	if (leaf == NULL)
		return SAGG_RECORD_INVALID;
	if (!sagg_protobuf_leaf_parse(leaf, p, payload + len - p, decoder->values, &reason))
		return invalid(why, psprintf("invalid protobuf record: %s", reason),
					   psprintf("It was read as message %s.", sagg_protobuf_leaf_message(leaf)));
	return SAGG_RECORD_GOOD;
}

const SaggFormat sagg_format_protobuf = {
	.name = "protobuf",
	.rule = SAGG_BY_NAME,
	.prepare = prepare_protobuf,
	.parse = parse_protobuf
};
