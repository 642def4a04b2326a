/*-------------------------------------------------------------------------
 *
 * micro_batch.c
 *	  One micro-batch: the place where the stages meet.
 *
 *		READ -> EXECUTE -> WRITE -> CHECKPOINT -> COMMIT -> publish
 *
 * READ waits for the source, outside of any transaction.  The other stages share
 * one transaction (I1): output rows, offsets, state and watermark are committed
 * together or not at all, for all runs of the reading.  One run after the other goes
 * through EXECUTE, WRITE and CHECKPOINT; comments about a stage hold for each of
 * them.  Shared memory changes only after the commit (I3).  On an ERROR before the
 * commit the worker undoes the stores; between commit and publish it discards them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "define/define.h"
#include "streams/streams.h"
#include "worker_internal.h"

typedef struct StageClock
{
	instr_time	started;
	SaggStage	stage;
} StageClock;

/*
 * End the current stage: add its time to "commit".
 */
static void
leave_stage(StageClock *clock, SaggCommit *commit)
{
	instr_time	spent;

	INSTR_TIME_SET_CURRENT(spent);
	INSTR_TIME_SUBTRACT(spent, clock->started);
	commit->stage_time[clock->stage] += INSTR_TIME_GET_MICROSEC(spent);
}

static void
enter_stage(SaggStreamRun *run, StageClock *clock, SaggStage stage)
{
	INSTR_TIME_SET_CURRENT(clock->started);
	clock->stage = stage;
	sagg_run_stage(run, stage);
}

/* One run's part of a batch, from READ to after the commit. */
typedef struct Part
{
	SaggStreamRun *run;
	SaggCommit	commit;
	StageClock	clock;
	char	   *first_rejected; /* described, NULL = none */
	char	   *first_failed;	/* window that failed, described; NULL = none */
	List	   *expired_partitions; /* of the sink, to be dropped */
	int			failed_windows;
	int			failed_in_row;
	Size		group_memory;
	int			row_space;		/* see sagg_execution_row_space */
} Part;

/*
 * Returns whether all runs of the reading go on without records that cannot be
 * processed.
 */
static bool
all_skip(const SaggReading *reading)
{
	ListCell   *lc;

	foreach(lc, reading->runs)
	{
		if (((SaggStreamRun *) lfirst(lc))->stream->options.on_error == SAGG_FAIL)
			return false;
	}
	return true;
}

/*
 * READ: all records of the plan's ranges, in memory or in a temporary file.
 */
static void
read_records(SaggReading *reading, const SaggPlan *plan)
{
	SaggReader *reader = reading->reader;
	TimestampTz last_progress = GetCurrentTimestamp();
	bool		complete = false;
	const SaggRange *ranges;
	int			nranges;

	sagg_reader_skips_unreadable(reader, all_skip(reading));
	ranges = sagg_executors_read(reading, plan, all_skip(reading), &nranges);
	sagg_reader_begin(reader, ranges, nranges);
	SAGG_FAILPOINT("read.begun");
	for (;;)
	{
		complete = complete || sagg_reader_collect(reader);
		if (sagg_executors_collect(reading) && complete)
			break;
		(void) sagg_reading_wait(reading, !complete, 500);
		/* executors give up by themselves */
		if (complete)
			continue;
		if (sagg_reader_hears(reader) &&
			sagg_reader_trouble(reader) == NULL)
			last_progress = GetCurrentTimestamp();
		sagg_reading_report_silence(reading, last_progress);
		if (TimestampDifferenceExceeds(last_progress, GetCurrentTimestamp(),
									   sagg_kafka_timeout_ms))
			sagg_raise_no_records(reader);
	}
	reading->schemas_asked = sagg_reader_look_up_schemas(reader,
														 sagg_reading_replaces(reading));
	reading->schemas_asked = Max(reading->schemas_asked, sagg_executors_schemas_asked(reading));
}

/*
 * Begin the batch's transaction, with the plan's batch time as now().  It is a
 * transaction block, because Citus commits what a trigger writes to other nodes at
 * once if there is none.
 *
 * now() is the start time of the statement.  Only parallel workers may set it, so
 * the process poses as one.  A preview of one of the streams is waited for here,
 * while no other session waits for this transaction.
 */
static void
begin_transaction(SaggReading *reading, const SaggPlan *plan)
{
	int			save = ParallelWorkerNumber;
	ListCell   *lc;

	ParallelWorkerNumber = 0;
	SetParallelStartTimestamps(plan->batch_time, plan->batch_time);
	ParallelWorkerNumber = save;

	StartTransactionCommand();
	BeginTransactionBlock();
	CommitTransactionCommand();
	StartTransactionCommand();
	foreach(lc, reading->runs)
		sagg_lock_micro_batch(((SaggStreamRun *) lfirst(lc))->slot->view);
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(reading->batch_memory);
}

/*
 * Read a unit of the state that is not in memory.  A SaggReadUnitFn; "arg" is the run.
 */
static void
read_unit(void *arg, const SaggStateAccess *state, const SaggStateUnit *unit)
{
	SaggStreamRun *run = arg;

	sagg_checkpoint_restore_unit(run->checkpoint, run->progress, state, unit);
}

/*
 * Hand a unit to CHECKPOINT before it leaves memory.  A SaggReadUnitFn.
 */
static void
spill_unit(void *arg, const SaggStateAccess *state, const SaggStateUnit *unit)
{
	SaggStreamRun *run = arg;

	sagg_checkpoint_spill(run->checkpoint, run->progress, run->plan->batch, state, unit);
}

/*
 * Returns how much memory the state of a stream may take before units leave.
 */
static Size
state_memory(const SaggStream *stream)
{
	int			kb = stream->options.has_state_memory ? stream->options.state_memory_kb :
	sagg_state_memory_kb;

	return kb < 0 ? SIZE_MAX : (Size) kb * 1024;
}

/*
 * Begin EXECUTE on the state store as of the last commit: the one in shared memory
 * if that is intact, else one that reads units from the checkpoint when it needs them.
 */
static SaggExecution *
begin_execution(SaggStreamRun *run, SaggQuery *query)
{
	SaggExecution *execution;
	bool		fresh = false;

	if (run->store &&
		(run->fingerprint != query->store_fingerprint ||
		 memcmp(&run->identity, &query->state_identity, sizeof(SaggIdentity)) != 0))
	{
		sagg_store_close(run->store);
		run->store = NULL;
	}
	if (run->store == NULL)
	{
		run->store_undoable = false;
		run->store = sagg_store_open(&run->slot->store,
									 sagg_shared->store_tranche,
									 sagg_state_budget(&run->budget, run->slot),
									 query, run->progress->batch, &fresh);
		run->fingerprint = query->store_fingerprint;
		run->identity = query->state_identity;
	}
	sagg_store_bound(run->store, state_memory(run->stream));
	execution = sagg_execution_begin(run->store, run->stream, query, run->plan);
	SAGG_FAILPOINT("execute.begun");
	sagg_execution_read_units(execution, read_unit, spill_unit, run);
	if (fresh)
		sagg_checkpoint_restore_units(run->checkpoint, run->progress,
									  sagg_execution_state(execution));
	run->store_undoable = true;
	return execution;
}

/* this process's share of EXECUTE */
typedef struct OwnShare
{
	SaggStreamRun *run;
	const SaggQuery *query;
	SaggExecution *execution;
	SaggRejections *rejections;
	SaggCommit *commit;
} OwnShare;

/*
 * Execute this process's share, and take what executors have made of theirs.
 */
static void
execute_shares(void *arg)
{
	OwnShare   *own = arg;
	SaggStreamRun *run = own->run;

	sagg_execute_records(own->execution, run->stream, own->query, sagg_reader_batch(run->reading->reader),
						 own->rejections, own->commit, &run->fault);
	sagg_executors_take(run->reading, own->execution, own->rejections);
}

/*
 * Memory is limited by the store's budget; what has left it counts as well.
 */
static void
check_state_size(const SaggStreamRun *run)
{
	SaggStateSize size;

	if (sagg_max_stream_state_kb < 0)
		return;
	sagg_store_statistics(run->store, &size);
	if (size.units_out > 0)
		sagg_state_check_size(run->slot, size.bytes);
}

/*
 * EXECUTE.  Records that cannot be processed go to "rejections", which is NULL if they
 * are errors.
 */
static void
execute(SaggStreamRun *run, const SaggQuery *query, SaggExecution *execution,
		SaggRejections *rejections, SaggCommit *commit)
{
	SaggBatch  *batch = sagg_reader_batch(run->reading->reader);
	OwnShare	own = {run, query, execution, rejections, commit};

	sagg_poison_reject(run, rejections);
	sagg_executors_watch(run->reading, execute_shares, &own);
	sagg_execute_close(execution, run->stream, query,
					   sagg_batch_records(batch) + sagg_executors_records(run->reading),
					   commit, &run->fault);
	if (commit->max_time != DT_NOBEGIN)
		sagg_times_found(run, commit->times, commit->ntimes, run->plan->batch_time);
	commit->max_time = Max(commit->max_time, run->progress->max_time);
	check_state_size(run);
	SAGG_FAILPOINT("execute.done");
}

/*
 * Put the rejected records where on_error says.  Returns a description for the log or,
 * if there are none, NULL.
 */
static char *
put_aside(SaggStreamRun *run, SaggRejections *rejections, SaggCommit *commit)
{
	SaggReading *reading = run->reading;
	SaggBatch  *batch = sagg_reader_batch(reading->reader);
	SaggRejectedReader *reader;
	SaggDiverted diverted;

	if (rejections == NULL || rejections->count == 0)
		return NULL;
	if (rejections->policy == SAGG_DEAD_LETTER)
	{
		reader = sagg_rejected_open(batch, rejections->list,
									rejections->count - sagg_executors_rejected(reading));
		sagg_diverted_begin(&diverted, reading, false, sagg_rejected_next, reader);
		sagg_checkpoint_dead_letters(run->checkpoint, run->plan, rejections,
									 sagg_diverted_next, &diverted, commit);
		sagg_rejected_close(reader);
	}
	if (sagg_executors_first_rejected(reading))
		return sagg_executors_first_rejected(reading);
	return sagg_describe_rejection(batch, &rejections->first);
}

/*
 * Returns whether the batch is tried again because its closing windows have failed.
 */
static bool
is_careful(const SaggStreamRun *run)
{
	return run->poison.careful == run->plan->batch;
}

static void
write_all(SaggStreamRun *run, const SaggQuery *query, SaggExecution *execution,
		  SaggCommit *commit)
{
	SaggOutput	output;

	sagg_execution_output(execution, &output);
	if (run->progress->replace)
		output.replaces = sagg_execution_overwrites_from(execution);
	sagg_leave_out_expired(run, query, &output, commit);
	sagg_sink_write(run->sink, query, &output, &commit->counts.rows_out,
					&commit->counts.rows_removed);
	sagg_execution_output_end(&output);
}

/*
 * WRITE: output rows to the sink, with all that its triggers do.
 */
static void
write_output(SaggStreamRun *run, const SaggQuery *query,
			 SaggExecution *execution, SaggCommit *commit)
{
	/* the privileges of the sink's owner do not change any more */
	LockRelationOid(run->stream->sink, RowExclusiveLock);
	sagg_run_check_owners(run);
	sagg_sink_begin(run->sink, query, run->plan->batch);
	if (is_careful(run))
		sagg_write_carefully(run, query, execution, commit);
	else
		write_all(run, query, execution, commit);
	sagg_expire_rows(run, query, commit);
	sagg_sink_end(run->sink);
	SAGG_FAILPOINT("write.done");
	if (list_length(run->reading->runs) > 1)
		AfterTriggerFireDeferred(); /* other runs come after it */
	else
		sagg_fire_deferred_triggers();
	SAGG_FAILPOINT("write.triggers_done");
}

/*
 * After a commit: advance the run's progress.
 */
static void
advance(SaggStreamRun *run, const SaggPlan *plan, const SaggCommit *commit)
{
	SaggProgress *progress = run->progress;

	for (int i = 0; i < plan->nranges; i++)
	{
		SaggRange  *position = sagg_partition_find(progress->positions,
												   progress->npositions,
												   &plan->ranges[i]);

		position->start = position->end = plan->ranges[i].end;
	}
	progress->nlast = commit->nlast;
	if (progress->last)
		pfree(progress->last);
	progress->last = MemoryContextAlloc(run->memory, sizeof(SaggRange) * Max(commit->nlast, 1));
	memcpy(progress->last, commit->last, sizeof(SaggRange) * commit->nlast);
	progress->max_time = commit->max_time;
	progress->ntimes = commit->ntimes;
	if (progress->times)
		pfree(progress->times);
	progress->times = MemoryContextAlloc(run->memory,
										 sizeof(SaggPartitionTime) * Max(commit->ntimes, 1));
	memcpy(progress->times, commit->times, sizeof(SaggPartitionTime) * commit->ntimes);
	sagg_progress_suspects(progress, plan, run->memory);
	progress->batch = plan->batch;
	progress->watermark = commit->watermark;
	sagg_counts_add(&progress->totals, &commit->counts);
	progress->committed = GetCurrentTimestamp();
	progress->replace = false;
}

/*
 * Returns the stream's query.  If its records are dealt already and cannot be any
 * more, the batch fails, and they are not dealt when it is tried again.
 */
static SaggQuery *
analyze(SaggStreamRun *run)
{
	SaggQuery  *query = sagg_kept_query(&run->query, run->stream, run->memory);
	char	   *reason;

	if (run->reading->executors == NULL || query->dealt)
	{
		query->dealt = run->reading->executors != NULL;
		return query;
	}
	reason = sagg_query_undealt(query, run->stream->reader);
	if (reason)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("micro-batches of stream \"%s\" cannot be dealt to executors any more",
						sagg_stream_title(run->stream->name)),
				 errdetail_internal("%s", reason)));
	query->dealt = true;
	return query;
}

/*
 * EXECUTE, WRITE and CHECKPOINT of one run.
 */
static void
process_part(Part *part)
{
	SaggStreamRun *run = part->run;
	SaggPlan   *plan = run->plan;
	SaggCommit *commit = &part->commit;
	SaggRejections *rejections = NULL;
	SaggQuery  *query;
	SaggExecution *execution;
	SaggLateRows late = {0};
	Size		max_key_bytes;
	bool		keeps_late;
	bool		bound_rows;

	enter_stage(run, &part->clock, SAGG_EXECUTE);
	sagg_run_check_stream(run);
	query = analyze(run);
	sagg_run_check_owners(run); /* now that they are locked */
	execution = begin_execution(run, query);
	if (run->stream->options.on_error != SAGG_FAIL)
		rejections = sagg_rejections_make(run->stream->options.on_error);
	max_key_bytes = sagg_sink_max_key_bytes(run->stream->sink, query);
	keeps_late = run->stream->options.late_records && !run->progress->replace;
	bound_rows = !sagg_reading_replaces(run->reading) && sagg_plan_offsets(plan) > 1;
	sagg_execution_reject(execution, rejections, max_key_bytes);
	if (keeps_late)
		sagg_execution_keep_late(execution, &late);
	if (is_careful(run))
		sagg_execution_carefully(execution, run->poison.windows_in_row);
	if (bound_rows)
		sagg_execution_bound_rows(execution);
	commit->times = sagg_run_times(run, plan->batch_time, &commit->ntimes);
	sagg_executors_execute(run, query, commit, max_key_bytes, keeps_late, bound_rows);
	execute(run, query, execution, rejections, commit);

	leave_stage(&part->clock, commit);
	enter_stage(run, &part->clock, SAGG_WRITE);
	write_output(run, query, execution, commit);

	run->fault = SAGG_FAULT_NONE;
	leave_stage(&part->clock, commit);
	enter_stage(run, &part->clock, SAGG_CHECKPOINT);
	part->first_rejected = put_aside(run, rejections, commit);
	part->first_failed = sagg_keep_failed_windows(run, execution);
	part->failed_windows = list_length(sagg_execution_failed(execution));
	part->failed_in_row = sagg_execution_failed_in_row(execution);
	sagg_keep_late_records(run, &late, rejections, commit);
	commit->last = sagg_last_records(run, &commit->nlast);
	commit->counts.units_read = sagg_store_paging(run->store).loads;
	leave_stage(&part->clock, commit);
	sagg_checkpoint_commit(run->checkpoint, run->progress, plan, commit,
						   sagg_execution_state(execution));
	sagg_idle_windows(run, execution);
	part->group_memory = Max(sagg_execution_group_memory(execution),
							 sagg_executors_group_memory(run->reading));
	part->row_space = sagg_execution_row_space(execution);
	part->expired_partitions = sagg_expired_partitions(run, query);
	sagg_execution_end(execution);

	/*
	 * Close cursors that functions of the stream have left open: the commit
	 * would read those WITH HOLD to their ends, and keep rows that nobody
	 * fetches.
	 */
	PortalHashTableDeleteAll();
	sagg_sink_prepare_commit(run->sink);
}

/*
 * Process the part of one of several runs: under the stream's own settings, and so
 * that an error is known to be its own.  Whatever outlives it is in batch memory, the
 * rest is freed.
 */
static void
process_shared_part(Part *part)
{
	SaggStreamRun *run = part->run;
	SaggReading *reading = run->reading;
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext memory = AllocSetContextCreate(outer, "stream_agg part of a batch",
												 ALLOCSET_DEFAULT_SIZES);
	const SaggRange *last;
	const SaggPartitionTime *times;
	int			nestlevel;

	reading->current = run;
	sagg_mark_stream(run->slot->view);
	nestlevel = sagg_run_settings_begin(run);
	MemoryContextSwitchTo(memory);
	process_part(part);
	MemoryContextSwitchTo(outer);
	AtEOXact_GUC(false, nestlevel);

	last = part->commit.last;
	part->commit.last = palloc(sizeof(SaggRange) * Max(part->commit.nlast, 1));
	memcpy(part->commit.last, last, sizeof(SaggRange) * part->commit.nlast);
	times = part->commit.times;
	part->commit.times = palloc(sizeof(SaggPartitionTime) * Max(part->commit.ntimes, 1));
	memcpy(part->commit.times, times, sizeof(SaggPartitionTime) * part->commit.ntimes);
	part->expired_partitions = list_copy(part->expired_partitions);
	if (part->first_rejected)
		part->first_rejected = pstrdup(part->first_rejected);
	if (part->first_failed)
		part->first_failed = pstrdup(part->first_failed);
	MemoryContextDelete(memory);
	reading->current = NULL;
	sagg_mark_stream(reading->leader->slot->view);
}

/*
 * Drop partitions of the sink that are too old, when all runs have written.
 */
static void
drop_partitions(const Part *part)
{
	SaggStreamRun *run = part->run;
	SaggReading *reading = run->reading;
	int			nestlevel;

	if (part->expired_partitions == NIL)
		return;
	if (list_length(reading->runs) > 1)
		reading->current = run;
	nestlevel = sagg_run_settings_begin(run);
	sagg_sink_drop_partitions(run->sink, part->expired_partitions);
	AtEOXact_GUC(false, nestlevel);
	reading->current = NULL;
}

/*
 * Process one run after the other.  Rows that the first ones have decoded are kept
 * for the others.
 */
static void
process_shared_parts(Part *parts, int nparts)
{
	SaggBatch  *batch = sagg_reader_batch(parts->run->reading->reader);
	List	   *views = NIL;

	for (int i = 0; i < nparts; i++)
		views = lappend_oid(views, parts[i].run->slot->view);
	sagg_shared_rows_begin(batch, views);
	for (int i = 0; i < nparts; i++)
		process_shared_part(&parts[i]);
	sagg_shared_rows_end();
}

/*
 * After the commit: make shared memory and the run's progress say what the tables
 * say.
 */
static void
publish_part(Part *part)
{
	SaggStreamRun *run = part->run;

	sagg_store_publish(run->store);
	sagg_store_evict(run->store);
	run->store_undoable = true;
	SAGG_FAILPOINT("publish.done");
	sagg_checkpoint_published(run->checkpoint);
	advance(run, run->plan, &part->commit);
	sagg_idle_plan(run);
	if (is_careful(run) || part->commit.counts.rows_out > 0)
		run->poison.windows_in_row = part->failed_in_row;
	sagg_poison_committed(run, &part->commit.counts);
}

/*
 * After the commit: show rows that sinks have only prepared.  An error is about its
 * run.
 */
static void
commit_sinks(SaggReading *reading, Part *parts, int nparts)
{
	for (int i = 0; i < nparts; i++)
	{
		if (nparts > 1)
			reading->current = parts[i].run;
		sagg_sink_committed(parts[i].run->sink);
		reading->current = NULL;
	}
}

static void
report_part(const Part *part)
{
	SaggStreamRun *run = part->run;

	if (!run->warned_of_null_times)
		run->warned_of_null_times = sagg_warn_of_null_times(run->stream, &part->commit.counts);
	sagg_warn_of_late_records(run, &part->commit.counts);
	sagg_warn_of_rejected_records(run, &part->commit.counts, part->first_rejected);
	sagg_warn_of_failed_windows(run, part->failed_windows, part->first_failed);
}

/*
 * READ.  Returns the parts of the batch, one for each run; "losses" describes what
 * the source did not have, or is NULL.
 */
static Part *
begin_parts(SaggReading *reading, int *nparts, char **losses)
{
	SaggStreamRun *first = sagg_first_run(reading);
	StageClock	clock;
	SaggCommit	read = {0};
	Part	   *parts;

	enter_stage(first, &clock, SAGG_READ);
	first->fault = SAGG_FAULT_READ;
	read_records(reading, first->plan);
	first->fault = SAGG_FAULT_NONE;
	sagg_reading_verify(reading, NULL, 0);
	SAGG_FAILPOINT("read.done");
	read.losses = sagg_reader_losses(reading->reader, &read.nlosses);
	read.losses = sagg_executors_losses(reading, read.losses, &read.nlosses);
	*losses = sagg_describe_losses(first->plan, &read);
	leave_stage(&clock, &read);

	*nparts = list_length(reading->runs);
	parts = palloc0(sizeof(Part) * *nparts);
	for (int i = 0; i < *nparts; i++)
	{
		parts[i].run = list_nth(reading->runs, i);
		parts[i].commit = read;
		sagg_poison_begin(parts[i].run);
	}
	return parts;
}

/*
 * EXECUTE to CHECKPOINT of all parts, and the COMMIT.
 */
static void
commit_parts(SaggReading *reading, Part *parts, int nparts)
{
	begin_transaction(reading, sagg_first_run(reading)->plan);
	if (nparts > 1)
		process_shared_parts(parts, nparts);
	else
		process_part(parts);
	for (int i = 0; i < nparts; i++)
		drop_partitions(&parts[i]);
	PopActiveSnapshot();
	SAGG_FAILPOINT("commit.before");
	for (int i = 0; i < nparts; i++)
		sagg_sink_committing(parts[i].run->sink);
	if (!EndTransactionBlock(false))
		elog(ERROR, "the transaction of a micro-batch has failed");
	CommitTransactionCommand();
}

/*
 * After the commit.  An ERROR here does not undo the batch: stores are discarded
 * then, and restored from the tables.
 */
static void
publish_parts(SaggReading *reading, Part *parts, int nparts)
{
	Size		group_memory = 0;
	int			row_space = 0;

	for (int i = 0; i < nparts; i++)
		parts[i].run->store_undoable = false;
	SAGG_FAILPOINT("commit.after");
	commit_sinks(reading, parts, nparts);
	for (int i = 0; i < nparts; i++)
	{
		publish_part(&parts[i]);
		group_memory = Max(group_memory, parts[i].group_memory);
		row_space = Max(row_space, parts[i].row_space);
	}
	sagg_batch_size_committed(reading, group_memory, row_space);
}

/*
 * Run a planned batch to its commit: the plans of all runs of the reading.  Raises an
 * ERROR when it fails.  The worker then cleans up; what was not committed runs again
 * with the same plans.
 */
void
sagg_micro_batch(SaggReading *reading)
{
	SaggStreamRun *first = sagg_first_run(reading);
	Part	   *parts;
	int			nparts;
	char	   *losses;

	sagg_mark_batch(first->plan->batch);
	MemoryContextSwitchTo(reading->batch_memory);
	first->fault = SAGG_FAULT_NONE;
	parts = begin_parts(reading, &nparts, &losses);
	sagg_reader_collect_ahead(reading->reader);
	commit_parts(reading, parts, nparts);
	publish_parts(reading, parts, nparts);
	sagg_reader_release(reading->reader);
	sagg_executors_release(reading);
	if (first == reading->leader)
		sagg_reader_commit(reading->reader, first->progress->positions,
						   first->progress->npositions);
	MemoryContextSwitchTo(reading->memory);
	for (int i = 0; i < nparts; i++)
		sagg_publish_statistics(parts[i].run);
	sagg_memory_used(&reading->memory_use);
	SAGG_FAILPOINT("batch.done");
	sagg_mark_batch(-1);
	for (int i = 0; i < nparts; i++)
		report_part(&parts[i]);
	sagg_warn_of_lost_offsets(first, losses);
}
