/*-------------------------------------------------------------------------
 *
 * store.h
 *	  The state store as the rest of execute/ sees it.
 *
 * A store holds entries: bytes that entry.c writes and reads, each under a
 * hash.  Entries are in units, one for each window and partition of hashes; a
 * unit is found by its partition and a start.  Units need not be windows:
 * sessions, and keys that have been seen, have a start of their own kind.
 *
 * A batch reads entries, puts new ones, replaces and buries them.
 * sagg_store_publish makes all of that the store's state, and sagg_store_undo
 * takes it back (execute.h, I3).  One process uses a store at a time (I2).
 *
 * How a store is laid out in shared memory is known in execute/store/ only
 * (store_internal.h).
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGG_STORE_H
#define SAGG_STORE_H

#include "execute/execute.h"
#include "hash_seed.h"

/*
 * The hash of an entry: in the upper bits the partition of the store that it
 * belongs to, which the log contains and which never changes; the rest depends
 * on the store's secret seed, so nobody can choose keys that collide.
 */
#define SAGG_SEEDED_BITS		28
#define SAGG_SEEDED_HASH(hash)	((hash) & (((uint32) 1 << SAGG_SEEDED_BITS) - 1))
#define SAGG_PARTITION_OF(hash)	((int) ((hash) >> SAGG_SEEDED_BITS))

StaticAssertDecl(SAGG_STATE_PARTITIONS == 1 << (32 - SAGG_SEEDED_BITS),
				 "the upper bits of a hash are the partition");

/* The entries of one window in one partition. */
typedef struct SaggUnit SaggUnit;

/*
 * A version of an entry in a store.  It stays readable until the batch is
 * published or undone, also if the batch replaces or buries it.
 */
typedef struct SaggStored
{
	uint64		place;			/* internal to the store; 0 = none */
} SaggStored;

static inline SaggStored
sagg_stored_at(uint64 place)
{
	SaggStored	stored = {place};

	return stored;
}

#define SAGG_NOT_STORED		(sagg_stored_at(0))

static inline bool
sagg_is_stored(SaggStored stored)
{
	return stored.place != 0;
}

static inline bool
sagg_same_stored(SaggStored a, SaggStored b)
{
	return a.place == b.place;
}

/* The bytes of an entry, where they are stored, right behind their length. */
typedef struct SaggEntry
{
	const char *data;			/* NULL = there is no entry */
	uint32		len;
} SaggEntry;

/*
 * A walk over units and their entries, both in no particular order.  An entry
 * that is put into a unit during the walk may be seen or not.
 */
typedef struct SaggScan
{
	/* the current unit; read-only */
	SaggUnit   *unit;
	int64		start;			/* its start */
	SaggStored	stored;			/* the current entry, and its hash */
	uint32		hash;

	/* internal to the store */
	SaggStore  *store;
	int			partition;
	int			last_partition;
	uint64		place;			/* position in the unit */
	uint64		next_unit;
	uint32		slot;
} SaggScan;

/* What the batch has done to an entry. */
typedef struct SaggChange
{
	SaggEntry	entry;			/* the entry now */
	SaggEntry	before;			/* the entry before, without data if it is new */
	uint32		salt;			/* a number that differs between entries and
								 * is usually the same for one in every batch */
} SaggChange;

/* store.c */
extern void sagg_store_begin(SaggStore *store, int64 batch, const SaggWindow *window);
extern void sagg_store_close_until(SaggStore *store, TimestampTz time);
extern TimestampTz sagg_store_close_before(const SaggStore *store);
extern bool sagg_store_closes(const SaggStore *store, int64 start);
extern TimestampTz sagg_store_next_end(SaggStore *store);
extern const SaggHashSeed *sagg_store_seed(const SaggStore *store);
extern void sagg_store_set_seed(SaggStore *store, const SaggHashSeed *seed);
extern Size sagg_store_overhead(void);

/* store_access.c */
extern SaggEntry sagg_store_entry(SaggStore *store, SaggStored stored);
extern void sagg_store_prefetch(SaggStore *store, SaggStored stored);
extern void sagg_scan_store(SaggScan *scan, SaggStore *store);
extern void sagg_scan_partition(SaggScan *scan, SaggStore *store, int partition);
extern bool sagg_scan_next_unit(SaggScan *scan);
extern void sagg_scan_unit(SaggScan *scan, SaggStore *store, SaggUnit *unit);
extern bool sagg_scan_next(SaggScan *scan);
extern bool sagg_store_next_change(SaggStore *store, int partition, int64 *place,
								   SaggChange *change);
extern Size sagg_store_live_bytes(SaggStore *store, int partition);

/* store_directory.c */
extern SaggUnit *sagg_store_unit(SaggStore *store, int partition, int64 start);

/* store_unit.c */
extern bool sagg_unit_probe(SaggStore *store, const SaggUnit *unit, uint32 hash,
							uint32 *step, SaggStored *stored);
extern bool sagg_unit_probe_start(SaggStore *store, const SaggUnit *unit, uint32 hash,
								  int64 start, uint32 *step, SaggStored *stored);
extern void sagg_store_fetch_place(SaggStore *store, int64 start, uint32 hash);
extern SaggStored sagg_store_put(SaggStore *store, int64 start, uint32 hash,
								 SaggStored old, const char *entry, Size len);
extern void sagg_store_bury(SaggStore *store, int64 start, uint32 hash, SaggStored stored);
extern void sagg_store_remove(SaggStore *store, int64 start, uint32 hash, SaggStored stored);
extern void sagg_store_load(SaggStore *store, int64 start, uint32 hash,
							SaggStored old, const char *entry, Size len);

/* store_due.c */
extern void sagg_due_prepare(SaggStore *store);
extern int64 sagg_due_first(const SaggStore *store);
extern void sagg_due_add(SaggStore *store, int64 end, uint32 hash);
extern uint32 *sagg_due_take(SaggStore *store, int64 until, int64 *n);

#endif							/* SAGG_STORE_H */
