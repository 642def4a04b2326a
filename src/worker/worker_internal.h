/*-------------------------------------------------------------------------
 *
 * worker_internal.h
 *	  What the files of this room share.
 *
 * README.md in this folder shows how long readings, runs, batches and stores
 * live, and who owns them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_WORKER_INTERNAL_H
#define SAGG_WORKER_INTERNAL_H

#include "control/control.h"

#include "checkpoint/checkpoint.h"
#include "postmaster/bgworker.h"
#include "storage/proc.h"
#include "worker/worker.h"
#include "write/write.h"

/* streams that share a reader catch up with each other over up to so many offsets */
#define SAGG_CLOSE_OFFSETS		100000

/* the records of a plan are suspects after so many workers have ended in it */
#define SAGG_CRASHES			3

/* what a process knows about records that make batches fail (poison.c) */
typedef struct SaggPoison
{
	bool		opened;			/* "found" has been set */
	bool		planned;		/* the process has planned a batch */
	int64		found;			/* batch that another process has left, -1 =
								 * none */
	bool		counted;		/* the log has this process's attempt at it */
	int64		failed;			/* batch that must not be run again as it is,
								 * -1 = none */
	int			sqlstate;		/* why */
	char	   *message;		/* in TopMemoryContext */
	char	   *detail;
	SaggPlace	last;			/* the record read last then; partition -1 =
								 * unknown */
	bool		set_aside;		/* the batch's only record is left out */
	int			in_row;			/* records left out since one was aggregated */
	bool		windows;		/* the last error was about closing windows */
	int			windows_in_row; /* groups left out since one was given out */
	int64		careful;		/* batch that writes its groups one by one,
								 * because its closing windows have failed; -1
								 * = none */
	bool		avoidable;		/* another on_error would go on after the last
								 * error */
	TimestampTz gave_up;		/* when a row had no partition after all
								 * attempts, 0 = never */
} SaggPoison;

/* A partition that seems to end before the stream's position. */
typedef struct SaggEndDoubt
{
	int32		topic;
	int32		partition;
	TimestampTz since;
	bool		settled;		/* a later answer says otherwise */
} SaggEndDoubt;

typedef struct SaggReading SaggReading;

/*
 * A stream run: the work of this process for one stream, from its checkpoint to
 * its sink.  Its records come from a reading, which may feed other runs too.
 */
typedef struct SaggStreamRun
{
	/* from taking the slot to its release */
	SaggSlot   *slot;
	SaggReading *reading;
	MemoryContext memory;		/* reset when the run is closed */
	bool		locked;			/* the stream's lock is held (I2): from
								 * sagg_run_load to the next ERROR or the end */
	bool		started;		/* stream_agg.events says so */
	bool		warned_of_null_times;
	uint64		request;		/* of process_available, being served; 0 =
								 * none */
	int			attempts;		/* failed ones in a row */
	int64		last_batches;	/* batches done when the last of them failed */
	bool		stops_all;		/* these options as of the last error */
	bool		retries;
	SaggPoison	poison;
	int64		too_large;		/* batch that is to be made smaller, -1 = none */
	int			too_large_code; /* SQLSTATE that says why */
	bool		over_limit;		/* the last error was about temp_file_limit,
								 * and the batch cannot be made smaller */
	SaggRange  *unfinished;		/* what a trigger could read, while batches
								 * are smaller (unfinished.c); in
								 * TopMemoryContext */
	int			nunfinished;
	SaggStoreBudget budget;

	/* from sagg_run_load to sagg_run_close */
	SaggStream *stream;
	SaggCheckpoint *checkpoint;
	SaggSink   *sink;
	SaggProgress *progress;		/* as of the last commit, in "memory" */
	bool		new_partitions; /* in progress, not in stream_agg.sources yet */
	TimestampTz checked;		/* when the catalogs were last read for it */
	uint64		trusted_as_of;	/* sagg_catalog_changes() when the owners were
								 * last read */
	TimestampTz idle_due;		/* when a batch without records would close a
								 * window, DT_NOEND = never
								 * (quiet_partitions.c) */
	TimestampTz next_end;		/* of the first open window */
	int64		clock_ahead;	/* of event time, by the time zone */

	/* from the first batch on */
	struct SaggKeptQuery *query;	/* NULL before */
	SaggStore  *store;			/* NULL before */
	bool		store_undoable; /* after an ERROR it is undone to the last
								 * commit; otherwise it is restored in half,
								 * or its batch is committed, and it is
								 * discarded */
	uint64		fingerprint;	/* of the definition it was opened for */
	SaggIdentity identity;

	/* of the batch at hand */
	SaggPlan   *plan;			/* NULL between batches */
	SaggFault	fault;
} SaggStreamRun;

/* memory that batches of this process have freed */
typedef struct SaggMemoryUse
{
	TimestampTz used;			/* when the last batch ended */
	TimestampTz since;			/* since when there is memory to give back, 0
								 * = there is none */
} SaggMemoryUse;

/*
 * A reading: a source reader, what waits for it and what paces it.  The process
 * has one, and opens it for one of its streams, the leader; streams that share
 * the reader are further members.  Members that stand at the same offsets are
 * the runs of its batches (shared_reader.c).
 */
struct SaggReading
{
	/* as long as the process */
	SaggStreamRun *leader;
	List	   *members;		/* of SaggStreamRun: the leader, then the
								 * others */
	SaggStreamRun *current;		/* whose work an error would be about; NULL =
								 * all members' */
	bool		opening;		/* members are being opened */
	bool		silence_logged; /* the log says that the source does not
								 * answer */
	int64		size_limit;		/* most offsets of a batch, 0 = no limit */
	TimestampTz statistics_due; /* when to report those of tables, 0 = none */
	SaggMemoryUse memory_use;

	/* from opening to closing, in "memory" */
	MemoryContext memory;
	MemoryContext batch_memory; /* reset by each micro-batch */
	SaggReader *reader;
	struct WaitEventSet *waitset;
	List	   *runs;			/* of SaggStreamRun, one at least: those that
								 * take part in its batches */
	List	   *recreated;		/* numbers of topics that were deleted and
								 * created again since they were read;
								 * on_data_loss has them read from their
								 * beginning */
	List	   *doubts;			/* of SaggEndDoubt */

	/* the clock of triggers */
	TimestampTz next_trigger;
	bool		behind;			/* the last batch left records in the source */
	bool		doubtful;		/* the last plan leaves out a partition whose
								 * end is in doubt */
	TimestampTz recheck_at;		/* too few records for a batch: when to look
								 * again, 0 = not so */

	struct SaggExecutors *executors;	/* executor_pool.c; NULL = none */
	bool		dealt;			/* it is decided which there are */

	/* of the batch at hand */
	int			schemas_asked;	/* in percent of what one may ask for */
};

/*
 * All runs of a reading stand at the same offsets.  The first one's options
 * bound its batches, and its positions are the reading's.
 */
static inline SaggStreamRun *
sagg_first_run(const SaggReading *reading)
{
	return (SaggStreamRun *) linitial(reading->runs);
}

/* start_process.c */
extern bool sagg_start_process(const char *function, const char *type,
							   const char *name, Datum arg,
							   BackgroundWorkerHandle **handle);

/* database_scan.c */
extern struct BackgroundWorkerHandle *sagg_database_scan_start(Oid database);

/* observer.c */
extern TimestampTz sagg_observers_tend(void);

/* scan_schedule.c */
extern void sagg_scan_schedule_add(Oid database);
extern void sagg_scan_schedule_keep(const List *databases);
extern TimestampTz sagg_scan_schedule_tend(void);

/* worker_memory.c */
extern void sagg_memory_keep(void);
extern void sagg_memory_used(SaggMemoryUse *use);
extern long sagg_memory_rest(SaggMemoryUse *use, const SaggSlot *slot,
							 SaggReader *reader, long timeout_ms);

/* worker_slot.c */
extern void sagg_worker_attach(SaggReading *reading, SaggStreamRun *leader, int i);
extern void sagg_worker_connected(void);
pg_noreturn extern void sagg_worker_leave(SaggStreamRun *run, SaggExit how);
extern void sagg_run_init(SaggStreamRun *run, SaggReading *reading, SaggSlot *slot);
extern bool sagg_run_is_to_stop(const SaggStreamRun *run);
extern void sagg_run_stopped(const SaggStreamRun *run);

/* stream_run.c */
extern void sagg_worker_reset_role(void);
extern bool sagg_run_load(SaggStreamRun *run, SaggExit *how);
extern void sagg_run_open(SaggStreamRun *run);
extern void sagg_run_close(SaggStreamRun *run);
extern void sagg_run_settings(const SaggStreamRun *run);
extern int	sagg_run_settings_begin(const SaggStreamRun *run);
extern void sagg_run_stage(SaggStreamRun *run, SaggStage stage);
extern void sagg_run_check_owners(SaggStreamRun *run);
extern void sagg_run_check_stream(SaggStreamRun *run);
extern void sagg_run_check_now(SaggStreamRun *run);
extern void sagg_run_check_idle(SaggStreamRun *run);

/* shared_reader.c */
extern SaggSlot *sagg_slot_leader(const SaggSlot *slot);
extern SaggStreamRun *sagg_member_adopt(SaggReading *reading);
extern void sagg_member_join(SaggStreamRun *member);
extern void sagg_member_release(SaggStreamRun *member, SaggExit how);
extern bool sagg_reading_group_changed(SaggReading *reading);
extern void sagg_members_check_stop(SaggReading *reading);
extern void sagg_members_close(SaggReading *reading);

/* reading.c */
extern void sagg_reading_open(SaggReading *reading);
extern void sagg_reading_close(SaggReading *reading);
extern bool sagg_reading_wait(SaggReading *reading, bool source, long timeout_ms);
extern void sagg_reading_report_silence(SaggReading *reading, TimestampTz since);
extern void sagg_reading_check_stop(SaggReading *reading);
extern bool sagg_reading_has_records(SaggReading *reading);
pg_noreturn extern void sagg_raise_no_records(SaggReader *reader);

/* executor_pool.c */
typedef struct SaggExecutors SaggExecutors;

extern SaggRange *sagg_executors_assign(SaggReading *reading, SaggRange *positions, int *n);
extern void sagg_executors_close(SaggReading *reading);
extern bool sagg_executors_are_wanted(const SaggReading *reading);
extern bool sagg_executors_give_way(SaggReading *reading);
extern void sagg_executors_plan(const SaggReading *reading, SaggPlan *plan);
extern bool sagg_executors_have_records(SaggReading *reading);
extern int64 sagg_executors_gap_end(SaggReading *reading, const SaggRange *range);

/* executor_shares.c */
extern const SaggRange *sagg_executors_read(SaggReading *reading, const SaggPlan *plan,
											bool skips, int *n);
extern bool sagg_executors_collect(SaggReading *reading);
extern const SaggRange *sagg_executors_losses(SaggReading *reading,
											  const SaggRange *losses, int *n);
extern bool sagg_executors_were_broken(SaggReading *reading);
extern int	sagg_executors_schemas_asked(const SaggReading *reading);
extern bool sagg_executors_last_record(const SaggReading *reading,
									   const SaggRange *range, SaggRange *last);
extern int64 sagg_executors_records(const SaggReading *reading);
extern void sagg_executors_execute(SaggStreamRun *run, const SaggQuery *query,
								   const SaggCommit *commit, Size max_key_bytes,
								   bool keeps_late, bool bound_rows);
extern void sagg_executors_watch(SaggReading *reading, void (*run) (void *arg),
								 void *arg);
extern void sagg_executors_take(SaggReading *reading, SaggExecution *execution,
								SaggRejections *rejections);
extern int64 sagg_executors_rejected(const SaggReading *reading);
extern int64 sagg_executors_late(const SaggReading *reading);
extern char *sagg_executors_first_rejected(const SaggReading *reading);
extern Size sagg_executors_group_memory(const SaggReading *reading);
extern void sagg_executors_release(SaggReading *reading);

/* the records that all processes of a batch divert, one after the other */
typedef struct SaggDiverted
{
	SaggReading *reading;
	bool		late;			/* late records; otherwise rejected ones */
	SaggNextDivertedRecord own; /* those of the stream's worker; NULL = none,
								 * or none any more */
	void	   *arg;
	int			executor;		/* whose turn it is, from 0 */
	bool		asked;			/* it has been asked for them */
} SaggDiverted;

extern void sagg_diverted_begin(SaggDiverted *diverted, SaggReading *reading, bool late,
								SaggNextDivertedRecord own, void *arg);
extern bool sagg_diverted_next(void *arg, SaggDivertedRecord *record);

/* join_reader.c */
extern void sagg_members_open(SaggReading *reading);
extern void sagg_reading_change_group(SaggReading *reading);

/* trigger.c */
extern void sagg_trigger_loop(SaggReading *reading);

/* micro_batch.c */
extern void sagg_micro_batch(SaggReading *reading);

/* batch_warnings.c */
extern char *sagg_describe_rejection(SaggBatch *batch, const SaggRejection *rejection);
extern char *sagg_describe_losses(const SaggPlan *plan, const SaggCommit *commit);
extern void sagg_warn_of_late_records(const SaggStreamRun *run,
									  const SaggCounts *counts);
extern void sagg_warn_of_failed_windows(const SaggStreamRun *run, int failed,
										const char *first);
extern void sagg_warn_of_rejected_records(const SaggStreamRun *run,
										  const SaggCounts *counts,
										  const char *first);
extern void sagg_warn_of_lost_offsets(const SaggStreamRun *run,
									  const char *losses);

/* plan_log.c */
extern bool sagg_reading_replaces(const SaggReading *reading);
extern void sagg_plan_transaction(SaggStreamRun *run, bool durable);
extern void sagg_plan_commit(void);

/* unfinished.c */
extern void sagg_unfinished_forget(SaggStreamRun *run);
extern void sagg_unfinished_note(SaggReading *reading, const SaggRange *ranges, int n);
extern bool sagg_is_unfinished(const SaggStreamRun *run);
extern int	sagg_unfinished_keep(const SaggStreamRun *run, SaggRange *ranges, int n);

/* batch_plan.c */
extern void sagg_reading_add_partitions(SaggReading *reading,
										const SaggRange *bounds, int nbounds);
extern bool sagg_batch_plan(SaggReading *reading, const SaggRange *bounds,
							int nbounds, const SaggRange *target,
							int ntarget);

/* start_offsets.c */
extern bool sagg_run_add_position(SaggStreamRun *run, const SaggRange *first);
extern void sagg_run_check_topics(SaggStreamRun *run, const SaggRange *bounds,
								  int nbounds);
extern void sagg_run_find_start(SaggStreamRun *run, SaggStreamRun *like);
extern void sagg_reading_find_start(SaggReading *reading);
extern List *sagg_run_recreated_topics(SaggStreamRun *run,
									   const SaggRange *bounds, int nbounds);
extern void sagg_reading_assign(SaggReading *reading, const SaggRange *bounds,
								int nbounds);
extern void sagg_reading_verify(SaggReading *reading, const SaggRange *bounds,
								int nbounds);
extern SaggRange *sagg_last_records(SaggStreamRun *run, int *n);

/* retention.c */
extern void sagg_leave_out_expired(const SaggStreamRun *run, const SaggQuery *query,
								   SaggOutput *output, SaggCommit *commit);
extern void sagg_expire_rows(const SaggStreamRun *run, const SaggQuery *query,
							 SaggCommit *commit);
extern List *sagg_expired_partitions(const SaggStreamRun *run, const SaggQuery *query);

/* late_records.c */
typedef struct SaggLateReader SaggLateReader;

extern int64 sagg_late_settle(SaggLateRows *late, const SaggRejections *rejections);
extern SaggLateReader *sagg_late_open(SaggBatch *batch, SaggLateRows *late);
extern bool sagg_late_next(void *reader, SaggDivertedRecord *diverted);
extern void sagg_late_close(SaggLateReader *reader);
extern void sagg_keep_late_records(SaggStreamRun *run, SaggLateRows *late,
								   const SaggRejections *rejections,
								   SaggCommit *commit);

/* quiet_partitions.c */
extern SaggPartitionTime *sagg_run_times(const SaggStreamRun *run,
										 TimestampTz batch_time, int *n);
extern void sagg_times_found(const SaggStreamRun *run, SaggPartitionTime *times,
							 int n, TimestampTz batch_time);
extern void sagg_plan_quiet(const SaggStreamRun *run, SaggPlan *plan,
							const SaggRange *bounds, int nbounds);
extern void sagg_idle_windows(SaggStreamRun *run, SaggExecution *execution);
extern void sagg_idle_begin(SaggStreamRun *run);
extern void sagg_idle_plan(SaggStreamRun *run);
extern TimestampTz sagg_reading_idle_due(const SaggReading *reading);
extern bool sagg_idle_closes(const SaggStreamRun *run, const SaggPlan *plan);

/* smaller_plan.c */
extern int64 sagg_plan_offsets(const SaggPlan *plan);
extern SaggPlan *sagg_plan_copy(SaggStreamRun *run, const SaggPlan *failed);
extern SaggPlan *sagg_plan_half(SaggStreamRun *run, const SaggPlan *failed);
extern void sagg_plan_replace(SaggStreamRun *run, const SaggPlan *failed,
							  SaggPlan *plan);

/* batch_size.c */
extern bool sagg_batch_size_failed(SaggStreamRun *run, const ErrorData *error);
extern SaggPlan *sagg_batch_size_retry(SaggStreamRun *run, SaggPlan *plan);
extern int64 sagg_batch_size_bound(const SaggReading *reading, int64 limit);
extern void sagg_batch_size_committed(SaggReading *reading, Size memory, int space);

/* clip_reports.c */
#define SAGG_MAX_REPORT_BYTES	2048	/* of each part of a message in the
										 * log */

extern void sagg_clip_reports(void);

/* poison.c */
extern void sagg_poison_opened(SaggStreamRun *run);
extern void sagg_poison_forget(SaggPoison *poison);
extern bool sagg_poison_durable_plan(SaggStreamRun *run);
extern bool sagg_poison_blames_group(SaggStreamRun *run, const ErrorData *error);
extern bool sagg_poison_failed(SaggStreamRun *run, const ErrorData *error);
extern SaggPlan *sagg_poison_retry(SaggStreamRun *run, SaggPlan *plan);
extern void sagg_poison_begin(SaggStreamRun *run);
extern void sagg_poison_reject(SaggStreamRun *run, SaggRejections *rejections);
extern void sagg_poison_left_out(const SaggStreamRun *run, int *sqlstate,
								 char **message, char **detail);
extern void sagg_poison_committed(SaggStreamRun *run, const SaggCounts *counts);

/* failed_windows.c */
extern void sagg_write_carefully(SaggStreamRun *run, const SaggQuery *query,
								 SaggExecution *execution, SaggCommit *commit);
extern char *sagg_keep_failed_windows(SaggStreamRun *run,
									  const SaggExecution *execution);

/* health.c */
extern void sagg_record_event(SaggSlot *slot, const char *event, const char *message);
extern void sagg_run_started(SaggStreamRun *run);
extern void sagg_note_error(SaggStreamRun *run, const ErrorData *error,
							bool failed, TimestampTz next);
extern void sagg_reading_recovered(SaggReading *reading);

/* statistics.c */
extern void sagg_publish_statistics(SaggStreamRun *run);
extern void sagg_publish_ends(SaggReading *reading, const SaggRange *bounds,
							  int nbounds);
extern void sagg_slot_set_ends(SaggSlot *slot, const SaggRange *bounds, int nbounds);
extern void sagg_publish_no_news(SaggReading *reading);

#endif							/* SAGG_WORKER_INTERNAL_H */
