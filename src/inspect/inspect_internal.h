/*-------------------------------------------------------------------------
 *
 * inspect_internal.h
 *	  A stream as other sessions look at it: its state as their snapshot sees
 *	  it, and batches that are only tried.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_INSPECT_INTERNAL_H
#define SAGG_INSPECT_INTERNAL_H

#include "stream_agg.h"

#include "checkpoint/checkpoint.h"
#include "define/define.h"
#include "execute/execute.h"
#include "read/read.h"

/*
 * A stream's state as of the last commit that the active snapshot sees, in
 * memory of this process, and an execution against it.
 */
typedef struct SaggInspection
{
	const SaggStream *stream;
	SaggQuery  *query;
	SaggCheckpoint *checkpoint; /* NULL: of a stream that has none */
	SaggProgress *progress;
	SaggPlan   *plan;			/* of the batch after it */
	int64		log_bytes;		/* of the state log */
	SaggStore  *store;
	SaggExecution *execution;
} SaggInspection;

/* inspection.c */
extern void sagg_inspection_begin(SaggInspection *inspection);
extern void sagg_inspection_begin_empty(SaggInspection *inspection);
extern void sagg_inspection_next(SaggInspection *inspection,
								 TimestampTz watermark);
extern void sagg_inspection_end(SaggInspection *inspection);

/* trial_read.c */
typedef struct SaggTrialRead SaggTrialRead;

extern SaggTrialRead *sagg_trial_read(SaggInspection *inspection, int64 limit);
extern SaggBatch *sagg_trial_batch(SaggTrialRead *trial);
extern SaggPartitionTime *sagg_trial_times(SaggTrialRead *trial,
										   SaggInspection *inspection, int *ntimes);
extern void sagg_trial_end(SaggTrialRead *trial);

/* trial_write.c */
extern const char *sagg_trial_no_write(const SaggStream *stream);
extern bool sagg_trial_write(const SaggInspection *inspection,
							 const SaggOutput *output);

/* user_locks.c */
extern List *sagg_user_locks(void);
extern void sagg_user_locks_release(const List *before);

#endif							/* SAGG_INSPECT_INTERNAL_H */
