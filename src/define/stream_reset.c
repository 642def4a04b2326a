/*-------------------------------------------------------------------------
 *
 * stream_reset.c
 *	  reset_stream: a stream that begins anew, from other offsets.
 *
 * State, watermark and offsets go, in the caller's transaction; query, sink,
 * options and counters stay.  Nothing here touches the sink: where its rows are
 * to be replaced, the next micro-batch does so in its own commit, and readers
 * see the old ones until then (checkpoint/reset.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "checkpoint/checkpoint.h"
#include "define_internal.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(stream_agg_reset_stream);

/*
 * The worker, as the stream's owner, will delete rows of the sink.
 */
static void
check_sink(const SaggStream *stream)
{
	char	   *name = get_rel_name(stream->sink);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the sink of stream \"%s\" does not exist", sagg_stream_title(stream->name))));
	if (stream->options.at_least_once)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("results of stream \"%s\" cannot be replaced", sagg_stream_title(stream->name)),
				 errdetail("Its sink is a Kafka topic, from which records cannot be removed."),
				 errhint("Reset it without results: the topic gets the new results after the old ones.")));
	if (pg_class_aclcheck(stream->sink, stream->owner, ACL_DELETE) != ACLCHECK_OK ||
		(pg_class_aclcheck(stream->sink, stream->owner, ACL_SELECT) != ACLCHECK_OK &&
		 pg_attribute_aclcheck_all(stream->sink, stream->owner, ACL_SELECT,
								   ACLMASK_ANY) != ACLCHECK_OK))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for sink \"%s\"", name),
				 errdetail("To replace its rows the stream's owner needs SELECT and DELETE on it.")));
}

/*
 * What the user should know before the rows are gone.
 */
static void
tell_about(const SaggStream *stream, bool results)
{
	if (results && strcmp(stream->starting_offsets, "earliest") != 0)
		ereport(NOTICE,
				(errmsg("windows that stream \"%s\" computes anew will lack the records before the offsets given",
						sagg_stream_title(stream->name))));
}

/*
 * reset_stream(stream text, offsets text, results boolean): waits for the
 * micro-batch at hand; on commit the stream goes on from "offsets".  One that is
 * stopped or failed stays so.
 */
Datum
stream_agg_reset_stream(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *offsets = text_to_cstring(PG_GETARG_TEXT_PP(1));
	bool		results = PG_GETARG_BOOL(2);
	SaggStream *stream;
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2];

	PreventCommandDuringRecovery("stream_agg.reset_stream()");
	PreventCommandIfParallelMode("stream_agg.reset_stream()");
	stream = sagg_stream_by_name(name, false);
	sagg_stream_check_owner(stream);
	offsets = sagg_starting_offsets_check(offsets, "offsets");
	sagg_lock_stream(stream->view);

	/* as others left it that held the lock before */
	stream = sagg_stream_by_view(stream->view, false);
	if (results)
		check_sink(stream);
	stream->starting_offsets = offsets;
	values[1] = CStringGetTextDatum(offsets);
	sagg_stream_update(stream, "starting_offsets = $2", 2, types, values);
	sagg_checkpoint_reset(stream->name, results);
	sagg_forget_positions(stream->view);
	sagg_checkpoint_event(stream->name, "reset",
						  psprintf("offsets: %s, results: %s", offsets,
								   results ? "true" : "false"));
	ereport(LOG,
			(errmsg("stream \"%s\" is reset to offsets %s",
					sagg_stream_title(stream->name), offsets)));
	tell_about(stream, results);
	sagg_tell_if_failed(stream);
	PG_RETURN_VOID();
}
