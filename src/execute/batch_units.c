/*-------------------------------------------------------------------------
 *
 * batch_units.c
 *	  Groups of a batch by unit, where the state of the stream leaves memory.
 *
 * A batch whose groups are in more units than there is memory for must not
 * read a unit for each row.  So a group whose unit is out begins as if it were
 * new; at the end of the batch, unit by unit, the stored states are read and
 * those of the batch are combined with them, changed groups go to the store,
 * and a unit for which there is no memory goes to CHECKPOINT at once, whose
 * blobs wait for it in a temporary file.  Units that are in memory come first
 * and stay: so of the units that every batch needs, as many as fit are never
 * read.
 *
 * Where an aggregate cannot combine states, the unit is read with the first row
 * that needs it, and stays in memory until the end of the batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "batch_units.h"
#include "execute/window/window_kinds.h"

/* hashed as bytes: no padding */
typedef struct UnitKey
{
	int64		start;
	int64		partition;
} UnitKey;

typedef struct BatchUnit
{
	UnitKey		key;			/* must be first */
	SaggGroup  *groups;			/* list of them */
} BatchUnit;

struct SaggBatchUnits
{
	MemoryContext memory;
	HTAB	   *table;
	BatchUnit  *last[SAGG_STATE_PARTITIONS];	/* used last, or NULL */
};

/*
 * Returns the batch's units, none yet, in the current context.
 */
struct SaggBatchUnits *
sagg_batch_units_init(void)
{
	struct SaggBatchUnits *units = palloc0(sizeof(struct SaggBatchUnits));

	units->memory = AllocSetContextCreate(CurrentMemoryContext, "stream_agg units of a batch",
										  ALLOCSET_SMALL_SIZES);
	sagg_batch_units_forget(units);
	return units;
}

/*
 * Forget all groups.
 */
void
sagg_batch_units_forget(struct SaggBatchUnits *units)
{
	HASHCTL		control = {
		.keysize = sizeof(UnitKey),
		.entrysize = sizeof(BatchUnit)
	};

	MemoryContextReset(units->memory);
	control.hcxt = units->memory;
	units->table = hash_create("stream_agg units of a batch", 64, &control,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	memset(units->last, 0, sizeof(units->last));
}

/*
 * Add a group that the batch has met.
 */
void
sagg_batch_units_add(struct SaggBatchUnits *units, SaggGroup *group)
{
	int			partition = SAGG_PARTITION_OF(group->hash);
	BatchUnit  *unit = units->last[partition];

	if (unit == NULL || unit->key.start != group->start)
	{
		UnitKey		key = {group->start, partition};
		bool		found;

		unit = hash_search(units->table, &key, HASH_ENTER, &found);
		if (!found)
			unit->groups = NULL;
		units->last[partition] = unit;
	}
	group->next = unit->groups;
	unit->groups = group;
}

/*
 * Returns whether a group begins without its stored states, because its unit
 * is out.
 */
bool
sagg_group_is_deferred(const SaggExecution *ex, const SaggGroup *group)
{
	const SaggUnit *unit;

	if (!ex->defers)
		return false;
	unit = sagg_store_unit(ex->store, SAGG_PARTITION_OF(group->hash), group->start);
	return unit && !sagg_unit_in_memory(unit);
}

/*
 * Read the states of an entry, in the current context.
 */
static SaggAggState *
read_states(SaggExecution *ex, SaggEntry entry)
{
	SaggBytes	bytes = {entry.data, entry.data + entry.len};
	SaggAggState *states = palloc0(sizeof(SaggAggState) * Max(ex->query->naggs, 1));

	sagg_entry_skip_keys(ex, &bytes);
	for (int i = 0; i < ex->query->naggs; i++)
		sagg_state_read(ex, i, &bytes, &states[i]);
	return states;
}

/*
 * Combine the stored states of a deferred group with those of the batch.
 */
static void
settle_group(SaggExecution *ex, SaggGroup *group)
{
	MemoryContext old;
	SaggEntry	entry;
	SaggAggState *states;

	group->deferred = false;
	group->stored = sagg_groups_stored(ex, group);
	ResetExprContext(ex->tmpcontext);
	if (!sagg_is_stored(group->stored))
		return;
	entry = sagg_store_entry(ex->store, group->stored);
	sagg_group_memory_load(ex, entry.len);
	old = MemoryContextSwitchTo(ex->aggcontext->ecxt_per_tuple_memory);
	states = read_states(ex, entry);
	sagg_states_absorb(ex, states, group->states);
	memcpy(group->states, states, sizeof(SaggAggState) * ex->query->naggs);
	pfree(states);
	MemoryContextSwitchTo(old);
	ResetExprContext(ex->tmpcontext);
}

static void
settle_unit(SaggExecution *ex, const BatchUnit *unit)
{
	for (SaggGroup *group = unit->groups; group; group = group->next)
	{
		CHECK_FOR_INTERRUPTS();
		if (group->deferred)
			settle_group(ex, group);
	}
}

static void
store_unit(SaggExecution *ex, const BatchUnit *unit)
{
	if (sagg_store_closes(ex->store, unit->key.start))
		return;
	for (SaggGroup *group = unit->groups; group; group = group->next)
	{
		CHECK_FOR_INTERRUPTS();
		if (group->changed)
			sagg_group_store(ex, group);
	}
}

/*
 * The batch does not need a unit any more: if there is no memory for it, it
 * leaves.
 */
void
sagg_unit_release(SaggExecution *ex, SaggUnit *unit)
{
	SaggStateUnit state;

	if (unit == NULL || !sagg_store_is_over(ex->store) || !sagg_unit_in_memory(unit))
		return;
	if (sagg_unit_state(ex->store, unit, &state))
	{
		ex->spill_unit(ex->read_arg, &ex->access, &state);
		SAGG_FAILPOINT("execute.unit_spilled");
		sagg_unit_drop(ex->store, unit);
	}
	else
		sagg_unit_leave(ex->store, unit);
}

/*
 * Returns all units of the batch, those in memory first, or those of one
 * partition; in the current context.
 */
static BatchUnit **
units_in_order(SaggExecution *ex, int partition, int64 *n)
{
	BatchUnit **units = palloc(sizeof(BatchUnit *) * Max(hash_get_num_entries(ex->units->table), 1));
	int64		out = hash_get_num_entries(ex->units->table);
	int64		in = 0;
	HASH_SEQ_STATUS status;
	BatchUnit  *unit;

	hash_seq_init(&status, ex->units->table);
	while ((unit = hash_seq_search(&status)) != NULL)
	{
		const SaggUnit *stored;

		if (partition >= 0 && unit->key.partition != partition)
			continue;
		stored = sagg_store_unit(ex->store, (int) unit->key.partition, unit->key.start);
		if (stored && sagg_unit_in_memory(stored))
			units[in++] = unit;
		else
			units[--out] = unit;
	}
	*n = hash_get_num_entries(ex->units->table) - out;
	memmove(units + in, units + out, sizeof(BatchUnit *) * *n);
	*n += in;
	return units;
}

/*
 * Complete the groups of a partition, without writing them.
 */
void
sagg_batch_units_settle(SaggExecution *ex, int partition)
{
	int64		n;
	BatchUnit **units = units_in_order(ex, partition, &n);

	for (int64 i = 0; i < n; i++)
		settle_unit(ex, units[i]);
	pfree(units);
}

/*
 * Write the changed groups of a partition, and let its units go.
 */
void
sagg_batch_units_store(SaggExecution *ex, int partition)
{
	int64		n;
	BatchUnit **units = units_in_order(ex, partition, &n);
	SaggScan	scan;

	for (int64 i = 0; i < n; i++)
		store_unit(ex, units[i]);
	pfree(units);
	sagg_scan_known(&scan, ex->store);
	while (sagg_scan_next_unit(&scan))
	{
		if (scan.partition == partition)
			sagg_unit_release(ex, scan.unit);
	}
}

/*
 * Emit what append and complete emit of a unit of the batch.
 */
static void
emit_unit(SaggExecution *ex, const BatchUnit *unit)
{
	SaggScan	scan;

	for (SaggGroup *group = unit->groups; group; group = group->next)
	{
		sagg_emit_group(ex, group);
		ResetExprContext(ex->tmpcontext);
	}
	sagg_scan_unit(&scan, ex->store,
				   sagg_store_unit(ex->store, (int) unit->key.partition, unit->key.start));
	sagg_groups_emit_stored(ex, &scan);
}

/*
 * Append and complete: emit the units that the batch has not met.
 */
static void
emit_others(SaggExecution *ex)
{
	SaggScan	units;

	sagg_scan_known(&units, ex->store);
	while (sagg_scan_next_unit(&units))
	{
		UnitKey		key = {units.start, units.partition};
		SaggScan	scan;

		if (!sagg_emits_window(ex, units.start) ||
			hash_search(ex->units->table, &key, HASH_FIND, NULL) != NULL)
			continue;
		sagg_scan_unit(&scan, ex->store, units.unit);
		sagg_groups_emit_stored(ex, &scan);
		sagg_unit_release(ex, units.unit);
	}
}

/*
 * End the batch for groups that are emitted unchanged, unit by unit.  Mode
 * update emits the changed groups itself, behind this.
 */
void
sagg_batch_units_close(SaggExecution *ex)
{
	bool		emits = ex->stream->mode != SAGG_UPDATE;
	int64		n;
	BatchUnit **units = units_in_order(ex, -1, &n);

	for (int64 i = 0; i < n; i++)
	{
		settle_unit(ex, units[i]);
		if (emits && sagg_emits_window(ex, units[i]->key.start))
			emit_unit(ex, units[i]);
		store_unit(ex, units[i]);
		sagg_unit_release(ex, sagg_store_unit(ex->store, (int) units[i]->key.partition,
											  units[i]->key.start));
	}
	pfree(units);
	if (emits)
		emit_others(ex);
}
