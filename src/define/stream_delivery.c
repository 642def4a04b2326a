/*-------------------------------------------------------------------------
 *
 * stream_delivery.c
 *	  Checks that a stream and its sink fit: whether results arrive exactly
 *	  once, and whether the sink can change rows.
 *
 * A user gets weaker guarantees than exactly once only by asking for them, by
 * option "delivery".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/lsyscache.h"

#include "define_internal.h"
#include "read/read.h"
#include "sink_kinds.h"

/*
 * Reject a source whose kind cannot be written to, or that no kind of sinks takes:
 * it would pass for a table.
 */
static void
check_source(Oid sink, const SaggSinkKind *kind, const char *name)
{
	const SaggSourceKind *source = sagg_source_kind(sink);

	if (source == NULL || (kind->flags & SAGG_SINK_TRANSACTIONAL) == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("source \"%s\" cannot be the sink of a stream", name),
			 source->producer ?
			 errdetail("No kind of sinks takes sources of foreign-data wrapper %s.",
					   sagg_source_wrapper(sink)) :
			 errdetail("Sources of foreign-data wrapper %s cannot be written to.",
					   sagg_source_wrapper(sink))));
}

static void
check_promise(const SaggStream *stream, const SaggSinkKind *kind, const char *name)
{
	bool		exactly_once = (kind->flags & SAGG_SINK_EXACTLY_ONCE) != 0;

	if (!exactly_once && !stream->options.at_least_once)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("sink \"%s\" is %s, which does not get every row exactly once",
						name, kind->title),
				 kind->not_exactly_once ? errdetail("%s", kind->not_exactly_once) : 0,
				 errhint("Accept that with options => '{\"delivery\": \"at_least_once\"}', or name a table.")));
	if (exactly_once && stream->options.at_least_once)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delivery \"at_least_once\" is for sinks that are Kafka topics"),
				 errdetail("\"%s\" is not a Kafka topic.", name),
				 errhint("Leave the option out, or name a source as the sink.")));
}

/*
 * Check the output mode for a sink to which rows can only be added.
 */
static void
check_no_changes(const SaggStream *stream, const SaggQuery *query, const SaggSinkKind *kind)
{
	if (stream->mode == SAGG_COMPLETE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("output mode \"complete\" needs a table as its sink"),
				 errdetail("It changes and deletes rows, and %s stay as they are.", kind->rows),
				 errhint("Use output mode append (each window once) or update (a record whenever a group has changed).")));
	if (stream->mode == SAGG_UPDATE && query->replaced)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("session windows are not supported in output mode \"update\" with %s as the sink",
						kind->title),
				 errdetail("A session that grows, or merges with another, would have to be withdrawn."),
				 errhint("Use output mode append: each session once, when it is over.")));
	if (stream->mode == SAGG_UPDATE && query->removed)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("HAVING is not supported in output mode \"update\" with %s as the sink",
						kind->title),
				 errdetail("A group that does not pass HAVING any more would have to be withdrawn."),
				 errhint("Select the condition as a column, and let readers evaluate it.")));
}

/*
 * Raise an error unless the stream's sink, mode and option "delivery" fit, and
 * the kind of the sink accepts such rows.
 */
void
sagg_check_delivery(const SaggStream *stream, const SaggQuery *query)
{
	const SaggSinkKind *kind;
	char	   *name = get_rel_name(stream->sink);

	if (name == NULL)
		return;					/* WRITE raises an error */
	if (list_member_oid(stream->sources, stream->sink))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the stream would read its own results"),
				 errdetail("Source \"%s\" cannot be the sink as well.", name)));
	kind = sagg_sink_kind(stream->sink);
	check_source(stream->sink, kind, name);
	check_promise(stream, kind, name);
	if ((kind->flags & SAGG_SINK_TAKES_CHANGES) == 0)
		check_no_changes(stream, query, kind);
	if (kind->check)
	{
		SaggSinkStream described;
		SaggSinkRows rows;

		sagg_sink_describe(stream, &described);
		sagg_sink_describe_rows(query, stream->sink, &rows);
		kind->check(&described, &rows);
	}
}
