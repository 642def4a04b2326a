/*-------------------------------------------------------------------------
 *
 * format_json.c
 *	  Format json: a record is an object, columns are its fields or deeper
 *	  parts of it, by the rules of decode.h.
 *
 * The payload goes through json_leaf.cpp, which checks all of it and picks the
 * fields.  The leaf's memory is malloc'ed and freed with the decoder's memory
 * context.  Other formats with JSON inside use the same functions.  Takes no
 * locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "format.h"
#include "payload_encode.h"

/* after this many interrupts a record is parsed to its end */
#define MAX_INTERRUPTS	4

typedef struct JsonState
{
	MemoryContextCallback callback;
	SaggJsonLeaf *leaf;
} JsonState;

/* Memory context callback: the leaf's memory is not palloc'ed. */
static void
free_leaf(void *arg)
{
	JsonState  *state = (JsonState *) arg;

	sagg_json_leaf_free(state->leaf);
	state->leaf = NULL;
}

static void
no_memory_for_leaf(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errdetail("Failed while decoding a record.")));
}

/*
 * Returns names of the server encoding in the form the leaf needs, in the
 * current context.
 */
SaggJsonName *
sagg_json_names(char *const *path, int n)
{
	SaggJsonName *names = palloc(sizeof(SaggJsonName) * Max(n, 1));

	for (int i = 0; i < n; i++)
	{
		names[i].text = pg_server_to_any(path[i], strlen(path[i]), PG_UTF8);
		names[i].len = strlen(names[i].text);
	}
	return names;
}

static bool
same_path(const SaggJsonPath *path, const SaggJsonName *names, int nnames)
{
	if (path->nnames != nnames)
		return false;
	for (int i = 0; i < nnames; i++)
	{
		if (path->names[i].len != names[i].len ||
			memcmp(path->names[i].text, names[i].text, names[i].len) != 0)
			return false;
	}
	return true;
}

/*
 * Returns the index of a path among "paths", to which it is added if missing:
 * columns may share a field, and the leaf looks for each once.
 */
int
sagg_json_add_path(SaggJsonPath *paths, int *npaths, const SaggJsonName *names,
				   int nnames)
{
	for (int i = 0; i < *npaths; i++)
	{
		if (same_path(&paths[i], names, nnames))
			return i;
	}
	paths[*npaths].names = names;
	paths[*npaths].nnames = nnames;
	return (*npaths)++;
}

/*
 * Makes the decoder look for these paths, each given once; decoder->values[i]
 * is then the value at paths[i].
 */
void
sagg_json_prepare(SaggDecoder *decoder, const SaggJsonPath *paths, int npaths)
{
	JsonState  *state = palloc0(sizeof(JsonState));

	state->callback.func = free_leaf;
	state->callback.arg = state;
	MemoryContextRegisterResetCallback(decoder->context, &state->callback);
	decoder->state = state;
	decoder->values = palloc0(sizeof(SaggFieldValue) * (npaths + 1));
	state->leaf = sagg_json_leaf_make(paths, npaths, SAGG_JSON_MAX_DEPTH);
	if (state->leaf == NULL)
		no_memory_for_leaf();
}

static void
prepare_json(SaggDecoder *decoder)
{
	SaggJsonPath *paths = palloc0(sizeof(SaggJsonPath) * (decoder->ncolumns + 1));
	int			npaths = 0;

	for (int i = 0; i < decoder->ncolumns; i++)
	{
		DecoderColumn *column = &decoder->columns[i];
		const SaggField *field = column->source;

		column->value = sagg_json_add_path(paths, &npaths,
										   sagg_json_names(field->path, field->npath),
										   field->npath);
		if (field->any_case)
			paths[column->value].any_case = true;
	}
	sagg_json_prepare(decoder, paths, npaths);
}

/*
 * Runs the leaf, which stops for interrupts so that they are served.  An
 * interrupt that cannot be served now does not keep a record from being
 * parsed.
 */
static SaggJsonResult
parse_payload(SaggJsonLeaf *leaf, const char *payload, Size len,
			  SaggFieldValue *values, SaggJsonError *error)
{
	SaggJsonResult result = SAGG_JSON_INTERRUPTED;

	for (int i = 0; i < MAX_INTERRUPTS && result == SAGG_JSON_INTERRUPTED; i++)
	{
		CHECK_FOR_INTERRUPTS();
		result = sagg_json_leaf_parse(leaf, payload, len, values, error, &InterruptPending);
	}
	if (result == SAGG_JSON_INTERRUPTED)
		result = sagg_json_leaf_parse(leaf, payload, len, values, error, NULL);
	return result;
}

/*
 * Runs the leaf over a payload.  Returns false, with a reason, for an invalid
 * one.
 */
bool
sagg_json_parse(SaggDecoder *decoder, const char *payload, Size len,
				SaggRecordError *why)
{
	JsonState  *state = (JsonState *) decoder->state;
	SaggJsonError error = {0};

	why->detail = NULL;
	if (payload == NULL)
	{
		why->message = "record has no value";
		why->detail = "A record with a key and no value (a tombstone) cannot be decoded as JSON. The source's option tombstones could be ignore or null.";
		return false;
	}
	if (len > SAGG_JSON_MAX_SIZE)
	{
		why->message = psprintf("record of %zu bytes is too large", len);
		why->detail = psprintf("Records of up to %d bytes can be decoded.",
							   SAGG_JSON_MAX_SIZE);
		return false;
	}
	switch (parse_payload(state->leaf, payload, len, decoder->values, &error))
	{
		case SAGG_JSON_OK:
			break;
		case SAGG_JSON_NO_MEMORY:
			no_memory_for_leaf();
			break;
		case SAGG_JSON_INTERRUPTED:
			elog(ERROR, "the record was not parsed to its end");
			break;
		case SAGG_JSON_INVALID:
			why->message = psprintf("invalid JSON record: %s", error.reason);
			if (error.has_position)
				why->detail = psprintf("The error is at byte %zu of %zu.",
									   error.position + 1, len);
			return false;
	}
	return true;
}

static SaggVerdict
parse_json(SaggDecoder *decoder, const char *payload, Size len,
		   SaggRecordError *why)
{
	return sagg_json_parse(decoder, payload, len, why) ?
		SAGG_RECORD_GOOD : SAGG_RECORD_INVALID;
}

const SaggFormat sagg_format_json = {
	.name = "json",
	.rule = SAGG_BY_NAME,
	.prepare = prepare_json,
	.parse = parse_json,
	.encoding = &sagg_json_encoding
};
