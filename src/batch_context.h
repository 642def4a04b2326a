/*-------------------------------------------------------------------------
 *
 * batch_context.h
 *	  The micro-batch, or repair, that this process runs now, for scans of its
 *	  sources and for INSERTs into its sink.
 *
 * The executor calls scans and INSERTs without an argument of ours, so what they
 * need of the batch is here, once per process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_BATCH_CONTEXT_H
#define SAGG_BATCH_CONTEXT_H

#include "stream_agg.h"

struct SaggBatch;
struct SaggRestriction;
struct SaggSharedRows;

/* Where a record is. */
typedef struct SaggPlace
{
	int32		topic;
	int32		partition;
	int64		offset;
} SaggPlace;

typedef struct SaggBatchContext
{
	/* EXECUTE: what scans of the sources read, from attaching to detaching */
	uint64		attachment;		/* number of this attachment, 0 = none */
	List	   *sources;		/* OIDs */
	int			reading;		/* whose batch it is, see SaggRecordId */
	struct SaggBatch *batch;
	SaggRejections *rejections; /* takes records that do not decode; NULL =
								 * such records are errors */
	SaggPlace	last;			/* the record last given out, partition -1 =
								 * none */
	bool		last_elsewhere; /* an executor has given it out, and has
								 * failed */

	/*
	 * several runs of one batch, or scans of one query: rows that the first
	 * scans decode for the others
	 */
	struct SaggSharedRows *shared;	/* NULL = the batch is not shared */

	/* WRITE: the sink that is written to */
	Oid			sink;			/* InvalidOid = none */
	void	   *opened;			/* what its kind has opened */

	/* a repair, which has no batch: what scans of its sources read */
	const struct SaggRestriction *restriction;	/* NULL = all there is */
	uint64		restriction_number; /* number of this restriction, 0 = none */

	bool		entered;		/* of an operation that is not the worker's
								 * own */
} SaggBatchContext;

extern SaggBatchContext sagg_batch_context;

extern void sagg_batch_enter(SaggBatchContext *outer);
extern void sagg_batch_leave(const SaggBatchContext *outer);
extern void sagg_batch_attach(List *sources, int reading, struct SaggBatch *batch,
							  SaggRejections *rejections);
extern void sagg_batch_detach(void);
extern void sagg_batch_read_elsewhere(const SaggPlace *last);
extern void sagg_batch_set_shared(struct SaggSharedRows *shared);
extern void sagg_batch_set_sink(Oid sink, void *opened);
extern void sagg_batch_restrict(const struct SaggRestriction *restriction);

#endif							/* SAGG_BATCH_CONTEXT_H */
