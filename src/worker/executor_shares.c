/*-------------------------------------------------------------------------
 *
 * executor_shares.c
 *	  The executors' part of a micro-batch, as the stream's worker sees it.
 *
 * Executors read while the worker reads, outside of its transaction.  They execute
 * while it executes its own share, with the snapshot of its transaction.  Then it
 * takes what they have made, one executor after the other, so that what depends on
 * the order of records does not depend on which executor is the fastest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "streams/streams.h"
#include "executor_pool.h"

/*
 * Add an executor's losses to those of the others.
 */
static void
add_losses(SaggExecutors *executors, const SaggRange *losses, int n)
{
	executors->losses = executors->losses ?
		repalloc(executors->losses, sizeof(SaggRange) * Max(executors->nlosses + n, 1)) :
		palloc(sizeof(SaggRange) * Max(n, 1));
	memcpy(executors->losses + executors->nlosses, losses, sizeof(SaggRange) * n);
	executors->nlosses += n;
}

/*
 * Have executors read their ranges of a plan.  Returns those of the stream's own
 * reader, in batch memory, "n" of them.
 */
const SaggRange *
sagg_executors_read(SaggReading *reading, const SaggPlan *plan, bool skips, int *n)
{
	SaggExecutors *executors = reading->executors;

	*n = plan->nranges;
	if (executors == NULL)
		return plan->ranges;
	executors->broken = false;
	executors->schemas_asked = 0;
	executors->nlosses = 0;
	executors->losses = NULL;
	executors->group_memory = 0;
	executors->first_rejected = NULL;
	for (int i = 0; i < executors->n; i++)
	{
		SaggExecutor *executor = &executors->list[i];
		StringInfoData command;
		SaggRange  *ranges = sagg_executor_ranges(reading, executor->number, plan->ranges,
												  plan->nranges, &executor->nranges);

		executor->records = executor->rejected = executor->late = 0;
		executor->nlast = 0;
		executor->reading = executor->nranges > 0;
		if (!executor->reading)
			continue;
		initStringInfo(&command);
		sagg_put_int(&command, plan->batch);
		sagg_put_int(&command, skips);
		sagg_put_int(&command, sagg_reading_replaces(reading));
		sagg_put_ranges(&command, ranges, executor->nranges);
		sagg_executor_send(reading, executor, SAGG_TO_READ, &command);
	}
	return sagg_executor_ranges(reading, 0, plan->ranges, plan->nranges, n);
}

static void
take_read(SaggExecutors *executors, SaggExecutor *executor, StringInfo message)
{
	int			asked;
	int			nlosses;
	SaggRange  *losses;

	executor->reading = false;
	executor->records = sagg_get_int(message);
	executors->broken |= sagg_get_int(message) != 0;
	asked = (int) sagg_get_int(message);
	executors->schemas_asked = Max(executors->schemas_asked, asked);
	losses = sagg_get_ranges(message, &nlosses);
	add_losses(executors, losses, nlosses);
	executor->last = sagg_get_ranges(message, &executor->nlast);
}

/*
 * Returns whether all executors have read their ranges.  Does not wait; raises the
 * error of one that has failed.  In batch memory.
 */
bool
sagg_executors_collect(SaggReading *reading)
{
	SaggExecutors *executors = reading->executors;
	bool		complete = true;

	for (int i = 0; executors && i < executors->n; i++)
	{
		SaggExecutor *executor = &executors->list[i];
		StringInfoData message;
		char		type = sagg_executor_receive(reading, executor, false, &message);

		if (type != '\0' && !(executor->reading && type == SAGG_DONE_READING))
			elog(ERROR, "an executor replies '%c' while it reads", type);
		if (type != '\0')
			take_read(executors, executor, &message);
		complete = complete && !executor->reading;
	}
	return complete;
}

/*
 * Returns, in batch memory, the offsets that readers did not have: those of
 * "losses", of the stream's own, and those of executors.
 */
const SaggRange *
sagg_executors_losses(SaggReading *reading, const SaggRange *losses, int *n)
{
	SaggExecutors *executors = reading->executors;

	if (executors == NULL || executors->nlosses == 0)
		return losses;
	add_losses(executors, losses, *n);
	qsort(executors->losses, executors->nlosses, sizeof(SaggRange), sagg_partition_order);
	*n = executors->nlosses;
	return executors->losses;
}

/*
 * Returns, once, whether a connection of an executor was broken in the batch.
 */
bool
sagg_executors_were_broken(SaggReading *reading)
{
	bool		broken = reading->executors && reading->executors->broken;

	if (broken)
		reading->executors->broken = false;
	return broken;
}

/*
 * Returns how much of the schemas that one may ask for an executor has asked for,
 * in percent.
 */
int
sagg_executors_schemas_asked(const SaggReading *reading)
{
	return reading->executors ? reading->executors->schemas_asked : 0;
}

/*
 * Find the last record that an executor has read of a range's partition, as
 * sagg_reader_last_record does; returns false if it has none.
 */
bool
sagg_executors_last_record(const SaggReading *reading, const SaggRange *range, SaggRange *last)
{
	int			number = sagg_executor_of(reading, range);
	const SaggExecutor *executor;
	const SaggRange *found;

	if (number == 0)
		return false;
	executor = &reading->executors->list[number - 1];
	found = sagg_partition_find(executor->last, executor->nlast, range);
	if (found)
		*last = *found;
	return found != NULL;
}

/*
 * Returns the records that executors have read.
 */
int64
sagg_executors_records(const SaggReading *reading)
{
	int64		n = 0;

	for (int i = 0; reading->executors && i < reading->executors->n; i++)
		n += reading->executors->list[i].records;
	return n;
}

/*
 * Returns the event times of the partitions that an executor reads.
 */
static SaggPartitionTime *
times_of(const SaggReading *reading, int number, const SaggCommit *commit, int *n)
{
	SaggPartitionTime *times = palloc(sizeof(SaggPartitionTime) * Max(commit->ntimes, 1));

	*n = 0;
	for (int i = 0; i < commit->ntimes; i++)
	{
		SaggRange	partition = {commit->times[i].topic, commit->times[i].partition, 0, 0};

		if (sagg_executor_of(reading, &partition) == number)
			times[(*n)++] = commit->times[i];
	}
	return times;
}

static void
put_snapshot(SaggShare *share)
{
	Snapshot	snapshot = GetActiveSnapshot();

	share->snapshot_size = EstimateSnapshotSpace(snapshot);
	share->snapshot = palloc(share->snapshot_size);
	SerializeSnapshot(snapshot, share->snapshot);
}

/*
 * Settings as they are now: those of role and database may have changed since this
 * process connected, and an executor may have connected later.
 */
static void
put_settings(SaggShare *share)
{
	share->settings_size = EstimateGUCStateSpace();
	share->settings = palloc0(share->settings_size);
	SerializeGUCState(share->settings_size, share->settings);
}

/*
 * Have executors run the query over what they have read.  commit->times are those
 * before the batch; the others are as for sagg_execution_reject,
 * sagg_execution_keep_late and sagg_execution_bound_rows.  In the batch's
 * transaction, with its snapshot active.
 */
void
sagg_executors_execute(SaggStreamRun *run, const SaggQuery *query, const SaggCommit *commit,
					   Size max_key_bytes, bool keeps_late, bool bound_rows)
{
	SaggReading *reading = run->reading;
	SaggExecutors *executors = reading->executors;
	SaggShare	share = {0};

	if (executors == NULL)
		return;
	share.plan = *run->plan;
	share.fingerprint = query->store_fingerprint;
	share.identity = query->state_identity;
	share.max_key_bytes = max_key_bytes;
	share.keeps_late = keeps_late;
	share.bound_rows = bound_rows;
	sagg_poison_left_out(run, &share.rejected_state, &share.rejected_message,
						 &share.rejected_detail);
	put_snapshot(&share);
	put_settings(&share);
	for (int i = 0; i < executors->n; i++)
	{
		SaggExecutor *executor = &executors->list[i];
		StringInfoData command;

		if (executor->nranges == 0)
			continue;
		share.times = times_of(reading, executor->number, commit, &share.ntimes);
		initStringInfo(&command);
		sagg_put_share(&command, &share);
		sagg_executor_send(reading, executor, SAGG_TO_EXECUTE, &command);
	}
}

/*
 * Run the worker's own share, and what waits for the others.  If an executor fails
 * meanwhile, that is the error that is raised, and it is raised soon.
 */
void
sagg_executors_watch(SaggReading *reading, void (*run) (void *arg), void *arg)
{
	SaggExecutors *executors = reading->executors;
	SaggExecutor *failed;
	MemoryContext memory = CurrentMemoryContext;
	StringInfoData message;

	if (executors == NULL)
	{
		run(arg);
		return;
	}
	sagg_executor_watch_begin(executors);
	PG_TRY();
	{
		run(arg);
	}
	PG_CATCH();
	{
		failed = sagg_executor_watch_end();
		if (failed == NULL || geterrcode() != ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		MemoryContextSwitchTo(memory);
		FlushErrorState();
		while (true)
			(void) sagg_executor_receive(reading, failed, true, &message);
	}
	PG_END_TRY();
	(void) sagg_executor_watch_end();
}

/*
 * Count the records that an executor has rejected.
 */
static void
take_rejected(SaggExecutors *executors, SaggExecutor *executor, SaggRejections *rejections,
			  StringInfo message)
{
	SaggRejection first = {.record = -1};
	char	   *described;

	executor->rejected = sagg_get_int(message);
	if (executor->rejected == 0)
		return;
	first.sqlstate = (int) sagg_get_int(message);
	first.message = sagg_get_text(message);
	first.detail = sagg_get_text(message);
	described = sagg_get_text(message);
	if (rejections->count == 0)
	{
		rejections->first = first;
		executors->first_rejected = described;
	}
	rejections->count += executor->rejected;
	if (rejections->policy == SAGG_DEAD_LETTER && rejections->count > sagg_max_dead_letters)
		sagg_too_many_dead_letters(0, rejections);
}

static void
take_done(SaggExecutors *executors, SaggExecutor *executor, SaggExecution *execution,
		  SaggRejections *rejections, StringInfo message)
{
	Size		group_memory = sagg_get_int(message);
	SaggPartitionTime *times;
	int			ntimes;

	executors->group_memory = Max(executors->group_memory, group_memory);
	times = sagg_get_times(message, &ntimes);
	for (int i = 0; i < ntimes; i++)
		sagg_execution_partition_read(execution, &times[i]);
	executor->late = sagg_get_int(message);
	take_rejected(executors, executor, rejections, message);
}

/*
 * Take what executors have made of their records into "execution", which has run.
 * Waits for them; raises the error of one that has failed.
 */
void
sagg_executors_take(SaggReading *reading, SaggExecution *execution, SaggRejections *rejections)
{
	SaggExecutors *executors = reading->executors;

	for (int i = 0; executors && i < executors->n; i++)
	{
		SaggExecutor *executor = &executors->list[i];
		StringInfoData message;
		char		type;

		if (executor->nranges == 0)
			continue;
		while ((type = sagg_executor_receive(reading, executor, true, &message)) != SAGG_DONE)
		{
			if (!sagg_execution_take(execution, type, message.data, message.len))
				elog(ERROR, "an executor replies '%c' while it executes", type);
			SAGG_FAILPOINT("executors.taking");
		}
		take_done(executors, executor, execution, rejections, &message);
	}
	SAGG_FAILPOINT("executors.taken");
}

/*
 * Returns how many records executors have rejected.
 */
int64
sagg_executors_rejected(const SaggReading *reading)
{
	int64		n = 0;

	for (int i = 0; reading->executors && i < reading->executors->n; i++)
		n += reading->executors->list[i].rejected;
	return n;
}

/*
 * Returns how many late records executors keep.
 */
int64
sagg_executors_late(const SaggReading *reading)
{
	int64		n = 0;

	for (int i = 0; reading->executors && i < reading->executors->n; i++)
		n += reading->executors->list[i].late;
	return n;
}

/*
 * Returns a description of the first record that is rejected, if an executor has
 * read it; otherwise NULL.
 */
char *
sagg_executors_first_rejected(const SaggReading *reading)
{
	return reading->executors ? reading->executors->first_rejected : NULL;
}

/*
 * Returns the most memory that the groups of one executor have taken.
 */
Size
sagg_executors_group_memory(const SaggReading *reading)
{
	return reading->executors ? reading->executors->group_memory : 0;
}

/*
 * The batch is committed: executors free its records.  An executor that has ended
 * makes the next batch fail.
 */
void
sagg_executors_release(SaggReading *reading)
{
	for (int i = 0; reading->executors && i < reading->executors->n; i++)
	{
		SaggExecutor *executor = &reading->executors->list[i];

		if (executor->nranges > 0)
			(void) sagg_link_send(&executor->link, SAGG_TO_RELEASE, NULL, 0);
		executor->nranges = 0;
		executor->nlast = 0;
	}
}

/*
 * Have records follow that executors divert: rejected ones or late ones.  "own"
 * returns those that the stream's worker has, and comes first.
 */
void
sagg_diverted_begin(SaggDiverted *diverted, SaggReading *reading, bool late,
					SaggNextDivertedRecord own, void *arg)
{
	memset(diverted, 0, sizeof(*diverted));
	diverted->reading = reading;
	diverted->late = late;
	diverted->own = own;
	diverted->arg = arg;
}

/*
 * Returns the next diverted record, in the current context.  A
 * SaggNextDivertedRecord, whose argument is a SaggDiverted.
 */
bool
sagg_diverted_next(void *arg, SaggDivertedRecord *record)
{
	SaggDiverted *diverted = arg;
	SaggReading *reading = diverted->reading;
	SaggExecutors *executors = reading->executors;

	if (diverted->own && diverted->own(diverted->arg, record))
		return true;
	diverted->own = NULL;
	while (executors && diverted->executor < executors->n)
	{
		SaggExecutor *executor = &executors->list[diverted->executor];
		StringInfoData message;
		char		type;

		if ((diverted->late ? executor->late : executor->rejected) == 0)
		{
			diverted->executor++;
			continue;
		}
		if (!diverted->asked)
			sagg_executor_send(reading, executor, diverted->late ? SAGG_TO_GIVE_LATE :
							   SAGG_TO_GIVE_REJECTED, NULL);
		diverted->asked = true;
		type = sagg_executor_receive(reading, executor, true, &message);
		if (type == SAGG_DIVERTED)
		{
			sagg_get_diverted(&message, record);
			return true;
		}
		if (type != SAGG_DIVERTED_END)
			elog(ERROR, "an executor replies '%c' while it gives records", type);
		diverted->asked = false;
		diverted->executor++;
	}
	return false;
}
