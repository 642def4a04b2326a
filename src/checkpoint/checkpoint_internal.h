/*-------------------------------------------------------------------------
 *
 * checkpoint_internal.h
 *	  What the files of checkpoint/ share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_CHECKPOINT_INTERNAL_H
#define SAGG_CHECKPOINT_INTERNAL_H

#include "executor/spi.h"
#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"

#include "streams/streams.h"
#include "checkpoint.h"

/* hint of errors about a checkpoint that cannot be used */
#define SAGG_HINT_REBUILD \
	"Restore the database from a backup, or drop the stream and create it again " \
	"to build its state again from the records in Kafka."

/* the statements on the logs; log_statements.c has their texts */
typedef enum SaggLogStatement
{
	SAGG_LOG_READ_ORIGIN,
	SAGG_LOG_SET_ORIGIN,
	SAGG_LOG_INITIAL_WATERMARK,
	SAGG_LOG_LAST_COMMIT,
	SAGG_LOG_PLANS_SINCE,
	SAGG_LOG_REPLACE_PLAN,
	SAGG_LOG_IS_EMPTY,
	SAGG_LOG_OLDEST_BATCH,
	SAGG_LOG_TRIM_OFFSETS,
	SAGG_LOG_TRIM_COMMITS,
	SAGG_LOG_STATE_SIZES,
	SAGG_LOG_STATE_BLOBS,
	SAGG_LOG_STATE_READ,
	SAGG_LOG_UNIT_READ,
	SAGG_LOG_STATE_INSERT,
	SAGG_LOG_STATE_DELETE,
	SAGG_LOG_DEAD_LETTERS_COUNT,
	SAGG_LOG_DEAD_LETTERS_INSERT,
	SAGG_LOG_FAILED_WINDOWS_COUNT,
	SAGG_LOG_FAILED_WINDOWS_INSERT,
	SAGG_LOG_LATE_RECORDS_COUNT,
	SAGG_LOG_LATE_RECORDS_INSERT,
	SAGG_LOG_LATE_WINDOWS,
	SAGG_LOG_LATE_REPAIRED,
	SAGG_LOG_LATE_FORGET,
	SAGG_LOG_COMMITS,
	SAGG_LOG_DEAD_OFFSETS,
	SAGG_LOG_RESET_ORIGIN,
	SAGG_LOG_RESET_PLANS,
	SAGG_LOG_RESET_STATE,
	SAGG_LOG_RESET_LATE_RECORDS,
	SAGG_LOG_RESET_PLAN,
	SAGG_LOG_RESET_COMMIT,
	SAGG_LOG_EVENT_INSERT,
	SAGG_LOG_EVENT_TRIM,
	SAGG_LOG_READ_BEFORE,
	SAGG_LOG_RESET_WATERMARK,
	SAGG_LOG_STATEMENTS
} SaggLogStatement;

/*
 * Columns of stream_agg.offsets: of SAGG_LOG_PLANS_SINCE, counted from 1, and, with
 * the stream first, the parameters of SAGG_LOG_REPLACE_PLAN.
 */
enum
{
	SAGG_OFFSETS_STREAM,
	SAGG_OFFSETS_BATCH,
	SAGG_OFFSETS_RANGES,
	SAGG_OFFSETS_WATERMARK,
	SAGG_OFFSETS_BATCH_TIME,
	SAGG_OFFSETS_SUSPECTS,
	SAGG_OFFSETS_ATTEMPTS,
	SAGG_OFFSETS_SKIPPED,
	SAGG_OFFSETS_QUIET,
	SAGG_OFFSETS_BEHIND,
	SAGG_OFFSETS_DEALT,
	SAGG_OFFSETS_COLUMNS
};

/* columns of the statement SAGG_LOG_LAST_COMMIT */
enum
{
	SAGG_COMMIT_BATCH = 1,
	SAGG_COMMIT_WATERMARK,
	SAGG_COMMIT_OFFSETS,
	SAGG_COMMIT_LAST_RECORDS,
	SAGG_COMMIT_TIME,			/* -infinity: of a reset */
	SAGG_COMMIT_REPLACE,
	SAGG_COMMIT_MAX_TIME,
	SAGG_COMMIT_EVENT_TIMES,
	SAGG_COMMIT_ACTIVE_TIMES,
	SAGG_COMMIT_TOTALS			/* of the first counter; the others follow */
};

/* identifies a unit of the state; without padding, it is hashed as bytes */
typedef struct SaggChainKey
{
	int64		start;
	int64		partition;
} SaggChainKey;

/* the blobs of one unit of the state: a base and deltas, or deltas */
typedef struct SaggChain
{
	SaggChainKey key;			/* must be first */
	int64		bytes;			/* of data */
	int64		blobs;			/* 0 = none yet */
	int64		first;			/* batch of the oldest blob, -1 = no blobs */
	int64		last;			/* batch of the newest blob, -1 = no blobs */
} SaggChain;

/* what a checkpoint object remembers of the logs */
typedef struct SaggLogSizes
{
	HTAB	   *chains;			/* of SaggChain, those with blobs */
	int64		blobs;			/* of all of them */
	int64		bytes;
	int64		delta_bytes;	/* deltas that the last batch wrote */
	int64		oldest;			/* oldest batch in offsets and commits */
} SaggLogSizes;

struct SaggCheckpoint
{
	MemoryContext context;		/* holds this object and its statements */
	char	   *stream;
	bool		by_topic;		/* the stream's source has several topics */
	bool		as_of_snapshot; /* reads what the caller's snapshot sees */
	char	   *topic;			/* topic of offsets that name none; NULL = all
								 * name one */
	SPIPlanPtr	statements[SAGG_LOG_STATEMENTS];

	/*
	 * If "known", "sizes" is as of the last commit, or in_commit as of the
	 * batch that is being committed; else it is read from the tables when it
	 * is needed.
	 */
	bool		known;
	bool		in_commit;		/* between commit and published or aborted */
	SaggLogSizes sizes;
	bool		any_base;		/* the batch has written a base */
	int64		budget;			/* bytes of further ones that it may write */
	struct SaggSpill *spill;	/* what the batch has spilled; NULL = nothing */
};

/* a section that runs statements on the logs */
typedef struct SaggLogSection
{
	SaggCheckpoint *checkpoint;
	SaggOwnerContext owner;
	MemoryContext caller;		/* current before the section */
} SaggLogSection;

/* identifies a blob; stored in its header, and its row says the same */
typedef struct SaggBlobId
{
	SaggStateUnit unit;
	int64		batch;
	int32		seq;
	bool		base;
} SaggBlobId;

typedef struct SaggBlob
{
	SaggBlobId	id;
	bytea	   *data;
} SaggBlob;

/* turns entries into blobs; see state_blob.c */
typedef struct SaggBlobWriter
{
	MemoryContext context;		/* memory of the blobs */
	uint64		fingerprint;
	int64		follows;
	SaggBlobId	id;				/* identity of the blob being filled */
	StringInfoData buffer;		/* its bytes; data == NULL when there is none */
	uint32		entries;		/* number of entries in it */
	List	   *blobs;			/* SaggBlob, finished ones */
	int64		bytes;			/* bytes in finished blobs */
} SaggBlobWriter;

/* what a verified blob says */
typedef struct SaggBlobContent
{
	int64		follows;		/* batch that wrote the chain's previous
								 * blobs, or -1 */
	bool		last;			/* this is the last blob of its batch and unit */
	uint32		entries;
	const char *payload;		/* points into the blob */
	Size		len;
} SaggBlobContent;

/* log_statements.c */
extern void sagg_log_begin(SaggLogSection *section, SaggCheckpoint *checkpoint);
extern void sagg_log_end(SaggLogSection *section);
extern int64 sagg_log_execute(SaggLogSection *section,
							  SaggLogStatement statement, Datum *values,
							  const char *nulls, long limit);
extern Portal sagg_log_cursor(SaggLogSection *section,
							  SaggLogStatement statement, Datum *values);
extern void sagg_log_cursor_close(Portal portal);
extern Datum sagg_log_value(int row, int column, bool *isnull);
extern int64 sagg_log_int64(int row, int column);

/* log_rows.c */
typedef struct SaggLogValue
{
	const char *column;
	Datum		value;
	bool		isnull;
} SaggLogValue;

extern int64 sagg_log_last_batch(const SaggCheckpoint *checkpoint);
extern int64 sagg_log_last_plan(const SaggCheckpoint *checkpoint);
extern void sagg_log_insert(const char *log, const SaggLogValue *values, int n);

/* checkpoint.c */
extern void sagg_checkpoint_learn(SaggLogSection *section, int64 last_commit,
								  const SaggStateAccess *state);
extern const SaggRange *sagg_skip_of(const SaggPlan *plan,
									 const SaggRange *position);

/* progress.c */
extern bool sagg_names_topics(const SaggCheckpoint *checkpoint);
extern TimestampTz sagg_log_initial_watermark(SaggLogSection *section);

/* offsets_json.c */
extern Datum sagg_offsets_to_jsonb(const SaggRange *ranges, int nranges,
								   bool by_topic);
extern Datum sagg_ranges_to_jsonb(const SaggRange *ranges, int nranges,
								  bool by_topic);
extern Datum sagg_skips_to_jsonb(const SaggPlan *plan, const SaggCommit *commit,
								 bool by_topic);
extern bool sagg_offsets_from_jsonb(Jsonb *json, const char *topic,
									SaggRange **ranges, int *nranges);
extern bool sagg_ranges_from_jsonb(Jsonb *json, const char *topic,
								   SaggRange **ranges, int *nranges);
extern bool sagg_signed_from_jsonb(Jsonb *json, const char *topic,
								   SaggRange **values, int *nvalues);

/* partition_times.c */
extern Datum sagg_times_to_jsonb(const SaggPartitionTime *times, int ntimes,
								 bool active, bool by_topic);
extern bool sagg_times_from_jsonb(Jsonb *event_times, Jsonb *active_times,
								  const char *topic, SaggPartitionTime **times,
								  int *ntimes);

/* state_blob.c */
extern void sagg_blob_writer_init(SaggBlobWriter *writer, MemoryContext context,
								  uint64 fingerprint);
extern void sagg_blob_begin(SaggBlobWriter *writer, const SaggStateUnit *unit,
							int64 batch, bool base, int64 follows);
extern void sagg_blob_add(void *writer, const char *data, Size len);
extern void sagg_blob_finish(SaggBlobWriter *writer);
extern void sagg_blob_verify(const SaggCheckpoint *checkpoint,
							 const SaggBlobId *id,
							 const bytea *data, uint64 fingerprint,
							 SaggBlobContent *content);

/* state_chains.c */
extern void sagg_chains_clear(SaggCheckpoint *checkpoint);
extern SaggChain *sagg_chain_of(SaggCheckpoint *checkpoint, const SaggStateUnit *unit);
extern SaggChain *sagg_chain_make(SaggCheckpoint *checkpoint, const SaggStateUnit *unit);
extern void sagg_chain_forget(SaggCheckpoint *checkpoint, SaggChain *chain);
extern void sagg_chains_learn(SaggLogSection *section, int64 last_commit,
							  const SaggStateAccess *state);
extern int64 sagg_state_log_count(SaggLogSection *section, int64 batch);

/* a unit that the batch has spilled */
typedef struct SaggSpilledUnit
{
	SaggStateUnit unit;
	bool		base;
	int64		blobs;
	int64		bytes;			/* of the blobs */
} SaggSpilledUnit;

/* state_spill.c */
extern void sagg_spill_end(SaggCheckpoint *checkpoint, bool close);
extern List *sagg_spill_units(SaggCheckpoint *checkpoint);
extern SaggBlob *sagg_spill_next(SaggCheckpoint *checkpoint);

/* state_log.c */
extern bool sagg_wants_base(SaggCheckpoint *checkpoint, const SaggChain *chain,
							const SaggStateUnit *unit);
extern int64 sagg_state_log_write(SaggCheckpoint *checkpoint, int64 batch,
								  const SaggStateAccess *state);
pg_noreturn extern void sagg_state_log_mismatch(const SaggCheckpoint *checkpoint,
												int64 batch, int64 expected,
												int64 found);

#endif							/* SAGG_CHECKPOINT_INTERNAL_H */
