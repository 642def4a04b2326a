/*-------------------------------------------------------------------------
 *
 * event_times.c
 *	  Event time: by which watermark a row is judged, and the watermark that
 *	  the batch leaves.
 *
 * Policy global: the greatest event time of all, less the delay; a row is
 * judged by what the commit before left.
 *
 * Policy per_partition: each partition has a watermark of its own, and the
 * stream's is the least of them.  A record is judged by that of its partition as
 * the records before it there have left it, in whatever batch they were.  So
 * which records are late depends on the partitions alone, not on how they are
 * cut into batches; and so do the results: a record that is not late finds its
 * window open.  For let it be of partition p, with W(p) before it, and its window
 * end at e > W(p).  A commit before closed that window only if the stream's
 * watermark W, which never goes back, was e or more.  But as long as p was waited
 * for, W was the least over the partitions, and that of p as it then was: not
 * more than W(p), which only grows, and so less than e.  The exception is a
 * partition that W did not wait for, because it was quiet for idle_timeout or
 * not known yet: W may have passed W(p) meanwhile.  Therefore a record is judged
 * by the greater of W(p) and the W that the commit before left - the same as
 * W(p) but for that exception, where it makes late what has no window any more.
 *
 * For this the rows of a batch must come in the order of their records, which
 * is that of offsets within a partition: the scan gives them so, and joins are
 * sorted (define/query_analyze.c).  Rows that a join makes of one record are
 * judged alike.  What WHERE removes, what is refused, and what has no event time
 * moves no watermark.
 *
 * What quiet partitions there are is in the plan, so a retry takes the same for
 * quiet, and the clock they go by is the plan's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "event_times.h"

/* Event time by partition, while the batch's rows come in. */
struct SaggPartitions
{
	int			ntimes;
	SaggPartitionTime *times;	/* the caller's, as the rows leave them */
	SaggPartitionTime *before;	/* as they were */
	int			nruns;
	const SaggRange *runs;		/* numbers of records by partition */
	int			run;			/* the one looked at last */
	int64		record;			/* of the row at hand; -1 = none yet */
	SaggPartitionTime *own;		/* of its partition */
	bool		any;			/* it has an event time */
	int64		greatest;		/* of its rows */
};

/*
 * Prepare for policy per_partition.  "times" are the partitions as the commit
 * before left them, one for each that the batch reads; "runs" tells of which
 * partition a record is, by its number: from "start" up to, not including,
 * "end".  Both must live as long as the execution.
 */
void
sagg_execution_partitions(SaggExecution *ex, SaggPartitionTime *times, int ntimes,
						  const SaggRange *runs, int nruns)
{
	MemoryContext old = MemoryContextSwitchTo(ex->memory);
	SaggPartitions *p = palloc0(sizeof(SaggPartitions));

	p->ntimes = ntimes;
	p->times = times;
	p->before = palloc(sizeof(SaggPartitionTime) * Max(ntimes, 1));
	memcpy(p->before, times, sizeof(SaggPartitionTime) * ntimes);
	p->runs = runs;
	p->nruns = nruns;
	p->record = -1;
	ex->partitions = p;
	MemoryContextSwitchTo(old);
}

/*
 * All rows of the record at hand have come.
 */
static void
settle_record(SaggExecution *ex)
{
	SaggPartitions *p = ex->partitions;

	if (p->any &&
		!(ex->refusals && sagg_record_refused(ex->refusals, p->record)))
	{
		p->own->time = Max(p->own->time, sagg_floor_ms(p->greatest));
		if (p->own->active != DT_NOBEGIN)
			p->own->active = sagg_floor_ms(ex->plan->batch_time);
	}
	p->any = false;
}

static SaggPartitionTime *
time_of(const SaggPartitions *p, const SaggRange *run)
{
	for (int i = 0; i < p->ntimes; i++)
	{
		if (p->times[i].partition == run->partition && p->times[i].topic == run->topic)
			return &p->times[i];
	}
	elog(ERROR, "partition %d of topic \"%s\" is not the stream's",
		 run->partition, sagg_topic_name(run->topic));
}

/*
 * A row is about to be placed: by which watermark?
 */
void
sagg_partitions_row(SaggExecution *ex, TupleTableSlot *slot)
{
	SaggPartitions *p = ex->partitions;
	AttrNumber	attno = ex->query->record;
	int64		record = SAGG_TID_RECORD((ItemPointer) DatumGetPointer(slot->tts_values[attno - 1]));
	int			run = p->run;

	if (record == p->record)
		return;
	if (record < p->record)
		elog(ERROR, "record " INT64_FORMAT " comes after record " INT64_FORMAT,
			 record, p->record);
	settle_record(ex);
	while (run < p->nruns && record >= p->runs[run].end)
		run++;
	if (run == p->nruns)
		elog(ERROR, "the batch has no record " INT64_FORMAT, record);
	if (run != p->run || p->record < 0)
		p->own = time_of(p, &p->runs[run]);
	p->run = run;
	p->record = record;
	ex->row_watermark = Max(ex->plan->watermark, sagg_watermark_of(ex->stream, p->own->time));
}

/*
 * The event time of the row at hand.
 */
void
sagg_partitions_time(SaggExecution *ex, int64 time)
{
	SaggPartitions *p = ex->partitions;

	if (!p->any || time > p->greatest)
		p->greatest = time;
	p->any = true;
}

/*
 * As if no row had come.
 */
void
sagg_partitions_forget(SaggExecution *ex)
{
	SaggPartitions *p = ex->partitions;

	memcpy(p->times, p->before, sizeof(SaggPartitionTime) * p->ntimes);
	p->record = -1;
	p->run = 0;
	p->any = false;
	ex->row_watermark = ex->plan->watermark;
}

static bool
is_quiet(const SaggExecution *ex, int i)
{
	const SaggPartitions *p = ex->partitions;
	const SaggPlan *plan = ex->plan;

	/* the batch has found a record */
	if (p->times[i].active != p->before[i].active)
		return false;
	for (int j = 0; j < plan->nquiet; j++)
	{
		if (plan->quiet[j].partition == p->times[i].partition &&
			plan->quiet[j].topic == p->times[i].topic)
			return true;
	}
	return false;
}

/*
 * Policy per_partition: the least watermark of the partitions waited for.
 */
static TimestampTz
least_watermark(const SaggExecution *ex)
{
	const SaggPartitions *p = ex->partitions;
	bool	   *quiet = palloc(Max(p->ntimes, 1));
	TimestampTz least;

	for (int i = 0; i < p->ntimes; i++)
		quiet[i] = is_quiet(ex, i);
	least = sagg_least_watermark(ex->stream, p->times, quiet, p->ntimes,
								 sagg_event_time_of_clock(ex, ex->plan->batch_time));
	pfree(quiet);
	return least;
}

/*
 * All rows have come: the watermark after the batch, which is never less than
 * the one before, and the greatest event time of the batch, DT_NOBEGIN if it
 * has none.
 */
TimestampTz
sagg_next_watermark(SaggExecution *ex, int64 *max_time)
{
	TimestampTz next = DT_NOBEGIN;

	if (ex->partitions)
	{
		settle_record(ex);
		ex->row_watermark = ex->plan->watermark;
	}
	*max_time = ex->any_time ? sagg_floor_ms(ex->max_time) : DT_NOBEGIN;
	if (!ex->stream->has_watermark)
		return ex->plan->watermark;
	if (ex->partitions)
		next = least_watermark(ex);
	else if (ex->any_time)
		next = sagg_watermark_of(ex->stream, *max_time);
	else if (ex->plan->nquiet > 0)
		next = sagg_watermark_of_clock(ex->stream,
									   sagg_event_time_of_clock(ex, ex->plan->batch_time));
	return Max(next, ex->plan->watermark);
}

/*
 * The end of the first window that is still open after the batch, DT_NOEND =
 * none is; after sagg_execution_close.  "ahead" is by how much the clock's time
 * is greater than the same time as an event time.
 */
TimestampTz
sagg_execution_next_end(SaggExecution *ex, int64 *ahead)
{
	*ahead = ex->plan->batch_time - sagg_event_time_of_clock(ex, ex->plan->batch_time);
	return sagg_store_next_end(ex->store);
}
