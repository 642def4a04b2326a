/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Processes: the launcher, one worker per stream, and what other backends
 *	  ask of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_WORKER_H
#define SAGG_WORKER_H

#include "stream_agg.h"

/* called from _PG_init: shared memory, hooks and callbacks of this room */
extern void sagg_slots_init(void);
extern void sagg_label_init(void);
extern void sagg_notify_init(void);
extern void sagg_database_commands_init(void);
extern void sagg_drop_extension_init(void);

/* state_limit.c */
extern int	sagg_default_total_state(void);

/* launcher.c */
extern void sagg_launcher_register(void);

/* start_offsets.c */
struct SaggReader;
extern SaggRange *sagg_first_ranges(struct SaggReader *reader,
									const char *starting_offsets, int *n);

/* batch_warnings.c */
extern bool sagg_warn_of_null_times(const SaggStream *stream,
									const SaggCounts *counts);

/* control.c, label.c, notify.c */
extern void sagg_require_preload(void);
extern void sagg_label_database(void);
extern void sagg_start_stream_at_commit(const SaggStream *stream);
extern void sagg_lock_stream(Oid view);
extern void sagg_lock_micro_batch(Oid view);
extern void sagg_tell_if_failed(const SaggStream *stream);
extern void sagg_retry_now(Oid view);

/* statistics.c */
extern void sagg_forget_positions(Oid view);

#endif							/* SAGG_WORKER_H */
