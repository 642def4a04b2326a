/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Processes: the launcher and one worker per stream; and what previews do as
 *	  workers do.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_WORKER_H
#define SAGG_WORKER_H

#include "execute/execute.h"
#include "read/read.h"
#include "stream_agg.h"

/* launcher.c */
extern void sagg_launcher_register(void);

/* what an error that is raised now is about, if it is about data */
typedef enum SaggFault
{
	SAGG_FAULT_NONE,			/* not about data */
	SAGG_FAULT_READ,			/* how much the batch reads */
	SAGG_FAULT_RECORDS,			/* a record of the batch */
	SAGG_FAULT_WINDOWS			/* windows that close, and so no record */
} SaggFault;

/* execute_batch.c */
extern void sagg_execute_records(SaggExecution *execution, const SaggStream *stream,
								 const SaggQuery *query, SaggBatch *batch,
								 SaggRejections *rejections, SaggCommit *commit,
								 SaggFault *fault);
extern void sagg_execute_close(SaggExecution *execution, const SaggStream *stream,
							   const SaggQuery *query, int64 records,
							   SaggCommit *commit, SaggFault *fault);
extern void sagg_execute_batch(SaggExecution *execution, const SaggStream *stream,
							   const SaggQuery *query, SaggBatch *batch,
							   SaggRejections *refusals, SaggCommit *commit,
							   SaggFault *fault);

/* batch_warnings.c */
extern bool sagg_warn_of_null_times(const SaggStream *stream,
									const SaggCounts *counts);

#endif							/* SAGG_WORKER_H */
