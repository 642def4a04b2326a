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

/* launcher.c */
extern void sagg_launcher_register(void);

/* batch_warnings.c */
extern bool sagg_warn_of_null_times(const SaggStream *stream,
									const SaggCounts *counts);

#endif							/* SAGG_WORKER_H */
