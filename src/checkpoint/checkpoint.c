/*-------------------------------------------------------------------------
 *
 * checkpoint.c
 *	  The checkpoint object, and the record of a batch: its plan, its commit.
 *
 * stream_agg.offsets is the log of planned batches and stream_agg.commits that
 * of done ones; both are insert-only, keyed (stream, batch), and trimmed from
 * their old end.  A plan that is not committed may be replaced by a smaller
 * one, in search of a record that cannot be processed; a committed one never
 * is.  A row of commits is written in the transaction that also writes the
 * batch's results and state (I1), and only as the successor of the last one
 * (I2): that is the compare-and-set which a stale worker fails.
 *
 * A checkpoint object belongs to one worker and outlives transactions.  What
 * it remembers of the logs is provisional from sagg_checkpoint_commit until
 * the caller says that the transaction committed.  It never waits for Kafka
 * and runs no user's code as the extension's owner (I8).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "streams/streams.h"
#include "checkpoint_internal.h"

/* old batches removed by one batch, at most */
#define TRIM_BATCHES	10

/*
 * Open the checkpoint of a stream.  Allocated in the current memory context,
 * which must outlive transactions.  Reads nothing yet. "by_topic": offsets are
 * written in the form that names topics, because the source has several.
 */
SaggCheckpoint *
sagg_checkpoint_open(const char *stream, bool by_topic)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "stream_agg checkpoint",
												  ALLOCSET_SMALL_SIZES);
	SaggCheckpoint *checkpoint = MemoryContextAllocZero(context,
														sizeof(SaggCheckpoint));

	checkpoint->context = context;
	checkpoint->stream = MemoryContextStrdup(context, stream);
	checkpoint->by_topic = by_topic;
	return checkpoint;
}

/*
 * Open a checkpoint that is only read, as the active snapshot sees it: all of
 * one commit, whatever the worker does meanwhile.  It is used and closed
 * within one query of the caller, and writes nothing.
 */
SaggCheckpoint *
sagg_checkpoint_open_snapshot(const char *stream)
{
	SaggCheckpoint *checkpoint = sagg_checkpoint_open(stream, false);

	checkpoint->as_of_snapshot = true;
	return checkpoint;
}

/*
 * Free a checkpoint object.  Needs no transaction.
 */
void
sagg_checkpoint_close(SaggCheckpoint *checkpoint)
{
	for (int i = 0; i < SAGG_LOG_STATEMENTS; i++)
	{
		if (checkpoint->statements[i])
			SPI_freeplan(checkpoint->statements[i]);
	}
	MemoryContextDelete(checkpoint->context);
}

/*
 * Raise the error for a batch that another worker has planned or committed, or
 * whose predecessor is not the last committed one (I2).
 */
static void
raise_fenced(const SaggCheckpoint *checkpoint, int64 batch, const char *done)
{
	const char *stream = checkpoint->stream;
	int64		last = sagg_log_last_batch(checkpoint);

	ereport(ERROR,
			(errcode(ERRCODE_SAGG_FENCED),
			 last < batch - 1 ?
			 errmsg("micro-batch " INT64_FORMAT " of stream \"%s\" cannot follow micro-batch " INT64_FORMAT,
					batch, sagg_stream_title(stream), last) :
			 errmsg("micro-batch " INT64_FORMAT " of stream \"%s\" is already %s",
					batch, sagg_stream_title(stream), done),
			 last < 0 ?
			 errdetail("No micro-batch of the stream is committed.") :
			 errdetail("The last committed micro-batch is " INT64_FORMAT ".", last),
			 errhint("Another worker has run the stream, or its checkpoint was restored to an earlier point; start the stream again to continue from there.")));
}

static void
set_value(SaggLogValue *value, const char *column, Datum datum)
{
	value->column = column;
	value->value = datum;
	value->isnull = false;
}

/*
 * Set the values of a plan, SAGG_OFFSETS_COLUMNS, in the current memory context.
 */
static void
describe_plan(const SaggCheckpoint *checkpoint, const SaggPlan *plan, SaggLogValue *values)
{
	bool		by_topic = sagg_names_topics(checkpoint);

	set_value(&values[SAGG_OFFSETS_STREAM], "stream", CStringGetTextDatum(checkpoint->stream));
	set_value(&values[SAGG_OFFSETS_BATCH], "batch", Int64GetDatum(plan->batch));
	set_value(&values[SAGG_OFFSETS_RANGES], "ranges",
			  sagg_ranges_to_jsonb(plan->ranges, plan->nranges, by_topic));
	set_value(&values[SAGG_OFFSETS_WATERMARK], "watermark", TimestampTzGetDatum(plan->watermark));
	set_value(&values[SAGG_OFFSETS_BATCH_TIME], "batch_time", TimestampTzGetDatum(plan->batch_time));
	set_value(&values[SAGG_OFFSETS_SUSPECTS], "suspects",
			  sagg_ranges_to_jsonb(plan->suspects, plan->nsuspects, by_topic));
	values[SAGG_OFFSETS_SUSPECTS].isnull = plan->nsuspects == 0;
	set_value(&values[SAGG_OFFSETS_ATTEMPTS], "attempts", Int32GetDatum(plan->attempts));
	set_value(&values[SAGG_OFFSETS_SKIPPED], "skipped",
			  sagg_ranges_to_jsonb(plan->skipped, plan->nskipped, by_topic));
	set_value(&values[SAGG_OFFSETS_QUIET], "quiet",
			  sagg_offsets_to_jsonb(plan->quiet, plan->nquiet, by_topic));
	set_value(&values[SAGG_OFFSETS_BEHIND], "behind",
			  sagg_offsets_to_jsonb(plan->behind, plan->nbehind, by_topic));
	set_value(&values[SAGG_OFFSETS_DEALT], "dealt",
			  sagg_offsets_to_jsonb(plan->dealt, plan->ndealt, by_topic));
}

/*
 * Write the plan of a batch into the log.  Raises ERRCODE_SAGG_FENCED if that
 * batch is planned already or is not the next one.  Leaves garbage in the current
 * context.
 */
void
sagg_checkpoint_plan(SaggCheckpoint *checkpoint, const SaggPlan *plan)
{
	SaggLogValue values[SAGG_OFFSETS_COLUMNS];

	if (sagg_log_last_batch(checkpoint) != plan->batch - 1 ||
		sagg_log_last_plan(checkpoint) >= plan->batch)
		raise_fenced(checkpoint, plan->batch, "planned");
	describe_plan(checkpoint, plan, values);
	sagg_log_insert("offsets", values, SAGG_OFFSETS_COLUMNS);
}

/*
 * Replace the plan of a batch.  Raises ERRCODE_SAGG_FENCED if the batch has no
 * plan or is committed.
 */
void
sagg_checkpoint_replan(SaggCheckpoint *checkpoint, const SaggPlan *plan)
{
	SaggLogSection section;
	SaggLogValue columns[SAGG_OFFSETS_COLUMNS];
	Datum		values[SAGG_OFFSETS_COLUMNS];
	char		nulls[SAGG_OFFSETS_COLUMNS];

	sagg_log_begin(&section, checkpoint);
	describe_plan(checkpoint, plan, columns);
	for (int i = 0; i < SAGG_OFFSETS_COLUMNS; i++)
	{
		values[i] = columns[i].value;
		nulls[i] = columns[i].isnull ? 'n' : ' ';
	}
	if (sagg_log_execute(&section, SAGG_LOG_REPLACE_PLAN, values, nulls, 0) != 1)
		raise_fenced(checkpoint, plan->batch, "committed");
	sagg_log_end(&section);
}

/*
 * Check that the batch follows what the stream has committed.  Anything else
 * is a mistake of the caller, which must not reach the logs.
 */
static void
check_successor(const SaggProgress *before, const SaggPlan *plan,
				const SaggCommit *commit)
{
	if (plan->batch != before->batch + 1)
		elog(ERROR, "micro-batch " INT64_FORMAT " does not follow micro-batch " INT64_FORMAT,
			 plan->batch, before->batch);
	if (commit->watermark < before->watermark)
		elog(ERROR, "the watermark would go back");
	if (!sagg_counts_add_up(&commit->counts))
		elog(ERROR, "the counts of micro-batch " INT64_FORMAT " do not add up",
			 plan->batch);
}

/*
 * Returns what a plan skips of a partition that the last commit left at the
 * start of "position", or NULL.
 */
const SaggRange *
sagg_skip_of(const SaggPlan *plan, const SaggRange *position)
{
	for (int i = 0; i < plan->nskipped; i++)
	{
		if (sagg_partition_compare(&plan->skipped[i], position) == 0 &&
			plan->skipped[i].start == position->start)
			return &plan->skipped[i];
	}
	return NULL;
}

static int64
offsets_between(const SaggRange *ranges, int n)
{
	int64		sum = 0;

	for (int i = 0; i < n; i++)
		sum = sagg_add_saturated(sum, Max(ranges[i].end - ranges[i].start, 0));
	return sum;
}

/*
 * Returns how many offsets a batch skipped because the source did not have
 * them.
 */
static int64
skipped_offsets(const SaggPlan *plan, const SaggCommit *commit)
{
	return sagg_add_saturated(offsets_between(plan->skipped, plan->nskipped),
							  offsets_between(commit->losses, commit->nlosses));
}

/*
 * Returns the next offset of each partition after the batch, sorted.
 */
static Datum
offsets_after(const SaggCheckpoint *checkpoint, const SaggProgress *before,
			  const SaggPlan *plan)
{
	SaggRange  *after = palloc(sizeof(SaggRange) *
							   (before->npositions + plan->nranges + 1));
	int			i = 0;
	int			j = 0;
	int			n = 0;

	while (i < before->npositions || j < plan->nranges)
	{
		const SaggRange *position = &before->positions[i];
		const SaggRange *range = &plan->ranges[j];
		int			order = i >= before->npositions ? 1 :
		j >= plan->nranges ? -1 : sagg_partition_compare(position, range);

		if (order < 0)
		{
			after[n++] = *position;
			i++;
			continue;
		}
		if (order == 0)
		{
			const SaggRange *skip = sagg_skip_of(plan, position);

			if (range->start != (skip ? skip->end : position->start))
				elog(ERROR, "partition %d of topic \"%s\" would be read from offset " INT64_FORMAT ", not " INT64_FORMAT,
					 range->partition, sagg_topic_name(range->topic),
					 range->start, position->start);
			i++;
		}
		after[n] = *range;
		after[n++].start = range->end;
		j++;
	}
	return sagg_offsets_to_jsonb(after, n, sagg_names_topics(checkpoint));
}

/*
 * Returns the bytes of the blobs that a stream's state log holds as of its
 * last commit.  Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT as
 * sagg_checkpoint_restore does.
 */
int64
sagg_checkpoint_state_bytes(SaggCheckpoint *checkpoint,
							const SaggProgress *progress)
{
	SaggLogSection section;

	sagg_log_begin(&section, checkpoint);
	sagg_chains_learn(&section, progress->batch, NULL);
	sagg_log_end(&section);
	return checkpoint->sizes.bytes;
}

/*
 * Read the sizes of the logs as of the last commit, from the tables.  With
 * "state", each unit of the state is made known to it.
 */
void
sagg_checkpoint_learn(SaggLogSection *section, int64 last_commit,
					  const SaggStateAccess *state)
{
	SaggCheckpoint *checkpoint = section->checkpoint;
	SaggLogSizes *sizes = &checkpoint->sizes;
	Datum		values[1];
	Datum		oldest;
	bool		isnull;

	sizes->delta_bytes = 0;
	sagg_chains_learn(section, last_commit, state);
	(void) sagg_log_execute(section, SAGG_LOG_OLDEST_BATCH, values, NULL, 1);
	oldest = sagg_log_value(0, 1, &isnull);
	sizes->oldest = isnull ? 0 : DatumGetInt64(oldest);
	checkpoint->known = true;
}

/*
 * Remove old batches, several at a time: when there is a tenth more of them than the last
 * stream_agg.keep_batches, which stay and always include this one.
 */
static void
trim(SaggCheckpoint *checkpoint, int64 batch, SaggLogSizes *sizes)
{
	int64		surplus = batch + 1 - sagg_keep_batches - sizes->oldest;
	int64		end = sizes->oldest + Min(surplus, TRIM_BATCHES);
	SaggLogSection section;
	Datum		values[3];

	if (surplus < Min(TRIM_BATCHES, Max(1, sagg_keep_batches / 10)))
		return;
	sagg_log_begin(&section, checkpoint);
	values[1] = Int64GetDatum(sizes->oldest);
	values[2] = Int64GetDatum(end);
	(void) sagg_log_execute(&section, SAGG_LOG_TRIM_OFFSETS, values, NULL, 0);
	(void) sagg_log_execute(&section, SAGG_LOG_TRIM_COMMITS, values, NULL, 0);
	sagg_log_end(&section);
	sizes->oldest = end;
}

static double
milliseconds(int64 microseconds)
{
	return microseconds / 1000.0;
}

/* the columns of stream_agg.commits that are no counters */
#define COMMIT_COLUMNS	16

/*
 * Set the values of the batch's counters and of their totals after it.  Returns how many
 * there are, 2 * SAGG_COUNTERS at most.
 */
static int
describe_counters(const SaggCounts *before, const SaggCounts *counts, SaggLogValue *values)
{
	SaggCounts	after = *before;
	int			n = 0;

	sagg_counts_add(&after, counts);
	for (int i = 0; i < SAGG_COUNTERS; i++)
	{
		if (sagg_counters[i].column)
			set_value(&values[n++], sagg_counters[i].column,
					  Int64GetDatum(sagg_counter_value(counts, i)));
		set_value(&values[n++], sagg_counters[i].total,
				  Int64GetDatum(sagg_counter_value(&after, i)));
	}
	return n;
}

/*
 * Insert the batch's row of stream_agg.commits.
 */
static void
insert_commit(const SaggCheckpoint *checkpoint, const SaggProgress *before,
			  const SaggPlan *plan, const SaggCommit *commit,
			  int64 state_blobs)
{
	const int64 *time = commit->stage_time;
	bool		by_topic = sagg_names_topics(checkpoint);
	SaggLogValue values[COMMIT_COLUMNS + 2 * SAGG_COUNTERS];
	int			n = 0;

	set_value(&values[n++], "stream", CStringGetTextDatum(checkpoint->stream));
	set_value(&values[n++], "batch", Int64GetDatum(plan->batch));
	set_value(&values[n++], "offsets", offsets_after(checkpoint, before, plan));
	set_value(&values[n++], "watermark", TimestampTzGetDatum(commit->watermark));
	n += describe_counters(&before->totals, &commit->counts, values + n);
	set_value(&values[n++], "state_blobs", Int64GetDatum(state_blobs));
	set_value(&values[n++], "read_time", Float8GetDatum(milliseconds(time[SAGG_READ])));
	set_value(&values[n++], "execute_time", Float8GetDatum(milliseconds(time[SAGG_EXECUTE])));
	set_value(&values[n++], "write_time", Float8GetDatum(milliseconds(time[SAGG_WRITE])));
	set_value(&values[n++], "checkpoint_time",
			  Float8GetDatum(milliseconds(time[SAGG_CHECKPOINT])));
	set_value(&values[n++], "committed", TimestampTzGetDatum(GetCurrentTimestamp()));
	set_value(&values[n++], "last_records",
			  sagg_ranges_to_jsonb(commit->last, commit->nlast, by_topic));
	set_value(&values[n++], "skipped", sagg_skips_to_jsonb(plan, commit, by_topic));
	set_value(&values[n++], "max_event_time", TimestampTzGetDatum(commit->max_time));
	set_value(&values[n++], "event_times",
			  sagg_times_to_jsonb(commit->times, commit->ntimes, false, by_topic));
	set_value(&values[n++], "active_times",
			  sagg_times_to_jsonb(commit->times, commit->ntimes, true, by_topic));
	Assert(n <= lengthof(values));
	sagg_log_insert("commits", values, n);
}

/*
 * Raise the error of a stale worker, unless the last commit is that before the batch.
 */
static void
check_follows(const SaggCheckpoint *checkpoint, const SaggProgress *before,
			  const SaggPlan *plan)
{
	if (sagg_log_last_batch(checkpoint) != before->batch)
		raise_fenced(checkpoint, plan->batch, "committed");
}

/*
 * CHECKPOINT of a batch, the last stage before the caller's COMMIT: the state
 * that changed, the batch's record, and the trimming of the logs.  "before" is
 * the stream's progress without this batch.  Adds the time spent to
 * commit->stage_time, and counts skipped offsets.  The caller then reports sagg_checkpoint_published or
 * sagg_checkpoint_aborted.
 *
 * Raises ERRCODE_SAGG_FENCED if the batch is committed already or is not the
 * next one, ERRCODE_SAGG_CHECKPOINT_CORRUPT if the state log does not hold
 * what the last commit left.
 */
void
sagg_checkpoint_commit(SaggCheckpoint *checkpoint, const SaggProgress *before,
					   const SaggPlan *plan, SaggCommit *commit,
					   const SaggStateAccess *state)
{
	SaggLogSection section;
	int64		state_blobs;
	instr_time	started;
	instr_time	spent;

	INSTR_TIME_SET_CURRENT(started);
	check_successor(before, plan, commit);
	commit->counts.skipped = skipped_offsets(plan, commit);

	/* A stale worker fails here or, in a close race, by the key of its row. */
	check_follows(checkpoint, before, plan);
	if (!checkpoint->known)
	{
		sagg_log_begin(&section, checkpoint);
		sagg_checkpoint_learn(&section, before->batch, NULL);
		sagg_log_end(&section);
	}

	checkpoint->in_commit = true;
	state_blobs = sagg_state_log_write(checkpoint, plan->batch, state);

	SAGG_FAILPOINT("checkpoint.state_written");
	trim(checkpoint, plan->batch, &checkpoint->sizes);
	INSTR_TIME_SET_CURRENT(spent);
	INSTR_TIME_SUBTRACT(spent, started);
	commit->stage_time[SAGG_CHECKPOINT] += INSTR_TIME_GET_MICROSEC(spent);
	SAGG_FAILPOINT("checkpoint.commit_before");
	insert_commit(checkpoint, before, plan, commit, state_blobs);
	SAGG_FAILPOINT("checkpoint.commit_after");
}

/*
 * The transaction of sagg_checkpoint_commit committed.  Cannot fail.
 */
void
sagg_checkpoint_published(SaggCheckpoint *checkpoint)
{
	Assert(checkpoint->in_commit);
	checkpoint->in_commit = false;
}

/*
 * A transaction that used the checkpoint aborted, or may have.  What the
 * object remembers of the logs will be read again.  Cannot fail, needs no
 * transaction.
 */
void
sagg_checkpoint_aborted(SaggCheckpoint *checkpoint)
{
	sagg_spill_end(checkpoint, false);
	if (checkpoint->in_commit)
		checkpoint->known = false;
	checkpoint->in_commit = false;
}
