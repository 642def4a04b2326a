/*-------------------------------------------------------------------------
 *
 * source_topics.c
 *	  Topics of sources that are read together, and which names match them.
 *
 * A pattern is a regular expression of the server, matched as by the operator
 * ~ with collation "C"; it needs no catalog and so no transaction.  Topics
 * whose names begin with two underscores belong to the cluster itself and
 * match no pattern; a list may name them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#include "read_internal.h"

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/*
 * Collect the names of all, each once.
 */
static void
join_names(SaggTopics *all, const SaggTopics *topics)
{
	for (int i = 0; i < topics->nnames; i++)
	{
		bool		known = false;

		for (int j = 0; j < all->nnames; j++)
			known = known || strcmp(all->names[j], topics->names[i]) == 0;
		if (known)
			continue;
		all->names = all->names ?
			repalloc(all->names, sizeof(char *) * (all->nnames + 1)) :
			palloc(sizeof(char *));
		all->names[all->nnames++] = topics->names[i];
	}
}

/*
 * Returns the topics of sources (OIDs) that are read together; in the current
 * context.
 */
SaggTopics *
sagg_sources_topics(List *sources)
{
	SaggTopics *all;
	ListCell   *lc;

	if (list_length(sources) == 1)
		return sagg_source_topics(linitial_oid(sources));
	all = palloc0(sizeof(SaggTopics));
	foreach(lc, sources)
	{
		SaggTopics *topics = sagg_source_topics(lfirst_oid(lc));

		all->subject = all->subject ?
			psprintf("%s and %s", all->subject, topics->subject) : topics->subject;
		if (topics->pattern)
			all->pattern = topics->pattern;
		join_names(all, topics);
		all->parts = lappend(all->parts, topics);
	}
	if (all->nnames > 1)
		qsort(all->names, all->nnames, sizeof(char *), compare_names);
	return all;
}

/*
 * Returns whether the sources can have records of several topics: then
 * checkpoints name topics.
 */
bool
sagg_sources_by_topic(List *sources)
{
	return sagg_sources_topics(sources)->one == NULL;
}

/*
 * Returns whether a name matches a pattern.  Raises
 * invalid_regular_expression.
 */
bool
sagg_topic_matches(const char *name, const char *pattern)
{
	return DatumGetBool(DirectFunctionCall2Coll(textregexeq, C_COLLATION_OID,
												CStringGetTextDatum(name),
												CStringGetTextDatum(pattern)));
}

/*
 * Returns whether a topic is one of these.  Needs no transaction.
 */
bool
sagg_topics_include(const SaggTopics *topics, const char *name)
{
	ListCell   *lc;

	foreach(lc, topics->parts)
	{
		if (sagg_topics_include(lfirst(lc), name))
			return true;
	}
	if (topics->parts)
		return false;
	if (topics->pattern)
		return strncmp(name, "__", 2) != 0 && sagg_topic_matches(name, topics->pattern);
	for (int i = 0; i < topics->nnames; i++)
	{
		if (strcmp(topics->names[i], name) == 0)
			return true;
	}
	return false;
}
