/*-------------------------------------------------------------------------
 *
 * json_copy.h
 *	  Copies of texts of values that contain other values, for json_leaf.cpp
 *	  only.
 *
 * C++ without PostgreSQL; nothing here throws (I6).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_JSON_COPY_H
#define SAGG_JSON_COPY_H

#include <cstdlib>
#include <cstring>

struct JsonCopy
{
	JsonCopy   *next;
	char		text[1];
};

/*
 * Returns a copy of "len" bytes, with room for a NUL behind them, which is
 * added to the list *copies; null when there is no memory.
 */
static inline char *
sagg_json_copy(JsonCopy * *copies, const void *text, size_t len)
{
	JsonCopy   *copy = (JsonCopy *) malloc(sizeof(JsonCopy) + len);

	if (!copy)
		return nullptr;
	memcpy(copy->text, text, len);
	copy->next = *copies;
	*copies = copy;
	return copy->text;
}

static inline void
sagg_json_free_copies(JsonCopy * *copies)
{
	while (*copies)
	{
		JsonCopy   *next = (*copies)->next;

		free(*copies);
		*copies = next;
	}
}

#endif							/* SAGG_JSON_COPY_H */
