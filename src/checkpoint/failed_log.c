/*-------------------------------------------------------------------------
 *
 * failed_log.c
 *	  stream_agg.failed_windows: groups that a batch could not output when
 *	  their windows closed.
 *
 * They are written in the batch's own transaction (I1), so a group is either in the
 * sink or here (I5).  A stream has no more of them than stream_agg.max_dead_letters;
 * the batch that would add more fails.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "checkpoint_internal.h"

static int64
count_failed(SaggCheckpoint *checkpoint)
{
	SaggLogSection section;
	Datum		values[1];
	int64		n;

	sagg_log_begin(&section, checkpoint);
	(void) sagg_log_execute(&section, SAGG_LOG_FAILED_WINDOWS_COUNT, values, NULL, 1);
	n = sagg_log_int64(0, 1);
	sagg_log_end(&section);
	return n;
}

/*
 * Write the groups of a micro-batch that have failed, SaggFailedGroups.  A
 * part of CHECKPOINT, before sagg_checkpoint_commit.  Raises
 * ERRCODE_SAGG_DEAD_LETTERS if they do not fit beside those already in the
 * table.
 */
void
sagg_checkpoint_failed_windows(SaggCheckpoint *checkpoint, int64 batch, const List *failed)
{
	int64		kept = count_failed(checkpoint);
	SaggLogSection section;
	int			number = 0;
	ListCell   *lc;

	if (kept + list_length(failed) > sagg_max_dead_letters)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_DEAD_LETTERS),
				 errmsg("the stream would have more than %d failed windows",
						sagg_max_dead_letters),
				 errdetail("There are " INT64_FORMAT ", and this micro-batch adds %d.",
						   kept, list_length(failed)),
				 errhint("Look at stream_agg.failed_windows for the reasons; then run stream_agg.delete_failed_windows or raise stream_agg.max_dead_letters, and start the stream again.")));
	sagg_log_begin(&section, checkpoint);
	foreach(lc, failed)
	{
		const SaggFailedGroup *group = lfirst(lc);
		Datum		values[9] = {0};
		char		nulls[] = "         ";

		CHECK_FOR_INTERRUPTS();
		values[1] = Int64GetDatum(batch);
		values[2] = Int32GetDatum(++number);
		values[3] = TimestampTzGetDatum(group->start);
		values[4] = TimestampTzGetDatum(group->end);
		if (group->start == DT_NOBEGIN)
			nulls[3] = nulls[4] = 'n';
		values[5] = group->keys;
		if (group->no_keys)
			nulls[5] = 'n';
		values[6] = CStringGetTextDatum(group->message);
		if (group->detail)
			values[7] = CStringGetTextDatum(group->detail);
		else
			nulls[7] = 'n';
		values[8] = CStringGetTextDatum(unpack_sql_state(group->sqlstate));
		(void) sagg_log_execute(&section, SAGG_LOG_FAILED_WINDOWS_INSERT, values, nulls, 0);
	}
	sagg_log_end(&section);
}
