/*-------------------------------------------------------------------------
 *
 * executor_pool.h
 *	  The leader's side of executors.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_EXECUTOR_POOL_H
#define SAGG_EXECUTOR_POOL_H

#include "executors.h"

/* An executor, and its part of the batch at hand. */
typedef struct SaggExecutor
{
	int			number;			/* from 1 */
	SaggLink	link;
	BackgroundWorkerHandle *handle;
	int			nranges;		/* 0 = it has no part in the batch */
	bool		reading;		/* it has not said yet that it has read */
	int64		records;
	int			nlast;			/* the last record of a partition, as of
								 * sagg_reader_last_record */
	SaggRange  *last;
	int64		rejected;		/* records that are rejected */
	int64		late;			/* late records that are kept */
} SaggExecutor;

struct SaggExecutors
{
	MemoryContext memory;
	int			n;
	SaggExecutor *list;
	int			nowners;
	SaggRange  *owners;			/* by partition: "start" is the number of who
								 * reads it, 0 = the stream's worker */

	/* of the batch at hand, in batch memory */
	bool		broken;			/* a connection was broken */
	int			schemas_asked;	/* in percent of what one may ask for */
	int			nlosses;
	SaggRange  *losses;
	Size		group_memory;	/* the most that one of them has taken */
	char	   *first_rejected; /* described, NULL = none */
};

extern int	sagg_executor_of(const SaggReading *reading, const SaggRange *partition);
extern SaggRange *sagg_executor_ranges(const SaggReading *reading, int number,
									   const SaggRange *ranges, int nranges, int *n);
extern void sagg_executor_send(SaggReading *reading, SaggExecutor *executor, char type,
							   const StringInfoData *command);
extern char sagg_executor_receive(SaggReading *reading, SaggExecutor *executor, bool wait,
								  StringInfo message);

/* executor_watch.c */
extern void sagg_executor_watch_begin(SaggExecutors *executors);
extern SaggExecutor *sagg_executor_watch_end(void);

#endif							/* SAGG_EXECUTOR_POOL_H */
