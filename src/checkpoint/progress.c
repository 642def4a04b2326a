/*-------------------------------------------------------------------------
 *
 * progress.c
 *	  The progress of a stream, from its logs: origin, last commit, pending
 *	  plan.
 *
 * A stream begins at its origin - the cluster, topic and first offsets of
 * stream_agg.sources - and continues where its last commit left it.  A plan
 * without a commit is pending and is run again.  Recovery is reading these
 * rows, nothing else; rows that contradict each other stop the stream with an
 * error that names them (I5).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "streams/streams.h"
#include "checkpoint_internal.h"

static void
corrupt_row(const SaggCheckpoint *checkpoint, const char *table, int64 batch,
			const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
			 errmsg("row of stream \"%s\", micro-batch " INT64_FORMAT " in stream_agg.%s is corrupt",
					sagg_stream_title(checkpoint->stream), batch, table),
			 errdetail_internal("%s", detail),
			 errhint(SAGG_HINT_REBUILD)));
}

static void
no_source_row(const SaggCheckpoint *checkpoint)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
			 errmsg("stream_agg.sources has no row of stream \"%s\"",
					sagg_stream_title(checkpoint->stream)),
			 errdetail("The stream has rows in stream_agg.offsets, commits or state: part of its checkpoint is missing."),
			 errhint(SAGG_HINT_REBUILD)));
}

/*
 * Returns whether offsets are written in the form that names topics.
 * Otherwise all of them are of the stream's one topic.
 */
bool
sagg_names_topics(const SaggCheckpoint *checkpoint)
{
	return checkpoint->by_topic || checkpoint->topic == NULL;
}

static void
remember_topic(SaggCheckpoint *checkpoint, const char *topic)
{
	if (topic && checkpoint->topic == NULL)
		checkpoint->topic = MemoryContextStrdup(checkpoint->context, topic);
}

/*
 * Where the stream began, in the memory context of the section's caller; empty
 * before the first sagg_checkpoint_set_origin.  A stream without a row of its
 * origin has no other rows.
 */
static SaggOrigin *
read_origin(SaggLogSection *section)
{
	SaggCheckpoint *checkpoint = section->checkpoint;
	MemoryContext old;
	SaggOrigin *origin;
	Datum		values[1];
	Datum		value;
	bool		isnull;

	origin = MemoryContextAllocZero(section->caller, sizeof(SaggOrigin));
	if (sagg_log_execute(section, SAGG_LOG_READ_ORIGIN, values, NULL, 1) == 0)
	{
		if (sagg_log_execute(section, SAGG_LOG_IS_EMPTY, values, NULL, 1) == 0)
			no_source_row(checkpoint);
		return origin;
	}

	old = MemoryContextSwitchTo(section->caller);
	value = sagg_log_value(0, 1, &isnull);
	if (!isnull)
		origin->topic = TextDatumGetCString(value);
	remember_topic(checkpoint, origin->topic);
	value = sagg_log_value(0, 2, &isnull);
	if (isnull)
	{
		/* after a reset, before the stream has begun again */
		MemoryContextSwitchTo(old);
		return origin;
	}
	origin->cluster_id = TextDatumGetCString(value);
	value = sagg_log_value(0, 3, &isnull);
	if (!sagg_offsets_from_jsonb(DatumGetJsonbP(value), origin->topic,
								 &origin->offsets, &origin->noffsets))
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
				 errmsg("initial offsets of stream \"%s\" in stream_agg.sources are corrupt",
						sagg_stream_title(checkpoint->stream)),
				 errhint(SAGG_HINT_REBUILD)));
	MemoryContextSwitchTo(old);
	return origin;
}

/*
 * Where the stream began.  Allocated in the current memory context. cluster_id
 * is NULL, and there are no offsets, before the first call of
 * sagg_checkpoint_set_origin, or the first after a reset.  Raises
 * ERRCODE_SAGG_CHECKPOINT_CORRUPT if the origin is missing but other rows are
 * there.
 */
SaggOrigin *
sagg_checkpoint_origin(SaggCheckpoint *checkpoint)
{
	SaggLogSection section;
	SaggOrigin *origin;

	sagg_log_begin(&section, checkpoint);
	origin = read_origin(&section);
	sagg_log_end(&section);
	return origin;
}

/*
 * Returns the offsets of an origin, sorted; partitions that are in "recorded"
 * get the offsets recorded there.
 */
static SaggRange *
merge_offsets(const SaggOrigin *recorded, const SaggOrigin *origin, int *n)
{
	SaggRange  *merged = palloc(sizeof(SaggRange) *
								(recorded->noffsets + origin->noffsets + 1));
	int			i = 0;
	int			j = 0;

	*n = 0;
	while (i < recorded->noffsets || j < origin->noffsets)
	{
		int			order = i >= recorded->noffsets ? 1 : j >= origin->noffsets ? -1 :
		sagg_partition_compare(&recorded->offsets[i], &origin->offsets[j]);

		merged[(*n)++] = order <= 0 ? recorded->offsets[i++] : origin->offsets[j];
		if (order >= 0)
			j++;
	}
	return merged;
}

/*
 * Record the origin at the first contact with Kafka, or initial offsets of
 * partitions that the source has got since then; those already recorded never
 * change.  Offsets are sorted; cluster_id must not be NULL.
 */
void
sagg_checkpoint_set_origin(SaggCheckpoint *checkpoint, const SaggOrigin *origin)
{
	SaggLogSection section;
	SaggOrigin *recorded;
	SaggRange  *offsets;
	int			noffsets;
	Datum		values[4];
	char		nulls[5] = "    ";

	sagg_log_begin(&section, checkpoint);
	recorded = read_origin(&section);
	remember_topic(checkpoint, origin->topic);
	offsets = merge_offsets(recorded, origin, &noffsets);
	if (origin->topic)
		values[1] = CStringGetTextDatum(origin->topic);
	else
		nulls[1] = 'n';
	values[2] = CStringGetTextDatum(origin->cluster_id);
	values[3] = sagg_offsets_to_jsonb(offsets, noffsets,
									  sagg_names_topics(checkpoint));
	if (sagg_log_execute(&section, SAGG_LOG_SET_ORIGIN, values, nulls, 0) != 1)
		elog(ERROR, "the origin of stream \"%s\" has another topic or cluster",
			 sagg_stream_title(checkpoint->stream));
	sagg_log_end(&section);
}

/*
 * The watermark of a stream that has not committed yet, or was reset.
 */
TimestampTz
sagg_log_initial_watermark(SaggLogSection *section)
{
	Datum		values[1];

	if (sagg_log_execute(section, SAGG_LOG_INITIAL_WATERMARK, values, NULL, 1) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("stream \"%s\" does not exist",
						sagg_stream_title(section->checkpoint->stream))));
	return sagg_log_int64(0, 1);
}

/*
 * Read event times as the last commit left them, from the current row.
 */
static void
read_event_times(SaggLogSection *section, SaggProgress *progress)
{
	MemoryContext old;
	Datum		event_times;
	Datum		active_times;
	bool		isnull;

	progress->max_time = sagg_log_int64(0, SAGG_COMMIT_MAX_TIME);
	event_times = sagg_log_value(0, SAGG_COMMIT_EVENT_TIMES, &isnull);
	active_times = sagg_log_value(0, SAGG_COMMIT_ACTIVE_TIMES, &isnull);
	old = MemoryContextSwitchTo(section->caller);
	if (!sagg_times_from_jsonb(DatumGetJsonbP(event_times), DatumGetJsonbP(active_times),
							   section->checkpoint->topic,
							   &progress->times, &progress->ntimes))
		corrupt_row(section->checkpoint, "commits", progress->batch,
					"Its event times are not an object of times by partition.");
	MemoryContextSwitchTo(old);
}

/*
 * Read the last commit into "progress", which stays unchanged if there is
 * none.
 */
static void
read_last_commit(SaggLogSection *section, SaggProgress *progress)
{
	SaggCheckpoint *checkpoint = section->checkpoint;
	SaggCounts *totals = &progress->totals;
	MemoryContext old;
	Datum		values[1];
	Datum		offsets;
	bool		isnull;

	if (sagg_log_execute(section, SAGG_LOG_LAST_COMMIT, values, NULL, 1) == 0)
		return;
	progress->batch = sagg_log_int64(0, SAGG_COMMIT_BATCH);
	progress->watermark = sagg_log_int64(0, SAGG_COMMIT_WATERMARK);
	for (int i = 0; i < SAGG_COUNTERS; i++)
		*sagg_counter(totals, i) = sagg_log_int64(0, SAGG_COMMIT_TOTALS + i);
	progress->committed = sagg_log_int64(0, SAGG_COMMIT_TIME);
	progress->replace = DatumGetBool(sagg_log_value(0, SAGG_COMMIT_REPLACE, &isnull));

	offsets = sagg_log_value(0, SAGG_COMMIT_OFFSETS, &isnull);
	old = MemoryContextSwitchTo(section->caller);
	if (!sagg_offsets_from_jsonb(DatumGetJsonbP(offsets), checkpoint->topic,
								 &progress->positions, &progress->npositions))
		corrupt_row(checkpoint, "commits", progress->batch,
					"Its offsets are not an object of offsets by partition.");
	offsets = sagg_log_value(0, SAGG_COMMIT_LAST_RECORDS, &isnull);
	if (!isnull && !sagg_ranges_from_jsonb(DatumGetJsonbP(offsets), checkpoint->topic,
										   &progress->last, &progress->nlast))
		corrupt_row(checkpoint, "commits", progress->batch,
					"Its last records are not an object of offset and timestamp by partition.");
	MemoryContextSwitchTo(old);
	read_event_times(section, progress);

	if (progress->watermark == DT_NOEND)
		corrupt_row(checkpoint, "commits", progress->batch,
					"Its watermark is infinity.");
	if (!sagg_counts_add_up(totals))
		corrupt_row(checkpoint, "commits", progress->batch,
					"Its total counts do not add up to the records delivered.");
}

/*
 * Returns row "row" of SAGG_LOG_PLANS_SINCE as a plan, in the memory context
 * of the section's caller.
 */
static SaggPlan *
plan_of_row(SaggLogSection *section, int row)
{
	MemoryContext old = MemoryContextSwitchTo(section->caller);
	SaggPlan   *plan = palloc0(sizeof(SaggPlan));
	Datum		ranges;
	Datum		suspects;
	Datum		skipped;
	Datum		quiet;
	Datum		behind;
	Datum		dealt;
	bool		isnull;

	plan->batch = sagg_log_int64(row, SAGG_OFFSETS_BATCH);
	plan->watermark = sagg_log_int64(row, SAGG_OFFSETS_WATERMARK);
	plan->batch_time = sagg_log_int64(row, SAGG_OFFSETS_BATCH_TIME);
	ranges = sagg_log_value(row, SAGG_OFFSETS_RANGES, &isnull);
	if (!sagg_ranges_from_jsonb(DatumGetJsonbP(ranges), section->checkpoint->topic,
								&plan->ranges, &plan->nranges))
		corrupt_row(section->checkpoint, "offsets", plan->batch,
					"Its ranges are not an object of offset pairs by partition.");
	for (int i = 0; i < plan->nranges; i++)
	{
		if (plan->ranges[i].start > plan->ranges[i].end)
			corrupt_row(section->checkpoint, "offsets", plan->batch,
						"A range ends before it starts.");
	}
	suspects = sagg_log_value(row, SAGG_OFFSETS_SUSPECTS, &isnull);
	if (!isnull && !sagg_ranges_from_jsonb(DatumGetJsonbP(suspects),
										   section->checkpoint->topic,
										   &plan->suspects, &plan->nsuspects))
		corrupt_row(section->checkpoint, "offsets", plan->batch,
					"Its suspects are not an object of offset pairs by partition.");
	plan->attempts = DatumGetInt32(sagg_log_value(row, SAGG_OFFSETS_ATTEMPTS, &isnull));
	skipped = sagg_log_value(row, SAGG_OFFSETS_SKIPPED, &isnull);
	if (!sagg_ranges_from_jsonb(DatumGetJsonbP(skipped), section->checkpoint->topic,
								&plan->skipped, &plan->nskipped))
		corrupt_row(section->checkpoint, "offsets", plan->batch,
					"What it skips is not an object of offset pairs by partition.");
	quiet = sagg_log_value(row, SAGG_OFFSETS_QUIET, &isnull);
	if (!sagg_offsets_from_jsonb(DatumGetJsonbP(quiet), section->checkpoint->topic,
								 &plan->quiet, &plan->nquiet))
		corrupt_row(section->checkpoint, "offsets", plan->batch,
					"Its quiet partitions are not an object of offsets by partition.");
	behind = sagg_log_value(row, SAGG_OFFSETS_BEHIND, &isnull);
	if (!sagg_offsets_from_jsonb(DatumGetJsonbP(behind), section->checkpoint->topic,
								 &plan->behind, &plan->nbehind))
		corrupt_row(section->checkpoint, "offsets", plan->batch,
					"The partitions it leaves behind are not an object of offsets by partition.");
	dealt = sagg_log_value(row, SAGG_OFFSETS_DEALT, &isnull);
	if (!sagg_offsets_from_jsonb(DatumGetJsonbP(dealt), section->checkpoint->topic,
								 &plan->dealt, &plan->ndealt))
		corrupt_row(section->checkpoint, "offsets", plan->batch,
					"Its executors are not an object of numbers by partition.");
	MemoryContextSwitchTo(old);
	return plan;
}

static bool
has_suspects(int row)
{
	bool		isnull;

	(void) sagg_log_value(row, SAGG_OFFSETS_SUSPECTS, &isnull);
	return !isnull;
}

/*
 * Check that a pending plan continues where the last commit, or the origin,
 * ends.
 */
static void
check_plan(SaggCheckpoint *checkpoint, const SaggOrigin *origin,
		   const SaggProgress *progress, const SaggPlan *plan)
{
	if (plan->watermark != progress->watermark)
		corrupt_row(checkpoint, "offsets", plan->batch,
					"Its watermark is not the one that the last commit left.");
	for (int i = 0; i < plan->nranges; i++)
	{
		const SaggRange *range = &plan->ranges[i];
		const SaggRange *before = sagg_partition_find(progress->positions,
													  progress->npositions, range);

		const SaggRange *skip;
		int64		start = -1;

		if (before == NULL)
			before = sagg_partition_find(origin->offsets, origin->noffsets, range);
		if (before)
		{
			skip = sagg_skip_of(plan, before);
			start = skip ? skip->end : before->start;
		}
		if (range->start != start)
			corrupt_row(checkpoint, "offsets", plan->batch,
						psprintf("It reads partition %d of topic \"%s\" from offset " INT64_FORMAT ", the last commit ends at " INT64_FORMAT ".",
								 range->partition, sagg_topic_name(range->topic),
								 range->start, start));
	}
}

/*
 * Set what is left of the suspects (offsets among which a bad record is
 * searched) of a committed plan, in "context".
 */
void
sagg_progress_suspects(SaggProgress *progress, const SaggPlan *plan,
					   MemoryContext context)
{
	int			n = 0;

	if (progress->suspects)
		pfree(progress->suspects);
	progress->suspects = NULL;
	progress->nsuspects = 0;
	if (plan->nsuspects == 0)
		return;
	progress->suspects = MemoryContextAlloc(context,
											sizeof(SaggRange) * plan->nsuspects);
	for (int i = 0; i < plan->nsuspects; i++)
	{
		SaggRange	left = plan->suspects[i];

		for (int j = 0; j < plan->nranges; j++)
		{
			if (sagg_partition_compare(&plan->ranges[j], &left) == 0)
				left.start = Max(left.start, plan->ranges[j].end);
		}
		if (left.start < left.end)
			progress->suspects[n++] = left;
	}
	progress->nsuspects = n;
}

/*
 * Read the plans since the last commit: its own, and a pending one if there is
 * any.
 */
static void
read_pending_plan(SaggLogSection *section, const SaggOrigin *origin,
				  SaggProgress *progress)
{
	SaggCheckpoint *checkpoint = section->checkpoint;
	Datum		values[2];
	int64		rows;

	values[1] = Int64GetDatum(progress->batch);
	rows = sagg_log_execute(section, SAGG_LOG_PLANS_SINCE, values, NULL, 3);
	for (int i = 0; i < rows; i++)
	{
		int64		batch = sagg_log_int64(i, SAGG_OFFSETS_BATCH);

		if (batch > progress->batch + 1)
			corrupt_row(checkpoint, "offsets", batch,
						psprintf("It is planned, and the last committed micro-batch is " INT64_FORMAT ".",
								 progress->batch));
		if (batch == progress->batch + 1)
			progress->pending = plan_of_row(section, i);
		else if (has_suspects(i))
			sagg_progress_suspects(progress, plan_of_row(section, i),
								   section->caller);
	}
	if (progress->batch >= 0 &&
		(rows == 0 || sagg_log_int64(0, SAGG_OFFSETS_BATCH) != progress->batch))
		corrupt_row(checkpoint, "commits", progress->batch,
					"It is committed, and stream_agg.offsets has no plan of it.");
	if (progress->pending)
		check_plan(checkpoint, origin, progress, progress->pending);
}

/*
 * Returns the progress of the stream.  Allocated in the current memory
 * context.  Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT for rows that cannot be
 * read or contradict each other.
 */
SaggProgress *
sagg_checkpoint_progress(SaggCheckpoint *checkpoint)
{
	SaggProgress *progress = palloc0(sizeof(SaggProgress));
	SaggLogSection section;
	SaggOrigin *origin;

	sagg_log_begin(&section, checkpoint);
	origin = read_origin(&section);
	progress->batch = -1;
	progress->committed = DT_NOBEGIN;
	progress->watermark = sagg_log_initial_watermark(&section);
	progress->max_time = DT_NOBEGIN;
	read_last_commit(&section, progress);
	read_pending_plan(&section, origin, progress);
	sagg_log_end(&section);
	return progress;
}
