/*-------------------------------------------------------------------------
 *
 * stream_agg.h
 *	  Shared by every room of stream_agg: settings, error codes and the few
 *	  types that are passed from stage to stage.
 *
 * The folders of src/ are the stages of a micro-batch.  A stage includes its
 * own header and this one, never another stage's; worker/micro_batch.c is
 * where the stages meet.  src/README.md has the map and the invariants I1-I8
 * that comments refer to by label.
 *
 * Units: times are TimestampTz or int64 in microseconds unless a name says
 * otherwise (_ms), sizes are bytes, offsets are Kafka offsets.
 *
 *-------------------------------------------------------------------------
 */
#ifndef STREAM_AGG_H
#define STREAM_AGG_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "common/int.h"
#include "datatype/timestamp.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/date.h"

#include "compat.h"
#include "failpoint.h"
#include "kinds.h"
#include "stream_query.h"

#define SAGG_EXTENSION			"stream_agg"
#define SAGG_SCHEMA				"stream_agg"

/* names of the ephemeral relations that outer and sink statements read */
#define SAGG_ENR_GROUPS			"batch_groups"
#define SAGG_ENR_OUTPUT			"batch_output"
#define SAGG_ENR_REMOVED		"batch_removed"

/* number of partitions of a stream's state, by hash of the group (I3) */
#define SAGG_STATE_PARTITIONS	16

/*
 * SQLSTATEs of our own class, with ERRCODE_SAGG_OFFSETS_GONE (source.h).  These
 * errors recur: a stream that raises one goes to state "failed" at once and is
 * not retried.
 */
#define ERRCODE_SAGG_INVALID_RECORD		MAKE_SQLSTATE('S','A','0','0','1')
#define ERRCODE_SAGG_CHECKPOINT_CORRUPT	MAKE_SQLSTATE('S','A','0','0','3')
#define ERRCODE_SAGG_OTHER_CLUSTER		MAKE_SQLSTATE('S','A','0','0','4')
#define ERRCODE_SAGG_DEFINITION_CHANGED	MAKE_SQLSTATE('S','A','0','0','5')
#define ERRCODE_SAGG_FENCED				MAKE_SQLSTATE('S','A','0','0','6')
#define ERRCODE_SAGG_STATE_LIMIT		MAKE_SQLSTATE('S','A','0','0','7')
#define ERRCODE_SAGG_DEAD_LETTERS		MAKE_SQLSTATE('S','A','0','0','8')
#define ERRCODE_SAGG_POISON				MAKE_SQLSTATE('S','A','0','0','9')
#define ERRCODE_SAGG_GROUP_MEMORY		MAKE_SQLSTATE('S','A','0','2','0')
#define ERRCODE_SAGG_SCHEMAS			MAKE_SQLSTATE('S','A','0','2','1')
#define ERRCODE_SAGG_ROW_SPACE			MAKE_SQLSTATE('S','A','0','2','2')
#define ERRCODE_SAGG_CRASHES			MAKE_SQLSTATE('S','A','0','1','9')
#define ERRCODE_SAGG_LATE_RECORDS		MAKE_SQLSTATE('S','A','0','1','5')

/* settings (stream_agg.c) */
extern bool sagg_enabled;
extern int	sagg_max_streams;
extern int	sagg_max_partitions;
extern int	sagg_max_executors;
extern int	sagg_max_records_per_batch;
extern int	sagg_batch_memory_kb;
extern int	sagg_fetch_memory_kb;
extern int	sagg_memory_release_delay_ms;
extern int	sagg_collect_ahead;
extern int	sagg_kafka_timeout_ms;
extern int	sagg_keep_batches;
extern int	sagg_max_retry_delay_ms;
extern int	sagg_max_attempts;
extern int	sagg_failure_retry_delay_ms;
extern int	sagg_lag_check_interval_ms; /* 0 = never */
extern int	sagg_max_dead_letters;
extern int	sagg_max_late_records;
extern int	sagg_max_poison_in_row;
extern int	sagg_crash_restart_delay_ms;
extern int	sagg_max_crashes;	/* -1 = no limit */
extern int	sagg_crash_window_s;
extern int	sagg_stop_timeout_ms;	/* -1 = no limit */
extern int	sagg_state_memory_kb;	/* -1 = no bound */
extern int	sagg_max_stream_state_kb;	/* -1 = no limit */
extern int	sagg_max_total_state_kb;	/* -1 = no limit */
extern int	sagg_max_role_state_kb; /* -1 = by max_total_state */
extern int	sagg_max_streams_per_role;	/* -1 = by max_streams */
extern int	sagg_max_dead_letters_size_kb;	/* -1 = no limit */
extern int	sagg_max_late_records_size_kb;	/* -1 = no limit */

/* true when the library was loaded by shared_preload_libraries */
extern bool sagg_preloaded;

/* What to do with a record that cannot be processed. */
typedef enum SaggOnError
{
	SAGG_FAIL,					/* the stream fails */
	SAGG_SKIP,					/* it is counted and left out */
	SAGG_DEAD_LETTER			/* and goes to stream_agg.dead_letters */
} SaggOnError;

/* What to do with a stream whose next offsets are not in Kafka. */
typedef enum SaggOnDataLoss
{
	SAGG_LOSS_FAIL,				/* it fails */
	SAGG_LOSS_EARLIEST			/* it continues from the first that are */
} SaggOnDataLoss;

/*
 * Whose event times determine the watermark, and by which watermark a record
 * is late.
 */
typedef enum SaggWatermarkPolicy
{
	SAGG_WATERMARK_ALIGNED,		/* the greatest of all partitions, but not
								 * beyond those with records left to read */
	SAGG_WATERMARK_GLOBAL,		/* the greatest of all partitions */
	SAGG_WATERMARK_PER_PARTITION	/* the least of the partitions' own, and
									 * its partition's */
} SaggWatermarkPolicy;

/* value of option max_future: not given */
#define SAGG_MAX_FUTURE_DEFAULT	(-1)

/* The options of a stream: column "options" of stream_agg.streams. */
typedef struct SaggStreamOptions
{
	SaggOnError on_error;
	SaggOnDataLoss on_data_loss;
	int64		max_future;		/* microseconds an event time may be ahead of
								 * the batch's; 0 = any,
								 * SAGG_MAX_FUTURE_DEFAULT; see
								 * sagg_max_future */
	char	   *consumer_group; /* consumer group that offsets are committed
								 * to, or NULL */
	bool		at_least_once;	/* the sink is a Kafka topic */
	int64		min_offsets;	/* that make a batch; 0 = any */
	int64		max_delay;		/* most microseconds to wait for min_offsets */
	SaggWatermarkPolicy watermark_policy;
	int64		idle_timeout;	/* microseconds without records after which
								 * event time follows the clock; 0 = never */
	bool		has_retention;	/* rows of old windows leave the sink */
	int64		retention;		/* microseconds that the watermark must have
								 * passed their end */
	bool		has_state_memory;
	int			state_memory_kb;	/* if it has: in place of the setting; -1
									 * = no bound */
	bool		late_records;	/* late records go to stream_agg.late_records */
	bool		stops_all;		/* when it fails, streams that share its
								 * reader fail, too */
	bool		retries;		/* after a failure it tries again */
	int			executors;		/* most processes that execute its
								 * micro-batches, its worker included */
} SaggStreamOptions;

/*
 * A stream as its row of stream_agg.streams describes it.
 */
typedef struct SaggStream
{
	char	   *name;			/* unique in the database */
	Oid			view;			/* view of the query; its owner is the
								 * stream's */
	Oid			sink;
	List	   *sources;		/* OIDs of the foreign tables */
	Oid			owner;
	Oid			database;		/* database where the stream was started; a
								 * copy of the database has another OID */
	SaggOutputMode mode;
	bool		has_watermark;
	int64		watermark_delay;	/* microseconds */
	char	   *event_time;		/* column named by the user, or NULL */
	int64		trigger;		/* microseconds; 0 = the next batch follows at
								 * once */
	int64		max_offsets;	/* bound of a batch in records; 0 = none */
	char	   *starting_offsets;	/* see define/starting_offsets.c */
	bool		sink_created;	/* by create_stream */
	bool		enabled;		/* and started by or for the present owners */
	ArrayType  *owners;			/* owners when it was started, see
								 * stream_owners.c */
	SaggStreamOptions options;
	/* session settings captured at creation */
	char	   *timezone;
	char	   *datestyle;
	char	   *intervalstyle;
	char	   *search_path;
	char	   *reader;			/* reader that it shares with others, or NULL */
} SaggStream;

/*
 * Event time in one partition, as of a commit.
 */
typedef struct SaggPartitionTime
{
	int32		topic;
	int32		partition;
	int64		time;			/* greatest event time, floored to
								 * milliseconds; DT_NOBEGIN = none yet, or
								 * policy global */
	TimestampTz active;			/* time of the last batch that had a record
								 * with event time; before the first, of the
								 * batch that found the partition; DT_NOBEGIN
								 * = no idle_timeout */
} SaggPartitionTime;

/*
 * The plan of a batch: a row of stream_agg.offsets.  A retry runs it again, or
 * a smaller one in its place (worker/poison.c).
 */
typedef struct SaggPlan
{
	int64		batch;			/* 0, 1, 2, ... without gaps */
	TimestampTz batch_time;		/* now() of the batch */
	TimestampTz watermark;		/* left by the commit before; DT_NOBEGIN when
								 * the stream has none */
	int			nranges;
	SaggRange  *ranges;			/* by ascending topic and partition */
	int			nsuspects;		/* 0 = no record is searched */
	SaggRange  *suspects;		/* offsets among which is one that cannot be
								 * processed; they contain "ranges" */
	int			attempts;		/* how often a worker has begun it after
								 * another had ended */

	/*
	 * Offsets that Kafka does not have: where the last commit ends, and where
	 * the range of the partition starts instead; "end" is less than "start"
	 * if the partition was recreated.
	 */
	int			nskipped;
	SaggRange  *skipped;

	/*
	 * Partitions that have been quiet for idle_timeout and are read to their
	 * ends, "start", by this batch: if it finds no event time in one, the
	 * watermark does not wait for that one any longer.
	 */
	int			nquiet;
	SaggRange  *quiet;

	/*
	 * Policy aligned: partitions that had records up to "end" when the batch
	 * was planned, of which the batch does not read all.  The watermark does
	 * not pass their own event time.
	 */
	int			nbehind;
	SaggRange  *behind;

	/*
	 * Partitions that executors read instead of the stream's worker: "start"
	 * is the number of the executor, from 1.
	 */
	int			ndealt;
	SaggRange  *dealt;
} SaggPlan;

/*
 * What a batch counts, or a stream since its first batch.  Every field has a line in
 * the table of counters.c.
 */
typedef struct SaggCounts
{
	int64		delivered;		/* by the source; each record is in one of the
								 * next five, too (I5) */
	int64		aggregated;
	int64		late;
	int64		null_time;
	int64		dead_lettered;
	int64		filtered;

	/*
	 * Not one of the five: how often a row of the inner query was late for a
	 * window, whether or not the record was late for all of its windows.
	 */
	int64		late_windows;

	/*
	 * Not one of the five, either: the number of sessions of the batch that
	 * begin at or before the watermark, so that they may be part of a closed
	 * one.
	 */
	int64		beside_closed;

	int64		rows_out;		/* rows put into the sink */
	int64		rows_removed;	/* rows deleted from the sink */
	int64		rows_expired;	/* rows older than the retention: deleted, and
								 * not inserted */
	int64		units_read;		/* units of the state read from the log */
	int64		skipped;		/* offsets that the source did not have */
} SaggCounts;

#define SAGG_COUNTERS	((int) (sizeof(SaggCounts) / sizeof(int64)))

typedef struct SaggCounter
{
	Size		offset;			/* of its field in SaggCounts */
	const char *column;			/* of stream_agg.commits that has the batch's;
								 * NULL = none */
	const char *total;			/* that has the stream's since its first batch */
	bool		share;			/* every record delivered is in one of these */
} SaggCounter;

typedef enum SaggStage
{
	SAGG_READ,
	SAGG_EXECUTE,
	SAGG_WRITE,
	SAGG_CHECKPOINT,
	SAGG_STAGES
} SaggStage;

/* What a batch did: a row of stream_agg.commits. */
typedef struct SaggCommit
{
	SaggCounts	counts;			/* of this batch */
	TimestampTz watermark;		/* watermark after the batch */
	int			nlosses;		/* offsets that were gone when they had to be
								 * read, besides the plan's "skipped" */
	const SaggRange *losses;
	int64		stage_time[SAGG_STAGES];	/* microseconds */
	int			nlast;
	SaggRange  *last;			/* records, as in SaggProgress, after the
								 * batch */
	int64		max_time;		/* these three as in SaggProgress, too */
	int			ntimes;
	SaggPartitionTime *times;
} SaggCommit;

/*
 * The progress of a stream: its last commit and, if there is one, its pending
 * plan.
 */
typedef struct SaggProgress
{
	int64		batch;			/* of the last commit, -1 = none yet */
	TimestampTz watermark;		/* of the last commit */
	int			npositions;
	SaggRange  *positions;		/* start = first offset not yet committed */
	int			nlast;
	SaggRange  *last;			/* the last record of a partition: start = its
								 * offset, end = its timestamp in ms */
	SaggCounts	totals;			/* since the stream's first batch */
	int			nsuspects;		/* what is left of the last commit's suspects */
	SaggRange  *suspects;
	TimestampTz committed;		/* time of the last commit, DT_NOBEGIN = there
								 * was no micro-batch since the stream's start
								 * or reset */
	bool		replace;		/* the next batch replaces all of the sink's
								 * rows: see checkpoint/reset.c */
	int64		max_time;		/* greatest event time, DT_NOBEGIN = none */
	int			ntimes;
	SaggPartitionTime *times;	/* by ascending topic and partition; of none
								 * with policy global and no idle_timeout */
	SaggPlan   *pending;		/* planned and not committed, or NULL */
} SaggProgress;

/* A group that could not be output when its window closed, and the reason. */
typedef struct SaggFailedGroup
{
	int64		start;			/* of its window, DT_NOBEGIN = it has none */
	int64		end;
	Datum		keys;			/* text[], as GROUP BY has them */
	bool		no_keys;		/* the keys could not be converted to text */
	int			sqlstate;
	char	   *message;
	char	   *detail;			/* or NULL */
} SaggFailedGroup;

/*
 * Which record of a micro-batch: the number of its reading, and its number within the
 * batch that this reading has read.  Both begin at 0; a run has one reading, number 0.
 * Ids of a reading are ascending.
 */
typedef int64 SaggRecordId;

#define SAGG_RECORD_NUMBER_BITS	40

static inline SaggRecordId
sagg_record_id(int reading, int64 number)
{
	return ((int64) reading << SAGG_RECORD_NUMBER_BITS) + number;
}

static inline int
sagg_record_reading(SaggRecordId record)
{
	return (int) (record >> SAGG_RECORD_NUMBER_BITS);
}

static inline int64
sagg_record_number(SaggRecordId record)
{
	return record & ((INT64CONST(1) << SAGG_RECORD_NUMBER_BITS) - 1);
}

/*
 * A SaggRecordId as the ctid of the source's rows, which has 47 bits: up to 128
 * readings.
 */
#define SAGG_MAX_READINGS	128

#define SAGG_TID_RECORD(tid) \
	(((int64) ItemPointerGetBlockNumberNoCheck(tid) << 15) | \
	 (ItemPointerGetOffsetNumberNoCheck(tid) - 1))
#define SAGG_TID_SET(tid, record) \
	ItemPointerSet(tid, (BlockNumber) ((record) >> 15), \
				   (OffsetNumber) (((record) & 0x7fff) + 1))

/*
 * A unit of the state: the entries of one window and partition.  Sessions of a
 * partition are one unit; deduplication has units by expiry.  Units that are
 * large, or have left memory, are written and read back by themselves; all
 * others of a partition are so together, as the unit SAGG_SHARED_UNIT.
 */
typedef struct SaggStateUnit
{
	int32		partition;
	int64		start;
	int64		entries;		/* after the commit; 0 = it leaves no unit */
	int64		bytes;			/* of them, each with a length word */
	int64		due;			/* no entry ends by itself, without its unit,
								 * before that time */
} SaggStateUnit;

/* no unit starts there; it is the last of its partition in the log */
#define SAGG_SHARED_UNIT	PG_INT64_MAX

/*
 * The state store as CHECKPOINT sees it: bytes by unit.  execute/ fills it,
 * checkpoint/ calls it; neither knows the other.
 */
typedef void (*SaggBytesFn) (void *arg, const char *data, Size len);
typedef void (*SaggUnitFn) (void *arg, const SaggStateUnit *unit);

typedef struct SaggStateAccess
{
	void	   *arg;
	uint64		fingerprint;	/* of the definition, goes into every blob */

	/*
	 * the units that this batch has changed, or that do not outlive it, and
	 * those that share; a unit that has no blobs yet gets all of its contents
	 */
	void		(*units) (void *arg, SaggUnitFn fn, void *fnarg);
	/* entries this batch changed: one call of fn for each, self-delimiting */
	void		(*changes) (void *arg, const SaggStateUnit *unit,
							SaggBytesFn fn, void *fnarg);
	/* all live entries, the same way */
	void		(*contents) (void *arg, const SaggStateUnit *unit,
							 SaggBytesFn fn, void *fnarg);

	/*
	 * a unit that is in the log only: its entries are read when they are
	 * needed
	 */
	void		(*known) (void *arg, const SaggStateUnit *unit);

	/*
	 * one or more whole entries of a unit, in the order they were written;
	 * those of SAGG_SHARED_UNIT after the other units of its partition
	 */
	void		(*restore) (void *arg, const SaggStateUnit *unit,
							const char *data, Size len);

	/*
	 * all entries of a unit have been restored: verify their contents; nobody
	 * may use them before
	 */
	void		(*restored) (void *arg, const SaggStateUnit *unit);
} SaggStateAccess;

/*
 * The records of a batch that a policy other than "fail" leaves out.  READ and
 * EXECUTE add to it (rejections.c), READ gives no row of a record in it,
 * CHECKPOINT writes them as dead letters.
 */
typedef struct SaggRejection
{
	SaggRecordId record;
	int			sqlstate;
	char	   *message;
	char	   *detail;			/* or NULL */
} SaggRejection;

/* Some of the records of a batch. */
typedef struct SaggRecordSet
{
	int64		nbits;			/* records that "bits" has room for */
	uint8	   *bits;			/* by record number: 1 = it is in the set */
} SaggRecordSet;

typedef struct SaggRejections
{
	MemoryContext memory;		/* memory of all of it */
	SaggOnError policy;			/* not SAGG_FAIL */
	int64		count;
	SaggRejection first;		/* the first one found */
	SaggRejection *list;		/* all of them, for SAGG_DEAD_LETTER only */
	int64		size;			/* allocated length of "list" */
	int			nreadings;
	SaggRecordSet *rejected;	/* the rejected records, by reading */
} SaggRejections;

/*
 * The windows that records of a batch came too late for, of streams that keep
 * such records; by ascending record.  The windows of a sliding window are one
 * entry: each further window begins, and ends, "step" later.
 */
typedef struct SaggLateRow
{
	SaggRecordId record;
	int64		time;			/* event time; counts in the first row of a
								 * record */
	int64		start;			/* start and end of the first window */
	int64		end;
	int64		step;			/* 0 = there is only one */
	int64		n;				/* windows */
} SaggLateRow;

/* bytes that a window takes in stream_agg.late_records, before compression */
#define SAGG_LATE_WINDOW_BYTES	32

typedef struct SaggLateRows
{
	MemoryContext memory;		/* memory of "rows" */
	int64		n;
	int64		records;		/* number of records they are of */
	int64		first;			/* first row of the record that came last */
	int64		in_order;		/* number of its rows, from there, without
								 * duplicates */
	int64		windows;		/* windows of the records before it */
	int64		size;			/* allocated length */
	SaggLateRow *rows;
} SaggLateRows;

/*
 * A record that a batch diverts, a dead letter or a late record, as READ hands
 * it to CHECKPOINT; values in the caller's context.
 */
typedef struct SaggDivertedRecord
{
	int32		topic;
	int32		partition;
	int64		offset;
	Datum		timestamp;		/* timestamptz */
	Datum		key;			/* bytea */
	Datum		value;			/* bytea */
	Datum		headers;		/* jsonb */
	bool		no_timestamp;
	bool		no_key;
	bool		no_value;
	bool		no_headers;
	const char *error;			/* of a dead letter, as are the next two */
	const char *detail;			/* or NULL */
	int			sqlstate;
	int64		nrows;			/* of a late record */
	const SaggLateRow *rows;
} SaggDivertedRecord;

typedef bool (*SaggNextDivertedRecord) (void *arg, SaggDivertedRecord *diverted);

/*
 * Returns the sum of two numbers of offsets, neither negative; the greatest
 * int64 if it is greater.  Brokers can report anything as the end of a
 * partition.
 */
static inline int64
sagg_add_saturated(int64 a, int64 b)
{
	int64		sum;

	return pg_add_s64_overflow(a, b, &sum) ? PG_INT64_MAX : sum;
}

/* counters.c */
extern const SaggCounter sagg_counters[];

static inline int64 *
sagg_counter(SaggCounts *counts, int i)
{
	return (int64 *) ((char *) counts + sagg_counters[i].offset);
}

static inline int64
sagg_counter_value(const SaggCounts *counts, int i)
{
	return *(const int64 *) ((const char *) counts + sagg_counters[i].offset);
}

extern void sagg_counts_add(SaggCounts *to, const SaggCounts *counts);
extern void sagg_counts_settle(SaggCounts *counts, int64 delivered);
extern bool sagg_counts_add_up(const SaggCounts *counts);

/* merge_sort.c */
extern void sagg_sort(void *elements, size_t n, size_t size,
					  qsort_arg_comparator compare, void *arg);

/* topics.c */

/* limit of the name of a topic, in bytes, and its characters */
#define SAGG_MAX_TOPIC_NAME		249
#define SAGG_TOPIC_ALPHABET \
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

extern int32 sagg_topic_number(const char *name);
extern const char *sagg_topic_name(int32 topic);
extern int	sagg_partition_compare(const SaggRange *a, const SaggRange *b);
extern int	sagg_partition_order(const void *a, const void *b);
extern SaggRange *sagg_partition_find(SaggRange *ranges, int nranges,
									  const SaggRange *key);
extern bool sagg_topic_among(const SaggRange *ranges, int nranges,
							 int32 topic);
extern bool sagg_is_topic_name(const char *name);

/*
 * foreign_text.c: text from other servers.  A text of a message has less than
 * SAGG_FOREIGN_TEXT bytes.
 */
#define SAGG_FOREIGN_TEXT		256

extern char *sagg_foreign_text(const char *text);
extern void sagg_foreign_text_clean(char *text);

/* closest_match.c */
typedef struct SaggClosest
{
	const char *name;
	const char *match;			/* nearest match, NULL = none is near */
	int			edits;			/* edits to the match; without one, too many */
} SaggClosest;

extern void sagg_closest_begin(SaggClosest *closest, const char *name);
extern void sagg_closest_try(SaggClosest *closest, const char *known);

/* catalog_changes.c */
extern uint64 sagg_catalog_changes(void);

/* row_receiver.c */
extern void sagg_receiver_init(DestReceiver *receiver, CommandDest dest,
							   bool (*receive) (TupleTableSlot *slot, DestReceiver *self));

/* subtransaction.c */
extern ErrorData *sagg_try(void (*function) (void *arg), void *arg);
extern bool sagg_error_of_partition(const ErrorData *error);
extern bool sagg_error_of_data(const ErrorData *error);

/* rejections.c */
extern char *sagg_error_text(const char *text);
extern char *sagg_error_reason(const char *message, const char *detail);
extern SaggRejections *sagg_rejections_make(SaggOnError policy);
extern void sagg_reject_record(SaggRejections *rejections, SaggRecordId record,
							   int sqlstate, const char *message, const char *detail);
extern char *sagg_rejection_text(const SaggRejection *rejection);
extern bool sagg_record_rejected(const SaggRejections *rejections, SaggRecordId record);
extern void sagg_too_many_dead_letters(int64 kept,
									   const SaggRejections *rejections);
extern void sagg_too_many_late_records(int64 kept, int64 added);
extern void sagg_too_large_diverted(bool late, int64 kept);

#endif							/* STREAM_AGG_H */
