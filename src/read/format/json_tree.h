/*-------------------------------------------------------------------------
 *
 * json_tree.h
 *	  The wanted fields of a record as a tree, for json_leaf.cpp only.
 *
 * The root is the record; a node below it is a name within its parent.  C++
 * without PostgreSQL; nothing here throws (I6).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_JSON_TREE_H
#define SAGG_JSON_TREE_H

#include <cstdint>
#include <cstring>

#include "json_leaf.h"

struct JsonNode
{
	const char *text;			/* name of the field */
	size_t		len;
	int64_t		subscript;		/* the name as an index of arrays, -1 = none */
	int			value;			/* index of the field's value, -1 = only on
								 * the way to others */
	bool		kind_only;
	bool		any_case;		/* see SaggJsonPath */
	bool		exact;			/* the record has an exact match; this and the
								 * next two are of the current record */
	bool		ambiguous;		/* different names match in another case, */
	const char *other;			/* the first of them, null = none */
	uint64_t	lengths;		/* a bit for the length of each child's name
								 * that may be in any case */
	uint64_t	all_lengths;	/* a bit for the length of every child's name */
	int			nchildren;
	int			guesses;		/* number of children to compare before a hash
								 * is computed */
	JsonNode   *children;
	JsonNode   *end;			/* behind the last child */
	JsonNode   *next;			/* the child that is likely the next */
	int			nsubscripts;
	int		   *subscripts;		/* children that are indexes, ascending */
	uint32_t	mask;			/* number of "slots", less one */
	int		   *slots;			/* children by hash in lower case, -1 = none;
								 * NULL = few */
	JsonNode   *found;			/* children found since sagg_json_forget */
	JsonNode   *also_found;		/* next in the parent's list of children found */
	bool		is_found;
};

/* a node with more children finds them by hash */
static constexpr int JSON_FEW_CHILDREN = 16;

/*
 * number of names compared before that: the expected one, and a few that are
 * left out
 */
static constexpr int JSON_GUESSES = 4;

/*
 * Returns whether n bytes are equal.  Names are short: a call of memcmp would
 * take longer.
 */
static inline bool
sagg_json_same(const char *a, const char *b, size_t n)
{
	uint64_t	x;
	uint64_t	y;

	if (n < sizeof(x))
	{
		while (n > 0 && *a == *b)
		{
			a++;
			b++;
			n--;
		}
		return n == 0;
	}
	for (size_t i = 0;; i += sizeof(x))
	{
		/* the last eight bytes may overlap the ones before */
		size_t		at = i + sizeof(x) < n ? i : n - sizeof(x);

		memcpy(&x, a + at, sizeof(x));
		memcpy(&y, b + at, sizeof(y));
		if (x != y)
			return false;
		if (i + sizeof(x) >= n)
			return true;
	}
}

extern JsonNode * sagg_json_find_hashed(JsonNode * parent, const SaggFieldValue *key) noexcept;

/* Returns the bit of JsonNode.lengths for names of this length. */
static inline uint64_t
sagg_json_length_bit(size_t len)
{
	return UINT64_C(1) << (len < 63 ? len : 63);
}

/*
 * Returns the wanted field of a name, or null.  Fields come in the same order
 * from record to record, so the search starts behind the last one found.
 */
static inline JsonNode *
sagg_json_find_name(JsonNode * parent, const SaggFieldValue *key)
{
	JsonNode   *child = parent->next;

	if (!(parent->all_lengths & sagg_json_length_bit(key->len)))
		return nullptr;
	for (int n = parent->guesses; n > 0; n--, child++)
	{
		if (child == parent->end)
			child = parent->children;
		if (child->len == key->len && sagg_json_same(child->text, key->text, key->len))
		{
			parent->next = child + 1;
			return child;
		}
	}
	return parent->slots ? sagg_json_find_hashed(parent, key) : nullptr;
}

/*
 * Returns the wanted element of an array, or null.  Called for all elements,
 * from 0 on; *next is 0 before the first.
 */
static inline JsonNode *
sagg_json_find_subscript(JsonNode * parent, int64_t subscript, int *next)
{
	JsonNode   *child;

	if (*next >= parent->nsubscripts)
		return nullptr;
	child = &parent->children[parent->subscripts[*next]];
	if (child->subscript != subscript)
		return nullptr;
	(*next)++;
	return child;
}

/*
 * A child is about to get a value.
 */
static inline void
sagg_json_found(JsonNode * parent, JsonNode * child)
{
	if (child->is_found)
		return;
	child->is_found = true;
	child->also_found = parent->found;
	parent->found = child;
}

extern JsonNode * sagg_json_find_any_case(JsonNode * parent, const SaggFieldValue *key) noexcept;
extern void sagg_json_settle_cases(JsonNode * node, SaggFieldValue *values) noexcept;
extern JsonNode * sagg_json_tree_make(const SaggJsonPath *paths, int npaths) noexcept;
extern void sagg_json_forget(JsonNode * node, SaggFieldValue *values) noexcept;

#endif							/* SAGG_JSON_TREE_H */
