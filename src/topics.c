/*-------------------------------------------------------------------------
 *
 * topics.c
 *	  Topics by number, and the order of partitions.
 *
 * A record, a range, an offset name their topic by a small number, which a
 * process gives to each topic's name the first time it meets it.  Numbers mean
 * something in their own process only: tables and shared memory have names.
 * They are never given back, so what adds topics has to be bounded elsewhere.
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
 * The number of a topic, not negative.
 */
int32
sagg_topic_number(const char *name)
{
	static int	last = 0;		/* names come in runs */

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
 * The name of a topic that has a number.
 */
const char *
sagg_topic_name(int32 topic)
{
	Assert(topic >= 0 && topic < ntopics);
	return topics[topic];
}

/*
 * The order of partitions: by name of the topic, byte by byte, then by number.
 */
int
sagg_partition_compare(const SaggRange *a, const SaggRange *b)
{
	if (a->topic != b->topic)
		return strcmp(sagg_topic_name(a->topic), sagg_topic_name(b->topic));
	return a->partition < b->partition ? -1 : a->partition > b->partition;
}

/*
 * The same for qsort.
 */
int
sagg_partition_order(const void *a, const void *b)
{
	return sagg_partition_compare(a, b);
}

/*
 * The range of the partition that "key" is about, or NULL.
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
 * Is any of the ranges one of this topic?
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
 * Can this be the name of a topic?
 */
bool
sagg_is_topic_name(const char *name)
{
	size_t		len = strlen(name);

	return len > 0 && len <= SAGG_MAX_TOPIC_NAME && strspn(name, SAGG_TOPIC_ALPHABET) == len &&
		strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}
