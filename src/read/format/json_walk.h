/*-------------------------------------------------------------------------
 *
 * json_walk.h
 *	  A leaf and its current token, for json_leaf.cpp only.
 *
 * C++ without PostgreSQL; nothing here throws (I6).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_JSON_WALK_H
#define SAGG_JSON_WALK_H

#include "json_leaf.h"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include <simdjson.h>

#include "json_copy.h"
#include "json_token.h"
#include "json_tree.h"

using		Stage1 = simdjson::internal::dom_parser_implementation;

/* a buffer for records larger than this is not kept */
static constexpr size_t KEEP_CAPACITY = 1024 * 1024;

/* a walk of a record that is not larger is never interrupted */
static constexpr size_t SMALL_RECORD = 256 * 1024;
static constexpr size_t MIN_CAPACITY = 4096;

/* one bit per open container in a walk */
static constexpr size_t DEPTH_LIMIT = 1024;

struct SaggJsonLeaf
{
	std::unique_ptr < Stage1 > stage1;
	uint8_t    *buf;			/* the record, with room behind it */
	size_t		capacity;		/* size of buf without that room, and of
								 * stage1 */
	size_t		max_depth;

	/* the record being walked */
	size_t		len;
	bool		escapes;		/* there is a backslash somewhere */
	int64_t		digits;			/* digits that exponents may still stand for */
	const volatile sig_atomic_t *interrupt; /* not 0: stop; or NULL */
	bool		interrupted;
	const uint32_t *token;		/* start of the current token */
	SaggJsonError *error;

	bool		no_memory;
	JsonCopy   *copies;			/* copies of the texts of values that contain
								 * other values */

	/* the wanted fields */
	int			nvalues;
	JsonNode   *root;

	/*
	 * Fields without an exact match are looked for in any case, from the
	 * first record on that lacks one.
	 */
	bool	   *may_be_any_case;	/* by value: it may be in any case */
	bool		any_case;
	bool		lacks;			/* such a field is missing in the current
								 * record */
};

/* Records why the record is invalid; "at" points into the buffer. */
static inline bool
invalid(SaggJsonLeaf *leaf, const char *reason, const uint8_t *at)
{
	leaf->error->reason = reason;
	leaf->error->position = (size_t) (at - leaf->buf);
	leaf->error->has_position = 1;
	return false;
}

/*
 * Returns start and end, without white space behind it, of the current token.
 */
static inline uint8_t *
token_start(const SaggJsonLeaf *leaf)
{
	return leaf->buf + leaf->token[0];
}

static inline uint8_t *
token_end(const SaggJsonLeaf *leaf)
{
	const uint8_t *start = token_start(leaf);
	uint8_t    *end = leaf->buf + leaf->token[1];

	while (end > start && is_space(end[-1]))
		end--;
	return end;
}

/*
 * Raises the error for a token that the grammar does not expect, as a reason.
 */
static inline bool
unexpected(SaggJsonLeaf *leaf, const char *reason)
{
	const uint8_t *start = token_start(leaf);

	if (start < leaf->buf + leaf->len)
		return invalid(leaf, reason, start);
	leaf->error->reason = "unexpected end of the record";
	leaf->error->has_position = 0;
	return false;
}

/* Returns whether the walk should stop.  For a small record it never does. */
static inline bool
interrupted(SaggJsonLeaf *leaf)
{
	if (!leaf->interrupt || !*leaf->interrupt)
		return false;
	leaf->interrupted = true;
	return true;
}

#endif							/* SAGG_JSON_WALK_H */
