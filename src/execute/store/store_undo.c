/*-------------------------------------------------------------------------
 *
 * store_undo.c
 *	  Takes back the changes that a batch made to a store (I3).
 *
 * The process that made the changes has a list of them, and undoes one after
 * the other.  A process that finds them, because the former one ended in the
 * middle of a batch, has only the store: the units that the batch has touched
 * are in a list, with their former contents, and each version that the batch
 * made has the former version as "prev".
 *
 * That is enough as long as no change is half made.  So the store is marked as not
 * undoable while a version is put, while a batch is published or undone, and until
 * a store that is being restored is published or undone for the first time.  A
 * process ends only at places it chooses, or the server restarts without any
 * store; a store that is found marked as not undoable is discarded.  So is one from
 * which a unit has been spilled that the log has among others only.
 *
 * Nothing here allocates.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "execute/store/store_internal.h"

/*
 * Restore one unit: its counters and, if it has grown, its former slots.
 */
static void
undo_unit(SaggStore *store, SaggUnit *unit)
{
	if (unit->resized)
	{
		dsa_free(store->area, unit->slots);
		unit->slots = unit->former_slots;
		unit->nslots = unit->former_nslots;
	}
	unit->nentries = unit->former_nentries;
	unit->bytes = unit->former_bytes;
	if (unit->spilled)
		unit->due = DT_NOBEGIN; /* not known */
	unit->spilled = false;
	unit->touched = 0;
	if (unit->log == SAGG_UNIT_MOVES)
		unit->log = SAGG_UNIT_SHARES;
}

static void
end_undo(SaggStore *store)
{
	store->header->touched = InvalidDsaPointer;
	store->header->in_batch = false;
	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
		store->due[p].known = false;
	sagg_store_forget_changes(store);
}

/*
 * The batch has failed at any point: the store becomes what it was when the
 * batch began.  Called inside or outside of a transaction; neither allocates
 * nor raises errors.  Returns false, without doing anything, if it cannot: the
 * store must be discarded.
 */
bool
sagg_store_undo(SaggStore *store)
{
	store->header->undoable = false;
	if (store->lost)
		return false;
	sagg_unit_stop_fetch(store);
	for (uint32 i = 0; i < store->nunits; i++)
	{
		if (DsaPointerIsValid(store->units[i].unit))
			undo_unit(store, SAGG_UNIT(store, store->units[i].unit));
	}

	for (int64 i = store->nrecords - 1; i >= 0; i--)
	{
		SaggUndoRecord *record = &store->records[i];
		SaggUndoUnit *undo = &store->units[record->unit];

		/* of a unit that has left memory */
		if (!DsaPointerIsValid(record->version))
			continue;

		/*
		 * versions linked after the unit has grown are not in its former
		 * slots
		 */
		if (undo->resized_at < 0 || i < undo->resized_at)
			SAGG_SLOTS(store, SAGG_UNIT(store, undo->unit))[record->slot].version =
				sagg_version_before(SAGG_VERSION(store, record->version));
		dsa_free(store->area, record->version);
		SAGG_FAILPOINT("undo.version");
	}
	for (uint32 i = 0; i < store->nunits; i++)
	{
		if (DsaPointerIsValid(store->units[i].unit) &&
			SAGG_UNIT(store, store->units[i].unit)->created)
			sagg_store_free_unit(store, store->units[i].partition,
								 store->units[i].unit);
	}
	end_undo(store);
	return true;
}

/*
 * Returns the published version of a group, given any version of it;
 * InvalidDsaPointer = the group is new.  With "undo", frees the others.
 */
static dsa_pointer
published_version(SaggStore *store, dsa_pointer dp, bool undo)
{
	while (DsaPointerIsValid(dp))
	{
		const SaggVersion *version = SAGG_VERSION(store, dp);
		dsa_pointer before = sagg_version_before(version);

		if (!DsaPointerIsValid(version->prev))
			break;
		if (undo)
			dsa_free(store->area, dp);
		dp = before;
	}
	return dp;
}

/*
 * Put published versions into an array of slots.
 */
static void
undo_slots(SaggStore *store, dsa_pointer slots, uint32 nslots, bool undo)
{
	SaggSlotRef *slot = nslots > 0 ? dsa_get_address(store->area, slots) : NULL;

	for (uint32 i = 0; i < nslots; i++)
		slot[i].version = published_version(store, slot[i].version, undo);
}

/*
 * Undo the batch of a process that has ended, in a store that is undoable.
 * Raises errors when the system cannot map a segment of the area, and those of
 * interrupts; then the store is not undoable any more.
 */
void
sagg_store_undo_left(SaggStore *store)
{
	dsa_pointer next;

	Assert(store->header->in_batch && store->header->undoable);
	Assert(store->nrecords == 0 && store->nunits == 0);
	store->header->undoable = false;
	for (dsa_pointer dp = store->header->touched; DsaPointerIsValid(dp); dp = next)
	{
		SaggUnit   *unit = SAGG_UNIT(store, dp);

		CHECK_FOR_INTERRUPTS();
		next = unit->next_touched;
		/* everything in the former slots is in the present ones, too */
		if (unit->resized)
			undo_slots(store, unit->former_slots, unit->former_nslots, false);
		undo_slots(store, unit->slots, unit->nslots, true);
		undo_unit(store, unit);
		SAGG_FAILPOINT("undo.left");
		if (unit->created)
			sagg_store_free_unit(store, unit->partition, dp);
	}
	end_undo(store);
}
