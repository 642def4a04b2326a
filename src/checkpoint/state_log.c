/*-------------------------------------------------------------------------
 *
 * state_log.c
 *	  Writes the state log: deltas, and from time to time a base.
 *
 * Each batch appends, per partition of the state, the entries it changed: a
 * delta.  A base holds all entries of a partition; writing one deletes the
 * partition's older blobs in the same transaction, and the batch needs no
 * delta there.  So the blobs of a partition always are a chain: deltas, or a
 * base and deltas (I1: as of the last commit, whatever happens).
 *
 * A chain becomes due for a base when it has grown to more than twice the live
 * bytes of its partition, plus some slack.  A batch writes at most one base,
 * plus as many further ones as fit into the bytes of deltas that the batch
 * before wrote: the log stays within a small multiple of the live state even
 * when every batch changes every group, and no batch writes much more than its
 * own changes.  A partition that became empty loses its chain at once.
 *
 * The functions of SaggStateAccess may run users' code (serialize functions),
 * so they are called outside of sections (I8), one partition at a time.
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
	SaggLogSizes *sizes;		/* the sizes being updated */
	SaggBlobWriter writer;		/* holds blobs not yet in the table */
	bool		base[SAGG_STATE_PARTITIONS];	/* partitions to rewrite */
	int64		pending;		/* bytes of blobs in the writer */
} StateLog;

static int64
count_blobs(const SaggLogSizes *sizes)
{
	int64		blobs = 0;

	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
		blobs += sizes->chains[p].blobs;
	return blobs;
}

/*
 * Returns the number of blobs that committed batch "batch" left in the log, by
 * its row in stream_agg.commits; 0 for batch -1.
 */
int64
sagg_state_log_count(SaggLogSection *section, int64 batch)
{
	Datum		values[2];

	values[1] = Int64GetDatum(batch);
	if (sagg_log_execute(section, SAGG_LOG_STATE_BLOBS, values, NULL, 1) == 0)
		return 0;
	return sagg_log_int64(0, 1);
}

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

/*
 * Read the sizes of the state log from the table into "sizes" (the rest of
 * which stays as it is), as of the last committed batch "last_commit".  Reads
 * no blob.  Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT if the table does not hold
 * what that batch left.
 */
void
sagg_state_log_sizes(SaggLogSection *section, int64 last_commit,
					 SaggLogSizes *sizes)
{
	SaggCheckpoint *checkpoint = section->checkpoint;
	Datum		values[1];
	int64		rows;
	int64		expected;
	bool		isnull;

	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
		sagg_chain_clear(&sizes->chains[p]);
	rows = sagg_log_execute(section, SAGG_LOG_STATE_SIZES, values, NULL, 0);
	for (int i = 0; i < rows; i++)
	{
		int32		partition = DatumGetInt32(sagg_log_value(i, 1, &isnull));
		SaggChain  *chain;

		if (partition < 0 || partition >= SAGG_STATE_PARTITIONS)
			ereport(ERROR,
					(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
					 errmsg("state of stream \"%s\" has blobs of partition %d, which does not exist",
							sagg_stream_title(checkpoint->stream), partition),
					 errhint(SAGG_HINT_REBUILD)));
		chain = &sizes->chains[partition];
		chain->bytes = sagg_log_int64(i, 2);
		chain->blobs = sagg_log_int64(i, 3);
		chain->first = sagg_log_int64(i, 4);
		chain->last = sagg_log_int64(i, 5);
		if (chain->last > last_commit)
			ereport(ERROR,
					(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
					 errmsg("state of stream \"%s\" has blobs of micro-batch " INT64_FORMAT ", the last committed one is " INT64_FORMAT,
							sagg_stream_title(checkpoint->stream), chain->last, last_commit),
					 errhint(SAGG_HINT_REBUILD)));
	}
	expected = sagg_state_log_count(section, last_commit);
	if (count_blobs(sizes) != expected)
		sagg_state_log_mismatch(checkpoint, last_commit, expected,
								count_blobs(sizes));
}

/*
 * Run one INSERT of the blobs from list cell "from" up to "to".
 */
static void
insert_blobs(SaggLogSection *section, int64 batch, List *blobs, int from, int to)
{
	int			n = to - from;
	Datum	   *partitions = palloc(sizeof(Datum) * n);
	Datum	   *seqs = palloc(sizeof(Datum) * n);
	Datum	   *bases = palloc(sizeof(Datum) * n);
	Datum	   *datas = palloc(sizeof(Datum) * n);
	Datum		values[6];

	for (int i = 0; i < n; i++)
	{
		SaggBlob   *blob = list_nth(blobs, from + i);

		partitions[i] = Int32GetDatum(blob->id.partition);
		seqs[i] = Int32GetDatum(blob->id.seq);
		bases[i] = BoolGetDatum(blob->id.base);
		datas[i] = PointerGetDatum(blob->data);
	}
	values[1] = Int64GetDatum(batch);
	values[2] = PointerGetDatum(construct_array(partitions, n, INT4OID, 4, true,
												TYPALIGN_INT));
	values[3] = PointerGetDatum(construct_array(seqs, n, INT4OID, 4, true,
												TYPALIGN_INT));
	values[4] = PointerGetDatum(construct_array(bases, n, BOOLOID, 1, true,
												TYPALIGN_CHAR));
	values[5] = PointerGetDatum(construct_array(datas, n, BYTEAOID, -1, false,
												TYPALIGN_INT));
	if (sagg_log_execute(section, SAGG_LOG_STATE_INSERT, values, NULL, 0) != n)
		elog(ERROR, "not all state blobs were inserted");
	pfree(DatumGetPointer(values[5]));
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
 * Choose the partitions that get a base: those that became empty, the one with
 * the most to gain, and further ones within "budget" bytes.
 */
static void
choose_bases(StateLog *log, int64 budget)
{
	int64		live[SAGG_STATE_PARTITIONS];
	int64		spent = 0;
	int			chosen = 0;

	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
	{
		live[p] = log->state->live_bytes(log->state->arg, p);
		log->base[p] = live[p] == 0 && log->sizes->chains[p].blobs > 0;
	}
	for (;;)
	{
		int			best = -1;
		int64		best_excess = 0;

		for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
		{
			int64		excess = log->sizes->chains[p].bytes -
			LIVE_FACTOR * live[p] - LIVE_SLACK;

			if (!log->base[p] && excess > best_excess)
			{
				best = p;
				best_excess = excess;
			}
		}
		if (best < 0 || (chosen > 0 && spent + live[best] > budget))
			break;
		log->base[best] = true;
		spent += live[best];
		chosen++;
	}
}

/*
 * Delete a partition's chain, to make place for its base.
 */
static void
delete_chain(StateLog *log, int partition)
{
	SaggChain  *chain = &log->sizes->chains[partition];
	SaggLogSection section;
	Datum		values[4];
	int64		deleted;

	if (chain->blobs > 0)
	{
		values[1] = Int32GetDatum(partition);
		values[2] = Int64GetDatum(chain->first);
		values[3] = Int64GetDatum(chain->last);
		sagg_log_begin(&section, log->checkpoint);
		deleted = sagg_log_execute(&section, SAGG_LOG_STATE_DELETE, values, NULL, 0);
		sagg_log_end(&section);
		if (deleted != chain->blobs)
			sagg_state_log_mismatch(log->checkpoint, log->batch - 1,
									chain->blobs, deleted);
	}
	sagg_chain_clear(chain);
}

/*
 * Turn one partition's changes, or all its entries, into blobs.
 */
static void
write_partition(StateLog *log, int partition)
{
	SaggBlobWriter *writer = &log->writer;
	const SaggStateAccess *state = log->state;
	SaggChain  *chain = &log->sizes->chains[partition];
	int64		bytes_before = writer->bytes;
	int			blobs_before = list_length(writer->blobs);
	int64		bytes;

	if (log->base[partition])
	{
		delete_chain(log, partition);
		SAGG_FAILPOINT("checkpoint.chain_deleted");
		sagg_blob_begin(writer, partition, log->batch, true, -1);
		state->contents(state->arg, partition, sagg_blob_add, writer);
	}
	else
	{
		sagg_blob_begin(writer, partition, log->batch, false, chain->last);
		state->changes(state->arg, partition, sagg_blob_add, writer);
	}
	sagg_blob_finish(writer);

	bytes = writer->bytes - bytes_before;
	if (bytes == 0)
		return;
	chain->bytes += bytes;
	SAGG_FAILPOINT("checkpoint.blob_made");
	if (log->base[partition])
		SAGG_FAILPOINT("checkpoint.base_made");
	chain->blobs += list_length(writer->blobs) - blobs_before;
	chain->last = log->batch;
	if (chain->first < 0)
		chain->first = log->batch;
	if (!log->base[partition])
		log->sizes->delta_bytes += bytes;
	log->pending += bytes;
	if (log->pending > INSERT_BYTES)
		flush(log);
}

/*
 * Write what a batch changed.  "sizes" is as of the last commit and becomes
 * what this batch leaves, once committed.  Returns the number of blobs then in
 * the log.
 */
int64
sagg_state_log_write(SaggCheckpoint *checkpoint, int64 batch,
					 const SaggStateAccess *state, SaggLogSizes *sizes)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "stream_agg state blobs",
												  ALLOCSET_DEFAULT_SIZES);
	StateLog	log = {
		.checkpoint = checkpoint,
		.state = state,
		.batch = batch,
		.sizes = sizes
	};

	sagg_blob_writer_init(&log.writer, context, state->fingerprint);
	choose_bases(&log, sizes->delta_bytes);
	sizes->delta_bytes = 0;
	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
	{
		CHECK_FOR_INTERRUPTS();
		write_partition(&log, p);
	}
	flush(&log);
	MemoryContextDelete(context);
	return count_blobs(sizes);
}
