/*-------------------------------------------------------------------------
 *
 * sink_commit.c
 *	  Coordinates a sink that has a commit of its own with a stream's
 *	  transaction.
 *
 * What the kind prepares becomes visible only after the COMMIT, and the
 * stream's logs say whether there was one (I1).  Between the beginning and the
 * end of COMMIT that is unknown, so after an error there the kind is not
 * called: the next session makes it recover by the last committed batch.
 *
 * "aborted" is never called for a transaction that may have committed, nor
 * "committed" for one that may not have.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"

#include "batch_context.h"
#include "write_internal.h"

/*
 * Returns whether the rows of the sink are part of the transaction, and can be
 * rolled back by SQL.
 */
bool
sagg_sink_is_transactional(const SaggSink *sink)
{
	return (sink->kind->flags & SAGG_SINK_TRANSACTIONAL) != 0;
}

/*
 * Make the kind settle what earlier sessions have left. "last" is the last
 * batch that is committed, -1 = none.  In a transaction, with the stream's
 * lock held; raises the kind's errors.
 */
void
sagg_sink_recover(SaggSink *sink, int64 last)
{
	if (sink->kind->recover)
		sink->kind->recover(sink->opened, last);
	SAGG_FAILPOINT("sink.recovered");
}

/*
 * Make the kind settle what is left of a stream that does not run, before a
 * row of its logs that is not a micro-batch takes the number after "last":
 * otherwise what was prepared for that number would count as committed.  In a
 * transaction, with the stream's lock held, as the stream's owner.
 */
void
sagg_sink_settle(const SaggStream *stream, int64 last)
{
	SaggSink   *sink;

	if (sagg_sink_kind(stream->sink)->recover == NULL)
		return;
	sink = sagg_sink_open(stream);
	PG_TRY();
	{
		sagg_sink_recover(sink, last);
	}
	PG_FINALLY();
	{
		sagg_sink_close(sink);
	}
	PG_END_TRY();
}

/*
 * Micro-batch "batch" will write rows of "query".  Until sagg_sink_end, what
 * the process inserts into the sink belongs to the batch.  The query must live
 * until the commit is prepared.
 */
void
sagg_sink_begin(SaggSink *sink, const SaggQuery *query, int64 batch)
{
	sink->phase = SINK_WRITING;
	if (sink->kind->begin)
	{
		MemoryContext old;

		MemoryContextReset(sink->batch_memory);
		old = MemoryContextSwitchTo(sink->batch_memory);
		sagg_sink_describe_rows(query, sink->relid, &sink->rows);
		sink->kind->begin(sink->opened, &sink->rows, batch);
		MemoryContextSwitchTo(old);
	}
	sagg_batch_set_sink(sink->relid, sink->opened);
}

/*
 * The micro-batch has written.
 */
void
sagg_sink_end(SaggSink *sink)
{
	sagg_batch_set_sink(InvalidOid, NULL);
}

/*
 * Everything that can fail in the stream's part of the transaction has been
 * done: prepare the kind's commit.  If the stream's commit is lost, so is what
 * the kind prepares; so that commit waits for the disk.
 */
void
sagg_sink_prepare_commit(SaggSink *sink)
{
	if (sink->kind->prepare)
	{
		MemoryContext old = MemoryContextSwitchTo(sink->batch_memory);

		ForceSyncCommit();
		sink->kind->prepare(sink->opened);
		MemoryContextSwitchTo(old);
	}
	SAGG_FAILPOINT("sink.prepared");
}

/*
 * COMMIT begins.
 */
void
sagg_sink_committing(SaggSink *sink)
{
	sink->phase = SINK_COMMITTING;
}

/*
 * COMMIT has succeeded.  Outside of transactions; raises the kind's errors,
 * after which the next session makes it recover.
 */
void
sagg_sink_committed(SaggSink *sink)
{
	sink->phase = SINK_IDLE;
	if (sink->kind->committed)
	{
		MemoryContext old = MemoryContextSwitchTo(sink->batch_memory);

		sink->kind->committed(sink->opened);
		MemoryContextSwitchTo(old);
	}
	SAGG_FAILPOINT("sink.committed");
}

/*
 * The current transaction, if there is one, has failed and will be rolled
 * back.  The stream's lock is still held.  Raises no error.
 */
void
sagg_sink_aborted(SaggSink *sink)
{
	SinkPhase	phase = sink->phase;

	sink->phase = SINK_IDLE;
	if (phase == SINK_WRITING && sink->kind->aborted)
	{
		MemoryContext old = MemoryContextSwitchTo(sink->batch_memory);

		sink->kind->aborted(sink->opened);
		MemoryContextSwitchTo(old);
	}
}
