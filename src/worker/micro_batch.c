/*-------------------------------------------------------------------------
 *
 * micro_batch.c
 *	  One micro-batch: the place where the stages meet.
 *
 *		READ -> EXECUTE -> WRITE -> CHECKPOINT -> COMMIT -> publish
 *
 * READ waits for Kafka, outside of any transaction.  The other stages share
 * one transaction (I1): output rows, offsets, state and watermark are
 * committed together or not at all.  Only after the commit is shared memory
 * told (I3).  An ERROR before the commit leaves to the worker to put back the
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
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "define/define.h"
#include "worker_internal.h"

/* a warning is logged when more than this share of a batch was late */
#define LATE_SHARE_WARNING		10	/* one tenth */
#define LATE_WARNING_INTERVAL_MS	60000	/* and not more often */

typedef struct StageClock
{
	instr_time	started;
	SaggStage	stage;
	SaggCommit *commit;
} StageClock;

static void
enter_stage(SaggSession *session, StageClock *clock, SaggStage stage)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	if (stage != SAGG_READ)
	{
		instr_time	spent = now;

		INSTR_TIME_SUBTRACT(spent, clock->started);
		clock->commit->stage_time[clock->stage] += INSTR_TIME_GET_MICROSEC(spent);
	}
	clock->started = now;
	clock->stage = stage;
	sagg_session_stage(session, stage);
}

/*
 * READ: all records of the plan's ranges, in memory or in a temporary file.
 */
static void
read_records(SaggSession *session, const SaggPlan *plan)
{
	TimestampTz last_progress = GetCurrentTimestamp();

	sagg_reader_begin(session->reader, plan->ranges, plan->nranges);
	SAGG_FAILPOINT("read.begun");
	while (!sagg_reader_collect(session->reader))
	{
		if (sagg_session_wait(session, true, 500) &&
			sagg_reader_trouble(session->reader) == NULL)
			last_progress = GetCurrentTimestamp();
		sagg_session_report_silence(session, last_progress);
		if (TimestampDifferenceExceeds(last_progress, GetCurrentTimestamp(),
											sagg_kafka_timeout_ms))
		{
			const char *trouble = sagg_reader_trouble(session->reader);

			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("no records of %s from Kafka for %d s",
							sagg_reader_subject(session->reader),
							sagg_kafka_timeout_ms / 1000),
					 trouble ? errdetail("The broker connection reports: %s.", trouble) : 0));
		}
	}
	sagg_reader_look_up_schemas(session->reader);
}

/*
 * Begin the batch's transaction, with the plan's batch time as now().
 * StartTransaction takes the time of the statement for that; a parallel worker
 * is who may set it, as here.
 */
static void
begin_transaction(SaggSession *session, const SaggPlan *plan)
{
	int			save = ParallelWorkerNumber;

	ParallelWorkerNumber = 0;
	SetParallelStartTimestamps(plan->batch_time, plan->batch_time);
	ParallelWorkerNumber = save;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(session->batch_memory);
	sagg_session_check_stream(session);
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

	if (session->store && session->fingerprint != query->fingerprint)
	{
		sagg_store_close(session->store);
		session->store = NULL;
	}
	if (session->store == NULL)
	{
		session->store_restored = false;
		session->store = sagg_store_open(&session->slot->store,
										 sagg_shared->store_tranche,
										 sagg_state_budget(session->slot),
										 query->fingerprint,
										 session->progress->batch, &fresh);
		session->fingerprint = query->fingerprint;
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
 * An error of the query is, as a rule, one of the record read last.
 */
static void
record_error_context(void *arg)
{
	SaggPlace	place;

	if (sagg_scan_last_record(&place))
		errcontext("last record read: topic \"%s\", partition %d, offset " INT64_FORMAT,
				   sagg_topic_name(place.topic), place.partition, place.offset);
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
	if (session->stream->options.watermark_policy != SAGG_WATERMARK_PER_PARTITION)
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
 * processed go to "refusals", which is NULL if they are errors.
 */
static void
execute(SaggSession *session, SaggExecution *execution, SaggRefusals *refusals,
		SaggCommit *commit)
{
	SaggBatch  *batch = sagg_reader_batch(session->reader);
	SaggCounts *counts = &commit->counts;
	ErrorContextCallback callback;

	callback.callback = record_error_context;
	callback.arg = NULL;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	sagg_poison_refuse(session, refusals);
	sagg_scan_attach(session->stream->sources, batch, refusals);
	begin_event_times(session, execution, commit);
	session->fault = SAGG_FAULT_RECORDS;
	sagg_execution_run(execution);
	SAGG_FAILPOINT("execute.ran");
	sagg_scan_detach();
	error_context_stack = callback.previous;

	/* a window that closes is none of the record's that closes it */
	if (session->stream->mode == SAGG_APPEND)
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
 * Where the first record that was refused comes from, and why it was, for the
 * log.
 */
static char *
describe_first(SaggSession *session, const SaggRefusals *refusals)
{
	SaggPlace	place;

	sagg_batch_locate(sagg_reader_batch(session->reader), refusals->first.record,
					  &place);
	return psprintf("The first one, in partition %d of topic \"%s\" at offset " INT64_FORMAT ": %s",
					place.partition, sagg_topic_name(place.topic), place.offset,
					refusals->first.reason);
}

/*
 * The records refused, to where on_error says; a description for the log or,
 * if there are none, NULL.
 */
static char *
put_aside(SaggSession *session, const SaggPlan *plan, SaggRefusals *refusals,
		  SaggCommit *commit)
{
	SaggRefusedReader *reader;

	if (refusals == NULL || refusals->count == 0)
		return NULL;
	if (refusals->policy == SAGG_DEAD_LETTER)
	{
		reader = sagg_refused_open(sagg_reader_batch(session->reader),
								   refusals->list, refusals->count);
		sagg_checkpoint_dead_letters(session->checkpoint, plan, refusals,
									 sagg_refused_next, reader, commit);
		sagg_refused_close(reader);
	}
	return describe_first(session, refusals);
}

/*
 * Constraints and triggers that wait for the commit run now, as the current
 * user: in a batch as the owner, before CHECKPOINT (I8).
 */
void
sagg_fire_deferred_triggers(void)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->constraints = NIL;
	stmt->deferred = false;
	AfterTriggerSetState(stmt);
}

/*
 * WRITE: output rows to the sink, with all that its triggers do.
 */
static void
write_output(SaggSession *session, const SaggQuery *query,
			 SaggExecution *execution, SaggCommit *commit)
{
	SaggOutput	output;

	sagg_execution_output(execution, &output);
	if (session->delivery)
		sagg_delivery_begin(session->delivery, session->plan->batch,
							sagg_sink_identity(session->stream->sink, query),
							query->nidentity);
	sagg_sink_write(session->sink, query, &output, session->progress->replace,
					&commit->rows_out, &commit->rows_removed);
	sagg_delivery_end();
	sagg_execution_output_end(&output);
	SAGG_FAILPOINT("write.done");
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
	progress->totals.null_time += commit->counts.null_time;
	progress->totals.dead_lettered += commit->counts.dead_lettered;
	progress->totals.filtered += commit->counts.filtered;
	progress->total_rows_out += commit->rows_out;
	progress->total_rows_removed += commit->rows_removed;
	progress->total_skipped += sagg_skipped_offsets(plan, commit);
	progress->committed = GetCurrentTimestamp();
	progress->replace = false;
}

/*
 * Many late records are a sign of something to look at, now and then.
 */
static void
warn_of_late_records(const SaggSession *session, const SaggCounts *counts)
{
	static TimestampTz last_warning = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (counts->late * LATE_SHARE_WARNING <= counts->aggregated + counts->late ||
		!TimestampDifferenceExceeds(last_warning, now, LATE_WARNING_INTERVAL_MS))
		return;
	last_warning = now;
	ereport(WARNING,
			(errmsg("stream \"%s\": " INT64_FORMAT " of " INT64_FORMAT " records of a micro-batch were late",
					sagg_stream_title(session->stream->name), counts->late,
					counts->aggregated + counts->late),
			 errdetail("Their windows end at or before the watermark, so they are counted and left out."),
			 errhint("Perhaps one partition is ahead of the others, the clock of a producer is far ahead, or the stream's watermark is too short.")));
}

/*
 * One warning a batch, however many there are.
 */
static void
warn_of_refused_records(const SaggSession *session, const SaggCounts *counts,
						const char *first)
{
	if (first == NULL)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_SAGG_INVALID_RECORD),
			 session->stream->options.on_error == SAGG_DEAD_LETTER ?
			 errmsg("stream \"%s\": " INT64_FORMAT " of " INT64_FORMAT " records of a micro-batch are dead letters",
					sagg_stream_title(session->stream->name), counts->dead_lettered, counts->delivered) :
			 errmsg("stream \"%s\": " INT64_FORMAT " of " INT64_FORMAT " records of a micro-batch were skipped",
					sagg_stream_title(session->stream->name), counts->dead_lettered, counts->delivered),
			 errdetail_internal("%s", first)));
}

static void
append_losses(StringInfo buf, const SaggRange *losses, int n)
{
	for (int i = 0; i < n; i++)
		appendStringInfo(buf,
						 losses[i].end > losses[i].start ?
						 "%sopic \"%s\", partition %d: offsets " INT64_FORMAT " to " INT64_FORMAT :
						 "%sopic \"%s\", partition %d: it ends before offset " INT64_FORMAT ", and is read from offset " INT64_FORMAT,
						 buf->len > 0 ? "; t" : "T",
						 sagg_topic_name(losses[i].topic), losses[i].partition,
						 losses[i].start,
						 losses[i].end - (losses[i].end > losses[i].start ? 1 : 0));
}

/*
 * What the batch would have had to read and Kafka did not have; NULL if there
 * is nothing.
 */
static char *
describe_losses(const SaggPlan *plan, const SaggCommit *commit)
{
	StringInfoData buf;

	if (plan->nskipped + commit->nlosses == 0)
		return NULL;
	initStringInfo(&buf);
	append_losses(&buf, plan->skipped, plan->nskipped);
	append_losses(&buf, commit->losses, commit->nlosses);
	return buf.data;
}

static void
warn_of_lost_offsets(const SaggSession *session, const char *losses)
{
	if (losses == NULL)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_SAGG_OFFSETS_GONE),
			 errmsg("stream \"%s\" goes on without offsets that Kafka does not have",
					session->stream->name),
			 errdetail_internal("%s.", losses),
			 errhint("The topic's retention was too short for the time the stream did not run, or the topic was made anew.")));
}

/*
 * Run a planned batch to its commit.  Raises an ERROR when it fails, and the
 * worker then cleans up and runs the same plan again.
 */
void
sagg_micro_batch(SaggSession *session, SaggPlan *plan)
{
	SaggCommit	commit = {0};
	StageClock	clock = {.commit = &commit};
	SaggQuery  *query;
	SaggExecution *execution;
	SaggRefusals *refusals = NULL;
	SaggLateRows late = {0};
	char	   *first_refused;
	char	   *losses;

	session->plan = plan;
	MemoryContextSwitchTo(session->batch_memory);
	session->fault = SAGG_FAULT_NONE;

	enter_stage(session, &clock, SAGG_READ);
	read_records(session, plan);
	sagg_session_verify(session, NULL, 0);
	SAGG_FAILPOINT("read.done");
	commit.losses = sagg_reader_losses(session->reader, &commit.nlosses);
	losses = describe_losses(plan, &commit);
	sagg_poison_begin(session, plan);

	enter_stage(session, &clock, SAGG_EXECUTE);
	begin_transaction(session, plan);
	query = sagg_query_of_view(session->stream);
	execution = begin_execution(session, query, plan);
	if (session->stream->options.on_error != SAGG_FAIL)
		refusals = sagg_refusals_make(session->stream->options.on_error);
	sagg_execution_refuse(execution, refusals,
						  sagg_sink_max_key_bytes(session->stream->sink, query));
	if (session->stream->options.late_records)
		sagg_execution_keep_late(execution, &late);
	execute(session, execution, refusals, &commit);

	enter_stage(session, &clock, SAGG_WRITE);
	write_output(session, query, execution, &commit);

	session->fault = SAGG_FAULT_NONE;
	enter_stage(session, &clock, SAGG_CHECKPOINT);
	first_refused = put_aside(session, plan, refusals, &commit);
	sagg_keep_late_records(session, plan, &late, refusals, &commit);
	commit.last = sagg_last_records(session, plan, &commit.nlast);
	sagg_checkpoint_commit(session->checkpoint, session->progress, plan, &commit,
						   sagg_execution_state(execution));
	sagg_idle_windows(session, execution);
	sagg_execution_end(execution);
	PopActiveSnapshot();
	SAGG_FAILPOINT("commit.before");
	CommitTransactionCommand();

	/*
	 * What fails from here on does not take the batch back: the store is not
	 * undone then, nor half published, but discarded.
	 */
	session->store_restored = false;
	SAGG_FAILPOINT("commit.after");
	sagg_store_publish(session->store);
	session->store_restored = true;
	SAGG_FAILPOINT("publish.done");
	sagg_checkpoint_published(session->checkpoint);
	advance(session, plan, &commit);
	sagg_idle_plan(session);
	sagg_poison_committed(session, &commit.counts);
	sagg_reader_release(session->reader);
	sagg_reader_commit(session->reader, session->progress->positions,
					   session->progress->npositions);
	MemoryContextSwitchTo(session->memory);
	sagg_publish_statistics(session);
	SAGG_FAILPOINT("batch.done");
	warn_of_late_records(session, &commit.counts);
	warn_of_refused_records(session, &commit.counts, first_refused);
	warn_of_lost_offsets(session, losses);
}
