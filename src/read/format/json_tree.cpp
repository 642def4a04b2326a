/*-------------------------------------------------------------------------
 *
 * json_tree.cpp
 *	  The wanted fields of a record, given by their paths, as a tree.
 *
 * Same rules as json_leaf.cpp: no PostgreSQL, no exceptions (I6), no locks.
 * A tree is one block of malloc'ed memory, its root at the start; free() frees
 * it.  It is no deeper than SAGG_JSON_MAX_PATH, which bounds the recursions.
 *
 *-------------------------------------------------------------------------
 */
#include "json_tree.h"

#include <cstdlib>

#include "json_token.h"

/* a name of more digits is no subscript; no record has so many elements */
static constexpr size_t MAX_SUBSCRIPT_DIGITS = 9;

/* A tree in the making. */
struct Maker
{
	const SaggJsonPath *paths;
	int			npaths;
	JsonNode   *unused;			/* first node not taken yet */
};

/* A name as the number of an array's element, or -1. */
static int64_t
name_subscript(const SaggJsonName *name)
{
	int64_t		n = 0;

	if (name->len == 0 || name->len > MAX_SUBSCRIPT_DIGITS ||
		(name->text[0] == '0' && name->len > 1))
		return -1;
	for (size_t i = 0; i < name->len; i++)
	{
		if (!is_digit((uint8_t) name->text[i]))
			return -1;
		n = n * 10 + (name->text[i] - '0');
	}
	return n;
}

/* Do two paths have the same first n names? */
static bool
same_start(const SaggJsonPath *a, const SaggJsonPath *b, int n)
{
	if (a->nnames < n || b->nnames < n)
		return false;
	for (int i = 0; i < n; i++)
		if (a->names[i].len != b->names[i].len ||
			memcmp(a->names[i].text, b->names[i].text, a->names[i].len) != 0)
			return false;
	return true;
}

/*
 * Is path i the first one that goes on from the first "level" names of path
 * "above" by its own next name?
 */
static bool
is_new(const Maker *maker, int i, int above, int level)
{
	const SaggJsonPath *path = &maker->paths[i];

	if (path->nnames <= level || !same_start(path, &maker->paths[above], level))
		return false;
	for (int j = 0; j < i; j++)
		if (same_start(path, &maker->paths[j], level + 1))
			return false;
	return true;
}

/*
 * Puts below "parent", whose place the first "level" names of path "above"
 * are, what is wanted there.  Siblings stand side by side, in the order of the
 * paths.
 */
static void
grow(Maker *maker, JsonNode *parent, int above, int level)
{
	JsonNode   *node = maker->unused;

	parent->children = node;
	for (int i = 0; i < maker->npaths; i++)
		parent->nchildren += is_new(maker, i, above, level);
	maker->unused += parent->nchildren;

	for (int i = 0; i < maker->npaths; i++)
	{
		const SaggJsonPath *path = &maker->paths[i];

		if (!is_new(maker, i, above, level))
			continue;
		node->text = path->names[level].text;
		node->len = path->names[level].len;
		node->subscript = name_subscript(&path->names[level]);
		node->value = -1;
		for (int j = 0; j < maker->npaths; j++)
			if (maker->paths[j].nnames == level + 1 &&
				same_start(&maker->paths[j], path, level + 1))
			{
				node->value = j;
				node->kind_only = maker->paths[j].kind_only != 0;
				node->any_case = maker->paths[j].any_case != 0;
			}
		if (node->any_case)
			parent->lengths |= sagg_json_length_bit(node->len);
		grow(maker, node, i, level + 1);
		node++;
	}
}

/*
 * Makes the tree of some paths, each given once; names are copied.  NULL when there
 * is no memory.
 */
JsonNode *
sagg_json_tree_make(const SaggJsonPath *paths, int npaths) noexcept
{
	size_t		nnodes = 1;
	size_t		size = 0;
	JsonNode   *root;
	Maker		maker = {paths, npaths, nullptr};
	char	   *text;

	for (int i = 0; i < npaths; i++)
		for (int j = 0; j < paths[i].nnames; j++, nnodes++)
			size += paths[i].names[j].len;
	root = (JsonNode *) calloc(1, nnodes * sizeof(JsonNode) + size);
	if (!root)
		return nullptr;
	root->subscript = -1;
	root->value = -1;
	for (int i = 0; i < npaths; i++)
	{
		if (paths[i].nnames == 0)
			root->value = i;
	}
	maker.unused = root + 1;
	if (npaths > 0)
		grow(&maker, root, 0, 0);
	text = (char *) (root + nnodes);
	for (JsonNode *node = root + 1; node < maker.unused; node++)
	{
		if (node->len > 0)
			memcpy(text, node->text, node->len);
		node->text = text;
		text += node->len;
	}
	return root;
}

/* The wanted element of an array, or null. */
JsonNode *
sagg_json_find_subscript(JsonNode *parent, int64_t subscript) noexcept
{
	for (int i = 0; i < parent->nchildren; i++)
		if (parent->children[i].subscript == subscript)
			return &parent->children[i];
	return nullptr;
}

static inline char
lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char) (c + ('a' - 'A')) : c;
}

/* The wanted field whose name differs from the key in case only, or null. */
JsonNode *
sagg_json_find_any_case(JsonNode *parent, const SaggJsonValue *key) noexcept
{
	if (!(parent->lengths & sagg_json_length_bit(key->len)))
		return nullptr;
	for (int i = 0; i < parent->nchildren; i++)
	{
		JsonNode   *child = &parent->children[i];
		size_t		n = 0;

		if (!child->any_case || child->len != key->len)
			continue;
		while (n < key->len && lower(child->text[n]) == lower(key->text[n]))
			n++;
		if (n == key->len)
			return child;
	}
	return nullptr;
}

/*
 * The record has been walked: fields that may be in any case, and are there only
 * in several others, are ambiguous.
 */
void
sagg_json_settle_cases(JsonNode *node, SaggJsonValue *values) noexcept
{
	for (int i = 0; i < node->nchildren; i++)
	{
		JsonNode   *child = &node->children[i];

		if (child->ambiguous && !child->exact)
		{
			values[child->value].text = nullptr;
			values[child->value].len = 0;
			values[child->value].kind = SAGG_JSON_AMBIGUOUS;
		}
		sagg_json_settle_cases(child, values);
	}
}

/*
 * Forgets what an earlier field of the same name had, as the last one counts.
 */
void
sagg_json_forget(JsonNode *node, SaggJsonValue *values) noexcept
{
	node->exact = false;
	node->ambiguous = false;
	node->other = nullptr;
	if (node->value >= 0)
	{
		values[node->value].text = nullptr;
		values[node->value].len = 0;
		values[node->value].kind = SAGG_JSON_MISSING;
	}
	for (int i = 0; i < node->nchildren; i++)
		sagg_json_forget(&node->children[i], values);
}
