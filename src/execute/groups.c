/*-------------------------------------------------------------------------
 *
 * groups.c
 *	  The groups a batch works on, in private memory.
 *
 * A group comes from the store when the batch first meets it, its states as
 * the aggregate functions want them, and goes back once, at the end.  So what
 * a row costs does not depend on how states are stored, and until that end
 * the store is as the last commit left it (I3).
 *
 * Keys are equal and hashed as GROUP BY would have it: by the operator of the
 * query and its hash function, under the key's collation; NULLs are equal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "executor/executor.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "execute_internal.h"

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
#define SH_HASH_KEY(tb, key)	((key)->hash)
#define SH_EQUAL(tb, a, b)		groups_equal((tb)->private_data, a, b)
#define SH_SCOPE		static inline
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a)		((a)->hash)
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/*
 * Whether two arrays of key values are those of the same group.
 */
bool
sagg_keys_equal(SaggExecution *ex, const Datum *a, const bool *anulls,
				const Datum *b, const bool *bnulls)
{
	for (int i = 0; i < ex->query->nkeys; i++)
	{
		if (anulls[i] != bnulls[i])
			return false;
		if (!anulls[i] &&
			!DatumGetBool(FunctionCall2Coll(&ex->keys[i].eq,
											ex->query->keys[i].collation,
											a[i], b[i])))
			return false;
	}
	return true;
}

static bool
groups_equal(SaggExecution *ex, const SaggGroup *a, const SaggGroup *b)
{
	return a->start == b->start &&
		sagg_keys_equal(ex, a->keys, a->keynulls, b->keys, b->keynulls);
}

/*
 * The hash of a group, from the start of its window and its keys.
 */
uint32
sagg_groups_hash_keys(SaggExecution *ex, int64 start, const Datum *keys,
					  const bool *nulls)
{
	uint32		hash = DatumGetUInt32(hash_any((unsigned char *) &start, sizeof(start)));

	for (int i = 0; i < ex->query->nkeys; i++)
	{
		uint32		key = nulls[i] ? 0 :
			DatumGetUInt32(FunctionCall1Coll(&ex->keys[i].hash,
											 ex->query->keys[i].collation, keys[i]));

		hash = hash_combine(hash, key);
	}
	return murmurhash32(hash);
}

/*
 * Set up keys and an empty table of groups, in the execution's memory.
 */
void
sagg_groups_init(SaggExecution *ex)
{
	int			nkeys = ex->query->nkeys;

	ex->keys = palloc0(sizeof(SaggKeyCall) * Max(nkeys, 1));
	for (int i = 0; i < nkeys; i++)
	{
		const SaggKey *key = &ex->query->keys[i];
		Oid			hash;
		Oid			ignore;

		if (!get_op_hash_functions(key->eqop, &hash, &ignore))
			elog(ERROR, "could not find hash function for operator %u", key->eqop);
		fmgr_info(hash, &ex->keys[i].hash);
		fmgr_info(get_opcode(key->eqop), &ex->keys[i].eq);
		sagg_codec_init(&ex->keys[i].codec, key->type, key->typmod);
	}
	ex->groups = grouptab_create(ex->memory, 1024, ex);
	ex->iterator = palloc0(sizeof(grouptab_iterator));
}

/*
 * Whether the batch has met a group, given its start, hash and keys.
 */
bool
sagg_groups_met(SaggExecution *ex, SaggGroup *group)
{
	return grouptab_lookup_hash(ex->groups, group, group->hash) != NULL;
}

/*
 * Arrays for a group, in one piece of memory of the current context.
 */
SaggGroup *
sagg_groups_allocate(SaggExecution *ex)
{
	int			nkeys = ex->query->nkeys;
	Size		states = MAXALIGN(sizeof(SaggGroup));
	Size		keys = states + MAXALIGN(sizeof(SaggAggState) * ex->query->naggs);
	Size		nulls = keys + sizeof(Datum) * nkeys;
	char	   *memory = palloc0(nulls + nkeys);
	SaggGroup  *group = (SaggGroup *) memory;

	group->states = (SaggAggState *) (memory + states);
	group->keys = (Datum *) (memory + keys);
	group->keynulls = (bool *) (memory + nulls);
	return group;
}

/*
 * The group's version in the store, or InvalidDsaPointer.
 */
dsa_pointer
sagg_groups_stored(SaggExecution *ex, const SaggGroup *group)
{
	SaggTable  *table = sagg_store_table(ex->store, SAGG_PARTITION_OF(group->hash),
										 group->start);
	MemoryContext old;
	uint32		step = 0;
	dsa_pointer dp = InvalidDsaPointer;

	if (table == NULL)
		return InvalidDsaPointer;
	old = MemoryContextSwitchTo(ex->tmpcontext->ecxt_per_tuple_memory);
	while (sagg_table_probe(ex->store, table, group->hash, &step, &dp))
	{
		SaggVersion *version = SAGG_VERSION(ex->store, dp);

		if (sagg_entry_has_keys(ex, version->entry, version->len, group))
			break;
		dp = InvalidDsaPointer;
	}
	MemoryContextSwitchTo(old);
	return dp;
}

/*
 * A group for the execution to keep, from the store or new.  "probe" has its
 * hash and keys.  NULL if it would be new and its keys are too long.
 */
static SaggGroup *
make_group(SaggExecution *ex, const SaggGroup *probe)
{
	dsa_pointer stored = sagg_groups_stored(ex, probe);
	MemoryContext old;
	SaggGroup  *group;

	if (!DsaPointerIsValid(stored) && !sagg_keys_fit(ex, probe))
		return NULL;
	old = MemoryContextSwitchTo(ex->aggcontext->ecxt_per_tuple_memory);
	group = sagg_groups_allocate(ex);
	group->start = probe->start;
	group->hash = probe->hash;
	group->stored = stored;
	if (DsaPointerIsValid(stored))
	{
		SaggVersion *version = SAGG_VERSION(ex->store, stored);

		sagg_entry_read(ex, group, version->entry, version->len, true);
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
 * The group of these keys in the window that starts at "start"; it is loaded
 * from the store, or made, if the batch has not met it yet.  "keys" need not
 * live on.  The result lives as long as the execution.  NULL if the keys are
 * too long for a new group.
 */
SaggGroup *
sagg_groups_lookup(SaggExecution *ex, int64 start, Datum *keys, bool *nulls)
{
	SaggGroup	probe;
	GroupEntry *entry;
	bool		found;

	probe.start = start;
	probe.keys = keys;
	probe.keynulls = nulls;
	probe.hash = sagg_groups_hash_keys(ex, start, keys, nulls);
	entry = grouptab_lookup_hash(ex->groups, &probe, probe.hash);
	if (entry == NULL)
	{
		/* what can fail comes before the table is changed */
		SaggGroup  *group = make_group(ex, &probe);

		if (group == NULL)
			return NULL;
		entry = grouptab_insert_hash(ex->groups, group, group->hash, &found);
		Assert(!found);
	}
	return entry->group;
}

/*
 * Forget all groups, as if the batch had met none yet.
 */
void
sagg_groups_forget(SaggExecution *ex)
{
	grouptab_reset(ex->groups);
	ReScanExprContext(ex->aggcontext);
}

/*
 * Go through all groups the batch has met, in any order; NULL at the end.
 */
SaggGroup *
sagg_groups_next(SaggExecution *ex, bool restart)
{
	GroupEntry *entry;

	if (restart)
		grouptab_start_iterate(ex->groups, ex->iterator);
	entry = grouptab_iterate(ex->groups, ex->iterator);
	return entry ? entry->group : NULL;
}
