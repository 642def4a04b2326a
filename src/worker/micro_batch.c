/*-------------------------------------------------------------------------
 *
 * micro_batch.c
 *	  One micro-batch: the place where the stages meet.
 *
 *		READ -> EXECUTE -> WRITE -> CHECKPOINT -> COMMIT -> publish
 *
 * READ waits for Kafka, outside of any transaction.  The other stages share
 * one transaction (I1): output rows, offsets, state and watermark are
 * committed together or not at all, of all streams that share the reader.  One
 * after the other goes through EXECUTE, WRITE and CHECKPOINT; what is told of a
 * stage here is told of each.  Only after the commit is shared memory told (I3).  An ERROR before the commit leaves to the worker to put back the
 * store; one between commit and publish, to discard it.
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
 * The stage at hand has ended: add its time to "commit".
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
enter_stage(SaggSession *session, StageClock *clock, SaggStage stage)
{
	INSTR_TIME_SET_CURRENT(clock->started);
	clock->stage = stage;
	sagg_session_stage(session, stage);
}

/* One stream's part of a batch, from READ to after the commit. */
typedef struct Part
{
	SaggSession *session;
	SaggCommit	commit;
	StageClock	clock;
	char	   *first_rejected;	/* described, NULL = none */
	char	   *first_failed;	/* window that failed, described; NULL = none */
	int			failed_windows;
	int			failed_in_row;
	Size		group_memory;
	int			row_space;		/* see sagg_execution_row_space */
} Part;

/*
 * Do all streams of the reader go on without records that cannot be processed?
 */
static bool
all_skip(const SaggSession *session)
{
	ListCell   *lc;

	foreach(lc, session->sessions)
	{
		if (((SaggSession *) lfirst(lc))->stream->options.on_error == SAGG_FAIL)
			return false;
	}
	return true;
}

/*
 * READ: all records of the plan's ranges, in memory or in a temporary file.
 */
static void
read_records(SaggSession *session, const SaggPlan *plan)
{
	TimestampTz last_progress = GetCurrentTimestamp();

	sagg_reader_skips_unreadable(session->reader, all_skip(session));
	sagg_reader_begin(session->reader, plan->ranges, plan->nranges);
	SAGG_FAILPOINT("read.begun");
	while (!sagg_reader_collect(session->reader))
	{
		(void) sagg_session_wait(session, true, 500);
		if (sagg_reader_hears(session->reader) &&
			sagg_reader_trouble(session->reader) == NULL)
			last_progress = GetCurrentTimestamp();
		sagg_session_report_silence(session, last_progress);
		if (TimestampDifferenceExceeds(last_progress, GetCurrentTimestamp(),
											sagg_kafka_timeout_ms))
		{
			const char *trouble = sagg_reader_trouble(session->reader);

			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("no records of %s from %s for %d s",
							sagg_reader_subject(session->reader),
							sagg_reader_title(session->reader),
							sagg_kafka_timeout_ms / 1000),
					 trouble ? errdetail("The broker connection reports: %s.", trouble) : 0));
		}
	}
	session->schemas_asked = sagg_reader_look_up_schemas(session->reader,
														 sagg_session_replaces(session->lead));
}

/*
 * Begin the batch's transaction, with the plan's batch time as now().  It is a
 * transaction block: outside of one Citus commits what a trigger writes to other
 * nodes at once.
 *
 * StartTransaction takes the time of the statement for that; a parallel worker
 * is who may set it, as here.  Who tries out what a stream would write is waited
 * for now, while nobody waits for this transaction.
 */
static void
begin_transaction(SaggSession *session, const SaggPlan *plan)
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
	foreach(lc, session->sessions)
		sagg_lock_micro_batch(((SaggSession *) lfirst(lc))->slot->view);
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(session->batch_memory);
}

/*
 * The state store as of the last commit: in shared memory if that is intact,
 * else from the checkpoint.
 */
static SaggExecution *
begin_execution(SaggSession *session, SaggQuery *query, const SaggPlan *plan)
{
	SaggExecution *execution;
	bool		fresh = false;

	if (session->store &&
		(session->fingerprint != query->store_fingerprint ||
		 memcmp(&session->identity, &query->state_identity, sizeof(SaggIdentity)) != 0))
	{
		sagg_store_close(session->store);
		session->store = NULL;
	}
	if (session->store == NULL)
	{
		session->store_restored = false;
		session->store = sagg_store_open(&session->slot->store,
										 sagg_shared->store_tranche,
										 sagg_state_budget(&session->budget, session->slot),
										 query, session->progress->batch, &fresh);
		session->fingerprint = query->store_fingerprint;
		session->identity = query->state_identity;
	}
	execution = sagg_execution_begin(session->store, session->stream, query, plan);
	SAGG_FAILPOINT("execute.begun");
	if (fresh)
		sagg_checkpoint_restore(session->checkpoint, session->progress,
								sagg_execution_state(execution));
	session->store_restored = true;
	return execution;
}

/*
 * Event time as the batch finds it, into the commit, where EXECUTE goes on with
 * it.
 */
static void
begin_event_times(SaggSession *session, SaggExecution *execution, SaggCommit *commit)
{
	const SaggRange *runs;
	int			nruns;

	commit->times = sagg_session_times(session, session->plan->batch_time, &commit->ntimes);
	if (!session->stream->has_watermark ||
		session->stream->options.watermark_policy == SAGG_WATERMARK_GLOBAL)
		return;
	runs = sagg_batch_runs(sagg_reader_batch(session->reader), &nruns);
	sagg_execution_partitions(execution, commit->times, commit->ntimes, runs, nruns);
}

static void
end_event_times(SaggSession *session, SaggCommit *commit)
{
	if (commit->max_time != DT_NOBEGIN)
		sagg_times_found(session, commit->times, commit->ntimes,
						 session->plan->batch_time);
	commit->max_time = Max(commit->max_time, session->progress->max_time);
}

/*
 * EXECUTE: the records through the query into groups.  Those that cannot be
 * processed go to "rejections", which is NULL if they are errors.
 */
static void
execute(SaggSession *session, const SaggQuery *query, SaggExecution *execution,
		SaggRejections *rejections, SaggCommit *commit)
{
	SaggBatch  *batch = sagg_reader_batch(session->reader);
	SaggCounts *counts = &commit->counts;
	ErrorContextCallback callback;

	callback.callback = sagg_scan_error_context;
	callback.arg = NULL;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	sagg_poison_reject(session, rejections);
	sagg_scan_attach(session->stream->sources, batch, rejections);
	begin_event_times(session, execution, commit);
	session->fault = SAGG_FAULT_RECORDS;
	sagg_execution_run(execution);
	SAGG_FAILPOINT("execute.ran");
	sagg_scan_detach();
	error_context_stack = callback.previous;

	/* a window that closes is none of the record's that closes it */
	if (session->stream->mode == SAGG_APPEND &&
		query->kind == SAGG_AGGREGATION)
		session->fault = SAGG_FAULT_WINDOWS;
	sagg_execution_close(execution, counts, &commit->watermark, &commit->max_time);
	end_event_times(session, commit);
	SAGG_FAILPOINT("execute.done");

	counts->delivered = sagg_batch_records(batch);
	counts->filtered = counts->delivered - counts->aggregated - counts->late -
		counts->null_time - counts->dead_lettered;
	if (counts->filtered < 0)
		elog(ERROR, "more rows than records: " INT64_FORMAT " of " INT64_FORMAT,
			 counts->delivered - counts->filtered, counts->delivered);
}

/*
 * Where the first record that was rejected comes from, and why it was, for the
 * log.
 */
static char *
describe_first(SaggSession *session, const SaggRejections *rejections)
{
	SaggPlace	place;

	sagg_batch_locate(sagg_reader_batch(session->reader), rejections->first.record,
					  &place);
	return psprintf("The first one, in partition %d of topic \"%s\" at offset " INT64_FORMAT ": %s",
					place.partition, sagg_topic_name(place.topic), place.offset,
					sagg_rejection_text(&rejections->first));
}

/*
 * The records rejected, to where on_error says; a description for the log or,
 * if there are none, NULL.
 */
static char *
put_aside(SaggSession *session, const SaggPlan *plan, SaggRejections *rejections,
		  SaggCommit *commit)
{
	SaggRejectedReader *reader;

	if (rejections == NULL || rejections->count == 0)
		return NULL;
	if (rejections->policy == SAGG_DEAD_LETTER)
	{
		reader = sagg_rejected_open(sagg_reader_batch(session->reader),
									rejections->list, rejections->count);
		sagg_checkpoint_dead_letters(session->checkpoint, plan, rejections,
									 sagg_rejected_next, reader, commit);
		sagg_rejected_close(reader);
	}
	return describe_first(session, rejections);
}

/*
 * Returns whether the batch is tried again because its closing windows have failed.
 */
static bool
is_careful(const SaggSession *session)
{
	return session->poison.careful == session->plan->batch;
}

static void
write_all(SaggSession *session, const SaggQuery *query, SaggExecution *execution,
		  SaggCommit *commit)
{
	SaggOutput	output;

	sagg_execution_output(execution, &output);
	if (session->progress->replace)
		output.replaces = sagg_execution_overwrites_from(execution);
	sagg_leave_out_expired(session, query, &output, commit);
	sagg_sink_write(session->sink, query, &output, &commit->rows_out,
					&commit->rows_removed);
	sagg_execution_output_end(&output);
}

/*
 * WRITE: output rows to the sink, with all that its triggers do.
 */
static void
write_output(SaggSession *session, const SaggQuery *query,
			 SaggExecution *execution, SaggCommit *commit)
{
	/* what the sink's owner may do changes no more from here on */
	LockRelationOid(session->stream->sink, RowExclusiveLock);
	sagg_session_check_owners(session);
	sagg_sink_begin(session->sink, query, session->plan->batch);
	if (is_careful(session))
		sagg_write_carefully(session, query, execution, commit);
	else
		write_all(session, query, execution, commit);
	sagg_expire_rows(session, query, commit);
	sagg_sink_end(session->sink);
	SAGG_FAILPOINT("write.done");
	if (list_length(session->lead->sessions) > 1)
		AfterTriggerFireDeferred();	/* others come after it */
	else
		sagg_fire_deferred_triggers();
	SAGG_FAILPOINT("write.triggers_done");
}

/*
 * The session's view of the progress, after a commit.
 */
static void
advance(SaggSession *session, const SaggPlan *plan, const SaggCommit *commit)
{
	SaggProgress *progress = session->progress;

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
	progress->last = MemoryContextAlloc(session->memory, sizeof(SaggRange) * Max(commit->nlast, 1));
	memcpy(progress->last, commit->last, sizeof(SaggRange) * commit->nlast);
	progress->max_time = commit->max_time;
	progress->ntimes = commit->ntimes;
	if (progress->times)
		pfree(progress->times);
	progress->times = MemoryContextAlloc(session->memory,
										 sizeof(SaggPartitionTime) * Max(commit->ntimes, 1));
	memcpy(progress->times, commit->times, sizeof(SaggPartitionTime) * commit->ntimes);
	sagg_progress_suspects(progress, plan, session->memory);
	progress->batch = plan->batch;
	progress->watermark = commit->watermark;
	progress->totals.delivered += commit->counts.delivered;
	progress->totals.aggregated += commit->counts.aggregated;
	progress->totals.late += commit->counts.late;
	progress->totals.late_windows += commit->counts.late_windows;
	progress->totals.beside_closed += commit->counts.beside_closed;
	progress->totals.null_time += commit->counts.null_time;
	progress->totals.dead_lettered += commit->counts.dead_lettered;
	progress->totals.filtered += commit->counts.filtered;
	progress->total_rows_out += commit->rows_out;
	progress->total_rows_removed += commit->rows_removed;
	progress->total_rows_expired += commit->rows_expired;
	progress->total_skipped = sagg_add_saturated(progress->total_skipped,
												 sagg_skipped_offsets(plan, commit));
	progress->committed = GetCurrentTimestamp();
	progress->replace = false;
}

/*
 * EXECUTE, WRITE and CHECKPOINT of one stream.
 */
static void
process_part(Part *part)
{
	SaggSession *session = part->session;
	SaggPlan   *plan = session->plan;
	SaggCommit *commit = &part->commit;
	SaggRejections *rejections = NULL;
	SaggQuery  *query;
	SaggExecution *execution;
	SaggLateRows late = {0};

	enter_stage(session, &part->clock, SAGG_EXECUTE);
	sagg_session_check_stream(session);
	query = sagg_query_of_view(session->stream);
	sagg_session_check_owners(session); /* now that they are locked */
	execution = begin_execution(session, query, plan);
	if (session->stream->options.on_error != SAGG_FAIL)
		rejections = sagg_rejections_make(session->stream->options.on_error);
	sagg_execution_reject(execution, rejections,
						  sagg_sink_max_key_bytes(session->stream->sink, query));
	if (session->stream->options.late_records && !session->progress->replace)
		sagg_execution_keep_late(execution, &late);
	if (is_careful(session))
		sagg_execution_carefully(execution, session->poison.windows_in_row);
	if (!sagg_session_replaces(session->lead) && sagg_plan_offsets(plan) > 1)
		sagg_execution_bound_rows(execution);
	execute(session, query, execution, rejections, commit);

	leave_stage(&part->clock, commit);
	enter_stage(session, &part->clock, SAGG_WRITE);
	write_output(session, query, execution, commit);

	session->fault = SAGG_FAULT_NONE;
	leave_stage(&part->clock, commit);
	enter_stage(session, &part->clock, SAGG_CHECKPOINT);
	part->first_rejected = put_aside(session, plan, rejections, commit);
	part->first_failed = sagg_keep_failed_windows(session, execution);
	part->failed_windows = list_length(sagg_execution_failed(execution));
	part->failed_in_row = sagg_execution_failed_in_row(execution);
	sagg_keep_late_records(session, plan, &late, rejections, commit);
	commit->last = sagg_last_records(session, plan, &commit->nlast);
	leave_stage(&part->clock, commit);
	sagg_checkpoint_commit(session->checkpoint, session->progress, plan, commit,
						   sagg_execution_state(execution));
	sagg_idle_windows(session, execution);
	part->group_memory = sagg_execution_group_memory(execution);
	part->row_space = sagg_execution_row_space(execution);
	sagg_execution_end(execution);

	/*
	 * Cursors that functions of the stream have left open: for those WITH HOLD the
	 * commit would read on, and keep the rows for nobody.
	 */
	PortalHashTableDeleteAll();
	sagg_sink_prepare_commit(session->sink);
}

/*
 * The same for one of several streams: under its own settings, and so that an
 * error is known to be its own.  What has to outlive it is in batch memory,
 * the rest is freed.
 */
static void
process_shared_part(Part *part)
{
	SaggSession *session = part->session;
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext memory = AllocSetContextCreate(outer, "stream_agg part of a batch",
												 ALLOCSET_DEFAULT_SIZES);
	const SaggRange *last;
	const SaggPartitionTime *times;
	int			nestlevel;

	session->lead->at_work = session;
	sagg_mark_stream(session->slot->view);
	nestlevel = sagg_session_settings_begin(session);
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
	if (part->first_rejected)
		part->first_rejected = pstrdup(part->first_rejected);
	if (part->first_failed)
		part->first_failed = pstrdup(part->first_failed);
	MemoryContextDelete(memory);
	session->lead->at_work = NULL;
	sagg_mark_stream(session->lead->slot->view);
}

/*
 * One stream after the other; what the first ones have decoded is kept for the
 * others.
 */
static void
process_shared_parts(Part *parts, int nparts)
{
	SaggBatch  *batch = sagg_reader_batch(parts->session->reader);
	List	   *views = NIL;

	for (int i = 0; i < nparts; i++)
		views = lappend_oid(views, parts[i].session->slot->view);
	sagg_shared_rows_begin(sagg_batch_records(batch), views);
	for (int i = 0; i < nparts; i++)
		process_shared_part(&parts[i]);
	sagg_shared_rows_end();
}

/*
 * After the commit: shared memory, and what the session knows, as the tables
 * say.
 */
static void
publish_part(Part *part)
{
	SaggSession *session = part->session;

	sagg_store_publish(session->store);
	session->store_restored = true;
	SAGG_FAILPOINT("publish.done");
	sagg_checkpoint_published(session->checkpoint);
	advance(session, session->plan, &part->commit);
	sagg_idle_plan(session);
	if (is_careful(session) || part->commit.rows_out > 0)
		session->poison.windows_in_row = part->failed_in_row;
	sagg_poison_committed(session, &part->commit.counts);
}

/*
 * After the commit: rows that a sink has only prepared are to be seen.  An error is
 * its stream's.
 */
static void
commit_sinks(Part *parts, int nparts)
{
	for (int i = 0; i < nparts; i++)
	{
		SaggSession *session = parts[i].session;

		if (nparts > 1)
			session->lead->at_work = session;
		sagg_sink_committed(session->sink);
		session->lead->at_work = NULL;
	}
}

static void
report_part(const Part *part)
{
	SaggSession *session = part->session;

	if (!session->null_times_told)
		session->null_times_told = sagg_warn_of_null_times(session->stream, &part->commit.counts);
	sagg_warn_of_late_records(part->session, &part->commit.counts);
	sagg_warn_of_rejected_records(part->session, &part->commit.counts, part->first_rejected);
	sagg_warn_of_failed_windows(part->session, part->failed_windows, part->first_failed);
}

/*
 * READ, and what is to be known about it: the parts of the batch, one for each
 * stream that takes part, and in "losses" what Kafka did not have, or NULL.
 */
static Part *
begin_parts(SaggSession *session, int *nparts, char **losses)
{
	StageClock	clock;
	SaggCommit	read = {0};
	Part	   *parts;

	enter_stage(session, &clock, SAGG_READ);
	session->fault = SAGG_FAULT_READ;
	read_records(session, session->plan);
	session->fault = SAGG_FAULT_NONE;
	sagg_session_verify(session, NULL, 0);
	SAGG_FAILPOINT("read.done");
	read.losses = sagg_reader_losses(session->reader, &read.nlosses);
	*losses = sagg_describe_losses(session->plan, &read);
	leave_stage(&clock, &read);

	*nparts = list_length(session->sessions);
	parts = palloc0(sizeof(Part) * *nparts);
	for (int i = 0; i < *nparts; i++)
	{
		parts[i].session = list_nth(session->sessions, i);
		parts[i].commit = read;
		sagg_poison_begin(parts[i].session, parts[i].session->plan);
	}
	return parts;
}

/*
 * Run a planned batch to its commit: that of the session and of the streams that
 * take part, whose plans are in their sessions.  Raises an ERROR when it fails,
 * and the worker then cleans up and runs the same plan again.
 */
void
sagg_micro_batch(SaggSession *session, SaggPlan *plan)
{
	Part	   *parts;
	int			nparts;
	char	   *losses;
	Size		group_memory = 0;
	int			row_space = 0;

	session->plan = plan;
	sagg_mark_batch(plan->batch);
	MemoryContextSwitchTo(session->batch_memory);
	session->fault = SAGG_FAULT_NONE;
	parts = begin_parts(session, &nparts, &losses);
	sagg_reader_collect_ahead(session->reader);

	begin_transaction(session, plan);
	if (nparts > 1)
		process_shared_parts(parts, nparts);
	else
		process_part(parts);
	PopActiveSnapshot();
	SAGG_FAILPOINT("commit.before");
	for (int i = 0; i < nparts; i++)
		sagg_sink_committing(parts[i].session->sink);
	if (!EndTransactionBlock(false))
		elog(ERROR, "the transaction of a micro-batch has failed");
	CommitTransactionCommand();

	/*
	 * What fails from here on does not take the batch back: the stores are not
	 * undone then, nor half published, but discarded.
	 */
	for (int i = 0; i < nparts; i++)
		parts[i].session->store_restored = false;
	SAGG_FAILPOINT("commit.after");
	commit_sinks(parts, nparts);
	for (int i = 0; i < nparts; i++)
	{
		publish_part(&parts[i]);
		group_memory = Max(group_memory, parts[i].group_memory);
		row_space = Max(row_space, parts[i].row_space);
	}
	sagg_batch_size_committed(session, group_memory, row_space);
	sagg_reader_release(session->reader);
	if (session == session->lead)
		sagg_reader_commit(session->reader, session->progress->positions,
						   session->progress->npositions);
	MemoryContextSwitchTo(session->memory);
	for (int i = 0; i < nparts; i++)
		sagg_publish_statistics(parts[i].session);
	SAGG_FAILPOINT("batch.done");
	sagg_mark_batch(-1);
	for (int i = 0; i < nparts; i++)
		report_part(&parts[i]);
	sagg_warn_of_lost_offsets(session, losses);
}
