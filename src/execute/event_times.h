/*-------------------------------------------------------------------------
 *
 * event_times.h
 *	  Event time by partition, and records that are late by it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_EVENT_TIMES_H
#define SAGG_EVENT_TIMES_H

#include "execute_internal.h"

/* late.c */
extern void sagg_late_row(SaggExecution *ex, TupleTableSlot *slot, int64 time,
						  int64 start, int64 end, int64 step, int64 n);
extern void sagg_late_end(SaggExecution *ex);
extern void sagg_late_forget(SaggExecution *ex);

/* event_times.c */
typedef struct SaggPartitions SaggPartitions;

extern void sagg_partitions_row(SaggExecution *ex, TupleTableSlot *slot);
extern void sagg_partitions_time(SaggExecution *ex, int64 time);
extern void sagg_partitions_forget(SaggExecution *ex);
extern TimestampTz sagg_next_watermark(SaggExecution *ex, int64 *max_time);

#endif							/* SAGG_EVENT_TIMES_H */
