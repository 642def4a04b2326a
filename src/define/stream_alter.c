/*-------------------------------------------------------------------------
 *
 * stream_alter.c
 *	  alter_stream: changes what create_stream was given.
 *
 * So a stream that has failed at a record it cannot process can continue, from
 * its last commit, without that record.  State does not depend on options,
 * trigger and bounds; a micro-batch that is planned and not committed runs
 * with the new ones.  A watermark never goes back, whatever its delay becomes.
 * stream_requery.c replaces the query.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "define_internal.h"
#include "streams/streams.h"
#include "write/write.h"

PG_FUNCTION_INFO_V1(stream_agg_alter_stream);

/* positions of the arguments */
enum
{
	ARG_STREAM,
	ARG_OPTIONS,
	ARG_TRIGGER,
	ARG_MAX_OFFSETS,
	ARG_WATERMARK,
	ARG_QUERY,
	ARG_DROP_COLUMNS
};

/*
 * Change "stream" by options; options that are null get their default, except
 * max_future, where null is a value.
 */
static void
merge_options(SaggStream *stream, Datum changes)
{
	Datum		merged = sagg_stream_options_jsonb(&stream->options);
	List	   *options = NIL;
	ListCell   *lc;

	if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(changes)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
	merged = DirectFunctionCall2(jsonb_concat, merged, changes);
	foreach(lc, sagg_options_from_json(DatumGetJsonbP(merged), true))
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (option->arg || strcmp(option->defname, "max_future") == 0)
			options = lappend(options, option);
		else
			sagg_check_option_name(option->defname);
	}
	sagg_stream_options_read(options, &stream->options);
}

/*
 * Change the delay, which decides what becomes late from now on.  A stream
 * without a watermark cannot get one, because nothing was late for it so far:
 * its state may have groups that would be late.
 */
static void
change_watermark(SaggStream *stream, int64 delay)
{
	if (!stream->has_watermark)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("stream \"%s\" has no watermark, and cannot get one", sagg_stream_title(stream->name)),
				 errhint("Create another stream, with a watermark.")));
	stream->watermark_delay = delay;
}

/*
 * Change "stream" by the arguments that are not NULL.
 */
static void
merge_arguments(SaggStream *stream, FunctionCallInfo fcinfo)
{
	if (!PG_ARGISNULL(ARG_OPTIONS))
		merge_options(stream, PG_GETARG_DATUM(ARG_OPTIONS));
	if (!PG_ARGISNULL(ARG_TRIGGER))
		stream->trigger = sagg_duration_argument(fcinfo, ARG_TRIGGER, "trigger");
	if (!PG_ARGISNULL(ARG_MAX_OFFSETS))
		stream->max_offsets = PG_GETARG_INT64(ARG_MAX_OFFSETS);
	if (stream->max_offsets < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_offsets_per_trigger must not be negative"),
				 errhint("Use 0 to remove the limit.")));
	if (!PG_ARGISNULL(ARG_WATERMARK))
		change_watermark(stream, sagg_duration_argument(fcinfo, ARG_WATERMARK, "watermark"));
}

/*
 * Reject a change of the policy for sliding windows, whose state depends on
 * it.
 */
static void
check_policy_change(const SaggStream *stream, SaggWatermarkPolicy before)
{
	SaggStream	old = *stream;

	old.options.watermark_policy = before;
	if (sagg_query_of_view(&old)->fingerprint == sagg_query_of_view(stream)->fingerprint)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("watermark_policy of stream \"%s\" cannot be changed",
					sagg_stream_title(stream->name)),
			 errdetail("Its state of sliding windows is by window with policy per_partition, and by pane with the others."),
			 errhint("Create another stream.")));
}

/*
 * Set up the stream as its owner, who is not the caller where the caller only
 * has the owner's privileges.
 */
static void
check_retention_sink(const SaggStream *stream, const SaggQuery *query)
{
	SaggOwnerContext owner;

	sagg_become_stream_owner(&owner, stream);
	sagg_sink_check_retention(stream->sink, query, stream->mode);
	sagg_restore_user(&owner);
}

static void
update_row(const SaggStream *stream)
{
	Oid			types[5] = {OIDOID, JSONBOID, INTERVALOID, INT8OID, INTERVALOID};
	Datum		values[5];

	values[1] = sagg_stream_options_jsonb(&stream->options);
	values[2] = sagg_interval_datum(stream->trigger);
	values[3] = Int64GetDatum(stream->max_offsets);
	values[4] = sagg_interval_datum(stream->watermark_delay);
	sagg_stream_update(stream,
					   "options = $2, trigger_interval = $3,"
					   " max_offsets_per_trigger = NULLIF($4, 0),"
					   " watermark = CASE WHEN watermark IS NOT NULL THEN $5 END",
					   5, types, values);
}

/*
 * Lock the stream, and those that share its reader and get other settings, in the
 * order of their views, so that two changes do not wait for each other.
 */
static void
lock_streams(const SaggStream *stream, FunctionCallInfo fcinfo)
{
	SaggStream	changed = *stream;
	List	   *views = list_make1_oid(stream->view);
	ListCell   *lc;

	merge_arguments(&changed, fcinfo);
	if (stream->reader)
	{
		foreach(lc, sagg_views_beside(stream))
		{
			SaggStream *other = sagg_stream_by_view(lfirst_oid(lc), true);

			if (other && sagg_take_reader_settings(other, &changed))
				views = lappend_oid(views, other->view);
		}
	}
	list_sort(views, list_oid_cmp);
	foreach(lc, views)
		sagg_lock_stream(lfirst_oid(lc));
}

/*
 * All streams of a reader have the same settings for it: give the others those
 * of "stream".
 */
static void
change_others_of_reader(const SaggStream *stream)
{
	StringInfoData names;
	ListCell   *lc;

	if (stream->reader == NULL)
		return;
	initStringInfo(&names);
	foreach(lc, sagg_views_beside(stream))
	{
		SaggStream *other = sagg_stream_by_view(lfirst_oid(lc), true);

		if (other == NULL || !sagg_take_reader_settings(other, stream))
			continue;
		/* most are locked already; the stream may have changed meanwhile */
		sagg_lock_stream(other->view);
		other = sagg_own_stream_now(other->view);
		(void) sagg_take_reader_settings(other, stream);
		update_row(other);
		sagg_retry_now(other->view);
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", sagg_stream_title(other->name));
	}
	if (names.len > 0)
		ereport(NOTICE,
				(errmsg("streams that share reader \"%s\" get the same settings: %s",
						stream->reader, names.data)));
}

/*
 * alter_stream(stream text, options jsonb, trigger interval,
 * max_offsets_per_trigger bigint, watermark interval, query text, drop_columns
 * boolean): changes what is not NULL.  Waits for the current micro-batch; on
 * commit the stream continues with the changes.  A stopped or failed stream
 * stays so, but with another query a failed one tries again.
 */
Datum
stream_agg_alter_stream(PG_FUNCTION_ARGS)
{
	char	   *name = sagg_required_argument(fcinfo, ARG_STREAM, "stream");
	SaggStream *stream;
	SaggQuery  *query;
	SaggWatermarkPolicy policy;

	PreventCommandDuringRecovery("stream_agg.alter_stream()");
	PreventCommandIfParallelMode("stream_agg.alter_stream()");
	stream = sagg_stream_by_name(name, false);
	sagg_stream_check_owner(stream);
	lock_streams(stream, fcinfo);

	stream = sagg_own_stream_now(stream->view);
	policy = stream->options.watermark_policy;
	merge_arguments(stream, fcinfo);
	if (stream->options.watermark_policy != policy)
		check_policy_change(stream, policy);
	if (!PG_ARGISNULL(ARG_QUERY))
		sagg_change_query(stream, sagg_text_argument(fcinfo, ARG_QUERY),
						  !PG_ARGISNULL(ARG_DROP_COLUMNS) && PG_GETARG_BOOL(ARG_DROP_COLUMNS));
	query = sagg_query_of_view(stream);
	sagg_check_max_future(stream, query);
	sagg_check_watermark_options(stream, query);
	sagg_check_group(stream, query);
	sagg_check_delivery(stream, query);
	sagg_check_min_offsets(&stream->options, stream->max_offsets);
	change_others_of_reader(stream);
	sagg_check_reader(stream);
	if (stream->options.has_retention)
		check_retention_sink(stream, query);
	update_row(stream);
	sagg_retry_now(stream->view);
	if (PG_ARGISNULL(ARG_QUERY))
		sagg_tell_if_failed(stream);
	PG_RETURN_VOID();
}
