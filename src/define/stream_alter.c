/*-------------------------------------------------------------------------
 *
 * stream_alter.c
 *	  alter_stream: other options for a stream that is there.
 *
 * So a stream that has failed at a record it cannot process goes on, from its
 * last commit, without that record.  State does not depend on options; a
 * micro-batch that is planned and not committed runs with the new ones.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "define_internal.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(stream_agg_alter_stream);

/*
 * Change "stream" by options; those that are null get their default.
 */
static void
merge_options(SaggStream *stream, Datum changes)
{
	Datum		merged = sagg_stream_options_jsonb(&stream->options);

	if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(changes)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
	merged = DirectFunctionCall2(jsonb_concat, merged, changes);
	merged = DirectFunctionCall1(jsonb_strip_nulls, merged);
	sagg_stream_options_read(sagg_options_from_json(DatumGetJsonbP(merged)),
							 &stream->options);
}

static void
update_row(const SaggStream *stream)
{
	Oid			types[2] = {OIDOID, JSONBOID};
	Datum		values[2];

	values[1] = sagg_stream_options_jsonb(&stream->options);
	sagg_stream_update(stream, "options = $2", 2, types, values);
}

/*
 * alter_stream(stream text, options jsonb): waits for the micro-batch at hand;
 * on commit the stream goes on with the new options.  One that is stopped or
 * failed stays so.
 */
Datum
stream_agg_alter_stream(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	SaggStream *stream;
	SaggQuery  *query;

	PreventCommandDuringRecovery("stream_agg.alter_stream()");
	stream = sagg_stream_by_name(name, false);
	sagg_stream_check_owner(stream);
	sagg_lock_stream(stream->view);

	/* as others left it that held the lock before */
	stream = sagg_stream_by_view(stream->view, false);
	merge_options(stream, PG_GETARG_DATUM(1));
	query = sagg_query_of_view(stream);
	sagg_check_max_future(stream, query);
	sagg_check_delivery(stream, query);
	sagg_check_min_offsets(&stream->options, stream->max_offsets);
	sagg_check_reader(stream);
	update_row(stream);
	PG_RETURN_VOID();
}
