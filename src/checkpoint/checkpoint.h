/*-------------------------------------------------------------------------
 *
 * checkpoint.h
 *	  Stage 4, CHECKPOINT: the logs offsets, commits, state and sources, and
 *	  the records a batch diverts (dead letters, late records).
 *
 * Every function here runs in the caller's transaction and switches to the
 * extension's owner for its own statements only (I8).  A checkpoint object
 * remembers the sizes of the state log; sagg_checkpoint_published and
 * sagg_checkpoint_aborted tell it what became of the transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_CHECKPOINT_H
#define SAGG_CHECKPOINT_H

#include "stream_agg.h"

typedef struct SaggCheckpoint SaggCheckpoint;

/* a row of stream_agg.sources; all empty before the first contact, or after a
 * reset before the next */
typedef struct SaggOrigin
{
	char	   *topic;			/* NULL if the source had several, and before
								 * the first contact */
	char	   *cluster_id;		/* NULL before the first contact */
	int			noffsets;
	SaggRange  *offsets;		/* start = initial offset of the partition */
} SaggOrigin;

/* checkpoint.c */
extern SaggCheckpoint *sagg_checkpoint_open(const char *stream, bool by_topic);
extern SaggCheckpoint *sagg_checkpoint_open_snapshot(const char *stream);
extern void sagg_checkpoint_close(SaggCheckpoint *checkpoint);
extern int64 sagg_checkpoint_state_bytes(SaggCheckpoint *checkpoint,
										 const SaggProgress *progress);
extern void sagg_checkpoint_plan(SaggCheckpoint *checkpoint,
								 const SaggPlan *plan);
extern void sagg_checkpoint_replan(SaggCheckpoint *checkpoint,
								   const SaggPlan *plan);
extern void sagg_checkpoint_commit(SaggCheckpoint *checkpoint,
								   const SaggProgress *before,
								   const SaggPlan *plan,
								   SaggCommit *commit,
								   const SaggStateAccess *state);
extern void sagg_checkpoint_published(SaggCheckpoint *checkpoint);
extern void sagg_checkpoint_aborted(SaggCheckpoint *checkpoint);

/* diverted_records.c */
extern void sagg_checkpoint_late_records(SaggCheckpoint *checkpoint,
										 const SaggPlan *plan, int64 count,
										 SaggNextDivertedRecord next, void *arg,
										 SaggCommit *commit);
extern void sagg_checkpoint_dead_letters(SaggCheckpoint *checkpoint,
										 const SaggPlan *plan,
										 const SaggRejections *rejections,
										 SaggNextDivertedRecord next, void *arg,
										 SaggCommit *commit);

/* failed_log.c */
extern void sagg_checkpoint_failed_windows(SaggCheckpoint *checkpoint, int64 batch,
										   const List *failed);

/* late_log.c */
typedef struct SaggLateWindow
{
	int64		start;
	int64		end;
	int64		records;		/* records that came too late for it */
	const char *reason;			/* why it cannot be repaired; NULL = it can */
} SaggLateWindow;

extern SaggLateWindow *sagg_checkpoint_late_windows(SaggCheckpoint *checkpoint,
													int *nwindows);
extern void sagg_checkpoint_late_repaired(SaggCheckpoint *checkpoint,
										  const SaggLateWindow *windows,
										  int nwindows);
extern TimestampTz sagg_checkpoint_reset_watermark(SaggCheckpoint *checkpoint);
extern int64 sagg_checkpoint_time_before(SaggCheckpoint *checkpoint,
										 const SaggRange *bound);
extern SaggRange *sagg_checkpoint_dead_offsets(SaggCheckpoint *checkpoint, int *n);

/* progress.c */
extern SaggOrigin *sagg_checkpoint_origin(SaggCheckpoint *checkpoint);
extern void sagg_checkpoint_set_origin(SaggCheckpoint *checkpoint,
									   const SaggOrigin *origin);
extern SaggProgress *sagg_checkpoint_progress(SaggCheckpoint *checkpoint);
extern void sagg_progress_suspects(SaggProgress *progress, const SaggPlan *plan,
								   MemoryContext context);

/* reset.c */
extern void sagg_checkpoint_reset(const char *stream, bool replace,
								  TimestampTz passed);
extern void sagg_checkpoint_forget_plan(SaggCheckpoint *checkpoint, int64 batch);

/* event_log.c */
extern void sagg_checkpoint_event(const char *stream, const char *event,
								  const char *message);

/* read_before.c: what a stream has read before some offsets */
typedef struct SaggReadBefore
{
	bool		any;			/* anything at all */
	bool		known;			/* the log reaches back to the offsets */
	TimestampTz time;			/* no such record has a greater event time;
								 * DT_NOBEGIN = none has any */
	TimestampTz judged;			/* the watermark by which the first records
								 * behind the offsets were judged; DT_NOBEGIN
								 * = not known */
	TimestampTz watermark;		/* after the last micro-batch; DT_NOEND =
								 * there was none */
} SaggReadBefore;

extern void sagg_checkpoint_read_before(SaggCheckpoint *checkpoint, const char *topic,
										const SaggRange *starts, int nstarts,
										SaggReadBefore *before);

/* state_rewrite.c */
extern void sagg_checkpoint_rewrite(SaggCheckpoint *checkpoint,
									const SaggProgress *progress,
									const SaggStateAccess *state);

/* state_spill.c */
extern void sagg_checkpoint_spill(SaggCheckpoint *checkpoint, const SaggProgress *progress,
								  int64 batch, const SaggStateAccess *state,
								  const SaggStateUnit *unit);

/* state_restore.c */
extern void sagg_checkpoint_restore(SaggCheckpoint *checkpoint,
									const SaggProgress *progress,
									const SaggStateAccess *state);
extern void sagg_checkpoint_restore_units(SaggCheckpoint *checkpoint,
										  const SaggProgress *progress,
										  const SaggStateAccess *state);
extern void sagg_checkpoint_restore_unit(SaggCheckpoint *checkpoint,
										 const SaggProgress *progress,
										 const SaggStateAccess *state,
										 const SaggStateUnit *unit);

#endif							/* SAGG_CHECKPOINT_H */
