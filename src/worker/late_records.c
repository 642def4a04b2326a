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
	SaggRefusedReader *records;
	const SaggLateRows *late;
	int64		next;			/* row */
} LateReader;

/*
 * Return the next late record, with its rows.  A SaggNextAside.
 */
static bool
next_late_record(void *arg, SaggAside *aside)
{
	LateReader *reader = arg;
	const SaggLateRows *late = reader->late;
	int64		first = reader->next;

	if (!sagg_refused_next(reader->records, aside))
		return false;
	while (reader->next < late->n &&
		   late->rows[reader->next].record == late->rows[first].record)
		reader->next++;
	aside->rows = &late->rows[first];
	aside->nrows = reader->next - first;
	return true;
}

/*
 * Drop the rows of records that were refused afterwards.
 */
static void
drop_refused(SaggLateRows *late, const SaggRefusals *refusals)
{
	int64		kept = 0;

	for (int64 i = 0; refusals && i < late->n; i++)
	{
		if (!sagg_record_refused(refusals, late->rows[i].record))
			late->rows[kept++] = late->rows[i];
	}
	if (refusals)
		late->n = kept;
}

/*
 * Write late records to stream_agg.late_records, in the batch's transaction.
 * Changes "late"; "refusals" may be NULL.
 */
void
sagg_keep_late_records(SaggStreamRun *run, SaggLateRows *late,
					   const SaggRefusals *refusals, SaggCommit *commit)
{
	LateReader	reader = {.late = late};
	SaggRefusal *list;
	int64		n = 0;

	drop_refused(late, refusals);
	if (late->n == 0)
		return;
	list = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(SaggRefusal) * late->n);
	for (int64 i = 0; i < late->n; i++)
	{
		if (i > 0 && late->rows[i].record == late->rows[i - 1].record)
			continue;
		list[n++] = (SaggRefusal) {.record = late->rows[i].record};
	}
	reader.records = sagg_refused_open(sagg_reader_batch(run->reading->reader), list, n);
	sagg_checkpoint_late_records(run->checkpoint, run->plan, n, next_late_record,
								 &reader, commit);
	sagg_refused_close(reader.records);
	pfree(list);
}
