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

/* late_rows.c */
extern void sagg_late_row(SaggExecution *ex, TupleTableSlot *slot, int64 time,
						  int64 start, int64 end, int64 step, int64 n);
extern void sagg_late_end(SaggExecution *ex);
extern void sagg_late_forget(SaggExecution *ex);

/* event_times.c */
typedef struct SaggPartitions SaggPartitions;

extern void sagg_partitions_row(SaggExecution *ex, TupleTableSlot *slot);
extern void sagg_partitions_time(SaggExecution *ex, TupleTableSlot *slot, int64 time);
extern void sagg_partitions_forget(SaggExecution *ex);
extern void sagg_partitions_end(SaggExecution *ex);
extern TimestampTz sagg_next_watermark(SaggExecution *ex, int64 *max_time);

/*
 * Count the event time of a row that is not rejected, for the watermark: in
 * microseconds.
 */
static inline void
sagg_note_time(SaggExecution *ex, TupleTableSlot *slot, int64 time)
{
	if (!ex->any_time || time > ex->max_time)
		ex->max_time = time;
	ex->any_time = true;
	if (ex->partitions)
		sagg_partitions_time(ex, slot, time);
}

#endif							/* SAGG_EVENT_TIMES_H */
