/*-------------------------------------------------------------------------
 *
 * query_text.c
 *	  A query as create_stream would take it, analysed without making a stream.
 *
 * Nothing here writes to the catalogs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "parser/analyze.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "define_internal.h"

/*
 * Returns whether a text is the name of something, rather than a query.
 */
bool
sagg_is_name(const char *text)
{
	List	   *parts;

	return SplitIdentifierString(pstrdup(text), '.', &parts) && parts != NIL;
}

static char *
setting(const char *name)
{
	return pstrdup(GetConfigOption(name, false, false));
}

/*
 * Reject what CREATE VIEW would reject.
 */
static void
check_column_names(const Query *query)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		String	   *name = tle->resjunk ? NULL : makeString(tle->resname);

		if (name && list_member(names, name))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("column \"%s\" specified more than once", tle->resname)));
		if (name)
			names = lappend(names, name);
	}
}

/*
 * Analyse the text of a query for a stream that is not made: "stream" has the
 * options of create_stream, and gets source, owner and settings of this
 * session; with "any_mode" also an output mode that suits the query.  Raises
 * the errors that create_stream would.
 */
SaggQuery *
sagg_query_of_text(const char *text, bool any_mode, SaggStream *stream)
{
	RawStmt    *raw = sagg_parse_query(text);
	ErrorContextCallback callback;
	SaggQuery  *result;
	Query	   *query;

	sagg_text_errors_begin(&callback, text);
	query = parse_analyze_fixedparams(raw, text, NULL, 0, NULL);
	sagg_text_errors_end(&callback);
	check_column_names(query);
	if (any_mode)
		stream->mode = !stream->has_watermark && (query->hasAggs || query->groupClause) ?
			SAGG_UPDATE : SAGG_APPEND;
	stream->owner = GetUserId();
	stream->database = MyDatabaseId;
	stream->timezone = setting("TimeZone");
	stream->datestyle = setting("DateStyle");
	stream->intervalstyle = setting("IntervalStyle");
	stream->search_path = setting("search_path");
	result = sagg_query_analyze(query, stream->event_time, stream->mode,
								stream->has_watermark, &stream->options);
	stream->sources = result->sources;
	sagg_check_query(stream, result);
	return result;
}
