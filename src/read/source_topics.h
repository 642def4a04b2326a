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
} SaggTopics;

extern SaggTopics *sagg_source_topics(Oid relid);
extern bool sagg_topics_include(const SaggTopics *topics, const char *name);
extern void sagg_topics_check(List *options);

#endif							/* SAGG_SOURCE_TOPICS_H */
