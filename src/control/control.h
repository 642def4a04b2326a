/*-------------------------------------------------------------------------
 *
 * control.h
 *	  What backends and processes share: slots of streams in shared memory,
 *	  locks, commands at commit, limits, the crash log.
 *
 * This room never knows a stage at work: no batch, no reader, no sink.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_CONTROL_H
#define SAGG_CONTROL_H

#include "stream_agg.h"

#include "control/crash_log.h"
#include "execute/execute.h"
#include "read/read.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "utils/dsa.h"

/* titles of streams (sagg_stream_title): two identifiers and a dot */
#define SAGG_NAME_SIZE			(2 * NAMEDATALEN)
#define SAGG_ERROR_SIZE			1024
#define SAGG_DIRTY_DATABASES	32
#define SAGG_HELD_DATABASES		32

/*
 * workers look for deadlocks before others do, so they are the ones to retry
 */
#define SAGG_WORKER_DEADLOCK_TIMEOUT	"100ms"

/* slots beyond stream_agg.max_streams, for streams that wait or are stopped */
#define SAGG_SPARE_SLOTS		32

typedef enum SaggRunState
{
	SAGG_STARTING,				/* started; no first contact with the source
								 * yet */
	SAGG_RUNNING,
	SAGG_STOPPED,
	SAGG_FAILED					/* failed for good; needs start_stream */
} SaggRunState;

typedef struct SaggSlotPartition
{
	int32		topic;			/* number of the topic in the worker */
	char		topic_name[SAGG_TOPIC_SIZE];
	int32		partition;
	int64		committed;		/* next offset to read, as committed */
	int64		end;			/* high watermark as last reported */
	TimestampTz last_time;		/* timestamp of the last committed record, and */
	TimestampTz event_time;		/* with policy per_partition the greatest
								 * event time; DT_NOBEGIN = none */
} SaggSlotPartition;

/* since the stream's first batch */
typedef struct SaggTally
{
	int64		batches;
	int64		rows_in;
	int64		rows_out;
} SaggTally;

/*
 * One stream in shared memory.  All fields are protected by SaggShared->lock,
 * except "stage" and "mark", which only its worker writes, and
 * "store", which belongs to the holder of the stream's lock (I2).
 */
typedef struct SaggSlot
{
	bool		in_use;
	Oid			database;
	Oid			view;			/* key, together with "database" */
	Oid			owner;
	char		name[SAGG_NAME_SIZE];	/* name for messages */

	/* the launcher's side */
	bool		wanted;			/* the catalog says that it shall run */
	uint64		changed_at;		/* SaggShared->changes when a transaction last
								 * set "wanted" */
	int			stop_holds;		/* number of transactions that keep it stopped */
	bool		launching;		/* registered, not attached yet */
	int			crashes;		/* of workers, since the last good batch */
	TimestampTz next_start;		/* no start before this time */
	int			changes;		/* how often in a row it ended with
								 * SAGG_EXIT_CHANGED */
	TimestampTz changed_last;	/* when it last did */
	TimestampTz paused_until;	/* no start before this time, after a crash of
								 * the server */
	bool		waiting_for_process;	/* no process was free for its worker:
										 * it starts when one has ended */

	/* streams that share a reader; see worker/shared_reader.c */
	char		reader[NAMEDATALEN];	/* name of the reader; empty = none */
	Oid			source;			/* source that it reads */
	Oid			sink;
	bool		leads;			/* its process may read for others of that
								 * reader */
	bool		apart;			/* detached: its position differs from theirs,
								 * so it has a process of its own */
	struct SaggSlot *lead;		/* leader whose process runs this stream; NULL
								 * = its own process */

	/* the worker's side */
	SaggRunState state;
	pid_t		pid;			/* process id; 0 = none */
	Latch	   *latch;
	volatile SaggStage stage;
	SaggMark	mark;			/* mark of its worker; see crash_log.h */
	dsa_handle	store;			/* the state, DSM_HANDLE_INVALID = none */
	bool		store_stale;	/* the slot has been freed since the worker
								 * attached: it is not the worker's */
	char		last_error[SAGG_ERROR_SIZE];	/* last error; empty = none */
	int			last_sqlstate;
	TimestampTz last_error_time;
	int			attempts;		/* consecutive failed attempts */
	TimestampTz retrying_since; /* time of the first of them */
	TimestampTz next_attempt;	/* time of the next attempt; 0 = none */
	int			failures;		/* those of them after which on_failure let
								 * the stream continue */

	bool		retry_now;		/* of a leader: somebody asked not to wait for
								 * next_attempt */

	/* process_available: requests made and requests served */
	uint64		request_seq;
	uint64		done_seq;
	ConditionVariable changed;	/* broadcast when any of this changes */

	/*
	 * Statistics as of the last commit, once a worker has published them; and
	 * their values when the first worker published, before any batch of its
	 * own.
	 */
	bool		known;
	SaggTally	tally;
	SaggTally	first;
	int64		state_rows;
	int64		state_bytes;
	int64		state_bytes_out;
	int64		state_units;
	int64		state_units_out;
	uint64		state_memory;	/* memory that the store takes, or is about to
								 * take */
	bool		observing;		/* an observer was sent: observer.c */
	pid_t		observer;		/* its process, 0 = none */
	SaggMark	observer_mark;
	int			executors;		/* processes that its worker has started or is
								 * about to start, besides itself */
	SaggMark   *executor_marks; /* max_executors - 1 of them, each written by
								 * its process only */
	TimestampTz observed_at;	/* when the last observer was sent */
	int			unheard;		/* observers in a row that learned nothing */
	TimestampTz ends_as_of;		/* when the ends of partitions were last heard
								 * from Kafka; 0 = never */
	int			npartitions;
	SaggSlotPartition *partitions;	/* max_partitions of them */
} SaggSlot;

/*
 * A database that commands need for themselves: streams there are paused.
 */
typedef struct SaggHeldDatabase
{
	Oid			database;
	int			holders;		/* number of backends that hold it */
} SaggHeldDatabase;

typedef struct SaggShared
{
	LWLock	   *lock;			/* the slots, and the next */
	uint64		changes;		/* changes that transactions have made to
								 * slots so far */
	SaggCrashLog crash_log;
	SaggMark	launcher_mark;	/* written by the launcher only */
	int			store_tranche;

	slock_t		mutex;			/* protects the following */
	Latch	   *launcher;
	int			ndirty;			/* databases to scan; when more than fit: all */
	Oid			dirty[SAGG_DIRTY_DATABASES];
	int			nheld;			/* databases that commands need for themselves */
	SaggHeldDatabase held[SAGG_HELD_DATABASES];
	int			nwaiting;		/* databases with streams that wait for a
								 * slot; when more than fit: all */
	Oid			waiting[SAGG_DIRTY_DATABASES];
	TimestampTz missing_warned; /* when the log last reported waiting streams,
								 * 0 = never */
	int			missing_count;	/* and how many it reported */
	int			streams_per_role;	/* stream_agg.max_streams_per_role as
									 * configured, for roles without their own */

	ConditionVariable slots_changed;	/* a scout has finished, or a worker
										 * has ended */
	int			nslots;
	SaggSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} SaggShared;

extern SaggShared *sagg_shared;

/* last_error of a worker that died on its way to the database */
#define SAGG_NO_CONNECTION \
	"the stream's worker could not connect to the database as the stream's owner; see the server log"

/* first delay before a retry; doubles up to stream_agg.max_retry_delay */
#define SAGG_FIRST_RETRY_DELAY_MS	100

/* how a worker ended, for the launcher */
typedef enum SaggExit
{
	SAGG_EXIT_DIED,				/* unexpectedly: start it again, later */
	SAGG_EXIT_STOPPED,			/* as requested, or failed for good */
	SAGG_EXIT_GONE,				/* the stream does not exist any more */
	SAGG_EXIT_CHANGED			/* look at the catalog again */
} SaggExit;

/* shared_slots.c; "slot" functions expect the caller to hold sagg_shared->lock */
extern SaggSlot *sagg_slot_find(Oid database, Oid view);
extern SaggSlot *sagg_slot_allocate(Oid database, Oid view);
extern void sagg_slot_free(SaggSlot *slot);
extern void sagg_slot_vacate(SaggSlot *slot, SaggExit how);
extern void sagg_slot_discard_stale(SaggSlot *slot);
extern void sagg_slot_set_error(SaggSlot *slot, int sqlstate,
								const char *message);
extern void sagg_slot_clear_error(SaggSlot *slot);
extern void sagg_slot_attempt_failed(SaggSlot *slot, TimestampTz next);
extern bool sagg_slot_retry_now(SaggSlot *slot);
extern void sagg_mark_database(Oid database);
extern void sagg_require_preload(void);
extern void sagg_forget_positions(Oid view);

/* role_limit.c; "slot" functions expect the caller to hold sagg_shared->lock */
extern int	sagg_role_limit(Oid role);
extern int	sagg_role_streams(Oid role);
extern SaggSlot *sagg_role_slot(Oid view, Oid owner, int limit);
extern void sagg_role_check(Oid role, int n, int limit);
extern void sagg_role_limit_configured(void);
extern void sagg_slot_missing(void);
extern void sagg_slot_freed(void);
extern void sagg_slot_placed(SaggSlot *slot);
extern void sagg_warn_of_missing_slots(int crowded, int limited);

/* why a stream has fewer executors than it could have */
typedef enum SaggExecutorLimit
{
	SAGG_LIMITED_BY_NOTHING,
	SAGG_LIMITED_BY_ROLE,		/* max_streams_per_role */
	SAGG_LIMITED_BY_PROCESSES	/* max_worker_processes */
} SaggExecutorLimit;

extern int	sagg_slot_reserve_executors(SaggSlot *slot, int wanted, int limit,
										SaggExecutorLimit *limited);
extern void sagg_slot_has_executors(SaggSlot *slot, int n);
extern bool sagg_stream_lacks_process(void);
extern void sagg_process_freed(void);

/* database_label.c */
extern void sagg_label_database(void);
extern List *sagg_labelled_databases(void);

/* stream_changes.c */
typedef enum SaggChangeKind
{
	SAGG_CHANGE_STOP,
	SAGG_CHANGE_START,
	SAGG_CHANGE_DROP			/* only "view" is set */
} SaggChangeKind;

typedef struct SaggStreamChange
{
	SaggChangeKind kind;
	Oid			view;
	Oid			owner;
	char		name[SAGG_NAME_SIZE];
	char		reader[NAMEDATALEN];
	Oid			source;
	Oid			sink;
	int			limit;			/* most streams of the owner */
	int			level;			/* nesting level of its transaction */
	struct SaggStreamChange *before;	/* change at a lower level; NULL =
										 * none */
} SaggStreamChange;

extern void sagg_changes_init(void);
extern void sagg_change_add(const SaggStreamChange *change);
extern SaggStreamChange *sagg_change_of(Oid view);
extern const List *sagg_changes(void);
extern void sagg_changes_forget(void);

/* commit_hooks.c */
extern void sagg_start_stream_at_commit(const SaggStream *stream);
extern void sagg_lock_stream(Oid view);
extern void sagg_lock_micro_batch(Oid view);
extern void sagg_stop_stream_at_commit(const SaggStream *stream);
extern void sagg_stream_locktag(LOCKTAG *tag, Oid database, Oid view);

/* stop_wait.c */
extern void sagg_wait_for_worker(SaggSlot *slot, Oid view);

/* database_commands.c */
extern bool sagg_database_held(Oid database);

/* called from _PG_init: shared memory, hooks and callbacks of this room */
extern void sagg_slots_init(void);
extern void sagg_label_init(void);
extern void sagg_notify_init(void);
extern void sagg_database_commands_init(void);
extern void sagg_drop_extension_init(void);
extern void sagg_secret_commands_init(void);

/* state_limit.c */
extern int	sagg_default_total_state(void);
extern void sagg_state_check_size(const SaggSlot *slot, int64 bytes);
extern const SaggStoreBudget *sagg_state_budget(SaggStoreBudget *budget, SaggSlot *slot);
extern void sagg_state_discard(SaggSlot *slot);

#endif							/* SAGG_CONTROL_H */
