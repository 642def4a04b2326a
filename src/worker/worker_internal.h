/*-------------------------------------------------------------------------
 *
 * worker_internal.h
 *	  What the files of this room ask of each other.
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

/* streams that share a reader are brought level when no more offsets lie between */
#define SAGG_CLOSE_OFFSETS		100000

/* so many workers must have ended in a plan before its records are suspects */
#define SAGG_CRASHES			3

/* start_process.c */
extern bool sagg_start_process(const char *function, const char *type,
							   const char *name, Datum arg,
							   BackgroundWorkerHandle **handle);

/* database_scan.c */
extern struct BackgroundWorkerHandle *sagg_scout_send(Oid database);

/* observer.c */
extern TimestampTz sagg_observers_tend(void);

/* scan_schedule.c */
extern void sagg_visit_add(Oid database);
extern void sagg_visits_keep(const List *databases);
extern TimestampTz sagg_visits_tend(void);

/* whose fault an error is that is raised now, if it is one of data */
typedef enum SaggFault
{
	SAGG_FAULT_NONE,			/* nobody's */
	SAGG_FAULT_READ,			/* of how much the batch reads */
	SAGG_FAULT_RECORDS,			/* of a record of the batch */
	SAGG_FAULT_WINDOWS			/* of windows that close, and so of no record */
} SaggFault;

/* what a process knows of records that make batches fail (poison.c) */
typedef struct SaggPoison
{
	bool		opened;			/* "found" has been set */
	bool		planned;		/* the process has planned a batch */
	int64		found;			/* batch that another process has left, -1 =
								 * none */
	bool		counted;		/* and its attempt by this one is in the log */
	int64		failed;			/* batch that must not be run again as it is,
								 * -1 = none */
	int			sqlstate;		/* why */
	char	   *message;		/* in TopMemoryContext */
	char	   *detail;
	SaggPlace	last;			/* the record read last then; partition -1:
								 * unknown */
	bool		set_aside;		/* its single record is left out */
	int			in_row;			/* records left out with none aggregated between */
	bool		windows;		/* the last error was one of closing windows */
	int			windows_in_row;	/* groups left out with none given out between */
	int64		careful;		/* batch whose groups are written one by one, as
								 * its closing windows have failed, -1 = none */
	bool		avoidable;		/* or of a record that another on_error leaves
								 * out */
} SaggPoison;

/* A partition that is said to end before what has been read of it. */
typedef struct SaggEndDoubt
{
	int32		topic;
	int32		partition;
	TimestampTz since;
	bool		settled;		/* it does not any more */
} SaggEndDoubt;

/*
 * A worker's view of a stream.  Of several that share a reader, one leads: it
 * has the reader, the set of events to wait for and the memory of batches, and
 * the others, its followers, point to them (shared_reader.c).
 */
typedef struct SaggSession
{
	SaggSlot   *slot;
	struct SaggSession *lead;	/* whose reader this is: its own session, or
								 * that of another stream */
	List	   *held;			/* of a lead: itself, and the sessions of the
								 * others that its process works for */
	List	   *sessions;		/* itself, and of a lead those that take part in
								 * its batches */
	uint64		request;		/* of process_available, being served; 0 = none */
	struct SaggSession *at_work;	/* of a lead: the one whose fault an error
									 * would be, NULL = that of all */
	int			attempts;		/* failed ones in a row */
	int64		last_batches;	/* done at the last of them */
	bool		stops_all;		/* the option, as of the last error */
	bool		retries;		/* and its other value */
	bool		started;		/* and the log of events says so */
	bool		opening;		/* of a lead: others are being opened */
	SaggStoreBudget budget;
	bool		locked;			/* the stream's lock is held (I2) */
	MemoryContext memory;		/* lives as long as the session */
	MemoryContext batch_memory;	/* reset by each micro-batch */

	SaggStream *stream;
	SaggReader *reader;
	SaggCheckpoint *checkpoint;
	SaggSink   *sink;
	SaggStore  *store;			/* NULL until the first batch */
	bool		store_restored; /* it holds the state of the last commit, and
								 * perhaps a batch that can be undone */
	uint64		fingerprint;	/* of the definition it was opened for */
	SaggIdentity identity;
	SaggProgress *progress;		/* as of the last commit, in "memory" */
	bool		new_partitions; /* in progress, not in stream_agg.sources yet */
	SaggPlan   *plan;			/* of the batch at hand, for messages */
	struct WaitEventSet *waitset;
	SaggFault	fault;
	SaggPoison	poison;			/* lives as long as the process */
	int64		too_large;		/* batch that is to be made smaller, or another
								 * number; so do these and the next */
	int			too_large_code; /* SQLSTATE that says why */
	bool		over_limit;		/* what exceeds temp_file_limit cannot be made
								 * smaller */
	int			schemas_asked;	/* for the batch at hand, in percent */
	int64		size_limit;		/* of a lead: most offsets of a batch, 0 = not so */
	TimestampTz next_trigger;
	bool		behind;			/* the last batch left records in Kafka */
	TimestampTz stream_checked; /* when the catalogs were last asked about it */
	List	   *made_anew;		/* numbers of topics that are others than those
								 * read; on_data_loss says to read them from
								 * their beginning */
	List	   *doubts;			/* of SaggEndDoubt, in "memory" */
	bool		doubtful;		/* the last plan leaves a partition out for one */
	TimestampTz held_until;		/* too few records for a batch: when to look
								 * again, 0 = not so */
	TimestampTz idle_due;		/* when a batch without records would close a
								 * window, DT_NOEND = never; see quiet_partitions.c */
	TimestampTz next_end;		/* of the first open window */
	int64		clock_ahead;	/* of event time, by the time zone */
	bool		silence_logged; /* Kafka does not answer, and the log says so */
	bool		null_times_told;	/* records without event times, and the log
									 * says so */
	TimestampTz statistics_due; /* when to report those of tables, 0 = none */
} SaggSession;

/* stream_run.c */
extern void sagg_session_attach(SaggSession *session, int i);
extern void sagg_session_connected(void);
extern void sagg_worker_reset_role(void);
pg_noreturn extern void sagg_session_leave(SaggSession *session, SaggExit how);
extern void sagg_session_settings(const SaggSession *session);
extern int	sagg_session_settings_begin(const SaggSession *session);
extern void sagg_session_stage(SaggSession *session, SaggStage stage);
extern bool sagg_session_wait(SaggSession *session, bool kafka, long timeout_ms);
extern void sagg_session_report_silence(SaggSession *session, TimestampTz since);
extern bool sagg_session_told_to_stop(const SaggSession *session);
extern void sagg_session_check_stop(SaggSession *session);
extern void sagg_session_check_owners(SaggSession *session);
extern void sagg_session_check_stream(SaggSession *session);
extern void sagg_session_check_now(SaggSession *session);
extern void sagg_session_check_idle(SaggSession *session);

/* stream_worker.c */
extern bool sagg_session_take(SaggSession *session, SaggExit *how);
extern void sagg_session_open_parts(SaggSession *session);
extern void sagg_session_close_parts(SaggSession *session);

/* shared_reader.c */
extern SaggSlot *sagg_slot_lead(const SaggSlot *slot);
extern SaggSession *sagg_follower_claim(SaggSession *lead);
extern void sagg_follower_joined(SaggSession *follower);
extern void sagg_session_init(SaggSession *session, SaggSession *lead,
							  SaggSlot *slot);
extern bool sagg_reader_company_changed(SaggSession *session);
extern void sagg_follower_release(SaggSession *follower, SaggExit how);
extern void sagg_followers_check_stop(SaggSession *lead);
extern void sagg_followers_close(SaggSession *lead);

/* join_reader.c */
extern void sagg_followers_open(SaggSession *lead);
extern void sagg_company_change(SaggSession *session);

/* trigger.c */
extern void sagg_trigger_loop(SaggSession *session);

/* micro_batch.c */
extern void sagg_micro_batch(SaggSession *session, SaggPlan *plan);

/* batch_warnings.c */
extern char *sagg_describe_losses(const SaggPlan *plan, const SaggCommit *commit);
extern void sagg_warn_of_late_records(const SaggSession *session,
									  const SaggCounts *counts);
extern void sagg_warn_of_failed_windows(const SaggSession *session, int failed,
										const char *first);
extern void sagg_warn_of_refused_records(const SaggSession *session,
										 const SaggCounts *counts,
										 const char *first);
extern void sagg_warn_of_lost_offsets(const SaggSession *session,
									  const char *losses);

/* batch_plan.c */
extern bool sagg_session_replaces(const SaggSession *session);
extern void sagg_session_add_partitions(SaggSession *session,
										const SaggRange *bounds, int nbounds);
extern SaggPlan *sagg_batch_plan(SaggSession *session, const SaggRange *bounds,
								 int nbounds);

/* start_offsets.c */
extern bool sagg_session_add_position(SaggSession *session,
									  const SaggRange *first);
extern void sagg_session_check_topics(SaggSession *session,
									  const SaggRange *bounds, int nbounds);
extern void sagg_session_settle(SaggSession *session, SaggSession *like);
extern void sagg_session_origin(SaggSession *session);
extern bool sagg_session_other_topics(SaggSession *session,
									  const SaggRange *bounds, int nbounds);
extern void sagg_session_assign(SaggSession *session, const SaggRange *bounds,
								int nbounds);
extern void sagg_session_verify(SaggSession *session, const SaggRange *bounds,
								int nbounds);
extern SaggRange *sagg_last_records(SaggSession *session, const SaggPlan *plan,
									int *n);

/* batch_plan.c */
extern void sagg_plan_transaction(SaggSession *session, bool durable);
extern void sagg_plan_commit(SaggSession *session);

/* retention.c */
extern void sagg_leave_out_expired(const SaggSession *session, const SaggQuery *query,
								   SaggOutput *output, SaggCommit *commit);
extern void sagg_expire_rows(const SaggSession *session, const SaggQuery *query,
							 SaggCommit *commit);

/* late_records.c */
extern void sagg_keep_late_records(SaggSession *session, const SaggPlan *plan,
								   SaggLateRows *late, const SaggRefusals *refusals,
								   SaggCommit *commit);

/* quiet_partitions.c */
extern SaggPartitionTime *sagg_session_times(const SaggSession *session,
											 TimestampTz batch_time, int *n);
extern void sagg_times_found(const SaggSession *session, SaggPartitionTime *times,
							 int n, TimestampTz batch_time);
extern void sagg_plan_quiet(const SaggSession *session, SaggPlan *plan,
							const SaggRange *bounds, int nbounds);
extern void sagg_idle_windows(SaggSession *session, SaggExecution *execution);
extern void sagg_idle_begin(SaggSession *session);
extern void sagg_idle_plan(SaggSession *session);
extern TimestampTz sagg_idle_due(const SaggSession *session);
extern bool sagg_idle_closes(const SaggSession *session, const SaggPlan *plan);

/* smaller_plan.c */
extern int64 sagg_plan_offsets(const SaggPlan *plan);
extern SaggPlan *sagg_plan_copy(SaggSession *session, const SaggPlan *failed);
extern SaggPlan *sagg_plan_half(SaggSession *session, const SaggPlan *failed);
extern void sagg_plan_replace(SaggSession *session, const SaggPlan *failed,
							  SaggPlan *plan);

/* batch_size.c */
extern bool sagg_batch_size_failed(SaggSession *session, const ErrorData *error);
extern SaggPlan *sagg_batch_size_retry(SaggSession *session, SaggPlan *plan);
extern int64 sagg_batch_size_bound(const SaggSession *session, int64 limit);
extern void sagg_batch_size_committed(SaggSession *session, Size memory, int space);

/* clip_reports.c */
#define SAGG_MAX_REPORT_BYTES	2048	/* of each part of a message in the log */

extern void sagg_clip_reports(void);

/* poison.c */
extern void sagg_poison_opened(SaggSession *session);
extern void sagg_poison_forget(SaggPoison *poison);
extern bool sagg_poison_durable_plan(SaggSession *session);
extern bool sagg_poison_failed(SaggSession *session, const ErrorData *error);
extern SaggPlan *sagg_poison_retry(SaggSession *session, SaggPlan *plan);
extern void sagg_poison_begin(SaggSession *session, SaggPlan *plan);
extern void sagg_poison_refuse(SaggSession *session, SaggRefusals *refusals);
extern void sagg_poison_committed(SaggSession *session, const SaggCounts *counts);

/* failed_windows.c */
extern void sagg_write_carefully(SaggSession *session, const SaggQuery *query,
								 SaggExecution *execution, SaggCommit *commit);
extern char *sagg_keep_failed_windows(SaggSession *session,
									  const SaggExecution *execution);

/* health.c */
extern void sagg_tell_event(SaggSlot *slot, const char *event, const char *message);
extern void sagg_session_started(SaggSession *session);
extern void sagg_session_stopped(const SaggSession *session);
extern void sagg_note_error(SaggSession *session, const ErrorData *error,
							bool failed, TimestampTz next);
extern void sagg_sessions_recovered(SaggSession *session);

/* statistics.c */
extern void sagg_publish_statistics(SaggSession *session);
extern void sagg_publish_ends(SaggSession *session, const SaggRange *bounds,
							  int nbounds);
extern void sagg_slot_set_ends(SaggSlot *slot, const SaggRange *bounds, int nbounds);
extern void sagg_publish_no_news(SaggSession *session);

#endif							/* SAGG_WORKER_INTERNAL_H */
