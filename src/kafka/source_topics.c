/*-------------------------------------------------------------------------
 *
 * source_topics.c
 *	  Which topics a source has: one, a list, or those that match a pattern.
 *
 * A pattern is a regular expression of the server, matched as by the operator
 * ~ with collation "C"; it needs no catalog and so no transaction.  Topics
 * whose names begin with two underscores are Kafka's own and match no pattern;
 * a list may name them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/pg_collation.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "read/read_internal.h"

/* of the names of topics */
#define ALPHABET	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

static void
invalid_topics(const char *value, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"topics\": \"%s\"", value),
			 errdetail_internal("%s", detail),
			 errhint("Write names of topics with commas between.")));
}

/*
 * Why this cannot be the name of a topic; palloc'd.
 */
static char *
bad_name(const char *name)
{
	return strspn(name, ALPHABET) == strlen(name) ?
		psprintf("\"%s\" cannot be the name of a topic.", name) :
		psprintf("\"%s\" cannot be the name of a topic; names consist of ASCII letters, digits, \".\", \"_\" and \"-\".",
				 name);
}

/*
 * Can this be the name of a topic?
 */
bool
sagg_is_topic_name(const char *name)
{
	size_t		len = strlen(name);

	return len > 0 && len <= SAGG_MAX_TOPIC_NAME && strspn(name, ALPHABET) == len &&
		strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static void
check_name(const char *value, const char *name)
{
	if (name[0] == '\0')
		invalid_topics(value, "A name is empty.");
	if (sagg_is_topic_name(name))
		return;
	invalid_topics(value, bad_name(name));
}

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/*
 * The names of a list, sorted, in the current context.  Raises
 * fdw_invalid_attribute_value.
 */
static void
parse_list(const char *value, SaggTopics *topics)
{
	const char *item = value;

	topics->names = palloc(sizeof(char *) * (strlen(value) + 1));
	topics->nnames = 0;
	for (;;)
	{
		const char *end = item + strcspn(item, ",");
		const char *last = end;

		while (item < last && isspace((unsigned char) *item))
			item++;
		while (item < last && isspace((unsigned char) last[-1]))
			last--;
		topics->names[topics->nnames] = pnstrdup(item, last - item);
		check_name(value, topics->names[topics->nnames++]);
		if (*end == '\0')
			break;
		item = end + 1;
	}
	qsort(topics->names, topics->nnames, sizeof(char *), compare_names);
	for (int i = 1; i < topics->nnames; i++)
	{
		if (strcmp(topics->names[i - 1], topics->names[i]) == 0)
			invalid_topics(value, psprintf("Topic \"%s\" is named more than once.",
										   topics->names[i]));
	}
}

/*
 * "topics" from the options of a source, in the current context.  Returns false
 * unless there is exactly one of the options topic, topics and topic_pattern.
 * Raises fdw_invalid_attribute_value for a list that is none.
 */
static bool
from_options(List *options, SaggTopics *topics)
{
	int			n = 0;
	ListCell   *lc;

	memset(topics, 0, sizeof(*topics));
	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);
		char	   *value;

		if (strcmp(def->defname, "topic") != 0 &&
			strcmp(def->defname, "topics") != 0 &&
			strcmp(def->defname, "topic_pattern") != 0)
			continue;
		n++;
		value = pstrdup(defGetString(def));
		if (strcmp(def->defname, "topic") == 0)
		{
			topics->one = value;
			topics->names = palloc(sizeof(char *));
			topics->names[0] = value;
			topics->nnames = 1;
			topics->subject = psprintf("topic \"%s\"", value);
		}
		else if (strcmp(def->defname, "topics") == 0)
		{
			parse_list(value, topics);
			topics->subject = psprintf("topics \"%s\"", value);
		}
		else
		{
			topics->pattern = value;
			topics->subject = psprintf("topics that match \"%s\"", value);
		}
	}
	return n == 1;
}

/*
 * The topics of a source; in the current context.
 */
SaggTopics *
sagg_source_topics(Oid relid)
{
	SaggTopics *topics = palloc0(sizeof(SaggTopics));

	if (!from_options(GetForeignTable(relid)->options, topics))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("source \"%s\" needs one of the options \"topic\", \"topics\" and \"topic_pattern\"",
						get_rel_name(relid))));
	return topics;
}

/*
 * The names of all, each once.
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
 * The topics of sources (OIDs) that are read together; in the current context.
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
 * Can the sources have records of several topics?  Checkpoints name topics
 * then.
 */
bool
sagg_sources_by_topic(List *sources)
{
	ListCell   *lc;

	foreach(lc, sources)
	{
		if (!sagg_is_source(lfirst_oid(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_SAGG_DEFINITION_CHANGED),
					 errmsg("a source of the stream does not exist"),
					 errhint("Drop the stream and create it again.")));
	}
	return sagg_sources_topics(sources)->one == NULL;
}

static bool
matches(const char *name, const char *pattern)
{
	return DatumGetBool(DirectFunctionCall2Coll(textregexeq, C_COLLATION_OID,
												CStringGetTextDatum(name),
												CStringGetTextDatum(pattern)));
}

/*
 * Check the options of a source that are about topics.  Raises
 * fdw_option_name_not_found, fdw_invalid_option_name,
 * fdw_invalid_attribute_value and invalid_regular_expression.
 */
void
sagg_topics_check(List *options)
{
	SaggTopics	topics;

	if (!from_options(options, &topics))
		ereport(ERROR,
				(errcode(topics.subject ? ERRCODE_FDW_INVALID_OPTION_NAME :
						 ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 topics.subject ?
				 errmsg("a source cannot have more than one of the options \"topic\", \"topics\" and \"topic_pattern\"") :
				 errmsg("a source needs the option \"topic\", \"topics\" or \"topic_pattern\""),
				 errhint("Write OPTIONS (topic 'name of the Kafka topic').")));
	if (topics.one && !sagg_is_topic_name(topics.one))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"topic\": \"%s\"", topics.one),
				 errdetail_internal("%s", bad_name(topics.one))));
	if (topics.pattern)
		(void) matches("", topics.pattern);
}

/*
 * Is a topic one of these?  Needs no transaction.
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
		return strncmp(name, "__", 2) != 0 && matches(name, topics->pattern);
	for (int i = 0; i < topics->nnames; i++)
	{
		if (strcmp(topics->names[i], name) == 0)
			return true;
	}
	return false;
}
