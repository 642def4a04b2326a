/*-------------------------------------------------------------------------
 *
 * executor_pool.c
 *	  The executors of a reading: which there are, and which of them reads what.
 *
 * A stream whose option executors says so has its partitions dealt to several
 * processes, of which its worker is one, number 0.  Executors are started when the
 * reading is opened, and ended when it is closed: after an error of any of the
 * processes all are started again, as the worker's own reader is opened again.
 *
 * Partitions are dealt one after the other and stay where they are, so that each
 * process prefetches its own.  The deal is part of the plan of a batch; a process
 * that finds such a plan deals as it says, as far as there are executors.
 *
 * A stream has fewer executors than its option says, or none, where the setting
 * max_executors, the limit of its owner, its partitions or max_worker_processes
 * allow no more, or its query cannot be dealt (define/query_dealing.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "define/define.h"
#include "streams/streams.h"
#include "executor_pool.h"

/* how long an executor may take to end */
#define END_TIMEOUT_MS	5000

/* those of this process, NULL = none */
static SaggExecutors *my_executors = NULL;

/*
 * Have an executor end: one that waits for a command does so when it has lost its
 * leader, one that is busy has to be told.
 */
static void
end_executor(SaggExecutor *executor)
{
	if (sagg_link_close(&executor->link))
		TerminateBackgroundWorker(executor->handle);
}

/*
 * The process ends: so do its executors, which nobody waits for.
 */
static void
end_executors(int code, Datum arg)
{
	(void) sagg_executor_watch_end();
	for (int i = 0; my_executors && i < my_executors->n; i++)
		end_executor(&my_executors->list[i]);
	my_executors = NULL;
}

/*
 * Say that there are fewer executors than there could be, once.
 */
static void
report_fewer(const SaggReading *reading, int n, int wanted, SaggExecutorLimit limited)
{
	static int	reported = -1;

	if (limited == SAGG_LIMITED_BY_NOTHING)
		reported = -1;
	if (limited == SAGG_LIMITED_BY_NOTHING || n == reported)
		return;
	reported = n;
	ereport(LOG,
			(errmsg("stream \"%s\" has %d of %d executors",
					reading->leader->slot->name, n + 1, wanted + 1),
			 limited == SAGG_LIMITED_BY_ROLE ?
			 errdetail("Its owner cannot have more streams and executors.") :
			 errdetail("No background worker is free for more."),
			 limited == SAGG_LIMITED_BY_ROLE ?
			 errhint("Increase stream_agg.max_streams_per_role.") :
			 errhint("Increase max_worker_processes.")));
}

/*
 * Returns why the stream's records cannot be dealt, NULL if they can be; and its
 * owner's limit of streams.
 */
static char *
undealt(const SaggReading *reading, int *limit)
{
	SaggStreamRun *leader = reading->leader;
	char	   *reason;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	sagg_run_check_stream(leader);
	reason = sagg_query_undealt(sagg_query_of_view(leader->stream), leader->stream->reader);
	if (reason)
		reason = MemoryContextStrdup(reading->memory, reason);
	*limit = sagg_role_limit(leader->stream->owner);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(reading->memory);
	return reason;
}

/*
 * Returns how many executors the stream may have besides its worker.
 */
static int
allowed_executors(const SaggReading *reading)
{
	SaggStreamRun *leader = reading->leader;
	int			wanted = Min(leader->stream->options.executors, sagg_max_executors);
	SaggExecutorLimit limited;
	char	   *reason;
	int			limit;
	int			allowed;

	wanted = Min(wanted, leader->progress->npositions) - 1;
	if (wanted <= 0)
		return 0;
	reason = undealt(reading, &limit);
	if (reason)
	{
		ereport(DEBUG1,
				(errmsg_internal("stream \"%s\" has no executors: %s", leader->slot->name, reason)));
		return 0;
	}
	allowed = sagg_slot_reserve_executors(leader->slot, wanted, limit, &limited);
	report_fewer(reading, allowed, wanted, limited);
	return allowed;
}

/*
 * Start executor number "number".  Returns false if no process, or no segment of
 * shared memory, is free for it.
 */
static bool
start_executor(SaggReading *reading, SaggExecutor *executor, int number)
{
	int			slot = (int) (reading->leader->slot - sagg_shared->slots);

	if (!sagg_link_make(&executor->link, slot, number))
		return false;
	executor->number = number;
	if (!sagg_start_process("stream_agg_executor_main", "stream_agg executor", "stream_agg executor",
							UInt32GetDatum(dsm_segment_handle(executor->link.segment)),
							&executor->handle))
	{
		sagg_link_close(&executor->link);
		return false;
	}
	sagg_link_set_process(&executor->link, executor->handle);
	return true;
}

static void
open_executors(SaggReading *reading, int n)
{
	static bool registered = false;
	MemoryContext memory = AllocSetContextCreate(reading->memory, "stream_agg executors",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(memory);
	SaggExecutors *executors = palloc0(sizeof(SaggExecutors));

	executors->memory = memory;
	executors->list = palloc0(sizeof(SaggExecutor) * n);
	reading->executors = my_executors = executors;
	if (!registered)
		before_shmem_exit(end_executors, (Datum) 0);
	registered = true;
	BecomeLockGroupLeader();
	while (executors->n < n &&
		   start_executor(reading, &executors->list[executors->n], executors->n + 1))
		executors->n++;
	if (executors->n < n)
		report_fewer(reading, executors->n, n, SAGG_LIMITED_BY_PROCESSES);
	sagg_slot_has_executors(reading->leader->slot, executors->n);
	MemoryContextSwitchTo(old);
}

/*
 * Wait until an executor has ended; returns false if it has not when the time is
 * over.
 */
static bool
await_end(const SaggExecutor *executor, TimestampTz until)
{
	static uint32 wait_event = 0;
	pid_t		pid;

	if (wait_event == 0)
		wait_event = SAGG_WAIT_EVENT("StreamAggExecutor");
	while (GetBackgroundWorkerPid(executor->handle, &pid) != BGWH_STOPPED)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (left <= 0)
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left, wait_event);
		ResetLatch(MyLatch);
	}
	return true;
}

/*
 * End executors, and wait for that.
 */
static void
end_all(SaggExecutors *executors)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), END_TIMEOUT_MS);

	for (int i = 0; i < executors->n; i++)
		end_executor(&executors->list[i]);
	for (int i = 0; i < executors->n; i++)
	{
		if (!await_end(&executors->list[i], until))
			ereport(LOG,
					(errmsg("an executor does not end")));
	}
}

/*
 * End the executors of a reading, if it has some.  Also after an error, outside of
 * transactions.
 */
void
sagg_executors_close(SaggReading *reading)
{
	SaggExecutors *executors = reading->executors;

	reading->dealt = false;
	if (executors == NULL)
		return;
	end_all(executors);
	my_executors = reading->executors = NULL;
	for (int i = 0; i < executors->n; i++)
		pfree(executors->list[i].handle);
	sagg_slot_has_executors(reading->leader->slot, 0);
	MemoryContextDelete(executors->memory);
}

/*
 * Returns whether a stream waits for a process, and the reading has executors.
 */
bool
sagg_executors_are_wanted(const SaggReading *reading)
{
	return reading->executors != NULL && sagg_stream_lacks_process();
}

/*
 * Give the processes of executors to streams that have none, until the reading is
 * opened again.  Returns whether it had executors: the caller then assigns the
 * positions to the stream's own reader.  Between batches.
 */
bool
sagg_executors_give_way(SaggReading *reading)
{
	if (!sagg_executors_are_wanted(reading))
		return false;
	ereport(LOG,
			(errmsg("stream \"%s\" goes on without executors, as another stream waits for a process",
					reading->leader->slot->name),
			 errhint("Increase max_worker_processes.")));
	sagg_executors_close(reading);
	reading->dealt = true;
	return true;
}

/*
 * Returns who reads a partition; 0 = the stream's worker.
 */
int
sagg_executor_of(const SaggReading *reading, const SaggRange *partition)
{
	SaggExecutors *executors = reading->executors;
	const SaggRange *owner;

	if (executors == NULL)
		return 0;
	owner = sagg_partition_find(executors->owners, executors->nowners, partition);
	return owner ? (int) owner->start : 0;
}

/*
 * Returns the process that reads the fewest partitions, the first one of several.
 */
static int
least_loaded(const SaggExecutors *executors, const SaggRange *owners, int nowners)
{
	int			least = 0;
	int			fewest = INT_MAX;

	for (int number = 0; number <= executors->n; number++)
	{
		int			n = 0;

		for (int i = 0; i < nowners; i++)
			n += owners[i].start == number;
		if (n >= fewest)
			continue;
		fewest = n;
		least = number;
	}
	return least;
}

/*
 * Give every position an owner: the one it has, the one that a pending plan says,
 * or the one with the fewest.
 */
static void
deal_partitions(SaggReading *reading, const SaggRange *positions, int n)
{
	SaggExecutors *executors = reading->executors;
	const SaggPlan *pending = sagg_first_run(reading)->progress->pending;
	SaggRange  *owners = MemoryContextAlloc(executors->memory, sizeof(SaggRange) * Max(n, 1));
	int			kept = 0;

	for (int round = 0; round < 2; round++)
	{
		for (int i = 0; i < n; i++)
		{
			const SaggRange *owner = sagg_partition_find(executors->owners, executors->nowners,
														 &positions[i]);

			if (owner == NULL && pending)
				owner = sagg_partition_find(pending->dealt, pending->ndealt, &positions[i]);
			if (owner && owner->start > executors->n)
				owner = NULL;
			/* those with an owner first */
			if ((owner != NULL) != (round == 0))
				continue;
			owners[kept] = positions[i];
			owners[kept].start = owner ? owner->start : least_loaded(executors, owners, kept);
			kept++;
		}
	}
	qsort(owners, kept, sizeof(SaggRange), sagg_partition_order);
	if (executors->owners)
		pfree(executors->owners);
	executors->owners = owners;
	executors->nowners = kept;
}

/*
 * Put the ranges that an executor reads into a new array, in the current context.
 */
SaggRange *
sagg_executor_ranges(const SaggReading *reading, int number, const SaggRange *ranges,
					 int nranges, int *n)
{
	SaggRange  *own = palloc(sizeof(SaggRange) * Max(nranges, 1));

	*n = 0;
	for (int i = 0; i < nranges; i++)
	{
		if (sagg_executor_of(reading, &ranges[i]) == number)
			own[(*n)++] = ranges[i];
	}
	return own;
}

/*
 * The reading goes on from these positions: start executors the first time, deal
 * the positions, and have executors assign theirs.  Returns what is left for the
 * stream's own reader: "n" is set to how many.  Outside of transactions.
 */
SaggRange *
sagg_executors_assign(SaggReading *reading, SaggRange *positions, int *n)
{
	SaggExecutors *executors;
	int			all = *n;
	int			allowed;

	if (!reading->dealt)
	{
		reading->dealt = true;
		allowed = allowed_executors(reading);
		MemoryContextSwitchTo(reading->memory);
		if (allowed > 0)
			open_executors(reading, allowed);
	}
	executors = reading->executors;
	if (executors == NULL)
		return positions;
	deal_partitions(reading, positions, all);
	for (int i = 0; i < executors->n; i++)
	{
		StringInfoData command;
		int			share;
		SaggRange  *own = sagg_executor_ranges(reading, i + 1, positions, all, &share);

		initStringInfo(&command);
		sagg_put_ranges(&command, own, share);
		sagg_executor_send(reading, &executors->list[i], SAGG_TO_ASSIGN, &command);
		pfree(command.data);
		pfree(own);
	}
	return sagg_executor_ranges(reading, 0, positions, all, n);
}

/*
 * Let a plan say who reads what; in the current context.
 */
void
sagg_executors_plan(const SaggReading *reading, SaggPlan *plan)
{
	plan->ndealt = 0;
	plan->dealt = palloc(sizeof(SaggRange) * Max(plan->nranges, 1));
	for (int i = 0; i < plan->nranges; i++)
	{
		int			number = sagg_executor_of(reading, &plan->ranges[i]);

		if (number == 0)
			continue;
		plan->dealt[plan->ndealt] = plan->ranges[i];
		plan->dealt[plan->ndealt].start = number;
		plan->dealt[plan->ndealt++].end = number;
	}
}

/*
 * Raise the error for an executor that has ended without one.
 */
static void
raise_ended(const SaggReading *reading, const SaggExecutor *executor)
{
	ereport(ERROR,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("executor %d of stream \"%s\" has ended",
					executor->number, reading->leader->slot->name),
			 errdetail("The server log may say why.")));
}

/*
 * Send a command; raises an error if the executor has ended.
 */
void
sagg_executor_send(SaggReading *reading, SaggExecutor *executor, char type,
				   const StringInfoData *command)
{
	if (!sagg_link_send(&executor->link, type, command ? command->data : NULL,
						command ? command->len : 0))
	{
		StringInfoData message;

		/* it may have said why */
		while (sagg_executor_receive(reading, executor, true, &message) != '\0')
			;
	}
}

/*
 * Returns the type of the next reply, whose bytes stay until the next call; '\0' if
 * there is none, unless "wait".  Raises the executor's error, or one if it has
 * ended.
 */
char
sagg_executor_receive(SaggReading *reading, SaggExecutor *executor, bool wait,
					  StringInfo message)
{
	char		type;
	bool		ended;

	if (!sagg_link_receive(&executor->link, wait, &type, message, &ended))
	{
		if (ended)
			raise_ended(reading, executor);
		return '\0';
	}
	if (type == SAGG_FAILED_EXECUTOR)
		sagg_throw_error(message, executor->number);
	return type;
}

/*
 * Returns whether an executor has a record that no batch has taken.  Raises the
 * error of one that has failed, or ended.  Between batches.
 */
bool
sagg_executors_have_records(SaggReading *reading)
{
	SaggExecutors *executors = reading->executors;
	bool		found = false;

	for (int i = 0; executors && i < executors->n; i++)
	{
		StringInfoData message;
		SaggExecutor *executor = &executors->list[i];

		if (sagg_executor_receive(reading, executor, false, &message) != '\0')
			elog(ERROR, "an executor replies without a command");
		if (pg_atomic_read_u32(&executor->link.head->has_records) != 0)
			found = true;
	}
	return found;
}

/*
 * Returns what sagg_reader_gap_end returns, of the process that reads the range.
 * Waits for its answer.  Between batches.
 */
int64
sagg_executors_gap_end(SaggReading *reading, const SaggRange *range)
{
	int			number = sagg_executor_of(reading, range);
	SaggExecutor *executor;
	StringInfoData message;

	if (number == 0)
		return sagg_reader_gap_end(reading->reader, range);
	executor = &reading->executors->list[number - 1];
	initStringInfo(&message);
	sagg_put_ranges(&message, range, 1);
	sagg_executor_send(reading, executor, SAGG_TO_FIND_GAP, &message);
	pfree(message.data);
	if (sagg_executor_receive(reading, executor, true, &message) != SAGG_GAP_END)
		elog(ERROR, "an executor does not say where a gap ends");
	return sagg_get_int(&message);
}
