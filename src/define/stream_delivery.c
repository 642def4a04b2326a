/*-------------------------------------------------------------------------
 *
 * stream_delivery.c
 *	  Whether a stream's results arrive exactly once, and what a stream must be
 *	  like whose sink is a Kafka topic, where they do not.
 *
 * Kafka commits apart from the server, so a micro-batch that is retried sends
 * its rows again.  Nobody gets that without having said so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/lsyscache.h"

#include "define_internal.h"
#include "read/read.h"

static void
check_topic_sink(const SaggStream *stream, const SaggQuery *query, const char *name)
{
	if (list_member_oid(stream->sources, stream->sink))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the stream would read its own results"),
				 errdetail("Source \"%s\" cannot be the sink as well.", name)));
	if (!stream->options.at_least_once)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sink \"%s\" is a Kafka topic, which does not take every row exactly once", name),
				 errdetail("Kafka commits apart from the server: a micro-batch that is retried sends its rows again, with the same headers."),
				 errhint("Say so by options => '{\"delivery\": \"at_least_once\"}', or name a table.")));
	if (stream->mode == SAGG_COMPLETE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("output mode \"complete\" needs a table as its sink"),
				 errdetail("It changes and deletes rows, and records of a topic stay as they are."),
				 errhint("Use output mode append (each window once) or update (a record whenever a group has changed).")));
	if (query->missing_key)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the select list omits %s, by which the query groups",
						query->missing_key),
				 errdetail("Window and keys tell readers of the topic which row a record is."),
				 errhint("Add it to the select list.")));
	if (stream->mode == SAGG_UPDATE && query->replaced)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("session windows are not supported in output mode \"update\" with a Kafka topic as the sink"),
				 errdetail("A session that grows, or merges with another, would have to be taken back."),
				 errhint("Use output mode append: each session once, when it is over.")));
	if (stream->mode == SAGG_UPDATE && query->removed)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("HAVING is not supported in output mode \"update\" with a Kafka topic as the sink"),
				 errdetail("A group that does not pass HAVING any more would have to be taken back."),
				 errhint("Select the condition as a column, and let readers look at it.")));
}

/*
 * Raise an error unless the stream's sink, mode and option "delivery" go
 * together.  Also refuses foreign tables that are no sources.
 */
void
sagg_check_delivery(const SaggStream *stream, const SaggQuery *query)
{
	char	   *name = get_rel_name(stream->sink);
	const SaggSourceKind *kind = sagg_source_kind(stream->sink);

	if (name == NULL)
		return;					/* left to WRITE to complain about */
	if (kind && kind->producer == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("source \"%s\" cannot be the sink of a stream", name),
				 errdetail("Sources of foreign-data wrapper %s cannot be written to.",
						   kind->wrapper)));
	if (kind)
		check_topic_sink(stream, query, name);
	else if (stream->options.at_least_once)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delivery \"at_least_once\" is for sinks that are Kafka topics"),
				 errdetail("\"%s\" is none.", name),
				 errhint("Leave the option out, or name a source as the sink.")));
}
