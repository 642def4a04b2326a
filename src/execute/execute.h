/*-------------------------------------------------------------------------
 *
 * execute.h
 *	  Stage 2, EXECUTE: rows of the inner query into windowed groups.
 *
 * A store is a stream's state in dynamic shared memory.  It outlives batches
 * and, unless discarded, the worker.  An execution is one batch against it:
 *
 *		begin, [restore], run, close, output/removed
 *		commit of the transaction, publish   --or--   abort, undo
 *
 * Until publish the store can be put back as it was (I3).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_EXECUTE_H
#define SAGG_EXECUTE_H

#include "stream_agg.h"

#include "lib/stringinfo.h"
#include "utils/dsa.h"
#include "utils/tuplestore.h"

typedef struct SaggStore SaggStore;
typedef struct SaggExecution SaggExecution;

/*
 * The budget that a store asks before it grows. "reserve" gets its present
 * size, how many bytes more it needs at least and how many it would like; it
 * returns how many it may have, or raises ERRCODE_SAGG_STATE_LIMIT.
 */
typedef struct SaggStoreBudget
{
	const char *stream;			/* for messages */
	Size		(*reserve) (void *arg, Size present, Size least, Size wanted);
	void	   *arg;
} SaggStoreBudget;

/* what units that leave memory have cost; see store_page.c */
typedef struct SaggPaging
{
	int64		loads;			/* units that were read from the log */
	int64		evictions;		/* units that left memory */
	int64		spills;			/* of them, with changes of a batch */
} SaggPaging;

/* the state of a stream, in memory and not */
typedef struct SaggStateSize
{
	int64		groups;
	int64		bytes;			/* about, as if all were in memory */
	int64		units;
	int64		units_out;		/* of them, those that are in the log only */
	int64		bytes_out;		/* of them */
} SaggStateSize;

/* store.c */
extern SaggStore *sagg_store_open(dsa_handle *handle, int tranche_id,
								  const SaggStoreBudget *budget,
								  const SaggQuery *query, int64 batch, bool *fresh);
extern void sagg_store_close(SaggStore *store);
extern void sagg_store_discard(dsa_handle *handle);
extern void sagg_store_publish(SaggStore *store);

/* store_undo.c */
extern bool sagg_store_undo(SaggStore *store);

/* store_access.c */
extern void sagg_store_statistics(SaggStore *store, SaggStateSize *size);

/* store_page.c */
extern void sagg_store_bound(SaggStore *store, Size bound);
extern void sagg_store_evict(SaggStore *store);
extern SaggPaging sagg_store_paging(const SaggStore *store);

/* store_private.c */
extern SaggStore *sagg_store_private(const char *stream, int64 log_bytes,
									 uint64 fingerprint, int64 batch);

#ifdef SAGG_FAILPOINTS
/* what a store holds, by the allocator and by the store itself; store_audit.c */
typedef struct SaggStoreAudit
{
	bool		in_batch;
	int64		batch;
	int64		allocated_bytes;	/* as the allocator rounds them */
	int64		allocated_objects;
	int64		reachable_objects;	/* directories, tables, slot arrays,
									 * versions */
	int64		units_out;		/* units that are not in memory */
}			SaggStoreAudit;

extern bool sagg_store_audit(dsa_handle handle, SaggStoreAudit * audit);
#endif

/* store_limit.c */
extern Size sagg_store_size(SaggStore *store);

/* execution.c */
extern SaggExecution *sagg_execution_begin(SaggStore *store,
										   const SaggStream *stream,
										   SaggQuery *query,
										   const SaggPlan *plan);
extern const SaggStateAccess *sagg_execution_state(SaggExecution *execution);
extern void sagg_execution_run(SaggExecution *execution, int64 records);
extern void sagg_execution_close(SaggExecution *execution, SaggCounts *counts,
								 TimestampTz *watermark, int64 *max_time);
extern void sagg_execution_open_windows(SaggExecution *execution);
extern void sagg_execution_output(SaggExecution *execution, SaggOutput *output);
extern void sagg_execution_output_end(SaggOutput *output);
extern void sagg_execution_end(SaggExecution *execution);

/* state_access.c */
typedef void (*SaggReadUnitFn) (void *arg, const SaggStateAccess *state,
								const SaggStateUnit *unit);
extern void sagg_execution_read_units(SaggExecution *execution, SaggReadUnitFn read,
									  SaggReadUnitFn spill, void *arg);

/* kept_plans.c */
extern struct SaggKeptPlans *sagg_kept_plans_make(MemoryContext memory);
extern void sagg_kept_plans_lock(const struct SaggKeptPlans *plans);

/* failed_groups.c */
extern bool sagg_error_of_group(const ErrorData *error);
extern void sagg_execution_carefully(SaggExecution *execution, int in_row);
extern int	sagg_execution_failed_in_row(const SaggExecution *execution);
extern void sagg_execution_groups_written(SaggExecution *execution);
extern const List *sagg_execution_failed(const SaggExecution *execution);
extern int64 sagg_execution_groups(const SaggExecution *execution);
extern void sagg_execution_output_part(SaggExecution *execution, int64 first,
									   int64 end, SaggOutput *output);
extern void sagg_execution_group_failed(SaggExecution *execution, int64 number,
										ErrorData *error);

/* group_memory.c */
extern Size sagg_group_memory_bound(void);
extern Size sagg_execution_group_memory(const SaggExecution *execution);

/* pass_rows.c */
extern int64 sagg_row_space_bound(void);
extern void sagg_execution_bound_rows(SaggExecution *execution);
extern int	sagg_execution_row_space(const SaggExecution *execution);

/* reset_bound.c */
extern int64 sagg_execution_overwrites_from(SaggExecution *execution);
extern bool sagg_rows_have_windows(const SaggStream *stream, const SaggQuery *query);
extern TimestampTz sagg_last_window_end(const SaggQuery *query, int64 time);
extern int64 sagg_first_window_after(const SaggQuery *query, TimestampTz watermark,
									 int64 *column);
extern TimestampTz sagg_expired_end(const SaggStream *stream, const SaggQuery *query,
									TimestampTz watermark, TimestampTz now);
extern int64 sagg_expired_before(const SaggStream *stream, const SaggQuery *query,
								 TimestampTz watermark, TimestampTz now);
extern void sagg_window_told_by(const SaggQuery *query, int64 told,
								int64 *start, int64 *end);

/* event_times.c */
extern void sagg_execution_partitions(SaggExecution *execution,
									  SaggPartitionTime *times, int ntimes,
									  const SaggRange *runs, int nruns);
extern void sagg_execution_partition_read(SaggExecution *execution,
										  const SaggPartitionTime *time);
extern TimestampTz sagg_execution_next_end(SaggExecution *execution, int64 *ahead);

/*
 * dealt_groups.c: what an execution has made of its records, as messages of a
 * type for an execution of the same batch in another process.
 */
typedef void (*SaggGiveFn) (void *arg, char type, const char *data, Size len);

extern void sagg_execution_give(SaggExecution *execution, SaggGiveFn give, void *arg);
extern bool sagg_execution_take(SaggExecution *execution, char type,
								const char *data, Size len);

/* late_rows.c */
extern void sagg_execution_keep_late(SaggExecution *execution, SaggLateRows *late);

/* state_convert.c */
extern void sagg_execution_convert(SaggExecution *from, SaggExecution *to,
								   const int *origins);

/* state_describe.c */
extern char *sagg_execution_describe(const SaggExecution *execution, int aggno);
extern int64 sagg_execution_estimate(const SaggExecution *execution);

/* row_checks.c */
extern void sagg_execution_reject(SaggExecution *execution,
								  SaggRejections *rejections, Size max_key_bytes);

/*
 * What the form of stored bytes depends on, as text: by name, which a dump and
 * an upgrade keep, and by OID.
 */
typedef struct SaggStateForm
{
	StringInfoData names;
	StringInfoData oids;
	int			nestlevel;		/* nest level of the settings while it is
								 * built */
} SaggStateForm;

/* state_form.c */
extern void sagg_form_begin(SaggStateForm *form);
extern void sagg_form_end(SaggStateForm *form);
extern void sagg_form_type(SaggStateForm *form, Oid type, int32 typmod);
extern void sagg_form_function(SaggStateForm *form, const char *role, Oid function);
extern void sagg_form_collation(SaggStateForm *form, Oid collation);
extern void sagg_form_digest(const SaggStateForm *form, SaggIdentity *identity);

/* aggregates.c */
extern void sagg_aggregate_form(SaggStateForm *form, SaggAgg *agg);
extern bool sagg_aggregate_keeps_inputs(const Aggref *aggref, bool combine,
										bool *strict);
extern bool sagg_aggregate_combines(const Aggref *aggref);

#endif							/* SAGG_EXECUTE_H */
