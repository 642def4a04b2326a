/*-------------------------------------------------------------------------
 *
 * topics.c
 *	  Topics by number, and the order of partitions.
 *
 * Records, ranges and offsets refer to their topic by a small number, which a
 * process assigns to each topic's name when it first meets it.  Numbers are
 * valid only in their own process: tables and shared memory have names.
 * Numbers are never freed, so the callers have to bound the number of topics.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "stream_agg.h"

static int	ntopics = 0;
static int	max_topics = 0;
static char **topics = NULL;

/*
 * Returns the number of a topic, not negative.
 */
int32
sagg_topic_number(const char *name)
{
	static int	last = 0;		/* one name usually comes many times in a row */

	if (last < ntopics && strcmp(topics[last], name) == 0)
		return last;
	for (last = 0; last < ntopics; last++)
	{
		if (strcmp(topics[last], name) == 0)
			return last;
	}
	if (ntopics == max_topics)
	{
		int			size = Max(16, 2 * max_topics);

		topics = topics ? repalloc(topics, sizeof(char *) * size) :
			MemoryContextAlloc(TopMemoryContext, sizeof(char *) * size);
		max_topics = size;
	}
	topics[ntopics] = MemoryContextStrdup(TopMemoryContext, name);
	return ntopics++;
}

/*
 * Returns the name of a topic that has a number.
 */
const char *
sagg_topic_name(int32 topic)
{
	Assert(topic >= 0 && topic < ntopics);
	return topics[topic];
}

/*
 * Compare partitions: by name of the topic, byte by byte, then by number.
 */
int
sagg_partition_compare(const SaggRange *a, const SaggRange *b)
{
	if (a->topic != b->topic)
		return strcmp(sagg_topic_name(a->topic), sagg_topic_name(b->topic));
	return a->partition < b->partition ? -1 : a->partition > b->partition;
}

/*
 * Compare partitions, for qsort.
 */
int
sagg_partition_order(const void *a, const void *b)
{
	return sagg_partition_compare(a, b);
}

/*
 * Returns the range of the partition that "key" refers to, or NULL.
 */
SaggRange *
sagg_partition_find(SaggRange *ranges, int nranges, const SaggRange *key)
{
	for (int i = 0; i < nranges; i++)
	{
		if (ranges[i].partition == key->partition && ranges[i].topic == key->topic)
			return &ranges[i];
	}
	return NULL;
}

/*
 * Returns whether any of the ranges is of this topic.
 */
bool
sagg_topic_among(const SaggRange *ranges, int nranges, int32 topic)
{
	for (int i = 0; i < nranges; i++)
	{
		if (ranges[i].topic == topic)
			return true;
	}
	return false;
}

/*
 * Returns whether this can be the name of a topic.
 */
bool
sagg_is_topic_name(const char *name)
{
	size_t		len = strlen(name);

	return len > 0 && len <= SAGG_MAX_TOPIC_NAME && strspn(name, SAGG_TOPIC_ALPHABET) == len &&
		strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}
