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

/* reads the late records of one process's share of a batch */
struct SaggLateReader
{
	SaggRejectedReader *records;
	const SaggLateRows *late;
	int64		next;			/* row */
};

/*
 * Returns whether row "i" is the first one of its record.
 */
static bool
begins_record(const SaggLateRows *late, int64 i)
{
	return i == 0 || late->rows[i].record != late->rows[i - 1].record;
}

/*
 * All rows have come: drop those of records that were rejected afterwards.
 * Returns how many records are left.  "rejections" may be NULL.
 */
int64
sagg_late_settle(SaggLateRows *late, const SaggRejections *rejections)
{
	int64		kept = 0;
	int64		records = 0;

	for (int64 i = 0; rejections && i < late->n; i++)
	{
		if (!sagg_record_rejected(rejections, late->rows[i].record))
			late->rows[kept++] = late->rows[i];
	}
	if (rejections)
		late->n = kept;
	for (int64 i = 0; i < late->n; i++)
		records += begins_record(late, i);
	return records;
}

/*
 * Begin to read the late records of a batch, in the current context;
 * sagg_late_settle has been called.
 */
SaggLateReader *
sagg_late_open(SaggBatch *batch, SaggLateRows *late)
{
	SaggLateReader *reader = palloc0(sizeof(SaggLateReader));
	SaggRejection *list = MemoryContextAllocHuge(CurrentMemoryContext,
												 sizeof(SaggRejection) * Max(late->n, 1));
	int64		n = 0;

	reader->late = late;
	for (int64 i = 0; i < late->n; i++)
	{
		if (!begins_record(late, i))
			continue;
		memset(&list[n], 0, sizeof(SaggRejection));
		list[n++].record = late->rows[i].record;
	}
	reader->records = sagg_rejected_open(batch, list, n);
	return reader;
}

/*
 * Return the next late record, with its rows.  A SaggNextDivertedRecord, whose
 * argument is a SaggLateReader.
 */
bool
sagg_late_next(void *arg, SaggDivertedRecord *diverted)
{
	SaggLateReader *reader = arg;
	const SaggLateRows *late = reader->late;
	int64		first = reader->next;

	if (!sagg_rejected_next(reader->records, diverted))
		return false;
	do
	{
		reader->next++;
	} while (reader->next < late->n && !begins_record(late, reader->next));
	diverted->rows = &late->rows[first];
	diverted->nrows = reader->next - first;
	return true;
}

/*
 * Close the reader; its memory is freed with its context.
 */
void
sagg_late_close(SaggLateReader *reader)
{
	sagg_rejected_close(reader->records);
}

/*
 * Write late records to stream_agg.late_records, in the batch's transaction.
 * Changes "late"; "rejections" may be NULL.
 */
void
sagg_keep_late_records(SaggStreamRun *run, SaggLateRows *late,
					   const SaggRejections *rejections, SaggCommit *commit)
{
	int64		own = sagg_late_settle(late, rejections);
	int64		all = own + sagg_executors_late(run->reading);
	SaggLateReader *reader;
	SaggDiverted diverted;

	if (all == 0)
		return;
	reader = sagg_late_open(sagg_reader_batch(run->reading->reader), late);
	sagg_diverted_begin(&diverted, run->reading, true, sagg_late_next, reader);
	sagg_checkpoint_late_records(run->checkpoint, run->plan, all, sagg_diverted_next,
								 &diverted, commit);
	sagg_late_close(reader);
}
