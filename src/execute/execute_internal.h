/*-------------------------------------------------------------------------
 *
 * execute_internal.h
 *	  What the files of execute/ share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_EXECUTE_INTERNAL_H
#define SAGG_EXECUTE_INTERNAL_H

#include "event_time/event_time.h"
#include "execute/execute.h"
#include "execute/store/store.h"

#include "executor/nodeAgg.h"
#include "lib/stringinfo.h"
#include "nodes/execnodes.h"
#include "utils/sortsupport.h"
#include "utils/typcache.h"

/* ------------------------------------------------------------------ codec */

/* What bytes stored without conversion must be; see codec_check.c. */
typedef enum SaggRawKind
{
	SAGG_RAW_NONE,				/* values are not stored so */
	SAGG_RAW_ANY,				/* any bytes are a valid value */
	SAGG_RAW_BOOL,
	SAGG_RAW_NAME,
	SAGG_RAW_RECEIVED,			/* as the receive function accepts them */
	SAGG_RAW_TEXT,				/* text in the database's encoding */
	SAGG_RAW_JSON,
	SAGG_RAW_NUMERIC,
	SAGG_RAW_INET,
	SAGG_RAW_JSONB,
	SAGG_RAW_ARRAY
} SaggRawKind;

/* How values of a type are stored; see codec.c. */
typedef struct SaggCodec
{
	Oid			type;			/* the type below domains */
	int16		len;
	bool		byval;
	char		align;
	SaggRawKind kind;
	bool		raw;			/* stored without conversion; otherwise by
								 * send and receive */
	bool		text;			/* the type lacks these: by output and input */
	FmgrInfo	send;
	FmgrInfo	receive;
	Oid			ioparam;
	int32		typmod;
	TupleDesc	record;			/* of type record: its fields; else NULL */
	struct SaggCodec *fields;
	struct SaggCodec *element;	/* of arrays that are raw; else NULL */
} SaggCodec;

/* bytes being read */
typedef struct SaggBytes
{
	const char *data;
	const char *end;
} SaggBytes;

extern void sagg_codec_init(SaggCodec *codec, Oid type, int32 typmod);
extern void sagg_codec_write(SaggCodec *codec, StringInfo buf, Datum value);
extern Datum sagg_codec_read(SaggCodec *codec, const char *data, Size len);
extern const char *sagg_codec_way(Oid type);
extern Datum sagg_codec_call(FunctionCallInfo fcinfo);
extern bytea *sagg_codec_send(SaggCodec *codec, Datum value);
extern Datum sagg_codec_receive(SaggCodec *codec, const char *data, Size len);
extern bool sagg_record_has_codec(Node *expr);
extern void sagg_codec_init_record(SaggCodec *codec, Node *expr);
extern void sagg_record_write(SaggCodec *codec, StringInfo buf, Datum value);
extern Datum sagg_record_read(SaggCodec *codec, const char *data, Size len);
extern void sagg_record_check(SaggCodec *codec, const char *data, Size len);

/* codec_check.c */
extern void sagg_codec_check(SaggCodec *codec, const char *data, Size len);

extern void sagg_numeric_check(const char *data, Size len);
extern void sagg_text_check(const char *data, Size len);

/* jsonb_check.c */
extern void sagg_jsonb_check(const char *data, Size len);

/* serialized_state.c */
extern bool sagg_serialized_is_known(Oid function);
extern void sagg_serialized_check(Oid function, const char *data, Size len);

pg_noreturn extern void sagg_codec_corrupt(const char *detail);
extern const char *sagg_bytes_take(SaggBytes *bytes, Size len);
extern int32 sagg_bytes_take_length(SaggBytes *bytes);

/* ------------------------------------------------------------- aggregates */

/* decimal digits that always fit 128 bits; also the greatest scale of a sum */
#define SAGG_SUM_DIGITS		38

/* A sum that is inlined: unscaled / 10^scale of n finite values. */
typedef struct SaggSum
{
	int128		unscaled;
	int64		n;
	int32		scale;
} SaggSum;

#define SAGG_INT128_MAX	((int128) (~(uint128) 0 >> 1))

/* How an aggregate's transition is inlined; see inline_aggregate.c. */
typedef enum SaggInlineKind
{
	SAGG_INLINE_NONE,
	SAGG_INLINE_COUNT,
	SAGG_INLINE_SUM_INT2,
	SAGG_INLINE_SUM_INT4,
	SAGG_INLINE_SUM_FLOAT4,
	SAGG_INLINE_SUM_FLOAT8,
	SAGG_INLINE_AVG_INT2,
	SAGG_INLINE_AVG_INT4,
	SAGG_INLINE_MAX_INT2,
	SAGG_INLINE_MAX_INT4,
	SAGG_INLINE_MAX_INT8,
	SAGG_INLINE_MAX_FLOAT4,
	SAGG_INLINE_MAX_FLOAT8,
	SAGG_INLINE_MAX_NUMERIC,
	SAGG_INLINE_MIN_INT2,
	SAGG_INLINE_MIN_INT4,
	SAGG_INLINE_MIN_INT8,
	SAGG_INLINE_MIN_FLOAT4,
	SAGG_INLINE_MIN_FLOAT8,
	SAGG_INLINE_MIN_NUMERIC,
	/* all kinds from here on have a SaggSum instead of the server's state */
	SAGG_INLINE_SUM_INT8,
	SAGG_INLINE_AVG_INT8,
	SAGG_INLINE_SUM_NUMERIC,
	SAGG_INLINE_AVG_NUMERIC
} SaggInlineKind;

#define SAGG_INLINE_IS_SUM(kind)	((kind) >= SAGG_INLINE_SUM_INT8)

/*
 * The state of one aggregate in one group: a transition state, or with
 * SaggAggCall.input_state "value" is a SaggInputState, a null pointer for no inputs.
 */
typedef struct SaggAggState
{
	Datum		value;
	bool		isnull;
	bool		no_value;		/* a strict transition without initial value
								 * that has seen no input */
	SaggSum		sum;			/* with SAGG_INLINE_IS_SUM: used in place of
								 * "value" while that is null */
} SaggAggState;

/* One aggregate of the query, ready to be called. */
typedef struct SaggAggCall
{
	const SaggAgg *agg;
	bool		combines;		/* states can be combined, and the call is
								 * ready for it */
	SaggInlineKind kind;
	Oid			transtype;
	int16		translen;
	bool		transbyval;
	Datum		initvalue;
	bool		initnull;
	int			ntransargs;		/* arguments of the transition function,
								 * without the state */
	FmgrInfo	transfn;
	FmgrInfo	finalfn;		/* fn_oid InvalidOid = none */
	int			nfinalargs;
	List	   *direct_args;	/* ExprStates, see SaggExecution.groupcontext */
	FmgrInfo	serialfn;		/* for states of type internal */
	FmgrInfo	deserialfn;
	FmgrInfo	combinefn;		/* for such states, and for all where states
								 * are combined */
	bool		combine_inline;
	SaggCodec	codec;			/* for all others */
	struct SaggInputStateCall *input_state; /* or NULL */
	FunctionCallInfo trans_fcinfo;
	AggStatePerTransData pertrans;	/* what AggGetAggref reads */
	AggStatePerAggData peragg;
} SaggAggCall;

/* aggregates.c */
extern SaggAggCall *sagg_aggregates_init(const SaggQuery *query, bool combine);

/* a tuple of a set */
typedef struct SaggInputSlot
{
	uint32		hash;
	uint32		place;			/* place of its bytes + 1; 0 = none */
} SaggInputSlot;

/* The inputs of an aggregate in one group; see input_state.c. */
typedef struct SaggInputState
{
	int64		count;
	Size		len;			/* bytes of them */
	Size		size;			/* allocated for them, from "data" on */
	Size		room;			/* allocated before "data" */
	char	   *data;
	int64		scanned;		/* tuples that lookups have stepped over */
	uint32		nslots;			/* a power of two; 0 = no hash table yet */
	SaggInputSlot *slots;
} SaggInputState;

typedef struct SaggInputSort
{
	int			column;			/* of the inputs, from 0 */
	SortSupportData support;
} SaggInputSort;

/* How the inputs of an aggregate are kept, and passed to it at the end. */
typedef struct SaggInputStateCall
{
	bool		distinct;		/* DISTINCT: a set of tuples with different
								 * bytes */
	bool		counts;			/* its result is the number of inputs */
	int			ncolumns;
	SaggCodec  *codecs;
	StringInfoData tuple;		/* scratch */
	SaggHashSeed seed;			/* seed of its hash tables */
	int			nsort;
	SaggInputSort *sort;		/* DISTINCT: of all of its columns */
	int16		resultlen;
	bool		resultbyval;
} SaggInputStateCall;

/* ----------------------------------------------------------------- groups */

/* A group that the batch reads or changes, in private memory. */
typedef struct SaggGroup
{
	int64		start;			/* start of its window */
	uint32		hash;			/* hash in the store, with the partition */
	bool		changed;
	bool		deferred;		/* "states" are those of the batch alone, and
								 * "stored" is not known yet; see
								 * batch_units.c */
	struct SaggGroup *next;		/* next group of its unit, there */
	SaggStored	stored;			/* its version in the store, if it has one */
	Datum	   *keys;
	bool	   *keynulls;
	SaggAggState *states;
} SaggGroup;

/* How a key's values are compared and hashed; see keys.c. */
typedef enum SaggKeyKind
{
	SAGG_KEY_GENERAL,			/* by its operator, and by key_hash.c */
	SAGG_KEY_INT1,
	SAGG_KEY_INT2,
	SAGG_KEY_INT4,
	SAGG_KEY_INT8,
	SAGG_KEY_ENUM,
	SAGG_KEY_TEXT				/* text of a deterministic collation */
} SaggKeyKind;

typedef struct SaggKeyCall
{
	SaggKeyKind kind;
	FmgrInfo	eq;
	FmgrInfo	hash;
	struct SaggKeyHash *general;	/* of SAGG_KEY_GENERAL, else NULL */
	SaggCodec	codec;
} SaggKeyCall;

struct grouptab_hash;

/* The class of a record; the greatest counts when a join repeats it. */
typedef enum SaggClass
{
	SAGG_CLASS_FILTERED,
	SAGG_CLASS_TIME_ONLY,		/* filtered, too, but its event time counts */
	SAGG_CLASS_NULL_TIME,
	SAGG_CLASS_LATE,
	SAGG_CLASS_AGGREGATED,
	SAGG_CLASS_REJECTED,		/* counted by SaggRejections */
	SAGG_CLASSES
} SaggClass;

/* see window_kinds.h */
typedef struct SaggWindowMethods SaggWindowMethods;

/* The private memory of a batch's groups; see group_memory.c. */
typedef struct SaggGroupMemory
{
	MemoryContext context;
	Size		bound;
	int64		rows;			/* rows so far, or slightly fewer */
	int64		next_sum;		/* number of rows at which contexts are summed
								 * up next */
} SaggGroupMemory;

struct SaggExecution
{
	SaggStore  *store;
	const SaggHashSeed *seed;	/* seed of the store's hashes */
	const SaggWindowMethods *methods;	/* functions for the kind of the
										 * query's windows */
	const SaggStream *stream;
	SaggQuery  *query;
	const SaggPlan *plan;
	MemoryContext memory;		/* parent of all contexts below */

	AggState   *aggstate;		/* what aggregate functions see as context */
	ExprContext *aggcontext;	/* lives as long as the execution */
	ExprContext *tmpcontext;	/* reset by each row */
	ExprContext *unitcontext;	/* replaces tmpcontext while a unit is read;
								 * NULL = none has been */
	SaggReadUnitFn read_unit;	/* reads units that are not in memory; or NULL */
	SaggReadUnitFn spill_unit;	/* hands units to CHECKPOINT that leave memory
								 * before the commit */
	void	   *read_arg;
	ExprContext *groupcontext;	/* for direct arguments: its scan tuple has
								 * window and keys of the group being emitted;
								 * NULL = there are none */
	ExprContext *replaycontext; /* replaces aggcontext, */
	ExprContext *inputcontext;	/* and this tmpcontext, while kept inputs are
								 * passed to their aggregate */
	SaggAggCall *aggs;
	SaggGroupMemory group_memory;
	int64		row_bytes;		/* of the rows of a query that does not
								 * aggregate */
	int64		row_bound;		/* bound of the rows' bytes; see pass_rows.c */
	SaggKeyCall *keys;
	Datum	   *row_keys;		/* keys of the current row */
	bool	   *row_keynulls;
	struct SaggBatchUnits *units;	/* groups by unit, if units leave memory;
									 * or NULL */
	bool		defers;			/* groups can be deferred */
	struct grouptab_hash *groups;
	uint64		next_slot;		/* of the walk over them */
	StringInfoData entry;		/* scratch */

	/* counting */
	bool		any_time;
	int64		max_time;		/* greatest event time of the batch */
	TimestampTz row_watermark;	/* the watermark by which the current row may
								 * be late */
	struct SaggPartitions *partitions;	/* NULL = policy global */
	bool		judged_by_partition;	/* policy per_partition */
	TupleTableSlot *scanned;	/* slot of the scan, where rows have no record
								 * column and come in its order */
	SaggLateRows *late;			/* late rows that are kept; NULL = they are
								 * not */
	int64		rows[SAGG_CLASSES]; /* by class, without a record column */
	int64		late_windows;	/* number of windows that rows were late for */
	int64		beside_closed;	/* see SaggCounts */
	uint8	   *classes;		/* class of each record, where rows have a
								 * record column */
	int64		nclasses;

	/* rejecting; see row_checks.c */
	SaggRejections *rejections; /* NULL: raise an error instead */
	Size		max_key_bytes;
	int64		latest_time;	/* greatest event time that is accepted */
	bool		run_again;		/* a record was rejected after a row of it had
								 * counted */

	Tuplestorestate *fresh;		/* emitted groups, rows of groups_desc: those
								 * that the sink should not have yet */
	Tuplestorestate *known;		/* emitted groups that the sink has already */
	Tuplestorestate *replaced;	/* windows and keys of groups whose window has
								 * changed; NULL unless that can happen */
	TypeCacheEntry *rangetype;	/* range type of the window column, or NULL */
	Datum		window;			/* the range that was made last, 0 = none */
	int64		window_start;	/* its bounds */
	int64		window_end;
	bool		open_windows;	/* emits what the last commit left open */
	bool		careful;		/* groups that fail are set apart; see
								 * failed_groups.c */
	int			part_pointer;	/* of "fresh": group part_first; -1 = none yet */
	int64		part_first;		/* the part that was read last; its end is
								 * where */
	int64		part_end;		/* read pointer 0 is */
	List	   *failed;			/* of SaggFailedGroup */
	int			finals_in_row;	/* failures of final functions in a row */
	int			failed_in_row;	/* failures of groups in a row, with none
								 * written in between */
	SaggStateAccess access;
	struct SaggSeenKeys *seen;	/* of deduplication, or NULL */
	struct SaggSessions *sessions;	/* see session_windows.c, or NULL */
};

/*
 * Returns the record of a row of the inner query, in whose column query->record it is.
 */
static inline SaggRecordId
sagg_row_record(const SaggExecution *ex, TupleTableSlot *slot)
{
	return SAGG_TID_RECORD((ItemPointer) DatumGetPointer(slot->tts_values[ex->query->record - 1]));
}

/*
 * Returns when the groups that start at "start" are over: the end of their
 * window; for a pane, that of the last window it belongs to.
 */
static inline int64
sagg_window_end(const SaggWindow *window, int64 start)
{
	if (likely(window->kind == SAGG_WINDOW_TUMBLE))
		return start + window->size;
	return sagg_window_bounds(window)->group_end(window, start);
}

/*
 * Whether the watermark has passed the windows of the groups that start at
 * "start": their records are late, and they are not in the store.  The
 * watermark is that of the commit before, or greater for a row of policy
 * per_partition.  In mode complete nothing is late and no window is removed.
 */
static inline bool
sagg_window_passed(const SaggExecution *ex, int64 start)
{
	return ex->query->window.kind != SAGG_WINDOW_NONE &&
		ex->stream->mode != SAGG_COMPLETE &&
		sagg_window_end(&ex->query->window, start) <= ex->row_watermark;
}

/*
 * The windows a row counts in: "n" of them, at least one; they start at start,
 * start - step, start - 2 * step, ...
 */
typedef struct SaggPlaces
{
	int64		start;
	int64		step;			/* set if n > 1 */
	int			n;
} SaggPlaces;

/* windows.c */
extern bool sagg_place_row(SaggExecution *ex, TupleTableSlot *slot,
						   SaggPlaces *places);
extern void sagg_classify_record(SaggExecution *ex, TupleTableSlot *slot,
								 SaggClass class);

/*
 * Count a row, or its record when joins may repeat it.
 */
static inline void
sagg_classify(SaggExecution *ex, TupleTableSlot *slot, SaggClass class)
{
	if (ex->query->record == 0)
		ex->rows[class]++;
	else
		sagg_classify_record(ex, slot, class);
}

/* group_memory.c */
extern void sagg_group_memory_init(SaggExecution *ex, MemoryContext context);
extern void sagg_group_memory_load(SaggExecution *ex, Size len);
extern void sagg_group_memory_sum(SaggExecution *ex);

/*
 * Count rows that have gone to their groups: raises ERRCODE_SAGG_GROUP_MEMORY
 * if the groups take too much memory.
 */
static inline void
sagg_group_memory_check(SaggExecution *ex, int nrows)
{
	SaggGroupMemory *memory = &ex->group_memory;

	memory->rows += nrows;
	if (unlikely(memory->rows >= memory->next_sum) ||
		unlikely(MemoryContextMemAllocated(memory->context, false) > memory->bound))
		sagg_group_memory_sum(ex);
}

/* aggregate_calls.c */
extern void sagg_states_init(SaggExecution *ex, SaggAggState *states);
extern void sagg_states_advance(SaggExecution *ex, SaggAggState *states,
								const Datum *values, const bool *nulls);
extern Datum sagg_state_final(SaggExecution *ex, int aggno,
							  const SaggAggState *state, bool *isnull);
extern void sagg_state_write(SaggExecution *ex, int aggno, StringInfo buf,
							 const SaggAggState *state);
extern void sagg_state_read(SaggExecution *ex, int aggno, SaggBytes *bytes,
							SaggAggState *state);

extern SaggBytes sagg_state_skip(SaggExecution *ex, int aggno, SaggBytes *bytes);
extern void sagg_state_begin(SaggExecution *ex, SaggAggCall *call,
							 SaggAggState *state);
extern Datum sagg_state_finish(SaggExecution *ex, SaggAggCall *call,
							   const SaggAggState *state, bool *isnull);
extern void sagg_state_advance_args(SaggExecution *ex, SaggAggCall *call,
									SaggAggState *state,
									const Datum *args, const bool *nulls);
extern Datum sagg_state_replace(SaggExecution *ex, SaggAggCall *call, Datum value,
								bool isnull, const SaggAggState *former);
extern Datum sagg_state_copy(SaggExecution *ex, const SaggAggCall *call,
							 Datum value);

/* input_state.c */
extern SaggInputStateCall *sagg_input_state_init(const SaggAggCall *call);
extern void sagg_input_state_add(SaggExecution *ex, SaggAggCall *call,
								 SaggAggState *state,
								 const Datum *values, const bool *nulls);
extern void sagg_input_state_combine(SaggExecution *ex, SaggAggCall *call,
									 SaggAggState *state, const SaggAggState *other);
extern void sagg_input_state_absorb(SaggExecution *ex, SaggAggCall *call,
									SaggAggState *state, SaggAggState *other);
extern void sagg_input_state_write(const SaggAggCall *call, StringInfo buf,
								   const SaggAggState *state);
extern void sagg_input_state_read(const SaggAggCall *call, SaggBytes *bytes,
								  SaggAggState *state);
extern SaggBytes sagg_input_state_skip(const SaggAggCall *call, SaggBytes *bytes);
extern void sagg_input_state_take(SaggInputStateCall *kept, SaggBytes *bytes,
								  Datum *values, bool *nulls);

/* input_state_final.c */
extern void sagg_input_state_final_init(SaggExecution *ex);
extern void sagg_input_state_set_group(SaggExecution *ex, const Datum *values,
									   const bool *nulls, int n);
extern Datum sagg_input_state_final(SaggExecution *ex, SaggAggCall *call,
									const SaggAggState *state, bool *isnull);

/* inline_aggregate.c */
extern SaggInlineKind sagg_inline_kind(const SaggAggCall *call, Oid combinefn);
extern void sagg_inline_check(const SaggAggCall *call, const SaggAggState *state);
extern void sagg_inline_advance(SaggExecution *ex, SaggAggCall *call,
								SaggAggState *state,
								const Datum *values, const bool *nulls);
extern bool sagg_inline_combines(const SaggAggCall *call);
extern void sagg_inline_combine(SaggExecution *ex, SaggAggCall *call,
								SaggAggState *into, const SaggAggState *from);
extern Datum sagg_inline_final(SaggAggCall *call, const SaggAggState *state,
							   bool *isnull);
extern void sagg_inline_write(StringInfo buf, const SaggAggState *state);
extern bool sagg_inline_read(SaggBytes *bytes, SaggAggState *state);

/* inline_numeric.c */
extern bool sagg_sum_add_numeric(SaggSum *sum, Datum datum);
extern bool sagg_sum_add_int8(SaggSum *sum, int64 value);
extern bool sagg_sum_add_sum(SaggSum *sum, const SaggSum *other);
extern Datum sagg_sum_numeric(const SaggSum *sum);

/* entry.c */
extern void sagg_entry_write(SaggExecution *ex, StringInfo buf,
							 const SaggGroup *group);
extern void sagg_entry_read(SaggExecution *ex, SaggGroup *group,
							const char *entry, Size len, bool states);
extern bool sagg_entry_has_keys(SaggExecution *ex, const char *entry, Size len,
								const SaggGroup *group);
extern bool sagg_entry_same_keys(SaggExecution *ex, const char *entry, Size len,
								 const Datum *keys, const bool *nulls);
extern void sagg_entry_write_gone(SaggExecution *ex, StringInfo buf,
								  const SaggGroup *group, int64 start);
extern int64 sagg_entry_end(const char *entry);
extern bool sagg_entry_is_gone(const char *entry);

extern void sagg_entry_skip_keys(SaggExecution *ex, SaggBytes *bytes);

/* entry_check.c */
extern void sagg_entry_check_keys(SaggExecution *ex, const char *entry, Size len);
extern void sagg_entry_check(SaggExecution *ex, const char *entry, Size len);

/* entry_delta.c */
extern bool sagg_delta_write(SaggExecution *ex, StringInfo buf, SaggEntry former,
							 SaggEntry present, uint32 salt);
extern void sagg_delta_apply(SaggExecution *ex, StringInfo buf, SaggEntry former,
							 const char *delta, Size len);

/* keys.c */
extern SaggKeyCall *sagg_keys_init(const SaggQuery *query);
extern uint32 sagg_keys_hash(SaggExecution *ex, int64 start,
							 const Datum *keys, const bool *nulls);
extern uint32 sagg_keys_place(SaggExecution *ex, uint32 hash, int64 start,
							  const Datum *keys, const bool *nulls);
extern uint32 sagg_start_salt(const SaggHashSeed *seed, int64 start);
extern bool sagg_keys_equal(SaggExecution *ex, const Datum *a, const bool *anulls,
							const Datum *b, const bool *bnulls);

/* key_hash.c */
typedef struct SaggKeyHash SaggKeyHash;

extern SaggKeyHash *sagg_key_hash_init(Oid type, Oid eqop, Oid collation);
extern void sagg_key_hash_add(SaggExecution *ex, const SaggKeyHash *hash,
							  SaggSip *sip, Datum value);

/* groups.c */
extern void sagg_groups_init(SaggExecution *ex);
extern uint32 sagg_groups_hash_row(SaggExecution *ex, int64 start,
								   const Datum *values, const bool *nulls);
extern SaggGroup *sagg_groups_lookup_row(SaggExecution *ex, int64 start,
										 uint32 hash, const Datum *values,
										 const bool *nulls);
extern SaggGroup *sagg_groups_require(SaggExecution *ex, SaggGroup *probe);
extern void sagg_groups_fetch_slot(SaggExecution *ex, uint32 hash);
extern bool sagg_groups_fetch(SaggExecution *ex, uint32 hash);
extern void sagg_groups_fetch_place(SaggExecution *ex, int64 start, uint32 hash,
									const Datum *values, const bool *nulls);
extern SaggStored sagg_groups_stored(SaggExecution *ex, const SaggGroup *group);
extern SaggGroup **sagg_groups_changed(SaggExecution *ex, int64 *n);
extern void sagg_group_fetch(const SaggGroup *group);
extern SaggGroup *sagg_groups_next(SaggExecution *ex, bool restart);
extern SaggGroup *sagg_groups_next_to_store(SaggExecution *ex, bool restart);
extern bool sagg_groups_met(SaggExecution *ex, SaggGroup *group);
extern SaggGroup *sagg_groups_allocate(SaggExecution *ex);

extern void sagg_groups_forget(SaggExecution *ex);

/* row_checks.c */
extern bool sagg_row_rejected(const SaggExecution *ex, TupleTableSlot *slot);
extern bool sagg_rejected_has_counted(const SaggExecution *ex);
extern bool sagg_check_event_time(SaggExecution *ex, TupleTableSlot *slot,
								  int64 time);
extern void sagg_reject_gap(SaggExecution *ex, TupleTableSlot *slot,
							const Interval *gap);
extern void sagg_reject_window(SaggExecution *ex, TupleTableSlot *slot,
							   int64 time);
extern bool sagg_keys_fit(const SaggExecution *ex, const Datum *keys,
						  const bool *nulls);
extern void sagg_reject_keys(SaggExecution *ex, TupleTableSlot *slot,
							 const Datum *keys, const bool *nulls);

/* pass_rows.c */
extern void sagg_count_row_bytes(SaggExecution *ex, int64 bytes);

/* row_lookahead.c */
typedef struct SaggRows SaggRows;

extern SaggRows *sagg_rows_init(SaggExecution *ex, TupleDesc desc);
extern bool sagg_rows_add(SaggRows *rows, int64 start, Datum *values, bool *nulls);
extern void sagg_rows_flush(SaggRows *rows);

/* aggregate_combine.c */
extern void sagg_state_combine_by_function(SaggExecution *ex, SaggAggCall *call,
										   SaggAggState *into,
										   const SaggAggState *from);
extern void sagg_states_combine(SaggExecution *ex, SaggAggState *into,
								const SaggAggState *from);
extern void sagg_states_absorb(SaggExecution *ex, SaggAggState *into,
							   SaggAggState *from);
extern void sagg_states_copy(SaggExecution *ex, SaggAggState *to,
							 const SaggAggState *from);

/* kept_plans.c */
typedef enum SaggPlanKind
{
	SAGG_PLAN_INNER,
	SAGG_PLAN_OUTER,
	SAGG_PLAN_REMOVED,
	SAGG_PLAN_REPLACED
} SaggPlanKind;

#define SAGG_PLAN_KINDS		(SAGG_PLAN_REPLACED + 1)

extern PlannedStmt *sagg_planned(const SaggExecution *ex, SaggPlanKind kind,
								 const Query *query, int64 rows);

/* emit.c */
extern void sagg_emit_init(SaggExecution *ex);
extern void sagg_finish_group(SaggExecution *ex, const SaggGroup *group,
							  Datum *values, bool *nulls);
extern void sagg_emit_group(SaggExecution *ex, const SaggGroup *group);
extern void sagg_emit_failed(SaggExecution *ex, const SaggGroup *group, ErrorData *error);
extern void sagg_output_of_groups(SaggExecution *ex, Tuplestorestate *groups,
								  SaggOutput *output);
extern void sagg_emit_replaced(SaggExecution *ex, const SaggGroup *group,
							   int64 start, int64 end);

/* failed_groups.c */
extern void sagg_renew_context(SaggExecution *ex, ExprContext **context);
extern ErrorData *sagg_try_aggregates(SaggExecution *ex, void (*function) (void *arg),
									  void *arg);
extern void sagg_final_failed(SaggExecution *ex, const Datum *values, const bool *nulls,
							  ErrorData *error);
extern bool sagg_try_finish_group(SaggExecution *ex, const SaggGroup *group,
								  Datum *values, bool *nulls);

/* state_access.c */
extern void sagg_state_access_init(SaggExecution *ex);
extern void sagg_check_partition(uint32 hash, int partition);
extern bool sagg_entry_is_stale(const SaggExecution *ex, const SaggStateUnit *unit, int64 start);

#endif							/* SAGG_EXECUTE_INTERNAL_H */
