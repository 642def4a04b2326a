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

/* a name of more digits is not an index; no record has so many elements */
static constexpr size_t MAX_SUBSCRIPT_DIGITS = 9;

/* A tree in the making. */
struct Maker
{
	const SaggJsonPath *paths;
	int			npaths;
	JsonNode   *unused;			/* first unused node */
	int		   *unused_index;	/* memory for indexes and slots */
};

/* Returns a name as the index of an array's element, or -1. */
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

/* Returns whether two paths have the same first n names. */
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
 * Returns whether path i is the first one that continues the first "level"
 * names of path "above" with its next name.
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
 * Adds the wanted fields below "parent", whose place is given by the first
 * "level" names of path "above".  Siblings are next to each other, in the
 * order of the paths.
 */
static void
grow(Maker *maker, JsonNode *parent, int above, int level)
{
	JsonNode   *node = maker->unused;

	parent->children = node;
	parent->next = node;
	for (int i = 0; i < maker->npaths; i++)
		parent->nchildren += is_new(maker, i, above, level);
	maker->unused += parent->nchildren;
	parent->end = maker->unused;
	parent->guesses = parent->nchildren;

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
		parent->all_lengths |= sagg_json_length_bit(node->len);
		if (node->any_case)
			parent->lengths |= sagg_json_length_bit(node->len);
		grow(maker, node, i, level + 1);
		node++;
	}
}

static inline char
lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char) (c + ('a' - 'A')) : c;
}

/* A hash that is equal for names that differ only in case. */
static uint32_t
hash_name(const char *text, size_t len)
{
	uint32_t	h = 2166136261u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ (uint8_t) lower(text[i])) * 16777619u;
	return h ^ h >> 15;
}

/*
 * Makes the search structures of a node's children: those that are indexes,
 * and a hash table of all if there are many.
 */
static void
index_children(Maker *maker, JsonNode *node)
{
	node->subscripts = maker->unused_index;
	for (int i = 0; i < node->nchildren; i++)
	{
		int			at = node->nsubscripts;

		if (node->children[i].subscript < 0)
			continue;
		for (; at > 0 && node->children[node->subscripts[at - 1]].subscript > node->children[i].subscript; at--)
			node->subscripts[at] = node->subscripts[at - 1];
		node->subscripts[at] = i;
		node->nsubscripts++;
	}
	maker->unused_index += node->nsubscripts;
	if (node->nchildren <= JSON_FEW_CHILDREN)
		return;
	node->guesses = JSON_GUESSES;
	node->slots = maker->unused_index;
	for (node->mask = 1; node->mask < 2 * (uint32_t) node->nchildren;)
		node->mask *= 2;
	maker->unused_index += node->mask;
	node->mask--;
	memset(node->slots, -1, (node->mask + 1) * sizeof(int));
	for (int i = 0; i < node->nchildren; i++)
	{
		uint32_t	slot = hash_name(node->children[i].text, node->children[i].len) & node->mask;

		while (node->slots[slot] >= 0)
			slot = (slot + 1) & node->mask;
		node->slots[slot] = i;
	}
}

/*
 * Returns the wanted field of a name among many, or null.
 */
JsonNode *
sagg_json_find_hashed(JsonNode *parent, const SaggFieldValue *key) noexcept
{
	uint32_t	slot = hash_name(key->text, key->len) & parent->mask;

	for (; parent->slots[slot] >= 0; slot = (slot + 1) & parent->mask)
	{
		JsonNode   *child = &parent->children[parent->slots[slot]];

		if (child->len == key->len && memcmp(child->text, key->text, key->len) == 0)
		{
			parent->next = child + 1;
			return child;
		}
	}
	return nullptr;
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
	Maker		maker = {paths, npaths, nullptr, nullptr};
	char	   *text;

	for (int i = 0; i < npaths; i++)
		for (int j = 0; j < paths[i].nnames; j++, nnodes++)
			size += paths[i].names[j].len;
	/*
	 * a child is in one array of indexes, and in slots, which are up to four
	 * times as many
	 */
	root = (JsonNode *) calloc(1, nnodes * (sizeof(JsonNode) + 5 * sizeof(int)) + size);
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
	maker.unused_index = (int *) (root + nnodes);
	text = (char *) (maker.unused_index + 5 * nnodes);
	for (JsonNode *node = root + 1; node < maker.unused; node++)
	{
		if (node->len > 0)
			memcpy(text, node->text, node->len);
		node->text = text;
		text += node->len;
	}
	for (JsonNode *node = root; node < maker.unused; node++)
		index_children(&maker, node);
	return root;
}

/*
 * Returns whether the name of a field that may be in any case differs from the
 * key only in case.
 */
static bool
same_in_any_case(const JsonNode *child, const SaggFieldValue *key)
{
	if (!child->any_case || child->len != key->len)
		return false;
	for (size_t i = 0; i < key->len; i++)
		if (lower(child->text[i]) != lower(key->text[i]))
			return false;
	return true;
}

/*
 * Returns the wanted field whose name differs from the key only in case, or
 * null.
 */
JsonNode *
sagg_json_find_any_case(JsonNode *parent, const SaggFieldValue *key) noexcept
{
	uint32_t	slot;

	if (!(parent->lengths & sagg_json_length_bit(key->len)))
		return nullptr;
	if (!parent->slots)
	{
		for (int i = 0; i < parent->nchildren; i++)
			if (same_in_any_case(&parent->children[i], key))
				return &parent->children[i];
		return nullptr;
	}
	slot = hash_name(key->text, key->len) & parent->mask;
	for (; parent->slots[slot] >= 0; slot = (slot + 1) & parent->mask)
		if (same_in_any_case(&parent->children[parent->slots[slot]], key))
			return &parent->children[parent->slots[slot]];
	return nullptr;
}

/*
 * The record has been walked: fields that may be in any case and have several
 * inexact matches are ambiguous.  Takes as long as finding them.
 */
void
sagg_json_settle_cases(JsonNode *node, SaggFieldValue *values) noexcept
{
	for (JsonNode *child = node->found; child; child = child->also_found)
	{
		if (child->ambiguous && !child->exact)
		{
			values[child->value].text = nullptr;
			values[child->value].len = 0;
			values[child->value].kind = SAGG_FIELD_AMBIGUOUS;
		}
		sagg_json_settle_cases(child, values);
	}
}

/*
 * Forgets the values of an earlier field of the same name, because the last
 * one counts.  Takes as long as finding them.
 */
void
sagg_json_forget(JsonNode *node, SaggFieldValue *values) noexcept
{
	node->exact = false;
	node->ambiguous = false;
	node->other = nullptr;
	if (node->value >= 0)
	{
		values[node->value].text = nullptr;
		values[node->value].len = 0;
		values[node->value].kind = SAGG_FIELD_MISSING;
	}
	for (JsonNode *child = node->found; child; child = child->also_found)
	{
		child->is_found = false;
		sagg_json_forget(child, values);
	}
	node->found = nullptr;
}
