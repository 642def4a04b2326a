/*-------------------------------------------------------------------------
 *
 * state_restore.c
 *	  Reading the state log back: per unit its base, then its deltas.
 *
 * A worker reads no unit before it is needed: it begins with what the rows say
 * of their units.  Only the units that share are read whole.  Who inspects a
 * stream reads all.
 *
 * The log is read by a cursor and handed over blob by blob, so that a large
 * state is in memory only once, as what execute/ makes of it.  Each blob is
 * verified before its first entry is used, and the chains are checked to be
 * complete; what does not match a commit stops the stream with an error that
 * names it.
 *
 * SaggStateAccess.restore and restored may run users' code (receive and
 * deserialize functions), so they are called outside of sections (I8).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "streams/streams.h"
#include "checkpoint_internal.h"

/* rows fetched at a time; they point to their data, so they are small */
#define FETCH_ROWS		256

typedef struct Restore
{
	SaggCheckpoint *checkpoint;
	const SaggStateAccess *state;
	int64		last_commit;
	int64		blobs;			/* read so far */
	SaggBlobId	previous;		/* the blob before; partition -1 = none */
	bool		complete;		/* it was the last of its batch */
} Restore;

static void
missing(const Restore *restore, const SaggStateUnit *unit, int64 batch, int32 seq)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
			 errmsg("state blob of stream \"%s\", partition %d, unit " INT64_FORMAT ", micro-batch " INT64_FORMAT ", seq %d is missing",
					sagg_stream_title(restore->checkpoint->stream), unit->partition, unit->start,
					batch, seq),
			 errhint(SAGG_HINT_REBUILD)));
}

static void
misplaced(const Restore *restore, const SaggBlobId *id, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_SAGG_CHECKPOINT_CORRUPT),
			 errmsg("state blob of stream \"%s\", partition %d, unit " INT64_FORMAT ", micro-batch " INT64_FORMAT ", seq %d is out of place",
					sagg_stream_title(restore->checkpoint->stream), id->unit.partition, id->unit.start,
					id->batch, id->seq),
			 errdetail_internal("%s", detail),
			 errhint(SAGG_HINT_REBUILD)));
}

/* Check that all blobs of the batch that was read last are there. */
static void
check_complete(const Restore *restore)
{
	const SaggBlobId *previous = &restore->previous;

	if (previous->unit.partition >= 0 && !restore->complete)
		missing(restore, &previous->unit, previous->batch, previous->seq + 1);
}

/*
 * Check that a blob continues what was read before: blobs come by unit,
 * batch and number.
 */
static void
check_order(const Restore *restore, const SaggBlobId *id,
			const SaggBlobContent *content)
{
	const SaggBlobId *previous = &restore->previous;
	bool		same_chain = id->unit.partition == previous->unit.partition &&
	id->unit.start == previous->unit.start;
	int64		expected;

	if (id->unit.partition < 0 || id->unit.partition >= SAGG_STATE_PARTITIONS)
		misplaced(restore, id, "There is no such partition.");
	if (id->batch > restore->last_commit)
		misplaced(restore, id,
				  psprintf("The last committed micro-batch is " INT64_FORMAT ".",
						   restore->last_commit));

	if (same_chain && id->batch == previous->batch)
	{
		if (restore->complete)
			misplaced(restore, id, "The blob before it is the last of its micro-batch.");
		if (id->seq != previous->seq + 1)
			missing(restore, &id->unit, id->batch, previous->seq + 1);
		if (id->base != previous->base)
			misplaced(restore, id, "It mixes with the blobs of a base.");
		return;
	}

	check_complete(restore);
	if (id->seq != 0)
		missing(restore, &id->unit, id->batch, 0);
	if (same_chain && id->base)
		misplaced(restore, id, "It belongs to a base and has older blobs before it.");
	expected = same_chain ? previous->batch : -1;
	if (content->follows > expected)
		missing(restore, &id->unit, content->follows, 0);
	if (content->follows < expected)
		misplaced(restore, id,
				  psprintf("It follows micro-batch " INT64_FORMAT ", not micro-batch " INT64_FORMAT ".",
						   content->follows, expected));
}

/*
 * Verify a row of stream_agg.state and hand its entries over.
 */
static void
restore_blob(Restore *restore, HeapTuple row, TupleDesc desc)
{
	SaggBlobId	id;
	SaggBlobContent content;
	bytea	   *data;
	bool		isnull;

	id.unit.partition = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));
	id.unit.start = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
	id.batch = DatumGetInt64(SPI_getbinval(row, desc, 3, &isnull));
	id.seq = DatumGetInt32(SPI_getbinval(row, desc, 4, &isnull));
	id.base = DatumGetBool(SPI_getbinval(row, desc, 5, &isnull));
	id.unit.entries = DatumGetInt64(SPI_getbinval(row, desc, 6, &isnull));
	id.unit.bytes = DatumGetInt64(SPI_getbinval(row, desc, 7, &isnull));
	id.unit.due = DatumGetInt64(SPI_getbinval(row, desc, 8, &isnull));
	data = (bytea *) PG_DETOAST_DATUM_COPY(SPI_getbinval(row, desc, 9, &isnull));

	sagg_blob_verify(restore->checkpoint, &id, data,
					 restore->state->fingerprint, &content);
	check_order(restore, &id, &content);
	if (restore->previous.unit.partition >= 0 &&
		(restore->previous.unit.partition != id.unit.partition ||
		 restore->previous.unit.start != id.unit.start))
		restore->state->restored(restore->state->arg, &restore->previous.unit);

	restore->state->restore(restore->state->arg, &id.unit,
							content.payload, content.len);
	SAGG_FAILPOINT("restore.blob");

	restore->blobs++;
	restore->previous = id;
	restore->complete = content.last;
	pfree(data);
}

/*
 * Hand over the blobs of a statement.  Between fetches, while users' code may run, the
 * current user is that of the caller.
 */
static void
restore_chains(Restore *restore, SaggLogSection *section, SaggLogStatement statement,
			   Datum *values)
{
	Portal		portal = sagg_log_cursor(section, statement, values);

	for (;;)
	{
		SPITupleTable *rows;
		uint64		nrows;

		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		rows = SPI_tuptable;
		nrows = SPI_processed;
		if (nrows == 0)
			break;

		sagg_restore_user(&section->owner);
		MemoryContextSwitchTo(section->caller);
		for (uint64 i = 0; i < nrows; i++)
		{
			CHECK_FOR_INTERRUPTS();
			restore_blob(restore, rows->vals[i], rows->tupdesc);
		}
		sagg_become_extension_owner(&section->owner);
		SPI_freetuptable(rows);
	}
	sagg_log_cursor_close(portal);
	check_complete(restore);
}

static void
begin_restore(Restore *restore, SaggCheckpoint *checkpoint, int64 last_commit,
			  const SaggStateAccess *state)
{
	memset(restore, 0, sizeof(*restore));
	restore->checkpoint = checkpoint;
	restore->state = state;
	restore->last_commit = last_commit;
	restore->previous.unit.partition = -1;
}

/*
 * The last unit has been handed over.  The current user is the caller's.
 */
static void
end_restore(Restore *restore)
{
	if (restore->previous.unit.partition >= 0)
		restore->state->restored(restore->state->arg, &restore->previous.unit);
}

/*
 * Rebuild all of a stream's state: "state" is that of an empty store,
 * "progress" the stream's.  Everything is allocated in the current memory
 * context.  Raises ERRCODE_SAGG_CHECKPOINT_CORRUPT or
 * ERRCODE_SAGG_DEFINITION_CHANGED, naming the blob; the store then holds part
 * of the state and must be discarded.
 */
void
sagg_checkpoint_restore(SaggCheckpoint *checkpoint,
						const SaggProgress *progress,
						const SaggStateAccess *state)
{
	Restore		restore;
	SaggLogSection section;
	Datum		values[1];
	int64		expected;

	begin_restore(&restore, checkpoint, progress->batch, state);
	sagg_log_begin(&section, checkpoint);
	restore_chains(&restore, &section, SAGG_LOG_STATE_READ, values);
	expected = sagg_state_log_count(&section, progress->batch);
	sagg_log_end(&section);

	if (restore.blobs != expected)
		sagg_state_log_mismatch(checkpoint, progress->batch, expected,
								restore.blobs);
	end_restore(&restore);
}

/*
 * Make the units of a stream's state known to "state", that of an empty store,
 * which then asks for each by sagg_checkpoint_restore_unit when it needs it;
 * those that share are read at once.  Errors are those of
 * sagg_checkpoint_restore.
 */
void
sagg_checkpoint_restore_units(SaggCheckpoint *checkpoint,
							  const SaggProgress *progress,
							  const SaggStateAccess *state)
{
	SaggLogSection section;
	SaggStateUnit unit = {.start = SAGG_SHARED_UNIT};

	sagg_log_begin(&section, checkpoint);
	sagg_checkpoint_learn(&section, progress->batch, state);
	sagg_log_end(&section);
	for (unit.partition = 0; unit.partition < SAGG_STATE_PARTITIONS; unit.partition++)
	{
		if (sagg_chain_of(checkpoint, &unit))
			sagg_checkpoint_restore_unit(checkpoint, progress, state, &unit);
	}
}

/*
 * Read one unit, as of the last commit, whose batch is that of "progress".
 * Errors are those of sagg_checkpoint_restore.
 */
void
sagg_checkpoint_restore_unit(SaggCheckpoint *checkpoint,
							 const SaggProgress *progress,
							 const SaggStateAccess *state,
							 const SaggStateUnit *unit)
{
	Restore		restore;
	SaggLogSection section;
	Datum		values[3];
	const SaggChain *chain;
	int64		expected;

	begin_restore(&restore, checkpoint, progress->batch, state);
	sagg_log_begin(&section, checkpoint);
	if (!checkpoint->known)
		sagg_checkpoint_learn(&section, progress->batch, NULL);
	chain = sagg_chain_of(checkpoint, unit);
	expected = chain ? chain->blobs : 0;
	values[1] = Int32GetDatum(unit->partition);
	values[2] = Int64GetDatum(unit->start);
	restore_chains(&restore, &section, SAGG_LOG_UNIT_READ, values);
	sagg_log_end(&section);
	if (restore.blobs != expected)
		sagg_state_log_mismatch(checkpoint, progress->batch, expected, restore.blobs);
	end_restore(&restore);
}
