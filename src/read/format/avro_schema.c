/*-------------------------------------------------------------------------
 *
 * avro_schema.c
 *	  Avro's schemas: from JSON to a graph of types.
 *
 * Names are resolved, known logical types are recorded, and everything else
 * that a schema may say (docs, aliases, defaults, orders) is ignored: a record
 * is read by exactly the schema it was written with.  A problem of a schema is
 * returned as a text, never raised as an error.  Takes no locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "avro.h"
#include "decode.h"
#include "hash_seed.h"

/*
 * Limits of nested types, and of the number of types, fields, branches and
 * symbols together: schemas are written by people.
 */
#define MAX_NESTING		100
#define MAX_PARTS		50000

/* longest name or symbol, in bytes */
#define MAX_NAME		1024

/* what numeric holds: digits after the point, and digits in all */
#define MAX_SCALE		16383
#define MAX_PRECISION	(131072 + MAX_SCALE)

typedef struct NamedType
{
	const char *name;			/* with its namespace */
	AvroNode   *node;
	char		status;			/* of simplehash */
} NamedType;

static inline uint32
hash_name(const SaggHashSeed *seed, const char *name)
{
	SaggSip		sip;

	sagg_sip_init(&sip, seed);
	sagg_sip_add_bytes(&sip, name, strlen(name));
	return (uint32) sagg_sip_end(&sip);
}

#define SH_PREFIX		types
#define SH_ELEMENT_TYPE	NamedType
#define SH_KEY_TYPE		const char *
#define SH_KEY			name
#define SH_HASH_KEY(tb, key)	hash_name((tb)->private_data, key)
#define SH_EQUAL(tb, a, b)		(strcmp(a, b) == 0)
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef struct Compiler
{
	SaggHashSeed seed;
	types_hash *types;			/* types by name; hashed with a seed, because
								 * attackers may choose the names */
	int			nesting;
	int			nparts;
	const char *problem;		/* NULL = none so far */
} Compiler;

static AvroNode *compile(Compiler *compiler, const JsonbValue *json,
						 const char *namespace);

static const char *const type_names[] = {
	[AVRO_T_NULL] = "null",[AVRO_T_BOOLEAN] = "boolean",[AVRO_T_INT] = "int",
	[AVRO_T_LONG] = "long",[AVRO_T_FLOAT] = "float",[AVRO_T_DOUBLE] = "double",
	[AVRO_T_BYTES] = "bytes",[AVRO_T_STRING] = "string"
};

static AvroNode *
problem(Compiler *compiler, const char *text)
{
	if (compiler->problem == NULL)
		compiler->problem = text;
	return NULL;
}

/* Returns a member of an object; NULL if there is none. */
static JsonbValue *
member(const JsonbValue *object, const char *name)
{
	return getKeyJsonValueFromContainer(object->val.binary.data, name, strlen(name), NULL);
}

static bool
is_container(const JsonbValue *json, bool object)
{
	return json && json->type == jbvBinary &&
		(object ? JsonContainerIsObject(json->val.binary.data) :
		 JsonContainerIsArray(json->val.binary.data) && !JsonContainerIsScalar(json->val.binary.data));
}

static char *
json_string(const JsonbValue *json)
{
	return json && json->type == jbvString ?
		pnstrdup(json->val.string.val, json->val.string.len) : NULL;
}

/*
 * Returns a name or a symbol; NULL if it is not one.  If it is too long, sets
 * the problem.
 */
static char *
take_name(Compiler *compiler, const JsonbValue *json)
{
	if (json && json->type == jbvString && json->val.string.len > MAX_NAME)
	{
		problem(compiler, "a name or symbol is too long");
		return NULL;
	}
	return json_string(json);
}

/* Returns a number that must be there, at least "min"; -1 if it is not. */
static int
int_member(const JsonbValue *object, const char *name, int min)
{
	JsonbValue *json = member(object, name);
	bool		failed = false;
	int			result;

	if (json == NULL || json->type != jbvNumeric)
		return -1;
	result = numeric_int4_opt_error(json->val.numeric, &failed);
	return failed || result < min ? -1 : result;
}

static AvroNode *
make_node(AvroType type, int n)
{
	AvroNode   *node = palloc0(sizeof(AvroNode));

	node->type = type;
	node->n = n;
	node->names = palloc0(sizeof(char *) * Max(n, 1));
	node->parts = palloc0(sizeof(AvroNode *) * Max(n, 1));
	return node;
}

static char *
full_name(const char *name, const char *namespace)
{
	if (strchr(name, '.') || namespace == NULL || namespace[0] == '\0')
		return pstrdup(name);
	return psprintf("%s.%s", namespace, name);
}

static AvroNode *
find_type(Compiler *compiler, const char *name)
{
	NamedType  *type = types_lookup(compiler->types, name);

	return type ? type->node : NULL;
}

/*
 * Count further parts.  Returns false, with a problem, if that is too many.
 */
static bool
count_parts(Compiler *compiler, int n)
{
	compiler->nparts += n;
	if (compiler->nparts > MAX_PARTS)
		problem(compiler, "it has too many types, fields or symbols");
	return compiler->problem == NULL;
}

/*
 * Returns a type given by its name.
 */
static AvroNode *
compile_name(Compiler *compiler, const char *name, const char *namespace)
{
	AvroNode   *found;
	char	   *full;

	if (name == NULL)
		return problem(compiler, "a type has no name");
	for (int i = 0; i < lengthof(type_names); i++)
	{
		if (strcmp(type_names[i], name) == 0)
			return make_node((AvroType) i, 0);
	}
	full = full_name(name, namespace);
	found = find_type(compiler, full);
	pfree(full);
	if (found == NULL)
		found = find_type(compiler, name);
	return found ? found : problem(compiler, psprintf("there is no type \"%s\"", name));
}

static AvroNode *
compile_union(Compiler *compiler, const JsonbValue *json, const char *namespace)
{
	int			n = JsonContainerSize(json->val.binary.data);
	AvroNode   *node;

	if (!count_parts(compiler, n))
		return NULL;
	node = make_node(AVRO_T_UNION, n);
	for (int i = 0; i < n && !compiler->problem; i++)
		node->parts[i] = compile(compiler, getIthJsonbValueFromContainer(json->val.binary.data, i),
								 namespace);
	return n > 0 ? node : problem(compiler, "a union is empty");
}

static void
compile_fields(Compiler *compiler, AvroNode *node, const JsonbValue *fields,
			   const char *namespace)
{
	for (int i = 0; i < node->n && !compiler->problem; i++)
	{
		JsonbValue *field = getIthJsonbValueFromContainer(fields->val.binary.data, i);
		JsonbValue *type = is_container(field, true) ? member(field, "type") : NULL;

		node->names[i] = is_container(field, true) ?
			take_name(compiler, member(field, "name")) : NULL;
		if (type == NULL || node->names[i] == NULL)
			problem(compiler, "a field has no name or no type");
		else
			node->parts[i] = compile(compiler, type, namespace);
	}
}

static void
take_symbols(Compiler *compiler, AvroNode *node, const JsonbValue *symbols)
{
	for (int i = 0; i < node->n; i++)
	{
		node->names[i] = take_name(compiler, getIthJsonbValueFromContainer(symbols->val.binary.data, i));
		if (node->names[i] == NULL)
			problem(compiler, "a symbol is not a string");
	}
}

/*
 * Returns a record, enum or fixed, whose name is known from here on, also
 * inside of it.
 */
static AvroNode *
compile_named(Compiler *compiler, const JsonbValue *json, AvroType type,
			  const char *namespace)
{
	const char *list = type == AVRO_T_ENUM ? "symbols" : "fields";
	JsonbValue *parts = type == AVRO_T_FIXED ? NULL : member(json, list);
	char	   *name = take_name(compiler, member(json, "name"));
	char	   *own = take_name(compiler, member(json, "namespace"));
	AvroNode   *node;
	bool		found;
	char	   *dot;

	if (name == NULL || compiler->problem)
		return problem(compiler, "a type has no name");
	if (type != AVRO_T_FIXED && !is_container(parts, false))
		return problem(compiler, psprintf("type \"%s\" has no %s", name, list));
	name = full_name(name, own ? own : namespace);
	if (!count_parts(compiler, parts ? JsonContainerSize(parts->val.binary.data) : 0))
		return NULL;
	node = make_node(type, parts ? JsonContainerSize(parts->val.binary.data) : 0);
	types_insert(compiler->types, name, &found)->node = node;
	if (type == AVRO_T_FIXED)
	{
		node->size = int_member(json, "size", 0);
		if (node->size < 0)
			return problem(compiler, psprintf("type \"%s\" has no size", name));
	}
	else if (type == AVRO_T_ENUM)
		take_symbols(compiler, node, parts);
	else
	{
		/* names inside belong to the namespace of this one */
		name = pstrdup(name);
		dot = strrchr(name, '.');
		if (dot)
			*dot = '\0';
		compile_fields(compiler, node, parts, dot ? name : "");
	}
	return node;
}

static AvroNode *
compile_elements(Compiler *compiler, const JsonbValue *json, AvroType type,
				 const char *namespace)
{
	JsonbValue *elements = member(json, type == AVRO_T_ARRAY ? "items" : "values");
	AvroNode   *node = make_node(type, 1);

	if (elements == NULL)
		return problem(compiler, "an array or map has no type of its elements");
	node->parts[0] = compile(compiler, elements, namespace);
	return node;
}

/*
 * Set a logical type if it is known and fits the underlying type; otherwise it
 * is ignored, as Avro's specification demands.
 */
static void
set_logical(AvroNode *node, const JsonbValue *json)
{
	static const struct
	{
		const char *name;
		AvroLogical logical;
		AvroType	type;
	}			known[] = {
		{"date", AVRO_L_DATE, AVRO_T_INT},
		{"time-millis", AVRO_L_TIME_MILLIS, AVRO_T_INT},
		{"time-micros", AVRO_L_TIME_MICROS, AVRO_T_LONG},
		{"timestamp-millis", AVRO_L_TIMESTAMP_MILLIS, AVRO_T_LONG},
		{"timestamp-micros", AVRO_L_TIMESTAMP_MICROS, AVRO_T_LONG},
		{"timestamp-nanos", AVRO_L_TIMESTAMP_NANOS, AVRO_T_LONG},
		{"local-timestamp-millis", AVRO_L_LOCAL_MILLIS, AVRO_T_LONG},
		{"local-timestamp-micros", AVRO_L_LOCAL_MICROS, AVRO_T_LONG},
		{"local-timestamp-nanos", AVRO_L_LOCAL_NANOS, AVRO_T_LONG},
		{"decimal", AVRO_L_DECIMAL, AVRO_T_BYTES},
		{"decimal", AVRO_L_DECIMAL, AVRO_T_FIXED},
		{"uuid", AVRO_L_UUID, AVRO_T_FIXED}
	};
	char	   *name = json_string(member(json, "logicalType"));

	if (name == NULL)
		return;
	for (int i = 0; i < lengthof(known); i++)
	{
		if (known[i].type == node->type && strcmp(known[i].name, name) == 0)
			node->logical = known[i].logical;
	}
	if (node->logical == AVRO_L_UUID && node->size != 16)
		node->logical = AVRO_L_NONE;
	if (node->logical == AVRO_L_DECIMAL)
	{
		int			precision = int_member(json, "precision", 1);

		node->scale = member(json, "scale") ? int_member(json, "scale", 0) : 0;
		if (precision < 0 || precision > MAX_PRECISION ||
			node->scale < 0 || node->scale > MAX_SCALE || node->scale > precision)
			node->logical = AVRO_L_NONE;
	}
}

static AvroNode *
compile_object(Compiler *compiler, const JsonbValue *json, const char *namespace)
{
	JsonbValue *type = member(json, "type");
	char	   *name = take_name(compiler, type);
	AvroNode   *node;

	if (type == NULL)
		return problem(compiler, "a type has no \"type\"");
	if (name == NULL)
		return compile(compiler, type, namespace);
	if (strcmp(name, "record") == 0 || strcmp(name, "error") == 0)
		return compile_named(compiler, json, AVRO_T_RECORD, namespace);
	if (strcmp(name, "array") == 0)
		return compile_elements(compiler, json, AVRO_T_ARRAY, namespace);
	if (strcmp(name, "map") == 0)
		return compile_elements(compiler, json, AVRO_T_MAP, namespace);
	if (strcmp(name, "enum") == 0)
		return compile_named(compiler, json, AVRO_T_ENUM, namespace);
	if (strcmp(name, "fixed") == 0)
	{
		node = compile_named(compiler, json, AVRO_T_FIXED, namespace);
		if (node)
			set_logical(node, json);
		return node;
	}
	node = compile_name(compiler, name, namespace);
	/* a named type gets its logical type where it is defined */
	if (node && node->type <= AVRO_T_STRING)
		set_logical(node, json);
	return node;
}

static AvroNode *
compile(Compiler *compiler, const JsonbValue *json, const char *namespace)
{
	AvroNode   *node;

	if (compiler->problem)
		return NULL;
	if (++compiler->nesting > MAX_NESTING)
		return problem(compiler, "it is nested too deeply");
	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (!count_parts(compiler, 1))
		return NULL;
	if (json && json->type == jbvString)
		node = compile_name(compiler, take_name(compiler, json), namespace);
	else if (is_container(json, false))
		node = compile_union(compiler, json, namespace);
	else if (is_container(json, true))
		node = compile_object(compiler, json, namespace);
	else
		node = problem(compiler, "a type is neither a name, nor an object, nor an array");
	compiler->nesting--;
	return node;
}

/* Returns the text as jsonb; NULL if it is not valid JSON. */
static Jsonb *
parse_json(const char *text)
{
	MemoryContext save = CurrentMemoryContext;
	Jsonb	   *volatile result = NULL;

	/* jsonb's parser leaves nothing behind that would have to be cleaned up */
	PG_TRY();
	{
		result = DatumGetJsonbP(sagg_jsonb_make(unconstify(char *, text)));
	}
	PG_CATCH();
	{
		int			category = ERRCODE_TO_CATEGORY(geterrcode());

		if (category != ERRCODE_DATA_EXCEPTION && category != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		MemoryContextSwitchTo(save);
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
}

/*
 * Returns the type that a schema, as JSON, describes, in the current memory
 * context; other memory is in "scratch".
 */
static AvroNode *
compile_root(Jsonb *json, MemoryContext scratch, const char **why)
{
	Compiler	compiler = {0};
	JsonbValue	root = {0};
	AvroNode   *result;

	sagg_hash_seed_make(&compiler.seed);
	compiler.types = types_create(scratch, 16, &compiler.seed);
	if (JB_ROOT_IS_SCALAR(json))
		root = *getIthJsonbValueFromContainer(&json->root, 0);
	else
	{
		root.type = jbvBinary;
		root.val.binary.data = &json->root;
		root.val.binary.len = VARSIZE(json) - VARHDRSZ;
	}
	result = compile(&compiler, &root, "");
	*why = compiler.problem;
	return compiler.problem ? NULL : result;
}

/*
 * Returns the type that a schema, as JSON text, describes, in the current
 * memory context, which gets little else.  NULL, with the reason in *why, for
 * an invalid schema.
 */
AvroNode *
sagg_avro_compile(const char *schema, const char **why)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
												  "stream_agg Avro schema as JSON",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	Jsonb	   *json = parse_json(schema);
	AvroNode   *result = NULL;

	MemoryContextSwitchTo(old);
	*why = "it is not JSON";
	if (json)
		result = compile_root(json, scratch, why);
	MemoryContextDelete(scratch);
	return result;
}
