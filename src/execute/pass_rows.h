/*-------------------------------------------------------------------------
 *
 * pass_rows.h
 *	  Queries that do not aggregate, within execute/.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_PASS_ROWS_H
#define SAGG_PASS_ROWS_H

#include "execute_internal.h"

#include "tcop/dest.h"

/* pass_rows.c */
extern DestReceiver *sagg_row_receiver(SaggExecution *ex);
extern void sagg_rows_forget(SaggExecution *ex);

/* deduplicate.c */
extern struct SaggSeenKeys *sagg_seen_keys_init(SaggExecution *ex);
extern const SaggWindow *sagg_seen_keys_window(const SaggExecution *ex);
extern bool sagg_seen_key(SaggExecution *ex, int64 time, const Datum *values,
						  const bool *nulls);
extern void sagg_seen_keys_store(SaggExecution *ex);
extern void sagg_seen_keys_forget(SaggExecution *ex);
extern void sagg_seen_key_restore(SaggExecution *ex, const SaggStateUnit *unit,
								  const char *entry, Size len);

#endif							/* SAGG_PASS_ROWS_H */
