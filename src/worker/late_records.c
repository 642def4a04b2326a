/*-------------------------------------------------------------------------
 *
 * late_records.c
 *	  The late records of a batch, from EXECUTE and READ to CHECKPOINT.
 *
 * EXECUTE knows which records are late and which windows they missed, READ has
 * their bytes, and CHECKPOINT writes them to a table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "worker_internal.h"

typedef struct LateReader
{
	SaggRejectedReader *records;
	const SaggLateRows *late;
	int64		next;			/* row */
} LateReader;

/*
 * Return the next late record, with its rows.  A SaggNextDivertedRecord.
 */
static bool
next_late_record(void *arg, SaggDivertedRecord *diverted)
{
	LateReader *reader = arg;
	const SaggLateRows *late = reader->late;
	int64		first = reader->next;

	if (!sagg_rejected_next(reader->records, diverted))
		return false;
	while (reader->next < late->n &&
		   late->rows[reader->next].record == late->rows[first].record)
		reader->next++;
	diverted->rows = &late->rows[first];
	diverted->nrows = reader->next - first;
	return true;
}

/*
 * Drop the rows of records that were rejected afterwards.
 */
static void
drop_rejected(SaggLateRows *late, const SaggRejections *rejections)
{
	int64		kept = 0;

	for (int64 i = 0; rejections && i < late->n; i++)
	{
		if (!sagg_record_rejected(rejections, late->rows[i].record))
			late->rows[kept++] = late->rows[i];
	}
	if (rejections)
		late->n = kept;
}

/*
 * Write late records to stream_agg.late_records, in the batch's transaction.
 * Changes "late"; "rejections" may be NULL.
 */
void
sagg_keep_late_records(SaggStreamRun *run, SaggLateRows *late,
					   const SaggRejections *rejections, SaggCommit *commit)
{
	LateReader	reader = {.late = late};
	SaggRejection *list;
	int64		n = 0;

	drop_rejected(late, rejections);
	if (late->n == 0)
		return;
	list = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(SaggRejection) * late->n);
	for (int64 i = 0; i < late->n; i++)
	{
		if (i > 0 && late->rows[i].record == late->rows[i - 1].record)
			continue;
		memset(&list[n], 0, sizeof(SaggRejection));
		list[n++].record = late->rows[i].record;
	}
	reader.records = sagg_rejected_open(sagg_reader_batch(run->reading->reader), list, n);
	sagg_checkpoint_late_records(run->checkpoint, run->plan, n, next_late_record,
								 &reader, commit);
	sagg_rejected_close(reader.records);
	pfree(list);
}
