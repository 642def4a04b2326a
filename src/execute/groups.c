/*-------------------------------------------------------------------------
 *
 * groups.c
 *	  The groups a batch works on, in private memory.
 *
 * A group is loaded from the store when the batch first meets it, with states
 * in the form that aggregate functions need, and is written back once, at the
 * end.  So the cost of a row does not depend on how states are stored, and
 * until the end the store equals the last commit (I3).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/memutils.h"

#include "batch_units.h"
#include "execute/window/session_windows.h"

/* how many slots ahead of a walk over all groups these are prefetched */
#define SLOTS_AHEAD		24

typedef struct GroupEntry
{
	SaggGroup  *group;
	uint32		hash;
	char		status;
} GroupEntry;

static bool groups_equal(SaggExecution *ex, const SaggGroup *a, const SaggGroup *b);

#define SH_PREFIX		grouptab
#define SH_ELEMENT_TYPE	GroupEntry
#define SH_KEY_TYPE		SaggGroup *
#define SH_KEY			group
#define SH_HASH_KEY(tb, key)	SAGG_SEEDED_HASH((key)->hash)
#define SH_EQUAL(tb, a, b)		groups_equal((tb)->private_data, a, b)
#define SH_SCOPE		static inline
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		((a)->hash)
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static bool
groups_equal(SaggExecution *ex, const SaggGroup *a, const SaggGroup *b)
{
	return a->start == b->start &&
		sagg_keys_equal(ex, a->keys, a->keynulls, b->keys, b->keynulls);
}

/*
 * Set up keys and an empty table of groups, in the execution's memory.
 */
void
sagg_groups_init(SaggExecution *ex)
{
	int			nkeys = Max(ex->query->nkeys, 1);

	ex->keys = sagg_keys_init(ex->query);
	ex->row_keys = palloc(sizeof(Datum) * nkeys);
	ex->row_keynulls = palloc(sizeof(bool) * nkeys);
	ex->groups = grouptab_create(ex->memory, 1024, ex);
}

/*
 * Returns whether the batch has met a group, given its start, hash and keys.
 */
bool
sagg_groups_met(SaggExecution *ex, SaggGroup *group)
{
	return grouptab_lookup_hash(ex->groups, group, SAGG_SEEDED_HASH(group->hash)) != NULL;
}

/*
 * Returns arrays for a group, in one piece of memory of the current context.
 * What a lookup compares comes first, so that it touches few cache lines.
 */
SaggGroup *
sagg_groups_allocate(SaggExecution *ex)
{
	int			nkeys = ex->query->nkeys;
	Size		keys = MAXALIGN(SAGG_HAS_SESSIONS(ex) ? sizeof(SaggSessionWindow) : sizeof(SaggGroup));
	Size		nulls = keys + sizeof(Datum) * nkeys;
	Size		states = MAXALIGN(nulls + nkeys);
	char	   *memory = palloc0(states + sizeof(SaggAggState) * ex->query->naggs);
	SaggGroup  *group = (SaggGroup *) memory;

	group->states = (SaggAggState *) (memory + states);
	group->keys = (Datum *) (memory + keys);
	group->keynulls = (bool *) (memory + nulls);
	return group;
}

/*
 * Returns the group's version in the store, if it has one.  Not for sessions.
 */
SaggStored
sagg_groups_stored(SaggExecution *ex, const SaggGroup *group)
{
	SaggUnit   *unit = sagg_store_unit(ex->store, SAGG_PARTITION_OF(group->hash),
									   group->start);
	MemoryContext old;
	uint32		step = 0;
	SaggStored	stored = SAGG_NOT_STORED;

	if (unit == NULL)
		return stored;
	old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	while (sagg_unit_probe_start(ex->store, unit, group->hash, group->start, &step, &stored))
	{
		SaggEntry	entry = sagg_store_entry(ex->store, stored);

		if (sagg_entry_has_keys(ex, entry.data, entry.len, group))
			break;
		stored = SAGG_NOT_STORED;
	}
	MemoryContextSwitchTo(old);
	return stored;
}

/*
 * Returns a group for the execution to keep, from the store or new.  "probe"
 * has its start and keys, and the hash of the batch; it gets the hash of the
 * store.  NULL if the group would be new and its keys are too long.
 */
static SaggGroup *
make_group(SaggExecution *ex, SaggGroup *probe)
{
	MemoryContext old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	SaggStored	stored;
	SaggGroup  *group;
	bool		deferred;

	probe->hash = sagg_keys_place(ex, probe->hash, probe->start, probe->keys, probe->keynulls);
	MemoryContextSwitchTo(old);
	deferred = sagg_group_is_deferred(ex, probe) &&
		sagg_keys_fit(ex, probe->keys, probe->keynulls);
	stored = deferred ? SAGG_NOT_STORED : sagg_groups_stored(ex, probe);
	if (!sagg_is_stored(stored) && !sagg_keys_fit(ex, probe->keys, probe->keynulls))
		return NULL;
	old = MemoryContextSwitchTo(ex->aggcontext->ecxt_per_tuple_memory);
	group = sagg_groups_allocate(ex);
	group->start = probe->start;
	group->hash = probe->hash;
	group->stored = stored;
	group->deferred = deferred;
	if (ex->units)
		sagg_batch_units_add(ex->units, group);
	if (sagg_is_stored(stored))
	{
		SaggEntry	entry = sagg_store_entry(ex->store, stored);

		sagg_group_memory_load(ex, entry.len);
		sagg_entry_read(ex, group, entry.data, entry.len, true);
	}
	else
	{
		for (int i = 0; i < ex->query->nkeys; i++)
		{
			group->keynulls[i] = probe->keynulls[i];
			if (!probe->keynulls[i])
				group->keys[i] = datumCopy(probe->keys[i], ex->keys[i].codec.byval,
										   ex->keys[i].codec.len);
		}
		sagg_states_init(ex, group->states);
	}
	MemoryContextSwitchTo(old);
	return group;
}

/*
 * Read the keys of a row of the inner query into the execution's scratch.
 */
static void
set_probe(SaggExecution *ex, SaggGroup *probe, int64 start,
		  const Datum *values, const bool *nulls)
{
	probe->start = start;
	probe->keys = ex->row_keys;
	probe->keynulls = ex->row_keynulls;
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		AttrNumber	attno = ex->query->keys[i].attno - 1;

		ex->row_keys[i] = values[attno];
		ex->row_keynulls[i] = nulls[attno];
	}
}

/*
 * Returns the hash of the group of a row of the inner query, in the window
 * that starts at "start".  Leaves its keys in the execution's scratch.
 */
uint32
sagg_groups_hash_row(SaggExecution *ex, int64 start,
					 const Datum *values, const bool *nulls)
{
	SaggGroup	probe;

	set_probe(ex, &probe, start, values, nulls);
	return sagg_keys_hash(ex, start, probe.keys, probe.keynulls);
}

/*
 * Add the group with the start, keys and hash of "probe" to those of the batch: it is
 * loaded from the store, or made.  Returns NULL if its keys are too long for a new
 * group.
 */
static SaggGroup *
add_group(SaggExecution *ex, SaggGroup *probe, uint32 hash)
{
	/* what can fail comes before the table is changed */
	SaggGroup  *group = make_group(ex, probe);
	bool		found;

	if (group == NULL)
		return NULL;
	(void) grouptab_insert_hash(ex->groups, group, hash, &found);
	Assert(!found);
	return group;
}

/*
 * Returns the group of a row; it is loaded from the store, or made, if the
 * batch has not met it yet.  "hash" is that of sagg_groups_hash_row.  The row
 * need not live on; the result lives as long as the execution.  NULL if the
 * keys, which are in the execution's scratch, are too long for a new group.
 */
SaggGroup *
sagg_groups_lookup_row(SaggExecution *ex, int64 start, uint32 hash,
					   const Datum *values, const bool *nulls)
{
	SaggGroup	probe;
	GroupEntry *entry;

	set_probe(ex, &probe, start, values, nulls);
	probe.hash = hash;
	entry = grouptab_lookup_hash(ex->groups, &probe, hash);
	return entry ? entry->group : add_group(ex, &probe, hash);
}

/*
 * The same for the start and keys of "probe", whose hash is that of sagg_keys_hash.
 */
SaggGroup *
sagg_groups_require(SaggExecution *ex, SaggGroup *probe)
{
	GroupEntry *entry = grouptab_lookup_hash(ex->groups, probe, probe->hash);

	return entry ? entry->group : add_group(ex, probe, probe->hash);
}

/*
 * Forget all groups, as if the batch had met none yet.
 */
void
sagg_groups_forget(SaggExecution *ex)
{
	grouptab_reset(ex->groups);
	if (ex->units)
		sagg_batch_units_forget(ex->units);
	ReScanExprContext(ex->aggcontext);
}

/*
 * Prefetch the hash table's slot of a hash, and then its group.
 */
void
sagg_groups_fetch_slot(SaggExecution *ex, uint32 hash)
{
	__builtin_prefetch(&ex->groups->data[hash & ex->groups->sizemask]);
}

static inline void
fetch_group(const SaggGroup *group)
{
	__builtin_prefetch(group);
	__builtin_prefetch((const char *) group + 64, 1);
	__builtin_prefetch((const char *) group + 128, 1);
}

/*
 * Prefetch the group of a hash, whose slot has been prefetched.  Returns false if
 * the batch has not met it.
 */
bool
sagg_groups_fetch(SaggExecution *ex, uint32 hash)
{
	uint32		mask = ex->groups->sizemask;

	for (uint32 i = hash & mask;; i = (i + 1) & mask)
	{
		const GroupEntry *entry = &ex->groups->data[i];

		if (entry->status != grouptab_SH_IN_USE)
			return false;
		if (entry->hash != hash)
			continue;
		fetch_group(entry->group);
		return true;
	}
}

/*
 * Prefetch the place in the store of the group of a row, which the batch has not
 * met.  "hash" is that of sagg_groups_hash_row.  May leave garbage in the current
 * context.
 */
void
sagg_groups_fetch_place(SaggExecution *ex, int64 start, uint32 hash,
						const Datum *values, const bool *nulls)
{
	SaggGroup	probe;

	set_probe(ex, &probe, start, values, nulls);
	sagg_store_fetch_place(ex->store, start,
						   sagg_keys_place(ex, hash, start, probe.keys, probe.keynulls));
}

/*
 * Returns the next of all groups the batch has met, and prefetches those that come
 * soon: neighbours in the table are not neighbours in memory.  With "to_store" also
 * their places in the store, once the groups are there.
 */
static inline SaggGroup *
next_group(SaggExecution *ex, bool restart, bool to_store)
{
	const GroupEntry *data = ex->groups->data;
	uint64		size = ex->groups->size;

	if (restart)
		ex->next_slot = 0;
	while (ex->next_slot < size)
	{
		uint64		slot = ex->next_slot++;
		uint64		soon = slot + SLOTS_AHEAD / 2;
		uint64		later = slot + SLOTS_AHEAD;

		if (later < size && data[later].status == grouptab_SH_IN_USE)
			fetch_group(data[later].group);
		if (to_store && soon < size && data[soon].status == grouptab_SH_IN_USE)
			sagg_store_fetch_place(ex->store, data[soon].group->start, data[soon].group->hash);
		if (data[slot].status == grouptab_SH_IN_USE)
			return data[slot].group;
	}
	return NULL;
}

/*
 * Returns the next of all groups the batch has met, in any order; NULL at the
 * end.
 */
SaggGroup *
sagg_groups_next(SaggExecution *ex, bool restart)
{
	return next_group(ex, restart, false);
}

/*
 * The same, for a caller that puts them into the store.
 */
SaggGroup *
sagg_groups_next_to_store(SaggExecution *ex, bool restart)
{
	return next_group(ex, restart, true);
}

/*
 * Returns the least start of the batch's groups, DT_NOEND = there are none.
 */
int64
sagg_groups_first_start(SaggExecution *ex)
{
	int64		first = DT_NOEND;

	for (SaggGroup *group = sagg_groups_next(ex, true); group;
		 group = sagg_groups_next(ex, false))
		first = Min(first, group->start);
	return first;
}

/*
 * Prefetch a group of a list that is gone through.
 */
void
sagg_group_fetch(const SaggGroup *group)
{
	fetch_group(group);
}

/*
 * Returns the groups that the batch has changed, in the current context.
 */
SaggGroup **
sagg_groups_changed(SaggExecution *ex, int64 *n)
{
	SaggGroup **groups = MemoryContextAllocHuge(CurrentMemoryContext,
												sizeof(SaggGroup *) * Max(ex->groups->members, 1));

	*n = 0;
	for (SaggGroup *group = sagg_groups_next(ex, true); group;
		 group = sagg_groups_next(ex, false))
	{
		if (group->changed)
			groups[(*n)++] = group;
	}
	CHECK_FOR_INTERRUPTS();
	return groups;
}
