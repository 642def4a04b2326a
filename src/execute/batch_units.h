/*-------------------------------------------------------------------------
 *
 * batch_units.h
 *	  Groups of a batch by unit, where the state of the stream leaves memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_BATCH_UNITS_H
#define SAGG_BATCH_UNITS_H

#include "execute_internal.h"

/* batch_units.c */
extern struct SaggBatchUnits *sagg_batch_units_init(void);
extern void sagg_batch_units_forget(struct SaggBatchUnits *units);
extern void sagg_batch_units_add(struct SaggBatchUnits *units, SaggGroup *group);
extern bool sagg_group_is_deferred(const SaggExecution *ex, const SaggGroup *group);
extern void sagg_unit_release(SaggExecution *ex, SaggUnit *unit);
extern void sagg_batch_units_settle(SaggExecution *ex, int partition);
extern void sagg_batch_units_store(SaggExecution *ex, int partition);
extern void sagg_batch_units_close(SaggExecution *ex);

/* close_windows.c */
extern bool sagg_emits_window(const SaggExecution *ex, int64 start);
extern void sagg_groups_emit_stored(SaggExecution *ex, SaggScan *scan);
extern void sagg_group_store(SaggExecution *ex, SaggGroup *group);

#endif							/* SAGG_BATCH_UNITS_H */
