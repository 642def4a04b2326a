/*-------------------------------------------------------------------------
 *
 * executors.h
 *	  Executors: what the files executor_*.c share.
 *
 * An executor is a process that does a share of a stream's READ and EXECUTE.  The
 * stream's worker, the leader, is connected to each by a link: a segment of
 * dynamic shared memory with a queue for commands and one for replies.
 *
 *		leader							executor
 *
 *		ASSIGN positions
 *		GAP range						GAP_END
 *		READ ranges						reads
 *										DONE_READING
 *		EXECUTE plan, snapshot			runs the inner query
 *										groups, rows, counts (sagg_execution_give)
 *										DONE
 *		GIVE_REJECTED, GIVE_LATE		DIVERTED ... DIVERTED_END
 *		RELEASE							frees the records
 *
 *		at any time						FAILED, and the process ends
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_EXECUTORS_H
#define SAGG_EXECUTORS_H

#include "worker_internal.h"

#include "lib/stringinfo.h"
#include "port/atomics.h"
#include "storage/dsm.h"
#include "storage/shm_mq.h"

/* types of commands */
#define SAGG_TO_ASSIGN			'A'
#define SAGG_TO_FIND_GAP		'G'
#define SAGG_TO_READ			'R'
#define SAGG_TO_EXECUTE			'X'
#define SAGG_TO_GIVE_REJECTED	'D'
#define SAGG_TO_GIVE_LATE		'L'
#define SAGG_TO_RELEASE			'F'

/* types of replies; those of sagg_execution_give are lower case, too */
#define SAGG_GAP_END			'n'
#define SAGG_DONE_READING		'r'
#define SAGG_DONE				'd'
#define SAGG_DIVERTED			'v'
#define SAGG_DIVERTED_END		'z'
#define SAGG_FAILED_EXECUTOR	'e'

/* The head of the segment. */
typedef struct SaggLinkHead
{
	PGPROC	   *leader;
	pid_t		leader_pid;
	Latch	   *leader_latch;
	int			slot;			/* number of the stream's slot */
	int			number;			/* of the executor, from 1 */
	pg_atomic_uint32 has_records;	/* its reader has a record that no batch
									 * has taken */
	pg_atomic_uint32 failed;	/* it has sent an error, or ends */

	/*
	 * It starts, or does what a command says: so it does not notice that its
	 * leader has gone.  A leader that goes sets the one and reads the other.
	 */
	pg_atomic_uint32 busy;
	pg_atomic_uint32 closing;
} SaggLinkHead;

/* One end of a link. */
typedef struct SaggLink
{
	dsm_segment *segment;
	SaggLinkHead *head;
	shm_mq_handle *in;
	shm_mq_handle *out;
} SaggLink;

/* executor_link.c */
extern bool sagg_link_make(SaggLink *link, int slot, int number);
extern void sagg_link_set_process(SaggLink *link, BackgroundWorkerHandle *handle);
extern bool sagg_link_attach(SaggLink *link, dsm_handle handle);
extern bool sagg_link_close(SaggLink *link);
extern bool sagg_link_begin(SaggLink *link);
extern void sagg_link_end(SaggLink *link);
extern bool sagg_link_send(SaggLink *link, char type, const char *data, Size len);
extern bool sagg_link_receive(SaggLink *link, bool wait, char *type,
							  StringInfo message, bool *ended);

/* executor_message.c */
extern void sagg_put_text(StringInfo buf, const char *text);
extern char *sagg_get_text(StringInfo buf);
extern void sagg_put_bytes(StringInfo buf, const void *data, Size len);
extern void sagg_get_bytes(StringInfo buf, void *data, Size len);
extern void sagg_put_int(StringInfo buf, int64 value);
extern int64 sagg_get_int(StringInfo buf);
extern void sagg_put_ranges(StringInfo buf, const SaggRange *ranges, int n);
extern SaggRange *sagg_get_ranges(StringInfo buf, int *n);
extern void sagg_put_times(StringInfo buf, const SaggPartitionTime *times, int n);
extern SaggPartitionTime *sagg_get_times(StringInfo buf, int *n);
extern void sagg_put_diverted(StringInfo buf, const SaggDivertedRecord *record);
extern void sagg_get_diverted(StringInfo buf, SaggDivertedRecord *record);
extern void sagg_put_error(StringInfo buf, const ErrorData *error, const SaggPlace *place);
pg_noreturn extern void sagg_throw_error(StringInfo buf, int executor);

/* What EXECUTE of a share needs to know. */
typedef struct SaggShare
{
	SaggPlan	plan;			/* batch, time and watermark; ranges are the
								 * share's */
	uint64		fingerprint;	/* of the query as the leader has analysed it */
	SaggIdentity identity;
	Size		max_key_bytes;
	bool		keeps_late;
	bool		bound_rows;
	int			ntimes;
	SaggPartitionTime *times;	/* of the share's partitions */
	int			rejected_state; /* the batch's only record is left out for an
								 * error with this SQLSTATE; 0 = it is not */
	char	   *rejected_message;
	char	   *rejected_detail;
	Size		snapshot_size;
	char	   *snapshot;
	Size		settings_size;	/* of what SerializeGUCState has made */
	char	   *settings;
} SaggShare;

extern void sagg_put_share(StringInfo buf, const SaggShare *share);
extern void sagg_get_share(StringInfo buf, SaggShare *share);

/* executor_batch.c: an executor's side of a batch */
typedef struct SaggExecutorBatch
{
	SaggStreamRun *run;			/* its slot, memory and stream; nothing else
								 * of it is used */
	SaggReader *reader;
	SaggLink   *link;
	struct WaitEventSet *waitset;
	MemoryContext memory;		/* of the batch */
	int			nranges;
	SaggRange  *ranges;
	int64		number;			/* of the batch */
	bool		holds;			/* it has the records of a batch */
	SaggMemoryUse memory_use;
	SaggRejections *rejections; /* or NULL */
	SaggLateRows late;
} SaggExecutorBatch;

extern void sagg_share_read(SaggExecutorBatch *batch, StringInfo command);
extern void sagg_share_execute(SaggExecutorBatch *batch, StringInfo command);
extern void sagg_share_give_rejected(SaggExecutorBatch *batch);
extern void sagg_share_give_late(SaggExecutorBatch *batch);
extern void sagg_share_release(SaggExecutorBatch *batch);
extern void sagg_executor_wait(SaggExecutorBatch *batch, long timeout_ms);

#endif							/* SAGG_EXECUTORS_H */
