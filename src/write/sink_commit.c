/*-------------------------------------------------------------------------
 *
 * sink_commit.c
 *	  A sink that commits apart from the server, in step with a stream's
 *	  transaction.
 *
 * What the kind prepares becomes visible after the COMMIT only, and whether there
 * was one is what the stream's logs say (I1).  Between the beginning of COMMIT and
 * its end nobody here knows, so an error there tells the kind nothing: the next
 * session has it recover by the last committed batch.
 *
 * Never: a call of "aborted" for a transaction that may have committed, or of
 * "committed" for one that may not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"

#include "batch_context.h"
#include "write_internal.h"

/*
 * Whether the rows of the sink are part of the transaction, and can be taken back
 * by SQL.
 */
bool
sagg_sink_is_transactional(const SaggSink *sink)
{
	return (sink->kind->flags & SAGG_SINK_TRANSACTIONAL) != 0;
}

/*
 * Have the kind settle what earlier sessions have left.  "last" is the last batch
 * that is committed, -1 = none.  In a transaction, with the stream's lock held;
 * raises the kind's errors.
 */
void
sagg_sink_recover(SaggSink *sink, int64 last)
{
	if (sink->kind->recover)
		sink->kind->recover(sink->opened, last);
	SAGG_FAILPOINT("sink.recovered");
}

/*
 * The same for a stream that does not run, before a row of its logs that is no
 * micro-batch takes the number after "last": what was prepared for that number
 * would pass for committed.  In a transaction, with the stream's lock held, as the
 * stream's owner.
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
 * Micro-batch "batch" is going to write rows of "query".  Until sagg_sink_end what
 * the process inserts into the sink is the batch's.  The query must live until the
 * commit is prepared.
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
 * All that can fail in the stream's part of the transaction has been done.  What
 * the kind prepares is lost if the commit is, so that one waits for the disk.
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
 * COMMIT has been done.  Outside of transactions; raises the kind's errors, after
 * which the next session has it recover.
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
 * The transaction at hand, if there is one, has failed and is going to be rolled
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
