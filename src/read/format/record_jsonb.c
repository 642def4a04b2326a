/*-------------------------------------------------------------------------
 *
 * record_jsonb.c
 *	  Makes jsonb of the JSON of producers in time that grows with its length.
 *
 * The server's jsonb_in sorts the members of an object by quicksort, for which
 * an order can be chosen that takes quadratic time, without serving
 * interrupts.  So it gets objects of few members only.  Others are built here,
 * with the server's parser, and sorted by merging; the result is the same: of
 * duplicates the last one counts.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/jsonfuncs.h"
#include "utils/memutils.h"

#include "compat.h"
#include "decode.h"

/* members that the server may sort, however they are ordered */
#define FEW_MEMBERS		256

/* a shorter text has no array that jsonb cannot hold: two bytes an element */
#define SHORT_TEXT		(MaxAllocSize / sizeof(JsonbValue) / 2)

/* An array or object that is not complete. */
typedef struct Container
{
	bool		is_object;
	JsonbValue *elements;
	JsonbPair  *pairs;
	int			n;
	int			allocated;
} Container;

typedef struct Builder
{
	Container  *stack;			/* from the outside in */
	int			depth;
	int			allocated;
	JsonbValue	root;
} Builder;

/* Returns memory for twice as many, or the first few, elements. */
static void *
grow(void *elements, int *allocated, Size size)
{
	int			n = *allocated == 0 ? 4 : *allocated * 2;

	if (n > MaxAllocSize / size)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("an array or object has more than %d elements", *allocated)));
	*allocated = n;
	return elements ? repalloc(elements, n * size) : palloc(n * size);
}

/* Adds a complete value to the innermost container. */
static void
add_value(Builder *builder, const JsonbValue *value)
{
	Container  *container;

	CHECK_FOR_INTERRUPTS();
	if (builder->depth == 0)
	{
		builder->root = *value;
		return;
	}
	container = &builder->stack[builder->depth - 1];
	if (container->is_object)
		container->pairs[container->n - 1].value = *value;
	else
	{
		if (container->n == container->allocated)
			container->elements = grow(container->elements, &container->allocated,
									   sizeof(JsonbValue));
		container->elements[container->n++] = *value;
	}
}

static void
begin_container(Builder *builder, bool is_object)
{
	if (builder->depth == builder->allocated)
		builder->stack = grow(builder->stack, &builder->allocated, sizeof(Container));
	memset(&builder->stack[builder->depth], 0, sizeof(Container));
	builder->stack[builder->depth++].is_object = is_object;
}

static SaggJsonAction
begin_object(void *state)
{
	begin_container(state, true);
	SAGG_JSON_GO_ON;
}

static SaggJsonAction
begin_array(void *state)
{
	begin_container(state, false);
	SAGG_JSON_GO_ON;
}

static SaggJsonAction
begin_member(void *state, char *name, bool isnull)
{
	Builder    *builder = (Builder *) state;
	Container  *object = &builder->stack[builder->depth - 1];
	JsonbPair  *pair;

	if (object->n == object->allocated)
		object->pairs = grow(object->pairs, &object->allocated, sizeof(JsonbPair));
	pair = &object->pairs[object->n++];
	pair->key.type = jbvString;
	pair->key.val.string.val = name;
	pair->key.val.string.len = strlen(name);
	pair->order = 0;
	SAGG_JSON_GO_ON;
}

/* Compares the keys of two members, as jsonb has them in order. */
static int
compare_members(const void *a, const void *b, void *arg)
{
	const JsonbValue *key = &((const JsonbPair *) a)->key;
	const JsonbValue *other = &((const JsonbPair *) b)->key;

	if (key->val.string.len != other->val.string.len)
		return key->val.string.len > other->val.string.len ? 1 : -1;
	return memcmp(key->val.string.val, other->val.string.val, key->val.string.len);
}

/* Sorts the members of an object; of duplicates only the last one remains. */
static void
sort_members(Container *object)
{
	int			n = 0;

	sagg_sort(object->pairs, object->n, sizeof(JsonbPair), compare_members, NULL);
	for (int i = 0; i < object->n; i++)
	{
		if (i + 1 == object->n ||
			compare_members(&object->pairs[i], &object->pairs[i + 1], NULL) != 0)
			object->pairs[n++] = object->pairs[i];
	}
	object->n = n;
}

static SaggJsonAction
end_object(void *state)
{
	Builder    *builder = (Builder *) state;
	Container  *object = &builder->stack[builder->depth - 1];
	JsonbValue	value;

	sort_members(object);
	value.type = jbvObject;
	value.val.object.nPairs = object->n;
	value.val.object.pairs = object->pairs;
	builder->depth--;
	add_value(builder, &value);
	SAGG_JSON_GO_ON;
}

static SaggJsonAction
end_array(void *state)
{
	Builder    *builder = (Builder *) state;
	Container  *array = &builder->stack[builder->depth - 1];
	JsonbValue	value;

	value.type = jbvArray;
	value.val.array.nElems = array->n;
	value.val.array.elems = array->elements;
	value.val.array.rawScalar = false;
	builder->depth--;
	add_value(builder, &value);
	SAGG_JSON_GO_ON;
}

static SaggJsonAction
add_scalar(void *state, char *token, JsonTokenType type)
{
	JsonbValue	value;

	switch (type)
	{
		case JSON_TOKEN_STRING:
			value.type = jbvString;
			value.val.string.val = token;
			value.val.string.len = strlen(token);
			break;
		case JSON_TOKEN_NUMBER:
			value.type = jbvNumeric;
			value.val.numeric = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(token),
																	ObjectIdGetDatum(InvalidOid),
																	Int32GetDatum(-1)));
			break;
		case JSON_TOKEN_TRUE:
		case JSON_TOKEN_FALSE:
			value.type = jbvBool;
			value.val.boolean = (type == JSON_TOKEN_TRUE);
			break;
		default:
			value.type = jbvNull;
			break;
	}
	add_value(state, &value);
	SAGG_JSON_GO_ON;
}

/* Returns whether a text may have an object that is not for the server's sort. */
static bool
has_many_members(const char *text, Size len)
{
	const char *end = text + len;
	int			n = 0;

	while (n <= FEW_MEMBERS && (text = memchr(text, ':', end - text)) != NULL)
	{
		text++;
		n++;
	}
	return n > FEW_MEMBERS;
}

/*
 * Returns JSON, a text in server encoding that ends with a NUL, as a Datum of
 * type jsonb, as jsonb_in does.  Raises its errors, and one if an array or
 * object has more elements than jsonb_in has memory for.  Serves interrupts.
 */
Datum
sagg_jsonb_make(char *text)
{
	Size		len = strlen(text);
	Builder		builder = {0};
	JsonSemAction actions = {0};

	if (len < SHORT_TEXT && !has_many_members(text, len))
		return DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
	actions.semstate = &builder;
	actions.object_start = begin_object;
	actions.object_end = end_object;
	actions.object_field_start = begin_member;
	actions.array_start = begin_array;
	actions.array_end = end_array;
	actions.scalar = add_scalar;
	pg_parse_json_or_ereport(SAGG_JSON_LEXER(text, (int) len), &actions);
	return JsonbPGetDatum(JsonbValueToJsonb(&builder.root));
}
