/*-------------------------------------------------------------------------
 *
 * topic_options.c
 *	  The topics of a source, by its options: one, a list, or those that match
 *	  a pattern; and checks of the names that brokers send: an invalid name is
 *	  an error of the broker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "kafka_internal.h"

/*
 * most bytes of the id of a cluster; Kafka's own has 22, those of services a
 * few more
 */
#define MAX_CLUSTER_ID		250

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
 * Returns why this cannot be the name of a topic; palloc'd.
 */
static char *
bad_name(const char *name)
{
	return strspn(name, SAGG_TOPIC_ALPHABET) == strlen(name) ?
		psprintf("\"%s\" cannot be the name of a topic.", name) :
		psprintf("\"%s\" cannot be the name of a topic; names consist of ASCII letters, digits, \".\", \"_\" and \"-\".",
				 name);
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
 * Read the names of a list, sorted, in the current context.  Raises
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
 * Set "topics" from the options of a source, in the current context.  Returns
 * false unless there is exactly one of the options topic, topics and
 * topic_pattern.  Raises fdw_invalid_attribute_value for an invalid list.
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
 * Returns the topics of a source; in the current context.
 */
SaggTopics *
sagg_kafka_topics(Oid source)
{
	SaggTopics *topics = palloc0(sizeof(SaggTopics));

	if (!from_options(GetForeignTable(source)->options, topics))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("source \"%s\" needs one of the options \"topic\", \"topics\" and \"topic_pattern\"",
						get_rel_name(source))));
	return topics;
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
		(void) sagg_topic_matches("", topics.pattern);
}

/*
 * Raises fdw_error if what brokers call their cluster cannot be its id: 1 to
 * MAX_CLUSTER_ID visible ASCII characters.
 */
void
sagg_check_cluster_id(const char *id)
{
	size_t		len = strlen(id);
	bool		good = len > 0 && len <= MAX_CLUSTER_ID;

	for (const char *p = id; *p && good; p++)
		good = *p > ' ' && *p <= '~';
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("the brokers give an invalid cluster id: \"%s\"", sagg_foreign_text(id)),
				 errdetail("A cluster id has 1 to %d visible ASCII characters.", MAX_CLUSTER_ID)));
}

/*
 * Raises fdw_error if a name in an answer of a broker cannot be that of a topic.
 */
void
sagg_check_topic_name(const char *name)
{
	if (!sagg_is_topic_name(name))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("the brokers give an invalid name of a topic: \"%s\"", sagg_foreign_text(name)),
				 errdetail("Names of topics have 1 to %d ASCII letters, digits, \".\", \"_\" and \"-\".",
						   SAGG_MAX_TOPIC_NAME)));
}
