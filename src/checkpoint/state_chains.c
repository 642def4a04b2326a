/*-------------------------------------------------------------------------
 *
 * state_chains.c
 *	  The chains of the state log: which blobs each unit has, and which the
 *	  units of a partition share.
 *
 * A checkpoint object knows all chains.  It learns them from the
 * table, without reading a blob, and keeps them up to date as batches write
 * blobs.  After a failed commit it learns them again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "streams/streams.h"
#include "checkpoint_internal.h"

/* columns of the statement SAGG_LOG_STATE_SIZES */
enum
{
	CHAIN_PARTITION = 1,
	CHAIN_UNIT,
	CHAIN_BYTES,
	CHAIN_BLOBS,
	CHAIN_FIRST,
	CHAIN_LAST,
	CHAIN_UNIT_ENTRIES,
	CHAIN_UNIT_BYTES,
	CHAIN_DUE
};

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
 * Forget all chains: as of an empty log.
 */
void
sagg_chains_clear(SaggCheckpoint *checkpoint)
{
	SaggLogSizes *sizes = &checkpoint->sizes;
	HASHCTL		control = {
		.keysize = sizeof(SaggChainKey),
		.entrysize = sizeof(SaggChain),
		.hcxt = checkpoint->context
	};

	if (sizes->chains)
		hash_destroy(sizes->chains);
	sizes->chains = NULL;
	sizes->blobs = 0;
	sizes->bytes = 0;
	sizes->chains = hash_create("stream_agg chains", 64, &control,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static SaggChain *
find_chain(SaggCheckpoint *checkpoint, const SaggStateUnit *unit, HASHACTION action,
		   bool *found)
{
	SaggChainKey key = {unit->start, unit->partition};

	return hash_search(checkpoint->sizes.chains, &key, action, found);
}

/*
 * Returns the chain of a unit, or NULL.
 */
SaggChain *
sagg_chain_of(SaggCheckpoint *checkpoint, const SaggStateUnit *unit)
{
	return find_chain(checkpoint, unit, HASH_FIND, NULL);
}

/*
 * Returns the chain of a unit, an empty one if there is none.
 */
SaggChain *
sagg_chain_make(SaggCheckpoint *checkpoint, const SaggStateUnit *unit)
{
	bool		found;
	SaggChain  *chain = find_chain(checkpoint, unit, HASH_ENTER, &found);

	if (!found)
	{
		chain->bytes = 0;
		chain->blobs = 0;
		chain->first = -1;
		chain->last = -1;
	}
	return chain;
}

/*
 * Forget a chain, whose blobs are deleted.
 */
void
sagg_chain_forget(SaggCheckpoint *checkpoint, SaggChain *chain)
{
	checkpoint->sizes.blobs -= chain->blobs;
	checkpoint->sizes.bytes -= chain->bytes;
	(void) hash_search(checkpoint->sizes.chains, &chain->key, HASH_REMOVE, NULL);
}

/*
 * Add the chain in a row of SAGG_LOG_STATE_SIZES.  Raises
 * ERRCODE_SAGG_CHECKPOINT_CORRUPT.
 */
static void
add_chain(SaggCheckpoint *checkpoint, int row, int64 last_commit, SaggStateUnit *unit)
{
	SaggLogSizes *sizes = &checkpoint->sizes;
	SaggChain  *chain;
	bool		isnull;

	unit->partition = DatumGetInt32(sagg_log_value(row, CHAIN_PARTITION, &isnull));
	unit->start = sagg_log_int64(row, CHAIN_UNIT);
	if (unit->start != SAGG_SHARED_UNIT)
	{
		unit->entries = sagg_log_int64(row, CHAIN_UNIT_ENTRIES);
		unit->bytes = sagg_log_int64(row, CHAIN_UNIT_BYTES);
		unit->due = sagg_log_int64(row, CHAIN_DUE);
	}
	if (unit->partition < 0 || unit->partition >= SAGG_STATE_PARTITIONS)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
				 errmsg("state of stream \"%s\" has blobs of partition %d, which does not exist",
						sagg_stream_title(checkpoint->stream), unit->partition),
				 errhint(SAGG_HINT_REBUILD)));
	if (unit->start != SAGG_SHARED_UNIT &&
		(unit->entries <= 0 || unit->entries > PG_UINT32_MAX || unit->bytes <= 0))
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
				 errmsg("state of stream \"%s\" has unit " INT64_FORMAT " of partition %d without contents",
						sagg_stream_title(checkpoint->stream), unit->start, unit->partition),
				 errhint(SAGG_HINT_REBUILD)));
	chain = sagg_chain_make(checkpoint, unit);
	chain->bytes = sagg_log_int64(row, CHAIN_BYTES);
	chain->blobs = sagg_log_int64(row, CHAIN_BLOBS);
	chain->first = sagg_log_int64(row, CHAIN_FIRST);
	chain->last = sagg_log_int64(row, CHAIN_LAST);
	sizes->bytes += chain->bytes;
	sizes->blobs += chain->blobs;
	if (chain->last > last_commit)
		ereport(ERROR,
				(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
				 errmsg("state of stream \"%s\" has blobs of micro-batch " INT64_FORMAT ", the last committed one is " INT64_FORMAT,
						sagg_stream_title(checkpoint->stream), chain->last, last_commit),
				 errhint(SAGG_HINT_REBUILD)));
}

/*
 * Read the chains from the table, as of the last committed batch
 * "last_commit".  Reads no blob.  With "state", each unit that does not share is made known to it,
 * which must allocate nothing that is SPI's.  Raises
 * ERRCODE_SAGG_CHECKPOINT_CORRUPT if the table does not hold what that batch
 * left.
 */
void
sagg_chains_learn(SaggLogSection *section, int64 last_commit,
				  const SaggStateAccess *state)
{
	SaggCheckpoint *checkpoint = section->checkpoint;
	SaggStateUnit unit = {0};
	Datum		values[1];
	int64		rows;
	int64		expected;

	sagg_chains_clear(checkpoint);
	rows = sagg_log_execute(section, SAGG_LOG_STATE_SIZES, values, NULL, 0);
	for (int64 i = 0; i < rows; i++)
	{
		add_chain(checkpoint, i, last_commit, &unit);
		if (state && unit.start != SAGG_SHARED_UNIT)
			state->known(state->arg, &unit);
	}
	expected = sagg_state_log_count(section, last_commit);
	if (checkpoint->sizes.blobs != expected)
		sagg_state_log_mismatch(checkpoint, last_commit, expected, checkpoint->sizes.blobs);
}
