/*-------------------------------------------------------------------------
 *
 * store_directory.c
 *	  The windows of a partition of the store: a list, and a hash table by start.
 *
 * Most streams have few windows open, for which the list is enough.  But a
 * producer with a wrong clock, or a malicious one, makes as many as there are
 * records; so from some number on there is also a hash table.
 *
 * A window is added only after all memory for it is there, and removing one
 * allocates nothing: publish and undo do it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "execute/store/store_internal.h"

/* up to this many windows there is no hash table */
#define LIST_LENGTH		8

#define BUCKETS(store, directory) \
	((dsa_pointer *) dsa_get_address((store)->area, (directory)->buckets))

static inline dsa_pointer *
bucket_of(SaggStore *store, const SaggDirectory *directory, int64 start)
{
	uint64		hash = sagg_seeded_hash(&store->header->seed, (uint64) start);

	return &BUCKETS(store, directory)[hash & (directory->nbuckets - 1)];
}

/*
 * Returns the unit of a window, or InvalidDsaPointer.
 */
dsa_pointer
sagg_directory_find(SaggStore *store, int partition, int64 start)
{
	const SaggDirectory *directory = &store->header->partitions[partition];
	bool		hashed = directory->nbuckets > 0;
	dsa_pointer dp = hashed ? *bucket_of(store, directory, start) : directory->first;

	while (DsaPointerIsValid(dp))
	{
		const SaggUnit *unit = SAGG_UNIT(store, dp);

		if (unit->start == start)
			break;
		dp = hashed ? unit->chain : unit->next;
	}
	return dp;
}

/*
 * Returns the unit of a window in a partition, or NULL.
 */
SaggUnit *
sagg_store_unit(SaggStore *store, int partition, int64 start)
{
	dsa_pointer dp = sagg_directory_find(store, partition, start);

	return DsaPointerIsValid(dp) ? SAGG_UNIT(store, dp) : NULL;
}

static void
link_into_bucket(SaggStore *store, SaggDirectory *directory, dsa_pointer dp)
{
	SaggUnit   *unit = SAGG_UNIT(store, dp);
	dsa_pointer *bucket = bucket_of(store, directory, unit->start);

	unit->chain = *bucket;
	*bucket = dp;
}

/*
 * Make room for one more window in the hash table, or create the table when it
 * is needed.
 */
static void
grow_directory(SaggStore *store, SaggDirectory *directory)
{
	uint32		n = Max(4 * LIST_LENGTH, directory->nbuckets * 2);
	dsa_pointer buckets;

	if (directory->nunits < Max(LIST_LENGTH, directory->nbuckets))
		return;
	buckets = sagg_store_allocate(store, n * sizeof(dsa_pointer));
	if (directory->nbuckets > 0)
		dsa_free(store->area, directory->buckets);
	directory->buckets = buckets;
	directory->nbuckets = n;
	for (uint32 i = 0; i < n; i++)
		BUCKETS(store, directory)[i] = InvalidDsaPointer;
	for (dsa_pointer dp = directory->first; DsaPointerIsValid(dp);
		 dp = SAGG_UNIT(store, dp)->next)
		link_into_bucket(store, directory, dp);
}

/*
 * Add an empty unit, without slots, for a window that has none.  Raises
 * ERRCODE_SAGG_STATE_LIMIT.
 */
dsa_pointer
sagg_directory_add(SaggStore *store, int partition, int64 start)
{
	SaggDirectory *directory = &store->header->partitions[partition];
	dsa_pointer dp;
	SaggUnit   *unit;

	grow_directory(store, directory);
	dp = sagg_store_allocate(store, sizeof(SaggUnit));
	unit = SAGG_UNIT(store, dp);
	memset(unit, 0, sizeof(SaggUnit));
	unit->start = start;
	unit->partition = partition;
	unit->log = sagg_has_sessions(store) ? SAGG_UNIT_OWN : SAGG_UNIT_SHARES;
	unit->slots = InvalidDsaPointer;
	unit->prev = InvalidDsaPointer;
	unit->chain = InvalidDsaPointer;
	unit->next = directory->first;
	if (DsaPointerIsValid(unit->next))
		SAGG_UNIT(store, unit->next)->prev = dp;
	directory->first = dp;
	directory->nunits++;
	if (directory->nbuckets > 0)
		link_into_bucket(store, directory, dp);
	return dp;
}

static void
unlink_from_bucket(SaggStore *store, SaggDirectory *directory, dsa_pointer dp)
{
	const SaggUnit *unit = SAGG_UNIT(store, dp);
	dsa_pointer *link = bucket_of(store, directory, unit->start);

	while (*link != dp)
		link = &SAGG_UNIT(store, *link)->chain;
	*link = unit->chain;
}

/*
 * Remove a unit.  The hash table is removed with the last one.  The caller
 * frees its memory.
 */
void
sagg_directory_remove(SaggStore *store, int partition, dsa_pointer dp)
{
	SaggDirectory *directory = &store->header->partitions[partition];
	const SaggUnit *unit = SAGG_UNIT(store, dp);

	if (directory->nbuckets > 0)
		unlink_from_bucket(store, directory, dp);
	if (DsaPointerIsValid(unit->next))
		SAGG_UNIT(store, unit->next)->prev = unit->prev;
	if (DsaPointerIsValid(unit->prev))
		SAGG_UNIT(store, unit->prev)->next = unit->next;
	else
		directory->first = unit->next;
	directory->nunits--;
	if (directory->nunits == 0 && directory->nbuckets > 0)
	{
		dsa_free(store->area, directory->buckets);
		directory->buckets = InvalidDsaPointer;
		directory->nbuckets = 0;
	}
}
