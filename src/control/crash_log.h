/*-------------------------------------------------------------------------
 *
 * crash_log.h
 *	  What shared memory, and a file, know of crashes of the server.
 *
 * For worker/ only.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_CRASH_LOG_H
#define SAGG_CRASH_LOG_H

#include "read/read.h"

struct SaggSlot;

/* what a process does, as it says itself: crash_log.c */
typedef enum SaggActivity
{
	SAGG_NO_PROCESS,
	SAGG_OUTSIDE_BATCH,
	SAGG_IN_BATCH
} SaggActivity;

/* written by the process alone, read when no process is left */
typedef struct SaggMark
{
	volatile SaggActivity activity;
	volatile int told;			/* to quit, and why: a QuitSignalReason */
	volatile Oid view;			/* of the stream it works for */
	volatile int64 batch;		/* -1 = none */
	SaggScanMark record;		/* of the batch, that a scan is at */
} SaggMark;

#define SAGG_CRASH_TIMES		100 /* at least the largest max_crashes */
#define SAGG_CRASH_STREAMS		64

typedef struct SaggCrashTimes
{
	int			n;
	TimestampTz at[SAGG_CRASH_TIMES];	/* oldest first */
} SaggCrashTimes;

/* crashes of the server by one stream, or one that it may have to do with */
typedef struct SaggCrashes
{
	Oid			database;
	Oid			view;			/* with database: the key */
	bool		failed;			/* not to be started but by start_stream */
	int			pause_ms;		/* from the start of the server, 0 = none */
	int			ntimes;			/* as of the last crash, for messages */
	TimestampTz last;
	int64		batch;			/* in which the last one was, -1 = in none */
	int			nrecord;		/* how many in a row, up to the last one, were at
								 * one record; 0 = it was at none */
	char		topic[SAGG_TOPIC_SIZE]; /* that record */
	int32		partition;
	int64		offset;
	SaggCrashTimes times;		/* of those that it is to blame for */
} SaggCrashes;

typedef struct SaggCrashLog
{
	bool		fresh;			/* no launcher has started since the last one */
	bool		changed;		/* since the file was written */
	int			delay_ms;		/* how long all streams wait then */
	TimestampTz resumed;		/* when the launcher has started after it, 0 = none
								 * in the life of this shared memory */
	SaggCrashTimes unexplained; /* crashes that no stream is to blame for, with
								 * streams in micro-batches */
	int			nstreams;
	SaggCrashes streams[SAGG_CRASH_STREAMS];	/* oldest first as a rule */
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
