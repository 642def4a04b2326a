/*-------------------------------------------------------------------------
 *
 * batch_context.c
 *	  The micro-batch, or repair, that this process runs now.
 *
 * Stages set what they need and take it back when they are done.  Whatever is left
 * after an error goes with the transaction or subtransaction in which the batch was
 * attached: that reset is the only cleanup, for workers, previews and repairs alike.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "batch_context.h"
#include "read/read.h"

SaggBatchContext sagg_batch_context = {.last.partition = -1};

/* the registered reset, NULL = none */
static MemoryContextCallback *registered = NULL;

/*
 * Memory context callback: nothing is attached any more.
 */
static void
reset_context(void *arg)
{
	memset(&sagg_batch_context, 0, sizeof(SaggBatchContext));
	sagg_batch_context.last.partition = -1;
	registered = NULL;
	sagg_scan_marks_none();
}

/*
 * Have the context reset at the end of the (sub)transaction in which the first of
 * its parts is set, however that ends.
 */
static void
register_reset(void)
{
	if (registered)
		return;
	registered = MemoryContextAllocZero(CurTransactionContext, sizeof(MemoryContextCallback));
	registered->func = reset_context;
	MemoryContextRegisterResetCallback(CurTransactionContext, registered);
}

/*
 * Let scans of "sources" (OIDs) that begin in this process from now on read "batch",
 * of reading number "reading".  They add to "rejections" the records that do not
 * decode, and leave out what is in it; NULL if such records are errors.  All of it
 * is the caller's, and must live until sagg_batch_detach or the end of the
 * (sub)transaction.
 */
void
sagg_batch_attach(List *sources, int reading, struct SaggBatch *batch,
				  SaggRejections *rejections)
{
	static uint64 last_attachment = 0;

	register_reset();
	sagg_batch_context.attachment = ++last_attachment;
	sagg_batch_context.sources = sources;
	sagg_batch_context.reading = reading;
	sagg_batch_context.batch = batch;
	sagg_batch_context.rejections = rejections;
	sagg_batch_context.last.partition = -1;
	sagg_batch_context.last_elsewhere = false;
	sagg_scan_marks_none();
}

/*
 * EXECUTE has read the batch.  Scans that have not ended do not touch the batch nor
 * the rejections again.
 */
void
sagg_batch_detach(void)
{
	sagg_batch_context.attachment = 0;
	sagg_batch_context.sources = NIL;
	sagg_batch_context.batch = NULL;
	sagg_batch_context.rejections = NULL;
	sagg_scan_marks_none();
}

/*
 * The error that is about to be raised is that of a process that has read another
 * share of the batch: its last record, in the place of this process's own.
 */
void
sagg_batch_read_elsewhere(const SaggPlace *last)
{
	register_reset();
	sagg_batch_context.last = *last;
	sagg_batch_context.last_elsewhere = true;
}

/*
 * Let scans that begin from now on share what they decode; NULL: not any more.
 */
void
sagg_batch_set_shared(struct SaggSharedRows *shared)
{
	register_reset();
	sagg_batch_context.shared = shared;
}

/*
 * From now on what this process inserts into "sink" is the output of the
 * micro-batch; "opened" is what the sink's kind has opened.  InvalidOid: the
 * micro-batch has written.
 */
void
sagg_batch_set_sink(Oid sink, void *opened)
{
	register_reset();
	sagg_batch_context.sink = sink;
	sagg_batch_context.opened = opened;
}

/*
 * Let scans of a restriction's sources that begin in this process from now on read
 * what it allows; it is the caller's.  NULL: all there is again.  Scans that have not
 * ended do not touch the former restriction again.
 */
void
sagg_batch_restrict(const struct SaggRestriction *restriction)
{
	static uint64 last_number = 0;

	register_reset();
	sagg_batch_context.restriction = restriction;
	sagg_batch_context.restriction_number = restriction ? ++last_number : 0;
}
