/*-------------------------------------------------------------------------
 *
 * batch_context.c
 *	  The micro-batch, or repair, that this process runs now.
 *
 * The code of an owner that an operation runs may call this extension again: a trigger
 * of the sink calls preview.  That operation enters a context of its own, in which
 * nothing of the outer one is seen, and leaves it when it is done.
 *
 * After an error the context is what it was when the (sub)transaction that is aborted
 * began: that is the only cleanup, for workers, previews and repairs alike.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "batch_context.h"
#include "read/read.h"

SaggBatchContext sagg_batch_context = {.last.partition = -1};

/* What the context was before a (sub)transaction changed it first. */
typedef struct Former
{
	struct Former *outer;		/* of an enclosing one; NULL = there is none */
	int			level;			/* nesting level of the (sub)transaction */
	SaggBatchContext context;
} Former;

static Former *former = NULL;	/* of the innermost; in TopTransactionContext */

static void
set_context(const SaggBatchContext *context)
{
	sagg_batch_context = *context;
	sagg_scan_mark_select(!context->entered);
	if (context->batch == NULL)
		sagg_scan_marks_none();
}

/*
 * Forget what the context was before the innermost (sub)transaction that changed it.
 */
static void
forget_former(void)
{
	Former	   *last = former;

	former = last->outer;
	pfree(last);
}

/*
 * Subtransaction callback: what it has set goes to the enclosing transaction, or is
 * taken back.
 */
static void
subtransaction_ended(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	while (former && former->level >= level &&
		   (event == SUBXACT_EVENT_COMMIT_SUB || event == SUBXACT_EVENT_ABORT_SUB))
	{
		if (event == SUBXACT_EVENT_ABORT_SUB)
			set_context(&former->context);
		else if (former->outer == NULL || former->outer->level < level - 1)
		{
			former->level = level - 1;
			break;
		}
		forget_former();
	}
}

/*
 * Transaction callback: nothing is attached any more.
 */
static void
transaction_ended(XactEvent event, void *arg)
{
	static const SaggBatchContext nothing = {.last.partition = -1};

	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PARALLEL_PRE_COMMIT ||
		event == XACT_EVENT_PRE_PREPARE || former == NULL)
		return;
	former = NULL;				/* goes with its memory */
	set_context(&nothing);
}

/*
 * The context will be changed: note what it is, for an abort.
 */
static void
note_former(void)
{
	static bool registered = false;
	int			level = GetCurrentTransactionNestLevel();
	Former	   *now;

	Assert(IsTransactionState());
	if (former && former->level == level)
		return;
	if (!registered)
	{
		RegisterXactCallback(transaction_ended, NULL);
		RegisterSubXactCallback(subtransaction_ended, NULL);
	}
	registered = true;
	now = MemoryContextAlloc(TopTransactionContext, sizeof(Former));
	now->outer = former;
	now->level = level;
	now->context = sagg_batch_context;
	former = now;
}

/*
 * An operation that code of an owner may have called begins: until sagg_batch_leave
 * with the same "outer", or until the (sub)transaction is aborted, nothing of what was
 * set before is seen.
 */
void
sagg_batch_enter(SaggBatchContext *outer)
{
	SaggBatchContext inner = {.last.partition = -1};

	inner.entered = true;
	note_former();
	*outer = sagg_batch_context;
	set_context(&inner);
}

/*
 * The operation has ended: what was set before it is seen again.
 */
void
sagg_batch_leave(const SaggBatchContext *outer)
{
	note_former();
	set_context(outer);
}

/*
 * Let scans of "sources" (OIDs) that begin in this process from now on read "batch",
 * of reading number "reading".  They add to "rejections" the records that do not
 * decode, and leave out what is in it; NULL if such records are errors.  All of it
 * is the caller's, and must live until sagg_batch_detach or the abort of the
 * (sub)transaction.
 */
void
sagg_batch_attach(List *sources, int reading, struct SaggBatch *batch,
				  SaggRejections *rejections)
{
	static uint64 last_attachment = 0;

	note_former();
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
 * share of the batch: its last record, in the place of this process's own.  Outside
 * of transactions no record has been given out.
 */
void
sagg_batch_read_elsewhere(const SaggPlace *last)
{
	if (!IsTransactionState())
		return;
	note_former();
	sagg_batch_context.last = *last;
	sagg_batch_context.last_elsewhere = true;
}

/*
 * Let scans that begin from now on share what they decode; NULL: not any more.
 */
void
sagg_batch_set_shared(struct SaggSharedRows *shared)
{
	note_former();
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
	note_former();
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

	note_former();
	sagg_batch_context.restriction = restriction;
	sagg_batch_context.restriction_number = restriction ? ++last_number : 0;
}
