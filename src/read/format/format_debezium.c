/*-------------------------------------------------------------------------
 *
 * format_debezium.c
 *	  Format debezium: change events as Debezium's JSON converter writes them,
 *	  with or without the schema around them.
 *
 *		{"before": null, "after": {row}, "op": "c", "source": {...}, "ts_ms": 1}
 *		{"schema": {...}, "payload": {the same}}
 *
 * The record is the row that an insert (op c) or a snapshot (op r) has in
 * "after".  Other operations - update, delete, truncate, message - and the
 * tombstones after deletes are invalid records or, with option
 * other_operations 'ignore', left out.  A payload that is no change event is
 * always invalid.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "format.h"

/* the values of an event, in this order; those of columns follow */
enum EventValue
{
	EVENT_PAYLOAD,				/* kind only: whether there is a schema around
								 * it */
	EVENT_OP,
	EVENT_AFTER,				/* kind only */
	WRAPPED_OP,
	WRAPPED_AFTER,				/* kind only */
	EVENT_VALUES
};

#define MAX_EVENT_NAMES		2	/* most names in the paths above */

static void
add_event_path(SaggJsonPath *paths, int *npaths, bool kind_only, int n,
			   const char *first, const char *second)
{
	char	   *names[MAX_EVENT_NAMES] = {unconstify(char *, first), unconstify(char *, second)};
	int			i = sagg_json_add_path(paths, npaths, sagg_json_names(names, n), n);

	paths[i].kind_only = kind_only;
}

/*
 * Returns the path of a column, in an event without or with a schema around
 * it.
 */
static int
add_column_path(SaggJsonPath *paths, int *npaths, const SaggField *field,
				bool wrapped)
{
	char	  **names = palloc(sizeof(char *) * (field->npath + MAX_EVENT_NAMES));
	int			n = 0;
	int			i;

	if (wrapped)
		names[n++] = "payload";
	if (!field->in_envelope)
		names[n++] = "after";
	for (i = 0; i < field->npath; i++)
		names[n++] = field->path[i];
	i = sagg_json_add_path(paths, npaths, sagg_json_names(names, n), n);
	paths[i].kind_only = false; /* a column of the event may use one of these
								 * paths, too */
	if (field->any_case)
		paths[i].any_case = true;
	return i;
}

/*
 * For columns, values[i] of the decoder is what the event has, with or without
 * a schema around it: parse_debezium copies it there.
 */
typedef struct DebeziumState
{
	void	   *json;			/* state of format_json.c */
	SaggFieldValue *found;		/* all values of the leaf */
	int		   *plain;			/* by column: its value in a plain event */
	int		   *wrapped;
} DebeziumState;

static void
prepare_debezium(SaggDecoder *decoder)
{
	SaggJsonPath *paths = palloc0(sizeof(SaggJsonPath) * (EVENT_VALUES + 2 * decoder->ncolumns));
	DebeziumState *state = palloc0(sizeof(DebeziumState));
	int			npaths = 0;

	add_event_path(paths, &npaths, true, 1, "payload", NULL);
	add_event_path(paths, &npaths, false, 1, "op", NULL);
	add_event_path(paths, &npaths, true, 1, "after", NULL);
	add_event_path(paths, &npaths, false, 2, "payload", "op");
	add_event_path(paths, &npaths, true, 2, "payload", "after");
	state->plain = palloc0(sizeof(int) * (decoder->ncolumns + 1));
	state->wrapped = palloc0(sizeof(int) * (decoder->ncolumns + 1));
	for (int i = 0; i < decoder->ncolumns; i++)
	{
		state->plain[i] = add_column_path(paths, &npaths, decoder->columns[i].source, false);
		state->wrapped[i] = add_column_path(paths, &npaths, decoder->columns[i].source, true);
		decoder->columns[i].value = i;
	}
	sagg_json_prepare(decoder, paths, npaths);
	state->json = decoder->state;
	state->found = decoder->values;
	decoder->state = state;
	decoder->values = palloc0(sizeof(SaggFieldValue) * (decoder->ncolumns + 1));
}

/* Runs the leaf, whose values differ from the decoder's. */
static bool
parse_event(SaggDecoder *decoder, const char *payload, Size len,
			SaggRecordError *why)
{
	DebeziumState *state = (DebeziumState *) decoder->state;
	SaggFieldValue *values = decoder->values;
	bool		good;

	decoder->state = state->json;
	decoder->values = state->found;
	good = sagg_json_parse(decoder, payload, len, why);
	decoder->state = state;
	decoder->values = values;
	return good;
}

static SaggVerdict
other_operation(const SaggDecoder *decoder, const char *operation,
				SaggRecordError *why)
{
	if (decoder->layout->ignore_others)
		return SAGG_RECORD_LEFT_OUT;
	why->message = psprintf("record is a change other than an insert: %s", operation);
	why->detail = "The source's option other_operations could be set to ignore, to leave such records out.";
	return SAGG_RECORD_INVALID;
}

/*
 * Returns whether an event of this operation is the record of a row.
 */
static SaggVerdict
check_operation(const SaggDecoder *decoder, const SaggFieldValue *op,
				SaggJsonKind after, SaggRecordError *why)
{
	static const struct
	{
		char		op;
		const char *operation;
	}			others[] = {
		{'u', "update"}, {'d', "delete"}, {'t', "truncate"}, {'m', "message"}
	};

	why->detail = NULL;
	if (op->kind == SAGG_FIELD_STRING && op->len == 1)
	{
		for (int i = 0; i < lengthof(others); i++)
		{
			if (op->text[0] == others[i].op)
				return other_operation(decoder, others[i].operation, why);
		}
		if ((op->text[0] == 'c' || op->text[0] == 'r') && after == SAGG_FIELD_OBJECT)
			return SAGG_RECORD_GOOD;
	}
	why->message = "record is not a change event of Debezium";
	why->detail = op->kind != SAGG_FIELD_STRING ? "It has no \"op\"." :
		op->len == 1 && (op->text[0] == 'c' || op->text[0] == 'r') ?
		"Its \"after\" is not an object." : "Its \"op\" is not known.";
	return SAGG_RECORD_INVALID;
}

static SaggVerdict
parse_debezium(SaggDecoder *decoder, const char *payload, Size len,
			   SaggRecordError *why)
{
	DebeziumState *state = (DebeziumState *) decoder->state;
	const SaggFieldValue *found = state->found;
	bool		wrapped;
	SaggVerdict verdict;

	if (payload == NULL)
		return other_operation(decoder, "tombstone", why);
	if (!parse_event(decoder, payload, len, why))
		return SAGG_RECORD_INVALID;
	wrapped = found[EVENT_PAYLOAD].kind != SAGG_FIELD_MISSING;
	if (found[EVENT_PAYLOAD].kind == SAGG_FIELD_NULL)
		return other_operation(decoder, "tombstone", why);
	verdict = check_operation(decoder, &found[wrapped ? WRAPPED_OP : EVENT_OP],
							  found[wrapped ? WRAPPED_AFTER : EVENT_AFTER].kind, why);
	for (int i = 0; verdict == SAGG_RECORD_GOOD && i < decoder->ncolumns; i++)
		decoder->values[i] = found[wrapped ? state->wrapped[i] : state->plain[i]];
	return verdict;
}

const SaggFormat sagg_format_debezium = {
	.name = "debezium",
	.rule = SAGG_BY_NAME,
	.prepare = prepare_debezium,
	.parse = parse_debezium
};
