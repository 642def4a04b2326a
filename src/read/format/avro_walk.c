/*-------------------------------------------------------------------------
 *
 * avro_walk.c
 *	  Reads a record in Avro's binary encoding by its schema: finds the wanted
 *	  values and checks all the rest.
 *
 * The bytes are not trusted.  So every read is checked against the record's
 * end, nesting is bounded, and so is the number of values, because some of
 * them take no bytes: an array may claim to have any number of nulls.  A
 * record is read to its last byte, whatever is wanted from it.  For an invalid
 * record nothing here raises an error; the reason is left in the reader.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "avro.h"
#include "decode.h"

/* values allowed in addition to one for each byte */
#define EMPTY_VALUES	100000

static bool
fail(AvroReader *reader, const char *reason)
{
	if (reader->reason == NULL)
		reader->reason = reason;
	return false;
}

/*
 * Takes a number of variable length.
 */
bool
sagg_avro_take_long(AvroReader *reader, int64 *result)
{
	uint64		n = 0;

	for (int shift = 0; shift < 70; shift += 7)
	{
		uint8		byte;

		if (reader->p >= reader->end)
			return fail(reader, "it ends too early");
		byte = (uint8) *reader->p++;
		if (shift == 63 && byte > 1)
			break;
		n |= (uint64) (byte & 0x7f) << shift;
		if (byte < 0x80)
		{
			*result = (int64) (n >> 1) ^ -(int64) (n & 1);
			return true;
		}
	}
	return fail(reader, "a number is too long");
}

/*
 * Takes the length of what must follow in the record.
 */
bool
sagg_avro_take_length(AvroReader *reader, Size *len)
{
	int64		n;

	if (!sagg_avro_take_long(reader, &n))
		return false;
	if (n < 0 || n > reader->end - reader->p)
		return fail(reader, "a length goes beyond its end");
	*len = (Size) n;
	return true;
}

/*
 * Returns whether the record may stand for n more digits, or bytes of the
 * schema.
 */
bool
sagg_avro_expand(AvroReader *reader, int n, const char *reason)
{
	reader->digits -= n;
	return reader->digits >= 0 || fail(reader, reason);
}

/*
 * Takes a number that selects one of n.
 */
static bool
take_choice(AvroReader *reader, int n, int *choice)
{
	int64		number;

	if (!sagg_avro_take_long(reader, &number))
		return false;
	if (number < 0 || number >= n)
		return fail(reader, "a branch or symbol is not in the schema");
	*choice = (int) number;
	return true;
}

/*
 * Returns whether one more value, with "depth" others around it, may be read.
 */
static bool
may_read(AvroReader *reader, int depth)
{
	if (depth > SAGG_JSON_MAX_DEPTH)
		return fail(reader, "it is nested too deeply");
	if (--reader->budget < 0)
		return fail(reader, "it has too many values");
	if (reader->budget % 65536 == 0)
		CHECK_FOR_INTERRUPTS();
	check_stack_depth();
	return true;
}

/*
 * Returns the number of elements in the next block of an array or map, 0 = the
 * end.
 */
static bool
take_block(AvroReader *reader, int64 *count)
{
	int64		size;

	if (!sagg_avro_take_long(reader, count))
		return false;
	if (*count >= 0)
		return true;
	/* a negative count is followed by the size of the block */
	if (*count == PG_INT64_MIN || !sagg_avro_take_long(reader, &size) ||
		size < 0 || size > reader->end - reader->p)
		return fail(reader, "a length goes beyond its end");
	*count = -*count;
	return true;
}

/* Takes the key of a map's entry and appends it. */
static bool
take_key(AvroReader *reader, StringInfo out)
{
	Size		len;

	if (!sagg_avro_take_length(reader, &len))
		return false;
	if (!pg_verify_mbstr(PG_UTF8, reader->p, (int) len, true))
		return fail(reader, "a key is not UTF-8 text");
	appendBinaryStringInfo(out, reader->p, (int) len);
	reader->p += len;
	return true;
}

static bool
has_room(AvroReader *reader, StringInfo out)
{
	return out->len <= SAGG_JSON_MAX_SIZE || fail(reader, "a value of it is too large");
}

/* ---------- whole values as JSON ---------- */

static bool
render_record(AvroReader *reader, const AvroNode *node, StringInfo out, int depth)
{
	appendStringInfoChar(out, '{');
	for (int i = 0; i < node->n; i++)
	{
		if (i > 0)
			appendStringInfoChar(out, ',');
		escape_json(out, node->names[i]);
		appendStringInfoChar(out, ':');
		if (!sagg_avro_expand(reader, (int) strlen(node->names[i]), "names of its fields take too many bytes") ||
			!sagg_avro_render(reader, node->parts[i], out, depth + 1))
			return false;
	}
	appendStringInfoChar(out, '}');
	return true;
}

static bool
render_elements(AvroReader *reader, const AvroNode *node, StringInfo out, int depth)
{
	bool		map = node->type == AVRO_T_MAP;
	bool		first = true;
	int64		count;

	appendStringInfoChar(out, map ? '{' : '[');
	do
	{
		if (!take_block(reader, &count))
			return false;
		for (int64 i = 0; i < count; i++)
		{
			if (!first)
				appendStringInfoChar(out, ',');
			first = false;
			if (map)
			{
				StringInfoData key;

				initStringInfo(&key);
				if (!take_key(reader, &key))
					return false;
				escape_json(out, key.data);
				appendStringInfoChar(out, ':');
				pfree(key.data);
			}
			if (!sagg_avro_render(reader, node->parts[0], out, depth + 1))
				return false;
		}
	} while (count > 0);
	appendStringInfoChar(out, map ? '}' : ']');
	return true;
}

/*
 * Turns what was appended from "start" on, a text or bytes, into a JSON
 * string.
 */
static void
put_quotes(StringInfo out, int start, SaggJsonKind kind)
{
	int			len = out->len - start;
	char	   *copy = palloc(len + 1);

	/* bytes may contain NULs */
	memcpy(copy, out->data + start, len);
	copy[len] = '\0';
	out->len = start;
	out->data[start] = '\0';
	if (kind == SAGG_FIELD_STRING)
		escape_json(out, copy);
	else
	{
		appendStringInfoString(out, "\"\\\\x");
		enlargeStringInfo(out, 2 * len + 1);
		out->len += (int) hex_encode(copy, len, out->data + out->len);
		appendStringInfoChar(out, '"');
	}
	pfree(copy);
}

/*
 * Takes a value of any type and appends it as JSON, in UTF-8.
 */
bool
sagg_avro_render(AvroReader *reader, const AvroNode *node, StringInfo out,
				 int depth)
{
	SaggJsonKind kind;
	int			start = out->len;
	int			choice;

	if (!may_read(reader, depth) || !has_room(reader, out))
		return false;
	switch (node->type)
	{
		case AVRO_T_RECORD:
			return render_record(reader, node, out, depth);
		case AVRO_T_ARRAY:
		case AVRO_T_MAP:
			return render_elements(reader, node, out, depth);
		case AVRO_T_UNION:
			return take_choice(reader, node->n, &choice) &&
				sagg_avro_render(reader, node->parts[choice], out, depth + 1);
		default:
			break;
	}
	if (!sagg_avro_scalar(reader, node, false, &kind, out))
		return false;
	if (kind == SAGG_FIELD_STRING || kind == SAGG_BYTES)
		put_quotes(out, start, kind);
	return true;
}

/* ---------- wanted values ---------- */

static bool take(AvroReader *reader, const AvroNode *node, AvroWant *want,
				 int depth);

static int
compare_name(const void *name, const void *want)
{
	return strcmp(name, ((const AvroWant *) want)->name);
}

/*
 * Returns what is wanted from a field or from the entry of a map; NULL =
 * nothing.
 */
static AvroWant *
find_name(AvroWant *want, const char *name)
{
	if (want == NULL || want->nchildren == 0)
		return NULL;
	return bsearch(name, want->children, want->nchildren, sizeof(AvroWant), compare_name);
}

/*
 * Returns what is wanted from an element of an array.  Called for all
 * elements, from 0 on; *next is 0 before the first.
 */
static AvroWant *
find_subscript(const AvroWant *want, int64 subscript, int *next)
{
	if (want == NULL || *next >= want->nsubscripts ||
		want->subscripts[*next]->subscript != subscript)
		return NULL;
	return want->subscripts[(*next)++];
}

/*
 * "part" of "want" is about to get a value.
 */
static void
found(AvroWant *want, AvroWant *part)
{
	if (part == NULL || part->is_found)
		return;
	part->is_found = true;
	part->also_found = want->found;
	want->found = part;
}

/*
 * Forgets the values of an earlier entry of a map with the same key, which
 * takes as long as finding them.
 */
static void
forget(AvroReader *reader, AvroWant *want)
{
	if (want->value >= 0)
		reader->values[want->value].kind = SAGG_FIELD_MISSING;
	for (AvroWant *part = want->found; part; part = part->also_found)
	{
		part->is_found = false;
		forget(reader, part);
	}
	want->found = NULL;
}

static bool
take_elements(AvroReader *reader, const AvroNode *node, AvroWant *want,
			  int depth)
{
	StringInfoData key;
	int64		subscript = 0;
	int			next = 0;
	int64		count;

	if (node->type == AVRO_T_MAP)
		initStringInfo(&key);
	do
	{
		if (!take_block(reader, &count))
			return false;
		for (int64 i = 0; i < count; i++)
		{
			AvroWant   *part;

			if (node->type == AVRO_T_MAP)
			{
				resetStringInfo(&key);
				if (!take_key(reader, &key))
					return false;
				part = find_name(want, key.data);
				if (part)
					forget(reader, part);
			}
			else
				part = find_subscript(want, subscript++, &next);
			found(want, part);
			if (!take(reader, node->parts[0], part, depth + 1))
				return false;
		}
	} while (count > 0);
	return true;
}

/*
 * Takes a container as the value that is wanted: as JSON.
 */
static bool
take_whole(AvroReader *reader, const AvroNode *node, AvroWant *want,
		   int depth)
{
	SaggFieldValue *value = &reader->values[want->value];
	StringInfoData out;

	initStringInfo(&out);
	if (!sagg_avro_render(reader, node, &out, depth))
		return false;
	value->kind = node->type == AVRO_T_ARRAY ? SAGG_FIELD_ARRAY : SAGG_FIELD_OBJECT;
	value->text = out.data;
	value->len = out.len;
	return true;
}

static bool
take_container(AvroReader *reader, const AvroNode *node, AvroWant *want,
			   int depth)
{
	const char *start = reader->p;
	int64		budget = reader->budget;
	int64		digits = reader->digits;

	if (want && want->value >= 0)
	{
		if (!take_whole(reader, node, want, depth))
			return false;
		if (want->nchildren == 0)
			return true;

		/*
		 * walk it again for what is wanted inside; the length of paths bounds
		 * how often
		 */
		reader->p = start;
		reader->budget = budget;
		reader->digits = digits;
	}
	if (node->type != AVRO_T_RECORD)
		return take_elements(reader, node, want, depth);
	for (int i = 0; i < node->n; i++)
	{
		AvroWant   *part = find_name(want, node->names[i]);

		found(want, part);
		if (!take(reader, node->parts[i], part, depth + 1))
			return false;
	}
	return true;
}

static bool
take_scalar(AvroReader *reader, const AvroNode *node, AvroWant *want)
{
	SaggJsonKind kind;
	StringInfoData out;

	if (want == NULL || want->value < 0)
		return sagg_avro_scalar(reader, node, true, &kind, NULL);
	initStringInfo(&out);
	if (!sagg_avro_scalar(reader, node, want->as_number, &kind, &out))
		return false;
	reader->values[want->value].kind = kind;
	reader->values[want->value].text = out.data;
	reader->values[want->value].len = out.len;
	return true;
}

/*
 * Takes a value, with "depth" others around it; "want" is NULL if nothing in
 * it is wanted.
 */
static bool
take(AvroReader *reader, const AvroNode *node, AvroWant *want, int depth)
{
	int			choice;

	if (!may_read(reader, depth))
		return false;
	switch (node->type)
	{
		case AVRO_T_RECORD:
		case AVRO_T_ARRAY:
		case AVRO_T_MAP:
			return take_container(reader, node, want, depth);
		case AVRO_T_UNION:
			return take_choice(reader, node->n, &choice) &&
				take(reader, node->parts[choice], want, depth + 1);
		default:
			return take_scalar(reader, node, want);
	}
}

/*
 * Reads [reader->p, reader->end).  Fills in the values that are wanted, in
 * reader->memory, which the caller resets; others are not changed.  Returns
 * false, with reader->reason, for bytes that do not fit the schema.
 */
bool
sagg_avro_read(AvroReader *reader, const AvroNode *schema, AvroWant *wanted)
{
	MemoryContext old = MemoryContextSwitchTo(reader->memory);
	bool		good;

	reader->reason = NULL;
	reader->budget = reader->end - reader->p + EMPTY_VALUES;
	reader->digits = SAGG_MAX_DIGITS(reader->end - reader->p);
	good = take(reader, schema, wanted, 0);
	if (good && reader->p != reader->end)
		good = fail(reader, "there are bytes behind it");
	MemoryContextSwitchTo(old);
	return good;
}
