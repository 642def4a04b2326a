/*-------------------------------------------------------------------------
 *
 * dead_letters_delete.c
 *	  delete_dead_letters, delete_failed_windows and delete_late_records: a
 *	  stream's owner deletes those that are done with.
 *
 * They are functions because whoever may DELETE from a table may also lock it,
 * and all streams share these tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "streams/streams.h"
#include "define_internal.h"

PG_FUNCTION_INFO_V1(stream_agg_delete_dead_letters);
PG_FUNCTION_INFO_V1(stream_agg_delete_failed_windows);
PG_FUNCTION_INFO_V1(stream_agg_delete_late_records);

/*
 * Report that a stream has no rows in "table", dead_letters or late_records,
 * because its options do not keep any.
 */
void
sagg_tell_none_kept(const SaggStream *stream, const char *table)
{
	if (strcmp(table, "late_records") == 0 && !stream->options.late_records)
		ereport(NOTICE,
				(errmsg("stream \"%s\" keeps no late records", sagg_stream_title(stream->name)),
				 errhint("Set its option late_records to true by stream_agg.alter_stream.")));
	else if (strcmp(table, "dead_letters") == 0 && stream->options.on_error != SAGG_DEAD_LETTER)
		ereport(NOTICE,
				(errmsg("stream \"%s\" keeps no dead letters", sagg_stream_title(stream->name)),
				 errhint("Set its option on_error to dead_letter by stream_agg.alter_stream.")));
}

/*
 * (stream text, through_batch bigint) RETURNS bigint: deletes the stream's
 * rows in "table" up to that batch, and returns their number.
 */
static Datum
delete_records(FunctionCallInfo fcinfo, const char *table)
{
	SaggStream *stream;
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		values[2];
	int64		deleted;
	SaggOwnerContext owner;

	PreventCommandIfParallelMode(psprintf("stream_agg.delete_%s()", table));
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	stream = sagg_stream_by_name(text_to_cstring(PG_GETARG_TEXT_PP(0)), false);
	sagg_stream_check_owner(stream);

	values[0] = CStringGetTextDatum(stream->name);
	values[1] = PG_ARGISNULL(1) ? Int64GetDatum(PG_INT64_MAX) : PG_GETARG_DATUM(1);
	SPI_connect();
	sagg_become_extension_owner(&owner);
	if (SPI_execute_with_args(psprintf("DELETE FROM stream_agg.%s"
									   " WHERE stream = $1 AND batch <= $2", table),
							  2, types, values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete from stream_agg.%s", table);
	deleted = (int64) SPI_processed;
	sagg_restore_user(&owner);
	SPI_finish();
	if (deleted == 0)
		sagg_tell_none_kept(stream, table);
	PG_RETURN_INT64(deleted);
}

/*
 * delete_dead_letters(stream text, through_batch bigint) RETURNS bigint
 */
Datum
stream_agg_delete_dead_letters(PG_FUNCTION_ARGS)
{
	return delete_records(fcinfo, "dead_letters");
}

/*
 * delete_failed_windows(stream text, through_batch bigint) RETURNS bigint
 */
Datum
stream_agg_delete_failed_windows(PG_FUNCTION_ARGS)
{
	return delete_records(fcinfo, "failed_windows");
}

/*
 * delete_late_records(stream text, through_batch bigint) RETURNS bigint
 */
Datum
stream_agg_delete_late_records(PG_FUNCTION_ARGS)
{
	return delete_records(fcinfo, "late_records");
}
