/*-------------------------------------------------------------------------
 *
 * crash_log.h
 *	  What shared memory and a file hold about crashes of the server.
 *
 * For worker/ only.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_CRASH_LOG_H
#define SAGG_CRASH_LOG_H

#include "read/read.h"

struct SaggSlot;

/* what a process does, as it reports itself: crash_log.c */
typedef enum SaggActivity
{
	SAGG_NO_PROCESS,
	SAGG_OUTSIDE_BATCH,
	SAGG_IN_BATCH
} SaggActivity;

/* written by this process only, read when no process is left */
typedef struct SaggMark
{
	volatile SaggActivity activity;
	volatile int told;			/* whether it was told to quit, and why: a
								 * QuitSignalReason */
	volatile Oid view;			/* view of the stream it works for */
	volatile int64 batch;		/* batch it is in; -1 = none */
	SaggScanMark record;		/* record of the batch that a scan is reading */
} SaggMark;

#define SAGG_CRASH_TIMES		100 /* at least the largest max_crashes */
#define SAGG_CRASH_STREAMS		64

typedef struct SaggCrashTimes
{
	int			n;
	TimestampTz at[SAGG_CRASH_TIMES];	/* times of crashes, oldest first */
} SaggCrashTimes;

/* the crashes of the server that one stream has caused, or may have caused */
typedef struct SaggCrashes
{
	Oid			database;
	Oid			view;			/* key, together with "database" */
	bool		failed;			/* failed: only start_stream starts it again */
	int			pause_ms;		/* milliseconds from the start of the server,
								 * 0 = none */
	int			ntimes;			/* as of the last crash, for messages */
	TimestampTz last;
	int64		batch;			/* batch in which the last crash was, -1 = in
								 * none */
	int			nrecord;		/* consecutive crashes at one record, up to
								 * the last one; 0 = it was at none */
	char		topic[SAGG_TOPIC_SIZE]; /* that record */
	int32		partition;
	int64		offset;
	SaggCrashTimes times;		/* crashes that it is to blame for */
} SaggCrashes;

typedef struct SaggCrashLog
{
	bool		fresh;			/* the server has crashed, and no launcher has
								 * started since then */
	bool		changed;		/* changed since the file was written */
	int			delay_ms;		/* how long all streams wait then */
	TimestampTz resumed;		/* when the launcher started after the crash;
								 * 0 = it has not, in the life of this shared
								 * memory */
	SaggCrashTimes unexplained; /* crashes that no stream is to blame for,
								 * while streams were in micro-batches */
	int			nstreams;
	SaggCrashes streams[SAGG_CRASH_STREAMS];	/* usually oldest first */
} SaggCrashLog;

/* crash_log.c */
extern void sagg_mark_begin(SaggMark *mark, Oid view);
extern void sagg_mark_end(void);
extern void sagg_mark_batch(int64 batch);
extern void sagg_mark_stream(Oid view);
extern SaggCrashes *sagg_crashes_find(Oid database, Oid view);
extern int	sagg_crashes_at_record(Oid view, int64 batch, SaggPlace *place);
extern void sagg_crash_log_save(const SaggCrashLog *log);
extern void sagg_crash_log_init(void);

/* crash_pause.c */
extern void sagg_crash_pause_begin(void);
extern void sagg_crash_pause_slot(struct SaggSlot *slot);
extern void sagg_crash_pause_save(void);
extern void sagg_crashes_forget(Oid database, Oid view);
extern void sagg_crashes_forget_others(const List *databases);

#endif							/* SAGG_CRASH_LOG_H */
