/*-------------------------------------------------------------------------
 *
 * event_times.c
 *	  Event time: the watermark by which a row is late, and the watermark that
 *	  the batch leaves.
 *
 * Policy global: the greatest event time of all, less the delay; a row is late
 * by the watermark of the commit before.
 *
 * Policy aligned: like global, but while a partition is behind - it had
 * records when the batch was planned that the batch does not read - the
 * watermark does not pass the greatest event time of that partition so far,
 * less the delay, and stays where it is if the partition has shown none.  So a
 * record that was there when a batch was planned, and is in order within the
 * delay in its own partition, is never late, however fast partitions are read:
 * its partition is behind until the record is read, and the watermark does not
 * pass what came before it there.  The greatest event times by partition are
 * kept from batch to batch; when no partition is behind any more the watermark
 * is that of policy global.
 *
 * Policy per_partition: each partition has a watermark of its own, and the
 * stream's is the least of them.  A record is judged by that of its partition
 * as the records before it there have left it, in whatever batch they were.
 * So which records are late depends on the partitions alone, not on how they
 * are cut into batches; and so do the results, because a record that is not
 * late finds its window open.  Proof: let the record be of partition p, with
 * W(p) before it, and let its window end at e > W(p).  An earlier commit
 * closed that window only if the stream's watermark W, which never goes back,
 * was e or more.  But as long as p was waited for, W was the least over the
 * partitions, so at most the watermark of p at that time, which is at most
 * W(p), because W(p) only grows; so W was less than e.  The exception is a
 * partition that W did not wait for, because it was quiet for idle_timeout or
 * not known yet: W may have passed W(p) meanwhile.  Therefore a record is
 * judged by the greater of W(p) and the W that the commit before left.  That
 * equals W(p) except in this case, where it makes records late whose window no
 * longer exists.
 *
 * For this the rows of a batch must come in the order of their records, which
 * is that of offsets within a partition: the scan gives them so, and joins are
 * sorted (define/query_analyze.c).  Rows that a join makes of one record are
 * judged alike.  What WHERE removes, what is rejected, and what has no event time
 * moves no watermark.
 *
 * The plan records which partitions are quiet or behind, and the time of the
 * clock, so a retry uses the same ones.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "event_time/event_time.h"
#include "event_times.h"

/* Event time by partition, while the batch's rows come in. */
struct SaggPartitions
{
	int			ntimes;
	SaggPartitionTime *times;	/* allocated by the caller; changed as rows
								 * come */
	SaggPartitionTime *before;	/* as they were at the beginning */
	int			nruns;
	const SaggRange *runs;		/* records by partition, as SaggRecordId */
	int			run;			/* the run that was read last */
	SaggPartitionTime *own;		/* the entry of its partition */

	/* policy per_partition only */
	SaggRecordId record;		/* the current record; -1 = none yet */
	bool		any;			/* the record has an event time */
	int64		greatest;		/* greatest event time of its rows */
};

/*
 * Prepare for the policies aligned and per_partition.  "times" are the
 * partitions as the commit before left them, one for each that the batch reads;
 * "runs" has the partition of each record, by its SaggRecordId: from "start" up to,
 * not including, "end".  Both must live as long as the execution, which
 * changes "times".
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
	p->run = -1;
	p->record = -1;
	ex->partitions = p;
	ex->judged_by_partition =
		ex->stream->options.watermark_policy == SAGG_WATERMARK_PER_PARTITION;
	MemoryContextSwitchTo(old);
}

/*
 * All rows of the current record have come.
 */
static void
settle_record(SaggExecution *ex)
{
	SaggPartitions *p = ex->partitions;

	if (p->any &&
		!(ex->rejections && sagg_record_rejected(ex->rejections, p->record)))
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
 * Set "own" to the partition of a record.  Records of a partition mostly
 * follow each other.
 */
static inline void
find_partition(SaggPartitions *p, SaggRecordId record)
{
	int			low = 0;
	int			high = p->nruns;

	if (p->run >= 0 && record >= p->runs[p->run].start && record < p->runs[p->run].end)
		return;
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (record >= p->runs[middle].end)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == p->nruns || record < p->runs[low].start)
		elog(ERROR, "the batch has no record " INT64_FORMAT, record);
	p->own = time_of(p, &p->runs[low]);
	p->run = low;
}

static inline SaggRecordId
scanned_record(const SaggExecution *ex, TupleTableSlot *slot)
{
	return ex->query->record == 0 ? SAGG_TID_RECORD(&ex->scanned->tts_tid) :
		sagg_row_record(ex, slot);
}

/*
 * Policy per_partition: a row is about to be placed; sets "row_watermark" to
 * the watermark by which it may be late.
 */
void
sagg_partitions_row(SaggExecution *ex, TupleTableSlot *slot)
{
	SaggPartitions *p = ex->partitions;
	SaggRecordId record = scanned_record(ex, slot);

	if (record == p->record)
		return;
	if (record < p->record)
		elog(ERROR, "record " INT64_FORMAT " comes after record " INT64_FORMAT,
			 record, p->record);
	settle_record(ex);
	find_partition(p, record);
	p->record = record;
	ex->row_watermark = Max(ex->plan->watermark, sagg_watermark_of(ex->stream, p->own->time));
}

/*
 * The event time of a row, which counts for its partition.  With policy
 * per_partition it does so when all rows of the record have come.
 */
void
sagg_partitions_time(SaggExecution *ex, TupleTableSlot *slot, int64 time)
{
	SaggPartitions *p = ex->partitions;

	if (!ex->judged_by_partition)
	{
		find_partition(p, scanned_record(ex, slot));
		if (time > p->own->time)
			p->own->time = time;
		return;
	}
	if (!p->any || time > p->greatest)
		p->greatest = time;
	p->any = true;
}

/*
 * Start again, as if no row had come.
 */
void
sagg_partitions_forget(SaggExecution *ex)
{
	SaggPartitions *p = ex->partitions;

	memcpy(p->times, p->before, sizeof(SaggPartitionTime) * p->ntimes);
	p->record = -1;
	p->run = -1;
	p->any = false;
	ex->row_watermark = ex->plan->watermark;
}

/*
 * All rows have come.  Event times by partition are complete.
 */
void
sagg_partitions_end(SaggExecution *ex)
{
	if (!ex->judged_by_partition)
		return;
	settle_record(ex);
	ex->row_watermark = ex->plan->watermark;
}

/*
 * Event time in a partition of which another process has read the batch's
 * records.
 */
void
sagg_execution_partition_read(SaggExecution *ex, const SaggPartitionTime *time)
{
	SaggRange	partition = {time->topic, time->partition, 0, 0};

	/* policy global */
	if (ex->partitions == NULL)
		return;
	*time_of(ex->partitions, &partition) = *time;
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
 * Policy per_partition: returns the least watermark of the partitions waited
 * for.
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
								 sagg_event_time_of_clock(ex->query, ex->plan->batch_time));
	pfree(quiet);
	return least;
}

/*
 * Policy aligned: returns the greatest event time of all partitions, including
 * those of earlier batches, but not beyond the partitions that are behind.
 */
static TimestampTz
aligned_watermark(SaggExecution *ex)
{
	SaggPartitions *p = ex->partitions;
	const SaggPlan *plan = ex->plan;
	int64		greatest = DT_NOBEGIN;
	TimestampTz bound = DT_NOEND;

	for (int i = 0; i < p->ntimes; i++)
	{
		if (p->times[i].time != DT_NOBEGIN)
			p->times[i].time = sagg_floor_ms(p->times[i].time);
		greatest = Max(greatest, p->times[i].time);
	}
	for (int i = 0; i < plan->nbehind; i++)
		bound = Min(bound, sagg_watermark_of(ex->stream, time_of(p, &plan->behind[i])->time));
	return Min(bound, sagg_watermark_of(ex->stream, greatest));
}

/*
 * Returns the watermark by the clock, if the plan says that all partitions are
 * quiet and the batch has found no event time; otherwise DT_NOBEGIN.
 */
static TimestampTz
quiet_watermark(const SaggExecution *ex)
{
	if (ex->any_time || ex->plan->nquiet == 0)
		return DT_NOBEGIN;
	return sagg_watermark_of_clock(ex->stream,
								   sagg_event_time_of_clock(ex->query, ex->plan->batch_time));
}

/*
 * All rows have come: returns the watermark after the batch, which is never
 * less than the one before, and sets the greatest event time of the batch,
 * DT_NOBEGIN if it has none.
 */
TimestampTz
sagg_next_watermark(SaggExecution *ex, int64 *max_time)
{
	TimestampTz next;

	sagg_partitions_end(ex);
	*max_time = ex->any_time ? sagg_floor_ms(ex->max_time) : DT_NOBEGIN;
	if (!ex->stream->has_watermark)
		return ex->plan->watermark;
	if (ex->judged_by_partition)
		next = least_watermark(ex);
	else if (ex->partitions)
		next = Max(aligned_watermark(ex), quiet_watermark(ex));
	else
		next = Max(sagg_watermark_of(ex->stream, *max_time), quiet_watermark(ex));
	return Max(next, ex->plan->watermark);
}

/*
 * Returns the end of the first window that is still open after the batch,
 * DT_NOEND = there is none; called after sagg_execution_close.  "ahead" is by
 * how much the clock's time is greater than that time as an event time.
 */
TimestampTz
sagg_execution_next_end(SaggExecution *ex, int64 *ahead)
{
	*ahead = ex->plan->batch_time - sagg_event_time_of_clock(ex->query, ex->plan->batch_time);
	return sagg_store_next_end(ex->store);
}
