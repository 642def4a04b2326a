/*-------------------------------------------------------------------------
 *
 * control.h
 *	  What backends and processes share: slots of streams in shared memory,
 *	  locks, commands at commit, limits, the crash log.
 *
 * Must never know a stage at work: no batch, no reader, no sink.
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

/* workers look for deadlocks before others do, and so are the ones to retry */
#define SAGG_WORKER_DEADLOCK_TIMEOUT	"100ms"

/* slots beyond stream_agg.max_streams, for streams that wait or are stopped */
#define SAGG_SPARE_SLOTS		32

typedef enum SaggRunState
{
	SAGG_STARTING,				/* wanted, no first contact with Kafka yet */
	SAGG_RUNNING,
	SAGG_STOPPED,
	SAGG_FAILED					/* needs start_stream */
} SaggRunState;

typedef struct SaggSlotPartition
{
	int32		topic;			/* as the worker numbers them */
	char		topic_name[SAGG_TOPIC_SIZE];
	int32		partition;
	int64		committed;		/* next offset to read, as committed */
	int64		end;			/* high watermark as last heard of */
	TimestampTz last_time;		/* timestamp of the last record committed, and */
	TimestampTz event_time;		/* with policy per_partition the greatest event
								 * time; DT_NOBEGIN = none */
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
	Oid			view;			/* with database: the key */
	Oid			owner;
	char		name[SAGG_NAME_SIZE];	/* for messages */

	/* the launcher's side */
	bool		wanted;			/* the catalog says it shall run */
	uint64		changed_at;		/* SaggShared->changes when a transaction last
								 * said so */
	int			stop_holds;		/* transactions that keep it stopped */
	bool		launching;		/* registered, not attached yet */
	int			crashes;		/* of workers, since the last good batch */
	TimestampTz next_start;		/* not before */
	int			changes;		/* ends with SAGG_EXIT_CHANGED in a row */
	TimestampTz changed_last;	/* the last of them */
	TimestampTz paused_until;	/* nor before, after a crash of the server */
	bool		waiting_for_process;	/* or when a process has ended: there was no
								 * place for its worker */

	/* streams that share a reader: shared_reader.c */
	char		reader[NAMEDATALEN];	/* empty = none */
	Oid			source;			/* that it reads */
	Oid			sink;
	bool		leads;			/* its process reads for others of that reader */
	bool		apart;			/* it stands elsewhere than they do: a process of
								 * its own */
	struct SaggSlot *lead;		/* whose process runs this stream, NULL = its own */

	/* the worker's side */
	SaggRunState state;
	pid_t		pid;			/* 0 = none */
	Latch	   *latch;
	volatile SaggStage stage;
	SaggMark	mark;			/* of its worker */
	dsa_handle	store;			/* the state, DSM_HANDLE_INVALID = none */
	bool		store_stale;	/* the slot has been freed since: not ours */
	char		last_error[SAGG_ERROR_SIZE];	/* empty = none */
	int			last_sqlstate;
	TimestampTz last_error_time;
	int			attempts;		/* that have failed since one that did not */
	TimestampTz retrying_since; /* the first of them */
	TimestampTz next_attempt;	/* after the last of them, 0 = none */
	int			failures;		/* of them those that on_failure has let go on */

	bool		retry_now;		/* of a lead: somebody has asked not to wait for
								 * next_attempt */

	/* process_available: requests made and requests served */
	uint64		request_seq;
	uint64		done_seq;
	ConditionVariable changed;	/* broadcast when any of this changes */

	/*
	 * Statistics as of the last commit, once a worker has made them known; and
	 * what they were when the first of them did, before any batch of its own.
	 */
	bool		known;
	SaggTally	tally;
	SaggTally	first;
	int64		state_rows;
	int64		state_bytes;
	uint64		state_memory;	/* what the store takes, or is about to */
	bool		observing;		/* an observer is under way: observer.c */
	pid_t		observer;		/* its process, 0 = none */
	SaggMark	observer_mark;
	TimestampTz observed_at;	/* when the last one was sent */
	int			unheard;		/* that have brought nothing, in a row */
	TimestampTz ends_as_of;		/* when Kafka was heard of last about the ends of
								 * partitions, 0 = never */
	int			npartitions;
	SaggSlotPartition *partitions;	/* max_partitions of them */
} SaggSlot;

/*
 * A database that commands need for themselves.
 */
typedef struct SaggHeldDatabase
{
	Oid			database;
	int			holders;		/* backends */
} SaggHeldDatabase;

typedef struct SaggShared
{
	LWLock	   *lock;			/* the slots, and the next */
	uint64		changes;		/* made to slots by transactions, so far */
	SaggCrashLog crash_log;
	SaggMark	launcher_mark;	/* only the launcher writes it */
	int			store_tranche;

	slock_t		mutex;			/* what follows */
	Latch	   *launcher;
	int			ndirty;			/* databases to look at; more than fit: all */
	Oid			dirty[SAGG_DIRTY_DATABASES];
	int			nheld;			/* databases that commands need for themselves */
	SaggHeldDatabase held[SAGG_HELD_DATABASES];
	int			nwaiting;		/* databases with streams that wait for a slot;
								 * more than fit: all */
	Oid			waiting[SAGG_DIRTY_DATABASES];
	TimestampTz missing_warned; /* when the log last said so, 0 = never */
	int			missing_count;	/* and of how many */
	int			streams_per_role;	/* stream_agg.max_streams_per_role as
									 * configured, for roles without their own */

	ConditionVariable slots_changed;	/* a scout has been there, a worker has
										 * ended */
	int			nslots;
	SaggSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} SaggShared;

extern SaggShared *sagg_shared;

/* last_error of a worker that died on its way to the database */
#define SAGG_NO_CONNECTION \
	"the stream's worker could not connect to the database as the stream's owner; see the server log"

/* first delay before a retry; doubles up to stream_agg.max_retry_delay */
#define SAGG_FIRST_RETRY_DELAY_MS	100

/* how a worker's life ended, for the launcher */
typedef enum SaggExit
{
	SAGG_EXIT_DIED,				/* unexpectedly: start it again, later */
	SAGG_EXIT_STOPPED,			/* as told, or failed for good */
	SAGG_EXIT_GONE,				/* the stream is not there any more */
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
	int			limit;			/* of the owner's streams */
	int			level;			/* nesting level of its transaction */
	struct SaggStreamChange *before;	/* of a lower level; NULL for none */
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
extern const SaggStoreBudget *sagg_state_budget(SaggStoreBudget *budget, SaggSlot *slot);
extern void sagg_state_discard(SaggSlot *slot);

#endif							/* SAGG_CONTROL_H */
