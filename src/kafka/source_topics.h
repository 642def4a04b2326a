/*-------------------------------------------------------------------------
 *
 * source_topics.h
 *	  Which topics a source has.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_SOURCE_TOPICS_H
#define SAGG_SOURCE_TOPICS_H

#include "stream_agg.h"

typedef struct SaggTopics
{
	const char *subject;		/* for messages: topic "a", topics "a,b" */
	const char *one;			/* the option "topic", or NULL */
	const char *pattern;		/* the option "topic_pattern", or NULL */
	int			nnames;			/* without a pattern, sorted */
	char	  **names;
	List	   *parts;			/* of several sources: the SaggTopics of each;
								 * "pattern" is one of theirs, "names" all of
								 * those without a pattern */
} SaggTopics;

/* Kafka's bound for the name of a topic, in bytes */
#define SAGG_MAX_TOPIC_NAME		249

extern SaggTopics *sagg_source_topics(Oid relid);
extern SaggTopics *sagg_sources_topics(List *sources);
extern bool sagg_topics_include(const SaggTopics *topics, const char *name);
extern void sagg_topics_check(List *options);

#endif							/* SAGG_SOURCE_TOPICS_H */
