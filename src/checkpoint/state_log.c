/*-------------------------------------------------------------------------
 *
 * state_log.c
 *	  Writes the state log: deltas, and from time to time a base.
 *
 * Each batch appends, per chain, the entries it changed: a delta.  A base holds
 * all entries of a chain; writing one deletes the chain's older blobs in the
 * same transaction, and the batch needs no delta there.  So a chain always is
 * deltas, or a base and deltas (I1: as of the last commit, whatever happens).
 *
 * The units of a partition share a chain, SAGG_SHARED_UNIT, so that a batch of
 * many small windows writes few rows.  A unit that has become large, or is to
 * leave memory, moves to a chain of its own, which begins with a base, and never
 * moves back.  What the shared chain has of it is stale from then on.  A restore
 * skips entries of units that have a chain of their own; when that is gone
 * because the window has closed, they are of a window that the watermark has
 * passed, and are skipped as well.  (Only sessions end by themselves, and they
 * never share.)  The next base of the shared chain has none of them.  A chain whose units the batch closes, or leaves empty, is deleted.
 *
 * A chain becomes due for a base when it has grown to more than twice its live
 * bytes, plus some slack.  A batch writes at most one base, plus
 * as many further ones as fit into the bytes of deltas that the batch before
 * wrote: the log stays within a small multiple of the live state even when
 * every batch changes every group, and no batch writes much more than its own
 * changes.
 *
 * The functions of SaggStateAccess may run users' code (serialize functions),
 * so they are called outside of sections (I8), one unit at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/memutils.h"

#include "streams/streams.h"
#include "checkpoint_internal.h"

/* a chain is due for a base above LIVE_FACTOR * live + LIVE_SLACK bytes */
#define LIVE_FACTOR		2
#ifndef SAGG_FAILPOINTS
#define LIVE_SLACK		(64 * 1024)
#else
#define LIVE_SLACK		256		/* small, so that tests see bases */
#endif

/* a statement inserts at most this many bytes of blobs, or one blob */
#define INSERT_BYTES	(16 * 1024 * 1024)

typedef struct StateLog
{
	SaggCheckpoint *checkpoint;
	const SaggStateAccess *state;
	int64		batch;
	SaggBlobWriter writer;		/* holds blobs not yet in the table */
	int64		pending;		/* bytes of blobs in the writer */
} StateLog;

/*
 * Raise the error for a log that holds "found" blobs, not "expected".
 */
void
sagg_state_log_mismatch(const SaggCheckpoint *checkpoint, int64 batch,
						int64 expected, int64 found)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
			 errmsg("state of stream \"%s\" is incomplete: " INT64_FORMAT " blobs, micro-batch " INT64_FORMAT " left " INT64_FORMAT,
					sagg_stream_title(checkpoint->stream), found, batch, expected),
			 errhint(SAGG_HINT_REBUILD)));
}

static Datum
int4_array(Datum *values, int n)
{
	return PointerGetDatum(construct_array(values, n, INT4OID, sizeof(int32), true,
										   TYPALIGN_INT));
}

/*
 * Returns an array of what is known of units, NULL for those that share.
 */
static Datum
unit_array(Datum *values, bool *shared, int n)
{
	int			lower = 1;

	return PointerGetDatum(construct_md_array(values, shared, 1, &n, &lower, INT8OID,
											  sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * Run one INSERT of the blobs from list cell "from" up to "to".
 */
static void
insert_blobs(SaggLogSection *section, int64 batch, List *blobs, int from, int to)
{
	int			n = to - from;
	Datum	   *partitions = palloc(sizeof(Datum) * n);
	Datum	   *units = palloc(sizeof(Datum) * n);
	Datum	   *entries = palloc(sizeof(Datum) * n);
	Datum	   *bytes = palloc(sizeof(Datum) * n);
	Datum	   *dues = palloc(sizeof(Datum) * n);
	bool	   *shared = palloc(sizeof(bool) * n);
	Datum	   *seqs = palloc(sizeof(Datum) * n);
	Datum	   *bases = palloc(sizeof(Datum) * n);
	Datum	   *datas = palloc(sizeof(Datum) * n);
	Datum		values[10];

	for (int i = 0; i < n; i++)
	{
		SaggBlob   *blob = list_nth(blobs, from + i);

		partitions[i] = Int32GetDatum(blob->id.unit.partition);
		units[i] = Int64GetDatum(blob->id.unit.start);
		entries[i] = Int64GetDatum(blob->id.unit.entries);
		bytes[i] = Int64GetDatum(blob->id.unit.bytes);
		dues[i] = Int64GetDatum(blob->id.unit.due);
		shared[i] = blob->id.unit.start == SAGG_SHARED_UNIT;
		seqs[i] = Int32GetDatum(blob->id.seq);
		bases[i] = BoolGetDatum(blob->id.base);
		datas[i] = PointerGetDatum(blob->data);
	}
	values[1] = Int64GetDatum(batch);
	values[2] = int4_array(partitions, n);
	values[3] = unit_array(units, NULL, n);
	values[4] = int4_array(seqs, n);
	values[5] = PointerGetDatum(construct_array(bases, n, BOOLOID, 1, true,
												TYPALIGN_CHAR));
	values[6] = unit_array(entries, shared, n);
	values[7] = unit_array(bytes, shared, n);
	values[8] = unit_array(dues, shared, n);
	values[9] = PointerGetDatum(construct_array(datas, n, BYTEAOID, -1, false,
												TYPALIGN_INT));
	if (sagg_log_execute(section, SAGG_LOG_STATE_INSERT, values, NULL, 0) != n)
		elog(ERROR, "not all state blobs were inserted");
	pfree(DatumGetPointer(values[9]));
}

/*
 * Put the writer's blobs into the table and forget them.
 */
static void
flush(StateLog *log)
{
	List	   *blobs = log->writer.blobs;
	SaggLogSection section;
	int			from = 0;

	if (blobs == NIL)
		return;
	sagg_log_begin(&section, log->checkpoint);
	while (from < list_length(blobs))
	{
		Size		bytes = 0;
		int			to = from;

		CHECK_FOR_INTERRUPTS();
		while (to < list_length(blobs))
		{
			bytes += VARSIZE(((SaggBlob *) list_nth(blobs, to))->data);
			if (to > from && bytes > INSERT_BYTES)
				break;
			to++;
		}
		insert_blobs(&section, log->batch, blobs, from, to);
		SAGG_FAILPOINT("checkpoint.blobs_inserted");
		from = to;
	}
	sagg_log_end(&section);

	MemoryContextReset(log->writer.context);
	log->writer.blobs = NIL;
	log->pending = 0;
}

/*
 * Returns whether the chain of a unit, NULL if it has none, gets a base, which
 * then is written.
 */
bool
sagg_wants_base(SaggCheckpoint *checkpoint, const SaggChain *chain, const SaggStateUnit *unit)
{
	if (unit->entries == 0)
		return false;
	if (chain == NULL)
		return unit->start != SAGG_SHARED_UNIT;
	if (chain->bytes <= LIVE_FACTOR * unit->bytes + LIVE_SLACK ||
		(checkpoint->any_base && unit->bytes > checkpoint->budget))
		return false;
	if (checkpoint->any_base)
		checkpoint->budget -= unit->bytes;
	checkpoint->any_base = true;
	return true;
}

/*
 * Delete the blobs of a unit.
 */
static void
delete_chain(StateLog *log, SaggChain *chain)
{
	SaggLogSection section;
	Datum		values[5];
	int64		deleted;

	values[1] = Int32GetDatum((int32) chain->key.partition);
	values[2] = Int64GetDatum(chain->key.start);
	values[3] = Int64GetDatum(chain->first);
	values[4] = Int64GetDatum(chain->last);
	sagg_log_begin(&section, log->checkpoint);
	deleted = sagg_log_execute(&section, SAGG_LOG_STATE_DELETE, values, NULL, 0);
	sagg_log_end(&section);
	if (deleted != chain->blobs)
		sagg_state_log_mismatch(log->checkpoint, log->batch - 1,
								chain->blobs, deleted);
	sagg_chain_forget(log->checkpoint, chain);
	SAGG_FAILPOINT("checkpoint.chain_deleted");
}

/*
 * Note that a chain has got blobs of the batch.
 */
static void
extend_chain(StateLog *log, const SaggStateUnit *unit, bool base, int64 blobs, int64 bytes)
{
	SaggChain  *chain = sagg_chain_make(log->checkpoint, unit);
	SaggLogSizes *sizes = &log->checkpoint->sizes;

	chain->bytes += bytes;
	chain->blobs += blobs;
	chain->last = log->batch;
	if (chain->first < 0)
		chain->first = log->batch;
	sizes->bytes += bytes;
	sizes->blobs += blobs;
	if (!base)
		sizes->delta_bytes += bytes;
}

/*
 * Turn one unit's changes, or all its entries, into blobs.  A SaggUnitFn.
 */
static void
write_unit(void *arg, const SaggStateUnit *unit)
{
	StateLog   *log = arg;
	SaggBlobWriter *writer = &log->writer;
	const SaggStateAccess *state = log->state;
	SaggChain  *chain = sagg_chain_of(log->checkpoint, unit);
	int64		bytes_before = writer->bytes;
	int			blobs_before = list_length(writer->blobs);
	int64		bytes;
	bool		base;

	CHECK_FOR_INTERRUPTS();
	base = sagg_wants_base(log->checkpoint, chain, unit);
	if (chain && (base || unit->entries == 0))
		delete_chain(log, chain);
	if (unit->entries == 0)
		return;
	sagg_blob_begin(writer, unit, log->batch, base, chain && !base ? chain->last : -1);
	if (base)
		state->contents(state->arg, unit, sagg_blob_add, writer);
	else
		state->changes(state->arg, unit, sagg_blob_add, writer);
	sagg_blob_finish(writer);

	bytes = writer->bytes - bytes_before;
	if (bytes == 0)
		return;
	SAGG_FAILPOINT("checkpoint.blob_made");
	if (base)
		SAGG_FAILPOINT("checkpoint.base_made");
	extend_chain(log, unit, base, list_length(writer->blobs) - blobs_before, bytes);
	log->pending += bytes;
	if (log->pending > INSERT_BYTES)
		flush(log);
}

/*
 * Insert the blobs of the units that have been spilled.
 */
static void
insert_spilled(StateLog *log)
{
	ListCell   *lc;

	foreach(lc, sagg_spill_units(log->checkpoint))
	{
		const SaggSpilledUnit *spilled = lfirst(lc);
		SaggChain  *chain = sagg_chain_of(log->checkpoint, &spilled->unit);

		CHECK_FOR_INTERRUPTS();
		if (chain && (spilled->base || spilled->unit.entries == 0))
			delete_chain(log, chain);
		for (int64 i = 0; i < spilled->blobs; i++)
		{
			MemoryContext old = MemoryContextSwitchTo(log->writer.context);
			SaggBlob   *blob = sagg_spill_next(log->checkpoint);

			log->writer.blobs = lappend(log->writer.blobs, blob);
			log->pending += VARSIZE(blob->data);
			MemoryContextSwitchTo(old);
			if (log->pending > INSERT_BYTES)
				flush(log);
		}
		if (spilled->blobs > 0)
			extend_chain(log, &spilled->unit, spilled->base, spilled->blobs, spilled->bytes);
	}
	flush(log);
	sagg_spill_end(log->checkpoint, true);
}

/*
 * Write what a batch changed.  What the checkpoint knows of the log becomes
 * what this batch leaves, once committed.  Returns the number of blobs then in
 * the log.
 */
int64
sagg_state_log_write(SaggCheckpoint *checkpoint, int64 batch,
					 const SaggStateAccess *state)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "stream_agg state blobs",
												  ALLOCSET_DEFAULT_SIZES);
	StateLog	log = {
		.checkpoint = checkpoint,
		.state = state,
		.batch = batch
	};
	int64		deltas = checkpoint->sizes.delta_bytes;

	sagg_blob_writer_init(&log.writer, context, state->fingerprint);
	if (checkpoint->spill == NULL)
	{
		checkpoint->any_base = false;
		checkpoint->budget = deltas;
	}
	checkpoint->sizes.delta_bytes = 0;
	insert_spilled(&log);
	state->units(state->arg, write_unit, &log);
	flush(&log);
	MemoryContextDelete(context);
	return checkpoint->sizes.blobs;
}
