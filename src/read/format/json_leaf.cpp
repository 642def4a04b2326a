/*-------------------------------------------------------------------------
 *
 * json_leaf.cpp
 *	  Finds the wanted fields of a JSON object, on its top level or deeper, and
 *	  validates all of the record, as strictly as jsonb does.
 *
 * simdjson's first stage checks UTF-8 and control characters and finds where
 * every token starts; this file checks the grammar over these positions.
 * simdjson's own second stages are not suitable: On-Demand looks only at what
 * is read, so that the validity of a record would depend on the columns of the
 * query, and the DOM rejects numbers that numeric holds.  Both take \u0000.
 *
 * The walk is complete because a token reaches from its start to the start of
 * the next one, and every byte of it is checked, either by the token's own
 * grammar or as white space behind it.
 *
 * This file must never include postgres.h, call PostgreSQL or throw; every
 * entry is noexcept and the file is compiled without exceptions (I6).  Takes
 * no locks.  Memory is bounded by about five times the record's size, and that
 * of a large record is freed with the next small one (I7).
 *
 *-------------------------------------------------------------------------
 */
#include "json_walk.h"

/* ---------- tokens ---------- */

/*
 * Checks the escapes in [start, end), and replaces them in place by the
 * characters they stand for if "value" is not null.  Separate from
 * take_string, to keep that fast.
 */
__attribute__((noinline)) static bool
take_escapes(SaggJsonLeaf *leaf, uint8_t *start, uint8_t *end, SaggFieldValue *value)
{
	const uint8_t *wrong;
	const char *reason;

	if (memchr(start, '\\', (size_t) (end - start)) == nullptr)
		return true;
	reason = sagg_json_unescape(start, end, value ? start : nullptr, &end, &wrong);
	if (reason != nullptr)
		return invalid(leaf, reason, wrong);
	if (value)
		value->len = (size_t) (end - start);
	return true;
}

/*
 * Takes the current token as a string and moves on.  If "value" is not null
 * it is filled in and the string loses its escapes, in place.
 */
static inline bool
take_string(SaggJsonLeaf *leaf, SaggFieldValue *value)
{
	uint8_t    *start = token_start(leaf);
	uint8_t    *end = token_end(leaf);

	/* stage 1 has seen both quotes; nothing else would be a token */
	if (end - start < 2 || end[-1] != '"')
		return invalid(leaf, "unterminated string", start);
	start++;
	end--;
	if (value)
	{
		value->kind = SAGG_FIELD_STRING;
		value->text = (char *) start;
		value->len = (size_t) (end - start);
	}
	leaf->token++;
	return !leaf->escapes || take_escapes(leaf, start, end, value);
}

/*
 * Takes the current token as true, false, null or a number and moves on.
 * Fills in "value" if it is not null.
 */
static bool
take_scalar(SaggJsonLeaf *leaf, SaggFieldValue *value)
{
	uint8_t    *start = token_start(leaf);
	uint8_t    *end = token_end(leaf);
	size_t		len = (size_t) (end - start);
	SaggJsonKind kind;

	if (*start == '-' || is_digit(*start))
	{
		const char *reason = sagg_json_check_number(start, end, &leaf->digits);

		if (reason)
			return invalid(leaf, reason, start);
		kind = SAGG_FIELD_NUMBER;
	}
	else if (len == 4 && memcmp(start, "true", 4) == 0)
		kind = SAGG_FIELD_TRUE;
	else if (len == 4 && memcmp(start, "null", 4) == 0)
		kind = SAGG_FIELD_NULL;
	else if (len == 5 && memcmp(start, "false", 5) == 0)
		kind = SAGG_FIELD_FALSE;
	else
		return unexpected(leaf, "value expected");
	if (value)
	{
		value->kind = kind;
		value->text = (char *) start;
		value->len = len;
	}
	leaf->token++;
	return true;
}

/* ---------- containers ---------- */

/* Takes a string and the colon behind it. */
static inline bool
take_key(SaggJsonLeaf *leaf, SaggFieldValue *key)
{
	if (*token_start(leaf) != '"')
		return unexpected(leaf, "name of a field expected");
	if (!take_string(leaf, key))
		return false;
	if (*token_start(leaf) != ':')
		return unexpected(leaf, "\":\" expected");
	leaf->token++;
	return true;
}

/*
 * Takes the object or array that the current token opens, with everything in
 * it, and moves on.  Its text is not changed. "depth" counts the containers
 * around it.
 */
static bool
take_container(SaggJsonLeaf *leaf, size_t depth)
{
	uint64_t	is_object[DEPTH_LIMIT / 64];
	size_t		level = 0;		/* containers opened by this call */
	bool		object = false; /* the innermost one is an object */

	for (;;)
	{
		uint8_t		c = *token_start(leaf);

		if (interrupted(leaf))
			return false;

		/* here a value must follow */
		if (c == '{' || c == '[')
		{
			if (++level + depth > leaf->max_depth)
				return invalid(leaf, "nested too deeply", token_start(leaf));
			object = (c == '{');
			if (object)
				is_object[level / 64] |= UINT64_C(1) << (level % 64);
			else
				is_object[level / 64] &= ~(UINT64_C(1) << (level % 64));
			leaf->token++;
			if (*token_start(leaf) != (object ? '}' : ']'))
			{
				if (object && !take_key(leaf, nullptr))
					return false;
				continue;
			}
		}
		else if (!(c == '"' ? take_string(leaf, nullptr) : take_scalar(leaf, nullptr)))
			return false;

		/* a value or the inside of a container has ended */
		while (*token_start(leaf) == (object ? '}' : ']'))
		{
			leaf->token++;
			if (--level == 0)
				return true;
			object = (is_object[level / 64] >> (level % 64)) & 1;
		}
		if (*token_start(leaf) != ',')
			return unexpected(leaf, object ? "\",\" or \"}\" expected" :
							  "\",\" or \"]\" expected");
		leaf->token++;
		if (object && !take_key(leaf, nullptr))
			return false;
	}
}

/*
 * Takes any value inside the record's object, with "depth" containers around
 * it.
 */
static bool
take_value(SaggJsonLeaf *leaf, SaggFieldValue *value, size_t depth)
{
	uint8_t    *start = token_start(leaf);

	if (*start == '"')
		return take_string(leaf, value);
	if (*start != '{' && *start != '[')
		return take_scalar(leaf, value);
	if (!take_container(leaf, depth))
		return false;
	if (value)
	{
		value->kind = *start == '{' ? SAGG_FIELD_OBJECT : SAGG_FIELD_ARRAY;
		value->text = (char *) start;
		/* the token before the current one is the closing bracket */
		value->len = (size_t) (leaf->buf + leaf->token[-1] + 1 - start);
	}
	return true;
}

/* ---------- wanted fields ---------- */

/* Sets the text of a value to a copy of "len" bytes. */
static bool
copy_text(SaggJsonLeaf *leaf, const uint8_t *start, size_t len, SaggFieldValue *value)
{
	value->text = sagg_json_copy(&leaf->copies, start, len);
	value->len = len;
	leaf->no_memory = value->text == nullptr;
	return !leaf->no_memory;
}

/*
 * Notes the container that the current token opens as a value, with a copy of
 * its text, because values inside will lose escapes and get NULs.  Does not
 * move on.
 */
static bool
note_container(SaggJsonLeaf *leaf, const JsonNode *node, SaggFieldValue *value, size_t depth)
{
	const uint32_t *token = leaf->token;
	const uint8_t *start = token_start(leaf);
	int64_t		digits = leaf->digits;
	size_t		len;

	value->kind = *start == '{' ? SAGG_FIELD_OBJECT : SAGG_FIELD_ARRAY;
	if (node->kind_only)
		return true;
	if (!take_container(leaf, depth))
		return false;
	len = (size_t) (leaf->buf + leaf->token[-1] + 1 - start);
	leaf->token = token;
	leaf->digits = digits;
	return copy_text(leaf, start, len, value);
}

static bool take_members(SaggJsonLeaf *leaf, JsonNode *node, SaggFieldValue *values, size_t depth);
static bool take_elements(SaggJsonLeaf *leaf, JsonNode *node, SaggFieldValue *values, size_t depth);

/*
 * Takes a value in which other values are wanted, with "depth" containers
 * around it.
 */
static bool
take_parts(SaggJsonLeaf *leaf, JsonNode *node, SaggFieldValue *values, size_t depth)
{
	uint8_t		c = *token_start(leaf);
	SaggFieldValue *value = node->value < 0 ? nullptr : &values[node->value];

	sagg_json_forget(node, values);
	if (c != '{' && c != '[')
		return take_value(leaf, value, depth);
	if (depth + 1 > leaf->max_depth)
		return invalid(leaf, "nested too deeply", token_start(leaf));
	if (value && !note_container(leaf, node, value, depth))
		return false;
	leaf->token++;
	return c == '{' ? take_members(leaf, node, values, depth + 1) :
		take_elements(leaf, node, values, depth + 1);
}

/* Takes a value that may be wanted; "node" is null if it is not. */
static inline bool
take_wanted(SaggJsonLeaf *leaf, JsonNode *node, SaggFieldValue *values, size_t depth)
{
	if (!node)
		return take_value(leaf, nullptr, depth);
	if (node->nchildren == 0)
		return take_value(leaf, &values[node->value], depth);
	return take_parts(leaf, node, values, depth);
}

/* Takes the contents of an array, behind its "[", and the "]". */
static bool
take_elements(SaggJsonLeaf *leaf, JsonNode *node, SaggFieldValue *values, size_t depth)
{
	int			next = 0;

	if (*token_start(leaf) == ']')
	{
		leaf->token++;
		return true;
	}
	for (int64_t i = 0;; i++)
	{
		JsonNode   *child = sagg_json_find_subscript(node, i, &next);
		uint8_t		c;

		if (child)
			sagg_json_found(node, child);
		if (interrupted(leaf) || !take_wanted(leaf, child, values, depth))
			return false;
		c = *token_start(leaf);
		if (c != ',' && c != ']')
			return unexpected(leaf, "\",\" or \"]\" expected");
		leaf->token++;
		if (c == ']')
			return true;
	}
}

/*
 * Takes the value of a key that is not wanted by its exact name, but perhaps
 * by a name that differs in case.
 */
static bool
take_other(SaggJsonLeaf *leaf, JsonNode *node, const SaggFieldValue *key, SaggFieldValue *values, size_t depth)
{
	JsonNode   *child = sagg_json_find_any_case(node, key);

	if (!child || child->exact)
		return take_value(leaf, nullptr, depth);
	sagg_json_found(node, child);
	if (!child->other)
		child->other = key->text;
	else if (memcmp(child->other, key->text, key->len) != 0)
		child->ambiguous = true;
	return take_value(leaf, &values[child->value], depth);
}

/*
 * Takes the value of a key.  For a field that may be in any case, an exact
 * match takes precedence, wherever it stands.
 */
static inline bool
take_member(SaggJsonLeaf *leaf, JsonNode *node, const SaggFieldValue *key, SaggFieldValue *values, size_t depth)
{
	JsonNode   *child = sagg_json_find_name(node, key);

	if (!child)
		return leaf->any_case && node->lengths != 0 ?
			take_other(leaf, node, key, values, depth) :
			take_value(leaf, nullptr, depth);
	sagg_json_found(node, child);
	if (!take_wanted(leaf, child, values, depth))
		return false;
	child->exact = true;
	return true;
}

/* Takes the contents of an object, behind its "{", and the "}". */
static bool
take_members(SaggJsonLeaf *leaf, JsonNode *node, SaggFieldValue *values, size_t depth)
{
	node->next = node->children;
	if (*token_start(leaf) == '}')
	{
		leaf->token++;
		return true;
	}
	for (;;)
	{
		SaggFieldValue key;
		uint8_t		c;

		if (!take_key(leaf, &key))
			return false;
		if (interrupted(leaf) || !take_member(leaf, node, &key, values, depth))
			return false;
		c = *token_start(leaf);
		if (c != ',' && c != '}')
			return unexpected(leaf, "\",\" or \"}\" expected");
		leaf->token++;
		if (c == '}')
			return true;
	}
}

/* Notes the record itself as a value, with a copy of its text. */
static bool
note_record(SaggJsonLeaf *leaf, SaggFieldValue *value)
{
	const uint8_t *start = token_start(leaf);
	const uint8_t *end = leaf->buf + leaf->len;

	while (end > start && is_space(end[-1]))
		end--;
	value->kind = SAGG_FIELD_OBJECT;
	return copy_text(leaf, start, (size_t) (end - start), value);
}

/* Walks the record. */
static bool
walk(SaggJsonLeaf *leaf, SaggFieldValue *values)
{
	if (*token_start(leaf) != '{')
		return unexpected(leaf, "not an object");
	if (leaf->any_case)
		sagg_json_forget(leaf->root, values);
	if (leaf->root->value >= 0 && !note_record(leaf, &values[leaf->root->value]))
		return false;
	leaf->token++;
	if (!take_members(leaf, leaf->root, values, 1))
		return false;
	if (token_start(leaf) != leaf->buf + leaf->len)
		return unexpected(leaf, "text behind the object");
	if (leaf->any_case)
		sagg_json_settle_cases(leaf->root, values);

	/*
	 * End the texts with a NUL.  It replaces a quote, comma, bracket or space
	 * that was walked over, never a byte of another wanted value; where one
	 * value is part of another, the latter is a copy.
	 */
	for (int i = 0; i < leaf->nvalues; i++)
	{
		if (values[i].text)
			values[i].text[values[i].len] = '\0';
		else if (leaf->may_be_any_case[i])
			leaf->lacks = true;
	}
	return true;
}

/* ---------- entries ---------- */

/*
 * Makes room for a record of len bytes; frees a large buffer when it is not
 * needed.  Returns false when there is no memory: the leaf then holds none.
 */
static bool
ensure_capacity(SaggJsonLeaf *leaf, size_t len)
{
	size_t		capacity = leaf->capacity;

	if (capacity > 0 && len <= capacity &&
		(capacity <= KEEP_CAPACITY || len > KEEP_CAPACITY))
		return true;
	for (capacity = MIN_CAPACITY; capacity < len;)
		capacity *= 2;

	free(leaf->buf);
	leaf->stage1.reset();
	leaf->capacity = 0;
	leaf->buf = (uint8_t *) malloc(capacity + simdjson::SIMDJSON_PADDING);
	if (!leaf->buf ||
		simdjson::get_active_implementation()->create_dom_parser_implementation(
			capacity, 1, leaf->stage1) != simdjson::SUCCESS)
		return false;
	leaf->capacity = capacity;
	return true;
}

/* Returns what stage 1 found wrong. */
static const char *
stage1_reason(simdjson::error_code code)
{
	switch (code)
	{
		case simdjson::EMPTY:
			return "the record is empty";
		case simdjson::UTF8_ERROR:
			return "invalid UTF-8";
		case simdjson::UNESCAPED_CHARS:
			return "control character in string";
		case simdjson::UNCLOSED_STRING:
			return "unterminated string";
		default:
			return "malformed JSON";
	}
}

/*
 * Makes a leaf that looks for these fields, each path once; the names are copied.
 * max_depth: containers that may be open at once, at most 1023.  NULL when there is no memory.
 */
extern "C" SaggJsonLeaf *
sagg_json_leaf_make(const SaggJsonPath *paths, int npaths, size_t max_depth) SAGG_NOEXCEPT
{
	SaggJsonLeaf *leaf = new (std::nothrow) SaggJsonLeaf();

	if (!leaf)
		return nullptr;
	leaf->max_depth = max_depth < DEPTH_LIMIT ? max_depth : DEPTH_LIMIT - 1;
	leaf->nvalues = npaths;
	leaf->root = sagg_json_tree_make(paths, npaths);
	leaf->may_be_any_case = (bool *) calloc((size_t) npaths + 1, sizeof(bool));
	if (!leaf->root || !leaf->may_be_any_case)
	{
		free(leaf->root);
		free(leaf->may_be_any_case);
		delete leaf;
		return nullptr;
	}
	for (int i = 0; i < npaths; i++)
		leaf->may_be_any_case[i] = paths[i].any_case != 0;
	return leaf;
}

/* Parses a record, once. */
static inline SaggJsonResult
parse_once(SaggJsonLeaf *leaf, const char *record, size_t len,
		   SaggFieldValue *values, SaggJsonError *error,
		   const volatile sig_atomic_t *interrupt)
{
	simdjson::error_code code;

	if (!ensure_capacity(leaf, len))
		return SAGG_JSON_NO_MEMORY;
	if (len > 0)
		memcpy(leaf->buf, record, len);
	memset(leaf->buf + len, 0, simdjson::SIMDJSON_PADDING);
	for (int i = 0; i < leaf->nvalues; i++)
	{
		values[i].text = nullptr;
		values[i].len = 0;
		values[i].kind = SAGG_FIELD_MISSING;
	}
	leaf->error = error;
	leaf->len = len;
	leaf->escapes = memchr(leaf->buf, '\\', len) != nullptr;
	leaf->digits = SAGG_MAX_DIGITS(len);
	leaf->no_memory = false;
	leaf->lacks = false;
	leaf->interrupt = len > SMALL_RECORD ? interrupt : nullptr;
	leaf->interrupted = false;
	if (leaf->copies)
		sagg_json_free_copies(&leaf->copies);

	code = leaf->stage1->stage1(leaf->buf, len, simdjson::stage1_mode::regular);
	if (code != simdjson::SUCCESS)
	{
		error->reason = stage1_reason(code);
		error->position = 0;
		error->has_position = 0;
		return SAGG_JSON_INVALID;
	}

	/*
	 * The last token is followed by two that start at the end of the record,
	 * where the padding has a NUL, which no grammar rule accepts.
	 */
	leaf->token = leaf->stage1->structural_indexes.get();
	leaf->stage1->structural_indexes[leaf->stage1->n_structural_indexes] = (uint32_t) len;
	leaf->stage1->structural_indexes[leaf->stage1->n_structural_indexes + 1] = (uint32_t) len;
	if (walk(leaf, values))
		return SAGG_JSON_OK;
	if (leaf->interrupted)
		return SAGG_JSON_INTERRUPTED;
	return leaf->no_memory ? SAGG_JSON_NO_MEMORY : SAGG_JSON_INVALID;
}

/*
 * Parses a record; values[i] becomes the value at paths[i].  The record is
 * copied, so the caller may free it at once. "error" is filled in for
 * SAGG_JSON_INVALID; values are valid only if SAGG_JSON_OK is returned.  If
 * *interrupt, which may be NULL, is not 0 any more, the result may be
 * SAGG_JSON_INTERRUPTED.
 */
extern "C" SaggJsonResult
sagg_json_leaf_parse(SaggJsonLeaf *leaf, const char *record, size_t len,
					 SaggFieldValue *values, SaggJsonError *error,
					 const volatile sig_atomic_t *interrupt) SAGG_NOEXCEPT
{
	SaggJsonResult result;

	/*
	 * retry once, as the leaf may now match in any case; costs nothing for
	 * records that have all fields
	 */
	while ((result = parse_once(leaf, record, len, values, error, interrupt)) == SAGG_JSON_OK &&
		   leaf->lacks && !leaf->any_case)
		leaf->any_case = true;
	return result;
}

/* Frees a leaf and the texts it returned; NULL is allowed. */
extern "C" void
sagg_json_leaf_free(SaggJsonLeaf *leaf) SAGG_NOEXCEPT
{
	if (!leaf)
		return;
	sagg_json_free_copies(&leaf->copies);
	free(leaf->buf);
	free(leaf->root);
	free(leaf->may_be_any_case);
	delete leaf;
}
