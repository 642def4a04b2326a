/*-------------------------------------------------------------------------
 *
 * state_spill.c
 *	  Blobs of units that leave memory before CHECKPOINT.
 *
 * EXECUTE hands over a unit as soon as it has all changes of the batch, and
 * frees it.  Its blobs are made at once, those that CHECKPOINT will insert, and
 * wait in a temporary file.  If the transaction aborts, they are gone with it:
 * the log still has the unit as of the last commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/buffile.h"
#include "utils/memutils.h"

#include "checkpoint_internal.h"

/* a blob in the file */
typedef struct SpilledBlob
{
	SaggBlobId	id;
	Size		size;			/* with its length word */
} SpilledBlob;

struct SaggSpill
{
	MemoryContext context;
	int64		batch;
	BufFile    *file;
	SaggBlobWriter writer;
	MemoryContext blobs;		/* of the unit that is being spilled */
	List	   *units;			/* of SaggSpilledUnit, in the order of the
								 * file */
};

static struct SaggSpill *
begin_spill(SaggCheckpoint *checkpoint, int64 batch, uint64 fingerprint)
{
	MemoryContext context = AllocSetContextCreate(checkpoint->context, "stream_agg spilled state",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	struct SaggSpill *spill = palloc0(sizeof(struct SaggSpill));

	spill->context = context;
	spill->batch = batch;
	spill->blobs = AllocSetContextCreate(context, "stream_agg spilled blobs",
										 ALLOCSET_DEFAULT_SIZES);
	sagg_blob_writer_init(&spill->writer, spill->blobs, fingerprint);
	checkpoint->spill = spill;
	spill->file = BufFileCreateTemp(false);
	MemoryContextSwitchTo(old);
	return spill;
}

/*
 * Forget what has been spilled.  Cannot fail, needs no transaction: the end of
 * the transaction closes the file, if "close" does not say so.
 */
void
sagg_spill_end(SaggCheckpoint *checkpoint, bool close)
{
	struct SaggSpill *spill = checkpoint->spill;

	if (spill == NULL)
		return;
	checkpoint->spill = NULL;
	if (close && spill->file)
		BufFileClose(spill->file);
	MemoryContextDelete(spill->context);
}

/*
 * Move the writer's blobs to the file; returns the unit.
 */
static void
write_blobs(struct SaggSpill *spill, const SaggStateUnit *unit, bool base)
{
	MemoryContext old = MemoryContextSwitchTo(spill->context);
	SaggSpilledUnit *spilled = palloc0(sizeof(SaggSpilledUnit));
	ListCell   *lc;

	spilled->unit = *unit;
	spilled->base = base;
	foreach(lc, spill->writer.blobs)
	{
		SaggBlob   *blob = lfirst(lc);
		SpilledBlob header = {blob->id, VARSIZE(blob->data)};

		BufFileWrite(spill->file, &header, sizeof(header));
		BufFileWrite(spill->file, blob->data, header.size);
		spilled->blobs++;
	}
	spilled->bytes = spill->writer.bytes;
	spill->units = lappend(spill->units, spilled);
	spill->writer.blobs = NIL;
	spill->writer.bytes = 0;
	MemoryContextReset(spill->blobs);
	MemoryContextSwitchTo(old);
}

/*
 * Make the blobs of a unit, to be inserted by the CHECKPOINT of micro-batch
 * "batch"; "unit" is as after the batch, which does not change it any more.
 * Raises the errors of temporary files, and of the functions of "state".
 */
void
sagg_checkpoint_spill(SaggCheckpoint *checkpoint, const SaggProgress *progress, int64 batch,
					  const SaggStateAccess *state, const SaggStateUnit *unit)
{
	struct SaggSpill *spill = checkpoint->spill;
	const SaggChain *chain;
	bool		base;

	if (!checkpoint->known)
	{
		SaggLogSection section;

		sagg_log_begin(&section, checkpoint);
		sagg_checkpoint_learn(&section, progress->batch, NULL);
		sagg_log_end(&section);
	}
	if (spill == NULL)
	{
		spill = begin_spill(checkpoint, batch, state->fingerprint);
		checkpoint->any_base = false;
		checkpoint->budget = checkpoint->sizes.delta_bytes;
	}
	if (spill->batch != batch)
		elog(ERROR, "state of another micro-batch is spilled");
	chain = sagg_chain_of(checkpoint, unit);
	base = sagg_wants_base(checkpoint, chain, unit);
	sagg_blob_begin(&spill->writer, unit, batch, base, chain && !base ? chain->last : -1);
	if (unit->entries == 0)
		 /* it leaves no unit */ ;
	else if (base)
		state->contents(state->arg, unit, sagg_blob_add, &spill->writer);
	else
		state->changes(state->arg, unit, sagg_blob_add, &spill->writer);
	sagg_blob_finish(&spill->writer);
	write_blobs(spill, unit, base);
	SAGG_FAILPOINT("checkpoint.spilled");
}

/*
 * Returns the units that have been spilled, SaggSpilledUnits, and goes to the
 * begin of their blobs.
 */
List *
sagg_spill_units(SaggCheckpoint *checkpoint)
{
	if (checkpoint->spill == NULL)
		return NIL;
	if (BufFileSeek(checkpoint->spill->file, 0, 0, SEEK_SET) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not rewind a temporary file: %m")));
	return checkpoint->spill->units;
}

static void
read_file(BufFile * file, void *data, Size size)
{
	if (BufFileRead(file, data, size) != size)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read %zu bytes of state from a temporary file", size)));
}

/*
 * Returns the next blob, in the current context.
 */
SaggBlob *
sagg_spill_next(SaggCheckpoint *checkpoint)
{
	SaggBlob   *blob = palloc(sizeof(SaggBlob));
	SpilledBlob header;

	read_file(checkpoint->spill->file, &header, sizeof(header));
	blob->id = header.id;
	blob->data = palloc(header.size);
	read_file(checkpoint->spill->file, blob->data, header.size);
	return blob;
}
