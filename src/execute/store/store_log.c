/*-------------------------------------------------------------------------
 *
 * store_log.c
 *	  The store as the state log has it: units that share a chain, units with a
 *	  chain of their own, and what a batch has changed in them.
 *
 * A unit begins among those that share (checkpoint/state_log.c says why).  At the
 * end of a batch those move to chains of their own that have become large, and
 * those that are to leave memory; a unit that leaves memory in the middle of a
 * batch moves, too.  All of that is undone with the batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "execute/store/store_internal.h"

/* the place behind the last change of a chain */
#define NO_RECORD	(-1)

/*
 * A unit of so many bytes gets a chain of its own: writing it once more is little
 * then, and so is a row for it in each micro-batch that changes it.
 */
#ifndef SAGG_FAILPOINTS
#define OWN_CHAIN_BYTES		((uint64) 256 * 1024)
#else
#define OWN_CHAIN_BYTES		((uint64) 512)	/* so that tests see it */
#endif

/* a batch moves about as much to leave memory as a large one makes */
#define MOVED_BYTES			((Size) 32 * 1024 * 1024)

/*
 * Fill in the sessions of a partition, as they will be after the commit.
 * Returns whether the batch has changed them, and not handed them over already.
 */
static bool
sessions_state(SaggStore *store, int partition, SaggStateUnit *state)
{
	bool		changed = store->buried_entries[partition] > 0;

	memset(state, 0, sizeof(*state));
	state->partition = partition;
	state->start = SAGG_SESSIONS_UNIT;
	for (dsa_pointer dp = store->header->partitions[partition].first; DsaPointerIsValid(dp);
		 dp = SAGG_UNIT(store, dp)->next)
	{
		const SaggUnit *unit = SAGG_UNIT(store, dp);

		if (unit->spilled)
			return false;
		changed |= unit->touched > 0;
		state->entries += unit->nentries;
		state->bytes += unit->bytes;
	}
	state->entries -= store->buried_entries[partition];
	state->bytes -= store->buried_bytes[partition];
	state->due = sagg_due_first_of(store, partition);
	return changed;
}

/*
 * Fill in what CHECKPOINT needs to know of a unit, or of the sessions of its
 * partition.  Returns whether the batch has changed them.
 */
bool
sagg_unit_state(SaggStore *store, const SaggUnit *unit, SaggStateUnit *state)
{
	if (sagg_has_sessions(store))
		return sessions_state(store, unit->partition, state);
	state->partition = unit->partition;
	state->start = unit->start;
	state->entries = unit->nentries;
	state->bytes = unit->bytes;
	state->due = DT_NOEND;
	return unit->touched > 0;
}

/*
 * Pass the sessions of all partitions that the batch has changed to "fn".
 */
static void
session_units(SaggStore *store, SaggUnitFn fn, void *fnarg)
{
	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
	{
		SaggStateUnit state;

		if (sessions_state(store, p, &state))
			fn(fnarg, &state);
	}
}

/*
 * A unit is in the log by itself from the batch's commit on.  Undone with the
 * batch.
 */
static void
move_unit(SaggStore *store, SaggUnit *unit)
{
	sagg_unit_touch(store, unit);
	unit->log = SAGG_UNIT_MOVES;
}

/*
 * Returns whether a unit may have to leave memory when the batch is committed.
 */
static bool
may_leave(const SaggStore *store, const SaggUnit *unit)
{
	return !unit->out && unit->nentries > 0 && !sagg_store_closes(store, unit->start);
}

/*
 * Units take more memory than they should: those that will leave after the
 * commit move to chains of their own, as far as a batch may write.
 */
static void
move_leaving(SaggStore *store)
{
	Size		left;
	Size		written = 0;

	if (!sagg_store_is_bounded(store))
		return;
	sagg_store_measure(store);
	if (!sagg_store_is_over(store))
		return;
	sagg_store_find_candidates(store, may_leave);
	left = store->resident;
	for (int i = 0; i < store->ncandidates && left > store->bound && written < MOVED_BYTES; i++)
	{
		SaggUnit   *unit = store->candidates[i].unit;

		left -= Min(left, sagg_unit_memory(unit));
		if (unit->log != SAGG_UNIT_SHARES)
			continue;
		written += unit->bytes;
		move_unit(store, unit);
	}
}

/*
 * Choose the units that get a chain of their own, because they are large or are
 * to leave memory.
 */
static void
choose_moves(SaggStore *store)
{
	for (uint32 i = 0; i < store->nunits; i++)
	{
		SaggUnit   *unit = DsaPointerIsValid(store->units[i].unit) ?
		SAGG_UNIT(store, store->units[i].unit) : NULL;

		if (unit && unit->log == SAGG_UNIT_SHARES && unit->bytes >= OWN_CHAIN_BYTES &&
			may_leave(store, unit))
			move_unit(store, unit);
	}
	move_leaving(store);
	SAGG_FAILPOINT("store.units_moved");
}

/*
 * Pass units to "fn": those with a chain of their own that the batch has changed,
 * as they will be after the commit, and without entries those that it closes;
 * then what shares, by partition.
 */
void
sagg_store_units(SaggStore *store, SaggUnitFn fn, void *fnarg)
{
	SaggStateUnit shared[SAGG_STATE_PARTITIONS] = {0};
	SaggScan	scan;

	if (sagg_has_sessions(store))
	{
		session_units(store, fn, fnarg);
		return;
	}
	choose_moves(store);
	sagg_scan_known(&scan, store);
	while (sagg_scan_next_unit(&scan))
	{
		const SaggUnit *unit = scan.unit;
		bool		closes = sagg_store_closes(store, unit->start);
		SaggStateUnit known = {.partition = unit->partition, .start = unit->start,
			.due = DT_NOEND
		};

		if (unit->log == SAGG_UNIT_SHARES)
		{
			shared[unit->partition].entries += closes ? 0 : unit->nentries;
			shared[unit->partition].bytes += closes ? 0 : unit->bytes;
			continue;
		}
		/* what is spilled has been handed over */
		if ((unit->touched == 0 || unit->spilled) && !closes)
			continue;
		if (!closes)
		{
			known.entries = unit->nentries;
			known.bytes = unit->bytes;
		}
		fn(fnarg, &known);
	}
	for (int p = 0; p < SAGG_STATE_PARTITIONS; p++)
	{
		shared[p].partition = p;
		shared[p].start = SAGG_SHARED_UNIT;
		fn(fnarg, &shared[p]);
	}
}

/*
 * Returns the first change of units that share, from the touched unit with number
 * "next" - 1 on, or NO_RECORD.
 */
static int64
next_shared_record(SaggStore *store, uint32 next)
{
	while (next > 0)
	{
		const SaggUndoUnit *undo = &store->units[next - 1];

		if (undo->records.first > 0 && SAGG_UNIT(store, undo->unit)->log == SAGG_UNIT_SHARES)
			return undo->records.first;
		next = undo->next;
	}
	return NO_RECORD;
}

/*
 * Returns the place of the first change of a unit, or NO_RECORD.
 */
static int64
first_record(SaggStore *store, const SaggStateUnit *known)
{
	const SaggUnit *unit;
	int64		first = 0;

	if (known->start == SAGG_SHARED_UNIT)
		return next_shared_record(store, store->first_unit[known->partition]);
	unit = sagg_store_unit(store, known->partition, known->start);
	if (sagg_has_sessions(store))
		first = store->sessions[known->partition].first;
	else if (unit && unit->touched > 0)
		first = store->units[unit->touched - 1].records.first;
	return first > 0 ? first : NO_RECORD;
}

/*
 * Find the next entry that the batch has put into a unit, into the sessions of a
 * partition, or into the units of it that share.  "place" is allocated by the
 * caller, and 0 at first.  Returns false when there are no more.
 */
bool
sagg_store_next_change(SaggStore *store, const SaggStateUnit *known, int64 *place,
					   SaggChange *change)
{
	const SaggUndoRecord *record;
	const SaggVersion *version;

	CHECK_FOR_INTERRUPTS();
	if (*place == 0)
		*place = first_record(store, known);
	if (*place == NO_RECORD)
		return false;
	record = &store->records[*place - 1];
	version = SAGG_VERSION(store, record->version);
	change->entry = sagg_store_entry(store, sagg_stored_at(record->version));
	if (DsaPointerIsValid(sagg_version_before(version)))
		change->before = sagg_store_entry(store, sagg_stored_at(version->prev));
	else
		memset(&change->before, 0, sizeof(change->before));
	change->salt = record->slot;
	if (record->next > 0)
		*place = record->next;
	else if (known->start == SAGG_SHARED_UNIT)
		*place = next_shared_record(store, store->units[record->unit].next);
	else
		*place = NO_RECORD;
	return true;
}

/*
 * Returns whether the log has a unit by itself.
 */
bool
sagg_unit_has_chain(const SaggUnit *unit)
{
	return unit->log == SAGG_UNIT_OWN;
}

/*
 * Note that a unit that is being restored has a chain of its own.
 */
void
sagg_unit_set_chain(SaggUnit *unit)
{
	unit->log = SAGG_UNIT_OWN;
}
